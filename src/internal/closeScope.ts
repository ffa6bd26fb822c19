/**
 * Closing scopes so that no interruption is lost.
 *
 * While a finalizer of `Effect.addFinalizer` runs, Effect 3.22 gives the closing fiber the FiberRefs of the fiber that
 * acquired, and afterwards its own back. A FiberRef also says that the fiber was interrupted. So an interruption that
 * comes during a finalizer can be lost: the fiber goes on, and the fiber that interrupted it waits for ever.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"

/**
 * Closes a scope on a fiber of its own, which has no interruption to lose, and waits until the scope is closed. The
 * caller must not be forked in that scope.
 */
export const closeScope = (scope: Scope.CloseableScope, exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> =>
  Effect.uninterruptible(
    Effect.flatMap(Effect.forkDaemon(Scope.close(scope, exit)), (fiber) => Effect.flatten(Fiber.await(fiber)))
  )

/**
 * Starts a fiber that closes a scope, and waits for it. A caller that is interrupted meanwhile waits no longer: it may
 * be forked in that scope, and then the closing has interrupted it and waits for it.
 *
 * The waiting is done by a child, because Effect 3.22 passes each interruption on to a fiber's children, even if that
 * fiber was interrupted before or cannot be interrupted at the moment.
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
 * scope, so that the fiber keeps an interruption that comes meanwhile.
 */
export const addFinalizer = (
  finalizer: (exit: Exit.Exit<unknown, unknown>) => Effect.Effect<void>
): Effect.Effect<void, never, Scope.Scope> =>
  Effect.flatMap(
    Effect.scope,
    (scope) => Scope.addFinalizerExit(scope, (exit) => Effect.uninterruptible(finalizer(exit)))
  )
