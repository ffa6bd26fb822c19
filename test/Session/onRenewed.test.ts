import { assert, describe, it } from "@effect/vitest"
import * as Session from "effect-holdfast/Session"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schedule from "effect/Schedule"
import * as TestClock from "effect/TestClock"
import { failureOf } from "../support/exits.js"
import { Refused, upstream } from "../support/sessions.js"
import { settle } from "../support/settle.js"

describe("onRenewed", () => {
  it.scoped("is given each new generation before any caller is", () =>
    Effect.gen(function*() {
      const up = upstream()
      const stored: Array<string> = []
      const gate = yield* Deferred.make<void>()
      const session = yield* Session.make({
        ...up,
        onRenewed: ({ number, value }) =>
          Effect.zipRight(Deferred.await(gate), Effect.sync(() => stored.push(`${number} ${value}`)))
      })
      const asking = yield* Effect.fork(session.current)
      yield* settle
      assert.isNull(asking.unsafePoll())
      yield* Deferred.succeed(gate, undefined)
      const first = yield* Fiber.join(asking)
      assert.deepStrictEqual(stored, ["0 v0"])
      yield* session.refresh(first)
      assert.deepStrictEqual(stored, ["0 v0", "1 v1"])
    }))

  it.scoped("if it fails, so does the refresh; its value is kept, and the spent token is not presented again", () =>
    Effect.gen(function*() {
      const up = upstream()
      const broken: Array<Effect.Effect<void, Refused>> = []
      const session = yield* Session.make({
        ...up,
        onRenewed: () => Effect.suspend(() => broken.shift() ?? Effect.void)
      })
      const stale = yield* session.current
      const error = new Refused("disk full")
      broken.push(Effect.fail(error), Effect.die("disk gone"), Effect.interrupt)
      assert.strictEqual(failureOf(yield* Effect.exit(session.refresh(stale))), error)
      assert.strictEqual(yield* session.current, stale)
      yield* TestClock.adjust("1 second")
      assert.isTrue(Exit.isFailure(yield* Effect.exit(session.refresh(stale))))
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(failureOf(yield* Effect.exit(session.refresh(stale)))._tag, "RefreshInterrupted")
      yield* TestClock.adjust("4 seconds")
      assert.strictEqual((yield* session.refresh(stale)).value, "v1")
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0"])
    }))

  it.scoped("if it fails until its value has expired, the next renewal starts from that value", () =>
    Effect.gen(function*() {
      const up = upstream()
      let broken = true
      const session = yield* Session.make({
        ...up,
        expiresAt: (value) => value === "v0" ? 10_000 : Infinity,
        onRenewed: () => broken ? Effect.fail(new Refused("disk full")) : Effect.void
      })
      yield* Effect.exit(session.current)
      broken = false
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual((yield* session.current).value, "v1")
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0"])
    }))

  it.scoped("if it fails until its value is older than `maxAge`, the value is renewed, not served", () =>
    Effect.gen(function*() {
      const up = upstream()
      let broken = true
      const session = yield* Session.make({
        ...up,
        maxAge: "1 minute",
        onRenewed: () => broken ? Effect.fail(new Refused("disk full")) : Effect.void
      })
      yield* Effect.exit(session.current)
      broken = false
      yield* TestClock.adjust("10 minutes")
      assert.deepInclude(yield* session.current, { value: "v1", acquiredAt: 600_000 })
    }))

  it.scoped("has its own type of errors, which `fatal` is not asked about", () =>
    Effect.gen(function*() {
      const full = { _tag: "DiskFull" as const }
      const session = yield* Session.make({
        acquire: Effect.succeed("token") as Effect.Effect<string, Refused>,
        onRenewed: () => Effect.fail(full),
        retry: Schedule.recurs(1),
        fatal: (error) => error.why.startsWith("invalid")
      })
      assert.strictEqual(failureOf(yield* Effect.exit(session.current)), full)
    }))

  it.scoped("is not given `initial`", () =>
    Effect.gen(function*() {
      const stored: Array<string> = []
      const session = yield* Session.make({
        ...upstream(),
        initial: "saved",
        onRenewed: ({ value }) => Effect.sync(() => stored.push(value))
      })
      yield* session.current
      assert.deepStrictEqual(stored, [])
    }))
})
