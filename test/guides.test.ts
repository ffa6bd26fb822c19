/** The guides, for users and for contributors, agree with the repository. */
import { assert, describe, it } from "@effect/vitest"
import { ConnectionClosed, type ConnectionFailure, DialError } from "effect-holdfast/WebSocketDialer"
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { isRetryable } from "../src/internal/socket/policy.js"

const root = fileURLToPath(new URL("..", import.meta.url))
const read = (file: string): string => readFileSync(join(root, file), "utf8")

const guides = [
  "CONTRIBUTING.md",
  "examples/storm/README.md",
  ...readdirSync(join(root, "docs")).filter((file) => file.endsWith(".md")).map((file) => `docs/${file}`)
]

describe("the guides", () => {
  it.each(guides)("%s names files that exist", (guide) => {
    const text = read(guide)
    const named = [...text.matchAll(/`((?:src|test|bench|examples|docs)\/[\w./-]*\w\/?)`/g)].map(([, path]) => path!)
    const linked = [...text.matchAll(/\]\((?!https:)([^)#:]+)[^)]*\)/g)].map(([, path]) => join(dirname(guide), path!))
    const exists = (path: string) => existsSync(join(root, path)) || existsSync(join(root, `${path}.test.ts`))
    assert.deepStrictEqual([...named, ...linked].filter((path) => !exists(path)), [])
  })

  it.each(guides)("%s names scripts that exist", (guide) => {
    const { scripts } = JSON.parse(read("package.json")) as { readonly scripts: Readonly<Record<string, string>> }
    const named = [...read(guide).matchAll(/npm run ([\w:-]+)/g)].map(([, script]) => script!)
    assert.deepStrictEqual(named.filter((script) => !Object.hasOwn(scripts, script)), [])
  })
})

describe("docs/architecture.md", () => {
  const text = read("docs/architecture.md")
  const rows = [...text.matchAll(/^\| (`src\/.+) \| .+ \|$/gm)].map(([, cells]) => cells!)
  const filesIn = (folder: string): ReadonlyArray<string> =>
    readdirSync(join(root, folder), { withFileTypes: true })
      .map((entry) => `${folder}/${entry.name}${entry.isDirectory() ? "/" : ""}`)

  it("has a row for each room and each shared file of `src/internal`, and for the room of `src/node`", () => {
    const rooms = [...filesIn("src/internal"), "src/node/internal/"]
    assert.deepStrictEqual(rooms.filter((room) => !rows.some((row) => row.includes(`\`${room}\``))), [])
  })

  it("shows each public module, or its folder, on a floor", () => {
    const [, floors] = /^```\n(floor 5[^`]+(?:`\w[^`]*`[^`]*)*)```$/m.exec(text)!
    const folders = ["node", "sql", "redis", "testing"]
    const modules = filesIn("src")
      .map((file) => file.replace(/^src\/|\.ts$/g, ""))
      .filter((name) => !["index", "internal/", ...folders].includes(name))
    const shown = (name: string) => new RegExp(`\\b${name.replace("/", "/…")}`).test(floors!)
    assert.isAbove(modules.length, 15)
    assert.deepStrictEqual(modules.filter((name) => !shown(name)), [])
  })
})

describe("docs/errors.md", () => {
  const rows = new Map(
    [...read("docs/errors.md").matchAll(/^\| `(\w+)` \|([^|]*)\|/gm)].map(([, tag, fields]) =>
      [tag!, [...fields!.matchAll(/`(\w+)`/g)].map(([, field]) => field!)] as const
    )
  )

  it("has a row for each error of the sockets, with its fields", () => {
    const classes = [
      ...read("src/internal/socket/errors.ts").matchAll(/ extends Data\.TaggedError\("(\w+)"\)<(\{[^}]*\})>/g)
    ]
    assert.isAbove(classes.length, 7)
    for (const [, tag, fields] of classes) {
      assert.deepStrictEqual(rows.get(tag!), [...fields!.matchAll(/readonly (\w+)/g)].map(([, field]) => field!), tag)
    }
  })

  it("has a row for each error that an entry point exports", async () => {
    const { exports } = JSON.parse(read("package.json")) as {
      readonly exports: Readonly<Record<string, string | { readonly types: string }>>
    }
    const tags = new Set<string>()
    for (const entry of Object.values(exports)) {
      if (typeof entry === "string") continue
      const source = entry.types.replace("./dist", "../src").replace(".d.ts", ".ts")
      for (const [name, value] of Object.entries(await import(/* @vite-ignore */ source))) {
        if (typeof value === "function" && value.prototype instanceof Error) tags.add(name)
      }
    }
    assert.isAbove(tags.size, 25)
    assert.deepStrictEqual([...tags].filter((tag) => !rows.has(tag)), [])
  }, 600_000)
})

describe("the guides for users name", () => {
  const text = guides.filter((guide) => guide.startsWith("docs/")).map(read).join("\n")
  const code = [...text.matchAll(/```[^]*?```|`[^`]+`/g)].join("\n")
  const isNamed = (name: string) => new RegExp(`\\b${name}\\b`).test(code)
  const folders = ["src", "src/node", "src/redis", "src/sql", "src/testing"]
  const modules = folders.flatMap((folder) =>
    readdirSync(join(root, folder)).filter((file) => file.endsWith(".ts")).map((file) => `${folder}/${file}`)
  )

  const optionsOf = (module: string): ReadonlyArray<string> => {
    const interfaces = read(module).matchAll(
      /^export interface (?:\w*Options|Limits|Persist\w*)\b(?:[^{\n]|\n(?! *readonly))*\{\n([^]*?)^\}/gm
    )
    const bodies = [...interfaces].map(([, body]) => body!).join("")
    return Array.from(bodies.matchAll(/^ {2}readonly (\w+)\??:/gm), ([, name]) => name!)
  }

  it.each(modules.filter((module) => optionsOf(module).length > 0))("each option of %s", (module) => {
    assert.deepStrictEqual(optionsOf(module).filter((name) => !isNamed(name)), [])
  })

  it("options of many modules: the pattern finds them", () => {
    assert.isAbove(modules.flatMap(optionsOf).length, 100)
  })

  it("each span", () => {
    const sources = modulesWithin("src").map(read).join("")
    const names = [...new Set(Array.from(sources.matchAll(/"([A-Z]\w+\.[a-z]\w+)"/g), ([, name]) => name!))]
    assert.includeMembers(names, ["Session.refresh", "TransactionalRef.transaction"])
    assert.deepStrictEqual(names.filter((name) => !code.includes(`\`${name}\``)), [])
  })

  it("each metric", () => {
    const names = new Set<string>()
    for (const file of modulesWithin("src")) {
      const source = read(file)
      for (const [, name] of source.matchAll(/Metric\.\w+\(\s*"(holdfast_\w+)"/g)) names.add(name!)
      // A file with many metrics makes their names from a pattern.
      const patterns = source.matchAll(/const (\w+) = .*[^]{0,40}Metric\.\w+\(`(holdfast_\w+)\$\{name\}(\w*)`/g)
      for (const [, make, before, after] of patterns) {
        for (const [, name] of source.matchAll(new RegExp(`\\b${make}\\("(\\w+)"`, "g"))) {
          names.add(`${before}${name}${after}`)
        }
      }
    }
    assert.isAbove(names.size, 20)
    assert.deepStrictEqual([...names].filter((name) => !isNamed(name)), [])
  })
})

const modulesWithin = (folder: string): ReadonlyArray<string> =>
  readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts"))
    .map((file) => join(folder, file))

describe.each([
  [
    "the documentation of `retryable`",
    "src/ReconnectingSocket.ts",
    /refused with ([\d, ]+), or with 401 without a session; - a close with ([\d, ]+ or \d+)/
  ],
  [
    "docs/sockets.md",
    "docs/sockets.md",
    /refused with ([\d, ]+ or \d+), or with 401 without a session; a close with ([\d, ]+ or \d+)/
  ]
])("%s", (_, file, list) => {
  it("lists the codes and statuses that are fatal", () => {
    const [, statuses, codes] = list.exec(read(file).replaceAll(/\n\s*\*/g, ""))!
    const numbers = (text: string) => text.match(/\d+/g)!.map(Number)
    const all = (from: number, to: number) => Array.from({ length: to - from }, (_, at) => from + at)
    const isFatal = (failure: ConnectionFailure) => !isRetryable(failure, true)
    assert.deepStrictEqual(
      numbers(codes!),
      all(1000, 5000).filter((code) => isFatal(new ConnectionClosed({ code, reason: "" })))
    )
    assert.deepStrictEqual(
      numbers(statuses!),
      all(100, 600).filter((status) => isFatal(new DialError({ reason: "Refused", url: "", status })))
    )
  })
})

describe("the private parts of others", () => {
  const listed = [...read("docs/architecture.md").matchAll(/^\| `([^`]+)` \| (.+) \| .+ \|$/gm)]
    .map(([, part, where]) => ({ part: part!, where: [...where!.matchAll(/`([^`]+)`/g)].map(([, file]) => file!) }))
    .filter(({ part }) => !part.startsWith("src/"))

  it("are each in the list of docs/architecture.md and in a title of test/assumptions.test.ts", () => {
    const titles = [...read("test/assumptions.test.ts").matchAll(/^\s*(?:it[\w.(]*\()?"([^":]+): .*\(else .+\)",/gm)]
    assert.isAbove(titles.length, 25)
    assert.deepStrictEqual(
      [...new Set(titles.map(([, part]) => part!))].sort(),
      listed.map(({ part }) => part).sort()
    )
  })

  it("are used where the list says", () => {
    for (const { part, where } of listed) {
      assert.isNotEmpty(where, part)
      for (const file of where) assert.isTrue(existsSync(join(root, file)), `${part}: ${file}`)
    }
  })
})
