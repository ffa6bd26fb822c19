import { assert, describe, it } from "@effect/vitest"
import * as Session from "effect-holdfast/Session"
import * as Effect from "effect/Effect"
import { failureOf } from "../support/exits.js"
import { Refused, upstream } from "../support/sessions.js"

describe("S16: wake", () => {
  it.scoped("ends a cooldown immediately, and leaves the token, the count of failures and the budget as they are", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, budget: { refreshes: 3, within: "1 hour" } })
      const stale = yield* session.current
      const down = Array.from({ length: 3 }, () => Effect.fail(new Refused("down")))
      up.next(...down)
      for (const cooldown of [1000, 2000]) {
        yield* Effect.exit(session.refresh(stale))
        const failing = yield* session.status
        assert.isTrue(failing._tag === "Failing" && failing.retryAt - failing.since === cooldown)
        yield* Session.wake(session)
        const woken = yield* session.status
        assert.isTrue(
          woken._tag === "Failing" && woken.retryAt === woken.since && woken.consecutive === cooldown / 1000
        )
        assert.strictEqual(yield* session.current, stale)
      }
      assert.strictEqual(up.calls.length, 3)
      yield* Effect.exit(session.refresh(stale))
      yield* Session.wake(session)
      assert.strictEqual(failureOf(yield* Effect.exit(session.refresh(stale)))._tag, "RefreshBudgetExceeded")
    }))

  it.scoped("does nothing without a cooldown, or to a session that is closed", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make(up)
      yield* Session.wake(session)
      const first = yield* session.current
      yield* Session.wake(session)
      assert.strictEqual(yield* session.current, first)
      assert.deepStrictEqual(up.calls, ["acquire"])
      const closed = yield* Effect.scoped(Session.make(up))
      yield* Session.wake(closed)
      assert.strictEqual((yield* closed.status)._tag, "Closed")
    }))
})
