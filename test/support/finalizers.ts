import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"

/** How a fiber ends that is interrupted while a finalizer runs to which `body` has given a part that waits. */
export const interruptedDuring = <R>(body: (finalizer: Effect.Effect<void>) => Effect.Effect<unknown, unknown, R>) =>
  Effect.gen(function*() {
    const [begun, gate] = yield* Effect.all([Deferred.make<void>(), Deferred.make<void>()])
    const finalizer = Effect.zipRight(Deferred.succeed(begun, undefined), Deferred.await(gate))
    const fiber = yield* Effect.fork(
      body(finalizer).pipe(
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

/** Run on a fiber before, it is what makes Effect 3.22 lose an interruption (`src/internal/closeScope.ts`). */
export const anotherFinalizer = Effect.addFinalizer(() => Effect.void)

/** How a fiber ends that is interrupted while it closes a scope, and has run another finalizer before. */
export const interruptedInFinalizer = (
  close: (scope: Scope.CloseableScope, exit: Exit.Exit<unknown, unknown>) => Effect.Effect<void>
): Effect.Effect<Exit.Exit<string, unknown>> =>
  interruptedDuring((finalizer) =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      yield* Scope.extend(Effect.addFinalizer(() => finalizer), scope)
      yield* Effect.scoped(anotherFinalizer)
      yield* Effect.uninterruptible(close(scope, Exit.void))
    })
  )
