import { assert, describe, it } from "@effect/vitest"
import * as Session from "effect-holdfast/Session"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schedule from "effect/Schedule"
import * as TestClock from "effect/TestClock"
import { failureOf, many } from "../support/exits.js"
import { Refused, settableTimeOfDay, upstream, valuesOf } from "../support/sessions.js"

describe("fatal", () => {
  const isFatal = (error: Refused) => error.why === "invalid_grant"

  it.scoped("a credential that is refused for good is forgotten, and the same refresh signs in again", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, fatal: isFatal, retry: Schedule.recurs(5) })
      const stale = yield* session.current
      up.next(Effect.fail(new Refused("invalid_grant")))
      assert.deepStrictEqual(new Set(valuesOf(yield* many(20, session.refresh(stale)))), new Set(["v1"]))
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0", "acquire"])
    }))

  it.scoped("if the sign-in fails too, the forgotten value is neither served nor renewed again", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, fatal: isFatal })
      const stale = yield* session.current
      const down = new Refused("down")
      up.next(Effect.fail(new Refused("invalid_grant")), Effect.fail(down))
      assert.strictEqual(failureOf(yield* Effect.exit(session.refresh(stale))), down)
      assert.strictEqual(failureOf(yield* Effect.exit(session.current)), down)
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* session.current).value, "v1")
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0", "acquire", "acquire"])
    }))

  it.scoped("without a `renew`, a fatal failure forgets the value, and nothing is retried", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ acquire: up.acquire, fatal: isFatal, retry: Schedule.recurs(5) })
      const stale = yield* session.current
      const dead = new Refused("invalid_grant")
      up.next(Effect.fail(dead))
      assert.strictEqual(failureOf(yield* Effect.exit(session.refresh(stale))), dead)
      assert.strictEqual(failureOf(yield* Effect.exit(session.current)), dead)
      assert.deepStrictEqual(up.calls, ["acquire", "acquire"])
    }))

  it.scoped("is given the error itself, not a copy, and so is `retry`", () =>
    Effect.gen(function*() {
      class Unready {
        readonly #why: string
        constructor(why: string) {
          this.#why = why
        }
        get why() {
          return this.#why
        }
      }
      const [down, dead] = [new Unready("down"), new Unready("invalid_grant")]
      const failures = [down, dead]
      const [judged, retried]: [Array<Unready>, Array<Unready>] = [[], []]
      const session = yield* Session.make({
        acquire: Effect.succeed("fresh"),
        renew: () => Effect.suspend(() => Effect.fail(failures.shift()!)),
        initial: "old",
        fatal: (error: Unready) => {
          judged.push(error)
          return error.why === "invalid_grant"
        },
        retry: Schedule.recurWhile<Unready>((error) => {
          retried.push(error)
          return error.why === "down"
        })
      })
      assert.strictEqual((yield* session.refresh(yield* session.current)).value, "fresh")
      for (const error of judged) assert.include([down, dead], error)
      for (const error of retried) assert.include([down, dead], error)
      assert.deepStrictEqual(new Set(judged), new Set([down, dead]))
      assert.isNotEmpty(retried)
    }))

  it.scoped("a value of the new sign-in that `onRenewed` failed to write is kept, and renewed once expired", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({
        ...up,
        fatal: isFatal,
        maxAge: "10 seconds",
        cooldown: 0,
        onRenewed: ({ value }) => value === "v1" ? Effect.fail(new Refused("disk full")) : Effect.void
      })
      const stale = yield* session.current
      up.next(Effect.fail(new Refused("invalid_grant")))
      yield* Effect.exit(session.refresh(stale))
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual((yield* session.current).value, "v2")
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0", "acquire", "renew v1"])
    }))

  it.scoped("a kept value that was forgotten does not come back, not even if the clock is set back", () =>
    Effect.gen(function*() {
      const { timeOfDay, withTimeOfDay } = yield* settableTimeOfDay
      const up = upstream()
      const [log, written]: [Array<string>, Array<string>] = [[], []]
      let isFull = true
      const session = yield* Session.make({
        acquire: Effect.acquireRelease(up.acquire, (value) => Effect.sync(() => log.push(`close ${value}`))),
        renew: (value: string) =>
          Effect.acquireRelease(up.renew(value), (next) => Effect.sync(() => log.push(`close ${next}`))),
        fatal: isFatal,
        maxAge: "10 minutes",
        cooldown: 0,
        onRenewed: ({ value }: Session.Generation<string>) =>
          isFull && value === "v1" ? Effect.fail(new Refused("disk full")) : Effect.sync(() => written.push(value)),
        onEnd: (value: string) => Effect.sync(() => log.push(`revoke ${value}`))
      }).pipe(withTimeOfDay)
      const stale = yield* session.current
      yield* Effect.exit(session.refresh(stale))
      isFull = false
      timeOfDay.offset = 3_600_000
      up.next(Effect.fail(new Refused("invalid_grant")), Effect.fail(new Refused("down")))
      yield* Effect.exit(session.current)
      assert.deepStrictEqual(log, ["close v1"])
      timeOfDay.offset = 0
      assert.strictEqual((yield* session.current).value, "v2")
      assert.deepStrictEqual(written, ["v0", "v2"])
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0", "renew v1", "acquire", "acquire"])
    }))

  it.scoped("if it throws, that is a defect of this refresh, and the session goes on", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({
        ...up,
        fatal: () => {
          throw new Error("boom")
        }
      })
      const stale = yield* session.current
      up.next(Effect.fail(new Refused("no")))
      const exit = yield* Effect.exit(session.refresh(stale))
      assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* session.refresh(stale)).value, "v1")
    }))
})
