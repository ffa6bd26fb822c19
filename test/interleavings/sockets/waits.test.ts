import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import { describe, it } from "effect-holdfast/testing/vitest"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import { bySize } from "../../support/bySize.js"
import { waits } from "./waits.js"

describe("W2: a socket that waits, whatever the interleaving", async () => {
  for (const [name, scenario] of Object.entries(waits({ ReconnectingSocket, WebSocketDialer }))) {
    it.interleavings(name, scenario, await bySize(scenario, ["sweep", "random", "pct", "interrupt"]))
  }
})
