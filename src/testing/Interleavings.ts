/**
 * Runs an effect under thousands of schedules, finds the one that breaks it, and replays it.
 *
 * **The problem.** A race in an Effect program is a suspension at the wrong place: between a `get` and a `set`, between
 * taking a permit and noting that it was taken. The runtime suspends fibers where they wait and after every 2,048
 * operations, so a test that runs once a day hits the wrong place once in a year.
 *
 * **The idea.** Every suspension of a fiber goes through its `Scheduler`, and all time through its `Clock`. Here both
 * are the explorer's: it decides between any two operations which fiber goes on, and time passes only when nothing else
 * can happen, so that `Effect.sleep` costs nothing. A run is synchronous, takes microseconds, and is described
 * completely by the few places where it departs from the plain order. The replay line of a failure lists these places.
 *
 * **What it guarantees.** The same effect and the same replay line give the same run. A program in which nothing can
 * happen any more is reported as a deadlock, immediately and not by a timeout. A failure is shrunk, for some seconds at
 * most: none of the remaining preemptions can be left out, and if one or two preemptions are found to be enough, only
 * these remain.
 *
 * **What it does not.**
 * - The explorer interrupts and preempts between Effect's operations, not inside one.
 * - Computing takes no time: a timer fires only when no fiber can go on. Only the strategy `timers` fires it earlier.
 * - The explorer tries schedules that Effect's own scheduler would not choose, since that lets a fiber go on for 2,048
 *   operations.
 * - If more than 128 fibers could run next, 32 of them are tried at each place, and the search is not complete.
 * - Each run has its own randomness and time: Effect's `Random` and `Clock`, and `Math.random`. `Date.now`, state
 *   that outlives a run (a request cache, objects that were made outside the effect) and the order of fiber ids in a
 *   `HashSet` or as keys of a `HashMap` make runs differ; a failure then says so.
 * - Sleeps pass by themselves: provide no `TestClock`. A part of the effect that runs with another scheduler is not
 *   explored.
 * - If one part of a program sleeps again and again, a deadlock in another part is reported as a `Livelock`.
 * - Work outside Effect's fibers (a promise, a timer, I/O) cannot end during a run. If a run would wait or let time
 *   pass meanwhile, it is reported as `Escaped`, with what was started. This needs Node; elsewhere the report is a
 *   deadlock.
 * - A fiber that computes for ever without an operation hangs the explorer, as it hangs any program.
 * - Errors that are made in a run have no stack, since stacks would cost more than most programs do. A failing schedule
 *   is run once more with stacks, for the report. If that run differs, the reported cause has no stack.
 * - Only `exhaustive` proves anything, and only within its number of preemptions; the others find faults.
 *
 * @since 0.1.0
 */

import * as Cause from "effect/Cause"
import * as Console from "effect/Console"
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as DefaultServices from "effect/DefaultServices"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberRef from "effect/FiberRef"
import * as FiberRefs from "effect/FiberRefs"
import * as HashSet from "effect/HashSet"
import * as Record from "effect/Record"
import * as Runtime from "effect/Runtime"
import * as Check from "../internal/check.js"
import { Narrator } from "../internal/explorer/narrate.js"
import { Outside } from "../internal/explorer/outside.js"
import { afterTurn, elapsed } from "../internal/explorer/realTime.js"
import * as Run from "../internal/explorer/run.js"
import * as Schedule from "../internal/explorer/schedule.js"
import {
  Budget,
  defaultPreemptions,
  isByChance,
  type Ran,
  runOnce,
  type Searched,
  searchesOf
} from "../internal/explorer/search.js"
import { shrink } from "../internal/explorer/shrink.js"
import * as Space from "../internal/explorer/space.js"
import * as Strategies from "../internal/explorer/strategies.js"
import { InvalidOptions } from "../InvalidOptions.js"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * How schedules are chosen.
 *
 * - `random`: at each point any fiber that can go on may be chosen, with some preemptions anywhere. It finds the widest
 *   range of faults.
 * - `pct`: random priorities, changed `depth - 1` times (Burckhardt and others, "A Randomized Scheduler with
 *   Probabilistic Guarantees of Finding Bugs", ASPLOS 2010). It finds faults that need a fiber to be starved for long.
 * - `sweep`: one preemption (or up to `preemptions`) at every operation, in favour of every fiber that could go on. The
 *   cheapest strong search, and the one to try first.
 * - `exhaustive`: every order of the fibers with up to `preemptions`. For a few fibers of a few dozen operations.
 * - `interrupt`: interrupts each fiber that `victim` marks at every operation while it lives, with up to
 *   `preemptions` besides.
 * - `timers`: lets the next timer fire at every operation, as it does on a slow machine: a timeout in the middle of
 *   work. For effects that must be correct however slow the machine is.
 *
 * @since 0.1.0
 * @category models
 */
export type Strategy = "random" | "pct" | "sweep" | "exhaustive" | "interrupt" | "timers"

/**
 * How an effect is explored.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /**
   * One strategy, or several that run one after the other. Default: `sweep`, which is cheapest, then `random`, then
   * `pct`.
   */
  readonly strategy?: Strategy | ReadonlyArray<Strategy> | undefined
  /** How many schedules `random` and `pct` try each. Default: 1,000, a tenth of a second for a small effect. */
  readonly seeds?: number | undefined
  /** The first seed, which also seeds Effect's `Random` in the runs. Default: 0. */
  readonly seed?: number | undefined
  /**
   * The largest number of preemptions in a run. Default: 3 for `random`, 2 for `exhaustive`, 1 for `sweep`, none for
   * `interrupt` and `timers`: most races need one or two, and the number of schedules grows exponentially with it.
   * `pct` has `depth` instead.
   */
  readonly preemptions?: number | undefined
  /** For `pct`: how many ordering constraints a fault may need. Default: 3. */
  readonly depth?: number | undefined
  /**
   * How many schedules the other strategies try each, at most. If `sweep`, `interrupt` or `timers` has more schedules,
   * two thirds of the tried places are spread evenly over the whole run, and one third over the code, so that a race
   * behind sixty fibers that do other things is found with a limit of 100. If many fibers run the same code, their
   * places are distinguished only after an operation that several of them run as one value, like `Ref.get` of a shared
   * reference. A race of two fibers on something else (a variable, a map) among many fibers with the same code may need
   * a larger limit. The seed decides which places are tried. `exhaustive` tries the first schedules. The report says
   * how many places there were and how many were tried. Default: 10,000.
   */
  readonly limit?: number | undefined
  /**
   * Real time for the whole search, shared by the strategies: each has an equal part of what the strategies before it
   * have left. If the budget is spent without a failure, the search succeeds with what it has tried. The plain run is
   * made in any case, and a run that has begun is not cut short. Shrinking a failure may take another quarter of the
   * budget. From 1 millisecond to 2³¹−1 (24.8 days). Default: as long as the search takes.
   */
  readonly budget?: Duration.DurationInput | undefined
  /** A run that goes on for longer is a `Livelock`. Default: 100,000 operations. */
  readonly maxOperations?: number | undefined
}

/**
 * The report of an exploration that has found no failure.
 *
 * @since 0.1.0
 * @category models
 */
export interface Report {
  /**
   * How many schedules were run. The plain run, in which nothing is preempted, is made once for all strategies. A
   * limited search with several preemptions makes some more runs, which only count schedules.
   */
  readonly interleavings: number
  /** Whether every schedule of the strategies was run; `random` and `pct`, which have no end, do not count. */
  readonly complete: boolean
  /** Whether the budget was spent before all strategies had ended. */
  readonly outOfTime: boolean
  /** The coverage of each strategy; `{ places: 0, tried: 0 }` for a strategy that was not asked for. */
  readonly coverage: Readonly<Record<Strategy, Coverage>>
  /** How many operations the longest run had. */
  readonly operations: number
  /** A digest of which fiber did what in which run. Equal explorations have equal digests. */
  readonly digest: number
  readonly searches: ReadonlyArray<Search>
}

/**
 * How much of the plain run, in which nothing is preempted, a strategy has tried.
 *
 * A place is an operation together with one thing that the strategy could do before it: preempt the fiber in favour of
 * one other fiber; interrupt one fiber, which goes on immediately or later; let time pass to the next timer. A long
 * preemption lasts until all other fibers wait, a short one until the fiber's turn comes again. `sweep` tries both, as
 * two places; `random`, `pct` and `exhaustive` only make short ones. When a fiber has stopped, `exhaustive` also has a
 * place for each other fiber that could go on.
 *
 * A place counts as tried if a run departed there, whatever came after. Places that exist only in a run that has
 * already departed are not counted.
 *
 * @since 0.1.0
 * @category models
 */
export interface Coverage {
  readonly places: number
  readonly tried: number
}

/**
 * How many schedules one strategy has run, and what it found.
 *
 * @since 0.1.0
 * @category models
 */
export interface Search {
  readonly strategy: Strategy
  /** How many schedules this search has run. The plain run counts as a run of the first search. */
  readonly interleavings: number
  readonly complete: boolean
}

/**
 * One run.
 *
 * @since 0.1.0
 * @category models
 */
export interface Trace<A, E> {
  /** How the run ended. If it did not end, the exit is a defect: the `InterleavingFailure` that says why. */
  readonly exit: Exit.Exit<A, E>
  /** Whether the effect reached all places at which the line departs. If not, the line was made for another effect. */
  readonly fits: boolean
  /** Which fiber ran which operations, and why it stopped, line by line. */
  readonly schedule: string
  readonly operations: number
  /** A digest of which fiber did what. Equal runs have equal digests. */
  readonly digest: number
}

// -----------------------------------------------------------------------------
// errors
// -----------------------------------------------------------------------------

/**
 * A schedule under which the effect does not succeed.
 *
 * - `Failure`: it ended with `cause`.
 * - `Deadlock`: it has not ended, and nothing can happen any more; `waits` says which fiber waits for what.
 * - `Escaped`: it waits, or let time pass, while something that was started outside Effect's fibers goes on; `started`
 *   lists it by Node's names. Its fibers are interrupted and go on in real time, to release what they hold.
 * - `Livelock`: it went on for longer than `maxOperations`.
 *
 * @since 0.1.0
 * @category errors
 */
export class InterleavingFailure<out E = unknown> extends Data.TaggedError("InterleavingFailure")<{
  readonly reason: "Failure" | "Deadlock" | "Escaped" | "Livelock"
  /** The seed of the schedule that was found, before it was shrunk. */
  readonly seed: number
  /** How many runs were made until the failure was found. */
  readonly interleavings: number
  /** How many preemptions the shrunk schedule has. */
  readonly preemptions: number
  /** The shrunk schedule: which fiber ran which operations, and why it stopped. */
  readonly schedule: string
  /** Empty if the effect did not end. */
  readonly cause: Cause.Cause<any>
  readonly waits: ReadonlyArray<string>
  readonly started: ReadonlyArray<string>
  /** The line for `replay` and `trace`. */
  readonly replay: string
  /** Whether the schedule always ran in the same way. If not, the effect depends on something outside the run. */
  readonly reproducible: boolean
}> {
  declare readonly cause: Cause.Cause<E>
  override get message(): string {
    return [
      `${headlines[this.reason]} (seed ${this.seed}, run ${this.interleavings}, ${this.preemptions} preemptions)`,
      ...Cause.isEmpty(this.cause) ? [] : [Cause.pretty(this.cause)],
      ...this.waits.map((line) => `  ${line}`),
      ...this.started.length === 0 ? [] : [`  started outside: ${this.started.join(", ")}`],
      "schedule (fiber, its operations, why it stopped):",
      this.schedule,
      ...this.reproducible
        ? []
        : ["The same schedule has run differently: the effect depends on something outside its run."],
      `replay: Interleavings.replay(effect, ${JSON.stringify(this.replay)})`
    ].join("\n")
  }
}

const headlines = {
  Failure: "the effect fails under an interleaving",
  Deadlock: "deadlock: nothing can happen any more",
  Escaped: "the effect leaves Effect's fibers, where no schedule reaches",
  Livelock: "livelock: the effect does not come to an end"
}

// -----------------------------------------------------------------------------
// exploring
// -----------------------------------------------------------------------------

/**
 * Runs the effect under many schedules and fails with the first under which it does not succeed, shrunk.
 *
 * The effect contains its own assertions: the explorer looks for a failure, a defect or an interruption of the effect.
 * Each run starts from the beginning, so the effect must make its state inside itself. It inherits the caller's fiber
 * references and default services, except that the clock is virtual and begins at 0, `Random` is seeded, and the
 * caller's loggers and console are silent.
 *
 * Inside an effect that is explored itself, the whole exploration is one step.
 *
 * @example
 * ```ts
 * import { Interleavings } from "effect-holdfast/testing"
 * import * as Effect from "effect/Effect"
 * import * as Ref from "effect/Ref"
 *
 * const lostUpdate = Effect.gen(function*() {
 *   const counter = yield* Ref.make(0)
 *   const increment = Effect.flatMap(Ref.get(counter), (n) => Ref.set(counter, n + 1))
 *   yield* Effect.all([increment, increment], { concurrency: "unbounded" })
 *   if ((yield* Ref.get(counter)) !== 2) return yield* Effect.fail("an update was lost")
 * })
 *
 * // Fails: one preemption between `get` and `set` is enough.
 * const found = Interleavings.explore(lostUpdate, { strategy: "sweep" })
 * ```
 *
 * @since 0.1.0
 * @category testing
 */
export const explore = <A, E>(
  effect: Effect.Effect<A, E>,
  options?: Options
): Effect.Effect<Report, InterleavingFailure<E> | InvalidOptions> =>
  Effect.gen(function*() {
    const checked = yield* Check.validated(() => validate(options))
    const setting = yield* settingOf(checked.maxOperations, { isSilent: true })
    const clock = new Budget(checked.budget, checked.strategies.length)
    const ongoing = searchesOf(effect, setting, checked, clock)
    const sliced = yield* slicing(setting)
    let interleavings = 0
    let operations = 0
    let digest = 0
    let hasVictim = false
    const found = yield* sliced((): Step<Ended<A, E>> => {
      const next = ongoing.next()
      if (next.done === true) return done({ _tag: "Nothing", ...next.value })
      const { isNew, outcome, run } = next.value
      const isFailed = hasFailed(outcome)
      if (isNew || isFailed) {
        interleavings++
        operations = Math.max(operations, run.operations)
        digest = (Math.imul(digest, 31) + run.trace) | 0
        hasVictim ||= run.victims.length > 0
      }
      return isFailed ? done({ _tag: "Failure", ran: next.value }) : more
    })
    if (found._tag === "Failure") {
      const shrinking = shrinkingOf(effect, setting, found.ran, clock.extended())
      const least = yield* sliced((): Step<Schedule.Schedule> => {
        const next = shrinking.next()
        return next.done === true ? done(next.value) : more
      })
      // The first run was in the plain order, and did not fail.
      const hadSucceeded = interleavings > 1 && least.departures.length === 0 && least.seed === checked.seed
      return yield* yield* sliced(() => done(failureOf(effect, setting, found.ran, least, interleavings, hadSucceeded)))
    }
    const { coverages, searches } = found
    if (!hasVictim && searches.some(({ strategy }) => strategy === "interrupt")) {
      return yield* new InvalidOptions({
        option: "strategy",
        value: "interrupt",
        reason: "needs an effect that marks a fiber with `victim`"
      })
    }
    const inOrder = searches.filter(({ strategy }) => !isByChance(strategy))
    const complete = inOrder.length > 0 && inOrder.every(({ complete }) => complete)
    const coverage = Record.map(defaultPreemptions, (_, strategy: Strategy): Coverage => {
      const { places, tried } = coverages.get(strategy) ?? new Space.Coverage([])
      return { places, tried: tried.size }
    })
    return { interleavings, complete, outOfTime: clock.isCut, coverage, operations, digest, searches }
  })

type Ended<A, E> =
  | { readonly _tag: "Failure"; readonly ran: Ran<A, E> }
  | { readonly _tag: "Nothing" } & Searched

/** The outcome of one step of some long work. */
type Step<A> = { readonly isDone: false } | { readonly isDone: true; readonly value: A }

const more = { isDone: false } as const
const done = <A>(value: A): Step<A> => ({ isDone: true, value })

/**
 * How long the explorer keeps the thread at a time: short enough for a heartbeat, and long compared with the cost of
 * one turn of the event loop.
 */
const sliceMillis = 25

/** Runs long work step by step under observation, and lets the event loop turn in between. */
const slicing = ({ outside }: Run.Setting): Effect.Effect<<A>(step: () => Step<A>) => Effect.Effect<A>> =>
  Effect.withFiberRuntime((fiber) => {
    // The event loop does not turn inside a run.
    const slice = fiber.currentScheduler instanceof Run.Run ? Infinity : sliceMillis
    const turn = Effect.async<void>((resume) => Effect.sync(afterTurn(() => resume(Effect.void))))
    const sliced = <A>(step: () => Step<A>): Effect.Effect<A> =>
      Effect.suspend(() => {
        const until = elapsed() + slice
        const last = outside.observe(() => {
          let last = step()
          while (!last.isDone && elapsed() < until) last = step()
          return last
        })
        return last.isDone ? Effect.succeed(last.value) : Effect.flatMap(turn, () => sliced(step))
      })
    return Effect.succeed(sliced)
  })

/**
 * The properties that must stay the same while a failure is shrunk: how the run ended, and with which error (without
 * its numbers).
 */
const kindOf = (outcome: Run.Outcome<unknown, unknown>): string => {
  if (outcome._tag !== "Done") return outcome._tag
  if (Exit.isSuccess(outcome.exit)) return "Success"
  const { cause } = outcome.exit
  const error: any = Cause.squash(cause)
  const what = `${error?._tag ?? error?.name ?? typeof error} ${
    error?.message ?? (typeof error === "string" ? error : "")
  }`
  return `${Cause.isInterruptedOnly(cause)} ${Cause.isFailure(cause)} ${what.replaceAll(/\d+/g, "0")}`
}

/** An `Escaped` failure is not shrunk, since each run would start the outside work once more. */
function* shrinkingOf<A, E>(
  effect: Effect.Effect<A, E>,
  setting: Run.Setting,
  found: Ran<A, E>,
  isOver: () => boolean
): Generator<void, Schedule.Schedule> {
  const kind = kindOf(found.outcome)
  if (kind === "Escaped") return found.run.schedule
  const shrinking = shrink(found.run.schedule, mostOperations, (strategy) => {
    const { outcome, run } = runOnce(effect, setting, strategy)
    return { failed: kindOf(outcome) === kind ? run.schedule : undefined, operations: run.operations }
  })
  for (let next = shrinking.next();; next = shrinking.next()) {
    if (next.done === true || isOver()) return next.value
    yield
  }
}

/** The bound of each part of shrinking one failure: some seconds. */
const mostOperations = 1_000_000

const failureOf = <A, E>(
  effect: Effect.Effect<A, E>,
  setting: Run.Setting,
  found: Ran<A, E>,
  least: Schedule.Schedule,
  interleavings: number,
  hadSucceeded: boolean
): InterleavingFailure<E> => {
  const kind = kindOf(found.outcome)
  const narrated = narrate(effect, setting, least)
  const again = kind === "Escaped" ? undefined : runOnce(effect, setting, new Strategies.Following(least))
  // A message may contain a stack, so only runs without stacks can be compared by their kinds.
  const isAlike = again === undefined
    ? narrated.kind === kind
    : hasFailed(narrated.outcome) && narrated.digest === again.run.trace && kindOf(again.outcome) === kind
  return new InterleavingFailure<E>({
    ...narrated.what,
    reason: reasonOf(found.outcome),
    cause: causeOf(isAlike || narrated.kind === kind ? narrated.outcome : found.outcome),
    seed: found.run.strategy.seed,
    interleavings,
    preemptions: Schedule.preemptions(least),
    replay: Schedule.format(least),
    reproducible: !hadSucceeded && isAlike
  })
}

const hasFailed = (outcome: Run.Outcome<unknown, unknown>): boolean =>
  outcome._tag !== "Done" || Exit.isFailure(outcome.exit)

const reasonOf = (outcome: Run.Outcome<unknown, unknown>): InterleavingFailure["reason"] =>
  outcome._tag === "Done" ? "Failure" : outcome._tag

const causeOf = <E>(outcome: Run.Outcome<unknown, E>): Cause.Cause<E> =>
  outcome._tag === "Done" && Exit.isFailure(outcome.exit) ? outcome.exit.cause : Cause.empty

/** Runs a schedule once more, and describes the run. */
const narrate = <A, E>(effect: Effect.Effect<A, E>, setting: Run.Setting, schedule: Schedule.Schedule) => {
  const narrator = new Narrator()
  const strategy = new Strategies.Following(schedule)
  const run = new Run.Run(narrator.observing({ ...setting, hasStacks: true }), narrator.noting(strategy))
  const outcome = run.execute(effect)
  const what = {
    schedule: narrator.schedule(run),
    waits: outcome._tag === "Done" ? [] : narrator.waits(run),
    started: outcome._tag === "Escaped" ? outcome.started : []
  }
  run.finish()
  return {
    outcome,
    what,
    kind: kindOf(outcome),
    fits: strategy.left === 0,
    digest: run.trace,
    operations: run.operations
  }
}

// -----------------------------------------------------------------------------
// replaying
// -----------------------------------------------------------------------------

/**
 * Runs the effect once more by the replay line of a failure, and gives its exit. If the effect did not end, the exit is
 * a defect: the `InterleavingFailure`. Logs are printed. If the effect does not reach all places of the line, this is
 * another run than the failure's (`fits` of `trace` says so).
 *
 * @example
 * ```ts
 * import { Interleavings } from "effect-holdfast/testing"
 * import * as Effect from "effect/Effect"
 *
 * declare const effect: Effect.Effect<number>
 *
 * const exit = Interleavings.replay(effect, "holdfast:1 r0 p0.1.1@21>0.1.2!")
 * ```
 *
 * @since 0.1.0
 * @category testing
 */
export const replay = <A, E>(
  effect: Effect.Effect<A, E>,
  replay: string
): Effect.Effect<Exit.Exit<A, E>, InvalidOptions> => Effect.map(trace(effect, replay), ({ exit }) => exit)

/**
 * Like `replay`, but gives the schedule and the other details of the run, too. Without a line, runs the plain order.
 *
 * @example
 * ```ts
 * import { Interleavings } from "effect-holdfast/testing"
 * import * as Effect from "effect/Effect"
 *
 * declare const effect: Effect.Effect<number>
 *
 * const printed = Effect.flatMap(Interleavings.trace(effect), ({ schedule }) => Effect.log(schedule))
 * ```
 *
 * @since 0.1.0
 * @category testing
 */
export const trace = <A, E>(
  effect: Effect.Effect<A, E>,
  replay?: string
): Effect.Effect<Trace<A, E>, InvalidOptions> =>
  Effect.gen(function*() {
    const schedule = replay === undefined ? Schedule.parse("holdfast:1 r0") : Schedule.parse(String(replay))
    if (schedule === undefined) {
      return yield* new InvalidOptions({
        option: "replay",
        value: replay,
        reason: "must be the replay line of a failure"
      })
    }
    const setting = yield* settingOf(schedule.maxOperations, { isSilent: false })
    return yield* Effect.sync(() =>
      setting.outside.observe(() => {
        const { digest, fits, operations, outcome, what } = narrate(effect, setting, schedule)
        return {
          fits,
          exit: outcome._tag === "Done" ? outcome.exit : Exit.die(
            new InterleavingFailure({
              ...what,
              reason: outcome._tag,
              cause: Cause.empty,
              seed: schedule.seed,
              interleavings: 1,
              preemptions: Schedule.preemptions(schedule),
              replay: Schedule.format(schedule),
              reproducible: true
            })
          ),
          schedule: what.schedule,
          operations,
          digest
        }
      })
    )
  })

// -----------------------------------------------------------------------------
// marking
// -----------------------------------------------------------------------------

/**
 * Marks the fiber that runs `self`: from here on the strategy `interrupt` interrupts this fiber. Do not mark the root,
 * since its interruption is a failure. Outside an exploration this does nothing.
 *
 * @example
 * ```ts
 * import { Interleavings } from "effect-holdfast/testing"
 * import * as Effect from "effect/Effect"
 * import * as Fiber from "effect/Fiber"
 *
 * const keepsItsPermits = Effect.gen(function*() {
 *   const semaphore = yield* Effect.makeSemaphore(1)
 *   const fiber = yield* Effect.fork(Interleavings.victim(semaphore.withPermits(1)(Effect.void)))
 *   yield* semaphore.withPermits(1)(Effect.void)
 *   yield* Fiber.await(fiber)
 *   yield* semaphore.withPermits(1)(Effect.void)
 * })
 *
 * const report = Interleavings.explore(keepsItsPermits, { strategy: "interrupt" })
 * ```
 *
 * @since 0.1.0
 * @category testing
 */
export const victim = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.withFiberRuntime((fiber) => {
    if (fiber.currentScheduler instanceof Run.Run) fiber.currentScheduler.mark(fiber)
    return self
  })

// -----------------------------------------------------------------------------
// options
// -----------------------------------------------------------------------------

const everyday: ReadonlyArray<Strategy> = ["sweep", "random", "pct"]

const validate = (options: Options = {}) => {
  const { strategy = everyday } = Check.object("options", options)
  const strategies = Array.isArray(strategy) ? strategy as ReadonlyArray<Strategy> : [strategy as Strategy]
  for (const one of strategies) Check.oneOf("strategy", one, Object.keys(defaultPreemptions) as ReadonlyArray<Strategy>)
  if (strategies.length === 0) {
    throw new InvalidOptions({ option: "strategy", value: strategies, reason: "must name at least one" })
  }
  return {
    strategies,
    seeds: Check.count("seeds", options.seeds ?? 1_000, 1, 1_000_000_000),
    seed: Check.count("seed", options.seed ?? 0, 0, 1_000_000_000_000),
    preemptions: options.preemptions === undefined
      ? undefined
      : Check.count("preemptions", options.preemptions, 0, 1_000),
    depth: Check.count("depth", options.depth ?? 3, 1, 1_000),
    limit: Check.count("limit", options.limit ?? 10_000, 1),
    maxOperations: Check.count("maxOperations", options.maxOperations ?? Schedule.defaultMaxOperations, 1),
    budget: options.budget === undefined
      ? Infinity
      : Check.millis("budget", options.budget, { min: 1 })
  }
}

const settingOf = (
  maxOperations: number,
  { isSilent }: { readonly isSilent: boolean }
): Effect.Effect<Run.Setting> =>
  Effect.map(
    Effect.runtime<never>(),
    (runtime) =>
      Run.settingFor(isSilent ? silenced(runtime) : runtime, {
        maxOperations,
        outside: new Outside(),
        hasStacks: false
      })
  )

/** Thousands of runs would print their lines thousands of times. */
const silenced = (runtime: Runtime.Runtime<never>): Runtime.Runtime<never> => {
  const services = FiberRefs.getOrDefault(runtime.fiberRefs, DefaultServices.currentServices)
  return runtime.pipe(
    Runtime.setFiberRef(FiberRef.currentLoggers, HashSet.empty()),
    Runtime.setFiberRef(DefaultServices.currentServices, Context.add(services, Console.Console, silentConsole))
  )
}

const quietly = new Proxy({}, { get: () => () => undefined }) as Console.UnsafeConsole

const silentConsole = new Proxy({ unsafe: quietly } as Console.Console, {
  get: (console, method) =>
    method === "unsafe" ? console.unsafe : method === "clear" || method === "groupEnd" ? Effect.void : () => Effect.void
})
