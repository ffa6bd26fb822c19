import * as SessionMap from "effect-holdfast/SessionMap"
import { describe, it } from "effect-holdfast/testing/vitest"
import * as Effect from "effect/Effect"
import { bySize } from "../support/bySize.js"
import { canaries } from "../support/canaries.js"
import { canary } from "../support/canary.js"
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
  const faulty = (name: keyof typeof canaries, scenario: keyof ReturnType<typeof scenarios>) => async () => {
    const module: typeof SessionMap = await import(/* @vite-ignore */ `../../src/SessionMap.ts?canary=${name}`)
    return Effect.scoped(scenarios(module)[scenario])
  }

  canary(
    canaries["foreign-scheduler"].fault,
    faulty("foreign-scheduler", "a key has one session, and no key another's"),
    { within: 1, reason: "Escaped" }
  )
  canary(
    canaries["held-after-interruption"].fault,
    faulty("held-after-interruption", "an interrupted caller neither takes a session with it nor holds one"),
    { strategy: "interrupt", within: 1_000 }
  )
  canary(
    canaries["lookup-held"].fault,
    faulty("lookup-held", "M1: an interrupted caller neither cancels a lookup nor holds what it makes"),
    { strategy: "interrupt", within: 1_000 }
  )
  canary(
    canaries["lookup-remembered"].fault,
    faulty("lookup-remembered", "M1: a lookup that fails does so for all who wait for it, and for nobody later"),
    { within: 1 }
  )
})
