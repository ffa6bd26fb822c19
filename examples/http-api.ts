/**
 * An `HttpApi` server behind a boundary. The lookup of one order has a bug: a client that asks for it gets a problem
 * with an incident id, the operator gets a log with the same id and the cause, and all other clients are still served.
 *
 * Run it with `node --import tsx examples/http-api.ts`, then ask for `/orders/1`, `/orders/2` and `/orders/13`.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as HttpApi from "@effect/platform/HttpApi"
import * as HttpApiBuilder from "@effect/platform/HttpApiBuilder"
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as HttpApiGroup from "@effect/platform/HttpApiGroup"
import * as HttpApiSchema from "@effect/platform/HttpApiSchema"
import * as DefectBoundary from "effect-holdfast/DefectBoundary"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { createServer } from "node:http"
import { fileURLToPath } from "node:url"

const Order = Schema.Struct({ id: Schema.Number, item: Schema.String })

class NoSuchOrder extends Schema.TaggedError<NoSuchOrder>()(
  "NoSuchOrder",
  { id: Schema.Number },
  HttpApiSchema.annotations({ status: 404 })
) {}

export class OrdersApi extends HttpApi.make("OrdersApi").add(
  HttpApiGroup.make("orders").add(
    HttpApiEndpoint.get("order", "/orders/:id")
      .setPath(Schema.Struct({ id: Schema.NumberFromString }))
      .addSuccess(Order)
      .addError(NoSuchOrder)
  )
) {}

const orders = HttpApiBuilder.group(OrdersApi, "orders", (handlers) =>
  handlers.handle("order", ({ path: { id } }) => {
    if (id === 13) throw new Error("the shelf of order 13 is null")
    return id === 1 ? Effect.succeed({ id, item: "an anvil" }) : new NoSuchOrder({ id })
  }))

export const ordersApi = HttpApiBuilder.api(OrdersApi).pipe(Layer.provide(orders))

/** After three defects within a minute the process ends, so that its supervisor starts another. */
const server = DefectBoundary.launchHttpApi({ policy: { terminateAfter: { defects: 3, within: "1 minute" } } }).pipe(
  Layer.provide(ordersApi),
  Layer.provide(NodeHttpServer.layer(() => createServer(), { port: 3000, host: "127.0.0.1" }))
)

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  NodeRuntime.runMain(Layer.launch(server))
}
