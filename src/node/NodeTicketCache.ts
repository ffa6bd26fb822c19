/**
 * TLS connections that resume a session where they can, with tickets that are each offered once: for undici (and so
 * for `NodeHttpClient`), for `node:https` and `ws`, and for whatever else speaks over a `TLSSocket`.
 *
 * The caches that undici and `https.Agent` have of their own keep one ticket for a server and offer it again and again.
 * These connectors take a ticket from a `TicketCache` once the server has been reached, and put in the tickets that
 * come.
 *
 * **What it guarantees.** No ticket is offered twice, and none is spent on a server that cannot be reached. A ticket is
 * offered only by connections whose TLS options are those it was issued to: CAs, client certificate, server name,
 * `checkServerIdentity`, `rejectUnauthorized`, protocols, and the partition. The agent's pool of open connections keeps
 * the same options apart. Because a resumed handshake shows no certificate (and Node 20 asks nothing there), the
 * ticket's certificate is checked again, for the host name and its date, before the ticket is offered. A server that
 * refuses a ticket gets a whole handshake. If a handshake breaks because of a ticket, the connection is opened once
 * more without one. Neither is an error. A host whose first address does not answer resumes like any other. Early data
 * (0-RTT) is never sent.
 *
 * **What it does not.** Resumption saves the certificate and the work that goes with it. With TLS 1.3 it saves no
 * round trip; with TLS 1.2 it saves one. A certificate that is revoked, or a CA that is taken from a store behind
 * one's back, is noticed with the next whole handshake. Tickets come with what the server sends first: a connection
 * that is never read gets none. A resumed connection shows no certificate to `getPeerCertificate`; for it,
 * `checkServerIdentity` is shown the server's own certificate without those of its issuers. A new connection cannot
 * choose among the servers behind a balancer: if n of them share no ticket keys and connections are spread at random,
 * one offer in n is accepted. A refusal then leaves the tickets of the other servers alone.
 *
 * Options are compared by content, but functions and other objects (a `secureContext`) by reference: an object that is
 * made for each connection anew is another identity each time, and resumes nothing. A list is read for each connection;
 * but a `Buffer`, or an object in a list (an entry of `pfx`), that is changed in place remains the identity that it
 * was: give a new one. `session` is not used.
 *
 * @since 0.1.0
 */

import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as Undici from "@effect/platform-node/Undici"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as FiberSet from "effect/FiberSet"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"
import type * as Scope from "effect/Scope"
import { X509Certificate } from "node:crypto"
import type * as Https from "node:https"
import * as Net from "node:net"
import * as Tls from "node:tls"
import * as Check from "../internal/check.js"
import { within } from "../internal/first.js"
import { readTlsSession } from "../internal/tlsSession.js"
import { wait } from "../internal/wait.js"
import { InvalidOptions } from "../InvalidOptions.js"
import * as TicketCache from "../TicketCache.js"
import { codeOf, connect as dialed, handshake, type Stage, type Tickets } from "./internal/handshake.js"
import { StandIn } from "./internal/standIn.js"
import { identity, protocolsOf, TicketAgent } from "./internal/ticketAgent.js"
import { TlsIdentities, type TlsIdentity } from "./internal/tlsIdentities.js"

/**
 * A connection that did not come about. Requests over `agent` fail with Node's own errors instead, unless the reason is
 * `InvalidOptions`, `Timeout` or `Closed`.
 *
 * - `InvalidOptions`: Node refused the options.
 * - `Connect`: the server could not be reached.
 * - `Handshake`: it was reached, and the handshake failed.
 * - `Identity`: the server's certificate is not to be trusted, or is another's.
 * - `Timeout`: it took longer than `connectTimeout`.
 * - `Closed`: the scope of the connections has closed.
 *
 * @since 0.1.0
 * @category errors
 */
export class TlsError extends Data.TaggedError("TlsError")<{
  readonly reason: "InvalidOptions" | "Connect" | "Handshake" | "Identity" | "Timeout" | "Closed"
  readonly host: string
  readonly port: number
  readonly cause?: unknown
}> {
  /** Node's code for it (`ECONNREFUSED`, `ERR_TLS_CERT_ALTNAME_INVALID`, `ETIMEDOUT`, …), if it has one. */
  get code(): string | undefined {
    return this.reason === "Timeout" ? "ETIMEDOUT" : this.reason === "Closed" ? "ECONNRESET" : codeOf(this.cause)
  }

  override get message(): string {
    return `${this.reason}: no TLS connection to ${this.host}:${this.port}` +
      (this.cause instanceof Error ? ` (${this.cause.message || this.code})` : "")
  }

  /** Without the cause: Node's refusal of a certificate holds all of it, in circles. */
  override toJSON() {
    const { code, host, message, port, reason } = this
    return { _tag: "TlsError", reason, host, port, code, message }
  }
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** Node's own options of the connections: CAs, a client certificate, versions, `checkServerIdentity`. */
  readonly tls?: Tls.ConnectionOptions | undefined
  /** Where the tickets are kept; several may share one. Default: one of its own. */
  readonly cache?: TicketCache.TicketCache | undefined
  /**
   * Only connections of the same partition share tickets: one for each user or tenant, where a server is not to tell
   * that they are the same client's.
   */
  readonly partition?: string | undefined
  /**
   * How long a connection may take, from its beginning to the end of the handshake. Default: 10 seconds, as in undici.
   */
  readonly connectTimeout?: Duration.DurationInput | undefined
}

/**
 * When a session was issued, and when its server will not take it any more: epoch milliseconds. The lifetime is the
 * server's own hint (RFC 8446, 4.6.1: seven days at most). TLS 1.2 knows servers that give none (RFC 5077, 3.3); their
 * sessions live for as long as OpenSSL keeps them by default. `None`: the server wants it to be discarded, or it
 * is no session.
 *
 * `session` is what Node's `session` event gives, in Node 20's form and in Node 24's.
 *
 * @example
 * ```ts
 * import { NodeTicketCache } from "effect-holdfast/node"
 * import type { TLSSocket } from "node:tls"
 *
 * declare const socket: TLSSocket
 *
 * socket.on("session", (session) => {
 *   console.log(NodeTicketCache.lifetime(session))
 * })
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const lifetime = (
  session: Uint8Array
): Option.Option<{ readonly issuedAt: number; readonly expiresAt: number }> => {
  const read = readTlsSession(session)
  if (read === undefined || read.issuedAt > latest) return Option.none()
  const seconds = read.lifetimeHint ?? (read.version < TLS_1_3 ? read.timeout : undefined) ?? 0
  return seconds === 0 ? Option.none() : Option.some({
    issuedAt: read.issuedAt * 1_000,
    expiresAt: (read.issuedAt + Math.min(seconds, sevenDays)) * 1_000
  })
}

const TLS_1_3 = 0x0304
const sevenDays = 604_800
/** What a `Date` can tell, in seconds. */
const latest = 8.64e12

/**
 * A dispatcher for `NodeHttpClient.layerUndiciWithoutDispatcher`, and for undici itself. `undici` are the options of
 * its agent; how it connects is said by `tls`.
 *
 * @example
 * ```ts
 * import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
 * import { NodeTicketCache } from "effect-holdfast/node"
 * import * as Layer from "effect/Layer"
 *
 * const client = NodeHttpClient.layerUndiciWithoutDispatcher.pipe(
 *   Layer.provide(NodeTicketCache.layerDispatcher({ undici: { connections: 50 } }))
 * )
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layerDispatcher = (
  options: Options & { readonly undici?: Omit<Undici.Agent.Options, "connect"> | undefined } = {}
): Layer.Layer<NodeHttpClient.Dispatcher, InvalidOptions> =>
  Layer.scoped(
    NodeHttpClient.Dispatcher,
    Effect.gen(function*() {
      const { undici = {} } = options
      if ("connect" in undici && undici.connect !== undefined) {
        return yield* new InvalidOptions({
          option: "undici.connect",
          value: typeof undici.connect,
          reason: "must not be given; `tls` says how to connect"
        })
      }
      const { allowH2, autoSelectFamily, autoSelectFamilyAttemptTimeout, connections, localAddress, socketPath } =
        undici
      // To undici, 0 is no limit.
      const connectTimeout = options.connectTimeout ??
        (undici.connectTimeout === 0 ? Check.longestTimer : undici.connectTimeout)
      const tls = {
        highWaterMark: 16 * 1024,
        keepAlive: true,
        keepAliveInitialDelay: 60_000,
        noDelay: true,
        ALPNProtocols: allowH2 === true ? ["http/1.1", "h2"] : ["http/1.1"],
        ...defined({ autoSelectFamily, autoSelectFamilyAttemptTimeout, path: socketPath }),
        ...options.tls
      }
      const settings = yield* settingsFor({ ...options, connectTimeout, tls }, connections)
      const fork = yield* FiberSet.makeRuntime()
      const timeout = connectTimeout === undefined ? undefined : Duration.toMillis(connectTimeout)
      const plain = Undici.buildConnector(
        defined({ socketPath, timeout, autoSelectFamily, autoSelectFamilyAttemptTimeout })
      )
      const connect: Undici.buildConnector.connector = (target, callback) => {
        if (target.protocol !== "https:") return plain(target, callback)
        const { hostname, httpSocket, port, servername } = target
        const given = {
          ...tls,
          ...defined({ localAddress: target.localAddress ?? localAddress, socket: httpSocket }),
          host: hostname,
          port: port === "" ? 443 : Number(port),
          // There is none where the URL has an address: `tls` may have one then.
          ...servername && { servername }
        }
        hand(fork, settings, given, callback)
      }
      return yield* Effect.acquireRelease(
        built("undici", () => new Undici.Agent({ ...undici, connect })),
        (agent) => Effect.promise(() => agent.destroy())
      )
    })
  )

/** Opens a connection in a fiber, and hands it, or what it failed with, to a callback, once. */
const hand = (
  fork: (effect: Effect.Effect<void, TlsError>) => Fiber.RuntimeFiber<void, TlsError>,
  settings: Settings,
  given: Tls.ConnectionOptions,
  callback: Undici.buildConnector.Callback
): void => {
  let isOver = false
  const finish = (...outcome: Parameters<Undici.buildConnector.Callback>) => {
    if (isOver) return
    isOver = true
    try {
      callback(...outcome)
    } catch (thrown) {
      // Not to be lost in a fiber: it is the application's.
      queueMicrotask(() => {
        throw thrown
      })
    }
  }
  fork(opened(settings, given, (socket) => Effect.sync(() => finish(null, socket)))).addObserver((exit) => {
    if (Exit.isFailure(exit)) finish(failureOf(exit.cause, given), null)
  })
}

/** A connection is interrupted only by the end of its scope. */
const failureOf = (cause: Cause.Cause<TlsError>, given: Tls.ConnectionOptions): TlsError =>
  Option.getOrElse(Cause.failureOption(cause), () => new TlsError({ reason: "Closed", ...addressOf(given) }))

const defined = <A extends object>(options: A): { [K in keyof A]: Exclude<A[K], undefined> } =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as never

/**
 * An agent for `node:https`, and for `wss:` with `NodeWebSocketDialer`; it is destroyed with the scope. What
 * `https.Agent` takes can be given beside the rest, and has the last word.
 *
 * A request has its socket immediately, as with Node's own agent, so that every time limit reaches a connection that is
 * being opened: the request's and the agent's `timeout`, and those of axios, got and follow-redirects.
 * `request.setTimeout` counts from its call, where Node's begins only once TCP has connected. A request that waits for
 * its turn (`maxSockets`) has no connection yet, and is limited from when it gets one. If a ticket is kept, the socket
 * stands for the one or two connections that are opened beneath it: it is an `instanceof TLSSocket`, has the methods
 * and properties that Node documents for one, and carries another TLS connection after `CONNECT`. Properties that Node
 * does not document (`ssl`, `_host`) can be missing.
 *
 * Requests fail with Node's own errors, and with a `TlsError` for what Node does not know: `connectTimeout`, options
 * that make no sense (Node's message would show them), and the end of the scope. What `https.request` would throw at
 * the call, for a port or a `localAddress` that is none, comes as the request's `error` event. So does what a `lookup`
 * throws, itself. If a ticket is kept, the code of a handshake that fails can be OpenSSL's own
 * (`ERR_SSL_WRONG_VERSION_NUMBER` of a server that speaks no TLS) where Node's agent has `EPROTO`.
 *
 * @example
 * ```ts
 * import { NodeTicketCache, NodeWebSocketDialer } from "effect-holdfast/node"
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 *
 * const dialer = Layer.unwrapScoped(
 *   Effect.map(NodeTicketCache.agent({ keepAlive: true }), (agent) => NodeWebSocketDialer.layer({ agent }))
 * )
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const agent = (
  options: Options & Https.AgentOptions = {}
): Effect.Effect<Https.Agent, InvalidOptions, Scope.Scope> =>
  Effect.gen(function*() {
    const { cache, connectTimeout, partition, tls, ...rest } = options
    const all = { ...tls, ...rest, maxCachedSessions: 0 }
    if ("proxyEnv" in all && all.proxyEnv !== undefined) {
      return yield* new InvalidOptions({ option: "proxyEnv", value: typeof all.proxyEnv, reason: "is not supported" })
    }
    let agent: TicketAgent | undefined
    // When no more is opened: what the agent would dial for those that are queued is refused then.
    yield* Effect.addFinalizer(() => Effect.sync(() => agent?.destroy()))
    const settings = yield* settingsFor({ cache, connectTimeout, partition, tls: all }, rest.maxSockets)
    const fork = yield* FiberSet.makeRuntime()
    let isClosed = false
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        isClosed = true
      })
    )
    return agent = yield* built("agent", () =>
      new TicketAgent(all, (tls) => identityOf(settings.cache, tls), (given) => {
        const address = addressOf(given)
        if (isClosed) return failing(new TlsError({ reason: "Closed", ...address }))
        try {
          const socket = socketOf(targetOf(settings, given, given[identity]))
          fork(Effect.exit(supervised(outcomeOf(socket, address), settings, address, (error) => socket.destroy(error))))
          return socket
        } catch (thrown) {
          return failing(errorOf(address, "Options", thrown))
        }
      }))
  })

/** A connection that offers a ticket may have to be opened twice, so that a request cannot have its socket itself. */
const socketOf = ({ hasTicket, options, tickets }: Target): Net.Socket =>
  options.socket === undefined && hasTicket()
    ? new StandIn(options, (listener) => handshake(options, tickets, listener))
    : dialed(options, tickets)

/** A socket that fails when somebody listens to it: `node:https` takes it in the next tick. */
const failing = (error: Error): Net.Socket => {
  const socket = new Net.Socket()
  process.nextTick(() => socket.destroy(error))
  return socket
}

/** What becomes of a socket that is being opened. Its interruption, by the end of the agent's scope, destroys it. */
const outcomeOf = (socket: Net.Socket, address: Address): Effect.Effect<void, TlsError> =>
  wait((resume) => {
    let stage: Stage = "Connect"
    const fail = (cause?: unknown) => {
      const isUntrusted = ((socket as Tls.TLSSocket).authorizationError ?? undefined) !== undefined
      resume(Exit.fail(cause instanceof TlsError ? cause : errorOf(address, isUntrusted ? "Identity" : stage, cause)))
    }
    socket.once("connect", () => {
      stage = "Handshake"
    })
    socket.once("secureConnect", () => resume(Exit.void))
    // Stays: an error that comes before anybody else listens ends the socket, and not the process.
    socket.on("error", fail)
    socket.once("close", () => fail())
    return () => socket.destroy(new TlsError({ reason: "Closed", ...address }))
  })

const built = <A>(option: string, build: () => A): Effect.Effect<A, InvalidOptions> =>
  Effect.try({
    try: build,
    catch: (thrown) => new InvalidOptions({ option, value: "<options>", reason: `refused: ${String(thrown)}` })
  })

/**
 * One TLS connection, destroyed with the scope: for `http2.connect`'s `createConnection`, or any protocol. The options
 * are Node's for `tls.connect`, under `tls` or beside it. The server name that is sent, and asked for, is the host
 * unless `servername` says otherwise. With `socket`, `host` and `port` still say whose tickets are used.
 *
 * Whoever has the socket listens for what becomes of it; an `error` that nobody listens for ends the socket, and not
 * the process.
 *
 * @example
 * ```ts
 * import { NodeTicketCache } from "effect-holdfast/node"
 * import * as TicketCache from "effect-holdfast/TicketCache"
 * import * as Effect from "effect/Effect"
 * import * as Http2 from "node:http2"
 *
 * const program = Effect.gen(function*() {
 *   const cache = yield* TicketCache.make()
 *   const socket = yield* NodeTicketCache.connect({ cache, host: "api.example.com", port: 443, ALPNProtocols: ["h2"] })
 *   const session = Http2.connect("https://api.example.com", { createConnection: () => socket })
 *   return session.request({ ":path": "/" })
 * })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const connect = (
  options: Options & Tls.ConnectionOptions & { readonly cache: TicketCache.TicketCache }
): Effect.Effect<Tls.TLSSocket, TlsError, Scope.Scope> => {
  const { cache, connectTimeout, partition, tls, ...rest } = options
  const given: Tls.ConnectionOptions = { ...tls, ...rest }
  return Effect.runtime<never>().pipe(
    Effect.flatMap((runtime) =>
      Effect.mapError(
        settingsOf({ connectTimeout, partition }, cache, runtime),
        (cause) => new TlsError({ reason: "InvalidOptions", ...addressOf(given), cause })
      )
    ),
    Effect.flatMap((settings) =>
      opened(
        settings,
        given,
        (socket) => Effect.as(Effect.addFinalizer(() => Effect.sync(() => socket.destroy())), socket)
      )
    )
  )
}

// -----------------------------------------------------------------------------
// what the three share
// -----------------------------------------------------------------------------

interface Settings {
  readonly cache: TicketCache.TicketCache
  readonly partition: string | undefined
  readonly connectTimeout: number
  readonly runtime: Runtime.Runtime<never>
}

/** The identities of a cache are forgotten with the cache. */
const identities = new WeakMap<TicketCache.TicketCache, TlsIdentities>()

const identityOf = (cache: TicketCache.TicketCache, options: Tls.ConnectionOptions): TlsIdentity => {
  const known = identities.get(cache) ?? new TlsIdentities()
  identities.set(cache, known)
  return known.of(options)
}

const settingsOf = (
  { connectTimeout, partition }: Options,
  cache: TicketCache.TicketCache,
  runtime: Runtime.Runtime<never>
): Effect.Effect<Settings, InvalidOptions> =>
  Check.validated(() => {
    if (!TicketCache.isTicketCache(cache)) {
      throw new InvalidOptions({ option: "cache", value: cache, reason: "must be a TicketCache" })
    }
    const timeout = Check.millis("connectTimeout", connectTimeout ?? "10 seconds", { min: "1 millis" })
    return { cache, partition, connectTimeout: timeout, runtime }
  })

/** `width`: how many connections there may be at once. */
const settingsFor = (
  options: Options & { readonly tls: Tls.ConnectionOptions },
  width: number | null | undefined
): Effect.Effect<Settings, InvalidOptions, Scope.Scope> =>
  Effect.gen(function*() {
    const runtime = yield* Effect.runtime<never>()
    const cache = options.cache ??
      // A whole handshake may bring two.
      (yield* TicketCache.make({ ticketsPerServer: Math.max(64, Number.isSafeInteger(width) ? 2 * width! : 0) }))
    const settings = yield* settingsOf(options, cache, runtime)
    yield* Effect.try({
      try: () => identityOf(cache, options.tls).context(),
      catch: (thrown) => new InvalidOptions({ option: "tls", value: "<redacted>", reason: refusal(thrown).message })
    })
    return settings
  })

const addressOf = ({ host, path, port }: Tls.ConnectionOptions) => ({
  host: path ? `unix:${path}` : host ?? "localhost",
  // `node:https` takes text too.
  port: Number(port ?? 0)
})

type Address = ReturnType<typeof addressOf>

/** Limits a connection in time, and has a span for it. */
const supervised = <A>(
  opening: Effect.Effect<A, TlsError>,
  { connectTimeout }: Settings,
  address: Address,
  onTimeout: (error: TlsError) => void = () => {}
): Effect.Effect<A, TlsError> =>
  within(opening, connectTimeout, () => {
    const error = new TlsError({ reason: "Timeout", ...address })
    onTimeout(error)
    return error
  }).pipe(
    Effect.withSpan("NodeTicketCache.connect", { attributes: address })
  )

/** The connection is handed over in the same step as it is done: there is no moment at which nobody has it. */
const opened = <A, R>(
  settings: Settings,
  given: Tls.ConnectionOptions,
  handOver: (socket: Tls.TLSSocket) => Effect.Effect<A, never, R>
): Effect.Effect<A, TlsError, R> =>
  Effect.uninterruptibleMask((restore) => {
    const address = addressOf(given)
    let made: Tls.TLSSocket | undefined
    const opening = wait<Tls.TLSSocket, TlsError>((resume) => {
      const fail = (stage: Stage, cause: unknown) => resume(Exit.fail(errorOf(address, stage, cause)))
      try {
        const { options, tickets } = targetOf(settings, given)
        return handshake(options, tickets, {
          onOpen: (socket) => {
            made = socket
            resume(Exit.succeed(socket))
          },
          onFailure: fail
        })
      } catch (thrown) {
        fail("Options", thrown)
        return undefined
      }
    })
    return restore(supervised(opening, settings, address)).pipe(
      // The connection may have ended in the moments since.
      Effect.filterOrFail((socket) => !socket.destroyed, () => new TlsError({ reason: "Handshake", ...address })),
      Effect.onError(() => Effect.sync(() => made?.destroy())),
      Effect.flatMap(handOver)
    )
  })

const errorOf = (address: Address, stage: Stage, cause: unknown): TlsError =>
  stage === "Options"
    ? new TlsError({ reason: "InvalidOptions", ...address, cause: refusal(cause) })
    : new TlsError({ reason: stage, ...address, cause })

interface Target {
  readonly options: Tls.ConnectionOptions
  readonly tickets: Tickets
  /** Whether there is a ticket to offer, as things stand. */
  readonly hasTicket: () => boolean
}

const targetOf = (
  { cache, partition, runtime }: Settings,
  given: Tls.ConnectionOptions,
  identity: TlsIdentity = identityOf(cache, given)
): Target => {
  const run = Runtime.runSync(runtime)
  const host = given.host ?? "localhost"
  const servername = given.servername ?? (Net.isIP(host) === 0 ? host : undefined)
  const checkServerIdentity = unthrowing(given.checkServerIdentity ?? Tls.checkServerIdentity)
  const options = {
    ...given,
    ...defined({ servername, lookup: unthrowingLookup(given.lookup) }),
    checkServerIdentity,
    rejectUnauthorized: identity.rejectUnauthorized,
    secureContext: identity.context()
  }
  // Only ours.
  delete options.session
  const key: TicketCache.ServerKey = {
    ...addressOf(given),
    ...defined({ servername, partition }),
    alpn: protocolsOf(given),
    identity: identity.digest
  }
  let taken: TicketCache.Ticket | undefined
  return {
    options,
    hasTicket: () => run(TicketCache.has(cache, key)),
    tickets: {
      take: () => {
        const ticket = Option.getOrUndefined(run(TicketCache.take(cache, key)))
        if (ticket === undefined) return undefined
        const { buffer, byteLength, byteOffset } = ticket.session
        if (isAccepted(ticket, servername || host, checkServerIdentity, run(Clock.currentTimeMillis))) {
          taken = ticket
          return Buffer.from(buffer, byteOffset, byteLength)
        }
        ticket.session.fill(0)
        return undefined
      },
      resumed: () => run(TicketCache.resumed(cache)),
      refused: () => run(TicketCache.reject(cache, key, taken!)),
      put: (session) => {
        const times = lifetime(session)
        if (Option.isSome(times)) run(TicketCache.put(cache, key, { session, ...times.value }))
      },
      unreplenished: () => void Runtime.runFork(runtime)(TicketCache.unreplenished(cache, key))
    }
  }
}

/** Whether the certificate that a ticket stands for would be accepted now. If not, a whole handshake is to say so. */
const isAccepted = (
  { session }: TicketCache.Ticket,
  hostname: string,
  checkServerIdentity: CheckServerIdentity,
  now: number
): boolean => {
  const der = readTlsSession(session)?.certificate
  if (der === undefined) return false
  try {
    const certificate = readCertificate(der)
    return now <= Date.parse(certificate.valid_to) && checkServerIdentity(hostname, certificate) === undefined
  } catch {
    return false
  }
}

/** The last ones: reading one costs more than all else that is done for a ticket. */
const certificates = new Map<string, Tls.DetailedPeerCertificate>()

const readCertificate = (der: Uint8Array): Tls.DetailedPeerCertificate => {
  const id = Buffer.from(der).toString("latin1")
  const known = certificates.get(id)
  if (known !== undefined) return known
  const read = new X509Certificate(der)
  // Throws for a key that cannot be read, where the next call ends the process (Node 24).
  void read.publicKey
  const certificate = read.toLegacyObject() as Tls.DetailedPeerCertificate
  // All there is of the chain; one that is its own issuer ends it.
  certificate.issuerCertificate ??= certificate
  certificates.set(id, certificate)
  const [oldest] = certificates.keys()
  if (certificates.size > 64) certificates.delete(oldest!)
  return certificate
}

type CheckServerIdentity = NonNullable<Tls.ConnectionOptions["checkServerIdentity"]>

/** Node calls it where a throw ends the process. */
const unthrowing = (check: CheckServerIdentity): CheckServerIdentity => (hostname, certificate) => {
  try {
    return check(hostname, certificate)
  } catch (thrown) {
    return thrown instanceof Error ? thrown : new Error(String(thrown))
  }
}

/** Node lets a throw out of the call that opens the connection. It is the application's own error, and no option's. */
const unthrowingLookup = (lookup: Tls.ConnectionOptions["lookup"]): typeof lookup =>
  // Node says what else is wrong with it.
  typeof lookup !== "function" ? lookup : (hostname, options, callback) => {
    try {
      lookup(hostname, options, callback)
    } catch (thrown) {
      process.nextTick(callback, thrown instanceof Error ? thrown : new Error(String(thrown)), "")
    }
  }

/** Without Node's message, which shows what was given: a key, a passphrase. */
const refusal = (thrown: unknown): NodeJS.ErrnoException => {
  const code = codeOf(thrown) ?? "ERR_INVALID_ARG_VALUE"
  return Object.assign(new Error(`Node refuses the options: ${code}`), { code })
}
