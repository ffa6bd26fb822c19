import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"

/** The exit of a fiber that is interrupted while a finalizer runs; `body` gets a part of that finalizer that waits. */
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

/** If this runs on a fiber first, Effect 3.22 can lose an interruption (`src/internal/closeScope.ts`). */
export const anotherFinalizer = Effect.addFinalizer(() => Effect.void)

/** The exit of a fiber that is interrupted while it closes a scope, after it has run another finalizer. */
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
