import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import type { Interleavings } from "effect-holdfast/testing"
import { it } from "effect-holdfast/testing/vitest"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import type * as Effect from "effect/Effect"
import { bySize } from "../../support/bySize.js"
import type { Modules } from "./world.js"

/** Makes a test for each scenario. `others` gives strategies in addition to the usual ones. */
export const tryAll = async (
  scenarios: (modules: Modules) => Readonly<Record<string, Effect.Effect<void, unknown>>>,
  others: (name: string) => ReadonlyArray<Interleavings.Strategy> = () => [],
  isDirect = false
): Promise<void> => {
  for (const [name, scenario] of Object.entries(scenarios({ ReconnectingSocket, WebSocketDialer, isDirect }))) {
    it.interleavings(name, scenario, await bySize(scenario, ["sweep", "random", "pct", ...others(name)]))
  }
}
