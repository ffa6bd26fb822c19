/**
 * The messages that were accepted for sending, in that order, until each has been written or acknowledged.
 *
 * A message is `queued`, then `sent`: in the hands of the connection to which the outbox drains. From there it leaves
 * for good, once it is written or, if the outbox `keeps`, acknowledged. When the connection is lost, a message that was
 * in its hands is queued again in front of the others (it keeps), or lost: nobody knows whether it arrived.
 *
 * Every method is one step, and every effect waits.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as MutableHashMap from "effect/MutableHashMap"
import * as Option from "effect/Option"
import type { Message } from "../../WebSocketDialer.js"
import { Waiters } from "../waiters.js"
import { byteLength } from "./codec.js"

/** What became of a message. `TakenBack`: its sender was interrupted. */
export type Outcome = "Done" | "Expired" | "Overflow" | "Lost" | "Closed" | "TakenBack"

export type Offered = "Accepted" | "Waiting" | "Full" | "Closed"

export interface QueuedMessage<out Out> {
  readonly message: Out
  readonly data: Message
  readonly bytes: number
  /** The server acknowledges the message by this. */
  readonly id: unknown
  readonly expiresAt: number
  /** The message is for this connection only: it takes no room, and is forgotten with the connection. */
  readonly only: object | undefined
  /** Called when the message is accepted, or never will be. */
  onAccepted: ((outcome: "Accepted" | "Closed") => void) | undefined
  /** Called when the message has left the outbox. */
  onDone: ((outcome: Outcome) => void) | undefined
  /** Set when the message is accepted: a message accepted later has a higher place, also when it is sent again. */
  place: number
  /** A connection has had the message in its hands. Never unset: from then on it may have arrived. */
  isHanded: boolean
}

export const queuedMessage = <Out>(
  message: Out,
  data: Message,
  options: { readonly id?: unknown; readonly expiresAt?: number; readonly only?: object } = {}
): QueuedMessage<Out> => ({
  message,
  data,
  bytes: byteLength(data),
  id: options.id,
  expiresAt: options.expiresAt ?? Infinity,
  only: options.only,
  onAccepted: undefined,
  onDone: undefined,
  place: 0,
  isHanded: false
})

/** A connection to which an outbox drains. */
interface Drain {
  /** Called when there may be something to send. */
  readonly wakeWriter: () => void
}

export interface Limits {
  /** Messages. */
  readonly capacity: number
  readonly bytes: number
  readonly overflow: "fail" | "suspend" | "dropOldest" | "dropNewest"
  /** Messages are kept until they are acknowledged. */
  readonly keeps: boolean
  /** How many messages may be in a connection's hands, if it keeps. */
  readonly inFlight: number
}

export class Outbox<Out> {
  /** In the order of their places. No message is both queued and sent. */
  private queued = new Set<QueuedMessage<Out>>()
  /** In the hands of the connection to which the outbox drains. */
  private readonly sent = new Set<QueuedMessage<Out>>()
  /** Messages for which there is no room yet. They are admitted one by one, and the first keeps the others out. */
  private readonly waiting = new Set<QueuedMessage<Out>>()
  /** The messages that are to be acknowledged, if the outbox `keeps`: each queued or sent, and not for one only. */
  private readonly byId: MutableHashMap.MutableHashMap<unknown, QueuedMessage<Out>> | undefined
  private readonly whenGone = new Waiters()
  private readonly limits: Limits
  private readonly onUndelivered: (message: QueuedMessage<Out>, outcome: Outcome) => void
  /** Of the messages queued and sent, those for one connection only left out. */
  private count = 0
  private bytes = 0
  private places = 0
  /** How many of the queued messages are for one connection only. */
  private onlyQueued = 0
  /** The connection that takes messages out. There is at most one, so that none of them overtakes another. */
  private drain: Drain | undefined
  /** Nothing is taken out for now, though there is a connection. */
  private isStopped = false
  private isRefusing = false
  private isClosed = false

  /** `onUndelivered` is told of each message that leaves otherwise than done. */
  constructor(limits: Limits, onUndelivered: (message: QueuedMessage<Out>, outcome: Outcome) => void) {
    this.limits = limits
    this.byId = limits.keeps ? MutableHashMap.empty() : undefined
    this.onUndelivered = onUndelivered
  }

  // ---------------------------------------------------------------------------
  // in
  // ---------------------------------------------------------------------------

  offer(message: QueuedMessage<Out>): Offered {
    if (this.isRefusing && message.only === undefined) return "Closed"
    if (message.only !== undefined || this.canAccept(message)) {
      this.accept(message)
      return "Accepted"
    }
    if (message.bytes > this.limits.bytes) return "Full"
    switch (this.limits.overflow) {
      case "fail":
        return "Full"
      case "suspend":
        this.waiting.add(message)
        return "Waiting"
      case "dropNewest":
        this.onUndelivered(message, "Overflow")
        message.onDone?.("Overflow")
        return "Accepted"
      case "dropOldest":
        if (!this.makeRoom(message)) return "Full"
        this.accept(message)
        return "Accepted"
    }
  }

  wouldWait(message: QueuedMessage<Out>): boolean {
    return this.limits.overflow === "suspend" && message.bytes <= this.limits.bytes && !this.canAccept(message)
  }

  /** Takes the message out, unless a connection has it in its hands or has had it. */
  takeBack(message: QueuedMessage<Out>): void {
    if (this.waiting.delete(message)) this.admit()
    else if (this.queued.has(message) && !message.isHanded) this.remove(message, "TakenBack")
  }

  /** Accepts the messages that have waited longest, for as long as there is room. */
  private admit(): void {
    for (const next of this.waiting) {
      if (!this.hasRoom(next)) return
      this.waiting.delete(next)
      this.accept(next)
    }
  }

  private canAccept(message: QueuedMessage<Out>): boolean {
    return this.waiting.size === 0 && this.hasRoom(message)
  }

  /**
   * Drops the oldest messages; none, if that does not make room enough: the others are in a connection's hands, or may
   * have arrived.
   */
  private makeRoom(message: QueuedMessage<Out>): boolean {
    let { bytes, count } = this
    const oldest: Array<QueuedMessage<Out>> = []
    const isEnough = () => count < this.limits.capacity && bytes + message.bytes <= this.limits.bytes
    for (const queued of this.queued) {
      if (isEnough()) break
      if (queued.isHanded || queued.only !== undefined) continue
      oldest.push(queued)
      count--
      bytes -= queued.bytes
    }
    if (isEnough()) { for (const dropped of oldest) this.remove(dropped, "Overflow") }
    return isEnough()
  }

  private hasRoom(message: QueuedMessage<Out>): boolean {
    return this.count < this.limits.capacity && this.bytes + message.bytes <= this.limits.bytes
  }

  private accept(message: QueuedMessage<Out>): void {
    message.place = this.places++
    if (message.only === undefined) {
      this.count++
      this.bytes += message.bytes
      if (this.byId !== undefined) MutableHashMap.set(this.byId, message.id, message)
    } else this.onlyQueued++
    this.queued.add(message)
    message.onAccepted?.("Accepted")
    this.drain?.wakeWriter()
  }

  // ---------------------------------------------------------------------------
  // out
  // ---------------------------------------------------------------------------

  /** From now on this connection takes messages out, and no other. */
  drainTo(connection: Drain): void {
    this.drain = connection
    this.isStopped = false
    connection.wakeWriter()
  }

  isDrainingTo(connection: Drain): boolean {
    return this.drain === connection && !this.isStopped
  }

  /** Until the next `drainTo` nothing is taken out. What the connection has in its hands stays there. */
  stopDraining(): void {
    this.isStopped = true
  }

  /** The connection takes no more messages out. What it had in its hands is queued again, in front. */
  release(connection: Drain): void {
    if (this.drain !== connection) return
    this.drain = undefined
    const handed = [...this.sent]
    this.sent.clear()
    this.queued = new Set([...handed, ...this.queued])
    for (const message of this.queued) if (message.only === connection) this.remove(message, "Lost")
  }

  get hasWork(): boolean {
    return this.queued.size > 0 && (!this.isWindowFull || this.onlyQueued > 0)
  }

  /** A message has been sent and is to be acknowledged. */
  get isAwaiting(): boolean {
    return this.limits.keeps && this.sent.size > 0
  }

  private get isWindowFull(): boolean {
    return this.limits.keeps && this.sent.size >= this.limits.inFlight
  }

  /**
   * The next messages, of at most so many bytes together, or one that is longer. From now on they are in the
   * connection's hands.
   */
  take(bytes: number): ReadonlyArray<QueuedMessage<Out>> {
    const batch: Array<QueuedMessage<Out>> = []
    let taken = 0
    for (const message of this.queued) {
      // A full window does not hold these up: the server may need them before it acknowledges anything.
      if (this.isWindowFull && message.only === undefined) {
        if (this.onlyQueued === 0) break
        continue
      }
      taken += message.bytes
      if (batch.length > 0 && taken > bytes) break
      this.queued.delete(message)
      if (message.only !== undefined) this.onlyQueued--
      this.sent.add(message)
      message.isHanded = true
      batch.push(message)
    }
    return batch
  }

  /** The connection has written the messages; or it ended meanwhile, and nobody knows whether they arrived. */
  settle(batch: ReadonlyArray<QueuedMessage<Out>>, isWritten: boolean): void {
    for (const message of batch) {
      if (!this.limits.keeps || message.only !== undefined) this.remove(message, isWritten ? "Done" : "Lost")
    }
  }

  /** Every message up to and with the one of this identifier is done, if that has ever been sent and is not done. */
  acknowledge(id: unknown): void {
    if (this.byId === undefined) return
    const last = Option.getOrUndefined(MutableHashMap.get(this.byId, id))
    if (last === undefined || !last.isHanded) return
    for (const messages of [this.sent, this.queued]) {
      for (const message of messages) {
        if (message.place > last.place) break
        if (message.only === undefined) this.remove(message, "Done")
      }
    }
    this.drain?.wakeWriter()
  }

  // ---------------------------------------------------------------------------
  // time and end
  // ---------------------------------------------------------------------------

  /** When the next message expires. A message that has been in a connection's hands does not. */
  get nextExpiry(): number | undefined {
    for (const message of this.queued) if (!message.isHanded && message.only === undefined) return message.expiresAt
    return undefined
  }

  expire(now: number): void {
    for (const message of this.queued) {
      if (message.isHanded || message.only !== undefined) continue
      if (message.expiresAt > now) return
      this.remove(message, "Expired")
    }
  }

  /** Waits until everything that has been accepted so far is gone. */
  get flushed(): Effect.Effect<"Done" | "Closed"> {
    return Effect.suspend(() => this.gone(this.places - 1))
  }

  /** Waits until everything that is in a connection's hands now is gone. */
  get handedGone(): Effect.Effect<"Done" | "Closed"> {
    return Effect.suspend(() => {
      let last = -1
      for (const { place } of this.sent) last = place
      return this.gone(last)
    })
  }

  private gone(upTo: number): Effect.Effect<"Done" | "Closed"> {
    return Waiters.until(() => {
      if (this.isClosed) return Exit.succeed("Closed")
      // A message for one connection only may have been sent before older messages, whose window is full.
      const oldest = Math.min(firstPlace(this.sent), firstPlace(this.queued))
      return oldest > upTo ? Exit.succeed("Done") : undefined
    }, this.whenGone)
  }

  /** Accepts no more messages, and lets the senders go that wait for room. */
  refuse(): void {
    this.isRefusing = true
    for (const message of this.waiting) {
      message.onAccepted?.("Closed")
      message.onDone?.("Closed")
    }
    this.waiting.clear()
  }

  close(): void {
    this.refuse()
    this.isClosed = true
    this.whenGone.notify()
    for (const messages of [this.sent, this.queued]) for (const message of messages) this.remove(message, "Closed")
  }

  private remove(message: QueuedMessage<Out>, outcome: Outcome): void {
    const wasQueued = this.queued.delete(message)
    if (!wasQueued && !this.sent.delete(message)) return
    if (message.only !== undefined) {
      if (wasQueued) this.onlyQueued--
      return this.whenGone.notify()
    }
    this.count--
    this.bytes -= message.bytes
    const { byId } = this
    if (byId !== undefined && Option.getOrUndefined(MutableHashMap.get(byId, message.id)) === message) {
      MutableHashMap.remove(byId, message.id)
    }
    if (outcome !== "Done") this.onUndelivered(message, outcome)
    message.onDone?.(outcome)
    this.admit()
    this.whenGone.notify()
  }
}

const firstPlace = (messages: Iterable<QueuedMessage<unknown>>): number => {
  for (const { place } of messages) return place
  return Infinity
}
