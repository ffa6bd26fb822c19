/**
 * The messages that were accepted for sending, in this order, until each has been written or acknowledged.
 *
 * A message is first `queued`, then `sent`, which means that it was handed to the connection to which the outbox
 * drains. A message that is `isKept` leaves the outbox when it is acknowledged, any other when it is written. When the
 * connection is lost, a kept message that it was handed is queued again, before the others. Any other message that it
 * was handed is lost: whether it arrived is unknown.
 *
 * A kept message that makes the server end the connection would be sent for ever, so a message can become the `suspect`
 * (`maxResends`). When a connection is lost that was handed kept messages and acknowledged none, the oldest of them
 * becomes the suspect. The suspect is sent alone, so that it must have caused each further loss, until it is
 * acknowledged or given up.
 *
 * Every method is one synchronous step. Only the effects `flushed` and `handedGone` wait.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as MutableHashMap from "effect/MutableHashMap"
import * as Option from "effect/Option"
import type { Message } from "../../WebSocketDialer.js"
import { LinkedSet } from "../linkedSet.js"
import { Waiters } from "../waiters.js"
import { byteLength } from "./codec.js"
import type { LiveConnection } from "./connection.js"
import { keyOf, throwUnlessCompared } from "./identifier.js"
import type { Held } from "./telemetry.js"

/** How a message left the outbox. `TakenBack` means that its sender was interrupted. */
export type Outcome = "Done" | "Expired" | "Overflow" | "Lost" | "Undeliverable" | "Closed" | "TakenBack"

export type Offered = "Accepted" | "Waiting" | "Full" | "Closed"

export interface QueuedMessage<out Out> {
  readonly message: Out
  readonly data: Message
  readonly bytes: number
  /** Whether the message must be acknowledged, and is kept until then. */
  readonly isKept: boolean
  /** The key by which the server acknowledges the message. */
  readonly key: unknown
  /** On the monotonic clock, in milliseconds. */
  readonly expiresAt: number
  /**
   * Set if the message is for this connection only: it does not count towards the capacity, and is dropped with the
   * connection.
   */
  readonly only: object | undefined
  /** Called when the message is accepted, or the socket has closed before. */
  onAccepted: ((outcome: "Accepted" | "Closed") => void) | undefined
  /** Called each time a connection is handed the message, before it is written. */
  onHanded: ((connection: LiveConnection<any>) => void) | undefined
  /** Called when the message has left the outbox. */
  onDone: ((outcome: Outcome) => void) | undefined
  /** Epoch milliseconds. Set when the message is accepted. */
  acceptedAt: number
  /** Set when the message is accepted: a message accepted later has a higher place, also when it is sent again. */
  place: number
  /** How often a connection was handed the message. After the first time the message may have arrived. */
  times: number
  /** The frame to send this time: `data`, or the frame that `resent` has made of the message. */
  outgoing: Message
  /** How many connections were lost because of the suspect, including the loss that made the message the suspect. */
  losses: number
}

/** Without an `id` the message is done when it has been written. Throws what the identifier's hash throws. */
export const queuedMessage = <Out>(
  message: Out,
  data: Message,
  options: { readonly id?: unknown; readonly expiresAt?: number; readonly only?: object } = {}
): QueuedMessage<Out> => ({
  message,
  data,
  bytes: byteLength(data),
  isKept: options.id !== undefined && options.only === undefined,
  key: keyOf(options.id),
  expiresAt: options.expiresAt ?? Infinity,
  only: options.only,
  onAccepted: undefined,
  onHanded: undefined,
  onDone: undefined,
  acceptedAt: 0,
  place: 0,
  times: 0,
  outgoing: data,
  losses: 0
})

/** A connection to which an outbox drains. */
interface Drain {
  /** Called when there may be something to send. */
  readonly wakeWriter: () => void
}

export interface Limits {
  /** The largest number of messages. */
  readonly capacity: number
  readonly bytes: number
  readonly overflow: "fail" | "suspend" | "dropOldest" | "dropNewest"
  /** Whether messages with an identifier are kept until they are acknowledged. */
  readonly keeps: boolean
  /** Whether an acknowledgement is for its message and all earlier ones. */
  readonly isCumulative: boolean
  /** How many kept messages may be sent and not yet acknowledged. */
  readonly inFlight: number
  /** How often the suspect is sent again. */
  readonly maxResends: number
}

/** The callbacks of an outbox. */
export interface OutboxCallbacks<Out> {
  readonly now: () => number
  /** Called when the content of the outbox may have changed. */
  readonly onChanged: (held: Held) => void
  /** Called when a message has left the outbox without being delivered. */
  readonly onUndelivered: (message: QueuedMessage<Out>, outcome: Outcome) => void
  /** Makes the frame for sending a message again; `times` counts from 1. Undefined means the first frame again. */
  readonly resent: (message: Out, times: number) => Message | undefined
}

export class Outbox<Out> {
  /** The queued messages that no connection was handed yet, in the order of their places. */
  private readonly queued = new LinkedSet<QueuedMessage<Out>>()
  /** The queued messages that are to be sent again, in the order of their places. They come before the others. */
  private again = new LinkedSet<QueuedMessage<Out>>()
  /** The messages that were handed to the connection to which the outbox drains. */
  private readonly sent = new Set<QueuedMessage<Out>>()
  /** Messages for which there is no room yet. They are accepted one by one, in order: the first blocks the others. */
  private readonly waiting = new LinkedSet<QueuedMessage<Out>>()
  /** If the outbox `keeps`: the queued messages that are not kept, which a full window does not block. */
  private readonly passing = new LinkedSet<QueuedMessage<Out>>()
  /** The messages that are queued or sent, by their places. */
  private readonly held = new Map<number, QueuedMessage<Out>>()
  /** No message has a lower place. */
  private low = 0
  /** No message that is not for one connection only has a lower place. */
  private lowOwn = 0
  /** If the outbox `keeps`: the kept messages, each of them queued or sent. */
  private readonly byId: MutableHashMap.MutableHashMap<unknown, QueuedMessage<Out>> | undefined
  private readonly whenGone = new Waiters()
  private readonly limits: Limits
  private readonly callbacks: OutboxCallbacks<Out>
  /** How many messages are queued or sent, without messages for one connection only. */
  private count = 0
  private bytes = 0
  private places = 0
  /** How many of the kept messages have been handed to a connection, the current or an earlier one. */
  private unacknowledged = 0
  /** How many of the sent messages are kept. */
  private keptSent = 0
  /** The connection that takes messages out. There is at most one, so that messages stay in order. */
  private drain: Drain | undefined
  /** Whether that connection has acknowledged a message. */
  private hasAcknowledged = false
  /**
   * The suspect: a kept message, older than all other kept ones. While there is a suspect, no other message is sent.
   */
  private suspect: QueuedMessage<Out> | undefined
  /** Whether no message is taken out for now, although there is a connection. */
  private isStopped = false
  private isRefusing = false
  private isClosed = false

  constructor(limits: Limits, callbacks: OutboxCallbacks<Out>) {
    this.limits = limits
    this.byId = limits.keeps ? MutableHashMap.empty() : undefined
    this.callbacks = callbacks
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
        this.callbacks.onUndelivered(message, "Overflow")
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

  /** Removes the message, unless it has ever been handed to a connection. */
  takeBack(message: QueuedMessage<Out>): void {
    if (this.waiting.delete(message)) this.admit()
    else if (this.queued.has(message)) this.remove(message, "TakenBack")
    this.notifyChange()
  }

  /** Accepts waiting messages, the oldest first, for as long as there is room. */
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
   * Drops the oldest messages to make room. Drops none if that does not make enough room, since the other messages have
   * been handed to a connection and may have arrived.
   */
  private makeRoom(message: QueuedMessage<Out>): boolean {
    let { bytes, count } = this
    const oldest: Array<QueuedMessage<Out>> = []
    const isEnough = () => count < this.limits.capacity && bytes + message.bytes <= this.limits.bytes
    for (const queued of this.queued) {
      if (isEnough()) break
      if (queued.only !== undefined) continue
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
    message.acceptedAt = this.callbacks.now()
    if (message.only === undefined) {
      this.count++
      this.bytes += message.bytes
      if (this.byId !== undefined && message.isKept) MutableHashMap.set(this.byId, message.key, message)
    }
    this.held.set(message.place, message)
    this.queued.add(message)
    if (this.limits.keeps && !message.isKept) this.passing.add(message)
    message.onAccepted?.("Accepted")
    this.notifyChange()
    this.drain?.wakeWriter()
  }

  // ---------------------------------------------------------------------------
  // out
  // ---------------------------------------------------------------------------

  /** From now on only this connection takes messages out. */
  drainTo(connection: Drain): void {
    if (this.drain !== connection) this.hasAcknowledged = false
    this.drain = connection
    this.isStopped = false
    connection.wakeWriter()
  }

  isDrainingTo(connection: Drain): boolean {
    return this.isFor(connection) && !this.isStopped
  }

  /** Whether messages are taken out by this connection only, also if none are taken out for now. */
  isFor(connection: Drain): boolean {
    return this.drain === connection
  }

  /** Takes no message out until the next `drainTo`. Messages that were handed to the connection stay with it. */
  stopDraining(): void {
    this.isStopped = true
  }

  /**
   * The connection takes no more messages out. Kept messages that it was handed are queued again, before the others.
   * `isLost` means that this side has not ended the connection, so that a sent message may be the reason.
   */
  release(connection: Drain, isLost: boolean): void {
    if (this.drain !== connection) return
    this.drain = undefined
    const handed = [...this.sent]
    this.sent.clear()
    this.keptSent = 0
    const { again } = this
    this.again = new LinkedSet()
    for (const messages of [handed, again]) for (const message of messages) this.again.add(message)
    for (const messages of [this.again, this.queued]) {
      for (const message of messages) if (message.only === connection) this.remove(message, "Lost")
    }
    const oldest = handed.find(({ isKept }) => isKept)
    if (!isLost || oldest === undefined) return
    if (oldest === this.suspect || !this.hasAcknowledged) this.blame(oldest)
    this.notifyChange()
  }

  /** Called when a connection was lost, with the oldest unacknowledged message that it was handed. */
  private blame(message: QueuedMessage<Out>): void {
    if (this.limits.maxResends === Infinity) return
    this.suspect = message
    message.losses++
    if (message.losses > this.limits.maxResends) this.remove(message, "Undeliverable")
  }

  get hasWork(): boolean {
    return this.isWindowFull ? this.passing.size > 0 : this.again.size + this.queued.size > 0
  }

  /** Whether a message has been sent and not yet acknowledged. */
  get isAwaiting(): boolean {
    return this.keptSent > 0
  }

  private get isWindowFull(): boolean {
    return this.limits.keeps && this.keptSent >= (this.suspect === undefined ? this.limits.inFlight : 1)
  }

  /** Hands the connection the next messages, of at most `bytes` bytes together, or one message that is longer. */
  take(bytes: number): ReadonlyArray<QueuedMessage<Out>> {
    const batch: Array<QueuedMessage<Out>> = []
    let left = bytes
    for (const messages of [this.again, this.queued]) {
      for (const message of messages) {
        if (this.isWindowFull) break
        if (batch.length > 0 && message.bytes > left) return batch
        left -= this.hand(message)
        batch.push(message)
      }
    }
    if (!this.isWindowFull) return batch
    // A full window does not block these: the server may need them before it acknowledges anything.
    for (const message of this.passing) {
      if (batch.length > 0 && message.bytes > left) return batch
      left -= this.hand(message)
      batch.push(message)
    }
    return batch
  }

  /** Gives the number of bytes to send. */
  private hand(message: QueuedMessage<Out>): number {
    this.dequeue(message)
    this.sent.add(message)
    if (message.isKept) {
      this.keptSent++
      if (message.times === 0) this.unacknowledged++
    }
    const marked = message.times === 0 ? undefined : this.callbacks.resent(message.message, message.times)
    message.outgoing = marked ?? message.data
    message.times++
    return marked === undefined ? message.bytes : byteLength(marked)
  }

  /**
   * Called when the connection has written the messages, or has ended meanwhile, so that it is unknown whether they
   * arrived.
   */
  settle(batch: ReadonlyArray<QueuedMessage<Out>>, isWritten: boolean): void {
    for (const message of batch) {
      if (!message.isKept) this.remove(message, isWritten ? "Done" : "Lost")
    }
    this.notifyChange()
  }

  /**
   * Finishes the message with this identifier, if it has been sent and is not finished; if acknowledgements are
   * cumulative, also all messages that were accepted before it. Throws what the identifier throws when it is hashed or
   * compared.
   */
  acknowledge(id: unknown, connection: Drain): void {
    if (this.byId === undefined) return
    const key = keyOf(id)
    const last = Option.getOrUndefined(MutableHashMap.get(this.byId, key))
    throwUnlessCompared(key)
    if (last === undefined || last.times === 0) return
    if (this.drain === connection) this.hasAcknowledged = true
    if (this.limits.isCumulative) this.acknowledgeUpTo(last)
    else this.remove(last, "Done")
    this.notifyChange()
    this.drain?.wakeWriter()
  }

  private acknowledgeUpTo(last: QueuedMessage<Out>): void {
    for (let place = this.lowest?.place ?? Infinity; place <= last.place; place++) {
      const message = this.held.get(place)
      if (message?.isKept === true) this.remove(message, "Done")
    }
  }

  /**
   * The message with the lowest place. Found without passing over those that have left before it: a `Set` keeps a hole
   * for each of them, so that looking for its first member again and again takes quadratic time.
   */
  private get lowest(): QueuedMessage<Out> | undefined {
    if (this.held.size === 0) return undefined
    while (!this.held.has(this.low)) this.low++
    return this.held.get(this.low)
  }

  // ---------------------------------------------------------------------------
  // time and end
  // ---------------------------------------------------------------------------

  /** When the next message expires, by the monotonic clock. A message that a connection was handed never expires. */
  get nextExpiry(): number | undefined {
    for (const { expiresAt, only } of this.queued) if (only === undefined) return expiresAt
    return undefined
  }

  /** `now` is the time on the monotonic clock. */
  expire(now: number): void {
    let isChanged = false
    // The room of a message that expires goes to one whose sender has waited for it, and which may expire as well.
    while (this.expireQueued(now)) isChanged = true
    if (isChanged) this.notifyChange()
  }

  /** Gives whether a message has expired. */
  private expireQueued(now: number): boolean {
    let hasExpired = false
    for (const message of this.queued) {
      if (message.only !== undefined) continue
      if (message.expiresAt > now) break
      this.remove(message, "Expired")
      hasExpired = true
    }
    return hasExpired
  }

  /** Waits until every message that was accepted so far has left. */
  get flushed(): Effect.Effect<"Done" | "Closed"> {
    return Effect.suspend(() => this.gone(this.places - 1))
  }

  /** Waits until every message that has been handed to a connection so far has left. */
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
      return (this.lowest?.place ?? Infinity) > upTo ? Exit.succeed("Done") : undefined
    }, this.whenGone)
  }

  /** Accepts no more messages, and answers the senders that wait for room. */
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
    for (const messages of [this.sent, this.again, this.queued]) {
      for (const message of messages) this.remove(message, "Closed")
    }
    this.notifyChange()
  }

  /** Called by each step that may have changed the content of the outbox. */
  private notifyChange(): void {
    const oldest = this.count === 0 ? 0 : this.oldest
    this.callbacks.onChanged({ messages: this.count, unacknowledged: this.unacknowledged, oldest })
  }

  /** When the oldest message was accepted, without messages for one connection only. */
  private get oldest(): number {
    for (; this.lowOwn < this.places; this.lowOwn++) {
      const message = this.held.get(this.lowOwn)
      if (message !== undefined && message.only === undefined) return message.acceptedAt
    }
    return Infinity
  }

  /** Gives whether the message was queued. */
  private dequeue(message: QueuedMessage<Out>): boolean {
    if (!this.queued.delete(message)) return this.again.delete(message)
    this.passing.delete(message)
    return true
  }

  private remove(message: QueuedMessage<Out>, outcome: Outcome): void {
    if (!this.dequeue(message)) {
      if (!this.sent.delete(message)) return
      if (message.isKept) this.keptSent--
    }
    this.held.delete(message.place)
    if (message.only !== undefined) {
      message.onDone?.(outcome)
      return this.whenGone.notify()
    }
    if (this.suspect === message) this.suspect = undefined
    this.count--
    this.bytes -= message.bytes
    if (message.isKept && message.times > 0) this.unacknowledged--
    const { byId } = this
    if (byId !== undefined && Option.getOrUndefined(MutableHashMap.get(byId, message.key)) === message) {
      MutableHashMap.remove(byId, message.key)
    }
    if (outcome !== "Done") this.callbacks.onUndelivered(message, outcome)
    message.onDone?.(outcome)
    this.admit()
    this.whenGone.notify()
  }
}
