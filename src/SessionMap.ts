/**
 * A `Session` for each key (a tenant, a host, a user), made on demand and dropped when idle.
 *
 * **What it guarantees.** Two keys never share a value, a failure or a wait; keys are compared by `Equal`. However
 * many fibers ask for a key at once, there is one session of it. The sessions run with the context of `make`. A
 * session is in use while a scope holds it, and while a response is that `SessionHttpClient.makeKeyed` obtained
 * through it.
 *
 * **What it does not.** A dropped session forgets its value without revoking it. Where the value was a rotated,
 * single-use token, the next session of that key has to sign in anew, unless the token was written down:
 * `onRenewed` is the place to persist it and `initial` the way to start from it again.
 *
 * @since 0.1.0
 */

import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import { dual } from "effect/Function"
import { type Pipeable, pipeArguments } from "effect/Pipeable"
import type * as Scope from "effect/Scope"
import type * as Types from "effect/Types"
import * as Check from "./internal/check.js"
import * as Inside from "./internal/session/inside.js"
import { Sessions } from "./internal/session/sessions.js"
import type { InvalidOptions } from "./InvalidOptions.js"
import * as Session from "./Session.js"

/**
 * @since 0.1.0
 * @category symbols
 */
export const TypeId: unique symbol = Symbol.for("effect-holdfast/SessionMap")

/**
 * @since 0.1.0
 * @category symbols
 */
export type TypeId = typeof TypeId

/**
 * Sessions by key; see the module's description.
 *
 * @since 0.1.0
 * @category models
 */
export interface SessionMap<in K, in out A, out E = never> extends Pipeable {
  readonly [TypeId]: {
    readonly _K: Types.Contravariant<K>
    readonly _A: Types.Invariant<A>
    readonly _E: Types.Covariant<E>
  }
}

/**
 * Every session that the map may hold is in use.
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
 * Makes a map of sessions.
 *
 * - `lookup`: the options of a key's session. Called once for each session that is made.
 * - `idleTimeToLive`: how long a session is kept that nobody holds and whose `renew` is not under way (what that brings
 *   may have spent a token); default 10 minutes, longer than the pauses within a user's visit. May be longer than a
 *   timer can hold, or infinite.
 * - `capacity`: how many sessions may exist at once. When a further one is wanted, the session that has been
 *   idle longest goes; if all are in use, `get` fails with `SessionMapFull`. Default: no limit.
 *
 * @example
 * ```ts
 * import * as SessionMap from "effect-holdfast/SessionMap"
 * import * as Effect from "effect/Effect"
 *
 * declare const signIn: (tenant: string) => Effect.Effect<string>
 *
 * const tenants = SessionMap.make({
 *   lookup: (tenant: string) => ({ acquire: signIn(tenant), maxAge: "1 hour" }),
 *   capacity: 1000
 * })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <K, A, E = never, R = never, E2 = E, R2 = never, E3 = never, R3 = never, R4 = never>(
  options: {
    readonly lookup: (key: K) => Session.Options<A, E, R, E2, R2, E3, R3, R4>
    readonly idleTimeToLive?: Duration.DurationInput | undefined
    readonly capacity?: number | undefined
  }
): Effect.Effect<SessionMap<K, A, E | E2 | E3>, InvalidOptions, Types.NoInfer<R | R2 | R3 | R4> | Scope.Scope> =>
  Effect.gen(function*() {
    type Env = R | R2 | R3 | R4 | Scope.Scope
    const { capacity, idleTimeToLive } = yield* Check.validated(() => ({
      capacity: options.capacity === undefined ? Infinity : Check.count("capacity", options.capacity, 1),
      idleTimeToLive: Check.duration("idleTimeToLive", options.idleTimeToLive ?? "10 minutes", {
        min: 0,
        max: Duration.infinity
      })
    }))
    const sessions = new Sessions<K, A, E | E2 | E3, InvalidOptions | SessionMapFull, Env>({
      capacity,
      idleTimeToLive,
      makeSession: (key) => Session.make(options.lookup(key)),
      full: new SessionMapFull({ capacity }),
      runtime: yield* Effect.runtime<Env>(),
      scope: yield* Effect.scope,
      fork: yield* FiberSet.makeRuntime()
    })
    return Object.assign(Object.create(Proto), { held: (key: K) => sessions.held(key) })
  })

const Proto = {
  [TypeId]: { _K: (_: unknown) => _, _A: (_: never) => _, _E: (_: never) => _ },
  pipe() {
    return pipeArguments(this, arguments)
  }
}

/**
 * The session of a key, made if there is none, held until the scope closes. Once the map's own scope has closed
 * it is a session that is closed.
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
  <K>(key: K): <A, E>(
    self: SessionMap<K, A, E>
  ) => Effect.Effect<Session.Session<A, E>, InvalidOptions | SessionMapFull, Scope.Scope>
  <K, A, E>(
    self: SessionMap<K, A, E>,
    key: K
  ): Effect.Effect<Session.Session<A, E>, InvalidOptions | SessionMapFull, Scope.Scope>
} = dual(
  2,
  <K, A, E>(self: SessionMap<K, A, E>, key: K) => Effect.map(Inside.ofMap(self).held(key), ({ session }) => session)
)
