/** The monotonic clock, which no change of the wall clock affects. */
import type * as Clock from "effect/Clock"

/** Milliseconds since a fixed moment of the process. */
export const monotonic = (clock: Clock.Clock): number => Number(clock.unsafeCurrentTimeNanos()) / 1_000_000
