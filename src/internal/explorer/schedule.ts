/**
 * A schedule lists where a run departs from the plain order. In the plain order each fiber goes on until it waits, and
 * ready fibers run in the order in which they became ready. Nothing else is needed to repeat the run.
 *
 * A fiber is named by its ancestors (`0.2.1` is the first child of the root's second child), and a place by a fiber and
 * the number of operations that it has begun. Both stay the same when a departure elsewhere is left out.
 */

export type Departure =
  /**
   * Before its operation `at`, `fiber` is suspended and `to` goes on; if `long`, `fiber` goes on only when all others
   * wait.
   */
  | {
    readonly kind: "preempt"
    readonly fiber: string
    readonly at: number
    readonly to: string
    readonly long: boolean
  }
  /** When `fiber` has paused before its operation `at`, for the `pause`th time there, `to` goes on. */
  | { readonly kind: "pick"; readonly fiber: string; readonly at: number; readonly pause: number; readonly to: string }
  /** Before operation `at` of `fiber`, `to` is interrupted; if `now`, `to` goes on immediately. */
  | {
    readonly kind: "interrupt"
    readonly fiber: string
    readonly at: number
    readonly to: string
    readonly now: boolean
  }
  /**
   * Before operation `at` of `fiber`, time passes to the next timer; if `now`, `fiber` goes on only when all others
   * wait.
   */
  | { readonly kind: "timer"; readonly fiber: string; readonly at: number; readonly now: boolean }

export interface Schedule {
  /** The seed of Effect's `Random` in the run. */
  readonly seed: number
  /** A run that goes on for longer is a livelock. */
  readonly maxOperations: number
  readonly departures: ReadonlyArray<Departure>
}

export const preemptions = (schedule: Schedule): number =>
  schedule.departures.filter(({ kind }) => kind === "preempt").length

export const defaultMaxOperations = 100_000

/** One line: `holdfast:1 r42 m5000 p0.1@66>0.2! c0@12+1>0.2 i0.1@40>0.3!`. */
export const format = ({ departures, maxOperations, seed }: Schedule): string =>
  [
    "holdfast:1",
    `r${seed}`,
    ...maxOperations === defaultMaxOperations ? [] : [`m${maxOperations}`],
    ...departures.map(word)
  ].join(" ")

/** One departure, as it is written in the schedule's line. */
export const word = (departure: Departure): string => {
  const { at, fiber } = departure
  switch (departure.kind) {
    case "preempt":
      return `p${fiber}@${at}>${departure.to}${departure.long ? "!" : ""}`
    case "pick":
      return `c${fiber}@${at}+${departure.pause}>${departure.to}`
    case "interrupt":
      return `i${fiber}@${at}>${departure.to}${departure.now ? "!" : ""}`
    case "timer":
      return `t${fiber}@${at}${departure.now ? "!" : ""}`
  }
}

/** `undefined` if the text is not a schedule's line. */
export const parse = (line: string): Schedule | undefined => {
  const [version, random, ...words] = line.trim().split(/\s+/)
  const seed = /^r(\d{1,15})$/.exec(random ?? "")?.[1]
  if (version !== "holdfast:1" || seed === undefined) return undefined
  const most = /^m([1-9]\d{0,15})$/.exec(words[0] ?? "")?.[1]
  if (most !== undefined) words.shift()
  const departures: Array<Departure> = []
  for (const word of words) {
    const parts = departurePattern.exec(word)?.groups
    if (parts === undefined) return undefined
    const { fiber, kind, mark, pause, to } = parts
    const place = { fiber: fiber!, at: Number(parts["at"]) }
    const marked = mark !== undefined
    if ((kind === "c") !== (pause !== undefined) || (kind === "c" && marked) || (kind === "t") !== (to === undefined)) {
      return undefined
    }
    departures.push(
      kind === "p"
        ? { kind: "preempt", ...place, to: to!, long: marked }
        : kind === "c"
        ? { kind: "pick", ...place, to: to!, pause: Number(pause) }
        : kind === "i"
        ? { kind: "interrupt", ...place, to: to!, now: marked }
        : { kind: "timer", ...place, now: marked }
    )
  }
  return { seed: Number(seed), maxOperations: most === undefined ? defaultMaxOperations : Number(most), departures }
}

const fiberName = "(?:\\d+|\\*)(?:\\.\\d+)*"

const departurePattern = new RegExp(
  `^(?<kind>[pcit])(?<fiber>${fiberName})@(?<at>\\d{1,15})` +
    `(?:\\+(?<pause>\\d{1,15}))?(?:>(?<to>${fiberName}))?(?<mark>!)?$`
)
