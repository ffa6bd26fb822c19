import { assert, describe, it } from "@effect/vitest"
import * as Session from "effect-holdfast/Session"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as TestClock from "effect/TestClock"
import { failureOf, many } from "../support/exits.js"
import { Refused, upstream } from "../support/sessions.js"
import { settle } from "../support/settle.js"

describe("S11: the budget", () => {
  it.scoped("stops a loop of refusals; the unexpired generation is still served, and the window passes", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, budget: { refreshes: 3, within: "1 minute" } })
      for (let i = 0; i < 3; i++) yield* session.refresh(yield* session.current)
      const last = yield* session.current
      for (const exit of yield* many(50, session.refresh(last))) {
        const failure = failureOf(exit)
        assert.strictEqual(failure._tag, "RefreshBudgetExceeded")
        if (failure._tag !== "RefreshBudgetExceeded") continue
        assert.strictEqual(failure.refreshes, 3)
        assert.strictEqual(Duration.toMillis(failure.within), 60_000)
      }
      assert.strictEqual(yield* session.current, last)
      assert.strictEqual(up.calls.length, 4)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* session.refresh(last)).number, 4)
    }))

  it.scoped("is 10 within a minute by default, failed renewals included", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, cooldown: 0 })
      const stale = yield* session.current
      for (let i = 0; i < 10; i++) {
        up.next(Effect.fail(new Refused("no")))
        assert.strictEqual(failureOf(yield* Effect.exit(session.refresh(stale)))._tag, "Refused")
      }
      assert.strictEqual(failureOf(yield* Effect.exit(session.refresh(stale)))._tag, "RefreshBudgetExceeded")
    }))

  it.scoped("does not count expiry, age or renewals in the background", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({
        ...up,
        maxAge: "1 second",
        refreshAhead: "200 millis",
        budget: { refreshes: 1, within: "1 day" }
      })
      for (let i = 0; i < 50; i++) {
        yield* session.current
        yield* TestClock.adjust(i % 2 === 0 ? "1 second" : "900 millis")
      }
      assert.isAbove(up.calls.length, 25)
      yield* settle
      yield* TestClock.adjust("1 second")
      yield* session.refresh(yield* session.current)
      assert.strictEqual(
        failureOf(yield* Effect.exit(Effect.flatMap(session.current, session.refresh)))._tag,
        "RefreshBudgetExceeded"
      )
    }))

  it.scoped("stops a loop of values that arrive expired, none of which is handed out", () =>
    Effect.gen(function*() {
      const up = upstream()
      let skewed = true
      const session = yield* Session.make({ ...up, expiresAt: () => skewed ? -1 : Infinity })
      for (const exit of yield* many(20, session.current)) {
        assert.strictEqual(failureOf(exit)._tag, "RefreshBudgetExceeded")
      }
      assert.strictEqual(up.calls.length, 10)
      skewed = false
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* session.current).value, "v10")
    }))
})
