/** How a client beneath the session, or `rejected`, treats a response; and how the layer treats a failure. */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as HttpBody from "@effect/platform/HttpBody"
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientError from "@effect/platform/HttpClientError"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import type * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import { assert, describe, it } from "@effect/vitest"
import { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as Session from "effect-holdfast/Session"
import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import { clients, failedWith, failureOf, printsOf, readings, times } from "../support/httpClients.js"
import { type Received, type Reply, serve } from "../support/httpServer.js"

class SignInFailed {
  readonly _tag = "SignInFailed"
}

const tokens = Effect.gen(function*() {
  let signIns = 0
  const session = yield* Session.make<string, SignInFailed>({ acquire: Effect.sync(() => `token-${signIns++}`) })
  return { session, signIns: () => signIns }
})

const tokenOf = ({ headers }: Received) => headers.authorization?.replace("Bearer ", "")

const onUndici = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.provide(effect, NodeHttpClient.layerUndici)

const once = () => HttpBody.stream(Stream.make(new TextEncoder().encode("once")))

class Api extends Context.Tag("test/Api")<Api, Session.Session<string, SignInFailed>>() {}

/** The plain service over this client. */
const throughLayer = (
  client: HttpClient.HttpClient,
  session: Session.Session<string, any>,
  options: Partial<SessionHttpClient.Options<string>> = {}
) =>
  Layer.build(
    SessionHttpClient.layer(Api, { attach: SessionHttpClient.bearer, ...options }).pipe(
      Layer.provide(Layer.succeed(Api, session)),
      Layer.provide(Layer.succeed(HttpClient.HttpClient, client))
    )
  ).pipe(Effect.map(Context.get(HttpClient.HttpClient)))

describe.each(clients)("H9: a client beneath the session that reads each body as text, over %s", (_, layer) => {
  const reading = Effect.map(HttpClient.HttpClient, HttpClient.tap(({ text }) => text))

  it.scopedLive("leaves the body to `rejected`", () =>
    Effect.gen(function*() {
      const { session, signIns } = yield* tokens
      const server = yield* serve((request) =>
        tokenOf(request) === "token-0" ? { status: 400, body: `{"error":"invalid_token"}` } : { body: "{}" }
      )
      const client = SessionHttpClient.withSession(yield* reading, session, {
        attach: SessionHttpClient.bearer,
        rejected: ({ json }) =>
          Effect.orElseSucceed(
            Effect.map(json, (body) => (body as { readonly error?: string }).error === "invalid_token"),
            () => false
          )
      })
      assert.deepStrictEqual([(yield* client.get(server.url)).status, signIns()], [200, 2])
    }).pipe(Effect.provide(layer)))

  it.scopedLive("leaves the body to whoever reads the response of a failure, also after it was logged", () =>
    Effect.gen(function*() {
      const { session } = yield* tokens
      const server = yield* serve(() => ({ status: 401, body: "why" }))
      const text = { read: ({ text }: HttpClientResponse.HttpClientResponse) => text, beneath: yield* reading }
      const bytes = {
        read: ({ arrayBuffer }: HttpClientResponse.HttpClientResponse) =>
          Effect.map(arrayBuffer, (body) => new TextDecoder().decode(body)),
        beneath: yield* HttpClient.HttpClient
      }
      for (const { beneath, read } of [text, bytes]) {
        const client = SessionHttpClient.withSession(beneath, session, { attach: SessionHttpClient.bearer })
        for (const request of [client.get(server.url), client.post(server.url, { body: once() })]) {
          const error = yield* Effect.flip(request) as Effect.Effect<
            SessionHttpClient.SessionRejected | SessionHttpClient.NotReplayable
          >
          printsOf(error)
          assert.strictEqual(yield* read(error.response), "why", error._tag)
        }
      }
    }).pipe(Effect.provide(layer)))
})

describe.each(clients)("H11: a status filter beneath the session, over %s", (_, layer) => {
  const filtered = Effect.map(HttpClient.HttpClient, HttpClient.filterStatusOk)

  it.scopedLive("hides no refusal: the request is sent again with the new value", () =>
    Effect.gen(function*() {
      const { session, signIns } = yield* tokens
      const server = yield* serve((request) =>
        tokenOf(request) === "token-0" ? { status: 401, body: "no" } : { body: "ok" }
      )
      const client = SessionHttpClient.withSession(yield* filtered, session, { attach: SessionHttpClient.bearer })
      assert.strictEqual(yield* Effect.flatMap(client.get(server.url), ({ text }) => text), "ok")
      assert.strictEqual(signIns(), 2)
    }).pipe(Effect.provide(layer)))

  it.scopedLive("keeps SessionRejected for a lasting refusal, and NotReplayable for a one-shot body", () =>
    Effect.gen(function*() {
      const { session } = yield* tokens
      const server = yield* serve(() => ({ status: 401, body: "no" }))
      const client = SessionHttpClient.withSession(yield* filtered, session, { attach: SessionHttpClient.bearer })
      const lasting = failedWith(yield* Effect.exit(client.get(server.url)), SessionHttpClient.SessionRejected)
      assert.strictEqual(yield* lasting.response.text, "no")
      assert.strictEqual(server.received.length, 2)
      const read = failedWith(
        yield* Effect.exit(client.post(server.url, { body: once() })),
        SessionHttpClient.NotReplayable
      )
      assert.strictEqual(yield* read.response.text, "no")
    }).pipe(Effect.provide(layer)))

  it.scopedLive("keeps its own error for a response that is no refusal", () =>
    Effect.gen(function*() {
      const { session, signIns } = yield* tokens
      const server = yield* serve(() => ({ status: 404, body: "nothing here" }))
      const client = SessionHttpClient.withSession(yield* filtered, session, { attach: SessionHttpClient.bearer })
      const error = failedWith(yield* Effect.exit(client.get(server.url)), HttpClientError.ResponseError)
      assert.deepStrictEqual([error.reason, error.response.status], ["StatusCode", 404])
      assert.strictEqual(yield* error.response.text, "nothing here")
      assert.strictEqual(signIns(), 1)
    }).pipe(Effect.provide(layer)))

  it.scopedLive("never lets a 401 succeed, through the layer either", () =>
    Effect.gen(function*() {
      const { session } = yield* tokens
      const server = yield* serve(() => ({ status: 401, body: "no" }))
      const client = yield* throughLayer(yield* filtered, session)
      const url = `${server.url}/data`
      for (const request of [HttpClientRequest.get(url), HttpClientRequest.post(url, { body: once() })]) {
        const error = failedWith(yield* Effect.exit(client.execute(request)), HttpClientError.ResponseError)
        assert.deepStrictEqual([error.reason, error.response.status], ["StatusCode", 401])
        assert.notInclude(printsOf(error), "token-")
        for (const [how, read] of Object.entries(readings(error.response))) {
          if (how === "text") assert.strictEqual(yield* read, "no")
        }
      }
      assert.strictEqual(server.received.length, 3)
    }).pipe(Effect.provide(layer)))

  it.scopedLive("does not keep a redirect from being followed", () =>
    Effect.gen(function*() {
      const { session } = yield* tokens
      const server = yield* serve(({ path }) =>
        path === "/a" ? { status: 302, headers: { location: "/b" } } : { body: "arrived" }
      )
      const client = SessionHttpClient.withSession(yield* filtered, session, {
        attach: SessionHttpClient.bearer,
        followRedirects: 1
      })
      assert.strictEqual(yield* Effect.flatMap(client.get(`${server.url}/a`), ({ text }) => text), "arrived")
    }).pipe(Effect.provide(layer)))
})

describe.each(clients)("`rejected` that says \"again\", over %s", (_, layer) => {
  /** An API that accepts each nonce for the given number of requests, and sends the next one with its refusal. */
  const nonces = (usesOf: number) =>
    Effect.gen(function*() {
      let nonce: string | undefined
      let issued = 0
      let uses = 0
      const server = yield* serve((request): Reply => {
        if (request.headers["dpop"] === `proof-${issued}` && uses++ < usesOf) return { body: "ok" }
        uses = 0
        return { status: 401, headers: { "dpop-nonce": `${++issued}` }, body: "use this nonce" }
      })
      const { session, signIns } = yield* tokens
      const options: SessionHttpClient.Options<string> = {
        attach: (request, token) =>
          Effect.sync(() =>
            HttpClientRequest.setHeaders(request, { authorization: `DPoP ${token}`, dpop: `proof-${nonce}` })
          ),
        rejected: ({ headers, status }) => {
          if (status !== 401) return false
          const isNew = headers["dpop-nonce"] !== nonce
          nonce = headers["dpop-nonce"]
          return isNew ? "again" : true
        }
      }
      return { server, session, signIns, options, client: yield* SessionHttpClient.make(session, options) }
    })

  it.scopedLive("has the request built again with the same value and sent once more, without a refresh", () =>
    Effect.gen(function*() {
      const { client, server, signIns } = yield* nonces(2)
      for (let i = 0; i < 4; i++) {
        assert.strictEqual(
          yield* Effect.flatMap(client.post(server.url, { body: HttpBody.text("pay") }), ({ text }) => text),
          "ok"
        )
      }
      assert.strictEqual(signIns(), 1)
      assert.deepStrictEqual(
        server.received.map(({ body, headers }) => `${headers.authorization} ${headers["dpop"]} ${body}`),
        [
          "DPoP token-0 proof-undefined pay",
          ...times(3, "DPoP token-0 proof-1 pay"),
          ...times(2, "DPoP token-0 proof-2 pay")
        ]
      )
      assert.isAtMost(server.connections(), 2)
    }).pipe(Effect.provide(layer)))

  it.scopedLive("repeats a request ten times at most; then the response is the answer, and nothing was refreshed", () =>
    Effect.gen(function*() {
      const { client, server, signIns } = yield* nonces(0)
      const response = yield* client.get(server.url)
      assert.deepStrictEqual([response.status, yield* response.text], [401, "use this nonce"])
      assert.strictEqual(server.received.length, 11)
      assert.strictEqual(signIns(), 1)
    }).pipe(Effect.provide(layer)))

  it.scopedLive("is NotReplayable for a body that can be read only once, and nothing is refreshed", () =>
    Effect.gen(function*() {
      const { client, server, signIns } = yield* nonces(2)
      const exit = yield* Effect.exit(client.post(server.url, { body: once() }))
      const { response } = failedWith(exit, SessionHttpClient.NotReplayable)
      assert.strictEqual(yield* response.text, "use this nonce")
      assert.strictEqual(response.request.headers["dpop"], undefined)
      assert.deepStrictEqual([server.received.length, signIns()], [1, 1])
    }).pipe(Effect.provide(layer)))
})

describe("`rejected` that says \"again\"", () => {
  it.scopedLive("may be followed by a refusal, whose refresh does not reset the count of repetitions", () =>
    onUndici(Effect.gen(function*() {
      const { session, signIns } = yield* tokens
      const server = yield* serve((request) => ({ status: tokenOf(request) === "token-0" ? 401 : 428 }))
      let asked = 0
      const client = yield* SessionHttpClient.make(session, {
        attach: SessionHttpClient.bearer,
        rejected: ({ status }) => Effect.sync(() => status === 401 ? ++asked <= 4 ? "again" : true : "again")
      })
      assert.strictEqual((yield* client.get(server.url)).status, 428)
      assert.deepStrictEqual(server.received.map(tokenOf), [...times(5, "token-0"), ...times(7, "token-1")])
      assert.strictEqual(signIns(), 2)
    })))

  it.scopedLive("sends only this hop of a redirect again, not the hops before it", () =>
    onUndici(Effect.gen(function*() {
      const { session } = yield* tokens
      let said = 0
      const server = yield* serve(({ path }) =>
        path === "/a" ? { status: 303, headers: { location: "/b" } } : { status: said === 0 ? 428 : 200 }
      )
      const client = yield* SessionHttpClient.make(session, {
        attach: SessionHttpClient.bearer,
        followRedirects: 1,
        rejected: ({ status }) => status === 428 && said++ === 0 ? "again" : false
      })
      assert.strictEqual((yield* client.post(`${server.url}/a`, { body: HttpBody.text("pay") })).status, 200)
      assert.deepStrictEqual(server.received.map(({ method, path }) => `${method} ${path}`), [
        "POST /a",
        "GET /b",
        "GET /b"
      ])
    })))

  it.scopedLive("keeps a status filter's error when that is the answer in the end", () =>
    onUndici(Effect.gen(function*() {
      const { session } = yield* tokens
      const server = yield* serve(() => ({ status: 428, body: "again" }))
      const filtered = HttpClient.filterStatusOk(yield* HttpClient.HttpClient)
      const client = SessionHttpClient.withSession(filtered, session, {
        attach: SessionHttpClient.bearer,
        rejected: () => "again"
      })
      const error = failedWith(yield* Effect.exit(client.get(server.url)), HttpClientError.ResponseError)
      assert.deepStrictEqual([error.reason, error.response.status, server.received.length], ["StatusCode", 428, 11])
    })))
})

describe("H12: a failure of the session, through the layer,", () => {
  const failing = (
    error: unknown,
    fatal: boolean,
    client: Effect.Effect<HttpClient.HttpClient, never, HttpClient.HttpClient> = HttpClient.HttpClient
  ) =>
    Effect.gen(function*() {
      let signIns = 0
      const session = yield* Session.make<string, unknown>({
        acquire: Effect.suspend(() => {
          signIns++
          return Effect.fail(error)
        }),
        fatal: () => fatal,
        cooldown: 0
      })
      const transient = HttpClient.retryTransient(yield* throughLayer(yield* client, session), {
        schedule: Schedule.forever,
        times: 3
      })
      return { exit: yield* Effect.exit(transient.get("http://127.0.0.1:1/")), signIns }
    })

  it.scopedLive("is retried as transient unless it is fatal", () =>
    onUndici(Effect.gen(function*() {
      const passing = yield* failing(new SignInFailed(), false)
      const transport = failedWith(passing.exit, HttpClientError.RequestError)
      assert.deepStrictEqual([transport.reason, (transport.cause as SignInFailed)._tag, passing.signIns], [
        "Transport",
        "SignInFailed",
        4
      ])
      const dead = yield* failing(new SignInFailed(), true)
      const encode = failedWith(dead.exit, HttpClientError.RequestError)
      assert.deepStrictEqual([encode.reason, (encode.cause as SignInFailed)._tag, dead.signIns], [
        "Encode",
        "SignInFailed",
        1
      ])
    })))

  const session = "s"
  const errors: ReadonlyArray<readonly [error: { readonly _tag: string }, reason: "Transport" | "Encode"]> = [
    [new Session.SessionClosed({ session }), "Encode"],
    [new Session.SessionEnded({ session }), "Encode"],
    [new Session.ReentrantRefresh({ session }), "Encode"],
    [new Session.RefreshBudgetExceeded({ session, refreshes: 1, within: Duration.seconds(1) }), "Encode"],
    [new InvalidOptions({ option: "expiresAt", value: 1, reason: "no" }), "Encode"],
    [new Session.RefreshTimeout({ session, timeout: Duration.seconds(1) }), "Transport"],
    [new Session.RefreshInterrupted({ session }), "Transport"]
  ]
  it.scopedLive.each(errors)(
    "is distinguished by whether a retry may help: $_tag",
    ([error, reason]) =>
      onUndici(Effect.gen(function*() {
        const { exit, signIns } = yield* failing(error, false)
        const failure = failedWith(exit, HttpClientError.RequestError)
        assert.deepStrictEqual([failure.reason, failure.cause], [reason, error])
        assert.strictEqual(signIns, reason === "Encode" ? 1 : 4)
      }))
  )

  it.scopedLive("is transient if `fatal` throws", () =>
    onUndici(Effect.gen(function*() {
      const session = yield* Session.make<string, SignInFailed>({
        initial: "token",
        acquire: Effect.fail(new SignInFailed()),
        timeout: "10 seconds"
      })
      const broken = Object.assign(Object.create(Object.getPrototypeOf(session)), session, {
        isFatal: () => {
          throw new Error("broken")
        }
      })
      const server = yield* serve(() => ({ status: 401 }))
      const client = yield* throughLayer(yield* HttpClient.HttpClient, broken)
      const error = failedWith(yield* Effect.exit(client.get(server.url)), HttpClientError.RequestError)
      assert.strictEqual(error.reason, "Transport")
    })))

  it.scoped("because of the budget is not retried, and works again when the window has passed", () =>
    onUndici(Effect.gen(function*() {
      const session = yield* Session.make<string, SignInFailed>({
        acquire: Effect.succeed("token"),
        budget: { refreshes: 1, within: "1 minute" }
      })
      let isGood = false
      const server = yield* serve(() => ({ status: isGood ? 200 : 401 }))
      const client = yield* throughLayer(yield* HttpClient.HttpClient, session)
      assert.strictEqual((yield* client.get(server.url)).status, 401)
      const error = failedWith(yield* Effect.exit(client.get(server.url)), HttpClientError.RequestError)
      assert.instanceOf(error.cause, Session.RefreshBudgetExceeded)
      assert.strictEqual(error.reason, "Encode")
      yield* TestClock.adjust("1 minute")
      isGood = true
      assert.strictEqual((yield* client.get(server.url)).status, 200)
    })))

  it.scopedLive("names the invalid options", () =>
    onUndici(Effect.gen(function*() {
      const { session } = yield* tokens
      for (
        const [option, options] of [["maxRefreshes", { maxRefreshes: -1 }], ["origins", { origins: ["nowhere"] }], [
          "followRedirects",
          { followRedirects: -1 }
        ]] as const
      ) {
        const client = yield* throughLayer(yield* HttpClient.HttpClient, session, options)
        const error = failedWith(yield* Effect.exit(client.get("http://127.0.0.1:1/")), HttpClientError.RequestError)
        assert.strictEqual(error.reason, "Encode")
        assert.strictEqual((error.cause as InvalidOptions).option, option)
      }
    })))

  it.scopedLive("fails with InvalidUrl for a request whose origin is unknown", () =>
    onUndici(Effect.gen(function*() {
      const { session } = yield* tokens
      const client = yield* throughLayer(yield* HttpClient.HttpClient, session, { origins: ["https://a.test"] })
      assert.strictEqual(
        failedWith(yield* Effect.exit(client.get("/x")), HttpClientError.RequestError).reason,
        "InvalidUrl"
      )
    })))
})

describe("H12: the layer", () => {
  class ApiSession extends Effect.Service<ApiSession>()("test/ApiSession", {
    scoped: Session.make<string, SignInFailed>({ acquire: Effect.succeed("from a service") })
  }) {}

  it.scopedLive("takes a service class whose service is a session", () =>
    onUndici(Effect.gen(function*() {
      const server = yield* serve((request) => ({ body: tokenOf(request)! }))
      const services = yield* Layer.build(
        SessionHttpClient.layer(ApiSession, {
          attach: (request, token) => SessionHttpClient.bearer(request, token satisfies string),
          origins: [server.url]
        }).pipe(Layer.provide(ApiSession.Default))
      )
      const client = Context.get(services, HttpClient.HttpClient)
      assert.strictEqual(yield* Effect.flatMap(client.get(server.url), ({ text }) => text), "from a service")
      const session = yield* Effect.provide(ApiSession, ApiSession.Default)
      assert.isTrue(Session.isSession(session))
      assert.deepStrictEqual(
        yield* Effect.exit(Session.use(session, Effect.succeed)),
        Exit.fail(failureOf(yield* Effect.exit(session.current))) as never
      )
    })))
})
