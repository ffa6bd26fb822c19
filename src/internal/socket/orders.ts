/**
 * The orders that users give to a socket's owner: `close` and `reconnect`. The owner checks for orders after each of
 * its waits, and an order ends each wait.
 */
import type * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type { ReconnectOptions } from "../../ReconnectingSocket.js"
import { firstOr } from "../first.js"
import { Waiters } from "../waiters.js"
import { sendableCode, sendableReason } from "./policy.js"

export class Orders {
  /**
   * The content of the close frame. Set once, by the first `close`, and never unset: closing wins over all other
   * orders.
   */
  closing: { readonly code: number; readonly reason: string } | undefined
  /** Whether the socket is closed, and orders have no effect. */
  private isEnded = false
  /** The options of the last `reconnect`, until the owner has acted on it. */
  private reconnecting: ReconnectOptions | undefined
  /** Notified when an order comes. */
  readonly whenOrdered = new Waiters()

  close(code: number, reason: string): void {
    if (this.closing !== undefined) return
    this.closing = { code: sendableCode(code), reason: sendableReason(reason) }
    this.whenOrdered.notify()
  }

  reconnect(options: ReconnectOptions): void {
    this.reconnecting = options
    this.whenOrdered.notify()
  }

  /** The options of the last `reconnect`, if there was one since the last call. */
  takeReconnect(): ReconnectOptions | undefined {
    const { reconnecting } = this
    this.reconnecting = undefined
    return reconnecting
  }

  /** Called when a dial begins, which is what a `reconnect` has ordered, unless that is to wait for the backoff. */
  answerByDial(): void {
    if (this.reconnecting?.backoff !== true) this.reconnecting = undefined
  }

  /** From now on orders have no effect. */
  end(): void {
    this.isEnded = true
  }

  /** Whether the socket is being closed, or is closed. */
  get isClosing(): boolean {
    return this.closing !== undefined || this.isEnded
  }

  get isOrdered(): boolean {
    return this.closing !== undefined || this.reconnecting !== undefined
  }

  /** Whether an order ends the backoff's delay. A `reconnect` that itself asks for that delay does not. */
  private get isToGoOn(): boolean {
    return this.closing !== undefined || this.reconnecting !== undefined && this.reconnecting.backoff !== true
  }

  /** Runs the effect until an order comes, which then decides the outcome. */
  orOrdered<A, E, R, A2, E2>(
    effect: Effect.Effect<A, E, R>,
    ordered: Exit.Exit<A2, E2>
  ): Effect.Effect<A | A2, E | E2, R> {
    return firstOr(effect, () => this.isOrdered ? ordered : undefined, this.whenOrdered)
  }

  /** Runs the effect, a part of the backoff's delay, until an order ends that delay. */
  orToGoOn<A, E, R, A2>(effect: Effect.Effect<A, E, R>, ordered: Exit.Exit<A2>): Effect.Effect<A | A2, E, R> {
    return firstOr(effect, () => this.isToGoOn ? ordered : undefined, this.whenOrdered)
  }
}
