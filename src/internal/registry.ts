/**
 * Where modules register what they make with an Inspector. A module looks for the registry once, in its `make`. Without
 * an Inspector there is no registry, and nothing is collected.
 */
import * as Context from "effect/Context"
import type { RefCounts, SessionCounts, Snapshot, SocketCounts, TicketCounts } from "../Inspector.js"

/** The counters of a thing: numbers, or records of numbers by a label. They are summed up for each name. */
export type Counts = RefCounts | SessionCounts | SocketCounts | TicketCounts

/** A table of a snapshot, which has one row for each thing. */
export type Kind = "sessions" | "sockets" | "refs" | "tickets"

export type RowOf<K extends Kind> = Snapshot[K][number]

/** The questions that the Inspector asks a thing whenever its data is read. `now` is epoch milliseconds. */
export interface Entry<K extends Kind> {
  readonly kind: K
  /** A function, because a socket may learn its name only when it dials. */
  readonly name: () => string
  /** The row without the fields that the registry adds; `undefined` if the thing has been garbage-collected. */
  readonly read: (now: number) => Omit<RowOf<K>, "id" | "name"> | undefined
  /** The numbers of the row that are added to the sums of its name when the thing has gone. */
  readonly counts: () => Counts
}

export interface Registered {
  /**
   * Records that something happened to the thing. Both texts are this library's own, or a name, never a message or a
   * value.
   */
  readonly note: (event: string, detail?: string, millis?: number) => void
  /** Epoch milliseconds by the Inspector's clock. */
  readonly now: () => number
  /** Called when the thing has gone. */
  readonly leave: () => void
  /** Adds to the sums of a name: numbers that the thing counted before it had its name, or after it has gone. */
  readonly addToGone: (name: string, counts: Counts) => void
}

export interface Registry {
  readonly add: <K extends Kind>(entry: Entry<K>) => Registered
}

/** The registry of the Inspector that is provided to the running effect, if there is one. */
export class CurrentRegistry extends Context.Reference<CurrentRegistry>()("effect-holdfast/internal/Registry", {
  defaultValue: (): Registry | undefined => undefined
}) {}

/** Looks in a fiber's context. */
export const registryIn = (fiber: { readonly currentContext: Context.Context<never> }): Registry | undefined =>
  Context.get(fiber.currentContext, CurrentRegistry)
