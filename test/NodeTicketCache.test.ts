import { assert, describe, vi } from "@effect/vitest"
import type { InvalidOptions } from "effect-holdfast/InvalidOptions"
import { NodeTicketCache, NodeWebSocketDialer } from "effect-holdfast/node"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as TicketCache from "effect-holdfast/TicketCache"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { constants } from "node:crypto"
import * as Http from "node:http"
import type { Agent, RequestOptions } from "node:https"
import * as Net from "node:net"
import * as Tls from "node:tls"
import { authority, clientCertificate, serverCertificate } from "../examples/certificates.js"
import { form } from "./support/form.js"
import { sumOf } from "./support/metrics.js"
import {
  addressIn,
  type Ask,
  clientGet,
  connecting,
  exchange,
  failing,
  failure,
  type Given,
  handshakes,
  httpClient,
  httpsGet,
  keysOf,
  logged,
  offers,
  secret,
  seenIn,
  serving,
  test,
  versions,
  watched,
  ways
} from "./support/tlsClients.js"
import { opensslServer } from "./support/tlsServers.js"
import { openssl } from "./support/tools.js"
import { eventually, mebi, memory, print, resources } from "./support/webSocketServer.js"

const { ca, cert, key } = await serverCertificate()
const named = await serverCertificate({ names: ["localhost", "a.test"] })
const elsewhere = await serverCertificate({ names: ["elsewhere.test"] })
const untrusted = await serverCertificate({ issuer: await authority("untrusted") })
const clients = await authority("clients")
const alice = await clientCertificate("alice", { issuer: clients })
const bob = await clientCertificate("bob", { issuer: clients })
const tls: Tls.ConnectionOptions = { ca }

const times = (count: number, ask: Effect.Effect<unknown, unknown>, concurrency = 1) =>
  Effect.forEach(Array.from({ length: count }), () => ask, { concurrency, discard: true })

// -----------------------------------------------------------------------------
// resumption
// -----------------------------------------------------------------------------

describe.each(versions)("C1: a connection that is resumed (%s)", (version) => {
  for (const [name, way] of Object.entries(ways)) {
    test(`by ${name}: once for each ticket that the server has given`, () =>
      Effect.gen(function*() {
        const cache = yield* TicketCache.make()
        const server = yield* serving({ maxVersion: version })
        const recorded = yield* watched(server)
        const ask = yield* way({ cache, tls })
        for (let n = 0; n < 6; n++) yield* ask(recorded.url())
        const [expected, full] = version === "TLSv1.3" ? [[0, 1, 1, 0, 1, 1], 2] : [[0, 1, 0, 1, 0, 1], 3]
        assert.deepStrictEqual(offers(recorded), expected)
        assert.deepStrictEqual(yield* handshakes(server, 6), { full, resumed: 6 - full })
        const { dropped, expired, offered, refused, resumed, tickets } = yield* TicketCache.stats(cache)
        assert.deepStrictEqual({ dropped, expired, offered, refused, resumed, tickets }, {
          dropped: 0,
          expired: 0,
          offered: 6 - full,
          refused: 0,
          resumed: 6 - full,
          tickets: 0
        })
        assert.deepStrictEqual([...new Set(recorded.hellos.map(({ servername }) => servername))], ["localhost"])
      }))

    test(`by ${name}: no ticket twice in bursts of 50`, () =>
      Effect.gen(function*() {
        const isMany = version === "TLSv1.3" && !["webSocket", "http2"].includes(name)
        const bursts = form === "quick" ? 2 : isMany ? 10 : 4
        const count = bursts * 50
        const cache = yield* TicketCache.make({ ticketsPerServer: 200 })
        const server = yield* serving({ maxVersion: version })
        const recorded = yield* watched(server)
        const ask = yield* way({ cache, tls })
        for (let n = 0; n < bursts; n++) {
          yield* times(50, ask(recorded.url()), 50)
          yield* server.closeConnections
        }
        const { full, resumed } = yield* handshakes(server, count)
        const stats = yield* TicketCache.stats(cache)
        const given = full * (version === "TLSv1.3" ? 2 : 1)
        assert.deepStrictEqual(
          [full + resumed, stats.offered, stats.resumed, stats.refused, stats.dropped, stats.tickets],
          [count, resumed, resumed, 0, 0, given - resumed]
        )
        assert.lengthOf(recorded.hellos.flatMap(({ offered }) => offered), resumed)
        // No available ticket is left unused: a burst takes the tickets that earlier bursts have left. With TLS 1.2 a
        // resumed connection gives no ticket, so that every second burst has tickets.
        const least = version === "TLSv1.3" ? (bursts - 1) * 50 * 2 / 3 : Math.floor(bursts / 2) * 50 * 3 / 4
        assert.isAtLeast(resumed, least)
      }))
  }

  test("C5: overwrites the ticket's session with zeros, whether the ticket was offered or not", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      // `take` hands over the only copy of the session.
      const take = vi.spyOn(cache as unknown as { take(): Option.Option<TicketCache.Ticket> }, "take")
      let isTrusted = true
      const ask = connecting({ cache, ca, checkServerIdentity: () => isTrusted ? undefined : new Error("not trusted") })
      const recorded = yield* watched(yield* serving({ maxVersion: version }))
      yield* ask(recorded.url())
      yield* ask(recorded.url())
      yield* TicketCache.clear(cache)
      yield* ask(recorded.url())
      isTrusted = false
      yield* failing(ask(recorded.url()))
      assert.deepStrictEqual(offers(recorded), [0, 1, 0, 0])
      const taken = take.mock.results.flatMap(({ value }) => Option.toArray<TicketCache.Ticket>(value))
      assert.deepStrictEqual(taken.map(({ session }) => session.every((byte) => byte === 0)), [true, true])
    }))

  test("C5: is offered if `checkServerIdentity` answers null or false, which Node takes for yes, too", () =>
    Effect.gen(function*() {
      for (const answer of [null, false]) {
        const cache = yield* TicketCache.make()
        const ask = connecting({ cache, ca, checkServerIdentity: () => answer as unknown as undefined })
        const recorded = yield* watched(yield* serving({ maxVersion: version }))
        yield* ask(recorded.url())
        yield* ask(recorded.url())
        assert.deepStrictEqual(offers(recorded), [0, 1])
        assert.strictEqual((yield* TicketCache.stats(cache)).resumed, 1)
      }
    }))

  test("C6: is logged once for a server that gives no new ticket", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const server = yield* serving({ maxVersion: version })
      const ask = yield* ways.agent({ cache, tls })
      yield* times(6, ask(server.url()))
      yield* eventually(() => logged().length > 0)
      yield* times(3, ways.connect({ cache, tls }).pipe(Effect.flatMap((ask) => ask(server.url()))))
      assert.deepStrictEqual(logged(), [
        `localhost:${server.port} gives no new TLS ticket to a connection that was resumed: ` +
        "some later connections will not be resumed"
      ])
    }))
})

describe.runIf(openssl)("C1: a server that gives a new ticket for each one that is used", () => {
  for (const name of ["connect", "dispatcher", "agent"] as const) {
    test(`by ${name}: is asked for one whole handshake, and each ticket is offered once`, () =>
      Effect.gen(function*() {
        const cache = yield* TicketCache.make()
        const server = yield* opensslServer({ key, cert, version: "1.3" })
        const recorded = yield* watched(server)
        const ask = yield* ways[name]({ cache, tls })
        yield* times(10, ask(recorded.url()))
        assert.deepStrictEqual(offers(recorded), [0, 1, 1, 1, 1, 1, 1, 1, 1, 1])
        assert.deepStrictEqual(yield* server.report, { full: 1, resumed: 9 })
        const bursts = form === "quick" ? 2 : 5
        for (let n = 0; n < bursts; n++) yield* times(20, ask(recorded.url()), 20)
        const count = 10 + bursts * 20
        const { full, resumed } = yield* handshakes(server, count)
        assert.strictEqual(full + resumed, count)
        const stats = yield* TicketCache.stats(cache)
        assert.deepStrictEqual([stats.offered, stats.resumed, stats.refused], [resumed, resumed, 0])
        // Only the first burst has too few tickets.
        assert.isAtLeast(resumed, 9 + (bursts - 1) * 20)
        assert.deepStrictEqual(logged(), [])
      }))
  }

  test("by session ids of TLS 1.2: each is offered once", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const server = yield* opensslServer({ key, cert, version: "1.2", extraArgs: ["-no_ticket"] })
      const recorded = yield* watched(server)
      const ask = yield* ways.connect({ cache, tls: { ...tls, maxVersion: "TLSv1.2" } })
      yield* times(5, ask(recorded.url()))
      assert.isAtLeast((yield* handshakes(server, 5)).full, 3)
    }))

  test("C5: gets no early data, even if it accepts early data", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const server = yield* opensslServer({ key, cert, version: "1.3", extraArgs: ["-max_early_data", "16384"] })
      const recorded = yield* watched(server)
      for (const way of [ways.connect, ways.agent, ways.dispatcher]) {
        const ask = yield* way({ cache, tls })
        yield* times(3, ask(recorded.url()))
      }
      assert.deepStrictEqual(
        recorded.hellos.map(({ hasEarlyData }) => hasEarlyData),
        Array.from({ length: 9 }, () => false)
      )
      assert.isAtLeast((yield* server.report).resumed, 6)
    }))
})

describe("C1: the clients' own caches", () => {
  for (const name of ["dispatcher", "agent", "webSocket"] as const) {
    test(`are empty (${name}): without a ticket of ours, none is offered`, () =>
      Effect.gen(function*() {
        const cache = yield* TicketCache.make()
        const recorded = yield* watched(yield* serving())
        const ask = yield* ways[name]({ cache, tls })
        for (let n = 0; n < 4; n++) {
          yield* ask(recorded.url())
          yield* TicketCache.clear(cache)
        }
        assert.deepStrictEqual(offers(recorded), [0, 0, 0, 0])
      }))
  }

  test("hold no ticket, and a default cache belongs to one client", () =>
    Effect.gen(function*() {
      const recorded = yield* watched(yield* serving())
      const agent = yield* NodeTicketCache.agent({ tls, maxCachedSessions: 50 })
      yield* times(4, httpsGet(recorded.url(), { agent }))
      assert.deepStrictEqual(offers(recorded), [0, 1, 1, 0])
      const { _sessionCache } = agent as Agent & { readonly _sessionCache: { readonly map: object } }
      assert.deepStrictEqual(Object.keys(_sessionCache.map), [])
      const client = yield* httpClient({ tls })
      yield* times(4, clientGet(client, recorded.url()))
      assert.deepStrictEqual(offers(recorded, 4), [0, 1, 1, 0])
    }))
})

describe("a ReconnectingSocket over TLS", () => {
  test("resumes its session at each reconnect", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const server = yield* serving()
      const recorded = yield* watched(server)
      const agent = yield* NodeTicketCache.agent({ cache, tls })
      const socket = yield* ReconnectingSocket.make({
        dial: { url: recorded.url().replace("https:", "wss:") },
        backoff: Schedule.spaced("5 millis")
      }).pipe(Effect.provide(NodeWebSocketDialer.layer({ agent })))
      const got: Array<unknown> = []
      yield* Effect.forkScoped(Stream.runForEach(socket.messages, (message) => Effect.sync(() => got.push(message))))
      for (const [n, text] of ["one", "two", "three"].entries()) {
        yield* eventually(() => recorded.hellos.length > n)
        yield* socket.awaitOpen
        yield* socket.send(text)
        yield* eventually(() => got.includes(text))
        if (n < 2) yield* server.closeConnections
      }
      assert.deepStrictEqual(offers(recorded), [0, 1, 1])
      assert.deepStrictEqual(yield* handshakes(server, 3), { full: 1, resumed: 2 })
    }))
})

// -----------------------------------------------------------------------------
// identities
// -----------------------------------------------------------------------------

describe.each(versions)("C4: tickets of one identity are not offered by another (%s)", (version) => {
  const other = untrusted.ca
  const accepts = () => undefined
  const acceptsToo = () => undefined
  /** The same content in other objects. */
  const again = (options: Tls.ConnectionOptions): Tls.ConnectionOptions =>
    Object.fromEntries(
      Object.entries(options).map(([name, value]: [string, unknown]) => [
        name,
        Buffer.isBuffer(value) ? Buffer.from(value) : Array.isArray(value) ? [...(value as Array<unknown>)] : value
      ])
    )
  const pairs: Record<
    string,
    readonly [Tls.ConnectionOptions & Partial<Given>, Tls.ConnectionOptions & Partial<Given>]
  > = {
    "an additional CA": [{ ca: [Buffer.from(ca)] }, { ca: [Buffer.from(ca), Buffer.from(other)] }],
    "the CAs in two strings, or in one": [{ ca: [ca, other] }, { ca: ca + other }],
    "another client certificate": [{ key: alice.key, cert: alice.cert }, { key: bob.key, cert: bob.cert }],
    "no client certificate": [{ key: Buffer.from(alice.key), cert: Buffer.from(alice.cert) }, {}],
    "another server name": [{ servername: "localhost" }, { servername: "a.test" }],
    "another `checkServerIdentity`": [{ checkServerIdentity: accepts }, { checkServerIdentity: acceptsToo }],
    "no `checkServerIdentity`": [{ checkServerIdentity: accepts }, {}],
    "`rejectUnauthorized`": [{ rejectUnauthorized: false }, { rejectUnauthorized: true }],
    "another protocol": [{ ALPNProtocols: ["http/1.1"] }, { ALPNProtocols: ["http/1.1", "h2"] }],
    "no protocol": [{ ALPNProtocols: ["http/1.1"] }, {}],
    "the order of protocols": [{ ALPNProtocols: ["http/1.1", "spdy/1"] }, { ALPNProtocols: ["spdy/1", "http/1.1"] }],
    "another partition": [{ partition: "a" }, { partition: "b" }],
    "no partition": [{ partition: "a" }, {}],
    minVersion: [{ minVersion: "TLSv1.2" }, {}],
    maxVersion: [{ maxVersion: "TLSv1.3" }, {}],
    ciphers: [{ ciphers: Tls.DEFAULT_CIPHERS }, { ciphers: `${Tls.DEFAULT_CIPHERS}:!CAMELLIA` }],
    ecdhCurve: [{ ecdhCurve: "X25519:P-256" }, { ecdhCurve: "P-256" }],
    sigalgs: [{ sigalgs: "ecdsa_secp256r1_sha256" }, { sigalgs: "ecdsa_secp256r1_sha256:rsa_pss_rsae_sha256" }],
    secureOptions: [{ secureOptions: constants.SSL_OP_NO_COMPRESSION }, {}],
    secureContext: [{ secureContext: Tls.createSecureContext({ ca }) }, {
      secureContext: Tls.createSecureContext({ ca })
    }]
  }

  for (const [name, [one, two]] of Object.entries(pairs)) {
    test(name, () =>
      Effect.gen(function*() {
        for (const { key } of [alice, bob]) secret(key)
        const cache = yield* TicketCache.make()
        const recorded = yield* watched(
          yield* serving({
            ...named,
            maxVersion: version,
            requestCert: true,
            rejectUnauthorized: false,
            ca: alice.ca,
            ALPNProtocols: ["http/1.1", "spdy/1"]
          })
        )
        const ask = (options: Tls.ConnectionOptions & Partial<Given>) =>
          connecting({ ca, cache, ...options } as Given)(recorded.url())
        for (const options of [one, two, again(one), again(two)]) yield* ask(options)
        assert.deepStrictEqual(offers(recorded), [0, 0, 1, 1])
        assert.strictEqual((yield* TicketCache.stats(cache)).resumed, 2)
      }))
  }

  test("another port, or another name for the host", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const server = yield* serving({ maxVersion: version })
      const one = yield* watched(server)
      const two = yield* watched(server)
      const ask = connecting({ cache, ...tls })
      yield* ask(one.url())
      yield* ask(two.url())
      yield* ask(one.url("/", "127.0.0.1"))
      assert.deepStrictEqual([offers(one), offers(two)], [[0, 0], [0]])
      assert.strictEqual(yield* TicketCache.size(cache), version === "TLSv1.3" ? 6 : 3)
      yield* ask(one.url("/", "127.0.0.1"))
      assert.deepStrictEqual(offers(one, 2), [1])
    }))

  test("a client is known to the server by its own certificate, and by none if it has none", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const server = yield* serving({ maxVersion: version, requestCert: true, rejectUnauthorized: false, ca: alice.ca })
      const identities = {
        alice: { key: alice.key, cert: alice.cert },
        bob: { key: bob.key, cert: bob.cert },
        null: {}
      }
      const asked: Array<string> = []
      const as = (name: string, ask: Ask) =>
        Effect.map(ask(server.url()), (body) => asked.push(`${name} ${seenIn(body).client} ${seenIn(body).reused}`))
      for (const name of ["connect", "agent", "dispatcher"] as const) {
        const partition = name
        for (const [who, identity] of Object.entries(identities)) {
          yield* as(who, yield* ways[name]({ cache, partition, tls: { ...tls, ...identity } }))
        }
        for (const [who, identity] of Object.entries(identities)) {
          yield* as(who, yield* ways[name]({ cache, partition, tls: { ...tls, ...identity } }))
        }
      }
      const once = ["alice alice", "bob bob", "null null"]
      const whole = [...once.map((who) => `${who} false`), ...once.map((who) => `${who} true`)]
      assert.deepStrictEqual(asked, [...whole, ...whole, ...whole])
    }))

  test("a client that trusts another CA only does not get in by the ticket of a client that trusts the right one", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const server = yield* serving({ maxVersion: version })
      const recorded = yield* watched(server)
      for (const name of ["connect", "agent", "dispatcher", "webSocket"] as const) {
        const before = recorded.hellos.length
        yield* (yield* ways[name]({ cache, tls }))(recorded.url())
        const tickets = yield* TicketCache.size(cache)
        yield* failure((yield* ways[name]({ cache, tls: { ca: other } }))(recorded.url()))
        assert.deepStrictEqual(offers(recorded, before), [0, 0], name)
        assert.strictEqual(yield* TicketCache.size(cache), tickets)
        yield* TicketCache.clear(cache)
      }
    }))

  test("one cache serves clients of each kind that offer the same protocols", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const recorded = yield* watched(yield* serving({ maxVersion: version }))
      const http1 = { ...tls, ALPNProtocols: ["http/1.1"] }
      for (const way of [ways.connect, ways.dispatcher, ways.agent]) {
        yield* (yield* way({ cache, tls: http1 }))(recorded.url())
      }
      assert.deepStrictEqual(offers(recorded), version === "TLSv1.3" ? [0, 1, 1] : [0, 1, 0])
      assert.lengthOf(yield* keysOf(cache), version === "TLSv1.3" ? 0 : 1)
    }))
})

describe.each(versions)("C4: a server that is not authenticated (%s)", (version) => {
  const cases = {
    // Only a full handshake reports why the certificate is refused, so each connection must make one.
    "of another name": [elsewhere, "ERR_TLS_CERT_ALTNAME_INVALID", false],
    "of a CA that is not trusted": [untrusted, "UNABLE_TO_VERIFY_LEAF_SIGNATURE", true]
  } as const
  const judged = (given: Given & Tls.ConnectionOptions, url: string) =>
    Effect.scoped(Effect.gen(function*() {
      const socket = yield* NodeTicketCache.connect({ ...given, ...addressIn(url) })
      const found = [socket.isSessionReused(), socket.authorized, String(socket.authorizationError)]
      yield* exchange(socket)
      return found
    }))

  for (const [name, [{ cert, key }, code, isResumed]] of Object.entries(cases)) {
    test(`is known for what it is each time: ${name}`, () =>
      Effect.gen(function*() {
        const cache = yield* TicketCache.make()
        const server = yield* serving({ key, cert, maxVersion: version })
        const given = { cache, ...tls, rejectUnauthorized: false }
        assert.deepStrictEqual(yield* judged(given, server.url()), [false, false, code])
        assert.deepStrictEqual(yield* judged(given, server.url()), [isResumed, false, code])
        assert.strictEqual((yield* TicketCache.stats(cache)).refused, 0)
      }))

    test(`by NODE_TLS_REJECT_UNAUTHORIZED, is refused as soon as that is unset: ${name}`, () =>
      Effect.gen(function*() {
        const cache = yield* TicketCache.make()
        const server = yield* serving({ key, cert, maxVersion: version })
        const recorded = yield* watched(server)
        const ask = yield* ways.agent({ cache, tls })
        const undici = yield* ways.dispatcher({ cache, tls })
        const unset = Effect.sync(() => {
          delete process.env["NODE_TLS_REJECT_UNAUTHORIZED"]
        })
        yield* Effect.gen(function*() {
          process.env["NODE_TLS_REJECT_UNAUTHORIZED"] = "0"
          assert.deepStrictEqual(yield* judged({ cache, ...tls }, recorded.url()), [false, false, code])
          assert.deepStrictEqual(yield* judged({ cache, ...tls }, recorded.url()), [isResumed, false, code])
          yield* times(2, ask(recorded.url()))
          yield* times(2, undici(recorded.url()))
          yield* unset
          const before = recorded.hellos.length
          const refused = yield* failing(judged({ cache, ...tls }, recorded.url()))
          assert.deepStrictEqual([refused.reason, refused.code], ["Identity", code])
          yield* failure(ask(recorded.url()))
          yield* failure(undici(recorded.url()))
          assert.deepStrictEqual(offers(recorded, before), [0, 0, 0])
          // A caller who asks for the check by an option gets it, whatever the variable says.
          process.env["NODE_TLS_REJECT_UNAUTHORIZED"] = "0"
          for (const rejectUnauthorized of [true, undefined]) {
            const given = { cache, ...tls, rejectUnauthorized } as Given
            assert.strictEqual((yield* failing(judged(given, recorded.url()))).reason, "Identity")
          }
        }).pipe(Effect.ensuring(unset))
      }))
  }
})

// -----------------------------------------------------------------------------
// undici
// -----------------------------------------------------------------------------

describe("the dispatcher", () => {
  test("sends requests to servers without TLS as usual", () =>
    Effect.gen(function*() {
      const server = yield* Effect.acquireRelease(
        Effect.promise(() =>
          new Promise<Http.Server>((resolve) => {
            const server = Http.createServer((_, response) => response.end("plain"))
            server.listen(0, "127.0.0.1", () => resolve(server))
          })
        ),
        (server) => Effect.sync(() => server.close())
      )
      const client = yield* httpClient({ tls })
      const { port } = server.address() as Net.AddressInfo
      assert.strictEqual(yield* clientGet(client, `http://127.0.0.1:${port}/`), "plain")
    }))

  test("uses HTTP/2 if it is allowed and the server supports it, and resumes such connections", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const server = yield* serving()
      const recorded = yield* watched(server)
      for (const expected of [false, true]) {
        yield* Effect.scoped(Effect.gen(function*() {
          const client = yield* httpClient({ tls, cache, undici: { allowH2: true } })
          const { alpn, reused } = seenIn(yield* clientGet(client, recorded.url(), {}))
          assert.deepStrictEqual([alpn, reused], ["h2", expected])
        }))
      }
      const { alpn, reused } = seenIn(yield* clientGet(yield* httpClient({ tls, cache }), recorded.url()))
      assert.deepStrictEqual([alpn, reused], ["http/1.1", false])
    }))

  test("keeps the tickets of each origin apart, and keeps connections alive", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const servers = [yield* serving(), yield* serving(), yield* serving()]
      const client = yield* httpClient({ tls, cache })
      for (let n = 0; n < 3; n++) {
        yield* Effect.forEach(servers, (server) => clientGet(client, server.url(), {}), { concurrency: 3 })
        // The next request must find the connection free.
        yield* Effect.sleep("5 millis")
      }
      for (const server of servers) assert.deepStrictEqual(yield* handshakes(server, 1), { full: 1, resumed: 0 })
      for (const server of servers) yield* clientGet(client, server.url())
      for (const server of servers) yield* clientGet(client, server.url())
      for (const server of servers) assert.deepStrictEqual(yield* handshakes(server, 2), { full: 1, resumed: 1 })
      assert.deepStrictEqual(
        (yield* keysOf(cache)).map(({ port }) => port).sort(),
        servers.map(({ port }) => port).sort()
      )
    }))

  test("opens no more connections than its limit", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const server = yield* serving()
      const recorded = yield* watched(server)
      const client = yield* httpClient({ cache, tls, undici: { connections: 3 } })
      for (let n = 0; n < 3; n++) yield* times(30, clientGet(client, recorded.url(), {}), 30)
      assert.lengthOf(recorded.passages, 3)
      assert.strictEqual((yield* handshakes(server, 3)).resumed, (yield* TicketCache.stats(cache)).resumed)
    }))

  test("C4: refuses options of the wrong kind from a caller without types, and ignores none of them", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const wrongs = [
        ["options", null],
        ["tls", { tls: "{}" }],
        ["undici", { undici: 5 }],
        ["partition", { partition: { user: 7 } }],
        ["partition", { partition: null }]
      ] as const
      assert.strictEqual((yield* failure(NodeTicketCache.connect(null as never))).reason, "InvalidOptions")
      for (const [option, wrong] of wrongs) {
        const options = wrong as unknown as NodeTicketCache.Options
        const error = yield* failure(httpClient(options))
        assert.deepStrictEqual([error._tag, error.option], ["InvalidOptions", option])
        if (option === "undici") continue
        const ofAgent = yield* failure(NodeTicketCache.agent(options))
        assert.deepStrictEqual([ofAgent._tag, ofAgent.option], ["InvalidOptions", option])
        if (option === "options") continue
        const ofConnect = yield* failure(NodeTicketCache.connect({ ...options, cache, host: "localhost", port: 1 }))
        assert.deepStrictEqual([ofConnect._tag, ofConnect.reason], ["TlsError", "InvalidOptions"])
      }
    }))

  test("C5: refuses what Node would refuse when TCP has connected: a timeout or a servername of the wrong kind", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      for (const wrong of [{ timeout: Infinity }, { timeout: -1 }, { servername: 5 as never }]) {
        const error = yield* failure(NodeTicketCache.connect({ ...wrong, cache, host: "localhost", port: 1 }))
        assert.deepStrictEqual([error._tag, error.reason], ["TlsError", "InvalidOptions"])
      }
    }))

  test("C5: refuses undici's `connect` and invalid TLS options, and shows no secret", () =>
    Effect.gen(function*() {
      const ownConnect = { undici: { connect: { rejectUnauthorized: false } } } as Parameters<typeof httpClient>[0]
      const error = yield* failure(httpClient(ownConnect))
      assert.deepStrictEqual([error._tag, error.option], ["InvalidOptions", "undici.connect"])
      const passphrase = secret("a passphrase that is never shown")
      const broken = secret(key).replace("MHcC", "####").replace("MIG", "####")
      for (
        const wrong of [
          { cert: "no certificate" },
          { cert, key: broken },
          { pfx: Buffer.from(passphrase), passphrase },
          { cert, key: alice.key },
          { ciphers: "none of them" },
          { minVersion: "TLSv1.7" },
          { ticketKeys: passphrase.slice(0, 20) },
          { key: 42 }
        ]
      ) {
        secret(passphrase.slice(0, 20))
        for (const name of ["dispatcher", "agent", "connect"] as const) {
          const cache = yield* TicketCache.make()
          const options = { cache, tls: wrong as Tls.ConnectionOptions }
          if (name === "connect") {
            const error = yield* failure(NodeTicketCache.connect({ ...options, host: "localhost", port: 1 }))
            assert.deepStrictEqual([error._tag, error.reason], ["TlsError", "InvalidOptions"])
          } else {
            const made: Effect.Effect<unknown, InvalidOptions, Scope.Scope> = name === "agent"
              ? NodeTicketCache.agent(options)
              : httpClient(options)
            const error = yield* failure(made)
            assert.deepStrictEqual([error._tag, error.option], ["InvalidOptions", "tls"])
          }
        }
      }
    }))
})

// -----------------------------------------------------------------------------
// node:https
// -----------------------------------------------------------------------------

describe("the agent", () => {
  test("opens no more connections than `maxSockets`, also while they are being opened", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const server = yield* serving()
      for (const limits of [{ maxSockets: 3 }, { maxTotalSockets: 3 }, { maxSockets: 3, keepAlive: true }]) {
        const recorded = yield* watched(server)
        const agent = yield* NodeTicketCache.agent({ cache, tls, ...limits })
        yield* recorded.inject({ _tag: "BlackHole" })
        const headers = limits.keepAlive === true ? {} : { connection: "close" }
        const get = httpsGet(recorded.url(), { agent, headers })
        const fibers = yield* Effect.forEach(Array.from({ length: 40 }), () => Effect.fork(get))
        yield* eventually(() => recorded.hellos.length === 3)
        assert.strictEqual(Object.values(agent.sockets).flat().length, 3)
        yield* recorded.heal
        // The requests that are held up make room, and the others get their turn.
        yield* Fiber.interruptAll(fibers.slice(0, 3))
        yield* Effect.forEach(fibers.slice(3), Fiber.join)
        assert.lengthOf(recorded.passages, 3 + (limits.keepAlive === true ? 3 : 37))
        assert.deepStrictEqual(Object.keys(agent.requests), [])
      }
    }))

  test("reuses a connection that is kept alive", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const server = yield* serving()
      const agent = yield* NodeTicketCache.agent({ cache, tls, keepAlive: true })
      yield* times(5, httpsGet(server.url(), { agent, headers: {} }))
      assert.deepStrictEqual(yield* handshakes(server, 1), { full: 1, resumed: 0 })
      // This side notices the close a moment after the server has closed the connection.
      yield* server.closeConnections
      yield* eventually(() => Object.keys(agent.freeSockets).length === 0)
      yield* times(5, httpsGet(server.url(), { agent, headers: {} }))
      assert.deepStrictEqual(yield* handshakes(server, 2), { full: 1, resumed: 1 })
    }))

  test("takes the TLS options of a request, too", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const server = yield* serving({ requestCert: true, rejectUnauthorized: false, ca: alice.ca })
      const recorded = yield* watched(server)
      const agent = yield* NodeTicketCache.agent({ cache })
      const as = (options: RequestOptions) =>
        Effect.map(httpsGet(recorded.url(), { agent, ...options }), (body) => seenIn(body).client)
      const identity = { ca, key: secret(alice.key), cert: alice.cert }
      assert.deepStrictEqual([yield* as(identity), yield* as({ ca }), yield* as(identity)], ["alice", null, "alice"])
      assert.deepStrictEqual(offers(recorded), [0, 0, 1])
      const other = yield* failure(as({ ca: untrusted.ca }))
      assert.strictEqual(other.code, "UNABLE_TO_VERIFY_LEAF_SIGNATURE")
      const named = yield* failure(as({ ca, servername: "elsewhere.test" }))
      assert.strictEqual(named.code, "ERR_TLS_CERT_ALTNAME_INVALID")
      assert.deepStrictEqual(offers(recorded, 3), [0, 0])
      assert.strictEqual(recorded.hellos.at(-1)!.servername, "elsewhere.test")
    }))
})

// -----------------------------------------------------------------------------
// one connection
// -----------------------------------------------------------------------------

describe("connect", () => {
  test("ends the connection with the scope", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const recorded = yield* watched(yield* serving())
      const socket = yield* Effect.scoped(NodeTicketCache.connect({ cache, tls, ...addressIn(recorded.url()) }))
      assert.isTrue(socket.destroyed)
      yield* eventually(() => recorded.passages.every(({ isOpen }) => !isOpen))
    }))

  test("uses a given socket, and resumes over another one", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const recorded = yield* watched(yield* serving())
      for (const isConnected of [false, true, true]) {
        const socket = Net.connect(recorded.port, "127.0.0.1")
        if (isConnected) yield* Effect.promise(() => new Promise((resolve) => socket.once("connect", resolve)))
        yield* Effect.scoped(
          Effect.flatMap(NodeTicketCache.connect({ cache, tls, host: "localhost", port: 443, socket }), exchange)
        )
      }
      assert.deepStrictEqual(offers(recorded), [0, 1, 1])
      yield* eventually(() => recorded.passages.every(({ isOpen }) => !isOpen))
    }))

  test("treats options inside and outside `tls` alike", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const recorded = yield* watched(yield* serving())
      yield* connecting({ cache, tls })(recorded.url())
      yield* connecting({ cache, ...tls })(recorded.url())
      assert.deepStrictEqual(offers(recorded), [0, 1])
    }))
})

// -----------------------------------------------------------------------------
// what it costs
// -----------------------------------------------------------------------------

describe("of many connections", () => {
  test("C6: the metrics are those of the cache", () =>
    Effect.gen(function*() {
      const count = (name: string) => sumOf(`holdfast_tickets_${name}_total`, {})
      const counts = Effect.sync(() => ["offered", "resumed", "refused", "expired", "dropped"].map(count))
      const before = yield* counts
      const cache = yield* TicketCache.make({ ticketsPerServer: 20 })
      const server = yield* serving()
      const ask = yield* ways.agent({ cache, tls })
      yield* times(20, ask(server.url()), 20)
      yield* server.rotateTicketKeys()
      yield* times(3, times(20, ask(server.url()), 20))
      const { dropped, expired, offered, refused, resumed, tickets } = yield* TicketCache.stats(cache)
      assert.deepStrictEqual(
        (yield* counts).map((now, i) => now - before[i]!),
        [offered, resumed, refused, expired, dropped]
      )
      const counted = yield* handshakes(server, 80)
      assert.deepStrictEqual([offered, counted.resumed], [resumed + refused, resumed])
      assert.isAbove(refused, 0)
      assert.strictEqual(counted.full * 2, offered + expired + dropped + tickets)
    }))

  for (const [name, way] of Object.entries({ connect: ways.connect, agent: ways.agent, dispatcher: ways.dispatcher })) {
    test(`nothing remains, and one context serves them all (${name})`, () =>
      Effect.gen(function*() {
        const count = form === "quick" ? 50 : 500
        const cache = yield* TicketCache.make()
        const server = yield* serving()
        const sockets = () => (resources()["TLSSocketWrap"] ?? 0) + (resources()["TCPSocketWrap"] ?? 0)
        const others = sockets()
        const found = yield* Effect.scoped(Effect.gen(function*() {
          const ask = yield* way({ cache, tls })
          yield* times(form === "quick" ? 100 : 200, ask(server.url()), 50)
          yield* server.closeConnections
          const before = { memory: yield* memory, resources: resources() }
          yield* times(count, ask(server.url()), 50)
          yield* times(count, ask(server.url()))
          yield* server.closeConnections
          yield* eventually(() => sockets() <= others)
          return { before, after: { memory: yield* memory, resources: resources() } }
        }))
        const { after, before } = found
        assert.deepStrictEqual(after.resources, before.resources)
        print(`${2 * count} connections (${name}): ${((after.memory - before.memory) / mebi).toFixed(2)} MiB more`)
        assert.isBelow(after.memory - before.memory, mebi)
      }))
  }
})
