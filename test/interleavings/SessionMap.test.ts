import * as SessionMap from "effect-holdfast/SessionMap"
import { describe, it } from "effect-holdfast/testing/vitest"
import * as Effect from "effect/Effect"
import { bySize } from "../support/bySize.js"
import { canariesOf } from "../support/canary.js"
import { interrupted, scenarios } from "./sessionMaps.js"

describe("M1, M2: a map of sessions, under every interleaving", async () => {
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

  canaryOf("foreign-scheduler", "each key has one session of its own", { within: 1, reason: "Escaped" })
  canaryOf("late-fork", "M1: a lookup that has not started when its map closes never starts", { within: 1_000 })
  canaryOf("held-after-interruption", "an interrupted caller neither ends a session nor keeps it in use", {
    strategy: "interrupt",
    within: 1_000
  })
  canaryOf("lookup-held", "M1: an interrupted caller neither cancels a lookup nor keeps its session in use", {
    strategy: "interrupt",
    within: 1_000
  })
  canaryOf(
    "lookup-remembered",
    "M1: a lookup that fails does so for all its waiting callers, and for no later caller",
    {
      within: 1
    }
  )
})
