/** The programs of `examples` that a user would start from run as they stand, end by themselves, and print this. */
import { assert, describe, it, vi } from "@effect/vitest"
import { execFile } from "node:child_process"
import { readdirSync, readFileSync } from "node:fs"
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

describe("each example", () => {
  // In this process: to start one for each takes ten times as long. They end with `await`, so that importing them does.
  it.each(Object.keys(printed))("%s prints what it is about", async (name) => {
    const lines: Array<string> = []
    const log = vi.spyOn(console, "log").mockImplementation((...words) => void lines.push(words.join(" ")))
    try {
      await import(/* @vite-ignore */ new URL(`${name}.ts`, root).href)
    } finally {
      log.mockRestore()
    }
    assert.deepStrictEqual(lines, printed[name])
  })

  it("fleet starts itself four times, and they use the refresh token once", async () => {
    const script = await bundled(new URL("fleet.ts", root))
    const { stderr, stdout } = await promisify(execFile)(process.execPath, [script], { timeout: 60_000 })
    assert.deepStrictEqual(stdout.split("\n"), [
      "4 processes, 1 token",
      "1 sign-in, 1 refresh, 0 tokens presented twice",
      ""
    ])
    assert.strictEqual(stderr, "")
  })

  it.each(["fleet", ...Object.keys(printed)])("%s has at most 80 lines, and says first what it shows", (name) => {
    const text = read(`${name}.ts`)
    assert.isAtMost(text.trimEnd().split("\n").length, 80)
    assert.match(text, /^\/\*\*\n \* [A-Z]/)
  })

  it("stands in the index, and in it alone", () => {
    const index = [...read("README.md").matchAll(/^\| \[`([^`]+)`\]\(([^)]+)\) \| .+\. \|/gm)].map(([, name, path]) => {
      assert.strictEqual(name, path)
      return name!
    })
    const programs = readdirSync(root, { withFileTypes: true })
      .filter((entry) => entry.name !== "README.md")
      .map((entry) => entry.isDirectory() ? `${entry.name}/` : entry.name)
    assert.deepStrictEqual([...index].sort(), programs.sort())
  })
})
