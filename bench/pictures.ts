/**
 * Draws tables of `docs/figures.md` as bars, in `docs/figures/*.svg`: `npm run pictures`.
 *
 * The numbers are read from the tables, so a picture always agrees with its table.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { pathToFileURL } from "node:url"

interface Picture {
  /** The column of the table that is drawn, by its head. */
  readonly column: string
  readonly title: string
  /** `logarithmic` if the largest number would leave the other bars too short to be seen. */
  readonly scale: "linear" | "logarithmic"
}

const docs = new URL("../docs/", import.meta.url)

const all: Readonly<Record<string, Picture>> = {
  refreshes: {
    column: "refusals spread over 10 s",
    title: "Refreshes for 10,000 callers that are refused within 10 s",
    scale: "logarithmic"
  },
  waiters: {
    column: "1,000 waiters, ms",
    title: "Milliseconds until 1,000 waiting changes are made",
    scale: "logarithmic"
  },
  lost: {
    column: "lost",
    title: "Messages lost of 10,000, the server killed 20 times",
    scale: "logarithmic"
  },
  tickets: {
    column: "tickets offered again",
    title: "Tickets offered again in 9 bursts of 50 connections (OpenSSL)",
    scale: "linear"
  }
}

interface Row {
  readonly name: string
  readonly isOurs: boolean
  readonly text: string
  readonly value: number
}

const cellsOf = (line: string): ReadonlyArray<string> => line.split("|").slice(1, -1).map((cell) => cell.trim())

/** The rows of the first table that has the column, without those whose cell is empty. */
const rowsOf = (markdown: string, column: string): ReadonlyArray<Row> => {
  const lines = markdown.split("\n")
  const head = lines.findIndex((line) => line.startsWith("|") && cellsOf(line).includes(column))
  if (head < 0) throw new Error(`no table has the column "${column}"`)
  const index = cellsOf(lines[head]!).indexOf(column)
  const rows: Array<Row> = []
  for (const line of lines.slice(head + 2)) {
    if (!line.startsWith("|")) break
    const cells = cellsOf(line)
    const text = cells[index]!.replaceAll("*", "").split(" / ")[0]!
    if (text === "") continue
    const isOurs = cells[0]!.startsWith("**")
    rows.push({ name: cells[0]!.replace(/[*`]/g, ""), isOurs, text, value: Number(text.replaceAll(",", "")) })
  }
  return rows
}

const escaped = (text: string): string => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;")

const [width, left, barsWidth, rowHeight, top] = [900, 430, 380, 26, 52]

const drawn = ({ column, scale, title }: Picture, markdown: string): string => {
  const rows = rowsOf(markdown, column)
  const grown = (value: number) => scale === "linear" ? value : Math.log10(1 + value)
  const largest = Math.max(...rows.map(({ value }) => grown(value)))
  const height = top + rows.length * rowHeight + 12
  const bars = rows.map(({ isOurs, name, text, value }, row) => {
    const y = top + row * rowHeight
    const length = Math.max(2, Math.round(grown(value) / largest * barsWidth))
    return [
      `<g${isOurs ? ` class="ours"` : ""}>`,
      `<text x="${left - 10}" y="${y + 15}" text-anchor="end">${escaped(name)}</text>`,
      `<rect x="${left}" y="${y + 3}" width="${length}" height="16" rx="2"/>`,
      `<text x="${left + length + 8}" y="${y + 15}">${escaped(text)}</text>`,
      "</g>"
    ].join("")
  })
  const hint = `less is better${scale === "linear" ? "" : "; logarithmic scale"}`
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img" aria-label="${
      escaped(title)
    }">`,
    "<style>",
    "svg { background: #fff } text { font: 13px system-ui, sans-serif; fill: #24292f } rect { fill: #9aa4af }",
    ".title { font-size: 16px; font-weight: 600 } .hint { fill: #57606a }",
    ".ours rect { fill: #0a7d5c } .ours text { font-weight: 600 }",
    "@media (prefers-color-scheme: dark) {",
    "svg { background: #0d1117 } text { fill: #e6edf3 } rect { fill: #6e7781 } .hint { fill: #9198a1 }",
    ".ours rect { fill: #2fbf91 } }",
    "</style>",
    `<text class="title" x="12" y="24">${escaped(title)}</text>`,
    `<text class="hint" x="12" y="43">${hint}</text>`,
    ...bars,
    "</svg>\n"
  ].join("\n")
}

/** The text of each picture, by its path from `docs`. */
export const pictures = (): Readonly<Record<string, string>> => {
  const markdown = readFileSync(new URL("figures.md", docs), "utf8")
  return Object.fromEntries(Object.entries(all).map(([name, one]) => [`figures/${name}.svg`, drawn(one, markdown)]))
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  mkdirSync(new URL("figures/", docs), { recursive: true })
  for (const [path, text] of Object.entries(pictures())) writeFileSync(new URL(path, docs), text)
}
