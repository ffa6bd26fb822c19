import * as Effect from "effect/Effect"
import * as ExecutionStrategy from "effect/ExecutionStrategy"
import type * as Fiber from "effect/Fiber"
import * as Runtime from "effect/Runtime"
import * as Scope from "effect/Scope"

/**
 * `Effect.forkIn` for synchronous code: the fiber runs with the scheduler and the context of the runtime, and is
 * interrupted, and waited for, when the scope closes. It is registered with the scope in the step in which it is
 * forked. If the scope is closed already, or closes before the fiber has begun, the effect does not begin.
 *
 * (`Runtime.runFork` with a scope registers the fiber from inside the fiber. A fiber that begins when the scope has
 * closed is never interrupted.)
 */
export const forkIn = <A, E, R>(
  runtime: Runtime.Runtime<R>,
  scope: Scope.Scope,
  effect: Effect.Effect<A, E, R>
): Fiber.RuntimeFiber<A, E> => {
  // Interruptible, though the runtime may be that of an uninterruptible region.
  const fiber = Runtime.runFork(runtime)(Effect.interruptible(effect), { immediate: false })
  let isForked = false
  const ended = Effect.fiberIdWith((closer) => {
    if (closer === fiber.id() || fiber.unsafePoll() !== null) return Effect.void
    fiber.unsafeInterruptAsFork(closer)
    // A scope that is closed already runs this in the step of the fork, which cannot wait.
    return isForked ? Effect.asVoid(fiber.await) : Effect.void
  })
  // A scope of the fiber's own: when the fiber has ended, the outer scope forgets it.
  const own = Effect.runSync(Scope.fork(scope, ExecutionStrategy.sequential))
  Effect.runSync(Scope.addFinalizer(own, ended))
  fiber.addObserver((exit) => Effect.runSync(Scope.close(own, exit)))
  isForked = true
  return fiber
}
