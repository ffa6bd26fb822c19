/**
 * The abilities of Node's servers that the platform's `HttpServer` does not have: to accept no more connections, and to
 * close connections whose requests or clients hang. On other platforms draining a server only waits for its requests.
 */
import type * as HttpServer from "@effect/platform/HttpServer"
import type * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import type * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"

export interface NodeServer {
  readonly address: () => { readonly address: string; readonly port: number } | string | null
  readonly close: () => void
  closeIdleConnections: () => void
  readonly closeAllConnections: () => void
}

export interface NodeSocket {
  readonly server?: unknown
  readonly closed: boolean
  /** How many bytes have been written and not yet sent. */
  readonly writableLength: number
  readonly on: (event: "error", listener: () => void) => void
  readonly once: (event: "close", listener: () => void) => void
  readonly end: () => void
  readonly destroy: () => void
}

export const socketOf = ({ source }: HttpServerRequest.HttpServerRequest): NodeSocket | undefined =>
  (source as { readonly socket?: NodeSocket }).socket

interface NodeResponse {
  readonly writableFinished: boolean
  readonly destroyed: boolean
  readonly once: (event: "close" | "finish", listener: () => void) => void
  readonly destroy: () => void
}

/** Node's response to a request, which must not be one for an upgrade: that has none before it is asked for. */
export const responseOf = (request: HttpServerRequest.HttpServerRequest): NodeResponse | undefined =>
  (request as { readonly resolvedResponse?: NodeResponse }).resolvedResponse

/**
 * Throws what Node would throw when the platform sends the response: a status that is no status, a character that a
 * header cannot carry, a body that is neither text nor bytes nor a stream. (The platform itself checks cookies.) Once
 * the platform has begun to send, it would answer with an empty 500, or not at all, and nobody would learn why.
 */
export const throwUnlessSendable = (
  { method, source }: HttpServerRequest.HttpServerRequest,
  { body, headers, status }: HttpServerResponse.HttpServerResponse
): void => {
  const http = globalThis.process?.getBuiltinModule?.("node:http")
  if (http === undefined || !(source instanceof http.IncomingMessage)) return
  if (!(status >= 100 && status < 1000)) throw new RangeError(`the response has the status ${status}`)
  for (const name in headers) {
    http.validateHeaderName(name)
    http.validateHeaderValue(name, headers[name]!)
  }
  if (body._tag === "Raw" && method !== "HEAD" && !isRawBody(body.body)) {
    throw new TypeError("the response has a body that cannot be sent")
  }
}

/** Node sends an empty body for `null`, `false` and the like. */
const isRawBody = (body: unknown): boolean =>
  !body || typeof body === "string" || body instanceof Uint8Array ||
  Predicate.hasProperty(body, "pipe") && typeof body.pipe === "function"

export const serverOf = (socket: NodeSocket | undefined): NodeServer | undefined => {
  const server = socket?.server
  return Predicate.hasProperty(server, "closeAllConnections") && Predicate.hasProperty(server, "closeIdleConnections")
    ? (server as unknown as NodeServer)
    : undefined
}

/**
 * The open connections of the server that listens on an address, also those without a request: a client that has
 * connected and is silent would otherwise delay the server's closing for a minute.
 */
export interface Connections {
  readonly open: ReadonlySet<NodeSocket>
  /** The server, if it is known. */
  readonly server: () => NodeServer | undefined
  /** Connects to the server if it is not yet known, to make it known: its connections may be older than the watch. */
  readonly discover: Effect.Effect<void>
  readonly stop: () => void
}

/**
 * Watches which connections the server at this address accepts. Node publishes each accepted connection on a
 * diagnostics channel. Without that channel (before Node 20.16, and on other platforms), the server is known only from
 * its first request on.
 */
export const watchConnections = (address: HttpServer.Address): Connections => {
  const channels = globalThis.process?.getBuiltinModule?.("node:diagnostics_channel")
  const open = new Set<NodeSocket>()
  let server: NodeServer | undefined
  const onAccepted = (message: unknown): void => {
    const { socket } = message as { readonly socket: NodeSocket }
    const accepting = serverOf(socket)
    if (accepting === undefined) return
    if (server === undefined ? !listensAt(accepting, address) : accepting !== server) return
    server = accepting
    open.add(socket)
    socket.once("close", () => open.delete(socket))
  }
  channels?.subscribe(accepted, onAccepted)
  return {
    open,
    server: () => server,
    discover: Effect.suspend(() => channels === undefined || server !== undefined ? Effect.void : connectOnce(address)),
    stop: () => channels?.unsubscribe(accepted, onAccepted)
  }
}

const accepted = "net.server.socket"

/** Opens a connection and ends it immediately. When the server has ended it, too, it had been accepted. */
const connectOnce = (address: HttpServer.Address): Effect.Effect<void> =>
  Effect.async<void>((resume) => {
    const net = globalThis.process.getBuiltinModule("node:net")
    const socket = address._tag === "UnixAddress"
      ? net.connect(address.path)
      : net.connect(address.port, address.hostname === "0.0.0.0" ? "127.0.0.1" : address.hostname)
    socket.on("connect", () => socket.end()).resume().on("error", () => {}).on("close", () => resume(Effect.void))
    return Effect.sync(() => socket.destroy())
  })

const listensAt = (server: NodeServer, address: HttpServer.Address): boolean => {
  const own = server.address()
  if (own === null || typeof own === "string") return address._tag === "UnixAddress" && address.path === own
  // The platform writes the IPv6 address of all interfaces like that of IPv4.
  const hostname = own.address === "::" ? "0.0.0.0" : own.address
  return address._tag === "TcpAddress" && address.port === own.port && address.hostname === hostname
}

/**
 * Stops accepting connections. `close` alone would also close connections that Node 20 takes for idle although their
 * response is still being sent.
 */
export const stopAccepting = (server: NodeServer): void => {
  const { closeIdleConnections } = server
  server.closeIdleConnections = () => {}
  server.close()
  server.closeIdleConnections = closeIdleConnections
}

/** Ends the connection after all pending data, and waits until the client has ended it, too. */
export const ended = (socket: NodeSocket): Effect.Effect<void> =>
  Effect.async((resume) => {
    if (socket.closed) return resume(Effect.void)
    socket.once("close", () => resume(Effect.void))
    socket.end()
  })
