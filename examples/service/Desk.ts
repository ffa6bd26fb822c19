/** The desk's holdings: cash and items, which change together or not at all. */
import * as TransactionalRef from "effect-holdfast/TransactionalRef"
import * as Config from "effect/Config"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Ref from "effect/Ref"
import { type NoPrice, Prices } from "./Prices.js"
import { Supplier, type SupplierError } from "./Supplier.js"

export interface Holdings {
  readonly cash: number
  readonly items: Readonly<Record<string, number>>
}

export class NotEnoughCash extends Data.TaggedError("NotEnoughCash")<{ readonly price: number }> {
  override get message(): string {
    return `there is not enough cash for a price of ${this.price}`
  }
}

export type BuyError = NoPrice | NotEnoughCash | SupplierError | TransactionalRef.TransactionError

export class Desk extends Effect.Service<Desk>()("example/Desk", {
  effect: Effect.gen(function*() {
    const prices = yield* Prices
    const supplier = yield* Supplier
    const nothingYet: Holdings = { cash: yield* Config.number("CASH"), items: {} }
    const holdings = yield* TransactionalRef.make(nothingYet, { name: "holdings" })

    /**
     * Pays and orders in one transaction. If the supplier refuses, fails or is interrupted, the cash is still there. A
     * transaction cannot take back what the supplier has done, so the order is its last step, and comes after the check
     * of the cash.
     */
    const buy = (item: string): Effect.Effect<Holdings, BuyError> =>
      Effect.flatMap(
        prices.priceOf(item),
        (price) =>
          TransactionalRef.transaction(holdings, (draft) =>
            Effect.gen(function*() {
              const { cash } = yield* Ref.get(draft)
              if (cash < price) return yield* new NotEnoughCash({ price })
              const after = yield* Ref.updateAndGet(draft, ({ items }) => ({
                cash: cash - price,
                items: { ...items, [item]: (items[item] ?? 0) + 1 }
              }))
              yield* supplier.order(item)
              return after
            }))
      )

    return { buy, holdings: TransactionalRef.get(holdings) }
  })
}) {}
