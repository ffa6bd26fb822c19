/** Clients that save orders and pay, again and again until the storm is over, and their results. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { Accounts } from "../balances/client.js"
import type * as Balances from "../balances/crowd.js"
import { chance } from "../chance.js"
import type { Options } from "../options.js"
import { takeTurns } from "../turns.js"
import { type ApiError, Order, Orders, reasonOf } from "./client.js"

export interface Crowd {
  /** Ends when each caller has the answer to its last request, or when `patience` milliseconds more have passed. */
  readonly run: (patience: number) => Effect.Effect<void, never, Accounts | Orders>
  readonly tally: Effect.Effect<Tally>
}

export interface Tally {
  readonly served: number
  /** Requests that their callers aborted before there was an answer. */
  readonly abandoned: number
  readonly failed: Readonly<Record<string, number>>
  readonly waiting: number
  /** Callers that got a failure of the session. */
  readonly falselyBlamed: number
  /** In milliseconds, from the order to its answer, including callers that still wait. */
  readonly slowest: number
}

export const make = (options: Options, { pay }: Pick<Balances.Crowd, "pay">): Crowd => {
  const luck = chance(options.seed, "crowd")
  const waitingSince = new Map<number, number>()
  const failed: Record<string, number> = {}
  const falselyBlamed = new Set<number>()
  let served = 0
  let abandoned = 0
  let slowest = 0

  const fail = (caller: number, error: ApiError) => {
    const why = reasonOf(error)
    failed[why] = (failed[why] ?? 0) + 1
    // The authorization server is reachable and renews every valid token: no session had to fail.
    if (error._tag === "NotSignedIn") falselyBlamed.add(caller)
  }

  const succeed = (order: Order, saved: Order) => {
    if (isSame(order, saved)) served++
    else failed["WrongOrder"] = (failed["WrongOrder"] ?? 0) + 1
  }

  const save = Effect.fnUntraced(function*(caller: number, order: Order) {
    const orders = yield* Orders
    const since = yield* Clock.currentTimeMillis
    waitingSince.set(caller, since)
    const saving = Effect.match(orders.save(order), {
      onFailure: (error) => fail(caller, error),
      onSuccess: (saved) => succeed(order, saved)
    })
    if (luck.pick({ leave: 0.02 }) === "leave") {
      // Often in the middle of a renewal, and perhaps of one that this caller started.
      const ended = yield* Effect.timeoutOption(saving, luck.between(0, 300))
      if (Option.isNone(ended)) abandoned++
    } else {
      yield* saving
    }
    waitingSince.delete(caller)
    slowest = Math.max(slowest, (yield* Clock.currentTimeMillis) - since)
  })

  const { callers } = options
  // About four hundred requests a second, for any number of callers: the load that two busy cores can carry. Every
  // other order is paid for before the caller makes the next one, so there are never more requests than callers.
  const saveUntil = (endsAt: number, caller: number) =>
    takeTurns(
      endsAt,
      { first: callers * luck.between(0, 2), next: () => callers * luck.between(1, 4) },
      (turn) =>
        Effect.zipRight(save(caller, orderOf(caller, turn)), turn % 2 === 0 ? pay(`${caller}-${turn}`) : Effect.void)
    )

  return {
    run: Effect.fnUntraced(function*(patience) {
      const endsAt = (yield* Clock.currentTimeMillis) + options.seconds * 1000
      yield* Effect.forEach(
        Array.from({ length: callers }, (_, caller) => caller),
        (caller) => saveUntil(endsAt, caller),
        { concurrency: "unbounded", discard: true }
      ).pipe(
        Effect.timeoutOption(options.seconds * 1000 + patience)
      )
    }),
    tally: Effect.map(Clock.currentTimeMillis, (now) => ({
      served,
      abandoned,
      failed,
      waiting: waitingSince.size,
      falselyBlamed: falselyBlamed.size,
      slowest: Math.max(slowest, ...[...waitingSince.values()].map((since) => now - since))
    }))
  }
}

/** Long enough to be cut off in the middle. */
const orderOf = (caller: number, turn: number): Order => {
  const id = `${caller}-${turn}`
  return new Order({ id, items: Array.from({ length: 20 }, (_, item) => `${id}/${item}`) })
}

const isSame = Schema.equivalence(Order)
