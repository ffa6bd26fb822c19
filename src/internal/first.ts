import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import { wait } from "./wait.js"
import { Waiters } from "./waiters.js"

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
 * Like `first`, with `Waiters.until(look, ...lists)` as the other effect, but without a fiber for the wait. The
 * condition must not throw.
 */
export const firstOr = <A, E, R, A2, E2>(
  effect: Effect.Effect<A, E, R>,
  look: () => Exit.Exit<A2, E2> | undefined,
  ...lists: ReadonlyArray<Waiters>
): Effect.Effect<A | A2, E | E2, R> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(Effect.fork(restore(effect)), (fiber) =>
      restore(wait<A | A2, E | E2>((resume) => {
        const leave = Waiters.watch<Exit.Exit<A2, E2>>(look, resume, ...lists)
        fiber.addObserver((exit) => {
          leave()
          resume(exit)
        })
        return leave
      })).pipe(
        Effect.ensuring(ended(fiber))
      ))
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

/**
 * Waits for the effect in a finalizer, at most for the given milliseconds. A finalizer cannot be interrupted, and
 * neither can what it forks: `within` alone would wait for both of its effects there.
 */
export const waitAtMost = <A, E>(effect: Effect.Effect<A, E>, millis: number): Effect.Effect<void> =>
  Effect.uninterruptible(
    Effect.flatMap(
      Effect.forkDaemon(Effect.interruptible(within(effect, millis, () => Effect.void))),
      (fiber) => Effect.async<void>((resume) => fiber.addObserver(() => resume(Effect.void)))
    )
  )
