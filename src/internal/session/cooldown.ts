/**
 * The cooldown: for how long the n-th consecutive failure of a session answers its callers. `scheduleOf` makes a
 * schedule from the option `cooldown`, and `make` steps through this schedule. refresh.ts asks `next` for the delay
 * when a renewal has failed. A second rule belongs into `next` if it depends on the failure, otherwise into
 * `scheduleOf`. Two kinds of sessions replace the schedule: a fleet counts its failures together (`cooldownOf` in
 * SharedSession.ts), and an OAuth 2 session respects `Retry-After` (`cooldownOf` in oauth2/retries.ts).
 */
import type * as Cause from "effect/Cause"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Backoff from "../../Backoff.js"
import * as Check from "../check.js"
import * as Delays from "../delays.js"

export interface Cooldown {
  /**
   * Milliseconds from `now`, on the monotonic clock. A schedule that has ended keeps its last delay. So does a schedule
   * that dies, so that waiters do not hang.
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

export const make = (schedule: Schedule.Schedule<unknown, Cause.Cause<any>>): Cooldown => {
  const delays = Delays.make(schedule)
  let delay = 0
  return {
    next: (cause, now) =>
      delays.next(cause, now).pipe(
        Effect.map((next) => (delay = Option.getOrElse(next, () => delay))),
        Effect.catchAllCause(() => Effect.succeed(delay))
      ),
    reset: () => {
      delays.reset()
      delay = 0
    }
  }
}
