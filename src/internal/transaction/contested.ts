import * as Cause from "effect/Cause"
import * as FiberRef from "effect/FiberRef"
import { globalValue } from "effect/GlobalValue"
import type { TransactionDeadlock } from "../../TransactionalRef.js"
import { Cell, Layer, orders } from "./layer.js"
import { outermost, type Transaction } from "./transaction.js"

/**
 * The refs for which siblings, that is transactions inside the same one, have waited for each other in a circle.
 *
 * The next attempt of their outermost transaction would meet the same circle. So in all further attempts each
 * transaction inside it that names a contested ref takes one more turn before, which is the same for all contested
 * refs: siblings that name them go one at a time. A circle of siblings then leads over at least one ref that was not
 * contested yet. So circles of siblings end no more attempts than there are refs.
 */
export class Contested {
  private readonly cells = new Set<Cell<any>>()
  private readonly madeBefore = orders.next
  /** A body may make refs of its own, which are others at each attempt: then all that were made meanwhile are. */
  private areMadeMeanwhile = false
  private readonly turns = new WeakMap<Transaction, Layer<undefined>>()

  get isEmpty(): boolean {
    return this.cells.size === 0 && !this.areMadeMeanwhile
  }

  /** Adds the refs of the circle of siblings that an attempt has failed because of, if its error tells of one. */
  learn(error: unknown): void {
    // A span puts a proxy around each error that is raised in it.
    for (const layer of circles.get(Cause.originalError(error) as object) ?? []) {
      const lowest = lowestOf(layer)
      // The circle can lead over the turn that contested refs have in common.
      if (!(lowest instanceof Cell)) continue
      if (lowest.order < this.madeBefore) this.cells.add(lowest)
      else this.areMadeMeanwhile = true
    }
  }

  /** The turn to take before those of the refs, if the transaction names a contested one. */
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
