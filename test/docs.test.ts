import { assert, describe, it } from "@effect/vitest"
import { readdirSync, readFileSync } from "node:fs"
import { join, resolve } from "node:path"
import ts from "typescript"

const root = resolve(import.meta.dirname, "..")

const sources = readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" })
  .filter((file) => file.endsWith(".ts"))
  .map((file) => join("src", file))

const pages = [
  "README.md",
  ...readdirSync(join(root, "docs")).filter((file) => file.endsWith(".md")).map((file) => join("docs", file))
]

/** The TypeScript examples of a file, each as a module of its own beside the sources. */
const examplesIn = (file: string) =>
  [...readFileSync(join(root, file), "utf8").matchAll(/^( \* |)```ts\n([\s\S]*?)^\1```$/gm)].map((
    [, prefix, code],
    i
  ) => ({
    name: join(root, `${file.replaceAll(/[./\\]/g, "_")}_${i}.ts`),
    code: code!.replaceAll(new RegExp(`^${prefix!.replaceAll("*", "\\*").trimEnd()} ?`, "gm"), "")
  }))

describe("the declarations that are published", () => {
  it("name what each entry point exports at run time", async () => {
    const { config } = ts.readConfigFile(join(root, "tsconfig.build.json"), (path) => ts.sys.readFile(path))
    const { fileNames, options } = ts.parseJsonConfigFileContent(config, ts.sys, root)
    const emitted = new Map<string, string>()
    const emitting = ts.createCompilerHost(options)
    emitting.writeFile = (path, text) => emitted.set(path, text)
    ts.createProgram(fileNames, { ...options, emitDeclarationOnly: true }, emitting).emit()

    // A second program reads the declarations where the first would have written them.
    const reading = ts.createCompilerHost(options)
    const { fileExists, getSourceFile, readFile } = reading
    reading.fileExists = (path) => emitted.has(path) || fileExists(path)
    reading.readFile = (path) => emitted.get(path) ?? readFile(path)
    reading.getSourceFile = (path, version, ...rest) => {
      const text = emitted.get(path)
      return text === undefined ? getSourceFile(path, version, ...rest) : ts.createSourceFile(path, text, version)
    }
    const { exports } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
      readonly exports: Readonly<Record<string, string | { readonly types: string }>>
    }
    const entries = Object.values(exports).flatMap((entry) => typeof entry === "string" ? [] : [entry.types])
    const declarations = entries.map((types) => join(root, types))
    const program = ts.createProgram(declarations, { ...options, noEmit: true }, reading)
    const checker = program.getTypeChecker()
    for (const types of entries) {
      const module = checker.getSymbolAtLocation(program.getSourceFile(join(root, types))!)!
      const typed: Array<string> = []
      // Exported from another package, which documents its own declarations.
      const foreign = new Set<string>()
      for (const symbol of checker.getExportsOfModule(module)) {
        const target = (symbol.flags & ts.SymbolFlags.Alias) === 0 ? symbol : checker.getAliasedSymbol(symbol)
        if ((target.flags & ts.SymbolFlags.Value) === 0) continue
        const isOwn = target.declarations?.some((declaration) => emitted.has(declaration.getSourceFile().fileName))
        if (isOwn) typed.push(symbol.name)
        else foreign.add(symbol.name)
      }
      const source = types.replace("./dist", "../src").replace(".d.ts", ".ts")
      const atRunTime = Object.keys(await import(/* @vite-ignore */ source))
      assert.deepStrictEqual(typed.sort(), atRunTime.filter((name) => !foreign.has(name)).sort(), types)
    }
  }, 600_000)
})

describe("the documentation", () => {
  it("has examples that compile under the strictest settings", () => {
    const examples = [...sources, ...pages].flatMap(examplesIn)
    assert.isAbove(examples.length, 10)
    const { config } = ts.readConfigFile(join(root, "tsconfig.json"), (path) => ts.sys.readFile(path))
    const { options } = ts.parseJsonConfigFileContent(config, ts.sys, root)
    // An example may declare values that it does not use.
    const host = ts.createCompilerHost({ ...options, noUnusedLocals: false })
    const { fileExists, getSourceFile, readFile } = host
    const find = (path: string) => examples.find(({ name }) => name === path)?.code
    host.fileExists = (path) => find(path) !== undefined || fileExists(path)
    host.readFile = (path) => find(path) ?? readFile(path)
    host.getSourceFile = (path, version, ...rest) => {
      const code = find(path)
      return code === undefined ? getSourceFile(path, version, ...rest) : ts.createSourceFile(path, code, version)
    }
    const program = ts.createProgram(examples.map(({ name }) => name), { ...options, noUnusedLocals: false }, host)
    const problems = examples.flatMap(({ name }) =>
      ts.getPreEmitDiagnostics(program, program.getSourceFile(name)).map((problem) =>
        `${name}: ${ts.flattenDiagnosticMessageText(problem.messageText, "\n")}`
      )
    )
    assert.deepStrictEqual(problems, [])
  }, 600_000)

  it("gives every public function an example, and every export a version and a category", () => {
    for (const file of sources.filter((file) => !/internal|index\.ts$|node\.ts$/.test(file))) {
      const text = readFileSync(join(root, file), "utf8")
      for (
        const [, comment, name] of text.matchAll(
          /\/\*\*((?:(?!\*\/)[\s\S])*?)\*\/\nexport (?:const|class|interface|type|declare namespace) (\w+)/g
        )
      ) {
        if (comment!.includes("@internal")) continue
        assert.include(comment, "@since", `${file} ${name}`)
        assert.include(comment, "@category", `${file} ${name}`)
        if (/@category (?:constructors|combinators|layers|testing)/.test(comment!)) {
          assert.include(comment, "@example", `${file} ${name}`)
        }
      }
    }
  })
})
