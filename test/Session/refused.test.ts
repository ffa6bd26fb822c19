import { assert, describe, it } from "@effect/vitest"
import * as Session from "effect-holdfast/Session"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/TestClock"
import { many } from "../support/exits.js"
import { held, upstream, valuesOf } from "../support/sessions.js"
import { settle } from "../support/settle.js"

describe("S2: a refused generation", () => {
  for (const callers of [20, 10_000]) {
    it.scoped(`is renewed once for ${callers} callers that hold it`, () =>
      Effect.gen(function*() {
        const up = upstream()
        const session = yield* Session.make(up)
        const stale = yield* session.current
        up.next(Effect.delay(Effect.succeed("fresh"), "20 millis"))
        const fiber = yield* Effect.fork(many(callers, session.refresh(stale)))
        yield* TestClock.adjust("20 millis")
        assert.deepStrictEqual(new Set(valuesOf(yield* Fiber.join(fiber))), new Set(["fresh"]))
        assert.deepStrictEqual(up.calls, ["acquire", "renew v0"])
      }))
  }

  it.scoped("is renewed once however late its holders come back", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make(up)
      const stale = yield* session.current
      const fresh = yield* session.refresh(stale)
      for (let i = 0; i < 20; i++) {
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(yield* session.refresh(stale), fresh)
        assert.strictEqual(yield* session.refresh({ ...stale }), fresh)
      }
      const newest = yield* session.refresh(fresh)
      assert.strictEqual(yield* session.refresh(stale), newest)
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0", "renew v1"])
      assert.strictEqual(newest.number, 2)
    }))

  it.scoped("is replaced by `acquire` if there is no `renew`", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ acquire: up.acquire })
      yield* session.refresh(yield* session.current)
      assert.deepStrictEqual(up.calls, ["acquire", "acquire"])
    }))

  it.scoped("is not served while it is renewed: callers of `current` wait", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make(up)
      const stale = yield* session.current
      const renewal = yield* held(Effect.succeed("fresh"))
      up.next(renewal.answer)
      yield* Effect.fork(session.refresh(stale))
      yield* renewal.started
      const asking = yield* Effect.fork(session.current)
      yield* settle
      assert.isNull(asking.unsafePoll())
      yield* renewal.release
      assert.strictEqual((yield* Fiber.join(asking)).value, "fresh")
    }))

  it.scoped("is not served while it is renewed, even if that renewal was started in the background", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, maxAge: "10 minutes", refreshAhead: "2 minutes" })
      const stale = yield* session.current
      const renewal = yield* held(Effect.succeed("fresh"))
      up.next(renewal.answer)
      yield* TestClock.adjust("9 minutes")
      assert.strictEqual(yield* session.current, stale)
      yield* renewal.started
      const refusing = yield* Effect.fork(session.refresh(stale))
      const asking = yield* Effect.fork(session.current)
      yield* settle
      assert.isNull(asking.unsafePoll())
      yield* renewal.release
      assert.strictEqual((yield* Fiber.join(refusing)).value, "fresh")
      assert.strictEqual((yield* Fiber.join(asking)).value, "fresh")
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0"])
    }))
})

describe("S16: the session that a generation belongs to", () => {
  it.scoped("is distinguished from another one: its generation with the same number causes no renewal", () =>
    Effect.gen(function*() {
      const [dropped, up] = [upstream(), upstream()]
      const stale = yield* Effect.scoped(Effect.flatMap(Session.make(dropped), (session) => session.current))
      const session = yield* Session.make(up)
      const first = yield* session.current
      assert.strictEqual(stale.number, first.number)
      assert.strictEqual(yield* session.refresh(stale), first)
      assert.strictEqual(yield* session.refresh({ ...stale }), first)
      assert.deepStrictEqual(up.calls, ["acquire"])
    }))

  it.scoped("is part of a copy, which is as good as the generation itself", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make(up)
      const copy = { ...(yield* session.current), value: "masked" }
      assert.strictEqual((yield* session.refresh(copy)).value, "v1")
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0"])
    }))
})
