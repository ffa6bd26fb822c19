import * as Effect from "effect/Effect"

/** Lets every fiber that can run do so. `TestClock.adjust`, which wakes those that sleep as well, costs ten times more. */
export const settle: Effect.Effect<void> = Effect.asVoid(Effect.repeatN(Effect.yieldNow(), 200))
