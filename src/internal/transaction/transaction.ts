import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type * as FiberId from "effect/FiberId"
import * as FiberRef from "effect/FiberRef"
import { globalValue } from "effect/GlobalValue"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import type { InvariantViolated, TransactionConflict, TransactionDeadlock } from "../../TransactionalRef.js"
import type { Cell, Layer } from "./layer.js"
import type { Holder, Place, Turn } from "./turn.js"

/** The errors of transactions, which the public module makes. */
export interface Errors {
  /** The transaction would wait for itself: `cycle` names the refs of the circle. */
  readonly deadlock: (cycle: ReadonlyArray<string>) => TransactionDeadlock
  /** The transaction around the one on these refs is over, or is ending. */
  readonly conflict: (names: string) => TransactionConflict
  /** The value that the transaction would commit to this ref does not satisfy the ref's invariant. */
  readonly violation: (name: string) => InvariantViolated
  /** Whether the error is one of a deadlock or a conflict. */
  readonly isRefusal: (error: unknown) => boolean
}

/** A transaction, outermost or inner. */
export class Transaction implements Holder<Transaction> {
  readonly errors: Errors
  /** The transaction that this one is inside. */
  readonly outer: Transaction | undefined
  /**
   * The refs that the transaction itself names. Inner transactions may name more refs, whose turns this transaction
   * then has, too.
   */
  readonly cells: ReadonlyArray<Cell<any>>
  readonly fiber: FiberId.Runtime
  readonly since: number
  /**
   * The turn that was taken last. An outermost transaction has turns of refs; an inner one has turns of its outer
   * transaction's layers.
   */
  turn: Turn<Transaction> | undefined
  places: Map<Turn<Transaction>, Place<Transaction>> | undefined
  /**
   * - `Open`: its body runs.
   * - `Aborted` (only an outermost transaction): it was chosen to end a deadlock. Its changes are dropped and its turns
   *   are released; its body still runs.
   * - `Ending`: its changes have been committed or dropped; its finalizers run, and it still has its turns.
   * - `Over`: it has neither changes nor turns.
   */
  phase: "Open" | "Aborted" | "Ending" | "Over" = "Open"
  /** The error that an outermost transaction fails with, if it was aborted. */
  deadlock: TransactionDeadlock | undefined
  /** The scope, made when it is first needed. */
  madeScope: Scope.CloseableScope | undefined
  /** The exit of an outermost transaction, from the phase `Ending` on. */
  exit: Exit.Exit<unknown, unknown> = Exit.void

  constructor(errors: Errors, outer: Transaction | undefined, cells: ReadonlyArray<Cell<any>>, fiber: AnyFiber) {
    this.errors = errors
    this.outer = outer
    this.cells = cells
    this.fiber = fiber.id()
    this.since = Context.get(fiber.currentDefaultServices, Clock.Clock).unsafeCurrentTimeMillis()
  }

  /** The scope of an outermost transaction, which all finalizers inside it are added to. */
  scope(): Scope.CloseableScope {
    if (this.madeScope === undefined) {
      this.madeScope = Effect.runSync(Scope.make())
      // A fiber that has kept the context can ask for the scope after the transaction is over.
      if (this.phase === "Over") Effect.runSync(Scope.close(this.madeScope, this.exit))
    }
    return this.madeScope
  }
}

export const outermost = (transaction: Transaction): Transaction =>
  transaction.outer === undefined ? transaction : outermost(transaction.outer)

/**
 * Whether the bodies of the transaction and of all transactions around it are running, and none of them has been
 * aborted.
 */
export const isOpen = (transaction: Transaction | undefined): boolean =>
  transaction === undefined || (transaction.phase === "Open" && isOpen(transaction.outer))

export const namesOf = (cells: ReadonlyArray<Cell<any>>): string => cells.map(({ name }) => name).join(", ")

// -----------------------------------------------------------------------------
// the transaction that a fiber is in
// -----------------------------------------------------------------------------

export type AnyFiber = Fiber.RuntimeFiber<unknown, unknown>

/**
 * The current fiber, without `Effect.withFiberRuntime`: each operation of a transaction makes all waiting transactions
 * wait longer.
 */
export const currentFiber = (): AnyFiber => Option.getOrThrow(Fiber.getCurrentFiber())

/**
 * The transaction that the fiber is in; the transaction itself sets it. The fiber's children inherit it, including
 * those of `timeout` and `race`. A fiber that joins such a child does not.
 */
export const current = globalValue(
  Symbol.for("effect-holdfast/TransactionalRef/current"),
  () => FiberRef.unsafeMake<Transaction | undefined>(undefined, { join: (parent) => parent })
)

/**
 * The innermost transaction that the fiber is in. A fiber that outlives a transaction is no longer inside it, but may
 * be inside the one around it.
 */
export const transactionOf = (fiber: AnyFiber): Transaction | undefined => {
  let transaction = fiber.getFiberRef(current)
  while (transaction?.phase === "Over") transaction = transaction.outer
  return transaction
}

/** The layer that a reader in the transaction sees: the highest one of the transaction or of those around it. */
export const layerIn = <A>(cell: Cell<A>, transaction: Transaction | undefined): Layer<A> => {
  if (transaction === undefined) return cell
  const below = layerIn(cell, transaction.outer)
  return below.holder === transaction ? below.above ?? below : below
}

/**
 * Calls `f` with each layer of a transaction and the layer below it. A turn that has just been handed over may have no
 * layer yet.
 */
export const eachLayer = (
  transaction: Transaction,
  f: (layer: Layer<unknown>, below: Layer<unknown>) => void
): void => {
  for (let turn = transaction.turn; turn !== undefined; turn = turn.next) {
    const below = turn as Layer<unknown>
    if (below.above !== undefined) f(below.above, below)
  }
}
