/**
 * Other versions of Node, from the package manager. Their package is not a dependency of the project, because its
 * command would replace the `node` that runs the scripts.
 */
import { execFile } from "node:child_process"
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"

const run = promisify(execFile)

const cache = fileURLToPath(new URL("../../node_modules/.cache/holdfast", import.meta.url))
const folderOf = (major: Major): string => join(cache, `node-${major}`)
const binaryIn = (folder: string): string => join(folder, "node_modules", "node", "bin", "node")

export type Major = 22 | 24

/**
 * Another run that installs this version at the same time has its own folder. The first run to finish makes its folder
 * the common one.
 */
const install = async (major: Major): Promise<void> => {
  // By default the package manager retries for minutes if there is no network.
  await run("npm", ["view", `node@${major}`, "version", "--fetch-retries=0", "--fetch-timeout=2000"], { cwd: cache })
    .catch(() => {
      throw new Error("the package manager cannot reach its registry")
    })
  const folder = mkdtempSync(`${folderOf(major)}-`)
  try {
    await run("npm", ["install", "--prefix", folder, "--no-audit", "--no-fund", `node@${major}`], { cwd: folder })
    if (!existsSync(binaryIn(folder))) throw new Error("the package has come without a binary: its script has not run")
    try {
      renameSync(folder, folderOf(major))
    } catch (error) {
      if (!existsSync(binaryIn(folderOf(major)))) throw error
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/**
 * The path of the version's binary: the one that `HOLDFAST_NODE22` or `HOLDFAST_NODE24` names, or else one that is
 * installed once below `node_modules/.cache`. Rejects with the reason if there is none, for example without a network.
 */
export const otherNode = async (major: Major): Promise<string> => {
  const given = process.env[`HOLDFAST_NODE${major}`]
  const binary = given || binaryIn(folderOf(major))
  if (!given && !existsSync(binary)) {
    mkdirSync(cache, { recursive: true })
    await install(major)
  }
  const { stdout } = await run(binary, ["--version"])
  if (!stdout.startsWith(`v${major}.`)) throw new Error(`${binary} is ${stdout.trim()}`)
  return binary
}
