/** The service's HTTP interface: its prices and purchases, its health, and the answer to a bug. */
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as DefectBoundary from "effect-holdfast/DefectBoundary"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { Desk } from "./Desk.js"
import { Prices } from "./Prices.js"
import { Supplier } from "./Supplier.js"

const Item = HttpRouter.schemaPathParams(Schema.Struct({ item: Schema.NonEmptyString }))

const problem = (status: number, error: { readonly _tag: string; readonly message: string }) =>
  Effect.zipRight(
    Effect.logWarning(error.message, error),
    HttpServerResponse.json({ error: error._tag, message: error.message }, { status })
  )

const buy = Effect.gen(function*() {
  const { item } = yield* Item
  return yield* HttpServerResponse.json(yield* (yield* Desk).buy(item), { status: 201 })
}).pipe(Effect.catchTags({
  NoPrice: (error) => problem(503, error),
  SupplierError: (error) => problem(error.reason === "Refused" ? 409 : 503, error),
  NotEnoughCash: (error) => problem(409, error)
}))

/** Ready if there are prices and the supplier can be reached. */
const health = Effect.gen(function*() {
  const [prices, supplier] = [yield* (yield* Prices).status, yield* (yield* Supplier).status]
  const isReady = prices === "Open" && supplier !== "Failing" && supplier !== "Closed"
  return yield* HttpServerResponse.json({ prices, supplier }, { status: isReady ? 200 : 503 })
})

const routes = HttpRouter.empty.pipe(
  HttpRouter.post("/buy/:item", buy),
  HttpRouter.get("/holdings", Effect.flatMap(Effect.flatMap(Desk, (desk) => desk.holdings), HttpServerResponse.json)),
  HttpRouter.get("/health", health)
)

/** After five defects within a minute the process ends, and its supervisor starts another. */
export const server = DefectBoundary.launch(routes, {
  policy: { terminateAfter: { defects: 5, within: "1 minute" } }
})
