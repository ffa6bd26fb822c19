/**
 * Shared state: what a guarded increment costs, alone and with others, and what a thousand waiters cost.
 *
 * The peer uses Effect alone: `Semaphore(1)` around a `Ref`. It does not roll back.
 */
import type { Budget } from "./budget.js"
import { interleaved, paired, summarize, type Summary } from "./interleave.js"
import {
  type Body,
  type Contender,
  contenders,
  type Increments,
  semaphore,
  transaction,
  update,
  updateEffect
} from "./state/contenders.js"
import { count, printTable, printTarget, spread } from "./table.js"

const titles: Record<Body, string> = {
  pure: "T9: a pure body",
  synchronous: "T9: an effectful body that does not wait",
  asynchronous: "T9: an effectful body that waits for one asynchronous step"
}

export const run = async (budget: Budget): Promise<void> => {
  // One of the peer's takes about 5 µs.
  const total = budget.slice * 200
  const loads = [1, 100, 1_000].map((fibers) => ({ fibers, each: total / fibers }))
  const costs = {
    pure: await measure("pure", loads, budget),
    synchronous: await measure("synchronous", loads, budget),
    // A fiber that comes back immediately overtakes fibers that wait for the semaphore, and these are all woken only
    // when it has made its last increment. So the ratio depends on how many increments each fiber makes, which is the
    // same in every budget. If each makes one, every release wakes all waiters. A thousand of those are measured
    // separately.
    asynchronous: await measure(
      "asynchronous",
      [loads[0]!, { fibers: 100, each: 60 }, { fibers: 100, each: 1 }],
      budget
    )
  }
  const waiters = budget.callers / 10
  const waits = await measureWaiters(waiters, budget)

  for (const body of ["pure", "synchronous", "asynchronous"] as const) printCosts(titles[body], costs[body])
  const [peerMillis] = waits.get(semaphore)!
  printTable(
    `T3: ${count(waiters)} fibers wait to increment once, across an asynchronous step: milliseconds ` +
      "(median and quartiles)",
    ["waiters", "ms", "times as fast as the peer"],
    [...waits].map(([{ name }, millis]) => [
      name,
      millis.length === 1 ? `${millis[0]!.toFixed(1)} (one run)` : spread(summarize(millis), 1),
      (peerMillis! / summarize(millis).median).toFixed(1)
    ])
  )
  console.log("\n* Locks for promises: no Effects, no interruption, no rollback.")

  console.log("\nTargets for Holdfast\n")
  printRatio("a pure update, one fiber: at least 8 times as fast as the peer", 8, ratioTo(costs.pure[0]!, update))
  for (const contender of [updateEffect, transaction]) {
    printRatio(
      `${contender.name}, an effectful body, one fiber: at least 1.5 times as fast`,
      1.5,
      ratioTo(costs.synchronous[0]!, contender)
    )
  }
  for (const contender of [updateEffect, transaction]) {
    printRatio(
      `${contender.name}, an asynchronous body, 100 fibers: at least 1.5 times as fast`,
      1.5,
      ratioTo(costs.asynchronous[1]!, contender)
    )
  }
  for (const contender of [updateEffect, transaction]) {
    const millis = summarize(waits.get(contender)!)
    printTarget(
      `${contender.name}, ${count(waiters)} waiters: under 150 ms`,
      millis.median < 150,
      `${spread(millis, 0)} ms`
    )
  }
}

const printRatio = (what: string, least: number, ratio: Summary) =>
  printTarget(what, ratio.median >= least, `ratio ${spread(ratio, 2)}`)

// -----------------------------------------------------------------------------
// the cost of an increment
// -----------------------------------------------------------------------------

interface Load {
  readonly fibers: number
  readonly each: number
}

interface Cost extends Load {
  /** Microseconds an increment, one number a round. */
  readonly micros: ReadonlyMap<Contender, ReadonlyArray<number>>
}

/**
 * Between two slices no fiber is alive, and a garbage collection drops compiled code for objects of which none is
 * alive. Compiling it again takes about 50 ms, longer than most slices.
 */
const keepCompiled = { collect: false }

const measure = async (
  body: Body,
  loads: ReadonlyArray<Load>,
  { rounds }: Budget
): Promise<ReadonlyArray<Cost>> => {
  const able = contenders.filter(({ bodies }) => bodies[body] !== undefined)
  const costs: Array<Cost> = []
  for (const load of loads) {
    const tasks = able.map((contender) => async () => {
      const millis = await timed(contender, body, load)
      return millis * 1_000 / (load.fibers * load.each)
    })
    // Code that is not yet compiled is compiled in rounds that do not count.
    await interleaved(4, tasks, keepCompiled)
    const micros = await interleaved(rounds / 2, tasks, keepCompiled)
    costs.push({ ...load, micros: new Map(able.map((contender, index) => [contender, micros[index]!])) })
  }
  return costs
}

/** Milliseconds. If an increment is lost, the figure is invalid. */
const timed = async ({ bodies, name }: Contender, body: Body, { each, fibers }: Load): Promise<number> => {
  const increments: Increments = bodies[body]!
  const before = performance.now()
  const found = await increments(fibers, each)
  const millis = performance.now() - before
  if (found !== fibers * each) throw new Error(`${name} lost increments: ${found} of ${fibers * each}`)
  return millis
}

/** Throughput as a multiple of the peer's in the same round. */
const ratioTo = ({ micros }: Cost, contender: Contender): Summary =>
  paired(micros.get(contender)!, micros.get(semaphore)!, (own, peer) => peer / own)

const printCosts = (title: string, costs: ReadonlyArray<Cost>) => {
  const able = [...costs[0]!.micros.keys()]
  const header = costs.map(({ each, fibers }) => `${count(fibers)} × ${count(each)}`)
  const rounds = costs[0]!.micros.get(semaphore)!.length
  printTable(
    `${title}: microseconds an increment, fibers × increments each (median and quartiles of ${rounds} rounds)`,
    ["increment", ...header],
    able.map((contender) =>
      [contender.name].concat(costs.map(({ micros }) => spread(summarize(micros.get(contender)!), 2)))
    )
  )
  printTable(
    `${title}: throughput, as a multiple of the peer's`,
    ["ratio", ...header],
    able.map((contender) => [contender.name].concat(costs.map((cost) => spread(ratioTo(cost, contender), 2))))
  )
}

// -----------------------------------------------------------------------------
// many that wait
// -----------------------------------------------------------------------------

/** Milliseconds until the last waiter is done, in the order of the contenders. */
const measureWaiters = async (
  waiters: number,
  { bursts }: Budget
): Promise<ReadonlyMap<Contender, ReadonlyArray<number>>> => {
  const able = contenders.filter(({ bodies }) => bodies.asynchronous !== undefined)
  const burst = (contender: Contender) => () => timed(contender, "asynchronous", { fibers: waiters, each: 1 })
  const swift = able.filter(({ isSlowToWake }) => !isSlowToWake)
  const swiftMillis = await interleaved(bursts, swift.map(burst), keepCompiled)
  const slow = able.filter(({ isSlowToWake }) => isSlowToWake)
  const slowMillis = await interleaved(1, slow.map(burst), keepCompiled)
  const millis = new Map([
    ...slow.map((contender, index) => [contender, slowMillis[index]!] as const),
    ...swift.map((contender, index) => [contender, swiftMillis[index]!] as const)
  ])
  return new Map(able.map((contender) => [contender, millis.get(contender)!]))
}
