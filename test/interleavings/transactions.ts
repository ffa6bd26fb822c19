/** The guarantees of a transaction, as programs that hold under every interleaving. */
import { Interleavings } from "effect-holdfast/testing"
import type * as TransactionalRefModule from "effect-holdfast/TransactionalRef"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Ref from "effect/Ref"
import * as Schedule from "effect/Schedule"
import * as assert from "node:assert/strict"

/** The scenarios that mark a fiber for interruption. */
export const interrupted: ReadonlyArray<string> = [
  "an interrupted transaction, which a deadlock may have ended, holds nothing",
  "an interrupted transaction changes all or nothing, and releases its turn",
  "an interrupted transaction that waits for several refs holds none",
  "an interrupted inner transaction undoes its changes, and its siblings go on"
]

export const scenarios = (TransactionalRef: typeof TransactionalRefModule) => {
  type NumberRef = TransactionalRefModule.TransactionalRef<number>

  const free = (...refs: ReadonlyArray<NumberRef>) =>
    Effect.forEach(
      refs,
      (ref) =>
        Effect.map(TransactionalRef.inspect(ref), ({ holder, waiters }) =>
          assert.deepEqual([Option.isNone(holder), waiters], [true, 0]))
    )

  /** Reads, pauses, and writes. */
  const add = (draft: Ref.Ref<number>, n: number) =>
    Effect.flatMap(Ref.get(draft), (value) => Effect.zipRight(Effect.yieldNow(), Ref.set(draft, value + n)))

  const increment = (ref: NumberRef) => TransactionalRef.transaction(ref, (draft) => add(draft, 1))

  const together = <A, E>(...effects: ReadonlyArray<Effect.Effect<A, E>>) =>
    Effect.flatMap(Effect.forEach(effects, Effect.fork), Effect.forEach(Fiber.await))

  const succeeds = (exits: ReadonlyArray<Exit.Exit<unknown, unknown>>) =>
    exits.forEach((exit) => assert.ok(Exit.isSuccess(exit), String(exit)))

  /** As many siblings as there are refs. Each sibling holds one ref and asks for the next. */
  const ring = (refs: ReadonlyArray<NumberRef>) =>
    refs.map((ref, place) =>
      TransactionalRef.transaction(
        ref,
        (draft) => Effect.zipRight(add(draft, 1), increment(refs[(place + 1) % refs.length]!))
      )
    )

  /** Without `Effect.all`, which hangs if it is interrupted before its first fiber has run. */
  const inParallel = <E>(effects: ReadonlyArray<Effect.Effect<void, E>>) =>
    Effect.flatMap(
      Effect.forEach(effects, Effect.fork),
      (fibers) => Effect.onError(Effect.forEach(fibers, Fiber.join), () => Fiber.interruptAll(fibers))
    )

  /** One transaction with several concurrent rings inside it. */
  const circles = (sizes: ReadonlyArray<number>, mostAttempts: number) =>
    Effect.gen(function*() {
      const outer = yield* TransactionalRef.make(0)
      const rings = yield* Effect.forEach(sizes, (size) => Effect.replicateEffect(TransactionalRef.make(0), size))
      let attempts = 0
      yield* TransactionalRef.transaction(outer, (draft) =>
        Effect.suspend(() => {
          attempts++
          return Effect.zipRight(add(draft, 1), inParallel(rings.flatMap(ring)))
        })).pipe(TransactionalRef.retryDeadlock)
      assert.ok(attempts <= mostAttempts, `${attempts} attempts`)
      const refs = rings.flat()
      assert.deepEqual(yield* TransactionalRef.snapshot([outer, ...refs]), [1, ...refs.map(() => 2)])
      yield* free(outer, ...refs)
    })

  return {
    "no update is lost": Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(0)
      succeeds(yield* together(increment(ref), TransactionalRef.update(ref, (n) => n + 1), increment(ref)))
      assert.equal(yield* TransactionalRef.get(ref), 3)
      yield* free(ref)
    }),

    "readers see all of a transaction, or nothing of it": Effect.gen(function*() {
      const a = yield* TransactionalRef.make(10)
      const b = yield* TransactionalRef.make(0)
      const transfer = TransactionalRef.transaction(
        { a, b },
        (drafts) => Effect.zipRight(add(drafts.a, -1), add(drafts.b, 1))
      )
      const reading = Effect.repeatN(
        Effect.flatMap(TransactionalRef.snapshot([a, b]), ([x, y]) => Effect.sync(() => assert.equal(x + y, 10))),
        2
      )
      succeeds(yield* together<void, unknown>(transfer, reading, transfer))
      assert.deepEqual(yield* TransactionalRef.snapshot([a, b]), [8, 2])
    }),

    "a defect releases the turn, and drops the change": Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(0)
      const dying = TransactionalRef.transaction(ref, (draft) => Effect.zipRight(add(draft, 100), Effect.die("broken")))
      const [died, done] = yield* together<unknown, unknown>(dying, increment(ref))
      assert.ok(Exit.isFailure(died!) && Cause.isDie(died.cause))
      succeeds([done!])
      assert.equal(yield* TransactionalRef.get(ref), 1)
      yield* free(ref)
    }),

    "an interrupted transaction changes all or nothing, and releases its turn": Effect.gen(function*() {
      const a = yield* TransactionalRef.make(0)
      const b = yield* TransactionalRef.make(0)
      const both = TransactionalRef.transaction([a, b], ([x, y]) => Effect.zipRight(add(x, 1), add(y, 1)))
      const before = yield* Effect.fork(both)
      const victim = yield* Effect.fork(Interleavings.victim(both))
      const after = yield* Effect.fork(both)
      const exit = yield* Fiber.await(victim)
      yield* Fiber.join(before)
      yield* Fiber.join(after)
      const count = Exit.isSuccess(exit) ? 3 : 2
      const values = yield* TransactionalRef.snapshot([a, b])
      // The transaction has committed, and was interrupted afterwards.
      if (Exit.isFailure(exit) && values[0] === 3) assert.deepEqual(values, [3, 3])
      else assert.deepEqual(values, [count, count])
      yield* free(a, b)
    }),

    "an interrupted transaction that waits for several refs holds none": Effect.gen(function*() {
      const a = yield* TransactionalRef.make(0)
      const b = yield* TransactionalRef.make(0)
      const holder = yield* Effect.fork(increment(b))
      const victim = yield* Effect.fork(Interleavings.victim(TransactionalRef.transaction([a, b], () => Effect.void)))
      yield* increment(a)
      yield* Fiber.await(victim)
      yield* Fiber.join(holder)
      assert.deepEqual(yield* TransactionalRef.snapshot([a, b]), [1, 1])
      yield* free(a, b)
    }),

    "an interrupted inner transaction undoes its changes, and its siblings go on": Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(0)
      const exit = yield* Effect.exit(TransactionalRef.transaction(ref, () =>
        Effect.gen(function*() {
          const victim = yield* Effect.fork(Interleavings.victim(increment(ref)))
          const sibling = yield* Effect.fork(increment(ref))
          const exit = yield* Fiber.await(victim)
          yield* Fiber.join(sibling)
          return Exit.isSuccess(exit) ? 2 : 1
        })))
      assert.ok(Exit.isSuccess(exit), String(exit))
      const value = yield* TransactionalRef.get(ref)
      assert.ok(value === exit.value || (exit.value === 1 && value === 2), `${value}`)
      yield* free(ref)
    }),

    "siblings inside one transaction take turns": Effect.gen(function*() {
      const a = yield* TransactionalRef.make(0)
      const b = yield* TransactionalRef.make(0)
      yield* TransactionalRef.transaction(
        a,
        () => Effect.all([increment(a), increment(b), increment(a), increment(b)], { concurrency: "unbounded" })
      )
      assert.deepEqual(yield* TransactionalRef.snapshot([a, b]), [2, 2])
      yield* free(a, b)
    }),

    "the turns of several refs are always taken in the same order": Effect.gen(function*() {
      const a = yield* TransactionalRef.make(0)
      const b = yield* TransactionalRef.make(0)
      const both = (x: NumberRef, y: NumberRef) =>
        TransactionalRef.transaction([x, y], ([x, y]) => Effect.zipRight(add(x, 1), add(y, 1)))
      succeeds(yield* together(both(a, b), both(b, a), both(a, b)))
      assert.deepEqual(yield* TransactionalRef.snapshot([a, b]), [3, 3])
    }),

    "a deadlock of nested transactions fails one of them, which succeeds when it is run again": Effect.gen(function*() {
      const a = yield* TransactionalRef.make(0)
      const b = yield* TransactionalRef.make(0)
      const nested = (x: NumberRef, y: NumberRef) =>
        TransactionalRef.transaction(x, (draft) => Effect.zipRight(add(draft, 1), increment(y))).pipe(
          Effect.retry({
            schedule: Schedule.spaced("1 millis"),
            while: (error) => error._tag === "TransactionDeadlock",
            times: 10
          })
        )
      succeeds(yield* together(nested(a, b), nested(b, a)))
      assert.deepEqual(yield* TransactionalRef.snapshot([a, b]), [2, 2])
      yield* free(a, b)
    }),

    "a deadlock through parallel parts of a transaction fails one of the transactions": Effect.gen(function*() {
      const [a, b, c] = [
        yield* TransactionalRef.make(0),
        yield* TransactionalRef.make(0),
        yield* TransactionalRef.make(0)
      ]
      const parallel = TransactionalRef.transaction(
        a,
        () => Effect.all([increment(b), increment(c)], { concurrency: "unbounded" })
      )
      const nested = TransactionalRef.transaction(c, () => increment(b))
      const other = TransactionalRef.transaction(b, () => increment(a))
      const exits = yield* together<unknown, TransactionalRefModule.TransactionError>(parallel, nested, other)
      const done = exits.map(Exit.isSuccess)
      for (const exit of exits) {
        if (Exit.isFailure(exit)) assert.match(String(exit), /TransactionDeadlock/)
      }
      const [first, second, third] = done.map(Number) as [number, number, number]
      assert.deepEqual(yield* TransactionalRef.snapshot([a, b, c]), [third, first + second, first])
      yield* free(a, b, c)
    }),

    "a transaction that a deadlock has ended holds nothing while its body goes on": Effect.gen(function*() {
      const a = yield* TransactionalRef.make(0)
      const b = yield* TransactionalRef.make(0)
      const done = [yield* Deferred.make<void>(), yield* Deferred.make<void>()] as const
      let endings = 0
      const nested = (own: NumberRef, other: NumberRef, me: 0 | 1) =>
        TransactionalRef.transaction(own, (draft) =>
          add(draft, 1).pipe(
            Effect.zipRight(increment(other)),
            // The other transaction can commit only if this one holds nothing.
            Effect.catchTag("TransactionDeadlock", () => Deferred.await(done[me === 0 ? 1 : 0])),
            Effect.ensuring(Effect.sync(() => endings++))
          )).pipe(Effect.zipLeft(Deferred.succeed(done[me], undefined)))
      const exits = yield* together(nested(a, b, 0), nested(b, a, 1))
      const failed = exits.filter(Exit.isFailure)
      for (const exit of failed) assert.match(String(exit), /TransactionDeadlock/)
      assert.ok(failed.length <= 1)
      assert.deepEqual(yield* TransactionalRef.snapshot([a, b]), [2 - failed.length, 2 - failed.length])
      assert.equal(endings, 2)
      yield* free(a, b)
    }),

    "a retry inside another module's transaction never livelocks": Effect.gen(function*() {
      const [order, from, to] = [
        yield* TransactionalRef.make(0),
        yield* TransactionalRef.make(9),
        yield* TransactionalRef.make(0)
      ]
      const transfer = TransactionalRef.transaction(
        { from, to },
        (drafts) => Effect.zipRight(add(drafts.from, -1), add(drafts.to, 1))
      ).pipe(TransactionalRef.retryDeadlock)
      const place = TransactionalRef.transaction(order, (draft) => Effect.zipRight(add(draft, 1), transfer))
      const close = TransactionalRef.transaction(from, (draft) => Effect.zipRight(add(draft, 2), increment(order)))
      succeeds(yield* together(place.pipe(TransactionalRef.retryDeadlock), close.pipe(TransactionalRef.retryDeadlock)))
      assert.deepEqual(yield* TransactionalRef.snapshot([order, from, to]), [2, 10, 1])
      yield* free(order, from, to)
    }),

    "two siblings that wait for each other succeed at the second attempt": circles([2], 2),

    "three siblings that wait for each other succeed at the second attempt": circles([3], 2),

    "ten siblings that wait for each other succeed at the second attempt": circles([10], 2),

    "two circles of siblings succeed at the third attempt": circles([2, 3], 3),

    "siblings that wait for refs made by the body itself succeed at the second attempt": Effect.gen(
      function*() {
        let attempts = 0
        const refs = yield* TransactionalRef.transaction([], () =>
          Effect.gen(function*() {
            attempts++
            const refs = yield* Effect.replicateEffect(TransactionalRef.make(0), 2)
            yield* inParallel(ring(refs))
            return refs
          })).pipe(TransactionalRef.retryDeadlock)
        assert.ok(attempts <= 2, `${attempts} attempts`)
        assert.deepEqual(yield* TransactionalRef.snapshot(refs), [2, 2])
        yield* free(...refs)
      }
    ),

    "an interrupted transaction, which a deadlock may have ended, holds nothing": Effect.gen(function*() {
      const a = yield* TransactionalRef.make(0)
      const b = yield* TransactionalRef.make(0)
      const nested = (own: NumberRef, other: NumberRef) =>
        TransactionalRef.transaction(
          own,
          (draft) => Effect.zipRight(add(draft, 1), Effect.catchAll(increment(other), () => Effect.yieldNow()))
        )
      const victim = yield* Effect.fork(Interleavings.victim(nested(a, b)))
      const other = yield* Effect.fork(nested(b, a))
      yield* Fiber.await(victim)
      yield* Fiber.await(other)
      const [x, y] = yield* TransactionalRef.snapshot([a, b])
      assert.equal(x, y)
      yield* free(a, b)
    }),

    "a daemon's transaction that outlives the enclosing one fails with a conflict, and delays no other transaction":
      Effect.gen(
        function*() {
          const ref = yield* TransactionalRef.make(0)
          const cue = yield* Deferred.make<void>()
          const daemon = yield* TransactionalRef.transaction(ref, () =>
            Effect.zipLeft(
              Effect.forkDaemon(
                TransactionalRef.transaction(ref, (draft) => Effect.zipRight(add(draft, 1), Deferred.await(cue)))
              ),
              Effect.yieldNow()
            ))
          yield* Deferred.succeed(cue, undefined)
          yield* increment(ref)
          const exit = yield* Fiber.await(daemon)
          // A daemon's transaction that began after the end of the enclosing one is not inside it.
          const expected = Exit.isSuccess(exit) ? 2 : 1
          assert.equal(yield* TransactionalRef.get(ref), expected)
          if (Exit.isFailure(exit)) {
            assert.match(String(exit), /TransactionConflict/)
          }
          yield* free(ref)
        }
      ),

    "finalizers run once, with the exit, before the next transaction has its turn": Effect.gen(function*() {
      const log: Array<string> = []
      const ref = yield* TransactionalRef.make(0)
      const one = (name: string) =>
        TransactionalRef.transaction(ref, () =>
          Effect.zipRight(
            Effect.addFinalizer(() => Effect.zipRight(Effect.yieldNow(), Effect.sync(() => log.push(`end ${name}`)))),
            Effect.sync(() => log.push(`begin ${name}`))
          ))
      succeeds(yield* together(one("a"), one("b")))
      assert.ok(["begin a,end a,begin b,end b", "begin b,end b,begin a,end a"].includes(log.join()), log.join())
    })
  } satisfies Record<string, Effect.Effect<void, unknown>>
}
