/**
 * A Node 24, which the package manager has as a package: never one of the project's own, as its command would take the
 * place of the `node` that the scripts run by.
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { execFile } from "node:child_process"
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"

const run = promisify(execFile)

const cache = fileURLToPath(new URL("../../node_modules/.cache/holdfast", import.meta.url))
const installed = join(cache, "node-24")
const binaryIn = (folder: string): string => join(folder, "node_modules", "node", "bin", "node")

/** Whoever else installs it at the same time has a folder of its own, and the first to be done gives its to all. */
const install = async (): Promise<void> => {
  mkdirSync(cache, { recursive: true })
  const folder = mkdtempSync(join(cache, "node-24-"))
  try {
    await run("npm", ["install", "--prefix", folder, "--no-audit", "--no-fund", "node@24"], {
      cwd: folder,
      timeout: 120_000,
      killSignal: "SIGKILL"
    })
    if (!existsSync(binaryIn(folder))) throw new Error("the package has come without a binary: its script has not run")
    try {
      renameSync(folder, installed)
    } catch (error) {
      if (!existsSync(binaryIn(installed))) throw error
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

const find = async (): Promise<string> => {
  const given = process.env["HOLDFAST_NODE24"]
  const binary = given || binaryIn(installed)
  if (!given && !existsSync(binary)) await install()
  const { stdout } = await run(binary, ["--version"], { timeout: 10_000 })
  if (!stdout.startsWith("v24.")) throw new Error(`${binary} is ${stdout.trim()}`)
  return binary
}

let found: Promise<Either.Either<string, string>> | undefined

/**
 * The path of its binary: what `HOLDFAST_NODE24` says, or else one that is installed once below `node_modules/.cache`.
 * On the left why there is none: no network, for one.
 */
export const node24: Effect.Effect<Either.Either<string, string>> = Effect.promise(() =>
  found ??= find().then(Either.right, (error: unknown) => Either.left(String(error)))
)
