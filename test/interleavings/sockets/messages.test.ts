import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import { describe, it } from "effect-holdfast/testing/vitest"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import { bySize } from "../../support/bySize.js"
import { messages } from "./messages.js"

describe("W1, W9: messages, whatever the interleaving", async () => {
  for (const [name, scenario] of Object.entries(messages({ ReconnectingSocket, WebSocketDialer }))) {
    it.interleavings(name, scenario, await bySize(scenario))
  }
})
