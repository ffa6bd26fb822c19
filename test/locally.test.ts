import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import { locally } from "../src/internal/locally.js"

const color = FiberRef.unsafeMake("none")
const size = FiberRef.unsafeMake(0)
const other = FiberRef.unsafeMake(0)

const values = Effect.all([FiberRef.get(color), FiberRef.get(size), FiberRef.get(other)])

type AnyFiber = Fiber.RuntimeFiber<unknown, unknown>

/** The fiber as it would be if Effect kept its references elsewhere. */
const without = (fiber: AnyFiber): AnyFiber =>
  new Proxy(fiber, {
    get: (target, name) => {
      if (name === "_fiberRefs") return undefined
      const value = Reflect.get(target, name, target) as unknown
      return typeof value === "function" ? value.bind(target) : value
    }
  })

/** Sets the two. Gives a function that sets them back. */
const set = (seen: (fiber: AnyFiber) => AnyFiber) =>
  Effect.withFiberRuntime<() => void>((fiber) => {
    const locals = locally(seen(fiber), color, "red", size, 1)
    return Effect.succeed(() => locals.setBack(seen(fiber)))
  })

describe("two references, set for a while", () => {
  for (
    const [how, seen] of Object.entries({
      "by their map": (fiber: AnyFiber) => fiber,
      "one by one": without
    })
  ) {
    it.effect(`are set and set back, ${how}`, () =>
      Effect.gen(function*() {
        yield* FiberRef.set(size, 7)
        const setBack = yield* set(seen)
        assert.deepStrictEqual(yield* values, ["red", 1, 0])
        setBack()
        assert.deepStrictEqual(yield* values, ["none", 7, 0])
      }))

    it.effect(`leave alone what was set meanwhile, ${how}`, () =>
      Effect.gen(function*() {
        const setBack = yield* set(seen)
        yield* FiberRef.set(other, 5)
        yield* FiberRef.set(size, 2)
        setBack()
        assert.deepStrictEqual(yield* values, ["none", 0, 5])
      }))
  }

  it.effect("are read from a map that has the two and all others", () =>
    Effect.gen(function*() {
      yield* FiberRef.set(other, 5)
      yield* FiberRef.set(size, 7)
      yield* Effect.withFiberRuntime<void>((fiber) => {
        const before = new Map(fiber.getFiberRefs().locals)
        const outer = locally(fiber, color, "red", size, 1)
        const locals = locally(fiber, color, "green", size, 2)
        const expected = new Map(before)
          .set(color, [[fiber.id(), "green"]])
          .set(size, [[fiber.id(), 2]])
        const seen = locals.fiberRefs.locals
        assert.strictEqual(seen.size, expected.size)
        assert.deepStrictEqual(new Map(seen), expected)
        assert.deepStrictEqual(new Map(seen.entries()), expected)
        assert.deepStrictEqual([...seen.keys()], [...expected.keys()])
        assert.deepStrictEqual([...seen.values()], [...expected.values()])
        for (const fiberRef of [color, size, other, FiberRef.unsafeMake("unset")]) {
          assert.deepStrictEqual(seen.get(fiberRef), expected.get(fiberRef))
          assert.strictEqual(seen.has(fiberRef), expected.has(fiberRef))
        }
        const each: Array<unknown> = []
        seen.forEach((stack, fiberRef) => each.push([fiberRef, stack]))
        assert.deepStrictEqual(each, [...expected])
        locals.setBack(fiber)
        assert.strictEqual(fiber.getFiberRef(color), "red")
        outer.setBack(fiber)
        assert.strictEqual(fiber.getFiberRef(size), 7)
        return Effect.void
      })
    }))

  it.effect("are inherited, and do not grow in a fiber that sets them over and over", () =>
    Effect.gen(function*() {
      const depths: Array<number> = []
      const once = Effect.withFiberRuntime<void>((fiber) => {
        const locals = locally(fiber, color, "red", size, 1)
        return Effect.flatMap(Effect.flatMap(Effect.fork(values), Fiber.join), (inherited) =>
          Effect.withFiberRuntime<void>((fiber) => {
            assert.deepStrictEqual(inherited, ["red", 1, 0])
            locals.setBack(fiber)
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
