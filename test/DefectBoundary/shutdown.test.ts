import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import type * as HttpApp from "@effect/platform/HttpApp"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServer from "@effect/platform/HttpServer"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import { assert, describe, it } from "@effect/vitest"
import * as DefectBoundary from "effect-holdfast/DefectBoundary"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Http from "node:http"
import * as Https from "node:https"
import * as Net from "node:net"
import { WebSocket } from "ws"
import { serverCertificate } from "../../examples/certificates.js"

/** Long enough that a test which uses up the grace period ends by its own limit instead. */
const grace = "5 minutes"

/** A server. `closed` ends when the platform has closed it after us: the platform waits for all connections. */
const serving = <E>(
  app: HttpApp.Default<E, Scope.Scope>,
  policy: DefectBoundary.Policy = "isolate",
  { before = () => Effect.void, server = () => Http.createServer() }: {
    /** Run when the server listens and is not served yet. */
    readonly before?: (port: number) => Effect.Effect<unknown>
    readonly server?: () => Http.Server
  } = {}
) =>
  Effect.gen(function*() {
    const scope = yield* Scope.make()
    const started = yield* Deferred.make<number>()
    const fiber = yield* HttpServer.addressWith((address) => {
      const port = address._tag === "TcpAddress" ? address.port : 0
      return Effect.zipRight(before(port), Deferred.succeed(started, port))
    }).pipe(
      Effect.zipRight(DefectBoundary.serve(app, { grace, policy })),
      Effect.provide(NodeHttpServer.layer(server, { port: 0, host: "127.0.0.1" })),
      Effect.forkDaemon
    )
    yield* Effect.addFinalizer(() => Fiber.interrupt(fiber))
    const port = yield* Deferred.await(started)
    // The server serves an event loop's turn after it listens.
    yield* Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 10)))
    return { port, scope, closed: Fiber.interrupt(fiber), ended: Fiber.await(fiber) }
  })

interface Ended {
  readonly code: number
  readonly reason: string
}

const webSocket = (port: number, path: string) =>
  Effect.gen(function*() {
    const ended = yield* Deferred.make<Ended>()
    const socket = yield* Effect.acquireRelease(
      Effect.async<WebSocket>((resume) => {
        const socket = new WebSocket(`ws://127.0.0.1:${port}${path}`)
        socket.on("open", () => resume(Effect.succeed(socket)))
        socket.on("error", (error) => resume(Effect.die(error)))
        socket.on("close", (code, reason) =>
          Deferred.unsafeDone(ended, Exit.succeed({ code, reason: reason.toString() })))
      }),
      (socket) =>
        Effect.sync(() => socket.terminate())
    )
    return { socket, ended: Deferred.await(ended) }
  })

const connected = (port: number) =>
  Effect.acquireRelease(
    Effect.async<Net.Socket>((resume) => {
      const socket = Net.connect(port, "127.0.0.1", () => resume(Effect.succeed(socket)))
      socket.on("error", () => {})
    }),
    (socket) => Effect.sync(() => socket.destroy())
  )

/** An echo server that records how its handler ends. */
const echoing = (onExit: (exit: Exit.Exit<unknown, unknown>) => void) =>
  Effect.flatMap(
    HttpServerRequest.upgrade,
    (socket) => Effect.scoped(Effect.flatMap(socket.writer, (write) => socket.runRaw((message) => write(message))))
  ).pipe(
    Effect.onExit((exit) => Effect.sync(() => onExit(exit))),
    Effect.as(HttpServerResponse.empty())
  )

const goingAway = { code: 1001, reason: "the server is shutting down" }

describe("D4: shutting down", () => {
  for (const policy of ["isolate", "terminate"] as const) {
    const way = policy === "isolate" ? "an interruption" : "a termination"
    it.scopedLive(`sends 1001 to WebSocket clients immediately and interrupts their handlers: ${way}`, () =>
      Effect.gen(function*() {
        const exits: Array<Exit.Exit<unknown, unknown>> = []
        const echo = echoing((exit) => exits.push(exit))
        const app = HttpRouter.empty.pipe(
          HttpRouter.get("/echo", echo),
          HttpRouter.get("/die", Effect.die("broken")),
          HttpRouter.mount("/mounted", HttpRouter.get(HttpRouter.empty, "/echo", echo)),
          HttpRouter.mountApp("/app", echo)
        )
        const { closed, ended, port } = yield* serving(app, policy)
        const paths = ["/echo", "/mounted/echo", "/app/echo"]
        const clients = yield* Effect.forEach(paths, (path) => webSocket(port, path))
        const close = policy === "isolate"
          ? closed
          : Effect.zipRight(Effect.promise(() => fetch(`http://127.0.0.1:${port}/die`)), ended)
        yield* close
        assert.deepStrictEqual(yield* Effect.forEach(clients, ({ ended }) => ended), paths.map(() => goingAway))
        assert.isTrue(exits.length === 3 && exits.every((exit) => Exit.isInterrupted(exit)), exits.join())
      }))
  }

  it.scopedLive("D1: goes on when a client has asked for an upgrade, and resets the connection", () =>
    Effect.gen(function*() {
      const { port } = yield* serving(HttpServerResponse.text("x".repeat(100_000)))
      const client = Net.connect(port, "127.0.0.1")
      client.on("error", () => {})
      client.write("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
      yield* Effect.async<void>((resume) => void client.once("data", () => resume(Effect.void)))
      client.resetAndDestroy()
      assert.strictEqual((yield* Effect.promise(() => fetch(`http://127.0.0.1:${port}`))).status, 200)
    }))

  it.scopedLive("answers 503 to an upgrade that comes meanwhile", () =>
    Effect.gen(function*() {
      const entered = yield* Deferred.make<void>()
      const cue = yield* Deferred.make<void>()
      const late = Effect.zipRight(Deferred.succeed(entered, undefined), Deferred.await(cue)).pipe(
        Effect.zipRight(HttpServerRequest.upgrade),
        Effect.as(HttpServerResponse.empty())
      )
      const { closed, port } = yield* serving(late)
      const status = yield* Effect.fork(Effect.async<number | undefined>((resume) => {
        new WebSocket(`ws://127.0.0.1:${port}/`)
          .on("unexpected-response", (_, response) => resume(Effect.succeed(response.statusCode)))
          .on("error", () => {})
      }))
      yield* Deferred.await(entered)
      const closing = yield* Effect.fork(closed)
      yield* Effect.repeat(Effect.promise(() => isRefused(port)), { until: (refused) => refused })
      yield* Deferred.succeed(cue, undefined)
      assert.strictEqual(yield* Fiber.join(status), 503)
      yield* Fiber.join(closing)
    }))

  it.scopedLive("does not wait for connections without any request", () =>
    Effect.gen(function*() {
      const { closed, port } = yield* serving(HttpServerResponse.text("ok"))
      const silent = yield* connected(port)
      const gone = yield* Deferred.make<void>()
      silent.on("close", () => Deferred.unsafeDone(gone, Exit.void))
      silent.resume()
      yield* closed
      yield* Deferred.await(gone)
    }))

  it.scopedLive("does not wait for a connection that is older than the serving", () =>
    Effect.gen(function*() {
      const scope = yield* Effect.scope
      const before = (port: number) => Scope.extend(connected(port), scope)
      const { closed } = yield* serving(HttpServerResponse.text("ok"), "isolate", { before })
      yield* closed
    }))

  it.scopedLive("does not wait for a connection that has not begun its TLS handshake", () =>
    Effect.gen(function*() {
      const { cert, key } = yield* Effect.promise(() => serverCertificate())
      const server = () => Https.createServer({ cert, key })
      const { closed, port } = yield* serving(HttpServerResponse.text("ok"), "isolate", { server })
      const silent = yield* connected(port)
      const gone = yield* Deferred.make<void>()
      silent.on("close", () => Deferred.unsafeDone(gone, Exit.void))
      silent.resume()
      yield* closed
      yield* Deferred.await(gone)
    }))

  it.scopedLive("does not wait for a client that has sent two requests and has disconnected", () =>
    Effect.gen(function*() {
      const entered = yield* Deferred.make<void>()
      const release = yield* Deferred.make<void>()
      const entering = Deferred.succeed(entered, undefined)
      const held = Effect.uninterruptible(Effect.zipRight(entering, Deferred.await(release)))
      const { closed, port } = yield* serving(Effect.as(held, HttpServerResponse.text("held")))
      const client = yield* connected(port)
      client.write("GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n")
      yield* Deferred.await(entered)
      client.destroy()
      yield* Deferred.succeed(release, undefined)
      yield* closed
    }))

  it.scopedLive("D2: waits for an app that cannot be interrupted, even if its client has gone", () =>
    Effect.gen(function*() {
      const entered = yield* Deferred.make<void>()
      const left = yield* Deferred.make<void>()
      const release = yield* Deferred.make<void>()
      let isWhole = false
      const halves = Effect.zipRight(Deferred.succeed(entered, undefined), Deferred.await(release)).pipe(
        Effect.zipRight(Effect.sync(() => {
          isWhole = true
        }))
      )
      const app = Effect.flatMap(HttpServerRequest.HttpServerRequest, ({ source }) => {
        ;(source as Http.IncomingMessage).socket.on("close", () => Deferred.unsafeDone(left, Exit.void))
        return Effect.as(Effect.uninterruptible(halves), HttpServerResponse.text("ok"))
      })
      const { closed, port } = yield* serving(app)
      const client = yield* connected(port)
      client.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
      yield* Deferred.await(entered)
      client.destroy()
      yield* Deferred.await(left)
      const closing = yield* Effect.fork(closed)
      // Longer than what follows the grace.
      yield* Effect.sleep("500 millis")
      assert.isNull(closing.unsafePoll())
      yield* Deferred.succeed(release, undefined)
      yield* Fiber.join(closing)
      assert.isTrue(isWhole)
    }))

  it.scopedLive("D2: lets the end of a stream reach a client that reads slowly", () =>
    Effect.gen(function*() {
      const chunk = new Uint8Array(8 * 1024)
      let sent = 0
      // Ends when the kernel takes no more: the last bytes are then in Node's queue.
      const app = Effect.map(HttpServerRequest.HttpServerRequest, ({ source }) => {
        const { socket } = source as Http.IncomingMessage
        const next = Effect.promise(() => new Promise<boolean>((resolve) => setImmediate(() => resolve(true)))).pipe(
          Effect.flatMap(() =>
            socket.writableLength > 0 ? Effect.fail(Option.none()) : Effect.sync(() => (sent++, chunk))
          )
        )
        return HttpServerResponse.stream(Stream.repeatEffectOption(next))
      })
      const { closed, port } = yield* serving(app)
      const got = yield* Effect.async<number | Error>((resume) => {
        Http.get({ host: "127.0.0.1", port, agent: false }, (response) => {
          let got = 0
          response.on("error", (error) => resume(Effect.succeed(error)))
          response.on("end", () => resume(Effect.succeed(got)))
          // By now the server has handed over all that it has.
          setTimeout(() => {
            Effect.runFork(closed)
            setTimeout(() => response.on("data", (data: Buffer) => got += data.length), 300)
          }, 1_000)
        })
      })
      assert.strictEqual(got, sent * chunk.length)
    }))

  it.scopedLive("D2: answers each of several requests that a client has sent at once, the offending one with 500", () =>
    Effect.gen(function*() {
      const isBroken = yield* Deferred.make<void>()
      const app = HttpRouter.empty.pipe(
        HttpRouter.get("/slow", Effect.as(Deferred.await(isBroken), HttpServerResponse.text("slow"))),
        HttpRouter.get("/die", Effect.zipRight(Deferred.succeed(isBroken, undefined), Effect.die("broken")))
      )
      const { ended, port } = yield* serving(app, "terminate")
      const client = yield* connected(port)
      let received = ""
      client.on("data", (data) => received += data.toString())
      const gone = yield* Deferred.make<void>()
      client.on("close", () => Deferred.unsafeDone(gone, Exit.void))
      client.write("GET /slow HTTP/1.1\r\nhost: a\r\n\r\nGET /die HTTP/1.1\r\nhost: a\r\n\r\n")
      yield* ended
      yield* Deferred.await(gone)
      assert.deepStrictEqual(received.match(/HTTP\/1\.1 \d+/g), ["HTTP/1.1 200", "HTTP/1.1 500"])
    }))

  it.scopedLive("D2: refuses a request that comes meanwhile, and says that its connection closes", () =>
    Effect.gen(function*() {
      const entered = yield* Deferred.make<void>()
      const release = yield* Deferred.make<void>()
      const held = Effect.zipRight(Deferred.succeed(entered, undefined), Deferred.await(release))
      const second = yield* Deferred.make<void>()
      let requests = 0
      const server = () =>
        Http.createServer().on("request", () => ++requests === 2 && Deferred.unsafeDone(second, Exit.void))
      const { closed, port } = yield* serving(Effect.as(held, HttpServerResponse.text("held")), "isolate", { server })
      const client = yield* connected(port)
      let received = ""
      client.on("data", (data) => received += data.toString())
      const gone = yield* Deferred.make<void>()
      client.on("close", () => Deferred.unsafeDone(gone, Exit.void))
      client.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
      yield* Deferred.await(entered)
      const closing = yield* Effect.fork(closed)
      yield* Effect.repeat(Effect.promise(() => isRefused(port)), { until: (refused) => refused })
      client.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
      yield* Deferred.await(second)
      yield* Deferred.succeed(release, undefined)
      yield* Deferred.await(gone)
      yield* Fiber.join(closing)
      assert.match(received, /^HTTP\/1\.1 200 OK[^]*HTTP\/1\.1 503 [^]*connection: close/i)
    }))

  it.scopedLive("sends 1001 to WebSocket clients whose handlers have ended, and closes their connections", () =>
    Effect.gen(function*() {
      const opened = yield* Deferred.make<void>()
      const onOpen = Deferred.succeed(opened, undefined)
      const daemon = Effect.flatMap(
        HttpServerRequest.upgrade,
        (socket) => Effect.forkDaemon(Effect.ignore(socket.runRaw(() => {}, { onOpen })))
      )
      const { closed, port } = yield* serving(
        Effect.as(Effect.zipRight(daemon, Deferred.await(opened)), HttpServerResponse.empty())
      )
      const { ended } = yield* webSocket(port, "/")
      yield* closed
      assert.deepStrictEqual(yield* ended, goingAway)
    }))

  it.scopedLive("does not wait for long for a WebSocket client that never answers", () =>
    Effect.gen(function*() {
      const { closed, port } = yield* serving(echoing(() => {}))
      const client = yield* connected(port)
      const upgraded = yield* Deferred.make<void>()
      client.on("data", () => Deferred.unsafeDone(upgraded, Exit.void))
      client.write(
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n" +
          "sec-websocket-version: 13\r\nsec-websocket-key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n\r\n"
      )
      yield* Deferred.await(upgraded)
      yield* closed
    }))

  it.scopedLive("keeps the class of a request that the application has made itself", () =>
    Effect.gen(function*() {
      class Authenticated {
        readonly #user = "ada"
        user(): string {
          return this.#user
        }
      }
      const asAuthenticated = (request: HttpServerRequest.HttpServerRequest) =>
        Object.freeze(Object.assign(new Authenticated(), {
          source: request.source,
          headers: request.headers,
          upgrade: request.upgrade
        })) as unknown as HttpServerRequest.HttpServerRequest
      const app = Effect.map(HttpServerRequest.HttpServerRequest, (request) =>
        HttpServerResponse.text((request as unknown as Authenticated).user()))
      const boundary = yield* DefectBoundary.make()
      const { port } = yield* serving(Effect.flatMap(HttpServerRequest.HttpServerRequest, (request) =>
        Effect.provideService(
          boundary.apply(app),
          HttpServerRequest.HttpServerRequest,
          asAuthenticated(request)
        )))
      const answer = yield* Effect.async<string>((resume) => {
        Http.get({ port, host: "127.0.0.1", headers: { upgrade: "h2c" }, agent: false }, (response) => {
          response.setEncoding("utf8").on("data", (text: string) =>
            resume(Effect.succeed(text)))
        })
      })
      assert.strictEqual(answer, "ada")
    }))

  it.scopedLive("does not affect another server on the same machine", () =>
    Effect.gen(function*() {
      const other = yield* serving(HttpServerResponse.text("other"))
      const { closed, port } = yield* serving(HttpServerResponse.text("ok"))
      const silent = yield* connected(other.port)
      yield* connected(port)
      yield* closed
      assert.strictEqual(yield* textOf(other.port, "/"), "other")
      assert.isFalse(silent.destroyed)
    }))

  it.scopedLive("D2: fails as a termination does, even if it is interrupted meanwhile", () =>
    Effect.gen(function*() {
      const entered = yield* Deferred.make<void>()
      const release = yield* Deferred.make<void>()
      const app = HttpRouter.empty.pipe(
        HttpRouter.get("/die", Effect.die("broken")),
        HttpRouter.get(
          "/held",
          Effect.zipRight(Deferred.succeed(entered, undefined), Deferred.await(release)).pipe(
            Effect.as(HttpServerResponse.text("held"))
          )
        )
      )
      const { closed, ended, port } = yield* serving(app, "terminate")
      const held = yield* Effect.fork(textOf(port, "/held"))
      yield* Deferred.await(entered)
      yield* Effect.promise(() => fetch(`http://127.0.0.1:${port}/die`))
      const interrupted = yield* Effect.fork(closed)
      yield* Effect.repeat(Effect.promise(() => isRefused(port)), { until: (refused) => refused })
      yield* Deferred.succeed(release, undefined)
      assert.strictEqual(yield* Fiber.join(held), "held")
      yield* Fiber.join(interrupted)
      const exit = yield* ended
      assert.isTrue(Exit.isFailure(exit))
      if (Exit.isFailure(exit)) {
        assert.deepStrictEqual([...Cause.failures(exit.cause)].map(({ _tag }) => _tag), ["DefectLimitExceeded"])
      }
    }))
})

const textOf = (port: number, path: string): Effect.Effect<string> =>
  Effect.promise(() => fetch(`http://127.0.0.1:${port}${path}`).then((response) => response.text()))

const isRefused = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = Net.connect(port, "127.0.0.1", () => {
      socket.destroy()
      resolve(false)
    })
    socket.on("error", () => resolve(true))
  })
