/**
 * Node's `https.Agent` with two changes: a function of ours opens its connections, and its pool keeps connections of
 * different TLS identities apart.
 */
import type * as Http from "node:http"
import * as Https from "node:https"
import type * as Net from "node:net"
import type * as Tls from "node:tls"
import type { TlsIdentity } from "./tlsIdentities.js"

/** The options of one request, with those of its agent. */
export type Requested = Tls.ConnectionOptions & {
  /** The name under which Node's pool keeps the connection. */
  readonly _agentKey?: string | undefined
  readonly [identity]?: TlsIdentity
}

/** The identity that a request had when it was made: its options may change while it waits for a connection. */
export const identity: unique symbol = Symbol("effect-holdfast/TlsIdentity")

/** The part of `https.Agent` that is not in its types. */
interface Pool {
  addRequest(request: Http.ClientRequest, options: object | string, ...legacy: ReadonlyArray<unknown>): void
}

export class TicketAgent extends Https.Agent {
  private readonly identityOf: (options: Tls.ConnectionOptions) => TlsIdentity
  private readonly dial: (options: Requested) => Net.Socket

  constructor(
    options: Https.AgentOptions,
    identityOf: (options: Tls.ConnectionOptions) => TlsIdentity,
    dial: (options: Requested) => Net.Socket
  ) {
    super(options)
    this.identityOf = identityOf
    this.dial = dial
  }

  addRequest(request: Http.ClientRequest, options: object | string, ...legacy: ReadonlyArray<unknown>): void {
    limitFromCall(request)
    const pool = Https.Agent.prototype as unknown as Pool
    if (typeof options === "string") return pool.addRequest.call(this, request, options, ...legacy)
    // The agent's options override those of the request, as in Node.
    const asked = { ...options, ...this.options, _agentKey: undefined }
    pool.addRequest.call(this, request, { ...asked, [identity]: this.identityOf(asked as Tls.ConnectionOptions) })
  }

  /**
   * Node's own name, the protocols, and the digest of the identity. A connection keeps the name that it was given: Node
   * calls this method again when the connection is free and when it closes, and the options may have changed by then.
   */
  override getName(options: Requested = {}): string {
    if (options._agentKey !== undefined) return options._agentKey
    const { ALPNProtocols } = options
    const protocols = ALPNProtocols === undefined ? "" : `:${JSON.stringify(protocolsOf(options))}`
    const { digest } = options[identity] ?? this.identityOf(options)
    return `${super.getName(options as Https.AgentOptions)}${protocols}:${digest}`
  }

  override createConnection(options: Https.RequestOptions): Net.Socket {
    return this.dial(options as Requested)
  }
}

/** The protocols that a client offers, in order of preference. */
export const protocolsOf = ({ ALPNProtocols }: Tls.ConnectionOptions): ReadonlyArray<string> =>
  Array.from(
    (ALPNProtocols ?? []) as ArrayLike<string | Uint8Array | number>,
    (name) => name instanceof Uint8Array ? Buffer.from(name).toString("latin1") : String(name)
  )

/**
 * Makes `request.setTimeout` count from the call on. Node begins to count only when there is a TCP connection, so a
 * request to a host that does not answer would have no limit.
 */
const limitFromCall = (request: Http.ClientRequest): void => {
  const { setTimeout } = request
  request.setTimeout = function(millis, listener) {
    setTimeout.call(this, millis, listener)
    const limit = (socket: Net.Socket) => {
      if (socket.connecting) socket.setTimeout(millis)
    }
    if (this.socket) limit(this.socket)
    else this.once("socket", limit)
    return this
  }
}
