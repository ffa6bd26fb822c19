import * as Session from "effect-holdfast/Session"
import { describe, it } from "effect-holdfast/testing/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { bySize } from "../support/bySize.js"
import { canariesOf } from "../support/canary.js"
import { endingAt, Refused, scenarios } from "./sessions.js"

describe("a renewal that ends at any of its steps, under every interleaving", async () => {
  const failure = new Refused({ why: "down" })
  const defect = new Error("broken")
  const failsWith = (cause: Cause.Cause<Refused | Session.SessionError>) =>
    Option.getOrUndefined(Cause.failureOption(cause))
  const ends = {
    "in failure": [Effect.fail(failure), (cause) => failsWith(cause) === failure],
    "by a defect": [Effect.die(defect), (cause) => Option.getOrUndefined(Cause.dieOption(cause)) === defect],
    "by interruption": [Effect.interrupt, (cause) => failsWith(cause)?._tag === "RefreshInterrupted"],
    // The interruption is still pending when the session answers.
    "by its own fiber's interruption": [
      Effect.withFiberRuntime((fiber) => {
        fiber.unsafeInterruptAsFork(fiber.id())
        return Effect.never
      }),
      (cause) => failsWith(cause)?._tag === "RefreshInterrupted"
    ]
  } satisfies Record<
    string,
    readonly [
      Effect.Effect<never, Refused>,
      (cause: Cause.Cause<Refused | Session.SessionError>) => boolean
    ]
  >
  for (const [how, [end, isThatEnd]] of Object.entries(ends)) {
    for (const step of [0, 1, 2, 3]) {
      const effect = Effect.scoped(endingAt(Session, step, end, isThatEnd))
      it.interleavings(`${how} after ${step} of 3 steps`, effect, await bySize(effect))
    }
  }
})

describe("a session with a known fault is caught", () => {
  const canaryOf = canariesOf(async (name, scenario: keyof ReturnType<typeof scenarios>) => {
    const faulty: typeof Session = await import(/* @vite-ignore */ `../../src/Session.ts?canary=${name}`)
    return Effect.scoped(scenarios(faulty)[scenario])
  })

  canaryOf("leader-interruption", "interrupting a waiter affects neither the renewal nor other waiters", {
    strategy: "interrupt",
    within: 1_000
  })
  canaryOf("straggler", "a refused generation is renewed once, for concurrent callers and for a straggler", {
    within: 1
  })
  canaryOf(
    "remembered-failure",
    "a failed renewal fails all callers with one error until the cooldown is over, and is then retried once",
    {
      within: 1
    }
  )
  canaryOf(
    "unshared-failure",
    "a failed renewal fails all callers with one error until the cooldown is over, and is then retried once",
    {
      within: 1
    }
  )
  canaryOf("early-commit", "no value is current before it has been persisted", { within: 1 })
  canaryOf("self-wait", "a renewal that asks its own session fails with ReentrantRefresh", { within: 1 })
  canaryOf("recursion", "one request refreshes as often as `maxRefreshes` allows, and no more", { within: 1 })
  canaryOf("late-publication", "no reader of `changes` sees a generation twice, or misses the last one", {
    strategy: "pct",
    within: 1_000
  })
  canaryOf("adopted-over", "an adopted generation is current for all waiters, and stays current when a renewal ends", {
    within: 1_000
  })
  canaryOf("late-row", "a session whose `make` is interrupted leaves no row in an Inspector, and no value in a gauge", {
    strategy: "interrupt",
    within: 1_000
  })
  canaryOf("late-waiter", "a generation's resources are open while it is used, and closed once", {
    strategy: "pct",
    within: 1_000
  })
})
