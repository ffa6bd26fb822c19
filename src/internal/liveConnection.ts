/**
 * One connection while it lives: how it ended, when it was last heard of, and what only it is to send.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { Connection, ConnectionFailure, Message } from "../WebSocketDialer.js"
import { wait } from "./wait.js"

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
  private onWork: (() => void) | undefined
  private readonly onIdle = new Set<() => void>()
  private readonly onOver = new Set<() => void>()

  constructor(connection: Connection, inbox: Inbox, now: number) {
    this.connection = connection
    this.inbox = inbox
    this.lastHeard = now
  }

  // ---------------------------------------------------------------------------
  // its end
  // ---------------------------------------------------------------------------

  /** The first that is told is why it ended. */
  over(failure: ConnectionFailure): void {
    if (this.failure !== undefined) return
    this.failure = failure
    call(this.onOver)
  }

  get ended(): Effect.Effect<ConnectionFailure> {
    return wait((resume) => this.whenOver(() => resume(Exit.succeed(this.failure!))))
  }

  /** Gives what takes the request back. */
  whenOver(onOver: () => void): () => void {
    if (this.failure !== undefined) onOver()
    else this.onOver.add(onOver)
    return () => {
      this.onOver.delete(onOver)
    }
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

  /** Waits until they are written. */
  sendAll(messages: ReadonlyArray<Message>): Effect.Effect<void, ConnectionFailure> {
    return wait((resume) => {
      if (messages.length === 0 || this.failure !== undefined) {
        resume(this.failure === undefined ? Exit.void : Exit.fail(this.failure))
        return undefined
      }
      const forget = this.whenOver(() => resume(Exit.fail(this.failure!)))
      messages.forEach((message, place) =>
        this.send(
          message,
          place < messages.length - 1 ? undefined : () => {
            forget()
            resume(Exit.void)
          }
        ))
      return forget
    })
  }

  /** The write is done. */
  wrote(): void {
    this.writingSince = undefined
    if (this.onIdle.size > 0) call(this.onIdle)
  }

  /** Nothing is being written. */
  get idle(): Effect.Effect<void> {
    return wait((resume) => {
      const onIdle = () => resume(Exit.void)
      if (this.writingSince === undefined) onIdle()
      else this.onIdle.add(onIdle)
      return () => {
        this.onIdle.delete(onIdle)
      }
    })
  }

  takeOwn(): ReadonlyArray<Own> {
    // Not the array that the next ones are added to.
    if (this.own.length === 0) return nothing
    const { own } = this
    this.own = []
    return own
  }

  wakeWriter(): void {
    this.onWork?.()
  }

  /** Waits until there is something to send, here or, as `hasMore` says, elsewhere. For one fiber, the writer. */
  work(hasMore: () => boolean): Effect.Effect<void> {
    const isThere = () => this.own.length > 0 || hasMore()
    // Who is interrupted here leaves a callback that does nothing; `wait` would cost more than the write.
    const coming = Effect.async<void>((resume) => {
      this.onWork = () => {
        this.onWork = undefined
        resume(Effect.void)
      }
      // It may have come between the look and this.
      if (isThere()) this.onWork()
    })
    return Effect.suspend(() => isThere() ? Effect.void : coming)
  }
}

const nothing: ReadonlyArray<Own> = []

const call = (callbacks: Set<() => void>): void => {
  const all = [...callbacks]
  callbacks.clear()
  for (const callback of all) callback()
}
