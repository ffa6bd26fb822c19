/** The package as it is published, in empty folders: the README's first minute, its entry points, and their types. */
import { assert, describe, it } from "@effect/vitest"
import { execFile } from "node:child_process"
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"
import { promisify } from "node:util"
import { otherNode } from "./support/otherNodes.js"
import { print } from "./support/webSocketServer.js"

const run = promisify(execFile)
const root = fileURLToPath(new URL("..", import.meta.url))
const readme = readFileSync(join(root, "README.md"), "utf8")

const { exports, peerDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
  readonly exports: Readonly<Record<string, unknown>>
  readonly peerDependencies: Readonly<Record<string, string>>
}

const entryPoints = Object.keys(exports)
  .filter((path) => path !== "./package.json")
  .map((path) => path.replace(/^\./, "effect-holdfast"))

const tsx = pathToFileURL(join(root, "node_modules", "tsx", "dist", "loader.mjs")).href

/** The words of the README's line, with the packed package in the place of the published one. */
const readmeWords = readme.match(/^npm install (effect-holdfast .+)$/m)![1]!.split(" ")

/** This Node, and the others that are there. */
const nodes = async (): Promise<ReadonlyArray<string>> => {
  const others = await Promise.all(
    ([22, 24] as const).map((major) =>
      otherNode(major).then((node) => [node], (error: unknown) => {
        print(`skipped, no Node ${major}: ${String(error)}`)
        return []
      })
    )
  )
  return [process.execPath, ...others.flat()]
}

let packed: Promise<string> | undefined

/** The packed package, in a folder of its own that stays until the process ends. It is built first. */
const pack = async (): Promise<string> => {
  const folder = mkdtempSync(join(tmpdir(), "holdfast-package-"))
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }))
  await run("npm", ["pack", "--pack-destination", folder], { cwd: root })
  return join(folder, readdirSync(folder).find((file) => file.endsWith(".tgz"))!)
}

/**
 * Installs the packed package with others in a new folder, and removes the folder in the end. Skips the test if the
 * registry cannot be reached.
 */
const inFolder = async (
  context: { readonly skip: (reason: string) => never },
  packages: ReadonlyArray<string>,
  use: (folder: string, output: string) => Promise<void>
): Promise<void> => {
  const folder = mkdtempSync(join(tmpdir(), "holdfast-app-"))
  try {
    const tarball = await (packed ??= pack())
    writeFileSync(join(folder, "package.json"), "{}\n")
    const installed = await run(
      "npm",
      ["install", tarball, ...packages, "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=0"],
      { cwd: folder }
    ).catch((error: { readonly stderr?: string }) => {
      const reason = /E(NOTFOUND|AI_AGAIN|CONNREFUSED|CONNRESET|TIMEDOUT|HOSTUNREACH)/.exec(error.stderr ?? "")?.[0]
      if (reason === undefined) throw error
      print(`skipped, the package manager cannot reach its registry (${reason}): the package in an empty folder`)
      return context.skip(reason)
    })
    await use(folder, installed.stdout + installed.stderr)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** Counts what each entry point exports; `testing/vitest` can be loaded only by vitest. */
const count = (load: "import" | "require") => `
const names = ${JSON.stringify(entryPoints.filter((name) => !name.endsWith("vitest")))}
const load = ${load === "import" ? "(name) => import(name)" : "require"}
Promise.all(names.map((name) => load(name))).then((modules) =>
  console.log(modules.map((module) => Object.keys(module).length).join()))
`

describe("the package", () => {
  it(
    "installs in an empty folder by the README's line, and runs the first program",
    { timeout: 1_200_000 },
    (context) =>
      inFolder(context, readmeWords.slice(1), async (folder, output) => {
        assert.notMatch(output, /ERESOLVE|peer|deprecated/i)
        const manifest = readFileSync(join(folder, "node_modules", "effect-holdfast", "package.json"), "utf8")
        assert.notMatch(manifest, /"(pre|post)?install":|"prepare":/)
        assert.notInclude(readdirSync(join(folder, "node_modules")), "vitest")
        copyFileSync(join(root, "examples", "first.ts"), join(folder, "first.mts"))
        for (const node of await nodes()) {
          const { stderr, stdout } = await run(node, ["--import", tsx, "first.mts"], { cwd: folder, timeout: 120_000 })
          assert.deepStrictEqual([stdout, stderr], ["200 served, 1 refresh\n", ""], node)
        }
      })
  )

  it(
    "has examples that run as they are, copied beside the packages that they import, and end by themselves",
    { timeout: 1_200_000 },
    (context) => {
      const others = Object.entries(peerDependencies).flatMap(([name, range]) =>
        name.includes("vitest") ? [] : [`${name}@${range}`]
      )
      return inFolder(context, [...others, "@effect/rpc@^0.76"], async (folder) => {
        const examples = join(folder, "node_modules", "effect-holdfast", "examples")
        assert.isFalse(existsSync(join(examples, "storm")))
        cpSync(examples, folder, { recursive: true })
        writeFileSync(join(folder, "package.json"), `{ "type": "module" }\n`)
        const programs = readdirSync(folder).filter((file) => {
          if (!file.endsWith(".ts")) return false
          const text = readFileSync(join(folder, file), "utf8")
          return /^await /m.test(text) && !/opentelemetry|\.\/certificates/.test(text)
        })
        assert.isAbove(programs.length, 8)
        for (const program of programs) {
          const { stderr, stdout } = await run(process.execPath, ["--import", tsx, program], {
            cwd: folder,
            timeout: 120_000
          })
          assert.deepStrictEqual([stdout.length > 0, stderr], [true, ""], program)
        }
      })
    }
  )

  it(
    "is imported and required on Node 20, 22 and 24, its types hold under TypeScript 5.9 and 7",
    { timeout: 1_200_000 },
    (context) => {
      const peers = Object.entries(peerDependencies).map(([name, range]) => `${name}@${range}`)
      const typescripts = ["typescript5@npm:typescript@~5.9", "typescript7@npm:typescript@^7", "@types/node@^20"]
      return inFolder(context, [...peers, ...typescripts, "@types/ws@^8"], async (folder) => {
        writeFileSync(join(folder, "count.mjs"), count("import"))
        writeFileSync(join(folder, "count.cjs"), count("require"))
        const counts = new Set<string>()
        for (const node of await nodes()) {
          for (const file of ["count.mjs", "count.cjs"]) counts.add((await run(node, [file], { cwd: folder })).stdout)
        }
        assert.strictEqual(counts.size, 1)

        for (
          const [typescript, names] of [
            ["typescript5", entryPoints],
            // The types of vitest 3 themselves do not hold under TypeScript 7.
            ["typescript7", entryPoints.filter((name) => !name.endsWith("vitest"))]
          ] as const
        ) {
          const uses = names.map((name, at) => `export * as all${at} from "${name}"\n`).join("")
          writeFileSync(join(folder, "uses.mts"), uses)
          for (const resolution of [["nodenext", "nodenext"], ["esnext", "bundler"]] as const) {
            const [module, moduleResolution] = resolution
            const compilerOptions = {
              module,
              moduleResolution,
              noEmit: true,
              strict: true,
              exactOptionalPropertyTypes: true,
              skipLibCheck: false,
              target: "es2022",
              lib: ["es2023", "dom", "dom.iterable"],
              types: ["node"]
            }
            writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions, files: ["uses.mts"] }))
            const tsc = join("node_modules", typescript, "bin", "tsc")
            const { stdout } = await run(process.execPath, [tsc], { cwd: folder })
              .catch((error: { readonly stdout: string }) => error)
            assert.strictEqual(stdout, "", `${typescript}, ${moduleResolution}`)
          }
        }
      })
    }
  )
})
