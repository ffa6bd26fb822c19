import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"

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
          // On interruption no observer has to be removed: both fibers end with this effect.
          restore(Effect.async<A | A2, E | E2>((resume) => {
            left.addObserver(resume)
            right.addObserver(resume)
          })).pipe(
            Effect.ensuring(ended(left, right))
          ))
    )
  )

/**
 * Interrupts both and waits until both have ended. `Fiber.interruptAll` does the same in four times the operations, and
 * a connection of a socket has several firsts of two.
 */
const ended = (...fibers: ReadonlyArray<Fiber.RuntimeFiber<unknown, unknown>>): Effect.Effect<void> =>
  Effect.withFiberRuntime((self) => {
    const running = fibers.filter((fiber) => fiber.unsafePoll() === null)
    if (running.length === 0) return Effect.void
    return Effect.async<void>((resume) => {
      let left = running.length
      for (const fiber of running) {
        fiber.addObserver(() => {
          if (--left === 0) resume(Effect.void)
        })
        fiber.unsafeInterruptAsFork(self.id())
      }
    })
  })

/** Interrupts the effect after so many milliseconds, and goes on as `onTimeout` says. */
export const within = <A, E, R, A2, E2>(
  effect: Effect.Effect<A, E, R>,
  millis: number,
  onTimeout: () => Effect.Effect<A2, E2>
): Effect.Effect<A | A2, E | E2, R> => first(effect, Effect.flatMap(Effect.sleep(millis), onTimeout))
