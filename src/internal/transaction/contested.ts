import * as Cause from "effect/Cause"
import * as FiberRef from "effect/FiberRef"
import { globalValue } from "effect/GlobalValue"
import type { TransactionDeadlock } from "../../TransactionalRef.js"
import { Cell, Layer, orders } from "./layer.js"
import { outermost, type Transaction } from "./transaction.js"

/**
 * The refs for which siblings (transactions inside the same transaction) have waited for each other in a circle.
 *
 * The next attempt of their outermost transaction would meet the same circle. So in all further attempts, each inner
 * transaction that names a contested ref first takes one additional turn, which all contested refs share: siblings that
 * name contested refs run one at a time. Any further circle of siblings contains at least one ref that was not
 * contested before. So circles of siblings end at most as many attempts as there are refs.
 */
export class Contested {
  private readonly cells = new Set<Cell<any>>()
  private readonly madeBefore = orders.next
  /**
   * A body may make refs of its own, which are new in each attempt. If one of these is contested, all refs that were
   * made during the attempts count as contested.
   */
  private areMadeMeanwhile = false
  private readonly turns = new WeakMap<Transaction, Layer<undefined>>()

  get isEmpty(): boolean {
    return this.cells.size === 0 && !this.areMadeMeanwhile
  }

  /** Adds the refs of the circle of siblings that has made an attempt fail, if its error has one. */
  learn(error: unknown): void {
    // A span wraps each error that is raised in it in a proxy.
    for (const layer of circles.get(Cause.originalError(error) as object) ?? []) {
      const lowest = lowestOf(layer)
      // The circle can contain the turn that contested refs share.
      if (!(lowest instanceof Cell)) continue
      if (lowest.order < this.madeBefore) this.cells.add(lowest)
      else this.areMadeMeanwhile = true
    }
  }

  /** The turn to take before the refs' own turns, if the transaction names a contested ref. */
  turnBefore(transaction: Transaction): Layer<undefined> | undefined {
    if (!transaction.cells.some((cell) => this.has(cell))) return undefined
    const whole = outermost(transaction)
    const turn = this.turns.get(whole) ?? new Layer("contested refs", undefined, undefined)
    this.turns.set(whole, turn)
    return turn
  }

  private has(cell: Cell<any>): boolean {
    return this.cells.has(cell) || (this.areMadeMeanwhile && cell.order >= this.madeBefore)
  }
}

const lowestOf = (layer: Layer<any>): Layer<any> => layer.below === undefined ? layer : lowestOf(layer.below)

/** The refs that are contested in an attempt, set by `retryDeadlock` from the second attempt on. */
export const contested = globalValue(
  Symbol.for("effect-holdfast/TransactionalRef/contested"),
  () => FiberRef.unsafeMake<Contested | undefined>(undefined)
)

/** The turns along each circle of siblings. */
const circles = globalValue(
  Symbol.for("effect-holdfast/TransactionalRef/circles"),
  () => new WeakMap<object, ReadonlyArray<Layer<any>>>()
)

export const noteCircle = (deadlock: TransactionDeadlock, circle: ReadonlyArray<Layer<any>>): void => {
  circles.set(deadlock, circle)
}
