/**
 * The things that all parts of a shared session need. The parts report what happened, and the public module makes the
 * errors.
 */
import type * as Cause from "effect/Cause"
import * as Data from "effect/Data"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type { Inside } from "../session/inside.js"
import type { Waiters } from "../waiters.js"
import type { Codec } from "./codec.js"
import type { Memory } from "./memory.js"
import type { Rows } from "./rows.js"

/** The reason why a refresh of the fleet has brought no value. */
export class Trouble extends Data.TaggedError("Trouble")<{
  readonly reason: "StoreUnavailable" | "Unreadable" | "Contended" | "CoolingDown" | "Ended"
  readonly detail: string
  readonly retryAfter?: Duration.Duration | undefined
}> {}

export interface Parts<A, E> {
  readonly name: string
  readonly rows: Rows
  readonly codec: Codec<A>
  readonly memory: Memory<A>
  readonly session: () => Pick<Inside<A, unknown>, "adopt" | "forget" | "finish" | "isAwaited" | "wake">
  readonly acquire: Effect.Effect<A, E>
  readonly renew: (current: A, info: { readonly uncertain: boolean }) => Effect.Effect<A, E>
  readonly onEnd: (value: A) => Effect.Effect<void>
  readonly isFatal: (error: E) => boolean
  readonly isUnspent: (error: E) => boolean
  readonly signsInIfUnreadable: boolean
  /** How long a value is valid, in milliseconds; `Infinity` means for ever. */
  readonly lifetimeOf: (value: A) => number
  /** Milliseconds before the next try inside one refresh; `undefined` if there is no further try. */
  readonly makeRetry: () => (error: E) => Effect.Effect<number | undefined>
  /** For how many milliseconds the n-th consecutive failure answers (the fleet's cooldown). */
  readonly cooldownOf: (failures: number, cause: Cause.Cause<E>) => Effect.Effect<number>
  /** Sets for how long the session's next failure answers; `undefined` means that the session's options decide. */
  readonly setCooldown: (millis: number | undefined) => void
  /** In milliseconds. */
  readonly lease: number
  /** In milliseconds: how long a refresh waits for other processes. */
  readonly patience: number
  readonly now: () => number
  readonly monotonic: () => number
  /** Notified with each notice that other processes have changed the row. */
  readonly news: Waiters
  /** Starts a fiber that writes what could not be written, as soon as the store answers. */
  readonly settleLater: () => void
  /** Makes the session take the value that this process has committed in the background. */
  readonly deliver: Effect.Effect<void>
  /** Runs an effect on a fiber of the session's own, until its scope closes. */
  readonly fork: (effect: Effect.Effect<void>) => void
  readonly report: (event: "renewed" | "adopted" | "took over" | "gave up" | "ended") => Effect.Effect<void>
}
