/**
 * The sessions of a map: each is made once, its holders are counted, and it is dropped when it has been idle for long
 * enough.
 */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as ExecutionStrategy from "effect/ExecutionStrategy"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as MutableHashMap from "effect/MutableHashMap"
import * as Option from "effect/Option"
import type * as Runtime from "effect/Runtime"
import * as Scope from "effect/Scope"
import type { Session } from "../../Session.js"
import { addFinalizer, untilClosed } from "../closeScope.js"
import { forkIn } from "../fork.js"
import { sleep } from "../sleep.js"
import * as Inside from "./inside.js"
import * as Renewal from "./renewal.js"

interface Entry<K, A, E, E0> {
  readonly key: K
  readonly scope: Scope.CloseableScope
  /**
   * The making of the session, once for all callers. It is in the graph of renewals: a renewal may wait for it, and the
   * lookup for a renewal.
   */
  readonly making: Renewal.Renewal<Exit.Exit<Session<A, E>, E0>, never>
  /** Set when the session has been made. */
  session: Session<A, E> | undefined
  /** How many scopes, response bodies and renewals hold the session. At zero it is idle. */
  holders: number
  /** Whether the entry has left the map: its session was dropped, or could not be made. */
  isForgotten: boolean
  /** The fiber that drops the session when it has been idle for long enough. Set while the session is idle. */
  timer: Fiber.RuntimeFiber<void> | undefined
}

export interface Settings<K, A, E, E0, R> {
  readonly capacity: number
  readonly idleTimeToLive: Duration.Duration
  readonly makeSession: (key: K) => Effect.Effect<Session<A, E>, E0, R | Scope.Scope>
  /** The session that every key has once the map is closed: a closed session. */
  readonly closed: Effect.Effect<Session<A, E>, never, Scope.Scope>
  readonly full: E0
  /** The outcome for a renewal that waits for a lookup which waits for this renewal. */
  readonly reentrant: Exit.Exit<never>
  /** The runtime with which sessions are made and their renewals run. */
  readonly runtime: Runtime.Runtime<R>
  /** Closes with the map, after its `close`. */
  readonly scope: Scope.Scope
  /** Runs an effect on a fiber of the map's own. */
  readonly fork: <B>(effect: Effect.Effect<B>) => Fiber.RuntimeFiber<B>
}

export class Sessions<K, A, E, E0, R> {
  private readonly settings: Settings<K, A, E, E0, R>
  private readonly entries = MutableHashMap.empty<K, Entry<K, A, E, E0>>()
  /** Sessions without holders, the longest idle first. */
  private readonly idle = new Set<Entry<K, A, E, E0>>()
  private isClosed = false

  constructor(settings: Settings<K, A, E, E0, R>) {
    this.settings = settings
  }

  /** From now on no session is made. */
  end(): void {
    this.isClosed = true
  }

  /** The session of a key, held until the scope closes. */
  held(key: K): Effect.Effect<Inside.HeldSession<A, E>, E0, Scope.Scope> {
    return Effect.uninterruptibleMask((restore): Effect.Effect<Inside.HeldSession<A, E>, E0, Scope.Scope> => {
      if (this.isClosed) return this.heldClosed
      const entry = this.entryOf(key)
      if (entry === undefined) return Effect.fail(this.settings.full)
      entry.holders++
      const held = (session: Session<A, E>) =>
        Effect.as(addFinalizer(() => this.letGo(entry)), {
          session,
          retain: () => {
            entry.holders++
            return this.letGo(entry)
          }
        })
      if (entry.session !== undefined) return held(entry.session)
      return Effect.matchCauseEffect(restore(Renewal.join(entry.making, this.settings.reentrant)), {
        onFailure: (interruption) => Effect.zipRight(this.letGo(entry), Effect.failCause(interruption)),
        onSuccess: (made) => {
          if (Exit.isSuccess(made)) return held(made.value)
          if (!Cause.isInterruptedOnly(made.cause)) {
            return Effect.zipRight(this.letGo(entry), Effect.failCause(made.cause))
          }
          // Only the lookup itself can have interrupted the making of a session that a caller waits for.
          return this.isClosed ? this.heldClosed : Effect.die(
            new Cause.InterruptedException("the lookup of a session interrupted itself")
          )
        }
      })
    })
  }

  private get heldClosed(): Effect.Effect<Inside.HeldSession<A, E>> {
    return Effect.map(
      Effect.scoped(this.settings.closed),
      (session) => ({ session, retain: () => Effect.void })
    )
  }

  /**
   * Finds or adds the entry in one step, so that no two fibers can each add a session of one key. (Effect's `RcMap`
   * looks a key up in one step and adds it in a later one; its lookup runs with the caller's context.)
   */
  private entryOf(key: K): Entry<K, A, E, E0> | undefined {
    const { capacity, makeSession, runtime, scope: mapScope } = this.settings
    const found = Option.getOrUndefined(MutableHashMap.get(this.entries, key))
    if (found !== undefined) {
      this.idle.delete(found)
      stopTimer(found)
      return found
    }
    if (MutableHashMap.size(this.entries) >= capacity) {
      const [longestIdle] = this.idle
      if (longestIdle === undefined) return undefined
      // The caller does not wait until another key's session has closed.
      stopTimer(longestIdle)
      this.forget(longestIdle)
      this.close(longestIdle)
    }
    const scope = Effect.runSync(Scope.fork(mapScope, ExecutionStrategy.sequential))
    const inner = Effect.runSync(Scope.fork(scope, ExecutionStrategy.sequential))
    const entry: Entry<K, A, E, E0> = {
      key,
      scope,
      making: Renewal.make(),
      session: undefined,
      holders: 0,
      isForgotten: false,
      timer: undefined
    }
    MutableHashMap.set(this.entries, key, entry)
    const making = Scope.extend(Effect.suspend(() => makeSession(key)), inner)
    // The session is made on a fiber of the map's runtime, so that its renewals run with that runtime's scheduler and
    // context. The scope interrupts this fiber before it closes what the fiber has acquired.
    const work = entry.making.work = Renewal.makeWork(entry)
    const made = Effect.onExit(making, (made) => this.settle(entry, made))
    forkIn(runtime, scope, Renewal.within(work)(made)).addObserver((made) => {
      work.isOver = true
      Renewal.answer(entry.making, Exit.succeed(made))
    })
    return entry
  }

  private settle(entry: Entry<K, A, E, E0>, made: Exit.Exit<Session<A, E>, E0>): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (Exit.isSuccess(made)) {
        entry.session = made.value
        return Effect.void
      }
      stopTimer(entry)
      this.forget(entry)
      return Scope.close(entry.scope, made)
    })
  }

  private letGo(entry: Entry<K, A, E, E0>): Effect.Effect<void> {
    const { fork, idleTimeToLive } = this.settings
    return Effect.suspend(() => {
      if (--entry.holders > 0 || entry.isForgotten) return Effect.void
      const renewal = entry.session && Inside.of(entry.session).inFlight()
      if (renewal !== undefined) {
        // The renewal may have spent a token that can be spent only once: its value must be kept and written down.
        entry.holders++
        fork(Effect.zipRight(Fiber.await(renewal), this.letGo(entry)))
        return Effect.void
      }
      this.idle.add(entry)
      if (Duration.isZero(idleTimeToLive)) return this.drop(entry)
      if (Duration.isFinite(idleTimeToLive)) {
        const waiting = sleep(Duration.toMillis(idleTimeToLive))
        entry.timer = fork(Effect.interruptible(Effect.zipRight(waiting, this.drop(entry))))
      }
      return Effect.void
    })
  }

  private drop(entry: Entry<K, A, E, E0>): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (!this.idle.has(entry)) return Effect.void
      this.forget(entry)
      return Effect.asVoid(untilClosed(() => this.close(entry)))
    })
  }

  /** Closes the entry's scope on a fiber of the map. The map waits for this fiber when it closes. */
  private close({ scope }: Entry<K, A, E, E0>): Fiber.RuntimeFiber<void> {
    return this.settings.fork(Effect.uninterruptible(Scope.close(scope, Exit.void)))
  }

  private forget(entry: Entry<K, A, E, E0>): void {
    entry.isForgotten = true
    this.idle.delete(entry)
    const current = MutableHashMap.get(this.entries, entry.key)
    if (Option.isSome(current) && current.value === entry) MutableHashMap.remove(this.entries, entry.key)
  }
}

const stopTimer = ({ timer }: Pick<Entry<unknown, unknown, unknown, unknown>, "timer">): void =>
  timer?.unsafeInterruptAsFork(FiberId.none)
