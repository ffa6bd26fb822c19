/**
 * Node's servers can be asked for more than the platform's `HttpServer`: to accept no more connections, and to
 * let go of connections whose requests or clients hang. On other platforms none of this is found, and a server is
 * drained by its requests alone.
 */
import type * as HttpServer from "@effect/platform/HttpServer"
import type * as HttpServerRequest from "@effect/platform/HttpServerRequest"
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
  readonly once: (event: "close", listener: () => void) => void
  readonly end: () => void
  readonly destroy: () => void
}

export const socketOf = ({ source }: HttpServerRequest.HttpServerRequest): NodeSocket | undefined =>
  (source as { readonly socket?: NodeSocket }).socket

export const serverOf = (socket: NodeSocket | undefined): NodeServer | undefined => {
  const server = socket?.server
  return Predicate.hasProperty(server, "closeAllConnections") && Predicate.hasProperty(server, "closeIdleConnections")
    ? (server as unknown as NodeServer)
    : undefined
}

/**
 * The open connections of the server that listens at an address, also those that have asked for nothing: a client
 * that has connected and is silent would otherwise hold up the server's closing for a minute.
 */
export interface Connections {
  readonly open: ReadonlySet<NodeSocket>
  /** The server, if it is known. */
  readonly server: () => NodeServer | undefined
  /** Connects to a server that is not known, so that it becomes known: a connection may be older than the watch. */
  readonly knock: Effect.Effect<void>
  readonly stop: () => void
}

/**
 * Watches what the server at this address accepts. Node tells of each accepted connection on a diagnostics channel.
 * Without that channel (before Node 20.16, on other platforms), the server is known from its first request on.
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
    knock: Effect.suspend(() => channels === undefined || server !== undefined ? Effect.void : knockAt(address)),
    stop: () => channels?.unsubscribe(accepted, onAccepted)
  }
}

const accepted = "net.server.socket"

/** A connection that ends immediately. When the server has ended it too, it has been accepted. */
const knockAt = (address: HttpServer.Address): Effect.Effect<void> =>
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
 * Accepts no more connections. `close` alone would also close connections that it takes for idle though their response
 * has been handed over and is still on its way (Node 20).
 */
export const stopAccepting = (server: NodeServer): void => {
  const { closeIdleConnections } = server
  server.closeIdleConnections = () => {}
  server.close()
  server.closeIdleConnections = closeIdleConnections
}

/** Ends the connection behind what is on its way, and waits for the client to do the same. */
export const ended = (socket: NodeSocket): Effect.Effect<void> =>
  Effect.async((resume) => {
    if (socket.closed) return resume(Effect.void)
    socket.once("close", () => resume(Effect.void))
    socket.end()
  })
