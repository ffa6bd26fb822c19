import { assert, describe, it } from "@effect/vitest"
import * as Session from "effect-holdfast/Session"
import * as Chunk from "effect/Chunk"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import * as Inside from "../../src/internal/session/inside.js"
import { failureOf, many } from "../support/exits.js"
import { held, Refused, upstream, valuesOf } from "../support/sessions.js"
import { settle } from "../support/settle.js"

/** A session that writes down what `onRenewed` and `onEnd` were given. */
const noting = (options?: Partial<Session.Options<string, Refused, never, Refused, never, Refused>>) =>
  Effect.gen(function*() {
    const up = upstream()
    const written: Array<string> = []
    const revoked: Array<string> = []
    const session = yield* Session.make({
      acquire: up.acquire,
      renew: up.renew,
      onRenewed: ({ value }) => Effect.sync(() => written.push(value)),
      onEnd: (value) => Effect.sync(() => revoked.push(value)),
      ...options
    })
    const { adopt, forget } = Inside.of(session)
    return {
      up,
      written,
      revoked,
      session,
      adopt: (value: string, lifetime: { readonly acquiredAt?: number; readonly expiresAt?: number } = {}) =>
        Effect.flatMap(
          Clock.currentTimeMillis,
          (acquiredAt) => adopt({ value, acquiredAt, expiresAt: Infinity, ...lifetime }, () => true)
        ),
      forget: Effect.sync(forget)
    }
  })

describe("F1: a generation that is adopted", () => {
  it.scoped("is current immediately, with its own number and without a call of the upstream", () =>
    Effect.gen(function*() {
      const { adopt, revoked, session, up, written } = yield* noting()
      const stale = yield* session.current
      yield* TestClock.adjust("1 second")
      yield* adopt("from elsewhere")
      const adopted = yield* session.current
      assert.deepInclude(adopted, { number: 1, value: "from elsewhere", acquiredAt: 1_000, expiresAt: Infinity })
      assert.strictEqual(yield* session.current, adopted)
      assert.strictEqual(yield* session.refresh(stale), adopted)
      assert.deepInclude(yield* session.status, { _tag: "Active", generation: 1, refreshes: 1 })
      assert.deepStrictEqual([up.calls, written, revoked], [["acquire"], ["v0"], []])
    }))

  it.scoped("is renewed like any other when it is refused", () =>
    Effect.gen(function*() {
      const { adopt, session, up } = yield* noting()
      yield* adopt("from elsewhere")
      const adopted = yield* session.current
      const next = yield* session.refresh(adopted)
      assert.deepInclude(next, { number: 1, value: "v0" })
      assert.deepStrictEqual(up.calls, ["renew from elsewhere"])
    }))

  it.scoped("is given to the waiters of a renewal, whose own value is dropped, neither written nor revoked", () =>
    Effect.gen(function*() {
      const { adopt, revoked, session, up, written } = yield* noting()
      const stale = yield* session.current
      const late = yield* held(Effect.succeed("late"))
      up.next(late.answer)
      const waiters = yield* Effect.fork(many(3, session.refresh(stale)))
      yield* late.started
      yield* adopt("from elsewhere")
      const adopted = yield* session.current
      assert.deepStrictEqual(valuesOf(yield* Fiber.join(waiters)), Array.from({ length: 3 }, () => "from elsewhere"))
      yield* late.release
      yield* settle
      assert.strictEqual(yield* session.current, adopted)
      assert.deepStrictEqual([up.calls, written, revoked], [["acquire", "renew v0"], ["v0"], []])
      yield* session.end
      assert.deepStrictEqual(revoked, ["from elsewhere"])
    }))

  it.scoped("ends a cooldown, and replaces a value that could not be written down", () =>
    Effect.gen(function*() {
      let isFull = true
      const { adopt, revoked, session, up } = yield* noting({
        cooldown: "1 hour",
        onRenewed: () => Effect.suspend(() => isFull ? Effect.fail(new Refused("disk full")) : Effect.void)
      })
      assert.deepInclude(failureOf(yield* Effect.exit(session.current)), { why: "disk full" })
      isFull = false
      yield* adopt("from elsewhere")
      const adopted = yield* session.current
      assert.deepInclude(yield* session.status, { _tag: "Active", failures: 1 })
      assert.deepInclude(yield* session.refresh(adopted), { value: "v1" })
      assert.deepStrictEqual([up.calls, revoked], [["acquire", "renew from elsewhere"], []])
    }))

  it.scoped("costs no budget, however often one is adopted, even if it has already expired", () =>
    Effect.gen(function*() {
      const { adopt, session, up } = yield* noting({ budget: { refreshes: 1, within: "1 hour" } })
      for (let i = 0; i < 3; i++) yield* adopt("expired", { expiresAt: 0 })
      assert.deepInclude(yield* session.current, { number: 3, value: "v0" })
      assert.deepStrictEqual(up.calls, ["renew expired"])
      yield* session.refresh(yield* session.current)
      assert.instanceOf(
        failureOf(yield* Effect.exit(Effect.flatMap(session.current, session.refresh))),
        Session.RefreshBudgetExceeded
      )
    }))

  it.scoped("that has already expired is not handed out: waiters of a renewal get the next generation", () =>
    Effect.gen(function*() {
      const { adopt, session, up } = yield* noting()
      const stale = yield* session.current
      const late = yield* held(Effect.succeed("late"))
      up.next(late.answer)
      const waiter = yield* Effect.fork(session.refresh(stale))
      yield* late.started
      yield* adopt("expired", { expiresAt: 0 })
      assert.deepInclude(yield* Fiber.join(waiter), { value: "v1" })
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0", "renew expired"])
    }))

  it.scoped("has the lifetime that it is given, within `maxAge`", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(100_000)
      const { adopt, session } = yield* noting({ maxAge: "1 minute" })
      yield* adopt("long", { acquiredAt: 50_000 })
      assert.deepInclude(yield* session.current, { acquiredAt: 50_000, expiresAt: 110_000 })
      yield* adopt("short", { expiresAt: 130_000 })
      assert.deepInclude(yield* session.current, { acquiredAt: 100_000, expiresAt: 130_000 })
    }))

  it.scoped("gives back what the renewal in flight has cost of the budget, and nothing else", () =>
    Effect.gen(function*() {
      const { adopt, session, up } = yield* noting({ budget: { refreshes: 1, within: "1 hour" } })
      const stale = yield* session.current
      up.next(Effect.never)
      const waiter = yield* Effect.fork(session.refresh(stale))
      yield* settle
      yield* adopt("from elsewhere")
      const adopted = yield* Fiber.join(waiter)
      const next = yield* session.refresh(adopted)
      assert.deepInclude(next, { value: "v1" })
      yield* adopt("from elsewhere")
      const last = yield* session.current
      assert.instanceOf(failureOf(yield* Effect.exit(session.refresh(last))), Session.RefreshBudgetExceeded)
    }))

  it.scoped("leaves the renewal that it has detached the rest of its time, and no more", () =>
    Effect.gen(function*() {
      const { adopt, session, up } = yield* noting({ timeout: "10 seconds", lateness: "5 seconds" })
      const stale = yield* session.current
      let isCut = false
      up.next(Effect.onInterrupt(Effect.never, () => Effect.sync(() => (isCut = true))))
      yield* Effect.fork(session.refresh(stale))
      yield* settle
      yield* adopt("from elsewhere")
      yield* TestClock.adjust("14 seconds")
      assert.isFalse(isCut)
      yield* TestClock.adjust("1 second")
      yield* settle
      assert.isTrue(isCut)
      assert.deepInclude(yield* session.status, { _tag: "Active", failures: 0 })
    }))

  it.scoped("is given to the readers of `changes`", () =>
    Effect.gen(function*() {
      const { adopt, session } = yield* noting()
      const reader = yield* Effect.fork(Stream.runCollect(Stream.take(Session.changes(session), 2)))
      yield* settle
      yield* adopt("one")
      yield* settle
      yield* adopt("two")
      assert.deepStrictEqual(Chunk.toArray(yield* Fiber.join(reader)).map(({ value }) => value), ["one", "two"])
    }))

  it.scoped("releases the resources of the previous generation when that is no longer held", () =>
    Effect.gen(function*() {
      const released: Array<string> = []
      const session = yield* Session.make({
        acquire: Effect.acquireRelease(Effect.succeed("own"), (value) => Effect.sync(() => released.push(value)))
      })
      const adopt = (value: string) =>
        Inside.of(session).adopt({ value, acquiredAt: 0, expiresAt: Infinity }, () => true)
      const user = yield* Effect.fork(Session.use(session, () => Effect.delay(Effect.void, "1 second")))
      yield* settle
      yield* adopt("from elsewhere")
      yield* settle
      assert.deepStrictEqual(released, [])
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(user)
      assert.deepStrictEqual(released, ["own"])
    }))

  it.effect("does nothing to a session that has closed", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const { adopt, session } = yield* Scope.extend(noting(), scope)
      yield* Scope.close(scope, Exit.void)
      yield* adopt("from elsewhere")
      assert.deepInclude(yield* session.status, { _tag: "Closed" })
    }))
})

describe("F10: forgetting", () => {
  it.scoped("drops the generation without revoking it; the next caller signs in again", () =>
    Effect.gen(function*() {
      const { forget, revoked, session, up } = yield* noting()
      const stale = yield* session.current
      yield* forget
      assert.deepInclude(yield* session.status, { _tag: "Idle" })
      assert.deepInclude(yield* session.current, { number: 1, value: "v1" })
      assert.deepInclude(yield* session.refresh(stale), { number: 1 })
      assert.deepStrictEqual([up.calls, revoked], [["acquire", "acquire"], []])
    }))

  it.scoped("leaves a renewal in flight to its waiters, and the next caller waits for it, too", () =>
    Effect.gen(function*() {
      const { forget, revoked, session, up, written } = yield* noting()
      const stale = yield* session.current
      const late = yield* held(Effect.succeed("late"))
      up.next(late.answer)
      const waiters = yield* Effect.fork(many(3, session.refresh(stale)))
      yield* late.started
      yield* forget
      const next = yield* Effect.fork(session.current)
      yield* late.release
      assert.deepStrictEqual(valuesOf(yield* Fiber.join(waiters)), ["late", "late", "late"])
      assert.deepInclude(yield* Fiber.join(next), { value: "late" })
      assert.deepStrictEqual([up.calls, written, revoked], [["acquire", "renew v0"], ["v0", "late"], []])
    }))

  it.scoped("drops a late answer without revoking it", () =>
    Effect.gen(function*() {
      const { forget, revoked, session, up, written } = yield* noting({ timeout: "1 second" })
      const stale = yield* session.current
      const late = yield* held(Effect.succeed("late"))
      up.next(late.answer)
      const waiter = yield* Effect.fork(Effect.exit(session.refresh(stale)))
      yield* late.started
      yield* TestClock.adjust("1 second")
      assert.instanceOf(failureOf(yield* Fiber.join(waiter)), Session.RefreshTimeout)
      yield* forget
      yield* late.release
      yield* settle
      assert.deepStrictEqual([written, revoked], [["v0"], []])
      assert.deepInclude(yield* session.current, { value: "v1" })
    }))

  it.scoped("does not undo an earlier `end`: the value of the renewal in flight is still revoked", () =>
    Effect.gen(function*() {
      const { forget, revoked, session, up } = yield* noting()
      const stale = yield* session.current
      const late = yield* held(Effect.succeed("late"))
      up.next(late.answer)
      yield* Effect.fork(session.refresh(stale))
      yield* late.started
      yield* session.end
      yield* forget
      yield* late.release
      yield* settle
      assert.deepStrictEqual(revoked, ["v0", "late"])
    }))

  it.effect("does nothing to a session that has closed", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const { forget, session } = yield* Scope.extend(noting(), scope)
      yield* Scope.close(scope, Exit.void)
      yield* forget
      assert.deepInclude(yield* session.status, { _tag: "Closed" })
    }))
})
