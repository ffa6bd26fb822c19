import { assert, describe, it } from "@effect/vitest"
import * as Session from "effect-holdfast/Session"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as FiberRef from "effect/FiberRef"

describe("S13: a renewal runs with the context and the fiber references of `make`", () => {
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

  it.scoped("and does not change the caller's", () =>
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
