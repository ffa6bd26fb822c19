/**
 * Closing scopes so that no interruption is lost.
 *
 * While a finalizer of `Effect.addFinalizer` runs, Effect 3.22 gives the closing fiber the FiberRefs of the fiber that
 * added it, and restores its own FiberRefs afterwards. That a fiber was interrupted is also stored in a FiberRef. So an
 * interruption during a finalizer can be lost: the fiber goes on, and the fiber that interrupted it waits for ever.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"

/**
 * Closes a scope on a new fiber, which is never interrupted, and waits until the scope is closed. The caller must not
 * be forked in that scope.
 */
export const closeScope = (scope: Scope.CloseableScope, exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> =>
  Effect.uninterruptible(
    Effect.flatMap(Effect.forkDaemon(Scope.close(scope, exit)), (fiber) => Effect.flatten(Fiber.await(fiber)))
  )

/**
 * Starts a fiber that closes a scope, and waits for it. If the caller is interrupted meanwhile, it stops waiting: it
 * may be forked in that scope, and then the closing has interrupted it and waits for its end.
 *
 * A child does the waiting, because Effect 3.22 passes each interruption on to a fiber's children, even if the fiber
 * itself has already been interrupted or is uninterruptible.
 */
export const untilClosed = <A>(startClosing: () => Fiber.Fiber<A>): Effect.Effect<Exit.Exit<A>> =>
  Effect.uninterruptible(
    Effect.fork(Effect.flatMap(Effect.sync(startClosing), (closing) => Effect.interruptible(Fiber.await(closing))))
      .pipe(
        Effect.flatMap(Fiber.await),
        Effect.map(Exit.flatten)
      )
  )

/**
 * `Effect.addFinalizer` for a finalizer that may have to wait. It runs with the FiberRefs of the fiber that closes the
 * scope, so that this fiber does not lose an interruption.
 */
export const addFinalizer = (
  finalizer: (exit: Exit.Exit<unknown, unknown>) => Effect.Effect<void>
): Effect.Effect<void, never, Scope.Scope> =>
  Effect.flatMap(
    Effect.scope,
    (scope) => Scope.addFinalizerExit(scope, (exit) => Effect.uninterruptible(finalizer(exit)))
  )
