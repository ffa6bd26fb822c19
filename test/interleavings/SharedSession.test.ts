import { describe, it } from "effect-holdfast/testing/vitest"
import * as Effect from "effect/Effect"
import { bySize } from "../support/bySize.js"
import { form } from "../support/form.js"
import { overSharedSessions } from "../support/sharedSessions.js"
import { interrupted, scenarios } from "./sessions.js"

/** What a shared value cannot have (S10). */
const ofLocalSessions: ReadonlySet<string> = new Set([
  "a generation's resources are open while it is used, and closed once",
  "an interrupted holder lets go",
  "a holder that the generation has forked lets go last, and both end",
  "what an adopted generation replaces stays while it is used, and is released once"
])

describe("F8: the promises of a session hold for a shared one, too", async () => {
  for (const [name, scenario] of Object.entries(scenarios(overSharedSessions))) {
    if (ofLocalSessions.has(name)) continue
    const effect = Effect.scoped(scenario)
    // No timers that strike too early: the deadline of a call of the store is one, and it fails the refresh.
    const strategy = [
      "sweep" as const,
      "random" as const,
      "pct" as const,
      ...interrupted.includes(name) ? ["interrupt" as const] : []
    ]
    it.interleavings(
      name,
      effect,
      // The same machine is explored more deeply by itself, and here each run costs several times as much.
      form === "quick"
        ? { strategy, limit: 8, seeds: 8, timeout: 120_000 }
        : { ...await bySize(effect, strategy), limit: 250 }
    )
  }
})
