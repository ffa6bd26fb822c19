/** Shrinks a failing schedule: to as few preemptions as are found to be enough, none of which can be left out. */
import type { Strategy } from "./run.js"
import { type Departure, preemptions, type Schedule } from "./schedule.js"
import { systematically } from "./space.js"
import { Following } from "./strategies.js"

/** The outcome of one attempt. */
export interface Attempt {
  /** The schedule of the run, if it failed in the same way as the failure that was found. */
  readonly failed: Schedule | undefined
  readonly operations: number
}

/**
 * Yields the smallest schedule so far after each attempt, and returns the smallest of all. `attempt` makes a run by a
 * strategy. Each of the two parts of the search ends after `most` operations.
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
  // If a fiber stays behind after one long suspension, further suspensions of it are not needed.
  yield* isEnough(
    least.departures.map((departure) => departure.kind === "preempt" ? { ...departure, long: true } : departure)
  )
  // Large parts are left out first, then smaller and smaller ones, and finally single departures until none can be left
  // out.
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
