/**
 * Clients of `NodeTicketCache`, of each kind, and a test that checks the rules for all of them: no ticket is offered
 * twice, no early data is sent, and no secret is shown.
 */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as HttpClient from "@effect/platform/HttpClient"
import { assert, it } from "@effect/vitest"
import type { InvalidOptions } from "effect-holdfast/InvalidOptions"
import { NodeTicketCache, NodeWebSocketDialer } from "effect-holdfast/node"
import * as TicketCache from "effect-holdfast/TicketCache"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Scope from "effect/Scope"
import * as Tracer from "effect/Tracer"
import * as Http2 from "node:http2"
import * as Https from "node:https"
import * as Tls from "node:tls"
import { inspect } from "node:util"
import { serverCertificate } from "../../examples/certificates.js"
import { amount } from "./form.js"
import {
  type Handshakes,
  type NodeTlsServer,
  nodeTlsServer,
  type NodeTlsServerOptions,
  type Recorder,
  recorder,
  type Seen
} from "./tlsServers.js"

// -----------------------------------------------------------------------------
// servers
// -----------------------------------------------------------------------------

const own = await serverCertificate()

type Settings = Partial<NodeTlsServerOptions>

/**
 * Never closed: a worker runs several files, and loads this module once for all of them. When the worker ends, its
 * servers are disconnected, and end.
 */
const worker = Effect.runSync(Scope.make())

const idle = new Map<string, Array<NodeTlsServer>>()

/**
 * Node's server, with HTTP/2 and HTTP/1.1, for one test at a time. Tests with the same settings use it one after the
 * other, each with new keys, since a process takes longer to start than a test to run. Its counters are 0.
 */
export const serving = (settings: Settings = {}): Effect.Effect<NodeTlsServer, never, Scope.Scope> =>
  Effect.gen(function*() {
    const { cert, key } = { ...own, ...settings }
    const options = { ALPNProtocols: ["h2", "http/1.1"], ...settings, key, cert }
    const name = JSON.stringify(options)
    const server = idle.get(name)?.pop() ?? (yield* Scope.extend(nodeTlsServer(options), worker))
    const before = yield* server.report
    yield* Effect.addFinalizer(() =>
      Effect.gen(function*() {
        yield* server.swap({ key, cert })
        yield* server.closeConnections
        idle.set(name, [...idle.get(name) ?? [], server])
      })
    )
    return {
      ...server,
      report: Effect.map(server.report, ({ full, resumed, ...rest }) => ({
        ...rest,
        full: full - before.full,
        resumed: resumed - before.resumed
      }))
    }
  })

// -----------------------------------------------------------------------------
// clients
// -----------------------------------------------------------------------------

export interface Given extends NodeTicketCache.Options {
  readonly cache: TicketCache.TicketCache
}

/** Gets one page over its own connection, which is closed afterwards. For a WebSocket the page is an echo. */
export type Ask = (url: string) => Effect.Effect<string, unknown>

export type Way = (given: Given) => Effect.Effect<Ask, InvalidOptions, Scope.Scope>

/** All data until the peer ends the connection. */
export const exchange = (socket: Tls.TLSSocket): Effect.Effect<string, Error> =>
  Effect.async((resume) => {
    let text = ""
    socket.on("data", (chunk: Buffer) => {
      text += chunk.toString()
    })
    socket.on("error", (error) => resume(Effect.fail(error)))
    socket.on("close", () => resume(Effect.succeed(text.slice(text.indexOf("\r\n\r\n") + 4))))
    socket.write("GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
  })

export const addressIn = (url: string) => {
  const { hostname, port } = new URL(url)
  return { host: hostname, port: Number(port) }
}

export const versions = ["TLSv1.3", "TLSv1.2"] as const

export const connecting = (given: Given & Tls.ConnectionOptions) => (url: string) =>
  Effect.scoped(Effect.flatMap(NodeTicketCache.connect({ ...given, ...addressIn(url) }), exchange))

export const httpsGet = (
  url: string,
  { headers = { connection: "close" }, ...options }: Https.RequestOptions
): Effect.Effect<string, NodeJS.ErrnoException> =>
  Effect.async((resume) => {
    const request = Https.get(url, { ...options, headers }, (response) => {
      let text = ""
      response.on("data", (chunk: Buffer) => {
        text += chunk.toString()
      })
      response.on("end", () => resume(Effect.succeed(text)))
    })
    request.on("error", (error) => resume(Effect.fail(error)))
    return Effect.sync(() => request.destroy())
  })

export const httpClient = (
  options: Parameters<typeof NodeTicketCache.layerDispatcher>[0]
): Effect.Effect<HttpClient.HttpClient, InvalidOptions, Scope.Scope> =>
  Effect.map(
    Layer.build(
      NodeHttpClient.layerUndiciWithoutDispatcher.pipe(Layer.provide(NodeTicketCache.layerDispatcher(options)))
    ),
    Context.get(HttpClient.HttpClient)
  )

export const clientGet = (
  client: HttpClient.HttpClient,
  url: string,
  headers: Record<string, string> = { connection: "close" }
) => Effect.flatMap(client.get(url, { headers }), ({ text }) => text)

export const ways = {
  connect: (given) =>
    Effect.succeed((url) =>
      Effect.scoped(Effect.flatMap(NodeTicketCache.connect({ ...given, ...addressIn(url) }), exchange))
    ),
  dispatcher: (given) => Effect.map(httpClient(given), (client) => (url) => clientGet(client, url)),
  agent: (given) => Effect.map(NodeTicketCache.agent(given), (agent) => (url) => httpsGet(url, { agent })),
  webSocket: (given) =>
    Effect.map(NodeTicketCache.agent(given), (agent) => (url) =>
      Effect.scoped(Effect.gen(function*() {
        const { dial } = yield* WebSocketDialer.WebSocketDialer
        const connection = yield* dial({ url: url.replace("https:", "wss:") })
        yield* connection.write(["echo"])
        return yield* Effect.async<string, unknown>((resume) => {
          Effect.runSync(connection.listen({
            onMessage: (message) => resume(Effect.succeed(String(message))),
            onControl: () => {},
            onEnd: (failure) => resume(Effect.fail(failure))
          }))
        })
      })).pipe(Effect.provide(NodeWebSocketDialer.layer({ agent })))),
  http2: (given) =>
    Effect.succeed((url) =>
      Effect.scoped(Effect.gen(function*() {
        const tls = { ...given.tls, ALPNProtocols: ["h2"] }
        const socket = yield* NodeTicketCache.connect({ ...given, tls, ...addressIn(url) })
        return yield* Effect.async<string, Error>((resume) => {
          const session = Http2.connect(url, { createConnection: () => socket })
          session.on("error", (error) => resume(Effect.fail(error)))
          const request = session.request({ ":path": "/" })
          let text = ""
          request.on("data", (chunk: Buffer) => {
            text += chunk.toString()
          })
          request.on("error", (error) => resume(Effect.fail(error)))
          request.on("end", () => {
            session.destroy()
            resume(Effect.succeed(text))
          })
        })
      }))
    )
} satisfies Record<string, Way>

export const seenIn = (body: string): Seen => JSON.parse(body) as Seen

// -----------------------------------------------------------------------------
// what is looked at
// -----------------------------------------------------------------------------

/** The server's counts, as soon as there are this many handshakes. */
export const handshakes = (
  { report }: { readonly report: Effect.Effect<Handshakes> },
  count: number
): Effect.Effect<Handshakes> =>
  Effect.map(
    Effect.repeat(report, { until: ({ full, resumed }) => full + resumed >= count }),
    ({ full, resumed }) => ({ full, resumed })
  )

/** A recorder that checks at its end that no ticket was in two hellos, and that no hello had early data. */
export const watched = (server: { readonly port: number }): Effect.Effect<Recorder, never, Scope.Scope> =>
  Effect.gen(function*() {
    const own = yield* recorder(server.port)
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        const offered = own.hellos.flatMap((hello) => hello.offered)
        assert.strictEqual(new Set(offered).size, offered.length, "a ticket was offered twice")
        assert.isFalse(own.hellos.some(({ hasEarlyData }) => hasEarlyData), "early data was sent")
      })
    )
    return own
  })

/** How many tickets each hello offered, beginning with the hello number `from`. */
export const offers = ({ hellos }: Recorder, from = 0) => hellos.slice(from).map(({ offered }) => offered.length)

/** The keys for which a cache has tickets. */
export const keysOf = (cache: TicketCache.TicketCache): Effect.Effect<ReadonlyArray<TicketCache.ServerKey>> =>
  Effect.suspend(() => {
    const keys: Array<TicketCache.ServerKey> = []
    const keep = (key: TicketCache.ServerKey) => {
      keys.push(key)
      return false
    }
    return Effect.as(TicketCache.clear(cache, keep), keys)
  })

/** Runs the effect with a clock that is ahead by the given time. */
export const ahead = (millis: number) => {
  const real = Clock.make()
  const unsafeCurrentTimeMillis = () => real.unsafeCurrentTimeMillis() + millis
  const clock: Clock.Clock = Object.assign(Object.create(real) as Clock.Clock, {
    unsafeCurrentTimeMillis,
    currentTimeMillis: Effect.sync(unsafeCurrentTimeMillis)
  })
  return Effect.withClock(clock)
}

// -----------------------------------------------------------------------------
// secrets
// -----------------------------------------------------------------------------

let said: Array<string> = []
let secrets: Array<string> = []
let sessions: Array<Buffer> = []

/** The output of a test is searched for parts of this many sessions. */
const mostSessions = amount({ quick: 5, full: 20 })

/** Everything that a caller could print. */
const say = (value: unknown): void => {
  said.push(inspect(value, { depth: Infinity, showHidden: true, maxArrayLength: Infinity, maxStringLength: Infinity }))
  said.push(String(value))
}

/** The failure of an effect that must fail. */
export const failure = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<E, A, R> =>
  Effect.tap(Effect.flip(effect), (error) => Effect.sync(() => say(error)))

/**
 * A `TlsError`, or the `cause` of an error that `node:https`, or a client built on it, has made of Node's own error.
 */
export interface TlsFailure {
  readonly reason?: NodeTicketCache.TlsError["reason"]
  readonly code?: string | undefined
  readonly port?: number | undefined
  readonly cause?: unknown
}

/** The innermost error of a failure, however a client wraps it. */
const tlsFailureOf = (error: unknown): TlsFailure => {
  let found: TlsFailure | undefined
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if (cause instanceof NodeTicketCache.TlsError) return cause
    const { code, port } = cause as NodeJS.ErrnoException & { readonly port?: number }
    if (code !== undefined) found = { code, port, cause }
  }
  if (found === undefined) throw new Error(`no TLS failure: ${String(error)}`)
  return found
}

export const failing = (ask: Effect.Effect<unknown, unknown>) => Effect.map(failure(ask), tlsFailureOf)

/** The reason of a client's failure. An agent's requests fail with Node's own errors, which have none. */
export const reasonBy = (way: string, reason: NodeTicketCache.TlsError["reason"]) =>
  way === "agent" || way === "webSocket" ? undefined : reason

/** A text that no error, log or span may contain. */
export const secret = <A extends string>(text: A): A => {
  // The part of a key between its first and last line.
  secrets.push(text.replace(/-----[^\n]*-----/g, "").trim())
  return text
}

/** The log lines of this test so far. */
export const logged = (): ReadonlyArray<string> => lines

let lines: Array<string> = []

/**
 * Parts of the session that are unique to it, as they would be printed: of the id, of the secret, of the ticket. The
 * server's certificate, between the last two, is public.
 */
const printed = (session: Buffer): ReadonlyArray<string> => {
  const start = session[0] === 0 ? session.indexOf(Buffer.of(0x30, 0x82)) : 0
  return [start + 18, start + 54, start + 63, session.length - 90].flatMap((near) => {
    // In base64 each group of three bytes is independent.
    const at = near + (3 - near % 3) % 3
    const part = session.subarray(at, at + 18)
    return [
      part.toString("hex"),
      part.toString("hex").replace(/(..)(?=.)/g, "$1 "),
      [...part].join(", "),
      part.toString("base64"),
      part.toString("latin1")
    ]
  })
}

const watchSessions = Effect.acquireRelease(
  Effect.sync(() => {
    const { emit } = Tls.TLSSocket.prototype
    const isOwn = Object.hasOwn(Tls.TLSSocket.prototype, "emit")
    Tls.TLSSocket.prototype.emit = function(this: Tls.TLSSocket, event: string) {
      if (event === "session" && sessions.length < mostSessions) sessions.push(Buffer.from(arguments[1] as Buffer))
      return Reflect.apply(emit, this, arguments) as boolean
    } as typeof emit
    return isOwn ? emit : undefined
  }),
  (emit) =>
    Effect.sync(() => {
      if (emit === undefined) Reflect.deleteProperty(Tls.TLSSocket.prototype, "emit")
      else Tls.TLSSocket.prototype.emit = emit
    })
)

const showsNoSecrets = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    said = []
    lines = []
    secrets = []
    sessions = []
    yield* watchSessions
    const spans: Array<Tracer.Span> = []
    const native = yield* Effect.tracer
    const tracer = Tracer.make({
      context: (f, fiber) => native.context(f, fiber),
      span: (...args) => {
        const span = native.span(...args)
        if (spans.length < 100) spans.push(span)
        return span
      }
    })
    const logger = Logger.make<unknown, void>((entry) => {
      lines.push(String(entry.message))
      say([entry.message, entry.cause, entry.annotations])
    })
    const result = yield* Effect.scoped(effect).pipe(
      Effect.provide(Logger.replace(Logger.defaultLogger, logger)),
      Logger.withMinimumLogLevel(LogLevel.All),
      Effect.withTracer(tracer)
    )
    for (const { attributes, name, status } of spans) say([name, attributes, status])
    const text = said.join("\n")
    for (const hidden of [...secrets, ...sessions.flatMap(printed)]) {
      assert.isFalse(text.includes(hidden), "a secret was shown")
    }
    return result
  })

/** A test in real time. No log, span or failure may contain a secret. */
export const test = (
  name: string,
  effect: () => Effect.Effect<unknown, unknown, Scope.Scope>,
  timeout?: number
): void => it.scopedLive(name, () => showsNoSecrets(effect()), timeout)
