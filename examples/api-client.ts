/**
 * The client of an `HttpApi`, typed by its endpoints, with a session on every request. `HttpApiClient.makeWith` takes
 * the client that carries the session; the errors of the session are typed, like those of the endpoint.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as FetchHttpClient from "@effect/platform/FetchHttpClient"
import * as HttpApi from "@effect/platform/HttpApi"
import * as HttpApiBuilder from "@effect/platform/HttpApiBuilder"
import * as HttpApiClient from "@effect/platform/HttpApiClient"
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as HttpApiError from "@effect/platform/HttpApiError"
import * as HttpApiGroup from "@effect/platform/HttpApiGroup"
import * as HttpServer from "@effect/platform/HttpServer"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as Session from "effect-holdfast/Session"
import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { createServer } from "node:http"

class OrdersApi extends HttpApi.make("OrdersApi").add(
  HttpApiGroup.make("orders").add(
    HttpApiEndpoint.get("order", "/orders/:id")
      .setPath(Schema.Struct({ id: Schema.NumberFromString }))
      .addSuccess(Schema.Struct({ id: Schema.Number, item: Schema.String }))
      .addError(HttpApiError.Unauthorized)
      .addError(HttpApiError.NotFound)
  )
) {}

/** The API only accepts "token 1": the session's first token is refused. */
const orders = HttpApiBuilder.group(
  OrdersApi,
  "orders",
  (handlers) =>
    handlers.handle("order", ({ path: { id } }) =>
      Effect.gen(function*() {
        const { headers } = yield* HttpServerRequest.HttpServerRequest
        if (headers["authorization"] !== "Bearer token 1") return yield* new HttpApiError.Unauthorized()
        if (id !== 7) return yield* new HttpApiError.NotFound()
        return { id, item: "rope" }
      }))
)

const server = HttpApiBuilder.serve().pipe(
  Layer.provide(HttpApiBuilder.api(OrdersApi).pipe(Layer.provide(orders))),
  Layer.provideMerge(NodeHttpServer.layer(() => createServer(), { port: 0, host: "127.0.0.1" }))
)

const program = Effect.gen(function*() {
  const baseUrl = HttpServer.formatAddress((yield* HttpServer.HttpServer).address)
  let tokens = 0
  const session = yield* Session.make({ acquire: Effect.sync(() => `token ${tokens++}`) })
  const httpClient = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer, origins: [baseUrl] })
  const client = yield* HttpApiClient.makeWith(OrdersApi, { baseUrl, httpClient })

  const order = yield* client.orders.order({ path: { id: 7 } })
  console.log(`order ${order.id}: ${order.item}, with token ${tokens - 1}`)
  const missing = yield* client.orders.order({ path: { id: 8 } }).pipe(
    Effect.as("found"),
    Effect.catchTags({
      NotFound: () => Effect.succeed("not found"),
      SessionRejected: ({ refreshes }) => Effect.succeed(`refused after ${refreshes} refreshes`)
    })
  )
  console.log(`order 8: ${missing}`)
}).pipe(Effect.scoped, Effect.provide(server), Effect.provide(FetchHttpClient.layer))

await Effect.runPromise(program)
