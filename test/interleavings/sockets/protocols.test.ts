import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import { describe, it } from "effect-holdfast/testing/vitest"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import { bySize } from "../../support/bySize.js"
import { protocols } from "./protocols.js"

describe("W9, W14: other people's protocols, whatever the interleaving", async () => {
  for (const [name, scenario] of Object.entries(protocols({ ReconnectingSocket, WebSocketDialer }))) {
    it.interleavings(name, scenario, await bySize(scenario))
  }
})
