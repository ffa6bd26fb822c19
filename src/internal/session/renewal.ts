/**
 * A renewal that many fibers wait for, and the work that brings its outcome. If work would wait for itself, directly or
 * through the renewals of other sessions, it fails instead of hanging.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import { globalValue } from "effect/GlobalValue"
import { monotonic } from "../monotonic.js"
import { wait } from "../wait.js"

/** Work of a session's own fibers on its behalf: obtaining a successor, or giving up a value. */
export interface Work {
  readonly session: object
  /** Set at the end of the work: a daemon that outlives its work is no longer part of it. */
  isOver: boolean
  /** The renewals, of any session, that fibers of this work wait for. */
  readonly waitsFor: Set<{ readonly on: AnyRenewal }>
  /** Done when the person that the work waits for has answered; `undefined` while it waits for none. */
  person: Deferred.Deferred<void> | undefined
  /** When the last person answered, on the monotonic clock. */
  answeredAt: number
}

/** A renewal that callers wait for. Its work may be that of an earlier renewal, whose answer is late. */
export interface Renewal<in out A, in out E> {
  work: Work | undefined
  outcome: Exit.Exit<A, E> | undefined
  /**
   * Not a `Waiters`, because a waiter is also an edge of the graph of renewals, which is searched and changed in the
   * step in which the waiter registers. Not a `Deferred`, because that searches an array for each waiter that is
   * interrupted.
   */
  readonly waiters: Set<Waiter<A, E>>
}

type AnyRenewal = Renewal<any, any>

export const make = <A, E>(): Renewal<A, E> => ({ work: undefined, outcome: undefined, waiters: new Set() })

export const makeWork = (session: object): Work => ({
  session,
  isOver: false,
  waitsFor: new Set(),
  person: undefined,
  answeredAt: -Infinity
})

interface Waiter<in out A, in out E> {
  readonly on: Renewal<A, E>
  readonly within: Work | undefined
  readonly resume: (outcome: Exit.Exit<A, E>) => void
}

/** The work that the current fiber is part of. Its children inherit it, those of `timeout` and `race` included. */
const currentWork = globalValue(
  Symbol.for("effect-holdfast/Session/currentWork"),
  () => FiberRef.unsafeMake<Work | undefined>(undefined)
)

/** Runs an effect, and all its fibers, as part of the work. */
export const within = (work: Work) => Effect.locally(currentWork, work)

/** The work that a fiber is part of, while that work goes on. */
export const workOf = (fiber: Fiber.RuntimeFiber<unknown, unknown>): Work | undefined => {
  const work = fiber.getFiberRef(currentWork)
  return work === undefined || work.isOver ? undefined : work
}

/** Waits for a person within a renewal: the time that this takes does not count towards the renewal's `timeout`. */
export const unhurried = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.withFiberRuntime((fiber) => {
    const work = workOf(fiber)
    if (work === undefined) return effect
    return Effect.acquireUseRelease(
      Effect.sync(() => (work.person = Deferred.unsafeMake<void>(fiber.id()))),
      () => effect,
      (person) =>
        Effect.flatMap(Effect.clock, (clock) => {
          work.person = undefined
          work.answeredAt = monotonic(clock)
          return Deferred.succeed(person, undefined)
        })
    )
  })

const isWaitingFor = (from: AnyRenewal, target: Work): boolean => {
  const seen = new Set<AnyRenewal>()
  const open = [from]
  for (let renewal = open.pop(); renewal !== undefined; renewal = open.pop()) {
    if (seen.has(renewal)) continue
    seen.add(renewal)
    const { work } = renewal
    if (work === undefined || work.isOver) continue
    if (work === target) return true
    for (const { on } of work.waitsFor) open.push(on)
  }
  return false
}

/** Waits for the outcome; gives `reentrant` if that would close a circle of renewals that wait for each other. */
export const join = <A, E>(renewal: Renewal<A, E>, reentrant: Exit.Exit<A, E>): Effect.Effect<A, E> =>
  Effect.withFiberRuntime((fiber) =>
    // The search for a circle and the new edge are one step, so that two fibers cannot both overlook each other's edge.
    wait<A, E>((resume) => {
      const within = workOf(fiber)
      const isCircle = within !== undefined && isWaitingFor(renewal, within)
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
    })
  )

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
