/**
 * TLS connections that resume a session if there is a ticket for it, and offer each ticket once: for undici (and so for
 * `NodeHttpClient`), for `node:https` and `ws`, and for all other code that uses a `TLSSocket`.
 *
 * The built-in caches of undici and `https.Agent` keep one ticket for a server and offer it again and again. The
 * connectors take a ticket from a `TicketCache` once the server has been reached, and put the tickets that the server
 * sends into it.
 *
 * **What it guarantees.** No ticket is offered twice, and none is spent on a server that cannot be reached. A ticket is
 * offered only by connections with the TLS options of the connection that it was issued to: CAs, client certificate,
 * server name, `checkServerIdentity`, `rejectUnauthorized`, protocols, and the partition. The agent's pool of open
 * connections keeps the same options apart. A resumed handshake shows no certificate (and Node 20 does not call
 * `checkServerIdentity` for it). So before a ticket is offered, the certificate that belongs to it is checked again,
 * for the host name and the date. If a server refuses a ticket, the handshake is a full one. If a handshake fails
 * because of a ticket, the connection is opened once more without a ticket. Neither is an error. Resumption also works
 * for a host whose first address does not answer. Early data (0-RTT) is never sent.
 *
 * **What it does not.** Resumption saves sending the certificate and checking its signatures. With TLS 1.3 it saves no
 * round trip; with TLS 1.2 it saves one. A certificate that is revoked, or a CA that is removed from the system's store
 * while the process runs, is noticed in the next full handshake. Tickets arrive with the first data that the server
 * sends: a connection that is never read gets no tickets. On a resumed connection `getPeerCertificate` returns no
 * certificate, and `checkServerIdentity` is given the server's own certificate without those of its issuers. A new
 * connection cannot choose among the servers behind a load balancer: if n servers share no ticket keys and connections
 * are spread at random, one offer in n is accepted. A refusal then does not remove the tickets of the other servers.
 *
 * Options are compared by content, but functions and other objects (a `secureContext`) by reference: if there is a new
 * object for each connection, each connection has another identity and none resumes. A list is read for each
 * connection. A change in place of a `Buffer`, or of an object in a list (an entry of `pfx`), goes unnoticed: give a
 * new one instead. The option `session` is ignored.
 *
 * @since 0.1.0
 */

import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as Undici from "@effect/platform-node/Undici"
import * as Cause from "effect/Cause"
import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as FiberSet from "effect/FiberSet"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Runtime from "effect/Runtime"
import type * as Scope from "effect/Scope"
import type * as Https from "node:https"
import * as Net from "node:net"
import type * as Tls from "node:tls"
import * as Check from "../internal/check.js"
import { within } from "../internal/first.js"
import { lifetimeOf } from "../internal/tlsSession.js"
import { wait } from "../internal/wait.js"
import { InvalidOptions } from "../InvalidOptions.js"
import * as TicketCache from "../TicketCache.js"
import { codeOf, connect as dialed, handshake, type Stage } from "./internal/handshake.js"
import { StandIn } from "./internal/standIn.js"
import {
  type Address,
  addressOf,
  defined,
  identityOf,
  type Settings,
  type Target,
  targetOf
} from "./internal/target.js"
import { identity, TicketAgent } from "./internal/ticketAgent.js"

/**
 * A connection could not be opened. Requests through `agent` fail with Node's own errors instead, unless the reason is
 * `InvalidOptions`, `Timeout` or `Closed`.
 *
 * - `InvalidOptions`: Node refused the options.
 * - `Connect`: the server could not be reached.
 * - `Handshake`: the server was reached, and the handshake failed.
 * - `Identity`: the server's certificate is not trusted, or belongs to another host.
 * - `Timeout`: the connection took longer than `connectTimeout` to open.
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
  /** Node's code for the failure (`ECONNREFUSED`, `ERR_TLS_CERT_ALTNAME_INVALID`, `ETIMEDOUT`, …), if it has one. */
  get code(): string | undefined {
    return this.reason === "Timeout" ? "ETIMEDOUT" : this.reason === "Closed" ? "ECONNRESET" : codeOf(this.cause)
  }

  override get message(): string {
    return `${this.reason}: no TLS connection to ${this.host}:${this.port}` +
      (this.cause instanceof Error ? ` (${this.cause.message || this.code})` : "")
  }

  /**
   * Leaves the cause out: Node's error for a refused certificate holds the whole certificate, with circular references.
   */
  override toJSON() {
    const { code, host, message, port, reason } = this
    return { _tag: "TlsError", reason, host, port, code, message }
  }
}

/**
 * Options for every function of this module that opens connections.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** Node's own options of the connections: CAs, a client certificate, versions, `checkServerIdentity`. */
  readonly tls?: Tls.ConnectionOptions | undefined
  /**
   * Keeps the tickets. Several dispatchers, agents and connections may share a cache. Default: each has its own cache.
   */
  readonly cache?: TicketCache.TicketCache | undefined
  /**
   * Only connections of the same partition share tickets. Give each user or tenant a partition if a server must not
   * learn that their connections come from the same client.
   */
  readonly partition?: string | undefined
  /**
   * How long a connection may take, from its beginning to the end of the handshake. Default: 10 seconds, as in undici.
   */
  readonly connectTimeout?: Duration.DurationInput | undefined
}

/**
 * When a session was issued, and when its server stops accepting it: epoch milliseconds. The lifetime is the one that
 * the server suggests (RFC 8446, 4.6.1: seven days at most). Some TLS 1.2 servers suggest none (RFC 5077, 3.3); their
 * sessions then live as long as OpenSSL's default. `None` means that the server wants the session to be discarded, or
 * that the bytes are not a session.
 *
 * `session` comes from Node's `session` event, in Node 20's form or in Node 24's.
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
): Option.Option<{ readonly issuedAt: number; readonly expiresAt: number }> => Option.fromNullable(lifetimeOf(session))

/**
 * A dispatcher for `NodeHttpClient.layerUndiciWithoutDispatcher`, and for undici itself. The options of its agent are
 * `undici`; the options of its connections are `tls`.
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
      yield* checked(options)
      const { undici = {} } = options
      if ("connect" in undici && undici.connect !== undefined) {
        return yield* new InvalidOptions({
          option: "undici.connect",
          value: typeof undici.connect,
          reason: "must not be given; use `tls` for the options of connections"
        })
      }
      const { allowH2, autoSelectFamily, autoSelectFamilyAttemptTimeout, connections, localAddress, socketPath } =
        undici
      // For undici, 0 means no limit.
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
          // If the URL has an IP address, undici gives no name, and the `servername` in `tls` is used.
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

/**
 * An agent for `node:https`, and for `wss:` with `NodeWebSocketDialer`; it is destroyed with the scope. The options of
 * `https.Agent` can be given beside `tls`, and win over it.
 *
 * A request has its socket immediately, as with Node's own agent, so that every time limit reaches a connection that is
 * being opened: the request's and the agent's `timeout`, and those of axios, got and follow-redirects.
 * `request.setTimeout` counts from its call, while Node's own begins only once TCP has connected. A request that waits
 * for its turn (`maxSockets`) has no connection yet, and its limit counts from the moment when it gets one. If there is
 * a ticket, the socket represents the one or two connections that are opened for it: it is an `instanceof TLSSocket`,
 * has the methods and properties that Node documents for one, and carries another TLS connection after `CONNECT`.
 * Properties that Node does not document (`ssl`, `_host`) can be missing.
 *
 * Requests fail with Node's own errors, and with a `TlsError` for failures that Node does not know: `connectTimeout`,
 * options that make no sense (Node's message would show them), and the end of the scope. Errors that `https.request`
 * would throw at the call (an invalid `port` or `localAddress`) come as the request's `error` event. So do the errors
 * that a `lookup` throws, unchanged. If there is a ticket, a handshake that fails can have OpenSSL's own code
 * (`ERR_SSL_WRONG_VERSION_NUMBER` from a server without TLS), while Node's agent reports `EPROTO`.
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
    yield* checked(options)
    const { cache, connectTimeout, partition, tls, ...rest } = options
    const all = { ...tls, ...rest, maxCachedSessions: 0 }
    if ("proxyEnv" in all && all.proxyEnv !== undefined) {
      return yield* new InvalidOptions({ option: "proxyEnv", value: typeof all.proxyEnv, reason: "is not supported" })
    }
    let agent: TicketAgent | undefined
    // This finalizer runs after `isClosed` is set, so that connections which the agent opens for queued requests are
    // refused.
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

/**
 * One TLS connection, destroyed with the scope: for `http2.connect`'s `createConnection`, or any protocol. The options
 * are those of Node's `tls.connect`, under `tls` or beside it. The server name that is sent, and that the certificate
 * must have, is the host unless `servername` says otherwise. If `socket` is given, `host` and `port` still decide which
 * server's tickets are used.
 *
 * The caller listens for the socket's events. An `error` event without a listener ends the socket, and not the process.
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
  // `null` has no properties to take; `checked` refuses it.
  const { cache, connectTimeout, partition, tls, ...rest }: typeof options = Object(options)
  const given: Tls.ConnectionOptions = { ...tls, ...rest }
  return Effect.zipRight(checked(options), settingsOf({ connectTimeout, partition }, cache)).pipe(
    Effect.mapError((cause) => new TlsError({ reason: "InvalidOptions", ...addressOf(given), cause })),
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
// the dispatcher's connections
// -----------------------------------------------------------------------------

/** Opens a connection in a fiber, and hands the connection or its error to a callback, once. */
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
      // An error that the application's callback throws must not be lost in a fiber.
      queueMicrotask(() => {
        throw thrown
      })
    }
  }
  fork(opened(settings, given, (socket) => Effect.sync(() => finish(null, socket)))).addObserver((exit) => {
    if (Exit.isFailure(exit)) finish(failureOf(exit.cause, given), null)
  })
}

/** Only the end of its scope interrupts a connection, so an interruption means `Closed`. */
const failureOf = (cause: Cause.Cause<TlsError>, given: Tls.ConnectionOptions): TlsError =>
  Option.getOrElse(Cause.failureOption(cause), () => new TlsError({ reason: "Closed", ...addressOf(given) }))

// -----------------------------------------------------------------------------
// the agent's connections
// -----------------------------------------------------------------------------

/** A connection that offers a ticket may have to be opened twice, so the request gets a stand-in for its socket. */
const socketOf = ({ hasTicket, options, tickets }: Target): Net.Socket =>
  options.socket === undefined && hasTicket()
    ? new StandIn(options, (listener) => handshake(options, tickets, listener))
    : dialed(options, tickets)

/** A socket that fails in the next tick, when `node:https` listens to it. */
const failing = (error: Error): Net.Socket => {
  const socket = new Net.Socket()
  process.nextTick(() => socket.destroy(error))
  return socket
}

/** Waits until a socket has opened or failed. The end of the agent's scope interrupts the wait, which destroys it. */
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
    // This listener stays: an error that comes before there is another listener must end the socket, and not the
    // process.
    socket.on("error", fail)
    socket.once("close", () => fail())
    return () => socket.destroy(new TlsError({ reason: "Closed", ...address }))
  })

// -----------------------------------------------------------------------------
// what dispatcher, agent and `connect` share
// -----------------------------------------------------------------------------

const built = <A>(option: string, build: () => A): Effect.Effect<A, InvalidOptions> =>
  Effect.try({
    try: build,
    catch: (thrown) => new InvalidOptions({ option, value: "<options>", reason: `refused: ${String(thrown)}` })
  })

/**
 * Spreading a value that is not an object gives nothing: TLS options of the wrong kind would be ignored without an
 * error.
 */
const checked = (options: Options & { readonly undici?: unknown }): Effect.Effect<void, InvalidOptions> =>
  Check.validated(() => {
    const { tls, undici } = Check.object("options", options)
    if (tls !== undefined) Check.object("tls", tls)
    if (undici !== undefined) Check.object("undici", undici)
  })

const settingsOf = (
  { connectTimeout, partition }: Options,
  cache: TicketCache.TicketCache
): Effect.Effect<Settings, InvalidOptions> =>
  Effect.gen(function*() {
    const clock = yield* Effect.clock
    const runtime = yield* Effect.runtime<never>()
    return yield* Check.validated(() => {
      if (!TicketCache.isTicketCache(cache)) {
        throw new InvalidOptions({ option: "cache", value: cache, reason: "must be a TicketCache" })
      }
      // As parts of a key, all objects would be the same partition.
      if (partition !== undefined) Check.kind("partition", partition, Predicate.isString, "must be text")
      return {
        cache,
        partition,
        connectTimeout: Check.millis("connectTimeout", connectTimeout ?? "10 seconds", { min: "1 millis" }),
        now: () => clock.unsafeCurrentTimeMillis(),
        onUnreplenished: (key: TicketCache.ServerKey) =>
          void Runtime.runFork(runtime)(TicketCache.unreplenished(cache, key))
      }
    })
  })

/** `width`: the largest number of connections that may be open at the same time. */
const settingsFor = (
  options: Options & { readonly tls: Tls.ConnectionOptions },
  width: number | null | undefined
): Effect.Effect<Settings, InvalidOptions, Scope.Scope> =>
  Effect.gen(function*() {
    const cache = options.cache ??
      // A full handshake may bring two tickets.
      (yield* TicketCache.make({ ticketsPerServer: Math.max(64, Number.isSafeInteger(width) ? 2 * width! : 0) }))
    const settings = yield* settingsOf(options, cache)
    yield* Effect.try({
      try: () => identityOf(cache, options.tls).context(),
      catch: (thrown) => new InvalidOptions({ option: "tls", value: "<redacted>", reason: refusal(thrown).message })
    })
    return settings
  })

/** Adds the time limit and the span of a connection. */
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

/** Hands the connection over in the same step in which it opens: at every moment the connection has an owner. */
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
      // The connection may have ended since it opened.
      Effect.filterOrFail((socket) => !socket.destroyed, () => new TlsError({ reason: "Handshake", ...address })),
      Effect.onError(() => Effect.sync(() => made?.destroy())),
      Effect.flatMap(handOver)
    )
  })

const errorOf = (address: Address, stage: Stage, cause: unknown): TlsError =>
  stage === "Options"
    ? new TlsError({ reason: "InvalidOptions", ...address, cause: refusal(cause) })
    : new TlsError({ reason: stage, ...address, cause })

/** Leaves Node's message out, since it shows the given values: a key, a passphrase. */
const refusal = (thrown: unknown): NodeJS.ErrnoException => {
  const code = codeOf(thrown) ?? "ERR_INVALID_ARG_VALUE"
  return Object.assign(new Error(`Node refuses the options: ${code}`), { code })
}
