/**
 * The fiber that replaces an open connection before a server cuts it at a known age: it makes the next one ready while
 * the current one serves. The owner does the replacing.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import { type ConnectionFailure, ConnectionLost } from "../../WebSocketDialer.js"
import type { Retries } from "./retries.js"

interface Replacing<R> {
  /** Milliseconds. */
  readonly renewAfter: number
  /** False if a replacement was ready before, and ended before the current connection was replaced. */
  readonly isFirst: boolean
  /** The replacement's own backoff, beside the socket's. */
  readonly retries: Retries
  /** An earlier connection has been replaced and is still closing. */
  readonly isReplaced: () => boolean
  /** Makes the next connection ready; gives the failure if that fails. */
  readonly open: Effect.Effect<Option.Option<ConnectionFailure>, never, R>
}

/** Ends when a replacement is ready, or when there will be none: then the connection serves until it is cut. */
export const replacing = <R>(
  { isFirst, isReplaced, open, renewAfter, retries }: Replacing<R>
): Effect.Effect<void, never, R> =>
  Effect.gen(function*() {
    if (isFirst) {
      const early = yield* Random.nextRange(0.9, 1)
      do yield* Effect.sleep(renewAfter * early)
      while (
        // At most one replaced connection waits for the consumer to read it out.
        isReplaced()
      )
    } else {
      const delay = yield* retries.delayAfter(new ConnectionLost({ reason: "Reset" }))
      yield* Effect.sleep(Option.getOrElse(delay, () => renewAfter))
    }
    for (;;) {
      const opened = yield* open
      if (Option.isNone(opened)) return
      const failure = opened.value
      const delay = retries.isRetryable(failure) ? yield* retries.delayAfter(failure) : Option.none()
      if (Option.isNone(delay)) return
      yield* Effect.sleep(delay.value)
    }
  })
