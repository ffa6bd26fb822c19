import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import { describe, it } from "effect-holdfast/testing/vitest"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import { bySize } from "../../support/bySize.js"
import { closing, slow } from "./closing.js"

describe("W7: a socket that is closed, whatever the interleaving", async () => {
  for (const [name, scenario] of Object.entries(closing({ ReconnectingSocket, WebSocketDialer }))) {
    const timers = slow.includes(name) ? ["timers" as const] : []
    it.interleavings(name, scenario, await bySize(scenario, ["sweep", "random", "pct", ...timers]))
  }
})
