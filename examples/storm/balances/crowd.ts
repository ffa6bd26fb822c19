/** The callers of the accounts: they pay between orders, and some read the balances all the time. */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import { chance } from "../chance.js"
import type { Options } from "../options.js"
import { type ApiError, reasonOf } from "../session/client.js"
import { takeTurns } from "../turns.js"
import { Accounts, type Answer } from "./client.js"
import { accountCount, initialCents, mishapOf, Transfer } from "./transfer.js"

export interface Crowd {
  /** Makes one transfer. Ends when there is an answer, or when the caller has aborted. */
  readonly pay: (id: string) => Effect.Effect<void, never, Accounts>
  /** Reads the balances until the storm is over, or until `patience` milliseconds later. */
  readonly watch: (patience: number) => Effect.Effect<void, never, Accounts>
  readonly tally: Effect.Effect<Tally>
}

/** The ids of transfers, by the outcome that their callers know. */
export type Known = Readonly<Record<Answer["_tag"] | "Left", ReadonlyArray<string>>>

export interface Tally {
  readonly known: Known
  readonly waiting: number
  /** Requests without an answer, by the reason, including those of readers. */
  readonly unanswered: Readonly<Record<string, number>>
  readonly incidents: ReadonlyArray<string>
  /** Answers to a defect that have no incident, or other details. */
  readonly improper: number
  readonly sums: {
    readonly read: number
    /** Sums that differ from the first one. */
    readonly wrong: ReadonlyArray<number>
    readonly withDebts: number
  }
}

const readers = 10

export const make = (options: Options): Crowd => {
  const { seconds, seed } = options
  const luck = chance(seed, "accounts")
  const known = {
    Done: [] as Array<string>,
    Overdrawn: [] as Array<string>,
    Failed: [] as Array<string>,
    Died: [] as Array<string>,
    Left: [] as Array<string>
  }
  const unanswered: Record<string, number> = {}
  const incidents: Array<string> = []
  const sums = { read: 0, wrong: [] as Array<number>, withDebts: 0 }
  let waiting = 0
  let improper = 0

  const giveUp = (error: ApiError) => {
    const why = reasonOf(error)
    unanswered[why] = (unanswered[why] ?? 0) + 1
  }

  const pay = Effect.fnUntraced(function*(id: string) {
    const transfer = transferOf(seed, id)
    const accounts = yield* Accounts
    const sent = yield* Deferred.make<void>()
    const paying = Effect.match(accounts.pay(transfer, Deferred.succeed(sent, undefined)), {
      onFailure: giveUp,
      onSuccess: (answer) => {
        known[answer._tag].push(id)
        if (answer._tag !== "Died") return
        if (answer.incident === undefined) improper++
        else incidents.push(answer.incident)
      }
    })
    waiting++
    if (mishapOf(seed, transfer) === "leave") {
      // Mostly after the request has arrived, when one account is debited and the other not yet credited.
      const leaving = Effect.zipRight(Deferred.await(sent), Effect.sleep(luck.between(800, 1800)))
      yield* Effect.raceFirst(paying, Effect.map(leaving, () => known.Left.push(id)))
    } else {
      yield* paying
    }
    waiting--
  })

  const read = Effect.flatMap(Accounts, ({ balances }) =>
    Effect.match(balances, {
      onFailure: giveUp,
      onSuccess: (balances) => {
        const sum = balances.reduce((sum, cents) => sum + cents, 0)
        sums.read++
        if (sum !== accountCount * initialCents) sums.wrong.push(sum)
        if (balances.some((cents) => cents < 0)) sums.withDebts++
      }
    }))

  return {
    pay,
    watch: Effect.fnUntraced(function*(patience) {
      const endsAt = (yield* Clock.currentTimeMillis) + seconds * 1000
      yield* Effect.replicateEffect(
        takeTurns(endsAt, { first: luck.between(0, 100), next: () => luck.between(50, 150) }, () => read),
        readers,
        { concurrency: "unbounded", discard: true }
      ).pipe(
        Effect.timeoutOption(seconds * 1000 + patience)
      )
    }),
    tally: Effect.sync(() => ({ known, waiting, unanswered, incidents, improper, sums }))
  }
}

/** Up to a fifth of an account's initial balance. */
const transferOf = (seed: number, id: string): Transfer => {
  const luck = chance(seed, `transfer ${id}`)
  const from = Math.floor(luck.between(0, accountCount))
  const further = Math.floor(luck.between(1, accountCount))
  return new Transfer({ id, from, to: (from + further) % accountCount, cents: Math.floor(luck.between(1, 200_00)) })
}
