/**
 * Sessions: what happens to many callers whose token is refused, and what a session costs while the token is valid.
 *
 * Every contender uses a server in its own process that answers without a network, so that only the contender is
 * measured. Rivals that are not `fetch` clients get their own kind of adapter, which is cheaper.
 */
import type { Budget } from "./budget.js"
import { interleaved, paired, summarize } from "./interleave.js"
import { axiosAuthRefresh, axiosAuthRefreshNoDedupe } from "./session/axios.js"
import { azure } from "./session/azure.js"
import type { Contender, Loop } from "./session/contender.js"
import { google } from "./session/google.js"
import { holdfast, holdfastOverFetch } from "./session/holdfast.js"
import { kyNaive, kyShared } from "./session/ky.js"
import { plainPromises, plainPromisesOverEffect } from "./session/references.js"
import { makeServer } from "./session/server.js"
import { count, printTable, printTarget, spread } from "./table.js"

const contenders = [
  holdfast,
  holdfastOverFetch,
  plainPromises,
  plainPromisesOverEffect,
  axiosAuthRefresh,
  axiosAuthRefreshNoDedupe,
  azure,
  google,
  kyShared,
  kyNaive
]

export const run = async (budget: Budget): Promise<void> => {
  const bursts = await measureBursts(budget)
  const storms = await measureStragglers(budget)
  const costs = await measureHappyPath(budget)

  const wall = (contender: Contender) => bursts.get(contender)!.map(({ millis }) => millis)
  const ratioTo = (reference: Contender, contender: Contender) =>
    paired(wall(contender), wall(reference), (own, other) => own / other)

  printTable(
    `${count(budget.callers)} callers with one stale token, a refresh takes 20 ms`,
    ["refreshes / served", "burst", `refusals spread over ${budget.spread / 1_000} s`],
    contenders.map((contender) => [
      contender.name,
      counted(bursts.get(contender)!.at(-1)!),
      counted(storms.get(contender)!)
    ])
  )

  printTable(
    `The same burst, milliseconds from the first request to the last answer (median and quartiles of ${budget.bursts})`,
    ["wall time", "ms", "to plain promises, Effect client", "to plain promises, bare fetch"],
    contenders.map((contender) => [
      contender.name,
      spread(summarize(wall(contender)), 0),
      spread(ratioTo(plainPromisesOverEffect, contender), 2),
      spread(ratioTo(plainPromises, contender), 2)
    ])
  )

  printTable(
    `H7: a token that is good: CPU microseconds a request (median and quartiles of ${budget.rounds} rounds)`,
    ["happy path", "CPU µs", "over the bare client"],
    costs.flatMap((clients) =>
      clients.map(({ micros, name }) => [
        name,
        spread(summarize(micros), 2),
        micros === clients[0]!.micros
          ? ""
          : spread(paired(micros, clients[0]!.micros, (own, bare) => own - bare), 2, true)
      ])
    )
  )

  const burst = bursts.get(holdfast)!
  const storm = storms.get(holdfast)!
  const [, bearer, session] = costs[0]!
  const overBearer = paired(session!.micros, bearer!.micros, (own, other) => own - other)
  const toPeer = ratioTo(plainPromisesOverEffect, holdfast)

  console.log("\nTargets for Holdfast\n")
  printTarget(
    "one refresh in the burst, every caller served",
    burst.every(({ refreshes, served }) => refreshes === 1 && served === budget.callers),
    counted(burst.at(-1)!)
  )
  printTarget(
    "one refresh for the stragglers, every caller served",
    storm.refreshes === 1 && storm.served === budget.callers,
    counted(storm)
  )
  printTarget(
    "the burst no slower than plain promises over the same client",
    toPeer.median <= 1,
    `ratio ${spread(toPeer, 2)}`
  )
  const toPromises = ratioTo(plainPromises, holdfastOverFetch)
  printTarget(
    "the burst no slower than plain promises, both over bare fetch",
    toPromises.median <= 1,
    `ratio ${spread(toPromises, 2)}`
  )
  printTarget(
    "at most 1 µs over a static bearer header",
    overBearer.median <= 1,
    `${spread(overBearer, 2, true)} µs`
  )
}

// -----------------------------------------------------------------------------
// storms
// -----------------------------------------------------------------------------

interface Storm {
  readonly refreshes: number
  readonly served: number
  readonly millis: number
}

const counted = ({ refreshes, served }: Storm): string => `${count(refreshes)} / ${count(served)}`

const measureBursts = async ({ bursts, callers }: Budget): Promise<ReadonlyMap<Contender, ReadonlyArray<Storm>>> => {
  const burst = (contender: Contender) => () => storm(contender, callers, (release) => release(0))
  // The first of each is thrown away: it runs code that is not yet compiled.
  const results = await interleaved(bursts + 1, contenders.map(burst))
  return new Map(contenders.map((contender, index) => [contender, results[index]!.slice(1)]))
}

const measureStragglers = async ({ callers, spread }: Budget): Promise<ReadonlyMap<Contender, Storm>> => {
  const results = new Map<Contender, Storm>()
  // Some run at the same time, to save time, but not so many that they would delay each other's timers.
  const groups = [contenders.filter((_, index) => index % 2 === 0), contenders.filter((_, index) => index % 2 === 1)]
  for (const group of groups) {
    globalThis.gc?.()
    const barrier = makeBarrier(group.length)
    await Promise.all(group.map(async (contender) => {
      results.set(contender, await storm(contender, callers, (release) => barrier(() => release(spread))))
    }))
  }
  return results
}

/** All callers send with the stale token; when the last of them has, `whenAllSent` may release the refusals. */
const storm = async (
  contender: Contender,
  callers: number,
  whenAllSent: (release: (millis: number) => void) => void
): Promise<Storm> => {
  const server = makeServer()
  const client = await contender.connect(server)
  void server.expire(callers).then(() => whenAllSent(server.release))
  const start = performance.now()
  const served = await client.storm(callers)
  const millis = performance.now() - start
  await client.close?.()
  return { refreshes: server.counts.refreshes, served, millis }
}

/** Collects callbacks, and runs them when it has the given number. */
const makeBarrier = (size: number) => {
  const waiting: Array<() => void> = []
  return (f: () => void) => {
    if (waiting.push(f) === size) { for (const f of waiting) f() }
  }
}

// -----------------------------------------------------------------------------
// the happy path
// -----------------------------------------------------------------------------

interface Cost {
  readonly name: string
  /** CPU microseconds a request, one number a round. */
  readonly micros: ReadonlyArray<number>
}

const measureHappyPath = async ({ rounds, slice }: Budget): Promise<ReadonlyArray<ReadonlyArray<Cost>>> => {
  const groups: Array<ReadonlyArray<Cost>> = []
  for (const { happyPath } of contenders) {
    if (happyPath === undefined) continue
    const requests = await warmUp(happyPath[0]!.send, slice)
    for (const { send } of happyPath) await warmUp(send, slice)
    const micros = await interleaved(rounds, happyPath.map(({ send }) => () => cpuMicros(send, requests)))
    groups.push(happyPath.map(({ name }, index) => ({ name, micros: micros[index]! })))
  }
  return groups
}

/** Runs until the code is compiled, and gives how many requests fill the time of a slice. */
const warmUp = async (send: Loop, sliceMillis: number): Promise<number> => {
  const batch = 1_000
  let micros = Infinity
  for (let spent = 0; spent < 300_000;) {
    const took = await cpuMicros(send, batch)
    spent += took * batch
    micros = Math.min(micros, took)
  }
  return Math.ceil((sliceMillis * 1_000) / micros)
}

const cpuMicros = async (send: Loop, requests: number): Promise<number> => {
  const before = process.cpuUsage()
  await send(requests)
  const { system, user } = process.cpuUsage(before)
  return (user + system) / requests
}
