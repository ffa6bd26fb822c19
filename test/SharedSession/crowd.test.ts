/** Very many sessions of one process, over a store that answers few calls at a time. */
import { assert, describe, it } from "@effect/vitest"
import { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as SessionStore from "effect-holdfast/SessionStore"
import * as SharedSession from "effect-holdfast/SharedSession"
import { Interleavings } from "effect-holdfast/testing"
import { describe as describeSchedules } from "effect-holdfast/testing/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import * as TestClock from "effect/TestClock"
import { Queue } from "../../src/internal/shared/queue.js"
import { everySchedule } from "../support/everySchedule.js"
import { failureOf } from "../support/exits.js"
import { settle } from "../support/settle.js"
import { type Refused, Token, tokenServer } from "../support/tokenServer.js"
import { nameOf, valueOf } from "./fleet.js"

const connections = 1

/** The store in memory behind a pool of connections: a call waits for one, and then takes so many milliseconds. */
const pooled = (takes: number) =>
  Effect.gen(function*() {
    const memory = yield* Effect.provide(SessionStore.SessionStore, SessionStore.layerMemory)
    const pool = yield* Effect.makeSemaphore(connections)
    const state = { isSilent: false, running: 0, most: 0 }
    const through = <A, E>(call: Effect.Effect<A, E>): Effect.Effect<A, E> =>
      Effect.suspend(() => {
        state.most = Math.max(state.most, ++state.running)
        return state.isSilent ? Effect.never : pool.withPermits(1)(Effect.delay(call, takes))
      }).pipe(Effect.ensuring(Effect.sync(() => state.running--)))
    const store: SessionStore.Service = {
      read: (key) => through(memory.read(key)),
      compareAndSet: (key, revision, row) => through(memory.compareAndSet(key, revision, row)),
      notices: memory.notices,
      concurrency: connections
    }
    return { store, state }
  })

const crowd = (store: SessionStore.Service, server: ReturnType<typeof tokenServer>, sessions: number) =>
  Effect.forEach(
    Array.from({ length: sessions }, (_, i) => `session ${i}`),
    (key) =>
      SharedSession.make<Token, typeof Token.Encoded, Refused, never, Refused>({
        key,
        schema: Token,
        acquire: server.acquire,
        renew: server.renew,
        lease: "3 seconds"
      }).pipe(Effect.provideService(SessionStore.SessionStore, store))
  )

/** All of them, while the test's clock goes on in small steps: a call of the store takes several. */
const together = <A, E>(effects: ReadonlyArray<Effect.Effect<A, E>>) =>
  Effect.gen(function*() {
    const fiber = yield* Effect.fork(Effect.all(effects.map(Effect.exit), { concurrency: "unbounded" }))
    for (let quarter = 0; quarter < 4 * 60; quarter++) {
      yield* settle
      const exit = fiber.unsafePoll()
      if (exit !== null) return yield* exit
      yield* TestClock.adjust("250 millis")
    }
    return yield* Effect.dieMessage("they are not served within a minute")
  })

describe("a crowd of sessions", () => {
  it.scoped("F5, F9: are all served, leases first, even if the store is too slow for all of them at once", () =>
    Effect.gen(function*() {
      const sessions = 6
      // One call of each session takes three seconds, and each may wait two for its answer.
      const takes = 500
      const { state, store } = yield* pooled(takes)
      const server = tokenServer({ takes: 50 })
      const all = yield* crowd(store, server, sessions)
      const stale = (yield* together(all.map(({ current }) => current))).map(valueOf)
      const next = yield* together(all.map(({ refresh }, i) => refresh(stale[i]!)))
      assert.deepStrictEqual(
        next.map((exit) => nameOf(valueOf(exit))),
        stale.map(({ value: { family } }) => `${family}.1`)
      )
      assert.strictEqual(server.state.calls.length, 2 * sessions)
      // No lease has run out while its holder waited behind sessions that only began.
      assert.deepStrictEqual([server.state.reused, server.state.uncertain.includes(true)], [0, false])
      assert.strictEqual(state.most, connections)
    }))

  it.scoped("F5: notice together, and soon, that the store does not answer, and are served when it answers again", () =>
    Effect.gen(function*() {
      const { state, store } = yield* pooled(1)
      const server = tokenServer({ takes: 0 })
      const all = yield* crowd(store, server, 6)
      state.isSilent = true
      const clock = yield* Effect.clock
      const since = clock.unsafeCurrentTimeMillis()
      const silent = yield* together(all.map(({ current }) => current))
      assert.isAtMost(clock.unsafeCurrentTimeMillis() - since, 2250)
      for (const exit of silent) {
        const error = failureOf(exit)
        assert.strictEqual("reason" in error ? error.reason : error._tag, "StoreUnavailable")
      }
      state.isSilent = false
      yield* TestClock.adjust("1 minute")
      const served = yield* together(all.map(({ current }) => current))
      assert.isTrue(served.every(Exit.isSuccess))
    }))

  it.effect("a store with an invalid number of calls is refused", () =>
    Effect.gen(function*() {
      const memory = yield* Effect.provide(SessionStore.SessionStore, SessionStore.layerMemory)
      for (const concurrency of [0, -1, 1.5, NaN]) {
        const error = yield* SharedSession.make({
          key: "k",
          schema: Schema.String,
          acquire: Effect.succeed(""),
          renew: Effect.succeed
        }).pipe(
          Effect.provideService(SessionStore.SessionStore, { ...memory, concurrency }),
          Effect.scoped,
          Effect.flip
        )
        assert.instanceOf(error, InvalidOptions)
        assert.deepStrictEqual([error.option, error.value], ["concurrency", concurrency])
      }
    }))
})

/** Callers of a store that answers one at a time. */
const turns = Effect.gen(function*() {
  const queue = new Queue(1)
  let running = 0
  const done: Array<string> = []
  const ask = (name: string, isUrgent: boolean) =>
    Effect.suspend(() => {
      const call = queue.call(isUrgent)
      const work = Effect.acquireUseRelease(
        Effect.sync(() => assert.strictEqual(++running, 1)),
        () => Effect.yieldNow(),
        () => Effect.sync(() => done.push(name) && running--)
      )
      return Effect.ensuring(
        Effect.flatMap(queue.turnOf(call), (hasTurn) => hasTurn ? work : Effect.die("no turn")),
        Effect.sync(() => queue.leave(call))
      )
    })
  const fibers = [
    yield* Effect.fork(ask("first", false)),
    yield* Effect.fork(Interleavings.victim(ask("given up", true))),
    yield* Effect.fork(ask("last", false))
  ]
  yield* Effect.forEach(fibers, Fiber.await)
  assert.includeMembers(done, ["first", "last"])
  assert.isTrue(queue.tryStart(queue.call(false)), "every turn was given back")
})

describeSchedules("F5: calls of a store", () => {
  everySchedule("run one after another, each once", turns, { preemptions: 1 })
  everySchedule("a call that is interrupted at any point passes its turn to the next one", turns, {
    preemptions: 1,
    strategy: "interrupt"
  })
})
