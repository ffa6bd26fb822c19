/** The part `balances` of the storm: the accounts of the API, from which its callers pay; some of them fail midway. */
import * as Effect from "effect/Effect"
import { longestWait, type Options } from "../options.js"
import type { Part } from "../part.js"
import type { Servers } from "../session/servers.js"
import type { Accounts } from "./client.js"
import * as Crowd from "./crowd.js"
import * as Ledger from "./ledger.js"

/** Its `run` reads the balances. The callers of the part `session` pay, between their orders. */
export interface Balances extends Part<Accounts> {
  readonly pay: Crowd.Crowd["pay"]
}

export const make = (options: Options, { api }: Servers): Balances => {
  const crowd = Crowd.make(options)
  return {
    pay: crowd.pay,
    run: crowd.watch(longestWait(options)),
    counters: Effect.map(crowd.tally, ({ known }) => ({
      transfers: known.Done.length,
      died: known.Died.length,
      "failed midway": known.Failed.length,
      aborted: known.Left.length
    })),
    section: Effect.gen(function*() {
      return Ledger.section(yield* crowd.tally, yield* api.ask("accounts"))
    })
  }
}
