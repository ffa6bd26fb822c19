/**
 * Sleeps that may be longer than a timer, `Infinity` included.
 *
 * A timer holds at most 2³¹−1 ms, about 24.8 days. Effect's `Clock` takes a longer sleep for one that never ends.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { longestTimer } from "./check.js"

const longest = Duration.toMillis(longestTimer)

/** Sleeps for the given milliseconds. */
export const sleep = (millis: number): Effect.Effect<void> =>
  millis === Infinity
    ? Effect.never
    : millis > longest
    ? Effect.zipRight(Effect.sleep(longest), Effect.suspend(() => sleep(millis - longest)))
    : Effect.sleep(millis)
