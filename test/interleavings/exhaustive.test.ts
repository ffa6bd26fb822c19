import * as Session from "effect-holdfast/Session"
import * as SessionMap from "effect-holdfast/SessionMap"
import { Interleavings } from "effect-holdfast/testing"
import { assert, describe, it } from "effect-holdfast/testing/vitest"
import * as TicketCache from "effect-holdfast/TicketCache"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import { Latest } from "../../src/internal/latest.js"
import * as Renewal from "../../src/internal/session/renewal.js"
import { bySize } from "../support/bySize.js"
import { canaries } from "../support/canaries.js"
import { canary } from "../support/canary.js"
import * as Every from "../support/everySchedule.js"
import { scenarios as sessions } from "./sessions.js"

/** Tries every schedule of a small scope; with `random`, also many schedules with more preemptions. */
const everySchedule = async (
  name: string,
  effect: Effect.Effect<unknown, unknown>,
  { random = false, ...options }: Parameters<typeof Every.everySchedule>[2] & { readonly random?: boolean }
) => {
  Every.everySchedule(name, effect, options)
  if (!random) return
  it.interleavings(`${name}: random schedules`, effect, {
    ...await bySize(effect, ["random", "pct"]),
    preemptions: 6,
    depth: 5
  })
}

describe("the latest value", async () => {
  const reading = (latest: Latest<number>) =>
    Effect.scoped(Effect.flatMap(latest.subscribe(Option.none), (take) => {
      const seen: Array<number> = []
      return Effect.as(
        Effect.ignore(Effect.forever(Effect.tap(take, (value) => Effect.sync(() => seen.push(value))))),
        seen
      )
    }))

  const scope = (readers: number, writers: ReadonlyArray<ReadonlyArray<number>>) =>
    Effect.gen(function*() {
      const latest = new Latest<number>()
      const fibers = yield* Effect.forEach(Array.from({ length: readers }), () => Effect.fork(reading(latest)))
      yield* Effect.yieldNow()
      const writing = yield* Effect.forEach(writers, (values) =>
        Effect.fork(Effect.forEach(values, (value) => Effect.sync(() => latest.offer(value)))))
      for (const writer of writing) {
        yield* Fiber.await(writer)
      }
      latest.end()
      return (yield* Effect.forEach(fibers, Fiber.join)).map(String)
    })

  await everySchedule(
    "is read last, and no value is read twice",
    // A reader that starts late reads only the end.
    Effect.map(scope(1, [[1, 2]]), ([seen]) => assert.include(["", "2", "1,2"], seen)),
    { preemptions: 1, random: true }
  )
  await everySchedule(
    "is read by each reader",
    Effect.map(scope(2, [[1]]), (all) => all.forEach((seen) => assert.include(["", "1"], seen))),
    { preemptions: 0, random: true }
  )
  await everySchedule(
    "of two writers is read without repeats, in either order",
    Effect.map(scope(1, [[1], [2]]), ([seen]) => assert.include(["", "1", "2", "1,2", "2,1"], seen)),
    { preemptions: 1, random: true }
  )
  await everySchedule(
    "is not missed by a reader that is about to wait",
    Effect.gen(function*() {
      const latest = new Latest<number>()
      const ready = yield* Deferred.make<void>()
      const reader = yield* Effect.fork(
        Effect.scoped(
          Effect.flatMap(
            latest.subscribe(Option.none),
            (take) => Effect.zipRight(Deferred.succeed(ready, undefined), take)
          )
        )
      )
      yield* Deferred.await(ready)
      latest.offer(1)
      assert.strictEqual(yield* Fiber.join(reader), 1)
    }),
    { preemptions: 2, random: true }
  )
  await everySchedule(
    "does not keep an interrupted reader",
    Effect.gen(function*() {
      const latest = new Latest<number>()
      const reader = yield* Effect.fork(Interleavings.victim(reading(latest)))
      yield* Effect.yieldNow()
      latest.offer(1)
      yield* Effect.yieldNow()
      latest.end()
      yield* Fiber.await(reader)
      assert.strictEqual((latest as unknown as { readonly readers: Set<unknown> }).readers.size, 0)
    }),
    { preemptions: 1, strategy: "interrupt" }
  )
})

describe("a renewal with several waiters", async () => {
  const reentrant = Exit.fail("reentrant" as const)
  const make = () => Renewal.make<number, "reentrant">()

  await everySchedule(
    "answers waiters that come before and after its outcome",
    Effect.gen(function*() {
      const renewal = make()
      const waiters = yield* Effect.forEach([1, 2], () => Effect.fork(Renewal.join(renewal, reentrant)))
      yield* Effect.yieldNow()
      Renewal.answer(renewal, Exit.succeed(7))
      for (const waiter of waiters) assert.strictEqual(yield* Fiber.join(waiter), 7)
      assert.strictEqual(renewal.waiters.size, 0)
    }),
    { preemptions: 2, random: true }
  )
  await everySchedule(
    "removes an interrupted waiter, and answers the other one",
    Effect.gen(function*() {
      const renewal = make()
      const victim = yield* Effect.fork(Interleavings.victim(Renewal.join(renewal, reentrant)))
      const other = yield* Effect.fork(Renewal.join(renewal, reentrant))
      yield* Effect.yieldNow()
      Renewal.answer(renewal, Exit.succeed(7))
      assert.strictEqual(yield* Fiber.join(other), 7)
      yield* Fiber.await(victim)
      assert.strictEqual(renewal.waiters.size, 0)
    }),
    { preemptions: 1, strategy: "interrupt" }
  )

  const forgetting = ({ join }: typeof Renewal) =>
    Effect.gen(function*() {
      const renewal = make()
      const victim = yield* Effect.fork(Interleavings.victim(join(renewal, reentrant)))
      yield* Effect.yieldNow()
      yield* Fiber.interrupt(victim)
      assert.strictEqual(renewal.waiters.size, 0)
    })
  await everySchedule("removes a waiter that is interrupted anywhere", forgetting(Renewal), {
    preemptions: 1,
    strategy: "interrupt"
  })
  canary(
    canaries["stuck-waiter"].fault,
    async () => {
      const path = "../../src/internal/session/renewal.ts?canary=stuck-waiter"
      return forgetting(await import(/* @vite-ignore */ path))
    },
    { strategy: "interrupt", within: 100 }
  )

  /** Each renewal waits for the next, and the last for the first. */
  const circle = (length: number) =>
    Effect.gen(function*() {
      const renewals = Array.from({ length }, make)
      for (const renewal of renewals) renewal.work = Renewal.makeWork(renewal)
      const workers = yield* Effect.forEach(renewals, (renewal, index) => {
        const next = renewals[(index + 1) % length]!
        return Effect.fork(
          Effect.yieldNow().pipe(
            Effect.zipRight(Renewal.join(next, reentrant)),
            Effect.exit,
            Effect.tap((outcome) => Effect.sync(() => Renewal.answer(renewal, outcome))),
            Renewal.within(renewal.work!)
          )
        )
      })
      for (const worker of workers) assert.deepStrictEqual(yield* Fiber.join(worker), reentrant)
    })

  await everySchedule("in a circle of two fails as reentrant", circle(2), { preemptions: 2, random: true })
  await everySchedule("in a circle of three fails as reentrant", circle(3), { preemptions: 1, random: true })
})

describe("a session, in every order of its fibers", async () => {
  const acquire = Effect.as(Effect.yieldNow(), 1)

  await everySchedule(
    "answers a caller while it closes",
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const session = yield* Scope.extend(Session.make({ acquire }), scope)
      const caller = yield* Effect.fork(Effect.either(session.current))
      yield* Scope.close(scope, Exit.void)
      const answer = yield* Fiber.join(caller)
      if (Either.isLeft(answer)) assert.strictEqual(answer.left._tag, "SessionClosed")
    }),
    { preemptions: 0 }
  )
  await everySchedule(
    "renews with the fiber references of `make`",
    Effect.scoped(sessions(Session)["a renewal has the fiber references of `make`, and the caller keeps its own"]),
    { preemptions: 0 }
  )
  await everySchedule(
    "is the same for two callers of one key",
    Effect.scoped(Effect.gen(function*() {
      const map = yield* SessionMap.make({ lookup: (_: string) => ({ acquire }) })
      const get = SessionMap.get(map, "a")
      const [one, other] = yield* Effect.all([get, get], { concurrency: "unbounded" })
      assert.strictEqual(one, other)
    })),
    { preemptions: 1 }
  )
})

describe("a cache of tickets, in every order of its fibers", async () => {
  const key = { host: "api.test", port: 443 }
  const ticket = (id: number) => ({ session: Uint8Array.of(id), issuedAt: id, expiresAt: 1_000 })

  await everySchedule(
    "gives two tickets to two of three takers",
    Effect.scoped(Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      for (const id of [1, 2]) yield* TicketCache.put(cache, key, ticket(id))
      const takers = yield* Effect.forEach([1, 2, 3], () => Effect.fork(TicketCache.take(cache, key)))
      const taken = (yield* Effect.forEach(takers, Fiber.join)).map(
        Option.match({ onNone: () => 0, onSome: ({ session }) => session[0] })
      )
      assert.deepStrictEqual(taken.toSorted(), [0, 1, 2])
      assert.strictEqual(yield* TicketCache.size(cache), 0)
    })),
    { preemptions: 2 }
  )
})
