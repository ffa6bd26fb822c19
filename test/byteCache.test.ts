import { assert, describe, it } from "@effect/vitest"
import { Interleavings } from "effect-holdfast/testing"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as ByteCache from "../examples/byte-cache.js"

const bytes = (count: number) => new Uint8Array(count)

/** Puts two bytes, then three; in the middle of the second put there is a defect. */
const burned = (make: (maxBytes: number) => Effect.Effect<ByteCache.ByteCache>) =>
  Effect.gen(function*() {
    const cache = yield* make(5)
    assert.isTrue(yield* cache.put("good", bytes(2)))
    const exit = yield* Effect.exit(cache.put("burn", bytes(3)))
    assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
    return cache
  })

describe("T8: a cache of bytes, after a defect in the middle of put", () => {
  it.effect("with a lock seems full but holds two bytes", () =>
    Effect.gen(function*() {
      const cache = yield* burned(ByteCache.withLock)
      assert.deepStrictEqual(yield* cache.sizes, { believed: 5, actual: 2 })
      assert.isFalse(yield* cache.put("more", bytes(2)))
    }))

  it.effect("with a transaction is unchanged", () =>
    Effect.gen(function*() {
      const cache = yield* burned(ByteCache.withTransaction)
      assert.deepStrictEqual(yield* cache.sizes, { believed: 2, actual: 2 })
      assert.isTrue(yield* cache.put("more", bytes(2)))
      assert.deepStrictEqual(yield* cache.sizes, { believed: 4, actual: 4 })
      assert.isTrue(Option.isNone(yield* cache.get("burn")))
      assert.isFalse(yield* cache.put("good", bytes(1)))
      assert.isFalse(yield* cache.put("large", bytes(2)))
    }))

  it.effect(
    "with a transaction counts the bytes that it holds, under every interleaving and interruption",
    () =>
      Interleavings.explore(
        Effect.gen(function*() {
          const cache = yield* ByteCache.withTransaction(5)
          const burning = yield* Effect.fork(cache.put("burn", bytes(3)))
          const victim = yield* Effect.fork(Interleavings.victim(cache.put("victim", bytes(1))))
          const good = yield* Effect.fork(cache.put("good", bytes(2)))
          for (const fiber of [burning, victim, good]) yield* Fiber.await(fiber)
          const { actual, believed } = yield* cache.sizes
          assert.strictEqual(believed, actual)
          assert.isAtLeast(actual, 2)
          assert.isTrue(yield* cache.put("more", bytes(2)))
        }),
        { strategy: ["sweep", "random", "pct", "interrupt"] }
      ),
    60_000
  )
})
