/** The guarantees of every store, as tests. */
import { assert, it } from "@effect/vitest"
import * as SessionStore from "effect-holdfast/SessionStore"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import { fleetProcess } from "../support/fleet.js"
import { amount } from "../support/form.js"
import { storeLayer, type StoreSettings } from "../support/stores.js"

export const row: SessionStore.Row = {
  revision: 1_800_000_000_001,
  version: 1_800_000_000_000,
  origin: 1_700_000_000_000,
  value: "\"tökén\" \\ 'x' \u2028 😀",
  lifetime: 3_600_000,
  committedAt: 1_800_000_000_000,
  committedBy: "a",
  fence: 1_800_000_000_000,
  holder: null,
  leaseUntil: 0,
  intent: false,
  uncertain: true,
  coolUntil: 5,
  failures: 0,
  error: "Refused",
  dead: false
}

/** The contract of a store, in one process or several. */
export const contract = (
  makeLayer: () => Layer.Layer<SessionStore.SessionStore, unknown>,
  { hasNotices }: { readonly hasNotices: boolean }
): void => {
  const using = <A>(effect: Effect.Effect<A, unknown, SessionStore.SessionStore>) => Effect.provide(effect, makeLayer())

  it.live("gives no row if there is none, and the time of its clock", () =>
    using(Effect.gen(function*() {
      const { read } = yield* SessionStore.SessionStore
      const { now, row } = yield* read("nobody's")
      assert.isTrue(Option.isNone(row))
      assert.isBelow(Math.abs(now - Date.now()), 60_000)
    })))

  it.live("overwrites only the given revision", () =>
    using(Effect.gen(function*() {
      const { compareAndSet, read } = yield* SessionStore.SessionStore
      assert.isFalse(yield* compareAndSet("one", 1, row), "there is no row yet")
      assert.isTrue(yield* compareAndSet("one", undefined, row))
      assert.isFalse(yield* compareAndSet("one", undefined, { ...row, revision: row.revision + 1 }), "there is a row")
      const next = { ...row, revision: row.revision + 1, value: null, lifetime: null, committedBy: null, dead: true }
      assert.isTrue(yield* compareAndSet("one", row.revision, next))
      assert.isFalse(yield* compareAndSet("one", row.revision, { ...row, revision: row.revision + 2 }), "it has gone")
      assert.deepStrictEqual(Option.getOrThrow((yield* read("one")).row), next)
    })))

  it.live("keeps the rows of different keys apart, and each row complete", () =>
    using(Effect.gen(function*() {
      const { compareAndSet, read } = yield* SessionStore.SessionStore
      const keys = ["a", "A", "../a", "a/b", "ä", "😀 '\"%_\\", "k".repeat(200)]
      yield* Effect.forEach(keys, (key, i) =>
        compareAndSet(key, undefined, { ...row, revision: row.revision + i, value: `${i}${"x".repeat(50_000)}` }))
      for (const [i, key] of keys.entries()) {
        const found = Option.getOrThrow((yield* read(key)).row)
        assert.deepStrictEqual(found, { ...row, revision: row.revision + i, value: `${i}${"x".repeat(50_000)}` })
      }
    })))

  it.live("lets exactly one of many concurrent writers win, each time", () =>
    using(Effect.gen(function*() {
      const { compareAndSet, read } = yield* SessionStore.SessionStore
      yield* compareAndSet("many", undefined, { ...row, failures: 0 })
      for (let round = 0; round < 5; round++) {
        const { failures, revision } = Option.getOrThrow((yield* read("many")).row)
        const next = { ...row, revision: revision + 1, failures: failures + 1 }
        const won = yield* Effect.all(
          Array.from({ length: 20 }, () => compareAndSet("many", revision, next)),
          { concurrency: "unbounded" }
        )
        assert.strictEqual(won.filter((isWon) => isWon).length, 1)
      }
      assert.strictEqual(Option.getOrThrow((yield* read("many")).row).failures, 5)
    })))

  if (hasNotices) {
    it.live("notifies of new values, and not of leases", () =>
      using(Effect.scoped(Effect.gen(function*() {
        const { compareAndSet, notices, read } = yield* SessionStore.SessionStore
        yield* read("watched")
        const heard: Array<string> = []
        const isHeard = yield* Effect.fork(
          Stream.runDrain(Stream.take(Stream.tap(notices, (key) => Effect.sync(() => heard.push(key))), 1))
        )
        // A subscription takes a while, and reports nothing from before.
        let revision = 0
        yield* Effect.gen(function*() {
          yield* compareAndSet("watched", revision || undefined, { ...row, revision: ++revision })
          assert.isTrue(isHeard.unsafePoll() !== null)
        }).pipe(
          Effect.sandbox,
          Effect.retry(Schedule.spaced("50 millis"))
        )
        yield* Fiber.join(isHeard)
        assert.deepStrictEqual(heard, ["watched"])
      }))))
  }
}

/** The contract of a store that several processes share. `settings` gives a fresh place for each test. */
export const sharedContract = (
  settings: () => StoreSettings,
  { hasNotices }: { readonly hasNotices: boolean }
): void => {
  contract(() => storeLayer(settings()), { hasNotices })

  it.live("can be set up by ten processes at the same time", () =>
    Effect.gen(function*() {
      const place = settings()
      const counts = yield* Effect.all(
        Array.from({ length: 10 }, () =>
          Effect.provide(
            Effect.flatMap(SessionStore.SessionStore, ({ compareAndSet }) => compareAndSet("k", undefined, row)),
            storeLayer(place)
          )),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(counts.filter((isWon) => isWon).length, 1)
    }))

  const processes = amount({ quick: 3, full: 6 })
  it.live(`has exactly the writes that ${processes} processes have won`, () =>
    Effect.scoped(Effect.gen(function*() {
      const store = settings()
      yield* Effect.provide(
        Effect.flatMap(SessionStore.SessionStore, ({ compareAndSet }) => compareAndSet("won", undefined, row)),
        storeLayer(store)
      )
      const fleet = yield* Effect.all(
        Array.from({ length: processes }, () => fleetProcess({ store, key: "won" })),
        { concurrency: "unbounded" }
      )
      const target = amount({ quick: 60, full: 500 })
      const won = yield* Effect.all(fleet.map(({ ask }) => ask("contend", target)), { concurrency: "unbounded" })
      assert.strictEqual(won.reduce((sum, count) => sum + count, 0), target, won.join())
    })))
}
