import * as FetchHttpClient from "@effect/platform/FetchHttpClient"
import * as KeyValueStore from "@effect/platform/KeyValueStore"
import { assert, describe, it } from "@effect/vitest"
import { OAuth2Session } from "effect-holdfast/oauth2"
import * as PersistedSession from "effect-holdfast/PersistedSession"
import * as Session from "effect-holdfast/Session"
import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
import * as SessionStore from "effect-holdfast/SessionStore"
import * as SharedSession from "effect-holdfast/SharedSession"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { authorizationServer, json } from "../support/authorizationServer.js"
import { serve } from "../support/httpServer.js"
import { memory } from "../support/keyValueMemory.js"

class Persisted extends Effect.Service<Persisted>()("test/Persisted", {
  scoped: PersistedSession.make<string, string, "Refused">({
    key: "own",
    schema: Schema.String,
    acquire: Effect.succeed("own")
  })
}) {
  get named() {
    return Effect.map(this.current, ({ value }) => `persisted ${value}`)
  }
}

class Shared extends Effect.Service<Shared>()("test/Shared", {
  scoped: SharedSession.make<string, string, "Refused">({
    key: "own",
    schema: Schema.String,
    acquire: Effect.succeed("own"),
    renew: (value) => Effect.succeed(`${value}+`)
  })
}) {
  get named() {
    return Effect.map(this.current, ({ value }) => `shared ${value}`)
  }
}

class Api extends Effect.Service<Api>()("test/Api", {
  scoped: OAuth2Session.make({
    issuer: "https://login.example.com",
    clientId: "own",
    grant: OAuth2Session.clientCredentials
  })
}) {
  get scopes() {
    return Effect.map(this.current, ({ value }) => [...value.scope])
  }
}

/** The operations of a session, whatever class it is an instance of. */
const used = <A, E>(session: Session.Session<A, E>) =>
  Effect.gen(function*() {
    assert.isTrue(Session.isSession(session))
    const generation = yield* session.current
    assert.strictEqual(yield* Session.use(session, Effect.succeed), generation.value)
    assert.strictEqual((yield* session.refresh(generation)).number, generation.number + 1)
    yield* session.end
    assert.strictEqual((yield* session.status)._tag, "Idle")
  })

describe("the layer of an `Effect.Service`", () => {
  it.effect("makes instances of the class: a session that is persisted", () =>
    Effect.gen(function*() {
      const disk = memory()
      const layer = PersistedSession.layer(Persisted, {
        key: "api",
        schema: Schema.String,
        acquire: Effect.succeed("token")
      })
      const store = Layer.succeed(KeyValueStore.KeyValueStore, disk.store)
      const program = Effect.gen(function*() {
        const session = yield* Persisted
        assert.instanceOf(session, Persisted)
        assert.strictEqual(yield* session.named, "persisted token")
        assert.strictEqual(disk.values.size, 1)
        yield* used(session)
        assert.strictEqual(disk.values.size, 0)
      })
      yield* Effect.provide(program, Layer.provide(layer, store))
      yield* Effect.provide(program, Layer.provide(layer, store))
    }))

  it.effect("makes instances of the class: a session that a fleet shares", () =>
    Effect.gen(function*() {
      const layer = SharedSession.layer(Shared, {
        key: "api",
        schema: Schema.String,
        acquire: Effect.succeed("token"),
        renew: (value) => Effect.succeed(`${value}+`)
      })
      const session = yield* Effect.map(Shared, (session) => {
        assert.instanceOf(session, Shared)
        return session
      }).pipe(
        Effect.tap((session) => Effect.map(session.named, (named) => assert.strictEqual(named, "shared token"))),
        Effect.tap(used),
        Effect.provide(Layer.provide(layer, SessionStore.layerMemory))
      )
      assert.strictEqual((yield* session.status)._tag, "Closed")
    }))

  it.scoped("makes instances of the class: an OAuth 2 session, by `layer` and `layerConfig`, for a client", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(() => json({ access_token: "canary-access" }))
      const api = yield* serve(({ headers }) => ({ status: headers.authorization === undefined ? 401 : 200 }))
      const options = {
        issuer: server.url,
        clientId: "app",
        grant: OAuth2Session.clientCredentials,
        scope: ["a", "b"],
        allowInsecureRequests: true
      } as const
      const program = Effect.gen(function*() {
        const session = yield* Api
        assert.instanceOf(session, Api)
        assert.deepStrictEqual(yield* session.scopes, ["a", "b"])
        const client = yield* OAuth2Session.client(session, { origins: [api.url] })
        assert.strictEqual((yield* client.get(api.url)).status, 200)
        yield* used(session)
      })
      yield* Effect.provide(program, OAuth2Session.layer(Api, options))
      const clientId = Config.succeed("app")
      yield* Effect.provide(program, OAuth2Session.layerConfig(Api, { ...options, clientId }))
      const client = SessionHttpClient.layer(Api, { attach: OAuth2Session.attach, origins: [api.url] })
      yield* Effect.scoped(
        Layer.build(client.pipe(Layer.provide(OAuth2Session.layer(Api, options)), Layer.provide(FetchHttpClient.layer)))
      )
    }).pipe(Effect.provide(FetchHttpClient.layer)))
})

describe("tokens that are kept in one environment and not in another", () => {
  class Kept extends Context.Tag("test/Kept")<
    Kept,
    Session.Session<OAuth2Session.Tokens, OAuth2Session.SignInError | PersistedSession.PersistenceError>
  >() {}

  it.effect.each([true, false])(
    "are shared by all layers, with the errors and the store of the first: %s",
    (isKept) =>
      Effect.gen(function*() {
        const server = yield* authorizationServer(() => json({ access_token: "canary-access" }))
        const options = {
          issuer: server.url,
          clientId: "app",
          grant: OAuth2Session.clientCredentials,
          allowInsecureRequests: true,
          persist: isKept ? { key: "api" } : undefined
        }
        const disk = memory()
        const store = Layer.succeed(KeyValueStore.KeyValueStore, disk.store)
        yield* Effect.provide(Effect.flatMap(OAuth2Session.make(options), (session) => session.current), store)
        assert.strictEqual(disk.values.size, isKept ? 1 : 0)
        const persist = Config.succeed(options.persist)
        const layers = [OAuth2Session.layer(Kept, options), OAuth2Session.layerConfig(Kept, { ...options, persist })]
        for (const layer of layers) {
          const signedIn = Effect.flatMap(Kept, (session) => session.current)
          assert.strictEqual((yield* Effect.provide(signedIn, Layer.provide(layer, store))).number, 0)
        }
      }).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer))
  )
})
