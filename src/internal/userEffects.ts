/**
 * The user's effects, which may take any time: a socket's `dial`, `onOpen`, a subscription's `open`, and the finalizers
 * of what these acquire; also a shared session's calls of its store, its schema and its cooldown. The socket or session
 * interrupts these effects without waiting for their end. Only its closing waits until none of them runs, for a bounded
 * time.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { waitAtMost, within } from "./first.js"
import { Waiters } from "./waiters.js"

export class UserEffects {
  private running = 0
  /** Notified when the last of these effects has ended. */
  readonly whenIdle = new Waiters()

  get isIdle(): boolean {
    return this.running === 0
  }

  /** Waits until none of the effects runs, at most for the given milliseconds. */
  untilIdle(millis: number): Effect.Effect<void> {
    return Effect.suspend(() =>
      this.isIdle
        ? Effect.void
        : waitAtMost(Waiters.until(() => this.isIdle ? Exit.void : undefined, this.whenIdle), millis)
    )
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

  /**
   * Runs the effect at most for the given milliseconds, even if the caller cannot be interrupted. An effect that is cut
   * may go on in the background.
   */
  within<A, E, R, A2, E2>(
    effect: Effect.Effect<A, E, R>,
    millis: number,
    onTimeout: () => Effect.Effect<A2, E2>
  ): Effect.Effect<A | A2, E | E2, R> {
    return this.run(Effect.interruptible(within(this.run(effect), millis, onTimeout)))
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
