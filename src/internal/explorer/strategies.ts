/**
 * The ways in which schedules are chosen: by chance, or one after the other.
 */
import * as Utils from "effect/Utils"
import type { Lane, Preemption, Run, Strategy } from "./run.js"
import type { Departure, Schedule } from "./schedule.js"

/** The departures at one fiber's operations, by their number. */
interface Plan {
  readonly preempt: Map<number, Departure & { readonly kind: "preempt" }>
  readonly pick: Map<number, ReadonlyArray<Departure & { readonly kind: "pick" }>>
  readonly interrupt: Map<number, Departure & { readonly kind: "interrupt" }>
  readonly timer: Map<number, Departure & { readonly kind: "timer" }>
}

/** The plain order, but for a schedule's departures. */
export class Following implements Strategy {
  readonly seed: number
  private readonly plans = new Map<string, Plan>()
  private lane: Lane | undefined
  private plan: Plan | undefined
  /** How many departures are yet to be made. */
  left: number

  constructor({ departures, seed }: Pick<Schedule, "departures" | "seed">) {
    this.seed = seed
    this.left = departures.length
    for (const departure of departures) {
      const plan = this.plans.get(departure.fiber) ?? { preempt: new Map(), pick: new Map(), interrupt: new Map(), timer: new Map() }
      this.plans.set(departure.fiber, plan)
      if (departure.kind === "preempt") plan.preempt.set(departure.at, departure)
      else if (departure.kind === "interrupt") plan.interrupt.set(departure.at, departure)
      else if (departure.kind === "timer") plan.timer.set(departure.at, departure)
      else plan.pick.set(departure.at, [...plan.pick.get(departure.at) ?? [], departure])
    }
  }

  private planOf(lane: Lane): Plan | undefined {
    if (lane !== this.lane) {
      this.lane = lane
      this.plan = this.plans.get(lane.name)
    }
    return this.plan
  }

  atOperation(run: Run, lane: Lane): Preemption | undefined {
    if (this.left === 0) return undefined
    const plan = this.planOf(lane)
    if (plan === undefined) return undefined
    const interrupt = plan.interrupt.get(lane.operations)
    if (interrupt !== undefined) {
      const victim = run.lanes.find(({ name }) => name === interrupt.to)
      if (victim !== undefined) run.interrupt(lane, victim, interrupt.now)
      this.left--
    }
    const timer = plan.timer.get(lane.operations)
    if (timer !== undefined) {
      run.hasten(lane, timer.now)
      this.left--
    }
    const preempt = plan.preempt.get(lane.operations)
    if (preempt === undefined) return undefined
    this.left--
    const to = run.others.find(({ name }) => name === preempt.to)
    return to === undefined ? undefined : { to, long: preempt.long }
  }

  atPick(run: Run, paused: Lane | undefined): Lane {
    if (this.left === 0 || paused === undefined) return run.plain
    const pick = this.planOf(paused)?.pick.get(paused.operations)?.find(({ pause }) => pause === paused.pauses)
    if (pick === undefined) return run.plain
    this.left--
    return run.ready.find(({ name }) => name === pick.to) ?? run.plain
  }
}

/**
 * Any of those that can go on, at each pick; and one to `preemptions` suspensions, at operations chosen from those
 * that others could have gone before. `horizon` is how many there were in an earlier run.
 */
export class AtRandom implements Strategy {
  readonly seed: number
  private readonly random: Utils.PCGRandom
  private readonly places: ReadonlySet<number>

  /** `turn` counts the seeds of a search from 0. */
  constructor(seed: number, turn: number, horizon: number, preemptions: number) {
    this.seed = seed
    this.random = new Utils.PCGRandom(seed)
    // The first walks evenly over the horizon from seed to seed, so that a hundred seeds miss few places.
    const first = placeOf(turn, horizon)
    const others = Array.from({ length: this.random.integer(Math.max(1, preemptions)) }, () => this.random.integer(horizon))
    this.places = new Set(preemptions === 0 ? [] : [first, ...others])
  }

  atOperation(run: Run): Preemption | undefined {
    return run.isContended && this.places.has(run.contended) ? { to: this.oneOf(run.others), long: false } : undefined
  }

  atPick({ ready }: Run): Lane {
    return this.oneOf(ready)
  }

  private oneOf(lanes: ReadonlyArray<Lane>): Lane {
    return lanes[this.random.integer(lanes.length)]!
  }
}

const placeOf = (turn: number, horizon: number): number => Math.floor(((turn * goldenRatio) % 1) * horizon)

const goldenRatio = (Math.sqrt(5) - 1) / 2

/**
 * Probabilistic concurrency testing (Burckhardt and others, ASPLOS 2010): fibers have random priorities, the highest
 * that can go on does, and at `depth - 1` operations, chosen as above, the running one falls below all others. A fault
 * that needs `depth` orderings is found with probability at least 1 / (fibers × horizon^(depth - 1)).
 */
export class ByPriority implements Strategy {
  readonly seed: number
  private readonly random: Utils.PCGRandom
  private readonly priorities: Array<number> = []
  private readonly changes: ReadonlySet<number>
  private lowest = 0

  /** `turn` counts the seeds of a search from 0. */
  constructor(seed: number, turn: number, horizon: number, depth: number) {
    this.seed = seed
    this.random = new Utils.PCGRandom(seed)
    const others = Array.from({ length: Math.max(0, depth - 2) }, () => this.random.integer(horizon))
    this.changes = new Set(depth === 1 ? [] : [placeOf(turn, horizon), ...others])
  }

  atOperation(run: Run, lane: Lane): Preemption | undefined {
    if (!run.isContended) return undefined
    if (this.changes.has(run.contended)) this.priorities[lane.number] = --this.lowest
    const to = this.firstOf(run.others)
    return this.priorityOf(to) > this.priorityOf(lane) ? { to, long: false } : undefined
  }

  atPick({ ready }: Run): Lane {
    return this.firstOf(ready)
  }

  private firstOf(lanes: ReadonlyArray<Lane>): Lane {
    return lanes.reduce((first, lane) => this.priorityOf(lane) > this.priorityOf(first) ? lane : first)
  }

  private priorityOf({ number }: Lane): number {
    return this.priorities[number] ??= this.random.number()
  }
}

/** Which schedules are gone through, in the order of the number of their preemptions. */
export interface Space {
  readonly seed: number
  /** At most. */
  readonly preemptions: number
  /** All orders in which those that can go on might, too. */
  readonly picks: boolean
  /**
   * Each also with one event at each operation: the interruption of each marked fiber that lives, or time that passes
   * to the next timer.
   */
  readonly event: "interrupt" | "timer" | undefined
}

/**
 * Goes through all schedules of a space, once each. Each run tells where the next could depart from it: a schedule's
 * children are itself and one departure more, later than its last. Gives `undefined` for a run that was made before,
 * and is made again for what it tells.
 */
export function* systematically<A>(
  space: Space,
  run: (strategy: Strategy) => A,
  prefix: ReadonlyArray<Departure> = []
): Generator<A | undefined> {
  for (let preemptions = 0; preemptions <= space.preemptions; preemptions++) {
    const isNew = yield* below(space, run, prefix, { preemptions, events: space.event === undefined ? 0 : 1 })
    // Where there is no place for so many, there is none for more.
    if (!isNew) return
  }
}

/** How many departures a schedule may yet make. */
interface Allowance {
  readonly preemptions: number
  readonly events: number
}

/**
 * The schedules that begin with these departures and make as many preemptions besides as are allowed; whether there
 * are any.
 */
function* below<A>(
  space: Space,
  run: (strategy: Strategy) => A,
  departures: ReadonlyArray<Departure>,
  allowance: Allowance
): Generator<A | undefined, boolean> {
  const strategy = new Enumerating({ seed: space.seed, departures }, space, allowance)
  const done = run(strategy)
  let isAny = allowance.preemptions === 0
  yield isAny ? done : undefined
  for (const departure of strategy.next()) {
    const isMore = yield* below(space, run, [...departures, departure], {
      preemptions: allowance.preemptions - (departure.kind === "preempt" ? 1 : 0),
      events: allowance.events - (departure.kind === space.event ? 1 : 0)
    })
    isAny ||= isMore
  }
  return isAny
}

/** Follows a schedule, and notes where after its last departure there are others to be made. */
class Enumerating extends Following {
  private readonly places: Array<{
    readonly kind: Departure["kind"]
    readonly fiber: string
    readonly at: number
    readonly pause: number
    readonly others: ReadonlyArray<Lane>
  }> = []
  private readonly space: Space
  private readonly allowance: Allowance

  constructor(schedule: Pick<Schedule, "departures" | "seed">, space: Space, allowance: Allowance) {
    super(schedule)
    this.space = space
    this.allowance = allowance
  }

  override atOperation(run: Run, lane: Lane): Preemption | undefined {
    if (this.left > 0) return super.atOperation(run, lane)
    const place = { fiber: lane.name, at: lane.operations, pause: 0 }
    if (this.allowance.events > 0 && this.space.event === "interrupt" && run.victims.length > 0) {
      const others = run.victims.filter(({ fiber }) => fiber!.unsafePoll() === null)
      if (others.length > 0) this.places.push({ kind: "interrupt", ...place, others })
    }
    if (this.allowance.events > 0 && this.space.event === "timer" && run.hasTimers) {
      this.places.push({ kind: "timer", ...place, others: [lane] })
    }
    if (this.allowance.preemptions > 0 && run.isContended) {
      this.places.push({ kind: "preempt", ...place, others: [...run.others] })
    }
    return undefined
  }

  override atPick(run: Run, paused: Lane | undefined): Lane {
    if (this.left > 0) return super.atPick(run, paused)
    if (this.space.picks && paused !== undefined) {
      const { name, operations, pauses } = paused
      const others = run.ready.filter((lane) => lane !== run.plain)
      this.places.push({ kind: "pick", fiber: name, at: operations, pause: pauses, others })
    }
    return run.plain
  }

  *next(): Generator<Departure> {
    // A long suspension finds most, and soonest.
    yield* this.departures(true)
    // A short one is among those of which all orders are gone through.
    if (!this.space.picks) yield* this.departures(false)
  }

  private *departures(long: boolean): Generator<Departure> {
    for (const { kind, others, pause, ...place } of this.places) {
      for (const { name: to } of others) {
        if (kind === "preempt") yield { kind, ...place, to, long: long && !this.space.picks }
        else if (!long) continue
        else if (kind === "pick") yield { kind, ...place, pause, to }
        else if (kind === "interrupt") {
          yield { kind, ...place, to, now: false }
          yield { kind, ...place, to, now: true }
        } else {
          yield { kind, ...place, now: false }
          yield { kind, ...place, now: true }
        }
      }
    }
  }
}
