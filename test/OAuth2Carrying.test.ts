import * as FetchHttpClient from "@effect/platform/FetchHttpClient"
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as KeyValueStore from "@effect/platform/KeyValueStore"
import { assert, describe, it } from "@effect/vitest"
import { OAuth2Session } from "effect-holdfast/oauth2"
import type * as Session from "effect-holdfast/Session"
import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
import * as SessionMap from "effect-holdfast/SessionMap"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import { inspect } from "node:util"
import { authorizationServer, json } from "./support/authorizationServer.js"
import { eventually, type Received, type Reply, serve } from "./support/httpServer.js"
import { memory } from "./support/keyValueMemory.js"

const http = Effect.provide(FetchHttpClient.layer)

const options = {
  clientId: "app",
  clientAuth: OAuth2Session.secretPost(Redacted.make("canary-client-secret")),
  grant: OAuth2Session.clientCredentials,
  allowInsecureRequests: true
} as const

const payloadOf = (jwt: string) => JSON.parse(Buffer.from(jwt.split(".")[1]!, "base64url").toString())

/** An API whose nonce changes every five requests, and which only accepts the newest. */
const strictApi = (isGood: (token: string) => boolean) => {
  let count = 0
  const refusals = { nonce: 0, token: 0 }
  return {
    refusals,
    answer: ({ headers }: Received): Reply => {
      const nonce = `nonce-${Math.floor(count++ / 5)}`
      const fresh = { "dpop-nonce": nonce }
      if (typeof headers["dpop"] !== "string" || payloadOf(headers["dpop"]).nonce !== nonce) {
        refusals.nonce++
        return { status: 401, headers: { ...fresh, "www-authenticate": `DPoP error="use_dpop_nonce"` } }
      }
      if (isGood(headers.authorization!.slice("DPoP ".length))) return { headers: fresh }
      refusals.token++
      return { status: 401, headers: { ...fresh, "www-authenticate": `DPoP error="invalid_token"` } }
    }
  }
}

describe("tokens that are bound to a key", () => {
  /** `asksForNonce`: the authorization server wants its own nonce in the proof. */
  const boundServer = (asksForNonce = true) => {
    let n = 0
    return authorizationServer(({ received }) => {
      const proof = received.headers["dpop"]
      if (typeof proof !== "string") return json({ error: "invalid_dpop_proof" }, 400)
      return asksForNonce && payloadOf(proof).nonce !== "as-nonce"
        ? json({ error: "use_dpop_nonce" }, 400, { "dpop-nonce": "as-nonce" })
        : json({ access_token: `canary-access-${++n}`, token_type: "DPoP", expires_in: 3600 })
    })
  }

  it.scoped("carry a proof for their request, repeated with the nonce that a server asks for", () =>
    Effect.gen(function*() {
      const server = yield* boundServer()
      const { answer, refusals } = strictApi(() => true)
      const api = yield* serve(answer)
      const session = yield* OAuth2Session.make({ ...options, issuer: server.url, dpop: true })
      const client = yield* OAuth2Session.client(session, { origins: [api.url] })
      for (let i = 0; i < 12; i++) assert.strictEqual((yield* client.get(`${api.url}/a?b=${i}`)).status, 200)
      assert.strictEqual(server.asked.length, 2)
      assert.isAtMost(refusals.nonce, 4)
      const { headers } = api.received.at(-1)!
      const proof = payloadOf(headers["dpop"] as string)
      assert.strictEqual(proof.htu, `${api.url}/a`)
      assert.strictEqual(proof.htm, "GET")
      const digest = yield* Effect.promise(() =>
        crypto.subtle.digest("SHA-256", new TextEncoder().encode("canary-access-1"))
      )
      assert.strictEqual(proof.ath, Buffer.from(digest).toString("base64url"))
      assert.strictEqual(new Set(api.received.map(({ headers }) => headers["dpop"])).size, api.received.length)
    }).pipe(http))

  it.scoped("are granted twice for fifty callers and one revocation, all together, with three posts", () =>
    Effect.gen(function*() {
      const server = yield* boundServer()
      const { answer, refusals } = strictApi((token) => token === "canary-access-2")
      const api = yield* serve(answer)
      const session = yield* OAuth2Session.make({ ...options, issuer: server.url, dpop: true })
      const client = yield* OAuth2Session.client(session, { origins: [api.url] })
      const statuses = yield* Effect.all(
        Array.from({ length: 50 }, () => Effect.scoped(Effect.map(client.get(api.url), ({ status }) => status))),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(statuses, Array.from({ length: 50 }, () => 200))
      assert.isAtLeast(refusals.token, 1)
      assert.strictEqual(server.asked.length, 3)
    }).pipe(http))

  /** An API whose nonce changes when the test says so, and which never answers `/hang`. */
  const patientApi = Effect.gen(function*() {
    const server = yield* boundServer(false)
    const state = { nonce: "nonce-1", hanging: 0 }
    const api = yield* serve(({ headers, path }): Reply | Effect.Effect<Reply> => {
      const fresh = { "dpop-nonce": state.nonce }
      if (payloadOf(headers["dpop"] as string).nonce !== state.nonce) {
        return { status: 401, headers: { ...fresh, "www-authenticate": `DPoP error="use_dpop_nonce"` } }
      }
      if (path !== "/hang") return { headers: fresh }
      state.hanging++
      return Effect.never
    })
    const session = yield* OAuth2Session.make({ ...options, issuer: server.url, dpop: true })
    const client = yield* OAuth2Session.client(session, { origins: [api.url] })
    const get = (path: string) => Effect.map(client.get(`${api.url}${path}`), ({ status }) => status)
    const changes = (nonce: string) =>
      Effect.zipRight(
        Effect.sync(() => {
          state.nonce = nonce
        }),
        get("/")
      )
    yield* get("/")
    const hangs = Effect.zipRight(Effect.fork(get("/hang")), eventually(Effect.sync(() => state.hanging > 0)))
    return { changes, get, hangs }
  })

  it.scoped("wait at most a second for another request that hangs, if nonces are used up quickly", () =>
    Effect.gen(function*() {
      const { changes, get, hangs } = yield* patientApi
      yield* changes("nonce-2")
      yield* hangs
      const others = yield* Effect.fork(Effect.all([get("/"), get("/"), get("/")], { concurrency: "unbounded" }))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* Fiber.join(others), [200, 200, 200])
    }).pipe(http))

  it.scoped("wait for no other request if nonces last for minutes", () =>
    Effect.gen(function*() {
      const { changes, get, hangs } = yield* patientApi
      yield* TestClock.adjust("1 minute")
      yield* changes("nonce-2")
      yield* hangs
      assert.strictEqual(yield* get("/"), 200)
    }).pipe(http))

  it.scoped("are renewed if they come from a store and the session has no key any more", () =>
    Effect.gen(function*() {
      let n = 0
      const server = yield* authorizationServer(({ received }) =>
        json({
          access_token: `canary-access-${++n}`,
          refresh_token: "canary-refresh",
          token_type: received.headers["dpop"] === undefined ? "Bearer" : "DPoP"
        })
      )
      const api = yield* serve(() => ({ status: 200 }))
      const { store } = memory()
      const make = (dpop: true | undefined) =>
        Effect.provideService(
          OAuth2Session.make({ ...options, issuer: server.url, dpop, persist: { key: "api" } }),
          KeyValueStore.KeyValueStore,
          store
        )
      yield* Effect.scoped(Effect.flatMap(make(true), (session) => session.current))
      const client = yield* OAuth2Session.client(yield* make(undefined), { origins: [api.url] })
      assert.strictEqual((yield* client.get(api.url)).status, 200)
      assert.strictEqual(api.received[0]!.headers.authorization, "Bearer canary-access-2")
    }).pipe(http))

  it.scoped("work through `SessionHttpClient.layer` and `makeKeyed` by `attach` and `rejected`", () =>
    Effect.gen(function*() {
      const server = yield* boundServer(false)
      const api = yield* serve(strictApi(() => true).answer)
      class Api extends Context.Tag("Api")<
        Api,
        Session.Session<OAuth2Session.Tokens, OAuth2Session.SignInError>
      >() {}
      const carrying = { attach: OAuth2Session.attach, rejected: OAuth2Session.rejected, origins: [api.url] }
      const plain = SessionHttpClient.layer(Api, carrying).pipe(
        Layer.provide(OAuth2Session.layer(Api, { ...options, issuer: server.url, dpop: true }))
      )
      const status = Effect.flatMap(HttpClient.HttpClient, (client) => Effect.map(client.get(api.url), (r) => r.status))
      assert.strictEqual(yield* Effect.provide(status, plain), 200)
      const session = yield* OAuth2Session.make({ ...options, issuer: server.url, dpop: true })
      const map = yield* SessionMap.make({
        lookup: (_: string) => ({ acquire: Effect.map(session.current, ({ value }) => value) })
      })
      const keyed = yield* SessionHttpClient.makeKeyed(map, { ...carrying, key: () => "one" })
      assert.strictEqual((yield* keyed.get(api.url)).status, 200)
    }).pipe(http))

  it.scoped("are asked for with a key that outlives the process, where they are persisted for a public client", () =>
    Effect.gen(function*() {
      const make = OAuth2Session.make({
        ...options,
        clientAuth: undefined,
        issuer: "http://127.0.0.1:1",
        dpop: true,
        persist: { key: "api" }
      })
      const error = yield* Effect.flip(Effect.provideService(make, KeyValueStore.KeyValueStore, memory().store))
      assert.deepInclude(error, { _tag: "InvalidOptions", option: "dpop" })
    }).pipe(http))

  it.scoped("are required: tokens that a server does not bind are refused", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(() => json({ access_token: "canary-access", token_type: "Bearer" }))
      const session = yield* OAuth2Session.make({ ...options, issuer: server.url, dpop: true })
      assert.deepInclude(yield* Effect.flip(session.current), { error: "invalid_response" })
    }).pipe(http))
})

describe("the responses and errors that are given back", () => {
  const shown = (value: unknown) =>
    [inspect(value, { depth: 12, showHidden: true }), JSON.stringify(value), String(value)].join("\n")

  it.scoped("O8: shows the caller's request and not the token: responses and errors of both kinds", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(() => json({ access_token: "canary-access", expires_in: 3600 }))
      const api = yield* serve(({ path }): Reply =>
        path === "/short"
          ? {
            write: (response) => {
              response.writeHead(200, { "content-length": "100" })
              response.write("short")
              setTimeout(() => response.destroy(), 5)
            }
          }
          : path === "/cut"
          ? { write: (response) => response.destroy() }
          : { status: path === "/no" ? 401 : 200, body: "{" }
      )
      const session = yield* OAuth2Session.make({
        ...options,
        issuer: server.url,
        budget: { refreshes: 99, within: 1 }
      })
      const client = yield* OAuth2Session.client(session, { origins: [api.url] })
      const request = HttpClientRequest.get(`${api.url}/ok`)
      const response = yield* client.execute(request)
      assert.strictEqual(response.request, request)
      const failing = [
        client.get(`${api.url}/cut`),
        client.get(`${api.url}/no`),
        Effect.flatMap(client.get(`${api.url}/ok`), (response) => response.json),
        Effect.flatMap(client.get(`${api.url}/short`), (response) => response.text),
        Effect.flatMap(client.get(`${api.url}/short`), (response) => Stream.runDrain(response.stream)),
        HttpClient.filterStatus(client, () => false).get(`${api.url}/ok`)
      ]
      const all: Array<unknown> = [response]
      for (const one of failing) all.push(yield* Effect.exit(one))
      for (const one of all) {
        assert.notInclude(shown(one), "canary")
        if (Exit.isExit(one) && Exit.isFailure(one)) assert.notInclude(Cause.pretty(one.cause), "canary")
      }
    }).pipe(http))

  it.scoped("refuses options without an origin, and with an invalid one", () =>
    Effect.gen(function*() {
      const session = yield* OAuth2Session.make({ ...options, issuer: "http://127.0.0.1:1" })
      for (
        const origins of [[], ["api.example.com"], ["ftp://api.example.com"], ["https://canary@"], undefined as never]
      ) {
        const error = yield* Effect.flip(OAuth2Session.client(session, { origins }))
        assert.deepInclude(error, { _tag: "InvalidOptions", option: "origins" })
        assert.notInclude(shown(error), "canary")
      }
    }).pipe(http))
})
