import * as SessionMap from "effect-holdfast/SessionMap"
import { describe, it } from "effect-holdfast/testing/vitest"
import * as Effect from "effect/Effect"
import { scenarios } from "./sessionMaps.js"

describe("a map of sessions, whatever the interleaving", () => {
  for (const [name, scenario] of Object.entries(scenarios(SessionMap))) {
    it.interleavings(name, Effect.scoped(scenario))
  }
})
