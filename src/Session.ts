/**
 * One value that many callers share (a token, a cookie jar, a signed-in client), replaced once however many of
 * them notice that it has gone stale.
 *
 * **The idea.** A session is a chain of *generations*. Each holds its value and has one *successor*. The first caller
 * who finds generation 7 rejected starts 7's renewal, the others share it, and a straggler who comes back a minute
 * later with 7 still in hand is given the current one immediately. Staleness is which generation you hold; no flag,
 * key or clock comparison decides it.
 *
 * **What it guarantees.** One renewal of a generation, however many ask and however late; two renewals of one session
 * never run beside each other, but for one that `end` detached. No caller's interruption touches a renewal or another
 * caller: it runs in the session's own scope. It becomes current only when it has wholly succeeded; a failure, a defect
 * or an interruption leaves the session as it was, and all who waited get the same cause. Nothing that has expired is
 * handed out. An answer that comes after `timeout` is kept (`lateness`). A renewal that asks its own session, or an
 * `onRenewed` or `onEnd` that would start one or wait for one, fails immediately and never waits for itself. Cooldown,
 * budget and timeouts do not depend on the time of day: a clock that is set back pins no failure.
 *
 * **What it does not.** It does not know whether a value is good: you tell it, with `refresh`, `use` or an
 * expiry. It cannot un-spend a single-use token that was presented by a process which then died, or whose answer takes
 * longer than `timeout` and `lateness` together. A renewal that leaves Effect's fibers (a promise that runs an effect
 * on another runtime) loses the mark by which a circle is recognised, and then only `timeout` ends the wait.
 *
 * @since 0.1.0
 */

import * as Cause from "effect/Cause"
import * as Data from "effect/Data"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as ExecutionStrategy from "effect/ExecutionStrategy"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as FiberSet from "effect/FiberSet"
import { dual } from "effect/Function"
import * as Metric from "effect/Metric"
import * as MetricLabel from "effect/MetricLabel"
import * as Option from "effect/Option"
import { type Pipeable, pipeArguments } from "effect/Pipeable"
import * as Predicate from "effect/Predicate"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type * as Types from "effect/Types"
import * as Backoff from "./Backoff.js"
import * as Check from "./internal/check.js"
import * as Cooldown from "./internal/cooldown.js"
import { Latest } from "./internal/latest.js"
import * as Renewal from "./internal/renewal.js"
import * as Resources from "./internal/resources.js"
import { sleep } from "./internal/sleep.js"
import { Waiters } from "./internal/waiters.js"
import { InvalidOptions } from "./InvalidOptions.js"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * @since 0.1.0
 * @category symbols
 */
export const TypeId: unique symbol = Symbol.for("effect-holdfast/Session")

/**
 * @since 0.1.0
 * @category symbols
 */
export type TypeId = typeof TypeId

/**
 * The key of the mark by which a session recognises its own generations.
 *
 * @since 0.1.0
 * @category symbols
 */
export const GenerationTypeId: unique symbol = Symbol.for("effect-holdfast/Session/Generation")

/**
 * @since 0.1.0
 * @category symbols
 */
export type GenerationTypeId = typeof GenerationTypeId

/**
 * One value of a session and when it came. Hand it back to `refresh` to say that it was refused.
 *
 * `number` counts from 0, never goes back and is never given twice, not even over `end`: a value that `onRenewed` was
 * given and that never became current leaves a gap. Times are epoch milliseconds of the session's `Clock`; an
 * `expiresAt` of `Infinity` means never.
 *
 * A session recognises its generations by their number and by a mark, which a copy made by spreading keeps. A
 * generation of another session (of one that a `SessionMap` has dropped, say), or one that was put together by hand,
 * has no such mark: `refresh` gives what `current` gives for it, and renews nothing.
 *
 * @since 0.1.0
 * @category models
 */
export interface Generation<out A> {
  readonly [GenerationTypeId]?: object | undefined
  readonly number: number
  readonly value: A
  readonly acquiredAt: number
  readonly expiresAt: number
}

/**
 * A value shared by many callers; see the module's description.
 *
 * - `current`: the current generation. Acquires the first one; renews one that has expired and waits for it;
 *   waits for the renewal of one that was rejected. Takes no lock while the current one is good.
 * - `refresh(stale)`: says that `stale` was refused, and gives its successor. If it has one already, that is
 *   what `current` gives, and nothing is asked of the upstream.
 * - `end`: sign out. The value is forgotten and handed to `onEnd`; a renewal in flight is detached: its waiters
 *   get `SessionEnded`, and what it brings is handed to `onEnd` too. The next `current` acquires anew.
 * - `status`: what the session is doing now, for health checks and dashboards.
 *
 * @since 0.1.0
 * @category models
 */
export interface Session<in out A, out E = never> extends Pipeable {
  readonly [TypeId]: {
    readonly _A: Types.Invariant<A>
    readonly _E: Types.Covariant<E>
  }
  readonly current: Effect.Effect<Generation<A>, E | SessionError>
  readonly refresh: (stale: Generation<A>) => Effect.Effect<Generation<A>, E | SessionError>
  readonly end: Effect.Effect<void>
  readonly status: Effect.Effect<SessionStatus>
}

/**
 * What a session is doing. `refreshes` counts the generations it has obtained, `failures` the refreshes that
 * failed, both since `make`. Times are epoch milliseconds.
 *
 * - `Idle`: nothing has been acquired, or the session was ended.
 * - `Refreshing`: `acquire` or `renew` is running, for `waiters` callers (0: in the background); `serving`
 *   tells whether `current` answers meanwhile.
 * - `Active`: the current generation is good, or will be renewed by the next caller.
 * - `Failing`: the last refresh failed, `consecutive` in a row; its failure answers until `retryAt`, which is reckoned
 *   from now and what is left on the monotonic clock. `serving` tells whether `current` still gives the current
 *   generation. After a timeout a late answer may still be awaited.
 * - `Closed`: its scope was closed.
 *
 * @since 0.1.0
 * @category models
 */
export type SessionStatus =
  | SessionStatus.Idle
  | SessionStatus.Refreshing
  | SessionStatus.Active
  | SessionStatus.Failing
  | SessionStatus.Closed

/**
 * @since 0.1.0
 * @category models
 */
export declare namespace SessionStatus {
  /** @since 0.1.0 */
  export interface Counts {
    readonly refreshes: number
    readonly failures: number
  }
  /** @since 0.1.0 */
  export interface Idle extends Counts {
    readonly _tag: "Idle"
  }
  /** @since 0.1.0 */
  export interface Refreshing extends Counts {
    readonly _tag: "Refreshing"
    readonly since: number
    readonly waiters: number
    readonly serving: boolean
  }
  /** @since 0.1.0 */
  export interface Active extends Counts {
    readonly _tag: "Active"
    readonly generation: number
    readonly acquiredAt: number
    readonly expiresAt: number
  }
  /** @since 0.1.0 */
  export interface Failing extends Counts {
    readonly _tag: "Failing"
    readonly consecutive: number
    readonly since: number
    readonly retryAt: number
    readonly serving: boolean
  }
  /** @since 0.1.0 */
  export interface Closed extends Counts {
    readonly _tag: "Closed"
  }
}

/**
 * How a session gets, keeps and gives up its value.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<A, E = never, R = never, E2 = never, R2 = never, E3 = never, R3 = never, R4 = never> {
  /**
   * The first sign-in, and every later one where there is no `renew`. Resources it acquires in its `Scope`
   * belong to the generation and are released once it has been superseded and its last `use` has ended. (What is
   * added to that scope only afterwards, where there was nothing before, stays until the session closes.)
   */
  readonly acquire: Effect.Effect<A, E, R>
  /** Replaces a value by its successor, say with its refresh token. Default: `acquire`. */
  readonly renew?: ((current: A) => Effect.Effect<A, E2, R2>) | undefined
  /** A value from an earlier run: nothing is acquired until it is refused or has expired; then it is renewed. */
  readonly initial?: A | undefined
  /**
   * Runs before anyone sees a generation that was acquired or renewed (not `initial`): the place to persist a
   * rotated token. If it fails, so does the refresh; the value is kept, and the next refresh goes on from it
   * instead of presenting a spent token again. A value that has expired by then comes here too, though nobody is given
   * it: its refresh token may be good. Asking the session itself fails with `ReentrantRefresh`. One `onRenewed` of a
   * session runs at a time: the next waits for one that `end` has detached (within the bounds of its own refresh).
   */
  readonly onRenewed?: ((generation: Generation<A>) => Effect.Effect<void, E3, R3>) | undefined
  /**
   * Revokes a value that `end` made the session forget. Runs to its end whoever is interrupted. If it asks the session
   * itself (through a client that carries the session, say), it gets `ReentrantRefresh` instead of a new sign-in,
   * unless another caller has signed in anew meanwhile: send the value that it is given.
   */
  readonly onEnd?: ((value: A) => Effect.Effect<void, never, R4>) | undefined
  /**
   * Whether a failed renewal means that the credential itself is dead (OAuth's `invalid_grant`). Then it is
   * forgotten, not retried, and the same refresh goes on with `acquire`. Default: no failure does. Written above a
   * `renew` that fails in other ways than `acquire`, its parameter needs a type; below it, never.
   */
  readonly fatal?: ((error: NoInfer<E | E2>) => boolean) | undefined
  /**
   * When a value expires, as epoch milliseconds or a `DateTime`; `undefined`: never. 0 and less have expired. A
   * positive number more than ten years ago is refused by `InvalidOptions`: it looks like seconds. Default: never.
   */
  readonly expiresAt?: ((value: A) => DateTime.Utc | number | undefined) | undefined
  /** An age limit, besides `expiresAt`. Default: none. */
  readonly maxAge?: Duration.DurationInput | undefined
  /**
   * Renew in the background this long before the value expires, so that nobody waits. Started by the first
   * `current` inside the window; never earlier than half the lifetime (a window longer than the lifetime
   * would renew without end); begun up to a tenth of the window late, at random, so that a fleet which signed
   * in together does not renew together. Default: none.
   */
  readonly refreshAhead?: Duration.DurationInput | undefined
  /**
   * The bound of one refresh, retries and `onRenewed` included, after which its callers get `RefreshTimeout`. A caller
   * who comes while an earlier answer is late waits for that answer within the same bound. Default: 30 seconds, the
   * usual patience of a proxy.
   */
  readonly timeout?: Duration.DurationInput | undefined
  /**
   * For how long after `timeout` an answer is still waited for in the background, because the upstream may have spent
   * the token that was presented, and the answer holds the only new one. Nothing further is begun: no `retry`, no
   * `acquire` after a failure that `fatal` knows. A late value is written down by `onRenewed`, becomes current
   * immediately and ends the cooldown; a late failure that `fatal` knows is remembered; after `end` a late value is
   * revoked; closing the session's scope interrupts the wait. Until the late answer has come or been cut, no other
   * renewal is begun. To cut is to interrupt: a `renew` that is uninterruptible by then, or runs its finalizers, is
   * waited for, but Effect drops the value that it brings, and the next refresh presents the old one again. `0`: none
   * is waited for. `Infinity`: however long. Default: `timeout` once more if there is a `renew`, and 0 if there is only
   * `acquire`, which spends nothing.
   */
  readonly lateness?: Duration.DurationInput | undefined
  /** Retries inside one refresh, for transient failures; `fatal` ones are not retried. Default: none. */
  readonly retry?: Schedule.Schedule<unknown, NoInfer<E | E2 | E3>> | undefined
  /**
   * For how long the failure of a refresh answers those who ask again, before the next of them tries once
   * more for all. A schedule is stepped by consecutive failures (its input is their cause) and starts anew
   * after a success; one that ends keeps its last delay. Default: 1 second, doubled up to 30.
   */
  readonly cooldown?:
    | Duration.DurationInput
    | Schedule.Schedule<unknown, Cause.Cause<NoInfer<E | E2 | E3> | SessionError>>
    | undefined
  /**
   * The loop breaker against an upstream that refuses what it has just given out: at most `refreshes` within
   * the window. Counted are renewals that `refresh` demanded and values that arrive already expired; expiry,
   * age and `refreshAhead` are not. A value arrives expired if it expires before any caller could be given it, because
   * `onRenewed` took longer, say. Default: 10 within 1 minute.
   */
  readonly budget?: { readonly refreshes: number; readonly within: Duration.DurationInput } | undefined
  /** What the session is called in spans, metrics and errors. Default: `"session"`. */
  readonly name?: string | undefined
}

// -----------------------------------------------------------------------------
// errors
// -----------------------------------------------------------------------------

/**
 * The session's scope was closed before or while the caller asked.
 *
 * @since 0.1.0
 * @category errors
 */
export class SessionClosed extends Data.TaggedError("SessionClosed")<{ readonly session: string }> {
  override get message(): string {
    return `${this.session} is closed`
  }
}

/**
 * `end` was called while the caller waited for a renewal: somebody has signed out. A retry of the same request would
 * sign in again behind their back, so nothing in this library retries it. The next `current` signs in anew.
 *
 * @since 0.1.0
 * @category errors
 */
export class SessionEnded extends Data.TaggedError("SessionEnded")<{ readonly session: string }> {
  override get message(): string {
    return `${this.session} was ended while its renewal was awaited`
  }
}

/**
 * A renewal asked, directly or through another session's renewal, for the value that it is itself to bring; or
 * `onEnd` would have signed in anew. Waiting would be a deadlock. The cure is in the program: renew, and sign out, with
 * a client that does not carry the session.
 *
 * @since 0.1.0
 * @category errors
 */
export class ReentrantRefresh extends Data.TaggedError("ReentrantRefresh")<{ readonly session: string }> {
  override get message(): string {
    return `the renewal of ${this.session} waits for itself`
  }
}

/**
 * A refresh took longer than `timeout`. Its answer may still come, and is kept then: see `lateness`.
 *
 * @since 0.1.0
 * @category errors
 */
export class RefreshTimeout
  extends Data.TaggedError("RefreshTimeout")<{ readonly session: string; readonly timeout: Duration.Duration }>
{
  override get message(): string {
    return `the refresh of ${this.session} took longer than ${Duration.format(this.timeout)}`
  }
}

/**
 * `acquire` or `renew` interrupted itself.
 *
 * @since 0.1.0
 * @category errors
 */
export class RefreshInterrupted extends Data.TaggedError("RefreshInterrupted")<{ readonly session: string }> {
  override get message(): string {
    return `the refresh of ${this.session} interrupted itself`
  }
}

/**
 * The upstream refuses what it has just given out, or gives out what has expired already: more refreshes than `budget`
 * allows. An unexpired generation is still served; refreshing works again when the window has passed.
 *
 * `arrivedExpired` tells the second from the first: the last value had expired before anyone could be given it. Then a
 * clock is wrong, or the lifetime is shorter than `onRenewed` takes.
 *
 * @since 0.1.0
 * @category errors
 */
export class RefreshBudgetExceeded extends Data.TaggedError("RefreshBudgetExceeded")<{
  readonly session: string
  readonly refreshes: number
  readonly within: Duration.Duration
  readonly arrivedExpired?: boolean | undefined
}> {
  override get message(): string {
    const refreshed = `${this.session} was refreshed ${this.refreshes} times within ${Duration.format(this.within)}`
    return this.arrivedExpired ? `${refreshed}, and its values keep arriving expired` : refreshed
  }
}

/**
 * What can go wrong with a session besides the application's own `E`.
 *
 * `InvalidOptions` among them is a refresh whose value had an `expiresAt` that is no time, and a `rejected` of
 * `use` that threw.
 *
 * @since 0.1.0
 * @category errors
 */
export type SessionError =
  | SessionClosed
  | SessionEnded
  | ReentrantRefresh
  | RefreshTimeout
  | RefreshInterrupted
  | RefreshBudgetExceeded
  | InvalidOptions

// -----------------------------------------------------------------------------
// the chain
// -----------------------------------------------------------------------------

/** A link of the chain: a generation, or the start of a chain before anything was acquired. */
interface Link<A, E> {
  readonly generation: Generation<A> | undefined
  /** What the generation's `acquire` or `renew` acquired. */
  readonly resources: Resources.Resources | undefined
  /** From this moment on `current` starts a renewal in the background. */
  readonly refreshAt: number
  phase: Phase<A, E>
  /** The work that asks the upstream for the successor. However late it is, none is begun beside it. */
  work: RenewalWork<A, E> | undefined
  /** Whether a waiter has been given the value, or it expired before: then its renewal is on the budget. */
  arrival: "unserved" | "served" | "expired"
  /** A fatal failure: the credential is forgotten. */
  dead: boolean
  /** Obtained from the upstream, but not yet current (`onRenewed` has not succeeded, say). */
  candidate: Candidate<A> | undefined
  /** How many `use` and `scoped` hold the generation. */
  holders: number
}

/**
 * How far a link has come on the way to its successor. `begin`, `advance`, `fail` and `wake` move it.
 *
 * - `Resting`: no caller has wanted a successor.
 * - `Renewing`: callers wait for `renewal`. Its work is the link's, which an earlier renewal may have begun. If
 *   `isRefused`, a caller has handed the generation to `refresh`, and it is not served meanwhile.
 * - `Cooling`: the last renewal failed, and its failure answers until `until`, on the monotonic clock. Its work may
 *   go on, late.
 */
type Phase<A, E> =
  | { readonly _tag: "Resting" }
  | { readonly _tag: "Renewing"; readonly renewal: SharedRenewal<A, E>; isRefused: boolean }
  | {
    readonly _tag: "Cooling"
    readonly exit: Exit.Exit<never, E | SessionError>
    readonly since: number
    readonly until: number
  }

interface Candidate<A> {
  readonly value: A
  readonly acquiredAt: number
  readonly resources: Resources.Resources
  /** The number of its generation, from when `onRenewed` is first given that. */
  number?: number
}

interface SharedRenewal<A, E> extends Renewal.Renewal<Link<A, E>, E | SessionError> {
  readonly since: number
  work: RenewalWork<A, E> | undefined
  /** The fiber that fails the renewal after `timeout`, and cuts its work after `lateness`. */
  watch: Fiber.RuntimeFiber<void> | undefined
  /** The renewal has failed or is about to: work that it has begun is late, and begins no further try. */
  hasFailed: boolean
}

interface RenewalWork<A, E> extends Renewal.Work {
  /** The renewal that began the work. */
  readonly renewal: SharedRenewal<A, E>
  fiber: Fiber.RuntimeFiber<void> | undefined
  /** Something is in flight while it is `trying`; nothing is while it is `pausing`, before a try. */
  stage: "unstarted" | "pausing" | "trying"
}

type State<A, E> =
  | { readonly _tag: "Open"; readonly head: Link<A, E> }
  | { readonly _tag: "Closed" }

/** What the functions of this module need of a session besides its public half. */
interface SessionImpl<in out A, out E> extends Session<A, E> {
  /**
   * Runs `f` with the current generation, or with the one after another, and holds it meanwhile. `onFailure` decides
   * what comes of a failure, when the generation has been let go. `retain`, for a generation with resources, holds it
   * once more, until the effect that it returns has run (once).
   */
  readonly hold: <B, E2, R, E3, R3>(
    wanted: "current" | { readonly after: Generation<A> },
    f: (generation: Generation<A>, retain?: Retain) => Effect.Effect<B, E2, R>,
    onFailure: (cause: Cause.Cause<E2>, generation: Generation<A>) => Effect.Effect<B, E3, R3>
  ) => Effect.Effect<B, E | SessionError | E3, R | R3>
  readonly scoped: Effect.Effect<Generation<A>, E | SessionError, Scope.Scope>
  readonly changes: Stream.Stream<Generation<A>>
  readonly wake: Effect.Effect<void>
  readonly isFatal: (error: unknown) => boolean
  readonly inFlight: () => Fiber.RuntimeFiber<void> | undefined
}

/**
 * Holds something for longer than a call: until the effect that it returns has run.
 *
 * @internal
 */
export type Retain = () => Effect.Effect<void>

const refreshCounter = Metric.counter("holdfast_session_refreshes_total", {
  description: "Refreshes by outcome: success, failure, timeout, late (kept after a timeout), interrupted or defect",
  incremental: true
})

const waiterGauge = Metric.gauge("holdfast_session_waiters", {
  description: "Callers that waited for the last refresh of a session"
})

// -----------------------------------------------------------------------------
// constructors
// -----------------------------------------------------------------------------

/**
 * Makes a session. Nothing is acquired until the first `current`.
 *
 * Renewals run with the context and the fiber references of the fiber that ran `make`, never with those of the
 * caller who happened to start one. Closing the scope interrupts a renewal in flight, fails its waiters and all
 * later callers with `SessionClosed`, and releases what the generations hold; it does not call `onEnd`.
 *
 * @example
 * ```ts
 * import * as Session from "effect-holdfast/Session"
 * import * as Context from "effect/Context"
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 *
 * interface Token { readonly access: string; readonly refresh: string; readonly expiresAt: number }
 * class SignInFailed { readonly _tag = "SignInFailed" }
 *
 * declare const signIn: Effect.Effect<Token, SignInFailed>
 * declare const exchange: (refreshToken: string) => Effect.Effect<Token, SignInFailed>
 *
 * class ApiSession extends Context.Tag("ApiSession")<ApiSession, Session.Session<Token, SignInFailed>>() {
 *   static readonly layer = Layer.scoped(
 *     ApiSession,
 *     Session.make({
 *       acquire: signIn,
 *       renew: (token) => exchange(token.refresh),
 *       expiresAt: (token) => token.expiresAt,
 *       refreshAhead: "1 minute"
 *     })
 *   )
 * }
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <A, E = never, R = never, E2 = E, R2 = never, E3 = never, R3 = never, R4 = never>(
  options: Options<A, E, R, E2, R2, E3, R3, R4>
): Effect.Effect<Session<A, E | E2 | E3>, InvalidOptions, Types.NoInfer<R | R2 | R3 | R4> | Scope.Scope> =>
  Effect.gen(function*() {
    type Err = E | E2 | E3
    type Env = R | R2 | R3 | R4 | Scope.Scope

    const { budget, cooldown, lateness, maxAge, name, refreshAhead, timeout } = yield* Check.validated(() =>
      validate(options)
    )
    const clock = yield* Effect.clock
    const now = () => clock.unsafeCurrentTimeMillis()
    /** Whole milliseconds of a clock that nobody sets, for what must not depend on the time of day. */
    const monotonic = () => Math.round(Number(clock.unsafeCurrentTimeNanos()) / 1_000_000)

    // Undone in reverse: first the waiters are answered, then the fibers interrupted, then what they held released.
    const allResources = yield* Scope.fork(yield* Effect.scope, ExecutionStrategy.sequential)
    const fork = yield* FiberSet.makeRuntime<Env>()
    const renewed = new Latest<Generation<A>>()

    const self = {}
    const counts = { refreshes: 0, failures: 0, consecutive: 0 }
    /** When the renewals began that are on the budget, on the monotonic clock. */
    const demands: Array<number> = []
    let nextNumber = 0
    let isWriting = false
    const whenWritten = new Waiters()

    const closed = Exit.fail(new SessionClosed({ session: name }))
    const ended = Exit.fail(new SessionEnded({ session: name }))
    const reentrant = Exit.fail(new ReentrantRefresh({ session: name }))

    // --- the links -----------------------------------------------------------

    const makeLink = (
      fields: Partial<Pick<Link<A, Err>, "generation" | "resources" | "refreshAt">> = {}
    ): Link<A, Err> => ({
      generation: undefined,
      resources: undefined,
      refreshAt: Infinity,
      ...fields,
      phase: resting,
      work: undefined,
      arrival: "unserved",
      dead: false,
      candidate: undefined,
      holders: 0
    })

    const generationFrom = (number: number, value: A, acquiredAt: number, expiresAt: number): Generation<A> => ({
      [GenerationTypeId]: self,
      number,
      value,
      acquiredAt,
      expiresAt: Math.min(expiresAt, acquiredAt + maxAge)
    })

    /** When `current` is to start a renewal in the background: in the window, but in the lifetime's second half. */
    const refreshAtOf = (generation: Generation<A>): Effect.Effect<number> => {
      if (refreshAhead === undefined || generation.expiresAt === Infinity) return Effect.succeed(Infinity)
      const window = Math.min(refreshAhead, (generation.expiresAt - generation.acquiredAt) / 2)
      return Effect.map(Random.next, (random) => generation.expiresAt - window * (1 - random / 10))
    }

    const isDetached = (link: Link<A, Err>): boolean => state._tag === "Closed" || state.head !== link

    const isExpired = ({ expiresAt }: Generation<A>): boolean => expiresAt !== Infinity && expiresAt <= now()

    const isServable = (link: Link<A, Err>): boolean =>
      link.generation !== undefined && !link.dead && !isExpired(link.generation)

    // --- asking --------------------------------------------------------------

    /** The happy path: a generation that can be served and needs no looking after. */
    const readyLink = (): Link<A, Err> | undefined => {
      if (state._tag === "Closed") return undefined
      const link = state.head
      return link.phase._tag !== "Renewing" && isServable(link) &&
          (link.refreshAt === Infinity || now() < link.refreshAt)
        ? link
        : undefined
    }

    /** The link whose generation is current; waits for its successor if it may not be served. */
    const currentLink: Effect.Effect<Link<A, Err>, Err | SessionError> = Effect.withFiberRuntime((fiber) => {
      const ready = readyLink()
      if (ready !== undefined) return Effect.succeed(ready)
      if (state._tag === "Closed") return closed
      const link = state.head
      if (!isServable(link) || (link.phase._tag === "Renewing" && link.phase.isRefused)) {
        return successorOf(link, fiber, false)
      }
      return renewalOf(link, fiber, false) === reentrant ? reentrant : Effect.succeed(link)
    })

    /** The link after the one whose generation was refused. */
    const linkAfter = (stale: Generation<A>): Effect.Effect<Link<A, Err>, Err | SessionError> =>
      Effect.withFiberRuntime((fiber) => {
        if (state._tag === "Closed") return closed
        const link = state.head
        const isStraggler = stale[GenerationTypeId] !== self || stale.number !== link.generation?.number
        return isStraggler ? currentLink : successorOf(link, fiber, true)
      })

    const successorOf = (
      link: Link<A, Err>,
      fiber: AnyFiber,
      isRefused: boolean
    ): Effect.Effect<Link<A, Err>, Err | SessionError> => {
      const renewal = renewalOf(link, fiber, isRefused)
      return Exit.isExit(renewal)
        ? renewal
        : Effect.flatMap(Renewal.join(renewal, reentrant), (next) => {
          if (!isServable(next)) {
            noteExpired(next)
            return currentLink
          }
          next.arrival = "served"
          return Effect.succeed(next)
        })
    }

    /**
     * The one door to a successor: the renewal under way or else a new one, unless something stands against it. All of
     * it is one step, so that no two fibers can each begin a renewal.
     */
    const renewalOf = (
      link: Link<A, Err>,
      fiber: AnyFiber,
      isRefused: boolean
    ): SharedRenewal<A, Err> | Exit.Exit<never, Err | SessionError> => {
      const refusal = link.phase._tag === "Renewing" ? undefined : refusalOf(link, isRefused)
      if (refusal !== undefined) return refusal
      if (Renewal.workOf(fiber)?.session === self) return reentrant
      if (link.phase._tag !== "Renewing") return begin(link, isRefused)
      link.phase.isRefused ||= isRefused
      return link.phase.renewal
    }

    /** The failure that stands against beginning a renewal of this link now: a cooldown's, or the budget's. */
    const refusalOf = (link: Link<A, Err>, isRefused: boolean): Exit.Exit<never, Err | SessionError> | undefined => {
      if (link.phase._tag === "Cooling" && monotonic() < link.phase.until) return link.phase.exit
      // A renewal that waits for a late answer asks the upstream for nothing yet.
      const error = link.work === undefined ? overBudget(link, isRefused) : undefined
      return error === undefined ? undefined : Exit.fail(error)
    }

    const overBudget = (link: Link<A, Err>, isRefused: boolean): RefreshBudgetExceeded | undefined => {
      const arrivedExpired = link.arrival === "expired"
      if (!isRefused && !arrivedExpired) return undefined
      const windowStart = monotonic() - Duration.toMillis(budget.within)
      while (demands.length > 0 && demands[0]! <= windowStart) demands.shift()
      return demands.length < budget.refreshes
        ? undefined
        : new RefreshBudgetExceeded({ session: name, ...budget, arrivedExpired })
    }

    /** The value has expired before anyone had it. An age of 1 ms may be no more than a tick of the clock. */
    const noteExpired = (link: Link<A, Err>): void => {
      const { acquiredAt, expiresAt } = link.generation!
      if (link.arrival !== "unserved" || (acquiredAt < expiresAt && now() < acquiredAt + 2)) return
      link.arrival = "expired"
      demands.push(monotonic())
    }

    // --- moving --------------------------------------------------------------

    const begin = (link: Link<A, Err>, isRefused: boolean): SharedRenewal<A, Err> => {
      const renewal: SharedRenewal<A, Err> = {
        ...Renewal.make(),
        since: now(),
        work: link.work,
        watch: undefined,
        hasFailed: false
      }
      link.phase = { _tag: "Renewing", renewal, isRefused }
      renewal.watch = fork(watch(link, renewal), { immediate: false })
      // A late answer is waited for: two renewals beside each other would present the same token.
      if (link.work === undefined) startWork(link, renewal, isRefused)
      return renewal
    }

    const startWork = (link: Link<A, Err>, renewal: SharedRenewal<A, Err>, isRefused: boolean): void => {
      const work: RenewalWork<A, Err> = { ...Renewal.makeWork(self), renewal, fiber: undefined, stage: "unstarted" }
      if (isRefused) demands.push(monotonic())
      link.work = renewal.work = work
      // A cached effect runs on the fiber of its first caller: interrupt that one, and all who share it are interrupted
      // with it, for ever. The work has a fiber of its own.
      work.fiber = fork(
        Effect.suspend(() => {
          work.stage = "pausing"
          return renewal.hasFailed ? Effect.interrupt : renew(link, work)
        }).pipe(
          Effect.withSpan("Session.refresh", { attributes: { session: name } }),
          Renewal.within(work),
          Effect.interruptible,
          Effect.exit,
          Effect.flatMap((exit) => afterWork(link, work, exit)),
          Effect.uninterruptible
        ),
        { immediate: false }
      )
    }

    /** Moves the chain by what has become of the work, in the step after its end. */
    const afterWork = (
      link: Link<A, Err>,
      work: RenewalWork<A, Err>,
      exit: Exit.Exit<Link<A, Err>, Err | SessionError>
    ): Effect.Effect<void, never, Env> =>
      Effect.suspend(() => {
        const { renewal } = work
        work.isOver = true
        link.work = undefined
        if (isDetached(link)) {
          stopWatch(renewal)
          // The value of a renewal that `end` has detached is revoked.
          return state._tag === "Open" ? discardCandidate(link) : Effect.void
        }
        if (Exit.isSuccess(exit)) {
          stopWatch(renewal)
          const waiters = advance(link, exit.value)
          return Effect.zipRight(report(renewal.hasFailed ? "late" : "success", waiters), releaseUnheld(link))
        }
        if (!renewal.hasFailed) {
          stopWatch(renewal)
          renewal.hasFailed = true
          return fail(link, renewal, causeOf(exit.cause))
        }
        // Until then the watch is telling the waiters that their time is over.
        if (renewal.outcome !== undefined) stopWatch(renewal)
        const turn = takeTurn(link)
        return Effect.zipRight(Effect.logDebug(`${name}: a late refresh failed`), turn)
      })

    /** The renewal that waited behind late work, if there is one, begins its own. */
    const takeTurn = (link: Link<A, Err>): Effect.Effect<void> => {
      const { phase } = link
      if (phase._tag !== "Renewing" || phase.renewal.hasFailed) return Effect.void
      const error = overBudget(link, phase.isRefused)
      if (error === undefined) {
        startWork(link, phase.renewal, phase.isRefused)
        return Effect.void
      }
      stopWatch(phase.renewal)
      phase.renewal.hasFailed = true
      return fail(link, phase.renewal, Cause.fail(error))
    }

    /** The successor becomes current, in time or late. Gives how many waited for it. */
    const advance = (link: Link<A, Err>, next: Link<A, Err>): number => {
      const { phase } = link
      link.candidate = undefined
      link.phase = resting
      cooldown.reset()
      counts.refreshes++
      counts.consecutive = 0
      state = { _tag: "Open", head: next }
      if (isExpired(next.generation!)) noteExpired(next)
      else renewed.offer(next.generation!)
      if (phase._tag !== "Renewing") return 0
      stopWatch(phase.renewal)
      return Renewal.answer(phase.renewal, Exit.succeed(next))
    }

    /** The failure is told to the waiters, and remembered until its cooldown has passed. */
    const fail = Effect.fnUntraced(function*(
      link: Link<A, Err>,
      renewal: SharedRenewal<A, Err>,
      cause: Cause.Cause<Err | SessionError>
    ) {
      if (isDetached(link)) return
      const cooldownMillis = yield* Effect.interruptible(cooldown.next(cause, monotonic()))
      if (isDetached(link) || link.phase._tag !== "Renewing" || link.phase.renewal !== renewal) return
      const exit = Exit.failCause(cause)
      link.phase = { _tag: "Cooling", exit, since: now(), until: monotonic() + cooldownMillis }
      counts.failures++
      counts.consecutive++
      yield* report(failureLabel(cause), Renewal.answer(renewal, exit))
    })

    /** Gives the renewal its time. Work that is in flight then goes on, late, until its own time is over. */
    const watch = (link: Link<A, Err>, renewal: SharedRenewal<A, Err>): Effect.Effect<void> =>
      Effect.interruptible(Effect.gen(function*() {
        yield* Effect.sleep(timeout)
        if (renewal.hasFailed) return
        renewal.hasFailed = true
        const own = renewal.work?.renewal === renewal ? renewal.work : undefined
        if (own !== undefined && (own.stage !== "trying" || lateness === 0)) cut(own)
        yield* fail(link, renewal, Cause.fail(new RefreshTimeout({ session: name, timeout })))
        if (own === undefined || own.isOver) return
        yield* sleep(lateness)
        // Of a process that has stood still meanwhile the timers run first. Some turns of the event loop let the answer
        // in that has been lying in the socket's buffer.
        yield* Effect.repeatN(Effect.sleep(0), 9)
        cut(own)
      }))

    const cut = ({ fiber, isOver, stage }: RenewalWork<A, Err>): void => {
      // A fiber that is interrupted before its first operation runs none, and nobody would learn of its end. Work that
      // has not started sees for itself that it comes too late.
      if (!isOver && stage !== "unstarted") fiber?.unsafeInterruptAsFork(FiberId.none)
    }

    const stopWatch = ({ watch }: SharedRenewal<A, Err>): void => watch?.unsafeInterruptAsFork(FiberId.none)

    // --- renewing ------------------------------------------------------------

    const renew = Effect.fnUntraced(function*(link: Link<A, Err>, work: RenewalWork<A, Err>) {
      if (link.candidate === undefined || !isFresh(link.candidate)) yield* obtain(link, work)
      // A renewal that `end` has detached brings nothing that is to be written down.
      if (isDetached(link)) return yield* ended
      const candidate = link.candidate!
      const { acquiredAt, resources, value } = candidate
      const expiresAt = yield* expiryOf(value)
      // A number is never given twice, lest `refresh` take one of two generations for the other.
      candidate.number ??= nextNumber++
      const generation = generationFrom(candidate.number, value, acquiredAt, expiresAt)
      if (options.onRenewed !== undefined) {
        yield* retrying(work, writtenDown(link, generation), () => false)
      }
      return makeLink({ generation, resources, refreshAt: yield* refreshAtOf(generation) })
    })

    /**
     * Gives the generation to `onRenewed`. A write that `end` has detached goes on, for half a write helps nobody; the
     * next write waits for its end, lest the older value overwrite the newer one.
     */
    const writtenDown = (link: Link<A, Err>, generation: Generation<A>): Effect.Effect<void, Err, Env> =>
      Effect.zipRight(
        Waiters.until(() => isWriting ? undefined : Exit.void, whenWritten),
        Effect.acquireUseRelease(
          // Of the renewals that have waited for the write, `end` has detached all but one.
          Effect.sync(() => !isDetached(link) && (isWriting = true)),
          (isOwn): Effect.Effect<void, Err, Env> => isOwn ? options.onRenewed!(generation) : Effect.void,
          (isOwn) =>
            Effect.sync(() => {
              if (!isOwn) return
              isWriting = false
              whenWritten.notify()
            })
        )
      )

    const obtain = (link: Link<A, Err>, work: RenewalWork<A, Err>): Effect.Effect<void, Err, Env> => {
      const acquire = retrying(work, candidateFrom(link, options.acquire), isFatal)
      // A value that is kept after a fatal failure came from the `acquire` that followed it.
      const spent = link.candidate ?? (link.dead ? undefined : link.generation)
      if (spent === undefined) return acquire
      const forget = Effect.suspend(() => {
        const { candidate } = link
        link.dead = true
        link.candidate = undefined
        if (!isDetached(link)) renewed.clear()
        return candidate === undefined ? Effect.void : Effect.uninterruptible(release(candidate.resources))
      })
      return options.renew === undefined
        ? Effect.tapError(acquire, (error) => isFatal(error) ? forget : Effect.void)
        : retrying(work, candidateFrom(link, Effect.suspend(() => options.renew!(spent.value))), isFatal).pipe(
          Effect.catchIf(
            isFatal,
            (error) =>
              Effect.zipRight(forget, Effect.suspend(() => work.renewal.hasFailed ? Effect.fail(error) : acquire))
          )
        )
    }

    /**
     * The value is kept on the link in the step in which the effect succeeds: no interruption after that can lose it.
     * (An uninterruptible effect that is interrupted has not succeeded for Effect, which drops its value.)
     */
    const candidateFrom = (link: Link<A, Err>, effect: Effect.Effect<A, Err, Env>) =>
      Effect.uninterruptibleMask((restore) =>
        Effect.flatMap(Resources.make(allResources), (resources) => {
          const former = link.candidate
          const kept = Effect.map(effect, (value) => {
            resources.seal()
            link.candidate = { value, acquiredAt: now(), resources }
          })
          return Effect.onExit(restore(Scope.extend(kept, resources.watched)), (exit) => {
            if (link.candidate?.resources !== resources) return Scope.close(resources.scope, exit)
            return former === undefined ? Effect.void : release(former.resources)
          })
        })
      )

    // `fatal` and `retry` are given the error itself: the session's own span has wrapped it in a proxy, which is not
    // identical to it and has none of its private fields.
    const isFatal = (error: Err): boolean =>
      options.fatal !== undefined && options.fatal(Cause.originalError(error) as E | E2)

    const retry = options.retry === undefined
      ? undefined
      : Schedule.mapInput(options.retry, (error: Err) => Cause.originalError(error))

    /** Tries, and tries again as `retry` says, but not once the refresh has failed. */
    const retrying = <B>(
      work: RenewalWork<A, Err>,
      effect: Effect.Effect<B, Err, Env>,
      isFinal: (error: Err) => boolean
    ): Effect.Effect<B, Err, Env> => {
      const once = Effect.suspend(() => {
        work.stage = "trying"
        return effect
      })
      return retry === undefined ? once : Effect.retry(once, {
        schedule: retry,
        while: (error) => {
          if (isFinal(error) || work.renewal.hasFailed) return false
          work.stage = "pausing"
          return true
        }
      })
    }

    const expiryOf = (value: A): Either.Either<number, InvalidOptions> => {
      if (options.expiresAt === undefined) return Either.right(Infinity)
      const invalid = (got: unknown, reason: string) =>
        Either.left(new InvalidOptions({ option: "expiresAt", value: got, reason }))
      let at: DateTime.Utc | number | undefined
      try {
        at = options.expiresAt(value)
      } catch (error) {
        return invalid(nameOfThrown(error), "must not throw")
      }
      const millis = at === undefined ? Infinity : DateTime.isDateTime(at) ? DateTime.toEpochMillis(at) : at
      if (typeof millis !== "number" || Number.isNaN(millis)) {
        return invalid(millis, "must be epoch milliseconds or a DateTime")
      }
      return typeof at === "number" && millis > 0 && millis < now() - tenYears
        ? invalid(millis, "must be epoch milliseconds, and looks like seconds (multiply by 1000)")
        : Either.right(millis)
    }

    const isFresh = (candidate: Candidate<A>): boolean =>
      Either.match(expiryOf(candidate.value), {
        onLeft: () => false,
        onRight: (expiresAt) => now() < Math.min(expiresAt, candidate.acquiredAt + maxAge)
      })

    // --- beginning and ending ------------------------------------------------

    let state: State<A, Err> = { _tag: "Open", head: makeLink() }
    if (options.initial !== undefined) {
      const generation = generationFrom(nextNumber++, options.initial, now(), yield* expiryOf(options.initial))
      const refreshAt = yield* refreshAtOf(generation)
      state = { _tag: "Open", head: { ...makeLink({ generation, refreshAt }), arrival: "served" } }
    }

    const end = Effect.suspend(() => {
      if (state._tag === "Closed") return Effect.void
      const link = state.head
      state = { _tag: "Open", head: makeLink() }
      renewed.clear()
      cooldown.reset()
      counts.consecutive = 0
      if (link.phase._tag === "Renewing") {
        const { renewal } = link.phase
        if (renewal.work?.renewal !== renewal) stopWatch(renewal)
        Renewal.answer(renewal, ended)
      }
      const revoked = link.generation === undefined || link.dead ? Effect.void : revoke(link.generation.value)
      // Work that goes on discards what it brings at its end.
      const discarded = link.work === undefined ? Effect.suspend(() => discardCandidate(link)) : Effect.void
      return finish(revoked.pipe(
        Effect.ensuring(discarded),
        Effect.ensuring(Effect.suspend(() => releaseUnheld(link)))
      ))
    })

    const close = Effect.sync(() => {
      const { head } = state as Extract<State<A, Err>, { readonly _tag: "Open" }>
      state = { _tag: "Closed" }
      if (head.phase._tag === "Renewing") Renewal.answer(head.phase.renewal, closed)
      renewed.end()
    })

    /**
     * Runs to its end on a fiber of the session's own; the caller only waits for it. The closing of the session's scope
     * interrupts that fiber, which ends its work none the less; the interruption is not the caller's.
     */
    const finish = (effect: Effect.Effect<void, never, Env>): Effect.Effect<void> =>
      Effect.flatMap(
        Fiber.await(fork(Effect.uninterruptible(effect))),
        (exit) =>
          Exit.isSuccess(exit) ? Effect.void : Option.match(Cause.keepDefects(exit.cause), {
            onNone: () => Effect.void,
            onSome: Effect.failCause
          })
      )

    const revoke = (value: A): Effect.Effect<void, never, Env> =>
      Effect.suspend(() => {
        if (options.onEnd === undefined) return Effect.void
        const work = Renewal.makeWork(self)
        return Effect.suspend(() => options.onEnd!(value)).pipe(
          Renewal.within(work),
          Effect.ensuring(Effect.sync(() => {
            work.isOver = true
          }))
        )
      })

    const discardCandidate = (link: Link<A, Err>): Effect.Effect<void, never, Env> => {
      const { candidate } = link
      if (candidate === undefined) return Effect.void
      link.candidate = undefined
      return Effect.ensuring(revoke(candidate.value), release(candidate.resources))
    }

    const release = ({ scope }: Resources.Resources): Effect.Effect<void> =>
      Effect.catchAllCause(
        Scope.close(scope, Exit.void),
        (cause) => Effect.logError(`${name}: a superseded generation could not be released`, cause)
      )

    const isUnheld = (link: Link<A, Err>): boolean =>
      state._tag === "Open" && state.head !== link && link.holders === 0 && !link.resources?.isPinned()

    const releaseUnheld = (link: Link<A, Err>): Effect.Effect<void> =>
      isUnheld(link) && link.resources !== undefined ? finish(release(link.resources)) : Effect.void

    /** A failed refresh as its waiters get it. */
    const causeOf = (cause: Cause.Cause<Err | SessionError>): Cause.Cause<Err | SessionError> =>
      Cause.isInterruptedOnly(cause) ? Cause.fail(new RefreshInterrupted({ session: name })) : withoutSpan(cause)

    const report = (label: string, waiters: number) =>
      Effect.all([
        Metric.increment(
          Metric.taggedWithLabels(refreshCounter, [
            MetricLabel.make("session", name),
            MetricLabel.make("outcome", label)
          ])
        ),
        Metric.set(Metric.tagged(waiterGauge, "session", name), waiters),
        Effect.logDebug(`${name}: refresh ended in ${label}, ${waiters} waited for it`)
      ], { discard: true })

    // --- holding -------------------------------------------------------------

    const held = (
      restore: <B, E5, R5>(effect: Effect.Effect<B, E5, R5>) => Effect.Effect<B, E5, R5>,
      wanted: Effect.Effect<Link<A, Err>, Err | SessionError>
    ): Effect.Effect<Link<A, Err>, Err | SessionError> =>
      Effect.flatMap(restore(wanted), (link) => {
        // A waiter that wakes late may find that its generation has been released or has expired.
        if (isUnheld(link) || !isServable(link)) return held(restore, currentLink)
        link.holders++
        return Effect.succeed(link)
      })

    const letGo = (link: Link<A, Err>): Effect.Effect<void> => {
      link.holders--
      return releaseUnheld(link)
    }

    const hold: SessionImpl<A, Err>["hold"] = (wanted, f, onFailure) =>
      Effect.suspend(() => {
        const ready = wanted === "current" ? readyLink() : undefined
        if (ready !== undefined && !ready.resources?.isUsed()) {
          const generation = ready.generation!
          return Effect.catchAllCause(f(generation), (cause) => onFailure(cause, generation))
        }
        return Effect.uninterruptibleMask((restore) =>
          Effect.flatMap(held(restore, wanted === "current" ? currentLink : linkAfter(wanted.after)), (link) => {
            const generation = link.generation!
            const retain = link.resources?.isUsed() !== true ? undefined : () => {
              link.holders++
              return Effect.suspend(() => letGo(link))
            }
            return Effect.matchCauseEffect(restore(Effect.suspend(() => f(generation, retain))), {
              onFailure: (cause) => Effect.zipRight(letGo(link), restore(onFailure(cause, generation))),
              onSuccess: (value) => Effect.as(letGo(link), value)
            })
          })
        )
      })

    yield* Effect.addFinalizer(() => close)

    return Object.assign(
      Object.create(Proto),
      {
        current: Effect.suspend(() => {
          const ready = readyLink()
          return ready === undefined ? Effect.map(currentLink, generationOf) : Effect.succeed(ready.generation!)
        }),
        refresh: (stale) => Effect.map(linkAfter(stale), generationOf),
        end,
        status: Effect.sync((): SessionStatus => {
          const { failures, refreshes, consecutive } = counts
          if (state._tag === "Closed") return { _tag: "Closed", refreshes, failures }
          const { generation, phase } = state.head
          const serving = isServable(state.head) && !(phase._tag === "Renewing" && phase.isRefused)
          switch (phase._tag) {
            case "Renewing": {
              const { since, waiters } = phase.renewal
              return { _tag: "Refreshing", since, waiters: waiters.size, serving, refreshes, failures }
            }
            case "Cooling": {
              const retryAt = now() + phase.until - monotonic()
              return { _tag: "Failing", consecutive, since: phase.since, retryAt, serving, refreshes, failures }
            }
            case "Resting": {
              if (generation === undefined) return { _tag: "Idle", refreshes, failures }
              const { acquiredAt, expiresAt, number } = generation
              return { _tag: "Active", generation: number, acquiredAt, expiresAt, refreshes, failures }
            }
          }
        }),
        hold,
        isFatal: (error) => isFatal(error as Err),
        // A sign-in from nothing spends nothing.
        inFlight: () => state._tag === "Open" && options.renew !== undefined ? state.head.work?.fiber : undefined,
        scoped: Effect.uninterruptibleMask((restore) =>
          Effect.flatMap(
            held(restore, currentLink),
            (link) => Effect.as(Effect.addFinalizer(() => Effect.suspend(() => letGo(link))), link.generation!)
          )
        ),
        changes: Stream.suspend(() =>
          state._tag === "Closed" ?
            Stream.empty :
            renewed.changes(() =>
              state._tag === "Open" && !state.head.dead ? Option.fromNullable(state.head.generation) : Option.none()
            )
        ).pipe(Stream.filter((generation) => !isExpired(generation))),
        wake: Effect.sync(() => {
          if (state._tag === "Closed" || state.head.phase._tag !== "Cooling") return
          state.head.phase = { ...state.head.phase, until: monotonic() }
        })
      } satisfies Omit<SessionImpl<A, Err>, typeof TypeId | "pipe">
    )
  })

const Proto = {
  [TypeId]: { _A: (_: never) => _, _E: (_: never) => _ },
  pipe() {
    return pipeArguments(this, arguments)
  }
}

type AnyFiber = Fiber.RuntimeFiber<unknown, unknown>

const resting = { _tag: "Resting" } as const

/** In milliseconds. No value that is worth having expired so long ago: what seems to have is in seconds. */
const tenYears = 10 * 365 * 86_400_000

const generationOf = <A, E>(link: Link<A, E>): Generation<A> => link.generation!

/** A span wraps each error that is raised in it in a proxy. The waiters get the error itself. */
const withoutSpan = <E>(cause: Cause.Cause<E>): Cause.Cause<E> =>
  Cause.match(cause, {
    onEmpty: Cause.empty as Cause.Cause<E>,
    onFail: (error) => Cause.fail(Cause.originalError(error)),
    onDie: (defect) => Cause.die(Cause.originalError(defect)),
    onInterrupt: Cause.interrupt,
    onSequential: Cause.sequential,
    onParallel: Cause.parallel
  })

const nameOfThrown = (thrown: unknown): string => Predicate.isError(thrown) ? thrown.name : typeof thrown

const failureLabel = (cause: Cause.Cause<unknown>): string => {
  const failure = Cause.failureOption(cause)
  if (Option.isNone(failure)) return "defect"
  return failure.value instanceof RefreshTimeout
    ? "timeout"
    : failure.value instanceof RefreshInterrupted
    ? "interrupted"
    : "failure"
}

const validate = (options: Options<any, any, any, any, any, any, any, any>) => {
  const timeout = Check.duration("timeout", options.timeout ?? "30 seconds", { min: "1 millis" })
  return {
    timeout,
    lateness: millisOf("lateness", options.lateness ?? (options.renew === undefined ? 0 : timeout), 0),
    name: options.name ?? "session",
    maxAge: millisOf("maxAge", options.maxAge ?? Duration.infinity, "1 millis"),
    refreshAhead: options.refreshAhead === undefined
      ? undefined
      : millisOf("refreshAhead", options.refreshAhead, "1 millis"),
    cooldown: Cooldown.make(
      options.cooldown === undefined
        ? Backoff.exponential({ initial: "1 second", max: "30 seconds", jitter: "none" })
        : Schedule.isSchedule(options.cooldown)
        ? options.cooldown as Schedule.Schedule<unknown, Cause.Cause<any>>
        : Schedule.spaced(Check.duration("cooldown", options.cooldown, { min: 0 }))
    ),
    budget: {
      refreshes: Check.count("budget.refreshes", options.budget?.refreshes ?? 10, 1),
      within: Check.duration("budget.within", options.budget?.within ?? "1 minute", {
        min: "1 millis",
        max: Duration.infinity
      })
    }
  }
}

const millisOf = (option: string, value: Duration.DurationInput, min: Duration.DurationInput): number =>
  Duration.toMillis(Check.duration(option, value, { min, max: Duration.infinity }))

// -----------------------------------------------------------------------------
// combinators
// -----------------------------------------------------------------------------

/**
 * Runs `f` with the session's value. If it fails with an error that `rejected` recognises as a refusal of the
 * value, the generation it ran with is refreshed and `f` runs again with its successor, at most `maxRefreshes`
 * times (default 1); then its failure is the answer. Without `rejected` nothing is a refusal.
 *
 * The generation is held meanwhile: what its `acquire` acquired stays open until `f` has ended.
 *
 * @example
 * ```ts
 * import * as Session from "effect-holdfast/Session"
 * import * as Effect from "effect/Effect"
 *
 * class Unauthorized { readonly _tag = "Unauthorized" }
 * declare const fetchOrders: (token: string) => Effect.Effect<ReadonlyArray<string>, Unauthorized>
 * declare const session: Session.Session<string>
 *
 * const orders = Session.use(session, fetchOrders, { rejected: (error) => error._tag === "Unauthorized" })
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const use: {
  <A, B, E2, R>(
    f: (value: A) => Effect.Effect<B, E2, R>,
    options?: UseOptions<E2>
  ): <E>(self: Session<A, E>) => Effect.Effect<B, E | E2 | SessionError, R>
  <A, E, B, E2, R>(
    self: Session<A, E>,
    f: (value: A) => Effect.Effect<B, E2, R>,
    options?: UseOptions<E2>
  ): Effect.Effect<B, E | E2 | SessionError, R>
} = dual(
  (args) => isSession(args[0]),
  <A, E, B, E2, R>(
    self: Session<A, E>,
    f: (value: A) => Effect.Effect<B, E2, R>,
    options: UseOptions<E2> = {}
  ): Effect.Effect<B, E | E2 | SessionError, R> => {
    const { rejected } = options
    const run = (
      wanted: "current" | { readonly after: Generation<A> },
      refreshes: number
    ): Effect.Effect<B, E | E2 | SessionError, R> =>
      hold(
        self,
        wanted,
        ({ value }) => f(value),
        (cause, generation): Effect.Effect<B, E | E2 | SessionError, R> => {
          const failure = refreshes === 0 || rejected === undefined ? Option.none() : Cause.failureOption(cause)
          if (Option.isNone(failure)) return Effect.failCause(cause)
          try {
            return rejected!(failure.value) ? run({ after: generation }, refreshes - 1) : Effect.failCause(cause)
          } catch (error) {
            return new InvalidOptions({ option: "rejected", value: nameOfThrown(error), reason: "must not throw" })
          }
        }
      )
    return options.maxRefreshes === undefined ? run("current", 1) : Effect.flatMap(
      Check.validated(() => Check.count("maxRefreshes", options.maxRefreshes!, 0)),
      (maxRefreshes) => run("current", maxRefreshes)
    )
  }
)

/**
 * @since 0.1.0
 * @category models
 */
export interface UseOptions<in E> {
  /** Whether a failure says that the value was refused. */
  readonly rejected?: ((error: E) => boolean) | undefined
  /** How often one call may refresh. Default: 1. */
  readonly maxRefreshes?: number | undefined
}

/**
 * What `use` is made of, for those who decide by more than a predicate what comes of a failure.
 *
 * @internal
 */
export const hold = <A, E, B, E2, R, E3, R3>(
  self: Session<A, E>,
  wanted: "current" | { readonly after: Generation<A> },
  f: (generation: Generation<A>, retain?: Retain) => Effect.Effect<B, E2, R>,
  onFailure: (cause: Cause.Cause<E2>, generation: Generation<A>) => Effect.Effect<B, E3, R3>
): Effect.Effect<B, E | SessionError | E3, R | R3> => (self as SessionImpl<A, E>).hold(wanted, f, onFailure)

/**
 * Whether the session's `fatal` knows the error, so that asking again would present the same dead credential.
 *
 * @internal
 */
export const isFatal = <A, E>(self: Session<A, E>, error: unknown): boolean =>
  (self as SessionImpl<A, E>).isFatal(error)

/**
 * The fiber that obtains the session's next value by `renew` at the moment, late or not. It may have spent a token that
 * can be spent only once, so that whatever drops the session waits for it.
 *
 * @internal
 */
export const inFlight = <A, E>(self: Session<A, E>): Fiber.RuntimeFiber<void> | undefined =>
  (self as SessionImpl<A, E>).inFlight()

/**
 * The current generation, held until the scope closes: what its `acquire` acquired stays open, also after it
 * has been superseded. For work that outlives a call, such as a streamed body.
 *
 * @example
 * ```ts
 * import * as Session from "effect-holdfast/Session"
 * import * as Effect from "effect/Effect"
 * import * as Stream from "effect/Stream"
 *
 * declare const session: Session.Session<{ readonly rows: Stream.Stream<string> }>
 *
 * const rows = Stream.unwrapScoped(Effect.map(Session.scoped(session), ({ value }) => value.rows))
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const scoped = <A, E>(self: Session<A, E>): Effect.Effect<Generation<A>, E | SessionError, Scope.Scope> =>
  (self as SessionImpl<A, E>).scoped

/**
 * Ends the cooldown of a failed refresh: the next caller tries again immediately. For the moment at which something
 * else tells that the upstream can be reached again, such as the network's return.
 *
 * The value is kept, and nothing is begun by itself. Consecutive failures (the next cooldown's length) and the budget
 * stay as they are, and a late answer (`lateness`) is still waited for. Without a cooldown nothing happens.
 *
 * @example
 * ```ts
 * import * as Session from "effect-holdfast/Session"
 * import * as Effect from "effect/Effect"
 * import * as Stream from "effect/Stream"
 *
 * declare const online: Stream.Stream<void>
 * declare const session: Session.Session<string>
 *
 * const wakingUp = Stream.runForEach(online, () => Session.wake(session))
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const wake = <A, E>(self: Session<A, E>): Effect.Effect<void> => (self as SessionImpl<A, E>).wake

/**
 * The current generation, if there is one, then each that becomes current. None is among them that had expired or been
 * forgotten (`end`, `fatal`) when it was to be read. A slow reader gets the latest and misses those between. Acquires
 * nothing by itself; ends when the session's scope closes.
 *
 * @example
 * ```ts
 * import * as Session from "effect-holdfast/Session"
 * import * as Effect from "effect/Effect"
 * import * as Stream from "effect/Stream"
 *
 * declare const session: Session.Session<string>
 *
 * const logged = Stream.runForEach(Session.changes(session), ({ number }) => Effect.log(`generation ${number}`))
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const changes = <A, E>(self: Session<A, E>): Stream.Stream<Generation<A>> => (self as SessionImpl<A, E>).changes

// -----------------------------------------------------------------------------
// guards
// -----------------------------------------------------------------------------

/**
 * @since 0.1.0
 * @category guards
 */
export const isSession = (u: unknown): u is Session<unknown, unknown> => Predicate.hasProperty(u, TypeId)
