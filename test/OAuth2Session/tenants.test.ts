import * as FetchHttpClient from "@effect/platform/FetchHttpClient"
import * as KeyValueStore from "@effect/platform/KeyValueStore"
import { assert, describe, it } from "@effect/vitest"
import { InvalidOptions } from "effect-holdfast/InvalidOptions"
import { OAuth2Session } from "effect-holdfast/oauth2"
import * as Session from "effect-holdfast/Session"
import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
import * as SessionMap from "effect-holdfast/SessionMap"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as TestClock from "effect/TestClock"
import { authorizationServer, json } from "../support/authorizationServer.js"
import { serve } from "../support/httpServer.js"
import { memory } from "../support/keyValueMemory.js"

describe("a map of OAuth 2 sessions", () => {
  it.scoped("M1, O2: each tenant has its own tokens, and stored tokens outlive their session", () =>
    Effect.gen(function*() {
      const issued = new Map<string, number>()
      const server = yield* authorizationServer(({ form }) => {
        const tenant = form.get("client_id")!
        const n = (issued.get(tenant) ?? 0) + 1
        issued.set(tenant, n)
        return json({ access_token: `${tenant}-${n}`, refresh_token: `refresh-${tenant}-${n}` })
      })
      const api = yield* serve(({ headers }) => ({ body: headers.authorization ?? "" }))
      const disk = memory()
      const tenants = yield* SessionMap.make({
        lookup: (tenant: string) =>
          OAuth2Session.make({
            issuer: server.url,
            clientId: tenant,
            clientAuth: OAuth2Session.secretPost(Redacted.make("canary-secret")),
            grant: OAuth2Session.clientCredentials,
            persist: { key: tenant },
            allowInsecureRequests: true
          }),
        idleTimeToLive: "1 minute"
      }).pipe(Effect.provideService(KeyValueStore.KeyValueStore, disk.store))
      const client = yield* SessionHttpClient.makeKeyed(tenants, {
        key: ({ url }) => new URL(url).pathname.slice(1),
        attach: OAuth2Session.attach
      })
      const sent = (tenant: string) => Effect.flatMap(client.get(`${api.url}/${tenant}`), ({ text }) => text)
      const all = yield* Effect.forEach(["a", "b", "a", "b", "a"], sent, { concurrency: "unbounded" })
      assert.deepStrictEqual(all, ["a-1", "b-1", "a-1", "b-1", "a-1"].map((token) => `Bearer ${token}`))
      yield* TestClock.adjust("2 minutes")
      assert.strictEqual(yield* sent("a"), "Bearer a-1", "from the store")
      const refreshed = Effect.flatMap(
        SessionMap.get(tenants, "a"),
        (session) => Effect.flatMap(session.current, session.refresh)
      )
      yield* Effect.scoped(refreshed)
      yield* TestClock.adjust("2 minutes")
      assert.strictEqual(yield* sent("a"), "Bearer a-2")
      assert.deepStrictEqual(issued, new Map([["a", 2], ["b", 1]]))
    }).pipe(Effect.provide(FetchHttpClient.layer)))

  it.scoped("M1: invalid options of one tenant fail only that tenant, and so does a failure of its store", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(() => json({ access_token: "canary-access" }))
      const disk = memory()
      const tenants = yield* SessionMap.make({
        lookup: (tenant: string) =>
          OAuth2Session.make({
            issuer: server.url,
            clientId: tenant,
            grant: OAuth2Session.clientCredentials,
            persist: { key: `tenant ${tenant}` },
            allowInsecureRequests: true
          })
      }).pipe(Effect.provideService(KeyValueStore.KeyValueStore, disk.store))
      const value = (tenant: string) =>
        Effect.scoped(
          Effect.flatMap(SessionMap.get(tenants, tenant), (session) => Session.use(session, Effect.succeed))
        )
      assert.instanceOf(yield* Effect.flip(value("")), InvalidOptions)
      disk.state.broken = true
      assert.deepInclude(yield* Effect.flip(value("a")), { _tag: "PersistenceError", reason: "Store" })
      disk.state.broken = false
      assert.strictEqual(Redacted.value((yield* value("a")).accessToken), "canary-access", "not remembered")
    }).pipe(Effect.provide(FetchHttpClient.layer)))
})
