import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { Waiters } from "../src/internal/waiters.js"

/** A condition, and a list that is notified when it changes. */
const lamp = () => {
  const whenLit = new Waiters()
  let isLit = false
  return {
    whenLit,
    look: () => isLit ? true : undefined,
    exit: () => isLit ? Exit.void : undefined,
    set: (lit: boolean) => {
      isLit = lit
      whenLit.notify()
    }
  }
}

describe("a list of waiters", () => {
  it("calls back immediately if the condition is true, and keeps no waiter", () => {
    const { look, set, whenLit } = lamp()
    set(true)
    const woken: Array<string> = []
    Waiters.watch(look, () => woken.push("a"), whenLit)()
    assert.deepStrictEqual(woken, ["a"])
    assert.strictEqual(whenLit.size, 0)
  })

  it("wakes in the order of registration, each waiter once", () => {
    const { look, set, whenLit } = lamp()
    const woken: Array<string> = []
    for (const name of ["a", "b", "c"]) Waiters.watch(look, () => woken.push(name), whenLit)
    set(false)
    assert.deepStrictEqual(woken, [])
    set(true)
    set(true)
    assert.deepStrictEqual(woken, ["a", "b", "c"])
    assert.strictEqual(whenLit.size, 0)
  })

  it("wakes the waiters whose condition is true, and keeps the others", () => {
    const list = new Waiters()
    let count = 0
    const woken: Array<number> = []
    for (const least of [2, 1, 2]) {
      Waiters.watch(() => count >= least ? least : undefined, (least) => woken.push(least), list)
    }
    for (count = 1; count <= 2; count++) list.notify()
    assert.deepStrictEqual(woken, [1, 2, 2])
  })

  it("does not call back a waiter that was given up, before or while others are woken", () => {
    const { look, set, whenLit } = lamp()
    const woken: Array<string> = []
    let giveUpLast = () => {}
    Waiters.watch(look, () => {
      woken.push("a")
      giveUpLast()
    }, whenLit)
    const giveUpSecond = Waiters.watch(look, () => woken.push("b"), whenLit)
    giveUpLast = Waiters.watch(look, () => woken.push("c"), whenLit)
    giveUpSecond()
    set(true)
    assert.deepStrictEqual(woken, ["a"])
    giveUpLast()
    assert.strictEqual(whenLit.size, 0)
  })

  it("does not check a waiter that registers while others are woken: it has just checked", () => {
    const { look, set, whenLit } = lamp()
    const woken: Array<string> = []
    let looks = 0
    Waiters.watch(look, () => {
      set(false)
      Waiters.watch(
        () => {
          looks++
          return look()
        },
        () => woken.push("late"),
        whenLit
      )
      woken.push("a")
    }, whenLit)
    set(true)
    assert.deepStrictEqual([woken, looks], [["a"], 1])
    set(true)
    assert.deepStrictEqual([woken, looks], [["a", "late"], 2])
  })

  it("ends, even if a waiter registers again whenever it is woken", () => {
    const list = new Waiters()
    let rounds = 0
    let isThere = false
    const again = (): void => {
      rounds++
      isThere = false
      Waiters.watch(() => isThere || undefined, again, list)
      isThere = true
    }
    again()
    list.notify()
    assert.strictEqual(rounds, 2)
  })

  it("checks each condition again if a callback changes it and notifies within the round", () => {
    const { look, set, whenLit } = lamp()
    const woken: Array<string> = []
    Waiters.watch(look, () => {
      woken.push("a")
      set(false)
    }, whenLit)
    Waiters.watch(look, () => woken.push("b"), whenLit)
    set(true)
    assert.deepStrictEqual(woken, ["a"])
    set(true)
    assert.deepStrictEqual(woken, ["a", "b"])
  })

  it("in a round within a round calls no waiter twice, and the rest in their order", () => {
    const { look, set, whenLit } = lamp()
    const woken: Array<string> = []
    Waiters.watch(look, () => {
      woken.push("a")
      set(true)
      woken.push("a is done")
    }, whenLit)
    for (const name of ["b", "c"]) Waiters.watch(look, () => woken.push(name), whenLit)
    set(true)
    assert.deepStrictEqual(woken, ["a", "b", "c", "a is done"])
  })

  it("wakes the others even if a callback or a condition throws, and then throws the first error", () => {
    const { look, set, whenLit } = lamp()
    const woken: Array<string> = []
    const thrower = (what: string) => () => {
      throw new Error(what)
    }
    Waiters.watch(look, () => woken.push("a"), whenLit)
    Waiters.watch(look, thrower("first"), whenLit)
    let isBroken = false
    Waiters.watch(() => isBroken ? thrower("second")() : undefined, () => {}, whenLit)
    Waiters.watch(look, () => woken.push("b"), whenLit)
    isBroken = true
    assert.throws(() => set(true), "first")
    assert.deepStrictEqual(woken, ["a", "b"])
    // The callback is not called again. The condition is asked again.
    assert.throws(() => set(true), "second")
  })

  it("wakes a waiter of several lists from any of them, and forgets it in all", () => {
    for (const which of [0, 1]) {
      const lists = [new Waiters(), new Waiters()] as const
      const woken: Array<string> = []
      let isThere = false
      Waiters.watch(() => isThere || undefined, () => woken.push("a"), ...lists)
      isThere = true
      lists[which]!.notify()
      assert.deepStrictEqual(woken, ["a"])
      assert.deepStrictEqual(lists.map(({ size }) => size), [0, 0])
    }
  })
})

describe.each([
  { name: "until", wait: Waiters.until },
  { name: "lightUntil", wait: Waiters.lightUntil }
])("a fiber that waits ($name)", ({ wait }) => {
  it.effect("continues when the condition is true, now or later", () =>
    Effect.gen(function*() {
      const list = new Waiters()
      let exit: Exit.Exit<number, string> | undefined
      const waiting = wait(() => exit, list)
      const early = yield* Effect.fork(waiting)
      yield* Effect.yieldNow()
      exit = Exit.succeed(7)
      list.notify()
      assert.strictEqual(yield* Fiber.join(early), 7)
      assert.strictEqual(yield* waiting, 7)
      exit = Exit.fail("no")
      assert.strictEqual(yield* Effect.flip(waiting), "no")
      assert.strictEqual(list.size, 0)
    }))

  it.effect("dies with the error that its condition throws, and other waiters do not", () =>
    Effect.gen(function*() {
      const { exit, set, whenLit } = lamp()
      let isBroken = false
      const faulty = yield* Effect.fork(wait(() => {
        if (isBroken) throw new Error("broken")
        return undefined
      }, whenLit))
      yield* Effect.yieldNow()
      const other = yield* Effect.fork(wait(exit, whenLit))
      yield* Effect.yieldNow()
      isBroken = true
      set(true)
      yield* Fiber.join(other)
      const ended = yield* Fiber.await(faulty)
      assert.isTrue(Exit.isFailure(ended) && Cause.isDie(ended.cause))
    }))

  it.effect("may be interrupted again and again, and leaves at most one waiter, which the next wake-up removes", () =>
    Effect.gen(function*() {
      const { exit, set, whenLit } = lamp()
      for (let n = 0; n < 10; n++) {
        const waiting = yield* Effect.fork(wait(exit, whenLit))
        yield* Effect.yieldNow()
        yield* Fiber.interrupt(waiting)
      }
      assert.strictEqual(whenLit.size, wait === Waiters.until ? 0 : 1)
      const last = yield* Effect.fork(wait(exit, whenLit))
      yield* Effect.yieldNow()
      set(true)
      yield* Fiber.join(last)
      assert.strictEqual(whenLit.size, 0)
    }))
})
