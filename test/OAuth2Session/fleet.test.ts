import * as FetchHttpClient from "@effect/platform/FetchHttpClient"
import type * as HttpClient from "@effect/platform/HttpClient"
import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { InvalidOptions } from "effect-holdfast/InvalidOptions"
import { OAuth2Session } from "effect-holdfast/oauth2"
import type * as Session from "effect-holdfast/Session"
import * as SessionStore from "effect-holdfast/SessionStore"
import type * as SharedSession from "effect-holdfast/SharedSession"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as TestClock from "effect/TestClock"
import { type Asked, authorizationServer, json } from "../support/authorizationServer.js"
import { type Reply, serve } from "../support/httpServer.js"
import { settle } from "../support/settle.js"

const key = Redacted.make(Buffer.alloc(32, 7).toString("base64"))

const options = {
  clientId: "app",
  clientAuth: OAuth2Session.secretPost(Redacted.make("canary-secret")),
  grant: OAuth2Session.clientCredentials,
  allowInsecureRequests: true,
  persist: { store: SessionStore.SessionStore, key: "app", encryptWith: key }
} as const

type FleetSession = Session.Session<OAuth2Session.Tokens, OAuth2Session.SignInError | SharedSession.SharedSessionError>

const accessOf = ({ value }: Session.Generation<OAuth2Session.Tokens>): string => Redacted.value(value.accessToken)

const signIn = Effect.flatMap((session: FleetSession) => session.current)

/** The sessions of processes that share one store. */
const processes = <const Count extends number>(count: Count, make: Effect.Effect<FleetSession, any, any>) =>
  Effect.gen(function*() {
    const store = yield* Effect.provide(SessionStore.SessionStore, SessionStore.layerMemory)
    const one = Effect.provide(
      make as Effect.Effect<FleetSession, InvalidOptions, SessionStore.SessionStore>,
      Layer.merge(Layer.succeed(SessionStore.SessionStore, store), FetchHttpClient.layer)
    )
    return { store, sessions: yield* Effect.all(Array.from({ length: count }, () => one)) }
  })

/** Rotates refresh tokens, and accepts none twice. */
const rotating = (more: Record<string, unknown> = {}) => {
  let n = 0
  const presented: Array<string> = []
  return {
    presented,
    answer: ({ form, path }: Asked): Reply => {
      if (path === "/revoke") return {}
      const refresh = form.get("refresh_token")
      if (refresh !== null) {
        if (presented.includes(refresh)) return json({ error: "invalid_grant" }, 400)
        presented.push(refresh)
      }
      n++
      return json({ access_token: `access-${n}`, refresh_token: `refresh-${n}`, expires_in: 3600, ...more })
    }
  }
}

describe("tokens that a fleet shares", () => {
  it.scoped("F8, O2: are obtained once and renewed once for all processes, and kept encrypted", () =>
    Effect.gen(function*() {
      const { answer, presented } = rotating()
      const server = yield* authorizationServer(answer)
      const { sessions, store } = yield* processes(3, OAuth2Session.make({ ...options, issuer: server.url }))
      const first = yield* Effect.all(sessions.map(({ current }) => current), { concurrency: "unbounded" })
      assert.deepStrictEqual(first.map(accessOf), ["access-1", "access-1", "access-1"])
      const next = yield* Effect.all(sessions.map((session, i) => session.refresh(first[i]!)), {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(next.map(accessOf), ["access-2", "access-2", "access-2"])
      assert.deepStrictEqual(presented, ["refresh-1"])
      assert.notInclude(JSON.stringify(yield* store.read("app")), "access-2")
      const { expiresAt } = yield* sessions[0]!.current
      assert.strictEqual(expiresAt, 3_590_000)
    }))

  it.scoped("F10, O3: are revoked once for all by `end`; the other processes sign in again", () =>
    Effect.gen(function*() {
      const { answer } = rotating()
      const server = yield* authorizationServer(answer)
      const { sessions: [one, other] } = yield* processes(2, OAuth2Session.make({ ...options, issuer: server.url }))
      yield* one!.current
      yield* other!.current
      yield* one!.end
      yield* settle
      assert.deepStrictEqual(
        server.asked.filter(({ path }) => path === "/revoke").map(({ form }) => form.get("token")),
        ["refresh-1", "access-1"]
      )
      assert.strictEqual(accessOf(yield* other!.current), "access-2")
    }))

  it.scoped("O1, F6: a refusal causes a sign-in within the same refresh; `Retry-After` delays all processes", () =>
    Effect.gen(function*() {
      let isBusy = false
      const { answer, presented } = rotating()
      const server = yield* authorizationServer((asked) =>
        isBusy ? json({}, 429, { "retry-after": "90" }) : answer(asked)
      )
      const { sessions } = yield* processes(2, OAuth2Session.make({ ...options, issuer: server.url }))
      const [one, other] = sessions as [FleetSession, FleetSession]
      const generation = yield* one.current
      yield* other.current
      presented.push("refresh-1")
      const anew = yield* one.refresh(generation)
      assert.strictEqual(accessOf(anew), "access-2")
      isBusy = true
      const asked = server.asked.length
      assert.deepInclude(yield* Effect.flip(one.refresh(anew)), { error: "temporarily_unavailable", status: 429 })
      yield* TestClock.adjust("60 seconds")
      const cooling = yield* Effect.flip(other.refresh(yield* other.current))
      assert.deepInclude(cooling, { _tag: "SharedSessionError", reason: "CoolingDown" })
      assert.strictEqual(
        Duration.toSeconds((cooling as SharedSession.SharedSessionError).retryAfter!),
        30
      )
      assert.strictEqual(server.asked.length, asked + 1)
    }))

  it.scoped("may be bound to a key that all processes have, and each process can use them", () =>
    Effect.gen(function*() {
      const dpop = yield* Effect.promise(() =>
        crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, false, ["sign", "verify"])
      )
      const server = yield* authorizationServer(rotating({ token_type: "DPoP" }).answer)
      const api = yield* serve(({ headers }) => ({ status: "dpop" in headers ? 200 : 401 }))
      const { sessions } = yield* processes(2, OAuth2Session.make({ ...options, dpop, issuer: server.url }))
      for (const session of sessions) {
        const client = yield* OAuth2Session.client(session, { origins: [api.url] })
        const { headers } = yield* Effect.map(client.get(api.url), ({ status }) => {
          assert.strictEqual(status, 200)
          return api.received.at(-1)!
        })
        assert.strictEqual(headers.authorization, "DPoP access-1")
      }
      const own = OAuth2Session.make({ ...options, dpop: true, issuer: server.url }).pipe(
        Effect.provide(SessionStore.layerMemory)
      )
      const refused = yield* Effect.flip(own)
      assert.deepInclude(refused, { _tag: "InvalidOptions", option: "dpop" })
    }).pipe(Effect.provide(FetchHttpClient.layer)))

  it.scoped("bound to a key are refused by a process without it: the error says what to do, no token is spent", () =>
    Effect.gen(function*() {
      const dpop = yield* Effect.promise(() =>
        crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, false, ["sign", "verify"])
      )
      const server = yield* authorizationServer(rotating({ token_type: "DPoP" }).answer)
      const store = yield* Effect.provide(SessionStore.SessionStore, SessionStore.layerMemory)
      const make = (dpop: CryptoKeyPair | undefined) =>
        Effect.provideService(
          OAuth2Session.make({ ...options, dpop, issuer: server.url }),
          SessionStore.SessionStore,
          store
        )
      yield* (yield* make(dpop)).current
      const asked = server.asked.length
      const without = yield* make(undefined)
      const error = yield* Effect.flip(without.current)
      assert.deepInclude(error, { _tag: "SharedSessionError", reason: "Unreadable" })
      assert.include(
        error.message,
        "bound to a key (DPoP): give all processes that share it the same key pair as `dpop`"
      )
      assert.strictEqual(server.asked.length, asked)
    }).pipe(Effect.provide(FetchHttpClient.layer)))

  it.scoped("are made by the layer of a tag or a service; the types say which store is needed", () =>
    Effect.gen(function*() {
      class ByTag extends Context.Tag("test/ByTag")<ByTag, FleetSession>() {}
      class Local extends Context.Tag("test/Local")<
        Local,
        Session.Session<OAuth2Session.Tokens, OAuth2Session.SignInError>
      >() {}
      const server = yield* authorizationServer(rotating().answer)
      const layer = OAuth2Session.layer(ByTag, { ...options, issuer: server.url })
      expectTypeOf<Layer.Layer.Context<typeof layer>>().toEqualTypeOf<
        SessionStore.SessionStore | HttpClient.HttpClient
      >()
      const stores = Layer.merge(SessionStore.layerMemory, FetchHttpClient.layer)
      assert.strictEqual(accessOf(yield* Effect.provide(signIn(ByTag), Layer.provide(layer, stores))), "access-1")
      const refused = () => {
        // @ts-expect-error the tag's session never fails so
        OAuth2Session.layer(Local, { ...options, issuer: server.url })
      }
      assert.isFunction(refused)
      const wrong = Layer.build(OAuth2Session.layer(ByTag, { ...options, issuer: "nowhere" }))
      const error = yield* Effect.flip(Effect.provide(wrong, stores))
      assert.instanceOf(error, InvalidOptions)
    }))
})
