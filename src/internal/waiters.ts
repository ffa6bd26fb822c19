/**
 * Lists of waiters for a condition that other code makes true. No waiter misses the change.
 *
 * A waiter cannot register without its condition: `watch`, `until` and `lightUntil` take the condition itself, and
 * check it in the step in which they register. So no change can come between the check and the registration. Code that
 * changes something on which a condition depends calls `notify` of its list in the same step.
 *
 * **How a list wakes its waiters.** `notify` checks the conditions of the waiters that are registered when it is
 * called, in the order of their registration. A waiter whose condition is true leaves its lists and is called back,
 * once; the others stay.
 *
 * - A waiter that registers while others are woken is not checked in that round: it has just checked its condition.
 * - A waiter that is removed while others are woken is not called back.
 * - A `notify` within a callback checks all waiters that are registered then, before the outer round goes on. So no
 *   callback may rely on the state at the outer `notify`; each condition is checked again.
 * - A waiter whose callback throws counts as called back; a waiter whose condition throws stays registered. The other
 *   waiters are still woken; then `notify` throws the first error. The conditions of fibers are the exception: an error
 *   of such a condition becomes the fiber's defect.
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
  /** The oldest waiter. Few lists ever have two waiters, and a `Set` would be most of a list's memory. */
  private first: Waiter | undefined
  /** The later waiters, in the order of their registration. */
  private others: Set<Waiter> | undefined
  /** The last waiter of `lightUntil`. */
  private light: Waiter | undefined

  get size(): number {
    return (this.first === undefined ? 0 : 1) + (this.others?.size ?? 0)
  }

  /** Wakes the waiters whose condition is true. */
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
   * Returns a function that removes the waiter.
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

  /** Ends with the exit that `look` gives: now, or as soon as one of the lists is notified and `look` gives an exit. */
  static until<A, E = never>(
    look: () => Exit.Exit<A, E> | undefined,
    ...lists: ReadonlyArray<Waiters>
  ): Effect.Effect<A, E> {
    // This check spares a fiber that need not wait the cost of registering. Registering checks again.
    return Effect.suspend(() =>
      look() ?? wait<A, E>((resume) => {
        const waiter: Waiter = { look, onFound: resume, lists, isFiber: true, isRegistered: false }
        Waiters.register(waiter)
        return () => Waiters.leave(waiter)
      })
    )
  }

  /**
   * Like `until`, at a third of the cost, for a fiber that waits again and again. If the fiber is interrupted, a waiter
   * that does nothing stays in the list. While a list has such a waiter, fibers wait as with `until`, so that such
   * waiters do not accumulate.
   */
  static lightUntil<A, E = never>(look: () => Exit.Exit<A, E> | undefined, list: Waiters): Effect.Effect<A, E> {
    const waiting = Effect.async<A, E>((resume) => {
      list.light = { look, onFound: resume, lists: [list], isFiber: true, isRegistered: false }
      Waiters.register(list.light)
    })
    return Effect.suspend(() => look() ?? (list.light?.isRegistered === true ? Waiters.until(look, list) : waiting))
  }

  /** Checks the condition and registers in one step. */
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
