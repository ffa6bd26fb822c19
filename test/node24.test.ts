import { assert, describe, it } from "@effect/vitest"
import { execFile } from "node:child_process"
import { fileURLToPath } from "node:url"
import { otherNode } from "./support/otherNodes.js"
import { print } from "./support/webSocketServer.js"

const root = fileURLToPath(new URL("..", import.meta.url))

const files = ["NodeTicketCache", "NodeTicketCacheFaults", "assumptions", "ticketAgent", "tlsSession", "tlsServers"]
  .map((name) => `test/${name}.test.ts`)

const run = (node: string) =>
  new Promise<{ readonly code: number; readonly output: string }>((resolve) => {
    const { FORCE_COLOR: _, VITEST: _inside, ...inherited } = process.env
    execFile(
      node,
      ["node_modules/vitest/vitest.mjs", "run", "--reporter", "default", ...files],
      { cwd: root, env: { ...inherited, HOLDFAST_FORM: "quick", NO_COLOR: "1" }, maxBuffer: 64 * 1024 * 1024 },
      (error, stdout, stderr) => {
        const code = error === null ? 0 : typeof error.code === "number" ? error.code : 1
        resolve({ code, output: stdout + stderr })
      }
    )
  })

describe("Node 24", () => {
  it(
    "resumes TLS sessions, and has the private parts that we lean on, as Node 20 does",
    { timeout: 600_000 },
    async (context) => {
      const node = await otherNode(24).catch((error: unknown) => {
        print(`skipped, no Node 24: ${String(error)}`)
        return context.skip(String(error))
      })
      const { code, output } = await run(node)
      const counts = output.split("\n").filter((line) => /^ *(Test Files|Tests) /.test(line)).map((line) => line.trim())
      print(`Node 24: ${counts.join(", ")}`)
      assert.strictEqual(code, 0, output.slice(-8_000))
      assert.match(counts.join(), /Test Files +\d+ passed/)
    }
  )
})
