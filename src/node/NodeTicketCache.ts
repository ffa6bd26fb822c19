/**
 * TLS connections that resume a session where they can, with tickets that are each offered once: for undici (and so
 * for `NodeHttpClient`), for `node:https` and `ws`, and for whatever else speaks over a `TLSSocket`.
 *
 * The caches that undici and `https.Agent` have of their own keep one ticket for a server and offer it again and again.
 * These connectors take a ticket from a `TicketCache` once the server has been reached, and put those that come.
 *
 * **What it guarantees.** No ticket is offered twice, and none is spent on a server that cannot be reached. A ticket is
 * offered only by connections whose TLS options are those it was issued to: CAs, client certificate, server name,
 * `checkServerIdentity`, `rejectUnauthorized`, protocols, and the partition. Before one is offered, its certificate is
 * asked for the host once more, and for its date, for a resumed connection shows none (Node 20 asks nothing there). A
 * server that refuses a ticket gets a whole handshake, and one that breaks off because of it is asked anew, once,
 * without one; neither is an error. Early data (0-RTT) is never sent.
 *
 * **What it does not.** Resumption saves the certificate and the work that goes with it. With TLS 1.3 it saves no
 * round trip; with TLS 1.2 it saves one. A certificate that is revoked, or a CA that is taken from a store behind
 * one's back, is noticed with the next whole handshake. Tickets come with what the server sends first: a connection
 * that is never read gets none. A resumed connection shows no certificate to `getPeerCertificate`; what
 * `checkServerIdentity` is shown for it is the server's own, without those of its issuers.
 *
 * Options are compared by content, but functions and other objects (a `secureContext`) by reference: one that is made
 * for each connection anew is another identity each time, and resumes nothing. `session` is not used.
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
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as FiberId from "effect/FiberId"
import * as FiberSet from "effect/FiberSet"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"
import type * as Scope from "effect/Scope"
import { X509Certificate } from "node:crypto"
import type * as Https from "node:https"
import * as Net from "node:net"
import type { Duplex } from "node:stream"
import * as Tls from "node:tls"
import { within } from "../internal/first.js"
import { readTlsSession } from "../internal/tlsSession.js"
import { wait } from "../internal/wait.js"
import * as Check from "../InvalidOptions.js"
import { InvalidOptions } from "../InvalidOptions.js"
import * as TicketCache from "../TicketCache.js"
import { type Open, TicketAgent } from "./internal/ticketAgent.js"
import { TlsIdentities, type TlsIdentity } from "./internal/tlsIdentities.js"

/**
 * A connection that did not come about.
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

const codeOf = (cause: unknown): string | undefined => {
  const { code } = Object(cause) as { readonly code?: unknown }
  return typeof code === "string" ? code : undefined
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
  /** Only connections of the same partition share tickets: one for each user or tenant, where a server is not to tell that they are the same client's. */
  readonly partition?: string | undefined
  /** How long a connection may take, from its beginning to the end of the handshake. Default: 10 seconds, as in undici. */
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
      const { allowH2, autoSelectFamily, autoSelectFamilyAttemptTimeout, connections, localAddress, socketPath } = undici
      // To undici, 0 is no limit.
      const connectTimeout = options.connectTimeout ?? (undici.connectTimeout === 0 ? Check.longestTimer : undici.connectTimeout)
      const tls = {
        highWaterMark: 16 * 1024,
        keepAlive: true,
        keepAliveInitialDelay: 60_000,
        noDelay: true,
        ALPNProtocols: allowH2 === true ? ["http/1.1", "h2"] : ["http/1.1"],
        ...defined({ autoSelectFamily, autoSelectFamilyAttemptTimeout, path: socketPath }),
        ...options.tls
      }
      const open = yield* makeOpen({ ...options, connectTimeout, tls }, connections)
      const timeout = connectTimeout === undefined ? undefined : Duration.toMillis(connectTimeout)
      const plain = Undici.buildConnector(defined({ socketPath, timeout, autoSelectFamily, autoSelectFamilyAttemptTimeout }))
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
        open(
          given,
          Either.match({
            onLeft: (error) => callback(error, null),
            onRight: (socket) => callback(null, socket)
          })
        )
      }
      return yield* Effect.acquireRelease(
        built("undici", () => new Undici.Agent({ ...undici, connect })),
        (agent) => Effect.promise(() => agent.destroy())
      )
    })
  )

const defined = <A extends object>(options: A): { [K in keyof A]: Exclude<A[K], undefined> } =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as never

/**
 * An agent for `node:https`, and for `wss:` with `NodeWebSocketDialer`; it is destroyed with the scope. What
 * `https.Agent` takes can be given beside the rest, and has the last word.
 *
 * A request gets its socket when the handshake is over, where Node's own agent gives it before; the socket says
 * `secureConnect` then, before anything is sent.
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
export const agent = (options: Options & Https.AgentOptions = {}): Effect.Effect<Https.Agent, InvalidOptions, Scope.Scope> =>
  Effect.gen(function*() {
    const { cache, connectTimeout, partition, tls, ...rest } = options
    const all = { ...tls, ...rest, maxCachedSessions: 0 }
    if ("proxyEnv" in all && all.proxyEnv !== undefined) {
      return yield* new InvalidOptions({ option: "proxyEnv", value: typeof all.proxyEnv, reason: "is not supported" })
    }
    let agent: TicketAgent | undefined
    // When no more is opened: what the agent would dial for those that are queued is refused then.
    yield* Effect.addFinalizer(() => Effect.sync(() => agent?.destroy()))
    const open = yield* makeOpen({ cache, connectTimeout, partition, tls: all }, rest.maxSockets)
    return agent = yield* built("agent", () => new TicketAgent(all, open))
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
      opened(settings, given, (socket) => Effect.as(Effect.addFinalizer(() => Effect.sync(() => socket.destroy())), socket))
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

/** They go with their cache. */
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
    const timeout = Check.duration("connectTimeout", connectTimeout ?? "10 seconds", { min: "1 millis" })
    return { cache, partition, connectTimeout: Duration.toMillis(timeout), runtime }
  })

/** `width`: how many connections there may be at once. */
const makeOpen = (
  options: Options & { readonly tls: Tls.ConnectionOptions },
  width: number | null | undefined
): Effect.Effect<Open, InvalidOptions, Scope.Scope> =>
  Effect.gen(function*() {
    const runtime = yield* Effect.runtime<never>()
    const cache = options.cache ??
      // A whole handshake may bring two.
      (yield* TicketCache.make({ ticketsPerServer: Math.max(64, Number.isSafeInteger(width) ? 2 * width! : 0) }))
    const settings = yield* settingsOf(options, cache, runtime)
    yield* Effect.try({
      try: () => identityOf(cache, options.tls),
      catch: (thrown) => new InvalidOptions({ option: "tls", value: "<redacted>", reason: refusal(thrown).message })
    })
    const fork = yield* FiberSet.makeRuntime()
    return (given, callback) => {
      let isOver = false
      const finish = (outcome: Either.Either<Tls.TLSSocket, TlsError>) => {
        if (isOver) return
        isOver = true
        try {
          callback(outcome)
        } catch (thrown) {
          // Not to be lost in a fiber: it is the application's.
          queueMicrotask(() => {
            throw thrown
          })
        }
      }
      const fiber = fork(opened(settings, given, (socket) => Effect.sync(() => finish(Either.right(socket)))))
      fiber.addObserver((exit) => {
        if (Exit.isSuccess(exit)) return
        finish(Either.left(Option.getOrElse(Cause.failureOption(exit.cause), () =>
          new TlsError({ reason: "Closed", ...addressOf(given) }))))
      })
      return () => fiber.unsafeInterruptAsFork(FiberId.none)
    }
  })

const addressOf = ({ host, path, port }: Tls.ConnectionOptions) => ({
  host: path ? `unix:${path}` : host ?? "localhost",
  // `node:https` takes text too.
  port: Number(port ?? 0)
})

/** The connection is handed over in the same step as it is done: there is no moment at which nobody has it. */
const opened = <A, R>(
  settings: Settings,
  given: Tls.ConnectionOptions,
  handOver: (socket: Tls.TLSSocket) => Effect.Effect<A, never, R>
): Effect.Effect<A, TlsError, R> =>
  Effect.uninterruptibleMask((restore) => {
    const address = addressOf(given)
    const made: { socket: Tls.TLSSocket | undefined } = { socket: undefined }
    const opening = Effect.try({
      try: () => targetOf(settings, given, made),
      catch: (thrown) => new TlsError({ reason: "InvalidOptions", ...address, cause: refusal(thrown) })
    }).pipe(
      Effect.flatMap((target) =>
        Effect.catchIf(attempt(target, true), (error) => error instanceof TicketBroke, () => attempt(target, false))
      ),
      Effect.catchTag("TicketBroke", ({ error }) => error),
      (effect) => within(effect, settings.connectTimeout, () => new TlsError({ reason: "Timeout", ...address })),
      Effect.withSpan("NodeTicketCache.connect", { attributes: address })
    )
    return restore(opening).pipe(
      // It may have ended in the moments since.
      Effect.filterOrFail((socket) => !socket.destroyed, () => new TlsError({ reason: "Handshake", ...address })),
      Effect.onError(() => Effect.sync(() => made.socket?.destroy())),
      Effect.flatMap(handOver)
    )
  })

interface Target extends Settings {
  readonly address: { readonly host: string; readonly port: number }
  readonly key: TicketCache.ServerKey
  readonly options: Tls.ConnectionOptions & { readonly checkServerIdentity: CheckServerIdentity }
  /** Whom the certificate must be for. */
  readonly hostname: string
  /** The socket of the present attempt. */
  readonly made: { socket: Tls.TLSSocket | undefined }
}

const targetOf = (settings: Settings, given: Tls.ConnectionOptions, made: Target["made"]): Target => {
  const { context, digest } = identityOf(settings.cache, given)
  const address = addressOf(given)
  const host = given.host ?? "localhost"
  const servername = given.servername ?? (Net.isIP(host) === 0 ? host : undefined)
  const options = {
    ...given,
    ...defined({ servername }),
    checkServerIdentity: unthrowing(given.checkServerIdentity ?? Tls.checkServerIdentity),
    secureContext: context
  }
  // Only ours.
  delete options.session
  return {
    ...settings,
    address,
    key: {
      ...address,
      ...defined({ servername, partition: settings.partition }),
      alpn: Array.from((given.ALPNProtocols ?? []) as ArrayLike<string | Uint8Array | number>, (name) =>
        name instanceof Uint8Array ? Buffer.from(name).toString("latin1") : String(name)),
      identity: digest
    },
    options,
    hostname: servername || host,
    made
  }
}

/** What the types of `TLSSocket` leave out. */
interface Settable extends Tls.TLSSocket {
  setSession(session: Buffer): void
}

/** The server broke the handshake off, and may have done so because of a ticket. */
class TicketBroke extends Data.TaggedError("TicketBroke")<{ readonly error: TlsError }> {}

const attempt = (target: Target, mayOffer: boolean): Effect.Effect<Tls.TLSSocket, TlsError | TicketBroke> =>
  wait((resume) => {
    const { address, cache, key, made, options, runtime } = target
    const run = Runtime.runSync(runtime)
    let state: "Connecting" | "Shaking" | "Over" = "Connecting"
    let ticket: TicketCache.Ticket | undefined

    /** The server is reached: the hello that follows spends a ticket, if there is one. */
    const offer = (use: (session: Buffer) => void): void => {
      state = "Shaking"
      const taken = mayOffer ? Option.getOrUndefined(run(TicketCache.take(cache, key))) : undefined
      if (taken === undefined) return
      if (isAccepted(taken, target, run(Clock.currentTimeMillis))) {
        const { buffer, byteLength, byteOffset } = taken.session
        ticket = taken
        use(Buffer.from(buffer, byteOffset, byteLength))
      }
      // OpenSSL has a copy.
      taken.session.fill(0)
    }
    const succeed = (socket: Tls.TLSSocket): void => {
      state = "Over"
      if (ticket !== undefined) run(socket.isSessionReused() ? TicketCache.resumed(cache) : TicketCache.reject(cache, key, ticket))
      resume(Exit.succeed(socket))
    }
    const fail = (cause?: unknown): void => {
      if (state === "Over") return
      const code = codeOf(cause) ?? ""
      const isAlert = code.startsWith("ERR_SSL_") || code === "EPROTO"
      const isUntrusted = (made.socket?.authorizationError ?? undefined) !== undefined
      const error = new TlsError({
        reason: state === "Connecting" ? "Connect" : isUntrusted ? "Identity" : "Handshake",
        ...address,
        cause
      })
      state = "Over"
      // A reset says nothing of the ticket, except that it may be the cause. Who is not trusted has refused it.
      if (ticket !== undefined && (isAlert || isUntrusted)) run(TicketCache.reject(cache, key, ticket))
      // A socket that was given serves for one handshake only.
      const mayTryAgain = ticket !== undefined && options.socket === undefined && (isAlert || code === "ECONNRESET")
      resume(Exit.fail(mayTryAgain ? new TicketBroke({ error }) : error))
    }

    const watch = (socket: Tls.TLSSocket): Tls.TLSSocket => {
      let isReplenished = false
      made.socket = socket
      // Those of Node 20's `tls.connect` come to nothing.
      const { keepAlive, keepAliveInitialDelay, noDelay } = options as Net.TcpSocketConnectOpts
      if (noDelay === true) socket.setNoDelay(true)
      if (keepAlive === true) socket.setKeepAlive(true, keepAliveInitialDelay)
      socket.on("session", (session) => {
        isReplenished = true
        const times = lifetime(session)
        if (Option.isSome(times)) run(TicketCache.put(cache, key, { session, ...times.value }))
      })
      socket.once("secureConnect", () => {
        if (socket.isSessionReused()) {
          const bytesRead = socket.bytesRead
          socket.once("close", () => {
            const hasSpoken = socket.bytesRead > bytesRead
            if (hasSpoken && !isReplenished) Runtime.runFork(runtime)(TicketCache.unreplenished(cache, key))
          })
        }
        succeed(socket)
      })
      // It stays: an error that comes before somebody else listens is to end the socket, and nothing more.
      socket.on("error", fail)
      socket.once("close", () => fail())
      return socket
    }

    const begin = (): void => {
      try {
        if (options.socket === undefined) {
          const socket = watch(Tls.connect(options))
          // First, for with this event Node writes the hello.
          socket.prependOnceListener("connect", () => offer((session) => (socket as Settable).setSession(session)))
        } else {
          offer((session) => watch(Tls.connect({ ...options, session })))
          if (ticket === undefined) watch(Tls.connect(options))
        }
      } catch (thrown) {
        state = "Over"
        resume(Exit.fail(new TlsError({ reason: "InvalidOptions", ...address, cause: refusal(thrown) })))
      }
    }
    const { socket: underneath } = options
    if (underneath?.destroyed === true) {
      fail(new Error("the socket that was given is closed"))
      return undefined
    }
    const isThere = underneath === undefined ? undefined : eventOfReaching(underneath)
    if (isThere === undefined) begin()
    else underneath?.once(isThere, begin).once("error", fail).once("close", () => fail())
    return () => {
      state = "Over"
      made.socket?.destroy()
      underneath?.destroy()
    }
  })

/** What a socket that is not there yet will say when it is. */
const eventOfReaching = (socket: Duplex): "connect" | "secureConnect" | undefined =>
  socket instanceof Tls.TLSSocket && (socket as { readonly secureConnecting?: boolean }).secureConnecting === true
    ? "secureConnect"
    : socket instanceof Net.Socket && socket.pending
    ? "connect"
    : undefined

/** Whether the certificate that a ticket stands for would be accepted now. If not, a whole handshake is to say so. */
const isAccepted = (
  { session }: TicketCache.Ticket,
  { hostname, options: { checkServerIdentity } }: Target,
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

/** Without Node's message, which shows what was given: a key, a passphrase. */
const refusal = (thrown: unknown): NodeJS.ErrnoException => {
  const code = codeOf(thrown) ?? "ERR_INVALID_ARG_VALUE"
  return Object.assign(new Error(`Node refuses the options: ${code}`), { code })
}
