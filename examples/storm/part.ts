/** A part of the storm: its clients' work while everything they talk to misbehaves, and their promises. */
import type { InvalidOptions } from "effect-holdfast/InvalidOptions"
import type * as Effect from "effect/Effect"
import type { CounterpartyLost } from "./counterparty.js"
import type { Section } from "./ledger.js"

export interface Part<out R = never> {
  /** Ends when the storm is over. */
  readonly run: Effect.Effect<void, CounterpartyLost | InvalidOptions, R>
  /** Counts to be shown meanwhile. */
  readonly counters: Effect.Effect<Readonly<Record<string, number>>, CounterpartyLost>
  /** What has become of the promises. To be asked for once all clients are closed. */
  readonly section: Effect.Effect<Section, CounterpartyLost>
}
