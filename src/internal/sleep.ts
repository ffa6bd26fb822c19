/**
 * Sleeps for as long as it is told, `Infinity` included.
 *
 * A timer holds at most 2³¹−1 ms, about 24.8 days. Effect's `Clock` takes a longer sleep for one that never ends.
 */
import * as Effect from "effect/Effect"

const longestTimer = 2 ** 31 - 1

/** Sleeps for so many milliseconds. */
export const sleep = (millis: number): Effect.Effect<void> =>
  millis === Infinity
    ? Effect.never
    : millis > longestTimer
    ? Effect.zipRight(Effect.sleep(longestTimer), Effect.suspend(() => sleep(millis - longestTimer)))
    : Effect.sleep(millis)
