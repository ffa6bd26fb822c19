import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"

/**
 * Closes a scope on a fiber of its own and waits until it is closed. The caller must not be forked in that scope.
 *
 * While a finalizer runs, Effect 3.22 gives the closing fiber the FiberRefs of the fiber that acquired, and afterwards
 * its own back. One of them says that the fiber was interrupted. So an interruption that comes during a finalizer can
 * be lost: the fiber goes on, and whoever interrupted it waits for ever. The fiber that closes has nothing to lose.
 */
export const closeScope = (scope: Scope.CloseableScope, exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> =>
  Effect.uninterruptible(
    Effect.flatMap(Effect.forkDaemon(Scope.close(scope, exit)), (fiber) => Effect.flatten(Fiber.await(fiber)))
  )
