import { assert, describe, it } from "@effect/vitest"
import * as Session from "effect-holdfast/Session"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/TestClock"
import { failureOf, many } from "../support/exits.js"
import { Refused, settableTimeOfDay, upstream, valuesOf } from "../support/sessions.js"

describe("S15: the time of day", () => {
  const day = 86_400_000

  for (const [direction, step] of [["back", -day], ["forward", day]] as const) {
    it.scoped(`set ${direction} by a day neither pins a failure nor ends its cooldown`, () =>
      Effect.gen(function*() {
        const { timeOfDay, withTimeOfDay } = yield* settableTimeOfDay
        yield* TestClock.setTime(10 * day)
        const up = upstream()
        up.next(Effect.fail(new Refused("down")))
        const session = yield* withTimeOfDay(Session.make({ ...up, cooldown: "10 seconds" }))
        yield* Effect.exit(session.current)
        timeOfDay.offset = step
        yield* TestClock.adjust("9 seconds")
        assert.isTrue(Exit.isFailure(yield* Effect.exit(session.current)))
        const status = yield* session.status
        assert.strictEqual(status._tag === "Failing" && status.retryAt, 10 * day + step + 10_000)
        assert.deepStrictEqual(up.calls, ["acquire"])
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* session.current).value, "v0")
      }))

    it.scoped(`set ${direction} by a day neither pins the budget nor opens it`, () =>
      Effect.gen(function*() {
        const { timeOfDay, withTimeOfDay } = yield* settableTimeOfDay
        yield* TestClock.setTime(10 * day)
        const session = yield* withTimeOfDay(
          Session.make({ ...upstream(), budget: { refreshes: 2, within: "1 minute" } })
        )
        const refused = Effect.flatMap(session.current, session.refresh)
        yield* refused
        yield* refused
        timeOfDay.offset = step
        yield* TestClock.adjust("59 seconds")
        assert.strictEqual(failureOf(yield* Effect.exit(refused))._tag, "RefreshBudgetExceeded")
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* refused).value, "v3")
      }))
  }

  it.scoped("decides about expiry: set forward, nothing that has expired is served", () =>
    Effect.gen(function*() {
      const { timeOfDay, withTimeOfDay } = yield* settableTimeOfDay
      const up = upstream()
      const session = yield* withTimeOfDay(Session.make({ ...up, maxAge: "1 hour" }))
      yield* session.current
      timeOfDay.offset = day
      assert.strictEqual((yield* session.current).value, "v1")
    }))

  it.scoped("set forward during a refresh: a value that has expired when it arrives is not handed out", () =>
    Effect.gen(function*() {
      const { timeOfDay, withTimeOfDay } = yield* settableTimeOfDay
      const up = upstream()
      const session = yield* withTimeOfDay(Session.make({
        ...up,
        expiresAt: (value) => value === "slow" ? 60_000 : Infinity,
        onRenewed: ({ value }) =>
          Effect.sync(() => {
            if (value === "slow") timeOfDay.offset = day
          })
      }))
      up.next(Effect.succeed("slow"))
      const waiting = yield* Effect.fork(many(3, session.current))
      assert.deepStrictEqual(valuesOf(yield* Fiber.join(waiting)), ["v0", "v0", "v0"])
      assert.deepStrictEqual(up.calls, ["acquire", "renew slow"])
    }))
})
