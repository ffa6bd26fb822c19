/**
 * One value that many callers share (a token, a cookie jar, a signed-in client), which is replaced once, however many
 * callers notice that it is stale.
 *
 * **The idea.** A session is a chain of *generations*. Each generation holds its value and a cached effect that yields
 * its *successor*. The first caller who finds generation 7 refused makes 7's effect, which starts the renewal; the
 * others run the same effect, and a straggler who comes back a minute later with generation 7 is given the current
 * generation immediately. Whether a caller is stale depends only on the generation that it holds, and on no flag, key
 * or comparison of clocks.
 *
 * Plain `Effect.cached` is not enough: it runs on the first caller's fiber, and the interruption of that caller would
 * become the result of all callers, for ever. So the cached effect forks the renewal into the session's scope and waits
 * for it. Only `successor` in `internal/session/chain.ts` gives access to a cached effect; `refresh.ts` beside it has
 * the forked work.
 *
 * **What it guarantees.** A generation is renewed once, however many callers ask and however late; two renewals of one
 * session never run at the same time, except for one that `end` has detached. The interruption of a caller does not
 * affect a renewal or another caller, because a renewal runs in the session's own scope. A new generation becomes
 * current only when its renewal has completely succeeded; after a failure, a defect or an interruption the session is
 * unchanged, and all waiting callers get the same cause. No expired value is handed out. An answer that comes after
 * `timeout` is kept (`lateness`). A renewal that asks its own session, or an `onRenewed` or `onEnd` that would start a
 * renewal or wait for one, fails immediately and never waits for itself. Cooldown, budget and timeouts do not depend on
 * the time of day: setting the clock back does not prolong a failure.
 *
 * **What it does not.** The session does not know whether a value is valid: you tell it, with `refresh`, `use` or an
 * expiry. It cannot recover a single-use token that was presented by a process which then died, or whose answer takes
 * longer than `timeout` and `lateness` together. A renewal that leaves Effect's fibers (a promise that runs an effect
 * on another runtime) loses the mark by which a circle is recognised, and then only `timeout` ends the wait.
 *
 * @since 0.1.0
 */

import * as Cause from "effect/Cause"
import type * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Data from "effect/Data"
import type * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as ExecutionStrategy from "effect/ExecutionStrategy"
import * as Exit from "effect/Exit"
import * as FiberSet from "effect/FiberSet"
import { dual } from "effect/Function"
import type * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import { type Pipeable, pipeArguments } from "effect/Pipeable"
import * as Predicate from "effect/Predicate"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type * as Types from "effect/Types"
import * as Check from "./internal/check.js"
import { monotonic } from "./internal/monotonic.js"
import { registryIn } from "./internal/registry.js"
import * as Service from "./internal/service.js"
import { Asking } from "./internal/session/ask.js"
import { Budget } from "./internal/session/budget.js"
import { checkCallbacks } from "./internal/session/callbacks.js"
import {
  Chain,
  type Failures,
  type GenerationLink,
  type Link,
  makeLink,
  type Times,
  workFor
} from "./internal/session/chain.js"
import * as Cooldown from "./internal/session/cooldown.js"
import { Ending } from "./internal/session/ending.js"
import { Generations, nameOfThrown } from "./internal/session/generations.js"
import * as Inside from "./internal/session/inside.js"
import { Obtaining } from "./internal/session/obtain.js"
import { linkMaker } from "./internal/session/outside.js"
import { Refreshing } from "./internal/session/refresh.js"
import { Telemetry } from "./internal/session/telemetry.js"
import { InvalidOptions } from "./InvalidOptions.js"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * Marks the sessions of this package.
 *
 * @since 0.1.0
 * @category symbols
 */
export const TypeId: unique symbol = Symbol.for("effect-holdfast/Session")

/**
 * Marks the sessions of this package.
 *
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
 * Marks the generations of a session.
 *
 * @since 0.1.0
 * @category symbols
 */
export type GenerationTypeId = typeof GenerationTypeId

/**
 * A value of a session, with its times. Give it to `refresh` to say that it was refused.
 *
 * `number` counts from 0, always increases and is never used twice, not even after `end`. If `onRenewed` got a value
 * that never became current, its number is skipped. Times are epoch milliseconds of the session's `Clock`; an
 * `expiresAt` of `Infinity` means never.
 *
 * A session recognises its generations by their number and by a mark, which a copy made by spreading keeps. A
 * generation of another session (which a `SessionMap` has dropped, say), or a generation that was made by hand, has no
 * such mark: for it `refresh` does the same as `current`, and renews nothing.
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
 * - `current`: the current generation. Acquires the first generation; renews an expired one and waits for its
 *   successor; waits for the renewal of a refused one. Takes no lock while the current generation is valid.
 * - `refresh(stale)`: says that `stale` was refused, and gives its successor. If there already is one, that is what
 *   `current` gives, and the upstream is not asked.
 * - `end`: sign out. The value is forgotten and passed to `onEnd`; a renewal in flight is detached: its waiters get
 *   `SessionEnded`, and a value that it still brings is passed to `onEnd`, too. The next `current` acquires a new
 *   value.
 * - `status`: the current state of the session, for health checks and dashboards.
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
 * The type of a session's value.
 *
 * @since 0.1.0
 * @category models
 */
export type ValueOf<S extends Session<any, any>> = S extends Session<infer A, any> ? A : never

/**
 * The type of the application's errors of a session.
 *
 * @since 0.1.0
 * @category models
 */
export type ErrorOf<S extends Session<any, any>> = S extends Session<any, infer E> ? E : never

/**
 * The state of a session. `refreshes` counts the generations it has obtained, `failures` the refreshes that
 * failed, both since `make`. Times are epoch milliseconds.
 *
 * - `Idle`: nothing has been acquired, or the session was ended.
 * - `Refreshing`: `acquire` or `renew` is running, for `waiters` callers (0: in the background); `serving` is whether
 *   `current` answers meanwhile.
 * - `Active`: the current generation is valid, or the next caller will renew it.
 * - `Failing`: the last refresh failed, `consecutive` in a row; its failure answers until `retryAt`, computed from the
 *   current time and the time that is left on the monotonic clock. `serving` is whether `current` still gives the
 *   current generation. After a timeout a late answer may still be awaited.
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
 * The states of a session, as given by `status`.
 *
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
   * The first sign-in, and every later one if there is no `renew`. Resources that it acquires in its `Scope` belong to
   * the generation, and are released when the generation has been superseded and its last `use` has ended. (If
   * `acquire` itself acquired nothing, resources that are added to the scope afterwards stay until the session closes.)
   */
  readonly acquire: Effect.Effect<A, E, R>
  /** Replaces a value by its successor, say with its refresh token. Default: `acquire`. */
  readonly renew?: ((current: A) => Effect.Effect<A, E2, R2>) | undefined
  /** A value from an earlier run: nothing is acquired until it is refused or has expired; then it is renewed. */
  readonly initial?: A | undefined
  /**
   * Runs before any caller gets a generation that was acquired or renewed (not `initial`): the place to persist a
   * rotated token. If it fails, the refresh fails, too; the value is kept, and the next refresh continues from it
   * instead of presenting a spent token again. It also runs for a value that has already expired, although no caller is
   * given that value: its refresh token may be valid. Asking the session itself fails with `ReentrantRefresh`. One
   * `onRenewed` of a session runs at a time: the next waits for one that `end` has detached (within the bounds of its
   * own refresh).
   */
  readonly onRenewed?: ((generation: Generation<A>) => Effect.Effect<void, E3, R3>) | undefined
  /**
   * Revokes a value that `end` made the session forget. Runs to its end even if the caller of `end` is interrupted. If
   * it asks the session itself (through a client that carries the session, say), it gets `ReentrantRefresh` instead of
   * a new sign-in, unless another caller has signed in again meanwhile: use the value that is passed to it.
   */
  readonly onEnd?: ((value: A) => Effect.Effect<void, never, R4>) | undefined
  /**
   * Whether a failed renewal means that the credential itself is dead (OAuth's `invalid_grant`). Then the credential is
   * forgotten, not retried, and the same refresh goes on with `acquire`. Default: no failure does. (If it is written
   * before a `renew` with other errors than `acquire`, TypeScript needs a type for its parameter; after `renew` it does
   * not. If `acquire` is a call with a function among its arguments, such as `Effect.map(signIn, f)`, TypeScript infers
   * no errors from it: make it a constant first, or write `signIn.pipe(Effect.map(f))`.)
   */
  readonly fatal?: ((error: NoInfer<E | E2>) => boolean) | undefined
  /**
   * When a value expires, as epoch milliseconds or a `DateTime`; `undefined` means never. A value with 0 or less has
   * expired. A positive time more than ten years ago is refused with `InvalidOptions`, because it looks like seconds.
   * Default: never.
   */
  readonly expiresAt?: ((value: A) => DateTime.Utc | number | undefined) | undefined
  /** An age limit, besides `expiresAt`. Default: none. */
  readonly maxAge?: Duration.DurationInput | undefined
  /**
   * Renews in the background this long before the value expires, so that no caller waits. The first `current` inside
   * this window starts the renewal; never before half the lifetime is over (a window longer than the lifetime would
   * renew without end). It starts up to a tenth of the window later, at random, so that processes which signed in
   * together do not renew together. Default: none.
   */
  readonly refreshAhead?: Duration.DurationInput | undefined
  /**
   * The time limit of one refresh, including retries and `onRenewed`, after which its callers get `RefreshTimeout`. A
   * caller who comes while an earlier answer is late waits for that answer within the same limit. Default: 30 seconds,
   * the usual time limit of proxies.
   */
  readonly timeout?: Duration.DurationInput | undefined
  /**
   * How long after `timeout` the session still waits, in the background, for an answer: the upstream may have spent the
   * presented token, and the answer has the only new one. Nothing more is started: no `retry`, and no `acquire` after a
   * failure that `fatal` accepts. A late value is written down by `onRenewed`, becomes current immediately and ends the
   * cooldown; a late failure that `fatal` accepts is remembered; after `end` a late value is revoked; closing the
   * session's scope interrupts the wait. No other renewal starts until the late answer has come or the wait is over.
   * Then `renew` is interrupted. If it is uninterruptible at that time, or runs its finalizers, the session waits for
   * its end, but Effect drops its value, and the next refresh presents the old one again. `0` means no wait, `Infinity`
   * no limit. Default: the same as `timeout` if there is a `renew`, and 0 if there is only `acquire`, which spends
   * nothing.
   */
  readonly lateness?: Duration.DurationInput | undefined
  /** Retries inside one refresh, for transient failures; `fatal` ones are not retried. Default: none. */
  readonly retry?: Schedule.Schedule<unknown, NoInfer<E | E2 | E3>> | undefined
  /**
   * How long callers who ask again get the failure of the last refresh, before the next caller tries once more for all.
   * A schedule is stepped by consecutive failures (its input is their cause) and starts again after a success. A
   * schedule that has ended, or takes longer than a second for a step, keeps its last delay. Default: 1 second, doubled
   * up to 30.
   */
  readonly cooldown?:
    | Duration.DurationInput
    | Schedule.Schedule<unknown, Cause.Cause<NoInfer<E | E2 | E3> | SessionError>>
    | undefined
  /**
   * Protects against an endless loop with an upstream that refuses its own new values: at most `refreshes` within the
   * window. It counts renewals that `refresh` demanded and values that arrive already expired, but not renewals because
   * of expiry, age or `refreshAhead`. A value arrives expired if it expires before any caller could be given it, for
   * example because `onRenewed` took longer. Default: 10 within 1 minute.
   */
  readonly budget?: { readonly refreshes: number; readonly within: Duration.DurationInput } | undefined
  /** The session's name in spans, metrics and errors. Default: `"session"`. */
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
 * `end` was called while the caller waited for a renewal: the user has signed out. A retry of the same request would
 * sign in again against the user's will, so this library never retries this error. The next `current` signs in again.
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
 * A renewal asked, directly or through another session's renewal, for the value that it must itself obtain; or `onEnd`
 * would have signed in again. Waiting would be a deadlock. The program must be changed: renew, and sign out, with a
 * client that does not carry the session.
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
 * A refresh took longer than `timeout`. Its answer may still come, and is then kept: see `lateness`.
 *
 * `cause` is the error with which the last attempt failed, if `retry` tries again after that error.
 *
 * @since 0.1.0
 * @category errors
 */
export class RefreshTimeout extends Data.TaggedError("RefreshTimeout")<{
  readonly session: string
  readonly timeout: Duration.Duration
  readonly cause?: unknown
}> {
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
 * There were more refreshes than `budget` allows: the upstream refuses its own new values, or gives values that have
 * already expired. (If it revokes often, raise `budget`.) An unexpired generation is still served; refreshing works
 * again when the window has passed.
 *
 * `arrivedExpired` is true in the second case: the last value had expired before any caller could be given it. Then a
 * clock is wrong, or `onRenewed` takes longer than the lifetime.
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
 * The errors of a session besides the application's own `E`.
 *
 * `InvalidOptions` is the error if a value's `expiresAt` is not a time, or if `rejected` of `use` threw.
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
// constructors
// -----------------------------------------------------------------------------

/**
 * Makes a session. Nothing is acquired until the first `current`.
 *
 * Renewals run with the context and the fiber references of the fiber that ran `make`, never with those of a caller.
 * Closing the scope interrupts a renewal in flight, fails its waiters and all later callers with `SessionClosed`, and
 * releases the generations' resources; it does not call `onEnd`.
 *
 * @example
 * ```ts
 * import * as Session from "effect-holdfast/Session"
 * import * as Effect from "effect/Effect"
 *
 * interface Token { readonly access: string; readonly refresh: string; readonly expiresAt: number }
 * class SignInFailed { readonly _tag = "SignInFailed" }
 *
 * declare const signIn: Effect.Effect<Token, SignInFailed>
 * declare const exchange: (refreshToken: string) => Effect.Effect<Token, SignInFailed>
 *
 * const session = Session.make({
 *   acquire: signIn,
 *   renew: (token) => exchange(token.refresh),
 *   expiresAt: (token) => token.expiresAt,
 *   refreshAhead: "1 minute"
 * })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <A, E = never, R = never, E2 = E, R2 = never, E3 = never, R3 = never, R4 = never>(
  options: Options<A, E, R, E2, R2, E3, R3, R4>
): Effect.Effect<Session<A, E | E2 | E3>, InvalidOptions, Types.NoInfer<R | R2 | R3 | R4> | Scope.Scope> =>
  Effect.gen(function*() {
    type Err = E | E2 | E3 | SessionError
    type Env = R | R2 | R3 | R4 | Scope.Scope

    const settings = yield* Check.validated(() => validate(options))
    const times = timesOf(yield* Effect.clock)
    const generations = new Generations<A>({ ...settings, times, expiresAt: options.expiresAt })
    const head = yield* firstLink<A, Err>(options.initial, generations, times.now())

    // Finalizers run in reverse order: first the waiters are answered, then the fibers are interrupted, then their
    // resources are released.
    const scope = yield* Scope.fork(yield* Effect.scope, ExecutionStrategy.sequential)
    const fork = yield* FiberSet.makeRuntime<Env>()
    const telemetry = new Telemetry({ name: settings.name, labelOf, fork })
    const failures: Failures<Err> = failuresOf(settings, telemetry)
    // The chain has a share in a gauge, and perhaps a row in an Inspector. `acquireRelease` lets no interruption come
    // before their end is registered.
    const chain = yield* Effect.acquireRelease(
      Effect.withFiberRuntime<Chain<A, Err>>((fiber) => {
        const chain = new Chain<A, Err>({ ...settings, times, generations, failures, telemetry }, head)
        const registry = registryIn(fiber)
        if (registry !== undefined) telemetry.register(registry, chain)
        return Exit.succeed(chain)
      }),
      (chain) =>
        Effect.sync(() => {
          chain.close()
          telemetry.leave()
        })
    )

    const { expiryOf } = generations
    const made = { times, generations, expiryOf, failures, scope, fork, chain, telemetry }
    const parts = { ...settings, ...callbacksOf(options), ...made }
    const ending = new Ending<A, Err, Env>(parts)
    const obtaining = new Obtaining<A, Err, Env>({ ...parts, ending })
    const refreshing = new Refreshing<A, Err, Env>({ ...parts, ending, obtaining })
    const asking = new Asking<A, Err, Env>({ ...parts, ending, refreshing })

    const inside: Omit<Inside.Inside<A, E | E2 | E3>, typeof TypeId | "pipe"> = {
      current: Effect.suspend(() => {
        const ready = chain.ready()
        return ready === undefined ? Effect.map(asking.current, generationOf) : Effect.succeed(ready.generation)
      }),
      refresh: (stale) => Effect.map(asking.after(stale), generationOf),
      end: ending.end,
      status: Effect.sync(() => chain.status()),
      hold: asking.hold,
      scoped: asking.scoped,
      changes: Stream.suspend(() =>
        chain.head === undefined ? Stream.empty : chain.published.changes(() => chain.first())
      ).pipe(Stream.filter((generation) => !chain.isExpired(generation))),
      wake: Effect.sync(() => chain.wake()),
      isFatal: (error) => parts.isFatal(error),
      adopt: (outside, isStillWanted) =>
        Effect.flatMap(
          linkMaker<A, Err>(outside, generations),
          (make) => Effect.suspend(() => isStillWanted() ? ending.retire(chain.adopt(make())) : Effect.void)
        ),
      forget: () => void ending.retire(chain.giveUp()),
      isAwaited: (work) => chain.head !== undefined && workFor(chain.head) === work,
      beginEnd: ending.begin,
      finish: ending.finishAsWork,
      inFlight: () => chain.head === undefined || options.renew === undefined ? undefined : workFor(chain.head)?.fiber
    }
    return Object.assign(Object.create(Proto), inside)
  })

// -----------------------------------------------------------------------------
// layers
// -----------------------------------------------------------------------------

/**
 * `make` as the layer of a tag (`Context.Tag` or `Effect.Service`). The types of the value and of the errors come from
 * the tag.
 *
 * @example
 * ```ts
 * import * as Session from "effect-holdfast/Session"
 * import * as Context from "effect/Context"
 * import * as Effect from "effect/Effect"
 *
 * interface Token { readonly access: string; readonly refresh: string; readonly expiresAt: number }
 * class SignInFailed { readonly _tag = "SignInFailed" }
 *
 * declare const signIn: Effect.Effect<Token, SignInFailed>
 * declare const exchange: (refreshToken: string) => Effect.Effect<Token, SignInFailed>
 *
 * class ApiSession extends Context.Tag("ApiSession")<ApiSession, Session.Session<Token, SignInFailed>>() {
 *   static readonly layer = Session.layer(ApiSession, {
 *     acquire: signIn,
 *     renew: (token) => exchange(token.refresh),
 *     expiresAt: (token) => token.expiresAt
 *   })
 * }
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = <Id, S extends Session<any, any>, R = never, R2 = never, R3 = never, R4 = never>(
  tag: Context.Tag<Id, S>,
  options: Options<ValueOf<S>, ErrorOf<S>, R, ErrorOf<S>, R2, ErrorOf<S>, R3, R4>
): Layer.Layer<Id, InvalidOptions, Exclude<Types.NoInfer<R | R2 | R3 | R4>, Scope.Scope>> =>
  Service.layer(tag, make(options))

// -----------------------------------------------------------------------------
// combinators
// -----------------------------------------------------------------------------

/**
 * Runs `f` with the session's value. If it fails with an error that `rejected` recognises as a refusal of the value,
 * its generation is refreshed and `f` runs again with the successor, at most `maxRefreshes` times (default 1); then its
 * failure is the answer. Without `rejected` no error is a refusal.
 *
 * The generation is held meanwhile: its resources stay open until `f` has ended.
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
      wanted: Inside.Wanted<A>,
      refreshes: number
    ): Effect.Effect<B, E | E2 | SessionError, R> =>
      Inside.of(self).hold(
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
 * Options of `use`.
 *
 * @since 0.1.0
 * @category models
 */
export interface UseOptions<in E> {
  /** Whether a failure means that the value was refused. */
  readonly rejected?: ((error: E) => boolean) | undefined
  /** How often one call may refresh. Default: 1. */
  readonly maxRefreshes?: number | undefined
}

/**
 * The current generation, held until the scope closes: its resources stay open, even after it has been superseded. For
 * work that outlives a call, such as a streamed body.
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
  Inside.of(self).scoped

/**
 * Ends the cooldown of a failed refresh: the next caller tries again immediately. For example when the network is back,
 * so that the upstream can be reached again.
 *
 * The value is kept, and no renewal is started. The number of consecutive failures (which decides the next cooldown)
 * and the budget stay unchanged, and a late answer (`lateness`) is still awaited. Without a cooldown nothing happens.
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
export const wake = <A, E>(self: Session<A, E>): Effect.Effect<void> => Inside.of(self).wake

/**
 * The current generation, if there is one, and then each generation that becomes current. A generation that has expired
 * or been forgotten (`end`, `fatal`) before it is read is left out. A slow reader gets the latest generation and misses
 * earlier ones. The stream acquires nothing by itself; it ends when the session's scope closes.
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
export const changes = <A, E>(self: Session<A, E>): Stream.Stream<Generation<A>> => Inside.of(self).changes

// -----------------------------------------------------------------------------
// guards
// -----------------------------------------------------------------------------

/**
 * Whether a value is a `Session`.
 *
 * @since 0.1.0
 * @category guards
 */
export const isSession = (u: unknown): u is Session<unknown, unknown> => Predicate.hasProperty(u, TypeId)

// -----------------------------------------------------------------------------
// what `make` is wired with
// -----------------------------------------------------------------------------

const Proto = {
  [TypeId]: { _A: (_: never) => _, _E: (_: never) => _ },
  pipe() {
    return pipeArguments(this, arguments)
  }
}

const generationOf = <A, E>({ generation }: GenerationLink<A, E>): Generation<A> => generation

/** The first link of a chain: with the value from an earlier run, if there is one. */
const firstLink = <A, E>(
  initial: A | undefined,
  generations: Generations<A>,
  acquiredAt: number
): Effect.Effect<Link<A, E>, InvalidOptions> =>
  Effect.gen(function*() {
    if (initial === undefined) return makeLink<A, E, undefined>(undefined)
    const expiresAt = yield* generations.expiryOf(initial)
    return (yield* linkMaker<A, E>({ value: initial, acquiredAt, expiresAt }, generations))()
  })

const timesOf = (clock: Clock.Clock): Times => ({
  now: () => clock.unsafeCurrentTimeMillis(),
  monotonic: () => Math.round(monotonic(clock))
})

const failuresOf = (
  { limit, name: session, timeout }: Settings,
  telemetry: Telemetry
): Failures<SessionError> => ({
  closed: Exit.fail(new SessionClosed({ session })),
  ended: Exit.fail(new SessionEnded({ session })),
  reentrant: Exit.fail(new ReentrantRefresh({ session })),
  timedOut: (cause) => new RefreshTimeout({ session, timeout, ...(cause === undefined ? undefined : { cause }) }),
  interrupted: () => new RefreshInterrupted({ session }),
  overBudget: (arrivedExpired) => {
    telemetry.overBudget()
    return new RefreshBudgetExceeded({ session, ...limit, arrivedExpired })
  }
})

/**
 * The application's callbacks. `fatal` and `retry` get the original error. The session's own span has wrapped it in a
 * proxy, which is not identical to the error and has none of its private fields.
 */
const callbacksOf = <A, E, R, E2, R2, E3, R3, R4>(options: Options<A, E, R, E2, R2, E3, R3, R4>) => {
  const { acquire, fatal, onEnd, onRenewed, renew, retry } = options
  return {
    acquire,
    renew,
    onRenewed,
    onEnd,
    isFatal: (error: unknown): boolean => fatal !== undefined && fatal(Cause.originalError(error) as E | E2),
    retry: retry && Schedule.mapInput(retry, (error: unknown) => Cause.originalError(error) as E | E2 | E3)
  }
}

/** The metric label of a failed refresh. */
const labelOf = (cause: Cause.Cause<unknown>): string => {
  const failure = Cause.failureOption(cause)
  if (Option.isNone(failure)) return "defect"
  return failure.value instanceof RefreshTimeout
    ? "timeout"
    : failure.value instanceof RefreshInterrupted
    ? "interrupted"
    : "failure"
}

type Settings = ReturnType<typeof validate>

const validate = (options: Options<any, any, any, any, any, any, any, any>) => {
  checkCallbacks(options)
  const { budget, name = "session" } = options
  if (budget !== undefined) Check.object("budget", budget)
  const timeout = Check.duration("timeout", options.timeout ?? "30 seconds", { min: "1 millis" })
  const limit = {
    refreshes: Check.count("budget.refreshes", budget?.refreshes ?? 10, 1),
    within: Check.duration("budget.within", budget?.within ?? "1 minute", {
      min: "1 millis",
      max: Duration.infinity
    })
  }
  return {
    name: Check.name("name", name),
    timeout,
    lateness: millisOf("lateness", options.lateness ?? (options.renew === undefined ? 0 : timeout), 0),
    maxAge: millisOf("maxAge", options.maxAge ?? Duration.infinity, "1 millis"),
    refreshAhead: options.refreshAhead === undefined
      ? undefined
      : millisOf("refreshAhead", options.refreshAhead, "1 millis"),
    cooldown: Cooldown.make(Cooldown.scheduleOf<any>(options.cooldown)),
    limit,
    budget: new Budget(limit)
  }
}

const millisOf = (option: string, value: Duration.DurationInput, min: Duration.DurationInput): number =>
  Duration.toMillis(Check.duration(option, value, { min, max: Duration.infinity }))
