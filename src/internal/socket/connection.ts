/**
 * The state of one connection: how it ended, when its peer last sent something, whether it is paused, and the messages
 * that are for this connection only. The writer (writer.ts), the heartbeat (heartbeat.ts) and the reader of incoming
 * messages (reader.ts) work on this state.
 */
import type * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
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
import type { Writer } from "./writer.js"

/** How an inbox ends: with the socket's failure, or without one. */
export type InboxEnd = Option.Option<ConnectionFailure>

/** A message for this connection only, sent before the messages of the outbox. */
export interface DirectMessage {
  readonly data: Message
  readonly onWritten: (() => void) | undefined
}

export class LiveConnection<In> {
  readonly connection: Connection
  /** Sends everything on the connection, so that no two writes or pings ever overlap. Set when it starts. */
  writer: Writer | undefined
  /** Whether a protocol ping is to be written, or is being written. */
  isPinging = false
  /** Where incoming messages go: into the connection's own inbox until it is ready, then into the socket's. */
  inbox: Inbox<In, InboxEnd>
  /** The connection's number in `received`; set when the first message goes to the socket's inbox. */
  number = 0
  /** While a login runs, it may still want to see messages that the socket itself has already used. */
  isLoggingIn = false
  /** Replies and confirmations that are awaited on this connection. */
  readonly awaiting = new Awaiting<In>()
  /** Checks whether the peer is still there. Set as soon as the connection is made. */
  heartbeat: Heartbeat<In> | undefined
  /** Set by the reader; undefined if the user's codec could not be made. */
  decode: Decode<In> | undefined
  /** The subscriptions on this connection, and the state of each. Made when first needed. */
  shown: Map<object, Shown<In>> | undefined
  /** The fibers that work on the connection end with this scope. Set as soon as the connection is made. */
  scope: Scope.Scope | undefined
  /**
   * Why the connection ended. Set once; from then on nothing is written to the connection, and incoming data is
   * ignored.
   */
  failure: ConnectionFailure | undefined
  /** The longest incoming message that is allowed, in bytes. */
  maxPayload = Infinity
  /** Whether a `CloseEvent` has closed the connection: its close code then says nothing about the server. */
  isClosedHere = false
  /** Whether another connection has replaced this one, which is closing. */
  isReplaced = false
  /** Whether the `Lost` event of this connection has been published. */
  isLossPublished = false
  /** Epoch milliseconds. */
  lastHeard: number
  /** How many frames have come in. By this count the heartbeat sees whether a frame has come since its last ping. */
  signs = 0
  /** Whether the transport is paused, so that no sign of life can arrive. */
  isPaused = false
  /** When the current write began; undefined if there is none. */
  writingSince: number | undefined
  private direct: Array<DirectMessage> = []
  private readonly whenIdle = new Waiters()
  /** Notified when the connection ends. */
  readonly whenLost = new Waiters()
  readonly run: (effect: Effect.Effect<void>) => Fiber.RuntimeFiber<void>

  /** `run` runs what writes to the transport, pauses it and resumes it. */
  constructor(
    connection: Connection,
    inbox: Inbox<In, InboxEnd>,
    now: number,
    run: (effect: Effect.Effect<void>) => Fiber.RuntimeFiber<void>
  ) {
    this.connection = connection
    this.inbox = inbox
    this.lastHeard = now
    this.run = run
  }

  // ---------------------------------------------------------------------------
  // its end
  // ---------------------------------------------------------------------------

  /** Ends the connection. The first failure counts. */
  fail(failure: ConnectionFailure): void {
    if (this.failure !== undefined) return
    this.failure = failure
    this.whenLost.notify()
  }

  get untilLost(): Effect.Effect<ConnectionFailure> {
    return Waiters.until(() => this.failure === undefined ? undefined : Exit.succeed(this.failure), this.whenLost)
  }

  /**
   * Calls `then` when the connection ends, or immediately if it has ended. Returns a function that cancels the call.
   */
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

  /** The peer's silence counts from now on, since nothing could arrive while the connection was paused. */
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

  /** How many direct messages wait for the writer. */
  get unsent(): number {
    return this.direct.length
  }

  /** Gives the waiting direct messages to the writer. */
  takeDirect(): ReadonlyArray<DirectMessage> {
    // The writer must not get the array to which the next messages are added.
    if (this.direct.length === 0) return noMessages
    const { direct } = this
    this.direct = []
    return direct
  }

  wakeWriter(): void {
    this.writer?.wake()
  }

  /** Sends a protocol ping, unless one is about to be written. */
  ping(): void {
    this.isPinging = true
    this.wakeWriter()
  }

  /** Called when the current write has ended. */
  wrote(): void {
    this.writingSince = undefined
    this.whenIdle.notify()
  }

  /** Waits until there is no current write. */
  get idle(): Effect.Effect<void> {
    return Waiters.until(() => this.writingSince === undefined ? Exit.void : undefined, this.whenIdle)
  }
}

const noMessages: ReadonlyArray<DirectMessage> = []
