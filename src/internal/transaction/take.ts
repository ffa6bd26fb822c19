/**
 * How a transaction gets its layers.
 *
 * To work on a ref, a transaction takes the turn of the layer below its own. For this, the transactions around it need
 * layers of the ref, too. So turns are taken from the outermost transaction inwards: the turn of the ref, the turn of
 * the outermost transaction's layer, and so on. A free turn is taken immediately (`tryTake`); otherwise the transaction
 * takes a place in the queue and waits (`take`). A transaction keeps its turns until its end, which releases them.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { TransactionConflict, TransactionDeadlock } from "../../TransactionalRef.js"
import { wait } from "../wait.js"
import { circleThrough } from "./circle.js"
import { noteCircle } from "./contested.js"
import { Layer } from "./layer.js"
import { eachLayer, isOpen, outermost, type Transaction } from "./transaction.js"
import { releaseAll } from "./turn.js"

type Refusal = TransactionDeadlock | TransactionConflict

/** Takes the turns that the transaction needs for a layer of its own. Must be called on the transaction's own fiber. */
export const take = <A>(lowest: Layer<A>, transaction: Transaction): Effect.Effect<Layer<A>, Refusal> =>
  takeThrough(lowest, transaction, waitWithoutCleanup)

/** Takes the layer above the lowest one, if the turn is free and the transaction is an outermost one. */
export const tryTake = <A>(lowest: Layer<A>, transaction: Transaction): Layer<A> | undefined =>
  transaction.outer === undefined ? tryTakeAbove(lowest, transaction) : undefined

/**
 * The outer transactions take their layers first. The fiber that waits for them may be interrupted without the
 * transaction.
 */
const takeThrough = <A>(
  lowest: Layer<A>,
  transaction: Transaction,
  waiting: typeof wait
): Effect.Effect<Layer<A>, Refusal> =>
  transaction.outer === undefined
    ? takeAbove(lowest, transaction, waiting)
    : Effect.flatMap(takeThrough(lowest, transaction.outer, wait), (below) => takeAbove(below, transaction, waiting))

/** `wait` without a cleanup, since at its end a transaction leaves the queues in which its own fiber waits. */
const waitWithoutCleanup: typeof wait = (register) =>
  Effect.async((resume) => {
    register(resume)
  })

const takeAbove = <A>(
  below: Layer<A>,
  transaction: Transaction,
  waiting: typeof wait
): Effect.Effect<Layer<A>, Refusal> => {
  const layer = tryTakeAbove(below, transaction)
  if (layer !== undefined) return Effect.succeed(layer)
  return Effect.flatMap(
    waiting<void, Refusal>((resume) => takePlace(below, transaction, resume)),
    () =>
      isOpen(transaction) && below.holder === transaction
        ? takeAbove(below, transaction, waiting)
        : transaction.errors.conflict(below.name)
  )
}

/** Takes the turn if it is free. Another fiber of the transaction may already have taken it and made the layer. */
const tryTakeAbove = <A>(below: Layer<A>, transaction: Transaction): Layer<A> | undefined =>
  isOpen(transaction) && below.tryTake(transaction)
    ? below.above ??= new Layer(below.name, below.value, below)
    : undefined

/**
 * The search for a circle and the new place are one step, so that two transactions cannot both overlook each other's
 * request.
 *
 * The transactions of a circle are all outermost, or all inside the same one. If an inner transaction needs a turn of a
 * layer further out, the transactions around it take that turn. So a circle through inner transactions of several outer
 * ones is also a circle of these outer ones, and is found when it closes there.
 */
const takePlace = (
  turn: Layer<any>,
  transaction: Transaction,
  resume: (exit: Exit.Exit<void, TransactionDeadlock>) => void
): (() => void) | undefined => {
  if (!isOpen(transaction) || turn.tryTake(transaction)) {
    resume(Exit.void)
    return undefined
  }
  // If another fiber of the transaction already waits for this turn, this wait closes no new circle.
  const circle = transaction.places?.has(turn) === true ? undefined : circleThrough(turn, transaction)
  if (circle === undefined) return turn.enqueue(transaction, () => resume(Exit.void))
  const deadlock = transaction.errors.deadlock(circle.map(({ name }) => name))
  if (transaction.outer !== undefined) noteCircle(deadlock, circle)
  abort(outermost(transaction), deadlock)
  resume(Exit.fail(deadlock))
  return undefined
}

/** Ends an outermost transaction whose body still runs, so that other transactions can go on immediately. */
const abort = (transaction: Transaction, deadlock: TransactionDeadlock): void => {
  transaction.deadlock = deadlock
  transaction.phase = "Aborted"
  eachLayer(transaction, (_, below) => below.rollBack())
  dismissWaiting(transaction)
  releaseAll(transaction)
}

/**
 * Wakes all waiting fibers inside a transaction without giving them their turns. From then on no reader sees the
 * transaction's layers.
 */
export const dismissWaiting = (transaction: Transaction): void => {
  for (const turn of transaction.places?.keys() ?? []) turn.dismiss(transaction)
  eachLayer(transaction, (layer, below) => {
    layer.dismissAll()
    if (layer.holder !== undefined) dismissWaiting(layer.holder)
    below.above = undefined
  })
}
