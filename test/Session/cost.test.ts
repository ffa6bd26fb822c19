import { assert, describe, it } from "@effect/vitest"
import * as Session from "effect-holdfast/Session"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as RuntimeFlags from "effect/RuntimeFlags"
import * as RuntimeFlagsPatch from "effect/RuntimeFlagsPatch"
import * as Supervisor from "effect/Supervisor"
import * as TestClock from "effect/TestClock"
import { many } from "../support/exits.js"
import { amount } from "../support/form.js"
import { held, upstream } from "../support/sessions.js"
import { settle } from "../support/settle.js"

/** Counts the operations of all fibers that the effect starts. */
class Counter extends Supervisor.AbstractSupervisor<void> {
  readonly value = Effect.void
  operations = 0

  override onEffect(): void {
    this.operations++
  }
}

/** How many operations the effect costs, those of its fibers included. */
const operationsOf = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const counter = new Counter()
    return effect.pipe(
      Effect.withRuntimeFlagsPatch(RuntimeFlagsPatch.enable(RuntimeFlags.OpSupervision)),
      Effect.supervised(counter),
      Effect.map(() => counter.operations)
    )
  })

describe("S12: callers", () => {
  /** A number of callers wait for one sign-in, and get its value or are interrupted. */
  const waiting = (callers: number, isInterrupted: boolean) =>
    Effect.scoped(Effect.gen(function*() {
      const up = upstream()
      const signIn = yield* held(Effect.succeed("token"))
      up.next(signIn.answer)
      const session = yield* Session.make(up)
      const waiters = yield* Effect.fork(many(callers, session.current))
      yield* settle
      if (isInterrupted) yield* Fiber.interrupt(waiters)
      yield* signIn.release
      yield* Fiber.await(waiters)
    }))

  const most = amount({ quick: 2_000, full: 10_000 })

  for (const [end, isInterrupted] of [["are answered", false], ["are interrupted", true]] as const) {
    it.effect(`waiters that ${end} cost the same number of operations each, for a hundred or ${most} waiters`, () =>
      Effect.gen(function*() {
        const [ten, hundred, all] = yield* Effect.forEach(
          [10, 100, most] as const,
          (callers) => operationsOf(waiting(callers, isInterrupted))
        )
        const each = (hundred! - ten!) / 90
        assert.isAbove(each, 1)
        assert.isAtMost((all! - ten!) / (most - 10), each * 1.1)
      }))
  }

  it.scoped("callers cost a few operations if there is a current generation, with or without a renewal in flight", () =>
    Effect.gen(function*() {
      const up = upstream()
      const session = yield* Session.make({ ...up, maxAge: "10 minutes", refreshAhead: "2 minutes" })
      const first = yield* session.current
      assert.strictEqual(yield* operationsOf(session.current), 2)
      const renewal = yield* held(Effect.succeed("fresh"))
      up.next(renewal.answer)
      yield* TestClock.adjust("9 minutes")
      yield* session.current
      yield* renewal.started
      assert.strictEqual(yield* operationsOf(session.current), 5)
      assert.strictEqual(Effect.runSync(session.current), first)
    }))
})
