/**
 * Shared state whose half-made changes nobody ever sees, and which go away on failure, defect or interruption.
 *
 * **The idea.** A transaction works on a private draft. The body is given a `Ref` that only it can see; readers go on
 * to see the last committed value and never wait. Success commits all drafts in one step; any other exit drops them.
 * Transactions of one ref take turns, first come first served, so that a body may be any effect, runs once, and never
 * again on a conflict.
 *
 * **What it guarantees.** However a body ends (success, failure, a defect, a throw, interruption at any point), the
 * lock is given back, and the refs are either all changed or all as before. A transaction inside another joins it:
 * on the same ref as a savepoint, on another ref by adding that to the whole. Transactions never wait for each other in
 * a circle: the outermost transaction around the one that would close the circle is over immediately, with
 * `TransactionDeadlock`, and all others go on. `retryDeadlock` runs it again.
 *
 * **What it does not.** Values have to be immutable: if a body changes something inside a mutable value, everyone sees
 * the change immediately, and nothing takes it back. What a body reads of a ref that it does not hold is committed, but
 * others may change it before the transaction ends: a decision may rest only on refs that the transaction names. What a
 * body does besides (a request, a file) is not undone; finalizers are the place for that. In a transaction that was
 * over early because of a deadlock, the rest of the body is no longer alone: others hold its refs while it unwinds. The
 * state is one process's memory, neither durable nor shared.
 *
 * @since 0.1.0
 */

import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as DefaultServices from "effect/DefaultServices"
import * as Effect from "effect/Effect"
import * as Effectable from "effect/Effectable"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type * as FiberId from "effect/FiberId"
import * as FiberRef from "effect/FiberRef"
import { dual } from "effect/Function"
import { globalValue } from "effect/GlobalValue"
import * as Metric from "effect/Metric"
import * as MetricLabel from "effect/MetricLabel"
import * as Option from "effect/Option"
import { type Pipeable, pipeArguments } from "effect/Pipeable"
import * as Predicate from "effect/Predicate"
import * as Readable from "effect/Readable"
import * as Ref from "effect/Ref"
import * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import * as Tracer from "effect/Tracer"
import type * as Types from "effect/Types"
import * as Backoff from "./Backoff.js"
import { Latest } from "./internal/latest.js"
import { withLazyScope } from "./internal/lazyScope.js"
import { locally } from "./internal/locally.js"
import { circleThrough } from "./internal/transaction/circle.js"
import { type Holder, type Place, releaseAll, Turn } from "./internal/transaction/turn.js"
import { noteUnwinding, unwinds } from "./internal/transaction/unwinding.js"
import { wait } from "./internal/wait.js"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * @since 0.1.0
 * @category symbols
 */
export const TypeId: unique symbol = Symbol.for("effect-holdfast/TransactionalRef")

/**
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
 * The state of a ref's lock, and its history. `commits` and `rollbacks` count the outermost transactions that had the
 * ref since `make`; `since` is epoch milliseconds.
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
 * At the end of a transaction a value did not satisfy its ref's invariant. All refs of the transaction are as before.
 *
 * @since 0.1.0
 * @category errors
 */
export class InvariantViolated extends Data.TaggedError("InvariantViolated")<{ readonly name: string }> {
  override get message(): string {
    return `the transaction would violate the invariant of ${this.name}`
  }
}

/**
 * The transaction asked for a ref that another one holds, which waits for a ref that this one holds: `cycle` names the
 * refs. (A wait that has a time limit, or is a daemon's, counts too: Holdfast cannot know.) The outermost transaction
 * is over: its changes are dropped, and others hold its refs. It fails with this error whatever its body makes of it.
 * `retryDeadlock` runs it again after a pause. A transaction that names all its refs at its beginning, where they are
 * taken in one order, never fails like this.
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
}

/**
 * A transaction inside another was still going on when the other ended (in a daemon, say), or was begun while the other
 * was ending (by one of its finalizers, say), or after the other had been given up because of a deadlock. The changes
 * of the inner one are dropped.
 *
 * @since 0.1.0
 * @category errors
 */
export class TransactionConflict extends Data.TaggedError("TransactionConflict")<{ readonly name: string }> {
  override get message(): string {
    return `the transaction around the one on ${this.name} has ended before it`
  }
}

/**
 * What can go wrong with a transaction besides its body's own errors.
 *
 * @since 0.1.0
 * @category errors
 */
export type TransactionError = InvariantViolated | TransactionDeadlock | TransactionConflict

// -----------------------------------------------------------------------------
// constructors
// -----------------------------------------------------------------------------

/**
 * - `name`: errors, spans and metrics call the ref by this name; by default it is numbered, and counted in the metrics
 *   together with all refs that have no name.
 * - `invariant`: asked about each value that is to be committed; by default there is none. It is asked at the end of
 *   the outermost transaction that names the ref: an inner transaction that brings the ref in fails by itself.
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
  Effect.sync(() => new Cell(initial, options))

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
  Effect.withFiberRuntime((fiber) => Effect.succeed(layerIn(self as Cell<A>, transactionOf(fiber)).value))

/**
 * The values of several refs, all from one moment: no commit lies between them.
 *
 * @since 0.1.0
 * @category getters
 */
export const snapshot = <const R extends Refs>(refs: R): Effect.Effect<Values<R>> =>
  Effect.withFiberRuntime((fiber) => {
    const transaction = transactionOf(fiber)
    return Effect.succeed(likewise(refs, (cell) => layerIn(cell, transaction).value) as Values<R>)
  })

/**
 * The committed values: the current one, then each committed value that differs from the one before (`Object.is`). A
 * slow reader gets the latest value and misses those between. The stream goes on for as long as it is read.
 *
 * @since 0.1.0
 * @category getters
 */
export const changes = <A, I>(self: TransactionalRef<A, I>): Stream.Stream<A> => {
  const cell = self as Cell<A>
  return cell.latest.changes(() => Option.some(cell.value))
}

/**
 * The holder of the ref, how many wait, and how former transactions have ended; for health checks.
 *
 * @since 0.1.0
 * @category getters
 */
export const inspect = <A, I>(self: TransactionalRef<A, I>): Effect.Effect<Inspection> =>
  Effect.sync(() => {
    const { commits, holder, name, rollbacks, waiters } = self as Cell<A>
    return {
      name,
      holder: Option.map(Option.fromNullable(holder), ({ fiber, since }) => ({ fiber, since })),
      waiters,
      commits,
      rollbacks
    }
  })

/** A record or a tuple of the same shape. */
const likewise = (refs: Refs, f: (cell: Cell<any>) => unknown): unknown =>
  Array.isArray(refs)
    ? refs.map(f)
    : Object.fromEntries(Object.entries(refs).map(([key, ref]) => [key, f(ref as Cell<any>)]))

// -----------------------------------------------------------------------------
// changing
// -----------------------------------------------------------------------------

/**
 * Changes the ref by a function, and gives what it returns besides.
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
      const cell = self as Cell<A>
      // If nobody is before us, a function needs no draft: it is one step.
      if (cell.holder !== undefined || transactionOf(fiber) !== undefined) {
        return run([cell], ([draft]) => draft!.modify(f))
      }
      let changed: readonly [B, A]
      try {
        changed = f(cell.value)
        if (cell.invariant !== undefined && !cell.invariant(changed[1])) {
          cell.rollBack()
          return new InvariantViolated({ name: cell.name })
        }
      } catch (defect) {
        cell.rollBack()
        return Effect.die(defect)
      }
      cell.commit(changed[1])
      return Effect.succeed(changed[0])
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
 * Changes the ref by an effect. The ref is held meanwhile; readers see the former value.
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
    run([self as Cell<A>], ([draft]) => Effect.map(f(draft!.read()), (value) => draft!.write(value)))
)

/**
 * Runs a body with drafts of one or several refs that only it can see. If the body succeeds, all are committed in one
 * step; if it fails, dies or is interrupted, all are as before.
 *
 * The transaction holds its refs from the beginning to the end; others wait for their turn, and readers see the former
 * values. Inside another transaction it joins that one. What the body adds to its `Scope` is finalized at the end of
 * the outermost transaction, with its exit, when its changes are committed or dropped and before others get their turn:
 * the place to compensate for what cannot be rolled back. A finalizer cannot change any `TransactionalRef`, since the
 * transaction that it would have to wait for may be waiting for this one: that is a `TransactionConflict`. To note
 * something in another ref, note it after the transaction.
 *
 * **Deadlocks.** Several refs that are named together are taken in one order, so transactions that name all their refs
 * at the beginning never wait for each other in a circle. Transactions that ask for further refs inside can: two
 * outermost ones, or two that run in parallel inside the same one. The call that would close the circle fails with
 * `TransactionDeadlock`, and the outermost transaction around it is over immediately, with all that is inside it: its
 * changes are dropped, and its refs go to those that wait. Its body goes on until it ends, and is no longer alone: any
 * further `transaction`, `update`, `modify`, `set` or `updateEffect` in it fails with `TransactionConflict`, a draft
 * dies with that error, `get` and `snapshot` give the committed values. Its finalizers run at its end, after others have
 * had their turn. The outermost transaction then fails with `TransactionDeadlock`, whatever the body has made of the
 * error. Wrap each transaction in `retryDeadlock` to run it again.
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
    if (isTransactionalRef(refs)) return run([refs as Cell<any>], (drafts) => body(drafts[0]))
    const cells = Object.values(refs) as ReadonlyArray<unknown> as ReadonlyArray<Cell<any>>
    return run(cells, (drafts) => body(likewise(refs, (cell) => drafts[cells.indexOf(cell)])))
  }
)

/**
 * Runs an effect again, after a pause, for as long as it fails with `TransactionDeadlock` or `TransactionConflict`:
 * neither is left in its error channel. The pauses are those of `Backoff.exponential`, from 1 millisecond to 1 second
 * with full jitter. The attempts have no limit. A cause that holds a defect besides (of a finalizer, say) is not tried
 * again, and the defect goes up.
 *
 * **A circle of outermost transactions** ends one of them. The others go on, and the random pause keeps the one from
 * meeting them again.
 *
 * **A circle of siblings**, that is of transactions that run in parallel inside the same one, ends all of them, because
 * their outermost transaction is over. Run again as before, they would meet in the same circle. So in all further
 * attempts the transactions inside that name a ref of such a circle run one at a time; the others still run in parallel.
 * Circles of siblings therefore end no more attempts than there are refs. While a sibling holds such a ref, its body
 * must not wait in another way (for a `Deferred`, say, or a queue) for a second sibling that names such a ref: that
 * would be for ever.
 *
 * **Inside another transaction** nothing is tried again: only the outermost transaction can give up the refs that the
 * others wait for. The two errors go up as defects instead, past `catchAll`, `either`, `retry` and `orElse`, and the
 * outermost transaction fails with the typed error, which its own `retryDeadlock` takes. So a function that wraps its
 * transaction in `retryDeadlock` can be called in another module's transaction, or outside. A body that catches defects
 * (with `exit`, `sandbox` or `catchAllCause`, by awaiting a fiber, or in a race that another effect wins) can delay
 * the end of a transaction that a deadlock has ended, but not save it. A `DefectBoundary` does not count these defects
 * while they unwind their own transaction. Outside it (a memoized effect keeps one, or a fiber that died of one is
 * joined later) they are ordinary defects, and so is the defect of a finalizer that changes a ref: none is tried again.
 * A daemon whose transaction fails because the outermost one around it has ended is inside none any more: it is tried
 * again.
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
      Effect.retry({
        schedule: pauses,
        while: (cause) => {
          const error = failureOf(cause)
          if (!isRefusal(error) || Option.isSome(Cause.keepDefects(cause))) return false
          known.learn(error)
          return true
        }
      }),
      Effect.catchAll((cause) => Effect.failCause(withoutRefusal(cause)))
    )
  })

const withoutRefusal = <E>(cause: Cause.Cause<E>): Cause.Cause<Exclude<E, Refusal>> =>
  isRefusal(failureOf(cause))
    ? Option.getOrElse(Cause.keepDefects(cause), () => Cause.empty)
    : cause as Cause.Cause<Exclude<E, Refusal>>

/** A daemon may find, when its transaction fails, that the one around has ended: then it is inside none any more. */
const retriedOutside = <A, E, R>(self: Effect.Effect<A, E, R>, fiber: AnyFiber) =>
  Effect.catchAllCause(self, (cause): Effect.Effect<A, Exclude<E, Refusal>, R> => {
    const error = failureOf(cause)
    if (!isRefusal(error) || Option.isSome(Cause.keepDefects(cause))) return Effect.failCause(withoutRefusal(cause))
    const transaction = transactionOf(fiber)
    if (transaction === undefined) return retried(self)
    // A finalizer unwinds nothing: its defect is a mistake of the application's.
    return Effect.die(transaction.phase === "Ending" ? error : noteUnwinding(error, transaction))
  })

/** Most transactions take less than a millisecond. */
const pauses = Backoff.exponential({ initial: "1 millis", max: "1 second" })

type Refusal = TransactionDeadlock | TransactionConflict

const isRefusal = (error: unknown): error is Refusal =>
  error instanceof TransactionDeadlock || error instanceof TransactionConflict

const failureOf = <E>(cause: Cause.Cause<E>): E | undefined => Option.getOrUndefined(Cause.failureOption(cause))

/** The defects of a cause, less those that only say that the transaction is over. */
const ownDefects = (
  cause: Cause.Cause<unknown>,
  saysSo: (defect: unknown) => boolean
): Cause.Cause<never> | undefined =>
  Chunk.reduce(
    Chunk.filter(Cause.defects(cause), (defect) => !saysSo(defect)),
    undefined as Cause.Cause<never> | undefined,
    (before, defect) => before === undefined ? Cause.die(defect) : Cause.sequential(before, Cause.die(defect))
  )

// -----------------------------------------------------------------------------
// guards
// -----------------------------------------------------------------------------

/**
 * @since 0.1.0
 * @category guards
 */
export const isTransactionalRef = (u: unknown): u is TransactionalRef<unknown, unknown> =>
  Predicate.hasProperty(u, TypeId)

// -----------------------------------------------------------------------------
// the inside of a ref
// -----------------------------------------------------------------------------

const variance = { _A: (_: any) => _, _I: (_: never) => _ }

/**
 * A value of a ref, and the turn of those that change it. The ref itself is the lowest layer, with the committed value.
 * A transaction that has the turn of a layer works on a layer of its own above it; so does a transaction inside that
 * one, one layer higher. To succeed is to write the value of one's own layer into the layer below.
 */
class Layer<in out A> extends Turn<Transaction> {
  value: A
  /** The layer of the transaction that has this one's turn, once it is used. */
  above: Layer<A> | undefined
  readonly below: Layer<A> | undefined

  constructor(name: string, value: A, below: Layer<A> | undefined) {
    super(name)
    this.value = value
    this.below = below
  }

  /** The transaction above has succeeded. */
  commit(value: A): void {
    this.value = value
  }

  /** The transaction above has failed. */
  rollBack(): void {}
}

/** The inside of a ref. `I` is a promise of `make` about `invariant`. */
class Cell<in out A> extends Layer<A> implements TransactionalRef<A, never> {
  readonly [TypeId] = variance
  readonly labels: ReadonlyArray<MetricLabel.MetricLabel>
  readonly invariant: ((value: A) => boolean) | undefined
  readonly latest = new Latest<A>()
  /** Several refs are locked in this order. */
  readonly order: number
  commits = 0
  rollbacks = 0

  constructor(initial: A, { invariant, name }: Options<A>) {
    const place = order.next++
    super(name ?? `ref ${place}`, initial, undefined)
    this.order = place
    // A ref that was given no name has no series of its own: there may be any number of such refs.
    this.labels = name === undefined ? [] : [MetricLabel.make("ref", name)]
    this.invariant = invariant
  }

  pipe() {
    return pipeArguments(this, arguments)
  }

  override commit(value: A): void {
    this.commits++
    commitCounter.unsafeUpdate(1, this.labels)
    if (Object.is(value, this.value)) return
    this.value = value
    this.latest.offer(value)
  }

  override rollBack(): void {
    this.rollbacks++
    rollbackCounter.unsafeUpdate(1, this.labels)
  }
}

const commitCounter = Metric.counter("holdfast_transactional_ref_commits_total", {
  description: "Transactions that committed, for each ref they had",
  incremental: true
})

const rollbackCounter = Metric.counter("holdfast_transactional_ref_rollbacks_total", {
  description: "Transactions that were rolled back, for each ref they had",
  incremental: true
})

const order = globalValue(Symbol.for("effect-holdfast/TransactionalRef/order"), () => ({ next: 0 }))

// -----------------------------------------------------------------------------
// the inside of a transaction
// -----------------------------------------------------------------------------

/** A transaction, outermost or nested. */
class Transaction implements Holder<Transaction> {
  /** The transaction that this one is nested in. */
  readonly outer: Transaction | undefined
  /** The refs that it names itself. It may have more: an inner transaction brings in the refs that it names. */
  readonly cells: ReadonlyArray<Cell<any>>
  readonly fiber: FiberId.Runtime
  readonly since: number
  /** The turns of refs if it is an outermost one, else those of its outer one's layers. */
  turn: Turn<Transaction> | undefined
  places: Map<Turn<Transaction>, Place<Transaction>> | undefined
  /**
   * - `Open`: its body runs.
   * - `Aborted`, of the outermost one: it was chosen to end a deadlock. Its changes are dropped and its turns given
   *   back; its body still runs.
   * - `Ending`: its changes are committed or dropped; its finalizers run, and it still holds its turns.
   * - `Over`: it holds nothing.
   */
  phase: "Open" | "Aborted" | "Ending" | "Over" = "Open"
  /** Of the outermost one: the reason why it was aborted, which it fails with. */
  deadlock: TransactionDeadlock | undefined
  /** Made when it is first asked for. */
  madeScope: Scope.CloseableScope | undefined
  /** The exit of the outermost one, once it has one. */
  end: Exit.Exit<unknown, unknown> = Exit.void

  constructor(
    outer: Transaction | undefined,
    cells: ReadonlyArray<Cell<any>>,
    fiber: AnyFiber
  ) {
    this.outer = outer
    this.cells = cells
    this.fiber = fiber.id()
    this.since = Context.get(fiber.currentDefaultServices, Clock.Clock).unsafeCurrentTimeMillis()
  }

  /** Of the outermost one: where finalizers are added. */
  scope(): Scope.CloseableScope {
    if (this.madeScope === undefined) {
      this.madeScope = Effect.runSync(Scope.make())
      // For somebody who has kept the context.
      if (this.phase === "Over") Effect.runSync(Scope.close(this.madeScope, this.end))
    }
    return this.madeScope
  }
}

const outermost = (transaction: Transaction): Transaction =>
  transaction.outer === undefined ? transaction : outermost(transaction.outer)

/** Whether the transaction and all around it go on. */
const isOpen = (transaction: Transaction | undefined): boolean =>
  transaction === undefined || (transaction.phase === "Open" && isOpen(transaction.outer))

/**
 * The transaction that the current fiber is in. Its children inherit it, those of `timeout` and `race` included. A
 * fiber that joins one of them is not in the transaction for that.
 */
const current = globalValue(
  Symbol.for("effect-holdfast/TransactionalRef/current"),
  () => FiberRef.unsafeMake<Transaction | undefined>(undefined, { join: (parent) => parent })
)

/** A fiber that outlives a transaction is no longer inside it, but may be inside the one around it. */
const transactionOf = (fiber: AnyFiber): Transaction | undefined => {
  let transaction = fiber.getFiberRef(current)
  while (transaction?.phase === "Over") transaction = transaction.outer
  return transaction
}

/** A reader sees the draft of its own transaction, or of one around it; else the committed value. */
const layerIn = <A>(cell: Cell<A>, transaction: Transaction | undefined): Layer<A> => {
  if (transaction === undefined) return cell
  const below = layerIn(cell, transaction.outer)
  return below.holder === transaction ? below.above ?? below : below
}

/**
 * The refs for which siblings, that is transactions inside the same one, have waited for each other in a circle. The
 * next attempt would meet the same circle. So in the next attempts each transaction inside the outermost one that names
 * such a ref takes one more turn before, the same for all these refs: siblings that name them go one at a time.
 *
 * A circle of siblings then leads over at least one ref that was not contested before. So the attempts that circles of
 * siblings end are no more than there are refs.
 */
class Contested {
  private readonly cells = new Set<Cell<any>>()
  /** A body may make refs of its own, which are others at each attempt: all refs from this one on are contested. */
  private firstMade = Infinity
  private readonly firstMadeSince = order.next
  private readonly turns = new WeakMap<Transaction, Layer<undefined>>()

  get isEmpty(): boolean {
    return this.cells.size === 0 && this.firstMade === Infinity
  }

  /** Remembers the refs of the circle of siblings that an attempt has failed with, if it was one. */
  learn(error: Refusal): void {
    for (const layer of circles.get(Cause.originalError(error)) ?? []) {
      const lowest = lowestOf(layer)
      // The turn that contested refs have in common is no ref's.
      if (!(lowest instanceof Cell)) continue
      if (lowest.order < this.firstMadeSince) this.cells.add(lowest)
      else this.firstMade = this.firstMadeSince
    }
  }

  /** The turn to take before the refs, if one of them is contested. */
  turnBefore(cells: ReadonlyArray<Cell<any>>, transaction: Transaction): Layer<undefined> | undefined {
    if (!cells.some((cell) => this.cells.has(cell) || cell.order >= this.firstMade)) return undefined
    const whole = outermost(transaction)
    const turn = this.turns.get(whole) ?? new Layer("contested refs", undefined, undefined)
    this.turns.set(whole, turn)
    return turn
  }
}

const lowestOf = (layer: Layer<any>): Layer<any> => layer.below === undefined ? layer : lowestOf(layer.below)

/** Set by `retryDeadlock`, from the second attempt on. */
const contested = globalValue(
  Symbol.for("effect-holdfast/TransactionalRef/contested"),
  () => FiberRef.unsafeMake<Contested | undefined>(undefined)
)

/** The turns along each circle of siblings. */
const circles = globalValue(
  Symbol.for("effect-holdfast/TransactionalRef/circles"),
  () => new WeakMap<object, ReadonlyArray<Layer<any>>>()
)

/** The `Ref` that a body is given. */
class Draft<in out A> extends Effectable.Class<A> implements Ref.Ref<A> {
  readonly [Ref.RefTypeId] = variance
  readonly [Readable.TypeId]: Readable.TypeId = Readable.TypeId
  private readonly layer: Layer<A>
  private readonly transaction: Transaction

  constructor(layer: Layer<A>, transaction: Transaction) {
    super()
    this.layer = layer
    this.transaction = transaction
  }

  get get(): Effect.Effect<A> {
    return Effect.sync(() => this.read())
  }

  commit() {
    return this.get
  }

  modify<B>(f: (a: A) => readonly [B, A]): Effect.Effect<B> {
    return Effect.sync(() => {
      const layer = this.usable()
      const [result, value] = f(layer.value)
      layer.value = value
      return result
    })
  }

  read(): A {
    return this.usable().value
  }

  write(value: A): void {
    this.usable().value = value
  }

  /** Dies at a time when the draft is not to be used. */
  private usable(): Layer<A> {
    const { layer, transaction } = this
    if (outermost(transaction).phase === "Aborted") {
      throw noteUnwinding(new TransactionConflict({ name: layer.name }), transaction)
    }
    if (transaction.phase !== "Open") {
      throw new Error(`the transaction on ${layer.name} is over: its draft is no more`)
    }
    if (layer.holder !== undefined) {
      throw new Error(`a transaction inside this one works on ${layer.name}: its draft is the one to use`)
    }
    return layer
  }
}

// -----------------------------------------------------------------------------
// taking turns
// -----------------------------------------------------------------------------

/** Gives the transaction's own fiber a layer of a ref. Takes the turns of the transactions around first. */
const layerOf = <A>(transaction: Transaction, cell: Layer<A>): Effect.Effect<Layer<A>, Refusal> =>
  transaction.outer === undefined
    ? layerAbove(cell, transaction, waitAtEase)
    : Effect.flatMap(layerFor(transaction.outer, cell), (below) => layerAbove(below, transaction, waitAtEase))

/** The same for a fiber of a transaction inside it, which may be interrupted alone. */
const layerFor = <A>(transaction: Transaction, cell: Layer<A>): Effect.Effect<Layer<A>, Refusal> =>
  transaction.outer === undefined
    ? layerAbove(cell, transaction, wait)
    : Effect.flatMap(layerFor(transaction.outer, cell), (below) => layerAbove(below, transaction, wait))

/** `wait` without a cleanup: the end of the transaction gives back whatever its own fiber has asked for. */
const waitAtEase: typeof wait = (register) =>
  Effect.async((resume) => {
    register(resume)
  })

const layerAbove = <A>(
  below: Layer<A>,
  transaction: Transaction,
  waiting: typeof wait
): Effect.Effect<Layer<A>, Refusal> => {
  const layer = freeLayerAbove(below, transaction)
  if (layer !== undefined) return Effect.succeed(layer)
  return Effect.flatMap(
    waiting<void, Refusal>((resume) => askForTurn(transaction, below, resume)),
    () =>
      isOpen(transaction) && below.holder === transaction
        ? layerAbove(below, transaction, waiting)
        : new TransactionConflict({ name: below.name })
  )
}

/** Gives the layer if its turn need not be waited for. Another fiber of the transaction may have made it already. */
const freeLayerAbove = <A>(below: Layer<A>, transaction: Transaction): Layer<A> | undefined =>
  isOpen(transaction) && below.tryTake(transaction)
    ? below.above ??= new Layer(below.name, below.value, below)
    : undefined

/**
 * Everything is decided and noted in the step in which the turn is asked for, so that no two transactions can each miss
 * the other's request.
 *
 * A circle is always one of transactions that are all outermost, or all inside the same one: what an inner one asks for
 * beyond those beside it, the one around it asks for. So a circle through inner transactions is also a circle of those
 * around them, and closes there.
 */
const askForTurn = (
  transaction: Transaction,
  turn: Layer<any>,
  resume: (exit: Exit.Exit<void, TransactionDeadlock>) => void
): (() => void) | undefined => {
  if (!isOpen(transaction) || turn.tryTake(transaction)) {
    resume(Exit.void)
    return undefined
  }
  // If a fiber of the transaction waits there already, another one closes no circle.
  const cycle = transaction.places?.has(turn) === true ? undefined : circleThrough(turn, transaction)
  if (cycle === undefined) return turn.enqueue(transaction, () => resume(Exit.void))
  const deadlock = new TransactionDeadlock({ cycle: cycle.map(({ name }) => name) })
  if (transaction.outer !== undefined) circles.set(deadlock, cycle)
  abort(outermost(transaction), deadlock)
  resume(Exit.fail(deadlock))
  return undefined
}

// -----------------------------------------------------------------------------
// beginning and ending
// -----------------------------------------------------------------------------

/**
 * The bracket is made by hand. With `Effect.acquireUseRelease` around the same steps (turns waited for in its `use`,
 * the commit in its `release`, and a match around both, since a `release` cannot change the exit) a transaction takes
 * two fifths longer if its body does not wait, and a fifth longer among a hundred fibers that do.
 */
const run = <B, E, R>(
  cells: ReadonlyArray<Cell<any>>,
  body: (drafts: ReadonlyArray<Draft<any>>) => Effect.Effect<B, E, R>
): Effect.Effect<B, E | TransactionError, Exclude<R, Scope.Scope>> =>
  Effect.uninterruptibleMask((restore) => {
    const transacted = (fiber: AnyFiber): Effect.Effect<B, E | TransactionError, R> => {
      const outer = transactionOf(fiber)
      if (!isOpen(outer)) return new TransactionConflict({ name: namesOf(cells) })
      const transaction = new Transaction(outer, cells, fiber)
      const locals = locally(
        fiber,
        current,
        transaction,
        FiberRef.currentContext,
        withLazyScope(fiber.currentContext, outermost(transaction))
      )
      const leave = () => locals.setBack(fiber)
      const end = (exit: Exit.Exit<B, E | TransactionError>) =>
        outer === undefined ? endOutermost(transaction, exit, leave) : endInner(transaction, exit, leave)
      return Effect.matchCauseEffect(restore(withDrafts(transaction, body)), {
        onFailure: (cause) => end(Exit.failCause(cause)),
        onSuccess: (value) => end(Exit.succeed(value))
      })
    }
    return traced(transacted, cells) as Effect.Effect<B, E | TransactionError, Exclude<R, Scope.Scope>>
  })

type AnyFiber = Fiber.RuntimeFiber<unknown, unknown>

/** Not by `Effect.withFiberRuntime`: everyone who waits pays for each operation that a transaction consists of. */
const currentFiber = (): AnyFiber => Option.getOrThrow(Fiber.getCurrentFiber())

/** The tracer that every fiber of Effect has tells nobody, and to make its span takes longer than the transaction. */
const traced = <B, E, R>(
  self: (fiber: AnyFiber) => Effect.Effect<B, E, R>,
  cells: ReadonlyArray<Cell<any>>
): Effect.Effect<B, E, R> => {
  const fiber = currentFiber()
  if (fiber.currentTracer === silentTracer || !fiber.getFiberRef(FiberRef.currentTracerEnabled)) return self(fiber)
  const span = { attributes: { refs: namesOf(cells) }, captureStackTrace: false }
  return Effect.withSpan(
    Effect.suspend(() => self(fiber)),
    "TransactionalRef.transaction",
    span
  ) as Effect.Effect<B, E, R>
}

const silentTracer = Context.get(DefaultServices.liveServices, Tracer.Tracer)

/** The drafts are in the order of `cells`, whatever the order in which the refs are locked. */
const withDrafts = <B, E, R>(
  transaction: Transaction,
  body: (drafts: ReadonlyArray<Draft<any>>) => Effect.Effect<B, E, R>
): Effect.Effect<B, E | Refusal, R> => {
  if (transaction.outer === undefined) return withOwnDrafts(transaction, body)
  const turn = currentFiber().getFiberRef(contested)?.turnBefore(transaction.cells, transaction)
  return turn === undefined
    ? withOwnDrafts(transaction, body)
    : Effect.flatMap(layerOf(transaction, turn), () => withOwnDrafts(transaction, body))
}

const withOwnDrafts = <B, E, R>(
  transaction: Transaction,
  body: (drafts: ReadonlyArray<Draft<any>>) => Effect.Effect<B, E, R>
): Effect.Effect<B, E | Refusal, R> => {
  const { cells } = transaction
  if (cells.length === 1) {
    const cell = cells[0]!
    const inside = (layer: Layer<any>) => body([new Draft(layer, transaction)])
    const layer = transaction.outer === undefined ? freeLayerAbove(cell, transaction) : undefined
    if (layer === undefined) return Effect.flatMap(layerOf(transaction, cell), inside)
    // By hand, since `Effect.suspend` is one more operation.
    try {
      return inside(layer)
    } catch (defect) {
      return Effect.die(defect)
    }
  }
  const inOrder = cells.toSorted((a, b) => a.order - b.order)
  return Effect.flatMap(
    Effect.forEach(inOrder, (cell) => layerOf(transaction, cell)),
    (layers) => body(cells.map((cell) => new Draft(layers[inOrder.indexOf(cell)]!, transaction)))
  )
}

const namesOf = (cells: ReadonlyArray<Cell<any>>): string => cells.map(({ name }) => name).join(", ")

/** The changes of the inner transaction are now the draft of the one around it. */
const endInner = <B, E>(
  transaction: Transaction,
  exit: Exit.Exit<B, E | TransactionError>,
  leave: () => void
): Exit.Exit<B, E | TransactionError> => {
  leave()
  const end = Exit.isFailure(exit) ? exit : objection(transaction) ?? exit
  if (Exit.isSuccess(end)) {
    eachLayer(transaction, (layer, below) => below.commit(layer.value))
  }
  dismissWaiting(transaction)
  transaction.phase = "Over"
  releaseAll(transaction)
  return end
}

/** Commits all or nothing in this one step; then come the finalizers, then the next in turn. */
const endOutermost = <B, E>(
  transaction: Transaction,
  exit: Exit.Exit<B, E | TransactionError>,
  leave: () => void
): Effect.Effect<B, E | TransactionError> => {
  const end = Exit.isFailure(exit) ? unwound(transaction, exit.cause) : objection(transaction) ?? exit
  // An aborted transaction has no layers any more.
  eachLayer(transaction, (layer, below) => {
    if (Exit.isSuccess(end)) below.commit(layer.value)
    else below.rollBack()
  })
  transaction.phase = "Ending"
  transaction.end = end
  // Its finalizers may wait for fibers inside it that still wait.
  dismissWaiting(transaction)
  const finish = (end: Exit.Exit<B, E | TransactionError>) => {
    transaction.phase = "Over"
    releaseAll(transaction)
    leave()
    return end
  }
  if (transaction.madeScope === undefined) return finish(end)
  return Effect.matchCauseEffect(Scope.close(transaction.madeScope, end), {
    onFailure: (cause) => finish(Exit.failCause(Exit.isSuccess(end) ? cause : Cause.sequential(end.cause, cause))),
    onSuccess: () => finish(end)
  })
}

/** What stands against the success of a transaction. */
const objection = (transaction: Transaction): Exit.Exit<never, TransactionError> | undefined => {
  const { cells, deadlock, outer } = transaction
  if (deadlock !== undefined) return Exit.fail(deadlock)
  if (!isOpen(outer)) return Exit.fail(new TransactionConflict({ name: namesOf(cells) }))
  try {
    for (const cell of cells) {
      // Another transaction around this one that names the ref asks at its own end.
      if (cell.invariant === undefined || isNamed(cell, outer)) continue
      if (!cell.invariant(layerIn(cell, transaction).value)) {
        return Exit.fail(new InvariantViolated({ name: cell.name }))
      }
    }
    return undefined
  } catch (defect) {
    return Exit.die(defect)
  }
}

const isNamed = (cell: Cell<any>, transaction: Transaction | undefined): boolean =>
  transaction !== undefined && (transaction.cells.includes(cell) || isNamed(cell, transaction.outer))

/**
 * The end of an outermost transaction whose body has failed. If that was because a transaction is over, it fails with
 * the typed error, whatever the body has made of it. Other defects of the body go along.
 */
const unwound = <E>(
  transaction: Transaction,
  cause: Cause.Cause<E | TransactionError>
): Exit.Exit<never, E | TransactionError> => {
  const { deadlock } = transaction
  const unwindsIt = (defect: unknown) => unwinds(defect, transaction)
  const refusal = deadlock ?? Array.from(Cause.defects(cause)).find(unwindsIt)
  if (refusal === undefined) return Exit.failCause(cause)
  const typed = Cause.fail(refusal as Refusal)
  const defects = ownDefects(cause, deadlock === undefined ? unwindsIt : isRefusal)
  return Exit.failCause(defects === undefined ? typed : Cause.sequential(typed, defects))
}

/** Ends an outermost transaction whose body still runs: the others go on immediately. */
const abort = (transaction: Transaction, deadlock: TransactionDeadlock): void => {
  transaction.deadlock = deadlock
  transaction.phase = "Aborted"
  eachLayer(transaction, (_, below) => below.rollBack())
  dismissWaiting(transaction)
  releaseAll(transaction)
}

/** Tells all fibers inside a transaction that wait that it is over. From now on its layers are seen by nobody. */
const dismissWaiting = (transaction: Transaction): void => {
  for (const turn of transaction.places?.keys() ?? []) turn.dismiss(transaction)
  eachLayer(transaction, (layer, below) => {
    layer.dismissAll()
    if (layer.holder !== undefined) dismissWaiting(layer.holder)
    below.above = undefined
  })
}

/** Each layer of a transaction with the one below it. A turn that has just been handed over may have no layer yet. */
const eachLayer = (
  transaction: Transaction,
  f: (layer: Layer<unknown>, below: Layer<unknown>) => void
): void => {
  for (let turn = transaction.turn; turn !== undefined; turn = turn.next) {
    const below = turn as Layer<unknown>
    if (below.above !== undefined) f(below.above, below)
  }
}
