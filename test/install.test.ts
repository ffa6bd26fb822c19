/** The README's first minute in an empty folder, with the package as it is published. */
import { assert, describe, it } from "@effect/vitest"
import { execFile } from "node:child_process"
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"
import { promisify } from "node:util"
import { node24 } from "./support/node24.js"
import { print } from "./support/webSocketServer.js"

const run = promisify(execFile)
const root = fileURLToPath(new URL("..", import.meta.url))
const readme = readFileSync(join(root, "README.md"), "utf8")

/** The README's line, with the packed package in the place of the published one. */
const installs = (tarball: string): ReadonlyArray<string> =>
  readme.match(/^npm (install effect-holdfast .+)$/m)![1]!
    .split(" ")
    .map((word) => word === "effect-holdfast" ? tarball : word)

describe("the package", () => {
  it(
    "installs in an empty folder by the README's line, and runs the first program",
    { timeout: 600_000 },
    async (context) => {
      const folder = mkdtempSync(join(tmpdir(), "holdfast-app-"))
      try {
        await run("npm", ["pack", "--ignore-scripts", "--pack-destination", folder], { cwd: root })
        const tarball = `./${readdirSync(folder).find((file) => file.endsWith(".tgz"))!}`
        writeFileSync(join(folder, "package.json"), "{}\n")
        const installed = await run(
          "npm",
          [...installs(tarball), "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=0"],
          { cwd: folder }
        ).catch((error: { readonly stderr?: string }) => {
          const reason = /E(NOTFOUND|AI_AGAIN|CONNREFUSED|CONNRESET|TIMEDOUT|HOSTUNREACH)/.exec(error.stderr ?? "")?.[0]
          if (reason === undefined) throw error
          print(`skipped, the package manager cannot reach its registry (${reason}): the package in an empty folder`)
          return context.skip(reason)
        })
        assert.notMatch(installed.stdout + installed.stderr, /ERESOLVE|peer|deprecated/i)
        assert.notInclude(readdirSync(join(folder, "node_modules")), "vitest")
        copyFileSync(join(root, "examples", "first.ts"), join(folder, "first.mts"))
        const tsx = pathToFileURL(join(root, "node_modules", "tsx", "dist", "loader.mjs")).href
        for (const node of [process.execPath, ...await node24().then((node) => [node], () => [])]) {
          const { stderr, stdout } = await run(node, ["--import", tsx, "first.mts"], { cwd: folder, timeout: 120_000 })
          assert.deepStrictEqual([stdout, stderr], ["200 served, 1 refresh\n", ""], node)
        }
      } finally {
        rmSync(folder, { recursive: true, force: true })
      }
    }
  )
})
