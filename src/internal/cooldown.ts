/**
 * A schedule that is asked for its delays without sleeping them: for how long the n-th consecutive failure answers.
 */
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import type * as Schedule from "effect/Schedule"
import * as ScheduleDecision from "effect/ScheduleDecision"
import * as ScheduleIntervals from "effect/ScheduleIntervals"

export interface Cooldown {
  /** Milliseconds. A schedule that has ended keeps its last delay; so does one that dies, lest waiters hang. */
  readonly next: (cause: Cause.Cause<any>, now: number) => Effect.Effect<number>
  readonly reset: () => void
}

export const make = (schedule: Schedule.Schedule<unknown, Cause.Cause<any>>): Cooldown => {
  let state = schedule.initial
  let delay = 0
  return {
    next: (cause, now) =>
      Effect.suspend(() => schedule.step(now, cause, state)).pipe(
        Effect.map(([next, _, decision]) => {
          state = next
          if (ScheduleDecision.isContinue(decision)) {
            delay = Math.max(0, ScheduleIntervals.start(decision.intervals) - now)
          }
          return delay
        }),
        Effect.catchAllCause(() => Effect.succeed(delay))
      ),
    reset: () => {
      state = schedule.initial
      delay = 0
    }
  }
}
