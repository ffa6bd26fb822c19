import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as HttpApi from "@effect/platform/HttpApi"
import * as HttpApiBuilder from "@effect/platform/HttpApiBuilder"
import * as HttpApiEndpoint from "@effect/platform/HttpApiEndpoint"
import * as HttpApiGroup from "@effect/platform/HttpApiGroup"
import type * as HttpApp from "@effect/platform/HttpApp"
import * as HttpMiddleware from "@effect/platform/HttpMiddleware"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServer from "@effect/platform/HttpServer"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import { assert, describe, it } from "@effect/vitest"
import * as DefectBoundary from "effect-holdfast/DefectBoundary"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as HashMap from "effect/HashMap"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import type * as LogLevel from "effect/LogLevel"
import * as Metric from "effect/Metric"
import type * as MetricState from "effect/MetricState"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as Http from "node:http"
import { ordersApi } from "../../examples/http-api.js"

const node = NodeHttpServer.layer(() => Http.createServer(), { port: 0, host: "127.0.0.1" })

interface Logged {
  readonly level: LogLevel.LogLevel["label"]
  readonly incident: unknown
  readonly message: string
  readonly cause: string
}

/** Builds the server, requests a path, and gives the response and what was logged at Error. */
const asked = <A, E, R>(
  server: Layer.Layer<A, E, R | HttpServer.HttpServer>,
  path: string
) =>
  Effect.gen(function*() {
    const logs: Array<Logged> = []
    const logger = Logger.make(({ annotations, cause, logLevel, message }) => {
      const incident = HashMap.unsafeGet(HashMap.union(HashMap.make(["incident", undefined]), annotations), "incident")
      logs.push({ level: logLevel.label, incident, message: String(message), cause: Cause.pretty(cause) })
    })
    const before = yield* count
    const context = yield* Layer.build(
      Layer.provideMerge(server as Layer.Layer<A, E, HttpServer.HttpServer>, node).pipe(
        Layer.provide(Logger.replace(Logger.defaultLogger, logger))
      )
    )
    const { address } = Context.get(context as Context.Context<HttpServer.HttpServer>, HttpServer.HttpServer)
    // A response that is cut off early may not even have its head.
    const response = yield* Effect.promise(() =>
      fetch(`${HttpServer.formatAddress(address)}${path}`).catch(() => Response.error())
    )
    const text = yield* Effect.promise(() =>
      response.type === "error" ? Promise.resolve("cut off") : response.text().catch(() => "cut off")
    )
    const counted = (yield* count) - before
    return { response, text, counted, errors: logs.filter(({ level }) => level === "ERROR") }
  })

/** How many defects have been counted since the process began. */
const count = Effect.map(Metric.snapshot, (pairs) =>
  pairs
    .filter(({ metricKey }) => metricKey.name === "holdfast_defect_boundary_defects_total")
    .reduce((sum, { metricState }) => sum + (metricState as MetricState.MetricState.Counter<number>).count, 0))

const incidentIn = (text: string): string => (JSON.parse(text) as { readonly incident: string }).incident

const secret = "hunter2"

class Refused extends Data.TaggedError("Refused")<{ readonly why: string }> {}

const chunk = Stream.make(new Uint8Array(1_000))

const routes = HttpRouter.empty.pipe(
  HttpRouter.get("/die", Effect.die(new Error(secret))),
  HttpRouter.get("/fail", new Refused({ why: secret })),
  HttpRouter.get("/stream/die", HttpServerResponse.stream(Stream.concat(chunk, Stream.die(new Error(secret))))),
  HttpRouter.get(
    "/stream/fail",
    HttpServerResponse.stream(Stream.concat(chunk, Stream.fail(new Refused({ why: secret }))))
  ),
  HttpRouter.get("/own", HttpServerResponse.empty({ status: 500 })),
  HttpRouter.get("/ok", HttpServerResponse.text("ok"))
)

describe("D5: an HttpApi", () => {
  it.scopedLive("behind layerHttpApi answers a defect with its incident, and typed errors as it declares them", () =>
    Effect.gen(function*() {
      const server = Layer.provide(DefectBoundary.layerHttpApi(), ordersApi)
      assert.strictEqual((yield* asked(server, "/orders/1")).text, "{\"id\":1,\"item\":\"an anvil\"}")
      assert.strictEqual((yield* asked(server, "/orders/2")).response.status, 404)
      const { counted, errors, response, text } = yield* asked(server, "/orders/13")
      assert.deepStrictEqual(
        [response.status, response.headers.get("content-type"), counted],
        [500, "application/problem+json", 1]
      )
      assert.deepStrictEqual(errors.map(({ incident }) => incident), [incidentIn(text)])
      assert.include(errors[0]!.cause, "the shelf of order 13 is null")
      assert.notInclude(text, "shelf")
    }))

  it.scopedLive("has its middleware inside the boundary: a defect there is answered, too", () =>
    Effect.gen(function*() {
      const broken = (_: HttpApp.Default) => Effect.die("a broken middleware")
      const server = Layer.provide(DefectBoundary.layerHttpApi({ middleware: broken }), ordersApi)
      const { errors, text } = yield* asked(server, "/orders/1")
      assert.deepStrictEqual(errors.map(({ incident }) => incident), [incidentIn(text)])
      const logged = Layer.provide(DefectBoundary.layerHttpApi({ middleware: HttpMiddleware.logger }), ordersApi)
      assert.strictEqual((yield* asked(logged, "/orders/1")).response.status, 200)
    }))

  it.scopedLive("whose schema of errors fits a defect does not send it to the client", () =>
    Effect.gen(function*() {
      class Api extends HttpApi.make("Api").addError(Schema.Struct({ message: Schema.String })).add(
        HttpApiGroup.make("group").add(HttpApiEndpoint.get("die", "/die").addSuccess(Schema.String))
      ) {}
      const api = HttpApiBuilder.api(Api).pipe(Layer.provide(
        HttpApiBuilder.group(Api, "group", (handlers) => handlers.handle("die", () => Effect.die(new Error(secret))))
      ))
      const server = Layer.provide(DefectBoundary.layerHttpApi({ policy: "terminate" }), api)
      const { counted, errors, response, text } = yield* asked(server, "/die")
      assert.deepStrictEqual([response.status, response.headers.get("connection"), counted], [500, "close", 1])
      assert.strictEqual(errors[0]!.incident, incidentIn(text))
      assert.notInclude(text, secret)
    }))

  it.scopedLive("counts one defect of a response's stream once for its policy", () =>
    Effect.gen(function*() {
      class Api extends HttpApi.make("Api").add(
        HttpApiGroup.make("group")
          .add(HttpApiEndpoint.get("file", "/file").addSuccess(Schema.String))
          .add(HttpApiEndpoint.get("ok", "/ok").addSuccess(Schema.String))
      ) {}
      const file = HttpServerResponse.stream(Stream.concat(chunk, Stream.die("broken")))
      const api = HttpApiBuilder.api(Api).pipe(Layer.provide(
        HttpApiBuilder.group(Api, "group", (handlers) =>
          handlers.handleRaw("file", () =>
            Effect.succeed(file)).handle("ok", () => Effect.succeed("ok")))
      ))
      const policy = { terminateAfter: { defects: 2, within: "1 minute" } } as const
      const server = Layer.provide(DefectBoundary.layerHttpApi({ policy }), api)
      const context = yield* Layer.build(Layer.provideMerge(server, node))
      const url = HttpServer.formatAddress(Context.get(context, HttpServer.HttpServer).address)
      // `fetch` would send a request again whose connection was cut before the answer.
      const statusOf = (path: string) =>
        Effect.async<number | undefined>((resume) => {
          const end = (status: number | undefined) =>
            resume(Effect.succeed(status))
          Http.get(url + path, { agent: false }, (response) => {
            response.on("error", () => end(undefined)).on("end", () => end(response.statusCode)).resume()
          }).on("error", () => end(undefined))
        })
      assert.deepStrictEqual([yield* statusOf("/file"), yield* statusOf("/ok")], [undefined, 200])
      assert.deepStrictEqual([yield* statusOf("/file"), yield* statusOf("/ok")], [undefined, undefined])
    }))

  it.scopedLive("with wrong options is not served", () =>
    Effect.gen(function*() {
      const server = Layer.provide(DefectBoundary.layerHttpApi({ grace: -1 }), ordersApi)
      const error = yield* Effect.flip(asked(server, "/orders/1"))
      assert.strictEqual(error._tag, "InvalidOptions")
    }))
})

const twice = HttpServer.serve(DefectBoundary.isolate(DefectBoundary.isolate(routes)))

describe("D5: isolate after the platform's answer", () => {
  const places: Record<string, Layer.Layer<never, never, HttpServer.HttpServer>> = {
    "as the middleware of HttpServer.serve": HttpServer.serve(routes, DefectBoundary.isolate),
    "around an app and as a middleware": HttpServer.serve(DefectBoundary.isolate(routes), DefectBoundary.isolate)
  }
  for (const [place, server] of Object.entries(places)) {
    it.scopedLive(`answers a defect with the incident that is logged and counted: ${place}`, () =>
      Effect.gen(function*() {
        const { counted, errors, response, text } = yield* asked(server, "/die")
        assert.deepStrictEqual(
          [response.status, response.headers.get("content-type"), counted],
          [500, "application/problem+json", 1]
        )
        assert.deepStrictEqual(errors.map(({ incident }) => incident), [incidentIn(text)])
        assert.include(errors[0]!.cause, secret)
        assert.notInclude(text, secret)
      }))
  }

  it.scopedLive("answers a defect with its incident, whatever another middleware does to responses", () =>
    Effect.gen(function*() {
      const server = HttpServer.serve(routes, (app) => HttpMiddleware.cors()(DefectBoundary.isolate(app)))
      const { errors, response, text } = yield* asked(server, "/die")
      assert.deepStrictEqual(errors.map(({ incident }) => incident), [incidentIn(text)])
      assert.strictEqual(response.headers.get("access-control-allow-origin"), "*")
    }))

  for (const [place, server] of Object.entries({ ...places, "around an app twice": twice })) {
    it.scopedLive(`logs and counts a defect of a stream once, and cuts the response off: ${place}`, () =>
      Effect.gen(function*() {
        const { counted, errors, text } = yield* asked(server, "/stream/die")
        assert.deepStrictEqual([text, counted, errors.length], ["cut off", 1, 1])
      }))

    it.scopedLive(`counts no stream that fails: ${place}`, () =>
      Effect.gen(function*() {
        assert.strictEqual((yield* asked(server, "/stream/fail")).counted, 0)
      }))
  }

  it.scopedLive("answers a defect of an HttpApi with its incident", () =>
    Effect.gen(function*() {
      const server = Layer.provide(HttpApiBuilder.serve(DefectBoundary.isolate), ordersApi)
      const { counted, errors, text } = yield* asked(server, "/orders/13")
      assert.deepStrictEqual([counted, ...errors.map(({ incident }) => incident)], [1, incidentIn(text)])
      assert.strictEqual((yield* asked(server, "/orders/2")).response.status, 404)
    }))

  it.scopedLive("gives an unanswered failure the same body, logs it as a failure, and does not count it", () =>
    Effect.gen(function*() {
      const server = HttpServer.serve(routes, DefectBoundary.isolate)
      const { counted, errors, response, text } = yield* asked(server, "/fail")
      assert.deepStrictEqual([response.status, counted, errors.length], [500, 0, 1])
      assert.deepStrictEqual(errors[0]!.incident, incidentIn(text))
      assert.include(errors[0]!.message, "an error of a request handler that nothing has answered")
      assert.notInclude(text, secret)
    }))

  it.scopedLive("does not change an app's own empty 500", () =>
    Effect.gen(function*() {
      const { counted, errors, response, text } = yield* asked(HttpServer.serve(routes, DefectBoundary.isolate), "/own")
      assert.deepStrictEqual([response.status, text, counted, errors.length], [500, "", 0, 0])
    }))

  it.scopedLive("around the app itself leaves an unhandled failure to the platform", () =>
    Effect.gen(function*() {
      const { counted, response, text } = yield* asked(HttpServer.serve(DefectBoundary.isolate(routes)), "/fail")
      assert.deepStrictEqual([response.status, text, counted], [500, "", 0])
    }))
})

describe("D5: launchHttpApi", () => {
  it.scopedLive("fails when the server has been closed", () =>
    Effect.gen(function*() {
      const context = yield* Layer.build(node)
      const server = DefectBoundary.launchHttpApi({ policy: "terminate" }).pipe(Layer.provide(ordersApi))
      const launched = yield* Effect.fork(Effect.provide(Effect.flip(Layer.launch(server)), context))
      const url = HttpServer.formatAddress(Context.get(context, HttpServer.HttpServer).address)
      yield* Effect.repeat(
        Effect.promise(() => fetch(`${url}/orders/13`).then(({ status }) => status, () => 0)),
        { until: (status) => status === 500 || status === 0 }
      )
      assert.strictEqual((yield* Fiber.join(launched))._tag, "DefectLimitExceeded")
    }))
})

describe("D5: layer", () => {
  it.scopedLive("is built immediately, and serves meanwhile", () =>
    Effect.gen(function*() {
      assert.strictEqual((yield* asked(DefectBoundary.layer(routes), "/ok")).text, "ok")
    }))

  it.scopedLive("reports its termination when the server has been closed", () =>
    Effect.gen(function*() {
      const server = DefectBoundary.layer(routes, { policy: "terminate" })
      const context = yield* Layer.build(Layer.provideMerge(server, node))
      const { address } = Context.get(context, HttpServer.HttpServer)
      const url = HttpServer.formatAddress(address)
      yield* Effect.promise(() => fetch(`${url}/die`).then((response) => response.text()))
      const error = yield* Effect.flip(Context.get(context, DefectBoundary.Termination))
      assert.strictEqual(error._tag, "DefectLimitExceeded")
      assert.isTrue(yield* Effect.promise(() => fetch(`${url}/ok`).then(() => false, () => true)))
    }))
})
