/** A part of the storm: its clients' work while their servers and the network misbehave, and their promises. */
import type { InvalidOptions } from "effect-holdfast/InvalidOptions"
import type * as Effect from "effect/Effect"
import type { CounterpartyLost } from "./counterparty.js"
import type { Section } from "./ledger.js"

export interface Part<out R = never> {
  /** Ends when the storm is over. */
  readonly run: Effect.Effect<void, CounterpartyLost | InvalidOptions, R>
  /** Counts to show meanwhile. */
  readonly counters: Effect.Effect<Readonly<Record<string, number>>, CounterpartyLost>
  /** Whether the promises were kept. Call this when all clients are closed. */
  readonly section: Effect.Effect<Section, CounterpartyLost>
}
