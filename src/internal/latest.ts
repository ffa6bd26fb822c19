/**
 * The latest values for each of several readers, who may be slow: of what they have not read, the oldest make room.
 *
 * Offering is one step, so that no two offers can overtake each other. (Those of Effect's sliding `PubSub` can: an
 * older value that is published late replaces the newer one. Its `Mailbox` can miss a value that is offered between
 * a taker's look and its waiting.)
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { wait } from "./wait.js"

interface Reader<in out A> {
  readonly unread: Array<A>
  /** Set while it waits. */
  resume: (() => void) | undefined
}

export class Latest<in out A> {
  private readonly readers = new Set<Reader<A>>()
  private readonly capacity: number
  private isOver = false

  /** `capacity`: how many values are kept for a reader. */
  constructor(capacity = 1) {
    this.capacity = capacity
  }

  offer(value: A): void {
    for (const reader of this.readers) {
      if (reader.unread.length === this.capacity) reader.unread.shift()
      reader.unread.push(value)
      reader.resume?.()
    }
  }

  /** No more will come; what is unread can be read. */
  end(): void {
    this.isOver = true
    for (const reader of this.readers) reader.resume?.()
  }

  /** A stream of the `first` value, and of what is offered from then on. */
  changes(first: () => Option.Option<A>): Stream.Stream<A> {
    return Stream.unwrapScoped(Effect.map(this.subscribe(first), Stream.repeatEffectOption))
  }

  /** Gives what takes the next value that it has not taken, waiting for it; it fails with `None` at the end. */
  subscribe(
    first: () => Option.Option<A>
  ): Effect.Effect<Effect.Effect<A, Option.Option<never>>, never, Scope.Scope> {
    const subscribed = Effect.acquireRelease(
      Effect.sync(() => {
        const reader: Reader<A> = { unread: Option.toArray(first()), resume: undefined }
        this.readers.add(reader)
        return reader
      }),
      (reader) => Effect.sync(() => this.readers.delete(reader))
    )
    return Effect.map(subscribed, (reader) => this.take(reader))
  }

  private take(reader: Reader<A>): Effect.Effect<A, Option.Option<never>> {
    return Effect.flatMap(
      wait<void>((resume) => {
        const wake = () => {
          reader.resume = undefined
          resume(Exit.void)
        }
        if (reader.unread.length > 0 || this.isOver) {
          wake()
          return undefined
        }
        reader.resume = wake
        return () => {
          reader.resume = undefined
        }
      }),
      () => reader.unread.length > 0 ? Effect.succeed(reader.unread.shift()!) : Effect.fail(Option.none())
    )
  }
}
