import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as Session from "effect-holdfast/Session"
import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
import * as SessionMap from "effect-holdfast/SessionMap"
import * as Cause from "effect/Cause"
import type * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as TestClock from "effect/TestClock"
import { failureOf } from "./support/exits.js"
import { anotherFinalizer, interruptedDuring } from "./support/finalizers.js"
import { settle } from "./support/settle.js"

/** Counts the sign-ins of each key. */
const counting = () => {
  const signIns: Array<string> = []
  return {
    signIns,
    lookup: (key: string) => ({
      acquire: Effect.sync(() => {
        signIns.push(key)
        return `${key}${signIns.filter((other) => other === key).length}`
      })
    })
  }
}

const valueOf = <A, E, E0>(map: SessionMap.SessionMap<string, A, E, E0>, key: string) =>
  Effect.scoped(Effect.flatMap(SessionMap.get(map, key), (session) => Session.use(session, Effect.succeed)))

describe("M1: keys", () => {
  it.scoped("each have their own session, made once", () =>
    Effect.gen(function*() {
      const { lookup, signIns } = counting()
      const map = yield* SessionMap.make({ lookup })
      const keys = Array.from({ length: 300 }, (_, i) => "abc"[i % 3]!)
      const values = yield* Effect.forEach(keys, (key) => valueOf(map, key), { concurrency: "unbounded" })
      assert.deepStrictEqual(new Set(values), new Set(["a1", "b1", "c1"]))
      assert.deepStrictEqual(signIns.sort(), ["a", "b", "c"])
    }))

  it.scoped("are compared by Equal", () =>
    Effect.gen(function*() {
      class Tenant extends Data.Class<{ readonly id: number }> {}
      let signIns = 0
      const map = yield* SessionMap.make({ lookup: (_: Tenant) => ({ acquire: Effect.sync(() => ++signIns) }) })
      const first = yield* SessionMap.get(map, new Tenant({ id: 1 }))
      assert.strictEqual(yield* SessionMap.get(map, new Tenant({ id: 1 })), first)
      assert.notStrictEqual(yield* map.pipe(SessionMap.get(new Tenant({ id: 2 }))), first)
    }))

  it.scoped("never share a failure or a wait", () =>
    Effect.gen(function*() {
      const cue = yield* Deferred.make<void>()
      const map = yield* SessionMap.make({
        lookup: (key: string): Session.Options<string, string> => ({
          acquire: key === "slow"
            ? Effect.as(Deferred.await(cue), "slow")
            : key === "broken"
            ? Effect.fail("broken")
            : key === "dead"
            ? Effect.die("dead")
            : Effect.succeed(key)
        })
      })
      const slow = yield* Effect.fork(valueOf(map, "slow"))
      yield* settle
      assert.strictEqual(failureOf(yield* Effect.exit(valueOf(map, "broken"))), "broken")
      const dead = yield* Effect.exit(valueOf(map, "dead"))
      assert.isTrue(Exit.isFailure(dead) && Cause.isDie(dead.cause))
      assert.strictEqual(yield* valueOf(map, "good"), "good")
      assert.isNull(slow.unsafePoll())
      yield* Deferred.succeed(cue, undefined)
      assert.strictEqual(yield* Fiber.join(slow), "slow")
    }))

  it.scoped("are independent: one may be refreshed, ended or interrupted without the other", () =>
    Effect.gen(function*() {
      const { lookup, signIns } = counting()
      const map = yield* SessionMap.make({ lookup })
      const a = yield* SessionMap.get(map, "a")
      const b = yield* SessionMap.get(map, "b")
      const kept = yield* b.current
      yield* a.refresh(yield* a.current)
      yield* a.end
      yield* Fiber.interrupt(yield* Effect.fork(a.current))
      assert.strictEqual(yield* b.current, kept)
      assert.deepStrictEqual(signIns.filter((key) => key === "b"), ["b"])
    }))
})

describe("an idle session", () => {
  it.scoped("M2: is kept for ten minutes, then dropped: its value is forgotten", () =>
    Effect.gen(function*() {
      const { lookup } = counting()
      const map = yield* SessionMap.make({ lookup })
      assert.strictEqual(yield* valueOf(map, "a"), "a1")
      yield* TestClock.adjust("599 seconds")
      assert.strictEqual(yield* valueOf(map, "a"), "a1")
      yield* TestClock.adjust("599 seconds")
      assert.strictEqual(yield* valueOf(map, "a"), "a1", "the time starts again with each use")
      yield* TestClock.adjust("600 seconds")
      assert.strictEqual(yield* valueOf(map, "a"), "a2")
    }))

  it.scoped("becomes idle again after each use: earlier idle time does not count", () =>
    Effect.gen(function*() {
      const { lookup, signIns } = counting()
      const map = yield* SessionMap.make({ lookup, idleTimeToLive: "10 seconds" })
      yield* valueOf(map, "a")
      yield* TestClock.adjust("9 seconds")
      yield* valueOf(map, "a")
      yield* TestClock.adjust("9 seconds")
      assert.strictEqual(yield* valueOf(map, "a"), "a1")
      assert.deepStrictEqual(signIns, ["a"])
    }))

  it.scoped("M2: is not idle while it is being renewed: the rotated token is written down, and served", () =>
    Effect.gen(function*() {
      const written: Array<string> = []
      const cue = yield* Deferred.make<void>()
      const map = yield* SessionMap.make({
        lookup: (key: string) => ({
          acquire: Effect.succeed(`${key}0`),
          renew: (value: string) => Effect.as(Deferred.await(cue), `${value}+`),
          onRenewed: ({ value }) => Effect.sync(() => void written.push(value)),
          maxAge: "1 minute"
        }),
        idleTimeToLive: 0,
        capacity: 1
      })
      const session = yield* Effect.scoped(Effect.tap(SessionMap.get(map, "a"), ({ current }) => current))
      assert.strictEqual(failureOf(yield* Effect.exit(session.current))._tag, "SessionClosed", "idle after its acquire")

      const caller = yield* Effect.fork(Effect.scoped(
        Effect.flatMap(
          SessionMap.get(map, "a"),
          (session) => Effect.flatMap(session.current, (generation) => session.refresh(generation))
        )
      ))
      yield* settle
      yield* Fiber.interrupt(caller)
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(failureOf(yield* Effect.exit(Effect.scoped(SessionMap.get(map, "b"))))._tag, "SessionMapFull")
      yield* Deferred.succeed(cue, undefined)
      yield* settle
      assert.deepStrictEqual(written, ["a0", "a0", "a0+"])
      assert.strictEqual(yield* valueOf(map, "b"), "b0", "the renewal no longer holds the other")
    }))

  it.scoped("is not idle while one scope still holds it", () =>
    Effect.gen(function*() {
      const { lookup } = counting()
      const map = yield* SessionMap.make({ lookup, idleTimeToLive: "1 second" })
      const session = yield* SessionMap.get(map, "a")
      assert.strictEqual(yield* valueOf(map, "a"), "a1")
      yield* TestClock.adjust("1 hour")
      assert.strictEqual((yield* session.current).value, "a1")
      assert.strictEqual(yield* valueOf(map, "a"), "a1")
    }))

  it.scoped("M3: is dropped after a time to live that is longer than a timer can hold", () =>
    Effect.gen(function*() {
      const clock = yield* Effect.clock
      // As the live clock does: JavaScript's timers overflow.
      const sleep: Clock.Clock["sleep"] = (duration) =>
        Duration.toMillis(duration) > 2 ** 31 - 1 ? Effect.never : clock.sleep(duration)
      const { lookup } = counting()
      const map = yield* Effect.withClock(
        SessionMap.make({ lookup, idleTimeToLive: "60 days" }),
        Object.assign(Object.create(clock), { sleep })
      )
      assert.strictEqual(yield* valueOf(map, "a"), "a1")
      yield* Effect.repeatN(TestClock.adjust("1 day"), 58)
      assert.strictEqual(yield* valueOf(map, "a"), "a1")
      yield* Effect.repeatN(TestClock.adjust("1 day"), 62)
      assert.strictEqual(yield* valueOf(map, "a"), "a2")
    }))

  it.scoped("is dropped immediately with a time to live of zero, never with an infinite one", () =>
    Effect.gen(function*() {
      const { lookup } = counting()
      const hasty = yield* SessionMap.make({ lookup, idleTimeToLive: 0 })
      assert.strictEqual(yield* valueOf(hasty, "a"), "a1")
      assert.strictEqual(yield* valueOf(hasty, "a"), "a2")
      const patient = yield* SessionMap.make({ lookup, idleTimeToLive: Infinity })
      assert.strictEqual(yield* valueOf(patient, "b"), "b1")
      yield* TestClock.adjust("20 days")
      assert.strictEqual(yield* valueOf(patient, "b"), "b1")
    }))

  it.scoped("is dropped first when the map is full; if all are in use, the result is SessionMapFull", () =>
    Effect.gen(function*() {
      const { lookup } = counting()
      const map = yield* SessionMap.make({ lookup, capacity: 2 })
      yield* valueOf(map, "a")
      yield* valueOf(map, "b")
      yield* valueOf(map, "a")
      const c = yield* SessionMap.get(map, "c")
      assert.strictEqual(yield* valueOf(map, "a"), "a1", "the longest idle one was b")
      const a = yield* SessionMap.get(map, "a")
      const failure = failureOf(yield* Effect.exit(valueOf(map, "d")))
      assert.deepInclude(failure, { _tag: "SessionMapFull", capacity: 2 })
      assert.strictEqual(yield* SessionMap.get(map, "a"), a, "keys that are there can still be had")
      assert.strictEqual((yield* c.current).value, "c1")
    }))

  it.scopedLive("that makes room, or whose lookup fails without a caller, leaves no timer", () =>
    Effect.gen(function*() {
      const timers = () => process.getActiveResourcesInfo().filter((kind) => kind === "Timeout").length
      const map = yield* SessionMap.make({ lookup: (key: number) => ({ acquire: Effect.succeed(key) }), capacity: 2 })
      const before = timers()
      for (let key = 0; key < 50; key++) yield* Effect.scoped(SessionMap.get(map, key))
      yield* Effect.yieldNow()
      assert.isAtMost(timers(), before + 10)
      const failing = yield* Deferred.make<never, string>()
      const lookups = yield* SessionMap.make({ lookup: (_: number) => Deferred.await(failing) })
      const between = timers()
      for (let key = 0; key < 50; key++) {
        const caller = yield* Effect.fork(Effect.scoped(SessionMap.get(lookups, key)))
        yield* Effect.yieldNow()
        yield* Fiber.interrupt(caller)
      }
      yield* Deferred.fail(failing, "no")
      yield* settle
      assert.isAtMost(timers(), between + 10)
    }))

  it.scoped("that makes room is closed: no renewal of it goes on", () =>
    Effect.gen(function*() {
      let interrupted = false
      const map = yield* SessionMap.make({
        lookup: (_: string) => ({
          acquire: Effect.onInterrupt(Effect.never, () => Effect.sync(() => interrupted = true))
        }),
        capacity: 1
      })
      const impatient = yield* Effect.fork(Effect.timeoutOption(valueOf(map, "a"), "1 second"))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(impatient)
      assert.isFalse(interrupted)
      yield* SessionMap.get(map, "b")
      yield* settle
      assert.isTrue(interrupted)
    }))

  it.scoped("that makes room blocks no caller while it closes", () =>
    Effect.gen(function*() {
      const map = yield* SessionMap.make({
        lookup: (key: string) => ({
          acquire: key === "slow"
            ? Effect.as(Effect.addFinalizer(() => Effect.sleep("1 minute")), key)
            : Effect.succeed(key)
        }),
        capacity: 1
      })
      yield* valueOf(map, "slow")
      const other = yield* Effect.fork(valueOf(map, "other"))
      yield* settle
      assert.strictEqual(yield* Fiber.join(other), "other")
      yield* TestClock.adjust("1 minute")
    }))
})

describe("M2: a session that is dropped by its last user's fiber", () => {
  it.live("keeps an interruption of that fiber which comes while it closes", () =>
    Effect.scoped(Effect.gen(function*() {
      const finalizers: Array<Effect.Effect<void>> = []
      const map = yield* SessionMap.make({
        idleTimeToLive: 0,
        lookup: () =>
          Effect.zipRight(
            Effect.addFinalizer(() => Effect.all(finalizers, { discard: true })),
            Session.make({ acquire: Effect.succeed("v") })
          )
      })
      const exit = yield* interruptedDuring((finalizer) => {
        finalizers.push(finalizer)
        return Effect.orDie(Effect.scoped(Effect.zipRight(SessionMap.get(map, "a"), anotherFinalizer)))
      })
      assert.isTrue(Exit.isInterrupted(exit))
    })))

  for (const isInterrupted of [false, true]) {
    const how = isInterrupted ? ", and is interrupted as it does" : ""
    it.scoped(`may have forked that fiber itself${how}: neither waits for the other`, () =>
      Effect.gen(function*() {
        const cue = yield* Deferred.make<void>()
        const log: Array<string> = []
        const watchers: Array<Fiber.Fiber<void, unknown>> = []
        const map: SessionMap.SessionMap<string, string, never, InvalidOptions> = yield* SessionMap.make({
          idleTimeToLive: 0,
          lookup: (key: string) =>
            Effect.gen(function*() {
              yield* Effect.addFinalizer(() => Effect.sync(() => log.push("released")))
              const watching = Effect.scoped(Effect.zipRight(SessionMap.get(map, key), Deferred.await(cue)))
              watchers.push(yield* Effect.forkScoped(Effect.orDie(watching)))
              return yield* Session.make({ acquire: Effect.succeed("v") })
            })
        })
        yield* Effect.scoped(Effect.zipRight(SessionMap.get(map, "a"), settle))
        assert.deepStrictEqual(log, [])
        if (isInterrupted) yield* Fiber.interruptFork(watchers[0]!)
        else yield* Deferred.succeed(cue, undefined)
        yield* settle
        assert.deepStrictEqual(log, ["released"])
        assert.isTrue(Option.isSome(yield* Fiber.poll(watchers[0]!)))
      }))
  }
})

describe("the map", () => {
  class Region extends Context.Tag("test/Region")<Region, string>() {}

  it.scoped("makes its sessions with its own context, not with that of the first caller", () =>
    Effect.gen(function*() {
      const map = yield* SessionMap.make({ lookup: (_: string) => ({ acquire: Region }) }).pipe(
        Effect.provideService(Region, "map")
      )
      assert.strictEqual(yield* Effect.provideService(valueOf(map, "a"), Region, "caller"), "map")
    }))

  it.effect("closes its sessions with its scope; a session asked for later is closed", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const { lookup } = counting()
      const map = yield* SessionMap.make({ lookup }).pipe(Scope.extend(scope))
      const holding = yield* Scope.make()
      const session = yield* SessionMap.get(map, "a").pipe(Scope.extend(holding))
      yield* session.current
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(failureOf(yield* Effect.exit(session.current))._tag, "SessionClosed")
      assert.strictEqual(failureOf(yield* Effect.exit(valueOf(map, "a")))._tag, "SessionClosed")
      assert.strictEqual(failureOf(yield* Effect.exit(valueOf(map, "b")))._tag, "SessionClosed")
      yield* Scope.close(holding, Exit.void)
    }))

  it.scoped("refuses invalid options with InvalidOptions, its own and those of lookup", () =>
    Effect.gen(function*() {
      const { lookup } = counting()
      for (
        const [option, options] of [
          ["capacity", { capacity: 0 }],
          ["capacity", { capacity: NaN }],
          ["capacity", { capacity: 1.5 }],
          ["idleTimeToLive", { idleTimeToLive: -1 }],
          ["idleTimeToLive", { idleTimeToLive: NaN }],
          ["lookup", { lookup: 5 as unknown as typeof lookup }],
          ["lookup", { lookup: null as unknown as typeof lookup }]
        ] as const
      ) {
        const failure = failureOf(yield* Effect.exit(SessionMap.make({ lookup, ...options })))
        assert.instanceOf(failure, InvalidOptions)
        assert.strictEqual(failure.option, option)
      }
      let timeout = NaN
      const map = yield* SessionMap.make({ lookup: (key: string) => ({ ...lookup(key), timeout }) })
      const failure = failureOf(yield* Effect.exit(valueOf(map, "a")))
      assert.strictEqual((failure as InvalidOptions).option, "timeout")
      timeout = 1000
      assert.strictEqual(yield* valueOf(map, "a"), "a1", "a refused one is not remembered")
    }))

  it.scoped("refuses a lookup that gives no session", () =>
    Effect.gen(function*() {
      const map = yield* SessionMap.make({ lookup: (_: string) => Effect.succeed("token" as never) })
      const error = yield* Effect.flip(SessionMap.get(map, "a"))
      assert.deepInclude(error, { _tag: "InvalidOptions", option: "lookup", value: "<string>" })
    }))

  it.scoped("S7: by which a session's renewal waits for itself fails immediately, whichever of both comes first", () =>
    Effect.gen(function*() {
      for (const isLookupFirst of [false, true]) {
        const begun = yield* Deferred.make<void>()
        const go = yield* Deferred.make<void>()
        const map = yield* SessionMap.make({
          lookup: (key: string): Effect.Effect<Session.Session<string, unknown>, unknown, Scope.Scope> =>
            Deferred.succeed(begun, undefined).pipe(
              Effect.zipRight(Effect.suspend(() => session.current)),
              Effect.flatMap(({ value }) => Session.make({ acquire: Effect.succeed(value + key) }))
            )
        })
        const session: Session.Session<string, unknown> = yield* Session.make<string, unknown>({
          acquire: Effect.zipRight(
            Deferred.await(go),
            Effect.scoped(Effect.flatMap(SessionMap.get(map, "k"), ({ current }) => Effect.as(current, "token")))
          ),
          timeout: "1 hour"
        })
        const other = isLookupFirst
          ? yield* Effect.fork(Effect.exit(Effect.scoped(SessionMap.get(map, "k"))))
          : undefined
        if (isLookupFirst) yield* Deferred.await(begun)
        const asking = yield* Effect.fork(Effect.exit(session.current))
        yield* settle
        yield* Deferred.succeed(go, undefined)
        const exit = yield* Fiber.join(asking)
        assert.isTrue(Exit.isFailure(exit))
        if (Exit.isFailure(exit)) assert.instanceOf(Cause.squash(exit.cause), Session.ReentrantRefresh)
        if (other !== undefined) assert.isTrue(Exit.isFailure(yield* Fiber.join(other)))
      }
    }))

  it.scoped("S7: that waits for itself fails immediately, directly or through another key", () =>
    Effect.gen(function*() {
      const other: Record<string, string> = { own: "own", a: "b", b: "a" }
      const map: SessionMap.SessionMap<string, string, never, unknown> = yield* SessionMap.make({
        lookup: (key: string): Effect.Effect<Session.Session<string>, unknown, Scope.Scope> =>
          Effect.zipRight(
            Effect.suspend(() => SessionMap.get(map, other[key]!)),
            Effect.orDie(Session.make({ acquire: Effect.succeed(key) }))
          )
      })
      for (const key of ["own", "a"]) {
        const exit = yield* Effect.exit(Effect.scoped(SessionMap.get(map, key)))
        assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
        if (Exit.isFailure(exit)) assert.instanceOf(Cause.squash(exit.cause), Session.ReentrantRefresh)
      }
    }))

  it.scoped("survives a lookup that throws", () =>
    Effect.gen(function*() {
      const { lookup } = counting()
      const map = yield* SessionMap.make({
        lookup: (key: string) => {
          if (key === "bad") throw new Error("no such tenant")
          return lookup(key)
        },
        capacity: 1
      })
      const exit = yield* Effect.exit(valueOf(map, "bad"))
      assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
      assert.strictEqual(yield* valueOf(map, "a"), "a1")
    }))
})

describe("a lookup that makes the session itself", () => {
  class Directory extends Context.Tag("test/Directory")<Directory, string>() {}
  class Unknown extends Data.TaggedError("Unknown")<{ readonly tenant: string }> {}

  const held = <A, E, E0>(map: SessionMap.SessionMap<string, A, E, E0>, key: string) =>
    Effect.scoped(SessionMap.get(map, key))

  it.scoped("M1: runs with the map's context, in a scope that closes when the session is dropped", () =>
    Effect.gen(function*() {
      const released: Array<string> = []
      const map = yield* SessionMap.make({
        lookup: (tenant: string) =>
          Effect.gen(function*() {
            const name = `${yield* Directory}/${tenant}`
            yield* Effect.addFinalizer(() => Effect.sync(() => released.push(name)))
            if (tenant === "nobody") return yield* new Unknown({ tenant })
            return yield* Session.make({ acquire: Effect.succeed(name) })
          }),
        idleTimeToLive: "1 minute"
      }).pipe(Effect.provideService(Directory, "map"))
      expectTypeOf(map).toEqualTypeOf<SessionMap.SessionMap<string, string, never, InvalidOptions | Unknown>>()
      const value = Effect.provideService(valueOf(map, "a"), Directory, "caller")
      assert.strictEqual(yield* value, "map/a")
      yield* TestClock.adjust("59 seconds")
      assert.strictEqual(yield* value, "map/a")
      assert.deepStrictEqual(released, [])
      yield* TestClock.adjust("60 seconds")
      assert.deepStrictEqual(released, ["map/a"])
      assert.deepInclude(yield* Effect.flip(valueOf(map, "nobody")), { _tag: "Unknown", tenant: "nobody" })
      assert.deepStrictEqual(released, ["map/a", "map/nobody"])
    }))

  it.scoped("M1: blocks no other key, and gives its failure or its defect to all waiting callers", () =>
    Effect.gen(function*() {
      const cue = yield* Deferred.make<Session.Session<string>, Unknown>()
      let lookups = 0
      const map = yield* SessionMap.make({
        lookup: (tenant: string) =>
          Effect.gen(function*() {
            lookups++
            return yield* tenant === "slow" ? Deferred.await(cue) : Session.make({ acquire: Effect.succeed(tenant) })
          })
      })
      const ask = (exit: Effect.Effect<boolean>) =>
        Effect.gen(function*() {
          const asking = yield* Effect.forkAll(Array.from({ length: 50 }, () => Effect.exit(held(map, "slow"))))
          yield* settle
          assert.strictEqual(yield* valueOf(map, "quick"), "quick")
          yield* exit
          return yield* Fiber.join(asking)
        })
      const failure = new Unknown({ tenant: "slow" })
      for (const exit of yield* ask(Deferred.fail(cue, failure))) assert.strictEqual(failureOf(exit), failure)
      assert.strictEqual(lookups, 2)
      const dying = yield* SessionMap.make({
        lookup: (_: string): Effect.Effect<Session.Session<string>> => Effect.die("dead")
      })
      for (let i = 0; i < 2; i++) {
        const exit = yield* Effect.exit(held(dying, "a"))
        assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
      }
    }))

  it.scoped("M1: goes on when all its callers are interrupted; its session is then idle", () =>
    Effect.gen(function*() {
      const cue = yield* Deferred.make<void>()
      let lookups = 0
      const map = yield* SessionMap.make({
        lookup: (tenant: string) =>
          Effect.suspend(() => {
            lookups++
            return Effect.zipRight(Deferred.await(cue), Session.make({ acquire: Effect.succeed(tenant) }))
          })
      })
      const asking = yield* Effect.forkAll([held(map, "a"), held(map, "a")])
      yield* settle
      yield* Fiber.interrupt(asking)
      yield* Deferred.succeed(cue, undefined)
      assert.strictEqual(yield* valueOf(map, "a"), "a")
      assert.strictEqual(lookups, 1)
    }))

  it.scoped("M2: is interrupted after `idleTimeToLive` without callers, or if another key needs its place", () =>
    Effect.gen(function*() {
      const events: Array<string> = []
      const lookup = (tenant: string) =>
        Effect.zipRight(
          Effect.addFinalizer(() => Effect.sync(() => events.push(`${tenant} released`))),
          tenant.startsWith("hung")
            ? Effect.onInterrupt(Effect.never, () => Effect.sync(() => events.push(`${tenant} interrupted`)))
            : Session.make({ acquire: Effect.succeed(tenant) })
        )
      const map = yield* SessionMap.make({ lookup, idleTimeToLive: "1 minute", capacity: 1 })
      const impatient = (tenant: string) =>
        Effect.gen(function*() {
          const asking = yield* Effect.fork(Effect.timeoutOption(held(map, tenant), "1 second"))
          yield* settle
          assert.deepInclude(yield* Effect.flip(valueOf(map, "other")), { _tag: "SessionMapFull" })
          yield* TestClock.adjust("1 second")
          yield* Fiber.join(asking)
        })
      yield* impatient("hung1")
      yield* TestClock.adjust("59 seconds")
      assert.deepStrictEqual(events, [])
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(events, ["hung1 interrupted", "hung1 released"])
      yield* impatient("hung2")
      assert.strictEqual(yield* valueOf(map, "quick"), "quick")
      yield* settle
      assert.deepStrictEqual(events.slice(2), ["hung2 interrupted", "hung2 released"])

      const hasty = yield* SessionMap.make({ lookup, idleTimeToLive: 0 })
      const asking = yield* Effect.fork(held(hasty, "hung3"))
      yield* settle
      yield* Fiber.interrupt(asking)
      assert.deepStrictEqual(events.slice(-2), ["hung3 interrupted", "hung3 released"])
    }))

  it.effect("M1: is interrupted by the end of the map, before what it has acquired is released", () =>
    Effect.gen(function*() {
      const events: Array<string> = []
      const scope = yield* Scope.make()
      const map = yield* SessionMap.make({
        lookup: (_: string): Effect.Effect<Session.Session<string>, never, Scope.Scope> =>
          Effect.zipRight(
            Effect.addFinalizer(() => Effect.sync(() => events.push("released"))),
            Effect.onInterrupt(Effect.never, () => Effect.sync(() => events.push("interrupted")))
          )
      }).pipe(Scope.extend(scope))
      const asking = yield* Effect.fork(valueOf(map, "a"))
      yield* settle
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(events, ["interrupted", "released"])
      assert.strictEqual(failureOf(yield* Fiber.await(asking))._tag, "SessionClosed")
      assert.strictEqual(failureOf(yield* Effect.exit(valueOf(map, "a")))._tag, "SessionClosed")
      assert.strictEqual(events.length, 2, "nothing is made any more")
    }))

  it.scoped("that interrupts itself is a defect for its waiting callers, and not remembered", () =>
    Effect.gen(function*() {
      let lookups = 0
      const map = yield* SessionMap.make({
        lookup: (tenant: string) =>
          Effect.suspend(() => lookups++ === 0 ? Effect.interrupt : Session.make({ acquire: Effect.succeed(tenant) })),
        capacity: 1
      })
      const exit = yield* Effect.exit(held(map, "a"))
      const [defect] = Exit.isFailure(exit) ? Cause.defects(exit.cause) : []
      assert.isTrue(Cause.isInterruptedException(defect), String(exit))
      assert.strictEqual(yield* valueOf(map, "a"), "a")
    }))

  it("needs what its effect needs, and its failures are those of a client that is keyed by it", () => {
    const make = SessionMap.make({
      lookup: (tenant: string) =>
        Effect.gen(function*() {
          const name = yield* Directory
          if (tenant === "") return yield* new Unknown({ tenant })
          return yield* Session.make({ acquire: Effect.as(Effect.addFinalizer(() => Effect.void), name) })
        })
    })
    expectTypeOf(make).toEqualTypeOf<
      Effect.Effect<
        SessionMap.SessionMap<string, string, never, InvalidOptions | Unknown>,
        InvalidOptions,
        Directory | Scope.Scope
      >
    >()
    const response = Effect.gen(function*() {
      const options = { key: ({ url }: { readonly url: string }) => url, attach: SessionHttpClient.bearer }
      const client = yield* SessionHttpClient.makeKeyed(yield* make, options)
      return yield* client.get("/")
    })
    type Failure = Effect.Effect.Error<typeof response>
    expectTypeOf<Extract<Failure, Unknown>>().toEqualTypeOf<Unknown>()
  })
})
