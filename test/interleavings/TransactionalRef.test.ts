import { Interleavings } from "effect-holdfast/testing"
import { assert, describe, it } from "effect-holdfast/testing/vitest"
import * as TransactionalRef from "effect-holdfast/TransactionalRef"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { type Holder as AnyHolder, releaseAll, Turn } from "../../src/internal/transaction/turn.js"
import { wait } from "../../src/internal/wait.js"
import { bySize } from "../support/bySize.js"
import { canariesOf } from "../support/canary.js"
import { everySchedule } from "../support/everySchedule.js"
import { interrupted, scenarios } from "./transactions.js"

describe("T3: a turn, in every order of three fibers", () => {
  interface Holder extends AnyHolder<Holder> {
    readonly name: string
  }

  const take = (turn: Turn<Holder>, holder: Holder) =>
    wait<void>((resume) => {
      const wake = () => resume(Exit.void)
      return turn.tryTake(holder) ? void wake() : turn.enqueue(holder, wake)
    })

  /** Each fiber takes the turn, pauses, and releases it, however the fiber ends. `mark` marks the one to interrupt. */
  const scope = (mark: <A>(effect: Effect.Effect<A>) => Effect.Effect<A>) =>
    Effect.gen(function*() {
      const turn = new Turn<Holder>("turn")
      let inside = 0
      const one = (name: string) =>
        Effect.suspend(() => {
          const holder: Holder = { name, turn: undefined, places: undefined }
          return Effect.uninterruptibleMask((restore) =>
            Effect.ensuring(
              restore(Effect.zipRight(take(turn, holder), Effect.sync(() => assert.strictEqual(++inside, 1)))).pipe(
                Effect.zipRight(Effect.yieldNow()),
                Effect.zipRight(Effect.sync(() => inside--))
              ),
              Effect.sync(() => releaseAll(holder))
            )
          )
        })
      const fibers = [
        yield* Effect.fork(one("a")),
        yield* Effect.fork(mark(one("b"))),
        yield* Effect.fork(one("c"))
      ]
      for (const fiber of fibers) yield* Fiber.await(fiber)
      assert.deepStrictEqual([turn.holder, turn.waiters, inside], [undefined, 0, 0])
    })

  everySchedule("is held by one fiber at a time, and is free in the end", scope((effect) => effect), { preemptions: 1 })
  everySchedule("is free in the end, even if one fiber is interrupted anywhere", scope(Interleavings.victim), {
    strategy: "interrupt",
    preemptions: 1
  })
})

describe("T1, T2, T4, T5, T7, T10: a transaction, under every interleaving", async () => {
  for (const [name, scenario] of Object.entries(scenarios(TransactionalRef))) {
    const strategy = ["sweep", "random", "pct", ...interrupted.includes(name) ? ["interrupt" as const] : []] as const
    it.interleavings(name, scenario, await bySize(scenario, strategy))
  }
})

describe("T5: two concurrent transactions, in every order of their steps", () => {
  for (
    const [name, preemptions] of [
      ["a transaction that a deadlock has ended holds nothing while its body goes on", 1],
      ["a retry inside another module's transaction never livelocks", 0],
      ["two siblings that wait for each other succeed at the second attempt", 0]
    ] as const
  ) {
    everySchedule(name, scenarios(TransactionalRef)[name], { preemptions, quick: preemptions })
  }
})

describe("a transaction with a known fault is caught", () => {
  const canaryOf = canariesOf(async (name, scenario: keyof ReturnType<typeof scenarios>) => {
    const faulty: typeof TransactionalRef = await import(
      /* @vite-ignore */ `../../src/TransactionalRef.ts?canary=${name}`
    )
    return scenarios(faulty)[scenario]
  })

  canaryOf("lock-held", "a defect releases the turn, and drops the change", { within: 1, reason: "Deadlock" })
  canaryOf("half-change", "a defect releases the turn, and drops the change", { within: 1 })
  canaryOf("lock-order", "the turns of several refs are always taken in the same order", { within: 100 })
  canaryOf(
    "unseen-circle",
    "a deadlock of nested transactions fails one of them, which succeeds when it is run again",
    {
      within: 100,
      reason: "Deadlock"
    }
  )
  canaryOf("parallel-circle", "a deadlock through parallel parts of a transaction fails one of the transactions", {
    strategy: ["pct", "random"],
    seeds: 20_000,
    within: 40_000,
    reason: "Deadlock"
  })
  canaryOf("held-while-unwinding", "a transaction that a deadlock has ended holds nothing while its body goes on", {
    within: 100,
    reason: "Deadlock"
  })
  canaryOf("saved-by-its-body", "a transaction that a deadlock has ended holds nothing while its body goes on", {
    within: 100
  })
  canaryOf("sibling-bypass", "siblings inside one transaction take turns", { within: 100 })
  canaryOf("repeated-circle", "two siblings that wait for each other succeed at the second attempt", {
    maxOperations: 10_000,
    within: 1,
    reason: "Livelock"
  })
  canaryOf("leaked-turn", "an interrupted transaction changes all or nothing, and releases its turn", {
    strategy: "interrupt",
    within: 5_000,
    reason: "Deadlock"
  })
})
