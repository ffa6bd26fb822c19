/** An RPC server for tests that kill it: its own process, bundled and started by `webSocketServer.ts`. */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as RpcSerialization from "@effect/rpc/RpcSerialization"
import * as RpcServer from "@effect/rpc/RpcServer"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import { createServer } from "node:http"
import type { Settings } from "./webSocketServerChild.js"
import { Refused, Rpcs } from "./webSocketServerRpcs.js"

const { port } = JSON.parse(process.argv[2]!) as Settings

let hanging = 0
let made = 0

const handlers = Rpcs.toLayer({
  Double: ({ number }) => number < 0 ? new Refused({ number }) : Effect.succeed(number * 2),
  Hang: () =>
    Effect.acquireUseRelease(
      Effect.sync(() => hanging++),
      () => Effect.never,
      () => Effect.sync(() => hanging--)
    ),
  Hanging: () => Effect.sync(() => hanging),
  Numbers: ({ upTo }) =>
    Stream.unfoldEffect<number, number, never, never>(0, (n) =>
      Effect.sync(() => {
        made = n
        return n < upTo ? Option.some([n, n + 1] as const) : Option.none()
      })),
  Made: () => Effect.sync(() => made)
})

// The server listens already when this layer is built.
const announced = Layer.effectDiscard(Effect.sync(() => process.send!("listening")))

const server = announced.pipe(
  Layer.provideMerge(HttpRouter.Default.serve()),
  Layer.provideMerge(RpcServer.layer(Rpcs)),
  Layer.provide(handlers),
  Layer.provide(RpcServer.layerProtocolWebsocket({ path: "/rpc" })),
  Layer.provide(RpcSerialization.layerJson),
  Layer.provide(NodeHttpServer.layer(() => createServer(), { port, host: "127.0.0.1" }))
)

process.on("disconnect", () => process.exit())
NodeRuntime.runMain(Layer.launch(server))
