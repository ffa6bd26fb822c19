import * as SessionMap from "effect-holdfast/SessionMap"
import { describe, it } from "effect-holdfast/testing/vitest"
import * as Effect from "effect/Effect"
import { canaries } from "../support/canaries.js"
import { canary } from "../support/canary.js"
import { amount } from "../support/form.js"
import { interrupted, scenarios } from "./sessionMaps.js"

describe("a map of sessions, whatever the interleaving", () => {
  for (const [name, scenario] of Object.entries(scenarios(SessionMap))) {
    const strategy = ["sweep", "random", "pct"] as const
    it.interleavings(name, Effect.scoped(scenario), {
      strategy: interrupted.includes(name) ? [...strategy, "interrupt"] : strategy,
      seeds: 50,
      limit: amount({ quick: 80, full: 200 }),
      timeout: 120_000
    })
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
})
