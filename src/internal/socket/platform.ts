/**
 * A reconnecting socket as a `Socket` of `@effect/platform`: its runs and its writes.
 *
 * A run is attached to one connection and ends with it. A write goes to the connection of the current run. If there is
 * no run, a write waits for the next one. The outbox is not used.
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
  /** The error of a socket that has failed. */
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
  /** The connection of the current run. Writes go to it, even after the connection has ended. */
  private attached: LiveConnection<Message> | undefined
  /** The connection of the last run. No second run uses it. */
  private last: LiveConnection<Message> | undefined
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
          // The reason is not "Open", because RpcClient would take that for transient, and its calls would wait for
          // ever.
          : new Socket.SocketGenericError({ reason: "Read", cause: this.wiring.failed(info) }),
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
          this.attached = undefined
        })
    )
  }

  /** Waits for a connection that has had no run yet. */
  private get attach(): Effect.Effect<LiveConnection<Message>, CloseInfo> {
    return Effect.map(Effect.suspend(() => this.wiring.owner.untilOpen(this.last)), (live) => {
      this.attached = this.last = live
      this.whenAttached.notify()
      return live
    })
  }

  /**
   * Ends with the connection, with a handler's failure, or by interruption. In the last two cases the connection is
   * given up.
   */
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
        const whenRoom = new Waiters()
        let running = 0
        // After a loss no more messages come, so that the rest need not wait.
        const untilRoom = Waiters.until(
          () => running < mostHandlers || live.failure !== undefined ? Exit.void : undefined,
          whenRoom,
          live.whenLost
        )
        const done = Effect.sync(() => {
          running--
          whenRoom.notify()
        })
        const handle = (message: Message) =>
          Effect.suspend(() => {
            const effect = handler(message)
            if (!Effect.isEffect(effect)) return Effect.void
            return Effect.map(untilRoom, () => {
              running++
              fork(Effect.ensuring(effect, done))
            })
          })
        const over = Effect.suspend((): Effect.Effect<void, Socket.SocketError> =>
          live.failure === undefined || owner.wiring.orders.closing !== undefined
            ? Effect.void
            : socketError(live.failure)
        )
        const handleAll: Effect.Effect<void, Socket.SocketError> = Effect.matchEffect(live.inbox.takeAll, {
          onFailure: () => over,
          onSuccess: (messages) =>
            Effect.zipRight(Effect.forEach(messages, handle, { discard: true }), Effect.suspend(() => handleAll))
        })
        const isOpened = yield* first(Effect.as(onOpen, true), Effect.as(live.untilLost, false))
        return yield* isOpened ? first(handleAll, FiberSet.join(handlers)) : over
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
        return Effect.suspend(() => {
          live.isClosedHere = true
          return live.connection.close(sendableCode(chunk.code), sendableReason(chunk.reason ?? ""))
        })
      }
      return Either.match(this.wiring.encode(chunk), {
        onLeft: (cause) => new Socket.SocketGenericError({ reason: "Write", cause }),
        onRight: (data) => Effect.ignore(live.sendAll([data]))
      })
    })
  }

  /** The connection for a write; undefined if the socket is closed. Fails if the socket has failed. */
  private get attachment(): Effect.Effect<LiveConnection<Message> | undefined, Socket.SocketError> {
    const { failed, owner } = this.wiring
    const look = (): Exit.Exit<LiveConnection<Message> | undefined, Socket.SocketError> | undefined => {
      if (this.attached !== undefined) return Exit.succeed(this.attached)
      if (owner.state._tag !== "Closed") return owner.wiring.orders.isClosing ? Exit.succeed(undefined) : undefined
      return Option.isNone(owner.closeInfo.failure)
        ? Exit.succeed(undefined)
        : Exit.fail(new Socket.SocketGenericError({ reason: "Write", cause: failed(owner.closeInfo) }))
    }
    return Waiters.until(look, this.whenAttached, owner.whenMoved, owner.wiring.orders.whenOrdered)
  }
}

const socketError = (failure: ConnectionFailure): Socket.SocketError =>
  failure._tag === "ConnectionClosed"
    ? new Socket.SocketCloseError({ reason: "Close", code: failure.code, closeReason: failure.reason })
    : new Socket.SocketGenericError({ reason: "Read", cause: failure })
