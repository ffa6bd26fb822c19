import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import { describe, it } from "effect-holdfast/testing/vitest"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import { bySize } from "../../support/bySize.js"
import { connections } from "./connections.js"

describe("W3, W4, W6, W12: connections, whatever the interleaving", async () => {
  for (const [name, scenario] of Object.entries(connections({ ReconnectingSocket, WebSocketDialer }))) {
    it.interleavings(name, scenario, await bySize(scenario))
  }
})
