import * as Effect from "effect/Effect"

/** Lets every fiber that can run do so. No time passes: `TestClock.adjust` wakes the fibers that sleep, and costs more. */
export const settle: Effect.Effect<void> = Effect.asVoid(Effect.repeatN(Effect.yieldNow(), 200))
