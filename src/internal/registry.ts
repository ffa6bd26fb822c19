/**
 * Where modules tell an Inspector of what they make. Without an Inspector there is no registry: a module looks for it
 * once, in its `make`, and nothing is collected.
 */
import * as Context from "effect/Context"
import type { RefCounts, SessionCounts, Snapshot, SocketCounts, TicketCounts } from "../Inspector.js"

/** How many of each thing there were: numbers, or records of numbers by a label. They add up over one name. */
export type Counts = RefCounts | SessionCounts | SocketCounts | TicketCounts

/** A part of a snapshot that has a row for each thing. */
export type Kind = "sessions" | "sockets" | "refs" | "tickets"

export type RowOf<K extends Kind> = Snapshot[K][number]

/** The questions of the Inspector to a thing, whenever somebody looks. `now` is epoch milliseconds. */
export interface Entry<K extends Kind> {
  readonly kind: K
  /** A function, because a socket may learn its name only when it dials. */
  readonly name: () => string
  /** The row without what the registry knows. `undefined`: the thing has been collected as garbage. */
  readonly read: (now: number) => Omit<RowOf<K>, "id" | "name"> | undefined
  /** The numbers of the row that are kept for its name when the thing has gone. */
  readonly counts: () => Counts
}

export interface Registered {
  /** Something happened to the thing. Both texts are ours, or a name, never a message or a value. */
  readonly note: (event: string, detail?: string, millis?: number) => void
  /** Epoch milliseconds, of the Inspector's clock. */
  readonly now: () => number
  /** The thing has gone. */
  readonly leave: () => void
}

export interface Registry {
  readonly add: <K extends Kind>(entry: Entry<K>) => Registered
}

/** The registry of the Inspector that the running effect is beneath, if there is one. */
export class CurrentRegistry extends Context.Reference<CurrentRegistry>()("effect-holdfast/internal/Registry", {
  defaultValue: (): Registry | undefined => undefined
}) {}

/** Looks in a fiber's context. */
export const registryIn = (fiber: { readonly currentContext: Context.Context<never> }): Registry | undefined =>
  Context.get(fiber.currentContext, CurrentRegistry)
