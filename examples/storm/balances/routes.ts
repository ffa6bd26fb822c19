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
          // A transaction that names all its refs has neither error. If one occurred, a retry would be the remedy.
          TransactionConflict: () => HttpServerResponse.empty({ status: 503 }),
          TransactionDeadlock: () => HttpServerResponse.empty({ status: 503 })
        })
      )
    )
  )
