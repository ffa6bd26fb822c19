/** The faults of the feed, one after another: each once, in random order, and then all again. */
import { type Chance, chance } from "../chance.js"

export type Calamity =
  | { readonly kind: "close"; readonly code: number }
  | { readonly kind: "reset" | "short stall" | "long stall" | "half-open" | "kill" | "revoke" | "overload" }

/** Close codes after which a client must reconnect. (1013 comes with the overload, 4401 after a token was revoked.) */
const codes = [1000, 1001, 1005, 1011, 1012, 1014, 3000, 4000]

const calamities: ReadonlyArray<Calamity> = [
  ...codes.map((code) => ({ kind: "close", code }) as const),
  { kind: "reset" },
  { kind: "short stall" },
  { kind: "long stall" },
  { kind: "half-open" },
  { kind: "half-open" },
  { kind: "kill" },
  { kind: "kill" },
  { kind: "revoke" },
  { kind: "overload" }
]

export interface Weather {
  readonly next: () => Calamity
  /** In milliseconds. */
  readonly pause: () => number
  /** Every fault has come at least once. */
  readonly wasComplete: () => boolean
  readonly luck: Chance
}

export const make = (seed: number, seconds: number): Weather => {
  const luck = chance(seed, "feed's weather")
  const usual = Math.min(400, (seconds * 1000) / (2 * calamities.length))
  let coming: Array<Calamity> = []
  let came = 0
  return {
    luck,
    next: () => {
      if (coming.length === 0) coming = [...calamities]
      came++
      return coming.splice(Math.floor(luck.between(0, coming.length)), 1)[0]!
    },
    pause: () => luck.between(0.5, 1.5) * usual,
    wasComplete: () => came >= calamities.length
  }
}
