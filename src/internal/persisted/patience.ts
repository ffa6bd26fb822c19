/** For how long a session waits for its store. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"

/** Signing out, and closing a session, must work even if the store does not answer. */
export const limit = Duration.seconds(2)

/** An effect that takes longer goes on in the background, until the scope closes. */
export const within = <R>(
  scope: Scope.Scope,
  effect: Effect.Effect<void, never, R>,
  onLate: Effect.Effect<void>
): Effect.Effect<void, never, R> =>
  Effect.uninterruptible(Effect.gen(function*() {
    const fiber = yield* Effect.forkDaemon(effect)
    const exit = yield* Effect.timeoutOption(Effect.interruptible(Fiber.await(fiber)), limit)
    if (Option.isSome(exit)) return yield* exit.value
    yield* onLate
    const left = Effect.onInterrupt(Fiber.await(fiber), () => Fiber.interruptFork(fiber))
    yield* Effect.forkIn(Effect.interruptible(left), scope)
  }))

/** An effect that is not interrupted. If its caller is, the caller waits for it no longer than the limit. */
export const uninterrupted = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(Effect.forkDaemon(effect), (fiber) =>
      Effect.onInterrupt(
        restore(Fiber.join(fiber)),
        () => Effect.timeoutOption(Effect.interruptible(Fiber.await(fiber)), limit)
      ))
  )
