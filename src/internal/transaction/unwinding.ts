/**
 * Defects that unwind the body of a transaction which is over. They are not a fault of the application, so a boundary
 * must not count them. Each is one of the transaction's own typed errors, with which the outermost transaction fails in
 * the end.
 *
 * Such a defect can leave its transaction: a memoized effect keeps it, or a fiber that died of it is joined later.
 * There it unwinds nothing, and is a defect like any other.
 */
import * as Cause from "effect/Cause"
import { globalValue } from "effect/GlobalValue"

interface Transaction {
  readonly outer: Transaction | undefined
  readonly phase: string
}

/** Stored here and not on the errors, so that the same error is an ordinary defect if the application raises it. */
const unwinding = globalValue(
  Symbol.for("effect-holdfast/transaction/unwinding"),
  () => new WeakMap<object, Transaction>()
)

/** `transaction` is the innermost transaction in which the defect is raised. */
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

/** Whether a transaction in which the defect was raised still goes on. */
export const isUnwinding = (defect: unknown): boolean => {
  let transaction = innermostOf(defect)
  while (transaction?.phase === "Over") transaction = transaction.outer
  return transaction !== undefined
}

const innermostOf = (defect: unknown): Transaction | undefined => {
  // A span wraps each error that is raised in it in a proxy.
  const original = Cause.originalError(defect)
  return typeof original === "object" && original !== null ? unwinding.get(original) : undefined
}
