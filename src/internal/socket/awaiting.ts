/**
 * The answers that are awaited on one connection: replies to requests, confirmations of subscriptions.
 *
 * An answer comes on the connection on which the request was sent, so each connection has its own list. A message
 * answers the oldest request or confirmation that takes it, and only that one: two equal requests need two answers.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { Message } from "../../WebSocketDialer.js"
import { LinkedSet } from "../linkedSet.js"
import { Waiters } from "../waiters.js"

/**
 * Whether the message is the answer. Once the function returns true, it is called no more. `data` is the message's
 * frame, for the event about a callback that throws: this function itself must not throw.
 */
export type TakesAnswer<in In> = (message: In, data: Message) => boolean

interface Awaited<in In> {
  readonly takes: TakesAnswer<In>
}

export class Awaiting<In> {
  /** The awaited answers, the oldest first. Made when first needed, since most connections await nothing. */
  private all: LinkedSet<Awaited<In>> | undefined
  private whenAnswered: Waiters | undefined

  get isEmpty(): boolean {
    return this.all === undefined || this.all.size === 0
  }

  /** Awaits one more answer, after the others. Returns a function that stops awaiting it. */
  add(takes: TakesAnswer<In>): () => void {
    const awaited: Awaited<In> = { takes }
    ;(this.all ??= new LinkedSet()).add(awaited)
    return () => this.remove(awaited)
  }

  /** Whether the message was an answer. */
  take(message: In, data: Message): boolean {
    if (this.all === undefined) return false
    for (const awaited of this.all) {
      if (!awaited.takes(message, data)) continue
      this.remove(awaited)
      return true
    }
    return false
  }

  /** Waits until no answer is awaited. */
  get answered(): Effect.Effect<void> {
    return Effect.suspend(() =>
      Waiters.until(() => this.isEmpty ? Exit.void : undefined, this.whenAnswered ??= new Waiters())
    )
  }

  private remove(awaited: Awaited<In>): void {
    if (this.all?.delete(awaited) === true && this.isEmpty) this.whenAnswered?.notify()
  }
}
