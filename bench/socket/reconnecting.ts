/** Clients with the interface of a browser's `WebSocket`. */
import PartySocket from "partysocket/ws"
import ReconnectingWebSocketModule from "reconnecting-websocket"
import { WebSocket } from "ws"
import { type Contender, everything, overCallbacks, redialMillis } from "./contender.js"

// The package's export does not have the shape that its types declare.
const ReconnectingWebSocket = ReconnectingWebSocketModule as unknown as typeof ReconnectingWebSocketModule.default

const options = {
  WebSocket,
  minReconnectionDelay: redialMillis,
  maxReconnectionDelay: redialMillis,
  reconnectionDelayGrowFactor: 1
}

interface Reconnecting {
  readonly send: (message: string) => unknown
  readonly close: () => void
  readonly addEventListener: (type: "message" | "open" | "close", listener: (event: never) => void) => void
}

const opened = (make: (url: string) => Reconnecting) =>
  overCallbacks((url, onMessage) =>
    new Promise((opened) => {
      const socket = make(url)
      socket.addEventListener("message", ({ data }: MessageEvent) => onMessage(data))
      socket.addEventListener("open", () =>
        opened({
          send: (message) => void socket.send(message),
          close: () =>
            new Promise((closed) => {
              socket.addEventListener("close", () => closed())
              socket.close()
            })
        }))
    })
  )

export const partysocket: Contender = {
  name: "partysocket",
  parts: everything,
  open: opened((url) => new PartySocket(url, [], options) as unknown as Reconnecting)
}

export const reconnectingWebSocket: Contender = {
  name: "reconnecting-websocket",
  parts: everything,
  open: opened((url) => new ReconnectingWebSocket(url, [], options) as unknown as Reconnecting)
}
