/**
 * `WebSocketDialer` on Node, over `ws`. The `WebSocket` that newer versions of Node have is not used: it sends no
 * headers and no pings, and does not say why an upgrade was refused.
 *
 * @since 0.1.0
 */

import * as Headers from "@effect/platform/Headers"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Http from "node:http"
import { Socket } from "node:net"
import type { Duplex } from "node:stream"
import type { ConnectionOptions } from "node:tls"
import { type ClientOptions, WebSocket } from "ws"
import * as Check from "../internal/check.js"
import { shown, shownCause, terminatedWithScope } from "../internal/socket/dialers.js"
import { Incoming } from "../internal/socket/incoming.js"
import { withWriteNow } from "../internal/socket/writeNow.js"
import { wait } from "../internal/wait.js"
import {
  type Connection,
  ConnectionClosed,
  type ConnectionFailure,
  ConnectionLost,
  DialError,
  type DialRequest,
  type Message,
  WebSocketDialer
} from "../WebSocketDialer.js"

/**
 * Options for every connection of a dialer.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** TLS options for `wss:` URLs, such as a CA, a client certificate or a server name. */
  readonly tls?: ConnectionOptions | undefined
  /** An agent that opens the connections instead of this dialer: an agent for a proxy, for instance. */
  readonly agent?: Http.Agent | undefined
  /** Offers compression (RFC 7692), which costs memory for each connection and time for each message. Default: no. */
  readonly perMessageDeflate?: boolean | undefined
  /**
   * The longest message that is accepted, in bytes; a longer one ends the connection. A request's own `maxPayload` wins
   * over this one. Default: 16 MiB.
   */
  readonly maxPayload?: number | undefined
}

/**
 * The dialer as a layer.
 *
 * @example
 * ```ts
 * import { NodeWebSocketDialer } from "effect-holdfast/node"
 * import { readFileSync } from "node:fs"
 *
 * const dialer = NodeWebSocketDialer.layer({ tls: { ca: readFileSync("ca.pem") } })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: Options = {}): Layer.Layer<WebSocketDialer> =>
  Layer.succeed(WebSocketDialer, {
    dial: (request) => terminatedWithScope(opened(request, options)),
    maxPayload: options.maxPayload ?? defaultMaxPayload
  })

const defaultMaxPayload = 16 * 1024 * 1024

const opened = (request: DialRequest, options: Options): Effect.Effect<Connection, DialError> =>
  wait((resume) => {
    const url = String(request.url)
    const fail = (reason: DialError["reason"], cause: unknown, response?: Http.IncomingMessage) =>
      resume(Exit.fail(
        new DialError({
          reason,
          url: shown(url),
          cause,
          ...response && { status: response.statusCode, headers: Headers.fromInput(response.headers as Headers.Input) }
        })
      ))
    let socket: PromptWebSocket
    try {
      socket = new PromptWebSocket(url, [...request.protocols ?? []], clientOptions(request, options))
    } catch (cause) {
      fail("InvalidRequest", shownCause(cause, url))
      return undefined
    }
    let transport: Socket | undefined
    socket.on("upgrade", (response) => {
      transport = response.socket
    })
    socket.on("unexpected-response", (sent, response) => {
      fail("Refused", undefined, response)
      sent.destroy()
    })
    const onError = (cause: Error) => fail("Transport", cause)
    socket.on("error", onError)
    socket.on("open", () => {
      socket.off("error", onError)
      // Nothing is read until `listen` is called.
      socket.pause()
      resume(Exit.succeed(connectionOver(socket, transport!)))
    })
    return () => socket.terminate()
  })

const clientOptions = (
  { headers, maxPayload }: DialRequest,
  { agent, maxPayload: byDefault = defaultMaxPayload, perMessageDeflate = false, tls }: Options
): ClientOptions => ({
  // The types of `ws` and of Node disagree on what `checkServerIdentity` returns. Node's are right.
  ...tls as unknown as ClientOptions,
  headers: { ...Headers.fromInput(headers) },
  maxPayload: Check.count("maxPayload", maxPayload ?? byDefault, 1),
  perMessageDeflate,
  followRedirects: false,
  ...agent && { agent }
})

/**
 * A `WebSocket` that reports the peer's close frame as soon as the frame has been read. `ws` itself emits `close` only
 * when TCP has ended, up to 30 seconds later if the peer leaves TCP open. But `ws` answers the frame immediately, and
 * does so by its own public method `close`: with the frame's code and reason, or without arguments if the frame has no
 * code. So this class overrides `close`, which only `ws` calls here; this module closes a connection by `closeFirst`.
 * (When the peer has violated the protocol, `ws` calls `close` with a code alone. There is no close frame then; an
 * `error` event reports the violation.)
 */
class PromptWebSocket extends WebSocket {
  /** Called when the peer's close frame has been read. */
  onCloseFrame: ((code: number, reason: string) => void) | undefined
  private termination: NodeJS.Timeout | undefined

  override close(...answer: [code?: number, reason?: string | Buffer]): void {
    super.close(...answer)
    if (answer.length === 1) return
    if (this.termination === undefined) {
      this.termination = setTimeout(() => this.terminate(), lastSecond)
      this.once("close", () => clearTimeout(this.termination))
    }
    const [code = 1005, reason = ""] = answer
    this.onCloseFrame?.(code, reason.toString())
  }

  closeFirst(code: number | undefined, reason: string | undefined): void {
    super.close(code, reason)
  }

  /**
   * Ends the transport after the answer to the peer's close frame has been written, which may be queued behind other
   * data.
   */
  end(transport: Duplex): void {
    if (this.termination === undefined || transport.writableLength === 0) this.terminate()
    else if (transport instanceof Socket) transport.destroySoon()
    // An agent may open a stream of another kind.
    else transport.end(() => transport.destroy())
  }
}

/** How long a transport may stay open after the peer's close frame, in milliseconds. */
const lastSecond = 1000

const incomingOf = (socket: PromptWebSocket): Incoming<Message, ConnectionClosed | ConnectionLost> => {
  const incoming = new Incoming<Message, ConnectionClosed | ConnectionLost>()
  socket.on(
    "message",
    (data: Buffer, isBinary) =>
      incoming.message(isBinary ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : data.toString())
  )
  socket.on("ping", () => incoming.control("Ping"))
  socket.on("pong", () => incoming.control("Pong"))
  // The codes of `ws`'s errors begin with WS_ERR_ if the peer has violated the protocol. Any other error comes from the
  // transport; it says more than the `close` event that follows.
  socket.on(
    "error",
    (cause: NodeJS.ErrnoException) =>
      incoming.endWith(
        new ConnectionLost({ reason: cause.code?.startsWith("WS_ERR_") === true ? "InvalidData" : "Reset", cause })
      )
  )
  socket.onCloseFrame = (code, reason) => incoming.endWith(new ConnectionClosed({ code, reason }))
  socket.on("close", (code, reason) =>
    incoming.endWith(
      code === 1006
        ? new ConnectionLost({ reason: "Reset" })
        : new ConnectionClosed({ code, reason: reason.toString() })
    ))
  return incoming
}

const connectionOver = (socket: PromptWebSocket, transport: Socket): Connection => {
  const incoming = incomingOf(socket)

  const handedOver = handingOver(incoming)
  const send = (messages: ReadonlyArray<Message>, done: (error?: Error | null) => void) => {
    // While the transport is corked, messages are collected, and leave in one packet.
    transport.cork()
    messages.forEach((message, place) => {
      if (place < messages.length - 1) socket.send(message)
      else socket.send(message, done)
    })
    transport.uncork()
  }
  return {
    protocol: socket.protocol,
    listen: (listener) =>
      Effect.sync(() => {
        incoming.listen(listener)
        socket.resume()
      }),
    write: withWriteNow(
      (messages) => messages.length === 0 ? Effect.void : handedOver((done) => send(messages, done)),
      (messages, onWritten) => {
        if (incoming.end !== undefined) return
        send(messages, (error) => {
          if (error === undefined || error === null) onWritten()
        })
      }
    ),
    ping: Option.some(handedOver((done) => socket.ping(undefined, undefined, done))),
    backpressure: Option.some({ pause: Effect.sync(() => socket.pause()), resume: Effect.sync(() => socket.resume()) }),
    close: (code, reason) =>
      Effect.sync(() => {
        // If reading is paused, the peer's close frame would never be read.
        socket.resume()
        socket.closeFirst(code, reason)
      }),
    terminate: Effect.sync(() => {
      incoming.endWith(new ConnectionLost({ reason: "Reset", cause: "terminated" }))
      socket.end(transport)
    })
  }
}

/** Calls a method of `ws`, and waits until `ws` has written the data or the connection has ended. */
const handingOver =
  (incoming: Incoming<Message, ConnectionClosed | ConnectionLost>) =>
  (hand: (done: (error?: Error | null) => void) => void): Effect.Effect<void, ConnectionFailure> =>
    wait((resume) => {
      if (incoming.end !== undefined) {
        resume(Exit.fail(incoming.end))
        return undefined
      }
      const forget = incoming.onceEnded((end) => resume(Exit.fail(end)))
      hand((error) => {
        // After an error the connection ends. The failure of this effect is that end, since it says what has gone
        // wrong.
        if (error !== undefined && error !== null) return
        forget()
        resume(Exit.void)
      })
      return forget
    })
