/**
 * Goes through the schedules of a space, once each. A run tells at which places the next run can depart from it, so a
 * schedule's children are the schedule itself and one departure more, later than its last.
 */
import type { Lane, Preemption, Run, Strategy } from "./run.js"
import { type Departure, type Schedule, word } from "./schedule.js"
import { type Place, spread } from "./spread.js"
import { Following } from "./strategies.js"

/** Which schedules there are, in the order of the number of their preemptions. */
export interface Space {
  readonly seed: number
  /** At most. */
  readonly preemptions: number
  /** The space has all orders in which the fibers that can go on might, too. */
  readonly picks: boolean
  /**
   * Each schedule also comes with one event at each operation: the interruption of each marked fiber that lives, or
   * time that passes to the next timer.
   */
  readonly event: "interrupt" | "timer" | undefined
}

/** Runs by a strategy. `begins`, if it is given, is told each operation before the strategy is asked about it. */
export type Runner<A> = (strategy: Strategy, begins?: (operation: unknown) => void) => A

/** How many departures the plain run offers, and how many of them a run has begun with. */
export interface Coverage {
  places: number
  readonly tried: Set<string>
}

export const noCoverage = (): Coverage => ({ places: 0, tried: new Set() })

/**
 * All schedules that begin with `prefix`, one after the other as the departures come in a run. Gives `undefined` for a
 * run that was made before, and is made again for what it tells.
 */
export function* systematically<A>(
  space: Space,
  run: Runner<A>,
  { coverage = noCoverage(), prefix = [] }: {
    readonly coverage?: Coverage
    readonly prefix?: ReadonlyArray<Departure>
  } = {}
): Generator<A | undefined> {
  const walk = new Walk(space, run, coverage, prefix, false)
  for (let preemptions = 0; preemptions <= space.preemptions; preemptions++) {
    const made = yield* walk.below(prefix, walk.allowanceOf(preemptions), Infinity)
    // Without a place for so many preemptions there is none for more.
    if (made === 0) return
  }
}

/**
 * All schedules, or as many as `limit` says. If the limit cuts them, or `mayStop` says that the caller may stop at any
 * time, the schedules come in such an order that the first of them, however many, are spread evenly over the whole run.
 * Gives `undefined` like `systematically`, and at the end whether these were all.
 *
 * Schedules with fewer preemptions come first. If those of one number are more than the limit leaves, half of what it
 * leaves is kept for greater numbers.
 */
export function* evenly<A>(
  space: Space,
  run: Runner<A>,
  { coverage, limit, mayStop }: {
    readonly coverage: Coverage
    readonly limit: number
    readonly mayStop: boolean
  }
): Generator<A | undefined, boolean> {
  let left = limit
  let isComplete = true
  for (let preemptions = 0; preemptions <= space.preemptions; preemptions++) {
    const inOrder = new Walk(space, run, coverage, [], false)
    const allowance = inOrder.allowanceOf(preemptions)
    const isAll = (yield* inOrder.size([], allowance, left)) <= left
    const walk = isAll && !mayStop ? inOrder : new Walk(space, run, coverage, [], true)
    const quota = isAll ? Infinity : preemptions < space.preemptions ? Math.ceil(left / 2) : left
    const made = yield* walk.below([], allowance, quota)
    left -= made
    isComplete &&= isAll
    if (made === 0) break
  }
  return isComplete
}

/** How many departures a schedule may yet make. */
interface Allowance {
  readonly preemptions: number
  readonly events: number
}

class Walk<A> {
  private readonly space: Space
  private readonly run: Runner<A>
  private readonly coverage: Coverage
  private readonly prefix: ReadonlyArray<Departure>
  private readonly isSpread: boolean

  constructor(space: Space, run: Runner<A>, coverage: Coverage, prefix: ReadonlyArray<Departure>, isSpread: boolean) {
    this.space = space
    this.run = run
    this.coverage = coverage
    this.prefix = prefix
    this.isSpread = isSpread
  }

  allowanceOf(preemptions: number): Allowance {
    return { preemptions, events: this.space.event === undefined ? 0 : 1 }
  }

  /** Whether a schedule makes no departure more. */
  private isLast({ events, preemptions }: Allowance): boolean {
    return events === 0 && preemptions === 0 && !this.space.picks
  }

  private after(allowance: Allowance, { kind }: Departure): Allowance {
    return {
      preemptions: allowance.preemptions - (kind === "preempt" ? 1 : 0),
      events: allowance.events - (kind === this.space.event ? 1 : 0)
    }
  }

  /**
   * Runs at most `quota` of the schedules that begin with `departures` and make exactly as many preemptions besides as
   * are allowed, and gives how many these were. Each departure that comes next has an equal share of the quota.
   */
  *below(departures: ReadonlyArray<Departure>, allowance: Allowance, quota: number): Generator<A | undefined, number> {
    const schedule = { seed: this.space.seed, departures }
    if (this.isLast(allowance)) {
      yield this.run(new Following(schedule))
      return 1
    }
    const isFirst = departures.length === this.prefix.length
    const strategy = new Enumerating(schedule, this.space, allowance)
    const done = isFirst && this.isSpread ? this.run(strategy, strategy.begins) : this.run(strategy)
    const isWhole = allowance.preemptions === 0
    yield isWhole ? done : undefined
    let made = isWhole ? 1 : 0
    const next = this.isSpread && (isFirst || quota < Infinity)
      ? spread(strategy.places, this.space.seed, quota)
      : inTurn(strategy.places, this.space)
    if (isFirst) this.coverage.places = Math.max(this.coverage.places, next.length)
    for (const [index, departure] of next.entries()) {
      if (made >= quota) break
      if (isFirst) this.coverage.tried.add(word(departure))
      const share = Math.ceil((quota - made) / (next.length - index))
      made += yield* this.below([...departures, departure], this.after(allowance, departure), share)
    }
    return made
  }

  /** How many schedules `below` would run without a quota; more than `most`, if it is more. */
  *size(departures: ReadonlyArray<Departure>, allowance: Allowance, most: number): Generator<undefined, number> {
    const own = allowance.preemptions === 0 ? 1 : 0
    if (this.isLast(allowance) || own > most) return own
    const strategy = new Enumerating({ seed: this.space.seed, departures }, this.space, allowance)
    this.run(strategy)
    yield undefined
    let size = own
    for (const departure of inTurn(strategy.places, this.space)) {
      size += yield* this.size([...departures, departure], this.after(allowance, departure), most - size)
      if (size > most) break
    }
    return size
  }
}

/** Follows a schedule, and notes at which places after its last departure there are others to be made. */
export class Enumerating extends Following {
  readonly places: Array<Place> = []
  private readonly space: Pick<Space, "event" | "picks">
  private readonly allowance: Allowance
  private operation: unknown

  constructor(
    schedule: Pick<Schedule, "departures" | "seed">,
    space: Pick<Space, "event" | "picks">,
    allowance: Allowance
  ) {
    super(schedule)
    this.space = space
    this.allowance = allowance
  }

  readonly begins = (operation: unknown): void => {
    this.operation = operation
  }

  override atOperation(run: Run, lane: Lane): Preemption | undefined {
    if (this.left > 0) return super.atOperation(run, lane)
    const place = { fiber: lane.name, at: lane.operations }
    const departures: Array<Departure> = []
    if (this.allowance.events > 0 && this.space.event === "interrupt") {
      for (const { fiber, name: to } of run.victims) {
        if (fiber!.unsafePoll() !== null) continue
        departures.push(
          { kind: "interrupt", ...place, to, now: false },
          { kind: "interrupt", ...place, to, now: true }
        )
      }
    }
    if (this.allowance.events > 0 && this.space.event === "timer" && run.hasTimers) {
      departures.push({ kind: "timer", ...place, now: false }, { kind: "timer", ...place, now: true })
    }
    if (this.allowance.preemptions > 0 && run.isContended) {
      for (const { name: to } of run.others) {
        // All orders of the fibers have the long suspensions among them.
        if (!this.space.picks) departures.push({ kind: "preempt", ...place, to, long: true })
        departures.push({ kind: "preempt", ...place, to, long: false })
      }
    }
    if (departures.length > 0) this.places.push({ departures, site: siteOf(this.operation) })
    return undefined
  }

  override atPick(run: Run, paused: Lane | undefined): Lane {
    if (this.left > 0) return super.atPick(run, paused)
    if (this.space.picks && paused !== undefined) {
      const { name: fiber, operations: at, pauses: pause } = paused
      const others = run.ready.filter((lane) => lane !== run.plain)
      const departures = others.map(({ name: to }): Departure => ({ kind: "pick", fiber, at, pause, to }))
      this.places.push({ departures, site: undefined })
    }
    return run.plain
  }
}

/** In the order in which a run comes by; but a long suspension finds most, so that the short ones come last. */
const inTurn = (places: ReadonlyArray<Place>, { picks }: Space): ReadonlyArray<Departure> => {
  const all = places.flatMap(({ departures }) => departures)
  const isShort = (departure: Departure) => departure.kind === "preempt" && !departure.long
  return picks ? all : [...all.filter((departure) => !isShort(departure)), ...all.filter(isShort)]
}

/**
 * The kind of one of Effect's primitives, and the source of its function. Of an operation that only notes what comes
 * after the next one: none, for departing before it is departing before the next.
 */
const siteOf = (operation: unknown): string | undefined => {
  if (operation === undefined) return undefined
  const { _op, effect_instruction_i0, effect_instruction_i1 } = operation as Record<string, unknown>
  if (noting.has(_op)) return undefined
  const code = [effect_instruction_i1, effect_instruction_i0].find((part) => typeof part === "function")
  return `${_op} ${code ?? ""}`
}

const noting = new Set<unknown>(["OnSuccess", "OnFailure", "OnSuccessAndFailure"])
