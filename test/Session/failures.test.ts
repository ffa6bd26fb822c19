import { assert, describe, it } from "@effect/vitest"
import * as Session from "effect-holdfast/Session"
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as TestClock from "effect/TestClock"
import { failureOf, many } from "../support/exits.js"
import { held, Refused, upstream, valuesOf } from "../support/sessions.js"
import { settle } from "../support/settle.js"

describe("S4: a renewal that fails", () => {
  it.scoped("fails all its waiters with the same error, those of `current` and of `refresh`", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make(up)
      const stale = yield* session.current
      const error = new Refused("maintenance")
      const renewal = yield* held(Effect.fail(error))
      up.next(renewal.answer)
      const refreshing = yield* Effect.fork(many(10, session.refresh(stale)))
      yield* renewal.started
      const asking = yield* Effect.fork(many(10, session.current))
      yield* settle
      yield* renewal.release
      for (const exit of [...(yield* Fiber.join(refreshing)), ...(yield* Fiber.join(asking))]) {
        assert.strictEqual(failureOf(exit), error)
      }
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0"])
    }))

  it.scoped("lets the generation be served until that expires; from then on its error is the answer", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, maxAge: "1 minute", cooldown: "10 minutes" })
      const stale = yield* session.current
      const error = new Refused("maintenance")
      up.next(Effect.fail(error))
      assert.strictEqual(failureOf(yield* Effect.exit(session.refresh(stale))), error)
      assert.strictEqual(yield* session.current, stale)
      yield* TestClock.adjust("59 seconds")
      assert.strictEqual(yield* session.current, stale)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(failureOf(yield* Effect.exit(session.current)), error)
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0"])
    }))

  it.scoped("answers with its error for the cooldown; then one caller tries again for all", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make(up)
      const stale = yield* session.current
      const error = new Refused("maintenance")
      up.next(Effect.fail(error))
      yield* Effect.exit(session.refresh(stale))
      yield* TestClock.adjust("999 millis")
      for (const exit of yield* many(100, session.refresh(stale))) assert.strictEqual(failureOf(exit), error)
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0"])
      yield* TestClock.adjust("1 millis")
      assert.deepStrictEqual(new Set(valuesOf(yield* many(100, session.refresh(stale)))), new Set(["v1"]))
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0", "renew v0"])
    }))

  /** For how long, in seconds, each of the consecutive failures answers. */
  const cooldowns = (session: Session.Session<string, Refused>, up: ReturnType<typeof upstream>, count: number) =>
    Effect.gen(function*() {
      const stale = yield* session.current
      const seen: Array<number> = []
      for (let i = 0; i < count; i++) {
        up.next(Effect.fail(new Refused(`${i}`)))
        const calls = up.calls.length
        yield* Effect.exit(session.refresh(stale))
        assert.strictEqual(up.calls.length, calls + 1)
        const status = yield* session.status
        assert.strictEqual(status._tag, "Failing")
        if (status._tag !== "Failing") continue
        assert.strictEqual(status.consecutive, i + 1)
        seen.push((status.retryAt - status.since) / 1000)
        yield* TestClock.setTime(status.retryAt)
      }
      return seen
    })

  it.scoped("has a longer cooldown with each consecutive failure, up to 30 seconds, until a success", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, budget: { refreshes: 100, within: "1 hour" } })
      assert.deepStrictEqual(yield* cooldowns(session, up, 7), [1, 2, 4, 8, 16, 30, 30])
      yield* session.refresh(yield* session.current)
      assert.deepStrictEqual(yield* cooldowns(session, up, 2), [1, 2])
    }))

  it.scoped("answers after a second, and closes, although the cooldown's schedule cannot be interrupted", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const cooldown = Schedule.mapEffect(Schedule.spaced("1 second"), () => Effect.uninterruptible(Effect.never))
      const session = yield* Scope.extend(Session.make({ acquire: Effect.fail("down"), cooldown }), scope)
      const asking = yield* Effect.fork(Effect.exit(session.current))
      yield* settle
      yield* TestClock.adjust("1 second")
      yield* settle
      assert.strictEqual(failureOf(yield* Fiber.join(asking)), "down")
      yield* Scope.close(scope, Exit.void)
    }))

  it.scoped("has a fixed cooldown or that of a schedule; a schedule that ends keeps its last delay", () =>
    Effect.gen(function*() {
      const fixed = upstream()
      const session = yield* Session.make({ ...fixed, cooldown: "7 seconds" })
      assert.deepStrictEqual(yield* cooldowns(session, fixed, 3), [7, 7, 7])
      const scheduled = upstream()
      const cooldown = Schedule.linear("3 seconds").pipe(Schedule.intersect(Schedule.recurs(2)))
      const other = yield* Session.make({ ...scheduled, cooldown })
      assert.deepStrictEqual(yield* cooldowns(other, scheduled, 4), [3, 6, 6, 6])
      const none = upstream()
      const eager = yield* Session.make({ ...none, cooldown: 0 })
      assert.deepStrictEqual(yield* cooldowns(eager, none, 3), [0, 0, 0])
    }))

  it.scoped("is answered within a second if the cooldown's schedule never answers, with its last delay", () =>
    Effect.gen(function*() {
      const up = upstream()
      let isSlow = false
      const cooldown = Schedule.spaced("7 seconds").pipe(
        Schedule.tapInput(() => isSlow ? Effect.never : Effect.void)
      )
      const session = yield* Session.make({ ...up, cooldown })
      assert.deepStrictEqual(yield* cooldowns(session, up, 1), [7])
      isSlow = true
      up.next(Effect.fail(new Refused("again")))
      const asking = yield* Effect.fork(Effect.exit(Effect.flatMap(session.current, session.refresh)))
      yield* settle
      assert.isNull(asking.unsafePoll())
      yield* TestClock.adjust("1 second")
      yield* settle
      assert.isNotNull(asking.unsafePoll())
      const status = yield* session.status
      assert.isTrue(status._tag === "Failing" && status.retryAt - status.since === 7_000)
    }))

  it.scoped("gives its cause to the cooldown's schedule; a schedule that dies gives no cooldown", () =>
    Effect.gen(function*() {
      const up = upstream()
      const causes: Array<unknown> = []
      const cooldown = Schedule.spaced("1 second").pipe(
        Schedule.tapInput((cause: Cause.Cause<Refused | Session.SessionError>) =>
          Effect.sync(() => causes.push(Option.getOrUndefined(Cause.failureOption(cause))))
        )
      )
      const session = yield* Session.make({ ...up, cooldown })
      const error = new Refused("no")
      up.next(Effect.fail(error))
      yield* Effect.exit(session.current)
      assert.deepStrictEqual(causes, [error])

      const throwing = yield* Session.make({
        acquire: Effect.fail(error),
        cooldown: Schedule.makeWithState<number, unknown, void>(0, () => {
          throw new Error("boom")
        })
      })
      assert.strictEqual(failureOf(yield* Effect.exit(throwing.current)), error)

      const dying = yield* Session.make({
        acquire: Effect.fail(error),
        cooldown: Schedule.spaced("1 second").pipe(Schedule.tapInput(() => Effect.die("boom")))
      })
      assert.strictEqual(failureOf(yield* Effect.exit(dying.current)), error)
    }))

  it.scoped("is retried by the retry schedule, once for all waiters together", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, retry: Schedule.recurs(2) })
      const stale = yield* session.current
      up.next(Effect.fail(new Refused("1")), Effect.fail(new Refused("2")))
      assert.deepStrictEqual(new Set(valuesOf(yield* many(20, session.refresh(stale)))), new Set(["v1"]))
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0", "renew v0", "renew v0"])
      const last = new Refused("c")
      up.next(Effect.fail(new Refused("a")), Effect.fail(new Refused("b")), Effect.fail(last))
      assert.strictEqual(failureOf(yield* Effect.exit(session.refresh(yield* session.current))), last)
    }))
})

describe("S5: a renewal that dies or interrupts itself", () => {
  const boom = new Error("boom")
  const defects: ReadonlyArray<[string, Partial<Session.Options<string, Refused>>]> = [
    ["`acquire` dies", { acquire: Effect.die(boom) }],
    ["`acquire` throws", {
      acquire: Effect.suspend(() => {
        throw boom
      })
    }],
    ["`onRenewed` dies", { onRenewed: () => Effect.die(boom) }],
    ["`onRenewed` throws", {
      onRenewed: () => {
        throw boom
      }
    }]
  ]
  for (const [name, options] of defects) {
    it.scoped(`${name}: all waiters get the defect, and the session works after the cooldown`, () =>
      Effect.gen(function*() {
        let broken = true
        const good = upstream()
        const session = yield* Session.make({
          acquire: Effect.suspend(() => broken ? options.acquire ?? good.acquire : good.acquire),
          onRenewed: (generation: Session.Generation<string>) =>
            broken && options.onRenewed !== undefined ? options.onRenewed(generation) : Effect.void
        })
        for (const exit of yield* many(20, session.current)) {
          assert.isTrue(Exit.isFailure(exit))
          if (Exit.isFailure(exit)) assert.deepStrictEqual(Chunk.toArray(Cause.defects(exit.cause)), [boom])
        }
        broken = false
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* session.current).value, "v0")
        assert.deepStrictEqual(good.calls, ["acquire"])
      }))
  }

  it.scoped("`renew` throws instead of returning an effect: all waiters get the defect", () =>
    Effect.gen(function*() {
      let broken = true
      const session = yield* Session.make({
        acquire: Effect.succeed("v0"),
        renew: (value) => {
          if (broken) throw boom
          return Effect.succeed(`${value}'`)
        }
      })
      const stale = yield* session.current
      for (const exit of yield* many(20, session.refresh(stale))) {
        assert.isTrue(Exit.isFailure(exit) && Chunk.toReadonlyArray(Cause.defects(exit.cause))[0] === boom)
      }
      assert.strictEqual(yield* session.current, stale)
      broken = false
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* session.refresh(stale)).value, "v0'")
    }))

  const interruptedByItself = Effect.withFiberRuntime<never>((fiber) => {
    fiber.unsafeInterruptAsFork(fiber.id())
    return Effect.never
  })

  it.scoped.each(
    [
      ["by `Effect.interrupt`", Effect.interrupt],
      ["by its fiber's id", interruptedByItself]
    ] as const
  )(
    "a renewal that interrupts itself, %s: all waiters get RefreshInterrupted, and none is interrupted",
    ([, ending]) =>
      Effect.gen(function*() {
        const up = upstream()
        up.next(ending)
        const session = yield* Session.make({ ...up, name: "billing" })
        for (const exit of yield* many(20, session.current)) {
          const failure = failureOf(exit)
          assert.strictEqual(failure._tag, "RefreshInterrupted")
          assert.include((failure as Session.RefreshInterrupted).message, "billing")
        }
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* session.current).value, "v0")
      })
  )
})
