/**
 * Programs that tests start in their own processes. A process needs more than a second of CPU to load TypeScript and
 * the modules of Effect one by one, and a tenth of that if they are bundled into one JavaScript file.
 */
import { build, type Plugin } from "esbuild"
import { createHash } from "node:crypto"
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs"
import { basename, join, relative } from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"
import { type CanaryName, withFault } from "./canaries.js"

const root = fileURLToPath(new URL("../..", import.meta.url))
const folder = join(root, "node_modules", ".cache", "holdfast", "programs")

/** The sources of a bundle, written in its first line. */
interface Origin {
  /** Digests of the files, by their paths in the repository. The lockfile stands for the files of other packages. */
  readonly files: Readonly<Record<string, string | undefined>>
  /** The programs that the program itself starts. */
  readonly programs: ReadonlyArray<string>
}

const bundles = new Map<string, Promise<string>>()

/**
 * The path of a bundle that Node can run. `program` names a TypeScript file. The bundle is kept in
 * `node_modules/.cache` for later runs, and made again when one of its sources has changed. With `?canary=name` the
 * program, and the programs that it starts, have that fault.
 */
export const bundled = (program: URL): Promise<string> => {
  const bundle = bundles.get(program.href) ?? fresh(program)
  bundles.set(program.href, bundle)
  return bundle
}

const fresh = async (program: URL): Promise<string> => {
  const path = relative(root, fileURLToPath(program))
  const canary = program.searchParams.get("canary") as CanaryName | null
  const file = join(
    folder,
    `${basename(path, ".ts")}-${digest(fileURLToPath(program) + program.search).slice(0, 8)}.mjs`
  )
  const origin = originOf(file)
  if (origin === undefined || !isUnchanged(origin)) await make(path, file, canary)
  else await Promise.all(origin.programs.map((program) => bundled(new URL(program))))
  return file
}

const make = async (path: string, file: string, canary: CanaryName | null): Promise<void> => {
  const programs: Array<string> = []
  const { metafile, outputFiles } = await build({
    absWorkingDir: root,
    entryPoints: [path],
    bundle: true,
    platform: "node",
    target: "node20",
    format: "esm",
    // CommonJS modules load Node's modules by `require`.
    banner: {
      js: `import * as nodeModule from "node:module"; const require = nodeModule.createRequire(import.meta.url)`
    },
    // Optional dependencies of `ws`.
    external: ["bufferutil", "utf-8-validate"],
    plugins: [startedPrograms(canary, (program) => programs.push(program))],
    logLevel: "error",
    metafile: true,
    write: false
  })
  const own = Object.keys(metafile.inputs).filter((input) => !input.startsWith("node_modules/"))
  const support = ["programs.ts", "canaries.ts"].map((file) => `test/support/${file}`)
  const others = ["package-lock.json", "tsconfig.json", ...canary === null ? support.slice(0, 1) : support]
  const origin: Origin = {
    files: Object.fromEntries([...own, ...others].map((path) => [path, digestOf(path)])),
    programs
  }
  mkdirSync(folder, { recursive: true })
  // Another worker may make the same bundle, and a process may be loading it.
  const unfinished = `${file}.${process.pid}.${Math.random()}`
  writeFileSync(unfinished, `//${JSON.stringify(origin)}\n${outputFiles[0]!.text}`)
  renameSync(unfinished, file)
}

/** A program that is started by `new URL("./program.ts", import.meta.url)` is bundled too. */
const startedPrograms = (canary: CanaryName | null, onFound: (program: string) => void): Plugin => ({
  name: "started programs",
  setup: ({ onLoad }) =>
    onLoad({ filter: /\.ts$/ }, async ({ path }) => {
      if (path.includes("/node_modules/")) return undefined
      let contents = readFileSync(path, "utf8")
      if (canary !== null) contents = withFault(canary, join(root, "src"), path, contents)
      for (const [expression, name] of contents.matchAll(/new URL\("(\.[^"]+\.ts)", import\.meta\.url\)/g)) {
        const program = new URL(canary === null ? name! : `${name}?canary=${canary}`, pathToFileURL(path))
        onFound(program.href)
        const bundle = pathToFileURL(await bundled(program))
        contents = contents.replace(expression, () => `new URL(${JSON.stringify(bundle.href)})`)
      }
      return { contents, loader: "ts" }
    })
})

const originOf = (file: string): Origin | undefined => {
  try {
    const text = readFileSync(file, "utf8")
    return JSON.parse(text.slice(2, text.indexOf("\n"))) as Origin
  } catch {
    return undefined
  }
}

const isUnchanged = ({ files }: Origin): boolean =>
  Object.entries(files).every(([path, digest]) => digestOf(path) === digest)

const digestOf = (path: string): string | undefined => {
  try {
    return digest(readFileSync(join(root, path)))
  } catch {
    return undefined
  }
}

const digest = (content: string | Uint8Array): string => createHash("sha256").update(content).digest("hex")
