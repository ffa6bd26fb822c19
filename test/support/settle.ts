import * as Effect from "effect/Effect"

/** Lets every fiber that can run do so. (`TestClock.adjust` wakes fibers that sleep as well, at ten times the cost.) */
export const settle: Effect.Effect<void> = Effect.asVoid(Effect.repeatN(Effect.yieldNow(), 200))
