/**
 * What the users of a socket have ordered its owner to do. The owner looks here after each of its waits, and each wait
 * ends when an order comes.
 */
import type * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { Waiters } from "../waiters.js"
import { sendableCode, sendableReason } from "./policy.js"

export class Orders {
  /** What the close frame is to say. Set once, by the first `close`, and never unset: it outranks all other orders. */
  closing: { readonly code: number; readonly reason: string } | undefined
  /** The socket is closed: orders come too late. */
  private isEnded = false
  /** `reconnect` was called, and the owner has not acted on it. */
  private isToReconnect = false
  /** Notified when an order comes. */
  readonly whenOrdered = new Waiters()

  close(code: number, reason: string): void {
    if (this.closing !== undefined) return
    this.closing = { code: sendableCode(code), reason: sendableReason(reason) }
    this.whenOrdered.notify()
  }

  reconnect(): void {
    this.isToReconnect = true
    this.whenOrdered.notify()
  }

  /** Whether `reconnect` was called since this was last asked. */
  takeReconnect(): boolean {
    const isToReconnect = this.isToReconnect
    this.isToReconnect = false
    return isToReconnect
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
    return this.closing !== undefined || this.isToReconnect
  }

  get untilOrdered(): Effect.Effect<void> {
    return Waiters.until(() => this.isOrdered ? Exit.void : undefined, this.whenOrdered)
  }
}
