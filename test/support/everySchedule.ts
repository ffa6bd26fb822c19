import { Interleavings } from "effect-holdfast/testing"
import { assert, it } from "effect-holdfast/testing/vitest"
import * as Effect from "effect/Effect"
import { form } from "./form.js"

/**
 * A test that tries every schedule of a small scope with up to the given number of preemptions, without random choices.
 * The quick form uses one preemption less, unless `quick` gives another number.
 */
export const everySchedule = (
  name: string,
  effect: Effect.Effect<unknown, unknown>,
  { preemptions: most, quick = Math.max(0, most - 1), strategy = "exhaustive" }: {
    readonly preemptions: number
    readonly quick?: number
    readonly strategy?: "exhaustive" | "interrupt"
  }
): void => {
  const preemptions = form === "quick" ? quick : most
  it(`${name}: every schedule with ${preemptions} preemptions`, { timeout: 600_000 }, async ({ task }) => {
    const report = await Effect.runPromise(
      Interleavings.explore(effect, { strategy, preemptions, limit: 1_000_000 })
    )
    task.meta.interleavings = report.interleavings
    assert.isTrue(report.complete)
  })
}
