/**
 * Opens a WebSocket connection, and reports why an upgrade was refused.
 *
 * A dialer is a service, so that one program runs on Node (`NodeWebSocketDialer.layer` of `effect-holdfast/node`), in
 * browsers and workers (`layerGlobal`), and in tests without a network (`layerTest`).
 *
 * **What a dialer guarantees.** `dial` succeeds with a connection that is open, or fails with a `DialError`. The error
 * has the server's answer if the platform shows it. No message is lost between the opening and `listen`. A connection
 * ends once, with one `ConnectionFailure`, and reports nothing after that. It ends at the latest with the scope in
 * which it was dialed. With `ws`, the peer's close frame ends the connection as soon as it has been read, even if the
 * peer leaves TCP open. A platform's `WebSocket` reports the frame's code only when TCP has ended.
 *
 * **What a dialer does not do.** A dialer neither waits nor retries: its callers do, like `ReconnectingSocket`.
 *
 * @since 0.1.0
 */

import * as Headers from "@effect/platform/Headers"
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import { within } from "./internal/first.js"
import { shown, shownCause, terminatedWithScope } from "./internal/socket/dialers.js"
import { Incoming } from "./internal/socket/incoming.js"
import { wait } from "./internal/wait.js"
import { Waiters } from "./internal/waiters.js"
import { InvalidOptions } from "./InvalidOptions.js"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * A request to dial. `headers` go with the upgrade request; browsers do not allow any.
 *
 * @since 0.1.0
 * @category models
 */
export interface DialRequest {
  readonly url: string | URL
  readonly protocols?: ReadonlyArray<string> | undefined
  readonly headers?: Headers.Input | undefined
  /** The longest message that is accepted, in bytes. Ignored by a platform that cannot refuse a longer one. */
  readonly maxPayload?: number | undefined
}

/**
 * A message: text or bytes.
 *
 * @since 0.1.0
 * @category models
 */
export type Message = string | Uint8Array

/**
 * The events of a connection. The callbacks are called in the order of the wire, one at a time, and must not throw.
 *
 * @since 0.1.0
 * @category models
 */
export interface Listener {
  readonly onMessage: (message: Message) => void
  /**
   * Called for each ping or pong: the peer is alive. `frame` is missing if the platform does not say which of the two
   * it was.
   */
  readonly onControl: (frame?: "Ping" | "Pong") => void
  /** Called once, as the last callback. */
  readonly onEnd: (failure: ConnectionClosed | ConnectionLost) => void
}

/**
 * An open connection, for one reader and one writer.
 *
 * @since 0.1.0
 * @category models
 */
export interface Connection {
  /** The subprotocol that the server chose; empty if none. */
  readonly protocol: string
  /** Must be called once. Gives the listener first what has already come in, then everything that comes in. */
  readonly listen: (listener: Listener) => Effect.Effect<void>
  /** Hands messages to the transport, in this order and in as few packets as possible; waits until all are written. */
  readonly write: (messages: ReadonlyArray<Message>) => Effect.Effect<void, ConnectionFailure>
  /** Sends a protocol ping. `None` on a platform without pings. */
  readonly ping: Option.Option<Effect.Effect<void, ConnectionFailure>>
  /** Pauses reading, so that TCP slows the peer down, and resumes it. `None` in browsers, which cannot pause. */
  readonly backpressure: Option.Option<{ readonly pause: Effect.Effect<void>; readonly resume: Effect.Effect<void> }>
  /** Sends a close frame, without a code if none is given. The connection ends when the peer has answered. */
  readonly close: (code?: number, reason?: string) => Effect.Effect<void>
  /** Ends the connection immediately, without a close frame unless the platform insists on one. */
  readonly terminate: Effect.Effect<void>
  /**
   * For a platform that has no event for the peer's close frame: checks whether the peer is closing, and ends the
   * connection if the platform does not end it within three seconds. Each write does the same.
   */
  readonly check?: Effect.Effect<void> | undefined
}

// -----------------------------------------------------------------------------
// errors
// -----------------------------------------------------------------------------

/**
 * No connection was opened. `url` is shown without credentials and query.
 *
 * - `Refused`: the server answered, but not with an upgrade; `status` and `headers` are its answer. (Browsers do not
 *   show it, and report `Transport`.)
 * - `Timeout`: the connection was not open in time.
 * - `Transport`: the server could not be reached, or broke the connection off.
 * - `InvalidRequest`: this request can never succeed.
 *
 * @since 0.1.0
 * @category errors
 */
export class DialError extends Data.TaggedError("DialError")<{
  readonly reason: "Refused" | "Timeout" | "Transport" | "InvalidRequest"
  readonly url: string
  readonly status?: number | undefined
  readonly headers?: Headers.Headers | undefined
  readonly cause?: unknown
}> {
  override get message(): string {
    switch (this.reason) {
      case "Refused":
        return `${this.url} refused the upgrade with ${this.status}`
      case "Timeout":
        return `${this.url === "" ? "the connection" : this.url} did not open in time`
      case "Transport":
        return `${this.url === "" ? "the server" : this.url} cannot be reached`
      case "InvalidRequest":
        return `${this.url} cannot be dialed${this.cause instanceof InvalidOptions ? `: ${this.cause.message}` : ""}`
    }
  }
}

/**
 * A close frame has ended the connection, from the peer or from this side. RFC 6455 section 7.4 lists the codes; 1005
 * means a frame without a code.
 *
 * @since 0.1.0
 * @category errors
 */
export class ConnectionClosed extends Data.TaggedError("ConnectionClosed")<{
  readonly code: number
  readonly reason: string
}> {
  override get message(): string {
    return `the connection was closed with ${this.code}${this.reason === "" ? "" : `: ${this.reason}`}`
  }
}

/**
 * The connection has ended without a close frame.
 *
 * - `Reset`: the transport broke.
 * - `HeartbeatTimeout`: the peer was silent for too long.
 * - `WriteTimeout`: the peer did not read what was written to it.
 * - `InvalidData`: the peer violated the protocol, or sent a message that is longer than allowed.
 * - `OnOpenFailed`: the user's `onOpen` failed, and `cause` is its error or defect; or `onOpen` and the subscriptions
 *   took longer than `openTimeout`, and `cause` is a `TimeoutException`.
 * - `InboxOverflow`: messages came in faster than they were taken, on a platform that cannot stop reading.
 *
 * @since 0.1.0
 * @category errors
 */
export class ConnectionLost extends Data.TaggedError("ConnectionLost")<{
  readonly reason: "Reset" | "HeartbeatTimeout" | "WriteTimeout" | "InvalidData" | "OnOpenFailed" | "InboxOverflow"
  readonly cause?: unknown
}> {
  override get message(): string {
    return `the connection was lost: ${this.reason}`
  }
}

/**
 * Why there is no connection, or why it has ended.
 *
 * @since 0.1.0
 * @category errors
 */
export type ConnectionFailure = DialError | ConnectionClosed | ConnectionLost

// -----------------------------------------------------------------------------
// the service
// -----------------------------------------------------------------------------

/**
 * Opens connections.
 *
 * @since 0.1.0
 * @category models
 */
export class WebSocketDialer extends Context.Tag("effect-holdfast/WebSocketDialer")<WebSocketDialer, {
  /**
   * Opens a connection, which is terminated when the scope closes; call its `close` before that to send a close frame.
   * A dial has no time limit: interrupt it, or use `Effect.timeout`. A dialer of your own must let its dial be
   * interrupted, because a socket that is closed waits for the end of its dial.
   */
  readonly dial: (request: DialRequest) => Effect.Effect<Connection, DialError, Scope.Scope>
  /** The longest message, in bytes, that this dialer's connections accept if the request does not set a limit. */
  readonly maxPayload?: number | undefined
  /** Waits until dialing makes sense, that is, until there is a network; possibly for ever. */
  readonly ready?: Effect.Effect<void> | undefined
  /**
   * Waits for the next moment at which it is worth dialing immediately, or pinging a connection, such as the network's
   * return.
   */
  readonly wake?: Effect.Effect<void> | undefined
}>() {}

// -----------------------------------------------------------------------------
// layers
// -----------------------------------------------------------------------------

/**
 * Dials with the platform's `WebSocket`, which browsers and workers have. That class can send no headers and no pings,
 * and cannot stop reading. If the server refuses the upgrade, the `DialError` has the reason `Transport`, since the
 * platform does not give the reason. The dialer is ready unless `navigator.onLine` is `false`, and an `online` event
 * ends `wake`.
 *
 * @example
 * ```ts
 * import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
 * import * as Effect from "effect/Effect"
 *
 * const program = Effect.scoped(Effect.gen(function*() {
 *   const { dial } = yield* WebSocketDialer.WebSocketDialer
 *   const connection = yield* dial({ url: "wss://echo.example.com" })
 *   yield* connection.write(["hello"])
 * }))
 *
 * const runnable = Effect.provide(program, WebSocketDialer.layerGlobal)
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layerGlobal: Layer.Layer<WebSocketDialer> = Layer.succeed(WebSocketDialer, {
  dial: (request) => terminatedWithScope(openedGlobal(request)),
  ready: Effect.suspend(() => isOffline() ? untilOnline(isOffline) : Effect.void),
  wake: Effect.suspend(() => untilOnline(() => true))
})

/** Node has a navigator without `onLine`. */
const isOffline = (): boolean => (globalThis.navigator as Partial<Navigator> | undefined)?.onLine === false

/**
 * Waits for an `online` event, unless `isToWait` says that no wait is needed. Never ends on a platform without such
 * events.
 */
const untilOnline = (isToWait: () => boolean): Effect.Effect<void> =>
  wait<void>((resume) => {
    if (!isToWait()) {
      resume(Exit.void)
      return undefined
    }
    const onOnline = () => {
      stop()
      resume(Exit.void)
    }
    const stop = () => globalThis.removeEventListener?.("online", onOnline)
    globalThis.addEventListener?.("online", onOnline)
    return stop
  })

const openedGlobal = (request: DialRequest): Effect.Effect<Connection, DialError> =>
  Effect.suspend(() => {
    const url = String(request.url)
    const invalid = (cause: unknown) => new DialError({ reason: "InvalidRequest", url: shown(url), cause })
    if (Object.keys(Headers.fromInput(request.headers)).length > 0) {
      return invalid("the platform's WebSocket can send no headers")
    }
    return wait<Connection, DialError>((resume) => {
      let socket: globalThis.WebSocket
      try {
        socket = new globalThis.WebSocket(url, [...request.protocols ?? []])
      } catch (cause) {
        resume(Exit.fail(invalid(shownCause(cause, url))))
        return undefined
      }
      const onRefused = (cause: Event) =>
        resume(Exit.fail(new DialError({ reason: "Transport", url: shown(url), cause })))
      socket.binaryType = "arraybuffer"
      // A `close` event follows each error. (An `EventEmitter`, such as `ws`, throws an error that has no listener.)
      socket.addEventListener("error", () => {})
      socket.addEventListener("close", onRefused)
      socket.addEventListener("open", () => {
        socket.removeEventListener("close", onRefused)
        resume(Exit.succeed(connectionOver(socket)))
      })
      return () => socket.close()
    })
  })

const connectionOver = (socket: globalThis.WebSocket): Connection => {
  const incoming = new Incoming<Message, ConnectionClosed | ConnectionLost>()
  socket.addEventListener(
    "message",
    ({ data }: MessageEvent<string | ArrayBuffer>) =>
      incoming.message(typeof data === "string" ? data : new Uint8Array(data))
  )
  socket.addEventListener("close", ({ code, reason }) => incoming.endWith(endOf(code, reason)))
  let isClosedByUs = false

  /**
   * The platform answers the peer's close frame by itself, but has an event only for the end of TCP. Browsers end TCP
   * within two seconds; Node's undici never does if the peer leaves TCP open.
   */
  const isClosing = () => socket.readyState === 2 && !isClosedByUs && incoming.end === undefined
  const ended = wait<void>((resume) => incoming.onceEnded(() => resume(Exit.void)))
  const closedByPeer = within(ended, 3000, () => new ConnectionLost({ reason: "Reset", cause: "the peer is closing" }))
  const check = Effect.suspend(() =>
    isClosing()
      ? Effect.catchAll(closedByPeer, (failure) => Effect.sync(() => incoming.endWith(failure)))
      : Effect.void
  )

  // The platform has no event for a finished write.
  const isWritten = Effect.sync(() => socket.bufferedAmount === 0 || incoming.end !== undefined || isClosing())
  const written = Effect.repeat(isWritten, { until: (is) => is, schedule: Schedule.spaced("4 millis") })

  return {
    protocol: socket.protocol,
    listen: (listener) => Effect.sync(() => incoming.listen(listener)),
    write: (messages) =>
      Effect.suspend(() => {
        for (const message of messages) socket.send(message as string | Uint8Array<ArrayBuffer>)
        return socket.bufferedAmount === 0 ? Effect.void : written
      }).pipe(
        // If the peer is closing, these messages are not sent: undici drops them, and a browser keeps them buffered.
        Effect.zipRight(check),
        Effect.zipRight(Effect.suspend((): Effect.Effect<void, ConnectionFailure> => incoming.end ?? Effect.void))
      ),
    ping: Option.none(),
    backpressure: Option.none(),
    close: (code, reason) =>
      Effect.sync(() => {
        isClosedByUs = isClosedByUs || !isClosing()
        socket.close(code === undefined ? undefined : closable(code), reason)
      }),
    terminate: Effect.sync(() => {
      socket.close()
      incoming.endWith(new ConnectionLost({ reason: "Reset", cause: "terminated" }))
    }),
    check
  }
}

/** The platform only allows the codes 1000 and 3000 to 4999. Any other code becomes 1000. */
const closable = (code: number): number => code >= 3000 && code <= 4999 ? code : 1000

/** RFC 6455 section 7.4.1: 1006 and 1015 are never sent. They mean an end without a close frame. */
const endOf = (code: number, reason: string): ConnectionClosed | ConnectionLost =>
  code === 1006 || code === 1015
    ? new ConnectionLost({ reason: "Reset", cause: code })
    : new ConnectionClosed({ code, reason })

// -----------------------------------------------------------------------------
// testing
// -----------------------------------------------------------------------------

/**
 * The test's side of `layerTest`: the server for every dial.
 *
 * @since 0.1.0
 * @category models
 */
export class TestServer extends Context.Tag("effect-holdfast/WebSocketDialer/TestServer")<TestServer, {
  /** Waits for the next dial that has not been interrupted, and takes it. */
  readonly attempt: Effect.Effect<Attempt>
}>() {}

/**
 * A dial that waits for its answer. The first answer counts. If the dial was interrupted before that, no answer counts,
 * and the peer that `open` gives has already ended.
 *
 * @since 0.1.0
 * @category models
 */
export interface Attempt {
  readonly request: DialRequest
  readonly open: (options?: { readonly protocol?: string | undefined }) => Effect.Effect<Peer>
  readonly refuse: (status: number, headers?: Headers.Input) => Effect.Effect<void>
  readonly fail: (cause?: unknown) => Effect.Effect<void>
}

/**
 * The server's end of a connection.
 *
 * @since 0.1.0
 * @category models
 */
export interface Peer {
  /** Waits for the next message that the client has sent. */
  readonly receive: Effect.Effect<Message>
  readonly send: (message: Message) => Effect.Effect<void>
  readonly ping: Effect.Effect<void>
  /** Makes the server stop reading: the client's writes wait, and its pings stay unanswered. */
  readonly stall: Effect.Effect<void>
  /** Ends the connection by a close frame of the server. */
  readonly close: (code: number, reason?: string) => Effect.Effect<void>
  /** Breaks the transport: the connection ends without a close frame. */
  readonly reset: Effect.Effect<void>
  /** Waits until the connection has ended, and gives the reason. */
  readonly ended: Effect.Effect<ConnectionClosed | ConnectionLost>
}

/**
 * A dialer without a network. The test plays the server: it answers each dial (`TestServer`) and sends the peer's
 * messages. Nothing takes time unless it waits for the `Clock`.
 *
 * @example
 * ```ts
 * import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
 * import * as Effect from "effect/Effect"
 *
 * const test = Effect.scoped(Effect.gen(function*() {
 *   const { dial } = yield* WebSocketDialer.WebSocketDialer
 *   const server = yield* WebSocketDialer.TestServer
 *   const dialing = yield* Effect.fork(dial({ url: "ws://test" }))
 *   const peer = yield* Effect.flatMap(server.attempt, ({ open }) => open())
 *   yield* Effect.flatMap(dialing, ({ write }) => write(["hello"]))
 *   return yield* peer.receive
 * })).pipe(Effect.provide(WebSocketDialer.layerTest))
 * ```
 *
 * @since 0.1.0
 * @category testing
 */
export const layerTest: Layer.Layer<WebSocketDialer | TestServer> = Layer.effectContext(
  Effect.sync(() => {
    const attempts = new Attempts()
    return Context.empty().pipe(
      Context.add(TestServer, { attempt: attempts.next }),
      Context.add(WebSocketDialer, { dial: (request) => terminatedWithScope(attempted(attempts, request)) })
    )
  })
)

/** Dials that the test has not taken yet, in order. A dial that is interrupted is removed. */
class Attempts {
  private readonly waiting = new Set<Attempt>()
  private readonly whenAdded = new Waiters()

  add(attempt: Attempt): void {
    this.waiting.add(attempt)
    this.whenAdded.notify()
  }

  delete(attempt: Attempt): void {
    this.waiting.delete(attempt)
  }

  /** Checks again after each wait: the dial that ended the wait may have been interrupted meanwhile. */
  readonly next: Effect.Effect<Attempt> = Effect.suspend(() => {
    for (const attempt of this.waiting) {
      this.waiting.delete(attempt)
      return Effect.succeed(attempt)
    }
    const isAdded = Waiters.until(() => this.waiting.size > 0 ? Exit.void : undefined, this.whenAdded)
    return Effect.zipRight(isAdded, this.next)
  })
}

const attempted = (attempts: Attempts, request: DialRequest): Effect.Effect<Connection, DialError> =>
  wait((resume) => {
    const url = shown(request.url)
    let isOver = false
    let opened: Connection | undefined
    const answer = (exit: Exit.Exit<Connection, DialError>): void => {
      if (!isOver) resume(exit)
      isOver = true
    }
    const attempt: Attempt = {
      request,
      open: ({ protocol = "" } = {}) =>
        Effect.suspend(() => {
          const [connection, peer] = pair(protocol)
          if (isOver) return Effect.as(connection.terminate, peer)
          opened = connection
          answer(Exit.succeed(connection))
          return Effect.succeed(peer)
        }),
      refuse: (status, headers) =>
        Effect.sync(() =>
          answer(Exit.fail(new DialError({ reason: "Refused", url, status, headers: Headers.fromInput(headers) })))
        ),
      fail: (cause) => Effect.sync(() => answer(Exit.fail(new DialError({ reason: "Transport", url, cause }))))
    }
    attempts.add(attempt)
    return () => {
      isOver = true
      attempts.delete(attempt)
      // The dial may have been interrupted immediately after it was answered: then only this code can end the
      // connection.
      if (opened !== undefined) Effect.runSync(opened.terminate)
    }
  })

const pair = (protocol: string): readonly [Connection, Peer] => {
  const incoming = new Incoming<Message, ConnectionClosed | ConnectionLost>()
  const received = Effect.runSync(Queue.unbounded<Message>())
  let isStalled = false
  const failure = Effect.suspend((): Effect.Effect<void, ConnectionFailure> => incoming.end ?? Effect.void)
  const over = (end: ConnectionClosed | ConnectionLost) => Effect.sync(() => incoming.endWith(end))
  const ended = wait<ConnectionClosed | ConnectionLost>((resume) =>
    incoming.onceEnded((end) => resume(Exit.succeed(end)))
  )
  const taken = <A>(take: () => A): Effect.Effect<void, ConnectionFailure> =>
    Effect.suspend(() => {
      if (incoming.end === undefined && !isStalled) take()
      return incoming.end === undefined && isStalled ? ended : Effect.void
    }).pipe(
      Effect.zipRight(failure)
    )
  return [
    {
      protocol,
      listen: (listener) => Effect.sync(() => incoming.listen(listener)),
      write: (messages) => taken(() => messages.forEach((message) => received.unsafeOffer(message))),
      ping: Option.some(Effect.zipRight(failure, Effect.sync(() => isStalled || incoming.control("Pong")))),
      backpressure: Option.none(),
      close: (code = 1005, reason = "") => isStalled ? Effect.void : over(new ConnectionClosed({ code, reason })),
      terminate: over(new ConnectionLost({ reason: "Reset", cause: "terminated" }))
    },
    {
      receive: Queue.take(received),
      send: (message) => Effect.sync(() => incoming.message(message)),
      ping: Effect.sync(() => incoming.control("Ping")),
      stall: Effect.sync(() => {
        isStalled = true
      }),
      close: (code, reason = "") => over(new ConnectionClosed({ code, reason })),
      reset: over(new ConnectionLost({ reason: "Reset" })),
      ended
    }
  ]
}
