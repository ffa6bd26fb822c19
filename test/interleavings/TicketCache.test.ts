import { Interleavings } from "effect-holdfast/testing"
import { describe, it } from "effect-holdfast/testing/vitest"
import * as TicketCache from "effect-holdfast/TicketCache"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as assert from "node:assert/strict"
import { bySize } from "../support/bySize.js"
import { canariesOf } from "../support/canary.js"

const key = { host: "api.test", port: 443 }

/** Scenarios that mark a fiber for interruption. */
const interrupted: ReadonlySet<string> = new Set([
  "an interrupted taker loses at most one ticket, and no other taker gets that ticket",
  "an interrupted put has stored its ticket or changed nothing"
])

/** The guarantees of a cache of tickets, as programs that hold under every interleaving. */
const scenarios = ({ clear, make, put, reject, stats, take }: typeof TicketCache) => {
  /** Its bytes are the ticket's number, and so is its time of issue. */
  const ticket = (id: number): TicketCache.Ticket => ({
    session: Uint8Array.of(id),
    issuedAt: id,
    expiresAt: 1_000_000
  })
  const idOf = (one: TicketCache.Ticket): number => one.session[0]!

  /** Takes a ticket `times` times, and records each ticket in the same step. */
  const taker = (cache: TicketCache.TicketCache, times: number, out: Array<number>, from = key) =>
    Effect.repeatN(Effect.map(take(cache, from), Option.map((one) => out.push(idOf(one)))), times - 1)

  const drain = (cache: TicketCache.TicketCache, out: Array<number>): Effect.Effect<void> =>
    Effect.flatMap(
      take(cache, key),
      Option.match({
        onNone: () => Effect.void,
        onSome: (one) => {
          assert.ok(out.push(idOf(one)) < 100, "the cache never becomes empty")
          return drain(cache, out)
        }
      })
    )

  const putting = (cache: TicketCache.TicketCache, ids: ReadonlyArray<number>) =>
    Effect.forEach(ids, (id) => put(cache, key, ticket(id)), { discard: true })

  const allOf = (fibers: ReadonlyArray<Effect.Effect<unknown>>) =>
    Effect.all(fibers, { concurrency: "unbounded", discard: true })

  const ascending = (ids: ReadonlyArray<number>) => ids.toSorted((a, b) => a - b)
  const isOnce = (ids: ReadonlyArray<number>) =>
    assert.equal(new Set(ids).size, ids.length, `taken twice: ${ids.join()}`)

  return {
    "each ticket goes to one taker, and none is lost": Effect.gen(function*() {
      const cache = yield* make()
      const out: Array<number> = []
      yield* putting(cache, [1, 2])
      yield* allOf([
        taker(cache, 2, out),
        taker(cache, 1, out),
        taker(cache, 2, out),
        putting(cache, [3, 4]),
        putting(cache, [5])
      ])
      isOnce(out)
      const { offered, tickets } = yield* stats(cache)
      assert.deepEqual([offered, tickets], [out.length, 5 - out.length])
      yield* drain(cache, out)
      assert.deepEqual(ascending(out), [1, 2, 3, 4, 5])
    }),

    "a ticket is taken only by its own key": Effect.gen(function*() {
      const cache = yield* make({ servers: 2 })
      const another = { ...key, partition: "another" }
      const [out, others]: [Array<number>, Array<number>] = [[], []]
      yield* allOf([
        taker(cache, 2, out),
        taker(cache, 2, others, another),
        putting(cache, [1, 2]),
        put(cache, another, ticket(3))
      ])
      yield* drain(cache, out)
      yield* taker(cache, 1, others, another)
      assert.deepEqual(ascending(out), [1, 2])
      assert.deepEqual(others, [3])
    }),

    "a refused ticket drops only older ones, and dropped tickets are counted": Effect.gen(function*() {
      const cache = yield* make()
      const out: Array<number> = []
      yield* putting(cache, [1, 2, 3])
      const rejected: Array<number> = []
      const rejecter = Effect.flatMap(
        take(cache, key),
        Option.match({
          onNone: () => Effect.void,
          onSome: (one) => {
            out.push(idOf(one))
            rejected.push(idOf(one))
            return reject(cache, key, one)
          }
        })
      )
      yield* allOf([rejecter, taker(cache, 1, out), putting(cache, [4, 5]), rejecter])
      isOnce(out)
      const { dropped, offered, refused, tickets } = yield* stats(cache)
      assert.deepEqual([refused, offered], [rejected.length, out.length])
      assert.equal(offered + dropped + tickets, 5)
      const left: Array<number> = []
      yield* drain(cache, left)
      isOnce([...out, ...left])
      // Tickets are put in order, so all tickets older than a refused one had been put before the refusal.
      assert.ok(
        left.every((id) => rejected.every((other) => id > other)),
        `${left.join()} though ${rejected.join()} were refused`
      )
    }),

    "after a refusal no older ticket is offered": Effect.gen(function*() {
      const cache = yield* make()
      const out: Array<number> = []
      yield* putting(cache, [1, 2, 3, 4])
      const refused = Option.getOrThrow(yield* take(cache, key))
      let isRefused = false
      const wary = Effect.suspend(() => {
        const before = isRefused
        return Effect.map(take(cache, key), (taken) => {
          assert.ok(!before || Option.isNone(taken), "an older ticket was offered after the refusal")
          if (Option.isSome(taken)) out.push(idOf(taken.value))
        })
      })
      yield* allOf([
        Effect.zipRight(reject(cache, key, refused), Effect.sync(() => isRefused = true)),
        wary,
        Effect.zipRight(wary, wary)
      ])
      isOnce(out)
      const { dropped, tickets } = yield* stats(cache)
      assert.deepEqual([out.length + dropped, tickets], [3, 0])
    }),

    "clearing drops the tickets that it finds, and no ticket is both dropped and taken": Effect.gen(function*() {
      const cache = yield* make()
      const out: Array<number> = []
      yield* putting(cache, [1, 2, 3])
      yield* allOf([taker(cache, 2, out), clear(cache), putting(cache, [4]), taker(cache, 1, out)])
      // A ticket that was taken and overwritten afterwards would be 0.
      assert.ok(!out.includes(0), "a ticket was overwritten")
      isOnce(out)
      const { dropped, tickets } = yield* stats(cache)
      assert.equal(out.length + dropped + tickets, 4)
    }),

    "a full cache drops tickets, and no ticket is both dropped and taken": Effect.gen(function*() {
      const cache = yield* make({ ticketsPerServer: 1, servers: 1 })
      const taken: Array<TicketCache.Ticket> = []
      const one = Effect.map(take(cache, key), Option.map((one) => taken.push(one)))
      yield* allOf([putting(cache, [1, 2]), one, putting(cache, [3]), put(cache, { ...key, port: 1 }, ticket(4)), one])
      // A ticket that was taken stays unchanged when other tickets are evicted.
      const ids = taken.map(idOf)
      isOnce(ids)
      assert.ok(ids.every((id) => id >= 1 && id <= 3), ids.join())
      const { dropped, tickets } = yield* stats(cache)
      assert.equal(ids.length + dropped + tickets, 4)
    }),

    "closing drops all tickets, including those that are put meanwhile, and none is offered later": Effect.gen(
      function*() {
        const scope = yield* Scope.make()
        const cache = yield* Scope.extend(make(), scope)
        const taken: Array<TicketCache.Ticket> = []
        let isClosed = false
        yield* putting(cache, [1, 2])
        const one = Effect.suspend(() => {
          const before = isClosed
          return Effect.map(
            take(cache, key),
            Option.map((one) => {
              assert.ok(!before, "taken after the close")
              taken.push(one)
            })
          )
        })
        yield* allOf([
          Effect.zipRight(one, one),
          Effect.zipRight(Scope.close(scope, Exit.void), Effect.sync(() => isClosed = true)),
          putting(cache, [3, 4]),
          Effect.zipRight(one, one)
        ])
        const ids = taken.map(idOf)
        isOnce(ids)
        assert.ok(!ids.includes(0), "a ticket was overwritten")
        const { dropped, tickets } = yield* stats(cache)
        assert.deepEqual([ids.length + dropped, tickets], [4, 0])
        assert.ok(Option.isNone(yield* take(cache, key)))
      }
    ),

    "an interrupted taker loses at most one ticket, and no other taker gets that ticket": Effect.gen(function*() {
      const cache = yield* make()
      const [out, victims]: [Array<number>, Array<number>] = [[], []]
      yield* putting(cache, [1, 2, 3])
      const victim = yield* Effect.fork(Interleavings.victim(taker(cache, 2, victims)))
      const other = yield* Effect.fork(taker(cache, 2, out))
      yield* Fiber.join(other)
      yield* Fiber.await(victim)
      const { offered } = yield* stats(cache)
      // One ticket may have been taken by a taker that was interrupted before it got the ticket.
      const unheard = offered - out.length - victims.length
      assert.ok(unheard === 0 || unheard === 1, `${unheard} have vanished`)
      yield* drain(cache, out)
      isOnce([...out, ...victims])
      assert.equal(out.length + victims.length + unheard, 3)
    }),

    "an interrupted put has stored its ticket or changed nothing": Effect.gen(function*() {
      const cache = yield* make()
      const out: Array<number> = []
      const victim = yield* Effect.fork(Interleavings.victim(putting(cache, [1, 2])))
      yield* taker(cache, 2, out)
      yield* Fiber.await(victim)
      yield* drain(cache, out)
      const { bytes, offered, servers, tickets } = yield* stats(cache)
      assert.deepEqual({ bytes, offered, servers, tickets }, { bytes: 0, offered: out.length, servers: 0, tickets: 0 })
      assert.ok(["", "1", "1,2"].includes(ascending(out).join()), out.join())
    }),

    "an expired ticket is never taken": Effect.gen(function*() {
      const cache = yield* make()
      const out: Array<number> = []
      // The newest expires first.
      for (const id of [1, 2, 3]) yield* put(cache, key, { ...ticket(id), expiresAt: 1_000 * (4 - id) })
      const late = (millis: number) =>
        Effect.flatMap(
          Effect.delay(Clock.currentTimeMillis, millis),
          (before) =>
            Effect.map(
              take(cache, key),
              Option.map((one) => {
                assert.ok(one.expiresAt > before, "the ticket had expired")
                out.push(idOf(one))
              })
            )
        )
      yield* allOf([late(1_000), late(2_999), late(3_000), late(999), late(2_000)])
      isOnce(out)
      yield* Effect.sleep(3_000)
      const { expired, offered, tickets } = yield* stats(cache)
      assert.deepEqual([offered, offered + expired, tickets], [out.length, 3, 0])
    })
  } satisfies Record<string, Effect.Effect<void, unknown, Scope.Scope>>
}

describe("C1, C2: a cache of tickets, under every interleaving", async () => {
  for (const [name, scenario] of Object.entries(scenarios(TicketCache))) {
    const strategy = ["sweep", "random", "pct", "timers"] as const
    const effect = Effect.scoped(scenario)
    it.interleavings(name, effect, await bySize(effect, interrupted.has(name) ? [...strategy, "interrupt"] : strategy))
  }
})

describe("a cache of tickets with a known fault is caught", () => {
  const canaryOf = canariesOf(async (name, scenario: keyof ReturnType<typeof scenarios>) => {
    const faulty: typeof TicketCache = await import(/* @vite-ignore */ `../../src/TicketCache.ts?canary=${name}`)
    return Effect.scoped(scenarios(faulty)[scenario])
  })

  canaryOf("shared-ticket", "each ticket goes to one taker, and none is lost", { within: 500 })
  canaryOf("siblings-of-a-refused", "after a refusal no older ticket is offered", { within: 100 })
  canaryOf(
    "kept-after-close",
    "closing drops all tickets, including those that are put meanwhile, and none is offered later",
    {
      within: 1_000
    }
  )
})
