/**
 * The cooldown of a fleet: for how long a failure answers the callers of all processes. The row counts the failures.
 * The process that failed writes the end of the cooldown into the row, and its own session uses the same cooldown.
 */
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as ScheduleDecision from "effect/ScheduleDecision"
import * as ScheduleInterval from "effect/ScheduleInterval"
import * as Delays from "../delays.js"
import { longestStep } from "../session/cooldown.js"
import type { UserEffects } from "../userEffects.js"

/** Higher numbers of failures count as this number, since by then a schedule no longer grows. */
const mostFailures = 100

export const make = (
  schedule: Schedule.Schedule<unknown, Cause.Cause<any>>,
  monotonic: () => number,
  calls: UserEffects
) => {
  let fromRow: number | undefined
  return {
    /**
     * The schedule's delay after `failures` failures of the whole fleet, in milliseconds. If the schedule has ended,
     * dies or takes too long, this is the last delay that it gave.
     */
    ofFleet: (failures: number, cause: Cause.Cause<any>): Effect.Effect<number> =>
      Effect.suspend(() => {
        const delays = Delays.make(schedule)
        let last = 0
        const step: Effect.Effect<void> = Effect.map(delays.next(cause, monotonic()), (delay) => {
          if (delay._tag === "Some") last = delay.value
        })
        const steps = Effect.repeatN(step, Math.min(failures, mostFailures) - 1)
        return Effect.map(
          Effect.catchAllCause(calls.within(steps, longestStep, () => Effect.void), () => Effect.void),
          () => last
        )
      }),
    /** Sets the delay, in milliseconds, that `ofSession` gives for the next failure instead of its own. */
    set: (millis: number | undefined): void => {
      fromRow = millis
    },
    /** For the session of this process: gives the delay that `set` has left, once; otherwise steps the schedule. */
    ofSession: Schedule.makeWithState(
      schedule.initial,
      (now, cause: Cause.Cause<any>, state) => {
        if (fromRow === undefined) return schedule.step(now, cause, state)
        const decision = ScheduleDecision.continueWith(ScheduleInterval.after(now + fromRow))
        fromRow = undefined
        return Effect.succeed([state, undefined, decision] as const)
      }
    )
  }
}
