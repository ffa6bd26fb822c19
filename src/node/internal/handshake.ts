/**
 * How a TLS connection is opened: TCP first, then TLS on that socket, with a ticket if there is one. If the handshake
 * breaks because of the ticket, both are done once more without it.
 *
 * This file knows neither the ticket cache nor its users' errors: it reports how far the connection came, and Node's
 * error.
 */
import * as Net from "node:net"
import type { Duplex } from "node:stream"
import * as Tls from "node:tls"

/** How one connection takes and puts tickets. */
export interface Tickets {
  /** Gives a session to offer. Its bytes are overwritten with zeros when OpenSSL has its copy. */
  readonly take: () => Buffer | undefined
  readonly resumed: () => void
  /** Called when the server has not accepted the session that was taken. */
  readonly refused: () => void
  /** Called when the server has sent a session. */
  readonly put: (session: Buffer) => void
  /** Called when a resumed connection has ended and its server has sent data, but no new session. */
  readonly unreplenished: () => void
}

/**
 * How far a connection came. `Options`: Node refused the options. `Connect`: no TCP connection. `Handshake`: no TLS on
 * it. `Identity`: the server's certificate is not trusted.
 */
export type Stage = "Options" | "Connect" | "Handshake" | "Identity"

export interface Listener {
  /** Called for each socket that is made: TCP, then TLS over it; after a refused ticket, both again. */
  readonly onSocket?: ((socket: Net.Socket) => void) | undefined
  readonly onOpen: (socket: Tls.TLSSocket) => void
  readonly onFailure: (stage: Stage, cause: unknown) => void
}

/** Opens a connection, and returns a function that gives it up. Throws Node's own errors for invalid TCP options. */
export const handshake = (options: Tls.ConnectionOptions, tickets: Tickets, listener: Listener): () => void => {
  let current: Attempt | undefined
  const attempt = (mayOffer: boolean): void => {
    current = new Attempt(options, tickets, {
      onSocket: listener.onSocket,
      onOpen: listener.onOpen,
      onFailure: ({ cause, isOffered, stage }) => {
        const code = codeOf(cause) ?? ""
        const isAlert = code.startsWith("ERR_SSL_") || code === "EPROTO"
        // A ticket may be the cause of a reset, or not: the attempt is repeated, and the ticket does not count as
        // refused.
        if (isOffered && (isAlert || stage === "Identity")) tickets.refused()
        const mayBeTicket = isOffered && (isAlert || code === "ECONNRESET")
        // A socket that the caller gave can be used for one handshake only.
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
 * A single attempt, which goes from `Connect` to `Handshake`. An attempt is over when it has reported to its listener
 * that the connection is open or has failed, or when it was given up. After that it does not call its listener.
 */
class Attempt {
  private stage: Exclude<Stage, "Identity"> = "Connect"
  private isOver = false
  private isOffered = false
  private readonly beneath: Duplex
  /** Set from the stage `Handshake` on. */
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
    // Once the handshake has begun, the TLS socket reports the errors of the socket beneath it.
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
    // `tls.connect` does the same if it opens the TCP connection itself.
    if (options.timeout && options.socket === undefined) socket.setTimeout(options.timeout)
    tune(socket, options)
    watch(socket, tickets)
    listener.onSocket?.(socket)
    socket.once("secureConnect", () => this.open(socket))
    // This listener stays: an error that comes before there is another listener must end the socket, and not the
    // process.
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
 * Opens a connection that offers no ticket, as Node does, and keeps the tickets that its server sends. Throws Node's
 * own errors for invalid options.
 */
export const connect = (options: Tls.ConnectionOptions, tickets: Tickets): Tls.TLSSocket => {
  const socket = Tls.connect(options)
  // The listener is added only now: Node makes a new handle for each address that it tries, and drops listeners for
  // sessions.
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

/** Keeps the sessions that a connection's server sends. */
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
