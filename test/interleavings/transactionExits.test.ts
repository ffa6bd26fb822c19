/** Every kind of exit × every place of the exit × every state of the turn when the operation asks for it. */
import { Interleavings } from "effect-holdfast/testing"
import { assert, describe, it } from "effect-holdfast/testing/vitest"
import * as TransactionalRef from "effect-holdfast/TransactionalRef"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Ref from "effect/Ref"
import { bySize } from "../support/bySize.js"

type NumberRef = TransactionalRef.TransactionalRef<number>

interface Refs {
  readonly a: NumberRef
  readonly b: NumberRef
}

/** Changes a and b by 1, in steps; `at` is run before each, with the step's number. */
type Operation = (refs: Refs, at: (step: number) => Effect.Effect<void, string>) => Effect.Effect<unknown, unknown>

const add = (draft: Ref.Ref<number>) => Ref.update(draft, (n) => n + 1)

const operations: Record<string, Operation> = {
  "one transaction on both": ({ a, b }, at) =>
    TransactionalRef.transaction({ a, b }, (drafts) =>
      at(0).pipe(
        Effect.zipRight(add(drafts.a)),
        Effect.zipRight(at(1)),
        Effect.zipRight(add(drafts.b)),
        Effect.zipRight(at(2))
      )),
  "a transaction with a savepoint": ({ a, b }, at) =>
    TransactionalRef.transaction([a, b], ([, draft]) =>
      at(0).pipe(
        Effect.zipRight(TransactionalRef.transaction(a, (inner) => Effect.zipRight(add(inner), at(1)))),
        Effect.zipRight(add(draft)),
        Effect.zipRight(at(2))
      )),
  "a transaction that takes the other ref later": ({ a, b }, at) =>
    TransactionalRef.transaction(a, (draft) =>
      Effect.zipRight(add(draft), at(0)).pipe(
        Effect.zipRight(TransactionalRef.updateEffect(b, (n) => Effect.as(at(1), n + 1))),
        Effect.zipRight(at(2))
      )),
  "a transaction that uses `update` and `modify`": ({ a, b }, at) =>
    TransactionalRef.transaction(a, () =>
      at(0).pipe(
        Effect.zipRight(TransactionalRef.update(a, (n) => n + 1)),
        Effect.zipRight(at(1)),
        Effect.zipRight(TransactionalRef.modify(b, (n) => ["", n + 1])),
        Effect.zipRight(at(2))
      )),
  "a transaction with a finalizer": ({ a, b }, at) =>
    TransactionalRef.transaction([a, b], ([x, y]) =>
      at(0).pipe(
        Effect.zipRight(Effect.addFinalizer(() => Effect.yieldNow())),
        Effect.zipRight(add(x)),
        Effect.zipRight(at(1)),
        Effect.zipRight(add(y)),
        Effect.zipRight(at(2))
      )),
  "a transaction with a time limit": ({ a, b }, at) =>
    TransactionalRef.transaction(
      [a, b],
      ([x, y]) =>
        Effect.timeout(Effect.zipRight(Effect.zipRight(at(0), add(x)), at(1)), "1 hour").pipe(
          Effect.zipRight(add(y)),
          Effect.zipRight(at(2))
        )
    )
}

const ends: Record<string, Effect.Effect<never, string>> = {
  failure: Effect.fail("no"),
  defect: Effect.die("broken"),
  throw: Effect.suspend(() => {
    throw new Error("thrown")
  }),
  interruption: Effect.interrupt
}

/** The ref is free; another transaction holds it until the operation has ended; or is about to release it. */
const moments = ["free", "queued", "just woken"] as const

const program = (moment: typeof moments[number], operation: (refs: Refs) => Effect.Effect<unknown, unknown>) =>
  Effect.gen(function*() {
    const a = yield* TransactionalRef.make(0)
    const b = yield* TransactionalRef.make(0)
    const cue = yield* Deferred.make<void>()
    const held = yield* Deferred.make<void>()
    const hold = TransactionalRef.transaction(
      [b, a],
      () => Effect.zipRight(Deferred.succeed(held, undefined), Deferred.await(cue))
    )
    if (moment === "free") yield* Deferred.succeed(cue, undefined)
    const holder = yield* Effect.fork(hold)
    yield* moment === "free" ? Fiber.await(holder) : Deferred.await(held)
    const one = yield* Effect.fork(operation({ a, b }))
    if (moment === "queued") {
      // The operation cannot end by itself: the explorer's interruption ends it, or this one.
      yield* Effect.sleep("1 second")
      yield* Fiber.interrupt(one)
    } else {
      yield* Deferred.succeed(cue, undefined)
    }
    const exit = yield* Fiber.await(one)
    yield* Deferred.succeed(cue, undefined)
    yield* Fiber.join(holder)
    const values = yield* TransactionalRef.snapshot([a, b])
    for (const ref of [a, b]) {
      const { holder, waiters } = yield* TransactionalRef.inspect(ref)
      assert.deepStrictEqual([Option.isNone(holder), waiters], [true, 0])
    }
    // The next transaction finds both free.
    yield* TransactionalRef.transaction([a, b], () => Effect.void)
    return { exit, values }
  })

describe("T1, T2: a transaction that ends at any step changes all or nothing, and holds nothing", async () => {
  for (const [name, operation] of Object.entries(operations)) {
    for (const [way, end] of Object.entries(ends)) {
      const effect = Effect.gen(function*() {
        for (const moment of ["free", "just woken"] as const) {
          for (let place = 0; place <= 2; place++) {
            const { exit, values } = yield* program(
              moment,
              (refs) =>
                operation(refs, (step) => step === place ? Effect.zipRight(Effect.yieldNow(), end) : Effect.void)
            )
            assert.isTrue(Exit.isFailure(exit))
            assert.deepStrictEqual(values, [0, 0])
          }
          const { exit, values } = yield* program(moment, (refs) => operation(refs, () => Effect.void))
          assert.isTrue(Exit.isSuccess(exit), String(exit))
          assert.deepStrictEqual(values, [1, 1])
        }
      })
      it.interleavings(`${name}: ${way}`, effect, await bySize(effect, "sweep"))
    }
  }
})

describe("T1, T2: a transaction that is interrupted anywhere changes all or nothing, and holds nothing", async () => {
  for (const [name, operation] of Object.entries(operations)) {
    for (const moment of moments) {
      const effect = Effect.gen(function*() {
        const { exit, values } = yield* program(
          moment,
          (refs) => Interleavings.victim(operation(refs, () => Effect.yieldNow()))
        )
        // The operation can be interrupted when it has committed and not yet ended.
        if (Exit.isSuccess(exit) || values[0] === 1) assert.deepStrictEqual(values, [1, 1])
        else assert.deepStrictEqual(values, [0, 0])
      })
      it.interleavings(`${name}: ${moment}`, effect, await bySize(effect, "interrupt"))
    }
  }
})
