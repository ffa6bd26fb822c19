/**
 * Interleavings: how many schedules run in a second, and how many are needed to find a lost update.
 *
 * The peer is fast-check's scheduler, which reorders promises. It decides where a program awaits promises that were
 * given to it; the explorer decides between any two operations, without changes of the program.
 */
import * as Interleavings from "effect-holdfast/testing/Interleavings"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Ref from "effect/Ref"
import * as fc from "fast-check"
import type { Budget } from "./budget.js"
import { interleaved, paired, summarize } from "./interleave.js"
import { count, printTable, printTarget, spread } from "./table.js"

/** Three fibers of ten steps each. */
const tenSteps = Effect.gen(function*() {
  const counter = yield* Ref.make(0)
  const fiber = Effect.repeatN(Ref.update(counter, (n) => n + 1), 9)
  const fibers = [yield* Effect.fork(fiber), yield* Effect.fork(fiber), yield* Effect.fork(fiber)]
  for (const one of fibers) yield* Fiber.join(one)
  const steps = yield* Ref.get(counter)
  if (steps !== 30) yield* Effect.fail(steps)
})

const tenAwaits = async (scheduler: fc.Scheduler) => {
  let steps = 0
  const task = async () => {
    for (let step = 0; step < 10; step++) {
      await scheduler.schedule(Promise.resolve())
      steps++
    }
  }
  const tasks = [task(), task(), task()]
  await scheduler.waitFor(Promise.all(tasks))
  return steps === 30
}

const perSecond = async (work: () => Promise<number>): Promise<number> => {
  const before = performance.now()
  const runs = await work()
  return runs / ((performance.now() - before) / 1_000)
}

export const run = async (budget: Budget): Promise<void> => {
  const runs = budget.callers / 2
  const explored = (strategy: Interleavings.Strategy) => () =>
    perSecond(() =>
      Effect.runPromise(Effect.map(
        Interleavings.explore(tenSteps, { strategy, seeds: runs, limit: runs, preemptions: 2 }),
        ({ interleavings }) => interleavings
      ))
    )
  const contenders = {
    "explorer, random": explored("random"),
    "explorer, pct": explored("pct"),
    "explorer, sweep": explored("sweep"),
    "explorer, exhaustive": explored("exhaustive"),
    "fast-check's scheduler": () =>
      perSecond(async () => {
        await fc.assert(fc.asyncProperty(fc.scheduler(), tenAwaits), { numRuns: runs })
        return runs
      }),
    "Effect's own scheduler, one order": () =>
      perSecond(async () => {
        for (let run = 0; run < runs; run++) await Effect.runPromise(tenSteps)
        return runs
      })
  }
  const rates = await interleaved(budget.bursts, Object.values(contenders))
  const names = Object.keys(contenders)
  const peer = rates[names.indexOf("fast-check's scheduler")]!
  printTable(
    `Three fibers of ten steps: schedules per second, on one thread (median and quartiles of ${budget.bursts})`,
    ["schedules", "per second", "to fast-check"],
    names.map((name, index) => [
      name,
      spread(summarize(rates[index]!), 0),
      spread(paired(rates[index]!, peer, (own, other) => own / other), 1)
    ])
  )

  const [slowest, ...others] = names.slice(0, 4).map((_, index) => summarize(rates[index]!).median)
  const least = Math.min(slowest!, ...others)
  console.log("\nTargets for Holdfast\n")
  printTarget(
    "at least 5,000 interleavings a second with any strategy",
    least >= 5_000,
    `${count(Math.round(least))} with the slowest`
  )
}
