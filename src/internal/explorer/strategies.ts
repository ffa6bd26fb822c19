/**
 * Strategies that follow a schedule, or choose one at random. `space.ts` goes through schedules one after the other.
 */
import * as Utils from "effect/Utils"
import type { Lane, Preemption, Run, Strategy } from "./run.js"
import type { Departure, Schedule } from "./schedule.js"
import { goldenRatio } from "./spread.js"

/** The departures at one fiber's operations, by their number. */
interface Plan {
  readonly preempt: Map<number, Departure & { readonly kind: "preempt" }>
  readonly pick: Map<number, ReadonlyArray<Departure & { readonly kind: "pick" }>>
  readonly interrupt: Map<number, Departure & { readonly kind: "interrupt" }>
  readonly timer: Map<number, Departure & { readonly kind: "timer" }>
}

/** The plain order, except for a schedule's departures. */
export class Following implements Strategy {
  readonly seed: number
  private readonly plans = new Map<string, Plan>()
  private lane: Lane | undefined
  private plan: Plan | undefined
  /** How many departures are still to be made. */
  left: number

  constructor({ departures, seed }: Pick<Schedule, "departures" | "seed">) {
    this.seed = seed
    this.left = departures.length
    for (const departure of departures) {
      const plan = this.plans.get(departure.fiber) ??
        { preempt: new Map(), pick: new Map(), interrupt: new Map(), timer: new Map() }
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
 * Picks any ready fiber each time, and makes one to `preemptions` suspensions, before operations at which other fibers
 * could have run instead. `horizon` is the number of such operations in an earlier run.
 */
export class AtRandom implements Strategy {
  readonly seed: number
  private readonly random: Utils.PCGRandom
  private readonly places: ReadonlySet<number>

  /** `turn` counts the seeds of a search from 0. */
  constructor(seed: number, turn: number, horizon: number, preemptions: number) {
    this.seed = seed
    this.random = new Utils.PCGRandom(seed)
    // The first suspension moves evenly over the horizon from seed to seed, so that a hundred seeds miss few places.
    const first = placeOf(turn, horizon)
    const others = Array.from(
      { length: this.random.integer(Math.max(1, preemptions)) },
      () => this.random.integer(horizon)
    )
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

/**
 * Probabilistic concurrency testing (Burckhardt and others, ASPLOS 2010): fibers have random priorities, and the ready
 * fiber with the highest priority runs. At `depth - 1` operations, chosen as in `AtRandom`, the running fiber's
 * priority falls below all others. A fault that needs `depth` orderings is found with probability at least 1 / (fibers
 * × horizon^(depth - 1)).
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
