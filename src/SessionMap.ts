/**
 * A `Session` for each key (a tenant, a host, a user), made on demand and dropped when idle.
 *
 * **What it guarantees.** Two keys never share a value, a failure or a wait; keys are compared by `Equal`. However
 * many fibers ask for a key at once, there is one session of it. The sessions run with the context of `make`.
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
import * as ExecutionStrategy from "effect/ExecutionStrategy"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as FiberSet from "effect/FiberSet"
import { dual } from "effect/Function"
import * as MutableHashMap from "effect/MutableHashMap"
import * as Option from "effect/Option"
import { type Pipeable, pipeArguments } from "effect/Pipeable"
import * as Runtime from "effect/Runtime"
import * as Scope from "effect/Scope"
import type * as Types from "effect/Types"
import type { InvalidOptions } from "./InvalidOptions.js"
import * as Check from "./InvalidOptions.js"
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

interface SessionMapImpl<in K, in out A, out E> extends SessionMap<K, A, E> {
  readonly get: (key: K) => Effect.Effect<Session.Session<A, E>, InvalidOptions | SessionMapFull, Scope.Scope>
}

interface Entry<K, A, E> {
  readonly key: K
  readonly session: Session.Session<A, E>
  readonly scope: Scope.CloseableScope
  /** How many scopes hold the session. At zero it is idle. */
  holders: number
  /** Drops it when it has been idle for long enough. */
  timer: Fiber.RuntimeFiber<void> | undefined
}

/**
 * Makes a map of sessions.
 *
 * - `lookup`: the options of a key's session. Called once for each session that is made.
 * - `idleTimeToLive`: how long a session is kept that nobody holds; default 10 minutes, longer than the pauses
 *   within a user's visit.
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
export const make = <K, A, E = never, R = never, E2 = never, R2 = never, E3 = never, R3 = never, R4 = never>(
  options: {
    readonly lookup: (key: K) => Session.Options<A, E, R, E2, R2, E3, R3, R4>
    readonly idleTimeToLive?: Duration.DurationInput | undefined
    readonly capacity?: number | undefined
  }
): Effect.Effect<SessionMap<K, A, E | E2 | E3>, InvalidOptions, R | R2 | R3 | R4 | Scope.Scope> =>
  Effect.gen(function*() {
    type Env = R | R2 | R3 | R4 | Scope.Scope
    const { capacity, idleTimeToLive } = yield* Check.validated(() => ({
      capacity: options.capacity === undefined ? Infinity : Check.count("capacity", options.capacity, 1),
      idleTimeToLive: Check.duration("idleTimeToLive", options.idleTimeToLive ?? "10 minutes", {
        min: 0,
        max: Duration.infinity
      })
    }))
    const runtime = yield* Effect.runtime<Env>()
    const mapScope = yield* Effect.scope
    const fork = yield* FiberSet.makeRuntime()
    const entries = MutableHashMap.empty<K, Entry<K, A, E | E2 | E3>>()
    /** Longest idle first. */
    const idle = new Set<Entry<K, A, E | E2 | E3>>()

    // One step, as `Session.make` waits for nothing: no two fibers can each make a session of one key. (Effect's
    // `RcMap` looks a key up in one step and adds it in a later one; its lookup runs with the caller's context.)
    const acquire = (key: K): Effect.Effect<Entry<K, A, E | E2 | E3>, InvalidOptions | SessionMapFull> =>
      Effect.suspend((): Effect.Effect<Entry<K, A, E | E2 | E3>, InvalidOptions | SessionMapFull> => {
        const found = Option.getOrUndefined(MutableHashMap.get(entries, key))
        if (found !== undefined) {
          found.holders++
          idle.delete(found)
          found.timer?.unsafeInterruptAsFork(FiberId.none)
          return Effect.succeed(found)
        }
        const isFull = MutableHashMap.size(entries) >= capacity
        const [longestIdle] = idle
        if (isFull && longestIdle === undefined) return new SessionMapFull({ capacity })
        const scope = Effect.runSync(Scope.fork(mapScope, ExecutionStrategy.sequential))
        const made = Runtime.runSyncExit(runtime)(
          Scope.extend(Effect.suspend(() => Session.make(options.lookup(key))), scope)
        )
        if (Exit.isFailure(made)) return Effect.zipRight(Scope.close(scope, made), Exit.failCause(made.cause))
        const entry = { key, session: made.value, scope, holders: 1, timer: undefined }
        // Nobody waits for another key's session to close.
        if (isFull) fork(drop(longestIdle!))
        MutableHashMap.set(entries, key, entry)
        return Effect.succeed(entry)
      })

    const release = (entry: Entry<K, A, E | E2 | E3>): Effect.Effect<void> =>
      Effect.suspend(() => {
        if (--entry.holders > 0) return Effect.void
        if (Duration.isZero(idleTimeToLive)) return drop(entry)
        idle.add(entry)
        if (Duration.isFinite(idleTimeToLive)) {
          entry.timer = fork(Effect.zipRight(
            Effect.sleep(idleTimeToLive),
            Effect.suspend(() => idle.has(entry) ? drop(entry) : Effect.void)
          ).pipe(Effect.interruptible))
        }
        return Effect.void
      })

    const drop = (entry: Entry<K, A, E | E2 | E3>): Effect.Effect<void> => {
      idle.delete(entry)
      MutableHashMap.remove(entries, entry.key)
      return Effect.uninterruptible(Scope.close(entry.scope, Exit.void))
    }

    return Object.assign(Object.create(Proto), {
      get: (key: K) => Effect.map(Effect.acquireRelease(acquire(key), release), (entry) => entry.session)
    })
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
  <K, A, E>(self: SessionMap<K, A, E>, key: K) => (self as SessionMapImpl<K, A, E>).get(key)
)
