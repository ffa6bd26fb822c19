import * as Undici from "@effect/platform-node/Undici"
import * as Headers from "@effect/platform/Headers"
import * as HttpBody from "@effect/platform/HttpBody"
import { assert, describe, it } from "@effect/vitest"
import * as HttpSession from "effect-holdfast/HttpSession"
import { NodeHttpSession } from "effect-holdfast/node"
import * as Session from "effect-holdfast/Session"
import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import type { ServerOptions } from "node:https"
import { serverCertificate } from "../examples/certificates.js"
import { assertTransport, failedWith, many, textOf, times } from "./support/httpClients.js"
import { eventually, type Received, type Reply, serve, type TestServer } from "./support/httpServer.js"

const certificate = await serverCertificate()

const identityOf = ({ headers }: Received) => headers["x-identity"]

/** A site over TLS. `handle` answers every path except the root, which welcomes unless `root` answers it. */
const site = (
  handle: (request: Received) => Reply | Effect.Effect<Reply>,
  options: {
    readonly root?: (request: Received) => Reply | Effect.Effect<Reply>
    readonly tls?: ServerOptions & { readonly http2?: boolean }
  } = {}
) =>
  Effect.suspend(() =>
    serve((request) => request.path === "/" ? options.root?.(request) ?? {} : handle(request), {
      ...certificate,
      ...options.tls
    })
  )

/** A session whose identity n has the n-th of these TLS options; later identities have the last. */
const visit = (url: string, ...tls: ReadonlyArray<HttpSession.TlsOptions | undefined>) =>
  Effect.suspend(() => {
    let made = 0
    return NodeHttpSession.make({
      identity: Effect.sync((): HttpSession.Identity => ({
        headers: Headers.fromInput({ "x-identity": String(made) }),
        tls: tls[Math.min(made++, tls.length - 1)]
      })),
      probe: url,
      agent: { allowH2: true, connect: { ca: certificate.ca } }
    })
  })

const forbidden: Reply = { status: 403, body: "forbidden" }
const refusing = (...ids: ReadonlyArray<string>) => (request: Received): Reply =>
  ids.includes(String(identityOf(request))) ? forbidden : { body: "ok" }

const cipherSuites = [
  {
    protocol: "TLSv1.2",
    server: { maxVersion: "TLSv1.2" },
    first: ["ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"],
    second: ["ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"]
  },
  {
    protocol: "TLSv1.3",
    server: {},
    first: ["TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"],
    second: ["TLS_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256"]
  }
] as const

describe.each(cipherSuites)("J3: with the ciphers of $protocol", ({ first, protocol, second, server: tls }) => {
  const rotating = [{ ciphers: first[0] }, { ciphers: second[0] }] as const
  const spoken = ({ tls }: Received) => [tls?.protocol, tls?.cipher]

  it.scopedLive("a new generation uses its own ciphers from its first probe on, on its own connections", () =>
    Effect.gen(function*() {
      const server = yield* site(refusing("0"), { tls })
      const { client } = yield* visit(server.url, ...rotating)
      const exits = yield* many(20, textOf(client.get(`${server.url}/page`)))
      assert.deepStrictEqual(exits, times(20, Exit.succeed("ok")))
      const used = new Map<string, Set<number>>([["0", new Set()], ["1", new Set()]])
      for (const request of server.received) {
        const id = String(identityOf(request))
        used.get(id)!.add(request.connection)
        assert.deepStrictEqual(spoken(request), [protocol, id === "0" ? first[1] : second[1]])
        assert.isFalse(id === "1" && request.path === "/" && request.tls!.isResumed)
      }
      for (const connection of used.get("1")!) assert.isFalse(used.get("0")!.has(connection))
      assert.strictEqual(server.received.filter(({ path }) => path === "/").length, 2)
    }))

  it.scopedLive("a failed probe leaves the previous ciphers in use, and no connection of its own", () =>
    Effect.gen(function*() {
      const server = yield* site(refusing(), { tls, root: refusing("1") })
      const { client, session } = yield* visit(server.url, ...rotating)
      yield* textOf(client.get(`${server.url}/page`))
      const stale = yield* session.current
      failedWith(yield* Effect.exit(session.refresh(stale)), HttpSession.ProbeFailed)
      assert.strictEqual((yield* session.current).value.identity.tls?.ciphers, first[0])
      yield* textOf(client.get(`${server.url}/page`))
      const [probe, before, candidate, after] = server.received
      assert.deepStrictEqual(spoken(candidate!), [protocol, second[1]])
      assert.deepStrictEqual(spoken(after!), [protocol, first[1]])
      assert.include([probe!.connection, before!.connection], after!.connection)
      yield* eventually(Effect.sync(() => !server.open().includes(candidate!.connection)))
      assert.include(server.open(), after!.connection)
    }))
})

it.scopedLive("J1: a minimum version that the server does not support fails the refresh; the old one is kept", () =>
  Effect.gen(function*() {
    const server = yield* site(refusing("0"), { tls: { maxVersion: "TLSv1.2" } })
    const { client, session } = yield* visit(server.url, { minVersion: "TLSv1.2" }, { minVersion: "TLSv1.3" })
    assertTransport(yield* Effect.exit(client.get(`${server.url}/page`)))
    assert.strictEqual((yield* session.current).number, 0)
    assert.deepStrictEqual(server.received.map(({ tls }) => tls!.protocol), ["TLSv1.2", "TLSv1.2"])
  }))

it.scopedLive("J1: ciphers that do not exist fail the refresh with a typed error, and the previous ones are kept", () =>
  Effect.gen(function*() {
    const server = yield* site(refusing("0"))
    const { client, session } = yield* visit(server.url, undefined, { ciphers: "no-such-cipher" })
    assertTransport(yield* Effect.exit(client.get(`${server.url}/page`)))
    assert.strictEqual((yield* session.current).number, 0)
    assert.strictEqual(server.received.length, 2)
  }))

it.scoped("J1: a probe that hangs is cut off with its connection, and the previous TLS options are kept", () =>
  Effect.gen(function*() {
    const [{ ciphers }, rotated] = [{ ciphers: "TLS_AES_128_GCM_SHA256" }, { ciphers: "TLS_AES_256_GCM_SHA384" }]
    const server = yield* site(refusing(), { root: (request) => identityOf(request) === "1" ? Effect.never : {} })
    const { client, session } = yield* visit(server.url, { ciphers }, rotated)
    yield* textOf(client.get(`${server.url}/page`))
    const refresh = yield* Effect.fork(session.refresh(yield* session.current))
    yield* eventually(Effect.sync(() => server.received.length === 3))
    yield* TestClock.adjust("30 seconds")
    failedWith(yield* Fiber.await(refresh), Session.RefreshTimeout)
    const candidate = server.received[2]!
    assert.strictEqual(candidate.tls?.cipher, rotated.ciphers)
    yield* Deferred.await(candidate.aborted)
    yield* eventually(Effect.sync(() => !server.open().includes(candidate.connection)))
    yield* textOf(client.get(`${server.url}/page`))
    assert.strictEqual(server.received.at(-1)!.tls?.cipher, ciphers)
  }))

it.scopedLive("over HTTP/2 a refused request is sent again with its body, and one-shot bodies are not", () =>
  Effect.gen(function*() {
    const server = yield* site(refusing("0", "1"), { tls: { http2: true } })
    const { client } = yield* visit(server.url, undefined)
    const stream = HttpBody.stream(Stream.make(new TextEncoder().encode("once")))
    failedWith(yield* Effect.exit(client.post(`${server.url}/page`, { body: stream })), SessionHttpClient.NotReplayable)
    yield* client.post(`${server.url}/page`, { body: HttpBody.unsafeJson({ order: 1 }) })
    const sent = server.received.filter(({ path }) => path !== "/")
    assert.deepStrictEqual(sent.map(({ body, httpVersion }) => [httpVersion, body.toString()]), [
      ["2.0", "once"],
      ["2.0", "{\"order\":1}"],
      ["2.0", "{\"order\":1}"]
    ])
  }))

it.scopedLive("the requests of one generation share its connections", () =>
  Effect.gen(function*() {
    const server = yield* site(refusing())
    const { client } = yield* visit(server.url, undefined)
    yield* Effect.repeatN(textOf(client.get(`${server.url}/page`)), 19)
    // The first request may come before the probe's connection is idle.
    assert.isAtMost(server.connections(), 2)
  }))

describe("J3: connections of a superseded generation", () => {
  /** No connection that served this identity is open any more; connections of the others do not matter. */
  const haveEnded = (server: TestServer, identity: string) =>
    eventually(Effect.sync(() => {
      const used = server.received.filter((request) => identityOf(request) === identity)
      return !used.some(({ connection }) => server.open().includes(connection))
    }))

  it.scopedLive("end immediately when they are idle", () =>
    Effect.gen(function*() {
      const server = yield* site(refusing("0"))
      const { client } = yield* visit(server.url, undefined)
      yield* textOf(client.get(`${server.url}/page`))
      const last = server.received.at(-1)!
      assert.strictEqual(identityOf(last), "1")
      yield* haveEnded(server, "0")
      assert.include(server.open(), last.connection)
    }))

  it.scopedLive("serve their last request, whose body is still being read, and end with it", () =>
    Effect.gen(function*() {
      const gate = Effect.unsafeMakeLatch()
      const firstRead = Effect.unsafeMakeLatch()
      const chunk = new Uint8Array(256 * 1024)
      const server = yield* site((request) =>
        request.path === "/slow"
          ? {
            write: (response) => {
              response.writeHead(200)
              response.write(chunk)
              Effect.runFork(Effect.zipRight(gate.await, Effect.sync(() => response.end(chunk))))
            }
          }
          : refusing("0")(request)
      )
      const { client, session } = yield* visit(server.url, undefined)
      const response = yield* client.get(`${server.url}/slow`)
      const reading = yield* Effect.fork(response.stream.pipe(
        Stream.tap(() => firstRead.open),
        Stream.runFold(0, (total, bytes) => total + bytes.length)
      ))
      yield* firstRead.await
      const old = server.received.at(-1)!.connection
      yield* textOf(client.get(`${server.url}/page`))
      assert.strictEqual((yield* session.current).number, 1)
      const [idle] = server.received
      yield* eventually(Effect.sync(() => idle!.connection === old || !server.open().includes(idle!.connection)))
      assert.include(server.open(), old)
      yield* gate.open
      assert.strictEqual(yield* Fiber.join(reading), 2 * chunk.length)
      yield* haveEnded(server, "0")
      assert.include(server.open(), server.received.at(-1)!.connection)
    }))

  it.scopedLive("serve a request that is still waiting for its answer", () =>
    Effect.gen(function*() {
      const gate = Effect.unsafeMakeLatch()
      const server = yield* site((request) =>
        request.path === "/late" ? Effect.as(gate.await, { body: "late" }) : refusing("0")(request)
      )
      const { client } = yield* visit(server.url, undefined)
      const late = yield* Effect.fork(textOf(client.get(`${server.url}/late`)))
      yield* eventually(Effect.sync(() => server.received.some(({ path }) => path === "/late")))
      yield* textOf(client.get(`${server.url}/page`))
      yield* gate.open
      assert.strictEqual(yield* Fiber.join(late), "late")
      assert.strictEqual(server.received.filter(({ path }) => path === "/late").length, 1)
      yield* haveEnded(server, "0")
    }))

  it.scopedLive("do not wait for the repetition of a request that they refused", () =>
    Effect.gen(function*() {
      const server = yield* site((request) => identityOf(request) === "0" ? forbidden : Effect.never)
      const { client } = yield* visit(server.url, undefined)
      const repeating = yield* Effect.fork(client.get(`${server.url}/page`))
      yield* eventually(Effect.sync(() => server.received.length === 4))
      yield* haveEnded(server, "0")
      assert.include(server.open(), server.received[3]!.connection)
      yield* Fiber.interrupt(repeating)
    }))

  it.scopedLive("end with a request that is interrupted", () =>
    Effect.gen(function*() {
      const server = yield* site((request) => request.path === "/never" ? Effect.never : refusing("0")(request))
      const { client } = yield* visit(server.url, undefined)
      const never = yield* Effect.fork(client.get(`${server.url}/never`))
      yield* eventually(Effect.sync(() => server.received.some(({ path }) => path === "/never")))
      yield* textOf(client.get(`${server.url}/page`))
      yield* Fiber.interrupt(never)
      yield* haveEnded(server, "0")
    }))
})

describe("closing the scope", () => {
  it.scopedLive("leaves no connection of any generation, and fails later requests", () =>
    Effect.gen(function*() {
      const server = yield* site((request) =>
        request.path === "/endless"
          ? { write: (response) => void response.writeHead(200).write(new Uint8Array(1024 * 1024)) }
          : refusing("0")(request)
      )
      const scoped = Effect.gen(function*() {
        const { client } = yield* visit(server.url, undefined)
        const endless = yield* client.get(`${server.url}/endless`)
        yield* textOf(client.get(`${server.url}/page`))
        const another = yield* client.get(`${server.url}/endless`)
        return { client, endless, another }
      })
      const { client } = yield* Effect.scoped(scoped)
      yield* eventually(Effect.sync(() => server.open().length === 0))
      failedWith(yield* Effect.exit(client.get(`${server.url}/page`)), Session.SessionClosed)
      assert.strictEqual(server.open().length, 0)
    }))

  it.scopedLive("fails a request in flight with a typed error", () =>
    Effect.gen(function*() {
      const server = yield* site(() => Effect.never)
      const caller = yield* Effect.scoped(Effect.gen(function*() {
        const { client } = yield* visit(server.url, undefined)
        const caller = yield* Effect.forkDaemon(client.get(`${server.url}/page`))
        yield* eventually(Effect.sync(() => server.received.length === 2))
        return caller
      }))
      assertTransport(yield* Fiber.await(caller))
      yield* eventually(Effect.sync(() => server.open().length === 0))
    }))

  it.scopedLive("aborts a probe in flight", () =>
    Effect.gen(function*() {
      const server = yield* site(refusing(), { root: () => Effect.never })
      const caller = yield* Effect.scoped(Effect.gen(function*() {
        const { client } = yield* visit(server.url, undefined)
        const caller = yield* Effect.forkDaemon(client.get(`${server.url}/page`))
        yield* eventually(Effect.sync(() => server.received.length === 1))
        return caller
      }))
      failedWith(yield* Fiber.await(caller), Session.SessionClosed)
      yield* Deferred.await(server.received[0]!.aborted)
      yield* eventually(Effect.sync(() => server.open().length === 0))
    }))
})

it.scopedLive("a server that is not trusted is refused with a typed error, and gets no request", () =>
  Effect.gen(function*() {
    const server = yield* site(refusing())
    const { client } = yield* NodeHttpSession.make({
      identity: Effect.succeed({ headers: Headers.empty }),
      probe: server.url
    })
    assertTransport(yield* Effect.exit(client.get(`${server.url}/page`)))
    assert.strictEqual(server.received.length, 0)
  }))

it.scopedLive("an agent's own connector is used as it is", () =>
  Effect.gen(function*() {
    const server = yield* site(refusing("0"))
    const connector = Undici.buildConnector({ ca: certificate.ca })
    let connects = 0
    const { client } = yield* NodeHttpSession.make({
      identity: Effect.succeed({ headers: Headers.fromInput({ "x-identity": "2" }) }),
      probe: server.url,
      agent: {
        connect: (options, callback) => {
          connects++
          connector(options, callback)
        }
      }
    })
    assert.strictEqual(yield* textOf(client.get(`${server.url}/page`)), "ok")
    assert.strictEqual(connects, server.connections())
  }))

it.scopedLive("a lasting refusal is bounded, too, and its response can be read without its connection", () =>
  Effect.gen(function*() {
    const server = yield* site(() => ({ status: 403, body: "f".repeat(300_000) }))
    const { client, session } = yield* visit(server.url, undefined)
    const error = failedWith(yield* Effect.exit(client.get(`${server.url}/page`)), SessionHttpClient.SessionRejected)
    yield* session.refresh(yield* session.current)
    assert.strictEqual((yield* error.response.text).length, 300_000)
    assert.strictEqual(server.received.filter(({ path }) => path !== "/").length, 2)
  }))

it.scoped("options of the wrong kind, from a caller without types, are refused", () =>
  Effect.gen(function*() {
    for (const options of [null, 5]) {
      const error = yield* Effect.flip(NodeHttpSession.make(options as never))
      assert.deepInclude(error, { _tag: "InvalidOptions", option: "options" })
    }
  }))
