/**
 * One session for a whole fleet of processes: its value is in a `SessionStore`, and when it is stale, one process
 * renews it for all.
 *
 * **The idea.** Each process has a `Session` of its own, which serves its callers from memory. A refresh reads the
 * fleet's row: a newer value is adopted; otherwise one process takes a lease by a conditional write, presents the value
 * upstream, and commits the new value. No lock and no transaction is held meanwhile, and an idle session does not call
 * the store.
 *
 * **What it guarantees.** However many processes and callers notice that a value is stale, it is renewed once. A
 * process that presents a value has a lease, which it checks immediately before, on a clock that is never set; a
 * process that comes back after its lease overwrites nothing. Before a value is presented, this intent is written down.
 * So a process that takes over from a dead one knows that the token may be spent (`uncertain`). A process that is
 * killed at any point blocks the others for no longer than its lease. Failures, their cooldown and an `end` apply to
 * the whole fleet. The clocks of the processes may be hours apart.
 *
 * **What it does not.** If a process is suspended between checking its lease and sending the request, for longer than
 * the lease, it presents the value although another process may do so, too. A store that loses an acknowledged write (a
 * Redis without an append-only file, an asynchronous replica) may have the same effect. A shared value is data:
 * `acquire` and `renew` acquire no resources. Without `encryptWith` the value is stored in clear text.
 *
 * @since 0.1.0
 */

import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import type * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as MetricLabel from "effect/MetricLabel"
import * as Predicate from "effect/Predicate"
import type * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type * as Types from "effect/Types"
import * as Check from "./internal/check.js"
import { addFinalizer } from "./internal/closeScope.js"
import * as Delays from "./internal/delays.js"
import * as Sealing from "./internal/persisted/sealing.js"
import * as Service from "./internal/service.js"
import { checkCallbacks } from "./internal/session/callbacks.js"
import { scheduleOf } from "./internal/session/cooldown.js"
import * as Inside from "./internal/session/inside.js"
import * as Codec from "./internal/shared/codec.js"
import * as Cooldown from "./internal/shared/cooldown.js"
import * as Ending from "./internal/shared/ending.js"
import { hear } from "./internal/shared/hearing.js"
import { settleFinally, settleLater } from "./internal/shared/later.js"
import { Memory } from "./internal/shared/memory.js"
import { type Parts, Trouble } from "./internal/shared/parts.js"
import * as Protocol from "./internal/shared/protocol.js"
import { Queue } from "./internal/shared/queue.js"
import { refresh } from "./internal/shared/refresh.js"
import { deadline, Rows } from "./internal/shared/rows.js"
import { UserEffects } from "./internal/userEffects.js"
import { Waiters } from "./internal/waiters.js"
import type { InvalidOptions } from "./InvalidOptions.js"
import * as Session from "./Session.js"
import * as SessionStore from "./SessionStore.js"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * A key for AES-256: 32 random bytes, or their base64 (`openssl rand -base64 32`).
 *
 * @since 0.1.0
 * @category models
 */
export type Key = Redacted.Redacted<Uint8Array> | Redacted.Redacted<string>

/**
 * The certainty of the value that a renewal will present.
 *
 * `uncertain`: the value may have been presented before, by a process that died, timed out or failed since, or by an
 * earlier try of this refresh. A server with reuse detection may then revoke all tokens of the same sign-in; a server
 * that allows a repeat within some seconds accepts it.
 *
 * @since 0.1.0
 * @category models
 */
export interface RenewalInfo {
  readonly uncertain: boolean
}

/**
 * How a fleet gets, keeps and gives up its value. All processes should use the same options.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<
  A,
  I,
  E = never,
  R = never,
  E2 = never,
  R2 = never,
  E3 = never,
  R3 = never,
  R4 = never,
  R5 = never
> extends Omit<Session.Options<A, E, R, E2, R2, E3, R3, R4>, "renew" | "initial" | "retry" | "cooldown"> {
  /** The name of the session in the store. */
  readonly key: string
  /** How the value is written: its encoded side must be JSON. */
  readonly schema: Schema.Schema<A, I, R5>
  /** Replaces a value by its successor. One process of the fleet does this for all. */
  readonly renew: (current: A, info: RenewalInfo) => Effect.Effect<A, E2, R2>
  /**
   * Encrypts the value in the store (AES-256-GCM). If several keys are given, the first encrypts, and all decrypt.
   * Default: the value is written in clear text.
   */
  readonly encryptWith?: Key | ReadonlyArray<Key> | undefined
  /**
   * How long a process may be silent before another one takes its renewal over. While a renewal runs, its process
   * extends the lease after each third of this time. A lease and the renewal that takes over should fit into the time
   * within which your server accepts a repeated refresh token. Default: 8 seconds, which leaves 2 of the usual 10
   * seconds.
   */
  readonly lease?: Duration.DurationInput | undefined
  /**
   * Whether a failure of `renew` proves that the presented value was not spent: a refused connection, status 429. The
   * next presentation is then as certain as this one was. Default: no failure does.
   */
  readonly unspent?: ((error: NoInfer<E | E2>) => boolean) | undefined
  /**
   * If the stored value cannot be read, `"fail"` (the default) fails with a `SharedSessionError` and overwrites
   * nothing; `"signIn"` logs a warning, signs in and replaces the value.
   */
  readonly onUnreadable?: "fail" | "signIn" | undefined
  /** Retries inside one refresh, for transient failures; `fatal` ones are not retried. Default: none. */
  readonly retry?: Schedule.Schedule<unknown, NoInfer<E | E2 | E3>> | undefined
  /**
   * How long callers in all processes get the failure of the last refresh, before the next caller tries once more for
   * all. A schedule is stepped by the fleet's consecutive failures. Default: 1 second, doubled up to 30.
   */
  readonly cooldown?:
    | Duration.DurationInput
    | Schedule.Schedule<unknown, Cause.Cause<NoInfer<E | E2 | E3> | SharedSessionError | Session.SessionError>>
    | undefined
}

// -----------------------------------------------------------------------------
// errors
// -----------------------------------------------------------------------------

/**
 * Why a shared session could not be refreshed, besides the application's own errors.
 *
 * - `StoreUnavailable`: the store failed, or did not answer within two seconds. A call that waits for its turn behind
 *   those of other sessions fails if the store has answered none of them for as long. A value that was obtained is
 *   kept, and written when the store is back.
 * - `Unreadable`: the stored value was changed, has another schema, or was encrypted with a key that is not given. Or a
 *   new value does not fit the schema: it is revoked, and the next refresh signs in.
 * - `Contended`: other processes held the lease for as long as a refresh waits.
 * - `CoolingDown`: another process has failed to refresh the session; the next try is after `retryAfter`.
 * - `Ended`: another process has ended the session while this one was renewing it.
 *
 * @since 0.1.0
 * @category errors
 */
export class SharedSessionError extends Data.TaggedError("SharedSessionError")<{
  readonly session: string
  readonly reason: "StoreUnavailable" | "Unreadable" | "Contended" | "CoolingDown" | "Ended"
  readonly detail: string
  readonly retryAfter?: Duration.Duration | undefined
}> {
  override get message(): string {
    return `${this.session} could not be refreshed (${this.reason}): ${this.detail}`
  }
}

// -----------------------------------------------------------------------------
// constructors
// -----------------------------------------------------------------------------

/**
 * Makes one process's part of a shared session. The store is not called before the first `current`. When the scope
 * closes, a value that was obtained but not written yet is written, if the store answers, and calls of the store that
 * were given up and still run are waited for, at most two seconds.
 *
 * Everything that `Session.make` guarantees also holds within each process. Each process numbers its generations by
 * itself; the number is not the fleet's version of the value.
 *
 * @example
 * ```ts
 * import * as FileSessionStore from "effect-holdfast/node/FileSessionStore"
 * import * as SharedSession from "effect-holdfast/SharedSession"
 * import * as Effect from "effect/Effect"
 * import * as Schema from "effect/Schema"
 *
 * const Token = Schema.Struct({ access: Schema.String, refresh: Schema.String, expiresAt: Schema.Number })
 * declare const signIn: Effect.Effect<typeof Token.Type, "SignInFailed">
 * declare const exchange: (refreshToken: string) => Effect.Effect<typeof Token.Type, "SignInFailed">
 *
 * const session = SharedSession.make({
 *   key: "api",
 *   schema: Token,
 *   acquire: signIn,
 *   renew: (token) => exchange(token.refresh),
 *   expiresAt: (token) => token.expiresAt
 * }).pipe(
 *   Effect.provide(FileSessionStore.layer({ directory: "/var/lib/example/sessions" }))
 * )
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <A, I, E = never, R = never, E2 = E, R2 = never, E3 = never, R3 = never, R4 = never, R5 = never>(
  options: Options<A, I, E, R, E2, R2, E3, R3, R4, R5>
): Effect.Effect<
  Session.Session<A, E | E2 | E3 | SharedSessionError>,
  InvalidOptions,
  Types.NoInfer<R | R2 | R3 | R4 | R5> | SessionStore.SessionStore | Scope.Scope
> =>
  Effect.gen(function*() {
    type Err = E | E2
    const settings = yield* Check.validated(() => validate(options))
    const store = yield* SessionStore.SessionStore
    const queue = yield* Check.validated(() => Queue.of(store))
    const clock = yield* Effect.clock
    const now = () => clock.unsafeCurrentTimeMillis()
    const monotonic = () => Math.round(Number(clock.unsafeCurrentTimeNanos()) / 1_000_000)
    const memory = new Memory<A>(monotonic)
    const calls = new UserEffects()
    const cooldown = Cooldown.make(settings.cooldown, monotonic, calls)
    // This finalizer runs last: what a call of the store has acquired is released before the scope has closed.
    yield* addFinalizer(() => calls.untilIdle(deadline))

    const parts: Parts<A, Err> = {
      ...settings,
      ...callbacksOf(options, yield* Effect.context<R | R2 | R4>()),
      now,
      monotonic,
      memory,
      rows: new Rows(store, settings.key, queue, calls, monotonic),
      codec: yield* Codec.make(settings.key, options.schema, yield* Sealing.make(settings.keys), calls),
      session: () => Inside.of(session),
      lifetimeOf: (value) => lifetimeOf(options, settings.maxAge, value, now()),
      makeRetry: retryOf(options.retry, monotonic),
      cooldownOf: cooldown.ofFleet,
      setCooldown: cooldown.set,
      news: new Waiters(),
      fork: yield* FiberSet.makeRuntime<never>(),
      settleLater: () => settleLater(parts),
      deliver: Effect.suspend(() => memory.undelivered === undefined ? Effect.void : deliver),
      report: (event) => report(settings.name, event)
    }
    // Finalizers run in reverse order: here the session itself has closed.
    yield* addFinalizer(() => settleFinally(parts))
    const refreshed = Effect.mapError(
      Effect.suspend(() => refresh(parts)),
      (error) => error instanceof Trouble ? errorOf(settings.name, error) : error
    )
    const session = yield* Session.make<A, Err | SharedSessionError, never, Err | SharedSessionError, never, E3, R3>({
      ...options,
      acquire: refreshed,
      renew: () => refreshed,
      initial: undefined,
      // `end` revokes the value of the whole fleet: see `partOf`.
      onEnd: undefined,
      fatal: (error) => !(error instanceof SharedSessionError) && parts.isFatal(error),
      ...writingDown(options, memory),
      cooldown: cooldown.ofSession
    })
    // A caller may have taken the value meanwhile.
    const deliver = Effect.ignore(
      Effect.flatMap(
        session.current,
        (stale) => memory.undelivered === undefined ? Effect.void : session.refresh(stale)
      )
    )
    yield* hear(parts, settings.key, store.notices)
    return partOf(session, parts)
  })

/** The session, with the operations that concern the whole fleet. */
const partOf = <A, E, E2>(session: Session.Session<A, E>, parts: Parts<A, E2>): Session.Session<A, E> => {
  const { beginEnd, finish, wake } = Inside.of(session)
  return Object.assign(session, {
    // The local and the fleet's `end` begin in one step, so that no refresh of this process comes between them.
    end: Effect.uninterruptible(Effect.suspend(() => {
      const ended = Ending.begin(parts)
      return Effect.zipRight(beginEnd(), finish(Ending.end(parts, ended)))
    })),
    wake: Effect.suspend(() => {
      parts.memory.isWoken = true
      return wake
    })
  })
}

/** The application's callbacks. They get the original error, which a span has wrapped in a proxy. */
const callbacksOf = <A, I, E, R, E2, R2, E3, R3, R4, R5>(
  { acquire, fatal, onEnd, renew, unspent }: Options<A, I, E, R, E2, R2, E3, R3, R4, R5>,
  context: Context.Context<R | R2 | R4>
) => ({
  // A shared value is data. What a call acquires is released when the call ends, and not with the session.
  acquire: Effect.provide(Effect.scoped(acquire), context),
  renew: (current: A, info: RenewalInfo) => Effect.provide(Effect.scoped(renew(current, info)), context),
  onEnd: (value: A): Effect.Effect<void> =>
    onEnd === undefined ? Effect.void : Effect.provide(Effect.suspend(() => onEnd(value)), context),
  isFatal: (error: E | E2): boolean => fatal !== undefined && fatal(Cause.originalError(error)),
  isUnspent: (error: E | E2): boolean => unspent !== undefined && unspent(Cause.originalError(error))
})

/** `onRenewed` with its retries. (The retries of `renew` are made elsewhere, while the lease is held.) */
const writingDown = <A, E3, R3>(
  { onRenewed, retry }: {
    readonly onRenewed?: ((generation: Session.Generation<A>) => Effect.Effect<void, E3, R3>) | undefined
    readonly retry?: Schedule.Schedule<unknown, any> | undefined
  },
  memory: Memory<A>
) => {
  let hasFailed = false
  return {
    onRenewed: (generation: Session.Generation<A>): Effect.Effect<void, E3, R3> => {
      memory.undelivered = undefined
      return onRenewed === undefined ? Effect.void : Effect.tapError(onRenewed(generation), () =>
        Effect.sync(() => {
          hasFailed = true
        }))
    },
    retry: retry && Schedule.whileInput(retry, () => hasFailed && !(hasFailed = false))
  }
}

const errorOf = (session: string, { detail, reason, retryAfter }: Trouble): SharedSessionError =>
  new SharedSessionError({ session, reason, detail, ...retryAfter === undefined ? {} : { retryAfter } })

const report = (session: string, event: string): Effect.Effect<void> =>
  Effect.zipRight(
    Metric.increment(
      Metric.taggedWithLabels(eventCounter, [MetricLabel.make("session", session), MetricLabel.make("event", event)])
    ),
    Effect.logDebug(`${session}: ${event}`)
  )

const eventCounter = Metric.counter("holdfast_shared_session_events_total", {
  description: "What this process has done in its fleet: renewed, adopted, took over, gave up or ended",
  incremental: true
})

// --- options -----------------------------------------------------------------

const validate = (options: Options<any, any, any, any, any, any, any, any, any, any>) => {
  checkCallbacks(options)
  const { encryptWith, key, onUnreadable, renew, schema } = options
  // A shared session must have `renew`, unlike a local one.
  Check.kind("renew", renew, Predicate.isFunction, "must be a function")
  Check.functions(options, ["unspent"])
  Check.name("key", key)
  Check.kind("schema", schema, Schema.isSchema, "must be a Schema")
  if (onUnreadable !== undefined) Check.oneOf("onUnreadable", onUnreadable, ["fail", "signIn"])
  const timeout = Duration.toMillis(Check.duration("timeout", options.timeout ?? "30 seconds", { min: "1 millis" }))
  const max = Duration.millis(Protocol.longestLease)
  return {
    key,
    name: options.name ?? "session",
    keys: Sealing.keysOf(encryptWith),
    signsInIfUnreadable: onUnreadable === "signIn",
    lease: Duration.toMillis(Check.duration("lease", options.lease ?? "8 seconds", { min: "1 millis", max })),
    // Waiting callers get the reason before their refresh times out.
    patience: timeout * 0.9,
    maxAge: Duration.toMillis(
      Check.duration("maxAge", options.maxAge ?? Duration.infinity, { min: "1 millis", max: Duration.infinity })
    ),
    cooldown: scheduleOf<any>(options.cooldown)
  }
}

/**
 * How long a value is valid. If the expiry is not a time, the session reports the error, and the value is not served.
 */
const lifetimeOf = <A>(
  { expiresAt }: Pick<Session.Options<A>, "expiresAt">,
  maxAge: number,
  value: A,
  now: number
): number => {
  if (expiresAt === undefined) return maxAge
  try {
    const at = expiresAt(value)
    if (at === undefined) return maxAge
    const lifetime = (DateTime.isDateTime(at) ? DateTime.toEpochMillis(at) : at) - now
    return Number.isNaN(lifetime) ? 0 : Math.min(lifetime, maxAge)
  } catch {
    return 0
  }
}

const retryOf = <E>(retry: Schedule.Schedule<unknown, any> | undefined, monotonic: () => number) => () => {
  if (retry === undefined) return () => Effect.succeed(undefined)
  const delays = Delays.make(retry)
  return (error: E) =>
    Effect.map(
      delays.next(Cause.originalError(error), monotonic()),
      (delay) => delay._tag === "Some" ? delay.value : undefined
    )
}

// -----------------------------------------------------------------------------
// layers
// -----------------------------------------------------------------------------

/**
 * `make` as the layer of a tag (`Context.Tag` or `Effect.Service`). The types of the value and of the errors come from
 * the tag.
 *
 * @example
 * ```ts
 * import * as FileSessionStore from "effect-holdfast/node/FileSessionStore"
 * import type * as Session from "effect-holdfast/Session"
 * import * as SharedSession from "effect-holdfast/SharedSession"
 * import * as Context from "effect/Context"
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 * import * as Schema from "effect/Schema"
 *
 * declare const signIn: Effect.Effect<string, "SignInFailed">
 * declare const exchange: (token: string) => Effect.Effect<string, "SignInFailed">
 *
 * class ApiSession extends Context.Tag("ApiSession")<
 *   ApiSession,
 *   Session.Session<string, "SignInFailed" | SharedSession.SharedSessionError>
 * >() {
 *   static readonly layer = SharedSession.layer(this, {
 *     key: "api",
 *     schema: Schema.String,
 *     acquire: signIn,
 *     renew: exchange
 *   }).pipe(Layer.provide(FileSessionStore.layer({ directory: "/var/lib/example/sessions" })))
 * }
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = <
  Id,
  S extends Session.Session<any, any>,
  I,
  R = never,
  R2 = never,
  R3 = never,
  R4 = never,
  R5 = never
>(
  tag:
    & Context.Tag<Id, S>
    & (SharedSessionError extends Session.ErrorOf<S> ? unknown
      : { readonly "the tag's session cannot fail with SharedSessionError": never }),
  options: Options<Session.ValueOf<S>, I, Session.ErrorOf<S>, R, Session.ErrorOf<S>, R2, Session.ErrorOf<S>, R3, R4, R5>
): Layer.Layer<
  Id,
  InvalidOptions,
  Exclude<Types.NoInfer<R | R2 | R3 | R4 | R5> | SessionStore.SessionStore, Scope.Scope>
> => Service.layer(tag, make(options))
