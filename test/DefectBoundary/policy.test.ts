/** The states of a boundary, and what moves them. */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import {
  afterDefect,
  draining,
  type Limits,
  limitsOf,
  serving,
  type State
} from "../../src/internal/boundary/policy.js"

/** The states after defects at these times. */
const after = (limits: Limits, ...times: ReadonlyArray<number>): ReadonlyArray<State> => {
  let state = serving
  return times.map((now) => state = afterDefect(state, now, limits))
}

const threeWithinASecond = limitsOf({
  policy: { terminateAfter: { defects: 3, within: "1 second" } },
  grace: "10 seconds"
})

describe("the policy of a boundary", () => {
  it("never drains with isolate, and remembers one defect at most", () => {
    for (const state of after(limitsOf({}), 0, 0, 0, 1, 1, 2)) {
      assert.strictEqual(state._tag, "Serving")
      assert.isAtMost((state as { readonly recent: ReadonlyArray<number> }).recent.length, 1)
    }
  })

  it("D2: drains with terminate at the first defect, until the grace is over", () => {
    assert.deepStrictEqual(after(limitsOf({ policy: "terminate" }), 7), [{ _tag: "Draining", until: 5_007 }])
  })

  it("drains with terminateAfter when there were too many defects within the time", () => {
    assert.deepStrictEqual(after(threeWithinASecond, 0, 999, 1_000, 1_998), [
      { _tag: "Serving", recent: [0] },
      { _tag: "Serving", recent: [0, 999] },
      // The first has come a second ago, and no longer counts.
      { _tag: "Serving", recent: [999, 1_000] },
      { _tag: "Draining", until: 11_998 }
    ])
  })

  it("begins the grace period once, whatever happens while the server drains", () => {
    const drained = draining(serving, 100, threeWithinASecond)
    assert.deepStrictEqual(drained, { _tag: "Draining", until: 10_100 })
    assert.strictEqual(draining(drained, 500, threeWithinASecond), drained)
    assert.strictEqual(afterDefect(drained, 500, threeWithinASecond), drained)
  })

  it("has a grace of 5 seconds by default, and counts with terminate for ever", () => {
    const { defects, grace, within } = limitsOf({ policy: "terminate" })
    assert.deepStrictEqual([defects, Duration.toMillis(grace), Duration.toMillis(within)], [1, 5_000, Infinity])
  })
})
