import * as Session from "effect-holdfast/Session"
import { describe, it } from "effect-holdfast/testing/vitest"
import * as Effect from "effect/Effect"
import { interrupted, scenarios } from "./sessions.js"

describe("a session, whatever the interleaving", () => {
  for (const [name, scenario] of Object.entries(scenarios(Session))) {
    const strategy = ["sweep", "random", "pct"] as const
    it.interleavings(name, Effect.scoped(scenario), {
      strategy: interrupted.includes(name) ? [...strategy, "interrupt"] : strategy,
      timeout: 120_000
    })
  }
})
