import * as Headers from "@effect/platform/Headers"
import { assert, describe, it } from "@effect/vitest"
import * as Backoff from "effect-holdfast/Backoff"
import { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as Chunk from "effect/Chunk"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as ScheduleDecision from "effect/ScheduleDecision"
import * as ScheduleIntervals from "effect/ScheduleIntervals"
import * as TestClock from "effect/TestClock"
import * as fc from "fast-check"

/** The schedule's outputs, and the delays that it would sleep, in milliseconds. */
const steps = (schedule: Schedule.Schedule<Duration.Duration, unknown>, count: number) =>
  Effect.gen(function*() {
    const outputs: Array<number> = []
    const delays: Array<number> = []
    let state = schedule.initial
    let now = 1_000_000
    for (let i = 0; i < count; i++) {
      const [next, output, decision] = yield* schedule.step(now, undefined, state)
      assert.isTrue(ScheduleDecision.isContinue(decision))
      if (ScheduleDecision.isContinue(decision)) {
        const start = ScheduleIntervals.start(decision.intervals)
        delays.push(start - now)
        now = start
      }
      outputs.push(Duration.toMillis(output))
      state = next
    }
    return { outputs, delays }
  })

describe("exponential", () => {
  it.effect("doubles from 500 ms to 30 seconds by default", () =>
    Effect.gen(function*() {
      const { delays, outputs } = yield* steps(Backoff.exponential({ jitter: "none" }), 9)
      assert.deepStrictEqual(delays, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000])
      assert.deepStrictEqual(outputs, delays)
    }))

  it.effect("starts with the initial delay, grows by the factor and stops at the maximum", () =>
    Effect.gen(function*() {
      const schedule = Backoff.exponential({ initial: "1 second", factor: 3, max: "20 seconds", jitter: "none" })
      assert.deepStrictEqual((yield* steps(schedule, 5)).delays, [1000, 3000, 9000, 20000, 20000])
    }))

  it.effect("B1: gives no delay above the maximum, NaN, negative or infinite in ten thousand steps", () =>
    Effect.gen(function*() {
      for (const jitter of ["full", "none"] as const) {
        const { delays, outputs } = yield* steps(Backoff.exponential({ jitter }), 10_000)
        for (const delay of [...delays, ...outputs]) {
          assert.isTrue(delay >= 0 && delay <= 30_000, `${jitter}: ${delay}`)
        }
      }
    }))

  it.effect("B1: keeps to its bounds for any options it accepts", () =>
    Effect.promise(() =>
      fc.assert(
        fc.asyncProperty(
          fc.double({ min: 0.001, max: 1e6, noNaN: true }),
          fc.double({ min: 1, max: 1e9, noNaN: true }),
          fc.double({ min: 1, max: 2 ** 31 - 1, noNaN: true }),
          fc.constantFrom("full" as const, "none" as const),
          async (initial, factor, max, jitter) => {
            fc.pre(initial <= max)
            const schedule = Backoff.exponential({ initial, factor, max, jitter })
            const { delays } = await Effect.runPromise(steps(schedule, 60))
            for (const delay of delays) assert.isTrue(delay >= 0 && delay <= max + 1e-3, `${delay} > ${max}`)
          }
        ),
        { numRuns: 200 }
      )
    ))

  it.effect("B1: draws full jitter after the cap, uniformly from zero to the delay", () =>
    Effect.gen(function*() {
      const { delays } = yield* steps(Backoff.exponential(), 4_000)
      const atCap = delays.slice(10)
      const quarters = [0, 0, 0, 0]
      for (const delay of atCap) quarters[Math.min(3, Math.floor(delay / 7_500))]!++
      for (const quarter of quarters) assert.approximately(quarter / atCap.length, 0.25, 0.04)
    }))

  it.effect("gives the delays of a retry", () =>
    Effect.gen(function*() {
      let attempts = 0
      const fiber = yield* Effect.sync(() => attempts++).pipe(
        Effect.zipRight(Effect.fail("down")),
        Effect.retry(Backoff.exponential({ jitter: "none", max: "2 seconds" })),
        Effect.fork
      )
      const seen: Array<number> = []
      for (const delay of [500, 1000, 2000, 2000]) {
        yield* TestClock.adjust(delay - 1)
        seen.push(attempts)
        yield* TestClock.adjust(1)
        seen.push(attempts)
      }
      assert.deepStrictEqual(seen, [1, 2, 2, 3, 3, 4, 4, 5])
      yield* Fiber.interrupt(fiber)
    }))

  it.effect("can be cut short by another schedule", () =>
    Effect.gen(function*() {
      const schedule = Backoff.exponential({ jitter: "none" }).pipe(Schedule.intersect(Schedule.recurs(2)))
      const delays = yield* Schedule.run(Schedule.delays(schedule), 0, [1, 2, 3, 4])
      assert.strictEqual(Chunk.size(delays), 3)
    }))

  it("B2: throws InvalidOptions that names the option and the value", () => {
    const refused: ReadonlyArray<[Parameters<typeof Backoff.exponential>[0], string, unknown]> = [
      [{ initial: "40 seconds" }, "initial", "40 seconds"],
      [{ initial: 0 }, "initial", 0],
      [{ initial: -5 }, "initial", -5],
      [{ initial: NaN }, "initial", NaN],
      [{ initial: "-1 second" as "1 second" }, "initial", "-1 second"],
      [{ initial: "soon" as "1 second" }, "initial", "soon"],
      [{ factor: 0.5 }, "factor", 0.5],
      [{ factor: NaN }, "factor", NaN],
      [{ factor: Infinity }, "factor", Infinity],
      [{ max: NaN }, "max", NaN],
      [{ max: Infinity }, "max", Infinity],
      [{ max: 2 ** 31 }, "max", 2 ** 31],
      [{ jitter: "some" as "none" }, "jitter", "some"],
      [null as never, "options", null],
      [5 as never, "options", "<number>"]
    ]
    for (const [options, option, value] of refused) {
      try {
        Backoff.exponential(options)
        assert.fail(`accepted ${option} ${String(value)}`)
      } catch (error) {
        assert.instanceOf(error, InvalidOptions)
        assert.strictEqual((error as InvalidOptions).option, option)
        assert.deepStrictEqual((error as InvalidOptions).value, value)
        assert.include((error as InvalidOptions).message, option)
      }
    }
  })
})

describe("retryAfter", () => {
  const at = (value: string, now: string, more: Readonly<Record<string, string>> = {}) =>
    Effect.gen(function*() {
      yield* TestClock.setTime(Date.parse(now))
      const delay = yield* Backoff.retryAfter(Headers.fromInput({ "Retry-After": value, ...more }))
      return Option.getOrUndefined(Option.map(delay, Duration.toMillis))
    })
  const now = "2026-11-21T08:49:37Z"

  it.effect("reads delta-seconds", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* at("120", now), 120_000)
      assert.strictEqual(yield* at(" 0 ", now), 0)
    }))

  it.effect("rounds a fraction of a second up, so that no client comes back too early", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* at("299.997", now), 300_000)
      assert.strictEqual(yield* at("1.5", now), 2_000)
      assert.strictEqual(yield* at("2.0", now), 2_000)
    }))

  it.effect("reads the three forms of an HTTP-date against the clock", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* at("Sat, 21 Nov 2026 08:50:07 GMT", now), 30_000)
      assert.strictEqual(yield* at("Saturday, 21-Nov-26 08:50:07 GMT", now), 30_000)
      assert.strictEqual(yield* at("Sat Nov 21 08:50:07 2026", now), 30_000)
      assert.strictEqual(yield* at("Sun Nov  6 08:49:37 1994", "1994-11-06T08:49:30Z"), 7_000)
    }))

  it.effect("measures an HTTP-date by the server's own clock, if the response has it", () =>
    Effect.gen(function*() {
      const date = { Date: "Sat, 21 Nov 2026 08:49:47 GMT" }
      for (const day of ["20", "21", "22"]) {
        const ours = `2026-11-${day}T08:49:37Z`
        assert.strictEqual(yield* at("Sat, 21 Nov 2026 08:50:07 GMT", ours, date), 20_000)
        assert.strictEqual(yield* at("120", ours, date), 120_000)
      }
      assert.strictEqual(yield* at("Sat, 21 Nov 2026 08:50:07 GMT", now, { Date: "yesterday" }), 30_000)
    }))

  it.effect("takes the second 60 of a leap second for the first of the next minute", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* at("Sat, 31 Dec 2016 23:59:60 GMT", "2016-12-31T23:59:50Z"), 10_000)
    }))

  it.effect("takes a two-digit year more than 50 years ahead for the past", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* at("Sunday, 06-Nov-94 08:49:37 GMT", now), 0)
      assert.isAbove((yield* at("Sunday, 06-Nov-40 08:49:37 GMT", now))!, 0)
    }))

  it.effect("is zero for a date that has passed", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* at("Sun, 06 Nov 1994 08:49:37 GMT", now), 0)
    }))

  it.effect("never exceeds the longest timer", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* at("9".repeat(400), now), 2 ** 31 - 1)
      assert.strictEqual(yield* at("Sat, 21 Nov 9999 08:50:07 GMT", now), 2 ** 31 - 1)
    }))

  it.effect("is none for a header that is missing or malformed", () =>
    Effect.gen(function*() {
      for (
        const value of [
          "",
          "-5",
          "1.",
          ".5",
          "soon",
          "1e3",
          "120, 120",
          "2026-11-21",
          "Sat, 21 Foo 2026 08:50:07 GMT",
          "Sat, 21 Nov 2026 25:50:07 GMT",
          "Tue, 31 Feb 2026 08:50:07 GMT",
          "Tue, 00 Dec 2026 08:50:07 GMT",
          "Sat, 21 Nov 2026 08:50:61 GMT",
          "Sat, 21 Nov 2026 08:50:07 CET"
        ]
      ) {
        assert.isUndefined(yield* at(value, now), value)
      }
      assert.isTrue(Option.isNone(yield* Backoff.retryAfter(Headers.empty)))
    }))
})
