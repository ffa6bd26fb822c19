import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as Session from "effect-holdfast/Session"
import * as SessionMap from "effect-holdfast/SessionMap"
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import { failureOf } from "./support/exits.js"
import { settle } from "./support/settle.js"

class Refused {
  readonly _tag = "Refused"
  readonly why: string
  constructor(why: string) {
    this.why = why
  }
}

/** An upstream that counts its calls, answers when it is told to, and fails as it is told to. */
const upstream = () => {
  const calls: Array<string> = []
  let next = 0
  const answers: Array<Effect.Effect<string, Refused>> = []
  const answer = (call: string) =>
    Effect.suspend(() => {
      calls.push(call)
      return answers.shift() ?? Effect.succeed(`v${next++}`)
    })
  return {
    calls,
    /** What the next calls do instead of succeeding at once. */
    next: (...effects: ReadonlyArray<Effect.Effect<string, Refused>>) => answers.push(...effects),
    acquire: answer("acquire"),
    renew: (value: string) => answer(`renew ${value}`)
  }
}

/** An answer that waits for its cue. */
const held = (effect: Effect.Effect<string, Refused>) =>
  Effect.map(Effect.all([Deferred.make<void>(), Deferred.make<void>()]), ([started, cue]) => ({
    answer: Effect.zipRight(Deferred.succeed(started, undefined), Effect.zipRight(Deferred.await(cue), effect)),
    started: Deferred.await(started),
    release: Deferred.succeed(cue, undefined)
  }))

/** Lets every fiber that can run do so. */
const many = <A, E, R>(count: number, effect: Effect.Effect<A, E, R>) =>
  Effect.all(Array.from({ length: count }, () => Effect.exit(effect)), { concurrency: "unbounded" })

const valuesOf = <A, E>(exits: ReadonlyArray<Exit.Exit<Session.Generation<A>, E>>) =>
  exits.map((exit) => Exit.isSuccess(exit) ? exit.value.value : String(exit))

describe("the first sign-in", () => {
  it.scoped("is not made before anyone asks", () =>
    Effect.gen(function*() {
      const up = upstream()
      yield* Session.make(up)
      yield* settle
      assert.deepStrictEqual(up.calls, [])
    }))

  for (const callers of [20, 10_000]) {
    it.scoped(`is made once for ${callers} concurrent callers`, () =>
      Effect.gen(function*() {
        const up = upstream()
        up.next(Effect.delay(Effect.succeed("token"), "20 millis"))
        const session = yield* Session.make(up)
        const fiber = yield* Effect.fork(many(callers, session.current))
        yield* TestClock.adjust("20 millis")
        const exits = yield* Fiber.join(fiber)
        assert.deepStrictEqual(new Set(valuesOf(exits)), new Set(["token"]))
        assert.deepStrictEqual(up.calls, ["acquire"])
      }))
  }

  it.scoped("is generation 0, and stays current", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(5_000)
      const up = upstream()
      const session = yield* Session.make(up)
      const first = yield* session.current
      assert.deepInclude(first, { number: 0, value: "v0", acquiredAt: 5_000, expiresAt: Infinity })
      yield* TestClock.adjust("1000 days")
      assert.strictEqual(yield* session.current, first)
      assert.deepStrictEqual(up.calls, ["acquire"])
    }))

  it.scoped("that fails is tried again by the next caller after the cooldown, for all", () =>
    Effect.gen(function*() {
      const up = upstream()
      up.next(Effect.fail(new Refused("password")))
      const session = yield* Session.make(up)
      const first = failureOf(yield* Effect.exit(session.current))
      const others = yield* many(100, session.current)
      for (const exit of others) assert.strictEqual(failureOf(exit), first)
      assert.deepStrictEqual(up.calls, ["acquire"])
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(new Set(valuesOf(yield* many(100, session.current))), new Set(["v0"]))
      assert.deepStrictEqual(up.calls, ["acquire", "acquire"])
    }))
})

describe("a refused generation", () => {
  for (const callers of [20, 10_000]) {
    it.scoped(`is renewed once for ${callers} callers that hold it`, () =>
      Effect.gen(function*() {
        const up = upstream()
        const session = yield* Session.make(up)
        const stale = yield* session.current
        up.next(Effect.delay(Effect.succeed("fresh"), "20 millis"))
        const fiber = yield* Effect.fork(many(callers, session.refresh(stale)))
        yield* TestClock.adjust("20 millis")
        assert.deepStrictEqual(new Set(valuesOf(yield* Fiber.join(fiber))), new Set(["fresh"]))
        assert.deepStrictEqual(up.calls, ["acquire", "renew v0"])
      }))
  }

  it.scoped("is renewed once however late its holders come back", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make(up)
      const stale = yield* session.current
      const fresh = yield* session.refresh(stale)
      for (let i = 0; i < 20; i++) {
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(yield* session.refresh(stale), fresh)
        assert.strictEqual(yield* session.refresh({ ...stale }), fresh)
      }
      const newest = yield* session.refresh(fresh)
      assert.strictEqual(yield* session.refresh(stale), newest)
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0", "renew v1"])
      assert.strictEqual(newest.number, 2)
    }))

  it.scoped("is acquired again where there is no way to renew", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ acquire: up.acquire })
      yield* session.refresh(yield* session.current)
      assert.deepStrictEqual(up.calls, ["acquire", "acquire"])
    }))

  it.scoped("is not served while it is renewed: those who ask wait", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make(up)
      const stale = yield* session.current
      const renewal = yield* held(Effect.succeed("fresh"))
      up.next(renewal.answer)
      yield* Effect.fork(session.refresh(stale))
      yield* renewal.started
      const asking = yield* Effect.fork(session.current)
      yield* settle
      assert.isNull(asking.unsafePoll())
      yield* renewal.release
      assert.strictEqual((yield* Fiber.join(asking)).value, "fresh")
    }))

  it.scoped("loses no interest when its renewal had been started in the background", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, maxAge: "10 minutes", refreshAhead: "2 minutes" })
      const stale = yield* session.current
      const renewal = yield* held(Effect.succeed("fresh"))
      up.next(renewal.answer)
      yield* TestClock.adjust("9 minutes")
      assert.strictEqual(yield* session.current, stale)
      yield* renewal.started
      const refusing = yield* Effect.fork(session.refresh(stale))
      const asking = yield* Effect.fork(session.current)
      yield* settle
      assert.isNull(asking.unsafePoll())
      yield* renewal.release
      assert.strictEqual((yield* Fiber.join(refusing)).value, "fresh")
      assert.strictEqual((yield* Fiber.join(asking)).value, "fresh")
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0"])
    }))
})

describe("interrupting waiters", () => {
  const scenario = (
    name: string,
    victims: (waiters: ReadonlyArray<Fiber.RuntimeFiber<Session.Generation<string>, unknown>>) => ReadonlyArray<
      Fiber.RuntimeFiber<Session.Generation<string>, unknown>
    >
  ) =>
    it.scoped(`${name}: the renewal goes on, is kept, and nobody else notices`, () =>
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

  scenario("the one who started the renewal", (waiters) => waiters.slice(0, 1))
  scenario("another", (waiters) => waiters.slice(17, 18))
  scenario("all but one", (waiters) => waiters.slice(0, -1))
  scenario("all", (waiters) => waiters)

  it.scoped("the first caller of all: the sign-in is completed for the others", () =>
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

  it.scoped("10,000 of 10,001: the last one is answered", () =>
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

  it.scoped("a caller that times out does not stop the renewal", () =>
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

describe("a renewal that fails", () => {
  it.scoped("fails all its waiters with the same error, those of `current` too", () =>
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

  it.scoped("leaves the generation to be served until it expires, and then is the answer itself", () =>
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

  it.scoped("answers for the cooldown, then one caller tries again for all", () =>
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

  it.scoped("cools down for longer with each consecutive failure, up to 30 seconds, and anew after a success", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, budget: { refreshes: 100, within: "1 hour" } })
      assert.deepStrictEqual(yield* cooldowns(session, up, 7), [1, 2, 4, 8, 16, 30, 30])
      yield* session.refresh(yield* session.current)
      assert.deepStrictEqual(yield* cooldowns(session, up, 2), [1, 2])
    }))

  it.scoped("cools down for a fixed time if told so, and by any schedule; one that ends keeps its last delay", () =>
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

  it.scoped("gives its cause to the cooldown's schedule; a schedule that dies keeps nobody waiting", () =>
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

  it.scoped("is retried inside the refresh by the retry schedule, for all waiters at once", () =>
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

describe("a renewal that dies or interrupts itself", () => {
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

  it.scoped("a `renew` that throws instead of returning an effect is a defect for all waiters", () =>
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

  it.scoped("a renewal that interrupts itself is RefreshInterrupted for all waiters, none is interrupted", () =>
    Effect.gen(function*() {
      const up = upstream()
      up.next(Effect.interrupt)
      const session = yield* Session.make({ ...up, name: "billing" })
      for (const exit of yield* many(20, session.current)) {
        const failure = failureOf(exit)
        assert.strictEqual(failure._tag, "RefreshInterrupted")
        assert.include((failure as Session.RefreshInterrupted).message, "billing")
      }
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* session.current).value, "v0")
    }))
})

describe("closing the scope", () => {
  it.effect("interrupts the renewal in flight and fails its waiters and later callers with SessionClosed", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      let interrupted = false
      const started = yield* Deferred.make<void>()
      const session = yield* Session.make({
        acquire: Deferred.succeed(started, undefined).pipe(
          Effect.zipRight(Effect.never),
          Effect.onInterrupt(() => Effect.sync(() => interrupted = true))
        )
      }).pipe(Scope.extend(scope))
      const waiting = yield* Effect.fork(many(20, session.current))
      yield* Deferred.await(started)
      yield* settle
      yield* Scope.close(scope, Exit.void)
      assert.isTrue(interrupted)
      for (const exit of yield* Fiber.join(waiting)) assert.strictEqual(failureOf(exit)._tag, "SessionClosed")
      const stale = { number: 0, value: undefined as never, acquiredAt: 0, expiresAt: Infinity }
      for (
        const asking of [
          session.current,
          session.refresh(stale),
          Session.use(session, () => Effect.void),
          Effect.scoped(Session.scoped(session))
        ]
      ) {
        assert.strictEqual(failureOf(yield* Effect.exit(Effect.asVoid(asking)))._tag, "SessionClosed")
      }
      yield* session.end
      assert.deepStrictEqual(yield* session.status, { _tag: "Closed", refreshes: 0, failures: 0 })
      assert.isTrue(Chunk.isEmpty(yield* Stream.runCollect(Session.changes(session))))
    }))

  it.effect("answers the waiters before it waits for a renewal that takes its time to stop", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const started = yield* Deferred.make<void>()
      const session = yield* Session.make({
        acquire: Deferred.succeed(started, undefined).pipe(
          Effect.zipRight(Effect.sleep("1 minute")),
          Effect.uninterruptible
        )
      }).pipe(Scope.extend(scope))
      const waiting = yield* Effect.fork(Effect.exit(session.current))
      yield* Deferred.await(started)
      yield* settle
      const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
      assert.strictEqual(failureOf(yield* Fiber.join(waiting))._tag, "SessionClosed")
      assert.isNull(closing.unsafePoll())
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(closing)
    }))

  it.effect("interrupts nobody who waits for `onEnd` or for a last release: a `use` keeps its answer", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const cue = yield* Deferred.make<void>()
      const [ended, used] = yield* Effect.all([
        Session.make({ acquire: Effect.succeed("v0"), onEnd: () => Deferred.await(cue) }),
        Session.make({ acquire: Effect.acquireRelease(Effect.succeed("v0"), () => Deferred.await(cue)) })
      ]).pipe(Scope.extend(scope))
      yield* ended.current
      const ending = yield* Effect.fork(ended.end)
      const go = yield* Deferred.make<void>()
      const using = yield* Effect.fork(Session.use(used, () => Effect.as(Deferred.await(go), "answer")))
      yield* settle
      yield* used.refresh(yield* used.current)
      yield* Deferred.succeed(go, undefined)
      yield* settle
      const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
      yield* settle
      yield* Deferred.succeed(cue, undefined)
      yield* Fiber.join(closing)
      assert.deepStrictEqual(yield* Fiber.await(ending), Exit.void)
      assert.deepStrictEqual(yield* Fiber.await(using), Exit.succeed("answer"))
    }))

  it.effect("works for a session that was made in an uninterruptible region, as a layer's is", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const session = yield* Effect.uninterruptible(Session.make({ acquire: Effect.never })).pipe(Scope.extend(scope))
      const waiting = yield* Effect.fork(Effect.exit(session.current))
      yield* settle
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(failureOf(yield* Fiber.join(waiting))._tag, "SessionClosed")
    }))

  it.effect("in a scope that is closed already, makes a session that is closed", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      yield* Scope.close(scope, Exit.void)
      const session = yield* Session.make(upstream()).pipe(Scope.extend(scope))
      assert.strictEqual(failureOf(yield* Effect.exit(session.current))._tag, "SessionClosed")
    }))
})

describe("a renewal that asks its own session", () => {
  const ways: ReadonlyArray<
    [string, (session: Session.Session<string, unknown>) => Effect.Effect<unknown, unknown>]
  > = [
    ["current", (session) => session.current],
    ["refresh", (session) => session.refresh({ number: 0, value: "v0", acquiredAt: 0, expiresAt: Infinity })],
    ["use", (session) => Session.use(session, Effect.succeed)],
    ["scoped", (session) => Effect.scoped(Session.scoped(session))],
    ["a child fiber", (session) => Effect.flatMap(Effect.fork(session.current), Fiber.join)],
    ["timeout", (session) => Effect.timeout(session.current, "1 minute")],
    ["race", (session) => Effect.raceFirst(session.current, Effect.never)],
    ["parallel children", (session) => Effect.all([session.current, session.current], { concurrency: 2 })],
    ["a daemon that it waits for", (session) => Effect.flatMap(Effect.forkDaemon(session.current), Fiber.join)],
    ["many layers", (session) => {
      let effect: Effect.Effect<unknown, unknown> = session.current
      for (let i = 0; i < 50; i++) effect = Effect.scoped(Effect.timeout(Effect.disconnect(effect), "1 minute"))
      return effect
    }]
  ]
  for (const [name, ask] of ways) {
    it.scoped(`by ${name} fails at once with ReentrantRefresh`, () =>
      Effect.gen(function*() {
        let first = true
        const session: Session.Session<string, unknown> = yield* Session.make<string, unknown, never, unknown, never>({
          acquire: Effect.suspend(() =>
            first ? (first = false, Effect.succeed("v0")) : Effect.as(ask(session), "never")
          ),
          timeout: "1 hour"
        })
        const stale = yield* session.current
        const exits = yield* many(5, session.refresh(stale))
        for (const exit of exits) {
          assert.instanceOf(failureOf(exit), Session.ReentrantRefresh)
        }
      }))

    it.scoped(`by ${name} fails so in the first sign-in and in the background too`, () =>
      Effect.gen(function*() {
        const seen: Array<unknown> = []
        let signedIn = false
        const session: Session.Session<string, unknown> = yield* Session.make<string, unknown, never, unknown, never>({
          acquire: Effect.suspend(() =>
            Effect.exit(ask(session)).pipe(
              Effect.map((exit) => {
                seen.push(failureOf(exit))
                return signedIn ? "v1" : "v0"
              })
            )
          ),
          maxAge: "10 minutes",
          refreshAhead: "2 minutes"
        })
        assert.strictEqual((yield* session.current).value, "v0")
        signedIn = true
        yield* TestClock.adjust("9 minutes")
        assert.strictEqual((yield* session.current).value, "v0")
        yield* settle
        assert.strictEqual((yield* session.current).value, "v1")
        assert.strictEqual(seen.length, 2)
        for (const error of seen) assert.instanceOf(error, Session.ReentrantRefresh)
      }))
  }

  it.scoped("may be outlived by a daemon, which then may ask, and wait for a later renewal too", () =>
    Effect.gen(function*() {
      const asked = yield* Deferred.make<string, unknown>()
      const later = yield* held(Effect.succeed("later"))
      let first = true
      const session: Session.Session<string, Refused> = yield* Session.make({
        acquire: Effect.suspend(() => {
          if (!first) return later.answer
          first = false
          return later.started.pipe(
            Effect.zipRight(session.current),
            Effect.map((generation) => generation.value),
            Effect.intoDeferred(asked),
            Effect.forkDaemon,
            Effect.as("token")
          )
        })
      })
      yield* Effect.fork(session.refresh(yield* session.current))
      yield* settle
      assert.isFalse(yield* Deferred.isDone(asked))
      yield* later.release
      assert.strictEqual(yield* Deferred.await(asked), "later")
    }))

  it.scoped("may recover from ReentrantRefresh and go on", () =>
    Effect.gen(function*() {
      const session: Session.Session<string, never> = yield* Session.make({
        acquire: Effect.suspend((): Effect.Effect<string> =>
          session.current.pipe(Effect.map((g) => g.value), Effect.catchAll((error) => Effect.succeed(error._tag)))
        )
      })
      assert.strictEqual((yield* session.current).value, "ReentrantRefresh")
    }))
})

describe("two sessions that renew through each other", () => {
  const pair = (concurrent: boolean) =>
    Effect.gen(function*() {
      const bothStarted = yield* Deferred.make<void>()
      let started = 0
      const rendezvous = Effect.suspend(() =>
        ++started === 2 || !concurrent ? Deferred.succeed(bothStarted, undefined) : Deferred.await(bothStarted)
      )
      const errors: Array<unknown> = []
      const through = (other: () => Session.Session<string, unknown>) =>
        rendezvous.pipe(
          Effect.zipRight(Effect.suspend(() => Effect.timeout(other().current, "1 minute"))),
          Effect.map((generation) => generation.value),
          Effect.tapError((error) => Effect.sync(() => errors.push(error)))
        )
      const a: Session.Session<string, unknown> = yield* Session.make({ name: "a", acquire: through(() => b) })
      const b: Session.Session<string, unknown> = yield* Session.make({ name: "b", acquire: through(() => a) })
      return { a, b, errors }
    })

  it.scoped("started by one of them: the join that closes the circle fails", () =>
    Effect.gen(function*() {
      const { a, errors } = yield* pair(false)
      const exit = yield* Effect.exit(a.current)
      assert.instanceOf(failureOf(exit), Session.ReentrantRefresh)
      assert.strictEqual((errors[0] as Session.ReentrantRefresh)._tag, "ReentrantRefresh")
    }))

  it.scoped("started at the same time by different callers: the join that closes the circle fails", () =>
    Effect.gen(function*() {
      const { a, b } = yield* pair(true)
      const exits = yield* Effect.all([Effect.exit(a.current), Effect.exit(b.current)], { concurrency: 2 })
      for (const exit of exits) assert.instanceOf(failureOf(exit), Session.ReentrantRefresh)
    }))

  it.scoped("are told from a long outage that has ended", () =>
    Effect.gen(function*() {
      let down = true
      const inner = yield* Session.make({
        acquire: Effect.suspend(() => down ? Effect.fail("down") : Effect.succeed("up")),
        cooldown: 0
      })
      for (let i = 0; i < 15_000; i++) yield* Effect.exit(inner.current)
      down = false
      const outer = yield* Session.make({ acquire: Effect.map(inner.current, ({ value }) => value) })
      assert.strictEqual((yield* outer.current).value, "up")
    }))

  it.scoped("a longer circle is found too, and a chain that is none is not one", () =>
    Effect.gen(function*() {
      const sessions: Array<Session.Session<string, unknown>> = []
      for (let i = 0; i < 5; i++) {
        const next = (i + 1) % 5
        sessions.push(
          yield* Session.make({
            acquire: Effect.suspend(() => Effect.map(sessions[next]!.current, (generation) => generation.value))
          })
        )
      }
      const exits = yield* Effect.all(sessions.map((session) => Effect.exit(session.current)), {
        concurrency: "unbounded"
      })
      for (const exit of exits) assert.instanceOf(failureOf(exit), Session.ReentrantRefresh)

      const root = yield* Session.make({ acquire: Effect.delay(Effect.succeed("root"), "1 second") })
      const through = Session.make({ acquire: Effect.map(root.current, (generation) => `by ${generation.value}`) })
      const [left, right] = [yield* through, yield* through]
      const fiber = yield* Effect.fork(Effect.all([left.current, right.current, root.current], { concurrency: 3 }))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual((yield* Fiber.join(fiber)).map((g) => g.value), ["by root", "by root", "root"])
    }))
})

describe("expiry", () => {
  it.scoped("an expired generation is renewed before anyone gets it, once for all", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, expiresAt: () => 60_000 + (up.calls.length - 1) * 1e9 })
      const first = yield* session.current
      assert.strictEqual(first.expiresAt, 60_000)
      yield* TestClock.adjust("59999 millis")
      assert.strictEqual(yield* session.current, first)
      yield* TestClock.adjust("1 millis")
      assert.deepStrictEqual(new Set(valuesOf(yield* many(50, session.current))), new Set(["v1"]))
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0"])
    }))

  it.scoped("an expired generation is never served when its renewal fails", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, maxAge: "1 minute" })
      yield* session.current
      yield* TestClock.adjust("1 minute")
      const error = new Refused("down")
      up.next(Effect.fail(error))
      for (const exit of yield* many(20, session.current)) assert.strictEqual(failureOf(exit), error)
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* session.current).value, "v1")
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0", "renew v0"])
    }))

  it.scoped("takes a DateTime, a number, or undefined for never, and the age limit besides", () =>
    Effect.gen(function*() {
      const expiries = [DateTime.unsafeMake(90_000), 30_000, undefined, Infinity]
      let i = 0
      const session = yield* Session.make({
        acquire: Effect.sync(() => i++),
        expiresAt: (n) => expiries[n],
        maxAge: "1 minute"
      })
      const seen: Array<number> = []
      let generation = yield* session.current
      for (;;) {
        seen.push(generation.expiresAt)
        if (seen.length === expiries.length) break
        generation = yield* session.refresh(generation)
      }
      assert.deepStrictEqual(seen, [60_000, 30_000, 60_000, 60_000])
    }))

  it.live("an age limit of 1 ms with 20 callers neither hangs nor breaks", () =>
    Effect.scoped(Effect.gen(function*() {
      const session = yield* Session.make({
        acquire: Effect.zipRight(Effect.yieldNow(), Effect.succeed("token")),
        maxAge: "1 millis"
      })
      const loop = Effect.repeatN(Effect.zipRight(session.current, Effect.sleep("1 millis")), 20)
      for (const exit of yield* many(20, loop)) assert.isTrue(Exit.isSuccess(exit), String(exit))
    })))
})

describe("refreshAhead", () => {
  const make = (up: ReturnType<typeof upstream>) =>
    Session.make({ ...up, maxAge: "10 minutes", refreshAhead: "2 minutes" }).pipe(
      Effect.withRandom(Random.fixed([0.5]))
    )

  it.scoped("renews in the background from the first `current` inside the window; nobody waits", () =>
    Effect.gen(function*() {
      const up = upstream()
      // The jitter is drawn in the renewal, by the Random of `make`: half of a tenth of two minutes.
      const session = yield* make(up)
      const first = yield* session.current
      yield* TestClock.adjust(Duration.minutes(8.1).pipe(Duration.subtract("1 millis")))
      assert.strictEqual(yield* session.current, first)
      yield* settle
      assert.deepStrictEqual(up.calls, ["acquire"])
      const renewal = yield* held(Effect.succeed("fresh"))
      up.next(renewal.answer)
      yield* TestClock.adjust("1 millis")
      yield* settle
      assert.deepStrictEqual(up.calls, ["acquire"], "started without a caller")
      for (const exit of yield* many(50, session.current)) {
        assert.isTrue(Exit.isSuccess(exit) && exit.value === first)
      }
      yield* renewal.started
      assert.strictEqual(yield* session.current, first)
      yield* renewal.release
      yield* settle
      assert.strictEqual((yield* session.current).value, "fresh")
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0"])
    }))

  it.scoped("that fails is nobody's failure; it is tried again after the cooldown", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* make(up)
      const first = yield* session.current
      yield* TestClock.adjust("9 minutes")
      up.next(Effect.fail(new Refused("down")), Effect.die("worse"))
      for (let i = 0; i < 10; i++) {
        assert.strictEqual(yield* session.current, first)
        yield* settle
      }
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0"])
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* session.current, first)
      yield* settle
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0", "renew v0"])
      yield* TestClock.adjust("2 seconds")
      yield* session.current
      yield* settle
      assert.strictEqual((yield* session.current).value, "v1")
    }))

  it.scoped("never starts before half the lifetime, however wide the window", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, maxAge: "10 minutes", refreshAhead: "1 hour" })
      yield* session.current
      yield* TestClock.adjust("299999 millis")
      yield* session.current
      yield* settle
      assert.deepStrictEqual(up.calls, ["acquire"])
      yield* TestClock.adjust("31 seconds")
      yield* session.current
      yield* settle
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0"])
    }))

  it.scoped("is spread over at most a tenth of the window", () =>
    Effect.gen(function*() {
      const starts: Array<number> = []
      const sessions = yield* Effect.forEach(Array.from({ length: 40 }, upstream), (up) =>
        Effect.map(
          Session.make({ ...up, maxAge: "1000 seconds", refreshAhead: "100 seconds" }),
          (session) => ({ session, up })
        ))
      yield* Effect.forEach(sessions, ({ session }) => session.current)
      yield* TestClock.setTime(899_000)
      for (let second = 899; second <= 911; second++) {
        yield* TestClock.setTime(second * 1000)
        yield* Effect.forEach(sessions, ({ session }) => session.current)
        yield* settle
        starts.push(sessions.filter(({ up }) => up.calls.length > 1).length)
      }
      assert.strictEqual(starts[0], 0)
      assert.strictEqual(starts.at(-1), 40)
      assert.isAbove(new Set(starts).size, 5)
    }))
})

describe("what a generation acquires in its scope", () => {
  /** A session whose values are resources; `log` tells when each was opened and closed. */
  const resources = Effect.gen(function*() {
    const log: Array<string> = []
    let next = 0
    const session = yield* Session.make({
      acquire: Effect.acquireRelease(
        Effect.sync(() => {
          const value = next++
          log.push(`open ${value}`)
          return value
        }),
        (value) => Effect.sync(() => log.push(`close ${value}`))
      )
    })
    return { log, session }
  })

  it.scoped("is released when the generation has been superseded and nothing holds it", () =>
    Effect.gen(function*() {
      const { log, session } = yield* resources
      const first = yield* session.current
      assert.deepStrictEqual(log, ["open 0"])
      yield* session.refresh(first)
      yield* settle
      assert.deepStrictEqual(log, ["open 0", "open 1", "close 0"])
    }))

  for (const how of ["use", "scoped"] as const) {
    it.scoped(`stays while a \`${how}\` of it goes on, and is released with the last`, () =>
      Effect.gen(function*() {
        const { log, session } = yield* resources
        const first = yield* session.current
        const cues = yield* Effect.all([Deferred.make<void>(), Deferred.make<void>()])
        const users = yield* Effect.forEach(cues, (cue) =>
          Effect.fork(
            how === "use"
              ? Session.use(session, () => Deferred.await(cue))
              : Effect.scoped(Effect.zipRight(Session.scoped(session), Deferred.await(cue)))
          ))
        yield* settle
        yield* session.refresh(first)
        yield* settle
        assert.deepStrictEqual(log, ["open 0", "open 1"])
        yield* Deferred.succeed(cues[0], undefined)
        yield* Fiber.join(users[0]!)
        assert.deepStrictEqual(log, ["open 0", "open 1"])
        yield* Fiber.interrupt(users[1]!)
        assert.deepStrictEqual(log, ["open 0", "open 1", "close 0"])
      }))
  }

  it.scoped("is released by `end`, after the last use", () =>
    Effect.gen(function*() {
      const { log, session } = yield* resources
      const cue = yield* Deferred.make<void>()
      const user = yield* Effect.fork(Session.use(session, () => Deferred.await(cue)))
      yield* settle
      yield* session.end
      assert.deepStrictEqual(log, ["open 0"])
      yield* Deferred.succeed(cue, undefined)
      yield* Fiber.join(user)
      assert.deepStrictEqual(log, ["open 0", "close 0"])
      yield* session.current
      yield* session.end
      assert.deepStrictEqual(log, ["open 0", "close 0", "open 1", "close 1"])
    }))

  it.effect("is released at once when the session's scope closes, held or not", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const { log, session } = yield* Scope.extend(resources, scope)
      const holding = yield* Scope.make()
      yield* Session.scoped(session).pipe(Scope.extend(holding))
      yield* session.refresh(yield* session.current)
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(log.slice(0, 2), ["open 0", "open 1"])
      assert.deepStrictEqual(new Set(log.slice(2)), new Set(["close 0", "close 1"]))
      yield* Scope.close(holding, Exit.void)
      assert.strictEqual(log.length, 4)
    }))

  it.scoped("is released with the try that failed, retries included", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      let tries = 0
      const session = yield* Session.make({
        acquire: Effect.gen(function*() {
          const number = tries++
          yield* Effect.acquireRelease(
            Effect.sync(() => log.push(`open ${number}`)),
            () => Effect.sync(() => log.push(`close ${number}`))
          )
          if (number < 2) return yield* Effect.fail(new Refused("try again"))
          return number
        }),
        retry: Schedule.recurs(2)
      })
      yield* session.current
      assert.deepStrictEqual(log, ["open 0", "close 0", "open 1", "close 1", "open 2"])
    }))

  for (const how of ["use", "scoped"] as const) {
    it.scoped(`stays while a \`${how}\` of it goes on, though it is but a fiber`, () =>
      Effect.gen(function*() {
        let next = 0
        const interrupted: Array<number> = []
        const session = yield* Session.make({
          acquire: Effect.suspend(() => {
            const id = next++
            const background = Effect.onInterrupt(Effect.never, () => Effect.sync(() => interrupted.push(id)))
            return Effect.as(Effect.forkScoped(background), id)
          })
        })
        const first = yield* session.current
        const cue = yield* Deferred.make<void>()
        const user = yield* Effect.fork(
          how === "use"
            ? Session.use(session, () => Deferred.await(cue))
            : Effect.scoped(Effect.zipRight(Session.scoped(session), Deferred.await(cue)))
        )
        yield* settle
        yield* session.refresh(first)
        yield* settle
        assert.deepStrictEqual(interrupted, [])
        yield* Deferred.succeed(cue, undefined)
        yield* Fiber.join(user)
        assert.deepStrictEqual(interrupted, [0])
      }))
  }

  it.scoped("is kept until the session closes if it is a fiber that came only after uses went uncounted", () =>
    Effect.gen(function*() {
      const interrupted: Array<string> = []
      const session = yield* Session.make({ acquire: Effect.scope })
      const first = yield* session.current
      const background = Effect.onInterrupt(Effect.never, () => Effect.sync(() => interrupted.push("fiber")))
      yield* Session.use(session, (scope) =>
        Effect.gen(function*() {
          yield* Effect.forkIn(background, scope)
          yield* session.refresh(first)
          yield* settle
          assert.deepStrictEqual(interrupted, [])
        }))
    }))

  it.scoped("whose release dies is logged, and is nobody's failure", () =>
    Effect.gen(function*() {
      let generations = 0
      const session = yield* Session.make({
        acquire: Effect.suspend(() =>
          generations++ === 0 ? Effect.as(Effect.addFinalizer(() => Effect.die("stuck")), "v0") : Effect.succeed("v1")
        )
      })
      const first = yield* session.current
      const used = yield* Effect.exit(Session.use(session, () => session.refresh(first)))
      assert.isTrue(Exit.isSuccess(used))
      yield* settle
    }))
})

describe("the budget", () => {
  it.scoped("stops a loop of refusals; the unexpired generation is still served, and the window passes", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, budget: { refreshes: 3, within: "1 minute" } })
      for (let i = 0; i < 3; i++) yield* session.refresh(yield* session.current)
      const last = yield* session.current
      for (const exit of yield* many(50, session.refresh(last))) {
        const failure = failureOf(exit)
        assert.strictEqual(failure._tag, "RefreshBudgetExceeded")
        if (failure._tag !== "RefreshBudgetExceeded") continue
        assert.strictEqual(failure.refreshes, 3)
        assert.strictEqual(Duration.toMillis(failure.within), 60_000)
      }
      assert.strictEqual(yield* session.current, last)
      assert.strictEqual(up.calls.length, 4)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* session.refresh(last)).number, 4)
    }))

  it.scoped("is 10 within a minute by default, failed renewals included", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, cooldown: 0 })
      const stale = yield* session.current
      for (let i = 0; i < 10; i++) {
        up.next(Effect.fail(new Refused("no")))
        assert.strictEqual(failureOf(yield* Effect.exit(session.refresh(stale)))._tag, "Refused")
      }
      assert.strictEqual(failureOf(yield* Effect.exit(session.refresh(stale)))._tag, "RefreshBudgetExceeded")
    }))

  it.scoped("does not count expiry, age or renewals in the background", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({
        ...up,
        maxAge: "1 second",
        refreshAhead: "200 millis",
        budget: { refreshes: 1, within: "1 day" }
      })
      for (let i = 0; i < 50; i++) {
        yield* session.current
        yield* TestClock.adjust(i % 2 === 0 ? "1 second" : "900 millis")
      }
      assert.isAbove(up.calls.length, 25)
      yield* settle
      yield* TestClock.adjust("1 second")
      yield* session.refresh(yield* session.current)
      assert.strictEqual(
        failureOf(yield* Effect.exit(Effect.flatMap(session.current, session.refresh)))._tag,
        "RefreshBudgetExceeded"
      )
    }))

  it.scoped("stops values that arrive already expired; nobody is given one", () =>
    Effect.gen(function*() {
      const up = upstream()
      let skewed = true
      const session = yield* Session.make({ ...up, expiresAt: () => skewed ? -1 : Infinity })
      for (const exit of yield* many(20, session.current)) {
        assert.strictEqual(failureOf(exit)._tag, "RefreshBudgetExceeded")
      }
      assert.strictEqual(up.calls.length, 10)
      skewed = false
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* session.current).value, "v10")
    }))
})

describe("a renewal runs with the context and the fiber references of `make`", () => {
  class Tenant extends Context.Tag("test/Tenant")<Tenant, string>() {}

  it.scoped("not with those of the caller that started it", () =>
    Effect.gen(function*() {
      const ref = FiberRef.unsafeMake("default")
      const session = yield* Session.make({
        acquire: Effect.all([Tenant, FiberRef.get(ref)])
      }).pipe(Effect.provideService(Tenant, "made"), Effect.locally(ref, "made"))
      const generation = yield* session.current.pipe(
        Effect.provideService(Tenant, "caller"),
        Effect.locally(ref, "caller")
      )
      assert.deepStrictEqual(generation.value, ["made", "made"])
    }))

  it.scoped("and leaves the caller's own untouched", () =>
    Effect.gen(function*() {
      const ref = FiberRef.unsafeMake("default")
      const session = yield* Session.make({
        acquire: Effect.zipRight(FiberRef.set(ref, "renewal"), Effect.succeed("token")),
        onEnd: () => FiberRef.set(ref, "end")
      })
      yield* FiberRef.set(ref, "caller")
      yield* Session.use(session, () => Effect.void)
      yield* session.end
      assert.strictEqual(yield* FiberRef.get(ref), "caller")
    }))
})

describe("onRenewed", () => {
  it.scoped("sees each new generation before anyone else does", () =>
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

  it.scoped("that fails fails the refresh, and the spent token is not presented again: its value is kept", () =>
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

  it.scoped("that fails again and again until its value has expired: the renewal goes on from that value", () =>
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

  it.scoped("that fails until its value is too old: the value is not served, but renewed", () =>
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

  it.scoped("has failures of its own, about which `fatal` is not asked", () =>
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

  it.scoped("is not told of `initial`", () =>
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

describe("initial", () => {
  it.scoped("is served without an upstream call until it is refused, then renewed", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, initial: "saved" })
      const saved = yield* session.current
      assert.deepInclude(saved, { number: 0, value: "saved" })
      assert.deepStrictEqual(up.calls, [])
      const fresh = yield* session.refresh(saved)
      assert.deepInclude(fresh, { number: 1, value: "v0" })
      assert.deepStrictEqual(up.calls, ["renew saved"])
    }))

  it.scoped("that has expired is renewed before anyone gets it", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, initial: "saved", expiresAt: (v) => v === "saved" ? -1 : undefined })
      assert.strictEqual((yield* session.current).value, "v0")
      assert.deepStrictEqual(up.calls, ["renew saved"])
    }))
})

describe("fatal", () => {
  const isFatal = (error: Refused) => error.why === "invalid_grant"

  it.scoped("a dead credential is forgotten, and the same refresh signs in anew", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, fatal: isFatal, retry: Schedule.recurs(5) })
      const stale = yield* session.current
      up.next(Effect.fail(new Refused("invalid_grant")))
      assert.deepStrictEqual(new Set(valuesOf(yield* many(20, session.refresh(stale)))), new Set(["v1"]))
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0", "acquire"])
    }))

  it.scoped("if that fails too, the dead value is neither served nor renewed again", () =>
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

  it.scoped("where `acquire` is the only way, a fatal failure forgets the value and is tried once", () =>
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

  it.scoped("is given the very error, as `retry` is", () =>
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

  it.scoped("the value of the `acquire` that followed, kept when `onRenewed` failed, is renewed once it has expired", () =>
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

  it.scoped("a kept value that has died does not come back, not even with a clock that is set back", () =>
    Effect.gen(function*() {
      const clock = yield* Effect.clock
      let offset = 0
      const now = () => clock.unsafeCurrentTimeMillis() + offset
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
      }).pipe(Effect.withClock({
        [Clock.ClockTypeId]: Clock.ClockTypeId,
        unsafeCurrentTimeMillis: now,
        currentTimeMillis: Effect.sync(now),
        unsafeCurrentTimeNanos: () => clock.unsafeCurrentTimeNanos(),
        currentTimeNanos: clock.currentTimeNanos,
        sleep: (duration) => clock.sleep(duration)
      }))
      const stale = yield* session.current
      yield* Effect.exit(session.refresh(stale))
      isFull = false
      offset = 3_600_000
      up.next(Effect.fail(new Refused("invalid_grant")), Effect.fail(new Refused("down")))
      yield* Effect.exit(session.current)
      assert.deepStrictEqual(log, ["close v1"])
      offset = 0
      assert.strictEqual((yield* session.current).value, "v2")
      assert.deepStrictEqual(written, ["v0", "v2"])
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0", "renew v1", "acquire", "acquire"])
    }))

  it.scoped("that throws is a defect of that refresh, and the session goes on", () =>
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

describe("timeout", () => {
  it.scoped("bounds one refresh, retries and `onRenewed` included", () =>
    Effect.gen(function*() {
      let interrupted = 0
      const slow = Effect.onInterrupt(Effect.never, () => Effect.sync(() => interrupted++))
      const sessions = [
        yield* Session.make({ acquire: slow }),
        yield* Session.make({ acquire: Effect.fail("no"), retry: Schedule.spaced("7 seconds") }),
        yield* Session.make({ acquire: Effect.succeed("token"), onRenewed: () => slow })
      ]
      for (const session of sessions) {
        const waiting = yield* Effect.fork(
          many(3, Effect.asVoid(session.current as Effect.Effect<unknown, { readonly _tag: string }>))
        )
        yield* TestClock.adjust("29 seconds")
        assert.isNull(waiting.unsafePoll())
        yield* TestClock.adjust("1 second")
        for (const exit of yield* Fiber.join(waiting)) {
          assert.strictEqual(failureOf(exit)._tag, "RefreshTimeout")
        }
        assert.strictEqual((yield* session.status)._tag, "Failing")
      }
      assert.strictEqual(interrupted, 2)
    }))

  it.scoped("does not wait for a renewal that will not stop, and starts no second one beside it", () =>
    Effect.gen(function*() {
      const calls: Array<string> = []
      let running = 0
      const session = yield* Session.make({
        acquire: Effect.succeed("v0"),
        renew: (value) =>
          Effect.gen(function*() {
            calls.push(value)
            running++
            yield* Effect.sleep("100 seconds")
            running--
            return yield* Effect.fail(new Refused("no"))
          }).pipe(Effect.uninterruptible),
        budget: { refreshes: 100, within: "1 minute" }
      })
      const stale = yield* session.current
      for (const seconds of [0, 31, 63]) {
        yield* TestClock.setTime(seconds * 1000)
        const waiting = yield* Effect.fork(Effect.exit(session.refresh(stale)))
        yield* settle
        assert.strictEqual(running, 1)
        yield* TestClock.adjust("30 seconds")
        assert.strictEqual(failureOf(yield* Fiber.join(waiting))._tag, "RefreshTimeout")
        assert.deepStrictEqual([running, calls], [1, ["v0"]])
      }
      yield* TestClock.setTime(97_000)
      const last = yield* Effect.fork(Effect.exit(session.refresh(stale)))
      yield* TestClock.setTime(100_000)
      yield* settle
      assert.deepStrictEqual([running, calls], [1, ["v0", "v0"]])
      yield* TestClock.setTime(127_000)
      assert.strictEqual(failureOf(yield* Fiber.join(last))._tag, "RefreshTimeout")
      yield* TestClock.setTime(200_000)
      assert.strictEqual(running, 0)
    }))
})

describe("a late answer (S14)", () => {
  /** A session whose renewals take so many seconds each, one after the other; `log` tells what began and what ended. */
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

  it.scoped("is waited for by those who ask after the cooldown, and answers them", () =>
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

  it.scoped("that fails lets the one who waits behind it try within the rest of their time", () =>
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

  it.scoped("is cut after `lateness`, by default `timeout` once more; then the next try begins", () =>
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

  it.scoped("is overtaken by nobody, however many refreshes have timed out behind it", () =>
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

  it.scoped("that fails begins no try beyond the budget", () =>
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

  it.scoped("is not waited for where there is only `acquire`, or `lateness` is 0", () =>
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

  it.scoped("longer than a timer can hold is waited for", () =>
    Effect.gen(function*() {
      const clock = yield* Effect.clock
      // As the live clock does: JavaScript's timers overflow.
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

  it.scoped("that is a failure which `fatal` knows is remembered: the next refresh signs in", () =>
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

  it.scoped("that is a failure is not retried; a pause between two tries ends with the timeout", () =>
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

  it.scoped("in the midst of `onRenewed` goes on; if that fails, the value is kept for the next refresh", () =>
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

  it.effect("is interrupted by the close of the scope", () =>
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

  it.scoped("may not ask its own session for what it is to bring", () =>
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

  it.scoped("closes no circle with another session's renewal unseen", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const outer: Session.Session<string, unknown> = yield* Session.make<string, unknown, never, unknown>({
        acquire: Effect.succeed("v0"),
        // Late, it asks a session whose sign-in asks for what waits behind it.
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

describe("the clocks (S15)", () => {
  /** The test's clock for all that sleeps and for the monotonic time; a time of day that the test sets. */
  const settable = Effect.map(Effect.clock, (clock) => {
    const timeOfDay = { offset: 0 }
    const now = () => clock.unsafeCurrentTimeMillis() + timeOfDay.offset
    return {
      timeOfDay,
      /** To be put around `make`: a session keeps its clock. */
      withTimeOfDay: Effect.withClock({
        [Clock.ClockTypeId]: Clock.ClockTypeId,
        unsafeCurrentTimeMillis: now,
        currentTimeMillis: Effect.sync(now),
        unsafeCurrentTimeNanos: () => clock.unsafeCurrentTimeNanos(),
        currentTimeNanos: clock.currentTimeNanos,
        sleep: (duration) => clock.sleep(duration)
      })
    }
  })

  const day = 86_400_000

  for (const [direction, step] of [["back", -day], ["forward", day]] as const) {
    it.scoped(`set ${direction} by a day neither pins a failure nor ends its cooldown`, () =>
      Effect.gen(function*() {
        const { timeOfDay, withTimeOfDay } = yield* settable
        yield* TestClock.setTime(10 * day)
        const up = upstream()
        up.next(Effect.fail(new Refused("down")))
        const session = yield* withTimeOfDay(Session.make({ ...up, cooldown: "10 seconds" }))
        yield* Effect.exit(session.current)
        timeOfDay.offset = step
        yield* TestClock.adjust("9 seconds")
        assert.isTrue(Exit.isFailure(yield* Effect.exit(session.current)))
        const status = yield* session.status
        assert.strictEqual(status._tag === "Failing" && status.retryAt, 10 * day + step + 10_000)
        assert.deepStrictEqual(up.calls, ["acquire"])
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* session.current).value, "v0")
      }))

    it.scoped(`set ${direction} by a day neither pins the budget nor opens it`, () =>
      Effect.gen(function*() {
        const { timeOfDay, withTimeOfDay } = yield* settable
        yield* TestClock.setTime(10 * day)
        const session = yield* withTimeOfDay(
          Session.make({ ...upstream(), budget: { refreshes: 2, within: "1 minute" } })
        )
        const refused = Effect.flatMap(session.current, session.refresh)
        yield* refused
        yield* refused
        timeOfDay.offset = step
        yield* TestClock.adjust("59 seconds")
        assert.strictEqual(failureOf(yield* Effect.exit(refused))._tag, "RefreshBudgetExceeded")
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* refused).value, "v3")
      }))
  }

  it.scoped("of the day decides on expiry: set forward, nothing that has expired is served", () =>
    Effect.gen(function*() {
      const { timeOfDay, withTimeOfDay } = yield* settable
      const up = upstream()
      const session = yield* withTimeOfDay(Session.make({ ...up, maxAge: "1 hour" }))
      yield* session.current
      timeOfDay.offset = day
      assert.strictEqual((yield* session.current).value, "v1")
    }))

  it.scoped("set forward while a refresh is under way: what had expired by its arrival is given to nobody", () =>
    Effect.gen(function*() {
      const { timeOfDay, withTimeOfDay } = yield* settable
      const up = upstream()
      const session = yield* withTimeOfDay(Session.make({
        ...up,
        expiresAt: (value) => value === "slow" ? 60_000 : Infinity,
        onRenewed: ({ value }) =>
          Effect.sync(() => {
            if (value === "slow") timeOfDay.offset = day
          })
      }))
      up.next(Effect.succeed("slow"))
      const waiting = yield* Effect.fork(many(3, session.current))
      assert.deepStrictEqual(valuesOf(yield* Fiber.join(waiting)), ["v0", "v0", "v0"])
      assert.deepStrictEqual(up.calls, ["acquire", "renew slow"])
    }))
})

describe("a value that expires before anyone could have it (S9)", () => {
  it.scoped("because `onRenewed` takes longer: `current`, `refresh`, `use`, `scoped` and `changes` leave it out", () =>
    Effect.gen(function*() {
      for (
        const ask of [
          (session: Session.Session<string, Refused>) => session.current,
          (session: Session.Session<string, Refused>) => Effect.flatMap(session.current, session.refresh),
          (session: Session.Session<string, Refused>) => Session.use(session, (value) => Effect.succeed({ value })),
          (session: Session.Session<string, Refused>) => Effect.scoped(Session.scoped(session))
        ]
      ) {
        const up = upstream()
        const stored: Array<string> = []
        const seen: Array<string> = []
        const session: Session.Session<string, Refused> = yield* Session.make({
          ...up,
          maxAge: "1 second",
          onRenewed: ({ value }) =>
            Effect.zipRight(
              Effect.sleep(value === "v1" ? "900 millis" : "2 seconds"),
              Effect.sync(() => stored.push(value))
            )
        })
        yield* Effect.fork(
          Stream.runForEach(Session.changes(session), ({ value }) => Effect.sync(() => seen.push(value)))
        )
        const asking = yield* Effect.fork(Effect.map(ask(session), ({ value }) => value))
        yield* TestClock.adjust("2900 millis")
        yield* settle
        assert.deepStrictEqual([stored, seen], [["v0", "v1"], ["v1"]])
        yield* Fiber.interrupt(asking)
      }
    }))

  it.scoped("counts against the budget, whose error says so", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({
        ...up,
        maxAge: "1 second",
        onRenewed: () => Effect.sleep("2 seconds"),
        budget: { refreshes: 3, within: "1 minute" }
      })
      const asking = yield* Effect.fork(many(5, session.current))
      yield* TestClock.adjust("6 seconds")
      for (const exit of yield* Fiber.join(asking)) {
        const failure = failureOf(exit)
        assert.instanceOf(failure, Session.RefreshBudgetExceeded)
        assert.isTrue(failure.arrivedExpired)
        assert.include(failure.message, "expired")
      }
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0", "renew v1"])
    }))

  it.scoped("a budget that refusals have spent says nothing of the kind", () =>
    Effect.gen(function*() {
      const session = yield* Session.make({ ...upstream(), budget: { refreshes: 1, within: "1 minute" } })
      const refused = Effect.flatMap(session.current, session.refresh)
      yield* refused
      const failure = failureOf(yield* Effect.exit(refused))
      assert.instanceOf(failure, Session.RefreshBudgetExceeded)
      assert.isFalse(failure.arrivedExpired)
      assert.notInclude(failure.message, "expired")
    }))

  it.scoped("is revoked by `end` all the same", () =>
    Effect.gen(function*() {
      const revoked: Array<string> = []
      const session = yield* Session.make({
        ...upstream(),
        maxAge: "1 second",
        onEnd: (value) => Effect.sync(() => revoked.push(value))
      })
      yield* session.current
      yield* TestClock.adjust("1 hour")
      yield* session.end
      assert.deepStrictEqual(revoked, ["v0"])
    }))

  it.scoped("`changes` leaves out a current generation that has expired, and one that expires unread", () =>
    Effect.gen(function*() {
      const session = yield* Session.make({ ...upstream(), maxAge: "1 second" })
      yield* session.current
      yield* TestClock.adjust("1 second")
      const seen: Array<string> = []
      const gate = yield* Deferred.make<void>()
      yield* Effect.fork(
        Stream.runForEach(Session.changes(session), ({ value }) =>
          Effect.zipRight(
            Effect.sync(() => seen.push(value)),
            Deferred.await(gate)
          ))
      )
      yield* settle
      assert.deepStrictEqual(seen, [])
      yield* session.current
      yield* settle
      yield* session.refresh(yield* session.current)
      yield* TestClock.adjust("1 second")
      yield* Deferred.succeed(gate, undefined)
      yield* settle
      assert.deepStrictEqual(seen, ["v1"])
      yield* session.current
      yield* settle
      assert.deepStrictEqual(seen, ["v1", "v3"])
    }))
})

describe("asking one's own session (S16)", () => {
  it.scoped("`onEnd` is told so where it would sign in anew", () =>
    Effect.gen(function*() {
      const up = upstream()
      const seen: Array<string> = []
      const session: Session.Session<string, Refused> = yield* Session.make({
        ...up,
        onEnd: () =>
          Effect.map(Effect.exit(Effect.timeout(session.current, "1 minute")), (exit) => {
            seen.push(failureOf(exit)._tag)
          })
      })
      yield* session.current
      yield* session.end
      assert.deepStrictEqual([up.calls, seen, (yield* session.status)._tag], [
        ["acquire"],
        ["ReentrantRefresh"],
        "Idle"
      ])
    }))

  it.scoped("`onEnd` is told so where it would wait for another's sign-in, and is given one that has succeeded", () =>
    Effect.gen(function*() {
      const up = upstream()
      const seen: Array<string> = []
      const cues = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
      const session: Session.Session<string, Refused> = yield* Session.make({
        ...up,
        onEnd: () =>
          Effect.forEach(cues, (cue) =>
            Effect.zipRight(Deferred.await(cue), Effect.exit(session.current)).pipe(
              Effect.map((exit) => seen.push(Exit.isSuccess(exit) ? exit.value.value : failureOf(exit)._tag))
            ), { discard: true })
      })
      yield* session.current
      const ending = yield* Effect.fork(session.end)
      yield* settle
      const signIn = yield* held(Effect.succeed("anew"))
      up.next(signIn.answer)
      const asking = yield* Effect.fork(session.current)
      yield* signIn.started
      yield* Deferred.succeed(cues[0]!, undefined)
      yield* settle
      yield* signIn.release
      yield* Fiber.join(asking)
      yield* Deferred.succeed(cues[1]!, undefined)
      yield* Fiber.join(ending)
      assert.deepStrictEqual(seen, ["ReentrantRefresh", "anew"])
    }))

  it.scoped("what revokes a value that a detached renewal has brought is told so too", () =>
    Effect.gen(function*() {
      const up = upstream()
      const seen: Array<string> = []
      const session: Session.Session<string, Refused> = yield* Session.make({
        ...up,
        onEnd: (value) =>
          Effect.map(Effect.exit(session.current), (exit) => {
            seen.push(`${value} ${failureOf(exit)._tag}`)
          })
      })
      const renewal = yield* held(Effect.succeed("late"))
      up.next(renewal.answer)
      yield* Effect.fork(Effect.exit(session.current))
      yield* renewal.started
      yield* session.end
      yield* renewal.release
      yield* settle
      assert.deepStrictEqual([up.calls, seen], [["acquire"], ["late ReentrantRefresh"]])
    }))

  it.scoped("`onRenewed` is told so", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const session: Session.Session<string, Refused> = yield* Session.make({
        ...upstream(),
        onRenewed: (generation) =>
          Effect.forEach([session.current, session.refresh(generation)], (ask) =>
            Effect.map(Effect.exit(ask), (exit) => {
              seen.push(failureOf(exit)._tag)
            }), { discard: true })
      })
      yield* session.refresh(yield* session.current)
      assert.deepStrictEqual(seen, Array.from({ length: 4 }, () => "ReentrantRefresh"))
    }))

  it.scoped("a daemon of `onEnd` that outlives it may ask", () =>
    Effect.gen(function*() {
      const cue = yield* Deferred.make<void>()
      const asked = yield* Deferred.make<string, unknown>()
      const session: Session.Session<string, Refused> = yield* Session.make({
        ...upstream(),
        onEnd: () =>
          Deferred.await(cue).pipe(
            Effect.zipRight(Effect.map(session.current, ({ value }) => value)),
            Effect.intoDeferred(asked),
            Effect.forkDaemon
          )
      })
      yield* session.current
      yield* session.end
      yield* Deferred.succeed(cue, undefined)
      assert.strictEqual(yield* Deferred.await(asked), "v1")
    }))
})

describe("whose generation it is (S16)", () => {
  it.scoped("another session's, with the same number, renews nothing", () =>
    Effect.gen(function*() {
      const [dropped, up] = [upstream(), upstream()]
      const stale = yield* Effect.scoped(Effect.flatMap(Session.make(dropped), (session) => session.current))
      const session = yield* Session.make(up)
      const first = yield* session.current
      assert.strictEqual(stale.number, first.number)
      assert.strictEqual(yield* session.refresh(stale), first)
      assert.strictEqual(yield* session.refresh({ ...stale }), first)
      assert.deepStrictEqual(up.calls, ["acquire"])
    }))

  it.scoped("a copy is as good as the generation itself", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make(up)
      const copy = { ...(yield* session.current), value: "masked" }
      assert.strictEqual((yield* session.refresh(copy)).value, "v1")
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0"])
    }))
})

describe("wake (S16)", () => {
  it.scoped("ends a cooldown immediately; the token, the consecutive failures and the budget stay", () =>
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

  it.scoped("does nothing without a cooldown, and nothing to a session that is closed", () =>
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

describe("an `expiresAt` in seconds (S16)", () => {
  const start = Date.UTC(2026, 0, 1)
  const seconds = start / 1000 + 3600

  it.scoped("is refused with that hint, and the token is kept to renew from", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(start)
      const up = upstream()
      let unit = 1
      const session = yield* Session.make({ ...up, expiresAt: () => seconds * unit })
      const failure = failureOf(yield* Effect.exit(session.current))
      assert.instanceOf(failure, InvalidOptions)
      assert.deepInclude(failure, { option: "expiresAt", value: seconds })
      assert.include((failure as InvalidOptions).message, "seconds")
      unit = 1000
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* session.current).value, "v0")
      assert.deepStrictEqual(up.calls, ["acquire"])
      const refused = failureOf(
        yield* Effect.exit(
          Session.make({ acquire: Effect.succeed("token"), initial: "saved", expiresAt: () => seconds })
        )
      )
      assert.include(refused.message, "seconds")
    }))

  it.scoped("is not seen in what has simply expired: 0 and less, the last ten years, a DateTime", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(start)
      for (const expired of [0, -1, start - 9 * 365 * 86_400_000, DateTime.unsafeMake(1)]) {
        const up = upstream()
        const session = yield* Session.make({ ...up, expiresAt: (value) => value === "v0" ? expired : undefined })
        assert.strictEqual((yield* session.current).value, "v1")
      }
    }))
})

describe("end", () => {
  it.scoped("forgets the value, revokes it, and the next `current` signs in anew", () =>
    Effect.gen(function*() {
      const up = upstream()
      const revoked: Array<string> = []
      const session = yield* Session.make({ ...up, onEnd: (value) => Effect.sync(() => revoked.push(value)) })
      const first = yield* session.current
      yield* session.end
      assert.deepStrictEqual(revoked, ["v0"])
      assert.strictEqual((yield* session.status)._tag, "Idle")
      const second = yield* session.current
      assert.deepInclude(second, { number: 1, value: "v1" })
      assert.strictEqual(yield* session.refresh(first), second)
      assert.deepStrictEqual(up.calls, ["acquire", "acquire"])
    }))

  it.scoped("with nothing to forget does nothing", () =>
    Effect.gen(function*() {
      const revoked: Array<string> = []
      const session = yield* Session.make({ ...upstream(), onEnd: (value) => Effect.sync(() => revoked.push(value)) })
      yield* session.end
      yield* session.end
      assert.deepStrictEqual(revoked, [])
    }))

  it.scoped("detaches a renewal in flight: its waiters get SessionEnded, what it brings is revoked and seen by nobody", () =>
    Effect.gen(function*() {
      const up = upstream()
      const revoked: Array<string> = []
      const session = yield* Session.make({ ...up, onEnd: (value) => Effect.sync(() => revoked.push(value)) })
      const stale = yield* session.current
      const renewal = yield* held(Effect.succeed("late"))
      up.next(renewal.answer)
      const waiting = yield* Effect.fork(many(20, session.refresh(stale)))
      yield* renewal.started
      yield* settle
      yield* session.end
      for (const exit of yield* Fiber.join(waiting)) assert.strictEqual(failureOf(exit)._tag, "SessionEnded")
      assert.deepStrictEqual(revoked, ["v0"])
      assert.strictEqual((yield* session.current).value, "v1")
      yield* renewal.release
      yield* settle
      assert.deepStrictEqual(revoked, ["v0", "late"])
      assert.strictEqual((yield* session.current).value, "v1")
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0", "acquire"])
    }))

  it.scoped("revokes to the end though its caller is interrupted, and a second `end` does not revoke twice", () =>
    Effect.gen(function*() {
      const revoked: Array<string> = []
      const session = yield* Session.make({
        ...upstream(),
        onEnd: (value) => Effect.zipRight(Effect.sleep("1 second"), Effect.sync(() => revoked.push(value)))
      })
      yield* session.current
      const ending = yield* Effect.fork(session.end)
      yield* settle
      yield* session.end
      yield* Fiber.interrupt(ending)
      yield* TestClock.adjust("1 second")
      yield* settle
      assert.deepStrictEqual(revoked, ["v0"])
    }))

  it.effect("revokes to the end though the session is closed meanwhile", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const revoked: Array<string> = []
      const session = yield* Session.make({
        ...upstream(),
        onEnd: (value) => Effect.zipRight(Effect.sleep("1 second"), Effect.sync(() => revoked.push(value)))
      }).pipe(Scope.extend(scope))
      yield* session.current
      yield* Effect.fork(session.end)
      yield* settle
      const closing = yield* Effect.fork(Scope.close(scope, Exit.void))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(closing)
      assert.deepStrictEqual(revoked, ["v0"])
    }))

  it.scoped("ends the cooldown of a failure too", () =>
    Effect.gen(function*() {
      const up = upstream()
      up.next(Effect.fail(new Refused("password")))
      const session = yield* Session.make(up)
      yield* Effect.exit(session.current)
      yield* session.end
      assert.strictEqual((yield* session.current).value, "v0")
    }))

  it.scoped("keeps what a detached renewal brings from being written down", () =>
    Effect.gen(function*() {
      const up = upstream()
      const stored: Array<string> = []
      const session = yield* Session.make({ ...up, onRenewed: ({ value }) => Effect.sync(() => stored.push(value)) })
      const stale = yield* session.current
      const renewal = yield* held(Effect.succeed("late"))
      up.next(renewal.answer)
      yield* Effect.fork(Effect.exit(session.refresh(stale)))
      yield* renewal.started
      yield* session.end
      yield* session.current
      yield* renewal.release
      yield* settle
      assert.deepStrictEqual(stored, ["v0", "v1"])
    }))

  it.scoped("during a write of `onRenewed`: the next sign-in is written after it, and stays written", () =>
    Effect.gen(function*() {
      const up = upstream()
      const log: Array<string> = []
      const slow = yield* Deferred.make<void>()
      let stored: string | undefined
      const session = yield* Session.make({
        ...up,
        onRenewed: ({ value }) =>
          Effect.gen(function*() {
            log.push(`write ${value}`)
            if (value === "v1") yield* Deferred.await(slow)
            stored = value
            log.push(`written ${value}`)
          }),
        onEnd: (value) =>
          Effect.sync(() => {
            log.push(`revoke ${value}`)
            if (stored === value) stored = undefined
          })
      })
      yield* Effect.fork(Effect.exit(session.refresh(yield* session.current)))
      yield* settle
      yield* session.end
      const asking = yield* Effect.fork(session.current)
      yield* settle
      assert.isNull(asking.unsafePoll())
      yield* Deferred.succeed(slow, undefined)
      assert.strictEqual((yield* Fiber.join(asking)).value, "v2")
      yield* settle
      assert.strictEqual(stored, "v2")
      assert.deepStrictEqual(log.filter((line) => !line.includes("v0")), [
        "write v1",
        "written v1",
        ...log.slice(-3)
      ])
      assert.deepStrictEqual(new Set(log.slice(-3)), new Set(["revoke v1", "write v2", "written v2"]))
    }))

  for (
    const [how, write] of [
      ["fails", Effect.fail(new Refused("disk full"))],
      ["dies", Effect.die("boom")],
      ["hangs until it is cut", Effect.never]
    ] as const
  ) {
    it.scoped(`during a write that ${how} does not keep the next sign-in from being written`, () =>
      Effect.gen(function*() {
        const cue = yield* Deferred.make<void>()
        const stored: Array<string> = []
        const session = yield* Session.make({
          ...upstream(),
          timeout: "10 seconds",
          onRenewed: ({ value }) =>
            value === "v1" ? Effect.zipRight(Deferred.await(cue), write) : Effect.sync(() => stored.push(value))
        })
        yield* Effect.fork(Effect.exit(session.refresh(yield* session.current)))
        yield* settle
        yield* session.end
        const asking = yield* Effect.fork(Effect.exit(session.current))
        yield* settle
        yield* Deferred.succeed(cue, undefined)
        yield* settle
        for (let second = 0; second < 21; second++) yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* session.current).value, "v2")
        yield* Fiber.join(asking)
        assert.deepStrictEqual(stored, ["v0", "v2"])
      }))
  }

  it.scoped("never gives a number again that `onRenewed` has seen", () =>
    Effect.gen(function*() {
      const up = upstream()
      const seen: Array<Session.Generation<string>> = []
      const session = yield* Session.make({
        ...up,
        cooldown: 0,
        expiresAt: (value) => value === "v1" ? 10_000 : Infinity,
        onRenewed: (generation) =>
          Effect.suspend(() => {
            seen.push(generation)
            return generation.value === "v1" ? Effect.fail(new Refused("disk full")) : Effect.void
          })
      })
      yield* Effect.exit(session.refresh(yield* session.current))
      yield* TestClock.adjust("10 seconds")
      yield* session.refresh(yield* session.current)
      yield* session.end
      yield* Effect.exit(session.current)
      const { calls } = up
      const asked = calls.length
      for (const generation of seen.slice(0, -1)) yield* session.refresh(generation)
      assert.strictEqual(calls.length, asked)
      const numbers = seen.map(({ number }) => number)
      assert.deepStrictEqual(numbers, [...new Set(numbers)])
    }))

  it.scoped("a detached renewal's generation is a straggler", () =>
    Effect.gen(function*() {
      const up = upstream()
      const seen: Array<Session.Generation<string>> = []
      const session = yield* Session.make({
        ...up,
        onRenewed: (generation) =>
          Effect.suspend(() => {
            seen.push(generation)
            return generation.value === "v1" ? Effect.sleep("1 second") : Effect.void
          })
      })
      yield* Effect.fork(Effect.exit(session.refresh(yield* session.current)))
      yield* settle
      yield* session.end
      const asking = yield* Effect.fork(session.current)
      yield* TestClock.adjust("1 second")
      const signedIn = yield* Fiber.join(asking)
      assert.deepStrictEqual(seen.map(({ number }) => number), [0, 1, 2])
      assert.strictEqual(yield* session.refresh(seen[1]!), signedIn)
      assert.deepStrictEqual(up.calls, ["acquire", "renew v0", "acquire"])
    }))

  it.scoped("releases and revokes the rest though `onEnd` dies", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      let fail = false
      const session = yield* Session.make({
        acquire: Effect.acquireRelease(Effect.succeed("v0"), () => Effect.sync(() => log.push("release v0"))),
        renew: () => Effect.acquireRelease(Effect.succeed("v1"), () => Effect.sync(() => log.push("release v1"))),
        onRenewed: () => fail ? Effect.fail("disk full") : Effect.void,
        onEnd: (value) => {
          log.push(`revoke ${value}`)
          if (value === "v0") throw new Error("boom")
          return Effect.void
        }
      })
      const first = yield* session.current
      fail = true
      yield* Effect.exit(session.refresh(first))
      const exit = yield* Effect.exit(session.end)
      assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
      assert.deepStrictEqual(log, ["revoke v0", "revoke v1", "release v1", "release v0"])
    }))

  it.scoped("called by a renewal does not wait for that renewal", () =>
    Effect.gen(function*() {
      let first = true
      const session: Session.Session<string> = yield* Session.make({
        acquire: Effect.suspend(() => first ? (first = false, Effect.as(session.end, "lost")) : Effect.succeed("token"))
      })
      assert.strictEqual(failureOf(yield* Effect.exit(session.current))._tag, "SessionEnded")
      assert.strictEqual((yield* session.current).value, "token")
    }))
})

describe("use", () => {
  it.scoped("refreshes the generation it ran with when the failure is a refusal, and runs again", () =>
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

  it.scoped("runs at most `1 + maxRefreshes` times, then its own failure is the answer", () =>
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

  it.scoped("leaves failures that are no refusal, defects and interruption alone", () =>
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

  it.scoped("fails with the refresh's own failure where that fails", () =>
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

  it.scoped("refuses nonsense with InvalidOptions and survives a `rejected` that throws", () =>
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

describe("changes", () => {
  it.scoped("gives the present generation first, then each that becomes current", () =>
    Effect.gen(function*() {
      const session = yield* Session.make(upstream())
      yield* session.current
      const seen: Array<number> = []
      const reading = yield* Effect.fork(
        Stream.runForEach(Session.changes(session), ({ number }) => Effect.sync(() => seen.push(number)))
      )
      yield* settle
      for (let i = 0; i < 3; i++) {
        yield* session.refresh(yield* session.current)
        yield* settle
      }
      assert.deepStrictEqual(seen, [0, 1, 2, 3])
      yield* Fiber.interrupt(reading)
    }))

  it.scoped("acquires nothing by itself, and waits for the first", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make(up)
      const first = yield* Effect.fork(Stream.runHead(Session.changes(session)))
      yield* settle
      assert.deepStrictEqual(up.calls, [])
      yield* session.current
      assert.strictEqual(Option.getOrThrow(yield* Fiber.join(first)).value, "v0")
    }))

  it.scoped("lets a slow reader miss what lies between, never the latest", () =>
    Effect.gen(function*() {
      const session = yield* Session.make({ ...upstream(), budget: { refreshes: 1000, within: "1 minute" } })
      yield* session.current
      const gate = yield* Deferred.make<void>()
      const seen: Array<number> = []
      yield* Effect.fork(Stream.runForEach(Session.changes(session), ({ number }) =>
        Effect.zipRight(
          Effect.sync(() => seen.push(number)),
          Deferred.await(gate)
        )))
      yield* settle
      for (let i = 0; i < 100; i++) {
        yield* session.refresh(yield* session.current)
      }
      yield* Deferred.succeed(gate, undefined)
      yield* settle
      assert.strictEqual(seen[0], 0)
      assert.strictEqual(seen.at(-1), 100)
      assert.isBelow(seen.length, 5)
    }))

  it.scoped("hands a slow reader nothing that was forgotten before it was read", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, cooldown: 0, fatal: ({ why }: Refused) => why === "invalid_grant" })
      yield* session.current
      const next = yield* Stream.toPull(Session.changes(session))
      const read = Effect.map(Effect.orDie(next), (chunk) => Chunk.toArray(chunk).map(({ value }) => value))
      assert.deepStrictEqual(yield* read, ["v0"])
      yield* session.refresh(yield* session.current)
      yield* session.end
      yield* session.current
      assert.deepStrictEqual(yield* read, ["v2"])
      const dead = yield* session.refresh(yield* session.current)
      up.next(Effect.fail(new Refused("invalid_grant")), Effect.fail(new Refused("down")))
      yield* Effect.exit(session.refresh(dead))
      const reading = yield* Effect.fork(read)
      yield* settle
      assert.isNull(reading.unsafePoll())
      yield* session.current
      assert.deepStrictEqual(yield* Fiber.join(reading), ["v4"])
    }))

  it.effect("ends when the session closes", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const session = yield* Session.make(upstream()).pipe(Scope.extend(scope))
      yield* session.current
      const reading = yield* Effect.fork(Stream.runCollect(Session.changes(session)))
      yield* settle
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(Chunk.size(yield* Fiber.join(reading)), 1)
    }))
})

describe("status", () => {
  it.scoped("tells what the session is doing, with times and counts", () =>
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

describe("nonsense in the options", () => {
  const acquire = Effect.succeed("token")
  const nonsense: ReadonlyArray<[string, Partial<Session.Options<string>>]> = [
    ["maxAge", { maxAge: 0 }],
    ["maxAge", { maxAge: NaN }],
    ["maxAge", { maxAge: -1 }],
    ["maxAge", { maxAge: "1 fortnight" as "1 day" }],
    ["refreshAhead", { refreshAhead: -5 }],
    ["refreshAhead", { refreshAhead: NaN }],
    ["timeout", { timeout: 0 }],
    ["timeout", { timeout: NaN }],
    ["timeout", { timeout: "25 days" }],
    ["lateness", { lateness: -1 }],
    ["lateness", { lateness: NaN }],
    ["lateness", { lateness: "a while" as "1 day" }],
    ["cooldown", { cooldown: -1 }],
    ["cooldown", { cooldown: Infinity }],
    ["budget.refreshes", { budget: { refreshes: 0, within: "1 minute" } }],
    ["budget.refreshes", { budget: { refreshes: 1.5, within: "1 minute" } }],
    ["budget.refreshes", { budget: { refreshes: NaN, within: "1 minute" } }],
    ["budget.within", { budget: { refreshes: 5, within: 0 } }],
    ["budget.within", { budget: { refreshes: 5, within: NaN } }]
  ]
  for (const [option, options] of nonsense) {
    it.scoped(`is refused by InvalidOptions: ${option} ${JSON.stringify(options)}`, () =>
      Effect.gen(function*() {
        const failure = failureOf(yield* Effect.exit(Session.make({ acquire, ...options })))
        assert.instanceOf(failure, InvalidOptions)
        assert.strictEqual(failure.option, option)
        assert.include(failure.message, option)
      }))
  }

  for (
    const [what, garbage] of [
      ["NaN", () => NaN],
      ["a text", () => "tomorrow" as unknown as number],
      ["an invalid date", () => new Date(NaN) as unknown as number],
      ["an exception", (): number => {
        throw new TypeError("a secret")
      }]
    ] as const
  ) {
    it.scoped(`an expiry that is ${what} fails the refresh with InvalidOptions; the token is kept to renew from`, () =>
      Effect.gen(function*() {
        const up = upstream()
        let broken = true
        const session = yield* Session.make({ ...up, expiresAt: () => broken ? garbage() : undefined })
        const failure = failureOf(yield* Effect.exit(session.current))
        assert.instanceOf(failure, InvalidOptions)
        assert.strictEqual((failure as InvalidOptions).option, "expiresAt")
        assert.notInclude((failure as InvalidOptions).message, "secret")
        yield* TestClock.adjust("1 second")
        yield* Effect.exit(session.current)
        broken = false
        yield* TestClock.adjust("2 seconds")
        assert.strictEqual((yield* session.current).value, "v1")
        assert.deepStrictEqual(up.calls, ["acquire", "renew v0"])
      }))
  }

  it.scoped("an `initial` whose expiry is garbage is refused by `make`", () =>
    Effect.gen(function*() {
      const failure = failureOf(yield* Effect.exit(Session.make({ acquire, initial: "saved", expiresAt: () => NaN })))
      assert.strictEqual(failure.option, "expiresAt")
    }))
})

describe("the types", () => {
  it("unite the errors of the effects, and of nothing else", () => {
    const acquire = Effect.succeed("token") as Effect.Effect<string, "E1">
    const renew = (_: string) => Effect.succeed("token") as Effect.Effect<string, "E2">
    expectTypeOf(Session.make({ acquire })).toEqualTypeOf<
      Effect.Effect<Session.Session<string, "E1">, InvalidOptions, Scope.Scope>
    >()
    expectTypeOf(
      Session.make({ acquire, renew, retry: Schedule.recurs(3), cooldown: Schedule.spaced(1000), fatal: () => false })
    ).toEqualTypeOf<Effect.Effect<Session.Session<string, "E1" | "E2">, InvalidOptions, Scope.Scope>>()
    expectTypeOf(Session.make({ acquire: Effect.succeed(1), retry: Schedule.recurs(3) })).toEqualTypeOf<
      Effect.Effect<Session.Session<number, never>, InvalidOptions, Scope.Scope>
    >()
  })

  it("are inferred whether `fatal` is written before `renew` or after it", () => {
    class Failed {
      readonly code = "invalid_grant"
    }
    const acquire = Effect.succeed({ refresh: "r" }) as Effect.Effect<{ readonly refresh: string }, Failed>
    const exchange = (_: string) => acquire
    const before = Session.make({
      acquire,
      fatal: (error) => error.code === "invalid_grant",
      renew: (tokens) => exchange(tokens.refresh)
    })
    const after = Session.make({
      acquire,
      renew: (tokens) => exchange(tokens.refresh),
      fatal: (error) => error.code === "invalid_grant"
    })
    expectTypeOf(before).toEqualTypeOf(after)
    expectTypeOf(before).toEqualTypeOf<
      Effect.Effect<Session.Session<{ readonly refresh: string }, Failed>, InvalidOptions, Scope.Scope>
    >()
    const map = SessionMap.make({
      lookup: (_: string) => ({
        acquire,
        fatal: (error: Failed) => error.code === "invalid_grant",
        renew: (tokens: { readonly refresh: string }) => exchange(tokens.refresh)
      })
    })
    expectTypeOf(map).toEqualTypeOf<
      Effect.Effect<
        SessionMap.SessionMap<string, { readonly refresh: string }, Failed>,
        InvalidOptions,
        Scope.Scope
      >
    >()
  })
})
