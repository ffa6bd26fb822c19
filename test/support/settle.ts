import * as Effect from "effect/Effect"
import * as TestClock from "effect/TestClock"

/** Lets every fiber that can run do so, those that sleep for no time included. */
export const settle: Effect.Effect<void> = TestClock.adjust(0).pipe(
  Effect.zipRight(Effect.repeatN(Effect.yieldNow(), 10)),
  Effect.repeatN(20),
  Effect.asVoid
)
