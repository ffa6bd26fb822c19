/**
 * What OpenTelemetry sees of a session that is refreshed, through `@effect/opentelemetry`. The exporters here keep
 * everything in memory; yours send it to a collector.
 */
import * as NodeSdk from "@effect/opentelemetry/NodeSdk"
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as FetchHttpClient from "@effect/platform/FetchHttpClient"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServer from "@effect/platform/HttpServer"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import {
  AggregationTemporality,
  InMemoryMetricExporter,
  PeriodicExportingMetricReader
} from "@opentelemetry/sdk-metrics"
import { InMemorySpanExporter, type ReadableSpan, SimpleSpanProcessor } from "@opentelemetry/sdk-trace-base"
import * as Session from "effect-holdfast/Session"
import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { createServer } from "node:http"

const spans = new InMemorySpanExporter()
const metrics = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE)
const reader = new PeriodicExportingMetricReader({ exporter: metrics })

/** Refuses "token 0". */
const api = HttpRouter.empty.pipe(HttpRouter.get(
  "/orders",
  Effect.map(
    HttpServerRequest.HttpServerRequest,
    ({ headers }) => HttpServerResponse.empty({ status: headers["authorization"] === "Bearer token 1" ? 200 : 401 })
  )
))

const orders = Effect.gen(function*() {
  const server = yield* NodeHttpServer.make(() => createServer(), { port: 0, host: "127.0.0.1" })
  yield* server.serve(api)
  const url = HttpServer.formatAddress(server.address)
  let tokens = 0
  const acquire = Effect.sync(() => Redacted.make(`token ${tokens++}`))
  const session = yield* Session.make({ name: "example", acquire })
  const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer, origins: [url] })
  yield* Effect.withSpan(client.get(`${url}/orders`), "read the orders")
}).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer))

/** The spans below a parent, in the order in which they began. */
const print = (all: ReadonlyArray<ReadableSpan>, parent?: string, indent = ""): void => {
  for (const span of all.filter((span) => span.parentSpanContext?.spanId === parent)) {
    const { "http.response.status_code": status, session } = span.attributes
    console.log(`${indent}${span.name}${status ? ` ${status}` : ""}${session ? ` of ${session}` : ""}`)
    print(all, span.spanContext().spanId, `${indent}  `)
  }
}

const startOf = ({ startTime: [seconds, nanos] }: ReadableSpan) => seconds * 1e9 + nanos

const show = Effect.gen(function*() {
  yield* Effect.promise(() => reader.forceFlush())
  print(spans.getFinishedSpans().sort((a, b) => startOf(a) - startOf(b)))
  for (const { dataPoints, descriptor } of metrics.getMetrics().flatMap((all) => all.scopeMetrics[0]!.metrics)) {
    if (!["holdfast_session_refreshes_total", "holdfast_session_waiters"].includes(descriptor.name)) continue
    for (const { attributes, value } of dataPoints.filter(({ attributes }) => attributes["session"] === "example")) {
      console.log(descriptor.name, JSON.stringify(attributes), JSON.stringify(value))
    }
  }
})

const sdk = NodeSdk.layer(() => ({
  resource: { serviceName: "example" },
  spanProcessor: new SimpleSpanProcessor(spans),
  metricReader: reader
}))

await Effect.runPromise(Effect.zipRight(orders, show).pipe(Effect.provide(sdk)))
