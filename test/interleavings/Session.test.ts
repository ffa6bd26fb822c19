import * as Session from "effect-holdfast/Session"
import { describe, it } from "effect-holdfast/testing/vitest"
import * as Effect from "effect/Effect"
import { canaries, type CanaryName } from "../support/canaries.js"
import { canary } from "../support/canary.js"
import { scenarios } from "./sessions.js"

describe("a session, whatever the interleaving", () => {
  for (const [name, scenario] of Object.entries(scenarios(Session))) {
    it.interleavings(name, Effect.scoped(scenario))
  }
})

describe("a session with a known fault is caught", () => {
  const canaryOf = (name: CanaryName, scenario: keyof ReturnType<typeof scenarios>, options: Parameters<typeof canary>[2]) =>
    canary(canaries[name].fault, async () => {
      const faulty: typeof Session = await import(/* @vite-ignore */ `../../src/Session.ts?canary=${name}`)
      return Effect.scoped(scenarios(faulty)[scenario])
    }, { replays: 10, ...options })

  canaryOf("leader-interruption", "an interrupted waiter takes nothing with it", { strategy: "interrupt", within: 1_000 })
  canaryOf("straggler", "a refused generation is renewed once, for callers together and for a straggler", { within: 100 })
  canaryOf("remembered-failure", "a failure is one for all, answers for its cooldown, and is then tried again once", {
    within: 100
  })
  canaryOf("unshared-failure", "a failure is one for all, answers for its cooldown, and is then tried again once", {
    within: 100
  })
  canaryOf("early-commit", "nothing is current before it has been persisted", { within: 100 })
  canaryOf("self-wait", "a renewal that asks its own session is told so", { within: 100 })
  canaryOf("recursion", "one request refreshes as often as it may, and no more", { within: 100 })
  canaryOf("late-publication", "no reader of the changes sees a generation twice, or misses the last", {
    strategy: "pct",
    within: 1_000
  })
  canaryOf("late-waiter", "a generation's resources are open while it is used, and closed once", {
    strategy: "pct",
    within: 1_000
  })
})
