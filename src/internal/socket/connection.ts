/**
 * The state of one connection: how it ended, when its peer was last heard of, whether it is paused, and the messages
 * that go to it alone. The writer (writer.ts), the heartbeat (heartbeat.ts) and the reader of incoming messages
 * (reader.ts) work on this state.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type { Connection, ConnectionFailure, Message } from "../../WebSocketDialer.js"
import { wait } from "../wait.js"
import { Waiters } from "../waiters.js"
import { Awaiting } from "./awaiting.js"
import type { Decode } from "./codec.js"
import type { Heartbeat } from "./heartbeat.js"
import type { Inbox } from "./inbox.js"
import type { Shown } from "./subscriptions.js"

/** How an inbox ends: with the failure with which the socket failed, or with none. */
export type InboxEnd = Option.Option<ConnectionFailure>

/** A message that goes to this connection alone, before the messages of the outbox. */
export interface DirectMessage {
  readonly data: Message
  readonly onWritten: (() => void) | undefined
}

export class LiveConnection<In> {
  readonly connection: Connection
  /**
   * Held by each write and each ping, so that no two of them ever overlap. Effect's own semaphore serves here: a fiber
   * that is interrupted as it takes the permit can lose it, but fibers that take this one are interrupted only together
   * with the connection.
   */
  readonly writing = Effect.unsafeMakeSemaphore(1)
  /** Incoming messages go here: an inbox of the connection's own until it is ready, then the socket's. */
  inbox: Inbox<In, InboxEnd>
  /** The number by which `received` tells connections apart; set when the first message goes to the socket's inbox. */
  number = 0
  /** A login may still want to see messages that have served their purpose. */
  isLoggingIn = false
  /** Replies and confirmations that are awaited on it. */
  readonly awaiting = new Awaiting<In>()
  /** Whether its peer is still there. Set as soon as it is connected. */
  heartbeat: Heartbeat<In> | undefined
  /** Set by the reader; undefined if the user's codec could not be made. */
  decode: Decode<In> | undefined
  /** The subscriptions that are shown on it, and how far each is. Made when first needed. */
  shown: Map<object, Shown<In>> | undefined
  /** The fibers that work on the connection end with this scope. Set as soon as it is connected. */
  scope: Scope.Scope | undefined
  /** Why the connection ended. Set once; from then on nothing is written to it and nothing is heard from it. */
  failure: ConnectionFailure | undefined
  /** The longest message that may come in, in bytes. */
  maxPayload = Infinity
  /** The `Lost` event of this connection is published. */
  isLossTold = false
  /** Epoch milliseconds. */
  lastHeard: number
  /** How many frames have come in: counted, so that the heartbeat sees whether any came since it asked. */
  signs = 0
  /** The transport is not read, so that no sign of life is heard either. */
  isPaused = false
  /** When the current write began; undefined if none is under way. */
  writingSince: number | undefined
  /** Whether a fiber watches how long its writes take (writer.ts). */
  isWriteWatched = false
  private direct: Array<DirectMessage> = []
  private readonly whenWork = new Waiters()
  private readonly whenIdle = new Waiters()
  /** Notified when it ends. */
  readonly whenLost = new Waiters()
  private readonly run: (effect: Effect.Effect<void>) => void

  /** `run` runs what pauses and resumes the transport. */
  constructor(
    connection: Connection,
    inbox: Inbox<In, InboxEnd>,
    now: number,
    run: (effect: Effect.Effect<void>) => void
  ) {
    this.connection = connection
    this.inbox = inbox
    this.lastHeard = now
    this.run = run
  }

  // ---------------------------------------------------------------------------
  // its end
  // ---------------------------------------------------------------------------

  /** The connection has ended. The first failure counts. */
  fail(failure: ConnectionFailure): void {
    if (this.failure !== undefined) return
    this.failure = failure
    this.whenLost.notify()
  }

  get untilLost(): Effect.Effect<ConnectionFailure> {
    return Waiters.until(() => this.failure === undefined ? undefined : Exit.succeed(this.failure), this.whenLost)
  }

  /** Calls `then` at the end, or immediately if the connection has ended. Returns a function that takes this back. */
  onceLost(then: (failure: ConnectionFailure) => void): () => void {
    return Waiters.watch(() => this.failure, then, this.whenLost)
  }

  // ---------------------------------------------------------------------------
  // signs of life, and backpressure
  // ---------------------------------------------------------------------------

  heard(now: number): void {
    this.lastHeard = now
    this.signs++
  }

  get canPause(): boolean {
    return Option.isSome(this.connection.backpressure)
  }

  pause(): void {
    const { backpressure } = this.connection
    if (this.isPaused || Option.isNone(backpressure)) return
    this.isPaused = true
    this.run(backpressure.value.pause)
  }

  /** The peer's silence counts from now on: while the connection was paused, nothing could be heard. */
  resume(now: number): void {
    const { backpressure } = this.connection
    if (!this.isPaused || Option.isNone(backpressure)) return
    this.isPaused = false
    this.heard(now)
    this.heartbeat?.excuse()
    this.run(backpressure.value.resume)
  }

  // ---------------------------------------------------------------------------
  // what is sent on it
  // ---------------------------------------------------------------------------

  /** Sends a message on this connection, before the messages of the outbox. */
  send(data: Message, onWritten?: () => void): void {
    this.direct.push({ data, onWritten })
    this.wakeWriter()
  }

  /** Sends several messages on this connection, and waits until they are written. */
  sendAll(messages: ReadonlyArray<Message>): Effect.Effect<void, ConnectionFailure> {
    return wait((resume) => {
      if (messages.length === 0 || this.failure !== undefined) {
        resume(this.failure === undefined ? Exit.void : Exit.fail(this.failure))
        return undefined
      }
      const forget = this.onceLost((failure) => resume(Exit.fail(failure)))
      messages.forEach((message, place) =>
        this.send(
          message,
          place < messages.length - 1 ? undefined : () => {
            forget()
            resume(Exit.void)
          }
        )
      )
      return forget
    })
  }

  /** How many messages wait for the writer, those of the outbox left out. */
  get unsent(): number {
    return this.direct.length
  }

  /** For the writer. */
  takeDirect(): ReadonlyArray<DirectMessage> {
    // Not the array that the next messages are added to.
    if (this.direct.length === 0) return noMessages
    const { direct } = this
    this.direct = []
    return direct
  }

  wakeWriter(): void {
    this.whenWork.notify()
  }

  /** Waits until there is something to send, here or, as `hasMore` says, elsewhere. For one fiber, the writer. */
  work(hasMore: () => boolean): Effect.Effect<void> {
    // `until` would cost more than the write.
    return Waiters.lightUntil(() => this.direct.length > 0 || hasMore() ? Exit.void : undefined, this.whenWork)
  }

  /** The write that was under way has ended. */
  wrote(): void {
    this.writingSince = undefined
    this.whenIdle.notify()
  }

  /** Waits until no write is under way. */
  get idle(): Effect.Effect<void> {
    return Waiters.until(() => this.writingSince === undefined ? Exit.void : undefined, this.whenIdle)
  }
}

const noMessages: ReadonlyArray<DirectMessage> = []
