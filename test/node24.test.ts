import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { execFile } from "node:child_process"
import { existsSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { node24 } from "./support/node24.js"
import { print } from "./support/webSocketServer.js"

const root = fileURLToPath(new URL("..", import.meta.url))

const files = ["NodeTicketCache", "NodeTicketCacheFaults", "tlsSession"]
  .map((name) => `test/${name}.test.ts`)
  .filter((file) => existsSync(`${root}/${file}`))

const run = (node: string) =>
  Effect.async<{ readonly code: number; readonly output: string }>((resume) => {
    const { FORCE_COLOR: _, VITEST: _inside, ...inherited } = process.env
    const child = execFile(
      node,
      ["node_modules/vitest/vitest.mjs", "run", "--reporter", "default", ...files],
      { cwd: root, env: { ...inherited, NO_COLOR: "1" }, maxBuffer: 64 * 1024 * 1024 },
      (error, stdout, stderr) => {
        const code = error === null ? 0 : typeof error.code === "number" ? error.code : 1
        resume(Effect.succeed({ code, output: stdout + stderr }))
      }
    )
    return Effect.sync(() => child.kill("SIGKILL"))
  })

describe("Node 24", () => {
  it.live("resumes TLS sessions, and reads them, as Node 20 does", (context) =>
    Effect.gen(function*() {
      const found = yield* node24
      if (Either.isLeft(found)) {
        print(`no Node 24: ${found.left}`)
        return context.skip(found.left)
      }
      const { code, output } = yield* run(found.right)
      const counts = output.split("\n").filter((line) => /^ *(Test Files|Tests) /.test(line)).map((line) => line.trim())
      print(`Node 24: ${counts.join(", ")}`)
      assert.strictEqual(code, 0, output.slice(-8_000))
      assert.match(counts.join(), /Test Files +\d+ passed/)
    }), 300_000)
})
