/**
 * The bracket around a transaction's body: begins the transaction, gives the body its drafts, and commits or rolls
 * back, whatever the body's exit.
 *
 * The bracket is written by hand, because with `Effect.acquireUseRelease` a transaction takes a third longer. (It would
 * wait for turns in its `use`, commit in its `release`, and need a match around both, since a `release` cannot change
 * the exit.)
 */
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import * as Context from "effect/Context"
import * as DefaultServices from "effect/DefaultServices"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberRef from "effect/FiberRef"
import type * as Scope from "effect/Scope"
import * as Tracer from "effect/Tracer"
import type { TransactionConflict, TransactionDeadlock, TransactionError } from "../../TransactionalRef.js"
import { closeScope } from "../closeScope.js"
import { withLazyScope } from "../lazyScope.js"
import { locally, type WithTwo } from "../locally.js"
import { contested } from "./contested.js"
import { Draft } from "./draft.js"
import type { Cell } from "./layer.js"
import { dismissWaiting, take, tryTake } from "./take.js"
import {
  type AnyFiber,
  current,
  currentFiber,
  eachLayer,
  type Errors,
  isOpen,
  layerIn,
  namesOf,
  outermost,
  Transaction,
  transactionOf
} from "./transaction.js"
import { releaseAll } from "./turn.js"
import { unwinds } from "./unwinding.js"

/** Runs a body with the draft of one ref. */
export const runOnOne = <B, E, R>(
  errors: Errors,
  cell: Cell<any>,
  body: (draft: Draft<any>) => Effect.Effect<B, E, R>
): Effect.Effect<B, E | TransactionError, Exclude<R, Scope.Scope>> =>
  run(errors, cell.alone, (transaction) => withDraft(cell, transaction, body))

/** Runs a body with the drafts of several refs, in the order of `cells`. */
export const runOnSeveral = <B, E, R>(
  errors: Errors,
  cells: ReadonlyArray<Cell<any>>,
  body: (drafts: ReadonlyArray<Draft<any>>) => Effect.Effect<B, E, R>
): Effect.Effect<B, E | TransactionError, Exclude<R, Scope.Scope>> =>
  run(errors, cells, (transaction) => withDrafts(cells, transaction, body))

/** Takes the turns of a transaction that has begun, and runs its body. */
type Inside<B, E, R> = (transaction: Transaction) => Effect.Effect<B, E, R>

type Restore = Parameters<Parameters<typeof Effect.uninterruptibleMask>[0]>[0]

const run = <B, E, R>(
  errors: Errors,
  cells: ReadonlyArray<Cell<any>>,
  inside: Inside<B, E, R>
): Effect.Effect<B, E | TransactionError, Exclude<R, Scope.Scope>> =>
  Effect.uninterruptibleMask((restore) => {
    const fiber = currentFiber()
    const bracket = isTraced(fiber)
      ? traced(errors, cells, inside, restore)
      : bracketed(fiber, errors, cells, inside, restore)
    return bracket as Effect.Effect<B, E | TransactionError, Exclude<R, Scope.Scope>>
  })

const bracketed = <B, E, R>(
  fiber: AnyFiber,
  errors: Errors,
  cells: ReadonlyArray<Cell<any>>,
  inside: Inside<B, E, R>,
  restore: Restore
): Effect.Effect<B, E | TransactionError, R> => {
  const outer = transactionOf(fiber)
  if (!isOpen(outer)) return errors.conflict(namesOf(cells))
  const transaction = new Transaction(errors, outer, cells, fiber)
  const context = withLazyScope(fiber.currentContext, outermost(transaction))
  const locals = locally(fiber, current, transaction, FiberRef.currentContext, context)
  const end = outer === undefined ? endOutermost : endInner
  return Effect.matchCauseEffect(restore(inside(transaction)), {
    onFailure: (cause) => end(transaction, Exit.failCause(cause), locals),
    onSuccess: (value) => end(transaction, Exit.succeed(value), locals)
  })
}

// -----------------------------------------------------------------------------
// spans
// -----------------------------------------------------------------------------

/**
 * Whether spans are needed: the spans of Effect's default tracer are not reported, and making one takes longer than the
 * transaction.
 */
const isTraced = (fiber: AnyFiber): boolean =>
  fiber.currentTracer !== silentTracer && fiber.getFiberRef(FiberRef.currentTracerEnabled)

const silentTracer = Context.get(DefaultServices.liveServices, Tracer.Tracer)

const traced = <B, E, R>(
  errors: Errors,
  cells: ReadonlyArray<Cell<any>>,
  inside: Inside<B, E, R>,
  restore: Restore
): Effect.Effect<B, E | TransactionError, R> =>
  Effect.withSpan(
    Effect.suspend(() => bracketed(currentFiber(), errors, cells, inside, restore)),
    "TransactionalRef.transaction",
    { attributes: { refs: namesOf(cells) }, captureStackTrace: false }
  ) as Effect.Effect<B, E | TransactionError, R>

// -----------------------------------------------------------------------------
// beginning
// -----------------------------------------------------------------------------

type Refusal = TransactionDeadlock | TransactionConflict

const withDraft = <B, E, R>(
  cell: Cell<any>,
  transaction: Transaction,
  body: (draft: Draft<any>) => Effect.Effect<B, E, R>
): Effect.Effect<B, E | Refusal, R> => {
  const layer = tryTake(cell, transaction)
  if (layer === undefined) {
    return Effect.flatMap(
      afterContested(transaction, () => take(cell, transaction)),
      (layer) => body(new Draft(layer, transaction))
    )
  }
  // Errors are caught here by hand, since `Effect.suspend` would be one more operation.
  try {
    return body(new Draft(layer, transaction))
  } catch (defect) {
    return Effect.die(defect)
  }
}

const withDrafts = <B, E, R>(
  cells: ReadonlyArray<Cell<any>>,
  transaction: Transaction,
  body: (drafts: ReadonlyArray<Draft<any>>) => Effect.Effect<B, E, R>
): Effect.Effect<B, E | Refusal, R> => {
  // Turns are taken in one global order, whatever the order in which the refs are named.
  const inOrder = cells.toSorted((a, b) => a.order - b.order)
  return Effect.flatMap(
    afterContested(transaction, () => Effect.forEach(inOrder, (cell) => take(cell, transaction))),
    (layers) => body(cells.map((cell) => new Draft(layers[inOrder.indexOf(cell)]!, transaction)))
  )
}

/** Takes turns. If the transaction names a contested ref, it first takes the turn that contested refs share. */
const afterContested = <A>(
  transaction: Transaction,
  taken: () => Effect.Effect<A, Refusal>
): Effect.Effect<A, Refusal> => {
  const turn = transaction.outer === undefined
    ? undefined
    : currentFiber().getFiberRef(contested)?.turnBefore(transaction)
  return turn === undefined ? taken() : Effect.flatMap(take(turn, transaction), taken)
}

// -----------------------------------------------------------------------------
// ending
// -----------------------------------------------------------------------------

/** The changes of the inner transaction become changes of the transaction around it. */
const endInner = <B, E>(
  transaction: Transaction,
  exit: Exit.Exit<B, E | TransactionError>,
  locals: WithTwo
): Exit.Exit<B, E | TransactionError> => {
  locals.setBack(currentFiber())
  const end = Exit.isFailure(exit) ? exit : objection(transaction) ?? exit
  if (Exit.isSuccess(end)) commit(transaction)
  dismissWaiting(transaction)
  transaction.phase = "Over"
  releaseAll(transaction)
  return end
}

/** Commits everything or nothing, in one step. Then the finalizers run, and then the turns are released. */
const endOutermost = <B, E>(
  transaction: Transaction,
  exit: Exit.Exit<B, E | TransactionError>,
  locals: WithTwo
): Effect.Effect<B, E | TransactionError> => {
  const end = Exit.isFailure(exit) ? unwound(transaction, exit.cause) : objection(transaction) ?? exit
  // An aborted transaction no longer has layers.
  if (Exit.isSuccess(end)) commit(transaction)
  else eachLayer(transaction, (_, below) => below.rollBack())
  transaction.phase = "Ending"
  transaction.exit = end
  // Finalizers may wait for fibers inside the transaction that are still waiting for a turn, so these fibers are woken
  // first.
  dismissWaiting(transaction)
  if (transaction.madeScope === undefined) return finish(transaction, end, locals)
  return Effect.matchCauseEffect(closeScope(transaction.madeScope, end), {
    onFailure: (cause) =>
      finish(transaction, Exit.failCause(Exit.isSuccess(end) ? cause : Cause.sequential(end.cause, cause)), locals),
    onSuccess: () => finish(transaction, end, locals)
  })
}

/** A reader of `changes` sees all values of the commit, even if it runs in the step that wakes it. */
const commit = (transaction: Transaction): void => {
  eachLayer(transaction, (layer, below) => below.commit(layer.value))
  eachLayer(transaction, (_, below) => below.announce())
}

const finish = <B, E>(transaction: Transaction, end: Exit.Exit<B, E>, locals: WithTwo): Exit.Exit<B, E> => {
  transaction.phase = "Over"
  releaseAll(transaction)
  locals.setBack(currentFiber())
  return end
}

/** The failure of a transaction whose body has succeeded, but which must not commit. */
const objection = (transaction: Transaction): Exit.Exit<never, TransactionError> | undefined => {
  const { cells, deadlock, errors, outer } = transaction
  if (deadlock !== undefined) return Exit.fail(deadlock)
  if (!isOpen(outer)) return Exit.fail(errors.conflict(namesOf(cells)))
  try {
    for (const cell of cells) {
      // An outer transaction that names the ref checks the invariant at its own end.
      if (cell.invariant === undefined || isNamed(cell, outer)) continue
      if (!cell.invariant(layerIn(cell, transaction).value)) return Exit.fail(errors.violation(cell.name))
    }
    return undefined
  } catch (defect) {
    return Exit.die(defect)
  }
}

const isNamed = (cell: Cell<any>, transaction: Transaction | undefined): boolean =>
  transaction !== undefined && (transaction.cells.includes(cell) || isNamed(cell, transaction.outer))

/**
 * The end of an outermost transaction whose body has failed. If the body has failed because the transaction is over,
 * the transaction fails with the typed error, whatever the body has made of it. Other defects of the body are added.
 */
const unwound = <E>(
  transaction: Transaction,
  cause: Cause.Cause<E | TransactionError>
): Exit.Exit<never, E | TransactionError> => {
  const { deadlock, errors } = transaction
  const unwindsIt = (defect: unknown) => unwinds(defect, transaction)
  const refusal = deadlock ?? Array.from(Cause.defects(cause)).find(unwindsIt)
  if (refusal === undefined) return Exit.failCause(cause)
  const typed = Cause.fail(refusal as Refusal)
  const defects = ownDefects(cause, deadlock === undefined ? unwindsIt : errors.isRefusal)
  return Exit.failCause(defects === undefined ? typed : Cause.sequential(typed, defects))
}

/** The defects of a cause, without those that only say that the transaction is over. */
const ownDefects = (
  cause: Cause.Cause<unknown>,
  saysItIsOver: (defect: unknown) => boolean
): Cause.Cause<never> | undefined =>
  Chunk.reduce(
    Chunk.filter(Cause.defects(cause), (defect) => !saysItIsOver(defect)),
    undefined as Cause.Cause<never> | undefined,
    (before, defect) => before === undefined ? Cause.die(defect) : Cause.sequential(before, Cause.die(defect))
  )
