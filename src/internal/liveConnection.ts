/**
 * One connection while it lives: how it ended, when it was last heard of, and what only it is to send.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { Connection, ConnectionFailure, Message } from "../WebSocketDialer.js"
import { wait } from "./wait.js"
import { Waiters } from "./waiters.js"

/** A message that goes to this connection, before those of the outbox. */
export interface Own {
  readonly data: Message
  readonly onWritten: (() => void) | undefined
}

export class LiveConnection<Inbox> {
  readonly connection: Connection
  /** Effect's own serves here: a fiber that is interrupted as it takes the permit can lose it, and all that take it
   * are interrupted only with the connection. */
  readonly writing = Effect.unsafeMakeSemaphore(1)
  /** Where what comes in goes. */
  inbox: Inbox
  /** The subscriptions that it has been sent. */
  readonly subscribed = new Set<object>()
  failure: ConnectionFailure | undefined
  lastHeard: number
  /** How often it was heard of. */
  signs = 0
  isPaused = false
  /** When the write that is not done began. */
  writingSince: number | undefined
  isWriteWatched = false
  private own: Array<Own> = []
  private readonly whenWork = new Waiters()
  private readonly whenIdle = new Waiters()
  readonly whenOver = new Waiters()

  constructor(connection: Connection, inbox: Inbox, now: number) {
    this.connection = connection
    this.inbox = inbox
    this.lastHeard = now
  }

  // ---------------------------------------------------------------------------
  // its end
  // ---------------------------------------------------------------------------

  /** The first failure that is told is why the connection ended. */
  over(failure: ConnectionFailure): void {
    if (this.failure !== undefined) return
    this.failure = failure
    this.whenOver.notify()
  }

  get ended(): Effect.Effect<ConnectionFailure> {
    return Waiters.until(() => this.failure === undefined ? undefined : Exit.succeed(this.failure), this.whenOver)
  }

  /** Calls `then` at the end, or immediately if the connection has ended. Returns a function that takes this back. */
  onOver(then: (failure: ConnectionFailure) => void): () => void {
    return Waiters.watch(() => this.failure, then, this.whenOver)
  }

  // ---------------------------------------------------------------------------
  // signs of life
  // ---------------------------------------------------------------------------

  heard(now: number): void {
    this.lastHeard = now
    this.signs++
  }

  // ---------------------------------------------------------------------------
  // what only it is to send
  // ---------------------------------------------------------------------------

  send(data: Message, onWritten?: () => void): void {
    this.own.push({ data, onWritten })
    this.wakeWriter()
  }

  /** Waits until the messages are written. */
  sendAll(messages: ReadonlyArray<Message>): Effect.Effect<void, ConnectionFailure> {
    return wait((resume) => {
      if (messages.length === 0 || this.failure !== undefined) {
        resume(this.failure === undefined ? Exit.void : Exit.fail(this.failure))
        return undefined
      }
      const forget = this.onOver((failure) => resume(Exit.fail(failure)))
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

  /** The write is done. */
  wrote(): void {
    this.writingSince = undefined
    this.whenIdle.notify()
  }

  /** Nothing is being written. */
  get idle(): Effect.Effect<void> {
    return Waiters.until(() => this.writingSince === undefined ? Exit.void : undefined, this.whenIdle)
  }

  takeOwn(): ReadonlyArray<Own> {
    // Not the array that the next ones are added to.
    if (this.own.length === 0) return nothing
    const { own } = this
    this.own = []
    return own
  }

  wakeWriter(): void {
    this.whenWork.notify()
  }

  /** Waits until there is something to send, here or, as `hasMore` says, elsewhere. For one fiber, the writer. */
  work(hasMore: () => boolean): Effect.Effect<void> {
    // `until` would cost more than the write.
    return Waiters.lightUntil(() => this.own.length > 0 || hasMore() ? Exit.void : undefined, this.whenWork)
  }
}

const nothing: ReadonlyArray<Own> = []
