import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as HttpApp from "@effect/platform/HttpApp"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServer from "@effect/platform/HttpServer"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerRespondable from "@effect/platform/HttpServerRespondable"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as Multipart from "@effect/platform/Multipart"
import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import * as DefectBoundary from "effect-holdfast/DefectBoundary"
import type { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as TransactionalRef from "effect-holdfast/TransactionalRef"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as HashMap from "effect/HashMap"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Metric from "effect/Metric"
import type * as MetricState from "effect/MetricState"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import * as TestServices from "effect/TestServices"
import { spawn } from "node:child_process"
import { createReadStream } from "node:fs"
import * as Http from "node:http"
import * as Net from "node:net"
import { Readable } from "node:stream"
import { bundled } from "./support/programs.js"

// -----------------------------------------------------------------------------
// servers and clients
// -----------------------------------------------------------------------------

/** A server on the loopback that lasts as long as the scope. */
const listening = Effect.map(
  Layer.build(NodeHttpServer.layer(() => Http.createServer(), { port: 0, host: "127.0.0.1" })),
  (context) => Context.get(context, HttpServer.HttpServer)
)

const portOf = ({ address }: HttpServer.HttpServer): number => address._tag === "TcpAddress" ? address.port : 0

const serving = <E>(app: HttpApp.Default<E, Scope.Scope>) =>
  Effect.gen(function*() {
    const server = yield* listening
    yield* server.serve(app)
    return portOf(server)
  })

interface Reply {
  readonly status: number
  readonly headers: Http.IncomingHttpHeaders
  readonly body: string
  /** The whole answer, as it came. */
  readonly raw: string
  readonly connection: number | undefined
}

class Failed extends Data.TaggedError("Failed")<{ readonly code: string }> {}

const failed = (error: NodeJS.ErrnoException) => new Failed({ code: error.code ?? error.message })

const request = (port: number, path: string, options: Http.RequestOptions = {}): Effect.Effect<Reply, Failed> =>
  Effect.async((resume) => {
    const sent = Http.request({ host: "127.0.0.1", port, path, agent: false, ...options }, (response) => {
      const chunks: Array<Buffer> = []
      const connection = response.socket.localPort
      response.on("data", (chunk: Buffer) => chunks.push(chunk))
      response.on("error", (error: NodeJS.ErrnoException) => resume(failed(error)))
      response.on("end", () => {
        const body = Buffer.concat(chunks).toString()
        const { headers, rawHeaders, statusCode, statusMessage } = response
        resume(Effect.succeed({
          status: statusCode!,
          headers,
          body,
          raw: [statusMessage, ...rawHeaders, body].join("\n"),
          connection
        }))
      })
    })
    sent.on("error", (error: NodeJS.ErrnoException) => resume(failed(error)))
    sent.end()
    return Effect.sync(() => sent.destroy())
  })

const connecting = (port: number) =>
  Effect.acquireRelease(
    Effect.async<Net.Socket>((resume) => {
      const socket = Net.connect(port, "127.0.0.1", () => resume(Effect.succeed(socket)))
      socket.on("error", () => {})
    }),
    (socket) => Effect.sync(() => socket.destroy())
  )

// -----------------------------------------------------------------------------
// what the operator sees
// -----------------------------------------------------------------------------

interface Logged {
  readonly level: string
  readonly message: unknown
  readonly cause: Cause.Cause<unknown>
  readonly annotations: Record<string, unknown>
}

const withLogs = <A, E, R>(f: (logs: ReadonlyArray<Logged>) => Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.suspend(() => {
    const logs: Array<Logged> = []
    const logger = Logger.make(({ annotations, cause, logLevel, message }) => {
      logs.push({
        level: logLevel.label,
        message,
        cause,
        annotations: Object.fromEntries(HashMap.entries(annotations))
      })
    })
    return Effect.provide(f(logs), Logger.replace(Logger.defaultLogger, logger))
  })

const errorsIn = (logs: ReadonlyArray<Logged>) => logs.filter(({ level }) => level === LogLevel.Error.label)

/** All that comes until the connection ends, for requests that are sent at once. */
const pipelined = (port: number, ...paths: ReadonlyArray<string>): Effect.Effect<string> =>
  Effect.async((resume) => {
    let received = ""
    const socket = Net.connect(port, "127.0.0.1")
    socket.on("data", (data) => received += data.toString())
    socket.on("error", () => {})
    socket.on("close", () => resume(Effect.succeed(received)))
    socket.write(paths.map((path) => `GET ${path} HTTP/1.1\r\nhost: a\r\n\r\n`).join(""))
  })

/** How many defects were counted, by place, since the beginning. */
const counts: Effect.Effect<Record<string, number>> = Effect.map(
  Metric.snapshot,
  (pairs) =>
    Object.fromEntries(
      pairs.flatMap(({ metricKey, metricState }) =>
        metricKey.name === "holdfast_defect_boundary_defects_total"
          ? [[
            Array.from(metricKey.tags).find(({ key }) => key === "place")?.value,
            (metricState as MetricState.MetricState.Counter<number>).count
          ]]
          : []
      )
    )
)

const counted = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const before = yield* counts
    yield* effect
    const after = yield* counts
    return Object.fromEntries(
      Object.entries(after).map(([place, n]) => [place, n - (before[place] ?? 0)]).filter(([, n]) => n !== 0)
    )
  })

const eventually = <E, R>(holds: Effect.Effect<boolean, E, R>) =>
  Effect.repeat(holds, { until: (held) => held, schedule: Schedule.spaced("2 millis") }).pipe(
    Effect.timeout("30 seconds"),
    TestServices.provideLive
  )

const ok = HttpServerResponse.text("ok")

// -----------------------------------------------------------------------------
// isolate
// -----------------------------------------------------------------------------

describe("D1: a defect behind isolate", () => {
  const secret = "the-password-is-swordfish"

  const ways: Record<string, HttpApp.Default<string>> = {
    "a defect": Effect.die(new Error(secret)),
    "a defect that is not an Error": Effect.die({ secret }),
    "a throw": Effect.sync(() => {
      throw new TypeError(secret)
    }),
    "a throw instead of an effect": Effect.suspend((): HttpApp.Default => {
      throw new TypeError(secret)
    }),
    "a promise that rejects": Effect.promise(() => Promise.reject(new Error(secret))),
    "a defect in cleaning up after a failure": Effect.ensuring(Effect.fail("no"), Effect.die(new Error(secret))),
    "a defect in cleaning up after success": Effect.ensuring(ok, Effect.die(new Error(secret))),
    "a defect in one of several fibers": Effect.as(
      Effect.all([Effect.die(new Error(secret)), Effect.sleep("1 minute")].map(Effect.interruptible), {
        concurrency: "unbounded"
      }),
      HttpServerResponse.empty()
    ),
    "a defect under a time limit": Effect.timeoutTo(Effect.die(new Error(secret)), {
      duration: "1 minute",
      onSuccess: () => HttpServerResponse.empty(),
      onTimeout: () => HttpServerResponse.empty()
    })
  }

  for (const [way, app] of Object.entries(ways)) {
    it.scopedLive(`(${way}) is a 500 with an incident id and nothing else, and one log with everything`, () =>
      withLogs((logs) =>
        Effect.gen(function*() {
          const port = yield* serving(DefectBoundary.isolate(app))
          let reply!: Reply
          const counts = yield* counted(Effect.map(request(port, "/orders?token=hunter2"), (it) => {
            reply = it
          }))
          assert.strictEqual(reply.status, 500)
          assert.strictEqual(reply.headers["content-type"], "application/problem+json")
          const problem = JSON.parse(reply.body) as Record<string, unknown>
          const { incident, instance } = problem
          assert.deepStrictEqual(problem, {
            type: "about:blank",
            title: "Internal Server Error",
            status: 500,
            instance,
            incident
          })
          assert.match(String(incident), /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/)
          assert.strictEqual(instance, `urn:uuid:${String(incident)}`)
          assert.notInclude(reply.raw, "swordfish")
          assert.notMatch(reply.raw, /\bat .*:\d+|Error:/)

          assert.lengthOf(errorsIn(logs), 1)
          const [{ annotations, cause, message }] = errorsIn(logs) as [Logged]
          assert.deepStrictEqual(message, ["a defect in a request handler"])
          assert.include(
            JSON.stringify(
              Array.from(Cause.defects(cause), (defect) => defect instanceof Error ? defect.message : defect)
            ),
            secret
          )
          assert.deepStrictEqual(annotations, { incident, "http.method": "GET", "http.url": "/orders" })
          assert.deepStrictEqual(counts, { handler: 1 })
        })
      ))
  }

  it.scopedLive("leaves the connection and all other handlers alone", () =>
    withLogs(() =>
      Effect.gen(function*() {
        const entered = yield* Deferred.make<void>()
        const release = yield* Deferred.make<void>()
        const app = HttpRouter.empty.pipe(
          HttpRouter.get(
            "/slow",
            Effect.zipRight(Deferred.succeed(entered, undefined), Effect.as(Deferred.await(release), ok))
          ),
          HttpRouter.get("/die", Effect.die("broken")),
          HttpRouter.get("/ok", ok)
        )
        const port = yield* serving(DefectBoundary.isolate(app))
        const agent = new Http.Agent({ keepAlive: true, maxSockets: 1 })
        yield* Effect.addFinalizer(() => Effect.sync(() => agent.destroy()))
        const slow = yield* Effect.fork(request(port, "/slow"))
        yield* Deferred.await(entered)
        const died = yield* request(port, "/die", { agent })
        const next = yield* request(port, "/ok", { agent })
        assert.deepStrictEqual([died.status, next.status], [500, 200])
        assert.strictEqual(next.connection, died.connection)
        yield* Deferred.succeed(release, undefined)
        assert.strictEqual((yield* Fiber.join(slow)).body, "ok")
      })
    ))

  it.scopedLive("has no body for HEAD, but the same type", () =>
    withLogs(() =>
      Effect.gen(function*() {
        const port = yield* serving(DefectBoundary.isolate(Effect.die("broken")))
        const { body, headers, status } = yield* request(port, "/", { method: "HEAD" })
        assert.deepStrictEqual([status, headers["content-type"], body], [500, "application/problem+json", ""])
      })
    ))

  it.scopedLive("is answered even if the logger is broken, too", () =>
    Effect.gen(function*() {
      const port = yield* serving(DefectBoundary.isolate(Effect.die("broken")))
      const { headers, status } = yield* request(port, "/")
      assert.deepStrictEqual([status, headers["content-type"]], [500, "application/problem+json"])
    }).pipe(
      Effect.provide(Logger.replace(
        Logger.defaultLogger,
        Logger.make(() => {
          throw new Error("no log")
        })
      ))
    ))

  it.scopedLive("is logged once if there are two boundaries around the app", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        const app = HttpRouter.empty.pipe(HttpRouter.get("/die", Effect.die("broken")), HttpRouter.get("/ok", ok))
        const port = yield* serving(DefectBoundary.isolate(DefectBoundary.isolate(app)))
        assert.deepStrictEqual(yield* counted(request(port, "/die")), { handler: 1 })
        assert.lengthOf(errorsIn(logs), 1)
        assert.strictEqual((yield* request(port, "/ok")).body, "ok")
      })
    ))

  it.scopedLive("is recorded in the request's span by its incident", () =>
    withLogs(() =>
      Effect.gen(function*() {
        let attributes: ReadonlyMap<string, unknown> | undefined
        const port = yield* serving(Effect.zipLeft(
          DefectBoundary.isolate(Effect.die("broken")),
          Effect.map(Effect.currentSpan, (span) => {
            attributes = span.attributes
          })
        ))
        const { body } = yield* request(port, "/")
        assert.strictEqual(attributes?.get("incident"), (JSON.parse(body) as { incident: string }).incident)
      })
    ))
})

describe("D1: no defect", () => {
  class Teapot extends Error implements HttpServerRespondable.Respondable {
    [HttpServerRespondable.symbol]() {
      return HttpServerResponse.text("short and stout", { status: 418 })
    }
  }

  const answers: Record<string, readonly [app: HttpApp.Default<unknown>, status: number]> = {
    "a success": [ok, 200],
    "a typed failure": [Effect.fail("no"), 500],
    "a typed failure with a response of its own": [Effect.fail(new Teapot()), 418],
    "a route that does not exist": [HttpRouter.empty, 404],
    "a response that is thrown": [Effect.die(HttpServerResponse.text("moved", { status: 410 })), 410],
    "a defect with a response of its own": [Effect.die(new Teapot()), 418],
    "a handler that interrupts itself": [Effect.interrupt, 503],
    "a failure of one of several fibers": [
      Effect.as(
        Effect.all([Effect.fail(new Teapot()), Effect.never].map(Effect.interruptible), { concurrency: "unbounded" }),
        HttpServerResponse.empty()
      ),
      418
    ]
  }

  for (const [what, [app, status]] of Object.entries(answers)) {
    it.scopedLive(`is ${what}, which is answered as without a boundary`, () =>
      withLogs((logs) =>
        Effect.gen(function*() {
          const bare = yield* serving(app)
          const port = yield* serving(DefectBoundary.isolate(app))
          const expected = yield* request(bare, "/")
          const counts = yield* counted(Effect.map(request(port, "/"), ({ body, headers, status }) => {
            assert.deepStrictEqual([status, body], [expected.status, expected.body])
            assert.strictEqual(headers["content-type"], expected.headers["content-type"])
          }))
          assert.strictEqual(expected.status, status)
          assert.deepStrictEqual(counts, {})
          assert.lengthOf(errorsIn(logs), 0)
        })
      ))
  }

  class Broken extends Error implements HttpServerRespondable.Respondable {
    private readonly respond: () => Effect.Effect<HttpServerResponse.HttpServerResponse, unknown>
    constructor(respond: () => Effect.Effect<HttpServerResponse.HttpServerResponse, unknown>) {
      super("the first fault")
      this.respond = respond
    }
    [HttpServerRespondable.symbol]() {
      return this.respond()
    }
  }

  const broken: Record<string, () => Effect.Effect<HttpServerResponse.HttpServerResponse, unknown>> = {
    "fails": () => Effect.fail("the second fault"),
    "dies": () => Effect.die("the second fault"),
    "is not made, because making it throws": () => {
      throw new Error("the second fault")
    }
  }

  for (const [what, respond] of Object.entries(broken)) {
    for (const [kind, raised] of [["typed failure", Effect.fail], ["defect", Effect.die]] as const) {
      it.scopedLive(`is not a ${kind} whose own response ${what}: that is a defect, with an incident`, () =>
        withLogs((logs) =>
          Effect.gen(function*() {
            const port = yield* serving(DefectBoundary.isolate(raised(new Broken(respond))))
            const counts = yield* counted(Effect.map(request(port, "/"), ({ body, status }) => {
              assert.strictEqual(status, 500)
              assert.isString((JSON.parse(body) as { incident?: string }).incident)
            }))
            assert.deepStrictEqual(counts, { handler: 1 })
            assert.lengthOf(errorsIn(logs), 1)
          })
        ))
    }
  }

  const unsendable: Record<string, HttpServerResponse.HttpServerResponse> = {
    "a character that no header can carry": HttpServerResponse.setHeader(ok, "content-disposition", "filename=5€.txt"),
    "a header that has no name": HttpServerResponse.setHeader(ok, "", "a"),
    "a header without a value": HttpServerResponse.setHeader(ok, "x-user", undefined as never),
    "a status that is no status": HttpServerResponse.text("ok", { status: 1000 }),
    "a status that is too small": HttpServerResponse.text("ok", { status: 99 }),
    "a body that is an object": HttpServerResponse.raw({ name: "a" })
  }

  for (const [what, response] of Object.entries(unsendable)) {
    it.scopedLive(`is not a response with ${what}, with the boundary as a middleware`, () =>
      withLogs((logs) =>
        Effect.gen(function*() {
          const server = yield* listening
          yield* server.serve(Effect.succeed(response), DefectBoundary.isolate)
          const counts = yield* counted(Effect.map(request(portOf(server), "/"), ({ body, status }) => {
            assert.strictEqual(status, 500)
            assert.isString((JSON.parse(body) as { incident?: string }).incident)
          }))
          assert.deepStrictEqual(counts, { handler: 1 })
          assert.lengthOf(errorsIn(logs), 1)
        })
      ))

    for (
      const [where, app] of [
        ["of the app", Effect.succeed(response)],
        [
          "of a handler that the app has added",
          Effect.as(HttpApp.appendPreResponseHandler(() => Effect.succeed(response)), ok)
        ]
      ] as const
    ) {
      it.scopedLive(`is not a response ${where} with ${what}: that is a defect, with an incident`, () =>
        withLogs((logs) =>
          Effect.gen(function*() {
            const port = yield* serving(DefectBoundary.isolate(app))
            const counts = yield* counted(Effect.map(request(port, "/"), ({ body, status }) => {
              assert.strictEqual(status, 500)
              assert.isString((JSON.parse(body) as { incident?: string }).incident)
            }))
            assert.deepStrictEqual(counts, { handler: 1 })
            assert.lengthOf(errorsIn(logs), 1)
          })
        ))
    }
  }

  it.scopedLive("is not a file with a header that cannot be sent, and does not stay open", () =>
    withLogs(() =>
      Effect.gen(function*() {
        const file = createReadStream(import.meta.filename)
        const response = HttpServerResponse.raw(file, { headers: { "content-disposition": "filename=5€.txt" } })
        const port = yield* serving(DefectBoundary.isolate(Effect.succeed(response)))
        assert.strictEqual((yield* request(port, "/")).status, 500)
        assert.isTrue(file.destroyed)
      })
    ))

  it.scopedLive("is a body that is not sent, in answer to HEAD", () =>
    Effect.gen(function*() {
      const port = yield* serving(DefectBoundary.isolate(Effect.succeed(HttpServerResponse.raw({ name: "a" }))))
      assert.strictEqual((yield* request(port, "/", { method: "HEAD" })).status, 200)
    }))

  it.effect("is a body that only a handler for web requests can send", () =>
    Effect.gen(function*() {
      const { handler } = HttpApp.toWebHandlerLayer(
        DefectBoundary.isolate(Effect.succeed(HttpServerResponse.raw(new Blob(["text"])))),
        Layer.empty
      )
      const response = yield* Effect.promise(() => handler(new Request("http://localhost/")))
      assert.deepStrictEqual([response.status, yield* Effect.promise(() => response.text())], [200, "text"])
    }))

  for (
    const body of [null, "text", new Uint8Array([116]), Readable.from(["text"])] as const
  ) {
    it.scopedLive(`is a raw body of ${body === null ? "nothing" : body.constructor.name}`, () =>
      Effect.gen(function*() {
        const port = yield* serving(DefectBoundary.isolate(Effect.succeed(HttpServerResponse.raw(body))))
        assert.strictEqual((yield* request(port, "/")).status, 200)
      }))
  }

  it.scopedLive("makes the response of an error's own once, and leaves the error to those around the boundary", () =>
    Effect.gen(function*() {
      let made = 0
      const teapot = new Broken(() => Effect.sync(() => (made++, HttpServerResponse.empty({ status: 418 }))))
      const failing = DefectBoundary.isolate(Effect.fail(teapot))
      assert.strictEqual((yield* request(yield* serving(failing), "/")).status, 418)
      assert.strictEqual(made, 1)
      const caught = Effect.catchAll(failing, (error) => HttpServerResponse.text(error.message))
      assert.strictEqual((yield* request(yield* serving(caught), "/")).body, "the first fault")
    }))

  it.scopedLive("is a multipart body that cannot be read: it is the client's fault", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        const app = Effect.gen(function*() {
          const request = yield* HttpServerRequest.HttpServerRequest
          const parts = Stream.runForEach(request.multipartStream, (part) =>
            part._tag === "File" ? Stream.runDrain(part.content) : Effect.void)
          yield* Effect.orDie(parts)
          return yield* ok
        })
        const port = yield* serving(DefectBoundary.isolate(app))
        const part = "--b\r\ncontent-disposition: form-data; name=x; filename=f\r\n\r\n"
        const bodies: ReadonlyArray<readonly [type: string, body: string, status: number]> = [
          ["multipart/form-data", part, 400],
          ["multipart/form-data; boundary=b", `${part}cut off`, 400]
        ]
        const counts = yield* counted(Effect.forEach(bodies, ([type, body, status]) =>
          Effect.gen(function*() {
            const response = yield* Effect.promise(() =>
              fetch(`http://127.0.0.1:${port}/`, { method: "POST", body, headers: { "content-type": type } })
            )
            assert.strictEqual(response.status, status, body.slice(0, 100))
            assert.strictEqual(
              ((yield* Effect.promise(() =>
                response.json()
              )) as { status: number }).status,
              status
            )
          })))
        assert.deepStrictEqual(counts, {})
        assert.lengthOf(errorsIn(logs), 0)
      })
    ))

  it.effect("is a multipart body that is too large; one that the server cannot store is a defect", () =>
    withLogs(() =>
      Effect.gen(function*() {
        const runtime = yield* Effect.runtime<never>()
        const answerTo = (defect: unknown) =>
          Effect.promise(async () => {
            const handler = HttpApp.toWebHandlerRuntime(runtime)(DefectBoundary.isolate(Effect.die(defect)))
            const response = await handler(new Request("http://localhost/"))
            const { status, title } = (await response.json()) as { readonly status: number; readonly title: string }
            assert.strictEqual(response.status, status)
            return [status, title] as const
          })
        const statusFor = (reason: Multipart.MultipartError["reason"], cause: unknown = undefined) =>
          Effect.map(answerTo(new Multipart.MultipartError({ reason, cause })), ([status, title]) => {
            const titles: Record<number, string> = {
              400: "Bad Request",
              413: "Content Too Large",
              500: "Internal Server Error"
            }
            assert.strictEqual(title, titles[status])
            return status
          })
        for (const reason of ["BodyTooLarge", "FieldTooLarge", "FileTooLarge", "TooManyParts"] as const) {
          assert.strictEqual(yield* statusFor(reason), 413)
        }
        assert.strictEqual(yield* statusFor("Parse"), 400)
        assert.strictEqual(yield* statusFor("InternalError", { _tag: "ReachedLimit" }), 413)
        assert.strictEqual(yield* statusFor("InternalError", { _tag: "EndNotReached" }), 400)
        assert.strictEqual(yield* statusFor("InternalError", new Error("no space left")), 500)

        const context = { _tag: "EndNotReached" }
        const unheard = Object.assign(new Error("Unhandled error."), { code: "ERR_UNHANDLED_ERROR", context })
        assert.deepStrictEqual(yield* answerTo(unheard), [400, "Bad Request"])
        for (
          const other of [{ context }, { code: "ERR_OTHER", context }, { code: "ERR_UNHANDLED_ERROR" }, null, undefined]
        ) {
          assert.strictEqual((yield* answerTo(other))[0], 500)
        }
      })
    ))

  it.scopedLive("is a client that goes away, whose handler is interrupted", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        const entered = yield* Deferred.make<void>()
        const left = yield* Deferred.make<Exit.Exit<unknown, unknown>>()
        const handler = Effect.zipRight(Deferred.succeed(entered, undefined), Effect.never).pipe(
          Effect.onExit((exit) => Deferred.succeed(left, exit))
        )
        const app = HttpRouter.get(HttpRouter.empty, "/", handler)
        const port = yield* serving(DefectBoundary.isolate(app))
        const counts = yield* counted(Effect.gen(function*() {
          const client = yield* Effect.fork(request(port, "/"))
          yield* Deferred.await(entered)
          yield* Fiber.interrupt(client)
          assert.isTrue(Exit.isInterrupted(yield* Deferred.await(left)))
        }))
        assert.deepStrictEqual(counts, {})
        assert.lengthOf(errorsIn(logs), 0)
      })
    ))

  it.scopedLive("is a client that goes away; an error in cleaning up after it is a defect", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        const entered = yield* Deferred.make<void>()
        const handler = Effect.zipRight(Deferred.succeed(entered, undefined), Effect.never).pipe(
          Effect.ensuring(Effect.die("broken"))
        )
        const port = yield* serving(DefectBoundary.isolate(HttpRouter.get(HttpRouter.empty, "/", handler)))
        const client = yield* Effect.fork(request(port, "/"))
        yield* Deferred.await(entered)
        yield* Fiber.interrupt(client)
        yield* eventually(Effect.sync(() => errorsIn(logs).length === 1))
      })
    ))
})

describe("a boundary, besides the response", () => {
  it.scopedLive("logs and counts a defect in the stream of a response, and cuts the response off", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        const stream = Stream.concat(Stream.make(new Uint8Array(5)), Stream.die(new Error("broken")))
        const port = yield* serving(DefectBoundary.isolate(Effect.succeed(HttpServerResponse.stream(stream))))
        const counts = yield* counted(Effect.map(Effect.exit(request(port, "/")), (exit) =>
          assert.isTrue(Exit.isFailure(exit), "the client is not to take it for whole")))
        assert.deepStrictEqual(counts, { stream: 1 })
        assert.lengthOf(errorsIn(logs), 1)
      })
    ))

  const finalized: Record<string, Stream.Stream<Uint8Array>> = {
    "its finalizer": Stream.ensuring(Stream.make(new Uint8Array(1)), Effect.die(new Error("broken"))),
    "the release of its resource": Stream.acquireRelease(
      Effect.succeed(new Uint8Array(1)),
      () => Effect.die(new Error("broken"))
    )
  }
  for (const [where, stream] of Object.entries(finalized)) {
    it.scopedLive(`logs and counts a defect of a stream in ${where}, and cuts the response off`, () =>
      withLogs((logs) =>
        Effect.gen(function*() {
          const port = yield* serving(DefectBoundary.isolate(Effect.succeed(HttpServerResponse.stream(stream))))
          const counts = yield* counted(
            Effect.map(Effect.exit(request(port, "/")), (exit) => assert.isTrue(Exit.isFailure(exit)))
          )
          assert.deepStrictEqual(counts, { stream: 1 })
          assert.lengthOf(errorsIn(logs), 1)
        })
      ))
  }

  it.scopedLive("lets the responses before that of a broken stream reach a client that pipelines its requests", () =>
    withLogs(() =>
      Effect.gen(function*() {
        const isBroken = yield* Deferred.make<void>()
        const slow = Effect.as(Deferred.await(isBroken), HttpServerResponse.text("slow"))
        const stream = Stream.concat(Stream.make(new Uint8Array(5)), Stream.die(new Error("broken"))).pipe(
          Stream.ensuring(Deferred.succeed(isBroken, undefined))
        )
        const app = HttpRouter.empty.pipe(
          HttpRouter.get("/slow", slow),
          HttpRouter.get("/broken", HttpServerResponse.stream(stream))
        )
        const port = yield* serving(DefectBoundary.isolate(app))
        const received = yield* pipelined(port, "/slow", "/broken")
        assert.match(received, /^HTTP\/1\.1 200 OK\r\n[^]*\r\n\r\nslow/)
      })
    ))

  it.effect("gives a defect in a stream to its reader if there is no socket to be cut off", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        const app = Effect.succeed(HttpServerResponse.stream(Stream.die(new Error("broken"))))
        const handler = HttpApp.toWebHandlerRuntime(yield* Effect.runtime<never>())(DefectBoundary.isolate(app))
        const response = yield* Effect.promise(() => handler(new Request("http://localhost/")))
        const reason = yield* Effect.promise(() => response.text().catch(String))
        assert.include(reason, "broken")
        assert.notInclude(reason, "TypeError")
        assert.lengthOf(errorsIn(logs), 1)
      })
    ))

  it.scopedLive("does not count a failing stream as a defect, and keeps the head of a stream that ends", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        const failing = HttpServerResponse.stream(Stream.fail("no"))
        const whole = HttpServerResponse.stream(Stream.make(new TextEncoder().encode("whole")), {
          contentType: "text/plain",
          contentLength: 5,
          headers: { "x-own": "kept" },
          status: 203
        })
        const app = HttpRouter.empty.pipe(HttpRouter.get("/failing", failing), HttpRouter.get("/whole", whole))
        const port = yield* serving(DefectBoundary.isolate(app))
        assert.deepStrictEqual(yield* counted(Effect.exit(request(port, "/failing"))), {})
        assert.lengthOf(errorsIn(logs), 0)
        const { body, headers, status } = yield* request(port, "/whole")
        assert.deepStrictEqual(
          [status, body, headers["content-type"], headers["content-length"], headers["x-own"]],
          [203, "whole", "text/plain", "5", "kept"]
        )
      })
    ))

  const forks: Record<string, (dying: Effect.Effect<never>) => HttpApp.Default<never, Scope.Scope>> = {
    "forkScoped": (dying) => Effect.zipRight(Effect.flatMap(Effect.forkScoped(dying), Fiber.await), ok),
    "forkIn": (dying) =>
      Effect.zipRight(
        Effect.flatMap(Effect.flatMap(Effect.scope, (scope) => Effect.forkIn(dying, scope)), Fiber.await),
        ok
      )
  }
  for (const [name, handler] of Object.entries(forks)) {
    it.scopedLive(`D3: logs and counts a defect in a fiber that ${name} put into the request's scope`, () =>
      withLogs((logs) =>
        Effect.gen(function*() {
          const port = yield* serving(DefectBoundary.isolate(handler(Effect.die(new Error("broken")))))
          assert.deepStrictEqual(yield* counted(request(port, "/")), { fiber: 1 })
          const [{ annotations }] = errorsIn(logs) as [Logged]
          assert.strictEqual(annotations["http.url"], "/")
          assert.lengthOf(errorsIn(logs), 1)
        })
      ))
  }

  it.scopedLive("D3: counts once a defect that such a fiber passes on to the handler", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        const port = yield* serving(DefectBoundary.isolate(
          Effect.flatMap(Effect.forkScoped(Effect.die(new Error("broken"))), Fiber.join)
        ))
        let reply!: Reply
        const counts = yield* counted(Effect.map(request(port, "/"), (it) => {
          reply = it
        }))
        assert.strictEqual(reply.status, 500)
        assert.deepStrictEqual(counts, { fiber: 1 })
        assert.deepStrictEqual(
          errorsIn(logs).map(({ annotations }) => annotations["incident"]),
          [(JSON.parse(reply.body) as { incident: string }).incident]
        )
      })
    ))

  it.scopedLive("D3: counts each of several defects that are the same text", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        const dying = Effect.forkScoped(Effect.suspend(() => Effect.die("unknown state")))
        const app = Effect.forEach([dying, dying, dying], Effect.flatMap(Fiber.await))
        const port = yield* serving(DefectBoundary.isolate(Effect.zipRight(app, ok)))
        assert.deepStrictEqual(yield* counted(request(port, "/")), { fiber: 3 })
        assert.strictEqual(new Set(errorsIn(logs).map(({ annotations }) => annotations["incident"])).size, 3)
        const joined = Effect.flatMap(dying, Fiber.join)
        const other = yield* serving(DefectBoundary.isolate(Effect.zipRight(joined, ok)))
        assert.deepStrictEqual(yield* counted(request(other, "/")), { fiber: 1 })
      })
    ))

  it.scopedLive("D3: is recorded in the request's span, though the fiber was forked in another span", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        let attributes: ReadonlyMap<string, unknown> | undefined
        const dying = Effect.withSpan(Effect.forkScoped(Effect.die("broken")), "start the worker")
        const port = yield* serving(Effect.zipLeft(
          DefectBoundary.isolate(Effect.zipRight(Effect.flatMap(dying, Fiber.await), ok)),
          Effect.map(Effect.currentSpan, (span) => {
            attributes = span.attributes
          })
        ))
        yield* request(port, "/")
        assert.strictEqual(attributes?.get("incident"), errorsIn(logs)[0]!.annotations["incident"])
      })
    ))

  it.scopedLive("D3: counts once a defect that is seen again together with another", () =>
    withLogs(() =>
      Effect.gen(function*() {
        const known = new Error("broken")
        const port = yield* serving(DefectBoundary.isolate(
          Effect.flatMap(Effect.forkScoped(Effect.die(known)), Fiber.await).pipe(
            Effect.zipRight(Effect.failCause(Cause.parallel(Cause.die("another"), Cause.die(known))))
          )
        ))
        assert.deepStrictEqual(yield* counted(request(port, "/")), { fiber: 1 })
      })
    ))

  it.scopedLive("D3: does not count the end of a fiber without a defect", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        const ends = [Effect.void, Effect.fail("no"), Effect.interrupt, Effect.die(HttpServerResponse.empty())]
        const app = Effect.forEach(ends, (end) => Effect.flatMap(Effect.forkScoped(end), Fiber.await))
        const port = yield* serving(DefectBoundary.isolate(Effect.zipRight(app, ok)))
        assert.deepStrictEqual(yield* counted(request(port, "/")), {})
        assert.lengthOf(errorsIn(logs), 0)
      })
    ))

  it.scopedLive("T10: does not count a defect that unwinds a transaction which is over, but counts it outside", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        const a = yield* TransactionalRef.make(0, { name: "a" })
        const b = yield* TransactionalRef.make(0, { name: "b" })
        const kept: Array<Fiber.Fiber<void>> = []
        const dies = (end: Effect.Effect<void>, scope: Scope.Scope) =>
          Effect.forkIn(end, scope).pipe(
            Effect.tap((fiber) => Effect.sync(() => kept.push(fiber))),
            Effect.flatMap(Fiber.await)
          )
        const increment = (ref: typeof a) => TransactionalRef.retryDeadlock(TransactionalRef.update(ref, (n) => n + 1))
        const unwinding = Effect.fn(function*(scope: Scope.Scope) {
          const held = yield* Deferred.make<void>()
          const other = yield* Effect.fork(
            TransactionalRef.transaction(b, () => Effect.zipRight(Deferred.await(held), increment(a)))
          )
          const exit = yield* Effect.exit(TransactionalRef.transaction(a, () =>
            Deferred.succeed(held, undefined).pipe(
              Effect.zipRight(Effect.repeatN(Effect.yieldNow(), 20)),
              Effect.zipRight(dies(increment(b), scope))
            )))
          assert.match(String(exit), /TransactionDeadlock/)
          yield* Fiber.join(other)
        })
        const ways: Record<string, (scope: Scope.Scope) => Effect.Effect<unknown, unknown>> = {
          "/unwinding": unwinding,
          "/joined-later": (scope) => dies(Fiber.join(kept[0]!), scope),
          "/finalizer": (scope) =>
            TransactionalRef.transaction(a, () => Effect.addFinalizer(() => dies(increment(a), scope))),
          "/own": (scope) => dies(Effect.die(new TransactionalRef.TransactionConflict({ name: "a" })), scope)
        }
        const port = yield* serving(DefectBoundary.isolate(
          Effect.flatMap(HttpServerRequest.HttpServerRequest, ({ url }) =>
            Effect.zipRight(Effect.flatMap(Effect.scope, ways[url]!), ok))
        ))
        assert.deepStrictEqual(yield* counted(request(port, "/unwinding")), {})
        assert.lengthOf(errorsIn(logs), 0)
        for (const url of ["/joined-later", "/finalizer", "/own"]) {
          assert.deepStrictEqual(yield* counted(request(port, url)), { fiber: 1 }, url)
        }
      })
    ))

  it.scopedLive("D3: does not take a fiber that was forked before one in the scope ended for that one", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        const app = Effect.gen(function*() {
          const cue = yield* Deferred.make<void>()
          const scoped = yield* Effect.forkScoped(Deferred.await(cue))
          const own = yield* Effect.fork(Effect.zipRight(Effect.sleep("5 millis"), Effect.die("handled")))
          yield* Deferred.succeed(cue, undefined)
          yield* Fiber.await(scoped)
          yield* Fiber.await(own)
          return yield* ok
        })
        const port = yield* serving(DefectBoundary.isolate(app))
        assert.deepStrictEqual(yield* counted(request(port, "/")), {})
        assert.lengthOf(errorsIn(logs), 0)
      })
    ))

  it.scopedLive("D3: does not take a fiber that was forked before the scope was used for one in it", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        const app = Effect.gen(function*() {
          const own = yield* Effect.fork(Effect.die("handled"))
          yield* Effect.acquireRelease(Effect.void, () => Effect.void)
          yield* Effect.catchAllDefect(Fiber.join(own), () => Effect.void)
          return yield* ok
        })
        const port = yield* serving(DefectBoundary.isolate(app))
        assert.deepStrictEqual(yield* counted(request(port, "/")), {})
        assert.lengthOf(errorsIn(logs), 0)
      })
    ))

  it.scopedLive("counts a defect in a response handler that the app has added as the app's", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        for (
          const broken of [() => Effect.die("broken"), (): Effect.Effect<never> => {
            throw new Error("broken")
          }]
        ) {
          const port = yield* serving(
            DefectBoundary.isolate(Effect.zipRight(HttpApp.appendPreResponseHandler(broken), ok))
          )
          let reply!: Reply
          const counts = yield* counted(Effect.map(request(port, "/"), (it) => {
            reply = it
          }))
          assert.deepStrictEqual([reply.status, reply.headers["content-type"]], [500, "application/problem+json"])
          assert.deepStrictEqual(counts, { handler: 1 })
        }
        assert.lengthOf(errorsIn(logs), 2)
        const kept = yield* serving(DefectBoundary.isolate(Effect.zipRight(
          HttpApp.appendPreResponseHandler((_, response) =>
            Effect.succeed(HttpServerResponse.setHeader(response, "x-own", "kept"))
          ),
          ok
        )))
        assert.strictEqual((yield* request(kept, "/")).headers["x-own"], "kept")
      })
    ))

  it.scopedLive("D3: leaves it to a closed scope to interrupt the fibers that are forked in it", () =>
    Effect.gen(function*() {
      const scopes: Array<Scope.Scope> = []
      const app = Effect.flatMap(Effect.scope, (scope) => Effect.zipRight(Effect.sync(() => scopes.push(scope)), ok))
      const port = yield* serving(DefectBoundary.isolate(app))
      yield* request(port, "/")
      const late = Effect.flatMap(Effect.forkIn(Effect.never, scopes[0]!), Fiber.await)
      assert.isTrue(Exit.isInterrupted(yield* Effect.timeout(late, "1 second")))
    }))

  it.scopedLive("D3: leaves fibers that the handler itself waits for to the handler", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        const dying = Effect.die(new Error("broken"))
        const handled = [
          Effect.exit(Effect.flatMap(Effect.fork(dying), Fiber.join)),
          Effect.exit(Effect.all([dying, Effect.void], { concurrency: "unbounded" })),
          Effect.exit(Effect.interruptible(Effect.timeout(dying, "1 minute"))),
          // The documentation says that the boundary does not see these.
          Effect.flatMap(Effect.forkDaemon(dying), Fiber.await)
        ]
        const port = yield* serving(DefectBoundary.isolate(Effect.zipRight(Effect.all(handled), ok)))
        assert.deepStrictEqual(yield* counted(request(port, "/")), {})
        assert.lengthOf(errorsIn(logs), 0)
      })
    ))

  it.scopedLive("D3: keeps the request's scope the same object", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const scopes: Array<Scope.Scope> = []
      const port = yield* serving(Effect.gen(function*() {
        scopes.push(yield* Effect.scope)
        return yield* DefectBoundary.isolate(Effect.gen(function*() {
          scopes.push(yield* Effect.scope)
          yield* Effect.addFinalizer((exit) => Effect.sync(() => log.push(`finalized, ${exit._tag}`)))
          yield* Effect.forkScoped(
            Effect.onInterrupt(Effect.interruptible(Effect.never), () => Effect.sync(() => log.push("interrupted")))
          )
          yield* Effect.yieldNow()
          return yield* ok
        }))
      }))
      yield* request(port, "/")
      yield* eventually(Effect.sync(() => log.length === 2))
      assert.deepStrictEqual(log, ["interrupted", "finalized, Success"])
      assert.strictEqual(scopes[0], scopes[1])
    }))
})

// -----------------------------------------------------------------------------
// policies
// -----------------------------------------------------------------------------

describe("options", () => {
  const refused: ReadonlyArray<readonly [options: unknown, option: string]> = [
    [null, "options"],
    ["terminate", "options"],
    [[], "options"],
    [{ policy: "explode" }, "policy"],
    [{ policy: true }, "policy"],
    [{ policy: [] }, "policy"],
    [{ policy: { terminate: true } }, "policy"],
    [{ policy: { defects: 3, within: "1 second" } }, "policy"],
    [{ policy: null }, "policy"],
    [{ policy: {} }, "policy"],
    [{ policy: { terminateAfter: 3 } }, "policy"],
    [{ policy: { terminateAfter: null } }, "policy"],
    [{ policy: { terminateAfter: [] } }, "policy.terminateAfter.defects"],
    [{ policy: { terminateAfter: { defects: 0, within: "1 second" } } }, "policy.terminateAfter.defects"],
    [{ policy: { terminateAfter: { defects: 1.5, within: "1 second" } } }, "policy.terminateAfter.defects"],
    [{ policy: { terminateAfter: { defects: 10_001, within: "1 second" } } }, "policy.terminateAfter.defects"],
    [{ policy: { terminateAfter: { defects: 2, within: 0 } } }, "policy.terminateAfter.within"],
    [{ policy: { terminateAfter: { defects: 2, within: "soon" } } }, "policy.terminateAfter.within"],
    [{ policy: { terminateAfter: { defects: 2 } } }, "policy.terminateAfter.within"],
    [{ grace: -1 }, "grace"],
    [{ grace: NaN }, "grace"],
    [{ grace: "infinity" }, "grace"]
  ]
  for (const [options, option] of refused) {
    it.effect(`${JSON.stringify(options)} is refused by name`, () =>
      Effect.gen(function*() {
        const exit = yield* Effect.exit(DefectBoundary.make(options as DefectBoundary.Options))
        assert.isTrue(Exit.isFailure(exit))
        const error = Option.getOrThrow(Cause.failureOption((exit as Exit.Failure<never, InvalidOptions>).cause))
        assert.deepStrictEqual([error._tag, error.option], ["InvalidOptions", option])
        assert.match(error.message, /must be (?:"isolate"|a|at)/)
      }))
  }
})

/** A boundary whose app dies at `/die`. It has no socket, so that the test clock is its clock. */
const inMemory = (options: DefectBoundary.Options) =>
  Effect.gen(function*() {
    const boundary = yield* DefectBoundary.make(options)
    const cue = yield* Deferred.make<void>()
    const app = HttpRouter.empty.pipe(
      HttpRouter.get("/die", Effect.die("broken")),
      HttpRouter.get("/die/late", Effect.zipRight(Deferred.await(cue), Effect.die("broken late"))),
      HttpRouter.get("/late", Effect.zipRight(Deferred.await(cue), ok)),
      HttpRouter.get("/ok", ok)
    )
    const handler = HttpApp.toWebHandlerRuntime(yield* Effect.runtime<never>())(boundary.apply(app))
    const ended = yield* Effect.fork(Effect.flip(boundary.terminated))
    return {
      boundary,
      cue: Deferred.succeed(cue, undefined),
      ended,
      get: (path: string, socket?: object) =>
        Effect.promise(() => handler(Object.assign(new Request(`http://localhost${path}`), socket && { socket })))
    }
  })

/** Lets the event loop turn, so that the requests of `inMemory` go on. */
const settled = Effect.repeatN(Effect.promise(() => new Promise((resolve) => setImmediate(resolve))), 5)

describe("D2: a policy", () => {
  it.effect("of isolation never ends the server", () =>
    withLogs(() =>
      Effect.gen(function*() {
        const { get } = yield* inMemory({})
        yield* Effect.repeatN(get("/die"), 99)
        const { headers, status } = yield* get("/ok")
        assert.deepStrictEqual([status, headers.get("connection")], [200, null])
      })
    ))

  it.effect("of termination ends the server after the first defect", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        const { ended, get } = yield* inMemory({ policy: "terminate" })
        const response = yield* get("/die")
        assert.deepStrictEqual([response.status, response.headers.get("connection")], [500, "close"])
        const error = yield* Fiber.join(ended)
        const { incident } = (yield* Effect.promise(() => response.json())) as { readonly incident: string }
        assert.deepStrictEqual([error._tag, error.defects, error.incident], ["DefectLimitExceeded", 1, incident])
        assert.strictEqual(errorsIn(logs)[0]!.annotations["incident"], incident)
        assert.strictEqual(error.message, `the server ends after 1 defect; the last is incident ${incident}`)
      })
    ))

  it.effect("with a number and a time counts only defects within that time", () =>
    withLogs(() =>
      Effect.gen(function*() {
        const { ended, get } = yield* inMemory({ policy: { terminateAfter: { defects: 3, within: "10 seconds" } } })
        yield* get("/die")
        yield* TestClock.adjust("5 seconds")
        yield* get("/die")
        // The first defect is now too old to count.
        yield* TestClock.adjust("5 seconds")
        yield* get("/die")
        assert.strictEqual((yield* get("/ok")).status, 200)
        yield* TestClock.adjust("4999 millis")
        yield* get("/die")
        const error = yield* Fiber.join(ended)
        assert.deepStrictEqual([error.defects, Duration.toSeconds(error.within)], [3, 10])
        assert.include(error.message, "3 defects within 10s")
      })
    ))

  it.effect("that ends the server waits for the requests in flight, whose defects are logged, too", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        const { cue, ended, get } = yield* inMemory({ policy: "terminate" })
        const late = yield* Effect.fork(get("/die/late"))
        yield* settled
        const response = yield* get("/die")
        yield* settled
        assert.isTrue(Option.isNone(yield* Fiber.poll(ended)))
        yield* cue
        assert.strictEqual((yield* Fiber.join(late)).status, 500)
        const { incident } = (yield* Effect.promise(() => response.json())) as { readonly incident: string }
        assert.strictEqual((yield* Fiber.join(ended)).incident, incident)
        assert.lengthOf(errorsIn(logs), 2)
      })
    ))

  it.effect("that ends the server gives one grace period, however often its end is awaited", () =>
    withLogs(() =>
      Effect.gen(function*() {
        const { boundary, ended, get } = yield* inMemory({ policy: "terminate", grace: "5 seconds" })
        yield* Effect.fork(get("/late"))
        yield* settled
        yield* get("/die")
        yield* TestClock.adjust("3 seconds")
        const again = yield* Effect.fork(Effect.flip(boundary.terminated))
        yield* TestClock.adjust("1999 millis")
        for (const waiting of [ended, again]) assert.isTrue(Option.isNone(yield* Fiber.poll(waiting)))
        // Handlers that are interrupted have a quarter of a second more.
        yield* TestClock.adjust("251 millis")
        for (const waiting of [ended, again]) assert.isTrue(Option.isSome(yield* Fiber.poll(waiting)))
      })
    ))

  it.effect("that ends the server ends all connections together, and waits for each", () =>
    withLogs(() =>
      Effect.gen(function*() {
        const { cue, ended, get } = yield* inMemory({ policy: "terminate" })
        const log: Array<string> = []
        const closing: Array<() => void> = []
        const late = yield* Effect.forEach(["a", "b"], (name) =>
          Effect.fork(get("/late", {
            closed: false,
            destroy: () => log.push(`destroy ${name}`),
            end: () => log.push(`end ${name}`),
            on: () => {},
            once: (_: "close", listener: () => void) => closing.push(listener)
          })))
        yield* settled
        yield* get("/die")
        yield* cue
        yield* Effect.forEach(late, Fiber.join)
        yield* settled
        assert.deepStrictEqual(log, ["end a", "end b"])
        assert.isTrue(Option.isNone(yield* Fiber.poll(ended)))
        for (const close of closing) close()
        yield* Fiber.join(ended)
        assert.deepStrictEqual(log, ["end a", "end b", "destroy a", "destroy b"])
      })
    ))

  it.effect("that ends the server does not touch a server that is not Node's", () =>
    withLogs(() =>
      Effect.gen(function*() {
        const { ended, get } = yield* inMemory({ policy: "terminate" })
        const log: Array<string> = []
        for (const server of [undefined, {}, { close: () => log.push("closed") }]) yield* get("/ok", { server })
        yield* get("/die")
        assert.strictEqual((yield* Fiber.join(ended))._tag, "DefectLimitExceeded")
        assert.deepStrictEqual(log, [])
      })
    ))

  it.effect("that ends the server answers later requests with 503 and ends their connections", () =>
    withLogs(() =>
      Effect.gen(function*() {
        const { ended, get } = yield* inMemory({ policy: "terminate" })
        yield* get("/die")
        yield* Fiber.join(ended)
        const response = yield* get("/ok")
        assert.deepStrictEqual([response.status, response.headers.get("connection")], [503, "close"])
        assert.deepStrictEqual(yield* Effect.promise(() => response.json()), {
          type: "about:blank",
          title: "Service Unavailable",
          status: 503
        })
      })
    ))
})

// -----------------------------------------------------------------------------
// termination, on real sockets
// -----------------------------------------------------------------------------

/**
 * Each of these servers ends within this number of milliseconds, however busy the machine: far more than the grace
 * periods that a test waits for, and far less than the others.
 */
const patience = 20_000

/** Serves in the background. `ended` gives how long the serving took, and why it ended. */
const terminating = <E>(routes: HttpApp.Default<E, Scope.Scope>, options: DefectBoundary.Options = {}) =>
  Effect.gen(function*() {
    const server = yield* listening
    const serving = yield* Effect.forkScoped(
      DefectBoundary.serve(routes, { policy: "terminate", ...options }).pipe(
        Effect.provideService(HttpServer.HttpServer, server),
        Effect.flip
      )
    )
    // The fiber needs time to begin serving.
    yield* eventually(Effect.isSuccess(request(portOf(server), "/ok")))
    return { port: portOf(server), ended: Effect.timed(Fiber.join(serving)), serving }
  })

const dying = HttpRouter.empty.pipe(HttpRouter.get("/ok", ok), HttpRouter.get("/die", Effect.die("broken")))

const isRefused = (port: number) =>
  Effect.match(request(port, "/ok"), { onFailure: ({ code }) => code === "ECONNREFUSED", onSuccess: () => false })

const upgrade = "GET /socket HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n" +
  "sec-websocket-version: 13\r\nsec-websocket-key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n\r\n"

describe("D2: serve, when it terminates", () => {
  it.scopedLive("accepts no more connections, lets the requests in flight finish, and closes its connections", () =>
    withLogs(() =>
      Effect.gen(function*() {
        const entered = yield* Deferred.make<void>()
        const release = yield* Deferred.make<void>()
        const held = <A, E>(after: Effect.Effect<A, E>) =>
          Effect.zipRight(Effect.zipRight(Deferred.succeed(entered, undefined), Deferred.await(release)), after)
        const { ended, port } = yield* terminating(
          dying.pipe(HttpRouter.get("/slow", held(ok)), HttpRouter.get("/refused", held(Effect.fail("no")))),
          { grace: "1 minute" }
        )
        const agent = new Http.Agent({ keepAlive: true })
        yield* Effect.addFinalizer(() => Effect.sync(() => agent.destroy()))
        const silent = yield* connecting(port)
        const slow = yield* Effect.fork(request(port, "/slow", { agent }))
        const refused = yield* Effect.fork(request(port, "/refused", { agent }))
        yield* Deferred.await(entered)
        const died = yield* request(port, "/die", { agent })
        assert.deepStrictEqual([died.status, died.headers.connection], [500, "close"])
        yield* eventually(isRefused(port))

        yield* Deferred.succeed(release, undefined)
        const answered = yield* Fiber.join(slow)
        assert.deepStrictEqual([answered.body, answered.headers.connection], ["ok", "close"])
        const failed = yield* Fiber.join(refused)
        assert.deepStrictEqual([failed.status, failed.headers.connection], [500, "close"])
        const [took, error] = yield* ended
        assert.strictEqual(error._tag, "DefectLimitExceeded")
        assert.isBelow(Duration.toMillis(took), patience)
        yield* eventually(Effect.sync(() => silent.destroyed))
      })
    ))

  const hangs: Record<string, HttpApp.Default<never, Scope.Scope>> = {
    "that can be interrupted": Effect.interruptible(Effect.never),
    "that cannot be interrupted": Effect.never,
    "whose cleaning up hangs": Effect.interruptible(Effect.ensuring(Effect.never, Effect.never)),
    "that sends without end": HttpServerResponse.stream(Stream.repeatEffect(Effect.succeed(new Uint8Array(65_536))))
  }
  for (const [what, handler] of Object.entries(hangs)) {
    it.scopedLive(`waits no longer than the grace period for a handler ${what}`, () =>
      withLogs(() =>
        Effect.gen(function*() {
          const entered = yield* Deferred.make<void>()
          const { ended, port } = yield* terminating(
            dying.pipe(
              HttpRouter.get("/hang", Effect.zipRight(Deferred.succeed(entered, undefined), handler), {
                uninterruptible: true
              })
            ),
            { grace: "300 millis" }
          )
          // A client that never reads.
          const socket = yield* connecting(port)
          socket.write("GET /hang HTTP/1.1\r\nhost: localhost\r\n\r\n")
          yield* Deferred.await(entered)
          const [took, [died, [, error]]] = yield* Effect.timed(Effect.zip(request(port, "/die"), ended))
          assert.strictEqual(died.status, 500)
          assert.strictEqual(error._tag, "DefectLimitExceeded")
          assert.isAtLeast(Duration.toMillis(took), 290)
          assert.isBelow(Duration.toMillis(took), patience)
          socket.resume()
          yield* eventually(Effect.sync(() => socket.destroyed))
        })
      ))
  }

  it.scopedLive(
    "lets a response in memory reach a client that reads slowly",
    () =>
      withLogs(() =>
        Effect.gen(function*() {
          const size = 20_000_000
          const entered = yield* Deferred.make<void>()
          const { ended, port } = yield* terminating(
            HttpRouter.get(
              dying,
              "/large",
              Effect.as(Deferred.succeed(entered, undefined), HttpServerResponse.uint8Array(new Uint8Array(size)))
            ),
            { grace: "1 minute" }
          )
          const socket = yield* connecting(port)
          let received = 0
          const closed = yield* Deferred.make<void>()
          socket.on("end", () => Deferred.unsafeDone(closed, Exit.void))
          socket.on("close", () => Deferred.unsafeDone(closed, Exit.void))
          socket.pause()
          socket.write("GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n")
          yield* Deferred.await(entered)
          yield* request(port, "/die")
          yield* eventually(isRefused(port))
          yield* Effect.sleep("300 millis")
          socket.on("data", (chunk) => {
            received += chunk.length
          })
          socket.resume()
          yield* Deferred.await(closed)
          assert.isAtLeast(received, size)
          yield* ended
        })
      ),
    20_000
  )

  it.scopedLive("D4: waits no longer than the grace period for a hanging handler of an upgraded connection", () =>
    withLogs(() =>
      Effect.gen(function*() {
        const entered = yield* Deferred.make<void>()
        const hanging = Effect.zipRight(HttpServerRequest.upgrade, Deferred.succeed(entered, undefined)).pipe(
          Effect.zipRight(Effect.never),
          Effect.orDie
        )
        const { ended, port } = yield* terminating(
          HttpRouter.get(dying, "/socket", hanging, { uninterruptible: true }),
          { grace: "200 millis" }
        )
        const socket = yield* connecting(port)
        socket.resume()
        socket.write(upgrade)
        yield* Deferred.await(entered)
        yield* request(port, "/die")
        const [took] = yield* ended
        assert.isBelow(Duration.toMillis(took), patience)
      })
    ))

  it.scopedLive("D4: ends a connection that was upgraded", () =>
    withLogs(() =>
      Effect.gen(function*() {
        const entered = yield* Deferred.make<void>()
        const upgraded = Effect.flatMap(
          HttpServerRequest.upgrade,
          (socket) => Effect.zipRight(Deferred.succeed(entered, undefined), socket.run(() => {}))
        )
        const { ended, port } = yield* terminating(
          HttpRouter.get(dying, "/socket", Effect.as(Effect.ignore(upgraded), HttpServerResponse.empty())),
          { grace: "200 millis" }
        )
        const socket = yield* connecting(port)
        socket.resume()
        socket.write(upgrade)
        yield* Deferred.await(entered)
        yield* request(port, "/die")
        const [took] = yield* ended
        assert.isBelow(Duration.toMillis(took), patience)
        yield* eventually(Effect.sync(() => socket.destroyed))
      })
    ))

  it.scopedLive("D4: waits no longer for a client that never finishes its request", () =>
    withLogs(() =>
      Effect.gen(function*() {
        const { ended, port } = yield* terminating(dying, { grace: "1 minute" })
        const socket = yield* connecting(port)
        socket.write("GET /ok HTTP/1.1\r\nhost: loc")
        yield* request(port, "/die")
        const [took] = yield* ended
        assert.isBelow(Duration.toMillis(took), patience)
      })
    ))

  it.scopedLive("lets a handler that it interrupts run its finalizers", () =>
    withLogs(() =>
      Effect.gen(function*() {
        const entered = yield* Deferred.make<void>()
        const finalized = yield* Deferred.make<void>()
        const { ended, port } = yield* terminating(
          HttpRouter.get(
            dying,
            "/hang",
            Effect.zipRight(Deferred.succeed(entered, undefined), Effect.never).pipe(
              Effect.ensuring(Effect.zipRight(Effect.sleep("1 millis"), Deferred.succeed(finalized, undefined)))
            )
          ),
          { grace: "100 millis" }
        )
        yield* Effect.fork(request(port, "/hang"))
        yield* Deferred.await(entered)
        yield* request(port, "/die")
        yield* ended
        assert.isTrue(yield* Deferred.isDone(finalized))
      })
    ))

  it.scopedLive("does the same when it is interrupted, and does not wait for a handler that hangs", () =>
    withLogs(() =>
      Effect.gen(function*() {
        const entered = yield* Deferred.make<void>()
        const { port, serving } = yield* terminating(
          HttpRouter.get(dying, "/hang", Effect.zipRight(Deferred.succeed(entered, undefined), Effect.never), {
            uninterruptible: true
          }),
          { grace: "200 millis" }
        )
        yield* Effect.fork(request(port, "/hang"))
        yield* Deferred.await(entered)
        const [took] = yield* Effect.timed(Fiber.interrupt(serving))
        assert.isAtLeast(Duration.toMillis(took), 190)
        assert.isBelow(Duration.toMillis(took), patience)
      })
    ))

  it.scoped("lasts one grace period, even if it is interrupted meanwhile", () =>
    withLogs(() =>
      Effect.gen(function*() {
        const entered = yield* Deferred.make<void>()
        const { port, serving } = yield* terminating(
          HttpRouter.get(dying, "/hang", Effect.zipRight(Deferred.succeed(entered, undefined), Effect.never), {
            uninterruptible: true
          }),
          { grace: "1 hour" }
        )
        yield* Effect.fork(request(port, "/hang"))
        yield* Deferred.await(entered)
        yield* request(port, "/die")
        yield* TestClock.adjust("59 minutes")
        const interrupting = yield* Effect.fork(Fiber.interrupt(serving))
        // The connections are real, and need time between two steps of the clock.
        let minutes = 59
        while ((yield* Fiber.poll(interrupting))._tag === "None") {
          assert.isBelow(minutes, 100, "a second grace has begun")
          yield* TestServices.provideLive(Effect.sleep("5 millis"))
          yield* TestClock.adjust("1 seconds")
          minutes += 1 / 60
        }
        assert.isAtLeast(minutes, 60)
      })
    ))

  it.scopedLive("D4: does not wait for a connection that a stream leaves open, or whose response broke late", () =>
    withLogs(() =>
      Effect.gen(function*() {
        const entered = yield* Deferred.make<void>()
        const release = yield* Deferred.make<void>()
        const stream = Stream.concat(
          Stream.make(Uint8Array.of(1)),
          Stream.fromEffect(Effect.as(Deferred.await(release), Uint8Array.of(2)))
        )
        const broken = Effect.zipRight(HttpApp.appendPreResponseHandler(() => Effect.die("broken")), ok)
        const { ended, port } = yield* terminating(
          HttpRouter.empty.pipe(
            HttpRouter.get("/ok", ok),
            HttpRouter.get("/broken", broken),
            HttpRouter.get(
              "/stream",
              Effect.as(Deferred.succeed(entered, undefined), HttpServerResponse.stream(stream))
            )
          ),
          { grace: "1 minute" }
        )
        const agent = new Http.Agent({ keepAlive: true })
        yield* Effect.addFinalizer(() => Effect.sync(() => agent.destroy()))
        const streaming = yield* Effect.fork(request(port, "/stream", { agent }))
        yield* Deferred.await(entered)
        yield* Effect.sleep("20 millis")
        const died = yield* request(port, "/broken", { agent })
        assert.deepStrictEqual([died.status, died.headers.connection], [500, "close"])
        yield* eventually(isRefused(port))
        yield* Deferred.succeed(release, undefined)
        assert.strictEqual((yield* Fiber.join(streaming)).body, "\u0001\u0002")
        const [took] = yield* ended
        assert.isBelow(Duration.toMillis(took), patience)
      })
    ))

  for (const [what, options] of [["null", null], ["a negative grace", { grace: -1 }]] as const) {
    it.scopedLive(`ends with InvalidOptions before it serves, also as a layer: ${what}`, () =>
      Effect.gen(function*() {
        const server = yield* listening
        for (
          const ending of [
            DefectBoundary.serve(dying, options as DefectBoundary.Options),
            Layer.launch(DefectBoundary.layer(dying, options as DefectBoundary.Options))
          ]
        ) {
          const error = yield* Effect.flip(Effect.provideService(ending, HttpServer.HttpServer, server))
          assert.strictEqual(error._tag, "InvalidOptions")
        }
      }))
  }
})

// -----------------------------------------------------------------------------
// processes
// -----------------------------------------------------------------------------

/** A server in a separate process, and its output. */
const launched = (...args: ReadonlyArray<string>) =>
  Effect.gen(function*() {
    const child = yield* Effect.acquireRelease(
      Effect.map(
        Effect.promise(() => bundled(new URL("./fixtures/server.ts", import.meta.url))),
        (script) => spawn(process.execPath, [script, ...args], { stdio: ["ignore", "pipe", "pipe"] })
      ),
      (child) => Effect.sync(() => child.kill("SIGKILL"))
    )
    let written = ""
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (chunk: Buffer) => {
        written += chunk.toString()
      })
    }
    const ended = yield* Deferred.make<number | null>()
    child.on("close", (code) => Deferred.unsafeDone(ended, Exit.succeed(code)))
    yield* Effect.repeat(Effect.sync(() => /listening on \d+/.test(written)), {
      until: (started) => started,
      schedule: Schedule.spaced("20 millis")
    }).pipe(Effect.timeout("60 seconds"))
    return {
      child,
      ended: Effect.timeout(Deferred.await(ended), "60 seconds"),
      port: Number(/listening on (\d+)/.exec(written)![1]),
      written: () => written
    }
  })

describe("D2: a process", { concurrent: true }, () => {
  for (const way of ["serve", "launch"]) {
    it.scopedLive(`that terminates (${way}) answers, finalizes and exits with 1, whether a handler hangs or not`, () =>
      Effect.gen(function*() {
        const { ended, port, written } = yield* launched(way, "terminate")
        assert.strictEqual((yield* request(port, "/ok")).status, 200)
        const hanging = yield* Effect.fork(Effect.exit(request(port, "/hang")))
        yield* eventually(Effect.sync(() => written().includes("hanging")))
        const reply = yield* request(port, "/die")
        const [took, code] = yield* Effect.timed(ended)
        assert.deepStrictEqual([reply.status, code], [500, 1])
        assert.isBelow(Duration.toMillis(took), patience)
        assert.include(written(), "finalized")
        assert.include(written(), (JSON.parse(reply.body) as { incident: string }).incident)
        assert.isTrue(Exit.isFailure(yield* Fiber.join(hanging)))
      }))

    it.scopedLive(`that is asked to end (${way}) does so within the grace period, whether a handler hangs or not`, () =>
      Effect.gen(function*() {
        const { child, ended, port, written } = yield* launched(way, "isolate")
        yield* Effect.fork(Effect.exit(request(port, "/hang")))
        yield* eventually(Effect.sync(() => written().includes("hanging")))
        assert.strictEqual((yield* request(port, "/die")).status, 500)
        assert.strictEqual((yield* request(port, "/ok")).status, 200)
        child.kill("SIGTERM")
        const [took, code] = yield* Effect.timed(ended)
        assert.strictEqual(code, 0)
        assert.isBelow(Duration.toMillis(took), patience)
        assert.include(written(), "finalized")
      }))
  }
})

// -----------------------------------------------------------------------------
// types
// -----------------------------------------------------------------------------

describe("the types", () => {
  class Database extends Context.Tag("test/Database")<Database, string>() {}

  it("keep the app's errors and requirements; a server does without those that the platform provides", () => {
    const app = Effect.zipRight(Effect.zipRight(Database, Effect.scope), Effect.fail("no" as const))
    expectTypeOf(DefectBoundary.isolate(app)).toEqualTypeOf<
      HttpApp.Default<"no", Database | Scope.Scope>
    >()
    expectTypeOf(DefectBoundary.serve(app)).toEqualTypeOf<
      Effect.Effect<never, DefectBoundary.DefectLimitExceeded | InvalidOptions, HttpServer.HttpServer | Database>
    >()
    expectTypeOf(DefectBoundary.launch(app)).toEqualTypeOf<
      Layer.Layer<never, DefectBoundary.DefectLimitExceeded | InvalidOptions, HttpServer.HttpServer | Database>
    >()
    expectTypeOf(DefectBoundary.layer(app)).toEqualTypeOf<
      Layer.Layer<DefectBoundary.Termination, InvalidOptions, HttpServer.HttpServer | Database>
    >()
    expectTypeOf(DefectBoundary.make).returns.toEqualTypeOf<
      Effect.Effect<DefectBoundary.DefectBoundary, InvalidOptions>
    >()
  })
})
