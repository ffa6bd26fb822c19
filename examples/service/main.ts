/**
 * A service that buys items for its clients at the latest price: a session with the supplier, a feed of prices, and
 * holdings that never show half a purchase, each a service of its own, put together by layers.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as FetchHttpClient from "@effect/platform/FetchHttpClient"
import * as NodeWebSocketDialer from "effect-holdfast/node/NodeWebSocketDialer"
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { createServer } from "node:http"
import { fileURLToPath } from "node:url"
import { Desk } from "./Desk.js"
import { server } from "./Http.js"
import { Prices } from "./Prices.js"
import { Supplier } from "./Supplier.js"

/** The services that the routes need; a test provides its own dialer and HTTP client. */
export const services = Desk.Default.pipe(Layer.provideMerge(Layer.merge(Prices.Default, Supplier.Default)))

const listening = Layer.unwrapEffect(
  Effect.map(
    Config.withDefault(Config.port("PORT"), 3000),
    (port) => NodeHttpServer.layer(() => createServer(), { port })
  )
)

const main = server.pipe(
  Layer.provide(services),
  Layer.provide(listening),
  Layer.provide(Layer.merge(NodeWebSocketDialer.layer(), FetchHttpClient.layer))
)

if (process.argv[1] === fileURLToPath(import.meta.url)) NodeRuntime.runMain(Layer.launch(main))
