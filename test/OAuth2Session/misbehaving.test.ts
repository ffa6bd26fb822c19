import * as FetchHttpClient from "@effect/platform/FetchHttpClient"
import * as HttpClient from "@effect/platform/HttpClient"
import { assert, describe, it } from "@effect/vitest"
import { OAuth2Session } from "effect-holdfast/oauth2"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import * as TestClock from "effect/TestClock"
import type { ServerResponse } from "node:http"
import { type Asked, type AuthorizationServer, authorizationServer, json } from "../support/authorizationServer.js"
import { failureOf } from "../support/exits.js"
import { eventually, type Reply, serve } from "../support/httpServer.js"

const http = Effect.provide(FetchHttpClient.layer)

const options = {
  clientId: "app",
  clientAuth: OAuth2Session.secretPost(Redacted.make("canary-secret")),
  grant: OAuth2Session.clientCredentials,
  allowInsecureRequests: true
} as const

const good = json({ access_token: "canary-access", expires_in: 3600 })

/** Lets virtual time pass until the fiber has ended. */
const passing = <A, E>(fiber: Fiber.RuntimeFiber<A, E>) =>
  Effect.zipRight(
    eventually(Effect.map(TestClock.adjust("100 millis"), () => fiber.unsafePoll() !== null)),
    Fiber.await(fiber)
  )

describe("a token endpoint that misbehaves", () => {
  it.scoped("O4: with an answer that is too long: the answer is not read to its end", () =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(() => ({
        write: (response) => {
          response.writeHead(200, { "content-type": "application/json" })
          const more = () => {
            while (!response.destroyed && response.write(" ".repeat(65_536)));
          }
          response.on("drain", more)
          more()
        }
      }))
      const session = yield* OAuth2Session.make({ ...options, issuer: server.url })
      const error = yield* Effect.flip(session.current)
      assert.deepInclude(error, { error: "invalid_response", description: "the answer is too long" })
      yield* Deferred.await(server.received.at(-1)!.aborted)
      assert.strictEqual(server.asked.length, 1)
    }).pipe(http))

  it.scoped.each(["head", "body"])(
    "whose %s never ends is waited for as long as a refresh may take",
    (part) =>
      Effect.gen(function*() {
        const server = yield* authorizationServer(() => ({
          write: (response) => {
            if (part === "body") response.writeHead(200).write(`{"access_token":`)
          }
        }))
        const session = yield* OAuth2Session.make({ ...options, issuer: server.url, timeout: "7 seconds" })
        const current = yield* Effect.fork(session.current)
        yield* eventually(Effect.sync(() => server.asked.length === 1))
        yield* TestClock.adjust("6999 millis")
        assert.isNull(current.unsafePoll())
        yield* TestClock.adjust("1 millis")
        assert.strictEqual(failureOf(yield* Fiber.await(current))._tag, "RefreshTimeout")
        yield* Deferred.await(server.received.at(-1)!.aborted)
      }).pipe(http)
  )

  /** A session whose renewal has just timed out, and the server's response, which has not begun. */
  const unanswered = (grant: OAuth2Session.Grant) =>
    Effect.gen(function*() {
      const answers: Array<Reply> = [good]
      const responses: Array<ServerResponse> = []
      const server = yield* authorizationServer(() =>
        answers.shift() ?? { write: (response) => void responses.push(response) }
      )
      const session = yield* OAuth2Session.make({ ...options, grant, issuer: server.url, timeout: "7 seconds" })
      const stale = yield* session.current
      const renewed = yield* Effect.fork(session.refresh(stale))
      yield* eventually(Effect.sync(() => responses.length === 1))
      yield* TestClock.adjust("7 seconds")
      assert.strictEqual(failureOf(yield* Fiber.await(renewed))._tag, "RefreshTimeout")
      return { answers, response: responses[0]!, server, session, stale }
    })

  it.scoped("that does not answer in time is asked again after a second, for client credentials", () =>
    Effect.gen(function*() {
      const { answers, server, session, stale } = yield* unanswered(OAuth2Session.clientCredentials)
      yield* Deferred.await(server.received.at(-1)!.aborted)
      answers.push(good)
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* session.refresh(stale)).number, 1)
      assert.strictEqual(server.asked.length, 3)
    }).pipe(http))

  it.scoped("that does not answer in time is awaited for as long again if it may have used a refresh token up", () =>
    Effect.gen(function*() {
      const grant = OAuth2Session.refreshToken(Redacted.make("canary-refresh"))
      const { response, server, session, stale } = yield* unanswered(grant)
      yield* TestClock.adjust("6 seconds")
      response.writeHead(200).end(good.body)
      assert.strictEqual((yield* session.refresh(stale)).number, 1)
      assert.strictEqual(server.asked.length, 2)
    }).pipe(http))

  it.scoped("O1: whose answer is cut short is asked again, and the part is never taken for the answer", () =>
    Effect.gen(function*() {
      let n = 0
      const server = yield* authorizationServer(() =>
        ++n > 2 ? good : {
          write: (response) => {
            const whole = good.body as string
            response.writeHead(200, { "content-length": whole.length + (n === 1 ? 0 : 1) })
            response.write(n === 1 ? whole.slice(0, 20) : whole)
            setImmediate(() => response.destroy())
          }
        }
      )
      const session = yield* OAuth2Session.make({ ...options, issuer: server.url })
      const exit = yield* passing(yield* Effect.fork(session.current))
      assert.isTrue(Exit.isSuccess(exit))
      assert.strictEqual(server.asked.length, 3)
    }).pipe(http))

  it.scoped.each([301, 302, 303, 307, 308])(
    "O4: that redirects is not followed: %i",
    (status) =>
      Effect.gen(function*() {
        const other = yield* serve(() => good)
        const server = yield* authorizationServer(() => ({ status, headers: { location: `${other.url}/token` } }))
        const session = yield* OAuth2Session.make({ ...options, issuer: server.url })
        assert.deepInclude(yield* Effect.flip(session.current), { error: "invalid_response", status })
        assert.strictEqual(other.received.length, 0)
        assert.strictEqual(server.asked.length, 1)
      }).pipe(http)
  )

  const followers: Record<string, Layer.Layer<HttpClient.HttpClient>> = {
    "by a `RequestInit` of its own": Layer.map(FetchHttpClient.layer, (context) =>
      Context.add(
        context,
        HttpClient.HttpClient,
        HttpClient.transformResponse(
          Context.get(context, HttpClient.HttpClient),
          Effect.provideService(FetchHttpClient.RequestInit, { cache: "no-store" })
        )
      )),
    "by a `Fetch` of its own": Layer.provide(
      FetchHttpClient.layer,
      Layer.succeed(FetchHttpClient.Fetch, (input, init) => fetch(input, { ...init, redirect: "follow" }))
    )
  }
  for (const [how, layer] of Object.entries(followers)) {
    it.scoped(`O4: that redirects is not believed, though the client follows ${how}`, () =>
      Effect.gen(function*() {
        const other = yield* serve(() => good)
        const server = yield* authorizationServer(() => ({ status: 302, headers: { location: `${other.url}/token` } }))
        const session = yield* OAuth2Session.make({ ...options, issuer: server.url })
        assert.deepInclude(yield* Effect.flip(session.current), { error: "invalid_response" })
      }).pipe(Effect.provide(layer)))
  }

  const html = (status: number): Reply => ({
    status,
    headers: { "content-type": "text/html" },
    body: "<html>canary</html>"
  })

  it.scoped.each([[200, "invalid_response", 1], [404, "invalid_response", 1], [502, "server_error", 4]] as const)(
    "that answers with HTML is judged by its status: %i is %s",
    ([status, error, asked]) =>
      Effect.gen(function*() {
        const server = yield* authorizationServer(() => html(status))
        const session = yield* OAuth2Session.make({ ...options, issuer: server.url })
        const failure = failureOf(yield* passing(yield* Effect.fork(session.current)))
        assert.deepInclude(failure, { _tag: "OAuth2Error", error, status })
        assert.include((failure as OAuth2Session.OAuth2Error).message, `${error} (status ${status})`)
        assert.notInclude(String(failure) + JSON.stringify(failure), "canary")
        assert.strictEqual(server.asked.length, asked)
      }).pipe(http)
  )

  const day = 86_400_000

  const asks: ReadonlyArray<readonly [string, number, (now: number) => Record<string, string>]> = [
    ["429, in seconds", 429, () => ({ "retry-after": "90" })],
    ["503, in seconds", 503, () => ({ "retry-after": "90" })],
    ["503, as a date", 503, (now) => ({ "retry-after": new Date(now + 90_000).toUTCString() })],
    ["503, as a date, by a clock that is a day ahead", 503, (now) => ({
      "retry-after": new Date(now + day + 90_000).toUTCString(),
      date: new Date(now + day).toUTCString()
    })],
    ["503, as a date, by a clock that is a day behind", 503, (now) => ({
      "retry-after": new Date(now - day + 90_000).toUTCString(),
      date: new Date(now - day).toUTCString()
    })]
  ]

  it.scoped.each(asks)(
    "O1: that asks clients to wait is not asked earlier: %s",
    ([, status, headers]) =>
      Effect.gen(function*() {
        yield* TestClock.setTime(Date.now())
        const now = yield* Clock.currentTimeMillis
        let n = 0
        const server = yield* authorizationServer(() => n++ === 0 ? json({}, status, headers(now)) : good)
        const session = yield* OAuth2Session.make({ ...options, issuer: server.url })
        const error = yield* Effect.flip(session.current)
        assert.deepInclude(error, { error: "temporarily_unavailable", status })
        assert.approximately(Duration.toSeconds((error as OAuth2Session.OAuth2Error).retryAfter!), 90, 1)
        yield* TestClock.adjust("88 seconds")
        assert.strictEqual(yield* Effect.flip(session.current), error)
        yield* TestClock.adjust("2 seconds")
        yield* session.current
        assert.strictEqual(server.asked.length, 2)
      }).pipe(http)
  )

  it.scoped.each([-day, day])(
    "O2: whose clock is %i ms off issues tokens that last as long as it says",
    (off) =>
      Effect.gen(function*() {
        yield* TestClock.setTime(Date.now() + off)
        const now = yield* Clock.currentTimeMillis
        let n = 0
        const server = yield* authorizationServer(() => json({ access_token: `canary-${++n}`, expires_in: 3600 }))
        const session = yield* OAuth2Session.make({ ...options, issuer: server.url, refreshAhead: 0 })
        const { expiresAt } = yield* session.current
        assert.strictEqual(expiresAt, now + 3_590_000)
        yield* TestClock.adjust("3589 seconds")
        assert.strictEqual((yield* session.current).number, 0)
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* session.current).number, 1)
      }).pipe(http)
  )
})

describe("a discovery endpoint that misbehaves", () => {
  const cases: ReadonlyArray<readonly [string, Reply, Partial<OAuth2Session.DiscoveryFailed>, number]> = [
    ["HTML", { body: "<html>canary</html>" }, { reason: "InvalidMetadata", status: 200 }, 1],
    ["a list", json(["canary"]), { reason: "InvalidMetadata", status: 200 }, 1],
    ["an error", json({}, 500), { reason: "UnexpectedStatus", status: 500 }, 4],
    ["too many requests", json({}, 429, { "retry-after": "90" }), { reason: "UnexpectedStatus", status: 429 }, 1],
    ["no service", json({}, 503, { "retry-after": "90" }), { reason: "UnexpectedStatus", status: 503 }, 1],
    [
      "a redirect",
      { status: 302, headers: { location: "/elsewhere" } },
      { reason: "UnexpectedStatus", status: 302 },
      1
    ],
    [
      "no end",
      { write: (response) => void response.writeHead(200).write("{".repeat(2_000_000)) },
      { reason: "InvalidMetadata", status: 200 },
      1
    ],
    [
      "a cut",
      {
        write: (response) => {
          response.writeHead(200, { "content-length": "100" }).write(`{"issuer":"canary`)
          setImmediate(() => response.destroy())
        }
      },
      { reason: "Unreachable" },
      4
    ]
  ]

  it.scoped.each(cases)("has its own failure: %s", ([, reply, expected, discoveries]) =>
    Effect.gen(function*() {
      const server = yield* authorizationServer(() => good, { discovery: () => reply })
      const session = yield* OAuth2Session.make({ ...options, issuer: server.url })
      const failure = failureOf(yield* passing(yield* Effect.fork(session.current)))
      assert.deepInclude(failure, { _tag: "DiscoveryFailed", issuer: `${server.url}/`, ...expected })
      assert.notInclude(String(failure) + JSON.stringify(failure), "canary")
      assert.strictEqual(server.discoveries(), discoveries)
      assert.strictEqual(server.asked.length, 0)
      if (expected.status === 429 || expected.status === 503) {
        yield* TestClock.adjust("89 seconds")
        assert.strictEqual(yield* Effect.flip(session.current), failure)
      }
    }).pipe(http))
})

describe("an id_token", () => {
  const part = (members: unknown) => Buffer.from(JSON.stringify(members)).toString("base64url")

  /** Signs in with a code, and renews once. `change` makes the id_token from a valid one. */
  const signIn = (
    change: (claims: Record<string, unknown>, url: string) => Record<string, unknown> | string,
    { alg = "RS256", isRenewed = false, off = 0 }: {
      readonly alg?: string
      readonly isRenewed?: boolean
      readonly off?: number
    } = {}
  ) =>
    Effect.gen(function*() {
      yield* TestClock.setTime(Date.now() + off)
      let nonce: string | null = null
      let issued = 0
      const server: AuthorizationServer = yield* authorizationServer(({ form }: Asked) => {
        const now = Math.floor(Date.now() / 1000)
        const claims = { iss: server.url, aud: "app", sub: "canary-ada", iat: now, exp: now + 300 }
        const ofCode = form.get("grant_type") === "authorization_code"
        const whole = ofCode ? { ...claims, nonce } : claims
        const changed = issued++ === (isRenewed ? 1 : 0) ? change(whole, server.url) : whole
        const idToken = typeof changed === "string"
          ? changed
          : `${part({ alg: issued === (isRenewed ? 2 : 1) ? alg : "RS256", typ: "JWT" })}.${part(changed)}.AAAA`
        return json({ access_token: "canary-access", refresh_token: `canary-${issued}`, id_token: idToken })
      })
      const session = yield* OAuth2Session.make({
        issuer: server.url,
        clientId: "app",
        allowInsecureRequests: true,
        retry: Schedule.stop,
        scope: "openid",
        grant: OAuth2Session.authorizationCode({
          redirectUri: "http://127.0.0.1/back",
          onAuthorize: (url) =>
            Effect.sync(() => {
              nonce = url.searchParams.get("nonce")
              return `http://127.0.0.1/back?code=canary-code&state=${url.searchParams.get("state")}`
            })
        })
      })
      const first = yield* Effect.exit(session.current)
      return isRenewed && Exit.isSuccess(first) ? yield* Effect.exit(session.refresh(first.value)) : first
    })

  it.scoped("O4: that is valid is accepted, and the session has its claims", () =>
    Effect.gen(function*() {
      const times = { off: -20_000 }
      for (
        const exit of [
          yield* signIn((claims) => claims),
          yield* signIn((claims) => claims, { isRenewed: true }),
          yield* signIn((claims) => claims, times)
        ]
      ) {
        assert.isTrue(Exit.isSuccess(exit), String(exit))
        if (Exit.isSuccess(exit)) assert.strictEqual(exit.value.value.claims?.["sub"], "canary-ada")
      }
    }).pipe(http))

  it.scoped("O2: of a renewal is accepted by a clock that is wrong, since its refresh token is spent", () =>
    Effect.gen(function*() {
      for (
        const exit of [
          yield* signIn((claims) => ({ ...claims, exp: (claims["exp"] as number) - 86_400 }), { isRenewed: true }),
          yield* signIn((claims) => ({ ...claims, nbf: (claims["exp"] as number) + 86_400 }), { isRenewed: true })
        ]
      ) {
        assert.isTrue(Exit.isSuccess(exit), String(exit))
        if (!Exit.isSuccess(exit)) continue
        assert.strictEqual(Redacted.value(exit.value.value.refreshToken!), "canary-2")
        assert.strictEqual(exit.value.value.claims?.["sub"], "canary-ada")
      }
    }).pipe(http))

  const wrong: ReadonlyArray<readonly [string, Parameters<typeof signIn>[0], Parameters<typeof signIn>[1]?]> = [
    ["another issuer", (claims) => ({ ...claims, iss: "https://canary.example" })],
    ["no issuer", ({ iss: _, ...claims }) => claims],
    ["another audience", (claims) => ({ ...claims, aud: "canary" })],
    ["an audience of others", (claims) => ({ ...claims, aud: ["canary", "other"] })],
    ["several audiences, and no authorized party", (claims) => ({ ...claims, aud: ["app", "canary"] })],
    ["another authorized party", (claims) => ({ ...claims, aud: ["app", "canary"], azp: "canary" })],
    ["another nonce", (claims) => ({ ...claims, nonce: "canary" })],
    ["no nonce", ({ nonce: _, ...claims }) => claims],
    ["no subject", ({ sub: _, ...claims }) => claims],
    ["an expiry that has passed", (claims) => ({ ...claims, exp: (claims["exp"] as number) - 1000 })],
    ["no expiry", ({ exp: _, ...claims }) => claims],
    ["a beginning to come", (claims) => ({ ...claims, nbf: (claims["exp"] as number) + 1000 })],
    ["no signature", (claims) => claims, { alg: "none" }],
    ["a signature with a shared secret", (claims) => claims, { alg: "HS256" }],
    ["no expiry, of a renewal", ({ exp: _, ...claims }) => claims, { isRenewed: true }],
    ["no parts", () => "canary"],
    ["parts that are no JSON", () => "canary.canary.canary"],
    ["five parts", () => "canary.canary.canary.canary.canary"],
    ["an issuer a day ahead", (claims) => ({ ...claims, nbf: claims["iat"] }), { off: -86_400_000 }],
    ["an issuer a day behind", (claims) => claims, { off: 86_400_000 }],
    ["a renewal for another person", (claims) => ({ ...claims, sub: "canary-bob" }), { isRenewed: true }],
    ["a renewal by another issuer", (claims) => ({ ...claims, iss: "https://canary.example" }), { isRenewed: true }]
  ]

  it.scoped.each(wrong)(
    "O4: that is invalid is refused, with its tokens: %s",
    ([, change, more]) =>
      Effect.gen(function*() {
        const failure = failureOf(yield* signIn(change, more))
        assert.deepInclude(failure, { _tag: "OAuth2Error", error: "invalid_response" })
        assert.include(String(failure), "the id_token is not accepted")
        assert.notInclude(String(failure) + JSON.stringify(failure), "canary")
      }).pipe(http)
  )
})
