/**
 * One run of an effect that controls every suspension: a scheduler that asks a strategy which fiber goes on, and a
 * clock whose time passes only when nothing else can happen. A run is synchronous from its start to its end.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as DefaultServices from "effect/DefaultServices"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as FiberRef from "effect/FiberRef"
import * as FiberRefs from "effect/FiberRefs"
import * as Random from "effect/Random"
import * as Runtime from "effect/Runtime"
import * as RuntimeFlags from "effect/RuntimeFlags"
import * as Scheduler from "effect/Scheduler"
import * as Utils from "effect/Utils"
import type { Outside } from "./outside.js"
import { clearTimeout, setTimeout } from "./realTime.js"
import type { Departure, Schedule } from "./schedule.js"

type AnyFiber = Fiber.RuntimeFiber<unknown, unknown>

/** Decides what the run does next if there are several possibilities. */
export interface Strategy {
  /** The seed of Effect's `Random` in the run. */
  readonly seed: number
  /** Called before each operation of `lane`: whether the fiber is suspended there. */
  readonly atOperation: (run: Run, lane: Lane) => Preemption | undefined
  /** Picks the fiber of `run.ready` that goes on, if there are several. `paused` is the one that ran before. */
  readonly atPick: (run: Run, paused: Lane | undefined) => Lane
}

export interface Preemption {
  /** The fiber of `run.ready` that goes on. */
  readonly to: Lane
  /** The plain order returns to the suspended fiber only when all others wait. */
  readonly long: boolean
}

/** A fiber and its pending tasks, in order. Tasks that belong to no fiber (a wake-up, say) share one lane. */
export interface Lane {
  readonly name: string
  /** Counts the lanes in the order in which they appear in this run. */
  readonly number: number
  readonly fiber: AnyFiber | undefined
  readonly tasks: Array<Scheduler.Task>
  /** The number of the operation that the fiber begins next. */
  operations: number
  /** How often the fiber has paused before that operation. */
  pauses: number
  /**
   * How many operations the runtime itself still runs, between a forced suspension and the operation before which it
   * was forced.
   */
  resuming: number
  /** How many fibers this fiber has started. */
  children: number
  /** The fiber was suspended for long. */
  starved: boolean
}

/** How a run ended. */
export type Outcome<A, E> =
  | { readonly _tag: "Done"; readonly exit: Exit.Exit<A, E> }
  /** Nothing can happen any more, and the effect has not ended. */
  | { readonly _tag: "Deadlock" }
  /** The effect waits for something that was started outside Effect's fibers, or let time pass while that went on. */
  | { readonly _tag: "Escaped"; readonly started: ReadonlyArray<string> }
  /** The effect went on for more than `maxOperations`. */
  | { readonly _tag: "Livelock" }

/** The parts that all runs of an effect share. */
export interface Setting {
  readonly runtime: Runtime.Runtime<never>
  readonly maxOperations: number
  readonly outside: Outside
  /**
   * Whether errors that are made in a run have a stack. Stacks are a sixth of the cost of a program that makes errors.
   */
  readonly hasStacks: boolean
}

/**
 * The setting for an effect that inherits the context and FiberRefs of the fiber that explores it, except those that
 * would make that fiber visible.
 */
export const settingFor = (
  runtime: Runtime.Runtime<never>,
  options: Omit<Setting, "runtime">
): Setting => ({
  ...options,
  runtime: Runtime.make({
    context: runtime.context,
    runtimeFlags: RuntimeFlags.make(RuntimeFlags.Interruption, RuntimeFlags.CooperativeYielding),
    fiberRefs: [FiberRef.interruptedCause, FiberRef.currentSupervisor, FiberRef.currentRuntimeFlags].reduce(
      (refs, ref: FiberRef.FiberRef<any>) => FiberRefs.delete(refs, ref),
      runtime.fiberRefs
    )
  })
})

interface Timer {
  readonly at: number
  readonly fire: () => void
}

export class Run implements Scheduler.Scheduler {
  /** Virtual time, in milliseconds. */
  now = 0
  /** How many operations have begun, over all fibers. */
  operations = 0
  /** How many operations began while another fiber could have gone first. */
  contended = 0
  /** Fibers that can go on, in the order in which they became ready. */
  readonly ready: Array<Lane> = []
  readonly lanes: Array<Lane> = []
  readonly departures: Array<Departure> = []
  /** Fibers that the effect has marked for interruption. */
  readonly victims: Array<Lane> = []
  /** A digest of which fiber did what, in order: equal runs have equal digests. */
  trace = 0

  private readonly laneOf = new Map<AnyFiber | undefined, Lane>()
  private readonly timers: Array<Timer> = []
  private orphans = 0
  private running: Lane | undefined
  /**
   * The running fiber comes last; before it are the fibers that were running when it was started (by `Runtime.runFork`,
   * say).
   */
  private readonly stack: Array<Lane> = []
  private paused: Lane | undefined
  private favoured: Lane | undefined
  private phase: "running" | "finishing" | "finished" | "released" = "running"

  private readonly random: Utils.PCGRandom

  readonly setting: Setting
  readonly strategy: Strategy
  constructor(setting: Setting, strategy: Strategy) {
    this.setting = setting
    this.strategy = strategy
    this.random = new Utils.PCGRandom(strategy.seed)
  }

  get schedule(): Schedule {
    return {
      seed: this.strategy.seed,
      maxOperations: this.setting.maxOperations,
      departures: this.departures
    }
  }

  execute<A, E>(effect: Effect.Effect<A, E>): Outcome<A, E> {
    return this.withGlobals(() => this.start(effect))
  }

  /** The run also replaces `Math.random`: Effect uses it to hash objects by identity. */
  private withGlobals<A>(work: () => A): A {
    const { random } = Math
    const { stackTraceLimit } = Error
    Math.random = () => this.random.number()
    if (!this.setting.hasStacks) Error.stackTraceLimit = 0
    try {
      return work()
    } finally {
      Math.random = random
      if (!this.setting.hasStacks) Error.stackTraceLimit = stackTraceLimit
    }
  }

  private start<A, E>(effect: Effect.Effect<A, E>): Outcome<A, E> {
    const { maxOperations, outside, runtime } = this.setting
    outside.forget()
    const services = FiberRefs.getOrDefault(runtime.fiberRefs, DefaultServices.currentServices)
    const fiberRefs = FiberRefs.updateAs(runtime.fiberRefs, {
      fiberId: FiberId.unsafeMake(),
      fiberRef: DefaultServices.currentServices,
      value: Context.add(
        Context.add(services, Clock.Clock, virtualClock(this)),
        Random.Random,
        Random.make(this.strategy.seed)
      )
    })
    const root = Runtime.runFork(Runtime.make({ ...runtime, fiberRefs }), effect, {
      scheduler: this,
      immediate: false
    })
    for (;;) {
      while (this.ready.length > 0) {
        this.step()
        const exit = root.unsafePoll()
        if (exit !== null) return { _tag: "Done", exit }
        if (this.operations > maxOperations) return { _tag: "Livelock" }
      }
      const started = outside.started(this.timers.length === 0)
      if (started.length > 0) {
        this.release()
        return { _tag: "Escaped", started }
      }
      if (this.timers.length === 0) return { _tag: "Deadlock" }
      this.passTime()
    }
  }

  /**
   * Interrupts the fibers and lets them go on in real time: they hold something real, which their finalizers must
   * release.
   */
  private release(): void {
    this.phase = "released"
    for (const { at, fire } of this.timers) setTimeout(fire, at - this.now)
    for (const { fiber } of this.lanes) {
      if (fiber?.unsafePoll() === null) fiber.unsafeInterruptAsFork(FiberId.none)
    }
  }

  /** Interrupts what is left of the run (daemons, the fibers of a deadlock), so that nothing remains. */
  finish(): void {
    if (this.phase === "released") return
    this.phase = "finishing"
    for (const { fiber } of this.lanes) {
      if (fiber?.unsafePoll() === null) fiber.unsafeInterruptAsFork(FiberId.none)
    }
    this.withGlobals(() => {
      for (let steps = 0; steps < mostFinishingSteps; steps++) {
        if (this.ready.length > 0) this.step()
        else if (this.timers.length > 0) this.passTime()
        else break
      }
    })
    this.phase = "finished"
    this.setting.outside.forget()
  }

  // --- the scheduler ---------------------------------------------------------

  shouldYield(fiber: AnyFiber): number | false {
    if (this.phase !== "running") return Scheduler.defaultShouldYield(fiber)
    const lane = this.running?.fiber === fiber ? this.running : this.enter(this.laneFor(fiber))
    if (lane.resuming > 0) {
      lane.resuming--
      return false
    }
    const isContended = this.isContended
    const preemption = this.strategy.atOperation(this, lane)
    // A fiber that is set never to yield is not preempted.
    const isPreempted = preemption !== undefined && fiber.getFiberRef(FiberRef.currentMaxOpsBeforeYield) < neverYields
    if (isPreempted) {
      const { long, to } = preemption
      this.departures.push({ kind: "preempt", fiber: lane.name, at: lane.operations, to: to.name, long })
      // The fiber that started this one synchronously goes on by itself.
      if (to !== this.outer) this.favoured = to
      lane.starved = long
    }
    if (isContended) this.contended++
    this.operations++
    lane.operations++
    lane.pauses = 0
    this.trace = (Math.imul(this.trace, 31) + lane.number) | 0
    if (isPreempted || this.favoured !== undefined) {
      lane.resuming = resumption()
      return 0
    }
    return this.operations > this.setting.maxOperations ? 0 : false
  }

  private enter(lane: Lane): Lane {
    const depth = this.stack.indexOf(lane)
    if (depth < 0) this.stack.push(lane)
    else this.stack.length = depth + 1
    return this.running = lane
  }

  /** The fiber that was running when the current fiber was started. */
  private get outer(): Lane | undefined {
    return this.stack.at(-2)
  }

  get isContended(): boolean {
    return this.ready.length > 0 || this.outer !== undefined
  }

  /** Fibers that could go on instead of the running one. */
  get others(): ReadonlyArray<Lane> {
    return this.outer === undefined ? this.ready : [...this.ready, this.outer]
  }

  scheduleTask(task: Scheduler.Task, priority: number, fiber?: AnyFiber): void {
    if (this.phase === "finished") return
    if (this.phase === "released") return Scheduler.defaultScheduler.scheduleTask(task, priority, fiber)
    const lane = this.laneFor(fiber)
    if (lane.tasks.push(task) === 1) this.ready.push(lane)
  }

  /** Interrupts `victim` before the next operation of `lane`; if `now`, the victim goes on immediately. */
  interrupt(lane: Lane, victim: Lane, now: boolean): void {
    this.departures.push({ kind: "interrupt", fiber: lane.name, at: lane.operations, to: victim.name, now })
    victim.fiber?.unsafeInterruptAsFork(FiberId.none)
    if (now && victim !== lane && this.ready.includes(victim)) this.favoured = victim
  }

  get hasTimers(): boolean {
    return this.timers.length > 0
  }

  /** Lets time pass to the next timer while `lane` computes; if `now`, `lane` goes on only when all others wait. */
  hasten(lane: Lane, now: boolean): void {
    if (!this.hasTimers) return
    this.departures.push({ kind: "timer", fiber: lane.name, at: lane.operations, now })
    this.passTime()
    this.running = lane
    if (now && this.ready.length > 0) {
      lane.starved = true
      this.favoured = this.plain
    }
  }

  private laneFor(fiber: AnyFiber | undefined): Lane {
    let lane = this.laneOf.get(fiber)
    if (lane === undefined) {
      lane = {
        name: fiber === undefined ? "*" : this.nextName(),
        number: this.lanes.length,
        fiber,
        tasks: [],
        operations: 0,
        pauses: 0,
        resuming: 0,
        children: 0,
        starved: false
      }
      this.lanes.push(lane)
      this.laneOf.set(fiber, lane)
    }
    return lane
  }

  private nextName(): string {
    return this.running === undefined ? `${this.orphans++}` : `${this.running.name}.${++this.running.children}`
  }

  /** Marks a fiber for interruption by the strategies that interrupt. */
  mark(fiber: AnyFiber): void {
    const lane = this.laneFor(fiber)
    if (!this.victims.includes(lane)) this.victims.push(lane)
  }

  private step(): void {
    const lane = this.next()
    if (lane === this.ready[0]) this.ready.shift()
    else this.ready.splice(this.ready.indexOf(lane), 1)
    this.trace = (Math.imul(this.trace, 31) + ~lane.number) | 0
    this.stack.length = 0
    this.enter(lane)
    lane.starved = false
    // All pending tasks of one fiber run in a row, as in Effect's own scheduler.
    if (lane.tasks.length === 1) lane.tasks.pop()!()
    else for (const task of lane.tasks.splice(0)) task()
    this.paused = lane
    lane.pauses++
  }

  /** The fiber that goes on in the plain order. */
  get plain(): Lane {
    const first = this.ready[0]!
    return first.starved ? this.ready.find(({ starved }) => !starved) ?? first : first
  }

  private next(): Lane {
    const { favoured, paused, ready } = this
    this.favoured = undefined
    if (this.phase !== "running") return ready[0]!
    if (favoured !== undefined && ready.includes(favoured)) return favoured
    if (ready.length === 1) return ready[0]!
    const lane = this.strategy.atPick(this, paused)
    if (lane !== this.plain && paused !== undefined) {
      this.departures.push({
        kind: "pick",
        fiber: paused.name,
        at: paused.operations,
        pause: paused.pauses,
        to: lane.name
      })
    }
    return lane
  }

  // --- the clock -------------------------------------------------------------

  /**
   * Timers fire in the order of their times, and equal times in the order in which they were set. Gives a function that
   * clears the timer.
   */
  after(millis: number, fire: () => void): () => void {
    if (this.phase === "released") {
      const timer = setTimeout(fire, millis)
      return () => clearTimeout(timer)
    }
    const timer: Timer = { at: this.now + millis, fire }
    const after = this.timers.findLastIndex(({ at }) => at <= timer.at)
    this.timers.splice(after + 1, 0, timer)
    return () => {
      const index = this.timers.indexOf(timer)
      if (index >= 0) this.timers.splice(index, 1)
    }
  }

  /** Fires one timer. Fibers that it wakes go on before the next timer of the same moment fires, as in Node. */
  private passTime(): void {
    this.running = undefined
    const { at, fire } = this.timers.shift()!
    this.now = at
    fire()
  }
}

/** Effect's setting for a fiber that never yields is at least this number of operations. */
const neverYields = 2 ** 31

/** An effect that has not ended this many steps after its interruption is abandoned. */
const mostFinishingSteps = 10_000

/** The longest delay of JavaScript's timers, in milliseconds. The live clock never fires a longer one. */
const longestTimer = 2 ** 31 - 1

const virtualClock = (run: Run): Clock.Clock => {
  return {
    [Clock.ClockTypeId]: Clock.ClockTypeId,
    unsafeCurrentTimeMillis: () => run.now,
    unsafeCurrentTimeNanos: () => BigInt(Math.round(run.now * 1_000_000)),
    currentTimeMillis: Effect.sync(() => run.now),
    currentTimeNanos: Effect.sync(() => BigInt(Math.round(run.now * 1_000_000))),
    sleep: (duration) =>
      Effect.async<void>((resume) => {
        const millis = Duration.toMillis(duration)
        return millis > longestTimer ? undefined : Effect.sync(run.after(millis, () => resume(Effect.void)))
      })
  }
}

/**
 * After a preemption, the runtime asks about this many more operations until it returns to the preempted operation.
 * They are not counted, so that an operation has the same number whether others were preempted before it or not.
 */
const resumption = (): number => {
  if (operationsOfResumption === undefined) {
    const count = (preempted: number): number => {
      const tasks: Array<Scheduler.Task> = []
      let operations = 0
      Runtime.runFork(Runtime.defaultRuntime, Effect.asVoid(Effect.void), {
        immediate: false,
        scheduler: {
          shouldYield: () => ++operations === preempted ? 0 : false,
          scheduleTask: (task) => tasks.push(task)
        }
      })
      for (const task of tasks) task()
      return operations
    }
    operationsOfResumption = count(1) - count(0)
  }
  return operationsOfResumption
}

let operationsOfResumption: number | undefined
