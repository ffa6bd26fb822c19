/** The programs of `examples` that a user would start from run as they stand, end by themselves, and print this. */
import { assert, describe, it, vi } from "@effect/vitest"
import { build } from "esbuild"
import { execFile } from "node:child_process"
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { fileURLToPath, pathToFileURL } from "node:url"
import { promisify } from "node:util"
import { bundled } from "./support/programs.js"

const root = new URL("../examples/", import.meta.url)
const read = (file: string): string => readFileSync(new URL(file, root), "utf8")

const printed: Readonly<Record<string, ReadonlyArray<string>>> = {
  "oauth-client": ["100 served, 2 grants: the first token, and one refresh for all"],
  "cookie-login": ["three parcels are on their way", "50 more, 2 logins in all"],
  "browser-session": [
    "30 pages as reader/1",
    "30 pages as reader/2",
    "30 pages as reader/3",
    "0 requests with another identity's cookies"
  ],
  "api-client": ["order 7: rope, with token 1", "order 8: not found"],
  "tenants": [
    "the orders of acme",
    "the orders of globex",
    "initech cannot sign in",
    "9 requests, 3 sign-ins"
  ],
  "restart": [
    "first life: access 1",
    "second life: access 1, then access 2",
    "sign in, exchange refresh 0, exchange refresh 1",
    "the file hides the token"
  ],
  "http-api-rollback": [
    `post /take/2: 200 {"shelf":8,"basket":2}`,
    "post /take/3: 500 Internal Server Error",
    `get /stock: 200 {"shelf":8,"basket":2}`
  ],
  "socket": [
    "12 orders confirmed, over several connections",
    "the server saw 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12"
  ],
  "rpc": ["the first server says 12", "the second server says 15"],
  "tls-tickets": [
    "whole, resumed, resumed, whole, resumed, resumed",
    "4 tickets offered, 4 resumed, none of them twice"
  ],
  "opentelemetry": [
    "read the orders",
    "  http.client GET 401",
    "    http.server GET 401",
    "  http.client GET 200",
    "    http.server GET 200",
    "Session.refresh of example",
    "Session.refresh of example",
    `holdfast_session_refreshes_total {"session":"example","outcome":"success"} 2`,
    `holdfast_session_waiters {"session":"example"} 1`
  ]
}

/** The lines that a module prints while it is imported. */
const printedBy = async (module: string): Promise<ReadonlyArray<string>> => {
  const lines: Array<string> = []
  const log = vi.spyOn(console, "log").mockImplementation((...words) => void lines.push(words.join(" ")))
  try {
    await import(/* @vite-ignore */ module)
  } finally {
    log.mockRestore()
  }
  return lines
}

describe("each example", () => {
  // In this process, since a process for each would take ten times as long. Each program ends with `await`, so that its
  // import ends when it does.
  it.each(Object.keys(printed))("%s prints its result", async (name) => {
    assert.deepStrictEqual(await printedBy(new URL(`${name}.ts`, root).href), printed[name])
  })

  const fleet = ["4 processes, 1 token", "1 sign-in, 1 refresh, 0 tokens presented twice"]

  it("fleet starts itself four times, and they use the refresh token once", async () => {
    const script = await bundled(new URL("../examples/fleet.ts", import.meta.url))
    const { stderr, stdout } = await promisify(execFile)(process.execPath, [script], { timeout: 60_000 })
    assert.deepStrictEqual([stdout, stderr], [`${fleet.join("\n")}\n`, ""])
  })

  it.each(["fleet", ...Object.keys(printed)])("%s has at most 80 lines, and says first what it shows", (name) => {
    const text = read(`${name}.ts`)
    assert.isAtMost(text.trimEnd().split("\n").length, 80)
    assert.match(text, /^\/\*\*\n \* [A-Z]/)
  })

  it("is listed in the index, and only there", () => {
    const index = [...read("README.md").matchAll(/^\| \[`([^`]+)`\]\(([^)]+)\) \| .+\. \|/gm)].map(([, name, path]) => {
      assert.strictEqual(name, path)
      return name!
    })
    const programs = readdirSync(root, { withFileTypes: true })
      .filter((entry) => entry.name !== "README.md")
      .map((entry) => entry.isDirectory() ? `${entry.name}/` : entry.name)
    assert.deepStrictEqual([...index].sort(), programs.sort())
  })

  it("prints what the pages of docs say", () => {
    const prints = /\(\.\.\/examples\/([\w-]+)\.ts\)[^`]*? prints:\n\n```\n([^]*?)```$/gm
    const documented = pages.flatMap((page) =>
      [...page.text.matchAll(prints)].map(([, name, output]) => ({ name, output }))
    )
    assert.isAbove(documented.length, 5)
    for (const { name, output } of documented) {
      assert.strictEqual(output, `${(name === "fleet" ? fleet : printed[name!]!).join("\n")}\n`, name)
    }
  })
})

const pages = readdirSync(new URL("../docs/", root))
  .filter((file) => file.endsWith(".md"))
  .map((file) => ({ file, text: readFileSync(new URL(`../docs/${file}`, root), "utf8") }))

describe("a block of docs that is followed by what it prints", () => {
  const followed = /^```ts\n((?:(?!^```$)[^])*)^```\n\n```\n([^]*?)^```$/gm
  const blocks = pages.flatMap(({ file, text }) =>
    [...text.matchAll(followed)].flatMap(([, code, output], at) =>
      // Only vitest can run a test.
      code!.includes("effect-holdfast/testing/vitest") ? [] : [{ name: `${file}_${at}`, code: code!, output: output! }]
    )
  )
  const folder = fileURLToPath(new URL("../node_modules/.cache/holdfast/blocks/", root))

  it.each(blocks)("prints that: $name", async ({ code, name, output }) => {
    const { outputFiles } = await build({
      stdin: { contents: code, resolveDir: fileURLToPath(root), loader: "ts" },
      bundle: true,
      platform: "node",
      format: "esm",
      external: ["effect", "@effect/*"],
      write: false,
      logLevel: "error"
    })
    mkdirSync(folder, { recursive: true })
    const file = `${folder}${name}-${process.pid}.mjs`
    writeFileSync(file, outputFiles[0]!.contents)
    assert.strictEqual(`${(await printedBy(pathToFileURL(file).href)).join("\n")}\n`, output)
  })
})
