/**
 * A renewal that many fibers wait for, and who waits for whom: so that one which would wait for itself, directly or
 * through the renewals of other sessions, is told so instead of hanging.
 */
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import { globalValue } from "effect/GlobalValue"
import { wait } from "./wait.js"

export interface Renewal<in out A, in out E> {
  /** Whose renewal it is. */
  readonly session: object
  readonly since: number
  /** The fiber that runs it, once it has been forked. */
  worker: Fiber.RuntimeFiber<unknown, unknown> | undefined
  outcome: Exit.Exit<A, E> | undefined
  /** A `Deferred` keeps these in an array, in which each that is interrupted has to be searched for. */
  readonly waiters: Set<Waiter<A, E>>
  /** The renewals, of whatever session, that fibers of this one wait for. */
  readonly waitsFor: Set<{ readonly on: AnyRenewal }>
}

type AnyRenewal = Renewal<any, any>

interface Waiter<in out A, in out E> {
  readonly on: Renewal<A, E>
  readonly within: AnyRenewal | undefined
  readonly resume: (outcome: Exit.Exit<A, E>) => void
}

export const make = <A, E>(session: object, since: number): Renewal<A, E> => ({
  session,
  since,
  worker: undefined,
  outcome: undefined,
  waiters: new Set(),
  waitsFor: new Set()
})

/** The renewal that the present fiber is part of. Its children inherit it, those of `timeout` and `race` included. */
export const current = globalValue(
  Symbol.for("effect-holdfast/Session/currentRenewal"),
  () => FiberRef.unsafeMake<AnyRenewal | undefined>(undefined)
)

/** A daemon that outlives its renewal is no longer part of it. */
const isAlive = ({ worker }: AnyRenewal): boolean => worker === undefined || worker.unsafePoll() === null

const isWaitingFor = (from: AnyRenewal, target: AnyRenewal): boolean => {
  const seen = new Set<AnyRenewal>()
  const open = [from]
  for (let renewal = open.pop(); renewal !== undefined; renewal = open.pop()) {
    if (renewal === target) return true
    if (seen.has(renewal)) continue
    seen.add(renewal)
    for (const { on } of renewal.waitsFor) open.push(on)
  }
  return false
}

/** The renewal is to wait for the end of a former one, which has failed but may not heed its interruption yet. */
export const follow = (renewal: AnyRenewal, former: AnyRenewal): void => {
  if (!isAlive(former)) return
  const edge = { on: former }
  renewal.waitsFor.add(edge)
  former.worker?.addObserver(() => renewal.waitsFor.delete(edge))
}

/** Fails with `reentrant` for the fibers of a renewal of the same session: what they ask for they are to bring. */
export const outside = <E>(renewal: AnyRenewal, reentrant: Exit.Exit<never, E>): Effect.Effect<void, E> =>
  Effect.flatMap(FiberRef.get(current), (mark) =>
    mark !== undefined && mark.session === renewal.session && isAlive(mark) ? reentrant : Effect.void)

/** Waits for the outcome; fails with `reentrant` if that would close a circle of renewals that wait for each other. */
export const join = <A, E>(renewal: Renewal<A, E>, reentrant: Exit.Exit<never, E>): Effect.Effect<A, E> =>
  Effect.flatMap(FiberRef.get(current), (mark) =>
    // The circle is looked for and the edge added in one step, so that no two fibers can each miss the other's.
    wait<A, E>((resume) => {
      const within = mark !== undefined && isAlive(mark) ? mark : undefined
      const isCircle = within !== undefined && (within.session === renewal.session || isWaitingFor(renewal, within))
      const answer = isCircle ? reentrant : renewal.outcome
      if (answer !== undefined) {
        resume(answer)
        return undefined
      }
      const waiter: Waiter<A, E> = { on: renewal, within, resume }
      renewal.waiters.add(waiter)
      within?.waitsFor.add(waiter)
      return () => {
        renewal.waiters.delete(waiter)
        within?.waitsFor.delete(waiter)
      }
    }))

/** Gives all waiters the outcome, and returns how many there were. */
export const answer = <A, E>(renewal: Renewal<A, E>, outcome: Exit.Exit<A, E>): number => {
  const waiters = [...renewal.waiters]
  renewal.outcome = outcome
  renewal.waiters.clear()
  for (const waiter of waiters) {
    waiter.within?.waitsFor.delete(waiter)
    waiter.resume(outcome)
  }
  return waiters.length
}
