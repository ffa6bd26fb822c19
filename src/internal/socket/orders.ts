/**
 * What the users of a socket have ordered its owner to do. The owner looks here after each of its waits, and each wait
 * ends when an order comes.
 */
import type * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { ReconnectOptions } from "../../ReconnectingSocket.js"
import { Waiters } from "../waiters.js"
import { sendableCode, sendableReason } from "./policy.js"

export class Orders {
  /** What the close frame is to say. Set once, by the first `close`, and never unset: it outranks all other orders. */
  closing: { readonly code: number; readonly reason: string } | undefined
  /** The socket is closed: orders come too late. */
  private isEnded = false
  /** What the last `reconnect` has ordered, until the owner has acted on it. */
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

  /** What `reconnect` has ordered since this was last asked. */
  takeReconnect(): ReconnectOptions | undefined {
    const { reconnecting } = this
    this.reconnecting = undefined
    return reconnecting
  }

  /** No more orders are taken. */
  end(): void {
    this.isEnded = true
  }

  /** The socket is being closed, or is closed. */
  get isClosing(): boolean {
    return this.closing !== undefined || this.isEnded
  }

  get isOrdered(): boolean {
    return this.closing !== undefined || this.reconnecting !== undefined
  }

  /** Whether a wait for the backoff's delay is over: not for a `reconnect` that asks for that delay itself. */
  private get isToGoOn(): boolean {
    return this.closing !== undefined || this.reconnecting !== undefined && this.reconnecting.backoff !== true
  }

  get untilOrdered(): Effect.Effect<void> {
    return Waiters.until(() => this.isOrdered ? Exit.void : undefined, this.whenOrdered)
  }

  get untilToGoOn(): Effect.Effect<void> {
    return Waiters.until(() => this.isToGoOn ? Exit.void : undefined, this.whenOrdered)
  }
}
