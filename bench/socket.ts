/**
 * Sockets: what a message costs in normal operation, and what happens to messages while the server is killed.
 *
 * All contenders hold a connection to the same server, a process of its own on this machine, and keep the same number
 * of the same messages in flight. Messages are text. If a contender's echoes are missing or changed, the run stops.
 */
import { setTimeout as sleep } from "node:timers/promises"
import type { Budget } from "./budget.js"
import { paired, summarize, type Summary } from "./interleave.js"
import { type Contender, redialMillis } from "./socket/contender.js"
import { takingPartIn } from "./socket/contenders.js"
import { type Load, measureRates, measureRoundTrips, type Rate, type RoundTrip } from "./socket/echo.js"
import { measureHeap } from "./socket/heap.js"
import { type Losses, measureLosses, measurePour } from "./socket/numbered.js"
import { measureRecovery } from "./socket/recovery.js"
import { measureRefusals } from "./socket/refused.js"
import { count, printTable, printTarget, spread } from "./table.js"

/** The names of the contender that all others are compared with, and of the one whose targets are printed. */
const peer = "bare ws"
const ours = "Holdfast"
const oursAcknowledged = "Holdfast, acknowledged"

/** Milliseconds each way. */
const away = 50

export const run = async (budget: Budget): Promise<void> => {
  const small = await echoes({ path: "echo", bytes: 64, total: budget.callers * 2 }, budget)
  const large = await echoes({ path: "echo", bytes: 4_096, total: budget.callers }, budget)
  // A server that is slow with each message would hide the differences of the clients.
  if (budget.name === "full") await echoes({ path: "cork", bytes: 64, total: budget.callers * 2 }, budget)
  const trips = await roundTrips(budget)
  const heap = await idleHeap(budget)
  const refusals = await refusedDials(budget)
  const recovery = await recoveries(budget)
  const losses = await numberedLosses(budget)
  const pours = await pouring(budget)

  printTargets({ small, large, trips, heap, refusals, recovery, losses, pours })
}

/** The results of each contender, by its name. */
type Found<A> = ReadonlyMap<string, A>

const named = <A>(contenders: ReadonlyArray<Contender>, results: ReadonlyArray<A>): Found<A> =>
  new Map(contenders.map(({ name }, index) => [name, results[index]!]))

// -----------------------------------------------------------------------------
// while all is well
// -----------------------------------------------------------------------------

const ratio = <A>(found: Found<ReadonlyArray<A>>, name: string, f: (result: A) => number): Summary =>
  paired(found.get(name)!.map(f), found.get(peer)!.map(f), (own, other) => own / other)

const perSecond = (rate: Rate) => rate.perSecond
const cpuMicros = (rate: Rate) => rate.cpuMicros

const echoes = async (load: Load, budget: Budget): Promise<Found<ReadonlyArray<Rate>>> => {
  const rounds = Math.floor(budget.rounds / 3)
  const contenders = takingPartIn("echo")
  const found = named(contenders, await measureRates(contenders, load, rounds))
  printTable(
    `W10: ${count(load.total)} echoes of ${count(load.bytes)} characters, 1,000 in flight${
      load.path === "cork" ? ", of a server that corks" : ""
    } (median and quartiles of ${rounds} rounds)`,
    ["echo", "thousand a second", `to ${peer}`, "CPU µs a message"],
    [...found].map(([name, rates]) => [
      name,
      spread(summarize(rates.map((rate) => rate.perSecond / 1_000)), 1),
      spread(ratio(found, name, perSecond), 2),
      spread(summarize(rates.map(cpuMicros)), 1)
    ])
  )
  return found
}

const p50 = (trip: RoundTrip) => trip.p50
const p99 = (trip: RoundTrip) => trip.p99

const roundTrips = async ({ callers, rounds: most }: Budget): Promise<Found<ReadonlyArray<RoundTrip>>> => {
  const rounds = Math.floor(most / 3)
  const contenders = takingPartIn("echo")
  const found = named(contenders, await measureRoundTrips(contenders, callers / 10, rounds))
  printTable(
    `${
      count(callers / 10)
    } round trips of 64 characters, one in flight: microseconds (median and quartiles of ${rounds} rounds)`,
    ["round trip", "p50", `to ${peer}`, "p99", `to ${peer}`],
    [...found].map(([name, trips]) => [
      name,
      spread(summarize(trips.map(p50)), 0),
      spread(ratio(found, name, p50), 2),
      spread(summarize(trips.map(p99)), 0),
      spread(ratio(found, name, p99), 2)
    ])
  )
  return found
}

const idleHeap = async ({ bursts, callers }: Budget): Promise<Found<ReadonlyArray<number>>> => {
  const rounds = bursts - 2
  const contenders = takingPartIn("heap")
  const found = named(contenders, await measureHeap(contenders, callers / 10, rounds))
  printTable(
    `W10: the heap of an idle open client, of ${count(callers / 10)} (median and quartiles of rounds: ${rounds})`,
    ["idle", "KB each"],
    [...found].map(([name, bytes]) => [name, spread(summarize(bytes.map((bytes) => bytes / 1_000)), 1)])
  )
  return found
}

/** CPU of ours to that of a bare `ws`. */
const refusedDials = async ({ bursts, callers }: Budget): Promise<Summary> => {
  const dials = callers / 20
  const [bare, own] = await measureRefusals(dials, bursts)
  const ratio = paired(own, bare, (own, other) => own / other)
  printTable(
    `W10: ${
      count(dials)
    } dials that are refused with 503, as long a wait after each (median and quartiles of rounds: ${bursts})`,
    ["refused dial", "CPU µs each", `to ${peer}`],
    [[peer, spread(summarize(bare), 0), "1"], [ours, spread(summarize(own), 0), spread(ratio, 2)]]
  )
  return ratio
}

// -----------------------------------------------------------------------------
// while the server is killed
// -----------------------------------------------------------------------------

const recoveries = async ({ callers }: Budget): Promise<Found<ReadonlyArray<number>>> => {
  const rounds = callers / 500
  const contenders = takingPartIn("recovery")
  const found = named(contenders, await measureRecovery(contenders, rounds))
  printTable(
    `All dial again every ${redialMillis} ms: milliseconds from the server's listening to the first echo ` +
      `(median and quartiles of ${rounds} rounds)`,
    ["recovery", "ms", "the longest"],
    [...found].map(([name, millis]) => [name, spread(summarize(millis), 0), Math.max(...millis).toFixed(0)])
  )
  return found
}

/** At loopback, and away. */
type Numbered = Found<readonly [near: Losses, far: Losses]>

const numberedLosses = async ({ name }: Budget): Promise<Numbered> => {
  const kills = name === "quick" ? 1 : 20
  const sends = kills * 500
  const contenders = takingPartIn("losses")
  const results = contenders.map((): [Losses?, Losses?] => [])
  // Some contenders run at the same time, to save time, each with its own server; but many servers that start together
  // would delay each other and the contenders' timers. A quick run only shows that everything works.
  const atOnce = name === "quick" ? 8 : 4
  const tasks = contenders.flatMap((contender, index) =>
    [0, away].map((delay, column) => async () => {
      results[index]![column] = await measureLosses(contender, delay, sends, kills)
    })
  )
  for (let next = 0; next < tasks.length; next += atOnce) {
    await Promise.all(
      tasks.slice(next, next + atOnce).map(async (task, index) => {
        await sleep(index * 50)
        await task()
      })
    )
  }
  const found: Numbered = named(contenders, results as Array<[Losses, Losses]>)
  printTable(
    `${count(sends)} numbered sends, about one a millisecond, server killed: ${kills}`,
    ["lost / reordered / repeated", "loopback", `${away} ms away`],
    [...found].map(([name, [near, far]]) => [name, counted(near), counted(far)])
  )
  return found
}

const counted = ({ lost, reordered, repeated }: Losses): string => [lost, reordered, repeated].map(count).join(" / ")

const pouring = async ({ bursts, callers }: Budget): Promise<Found<readonly [near: Summary, far: Summary]>> => {
  const contenders = takingPartIn("pour")
  const found = new Map<string, [Summary, Summary]>()
  for (const contender of contenders) {
    const rates = async (delay: number) => summarize(await measurePour(contender, delay, callers * 2, bursts))
    found.set(contender.name, [await rates(0), await rates(away)])
  }
  printTable(
    `${count(callers * 2)} numbered sends together, until it is known that the server has all: thousand a second ` +
      `(median and quartiles of ${bursts})`,
    ["one way", "loopback", `${away} ms away`],
    [...found].map(([name, [near, far]]) => [name, inThousands(near), inThousands(far)])
  )
  return found
}

const inThousands = ({ high, low, median }: Summary) =>
  spread({ high: high / 1_000, low: low / 1_000, median: median / 1_000 }, 1)

// -----------------------------------------------------------------------------
// targets
// -----------------------------------------------------------------------------

interface Results {
  readonly small: Found<ReadonlyArray<Rate>>
  readonly large: Found<ReadonlyArray<Rate>>
  readonly trips: Found<ReadonlyArray<RoundTrip>>
  readonly heap: Found<ReadonlyArray<number>>
  readonly refusals: Summary
  readonly recovery: Found<ReadonlyArray<number>>
  readonly losses: Numbered
  readonly pours: Found<readonly [near: Summary, far: Summary]>
}

const printTargets = (results: Results): void => {
  const smallRatio = ratio(results.small, ours, perSecond)
  const largeRatio = ratio(results.large, ours, perSecond)
  const cpu = ratio(results.small, ours, cpuMicros)
  const trip = ratio(results.trips, ours, p50)
  const bytes = summarize(results.heap.get(ours)!)
  const longest = Math.max(...results.recovery.get(ours)!)
  const settings = results.losses.get(oursAcknowledged)!
  const plain = results.pours.get(ours)!
  const acknowledged = results.pours.get(oursAcknowledged)!

  console.log("\nTargets for Holdfast\n")
  printTarget("64 characters: no slower than bare ws", smallRatio.median >= 1, `ratio ${spread(smallRatio, 2)}`)
  printTarget("4,096 characters: no slower than bare ws", largeRatio.median >= 1, `ratio ${spread(largeRatio, 2)}`)
  printTarget(
    "64 characters: CPU a message at most 1.25 times that of bare ws",
    cpu.median <= 1.25,
    `ratio ${spread(cpu, 2)}`
  )
  printTarget("round trip p50 within 1.25 times that of bare ws", trip.median <= 1.25, `ratio ${spread(trip, 2)}`)
  printTarget(
    "at most 28 KB of heap for an idle client",
    bytes.median <= 28_000,
    `${(bytes.median / 1_000).toFixed(1)} KB`
  )
  printTarget(
    "a refused dial: CPU at most 2 times that of a bare ws that waits as long",
    results.refusals.median <= 2,
    `ratio ${spread(results.refusals, 2)}`
  )
  printTarget(
    "recovery within the delay and a handshake",
    longest <= redialMillis + 20,
    `${longest.toFixed(0)} ms at the longest`
  )
  settings.forEach((losses, index) =>
    printTarget(
      `acknowledged sends while the server is killed, ${
        index === 0 ? "loopback" : `${away} ms away`
      }: none lost, none reordered`,
      losses.lost === 0 && losses.reordered === 0,
      counted(losses)
    )
  )
  printTarget(
    `${away} ms away: acknowledged at least half as fast as not`,
    acknowledged[1].median >= plain[1].median / 2,
    `${inThousands(acknowledged[1])} to ${inThousands(plain[1])} thousand a second`
  )
}
