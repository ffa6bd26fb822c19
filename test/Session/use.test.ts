import { assert, describe, it } from "@effect/vitest"
import { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as Session from "effect-holdfast/Session"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { failureOf, many } from "../support/exits.js"
import { Refused, upstream } from "../support/sessions.js"

describe("use", () => {
  it.scoped("refreshes the generation that it ran with if the failure is a refusal, and runs again", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make(up)
      const seen: Array<string> = []
      const call = Session.use(session, (value) => {
        seen.push(value)
        return value === "v0" ? Effect.fail(new Refused("401")) : Effect.succeed(`ok ${value}`)
      }, { rejected: (error) => error.why === "401" })
      assert.deepStrictEqual(
        (yield* many(20, call)).map((exit) => Exit.getOrElse(exit, String)),
        Array.from({ length: 20 }, () => "ok v1")
      )
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0"])
    }))

  it.scoped("runs `1 + maxRefreshes` times at most; then its own failure is the answer", () =>
    Effect.gen(function*() {
      for (const maxRefreshes of [0, 1, 3]) {
        const session = yield* Session.make(upstream())
        let runs = 0
        const error = new Refused("401")
        const exit = yield* Effect.exit(Session.use(session, () => {
          runs++
          return Effect.fail(error)
        }, { rejected: () => true, maxRefreshes }))
        assert.strictEqual(failureOf(exit), error)
        assert.strictEqual(runs, 1 + maxRefreshes)
      }
    }))

  it.scoped("passes on other failures, defects and interruption, and refreshes nothing", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make(up)
      const rejected = (error: Refused) => error.why === "401"
      const error = new Refused("500")
      assert.strictEqual(
        failureOf(yield* Effect.exit(Session.use(session, () => Effect.fail(error), { rejected }))),
        error
      )
      assert.strictEqual(failureOf(yield* Effect.exit(Session.use(session, () => Effect.fail(error)))), error)
      const died = yield* Effect.exit(Session.use(session, () => Effect.die("boom"), { rejected }))
      assert.isTrue(Exit.isFailure(died) && Cause.isDie(died.cause))
      const thrown = yield* Effect.exit(Session.use(session, (): Effect.Effect<void> => {
        throw new Error("boom")
      }, { rejected }))
      assert.isTrue(Exit.isFailure(thrown) && Cause.isDie(thrown.cause))
      const interrupted = yield* Effect.exit(Session.use(session, () => Effect.interrupt, { rejected }))
      assert.isTrue(Exit.isInterrupted(interrupted))
      assert.deepStrictEqual(up.calls, ["acquire"])
    }))

  it.scoped("fails with the error of the refresh if that fails", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make(up)
      yield* session.current
      const error = new Refused("refresh")
      up.next(Effect.fail(error))
      const exit = yield* Effect.exit(
        Session.use(session, () => Effect.fail(new Refused("401")), { rejected: () => true })
      )
      assert.strictEqual(failureOf(exit), error)
    }))

  it.scoped("fails with InvalidOptions for `maxRefreshes` that make no sense and a `rejected` that throws", () =>
    Effect.gen(function*() {
      const session = yield* Session.make(upstream())
      for (const maxRefreshes of [NaN, -1, 1.5, Infinity]) {
        const failure = failureOf(yield* Effect.exit(Session.use(session, Effect.succeed, { maxRefreshes })))
        assert.instanceOf(failure, InvalidOptions)
        assert.strictEqual((failure as InvalidOptions).option, "maxRefreshes")
      }
      const failure = failureOf(
        yield* Effect.exit(Session.use(session, () => Effect.fail(new Refused("401")), {
          rejected: () => {
            throw new TypeError("a secret")
          }
        }))
      )
      assert.instanceOf(failure, InvalidOptions)
      assert.notInclude((failure as InvalidOptions).message, "secret")
      assert.strictEqual(yield* Session.use(session, Effect.succeed), "v0")
    }))

  it.scoped("can be piped", () =>
    Effect.gen(function*() {
      const session = yield* Session.make(upstream())
      assert.strictEqual(yield* session.pipe(Session.use((value) => Effect.succeed(value))), "v0")
    }))
})
