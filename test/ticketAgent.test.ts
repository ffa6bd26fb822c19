import { assert, describe } from "@effect/vitest"
import axios from "axios"
import { NodeTicketCache } from "effect-holdfast/node"
import * as TicketCache from "effect-holdfast/TicketCache"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import followRedirects from "follow-redirects"
import got, { type Delays } from "got"
import { execFileSync } from "node:child_process"
import { createHash, randomBytes } from "node:crypto"
import { once } from "node:events"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import type * as Http from "node:http"
import * as Https from "node:https"
import type * as Net from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Duplex, Readable } from "node:stream"
import * as Tls from "node:tls"
import { authority, clientCertificate, serverCertificate } from "../examples/certificates.js"
import type * as Loaded from "../src/node/internal/standIn.js"
import { CodedError } from "./support/codedError.js"
import { failure, httpsGet, keysOf, offers, seenIn, serving, test, watched } from "./support/tlsClients.js"
import { blackHole } from "./support/tlsServers.js"
import { openssl } from "./support/tools.js"
import { eventually } from "./support/webSocketServer.js"

const { ca, cert, key } = await serverCertificate()
const clients = await authority("clients")
const alice = await clientCertificate("alice", { issuer: clients })
const bob = await clientCertificate("bob", { issuer: clients })
type Asked = Https.RequestOptions & Tls.ConnectionOptions

const alive = { connection: "keep-alive" }

/** A server in this process, for tests that look into the server. */
const served = (
  options: Https.ServerOptions,
  listener: Http.RequestListener = (_, response) => response.end("answered")
) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.promise(async () => {
        const server = Https.createServer({ cert, key, ...options }, listener).listen(0, "127.0.0.1")
        await once(server, "listening")
        return server
      }),
      (server) =>
        Effect.sync(() => {
          server.close()
          server.closeAllConnections()
        })
    ),
    (server) => ({ server, url: `https://localhost:${(server.address() as Net.AddressInfo).port}/` })
  )

// -----------------------------------------------------------------------------
// identities
// -----------------------------------------------------------------------------

describe("C8: the agent's pool", () => {
  const accepts = () => undefined
  const pairs: Record<string, readonly [Asked, Asked]> = {
    "the certificates of two clients": [{ cert: alice.cert, key: alice.key }, { cert: bob.cert, key: bob.key }],
    "two containers with a password": [
      { pfx: [{ buf: Buffer.from("one"), passphrase: "x" }] as never },
      { pfx: [{ buf: Buffer.from("other"), passphrase: "x" }] as never }
    ],
    "two contexts": [{ secureContext: Tls.createSecureContext({ ca }) }, {
      secureContext: Tls.createSecureContext({ ca })
    }],
    "a check of the server's name": [{ checkServerIdentity: accepts }, {}],
    "two checks of the server's name": [{ checkServerIdentity: accepts }, { checkServerIdentity: () => undefined }],
    "CAs in one list": [{ ca: [ca, clients.cert] }, { ca: [clients.cert, ca] }],
    "pre-shared keys": [{ pskCallback: () => null }, { pskCallback: () => null }],
    "an answer about revocation": [{ requestOCSP: true } as Asked, {}],
    "protocols": [{ ALPNProtocols: ["http/1.1"] }, { ALPNProtocols: ["other", "http/1.1"] }],
    "a protocol with a comma": [{ ALPNProtocols: ["a,b"] }, { ALPNProtocols: ["a", "b"] }]
  }
  for (const [what, [one, other]] of Object.entries(pairs)) {
    test(`keeps apart ${what}`, () =>
      Effect.gen(function*() {
        const agent = yield* NodeTicketCache.agent({ keepAlive: true })
        const name = (options: Asked) => agent.getName({ host: "a.test", port: 443, ...options } as never)
        assert.notStrictEqual(name(one), name(other))
        assert.strictEqual(name({ ...one }), name(one))
      }))
  }

  test("has Node's names, followed by the identity of the tickets", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const recorded = yield* watched(yield* serving())
      const agent = yield* NodeTicketCache.agent({ cache })
      const options = { ca, cert: alice.cert, key: alice.key }
      yield* httpsGet(recorded.url(), { agent, ...options })
      const [{ host, identity, port }] = (yield* keysOf(cache)) as [TicketCache.ServerKey]
      const asked = { host, port, ...options }
      assert.strictEqual(agent.getName(asked as never), `${new Https.Agent().getName(asked as never)}:${identity}`)
      assert.match(identity!, /^[\w-]{43}$/)
    }))

  const known = (options: Asked) => (agent: Https.Agent, url: string) =>
    Effect.map(httpsGet(url, { agent, headers: alive, ca, ...options }), (body) => seenIn(body).client)

  const sees = (options: { readonly [name: string]: Asked }) =>
    Effect.gen(function*() {
      const recorded = yield* watched(
        yield* serving({ requestCert: true, rejectUnauthorized: false, ca: clients.cert })
      )
      const agent = yield* NodeTicketCache.agent({ keepAlive: true })
      for (const round of [1, 2]) {
        for (const [name, identity] of Object.entries(options)) {
          assert.strictEqual(yield* known(identity)(agent, recorded.url()), name, `round ${round}`)
          // The connection is free before the next request.
          yield* eventually(() => Object.keys(agent.sockets).length === 0)
        }
      }
      // Each has a connection of its own, and uses it twice.
      assert.lengthOf(recorded.passages, Object.keys(options).length)
    })

  test("sends no request over another client's connection: contexts", () =>
    sees({
      alice: { secureContext: Tls.createSecureContext({ ca, cert: alice.cert, key: alice.key }) },
      bob: { secureContext: Tls.createSecureContext({ ca, cert: bob.cert, key: bob.key }) }
    }))

  describe.runIf(openssl)("with containers", () => {
    test("sends no request over another client's connection", () =>
      Effect.suspend(() => {
        const folder = mkdtempSync(join(tmpdir(), "holdfast-"))
        const file = join(folder, "both.pem")
        const pfx = ({ cert, key }: { readonly cert: string; readonly key: string }): Asked => {
          writeFileSync(file, cert + key)
          const buf = execFileSync(openssl!, ["pkcs12", "-export", "-in", file, "-passout", "pass:x"])
          return { pfx: [{ buf, passphrase: "x" }] }
        }
        const options = { alice: pfx(alice), bob: pfx(bob) }
        rmSync(folder, { recursive: true })
        return sees(options)
      }))
  })

  test("runs each request's own check of the server's name, also on a reused connection", () =>
    Effect.gen(function*() {
      const server = yield* serving()
      const agent = yield* NodeTicketCache.agent({ keepAlive: true })
      yield* httpsGet(server.url(), { agent, headers: alive, ca })
      yield* eventually(() => Object.keys(agent.freeSockets).length === 1)
      const checkServerIdentity = () => new CodedError("MINE", "not this one")
      const error = yield* failure(httpsGet(server.url(), { agent, headers: alive, ca, checkServerIdentity }))
      assert.strictEqual(error.code, "MINE")
    }))

  test("removes a connection from the pool even if the options that its name was made from have changed", () =>
    Effect.gen(function*() {
      const server = yield* serving()
      const agent = yield* NodeTicketCache.agent({ keepAlive: true, maxSockets: 1 })
      const unset = Effect.sync(() => {
        delete process.env["NODE_TLS_REJECT_UNAUTHORIZED"]
      })
      const authorities = [ca]
      const ask = httpsGet(server.url(), { agent, headers: alive, ca: authorities })
      yield* Effect.gen(function*() {
        const waiting = yield* Effect.all([Effect.fork(ask), Effect.fork(ask)])
        yield* Effect.yieldNow()
        // One is being opened, the other waits in the queue.
        process.env["NODE_TLS_REJECT_UNAUTHORIZED"] = "0"
        authorities.push(clients.cert)
        yield* Effect.forEach(waiting, Fiber.join)
        yield* server.closeConnections
        yield* eventually(() => Object.keys(agent.freeSockets).length === 0)
        const { requests, sockets } = agent
        assert.deepStrictEqual([Object.keys(sockets), Object.keys(requests)], [[], []])
        assert.strictEqual((agent as unknown as { readonly totalSocketCount: number }).totalSocketCount, 0)
      }).pipe(Effect.ensuring(unset))
    }))

  test("checks the server by the options at the time of the request, however long the request waits", () =>
    Effect.gen(function*() {
      const untrusted = yield* Effect.promise(async () => serverCertificate({ issuer: await authority("untrusted") }))
      const server = yield* serving(untrusted)
      const agent = yield* NodeTicketCache.agent({ keepAlive: true, maxSockets: 1 })
      const strict = httpsGet(server.url(), { agent, headers: alive })
      const unset = Effect.sync(() => {
        delete process.env["NODE_TLS_REJECT_UNAUTHORIZED"]
      })
      yield* Effect.gen(function*() {
        const waiting = yield* Effect.all([Effect.fork(strict), Effect.fork(strict)])
        yield* Effect.yieldNow()
        process.env["NODE_TLS_REJECT_UNAUTHORIZED"] = "0"
        for (const fiber of waiting) {
          assert.strictEqual((yield* failure(Fiber.join(fiber))).code, "SELF_SIGNED_CERT_IN_CHAIN")
        }
        yield* httpsGet(server.url(), { agent, headers: alive })
        yield* unset
        assert.strictEqual((yield* failure(strict)).code, "SELF_SIGNED_CERT_IN_CHAIN")
      }).pipe(Effect.ensuring(unset))
    }))
})

// -----------------------------------------------------------------------------
// time limits
// -----------------------------------------------------------------------------

/** In milliseconds. */
const limit = 150

/** Gives up at the request's `timeout`, as its user is meant to, and gives the error with which it ended. */
const ended = (request: Http.ClientRequest) =>
  Effect.async<string>((resume) => {
    request.on("timeout", () => request.destroy(new Error("timed out")))
    request.on("error", ({ message }) => resume(Effect.succeed(message)))
    request.on("response", () => resume(Effect.succeed("answered")))
    return Effect.sync(() => request.destroy())
  })

const redirected = (url: string, options: Https.RequestOptions, use: (request: Http.ClientRequest) => void) =>
  Effect.suspend(() => {
    const request = followRedirects.https.get(url, options) as unknown as Http.ClientRequest
    use(request)
    return ended(request)
  })

const gotten = (url: string, { agent, lookup }: Https.RequestOptions, timeout: Delays) =>
  Effect.promise(() =>
    got(url, {
      agent: { https: agent as Https.Agent },
      timeout,
      retry: { limit: 0 },
      ...lookup !== undefined && { dnsLookup: lookup as never }
    }).then(
      () => "answered",
      ({ code, event }: { readonly code: string; readonly event: string }) => `${code} ${event}`
    )
  )

const byAxios = (url: string, { agent, ...rest }: Https.RequestOptions, maxRedirects: number, millis: number) =>
  Effect.promise((signal) =>
    axios.get(url, { httpsAgent: agent, timeout: millis, maxRedirects, signal, proxy: false, ...rest as object }).then(
      () => "answered",
      ({ code }: { readonly code: string }) => code
    )
  )

interface Limited {
  readonly ask: (url: string, options: Https.RequestOptions, millis: number) => Effect.Effect<string>
  readonly expected: string
  readonly agent?: Https.AgentOptions
  /** The places at which the limit does not apply, by its documentation. */
  readonly except?: ReadonlyArray<string>
}

const limits: Record<string, Limited> = {
  "request.setTimeout": {
    ask: (url, options, millis) => Effect.suspend(() => ended(Https.get(url, options).setTimeout(millis))),
    expected: "timed out"
  },
  "request.setTimeout, once there is a socket": {
    ask: (url, options, millis) =>
      Effect.suspend(() => {
        const request = Https.get(url, options)
        request.once("socket", () => request.setTimeout(millis))
        return ended(request)
      }),
    expected: "timed out"
  },
  "`timeout` of the request": {
    ask: (url, options, millis) => Effect.suspend(() => ended(Https.get(url, { ...options, timeout: millis }))),
    expected: "timed out"
  },
  "`timeout` of the request, shorter than the agent's": {
    ask: (url, options, millis) => Effect.suspend(() => ended(Https.get(url, { ...options, timeout: millis }))),
    agent: { timeout: 60_000 },
    expected: "timed out"
  },
  "`timeout` of the agent": {
    ask: (url, options) => Effect.suspend(() => ended(Https.get(url, options))),
    agent: { timeout: limit },
    expected: "timed out"
  },
  "follow-redirects": {
    ask: (url, options, millis) => redirected(url, options, (request) => request.setTimeout(millis)),
    expected: "timed out"
  },
  "axios": { ask: (url, options, millis) => byAxios(url, options, 0, millis), expected: "ECONNABORTED" },
  "axios that follows redirects": {
    ask: (url, options, millis) => byAxios(url, options, 5, millis),
    expected: "ECONNABORTED"
  },
  "got's `socket`": {
    ask: (url, options, millis) => gotten(url, options, { socket: millis }),
    expected: "ETIMEDOUT socket"
  },
  "got's `lookup`": {
    ask: (url, options, millis) => gotten(url, options, { lookup: millis }),
    expected: "ETIMEDOUT lookup",
    except: ["TCP", "the handshake"]
  },
  "got's `connect`": {
    ask: (url, options, millis) => gotten(url, options, { connect: millis }),
    expected: "ETIMEDOUT connect",
    // Counts from the end of the lookup to that of TCP.
    except: ["the lookup", "the handshake"]
  },
  "got's `secureConnect`": {
    ask: (url, options, millis) => gotten(url, options, { secureConnect: millis }),
    expected: "ETIMEDOUT secureConnect",
    except: ["the lookup", "TCP"]
  }
}

/** The places at which the opening of a connection can halt: the URL, and the options that a request needs for it. */
const halts: Record<string, Effect.Effect<readonly [url: string, Https.RequestOptions], never, Scope.Scope>> = {
  "the lookup": Effect.succeed(["https://a.test/", { lookup: () => {} }]),
  "TCP": Effect.map(blackHole, (port) => [`https://localhost:${port}/`, {}]),
  "the handshake": Effect.gen(function*() {
    const recorded = yield* watched(yield* serving())
    yield* recorded.inject({ _tag: "BlackHole" })
    return [recorded.url(), {}] as const
  })
}

/** A ticket for any server. */
const keepTicketFor = (cache: TicketCache.TicketCache, url: string, ask: Effect.Effect<unknown, unknown>) =>
  Effect.gen(function*() {
    yield* ask
    const [kept] = yield* keysOf(cache)
    const ticket = yield* Effect.flatten(TicketCache.take(cache, kept!))
    const { hostname, port } = new URL(url)
    const own = { host: hostname, port: Number(port || 443), servername: hostname }
    yield* TicketCache.put(cache, { ...kept!, ...own }, ticket)
  })

describe("C9: a time limit reaches a connection that is being opened", () => {
  for (const [halt, halted] of Object.entries(halts)) {
    for (const isKept of [false, true]) {
      test(`in ${halt}, ${isKept ? "with a ticket" : "without tickets"}`, () =>
        Effect.gen(function*() {
          const good = yield* serving()
          const [url, options] = yield* halted
          const applying = Object.entries(limits).filter(([, { except = [] }]) => !except.includes(halt))
          yield* Effect.forEach(applying, ([what, { agent: ofAgent, ask, expected }]) =>
            Effect.gen(function*() {
              const cache = yield* TicketCache.make()
              const agent = yield* NodeTicketCache.agent({ cache, ca, connectTimeout: "60 seconds", ...ofAgent })
              const patient = yield* NodeTicketCache.agent({ cache, ca })
              if (isKept) yield* keepTicketFor(cache, url, ask(good.url(), { agent: patient }, 60_000))
              const { offered } = yield* TicketCache.stats(cache)
              const [took, end] = yield* Effect.timed(ask(url, { agent, ...options }, limit))
              assert.strictEqual(end, expected, what)
              // Node's timers are a millisecond early now and then.
              assert.isAtLeast(Duration.toMillis(took), limit - 2, what)
              const since = (yield* TicketCache.stats(cache)).offered - offered
              // On a busy machine the limit can pass before TCP has connected.
              assert.isAtMost(since, isKept && halt === "the handshake" ? 1 : 0, what)
              yield* eventually(() => Object.keys(agent.sockets).length === 0)
            }), { concurrency: 4 })
        }))
    }
  }

  test("`connectTimeout` is one, too, whatever the request has", () =>
    Effect.gen(function*() {
      for (const halted of Object.values(halts)) {
        const [url, options] = yield* halted
        const agent = yield* NodeTicketCache.agent({ ca, connectTimeout: limit, timeout: 60_000 })
        const error = yield* failure(httpsGet(url, { agent, ...options }))
        assert.deepStrictEqual([error.name, error.code], ["TlsError", "ETIMEDOUT"])
      }
    }))

  test("a request that waits for its turn is limited when it has a connection", () =>
    Effect.gen(function*() {
      const recorded = yield* watched(yield* serving())
      const agent = yield* NodeTicketCache.agent({ ca, maxSockets: 1 })
      yield* recorded.inject({ _tag: "BlackHole" })
      const first = Https.get(recorded.url(), { agent })
      const firstEnds = yield* Effect.fork(ended(first))
      const second = yield* Effect.fork(
        Effect.suspend(() => ended(Https.get(recorded.url(), { agent }).setTimeout(limit)))
      )
      yield* eventually(() => recorded.hellos.length === 1)
      first.destroy(new Error("given up"))
      assert.deepStrictEqual([yield* Fiber.join(firstEnds), yield* Fiber.join(second)], ["given up", "timed out"])
    }))
})

// -----------------------------------------------------------------------------
// the socket of a request
// -----------------------------------------------------------------------------

describe("C9: the socket of a request", () => {
  const names = ["lookup", "connect", "secureConnect"]

  for (
    const [how, isKept, isBroken] of [
      ["without tickets", false, false],
      ["with a ticket", true, false],
      ["with a ticket that breaks the handshake", true, true]
    ] as const
  ) {
    test(`exists immediately, and emits each event once (${how})`, () =>
      Effect.gen(function*() {
        const cache = yield* TicketCache.make()
        const recorded = yield* watched(yield* serving())
        const agent = yield* NodeTicketCache.agent({ cache, ca })
        if (isKept) yield* httpsGet(recorded.url(), { agent })
        const before = recorded.hellos.length
        if (isBroken) yield* recorded.inject({ _tag: "Corrupt", part: "binder", byte: 3 })
        const heard: Array<string> = []
        const request = Https.get(recorded.url(), { agent, headers: { connection: "close" } })
        const sockets: Array<Tls.TLSSocket> = []
        for (const n of [1, 2]) request.on("socket", (socket) => void (sockets[n - 1] = socket as Tls.TLSSocket))
        request.on("socket", (socket: Tls.TLSSocket) => {
          heard.push("socket")
          assert.isTrue(socket.connecting)
          assert.deepStrictEqual([socket.address(), socket.authorized, socket.encrypted], [{} as never, false, true])
          assert.deepStrictEqual(socket.getSession() ?? undefined, undefined)
          for (const name of names) {
            socket.on(name, () => heard.push(name))
          }
          socket.on("connect", () => assert.isFalse(socket.connecting))
          socket.on("secureConnect", () => {
            assert.isTrue(socket.authorized)
            // A resumed connection shows no certificate.
            assert.strictEqual(socket.getPeerCertificate().subject?.CN, isKept && !isBroken ? undefined : "localhost")
            assert.strictEqual(socket.isSessionReused(), isKept && !isBroken)
          })
        })
        yield* Effect.promise(() => Promise.resolve())
        assert.deepStrictEqual(heard, [], "before the next tick")
        yield* Effect.promise(() => new Promise((resolve) => process.nextTick(resolve)))
        assert.deepStrictEqual(heard, ["socket"])
        const [response] = yield* Effect.promise(() => once(request, "response") as Promise<[Http.IncomingMessage]>)
        const socket = response.socket as Tls.TLSSocket
        assert.isTrue(sockets[0] === socket && sockets[1] === socket && request.socket === socket)
        assert.instanceOf(socket, Tls.TLSSocket)
        assert.deepStrictEqual(
          [socket.remoteAddress, socket.remotePort, socket.localAddress, socket.remoteFamily, socket.getProtocol()],
          ["127.0.0.1", recorded.port, "127.0.0.1", "IPv4", "TLSv1.3"]
        )
        assert.isAbove(socket.bytesRead, 0)
        yield* Effect.promise(() => once(response.resume(), "end"))
        assert.deepStrictEqual(heard, ["socket", ...names])
        assert.deepStrictEqual(offers(recorded, before), isBroken ? [1, 0] : [isKept ? 1 : 0])
      }))
  }

  for (const isKept of [false, true]) {
    const how = isKept ? "with a ticket" : "without tickets"
    const agentFor = (url: string, options: Https.AgentOptions = {}) =>
      Effect.gen(function*() {
        const cache = yield* TicketCache.make()
        const agent = yield* NodeTicketCache.agent({ cache, ca, ...options })
        if (isKept) yield* httpsGet(url, { agent })
        assert.strictEqual((yield* TicketCache.size(cache)) > 0, isKept)
        return agent
      })

    test(`shows keys and the answer about revocation (${how})`, () =>
      Effect.gen(function*() {
        const { server, url } = yield* served({})
        server.on("OCSPRequest", (_certificate, _issuer, callback: (error: null, answer: Buffer) => void) =>
          callback(null, Buffer.from("not revoked")))
        const agent = yield* agentFor(url, { requestOCSP: true } as never)
        yield* eventually(() =>
          Object.keys(agent.sockets).length === 0
        )
        const lines: Array<string> = []
        agent.on("keylog", (line: Buffer) => lines.push(line.toString().split(" ")[0]!))
        const answers: Array<string | undefined> = []
        const request = Https.get(url, { agent })
        request.on("socket", (socket) =>
          socket.on("OCSPResponse", (answer: Buffer | null) =>
            answers.push(answer?.toString())))
        request.on("socket", (socket) =>
          socket.on("keylog", () => lines.push("own")))
        const [response] = yield* Effect.promise(() => once(request, "response") as Promise<[Http.IncomingMessage]>)
        response.resume()
        assert.include(lines, "CLIENT_TRAFFIC_SECRET_0")
        assert.lengthOf(lines.filter((line) => line === "own"), lines.length / 2)
        // In a resumed handshake there is no certificate to ask about.
        assert.deepStrictEqual(answers, [isKept ? undefined : "not revoked"])
      }))

    test(`leaves a wrapped \`destroy\` or \`setTimeout\` of the request wrapped (${how})`, () =>
      Effect.gen(function*() {
        const recorded = yield* watched(yield* serving())
        const agent = yield* agentFor(recorded.url())
        const request = Https.get(recorded.url(), { agent })
        const calls: Array<string> = []
        const { destroy, setTimeout } = request
        const wrapped = {
          destroy: (error?: Error) => {
            calls.push("destroy")
            return destroy.call(request, error)
          },
          setTimeout: (millis: number, listener?: () => void) => {
            calls.push("setTimeout")
            return setTimeout.call(request, millis, listener)
          }
        }
        Object.assign(request, wrapped)
        request.setTimeout(60_000)
        const [response] = yield* Effect.promise(() => once(request, "response") as Promise<[Http.IncomingMessage]>)
        assert.deepStrictEqual([request.destroy, request.setTimeout], [wrapped.destroy, wrapped.setTimeout])
        response.on("error", () => {})
        request.destroy()
        assert.deepStrictEqual(calls, ["setTimeout", "destroy"])
        yield* eventually(() => recorded.passages.every(({ isOpen }) => !isOpen))
      }))

    test(`a request that is destroyed while its connection opens ends as with Node's own agent (${how})`, () =>
      Effect.gen(function*() {
        const { url } = yield* served({})
        const ours = yield* agentFor(url)
        const givenUp = (agent: Https.Agent) =>
          Effect.gen(function*() {
            const heard: Array<string> = []
            const request = Https.request(url, { agent, method: "POST", lookup: () => {} })
            request.on("finish", () => heard.push("finish"))
            // Between `error` and `close` there is time for what an `error` has started.
            request.on("error", () => queueMicrotask(() => heard.push("error")))
            request.on("close", () => heard.push("close"))
            request.write("body", (error) => heard.push(`written: ${codeOf(error)}`))
            request.end("more", ((error?: Error) => heard.push(`ended: ${codeOf(error)}`)) as () => void)
            const [socket] = yield* Effect.promise(() => once(request, "socket") as Promise<[Tls.TLSSocket]>)
            // The write waits for the connection.
            yield* eventually(() => socket.writableLength > 0)
            request.destroy(new Error("given up"))
            yield* eventually(() => heard.includes("close"))
            yield* Effect.yieldNow()
            return heard
          })
        const found = yield* givenUp(ours)
        assert.deepStrictEqual(found, yield* givenUp(new Https.Agent({ ca })))
        assert.strictEqual(found[0], "error")
        assert.notInclude(found, "finish")
      }))

    test(`an error thrown while connecting is the request's error, and so is a lookup's (${how})`, () =>
      Effect.gen(function*() {
        const { url } = yield* served({})
        const agent = yield* agentFor(url)
        const mine = new CodedError("MINE", "mine")
        const lookup = () => {
          throw mine
        }
        assert.strictEqual(yield* failure(httpsGet(url, { agent, lookup })), mine as never)
        const error = yield* failure(httpsGet(url, { agent, localAddress: "none" }))
        assert.deepStrictEqual([error.name, error.code], ["TlsError", "ERR_INVALID_IP_ADDRESS"])
      }))

    const without: Record<string, (url: string, agent: Https.Agent) => Effect.Effect<string>> = {
      "request.setTimeout(0)": (url, agent) => Effect.suspend(() => ended(Https.get(url, { agent }).setTimeout(0))),
      "socket.setTimeout(0)": (url, agent) =>
        Effect.suspend(() => ended(Https.get(url, { agent }).on("socket", (socket) => socket.setTimeout(0)))),
      "axios without a limit": (url, agent) => byAxios(url, { agent }, 5, 0)
    }
    for (const [what, ask] of Object.entries(without)) {
      test(`the agent's limit stays off for ${what} (${how})`, () =>
        Effect.gen(function*() {
          const { url } = yield* served({}, (request, response) => {
            setTimeout(() => response.end("answered"), request.url === "/" ? 0 : 3 * limit)
          })
          const agent = yield* agentFor(url, { timeout: limit })
          assert.strictEqual(yield* ask(`${url}slow`, agent), "answered")
        }))
    }

    for (const [what, ask] of Object.entries(switched)) {
      test(`carries another TLS connection after ${what} (${how})`, () =>
        Effect.gen(function*() {
          const { server, url } = yield* served({}, (request, response) => void request.pipe(response))
          const switchTo = (status: string) => (_request: unknown, socket: Duplex) => {
            socket.write(`HTTP/1.1 ${status}\r\nconnection: upgrade\r\nupgrade: tls\r\n\r\n`)
            server.emit("connection", socket)
          }
          server.on("connect", switchTo("200 OK")).on("upgrade", switchTo("101 Switching Protocols"))
          const agent = yield* agentFor(url)
          const request = Https.request(url, { agent, ...ask }).end()
          const socket = yield* Effect.async<Tls.TLSSocket>((resume) => {
            for (const name of ["connect", "upgrade"]) {
              request.once(name, (_response, socket: Tls.TLSSocket) => resume(Effect.succeed(socket)))
            }
          })
          assert.strictEqual(socket.isSessionReused(), isKept)
          const inner = Tls.connect({ socket, ca, servername: "localhost" })
          yield* Effect.promise(() => once(inner, "secureConnect"))
          const sent = Https.request(url, { createConnection: () => inner, method: "POST" }).end(body)
          const [response] = yield* Effect.promise(() => once(sent, "response") as Promise<[Http.IncomingMessage]>)
          const chunks = yield* Effect.promise(() => response.toArray() as Promise<Array<Buffer>>)
          assert.isTrue(Buffer.concat(chunks).equals(body))
          inner.destroy()
          yield* eventually(() => socket.destroyed && Object.keys(agent.sockets).length === 0)
        }))
    }

    test(`an idle limit does not end what a TLS connection over the socket is using (${how})`, () =>
      Effect.gen(function*() {
        const { server, url } = yield* served({})
        server.on("connect", (_request, socket: Duplex) => {
          socket.write("HTTP/1.1 200 OK\r\n\r\n")
          echo.emit("connection", socket)
        })
        const echo = Tls.createServer({ cert, key }, (socket) => void socket.pipe(socket))
        const agent = yield* agentFor(url)
        const request = Https.request(url, { agent, ...switched["CONNECT"] }).end()
        const [, socket] = yield* Effect.promise(() => once(request, "connect") as Promise<[unknown, Tls.TLSSocket]>)
        let isIdle = false
        socket.setTimeout(600, () => {
          isIdle = true
        })
        const cache = yield* TicketCache.make()
        const inner = yield* NodeTicketCache.connect({ cache, ca, socket, host: "localhost", port: 443 })
        for (let n = 0; n < 14; n++) {
          inner.write("x")
          yield* Effect.promise(() => once(inner, "data"))
          yield* Effect.sleep("60 millis")
        }
        assert.isFalse(isIdle)
        inner.destroy()
        yield* eventually(() => socket.destroyed)
      }))

    test(`carries much in both directions, at the pace of the slower end (${how})`, () =>
      Effect.gen(function*() {
        const { url } = yield* served({}, (request, response) => {
          if (request.method === "GET") return void response.end()
          const hash = createHash("sha256")
          request.on("data", (chunk: Buffer) => hash.update(chunk))
          request.on("end", () => {
            response.write(hash.digest())
            // Without a length: the end of the connection is the end of the body.
            response.end(body)
          })
        })
        const agent = yield* agentFor(url, { keepAlive: true })
        for (const round of [1, 2]) {
          const request = Https.request(url, { agent, method: "POST" })
          const sent = yield* Effect.fork(Effect.promise(() =>
            new Promise((resolve, reject) => {
              let hadToWait = false
              const source = Readable.from(pieces(body))
              source.on("pause", () => {
                hadToWait = true
              })
              source.on("error", reject).pipe(request).on("finish", () => resolve(hadToWait))
            })
          ))
          const [response] = yield* Effect.promise(() => once(request, "response") as Promise<[Http.IncomingMessage]>)
          assert.isTrue(yield* Fiber.join(sent), "an upload is not held in memory")
          // Read late, and slowly.
          yield* Effect.sleep("20 millis")
          const chunks: Array<Buffer> = []
          for (;;) {
            const chunk = response.read() as Buffer | null
            if (chunk !== null) chunks.push(chunk)
            else if (response.readableEnded) break
            else yield* Effect.sleep("1 millis")
          }
          const got = Buffer.concat(chunks)
          assert.isTrue(got.subarray(0, 32).equals(createHash("sha256").update(body).digest()), `round ${round}`)
          assert.isTrue(got.subarray(32).equals(body))
          assert.strictEqual(request.reusedSocket, round === 2)
        }
      }))

    test(`ends with the server's end, without an answer, as Node's own (${how})`, () =>
      Effect.gen(function*() {
        const { url } = yield* served({}, (request, response) => {
          if (request.url === "/") response.end()
          else if (request.url === "/cut") {
            response.write("half")
            setTimeout(() => request.socket.destroy(), 20)
          } else request.socket.destroy()
        })
        const nodes = new Https.Agent({ ca, maxCachedSessions: 0 })
        for (const path of ["cut", "none"]) {
          const ours = yield* agentFor(url)
          const [expected, found] = yield* Effect.forEach([nodes, ours], (agent) =>
            Effect.async<string>((resume) => {
              const say = (error: NodeJS.ErrnoException) => resume(Effect.succeed(`${error.code} ${error.message}`))
              Https.get(url + path, { agent }, (response) => {
                response.on("error", say).on("end", () => resume(Effect.succeed("end"))).resume()
              }).on("error", say)
            }))
          assert.strictEqual(found, expected)
        }
      }))

    test(`passes on a user's settings: delays, idle limits, unref (${how})`, () =>
      Effect.gen(function*() {
        const { url } = yield* served({}, (request, response) => {
          if (request.url === "/") response.end()
        })
        const agent = yield* agentFor(url)
        const request = Https.get(`${url}never`, { agent })
        request.setNoDelay(true)
        request.setSocketKeepAlive(true, 1_000)
        const [socket] = yield* Effect.promise(() => once(request, "socket") as Promise<[Tls.TLSSocket]>)
        socket.unref()
        socket.ref()
        yield* Effect.promise(() => once(socket, "secureConnect"))
        const end = yield* Effect.fork(ended(request))
        // Idle once it is open.
        request.setTimeout(limit)
        assert.strictEqual(socket.timeout, limit)
        assert.strictEqual(yield* Fiber.join(end), "timed out")
        assert.isTrue(socket.destroyed)
        yield* eventually(() => Object.keys(agent.sockets).length === 0)
      }))
  }
})

/** Requests after which a connection is no longer HTTP's. */
const switched: Record<string, Https.RequestOptions> = {
  "CONNECT": { method: "CONNECT", path: "a.test:443" },
  "an upgrade": { headers: { connection: "upgrade", upgrade: "tls" } }
}

const codeOf = (error?: Error | null) => (error as NodeJS.ErrnoException | null | undefined)?.code

const body = randomBytes(8 * 1024 * 1024)

function* pieces(all: Buffer) {
  for (let at = 0; at < all.length; at += 64 * 1024) yield all.subarray(at, at + 64 * 1024)
}

describe("C9: a stand-in", () => {
  test("has its own events, if a tool has given all TLS sockets an `emit` before this package was loaded", () =>
    Effect.gen(function*() {
      const { prototype } = Tls.TLSSocket
      yield* Effect.acquireRelease(
        Effect.sync(() => {
          const isOwn = Object.hasOwn(prototype, "emit")
          const { emit } = prototype
          Object.defineProperty(prototype, "emit", { configurable: true, writable: true, value: emit })
          return isOwn
        }),
        (isOwn) => Effect.sync(() => isOwn || Reflect.deleteProperty(prototype, "emit"))
      )
      // A copy of the module, which is loaded now.
      const copy = "../src/node/internal/standIn.ts?loaded-later"
      const { StandIn } = yield* Effect.promise((): Promise<typeof Loaded> => import(/* @vite-ignore */ copy))
      const beneath = new Tls.TLSSocket(new Duplex({ read() {}, write: (_chunk, _encoding, done) => done() }))
      const standIn = new StandIn({}, ({ onFailure, onSocket }) => {
        onSocket?.(beneath)
        setImmediate(() => onFailure("Handshake", new Error("broken")))
        return () => {}
      })
      const [error] = yield* Effect.promise(() => once(standIn, "error"))
      assert.strictEqual((error as Error).message, "broken")
    }))
})
