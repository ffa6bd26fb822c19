/**
 * What has come in and has not been taken, from a callback to fibers.
 */
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { wait } from "./wait.js"

export class Inbox<in out A, in out E> {
  private items: Array<A> = []
  private bytes = 0
  private reader: (() => void) | undefined
  private readonly takers = new Set<() => void>()
  private readonly capacity: number
  private readonly maxBytes: number
  private readonly onRoom: () => void
  private end: Exit.Exit<never, E> | undefined

  /** `onRoom` is called when it was full and is no more. */
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

  /** It is not refused when it is full: that is for the caller. */
  push(item: A, bytes: number): void {
    this.items.push(item)
    this.bytes += bytes
    this.wake()
  }

  /** Everything that is in the other. */
  pushAll(other: Inbox<A, E>): void {
    this.items = this.items.concat(other.items)
    this.bytes += other.bytes
    other.items = []
    other.bytes = 0
    this.wake()
  }

  /** No more will come; what is in can be taken. */
  over(end: Exit.Exit<never, E>): void {
    this.end ??= end
    this.wake()
  }

  /** Everything that is in; waits until there is something. */
  get takeAll(): Effect.Effect<Chunk.Chunk<A>, E> {
    return this.take(this.soon, () => {
      const wasFull = this.isFull
      const chunk = Chunk.unsafeFromArray(this.items)
      this.items = []
      this.bytes = 0
      if (wasFull) this.onRoom()
      return chunk
    })
  }

  /** The next one. */
  get takeOne(): Effect.Effect<A, E> {
    return this.take(this.something, () => {
      const wasFull = this.isFull
      const item = this.items.shift()!
      if (this.items.length === 0) this.bytes = 0
      if (wasFull && !this.isFull) this.onRoom()
      return item
    })
  }

  private take<B>(something: Effect.Effect<void>, what: () => B): Effect.Effect<B, E> {
    const taken: Effect.Effect<B, E> = Effect.suspend(() =>
      this.items.length > 0 ? Effect.succeed(what()) : this.end ?? Effect.zipRight(something, taken)
    )
    return taken
  }

  /** Swifter, for the one who usually waits: interrupted, it leaves a callback that does nothing until the next wake. */
  private get soon(): Effect.Effect<void> {
    return Effect.suspend(() =>
      this.reader !== undefined ? this.something : Effect.async<void>((resume) => {
        this.reader = () => resume(Effect.void)
        // It may have come between the look and this.
        if (this.items.length > 0 || this.end !== undefined) this.wake()
      })
    )
  }

  private get something(): Effect.Effect<void> {
    return wait<void>((resume) => {
      if (this.items.length > 0 || this.end !== undefined) {
        resume(Exit.void)
        return undefined
      }
      const wake = () => resume(Exit.void)
      this.takers.add(wake)
      return () => {
        this.takers.delete(wake)
      }
    })
  }

  private wake(): void {
    const { reader } = this
    this.reader = undefined
    reader?.()
    if (this.takers.size === 0) return
    for (const wake of this.takers) wake()
    this.takers.clear()
  }
}
