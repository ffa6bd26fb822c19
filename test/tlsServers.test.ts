import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { createHash } from "node:crypto"
import * as Http2 from "node:http2"
import { connect } from "node:net"
import { Duplex } from "node:stream"
import * as Tls from "node:tls"
import { WebSocket } from "ws"
import { authority, clientCertificate, serverCertificate } from "../examples/certificates.js"
import { type NodeTlsServer, nodeTlsServer, opensslServer, recorder, type Seen } from "./support/tlsServers.js"
import { openssl } from "./support/tools.js"
import { eventually } from "./support/webSocketServer.js"

const { ca, cert, key } = await serverCertificate()
const next = await serverCertificate({ names: ["next.test", "localhost"] })
const clients = await authority("clients")
const alice = await clientCertificate("alice", { issuer: clients })

interface Dialled {
  readonly reused: boolean
  /** Sessions, in the order in which they were given. */
  readonly sessions: ReadonlyArray<Buffer>
  readonly subject: string | undefined
  readonly body: string
}

/** Asks for one page over a connection of its own, and reads until the server has closed it. */
const dial = (port: number, options: Tls.ConnectionOptions = {}): Effect.Effect<Dialled, Error> =>
  Effect.async((resume) => {
    const sessions: Array<Buffer> = []
    let [text, reused, subject] = ["", false, undefined as string | undefined]
    const socket = Tls.connect({ port, host: "127.0.0.1", servername: "localhost", ca, ...options })
    socket.on("session", (session: Buffer) => sessions.push(session))
    socket.on("data", (chunk: Buffer) => {
      text += chunk.toString()
    })
    socket.on("secureConnect", () => {
      reused = socket.isSessionReused()
      subject = socket.getPeerX509Certificate()?.subject
      socket.write("GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    })
    socket.on("error", (error) => resume(Effect.fail(error)))
    socket.on("close", () => {
      resume(Effect.succeed({ reused, sessions, subject, body: text.slice(text.indexOf("\r\n\r\n") + 4) }))
    })
    return Effect.sync(() => socket.destroy())
  })

const seenBy = ({ body }: Dialled): Seen => JSON.parse(body) as Seen

/** The server's report once all its connections are closed. Their clients know that earlier. */
const idle = (server: NodeTlsServer) => Effect.repeat(server.report, { until: ({ open }) => open === 0 })

const with12 = { maxVersion: "TLSv1.2" } as const

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex")

/** All places that could be an OCTET STRING in DER: a session has its ticket in one. */
const octetStrings = (der: Buffer): ReadonlyArray<Buffer> =>
  Array.from(der, (tag, at) => {
    const from = der[at + 1] === 0x81 ? at + 3 : at + 2
    return tag === 4 ? der.subarray(from, from + (der[from - 1] ?? 0)) : Buffer.alloc(0)
  })

/** The bytes that a client would begin with. */
const helloOf = (options: Tls.ConnectionOptions): Effect.Effect<Buffer> =>
  Effect.async((resume) => {
    const socket = new Duplex({
      read: () => {},
      write: (chunk: Buffer) => {
        resume(Effect.succeed(chunk))
      }
    })
    Tls.connect({ socket, servername: "localhost", ...options })
  })

const codeOf = (error: Error): string | undefined => (error as NodeJS.ErrnoException).code

describe("Node's server", () => {
  it.scopedLive("counts full and resumed handshakes, and the recorder knows which ticket was used", () =>
    Effect.gen(function*() {
      const server = yield* nodeTlsServer({ key, cert })
      const { hellos, passages, port } = yield* recorder(server.port)
      for (const [version, tickets, options] of [["TLSv1.3", 2, {}], ["TLSv1.2", 1, with12]] as const) {
        const first = yield* dial(port, options)
        assert.isFalse(first.reused)
        assert.lengthOf(first.sessions, tickets)
        const session = first.sessions[0]!
        const second = yield* dial(port, { ...options, session })
        const third = yield* dial(port, { ...options, session })
        const other = yield* dial(port, { ...options, session: (yield* dial(port, options)).sessions[0]! })
        for (const resumed of [second, third, other]) {
          assert.isTrue(resumed.reused)
          assert.lengthOf(resumed.sessions, 0)
          const servername = version === "TLSv1.3" ? "localhost" : null
          const expected = { servername, reused: true, client: null, alpn: null, protocol: version }
          assert.deepStrictEqual(seenBy(resumed), expected)
        }
        const [one, two, three, four, five] = hellos.slice(-5)
        for (const fresh of [one!, four!]) assert.deepStrictEqual(fresh.offered, [])
        assert.lengthOf(two!.offered, 1)
        assert.deepStrictEqual(two!.offered, three!.offered)
        assert.notDeepEqual(two!.offered, five!.offered)
        assert.deepStrictEqual(version === "TLSv1.3" ? two!.identities : [two!.ticket], two!.offered)
        assert.strictEqual(two!.servername, "localhost")
        assert.isFalse(two!.hasEarlyData)
        assert.strictEqual(two!.offersTls13, version === "TLSv1.3")
        assert.include(octetStrings(session).map(sha256), two!.offered[0]!)
      }
      assert.deepStrictEqual(yield* idle(server), { full: 4, resumed: 6, open: 0, errors: [] })
      assert.lengthOf(passages, 10)
      const [full, resumed] = passages
      assert.isAbove(full!.down, resumed!.down)
      assert.isAbove(resumed!.up, full!.up)
      yield* eventually(() => passages.every(({ isOpen }) => !isOpen))
    }))

  it.scopedLive("supports HTTP/2, HTTP/1.1 and WebSocket on one port, and can close all open connections", () =>
    Effect.gen(function*() {
      const server = yield* nodeTlsServer({ key, cert, ALPNProtocols: ["h2", "http/1.1"] })
      const { hellos, port, url } = yield* recorder(server.port)
      const overHttp1 = yield* dial(port, { ALPNProtocols: ["http/1.1"] })
      assert.strictEqual(seenBy(overHttp1).alpn, "http/1.1")

      const session = yield* Effect.acquireRelease(
        Effect.sync(() => Http2.connect(url(), { ca })),
        (session) => Effect.sync(() => session.destroy())
      )
      const body = yield* Effect.async<string>((resume) => {
        const request = session.request({ ":path": "/" })
        let text = ""
        request.on("data", (chunk: Buffer) => {
          text += chunk.toString()
        })
        request.on("end", () => resume(Effect.succeed(text)))
      })
      const { alpn, protocol, servername } = JSON.parse(body) as Seen
      assert.deepStrictEqual([alpn, protocol, servername], ["h2", "TLSv1.3", "localhost"])
      assert.deepStrictEqual(hellos.map(({ alpn }) => alpn), [["http/1.1"], ["h2"]])

      const socket = new WebSocket(url().replace("https", "wss"), { ca })
      const echo = yield* Effect.async<string>((resume) => {
        socket.on("open", () => socket.send("hello"))
        socket.on("message", (data: Buffer) => resume(Effect.succeed(data.toString())))
      })
      assert.strictEqual(echo, "hello")

      assert.strictEqual((yield* server.report).open, 2)
      const closed = Promise.all([
        new Promise((resolve) => socket.on("close", resolve)),
        new Promise((resolve) => session.on("close", resolve))
      ])
      yield* server.closeConnections
      yield* Effect.promise(() => closed)
      assert.strictEqual((yield* server.report).open, 0)
    }))

  it.scopedLive("knows its clients by their certificates, also when resumed", () =>
    Effect.gen(function*() {
      const server = yield* nodeTlsServer({ key, cert, ca: clients.cert, requestCert: true })
      const options = { key: alice.key, cert: alice.cert }
      const first = yield* dial(server.port, options)
      assert.strictEqual(seenBy(first).client, "alice")
      const second = yield* dial(server.port, { ...options, session: first.sessions[0]! })
      assert.isTrue(second.reused)
      assert.strictEqual(seenBy(second).client, "alice")
      const nobody = yield* Effect.flip(dial(server.port))
      assert.strictEqual(codeOf(nobody), "ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED")
      yield* Effect.repeat(server.report, { until: ({ errors }) => errors.length === 1 })
    }))

  it.scopedLive("refuses tickets from before a rotation, and shows another certificate after a swap", () =>
    Effect.gen(function*() {
      const ticketKeys = Buffer.alloc(48, 7)
      const server = yield* nodeTlsServer({ key, cert, ticketKeys })
      const other = yield* nodeTlsServer({ key, cert, ticketKeys })
      const [session] = (yield* dial(server.port)).sessions
      assert.isTrue((yield* dial(other.port, { session: session! })).reused)
      yield* server.rotateTicketKeys()
      assert.isFalse((yield* dial(server.port, { session: session! })).reused)
      yield* server.rotateTicketKeys(ticketKeys)
      assert.isTrue((yield* dial(server.port, { session: session! })).reused)

      yield* server.swap(next, { keepsTicketKeys: true })
      // A client is shown no certificate in a handshake that is resumed.
      const resumed = yield* dial(server.port, { session: session! })
      assert.deepStrictEqual([resumed.reused, resumed.subject], [true, undefined])
      yield* server.swap(next)
      const fresh = yield* dial(server.port, { session: session! })
      assert.deepStrictEqual([fresh.reused, fresh.subject], [false, "CN=next.test"])

      yield* other.kill
      assert.strictEqual(codeOf(yield* Effect.flip(dial(other.port))), "ECONNREFUSED")
    }))
})

describe.runIf(openssl)("the openssl command line's server", () => {
  it.scopedLive("counts full and resumed handshakes, and in TLS 1.3 gives a ticket for each one that is used", () =>
    Effect.gen(function*() {
      for (const [version, given, again] of [["1.3", 4, 1], ["1.2", 1, 0]] as const) {
        const server = yield* opensslServer({ key, cert, version, numTickets: 4 })
        const first = yield* dial(server.port)
        assert.lengthOf(first.sessions, given)
        const second = yield* dial(server.port, { session: first.sessions[0]! })
        assert.lengthOf(second.sessions, again)
        assert.include(second.body, `Reused, TLSv${version}`)
        assert.deepStrictEqual(yield* server.report, { full: 1, resumed: 1 })
      }
    }))

  it.scopedLive("resumes by session id where there are no tickets", () =>
    Effect.gen(function*() {
      const server = yield* opensslServer({ key, cert, version: "1.2", extraArgs: ["-no_ticket"] })
      const { hellos, port } = yield* recorder(server.port)
      const [session] = (yield* dial(port, with12)).sessions
      assert.isTrue((yield* dial(port, { ...with12, session: session! })).reused)
      const [first, second] = hellos
      assert.deepStrictEqual(first!.offered, [])
      assert.deepStrictEqual([second!.ticket, second!.offered], [undefined, [second!.sessionId!]])
      assert.deepStrictEqual(yield* server.report, { full: 1, resumed: 1 })
    }))

  it.scopedLive("serves one connection after the other", () =>
    Effect.gen(function*() {
      const { port } = yield* opensslServer({ key, cert })
      const idle = Tls.connect({ port, host: "127.0.0.1", servername: "localhost", ca })
      yield* Effect.promise(() => new Promise((resolve) => idle.once("secureConnect", resolve)))
      const waiting = yield* Effect.timeoutOption(dial(port), "100 millis")
      assert.strictEqual(waiting._tag, "None")
      const next = yield* Effect.fork(Effect.all([dial(port), dial(port)], { concurrency: 2 }))
      idle.destroy()
      assert.lengthOf(yield* next, 2)
    }))
})

describe("the recorder", () => {
  it.scopedLive("reads a hello that comes in pieces and in several records, and ignores anything else", () =>
    Effect.gen(function*() {
      const server = yield* nodeTlsServer({ key, cert })
      const { hellos, inject, passages, port } = yield* recorder(server.port)
      const session = (yield* dial(port)).sessions[0]!
      yield* dial(port, { session })
      const hello = yield* helloOf({ session })
      yield* inject({ _tag: "BlackHole" })
      const send = (pieces: ReadonlyArray<Uint8Array>) =>
        Effect.acquireUseRelease(
          Effect.sync(() => connect({ port, host: "127.0.0.1", noDelay: true })),
          (socket) =>
            Effect.promise(async () => {
              for (const piece of pieces) {
                socket.write(piece)
                await new Promise((resolve) => setTimeout(resolve, 5))
              }
            }),
          (socket) => Effect.sync(() => socket.destroy())
        )
      const [head, one, two] = [hello.subarray(0, 5), hello.subarray(5, 250), hello.subarray(250)]
      const lengths = [one, two].map(({ length }) => Buffer.of(22, 3, 1, length >> 8, length & 0xff))
      yield* send([head, one, two])
      yield* send([lengths[0]!, one, Buffer.concat([lengths[1]!, two])])
      yield* send([Buffer.from("GET / HTTP/1.1\r\n\r\n")])
      yield* send([Buffer.concat([hello.subarray(0, 60), Buffer.alloc(hello.length - 60, 0xff)])])
      assert.lengthOf(passages, 6)
      assert.lengthOf(hellos, 4)
      assert.lengthOf(hellos[1]!.offered, 1)
      for (const { offered, servername } of hellos.slice(2)) {
        assert.deepStrictEqual([offered, servername], [hellos[1]!.offered, "localhost"])
      }
    }))
})

describe("the recorder's faults", () => {
  it.scopedLive("do what their names say, and end when healed", () =>
    Effect.gen(function*() {
      const server = yield* nodeTlsServer({ key, cert })
      const { hellos, heal, inject, passages, port } = yield* recorder(server.port)
      const codeNow = Effect.map(Effect.flip(dial(port)), codeOf)

      yield* inject({ _tag: "Refuse" })
      assert.strictEqual(yield* codeNow, "ECONNREFUSED")
      assert.lengthOf(passages, 0)
      yield* heal
      yield* dial(port)

      yield* inject({ _tag: "BlackHole" }, 1)
      assert.strictEqual((yield* Effect.timeoutOption(dial(port), "100 millis"))._tag, "None")
      assert.strictEqual(passages[1]!.down, 0)
      yield* dial(port)

      yield* inject({ _tag: "CutAfterHello" })
      assert.strictEqual(yield* codeNow, "ECONNRESET")
      assert.lengthOf(hellos, 4)
      yield* inject({ _tag: "CutAfter", bytes: 100, by: "end" })
      assert.strictEqual(yield* codeNow, "ECONNRESET")
      assert.strictEqual(passages[4]!.down, 100)
      yield* heal
      const { full, resumed } = yield* Effect.repeat(server.report, {
        until: ({ full, resumed }) => full + resumed >= 2
      })
      assert.deepStrictEqual([full, resumed], [2, 0])
    }))

  it.scopedLive("corrupt a ticket, and no hello without one", () =>
    Effect.gen(function*() {
      const server = yield* nodeTlsServer({ key, cert })
      const { heal, hellos, inject, port } = yield* recorder(server.port)
      for (const options of [{}, with12]) {
        const session = (yield* dial(port, options)).sessions[0]!
        for (const part of ["identity", "binder"] as const) {
          yield* inject({ _tag: "Corrupt", part, byte: 40 })
          assert.isFalse((yield* dial(port, options)).reused)
          const hurt = yield* Effect.either(dial(port, { ...options, session }))
          // There are no binders in TLS 1.2.
          assert.strictEqual(Either.isLeft(hurt), part === "identity" || options !== with12)
          // The recorded bytes are those that the client has sent.
          const offered = hellos.at(-1)!.offered
          yield* heal
          assert.isTrue((yield* dial(port, { ...options, session })).reused)
          assert.deepStrictEqual(hellos.at(-1)!.offered, offered)
        }
      }
      yield* Effect.repeat(server.report, { until: ({ errors }) => errors.length === 3 })
    }))
})
