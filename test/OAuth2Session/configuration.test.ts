import * as FetchHttpClient from "@effect/platform/FetchHttpClient"
import * as KeyValueStore from "@effect/platform/KeyValueStore"
import { assert, describe, it } from "@effect/vitest"
import { OAuth2Session } from "effect-holdfast/oauth2"
import type * as PersistedSession from "effect-holdfast/PersistedSession"
import type * as Session from "effect-holdfast/Session"
import * as Cause from "effect/Cause"
import * as Config from "effect/Config"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import { inspect } from "node:util"
import { authorizationServer, json } from "../support/authorizationServer.js"
import { memory } from "../support/keyValueMemory.js"

class Api extends Context.Tag("Api")<
  Api,
  Session.Session<OAuth2Session.Tokens, OAuth2Session.SignInError | PersistedSession.PersistenceError>
>() {}

const configured = OAuth2Session.layerConfig(Api, {
  issuer: Config.string("OAUTH_ISSUER"),
  clientId: Config.string("OAUTH_CLIENT_ID"),
  clientAuth: Config.map(Config.redacted("OAUTH_CLIENT_SECRET"), OAuth2Session.secretPost),
  grant: Config.map(Config.redacted("OAUTH_REFRESH_TOKEN"), OAuth2Session.refreshToken),
  allowInsecureRequests: Config.withDefault(Config.boolean("OAUTH_INSECURE"), false),
  scope: [Config.string("OAUTH_FIRST_SCOPE"), "b"],
  budget: { refreshes: Config.integer("OAUTH_BUDGET"), within: "1 minute" },
  timeout: Config.duration("OAUTH_TIMEOUT"),
  persist: { key: "api", encryptWith: Config.redacted("OAUTH_STORE_KEY") },
  retry: undefined
})

type Values = Readonly<Record<string, string | undefined>>

const values = (issuer: string): Values => ({
  OAUTH_ISSUER: issuer,
  OAUTH_CLIENT_ID: "app",
  OAUTH_CLIENT_SECRET: "canary-secret",
  OAUTH_REFRESH_TOKEN: "canary-refresh",
  OAUTH_INSECURE: "true",
  OAUTH_FIRST_SCOPE: "a",
  OAUTH_BUDGET: "3",
  OAUTH_TIMEOUT: "7 seconds",
  OAUTH_STORE_KEY: Buffer.alloc(32, 7).toString("base64")
})

const known = (values: Values) =>
  Object.entries(values).filter((entry): entry is [string, string] => entry[1] !== undefined)

/** Puts the values into the environment, which the default provider reads, until the scope closes. */
const inEnvironment = (values: Values) =>
  Layer.scopedDiscard(Effect.acquireRelease(
    Effect.sync(() => {
      const former = { ...process.env }
      for (const name of Object.keys(former)) if (name.startsWith("OAUTH_")) delete process.env[name]
      Object.assign(process.env, Object.fromEntries(known(values)))
      return former
    }),
    (former) =>
      Effect.sync(() => {
        for (const name of Object.keys(process.env)) if (!(name in former)) delete process.env[name]
        Object.assign(process.env, former)
      })
  ))

const providers: ReadonlyArray<readonly [string, (values: Values) => Layer.Layer<never>]> = [
  ["fromMap", (values) => Layer.setConfigProvider(ConfigProvider.fromMap(new Map(known(values))))],
  ["fromEnv", (values) => Layer.merge(inEnvironment(values), Layer.setConfigProvider(ConfigProvider.fromEnv()))],
  ["the default provider", inEnvironment]
]

describe.each(providers)("options from the configuration: %s", (_, provider) => {
  const store = () => Layer.succeed(KeyValueStore.KeyValueStore, memory().store)

  it.scoped("sign in", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(() => json({ access_token: "canary-access", refresh_token: "next" }))
      const layer = configured.pipe(
        Layer.provide(store()),
        Layer.provide(provider(values(server.url)))
      )
      const { value } = yield* Effect.provide(Effect.flatMap(Api, (session) => session.current), layer)
      assert.strictEqual(Redacted.value(value.accessToken), "canary-access")
      const { form } = server.asked[0]!
      assert.strictEqual(form.get("client_secret"), "canary-secret")
      assert.strictEqual(form.get("refresh_token"), "canary-refresh")
    }).pipe(Effect.provide(FetchHttpClient.layer)))

  const wrong: ReadonlyArray<readonly [string, string | undefined, RegExp]> = [
    ...Object.keys(values("")).filter((name) => name !== "OAUTH_INSECURE").map((name) =>
      [name, undefined, new RegExp(name)] as const
    ),
    ["OAUTH_INSECURE", "perhaps", /OAUTH_INSECURE/],
    ["OAUTH_INSECURE", undefined, /issuer/],
    ["OAUTH_BUDGET", "many", /OAUTH_BUDGET/],
    ["OAUTH_BUDGET", "0", /budget/],
    ["OAUTH_TIMEOUT", "soon", /OAUTH_TIMEOUT/],
    ["OAUTH_TIMEOUT", "0 millis", /timeout/],
    ["OAUTH_CLIENT_ID", "", /clientId/],
    ["OAUTH_CLIENT_SECRET", "", /clientAuth/],
    ["OAUTH_CLIENT_SECRET", " \n", /clientAuth/],
    ["OAUTH_REFRESH_TOKEN", "", /grant/],
    ["OAUTH_STORE_KEY", "canary", /encryptWith/],
    ["OAUTH_STORE_KEY", Buffer.from("canary-of-31-bytes-1234567890ab").toString("base64"), /encryptWith/],
    ["OAUTH_ISSUER", "login", /issuer/],
    ["OAUTH_ISSUER", "https//user:canary@login.example.com", /issuer/],
    ["OAUTH_ISSUER", "user:canary@login.example.com", /issuer/],
    ["OAUTH_ISSUER", "https://user:canary@login.example.com", /issuer/]
  ]

  it.effect.each(wrong)(
    "name the option that is missing or wrong, and show no secret: %s is %s",
    ([name, value, message]) =>
      Effect.gen(function*() {
        const given = { ...values("http://127.0.0.1:1"), [name]: value }
        const layer = configured.pipe(Layer.provide(store()), Layer.provide(provider(given)))
        const exit = yield* Effect.exit(Effect.scoped(Layer.build(layer)))
        if (!Exit.isFailure(exit)) return assert.fail("is accepted")
        assert.isTrue(Cause.isFailType(exit.cause), "a typed failure")
        const text = [Cause.pretty(exit.cause), inspect(exit, { depth: 12 }), JSON.stringify(exit), String(exit)].join(
          "\n"
        )
        assert.match(Cause.pretty(exit.cause), message)
        assert.notInclude(text, "canary")
        assert.notInclude(text, Buffer.alloc(32, 7).toString("base64"))
      }).pipe(Effect.provide(FetchHttpClient.layer))
  )
})

describe("options that are one Config", () => {
  it.scoped("sign in", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(() => json({ access_token: "canary-access" }))
      const options: OAuth2Session.Options & { readonly persist?: undefined } = {
        issuer: server.url,
        clientId: "app",
        grant: OAuth2Session.clientCredentials,
        allowInsecureRequests: true
      }
      const scope = Config.array(Config.string(), "OAUTH_SCOPE")
      const layer = OAuth2Session.layerConfig(Api, Config.map(scope, (scope) => ({ ...options, scope }))).pipe(
        Layer.provide(inEnvironment({ OAUTH_SCOPE: "a,b" }))
      )
      yield* Effect.provide(Effect.flatMap(Api, (session) => session.current), layer)
      assert.strictEqual(server.asked[0]!.form.get("scope"), "a b")
    }).pipe(Effect.provide(FetchHttpClient.layer)))
})

declare const configuredBy: OAuth2Session.Options & { readonly persist?: OAuth2Session.Persist }

describe("OAuth2Session.make", () => {
  it.scoped("refuses invalid durations with InvalidOptions", () =>
    Effect.gen(function*() {
      for (const option of ["cooldown", "expiryLeeway", "clockTolerance", "timeout"] as const) {
        for (const value of ["soon" as "1 second", -1, NaN]) {
          const error = yield* Effect.flip(OAuth2Session.make({
            issuer: "https://example.com",
            clientId: "app",
            grant: OAuth2Session.clientCredentials,
            [option]: value
          }))
          assert.deepInclude(error, { _tag: "InvalidOptions", option })
        }
      }
    }).pipe(Effect.provide(FetchHttpClient.layer)))

  it.effect("refuses options of the wrong type by name, and shows no credential", () =>
    Effect.gen(function*() {
      const grants = OAuth2Session as unknown as Record<string, (given: unknown) => unknown>
      const wrong: ReadonlyArray<readonly [option: string, value: unknown, given: unknown]> = [
        ["clientAuth", null, null],
        ["clientAuth", "<string>", "canary"],
        ["clientAuth", "<redacted>", grants["secretBasic"]!("canary")],
        ["clientAuth", "<redacted>", grants["privateKeyJwt"]!(null)],
        ["grant", null, null],
        ["grant", undefined, {}],
        ["grant.onPrompt", undefined, OAuth2Session.deviceCode(undefined as never)],
        ["grant.receiver", undefined, OAuth2Session.authorizationCode(undefined as never)],
        ["grant.receiver", "<object>", OAuth2Session.authorizationCode({ redirectUri: "https://a.example" } as never)],
        ["grant.assertion", "<string>", grants["jwtBearer"]!("canary")],
        ["grant.subjectToken", "<string>", grants["tokenExchange"]!({ subjectToken: "canary" })],
        ["grant.subjectTokenType", undefined, grants["tokenExchange"]!({ subjectToken: Effect.succeed("canary") })],
        ["parameters", "<object>", { secret: 1 }],
        ["audience", null, null],
        ["allowInsecureRequests", "<string>", "yes"],
        ["fatal", null, null],
        ["retry", "<number>", 3],
        ["refreshAhead", -1, -1],
        ["budget", "<number>", 3],
        ["name", null, null],
        ["persist", null, null],
        ["persist.store", null, { key: "api", store: null }],
        ["key", undefined, {}]
      ]
      for (const [name, value, given] of wrong) {
        const option = name === "key" ? "persist" : name.split(".", 1)[0]!
        const options = { issuer: "https://example.com", clientId: "app", grant: OAuth2Session.clientCredentials }
        const error = yield* Effect.flip(
          OAuth2Session.make({ ...options, [option]: given } as unknown as typeof configuredBy)
        )
        assert.deepInclude(error, { _tag: "InvalidOptions", option: name, value })
        assert.notInclude(inspect(error) + String(error), "canary")
      }
      for (const given of [null, undefined, "options"]) {
        const error = yield* Effect.flip(OAuth2Session.make(given as unknown as typeof configuredBy))
        assert.deepInclude(error, { _tag: "InvalidOptions", option: "options" })
      }
    }).pipe(Effect.scoped, Effect.provide(Layer.merge(FetchHttpClient.layer, KeyValueStore.layerMemory))))
})
