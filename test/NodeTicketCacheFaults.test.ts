import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import { assert, describe } from "@effect/vitest"
import { NodeTicketCache } from "effect-holdfast/node"
import * as TicketCache from "effect-holdfast/TicketCache"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Scheduler from "effect/Scheduler"
import * as Scope from "effect/Scope"
import { once } from "node:events"
import * as Https from "node:https"
import * as Net from "node:net"
import type * as Tls from "node:tls"
import { createServer as createTlsServer } from "node:tls"
import { authority, clientCertificate, serverCertificate } from "../examples/certificates.js"
import { CodedError } from "./support/codedError.js"
import {
  addressIn,
  ahead,
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
  offers,
  reasonBy,
  secret,
  serving,
  test,
  versions,
  watched,
  ways
} from "./support/tlsClients.js"
import { blackHole, type Fault, opensslServer } from "./support/tlsServers.js"
import { openssl } from "./support/tools.js"
import { eventually } from "./support/webSocketServer.js"

const { ca, cert, key } = await serverCertificate()
const elsewhere = await serverCertificate({ names: ["elsewhere.test"] })
const expired = await serverCertificate({ seconds: -60 })
const untrusted = await serverCertificate({ issuer: await authority("untrusted") })
const alice = await clientCertificate("alice", { issuer: await authority("clients") })
const tls: Tls.ConnectionOptions = { ca }

interface Kept {
  readonly key: TicketCache.ServerKey
  /** Oldest first. */
  readonly tickets: ReadonlyArray<TicketCache.Ticket>
}

const takeAll = (cache: TicketCache.TicketCache): Effect.Effect<ReadonlyArray<Kept>> =>
  Effect.flatMap(keysOf(cache), (keys) =>
    Effect.forEach(keys, (key) =>
      Effect.gen(function*() {
        const tickets: Array<TicketCache.Ticket> = []
        for (
          let next = yield* TicketCache.take(cache, key);
          Option.isSome(next);
          next = yield* TicketCache.take(cache, key)
        ) {
          tickets.unshift(next.value)
        }
        return { key, tickets }
      })))

const putAll = (
  cache: TicketCache.TicketCache,
  all: ReadonlyArray<Kept>,
  change: Partial<TicketCache.ServerKey> = {}
) =>
  Effect.forEach(
    all.flatMap(({ key, tickets }) => tickets.map((ticket) => TicketCache.put(cache, { ...key, ...change }, ticket))),
    (put) => put,
    { discard: true }
  )

/** Moves all tickets to the key of another server, or of another client. */
const moved = (cache: TicketCache.TicketCache, change: Partial<TicketCache.ServerKey>) =>
  Effect.flatMap(takeAll(cache), (all) => putAll(cache, all, change))

/** Gets all tickets of this number of full handshakes. */
const filled = (cache: TicketCache.TicketCache, ask: Effect.Effect<unknown, unknown>, handshakes = 2) =>
  Effect.gen(function*() {
    const all: Array<Kept> = []
    for (let n = 0; n < handshakes; n++) {
      yield* ask
      all.push(...(yield* takeAll(cache)))
    }
    yield* putAll(cache, all)
    return yield* TicketCache.stats(cache)
  })

const clients = Object.entries(ways)

// -----------------------------------------------------------------------------
// servers that are not reached
// -----------------------------------------------------------------------------

describe("C1: a server that is not reached is offered no ticket", () => {
  for (const [name, way] of clients) {
    test(`by ${name}: if the server refuses, or does not answer`, () =>
      Effect.gen(function*() {
        const cache = yield* TicketCache.make()
        const recorded = yield* watched(yield* serving())
        const ask = yield* way({ cache, tls })
        assert.strictEqual((yield* filled(cache, ask(recorded.url()))).tickets, 4)
        yield* recorded.inject({ _tag: "Refuse" })
        for (let n = 0; n < 3; n++) {
          const error = yield* failing(ask(recorded.url()))
          assert.deepStrictEqual([error.reason, error.code, error.port], [
            reasonBy(name, "Connect"),
            "ECONNREFUSED",
            recorded.port
          ])
        }
        assert.strictEqual(yield* TicketCache.size(cache), 4)

        const port = yield* blackHole
        yield* moved(cache, { port })
        const { offered } = yield* TicketCache.stats(cache)
        const impatient = yield* way({ cache, tls, connectTimeout: "50 millis" })
        const error = yield* failing(impatient(`https://localhost:${port}/`))
        assert.deepStrictEqual([error.reason, error.code], ["Timeout", "ETIMEDOUT"])
        const interrupted = yield* Effect.timeoutOption(ask(`https://localhost:${port}/`), "50 millis")
        assert.isTrue(Option.isNone(interrupted))
        const stats = yield* TicketCache.stats(cache)
        assert.deepStrictEqual([stats.tickets, stats.offered], [4, offered])

        yield* recorded.heal
        yield* moved(cache, { port: recorded.port })
        const before = recorded.hellos.length
        yield* ask(recorded.url())
        assert.deepStrictEqual(offers(recorded, before), [1])
      }))
  }
})

// -----------------------------------------------------------------------------
// hosts with several addresses
// -----------------------------------------------------------------------------

describe.each(versions)("C10: a host whose first address refuses (%s)", (version) => {
  for (const [name, way] of clients) {
    test(`by ${name}: gives tickets, and resumes, like any other host`, () =>
      Effect.gen(function*() {
        const cache = yield* TicketCache.make()
        const recorded = yield* watched(yield* serving({ maxVersion: version }))
        for (const first of ["127.0.0.2", "::1"]) {
          const lookup: Net.LookupFunction = (_, __, callback) =>
            callback(null, [first, "127.0.0.1"].map((address) => ({ address, family: Net.isIP(address) })))
          const before = recorded.hellos.length
          const ask = yield* way({ cache, tls: { ...tls, lookup } })
          for (let n = 0; n < 2; n++) yield* ask(recorded.url())
          assert.deepStrictEqual(offers(recorded, before), [0, 1])
          assert.deepStrictEqual([...new Set(recorded.hellos.map(({ servername }) => servername))], ["localhost"])
          yield* TicketCache.clear(cache)
        }
        const { refused, resumed } = yield* TicketCache.stats(cache)
        assert.deepStrictEqual([refused, resumed], [0, 2])
      }))
  }

  test("has Node's settings, and its address", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const recorded = yield* watched(yield* serving({ maxVersion: version }))
      const lookup: Net.LookupFunction = (_, __, callback) =>
        callback(null, ["127.0.0.2", "127.0.0.1"].map((address) => ({ address, family: 4 })))
      for (const isResumed of [false, true]) {
        const set: Array<unknown> = []
        const { setKeepAlive, setNoDelay } = Net.Socket.prototype
        Net.Socket.prototype.setNoDelay = function(...args) {
          set.push(["noDelay", ...args])
          return setNoDelay.apply(this, args)
        }
        Net.Socket.prototype.setKeepAlive = function(...args) {
          set.push(["keepAlive", ...args])
          return setKeepAlive.apply(this, args)
        }
        const given = { noDelay: true, keepAlive: true, keepAliveInitialDelay: 5_000, timeout: 30_000, lookup }
        const socket = yield* NodeTicketCache.connect({
          cache,
          tls: { ...tls, ...given },
          ...addressIn(recorded.url())
        }).pipe(
          Effect.ensuring(Effect.sync(() => Object.assign(Net.Socket.prototype, { setKeepAlive, setNoDelay })))
        )
        assert.strictEqual(socket.isSessionReused(), isResumed)
        assert.deepStrictEqual(set, [["noDelay", true], ["keepAlive", true, 5_000]])
        assert.deepStrictEqual(
          [socket.remoteAddress, socket.remotePort, socket.localAddress, socket.timeout],
          ["127.0.0.1", recorded.port, "127.0.0.1", 30_000]
        )
        yield* exchange(socket)
      }
    }))
})

describe("C10: a load balancer whose servers share no keys", () => {
  test("keeps the other server's tickets when one server refuses", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const [one, other] = [yield* serving(), yield* serving()]
      let next = one.port
      const balancer = yield* Effect.acquireRelease(
        Effect.promise(async () => {
          const server = Net.createServer((from) => {
            const to = Net.connect(next, "127.0.0.1")
            from.pipe(to).once("close", () => from.destroy())
            to.pipe(from).once("close", () => to.destroy())
          }).listen(0, "127.0.0.1")
          await once(server, "listening")
          return server
        }),
        (server) => Effect.sync(() => server.close())
      )
      const { port } = balancer.address() as Net.AddressInfo
      const recorded = yield* watched({ port })
      const ask = connecting({ cache, tls })
      const by = (port: number) =>
        Effect.suspend(() => {
          next = port
          return ask(recorded.url())
        })
      yield* filled(cache, by(one.port), 2)
      const ofOne = yield* takeAll(cache)
      yield* filled(cache, by(other.port), 2)
      const ofOther = yield* takeAll(cache)
      yield* putAll(cache, [...ofOne, ...ofOther])
      const before = yield* TicketCache.stats(cache)
      assert.strictEqual(before.tickets, 8)
      // The newest ticket is the other server's: all tickets of its key are dropped, and the first server gives two new
      // ones.
      yield* by(one.port)
      const after = yield* TicketCache.stats(cache)
      assert.deepStrictEqual([after.refused, after.dropped, after.tickets], [1, 3, 6])
      for (let n = 0; n < 6; n++) yield* by(one.port)
      assert.strictEqual((yield* TicketCache.stats(cache)).resumed, before.resumed + 6)
    }))
})

// -----------------------------------------------------------------------------
// handshakes that do not end
// -----------------------------------------------------------------------------

describe("a handshake that does not end", () => {
  for (const [name, way] of clients) {
    const open = (given: Partial<Given> = {}) =>
      Effect.gen(function*() {
        const cache = yield* TicketCache.make()
        const recorded = yield* watched(yield* serving())
        const scope = yield* Effect.acquireRelease(Scope.make(), (scope) => Scope.close(scope, Exit.void))
        const ask = yield* Scope.extend(way({ cache, tls, ...given }), scope)
        const before = yield* filled(cache, ask(recorded.url()))
        yield* recorded.inject({ _tag: "BlackHole" })
        /** The outcome of the tickets since then. */
        const counts = Effect.map(TicketCache.stats(cache), ({ offered, refused, resumed, tickets }) => ({
          offered: offered - before.offered,
          refused,
          resumed,
          left: tickets - before.tickets
        }))
        return { ask, counts, recorded, scope }
      })

    test(`C1: by ${name}: ends when it is interrupted, with its socket and its ticket`, () =>
      Effect.gen(function*() {
        const { ask, counts, recorded } = yield* open()
        const fiber = yield* Effect.fork(ask(recorded.url()))
        yield* eventually(() => recorded.hellos.length === 3)
        yield* Fiber.interrupt(fiber)
        // A connection does not belong to one request of undici: it waits for the next request, within the connection's
        // time limit.
        if (name !== "dispatcher") yield* eventually(() => recorded.passages.every(({ isOpen }) => !isOpen))
        assert.deepStrictEqual(yield* counts, { offered: 1, refused: 0, resumed: 0, left: -1 })
      }))

    test(`C9: by ${name}: takes no longer than \`connectTimeout\``, () =>
      Effect.gen(function*() {
        const { ask, counts, recorded } = yield* open({ connectTimeout: "300 millis" })
        const error = yield* failing(ask(recorded.url()))
        assert.deepStrictEqual([error.reason, error.code], ["Timeout", "ETIMEDOUT"])
        yield* eventually(() => recorded.passages.every(({ isOpen }) => !isOpen))
        assert.deepStrictEqual(yield* counts, { offered: 1, refused: 0, resumed: 0, left: -1 })
        assert.lengthOf(recorded.hellos, 3)
      }))

    test(`by ${name}: fails its waiter when the scope closes`, () =>
      Effect.gen(function*() {
        const { ask, counts, recorded, scope } = yield* open()
        const fibers = yield* Effect.forEach([1, 2, 3], () => Effect.fork(ask(recorded.url())))
        yield* eventually(() => recorded.hellos.length === 5)
        if (name === "connect" || name === "http2") {
          // The connection's scope is the caller's.
          yield* Fiber.interruptAll(fibers)
        } else {
          yield* Scope.close(scope, Exit.void)
          for (const fiber of fibers) yield* failure(Fiber.join(fiber))
          const late = ask(recorded.url())
          if (name === "agent") assert.strictEqual((yield* failing(late)).reason, "Closed")
          else yield* failure(late)
        }
        yield* eventually(() => recorded.passages.every(({ isOpen }) => !isOpen))
        assert.deepStrictEqual(yield* counts, { offered: 3, refused: 0, resumed: 0, left: -3 })
        assert.lengthOf(recorded.hellos, 5)
      }))
  }
})

// -----------------------------------------------------------------------------
// tickets that are refused
// -----------------------------------------------------------------------------

describe.each(versions)("C3: a ticket that is refused (%s)", (version) => {
  for (const [name, way] of clients) {
    test(`by ${name}: is no error, and drops older tickets, when the server's keys are new`, () =>
      Effect.gen(function*() {
        const cache = yield* TicketCache.make()
        const server = yield* serving({ maxVersion: version })
        const recorded = yield* watched(server)
        const ask = yield* way({ cache, tls })
        const before = yield* filled(cache, ask(recorded.url()), 8)
        assert.strictEqual(before.tickets, version === "TLSv1.3" ? 16 : 8)
        yield* server.rotateTicketKeys()
        for (let n = 0; n < 3; n++) yield* ask(recorded.url())
        assert.deepStrictEqual(offers(recorded, 8), version === "TLSv1.3" ? [1, 1, 1] : [1, 1, 0])
        const { dropped, offered, refused, resumed } = yield* TicketCache.stats(cache)
        const again = version === "TLSv1.3" ? 2 : 1
        assert.deepStrictEqual({ dropped, offered: offered - before.offered, refused, resumed }, {
          dropped: before.tickets - 1,
          offered: 1 + again,
          refused: 1,
          resumed: again
        })
        assert.deepStrictEqual(yield* handshakes(server, 11), { full: 11 - again, resumed: again })
      }))

    test(`by ${name}: leads to one attempt without it, when the handshake fails because of it`, () =>
      Effect.gen(function*() {
        const cache = yield* TicketCache.make()
        const recorded = yield* watched(yield* serving({ maxVersion: version }))
        const ask = yield* way({ cache, tls })
        for (const part of version === "TLSv1.3" ? ["identity", "binder"] as const : ["identity"] as const) {
          yield* TicketCache.clear(cache)
          yield* ask(recorded.url())
          const before = recorded.hellos.length
          yield* recorded.inject({ _tag: "Corrupt", part, byte: 20 })
          yield* ask(recorded.url())
          assert.deepStrictEqual(offers(recorded, before), [1, 0])
          yield* recorded.heal
        }
        const { offered, refused, resumed } = yield* TicketCache.stats(cache)
        assert.deepStrictEqual([offered - refused, resumed], [0, 0])
      }))

    test(`by ${name}: is an error after one more attempt, when the handshake fails each time`, () =>
      Effect.gen(function*() {
        const cache = yield* TicketCache.make()
        const recorded = yield* watched(yield* serving({ maxVersion: version }))
        const ask = yield* way({ cache, tls })
        for (const by of ["reset", "end"] as const) {
          yield* ask(recorded.url())
          const before = recorded.hellos.length
          yield* recorded.inject({ _tag: "CutAfterHello", by })
          const error = yield* failing(ask(recorded.url()))
          assert.deepStrictEqual([error.reason, error.code], [reasonBy(name, "Handshake"), "ECONNRESET"])
          assert.deepStrictEqual(offers(recorded, before), [1, 0])
          // Without a ticket there is no second attempt.
          yield* TicketCache.clear(cache)
          yield* failing(ask(recorded.url()))
          assert.deepStrictEqual(offers(recorded, before), [1, 0, 0])
          yield* recorded.heal
        }
        yield* eventually(() => recorded.passages.every(({ isOpen }) => !isOpen))
      }))
  }

  test("is no error if the stored blob is damaged, at any place", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const server = yield* serving({ maxVersion: version })
      const ask = connecting({ cache, tls })
      yield* ask(server.url())
      const [key] = yield* keysOf(cache)
      const { session, ...times } = Option.getOrThrow(yield* TicketCache.take(cache, key!))
      const asked = 40
      for (let n = 0; n < asked; n++) {
        yield* TicketCache.clear(cache)
        const damaged = new Uint8Array(session)
        damaged[Math.floor(n / asked * session.length)]! ^= 0x55
        yield* TicketCache.put(cache, key!, { ...times, session: damaged })
        yield* ask(server.url())
      }
      for (const nonsense of [new Uint8Array(100), session.slice(0, 40), Buffer.from("no session at all")]) {
        yield* TicketCache.clear(cache)
        yield* TicketCache.put(cache, key!, { ...times, session: nonsense })
        yield* ask(server.url())
      }
      const { offered, refused, resumed } = yield* TicketCache.stats(cache)
      // The other blobs were recognised as damaged, and not offered.
      assert.isAtLeast(offered, 1 + resumed + refused)
      assert.isAbove(refused, 5)
    }))
})

// -----------------------------------------------------------------------------
// servers whose identity has changed
// -----------------------------------------------------------------------------

describe.each(versions)("C4: a server with another identity (%s)", (version) => {
  for (const [name, way] of clients) {
    test(`by ${name}: is refused, after one handshake, and its tickets are dropped`, () =>
      Effect.gen(function*() {
        const cache = yield* TicketCache.make()
        const server = yield* serving({ maxVersion: version })
        const recorded = yield* watched(server)
        const ask = yield* way({ cache, tls })
        yield* ask(recorded.url())
        yield* server.swap(elsewhere)
        const error = yield* failing(ask(recorded.url()))
        assert.deepStrictEqual([error.reason, error.code], [reasonBy(name, "Identity"), "ERR_TLS_CERT_ALTNAME_INVALID"])
        assert.deepStrictEqual(offers(recorded), [0, 1])
        assert.strictEqual(yield* TicketCache.size(cache), 0)
        yield* failing(ask(recorded.url()))
        assert.deepStrictEqual(offers(recorded), [0, 1, 0])
        yield* server.swap({ key, cert })
        yield* ask(recorded.url())
      }))
  }

  for (
    const [what, other, code] of [
      ["another name", elsewhere, "ERR_TLS_CERT_ALTNAME_INVALID"],
      ["a certificate that has expired", expired, "CERT_HAS_EXPIRED"]
    ] as const
  ) {
    test(`a ticket of ${what} is not offered, and the server is checked in a full handshake`, () =>
      Effect.gen(function*() {
        const cache = yield* TicketCache.make()
        const server = yield* serving({ maxVersion: version })
        const recorded = yield* watched(server)
        // The tickets are valid at this server, however they came into the cache.
        const lenient = { cache, tls: { ...tls, rejectUnauthorized: false } }
        yield* connecting({ cache, tls })(recorded.url())
        const [strict] = yield* keysOf(cache)
        yield* TicketCache.clear(cache)
        const lay = Effect.gen(function*() {
          yield* server.swap(other, { keepsTicketKeys: true })
          yield* connecting(lenient)(recorded.url())
          yield* moved(cache, { identity: strict!.identity })
          assert.isAbove(yield* TicketCache.size(cache), 0)
        })
        for (const [name, way] of clients) {
          const ask = yield* way({ cache, tls })
          yield* lay
          if (name === "http2") yield* moved(cache, { alpn: ["h2"] })
          if (name === "dispatcher") yield* moved(cache, { alpn: ["http/1.1"] })
          let before = recorded.hellos.length
          const { refused } = yield* TicketCache.stats(cache)
          const error = yield* failing(ask(recorded.url()))
          assert.deepStrictEqual([error.reason, error.code], [reasonBy(name, "Identity"), code])
          assert.deepStrictEqual(offers(recorded, before), [0])
          yield* server.swap({ key, cert }, { keepsTicketKeys: true })
          before = recorded.hellos.length
          yield* ask(recorded.url())
          assert.deepStrictEqual(offers(recorded, before), [0], name)
          assert.isAtMost((yield* TicketCache.stats(cache)).refused - refused, 2)
          yield* TicketCache.clear(cache)
        }
      }))
  }

  test("a `checkServerIdentity` that now refuses is respected even if there is a ticket", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const recorded = yield* watched(yield* serving({ maxVersion: version }))
      let thinks: Error | undefined
      const asked: Array<string> = []
      const checkServerIdentity = (host: string) => {
        asked.push(host)
        return thinks
      }
      for (const [name, way] of clients) {
        const before = recorded.hellos.length
        thinks = undefined
        const ask = yield* way({ cache, tls: { ...tls, checkServerIdentity } })
        yield* ask(recorded.url())
        thinks = Object.assign(new Error("not any more"), { code: "MINE" })
        const error = yield* failing(ask(recorded.url()))
        assert.deepStrictEqual(
          [error.reason, error.code, error.cause],
          [reasonBy(name, "Identity"), "MINE", thinks],
          name
        )
        assert.deepStrictEqual(offers(recorded, before), [0, 0])
        yield* TicketCache.clear(cache)
      }
      assert.deepStrictEqual([...new Set(asked)], ["localhost"])
    }))

  test("a `checkServerIdentity` that throws refuses", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const recorded = yield* watched(yield* serving({ maxVersion: version }))
      let throws = true
      const checkServerIdentity = () => {
        if (throws) throw new Error("thrown")
        return undefined
      }
      const ask = connecting({ cache, ...tls, checkServerIdentity })
      assert.strictEqual((yield* failing(ask(recorded.url()))).reason, "Identity")
      throws = false
      yield* ask(recorded.url())
      throws = true
      assert.strictEqual((yield* failing(ask(recorded.url()))).reason, "Identity")
      assert.deepStrictEqual(offers(recorded), [0, 0, 0])
    }))

  test("a CA that is not trusted is refused immediately, even if there are tickets", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const server = yield* serving({ maxVersion: version })
      const recorded = yield* watched(server)
      for (const [name, way] of clients) {
        const before = recorded.hellos.length
        const ask = yield* way({ cache, tls })
        yield* ask(recorded.url())
        yield* server.swap(untrusted)
        const error = yield* failing(ask(recorded.url()))
        assert.deepStrictEqual([error.reason, error.code], [
          reasonBy(name, "Identity"),
          "UNABLE_TO_VERIFY_LEAF_SIGNATURE"
        ], name)
        assert.deepStrictEqual(offers(recorded, before), [0, 1], name)
        assert.strictEqual(yield* TicketCache.size(cache), 0)
        yield* server.swap({ key, cert })
      }
    }))

  test("a server that requires a missing client certificate reports this", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const server = yield* serving({ maxVersion: version, requestCert: true, rejectUnauthorized: true, ca: alice.ca })
      const recorded = yield* watched(server)
      const identity = { key: secret(alice.key), cert: alice.cert }
      yield* connecting({ cache, ...tls, ...identity })(recorded.url())
      yield* connecting({ cache, ...tls, ...identity })(recorded.url())
      const error = yield* failure(connecting({ cache, ...tls })(recorded.url()))
      // In TLS 1.3 the client is done before the server asks.
      assert.match(String((error as { readonly code?: unknown }).code), /^(ERR_SSL|ECONNRESET|EPIPE)/)
      assert.deepStrictEqual(offers(recorded), [0, 1, 0])
    }))
})

// -----------------------------------------------------------------------------
// time
// -----------------------------------------------------------------------------

describe.each(versions)("C2: a ticket that has expired (%s)", (version) => {
  test("is not offered, by its server's limit or by the cache's", () =>
    Effect.gen(function*() {
      const server = yield* serving({ maxVersion: version, sessionTimeout: 100 })
      const recorded = yield* watched(server)
      for (const [name, way] of clients) {
        for (
          const [maxLifetime, passes, expected] of [
            ["7 days", 95_000, 1],
            ["7 days", 101_000, 0],
            ["40 seconds", 35_000, 1],
            ["40 seconds", 41_000, 0]
          ] as const
        ) {
          const cache = yield* TicketCache.make({ maxLifetime })
          yield* (yield* way({ cache, tls }))(recorded.url())
          const { tickets } = yield* TicketCache.stats(cache)
          const before = recorded.hellos.length
          yield* Effect.flatMap(way({ cache, tls }), (ask) => ask(recorded.url())).pipe(ahead(passes))
          assert.deepStrictEqual(offers(recorded, before), [expected], `${name} ${maxLifetime} ${passes}`)
          assert.strictEqual((yield* TicketCache.stats(cache)).expired, expected === 1 ? 0 : tickets)
        }
      }
    }))

  test("is not offered either if its certificate has expired, even if its server would accept it", () =>
    Effect.gen(function*() {
      const own = yield* Effect.promise(() => serverCertificate({ seconds: 3_000 }))
      const server = yield* serving({ ...own, maxVersion: version, sessionTimeout: 7_000 })
      const recorded = yield* watched(server)
      for (const [name, way] of clients) {
        const cache = yield* TicketCache.make()
        const before = recorded.hellos.length
        for (const passes of [0, 2_900_000, 3_001_000]) {
          yield* TicketCache.clear(cache)
          yield* (yield* way({ cache, tls }))(recorded.url())
          yield* Effect.flatMap(way({ cache, tls }), (ask) => ask(recorded.url())).pipe(ahead(passes))
        }
        assert.deepStrictEqual(offers(recorded, before), [0, 1, 0, 1, 0, 0], name)
        assert.strictEqual((yield* TicketCache.stats(cache)).expired, 0)
      }
    }))
})

// -----------------------------------------------------------------------------
// node:https
// -----------------------------------------------------------------------------

describe("the agent", () => {
  const get = (url: string, agent: Https.Agent, options: Https.RequestOptions = {}) =>
    httpsGet(url, { agent, ...options })

  for (const limits of [{ maxSockets: 1 }, { maxSockets: 3 }, { maxTotalSockets: 2 }]) {
    test(`goes on with waiting requests when connections fail (${JSON.stringify(limits)})`, () =>
      Effect.gen(function*() {
        const cache = yield* TicketCache.make()
        const recorded = yield* watched(yield* serving())
        const agent = yield* NodeTicketCache.agent({ cache, tls, ...limits })
        const ask = Effect.all(Array.from({ length: 12 }, () => Effect.either(get(recorded.url(), agent))), {
          concurrency: 12
        })
        const lefts = Effect.map(ask, (all) => all.filter(({ _tag }) => _tag === "Left").length)
        yield* recorded.inject({ _tag: "Refuse" })
        assert.strictEqual(yield* lefts, 12)
        assert.lengthOf(recorded.passages, 0)
        yield* recorded.inject({ _tag: "CutAfterHello" })
        assert.strictEqual(yield* lefts, 12)
        assert.lengthOf(recorded.passages, 12)
        yield* recorded.inject({ _tag: "CutAfterHello" }, 5)
        assert.strictEqual(yield* lefts, 5)
        yield* recorded.heal
        assert.strictEqual(yield* lefts, 0)
        yield* eventually(() => recorded.passages.every(({ isOpen }) => !isOpen))
        // No connection is opened without a waiting request.
        yield* Effect.sleep("50 millis")
        assert.lengthOf(recorded.passages, 12 + 12 + 12)
        assert.deepStrictEqual([Object.keys(agent.requests), Object.keys(agent.sockets)], [[], []])
        assert.strictEqual((agent as unknown as { readonly totalSocketCount: number }).totalSocketCount, 0)
      }))
  }

  for (const isKept of [false, true]) {
    test(`C9: fails like Node's own, ${isKept ? "with a ticket" : "without tickets"}`, () =>
      Effect.gen(function*() {
        const cache = yield* TicketCache.make()
        const recorded = yield* watched(yield* serving())
        const ours = yield* NodeTicketCache.agent({ cache })
        const nodes = new Https.Agent({ maxCachedSessions: 0 })
        const lookup: Net.LookupFunction = (host, _, callback) =>
          process.nextTick(callback, new CodedError("ENOTFOUND", `no ${host}`), "", 4)
        const cases: ReadonlyArray<readonly [code: string, fault: Fault | undefined, options: Https.RequestOptions]> = [
          ["ENOTFOUND", undefined, { lookup }],
          ["ECONNREFUSED", { _tag: "Refuse" }, {}],
          ["ECONNRESET", { _tag: "CutAfterHello" }, {}],
          ["ECONNRESET", { _tag: "CutAfterHello", by: "end" }, {}],
          ["ECONNRESET", { _tag: "CutAfter", bytes: 50, by: "end" }, {}],
          ["ERR_TLS_CERT_ALTNAME_INVALID", undefined, { servername: "else.test" }],
          ["UNABLE_TO_VERIFY_LEAF_SIGNATURE", undefined, { ca: untrusted.ca }],
          ["EPROTO", undefined, {
            minVersion: "TLSv1.1",
            maxVersion: "TLSv1.1",
            ciphers: "DEFAULT:@SECLEVEL=0"
          }]
        ]
        for (const [code, fault, options] of cases) {
          yield* recorded.heal
          if (isKept) yield* get(recorded.url(), ours, { ca })
          if (fault !== undefined) yield* recorded.inject(fault)
          const [expected, found] = yield* Effect.forEach([nodes, ours], (agent) =>
            Effect.map(failure(get(recorded.url(), agent, { ca, ...options })), (error) => {
              const { code, host, message, name, port, syscall } = error as
                & NodeJS.ErrnoException
                & Record<string, unknown>
              return { code, host, message, name, port, syscall }
            }))
          assert.strictEqual(expected!.code, code)
          assert.deepStrictEqual(found, expected)
        }
      }))
  }

  test("C5: refuses invalid options without showing a secret", () =>
    Effect.gen(function*() {
      const agent = yield* NodeTicketCache.agent({ tls })
      const wrong = { ca: "no certificate", cert: "none", key: secret("none of your business") }
      for (const options of [wrong, { port: 70_000 }]) {
        const error = yield* failing(get("https://localhost/", agent, options))
        assert.strictEqual(error.reason, "InvalidOptions")
        assert.match(error.code!, /^ERR_/)
      }
      assert.deepStrictEqual(Object.keys(agent.sockets), [])
    }))

  for (const how of ["destroy", "signal"] as const) {
    test(`C9: gives up the handshake and the place of a request that is destroyed (${how})`, () =>
      Effect.gen(function*() {
        const cache = yield* TicketCache.make()
        const recorded = yield* watched(yield* serving())
        const agent = yield* NodeTicketCache.agent({ cache, tls, maxSockets: 1 })
        yield* get(recorded.url(), agent)
        const tickets = yield* TicketCache.size(cache)
        yield* recorded.inject({ _tag: "BlackHole" }, 1)
        const controller = new AbortController()
        const request = Https.get(recorded.url(), { agent, signal: controller.signal })
        const over = new Promise<NodeJS.ErrnoException>((resolve) => request.once("error", resolve))
        const closed = new Promise((resolve) => request.once("close", resolve))
        yield* eventually(() => recorded.hellos.length === 2)
        const next = yield* Effect.fork(get(recorded.url(), agent))
        yield* Effect.yieldNow()
        if (how === "destroy") request.destroy()
        else controller.abort()
        const error = yield* Effect.promise(() => over)
        assert.strictEqual(error.code, how === "destroy" ? "ECONNRESET" : "ABORT_ERR")
        yield* Effect.promise(() => closed)
        yield* Fiber.join(next)
        yield* eventually(() => recorded.passages.every(({ isOpen }) => !isOpen))
        const stats = yield* TicketCache.stats(cache)
        assert.deepStrictEqual([stats.offered, stats.resumed, stats.tickets], [2, 1, tickets - 2])
      }))
  }

  test("ends handshakes in flight when it is destroyed", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const recorded = yield* watched(yield* serving())
      const agent = yield* NodeTicketCache.agent({ cache, tls })
      yield* recorded.inject({ _tag: "BlackHole" })
      const fibers = yield* Effect.forEach([1, 2, 3], () => Effect.fork(get(recorded.url(), agent)))
      yield* eventually(() => recorded.hellos.length === 3)
      agent.destroy()
      for (const fiber of fibers) yield* failure(Fiber.join(fiber))
      yield* eventually(() => recorded.passages.every(({ isOpen }) => !isOpen))
      assert.deepStrictEqual(Object.keys(agent.sockets), [])
    }))

  test("fails waiting requests, too, when its scope closes, and opens no more connections", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const recorded = yield* watched(yield* serving())
      const scope = yield* Scope.make()
      const agent = yield* Scope.extend(NodeTicketCache.agent({ cache, tls, maxSockets: 1 }), scope)
      yield* recorded.inject({ _tag: "BlackHole" })
      const fibers = yield* Effect.forEach([1, 2, 3], () => Effect.fork(get(recorded.url(), agent)))
      yield* eventually(() => recorded.hellos.length === 1)
      yield* Scope.close(scope, Exit.void)
      for (const fiber of fibers) assert.strictEqual((yield* failing(Fiber.join(fiber))).reason, "Closed")
      assert.lengthOf(recorded.passages, 1)
      assert.deepStrictEqual([Object.keys(agent.sockets), Object.keys(agent.requests)], [[], []])
    }))
})

// -----------------------------------------------------------------------------
// undici
// -----------------------------------------------------------------------------

describe("the dispatcher", () => {
  test("fails a request with the connection's error", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const recorded = yield* watched(yield* serving())
      const client = yield* httpClient({ cache, tls })
      yield* recorded.inject({ _tag: "Refuse" })
      const error = yield* failure(clientGet(client, recorded.url()))
      assert.strictEqual(error._tag, "RequestError")
      assert.instanceOf(error.cause, NodeTicketCache.TlsError)
      yield* recorded.heal
      const elsewhere = yield* httpClient({ cache, tls: { ...tls, servername: "else.test" } })
      const named = yield* failing(clientGet(elsewhere, recorded.url()))
      assert.strictEqual(named.reason, "Identity")
    }))

  test("serves the next request after one that was interrupted in a handshake", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const recorded = yield* watched(yield* serving())
      const client = yield* httpClient({ cache, tls, connectTimeout: "200 millis", undici: { connections: 1 } })
      yield* clientGet(client, recorded.url())
      yield* recorded.inject({ _tag: "BlackHole" }, 1)
      const fiber = yield* Effect.fork(clientGet(client, recorded.url()))
      yield* eventually(() => recorded.hellos.length === 2)
      yield* Fiber.interrupt(fiber)
      yield* Effect.retry(clientGet(client, recorded.url()), { times: 1 })
      yield* eventually(() => recorded.passages.every(({ isOpen }) => !isOpen))
      const { offered, resumed } = yield* TicketCache.stats(cache)
      assert.deepStrictEqual([offered, resumed], [2, 1])
    }))
})

// -----------------------------------------------------------------------------
// one connection
// -----------------------------------------------------------------------------

describe("connect", () => {
  test("an `error` without a listener ends the socket, and nothing else", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const server = yield* serving()
      const recorded = yield* watched(server)
      for (const fault of [{ _tag: "CutAfter", bytes: 4_000 }, { _tag: "CutAfter", bytes: 400 }] as const) {
        yield* TicketCache.clear(cache)
        yield* recorded.inject(fault, 1)
        yield* Effect.scoped(Effect.gen(function*() {
          const opened = yield* Effect.either(NodeTicketCache.connect({ cache, tls, ...addressIn(recorded.url()) }))
          if (opened._tag === "Left") return
          const socket = opened.right
          const isClosed = new Promise((resolve) => socket.once("close", resolve))
          socket.resume()
          for (let n = 0; n < 50; n++) socket.write("GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
          yield* Effect.promise(() => isClosed)
        }))
      }
      const socket = yield* NodeTicketCache.connect({ cache, tls, ...addressIn(recorded.url()) })
      const isClosed = new Promise((resolve) => socket.once("close", resolve))
      socket.destroy(new Error("mine"))
      yield* Effect.promise(() => isClosed)
    }))

  test("makes only one attempt over a given socket", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const recorded = yield* watched(yield* serving())
      const over = Effect.suspend(() =>
        Effect.scoped(
          Effect.flatMap(
            NodeTicketCache.connect({ cache, tls, host: "localhost", socket: Net.connect(recorded.port, "127.0.0.1") }),
            exchange
          )
        )
      )
      yield* over
      yield* recorded.inject({ _tag: "CutAfterHello" })
      assert.strictEqual((yield* failing(over)).reason, "Handshake")
      assert.deepStrictEqual(offers(recorded), [0, 1])
      yield* recorded.inject({ _tag: "Refuse" })
      assert.strictEqual((yield* failing(over)).reason, "Connect")
      yield* recorded.heal
      yield* recorded.inject({ _tag: "BlackHole" })
      const fiber = yield* Effect.fork(over)
      yield* eventually(() => recorded.hellos.length === 3)
      yield* Fiber.interrupt(fiber)
      yield* eventually(() => recorded.passages.every(({ isOpen }) => !isOpen))
    }))

  test("goes on with a cache whose scope has closed, without tickets", () =>
    Effect.gen(function*() {
      const recorded = yield* watched(yield* serving())
      const cache = yield* Effect.scoped(
        Effect.tap(TicketCache.make(), (cache) => connecting({ cache, tls })(recorded.url()))
      )
      yield* connecting({ cache, tls })(recorded.url())
      yield* connecting({ cache, tls })(recorded.url())
      assert.deepStrictEqual(offers(recorded), [0, 0, 0])
    }))

  test("can be interrupted at any point, and leaves nothing behind", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make({ ticketsPerServer: 1_000 })
      const server = yield* serving()
      const recorded = yield* watched(server)
      const ask = connecting({ cache, tls })
      yield* filled(cache, ask(recorded.url()), 20)
      for (let n = 0; n < 60; n++) {
        const fiber = yield* Effect.fork(ask(recorded.url()))
        yield* Effect.sleep(n % 20 / 2)
        yield* Fiber.interrupt(fiber)
      }
      yield* eventually(() => recorded.passages.every(({ isOpen }) => !isOpen))
      const { offered, refused, resumed } = yield* TicketCache.stats(cache)
      assert.strictEqual(refused, 0)
      assert.isAtMost(resumed, offered)
      assert.strictEqual(recorded.hellos.flatMap((hello) => hello.offered).length <= offered, true)
      yield* ask(recorded.url())
    }))

  describe.runIf(openssl)("with a server that gives a new ticket for each spent one", () => {
    test("follows the same rules", () =>
      Effect.gen(function*() {
        const cache = yield* TicketCache.make()
        const recorded = yield* watched(yield* opensslServer({ key, cert, version: "1.3" }))
        const ask = connecting({ cache, tls })
        yield* ask(recorded.url())
        yield* recorded.inject({ _tag: "Corrupt", part: "binder", byte: 3 }, 1)
        yield* ask(recorded.url())
        yield* recorded.inject({ _tag: "CutAfterHello" }, 1)
        yield* ask(recorded.url())
        yield* ask(recorded.url())
        assert.deepStrictEqual(offers(recorded), [0, 1, 0, 1, 0, 1])
      }))
  })
})

// -----------------------------------------------------------------------------
// as the clients that it stands in for
// -----------------------------------------------------------------------------

describe("the usual behaviour of", () => {
  test("an agent: a check of the certificate on `secureConnect` runs before anything is sent", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const recorded = yield* watched(yield* serving())
      const agent = yield* NodeTicketCache.agent({ cache, tls })
      const pinned = (isRight: (socket: Tls.TLSSocket) => boolean) =>
        Effect.async<string>((resume) => {
          const request = Https.get(recorded.url(), { agent, headers: { connection: "close" } }, (response) => {
            response.resume().on("end", () => resume(Effect.succeed("answered")))
          })
          request.on("socket", (socket) =>
            socket.once("secureConnect", () => {
              if (!isRight(socket as Tls.TLSSocket)) request.destroy()
            }))
          request.on("error", () => resume(Effect.succeed("given up")))
        })
      assert.strictEqual(yield* pinned((socket) => socket.getPeerCertificate().subject.CN === "localhost"), "answered")
      const sent = recorded.passages[0]!.up
      yield* TicketCache.clear(cache)
      assert.strictEqual(yield* pinned((socket) => socket.getPeerCertificate().subject.CN === "another"), "given up")
      yield* eventually(() => recorded.passages.every(({ isOpen }) => !isOpen))
      // The request line, which is longer than an alert, was not sent.
      assert.isBelow(recorded.passages[1]!.up, sent - 40)
    }))

  test("an agent: a connection that ends while it is handed over is an error", () =>
    Effect.gen(function*() {
      const server = yield* Effect.acquireRelease(
        Effect.sync(() =>
          createTlsServer({ cert, key }, (socket) => socket.on("error", () => {}).destroy()).listen(0, "127.0.0.1")
        ),
        (server) => Effect.sync(() => server.close())
      )
      yield* eventually(() => server.listening)
      // There are several steps between the handshake and the hand-over; here each step takes some time.
      const agent = yield* Effect.withScheduler(
        NodeTicketCache.agent({ tls, cache: yield* TicketCache.make() }),
        Scheduler.timer(5)
      )
      const { port } = server.address() as Net.AddressInfo
      for (let n = 0; n < 5; n++) {
        const error = yield* failure(httpsGet(`https://localhost:${port}/`, { agent }))
        assert.include(["TlsError", undefined], (error as { readonly _tag?: string })._tag)
      }
    }))

  test("an agent: `timeout` is emitted in the middle of a handshake", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const recorded = yield* watched(yield* serving())
      yield* recorded.inject({ _tag: "BlackHole" })
      const perRequest = yield* NodeTicketCache.agent({ cache, tls })
      const perAgent = yield* NodeTicketCache.agent({ cache, tls, timeout: 50 })
      for (const options of [{ agent: perRequest, timeout: 50 }, { agent: perAgent }]) {
        const said = yield* Effect.async<string>((resume) => {
          const request = Https.get(recorded.url(), options)
          request.on("timeout", () => request.destroy(new Error("too late")))
          request.on("error", ({ message }) => resume(Effect.succeed(message)))
        })
        assert.strictEqual(said, "too late")
      }
      yield* eventually(() => recorded.passages.every(({ isOpen }) => !isOpen))
    }))

  test("undici: small writes are sent immediately, and a silent connection is kept alive", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const recorded = yield* watched(yield* serving())
      const sockets = new Map<string, ReadonlyArray<unknown>>()
      const { setKeepAlive, setNoDelay } = Net.Socket.prototype
      Net.Socket.prototype.setNoDelay = function(...args) {
        sockets.set("noDelay", args)
        return setNoDelay.apply(this, args)
      }
      Net.Socket.prototype.setKeepAlive = function(...args) {
        sockets.set("keepAlive", args)
        return setKeepAlive.apply(this, args)
      }
      yield* Effect.addFinalizer(() =>
        Effect.sync(() => Object.assign(Net.Socket.prototype, { setKeepAlive, setNoDelay }))
      )
      yield* clientGet(yield* httpClient({ cache, tls }), recorded.url())
      assert.deepStrictEqual([...sockets], [["noDelay", [true]], ["keepAlive", [true, 60_000]]])
    }))

  test("undici: an error that its listener throws is not lost", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const recorded = yield* watched(yield* serving())
      const dispatcher = Context.get(
        yield* Layer.build(NodeTicketCache.layerDispatcher({ cache, tls })),
        NodeHttpClient.Dispatcher
      )
      const mine = new Error("mine")
      dispatcher.on("connect", () => {
        throw mine
      })
      const thrown: Array<unknown> = []
      const { queueMicrotask } = globalThis
      globalThis.queueMicrotask = (task) =>
        queueMicrotask(() => {
          try {
            task()
          } catch (error) {
            thrown.push(error)
          }
        })
      yield* Effect.addFinalizer(() => Effect.sync(() => Object.assign(globalThis, { queueMicrotask })))
      dispatcher.request({ origin: recorded.url(), path: "/", method: "GET" }).catch(() => {})
      yield* eventually(() => thrown.includes(mine))
    }))

  test("Node: a check that goes from certificate to issuer ends at the end of the remaining chain", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const recorded = yield* watched(yield* serving())
      const seen: Array<ReadonlyArray<string>> = []
      const checkServerIdentity = (_: string, certificate: Tls.PeerCertificate) => {
        const chain: Array<string> = []
        let last: string | undefined
        for (
          let next = certificate as Tls.DetailedPeerCertificate;
          next.fingerprint256 !== last;
          next = next.issuerCertificate
        ) {
          last = next.fingerprint256
          chain.push(next.fingerprint256)
        }
        seen.push(chain)
        return undefined
      }
      const ask = connecting({ cache, ...tls, checkServerIdentity })
      yield* ask(recorded.url())
      yield* ask(recorded.url())
      assert.deepStrictEqual(offers(recorded), [0, 1])
      assert.deepStrictEqual(seen[1], seen[0]!.slice(0, 1))
    }))

  test("C1: Node: giving up by a signal costs one ticket", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const recorded = yield* watched(yield* serving())
      yield* filled(cache, connecting({ cache, tls })(recorded.url()), 3)
      const size = yield* TicketCache.size(cache)
      const controller = new AbortController()
      yield* recorded.inject({ _tag: "BlackHole" })
      const hellos = recorded.hellos.length
      const options = { cache, tls, ...addressIn(recorded.url()), signal: controller.signal }
      const fiber = yield* Effect.fork(failing(Effect.scoped(NodeTicketCache.connect(options))))
      yield* eventually(() => recorded.hellos.length === hellos + 1)
      controller.abort()
      assert.strictEqual((yield* Fiber.join(fiber)).code, "ABORT_ERR")
      assert.strictEqual(yield* TicketCache.size(cache), size - 1)
      assert.strictEqual(recorded.hellos.length, hellos + 1)
    }))

  test("C1: Node: a closed socket, or one that was never connected, costs no ticket", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const recorded = yield* watched(yield* serving())
      const given = { cache, tls, ...addressIn(recorded.url()), connectTimeout: "100 millis" } as const
      yield* Effect.scoped(Effect.flatMap(NodeTicketCache.connect(given), exchange))
      const size = yield* TicketCache.size(cache)
      const dead = new Net.Socket().destroy()
      yield* Effect.promise(() => once(dead, "close"))
      const closed = yield* failing(Effect.scoped(NodeTicketCache.connect({ ...given, socket: dead })))
      assert.strictEqual(closed.reason, "Connect")
      const never = yield* failing(Effect.scoped(NodeTicketCache.connect({ ...given, socket: new Net.Socket() })))
      assert.strictEqual(never.reason, "Timeout")
      assert.strictEqual(yield* TicketCache.size(cache), size)
    }))
})
