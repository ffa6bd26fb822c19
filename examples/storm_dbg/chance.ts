/**
 * Chance that can be repeated. Each thing that is left to chance draws from a stream of its own, so that one more
 * draw here does not change what happens there.
 */
import * as Hash from "effect/Hash"
import { PCGRandom } from "effect/Utils"

export interface Chance {
  /** Evenly from `[low, high)`. */
  readonly between: (low: number, high: number) => number
  /** One of the names by their weights, or `undefined` for what the weights leave of 1. */
  readonly pick: <Name extends string>(weights: Readonly<Record<Name, number>>) => Name | undefined
}

export const chance = (seed: number, stream: string): Chance => {
  const random = new PCGRandom(seed, Hash.string(stream))
  return {
    between: (low, high) => low + random.number() * (high - low),
    pick: (weights) => {
      let left = random.number()
      for (const name in weights) {
        left -= weights[name]
        if (left < 0) return name
      }
      return undefined
    }
  }
}
