/** Accounts whose balances are changed by transactions, and the journal of the result of each transfer. */
import * as TransactionalRef from "effect-holdfast/TransactionalRef"
import * as Array from "effect/Array"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Ref from "effect/Ref"
import { accountCount, initialCents, type Transfer } from "./transfer.js"

/** The ids of transfers that were not done, by the reason. A transfer that is sent again may have several entries. */
export type Undone = Readonly<Record<"died" | "failed" | "interrupted" | "overdrawn", ReadonlyArray<string>>>

export const make = Effect.gen(function*() {
  const accounts = yield* Effect.forEach(
    Array.makeBy(accountCount, (account) => account),
    (account) =>
      TransactionalRef.make(initialCents, { name: `account ${account}`, invariant: (cents: number) => cents >= 0 })
  )
  // Not kept in the refs, since the refs are judged by this journal.
  const committed = new Map<string, Transfer>()
  const undone = {
    died: [] as Array<string>,
    failed: [] as Array<string>,
    interrupted: [] as Array<string>,
    overdrawn: [] as Array<string>
  }

  const note = (transfer: Transfer, exit: Exit.Exit<unknown, unknown>): void => {
    if (Exit.isSuccess(exit)) committed.set(transfer.id, transfer)
    else undone[reasonOf(exit.cause)].push(transfer.id)
  }

  return {
    /** All balances at one point in time. */
    balances: TransactionalRef.snapshot(accounts),

    /** Does each transfer once, however often it is requested: a caller whose answer was lost asks again. */
    transfer: <E>(transfer: Transfer, bookkeep: (transfer: Transfer) => Effect.Effect<void, E>) =>
      TransactionalRef.transaction(
        // Both accounts are named at the beginning, so no two transfers can wait for each other.
        { from: accounts[transfer.from]!, to: accounts[transfer.to]! },
        ({ from, to }) =>
          Effect.gen(function*() {
            if (committed.has(transfer.id)) return
            // After the decision, and before the next transfer in turn checks whether it has been done.
            yield* Effect.addFinalizer((exit) => Effect.sync(() => note(transfer, exit)))
            yield* Ref.update(from, (cents) => cents - transfer.cents)
            yield* bookkeep(transfer)
            yield* Ref.update(to, (cents) => cents + transfer.cents)
          })
      ),

    committed: Effect.sync(() => [...committed.values()]),
    undone: Effect.sync((): Undone => undone),

    /** How many transactions hold an account or wait for one. */
    locks: Effect.map(Effect.forEach(accounts, TransactionalRef.inspect), (inspections) => ({
      held: inspections.filter(({ holder }) => Option.isSome(holder)).length,
      waiting: inspections.reduce((sum, { waiters }) => sum + waiters, 0)
    }))
  }
})

export type Bank = Effect.Effect.Success<typeof make>

const reasonOf = (cause: Cause.Cause<unknown>): keyof Undone => {
  if (Option.isSome(Cause.dieOption(cause))) return "died"
  const error = Option.getOrUndefined(Cause.failureOption(cause))
  if (error === undefined) return "interrupted"
  return error instanceof TransactionalRef.InvariantViolated ? "overdrawn" : "failed"
}
