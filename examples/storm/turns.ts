/** A caller's repeated work during the storm. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"

/** In milliseconds: until the first turn, and from each to the next. */
export interface Pace {
  readonly first: number
  readonly next: () => number
}

/** Runs at least once. A turn that has begun before the end is completed. */
export const takeTurns = Effect.fnUntraced(function*<R>(
  endsAt: number,
  pace: Pace,
  turn: (turn: number) => Effect.Effect<void, never, R>
) {
  const sleep = (millis: number) =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => Effect.sleep(Math.max(0, Math.min(millis, endsAt - now))))
  yield* sleep(pace.first)
  for (let turns = 0; turns === 0 || (yield* Clock.currentTimeMillis) < endsAt; turns++) {
    yield* turn(turns)
    yield* sleep(Math.max(10, pace.next()))
  }
})
