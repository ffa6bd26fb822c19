import * as FetchHttpClient from "@effect/platform/FetchHttpClient"
import * as HttpClient from "@effect/platform/HttpClient"
import * as KeyValueStore from "@effect/platform/KeyValueStore"
import { assert, describe, it } from "@effect/vitest"
import { OAuth2Session } from "effect-holdfast/oauth2"
import type * as Session from "effect-holdfast/Session"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Redacted from "effect/Redacted"
import * as TestClock from "effect/TestClock"
import { type Asked, authorizationServer, json } from "./support/authorizationServer.js"
import type { Reply } from "./support/httpServer.js"
import { eventually, serve } from "./support/httpServer.js"
import { memory } from "./support/keyValueMemory.js"

const http = Effect.provide(FetchHttpClient.layer)

const token = (n: number | string, more: Record<string, unknown> = {}) =>
  json({ access_token: `canary-access-${n}`, token_type: "Bearer", expires_in: 3600, ...more })

const accessOf = ({ value }: Session.Generation<OAuth2Session.Tokens>): string => Redacted.value(value.accessToken)

const options = {
  clientId: "app",
  clientAuth: OAuth2Session.secretBasic(Redacted.make("canary-client-secret")),
  grant: OAuth2Session.clientCredentials,
  allowInsecureRequests: true
} as const

const refreshing = (name = "configured") => ({
  ...options,
  grant: OAuth2Session.refreshToken(Redacted.make(`canary-refresh-${name}`))
})

/** Gives the answers one after the other, and repeats the last one. */
const inOrder = (...replies: ReadonlyArray<Reply>) => {
  let n = 0
  return (): Reply => replies[Math.min(n++, replies.length - 1)]!
}

describe("the claims of an id_token", () => {
  it.scoped("O2: that JSON cannot carry are left out, so that the tokens can be kept", () =>
    Effect.gen(function*() {
      const part = (json: string) => Buffer.from(json).toString("base64url")
      const server: { readonly url: string } = yield* authorizationServer(() => {
        const now = Math.floor(Date.now() / 1000)
        const claims = `"iss":"${server.url}","aud":"app","sub":"ada","iat":${now},"exp":${now + 300}`
        const idToken = `${part(`{"alg":"RS256"}`)}.${part(`{${claims},"big":1e400,"__proto__":{"a":1}}`)}.AAAA`
        return token(1, { id_token: idToken, refresh_token: "canary-refresh-1" })
      })
      const session = yield* OAuth2Session.make({ ...refreshing(), issuer: server.url, persist: { key: "app" } })
      const { value } = yield* session.current
      assert.strictEqual(value.claims?.["sub"], "ada")
      assert.strictEqual(value.claims?.["big"], null)
      assert.isFalse(Object.hasOwn(value.claims!, "__proto__"))
    }).pipe(http, Effect.provide(KeyValueStore.layerMemory)))
})

describe("a session of client credentials", () => {
  it.scoped("requests a token once for many callers, with the client's authentication", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(() => token(1))
      const session = yield* OAuth2Session.make({
        ...options,
        issuer: server.url,
        scope: "a b",
        resource: ["x:1", "x:2"]
      })
      const all = yield* Effect.all(Array.from({ length: 50 }, () => session.current), { concurrency: "unbounded" })
      assert.deepStrictEqual(new Set(all.map(accessOf)), new Set(["canary-access-1"]))
      assert.strictEqual(server.asked.length, 1)
      const { form, received } = server.asked[0]!
      assert.strictEqual(form.get("grant_type"), "client_credentials")
      assert.strictEqual(form.get("scope"), "a b")
      assert.deepStrictEqual(form.getAll("resource"), ["x:1", "x:2"])
      const sent = Buffer.from(received.headers.authorization!.slice("Basic ".length), "base64").toString()
      assert.strictEqual(decodeURIComponent(sent), "app:canary-client-secret")
      assert.deepStrictEqual([...all[0]!.value.scope], ["a", "b"])
      assert.strictEqual(server.discoveries(), 1)
    }).pipe(http))

  it.scoped("expires a little earlier than the server says, by at most half of the lifetime", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(inOrder(token(1), token(2, { expires_in: 8 })))
      const session = yield* OAuth2Session.make({ ...options, issuer: server.url })
      const first = yield* session.current
      assert.strictEqual(first.value.expiresAt, 3_600_000)
      assert.strictEqual(first.expiresAt, 3_590_000)
      const second = yield* session.refresh(first)
      assert.strictEqual(second.expiresAt, 4_000)
    }).pipe(http))

  it.scoped("sends the token only to its origins, and refreshes it once for all refused requests", () =>
    Effect.gen(function*() {
      let n = 0
      const server = yield* authorizationServer(() => token(++n))
      const api = yield* serve(({ headers }) => ({
        status: headers.authorization === "Bearer canary-access-2" ? 200 : 401
      }))
      const elsewhere = yield* serve(() => ({}))
      const session = yield* OAuth2Session.make({ ...options, issuer: server.url })
      const client = yield* OAuth2Session.client(session, { origins: [api.url] })
      const statuses = yield* Effect.all(
        Array.from({ length: 20 }, () => Effect.scoped(Effect.map(client.get(api.url), ({ status }) => status))),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(new Set(statuses), new Set([200]))
      assert.strictEqual(server.asked.length, 2)
      yield* client.get(elsewhere.url)
      assert.isUndefined(elsewhere.received[0]!.headers.authorization)
    }).pipe(http))
})

describe("a refresh token", () => {
  it.scoped("O2: is replaced by the one in its answer, and each is presented once", () =>
    Effect.gen(function*() {
      let n = 0
      const server = yield* authorizationServer(() => token(++n, { refresh_token: `canary-refresh-${n}` }))
      const session = yield* OAuth2Session.make({ ...refreshing(), issuer: server.url })
      for (let i = 0; i < 3; i++) yield* Effect.flatMap(session.current, session.refresh)
      assert.deepStrictEqual(server.asked.map(({ form }) => form.get("refresh_token")), [
        "canary-refresh-configured",
        "canary-refresh-1",
        "canary-refresh-2",
        "canary-refresh-3"
      ])
    }).pipe(http))

  it.scoped("O2: is presented without the space that a server has put around it", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(() => token(1, { refresh_token: "\tcanary-refresh-1\r\n" }))
      const session = yield* OAuth2Session.make({ ...refreshing(), issuer: server.url })
      yield* session.refresh(yield* session.current)
      assert.deepStrictEqual(server.asked.map(({ form }) => form.get("refresh_token")), [
        "canary-refresh-configured",
        "canary-refresh-1"
      ])
    }).pipe(http))

  it.scoped("that was obtained elsewhere is presented with the requested scope, each time", () =>
    Effect.gen(function*() {
      let n = 0
      const server = yield* authorizationServer(() => token(++n, { refresh_token: `canary-refresh-${n}` }))
      const session = yield* OAuth2Session.make({ ...refreshing(), issuer: server.url, scope: "a b", audience: "api" })
      const { value } = yield* Effect.flatMap(session.current, session.refresh)
      assert.deepStrictEqual(server.asked.map(({ form }) => [form.get("scope"), form.get("audience")]), [
        ["a b", "api"],
        ["a b", "api"]
      ])
      assert.deepStrictEqual([...value.scope], ["a", "b"])
    }).pipe(http))

  it.scoped("O2: stays, with scope, id_token and claims, if the answer has none", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(inOrder(
        token(1, { refresh_token: "canary-refresh-1", scope: "a b" }),
        token(2, { refresh_token: null, scope: "" }),
        token(3, { refresh_token: "" })
      ))
      const session = yield* OAuth2Session.make({ ...refreshing(), issuer: server.url })
      const first = yield* session.current
      const second = yield* session.refresh(first)
      const third = yield* session.refresh(second)
      for (const { value } of [second, third]) {
        assert.strictEqual(Redacted.value(value.refreshToken!), "canary-refresh-1")
        assert.deepStrictEqual([...value.scope], ["a", "b"])
      }
    }).pipe(http))

  it.scoped("O1: that was refused gives SignInRequired to all callers, and is never presented again", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(() =>
        json({ error: "invalid_grant", error_description: "revoked" }, 400)
      )
      const session = yield* OAuth2Session.make({ ...refreshing(), issuer: server.url })
      for (let i = 0; i < 3; i++) {
        const errors = yield* Effect.all(Array.from({ length: 10 }, () => Effect.flip(session.current)), {
          concurrency: "unbounded"
        })
        for (const error of errors) {
          assert.instanceOf(error, OAuth2Session.SignInRequired)
          assert.strictEqual((error as OAuth2Session.SignInRequired).cause?.error, "invalid_grant")
        }
        yield* TestClock.adjust("1 minute")
      }
      assert.strictEqual(server.asked.length, 1)
    }).pipe(http))

  it.scoped("O1: that was spent is never presented again, not even when its successor is refused", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(inOrder(
        token(1, { refresh_token: "canary-refresh-1" }),
        json({ error: "invalid_grant" }, 400)
      ))
      const session = yield* OAuth2Session.make({ ...refreshing(), issuer: server.url })
      const error = yield* Effect.flip(Effect.flatMap(session.current, session.refresh))
      assert.instanceOf(error, OAuth2Session.SignInRequired)
      assert.strictEqual(server.asked.length, 2)
    }).pipe(http))

  it.scoped("O1: that was spent for an answer that is not accepted is not presented again; its successor is", () =>
    Effect.gen(function*() {
      let n = 0
      const server = yield* authorizationServer(({ path }) => {
        if (path === "/revoke") return {}
        const answer = { refresh_token: `canary-refresh-${++n}` }
        return n === 3 || n === 5 ? token(n, { refresh_token: null }) : token(n, { ...answer, token_type: "mac" })
      })
      const session = yield* OAuth2Session.make({ ...refreshing(), issuer: server.url, cooldown: 0 })
      for (let i = 0; i < 2; i++) {
        assert.deepInclude(yield* Effect.flip(session.current), { error: "invalid_response" })
      }
      const first = yield* session.current
      assert.strictEqual(Redacted.value(first.value.refreshToken!), "canary-refresh-2")
      assert.deepInclude(yield* Effect.flip(session.refresh(first)), { error: "invalid_response" })
      const second = yield* session.refresh(first)
      assert.strictEqual(Redacted.value(second.value.refreshToken!), "canary-refresh-4")
      assert.deepInclude(yield* Effect.flip(session.refresh(second)), { error: "invalid_response" })
      yield* session.end
      assert.deepStrictEqual(server.asked.map(({ form }) => form.get("refresh_token") ?? form.get("token")), [
        "canary-refresh-configured",
        "canary-refresh-1",
        "canary-refresh-2",
        "canary-refresh-2",
        "canary-refresh-4",
        "canary-refresh-4",
        "canary-refresh-6",
        "canary-access-5"
      ])
    }).pipe(http))

  it.scoped("O1: that was not refused, because the server had trouble, is presented again", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(
        inOrder(json({}, 429), json({ error: "invalid_client" }, 401), token(1))
      )
      const session = yield* OAuth2Session.make({ ...refreshing(), issuer: server.url })
      assert.deepInclude(yield* Effect.flip(session.current), { error: "temporarily_unavailable", status: 429 })
      yield* TestClock.adjust("1 second")
      assert.deepInclude(yield* Effect.flip(session.current), { error: "invalid_client", status: 401 })
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(accessOf(yield* session.current), "canary-access-1")
    }).pipe(http))

  it.scoped("O1: that was refused leads to a new sign-in within the same refresh, if the grant can", () =>
    Effect.gen(function*() {
      const grants: Array<string | null> = []
      const server = yield* authorizationServer(({ form }) => {
        grants.push(form.get("grant_type"))
        return form.has("refresh_token")
          ? json({ error: "invalid_grant" }, 400)
          : token(grants.length, { refresh_token: `canary-refresh-${grants.length}` })
      })
      const session = yield* OAuth2Session.make({ ...options, issuer: server.url })
      const next = yield* Effect.flatMap(session.current, session.refresh)
      assert.strictEqual(accessOf(next), "canary-access-3")
      assert.deepStrictEqual(grants, ["client_credentials", "refresh_token", "client_credentials"])
    }).pipe(http))

  it.scoped("may be refused for good by another code than the standard's, if `fatal` says so", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(() => json({ error: "bad_refresh_token" }))
      const session = yield* OAuth2Session.make({
        ...refreshing(),
        issuer: server.url,
        fatal: ({ error }) => error === "bad_refresh_token"
      })
      assert.instanceOf(yield* Effect.flip(session.current), OAuth2Session.SignInRequired)
    }).pipe(http))
})

describe("signing out", () => {
  it.scoped("O3: takes at most five seconds, even if neither the store nor the server answers", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(({ path }) => path === "/revoke" ? Effect.never : token(1))
      const disk = memory()
      const store = KeyValueStore.makeStringOnly({ ...disk.store, remove: () => Effect.never })
      const make = (persist: { readonly key: string } | undefined) =>
        Effect.provideService(
          OAuth2Session.make(
            { ...options, issuer: server.url, persist } as typeof options & {
              readonly issuer: string
              readonly persist: { readonly key: string }
            }
          ),
          KeyValueStore.KeyValueStore,
          store
        )
      for (const persist of [{ key: "app" }, undefined]) {
        const asked = server.asked.length
        const session = yield* make(persist)
        yield* session.current
        const ender = yield* Effect.fork(session.end)
        if (persist !== undefined) yield* TestClock.adjust("2 seconds")
        yield* eventually(Effect.sync(() => server.asked.length === asked + 2))
        assert.strictEqual(server.asked.at(-1)!.path, "/revoke")
        yield* TestClock.adjust(persist === undefined ? "4999 millis" : "2999 millis")
        assert.isNull(ender.unsafePoll())
        yield* TestClock.adjust("1 millis")
        yield* Fiber.join(ender)
      }
    }).pipe(http))
})

describe("trouble", () => {
  it.scoped("O1: of the server is retried within the refresh", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(inOrder(json({}, 500), json({}, 503), token(1)))
      const session = yield* OAuth2Session.make({ ...options, issuer: server.url })
      const current = yield* Effect.fork(session.current)
      yield* eventually(Effect.map(TestClock.adjust("100 millis"), () => current.unsafePoll() !== null))
      assert.strictEqual(accessOf(yield* Fiber.join(current)), "canary-access-1")
    }).pipe(http))

  it.scoped("O1: with `Retry-After` ends the refresh, which then has the longer of the two cooldowns", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(inOrder(json({}, 503, { "retry-after": "120" }), token(1)))
      const session = yield* OAuth2Session.make({ ...options, issuer: server.url })
      const error = yield* Effect.flip(session.current)
      assert.deepInclude(error, { error: "temporarily_unavailable", status: 503 })
      assert.strictEqual(Duration.toSeconds((error as OAuth2Session.OAuth2Error).retryAfter!), 120)
      yield* TestClock.adjust("119 seconds")
      assert.strictEqual(yield* Effect.flip(session.current), error)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(accessOf(yield* session.current), "canary-access-1")
      assert.strictEqual(server.asked.length, 2)
    }).pipe(http))

  it.scoped("of the network is reported as one, without the request", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(({ received }) => ({
        write: (response) => {
          void received
          response.destroy()
        }
      }))
      const session = yield* OAuth2Session.make({ ...options, issuer: server.url })
      const current = yield* Effect.fork(Effect.flip(session.current))
      yield* eventually(Effect.map(TestClock.adjust("100 millis"), () => current.unsafePoll() !== null))
      assert.deepInclude(yield* Fiber.join(current), { _tag: "OAuth2Error", error: "unreachable" })
      assert.strictEqual(server.asked.length, 4)
    }).pipe(http))
})

describe("an unusual answer", () => {
  const good: ReadonlyArray<readonly [string, Reply, Partial<OAuth2Session.Tokens>]> = [
    ["a line after the token", token(1, { access_token: "canary-access-1\n" }), {}],
    ["refresh_token null", token(1, { refresh_token: null }), {}],
    ["refresh_token empty", token(1, { refresh_token: "" }), {}],
    ["refresh_token blank", token(1, { refresh_token: " \n" }), { refreshToken: undefined }],
    ["scope null", token(1, { scope: null }), {}],
    ["scope a list", token(1, { scope: ["a", "b c"] }), { scope: new Set(["a", "b", "c"]) }],
    ["scope with commas", token(1, { scope: "repo,gist" }), { scope: new Set(["repo", "gist"]) }],
    ["scope with much space", token(1, { scope: "  a   b " }), { scope: new Set(["a", "b"]) }],
    ["expires_in null", token(1, { expires_in: null }), { expiresAt: undefined }],
    ["expires_in empty", token(1, { expires_in: "" }), { expiresAt: undefined }],
    ["expires_in a string", token(1, { expires_in: "60" }), { expiresAt: 60_000 }],
    ["expires_in no number", token(1, { expires_in: "soon" }), { expiresAt: undefined }],
    ["expires_in a fraction", token(1, { expires_in: 59.5 }), { expiresAt: 59_500 }],
    ["expires_in beyond all time", token(1, { expires_in: 1e306 }), { expiresAt: undefined }],
    ["expires_in beyond the last date", token(1, { expires_in: 8_640_000_000_000 }), { expiresAt: 8.64e15 }],
    ["expires_in negative", token(1, { expires_in: -1 }), { expiresAt: undefined }],
    ["no token_type", token(1, { token_type: undefined }), { tokenType: "Bearer" }],
    ["token_type null", token(1, { token_type: null }), { tokenType: "Bearer" }],
    ["token_type with space around it", token(1, { token_type: " Bearer\n" }), { tokenType: "Bearer" }],
    ["token_type in capitals", token(1, { token_type: "BEARER" }), { tokenType: "Bearer" }],
    ["id_token empty", token(1, { id_token: "" }), { idToken: undefined }],
    ["id_token blank", token(1, { id_token: "  " }), { idToken: undefined }],
    ["error null", token(1, { error: null }), {}],
    ["error empty", token(1, { error: "" }), {}],
    ["status 201", { ...token(1), status: 201 }, {}],
    ["no content type", { ...token(1), headers: {} }, {}],
    ["another content type", { ...token(1), headers: { "content-type": "text/html" } }, {}],
    ["a byte order mark", { ...token(1), body: `\ufeff${token(1).body as string}` }, {}],
    [
      "a form",
      {
        headers: { "content-type": "application/x-www-form-urlencoded; charset=utf-8" },
        body: "access_token=canary-access-1&token_type=bearer&scope=repo%2Cgist"
      },
      { scope: new Set(["repo", "gist"]) }
    ],
    [
      "a form of another content type, with a line after it",
      { headers: { "content-type": "text/plain" }, body: "access_token=canary-access-1&expires_in=60\n" },
      { expiresAt: 60_000 }
    ],
    ["a form of no content type", { body: "access_token=canary-access-1&token_type=bearer" }, { tokenType: "Bearer" }]
  ]

  it.scoped.each(good)("O2: still gives its token: %s", ([, reply, expected]) =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(() => reply)
      const session = yield* OAuth2Session.make({ ...options, issuer: server.url })
      const { value } = yield* session.current
      assert.strictEqual(Redacted.value(value.accessToken), "canary-access-1")
      for (const [name, member] of Object.entries(expected)) {
        assert.deepStrictEqual(value[name as keyof OAuth2Session.Tokens], member, name)
      }
    }).pipe(http))

  it.scoped("O2: a lifetime whose end no date can hold is for ever", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(1)
      const server = yield* authorizationServer(() => token(1, { expires_in: 8_640_000_000_000 }))
      const session = yield* OAuth2Session.make({ ...options, issuer: server.url })
      assert.isUndefined((yield* session.current).value.expiresAt)
    }).pipe(http))

  const bad: ReadonlyArray<readonly [string, Reply, Partial<OAuth2Session.OAuth2Error>]> = [
    ["an error with 200", json({ error: "invalid_scope" }), { error: "invalid_scope", status: 200 }],
    ["an error with 5xx", json({ error: "invalid_scope" }, 500), { error: "invalid_scope", status: 500 }],
    [
      "an error of another content type",
      { ...json({ error: "invalid_client" }, 401), headers: { "content-type": "text/plain" } },
      { error: "invalid_client" }
    ],
    [
      "an error behind a challenge",
      json({ error: "invalid_client" }, 401, { "www-authenticate": `Basic realm="x"` }),
      { error: "invalid_client" }
    ],
    [
      "an error in a challenge alone",
      { status: 401, headers: { "www-authenticate": `Bearer error="invalid_client", error_description="no"` } },
      { error: "invalid_client" }
    ],
    ["HTML", { headers: { "content-type": "text/html" }, body: "<html>canary</html>" }, { error: "invalid_response" }],
    ["HTML with 404", { status: 404, body: "<html>canary</html>" }, { error: "invalid_response", status: 404 }],
    [
      "HTML with a link that has an error",
      { status: 400, body: `<a href="/canary?a=1&error=invalid_scope&b=2">canary</a>` },
      { error: "invalid_response", status: 400 }
    ],
    ["an error with space around it", json({ error: " invalid_scope\n" }, 400), { error: "invalid_scope" }],
    [
      "a description that turns its text around",
      json({ error: "invalid_scope", error_description: "to\u202egol\u2028no" }, 400),
      { description: "to gol no" }
    ],
    ["a list", json([1, 2]), { error: "invalid_response" }],
    ["nothing", { status: 204 }, { error: "invalid_response" }],
    ["an empty token", token(1, { access_token: "" }), { error: "invalid_response" }],
    ["a token of spaces", token(1, { access_token: "  " }), { error: "invalid_response" }],
    ["a token that no header can carry", token(1, { access_token: "canary\naccess" }), { error: "invalid_response" }],
    ["a token in other letters", token(1, { access_token: "canary-\u20ac" }), { error: "invalid_response" }],
    ["a token that is none", token(1, { access_token: 42 }), { error: "invalid_response" }],
    ["a token with 400", { ...token(1), status: 400 }, { error: "invalid_response", status: 400 }],
    ["a foreign token type", token(1, { token_type: "mac" }), { error: "invalid_response" }],
    ["a bound token that nobody asked for", token(1, { token_type: "DPoP" }), { error: "invalid_response" }],
    ["a redirect", { status: 307, headers: { location: "/other" } }, { error: "invalid_response", status: 307 }],
    ["an error that is no code", json({ error: "canary \n\u0000" }, 400), { error: "invalid_response" }],
    ["429", json({}, 429), { error: "temporarily_unavailable", status: 429 }],
    ["a long answer", { body: "x".repeat(1_100_000) }, { error: "invalid_response" }]
  ]

  it.scoped.each(bad)("without a token has its own error: %s", ([, reply, expected]) =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(() => reply)
      const session = yield* OAuth2Session.make({ ...options, issuer: server.url, retry: undefined })
      const error = yield* Effect.flip(session.current)
      assert.deepInclude(error, { _tag: "OAuth2Error", ...expected })
      assert.notInclude(String(error) + JSON.stringify(error), "canary")
      assert.isAtMost(server.asked.filter(({ path }: Asked) => path !== "/token").length, 0)
    }).pipe(http))

  it.scoped("O4: from another address is refused, if the HTTP client follows redirects", () =>
    Effect.gen(function*() {
      const foreign = yield* serve(() => token("foreign"))
      const server = yield* authorizationServer(() => ({ status: 307, headers: { location: foreign.url } }))
      const following = Effect.map(HttpClient.HttpClient, HttpClient.followRedirects(5))
      const error = yield* Effect.flatMap(
        Effect.provideServiceEffect(
          OAuth2Session.make({ ...options, issuer: server.url }),
          HttpClient.HttpClient,
          following
        ),
        (session) => Effect.flip(session.current)
      )
      assert.deepInclude(error, { error: "invalid_response" })
    }).pipe(http))
})

describe("discovery", () => {
  it.scoped("happens at the first use, and tries RFC 8414's address on 404; a failure is not kept", () =>
    Effect.gen(function*() {
      const asked: Array<string> = []
      let isDown = true
      const server = yield* authorizationServer(() => token(1), {
        discovery: (url, path) => {
          asked.push(path)
          if (isDown) return json({}, 500, { "retry-after": "1" })
          return path === "/.well-known/oauth-authorization-server/tenant"
            ? json({ issuer: `${url}/tenant`, token_endpoint: `${url}/token` })
            : json({}, 404)
        }
      })
      const session = yield* OAuth2Session.make({ ...options, issuer: `${server.url}/tenant` })
      assert.deepStrictEqual(asked, [])
      const error = yield* Effect.flip(session.current)
      assert.deepInclude(error, { _tag: "DiscoveryFailed", reason: "UnexpectedStatus", status: 500 })
      isDown = false
      yield* TestClock.adjust("1 second")
      yield* session.current
      assert.deepStrictEqual(asked, [
        "/tenant/.well-known/openid-configuration",
        "/tenant/.well-known/openid-configuration",
        "/.well-known/oauth-authorization-server/tenant"
      ])
      yield* Effect.flatMap(session.current, session.refresh)
      assert.strictEqual(asked.length, 3)
      yield* TestClock.adjust("1 day")
      yield* session.current
      assert.strictEqual(asked.length, 5)
    }).pipe(http))

  it.scoped("takes a slash, the case of letters, a tenant and the metadata's own address for the same issuer", () =>
    Effect.gen(function*() {
      const names: ReadonlyArray<readonly [string, string]> = [
        ["/t", "/t/"],
        ["/t/", "/t"],
        ["/Tenant", "/tenant"],
        ["/common/v2.0", "/{tenantid}/v2.0"],
        ["/t/.well-known/openid-configuration", "/t"],
        ["/.well-known/oauth-authorization-server/t", "/t"]
      ]
      for (const [asked, found] of names) {
        const server = yield* authorizationServer(() => token(1), {
          discovery: (url, path) =>
            path.toLowerCase().includes("/.well-known/")
              ? json({ issuer: url + found, token_endpoint: `${url}/token` })
              : json({}, 404)
        })
        const session = yield* OAuth2Session.make({ ...options, issuer: server.url + asked })
        yield* session.current
        assert.strictEqual(server.discoveries(), 1)
      }
    }).pipe(http))

  it.scoped("O4: refuses another issuer, invalid metadata, and redirects", () =>
    Effect.gen(function*() {
      const cases = [
        [json({ issuer: "https://evil.example", token_endpoint: "https://evil.example/token" }), "IssuerMismatch"],
        [json({ token_endpoint: "https://evil.example/token" }), "InvalidMetadata"],
        [(url: string) => json({ issuer: url }), "InvalidMetadata"],
        [(url: string) => json({ issuer: url, token_endpoint: "/token" }), "InvalidMetadata"],
        [{ body: "<html>" }, "InvalidMetadata"],
        [json({}, 404), "UnexpectedStatus"],
        [{ status: 302, headers: { location: "https://evil.example" } }, "UnexpectedStatus"]
      ] as const
      for (const [reply, reason] of cases) {
        const discovery = typeof reply === "function" ? reply : () => reply
        const server = yield* authorizationServer(() => token(1), { discovery })
        const session = yield* OAuth2Session.make({ ...options, issuer: server.url })
        assert.deepInclude(yield* Effect.flip(session.current), { _tag: "DiscoveryFailed", reason })
        assert.strictEqual(server.asked.length, 0)
      }
    }).pipe(http))

  it.scoped("is not done if the metadata is given", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(() => token(1))
      const issuer = { issuer: server.url, token_endpoint: `${server.url}/token` }
      yield* Effect.flatMap(OAuth2Session.make({ ...options, issuer }), (session) => session.current)
      assert.strictEqual(server.discoveries(), 0)
    }).pipe(http))
})

describe("`end`", () => {
  it.scoped("O3: revokes the refresh token and the access token", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(({ path }) =>
        path === "/revoke" ? { status: 204 } : token(1, { refresh_token: "canary-refresh-1" })
      )
      const session = yield* OAuth2Session.make({ ...refreshing(), issuer: server.url })
      yield* session.current
      yield* session.end
      assert.deepStrictEqual(
        server.asked.slice(1).map(({ form, path }) => [path, form.get("token"), form.get("token_type_hint")]),
        [["/revoke", "canary-refresh-1", "refresh_token"], ["/revoke", "canary-access-1", "access_token"]]
      )
      assert.instanceOf(yield* Effect.flip(session.current), OAuth2Session.SignInRequired)
    }).pipe(http))

  it.scoped("O3: takes five seconds at most, and works offline", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(({ path }) => path === "/revoke" ? Effect.never : token(1))
      const session = yield* OAuth2Session.make({ ...options, issuer: server.url })
      yield* session.current
      const ending = yield* Effect.fork(session.end)
      yield* eventually(Effect.sync(() => server.asked.some(({ path }) => path === "/revoke")))
      yield* TestClock.adjust("4999 millis")
      assert.isNull(ending.unsafePoll())
      yield* TestClock.adjust("1 millis")
      yield* Fiber.join(ending)
      assert.strictEqual((yield* session.status)._tag, "Idle")
    }).pipe(http))
})
