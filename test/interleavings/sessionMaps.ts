/** The guarantees of a map of sessions, as programs that hold under every interleaving. */
import type { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as Session from "effect-holdfast/Session"
import type * as SessionMapModule from "effect-holdfast/SessionMap"
import { Interleavings } from "effect-holdfast/testing"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as assert from "node:assert/strict"

/** Records which keys sign in, and which of the values are released. */
const upstream = () => {
  const signIns: Array<string> = []
  const released: Array<string> = []
  return {
    signIns,
    released,
    lookup: (key: string) => ({
      acquire: Effect.acquireRelease(
        Effect.zipRight(
          Effect.yieldNow(),
          Effect.sync(() => {
            signIns.push(key)
            return `${key}${signIns.filter((other) => other === key).length}`
          })
        ),
        (value) => Effect.sync(() => released.push(value))
      )
    })
  }
}

/** Records which lookups run, and which of their resources are released. A lookup takes some steps. */
const directory = (fails: (lookup: string) => boolean = () => false) => {
  const lookups: Array<string> = []
  const released: Array<string> = []
  const lookup = (key: string) =>
    Effect.gen(function*() {
      const name = yield* Effect.acquireRelease(
        Effect.sync(() => {
          const name = `${key}${lookups.filter((other) => other.startsWith(key)).length + 1}`
          lookups.push(name)
          return name
        }),
        (name) => Effect.sync(() => released.push(name))
      )
      yield* Effect.yieldNow()
      if (fails(name)) return yield* Effect.fail(name)
      return yield* Session.make({ acquire: Effect.succeed(name) })
    })
  return { lookup, lookups, released }
}

/** Scenarios that mark a fiber for interruption. */
export const interrupted: ReadonlyArray<string> = [
  "an interrupted caller neither ends a session nor keeps it in use",
  "M1: an interrupted caller neither cancels a lookup nor keeps its session in use",
  "M2: a session whose last user is a fiber of its own lookup is dropped, and the fiber ends"
]

export const scenarios = (SessionMap: typeof SessionMapModule) => {
  const valueOf = <E0>(map: SessionMapModule.SessionMap<string, string, never, E0>, key: string) =>
    Effect.scoped(Effect.flatMap(SessionMap.get(map, key), (session) => Session.use(session, Effect.succeed)))

  return {
    "each key has one session of its own": Effect.gen(function*() {
      const { lookup, signIns } = upstream()
      const map = yield* SessionMap.make({ lookup })
      const keys = ["a", "b", "a", "b"]
      const values = yield* Effect.forEach(keys, (key) => valueOf(map, key), { concurrency: "unbounded" })
      assert.deepEqual(values, ["a1", "b1", "a1", "b1"])
      assert.deepEqual(signIns.toSorted(), ["a", "b"])
    }),

    "an interrupted caller neither ends a session nor keeps it in use": Effect.gen(function*() {
      const { lookup, released, signIns } = upstream()
      const map = yield* SessionMap.make({ lookup, capacity: 1 })
      const victim = yield* Effect.fork(Interleavings.victim(valueOf(map, "a")))
      assert.equal(yield* valueOf(map, "a"), "a1")
      yield* Fiber.await(victim)
      // The map's only place is free again.
      assert.equal(yield* valueOf(map, "b"), "b1")
      yield* Effect.sleep("1 millis")
      assert.deepEqual(signIns, ["a", "b"])
      assert.deepEqual(released, ["a1"])
    }),

    "a session is dropped when it is idle, and never while it is in use": Effect.gen(function*() {
      const { lookup, released, signIns } = upstream()
      const map = yield* SessionMap.make({ lookup, idleTimeToLive: "1 second" })
      const use = Effect.scoped(
        Effect.flatMap(
          SessionMap.get(map, "a"),
          (session) =>
            Effect.flatMap(session.current, ({ value }) =>
              Effect.zipRight(
                Effect.yieldNow(),
                Effect.sync(() => assert.ok(!released.includes(value), "dropped in use"))
              ))
        )
      )
      yield* Effect.forEach([0, 1_000, 1_000, 2_500], (millis) => Effect.delay(use, millis), {
        concurrency: "unbounded"
      })
      yield* Effect.sleep("2 seconds")
      assert.equal(released.length, signIns.length)
      assert.ok(signIns.length >= 2, signIns.join())
    }),

    "closing the map closes its sessions, including those that are being made": Effect.gen(function*() {
      const { lookup, released, signIns } = upstream()
      const scope = yield* Scope.make()
      const map = yield* Scope.extend(SessionMap.make({ lookup }), scope)
      const asking = yield* Effect.forEach(["a", "b", "a"], (key) => Effect.fork(valueOf(map, key)))
      yield* Effect.yieldNow()
      yield* Scope.close(scope, Exit.void)
      for (const exit of yield* Effect.forEach(asking, Fiber.await)) {
        if (Exit.isFailure(exit)) assert.match(String(exit.cause), /SessionClosed/)
      }
      assert.equal(released.length, signIns.length)
      const later = yield* Effect.exit(valueOf(map, "a"))
      assert.match(String(later), /SessionClosed/)
    }),

    "M1: the effect that makes a session runs once for all callers of its key": Effect.gen(function*() {
      const { lookup, lookups, released } = directory()
      const map = yield* SessionMap.make({ lookup })
      const values = yield* Effect.forEach(["a", "b", "a"], (key) => valueOf(map, key), { concurrency: "unbounded" })
      assert.deepEqual(values, ["a1", "b1", "a1"])
      assert.deepEqual(lookups.toSorted(), ["a1", "b1"])
      assert.deepEqual(released, [])
    }),

    "M1: an interrupted caller neither cancels a lookup nor keeps its session in use": Effect.gen(function*() {
      const { lookup, lookups, released } = directory()
      const map = yield* SessionMap.make({ lookup, capacity: 1 })
      const victim = yield* Effect.fork(Interleavings.victim(valueOf(map, "a")))
      assert.equal(yield* valueOf(map, "a"), "a1")
      yield* Fiber.await(victim)
      // The map's only place is free again.
      assert.equal(yield* valueOf(map, "b"), "b1")
      yield* Effect.sleep("1 millis")
      assert.deepEqual(lookups, ["a1", "b1"])
      assert.deepEqual(released, ["a1"])
    }),

    "M1: a lookup that fails does so for all its waiting callers, and for no later caller": Effect.gen(function*() {
      const { lookup, lookups, released } = directory((name) => name === "a1")
      const map = yield* SessionMap.make({ lookup, capacity: 1 })
      const exits = yield* Effect.forEach([1, 2], () => Effect.exit(valueOf(map, "a")), { concurrency: "unbounded" })
      for (const exit of exits) {
        if (Exit.isSuccess(exit)) assert.equal(exit.value, "a2")
        else assert.match(String(exit.cause), /a1/)
      }
      assert.equal(yield* valueOf(map, "a"), "a2")
      assert.equal(yield* valueOf(map, "b"), "b1")
      yield* Effect.sleep("1 millis")
      assert.deepEqual(lookups, ["a1", "a2", "b1"])
      assert.deepEqual(released, ["a1", "a2"])
    }),

    "M2: a session whose last user is a fiber of its own lookup is dropped, and the fiber ends": Effect.gen(
      function*() {
        const released: Array<string> = []
        const watchers: Array<Fiber.Fiber<void, unknown>> = []
        type Map = SessionMapModule.SessionMap<string, string, never, InvalidOptions>
        const map: Map = yield* SessionMap.make({
          idleTimeToLive: 0,
          lookup: (key: string) =>
            Effect.gen(function*() {
              yield* Effect.addFinalizer(() => Effect.sync(() => released.push(key)))
              const holding = Effect.scoped(Effect.suspend(() => SessionMap.get(map, key)))
              watchers.push(yield* Effect.forkScoped(Interleavings.victim(Effect.asVoid(holding))))
              return yield* Session.make({ acquire: Effect.succeed(key) })
            })
        })
        yield* valueOf(map, "a")
        yield* Fiber.await(watchers[0]!)
        yield* Effect.sleep("1 millis")
        assert.deepEqual(released, watchers.map(() => "a"))
      }
    ),

    "M1: a lookup that has not started when its map closes never starts": Effect.gen(function*() {
      const { lookup, lookups } = directory()
      const scope = yield* Scope.make()
      const map = yield* Scope.extend(SessionMap.make({ lookup }), scope)
      const asking = yield* Effect.fork(valueOf(map, "a"))
      yield* Effect.yieldNow()
      yield* Scope.close(scope, Exit.void)
      const begun = lookups.length
      yield* Fiber.await(asking)
      yield* Effect.sleep("1 millis")
      assert.equal(lookups.length, begun)
    }),

    "M1: closing the map interrupts a lookup, and its waiting callers get a closed session": Effect.gen(function*() {
      const { lookup, lookups, released } = directory()
      const scope = yield* Scope.make()
      const map = yield* Scope.extend(SessionMap.make({ lookup }), scope)
      const asking = yield* Effect.forEach(["a", "b", "a"], (key) => Effect.fork(valueOf(map, key)))
      yield* Effect.yieldNow()
      yield* Scope.close(scope, Exit.void)
      assert.deepEqual(released.toSorted(), lookups.toSorted())
      for (const exit of yield* Effect.forEach(asking, Fiber.await)) {
        if (Exit.isFailure(exit)) assert.match(String(exit.cause), /SessionClosed/)
      }
      assert.match(String(yield* Effect.exit(valueOf(map, "c"))), /SessionClosed/)
      assert.deepEqual(released.toSorted(), lookups.toSorted())
    })
  } satisfies Record<string, Effect.Effect<void, unknown, Scope.Scope>>
}
