import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"

/** How a fiber ends that is interrupted while it closes a scope, and has run another finalizer before. */
export const interruptedInFinalizer = (
  close: (scope: Scope.CloseableScope, exit: Exit.Exit<unknown, unknown>) => Effect.Effect<void>
): Effect.Effect<Exit.Exit<string>> =>
  Effect.gen(function*() {
    const [begun, gate] = yield* Effect.all([Deferred.make<void>(), Deferred.make<void>()])
    const scope = yield* Scope.make()
    yield* Scope.extend(
      Effect.addFinalizer(() => Effect.zipRight(Deferred.succeed(begun, undefined), Deferred.await(gate))),
      scope
    )
    const fiber = yield* Effect.fork(
      Effect.scoped(Effect.addFinalizer(() => Effect.void)).pipe(
        Effect.zipRight(Effect.uninterruptible(close(scope, Exit.void))),
        Effect.zipRight(Effect.yieldNow()),
        Effect.as("went on")
      )
    )
    yield* Deferred.await(begun)
    fiber.unsafeInterruptAsFork(fiber.id())
    yield* Effect.yieldNow()
    yield* Deferred.succeed(gate, undefined)
    return yield* Fiber.await(fiber)
  })
