/**
 * A `Session` for each key (a tenant, a host, a user), made on demand and dropped when idle.
 *
 * **What it guarantees.** Two keys never share a value, a failure or a wait; keys are compared by `Equal`. However many
 * fibers ask for a key at the same time, the key has one session, and the effect that makes it runs once. The sessions
 * are made, and run, with the context of `make`. Interrupting a caller neither cancels nor restarts the making of a
 * session. A session is in use while a scope holds it, or a response that `SessionHttpClient.makeKeyed` obtained
 * through it.
 *
 * **What it does not.** A dropped session forgets its value without revoking it. If the value was a rotated, single-use
 * token, the next session of that key has to sign in again, unless the token was written down: `onRenewed` is the place
 * to persist it and `initial` the way to start from it again. A failed `lookup` is not remembered: the next caller runs
 * it again. A dropped session closes on its own: the next session of its key does not wait until then, so the resources
 * of both may exist at the same time.
 *
 * @since 0.1.0
 */

import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as ExecutionStrategy from "effect/ExecutionStrategy"
import * as Exit from "effect/Exit"
import * as FiberSet from "effect/FiberSet"
import { dual } from "effect/Function"
import { type Pipeable, pipeArguments } from "effect/Pipeable"
import * as Predicate from "effect/Predicate"
import * as Scope from "effect/Scope"
import type * as Types from "effect/Types"
import * as Check from "./internal/check.js"
import * as Inside from "./internal/session/inside.js"
import { Sessions } from "./internal/session/sessions.js"
import type { InvalidOptions } from "./InvalidOptions.js"
import * as Session from "./Session.js"

/**
 * Marks the maps of this module.
 *
 * @since 0.1.0
 * @category symbols
 */
export const TypeId: unique symbol = Symbol.for("effect-holdfast/SessionMap")

/**
 * Marks the maps of this module.
 *
 * @since 0.1.0
 * @category symbols
 */
export type TypeId = typeof TypeId

/**
 * Sessions by key; see the module's description. `E` is the error of their renewals, `E0` the error of making a
 * session.
 *
 * @since 0.1.0
 * @category models
 */
export interface SessionMap<in K, in out A, out E = never, out E0 = never> extends Pipeable {
  readonly [TypeId]: {
    readonly _K: Types.Contravariant<K>
    readonly _A: Types.Invariant<A>
    readonly _E: Types.Covariant<E>
    readonly _E0: Types.Covariant<E0>
  }
}

/**
 * The map is at its `capacity`, and all its sessions are in use.
 *
 * @since 0.1.0
 * @category errors
 */
export class SessionMapFull extends Data.TaggedError("SessionMapFull")<{ readonly capacity: number }> {
  override get message(): string {
    return `all ${this.capacity} sessions of the map are in use`
  }
}

/**
 * How many sessions a map keeps, and for how long.
 *
 * @since 0.1.0
 * @category models
 */
export interface Limits {
  /**
   * How long an idle session is kept. A session is idle if it has no holder and no `renew` is running (which may have
   * spent a token). Default: 10 minutes, longer than the pauses within a user's visit. May be longer than the longest
   * timer, or infinite.
   */
  readonly idleTimeToLive?: Duration.DurationInput | undefined
  /**
   * How many sessions may exist at the same time. If a further session is needed, the session that has been idle
   * longest is dropped; if all are in use, `get` fails with `SessionMapFull`. Default: no limit.
   */
  readonly capacity?: number | undefined
}

/**
 * The result of a `lookup`: the options of a session, or an effect that makes one.
 *
 * @since 0.1.0
 * @category models
 */
export type Lookup<
  A,
  E = never,
  R = never,
  E2 = never,
  R2 = never,
  E3 = never,
  R3 = never,
  R4 = never,
  E0 = never,
  R0 = never
> =
  | Session.Options<A, E, R, E2, R2, E3, R3, R4>
  | Effect.Effect<Session.Session<A, E>, E0, R0>

/**
 * Makes a map of sessions. `lookup` gives the options of a key's session, or an effect that makes the session, such as
 * `OAuth2Session.make` or `PersistedSession.make`. It is called once for each session that is made.
 *
 * Such an effect runs with the context of the map, on a fiber of the map's own, in a scope that closes when the session
 * is dropped or the effect has failed. All callers of the key wait for it, and get its failure. If all of them are
 * interrupted, it goes on, and its session is idle: then `idleTimeToLive`, `capacity` and the end of the map can
 * interrupt it. If the effect interrupts itself, waiting callers get a defect (`Cause.InterruptedException`).
 *
 * @example
 * ```ts
 * import { OAuth2Session } from "effect-holdfast/oauth2"
 * import * as SessionMap from "effect-holdfast/SessionMap"
 * import * as Effect from "effect/Effect"
 *
 * declare const signIn: (host: string) => Effect.Effect<string>
 *
 * const hosts = SessionMap.make({
 *   lookup: (host: string) => ({ acquire: signIn(host), maxAge: "1 hour" }),
 *   capacity: 1000
 * })
 *
 * const tenants = SessionMap.make({
 *   lookup: (tenant: string) =>
 *     OAuth2Session.make({
 *       issuer: `https://login.example.com/${tenant}`,
 *       clientId: "orders",
 *       grant: OAuth2Session.clientCredentials
 *     })
 * })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <
  K,
  A,
  E = never,
  R = never,
  E2 = E,
  R2 = never,
  E3 = never,
  R3 = never,
  R4 = never,
  E0 = never,
  R0 = never
>(
  options: Limits & { readonly lookup: (key: K) => Lookup<A, E, R, E2, R2, E3, R3, R4, E0, R0> }
): Effect.Effect<
  SessionMap<K, A, E | E2 | E3, E0>,
  InvalidOptions,
  Types.NoInfer<R | R2 | R3 | R4 | R0> | Scope.Scope
> =>
  Effect.gen(function*() {
    const { capacity, idleTimeToLive } = yield* Check.validated(() => ({
      lookup: Check.kind("lookup", Check.object("options", options).lookup, Predicate.isFunction, "must be a function"),
      capacity: options.capacity === undefined ? Infinity : Check.count("capacity", options.capacity, 1),
      idleTimeToLive: Check.duration("idleTimeToLive", options.idleTimeToLive ?? "10 minutes", {
        min: 0,
        max: Duration.infinity
      })
    }))
    type Env = R | R2 | R3 | R4 | R0 | Scope.Scope
    const sessions = new Sessions<K, A, E | E2 | E3, E0 | InvalidOptions | SessionMapFull, Env>({
      capacity,
      idleTimeToLive,
      makeSession: (key) => {
        const made = options.lookup(key)
        // A caller without types may give anything.
        return Effect.isEffect(made) ? Effect.filterOrFail(made, isSession, notSession) : Session.make(made)
      },
      closed: Effect.orDie(Session.make<A, E | E2 | E3>({ acquire: Effect.never })),
      full: new SessionMapFull({ capacity }),
      reentrant: Exit.die(new Session.ReentrantRefresh({ session: "a session's map" })),
      runtime: yield* Effect.runtime<Env>(),
      fork: yield* FiberSet.makeRuntime(),
      scope: yield* Effect.flatMap(Effect.scope, (scope) => Scope.fork(scope, ExecutionStrategy.sequential))
    })
    // Finalizers run in reverse order, so this one runs before the sessions' scopes close.
    yield* Effect.addFinalizer(() => Effect.sync(() => sessions.end()))
    return Object.assign(Object.create(Proto), { held: (key: K) => sessions.held(key) })
  })

const isSession = <A, E>(given: Session.Session<A, E>): given is Session.Session<A, E> => Session.isSession(given)

const notSession = (given: unknown): InvalidOptions =>
  Check.wrongKind("lookup", given, "must give a session, or the options of one")

const Proto = {
  [TypeId]: { _K: (_: unknown) => _, _A: (_: never) => _, _E: (_: never) => _, _E0: (_: never) => _ },
  pipe() {
    return pipeArguments(this, arguments)
  }
}

/**
 * The session of a key, which is made if there is none, and held until the scope closes. Once the map's own scope has
 * closed, this gives a closed session. A lookup that waits here for itself dies with `ReentrantRefresh`, and so does a
 * renewal that waits for a lookup which waits for that renewal.
 *
 * @example
 * ```ts
 * import * as Session from "effect-holdfast/Session"
 * import * as SessionMap from "effect-holdfast/SessionMap"
 * import * as Effect from "effect/Effect"
 *
 * declare const tenants: SessionMap.SessionMap<string, string>
 * declare const fetchOrders: (token: string) => Effect.Effect<ReadonlyArray<string>>
 *
 * const ordersOf = (tenant: string) =>
 *   Effect.scoped(Effect.flatMap(SessionMap.get(tenants, tenant), (session) => Session.use(session, fetchOrders)))
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const get: {
  <K>(key: K): <A, E, E0>(
    self: SessionMap<K, A, E, E0>
  ) => Effect.Effect<Session.Session<A, E>, E0 | InvalidOptions | SessionMapFull, Scope.Scope>
  <K, A, E, E0>(
    self: SessionMap<K, A, E, E0>,
    key: K
  ): Effect.Effect<Session.Session<A, E>, E0 | InvalidOptions | SessionMapFull, Scope.Scope>
} = dual(
  2,
  <K, A, E, E0>(self: SessionMap<K, A, E, E0>, key: K) =>
    Effect.map(Inside.ofMap(self).held(key), ({ session }) => session)
)
