/**
 * Repeatable random numbers. Each random decision draws from its own stream, so that one more draw in one place does
 * not change what happens in another.
 */
import * as Hash from "effect/Hash"
import { PCGRandom } from "effect/Utils"

export interface Chance {
  /** A uniform number of `[low, high)`. */
  readonly between: (low: number, high: number) => number
  /** One of the names by their weights, or `undefined` for the rest of the probability. */
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
