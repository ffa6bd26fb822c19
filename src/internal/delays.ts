/**
 * Asks a schedule for its delays without sleeping, so that a waiting fiber can publish until when it waits, and the
 * wait can be ended early. (`Schedule.driver` sleeps by itself.)
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Schedule from "effect/Schedule"
import * as ScheduleDecision from "effect/ScheduleDecision"
import * as ScheduleIntervals from "effect/ScheduleIntervals"

export interface Delays<in In> {
  /** The next delay in milliseconds from `now`; none when the schedule has ended. */
  readonly next: (input: In, now: number) => Effect.Effect<Option.Option<number>>
  readonly reset: () => void
}

export const make = <In>(schedule: Schedule.Schedule<unknown, In>): Delays<In> => {
  let state = schedule.initial
  return {
    next: (input, now) =>
      Effect.suspend(() => schedule.step(now, input, state)).pipe(
        Effect.map(([next, _, decision]) => {
          state = next
          return ScheduleDecision.isContinue(decision)
            ? Option.some(Math.max(0, ScheduleIntervals.start(decision.intervals) - now))
            : Option.none()
        })
      ),
    reset: () => {
      state = schedule.initial
    }
  }
}
