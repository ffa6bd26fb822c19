/**
 * Defects that unwind the body of a transaction which is over. They are no fault of the application's, and a boundary
 * should not count them. Each is one of the transaction's own typed errors, which the outermost transaction fails with
 * in the end.
 *
 * Such a defect can get out of its transaction: a memoized effect keeps it, or a fiber that died of it is joined later.
 * There it unwinds nothing, and is a defect like any other.
 */
import * as Cause from "effect/Cause"
import { globalValue } from "effect/GlobalValue"

interface Transaction {
  readonly outer: Transaction | undefined
  readonly phase: string
}

/** Kept here and not on the errors, so that the same error, raised by the application as a defect, is one. */
const unwinding = globalValue(
  Symbol.for("effect-holdfast/transaction/unwinding"),
  () => new WeakMap<object, Transaction>()
)

/** `transaction` is the innermost one that the defect is raised in. */
export const noteUnwinding = <E extends object>(error: E, transaction: Transaction): E => {
  unwinding.set(Cause.originalError(error), transaction)
  return error
}

/** Whether a defect was raised to unwind this outermost transaction, and no other. */
export const unwinds = (defect: unknown, outermost: Transaction): boolean => {
  let transaction = innermostOf(defect)
  while (transaction?.outer !== undefined) transaction = transaction.outer
  return transaction === outermost
}

/** Whether a transaction that the defect was raised in still goes on. */
export const isUnwinding = (defect: unknown): boolean => {
  let transaction = innermostOf(defect)
  while (transaction?.phase === "Over") transaction = transaction.outer
  return transaction !== undefined
}

const innermostOf = (defect: unknown): Transaction | undefined => {
  // A span puts a proxy around each error that is raised in it.
  const original = Cause.originalError(defect)
  return typeof original === "object" && original !== null ? unwinding.get(original) : undefined
}
