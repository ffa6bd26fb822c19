/**
 * Makes a failing schedule small: as few preemptions as are found to do, none of which can be left out.
 */
import type { Strategy } from "./run.js"
import { type Departure, preemptions, type Schedule } from "./schedule.js"
import { systematically } from "./space.js"
import { Following } from "./strategies.js"

/** The outcome of one attempt. */
export interface Attempt {
  /** The schedule of the run, if that failed in the way that was found. */
  readonly failed: Schedule | undefined
  readonly operations: number
}

/**
 * Gives the smallest schedule so far after each attempt, and at last the smallest of all. `attempt` runs by a strategy;
 * each of the two parts ends after `most` operations.
 */
export function* shrink(
  found: Schedule,
  most: number,
  attempt: (strategy: Strategy) => Attempt
): Generator<Schedule, Schedule> {
  let least = found
  let spent = 0

  function* isEnough(departures: ReadonlyArray<Departure>): Generator<Schedule, boolean> {
    if (spent > most) return false
    const { failed, operations } = attempt(new Following({ seed: found.seed, departures }))
    spent += operations
    const isLess = failed !== undefined && failed.departures.length <= departures.length
    if (isLess) least = failed
    yield least
    return isLess
  }

  /** Tries one or two interruptions or timers if the search has found a schedule with many. */
  function* withFewer(): Generator<Schedule, Schedule | undefined> {
    const events = found.departures.filter(({ kind }) => kind === "interrupt" || kind === "timer")
    const space = {
      seed: found.seed,
      preemptions: Math.min(2, Math.max(1, preemptions(least) - 1)),
      picks: false,
      event: undefined
    }
    for (const { isNew, strategy } of systematically(space, { prefix: events })) {
      const { failed, operations } = attempt(strategy)
      yield least
      if (!isNew) continue
      if (failed !== undefined) return failed
      spent += operations
      if (spent > most) return undefined
    }
    return undefined
  }

  if (yield* isEnough([])) return least
  // A fiber that stays behind when it was suspended once need not be kept behind again and again.
  yield* isEnough(
    least.departures.map((departure) => departure.kind === "preempt" ? { ...departure, long: true } : departure)
  )
  // Large parts first, then ever smaller ones; single ones until none of them can go.
  for (let size = least.departures.length; size >= 1;) {
    let isLess = false
    for (let start = Math.max(0, least.departures.length - size);; start = Math.max(0, start - size)) {
      if (yield* isEnough(least.departures.toSpliced(start, size))) isLess = true
      if (start === 0) break
    }
    size = size > 1 ? Math.floor(size / 2) : isLess ? 1 : 0
  }
  const left = preemptions(least)
  if (left === 0 || (left === 1 && !least.departures.some(({ kind }) => kind === "pick"))) return least
  spent = 0
  return (yield* withFewer()) ?? least
}
