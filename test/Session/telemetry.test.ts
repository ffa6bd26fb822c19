/** The logs, metrics and spans of a session. */
import { assert, describe, it } from "@effect/vitest"
import * as Session from "effect-holdfast/Session"
import * as Effect from "effect/Effect"
import * as HashMap from "effect/HashMap"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as TestClock from "effect/TestClock"
import { sumOf } from "../support/metrics.js"
import { Refused, upstream } from "../support/sessions.js"
import { settle } from "../support/settle.js"

/** The sessions of each test have their own name, since metrics belong to the process. */
let names = 0
const newName = () => `session telemetry ${names++}`

/** The log lines of an effect at Info and above: level, message, and the session. */
const logging = <A, E, R>(effect: (lines: Array<string>) => Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const lines: Array<string> = []
    const logger = Logger.make(({ annotations, logLevel, message }) => {
      if (LogLevel.lessThan(logLevel, LogLevel.Info)) return
      lines.push(
        [logLevel.label, String(message), Option.getOrElse(HashMap.get(annotations, "session"), () => "none")].join(
          " | "
        )
      )
    })
    return Effect.provide(effect(lines), Logger.add(logger))
  })

describe("logs", () => {
  it.scoped("that throw keep a session neither from its revocation nor from a sign-in", () =>
    Effect.gen(function*() {
      const revoked: Array<string> = []
      const up = upstream()
      const session = yield* Session.make({
        ...up,
        fatal: () => true,
        onEnd: (value) => Effect.sync(() => revoked.push(value))
      })
      const first = yield* session.current
      up.next(Effect.fail(new Refused("invalid_grant")))
      assert.strictEqual((yield* session.refresh(first)).value, "v1")
      yield* session.end
      assert.deepStrictEqual([revoked, up.calls], [["v1"], ["acquire", "renew v0", "acquire"]])
    }).pipe(Effect.provide(Logger.add(Logger.make(() => {
      throw new Error("no disk")
    })))))

  it.scoped("warn of a failed refresh once, with the tag of its error and without its message", () =>
    logging((lines) =>
      Effect.gen(function*() {
        const up = upstream()
        const session = yield* Session.make({ ...up, name: "api", cooldown: 0, timeout: "1 second" })
        const first = yield* session.current
        assert.deepStrictEqual(lines, [])
        up.next(
          Effect.fail(new Refused("secret")),
          Effect.fail(Object.assign(new Refused("secret"), { reason: "rate_limited" })),
          Effect.fail(Object.assign(new Refused("secret"), { reason: "token secret0" })),
          Effect.die(new TypeError("secret")),
          Effect.interrupt
        )
        for (let i = 0; i < 5; i++) yield* Effect.exit(session.refresh(first))
        assert.deepStrictEqual(lines, [
          "WARN | api: refresh ended in failure (Refused) after 0 ms, 1 waited for it | api",
          "WARN | api: refresh ended in failure (Refused, rate_limited) after 0 ms, 1 waited for it | api",
          "WARN | api: refresh ended in failure (Refused) after 0 ms, 1 waited for it | api",
          "WARN | api: refresh ended in defect (TypeError) after 0 ms, 1 waited for it | api",
          "WARN | api: refresh ended in interrupted (RefreshInterrupted) after 0 ms, 1 waited for it | api"
        ])
      })
    ))

  it.scoped("name the error of the last attempt of a refresh that has timed out", () =>
    logging((lines) =>
      Effect.gen(function*() {
        const session = yield* Session.make({
          acquire: Effect.fail(new Refused("secret")),
          retry: Schedule.spaced("1 minute"),
          name: "api"
        })
        yield* Effect.fork(Effect.exit(session.current))
        yield* TestClock.adjust("30 seconds")
        assert.deepStrictEqual(lines, [
          "WARN | api: refresh ended in timeout (RefreshTimeout after Refused) after 30000 ms, 1 waited for it | api"
        ])
      })
    ))

  it.scoped("warn once that the budget is spent, and that the credential is given up; its end is logged at Info", () =>
    logging((lines) =>
      Effect.gen(function*() {
        const up = upstream()
        const session = yield* Session.make({
          ...up,
          name: "api",
          budget: { refreshes: 1, within: "1 minute" },
          fatal: ({ _tag }) => _tag === "Refused"
        })
        up.next(Effect.succeed("first"), Effect.fail(new Refused("dead")))
        yield* session.refresh(yield* session.current)
        for (let i = 0; i < 3; i++) yield* Effect.exit(Effect.flatMap(session.current, session.refresh))
        yield* session.end
        yield* session.end
        yield* settle
        assert.deepStrictEqual(lines, [
          "WARN | api: gives its credential up: it was refused for good | api",
          "WARN | api: gives up for now: its budget of refreshes is spent | api",
          "INFO | api: was ended | api"
        ])
      })
    ))

  it.scoped("S14: a timeout is a warning only when the late answer is a failure or does not come", () =>
    logging((lines) =>
      Effect.gen(function*() {
        const up = upstream()
        const session = yield* Session.make({ ...up, name: "api", cooldown: 0, timeout: "2 seconds" })
        const first = yield* session.current
        const lateBy = (answer: Effect.Effect<string, Refused>) =>
          Effect.gen(function*() {
            up.next(answer)
            const refresh = yield* Effect.fork(Effect.flatMap(session.current, session.refresh))
            yield* settle
            yield* TestClock.adjust("2 seconds")
            assert.strictEqual((yield* Effect.flip(refresh))._tag, "RefreshTimeout")
            assert.deepStrictEqual(lines, [])
            yield* TestClock.adjust("2 seconds")
            yield* settle
            return lines.splice(0)
          })
        assert.deepStrictEqual(yield* lateBy(Effect.delay(Effect.succeed("token"), "3 seconds")), [])
        assert.strictEqual((yield* session.current).number, first.number + 1)
        assert.deepStrictEqual(yield* lateBy(Effect.delay(Effect.fail(new Refused("secret")), "3 seconds")), [
          "WARN | api: refresh ended in timeout, and then in failure (Refused) | api"
        ])
        assert.deepStrictEqual(yield* lateBy(Effect.never), [
          "WARN | api: refresh ended in timeout, and no answer came late either | api"
        ])
      })
    ))

  it.effect("S14: closing a session while a late answer is awaited is no warning", () =>
    logging((lines) =>
      Effect.gen(function*() {
        yield* Effect.scoped(Effect.gen(function*() {
          const up = upstream()
          const session = yield* Session.make({ ...up, name: "api", timeout: "2 seconds" })
          const first = yield* session.current
          up.next(Effect.never)
          const refresh = yield* Effect.fork(Effect.flip(session.refresh(first)))
          yield* settle
          yield* TestClock.adjust("2 seconds")
          yield* refresh
        }))
        assert.deepStrictEqual(lines, [])
      })
    ))
})

describe("metrics", () => {
  it.scoped("show how long refreshes took, by outcome", () =>
    Effect.gen(function*() {
      const name = newName()
      const up = upstream()
      const session = yield* Session.make({ ...up, name, cooldown: 0, timeout: "2 seconds" })
      up.next(Effect.delay(Effect.succeed("token"), "1 second"), Effect.never)
      const signIn = yield* Effect.fork(session.current)
      yield* settle
      yield* TestClock.adjust("1 second")
      const first = yield* signIn
      const refresh = yield* Effect.fork(Effect.exit(session.refresh(first)))
      yield* settle
      yield* TestClock.adjust("2 seconds")
      yield* refresh
      for (const outcome of ["success", "timeout"]) {
        assert.strictEqual(sumOf("holdfast_session_refresh_duration_seconds", { session: name, outcome }), 1)
      }
    }))

  it.effect("show when the first value of the sessions of one name expires, if any does", () =>
    Effect.gen(function*() {
      const name = newName()
      const expiry = () => sumOf("holdfast_session_expiry_timestamp_seconds", { session: name })
      const made = (minutes: number) =>
        Session.make({ acquire: Effect.succeed("token"), name, maxAge: `${minutes} minutes` })
      yield* Effect.scoped(Effect.gen(function*() {
        const late = yield* made(10)
        assert.strictEqual(expiry(), 0)
        yield* late.current
        assert.strictEqual(expiry(), 600)
        yield* Effect.scoped(Effect.gen(function*() {
          const soon = yield* made(1)
          yield* soon.current
          assert.strictEqual(expiry(), 60)
          yield* TestClock.adjust("30 seconds")
          yield* soon.refresh(yield* soon.current)
          assert.strictEqual(expiry(), 90)
        }))
        assert.strictEqual(expiry(), 600)
        yield* late.end
        assert.strictEqual(expiry(), 0)
        yield* late.current
        assert.strictEqual(expiry(), 630)
      }))
      assert.strictEqual(expiry(), 0)
    }))
})
