/**
 * The lines of a socket: each is one attempt and the connection that comes of it. Here they are made, left politely,
 * and dropped.
 */
import * as Effect from "effect/Effect"
import * as ExecutionStrategy from "effect/ExecutionStrategy"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import type { DialContext } from "../../ReconnectingSocket.js"
import type { Generation } from "../../Session.js"
import { ConnectionLost } from "../../WebSocketDialer.js"
import { closeScope } from "../closeScope.js"
import { first } from "../first.js"
import type { LiveConnection } from "./connection.js"
import type { Wiring } from "./wiring.js"

export interface Line<In> {
  /** The connection's: all that belongs to it ends when this closes. */
  readonly scope: Scope.CloseableScope
  /** Of the user's own effects, `dial` and `onOpen`: nobody waits until what they acquired is released. */
  readonly userScope: Scope.CloseableScope
  /** Set once the dial has succeeded. */
  live: LiveConnection<In> | undefined
  /** What the user's effects are told about the attempt. */
  readonly context: DialContext
  /** What the session gave for this dial. */
  generation: Generation<any> | undefined
}

/** Milliseconds that a connection has at most to send what it still has and to close. */
export const closeGrace = 2000

export class Lines<In> {
  private readonly wiring: Wiring<any, In, any>
  private readonly live = new Set<LiveConnection<In>>()

  constructor(wiring: Wiring<any, In, any>) {
    this.wiring = wiring
  }

  /** All connections that have been dialed and not dropped: the current one, its replacement, and those replaced. */
  get connections(): Iterable<LiveConnection<In>> {
    return this.live
  }

  make(context: DialContext): Effect.Effect<Line<In>> {
    return Effect.suspend(() =>
      Effect.zipWith(
        Scope.fork(this.wiring.scope, ExecutionStrategy.sequential),
        Scope.fork(this.wiring.scope, ExecutionStrategy.sequential),
        (scope, userScope): Line<In> => ({ scope, userScope, context, live: undefined, generation: undefined })
      )
    )
  }

  connect(line: Line<In>, live: LiveConnection<In>): void {
    line.live = live
    this.live.add(live)
  }

  /** Closes the connection politely once `before` is done, all within the grace, and drops it. */
  leave(line: Line<In>, code: number, reason: string, before: Effect.Effect<void>): Effect.Effect<void> {
    const { live } = line
    if (live === undefined) return this.drop(line)
    live.resume(this.wiring.clock.unsafeCurrentTimeMillis())
    let isSent = false
    const closed = Effect.suspend(() => {
      if (isSent) return Effect.void
      isSent = true
      return Effect.catchAllCause(live.connection.close(code, reason), () => Effect.void)
    })
    // A replaced connection is read out, however long its socket's consumer takes.
    const grace: Effect.Effect<void> = Effect.suspend(() =>
      Effect.zipRight(Effect.sleep(closeGrace), Effect.suspend(() => live.isPaused ? grace : Effect.void))
    )
    const politely = first(Effect.zipRight(before, Effect.zipRight(closed, live.untilLost)), live.untilLost)
    return first(politely, grace).pipe(
      // There may be no time left to wait until the close frame is sent.
      Effect.zipRight(first(closed, Effect.yieldNow())),
      Effect.zipRight(this.drop(line))
    )
  }

  /** Ends the connection and all that belongs to it, now. */
  drop({ live, scope, userScope }: Line<In>): Effect.Effect<void> {
    return Effect.suspend(() => {
      const isLost = live?.failure !== undefined && !this.wiring.orders.isClosing
      return Effect.zipRight(
        closeScope(scope, Exit.void),
        Effect.suspend(() => {
          if (live !== undefined) {
            live.fail(new ConnectionLost({ reason: "Reset", cause: "dropped" }))
            this.live.delete(live)
            this.wiring.outbox.release(live, isLost)
          }
          return Effect.forkIn(Scope.close(userScope, Exit.void), this.wiring.scope)
        })
      )
    })
  }
}
