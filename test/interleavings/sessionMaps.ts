/** What a map of sessions promises, as programs that hold under every interleaving. */
import * as Session from "effect-holdfast/Session"
import type * as SessionMapModule from "effect-holdfast/SessionMap"
import { Interleavings } from "effect-holdfast/testing"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as assert from "node:assert/strict"

/** Notes which keys sign in, and which sign-ins are given up. */
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

/** Those that mark a fiber for interruption. */
export const interrupted: ReadonlyArray<string> = [
  "an interrupted caller neither takes a session with it nor holds one"
]

export const scenarios = (SessionMap: typeof SessionMapModule) => {
  const valueOf = (map: SessionMapModule.SessionMap<string, string>, key: string) =>
    Effect.scoped(Effect.flatMap(SessionMap.get(map, key), (session) => Session.use(session, Effect.succeed)))

  return {
    "a key has one session, and no key another's": Effect.gen(function*() {
      const { lookup, signIns } = upstream()
      const map = yield* SessionMap.make({ lookup })
      const keys = ["a", "b", "a", "b"]
      const values = yield* Effect.forEach(keys, (key) => valueOf(map, key), { concurrency: "unbounded" })
      assert.deepEqual(values, ["a1", "b1", "a1", "b1"])
      assert.deepEqual(signIns.toSorted(), ["a", "b"])
    }),

    "an interrupted caller neither takes a session with it nor holds one": Effect.gen(function*() {
      const { lookup, released, signIns } = upstream()
      const map = yield* SessionMap.make({ lookup, capacity: 1 })
      const victim = yield* Effect.fork(Interleavings.victim(valueOf(map, "a")))
      assert.equal(yield* valueOf(map, "a"), "a1")
      yield* Fiber.await(victim)
      // The only place is free again.
      assert.equal(yield* valueOf(map, "b"), "b1")
      yield* Effect.sleep("1 millis")
      assert.deepEqual(signIns, ["a", "b"])
      assert.deepEqual(released, ["a1"])
    }),

    "a session is dropped while nobody holds it, and never while somebody does": Effect.gen(function*() {
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

    "closing the map closes its sessions, those that are being made too": Effect.gen(function*() {
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
    })
  } satisfies Record<string, Effect.Effect<void, unknown, Scope.Scope>>
}
