import * as SessionMap from "effect-holdfast/SessionMap"
import { describe, it } from "effect-holdfast/testing/vitest"
import * as Effect from "effect/Effect"
import { bySize } from "../support/bySize.js"
import { canariesOf } from "../support/canary.js"
import { interrupted, scenarios } from "./sessionMaps.js"

describe("M1, M2: a map of sessions, whatever the interleaving", async () => {
  for (const [name, scenario] of Object.entries(scenarios(SessionMap))) {
    const strategy = ["sweep", "random", "pct"] as const
    const effect = Effect.scoped(scenario)
    it.interleavings(
      name,
      effect,
      await bySize(effect, interrupted.includes(name) ? [...strategy, "interrupt"] : strategy)
    )
  }
})

describe("a map of sessions with a known fault is caught", () => {
  const canaryOf = canariesOf(async (name, scenario: keyof ReturnType<typeof scenarios>) => {
    const faulty: typeof SessionMap = await import(/* @vite-ignore */ `../../src/SessionMap.ts?canary=${name}`)
    return Effect.scoped(scenarios(faulty)[scenario])
  })

  canaryOf("foreign-scheduler", "a key has one session, and no key another's", { within: 1, reason: "Escaped" })
  canaryOf("late-fork", "M1: a lookup that has not begun when its map closes does not begin", { within: 1_000 })
  canaryOf("held-after-interruption", "an interrupted caller neither takes a session with it nor holds one", {
    strategy: "interrupt",
    within: 1_000
  })
  canaryOf("lookup-held", "M1: an interrupted caller neither cancels a lookup nor holds what it makes", {
    strategy: "interrupt",
    within: 1_000
  })
  canaryOf("lookup-remembered", "M1: a lookup that fails does so for all who wait for it, and for nobody later", {
    within: 1
  })
})
