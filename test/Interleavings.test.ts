import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { InvalidOptions } from "effect-holdfast/InvalidOptions"
import { Interleavings } from "effect-holdfast/testing"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import * as HashSet from "effect/HashSet"
import * as Logger from "effect/Logger"
import * as Mailbox from "effect/Mailbox"
import * as Option from "effect/Option"
import * as PubSub from "effect/PubSub"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import * as RcMap from "effect/RcMap"
import * as Ref from "effect/Ref"
import * as Runtime from "effect/Runtime"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import { AsyncLocalStorage } from "node:async_hooks"
import { randomBytes, scryptSync } from "node:crypto"
import { readFile, readFileSync } from "node:fs"
import { gzipSync } from "node:zlib"
import { vi } from "vitest"
import { canary } from "./support/canary.js"
import { amount, form } from "./support/form.js"

const both = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.all([effect, effect], { concurrency: "unbounded" })

/** Read, then write, with or without a pause between them. */
const twoIncrements = (pause: Effect.Effect<void> = Effect.void) =>
  Effect.gen(function*() {
    const counter = yield* Ref.make(0)
    yield* both(Effect.flatMap(Ref.get(counter), (n) => Effect.zipRight(pause, Ref.set(counter, n + 1))))
    const count = yield* Ref.get(counter)
    if (count !== 2) return yield* Effect.fail(`counted ${count}`)
  })

const oppositeLocks = Effect.gen(function*() {
  const a = yield* Effect.makeSemaphore(1)
  const b = yield* Effect.makeSemaphore(1)
  yield* Effect.all([
    a.withPermits(1)(b.withPermits(1)(Effect.void)),
    b.withPermits(1)(a.withPermits(1)(Effect.void))
  ], { concurrency: "unbounded" })
})

const leakingPermit = Effect.gen(function*() {
  const semaphore = yield* Effect.makeSemaphore(1)
  const fiber = yield* Effect.fork(Interleavings.victim(semaphore.withPermits(1)(Effect.void)))
  yield* semaphore.withPermits(1)(Effect.void)
  yield* Fiber.await(fiber)
  yield* semaphore.withPermits(1)(Effect.void)
})

const safe = Effect.gen(function*() {
  const counter = yield* Ref.make(0)
  yield* both(Ref.update(counter, (n) => n + 1))
  assert.strictEqual(yield* Ref.get(counter), 2)
})

/** How many schedules by chance, where the number is not the point. */
const seeds = amount({ quick: 50, full: 1_000 })

const found = <A, E>(effect: Effect.Effect<A, E>, options?: Interleavings.Options) =>
  Effect.map(Effect.flip(Interleavings.explore(effect, options)), (failure) => {
    assert.instanceOf(failure, Interleavings.InterleavingFailure)
    return failure as Interleavings.InterleavingFailure<E>
  })

const strategies = ["random", "pct", "sweep", "exhaustive"] as const

describe("I2: known faults are found within a stated number of interleavings, and replayed identically", () => {
  for (const strategy of ["random", "pct", "sweep"] as const) {
    canary(`a lost update (${strategy})`, () => twoIncrements(), { strategy, within: 100 })
    canary(`a deadlock of two locks (${strategy})`, () => oppositeLocks, { strategy, within: 100, reason: "Deadlock" })
  }
  canary("a lost update across a yield", () => twoIncrements(Effect.yieldNow()), { within: 1 })
  canary("a lost update (exhaustive)", () => twoIncrements(), { strategy: "exhaustive", within: 5_000 })
  canary("a permit of Effect's semaphore leaks when its taker is interrupted", () => leakingPermit, {
    strategy: "interrupt",
    within: 100,
    reason: "Deadlock"
  })
  canary(
    "check, then act: RcMap looks up a resource twice",
    () =>
      Effect.scoped(Effect.gen(function*() {
        let lookups = 0
        const map = yield* RcMap.make({ lookup: (_: string) => Effect.sync(() => ++lookups) })
        yield* both(Effect.scoped(RcMap.get(map, "key")))
        assert.strictEqual(lookups, 1)
      })),
    { strategy: "sweep", within: 1_000 }
  )
  canary(
    "a lost wake-up: a Mailbox misses a value that is offered between a check and a wait",
    () =>
      Effect.gen(function*() {
        const mailbox = yield* Mailbox.make<number>()
        const taker = yield* Effect.fork(mailbox.take)
        yield* Effect.yieldNow()
        yield* mailbox.offer(1)
        yield* Fiber.join(taker)
      }),
    { strategy: "sweep", within: 1_000, reason: "Deadlock" }
  )
  canary(
    "a late publication: a sliding PubSub replaces a newer value by an older one",
    () =>
      Effect.scoped(Effect.gen(function*() {
        const pubsub = yield* PubSub.sliding<number>(1)
        const reader = yield* PubSub.subscribe(pubsub)
        let version = 0
        const next = Effect.suspend(() => PubSub.publish(pubsub, ++version))
        yield* PubSub.publish(pubsub, 0)
        yield* both(next)
        assert.strictEqual(yield* Queue.take(reader), 2)
      })),
    { strategy: "sweep", preemptions: 2, within: 20_000 }
  )
  canary(
    "a lost cleanup: Effect.async forgets it when it is interrupted while it registers",
    () =>
      Effect.gen(function*() {
        const registered = new Set<unknown>()
        const fiber = yield* Effect.fork(Interleavings.victim(Effect.async<void>((resume) => {
          registered.add(resume)
          return Effect.sync(() => registered.delete(resume))
        })))
        yield* Effect.yieldNow()
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(registered.size, 0)
      }),
    { strategy: "interrupt", within: 100 }
  )
  canary(
    "the leader's interruption leaves all other callers of Effect.cached waiting",
    () =>
      Effect.gen(function*() {
        const shared = yield* Effect.cached(Effect.yieldNow())
        const leader = yield* Effect.fork(Interleavings.victim(shared))
        yield* Effect.yieldNow()
        yield* shared
        yield* Fiber.await(leader)
      }),
    { strategy: "interrupt", within: 1_000, reason: "Deadlock" }
  )
})

describe("I1: a replay line", () => {
  it.effect("gives the failure with which it was printed, whichever strategy found it", () =>
    Effect.gen(function*() {
      for (const strategy of strategies) {
        const failure = yield* found(twoIncrements(), { strategy, seed: 7 })
        assert.isTrue(failure.reproducible)
        const exit = yield* Interleavings.replay(twoIncrements(), failure.replay)
        assert.deepStrictEqual(exit, Exit.fail("counted 1"))
        assert.include(failure.message, JSON.stringify(failure.replay))
      }
    }))

  it.effect("of a deadlock gives its failure as a defect", () =>
    Effect.gen(function*() {
      const { replay } = yield* found(oppositeLocks)
      const exit = yield* Interleavings.replay(oppositeLocks, replay)
      assert.isTrue(Exit.isFailure(exit))
      const [defect] = Exit.isFailure(exit) ? [...Cause.defects(exit.cause)] : []
      assert.instanceOf(defect, Interleavings.InterleavingFailure)
      assert.strictEqual((defect as Interleavings.InterleavingFailure).reason, "Deadlock")
    }))

  it.effect("gives the same random numbers again", () =>
    Effect.gen(function*() {
      const unlucky = Effect.flatMap(Random.nextIntBetween(0, 50), (n) => n === 13 ? Effect.fail(n) : Effect.void)
      const failure = yield* found(unlucky)
      assert.strictEqual(failure.preemptions, 0)
      assert.deepStrictEqual(yield* Interleavings.replay(unlucky, failure.replay), Exit.fail(13))
    }))

  it.effect("repeats Math.random, too, and so the order of objects that are hashed by identity", () =>
    Effect.gen(function*() {
      const order = Effect.sync(() => [
        Math.random(),
        ...Array.from(HashSet.fromIterable([1, 2, 3, 4, 5, 6].map((n) => ({ n, f: () => n }))), ({ n }) => n)
      ])
      const random = Math.random
      const exits = yield* Effect.replicateEffect(Interleavings.replay(order, "holdfast:1 r5"), 5)
      assert.strictEqual(new Set(exits.map(String)).size, 1)
      assert.notDeepEqual(yield* Interleavings.replay(order, "holdfast:1 r6"), exits[0])
      assert.strictEqual(Math.random, random)
    }))

  it.effect("that is invalid is refused with InvalidOptions", () =>
    Effect.gen(function*() {
      const lines = [
        "",
        "nonsense",
        "holdfast:2 r0",
        "holdfast:1",
        "holdfast:1 r-1",
        "holdfast:1 rx",
        "holdfast:1 r0 x0@1>0",
        "holdfast:1 r0 p0@1",
        "holdfast:1 r0 p0@1+1>0",
        "holdfast:1 r0 c0@1>0",
        "holdfast:1 r0 c0@1+1>0!",
        "holdfast:1 r0 pp",
        "holdfast:1 r0 t0@1>0",
        "holdfast:1 r0 t0",
        "holdfast:1 m0 r0",
        "holdfast:1 r0 p..@1>*",
        5 as unknown as string,
        {} as string
      ]
      for (const line of lines) {
        const failure = yield* Effect.flip(Interleavings.replay(safe, line))
        assert.instanceOf(failure, InvalidOptions)
        assert.strictEqual(failure.option, "replay")
        assert.deepStrictEqual(failure.value, line)
      }
    }))

  it.effect("takes the largest number of operations that an exploration takes, which has 16 digits", () =>
    Effect.gen(function*() {
      const exit = yield* Interleavings.replay(safe, `holdfast:1 r0 m${Number.MAX_SAFE_INTEGER}`)
      assert.isTrue(Exit.isSuccess(exit))
    }))

  it.effect("in the documentation replays the lost update of its example", () =>
    Effect.gen(function*() {
      const lostUpdate = Effect.gen(function*() {
        const counter = yield* Ref.make(0)
        const increment = Effect.flatMap(Ref.get(counter), (n) => Ref.set(counter, n + 1))
        yield* both(increment)
        if ((yield* Ref.get(counter)) !== 2) return yield* Effect.fail("an update was lost")
      })
      for (const file of ["../src/testing/Interleavings.ts", "../docs/interleavings.md"]) {
        const text = readFileSync(new URL(file, import.meta.url), "utf8")
        const lines = [...text.matchAll(/replay\(effect, "(.*?)"\)/g)].map(([, line]) => line!)
        assert.isNotEmpty(lines, file)
        for (const line of lines) {
          const { exit, fits } = yield* Interleavings.trace(lostUpdate, line)
          assert.deepStrictEqual([fits, exit], [true, Exit.fail("an update was lost")], `${file}: ${line}`)
        }
      }
    }))

  it.effect("with places that the effect does not reach is the plain order, and says so", () =>
    Effect.gen(function*() {
      const line = "holdfast:1 r0 p0.9@5>0.1! c*.1@1+1>0 i0@99999>0.3!"
      assert.isTrue(Exit.isSuccess(yield* Interleavings.replay(safe, line)))
      assert.isFalse((yield* Interleavings.trace(safe, line)).fits)
      const failure = yield* found(twoIncrements())
      assert.isTrue((yield* Interleavings.trace(twoIncrements(), failure.replay)).fits)
    }))

  it.effect("counts operations in the same way, whatever was preempted before them", () =>
    Effect.gen(function*() {
      const effect = Effect.ignore(twoIncrements())
      const plain = yield* Interleavings.trace(effect)
      const { replay } = yield* found(twoIncrements())
      assert.strictEqual((yield* Interleavings.trace(effect, replay)).operations, plain.operations)
    }))

  it.effect("keeps the bound of operations with which the failure was found", () =>
    Effect.gen(function*() {
      const long = (operations: number) =>
        Effect.iterate(0, { while: (n) => n < operations, body: (n) => Effect.succeed(n + 1) })
      const late = yield* found(Effect.zipRight(long(60_000), Effect.fail("late")), { maxOperations: 1_000_000 })
      assert.strictEqual(late.reason, "Failure")
      assert.deepStrictEqual(
        yield* Interleavings.replay(Effect.zipRight(long(60_000), Effect.fail("late")), late.replay),
        Exit.fail("late")
      )
      const livelock = yield* found(long(5_000), { maxOperations: 1_000 })
      assert.strictEqual(livelock.reason, "Livelock")
      assert.isTrue(Exit.isFailure(yield* Interleavings.replay(long(5_000), livelock.replay)))
    }))
})

describe("a failure", () => {
  it.effect("is shrunk to the fewest preemptions that fail", () =>
    Effect.gen(function*() {
      for (let seed = 0; seed < amount({ quick: 5, full: 20 }); seed++) {
        for (const strategy of ["random", "pct"] as const) {
          const failure = yield* found(twoIncrements(), { strategy, seed, preemptions: 10, depth: 6 })
          assert.strictEqual(failure.preemptions, 1, failure.message)
        }
        const across = yield* found(twoIncrements(Effect.yieldNow()), { seed })
        assert.strictEqual(across.preemptions, 0)
      }
    }))

  it.effect("is shrunk to two preemptions if the search found more than needed", () =>
    Effect.gen(function*() {
      const slow = Effect.repeatN(Effect.void, 6)
      const increment = (ref: Ref.Ref<number>) =>
        Effect.flatMap(Ref.get(ref), (n) => Effect.zipRight(slow, Ref.set(ref, n + 1)))
      const bothLost = Effect.gen(function*() {
        const a = yield* Ref.make(0)
        const b = yield* Ref.make(0)
        yield* both(Effect.zipRight(increment(a), increment(b)))
        if ((yield* Ref.get(a)) === 1 && (yield* Ref.get(b)) === 1) return yield* Effect.fail("both lost")
        if ((yield* Ref.get(a)) === 1 || (yield* Ref.get(b)) === 1) return yield* Effect.fail("one lost")
      })
      let twos = 0
      for (let seed = 0; seed < amount({ quick: 15, full: 40 }); seed++) {
        const failure = yield* found(bothLost, { strategy: "random", preemptions: 8, seeds: 500, seed: seed * 500 })
        const lost = failure.message.includes("both lost") ? 2 : 1
        assert.isAtMost(failure.preemptions, lost, failure.message)
        if (lost === 2) twos++
      }
      assert.isAbove(twos, 0)
    }), 120_000)

  it.effect("stays the same failure while it is shrunk", () =>
    Effect.gen(function*() {
      // The plain order fails in one way, one preemption in another.
      const two = Effect.zipRight(
        Effect.flatMap(Random.nextBoolean, (early) => early ? Effect.fail({ _tag: "Early" }) : Effect.void),
        Effect.mapError(twoIncrements(), () => ({ _tag: "Late" }))
      )
      for (let seed = 0; seed < amount({ quick: 10, full: 40 }); seed++) {
        const failure = yield* found(two, { seed })
        const [first] = [...Cause.failures(failure.cause)]
        const exit = yield* Interleavings.replay(two, failure.replay)
        assert.deepStrictEqual(exit, Exit.fail(first!))
      }
    }))

  it.effect("says which fiber ran which operations and where it was preempted", () =>
    Effect.gen(function*() {
      const { message, schedule } = yield* found(twoIncrements(), { strategy: "sweep" })
      assert.match(schedule, /fiber 0\.1\.1 +0–\d+ +preempted.* before \w+/)
      assert.match(schedule, /fiber 0\.1\.2 +\d+–\d+ +ends in success/)
      assert.match(schedule, /the root, 0 .* ends in failure/)
      assert.include(message, "counted 1")
      assert.match(message, /replay: Interleavings\.replay\(effect, "holdfast:1 r0 p0\.1\.1@\d+>0\.1\.2!?"\)/)
    }))

  it.effect("that cannot be repeated says that the effect depends on something outside the run", () =>
    Effect.gen(function*() {
      let runs = 0
      const failure = yield* found(Effect.suspend(() => ++runs === 7 ? Effect.fail("once") : Effect.void))
      assert.isFalse(failure.reproducible)
      assert.deepStrictEqual(failure.cause, Cause.fail("once"))
      let uses = 0
      const outlives = yield* found(Effect.suspend(() => ++uses > 1 ? Effect.fail("used before") : Effect.void))
      assert.isFalse(outlives.reproducible)
      assert.include(failure.message, "something outside its run")
    }))

  it.effect("has the stacks of its errors, which the search leaves out", () =>
    Effect.gen(function*() {
      const { stackTraceLimit } = Error
      const stacks: Array<string> = []
      const failing = Effect.catchAllDefect(twoIncrements().pipe(Effect.orDie), () => {
        const error = new Error("a count was lost")
        stacks.push(error.stack!)
        return Effect.die(error)
      })
      const { cause } = yield* found(failing)
      const hasStack = (stack: string) => stack.includes("Interleavings.test")
      assert.isTrue(hasStack((Cause.squash(cause) as Error).stack!))
      assert.isFalse(hasStack(stacks[0]!))
      const { exit } = yield* Interleavings.trace(failing, (yield* found(failing)).replay)
      assert.isTrue(Exit.isFailure(exit) && hasStack((Cause.squash(exit.cause) as Error).stack!))
      assert.strictEqual(Error.stackTraceLimit, stackTraceLimit)
    }))

  it.effect("is the same failure whether its message has a stack in it or not", () =>
    Effect.gen(function*() {
      const { message, reproducible } = yield* found(Effect.sync(() => assert.fail(new Error("lost").stack)))
      assert.isTrue(reproducible, message)
      assert.include(message, "Interleavings.test")
    }))

  it.effect("by a defect or an interruption is a failure too", () =>
    Effect.gen(function*() {
      const defect = yield* found(Effect.die(new Error("broken")))
      assert.isTrue(Cause.isDie(defect.cause))
      const interruption = yield* found(Effect.interrupt)
      assert.isTrue(Cause.isInterruptedOnly(interruption.cause))
      assert.deepStrictEqual([defect.reason, interruption.reason], ["Failure", "Failure"])
    }))
})

describe("I1: time", () => {
  it.effect("is virtual: a year costs nothing, and starts at 0 in each run", () =>
    Effect.gen(function*() {
      const before = performance.now()
      const year = Effect.gen(function*() {
        assert.strictEqual(yield* Clock.currentTimeMillis, 0)
        yield* Effect.repeat(Effect.sleep("1 day"), Schedule.recurs(364))
        assert.strictEqual(yield* Clock.currentTimeMillis, 365 * 24 * 3_600_000)
        assert.strictEqual(yield* Clock.currentTimeNanos, 365n * 24n * 3_600_000_000_000n)
      })
      yield* Interleavings.explore(year, { seeds: 2, maxOperations: 1_000_000 })
      assert.isBelow(performance.now() - before, 60_000)
    }))

  it.effect("passes in order, whatever the schedule, and only when nothing else can happen", () =>
    Interleavings.explore(
      Effect.gen(function*() {
        const log: Array<string> = []
        const after = (millis: number, name: string) =>
          Effect.zipRight(Effect.sleep(millis), Effect.sync(() => log.push(name)))
        const busy = Effect.zipRight(Effect.repeatN(Effect.yieldNow(), 20), Effect.sync(() => log.push("busy")))
        yield* Effect.all([after(30, "c"), after(10, "a"), busy, after(20, "b"), after(0, "now")], {
          concurrency: "unbounded"
        })
        assert.deepStrictEqual(log, ["busy", "now", "a", "b", "c"])
      }),
      { seeds: amount({ quick: 30, full: 300 }) }
    ))

  it.effect("fires timers of one moment one by one: fibers that the first wakes go on before the next", () =>
    Interleavings.explore(
      Effect.gen(function*() {
        const answer = yield* Deferred.make<number>()
        yield* Effect.fork(Effect.delay(Deferred.succeed(answer, 1), 10))
        yield* Effect.sleep(1)
        assert.strictEqual(yield* Effect.timeout(Deferred.await(answer), 9), 1)
      }),
      { strategy: "exhaustive", preemptions: 0 }
    ))

  it.effect("fires timers of one moment in the order in which they were set, and no cancelled timer", () =>
    Effect.gen(function*() {
      const orders = new Set<string>()
      yield* Interleavings.explore(
        Effect.gen(function*() {
          const log: Array<string> = []
          const after = (name: string) => Effect.zipRight(Effect.sleep(5), Effect.sync(() => log.push(name)))
          yield* Effect.all([after("a"), after("b")], { concurrency: "unbounded" })
          yield* Effect.timeoutOption(after("never"), 3)
          yield* Effect.sleep(100)
          orders.add(log.join())
        }),
        { seeds }
      )
      assert.deepStrictEqual([...orders].sort(), ["a,b", "b,a"])
    }))

  it.effect("never ends a sleep that is longer than a real timer can be", () =>
    Effect.map(found(Effect.sleep(2 ** 31)), ({ reason }) => assert.strictEqual(reason, "Deadlock")))
})

describe("I1: a deadlock", () => {
  it.effect("is reported immediately, with what each fiber waits for", () =>
    Effect.gen(function*() {
      const stuck = Effect.gen(function*() {
        const answer = yield* Deferred.make<number>()
        const asker = yield* Effect.fork(Effect.withSpan(Deferred.await(answer), "asking"))
        yield* Fiber.join(asker)
      })
      const before = performance.now()
      const failure = yield* found(stuck)
      assert.isBelow(performance.now() - before, 5_000)
      assert.strictEqual(failure.reason, "Deadlock")
      assert.deepStrictEqual([failure.interleavings, failure.preemptions], [1, 0])
      assert.strictEqual(failure.waits.length, 2)
      assert.match(failure.waits[0]!, /^the root, 0 waits for fiber 0\.1 /)
      assert.match(failure.waits[1]!, /^fiber 0\.1 in span "asking" waits for the root, 0 /)
      assert.include(failure.message, failure.waits[1]!)
    }))

  it.effect("is not reported while a timer is still to fire", () =>
    Interleavings.explore(Effect.timeoutOption(Effect.never, "1 hour"), { seeds: 10 }))
})

describe("work outside Effect's fibers", () => {
  const escapes: Record<string, readonly [Effect.Effect<unknown, unknown>, string]> = {
    "a promise": [Effect.promise(() => Promise.resolve(1)), "PROMISE"],
    "a promise beside a virtual timer": [
      Effect.race(Effect.promise(() => Promise.resolve(1)), Effect.sleep("1 second")),
      "PROMISE"
    ],
    "a timer": [
      Effect.async<void>((resume) => {
        setTimeout(() => resume(Effect.void), 1)
      }),
      "Timeout"
    ],
    "a microtask": [Effect.async<void>((resume) => queueMicrotask(() => resume(Effect.void))), "Microtask"],
    "I/O": [Effect.async<void>((resume) => readFile("package.json", () => resume(Effect.void))), "FSREQCALLBACK"],
    "another runtime": [
      Effect.async<void>((resume) => {
        Effect.runFork(Effect.zipRight(Effect.yieldNow(), Effect.sync(() => resume(Effect.void))))
      }),
      "PROMISE"
    ]
  }
  for (const [name, [effect, kind]] of Object.entries(escapes)) {
    it.effect(`is reported as escaped, not as a deadlock: ${name}`, () =>
      Effect.gen(function*() {
        const failure = yield* found(effect)
        assert.strictEqual(failure.reason, "Escaped", failure.message)
        assert.include(failure.started, kind)
        assert.include(failure.message, kind)
      }))
  }

  it.live("releases what it holds, in real time", () =>
    Effect.gen(function*() {
      const released = yield* Deferred.make<void>()
      yield* found(Effect.acquireUseRelease(
        Effect.void,
        () => Effect.promise((signal) => new Promise((resolve) => signal.addEventListener("abort", resolve))),
        () => Effect.zipRight(Effect.promise(() => Promise.resolve()), Deferred.succeed(released, undefined))
      ))
      yield* Deferred.await(released)
    }))

  it.live("releases what it holds with slow finalizers, also those of daemons", () =>
    Effect.gen(function*() {
      const released = yield* Queue.unbounded<string>()
      const held = (name: string) =>
        Effect.acquireRelease(Effect.void, () => Effect.delay(Queue.offer(released, name), "10 millis"))
      yield* found(Effect.gen(function*() {
        yield* Effect.forkDaemon(Effect.scoped(Effect.zipRight(held("daemon"), Effect.never)))
        yield* Effect.forkDaemon(Effect.uninterruptible(Effect.delay(Queue.offer(released, "sleeper"), "10 millis")))
        yield* Effect.yieldNow()
        yield* Effect.scoped(Effect.zipRight(held("root"), Effect.promise(() => new Promise(() => undefined))))
      }))
      // The failure was run twice: when it was found, and for its report.
      const names = yield* Queue.takeBetween(released, 6, 6)
      assert.deepStrictEqual([...names].sort(), ["daemon", "daemon", "root", "root", "sleeper", "sleeper"])
    }))

  it.effect("is not reported if it is done immediately, or cancelled, or incidental", () =>
    Interleavings.explore(
      Effect.gen(function*() {
        randomBytes(16)
        scryptSync("password", "salt", 16, { N: 2 })
        gzipSync("x")
        AsyncLocalStorage.bind(() => 1)()
        clearTimeout(setTimeout(() => undefined, 10))
        queueMicrotask(() => undefined)
        yield* Effect.sleep(1)
      }),
      { seeds: 5 }
    ))

  it.effect("is not reported for a log or Effect.never", () =>
    Interleavings.explore(
      Effect.gen(function*() {
        yield* Effect.fork(Effect.never)
        yield* Effect.log("a line")
        // oxlint-disable-next-line no-console
        console.log("a line of an explored effect")
        yield* Effect.sleep("1 second")
      }),
      { strategy: "random", seeds: 1 }
    ))
})

describe("an effect that does not end", () => {
  for (
    const [name, effect] of Object.entries({
      "computing": Effect.forever(Effect.void),
      "yielding": Effect.forever(Effect.yieldNow()),
      "sleeping": Effect.forever(Effect.sleep(1))
    })
  ) {
    it.effect(`is a livelock: ${name}`, () =>
      Effect.map(found(effect, { maxOperations: 5_000 }), ({ reason }) => assert.strictEqual(reason, "Livelock")))
  }
})

describe("the strategies", () => {
  /** Three fibers of two steps each; the result is the order of all six steps. */
  const orders = (seen: Set<string>, pause: Effect.Effect<void>) =>
    Effect.suspend(() => {
      let log = ""
      const fiber = (name: string) =>
        Effect.zipRight(
          Effect.sync(() => log += name),
          Effect.zipRight(pause, Effect.sync(() => log += name))
        )
      return Effect.gen(function*() {
        const fibers = [yield* Effect.fork(fiber("a")), yield* Effect.fork(fiber("b")), yield* Effect.fork(fiber("c"))]
        for (const one of fibers) yield* Fiber.await(one)
        seen.add(log)
      })
    })

  it.effect("exhaustive goes through every order of the steps, and each schedule once", () =>
    Effect.gen(function*() {
      const seen = new Set<string>()
      const report = yield* Interleavings.explore(orders(seen, Effect.yieldNow()), {
        strategy: "exhaustive",
        preemptions: 0
      })
      assert.isTrue(report.complete)
      // 6! / (2! 2! 2!)
      assert.strictEqual(seen.size, 90)
      const without = new Set<string>()
      yield* Interleavings.explore(orders(without, Effect.void), { strategy: "exhaustive", preemptions: 0 })
      assert.deepStrictEqual([...without].sort(), ["aabbcc", "aaccbb", "bbaacc", "bbccaa", "ccaabb", "ccbbaa"])
    }))

  it.effect("exhaustive also finds orders that need preemptions", () =>
    Effect.gen(function*() {
      const seen = new Set<string>()
      // All orders of the six steps in which at most so many fibers are between their steps.
      const [preemptions, some] = form === "quick"
        ? [1, ["abbcca", "abbacc", "bccbaa"]]
        : [2, ["abbcca", "abbacc", "abccab", "cabbac"]]
      const report = yield* Interleavings.explore(orders(seen, Effect.void), {
        strategy: "exhaustive",
        preemptions,
        limit: 1_000_000
      })
      assert.isTrue(report.complete)
      assert.isTrue(some.every((order) => seen.has(order)), [...seen].sort().join())
    }))

  it.effect("sweep preempts at every operation at which another fiber could go on", () =>
    Effect.gen(function*() {
      const effect = orders(new Set(), Effect.void)
      const plain = yield* Interleavings.explore(effect, { strategy: "sweep", preemptions: 0 })
      assert.deepStrictEqual([plain.interleavings, plain.complete], [1, true])
      const one = yield* Interleavings.explore(effect, { strategy: "sweep" })
      const two = yield* Interleavings.explore(effect, { strategy: "sweep", preemptions: 2 })
      assert.isTrue(one.complete && two.complete)
      assert.isAbove(one.interleavings, plain.operations)
      assert.isAbove(two.interleavings, 10 * one.interleavings)
    }))

  it.effect("preempt a fiber in favour of the fiber that has synchronously started it", () =>
    Effect.gen(function*() {
      const early = Effect.gen(function*() {
        const runtime = yield* Effect.runtime<never>()
        let isDone = false
        const fiber = Runtime.runFork(runtime)(Effect.zipRight(Effect.void, Effect.sync(() => isDone = true)))
        if (!isDone) return yield* Effect.zipRight(Fiber.join(fiber), Effect.fail("not done yet"))
      })
      for (const strategy of strategies) {
        const failure = yield* found(early, { strategy })
        assert.isTrue(failure.reproducible)
        assert.strictEqual(failure.preemptions, 1)
      }
    }))

  it.effect("do not preempt a fiber that is set never to yield", () =>
    Interleavings.explore(
      Effect.gen(function*() {
        const counter = yield* Ref.make(0)
        yield* both(
          Effect.withMaxOpsBeforeYield(
            Effect.flatMap(Ref.get(counter), (n) => Ref.set(counter, n + 1)),
            Number.MAX_SAFE_INTEGER
          )
        )
        assert.strictEqual(yield* Ref.get(counter), 2)
      }),
      { seeds }
    ))

  it.effect("interrupt interrupts the marked fiber at each of its operations, and at each of other fibers", () =>
    Effect.gen(function*() {
      const reached = new Set<number>()
      let steps = 0
      const counted = Effect.suspend(() => {
        steps = 0
        const step = Effect.sync(() => ++steps)
        return Effect.gen(function*() {
          const fiber = yield* Effect.fork(Interleavings.victim(Effect.all([step, step, step, step])))
          yield* Fiber.await(fiber)
          reached.add(steps)
        })
      })
      const report = yield* Interleavings.explore(counted, { strategy: "interrupt" })
      assert.isTrue(report.complete)
      assert.deepStrictEqual([...reached].sort(), [0, 1, 2, 3, 4])
    }))

  it.effect("timers lets a timeout fire at each operation of the effect that it limits", () =>
    Effect.gen(function*() {
      const reached = new Set<string>()
      const bounded = Effect.suspend(() => {
        let steps = 0
        const step = Effect.sync(() => ++steps)
        return Effect.map(
          Effect.timeoutOption(Effect.zipRight(Effect.yieldNow(), Effect.all([step, step, step, step])), "1 minute"),
          (outcome) => reached.add(`${outcome._tag} after ${steps}`)
        )
      })
      const plain = yield* Interleavings.explore(bounded, { seeds })
      assert.isFalse(plain.searches.some(({ strategy }) => strategy === "timers"))
      assert.deepStrictEqual([...reached], ["Some after 4"])
      const report = yield* Interleavings.explore(bounded, { strategy: "timers" })
      assert.isTrue(report.complete)
      assert.deepStrictEqual([...reached].sort(), [
        "None after 0",
        "None after 1",
        "None after 2",
        "None after 3",
        "None after 4",
        "Some after 4"
      ])
      const failure = yield* found(
        Effect.filterOrFail(Effect.timeoutOption(Effect.yieldNow(), "1 minute"), Option.isSome),
        { strategy: "timers" }
      )
      assert.match(failure.replay, /^holdfast:1 r0 t[\d.]+@\d+!?$/)
      assert.match(failure.schedule, /time passes to the next timer before/)
      assert.isTrue(failure.reproducible)
    }))

  it.effect("I3: of a crowd of fibers are some, so that a run stays small, and the report says so", () =>
    Effect.gen(function*() {
      const crowd = Effect.gen(function*() {
        const count = yield* Ref.make(0)
        const increment = Ref.update(count, (n) => n + 1)
        yield* Effect.forEach(Array.from({ length: 300 }), () => increment, { concurrency: "unbounded", discard: true })
      })
      const report = yield* Interleavings.explore(crowd, { strategy: "sweep", limit: 10 })
      assert.isFalse(report.complete)
      assert.isBelow(report.coverage.sweep.places, 1_000_000)
      const few = yield* Interleavings.explore(
        Effect.asVoid(Effect.all(Array.from({ length: 200 }, () => Effect.fork(Effect.void)))),
        { strategy: "sweep", limit: 100_000, budget: "1 second" }
      )
      assert.isFalse(few.complete)
    }))

  it.effect("I3: are cut at the limit, and the report says so", () =>
    Effect.gen(function*() {
      for (const strategy of ["sweep", "exhaustive"] as const) {
        const report = yield* Interleavings.explore(safe, { strategy, limit: 10 })
        assert.deepStrictEqual(report.searches, [{ strategy, interleavings: 10, complete: false }])
        assert.isFalse(report.complete)
      }
      const whole = yield* Interleavings.explore(Effect.void, { strategy: "exhaustive", limit: 1 })
      assert.deepStrictEqual([whole.interleavings, whole.complete], [1, true])
      const all = yield* Interleavings.explore(safe, {
        seeds: 10,
        strategy: ["exhaustive", "random", "pct"],
        preemptions: 0
      })
      assert.isTrue(all.complete)
      assert.deepStrictEqual(all.searches.slice(1), [
        // One run for each seed; the plain order was run before.
        { strategy: "random", interleavings: 10, complete: false },
        { strategy: "pct", interleavings: 10, complete: false }
      ])
      assert.strictEqual(all.interleavings, all.searches.reduce((sum, { interleavings }) => sum + interleavings, 0))
    }))

  it.effect("exhaustive makes at most as many runs as its limit, and is complete at the exact limit", () =>
    Effect.gen(function*() {
      for (const preemptions of [0, 1]) {
        let runs = 0
        const effect = Effect.suspend(() => {
          runs++
          return orders(new Set(), Effect.void)
        })
        const options = { strategy: "exhaustive", preemptions, limit: 100_000 } as const
        const { interleavings: all } = yield* Interleavings.explore(effect, options)
        assert.isAbove(all, 5)
        for (const limit of [1, 2, all - 1, all]) {
          runs = 0
          const { complete, coverage, interleavings } = yield* Interleavings.explore(effect, { ...options, limit })
          assert.deepStrictEqual([interleavings, complete], [limit, limit === all])
          if (preemptions === 0) assert.strictEqual(runs, limit)
          assert.isBelow(coverage.exhaustive.tried, limit)
        }
      }
    }))

  it.effect("make the plain run once, and take their places from it", () =>
    Effect.gen(function*() {
      const all = ["sweep", "exhaustive", "interrupt", "timers", "random", "pct"] as const
      const effect = Effect.gen(function*() {
        const fiber = yield* Effect.fork(Interleavings.victim(Effect.sleep("1 second")))
        yield* Effect.zipRight(safe, Fiber.await(fiber))
      })
      const alone: Record<string, Interleavings.Coverage> = {}
      for (const strategy of all) {
        const { coverage } = yield* Interleavings.explore(effect, { strategy, seeds: 1, limit: 1 })
        alone[strategy] = coverage[strategy]
        assert.isAbove(coverage[strategy].places, 0, strategy)
      }
      let runs = 0
      // Longer than the budget, which is spent before any of the searches begins.
      const busy = Effect.sync(() => {
        runs++
        const begun = performance.now()
        while (performance.now() - begun < 20);
      })
      const slow = Effect.zipRight(busy, effect)
      const report = yield* Interleavings.explore(slow, { strategy: all, budget: "10 millis" })
      assert.deepStrictEqual([runs, report.interleavings, report.outOfTime, report.complete], [1, 1, true, false])
      for (const strategy of all) {
        assert.deepStrictEqual(report.coverage[strategy], { places: alone[strategy]!.places, tried: 0 }, strategy)
      }
      // Without a place there is nothing more to do, so the time is sufficient.
      const short = yield* Interleavings.explore(busy, { strategy: "sweep", budget: "10 millis" })
      assert.deepStrictEqual([short.complete, short.outOfTime], [true, false])
    }))

  /** Sixty fibers, and after them two increments of which one can be lost, at one place of hundreds. */
  const lostBehindForks = Effect.gen(function*() {
    for (let index = 0; index < 60; index++) yield* Effect.fork(Effect.void)
    yield* twoIncrements()
  })

  it.effect("I3: with a limit try places of the whole run: an update lost after sixty forks is found in 100", () =>
    Effect.gen(function*() {
      for (let seed = 0; seed < amount({ quick: 5, full: 20 }); seed++) {
        const failure = yield* found(lostBehindForks, { strategy: "sweep", limit: 100, seed })
        assert.isAtMost(failure.interleavings, 100)
        assert.deepStrictEqual(failure.cause, Cause.fail("counted 1"))
      }
    }))

  it.effect("I3: with a limit find a lost update of two among sixty fibers that run the same code", () =>
    Effect.gen(function*() {
      const increment = (counter: Ref.Ref<number>) => Effect.flatMap(Ref.get(counter), (n) => Ref.set(counter, n + 1))
      const lostAmongTheSame = Effect.gen(function*() {
        const shared = yield* Ref.make(0)
        const own = yield* Effect.forEach(Array.from({ length: 60 }), () => Ref.make(0))
        yield* Effect.forEach([...own, shared, shared], increment, { concurrency: "unbounded", discard: true })
        if ((yield* Ref.get(shared)) !== 2) return yield* Effect.fail("an update was lost")
      })
      for (let seed = 0; seed < amount({ quick: 1, full: 3 }); seed++) {
        const failure = yield* found(lostAmongTheSame, { strategy: "sweep", limit: 100, seed })
        assert.isAtMost(failure.interleavings, 100)
      }
    }))

  /** Where in a run of a hundred equal steps the other fiber came in between. */
  const met = (out: Set<number>, between: (steps: Effect.Effect<void>) => Effect.Effect<unknown>) =>
    Effect.suspend(() => {
      let step = 0
      const steps = Effect.forEach(Array.from({ length: 100 }), () => Effect.sync(() => step++), { discard: true })
      return between(Effect.onExit(steps, () => Effect.sync(() => out.add(step)))).pipe(
        Effect.zipRight(Effect.sync(() => out.add(step)))
      )
    })

  const cut: Record<string, readonly [Interleavings.Strategy, (steps: Effect.Effect<void>) => Effect.Effect<unknown>]> =
    {
      "interrupt": ["interrupt", (steps) => Effect.flatMap(Effect.fork(Interleavings.victim(steps)), Fiber.await)],
      "timers": ["timers", (steps) => Effect.timeoutOption(Effect.zipRight(Effect.yieldNow(), steps), "1 hour")]
    }
  for (const [name, [strategy, between]] of Object.entries(cut)) {
    it.effect(`I3: with a limit are spread evenly over the run: ${name}`, () =>
      Effect.gen(function*() {
        const steps = new Set<number>()
        const { coverage } = yield* Interleavings.explore(met(steps, between), { strategy, limit: 120 })
        assert.strictEqual(coverage[strategy].tried, 119)
        assert.isAbove(coverage[strategy].places, 200)
        for (let tenth = 0; tenth < 10; tenth++) {
          const those = [...steps].filter((step) => Math.floor(step / 10) === tenth)
          assert.isAtLeast(those.length, 1, `of ${[...steps].sort((a, b) => a - b).join()}`)
        }
      }))
  }

  it.effect("I3: with a limit are spread evenly over the run: sweep, with one preemption or two", () =>
    Effect.gen(function*() {
      for (const preemptions of [1, 2]) {
        const steps = new Set<number>()
        const between = Effect.suspend(() => {
          let step = 0
          const counting = Effect.forEach(Array.from({ length: 100 }), () => Effect.sync(() => step++), {
            discard: true
          })
          return both(Effect.zipRight(Effect.sync(() => steps.add(step)), counting))
        })
        const { coverage, complete } = yield* Interleavings.explore(between, {
          strategy: "sweep",
          preemptions,
          limit: 80
        })
        assert.isFalse(complete)
        assert.isAbove(coverage.sweep.tried, 30)
        assert.isAbove(coverage.sweep.places, 200)
        for (let tenth = 0; tenth < 10; tenth++) {
          const those = [...steps].filter((step) => Math.floor(step / 10) === tenth)
          assert.isAtLeast(those.length, 1, `of ${[...steps].sort((a, b) => a - b).join()}`)
        }
      }
    }))

  it.effect("I3: with a limit try other places for another seed", () =>
    Effect.gen(function*() {
      const metBy = (seed: number) => {
        const steps = new Set<number>()
        return Effect.as(
          Interleavings.explore(met(steps, cut["interrupt"]![1]), { strategy: "interrupt", limit: 20, seed }),
          steps
        )
      }
      assert.deepStrictEqual(yield* metBy(1), yield* metBy(1))
      assert.notDeepEqual(yield* metBy(1), yield* metBy(2))
    }))

  it.effect("I3: with a limit and two preemptions try pairs, too", () =>
    Effect.gen(function*() {
      const bySingle = new Set<string>()
      const single = yield* Interleavings.explore(orders(bySingle, Effect.void), { strategy: "sweep" })
      assert.isTrue(single.complete)
      // The limit is enough for only half of the single preemptions.
      const limit = Math.floor(single.interleavings / 2)
      const byPairs = new Set<string>()
      const cut = yield* Interleavings.explore(orders(byPairs, Effect.void), {
        strategy: "sweep",
        preemptions: 2,
        limit
      })
      assert.deepStrictEqual([cut.interleavings, cut.complete], [limit, false])
      assert.isNotEmpty([...byPairs].filter((order) => !bySingle.has(order)))
      // If it is enough for all of them, all are tried, and the rest is used for pairs.
      const wide = { strategy: "sweep", preemptions: 2, limit: 2 * single.interleavings } as const
      const { complete, coverage, interleavings } = yield* Interleavings.explore(orders(new Set(), Effect.void), wide)
      assert.deepStrictEqual([interleavings, complete], [wide.limit, false])
      assert.strictEqual(coverage.sweep.tried, coverage.sweep.places)
    }))

  it.effect("I3: say how many places there were and how many were tried", () =>
    Effect.gen(function*() {
      const whole = yield* Interleavings.explore(safe, { strategy: ["sweep", "timers"] })
      const { places } = whole.coverage.sweep
      assert.isAbove(places, 10)
      assert.isTrue(whole.complete)
      assert.deepStrictEqual(whole.coverage.sweep, { places, tried: places })
      assert.strictEqual(whole.searches[0]!.interleavings, places + 1)
      // No fiber sleeps, and no other strategy was asked for.
      for (const strategy of ["timers", "random", "pct", "exhaustive", "interrupt"] as const) {
        assert.deepStrictEqual(whole.coverage[strategy], { places: 0, tried: 0 })
      }
      const cut = yield* Interleavings.explore(safe, { strategy: "sweep", limit: 11 })
      assert.isFalse(cut.complete)
      assert.deepStrictEqual(cut.coverage.sweep, { places, tried: 10 })
      const chance = yield* Interleavings.explore(safe, { strategy: ["random", "pct"], seeds: 20 })
      for (const strategy of ["random", "pct"] as const) {
        // Only short preemptions.
        assert.strictEqual(chance.coverage[strategy].places, places / 2)
        assert.isAbove(chance.coverage[strategy].tried, 5)
        assert.isAtMost(chance.coverage[strategy].tried, places / 2)
      }
    }))

  it.effect("preempt in favour of each other fiber, not only of the first", () =>
    Effect.gen(function*() {
      // Only if the third fiber comes between the two steps of the first, and the second does not.
      const onlyTheSecondOther = Effect.suspend(() => {
        let log = ""
        const note = (name: string) => Effect.sync(() => log += name)
        return Effect.gen(function*() {
          const fibers = [
            yield* Effect.fork(Effect.zipRight(note("a"), note("a"))),
            yield* Effect.fork(Effect.zipRight(note("b"), note("b"))),
            yield* Effect.fork(Effect.zipRight(note("c"), note("c")))
          ]
          for (const one of fibers) yield* Fiber.await(one)
          if (log === "accbba" || log === "accabb") return yield* Effect.fail(log)
        })
      })
      for (const limit of [10_000, 40]) {
        const failure = yield* found(onlyTheSecondOther, { strategy: "sweep", limit })
        assert.strictEqual(failure.preemptions, 1)
        assert.match(failure.replay, />0\.3!?$/)
      }
    }))

  it.effect("interrupt lets the interrupted fiber go on immediately, too", () =>
    Effect.gen(function*() {
      // The victim's finalizer has to come before the other's next operation.
      const onlyImmediately = Effect.suspend(() => {
        let isReleased = false
        return Effect.gen(function*() {
          const victim = yield* Effect.fork(Interleavings.victim(
            Effect.ensuring(Effect.never, Effect.sync(() => isReleased = true))
          ))
          yield* Effect.yieldNow()
          const before = yield* Effect.sync(() => isReleased)
          const after = yield* Effect.sync(() => isReleased)
          yield* Fiber.interrupt(victim)
          if (!before && after) return yield* Effect.fail("released in between")
        })
      })
      const failure = yield* found(onlyImmediately, { strategy: "interrupt" })
      assert.match(failure.replay, /^holdfast:1 r0 i0@\d+>0\.1!$/)
      assert.isTrue(failure.reproducible)
    }))

  it.effect("interrupt lets the interrupted fiber go on later, too", () =>
    Effect.gen(function*() {
      const onlyLater = Effect.suspend(() => {
        let isReleased = false
        return Effect.gen(function*() {
          const victim = yield* Effect.fork(Interleavings.victim(
            Effect.ensuring(Effect.never, Effect.sync(() => isReleased = true))
          ))
          yield* Effect.yieldNow()
          yield* Effect.void
          const isLate = victim.unsafePoll() === null && !(yield* Effect.sync(() => isReleased))
          yield* Effect.yieldNow()
          if (isLate && isReleased) return yield* Effect.fail("released later")
        })
      })
      const failure = yield* found(onlyLater, { strategy: "interrupt" })
      assert.match(failure.replay, /^holdfast:1 r0 i0@\d+>0\.1$/)
    }))

  it.effect("keep the tasks of one fiber in their order, as Effect's scheduler does", () =>
    Interleavings.explore(
      Effect.gen(function*() {
        const queue = yield* Queue.unbounded<number>()
        const writer = yield* Effect.fork(
          Effect.forEach([1, 2, 3, 4], (n) => Effect.zipRight(Effect.yieldNow(), queue.offer(n)))
        )
        const values = yield* Effect.replicateEffect(Queue.take(queue), 4)
        yield* Fiber.join(writer)
        assert.deepStrictEqual(values, [1, 2, 3, 4])
      }),
      { seeds }
    ))
})

describe("an exploration", () => {
  it.effect("I1: tries the same schedules for the same seed, and others for another", () =>
    Effect.gen(function*() {
      const digestsOf = (seed: number) =>
        Effect.gen(function*() {
          const seen: Array<string> = []
          const noting = Effect.gen(function*() {
            const log: Array<number> = []
            yield* Effect.forEach([1, 2, 3, 4], (n) =>
              Effect.zipRight(Effect.yieldNow(), Effect.sync(() => log.push(n))), {
              concurrency: "unbounded"
            })
            seen.push(`${log.join()} ${yield* Random.nextInt}`)
          })
          yield* Interleavings.explore(noting, { seed, seeds: 50 })
          yield* Interleavings.explore(noting, { seed, seeds: 50, strategy: "pct" })
          return seen.join(" ")
        })
      assert.strictEqual(yield* digestsOf(1), yield* digestsOf(1))
      assert.notStrictEqual(yield* digestsOf(1), yield* digestsOf(1_000))
    }))

  it.effect("inherits the fiber references of its caller, and leaves them alone", () =>
    Effect.gen(function*() {
      const reference = FiberRef.unsafeMake("default")
      const asserting = Effect.zipRight(
        Effect.map(FiberRef.get(reference), (value) => assert.strictEqual(value, "caller's")),
        FiberRef.set(reference, "explored")
      )
      yield* Effect.zipRight(
        Interleavings.explore(asserting, { seeds: 5 }),
        Effect.map(FiberRef.get(reference), (value) => assert.strictEqual(value, "caller's"))
      ).pipe(Effect.locally(reference, "caller's"))
    }))

  it.effect("works in an uninterruptible region, and explores an effect that can be interrupted", () =>
    Effect.uninterruptible(Interleavings.explore(
      Effect.gen(function*() {
        const fiber = yield* Effect.fork(Effect.never)
        yield* Fiber.interrupt(fiber)
      }),
      { seeds: 5 }
    )))

  it.effect("works in the finalizer of an interrupted fiber, whose interruption does not reach the effect", () =>
    Effect.gen(function*() {
      const explored = yield* Deferred.make<Exit.Exit<Interleavings.Report, unknown>>()
      const fiber = yield* Effect.fork(
        Effect.onInterrupt(
          Effect.never,
          () =>
            Effect.flatMap(
              Effect.exit(Interleavings.explore(safe, { seeds: 5 })),
              (exit) => Deferred.succeed(explored, exit)
            )
        )
      )
      yield* Effect.yieldNow()
      yield* Fiber.interrupt(fiber)
      assert.isTrue(Exit.isSuccess(yield* Deferred.await(explored)))
    }))

  it.live("prints nothing; a replay does", () =>
    Effect.gen(function*() {
      const lines: Array<unknown> = []
      const logger = Logger.replace(Logger.defaultLogger, Logger.withConsoleLog(Logger.make(({ message }) => message)))
      const log = globalThis.console.log
      globalThis.console.log = (line: unknown) => lines.push(line)
      yield* Effect.gen(function*() {
        yield* Interleavings.explore(Effect.log("line"), { seeds: 5 })
        assert.strictEqual(lines.length, 0)
        yield* Interleavings.trace(Effect.log("line"))
        assert.strictEqual(lines.length, 1)
      }).pipe(Effect.provide(logger), Effect.ensuring(Effect.sync(() => globalThis.console.log = log)))
    }))

  it.live("keeps the caller's loggers silent, not those of the effect", () =>
    Effect.gen(function*() {
      const lines: Array<string> = []
      yield* Interleavings.explore(Effect.log("line"), { strategy: "random", seeds: 1 }).pipe(
        Effect.provide(Logger.add(Logger.make(() => lines.push("caller's"))))
      )
      assert.deepStrictEqual(lines, [])
      const added = Effect.provide(Effect.log("line"), Logger.add(Logger.make(() => lines.push("added"))))
      yield* Interleavings.explore(added, { strategy: "random", seeds: 1 })
      assert.deepStrictEqual(lines, ["added", "added"])
    }))

  it.live("inside an explored effect runs in one step, however long it is", () =>
    Interleavings.explore(
      Effect.asVoid(Interleavings.explore(safe, { seeds: amount({ quick: 100, full: 500 }) })),
      { strategy: "random", seeds: 1 }
    ))

  it("does not hang with fake timers", async () => {
    vi.useFakeTimers()
    try {
      const seeds = amount({ quick: 1_000, full: 5_000 })
      const { interleavings } = await Effect.runPromise(Interleavings.explore(safe, { strategy: "random", seeds }))
      assert.strictEqual(interleavings, seeds + 1)
    } finally {
      vi.useRealTimers()
    }
  }, 60_000)

  it("keeps its budget, and lets the event loop turn, when it is loaded under fake timers", async () => {
    vi.useFakeTimers()
    vi.resetModules()
    try {
      const loadedUnderFakes = await import("effect-holdfast/testing")
      assert.notStrictEqual(loadedUnderFakes.Interleavings, Interleavings)
      const report = await Effect.runPromise(
        loadedUnderFakes.Interleavings.explore(safe, { strategy: "random", seeds: 100_000, budget: "100 millis" })
      )
      assert.isTrue(report.outOfTime)
      assert.isBelow(report.interleavings, 100_000)
    } finally {
      vi.useRealTimers()
    }
  }, 60_000)

  it.live("lets the event loop turn while it shrinks and if there is nothing to preempt", () =>
    Effect.gen(function*() {
      let longest = 0
      let last = performance.now()
      const timer = setInterval(() => {
        longest = Math.max(longest, performance.now() - last)
        last = performance.now()
      }, 1)
      const tail = Effect.iterate(0, { while: (n) => n < 5_000, body: (n) => Effect.succeed(n + 1) })
      yield* Interleavings.explore(tail, { strategy: "sweep", preemptions: 1000 })
      yield* Effect.flip(
        Interleavings.explore(Effect.catchAll(twoIncrements(), (error) => Effect.zipRight(tail, Effect.fail(error))))
      )
      clearInterval(timer)
      assert.isBelow(longest, 2_000)
    }))

  it.live("I4: ends when its budget is spent, and reports its coverage; each strategy has a part", () =>
    Effect.gen(function*() {
      const { coverage, outOfTime, complete, searches } = yield* Interleavings.explore(safe, {
        strategy: ["sweep", "random", "pct"],
        preemptions: 1_000,
        limit: 1_000_000_000,
        seeds: 1_000_000_000,
        budget: amount({ quick: 2_000, full: 4_000 })
      })
      assert.isTrue(outOfTime)
      assert.isFalse(complete)
      assert.deepStrictEqual(searches.map(({ strategy }) => strategy), ["sweep", "random", "pct"])
      for (const { interleavings, strategy } of searches) {
        assert.isAbove(interleavings, 1)
        assert.isAbove(coverage[strategy].tried, 0)
        assert.isAtMost(coverage[strategy].tried, coverage[strategy].places)
      }
    }))

  it.live("I4: gives the unused part of one strategy's budget to the others", () =>
    Effect.gen(function*() {
      const { outOfTime, searches } = yield* Interleavings.explore(safe, {
        strategy: ["sweep", "random"],
        seeds: 10,
        budget: "10 minutes"
      })
      assert.isFalse(outOfTime)
      assert.deepStrictEqual(searches.map(({ complete }) => complete), [true, false])
    }))

  it.live("I4: with a budget fails with a failure that it finds in time, and still shrinks it", () =>
    Effect.gen(function*() {
      const failure = yield* found(twoIncrements(Effect.yieldNow()), { budget: 1 })
      assert.strictEqual(failure.preemptions, 0)
      const later = yield* found(twoIncrements(), { budget: "30 seconds" })
      assert.strictEqual(later.preemptions, 1)
    }))

  it.live("lets the event loop turn, and can be interrupted", () =>
    Effect.gen(function*() {
      let turns = 0
      const timer = setInterval(() => turns++, 1)
      const exploring = yield* Effect.fork(Interleavings.explore(safe, { seeds: 100_000_000 }))
      yield* Effect.repeat(Effect.sleep("1 millis"), { until: () => turns > 2 })
      yield* Fiber.interrupt(exploring)
      clearInterval(timer)
    }))

  it.live("leaves no fiber and no timer", () =>
    Effect.gen(function*() {
      let started = 0
      const finalized: Array<string> = []
      const timers = () => process.getActiveResourcesInfo().filter((kind) => kind === "Timeout").length
      const before = timers()
      const leaving = Effect.gen(function*() {
        yield* Effect.forkDaemon(Effect.acquireUseRelease(
          Effect.sync(() => started++),
          () => Effect.never,
          () => Effect.zipRight(Effect.sleep("1 second"), Effect.sync(() => finalized.push("daemon")))
        ))
        yield* Effect.yieldNow()
      })
      yield* Interleavings.explore(leaving, { seeds: 20 })
      assert.isAbove(started, 5)
      assert.strictEqual(finalized.length, started)
      yield* found(Effect.ensuring(Effect.never, Effect.sync(() => finalized.push("deadlock"))))
      assert.include(finalized, "deadlock")
      yield* found(Effect.uninterruptible(Effect.never))
      // Timers of other tests may end meanwhile.
      assert.isAtMost(timers(), before)
    }))

  it.effect("refuses invalid options with InvalidOptions", () =>
    Effect.gen(function*() {
      const nonsense: ReadonlyArray<readonly [string, Interleavings.Options]> = [
        ["seeds", { seeds: 0 }],
        ["seeds", { seeds: 1.5 }],
        ["seeds", { seeds: Number.NaN }],
        ["seeds", { seeds: 1e12 }],
        ["seed", { seed: -1 }],
        ["seed", { seed: Infinity }],
        ["preemptions", { preemptions: -1 }],
        ["preemptions", { preemptions: 1e6 }],
        ["depth", { depth: 0 }],
        ["depth", { depth: 1e6, strategy: "pct" }],
        ["limit", { limit: 0 }],
        ["budget", { budget: 0 }],
        ["budget", { budget: -1 }],
        ["budget", { budget: Number.NaN }],
        ["budget", { budget: Infinity }],
        ["budget", { budget: "a while" as "1 second" }],
        ["maxOperations", { maxOperations: 0 }],
        ["options", null as unknown as Interleavings.Options],
        ["options", "random" as Interleavings.Options],
        ["strategy", { strategy: 5 as unknown as "random" }],
        ["strategy", { strategy: {} as "random" }],
        ["strategy", { strategy: [] }],
        ["strategy", { strategy: null as unknown as "random" }],
        ["strategy", { strategy: ["sweep", "luck" as "random"] }],
        ["strategy", { strategy: "luck" as "random" }],
        ["strategy", { strategy: "toString" as "random" }],
        // No fiber is marked.
        ["strategy", { strategy: "interrupt" }]
      ]
      for (const [option, options] of nonsense) {
        const failure = yield* Effect.flip(Interleavings.explore(safe, options))
        assert.instanceOf(failure, InvalidOptions, option)
        assert.strictEqual((failure as InvalidOptions).option, option)
      }
    }))
})

describe("a victim", () => {
  it.effect("outside an exploration has no effect", () =>
    Effect.map(Interleavings.victim(Effect.succeed(1)), (value) => assert.strictEqual(value, 1)))
})

describe("the types", () => {
  it("do not accept an effect that needs services, and keep its errors", () => {
    class Service extends Context.Tag("Service")<Service, number>() {}
    const needy: Effect.Effect<number, never, Service> = Service
    // @ts-expect-error: the service is missing
    void (() => Interleavings.explore(needy))
    // @ts-expect-error: the scope is missing
    void (() => Interleavings.replay(Effect.scope as Effect.Effect<Scope.Scope, never, Scope.Scope>, ""))
    expectTypeOf(Interleavings.explore(Effect.fail("no" as const))).toEqualTypeOf<
      Effect.Effect<Interleavings.Report, Interleavings.InterleavingFailure<"no"> | InvalidOptions>
    >()
    expectTypeOf(Interleavings.replay(Effect.succeed(1), "")).toEqualTypeOf<
      Effect.Effect<Exit.Exit<number>, InvalidOptions>
    >()
    expectTypeOf<Interleavings.InterleavingFailure<"no">["cause"]>().toEqualTypeOf<Cause.Cause<"no">>()
  })
})
