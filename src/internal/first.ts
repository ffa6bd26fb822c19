import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { wait } from "./wait.js"

/**
 * The first of two to end, however it ends; the other is interrupted, and waited for.
 *
 * Effect 3.22's races (and `timeout`, which is one) make their fibers in one operation and start them in a later one.
 * A fiber that is interrupted between the two waits for ever for fibers that never run.
 */
export const first = <A, E, R, A2, E2, R2>(
  one: Effect.Effect<A, E, R>,
  other: Effect.Effect<A2, E2, R2>
): Effect.Effect<A | A2, E | E2, R | R2> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(
      Effect.fork(restore(one)),
      (left) =>
        Effect.flatMap(Effect.fork(restore(other)), (right) =>
          restore(wait<A | A2, E | E2>((resume) => {
            left.addObserver(resume)
            right.addObserver(resume)
            return undefined
          })).pipe(
            Effect.ensuring(Fiber.interruptAll([left, right]))
          ))
    )
  )

/** Interrupts the effect after so many milliseconds, and goes on as `onTimeout` says. */
export const within = <A, E, R, A2, E2>(
  effect: Effect.Effect<A, E, R>,
  millis: number,
  onTimeout: () => Effect.Effect<A2, E2>
): Effect.Effect<A | A2, E | E2, R> => first(effect, Effect.flatMap(Effect.sleep(millis), onTimeout))
