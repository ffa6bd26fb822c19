/**
 * Programs that tests and benchmarks start in their own processes. A process needs more than a second of CPU to load
 * TypeScript and the modules of Effect one by one, and a tenth of that if they are bundled. One build bundles all of
 * them, before the first test (`globalSetup` of Vitest), since a build for each takes six times as long.
 */
import { build, type Plugin } from "esbuild"
import { createHash } from "node:crypto"
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from "node:fs"
import { join, relative, resolve } from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"
import { type CanaryName, withFault } from "./canaries.js"

const root = fileURLToPath(new URL("../..", import.meta.url))
const cache = join(root, "node_modules", ".cache", "holdfast", "programs")

/** By the name of the fault; `null` is the build without one. */
const builds = new Map<CanaryName | null, Promise<string>>()

/**
 * The path of a bundle that Node can run. `program` is a TypeScript file whose path a test, an example or a benchmark
 * gives to `new URL` as it stands, relative to `import.meta.url`. With `?canary=name` the program, and the programs
 * that it starts, have that fault.
 */
export const bundled = async (program: URL): Promise<string> =>
  bundleOf(fileURLToPath(program), await built(program.searchParams.get("canary") as CanaryName | null))

/** Builds all programs, without a fault. */
export default async (): Promise<void> => {
  await built(null)
}

const built = (canary: CanaryName | null): Promise<string> => {
  const folder = builds.get(canary) ?? make(canary)
  builds.set(canary, folder)
  return folder
}

/** The folder of the bundles. It is kept in `node_modules/.cache` for later runs, until a source has changed. */
const make = async (canary: CanaryName | null): Promise<string> => {
  const paths = ["src", "test", "examples", "bench"].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
      .filter((file) => file.endsWith(".ts"))
      .map((file) => join(root, folder, file))
  )
  const files = new Map(paths.sort().map((path) => [path, readFileSync(path, "utf8")]))
  const settings = ["package-lock.json", "tsconfig.json"].map((file) => readFileSync(join(root, file), "utf8"))
  const folder = join(cache, digest([canary ?? "", ...settings, ...[...files].flat()]))
  if (existsSync(folder)) return folder
  mkdirSync(cache, { recursive: true })
  removeOld()
  // Another process may make the same folder.
  const unfinished = `${folder}.${process.pid}.${Math.random()}`
  await build({
    absWorkingDir: root,
    entryPoints: [...new Set([...files].flatMap(([path, text]) => started(path, text).map(({ program }) => program)))],
    bundle: true,
    splitting: true,
    outdir: unfinished,
    outbase: root,
    outExtension: { ".js": ".mjs" },
    platform: "node",
    target: "node20",
    format: "esm",
    // CommonJS modules load Node's modules by `require`.
    banner: {
      js: `import * as nodeModule from "node:module"; const require = nodeModule.createRequire(import.meta.url)`
    },
    // Optional dependencies of `ws`.
    external: ["bufferutil", "utf-8-validate"],
    plugins: [ownSources(files, folder, canary)],
    logLevel: "error"
  })
  try {
    renameSync(unfinished, folder)
  } catch (error) {
    if (!existsSync(folder)) throw error
    rmSync(unfinished, { recursive: true })
  }
  return folder
}

/** Puts the fault into the sources, and has them start bundles instead of TypeScript files. */
const ownSources = (files: ReadonlyMap<string, string>, folder: string, canary: CanaryName | null): Plugin => ({
  name: "own sources",
  setup: ({ onLoad }) =>
    onLoad({ filter: /\.ts$/ }, ({ path }) => {
      let contents = files.get(path)
      if (contents === undefined) return undefined
      if (canary !== null) contents = withFault(canary, join(root, "src"), path, contents)
      for (const { expression, program } of started(path, contents)) {
        const bundle = pathToFileURL(bundleOf(program, folder)).href
        contents = contents.replace(expression, () => `new URL(${JSON.stringify(bundle)})`)
      }
      return { contents, loader: "ts" }
    })
})

/** The programs that a source names. */
const started = (path: string, text: string) =>
  [...text.matchAll(/new URL\("(\.[^"]+\.ts)", import\.meta\.url\)/g)]
    .map(([expression, name]) => ({ expression, program: resolve(path, "..", name!) }))

const bundleOf = (program: string, folder: string): string =>
  join(folder, relative(root, program).replace(/\.ts$/, ".mjs"))

/** A run that is going on may need a folder that another run has replaced. */
const removeOld = (): void => {
  for (const name of readdirSync(cache)) {
    const folder = join(cache, name)
    if (Date.now() - statSync(folder).mtimeMs > 3_600_000) rmSync(folder, { recursive: true, force: true })
  }
}

const digest = (texts: ReadonlyArray<string>): string =>
  createHash("sha256").update(JSON.stringify(texts)).digest("hex").slice(0, 16)
