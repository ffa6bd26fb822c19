/**
 * Real HTTP servers on the loopback. Their handlers are effects, so that a test delays an answer by a latch and never
 * by a time.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as FiberId from "effect/FiberId"
import type * as Scope from "effect/Scope"
import * as Http from "node:http"
import * as Http2 from "node:http2"
import * as Https from "node:https"
import type { AddressInfo, Socket } from "node:net"
import { TLSSocket } from "node:tls"

export interface Received {
  readonly method: string
  /** Path and query as they were sent. */
  readonly path: string
  readonly headers: Http.IncomingHttpHeaders
  readonly body: Buffer
  readonly httpVersion: string
  /** The number of the server's connection, counted from 1. */
  readonly connection: number
  /** The negotiated protocol and cipher, for a server that speaks TLS. */
  readonly tls: { readonly protocol: string | null; readonly cipher: string; readonly isResumed: boolean } | undefined
  /** Done if the client disconnects before the answer has been sent. */
  readonly aborted: Deferred.Deferred<void>
}

export interface Reply {
  readonly status?: number
  readonly headers?: Http.OutgoingHttpHeaders
  readonly body?: string | Uint8Array
  /** Writes the whole answer by hand, including its head. */
  readonly write?: (response: Http.ServerResponse) => void
}

export interface TestServer {
  readonly url: string
  readonly port: number
  readonly received: Array<Received>
  /** How many connections were ever opened. */
  readonly connections: () => number
  /** Which of them are open now. */
  readonly open: () => ReadonlyArray<number>
}

export const serve = (
  handle: (request: Received) => Reply | Effect.Effect<Reply>,
  tls?: Https.ServerOptions & { readonly http2?: boolean }
): Effect.Effect<TestServer, never, Scope.Scope> =>
  Effect.gen(function*() {
    const received: Array<Received> = []
    const sockets = new Map<Socket, number>()
    let connections = 0

    const onRequest = (request: Http.IncomingMessage, response: Http.ServerResponse) => {
      const chunks: Array<Buffer> = []
      request.on("data", (chunk: Buffer) => chunks.push(chunk))
      request.on("error", () => {})
      request.on("end", () => {
        const { socket } = request
        const one: Received = {
          method: request.method!,
          path: request.url!,
          headers: request.headers,
          body: Buffer.concat(chunks),
          httpVersion: request.httpVersion,
          connection: sockets.get(socket) ?? 0,
          tls: socket instanceof TLSSocket
            ? {
              protocol: socket.getProtocol(),
              cipher: socket.getCipher().standardName,
              isResumed: socket.isSessionReused()
            }
            : undefined,
          aborted: Deferred.unsafeMake(FiberId.none)
        }
        response.on("close", () => {
          if (!response.writableFinished) Deferred.unsafeDone(one.aborted, Effect.void)
        })
        received.push(one)
        const send = (reply: Reply) => {
          if (reply.write !== undefined) return reply.write(response)
          response.writeHead(reply.status ?? 200, reply.headers)
          response.end(reply.body)
        }
        const reply = handle(one)
        if (Effect.isEffect(reply)) Effect.runFork(Effect.map(reply, send))
        else send(reply)
      })
    }

    const server = tls === undefined
      ? Http.createServer(onRequest)
      : tls.http2 === true
      ? Http2.createSecureServer(tls, onRequest as never)
      : Https.createServer(tls, onRequest)
    // An idle connection must end only because a client or the test ends it, not because of an idle time.
    if ("keepAliveTimeout" in server) server.keepAliveTimeout = 600_000
    server.on(tls === undefined ? "connection" : "secureConnection", (socket: Socket) => {
      sockets.set(socket, ++connections)
      socket.on("error", () => {})
      socket.on("close", () => sockets.delete(socket))
    })
    yield* Effect.acquireRelease(
      Effect.async<void>((resume) => {
        server.listen(0, "127.0.0.1", () => resume(Effect.void))
      }),
      () =>
        Effect.async<void>((resume) => {
          server.close(() => resume(Effect.void))
          for (const socket of sockets.keys()) socket.destroy()
        })
    )
    const { port } = server.address() as AddressInfo
    return {
      url: `${tls === undefined ? "http" : "https"}://127.0.0.1:${port}`,
      port,
      received,
      connections: () => connections,
      open: () => [...sockets.values()]
    }
  })

/** Checks on each turn of the event loop until the condition holds; the test's own time limit is the bound. */
export const eventually = <E, R>(condition: Effect.Effect<boolean, E, R>): Effect.Effect<void, E, R> =>
  Effect.repeat(Effect.zipLeft(condition, nextTurn), { until: (holds) => holds }).pipe(Effect.asVoid)

export const nextTurn: Effect.Effect<void> = Effect.async((resume) => {
  const immediate = setImmediate(() => resume(Effect.void))
  return Effect.sync(() => clearImmediate(immediate))
})
