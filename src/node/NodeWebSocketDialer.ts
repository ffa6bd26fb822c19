/**
 * Dials with `ws`, always: also where Node has a `WebSocket` of its own, which sends no headers and no pings, and does
 * not tell why an upgrade was refused.
 *
 * @since 0.1.0
 */

import * as Headers from "@effect/platform/Headers"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Http from "node:http"
import type { Socket } from "node:net"
import type { ConnectionOptions } from "node:tls"
import { type ClientOptions, WebSocket } from "ws"
import { shown, terminatedWithScope } from "../internal/socket/dialers.js"
import { Incoming } from "../internal/socket/incoming.js"
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
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** For `wss:`: a CA, a client certificate, a server name. */
  readonly tls?: ConnectionOptions | undefined
  /** Connects instead of us: a proxy's agent, say. */
  readonly agent?: Http.Agent | undefined
  /** Offers compression (RFC 7692). Off by default: it costs memory for each connection, and time for each message. */
  readonly perMessageDeflate?: boolean | undefined
  /**
   * The longest message that is taken unless the request says so, in bytes; a longer one ends the connection. Default:
   * 16 MiB.
   */
  readonly maxPayload?: number | undefined
}

/**
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
  Layer.succeed(WebSocketDialer, { dial: (request) => terminatedWithScope(opened(request, options)) })

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
      fail("InvalidRequest", cause)
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
      // Until somebody listens.
      socket.pause()
      resume(Exit.succeed(connectionOver(socket, transport!)))
    })
    return () => socket.terminate()
  })

const clientOptions = (
  { headers, maxPayload }: DialRequest,
  { agent, maxPayload: byDefault = 16 * 1024 * 1024, perMessageDeflate = false, tls }: Options
): ClientOptions => ({
  // Of what `checkServerIdentity` gives, the types of `ws` know another story than Node.
  ...tls as unknown as ClientOptions,
  headers: { ...Headers.fromInput(headers) },
  maxPayload: maxPayload ?? byDefault,
  perMessageDeflate,
  followRedirects: false,
  ...agent && { agent }
})

/**
 * `ws` tells of a peer's close frame when TCP has ended, which is up to 30 seconds later if the peer leaves TCP open.
 * But `ws` answers the frame immediately, by its own public `close`, with the frame's code and reason, or without
 * arguments for a frame without a code. (With a code alone it ends a connection whose peer has broken the protocol; an
 * `error` event tells of that.) Here only `ws` calls that method: what closes the connection for us calls `closeFirst`.
 */
class PromptWebSocket extends WebSocket {
  /** The peer's close frame has been read. */
  onCloseFrame: ((code: number, reason: string) => void) | undefined

  override close(...answer: [code?: number, reason?: string | Buffer]): void {
    super.close(...answer)
    const [code = 1005, reason = ""] = answer
    if (answer.length !== 1) this.onCloseFrame?.(code, reason.toString())
  }

  closeFirst(code: number | undefined, reason: string | undefined): void {
    super.close(code, reason)
  }
}

/** Milliseconds from the peer's close frame to the end of a transport that the peer leaves open. */
const lastSecond = 1000

const connectionOver = (socket: PromptWebSocket, transport: Socket): Connection => {
  const incoming = new Incoming<Message, ConnectionClosed | ConnectionLost>()
  socket.on(
    "message",
    (data: Buffer, isBinary) =>
      incoming.message(isBinary ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : data.toString())
  )
  socket.on("ping", () => incoming.control("Ping"))
  socket.on("pong", () => incoming.control("Pong"))
  // Of the receiver: the peer has broken the protocol. Those of the transport are followed by `close`, and tell more.
  socket.on(
    "error",
    (cause: NodeJS.ErrnoException) =>
      incoming.endWith(
        new ConnectionLost({ reason: cause.code?.startsWith("WS_ERR_") === true ? "InvalidData" : "Reset", cause })
      )
  )
  let termination: NodeJS.Timeout | undefined
  socket.onCloseFrame = (code, reason) => {
    termination ??= setTimeout(() => socket.terminate(), lastSecond)
    incoming.endWith(new ConnectionClosed({ code, reason }))
  }
  socket.on("close", (code, reason) => {
    clearTimeout(termination)
    incoming.endWith(
      code === 1006
        ? new ConnectionLost({ reason: "Reset" })
        : new ConnectionClosed({ code, reason: reason.toString() })
    )
  })

  const handedOver = (
    hand: (done: (error?: Error | null) => void) => void
  ): Effect.Effect<void, ConnectionFailure> =>
    wait((resume) => {
      if (incoming.end !== undefined) {
        resume(Exit.fail(incoming.end))
        return undefined
      }
      const forget = incoming.onceEnded((end) => resume(Exit.fail(end)))
      hand((error) => {
        // The end that comes of an error tells what has gone wrong.
        if (error !== undefined && error !== null) return
        forget()
        resume(Exit.void)
      })
      return forget
    })

  return {
    protocol: socket.protocol,
    listen: (listener) =>
      Effect.sync(() => {
        incoming.listen(listener)
        socket.resume()
      }),
    write: (messages) =>
      messages.length === 0
        ? Effect.void
        : handedOver((done) => {
          // One packet for many messages.
          transport.cork()
          messages.forEach((message, place) => {
            if (place < messages.length - 1) socket.send(message)
            else socket.send(message, done)
          })
          transport.uncork()
        }),
    ping: Option.some(handedOver((done) => socket.ping(undefined, undefined, done))),
    backpressure: Option.some({ pause: Effect.sync(() => socket.pause()), resume: Effect.sync(() => socket.resume()) }),
    close: (code, reason) =>
      Effect.sync(() => {
        // The peer's close frame is to be read.
        socket.resume()
        socket.closeFirst(code, reason)
      }),
    terminate: Effect.sync(() => {
      incoming.endWith(new ConnectionLost({ reason: "Reset", cause: "terminated" }))
      // The answer to the peer's close frame may be behind data that the peer has not taken yet.
      if (termination !== undefined && transport.writableLength > 0) transport.destroySoon()
      else socket.terminate()
    })
  }
}
