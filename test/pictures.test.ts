/** The pictures in the documentation are drawn from its tables. */
import { assert, describe, it } from "@effect/vitest"
import { readdirSync, readFileSync } from "node:fs"
import { pictures } from "../bench/pictures.js"

const docs = new URL("../docs/", import.meta.url)

describe("the pictures of docs/figures.md", () => {
  it("show the numbers of its tables (`npm run pictures` draws them again)", () => {
    const paths = readdirSync(new URL("figures/", docs)).map((name) => `figures/${name}`)
    const drawn = Object.fromEntries(paths.map((path) => [path, readFileSync(new URL(path, docs), "utf8")]))
    assert.deepStrictEqual(drawn, pictures())
  })

  it("stand in the page, with a text for readers who cannot see them", () => {
    const page = readFileSync(new URL("figures.md", docs), "utf8")
    for (const path of Object.keys(pictures())) assert.match(page, new RegExp(`!\\[.{20,}\\]\\(${path}\\)`))
  })
})
