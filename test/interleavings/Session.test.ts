import * as Session from "effect-holdfast/Session"
import { describe, it } from "effect-holdfast/testing/vitest"
import * as Effect from "effect/Effect"
import { bySize } from "../support/bySize.js"
import { interrupted, scenarios, slow } from "./sessions.js"

describe("a session, under every interleaving", async () => {
  for (const [name, scenario] of Object.entries(scenarios(Session))) {
    const effect = Effect.scoped(scenario)
    const strategies = [
      "sweep" as const,
      "random" as const,
      "pct" as const,
      ...interrupted.includes(name) ? ["interrupt" as const] : [],
      ...slow.includes(name) ? ["timers" as const] : []
    ]
    it.interleavings(name, effect, await bySize(effect, strategies))
  }
})
