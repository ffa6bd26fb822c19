/**
 * For how long the n-th consecutive failure of a session answers. The rule is a schedule, the option `cooldown`; `make`
 * asks it for its delays. `tell` of refresh.ts asks for the next one when a renewal has failed.
 */
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Schedule from "effect/Schedule"
import * as Delays from "../delays.js"

export interface Cooldown {
  /**
   * Milliseconds from `now`, on the monotonic clock. A schedule that has ended keeps its last delay; so does one that
   * dies, lest waiters hang.
   */
  readonly next: (cause: Cause.Cause<any>, now: number) => Effect.Effect<number>
  readonly reset: () => void
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
