/** How much a run measures. */
export interface Budget {
  readonly name: string
  /** Callers in a burst and in a straggler storm. */
  readonly callers: number
  /** The time, in milliseconds, over which the refusals of a straggler storm are spread. */
  readonly spread: number
  /** Repetitions of a burst. */
  readonly bursts: number
  /** Rounds of the fast path, and how many milliseconds one client's share of a round should take. */
  readonly rounds: number
  readonly slice: number
}

export const full: Budget = { name: "full", callers: 10_000, spread: 10_000, bursts: 5, rounds: 40, slice: 30 }

export const quick: Budget = { name: "quick", callers: 500, spread: 300, bursts: 3, rounds: 3, slice: 5 }
