/**
 * Defects that unwind the body of a transaction which is over: no fault of the application's, and none that a boundary
 * should count. They are the transaction's own typed errors, which the outermost transaction fails with in the end.
 */
import * as Cause from "effect/Cause"
import { globalValue } from "effect/GlobalValue"

/** Kept here and not on the errors, so that the same error, raised by the application as a defect, is one. */
const unwinding = globalValue(Symbol.for("effect-holdfast/transaction/unwinding"), () => new WeakSet<object>())

export const noteUnwinding = <E extends object>(error: E): E => {
  unwinding.add(Cause.originalError(error))
  return error
}

export const isUnwinding = (defect: unknown): boolean => {
  // A span puts a proxy around each error that is raised in it.
  const original = Cause.originalError(defect)
  return typeof original === "object" && original !== null && unwinding.has(original)
}
