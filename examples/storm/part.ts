/** A part of the storm: counterparties, a client that meets them through the proxy, and what that client promises. */
import type { InvalidOptions } from "effect-holdfast/InvalidOptions"
import type * as Effect from "effect/Effect"
import type { CounterpartyLost } from "./counterparty.js"
import type { Section } from "./ledger.js"

export interface Part {
  /** Ends when the storm is over and the client is closed, with what has become of the promises. */
  readonly run: Effect.Effect<ReadonlyArray<Section>, CounterpartyLost | InvalidOptions>
  /** What can be told meanwhile. */
  readonly counters: Effect.Effect<Readonly<Record<string, number>>, CounterpartyLost>
}
