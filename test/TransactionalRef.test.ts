import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import * as TransactionalRef from "effect-holdfast/TransactionalRef"
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import * as Data from "effect/Data"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import type * as MetricState from "effect/MetricState"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Ref from "effect/Ref"
import * as Request from "effect/Request"
import * as RequestResolver from "effect/RequestResolver"
import * as Scheduler from "effect/Scheduler"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import * as Tracer from "effect/Tracer"
import { failureOf } from "./support/exits.js"

const add = (draft: Ref.Ref<number>, n: number) => Ref.update(draft, (value) => value + n)

const untouched = (...refs: ReadonlyArray<TransactionalRef.TransactionalRef<number>>) =>
  Effect.forEach(refs, (ref) =>
    Effect.gen(function*() {
      const { holder, waiters } = yield* TransactionalRef.inspect(ref)
      // For Chai, `Option.some` and `Option.none` are deeply equal.
      assert.deepStrictEqual([Option.isNone(holder), waiters], [true, 0])
    }))

/** The ways in which a body can end without success. */
const ends: Record<string, Effect.Effect<never, string>> = {
  failure: Effect.fail("no"),
  "a defect": Effect.die("broken"),
  "a throw": Effect.suspend(() => {
    throw new Error("thrown")
  }),
  interruption: Effect.interrupt
}

describe("a transaction", () => {
  it.effect("T1: commits the draft's last value, and gives the body's result", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(1)
      const given = yield* TransactionalRef.transaction(ref, (draft) => Effect.as(add(draft, 1), "given"))
      assert.strictEqual(given, "given")
      assert.strictEqual(yield* TransactionalRef.get(ref), 2)
      yield* untouched(ref)
    }))

  for (const [name, end] of Object.entries(ends)) {
    it.effect(`T1, T2: that ends in ${name} leaves every ref unchanged, and releases its turn`, () =>
      Effect.gen(function*() {
        const a = yield* TransactionalRef.make(1)
        const b = yield* TransactionalRef.make(2)
        const exit = yield* Effect.exit(
          TransactionalRef.transaction(
            { a, b },
            (drafts) => Effect.zipRight(Effect.zipRight(add(drafts.a, 5), add(drafts.b, 5)), end)
          )
        )
        assert.isTrue(Exit.isFailure(exit))
        assert.deepStrictEqual(yield* TransactionalRef.snapshot([a, b]), [1, 2])
        assert.strictEqual((yield* TransactionalRef.inspect(a)).rollbacks, 1)
        yield* untouched(a, b)
      }))
  }

  it.effect("T1: whose body throws instead of giving an effect is a defect", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(1)
      const exit = yield* Effect.exit(TransactionalRef.transaction(ref, (): Effect.Effect<void> => {
        throw new Error("thrown")
      }))
      assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
      yield* untouched(ref)
    }))

  it.effect("T1: is seen whole by a reader that runs in the step that wakes it", () =>
    Effect.gen(function*() {
      const a = yield* TransactionalRef.make(0)
      const b = yield* TransactionalRef.make(0)
      const seen: Array<readonly [number, number]> = []
      const reader = yield* Stream.merge(TransactionalRef.changes(a), TransactionalRef.changes(b)).pipe(
        Stream.runForEach(() =>
          Effect.map(TransactionalRef.snapshot([a, b]), (values) => {
            seen.push(values)
          })
        ),
        Effect.withScheduler({ shouldYield: () => false, scheduleTask: (task) => task() }),
        Effect.fork
      )
      yield* Effect.yieldNow()
      for (const n of [1, 2]) {
        yield* TransactionalRef.transaction([a, b], ([a, b]) => Effect.zipRight(Ref.set(a, n), Ref.set(b, n)))
      }
      yield* Fiber.interrupt(reader)
      assert.deepStrictEqual(seen, [[0, 0], [0, 0], [1, 1], [1, 1], [2, 2], [2, 2]])
    }))

  it.effect("T1: is seen by no reader before its end, and readers never wait", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(1)
      const seen = yield* Effect.fork(Stream.runCollect(Stream.take(TransactionalRef.changes(ref), 2)))
      yield* Effect.yieldNow()
      const holding = yield* Effect.fork(TransactionalRef.transaction(ref, (draft) =>
        Effect.zipRight(Ref.set(draft, 2), Effect.zipRight(Effect.sleep("1 second"), Ref.set(draft, 3)))))
      yield* Effect.yieldNow()
      assert.strictEqual(yield* TransactionalRef.get(ref), 1)
      assert.deepStrictEqual(yield* TransactionalRef.snapshot({ ref }), { ref: 1 })
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(holding)
      assert.strictEqual(yield* TransactionalRef.get(ref), 3)
      assert.deepStrictEqual(Chunk.toArray(yield* Fiber.join(seen)), [1, 3])
    }))

  it.effect("sees its own draft with get and snapshot", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(1)
      yield* TransactionalRef.transaction(ref, (draft) =>
        Effect.gen(function*() {
          yield* Ref.set(draft, 2)
          assert.strictEqual(yield* TransactionalRef.get(ref), 2)
          assert.deepStrictEqual(yield* TransactionalRef.snapshot([ref]), [2])
          assert.strictEqual(yield* draft, 2)
        }))
    }))

  it.effect("T3: takes turns with others, first come first served", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make<ReadonlyArray<number>>([])
      const one = (n: number) =>
        TransactionalRef.transaction(ref, (draft) =>
          Effect.zipRight(Effect.sleep(1), Ref.update(draft, (all) => [...all, n])))
      const fibers = yield* Effect.forEach(
        Array.from({ length: 20 }, (_, n) =>
          n),
        (n) => Effect.fork(one(n))
      )
      yield* Effect.yieldNow()
      assert.strictEqual((yield* TransactionalRef.inspect(ref)).waiters, 19)
      yield* TestClock.adjust("1 second")
      yield* Effect.forEach(fibers, Fiber.join)
      assert.deepStrictEqual(yield* TransactionalRef.get(ref), Array.from({ length: 20 }, (_, n) => n))
    }))

  it.effect("T3: gets its turn by one wake-up, however many transactions wait", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(0)
      const waiting = 1_000
      let steps = 0
      const counting = new Scheduler.MixedScheduler(2_048)
      const scheduleTask = counting.scheduleTask.bind(counting)
      counting.scheduleTask = (task, priority) => {
        steps++
        scheduleTask(task, priority)
      }
      yield* Effect.all(
        Array.from({ length: waiting }, () =>
          TransactionalRef.transaction(ref, (draft) => Effect.zipRight(Effect.yieldNow(), add(draft, 1)))),
        { concurrency: "unbounded" }
      ).pipe(Effect.withScheduler(counting))
      assert.strictEqual(yield* TransactionalRef.get(ref), waiting)
      // Each fiber starts, is woken, and goes on after the pause. If each release woke all waiting fibers, there would
      // be half a million tasks.
      assert.isBelow(steps, 6 * waiting)
    }))

  it.effect("T2: interrupted while it waits, or while it holds its turn, leaks no turn", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(0)
      const forever = TransactionalRef.transaction(ref, (draft) => Effect.zipRight(add(draft, 1), Effect.never))
      const holder = yield* Effect.fork(forever)
      const waiters = [yield* Effect.fork(forever), yield* Effect.fork(forever)]
      yield* Effect.yieldNow()
      yield* Fiber.interrupt(waiters[0]!)
      assert.strictEqual((yield* TransactionalRef.inspect(ref)).waiters, 1)
      yield* Fiber.interrupt(holder)
      yield* Fiber.interrupt(waiters[1]!)
      yield* untouched(ref)
      yield* TransactionalRef.update(ref, (n) => n + 1)
      assert.strictEqual(yield* TransactionalRef.get(ref), 1)
    }))

  it.effect("T5: on several refs takes their turns in one global order, whatever the order of their names", () =>
    Effect.gen(function*() {
      const a = yield* TransactionalRef.make(0)
      const b = yield* TransactionalRef.make(0)
      const both = (refs: readonly [typeof a, typeof a]) =>
        TransactionalRef.transaction(
          refs,
          ([x, y]) => Effect.zipRight(add(x, 1), Effect.zipRight(Effect.yieldNow(), add(y, 1)))
        )
      yield* Effect.all(Array.from({ length: 50 }, (_, n) => both(n % 2 === 0 ? [a, b] : [b, a])), {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(yield* TransactionalRef.snapshot({ a, b }), { a: 50, b: 50 })
    }))

  it.effect("may name a ref twice, and has one draft for it", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(0)
      yield* TransactionalRef.transaction([ref, ref], ([x, y]) => Effect.zipRight(add(x, 1), add(y, 1)))
      assert.strictEqual(yield* TransactionalRef.get(ref), 2)
    }))
})

describe("T4: a transaction inside a transaction", () => {
  it.effect("on the same ref is a savepoint: its failure undoes only its own changes", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(0)
      const inner = (end: Effect.Effect<void, string>) =>
        TransactionalRef.transaction(ref, (draft) => Effect.zipRight(add(draft, 10), end))
      yield* TransactionalRef.transaction(ref, (draft) =>
        Effect.gen(function*() {
          yield* add(draft, 1)
          yield* Effect.ignore(inner(Effect.fail("no")))
          assert.strictEqual(yield* draft, 1)
          yield* inner(Effect.void)
          assert.strictEqual(yield* draft, 11)
          assert.strictEqual((yield* TransactionalRef.inspect(ref)).commits, 0)
        }))
      assert.strictEqual(yield* TransactionalRef.get(ref), 11)
    }))

  it.effect("on another ref adds that ref to the outermost, which commits or drops both", () =>
    Effect.gen(function*() {
      const a = yield* TransactionalRef.make(0)
      const b = yield* TransactionalRef.make(0)
      const whole = (end: Effect.Effect<void, string>) =>
        TransactionalRef.transaction(a, (draft) =>
          Effect.gen(function*() {
            yield* add(draft, 1)
            yield* TransactionalRef.update(b, (n) => n + 1)
            assert.strictEqual(yield* TransactionalRef.get(b), 1)
            yield* end
          }))
      yield* Effect.ignore(whole(Effect.fail("no")))
      assert.deepStrictEqual(yield* TransactionalRef.snapshot([a, b]), [0, 0])
      yield* whole(Effect.void)
      assert.deepStrictEqual(yield* TransactionalRef.snapshot([a, b]), [1, 1])
      yield* untouched(a, b)
    }))

  it.effect("that fails also undoes changes of inner transactions, even on refs that it does not name itself", () =>
    Effect.gen(function*() {
      const a = yield* TransactionalRef.make(0)
      const b = yield* TransactionalRef.make(0)
      yield* TransactionalRef.transaction(a, () =>
        Effect.gen(function*() {
          yield* Effect.ignore(TransactionalRef.transaction(a, () =>
            Effect.zipRight(
              TransactionalRef.update(b, (n) => n + 1),
              Effect.fail("no")
            )))
          assert.strictEqual(yield* TransactionalRef.get(b), 0)
          yield* TransactionalRef.transaction(a, () => TransactionalRef.update(b, (n) => n + 2))
          assert.strictEqual(yield* TransactionalRef.get(b), 2)
        }))
      assert.strictEqual(yield* TransactionalRef.get(b), 2)
    }))

  for (
    const [name, through] of Object.entries({
      timeout: <A, E>(effect: Effect.Effect<A, E>) => Effect.timeout(effect, "1 minute"),
      race: <A, E>(effect: Effect.Effect<A, E>) => Effect.race(effect, Effect.never),
      "Effect.all": <A, E>(effect: Effect.Effect<A, E>) =>
        Effect.all([effect, Effect.void], { concurrency: "unbounded" }),
      fork: <A, E>(effect: Effect.Effect<A, E>) => Effect.flatMap(Effect.fork(effect), Fiber.join)
    })
  ) {
    it.effect(`joins it through ${name}`, () =>
      Effect.gen(function*() {
        const ref = yield* TransactionalRef.make(0)
        yield* TransactionalRef.transaction(ref, () => through(TransactionalRef.update(ref, (n) => n + 1)))
        assert.strictEqual(yield* TransactionalRef.get(ref), 1)
        const exit = yield* Effect.exit(TransactionalRef.transaction(ref, () =>
          Effect.zipRight(
            through(TransactionalRef.update(ref, (n) => n + 1)),
            Effect.fail("no")
          )))
        assert.strictEqual(failureOf(exit), "no")
        assert.strictEqual(yield* TransactionalRef.get(ref), 1)
      }))
  }

  it.effect("takes turns with its siblings", () =>
    Effect.gen(function*() {
      const a = yield* TransactionalRef.make(0)
      const b = yield* TransactionalRef.make(0)
      const slowly = (ref: typeof a) =>
        TransactionalRef.transaction(ref, (draft) =>
          Effect.flatMap(draft.get, (n) => Effect.zipRight(Effect.yieldNow(), Ref.set(draft, n + 1))))
      yield* TransactionalRef.transaction(a, () =>
        Effect.all([slowly(a), slowly(b), slowly(a), slowly(b), slowly(a), slowly(b)], { concurrency: "unbounded" }))
      assert.deepStrictEqual(yield* TransactionalRef.snapshot([a, b]), [3, 3])
    }))

  it.effect("makes using the outer draft a defect while it runs, and using its own draft after its end", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(0)
      const exit = yield* Effect.exit(
        TransactionalRef.transaction(ref, (outer) => TransactionalRef.transaction(ref, () => Ref.set(outer, 1)))
      )
      assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
      const leaked = yield* TransactionalRef.transaction(ref, Effect.succeed)
      assert.isTrue(Cause.isDie((yield* Effect.sandbox(leaked.get).pipe(Effect.flip)) as Cause.Cause<never>))
      assert.strictEqual(yield* TransactionalRef.get(ref), 0)
    }))

  it.effect("that outlives the outer one fails with a conflict; one that a daemon begins later is outside", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(0)
      const cue = yield* Deferred.make<void>()
      const [late, later] = yield* TransactionalRef.transaction(ref, () =>
        Effect.all([
          Effect.forkDaemon(
            TransactionalRef.transaction(ref, (draft) => Effect.zipRight(add(draft, 1), Deferred.await(cue)))
          ),
          Effect.forkDaemon(Effect.zipRight(Deferred.await(cue), TransactionalRef.update(ref, (n) => n + 10)))
        ]).pipe(Effect.zipLeft(Effect.yieldNow())))
      yield* untouched(ref)
      yield* Deferred.succeed(cue, undefined)
      assert.strictEqual(failureOf(yield* Fiber.await(late))._tag, "TransactionConflict")
      yield* Fiber.join(later)
      assert.strictEqual(yield* TransactionalRef.get(ref), 10)
    }))

  for (const [which, depth] of [["the outermost", 0], ["one in between", 1]] as const) {
    it.effect(`that outlives ${which} around it fails with a conflict, and so does one begun between the two`, () =>
      Effect.gen(function*() {
        const ref = yield* TransactionalRef.make(0)
        const cues = [yield* Deferred.make<void>(), yield* Deferred.make<void>()] as const
        let begun = 0
        const late: Array<Fiber.Fiber<void, TransactionalRef.TransactionError>> = []
        const ending = TransactionalRef.transaction(
          ref,
          (draft) => Effect.zipRight(add(draft, 1), Deferred.await(cues[1]))
        )
        const beginning = Effect.zipRight(
          Deferred.await(cues[0]),
          TransactionalRef.transaction([], () => Effect.sync(() => begun++))
        )
        const forking = (effect: Effect.Effect<void, TransactionalRef.TransactionError>) =>
          Effect.map(Effect.forkDaemon(effect), (fiber) => {
            late.push(fiber)
          })
        const within = (level: number): Effect.Effect<void, TransactionalRef.TransactionError> =>
          level === 4 ?
            Effect.zipRight(forking(beginning), ending) :
            TransactionalRef.transaction(ref, () =>
              level === depth
                ? Effect.zipLeft(forking(within(level + 1)), Effect.repeatN(Effect.yieldNow(), 20))
                : within(level + 1))
        yield* within(0)
        // The innermost transaction was forked last.
        for (const cue of cues) {
          yield* Deferred.succeed(cue, undefined)
          assert.strictEqual(failureOf(yield* Fiber.await(late.pop()!))._tag, "TransactionConflict")
        }
        assert.deepStrictEqual([begun, yield* TransactionalRef.get(ref)], [0, 0])
        yield* untouched(ref)
      }))
  }
})

describe("T4: a fiber", () => {
  it.effect("is not inside a transaction only because it joins a fiber of that transaction", () =>
    Effect.gen(function*() {
      const stock = yield* TransactionalRef.make(10)
      const cue = yield* Deferred.make<void>()
      const forked = yield* Deferred.make<Fiber.Fiber<void>>()
      const outer = yield* Effect.fork(TransactionalRef.transaction(stock, (draft) =>
        Effect.gen(function*() {
          yield* add(draft, 90)
          yield* Deferred.succeed(forked, yield* Effect.forkDaemon(Effect.void))
          yield* Deferred.await(cue)
          return yield* Effect.fail("no")
        })))
      yield* Fiber.join(yield* Deferred.await(forked))
      assert.strictEqual(yield* TransactionalRef.get(stock), 10)
      const update = yield* Effect.fork(TransactionalRef.update(stock, (n) => n - 1))
      yield* Deferred.succeed(cue, undefined)
      yield* Fiber.join(update)
      yield* Fiber.await(outer)
      assert.strictEqual(yield* TransactionalRef.get(stock), 9)
    }))

  it.effect("stays inside its transaction when it joins a fiber of another one", () =>
    Effect.gen(function*() {
      const a = yield* TransactionalRef.make(0)
      const b = yield* TransactionalRef.make(0)
      const daemon = yield* TransactionalRef.transaction(a, () => Effect.forkDaemon(Effect.void))
      yield* TransactionalRef.transaction(b, (draft) =>
        Effect.gen(function*() {
          yield* add(draft, 5)
          yield* Fiber.join(daemon)
          assert.strictEqual(yield* TransactionalRef.get(b), 5)
          yield* TransactionalRef.update(b, (n) => n + 1)
        }))
      assert.strictEqual(yield* TransactionalRef.get(b), 6)
    }))

  it.effect("is inside the outer transaction if it was forked in an inner one that has ended", () =>
    Effect.gen(function*() {
      const a = yield* TransactionalRef.make(0)
      const b = yield* TransactionalRef.make(0)
      for (const fork of [Effect.fork, Effect.forkDaemon, Effect.forkScoped]) {
        yield* TransactionalRef.transaction(a, (draft) =>
          Effect.gen(function*() {
            const cue = yield* Deferred.make<void>()
            yield* Ref.set(draft, 5)
            const later = Effect.zipRight(Deferred.await(cue), TransactionalRef.modify(a, (n) => [n, n + 1]))
            const fiber = yield* TransactionalRef.transaction(b, () => fork(later))
            yield* Deferred.succeed(cue, undefined)
            assert.strictEqual(yield* Fiber.join(fiber), 5)
          }))
        assert.strictEqual(yield* TransactionalRef.get(a), 6)
      }
    }))

  it.scoped("stays inside its transaction when it uses a memoized layer that another one has built", () =>
    Effect.gen(function*() {
      const a = yield* TransactionalRef.make(0)
      const b = yield* TransactionalRef.make(0)
      const forking = TransactionalRef.transaction(a, () => Effect.flatMap(Effect.fork(Effect.void), Fiber.join))
      const memoized = yield* Layer.memoize(Layer.effectDiscard(forking))
      yield* Effect.provide(Effect.void, memoized)
      yield* TransactionalRef.transaction(b, (draft) =>
        Effect.gen(function*() {
          yield* Ref.set(draft, 5)
          yield* Effect.provide(Effect.void, memoized)
          assert.strictEqual(yield* TransactionalRef.get(b), 5)
          yield* Effect.provide(TransactionalRef.update(b, (n) => n + 1), memoized)
        }))
      assert.strictEqual(yield* TransactionalRef.get(b), 6)
    }))
})

describe("transactions that wait for each other", () => {
  it.effect("T5: form no circle if the other transaction is ending, even if one of its fibers still waits", () =>
    Effect.gen(function*() {
      const a = yield* TransactionalRef.make(0, { name: "a" })
      const b = yield* TransactionalRef.make(0, { name: "b" })
      const holdsB = yield* Deferred.make<void>()
      const isEnding = yield* Deferred.make<void>()
      const first = yield* Effect.fork(Effect.zipRight(
        Deferred.await(holdsB),
        TransactionalRef.transaction(a, () =>
          Effect.gen(function*() {
            yield* Effect.addFinalizer(() =>
              Effect.zipRight(Deferred.succeed(isEnding, undefined), Effect.repeatN(Effect.yieldNow(), 50))
            )
            // The child waits for b when this transaction ends.
            yield* Effect.forkDaemon(TransactionalRef.update(b, (n) => n + 1))
            yield* Effect.repeatN(Effect.yieldNow(), 5)
          }))
      ))
      yield* TransactionalRef.transaction(b, () =>
        Effect.gen(function*() {
          yield* Deferred.succeed(holdsB, undefined)
          yield* Deferred.await(isEnding)
          yield* TransactionalRef.update(a, (n) => n + 1)
        }))
      yield* Fiber.join(first)
      assert.strictEqual(yield* TransactionalRef.get(a), 1)
    }))

  it.effect("T5: form a circle even if one of them holds no ref, but has a place in a queue before another", () =>
    Effect.gen(function*() {
      const x = yield* TransactionalRef.make(0, { name: "x" })
      const y = yield* TransactionalRef.make(0, { name: "y" })
      const cue = yield* Deferred.make<void>()
      const pause = Effect.repeatN(Effect.yieldNow(), 10)
      const holder = yield* Effect.fork(TransactionalRef.transaction(x, () => Deferred.await(cue)))
      yield* pause
      const outer = yield* Effect.fork(TransactionalRef.transaction([], () =>
        Effect.all([
          TransactionalRef.set(x, 1),
          Effect.zipRight(Effect.repeatN(Effect.yieldNow(), 40), TransactionalRef.set(y, 1))
        ], {
          concurrency: "unbounded"
        })))
      yield* pause
      const other = yield* Effect.fork(TransactionalRef.transaction(y, () => TransactionalRef.set(x, 2)))
      yield* Effect.repeatN(Effect.yieldNow(), 100)
      yield* Deferred.succeed(cue, undefined)
      assert.deepStrictEqual(
        failureOf(yield* Fiber.await(outer)),
        new TransactionalRef.TransactionDeadlock({ cycle: ["y", "x"] })
      )
      for (const fiber of [holder, other]) yield* Fiber.join(fiber)
      assert.deepStrictEqual(yield* TransactionalRef.snapshot([x, y]), [2, 0])
      yield* untouched(x, y)
    }))

  it.effect("T5: form no circle if two fibers of one transaction wait for the same ref", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(0)
      const cue = yield* Deferred.make<void>()
      const increment = TransactionalRef.update(ref, (n) => n + 1)
      const holder = yield* Effect.fork(TransactionalRef.transaction(ref, () => Deferred.await(cue)))
      yield* Effect.yieldNow()
      const waiting = yield* Effect.fork(
        TransactionalRef.transaction([], () => Effect.all([increment, increment], { concurrency: "unbounded" }))
      )
      yield* Effect.repeatN(Effect.yieldNow(), 10)
      assert.strictEqual((yield* TransactionalRef.inspect(ref)).waiters, 1)
      yield* Deferred.succeed(cue, undefined)
      yield* Fiber.join(holder)
      yield* Fiber.join(waiting)
      assert.strictEqual(yield* TransactionalRef.get(ref), 2)
      yield* untouched(ref)
    }))

  it.effect("T5: form no circle through a transaction that has a later place in a queue", () =>
    Effect.gen(function*() {
      const [a, b, t] = [
        yield* TransactionalRef.make(0, { name: "a" }),
        yield* TransactionalRef.make(0, { name: "b" }),
        yield* TransactionalRef.make(0, { name: "t" })
      ]
      const cue = yield* Deferred.make<void>()
      const pause = Effect.repeatN(Effect.yieldNow(), 20)
      const increment = (ref: TransactionalRef.TransactionalRef<number>) => TransactionalRef.update(ref, (n) => n + 1)
      const begin = <A, E>(effect: Effect.Effect<A, E>) => Effect.zipLeft(Effect.fork(effect), pause)
      const goOn = yield* Deferred.make<void>()
      const fibers: ReadonlyArray<Fiber.Fiber<unknown, TransactionalRef.TransactionError>> = [
        yield* begin(TransactionalRef.transaction(t, () => Deferred.await(cue))),
        yield* begin(TransactionalRef.transaction(a, () => Effect.zipRight(Deferred.await(goOn), increment(b)))),
        yield* begin(TransactionalRef.transaction(b, () => increment(t))),
        // The last transaction waits for t, behind the one before, and for a.
        yield* begin(
          TransactionalRef.transaction([], () => Effect.all([increment(t), increment(a)], { concurrency: "unbounded" }))
        )
      ]
      yield* Deferred.succeed(goOn, undefined)
      yield* pause
      yield* Deferred.succeed(cue, undefined)
      for (const fiber of fibers) yield* Fiber.join(fiber)
      assert.deepStrictEqual(yield* TransactionalRef.snapshot([a, b, t]), [1, 1, 2])
    }))

  const awaiting: Record<
    string,
    (child: Effect.Effect<void, TransactionalRef.TransactionError>) => Effect.Effect<unknown, never, Scope.Scope>
  > = {
    "a fiber in its scope": (child) => Effect.forkScoped(Effect.uninterruptible(child)),
    "a fiber that a finalizer waits for": (child) =>
      Effect.flatMap(Effect.forkDaemon(child), (fiber) => Effect.addFinalizer(() => Fiber.await(fiber)))
  }
  for (const [who, fork] of Object.entries(awaiting)) {
    it.effect(`T5: form no circle with an ending transaction: ${who} fails with a conflict`, () =>
      Effect.gen(function*() {
        const x = yield* TransactionalRef.make(0)
        const z = yield* TransactionalRef.make(0)
        const holdsZ = yield* Deferred.make<void>()
        const waits = Effect.repeatN(Effect.yieldNow(), 20)
        const ending = yield* Effect.fork(Effect.zipRight(
          Deferred.await(holdsZ),
          TransactionalRef.transaction(x, () => Effect.zipRight(fork(TransactionalRef.update(z, (n) => n + 1)), waits))
        ))
        yield* TransactionalRef.transaction(z, () =>
          Effect.zipRight(
            Effect.zipRight(Deferred.succeed(holdsZ, undefined), Effect.repeatN(Effect.yieldNow(), 200)),
            TransactionalRef.update(x, (n) => n + 1)
          ))
        yield* Fiber.join(ending)
        assert.deepStrictEqual(yield* TransactionalRef.snapshot([x, z]), [1, 0])
        yield* untouched(x, z)
      }))
  }

  it.live("T11: are searched for a circle in a time that grows only linearly with their number", () =>
    Effect.gen(function*() {
      // Each transaction holds a ref of its own, and asks for one that all share.
      const millisEach = (waiting: number) =>
        Effect.gen(function*() {
          const shared = yield* TransactionalRef.make(0)
          const one = Effect.flatMap(TransactionalRef.make(0), (own) =>
            TransactionalRef.transaction(own, () =>
              TransactionalRef.updateEffect(shared, (n) =>
                Effect.as(Effect.yieldNow(), n + 1))))
          const before = process.cpuUsage()
          yield* Effect.all(
            Array.from({ length: waiting }, () =>
              one),
            { concurrency: "unbounded", discard: true }
          )
          const { system, user } = process.cpuUsage(before)
          assert.strictEqual(yield* TransactionalRef.get(shared), waiting)
          return (system + user) / waiting
        })
      yield* millisEach(1_000)
      const few = Math.min(yield* millisEach(500), yield* millisEach(500))
      // There are sixteen times as many transactions. If each searched all that wait before it, each would take sixteen
      // times as long.
      const many = Math.min(yield* millisEach(8_000), yield* millisEach(8_000))
      assert.isBelow(many / few, 6)
    }))

  it.effect("T11: are each visited once by the search, however many ways lead to them", () =>
    Effect.gen(function*() {
      const increment = (ref: TransactionalRef.TransactionalRef<number>) => TransactionalRef.update(ref, (n) => n + 1)
      const cue = yield* Deferred.make<void>()
      let below: ReadonlyArray<TransactionalRef.TransactionalRef<number>> = []
      const fibers: Array<Fiber.Fiber<unknown, TransactionalRef.TransactionError>> = []
      const all: Array<TransactionalRef.TransactionalRef<number>> = []
      // Each of a pair waits for both of the pair below, so that two to the power of thirty paths lead down.
      for (let level = 0; level < 30; level++) {
        const pair = [yield* TransactionalRef.make(0), yield* TransactionalRef.make(0)]
        for (const own of pair) {
          const waits = level === 0
            ? Deferred.await(cue)
            : Effect.all(below.map(increment), { concurrency: "unbounded" })
          fibers.push(yield* Effect.fork(TransactionalRef.transaction(own, () => waits)))
          yield* Effect.repeatN(Effect.yieldNow(), 10)
        }
        all.push(...pair)
        below = pair
      }
      yield* Deferred.succeed(cue, undefined)
      for (const fiber of fibers) yield* Fiber.join(fiber)
      const values = yield* TransactionalRef.snapshot(all)
      assert.deepStrictEqual(values, all.map((_, place) => place < 58 ? 2 : 0))
    }))

  it.live("T5: may be thousands in a row", () =>
    Effect.gen(function*() {
      const refs = yield* Effect.replicateEffect(TransactionalRef.make(0), 3000)
      const cue = yield* Deferred.make<void>()
      // Each transaction holds one ref and waits for the ref before.
      const chain = yield* Effect.forEach(refs, (ref, place) =>
        Effect.zipLeft(
          Effect.fork(TransactionalRef.transaction(ref, () =>
            place === 0 ? Deferred.await(cue) : TransactionalRef.update(refs[place - 1]!, (n) => n + 1))),
          Effect.yieldNow()
        ))
      yield* Deferred.succeed(cue, undefined)
      for (const fiber of chain) yield* Fiber.join(fiber)
      const values = yield* TransactionalRef.snapshot(refs)
      assert.strictEqual(values.reduce((sum, n) => sum + n, 0), 2999)
    }))

  it.effect("T5: fail when the circle closes, and the outermost rolls back whatever its body makes of the error", () =>
    Effect.gen(function*() {
      const a = yield* TransactionalRef.make(0, { name: "a" })
      const b = yield* TransactionalRef.make(0, { name: "b" })
      const met = yield* Deferred.make<void>()
      const first = yield* Effect.fork(TransactionalRef.transaction(a, (draft) =>
        Effect.gen(function*() {
          yield* add(draft, 1)
          yield* Deferred.await(met)
          yield* TransactionalRef.update(b, (n) => n + 1)
        })))
      const second = TransactionalRef.transaction(b, (draft) =>
        Effect.gen(function*() {
          yield* add(draft, 10)
          yield* Deferred.succeed(met, undefined)
          yield* Effect.yieldNow()
          yield* Effect.yieldNow()
          return yield* Effect.either(TransactionalRef.update(a, (n) => n + 10))
        }))
      const deadlock = failureOf(yield* Effect.exit(second))
      assert.instanceOf(deadlock, TransactionalRef.TransactionDeadlock)
      assert.deepStrictEqual([...(deadlock as TransactionalRef.TransactionDeadlock).cycle].sort(), ["a", "b"])
      yield* Fiber.join(first)
      assert.deepStrictEqual(yield* TransactionalRef.snapshot([a, b]), [1, 1])
      yield* untouched(a, b)
    }))

  it.effect("T5: inside another one fail, too, and that one rolls back whatever its body makes of the error", () =>
    Effect.gen(function*() {
      const a = yield* TransactionalRef.make(0, { name: "a" })
      const b = yield* TransactionalRef.make(0, { name: "b" })
      const nested = (x: typeof a, y: typeof a) =>
        TransactionalRef.transaction(
          x,
          () =>
            Effect.zipRight(
              Effect.yieldNow(),
              TransactionalRef.transaction([], () => TransactionalRef.update(y, (n) => n + 1))
            )
        )
      const exits: Array<Exit.Exit<void, TransactionalRef.TransactionError>> = []
      const whole = yield* Effect.exit(
        TransactionalRef.transaction(
          [a, b],
          () =>
            Effect.forEach(
              [nested(a, b), nested(b, a)],
              (part) => Effect.map(Effect.exit(part), (exit) => exits.push(exit)),
              {
                concurrency: "unbounded"
              }
            )
        )
      )
      const errors = exits.map((exit) => failureOf(exit) as TransactionalRef.TransactionError)
      assert.deepStrictEqual(errors.map(({ _tag }) => _tag).sort(), ["TransactionConflict", "TransactionDeadlock"])
      const deadlock = errors.find((error) => error instanceof TransactionalRef.TransactionDeadlock)!
      assert.deepStrictEqual([deadlock._tag, [...deadlock.cycle].sort()], ["TransactionDeadlock", ["a", "b"]])
      assert.strictEqual(failureOf(whole), deadlock)
      assert.deepStrictEqual(yield* TransactionalRef.snapshot([a, b]), [0, 0])
      yield* untouched(a, b)
    }))

  it.effect("T5: succeed when the outermost is run again", () =>
    Effect.gen(function*() {
      const a = yield* TransactionalRef.make(0)
      const b = yield* TransactionalRef.make(0)
      const nested = (x: typeof a, y: typeof a) =>
        TransactionalRef.transaction(x, (draft) =>
          Effect.zipRight(
            add(draft, 1),
            Effect.zipRight(Effect.yieldNow(), TransactionalRef.update(y, (n) => n + 1))
          )).pipe(
            Effect.retry({ while: (error) => error._tag === "TransactionDeadlock" })
          )
      yield* Effect.all(Array.from({ length: 20 }, (_, n) => n % 2 === 0 ? nested(a, b) : nested(b, a)), {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(yield* TransactionalRef.snapshot([a, b]), [20, 20])
    }))
})

/**
 * Two transactions that wait for each other: `first` holds a and asks for b, `second` holds b and then asks for a,
 * which closes the circle. Gives the exits of both.
 */
const meeting = <A, E>(
  second: (
    b: Ref.Ref<number>,
    refs: {
      readonly a: TransactionalRef.TransactionalRef<number>
      readonly b: TransactionalRef.TransactionalRef<number>
    }
  ) => Effect.Effect<A, E, Scope.Scope>,
  wrap: <A, E>(effect: Effect.Effect<A, E>) => Effect.Effect<A, E> = (effect) => effect
) =>
  Effect.gen(function*() {
    const a = yield* TransactionalRef.make(0, { name: "a" })
    const b = yield* TransactionalRef.make(0, { name: "b" })
    const met = yield* Deferred.make<void>()
    const first = yield* Effect.fork(TransactionalRef.transaction(a, (draft) =>
      Effect.zipRight(
        add(draft, 1),
        Effect.zipRight(Deferred.await(met), TransactionalRef.update(b, (n) => n + 1))
      )))
    const exit = yield* Effect.exit(wrap(TransactionalRef.transaction(b, (draft) =>
      add(draft, 10).pipe(
        Effect.zipRight(Deferred.succeed(met, undefined)),
        Effect.zipRight(Effect.repeatN(Effect.yieldNow(), 10)),
        Effect.zipRight(second(draft, { a, b }))
      ))))
    yield* Fiber.join(first)
    assert.deepStrictEqual(yield* TransactionalRef.snapshot([a, b]), [1, 1])
    yield* untouched(a, b)
    return { exit, rollbacks: (yield* TransactionalRef.inspect(b)).rollbacks }
  })

const isDeadlock = (exit: Exit.Exit<unknown, unknown>) =>
  assert.deepStrictEqual(exit, Exit.fail(new TransactionalRef.TransactionDeadlock({ cycle: ["a", "b"] })))

describe("T10: a transaction that a deadlock has ended", () => {
  const addTo = (ref: TransactionalRef.TransactionalRef<number>) => TransactionalRef.update(ref, (n) => n + 10)

  it.effect("releases its turns immediately: others go on while its body still runs", () =>
    Effect.gen(function*() {
      const { exit, rollbacks } = yield* meeting((_, { a, b }) =>
        Effect.gen(function*() {
          yield* Effect.either(addTo(a))
          const inspection = yield* TransactionalRef.inspect(b)
          assert.isTrue(Option.isSome(inspection.holder))
          yield* Effect.repeatN(Effect.yieldNow(), 50)
          assert.deepStrictEqual(yield* TransactionalRef.snapshot([a, b]), [1, 1])
          yield* untouched(a, b)
        })
      )
      isDeadlock(exit)
      assert.strictEqual(rollbacks, 1)
    }))

  it.effect("refuses all further changes of its body, and shows the committed values", () =>
    Effect.gen(function*() {
      const other = yield* TransactionalRef.make(0, { name: "other" })
      const { exit } = yield* meeting((draft, { a, b }) =>
        Effect.gen(function*() {
          yield* Effect.either(addTo(a))
          const ways = [
            TransactionalRef.update(other, (n) => n + 1),
            TransactionalRef.set(b, 1),
            TransactionalRef.modify(a, (n) => [n, n]),
            TransactionalRef.updateEffect(other, Effect.succeed),
            TransactionalRef.transaction(b, () => Effect.void),
            TransactionalRef.transaction([other, a], () => Effect.void),
            TransactionalRef.transaction([], () => Effect.void)
          ]
          for (const way of ways) {
            const conflict = failureOf(
              yield* Effect.exit(way as Effect.Effect<unknown, TransactionalRef.TransactionError>)
            )
            assert.instanceOf(conflict, TransactionalRef.TransactionConflict)
          }
          for (const way of [Ref.get(draft), Ref.set(draft, 5), add(draft, 1)]) {
            const exit = yield* Effect.exit(way as Effect.Effect<unknown>)
            assert.deepStrictEqual(exit, Exit.die(new TransactionalRef.TransactionConflict({ name: "b" })))
          }
          assert.strictEqual(yield* TransactionalRef.get(b), 0)
          assert.deepStrictEqual(yield* TransactionalRef.snapshot([a, b, other]), [0, 0, 0])
        })
      )
      isDeadlock(exit)
      assert.strictEqual((yield* TransactionalRef.inspect(other)).commits, 0)
    }))

  it.effect("is also over for its inner transactions and their drafts", () =>
    Effect.gen(function*() {
      const { exit } = yield* meeting((_, { a, b }) =>
        TransactionalRef.transaction(b, (inner) =>
          Effect.gen(function*() {
            yield* add(inner, 5)
            yield* Effect.either(addTo(a))
            assert.strictEqual(yield* TransactionalRef.get(b), 0)
            const exits = [
              yield* Effect.exit(Ref.get(inner)),
              yield* Effect.exit(Effect.orDie(TransactionalRef.update(b, (n) => n)))
            ]
            const conflict = Exit.die(new TransactionalRef.TransactionConflict({ name: "b" }))
            assert.deepStrictEqual(exits as ReadonlyArray<unknown>, [conflict, conflict])
          }))
      )
      isDeadlock(exit)
    }))

  it.effect("makes all waiting transactions inside it fail, at any depth", () =>
    Effect.gen(function*() {
      const free = yield* TransactionalRef.make(0, { name: "free" })
      const { exit } = yield* meeting((_, { a }) =>
        TransactionalRef.transaction(free, () =>
          Effect.gen(function*() {
            const cue = yield* Deferred.make<void>()
            yield* Effect.fork(TransactionalRef.transaction(free, () => Deferred.await(cue)))
            yield* Effect.yieldNow()
            const waiting = yield* Effect.fork(addTo(free))
            yield* Effect.repeatN(Effect.yieldNow(), 5)
            yield* Effect.either(addTo(a))
            // The transaction ahead in the queue does not end by itself.
            const conflict = failureOf(yield* Fiber.await(waiting))
            assert.deepStrictEqual(conflict, new TransactionalRef.TransactionConflict({ name: "free" }))
            yield* Deferred.succeed(cue, undefined)
          }))
      )
      isDeadlock(exit)
      yield* untouched(free)
    }))

  it.effect("runs its finalizers at its end, with the failed exit, after other transactions have had their turn", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const { exit } = yield* meeting((_, { a, b }) =>
        Effect.gen(function*() {
          yield* Effect.addFinalizer((exit) =>
            Effect.flatMap(TransactionalRef.snapshot([a, b]), (values) =>
              Effect.sync(() => {
                isDeadlock(exit)
                log.push(`finalized over ${values.join()}`)
              }))
          )
          yield* Effect.either(addTo(a))
          yield* Effect.repeatN(Effect.yieldNow(), 50)
          log.push("the body ends")
        })
      )
      isDeadlock(exit)
      assert.deepStrictEqual(log, ["the body ends", "finalized over 1,1"])
    }))

  const mades: Record<string, (asked: Effect.Effect<void, unknown>) => Effect.Effect<unknown, unknown>> = {
    "a success": Effect.ignore,
    "another error": (asked) => Effect.catchAll(asked, () => Effect.fail("of its own")),
    "a defect that carries the error": Effect.orDie,
    "an interruption": (asked) => Effect.catchAll(asked, () => Effect.interrupt),
    "the end of a race": (asked) =>
      Effect.race(asked, Effect.zipRight(Effect.repeatN(Effect.yieldNow(), 20), Effect.void)),
    "a failure beside others that are interrupted": (asked) =>
      Effect.all([asked, Effect.never], { concurrency: "unbounded" })
  }
  for (const [what, made] of Object.entries(mades)) {
    it.effect(`fails with the deadlock though its body has turned the error into ${what}`, () =>
      Effect.map(meeting((_, { a }) => made(addTo(a))), ({ exit }) => isDeadlock(exit)))
  }

  it.effect("keeps other defects of its body together with the deadlock", () =>
    Effect.gen(function*() {
      const { exit } = yield* meeting((_, { a }) => Effect.catchAll(addTo(a), () => Effect.die("broken")))
      const deadlock = new TransactionalRef.TransactionDeadlock({ cycle: ["a", "b"] })
      assert.deepStrictEqual(exit, Exit.failCause(Cause.sequential(Cause.fail(deadlock), Cause.die("broken"))))
    }))

  it.live("ends a retry inside another transaction, which could never succeed", () =>
    Effect.gen(function*() {
      const { exit } = yield* meeting((_, { a }) =>
        Effect.retry(addTo(a), { while: (error) => error._tag === "TransactionDeadlock" })
      )
      isDeadlock(exit)
    }))
})

describe("T10: retryDeadlock", () => {
  it.live("tries again after the errors of another copy of the module, and not after others with the same tag", () =>
    Effect.gen(function*() {
      const other: typeof TransactionalRef = yield* Effect.promise(() =>
        import(/* @vite-ignore */ "../src/TransactionalRef.ts?another-copy" as string)
      )
      assert.notStrictEqual(other.TransactionDeadlock, TransactionalRef.TransactionDeadlock)
      let runs = 0
      const refused = Effect.suspend(() =>
        ++runs < 3 ? Effect.fail(new other.TransactionDeadlock({ cycle: [] })) : Effect.succeed(runs)
      )
      assert.strictEqual(yield* TransactionalRef.retryDeadlock(refused), 3)
      class TransactionConflict extends Data.TaggedError("TransactionConflict")<{ readonly payment: string }> {}
      const own = new TransactionConflict({ payment: "p-1" })
      assert.strictEqual(yield* Effect.flip(TransactionalRef.retryDeadlock(Effect.fail(own))), own)
    }))

  /** Two transactions that always deadlock in the first attempt: each waits until the other holds its ref. */
  const pairThatMeets = (
    wrap: <E, A>(effect: Effect.Effect<A, E>) => Effect.Effect<A, unknown>,
    wrapInner: <E, A>(effect: Effect.Effect<A, E>) => Effect.Effect<A, unknown> = (effect) => effect
  ) =>
    Effect.gen(function*() {
      const refs = [yield* TransactionalRef.make(0), yield* TransactionalRef.make(0)] as const
      const held = [yield* Deferred.make<void>(), yield* Deferred.make<void>()] as const
      let runs = 0
      const one = (own: 0 | 1, other: 0 | 1) =>
        wrap(TransactionalRef.transaction(refs[own], (draft) =>
          Effect.gen(function*() {
            runs++
            yield* add(draft, 1)
            yield* Deferred.succeed(held[own], undefined)
            yield* Deferred.await(held[other])
            yield* wrapInner(TransactionalRef.update(refs[other], (n) => n + 1))
          })))
      const exits = yield* Effect.all([Effect.exit(one(0, 1)), Effect.exit(one(1, 0))], { concurrency: "unbounded" })
      const values = yield* TransactionalRef.snapshot(refs)
      yield* untouched(...refs)
      return { exits, runs, values }
    })

  it.live("runs the outermost transaction again until it succeeds", () =>
    Effect.gen(function*() {
      const { exits, runs, values } = yield* pairThatMeets(TransactionalRef.retryDeadlock)
      assert.deepStrictEqual([exits.map(Exit.isSuccess), [...values]], [[true, true], [2, 2]])
      assert.isAtLeast(runs, 3)
    }))

  it.live("inside another transaction lets the error pass every recovery, up to the outermost's own", () =>
    Effect.gen(function*() {
      const { exits, runs, values } = yield* pairThatMeets(TransactionalRef.retryDeadlock, (inner) =>
        inner.pipe(
          TransactionalRef.retryDeadlock,
          Effect.retry({ times: 1_000 }),
          Effect.either,
          Effect.orElse(() => Effect.void),
          Effect.catchAll(() => Effect.void),
          Effect.as(undefined as never)
        ))
      assert.deepStrictEqual([exits.map(Exit.isSuccess), [...values]], [[true, true], [2, 2]])
      // No `Effect.retry` has run anything a thousand times.
      assert.isBelow(runs, 20)
    }))

  it.effect("inside another transaction makes the error a defect, and the outermost fails with the error", () =>
    Effect.gen(function*() {
      const inside: Array<Exit.Exit<unknown, unknown>> = []
      const { exit } = yield* meeting((_, { a }) =>
        Effect.map(
          Effect.exit(TransactionalRef.retryDeadlock(TransactionalRef.update(a, (n) => n))),
          (exit) => inside.push(exit)
        )
      )
      isDeadlock(exit)
      assert.deepStrictEqual(inside, [Exit.die(new TransactionalRef.TransactionDeadlock({ cycle: ["a", "b"] }))])
      const { exit: unrecovered } = yield* meeting((_, { a }) =>
        TransactionalRef.retryDeadlock(TransactionalRef.update(a, (n) => n))
      )
      isDeadlock(unrecovered)
    }))

  it.live("nested in another module's transaction never livelocks", () =>
    Effect.gen(function*() {
      const order = yield* TransactionalRef.make(0)
      const [from, to] = [yield* TransactionalRef.make(100), yield* TransactionalRef.make(0)]
      const transfer = TransactionalRef.transaction({ from, to }, (drafts) =>
        Effect.zipRight(add(drafts.from, -1), add(drafts.to, 1))).pipe(TransactionalRef.retryDeadlock)
      const place = TransactionalRef.transaction(order, (draft) =>
        Effect.zipRight(add(draft, 1), Effect.zipRight(Effect.yieldNow(), transfer))).pipe(
          TransactionalRef.retryDeadlock
        )
      const close = TransactionalRef.transaction(from, () =>
        Effect.zipRight(
          Effect.yieldNow(),
          TransactionalRef.update(order, (n) =>
            n + 1)
        )).pipe(TransactionalRef.retryDeadlock)
      yield* Effect.all(
        Array.from({ length: 40 }, (_, n) =>
          n % 2 === 0 ? place : close),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(yield* TransactionalRef.snapshot([order, from, to]), [40, 80, 20])
      yield* untouched(order, from, to)
    }))

  it.effect("pauses for a random part of a time that doubles, like Backoff", () =>
    Effect.gen(function*() {
      let runs = 0
      const deadlock = new TransactionalRef.TransactionDeadlock({ cycle: ["a"] })
      const failing = Effect.suspend(() => ++runs <= 4 ? Effect.fail(deadlock) : Effect.succeed("done"))
      const fiber = yield* Effect.fork(
        TransactionalRef.retryDeadlock(failing).pipe(Effect.withRandom(Random.fixed([0.999, 0.999, 0.999, 0.999])))
      )
      const seen: Array<number> = []
      for (const millis of [0, 1, 2, 4, 8]) {
        yield* TestClock.adjust(millis)
        seen.push(runs)
      }
      assert.deepStrictEqual(seen, [1, 2, 3, 4, 5])
      assert.strictEqual(yield* Fiber.join(fiber), "done")
    }))

  it.effect("also retries a conflict, but no other errors, defects or interruption", () =>
    Effect.gen(function*() {
      const conflict = new TransactionalRef.TransactionConflict({ name: "a" })
      let runs = 0
      const exits = [
        Effect.fail("no"),
        Effect.die("broken"),
        Effect.interrupt,
        Effect.failCause(Cause.sequential(Cause.fail(conflict), Cause.die("of a finalizer")))
      ].map((end: Effect.Effect<never, unknown>) =>
        Effect.exit(TransactionalRef.retryDeadlock(Effect.suspend(() => {
          runs++
          return end
        })))
      )
      const [failed, died, interrupted, finalized] = yield* Effect.all(exits)
      assert.deepStrictEqual(failed, Exit.fail("no"))
      assert.deepStrictEqual(died, Exit.die("broken"))
      assert.isTrue(Exit.isInterrupted(interrupted!))
      assert.deepStrictEqual(finalized, Exit.die("of a finalizer"))
      assert.strictEqual(runs, 4)
      const once = Effect.suspend(() => runs++ === 4 ? Effect.fail(conflict) : Effect.succeed("again"))
      const fiber = yield* Effect.fork(TransactionalRef.retryDeadlock(once))
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(yield* Fiber.join(fiber), "again")
    }))

  it.effect("in a finalizer counts as inside the transaction, and does not retry", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(0, { name: "a" })
      const exits: Array<Exit.Exit<unknown, unknown>> = []
      yield* TransactionalRef.transaction(ref, () =>
        Effect.addFinalizer(() =>
          TransactionalRef.update(ref, (n) =>
            n + 1).pipe(
              TransactionalRef.retryDeadlock,
              Effect.exit,
              Effect.map((exit) => exits.push(exit))
            )
        ))
      assert.deepStrictEqual(exits, [Exit.die(new TransactionalRef.TransactionConflict({ name: "a" }))])
      yield* untouched(ref)
    }))

  /** Runs an update inside a transaction that a deadlock ends. The update dies of a defect that remains. */
  const leftOver = (inside: (update: Effect.Effect<void>) => Effect.Effect<unknown>) =>
    meeting((_, { a }) => inside(Effect.orDie(TransactionalRef.retryDeadlock(TransactionalRef.update(a, (n) => n)))))

  it.live("does not retry after another transaction's defect: of a memoized effect, of a fiber joined late", () =>
    Effect.gen(function*() {
      let run: Effect.Effect<void> = Effect.void
      const memoized = yield* Effect.cached(Effect.suspend(() => run))
      yield* leftOver((update) => {
        run = update
        return memoized
      })
      const fibers: Array<Fiber.Fiber<void>> = []
      yield* leftOver((update) =>
        Effect.tap(Effect.fork(update), (fiber) => {
          fibers.push(fiber)
          return Fiber.await(fiber)
        })
      )
      const ref = yield* TransactionalRef.make(0)
      for (const left of [memoized, Fiber.join(fibers[0]!)]) {
        let runs = 0
        const healthy = TransactionalRef.transaction(ref, () => {
          runs++
          return left
        })
        const defect = Exit.die(new TransactionalRef.TransactionDeadlock({ cycle: ["a", "b"] }))
        assert.deepStrictEqual(yield* Effect.exit(healthy), defect)
        assert.deepStrictEqual(yield* Effect.exit(TransactionalRef.retryDeadlock(healthy)), defect)
        assert.strictEqual(runs, 2)
      }
      yield* untouched(ref)
    }))

  it.live("retries a daemon's transaction if the enclosing one has ended before it", () =>
    Effect.gen(function*() {
      const a = yield* TransactionalRef.make(0)
      const b = yield* TransactionalRef.make(0)
      const begun = yield* Deferred.make<void>()
      const cue = yield* Deferred.make<void>()
      const increment = TransactionalRef.transaction(
        b,
        (draft) =>
          add(draft, 1).pipe(Effect.zipRight(Deferred.succeed(begun, undefined)), Effect.zipRight(Deferred.await(cue)))
      )
      const daemon = yield* TransactionalRef.transaction(
        a,
        () => Effect.zipLeft(Effect.forkDaemon(TransactionalRef.retryDeadlock(increment)), Deferred.await(begun))
      )
      yield* Deferred.succeed(cue, undefined)
      yield* Fiber.join(daemon)
      assert.strictEqual(yield* TransactionalRef.get(b), 1)
      yield* untouched(a, b)
    }))

  it.effect("does not retry after the defect of a finalizer, which does not come from a deadlock", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(0, { name: "a" })
      let runs = 0
      const exit = yield* TransactionalRef.transaction(ref, (draft) => {
        runs++
        const finalizer = TransactionalRef.retryDeadlock(TransactionalRef.update(ref, (n) => n + 1))
        return Effect.zipRight(Effect.addFinalizer(() => finalizer), add(draft, 1))
      }).pipe(TransactionalRef.retryDeadlock, Effect.exit)
      assert.deepStrictEqual(exit, Exit.die(new TransactionalRef.TransactionConflict({ name: "a" })))
      assert.deepStrictEqual([runs, yield* TransactionalRef.get(ref)], [1, 1])
    }))

  it.effect("inside another transaction keeps the defects together with the error", () =>
    Effect.gen(function*() {
      const conflict = new TransactionalRef.TransactionConflict({ name: "a" })
      const failing = Effect.failCause(Cause.parallel(Cause.fail(conflict), Cause.die("broken")))
      const exit = yield* Effect.exit(TransactionalRef.transaction([], () => TransactionalRef.retryDeadlock(failing)))
      assert.deepStrictEqual(exit, Exit.die("broken"))
    }))

  it.effect("inside another transaction turns a part's conflict into one of the whole, unless recovered", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(0, { name: "a" })
      const whole = TransactionalRef.transaction(ref, () =>
        Effect.gen(function*() {
          const cue = yield* Deferred.make<void>()
          const begun = yield* Deferred.make<void>()
          const late = yield* TransactionalRef.transaction([], () =>
            Effect.zipLeft(
              Effect.forkDaemon(
                TransactionalRef.retryDeadlock(
                  TransactionalRef.transaction(
                    [],
                    () => Effect.zipRight(Deferred.succeed(begun, undefined), Deferred.await(cue))
                  )
                )
              ),
              Deferred.await(begun)
            ))
          yield* Deferred.succeed(cue, undefined)
          yield* Fiber.join(late)
        }))
      assert.deepStrictEqual(
        yield* Effect.exit(whole),
        Exit.fail(new TransactionalRef.TransactionConflict({ name: "" }))
      )
    }))
})

describe("a transaction that waits inside another", () => {
  it.effect("T2: and is interrupted, leaves no place of the outer one in a queue", () =>
    Effect.gen(function*() {
      const a = yield* TransactionalRef.make(0)
      const b = yield* TransactionalRef.make(0)
      const cue = yield* Deferred.make<void>()
      const holder = yield* Effect.fork(TransactionalRef.transaction(b, () => Deferred.await(cue)))
      yield* Effect.yieldNow()
      yield* TransactionalRef.transaction(a, () =>
        Effect.gen(function*() {
          const waiting = yield* Effect.fork(TransactionalRef.set(b, 1))
          yield* Effect.repeatN(Effect.yieldNow(), 10)
          assert.strictEqual((yield* TransactionalRef.inspect(b)).waiters, 1)
          yield* Fiber.interrupt(waiting)
          assert.strictEqual((yield* TransactionalRef.inspect(b)).waiters, 0)
          yield* Deferred.succeed(cue, undefined)
          yield* Fiber.join(holder)
          yield* untouched(b)
        }))
    }))

  it.effect("T4: for one that does not end, fails when the outer one has ended", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(0, { name: "a" })
      const pause = Effect.repeatN(Effect.yieldNow(), 10)
      const [holding, waiting] = yield* TransactionalRef.transaction(ref, () =>
        Effect.zipLeft(
          Effect.all([
            Effect.zipLeft(Effect.forkDaemon(TransactionalRef.transaction(ref, () => Effect.never)), pause),
            Effect.zipLeft(Effect.forkDaemon(TransactionalRef.set(ref, 1)), pause)
          ]),
          pause
        ))
      const conflict = failureOf(yield* Fiber.await(waiting)) as TransactionalRef.TransactionConflict
      assert.deepStrictEqual([conflict._tag, conflict.name], ["TransactionConflict", "a"])
      yield* Fiber.interrupt(holding)
      assert.strictEqual(yield* TransactionalRef.get(ref), 0)
      yield* untouched(ref)
    }))

  it.effect("T4: and gets its turn while the outer one ends, fails", () =>
    Effect.gen(function*() {
      const a = yield* TransactionalRef.make(0, { name: "a" })
      const b = yield* TransactionalRef.make(0, { name: "b" })
      const held = yield* Deferred.make<void>()
      const both = Effect.zipRight(Deferred.await(held), TransactionalRef.transaction([a, b], () => Effect.void))
      const waiting = yield* TransactionalRef.transaction([], () =>
        Effect.zipLeft(
          Effect.forkDaemon(both),
          TransactionalRef.transaction(
            a,
            () => Effect.zipRight(Deferred.succeed(held, undefined), Effect.repeatN(Effect.yieldNow(), 20))
          )
        ))
      const conflict = failureOf(yield* Fiber.await(waiting)) as TransactionalRef.TransactionConflict
      assert.deepStrictEqual([conflict._tag, conflict.name], ["TransactionConflict", "a"])
      yield* untouched(a, b)
    }))
})

describe("T6: an invariant", () => {
  it.effect("that does not hold at the end fails with InvariantViolated, and all refs are unchanged", () =>
    Effect.gen(function*() {
      const a = yield* TransactionalRef.make(5, { name: "balance", invariant: (n) => n >= 0 })
      const b = yield* TransactionalRef.make(0)
      const transfer = (n: number) =>
        TransactionalRef.transaction({ a, b }, (drafts) => Effect.zipRight(add(drafts.b, n), add(drafts.a, -n)))
      const violation = failureOf(yield* Effect.exit(transfer(6)))
      assert.deepStrictEqual([violation._tag, violation.message], [
        "InvariantViolated",
        "the transaction would violate the invariant of balance"
      ])
      assert.deepStrictEqual(yield* TransactionalRef.snapshot([a, b]), [5, 0])
      assert.strictEqual(failureOf(yield* Effect.exit(TransactionalRef.set(a, -1)))._tag, "InvariantViolated")
      // In between, the invariant need not hold.
      yield* TransactionalRef.transaction(a, (draft) => Effect.zipRight(Ref.set(draft, -1), Ref.set(draft, 1)))
      assert.strictEqual(yield* TransactionalRef.get(a), 1)
    }))

  it.effect("that throws is a defect, and all refs are unchanged", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(1, {
        invariant: () => {
          throw new Error("thrown")
        }
      })
      const ways = [TransactionalRef.set(ref, 2), TransactionalRef.transaction(ref, (draft) => Ref.set(draft, 2))]
      for (const way of ways) {
        const exit = yield* Effect.exit(way)
        assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
        assert.strictEqual(yield* TransactionalRef.get(ref), 1)
        yield* untouched(ref)
      }
    }))
})

describe("T12: an invariant of a ref that only an inner transaction names", () => {
  const positive = (n: number) => n >= 0
  const broken = (): boolean => {
    throw new Error("thrown")
  }

  it.effect("is checked at the end of the inner transaction, which fails as a savepoint", () =>
    Effect.gen(function*() {
      const a = yield* TransactionalRef.make(1, { name: "a" })
      const b = yield* TransactionalRef.make(1, { name: "b", invariant: positive })
      const error = yield* TransactionalRef.transaction(a, (draft) =>
        Effect.gen(function*() {
          yield* add(draft, 1)
          const error = yield* Effect.flip(TransactionalRef.update(b, () => -1))
          assert.strictEqual(yield* TransactionalRef.get(b), 1)
          yield* TransactionalRef.update(b, () => 5)
          return error
        }))
      assert.deepStrictEqual(error, new TransactionalRef.InvariantViolated({ name: "b" }))
      assert.deepStrictEqual(yield* TransactionalRef.snapshot([a, b]), [2, 5])
    }))

  it.effect("is checked at the end of the outermost transaction that names the ref: in between it need not hold", () =>
    Effect.gen(function*() {
      const [a, b, c] = [
        yield* TransactionalRef.make(1, { name: "a", invariant: positive }),
        yield* TransactionalRef.make(1, { name: "b", invariant: positive }),
        yield* TransactionalRef.make(1, { name: "c" })
      ]
      yield* TransactionalRef.transaction([c, a], () =>
        Effect.gen(function*() {
          yield* TransactionalRef.transaction(b, () =>
            Effect.gen(function*() {
              yield* TransactionalRef.transaction([a, b], ([x, y]) => Effect.zipRight(Ref.set(x, -1), Ref.set(y, -1)))
              yield* TransactionalRef.update(b, () => 2)
            }))
          yield* TransactionalRef.update(a, () => 3)
        }))
      assert.deepStrictEqual(yield* TransactionalRef.snapshot([a, b, c]), [3, 2, 1])
      const whole = TransactionalRef.transaction([c, a], () => TransactionalRef.set(a, -1))
      assert.deepStrictEqual(
        yield* Effect.exit(whole),
        Exit.fail(new TransactionalRef.InvariantViolated({ name: "a" }))
      )
      assert.deepStrictEqual(yield* TransactionalRef.snapshot([a, b, c]), [3, 2, 1])
    }))

  it.effect("that throws is a defect of the inner transaction, and undoes only that one", () =>
    Effect.gen(function*() {
      const a = yield* TransactionalRef.make(1)
      const b = yield* TransactionalRef.make(1, { invariant: broken })
      yield* TransactionalRef.transaction(a, (draft) =>
        Effect.gen(function*() {
          yield* add(draft, 1)
          const exit = yield* Effect.exit(TransactionalRef.set(b, 2))
          assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
        }))
      assert.deepStrictEqual(yield* TransactionalRef.snapshot([a, b]), [2, 1])
    }))
})

describe("T7: a finalizer that a body adds", () => {
  it.effect("runs at the outermost transaction's end with its exit, after the commit and before the next in turn", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const ref = yield* TransactionalRef.make(0)
      const noting = (name: string) =>
        Effect.addFinalizer((exit) =>
          Effect.flatMap(
            TransactionalRef.get(ref),
            (value) => Effect.sync(() => log.push(`${name} ${exit._tag} ${value}`))
          )
        )
      const whole = (end: Effect.Effect<void, string>) =>
        TransactionalRef.transaction(ref, (draft) =>
          Effect.gen(function*() {
            yield* noting("outer")
            yield* add(draft, 1)
            yield* Effect.ignore(
              TransactionalRef.transaction(ref, () => Effect.zipRight(noting("inner"), Effect.fail("no")))
            )
            log.push("body")
            yield* end
          }))
      const first = yield* Effect.fork(whole(Effect.yieldNow()))
      const second = yield* Effect.fork(TransactionalRef.transaction(ref, () => Effect.sync(() => log.push("next"))))
      yield* Fiber.join(first)
      yield* Fiber.join(second)
      assert.deepStrictEqual(log, ["body", "inner Success 1", "outer Success 1", "next"])
      log.length = 0
      yield* Effect.ignore(whole(Effect.fail("no")))
      assert.deepStrictEqual(log, ["body", "inner Failure 1", "outer Failure 1"])
    }))

  it.effect("may belong to a fiber: a fiber forked in the scope is interrupted at the end", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(1)
      const fiber = yield* TransactionalRef.transaction(ref, () => Effect.forkScoped(Effect.never))
      assert.isTrue(Exit.isInterrupted(yield* Fiber.await(fiber)))
      yield* untouched(ref)
    }))

  it.effect("cannot begin a transaction of its own: that is a conflict, not a deadlock", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(0)
      const seen = yield* Ref.make<unknown>(undefined)
      yield* TransactionalRef.transaction(
        ref,
        () =>
          Effect.addFinalizer(() =>
            Effect.flatMap(Effect.either(TransactionalRef.update(ref, (n) => n + 1)), (either) => Ref.set(seen, either))
          )
      )
      assert.match(String(yield* seen), /TransactionConflict/)
    }))

  it.effect("that dies is a defect of the transaction, whose changes stay committed; the turn is released", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(0)
      const exit = yield* Effect.exit(
        TransactionalRef.transaction(ref, (draft) =>
          Effect.zipRight(
            Effect.addFinalizer(() => Effect.die("broken")),
            add(draft, 1)
          ))
      )
      assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
      assert.strictEqual(yield* TransactionalRef.get(ref), 1)
      yield* untouched(ref)
    }))
})

describe("update, modify, set and updateEffect", () => {
  it.effect("change the ref, data first and data last", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(1)
      yield* TransactionalRef.update(ref, (n) => n + 1)
      yield* ref.pipe(TransactionalRef.update((n) => n + 1))
      assert.strictEqual(yield* TransactionalRef.modify(ref, (n) => [n * 10, n + 1]), 30)
      assert.strictEqual(yield* ref.pipe(TransactionalRef.modify((n) => [`${n}`, n + 1])), "4")
      yield* TransactionalRef.set(ref, 7)
      yield* ref.pipe(TransactionalRef.set(8))
      yield* TransactionalRef.updateEffect(ref, (n) => Effect.succeed(n + 1))
      yield* ref.pipe(
        TransactionalRef.updateEffect((n) => Effect.delay(Effect.succeed(n + 1), 0)),
        Effect.fork,
        Effect.tap(() => TestClock.adjust(1)),
        Effect.flatMap(Fiber.join)
      )
      yield* ref.pipe(TransactionalRef.transaction((draft) => add(draft, 1)))
      assert.strictEqual(yield* TransactionalRef.get(ref), 11)
      assert.strictEqual((yield* TransactionalRef.inspect(ref)).commits, 9)
      assert.isTrue(TransactionalRef.isTransactionalRef(ref))
    }))

  it.effect("die if their function throws, and change nothing", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(1)
      const exit = yield* Effect.exit(TransactionalRef.update(ref, () => {
        throw new Error("thrown")
      }))
      assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
      assert.strictEqual(yield* TransactionalRef.get(ref), 1)
    }))

  it.effect("wait for their turn behind a transaction", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(0)
      const holder = yield* Effect.fork(TransactionalRef.transaction(ref, (draft) =>
        Effect.flatMap(draft.get, (n) =>
          Effect.delay(Ref.set(draft, n + 1), 5))))
      yield* Effect.yieldNow()
      const update = yield* Effect.fork(TransactionalRef.update(ref, (n) =>
        n * 10))
      yield* TestClock.adjust(5)
      yield* Fiber.join(holder)
      yield* Fiber.join(update)
      assert.strictEqual(yield* TransactionalRef.get(ref), 10)
    }))
})

describe("inspect", () => {
  it.effect("shows which fiber holds the ref since when, and how many wait", () =>
    Effect.gen(function*() {
      yield* TestClock.adjust(1_000)
      const ref = yield* TransactionalRef.make(0, { name: "inspected" })
      const holder = yield* Effect.fork(TransactionalRef.transaction(ref, () => Effect.never))
      yield* Effect.yieldNow()
      const waiter = yield* Effect.fork(TransactionalRef.update(ref, (n) => n))
      yield* Effect.yieldNow()
      const inspection = yield* TransactionalRef.inspect(ref)
      assert.deepStrictEqual({ ...inspection, holder: Option.getOrThrow(inspection.holder) }, {
        name: "inspected",
        holder: { fiber: holder.id(), since: 1_000 },
        waiters: 1,
        commits: 0,
        rollbacks: 0
      })
      yield* Fiber.interrupt(holder)
      yield* Fiber.join(waiter)
    }))
})

describe("the types", () => {
  it("keep the names, places and values of the refs, and take the scope away", () => {
    void Effect.gen(function*() {
      const a = yield* TransactionalRef.make(1)
      const b = yield* TransactionalRef.make("b")
      expectTypeOf(yield* TransactionalRef.snapshot({ a, b })).toEqualTypeOf<
        { readonly a: number; readonly b: string }
      >()
      expectTypeOf(yield* TransactionalRef.snapshot([a, b])).toEqualTypeOf<readonly [number, string]>()
      yield* TransactionalRef.transaction([a, b], ([x, y]) => {
        expectTypeOf(x).toEqualTypeOf<Ref.Ref<number>>()
        expectTypeOf(y).toEqualTypeOf<Ref.Ref<string>>()
        return Effect.void
      })
      const scoped = TransactionalRef.transaction(a, () => Effect.zipRight(Effect.scope, Effect.fail("no" as const)))
      expectTypeOf(scoped).toEqualTypeOf<
        Effect.Effect<never, "no" | TransactionalRef.TransactionDeadlock | TransactionalRef.TransactionConflict>
      >()
      expectTypeOf<Effect.Effect.Context<typeof scoped>>().not.toEqualTypeOf<Scope.Scope>()
    })
  })
})

describe("T12: the error channel", () => {
  type Refusal = TransactionalRef.TransactionDeadlock | TransactionalRef.TransactionConflict
  type Violated = TransactionalRef.InvariantViolated
  type Free = TransactionalRef.TransactionalRef<number, never>
  type Bound = TransactionalRef.TransactionalRef<number>

  it("has only the errors that can happen, for each way to change a ref", () => {
    void Effect.gen(function*() {
      const free = yield* TransactionalRef.make(1, { name: "free" })
      const bound = yield* TransactionalRef.make(1, { invariant: (n) => n > 0 })
      expectTypeOf(free).toEqualTypeOf<Free>()
      expectTypeOf(yield* TransactionalRef.make(1)).toEqualTypeOf<Free>()
      expectTypeOf(yield* TransactionalRef.make(1, { invariant: undefined })).toEqualTypeOf<Free>()
      expectTypeOf(bound).toEqualTypeOf<Bound>()
      expectTypeOf(yield* TransactionalRef.make(1, {} as TransactionalRef.Options<number>)).toEqualTypeOf<Bound>()

      expectTypeOf(TransactionalRef.update(free, (n) => n)).toEqualTypeOf<Effect.Effect<void, Refusal>>()
      expectTypeOf(TransactionalRef.update(bound, (n) => n)).toEqualTypeOf<Effect.Effect<void, Violated | Refusal>>()
      expectTypeOf(free.pipe(TransactionalRef.update((n) => n))).toEqualTypeOf<Effect.Effect<void, Refusal>>()
      expectTypeOf(TransactionalRef.set(free, 1)).toEqualTypeOf<Effect.Effect<void, Refusal>>()
      expectTypeOf(bound.pipe(TransactionalRef.set(1))).toEqualTypeOf<Effect.Effect<void, Violated | Refusal>>()
      expectTypeOf(TransactionalRef.modify(free, (n) => ["", n])).toEqualTypeOf<Effect.Effect<string, Refusal>>()
      expectTypeOf(bound.pipe(TransactionalRef.modify((n) => ["", n])))
        .toEqualTypeOf<Effect.Effect<string, Violated | Refusal>>()
      expectTypeOf(TransactionalRef.updateEffect(free, () => Effect.fail("no" as const)))
        .toEqualTypeOf<Effect.Effect<void, "no" | Refusal>>()
      expectTypeOf(bound.pipe(TransactionalRef.updateEffect((n) => Effect.succeed(n))))
        .toEqualTypeOf<Effect.Effect<void, Violated | Refusal>>()
      expectTypeOf(TransactionalRef.transaction(free, () => Effect.void)).toEqualTypeOf<Effect.Effect<void, Refusal>>()
      expectTypeOf(bound.pipe(TransactionalRef.transaction((draft) => draft.get)))
        .toEqualTypeOf<Effect.Effect<number, Violated | Refusal>>()
    })
  })

  it("of a transaction has the invariant violations of all its refs", () => {
    const of = <E>(_: Effect.Effect<unknown, E>): E => undefined as E
    const check = (free: Free, bound: Bound, list: ReadonlyArray<Free>) => {
      const none = () => Effect.void
      expectTypeOf(of(TransactionalRef.transaction([free, free], none))).toEqualTypeOf<Refusal>()
      expectTypeOf(of(TransactionalRef.transaction([free, bound], none))).toEqualTypeOf<Violated | Refusal>()
      expectTypeOf(of(TransactionalRef.transaction({ free }, none))).toEqualTypeOf<Refusal>()
      expectTypeOf(of(TransactionalRef.transaction({ free, bound }, none))).toEqualTypeOf<Violated | Refusal>()
      expectTypeOf(of(TransactionalRef.transaction(list, none))).toEqualTypeOf<Refusal>()
      expectTypeOf(of(TransactionalRef.transaction([], none))).toEqualTypeOf<Refusal>()
      // A ref without an invariant can be used for one with an invariant.
      const annotated: TransactionalRef.TransactionalRef<number> = free
      expectTypeOf(of(TransactionalRef.set(annotated, 1))).toEqualTypeOf<Violated | Refusal>()
      // @ts-expect-error
      const promised: Free = bound
      return promised
    }
    void check
  })

  it("does not contain the errors that retryDeadlock handles", () => {
    const check = (bound: Bound, free: Free) => {
      expectTypeOf(TransactionalRef.set(free, 1).pipe(TransactionalRef.retryDeadlock)).toEqualTypeOf<
        Effect.Effect<void>
      >()
      expectTypeOf(
        TransactionalRef.retryDeadlock(TransactionalRef.updateEffect(bound, () => Effect.fail("no" as const)))
      )
        .toEqualTypeOf<Effect.Effect<void, "no" | Violated>>()
    }
    void check
  })

  it("and the type of the value do not depend on how the invariant is written", () => {
    void Effect.gen(function*() {
      const status = yield* TransactionalRef.make("open", { invariant: (status: string) => status !== "" })
      expectTypeOf(status).toEqualTypeOf<TransactionalRef.TransactionalRef<string>>()
      // @ts-expect-error: the value is a number, whatever the invariant would like
      yield* TransactionalRef.make(1, { invariant: (n: string) => n !== "" })
    })
  })
})

describe("metrics and spans for an operator", () => {
  const count = (name: string, ref?: string) =>
    Effect.map(
      Metric.snapshot,
      (pairs) =>
        pairs.flatMap(({ metricKey, metricState }) =>
          metricKey.name === `holdfast_transactional_ref_${name}_total` &&
            Array.from(metricKey.tags, ({ key, value }) => `${key}=${value}`).join() ===
              (ref === undefined ? "" : `ref=${ref}`)
            ? [(metricState as MetricState.MetricState.Counter<number>).count]
            : []
        )
    )

  it.effect("commits and rollbacks are counted, by the names of the refs", () =>
    Effect.gen(function*() {
      const a = yield* TransactionalRef.make(1, { name: "counted a", invariant: (n) => n > 0 })
      const b = yield* TransactionalRef.make(1, { name: "counted b" })
      yield* TransactionalRef.update(a, (n) => n + 1)
      yield* Effect.ignore(TransactionalRef.update(a, () => -1))
      yield* TransactionalRef.transaction({ a, b }, (drafts) => add(drafts.a, 1))
      yield* Effect.ignore(TransactionalRef.transaction({ a, b }, () => Effect.fail("no")))
      assert.deepStrictEqual(yield* count("commits", "counted a"), [2])
      assert.deepStrictEqual(yield* count("rollbacks", "counted a"), [2])
      assert.deepStrictEqual(yield* count("commits", "counted b"), [1])
      assert.deepStrictEqual(yield* count("rollbacks", "counted b"), [1])
    }))

  it.effect("refs without a name are counted together", () =>
    Effect.gen(function*() {
      const [before] = yield* count("commits")
      yield* TransactionalRef.update(yield* TransactionalRef.make(1), (n) => n + 1)
      yield* TransactionalRef.update(yield* TransactionalRef.make(1), (n) => n + 1)
      assert.deepStrictEqual(yield* count("commits"), [before! + 2])
    }))

  const tracing = Effect.sync(() => {
    const spans: Array<Tracer.Span> = []
    const tracer = Tracer.make({
      context: (f) => f(),
      span: (name, parent, context, links, startTime, kind) => {
        const attributes = new Map<string, unknown>()
        const span: Tracer.Span & { status: Tracer.SpanStatus } = {
          _tag: "Span",
          name,
          spanId: String(spans.length),
          traceId: "trace",
          parent,
          context,
          status: { _tag: "Started", startTime },
          attributes,
          links,
          sampled: true,
          kind,
          attribute: (key, value) => attributes.set(key, value),
          event: () => {},
          addLinks: () => {},
          end: (endTime, exit) => {
            span.status = { _tag: "Ended", startTime, endTime, exit }
          }
        }
        spans.push(span)
        return span
      }
    })
    return { spans, tracer }
  })

  it.effect("a transaction is a span of the application's tracer, and ends with the transaction", () =>
    Effect.gen(function*() {
      const { spans, tracer } = yield* tracing
      const a = yield* TransactionalRef.make(1, { name: "a", invariant: (n) => n > 0 })
      const b = yield* TransactionalRef.make(1, { name: "b" })
      yield* TransactionalRef.transaction({ a, b }, () => TransactionalRef.updateEffect(a, () => Effect.succeed(-1)))
        .pipe(
          Effect.ignore,
          Effect.withTracer(tracer)
        )
      const [outer, inner] = spans
      assert.deepStrictEqual(spans.map(({ name }) => name), [
        "TransactionalRef.transaction",
        "TransactionalRef.transaction"
      ])
      assert.deepStrictEqual(spans.map(({ attributes }) => attributes.get("refs")), ["a, b", "a"])
      assert.strictEqual(Option.getOrUndefined(inner!.parent), outer)
      assert.isTrue(inner!.status._tag === "Ended" && Exit.isSuccess(inner!.status.exit))
      assert.isTrue(outer!.status._tag === "Ended" && Exit.isFailure(outer!.status.exit))
    }))

  it.effect("there is no span if spans are turned off", () =>
    Effect.gen(function*() {
      const { spans, tracer } = yield* tracing
      const ref = yield* TransactionalRef.make(1)
      yield* TransactionalRef.updateEffect(ref, Effect.succeed).pipe(
        Effect.withTracerEnabled(false),
        Effect.withTracer(tracer)
      )
      assert.deepStrictEqual(spans, [])
    }))
})

describe("the FiberRefs of a fiber that runs a transaction", () => {
  const color = FiberRef.unsafeMake("none")

  for (const [name, end] of Object.entries({ success: Effect.void, ...ends })) {
    it.effect(`are kept after ${name} as the body has set them, except for the scope and the transaction`, () =>
      Effect.gen(function*() {
        const ref = yield* TransactionalRef.make(1)
        const fiber = Effect.gen(function*() {
          const before = yield* Effect.context<never>()
          yield* Effect.exit(TransactionalRef.transaction(ref, () => Effect.zipRight(FiberRef.set(color, "red"), end)))
          assert.strictEqual(yield* FiberRef.get(color), "red")
          assert.strictEqual(yield* Effect.context<never>(), before)
          // If the fiber were still inside the transaction, this update would not be committed.
          yield* TransactionalRef.update(ref, () => 7)
          assert.strictEqual((yield* TransactionalRef.inspect(ref)).commits, name === "success" ? 2 : 1)
        })
        // Runs in a separate fiber, since an interrupted fiber ends as soon as it can.
        yield* Effect.uninterruptible(Effect.fork(fiber)).pipe(Effect.flatMap(Fiber.join))
      }))
  }

  it.effect("have a fiber with each of their values", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(1)
      yield* TransactionalRef.transaction(ref, () =>
        Effect.withFiberRuntime<void>((fiber) => {
          for (const stack of fiber.getFiberRefs().locals.values()) {
            for (const entry of stack) assert.lengthOf(entry, 2)
          }
          return Effect.void
        }))
    }))

  it.effect("are inherited by a fiber inside, and the scope is the transaction's", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(1)
      const log: Array<string> = []
      yield* Effect.locally(
        TransactionalRef.transaction(ref, () =>
          Effect.all([
            Effect.flatMap(FiberRef.get(color), (value) => Effect.sync(() => log.push(value))),
            Effect.addFinalizer(() => Effect.sync(() => log.push("finalized")))
          ], { concurrency: "unbounded" })),
        color,
        "blue"
      )
      assert.deepStrictEqual(log, ["blue", "finalized"])
    }))

  it.effect("are restored in the fiber that goes on, even if a batch of requests has made it another fiber", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const doubled = RequestResolver.makeBatched((requests: ReadonlyArray<Double>) =>
        Effect.forEach(requests, (request) => Request.succeed(request, request.n * 2), { discard: true })
      )
      const one = (ref: TransactionalRef.TransactionalRef<number>, n: number) =>
        TransactionalRef.transaction(
          ref,
          (draft) => Effect.flatMap(Effect.request(new Double({ n }), doubled), (value) => Ref.set(draft, value))
        ).pipe(
          Effect.zipRight(Effect.addFinalizer(() => Effect.sync(() => log.push("finalized")))),
          // If the fiber were still inside the transaction, this update would be a conflict.
          Effect.zipRight(TransactionalRef.update(ref, (value) => value + 1)),
          Effect.zipRight(Effect.sync(() => log.push("done")))
        )
      const refs = [yield* TransactionalRef.make(0), yield* TransactionalRef.make(0)] as const
      yield* Effect.scoped(Effect.all([one(refs[0], 1), one(refs[1], 2)], { batching: true }))
      assert.deepStrictEqual(yield* TransactionalRef.snapshot(refs), [3, 5])
      assert.deepStrictEqual(log, ["done", "done", "finalized", "finalized"])
    }))
})

class Double extends Request.TaggedClass("Double")<number, never, { readonly n: number }> {}

describe("the messages of errors and defects", () => {
  it("names the refs", () => {
    assert.strictEqual(
      new TransactionalRef.InvariantViolated({ name: "a" }).message,
      "the transaction would violate the invariant of a"
    )
    assert.strictEqual(
      new TransactionalRef.TransactionDeadlock({ cycle: ["a", "b"] }).message,
      "transactions wait for each other: a, b"
    )
    assert.strictEqual(
      new TransactionalRef.TransactionConflict({ name: "a" }).message,
      "the transaction around the one on a has ended before it"
    )
  })

  it.effect("refs without a name are numbered", () =>
    Effect.gen(function*() {
      const { name } = yield* TransactionalRef.inspect(yield* TransactionalRef.make(1))
      const { name: next } = yield* TransactionalRef.inspect(yield* TransactionalRef.make(1))
      assert.match(name, /^ref \d+$/)
      assert.strictEqual(next, `ref ${Number(name.slice(4)) + 1}`)
    }))

  it.effect("an update names its ref too", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(1, { name: "positive", invariant: (n) => n > 0 })
      const error = yield* Effect.flip(TransactionalRef.update(ref, () => 0))
      assert.deepStrictEqual([error._tag, (error as TransactionalRef.InvariantViolated).name], [
        "InvariantViolated",
        "positive"
      ])
    }))

  it.effect("an update whose function throws counts as a rollback, like a transaction", () =>
    Effect.gen(function*() {
      const broken = (): number => {
        throw new Error("broken")
      }
      const ref = yield* TransactionalRef.make(1, { invariant: (n) => n > 1 || broken() > 0 })
      for (const f of [broken, () => 0]) {
        const exit = yield* Effect.exit(TransactionalRef.update(ref, f))
        assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
      }
      assert.strictEqual((yield* TransactionalRef.inspect(ref)).rollbacks, 2)
      assert.strictEqual(yield* TransactionalRef.get(ref), 1)
    }))

  it.effect("a draft that is used after its end", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(1, { name: "a" })
      const defectOf = (effect: Effect.Effect<unknown, unknown>) =>
        Effect.map(Effect.sandbox(effect).pipe(Effect.flip), (cause) => String(Chunk.unsafeHead(Cause.defects(cause))))
      const draft = yield* TransactionalRef.transaction(ref, Effect.succeed)
      assert.include(yield* defectOf(Ref.get(draft)), "the transaction on a is over")
      const meanwhile = TransactionalRef.transaction(ref, (draft) =>
        TransactionalRef.transaction(ref, () => Ref.get(draft)))
      assert.include(yield* defectOf(meanwhile), "a transaction inside this one works on a")
    }))

  it.effect("a defect of a finalizer is added to the failure of the body", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(1)
      const dying = Effect.addFinalizer(() => Effect.die("late"))
      const alone = yield* Effect.exit(TransactionalRef.transaction(ref, () => dying))
      assert.deepStrictEqual(alone, Exit.die("late"))
      const both = yield* Effect.exit(
        TransactionalRef.transaction(ref, () => Effect.zipRight(dying, Effect.fail("no")))
      )
      assert.deepStrictEqual(both, Exit.failCause(Cause.sequential(Cause.fail("no"), Cause.die("late"))))
      yield* untouched(ref)
    }))

  it.effect("a conflict names the refs of the inner transaction", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(1, { name: "a" })
      const other = yield* TransactionalRef.make(1, { name: "b" })
      const cue = yield* Deferred.make<void>()
      const begun = yield* Deferred.make<void>()
      const daemon = yield* TransactionalRef.transaction(ref, () =>
        Effect.zipLeft(
          Effect.forkDaemon(
            TransactionalRef.transaction(
              { ref, other },
              () => Effect.zipRight(Deferred.succeed(begun, undefined), Deferred.await(cue))
            )
          ),
          Deferred.await(begun)
        ))
      yield* Deferred.succeed(cue, undefined)
      const conflict = failureOf(yield* Fiber.await(daemon)) as TransactionalRef.TransactionConflict
      assert.deepStrictEqual([conflict._tag, conflict.name], ["TransactionConflict", "a, b"])

      const exits: Array<Exit.Exit<unknown, unknown>> = []
      yield* TransactionalRef.transaction(ref, () =>
        Effect.addFinalizer(() =>
          Effect.map(
            Effect.exit(TransactionalRef.transaction([other, ref], () => Effect.void)),
            (exit) => exits.push(exit)
          )
        ))
      assert.strictEqual((failureOf(exits[0]!) as TransactionalRef.TransactionConflict).name, "b, a")
    }))
})

describe("changes", () => {
  it.effect("give each value once: setting a ref to its current value is no change", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(1)
      const seen = yield* Effect.fork(Stream.runCollect(Stream.take(TransactionalRef.changes(ref), 2)))
      yield* Effect.repeatN(Effect.yieldNow(), 10)
      yield* TransactionalRef.set(ref, 1)
      yield* Effect.repeatN(Effect.yieldNow(), 10)
      yield* TransactionalRef.set(ref, 2)
      assert.deepStrictEqual(Chunk.toArray(yield* Fiber.join(seen)), [1, 2])
    }))
})

describe("spans", () => {
  it.effect("are not made if no tracer listens", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(1)
      const within = yield* TransactionalRef.transaction(ref, () => Effect.option(Effect.currentSpan))
      assert.isTrue(Option.isNone(within))
    }))
})

describe("callers without types", () => {
  it.effect("change nothing by a function of `modify` that gives no pair, inside a transaction and outside", () =>
    Effect.gen(function*() {
      const ref = yield* TransactionalRef.make(7)
      const wrong = TransactionalRef.modify(ref, ((n: number) => n + 1) as never)
      for (const change of [wrong, TransactionalRef.transaction(ref, () => wrong)]) {
        const exit = yield* Effect.exit(change)
        assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
        assert.strictEqual(yield* TransactionalRef.get(ref), 7)
      }
    }))

  it.effect("get InvalidOptions as a defect of `make`, which names the option", () =>
    Effect.gen(function*() {
      const wrongs: ReadonlyArray<[unknown, string]> = [
        [null, "options"],
        [{ invariant: "positive" }, "invariant"],
        [{ name: Symbol("x") }, "name"]
      ]
      for (const [options, option] of wrongs) {
        const exit = yield* Effect.exit(TransactionalRef.make(0, options as never))
        assert.isTrue(Exit.isFailure(exit))
        if (Exit.isFailure(exit)) assert.deepInclude(Cause.squash(exit.cause), { _tag: "InvalidOptions", option })
      }
    }))
})
