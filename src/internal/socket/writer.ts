/**
 * The one writer of a connection. It sends everything on a connection, one write at a time, under the connection's
 * `Semaphore(1)`: first the connection's direct messages (login, subscriptions, the user's pings), then a batch from
 * the outbox, if that drains to this connection. The permit is held for one write, never while waiting for something to
 * send.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import { ConnectionLost } from "../../WebSocketDialer.js"
import type { LiveConnection } from "./connection.js"
import { lossOf } from "./policy.js"
import type { Wiring } from "./wiring.js"

export class Writer {
  private readonly wiring: Wiring<any, any, any>

  constructor(wiring: Wiring<any, any, any>) {
    this.wiring = wiring
  }

  /** Writes until a write fails, which ends the connection. For a single fiber of the connection's scope. */
  run(live: LiveConnection<any>, scope: Scope.Scope): Effect.Effect<void> {
    const { clock, outbox, settings } = this.wiring
    const hasMore = () => outbox.isDrainingTo(live) && live.failure === undefined && outbox.hasWork
    const write = live.writing.withPermits(1)(Effect.acquireUseRelease(
      Effect.sync(() => {
        const now = clock.unsafeCurrentTimeMillis()
        const direct = live.takeDirect()
        outbox.expire(now)
        const messages = hasMore() ? outbox.take(settings.window) : []
        for (const message of messages) message.onHanded?.(live)
        // Reading must go on, so that acknowledgements and replies to these messages can arrive.
        if ((outbox.isAwaiting || !live.awaiting.isEmpty) && !live.inbox.isFullOfBytes) live.resume(now)
        live.writingSince = now
        return { direct, messages }
      }),
      ({ direct, messages }) => {
        if (live.failure !== undefined) return live.failure
        if (direct.length === 0 && messages.length === 0) return Effect.void
        const written = live.connection.write([
          ...direct.map(({ data }) => data),
          ...messages.map(({ outgoing }) => outgoing)
        ])
        if (live.isWriteWatched) return written
        live.isWriteWatched = true
        return Effect.zipRight(Effect.forkIn(this.watch(live), scope), written)
      },
      ({ direct, messages }, exit) =>
        Effect.sync(() => {
          live.wrote()
          outbox.settle(messages, Exit.isSuccess(exit))
          if (Exit.isSuccess(exit)) { for (const { onWritten } of direct) onWritten?.() }
        })
    ))
    return Effect.zipRight(live.work(hasMore), write).pipe(
      (round) => Effect.whileLoop({ while: () => true, body: () => round, step: () => {} }),
      Effect.catchAllCause((cause) => Effect.sync(() => live.fail(lossOf(Cause.squash(cause)))))
    )
  }

  /**
   * Ends a connection whose write takes too long. One fiber watches many writes, and ends when there is no current
   * write.
   */
  private watch(live: LiveConnection<any>): Effect.Effect<void> {
    const { clock, settings: { writeTimeout } } = this.wiring
    return Effect.gen(this, function*() {
      let since = live.writingSince
      while (since !== undefined) {
        const left = since + writeTimeout - clock.unsafeCurrentTimeMillis()
        yield* Effect.sleep(Math.min(left, writeTimeout))
        if (live.writingSince === since) return live.fail(new ConnectionLost({ reason: "WriteTimeout" }))
        since = live.writingSince
      }
      live.isWriteWatched = false
    })
  }
}
