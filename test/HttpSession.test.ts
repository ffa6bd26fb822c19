import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as FetchHttpClient from "@effect/platform/FetchHttpClient"
import * as Headers from "@effect/platform/Headers"
import * as HttpBody from "@effect/platform/HttpBody"
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientError from "@effect/platform/HttpClientError"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import { assert, describe, it } from "@effect/vitest"
import * as HttpSession from "effect-holdfast/HttpSession"
import { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as Session from "effect-holdfast/Session"
import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
import * as SessionMap from "effect-holdfast/SessionMap"
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import * as RcMap from "effect/RcMap"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import { Readable } from "node:stream"
import { inspect } from "node:util"
import {
  assertTransport,
  clients,
  failedWith,
  failureOf,
  many,
  poolsOfOne,
  printsOf,
  statusesOf,
  textOf,
  times
} from "./support/httpClients.js"
import { eventually, nextTurn, type Received, type Reply, serve } from "./support/httpServer.js"
import { watched } from "./support/watching.js"

class NoIdentity {
  readonly _tag = "NoIdentity"
}

/** Identity 0, 1, 2 …, recognised by two headers. */
const identities = () => {
  let made = 0
  const identity = Effect.sync((): HttpSession.Identity => ({
    headers: Headers.fromInput({ "user-agent": `agent/${made}`, "x-identity": String(made++) })
  }))
  return { identity, made: () => made }
}

const identityOf = ({ headers }: Received) => headers["x-identity"]

type Answer = Reply | Effect.Effect<Reply>

/** A site whose root sets a cookie with the number of the identity; `handle` answers all other paths. */
const site = (handle: (request: Received) => Answer, root: (request: Received) => Answer = welcome) =>
  Effect.map(
    serve((request) => request.path === "/" ? root(request) : handle(request)),
    (server) => ({
      ...server,
      probes: () => server.received.filter(({ path }) => path === "/"),
      requests: () => server.received.filter(({ path }) => path !== "/")
    })
  )

const welcome = (request: Received): Reply => ({
  headers: { "set-cookie": `sid=${identityOf(request)}` },
  body: "hello"
})

const forbidden: Reply = { status: 403, body: "forbidden" }

const over = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.provide(effect, NodeHttpClient.layerUndici)

const cookiesOf = (session: HttpSession.HttpSession<unknown>["session"], url: string) =>
  session.current.pipe(
    Effect.flatMap(({ value }) => value.cookies(url)),
    Effect.map(Option.getOrElse(() => ""))
  )

const waitersOf = (session: Session.Session<any, any>) =>
  Effect.map(session.status, (status) => status._tag === "Refreshing" ? status.waiters : 0)

describe.each(clients)("over %s", (_name, layer) => {
  it.scopedLive("spans and logs show no header of the identity, except those that name the browser", () =>
    Effect.gen(function*() {
      const server = yield* site(() => ({}))
      const headers = Headers.fromInput({ "user-agent": "seen/1", "x-device": "canary" })
      const { exit, seen } = yield* watched(Effect.gen(function*() {
        const { client } = yield* HttpSession.make({ identity: Effect.succeed({ headers }), probe: server.url })
        return yield* client.get(`${server.url}/page`)
      }))
      assert.isTrue(Exit.isSuccess(exit))
      assert.deepStrictEqual(server.received.map((request) => request.headers["x-device"]), ["canary", "canary"])
      const text = inspect(seen, { depth: 12 })
      assert.include(text, "seen/1")
      assert.notInclude(text, "canary")
    }).pipe(Effect.provide(layer)))

  it.scopedLive("J1: twenty callers met with 403 cause one probe, and all succeed", () =>
    Effect.gen(function*() {
      const allThere = Effect.unsafeMakeLatch()
      let stale = 0
      const server = yield* site((request) => {
        if (identityOf(request) !== "0") return { body: "ok" }
        if (++stale === 20) allThere.unsafeOpen()
        return Effect.as(allThere.await, forbidden)
      })
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url })
      const exits = yield* many(20, textOf(client.get(`${server.url}/page`)))
      assert.deepStrictEqual(exits, times(20, Exit.succeed("ok")))
      assert.strictEqual(server.probes().length, 2)
      assert.strictEqual(server.requests().length, 40)
    }).pipe(Effect.provide(layer)))

  it.scopedLive("J1: a repeated request carries the new identity and only the new cookies", () =>
    Effect.gen(function*() {
      const server = yield* site((request) => identityOf(request) === "0" ? forbidden : {})
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url })
      yield* client.get(`${server.url}/page`)
      const [probe0, refused, probe1, again] = server.received
      assert.deepStrictEqual(
        [probe0!, refused!, probe1!, again!].map(({ headers }) => [
          headers["x-identity"],
          headers["user-agent"],
          headers.cookie
        ]),
        [["0", "agent/0", undefined], ["0", "agent/0", "sid=0"], ["1", "agent/1", undefined], ["1", "agent/1", "sid=1"]]
      )
      assert.strictEqual(server.received.length, 4)
    }).pipe(Effect.provide(layer)))

  it.scopedLive("a lasting 403 reaches the caller after one refresh, and can be read", () =>
    Effect.gen(function*() {
      const server = yield* site(() => ({ status: 403, body: "not your document" }))
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url })
      const error = failedWith(yield* Effect.exit(client.get(`${server.url}/page`)), SessionHttpClient.SessionRejected)
      assert.strictEqual(error.response.status, 403)
      assert.strictEqual(yield* error.response.text, "not your document")
      assert.strictEqual(server.requests().length, 2)
      assert.strictEqual(server.probes().length, 2)
    }).pipe(Effect.provide(layer)))

  it.scopedLive("the body of a refused request is sent again as it was, with the caller's own content type", () =>
    Effect.gen(function*() {
      const server = yield* site((request) => identityOf(request) === "0" ? forbidden : {})
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url })
      const request = HttpClientRequest.post(`${server.url}/page`).pipe(
        HttpClientRequest.bodyUnsafeJson({ note: "ä€" }),
        HttpClientRequest.setHeader("content-type", "application/vnd.api+json")
      )
      yield* client.execute(request)
      const sent = server.requests().map(({ body, headers }) => [body.toString(), headers["content-type"]])
      assert.deepStrictEqual(sent, times(2, [JSON.stringify({ note: "ä€" }), "application/vnd.api+json"]))
    }).pipe(Effect.provide(layer)))

  it.scopedLive("a body that can be read only once is not sent again, but the session is refreshed", () =>
    Effect.gen(function*() {
      const server = yield* site((request) => identityOf(request) === "0" ? forbidden : {})
      const { client, session } = yield* HttpSession.make({ ...identities(), probe: server.url })
      const body = HttpBody.stream(Stream.make(new TextEncoder().encode("once")))
      const error = failedWith(
        yield* Effect.exit(client.post(`${server.url}/page`, { body })),
        SessionHttpClient.NotReplayable
      )
      assert.strictEqual(yield* error.response.text, "forbidden")
      assert.deepStrictEqual(server.requests().map(({ body }) => body.toString()), ["once"])
      assert.strictEqual((yield* session.current).number, 1)
    }).pipe(Effect.provide(layer)))

  it.scopedLive("J2: a POST answered by 307 or 308 is repeated with its body; by 301, 302, 303 it becomes a GET", () =>
    Effect.gen(function*() {
      const server = yield* site(({ path }) =>
        path === "/target?a=%20b&c"
          ? { body: "arrived" }
          : { status: Number(path.slice(1)), headers: { location: "/target?a=%20b&c#part" } }
      )
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url })
      for (const status of [301, 302, 303, 307, 308]) {
        const text = yield* textOf(client.post(`${server.url}/${status}`, { body: HttpBody.unsafeJson({ status }) }))
        assert.strictEqual(text, "arrived")
        const { body, headers, method, path } = server.received.at(-1)!
        assert.strictEqual(path, "/target?a=%20b&c")
        const kept = status > 303
        assert.deepStrictEqual([method, body.toString(), headers["content-type"], headers["content-length"]], [
          kept ? "POST" : "GET",
          kept ? JSON.stringify({ status }) : "",
          kept ? "application/json" : undefined,
          kept ? "14" : undefined
        ])
      }
      for (const status of [301, 302, 307, 308]) {
        yield* client.put(`${server.url}/${status}`, { body: HttpBody.text("kept") })
        const { body, method } = server.received.at(-1)!
        assert.deepStrictEqual([method, body.toString()], ["PUT", "kept"])
      }
      yield* client.head(`${server.url}/303`)
      assert.strictEqual(server.received.at(-1)!.method, "HEAD")
      assert.strictEqual(server.received.at(-1)!.path, "/target?a=%20b&c")
    }).pipe(Effect.provide(layer)))

  it.scopedLive("J2: redirects are bounded", () =>
    Effect.gen(function*() {
      const server = yield* site(({ path }) => ({
        status: 302,
        headers: { location: `/${Number(path.slice(1)) + 1}` },
        body: "x".repeat(4096)
      }))
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url, maxRedirects: 5 })
      const error = failedWith(yield* Effect.exit(client.get(`${server.url}/0`)), HttpClientError.ResponseError)
      assert.strictEqual(error.response.status, 302)
      assert.include(error.message, "5 redirects")
      assert.deepStrictEqual(server.requests().map(({ path }) => path), ["/0", "/1", "/2", "/3", "/4", "/5"])
      assert.isAtMost(server.connections(), 2)
      const { client: unmoved } = yield* HttpSession.make({ ...identities(), probe: server.url, maxRedirects: 0 })
      const response = yield* unmoved.get(`${server.url}/7`)
      assert.deepStrictEqual([response.status, response.headers["location"]], [302, "/8"])
    }).pipe(Effect.provide(layer)))

  for (const host of ["test", "example", "local"]) {
    it.scoped(`J2: a host named ${host}, which is a public suffix, gets the cookies that it has set`, () =>
      Effect.gen(function*() {
        const sent: Array<string | undefined> = []
        const answering = HttpClient.make((request) =>
          Effect.sync(() => {
            sent.push(request.headers["cookie"])
            const headers: Array<[string, string]> = [["set-cookie", "a=1; Path=/"], [
              "set-cookie",
              "b=2; Path=/elsewhere"
            ]]
            return HttpClientResponse.fromWeb(request, new Response("ok", { headers }))
          })
        )
        const { client } = yield* HttpSession.make({ ...identities(), probe: `http://${host}/` })
          .pipe(Effect.provideService(HttpClient.HttpClient, answering))
        for (const url of [`http://${host}/page`, `http://${host}/elsewhere`, "http://other/"]) yield* client.get(url)
        assert.deepStrictEqual(
          sent.map((cookies) => cookies?.split("; ").filter((cookie) => !cookie.startsWith("sid")).sort()),
          [undefined, ["a=1"], ["a=1", "b=2"], undefined]
        )
      }))
  }

  it.scopedLive("J2: a cookie may have the name of a property that every object has", () =>
    Effect.gen(function*() {
      const server = yield* site(() => ({ headers: { "set-cookie": ["constructorX", "toString=1", "a=1"] } }))
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url })
      yield* Effect.replicateEffect(client.get(`${server.url}/page`), 2)
      assert.include(server.requests().at(-1)!.headers.cookie, "a=1")
    }).pipe(Effect.provide(layer)))

  it.effect("H3: a probe whose body can be read only once is an invalid option", () =>
    Effect.gen(function*() {
      const probe = HttpClientRequest.post("http://site/", { body: HttpBody.raw(Readable.from(["once"])) })
      const error = yield* Effect.flip(Effect.scoped(HttpSession.make({ ...identities(), probe })))
      assert.deepInclude(error, { _tag: "InvalidOptions", option: "probe" })
    }).pipe(Effect.provide(layer)))

  it.scopedLive("J2: cookies that a redirect sets are kept and sent to the next hop", () =>
    Effect.gen(function*() {
      const server = yield* site(({ path }) =>
        path === "/login"
          ? { status: 302, headers: { location: "/home", "set-cookie": ["step=1; Path=/", "login=ok; Path=/home"] } }
          : {}
      )
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url })
      yield* client.get(`${server.url}/login`)
      const sent = server.requests().map(({ headers, path }) => [path, headers.cookie?.split("; ").sort()])
      assert.deepStrictEqual(sent, [["/login", ["sid=0"]], ["/home", ["login=ok", "sid=0", "step=1"]]])
    }).pipe(Effect.provide(layer)))

  it.scopedLive("J5: a redirect to another origin sends no credentials there, and only that origin's cookies", () =>
    Effect.gen(function*() {
      const elsewhere = yield* serve(() => ({ headers: { "set-cookie": "sid=elsewhere" } }))
      const away = elsewhere.url.replace("127.0.0.1", "localhost")
      const server = yield* site(() => ({ status: 307, headers: { location: `${away}/there` } }))
      const { client, session } = yield* HttpSession.make({
        identity: Effect.succeed({
          headers: Headers.fromInput({ authorization: "Basic identity", "user-agent": "agent", "x-identity": "7" })
        }),
        probe: server.url
      })
      const send = client.post(`${server.url}/here`, {
        body: HttpBody.text("form"),
        headers: { authorization: "Bearer own", "proxy-authorization": "Basic own", cookie: "own=1", "x-mine": "kept" }
      })
      yield* send
      yield* send
      const credentials = ({ headers }: Received) => [
        headers.cookie,
        headers.authorization,
        headers["proxy-authorization"]
      ]
      const rest = ({ body, headers }: Received) => [body.toString(), headers["x-mine"], headers["x-identity"]]
      assert.deepStrictEqual(elsewhere.received.map(credentials), [
        [undefined, undefined, undefined],
        ["sid=elsewhere", undefined, undefined]
      ])
      assert.deepStrictEqual(server.requests().map(credentials), times(2, ["own=1; sid=7", "Bearer own", "Basic own"]))
      assert.deepStrictEqual(elsewhere.received.map(rest), times(2, ["form", "kept", undefined]))
      assert.strictEqual(yield* cookiesOf(session, server.url), "sid=7")
    }).pipe(Effect.provide(layer)))

  it.scopedLive("J5: a refusal by another site, or by the home origin after a detour, causes no refresh", () =>
    Effect.gen(function*() {
      let home = ""
      const elsewhere = yield* serve(({ path }) =>
        path === "/back"
          ? { status: 302, headers: { location: `${home}/returned` } }
          : { status: path === "/401" ? 401 : 403, body: "no" }
      )
      const away = elsewhere.url.replace("127.0.0.1", "localhost")
      const server = yield* site(({ path }) =>
        path === "/returned" ? forbidden : { status: 302, headers: { location: away + path } }
      )
      home = server.url
      const { client, session } = yield* HttpSession.make({
        identity: Effect.succeed({ headers: Headers.fromInput({ "x-identity": "0", "x-tenant-token": "s3cret" }) }),
        probe: server.url,
        budget: { refreshes: 1, within: "1 hour" }
      })
      for (const path of ["/401", "/403", "/back", "/401", "/403", "/back"]) {
        const response = yield* client.get(server.url + path)
        assert.include([401, 403], response.status)
        yield* response.text
      }
      assert.strictEqual(server.probes().length, 1)
      assert.strictEqual(yield* cookiesOf(session, server.url), "sid=0")
      // Cookies follow their own rules, even after the way back; the identity is not sent again.
      const returned = server.received.filter(({ path }) => path === "/returned")
      assert.deepStrictEqual(
        returned.map(({ headers }) => [headers["x-identity"], headers["x-tenant-token"], headers.cookie]),
        times(2, [undefined, undefined, "sid=0"])
      )
      for (const { headers } of elsewhere.received) {
        assert.deepStrictEqual([headers["x-identity"], headers["x-tenant-token"], headers.cookie], times(3, undefined))
      }
    }).pipe(Effect.provide(layer)))

  it.scopedLive("H11: a status filter beneath the session hides neither cookies, nor redirects, nor refusals", () =>
    Effect.gen(function*() {
      const server = yield* site((request) =>
        request.path === "/start"
          ? { status: 302, headers: { location: "/page", "set-cookie": "way=1; Path=/" } }
          : request.path === "/missing"
          ? { status: 404, body: "nothing here" }
          : identityOf(request) === "0"
          ? forbidden
          : { body: "in" }, () => ({ status: 302, headers: { location: "/welcome" } }))
      const filtered = HttpClient.filterStatusOk(yield* HttpClient.HttpClient)
      const { client, session } = yield* HttpSession.make({ ...identities(), probe: server.url }).pipe(
        Effect.provideService(HttpClient.HttpClient, filtered)
      )
      assert.strictEqual(yield* textOf(client.get(`${server.url}/start`)), "in")
      assert.strictEqual(server.probes().length, 2)
      assert.strictEqual(yield* cookiesOf(session, server.url), "way=1")
      const error = failedWith(yield* Effect.exit(client.get(`${server.url}/missing`)), HttpClientError.ResponseError)
      assert.deepStrictEqual([error.reason, error.response.status], ["StatusCode", 404])
    }).pipe(Effect.provide(layer)))

  it.scopedLive("a network error of the repeated request is passed on, and so are other failures", () =>
    Effect.gen(function*() {
      const reset: Reply = { write: (response) => void response.socket?.destroy() }
      const server = yield* site((request) =>
        request.path === "/reset"
          ? identityOf(request) === "0" ? forbidden : reset
          : { status: Number(request.path.slice(1)), body: request.path }
      )
      const { client, session } = yield* HttpSession.make({ ...identities(), probe: server.url })
      assertTransport(yield* Effect.exit(client.get(`${server.url}/reset`)))
      assertTransport(yield* Effect.exit(client.get(`${server.url}/reset`)))
      for (const status of [400, 404, 429, 500, 503]) {
        const response = yield* client.get(`${server.url}/${status}`)
        assert.deepStrictEqual([response.status, yield* response.text], [status, `/${status}`])
      }
      assert.strictEqual((yield* session.current).number, 1)
      assert.strictEqual(server.probes().length, 2)
    }).pipe(Effect.provide(layer)))

  it.scopedLive("a long response passes through while the server is still writing it", () =>
    Effect.gen(function*() {
      const readSome = Effect.unsafeMakeLatch()
      const chunk = new Uint8Array(64 * 1024)
      const server = yield* site((request) =>
        identityOf(request) === "0" ? forbidden : {
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
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url })
      const response = yield* client.get(`${server.url}/long`)
      const total = yield* response.stream.pipe(
        Stream.tap(() => readSome.open),
        Stream.runFold(0, (total, bytes) => total + bytes.length)
      )
      assert.strictEqual(total, 64 * 64 * 1024)
    }).pipe(Effect.provide(layer)))

  it.scopedLive("the answer to a probe is read, so that its connection is used again", () =>
    Effect.gen(function*() {
      const server = yield* site(() => ({}), () => ({ body: "x".repeat(60_000) }))
      const { session } = yield* HttpSession.make({ ...identities(), probe: server.url })
      for (let i = 0; i < 10; i++) yield* session.refresh(yield* session.current)
      assert.strictEqual(server.probes().length, 11)
      assert.isAtMost(server.connections(), 3)
    }).pipe(Effect.provide(layer)))

  it.scopedLive("interrupting a caller aborts its request", () =>
    Effect.gen(function*() {
      const server = yield* site(() => Effect.never)
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url })
      const fiber = yield* Effect.fork(client.get(`${server.url}/page`))
      yield* eventually(Effect.sync(() => server.requests().length === 1))
      yield* Fiber.interrupt(fiber)
      yield* Deferred.await(server.requests()[0]!.aborted)
    }).pipe(Effect.provide(layer)))
})

describe.each(poolsOfOne)("over one connection of %s", (_name, layer) => {
  for (const [length, body] of [["short", "down"], ["long", "x".repeat(500_000)]] as const) {
    it.scopedLive(`a failed probe with a ${length} body frees it, and the next probe succeeds`, () =>
      Effect.gen(function*() {
        let probes = 0
        const server = yield* site(() => ({ body: "ok" }), () => probes++ === 0 ? { status: 503, body } : {})
        const { client } = yield* HttpSession.make({ ...identities(), probe: server.url, cooldown: 0 })
        const error = failedWith(yield* Effect.exit(client.get(`${server.url}/page`)), HttpSession.ProbeFailed)
        if (length === "short") assert.strictEqual(yield* error.response.text, body)
        else failedWith(yield* Effect.exit(error.response.text), HttpClientError.ResponseError)
        assert.strictEqual(yield* textOf(client.get(`${server.url}/page`)), "ok")
      }).pipe(Effect.provide(layer)))
  }

  it.scopedLive("a challenge that does not read the probe's body gets the connection for its answer", () =>
    Effect.gen(function*() {
      const server = yield* site(() => ({ body: "ok" }), () => ({ status: 403, body: "x".repeat(300_000) }))
      const { client } = yield* HttpSession.make({
        ...identities(),
        probe: server.url,
        challenge: (_, send) => Option.some(send(HttpClientRequest.get(`${server.url}/answer`)))
      })
      assert.strictEqual(yield* textOf(client.get(`${server.url}/page`)), "ok")
    }).pipe(Effect.provide(layer)))

  it.scopedLive("a challenge that fails frees the probe's body; one that sends first can still read a short one", () =>
    Effect.gen(function*() {
      let challenges = 0
      const long = "x".repeat(300_000)
      const server = yield* site(() => ({ body: "ok" }), () => ({
        write: (response) => void response.writeHead(403).end(challenges === 0 ? long : "the code is 7")
      }))
      const { client } = yield* HttpSession.make({
        ...identities(),
        probe: server.url,
        cooldown: 0,
        challenge: (response, send): Option.Option<Effect.Effect<HttpClientResponse.HttpClientResponse, any>> =>
          Option.some(
            challenges++ === 0
              ? Effect.fail(new NoIdentity())
              : Effect.zipLeft(
                send(HttpClientRequest.get(`${server.url}/answer`)),
                Effect.map(response.text, (text) => assert.strictEqual(text, "the code is 7"))
              )
          )
      })
      failedWith(yield* Effect.exit(client.get(`${server.url}/page`)), NoIdentity)
      assert.strictEqual(yield* textOf(client.get(`${server.url}/page`)), "ok")
    }).pipe(Effect.provide(layer)))
})

describe("refreshing", () => {
  it.scopedLive("401 refreshes too", () =>
    over(Effect.gen(function*() {
      const server = yield* site((request) => identityOf(request) === "0" ? { status: 401 } : {})
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url })
      assert.strictEqual((yield* client.get(`${server.url}/page`)).status, 200)
      assert.strictEqual(server.probes().length, 2)
    })))

  it.scopedLive("options decide what a refusal is, and how many refreshes one request may cause", () =>
    over(Effect.gen(function*() {
      const server = yield* site(() => ({ body: "please log in" }))
      const { client } = yield* HttpSession.make({
        ...identities(),
        probe: server.url,
        maxRefreshes: 3,
        rejected: (response) => Effect.map(Effect.orDie(response.text), (text) => text.includes("log in"))
      })
      const error = failedWith(yield* Effect.exit(client.get(`${server.url}/page`)), SessionHttpClient.SessionRejected)
      assert.strictEqual(error.refreshes, 3)
      assert.strictEqual(server.requests().length, 4)
      assert.strictEqual(yield* error.response.text, "please log in")
    })))

  it.scoped("by age works with twenty concurrent callers and an age of one millisecond", () =>
    over(Effect.gen(function*() {
      const server = yield* site(() => ({ body: "ok" }))
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url, maxAge: "1 millis" })
      for (let round = 1; round <= 5; round++) {
        const exits = yield* many(20, textOf(client.get(`${server.url}/page`)))
        assert.deepStrictEqual(exits, times(20, Exit.succeed("ok")))
        assert.strictEqual(server.probes().length, round)
        yield* TestClock.adjust("1 millis")
      }
    })))

  it.scoped("happens after an hour by default, and once for all callers that come then", () =>
    over(Effect.gen(function*() {
      const server = yield* site(() => ({}))
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url })
      yield* client.get(`${server.url}/page`)
      yield* TestClock.adjust("59 minutes")
      yield* client.get(`${server.url}/page`)
      assert.strictEqual(server.probes().length, 1)
      yield* TestClock.adjust("1 minutes")
      yield* many(20, client.get(`${server.url}/page`))
      assert.strictEqual(server.probes().length, 2)
      assert.deepStrictEqual(server.requests().slice(2).map(identityOf), times(20, "1"))
    })))

  it.scopedLive("J1: on demand never mixes identities and cookies, for fifty callers of three requests each", () =>
    over(Effect.gen(function*() {
      const uses = new Map<string, number>()
      const server = yield* site((request) => {
        const id = String(identityOf(request))
        uses.set(id, (uses.get(id) ?? 0) + 1)
        return uses.get(id)! > 10 ? forbidden : { body: "ok" }
      })
      const { client } = yield* HttpSession.make({
        ...identities(),
        probe: server.url,
        maxRefreshes: 50,
        budget: { refreshes: 1000, within: "1 minute" }
      })
      const three = Effect.all([1, 2, 3].map((n) => textOf(client.get(`${server.url}/${n}`))))
      for (const exit of yield* many(50, three)) assert.deepStrictEqual(exit, Exit.succeed(["ok", "ok", "ok"]))
      for (const request of server.requests()) {
        assert.strictEqual(request.headers["user-agent"], `agent/${identityOf(request)}`)
        assert.strictEqual(request.headers.cookie, `sid=${identityOf(request)}`)
      }
      assert.isAtMost(server.probes().length, 16)
    })))

  it.scopedLive("is not repeated for twenty stragglers that come back with the old identity", () =>
    over(Effect.gen(function*() {
      const gates = Array.from({ length: 20 }, () => Effect.unsafeMakeLatch())
      let arrived = 0
      const server = yield* site((request) =>
        identityOf(request) !== "0"
          ? {}
          : request.path === "/slow"
          ? Effect.as(gates[arrived++]!.await, forbidden)
          : forbidden
      )
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url })
      const stragglers = yield* Effect.fork(many(20, client.get(`${server.url}/slow`)))
      yield* eventually(Effect.sync(() => arrived === 20))
      assert.strictEqual((yield* client.get(`${server.url}/page`)).status, 200)
      for (const gate of gates) {
        yield* gate.open
        yield* nextTurn
      }
      assert.deepStrictEqual(statusesOf(yield* Fiber.join(stragglers)), times(20, 200))
      assert.strictEqual(server.probes().length, 2)
    })))

  it.scoped("that failed is not tried again by a hundred callers within its cool-down", () =>
    over(Effect.gen(function*() {
      const server = yield* site(() => forbidden, (request) => identityOf(request) === "0" ? {} : forbidden)
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url })
      const first = failedWith(yield* Effect.exit(client.get(`${server.url}/page`)), HttpSession.ProbeFailed)
      assert.strictEqual(server.probes().length, 2)
      for (const exit of yield* many(100, client.get(`${server.url}/page`))) {
        assert.strictEqual(failureOf(exit), first)
      }
      assert.strictEqual(server.probes().length, 2)
      yield* TestClock.adjust("1 second")
      yield* Effect.exit(client.get(`${server.url}/page`))
      assert.strictEqual(server.probes().length, 3)
    })))

  const underway = Effect.gen(function*() {
    const gate = Effect.unsafeMakeLatch()
    const server = yield* site(
      (request) => identityOf(request) === "0" ? forbidden : {},
      (request) => identityOf(request) === "0" ? welcome(request) : Effect.as(gate.await, welcome(request))
    )
    const { client, session } = yield* HttpSession.make({ ...identities(), probe: server.url })
    const first = yield* Effect.fork(client.get(`${server.url}/page`))
    yield* eventually(Effect.map(waitersOf(session), (count) => count === 1))
    yield* eventually(Effect.sync(() => server.probes().length === 2))
    const later = yield* Effect.all(Array.from({ length: 10 }, () => Effect.fork(client.get(`${server.url}/page`))))
    yield* eventually(Effect.map(waitersOf(session), (count) => count === 11))
    return { gate, server, session, first, later }
  })

  it.scopedLive("makes all callers that come meanwhile wait: no request is sent with an unproven identity", () =>
    over(Effect.gen(function*() {
      const { first, gate, later, server } = yield* underway
      assert.strictEqual(server.requests().length, 1)
      yield* gate.open
      assert.deepStrictEqual(statusesOf([...yield* Fiber.awaitAll([first, ...later])]), times(11, 200))
      assert.deepStrictEqual(server.requests().slice(1).map(({ headers }) => headers.cookie), times(11, "sid=1"))
    })))

  for (const who of ["the first caller", "another caller", "every caller"] as const) {
    it.scopedLive(`is completed and kept when ${who} is interrupted`, () =>
      over(Effect.gen(function*() {
        const { first, gate, later, server, session } = yield* underway
        const gone = who === "the first caller" ? [first] : who === "another caller" ? [later[3]!] : [first, ...later]
        yield* Fiber.interruptAll(gone)
        yield* gate.open
        const rest = [first, ...later].filter((fiber) => !gone.includes(fiber))
        assert.deepStrictEqual(statusesOf([...yield* Fiber.awaitAll(rest)]), times(rest.length, 200))
        assert.strictEqual((yield* session.current).number, 1)
        assert.strictEqual(server.probes().length, 2)
      })))
  }
})

describe("J1: a refresh that fails", () => {
  type Broken = {
    readonly identity?: Effect.Effect<HttpSession.Identity, NoIdentity>
    readonly challenge?: HttpSession.Options<never, never, NoIdentity>["challenge"]
  }
  const failing: ReadonlyArray<
    readonly [how: string, breaking: (isSecond: boolean) => Broken, Reply, (exit: Exit.Exit<unknown, unknown>) => void]
  > = [
    ...[400, 401, 403, 404, 429, 500, 503].map((status) =>
      [
        `by a probe answered with ${status}`,
        () => ({}),
        { status, body: "no" },
        (exit: Exit.Exit<unknown, unknown>) => {
          const error = failedWith(exit, HttpSession.ProbeFailed)
          assert.strictEqual(error.status, status)
          assert.strictEqual(error.response.status, status)
        }
      ] as const
    ),
    ["by a reset connection", () => ({}), { write: (response) => void response.socket?.destroy() }, assertTransport],
    [
      "by an identity that fails",
      (second) => second ? { identity: Effect.fail(new NoIdentity()) } : {},
      {},
      (exit) => void failedWith(exit, NoIdentity)
    ],
    [
      "by an identity that dies",
      (second) => second ? { identity: Effect.die("no identity") } : {},
      {},
      (exit) => {
        assert.isTrue(Exit.isFailure(exit))
        if (Exit.isFailure(exit)) assert.deepStrictEqual(Chunk.toArray(Cause.defects(exit.cause)), ["no identity"])
      }
    ],
    [
      "by an identity with a header that cannot be sent",
      (second) =>
        second ? { identity: Effect.succeed({ headers: Headers.fromInput({ "x-key": "canary\ncanary" }) }) } : {},
      {},
      (exit) => {
        const error = failedWith(exit, HttpClientError.RequestError)
        assert.strictEqual(error.reason, "Encode")
        assert.include(error.message, "identity: has set a header that cannot be sent")
        assert.include(error.message, "x-key")
        assert.notInclude(inspect(exit, { depth: 12 }), "canary")
      }
    ],
    [
      "by an identity that interrupts itself",
      (second) => second ? { identity: Effect.interrupt } : {},
      {},
      (exit) => void failedWith(exit, Session.RefreshInterrupted)
    ],
    [
      "by a challenge that throws",
      (second) => ({
        challenge: () => {
          if (second) throw new Error("no answer")
          return Option.none()
        }
      }),
      {},
      (exit) => {
        assert.isTrue(Exit.isFailure(exit))
        if (Exit.isFailure(exit)) assert.include(Cause.pretty(exit.cause), "no answer")
      }
    ],
    [
      "by a challenge that is not answered",
      (second) => ({ challenge: () => second ? Option.some(Effect.fail(new NoIdentity())) : Option.none() }),
      {},
      (exit) => void failedWith(exit, NoIdentity)
    ]
  ]

  it.scoped.each(failing)("%s leaves identity and cookies unchanged, and fails all waiting callers with one error", (
    [, options, reply, check]
  ) =>
    over(Effect.gen(function*() {
      const all = identities()
      let refreshing = false
      let restored = false
      let waiting = 0
      const allThere = Effect.unsafeMakeLatch()
      const server = yield* site(
        (request) => {
          if (restored || identityOf(request) !== "0") return { body: "ok" }
          if (++waiting === 5) allThere.unsafeOpen()
          return Effect.as(allThere.await, forbidden)
        },
        (request) =>
          identityOf(request) === "0" || restored
            ? welcome(request)
            : { headers: { "set-cookie": "sid=candidate" }, ...reply }
      )
      const { client, session } = yield* HttpSession.make<NoIdentity, never, NoIdentity>({
        probe: server.url,
        identity: Effect.suspend(() => options(refreshing && !restored).identity ?? all.identity),
        challenge: (response, send) => options(refreshing && !restored).challenge?.(response, send) ?? Option.none()
      })
      yield* session.current
      refreshing = true
      const exits = yield* many(5, client.get(`${server.url}/page`))
      for (const exit of exits) {
        check(exit)
        assert.deepStrictEqual(exit, exits[0])
      }
      const { number, value } = yield* session.current
      assert.strictEqual(number, 0)
      assert.strictEqual(value.identity.headers["x-identity"], "0")
      assert.strictEqual(yield* cookiesOf(session, server.url), "sid=0")
      restored = true
      yield* client.get(`${server.url}/page`)
      const { headers } = server.received.at(-1)!
      assert.deepStrictEqual([headers["x-identity"], headers.cookie], ["0", "sid=0"])
      // After the cooldown a refusal causes a refresh again.
      yield* TestClock.adjust("1 second")
      const renewed = yield* session.refresh(yield* session.current)
      assert.strictEqual(renewed.number, 1)
      assert.notStrictEqual(yield* cookiesOf(session, server.url), "sid=0")
    })))

  it.scopedLive("at the beginning is a typed failure for all, and no request is sent with an unproven identity", () =>
    over(Effect.gen(function*() {
      const server = yield* site(() => ({}), () => ({ status: 503, body: "closed for today" }))
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url })
      const [first, ...rest] = (yield* many(20, client.get(`${server.url}/page`))).map(failureOf)
      assert.instanceOf(first, HttpSession.ProbeFailed)
      for (const failure of rest) assert.strictEqual(failure, first)
      assert.strictEqual(server.received.length, 1)
      if (first instanceof HttpSession.ProbeFailed) assert.strictEqual(yield* first.response.text, "closed for today")
    })))

  it.scoped("takes no longer than its timeout", () =>
    over(Effect.gen(function*() {
      const server = yield* site(() => ({}), () => Effect.never)
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url, timeout: "5 seconds" })
      const caller = yield* Effect.fork(client.get(`${server.url}/page`))
      yield* eventually(Effect.sync(() => server.probes().length === 1))
      yield* TestClock.adjust("5 seconds")
      failedWith(yield* Fiber.await(caller), Session.RefreshTimeout)
      yield* Deferred.await(server.probes()[0]!.aborted)
    })))

  it.scopedLive("closing the scope aborts the probe and answers waiting callers", () =>
    over(Effect.gen(function*() {
      const server = yield* site(() => ({}), () => Effect.never)
      const caller = yield* Effect.scoped(Effect.gen(function*() {
        const { client } = yield* HttpSession.make({ ...identities(), probe: server.url })
        const caller = yield* Effect.forkDaemon(client.get(`${server.url}/page`))
        yield* eventually(Effect.sync(() => server.probes().length === 1))
        return caller
      }))
      failedWith(yield* Fiber.await(caller), Session.SessionClosed)
      yield* Deferred.await(server.probes()[0]!.aborted)
    })))
})

describe("J2: cookies of one generation", () => {
  it.scopedLive("are not changed by a late response of the previous one", () =>
    over(Effect.gen(function*() {
      const gate = Effect.unsafeMakeLatch()
      const server = yield* site((request) =>
        request.path === "/late"
          ? Effect.as(gate.await, { headers: { "set-cookie": ["sid=late", "other=late"] }, body: "late" })
          : identityOf(request) === "0"
          ? forbidden
          : {}
      )
      const { client, session } = yield* HttpSession.make({ ...identities(), probe: server.url })
      const old = yield* session.current
      const late = yield* Effect.fork(textOf(client.get(`${server.url}/late`)))
      yield* eventually(Effect.sync(() => server.requests().length === 1))
      yield* client.get(`${server.url}/page`)
      yield* gate.open
      assert.strictEqual(yield* Fiber.join(late), "late")
      assert.strictEqual(yield* cookiesOf(session, server.url), "sid=1")
      assert.deepStrictEqual(yield* old.value.cookies(server.url), Option.some("sid=late; other=late"))
      yield* client.get(`${server.url}/page`)
      assert.strictEqual(server.received.at(-1)!.headers.cookie, "sid=1")
    })))

  it.scopedLive("begin empty: cookies of the previous generation are gone, not only overwritten", () =>
    over(Effect.gen(function*() {
      const server = yield* site(
        () => ({}),
        (request) => identityOf(request) === "0" ? { headers: { "set-cookie": ["a=0", "b=0; Path=/deep"] } } : {}
      )
      const { session } = yield* HttpSession.make({ ...identities(), probe: server.url })
      assert.strictEqual(yield* cookiesOf(session, `${server.url}/deep`), "b=0; a=0")
      yield* session.refresh(yield* session.current)
      assert.strictEqual(yield* cookiesOf(session, `${server.url}/deep`), "")
      assert.isUndefined(server.received.at(-1)!.headers.cookie)
    })))

  it.scopedLive("all arrive, however concurrently they are set", () =>
    over(Effect.gen(function*() {
      const allThere = Effect.unsafeMakeLatch()
      const server = yield* site((request) => {
        if (server.requests().length === 30) allThere.unsafeOpen()
        return Effect.as(allThere.await, { headers: { "set-cookie": `c${request.path.slice(1)}=1; Path=/` } })
      })
      const { client, session } = yield* HttpSession.make({ ...identities(), probe: server.url })
      yield* Effect.forEach(Array.from({ length: 30 }, (_, i) => i), (i) => client.get(`${server.url}/${i}`), {
        concurrency: "unbounded"
      })
      const names = (yield* cookiesOf(session, server.url)).split("; ").sort()
      assert.deepStrictEqual(names, ["sid=0", ...Array.from({ length: 30 }, (_, i) => `c${i}=1`)].sort())
    })))

  it.scopedLive("of 127.0.0.1 do not go to localhost", () =>
    over(Effect.gen(function*() {
      const server = yield* site(() => ({}))
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url })
      yield* client.get(`${server.url.replace("127.0.0.1", "localhost")}/page`)
      yield* client.get(`${server.url}/page`)
      assert.deepStrictEqual(server.requests().map(({ headers }) => headers.cookie), [undefined, "sid=0"])
    })))

  it.scopedLive.each(clients)(
    "with one name on two paths are two cookies: over %s",
    ([, layer]) =>
      Effect.gen(function*() {
        const server = yield* site(() => ({}), () => ({
          headers: { "set-cookie": ["sid=root; Path=/; Expires=Wed, 21 Oct 2099 07:28:00 GMT", "sid=deep; Path=/deep"] }
        }))
        const { client } = yield* HttpSession.make({ ...identities(), probe: server.url })
        yield* client.get(`${server.url}/deep/er`)
        yield* client.get(`${server.url}/other`)
        const sent = server.requests().map(({ headers }) => headers.cookie)
        assert.deepStrictEqual(sent, ["sid=deep; sid=root", "sid=root"])
      }).pipe(Effect.provide(layer))
  )

  it.scopedLive.each(clients)("may have commas in their values: over %s", ([, layer]) =>
    Effect.gen(function*() {
      const server = yield* site(() => ({}), () => ({
        headers: {
          "set-cookie": [
            "lang=de; Expires=Wed, 21 Oct 2099 07:28:00 GMT",
            "prefs=a, theme=dark, lang=en; Path=/",
            "last=1"
          ]
        }
      }))
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url })
      yield* client.get(`${server.url}/page`)
      assert.strictEqual(server.received.at(-1)!.headers.cookie, "lang=de; prefs=a, theme=dark, lang=en; last=1")
    }).pipe(Effect.provide(layer)))

  it.scopedLive.each(clients)(
    "are kept although a cookie of the same name is deleted on another path: over %s",
    ([, layer]) =>
      Effect.gen(function*() {
        const cookies = ["sid=new; Path=/; HttpOnly", "sid=; Path=/old; Max-Age=0", "constructor=1", "__proto__=2"]
        const server = yield* site(() => ({}), () => ({ headers: { "set-cookie": cookies } }))
        const { client } = yield* HttpSession.make({ ...identities(), probe: server.url })
        yield* client.get(`${server.url}/page`)
        assert.strictEqual(server.received.at(-1)!.headers.cookie, "sid=new; constructor=1; __proto__=2")
      }).pipe(Effect.provide(layer))
  )

  it.scopedLive("come after the caller's own", () =>
    over(Effect.gen(function*() {
      const server = yield* site(() => ({}))
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url })
      yield* client.get(`${server.url}/page`, { headers: { cookie: "mine=1", "user-agent": "own" } })
      const { headers } = server.received.at(-1)!
      const sent = [headers.cookie, headers["user-agent"], headers["x-identity"]]
      assert.deepStrictEqual(sent, ["mine=1; sid=0", "own", "0"])
    })))

  /** A site that sets these cookies, one for each request to `/set`, and records what it was sent. */
  const setting = (lines: Iterator<string>, limits: HttpSession.Options["cookieLimits"]) =>
    Effect.gen(function*() {
      const server = yield* site(
        ({ path }) => path.startsWith("/set") ? { headers: { "set-cookie": lines.next().value! } } : {},
        () => ({})
      )
      const { client, session } = yield* HttpSession.make({ ...identities(), probe: server.url, cookieLimits: limits })
      return {
        set: client.get(`${server.url}/set`),
        use: (path: string) => client.get(server.url + path),
        names: (path = "") =>
          Effect.map(cookiesOf(session, server.url + path), (header) =>
            header.split("; ").map((pair) => pair.split("=")[0]))
      }
    })

  it.scoped("J5: are at most fifty of a domain by default: the least recently used are removed first", () =>
    over(Effect.gen(function*() {
      function* lines() {
        for (let i = 0;; i++) yield `c${i}=1; Path=/${i % 2}`
      }
      const { names, set, use } = yield* setting(lines(), undefined)
      yield* Effect.repeatN(set, 49)
      assert.strictEqual((yield* names("/0")).length + (yield* names("/1")).length, 50)
      // The cookies for `/0` were used last, so the first ten for `/1` make room.
      yield* names("/1")
      yield* use("/0")
      yield* Effect.repeatN(set, 9)
      assert.deepStrictEqual((yield* names("/0")).length, 30)
      assert.deepStrictEqual((yield* names("/1")).slice(0, 2), ["c21", "c23"])
      assert.strictEqual((yield* names("/1")).length, 20)
    })))

  it.scoped("J5: that have expired are removed before valid ones", () =>
    over(Effect.gen(function*() {
      function* lines() {
        yield "old=1"
        yield "short=1; Max-Age=10"
        for (let i = 0;; i++) yield `c${i}=1`
      }
      const { names, set } = yield* setting(lines(), { perDomain: 3 })
      yield* Effect.repeatN(set, 2)
      yield* TestClock.adjust("10 seconds")
      yield* set
      assert.deepStrictEqual((yield* names()).sort(), ["c0", "c1", "old"])
      yield* set
      assert.strictEqual((yield* names()).length, 3)
    })))

  it.scoped("that are deleted, or set again, do not count", () =>
    over(Effect.gen(function*() {
      function* lines() {
        yield "a=1"
        yield "b=1"
        yield "b=; Max-Age=0"
        for (let i = 0; i < 5; i++) yield `c=${i}`
      }
      const { names, set } = yield* setting(lines(), { perDomain: 2 })
      yield* Effect.repeatN(set, 7)
      assert.deepStrictEqual((yield* names()).sort(), ["a", "c"])
    })))

  for (
    const [limits, size, kept] of [[undefined, 4096, true], [undefined, 4097, false], [
      { bytes: 100 },
      101,
      false
    ]] as const
  ) {
    const limit = limits === undefined ? "the default" : "another"
    it.scoped(`J5: of ${size} bytes, attributes included, are ${kept ? "" : "not "}kept with ${limit} limit`, () =>
      over(Effect.gen(function*() {
        function* lines() {
          yield `long=${"x".repeat(size - "long=; Path=/".length)}; Path=/`
        }
        const { names, set } = yield* setting(lines(), limits)
        yield* set
        assert.deepStrictEqual(yield* names(), [kept ? "long" : ""])
      })))
  }

  // ---------------------------------------------------------------------------
  // Hosts and schemes that exist only in this test.

  const hosts = (set: (url: URL) => ReadonlyArray<string>) => {
    const seen: Array<string> = []
    const layer = Layer.succeed(
      HttpClient.HttpClient,
      HttpClient.make((request, url) =>
        Effect.sync(() => {
          seen.push(`${url.href} ${request.headers["cookie"] ?? "-"}`)
          const headers = new globalThis.Headers()
          for (const cookie of set(url)) headers.append("set-cookie", cookie)
          return HttpClientResponse.fromWeb(request, new Response("", { headers }))
        })
      )
    )
    return { seen, layer }
  }

  const visiting = (set: ReadonlyArray<string>, urls: ReadonlyArray<string>, probe = "https://shop.example.com/") =>
    Effect.gen(function*() {
      const { layer, seen } = hosts((url) => url.href === probe ? set : [])
      const { client } = yield* HttpSession.make({ ...identities(), probe }).pipe(Effect.provide(layer))
      yield* Effect.forEach(urls, (url) => client.get(url))
      return seen.slice(1).map((line) => line.split(" ").slice(1).join(" "))
    })

  it.scoped("are sent to their host, or to all hosts of the domain that they name", () =>
    Effect.gen(function*() {
      const sent = yield* visiting(["own=1", "wide=1; Domain=example.com", "foreign=1; Domain=other.com"], [
        "https://shop.example.com/a",
        "https://example.com/",
        "https://api.example.com/",
        "https://notexample.com/",
        "https://sub.shop.example.com/",
        "https://other.com/"
      ])
      assert.deepStrictEqual(sent, ["own=1; wide=1", "wide=1", "wide=1", "-", "wide=1", "-"])
    }))

  it.scoped.each([[undefined, 3000], [{ total: 7 }, 7]] as const)(
    "J5: are at most 3,000 by default, the least recently used are removed first: %j",
    ([cookieLimits, total]) =>
      Effect.gen(function*() {
        let host = 0
        const { layer, seen } = hosts(({ hostname }) => hostname === "probe.test" ? [] : [`c${host++}=1`])
        const { client } = yield* HttpSession.make({ ...identities(), probe: "https://probe.test/", cookieLimits })
          .pipe(Effect.provide(layer))
        for (let i = 0; i < total + 3; i++) yield* client.get(`https://host${i}.test/`)
        const sent = (i: number) =>
          Effect.map(client.get(`https://host${i}.test/other`), () => seen.at(-1)!.split(" ")[1])
        assert.strictEqual(yield* sent(3), "c3=1")
        assert.strictEqual(yield* sent(2), "-")
      })
  )

  it.scoped("cannot be set for a public suffix", () =>
    Effect.gen(function*() {
      const sent = yield* visiting(["a=1; Domain=co.uk", "b=1; Domain=uk", "c=1; Domain=shop.co.uk"], [
        "https://shop.co.uk/",
        "https://bank.co.uk/"
      ], "https://shop.co.uk/")
      assert.deepStrictEqual(sent, ["c=1", "-"])
    }))

  it.scoped("are sent only below their path", () =>
    Effect.gen(function*() {
      const sent = yield* visiting(["a=1; Path=/admin", "b=1"], [
        "https://shop.example.com/admin",
        "https://shop.example.com/admin/users",
        "https://shop.example.com/administrator",
        "https://shop.example.com/"
      ])
      assert.deepStrictEqual(sent, ["a=1; b=1", "a=1; b=1", "b=1", "b=1"])
    }))

  it.scoped("that are `Secure` are not sent over plain http", () =>
    Effect.gen(function*() {
      const sent = yield* visiting(["s=1; Secure", "p=1"], ["http://shop.example.com/", "https://shop.example.com/x"])
      assert.deepStrictEqual(sent, ["p=1", "s=1; p=1"])
    }))

  it.scoped("end when they expire, by the session's clock, and reading them does not prolong them", () =>
    Effect.gen(function*() {
      const start = new Date(yield* Effect.clockWith((clock) => clock.currentTimeMillis))
      const at = (seconds: number) => new Date(start.getTime() + seconds * 1000).toUTCString()
      const { layer, seen } = hosts((url) =>
        url.pathname === "/"
          ? [
            "age=1; Max-Age=60",
            `date=1; Expires=${at(120)}`,
            `both=1; Max-Age=180; Expires=${at(1)}`,
            "gone=1; Max-Age=0",
            "session=1"
          ]
          : []
      )
      const { client } = yield* Effect.provide(HttpSession.make({ ...identities(), probe: "https://a.test/" }), layer)
      const visit = Effect.map(client.get("https://a.test/page"), () => seen.at(-1)!.split(" ").slice(1).join(" "))
      const sent: Array<string> = []
      for (let i = 0; i < 8; i++) {
        sent.push(yield* visit)
        yield* TestClock.adjust("30 seconds")
      }
      assert.deepStrictEqual(sent, [
        "age=1; date=1; both=1; session=1",
        "age=1; date=1; both=1; session=1",
        "date=1; both=1; session=1",
        "date=1; both=1; session=1",
        "both=1; session=1",
        "both=1; session=1",
        "session=1",
        "session=1"
      ])
    }))

  it.scoped("are deleted by an expiry in the past", () =>
    Effect.gen(function*() {
      const { layer, seen } = hosts((url) =>
        url.pathname === "/"
          ? ["a=1", "b=1"]
          : url.pathname === "/logout"
          ? ["a=; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "b=; Max-Age=0"]
          : []
      )
      const { client } = yield* Effect.provide(HttpSession.make({ ...identities(), probe: "https://a.test/" }), layer)
      yield* client.get("https://a.test/logout")
      yield* client.get("https://a.test/page")
      assert.deepStrictEqual(seen, ["https://a.test/ -", "https://a.test/logout a=1; b=1", "https://a.test/page -"])
    }))

  it.scoped("that are invalid are dropped, without further effect", () =>
    Effect.gen(function*() {
      const nonsense = ["", ";;;", "a", "b=1; Domain=a..b"]
      const partly = ["c=1; Expires=never", "ok=1; Max-Age=much", "d=1; Path=nowhere"]
      const [sent] = yield* visiting([...nonsense, ...partly], ["https://shop.example.com/"])
      assert.strictEqual(sent, "c=1; ok=1; d=1")
    }))
})

describe("J5: a redirect that `fetch` follows by itself", () => {
  it.scopedLive("is an error of the probe, which does not print the identity", () =>
    Effect.gen(function*() {
      const server = yield* serve(({ path }) => path === "/" ? { status: 302, headers: { location: "/b" } } : {})
      const following = HttpClient.transformResponse(
        yield* HttpClient.HttpClient,
        Effect.provideService(FetchHttpClient.RequestInit, { cache: "no-store" })
      )
      const identity = Effect.succeed({ headers: Headers.fromInput({ "x-id": "tok-SECRET" }) })
      const { session } = yield* HttpSession.make({ identity, probe: server.url }).pipe(
        Effect.provideService(HttpClient.HttpClient, following)
      )
      const error = failedWith(yield* Effect.exit(session.current), HttpClientError.ResponseError)
      assert.notInclude(printsOf(error), "SECRET")
    }).pipe(Effect.provide(FetchHttpClient.layer)))

  it.scopedLive("is printed without the identity, like a probe that reaches no server", () =>
    Effect.gen(function*() {
      const identity = Effect.succeed({ headers: Headers.fromInput({ "x-id": "tok-SECRET" }) })
      const { session } = yield* HttpSession.make({ identity, probe: "http://127.0.0.1:1" })
      const error = failedWith(yield* Effect.exit(session.current), HttpClientError.RequestError)
      assert.notInclude(printsOf(error), "SECRET")
    }).pipe(Effect.provide(FetchHttpClient.layer)))

  it.scopedLive("is an error, and sets no cookies", () =>
    Effect.gen(function*() {
      const elsewhere = yield* serve(() => ({ headers: { "set-cookie": "sid=foreign" } }))
      const server = yield* site(() => ({ status: 302, headers: { location: elsewhere.url } }))
      const following = HttpClient.transformResponse(
        yield* HttpClient.HttpClient,
        Effect.provideService(FetchHttpClient.RequestInit, { cache: "no-store" })
      )
      const { client, session } = yield* HttpSession.make({ ...identities(), probe: server.url }).pipe(
        Effect.provideService(HttpClient.HttpClient, following)
      )
      const error = failedWith(yield* Effect.exit(client.get(`${server.url}/a`)), HttpClientError.ResponseError)
      assert.include(error.message, "`fetch` has followed a redirect by itself")
      assert.strictEqual(yield* cookiesOf(session, server.url), "sid=0")
    }).pipe(Effect.provide(FetchHttpClient.layer)))
})

describe("J2: redirects", () => {
  const redirecting = (location: string | undefined, status = 302) =>
    Effect.gen(function*() {
      const server = yield* site(({ path }) =>
        path === "/start" ? { status, headers: location === undefined ? {} : { location } } : { body: "arrived" }
      )
      const { client, session } = yield* HttpSession.make({ ...identities(), probe: server.url })
      return { server, client, session }
    })

  for (const location of ["file:///etc/passwd", "javascript:alert(1)", "http://", "http://[bad", "ftp://a.test/"]) {
    it.scopedLive(`are not followed to ${location}`, () =>
      over(Effect.gen(function*() {
        const { client, server } = yield* redirecting(location)
        const error = failedWith(yield* Effect.exit(client.get(`${server.url}/start`)), HttpClientError.RequestError)
        assert.strictEqual(error.reason, "InvalidUrl")
        assert.strictEqual(server.requests().length, 1)
      })))
  }

  it.scoped("J5: from https to http of one host leave credentials and `Secure` cookies behind", () =>
    Effect.gen(function*() {
      const sent: Array<readonly [string, string | undefined, string | undefined]> = []
      const downgrading = HttpClient.make((request, url) =>
        Effect.sync(() => {
          sent.push([url.href, request.headers["authorization"], request.headers["cookie"]])
          const headers: Array<[string, string]> = url.pathname === "/"
            ? [["set-cookie", "s=1; Secure"], ["set-cookie", "p=1"]]
            : url.protocol === "https:"
            ? [["location", "http://a.test/page"]]
            : []
          const status = headers.some(([name]) => name === "location") ? 302 : 200
          return HttpClientResponse.fromWeb(request, new Response("", { headers, status }))
        })
      )
      const { client } = yield* HttpSession.make({ ...identities(), probe: "https://a.test/" }).pipe(
        Effect.provideService(HttpClient.HttpClient, downgrading)
      )
      yield* client.get("https://a.test/page", { headers: { authorization: "Bearer own" } })
      assert.deepStrictEqual(sent, [
        ["https://a.test/", undefined, undefined],
        ["https://a.test/page", "Bearer own", "s=1; p=1"],
        ["http://a.test/page", undefined, "p=1"]
      ])
    }))

  it.scopedLive("are followed by the session itself even if fetch was configured to follow them", () =>
    Effect.gen(function*() {
      const server = yield* site(({ path }) =>
        path === "/start" ? { status: 302, headers: { location: "/next", "set-cookie": "way=1" } } : {}
      )
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url })
      yield* client.get(`${server.url}/start`).pipe(
        Effect.provideService(FetchHttpClient.RequestInit, { redirect: "follow", headers: { "x-init": "1" } })
      )
      const sent = server.requests().map(({ headers, path }) => [path, headers.cookie, headers["x-init"]])
      assert.deepStrictEqual(sent, [["/start", "sid=0", "1"], ["/next", "sid=0; way=1", "1"]])
    }).pipe(Effect.provide(FetchHttpClient.layer)))

  it.scopedLive("are followed over fetch even if Node has a `document`, as in tests and server rendering", () =>
    Effect.gen(function*() {
      yield* Effect.acquireRelease(
        Effect.sync(() => Object.assign(globalThis, { document: {} })),
        () => Effect.sync(() => void delete (globalThis as { document?: unknown }).document)
      )
      const server = yield* site(({ path }) =>
        path === "/start" ? { status: 302, headers: { location: "/next", "set-cookie": "way=1; Path=/" } } : {}
      )
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url })
      yield* client.get(`${server.url}/start`)
      assert.strictEqual(server.received.at(-1)!.headers.cookie, "sid=0; way=1")
    }).pipe(Effect.provide(FetchHttpClient.layer)))

  it.scopedLive("J5: with raw bytes in their Location are read as UTF-8", () =>
    over(Effect.gen(function*() {
      const { client, server } = yield* redirecting(Buffer.from("/café").toString("latin1"))
      yield* client.get(`${server.url}/start`)
      assert.strictEqual(server.received.at(-1)!.path, "/caf%C3%A9")
    })))

  it.scopedLive("without a Location, and other 3xx, are the response", () =>
    over(Effect.gen(function*() {
      const { client, server } = yield* redirecting(undefined)
      assert.strictEqual((yield* client.get(`${server.url}/start`)).status, 302)
      const other = yield* redirecting("/elsewhere", 300)
      assert.strictEqual((yield* other.client.get(`${other.server.url}/start`)).status, 300)
    })))

  it.scopedLive("replace the URL, including its parameters", () =>
    over(Effect.gen(function*() {
      const { client, server } = yield* redirecting("../next/page?signed=a%2Fb~c&flag")
      yield* client.get(`${server.url}/start`)
      assert.strictEqual(server.received.at(-1)!.path, "/next/page?signed=a%2Fb~c&flag")
      const withParams = yield* site(({ path }) =>
        path.startsWith("/start") ? { status: 307, headers: { location: "/next" } } : {}
      )
      const { client: another } = yield* HttpSession.make({ ...identities(), probe: withParams.url })
      yield* another.get(`${withParams.url}/start`, { urlParams: { page: "1" }, hash: "part" })
      const paths = withParams.requests().map(({ path }) => path.replace("#part", ""))
      assert.deepStrictEqual(paths, ["/start?page=1", "/next"])
    })))

  it.scopedLive("that need a body which can be read only once are not followed; those that drop the body are", () =>
    over(Effect.gen(function*() {
      const kept = yield* redirecting("/next", 307)
      const stream = () => HttpBody.raw(Readable.from([Buffer.from("once")]))
      const error = failedWith(
        yield* Effect.exit(kept.client.post(`${kept.server.url}/start`, { body: stream() })),
        SessionHttpClient.NotReplayable
      )
      assert.strictEqual(error.response.status, 307)
      assert.deepStrictEqual(kept.server.requests().map(({ body }) => body.toString()), ["once"])
      const dropped = yield* redirecting("/next", 303)
      const text = yield* textOf(dropped.client.post(`${dropped.server.url}/start`, { body: stream() }))
      assert.strictEqual(text, "arrived")
      const sent = dropped.server.requests().map(({ body, method }) => [method, body.toString()])
      assert.deepStrictEqual(sent, [["POST", "once"], ["GET", ""]])
    })))

  it.scopedLive("are followed again from the caller's URL after a refresh, and a refusal at their end counts", () =>
    over(Effect.gen(function*() {
      const server = yield* site((request) =>
        request.path === "/start"
          ? { status: 302, headers: { location: "/next" } }
          : identityOf(request) === "0"
          ? forbidden
          : { body: "in" }
      )
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url })
      assert.strictEqual(yield* textOf(client.get(`${server.url}/start`)), "in")
      const sent = server.received.map((request) => request.path + identityOf(request))
      assert.deepStrictEqual(sent, ["/0", "/start0", "/next0", "/1", "/start1", "/next1"])
    })))

  it.scopedLive("of the probe are not followed: a 3xx proves the generation", () =>
    over(Effect.gen(function*() {
      const root: Reply = { status: 302, headers: { location: "/welcome", "set-cookie": "sid=1" } }
      const server = yield* site(() => ({}), () => root)
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url })
      yield* client.get(`${server.url}/page`)
      const sent = server.received.map(({ headers, path }) => [path, headers.cookie])
      assert.deepStrictEqual(sent, [["/", undefined], ["/page", "sid=1"]])
    })))
})

describe("a challenge", () => {
  /** The site asks for a code with each visit to its root, and accepts visitors who send the right one. */
  const guarded = (codeAccepted: string) =>
    site(
      (request) =>
        request.path === "/code"
          ? request.body.toString() === `code=${codeAccepted}` &&
              request.headers.cookie === `form=${identityOf(request)}`
            ? { status: 302, headers: { location: "/", "set-cookie": `sid=${identityOf(request)}` } }
            : { status: 403, body: "wrong code" }
          : request.headers.cookie?.includes(`sid=${identityOf(request)}`) === true && identityOf(request) !== "0"
          ? { body: "in" }
          : forbidden,
      (request) => ({ status: 503, headers: { "set-cookie": `form=${identityOf(request)}` }, body: "the code, please" })
    )

  type Challenge = NonNullable<HttpSession.Options<never, never, HttpClientError.HttpClientError>["challenge"]>
  const answering = (url: string, code: string): Challenge => (response, send) =>
    response.status === 503
      ? Option.some(Effect.flatMap(response.text, (text) => {
        assert.strictEqual(text, "the code, please")
        return send(HttpClientRequest.bodyUrlParams(HttpClientRequest.post(`${url}/code`), { code }))
      }))
      : Option.none()

  it.scopedLive("is answered inside the refresh, with the candidate, and its cookies are kept", () =>
    over(Effect.gen(function*() {
      const server = yield* guarded("1234")
      const { client, session } = yield* HttpSession.make({
        ...identities(),
        probe: server.url,
        challenge: answering(server.url, "1234")
      })
      const exits = yield* many(20, textOf(client.get(`${server.url}/page`)))
      assert.deepStrictEqual(exits, times(20, Exit.succeed("in")))
      assert.strictEqual(yield* cookiesOf(session, server.url), "form=1; sid=1")
      assert.strictEqual(server.probes().length, 2)
      assert.strictEqual(server.requests().filter(({ path }) => path === "/code").length, 2)
    })))

  it.scopedLive("answered wrongly fails the refresh with the answer's status, and causes no further refresh", () =>
    over(Effect.gen(function*() {
      const server = yield* guarded("1234")
      const { client } = yield* HttpSession.make({
        ...identities(),
        probe: server.url,
        challenge: answering(server.url, "4321")
      })
      const error = failedWith(yield* Effect.exit(client.get(`${server.url}/page`)), HttpSession.ProbeFailed)
      assert.strictEqual(error.status, 403)
      assert.strictEqual(yield* error.response.text, "wrong code")
      assert.strictEqual(server.received.length, 2)
    })))

  it.scopedLive("answered through the session's own client fails immediately instead of waiting for itself", () =>
    over(Effect.gen(function*() {
      const server = yield* guarded("1234")
      const made: HttpSession.HttpSession<unknown> = yield* HttpSession.make<never, never, unknown>({
        ...identities(),
        probe: server.url,
        challenge: () => Option.some(made.client.get(`${server.url}/code`))
      })
      failedWith(yield* Effect.exit(made.client.get(`${server.url}/page`)), Session.ReentrantRefresh)
      assert.strictEqual(server.received.length, 1)
    })))

  it.scopedLive("may be answered by the application with its own failure", () =>
    over(Effect.gen(function*() {
      const server = yield* guarded("1234")
      const { client } = yield* HttpSession.make({
        ...identities(),
        probe: server.url,
        challenge: () => Option.some(Effect.fail(new NoIdentity()))
      })
      failedWith(yield* Effect.exit(client.get(`${server.url}/page`)), NoIdentity)
    })))
})

describe("J4: one session for each origin", () => {
  const make = (origin: string) => HttpSession.make({ ...identities(), probe: origin })
  type PerOrigin = (origin: string) => Effect.Effect<HttpSession.HttpSession, unknown, Scope.Scope>

  type Making = Effect.Effect<PerOrigin, unknown, HttpClient.HttpClient | Scope.Scope>
  const maps: ReadonlyArray<readonly [string, Making]> = [
    [
      "RcMap",
      Effect.map(
        RcMap.make({ lookup: make, idleTimeToLive: "10 minutes" }),
        (map): PerOrigin => (origin) => RcMap.get(map, origin)
      )
    ],
    [
      "SessionMap",
      Effect.map(
        SessionMap.make({ lookup: (origin: string) => ({ acquire: make(origin) }) }),
        (map): PerOrigin => (origin) =>
          SessionMap.get(map, origin).pipe(
            Effect.flatMap((session) => session.current),
            Effect.map(({ value }) => value)
          )
      )
    ]
  ]

  it.scopedLive.each(maps)(
    "in a %s separates each origin's failures, waits, identity and cookies from every other",
    ([, map]) =>
      over(Effect.gen(function*() {
        const healthy = yield* site((request) => identityOf(request) === "0" ? forbidden : { body: "ok" })
        const failing = yield* site(() => ({}), () => ({ status: 500 }))
        const hanging = yield* site(() => ({}), () => Effect.never)
        const perOrigin = yield* map
        const get = (origin: string) =>
          Effect.scoped(Effect.flatMap(perOrigin(origin), ({ client }) => textOf(client.get(`${origin}/page`))))
        const waiting = yield* Effect.fork(get(hanging.url))
        yield* eventually(Effect.sync(() => hanging.probes().length === 1))
        failedWith(yield* Effect.exit(get(failing.url)), HttpSession.ProbeFailed)
        assert.strictEqual(yield* get(healthy.url), "ok")
        assert.strictEqual(yield* get(healthy.url), "ok")
        failedWith(yield* Effect.exit(get(failing.url)), HttpSession.ProbeFailed)
        assert.isTrue(Option.isNone(yield* Fiber.poll(waiting)))
        assert.strictEqual(healthy.probes().length, 2)
        assert.strictEqual(failing.received.length, 1)
        for (const { received } of [failing, hanging]) {
          for (const { headers } of received) assert.isUndefined(headers.cookie)
        }
        yield* Fiber.interrupt(waiting)
      }))
  )
})

describe("options", () => {
  it.scoped.each([
    "not a url?key=s3cret",
    "ftp://user:s3cret@a.test/x?key=s3cret",
    "user:s3cret@a.test",
    "http://user:s3@s3cret@/",
    "/relative?key=s3cret#s3cret",
    "http://user:s3?cret@a.test:port/"
  ])(
    "a probe that is not an http URL is refused, and its secrets are not shown: %s",
    (probe) =>
      over(Effect.gen(function*() {
        const error = failedWith(yield* Effect.exit(HttpSession.make({ ...identities(), probe })), InvalidOptions)
        assert.strictEqual(error.option, "probe")
        assert.notInclude(printsOf(error), "s3")
        assert.notInclude(printsOf(error), "cret")
      }))
  )

  it.scoped.each(
    [
      ["maxRedirects", { maxRedirects: -1 }],
      ["maxRedirects", { maxRedirects: 1.5 }],
      ["maxRedirects", { maxRedirects: NaN }],
      ["cookieLimits.total", { cookieLimits: { total: 0 } }],
      ["cookieLimits.perDomain", { cookieLimits: { perDomain: 1.5 } }],
      ["cookieLimits.bytes", { cookieLimits: { bytes: NaN } }],
      ["maxAge", { maxAge: -1 }],
      ["timeout", { timeout: 0 }],
      ["budget.refreshes", { budget: { refreshes: 0, within: "1 minute" } }]
    ] as const
  )("nonsense is refused: %s", ([option, options]) =>
    over(Effect.gen(function*() {
      const exit = yield* Effect.exit(HttpSession.make({ ...identities(), probe: "http://a.test", ...options }))
      assert.strictEqual(failedWith(exit, InvalidOptions).option, option)
    })))

  it.scoped.each(
    [
      ["probe", { probe: undefined }],
      ["probe", { probe: 5 }],
      ["identity", { identity: { headers: Headers.empty } }],
      ["challenge", { challenge: Option.none() }],
      ["rejected", { rejected: 403 }],
      ["replay", { replay: true }],
      ["cookieLimits", { cookieLimits: 50 }]
    ] as const
  )(
    "an option of the wrong kind, from a caller without types, is refused: %s",
    ([option, options]) =>
      over(Effect.gen(function*() {
        const given = { ...identities(), probe: "http://a.test", ...options } as unknown as HttpSession.Options
        const error = failedWith(yield* Effect.exit(HttpSession.make(given)), InvalidOptions)
        assert.strictEqual(error.option, option)
      }))
  )

  it.scopedLive("an invalid maxRefreshes is refused before anything is sent", () =>
    over(Effect.gen(function*() {
      const server = yield* site(() => ({}))
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url, maxRefreshes: -1 })
      failedWith(yield* Effect.exit(client.get(`${server.url}/page`)), InvalidOptions)
      assert.strictEqual(server.received.length, 0)
    })))

  it.scopedLive("a request to something that is not an http URL is a typed failure", () =>
    over(Effect.gen(function*() {
      const server = yield* site(() => ({}))
      const { client } = yield* HttpSession.make({ ...identities(), probe: server.url })
      for (const url of ["nowhere", "ftp://a.test"]) {
        const error = failedWith(yield* Effect.exit(client.get(url)), HttpClientError.RequestError)
        assert.strictEqual(error.reason, "InvalidUrl")
      }
      assert.strictEqual(server.requests().length, 0)
    })))

  it.scopedLive("TLS options that the client does not support are ignored with a warning", () =>
    over(Effect.gen(function*() {
      const logged: Array<string> = []
      const logger = Logger.make(({ logLevel, message }) => void logged.push(`${logLevel.label} ${String(message)}`))
      const server = yield* site(() => ({}))
      const { client } = yield* HttpSession.make({
        identity: Effect.succeed({ headers: Headers.empty, tls: { minVersion: "TLSv1.3" } as const }),
        probe: server.url
      }).pipe(Effect.provide(Logger.replace(Logger.defaultLogger, logger)))
      assert.strictEqual((yield* client.get(`${server.url}/page`)).status, 200)
      assert.isTrue(logged.some((line) => line.startsWith("WARN") && line.includes("TLS")), logged.join())
    })))
})

it.scopedLive("no error prints the identity's headers, or cookies", () =>
  over(Effect.gen(function*() {
    const identity = Effect.succeed({
      headers: Headers.fromInput({ authorization: "s3cret", "x-tenant-token": "s3cret" })
    })
    const once = () => HttpBody.stream(Stream.make(new Uint8Array(1)))
    const sets = { headers: { "set-cookie": "sid=s3cret" } }
    const printed = (exit: Exit.Exit<unknown, unknown>, tag: string) => {
      const error = failureOf(exit) as { readonly _tag: string; readonly response: unknown }
      assert.strictEqual(error._tag, tag)
      const withoutSetCookie = (text: string) => text.replaceAll("sid=s3cret", "")
      assert.notInclude(withoutSetCookie(printsOf(error)), "s3cret")
      assert.notInclude(withoutSetCookie(printsOf(error.response)), "s3cret")
    }
    const unproven = yield* site(() => ({}), () => ({ status: 500, ...sets }))
    const failing = yield* HttpSession.make({ identity, probe: unproven.url })
    printed(yield* Effect.exit(failing.client.get(`${unproven.url}/page`)), "ProbeFailed")
    const refusing = yield* site(() => forbidden, () => sets)
    const { client } = yield* HttpSession.make({ identity, probe: refusing.url })
    printed(yield* Effect.exit(client.get(`${refusing.url}/page`)), "SessionRejected")
    printed(
      yield* Effect.exit(client.post(`${refusing.url}/page`, { body: once() })),
      "NotReplayable"
    )
    const endless = yield* site(() => ({ status: 307, headers: { location: "/again" } }), () => sets)
    const redirected = yield* HttpSession.make({ identity, probe: endless.url })
    printed(yield* Effect.exit(redirected.client.get(`${endless.url}/page`)), "ResponseError")
    printed(
      yield* Effect.exit(redirected.client.post(`${endless.url}/page`, { body: once() })),
      "NotReplayable"
    )
  })))
