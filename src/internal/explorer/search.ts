/** Runs the searches of an exploration: each strategy in its turn, with its part of the budget. */
import type * as Effect from "effect/Effect"
import { observed } from "./observe.js"
import { elapsed } from "./realTime.js"
import * as Run from "./run.js"
import * as Space from "./space.js"
import * as Strategies from "./strategies.js"

type Strategy = "random" | "pct" | "sweep" | "exhaustive" | "interrupt" | "timers"

interface Search {
  readonly strategy: Strategy
  readonly interleavings: number
  readonly complete: boolean
}

/** The options of an exploration, checked. */
export interface Checked {
  readonly strategies: ReadonlyArray<Strategy>
  readonly seeds: number
  readonly seed: number
  readonly preemptions: number | undefined
  readonly depth: number
  readonly limit: number
  /** In milliseconds. */
  readonly budget: number
}

export const defaultPreemptions: Record<Strategy, number> = {
  random: 3,
  pct: 0,
  sweep: 1,
  exhaustive: 2,
  interrupt: 0,
  timers: 0
}

export interface Ran<A, E> {
  readonly run: Run.Run
  readonly outcome: Run.Outcome<A, E>
}

export const runOnce = <A, E>(effect: Effect.Effect<A, E>, setting: Run.Setting, strategy: Run.Strategy): Ran<A, E> => {
  const run = new Run.Run(setting, strategy)
  const outcome = run.execute(effect)
  run.finish()
  return { run, outcome }
}

/** The budget of real time. Each strategy gets an equal part of what is left. */
export class Budget {
  private readonly end: number
  private readonly millis: number
  private parts: number
  private until = 0
  isCut = false

  constructor(millis: number, parts: number) {
    this.millis = millis
    this.end = elapsed() + millis
    this.parts = parts
  }

  /** Begins the next strategy's part. */
  next(): void {
    const now = elapsed()
    this.until = now + Math.max(0, this.end - now) / this.parts--
  }

  /** Called only while there is more to do. */
  isSpent(): boolean {
    const isSpent = elapsed() >= this.until
    this.isCut ||= isSpent
    return isSpent
  }

  /** Adds a quarter of the whole budget from now on, and gives a function that says whether it is spent. */
  extended(): () => boolean {
    const until = elapsed() + this.millis / 4
    return () => elapsed() >= until
  }
}

const events: Partial<Record<Strategy, "interrupt" | "timer">> = { interrupt: "interrupt", timers: "timer" }

export const isByChance = (strategy: Strategy): boolean => strategy === "random" || strategy === "pct"

export interface Searched {
  readonly searches: ReadonlyArray<Search>
  readonly coverages: ReadonlyMap<Strategy, Space.Coverage>
}

/** Runs the plain order once, to find where each strategy's schedules can begin, and then each strategy. */
export function* searchesOf<A, E>(
  effect: Effect.Effect<A, E>,
  setting: Run.Setting,
  checked: Checked,
  clock: Budget
): Generator<Ran<A, E> & { readonly isNew: boolean }, Searched> {
  const offersOf = (strategy: Strategy) => [...firstOffersOf(strategy, checked)]
  const plain = new Space.Survey(checked.seed, new Set(checked.strategies.flatMap(offersOf)))
  const ran = runOnce(effect, observed(setting, plain.begins), plain)
  const coverages = new Map<Strategy, Space.Coverage>()
  for (const strategy of checked.strategies) {
    coverages.set(strategy, plain.coverageOf(firstOffersOf(strategy, checked)))
  }
  yield { ...ran, isNew: true }
  const searches: Array<Search> = []
  for (const strategy of checked.strategies) {
    const coverage = coverages.get(strategy)!
    // The plain run is the first schedule of every strategy; it is counted once.
    let interleavings = searches.length === 0 ? 1 : 0
    clock.next()
    const asking = isByChance(strategy)
      ? byChance(strategy, checked, Math.max(1, ran.run.contended))
      : inOrder(strategy, checked, plain, coverage)
    let next = asking.next()
    while (next.done !== true && !clock.isSpent()) {
      const { isNew } = next.value
      const ran = runOnce(effect, setting, next.value.strategy)
      if (isNew) interleavings++
      if (isByChance(strategy)) coverage.note(ran.run.departures)
      yield { ...ran, isNew }
      next = asking.next()
    }
    searches.push({ strategy, interleavings, complete: next.done === true && next.value })
  }
  return { searches, coverages }
}

const spaceOf = (strategy: Strategy, { preemptions, seed }: Checked): Space.Space => ({
  seed,
  preemptions: preemptions ?? defaultPreemptions[strategy],
  picks: strategy === "exhaustive",
  event: events[strategy]
})

/** `random` and `pct` preempt for short only. */
const firstOffersOf = (strategy: Strategy, checked: Checked): ReadonlySet<Space.Offer> =>
  isByChance(strategy) ? new Set(["short"]) : Space.firstOffersOf(spaceOf(strategy, checked))

/** Gives at the end whether all schedules were run. */
const inOrder = (
  strategy: Strategy,
  checked: Checked,
  plain: Space.Survey,
  coverage: Space.Coverage
): Generator<Space.Asked, boolean> => {
  const space = spaceOf(strategy, checked)
  const { budget, limit } = checked
  return strategy === "exhaustive"
    ? Space.systematically(space, { limit, plain, coverage })
    : Space.evenly(space, { limit, plain, coverage, mayStop: budget < Infinity })
}

/** `horizon` is the number of operations in the plain run before which another fiber could have run. */
function* byChance(
  strategy: Strategy,
  { depth, preemptions, seed, seeds }: Checked,
  horizon: number
): Generator<Space.Asked, boolean> {
  const most = preemptions ?? defaultPreemptions[strategy]
  for (let turn = 0; turn < seeds; turn++) {
    yield {
      isNew: true,
      strategy: strategy === "random"
        ? new Strategies.AtRandom(seed + turn, turn, horizon, most)
        : new Strategies.ByPriority(seed + turn, turn, horizon, depth)
    }
  }
  return false
}
