import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import { describe, it } from "effect-holdfast/testing/vitest"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import type * as Effect from "effect/Effect"
import { bySize } from "../../support/bySize.js"
import { interruptions } from "./interruptions.js"

describe("W7: a caller of a socket that is interrupted, whatever the interleaving", async () => {
  const scenarios: Record<string, Effect.Effect<void, unknown>> = interruptions({ ReconnectingSocket, WebSocketDialer })
  for (const [name, scenario] of Object.entries(scenarios)) {
    const size = await bySize(scenario)
    it.interleavings(name, scenario, size)
    it.interleavings(`${name}, wherever that is`, scenario, { ...size, strategy: "interrupt" })
  }
})
