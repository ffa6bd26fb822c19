/** Where the session's value is sent, and which answers can refuse it. */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as FetchHttpClient from "@effect/platform/FetchHttpClient"
import * as HttpBody from "@effect/platform/HttpBody"
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientError from "@effect/platform/HttpClientError"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import { assert, describe, it } from "@effect/vitest"
import { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as Session from "effect-holdfast/Session"
import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { clients, failedWith, printsOf, times } from "../support/httpClients.js"
import { type Received, type Reply, serve } from "../support/httpServer.js"

const byOtherName = (url: string) => url.replace("127.0.0.1", "localhost")

const tokens = Effect.gen(function*() {
  let signIns = 0
  const session = yield* Session.make({ acquire: Effect.sync(() => `token-${signIns++}`) })
  return { session, signIns: () => signIns }
})

const authorizationOf = ({ headers }: Received) => headers.authorization

interface Urls {
  readonly home: string
  readonly away: string
}

type Handler = (request: Received, urls: Urls) => Reply

const isAway = ({ headers }: Received) => headers.host?.startsWith("localhost") === true

/** A server with two names, which answers differently under each. */
const twoSites = (home: Handler, away: Handler = () => ({ body: "away" })) =>
  Effect.gen(function*() {
    const urls = { home: "", away: "" }
    const { received, url } = yield* serve((request) => isAway(request) ? away(request, urls) : home(request, urls))
    Object.assign(urls, { home: url, away: byOtherName(url) })
    const sent = () =>
      received.map((request) =>
        `${isAway(request) ? "away" : "home"}${request.path} ${authorizationOf(request) ?? "-"}`
      )
    return { ...urls, received, sent }
  })

const to = (location: string, status = 302): Reply => ({ status, headers: { location }, body: "moved" })

const following = HttpClient.transformResponse(
  Effect.provideService(FetchHttpClient.RequestInit, { cache: "no-store" })
)

describe("H10: a redirect that `fetch` follows by itself", () => {
  for (const filtered of [false, true]) {
    it.scopedLive(`is an error, whose answer is not given${filtered ? ", beneath a status filter" : ""}`, () =>
      Effect.gen(function*() {
        const { session } = yield* tokens
        const site = yield* twoSites(
          (_, { away }) => to(`${away}/b`),
          () => ({ status: filtered ? 500 : 200, body: "away" })
        )
        const fetching = following(yield* HttpClient.HttpClient)
        const client = yield* SessionHttpClient.make(session, {
          attach: (request, token) => HttpClientRequest.setHeader(request, "x-signed", token),
          origins: [site.home],
          followRedirects: 3
        }).pipe(
          Effect.provideService(HttpClient.HttpClient, filtered ? HttpClient.filterStatusOk(fetching) : fetching)
        )
        const error = failedWith(yield* Effect.exit(client.get(`${site.home}/a`)), HttpClientError.ResponseError)
        assert.include(error.message, "`fetch` has followed a redirect by itself")
        assert.notInclude(printsOf(error), "token-0")
      }).pipe(Effect.provide(FetchHttpClient.layer)))
  }
})

describe.each(clients)("H10: over %s", (name, layer) => {
  it.scopedLive("a redirect is relative to the URL to which `attach` has moved the request", () =>
    Effect.gen(function*() {
      const { session, signIns } = yield* tokens
      const site = yield* twoSites(
        () => ({ status: 404 }),
        ({ path }, { away }) => path === "/a" ? to("/b") : path === "/b" ? to(`${away}/c`) : {}
      )
      for (const named of [true, false]) {
        const client = yield* SessionHttpClient.make(session, {
          attach: (request, token) =>
            HttpClientRequest.setUrl(
              SessionHttpClient.bearer(request, token),
              request.url.replace(site.home, site.away)
            ),
          followRedirects: 3,
          ...(named ? { origins: [site.home, site.away] } : {})
        })
        assert.strictEqual((yield* client.get(`${site.home}/a`)).status, 200)
      }
      assert.deepStrictEqual(site.sent(), times(2, ["a", "b", "c"].map((path) => `away/${path} Bearer token-0`)).flat())
      assert.strictEqual(signIns(), 1)
    }).pipe(Effect.provide(layer)))

  it.scopedLive("a value that `attach` puts into the URL stays out of redirects and errors", () =>
    Effect.gen(function*() {
      const { session } = yield* tokens
      const site = yield* twoSites(({ path }) =>
        path === "/api/a" ? to("/public/b") : path === "/api/c" ? to("ftp://elsewhere/") : {}
      )
      const client = yield* SessionHttpClient.make(session, {
        attach: (request, token) => HttpClientRequest.setUrl(request, request.url.replace("://", `://user:${token}@`)),
        origins: (url) => url.pathname.startsWith("/api/"),
        followRedirects: 3
      })
      // `fetch` refuses a URL with a password, in an error that shows it.
      if (name === "fetch") return
      assert.strictEqual((yield* client.get(`${site.home}/api/a`)).status, 200)
      assert.deepStrictEqual(site.received.map(({ path }) => path), ["/api/a", "/public/b"])
      assert.isUndefined(site.received[1]!.headers.authorization)
      const error = failedWith(yield* Effect.exit(client.get(`${site.home}/api/c`)), HttpClientError.RequestError)
      assert.notInclude(printsOf(error), "token-0")
    }).pipe(Effect.provide(layer)))

  it.scopedLive("a path that `attach` adds is not added twice to a redirect", () =>
    Effect.gen(function*() {
      const { session } = yield* tokens
      const site = yield* twoSites(({ path }) => path.endsWith("/items") ? to("items/") : {})
      const client = yield* SessionHttpClient.make(session, {
        attach: (request, token) =>
          HttpClientRequest.setUrl(request, request.url.replace(site.home, `${site.home}/${token}`)),
        origins: [site.home],
        followRedirects: 3
      })
      assert.strictEqual((yield* client.get(`${site.home}/items`)).status, 200)
      assert.deepStrictEqual(site.received.map(({ path }) => path), ["/token-0/items", "/token-0/items/"])
    }).pipe(Effect.provide(layer)))

  it.scopedLive("the value is sent only to its origins, and nothing is acquired for a request to another", () =>
    Effect.gen(function*() {
      const { session, signIns } = yield* tokens
      const site = yield* twoSites(() => ({}), () => ({ status: 401, body: "who are you?" }))
      const client = yield* SessionHttpClient.make(session, {
        attach: SessionHttpClient.bearer,
        origins: [`${site.home}/v1?x`]
      })
      const elsewhere = yield* client.get(`${site.away}/a`, { headers: { authorization: "Basic own" } })
      assert.deepStrictEqual([elsewhere.status, yield* elsewhere.text], [401, "who are you?"])
      assert.strictEqual(signIns(), 0)
      yield* client.get(`${site.home}/b?c`)
      yield* client.get(site.home)
      assert.deepStrictEqual(site.sent(), ["away/a Basic own", "home/b?c Bearer token-0", "home/ Bearer token-0"])
    }).pipe(Effect.provide(layer)))

  // Fetch follows redirects before a client around the session sees them.
  if (name !== "fetch") {
    it.scopedLive("a redirect followed above the session sends no value to another origin", () =>
      Effect.gen(function*() {
        const { session } = yield* tokens
        const site = yield* twoSites(({ path }, { away }) => path === "/a" ? to("/b") : to(`${away}/c`))
        const around = yield* SessionHttpClient.make(session, {
          attach: SessionHttpClient.bearer,
          origins: [site.home]
        })
        yield* HttpClient.followRedirects(around).get(`${site.home}/a`)
        assert.deepStrictEqual(site.sent(), ["home/a Bearer token-0", "home/b Bearer token-0", "away/c -"])
      }).pipe(Effect.provide(layer)))
  }

  for (const named of [true, false]) {
    const origins = named ? "origins" : "no origins"
    it.scopedLive(`a redirect followed here sends credentials neither elsewhere nor back home, with ${origins}`, () =>
      Effect.gen(function*() {
        const { session, signIns } = yield* tokens
        const site = yield* twoSites(
          ({ path }, { away }) => path.startsWith("/a") ? to(`${away}/b`, 307) : { status: 401, body: "no" },
          (_, { home }) => to(`${home}/c`, 307)
        )
        const client = yield* SessionHttpClient.make(session, {
          attach: (request, token) =>
            request.pipe(
              HttpClientRequest.bearerToken(token),
              HttpClientRequest.setHeader("x-signed", token),
              HttpClientRequest.appendUrlParam("token", token)
            ),
          followRedirects: 5,
          ...(named ? { origins: [site.home] } : {})
        })
        const response = yield* client.post(`${site.home}/a`, {
          body: HttpBody.text("form"),
          headers: {
            authorization: "Basic own",
            "proxy-authorization": "Basic own",
            cookie: "own=1",
            "x-api-key": "own",
            "x-mine": "kept"
          }
        })
        // The last answer is not a refusal: the home origin got no credentials.
        assert.deepStrictEqual([response.status, yield* response.text], [401, "no"])
        assert.strictEqual(signIns(), 1)
        assert.deepStrictEqual(site.sent(), ["home/a?token=token-0 Bearer token-0", "away/b -", "home/c -"])
        for (const { body, headers, method } of site.received) {
          assert.deepStrictEqual([method, body.toString(), headers["x-mine"]], ["POST", "form", "kept"])
        }
        for (const { headers } of site.received.slice(1)) {
          for (const gone of ["proxy-authorization", "cookie", "x-api-key", "x-signed"]) {
            assert.isUndefined(headers[gone], gone)
          }
        }
        assert.strictEqual(site.received[0]!.headers["x-api-key"], "own")
      }).pipe(Effect.provide(layer)))
  }

  it.scopedLive("a redirect between two of its origins keeps the value, but not the caller's own credentials", () =>
    Effect.gen(function*() {
      const { session } = yield* tokens
      const site = yield* twoSites(
        (_, { away }) => to(`${away}/b`),
        (request) => ({ status: authorizationOf(request) === "Bearer token-1" ? 200 : 401 })
      )
      const client = yield* SessionHttpClient.make(session, {
        attach: SessionHttpClient.bearer,
        origins: [site.home, site.away],
        followRedirects: 1
      })
      assert.strictEqual((yield* client.get(`${site.home}/a`, { headers: { cookie: "own=1" } })).status, 200)
      assert.deepStrictEqual(site.sent(), [
        "home/a Bearer token-0",
        "away/b Bearer token-0",
        "home/a Bearer token-1",
        "away/b Bearer token-1"
      ])
      assert.deepStrictEqual(site.received.map(({ headers }) => headers.cookie), [
        "own=1",
        undefined,
        "own=1",
        undefined
      ])
    }).pipe(Effect.provide(layer)))

  it.scopedLive("a foreign request that is redirected home gets no value there, and its answer is not a refusal", () =>
    Effect.gen(function*() {
      const { session, signIns } = yield* tokens
      const site = yield* twoSites(() => ({ status: 401 }), (_, { home }) => to(`${home}/b`))
      const client = yield* SessionHttpClient.make(session, {
        attach: SessionHttpClient.bearer,
        origins: [site.home],
        followRedirects: 5
      })
      assert.strictEqual((yield* client.get(`${site.away}/a`)).status, 401)
      assert.deepStrictEqual(site.sent(), ["away/a -", "home/b -"])
      assert.strictEqual(signIns(), 0)
    }).pipe(Effect.provide(layer)))

  it.scopedLive("after a refusal at the end of a redirect the whole request is sent again", () =>
    Effect.gen(function*() {
      const { session } = yield* tokens
      const site = yield* twoSites((request) =>
        request.path === "/a" ? to("/b") : { status: authorizationOf(request) === "Bearer token-0" ? 401 : 200 }
      )
      const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer, followRedirects: 5 })
      assert.strictEqual((yield* client.get(`${site.home}/a`)).status, 200)
      assert.deepStrictEqual(site.sent(), ["0", "0", "1", "1"].map((n, i) => `home/${"abab"[i]} Bearer token-${n}`))
    }).pipe(Effect.provide(layer)))

  it.scopedLive("303, and 301 and 302 of a POST, become a GET without a body; 307 and 308 keep both", () =>
    Effect.gen(function*() {
      const { session } = yield* tokens
      const site = yield* twoSites(({ path }) =>
        path === "/arrived" ? { body: "arrived" } : to("/arrived", Number(path.slice(1)))
      )
      const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer, followRedirects: 1 })
      for (const status of [301, 302, 303, 307, 308]) {
        const response = yield* client.post(`${site.home}/${status}`, { body: HttpBody.unsafeJson({ status }) })
        assert.strictEqual(yield* response.text, "arrived")
        const { body, headers, method } = site.received.at(-1)!
        const kept = status > 303
        assert.deepStrictEqual([method, body.toString(), headers["content-type"]], [
          kept ? "POST" : "GET",
          kept ? JSON.stringify({ status }) : "",
          kept ? "application/json" : undefined
        ])
      }
    }).pipe(Effect.provide(layer)))

  it.scopedLive("a redirect beyond the number is the answer, and so is one whose body can be read only once", () =>
    Effect.gen(function*() {
      const { session, signIns } = yield* tokens
      const site = yield* twoSites(({ path }) => to(`/${Number(path.slice(1)) + 1}`, 307))
      for (const followRedirects of [0, 1, 3]) {
        const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer, followRedirects })
        const response = yield* client.get(`${site.home}/0`)
        assert.deepStrictEqual([response.status, response.headers["location"]], [307, `/${followRedirects + 1}`])
        assert.strictEqual(yield* response.text, "moved")
      }
      assert.deepStrictEqual(site.received.map(({ path }) => path), ["/0", "/0", "/1", "/0", "/1", "/2", "/3"])
      const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer, followRedirects: 9 })
      const once = HttpBody.stream(Stream.make(new TextEncoder().encode("once")))
      const response = yield* client.post(`${site.home}/0`, { body: once })
      assert.deepStrictEqual([response.status, yield* response.text], [307, "moved"])
      assert.strictEqual(site.received.at(-1)!.path, "/0")
      assert.strictEqual(signIns(), 1)
    }).pipe(Effect.provide(layer)))

  it.scopedLive("the bodies of redirects are read, so that few connections are used", () =>
    Effect.gen(function*() {
      const { session } = yield* tokens
      const server = yield* serve(({ path }) =>
        path === "/20" ? {} : { ...to(`/${Number(path.slice(1)) + 1}`), body: "x".repeat(4096) }
      )
      const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer, followRedirects: 20 })
      yield* client.get(`${server.url}/0`)
      assert.strictEqual(server.received.length, 21)
      assert.isAtMost(server.connections(), 2)
    }).pipe(Effect.provide(layer)))

  for (const [bytes, path] of [["é", "/caf%C3%A9"], ["\xe9", "/caf%C3%A9"], ["\u65e5", "/caf%E6%97%A5"]] as const) {
    it.scopedLive(`a Location with raw bytes is read as UTF-8 if it is UTF-8: ${path}`, () =>
      Effect.gen(function*() {
        const { session } = yield* tokens
        const raw = bytes === "\xe9" ? bytes : Buffer.from(bytes).toString("latin1")
        const server = yield* serve((request) =>
          request.path === "/a"
            ? {
              write: (response) =>
                void response.socket!.end(
                  `HTTP/1.1 302 Found\r\nLocation: /caf${raw}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`,
                  "latin1"
                )
            }
            : {}
        )
        const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer, followRedirects: 1 })
        yield* client.get(`${server.url}/a`)
        assert.strictEqual(server.received.at(-1)!.path, path)
      }).pipe(Effect.provide(layer)))
  }
})

describe.each(clients)("H10: a Location with a user and a password, over %s,", (_, layer) => {
  it.scopedLive("is followed without them, to the same origin and to another", () =>
    Effect.gen(function*() {
      const { session } = yield* tokens
      const site = yield* twoSites(({ path }, { away, home }) =>
        to((path === "/a" ? `${home}/b` : `${away}/c`).replace("//", "//user:hunter2@"))
      )
      const client = yield* SessionHttpClient.make(session, { attach: (request) => request, followRedirects: 2 })
      yield* client.get(`${site.home}/a`)
      assert.deepStrictEqual(site.sent(), ["home/a -", "home/b -", "away/c -"])
    }).pipe(Effect.provide(layer)))
})

it.scopedLive("H10: a user and a password in the caller's own URL stay with its origin", () =>
  Effect.gen(function*() {
    const { session } = yield* tokens
    const site = yield* twoSites(({ path }, { away }) => to(path === "/a" ? "/b" : `${away}/c`))
    const client = yield* SessionHttpClient.make(session, { attach: (request) => request, followRedirects: 2 })
    yield* client.get(`${site.home.replace("//", "//user:own@")}/a`)
    const basic = `Basic ${Buffer.from("user:own").toString("base64")}`
    assert.deepStrictEqual(site.sent(), [`home/a ${basic}`, `home/b ${basic}`, "away/c -"])
  }).pipe(Effect.provide(NodeHttpClient.layer)))

const onUndici = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.provide(effect, NodeHttpClient.layerUndici)

/** Names of headers that are credentials, and names that look similar. */
const credentials = [
  "authorization",
  "proxy-authorization",
  "cookie",
  "x-api-key",
  "api-key",
  "apikey",
  "x-goog-api-key",
  "ocp-apim-subscription-key",
  "x-functions-key",
  "x-csrf-token",
  "x-xsrf-token",
  "csrf",
  "x-auth-token",
  "x-access-token",
  "private-token",
  "x-amz-security-token",
  "x-ms-authorization-auxiliary",
  "x-vault-token",
  "x-client-secret",
  "x-hub-signature-256",
  "x-session-id",
  "x-forwarded-client-cert",
  "x-github-otp",
  "cb-access-passphrase",
  "cb-access-sign",
  "x-hmac-sha256",
  "x-firebase-appcheck",
  "sid",
  "x-phpsessid",
  "accesskey",
  "api_key",
  "x_api_key",
  "x-subscriptionkey",
  "privatekey",
  "x-access-key-id",
  "x-passcode",
  "dpop"
]
const others = [
  "x-mine",
  "x-author",
  "idempotency-key",
  "x-idempotency-key",
  "accept-language",
  "x-request-id",
  "x-monkey",
  "x-design",
  "x-inside"
]

it.scopedLive.each(credentials)(
  "H10: `%s` is a credential: another origin does not get it",
  (name) =>
    onUndici(Effect.gen(function*() {
      const { session } = yield* tokens
      const site = yield* twoSites((_, { away }) => to(`${away}/b`))
      const client = yield* SessionHttpClient.make(session, { attach: (request) => request, followRedirects: 1 })
      yield* client.get(`${site.home}/a`, { headers: { [name]: "own" } })
      assert.deepStrictEqual(site.received.map(({ headers }) => headers[name]), ["own", undefined])
    }))
)

it.scopedLive("H10: headers that prove nothing are kept, but the previous host's name is not", () =>
  onUndici(Effect.gen(function*() {
    const { session } = yield* tokens
    const site = yield* twoSites((_, { away }) => to(`${away}/b`))
    const client = yield* SessionHttpClient.make(session, { attach: (request) => request, followRedirects: 1 })
    const headers = Object.fromEntries(others.map((name) => [name, "own"]))
    yield* client.get(`${site.home}/a`, { headers: { ...headers, host: new URL(site.home).host } })
    for (const name of others) {
      assert.deepStrictEqual(site.received.map(({ headers }) => headers[name]), ["own", "own"], name)
    }
    assert.deepStrictEqual(site.sent(), ["home/a -", "away/b -"])
  })))

describe("H10: origins", () => {
  it.scopedLive("may be a function of the URL", () =>
    onUndici(Effect.gen(function*() {
      const { session } = yield* tokens
      const site = yield* twoSites(() => ({}))
      const client = yield* SessionHttpClient.make(session, {
        attach: SessionHttpClient.bearer,
        origins: ({ pathname, search }) => pathname.startsWith("/api") && search === "?page=2"
      })
      yield* client.get(`${site.home}/api/orders`, { urlParams: { page: "2" } })
      yield* client.get(`${site.home}/public`)
      assert.deepStrictEqual(site.sent(), ["home/api/orders?page=2 Bearer token-0", "home/public -"])
    })))

  it.scopedLive("that throw are a RequestError, at the first hop and at later ones", () =>
    onUndici(Effect.gen(function*() {
      const { session } = yield* tokens
      const site = yield* twoSites(() => to("/broken"))
      const client = yield* SessionHttpClient.make(session, {
        attach: SessionHttpClient.bearer,
        followRedirects: 3,
        origins: ({ pathname }) => {
          if (pathname === "/broken") throw new Error("broken")
          return true
        }
      })
      for (const path of ["/broken", "/a"]) {
        const error = failedWith(yield* Effect.exit(client.get(`${site.home}${path}`)), HttpClientError.RequestError)
        assert.strictEqual(error.reason, "Encode")
        assert.include(error.message, "origins")
      }
    })))

  it.scopedLive("are asked about a copy of the URL, which they may change", () =>
    onUndici(Effect.gen(function*() {
      const { session } = yield* tokens
      const site = yield* twoSites(() => to("/next"))
      const client = yield* SessionHttpClient.make(session, {
        attach: SessionHttpClient.bearer,
        followRedirects: 1,
        origins: (url) => {
          url.hostname = "localhost"
          url.search = ""
          return true
        }
      })
      yield* client.get(`${site.home}/first?a`)
      assert.deepStrictEqual(site.sent(), ["home/first?a Bearer token-0", "home/next Bearer token-0"])
    })))

  it.scopedLive("are asked about the URL that `attach` gives a request, which is not sent elsewhere", () =>
    onUndici(Effect.gen(function*() {
      const { session } = yield* tokens
      const site = yield* twoSites(() => ({}))
      const attachTo = (url: string, isEffect: boolean) =>
        ((request, token) => {
          const attached = HttpClientRequest.setUrl(SessionHttpClient.bearer(request, token), url)
          return isEffect ? Effect.succeed(attached) : attached
        }) satisfies SessionHttpClient.Options<string>["attach"]
      for (const isEffect of [false, true]) {
        for (const origins of [[site.home], ({ hostname }: URL) => hostname === "127.0.0.1"]) {
          const make = (url: string) => SessionHttpClient.make(session, { attach: attachTo(url, isEffect), origins })
          for (const url of [`${site.away}/stolen`, "/relative"]) {
            const exit = yield* Effect.exit(Effect.flatMap(make(url), (client) => client.get(`${site.home}/a`)))
            const error = failedWith(exit, HttpClientError.RequestError)
            assert.strictEqual(error.reason, "Encode")
            assert.include(error.message, "attach: must not give the request a URL that `origins` does not allow")
          }
          assert.deepStrictEqual(site.sent(), [])
          yield* Effect.flatMap(make(`${site.home}/b`), (client) => client.get(`${site.home}/a`))
          assert.deepStrictEqual(site.sent(), ["home/b Bearer token-0"])
          site.received.length = 0
        }
      }
    })))

  it.scopedLive("are unknown for a request without a base URL, which is not sent", () =>
    onUndici(Effect.gen(function*() {
      const { session, signIns } = yield* tokens
      const site = yield* twoSites(() => ({}))
      const beneath = HttpClient.mapRequest(yield* HttpClient.HttpClient, HttpClientRequest.prependUrl(site.home))
      for (const options of [{ origins: [site.home] }, { origins: () => true }, { followRedirects: 1 }]) {
        const client = SessionHttpClient.withSession(beneath, session, { attach: SessionHttpClient.bearer, ...options })
        const error = failedWith(yield* Effect.exit(client.get("/orders")), HttpClientError.RequestError)
        assert.strictEqual(error.reason, "InvalidUrl")
        assert.include(error.message, "add the base around the session")
      }
      assert.deepStrictEqual([site.received.length, signIns()], [0, 0])
      const around = HttpClient.mapRequest(
        yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer, origins: [site.home] }),
        HttpClientRequest.prependUrl(site.home)
      )
      yield* around.get("/orders")
      assert.deepStrictEqual(site.sent(), ["home/orders Bearer token-0"])
    })))

  it.scopedLive.each([
    "api.example.com",
    "",
    "https://",
    "file:///etc",
    "data:text/plain,s3cret",
    "user:s3cret@a.test",
    "/relative?key=s3cret"
  ])(
    "with an invalid entry are refused at the first request, and its secrets are not shown: %s",
    (entry) =>
      onUndici(Effect.gen(function*() {
        const { session, signIns } = yield* tokens
        const client = yield* SessionHttpClient.make(session, {
          attach: SessionHttpClient.bearer,
          origins: ["https://a.test", entry]
        })
        const error = failedWith(yield* Effect.exit(client.get("https://a.test/")), InvalidOptions)
        assert.strictEqual(error.option, "origins")
        if (!entry.startsWith("data:")) assert.notInclude(printsOf(error), "s3cret")
        assert.strictEqual(signIns(), 0)
      }))
  )

  it.scopedLive.each([
    ["a single string", "https://a.test"],
    ["a Set", new Set(["https://a.test"])],
    ["null", null],
    ["a list with a number in it", [5]],
    ["a list with null in it", [null]]
  ])(
    "that are %s, from a caller without types, are refused before anything is sent",
    ([, origins]) =>
      Effect.gen(function*() {
        const { session, signIns } = yield* tokens
        let sends = 0
        const inner = HttpClient.make((request) =>
          Effect.sync(() => {
            sends++
            return HttpClientResponse.fromWeb(request, new Response())
          })
        )
        const client = SessionHttpClient.withSession(inner, session, {
          attach: SessionHttpClient.bearer,
          origins: origins as unknown as ReadonlyArray<string>
        })
        const error = failedWith(yield* Effect.exit(client.get("https://a.test/")), InvalidOptions)
        assert.strictEqual(error.option, "origins")
        assert.strictEqual(sends, 0)
        assert.strictEqual(signIns(), 0)
      })
  )

  it.scopedLive.each([
    ["a promise", () => Promise.resolve(false)],
    ["nothing", () => undefined],
    ["text", () => "no"]
  ])(
    "whose function gives %s for an answer, from a caller without types, send no value",
    ([, origins]) =>
      Effect.gen(function*() {
        const { session, signIns } = yield* tokens
        const inner = HttpClient.make(() => Effect.dieMessage("sent"))
        const client = SessionHttpClient.withSession(inner, session, {
          attach: SessionHttpClient.bearer,
          origins: origins as unknown as (url: URL) => boolean
        })
        const error = failedWith(yield* Effect.exit(client.get("https://a.test/")), HttpClientError.RequestError)
        assert.include(error.message, "origins: must answer true or false")
        assert.instanceOf(error.cause, InvalidOptions)
        assert.strictEqual(signIns(), 0)
      })
  )

  it.scopedLive("are compared as origins, however they and the URL are written", () =>
    Effect.gen(function*() {
      const { session } = yield* tokens
      const sent: Array<string> = []
      const inner = HttpClient.make((request, url) =>
        Effect.die(sent.push(`${url.host} ${request.headers["authorization"] ?? "-"}`))
      )
      const client = SessionHttpClient.withSession(inner, session, {
        attach: SessionHttpClient.bearer,
        origins: ["HTTPS://API.example.com:443/"]
      })
      const home = [
        "https://api.example.com",
        "https://API.EXAMPLE.com:443/x",
        "https://api.example.com?x",
        "https://api.example.com#x",
        "https:\\\\api.example.com\\x"
      ]
      const away = [
        "http://api.example.com/",
        "https://api.example.com:444/",
        "https://api.example.com.evil.test/",
        "https://api.example.com@evil.test/",
        "https://api.example.comevil.test/",
        "https://evil.test/https://api.example.com/",
        "https://api.example.com\\@evil.test/"
      ]
      for (const url of [...home, ...away]) yield* Effect.exit(client.get(url))
      const values = sent.map((line) => line.split(" ").slice(1).join(" "))
      // A backslash is a slash: the last one's host is the API's.
      assert.deepStrictEqual(values, [...times(5, "Bearer token-0"), ...times(6, "-"), "Bearer token-0"])
      assert.strictEqual(sent.at(-1), "api.example.com Bearer token-0")
    }))
})

it.scopedLive.each([-1, 1.5, NaN, Infinity])(
  "H10: a followRedirects of %s is refused before anything is sent",
  (followRedirects) =>
    onUndici(Effect.gen(function*() {
      const { session, signIns } = yield* tokens
      const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer, followRedirects })
      const error = failedWith(yield* Effect.exit(client.get("http://a.test/")), InvalidOptions)
      assert.strictEqual(error.option, "followRedirects")
      assert.strictEqual(signIns(), 0)
    }))
)

it.scopedLive.each(["file:///etc/passwd", "http://[bad", "javascript:alert(1)"])(
  "H10: a redirect to %s is a typed failure",
  (location) =>
    onUndici(Effect.gen(function*() {
      const { session } = yield* tokens
      const server = yield* serve(() => to(location))
      const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer, followRedirects: 1 })
      const error = failedWith(yield* Effect.exit(client.get(server.url)), HttpClientError.RequestError)
      assert.strictEqual(error.reason, "InvalidUrl")
      assert.notInclude(printsOf(error), "token-0")
    }))
)
