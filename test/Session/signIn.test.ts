import { assert, describe, it } from "@effect/vitest"
import * as Session from "effect-holdfast/Session"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/TestClock"
import { failureOf, many } from "../support/exits.js"
import { Refused, upstream, valuesOf } from "../support/sessions.js"
import { settle } from "../support/settle.js"

describe("S1: the first sign-in", () => {
  it.scoped("is not made before a caller asks", () =>
    Effect.gen(function*() {
      const up = upstream()
      yield* Session.make(up)
      yield* settle
      assert.deepStrictEqual(up.calls, [])
    }))

  for (const callers of [20, 10_000]) {
    it.scoped(`is made once for ${callers} concurrent callers`, () =>
      Effect.gen(function*() {
        const up = upstream()
        up.next(Effect.delay(Effect.succeed("token"), "20 millis"))
        const session = yield* Session.make(up)
        const fiber = yield* Effect.fork(many(callers, session.current))
        yield* TestClock.adjust("20 millis")
        const exits = yield* Fiber.join(fiber)
        assert.deepStrictEqual(new Set(valuesOf(exits)), new Set(["token"]))
        assert.deepStrictEqual(up.calls, ["acquire"])
      }))
  }

  it.scoped("is generation 0, and stays current", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(5_000)
      const up = upstream()
      const session = yield* Session.make(up)
      const first = yield* session.current
      assert.deepInclude(first, { number: 0, value: "v0", acquiredAt: 5_000, expiresAt: Infinity })
      yield* TestClock.adjust("1000 days")
      assert.strictEqual(yield* session.current, first)
      assert.deepStrictEqual(up.calls, ["acquire"])
    }))

  it.scoped("that fails answers all callers for the cooldown; then the next one tries again for all", () =>
    Effect.gen(function*() {
      const up = upstream()
      up.next(Effect.fail(new Refused("password")))
      const session = yield* Session.make(up)
      const first = failureOf(yield* Effect.exit(session.current))
      const others = yield* many(100, session.current)
      for (const exit of others) assert.strictEqual(failureOf(exit), first)
      assert.deepStrictEqual(up.calls, ["acquire"])
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(new Set(valuesOf(yield* many(100, session.current))), new Set(["v0"]))
      assert.deepStrictEqual(up.calls, ["acquire", "acquire"])
    }))
})

describe("`initial`", () => {
  it.scoped("is served without an upstream call until it is refused, then renewed", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, initial: "saved" })
      const saved = yield* session.current
      assert.deepInclude(saved, { number: 0, value: "saved" })
      assert.deepStrictEqual(up.calls, [])
      const fresh = yield* session.refresh(saved)
      assert.deepInclude(fresh, { number: 1, value: "v0" })
      assert.deepStrictEqual(up.calls, ["renew saved"])
    }))

  it.scoped("is renewed before it is handed out if it has expired", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, initial: "saved", expiresAt: (v) => v === "saved" ? -1 : undefined })
      assert.strictEqual((yield* session.current).value, "v0")
      assert.deepStrictEqual(up.calls, ["renew saved"])
    }))
})
