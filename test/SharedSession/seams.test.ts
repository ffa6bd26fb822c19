import { assert, describe, it } from "@effect/vitest"
import * as Session from "effect-holdfast/Session"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import * as Inside from "../../src/internal/session/inside.js"

/** A session of renewals that take a second each. */
const slow = (options: Partial<Session.Options<string, string>> = {}) => {
  const calls: Array<string> = []
  return Effect.map(
    Session.make<string, string>({
      acquire: Effect.succeed("v0"),
      renew: (value) => Effect.delay(Effect.sync(() => `${calls.push(value)} of ours`), "1 second"),
      ...options
    }),
    (session) => ({ session, inside: Inside.of(session), calls })
  )
}

const outside = { value: "theirs", acquiredAt: 0, expiresAt: Infinity }

const settle = Effect.repeatN(Effect.yieldNow(), 20)

describe("F1: a value from outside", () => {
  it.scoped("is current, with a number and its own expiry, and neither `onRenewed` nor `expiresAt` is asked", () =>
    Effect.gen(function*() {
      const asked: Array<string> = []
      const { inside, session } = yield* slow({
        onRenewed: ({ value }) => Effect.sync(() => asked.push(value)),
        expiresAt: (value) => (asked.push(`expiry of ${value}`), undefined)
      })
      const first = yield* session.current
      yield* inside.adopt({ ...outside, expiresAt: 5000 }, () => true)
      const next = yield* session.current
      assert.deepStrictEqual([next.value, next.number, next.expiresAt], ["theirs", first.number + 1, 5000])
      assert.deepStrictEqual(asked, ["expiry of v0", "v0"])
      assert.strictEqual(yield* session.refresh(first), next, "the former one is a straggler's")
      yield* TestClock.adjust("5 seconds")
      const fiber = yield* Effect.fork(session.current)
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(fiber)).value, "1 of ours")
    }))

  it.scoped("is given to those who wait for a renewal, whose own value is dropped, and costs no budget", () =>
    Effect.gen(function*() {
      const revoked: Array<string> = []
      const { inside, session } = yield* slow({
        budget: { refreshes: 1, within: "1 minute" },
        onEnd: (value) => Effect.sync(() => revoked.push(value))
      })
      for (let i = 0; i < 3; i++) {
        const stale = yield* session.current
        const fiber = yield* Effect.fork(session.refresh(stale))
        yield* settle
        yield* inside.adopt({ ...outside, value: `theirs ${i}` }, () => true)
        assert.strictEqual((yield* Fiber.join(fiber)).value, `theirs ${i}`)
        yield* TestClock.adjust("1 minute")
        assert.strictEqual((yield* session.current).value, `theirs ${i}`)
      }
      assert.strictEqual((yield* session.status)._tag, "Active")
    }))

  it.scoped("is told by the changes, and not taken if it is not wanted any more, or the session is closed", () =>
    Effect.gen(function*() {
      const { inside, session } = yield* slow()
      yield* session.current
      const told = yield* Effect.fork(Stream.runCollect(Stream.take(Session.changes(session), 2)))
      yield* settle
      yield* inside.adopt({ ...outside, value: "unwanted" }, () => false)
      yield* inside.adopt(outside, () => true)
      const values = Chunk.toReadonlyArray(yield* Fiber.join(told)).map(({ value }) => value)
      assert.deepStrictEqual(values, ["v0", "theirs"])
    }))
})

describe("F10: a value that was given up elsewhere", () => {
  it.scoped("is forgotten, and not revoked again; the next caller signs in", () =>
    Effect.gen(function*() {
      const revoked: Array<string> = []
      const { calls, inside, session } = yield* slow({ onEnd: (value) => Effect.sync(() => revoked.push(value)) })
      const first = yield* session.current
      inside.forget()
      assert.strictEqual((yield* session.status)._tag, "Idle")
      const next = yield* session.current
      assert.deepStrictEqual([next.value, next.number], ["v0", first.number + 1])
      assert.deepStrictEqual([revoked, calls], [[], []])
    }))

  it.scoped("is not served while a renewal goes on", () =>
    Effect.gen(function*() {
      const { inside, session } = yield* slow({
        expiresAt: (value) => value === "v0" ? 60_000 : undefined,
        refreshAhead: "30 seconds"
      })
      yield* session.current
      yield* TestClock.adjust("59 seconds")
      assert.strictEqual((yield* session.current).value, "v0", "served while it is renewed in the background")
      yield* settle
      inside.forget()
      const fiber = yield* Effect.fork(Effect.exit(session.current))
      yield* settle
      assert.isNull(fiber.unsafePoll())
      yield* TestClock.adjust("1 second")
      assert.isTrue(Exit.isSuccess(yield* Fiber.join(fiber)))
    }))

  it.scoped("what is finished for a session may not wait for it", () =>
    Effect.gen(function*() {
      const { inside, session } = yield* slow()
      let asked: unknown
      yield* inside.finish(Effect.map(Effect.exit(session.current), (exit) => {
        asked = exit
      }))
      assert.include(String(asked), "ReentrantRefresh")
    }))
})
