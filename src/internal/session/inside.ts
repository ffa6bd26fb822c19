/**
 * The internal half of a session, and of a map of sessions: for this library's other modules.
 */
import type * as Cause from "effect/Cause"
import type * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import type { InvalidOptions } from "../../InvalidOptions.js"
import type { Generation, Session, SessionError } from "../../Session.js"
import type { SessionMap, SessionMapFull } from "../../SessionMap.js"
import type { Outside } from "./outside.js"
import type { Work } from "./renewal.js"

/** The generation that a caller wants: the current one, or the one after theirs, which was refused. */
export type Wanted<A> = "current" | { readonly after: Generation<A> }

/** Holds a session or generation for longer than a call: until the effect that it returns has run. */
export type Retain = () => Effect.Effect<void>

export interface Inside<in out A, out E> extends Session<A, E> {
  /**
   * Runs `f` with a generation and holds it meanwhile. After the generation has been released, `onFailure` decides what
   * a failure becomes. For a generation with resources, `retain` holds it once more, until the effect that it returns
   * has run (once).
   */
  readonly hold: <B, E2, R, E3, R3>(
    wanted: Wanted<A>,
    f: (generation: Generation<A>, retain?: Retain) => Effect.Effect<B, E2, R>,
    onFailure: (cause: Cause.Cause<E2>, generation: Generation<A>) => Effect.Effect<B, E3, R3>
  ) => Effect.Effect<B, E | SessionError | E3, R | R3>
  readonly scoped: Effect.Effect<Generation<A>, E | SessionError, Scope.Scope>
  readonly changes: Stream.Stream<Generation<A>>
  readonly wake: Effect.Effect<void>
  /**
   * Whether the session's `fatal` accepts the error, so that another request would present the same dead credential.
   */
  readonly isFatal: (error: unknown) => boolean
  /**
   * The fiber that currently obtains the session's next value by `renew`, late or not. It may have spent a token that
   * can be spent only once, so a map waits for this fiber before it drops the session. (`acquire` spends no token.)
   */
  readonly inFlight: () => Fiber.RuntimeFiber<void> | undefined
  /**
   * Replaces the current value by one from outside, unless `isStillWanted` gives false in the same step. This costs no
   * budget, ends the cooldown of a failure, and calls neither `onRenewed` nor `expiresAt`. Callers who wait for a
   * renewal are given this value. The renewal's work goes on, detached, and its outcome is neither written down nor
   * revoked.
   */
  readonly adopt: (outside: Outside<A>, isStillWanted: () => boolean) => Effect.Effect<void>
  /** From now on the current value is neither served nor presented. A renewal in flight goes on, and signs in. */
  readonly forget: () => void
  /** Whether the outcome of this work would become current: no other value has taken its place. */
  readonly isAwaited: (work: Work) => boolean
  /** Runs the first step of `end`; the returned effect does the rest. */
  readonly beginEnd: () => Effect.Effect<void>
  /** Runs the effect to its end on a fiber of the session's own, like `onEnd`: it must not wait for the session. */
  readonly finish: (effect: Effect.Effect<void>) => Effect.Effect<void>
}

export const of = <A, E>(session: Session<A, E>): Inside<A, E> => session as Inside<A, E>

/** A session of a map, held by a scope. `retain` holds it once more. */
export interface HeldSession<in out A, out E> {
  readonly session: Session<A, E>
  readonly retain: Retain
}

export interface MapInside<in K, in out A, out E, out E0> extends SessionMap<K, A, E, E0> {
  readonly held: (key: K) => Effect.Effect<HeldSession<A, E>, E0 | InvalidOptions | SessionMapFull, Scope.Scope>
}

export const ofMap = <K, A, E, E0>(map: SessionMap<K, A, E, E0>): MapInside<K, A, E, E0> =>
  map as MapInside<K, A, E, E0>
