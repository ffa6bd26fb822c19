/** Transfers, and the intended result of each. */
import * as Schema from "effect/Schema"
import { chance } from "../chance.js"

/** Enough accounts that payers seldom wait for each other, and few enough that they sometimes do. */
export const accountCount = 100

/** In each account at first: little enough that some transfers would overdraw one. */
export const initialCents: number = 1000_00

const Account = Schema.Int.pipe(Schema.between(0, accountCount - 1))

export class Transfer extends Schema.Class<Transfer>("Transfer")(
  Schema.Struct({
    id: Schema.String,
    from: Account,
    to: Account,
    cents: Schema.Int.pipe(Schema.positive())
  }).pipe(
    Schema.filter(({ from, to }) => from !== to)
  )
) {}

/** Between debit and credit the server's code dies, or it fails, or the caller has left. */
export type Mishap = "die" | "fail" | "leave"

/**
 * A tenth of all transfers. It is drawn by the id, so that the server and the caller agree about it without a word,
 * and however often the transfer is sent.
 */
export const mishapOf = (seed: number, { id }: Transfer): Mishap | undefined =>
  chance(seed, `fate of ${id}`).pick({ die: 1 / 30, fail: 1 / 30, leave: 1 / 30 })
