import * as Session from "effect-holdfast/Session"
import { describe, it } from "effect-holdfast/testing/vitest"
import * as Effect from "effect/Effect"
import { amount } from "../support/form.js"
import { interrupted, scenarios, slow } from "./sessions.js"

describe("a session, whatever the interleaving", () => {
  for (const [name, scenario] of Object.entries(scenarios(Session))) {
    it.interleavings(name, Effect.scoped(scenario), {
      strategy: [
        "sweep",
        "random",
        "pct",
        ...interrupted.includes(name) ? ["interrupt" as const] : [],
        ...slow.includes(name) ? ["timers" as const] : []
      ],
      seeds: 30,
      limit: amount({ quick: 80, full: 200 }),
      timeout: 120_000
    })
  }
})
