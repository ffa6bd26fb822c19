/**
 * An `HttpApi` server with a bug in the middle of a change. The change is rolled back, the client only gets an
 * incident's number, and the next request finds the state unchanged.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as FetchHttpClient from "@effect/platform/FetchHttpClient"
import * as HttpApi from "@effect/platform/HttpApi"
import * as HttpApiBuilder from "@effect/platform/HttpApiBuilder"
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as HttpApiGroup from "@effect/platform/HttpApiGroup"
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpServer from "@effect/platform/HttpServer"
import * as DefectBoundary from "effect-holdfast/DefectBoundary"
import * as TransactionalRef from "effect-holdfast/TransactionalRef"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Ref from "effect/Ref"
import * as Schema from "effect/Schema"
import { createServer } from "node:http"

const Stock = Schema.Struct({ shelf: Schema.Number, basket: Schema.Number })

class ShopApi extends HttpApi.make("ShopApi").add(
  HttpApiGroup.make("shop")
    .add(HttpApiEndpoint.get("stock", "/stock").addSuccess(Stock))
    .add(
      HttpApiEndpoint.post("take", "/take/:count")
        .setPath(Schema.Struct({ count: Schema.NumberFromString }))
        .addSuccess(Stock)
    )
) {}

/** Both numbers change together. An invariant that is broken would be a typed error; a bug is a defect. */
const shop = HttpApiBuilder.group(ShopApi, "shop", (handlers) =>
  Effect.gen(function*() {
    const stock = yield* TransactionalRef.make({ shelf: 10, basket: 0 })
    const take = (count: number) =>
      TransactionalRef.transaction(stock, (draft) =>
        Effect.gen(function*() {
          yield* Ref.update(draft, (now) => ({ ...now, shelf: now.shelf - count }))
          if (count === 3) throw new Error("nobody has thought of three")
          return yield* Ref.updateAndGet(draft, (now) => ({ ...now, basket: now.basket + count }))
        }))
    return handlers
      .handle("stock", () => TransactionalRef.get(stock))
      // There is no invariant and no nested transaction, so it cannot fail.
      .handle("take", ({ path }) => Effect.orDie(take(path.count)))
  }))

const server = DefectBoundary.layerHttpApi().pipe(
  Layer.provide(HttpApiBuilder.api(ShopApi).pipe(Layer.provide(shop))),
  Layer.provideMerge(NodeHttpServer.layer(() => createServer(), { port: 0, host: "127.0.0.1" }))
)

const program = Effect.gen(function*() {
  const url = HttpServer.formatAddress((yield* HttpServer.HttpServer).address)
  const client = yield* HttpClient.HttpClient
  const ask = (method: "get" | "post", path: string) =>
    Effect.gen(function*() {
      const response = yield* client[method](`${url}${path}`)
      const body = (yield* response.json) as { readonly title?: string }
      console.log(`${method} ${path}: ${response.status} ${body.title ?? JSON.stringify(body)}`)
    })
  yield* ask("post", "/take/2")
  yield* ask("post", "/take/3")
  yield* ask("get", "/stock")
}).pipe(
  Effect.provide(Layer.mergeAll(server, FetchHttpClient.layer)),
  // The log has the defect, under the client's incident.
  Effect.provide(Logger.remove(Logger.defaultLogger))
)

await Effect.runPromise(program)
