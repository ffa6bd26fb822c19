import * as Headers from "@effect/platform/Headers"
import type * as HttpClient from "@effect/platform/HttpClient"
import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import * as HttpSession from "effect-holdfast/HttpSession"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Session from "effect-holdfast/Session"
import * as SessionMap from "effect-holdfast/SessionMap"
import type * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import { build } from "esbuild"
import { readdirSync, readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { gzipSync } from "node:zlib"

const root = fileURLToPath(new URL("..", import.meta.url))

const { exports } = JSON.parse(readFileSync(`${root}package.json`, "utf8")) as {
  readonly exports: Readonly<Record<string, string | Readonly<Record<string, string>>>>
}

/** The files of other packages that a module imports, directly or through others. */
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
    ["FileSessionStore", /^ws\/|^@effect\/|^undici\//],
    ["NodeHttpSession", /^ws\/|NodeSocket/],
    ["NodeWebSocketDialer", /^@effect\/platform-node|^undici\//]
  ])("%s does not import what only other modules need", async (name, ofOthers) => {
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

describe("the values that a module makes", () => {
  it("needs no more when it is a service's own than elsewhere", () => {
    class Api extends Effect.Service<Api>()("Api", { scoped: Session.make({ acquire: Effect.succeed("token") }) }) {}
    class Tenants extends Effect.Service<Tenants>()("Tenants", {
      scoped: SessionMap.make({ lookup: (key: string) => ({ acquire: Effect.succeed(key) }) })
    }) {}
    class Feed extends Effect.Service<Feed>()("Feed", {
      scoped: ReconnectingSocket.make({ dial: { url: "ws://feed" } })
    }) {}
    class Site extends Effect.Service<Site>()("Site", {
      scoped: HttpSession.make({ identity: Effect.succeed({ headers: Headers.empty }), probe: "http://site" })
    }) {}
    expectTypeOf<Layer.Layer.Context<typeof Api.Default>>().toEqualTypeOf<never>()
    expectTypeOf<Layer.Layer.Context<typeof Tenants.Default>>().toEqualTypeOf<never>()
    expectTypeOf<Layer.Layer.Context<typeof Feed.Default>>().toEqualTypeOf<WebSocketDialer.WebSocketDialer>()
    expectTypeOf<Layer.Layer.Context<typeof Site.Default>>().toEqualTypeOf<HttpClient.HttpClient>()
  })
})

describe("the declarations of each entry point", () => {
  const modules = Object.values(exports).flatMap((entry) => typeof entry === "string" ? [] : [entry["types"]!])
  it("begin with the module's purpose: the compiler drops a comment together with the import below it", () => {
    assert.isAbove(modules.length, 15)
    for (const types of modules) {
      const source = readFileSync(`${root}${types.replace("./dist", "src").replace(".d.ts", ".ts")}`, "utf8")
      assert.match(source, /^\/\*\*(?:(?!\*\/)[^])*\*\/\n\n/, types)
    }
  })
})

describe("every export of a public module", () => {
  const modules = ["", "node/", "sql/", "redis/", "testing/"].flatMap((folder) =>
    readdirSync(`${root}src/${folder}`).filter((file) => file.endsWith(".ts")).map((file) => `${folder}${file}`)
  )

  const comment = /(\/\*\*\n(?:(?!\*\/)[^])*\*\/\n)?/
  const declaration = /^export (?:declare )?(?:abstract )?(?:const|class|interface|type|namespace) (\w+)/
  const both = new RegExp(comment.source + declaration.source, "gm")

  it.each(modules)("of %s is described by a sentence", (module) => {
    const declarations = readFileSync(`${root}src/${module}`, "utf8").matchAll(both)
    const silent = [...declarations].filter(([, comment = ""]) => {
      const [sentence] = comment.replace(/^\s*\/?\*+\/? ?/gm, "").split(/^@/m)
      return sentence!.trim() === "" && !comment.includes("@internal")
    })
    assert.deepStrictEqual(silent.map(([, , name]) => name), [])
  })
})

describe("each entry point exports at run time what its declarations say, and nothing else", () => {
  const sources = Object.values(exports).flatMap((entry) =>
    typeof entry === "string" ? [] : [entry["types"]!.replace("./dist", "src").replace(".d.ts", ".ts")]
  )

  it.each(sources)("%s", async (source) => {
    const text = readFileSync(`${root}${source}`, "utf8")
    assert.notMatch(text, /^export default/m)
    const declared = new Set<string>()
    // The compiler strips the types of what is internal, and leaves the code.
    const declarations = text.matchAll(
      /(\/\*\*(?:(?!\*\/)[^])*\*\/\n)?^export (declare )?(?:abstract )?(?:const|let|class|function\*?|enum) (\w+)/gm
    )
    for (const [, comment = "", , name] of declarations) if (!comment.includes("@internal")) declared.add(name!)
    for (const [, , name] of text.matchAll(/(\/\*\*(?:(?!\*\/)[^])*\*\/\n)?^export \* as (\w+) from/gm)) {
      declared.add(name!)
    }
    for (const [, names] of text.matchAll(/^export \{([^}]*)\}/gm)) {
      for (const part of names!.replace(/\/\*[^]*?\*\//g, "").split(",")) {
        const name = /(\w+)\s*$/.exec(part)?.[1]
        if (name !== undefined && !/^\s*type\s/.test(part)) declared.add(name)
      }
    }
    for (const [, module] of text.matchAll(/^export \* from "([^"]+)"/gm)) {
      for (const name of Object.keys(await import(/* @vite-ignore */ module!))) declared.add(name)
    }
    const atRunTime = Object.keys(await import(/* @vite-ignore */ `../${source}`))
    assert.deepStrictEqual(atRunTime.sort(), [...declared].sort())
  })
})

describe("the bundle of an application for browsers", () => {
  const figures = readFileSync(`${root}docs/figures.md`, "utf8")
  const stated = new Map(
    [...figures.matchAll(/^\| `effect-holdfast\/([\w/]+)` \| ([\d.]+) \|/gm)].map((
      [, name, size]
    ) => [name!, Number(size)])
  )

  it("grows by no more for each module than docs/figures.md says, and by not much less", async () => {
    const forNode = /^(node|sql|redis)\b|vitest|package/
    const modules = Object.keys(exports).map((path) => path.slice(2)).filter((name) => name && !forNode.test(name))
    const { outputFiles } = await build({
      absWorkingDir: root,
      entryPoints: modules.map((name) => `src/${name}.ts`),
      outdir: "out",
      bundle: true,
      minify: true,
      platform: "browser",
      format: "esm",
      // Only our own modules.
      external: ["effect", "@effect/*", "tough-cookie", "oauth4webapi"],
      write: false,
      logLevel: "error"
    })
    const sizes = outputFiles.map(({ contents, path }) => ({
      name: /out\/(.*)\.js$/.exec(path.replaceAll("\\", "/"))![1]!,
      size: gzipSync(contents).length / 1000
    }))
    assert.includeMembers(modules, [...stated.keys()])
    const wrong = sizes.filter(({ name, size }) => {
      const limit = stated.get(name)
      // A module that is not listed is a small one.
      return limit === undefined ? size > 12 : size > limit || size < limit * 0.7
    })
    assert.deepStrictEqual(wrong.map(({ name, size }) => `${name}: ${size.toFixed(1)}, not ${stated.get(name)}`), [])
  })
})
