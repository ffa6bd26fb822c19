/** The accounts over HTTP. */
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as Effect from "effect/Effect"
import type { Bank } from "./bank.js"
import type { BookkeepingFailed } from "./bookkeeping.js"
import { Transfer } from "./transfer.js"

export const make = (bank: Bank, bookkeep: (transfer: Transfer) => Effect.Effect<void, BookkeepingFailed>) =>
  HttpRouter.empty.pipe(
    HttpRouter.get("/balances", Effect.flatMap(bank.balances, (balances) => HttpServerResponse.json(balances))),
    HttpRouter.put(
      "/transfers/:id",
      HttpServerRequest.schemaBodyJson(Transfer).pipe(
        Effect.flatMap((transfer) => bank.transfer(transfer, bookkeep)),
        Effect.as(HttpServerResponse.empty()),
        Effect.catchTags({
          BookkeepingFailed: () => HttpServerResponse.empty({ status: 422 }),
          InvariantViolated: () => HttpServerResponse.empty({ status: 409 }),
          ParseError: () => HttpServerResponse.empty({ status: 400 }),
          // Neither comes of one transaction that names all its refs. If one did, to ask again would be the cure.
          TransactionConflict: () => HttpServerResponse.empty({ status: 503 }),
          TransactionDeadlock: () => HttpServerResponse.empty({ status: 503 })
        })
      )
    )
  )
