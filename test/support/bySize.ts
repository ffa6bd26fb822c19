import { Interleavings } from "effect-holdfast/testing"
import * as Effect from "effect/Effect"
import { amount, form } from "./form.js"

/**
 * The depth of an exploration, derived from the size of the effect, so that each scenario has its part of the time.
 * HOLDFAST_EFFORT multiplies these amounts.
 *
 * - Every strategy makes as many runs as `affordable` allows. There are no more seeds than places.
 * - The full form tries at least 2,000 places of a sweep, or all of them; the long form all.
 */
export const bySize = async (
  effect: Effect.Effect<unknown, unknown>,
  strategy: Interleavings.Options["strategy"] = ["sweep", "random", "pct"]
): Promise<Pick<Interleavings.Options, "limit" | "seeds" | "strategy"> & { readonly timeout: number }> => {
  const { coverage, operations } = await Effect.runPromise(
    Interleavings.explore(effect, { strategy: "sweep", limit: 1 })
  )
  const runs = Math.ceil(affordable / operations)
  return {
    strategy,
    limit: form === "long" ? 1_000_000 : Math.max(amount({ quick: 8, full: 2000 }), runs),
    seeds: Math.max(amount({ quick: 5, full: 20 }), Math.min(runs, coverage.sweep.places)),
    timeout: 120_000
  }
}

/** Operations that one strategy spends on one scenario. */
const affordable = form === "quick" ? 4_000 : 230_000
