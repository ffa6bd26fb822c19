/** The step between debit and credit. It takes some time, and it is the step that can fail. */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import { chance } from "../chance.js"
import { mishapOf, type Transfer } from "./transfer.js"

export class BookkeepingFailed extends Data.TaggedError("BookkeepingFailed") {}

/** No caller waits this long: a caller that is to abort has aborted before. */
const tooLong = "5 seconds"

export const make = (seed: number) => {
  const luck = chance(seed, "bookkeeping")
  return (transfer: Transfer): Effect.Effect<void, BookkeepingFailed> =>
    Effect.flatMap(Effect.sleep(luck.between(5, 30)), () => {
      switch (mishapOf(seed, transfer)) {
        case "die":
          // A text that no client may get.
          throw new TypeError(`the page of account ${transfer.from} is torn`)
        case "fail":
          return new BookkeepingFailed()
        case "leave":
          return Effect.zipRight(Effect.sleep(tooLong), new BookkeepingFailed())
        default:
          return Effect.void
      }
    })
}
