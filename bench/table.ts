import type { Summary } from "./interleave.js"

/** Prints a Markdown table that is also aligned as plain text. The first column is left-aligned, the others right. */
export const printTable = (
  title: string,
  header: ReadonlyArray<string>,
  rows: ReadonlyArray<ReadonlyArray<string>>
) => {
  const widths = header.map((name, column) => Math.max(name.length, 3, ...rows.map((row) => row[column]!.length)))
  const line = (cells: ReadonlyArray<string>) =>
    `| ${
      cells.map((cell, column) => column === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[column]!)).join(" | ")
    } |`
  console.log(`\n${title}\n`)
  console.log(line(header))
  console.log(line(widths.map((width, column) => column === 0 ? "-".repeat(width) : `${"-".repeat(width - 1)}:`)))
  for (const row of rows) console.log(line(row))
}

export const printTarget = (what: string, isReached: boolean, found: string) => {
  console.log(`${isReached ? "reached    " : "not reached"}  ${what}: ${found}`)
}

export const count = (n: number): string => n.toLocaleString("en-US")

/** `12.3 (11.9 to 12.8)`: the median and the quartiles. */
export const spread = ({ high, low, median }: Summary, digits: number, sign = false): string => {
  const number = (n: number) => `${sign && n >= 0 ? "+" : ""}${n.toFixed(digits)}`
  return `${number(median)} (${number(low)} to ${number(high)})`
}
