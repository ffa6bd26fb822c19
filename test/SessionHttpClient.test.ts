import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as Undici from "@effect/platform-node/Undici"
import * as Headers from "@effect/platform/Headers"
import * as HttpBody from "@effect/platform/HttpBody"
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientError from "@effect/platform/HttpClientError"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import { assert, describe, it } from "@effect/vitest"
import { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as Session from "effect-holdfast/Session"
import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
import * as SessionMap from "effect-holdfast/SessionMap"
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import * as Tracer from "effect/Tracer"
import { Readable } from "node:stream"
import { inspect } from "node:util"
import {
  assertTransport,
  clients,
  failedWith,
  failureOf,
  many,
  printsOf,
  statusesOf,
  textOf,
  times
} from "./support/httpClients.js"
import { eventually, nextTurn, type Received, type Reply, serve } from "./support/httpServer.js"
import { watched } from "./support/watching.js"

class SignInFailed {
  readonly _tag = "SignInFailed"
}

/** A session whose values are token-0, token-1 and so on; a test can replace the next sign-ins. */
const tokens = (options: Partial<Session.Options<string, SignInFailed>> = {}) =>
  Effect.gen(function*() {
    let signIns = 0
    let issued = 0
    const instead: Array<Effect.Effect<string, SignInFailed>> = []
    const session = yield* Session.make<string, SignInFailed>({
      acquire: Effect.suspend(() => {
        signIns++
        return instead.shift() ?? Effect.sync(() => `token-${issued++}`)
      }),
      ...options
    })
    return {
      session,
      signIns: () => signIns,
      next: (...effects: ReadonlyArray<Effect.Effect<string, SignInFailed>>) => instead.push(...effects),
      /** The next sign-in waits until this opens. */
      held: () => {
        const gate = Effect.unsafeMakeLatch()
        instead.push(Effect.zipRight(gate.await, Effect.sync(() => `token-${issued++}`)))
        return gate
      },
      waiters: Effect.map(session.status, (status) => status._tag === "Refreshing" ? status.waiters : 0)
    }
  })

const tokenOf = (request: Received) => request.headers.authorization?.replace("Bearer ", "")

/** An API that refuses the tokens for which `isStale` holds. */
const api = (isStale: (token: string | undefined, request: Received) => boolean, rest: Reply = { body: "ok" }) =>
  serve((request) => isStale(tokenOf(request), request) ? { status: 401, body: "expired" } : rest)

const refuses = (...stale: ReadonlyArray<string>) => (token: string | undefined) =>
  token === undefined || stale.includes(token)

describe.each(clients)("over %s", (name, layer) => {
  it.scopedLive("H1: a refused request is built again from the caller's own, without any part of the old value", () =>
    Effect.gen(function*() {
      const { session } = yield* tokens()
      const server = yield* serve(({ path }) => path.includes("token-0") ? { status: 401 } : { body: "orders" })
      const client = yield* SessionHttpClient.make(session, {
        attach: (request, token) =>
          request.pipe(
            HttpClientRequest.appendUrl(`/${token}/orders`),
            HttpClientRequest.appendUrlParam("key", token),
            HttpClientRequest.setHeader(`x-${token}`, "1"),
            HttpClientRequest.setHeader("cookie", `${request.headers["cookie"]}; sid=${token}`)
          )
      })
      const response = yield* client.get(`${server.url}/v1`, {
        urlParams: { page: "2" },
        headers: { cookie: "lang=de", "x-mine": "kept" }
      })
      assert.strictEqual(yield* response.text, "orders")
      const [, again] = server.received
      assert.strictEqual(server.received.length, 2)
      assert.strictEqual(again!.path, "/v1/token-1/orders?page=2&key=token-1")
      assert.strictEqual(again!.headers.cookie, "lang=de; sid=token-1")
      assert.strictEqual(again!.headers["x-mine"], "kept")
      assert.isUndefined(again!.headers["x-token-0"])
      assert.notInclude(JSON.stringify(again), "token-0")
    }).pipe(Effect.provide(layer)))

  it.scopedLive("H1: twenty callers with one stale token cause one sign-in, and all succeed", () =>
    Effect.gen(function*() {
      const { session, signIns } = yield* tokens()
      const allThere = Effect.unsafeMakeLatch()
      let stale = 0
      const server = yield* serve((request) => {
        if (tokenOf(request) !== "token-0") return { body: "ok" }
        if (++stale === 20) allThere.unsafeOpen()
        return Effect.as(allThere.await, { status: 401, body: "expired" })
      })
      const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer })
      const exits = yield* many(20, Effect.flatMap(client.get(server.url), (response) => response.text))
      assert.deepStrictEqual(exits, times(20, Exit.succeed("ok")))
      assert.strictEqual(signIns(), 2)
      assert.strictEqual(server.received.length, 40)
    }).pipe(Effect.provide(layer)))

  for (const maxRefreshes of [0, 1, 3]) {
    it.scopedLive(`H2: a lasting refusal ends after ${maxRefreshes} refreshes, with a readable response`, () =>
      Effect.gen(function*() {
        const { session, signIns } = yield* tokens()
        const server = yield* serve((request) => ({ status: 401, body: `not ${tokenOf(request)}` }))
        const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer, maxRefreshes })
        const refused = failedWith(yield* Effect.exit(client.get(server.url)), SessionHttpClient.SessionRejected)
        assert.strictEqual(refused.refreshes, maxRefreshes)
        assert.include(refused.message, `GET ${server.url} was refused with 401 after ${maxRefreshes} refresh`)
        assert.strictEqual(refused.response.status, 401)
        assert.strictEqual(yield* refused.response.text, `not token-${maxRefreshes}`)
        assert.strictEqual(server.received.length, 1 + maxRefreshes)
        assert.strictEqual(signIns(), 1 + maxRefreshes)
      }).pipe(Effect.provide(layer)))
  }

  const formData = () => {
    const form = name === "undici" ? new Undici.FormData() as unknown as FormData : new FormData()
    form.append("name", "Ada")
    form.append("note", "two\r\nlines")
    return form
  }
  const bytes = Uint8Array.from({ length: 70_000 }, (_, i) => i % 251)
  const bodies: ReadonlyArray<readonly [string, HttpBody.HttpBody]> = [
    ["JSON", HttpBody.unsafeJson({ order: 1, note: "ä€" })],
    ["text", HttpBody.text("plain ä€ text", "text/plain; charset=utf-8")],
    ["bytes", HttpBody.uint8Array(bytes)],
    ["URL parameters", HttpBody.urlParams([["a", "1 2"], ["b", "ü&"]])],
    ["form data", HttpBody.formData(formData())],
    ["a raw string", HttpBody.raw("raw text", { contentType: "text/plain" })]
  ]
  it.scopedLive.each(bodies)(
    "H3: the body of a refused request is sent again as it was: %s",
    ([, body]) =>
      Effect.gen(function*() {
        const { session } = yield* tokens()
        const server = yield* api(refuses("token-0"))
        const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer })
        const response = yield* client.post(`${server.url}/orders`, { body })
        assert.strictEqual(response.status, 200)
        const [first, again] = server.received
        const boundary = /boundary=(\S+)/
        const comparable = ({ body, headers }: Received) =>
          Object.entries({ body: body.toString("latin1"), type: headers["content-type"] ?? "" }).map(([key, value]) => [
            key,
            value.replaceAll(boundary.exec(headers["content-type"] ?? "")?.[1] ?? "\0", "BOUNDARY")
          ])
        assert.isAbove(first!.body.length, 0)
        assert.deepStrictEqual(comparable(again!), comparable(first!))
        assert.strictEqual(again!.method, "POST")
        assert.strictEqual(tokenOf(again!), "token-1")
      }).pipe(Effect.provide(layer))
  )

  it.scopedLive("H3: a refused request whose body is a stream is not sent again; the session is refreshed", () =>
    Effect.gen(function*() {
      const { session, signIns } = yield* tokens()
      const server = yield* api(refuses("token-0"))
      const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer })
      const request = HttpClientRequest.post(server.url).pipe(
        HttpClientRequest.bodyStream(Stream.make(new TextEncoder().encode("once")))
      )
      const refused = failedWith(yield* Effect.exit(client.execute(request)), SessionHttpClient.NotReplayable)
      assert.strictEqual(refused.request, request)
      assert.strictEqual(refused.response.status, 401)
      assert.strictEqual(yield* refused.response.text, "expired")
      assert.deepStrictEqual(server.received.map(({ body }) => body.toString()), ["once"])
      assert.strictEqual(signIns(), 2)
      assert.strictEqual((yield* client.execute(request)).status, 200)
      assert.deepStrictEqual(server.received.map(({ body }) => body.toString()), ["once", "once"])
    }).pipe(Effect.provide(layer)))

  it.scopedLive("H1: a hundred refused and repeated requests use few connections", () =>
    Effect.gen(function*() {
      const { session } = yield* tokens({ budget: { refreshes: 1000, within: "1 minute" } })
      const seen = new Set<string | undefined>()
      const server = yield* serve((request) => {
        const token = tokenOf(request)
        if (seen.has(token)) return { status: 401, body: "x".repeat(4096) }
        seen.add(token)
        return { body: "ok" }
      })
      const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer })
      yield* Effect.repeatN(Effect.flatMap(client.get(server.url), (response) => response.text), 99)
      assert.strictEqual(server.received.length, 199)
      assert.isAtMost(server.connections(), 3)
    }).pipe(Effect.provide(layer)))

  // The time limit is never reached: these are cut off because of their length.
  for (const declared of [undefined, 1024 ** 3]) {
    it.scoped(`H1: a refusal ${declared === undefined ? "without end" : "that declares a gigabyte"} is cut off`, () =>
      Effect.gen(function*() {
        const { session } = yield* tokens()
        const server = yield* serve((request) =>
          tokenOf(request) === "token-1" ? { body: "ok" } : {
            write: (response) => {
              response.writeHead(401, declared === undefined ? {} : { "content-length": declared })
              const more = () => {
                if (response.destroyed) return
                if (response.write("x".repeat(16_384))) setImmediate(more)
                else response.once("drain", more)
              }
              more()
            }
          }
        )
        const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer })
        const response = yield* client.get(server.url)
        assert.strictEqual(yield* response.text, "ok")
        yield* Deferred.await(server.received[0]!.aborted)
      }).pipe(Effect.provide(layer)))
  }

  const stalling: Reply = {
    write: (response) => void response.writeHead(401).write("the first of many bytes")
  }
  const stallingInShort: Reply = {
    write: (response) => void response.writeHead(401, { "content-length": 100 }).write("the first of a hundred")
  }
  for (const [length, stalled] of [["unknown", stalling], ["known", stallingInShort]] as const) {
    it.scoped(`H9: a refusal of ${length} length that stalls is cut off after a second; the request goes on`, () =>
      Effect.gen(function*() {
        const { session } = yield* tokens()
        const server = yield* serve((request) => tokenOf(request) === "token-1" ? { body: "ok" } : stalled)
        const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer })
        const fiber = yield* Effect.fork(textOf(client.get(server.url)))
        yield* eventually(Effect.zipRight(
          TestClock.adjust("100 millis"),
          Effect.map(Fiber.poll(fiber), Option.isSome)
        ))
        assert.strictEqual(yield* Fiber.join(fiber), "ok")
        assert.isAtLeast(yield* Effect.clockWith((clock) => clock.currentTimeMillis), 1000)
        yield* Deferred.await(server.received[0]!.aborted)
      }).pipe(Effect.provide(layer)))

    it.scoped(`H9: the refresh waits for no stalled refusal of ${length} length, and cuts it if it fails`, () =>
      Effect.gen(function*() {
        const { next, session } = yield* tokens()
        const server = yield* serve(() => stalled)
        const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer })
        yield* session.current
        next(Effect.fail(new SignInFailed()))
        failedWith(yield* Effect.exit(client.get(server.url)), SignInFailed)
        yield* Deferred.await(server.received[0]!.aborted)
      }).pipe(Effect.provide(layer)))
  }

  it.scoped("H4: an interrupted caller frees the connection of the refusal that it was reading", () =>
    Effect.gen(function*() {
      const { held, session, waiters } = yield* tokens()
      const server = yield* serve((request) => tokenOf(request) === "token-1" ? { body: "ok" } : stalling)
      const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer })
      yield* session.current
      const signIn = held()
      const caller = yield* Effect.fork(client.get(server.url))
      yield* eventually(Effect.map(waiters, (count) => count === 1))
      yield* Fiber.interrupt(caller)
      yield* Deferred.await(server.received[0]!.aborted)
      yield* signIn.open
      assert.strictEqual(yield* textOf(client.get(server.url)), "ok")
      assert.strictEqual(server.received.length, 2)
    }).pipe(Effect.provide(layer)))

  it.scopedLive("a long response passes through while the server is still writing it", () =>
    Effect.gen(function*() {
      const { session } = yield* tokens()
      const readSome = Effect.unsafeMakeLatch()
      const chunk = new Uint8Array(64 * 1024)
      const server = yield* serve((request) =>
        tokenOf(request) === "token-0" ? { status: 401 } : {
          write: (response) => {
            response.writeHead(200)
            response.write(chunk)
            Effect.runFork(Effect.zipRight(
              readSome.await,
              Effect.sync(() => {
                for (let i = 0; i < 63; i++) response.write(chunk)
                response.end()
              })
            ))
          }
        }
      )
      const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer })
      const response = yield* client.get(server.url)
      const total = yield* response.stream.pipe(
        Stream.tap(() => readSome.open),
        Stream.runFold(0, (total, bytes) => total + bytes.length)
      )
      assert.strictEqual(total, 64 * 64 * 1024)
    }).pipe(Effect.provide(layer)))

  it.scopedLive("H4: interrupting a caller aborts its request, the first as well as the repeated one", () =>
    Effect.gen(function*() {
      const { session, signIns } = yield* tokens()
      const server = yield* serve((request) => tokenOf(request) === "token-0" ? { status: 401 } : Effect.never)
      const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer })
      const fiber = yield* Effect.fork(client.get(server.url))
      yield* eventually(Effect.sync(() => server.received.length === 2))
      yield* Fiber.interrupt(fiber)
      yield* Deferred.await(server.received[1]!.aborted)
      const another = yield* Effect.fork(client.get(server.url))
      yield* eventually(Effect.sync(() => server.received.length === 3))
      yield* Fiber.interrupt(another)
      yield* Deferred.await(server.received[2]!.aborted)
      assert.strictEqual(signIns(), 2)
    }).pipe(Effect.provide(layer)))

  it.scopedLive("H4: a network error of the repeated request is passed on, and the session stays refreshed", () =>
    Effect.gen(function*() {
      const { session, signIns } = yield* tokens()
      const server = yield* serve((request) =>
        tokenOf(request) === "token-0" ? { status: 401 } : { write: (response) => void response.socket?.destroy() }
      )
      const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer })
      assertTransport(yield* Effect.exit(client.get(server.url)))
      assert.strictEqual(server.received.length, 2)
      assert.strictEqual(signIns(), 2)
      assert.strictEqual((yield* session.current).value, "token-1")
    }).pipe(Effect.provide(layer)))

  it.scopedLive("H4: a transport error and a status filter's error show the caller's request, without the value", () =>
    Effect.gen(function*() {
      const { session } = yield* tokens()
      const server = yield* serve(({ path }) =>
        path === "/cut" ? { write: (response) => void response.socket?.destroy() } : { status: 500 }
      )
      const wrapped = yield* Effect.map(HttpClient.HttpClient, HttpClient.filterStatusOk)
      const client = SessionHttpClient.withSession(wrapped, session, { attach: SessionHttpClient.bearer })
      for (const path of ["/cut", "/no"]) {
        const request = HttpClientRequest.get(`${server.url}${path}`)
        const exit = yield* Effect.exit(client.execute(request))
        const { request: shownRequest } = path === "/cut"
          ? failedWith(exit, HttpClientError.RequestError)
          : failedWith(exit, HttpClientError.ResponseError)
        assert.strictEqual(shownRequest, request)
        const shown = [inspect(exit, { depth: 12, showHidden: true }), JSON.stringify(exit), String(exit)].join("\n")
        assert.notInclude(shown, "token-0")
      }
    }).pipe(Effect.provide(layer)))

  it.scopedLive("an answer that is not a refusal causes no refresh: statuses, resets, refused connections", () =>
    Effect.gen(function*() {
      const { session, signIns } = yield* tokens()
      const server = yield* serve(({ path }) =>
        path === "/reset"
          ? { write: (response) => void response.socket?.destroy() }
          : { status: Number(path.slice(1)), body: `this is ${path}` }
      )
      const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer })
      for (const status of [200, 304, 400, 403, 404, 429, 500, 503]) {
        const response = yield* client.get(`${server.url}/${status}`)
        assert.strictEqual(response.status, status)
        if (status !== 304) assert.strictEqual(yield* response.text, `this is /${status}`)
      }
      assertTransport(yield* Effect.exit(client.get(`${server.url}/reset`)))
      const gone = yield* Effect.scoped(Effect.map(serve(() => ({})), ({ url }) => url))
      assertTransport(yield* Effect.exit(client.get(gone)))
      assert.strictEqual(signIns(), 1)
    }).pipe(Effect.provide(layer)))

  it.scopedLive("`rejected` may read the body, and the caller can read it again", () =>
    Effect.gen(function*() {
      const { session } = yield* tokens()
      const server = yield* serve((request) => ({
        headers: { "content-type": "application/json" },
        body: JSON.stringify(tokenOf(request) === "token-0" ? { errors: ["expired"] } : { data: 42 })
      }))
      const client = yield* SessionHttpClient.make(session, {
        attach: SessionHttpClient.bearer,
        rejected: (response) =>
          Effect.map(Effect.orDie(response.json), (body) => "errors" in (body as Record<string, unknown>))
      })
      const response = yield* client.get(server.url)
      assert.deepStrictEqual(yield* response.json, { data: 42 })
      assert.strictEqual(server.received.length, 2)
    }).pipe(Effect.provide(layer)))

  it.scoped("shows no header of `attach` in a span, whatever its name", () =>
    Effect.gen(function*() {
      const server = yield* serve(() => ({ status: 200 }))
      const { exit, seen } = yield* watched(Effect.gen(function*() {
        const session = yield* Session.make({ acquire: Effect.succeed("canary") })
        const client = yield* SessionHttpClient.make(session, {
          attach: (request, value) =>
            HttpClientRequest.setHeaders(request, { "x-shop-token": value, authorization: value })
        })
        return yield* client.execute(HttpClientRequest.setHeader(HttpClientRequest.get(server.url), "x-own", "seen"))
      }))
      assert.isTrue(Exit.isSuccess(exit))
      assert.strictEqual(server.received[0]!.headers["x-shop-token"], "canary")
      const text = inspect(seen, { depth: 12 })
      assert.include(text, "seen")
      assert.notInclude(text, "canary")
    }).pipe(Effect.provide(layer)))

  it.scopedLive("H8: each attempt has its own span, with the wrapped client's name", () =>
    Effect.gen(function*() {
      const spans: Array<Tracer.Span> = []
      const native = yield* Effect.tracer
      const tracer = Tracer.make({
        context: (f, fiber) => native.context(f, fiber),
        span: (...args) => {
          const span = native.span(...args)
          spans.push(span)
          return span
        }
      })
      const { session } = yield* tokens()
      const server = yield* api(refuses("token-0"))
      const named = HttpClient.withSpanNameGenerator(
        yield* HttpClient.HttpClient,
        ({ method }) => `orders ${method}`
      )
      const client = SessionHttpClient.withSession(named, session, { attach: SessionHttpClient.bearer })
      yield* client.get(server.url).pipe(Effect.withSpan("checkout"), Effect.withTracer(tracer))
      const [checkout] = spans
      const attempts = spans.filter(({ kind }) => kind === "client")
      assert.deepStrictEqual(attempts.map(({ name }) => name), ["orders GET", "orders GET"])
      assert.deepStrictEqual(attempts.map(({ attributes }) => attributes.get("http.response.status_code")), [401, 200])
      for (const attempt of attempts) {
        assert.strictEqual(Option.getOrThrow(attempt.parent).spanId, checkout!.spanId)
        assert.strictEqual(attempt.status._tag, "Ended")
      }
      const sent = server.received.map(({ headers }) => String(headers["traceparent"]).split("-")[2])
      assert.deepStrictEqual(sent, attempts.map(({ spanId }) => spanId))
      assert.notStrictEqual(sent[0], sent[1])
    }).pipe(Effect.provide(layer)))
})

const onUndici = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.provide(effect, NodeHttpClient.layerUndici)

describe("H3: a body that can be read only once", () => {
  const encoder = new TextEncoder()
  const once: ReadonlyArray<readonly [string, () => unknown]> = [
    ["a Node stream", () => Readable.from([encoder.encode("once")])],
    ["a web stream", () => new Blob(["once"]).stream()],
    [
      "an asynchronous iterator",
      async function*() {
        yield encoder.encode("once")
      }
    ],
    [
      "an iterator",
      function*() {
        yield encoder.encode("once")
      }
    ]
  ]
  it.scopedLive.each(once)("is never sent again empty: %s", ([, body]) =>
    onUndici(Effect.gen(function*() {
      const { session, signIns } = yield* tokens()
      const server = yield* api(refuses("token-0"))
      const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer })
      const send = Effect.suspend(() => client.post(server.url, { body: HttpBody.raw(body()) }))
      failedWith(yield* Effect.exit(send), SessionHttpClient.NotReplayable)
      assert.deepStrictEqual(server.received.map(({ body }) => body.toString()), ["once"])
      assert.strictEqual(signIns(), 2)
      assert.strictEqual((yield* send).status, 200)
      assert.deepStrictEqual(server.received.map(({ body }) => body.toString()), ["once", "once"])
    })))

  const shapes: ReadonlyArray<readonly [string, unknown, sends: number]> = [
    ["what can be piped", { pipe: () => {} }, 1],
    ["what has a reader", { getReader: () => {} }, 1],
    ["an iterator", { next: () => {} }, 1],
    ["an asynchronous iterable", { [Symbol.asyncIterator]: () => {} }, 1],
    ["a blob", new Blob(["again"]), 2],
    ["URL parameters", new URLSearchParams({ a: "1" }), 2],
    ["a string", "again", 2],
    ["nothing", null, 2]
  ]
  it.scoped.each(shapes)("is recognised by its shape: %s", ([, body, sends]) =>
    Effect.gen(function*() {
      const { session } = yield* tokens()
      let sent = 0
      const refusing = HttpClient.make((request) =>
        Effect.sync(() => {
          sent++
          return HttpClientResponse.fromWeb(request, new Response("expired", { status: 401 }))
        })
      )
      const client = SessionHttpClient.withSession(refusing, session, { attach: SessionHttpClient.bearer })
      const exit = yield* Effect.exit(client.post("http://a.test", { body: HttpBody.raw(body) }))
      assert.strictEqual(failureOf(exit)._tag, sends === 1 ? "NotReplayable" : "SessionRejected")
      assert.strictEqual(sent, sends)
    }))

  it.scopedLive("is refused immediately when no refresh is left", () =>
    onUndici(Effect.gen(function*() {
      const { session, signIns } = yield* tokens()
      const server = yield* api(() => true)
      const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer, maxRefreshes: 0 })
      const exit = yield* Effect.exit(client.post(server.url, { body: HttpBody.stream(Stream.empty) }))
      failedWith(exit, SessionHttpClient.SessionRejected)
      assert.strictEqual(signIns(), 1)
    })))

  it.scopedLive("gets the refresh's failure when the refresh fails", () =>
    onUndici(Effect.gen(function*() {
      const { next, session } = yield* tokens()
      yield* session.current
      next(Effect.fail(new SignInFailed()))
      const server = yield* api(() => true)
      const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer })
      const exit = yield* Effect.exit(client.post(server.url, { body: HttpBody.stream(Stream.empty) }))
      failedWith(exit, SignInFailed)
    })))

  it.scopedLive("is what `replay` says it is", () =>
    onUndici(Effect.gen(function*() {
      const { session } = yield* tokens()
      const server = yield* api((token) => token !== "token-2")
      const stream = HttpBody.stream(Stream.make(encoder.encode("again")))
      const always = yield* SessionHttpClient.make(session, {
        attach: SessionHttpClient.bearer,
        replay: () => true,
        maxRefreshes: 2
      })
      assert.strictEqual((yield* always.post(server.url, { body: stream })).status, 200)
      assert.deepStrictEqual(server.received.map(({ body }) => body.toString()), ["again", "again", "again"])
      const other = yield* tokens()
      const onlyGet = yield* SessionHttpClient.make(other.session, {
        attach: SessionHttpClient.bearer,
        replay: ({ method }) => method === "GET"
      })
      const exit = yield* Effect.exit(onlyGet.post(server.url, { body: HttpBody.text("pay") }))
      failedWith(exit, SessionHttpClient.NotReplayable)
      assert.strictEqual(server.received.length, 4)
    })))
})

describe("a renewal in flight", () => {
  const underway = Effect.gen(function*() {
    const { held, session, signIns, waiters } = yield* tokens()
    const server = yield* api(refuses("token-0"))
    const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer })
    yield* session.current
    const renewal = held()
    const first = yield* Effect.fork(client.get(server.url))
    yield* eventually(Effect.map(waiters, (count) => count === 1))
    const later = yield* Effect.all(Array.from({ length: 10 }, () => Effect.fork(client.get(server.url))))
    yield* eventually(Effect.map(waiters, (count) => count === 11))
    return { server, session, signIns, renewal, first, later }
  })

  it.scopedLive("H5: makes later requests wait; none is sent with a value that is known to be stale", () =>
    onUndici(Effect.gen(function*() {
      const { first, later, renewal, server, signIns } = yield* underway
      assert.strictEqual(server.received.length, 1)
      yield* renewal.open
      assert.deepStrictEqual(statusesOf([yield* Fiber.await(first), ...yield* Fiber.awaitAll(later)]), times(11, 200))
      assert.deepStrictEqual(server.received.map(tokenOf), ["token-0", ...times(11, "token-1")])
      assert.strictEqual(signIns(), 2)
    })))

  for (const who of ["the first caller", "another caller"] as const) {
    it.scopedLive(`goes on for the others when ${who} is interrupted`, () =>
      onUndici(Effect.gen(function*() {
        const { first, later, renewal, server, signIns } = yield* underway
        const [gone, ...rest] = who === "the first caller" ? [first, ...later] : [...later, first]
        yield* Fiber.interrupt(gone!)
        yield* renewal.open
        assert.deepStrictEqual(statusesOf(yield* Fiber.awaitAll(rest)), times(10, 200))
        assert.strictEqual(server.received.length, 11)
        assert.strictEqual(signIns(), 2)
      })))
  }

  it.scopedLive("is completed and kept when all callers are interrupted", () =>
    onUndici(Effect.gen(function*() {
      const { first, later, renewal, server, session, signIns } = yield* underway
      yield* Fiber.interruptAll([first, ...later])
      yield* renewal.open
      assert.strictEqual((yield* session.current).value, "token-1")
      assert.strictEqual(server.received.length, 1)
      assert.strictEqual(signIns(), 2)
    })))

  it.scoped("H6: that fails gives one failure to all waiting and a hundred more callers, without a sign-in", () =>
    onUndici(Effect.gen(function*() {
      const { next, session, signIns, waiters } = yield* tokens()
      const server = yield* api(() => true)
      const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer })
      yield* session.current
      const gate = Effect.unsafeMakeLatch()
      next(Effect.zipRight(gate.await, Effect.fail(new SignInFailed())))
      const callers = yield* Effect.fork(many(20, client.get(server.url)))
      yield* eventually(Effect.map(waiters, (count) => count === 20))
      yield* gate.open
      const failures = (yield* Fiber.join(callers)).map(failureOf)
      assert.instanceOf(failures[0], SignInFailed)
      for (const failure of failures) assert.strictEqual(failure, failures[0])
      for (const exit of yield* many(100, client.get(server.url))) {
        assert.strictEqual(failureOf(exit), failures[0])
      }
      assert.strictEqual(signIns(), 2)
      yield* TestClock.adjust("1 second")
      yield* many(100, client.get(server.url))
      assert.isAtMost(signIns(), 4)
    })))

  it.scoped("H6: that dies gives its defect to all waiting callers; the session works again after the cooldown", () =>
    onUndici(Effect.gen(function*() {
      const { next, session, waiters } = yield* tokens()
      const server = yield* api(refuses("token-0"))
      const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer })
      yield* session.current
      const gate = Effect.unsafeMakeLatch()
      const defect = new Error("out of order")
      next(Effect.zipRight(gate.await, Effect.die(defect)))
      const callers = yield* Effect.fork(many(5, client.get(server.url)))
      yield* eventually(Effect.map(waiters, (count) => count === 5))
      yield* gate.open
      for (const exit of yield* Fiber.join(callers)) {
        assert.isTrue(Exit.isFailure(exit))
        if (Exit.isFailure(exit)) assert.deepStrictEqual(Chunk.toArray(Cause.defects(exit.cause)), [defect])
      }
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* client.get(server.url)).status, 200)
    })))

  it.scoped("that interrupts itself is a typed failure", () =>
    onUndici(Effect.gen(function*() {
      const { next, session } = yield* tokens()
      const server = yield* api(refuses("token-0"))
      const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer })
      yield* session.current
      next(Effect.interrupt)
      failedWith(yield* Effect.exit(client.get(server.url)), Session.RefreshInterrupted)
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* client.get(server.url)).status, 200)
    })))

  it.scopedLive("ends in a typed failure for requests in flight when the session's scope closes", () =>
    onUndici(Effect.gen(function*() {
      const scoped = Effect.gen(function*() {
        const { next, session, waiters } = yield* tokens()
        const server = yield* api(refuses("token-0"))
        const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer })
        yield* session.current
        next(Effect.never)
        const callers = yield* Effect.forkDaemon(many(3, client.get(server.url)))
        yield* eventually(Effect.map(waiters, (count) => count === 3))
        return { callers, late: client.get(server.url) }
      })
      const { callers, late } = yield* Effect.scoped(scoped)
      for (const exit of yield* Fiber.join(callers)) failedWith(exit, Session.SessionClosed)
      failedWith(yield* Effect.exit(late), Session.SessionClosed)
    })))

  it.scopedLive("which sends its own requests through the session's client fails instead of waiting for itself", () =>
    onUndici(Effect.gen(function*() {
      const server = yield* api(() => false)
      const inner = yield* HttpClient.HttpClient
      const session: Session.Session<string, unknown> = yield* Session.make<string, unknown>({
        acquire: Effect.suspend(() =>
          SessionHttpClient.withSession(inner, session, { attach: SessionHttpClient.bearer }).get(server.url)
        ).pipe(Effect.flatMap((response) => response.text))
      })
      const client = SessionHttpClient.withSession(inner, session, { attach: SessionHttpClient.bearer })
      failedWith(yield* Effect.exit(client.get(server.url)), Session.ReentrantRefresh)
      assert.strictEqual(server.received.length, 0)
    })))
})

it.scopedLive("H1: twenty stragglers that come back with the old token cause no further sign-in", () =>
  onUndici(Effect.gen(function*() {
    const { session, signIns } = yield* tokens()
    const gates = Array.from({ length: 20 }, () => Effect.unsafeMakeLatch())
    let arrived = 0
    const server = yield* serve((request) =>
      tokenOf(request) === "token-0" && request.path.startsWith("/slow")
        ? Effect.as(gates[arrived++]!.await, { status: 401 })
        : refuses("token-0")(tokenOf(request))
        ? { status: 401 }
        : { body: "ok" }
    )
    const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer })
    const stragglers = yield* Effect.fork(many(20, client.get(`${server.url}/slow`)))
    yield* eventually(Effect.sync(() => arrived === 20))
    assert.strictEqual((yield* client.get(server.url)).status, 200)
    assert.strictEqual(signIns(), 2)
    for (const gate of gates) {
      yield* gate.open
      yield* nextTurn
    }
    assert.deepStrictEqual(statusesOf(yield* Fiber.join(stragglers)), times(20, 200))
    assert.strictEqual(signIns(), 2)
  })))

it.scopedLive("fifty callers of three requests each all succeed while refreshes are forced", () =>
  onUndici(Effect.gen(function*() {
    const { session, signIns } = yield* tokens({ budget: { refreshes: 1000, within: "1 minute" } })
    const uses = new Map<string, number>()
    // A token is valid for ten requests.
    const server = yield* api((token) => {
      uses.set(token!, (uses.get(token!) ?? 0) + 1)
      return uses.get(token!)! > 10
    })
    const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer, maxRefreshes: 50 })
    const three = Effect.all([1, 2, 3].map((n) => textOf(client.get(`${server.url}/${n}`))))
    for (const exit of yield* many(50, three)) assert.deepStrictEqual(exit, Exit.succeed(["ok", "ok", "ok"]))
    assert.isAtLeast(signIns(), 15)
    assert.isAtMost(signIns(), 16)
  })))

describe("a callback that breaks", () => {
  const boom = new Error("boom")
  const fine = (request: HttpClientRequest.HttpClientRequest, token: string) => SessionHttpClient.bearer(request, token)

  /** The broken callback is called for `/broken` only; the session must serve the next request as before. */
  const meets = (
    options: Omit<SessionHttpClient.Options<string>, "attach"> & Partial<SessionHttpClient.Options<string>>,
    check: (exit: Exit.Exit<unknown, unknown>, received: ReadonlyArray<Received>) => void,
    over: Layer.Layer<HttpClient.HttpClient> = NodeHttpClient.layerUndici
  ) =>
    Effect.gen(function*() {
      const { session } = yield* tokens()
      const server = yield* api(refuses("token-0"))
      const client = yield* SessionHttpClient.make(session, { attach: fine, ...options })
      check(yield* Effect.exit(client.get(`${server.url}/broken`)), server.received)
      assert.strictEqual((yield* client.get(`${server.url}/fine`)).status, 200)
    }).pipe(Effect.provide(over))

  const isBroken = ({ url }: { readonly url: string }) => url.endsWith("/broken")

  const encodes = (option: string) => (exit: Exit.Exit<unknown, unknown>) => {
    const error = failedWith(exit, HttpClientError.RequestError)
    assert.strictEqual(error.reason, "Encode")
    assert.include(error.message, option)
    assert.strictEqual(error.cause, boom)
  }

  it.scopedLive("an `attach` that throws is a RequestError", () =>
    meets({
      attach: (request, token) => {
        if (isBroken(request)) throw boom
        return fine(request, token)
      }
    }, encodes("attach")))

  it.scopedLive("an `attach` that dies is a RequestError", () =>
    meets({
      attach: (request, token) => isBroken(request) ? Effect.die(boom) : Effect.succeed(fine(request, token))
    }, encodes("attach")))

  it.scopedLive("an `attach` that throws only for the new value fails the repeated request", () =>
    meets({
      attach: (request, token) => {
        if (isBroken(request) && token === "token-1") throw boom
        return fine(request, token)
      }
    }, (exit, received) => {
      encodes("attach")(exit)
      assert.strictEqual(received.length, 1)
    }))

  const misheaded: ReadonlyArray<readonly [string, HttpClientRequest.HttpClientRequest]> = [
    ["a line break in its value", HttpClientRequest.bearerToken("canary\ncanary")(HttpClientRequest.get("/"))],
    [
      "a character beyond one byte in its value",
      HttpClientRequest.setHeader("x-key", "canary€")(HttpClientRequest.get("/"))
    ],
    ["a space in its name", HttpClientRequest.setHeader("x key", "canary")(HttpClientRequest.get("/"))]
  ]
  for (const [client, layer] of clients) {
    it.scopedLive.each(misheaded)(
      `H2: an \`attach\` that sets a header with %s is a RequestError that does not show the value, over ${client}`,
      ([, { headers }]) =>
        meets(
          {
            attach: (request, token) => {
              const sent = fine(request, token)
              return isBroken(request) ? HttpClientRequest.setHeaders(headers)(sent) : sent
            }
          },
          (exit, received) => {
            const error = failedWith(exit, HttpClientError.RequestError)
            assert.strictEqual(error.reason, "Encode")
            assert.include(error.message, Object.keys(headers)[0]!)
            assert.notInclude(inspect(exit, { depth: 12 }) + JSON.stringify(exit) + error.message, "canary")
            assert.lengthOf(received, 0)
          },
          layer
        )
    )
  }

  const decodes = (exit: Exit.Exit<unknown, unknown>) => {
    const error = failedWith(exit, HttpClientError.ResponseError)
    assert.strictEqual(error.reason, "Decode")
    assert.strictEqual(error.response.status, 401)
    assert.include(error.message, "rejected")
    assert.strictEqual(error.cause, boom)
  }

  it.scopedLive("a `rejected` that throws is a ResponseError", () =>
    meets({
      rejected: (response) => {
        if (isBroken(response.request)) throw boom
        return response.status === 401
      }
    }, decodes))

  it.scopedLive("a `rejected` that dies is a ResponseError", () =>
    meets({
      rejected: (response) => isBroken(response.request) ? Effect.die(boom) : response.status === 401
    }, decodes))

  const answers: ReadonlyArray<readonly [string, () => unknown]> = [
    ["nothing", () => undefined],
    ["null", () => null],
    ["text", () => "yes"],
    ["a number, in an effect", () => Effect.succeed(1)],
    ["a promise", () => Promise.resolve(true)]
  ]
  it.scopedLive.each(answers)(
    "H2: a `rejected` that answers with %s, from a caller without types, is a ResponseError",
    ([, answer]) =>
      meets({
        rejected: ((response: HttpClientResponse.HttpClientResponse) =>
          isBroken(response.request) ? answer() : response.status === 401) as () => boolean
      }, (exit, received) => {
        const error = failedWith(exit, HttpClientError.ResponseError)
        assert.strictEqual(error.reason, "Decode")
        assert.include(error.message, "rejected")
        assert.strictEqual(received.length, 1)
      })
  )

  it.scopedLive("a `replay` that throws is a RequestError", () =>
    meets({
      replay: (request) => {
        if (isBroken(request)) throw boom
        return true
      }
    }, encodes("replay")))

  const noVerdicts: typeof answers = [["a promise", () => Promise.resolve(false)], ["nothing", () => undefined]]
  it.scopedLive.each(noVerdicts)(
    "H3: a `replay` that answers with %s, from a caller without types, is a RequestError",
    ([, answer]) =>
      meets({
        replay: ((request: HttpClientRequest.HttpClientRequest) => isBroken(request) ? answer() : true) as () => boolean
      }, (exit, received) => {
        const error = failedWith(exit, HttpClientError.RequestError)
        assert.strictEqual(error.reason, "Encode")
        assert.include(error.message, "replay: must answer true or false")
        assert.strictEqual(received.length, 1)
      })
  )

  it.scopedLive("a `key` that throws is a RequestError", () =>
    onUndici(Effect.gen(function*() {
      const sessions = yield* SessionMap.make({ lookup: (tenant: string) => ({ acquire: Effect.succeed(tenant) }) })
      const server = yield* api(() => false)
      const client = yield* SessionHttpClient.makeKeyed(sessions, {
        key: (request) => {
          if (isBroken(request)) throw boom
          return "ours"
        },
        attach: SessionHttpClient.bearer
      })
      encodes("key")(yield* Effect.exit(client.get(`${server.url}/broken`)))
      assert.strictEqual((yield* client.get(server.url)).status, 200)
      assert.strictEqual(server.received.length, 1)
    })))

  it.scopedLive("H2: a maxRefreshes of null, from a caller without types, is the default", () =>
    onUndici(Effect.gen(function*() {
      const { session } = yield* tokens()
      const server = yield* api(() => true)
      const maxRefreshes = null as unknown as undefined
      const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer, maxRefreshes })
      failedWith(yield* Effect.exit(client.get(server.url)), SessionHttpClient.SessionRejected)
      assert.strictEqual(server.received.length, 2)
    })))

  for (const maxRefreshes of [-1, 1.5, NaN, Infinity]) {
    it.scopedLive(`a maxRefreshes of ${maxRefreshes} is refused before anything is sent`, () =>
      onUndici(Effect.gen(function*() {
        const { session, signIns } = yield* tokens()
        const server = yield* api(() => true)
        const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer, maxRefreshes })
        const error = failedWith(yield* Effect.exit(client.get(server.url)), InvalidOptions)
        assert.strictEqual(error.option, "maxRefreshes")
        assert.strictEqual(server.received.length, 0)
        assert.strictEqual(signIns(), 0)
      })))
  }
})

it.scopedLive("an `attach` may be an effect, which runs for each attempt", () =>
  onUndici(Effect.gen(function*() {
    const { session } = yield* tokens()
    const server = yield* api(refuses("token-0"))
    let signatures = 0
    const client = yield* SessionHttpClient.make(session, {
      attach: (request, token) =>
        Effect.sync(() =>
          SessionHttpClient.bearer(request, token).pipe(
            HttpClientRequest.setHeader("x-signature", `${token}#${++signatures}`)
          )
        )
    })
    yield* client.get(server.url)
    assert.deepStrictEqual(server.received.map(({ headers }) => headers["x-signature"]), ["token-0#1", "token-1#2"])
  })))

it.scopedLive("a redacted token is sent unredacted, and not printed with its generation", () =>
  onUndici(Effect.gen(function*() {
    const session = yield* Session.make({ acquire: Effect.succeed(Redacted.make("s3cret")) })
    const server = yield* api(() => false)
    const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer })
    yield* client.get(server.url)
    assert.strictEqual(tokenOf(server.received[0]!), "s3cret")
    assert.notInclude(printsOf(yield* session.current), "s3cret")
  })))

describe("no error prints the session's value, wherever `attach` has put it", () => {
  const attach = (request: HttpClientRequest.HttpClientRequest, token: string) =>
    request.pipe(
      HttpClientRequest.bearerToken(token),
      HttpClientRequest.setHeader("x-tenant-token", token),
      HttpClientRequest.updateUrl((url) => `${url}?key=${token}`),
      HttpClientRequest.setUrlParam("access_token", token),
      HttpClientRequest.setHash(token)
    )

  const failing: ReadonlyArray<
    readonly [string, Partial<SessionHttpClient.Options<string>>, HttpClientRequest.Options.NoUrl]
  > = [
    ["SessionRejected", {}, {}],
    ["NotReplayable", {}, { body: HttpBody.stream(Stream.make(new Uint8Array(1))) }],
    [
      "RequestError",
      {
        attach: () => {
          throw new Error("no")
        }
      },
      {}
    ],
    ["RequestError", { attach: () => Effect.die("no") }, {}],
    [
      "RequestError",
      {
        replay: () => {
          throw new Error("no")
        }
      },
      {}
    ],
    [
      "ResponseError",
      {
        rejected: () => {
          throw new Error("no")
        }
      },
      {}
    ],
    ["ResponseError", { rejected: () => Effect.die("no") }, {}]
  ]

  it.scopedLive.each(failing)("%s", ([tag, options, request]) =>
    onUndici(Effect.gen(function*() {
      const session = yield* Session.make({ acquire: Effect.succeed("s3cret") })
      const server = yield* serve(() => ({ status: 401, headers: { "content-type": "text/plain" }, body: "expired" }))
      const client = yield* SessionHttpClient.make(session, { attach, ...options })
      const exit = yield* Effect.exit(client.post(`${server.url}/orders`, request))
      const error = failureOf(exit)
      assert.strictEqual(error._tag, tag)
      assert.notInclude(printsOf(error), "s3cret")
      if ("response" in error) {
        assert.notInclude(printsOf(error.response), "s3cret")
        assert.include(inspect(error.response, { depth: 9 }), "/orders")
        assert.strictEqual(yield* error.response.text, "expired")
        assert.strictEqual(error.response.headers["content-type"], "text/plain")
      }
    })))
})

describe("a session for each key", () => {
  const tenantOf = (request: HttpClientRequest.HttpClientRequest) => request.headers["x-tenant"] ?? "none"

  const perTenant = (lookup: (tenant: string) => Session.Options<string, SignInFailed>, capacity?: number) =>
    Effect.gen(function*() {
      const sessions = yield* SessionMap.make({ lookup, capacity })
      const server = yield* serve((request) =>
        tokenOf(request)?.endsWith("stale") === true ? { status: 401 } : { body: tokenOf(request)! }
      )
      const client = yield* SessionHttpClient.makeKeyed(sessions, { key: tenantOf, attach: SessionHttpClient.bearer })
      return {
        server,
        ask: (tenant: string) =>
          Effect.flatMap(client.get(server.url, { headers: { "x-tenant": tenant } }), (response) => response.text)
      }
    })

  it.scopedLive("M1: sends each tenant's token with that tenant's requests, however they interleave", () =>
    onUndici(Effect.gen(function*() {
      const issued = new Map<string, number>()
      const { ask, server } = yield* perTenant((tenant) => ({
        acquire: Effect.sync(() => {
          const count = issued.get(tenant) ?? 0
          issued.set(tenant, count + 1)
          return `${tenant}-${count === 0 ? "stale" : count}`
        })
      }))
      const tenants = Array.from({ length: 60 }, (_, i) => `tenant${i % 6}`)
      const bodies = yield* Effect.forEach(tenants, ask, { concurrency: "unbounded" })
      assert.deepStrictEqual(bodies, tenants.map((tenant) => `${tenant}-1`))
      assert.deepStrictEqual([...issued.values()], times(6, 2))
      for (const { headers } of server.received) {
        assert.include(headers.authorization!, String(headers["x-tenant"]))
      }
    })))

  it.scopedLive("M1: keeps one tenant's failed and hanging sign-ins from all others", () =>
    onUndici(Effect.gen(function*() {
      const { ask, server } = yield* perTenant((tenant) => ({
        acquire: tenant === "failing"
          ? Effect.fail(new SignInFailed())
          : tenant === "hanging"
          ? Effect.never
          : Effect.succeed(tenant)
      }))
      const hanging = yield* Effect.fork(ask("hanging"))
      failedWith(yield* Effect.exit(ask("failing")), SignInFailed)
      assert.strictEqual(yield* ask("healthy"), "healthy")
      failedWith(yield* Effect.exit(ask("failing")), SignInFailed)
      assert.strictEqual(server.received.length, 1)
      assert.isTrue(Option.isNone(yield* Fiber.poll(hanging)))
      yield* Fiber.interrupt(hanging)
    })))

  it.scopedLive("M3: holds a session during its request; without room for another one, a request fails", () =>
    onUndici(Effect.gen(function*() {
      const gate = Effect.unsafeMakeLatch()
      const { ask, server } = yield* perTenant((tenant) => ({ acquire: Effect.as(gate.await, tenant) }), 1)
      const first = yield* Effect.fork(ask("a"))
      yield* Effect.yieldNow()
      failedWith(yield* Effect.exit(ask("b")), SessionMap.SessionMapFull)
      yield* gate.open
      assert.strictEqual(yield* Fiber.join(first), "a")
      assert.strictEqual(yield* ask("b"), "b")
      assert.strictEqual(server.received.length, 2)
    })))
})

describe("the layer", () => {
  class ApiSession extends Context.Tag("test/ApiSession")<ApiSession, Session.Session<string, SignInFailed>>() {}

  const throughLayer = (
    session: Session.Session<string, SignInFailed>,
    options: Partial<SessionHttpClient.Options<string>> = {}
  ) =>
    Layer.build(
      SessionHttpClient.layer(ApiSession, { attach: SessionHttpClient.bearer, ...options }).pipe(
        Layer.provide(Layer.succeed(ApiSession, session)),
        Layer.provide(NodeHttpClient.layerUndici)
      )
    ).pipe(Effect.map(Context.get(HttpClient.HttpClient)))

  it.scopedLive("refreshes and sends again, behind the plain service", () =>
    Effect.gen(function*() {
      const { session } = yield* tokens()
      const server = yield* api(refuses("token-0"))
      const client = yield* throughLayer(session)
      assert.strictEqual((yield* client.get(server.url)).status, 200)
      assert.deepStrictEqual(server.received.map(tokenOf), ["token-0", "token-1"])
    }))

  it.scopedLive("H12: gives a failure of the session as a RequestError with the failure as its cause", () =>
    Effect.gen(function*() {
      const { next, session } = yield* tokens()
      const failure = new SignInFailed()
      next(Effect.fail(failure))
      const client = yield* throughLayer(session)
      const request = HttpClientRequest.get("http://127.0.0.1:1")
      const error = failedWith(yield* Effect.exit(client.execute(request)), HttpClientError.RequestError)
      assert.strictEqual(error.reason, "Transport")
      assert.strictEqual(error.cause, failure)
      assert.strictEqual(error.request, request)
    }))

  it.scopedLive("H12: gives the server's response for a lasting refusal, and if the body can be read only once", () =>
    Effect.gen(function*() {
      const { session } = yield* tokens()
      const server = yield* api(() => true)
      const client = yield* throughLayer(session)
      const lasting = yield* client.get(server.url)
      assert.strictEqual(lasting.status, 401)
      assert.strictEqual(yield* lasting.text, "expired")
      assert.strictEqual(server.received.length, 2)
      const once = yield* client.post(server.url, { body: HttpBody.stream(Stream.make(new Uint8Array(3))) })
      assert.strictEqual(once.status, 401)
      assert.strictEqual(yield* once.text, "expired")
      assert.strictEqual(server.received.length, 3)
    }))

  it.scopedLive("does not change the wrapped client's errors and its own", () =>
    Effect.gen(function*() {
      const { session } = yield* tokens()
      const server = yield* serve(() => ({ write: (response) => void response.socket?.destroy() }))
      const client = yield* throughLayer(session)
      const reset = failedWith(yield* Effect.exit(client.get(server.url)), HttpClientError.RequestError)
      assert.strictEqual(reset.reason, "Transport")
      assert.notInstanceOf(reset.cause, HttpClientError.RequestError)
      const invalid = failedWith(yield* Effect.exit(client.get("no url")), HttpClientError.RequestError)
      assert.strictEqual(invalid.reason, "InvalidUrl")
      const breaking = yield* throughLayer(session, { attach: () => Effect.die("no") })
      const encode = failedWith(yield* Effect.exit(breaking.get(server.url)), HttpClientError.RequestError)
      assert.strictEqual(encode.reason, "Encode")
      const ok = yield* api(() => false)
      const judging = yield* throughLayer(session, { rejected: () => Effect.die("no") })
      const decode = failedWith(yield* Effect.exit(judging.get(ok.url)), HttpClientError.ResponseError)
      assert.strictEqual(decode.reason, "Decode")
    }))

  it.scopedLive("wraps an HTTP failure of the sign-in, which is not an answer to the caller's request", () =>
    Effect.gen(function*() {
      const request = HttpClientRequest.post("http://auth.test/token")
      const failure = new HttpClientError.RequestError({ request, reason: "Transport" })
      const session = yield* Session.make<string, unknown>({ acquire: Effect.fail(failure) })
      const client = yield* throughLayer(session as Session.Session<string, SignInFailed>)
      const error = failedWith(yield* Effect.exit(client.get("http://127.0.0.1:1")), HttpClientError.RequestError)
      assert.strictEqual(error.cause, failure)
    }))
})

it.scopedLive("a client keeps its middlewares, beneath the session and around it", () =>
  onUndici(Effect.gen(function*() {
    const { session } = yield* tokens()
    const server = yield* api(refuses("token-0"))
    const inner = HttpClient.mapRequest(yield* HttpClient.HttpClient, HttpClientRequest.prependUrl(server.url))
    const client = SessionHttpClient.withSession(inner, session, { attach: SessionHttpClient.bearer }).pipe(
      HttpClient.mapRequest(HttpClientRequest.setHeader("x-outer", "1")),
      HttpClient.filterStatusOk
    )
    yield* client.get("/orders")
    assert.deepStrictEqual(server.received.map(({ headers, path }) => [path, headers["x-outer"]]), [
      ["/orders", "1"],
      ["/orders", "1"]
    ])
    assert.isTrue(Headers.isHeaders((yield* client.get("/orders")).headers))
  })))

it.scopedLive("two sessions on one client are refreshed each for its own refusals", () =>
  onUndici(Effect.gen(function*() {
    const api = yield* tokens()
    const proxy = yield* tokens()
    const server = yield* serve(({ headers }) =>
      headers["proxy-authorization"] === "token-0"
        ? { status: 407 }
        : headers.authorization === "Bearer token-0"
        ? { status: 401 }
        : { body: "ok" }
    )
    const inner = yield* SessionHttpClient.make(proxy.session, {
      attach: (request, token) => HttpClientRequest.setHeader(request, "proxy-authorization", token),
      rejected: ({ status }) => status === 407
    })
    const client = SessionHttpClient.withSession(inner, api.session, { attach: SessionHttpClient.bearer })
    assert.strictEqual((yield* client.get(server.url)).status, 200)
    assert.deepStrictEqual(
      server.received.map(({ headers }) => [headers["proxy-authorization"], headers.authorization]),
      [["token-0", "Bearer token-0"], ["token-1", "Bearer token-0"], ["token-1", "Bearer token-1"]]
    )
    assert.deepStrictEqual([proxy.signIns(), api.signIns()], [2, 2])
  })))
