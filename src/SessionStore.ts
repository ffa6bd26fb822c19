/**
 * The store in which a fleet of processes keeps its sessions: one row for each session, replaced by compare-and-set.
 *
 * **The idea.** A store has three operations, and knows nothing of sessions: what a row means, and which row follows
 * which, is decided above it. So a store for another database is short: one table, one conditional write, and a way to
 * tell other processes that a key has changed, if the database has one.
 *
 * **What a store guarantees.** `compareAndSet` writes the row if the stored one still has the revision that is given,
 * in one step, and answers whether it did. `read` gives a row that was written whole. All processes are given one
 * clock: the store's own, or that of the one host they run on.
 *
 * **What it does not.** `notices` are hints: they may be lost or repeated, and a store without them gives none. A store
 * that forgets a write which it has acknowledged (a Redis without an append-only file, an asynchronous replica) may
 * cost a sign-in.
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
 * A store looks at two things in it: at `revision`, which it compares, and at what `isNews` says.
 *
 * @since 0.1.0
 * @category models
 */
export interface Row {
  /** Raised by every write. Compare-and-set compares it. */
  readonly revision: number
  /** The number of the value. A renewal, a sign-in and the session's end raise it. 0: no value yet. */
  readonly version: number
  /** The version of the sign-in that the value descends from, by any number of renewals. */
  readonly origin: number
  /** The encoded value; `null` before the first sign-in and when `dead`. A secret, unless it is encrypted. */
  readonly value: string | null
  /** How long the value was still good for at `committedAt`; `null`: it never expires. */
  readonly lifetime: number | null
  readonly committedAt: number
  /** The `holder` that committed the value: a process that lost the answer to its commit recognises it. */
  readonly committedBy: string | null
  /** The number of the last lease. */
  readonly fence: number
  /** The holder of the lease, a fresh name for each lease; `null`: free. */
  readonly holder: string | null
  readonly leaseUntil: number
  /** The value is about to be presented, or was, and what came of that is not known. */
  readonly intent: boolean
  /** `intent` as it was when the current lease was taken. If so, its holder is not the first to present the value. */
  readonly uncertain: boolean
  /** Until then, the last failure is every caller's answer. */
  readonly coolUntil: number
  /** Consecutive failures. */
  readonly failures: number
  /** The tag of the last failure, or of the one that the credential died of. */
  readonly error: string | null
  /** The session was ended, or its credential has died: the next caller signs in. */
  readonly dead: boolean
}

/**
 * The operations of a store. Every effect may be interrupted: callers have a deadline of their own, and a write that
 * was given up may still arrive.
 *
 * - `read`: the row, and the store's clock.
 * - `compareAndSet`: writes the row if the stored one has this revision (`undefined`: if there is none).
 * - `notices`: the keys that other processes have changed, for as long as it is run. It survives a restart of the
 *   database by itself.
 *
 * `concurrency` is how many calls the sessions of one process make at a time. Further calls wait for their turn, and
 * what they wait does not count towards their deadline while the store answers others. Default: 10, which is how many
 * connections a pool of a database's client has by default.
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
 * The store could not be asked. Its `cause` names no row: a row may hold a token.
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
 * A store for one process, which forgets all rows with it. For tests, and for an application that is one process today
 * and is written for more.
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
// for those who write a store
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
 * The row from its text and from the revision that the store has for it. Text that is no row (it was cut short, or
 * changed by hand) gives a row whose value cannot be read: the session then says so, and overwrites nothing.
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
 * Whether a row that was written is news to other processes. A lease that is taken or extended is none. To publish more
 * than the news does no harm, but costs reads.
 *
 * @example
 * ```ts
 * import * as SessionStore from "effect-holdfast/SessionStore"
 * import * as Effect from "effect/Effect"
 *
 * declare const publish: (key: string) => Effect.Effect<void>
 *
 * const tell = (key: string, row: SessionStore.Row) => SessionStore.isNews(row) ? publish(key) : Effect.void
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const isNews: (row: Row) => boolean = Protocol.isNews
