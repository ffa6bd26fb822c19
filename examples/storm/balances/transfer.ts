/** Transfers, and the intended outcome of each. */
import * as Schema from "effect/Schema"
import { chance } from "../chance.js"

/** So many accounts that transfers seldom wait for each other, and so few that they sometimes do. */
export const accountCount = 100

/** The initial balance of each account, so low that some transfers would overdraw it. */
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

/** Between debit and credit the server's code dies, or fails, or the caller aborts. */
export type Mishap = "die" | "fail" | "leave"

/**
 * A tenth of all transfers. The outcome is drawn by the id, so that the server and the caller agree about it without
 * communicating, also if the transfer is sent again.
 */
export const mishapOf = (seed: number, { id }: Transfer): Mishap | undefined =>
  chance(seed, `fate of ${id}`).pick({ die: 1 / 30, fail: 1 / 30, leave: 1 / 30 })
