import { assert, describe, it } from "@effect/vitest"
import * as Session from "effect-holdfast/Session"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Random from "effect/Random"
import * as TestClock from "effect/TestClock"
import { many } from "../support/exits.js"
import { held, Refused, upstream } from "../support/sessions.js"
import { settle } from "../support/settle.js"

describe("S8: refreshAhead", () => {
  const make = (up: ReturnType<typeof upstream>) =>
    Session.make({ ...up, maxAge: "10 minutes", refreshAhead: "2 minutes" }).pipe(
      Effect.withRandom(Random.fixed([0.5]))
    )

  it.scoped("renews in the background after the first `current` inside the window, and no caller waits", () =>
    Effect.gen(function*() {
      const up = upstream()
      // The jitter is drawn in the renewal, by the Random of `make`: half of a tenth of two minutes.
      const session = yield* make(up)
      const first = yield* session.current
      yield* TestClock.adjust(Duration.minutes(8.1).pipe(Duration.subtract("1 millis")))
      assert.strictEqual(yield* session.current, first)
      yield* settle
      assert.deepStrictEqual(up.calls, ["acquire"])
      const renewal = yield* held(Effect.succeed("fresh"))
      up.next(renewal.answer)
      yield* TestClock.adjust("1 millis")
      yield* settle
      assert.deepStrictEqual(up.calls, ["acquire"], "started without a caller")
      for (const exit of yield* many(50, session.current)) {
        assert.isTrue(Exit.isSuccess(exit) && exit.value === first)
      }
      yield* renewal.started
      assert.strictEqual(yield* session.current, first)
      yield* renewal.release
      yield* settle
      assert.strictEqual((yield* session.current).value, "fresh")
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0"])
    }))

  it.scoped("fails no caller when its renewal fails, and tries again after the cooldown", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* make(up)
      const first = yield* session.current
      yield* TestClock.adjust("9 minutes")
      up.next(Effect.fail(new Refused("down")), Effect.die("worse"))
      for (let i = 0; i < 10; i++) {
        assert.strictEqual(yield* session.current, first)
        yield* settle
      }
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0"])
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* session.current, first)
      yield* settle
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0", "renew v0"])
      yield* TestClock.adjust("2 seconds")
      yield* session.current
      yield* settle
      assert.strictEqual((yield* session.current).value, "v1")
    }))

  it.scoped("does not start before half the lifetime, however wide the window", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, maxAge: "10 minutes", refreshAhead: "1 hour" })
      yield* session.current
      yield* TestClock.adjust("299999 millis")
      yield* session.current
      yield* settle
      assert.deepStrictEqual(up.calls, ["acquire"])
      yield* TestClock.adjust("31 seconds")
      yield* session.current
      yield* settle
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0"])
    }))

  it.scoped("is spread over at most a tenth of the window", () =>
    Effect.gen(function*() {
      const starts: Array<number> = []
      const sessions = yield* Effect.forEach(Array.from({ length: 40 }, upstream), (up) =>
        Effect.map(
          Session.make({ ...up, maxAge: "1000 seconds", refreshAhead: "100 seconds" }),
          (session) => ({ session, up })
        ))
      yield* Effect.forEach(sessions, ({ session }) => session.current)
      yield* TestClock.setTime(899_000)
      for (let second = 899; second <= 911; second++) {
        yield* TestClock.setTime(second * 1000)
        yield* Effect.forEach(sessions, ({ session }) => session.current)
        yield* settle
        starts.push(sessions.filter(({ up }) => up.calls.length > 1).length)
      }
      assert.strictEqual(starts[0], 0)
      assert.strictEqual(starts.at(-1), 40)
      assert.isAbove(new Set(starts).size, 5)
    }))
})
