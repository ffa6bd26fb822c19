/**
 * RPC over a socket that reconnects. The server stops and another one starts on the same port; the client stays the
 * same, and its next call is answered.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as Socket from "@effect/platform/Socket"
import * as Rpc from "@effect/rpc/Rpc"
import * as RpcClient from "@effect/rpc/RpcClient"
import * as RpcGroup from "@effect/rpc/RpcGroup"
import * as RpcSerialization from "@effect/rpc/RpcSerialization"
import * as RpcServer from "@effect/rpc/RpcServer"
import * as Backoff from "effect-holdfast/Backoff"
import * as DefectBoundary from "effect-holdfast/DefectBoundary"
import * as NodeWebSocketDialer from "effect-holdfast/node/NodeWebSocketDialer"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import { createServer, type Server } from "node:http"
import type { AddressInfo } from "node:net"

class Prices extends RpcGroup.make(
  Rpc.make("Price", { payload: { item: Schema.String }, success: Schema.Number })
) {}

/** A new server each time, with its own prices. When it stops, it says so to its WebSocket clients (1001). */
const serving = (price: number, port: number) => {
  const http: Server = createServer()
  const layer = HttpRouter.Default.unwrap(DefectBoundary.layer).pipe(
    Layer.provide(RpcServer.layer(Prices)),
    Layer.provide(Prices.toLayer({ Price: () => Effect.succeed(price) })),
    Layer.provide(RpcServer.layerProtocolWebsocket({ path: "/rpc" })),
    Layer.provide(RpcSerialization.layerJson),
    Layer.provide(NodeHttpServer.layer(() => http, { port, host: "127.0.0.1" }))
  )
  return Effect.gen(function*() {
    const scope = yield* Scope.make()
    yield* Layer.buildWithScope(layer, scope)
    return { port: (http.address() as AddressInfo).port, stop: Scope.close(scope, Exit.void) }
  })
}

const clientOf = (url: string) =>
  Effect.gen(function*() {
    const socket = yield* ReconnectingSocket.make({
      dial: { url },
      backoff: Backoff.exponential({ initial: "20 millis" })
    })
    // Retrying often costs nothing, since the socket itself waits before it dials again.
    const often = Schedule.spaced("50 millis")
    const protocol = RpcClient.layerProtocolSocket({ retryTransientErrors: true, retrySchedule: often }).pipe(
      Layer.provide(Layer.succeed(Socket.Socket, ReconnectingSocket.toSocket(socket))),
      Layer.provide(RpcSerialization.layerJson)
    )
    const client = yield* Effect.provide(RpcClient.make(Prices), yield* Layer.build(protocol))
    // After a loss, RpcClient fails calls until it has found the next connection. A price may be asked for again.
    return Effect.retry(client.Price({ item: "rope" }), often)
  })

const program = Effect.gen(function*() {
  const first = yield* serving(12, 0)
  const price = yield* clientOf(`ws://127.0.0.1:${first.port}/rpc`)
  console.log(`the first server says ${yield* price}`)
  yield* first.stop
  const second = yield* serving(15, first.port)
  console.log(`the second server says ${yield* price}`)
  yield* second.stop
}).pipe(
  Effect.scoped,
  Effect.provide(NodeWebSocketDialer.layer()),
  Effect.provide(Logger.remove(Logger.defaultLogger))
)

await Effect.runPromise(program)
