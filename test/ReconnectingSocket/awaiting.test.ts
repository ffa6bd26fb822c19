import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import { Awaiting } from "../../src/internal/socket/awaiting.js"

/** Awaits the given answers, and records which of them took what. */
const awaiting = () => {
  const list = new Awaiting<string>()
  const taken: Array<string> = []
  const add = (name: string, ...answers: ReadonlyArray<string>) =>
    list.add((message) => {
      const takes = answers.includes(message)
      if (takes) taken.push(`${name}: ${message}`)
      return takes
    })
  return { add, list, take: (message: string) => list.take(message, message), taken }
}

describe("the answers that a connection awaits", () => {
  it("W14: a message answers the oldest waiter that accepts it, and only that one", () => {
    const { add, take, taken } = awaiting()
    add("first", "a")
    add("second", "a", "b")
    add("third", "a", "b")
    assert.deepStrictEqual(["b", "a", "a", "a"].map(take), [true, true, true, false])
    assert.deepStrictEqual(taken, ["second: b", "first: a", "third: a"])
  })

  it("W14: a message that no waiter accepts answers none", () => {
    const { add, list, take } = awaiting()
    assert.isTrue(list.isEmpty)
    assert.isFalse(take("a"))
    add("first", "a")
    assert.isFalse(take("b"))
    assert.isFalse(list.isEmpty)
  })

  it("W14: a waiter that has given up takes no message, which goes to the next waiter", () => {
    const { add, list, take, taken } = awaiting()
    const giveUp = add("first", "a")
    add("second", "a")
    giveUp()
    giveUp()
    assert.isTrue(take("a"))
    assert.deepStrictEqual(taken, ["second: a"])
    assert.isTrue(list.isEmpty)
  })

  it.effect("`answered` waits until no answer is awaited, however the waiters end", () =>
    Effect.gen(function*() {
      const { add, list, take } = awaiting()
      yield* list.answered
      add("first", "a")
      const giveUp = add("second", "b")
      const waiting = yield* Effect.fork(list.answered)
      yield* Effect.yieldNow()
      take("a")
      yield* Effect.yieldNow()
      assert.isTrue(Option.isNone(yield* Fiber.poll(waiting)))
      giveUp()
      yield* Fiber.join(waiting)
    }))

  it("W14: 400,000 answers in the order of their requests take linear time", () => {
    const list = new Awaiting<number>()
    for (let n = 0; n < 400_000; n++) list.add((message) => message === n)
    const since = performance.now()
    for (let n = 0; n < 400_000; n++) list.take(n, "")
    assert.isTrue(list.isEmpty)
    assert.isBelow(performance.now() - since, 8_000)
  })
})
