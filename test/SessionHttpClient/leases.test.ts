/** Until its body has ended, a response holds its key's session, and its generation's resources. */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as Headers from "@effect/platform/Headers"
import * as HttpBody from "@effect/platform/HttpBody"
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import type * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import { assert, describe, it } from "@effect/vitest"
import * as HttpSession from "effect-holdfast/HttpSession"
import * as Session from "effect-holdfast/Session"
import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
import * as SessionMap from "effect-holdfast/SessionMap"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { amount } from "../support/form.js"
import { clients, failedWith, readings } from "../support/httpClients.js"
import { eventually, nextTurn, type Reply, serve } from "../support/httpServer.js"

setFlagsFromString("--expose-gc")
const collect: () => void = runInNewContext("gc")

const half = new Uint8Array(256 * 1024)

/**
 * An API whose `/download` ends when the test lets it, and a client with room for the sessions of `capacity` tenants.
 */
const tenants = (
  options: { readonly capacity?: number; readonly idleTimeToLive?: number } = { capacity: 1 },
  answer: Reply = { body: "ok" }
) =>
  Effect.gen(function*() {
    const gate = Effect.unsafeMakeLatch()
    const released: Array<string> = []
    const sessions = yield* SessionMap.make({
      lookup: (tenant: string) => ({
        acquire: Effect.as(Effect.addFinalizer(() => Effect.sync(() => released.push(tenant))), tenant)
      }),
      ...options
    })
    const server = yield* serve((request) =>
      request.path === "/download"
        ? {
          write: (response) => {
            response.writeHead(200, { "content-length": 2 * half.length }).write(half)
            Effect.runFork(Effect.zipRight(gate.await, Effect.sync(() => response.end(half))))
          }
        }
        : request.path === "/reset"
        ? {
          write: (response) => {
            response.writeHead(200, { "content-length": 2 * half.length }).write(half)
            setImmediate(() => response.socket?.destroy())
          }
        }
        : request.path === "/refused"
        ? { status: 401, body: "no" }
        : answer
    )
    const client = yield* SessionHttpClient.makeKeyed(sessions, {
      key: (request) => request.headers["x-tenant"] ?? "none",
      attach: SessionHttpClient.bearer,
      maxRefreshes: 0
    })
    const get = (tenant: string, path: string, through: typeof client = client) =>
      through.get(`${server.url}${path}`, { headers: { "x-tenant": tenant } })
    return {
      server,
      sessions,
      client,
      get,
      gate,
      released,
      isFull: (tenant: string) =>
        Effect.map(Effect.exit(Effect.scoped(SessionMap.get(sessions, tenant))), Exit.isFailure)
    }
  })

const lengthOf = (response: HttpClientResponse.HttpClientResponse) =>
  Stream.runFold(response.stream, 0, (total, bytes) => total + bytes.length)

describe.each(clients)("M3: over %s", (_, layer) => {
  it.scopedLive("no other tenant takes the place of a session that is downloading", () =>
    Effect.gen(function*() {
      const { gate, get, released, isFull } = yield* tenants()
      const response = yield* get("a", "/download")
      failedWith(yield* Effect.exit(get("b", "/")), SessionMap.SessionMapFull)
      const reading = yield* Effect.fork(lengthOf(response))
      yield* nextTurn
      assert.isTrue(yield* isFull("b"))
      assert.deepStrictEqual(released, [])
      yield* gate.open
      assert.strictEqual(yield* Fiber.join(reading), 2 * half.length)
      assert.strictEqual(yield* Effect.flatMap(get("b", "/"), ({ text }) => text), "ok")
      yield* eventually(Effect.sync(() => released.includes("a")))
    }).pipe(Effect.provide(layer)))

  it.scoped("the idle time does not run during a download", () =>
    Effect.gen(function*() {
      const { gate, get, released } = yield* tenants({ idleTimeToLive: 1000 })
      const response = yield* get("a", "/download")
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(released, [])
      yield* gate.open
      assert.strictEqual(yield* lengthOf(response), 2 * half.length)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(released, ["a"])
    }).pipe(Effect.provide(layer)))

  for (const how of ["text", "json", "arrayBuffer", "stream"] as const) {
    it.scopedLive(`a body that was read by \`${how}\` no longer holds its session`, () =>
      Effect.gen(function*() {
        const { get, isFull } = yield* tenants({ capacity: 1 }, { body: "[1]" })
        const response = yield* get("a", "/")
        assert.isTrue(yield* isFull("b"))
        assert.strictEqual(yield* readings(response)[how], "[1]")
        assert.isFalse(yield* isFull("b"))
        // A kept body can be read again, and releases nothing twice.
        if (how === "text" || how === "json") assert.strictEqual(yield* response.text, "[1]")
      }).pipe(Effect.provide(layer)))
  }

  it.scopedLive("a body whose reader has stopped early no longer holds its session", () =>
    Effect.gen(function*() {
      const { get, isFull } = yield* tenants()
      const response = yield* get("a", "/download")
      yield* Stream.runDrain(Stream.take(response.stream, 1))
      assert.isFalse(yield* isFull("b"))
    }).pipe(Effect.provide(layer)))

  it.scopedLive("a body that breaks off, or whose reader is interrupted, no longer holds its session", () =>
    Effect.gen(function*() {
      const { get, isFull, server } = yield* tenants()
      yield* Effect.exit(lengthOf(yield* get("a", "/reset")))
      assert.isFalse(yield* isFull("b"))
      const reader = yield* Effect.fork(Effect.flatMap(get("c", "/download"), ({ text }) => text))
      yield* eventually(Effect.sync(() => server.received.length === 2))
      yield* nextTurn
      yield* Fiber.interrupt(reader)
      assert.isFalse(yield* isFull("d"))
    }).pipe(Effect.provide(layer)))

  it.scopedLive("a response whose scope has closed no longer holds its session, and its download is cut", () =>
    Effect.gen(function*() {
      const { client, isFull, server } = yield* tenants()
      const scope = yield* Scope.make()
      const request = HttpClientRequest.get(`${server.url}/download`, { headers: { "x-tenant": "a" } })
      const response = yield* Scope.extend(HttpClient.withScope(client).execute(request), scope)
      assert.isTrue(yield* isFull("b"))
      yield* Scope.close(scope, Exit.void)
      yield* eventually(Effect.map(isFull("b"), (full) => !full))
      yield* Deferred.await(server.received[0]!.aborted)
      assert.strictEqual(response.status, 200)
    }).pipe(Effect.provide(layer)))

  const bodiless: ReadonlyArray<readonly [string, Reply, "get" | "head"]> = [
    ["HEAD", { body: "not sent" }, "head"],
    ["204", { status: 204 }, "get"],
    ["205", { status: 205 }, "get"],
    ["304", { status: 304 }, "get"],
    ["content-length: 0", { headers: { "content-length": 0 } }, "get"]
  ]
  it.scopedLive.each(bodiless)(
    "an answer without a body does not hold its session: %s",
    ([, answer, method]) =>
      Effect.gen(function*() {
        const { client, isFull, server } = yield* tenants({ capacity: 1 }, answer)
        const response = yield* client[method](server.url, { headers: { "x-tenant": "a" } })
        assert.isFalse(yield* isFull("b"))
        assert.isAtLeast(response.status, 200)
      }).pipe(Effect.provide(layer))
  )

  it.scopedLive("a response that is kept is not garbage-collected, nor one of which only the stream is kept", () =>
    Effect.gen(function*() {
      const { get, isFull } = yield* tenants({ capacity: 2 })
      const response = yield* get("a", "/")
      const { stream } = yield* get("b", "/")
      for (let turns = 0; turns < amount({ quick: 5, full: 20 }); turns++) {
        collect()
        yield* nextTurn
      }
      assert.isTrue(yield* isFull("c"))
      yield* Stream.runDrain(stream)
      assert.isFalse(yield* isFull("c"))
      assert.strictEqual(yield* response.text, "ok")
    }).pipe(Effect.provide(layer)))

  it.scopedLive("a request to another origin uses no session, and finds room", () =>
    Effect.gen(function*() {
      const { server, sessions } = yield* tenants()
      const client = yield* SessionHttpClient.makeKeyed(sessions, {
        key: () => {
          throw new Error("not asked")
        },
        attach: SessionHttpClient.bearer,
        origins: ["https://api.example.com"]
      })
      yield* SessionMap.get(sessions, "a")
      assert.strictEqual((yield* client.get(server.url)).status, 200)
      assert.isUndefined(server.received[0]!.headers.authorization)
    }).pipe(Effect.provide(layer)))

  it.scopedLive("the response of a lasting refusal holds its session until it has been read", () =>
    Effect.gen(function*() {
      const { get, isFull } = yield* tenants()
      const { response } = failedWith(yield* Effect.exit(get("a", "/refused")), SessionHttpClient.SessionRejected)
      assert.isTrue(yield* isFull("b"))
      assert.strictEqual(yield* response.text, "no")
      assert.isFalse(yield* isFull("b"))
    }).pipe(Effect.provide(layer)))

  it.scopedLive("a refusal whose refresh fails immediately no longer holds its session", () =>
    Effect.gen(function*() {
      const server = yield* serve(() => ({ status: 401, body: "no" }))
      const sessions = yield* SessionMap.make({
        capacity: 1,
        lookup: (tenant: string) => ({ initial: tenant, acquire: Effect.fail("down"), cooldown: "1 minute" })
      })
      const client = yield* SessionHttpClient.makeKeyed(sessions, {
        key: (request) => new URL(request.url).pathname,
        attach: SessionHttpClient.bearer
      })
      for (let i = 0; i < 2; i++) {
        assert.deepStrictEqual(yield* Effect.exit(client.get(`${server.url}/a`)), Exit.fail("down"))
      }
      yield* eventually(Effect.map(Effect.exit(Effect.scoped(SessionMap.get(sessions, "/b"))), Exit.isSuccess))
    }).pipe(Effect.provide(layer)))
})

/** An idle connection of Node's own agent keeps the response that was not read on it, with or without a session. */
const collecting = [...clients.slice(0, 2), ["node:http without keep-alive", NodeHttpClient.layer]] as typeof clients

it.scopedLive.each(collecting)(
  "M3: an unread response holds its session until it is garbage-collected: over %s",
  ([, layer]) =>
    Effect.gen(function*() {
      const { get, isFull } = yield* tenants()
      assert.strictEqual((yield* get("a", "/")).status, 200)
      yield* eventually(Effect.zipRight(Effect.sync(collect), Effect.map(isFull("b"), (full) => !full)))
    }).pipe(Effect.provide(layer))
)

describe.each(clients)("M3: the scope of `HttpClient.withScope`, over %s,", (_, layer) => {
  const senders = [
    [
      "behind a redirect",
      Effect.fnUntraced(function*(url: string) {
        const session = yield* Session.make({ acquire: Effect.succeed("token") })
        return [
          yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer, followRedirects: 1 }),
          `${url}/moved`
        ] as const
      })
    ],
    [
      "of an HttpSession",
      Effect.fnUntraced(function*(url: string) {
        const { client } = yield* HttpSession.make({
          identity: Effect.succeed({ headers: Headers.empty }),
          probe: `${url}/probe`
        })
        return [client, `${url}/download`] as const
      })
    ]
  ] as const
  for (const [what, sender] of senders) {
    it.scopedLive(`cuts the download ${what}`, () =>
      Effect.gen(function*() {
        const server = yield* serve(({ path }) =>
          path === "/moved"
            ? { status: 302, headers: { location: "/download" } }
            : path === "/probe"
            ? {}
            : { write: (response) => void response.writeHead(200).write(half) }
        )
        const [client, url] = yield* sender(server.url)
        const scope = yield* Scope.make()
        const response = yield* Scope.extend(HttpClient.withScope<unknown, never>(client).get(url), scope)
        yield* Scope.close(scope, Exit.void)
        yield* Deferred.await(server.received.find(({ path }) => path === "/download")!.aborted)
        assert.strictEqual(response.status, 200)
      }).pipe(Effect.provide(layer)))
  }
})

describe.each(clients)("M3, S10: what a generation acquired, over %s,", (_, layer) => {
  const generations = (refuse: (token: string | undefined) => Reply | undefined = () => undefined) =>
    Effect.gen(function*() {
      const gate = Effect.unsafeMakeLatch()
      const released: Array<string> = []
      let made = 0
      const session = yield* Session.make({
        acquire: Effect.suspend(() => {
          const token = `token-${made++}`
          return Effect.as(Effect.addFinalizer(() => Effect.sync(() => released.push(token))), token)
        })
      })
      const server = yield* serve((request) =>
        refuse(request.headers.authorization) ?? {
          write: (response) => {
            response.writeHead(200).write(half)
            Effect.runFork(Effect.zipRight(gate.await, Effect.sync(() => response.end(half))))
          }
        }
      )
      const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer })
      const supersede = Effect.flatMap(session.current, session.refresh)
      return { client, gate, released, server, session, supersede }
    })

  it.scopedLive("outlives the last body that came through it", () =>
    Effect.gen(function*() {
      const { client, gate, released, server, supersede } = yield* generations()
      const [first, second] = yield* Effect.all([client.get(server.url), client.get(server.url)])
      yield* supersede
      yield* gate.open
      assert.strictEqual(yield* lengthOf(first), 2 * half.length)
      assert.deepStrictEqual(released, [])
      assert.strictEqual(yield* lengthOf(second), 2 * half.length)
      yield* eventually(Effect.sync(() => released.length === 1))
      assert.deepStrictEqual(released, ["token-0"])
    }).pipe(Effect.provide(layer)))

  it.scopedLive("is released when the refused body has been read, while the repeated request is under way", () =>
    Effect.gen(function*() {
      const { client, released, server } = yield* generations((token) =>
        token === "Bearer token-0" ? { status: 401, body: "no" } : undefined
      )
      const response = yield* client.get(server.url)
      yield* eventually(Effect.sync(() => released.length === 1))
      assert.deepStrictEqual(released, ["token-0"])
      assert.strictEqual(response.status, 200)
    }).pipe(Effect.provide(layer)))

  it.scopedLive("is released for a request that cannot be sent again, whose body was read already", () =>
    Effect.gen(function*() {
      const { client, released, server } = yield* generations((token) =>
        token === "Bearer token-0" ? { status: 401, body: "no" } : undefined
      )
      const body = HttpBody.stream(Stream.make(new Uint8Array(3)))
      const { response } = failedWith(
        yield* Effect.exit(client.post(server.url, { body })),
        SessionHttpClient.NotReplayable
      )
      yield* eventually(Effect.sync(() => released.length === 1))
      assert.strictEqual(yield* response.text, "no")
    }).pipe(Effect.provide(layer)))
})
