import { globalValue } from "effect/GlobalValue"
import * as Metric from "effect/Metric"
import * as MetricLabel from "effect/MetricLabel"
import type { Options } from "../../TransactionalRef.js"
import { Latest } from "../latest.js"
import type { Registered } from "../registry.js"
import type { Transaction } from "./transaction.js"
import { Turn } from "./turn.js"

/**
 * A value of a ref, and the turn to change it. The ref itself is the lowest layer, with the committed value. A
 * transaction that has the turn of a layer works on a layer of its own above that one; a transaction inside it works
 * one layer higher still. A transaction that succeeds writes the values of its layers into the layers below.
 */
export class Layer<in out A> extends Turn<Transaction> {
  value: A
  /** `undefined` for the lowest layer. */
  readonly below: Layer<A> | undefined
  /** The layer of the transaction that has the turn of this layer, from its first use on. */
  above: Layer<A> | undefined

  constructor(name: string, value: A, below: Layer<A> | undefined) {
    super(name)
    this.value = value
    this.below = below
  }

  /** Called when the transaction that has this turn has succeeded with this value; `announce` follows. */
  commit(value: A): void {
    this.value = value
  }

  /** Called when all refs of the transaction have their new values. */
  announce(): void {}

  /** Called when the transaction that has this turn has failed. */
  rollBack(): void {}
}

/** The lowest layer of a ref. */
export class Cell<in out A> extends Layer<A> {
  readonly labels: ReadonlyArray<MetricLabel.MetricLabel>
  readonly invariant: ((value: A) => boolean) | undefined
  readonly latest = new Latest<A>()
  /** A transaction takes the turns of several refs in this order. */
  readonly order: number
  /** The list of refs for a transaction that names only this ref. */
  readonly alone: ReadonlyArray<Cell<A>> = [this]
  /** A separate object, because an Inspector keeps it when the ref has been garbage-collected. */
  readonly counts = { commits: 0, rollbacks: 0 }
  /** The ref's entry in an Inspector, if there is an Inspector and the ref has a name. */
  registered: Registered | undefined

  constructor(initial: A, { invariant, name }: Options<A>) {
    const place = orders.next++
    super(name ?? `ref ${place}`, initial, undefined)
    this.order = place
    // A ref without a name has no metric series of its own, since there may be any number of such refs.
    this.labels = name === undefined ? [] : [MetricLabel.make("ref", name)]
    this.invariant = invariant
    this.registered = undefined
  }

  override commit(value: A): void {
    this.counts.commits++
    commitCounter.unsafeUpdate(1, this.labels)
    if (Object.is(value, this.value)) return
    this.value = value
    this.latest.put(value)
  }

  override announce(): void {
    this.latest.wake()
  }

  override rollBack(): void {
    this.counts.rollbacks++
    rollbackCounter.unsafeUpdate(1, this.labels)
    this.registered?.note("RolledBack")
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

/** `next` is the `order` of the next ref that is made. */
export const orders = globalValue(Symbol.for("effect-holdfast/TransactionalRef/order"), () => ({ next: 0 }))
