import { assert, describe, it } from "@effect/vitest"
import * as Session from "effect-holdfast/Session"
import * as DateTime from "effect/DateTime"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import { failureOf, many } from "../support/exits.js"
import { Refused, upstream, valuesOf } from "../support/sessions.js"
import { settle } from "../support/settle.js"

describe("S9: expiry", () => {
  it.scoped("an expired generation is renewed before it is handed out, once for all callers", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, expiresAt: () => 60_000 + (up.calls.length - 1) * 1e9 })
      const first = yield* session.current
      assert.strictEqual(first.expiresAt, 60_000)
      yield* TestClock.adjust("59999 millis")
      assert.strictEqual(yield* session.current, first)
      yield* TestClock.adjust("1 millis")
      assert.deepStrictEqual(new Set(valuesOf(yield* many(50, session.current))), new Set(["v1"]))
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0"])
    }))

  it.scoped("an expired generation is never served when its renewal fails", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, maxAge: "1 minute" })
      yield* session.current
      yield* TestClock.adjust("1 minute")
      const error = new Refused("down")
      up.next(Effect.fail(error))
      for (const exit of yield* many(20, session.current)) assert.strictEqual(failureOf(exit), error)
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* session.current).value, "v1")
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0", "renew v0"])
    }))

  it.scoped("is a DateTime, a number, or undefined for never, and `maxAge` at the latest", () =>
    Effect.gen(function*() {
      const expiries = [DateTime.unsafeMake(90_000), 30_000, undefined, Infinity]
      let i = 0
      const session = yield* Session.make({
        acquire: Effect.sync(() => i++),
        expiresAt: (n) => expiries[n],
        maxAge: "1 minute"
      })
      const seen: Array<number> = []
      let generation = yield* session.current
      for (;;) {
        seen.push(generation.expiresAt)
        if (seen.length === expiries.length) break
        generation = yield* session.refresh(generation)
      }
      assert.deepStrictEqual(seen, [60_000, 30_000, 60_000, 60_000])
    }))

  it.scoped("a `maxAge` of 1 ms with 20 callers neither hangs nor fails", () =>
    Effect.gen(function*() {
      const session = yield* Session.make({
        acquire: Effect.zipRight(Effect.yieldNow(), Effect.succeed("token")),
        maxAge: "1 millis"
      })
      const loop = Effect.repeatN(Effect.zipRight(session.current, Effect.sleep("1 millis")), 20)
      const callers = yield* Effect.fork(many(20, loop))
      yield* Effect.repeatN(TestClock.adjust("1 millis"), 22)
      for (const exit of yield* Fiber.join(callers)) assert.isTrue(Exit.isSuccess(exit), String(exit))
    }))
})

describe("S9: a value that expires before it is handed out", () => {
  it.scoped("because `onRenewed` takes longer is not handed out, in none of the five ways", () =>
    Effect.gen(function*() {
      for (
        const ask of [
          (session: Session.Session<string, Refused>) => session.current,
          (session: Session.Session<string, Refused>) => Effect.flatMap(session.current, session.refresh),
          (session: Session.Session<string, Refused>) => Session.use(session, (value) => Effect.succeed({ value })),
          (session: Session.Session<string, Refused>) => Effect.scoped(Session.scoped(session))
        ]
      ) {
        const up = upstream()
        const stored: Array<string> = []
        const seen: Array<string> = []
        const session: Session.Session<string, Refused> = yield* Session.make({
          ...up,
          maxAge: "1 second",
          onRenewed: ({ value }) =>
            Effect.zipRight(
              Effect.sleep(value === "v1" ? "900 millis" : "2 seconds"),
              Effect.sync(() => stored.push(value))
            )
        })
        yield* Effect.fork(
          Stream.runForEach(Session.changes(session), ({ value }) => Effect.sync(() => seen.push(value)))
        )
        const asking = yield* Effect.fork(Effect.map(ask(session), ({ value }) => value))
        yield* TestClock.adjust("2900 millis")
        yield* settle
        assert.deepStrictEqual([stored, seen], [["v0", "v1"], ["v1"]])
        yield* Fiber.interrupt(asking)
      }
    }))

  it.scoped("counts against the budget, whose error says that values arrive expired", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({
        ...up,
        maxAge: "1 second",
        onRenewed: () => Effect.sleep("2 seconds"),
        budget: { refreshes: 3, within: "1 minute" }
      })
      const asking = yield* Effect.fork(many(5, session.current))
      yield* TestClock.adjust("6 seconds")
      for (const exit of yield* Fiber.join(asking)) {
        const failure = failureOf(exit)
        assert.instanceOf(failure, Session.RefreshBudgetExceeded)
        assert.isTrue(failure.arrivedExpired)
        assert.include(failure.message, "expired")
      }
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0", "renew v1"])
    }))

  it.scoped("is not named by the error of a budget that refusals have spent", () =>
    Effect.gen(function*() {
      const session = yield* Session.make({ ...upstream(), budget: { refreshes: 1, within: "1 minute" } })
      const refused = Effect.flatMap(session.current, session.refresh)
      yield* refused
      const failure = failureOf(yield* Effect.exit(refused))
      assert.instanceOf(failure, Session.RefreshBudgetExceeded)
      assert.isFalse(failure.arrivedExpired)
      assert.notInclude(failure.message, "expired")
    }))

  it.scoped("is revoked by `end` nevertheless", () =>
    Effect.gen(function*() {
      const revoked: Array<string> = []
      const session = yield* Session.make({
        ...upstream(),
        maxAge: "1 second",
        onEnd: (value) => Effect.sync(() => revoked.push(value))
      })
      yield* session.current
      yield* TestClock.adjust("1 hour")
      yield* session.end
      assert.deepStrictEqual(revoked, ["v0"])
    }))

  it.scoped("is left out by `changes`, whether it is current already or read too late", () =>
    Effect.gen(function*() {
      const session = yield* Session.make({ ...upstream(), maxAge: "1 second" })
      yield* session.current
      yield* TestClock.adjust("1 second")
      const seen: Array<string> = []
      const gate = yield* Deferred.make<void>()
      yield* Effect.fork(
        Stream.runForEach(Session.changes(session), ({ value }) =>
          Effect.zipRight(
            Effect.sync(() => seen.push(value)),
            Deferred.await(gate)
          ))
      )
      yield* settle
      assert.deepStrictEqual(seen, [])
      yield* session.current
      yield* settle
      yield* session.refresh(yield* session.current)
      yield* TestClock.adjust("1 second")
      yield* Deferred.succeed(gate, undefined)
      yield* settle
      assert.deepStrictEqual(seen, ["v1"])
      yield* session.current
      yield* settle
      assert.deepStrictEqual(seen, ["v1", "v3"])
    }))
})
