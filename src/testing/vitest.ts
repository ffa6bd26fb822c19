/**
 * `@effect/vitest`, with a tester for interleavings.
 *
 * - `HOLDFAST_SEED` sets the first seed. Default: 0, so that a test has the same result on every machine and every day.
 *   A nightly run can set another seed each day, to explore other schedules.
 * - `HOLDFAST_EFFORT` multiplies `seeds` and `limit`: 5 for a nightly run, 0.1 for a quick look. Above 1 the test's
 *   time limit grows with it. Default: 1.
 *
 * @since 0.1.0
 */

import * as V from "@effect/vitest"
import * as Arr from "effect/Array"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { identity } from "effect/Function"
import * as Option from "effect/Option"
import { longestTimer } from "../internal/check.js"
import { InvalidOptions } from "../InvalidOptions.js"
import * as Interleavings from "./Interleavings.js"

export * from "@effect/vitest"

/**
 * How a test is explored, and for how long.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options extends Interleavings.Options {
  /**
   * The test's own limit, in milliseconds of real time, at which the runner ends the test as a failure. Default:
   * 60,000. The limit is always at least one and a half times `budget`, even if it is given. 0, `Infinity`, and a limit
   * longer than 24.8 days (the longest timer) mean no limit.
   */
  readonly timeout?: number | undefined
  /**
   * Real time for the exploration, at most 24.8 days. When the budget is spent without a failure, the test passes, and
   * prints how much has been tried: a slow machine tries less, and does not fail because of that (but a test with
   * `fails` does: it passes only if a failure is found). What `limit` has left out is printed in one line for all tests
   * of a `describe`. Default: two thirds of the test's limit, so that a third is left to shrink and report a failure.
   */
  readonly budget?: Duration.DurationInput | undefined
}

/**
 * Declares a test of interleavings.
 *
 * @since 0.1.0
 * @category models
 */
export type Test = <A, E>(name: string, effect: Effect.Effect<A, E>, options?: Options) => void

/**
 * Declares tests of interleavings, with the variants of vitest's `it`.
 *
 * @since 0.1.0
 * @category models
 */
export interface Tester extends Test {
  readonly skip: Test
  readonly skipIf: (condition: unknown) => Test
  readonly runIf: (condition: unknown) => Test
  readonly only: Test
  /** Passes if the exploration finds a failure, and fails if it finds none, even if only its budget was spent. */
  readonly fails: Test
}

/**
 * A test that fails if the effect fails under any schedule that is tried. The message has the line that replays the
 * failure. `task.meta.interleavings` is the number of runs, for a reporter.
 *
 * @example
 * ```ts
 * import { it } from "effect-holdfast/testing/vitest"
 * import * as Effect from "effect/Effect"
 * import * as Ref from "effect/Ref"
 *
 * it.interleavings(
 *   "two increments are two",
 *   Effect.gen(function*() {
 *     const counter = yield* Ref.make(0)
 *     const increment = Ref.update(counter, (n) => n + 1)
 *     yield* Effect.all([increment, increment], { concurrency: "unbounded" })
 *     if ((yield* Ref.get(counter)) !== 2) return yield* Effect.fail("an update was lost")
 *   })
 * )
 * ```
 *
 * @since 0.1.0
 * @category testing
 */
export const interleavings: Tester = Object.assign(testerOn((...args) => V.it(...args)), {
  skip: testerOn((...args) => V.it.skip(...args)),
  skipIf: (condition: unknown) => testerOn((...args) => V.it.skipIf(condition)(...args)),
  runIf: (condition: unknown) => testerOn((...args) => V.it.runIf(condition)(...args)),
  only: testerOn((...args) => V.it.only(...args)),
  // Vitest's own `fails` would pass for a refused option, too, and for a test that ran out of time.
  fails: testerOn((...args) => V.it(...args), failing)
})

/**
 * `it` of `@effect/vitest`, and `it.interleavings`.
 *
 * @since 0.1.0
 * @category re-exports
 */
export const it: V.Vitest.Methods & { readonly interleavings: Tester } = Object.assign(V.it, { interleavings })

type Declare = (name: string, options: { readonly timeout: number }, test: V.TestFunction) => void

type Exploration = ReturnType<typeof Interleavings.explore>

function testerOn(
  declare: Declare,
  judged: (exploration: Exploration) => Effect.Effect<unknown, unknown> = identity
): Test {
  return (name, effect, { timeout, ...options } = {}) => {
    const { effort, seed } = environment()
    const limit = limitOf(timeout, millisOf(options.budget), Math.max(1, effort))
    // The first of these hooks to run reports all tests that have run.
    V.afterAll(() => printLimited())
    declare(name, { timeout: limit }, ({ signal, task }) =>
      Interleavings.explore(effect, {
        ...options,
        seed: options.seed ?? seed,
        seeds: Math.ceil((options.seeds ?? 1_000) * effort),
        limit: Math.ceil((options.limit ?? 10_000) * effort),
        budget: options.budget ?? (limit < Infinity ? limit * 2 / 3 : undefined)
      }).pipe(
        Effect.tapBoth({
          onSuccess: (report) =>
            Effect.sync(() => {
              task.meta.interleavings = report.interleavings
              if (report.outOfTime) printCoverage(report)
              else if (cutIn(report).length > 0) limited.push(cutIn(report))
            }),
          onFailure: (failure) =>
            Effect.sync(() => {
              if (failure._tag === "InterleavingFailure") task.meta.interleavings = failure.interleavings
            })
        }),
        judged,
        // When a test has timed out, its exploration is interrupted.
        (exploration) => Effect.runPromise(exploration, { signal })
      ))
  }
}

/** Succeeds if the exploration has found a failure. */
function failing(exploration: Exploration): Effect.Effect<void, InvalidOptions> {
  return exploration.pipe(
    Effect.flatMap(() => Effect.dieMessage("a failure was expected, and none was found")),
    Effect.catchTag("InterleavingFailure", () => Effect.void)
  )
}

/** A test's time limit in milliseconds; `Infinity`: none. */
const limitOf = (timeout: number | undefined, budget: number, effort: number): number => {
  // Vitest takes 0 for no limit.
  if (timeout !== undefined && timeout <= 0) return Infinity
  const limit = Math.max(timeout ?? 60_000, 1.5 * budget) * effort
  // A timer that is set for longer fires immediately.
  return limit > Duration.toMillis(longestTimer) ? Infinity : limit
}

/** 0 for an invalid budget, which the exploration then refuses. */
const millisOf = (budget: Duration.DurationInput | undefined): number =>
  Option.match(Duration.decodeUnknown(budget), { onNone: () => 0, onSome: Duration.toMillis })

const printCoverage = ({ coverage, interleavings, searches }: Interleavings.Report): void => {
  const tried = searches.map(({ strategy }) => triedOf(strategy, coverage[strategy]))
  // oxlint-disable-next-line no-console
  console.log(`${numeral(interleavings)} interleavings, then the budget was spent: ${[...new Set(tried)].join(", ")}`)
}

const triedOf = (strategy: Interleavings.Strategy, { places, tried }: Interleavings.Coverage): string =>
  `${strategy} ${numeral(tried)} of ${numeral(places)} places`

/** A strategy whose schedules were cut by the limit. `random` and `pct` have no end, so no limit cuts them. */
interface Cut {
  readonly strategy: Interleavings.Strategy
  readonly coverage: Interleavings.Coverage
}

const cutIn = ({ coverage, searches }: Interleavings.Report): ReadonlyArray<Cut> =>
  searches
    .filter(({ complete, strategy }) => !complete && strategy !== "random" && strategy !== "pct")
    .map(({ strategy }) => ({ strategy, coverage: coverage[strategy] }))

/** For each test that a limit has cut since the last report: its strategies that were cut. */
const limited: Array<ReadonlyArray<Cut>> = []

const printLimited = (): void => {
  const tests = limited.splice(0)
  if (tests.length === 0) return
  const tried = Object.entries(Arr.groupBy(tests.flat(), ({ strategy }) => strategy)).map(([strategy, cuts]) => {
    const sum = (one: "places" | "tried") => cuts.reduce((sum, { coverage }) => sum + coverage[one], 0)
    return triedOf(strategy as Interleavings.Strategy, { places: sum("places"), tried: sum("tried") })
  })
  const explorations = tests.length === 1 ? "1 exploration was" : `${numeral(tests.length)} explorations were`
  // oxlint-disable-next-line no-console
  console.log(`${explorations} cut by the limit: ${tried.join(", ")}`)
}

const numeral = (n: number): string => n.toLocaleString("en")

declare module "vitest" {
  interface TaskMeta {
    interleavings?: number
  }
}

const environment = (): { readonly seed: number; readonly effort: number } => ({
  seed: fromEnvironment("HOLDFAST_SEED", isSeed, "a whole number of at least 0") ?? 0,
  effort: fromEnvironment("HOLDFAST_EFFORT", isEffort, "a number above 0") ?? 1
})

const isSeed = (value: number): boolean => Number.isSafeInteger(value) && value >= 0

const isEffort = (value: number): boolean => Number.isFinite(value) && value > 0

const fromEnvironment = (name: string, isValid: (value: number) => boolean, what: string): number | undefined => {
  const text = globalThis.process?.env[name]
  if (text === undefined || text === "") return undefined
  const value = Number(text)
  if (!isValid(value)) throw new InvalidOptions({ option: name, value: text, reason: `must be ${what}` })
  return value
}
