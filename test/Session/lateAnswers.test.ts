import { assert, describe, it } from "@effect/vitest"
import * as Session from "effect-holdfast/Session"
import type * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import { failureOf, many } from "../support/exits.js"
import { Refused, valuesOf } from "../support/sessions.js"
import { settle } from "../support/settle.js"

describe("S14: a late answer", () => {
  /**
   * A session whose renewals take the given numbers of seconds, one after the other; `log` records what began and what
   * ended.
   */
  const late = (seconds: ReadonlyArray<number>, options: Partial<Session.Options<string, Refused>> = {}) =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const durations = [...seconds]
      const failures = new Map<number, Refused>()
      let renewals = 0
      let running = 0
      const session = yield* Session.make({
        acquire: Effect.sync(() => {
          log.push("acquire")
          return "v0"
        }),
        renew: (value) =>
          Effect.gen(function*() {
            const number = ++renewals
            log.push(`renew ${value}`)
            assert.strictEqual(++running, 1, "two renewals beside each other")
            yield* Effect.sleep((durations.shift() ?? 0) * 1000)
            const failure = failures.get(number)
            return failure === undefined ? `v${number}` : yield* Effect.fail(failure)
          }).pipe(
            Effect.onInterrupt(() => Effect.sync(() => log.push("cut"))),
            Effect.ensuring(Effect.sync(() => running--))
          ),
        onRenewed: ({ value }) => Effect.sync(() => log.push(`stored ${value}`)),
        onEnd: (value) => Effect.sync(() => log.push(`revoked ${value}`)),
        fatal: (error) => error.why === "invalid_grant",
        ...options
      })
      const stale = yield* session.current
      log.length = 0
      return { failures, log, session, stale }
    })

  /** Refreshes, and lets the refresh time out. */
  const timeOut = (session: Session.Session<string, Refused>, stale: Session.Generation<string>) =>
    Effect.gen(function*() {
      const waiting = yield* Effect.fork(many(3, session.refresh(stale)))
      yield* TestClock.adjust("30 seconds")
      for (const exit of yield* Fiber.join(waiting)) assert.strictEqual(failureOf(exit)._tag, "RefreshTimeout")
    })

  it.scoped("is written down, becomes current immediately, and ends the cooldown", () =>
    Effect.gen(function*() {
      const { log, session, stale } = yield* late([45], { cooldown: "1 hour" })
      const seen: Array<string> = []
      yield* Effect.fork(
        Stream.runForEach(Session.changes(session), ({ value }) => Effect.sync(() => seen.push(value)))
      )
      yield* timeOut(session, stale)
      yield* TestClock.adjust("14999 millis")
      assert.strictEqual(yield* session.current, stale)
      assert.strictEqual(failureOf(yield* Effect.exit(session.refresh(stale)))._tag, "RefreshTimeout")
      yield* TestClock.adjust("1 millis")
      yield* settle
      assert.deepStrictEqual(log, ["renew v0", "stored v1"])
      assert.strictEqual((yield* session.current).value, "v1")
      assert.strictEqual((yield* session.refresh(stale)).value, "v1")
      assert.deepInclude(yield* session.status, { _tag: "Active", refreshes: 2, failures: 1 })
      assert.deepStrictEqual(seen, ["v0", "v1"])
      assert.strictEqual((yield* session.refresh(yield* session.current)).value, "v2")
      assert.deepStrictEqual(log, ["renew v0", "stored v1", "renew v1", "stored v2"])
    }))

  it.scoped("is awaited by callers that come after the cooldown, and answers them", () =>
    Effect.gen(function*() {
      const { log, session, stale } = yield* late([45])
      yield* timeOut(session, stale)
      yield* TestClock.adjust("1 second")
      const waiting = yield* Effect.fork(many(3, session.refresh(stale)))
      yield* settle
      const asking = yield* Effect.fork(session.current)
      yield* settle
      assert.strictEqual((yield* session.status)._tag, "Refreshing")
      yield* TestClock.adjust("14 seconds")
      assert.deepStrictEqual(valuesOf(yield* Fiber.join(waiting)), ["v1", "v1", "v1"])
      assert.strictEqual((yield* Fiber.join(asking)).value, "v1")
      assert.deepStrictEqual(log, ["renew v0", "stored v1"])
    }))

  it.scoped("that is a failure: the caller that waited for it tries again, in the rest of its timeout", () =>
    Effect.gen(function*() {
      const { failures, log, session, stale } = yield* late([45, 5])
      failures.set(1, new Refused("down"))
      yield* timeOut(session, stale)
      yield* TestClock.adjust("1 second")
      const waiting = yield* Effect.fork(session.refresh(stale))
      yield* TestClock.adjust("14 seconds")
      yield* settle
      assert.deepStrictEqual(log, ["renew v0", "renew v0"])
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual((yield* Fiber.join(waiting)).value, "v2")
    }))

  it.scoped("is interrupted after `lateness`, by default as long as `timeout`; then the next renewal begins", () =>
    Effect.gen(function*() {
      const { log, session, stale } = yield* late([1000, 5])
      yield* timeOut(session, stale)
      yield* TestClock.adjust("29 seconds")
      const waiting = yield* Effect.fork(session.refresh(stale))
      yield* TestClock.adjust("999 millis")
      assert.deepStrictEqual(log, ["renew v0"])
      yield* TestClock.adjust("1 millis")
      yield* settle
      assert.deepStrictEqual(log, ["renew v0", "cut", "renew v0"])
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual((yield* Fiber.join(waiting)).value, "v2")
    }))

  it.scoped("is awaited alone: no other renewal runs, however many refreshes time out meanwhile", () =>
    Effect.gen(function*() {
      const { log, session, stale } = yield* late([600], {
        lateness: Infinity,
        cooldown: "1 second",
        budget: { refreshes: 1, within: "1 hour" }
      })
      yield* timeOut(session, stale)
      for (let i = 0; i < 10; i++) {
        yield* TestClock.adjust("1 second")
        yield* timeOut(session, stale)
      }
      assert.deepStrictEqual(log, ["renew v0"])
      yield* TestClock.setTime(600_000)
      yield* settle
      assert.deepStrictEqual(log, ["renew v0", "stored v1"])
      assert.strictEqual((yield* session.refresh(stale)).value, "v1")
    }))

  it.scoped("that is a failure: no further renewal begins beyond the budget", () =>
    Effect.gen(function*() {
      const { failures, log, session, stale } = yield* late([45], { budget: { refreshes: 1, within: "1 hour" } })
      failures.set(1, new Refused("down"))
      yield* timeOut(session, stale)
      yield* TestClock.adjust("1 second")
      const waiting = yield* Effect.fork(Effect.exit(session.refresh(stale)))
      yield* TestClock.adjust("14 seconds")
      assert.strictEqual(failureOf(yield* Fiber.join(waiting))._tag, "RefreshBudgetExceeded")
      assert.deepStrictEqual(log, ["renew v0"])
    }))

  it.scoped("that is cut: the caller that waited for it gets the failure if the budget allows no further renewal", () =>
    Effect.gen(function*() {
      const { log, session, stale } = yield* late([1000], { budget: { refreshes: 1, within: "1 hour" } })
      yield* timeOut(session, stale)
      yield* TestClock.adjust("29 seconds")
      const waiting = yield* Effect.fork(Effect.exit(session.refresh(stale)))
      yield* TestClock.adjust("1 second")
      yield* settle
      assert.deepStrictEqual(log, ["renew v0", "cut"])
      assert.strictEqual(failureOf(yield* Fiber.join(waiting))._tag, "RefreshBudgetExceeded")
    }))

  it.scoped("is not waited for if there is only `acquire`, or if `lateness` is 0", () =>
    Effect.gen(function*() {
      let cuts = 0
      let slow = false
      const acquire = Effect.suspend(() => slow ? Effect.never : Effect.succeed("token")).pipe(
        Effect.onInterrupt(() => Effect.sync(() => cuts++))
      )
      for (const options of [{ acquire }, { acquire, renew: () => acquire, lateness: 0 }]) {
        slow = false
        const session = yield* Session.make(options)
        const stale = yield* session.current
        slow = true
        const waiting = yield* Effect.fork(Effect.exit(session.refresh(stale)))
        yield* TestClock.adjust("30 seconds")
        assert.strictEqual(failureOf(yield* Fiber.join(waiting))._tag, "RefreshTimeout")
        yield* settle
      }
      assert.strictEqual(cuts, 2)
    }))

  it.scoped("is awaited for longer than a timer can last", () =>
    Effect.gen(function*() {
      const clock = yield* Effect.clock
      // Like the live clock: JavaScript's timers overflow.
      const sleep: Clock.Clock["sleep"] = (duration) =>
        Duration.toMillis(duration) > 2 ** 31 - 1 ? Effect.never : clock.sleep(duration)
      const { log, session, stale } = yield* Effect.withClock(
        late([Infinity], { lateness: "60 days" }),
        Object.assign(Object.create(clock), { sleep })
      )
      yield* timeOut(session, stale)
      yield* Effect.repeatN(TestClock.adjust("1 day"), 58)
      yield* settle
      assert.deepStrictEqual(log, ["renew v0"])
      yield* Effect.repeatN(TestClock.adjust("1 day"), 3)
      yield* settle
      assert.deepStrictEqual(log, ["renew v0", "cut"])
    }))

  it.scoped("that is a fatal failure is remembered: the next refresh signs in", () =>
    Effect.gen(function*() {
      const { failures, log, session, stale } = yield* late([45], { cooldown: "1 minute" })
      failures.set(1, new Refused("invalid_grant"))
      yield* timeOut(session, stale)
      yield* TestClock.adjust("15 seconds")
      yield* settle
      assert.deepStrictEqual(log, ["renew v0"], "nothing further was begun")
      assert.strictEqual(failureOf(yield* Effect.exit(session.current))._tag, "RefreshTimeout")
      yield* TestClock.adjust("45 seconds")
      assert.strictEqual((yield* session.current).number, 1)
      assert.deepStrictEqual(log, ["renew v0", "acquire", "stored v0"])
    }))

  it.scoped("that is a failure is not retried, and a pause between two tries ends with the timeout", () =>
    Effect.gen(function*() {
      const one = yield* late([45], { retry: Schedule.recurs(5) })
      one.failures.set(1, new Refused("down"))
      yield* timeOut(one.session, one.stale)
      yield* TestClock.adjust("29 seconds")
      yield* settle
      assert.deepStrictEqual(one.log, ["renew v0"])

      const other = yield* late([1], { retry: Schedule.spaced("40 seconds") })
      other.failures.set(1, new Refused("down"))
      yield* timeOut(other.session, other.stale)
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* other.session.refresh(other.stale)).value, "v2")
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(other.log, ["renew v0", "renew v0", "stored v2"])
    }))

  it.scoped("is written by an `onRenewed` that outlasts the timeout; if that fails, its value is kept", () =>
    Effect.gen(function*() {
      let fail = true
      const stored: Array<string> = []
      const { log, session, stale } = yield* late([], {
        onRenewed: ({ value }) =>
          value === "v0" ? Effect.void : Effect.delay(
            Effect.suspend(() => fail ? Effect.die("disk full") : Effect.sync(() => void stored.push(value))),
            "40 seconds"
          ),
        retry: Schedule.recurs(5)
      })
      yield* timeOut(session, stale)
      yield* TestClock.adjust("10 seconds")
      fail = false
      const waiting = yield* Effect.fork(Effect.exit(session.refresh(stale)))
      yield* TestClock.adjust("30 seconds")
      assert.strictEqual(failureOf(yield* Fiber.join(waiting))._tag, "RefreshTimeout")
      yield* TestClock.adjust("10 seconds")
      yield* settle
      assert.strictEqual((yield* session.current).value, "v1")
      assert.deepStrictEqual([log, stored], [["renew v0"], ["v1"]])
    }))

  it.scoped("after `end` is revoked, not written down, and not current", () =>
    Effect.gen(function*() {
      const { log, session, stale } = yield* late([45])
      yield* timeOut(session, stale)
      yield* TestClock.adjust("1 second")
      const behind = yield* Effect.fork(Effect.exit(session.refresh(stale)))
      yield* settle
      yield* session.end
      assert.strictEqual(failureOf(yield* Fiber.join(behind))._tag, "SessionEnded")
      assert.strictEqual((yield* session.current).number, 1)
      yield* TestClock.adjust("14 seconds")
      yield* settle
      assert.deepStrictEqual(log, ["renew v0", "revoked v0", "acquire", "stored v0", "revoked v1"])
      assert.strictEqual((yield* session.current).number, 1)
    }))

  it.effect("is interrupted when the scope closes", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const { log, session, stale } = yield* Scope.extend(late([45]), scope)
      yield* timeOut(session, stale)
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(log, ["renew v0", "cut"])
    }))

  it.scoped("is still waited for after `wake`", () =>
    Effect.gen(function*() {
      const { log, session, stale } = yield* late([45])
      yield* timeOut(session, stale)
      yield* Session.wake(session)
      const waiting = yield* Effect.fork(session.refresh(stale))
      yield* TestClock.adjust("15 seconds")
      assert.strictEqual((yield* Fiber.join(waiting)).value, "v1")
      assert.deepStrictEqual(log, ["renew v0", "stored v1"])
    }))

  it.scoped("fails with ReentrantRefresh if it asks its own session", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const session: Session.Session<string> = yield* Session.make({
        acquire: Effect.succeed("v0"),
        renew: () =>
          Effect.gen(function*() {
            yield* Effect.sleep("45 seconds")
            const exit = yield* Effect.exit(session.refresh(stale))
            seen.push(failureOf(exit)._tag)
            return "v1"
          })
      })
      const stale = yield* session.current
      const first = yield* Effect.fork(Effect.exit(session.refresh(stale)))
      yield* TestClock.adjust("30 seconds")
      yield* Fiber.join(first)
      yield* TestClock.adjust("14 seconds")
      const second = yield* Effect.fork(session.refresh(stale))
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(second)).value, "v1")
      assert.deepStrictEqual(seen, ["ReentrantRefresh"])
    }))

  it.scoped("fails with ReentrantRefresh if it asks a session that waits for it", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const outer: Session.Session<string, unknown> = yield* Session.make<string, unknown, never, unknown>({
        acquire: Effect.succeed("v0"),
        // After its timeout it asks the inner session, whose sign-in asks this session in turn.
        renew: () =>
          Effect.zipRight(Effect.sleep("45 seconds"), Effect.exit(inner.current)).pipe(
            Effect.tap((exit) => Effect.sync(() => seen.push((failureOf(exit) as { readonly _tag: string })._tag))),
            Effect.as("v1")
          )
      })
      const stale = yield* outer.current
      const inner: Session.Session<string, unknown> = yield* Session.make({
        acquire: Effect.map(outer.refresh(stale), ({ value }) => value)
      })
      const first = yield* Effect.fork(Effect.exit(outer.refresh(stale)))
      yield* TestClock.adjust("30 seconds")
      yield* Fiber.join(first)
      yield* TestClock.adjust("14 seconds")
      const second = yield* Effect.fork(outer.refresh(stale))
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(second)).value, "v1")
      assert.deepStrictEqual(seen, ["ReentrantRefresh"])
    }))
})
