/**
 * The user's effects, which may take any time: `dial`, `onOpen`, a subscription's `open`, and the finalizers of what
 * these acquire. The socket interrupts them without waiting for their end. Only the closing of the socket waits until
 * none of them runs, at most for its grace.
 */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { Waiters } from "../waiters.js"

export class UserEffects {
  private running = 0
  /** Notified when the last of these effects has ended. */
  readonly whenIdle = new Waiters()

  get isIdle(): boolean {
    return this.running === 0
  }

  /** Like `Effect.disconnect`: passes an interruption on without waiting for its end. */
  run<A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> {
    return Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(
        this.fork(restore(effect)),
        (fiber) => Effect.onInterrupt(restore(Fiber.join(fiber)), () => Fiber.interruptFork(fiber))
      )
    )
  }

  /** Must be called in an uninterruptible region, so that each effect that is counted is also run. */
  fork<A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<Fiber.RuntimeFiber<A, E>, never, R> {
    return Effect.suspend(() => {
      this.running++
      return Effect.forkDaemon(Effect.ensuring(effect, this.ended))
    })
  }

  private readonly ended = Effect.sync(() => {
    this.running--
    if (this.isIdle) this.whenIdle.notify()
  })
}
