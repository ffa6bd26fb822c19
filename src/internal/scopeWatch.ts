/**
 * Observes the ends of the fibers that an effect forks in its scope (`Effect.forkScoped`, `Effect.forkIn`). It does not
 * observe others: the failure of a fiber of `Effect.all`, a `race` or a `timeout` goes to the fiber that waits for it.
 *
 * A supervisor sees all fibers start, but not in which scope. `Effect.forkIn` reads the scope's state in the same step
 * in which it has started the fiber, so a scope that notices this read shows which fiber it was. The request's own
 * scope must notice the read, and not a stand-in, because other code compares that scope by identity. If a later
 * `forkIn` adds its finalizer through the scope's method instead, the watch sees no fibers, and nothing else breaks.
 */
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Supervisor from "effect/Supervisor"

type AnyFiber = Fiber.RuntimeFiber<any, any>

export class ScopeWatch extends Supervisor.AbstractSupervisor<void> {
  readonly value = Effect.void
  private readonly watched = new WeakSet<AnyFiber>()
  private readonly onFiberEnd: (exit: Exit.Exit<unknown, unknown>, fiber: AnyFiber) => void
  /** The fiber that started last, the fiber that forked it, and the number of that fiber's operation. */
  private started: readonly [fiber: AnyFiber, parent: AnyFiber, operation: number] | undefined

  constructor(onFiberEnd: (exit: Exit.Exit<unknown, unknown>, fiber: AnyFiber) => void) {
    super()
    this.onFiberEnd = onFiberEnd
  }

  override onStart(_context: unknown, _effect: unknown, parent: Option.Option<AnyFiber>, fiber: AnyFiber): void {
    this.started = Option.isSome(parent) ? [fiber, parent.value, parent.value.currentOpCount] : undefined
  }

  override onEnd(exit: Exit.Exit<unknown, unknown>, fiber: AnyFiber): void {
    if (this.watched.has(fiber)) this.onFiberEnd(exit, fiber)
  }

  supervise<A, E, R>(self: Effect.Effect<A, E, R>, scope: Scope.Scope): Effect.Effect<A, E, R> {
    let { state } = scope as Scope.Scope & { state: unknown }
    Object.defineProperty(scope, "state", {
      configurable: true,
      get: () => {
        this.onLook()
        return state
      },
      set: (next) => {
        state = next
      }
    })
    return Effect.supervised(self, this)
  }

  private onLook(): void {
    if (this.started === undefined) return
    const [fiber, parent, operation] = this.started
    const isSameStep = Option.getOrUndefined(Fiber.getCurrentFiber()) === parent && parent.currentOpCount === operation
    if (isSameStep) this.watched.add(fiber)
    this.started = undefined
  }
}
