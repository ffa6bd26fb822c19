import { assert, describe, it } from "@effect/vitest"
import { LinkedSet } from "../src/internal/linkedSet.js"

const setOf = (...members: ReadonlyArray<number>) => {
  const set = new LinkedSet<number>()
  for (const member of members) set.add(member)
  return set
}

describe("a linked set", () => {
  it("has its members in the order in which they were added, each once", () => {
    const set = setOf(3, 1, 2, 1)
    assert.deepStrictEqual([[...set], set.size, set.has(1), set.has(4)], [[3, 1, 2], 3, true, false])
  })

  for (const member of [0, 1, 2]) {
    it(`keeps the order of the others when one leaves and comes back behind them (${member})`, () => {
      const set = setOf(0, 1, 2)
      assert.isTrue(set.delete(member))
      assert.isFalse(set.delete(member))
      const others = [0, 1, 2].filter((one) => one !== member)
      assert.deepStrictEqual([...set], others)
      set.add(member)
      assert.deepStrictEqual([...set], [...others, member])
      set.clear()
      assert.deepStrictEqual([[...set], set.size], [[], 0])
      set.add(5)
      assert.deepStrictEqual([...set], [5])
    })
  }

  it("can be read while members leave, the current one and others", () => {
    const set = setOf(0, 1, 2, 3, 4, 5)
    const met: Array<number> = []
    for (const member of set) {
      met.push(member)
      if (member === 1) { for (const gone of [0, 1, 2, 3]) set.delete(gone) }
    }
    assert.deepStrictEqual([met, [...set]], [[0, 1, 4, 5], [4, 5]])
  })

  it("is emptied from the front in linear time", () => {
    const set = setOf()
    for (let n = 0; n < 400_000; n++) set.add(n)
    const since = performance.now()
    while (set.size > 0) {
      for (const first of set) {
        set.delete(first)
        break
      }
    }
    assert.isBelow(performance.now() - since, 8_000)
  })
})
