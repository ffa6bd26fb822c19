/**
 * Orders over a WebSocket whose server drops the connection again and again. Each order is kept until the server has
 * confirmed it; the server gets every order, in order, and recognises a repeat by its number.
 */
import * as Backoff from "effect-holdfast/Backoff"
import * as NodeWebSocketDialer from "effect-holdfast/node/NodeWebSocketDialer"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { once } from "node:events"
import type { AddressInfo } from "node:net"
import { WebSocketServer } from "ws"

const Order = Schema.Struct({ number: Schema.Number, item: Schema.String })
const Reply = Schema.Union(
  Schema.Struct({ confirmed: Schema.Number }),
  Schema.Struct({ news: Schema.String })
)

/** Reads three orders of each connection, confirms two of them, and drops the connection. */
const server = Effect.gen(function*() {
  const seen = { orders: [] as Array<number>, connections: 0 }
  const webSockets = new WebSocketServer({ port: 0, host: "127.0.0.1" })
  webSockets.on("connection", (socket) => {
    seen.connections++
    socket.send(JSON.stringify({ news: `connection ${seen.connections}` }))
    let heard = 0
    socket.on("message", (data: Buffer) => {
      const { number } = JSON.parse(data.toString()) as typeof Order.Type
      if (!seen.orders.includes(number)) seen.orders.push(number)
      if (++heard < 3) socket.send(JSON.stringify({ confirmed: number }))
      else socket.terminate()
    })
  })
  yield* Effect.addFinalizer(() => Effect.sync(() => webSockets.close()))
  yield* Effect.promise(() => once(webSockets, "listening"))
  return { url: `ws://127.0.0.1:${(webSockets.address() as AddressInfo).port}`, seen }
})

const program = Effect.gen(function*() {
  const { seen, url } = yield* server
  const socket = yield* ReconnectingSocket.make({
    dial: { url },
    codec: ReconnectingSocket.json({ in: Reply, out: Order }),
    backoff: Backoff.exponential({ initial: "10 millis", max: "50 millis" }),
    acknowledge: {
      id: (order) => order.number,
      acknowledged: (reply) => "confirmed" in reply ? Option.some(reply.confirmed) : Option.none()
    }
  })
  // A fiber takes the messages for as long as the socket lives.
  yield* Effect.forkScoped(Stream.runDrain(socket.messages))
  const numbers = Array.from({ length: 12 }, (_, at) => at + 1)
  yield* Effect.forEach(numbers, (number) => socket.deliver({ number, item: "rope" }), { concurrency: "unbounded" })
  console.log(`${numbers.length} orders confirmed, over ${seen.connections > 1 ? "several connections" : "one"}`)
  console.log(`the server saw ${seen.orders.join(", ")}`)
}).pipe(
  Effect.scoped,
  Effect.provide(NodeWebSocketDialer.layer()),
  // The socket logs each loss and each opening.
  Effect.provide(Logger.remove(Logger.defaultLogger))
)

await Effect.runPromise(program)
