/**
 * The queue of incoming messages: a callback puts messages in, a fiber takes them out.
 *
 * Each message is stored with the number of its connection. Between the messages of two connections there is a border,
 * which does not count towards the capacity.
 */
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import type { Received } from "../../ReconnectingSocket.js"
import { Waiters } from "../waiters.js"

/** A border, stored in place of a message: the messages after it belong to a new connection. */
const border: unique symbol = Symbol("border")

/**
 * Stored in place of a connection's number: the socket itself has used the message, and only a login may still see it.
 */
const served = -1

/** The bytes of memory of a message besides its content: a flood of empty messages must be bounded, too. */
const overhead = 64

export class Inbox<in out A, in out E> {
  private items: Array<A | typeof border> = []
  /** The number of each item's connection. */
  private from: Array<number> = []
  /** The bytes of each item; none for a border. */
  private sizes: Array<number> = []
  private bytes = 0
  /** The bytes of the message that was taken last by itself. */
  private lastSize = 0
  private borders = 0
  /** How many messages at the front a login has put back. The login is not given these again. */
  private unread = 0
  private readonly whenFilled = new Waiters()
  private readonly capacity: number
  private readonly maxBytes: number
  private readonly onRoom: () => void
  private ended: Exit.Exit<never, E> | undefined

  /** `onRoom` is called when the inbox is no longer full. */
  constructor(capacity: number, maxBytes: number, onRoom: () => void) {
    this.capacity = capacity
    this.maxBytes = maxBytes
    this.onRoom = onRoom
  }

  get isFull(): boolean {
    return this.messages >= this.capacity || this.isFullOfBytes
  }

  get isFullOfBytes(): boolean {
    return this.bytes >= this.maxBytes
  }

  /** Whether there is a message that the socket itself has not used. */
  get hasUnread(): boolean {
    return this.items.some((item, at) => item !== border && this.from[at] !== served)
  }

  /**
   * How many messages count. Messages that were put back do not, so that they do not block a login that receives
   * further ones.
   */
  private get messages(): number {
    return this.items.length - this.borders - this.unread
  }

  /** Adds the message even if the inbox is full: the caller decides what to do then. */
  push(message: A, bytes: number, connection: number): void {
    this.add(message, connection, bytes + overhead)
    this.whenFilled.notify()
  }

  /** Adds a message that only a login may want to see. `pushAll` leaves it out. */
  pushServed(message: A, bytes: number): void {
    this.push(message, bytes, served)
  }

  /** Removes the messages that only a login may want to see. For an inbox without borders. */
  dropServed(): void {
    for (let at = this.items.length - 1; at >= 0; at--) {
      if (this.from[at] !== served) continue
      this.items.splice(at, 1)
      this.from.splice(at, 1)
      this.bytes -= this.sizes.splice(at, 1)[0]!
      if (at < this.unread) this.unread--
    }
  }

  /** Puts the message that was taken last back to the front. For an inbox without borders. */
  putBack(message: A, connection: number): void {
    this.items.splice(this.unread, 0, message)
    this.from.splice(this.unread, 0, connection)
    this.sizes.splice(this.unread, 0, this.lastSize)
    this.bytes += this.lastSize
    this.unread++
    this.whenFilled.notify()
  }

  /** Adds a border: the messages after it belong to this connection. */
  pushBorder(connection: number): void {
    // If no message is taken, there is one border for each of the first `capacity` connections, and one for all later
    // connections.
    if (this.borders >= this.capacity && this.items.at(-1) === border) this.from[this.from.length - 1] = connection
    else {
      this.add(border, connection, 0)
      this.borders++
    }
    this.whenFilled.notify()
  }

  /** Moves the messages of the other inbox into this one, as messages of this connection. */
  pushAll(other: Inbox<A, E>, connection: number): void {
    other.items.forEach((item, at) => {
      if (item !== border && other.from[at] !== served) this.add(item, connection, other.sizes[at]!)
    })
    other.clear()
    this.whenFilled.notify()
  }

  private add(item: A | typeof border, connection: number, bytes: number): void {
    this.items.push(item)
    this.from.push(connection)
    this.sizes.push(bytes)
    this.bytes += bytes
  }

  private clear(): void {
    this.items = []
    this.from = []
    this.sizes = []
    this.bytes = 0
    this.borders = 0
    this.unread = 0
  }

  /** Accepts no more messages; the messages in the inbox can still be taken. The first end counts. */
  end(ended: Exit.Exit<never, E>): void {
    this.ended ??= ended
    this.whenFilled.notify()
  }

  /** Takes all messages; waits until there is one. */
  get takeAll(): Effect.Effect<Chunk.Chunk<A>, E> {
    return this.take(
      this.hasMessages,
      () => Waiters.lightUntil(this.untilMessages, this.whenFilled),
      () =>
        Chunk.unsafeFromArray(
          this.borders === 0 ? this.items as Array<A> : this.items.filter((item): item is A => item !== border)
        )
    )
  }

  /** Takes all messages and borders; waits until there is one. */
  get takeAllReceived(): Effect.Effect<Chunk.Chunk<Received<A>>, E> {
    return this.take(
      this.hasItems,
      () => Waiters.lightUntil(this.untilItems, this.whenFilled),
      () =>
        Chunk.unsafeFromArray(this.items.map((message, at): Received<A> => {
          const connection = this.from[at]!
          return message === border ? { _tag: "Opened", connection } : { _tag: "Message", connection, message }
        }))
    )
  }

  /** Takes the next message; waits until there is one. For an inbox without borders. */
  get takeOne(): Effect.Effect<A, E> {
    return this.takeStep(this.hasNext, () => Waiters.until(this.untilNext, this.whenFilled), () => {
      const wasFull = this.isFull
      const message = this.removeNext()
      if (wasFull && !this.isFull) this.onRoom()
      return message
    })
  }

  /**
   * Takes the first message for which `f` gives a value, and gives that value; waits until there is one. The messages
   * before it are put back. For an inbox without borders.
   */
  takeFirst<B>(f: (message: A) => Option.Option<B>): Effect.Effect<B, E> {
    const found: Effect.Effect<B, E> = Effect.suspend(() => {
      const wasFull = this.isFull
      let first = Option.none<B>()
      while (this.hasNext() && Option.isNone(first)) {
        first = f(this.items[this.unread] as A)
        if (Option.isNone(first)) this.unread++
        else this.removeNext()
      }
      if (wasFull && !this.isFull) this.onRoom()
      if (Option.isSome(first)) return Effect.succeed(first.value)
      return this.ended ?? Effect.zipRight(Waiters.until(this.untilNext, this.whenFilled), found)
    })
    return found
  }

  private removeNext(): A {
    const [message] = this.items.splice(this.unread, 1) as [A]
    this.from.splice(this.unread, 1)
    this.lastSize = this.sizes.splice(this.unread, 1)[0]!
    this.bytes -= this.lastSize
    return message
  }

  private take<B>(isThere: () => boolean, untilNews: () => Effect.Effect<void>, all: () => B): Effect.Effect<B, E> {
    return this.takeStep(isThere, untilNews, () => {
      const wasFull = this.isFull
      const taken = all()
      this.clear()
      if (wasFull) this.onRoom()
      return taken
    })
  }

  /**
   * The message is taken in a step after the wait, so that a taker which is interrupted while it waits has taken
   * nothing.
   */
  private takeStep<B>(
    isThere: () => boolean,
    untilNews: () => Effect.Effect<void>,
    take: () => B
  ): Effect.Effect<B, E> {
    const taken: Effect.Effect<B, E> = Effect.suspend(() =>
      isThere() ? Effect.succeed(take()) : this.ended ?? Effect.zipRight(untilNews(), taken)
    )
    return taken
  }

  private readonly hasNext = () => this.messages > 0
  private readonly hasMessages = () => this.items.length > this.borders
  private readonly hasItems = () => this.items.length > 0
  private readonly untilNext = () => this.messages > 0 || this.ended !== undefined ? Exit.void : undefined
  private readonly untilMessages = () =>
    this.items.length > this.borders || this.ended !== undefined ? Exit.void : undefined
  private readonly untilItems = () => this.items.length > 0 || this.ended !== undefined ? Exit.void : undefined
}
