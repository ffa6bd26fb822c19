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
  readonly onSocket?: ((socket: Net.Socket) => void) | undefined
  readonly onOpen: (socket: Tls.TLSSocket) => void
  readonly onFailure: (stage: Stage, cause: unknown) => void
}

/**
 * Opens a connection, and returns a function that gives it up. Throws what Node throws for TCP options that make no
 * sense.
 */
export const handshake = (options: Tls.ConnectionOptions, tickets: Tickets, listener: Listener): () => void => {
  let current: Attempt | undefined
  const attempt = (mayOffer: boolean): void => {
    current = new Attempt(options, tickets, {
      onSocket: listener.onSocket,
      onOpen: listener.onOpen,
      onFailure: ({ cause, isOffered, stage }) => {
        const code = codeOf(cause) ?? ""
        const isAlert = code.startsWith("ERR_SSL_") || code === "EPROTO"
        // A reset says nothing of the ticket, except that the ticket may be its cause.
        if (isOffered && (isAlert || stage === "Identity")) tickets.refused()
        const mayBeTicket = isOffered && (isAlert || code === "ECONNRESET")
        // A socket that was given serves for one handshake only.
        if (mayBeTicket && options.socket === undefined) attempt(false)
        else listener.onFailure(stage, cause)
      }
    })
    current.start(mayOffer)
  }
  attempt(true)
  return () => current?.giveUp()
}

interface Failure {
  readonly stage: Stage
  readonly cause: unknown
  /** Whether the server has been offered a ticket. */
  readonly isOffered: boolean
}

interface AttemptListener extends Omit<Listener, "onFailure"> {
  readonly onFailure: (failure: Failure) => void
}

/**
 * A single attempt, which goes from `Connect` to `Handshake`. An attempt is over when it has told its listener that the
 * connection is open, or that it failed, or when it was given up; then it tells nothing more.
 */
class Attempt {
  private stage: Exclude<Stage, "Identity"> = "Connect"
  private isOver = false
  private isOffered = false
  private readonly beneath: Duplex
  /** From the stage `Handshake` on. */
  private socket: Tls.TLSSocket | undefined
  private readonly options: Tls.ConnectionOptions
  private readonly tickets: Tickets
  private readonly listener: AttemptListener

  constructor(options: Tls.ConnectionOptions, tickets: Tickets, listener: AttemptListener) {
    this.options = options
    this.tickets = tickets
    this.listener = listener
    this.beneath = options.socket ?? connected(options)
  }

  start(mayOffer: boolean): void {
    const { beneath, listener, options } = this
    if (beneath instanceof Net.Socket && options.socket === undefined) listener.onSocket?.(beneath)
    if (beneath.destroyed) return this.fail(new Error("the socket that was given is closed"))
    const reached = eventOfReaching(beneath)
    if (reached === undefined) return this.beginTls(mayOffer)
    // From the handshake on, the TLS socket tells what becomes of the one beneath it.
    const failToConnect = (cause?: unknown): void => {
      if (this.stage === "Connect") this.fail(cause)
    }
    beneath.once(reached, () => this.beginTls(mayOffer)).on("error", failToConnect).once("close", () => failToConnect())
  }

  giveUp(): void {
    this.isOver = true
    this.socket?.destroy()
    this.beneath.destroy()
  }

  private beginTls(mayOffer: boolean): void {
    if (this.isOver) return
    this.stage = "Handshake"
    const { beneath, listener, options, tickets } = this
    const session = mayOffer ? tickets.take() : undefined
    this.isOffered = session !== undefined
    let socket: Tls.TLSSocket
    try {
      socket = this.socket = Tls.connect({ ...options, socket: beneath, ...session && { session } })
    } catch (thrown) {
      this.stage = "Options"
      return this.fail(thrown)
    } finally {
      session?.fill(0)
    }
    // Like `tls.connect` does for a connection of its own.
    if (options.timeout && options.socket === undefined) socket.setTimeout(options.timeout)
    tune(socket, options)
    watch(socket, tickets)
    listener.onSocket?.(socket)
    socket.once("secureConnect", () => this.open(socket))
    // Stays: an error that comes before anybody else listens ends the socket, and not the process.
    socket.on("error", (error) => this.fail(error))
    // `close` can come before the error that caused it, if the socket beneath has closed first.
    socket.once("close", () => this.fail(socket.errored ?? beneath.errored ?? undefined))
  }

  private open(socket: Tls.TLSSocket): void {
    if (this.isOver) return
    this.isOver = true
    if (this.isOffered) (socket.isSessionReused() ? this.tickets.resumed : this.tickets.refused)()
    this.listener.onOpen(socket)
  }

  private fail(cause?: unknown): void {
    if (this.isOver) return
    this.isOver = true
    const isUntrusted = (this.socket?.authorizationError ?? undefined) !== undefined
    this.listener.onFailure({ stage: isUntrusted ? "Identity" : this.stage, cause, isOffered: this.isOffered })
  }
}

/**
 * Opens a connection that offers no ticket, as Node does, and keeps the tickets that it brings. Throws what Node throws
 * for options that make no sense.
 */
export const connect = (options: Tls.ConnectionOptions, tickets: Tickets): Tls.TLSSocket => {
  const socket = Tls.connect(options)
  // Not earlier: Node makes a new handle for each address that it tries, and drops the listeners for sessions.
  return socket.once("connect", () => {
    tune(socket, options)
    watch(socket, tickets)
  })
}

const connected = (options: Tls.ConnectionOptions): Net.Socket => {
  // Both options are for the TLS socket.
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

/** The event by which a socket that is still connecting says that it has connected. */
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
