/**
 * Circles of siblings, that is of transactions that run in parallel inside the same one and wait for each other. If the
 * outermost transaction were run again as it was, it would meet the same circle for ever.
 */
import { assert, describe, it } from "@effect/vitest"
import * as TransactionalRef from "effect-holdfast/TransactionalRef"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Ref from "effect/Ref"
import * as TestClock from "effect/TestClock"
import * as TestContext from "effect/TestContext"
import * as fc from "fast-check"
import { amount } from "./support/form.js"

type NumberRef = TransactionalRef.TransactionalRef<number>

const inParallel = { concurrency: "unbounded", discard: true } as const

const add = (draft: Ref.Ref<number>) => Effect.zipRight(Ref.update(draft, (n) => n + 1), Effect.yieldNow())

const increment = (ref: NumberRef) => TransactionalRef.update(ref, (n) => n + 1)

const makeRefs = (count: number) => Effect.replicateEffect(TransactionalRef.make(0), count)

/** As many transactions as there are refs, each of which holds one ref and asks for the next. */
const ring = (refs: ReadonlyArray<NumberRef>) =>
  Effect.forEach(
    refs,
    (ref, place) =>
      TransactionalRef.transaction(ref, (draft) =>
        Effect.zipRight(add(draft), increment(refs[(place + 1) % refs.length]!))),
    inParallel
  )

/** Runs a body in a transaction. Gives the values that are committed in the end, and how often the body has run. */
const attempted = <E>(
  refs: ReadonlyArray<NumberRef>,
  body: (attempt: number) => Effect.Effect<unknown, E>,
  outermost: ReadonlyArray<NumberRef> = []
) =>
  Effect.gen(function*() {
    let attempts = 0
    const whole = TransactionalRef.transaction(outermost, () => Effect.suspend(() => body(++attempts))).pipe(
      TransactionalRef.retryDeadlock
    )
    const fiber = yield* Effect.fork(whole)
    // No pause is longer than a second.
    for (let second = 0; second < 100 && (yield* Fiber.poll(fiber))._tag === "None"; second++) {
      yield* TestClock.adjust("1 second")
    }
    assert.isTrue(Option.isSome(yield* Fiber.poll(fiber)), `no end after ${attempts} attempts`)
    yield* Fiber.join(fiber)
    for (const ref of refs) {
      const { holder, waiters } = yield* TransactionalRef.inspect(ref)
      assert.deepStrictEqual([Option.isNone(holder), waiters], [true, 0])
    }
    return { attempts, values: yield* TransactionalRef.snapshot(refs) }
  })

describe("T10: retryDeadlock around siblings that wait for each other", () => {
  for (const size of [2, 3, 10]) {
    it.effect(`makes ${size} of them succeed at the second attempt`, () =>
      Effect.gen(function*() {
        const refs = yield* makeRefs(size)
        for (const outermost of [[], refs.slice(0, 1), refs]) {
          const before = yield* TransactionalRef.snapshot(refs)
          const { attempts, values } = yield* attempted(refs, () => ring(refs), outermost)
          assert.deepStrictEqual([attempts, values], [2, before.map((n) => n + 2)])
        }
      }))
  }

  it.effect("makes two circles succeed at the third attempt, in whichever order they close", () =>
    Effect.gen(function*() {
      for (const sizes of [[2, 2], [2, 5], [5, 2]]) {
        const rings = yield* Effect.forEach(sizes, makeRefs)
        const { attempts, values } = yield* attempted(
          rings.flat(),
          () => Effect.forEach(rings, ring, inParallel)
        )
        assert.isAtMost(attempts, 3)
        assert.deepStrictEqual(values, rings.flat().map(() => 2))
      }
    }))

  it.effect("makes them succeed at any depth", () =>
    Effect.gen(function*() {
      const refs = yield* makeRefs(4)
      const inside = (depth: number): Effect.Effect<void, TransactionalRef.TransactionError> =>
        depth === 0
          ? ring(refs.slice(0, 3))
          : TransactionalRef.transaction(refs.slice(0, depth % 2), () => inside(depth - 1))
      const { attempts, values } = yield* attempted(refs, () => inside(4))
      assert.deepStrictEqual([attempts, values], [2, [2, 2, 2, 0]])
    }))

  it.effect("makes them succeed if the body makes new refs at each attempt", () =>
    Effect.gen(function*() {
      const shared = yield* TransactionalRef.make(0)
      const { attempts, values } = yield* attempted([shared], () =>
        Effect.gen(function*() {
          const refs = yield* makeRefs(3)
          yield* ring([...refs, shared])
          assert.deepStrictEqual(yield* TransactionalRef.snapshot(refs), [2, 2, 2])
        }))
      assert.deepStrictEqual([attempts, values], [2, [2]])
    }))

  it.effect("makes them succeed whatever their bodies do with the errors", () =>
    Effect.gen(function*() {
      const refs = yield* makeRefs(2)
      const recovering = (ref: NumberRef, other: NumberRef) =>
        TransactionalRef.transaction(ref, (draft) =>
          Effect.zipRight(add(draft), Effect.exit(TransactionalRef.retryDeadlock(increment(other))))).pipe(Effect.exit)
      const { attempts, values } = yield* attempted(
        refs,
        () =>
          Effect.all([recovering(refs[0]!, refs[1]!), recovering(refs[1]!, refs[0]!)], inParallel)
      )
      assert.deepStrictEqual([attempts, values], [2, [2, 2]])
    }))

  it.effect("leaves siblings that name other refs in parallel", () =>
    Effect.gen(function*() {
      const refs = yield* makeRefs(4)
      const meets = (ref: NumberRef, own: Deferred.Deferred<void>, other: Deferred.Deferred<void>) =>
        TransactionalRef.transaction(ref, (draft) =>
          Effect.zipRight(Deferred.succeed(own, undefined), Deferred.await(other)).pipe(
            Effect.zipRight(add(draft))
          ))
      const { attempts, values } = yield* attempted(refs, () =>
        Effect.gen(function*() {
          const [one, two] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
          yield* Effect.all(
            [meets(refs[2]!, one, two), meets(refs[3]!, two, one), ring(refs.slice(0, 2))],
            inParallel
          )
        }))
      assert.deepStrictEqual([attempts, values], [2, [2, 2, 1, 1]])
    }))

  it.effect("runs the finalizers of each attempt once, with the attempt's exit", () =>
    Effect.gen(function*() {
      const refs = yield* makeRefs(2)
      const ends: Array<Exit.Exit<unknown, unknown>["_tag"]> = []
      const noting = (ref: NumberRef, other: NumberRef) =>
        TransactionalRef.transaction(ref, (draft) =>
          Effect.addFinalizer(({ _tag }) =>
            Effect.sync(() => ends.push(_tag))
          ).pipe(
            Effect.zipRight(add(draft)),
            Effect.zipRight(increment(other))
          ))
      const { attempts } = yield* attempted(
        refs,
        () => Effect.all([noting(refs[0]!, refs[1]!), noting(refs[1]!, refs[0]!)], inParallel)
      )
      assert.deepStrictEqual([attempts, ends], [2, ["Failure", "Failure", "Success", "Success"]])
    }))

  it.effect("makes several outermost transactions with the same refs succeed", () =>
    Effect.gen(function*() {
      const refs = yield* makeRefs(3)
      const one = attempted([], () => ring(refs))
      const other = attempted([], () => ring(refs.toReversed()))
      yield* Effect.all([one, other, one, other], inParallel)
      assert.deepStrictEqual(yield* TransactionalRef.snapshot(refs), [8, 8, 8])
    }))

  it.effect("needs at most one attempt more than there are refs, whatever the siblings ask for", () =>
    Effect.promise(() =>
      fc.assert(
        fc.asyncProperty(
          fc.array(fc.shuffledSubarray([0, 1, 2, 3, 4, 5], { minLength: 2 }), { minLength: 2, maxLength: 10 }),
          (orders) =>
            Effect.gen(function*() {
              const refs = yield* makeRefs(6)
              const nested = ([first, ...rest]: ReadonlyArray<number>): Effect.Effect<
                void,
                TransactionalRef.TransactionError
              > =>
                first === undefined
                  ? Effect.void
                  : TransactionalRef.transaction(refs[first]!, (draft) => Effect.zipRight(add(draft), nested(rest)))
              const { attempts, values } = yield* attempted(refs, () => Effect.forEach(orders, nested, inParallel))
              assert.isAtMost(attempts, 7)
              assert.deepStrictEqual(values, refs.map((_, ref) => orders.filter((order) => order.includes(ref)).length))
            }).pipe(Effect.provide(TestContext.TestContext), Effect.runPromise)
        ),
        { numRuns: amount({ quick: 30, full: 300 }) }
      )
    ))
})
