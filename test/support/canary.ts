import { Interleavings } from "effect-holdfast/testing"
import { it } from "effect-holdfast/testing/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as assert from "node:assert/strict"
import { canaries, type CanaryName } from "./canaries.js"
import { form } from "./form.js"

declare module "vitest" {
  interface TaskMeta {
    canary?: { readonly caught: string | undefined }
  }
}

/**
 * A test that fails unless the fault is found within the given number of interleavings of one of the strategies, and
 * replayed identically: a hundred times in the full form.
 */
export const canary = (
  fault: string,
  faulty: () => Effect.Effect<unknown, unknown> | Promise<Effect.Effect<unknown, unknown>>,
  options: Interleavings.Options & {
    readonly within: number
    readonly reason?: Interleavings.InterleavingFailure["reason"]
  }
): void =>
  it(`canary: ${fault}`, { timeout: 600_000 }, async ({ task }) => {
    task.meta.canary = { caught: undefined }
    const { reason = "Failure", within, ...search } = options
    const replays = form === "quick" ? 3 : 100
    const effect = await faulty()
    const failure = await Effect.runPromise(Effect.flip(Interleavings.explore(effect, search)))
    assert.ok(failure instanceof Interleavings.InterleavingFailure, String(failure))
    assert.equal(failure.reason, reason, failure.message)
    // An edit that no longer matches its module fails, too, but proves nothing.
    assert.ok(!(Cause.squash(failure.cause) instanceof ReferenceError), failure.message)
    assert.ok(failure.interleavings <= within, `found after ${failure.interleavings}, not within ${within}`)
    if (reason !== "Escaped") {
      assert.ok(failure.reproducible, failure.message)
      const traces = await Effect.runPromise(
        Effect.all(Array.from({ length: replays }, () => Interleavings.trace(effect, failure.replay)))
      )
      for (const trace of traces) {
        assert.equal(trace.exit._tag, "Failure")
        assert.equal(trace.schedule, traces[0]!.schedule)
        assert.equal(trace.digest, traces[0]!.digest)
      }
    }
    task.meta.canary = { caught: `${[search.strategy ?? "sweep, random, pct"].join()}, run ${failure.interleavings}` }
  })

/** Canaries of one idea. `faulty` gives a scenario over copies of the idea's modules that have the fault. */
export const canariesOf = <Scenario>(
  faulty: (name: CanaryName, scenario: Scenario) => Promise<Effect.Effect<unknown, unknown>>
) =>
(name: CanaryName, scenario: Scenario, options: Parameters<typeof canary>[2]): void =>
  canary(canaries[name].fault, () => faulty(name, scenario), options)
