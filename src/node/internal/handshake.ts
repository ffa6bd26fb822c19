/**
 * How a TLS connection is opened: TCP first, then TLS on that socket, with a ticket if there is one. If the handshake
 * breaks because of the ticket, both are done once more without it.
 *
 * The machine knows neither caches nor errors of its user: it tells how far the connection came, and what Node said.
 */
import * as Net from "node:net"
import type { Duplex } from "node:stream"
import * as Tls from "node:tls"

/** The tickets that one connection takes and brings. */
export interface Tickets {
  /** Hands over a session to offer. The machine overwrites its bytes with zeros when OpenSSL has its copy. */
  readonly take: () => Buffer | undefined
  readonly resumed: () => void
  /** The server has not accepted the session that was taken. */
  readonly refused: () => void
  /** The server has sent a session. */
  readonly put: (session: Buffer) => void
  /** A resumed connection has ended: its server has spoken, and has sent no new session. */
  readonly unreplenished: () => void
}

/**
 * How far a connection came. `Options`: Node refused the options. `Connect`: no TCP connection. `Handshake`: no TLS on
 * it. `Identity`: the server's certificate is not trusted.
 */
export type Stage = "Options" | "Connect" | "Handshake" | "Identity"

export interface Listener {
  /** A socket has been made: TCP, then TLS over it; then, after a refusal, both again. */
  readonly onSocket?: (socket: Net.Socket) => void
  readonly onOpen: (socket: Tls.TLSSocket) => void
  readonly onFailure: (stage: Stage, cause: unknown) => void
}

/** Opens a connection, and returns what gives it up. Throws what Node throws for TCP options that make no sense. */
export const handshake = (options: Tls.ConnectionOptions, tickets: Tickets, listener: Listener): () => void => {
  let isOver = false
  let underneath: Duplex | undefined
  let socket: Tls.TLSSocket | undefined

  const attempt = (mayOffer: boolean): void => {
    const made = options.socket ?? connected(options)
    underneath = made
    if (made instanceof Net.Socket && options.socket === undefined) listener.onSocket?.(made)
    let stage: Stage = "Connect"
    let isOffered = false
    let isDone = false

    const fail = (cause?: unknown): void => {
      if (isOver || isDone) return
      isDone = true
      const code = codeOf(cause) ?? ""
      const isAlert = code.startsWith("ERR_SSL_") || code === "EPROTO"
      const isUntrusted = (socket?.authorizationError ?? undefined) !== undefined
      // A reset says nothing of the ticket, except that the ticket may be its cause.
      if (isOffered && (isAlert || isUntrusted)) tickets.refused()
      // A socket that was given serves for one handshake only.
      if (isOffered && options.socket === undefined && (isAlert || code === "ECONNRESET")) return attempt(false)
      isOver = true
      listener.onFailure(isUntrusted ? "Identity" : stage, cause)
    }

    const begin = (): void => {
      if (isOver || isDone) return
      stage = "Handshake"
      const session = mayOffer ? tickets.take() : undefined
      isOffered = session !== undefined
      try {
        socket = Tls.connect({ ...options, socket: made, ...session && { session } })
      } catch (thrown) {
        stage = "Options"
        return fail(thrown)
      } finally {
        session?.fill(0)
      }
      // Like `tls.connect` does for a connection of its own.
      if (options.timeout && options.socket === undefined) socket.setTimeout(options.timeout)
      tune(socket, options)
      watch(socket, tickets)
      listener.onSocket?.(socket)
      socket.once("secureConnect", () => {
        if (isOver || isDone) return
        isOver = true
        if (isOffered) (socket!.isSessionReused() ? tickets.resumed : tickets.refused)()
        listener.onOpen(socket!)
      })
      // Stays: an error that comes before anybody else listens ends the socket, and not the process.
      socket.on("error", fail)
      // Can come before the error of which it comes, if the socket beneath has closed first.
      socket.once("close", () => fail(socket?.errored ?? made.errored ?? undefined))
    }

    if (made.destroyed) return fail(new Error("the socket that was given is closed"))
    const reached = eventOfReaching(made)
    if (reached === undefined) return begin()
    // From the handshake on, the TLS socket tells what becomes of the one beneath it.
    const failToConnect = (cause?: unknown): void => {
      if (stage === "Connect") fail(cause)
    }
    made.once(reached, begin).on("error", failToConnect).once("close", () => failToConnect())
  }

  attempt(true)
  return () => {
    isOver = true
    socket?.destroy()
    underneath?.destroy()
  }
}

/**
 * Opens a connection that offers no ticket, as Node does, and keeps the tickets that it brings. Throws what Node throws
 * for options that make no sense.
 */
export const connect = (options: Tls.ConnectionOptions, tickets: Tickets): Tls.TLSSocket => {
  const socket = Tls.connect(options)
  // Not before: Node has another handle for each address that it tries, and forgets who listens for sessions.
  return socket.once("connect", () => {
    tune(socket, options)
    watch(socket, tickets)
  })
}

const connected = (options: Tls.ConnectionOptions): Net.Socket => {
  // Both are for the TLS socket.
  const { onread: _onread, timeout: _timeout, ...rest } = options as Net.NetConnectOpts & { readonly onread?: unknown }
  return Net.connect(rest as Net.NetConnectOpts)
}

/** Node 20 ignores these options of `tls.connect`. */
const tune = (socket: Tls.TLSSocket, options: Tls.ConnectionOptions): void => {
  const { keepAlive, keepAliveInitialDelay, noDelay } = options as Net.TcpSocketConnectOpts
  if (noDelay === true) socket.setNoDelay(true)
  if (keepAlive === true) socket.setKeepAlive(true, keepAliveInitialDelay)
}

/** Keeps the sessions that a connection brings. */
const watch = (socket: Tls.TLSSocket, tickets: Tickets): void => {
  let isReplenished = false
  socket.on("session", (session) => {
    isReplenished = true
    tickets.put(session)
  })
  socket.once("secureConnect", () => {
    if (!socket.isSessionReused()) return
    const bytesRead = socket.bytesRead
    socket.once("close", () => {
      if (socket.bytesRead > bytesRead && !isReplenished) tickets.unreplenished()
    })
  })
}

/** The event by which a socket that is not there yet says that it is. */
const eventOfReaching = (socket: Duplex): "connect" | "secureConnect" | undefined =>
  socket instanceof Tls.TLSSocket && (socket as { readonly secureConnecting?: boolean }).secureConnecting === true
    ? "secureConnect"
    : socket instanceof Net.Socket && socket.pending
    ? "connect"
    : undefined

export const codeOf = (cause: unknown): string | undefined => {
  const { code } = Object(cause) as { readonly code?: unknown }
  return typeof code === "string" ? code : undefined
}
