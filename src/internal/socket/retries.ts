/**
 * Whether and when to dial again: the user's `retryable` and `backoff`, within the rules of policy.ts.
 *
 * The delays are those of a capped `Schedule.exponential`, unless the user gives another schedule. `Schedule.driver`
 * would sleep by itself. Here the schedule is only asked for its delays, because the owner publishes until when it
 * waits, and an order ends the wait.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Backoff from "../../Backoff.js"
import type { ConnectionFailure } from "../../WebSocketDialer.js"
import * as Delays from "../delays.js"
import * as Policy from "./policy.js"
import type { Wiring } from "./wiring.js"

/**
 * If a server has sent a message over the limit this many times in a row, it will send it again, so the socket fails.
 */
const mostTooLong = 3

const defaultBackoff = Backoff.exponential()

export class Retries {
  private readonly wiring: Wiring<any, any, any>
  private readonly delays: Delays.Delays<ConnectionFailure>
  /** How many connections in a row, none of them stable, were lost because of a message over the limit. */
  private tooLong = 0

  constructor(wiring: Wiring<any, any, any>) {
    this.wiring = wiring
    this.delays = Delays.make(wiring.options.backoff ?? defaultBackoff)
  }

  /** A copy whose backoff is at its start. */
  fresh(): Retries {
    return new Retries(this.wiring)
  }

  isRetryable(failure: ConnectionFailure): boolean {
    const { events, options: { retryable, session } } = this.wiring
    const byDefault = Policy.isRetryable(failure, session !== undefined) && this.tooLong < mostTooLong
    return events.decided("retryable", () => retryable?.(failure, byDefault) ?? byDefault, byDefault)
  }

  /** Counts losses because of a message over the limit. Any other loss resets the count; a failed dial does not. */
  note(failure: ConnectionFailure): void {
    if (failure._tag === "DialError") return
    this.tooLong = Policy.isTooLong(failure) ? this.tooLong + 1 : 0
  }

  /** The next delay in milliseconds; none if the schedule has ended, or dies. */
  delayAfter(failure: ConnectionFailure): Effect.Effect<Option.Option<number>> {
    const { clock, events, userEffects } = this.wiring
    return Effect.gen(this, function*() {
      const now = clock.unsafeCurrentTimeMillis()
      // A schedule may run the user's effects (`Schedule.tapInput`).
      const scheduled = yield* Effect.catchAllCause(userEffects.run(this.delays.next(failure, now)), (cause) => {
        events.publish({ _tag: "Rejected", callback: "backoff", cause: Cause.squash(cause) })
        return Effect.succeed(Option.none<number>())
      })
      const headers = failure._tag === "DialError" ? failure.headers : undefined
      const retryAfter = headers === undefined ? Option.none() : yield* Backoff.retryAfter(headers)
      return Option.map(scheduled, (scheduled) => Policy.delayAfter(scheduled, retryAfter))
    })
  }

  /** Starts the schedule again. */
  reset(): void {
    this.tooLong = 0
    this.delays.reset()
  }
}
