/**
 * The lines of a socket: a line is one attempt to connect, and the connection that it leads to. This file makes lines,
 * closes them with a close frame, and drops them.
 */
import * as Effect from "effect/Effect"
import * as ExecutionStrategy from "effect/ExecutionStrategy"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import type { DialContext } from "../../ReconnectingSocket.js"
import type { Generation } from "../../Session.js"
import { ConnectionLost } from "../../WebSocketDialer.js"
import { closeScope } from "../closeScope.js"
import { first } from "../first.js"
import type { LiveConnection } from "./connection.js"
import { sendableCode, sendableReason } from "./policy.js"
import type { Wiring } from "./wiring.js"

export interface Line<In> {
  /** The connection's scope: everything that belongs to the connection ends with it. */
  readonly scope: Scope.CloseableScope
  /** The scope of the user's own effects, `dial` and `onOpen`. Only the end of the socket waits until it is closed. */
  readonly userScope: Scope.CloseableScope
  /** Set once the dial has succeeded. */
  live: LiveConnection<In> | undefined
  /** The attempt and the previous failure, for the user's effects. Emptied when the line is dropped. */
  context: DialContext
  /** The longest incoming message that is allowed, in bytes; set when the connection is dialed. */
  maxPayload: number
  /** The session's generation whose value this dial presented. */
  generation: Generation<any> | undefined
}

/** The longest time, in milliseconds, that a connection has to send its remaining messages and to close. */
export const closeGrace = 2000

const dropped: DialContext = { attempt: 0, previous: Option.none() }

export class Lines<In> {
  private readonly wiring: Wiring<any, In, any>
  private readonly live = new Set<LiveConnection<In>>()
  /** The open scopes of the user's own effects. */
  private readonly userScopes = new Set<Scope.CloseableScope>()

  constructor(wiring: Wiring<any, In, any>) {
    this.wiring = wiring
  }

  /** All connections that have been dialed and not dropped: the current one, its replacement, and the replaced ones. */
  get connections(): Iterable<LiveConnection<In>> {
    return this.live
  }

  make(context: DialContext): Effect.Effect<Line<In>> {
    return Effect.suspend(() =>
      Effect.zipWith(
        Scope.fork(this.wiring.scope, ExecutionStrategy.sequential),
        Scope.make(),
        (scope, userScope): Line<In> => {
          this.userScopes.add(userScope)
          return { scope, userScope, context, live: undefined, maxPayload: Infinity, generation: undefined }
        }
      )
    )
  }

  connect(line: Line<In>, live: LiveConnection<In>): void {
    line.live = live
    this.live.add(live)
  }

  /** Waits for `before`, closes the connection with a close frame, all within the grace, and drops it. */
  close(line: Line<In>, code: number, reason: string, before: Effect.Effect<void>): Effect.Effect<void> {
    const { live } = line
    if (live === undefined) return this.drop(line)
    live.resume(this.wiring.clock.unsafeCurrentTimeMillis())
    let isSent = false
    const closed = Effect.suspend(() => {
      if (isSent) return Effect.void
      isSent = true
      return Effect.catchAllCause(live.connection.close(code, reason), () => Effect.void)
    })
    // While a connection is paused, because its messages have not been taken yet, the grace begins again and again.
    const grace: Effect.Effect<void> = Effect.suspend(() =>
      Effect.zipRight(Effect.sleep(closeGrace), Effect.suspend(() => live.isPaused ? grace : Effect.void))
    )
    const politely = first(Effect.zipRight(before, Effect.zipRight(closed, live.untilLost)), live.untilLost)
    return first(politely, grace).pipe(
      // If no time is left, the close frame still gets one turn to be sent.
      Effect.zipRight(first(closed, Effect.yieldNow())),
      Effect.zipRight(this.drop(line))
    )
  }

  /** Sends a close frame without waiting for its answer. */
  sendClose({ live }: Line<In>, code: number, reason = ""): Effect.Effect<void> {
    if (live === undefined || live.failure !== undefined) return Effect.void
    return Effect.ignore(Effect.sandbox(live.connection.close(sendableCode(code), sendableReason(reason))))
  }

  /** Ends the connection and everything that belongs to it, without a close frame. */
  drop(line: Line<In>): Effect.Effect<void> {
    const { live, scope, userScope } = line
    return Effect.suspend(() => {
      // An error's stack trace can refer to the line on which the error occurred, and the line's context refers to the
      // previous error. If both were kept, they would form a chain that grows with each attempt.
      line.context = dropped
      const isLost = live?.failure !== undefined && !this.wiring.orders.isClosing
      return Effect.zipRight(
        // A dialer whose finalizer dies must not end the socket.
        Effect.catchAllCause(closeScope(scope, Exit.void), () => Effect.void),
        Effect.suspend(() => {
          if (live !== undefined) {
            live.fail(new ConnectionLost({ reason: "Reset", cause: "dropped" }))
            this.live.delete(live)
            this.wiring.outbox.release(live, isLost)
          }
          return this.release(userScope)
        })
      )
    })
  }

  // ---------------------------------------------------------------------------
  // what the user's own effects have acquired
  // ---------------------------------------------------------------------------

  /** Whether no effect of the user runs any more, and everything that these effects acquired has been released. */
  get isReleased(): boolean {
    return this.userScopes.size === 0 && this.wiring.userEffects.isIdle
  }

  /** Begins to release everything that the user's effects have acquired and still hold. For the end of the socket. */
  get releaseAll(): Effect.Effect<void> {
    return Effect.suspend(() => Effect.forEach([...this.userScopes], (scope) => this.release(scope), { discard: true }))
  }

  /** Runs outside the socket's scope, because that scope would wait for a finalizer that never ends. */
  private release(userScope: Scope.CloseableScope): Effect.Effect<void> {
    return Effect.uninterruptible(Effect.suspend(() =>
      this.userScopes.delete(userScope)
        ? Effect.asVoid(this.wiring.userEffects.fork(Scope.close(userScope, Exit.void)))
        : Effect.void
    ))
  }
}
