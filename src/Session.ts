/**
 * One value that many callers share (a token, a cookie jar, a signed-in client), replaced once however many of
 * them notice that it has gone stale.
 *
 * **The idea.** A session is a chain of *generations*. Each holds its value and a memoised effect that yields
 * its *successor*. Whoever finds generation 7 rejected runs *7's* successor: the first starts the renewal, the
 * others share it, and a straggler who comes back a minute later with 7 still in hand is given the present one
 * at once. Staleness is which generation you hold; no flag, key or clock comparison decides it.
 *
 * **What it guarantees.** One renewal of a generation, whoever asks and whenever. No caller's interruption
 * touches a renewal or another caller: it runs in the session's own scope. It becomes current only when it has
 * wholly succeeded; a failure, a defect or an interruption leaves the session as it was, and all who waited get
 * the same cause. A renewal that asks its own session fails at once and never waits for itself.
 *
 * **What it does not.** It does not know whether a value is good: you tell it, with `refresh`, `use` or an
 * expiry. It cannot un-spend a single-use token that was presented by a process which then died. A renewal that
 * leaves Effect's fibers (a promise that runs an effect on another runtime) loses the mark by which a circle is
 * recognised, and then only `timeout` ends it.
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
import * as Cooldown from "./internal/cooldown.js"
import { Latest } from "./internal/latest.js"
import * as Renewal from "./internal/renewal.js"
import * as Resources from "./internal/resources.js"
import { InvalidOptions } from "./InvalidOptions.js"
import * as Check from "./InvalidOptions.js"

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
 * One value of a session and when it came. Hand it back to `refresh` to say that it was refused.
 *
 * `number` counts from 0 and never goes back, not even over `end`. Times are epoch milliseconds of the
 * session's `Clock`; an `expiresAt` of `Infinity` means never.
 *
 * @since 0.1.0
 * @category models
 */
export interface Generation<out A> {
  readonly number: number
  readonly value: A
  readonly acquiredAt: number
  readonly expiresAt: number
}

/**
 * A value shared by many callers; see the module's description.
 *
 * - `current`: the present generation. Acquires the first one; renews one that has expired and waits for it;
 *   waits for the renewal of one that was rejected. Takes no lock while the present one is good.
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
 * - `Active`: the present generation is good, or will be renewed by the next caller.
 * - `Failing`: the last refresh failed, `consecutive` in a row; its failure answers until `retryAt`. `serving`
 *   tells whether `current` still gives the present generation.
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
   * instead of presenting a spent token again.
   */
  readonly onRenewed?: ((generation: Generation<A>) => Effect.Effect<void, E3, R3>) | undefined
  /** Revokes a value that `end` made the session forget. Runs to its end whoever is interrupted. */
  readonly onEnd?: ((value: A) => Effect.Effect<void, never, R4>) | undefined
  /**
   * Whether a failed renewal means that the credential itself is dead (OAuth's `invalid_grant`). Then it is
   * forgotten, not retried, and the same refresh goes on with `acquire`. Default: no failure does.
   */
  readonly fatal?: ((error: NoInfer<E | E2>) => boolean) | undefined
  /** When a value expires, as epoch milliseconds or a `DateTime`; `undefined`: never. Default: never. */
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
   * The bound of one refresh, retries and `onRenewed` included, after which it is interrupted and fails with
   * `RefreshTimeout`. A token that the upstream has rotated by then is lost with it, so this is to be longer than
   * any answer takes that may still come. Default: 30 seconds, the usual patience of a proxy.
   */
  readonly timeout?: Duration.DurationInput | undefined
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
   * age and `refreshAhead` are not. Default: 10 within 1 minute.
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
 * A renewal asked, directly or through another session's renewal, for the value that it is itself to bring.
 * Waiting would be a deadlock. The cure is in the program: renew with a client that does not carry the session.
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
 * A refresh took longer than `timeout` and was interrupted.
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
 * The upstream refuses what it has just given out: more refreshes than `budget` allows. An unexpired generation
 * is still served; refreshing works again when the window has passed.
 *
 * @since 0.1.0
 * @category errors
 */
export class RefreshBudgetExceeded extends Data.TaggedError("RefreshBudgetExceeded")<{
  readonly session: string
  readonly refreshes: number
  readonly within: Duration.Duration
}> {
  override get message(): string {
    return `${this.session} was refreshed ${this.refreshes} times within ${Duration.format(this.within)}`
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
  /** The number of the generation that comes next. */
  readonly nextNumber: number
  /** What the generation's `acquire` or `renew` acquired. */
  readonly resources: Resources.Resources | undefined
  /** From this moment on `current` starts a renewal in the background. */
  readonly refreshAt: number
  /** The value was expired when it came: nobody is given it, and its renewal is on the budget. */
  readonly arrivedExpired: boolean
  /** Memoised: forks the renewal into the session's scope, for the first who runs it. Anew after a failure. */
  successor: Effect.Effect<SharedRenewal<A, E>>
  /** What `successor` forked, while it has no outcome. */
  renewal: SharedRenewal<A, E> | undefined
  /** The last renewal, if it failed; it answers until its cooldown has passed. */
  failure: Failure<A, E> | undefined
  /** A caller has handed it to `refresh`, and no renewal has failed since. */
  rejected: boolean
  /** A fatal failure: the credential is forgotten. */
  dead: boolean
  /** Obtained from the upstream, but not yet current (`onRenewed` has not succeeded, say). */
  candidate: Candidate<A> | undefined
  /** How many `use` and `scoped` hold the generation. */
  holders: number
}

interface Failure<A, E> {
  readonly exit: Exit.Exit<never, E | SessionError>
  readonly since: number
  readonly until: number
  readonly renewal: SharedRenewal<A, E>
}

interface Candidate<A> {
  readonly value: A
  readonly acquiredAt: number
  readonly resources: Resources.Resources
}

type SharedRenewal<A, E> = Renewal.Renewal<Link<A, E>, E | SessionError>

type Outcome<A, E> = Exit.Exit<Link<A, E>, E | SessionError>

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
  readonly isFatal: (error: unknown) => boolean
}

/**
 * Holds something for longer than a call: until the effect that it returns has run.
 *
 * @internal
 */
export type Retain = () => Effect.Effect<void>

const refreshCounter = Metric.counter("holdfast_session_refreshes_total", {
  description: "Refreshes by outcome: success, failure, timeout, interrupted or defect",
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
export const make = <A, E = never, R = never, E2 = never, R2 = never, E3 = never, R3 = never, R4 = never>(
  options: Options<A, E, R, E2, R2, E3, R3, R4>
): Effect.Effect<Session<A, E | E2 | E3>, InvalidOptions, R | R2 | R3 | R4 | Scope.Scope> =>
  Effect.gen(function*() {
    type Err = E | E2 | E3
    type Env = R | R2 | R3 | R4 | Scope.Scope

    const { budget, cooldown, maxAge, name, refreshAhead, timeout } = yield* Check.validated(() => validate(options))
    const clock = yield* Effect.clock
    const now = () => clock.unsafeCurrentTimeMillis()

    // Undone in reverse: first the waiters are answered, then the fibers interrupted, then what they held released.
    const allResources = yield* Scope.fork(yield* Effect.scope, ExecutionStrategy.sequential)
    const fork = yield* FiberSet.makeRuntime<Env>()
    const renewed = new Latest<Generation<A>>()

    const self = {}
    const counts = { refreshes: 0, failures: 0, consecutive: 0 }
    const demands: Array<number> = []

    const closed = Exit.fail(new SessionClosed({ session: name }))
    const ended = Exit.fail(new SessionEnded({ session: name }))
    const reentrant = Exit.fail(new ReentrantRefresh({ session: name }))

    // --- the links -----------------------------------------------------------

    const makeLink = (
      fields: Pick<Link<A, Err>, "nextNumber"> & Partial<Pick<Link<A, Err>, "generation" | "resources" | "refreshAt" | "arrivedExpired">>
    ): Link<A, Err> => {
      const link: Link<A, Err> = {
        generation: undefined,
        resources: undefined,
        refreshAt: Infinity,
        arrivedExpired: false,
        ...fields,
        successor: Effect.never,
        renewal: undefined,
        failure: undefined,
        rejected: false,
        dead: false,
        candidate: undefined,
        holders: 0
      }
      link.successor = successorOf(link)
      return link
    }

    // A cached effect runs on the fiber of its first caller: interrupt that one, and all who share it are interrupted
    // with it, for ever. So what is cached is the fork of the renewal, which waits for nothing. (Plain `Effect.cached`
    // would not do: with the value it hands on the first caller's fiber references, its interruption among them.)
    const successorOf = (link: Link<A, Err>): Effect.Effect<SharedRenewal<A, Err>> =>
      Effect.uninterruptible(
        Effect.runSync(Effect.cachedWithTTL(Effect.sync(() => startRenewal(link)), Duration.infinity))
      )

    const generationFrom = (number: number, value: A, acquiredAt: number, expiresAt: number): Generation<A> => ({
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

    const isServable = (link: Link<A, Err>): boolean =>
      link.generation !== undefined && !link.dead &&
      (link.generation.expiresAt === Infinity || now() < link.generation.expiresAt)

    // --- asking --------------------------------------------------------------

    /** The happy path: a generation that can be served and needs no looking after. */
    const readyLink = (): Link<A, Err> | undefined => {
      if (state._tag === "Closed") return undefined
      const link = state.head
      return link.renewal === undefined && !link.rejected && isServable(link) &&
          (link.refreshAt === Infinity || now() < link.refreshAt)
        ? link
        : undefined
    }

    /** The link whose generation is current; waits where there is none that may be served. */
    const currentLink: Effect.Effect<Link<A, Err>, Err | SessionError> = Effect.suspend(() => {
      const ready = readyLink()
      if (ready !== undefined) return Effect.succeed(ready)
      if (state._tag === "Closed") return closed
      const link = state.head
      if (!isServable(link) || link.rejected) return successorLink(link)
      if (link.renewal !== undefined) return Effect.as(Renewal.outside(link.renewal, reentrant), link)
      return Effect.as(refusal(link, false) === undefined ? link.successor : Effect.void, link)
    })

    /** The link after the one whose generation was refused. */
    const linkAfter = (stale: Generation<A>): Effect.Effect<Link<A, Err>, Err | SessionError> =>
      Effect.suspend(() => {
        if (state._tag === "Closed") return closed
        const link = state.head
        if (link.generation?.number !== stale.number) return currentLink
        const refused = refusal(link, true)
        if (refused !== undefined) return refused
        link.rejected = true
        return successorLink(link)
      })

    /** Runs the link's successor, or joins the run. A value that arrived expired is renewed in its turn. */
    const successorLink = (link: Link<A, Err>): Effect.Effect<Link<A, Err>, Err | SessionError> =>
      refusal(link, link.rejected) ?? (link.renewal === undefined ? link.successor : Effect.succeed(link.renewal)).pipe(
        Effect.flatMap((renewal) => Renewal.join(renewal, reentrant)),
        Effect.flatMap((next) => next.arrivedExpired ? currentLink : Effect.succeed(next))
      )

    /** What stands against starting a renewal of this link now: the cooldown of a failed one, or the budget. */
    const refusal = (link: Link<A, Err>, isDemanded: boolean): Exit.Exit<never, Err | SessionError> | undefined => {
      if (link.renewal !== undefined) return undefined
      if (link.failure !== undefined && now() < link.failure.until) return link.failure.exit
      if (!isDemanded && !link.arrivedExpired) return undefined
      const windowStart = now() - Duration.toMillis(budget.within)
      while (demands.length > 0 && demands[0]! <= windowStart) demands.shift()
      return demands.length < budget.refreshes
        ? undefined
        : Exit.fail(new RefreshBudgetExceeded({ session: name, ...budget }))
    }

    // --- renewing ------------------------------------------------------------

    const startRenewal = (link: Link<A, Err>): SharedRenewal<A, Err> => {
      const renewal: SharedRenewal<A, Err> = Renewal.make(self, now())
      if (state._tag === "Closed") {
        renewal.outcome = closed
      } else if (state.head !== link) {
        renewal.outcome = ended
      } else {
        if (link.failure !== undefined) Renewal.follow(renewal, link.failure.renewal)
        if (link.rejected) demands.push(now())
        link.renewal = renewal
        fork(supervise(link, renewal), { immediate: false })
      }
      return renewal
    }

    /** Gives the renewal its time, and moves the chain by what has become of it. */
    const supervise = Effect.fnUntraced(function*(link: Link<A, Err>, renewal: SharedRenewal<A, Err>) {
      const worker = fork(
        renew(link).pipe(
          Effect.withSpan("Session.refresh", { attributes: { session: name } }),
          Effect.locally(Renewal.current, renewal),
          // The runtime flags of `make` are those of a layer being built: uninterruptible.
          Effect.interruptible
        ),
        { immediate: false }
      )
      renewal.worker = worker
      const exit = yield* Effect.timeoutTo(Fiber.await(worker), {
        duration: timeout,
        onSuccess: (exit): Outcome<A, Err> => exit,
        onTimeout: () => Exit.fail(new RefreshTimeout({ session: name, timeout }))
      })
      worker.unsafeInterruptAsFork(FiberId.none)
      const outcome: Outcome<A, Err> = Exit.isSuccess(exit)
        ? exit
        : Cause.isInterruptedOnly(exit.cause)
        ? Exit.fail(new RefreshInterrupted({ session: name }))
        : Exit.failCause(withoutSpan(exit.cause))
      const cooldownMillis = Exit.isFailure(outcome) ? yield* cooldown.next(outcome.cause, now()) : 0
      const waiters = settle(link, renewal, outcome, cooldownMillis)
      if (waiters !== undefined) {
        yield* report(outcome, waiters)
        yield* releaseUnheld(link)
      }
      // What a renewal brings that `end` has detached is revoked.
      yield* Fiber.await(worker)
      if (state._tag === "Open" && state.head !== link) yield* discardCandidate(link)
    }, Effect.interruptible)

    const renew = Effect.fnUntraced(function*(link: Link<A, Err>) {
      // One that timed out may not heed its interruption yet; two at once would present the same token.
      if (link.failure?.renewal.worker !== undefined) yield* Fiber.await(link.failure.renewal.worker)
      if (link.candidate === undefined || !isFresh(link.candidate)) yield* obtain(link)
      // A renewal that `end` has detached brings nothing that is to be written down.
      if (isDetached(link)) return yield* ended
      const { acquiredAt, resources, value } = link.candidate!
      const expiresAt = yield* expiryOf(value)
      const generation = generationFrom(link.nextNumber, value, acquiredAt, expiresAt)
      if (options.onRenewed !== undefined) {
        yield* retrying(Effect.suspend((): Effect.Effect<void, Err, Env> =>
          isDetached(link) ? Effect.void : options.onRenewed!(generation)), () => false)
      }
      return makeLink({
        generation,
        nextNumber: link.nextNumber + 1,
        resources,
        refreshAt: yield* refreshAtOf(generation),
        arrivedExpired: expiresAt <= acquiredAt
      })
    })

    const obtain = (link: Link<A, Err>): Effect.Effect<void, Err, Env> => {
      const acquire = retrying(candidateFrom(link, options.acquire), isFatal)
      const spent = link.candidate ?? link.generation
      if (spent === undefined || link.dead) return acquire
      const forget = Effect.sync(() => {
        link.dead = true
      })
      return options.renew === undefined
        ? Effect.tapError(acquire, (error) => isFatal(error) ? forget : Effect.void)
        : retrying(candidateFrom(link, Effect.suspend(() => options.renew!(spent.value))), isFatal).pipe(
          Effect.catchIf(isFatal, () => Effect.zipRight(forget, acquire))
        )
    }

    /** What comes is kept on the link in the same step: nothing that happens next can lose it. */
    const candidateFrom = (link: Link<A, Err>, effect: Effect.Effect<A, Err, Env>) =>
      Effect.uninterruptibleMask((restore) =>
        Effect.flatMap(Resources.make(allResources), (resources) =>
          Effect.matchCauseEffect(restore(Scope.extend(effect, resources.watched)), {
            onFailure: (cause) =>
              Effect.zipRight(Scope.close(resources.scope, Exit.failCause(cause)), Effect.failCause(cause)),
            onSuccess: (value) => {
              const former = link.candidate
              resources.seal()
              link.candidate = { value, acquiredAt: now(), resources }
              return former === undefined ? Effect.void : release(former.resources)
            }
          }))
      )

    const isFatal = (error: Err): boolean => options.fatal !== undefined && options.fatal(error as E | E2)

    const retrying = <B>(
      effect: Effect.Effect<B, Err, Env>,
      isFinal: (error: Err) => boolean
    ): Effect.Effect<B, Err, Env> =>
      options.retry === undefined
        ? effect
        : Effect.retry(effect, { schedule: options.retry, while: (error) => !isFinal(error) })

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
      return typeof millis === "number" && !Number.isNaN(millis)
        ? Either.right(millis)
        : invalid(millis, "must be epoch milliseconds or a DateTime")
    }

    const isFresh = (candidate: Candidate<A>): boolean =>
      Either.match(expiryOf(candidate.value), { onLeft: () => false, onRight: (expiresAt) => now() < Math.min(expiresAt, candidate.acquiredAt + maxAge) })

    // --- moving --------------------------------------------------------------

    let state: State<A, Err> = { _tag: "Open", head: makeLink({ nextNumber: 0 }) }
    if (options.initial !== undefined) {
      const expiresAt = yield* expiryOf(options.initial)
      const generation = generationFrom(0, options.initial, now(), expiresAt)
      state = {
        _tag: "Open",
        head: makeLink({ generation, nextNumber: 1, refreshAt: yield* refreshAtOf(generation) })
      }
    }

    /** The successor becomes current, or its failure is remembered. `undefined`: ended or closed meanwhile. */
    const settle = (
      link: Link<A, Err>,
      renewal: SharedRenewal<A, Err>,
      outcome: Outcome<A, Err>,
      cooldownMillis: number
    ): number | undefined => {
      if (state._tag === "Closed" || state.head !== link) return undefined
      link.renewal = undefined
      if (Exit.isSuccess(outcome)) {
        link.candidate = undefined
        cooldown.reset()
        counts.refreshes++
        counts.consecutive = 0
        if (outcome.value.arrivedExpired) demands.push(now())
        state = { _tag: "Open", head: outcome.value }
        renewed.offer(outcome.value.generation!)
      } else {
        link.successor = successorOf(link)
        link.failure = { exit: Exit.failCause(outcome.cause), since: now(), until: now() + cooldownMillis, renewal }
        link.rejected = false
        counts.failures++
        counts.consecutive++
      }
      return Renewal.answer(renewal, outcome)
    }

    const end = Effect.suspend(() => {
      if (state._tag === "Closed") return Effect.void
      const link = state.head
      state = { _tag: "Open", head: makeLink({ nextNumber: link.nextNumber }) }
      cooldown.reset()
      counts.consecutive = 0
      if (link.renewal !== undefined) Renewal.answer(link.renewal, ended)
      const revoked = link.generation === undefined || link.dead ? Effect.void : revoke(link.generation.value)
      const discarded = link.renewal === undefined ? Effect.suspend(() => discardCandidate(link)) : Effect.void
      return finish(revoked.pipe(
        Effect.ensuring(discarded),
        Effect.ensuring(Effect.suspend(() => releaseUnheld(link)))
      ))
    })

    const close = Effect.suspend(() => {
      const { head } = state as Extract<State<A, Err>, { readonly _tag: "Open" }>
      state = { _tag: "Closed" }
      if (head.renewal !== undefined) Renewal.answer(head.renewal, closed)
      renewed.end()
      return Effect.void
    })

    // --- giving up -----------------------------------------------------------

    /** Runs to its end on a fiber of the session's own; the caller only waits for it. */
    const finish = (effect: Effect.Effect<void, never, Env>): Effect.Effect<void> =>
      Effect.flatten(Fiber.await(fork(Effect.uninterruptible(effect))))

    const revoke = (value: A): Effect.Effect<void, never, Env> =>
      options.onEnd === undefined ? Effect.void : Effect.suspend(() => options.onEnd!(value))

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

    const report = (outcome: Outcome<A, Err>, waiters: number) => {
      const label = outcomeLabel(outcome)
      return Effect.all([
        Metric.increment(Metric.taggedWithLabels(refreshCounter, [MetricLabel.make("session", name), MetricLabel.make("outcome", label)])),
        Metric.set(Metric.tagged(waiterGauge, "session", name), waiters),
        Effect.logDebug(`${name}: refresh ended in ${label}, ${waiters} waited for it`)
      ], { discard: true })
    }

    // --- holding -------------------------------------------------------------

    const held = (
      restore: <B, E5, R5>(effect: Effect.Effect<B, E5, R5>) => Effect.Effect<B, E5, R5>,
      wanted: Effect.Effect<Link<A, Err>, Err | SessionError>
    ): Effect.Effect<Link<A, Err>, Err | SessionError> =>
      Effect.flatMap(restore(wanted), (link) => {
        // A waiter that wakes late may find that its generation has come and gone.
        if (isUnheld(link)) return held(restore, currentLink)
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

    return Object.assign(Object.create(Proto), {
      current: Effect.map(currentLink, generationOf),
      refresh: (stale) => Effect.map(linkAfter(stale), generationOf),
      end,
      status: Effect.sync((): SessionStatus => {
        const { failures, refreshes, consecutive } = counts
        if (state._tag === "Closed") return { _tag: "Closed", refreshes, failures }
        const { failure, generation, rejected, renewal } = state.head
        const serving = isServable(state.head) && !(rejected && renewal !== undefined)
        if (renewal !== undefined) {
          return { _tag: "Refreshing", since: renewal.since, waiters: renewal.waiters.size, serving, refreshes, failures }
        }
        if (failure !== undefined) {
          return { _tag: "Failing", consecutive, since: failure.since, retryAt: failure.until, serving, refreshes, failures }
        }
        if (generation === undefined) return { _tag: "Idle", refreshes, failures }
        const { acquiredAt, expiresAt, number } = generation
        return { _tag: "Active", generation: number, acquiredAt, expiresAt, refreshes, failures }
      }),
      hold,
      isFatal: (error) => isFatal(error as Err),
      scoped: Effect.uninterruptibleMask((restore) =>
        Effect.flatMap(held(restore, currentLink), (link) =>
          Effect.as(Effect.addFinalizer(() => Effect.suspend(() => letGo(link))), link.generation!))
      ),
      changes: Stream.suspend(() =>
        state._tag === "Closed" ? Stream.empty : renewed.changes(() =>
          state._tag === "Open" && !state.head.dead ? Option.fromNullable(state.head.generation) : Option.none()
        )
      )
    } satisfies Omit<SessionImpl<A, Err>, typeof TypeId | "pipe">)
  })

const Proto = {
  [TypeId]: { _A: (_: never) => _, _E: (_: never) => _ },
  pipe() {
    return pipeArguments(this, arguments)
  }
}

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

const outcomeLabel = (outcome: Exit.Exit<unknown, unknown>): string => {
  if (Exit.isSuccess(outcome)) return "success"
  const failure = Cause.failureOption(outcome.cause)
  if (Option.isNone(failure)) return "defect"
  return failure.value instanceof RefreshTimeout
    ? "timeout"
    : failure.value instanceof RefreshInterrupted
    ? "interrupted"
    : "failure"
}

const validate = (options: Options<any, any, any, any, any, any, any, any>) => ({
  name: options.name ?? "session",
  maxAge: options.maxAge === undefined
    ? Infinity
    : Duration.toMillis(Check.duration("maxAge", options.maxAge, { min: "1 millis", max: Duration.infinity })),
  refreshAhead: options.refreshAhead === undefined
    ? undefined
    : Duration.toMillis(Check.duration("refreshAhead", options.refreshAhead, { min: "1 millis", max: Duration.infinity })),
  timeout: Check.duration("timeout", options.timeout ?? "30 seconds", { min: "1 millis" }),
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
})

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
 * The present generation, if there is one, then each that becomes current. A slow reader gets the latest and
 * misses those between. Acquires nothing by itself; ends when the session's scope closes.
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
export const changes = <A, E>(self: Session<A, E>): Stream.Stream<Generation<A>> =>
  (self as SessionImpl<A, E>).changes

// -----------------------------------------------------------------------------
// guards
// -----------------------------------------------------------------------------

/**
 * @since 0.1.0
 * @category guards
 */
export const isSession = (u: unknown): u is Session<unknown, unknown> => Predicate.hasProperty(u, TypeId)
