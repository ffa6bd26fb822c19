/**
 * The guarantees of a session, as programs that hold under every interleaving. The programs take the module as an
 * argument, so that a module with a known fault can be tried, too.
 */
import * as Inspector from "effect-holdfast/Inspector"
import type * as SessionModule from "effect-holdfast/Session"
import { Interleavings } from "effect-holdfast/testing"
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import * as Clock from "effect/Clock"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as assert from "node:assert/strict"
import * as Inside from "../../src/internal/session/inside.js"
import { failureOf } from "../support/exits.js"
import { sumOf } from "../support/metrics.js"

export class Refused extends Data.TaggedError("Refused")<{ readonly why: string }> {}

/** An upstream that records each call, takes a step, and gives the next of these answers: by default, success. */
export const upstream = (...answers: Array<Effect.Effect<void, Refused>>) => {
  const calls: Array<string> = []
  let next = 0
  const call = (name: string): Effect.Effect<string, Refused> =>
    Effect.suspend(() => {
      calls.push(name)
      const answer = answers.shift() ?? Effect.void
      return Effect.zipRight(Effect.yieldNow(), Effect.map(answer, () => `v${next++}`))
    })
  return { calls, acquire: call("acquire"), renew: (value: string) => call(`renew ${value}`) }
}

const together = <A, E>(effects: ReadonlyArray<Effect.Effect<A, E>>) =>
  Effect.flatMap(Effect.forEach(effects, Effect.fork), Effect.forEach(Fiber.await))

const times = <A>(count: number, value: A): Array<A> => Array.from({ length: count }, () => value)

const valueOf = <A, E>(exit: Exit.Exit<A, E>): A => {
  assert.ok(Exit.isSuccess(exit), `no success: ${String(exit)}`)
  return exit.value
}

/** Scenarios that mark a fiber for interruption. */
export const interrupted: ReadonlyArray<string> = [
  "interrupting a waiter affects neither the renewal nor other waiters",
  "interrupting the first caller affects no other caller",
  "interrupting a call affects no other call, whether it refreshes or not",
  "a generation's resources are open while it is used, and closed once",
  "an interrupted holder releases its generation",
  "a generation whose last holder is a fiber of its own is released, and the fiber ends",
  "signing out revokes each value once, and leaves no caller waiting",
  "an adopted generation is current for all waiters, and stays current when a renewal ends",
  "a generation that an adopted one replaces stays open while it is used, and is released once",
  "a token is presented once, however late its answer is",
  "a session whose `make` is interrupted leaves no row in an Inspector, and no value in a gauge"
]

/** Scenarios that hold even if a timer fires at any moment, as on a slow machine. */
export const slow: ReadonlyArray<string> = [
  "a refresh that exceeds its timeout fails all callers with one RefreshTimeout, and the session goes on",
  "a token is presented once, however late its answer is",
  "no renewal starts while a late one runs, however many refreshes time out meanwhile",
  "signing out revokes a late answer, once",
  "closing interrupts a late renewal, and answers all callers",
  "`wake` starts no renewal while another one runs",
  "an adopted generation is current for all waiters, and stays current when a renewal ends"
]

/** A caller that tries again as long as refreshes time out. */
const patiently = <A, E extends { readonly _tag: string }>(effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
  Effect.retry(effect, {
    schedule: Schedule.spaced("2 seconds"),
    while: ({ _tag }) => _tag === "RefreshTimeout",
    times: 9
  })

/** Renewals that take this many seconds; `calls` are the tokens presented, `running` is the number in flight. */
const slowUpstream = (...seconds: Array<number>) => {
  const state = { calls: [] as Array<string>, running: 0, next: 1 }
  return {
    state,
    acquire: Effect.fail(new Refused({ why: "there is `initial`" })),
    initial: "v0",
    renew: (value: string): Effect.Effect<string, Refused> =>
      Effect.suspend(() => {
        state.calls.push(value)
        assert.equal(++state.running, 1, "two renewals at the same time")
        return Effect.sleep((seconds.shift() ?? 0) * 1000)
      }).pipe(
        Effect.map(() => `v${state.next++}`),
        Effect.ensuring(Effect.sync(() => state.running--))
      )
  }
}

/**
 * A renewal of three steps that ends in a certain way at one of them: all waiting callers get that outcome, the
 * resources that it has acquired are released, and the next renewal, after the cooldown, succeeds.
 */
export const endingAt = (
  Session: typeof SessionModule,
  step: number,
  end: Effect.Effect<never, Refused>,
  isThatEnd: (cause: Cause.Cause<Refused | SessionModule.SessionError>) => boolean
) =>
  Effect.gen(function*() {
    let open = 0
    let renewals = 0
    const steps = (count: number) =>
      Effect.forEach(Array.from({ length: count }), () =>
        Effect.zipRight(
          Effect.acquireRelease(Effect.sync(() => open++), () => Effect.sync(() => open--)),
          Effect.yieldNow()
        ), { discard: true })
    const scope = yield* Scope.make()
    const session = yield* Scope.extend(
      Session.make({
        acquire: Effect.suspend(() =>
          renewals++ === 1
            ? Effect.zipRight(steps(step), end)
            : Effect.as(steps(3), `v${renewals - 1}`)
        ),
        cooldown: "1 second"
      }),
      scope
    )
    const stale = yield* session.current
    const ends = yield* together(times(3, session.refresh(stale)))
    for (const exit of ends) assert.ok(Exit.isFailure(exit) && isThatEnd(exit.cause), String(exit))
    assert.equal(yield* session.current, stale)
    assert.equal(open, 3)
    yield* Effect.sleep("1 second")
    const values = (yield* together(times(2, session.refresh(stale)))).map((exit) => valueOf(exit).value)
    assert.deepEqual(values, ["v2", "v2"])
    yield* Effect.sleep("1 millis")
    assert.equal(open, 3)
    yield* Scope.close(scope, Exit.void)
    assert.deepEqual([open, renewals], [0, 3])
  })

const adopting = <A, E>(session: SessionModule.Session<A, E>, value: A) =>
  Inside.of(session).adopt({ value, acquiredAt: 0, expiresAt: Infinity }, () => true)

export const scenarios = (Session: typeof SessionModule) => {
  /** An application's call, which is refused with the first value and succeeds with later ones. */
  const callWith = (session: SessionModule.Session<string, Refused>, refusedValue = "v0") =>
    Session.use(session, (value) => value === refusedValue ? Effect.fail("401" as const) : Effect.succeed(value), {
      rejected: (error) => error === "401"
    })

  return {
    "concurrent first callers cause one sign-in": Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make(up)
      const values = (yield* together(times(3, session.current))).map(valueOf)
      assert.deepEqual(values.map(({ value }) => value), ["v0", "v0", "v0"])
      assert.deepEqual(up.calls, ["acquire"])
    }),

    "a refused generation is renewed once, for concurrent callers and for a straggler": Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make(up)
      const straggler = yield* session.current
      const values = (yield* together(times(3, callWith(session)))).map(valueOf)
      assert.deepEqual(values, ["v1", "v1", "v1"])
      assert.equal((yield* session.refresh(straggler)).value, "v1")
      assert.deepEqual(up.calls, ["acquire", "renew v0"])
    }),

    "interrupting a waiter affects neither the renewal nor other waiters": Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make(up)
      const stale = yield* session.current
      const leader = yield* Effect.fork(Interleavings.victim(session.refresh(stale)))
      const others = yield* together(times(2, session.refresh(stale)))
      assert.deepEqual(others.map((exit) => valueOf(exit).value), ["v1", "v1"])
      const exit = yield* Fiber.await(leader)
      if (Exit.isSuccess(exit)) assert.equal(exit.value.value, "v1")
      assert.equal((yield* session.current).value, "v1")
      assert.deepEqual(up.calls, ["acquire", "renew v0"])
    }),

    "interrupting the first caller affects no other caller": Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make(up)
      const first = yield* Effect.fork(Interleavings.victim(session.current))
      assert.deepEqual((yield* together(times(2, session.current))).map((exit) => valueOf(exit).value), ["v0", "v0"])
      yield* Fiber.await(first)
      assert.deepEqual(up.calls, ["acquire"])
    }),

    "interrupting a call affects no other call, whether it refreshes or not": Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make(up)
      const victim = yield* Effect.fork(Interleavings.victim(callWith(session)))
      assert.equal(yield* callWith(session), "v1")
      yield* Fiber.await(victim)
      assert.equal((yield* session.current).value, "v1")
      assert.deepEqual(up.calls, ["acquire", "renew v0"])
    }),

    "a renewal completes, and its value is kept, even if all its waiters are interrupted": Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make(up)
      const stale = yield* session.current
      const waiters = yield* Effect.forEach([1, 2], () => Effect.fork(session.refresh(stale)))
      yield* Effect.yieldNow()
      for (const waiter of waiters) waiter.unsafeInterruptAsFork(waiter.id())
      yield* Effect.forEach(waiters, Fiber.await)
      const { value } = yield* session.current
      assert.deepEqual(up.calls, value === "v1" ? ["acquire", "renew v0"] : ["acquire"])
    }),

    "a failed renewal fails all callers with one error until the cooldown is over, and is then retried once": Effect
      .gen(function*() {
        const up = upstream(Effect.void, Effect.fail(new Refused({ why: "down" })))
        const session = yield* Session.make({ ...up, cooldown: "1 second" })
        const stale = yield* session.current
        const failures = (yield* together(times(3, session.refresh(stale)))).map(failureOf)
        assert.equal(new Set(failures).size, 1)
        assert.equal(failureOf(yield* Effect.exit(session.refresh(stale))), failures[0])
        assert.equal(yield* session.current, stale)
        assert.deepEqual(up.calls, ["acquire", "renew v0"])
        yield* Effect.sleep("1 second")
        const values = (yield* together(times(2, session.refresh(stale)))).map((exit) => valueOf(exit).value)
        assert.deepEqual(values, ["v1", "v1"])
        assert.deepEqual(up.calls, ["acquire", "renew v0", "renew v0"])
      }),

    "a refused generation is not served while it is renewed": Effect.gen(function*() {
      const up = upstream(Effect.void, Effect.sleep("1 second"))
      const session = yield* Session.make(up)
      const stale = yield* session.current
      const refreshing = yield* Effect.fork(session.refresh(stale))
      yield* Effect.sleep("1 millis")
      assert.deepEqual((yield* together(times(2, session.current))).map((exit) => valueOf(exit).value), ["v1", "v1"])
      assert.equal((yield* Fiber.join(refreshing)).value, "v1")
    }),

    "a defect reaches all waiting callers, and the session works again after the cooldown": Effect.gen(function*() {
      const defect = new Error("broken")
      const up = upstream(Effect.die(defect))
      const session = yield* Session.make({ ...up, cooldown: "1 second" })
      for (const exit of yield* together(times(3, session.current))) {
        assert.ok(Exit.isFailure(exit))
        assert.deepEqual(Option.getOrUndefined(Cause.dieOption(exit.cause)), defect)
      }
      yield* Effect.sleep("1 second")
      assert.equal((yield* session.current).value, "v0")
      assert.deepEqual(up.calls, ["acquire", "acquire"])
    }),

    "a refresh that exceeds its timeout fails all callers with one RefreshTimeout, and the session goes on": Effect.gen(
      function*() {
        const up = upstream()
        const session = yield* Session.make({ ...up, timeout: "30 seconds" })
        const stale = yield* patiently(session.current)
        const exits = yield* together(times(3, session.refresh(stale)))
        const failures = exits.filter(Exit.isFailure).map(failureOf)
        for (const failure of failures) assert.equal(failure._tag, "RefreshTimeout")
        assert.ok(new Set(failures).size <= 1)
        const { number } = yield* patiently(session.refresh(stale))
        assert.equal(number, stale.number + 1)
        // The value of a renewal that exceeded its timeout is kept: there is no further renewal.
        assert.ok(up.calls.length <= 3, up.calls.join())
      }
    ),

    "a renewal that interrupts itself fails with RefreshInterrupted, and interrupts no caller": Effect.gen(function*() {
      const session = yield* Session.make(upstream(Effect.interrupt))
      for (const exit of yield* together(times(3, session.current))) {
        assert.equal(failureOf(exit)._tag, "RefreshInterrupted")
      }
    }),

    "closing answers all callers": Effect.gen(function*() {
      const scope = yield* Scope.make()
      const session = yield* Scope.extend(Session.make(upstream(Effect.void, Effect.sleep("1 hour"))), scope)
      const callers = yield* Effect.forEach([1, 2], () => Effect.fork(callWith(session)))
      const first = yield* Effect.fork(session.current)
      yield* Scope.close(scope, Exit.void)
      for (const caller of [first, ...callers]) {
        const exit: Exit.Exit<unknown, unknown> = yield* Fiber.await<unknown, unknown>(caller)
        if (Exit.isFailure(exit)) assert.equal((failureOf(exit) as { readonly _tag: string })._tag, "SessionClosed")
      }
      assert.equal(failureOf(yield* Effect.exit(session.current))._tag, "SessionClosed")
    }),

    "a renewal that asks its own session fails with ReentrantRefresh": Effect.gen(function*() {
      const session: SessionModule.Session<string, unknown> = yield* Session.make<string, unknown>({
        acquire: Effect.yieldNow().pipe(
          Effect.zipRight(
            Effect.suspend(() => Effect.all([session.current, Effect.never], { concurrency: "unbounded" }))
          ),
          Effect.as("never")
        )
      })
      for (const exit of yield* together(times(2, session.current))) {
        assert.equal((failureOf(exit) as { readonly _tag: string })._tag, "ReentrantRefresh")
      }
    }),

    "two sessions that renew through each other do not wait for ever": Effect.gen(function*() {
      const a: SessionModule.Session<string, unknown> = yield* Session.make<string, unknown>({
        acquire: Effect.suspend(() => Effect.map(b.current, ({ value }) => `a of ${value}`))
      })
      const b: SessionModule.Session<string, unknown> = yield* Session.make<string, unknown>({
        acquire: Effect.suspend(() => Effect.map(a.current, ({ value }) => `b of ${value}`))
      })
      for (const exit of yield* together([a.current, b.current, a.current])) {
        assert.equal((failureOf(exit) as { readonly _tag: string })._tag, "ReentrantRefresh")
      }
    }),

    "a valid generation is served immediately while it is renewed in the background": Effect.gen(function*() {
      const up = upstream(Effect.void, Effect.sleep("5 seconds"))
      const session = yield* Session.make({ ...up, maxAge: "100 seconds", refreshAhead: "20 seconds" })
      yield* session.current
      yield* Effect.sleep("90 seconds")
      const before = yield* Clock.currentTimeMillis
      const values = (yield* together(times(3, session.current))).map((exit) => valueOf(exit).value)
      assert.deepEqual(values, ["v0", "v0", "v0"])
      assert.equal(yield* Clock.currentTimeMillis, before)
      yield* Effect.sleep("6 seconds")
      assert.equal((yield* session.current).value, "v1")
      assert.deepEqual(up.calls, ["acquire", "renew v0"])
    }),

    "an expired generation is never served": Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, maxAge: "1 second" })
      yield* session.current
      yield* Effect.sleep("1 second")
      const values = (yield* together(times(3, session.current))).map((exit) => valueOf(exit).value)
      assert.deepEqual(values, ["v1", "v1", "v1"])
      assert.deepEqual(up.calls, ["acquire", "renew v0"])
    }),

    "a generation's resources are open while it is used, and closed once": Effect.gen(function*() {
      const closed: Array<number> = []
      const scope = yield* Scope.make()
      let next = 0
      const session = yield* Scope.extend(
        Session.make({
          acquire: Effect.acquireRelease(
            Effect.sync(() => ({ number: next++, open: true })),
            (value) =>
              Effect.sync(() => {
                value.open = false
                closed.push(value.number)
              })
          )
        }),
        scope
      )
      const used = Session.use(
        session,
        (value) =>
          Effect.zipRight(Effect.yieldNow(), Effect.sync(() => assert.ok(value.open, "used after its release")))
      )
      const refused = Effect.asVoid(Effect.flatMap(session.current, session.refresh))
      const victim = yield* Effect.fork(Interleavings.victim(used))
      for (const exit of yield* together([used, refused, used, refused])) valueOf(exit)
      yield* Fiber.await(victim)
      yield* Effect.sleep("1 millis")
      // All but the current one.
      assert.deepEqual(closed.toSorted(), Array.from({ length: next - 1 }, (_, number) => number))
      yield* Scope.close(scope, Exit.void)
      assert.deepEqual(closed.toSorted(), Array.from({ length: next }, (_, number) => number))
    }),

    "an interrupted holder releases its generation": Effect.gen(function*() {
      const closed: Array<number> = []
      let next = 0
      const session = yield* Session.make({
        acquire: Effect.acquireRelease(Effect.sync(() => next++), (value) => Effect.sync(() => closed.push(value)))
      })
      const holding = Effect.scoped(
        Effect.flatMap(Session.scoped(session), ({ value }) =>
          Effect.zipRight(
            Effect.yieldNow(),
            Effect.sync(() => assert.ok(!closed.includes(value)))
          ))
      )
      const victim = yield* Effect.fork(Interleavings.victim(holding))
      const stale = yield* session.current
      yield* session.refresh(stale)
      yield* Fiber.await(victim)
      yield* Effect.sleep("1 millis")
      assert.deepEqual(closed, [0])
    }),

    "a generation whose last holder is a fiber of its own is released, and the fiber ends": Effect.gen(function*() {
      const closed: Array<number> = []
      const watchers: Array<Fiber.Fiber<void, unknown>> = []
      const scope = yield* Scope.make()
      const session: SessionModule.Session<number> = yield* Scope.extend(
        Session.make({
          acquire: Effect.gen(function*() {
            const number = watchers.length
            yield* Effect.addFinalizer(() => Effect.sync(() => closed.push(number)))
            const using = Effect.suspend(() => Session.use(session, () => Effect.yieldNow()))
            watchers.push(yield* Effect.forkScoped(number === 0 ? Interleavings.victim(using) : Effect.void))
            return number
          })
        }),
        scope
      )
      yield* session.refresh(yield* session.current)
      yield* Fiber.await(watchers[0]!)
      yield* Effect.sleep("1 millis")
      assert.deepEqual(closed, [0])
      yield* Scope.close(scope, Exit.void)
      assert.deepEqual(closed, [0, 1])
    }),

    "the budget stops a loop of refusals, also of concurrent callers": Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, budget: { refreshes: 2, within: "1 minute" } })
      const refused = Effect.flatMap(session.current, session.refresh)
      yield* together(times(6, refused))
      assert.ok(up.calls.length <= 3, up.calls.join())
      assert.equal(failureOf(yield* Effect.exit(Effect.repeatN(refused, 2)))._tag, "RefreshBudgetExceeded")
      assert.equal((yield* session.current).value, "v2")
      yield* Effect.sleep("1 minute")
      assert.equal((yield* refused).value, "v3")
    }),

    "one request refreshes as often as `maxRefreshes` allows, and no more": Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make(up)
      let sends = 0
      const request = Session.use(session, () => Effect.suspend(() => Effect.fail(++sends)), {
        rejected: () => true,
        maxRefreshes: 2
      })
      assert.equal(failureOf(yield* Effect.exit(request)), 3)
      assert.equal(up.calls.length, 3)
    }),

    "no value is current before it has been persisted": Effect.gen(function*() {
      const up = upstream()
      const persisted: Array<string> = []
      const session = yield* Session.make({
        ...up,
        cooldown: 0,
        onRenewed: ({ value }) =>
          Effect.zipRight(
            Effect.yieldNow(),
            value === "v1" && persisted.length === 1
              ? Effect.suspend(() =>
                Effect.fail(new Refused({ why: `disk full for ${persisted.push(`not ${value}`)}` }))
              )
              : Effect.sync(() => persisted.push(value))
          )
      })
      const stale = yield* session.current
      const reader = yield* Effect.fork(Effect.repeatN(
        Effect.flatMap(
          Effect.either(session.current),
          (seen) =>
            Effect.sync(() =>
              seen._tag === "Right" && assert.ok(persisted.includes(seen.right.value), seen.right.value)
            )
        ),
        3
      ))
      assert.equal(failureOf(yield* Effect.exit(session.refresh(stale)))._tag, "Refused")
      assert.equal((yield* session.current).value, "v0")
      assert.equal((yield* session.refresh(stale)).value, "v1")
      yield* Fiber.join(reader)
      // The token that could not be persisted was not presented again.
      assert.deepEqual(up.calls, ["acquire", "renew v0"])
    }),

    "a token is presented once, however late its answer is": Effect.gen(function*() {
      const up = slowUpstream(75)
      const stored: Array<string> = []
      const session = yield* Session.make({
        ...up,
        lateness: Infinity,
        onRenewed: ({ value }) => Effect.zipRight(Effect.yieldNow(), Effect.sync(() => stored.push(value)))
      })
      const stale = yield* patiently(session.current)
      const victim = yield* Effect.fork(Interleavings.victim(session.refresh(stale)))
      const exits = yield* together(times(2, patiently(session.refresh(stale))))
      assert.deepEqual(exits.map((exit) => valueOf(exit).value), ["v1", "v1"])
      yield* Fiber.await(victim)
      assert.equal((yield* session.current).value, "v1")
      // A refresh that timed out before it had begun has presented no token.
      assert.deepEqual([up.state.calls, stored], [["v0"], ["v1"]])
    }),

    "no renewal starts while a late one runs, however many refreshes time out meanwhile": Effect.gen(function*() {
      const up = slowUpstream(200, 1)
      let first = true
      const session = yield* Session.make({
        ...up,
        lateness: "150 seconds",
        cooldown: "1 second",
        renew: (value) => first ? (first = false, Effect.uninterruptible(up.renew(value))) : up.renew(value)
      })
      const stale = yield* patiently(session.current)
      for (const exit of yield* together([patiently(session.refresh(stale)), patiently(session.refresh(stale))])) {
        assert.ok(Exit.isSuccess(exit) || failureOf(exit)._tag === "RefreshTimeout", String(exit))
      }
      yield* Effect.sleep("5 minutes")
      assert.equal((yield* patiently(session.refresh(stale))).number, stale.number + 1)
      assert.equal(up.state.running, 0)
    }),

    "signing out revokes a late answer, once": Effect.gen(function*() {
      const up = slowUpstream(45)
      const revoked: Array<string> = []
      const session = yield* Session.make({
        ...up,
        lateness: Infinity,
        onEnd: (value) => Effect.zipRight(Effect.yieldNow(), Effect.sync(() => revoked.push(value)))
      })
      const stale = yield* session.current
      const first = yield* Effect.fork(Effect.exit(session.refresh(stale)))
      yield* Effect.sleep("31 seconds")
      const behind = yield* Effect.fork(session.refresh(stale))
      yield* session.end
      const exit = yield* Fiber.await(behind)
      // After the end there is no value to renew, and signing in fails.
      const ends = ["SessionEnded", "RefreshTimeout", "Refused"]
      if (Exit.isFailure(exit)) assert.ok(ends.includes(failureOf(exit)._tag), String(exit))
      yield* Fiber.await(first)
      const isRevoked = () => revoked.includes(up.state.calls.length === 0 ? "v0" : "v1")
      yield* Effect.repeat(Effect.sleep("1 minute"), { until: isRevoked, times: 20 })
      assert.ok(isRevoked(), revoked.join())
      assert.equal(new Set(revoked).size, revoked.length)
    }),

    "closing interrupts a late renewal, and answers all callers": Effect.gen(function*() {
      const up = slowUpstream(Infinity)
      const scope = yield* Scope.make()
      const session = yield* Scope.extend(Session.make({ ...up, lateness: Infinity }), scope)
      const stale = yield* session.current
      const first = yield* Effect.fork(session.refresh(stale))
      yield* Effect.sleep("31 seconds")
      const behind = yield* Effect.fork(session.refresh(stale))
      yield* Scope.close(scope, Exit.void)
      assert.equal(up.state.running, 0)
      for (const caller of [first, behind]) {
        const exit = yield* Fiber.await(caller)
        assert.ok(["SessionClosed", "RefreshTimeout"].includes(failureOf(exit)._tag), String(exit))
      }
    }),

    "an `onEnd` that asks its own session causes no sign-in": Effect.gen(function*() {
      const up = upstream()
      const seen: Array<string> = []
      const session: SessionModule.Session<string, Refused> = yield* Session.make({
        ...up,
        onEnd: () =>
          Effect.map(Effect.exit(session.current), (exit) => {
            seen.push(Exit.isSuccess(exit) ? exit.value.value : failureOf(exit)._tag)
          })
      })
      yield* session.current
      yield* together([session.end, Effect.asVoid(session.current)])
      // Either the caller signed in again, or it got the former value before that was forgotten.
      const { number } = yield* session.current
      assert.deepEqual(up.calls, ["acquire", "acquire"])
      assert.equal(number, 1)
      assert.ok(seen.every((answer) => answer === "ReentrantRefresh" || answer === "v1"), seen.join())
      assert.equal(seen.length, 1)
    }),

    "`wake` starts no renewal while another one runs": Effect.gen(function*() {
      const up = slowUpstream()
      let failures = 2
      const session = yield* Session.make({
        ...up,
        renew: (value) =>
          Effect.suspend(() =>
            failures-- > 0
              ? Effect.zipRight(up.renew(value), Effect.fail(new Refused({ why: "down" })))
              : up.renew(value)
          ),
        cooldown: "1 hour",
        lateness: Infinity
      })
      const stale = yield* patiently(session.current)
      const persistent = Effect.retry(Effect.ensuring(session.refresh(stale), Session.wake(session)), { times: 5 })
      for (const exit of yield* together([persistent, Session.wake(session), persistent])) valueOf(exit)
      assert.equal((yield* session.current).number, 1)
      assert.ok(up.state.calls.length <= 3, up.state.calls.join())
    }),

    "a renewal has the fiber references of `make`, and the caller keeps its own": Effect.gen(function*() {
      const reference = FiberRef.unsafeMake("make")
      const seen: Array<string> = []
      const session = yield* Session.make({
        acquire: Effect.zipRight(
          Effect.flatMap(FiberRef.get(reference), (value) => Effect.sync(() => seen.push(value))),
          Effect.as(FiberRef.set(reference, "acquire"), "a value that can be stored")
        )
      })
      const asking = Effect.zipRight(session.current, FiberRef.get(reference)).pipe(Effect.locally(reference, "caller"))
      assert.deepEqual((yield* together(times(2, asking))).map(valueOf), ["caller", "caller"])
      assert.deepEqual(seen, ["make"])
    }),

    "signing out revokes each value once, and leaves no caller waiting": Effect.gen(function*() {
      const up = upstream()
      const revoked: Array<string> = []
      const session = yield* Session.make({ ...up, onEnd: (value) => Effect.sync(() => revoked.push(value)) })
      const stale = yield* session.current
      const victim = yield* Effect.fork(Interleavings.victim(session.end))
      for (const exit of yield* together([session.refresh(stale), session.current, session.refresh(stale)])) {
        if (Exit.isFailure(exit)) assert.equal(failureOf(exit)._tag, "SessionEnded")
      }
      yield* Fiber.await(victim)
      yield* session.end
      yield* Effect.sleep("1 millis")
      assert.deepEqual([...new Set(revoked)], revoked)
      const obtained = up.calls.length
      assert.ok(revoked.length >= obtained - 1, `${revoked.join()} of ${up.calls.join()}`)
      assert.equal((yield* session.current).value, `v${obtained}`)
    }),

    "an adopted generation is current for all waiters, and stays current when a renewal ends": Effect.gen(function*() {
      const up = upstream()
      const revoked: Array<string> = []
      const session = yield* Session.make({
        ...up,
        onRenewed: () => Effect.sleep("1 second"),
        onEnd: (value) => Effect.sync(() => revoked.push(value))
      })
      const stale = yield* patiently(session.current)
      const victim = yield* Effect.fork(Interleavings.victim(patiently(session.refresh(stale))))
      const waiters = yield* Effect.forEach([1, 2], () => Effect.fork(patiently(session.refresh(stale))))
      yield* Effect.sleep("1 millis")
      yield* adopting(session, "adopted")
      for (const waiter of waiters) {
        const { number, value } = valueOf(yield* Fiber.await(waiter))
        // The renewal may have ended before the adoption.
        assert.ok(value === "adopted" || (value === "v1" && number < (yield* session.current).number), value)
      }
      yield* Fiber.await(victim)
      yield* Effect.sleep("2 seconds")
      assert.equal((yield* session.current).value, "adopted")
      assert.equal((yield* session.refresh(stale)).value, "adopted")
      assert.ok(up.calls.length <= 2, up.calls.join())
      assert.deepEqual(revoked, [])
    }),

    "a generation that an adopted one replaces stays open while it is used, and is released once": Effect.gen(
      function*() {
        const closed: Array<number> = []
        let next = 0
        const session = yield* Session.make({
          acquire: Effect.acquireRelease(Effect.sync(() => next++), (value) => Effect.sync(() => closed.push(value)))
        })
        const used = Session.use(session, (value) =>
          Effect.zipRight(
            Effect.yieldNow(),
            Effect.sync(() => assert.ok(!closed.includes(value), "used after its release"))
          ))
        const refused = Effect.flatMap(session.current, session.refresh)
        const victim = yield* Effect.fork(Interleavings.victim(used))
        for (const exit of yield* together([used, refused, adopting(session, -1), used])) valueOf(exit)
        yield* Fiber.await(victim)
        yield* adopting(session, -1)
        yield* Effect.sleep("1 millis")
        assert.deepEqual(closed.toSorted(), Array.from({ length: next }, (_, number) => number))
      }
    ),

    "forgetting revokes no value, and leaves no caller waiting": Effect.gen(function*() {
      const up = upstream()
      const revoked: Array<string> = []
      const session = yield* Session.make({ ...up, onEnd: (value) => Effect.sync(() => revoked.push(value)) })
      const { forget } = Inside.of(session)
      const stale = yield* session.current
      const callers = [session.refresh(stale), session.current, Effect.sync(forget), session.refresh(stale)]
      for (const exit of yield* together<unknown, unknown>(callers)) valueOf(exit)
      forget()
      assert.equal((yield* session.current).value, `v${up.calls.length - 1}`)
      assert.deepEqual(revoked, [])
      yield* session.end
      assert.deepEqual(revoked, [`v${up.calls.length - 1}`])
    }),

    "no reader of `changes` sees a generation twice, or misses the last one": Effect.gen(function*() {
      const session = yield* Session.make(upstream())
      const read = Stream.runCollect(Stream.takeUntil(Session.changes(session), ({ number }) => number === 2))
      // A reader that misses the last generation would wait for ever.
      const readers = yield* Effect.forEach([1, 2], () =>
        Effect.fork(Effect.timeoutFail(read, {
          duration: "1 hour",
          onTimeout: () => new Refused({ why: "misses the last" })
        })))
      const first = yield* session.current
      yield* Effect.flatMap(session.refresh(first), session.refresh)
      for (const reader of readers) {
        const numbers = Chunk.toArray(yield* Fiber.join(reader)).map(({ number }) => number)
        assert.deepEqual(numbers, [...new Set(numbers)].sort((one, other) => one - other))
      }
    }),

    "a session whose `make` is interrupted leaves no row in an Inspector, and no value in a gauge": Effect.gen(
      function*() {
        // Metrics belong to the process, so each run has its own name.
        const name = `made and interrupted ${names++}`
        const making = Effect.scoped(Session.make({ ...upstream(), name, initial: "v", expiresAt: () => 3_600_000 }))
        yield* Fiber.await(yield* Effect.fork(Interleavings.victim(making)))
        assert.deepEqual((yield* Inspector.snapshot).sessions, [])
        assert.equal(sumOf("holdfast_session_expiry_timestamp_seconds", { session: name }), 0)
      }
    ).pipe(Effect.provide(Inspector.layer))
  } satisfies Record<string, Effect.Effect<void, unknown, Scope.Scope>>
}

let names = 0
