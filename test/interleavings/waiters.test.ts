import { Interleavings } from "effect-holdfast/testing"
import { assert, describe } from "effect-holdfast/testing/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { Waiters } from "../../src/internal/waiters.js"
import { canaries } from "../support/canaries.js"
import { canary } from "../support/canary.js"
import { everySchedule } from "../support/everySchedule.js"

/** Each fiber waits until a counter has reached its number; another fiber counts, one step at a time. */
const counting = (
  List: typeof Waiters,
  which: "until" | "lightUntil",
  asked: ReadonlyArray<number>,
  mark: <A>(effect: Effect.Effect<A>) => Effect.Effect<A> = (effect) => effect
) =>
  Effect.gen(function*() {
    const list = new List()
    const upTo = Math.max(...asked)
    let count = 0
    const reached = (least: number) => List[which](() => count >= least ? Exit.succeed(count) : undefined, list)
    const waiting = yield* Effect.forEach(asked, (least, index) =>
      Effect.fork(index === 0 ? mark(reached(least)) : reached(least)))
    yield* Effect.fork(Effect.forEach(Array.from({ length: upTo }), () =>
      Effect.sync(() => {
        count++
        list.notify()
      }), { discard: true }))
    for (const [index, fiber] of waiting.entries()) {
      const exit = yield* Fiber.await(fiber)
      if (Exit.isSuccess(exit)) {
        assert.isAtLeast(exit.value, asked[index]!)
      } else assert.isTrue(index === 0 && Exit.isInterrupted(exit), String(exit))
    }
    // The next wake-up removes a waiter that an interrupted fiber may have left.
    count = upTo
    list.notify()
    assert.strictEqual(list.size, 0)
  })

/** A fiber waits for either of two conditions, each of which has its own list. */
const eitherOf = (List: typeof Waiters) =>
  Effect.gen(function*() {
    const [left, right] = [new List(), new List()]
    let arrived = ""
    const waiting = yield* Effect.fork(
      List.until(() => arrived === "" ? undefined : Exit.succeed(arrived), left, right)
    )
    for (const [name, list] of [["left", left], ["right", right]] as const) {
      yield* Effect.fork(Effect.sync(() => {
        arrived += name
        list.notify()
      }))
    }
    assert.include(yield* Fiber.join(waiting), "t")
    assert.deepStrictEqual([left, right].map(({ size }) => size), [0, 0])
  })

describe("a condition that becomes true is not missed", () => {
  everySchedule("by one fiber", counting(Waiters, "until", [1]), { preemptions: 2, quick: 2 })
  everySchedule("by fibers that wait for different values", counting(Waiters, "until", [2, 1]), {
    preemptions: 1,
    quick: 1
  })
  everySchedule("by a fiber that waits on two lists", eitherOf(Waiters), { preemptions: 1, quick: 1 })
  everySchedule("by one fiber that uses `lightUntil`", counting(Waiters, "lightUntil", [1]), {
    preemptions: 2,
    quick: 2
  })
  everySchedule("by two fibers that use `lightUntil`", counting(Waiters, "lightUntil", [2, 1]), {
    preemptions: 1,
    quick: 1
  })
  for (const which of ["until", "lightUntil"] as const) {
    everySchedule(
      `even if another waiter is interrupted anywhere (${which})`,
      counting(Waiters, which, [1, 1], Interleavings.victim),
      {
        strategy: "interrupt",
        preemptions: 1
      }
    )
  }
})

describe("a list that checks in one operation and registers in another is caught", () => {
  const faulty = async (scope: (List: typeof Waiters) => Effect.Effect<unknown, unknown>) => {
    const path = "../../src/internal/waiters.ts?canary=late-registration"
    return scope((await import(/* @vite-ignore */ path)).Waiters)
  }
  const { fault } = canaries["late-registration"]
  const options = { strategy: "exhaustive", preemptions: 1, reason: "Deadlock" } as const
  canary(fault, () => faulty((List) => counting(List, "until", [1])), { ...options, within: 100 })
  canary(`${fault}, with lightUntil`, () => faulty((List) => counting(List, "lightUntil", [1])), {
    ...options,
    within: 100
  })
  canary(`${fault}, with two lists`, () => faulty(eitherOf), { ...options, within: 1_000 })
})
