/** The service of `examples/service`, against a supplier, an authorization server and a feed on the loopback. */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as FetchHttpClient from "@effect/platform/FetchHttpClient"
import * as HttpServer from "@effect/platform/HttpServer"
import { assert, describe, it } from "@effect/vitest"
import * as NodeWebSocketDialer from "effect-holdfast/node/NodeWebSocketDialer"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import { createServer } from "node:http"
import { server } from "../examples/service/Http.js"
import { services } from "../examples/service/main.js"
import { authorizationServer, json } from "./support/authorizationServer.js"
import { type Received, type Reply, serve } from "./support/httpServer.js"
import { serving } from "./support/loopbackWebSockets.js"
import { quiet } from "./support/quiet.js"

/** The service and its counterparties; `answer` is the supplier's. */
const started = (answer: (request: Received, accepted: string) => Reply) =>
  Effect.gen(function*() {
    let grants = 0
    const authorization = yield* authorizationServer(() =>
      json({ access_token: `token-${++grants}`, token_type: "Bearer", expires_in: 3600 })
    )
    const supplier = yield* serve((request) => answer(request, `Bearer token-${grants}`))
    const feed = yield* serving()
    const config = ConfigProvider.fromMap(
      new Map(Object.entries({
        SUPPLIER_URL: supplier.url,
        OAUTH_ISSUER: authorization.url,
        OAUTH_CLIENT_ID: "desk",
        OAUTH_CLIENT_SECRET: "canary-secret",
        OAUTH_INSECURE: "true",
        PRICES_URL: feed.url,
        CASH: "100"
      }))
    )
    const listening = yield* Layer.build(
      NodeHttpServer.layer(() => createServer(), { port: 0, host: "127.0.0.1" })
    )
    yield* Layer.launch(server).pipe(
      Effect.provide(services),
      Effect.provide(Layer.mergeAll(NodeWebSocketDialer.layer(), FetchHttpClient.layer, quiet)),
      Effect.provide(listening),
      Effect.withConfigProvider(config),
      Effect.forkScoped
    )
    const url = HttpServer.formatAddress(Context.get(listening, HttpServer.HttpServer).address)
    const { got, socket } = yield* feed.accept
    const ask = (method: string, path: string) =>
      Effect.promise(async () => {
        const response = await fetch(`${url}${path}`, { method })
        return { status: response.status, body: await response.json() as Record<string, unknown> }
      })
    /** Asks until the answer has that status. */
    const until = (status: number, method: string, path: string) =>
      ask(method, path).pipe(
        Effect.filterOrFail((answer) => answer.status === status),
        Effect.retry(Schedule.spaced("5 millis")),
        Effect.timeout("30 seconds")
      )
    const price = (item: string, price: number) => socket.send(JSON.stringify({ item, price }))
    return { ask, until, price, feed, got, socket, supplier, grants: () => grants }
  })

const taken: Reply = { status: 201 }

describe("the example service", () => {
  it.scopedLive("has no price before the feed has sent one, and then buys at it", () =>
    Effect.gen(function*() {
      const { ask, got, price, until } = yield* started(() => taken)
      yield* until(200, "GET", "/health")
      assert.deepStrictEqual(got, [JSON.stringify({ subscribe: "prices" })])
      assert.deepInclude(yield* ask("POST", "/buy/rope"), { status: 503 })
      price("rope", 30)
      const bought = yield* until(201, "POST", "/buy/rope")
      assert.deepStrictEqual(bought.body, { cash: 70, items: { rope: 1 } })
    }))

  it.scopedLive("signs in again, once, when the supplier has revoked its token", () =>
    Effect.gen(function*() {
      let isRevoked = false
      const { ask, grants, price, until } = yield* started((request, accepted) => {
        const isAccepted = request.headers.authorization === accepted && !(isRevoked && accepted === "Bearer token-1")
        return isAccepted ? taken : { status: 401 }
      })
      price("rope", 1)
      yield* until(201, "POST", "/buy/rope")
      isRevoked = true
      const answers = yield* Effect.all(Effect.replicate(ask("POST", "/buy/rope"), 20), { concurrency: "unbounded" })
      assert.deepStrictEqual(new Set(answers.map(({ status }) => status)), new Set([201]))
      assert.strictEqual(grants(), 2)
    }))

  it.scopedLive("keeps the cash when the supplier refuses, and when there is not enough of it", () =>
    Effect.gen(function*() {
      let isSoldOut = false
      const { ask, price, supplier, until } = yield* started(() => isSoldOut ? { status: 409 } : taken)
      price("rope", 60)
      yield* until(201, "POST", "/buy/rope")
      isSoldOut = true
      price("hook", 10)
      yield* until(409, "POST", "/buy/hook")
      isSoldOut = false
      const orders = supplier.received.length
      const refused = yield* ask("POST", "/buy/rope")
      assert.deepInclude(refused.body, { error: "NotEnoughCash" })
      assert.strictEqual(supplier.received.length, orders)
      assert.deepStrictEqual((yield* ask("GET", "/holdings")).body, { cash: 40, items: { rope: 1 } })
    }))

  it.scopedLive("reports at /health that the feed is down, and subscribes again when it is back", () =>
    Effect.gen(function*() {
      const { feed, socket, until } = yield* started(() => taken)
      yield* until(200, "GET", "/health")
      socket.terminate()
      yield* until(503, "GET", "/health")
      const { got } = yield* feed.accept
      yield* until(200, "GET", "/health")
      assert.deepStrictEqual(got, [JSON.stringify({ subscribe: "prices" })])
    }))
})
