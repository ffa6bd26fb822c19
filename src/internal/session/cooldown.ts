/**
 * The cooldown: for how long the n-th consecutive failure of a session answers its callers. `scheduleOf` makes a
 * schedule from the option `cooldown`, and `make` steps through this schedule. refresh.ts asks `next` for the delay
 * when a renewal has failed. A new form or default of the option belongs in `scheduleOf`.
 *
 * A fleet's processes do not ask `next` for each other's cooldown: shared/cooldown.ts computes it from the number of
 * failures in the row. So a rule that depends on the failure belongs in a function that both files call. An OAuth 2
 * session gives a schedule that waits at least as long as `Retry-After` says (`withRetryAfter` in oauth2/retries.ts).
 */
import type * as Cause from "effect/Cause"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Backoff from "../../Backoff.js"
import * as Check from "../check.js"
import * as Delays from "../delays.js"
import { UserEffects } from "../userEffects.js"

export interface Cooldown {
  /**
   * For how many milliseconds this failure answers; `now` is the monotonic time. If the schedule has ended, dies or
   * takes longer than a second for a step, this is the last delay that it gave, or 0 if it gave none. `cause` has the
   * error that the caller gets.
   */
  readonly next: (cause: Cause.Cause<any>, now: number) => Effect.Effect<number>
  readonly reset: () => void
}

/** The schedule for the option `cooldown` of a session. Throws `InvalidOptions`. */
export const scheduleOf = <E>(
  cooldown: Duration.DurationInput | Schedule.Schedule<unknown, Cause.Cause<E>> | undefined
): Schedule.Schedule<unknown, Cause.Cause<E>> => {
  if (cooldown === undefined) return Backoff.exponential({ initial: "1 second", max: "30 seconds", jitter: "none" })
  if (Schedule.isSchedule(cooldown)) return cooldown as Schedule.Schedule<unknown, Cause.Cause<E>>
  return Schedule.spaced(Check.duration("cooldown", cooldown, { min: 0 }))
}

/** The callers wait for the schedule, at most for so many milliseconds. */
export const longestStep = 1000

export const make = (schedule: Schedule.Schedule<unknown, Cause.Cause<any>>): Cooldown => {
  const delays = Delays.make(schedule)
  const steps = new UserEffects()
  let delay = 0
  return {
    next: (cause, now) =>
      steps.within(delays.next(cause, now), longestStep, () => Effect.succeed(Option.none())).pipe(
        Effect.map((next) => (delay = Option.getOrElse(next, () => delay))),
        Effect.catchAllCause(() => Effect.succeed(delay))
      ),
    reset: () => {
      delays.reset()
      delay = 0
    }
  }
}
