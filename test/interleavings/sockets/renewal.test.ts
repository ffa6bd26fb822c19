import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import { describe, it } from "effect-holdfast/testing/vitest"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import { bySize } from "../../support/bySize.js"
import { renewal } from "./renewal.js"

describe("W15: a socket that moves over, whatever the interleaving", async () => {
  for (const [name, scenario] of Object.entries(renewal({ ReconnectingSocket, WebSocketDialer }))) {
    it.interleavings(name, scenario, await bySize(scenario))
  }
})
