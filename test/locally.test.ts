import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import { locally } from "../src/internal/locally.js"

const color = FiberRef.unsafeMake("none")
const size = FiberRef.unsafeMake(0)
const other = FiberRef.unsafeMake(0)

const values = Effect.all([FiberRef.get(color), FiberRef.get(size), FiberRef.get(other)])

/** The fiber as it would be if Effect kept its references elsewhere. */
const without = (fiber: Fiber.RuntimeFiber<unknown, unknown>): Fiber.RuntimeFiber<unknown, unknown> =>
  new Proxy(fiber, {
    get: (target, name) => {
      if (name === "_fiberRefs") return undefined
      const value = Reflect.get(target, name, target) as unknown
      return typeof value === "function" ? value.bind(target) : value
    }
  })

describe("two references, set for a while", () => {
  for (
    const [how, seen] of Object.entries({
      "by their map": (fiber: Fiber.RuntimeFiber<any, any>) => fiber,
      "one by one": without
    })
  ) {
    it.effect(`are set and set back, ${how}`, () =>
      Effect.gen(function*() {
        yield* FiberRef.set(size, 7)
        const leave = yield* Effect.withFiberRuntime<() => void>((fiber) =>
          Effect.sync(() => locally(seen(fiber), [color, "red"], [size, 1]))
        )
        assert.deepStrictEqual(yield* values, ["red", 1, 0])
        leave()
        assert.deepStrictEqual(yield* values, ["none", 7, 0])
      }))

    it.effect(`leave what was set meanwhile, ${how}`, () =>
      Effect.gen(function*() {
        const leave = yield* Effect.withFiberRuntime<() => void>((fiber) =>
          Effect.sync(() => locally(seen(fiber), [color, "red"], [size, 1]))
        )
        yield* FiberRef.set(other, 5)
        yield* FiberRef.set(size, 2)
        leave()
        assert.deepStrictEqual(yield* values, ["none", 0, 5])
      }))
  }

  it.effect("are inherited, and do not grow in a fiber that sets them over and over", () =>
    Effect.gen(function*() {
      const depths: Array<number> = []
      const once = Effect.withFiberRuntime<void>((fiber) => {
        const leave = locally(fiber, [color, "red"], [size, 1])
        return Effect.flatMap(Effect.flatMap(Effect.fork(values), Fiber.join), (inherited) =>
          Effect.withFiberRuntime<void>((fiber) => {
            assert.deepStrictEqual(inherited, ["red", 1, 0])
            leave()
            depths.push(fiber.getFiberRefs().locals.get(color)!.length)
            return Effect.void
          }))
      })
      yield* FiberRef.set(color, "blue")
      yield* Effect.flatMap(
        Effect.fork(Effect.zipRight(Effect.repeatN(once, 9), FiberRef.set(color, "green"))),
        Fiber.join
      )
      assert.deepStrictEqual(new Set(depths), new Set([2]))
      assert.strictEqual(yield* FiberRef.get(color), "green")
    }))
})
