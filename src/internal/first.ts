import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"

/**
 * Runs two effects. The first to end decides the outcome, success or not; the other is interrupted, and this waits for
 * its end.
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
 * Interrupts the fibers and waits until all have ended. `Fiber.interruptAll` takes four times as many operations, and
 * each connection of a socket uses `first` several times.
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

/** Interrupts the effect after the given milliseconds, and continues with `onTimeout`. */
export const within = <A, E, R, A2, E2>(
  effect: Effect.Effect<A, E, R>,
  millis: number,
  onTimeout: () => Effect.Effect<A2, E2>
): Effect.Effect<A | A2, E | E2, R> => first(effect, Effect.flatMap(Effect.sleep(millis), onTimeout))
