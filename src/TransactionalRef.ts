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
 * on the same ref as a savepoint, on another ref by adding that to the whole. Transactions that wait for each other
 * in a circle are told so as the circle closes.
 *
 * **What it does not.** Values are to be immutable: what a body changes inside a mutable value is changed for all, at
 * once, and is not taken back. What a body reads of a ref that it does not hold is committed, but others may change it
 * before the transaction ends: what a decision rests on has to be among its refs. What a body does besides (a request,
 * a file) is not undone; finalizers are the place for that. It is one process's memory, neither durable nor shared.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
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
import type * as Types from "effect/Types"
import * as Tracer from "effect/Tracer"
import { Latest } from "./internal/latest.js"
import { locally } from "./internal/locally.js"
import { Turn } from "./internal/turn.js"
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
 * Shared state that is changed by transactions; see the module's description.
 *
 * @since 0.1.0
 * @category models
 */
export interface TransactionalRef<in out A> extends Pipeable {
  readonly [TypeId]: { readonly _A: Types.Invariant<A> }
}

/**
 * Several refs, as a record, a tuple or an array.
 *
 * @since 0.1.0
 * @category models
 */
export type Refs = { readonly [name: string]: TransactionalRef<any> } | ReadonlyArray<TransactionalRef<any>>

/**
 * The drafts of several refs, under the same names or places.
 *
 * @since 0.1.0
 * @category models
 */
export type Drafts<R extends Refs> = {
  readonly [K in keyof R]: R[K] extends TransactionalRef<infer A> ? Ref.Ref<A> : never
}

/**
 * The values of several refs, under the same names or places.
 *
 * @since 0.1.0
 * @category models
 */
export type Values<R extends Refs> = {
  readonly [K in keyof R]: R[K] extends TransactionalRef<infer A> ? A : never
}

/**
 * What is going on at a ref. `commits` and `rollbacks` count the outermost transactions that had it since `make`;
 * `since` is epoch milliseconds.
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
 * At the end of a transaction a value did not satisfy its ref's invariant. All refs of it are as before.
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
 * The transaction asked for a ref that another holds, which waits for one that this one holds: `cycle` names the
 * refs. (That the other's wait may have a time limit, or be a daemon's, is not known.) The outermost transaction is rolled back, whatever its body makes of this error; running that one again, after
 * a pause, is the cure, or to name all refs at its beginning, where they are taken in one order.
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
 * A transaction inside another was still going on when that one ended (in a daemon, say), or was begun while that one
 * was ending (by a finalizer of it, say). Its changes are dropped.
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
// transactions, from the inside
// -----------------------------------------------------------------------------

/** The inside of a ref. */
class Cell<in out A> implements TransactionalRef<A> {
  readonly [TypeId] = variance
  readonly name: string
  readonly labels: ReadonlyArray<MetricLabel.MetricLabel>
  readonly invariant: ((value: A) => boolean) | undefined
  /** Held by the outermost transaction that changes it. */
  readonly turn = new Turn<Transaction>(noteTurn)
  readonly latest = new Latest<A>()
  /** Refs are locked in this order. */
  readonly order = order.next++
  commits = 0
  rollbacks = 0
  committed: A

  constructor(initial: A, { invariant, name }: Options<A>) {
    this.committed = initial
    this.name = name ?? `ref ${this.order}`
    // A ref that was given no name has no series of its own: there may be any number of them.
    this.labels = name === undefined ? [] : [MetricLabel.make("ref", name)]
    this.invariant = invariant
  }

  pipe() {
    return pipeArguments(this, arguments)
  }

  commit(value: A): void {
    this.commits++
    commitCounter.unsafeUpdate(1, this.labels)
    if (Object.is(value, this.committed)) return
    this.committed = value
    this.latest.offer(value)
  }

  rollBack(): void {
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

/** A transaction, outermost or nested. */
class Transaction {
  /** The one that it is nested in. */
  readonly outer: Transaction | undefined
  readonly fiber: FiberId.Runtime
  readonly since: number
  /** Of the outermost one: where finalizers are added. */
  readonly scope: Scope.CloseableScope
  readonly entries = new Map<Cell<any>, Entry<any>>()
  /** What it holds: the turns of refs if it is an outermost one, else those of its outer one's entries. */
  readonly turns = new Set<Turn<Transaction>>()
  /** What fibers of it wait for. */
  waitsFor: Set<Wait> | undefined
  /** `Ending`: its changes are committed or dropped, its finalizers run, it still holds its turns. */
  phase: "Open" | "Ending" | "Over" = "Open"
  /** Of the outermost one: it is to fail, whatever its body makes of it. */
  deadlock: TransactionDeadlock | undefined

  constructor(
    outer: Transaction | undefined,
    scope: Scope.CloseableScope,
    fiber: Fiber.RuntimeFiber<unknown, unknown>
  ) {
    this.outer = outer
    this.scope = scope
    this.fiber = fiber.id()
    this.since = clockOf(fiber).unsafeCurrentTimeMillis()
  }
}

interface Wait<in out A = any> {
  readonly turn: Turn<Transaction>
  readonly cell: Cell<A>
}

/** One ref in one transaction. */
interface Entry<A> {
  readonly cell: Cell<A>
  value: A
  /** Held by the transaction inside this one that works on the same ref. */
  readonly turn: Turn<Transaction>
}

function noteTurn(transaction: Transaction, turn: Turn<Transaction>): void {
  transaction.turns.add(turn)
}

/**
 * The transaction that the present fiber is in. Its children inherit it, those of `timeout` and `race` included; who
 * joins one of them is not in it for that.
 */
const current = globalValue(
  Symbol.for("effect-holdfast/TransactionalRef/current"),
  () => FiberRef.unsafeMake<Transaction | undefined>(undefined, { join: (parent) => parent })
)

/** A fiber that outlives a transaction is no longer inside it, but may be inside the one around it. */
const transactionOf = (fiber: Fiber.RuntimeFiber<unknown, unknown>): Transaction | undefined => {
  let transaction = fiber.getFiberRef(current)
  while (transaction?.phase === "Over") transaction = transaction.outer
  return transaction
}

/** What a reader sees: the draft of its own transaction, or of one around it; else what is committed. */
const valueIn = <A>(cell: Cell<A>, transaction: Transaction | undefined): A => {
  for (let around = transaction; around !== undefined; around = around.outer) {
    const entry = around.entries.get(cell)
    if (entry !== undefined) return entry.value
  }
  return cell.committed
}

const variance = { _A: (_: any) => _ }

/** The `Ref` that a body is given. */
class Draft<in out A> extends Effectable.Class<A> implements Ref.Ref<A> {
  readonly [Ref.RefTypeId] = variance
  readonly [Readable.TypeId]: Readable.TypeId = Readable.TypeId
  private readonly entry: Entry<A>
  private readonly transaction: Transaction

  constructor(entry: Entry<A>, transaction: Transaction) {
    super()
    this.entry = entry
    this.transaction = transaction
  }

  get get(): Effect.Effect<A> {
    return this.modify((value) => [value, value])
  }

  commit() {
    return this.get
  }

  modify<B>(f: (a: A) => readonly [B, A]): Effect.Effect<B> {
    return Effect.sync(() => {
      if (this.transaction.phase !== "Open") throw new Error(`the transaction on ${this.entry.cell.name} is over: its draft is no more`)
      if (this.entry.turn.holder !== undefined) {
        throw new Error(`a transaction inside this one works on ${this.entry.cell.name}: its draft is the one to use`)
      }
      const [result, value] = f(this.entry.value)
      this.entry.value = value
      return result
    })
  }
}

type Refusal = TransactionDeadlock | TransactionConflict

/** The ref in a transaction, by the fiber that runs it. It waits for its turn, in the transactions around first. */
const entryOf = <A>(transaction: Transaction, cell: Cell<A>): Effect.Effect<Entry<A>, Refusal> =>
  transaction.outer === undefined
    ? entryBehind(transaction, { turn: cell.turn, cell }, waitAtEase)
    : Effect.flatMap(entryFor(transaction.outer, cell), ({ turn }) =>
      entryBehind(transaction, { turn, cell }, waitAtEase))

/** The same, by a fiber of a transaction inside it. That one may be interrupted alone. */
const entryFor = <A>(transaction: Transaction, cell: Cell<A>): Effect.Effect<Entry<A>, Refusal> =>
  transaction.outer === undefined
    ? entryBehind(transaction, { turn: cell.turn, cell }, wait)
    : Effect.flatMap(entryFor(transaction.outer, cell), ({ turn }) => entryBehind(transaction, { turn, cell }, wait))

/** `wait` without a cleanup: whatever the transaction's own fiber has asked for is given back at the end. */
const waitAtEase: typeof wait = (register) =>
  Effect.async((resume) => {
    register(resume)
  })

const entryBehind = <A>(
  transaction: Transaction,
  asked: Wait<A>,
  waiting: typeof wait
): Effect.Effect<Entry<A>, Refusal> => {
  const entry = freeEntry(transaction, asked)
  if (entry !== undefined) return Effect.succeed(entry)
  return Effect.flatMap(waiting<void, Refusal>((resume) => askForTurn(transaction, asked, resume)), () =>
    transaction.phase === "Open" && asked.turn.holder === transaction
      ? entryBehind(transaction, asked, waiting)
      : new TransactionConflict({ name: asked.cell.name }))
}

/** If it need not be waited for. */
const freeEntry = <A>(transaction: Transaction, { cell, turn }: Wait<A>): Entry<A> | undefined => {
  if (transaction.phase !== "Open" || !turn.tryTake(transaction)) return undefined
  // Another fiber of this transaction may have been faster.
  const present: Entry<A> | undefined = transaction.entries.get(cell)
  if (present !== undefined) return present
  const entry: Entry<A> = { cell, value: valueIn(cell, transaction.outer), turn: new Turn<Transaction>(noteTurn) }
  transaction.entries.set(cell, entry)
  return entry
}

/** All is decided and noted in the step in which the turn is asked for, so that no two can each miss the other's. */
const askForTurn = (
  transaction: Transaction,
  asked: Wait,
  resume: (exit: Exit.Exit<void, TransactionDeadlock>) => void
): (() => void) | undefined => {
  const { turn } = asked
  const cycle = transaction.phase !== "Open" || turn.tryTake(transaction) || !isWaitedFor(transaction)
    ? undefined
    : cycleOver(asked, transaction)
  if (cycle !== undefined) {
    const deadlock = new TransactionDeadlock({ cycle })
    outermost(transaction).deadlock ??= deadlock
    resume(Exit.fail(deadlock))
  } else if (transaction.phase !== "Open" || turn.holder === transaction) {
    resume(Exit.void)
  } else {
    const waitsFor = (transaction.waitsFor ??= new Set()).add(asked)
    const leave = turn.enqueue(transaction, () => {
      waitsFor.delete(asked)
      resume(Exit.void)
    })
    return () => {
      waitsFor.delete(asked)
      leave()
    }
  }
  return undefined
}

/** Nobody can wait for one that holds nothing and stands in no queue. */
const isWaitedFor = (transaction: Transaction): boolean =>
  transaction.turns.size > 0 || (transaction.waitsFor?.size ?? 0) > 0

/**
 * The refs by which those who are ahead of a transaction wait for it. They are all inside the same one, or all
 * outermost: what an inner one asks for beyond those beside it is asked for by the one around it. So whatever inner
 * ones a circle goes through, it is also one of those around them, and closes there.
 */
const cycleOver = (asked: Wait, target: Transaction): ReadonlyArray<string> | undefined => {
  const seen = new Set<Transaction>()
  const toVisit: Array<Visit> = []
  const visitAhead = (wait: Wait, from: Transaction, before: Path | undefined): void => {
    const path: Path = { name: wait.cell.name, before }
    for (const transaction of wait.turn.ahead(from)) toVisit.push({ transaction, by: wait.turn, path })
  }
  visitAhead(asked, target, undefined)
  for (let visit = toVisit.pop(); visit !== undefined; visit = toVisit.pop()) {
    const { by, path, transaction } = visit
    if (transaction === target) return namesAlong(path)
    if (seen.has(transaction)) continue
    seen.add(transaction)
    for (const wait of transaction.waitsFor ?? []) {
      // All who are ahead of it there are to be visited already.
      if (wait.turn !== by) visitAhead(wait, transaction, path)
    }
  }
  return undefined
}

interface Visit {
  readonly transaction: Transaction
  readonly by: Turn<Transaction>
  readonly path: Path
}

interface Path {
  readonly name: string
  readonly before: Path | undefined
}

const namesAlong = (path: Path): ReadonlyArray<string> => {
  const names: Array<string> = []
  for (let at: Path | undefined = path; at !== undefined; at = at.before) names.unshift(at.name)
  return names
}

const outermost = (transaction: Transaction): Transaction =>
  transaction.outer === undefined ? transaction : outermost(transaction.outer)

/** It and all around it go on. */
const isOpen = (transaction: Transaction | undefined): boolean =>
  transaction === undefined || (transaction.phase === "Open" && isOpen(transaction.outer))

const run = <B, E, R>(
  cells: ReadonlyArray<Cell<any>>,
  body: (drafts: ReadonlyArray<Ref.Ref<any>>) => Effect.Effect<B, E, R>
): Effect.Effect<B, E | TransactionError, Exclude<R, Scope.Scope>> =>
  Effect.uninterruptibleMask((restore) => {
    const outer = transactionOf(currentFiber())
    const transacted = Effect.flatMap(scopeFor(outer), (scope): Effect.Effect<B, E | TransactionError, R> => {
      if (!isOpen(outer)) return new TransactionConflict({ name: namesOf(cells) })
      const fiber = currentFiber()
      const transaction = new Transaction(outer, scope, fiber)
      const leave = locally(
        fiber,
        [current, transaction],
        [FiberRef.currentContext, Context.add(fiber.currentContext, Scope.Scope, scope)]
      )
      const end = (exit: Exit.Exit<B, E | TransactionError>) =>
        outer === undefined ? endOutermost(transaction, exit, leave) : endInner(transaction, outer, exit, leave)
      return Effect.matchCauseEffect(restore(withDrafts(transaction, cells, body)), {
        onFailure: (cause) => end(Exit.failCause(cause)),
        onSuccess: (value) => end(Exit.succeed(value))
      })
    })
    return traced(transacted, cells) as Effect.Effect<B, E | TransactionError, Exclude<R, Scope.Scope>>
  })

const scopeFor = (outer: Transaction | undefined): Effect.Effect<Scope.CloseableScope> =>
  outer === undefined ? Scope.make() : Effect.succeed(outer.scope)

/** Not by `Effect.withFiberRuntime`: each operation that a transaction consists of is paid for by all who wait. */
const currentFiber = () => Option.getOrThrow(Fiber.getCurrentFiber())

/** The tracer that every fiber of Effect has tells nobody, and to make its span takes longer than the transaction. */
const traced = <B, E, R>(self: Effect.Effect<B, E, R>, cells: ReadonlyArray<Cell<any>>): Effect.Effect<B, E, R> => {
  const fiber = currentFiber()
  const tracer = Context.get(fiber.getFiberRef(DefaultServices.currentServices), Tracer.Tracer)
  if (tracer === silentTracer || !fiber.getFiberRef(FiberRef.currentTracerEnabled)) return self
  const span = { attributes: { refs: namesOf(cells) }, captureStackTrace: false }
  return Effect.withSpan(self, "TransactionalRef.transaction", span) as Effect.Effect<B, E, R>
}

const silentTracer = Context.get(DefaultServices.liveServices, Tracer.Tracer)

/** In the order of `cells`, whatever the order in which they are locked. */
const withDrafts = <B, E, R>(
  transaction: Transaction,
  cells: ReadonlyArray<Cell<any>>,
  body: (drafts: ReadonlyArray<Ref.Ref<any>>) => Effect.Effect<B, E, R>
): Effect.Effect<B, E | Refusal, R> => {
  if (cells.length === 1) {
    const cell = cells[0]!
    const inside = (entry: Entry<any>) => body([new Draft(entry, transaction)])
    const entry = transaction.outer === undefined ? freeEntry(transaction, { turn: cell.turn, cell }) : undefined
    return entry !== undefined ? Effect.suspend(() => inside(entry)) : Effect.flatMap(entryOf(transaction, cell), inside)
  }
  const inOrder = cells.toSorted((a, b) => a.order - b.order)
  return Effect.flatMap(Effect.forEach(inOrder, (cell) => entryOf(transaction, cell)), (entries) =>
    body(cells.map((cell) => new Draft(entries[inOrder.indexOf(cell)]!, transaction))))
}

const clockOf = (fiber: Fiber.RuntimeFiber<unknown, unknown>): Clock.Clock =>
  Context.get(fiber.getFiberRef(DefaultServices.currentServices), Clock.Clock)

const namesOf = (cells: ReadonlyArray<Cell<any>>): string => cells.map(({ name }) => name).join(", ")

/** What it changed is now the draft of the one around it. */
const endInner = <B, E>(
  transaction: Transaction,
  outer: Transaction,
  exit: Exit.Exit<B, E | TransactionError>,
  leave: () => void
): Exit.Exit<B, E | TransactionError> => {
  leave()
  const isOrphan = !isOpen(outer)
  if (Exit.isSuccess(exit) && !isOrphan) {
    for (const [cell, { value }] of transaction.entries) outer.entries.get(cell)!.value = value
  }
  giveBack(transaction)
  return Exit.isSuccess(exit) && isOrphan
    ? Exit.fail(new TransactionConflict({ name: namesOf([...transaction.entries.keys()]) }))
    : exit
}

/** Commits all or nothing in this one step; then the finalizers, then the next in turn. */
const endOutermost = <B, E>(
  transaction: Transaction,
  exit: Exit.Exit<B, E | TransactionError>,
  leave: () => void
): Effect.Effect<B, E | TransactionError> => {
  const end = Exit.isSuccess(exit) ? objection(transaction) ?? exit : exit
  transaction.entries.forEach(({ cell, turn, value }) => {
    if (Exit.isSuccess(end)) cell.commit(value)
    else cell.rollBack()
    turn.dismissAll()
  })
  transaction.entries.clear()
  transaction.phase = "Ending"
  // Those inside it that still wait are told so now: its finalizers may wait for them.
  for (const { turn } of transaction.waitsFor ?? []) turn.dismiss(transaction)
  const finish = (end: Exit.Exit<B, E | TransactionError>) => {
    giveBack(transaction)
    leave()
    return end
  }
  return Effect.matchCauseEffect(Scope.close(transaction.scope, end), {
    onFailure: (cause) => finish(Exit.failCause(Exit.isSuccess(end) ? cause : Cause.sequential(end.cause, cause))),
    onSuccess: () => finish(end)
  })
}

/** What stands against committing. */
const objection = (transaction: Transaction): Exit.Exit<never, TransactionError> | undefined => {
  if (transaction.deadlock !== undefined) return Exit.fail(transaction.deadlock)
  try {
    for (const { cell: { invariant, name }, value } of transaction.entries.values()) {
      if (invariant !== undefined && !invariant(value)) return Exit.fail(new InvariantViolated({ name }))
    }
    return undefined
  } catch (defect) {
    return Exit.die(defect)
  }
}

const giveBack = (transaction: Transaction): void => {
  transaction.phase = "Over"
  for (const { turn } of transaction.waitsFor ?? []) turn.dismiss(transaction)
  for (const { turn } of transaction.entries.values()) turn.dismissAll()
  for (const turn of transaction.turns) turn.release()
}

// -----------------------------------------------------------------------------
// constructors
// -----------------------------------------------------------------------------

/**
 * `invariant` is asked about each value that is to be committed; none by default. `name` is what errors, spans and
 * metrics call the ref; by default it is numbered, and counted in the metrics together with all that have no name.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<in A> {
  readonly name?: string | undefined
  readonly invariant?: ((value: A) => boolean) | undefined
}

/**
 * Makes a ref.
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
export const make = <A>(initial: A, options: Options<A> = {}): Effect.Effect<TransactionalRef<A>> =>
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
export const get = <A>(self: TransactionalRef<A>): Effect.Effect<A> =>
  Effect.withFiberRuntime((fiber) => Effect.succeed(valueIn(self as Cell<A>, transactionOf(fiber))))

/**
 * The values of several refs, all from one moment: no commit lies between them.
 *
 * @since 0.1.0
 * @category getters
 */
export const snapshot = <const R extends Refs>(refs: R): Effect.Effect<Values<R>> =>
  Effect.withFiberRuntime((fiber) => {
    const transaction = transactionOf(fiber)
    return Effect.succeed(likewise(refs, (cell) => valueIn(cell, transaction)) as Values<R>)
  })

/**
 * The committed values: the present one, then each that is committed and is another (`Object.is`). A slow reader gets
 * the latest and misses those between. It goes on for as long as it is read.
 *
 * @since 0.1.0
 * @category getters
 */
export const changes = <A>(self: TransactionalRef<A>): Stream.Stream<A> => {
  const cell = self as Cell<A>
  return cell.latest.changes(() => Option.some(cell.committed))
}

/**
 * Who holds the ref, how many wait, and what has become of former transactions; for health checks.
 *
 * @since 0.1.0
 * @category getters
 */
export const inspect = <A>(self: TransactionalRef<A>): Effect.Effect<Inspection> =>
  Effect.sync(() => {
    const { commits, name, rollbacks, turn } = self as Cell<A>
    const holder = Option.map(Option.fromNullable(turn.holder), ({ fiber, since }) => ({ fiber, since }))
    return { name, holder, waiters: turn.waiters, commits, rollbacks }
  })

/** A record or a tuple of the same shape. */
const likewise = (refs: Refs, f: (cell: Cell<any>) => unknown): unknown =>
  Array.isArray(refs) ? refs.map(f) : Object.fromEntries(Object.entries(refs).map(([key, ref]) => [key, f(ref as Cell<any>)]))

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
  <A, B>(f: (a: A) => readonly [B, A]): (self: TransactionalRef<A>) => Effect.Effect<B, TransactionError>
  <A, B>(self: TransactionalRef<A>, f: (a: A) => readonly [B, A]): Effect.Effect<B, TransactionError>
} = dual(
  2,
  <A, B>(self: TransactionalRef<A>, f: (a: A) => readonly [B, A]): Effect.Effect<B, TransactionError> =>
    Effect.withFiberRuntime((fiber) => {
      const cell = self as Cell<A>
      // Where nobody is before us, a function needs no draft: it is one step.
      if (cell.turn.holder !== undefined || transactionOf(fiber) !== undefined) {
        return run([cell], ([draft]) => draft!.modify(f))
      }
      let changed: readonly [B, A]
      try {
        changed = f(cell.committed)
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
  <A>(f: (a: A) => A): (self: TransactionalRef<A>) => Effect.Effect<void, TransactionError>
  <A>(self: TransactionalRef<A>, f: (a: A) => A): Effect.Effect<void, TransactionError>
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
  <A>(value: A): (self: TransactionalRef<A>) => Effect.Effect<void, TransactionError>
  <A>(self: TransactionalRef<A>, value: A): Effect.Effect<void, TransactionError>
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
  ): (self: TransactionalRef<A>) => Effect.Effect<void, E | TransactionError, Exclude<R, Scope.Scope>>
  <A, E, R>(
    self: TransactionalRef<A>,
    f: (a: A) => Effect.Effect<A, E, R>
  ): Effect.Effect<void, E | TransactionError, Exclude<R, Scope.Scope>>
} = dual(
  2,
  <A, E, R>(self: TransactionalRef<A>, f: (a: A) => Effect.Effect<A, E, R>) =>
    transaction(self, (draft) => Effect.flatMap(Effect.flatMap(draft.get, f), (value) => Ref.set(draft, value)))
)

/**
 * Runs a body with drafts of one or several refs that only it can see. If it succeeds, all are committed in one step;
 * if it fails, dies or is interrupted, all are as before.
 *
 * The refs are held from the beginning to the end; others wait for their turn, and readers see the former values.
 * Inside another transaction it joins that one. What the body adds to its `Scope` is finalized at the end of the
 * outermost transaction, with its exit, when its changes are committed or dropped and before others get their turn:
 * the place to compensate for what cannot be rolled back. A finalizer cannot change any `TransactionalRef`, for what it
 * might have to wait for may be waiting for it: that is a `TransactionConflict`. What is to be noted in another ref is
 * to be noted after the transaction.
 *
 * @example
 * ```ts
 * import * as Backoff from "effect-holdfast/Backoff"
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
 *     })).pipe(
 *     Effect.retry({
 *       schedule: Backoff.exponential({ initial: "1 millis", max: "1 second" }),
 *       while: (error) => error instanceof TransactionalRef.TransactionDeadlock
 *     })
 *   )
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const transaction: {
  <A, B, E, R>(
    self: TransactionalRef<A>,
    body: (draft: Ref.Ref<A>) => Effect.Effect<B, E, R>
  ): Effect.Effect<B, E | TransactionError, Exclude<R, Scope.Scope>>
  <const Rs extends Refs, B, E, R>(
    refs: Rs,
    body: (drafts: Drafts<Rs>) => Effect.Effect<B, E, R>
  ): Effect.Effect<B, E | TransactionError, Exclude<R, Scope.Scope>>
  <A, B, E, R>(
    body: (draft: Ref.Ref<A>) => Effect.Effect<B, E, R>
  ): (self: TransactionalRef<A>) => Effect.Effect<B, E | TransactionError, Exclude<R, Scope.Scope>>
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

// -----------------------------------------------------------------------------
// guards
// -----------------------------------------------------------------------------

/**
 * @since 0.1.0
 * @category guards
 */
export const isTransactionalRef = (u: unknown): u is TransactionalRef<unknown> => Predicate.hasProperty(u, TypeId)
