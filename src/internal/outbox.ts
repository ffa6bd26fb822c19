/**
 * What is to be sent, in the order in which it was accepted, until it has been written or acknowledged.
 *
 * A message is `queued`, then `sent`: in the hands of the connection that drains the outbox. From there it leaves for
 * good, once it is written or, if the outbox `keeps`, acknowledged. When the connection is lost, what was in its hands
 * is queued again in front (it keeps), or lost: nobody knows whether it arrived.
 *
 * Every method is one step, and every effect waits.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as MutableHashMap from "effect/MutableHashMap"
import * as Option from "effect/Option"
import type { Message } from "../WebSocketDialer.js"
import { Waiters } from "./waiters.js"

/** What became of a message. `TakenBack`: by who had offered it. */
export type Outcome = "Done" | "Expired" | "Overflow" | "Lost" | "Closed" | "TakenBack"

export type Offered = "Accepted" | "Waiting" | "Full" | "Closed"

export interface Entry<out Out> {
  readonly message: Out
  readonly data: Message
  readonly bytes: number
  /** What it is acknowledged by. */
  readonly id: unknown
  readonly expiresAt: number
  /** It is for this connection only: it takes no room, and is forgotten with the connection. */
  readonly only: object | undefined
  /** Who waits for it to be accepted. */
  onAccepted: ((outcome: "Accepted" | "Closed") => void) | undefined
  /** Who waits for it to be done. */
  onDone: ((outcome: Outcome) => void) | undefined
  /** Set when accepted. */
  place: number
  /** A connection has had it in its hands. */
  isHanded: boolean
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
  private queued = new Set<Entry<Out>>()
  private readonly sent = new Set<Entry<Out>>()
  /** Entries for which there is no room yet. They are admitted one by one, and the first keeps the others out. */
  private readonly waiting = new Set<Entry<Out>>()
  private readonly byId = MutableHashMap.empty<unknown, Entry<Out>>()
  private readonly whenGone = new Waiters()
  private readonly limits: Limits
  private readonly onLeft: (entry: Entry<Out>, outcome: Outcome) => void
  private count = 0
  private bytes = 0
  private places = 0
  /** How many of those queued are for one connection only. */
  private onlyQueued = 0
  private isRefusing = false
  private isClosed = false
  /** Called when there may be something to send. */
  onWork: () => void = () => {}

  /** `onLeft` is told what becomes of each message that is not done. */
  constructor(limits: Limits, onLeft: (entry: Entry<Out>, outcome: Outcome) => void) {
    this.limits = limits
    this.onLeft = onLeft
  }

  // ---------------------------------------------------------------------------
  // in
  // ---------------------------------------------------------------------------

  offer(entry: Entry<Out>): Offered {
    if (this.isRefusing && entry.only === undefined) return "Closed"
    if (entry.only !== undefined || this.canAccept(entry)) {
      this.accept(entry)
      return "Accepted"
    }
    if (entry.bytes > this.limits.bytes) return "Full"
    switch (this.limits.overflow) {
      case "fail":
        return "Full"
      case "suspend":
        this.waiting.add(entry)
        return "Waiting"
      case "dropNewest":
        this.onLeft(entry, "Overflow")
        entry.onDone?.("Overflow")
        return "Accepted"
      case "dropOldest":
        if (!this.makeRoom(entry)) return "Full"
        this.accept(entry)
        return "Accepted"
    }
  }

  wouldWait(entry: Entry<Out>): boolean {
    return this.limits.overflow === "suspend" && entry.bytes <= this.limits.bytes && !this.canAccept(entry)
  }

  /** Unless a connection has, or has had, it in its hands. */
  takeBack(entry: Entry<Out>): void {
    if (this.waiting.delete(entry)) this.admit()
    else if (this.queued.has(entry) && !entry.isHanded) this.finish(entry, "TakenBack")
  }

  /** Those that have waited longest, for as long as there is room. */
  private admit(): void {
    for (const next of this.waiting) {
      if (!this.hasRoom(next)) return
      this.waiting.delete(next)
      this.accept(next)
    }
  }

  private canAccept(entry: Entry<Out>): boolean {
    return this.waiting.size === 0 && this.hasRoom(entry)
  }

  /**
   * By dropping the oldest; none, if that is not enough: the others are in a connection's hands, or may have arrived.
   */
  private makeRoom(entry: Entry<Out>): boolean {
    let { bytes, count } = this
    const oldest: Array<Entry<Out>> = []
    const isEnough = () => count < this.limits.capacity && bytes + entry.bytes <= this.limits.bytes
    for (const queued of this.queued) {
      if (isEnough()) break
      if (queued.isHanded || queued.only !== undefined) continue
      oldest.push(queued)
      count--
      bytes -= queued.bytes
    }
    if (isEnough()) { for (const dropped of oldest) this.finish(dropped, "Overflow") }
    return isEnough()
  }

  private hasRoom(entry: Entry<Out>): boolean {
    return this.count < this.limits.capacity && this.bytes + entry.bytes <= this.limits.bytes
  }

  private accept(entry: Entry<Out>): void {
    entry.place = this.places++
    if (entry.only === undefined) {
      this.count++
      this.bytes += entry.bytes
      if (this.limits.keeps) MutableHashMap.set(this.byId, entry.id, entry)
    } else this.onlyQueued++
    this.queued.add(entry)
    entry.onAccepted?.("Accepted")
    this.onWork()
  }

  // ---------------------------------------------------------------------------
  // out
  // ---------------------------------------------------------------------------

  get hasWork(): boolean {
    return this.queued.size > 0 && (!this.isWindowFull || this.onlyQueued > 0)
  }

  /** Something is to be acknowledged. */
  get isAwaiting(): boolean {
    return this.limits.keeps && this.sent.size > 0
  }

  private get isWindowFull(): boolean {
    return this.limits.keeps && this.sent.size >= this.limits.inFlight
  }

  /**
   * The next messages, of at most so many bytes together, or one that is longer. They are in a connection's hands now.
   */
  take(bytes: number): ReadonlyArray<Entry<Out>> {
    const batch: Array<Entry<Out>> = []
    let taken = 0
    for (const entry of this.queued) {
      // What the server may have to have before it acknowledges anything.
      if (this.isWindowFull && entry.only === undefined) {
        if (this.onlyQueued === 0) break
        continue
      }
      taken += entry.bytes
      if (batch.length > 0 && taken > bytes) break
      this.queued.delete(entry)
      if (entry.only !== undefined) this.onlyQueued--
      this.sent.add(entry)
      entry.isHanded = true
      batch.push(entry)
    }
    return batch
  }

  /** The connection has written them; or it ended meanwhile, and nobody knows. */
  settle(batch: ReadonlyArray<Entry<Out>>, isWritten: boolean): void {
    for (const entry of batch) {
      if (!this.limits.keeps || entry.only !== undefined) this.finish(entry, isWritten ? "Done" : "Lost")
    }
  }

  /** Everything up to and with the one of this identifier, if that has ever been sent and is not done. */
  acknowledge(id: unknown): void {
    const last = Option.getOrUndefined(MutableHashMap.get(this.byId, id))
    if (last === undefined || !last.isHanded) return
    for (const entries of [this.sent, this.queued]) {
      for (const entry of entries) {
        if (entry.place > last.place) break
        if (entry.only === undefined) this.finish(entry, "Done")
      }
    }
    this.onWork()
  }

  /** The connection drains the outbox no more. */
  letGo(connection: object): void {
    const handed = [...this.sent]
    this.sent.clear()
    this.queued = new Set([...handed, ...this.queued])
    for (const entry of this.queued) if (entry.only === connection) this.finish(entry, "Lost")
  }

  // ---------------------------------------------------------------------------
  // time and end
  // ---------------------------------------------------------------------------

  /** When the next message expires. What has been in a connection's hands does not. */
  get nextExpiry(): number | undefined {
    for (const entry of this.queued) if (!entry.isHanded && entry.only === undefined) return entry.expiresAt
    return undefined
  }

  expire(now: number): void {
    for (const entry of this.queued) {
      if (entry.isHanded || entry.only !== undefined) continue
      if (entry.expiresAt > now) return
      this.finish(entry, "Expired")
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

  /** Takes no more, and lets go those that wait for room. */
  refuse(): void {
    this.isRefusing = true
    for (const entry of this.waiting) {
      entry.onAccepted?.("Closed")
      entry.onDone?.("Closed")
    }
    this.waiting.clear()
  }

  close(): void {
    this.refuse()
    this.isClosed = true
    this.whenGone.notify()
    for (const entries of [this.sent, this.queued]) for (const entry of entries) this.finish(entry, "Closed")
  }

  private finish(entry: Entry<Out>, outcome: Outcome): void {
    const wasQueued = this.queued.delete(entry)
    if (!wasQueued && !this.sent.delete(entry)) return
    if (entry.only !== undefined) {
      if (wasQueued) this.onlyQueued--
      return this.whenGone.notify()
    }
    this.count--
    this.bytes -= entry.bytes
    if (this.limits.keeps && Option.getOrUndefined(MutableHashMap.get(this.byId, entry.id)) === entry) {
      MutableHashMap.remove(this.byId, entry.id)
    }
    if (outcome !== "Done") this.onLeft(entry, outcome)
    entry.onDone?.(outcome)
    this.admit()
    this.whenGone.notify()
  }
}

const firstPlace = (entries: Iterable<Entry<unknown>>): number => {
  for (const { place } of entries) return place
  return Infinity
}

const encoder = new TextEncoder()
const scratch = new Uint8Array(8 * 1024)

/** As UTF-8, without the copy that an encoder makes of it. */
export const byteLength = (message: Message): number => {
  if (typeof message !== "string") return message.byteLength
  let bytes = 0
  for (let at = 0; at < message.length;) {
    const { read, written } = encoder.encodeInto(at === 0 ? message : message.slice(at), scratch)
    at += read
    bytes += written
  }
  return bytes
}
