/** The list of guarantees in docs/guarantees.md, and the names of the tests that prove them, agree. */
import { assert, describe, it } from "@effect/vitest"
import { readdirSync, readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))

const listed = [...readFileSync(`${root}docs/guarantees.md`, "utf8").matchAll(/^\| (\w+) \| (.+) \| `([^`]+)` \|$/gm)]
  .map(([, number, sentence, proof]) => ({ number: number!, sentence: sentence!, proof: proof! }))

const files = ["test", "bench"].flatMap((folder) =>
  readdirSync(`${root}${folder}`, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts"))
    .map((file) => `${folder}/${file.replaceAll("\\", "/")}`)
)

/** The numbers with which strings of the file begin, the names of its tests among them: `S2: …`, `S2, S4: …`. */
const numbersIn = (file: string): ReadonlyArray<string> =>
  [...readFileSync(`${root}${file}`, "utf8").matchAll(/(?<=["'`])([A-Z]\d+[a-z]?(?:, [A-Z]\d+[a-z]?)*): \S/g)]
    .flatMap(([, numbers]) => numbers!.split(", "))

const named = files.flatMap((file) => numbersIn(file).map((number) => ({ number, file })))

describe("docs/guarantees.md", () => {
  it("has each number once, and one sentence for it", () => {
    assert.isAbove(listed.length, 70)
    for (const [at, { number, sentence }] of listed.entries()) {
      assert.strictEqual(listed.findIndex((one) => one.number === number), at, `${number} is listed twice`)
      assert.match(sentence, /^\S.*\.$/, number)
      assert.notInclude(sentence.slice(0, -1), ". ", `${number} has one sentence`)
    }
  })

  it("names for each guarantee a file, or a folder, with a test that begins with its number", () => {
    const isIn = (file: string, proof: string) =>
      [proof, `${proof}.test.ts`].includes(file) || file.startsWith(`${proof}/`)
    const without = listed.filter(({ number, proof }) =>
      !named.some((test) => test.number === number && isIn(test.file, proof))
    )
    assert.deepStrictEqual(without.map(({ number, proof }) => `${number}: no test of ${proof} begins with it`), [])
  })

  it("has every number that a test begins with", () => {
    const known = new Set(listed.map(({ number }) => number))
    const unknown = named.filter(({ number }) => !known.has(number))
    assert.deepStrictEqual(unknown.map(({ file, number }) => `${number} in ${file} is not listed`), [])
  })
})
