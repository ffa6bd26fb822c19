/**
 * What the platform's `HttpServer` cannot be asked for, and Node's servers can: to accept no more connections, and to
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
 * Calls `onServer` with the server that listens at this address, when that accepts a connection: a client that has
 * connected and asked nothing would otherwise hold up its closing for a minute. Returns what ends the watch.
 *
 * Node tells of each accepted connection on a diagnostics channel. Where it does not (before Node 20.16, on other
 * platforms), the server is known from its first request on.
 */
export const watchServer = (address: HttpServer.Address, onServer: (server: NodeServer) => void): () => void => {
  const channels = globalThis.process?.getBuiltinModule?.("node:diagnostics_channel")
  if (channels === undefined) return () => {}
  const stop = () => channels.unsubscribe(accepted, onAccepted)
  const onAccepted = (message: unknown): void => {
    const server = serverOf((message as { readonly socket: NodeSocket }).socket)
    if (server === undefined || !listensAt(server, address)) return
    stop()
    onServer(server)
  }
  channels.subscribe(accepted, onAccepted)
  return stop
}

const accepted = "net.server.socket"

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
