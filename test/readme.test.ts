/** The first steps of the README work as they are written. */
import { assert, describe, it } from "@effect/vitest"
import { execFile } from "node:child_process"
import { readFileSync } from "node:fs"
import { promisify } from "node:util"
import { bundled } from "./support/programs.js"

const root = new URL("..", import.meta.url)
const read = (file: string): string => readFileSync(new URL(file, root), "utf8")
const readme = read("README.md")

/** The code blocks of a language, in order; `""` has those without one. */
const blocks = (language: string): ReadonlyArray<string> =>
  [...readme.matchAll(/^```(\w*)\n([\s\S]*?)^```$/gm)].flatMap(([, of, code]) => of === language ? [code!] : [])

describe("the README", () => {
  it("has at most 250 lines", () => {
    assert.isAtMost(readme.split("\n").length - 1, 250)
  })

  it("shows the first program as it is in the examples, in at most 30 lines, and what it prints", async () => {
    const program = blocks("ts")[0]!
    assert.strictEqual(program, read("examples/first.ts"))
    assert.isAtMost(program.trimEnd().split("\n").length, 30)
    const script = await bundled(new URL("../examples/first.ts", import.meta.url))
    const { stderr, stdout } = await promisify(execFile)(process.execPath, [script], { timeout: 60_000 })
    assert.deepStrictEqual([stdout, stderr], [blocks("")[0], ""])
  })

  it("installs the versions that the package asks for", () => {
    const { peerDependencies } = JSON.parse(read("package.json")) as {
      readonly peerDependencies: Readonly<Record<string, string>>
    }
    const named = [...readme.matchAll(/((?:@[\w-]+\/)?[\w-]+)@\^([\d.]+)/g)]
    const versions = Object.fromEntries(named.map(([, name, version]) => [name!, version!]))
    assert.sameMembers(Object.keys(versions), Object.keys(peerDependencies))
    for (const [name, range] of Object.entries(peerDependencies)) {
      assert.match(range, new RegExp(`^\\^${versions[name]!.replaceAll(".", "\\.")}(\\.|$)`), name)
    }
  })
})
