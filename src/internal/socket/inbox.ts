/**
 * The messages that have come in and have not been taken: a callback puts them in, a fiber takes them.
 */
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { Waiters } from "../waiters.js"

export class Inbox<in out A, in out E> {
  private items: Array<A> = []
  private bytes = 0
  private readonly whenFilled = new Waiters()
  private readonly capacity: number
  private readonly maxBytes: number
  private readonly onRoom: () => void
  private ended: Exit.Exit<never, E> | undefined

  /** `onRoom` is called when the inbox was full and is no longer. */
  constructor(capacity: number, maxBytes: number, onRoom: () => void) {
    this.capacity = capacity
    this.maxBytes = maxBytes
    this.onRoom = onRoom
  }

  get isFull(): boolean {
    return this.items.length >= this.capacity || this.isFullOfBytes
  }

  get isFullOfBytes(): boolean {
    return this.bytes >= this.maxBytes
  }

  /** Takes the item also when the inbox is full: the caller decides what to do then. */
  push(item: A, bytes: number): void {
    this.items.push(item)
    this.bytes += bytes
    this.whenFilled.notify()
  }

  /** Moves everything over from the other. */
  pushAll(other: Inbox<A, E>): void {
    this.items = this.items.concat(other.items)
    this.bytes += other.bytes
    other.items = []
    other.bytes = 0
    this.whenFilled.notify()
  }

  /** No more will come; what is in can be taken. The first end counts. */
  end(ended: Exit.Exit<never, E>): void {
    this.ended ??= ended
    this.whenFilled.notify()
  }

  /** Everything that is in; waits until there is something. */
  get takeAll(): Effect.Effect<Chunk.Chunk<A>, E> {
    return this.take(() => Waiters.lightUntil(this.news, this.whenFilled), () => {
      const wasFull = this.isFull
      const chunk = Chunk.unsafeFromArray(this.items)
      this.items = []
      this.bytes = 0
      if (wasFull) this.onRoom()
      return chunk
    })
  }

  /** The next item; waits until there is one. */
  get takeOne(): Effect.Effect<A, E> {
    return this.take(() => Waiters.until(this.news, this.whenFilled), () => {
      const wasFull = this.isFull
      const item = this.items.shift()!
      if (this.items.length === 0) this.bytes = 0
      if (wasFull && !this.isFull) this.onRoom()
      return item
    })
  }

  /** Taking comes in a step after the wait, so that a taker that is interrupted while it waits has taken nothing. */
  private take<B>(untilNews: () => Effect.Effect<void>, take: () => B): Effect.Effect<B, E> {
    const taken: Effect.Effect<B, E> = Effect.suspend(() =>
      this.items.length > 0 ? Effect.succeed(take()) : this.ended ?? Effect.zipRight(untilNews(), taken)
    )
    return taken
  }

  private readonly news = () => this.items.length > 0 || this.ended !== undefined ? Exit.void : undefined
}
