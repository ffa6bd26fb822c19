/**
 * Lists of waiters for a condition that other code brings about, none of whom misses it.
 *
 * A list has no bare registration: `watch`, `until` and `lightUntil` take the condition itself, and look at it in the
 * step in which they register. So no change can come between the look and the registration. Code that changes what a
 * condition depends on calls `notify` of its list in the same step.
 *
 * **How a list wakes its waiters.** `notify` asks the waiters that are registered when it is called, in the order in
 * which they registered. A waiter whose condition is there leaves its lists and is called back, once; the others stay.
 *
 * - A waiter that registers while others are woken is not asked in that round: it has looked already.
 * - A waiter that is given up while others are woken is not called back any more.
 * - A `notify` within a callback asks all waiters that are registered then, before the outer round goes on. So no
 *   callback may rely on the state that the outer `notify` was about; each condition is asked anew.
 * - A callback that throws has been called back, and a condition that throws stays registered. The other waiters are
 *   woken all the same; then `notify` throws the first of what was thrown. A fiber's condition is the exception: what
 *   that throws is the fiber's defect.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { wait } from "./wait.js"

interface Waiter<A = any> {
  readonly look: () => A | undefined
  readonly onFound: (found: A) => void
  readonly lists: ReadonlyArray<Waiters>
  readonly isFiber: boolean
  isRegistered: boolean
}

export class Waiters {
  /** The oldest waiter. Few lists ever have two, and a `Set` would be most of a list's weight. */
  private first: Waiter | undefined
  /** The later waiters, in the order of their registration. */
  private others: Set<Waiter> | undefined
  /** The last waiter of `lightUntil`. */
  private light: Waiter | undefined

  get size(): number {
    return (this.first === undefined ? 0 : 1) + (this.others?.size ?? 0)
  }

  /** Wakes the waiters whose condition is there. */
  notify(): void {
    const { first, others } = this
    if (others === undefined || others.size === 0) {
      if (first !== undefined) Waiters.ask(first)
      return
    }
    let thrown: { readonly error: unknown } | undefined
    for (const waiter of first === undefined ? [...others] : [first, ...others]) {
      try {
        if (waiter.isRegistered) Waiters.ask(waiter)
      } catch (error) {
        thrown ??= { error }
      }
    }
    if (thrown !== undefined) throw thrown.error
  }

  /**
   * Calls `onFound` with what `look` finds: now, or as soon as one of the lists is notified and `look` finds something.
   * Returns a function that gives the waiter up.
   */
  static watch<A>(
    look: () => A | undefined,
    onFound: (found: A) => void,
    ...lists: ReadonlyArray<Waiters>
  ): () => void {
    const waiter: Waiter<A> = { look, onFound, lists, isFiber: false, isRegistered: false }
    Waiters.register(waiter)
    return () => Waiters.leave(waiter)
  }

  /** Ends as `look` says, now or as soon as one of the lists is notified and `look` says how. */
  static until<A, E = never>(
    look: () => Exit.Exit<A, E> | undefined,
    ...lists: ReadonlyArray<Waiters>
  ): Effect.Effect<A, E> {
    // A fiber that need not wait is spared the cost of it. Registering looks again.
    return Effect.suspend(() =>
      look() ?? wait<A, E>((resume) => {
        const waiter: Waiter = { look, onFound: resume, lists, isFiber: true, isRegistered: false }
        Waiters.register(waiter)
        return () => Waiters.leave(waiter)
      })
    )
  }

  /**
   * The same at a third of the cost, for a fiber that waits again and again: interrupted, it leaves a waiter that does
   * nothing. While a list has such a waiter, fibers wait as with `until`, so that such waiters do not pile up.
   */
  static lightUntil<A, E = never>(look: () => Exit.Exit<A, E> | undefined, list: Waiters): Effect.Effect<A, E> {
    const waiting = Effect.async<A, E>((resume) => {
      list.light = { look, onFound: resume, lists: [list], isFiber: true, isRegistered: false }
      Waiters.register(list.light)
    })
    return Effect.suspend(() => look() ?? (list.light?.isRegistered === true ? Waiters.until(look, list) : waiting))
  }

  /** Looks and registers in one step. */
  private static register(waiter: Waiter): void {
    const found = waiter.look()
    if (found !== undefined) return waiter.onFound(found)
    waiter.isRegistered = true
    for (const list of waiter.lists) {
      if (list.size === 0) list.first = waiter
      else (list.others ??= new Set()).add(waiter)
    }
  }

  private static leave(waiter: Waiter): void {
    waiter.isRegistered = false
    for (const list of waiter.lists) {
      if (list.first === waiter) list.first = undefined
      else list.others?.delete(waiter)
    }
  }

  private static ask(waiter: Waiter): void {
    let found: unknown
    try {
      found = waiter.look()
    } catch (defect) {
      if (!waiter.isFiber) throw defect
      found = Exit.die(defect)
    }
    if (found === undefined) return
    Waiters.leave(waiter)
    waiter.onFound(found)
  }
}
