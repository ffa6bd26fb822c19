import { assert, describe, it } from "@effect/vitest"
import * as Session from "effect-holdfast/Session"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Schedule from "effect/Schedule"
import * as TestClock from "effect/TestClock"
import { failureOf, many } from "../support/exits.js"
import { Refused } from "../support/sessions.js"
import { settle } from "../support/settle.js"

describe("timeout", () => {
  it.scoped("S14: bounds one refresh, its retries and `onRenewed` included", () =>
    Effect.gen(function*() {
      let interrupted = 0
      const slow = Effect.onInterrupt(Effect.never, () => Effect.sync(() => interrupted++))
      const sessions = [
        yield* Session.make({ acquire: slow }),
        yield* Session.make({ acquire: Effect.fail("no"), retry: Schedule.spaced("7 seconds") }),
        yield* Session.make({ acquire: Effect.succeed("token"), onRenewed: () => slow })
      ]
      for (const session of sessions) {
        const waiting = yield* Effect.fork(
          many(3, Effect.asVoid(session.current as Effect.Effect<unknown, { readonly _tag: string }>))
        )
        yield* TestClock.adjust("29 seconds")
        assert.isNull(waiting.unsafePoll())
        yield* TestClock.adjust("1 second")
        for (const exit of yield* Fiber.join(waiting)) {
          assert.strictEqual(failureOf(exit)._tag, "RefreshTimeout")
        }
        assert.strictEqual((yield* session.status)._tag, "Failing")
      }
      assert.strictEqual(interrupted, 2)
    }))

  it.scoped("S14: says with what its last attempt failed, which `retry` would have followed by another", () =>
    Effect.gen(function*() {
      let attempts = 0
      const refusals = [new Refused("first"), new Refused("second")]
      const session = yield* Session.make({
        acquire: Effect.suspend(() => {
          const refused = refusals[attempts++]
          return refused === undefined ? Effect.never : Effect.fail(refused)
        }),
        retry: Schedule.spaced("7 seconds")
      })
      const waiting = yield* Effect.fork(Effect.exit(session.current))
      yield* TestClock.adjust("30 seconds")
      const failure = failureOf(yield* Fiber.join(waiting))
      assert.isTrue(failure._tag === "RefreshTimeout" && failure.cause === refusals[1])
    }))

  it.scoped("S14: says nothing of a cause if no attempt has failed", () =>
    Effect.gen(function*() {
      const session = yield* Session.make({ acquire: Effect.never })
      const waiting = yield* Effect.fork(Effect.exit(session.current))
      yield* TestClock.adjust("30 seconds")
      assert.notProperty(failureOf(yield* Fiber.join(waiting)), "cause")
    }))

  it.scoped("S14: does not wait for a renewal that cannot be interrupted, and starts no second one meanwhile", () =>
    Effect.gen(function*() {
      const calls: Array<string> = []
      let running = 0
      const session = yield* Session.make({
        acquire: Effect.succeed("v0"),
        renew: (value) =>
          Effect.gen(function*() {
            calls.push(value)
            running++
            yield* Effect.sleep("100 seconds")
            running--
            return yield* Effect.fail(new Refused("no"))
          }).pipe(Effect.uninterruptible),
        budget: { refreshes: 100, within: "1 minute" }
      })
      const stale = yield* session.current
      for (const seconds of [0, 31, 63]) {
        yield* TestClock.setTime(seconds * 1000)
        const waiting = yield* Effect.fork(Effect.exit(session.refresh(stale)))
        yield* settle
        assert.strictEqual(running, 1)
        yield* TestClock.adjust("30 seconds")
        assert.strictEqual(failureOf(yield* Fiber.join(waiting))._tag, "RefreshTimeout")
        assert.deepStrictEqual([running, calls], [1, ["v0"]])
      }
      yield* TestClock.setTime(97_000)
      const last = yield* Effect.fork(Effect.exit(session.refresh(stale)))
      yield* TestClock.setTime(100_000)
      yield* settle
      assert.deepStrictEqual([running, calls], [1, ["v0", "v0"]])
      yield* TestClock.setTime(127_000)
      assert.strictEqual(failureOf(yield* Fiber.join(last))._tag, "RefreshTimeout")
      yield* TestClock.setTime(200_000)
      assert.strictEqual(running, 0)
    }))
})
