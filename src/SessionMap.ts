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
import * as ExecutionStrategy from "effect/ExecutionStrategy"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as FiberSet from "effect/FiberSet"
import { dual } from "effect/Function"
import * as MutableHashMap from "effect/MutableHashMap"
import * as Option from "effect/Option"
import { type Pipeable, pipeArguments } from "effect/Pipeable"
import * as Runtime from "effect/Runtime"
import * as Scope from "effect/Scope"
import type * as Types from "effect/Types"
import * as Check from "./internal/check.js"
import * as Inside from "./internal/session/inside.js"
import { sleep } from "./internal/sleep.js"
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

interface SessionMapImpl<in K, in out A, out E> extends SessionMap<K, A, E> {
  readonly held: (key: K) => Effect.Effect<HeldSession<A, E>, InvalidOptions | SessionMapFull, Scope.Scope>
}

/**
 * A session that a scope holds. `retain` holds it once more, until the effect that it returns has run (once).
 *
 * @internal
 */
export interface HeldSession<in out A, out E> {
  readonly session: Session.Session<A, E>
  readonly retain: Inside.Retain
}

interface Entry<K, A, E> {
  readonly key: K
  /** Makes the session, once for all who ask. */
  readonly making: Fiber.RuntimeFiber<Session.Session<A, E>, InvalidOptions>
  readonly scope: Scope.CloseableScope
  /** Set when the session has been made. */
  session: Session.Session<A, E> | undefined
  /** How many scopes, response bodies and renewals hold the session. At zero it is idle. */
  holders: number
  /** Drops it when it has been idle for long enough. */
  timer: Fiber.RuntimeFiber<void> | undefined
}

interface Acquired<K, A, E> {
  readonly entry: Entry<K, A, E>
  readonly session: Session.Session<A, E>
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
    const runtime = yield* Effect.runtime<Env>()
    const mapScope = yield* Effect.scope
    const fork = yield* FiberSet.makeRuntime()
    const entries = MutableHashMap.empty<K, Entry<K, A, E | E2 | E3>>()
    /** Longest idle first. */
    const idle = new Set<Entry<K, A, E | E2 | E3>>()

    // One step, so that no two fibers can each add a session of one key. (Effect's `RcMap` looks a key up in one step
    // and adds it in a later one; its lookup runs with the caller's context.) The session is made on a fiber of the
    // map's runtime, so that its renewals run with that runtime's scheduler and context.
    const entryOf = (key: K): Entry<K, A, E | E2 | E3> | undefined => {
      const found = Option.getOrUndefined(MutableHashMap.get(entries, key))
      if (found !== undefined) {
        idle.delete(found)
        found.timer?.unsafeInterruptAsFork(FiberId.none)
        return found
      }
      if (MutableHashMap.size(entries) >= capacity) {
        const [longestIdle] = idle
        if (longestIdle === undefined) return undefined
        // Nobody waits for another key's session to close.
        forget(longestIdle)
        fork(close(longestIdle))
      }
      const scope = Effect.runSync(Scope.fork(mapScope, ExecutionStrategy.sequential))
      const making = Runtime.runFork(runtime)(
        Scope.extend(Effect.suspend(() => Session.make(options.lookup(key))), scope)
      )
      const entry = { key, making, scope, session: undefined, holders: 0, timer: undefined }
      MutableHashMap.set(entries, key, entry)
      return entry
    }

    const acquire = (key: K): Effect.Effect<Acquired<K, A, E | E2 | E3>, InvalidOptions | SessionMapFull> =>
      Effect.suspend((): Effect.Effect<Acquired<K, A, E | E2 | E3>, InvalidOptions | SessionMapFull> => {
        const entry = entryOf(key)
        if (entry === undefined) return new SessionMapFull({ capacity })
        entry.holders++
        return Effect.matchCauseEffect(Effect.flatten(Fiber.await(entry.making)), {
          onSuccess: (session) => {
            entry.session = session
            return Effect.succeed({ entry, session })
          },
          onFailure: (cause) => {
            forget(entry)
            return Effect.zipRight(close(entry), Effect.failCause(cause))
          }
        })
      })

    const release = ({ entry }: Pick<Acquired<K, A, E | E2 | E3>, "entry">): Effect.Effect<void> =>
      Effect.suspend(() => {
        if (--entry.holders > 0) return Effect.void
        const renewal = entry.session && Inside.of(entry.session).inFlight()
        if (renewal !== undefined) {
          // The renewal may have spent a token that can be spent only once: its value must be kept, and written down.
          entry.holders++
          fork(Effect.zipRight(Fiber.await(renewal), release({ entry })))
          return Effect.void
        }
        idle.add(entry)
        if (Duration.isZero(idleTimeToLive)) return drop(entry)
        if (Duration.isFinite(idleTimeToLive)) {
          entry.timer = fork(
            Effect.interruptible(Effect.zipRight(sleep(Duration.toMillis(idleTimeToLive)), drop(entry)))
          )
        }
        return Effect.void
      })

    const drop = (entry: Entry<K, A, E | E2 | E3>): Effect.Effect<void> =>
      Effect.suspend(() => {
        if (!idle.has(entry)) return Effect.void
        forget(entry)
        return close(entry)
      })

    const forget = (entry: Entry<K, A, E | E2 | E3>): void => {
      idle.delete(entry)
      const present = MutableHashMap.get(entries, entry.key)
      if (Option.isSome(present) && present.value === entry) MutableHashMap.remove(entries, entry.key)
    }

    const close = ({ scope }: Entry<K, A, E | E2 | E3>): Effect.Effect<void> =>
      Effect.uninterruptible(Scope.close(scope, Exit.void))

    return Object.assign(Object.create(Proto), {
      held: (key: K) =>
        Effect.map(Effect.acquireRelease(acquire(key), release), ({ entry, session }) => ({
          session,
          retain: () => {
            entry.holders++
            return release({ entry })
          }
        }))
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
  <K, A, E>(self: SessionMap<K, A, E>, key: K) => Effect.map(held(self, key), ({ session }) => session)
)

/**
 * `get` is made of this; a response uses it to hold its session until its body has ended.
 *
 * @internal
 */
export const held = <K, A, E>(
  self: SessionMap<K, A, E>,
  key: K
): Effect.Effect<HeldSession<A, E>, InvalidOptions | SessionMapFull, Scope.Scope> =>
  (self as SessionMapImpl<K, A, E>).held(key)
