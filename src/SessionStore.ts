/**
 * The store in which a fleet of processes keeps its sessions: one row for each session, replaced by compare-and-set.
 *
 * **The idea.** A store has three operations, and knows nothing of sessions: `SharedSession` decides what a row means,
 * and which row follows which. So a store for another database is short: one table, one conditional write, and a way to
 * notify other processes that a key has changed, if the database has one.
 *
 * **What a store guarantees.** `compareAndSet` writes the row if the stored row still has the given revision, in one
 * step, and answers whether it did. `read` gives a completely written row. All processes use one clock: the store's
 * own, or that of their common host.
 *
 * **What it does not.** `notices` are hints: they may be lost or repeated, and a store may have none. A store that
 * loses an acknowledged write (a Redis without an append-only file, an asynchronous replica) may cost a sign-in.
 *
 * @since 0.1.0
 */

import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as PubSub from "effect/PubSub"
import * as Stream from "effect/Stream"
import * as Protocol from "./internal/shared/protocol.js"
import * as Text from "./internal/shared/text.js"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * The row of a session. Times are epoch milliseconds of the store's clock, lengths of time are milliseconds.
 *
 * A store uses only two things of a row: `revision`, which it compares, and the result of `isNews`.
 *
 * @since 0.1.0
 * @category models
 */
export interface Row {
  /** Increased by every write. Compare-and-set compares it. */
  readonly revision: number
  /**
   * The number of the value, increased by a renewal, a sign-in and the session's end. 0 means that there is no value
   * yet.
   */
  readonly version: number
  /** The version of the sign-in from which the value descends, by any number of renewals. */
  readonly origin: number
  /** The encoded value; `null` before the first sign-in and when `dead`. A secret, unless it is encrypted. */
  readonly value: string | null
  /** How long the value was still valid at `committedAt`; `null` if it never expires. */
  readonly lifetime: number | null
  readonly committedAt: number
  /**
   * The `holder` that committed the value. A process that lost the answer to its commit recognises its value by this
   * name.
   */
  readonly committedBy: string | null
  /** The number of the last lease. */
  readonly fence: number
  /** The holder of the lease, a new name for each lease; `null` if the lease is free. */
  readonly holder: string | null
  readonly leaseUntil: number
  /** Whether the value is about to be presented, or was presented with an unknown result. */
  readonly intent: boolean
  /**
   * The value of `intent` when the current lease was taken. If true, the lease's holder may not be the first to present
   * the value.
   */
  readonly uncertain: boolean
  /** Until this time, every caller gets the last failure. */
  readonly coolUntil: number
  /** Consecutive failures. */
  readonly failures: number
  /** The tag of the last failure, or of the failure that declared the credential dead. */
  readonly error: string | null
  /** Whether the session was ended, or its credential is dead: the next caller signs in. */
  readonly dead: boolean
}

/**
 * The operations of a store. Every effect may be interrupted: callers have their own deadline, and an interrupted write
 * may still arrive.
 *
 * - `read`: the row, and the store's clock.
 * - `compareAndSet`: writes the row if the stored row has this revision (`undefined`: if there is no row).
 * - `notices`: the keys that other processes have changed, for as long as the stream is run. The stream survives a
 *   restart of the database by itself.
 *
 * `concurrency` is how many calls the sessions of one process make at a time. Further calls wait for their turn; this
 * wait does not count towards their deadline while the store answers other calls. Default: 10, the usual size of a
 * database client's pool.
 *
 * @since 0.1.0
 * @category models
 */
export interface Service {
  readonly read: (key: string) => Effect.Effect<{ readonly row: Option.Option<Row>; readonly now: number }, StoreError>
  readonly compareAndSet: (
    key: string,
    revision: number | undefined,
    row: Row
  ) => Effect.Effect<boolean, StoreError>
  readonly notices: Stream.Stream<string>
  readonly concurrency?: number | undefined
}

/**
 * The store of this application's shared sessions.
 *
 * @since 0.1.0
 * @category models
 */
export class SessionStore extends Context.Tag("effect-holdfast/SessionStore")<SessionStore, Service>() {}

// -----------------------------------------------------------------------------
// errors
// -----------------------------------------------------------------------------

/**
 * A call of the store has failed. The `cause` contains no row, since a row may contain a token.
 *
 * @since 0.1.0
 * @category errors
 */
export class StoreError extends Data.TaggedError("StoreError")<{
  readonly operation: "open" | "read" | "compareAndSet"
  readonly store: string
  readonly cause: unknown
}> {
  override get message(): string {
    return `${this.store} could not ${verbs[this.operation]}`
  }
}

const verbs = { open: "be opened", read: "read a row", compareAndSet: "write a row" } as const

// -----------------------------------------------------------------------------
// layers
// -----------------------------------------------------------------------------

/**
 * A store in the memory of one process. For tests, and for an application that currently runs as one process but is
 * written for several.
 *
 * @example
 * ```ts
 * import * as SessionStore from "effect-holdfast/SessionStore"
 * import * as Effect from "effect/Effect"
 *
 * declare const program: Effect.Effect<void, never, SessionStore.SessionStore>
 *
 * const tried = Effect.provide(program, SessionStore.layerMemory)
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMemory: Layer.Layer<SessionStore> = Layer.effect(
  SessionStore,
  Effect.map(PubSub.sliding<string>(256), (news): Service => {
    const rows = new Map<string, Row>()
    return {
      read: (key) => Effect.map(Clock.currentTimeMillis, (now) => ({ row: Option.fromNullable(rows.get(key)), now })),
      compareAndSet: (key, revision, row) =>
        Effect.suspend(() => {
          if (rows.get(key)?.revision !== revision) return Effect.succeed(false)
          rows.set(key, row)
          return isNews(row) ? Effect.as(PubSub.publish(news, key), true) : Effect.succeed(true)
        }),
      notices: Stream.fromPubSub(news)
    }
  })
)

// -----------------------------------------------------------------------------
// for writing a store
// -----------------------------------------------------------------------------

/**
 * A row as text, for a store that keeps text.
 *
 * @example
 * ```ts
 * import * as SessionStore from "effect-holdfast/SessionStore"
 *
 * declare const row: SessionStore.Row
 *
 * const again = SessionStore.decode(row.revision, SessionStore.encode(row))
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const encode: (row: Row) => string = Text.encode

/**
 * The row from its text and from the revision that the store has for it. Text that is not a row (cut short, or changed
 * by hand) gives a row with an unreadable value: the session then reports this, and overwrites nothing.
 *
 * @example
 * ```ts
 * import * as SessionStore from "effect-holdfast/SessionStore"
 *
 * const unreadable = SessionStore.decode(7, "{ \"revision\": 7, \"ver")
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const decode: (revision: number, text: string) => Row = Text.decode

/**
 * Whether other processes must be notified of a written row. A lease that is taken or extended needs no notice.
 * Additional notices do no harm, but cost reads.
 *
 * @example
 * ```ts
 * import * as SessionStore from "effect-holdfast/SessionStore"
 * import * as Effect from "effect/Effect"
 *
 * declare const publish: (key: string) => Effect.Effect<void>
 *
 * const notify = (key: string, row: SessionStore.Row) => SessionStore.isNews(row) ? publish(key) : Effect.void
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const isNews: (row: Row) => boolean = Protocol.isNews
