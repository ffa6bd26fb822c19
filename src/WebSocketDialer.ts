/**
 * How one WebSocket connection is opened, and what a refused upgrade says.
 *
 * A dialer is a service, so that what is built on it runs on Node (`NodeWebSocketDialer.layer`,
 * `effect-holdfast/node`), in browsers and workers (`layerGlobal`), and in tests without a network (`layerTest`).
 *
 * **What a dialer guarantees.** `dial` succeeds with a connection that is open, or fails with a `DialError` that says
 * what the server answered, where the platform tells. No message is lost between the opening and `listen`. A
 * connection ends once, with one `ConnectionFailure`, after which nothing more comes from it. The connection lasts no
 * longer than the scope it was dialed in. With `ws` a peer's close frame ends the connection when it has been read,
 * also if the peer leaves TCP open. A platform's `WebSocket` tells the frame's code when TCP has ended.
 *
 * **What it does not.** It neither waits nor tries again: that is for those who dial.
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
import { shown, terminatedWithScope } from "./internal/socket/dialers.js"
import { Incoming } from "./internal/socket/incoming.js"
import { wait } from "./internal/wait.js"
import { Waiters } from "./internal/waiters.js"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * What to dial. `headers` are the upgrade request's; browsers let nobody set them.
 *
 * @since 0.1.0
 * @category models
 */
export interface DialRequest {
  readonly url: string | URL
  readonly protocols?: ReadonlyArray<string> | undefined
  readonly headers?: Headers.Input | undefined
  /** The longest message that is taken, in bytes, where the platform can refuse one that is longer as it comes in. */
  readonly maxPayload?: number | undefined
}

/**
 * One message: text or bytes.
 *
 * @since 0.1.0
 * @category models
 */
export type Message = string | Uint8Array

/**
 * What a connection tells. The callbacks are called in the order of the wire, one at a time, and must not throw.
 *
 * @since 0.1.0
 * @category models
 */
export interface Listener {
  readonly onMessage: (message: Message) => void
  /** A ping or a pong, if it is known which: nothing to be told, but the peer is alive. */
  readonly onControl: (frame?: "Ping" | "Pong") => void
  /** Once, and last. */
  readonly onEnd: (failure: ConnectionClosed | ConnectionLost) => void
}

/**
 * One open connection, for one reader and one writer.
 *
 * @since 0.1.0
 * @category models
 */
export interface Connection {
  /** The subprotocol that the server chose; empty if none. */
  readonly protocol: string
  /** To be called once. What has come in before is told now. */
  readonly listen: (listener: Listener) => Effect.Effect<void>
  /** Hands messages to the transport, in this order and in as few packets as it can; waits until they are written. */
  readonly write: (messages: ReadonlyArray<Message>) => Effect.Effect<void, ConnectionFailure>
  /** A protocol ping, where the platform has any. */
  readonly ping: Option.Option<Effect.Effect<void, ConnectionFailure>>
  /** Stops and goes on reading, so that the peer feels that nobody takes what it sends. Browsers cannot. */
  readonly backpressure: Option.Option<{ readonly pause: Effect.Effect<void>; readonly resume: Effect.Effect<void> }>
  /** Sends a close frame; the end comes when the peer has answered it. Without a code the frame has none. */
  readonly close: (code?: number, reason?: string) => Effect.Effect<void>
  /** Ends the connection at once, without a word to the peer where the platform can. */
  readonly terminate: Effect.Effect<void>
  /**
   * For a platform that does not tell when the peer begins to close: looks whether that is so, and ends the connection
   * if the platform does not end it within three seconds. A write looks too.
   */
  readonly check?: Effect.Effect<void> | undefined
}

// -----------------------------------------------------------------------------
// errors
// -----------------------------------------------------------------------------

/**
 * The connection did not come about. `Refused`: the server answered with something else than an upgrade, `status` and
 * `headers` say what, where the platform tells (browsers do not, and report `Transport`). `Timeout`: it took too long.
 * `Transport`: the server could not be reached, or broke off. `InvalidRequest`: this request can never succeed.
 * `url` is without credentials and query.
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
        return `${this.url} cannot be dialed`
    }
  }
}

/**
 * The connection was closed by a close frame, the peer's or our own. RFC 6455 section 7.4 lists the codes; 1005 stands
 * for a frame without one.
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
 * The connection ended without a close frame. `Reset`: the transport broke. `HeartbeatTimeout`: the peer had been
 * silent for too long. `WriteTimeout`: it did not take what was written. `InvalidData`: it broke the protocol or sent
 * more than is allowed. `OnOpenFailed`: what was to be done on opening failed. `InboxOverflow`: messages came faster
 * than they were taken, where reading cannot be paused.
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
 * Why there is no connection, or no more.
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
   * The connection is terminated when the scope closes; one that is to be closed politely is closed before. There is
   * no time limit: interrupt it, or use `Effect.timeout`.
   */
  readonly dial: (request: DialRequest) => Effect.Effect<Connection, DialError, Scope.Scope>
}>() {}

// -----------------------------------------------------------------------------
// layers
// -----------------------------------------------------------------------------

/**
 * Dials with the platform's `WebSocket`, as browsers and workers have it. It can send no headers and no pings, cannot
 * stop reading, and does not tell why an upgrade was refused: that is a `DialError` with reason `Transport`.
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
  dial: (request) => terminatedWithScope(openedGlobal(request))
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
        resume(Exit.fail(invalid(cause)))
        return undefined
      }
      const onRefused = (cause: Event) =>
        resume(Exit.fail(new DialError({ reason: "Transport", url: shown(url), cause })))
      socket.binaryType = "arraybuffer"
      // Told by `close` as well.
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
   * The platform answers the peer's close frame, and tells of it when TCP has ended: browsers within two seconds, the
   * undici of Node never if the peer leaves TCP open.
   */
  const isClosing = () => socket.readyState === 2 && !isClosedByUs && incoming.end === undefined
  const ended = wait<void>((resume) => incoming.onceEnded(() => resume(Exit.void)))
  const closedByPeer = within(ended, 3000, () => new ConnectionLost({ reason: "Reset", cause: "the peer is closing" }))
  const check = Effect.suspend(() =>
    isClosing()
      ? Effect.catchAll(closedByPeer, (failure) => Effect.sync(() => incoming.endWith(failure)))
      : Effect.void
  )

  // There is no event for it.
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
        // What is sent now, nobody gets: undici drops it, and a browser counts it as waiting.
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

/** What the platform lets a page say. */
const closable = (code: number): number => code >= 3000 && code <= 4999 ? code : 1000

/** RFC 6455 section 7.4.1: 1006 and 1015 are never sent, they say that there was no close frame. */
const endOf = (code: number, reason: string): ConnectionClosed | ConnectionLost =>
  code === 1006 || code === 1015
    ? new ConnectionLost({ reason: "Reset", cause: code })
    : new ConnectionClosed({ code, reason })

// -----------------------------------------------------------------------------
// testing
// -----------------------------------------------------------------------------

/**
 * The server of `layerTest`.
 *
 * @since 0.1.0
 * @category models
 */
export class TestServer extends Context.Tag("effect-holdfast/WebSocketDialer/TestServer")<TestServer, {
  /** Waits for the next dial that has not been given up. */
  readonly attempt: Effect.Effect<Attempt>
}>() {}

/**
 * A dial that waits for its answer. Only the first answer counts, and none if the dial has been given up meanwhile:
 * then the peer that `open` gives has ended.
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
  /** From now on nothing that is sent here is taken; pings stay unanswered. */
  readonly stall: Effect.Effect<void>
  /** A close frame from the server. */
  readonly close: (code: number, reason?: string) => Effect.Effect<void>
  /** The transport breaks. */
  readonly reset: Effect.Effect<void>
  /** Waits until the connection has ended, and tells how. */
  readonly ended: Effect.Effect<ConnectionClosed | ConnectionLost>
}

/**
 * A dialer whose server is the test: it decides about each dial, and speaks for the peer. Nothing takes any time but
 * what waits for the `Clock`.
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

/** Dials that the test has not been given yet, in their order. A dial that is given up is taken out. */
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

  /** Takes the oldest dial in a step after the wait, since a dial may be given up in between. */
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
      // The dial may have been given up in the moment in which it was answered.
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
