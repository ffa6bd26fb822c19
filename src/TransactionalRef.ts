/**
 * Shared state that changes in transactions: no reader sees a half-made change, and a failure, defect or interruption
 * undoes all changes.
 *
 * **The idea.** `Ref` + `acquireUseRelease` + interruption, so that state rolls back. A transaction gives its body a
 * draft of each ref: a `Ref` that only this body can see. Readers still see the last committed value, and never wait.
 * If the body succeeds, all drafts are committed in one step; after any other exit they are dropped. Transactions of
 * one ref take turns, first come first served, so that a body may be any effect and is never repeated. The bracket
 * around the body is written by hand (`internal/transaction/run.ts`), because with `Effect.acquireUseRelease` itself a
 * transaction takes a third longer.
 *
 * **What it guarantees.** However a body ends (success, failure, a defect, a throw, interruption at any point), the
 * transaction releases its refs, and these are either all changed or all unchanged. A transaction inside another one
 * joins it: on the same ref as a savepoint, on another ref by adding that ref to the outer transaction. Transactions
 * never wait for each other in a circle: the call that would close the circle fails with `TransactionDeadlock`, the
 * outermost transaction around it is over immediately, and all other transactions go on. `retryDeadlock` runs that
 * transaction again.
 *
 * **What it does not.** Values must be immutable: if a body changes something inside a mutable value, all readers see
 * the change immediately, and it is not undone. A body can read refs that its transaction does not name, but other
 * transactions may change them before it ends: base a decision only on refs that the transaction names. Other actions
 * of a body (a request, a file) are not undone; use finalizers for that. A finalizer that dies does not undo the
 * changes of a successful body: the transaction dies, and its changes stay committed. After a deadlock has ended a
 * transaction, the rest of its body has no exclusive access: other transactions hold its refs while it unwinds. The
 * state is in the memory of one process, and neither durable nor shared between processes.
 *
 * @since 0.1.0
 */

import * as Cause from "effect/Cause"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type * as FiberId from "effect/FiberId"
import { dual } from "effect/Function"
import * as Option from "effect/Option"
import { type Pipeable, pipeArguments } from "effect/Pipeable"
import * as Predicate from "effect/Predicate"
import type * as Ref from "effect/Ref"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import type * as Types from "effect/Types"
import * as Backoff from "./Backoff.js"
import * as Check from "./internal/check.js"
import { registryIn } from "./internal/registry.js"
import { Contested, contested } from "./internal/transaction/contested.js"
import { Cell } from "./internal/transaction/layer.js"
import { register } from "./internal/transaction/registered.js"
import { runOnOne, runOnSeveral } from "./internal/transaction/run.js"
import { type AnyFiber, type Errors, layerIn, transactionOf } from "./internal/transaction/transaction.js"
import { noteUnwinding } from "./internal/transaction/unwinding.js"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * Marks the refs of this module.
 *
 * @since 0.1.0
 * @category symbols
 */
export const TypeId: unique symbol = Symbol.for("effect-holdfast/TransactionalRef")

/**
 * Marks the refs of this module.
 *
 * @since 0.1.0
 * @category symbols
 */
export type TypeId = typeof TypeId

/**
 * Shared state that is changed by transactions; see the module's description. `I` is `InvariantViolated`, or `never`
 * if the ref was made without an invariant.
 *
 * @since 0.1.0
 * @category models
 */
export interface TransactionalRef<in out A, out I = InvariantViolated> extends Pipeable {
  readonly [TypeId]: { readonly _A: Types.Invariant<A>; readonly _I: Types.Covariant<I> }
}

/**
 * Several refs, as a record, a tuple or an array.
 *
 * @since 0.1.0
 * @category models
 */
export type Refs = { readonly [name: string]: TransactionalRef<any> } | ReadonlyArray<TransactionalRef<any>>

/**
 * `InvariantViolated` if one of several refs has an invariant, else `never`.
 *
 * @since 0.1.0
 * @category models
 */
export type Violation<R extends Refs> = ViolationOf<R[keyof R & (R extends ReadonlyArray<any> ? number : string)]>

type ViolationOf<T> = T extends TransactionalRef<any, infer I> ? I : never

/**
 * The drafts of several refs, under the same names or places.
 *
 * @since 0.1.0
 * @category models
 */
export type Drafts<R extends Refs> = {
  readonly [K in keyof R]: R[K] extends TransactionalRef<infer A, any> ? Ref.Ref<A> : never
}

/**
 * The values of several refs, under the same names or places.
 *
 * @since 0.1.0
 * @category models
 */
export type Values<R extends Refs> = {
  readonly [K in keyof R]: R[K] extends TransactionalRef<infer A, any> ? A : never
}

/**
 * The transaction that holds a ref, how many transactions wait for the ref, and how earlier ones have ended. `commits`
 * and `rollbacks` count the outermost transactions that held the ref since `make`; `since` is epoch milliseconds.
 *
 * @since 0.1.0
 * @category models
 */
export interface Inspection {
  readonly name: string
  readonly holder: Option.Option<{ readonly fiber: FiberId.Runtime; readonly since: number }>
  readonly waiters: number
  readonly commits: number
  readonly rollbacks: number
}

// -----------------------------------------------------------------------------
// errors
// -----------------------------------------------------------------------------

/**
 * At the end of a transaction, the value of a ref did not satisfy that ref's invariant. All refs of the transaction are
 * unchanged.
 *
 * @since 0.1.0
 * @category errors
 */
export class InvariantViolated extends Data.TaggedError("InvariantViolated")<{ readonly name: string }> {
  override get message(): string {
    return `the transaction would violate the invariant of ${this.name}`
  }
}

/** Marks the errors that `retryDeadlock` tries again, also those of another copy of this module. */
const RefusalId = Symbol.for("effect-holdfast/TransactionalRef/Refusal")

/**
 * The transaction asked for a ref that another transaction holds, and that transaction waits, directly or through
 * further transactions, for a ref that this one holds: `cycle` names the refs. (Waits with a time limit, or of a
 * daemon, also count: Holdfast cannot recognise them.) The outermost transaction is over: its changes are dropped, and
 * its refs go to other transactions. It fails with this error, whatever its body makes of the error. `retryDeadlock`
 * runs it again after a pause. A transaction that names all its refs at its beginning, which are then taken in one
 * order, never fails with this error.
 *
 * @since 0.1.0
 * @category errors
 */
export class TransactionDeadlock
  extends Data.TaggedError("TransactionDeadlock")<{ readonly cycle: ReadonlyArray<string> }>
{
  override get message(): string {
    return `transactions wait for each other: ${this.cycle.join(", ")}`
  }
  /** @internal */
  get [RefusalId](): true {
    return true
  }
}

/**
 * A transaction inside another one was still running when the outer one ended (in a daemon, say), or began while the
 * outer one was ending (in a finalizer, say) or after a deadlock had ended the outer one. The changes of the inner
 * transaction are dropped.
 *
 * @since 0.1.0
 * @category errors
 */
export class TransactionConflict extends Data.TaggedError("TransactionConflict")<{ readonly name: string }> {
  override get message(): string {
    return `the transaction around the one on ${this.name} has ended before it`
  }
  /** @internal */
  get [RefusalId](): true {
    return true
  }
}

/**
 * The errors of a transaction besides those of its body.
 *
 * @since 0.1.0
 * @category errors
 */
export type TransactionError = InvariantViolated | TransactionDeadlock | TransactionConflict

// -----------------------------------------------------------------------------
// constructors
// -----------------------------------------------------------------------------

/**
 * - `name`: the ref's name in errors, spans, metrics and an Inspector. By default the ref has a number, the metrics
 *   count it together with all refs that have no name, and an Inspector does not list it.
 * - `invariant`: must be true for each value that is committed. By default there is none. It is checked at the end of
 *   the outermost transaction that names the ref; if only an inner transaction names the ref, that one fails by itself.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<in A> {
  readonly name?: string | undefined
  readonly invariant?: ((value: A) => boolean) | undefined
}

/**
 * Makes a ref. Its transactions can fail with `InvariantViolated` only if it has an invariant.
 *
 * @example
 * ```ts
 * import * as TransactionalRef from "effect-holdfast/TransactionalRef"
 *
 * const balance = TransactionalRef.make(100, { name: "balance", invariant: (cents) => cents >= 0 })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make: {
  <A>(
    initial: A,
    options?: { readonly name?: string | undefined; readonly invariant?: undefined }
  ): Effect.Effect<TransactionalRef<A, never>>
  <A>(initial: A, options: Options<NoInfer<A>>): Effect.Effect<TransactionalRef<A>>
} = <A>(initial: A, options: Options<A> = {}): Effect.Effect<TransactionalRef<A, never>> =>
  Effect.withFiberRuntime((fiber) => {
    validate(options)
    const cell = new TransactionalCell(initial, options)
    const registry = options.name === undefined ? undefined : registryIn(fiber)
    if (registry !== undefined) register(registry, cell)
    return Effect.succeed(cell)
  })

/** Throws `InvalidOptions`, which only a caller without types can meet: then it is a defect. */
const validate = (options: Options<never>): void => {
  Check.object("options", options)
  Check.functions(options, ["invariant"])
  if (options.name !== undefined) Check.kind("name", options.name, Predicate.isString, "must be text")
}

// -----------------------------------------------------------------------------
// reading
// -----------------------------------------------------------------------------

/**
 * The last committed value; inside a transaction on it, its own draft. Never waits.
 *
 * @since 0.1.0
 * @category getters
 */
export const get = <A, I>(self: TransactionalRef<A, I>): Effect.Effect<A> =>
  Effect.withFiberRuntime((fiber) => Effect.succeed(layerIn(cellOf(self), transactionOf(fiber)).value))

/**
 * The values of several refs at one moment: no commit comes between them.
 *
 * @since 0.1.0
 * @category getters
 */
export const snapshot = <const R extends Refs>(refs: R): Effect.Effect<Values<R>> =>
  Effect.withFiberRuntime((fiber) => {
    const transaction = transactionOf(fiber)
    return Effect.succeed(mapRefs(refs, (cell) => layerIn(cell, transaction).value) as Values<R>)
  })

/**
 * The committed values: the current one, then each committed value that differs from the one before (`Object.is`). A
 * slow reader gets the latest value and misses earlier ones. The stream never ends by itself.
 *
 * @since 0.1.0
 * @category getters
 */
export const changes = <A, I>(self: TransactionalRef<A, I>): Stream.Stream<A> => {
  const cell = cellOf(self)
  return cell.latest.changes(() => Option.some(cell.value))
}

/**
 * The transaction that holds the ref, how many transactions wait, and how earlier ones have ended; for health checks.
 *
 * @since 0.1.0
 * @category getters
 */
export const inspect = <A, I>(self: TransactionalRef<A, I>): Effect.Effect<Inspection> =>
  Effect.sync(() => {
    const { counts: { commits, rollbacks }, holder, name, waiters } = cellOf(self)
    return {
      name,
      holder: Option.map(Option.fromNullable(holder), ({ fiber, since }) => ({ fiber, since })),
      waiters,
      commits,
      rollbacks
    }
  })

/** Applies a function to each of several refs, and gives a record or a tuple of the same shape. */
const mapRefs = (refs: Refs, f: (cell: Cell<any>) => unknown): unknown =>
  Array.isArray(refs)
    ? refs.map((ref) => f(cellOf(ref)))
    : Object.fromEntries(Object.entries(refs).map(([key, ref]) => [key, f(cellOf(ref))]))

// -----------------------------------------------------------------------------
// changing
// -----------------------------------------------------------------------------

/**
 * Changes the ref by a function that returns a result and the new value, and gives the result.
 *
 * @example
 * ```ts
 * import * as TransactionalRef from "effect-holdfast/TransactionalRef"
 *
 * declare const balance: TransactionalRef.TransactionalRef<number>
 *
 * const next = TransactionalRef.modify(balance, (cents) => [`was ${cents}`, cents + 1])
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const modify: {
  <A, B>(
    f: (a: A) => readonly [B, A]
  ): <I>(self: TransactionalRef<A, I>) => Effect.Effect<B, I | TransactionDeadlock | TransactionConflict>
  <A, I, B>(
    self: TransactionalRef<A, I>,
    f: (a: A) => readonly [B, A]
  ): Effect.Effect<B, I | TransactionDeadlock | TransactionConflict>
} = dual(
  2,
  <A, B>(self: TransactionalRef<A>, f: (a: A) => readonly [B, A]): Effect.Effect<B, TransactionError> =>
    Effect.withFiberRuntime((fiber) => {
      const cell = cellOf(self)
      // If no transaction holds the ref, and this fiber is in no transaction, the function is one step and needs no
      // draft.
      if (cell.holder !== undefined || transactionOf(fiber) !== undefined) {
        return runOnOne(errors, cell, (draft) => draft.modify(f))
      }
      let result: B
      let next: A
      try {
        ;[result, next] = f(cell.value)
        if (cell.invariant !== undefined && !cell.invariant(next)) {
          cell.rollBack()
          return new InvariantViolated({ name: cell.name })
        }
      } catch (defect) {
        cell.rollBack()
        return Effect.die(defect)
      }
      cell.commit(next)
      cell.announce()
      return Effect.succeed(result)
    })
)

/**
 * Changes the ref by a function.
 *
 * @example
 * ```ts
 * import * as TransactionalRef from "effect-holdfast/TransactionalRef"
 *
 * declare const balance: TransactionalRef.TransactionalRef<number>
 *
 * const paid = TransactionalRef.update(balance, (cents) => cents + 100)
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const update: {
  <A>(
    f: (a: A) => A
  ): <I>(self: TransactionalRef<A, I>) => Effect.Effect<void, I | TransactionDeadlock | TransactionConflict>
  <A, I>(
    self: TransactionalRef<A, I>,
    f: (a: A) => A
  ): Effect.Effect<void, I | TransactionDeadlock | TransactionConflict>
} = dual(
  2,
  <A>(self: TransactionalRef<A>, f: (a: A) => A): Effect.Effect<void, TransactionError> =>
    modify(self, (value): [void, A] => [undefined, f(value)])
)

/**
 * Sets the ref to a value.
 *
 * @example
 * ```ts
 * import * as TransactionalRef from "effect-holdfast/TransactionalRef"
 *
 * declare const balance: TransactionalRef.TransactionalRef<number>
 *
 * const emptied = TransactionalRef.set(balance, 0)
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const set: {
  <A>(value: A): <I>(self: TransactionalRef<A, I>) => Effect.Effect<void, I | TransactionDeadlock | TransactionConflict>
  <A, I>(
    self: TransactionalRef<A, I>,
    value: A
  ): Effect.Effect<void, I | TransactionDeadlock | TransactionConflict>
} = dual(
  2,
  <A>(self: TransactionalRef<A>, value: A): Effect.Effect<void, TransactionError> =>
    modify(self, (): [void, A] => [undefined, value])
)

/**
 * Changes the ref by an effect. The transaction holds the ref meanwhile; readers see the previous value.
 *
 * @example
 * ```ts
 * import * as TransactionalRef from "effect-holdfast/TransactionalRef"
 * import type * as Effect from "effect/Effect"
 *
 * declare const balance: TransactionalRef.TransactionalRef<number>
 * declare const withInterest: (cents: number) => Effect.Effect<number, "bank is closed">
 *
 * const credited = TransactionalRef.updateEffect(balance, withInterest)
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const updateEffect: {
  <A, E, R>(
    f: (a: A) => Effect.Effect<A, E, R>
  ): <I>(
    self: TransactionalRef<A, I>
  ) => Effect.Effect<void, E | I | TransactionDeadlock | TransactionConflict, Exclude<R, Scope.Scope>>
  <A, I, E, R>(
    self: TransactionalRef<A, I>,
    f: (a: A) => Effect.Effect<A, E, R>
  ): Effect.Effect<void, E | I | TransactionDeadlock | TransactionConflict, Exclude<R, Scope.Scope>>
} = dual(
  2,
  <A, E, R>(
    self: TransactionalRef<A>,
    f: (a: A) => Effect.Effect<A, E, R>
  ): Effect.Effect<void, E | TransactionError, Exclude<R, Scope.Scope>> =>
    runOnOne(errors, cellOf(self), (draft) => Effect.map(f(draft.read()), (value) => draft.write(value)))
)

/**
 * Runs a body with drafts of one or several refs that only this body can see. If the body succeeds, all drafts are
 * committed in one step; if it fails, dies or is interrupted, all refs are unchanged.
 *
 * The transaction holds its refs from its beginning to its end. Other transactions wait for their turn, and readers see
 * the previous values. Inside another transaction it joins that one. Finalizers that the body adds to its `Scope` run
 * at the end of the outermost transaction, with its exit, after its changes have been committed or dropped and before
 * other transactions get their turn: use them to compensate for what cannot be rolled back. The defect of a finalizer
 * becomes the transaction's defect and undoes nothing: after a successful body the changes stay committed. A finalizer
 * cannot change any `TransactionalRef`, since the transaction for which it would have to wait may be waiting for this
 * one: it gets a `TransactionConflict`. If a ref must change because a transaction has ended, change it after the
 * transaction.
 *
 * **Deadlocks.** Several refs that are named together are taken in one order, so transactions that name all their refs
 * at the beginning never wait for each other in a circle. Transactions that ask for further refs inside can: two
 * outermost ones, or two that run in parallel inside the same one. The call that would close the circle fails with
 * `TransactionDeadlock`, and the outermost transaction around it is over immediately, with all transactions inside it:
 * its changes are dropped, and its refs go to waiting transactions. Its body goes on until it ends, but no longer has
 * exclusive access: any further `transaction`, `update`, `modify`, `set` or `updateEffect` in it fails with
 * `TransactionConflict`, a draft dies with that error, and `get` and `snapshot` give the committed values. Its
 * finalizers run at its end, when other transactions may already have had their turn. The outermost transaction then
 * fails with `TransactionDeadlock`, whatever the body has made of the error. Wrap each transaction in `retryDeadlock`
 * to run it again.
 *
 * @example
 * ```ts
 * import * as TransactionalRef from "effect-holdfast/TransactionalRef"
 * import * as Effect from "effect/Effect"
 * import * as Ref from "effect/Ref"
 *
 * declare const from: TransactionalRef.TransactionalRef<number>
 * declare const to: TransactionalRef.TransactionalRef<number>
 * declare const book: (cents: number) => Effect.Effect<void, "refused">
 *
 * const transfer = (cents: number) =>
 *   TransactionalRef.transaction({ from, to }, (drafts) =>
 *     Effect.gen(function*() {
 *       yield* Ref.update(drafts.from, (balance) => balance - cents)
 *       yield* book(cents)
 *       yield* Ref.update(drafts.to, (balance) => balance + cents)
 *     })).pipe(TransactionalRef.retryDeadlock)
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const transaction: {
  <A, I, B, E, R>(
    self: TransactionalRef<A, I>,
    body: (draft: Ref.Ref<A>) => Effect.Effect<B, E, R>
  ): Effect.Effect<B, E | I | TransactionDeadlock | TransactionConflict, Exclude<R, Scope.Scope>>
  <const Rs extends Refs, B, E, R>(
    refs: Rs,
    body: (drafts: Drafts<Rs>) => Effect.Effect<B, E, R>
  ): Effect.Effect<B, E | Violation<Rs> | TransactionDeadlock | TransactionConflict, Exclude<R, Scope.Scope>>
  <A, B, E, R>(
    body: (draft: Ref.Ref<A>) => Effect.Effect<B, E, R>
  ): <I>(
    self: TransactionalRef<A, I>
  ) => Effect.Effect<B, E | I | TransactionDeadlock | TransactionConflict, Exclude<R, Scope.Scope>>
} = dual(
  2,
  <B, E, R>(
    refs: TransactionalRef<any> | Refs,
    body: (drafts: any) => Effect.Effect<B, E, R>
  ): Effect.Effect<B, E | TransactionError, Exclude<R, Scope.Scope>> => {
    if (isTransactionalRef(refs)) return runOnOne(errors, cellOf(refs), body)
    const cells = Object.values<TransactionalRef<any>>(refs).map(cellOf)
    return runOnSeveral(errors, cells, (drafts) => body(mapRefs(refs, (cell) => drafts[cells.indexOf(cell)])))
  }
)

/**
 * Runs an effect again, after a pause, for as long as it fails with `TransactionDeadlock` or `TransactionConflict`:
 * neither is left in its error channel. The pauses are those of `Backoff.exponential`, from 1 millisecond to 1 second
 * with full jitter. The number of attempts has no limit. If the cause also has a defect (of a finalizer, say), the
 * effect is not run again, and dies with that defect.
 *
 * **A circle of outermost transactions** ends one of them. The others go on, and the random pause makes it unlikely
 * that it meets them again.
 *
 * **A circle of siblings**, that is, of transactions that run in parallel inside the same transaction, ends all of
 * them, because their outermost transaction is over. In the next attempt they would meet in the same circle. So in all
 * further attempts the inner transactions that name a ref of such a circle run one at a time; the others still run in
 * parallel. Circles of siblings therefore end at most as many attempts as there are refs. While a sibling holds such a
 * ref, its body must not wait in another way (for a `Deferred`, say, or a queue) for a second sibling that names such a
 * ref: that would be for ever.
 *
 * **Inside another transaction** nothing is run again: only the outermost transaction can release the refs that others
 * wait for. Instead, the two errors become defects, which pass through `catchAll`, `either`, `retry` and `orElse`, and
 * the outermost transaction fails with the typed error, which its own `retryDeadlock` handles. So a function that wraps
 * its transaction in `retryDeadlock` can be called inside another module's transaction, or outside. A body that catches
 * defects (with `exit`, `sandbox` or `catchAllCause`, by awaiting a fiber, or in a race that another effect wins) can
 * delay the end of a transaction that a deadlock has ended, but not save it. A `DefectBoundary` does not count such a
 * defect while it unwinds its own transaction. Anywhere else it is an ordinary defect, and the effect is not run again:
 * if a memoized effect keeps the defect, for example, or a fiber that died of it is joined later. The defect of a
 * finalizer that changes a ref is an ordinary one, too. If a transaction in a daemon fails because the transaction
 * around it has ended, it is outside by then, and is run again.
 *
 * @example
 * ```ts
 * import * as TransactionalRef from "effect-holdfast/TransactionalRef"
 * import * as Effect from "effect/Effect"
 * import * as Ref from "effect/Ref"
 *
 * declare const order: TransactionalRef.TransactionalRef<"open" | "paid">
 * declare const balance: TransactionalRef.TransactionalRef<number>
 *
 * const pay = TransactionalRef.transaction(order, (draft) =>
 *   Effect.gen(function*() {
 *     yield* TransactionalRef.update(balance, (cents) => cents - 100)
 *     yield* Ref.set(draft, "paid")
 *   })).pipe(TransactionalRef.retryDeadlock)
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const retryDeadlock = <A, E, R>(
  self: Effect.Effect<A, E, R>
): Effect.Effect<A, Exclude<E, TransactionDeadlock | TransactionConflict>, R> =>
  Effect.withFiberRuntime((fiber) => transactionOf(fiber) === undefined ? retried(self) : retriedOutside(self, fiber))

const retried = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const known = new Contested()
    const attempt = Effect.suspend(() => known.isEmpty ? self : Effect.locally(self, contested, known))
    return Effect.sandbox(attempt).pipe(
      Effect.tapError((cause) => Effect.sync(() => known.learn(failureOf(cause)))),
      Effect.retry({ schedule: pauses, while: (cause) => refusalIn(cause) !== undefined }),
      Effect.catchAll((cause) => Effect.failCause(withoutRefusal(cause)))
    )
  })

/** Runs an effect that is inside a transaction. In a daemon, the effect may be outside by the time when it fails. */
const retriedOutside = <A, E, R>(self: Effect.Effect<A, E, R>, fiber: AnyFiber) =>
  Effect.catchAllCause(self, (cause): Effect.Effect<A, Exclude<E, Refusal>, R> => {
    const refusal = refusalIn(cause)
    if (refusal === undefined) return Effect.failCause(withoutRefusal(cause))
    const transaction = transactionOf(fiber)
    if (transaction === undefined) return retried(self)
    // A finalizer unwinds nothing: its defect is a mistake of the application.
    return Effect.die(transaction.phase === "Ending" ? refusal : noteUnwinding(refusal, transaction))
  })

/** The first pause is a millisecond, since most transactions take less. */
const pauses = Backoff.exponential({ initial: "1 millis", max: "1 second" })

type Refusal = TransactionDeadlock | TransactionConflict

const isRefusal = (error: unknown): error is Refusal => Predicate.hasProperty(error, RefusalId)

/** The only refusal in a cause; `undefined` if the cause also has a defect, since then it is not tried again. */
const refusalIn = (cause: Cause.Cause<unknown>): Refusal | undefined => {
  const error = failureOf(cause)
  return isRefusal(error) && Option.isNone(Cause.keepDefects(cause)) ? error : undefined
}

const withoutRefusal = <E>(cause: Cause.Cause<E>): Cause.Cause<Exclude<E, Refusal>> =>
  isRefusal(failureOf(cause))
    ? Option.getOrElse(Cause.keepDefects(cause), () => Cause.empty)
    : cause as Cause.Cause<Exclude<E, Refusal>>

const failureOf = (cause: Cause.Cause<unknown>): unknown => Option.getOrUndefined(Cause.failureOption(cause))

// -----------------------------------------------------------------------------
// guards
// -----------------------------------------------------------------------------

/**
 * Whether a value is a `TransactionalRef`.
 *
 * @since 0.1.0
 * @category guards
 */
export const isTransactionalRef = (u: unknown): u is TransactionalRef<unknown, unknown> =>
  Predicate.hasProperty(u, TypeId)

// -----------------------------------------------------------------------------
// the inside
// -----------------------------------------------------------------------------

const variance = { _A: (_: any) => _, _I: (_: never) => _ }

/** The ref that `make` gives. The type that `make` gives it says whether the ref has an invariant. */
class TransactionalCell<in out A> extends Cell<A> implements TransactionalRef<A, never> {
  readonly [TypeId] = variance

  pipe() {
    return pipeArguments(this, arguments)
  }
}

const cellOf = <A>(self: TransactionalRef<A, any>): Cell<A> => self as TransactionalCell<A>

const errors: Errors = {
  deadlock: (cycle) => new TransactionDeadlock({ cycle }),
  conflict: (name) => new TransactionConflict({ name }),
  violation: (name) => new InvariantViolated({ name }),
  isRefusal
}
