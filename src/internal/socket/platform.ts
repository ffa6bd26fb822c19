/**
 * A reconnecting socket as `@effect/platform` knows sockets: its runs and its writes.
 *
 * A run is attached to one connection and ends with it. A write goes to the connection to which the last run was
 * attached, and waits for the first run. The outbox is not used.
 */
import * as Socket from "@effect/platform/Socket"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as FiberSet from "effect/FiberSet"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import type { CloseInfo } from "../../ReconnectingSocket.js"
import type { ConnectionFailure, Message } from "../../WebSocketDialer.js"
import { first } from "../first.js"
import { Waiters } from "../waiters.js"
import type { LiveConnection } from "./connection.js"
import type { Owner } from "./owner.js"
import { sendableCode, sendableReason } from "./policy.js"

interface Wiring {
  readonly owner: Owner<Message, Message, any>
  /** Left: why the message cannot be encoded. */
  readonly encode: (message: Message) => Either.Either<Message, unknown>
  /** The error of a socket that has given up. */
  readonly failed: (info: CloseInfo) => unknown
}

type Handler<A, E, R> = (message: Message) => Effect.Effect<A, E, R> | void

const mostHandlers = 1024

export const make = (wiring: Wiring): Socket.Socket => {
  const runs = new Runs(wiring)
  const encoder = new TextEncoder()
  return Socket.Socket.of({
    [Socket.TypeId]: Socket.TypeId,
    run: (handler, options) =>
      runs.run((message) => handler(typeof message === "string" ? encoder.encode(message) : message), options?.onOpen),
    runRaw: (handler, options) => runs.run(handler, options?.onOpen),
    writer: Effect.succeed((chunk) => runs.write(chunk))
  })
}

class Runs {
  private readonly wiring: Wiring
  /** The connection of the last run. Writes belong to it, also after the run and the connection have ended. */
  private attached: LiveConnection<Message> | undefined
  private readonly whenAttached = new Waiters()
  private isRunning = false

  constructor(wiring: Wiring) {
    this.wiring = wiring
    wiring.owner.keepApart()
  }

  // ---------------------------------------------------------------------------
  // runs
  // ---------------------------------------------------------------------------

  run<A, E, R>(
    handler: Handler<A, E, R>,
    onOpen: Effect.Effect<void> | undefined
  ): Effect.Effect<void, Socket.SocketError | E, R> {
    const attachedRun = Effect.matchEffect(this.attach, {
      onFailure: (info) =>
        Option.isNone(info.failure)
          ? Effect.void
          : new Socket.SocketGenericError({ reason: "Open", cause: this.wiring.failed(info) }),
      onSuccess: (live) => this.runOn(live, handler, onOpen)
    })
    return Effect.acquireUseRelease(
      Effect.suspend(() => {
        if (this.isRunning) return new Socket.SocketGenericError({ reason: "Open", cause: "it is run already" })
        this.isRunning = true
        return Effect.void
      }),
      () => attachedRun,
      () =>
        Effect.sync(() => {
          this.isRunning = false
        })
    )
  }

  /** Waits for a connection on which nothing has been run yet. */
  private get attach(): Effect.Effect<LiveConnection<Message>, CloseInfo> {
    return Effect.map(Effect.suspend(() => this.wiring.owner.untilOpen(this.attached)), (live) => {
      this.attached = live
      this.whenAttached.notify()
      return live
    })
  }

  /** Ends with the connection, with a handler's failure, or interrupted; then the connection is given up. */
  private runOn<A, E, R>(
    live: LiveConnection<Message>,
    handler: Handler<A, E, R>,
    onOpen: Effect.Effect<void> = Effect.void
  ): Effect.Effect<void, Socket.SocketError | E, R> {
    const { owner } = this.wiring
    return Effect.scopedWith((scope) =>
      Effect.gen(function*() {
        const handlers = yield* Scope.extend(FiberSet.make<unknown, E>(), scope)
        const fork = yield* FiberSet.runtime(handlers)<R>()
        // Its only taker is this fiber.
        const room = Effect.unsafeMakeSemaphore(mostHandlers)
        const done = room.release(1)
        const handle = (message: Message) =>
          Effect.suspend(() => {
            const effect = handler(message)
            if (!Effect.isEffect(effect)) return Effect.void
            return Effect.map(room.take(1), () => fork(Effect.ensuring(effect, done)))
          })
        const handleAll: Effect.Effect<void, Socket.SocketError> = Effect.matchEffect(live.inbox.takeAll, {
          onFailure: (): Effect.Effect<void, Socket.SocketError> =>
            live.failure === undefined || owner.wiring.orders.isClosing ? Effect.void : socketError(live.failure),
          onSuccess: (messages) =>
            Effect.zipRight(Effect.forEach(messages, handle, { discard: true }), Effect.suspend(() => handleAll))
        })
        yield* onOpen
        return yield* first(handleAll, FiberSet.join(handlers))
      })
    ).pipe(
      Effect.onExit(() => Effect.sync(() => owner.giveUp(live)))
    )
  }

  // ---------------------------------------------------------------------------
  // writes
  // ---------------------------------------------------------------------------

  write(chunk: Message | Socket.CloseEvent): Effect.Effect<void, Socket.SocketError> {
    return Effect.flatMap(this.attachment, (live): Effect.Effect<void, Socket.SocketError> => {
      if (live === undefined) return Effect.void
      if (Socket.isCloseEvent(chunk)) {
        return live.connection.close(sendableCode(chunk.code), sendableReason(chunk.reason ?? ""))
      }
      return Either.match(this.wiring.encode(chunk), {
        onLeft: (cause) => new Socket.SocketGenericError({ reason: "Write", cause }),
        onRight: (data) => Effect.ignore(live.sendAll([data]))
      })
    })
  }

  /** The connection that a write goes to; none if the socket is closed before a run is attached. */
  private get attachment(): Effect.Effect<LiveConnection<Message> | undefined> {
    const { owner } = this.wiring
    return Waiters.until(
      () => this.attached !== undefined || owner.wiring.orders.isClosing ? Exit.succeed(this.attached) : undefined,
      this.whenAttached,
      owner.whenMoved,
      owner.wiring.orders.whenOrdered
    )
  }
}

const socketError = (failure: ConnectionFailure): Socket.SocketError =>
  failure._tag === "ConnectionClosed"
    ? new Socket.SocketCloseError({ reason: "Close", code: failure.code, closeReason: failure.reason })
    : new Socket.SocketGenericError({ reason: "Read", cause: failure })
