import { assert, describe, it } from "@effect/vitest"
import * as Session from "effect-holdfast/Session"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as TestClock from "effect/TestClock"
import { held, upstream } from "../support/sessions.js"
import { settle } from "../support/settle.js"

describe("S3: interrupting waiters", () => {
  const scenario = (
    name: string,
    victims: (waiters: ReadonlyArray<Fiber.RuntimeFiber<Session.Generation<string>, unknown>>) => ReadonlyArray<
      Fiber.RuntimeFiber<Session.Generation<string>, unknown>
    >
  ) =>
    it.scoped(`${name}: the renewal goes on, its value is kept, and no other caller is affected`, () =>
      Effect.gen(function*() {
        const up = upstream()
        const session = yield* Session.make(up)
        const stale = yield* session.current
        const renewal = yield* held(Effect.succeed("fresh"))
        up.next(renewal.answer)
        const waiters = yield* Effect.forEach(Array.from({ length: 50 }), () => Effect.fork(session.refresh(stale)))
        yield* renewal.started
        yield* settle
        const interrupted = victims(waiters)
        for (const exit of yield* Effect.forEach(interrupted, Fiber.interrupt)) assert.isTrue(Exit.isInterrupted(exit))
        yield* renewal.release
        yield* settle
        for (const waiter of waiters) {
          if (!interrupted.includes(waiter)) assert.strictEqual((yield* Fiber.join(waiter)).value, "fresh")
        }
        assert.strictEqual((yield* session.current).value, "fresh")
        assert.strictEqual((yield* session.refresh(stale)).value, "fresh")
        assert.deepStrictEqual(up.calls, ["acquire", "renew v0"])
      }))

  scenario("the waiter that started the renewal", (waiters) => waiters.slice(0, 1))
  scenario("another waiter", (waiters) => waiters.slice(17, 18))
  scenario("all but one", (waiters) => waiters.slice(0, -1))
  scenario("all", (waiters) => waiters)

  it.scoped("the very first caller: the sign-in goes on for the others", () =>
    Effect.gen(function*() {
      const up = upstream()
      const signIn = yield* held(Effect.succeed("token"))
      up.next(signIn.answer)
      const session = yield* Session.make(up)
      const first = yield* Effect.fork(session.current)
      yield* signIn.started
      const second = yield* Effect.fork(session.current)
      yield* settle
      yield* Fiber.interrupt(first)
      yield* signIn.release
      assert.strictEqual((yield* Fiber.join(second)).value, "token")
      assert.deepStrictEqual(up.calls, ["acquire"])
    }))

  it.scoped("10,000 of 10,001: the last one gets its answer", () =>
    Effect.gen(function*() {
      const up = upstream()
      const signIn = yield* held(Effect.succeed("token"))
      up.next(signIn.answer)
      const session = yield* Session.make(up)
      const waiters = yield* Effect.forEach(Array.from({ length: 10_000 }), () => Effect.fork(session.current))
      const last = yield* Effect.fork(session.current)
      yield* settle
      yield* Fiber.interruptAll(waiters.toReversed())
      const status = yield* session.status
      assert.strictEqual(status._tag === "Refreshing" && status.waiters, 1)
      yield* signIn.release
      assert.strictEqual((yield* Fiber.join(last)).value, "token")
    }))

  it.scoped("a caller's own timeout does not stop the renewal", () =>
    Effect.gen(function*() {
      const up = upstream()
      up.next(Effect.delay(Effect.succeed("token"), "5 seconds"))
      const session = yield* Session.make(up)
      const impatient = yield* Effect.fork(Effect.timeoutOption(session.current, "1 second"))
      yield* TestClock.adjust("1 second")
      assert.isTrue(Option.isNone(yield* Fiber.join(impatient)))
      yield* TestClock.adjust("4 seconds")
      assert.strictEqual((yield* session.current).value, "token")
      assert.deepStrictEqual(up.calls, ["acquire"])
    }))
})
