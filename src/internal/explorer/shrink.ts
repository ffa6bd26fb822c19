/**
 * Makes a failing schedule small: the fewest preemptions that still fail, and what else can go is gone.
 */
import type { Strategy } from "./run.js"
import type { Departure, Schedule } from "./schedule.js"
import { Following, systematically } from "./strategies.js"

/**
 * `failing` runs by a strategy, and gives the schedule it ran by if that failed in the way that was found. Each of the
 * two parts takes at most `mostRuns`.
 */
export const shrink = (
  found: Schedule,
  mostRuns: number,
  failing: (strategy: Strategy) => Schedule | undefined
): Schedule => {
  let least = found
  let runs = 0
  const isEnough = (departures: ReadonlyArray<Departure>): boolean => {
    if (++runs > mostRuns) return false
    const failed = failing(new Following({ seed: found.seed, departures }))
    if (failed === undefined || failed.departures.length > departures.length) return false
    least = failed
    return true
  }
  if (isEnough([])) return least
  const simple = withOnePreemption(found, mostRuns, failing)
  if (simple !== undefined) return simple
  // A fiber that stays behind when it was suspended once need not be kept behind again and again.
  isEnough(least.departures.map((departure) => departure.kind === "preempt" ? { ...departure, long: true } : departure))
  // Large parts first, then ever smaller ones; single ones until none of them can go.
  for (let size = least.departures.length; size >= 1;) {
    let isLess = false
    for (let start = Math.max(0, least.departures.length - size); ; start = Math.max(0, start - size)) {
      if (isEnough(least.departures.toSpliced(start, size))) isLess = true
      if (start === 0) break
    }
    size = size > 1 ? Math.floor(size / 2) : isLess ? 1 : 0
  }
  return least
}

/** The search may have found many where one does. */
const withOnePreemption = (
  found: Schedule,
  mostRuns: number,
  failing: (strategy: Strategy) => Schedule | undefined
): Schedule | undefined => {
  let runs = 0
  const interruptions = found.departures.filter(({ kind }) => kind === "interrupt")
  const space = { seed: found.seed, preemptions: 1, picks: false, interruption: false }
  for (const failed of systematically(space, failing, interruptions)) {
    if (failed !== undefined) return failed
    if (++runs > mostRuns) return undefined
  }
  return undefined
}
