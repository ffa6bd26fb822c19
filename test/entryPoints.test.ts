import { assert, describe, it } from "@effect/vitest"
import { build } from "esbuild"
import { readdirSync, readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))

const { exports } = JSON.parse(readFileSync(`${root}package.json`, "utf8")) as {
  readonly exports: Readonly<Record<string, string | Readonly<Record<string, string>>>>
}

/** The files of other packages that a module brings along, as far down as their own imports go. */
const dependenciesOf = async (module: string): Promise<ReadonlyArray<string>> => {
  const { metafile } = await build({
    absWorkingDir: root,
    entryPoints: [`src/${module}.ts`],
    bundle: true,
    platform: "node",
    format: "esm",
    metafile: true,
    write: false,
    logLevel: "error",
    // `ws` does without these two.
    external: ["bufferutil", "utf-8-validate"]
  })
  return Object.keys(metafile.inputs).flatMap((path) => /.*node_modules\/(.*)/.exec(path)?.[1] ?? [])
}

describe("each module for Node", () => {
  const modules = readdirSync(`${root}src/node`).flatMap((file) => /^(\w+)\.ts$/.exec(file)?.[1] ?? [])

  it.each(modules)("%s has an entry point of its own", (name) => {
    assert.deepStrictEqual(Object.entries(exports[`./node/${name}`]!), [
      ["types", `./dist/node/${name}.d.ts`],
      ["default", `./dist/node/${name}.js`]
    ])
  })

  it.each([
    ["NodeTicketCache", /^ws\/|NodeSocket/],
    ["NodeHttpSession", /^ws\/|NodeSocket/],
    ["NodeWebSocketDialer", /^@effect\/platform-node|^undici\//]
  ])("%s does without what only the others need", async (name, ofOthers) => {
    const dependencies = await dependenciesOf(`node/${name}`)
    assert.isTrue(dependencies.some((path) => path.startsWith("effect/")))
    assert.deepStrictEqual(dependencies.filter((path) => ofOthers.test(path)), [])
  })

  it("together need all of it: the patterns find what they look for", async () => {
    const dependencies = await dependenciesOf("node")
    for (const pattern of [/^ws\//, /^@effect\/platform-node\//, /^undici\//]) {
      assert.isTrue(dependencies.some((path) => pattern.test(path)))
    }
  })
})
