/**
 * Random trees of transactions with parallel parts. They make circles of every kind: among outermost transactions,
 * among siblings, and through several levels of both. Whatever the interleaving, no transaction waits for ever.
 */
import { Interleavings } from "effect-holdfast/testing"
import { assert, describe, it } from "effect-holdfast/testing/vitest"
import * as TransactionalRef from "effect-holdfast/TransactionalRef"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as fc from "fast-check"
import { amount } from "./support/form.js"

interface Tree {
  readonly refs: ReadonlyArray<number>
  readonly inside: ReadonlyArray<Tree>
  readonly isParallel: boolean
  /** Its body recovers from all failures inside. */
  readonly recovers: boolean
}

const treeOf = (levels: number): fc.Arbitrary<Tree> =>
  fc.record({
    refs: fc.uniqueArray(fc.integer({ min: 0, max: 3 }), { maxLength: 2 }),
    inside: levels === 1 ? fc.constant([]) : fc.array(treeOf(levels - 1), { maxLength: 3 }),
    isParallel: fc.boolean(),
    recovers: fc.boolean()
  })

type Ends = Array<Exit.Exit<void, TransactionalRef.TransactionError>>

const grown = (
  refs: ReadonlyArray<TransactionalRef.TransactionalRef<number>>,
  { inside, isParallel, recovers, refs: named }: Tree
): Effect.Effect<void, TransactionalRef.TransactionError> =>
  TransactionalRef.transaction(
    named.map((index) => refs[index]!) as [TransactionalRef.TransactionalRef<number>],
    () =>
      Effect.gen(function*() {
        const parts = inside.map((part) => Effect.exit(Effect.zipRight(Effect.yieldNow(), grown(refs, part))))
        // Not by `Effect.all`, which hangs if it is interrupted before its first fiber has run.
        const fibers = isParallel ? yield* Effect.forEach(parts, Effect.fork) : []
        const exits = yield* isParallel ? Effect.forEach(fibers, Fiber.join) : Effect.all(parts)
        const failure = exits.find(Exit.isFailure)
        if (failure !== undefined && !recovers) yield* failure
      })
  )

const planted = (trees: ReadonlyArray<Tree>, noteEnds: (ends: Ends) => void) =>
  Effect.gen(function*() {
    const refs = yield* Effect.replicateEffect(TransactionalRef.make(0), 4)
    const fibers = yield* Effect.forEach(trees, (tree) => Effect.fork(grown(refs, tree)))
    const ends = yield* Effect.forEach(fibers, Fiber.await)
    for (const exit of ends) if (Exit.isFailure(exit)) assert.match(String(exit), /TransactionDeadlock/)
    for (const ref of refs) {
      const { holder, waiters } = yield* TransactionalRef.inspect(ref)
      assert.deepStrictEqual([Option.isNone(holder), waiters], [true, 0])
    }
    noteEnds(ends)
  })

describe("T5: random trees of transactions", () => {
  it("never wait for ever, and fail only because of circles", async ({ task }) => {
    let interleavings = 0
    let circles = 0
    await fc.assert(
      fc.asyncProperty(fc.array(treeOf(4), { minLength: 2, maxLength: 3 }), async (trees) => {
        const report = await Effect.runPromise(Interleavings.explore(
          planted(trees, (ends) => {
            circles += ends.filter(Exit.isFailure).length
          }),
          { strategy: ["random", "pct"], seeds: 10, preemptions: 3 }
        ))
        interleavings += report.interleavings
      }),
      { numRuns: amount({ quick: 40, full: 400 }) }
    )
    task.meta.interleavings = interleavings
    assert.isAbove(circles, amount({ quick: 20, full: 200 }))
  })

  it("T10: succeed under retryDeadlock after at most one attempt more than there are refs", async ({ task }) => {
    let interleavings = 0
    let repeated = 0
    await fc.assert(
      fc.asyncProperty(treeOf(4), async (tree) => {
        const retried = Effect.gen(function*() {
          const refs = yield* Effect.replicateEffect(TransactionalRef.make(0), 4)
          let attempts = 0
          const attempt = Effect.suspend(() => {
            attempts++
            return grown(refs, { ...tree, isParallel: true })
          })
          yield* TransactionalRef.retryDeadlock(attempt)
          assert.isAtMost(attempts, 5)
          if (attempts > 1) repeated++
        })
        const report = await Effect.runPromise(
          Interleavings.explore(retried, { strategy: ["random", "pct"], seeds: 10, preemptions: 3 })
        )
        interleavings += report.interleavings
      }),
      { numRuns: amount({ quick: 60, full: 300 }) }
    )
    task.meta.interleavings = interleavings
    assert.isAbove(repeated, amount({ quick: 20, full: 100 }))
  })
})
