/**
 * Keeps the latest values for each of several readers, which may be slow: the oldest unread values are dropped.
 *
 * Offering is one step, so that no offer can overtake another. (With Effect's sliding `PubSub` this can happen: an
 * older value that is published late replaces the newer one. Effect's `Mailbox` can miss a value that is offered
 * between a taker's check and its wait.)
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { Waiters } from "./waiters.js"

interface Reader<in out A> {
  readonly unread: Array<A>
}

export class Latest<in out A> {
  private readonly readers = new Set<Reader<A>>()
  private readonly whenOffered = new Waiters()
  private readonly capacity: number
  private isOver = false

  /** `capacity`: how many values are kept for a reader. */
  constructor(capacity = 1) {
    this.capacity = capacity
  }

  offer(value: A): void {
    this.put(value)
    this.wake()
  }

  /** Offers a value without waking the readers that wait: a reader may run in the step that wakes it. */
  put(value: A): void {
    for (const reader of this.readers) {
      if (reader.unread.length === this.capacity) reader.unread.shift()
      reader.unread.push(value)
    }
  }

  wake(): void {
    this.whenOffered.notify()
  }

  /** Drops the unread values. */
  clear(): void {
    for (const reader of this.readers) reader.unread.length = 0
  }

  /** Accepts no more values; unread ones can still be read. */
  end(): void {
    this.isOver = true
    this.whenOffered.notify()
  }

  /** A stream of the `first` value, and of the values that are offered from then on. */
  changes(first: () => Option.Option<A>): Stream.Stream<A> {
    return Stream.unwrapScoped(Effect.map(this.subscribe(first), Stream.repeatEffectOption))
  }

  /** Makes an effect that takes the next unread value, or waits for one; it fails with `None` at the end. */
  subscribe(
    first: () => Option.Option<A>
  ): Effect.Effect<Effect.Effect<A, Option.Option<never>>, never, Scope.Scope> {
    const subscribed = Effect.acquireRelease(
      Effect.sync(() => {
        const reader: Reader<A> = { unread: Option.toArray(first()) }
        this.readers.add(reader)
        return reader
      }),
      (reader) => Effect.sync(() => this.readers.delete(reader))
    )
    return Effect.map(subscribed, (reader) => this.take(reader))
  }

  private take(reader: Reader<A>): Effect.Effect<A, Option.Option<never>> {
    return Effect.flatMap(
      Waiters.until(() => reader.unread.length > 0 || this.isOver ? Exit.void : undefined, this.whenOffered),
      () => reader.unread.length > 0 ? Effect.succeed(reader.unread.shift()!) : Effect.fail(Option.none())
    )
  }
}
