import { assert, describe, it } from "@effect/vitest"
import * as Session from "effect-holdfast/Session"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/TestClock"
import { many } from "../support/exits.js"
import { held, Refused, upstream } from "../support/sessions.js"
import { settle } from "../support/settle.js"

describe("status", () => {
  it.scoped("shows the session's phase, with times and counts", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, maxAge: "1 minute" })
      const counts = (refreshes: number, failures: number) => ({ refreshes, failures })
      assert.deepStrictEqual(yield* session.status, { _tag: "Idle", ...counts(0, 0) })
      const signIn = yield* held(Effect.succeed("token"))
      up.next(signIn.answer)
      const waiting = yield* Effect.fork(many(3, session.current))
      yield* settle
      assert.deepStrictEqual(yield* session.status, {
        _tag: "Refreshing",
        since: 0,
        waiters: 3,
        serving: false,
        ...counts(0, 0)
      })
      yield* signIn.release
      yield* Fiber.join(waiting)
      assert.deepStrictEqual(yield* session.status, {
        _tag: "Active",
        generation: 0,
        acquiredAt: 0,
        expiresAt: 60_000,
        ...counts(1, 0)
      })
      yield* TestClock.adjust("10 seconds")
      up.next(Effect.fail(new Refused("no")))
      yield* Effect.exit(session.refresh(yield* session.current))
      assert.deepStrictEqual(yield* session.status, {
        _tag: "Failing",
        consecutive: 1,
        since: 10_000,
        retryAt: 11_000,
        serving: true,
        ...counts(1, 1)
      })
      yield* TestClock.adjust("50 seconds")
      const failing = yield* session.status
      assert.isTrue(failing._tag === "Failing" && !failing.serving)
    }))
})
