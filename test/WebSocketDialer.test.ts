import * as Undici from "@effect/platform-node/Undici"
import { assert, describe, it } from "@effect/vitest"
import { NodeWebSocketDialer } from "effect-holdfast/node"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import * as TestClock from "effect/TestClock"
import { inspect } from "node:util"
import { WebSocket } from "ws"
import { shown } from "../src/internal/socket/dialers.js"
import { closeFrame, eventually, halfOpen, serving } from "./support/loopbackWebSockets.js"

// -----------------------------------------------------------------------------
// servers
// -----------------------------------------------------------------------------

type Reported = WebSocketDialer.Message | "control" | WebSocketDialer.ConnectionClosed | WebSocketDialer.ConnectionLost

const listening = (connection: WebSocketDialer.Connection) =>
  Effect.gen(function*() {
    const reported = yield* Queue.unbounded<Reported>()
    yield* connection.listen({
      onMessage: (message) => reported.unsafeOffer(message),
      onControl: () => reported.unsafeOffer("control"),
      onEnd: (failure) => reported.unsafeOffer(failure)
    })
    return Queue.take(reported)
  })

const dialing = (request: WebSocketDialer.DialRequest) =>
  Effect.flatMap(WebSocketDialer.WebSocketDialer, ({ dial }) => dial(request))

const nextMessage = (socket: WebSocket) =>
  Effect.async<WebSocketDialer.Message>((resume) => {
    socket.once("message", (data: Buffer, isBinary) =>
      resume(Effect.succeed(isBinary ? new Uint8Array(data) : data.toString())))
  })

/** The platform's socket: Node 20 has none, so this is the class of `ws`, which has the same interface. */
const globalOf = (platforms: object) =>
  Layer.unwrapScoped(Effect.as(
    Effect.acquireRelease(
      Effect.sync(() => {
        const before = globalThis.WebSocket
        Object.assign(globalThis, { WebSocket: platforms })
        return before
      }),
      (before) => Effect.sync(() => Object.assign(globalThis, { WebSocket: before }))
    ),
    WebSocketDialer.layerGlobal
  ))

const global = globalOf(WebSocket)

const dialers = { Node: NodeWebSocketDialer.layer(), global }

for (const [name, dialer] of Object.entries(dialers)) {
  const test = (
    what: string,
    effect: () => Effect.Effect<unknown, unknown, Scope.Scope | WebSocketDialer.WebSocketDialer>
  ) => it.scopedLive(what, () => Effect.provide(effect(), dialer))

  describe(`a connection (${name})`, () => {
    test("carries text and bytes both ways, in order", () =>
      Effect.gen(function*() {
        const { accept, url } = yield* serving()
        const connection = yield* dialing({ url })
        const next = yield* listening(connection)
        const { socket } = yield* accept
        const received: Array<WebSocketDialer.Message> = []
        socket.on("message", (data: Buffer, isBinary) => {
          received.push(isBinary ? new Uint8Array(data) : data.toString())
        })
        const sent = Array.from({ length: 100 }, (_, n) => n % 2 === 0 ? `${n}` : Uint8Array.of(n))
        yield* connection.write(sent.slice(0, 60))
        yield* connection.write([])
        yield* connection.write(sent.slice(60))
        yield* eventually(() => received.length === 100)
        assert.deepStrictEqual(received, sent)
        for (const message of sent) socket.send(message)
        for (const message of sent) assert.deepStrictEqual(yield* next, message)
      }))

    test("loses no message that comes before `listen`", () =>
      Effect.gen(function*() {
        const { accept, url } = yield* serving()
        const dialed = yield* Effect.fork(dialing({ url }))
        const { socket } = yield* accept
        socket.send("first")
        socket.send("second")
        socket.close(4000, "enough")
        const connection = yield* Fiber.join(dialed)
        yield* Effect.sleep("20 millis")
        const next = yield* listening(connection)
        assert.deepStrictEqual([yield* next, yield* next], ["first", "second"])
        assert.deepStrictEqual(yield* next, new WebSocketDialer.ConnectionClosed({ code: 4000, reason: "enough" }))
      }))

    test("agrees on a subprotocol", () =>
      Effect.gen(function*() {
        const { accept, url } = yield* serving()
        const { protocol } = yield* dialing({ url: new URL(url), protocols: ["one", "two"] })
        assert.strictEqual(protocol, "two")
        assert.strictEqual((yield* accept).request.url, "/path")
      }))

    for (
      const [code, reported] of [[1000, 1000], [1001, 1001], [1008, 1008], [4401, 4401], [undefined, 1005]] as const
    ) {
      test(`W4: ends with the server's close frame (${code ?? "without a code"}), once`, () =>
        Effect.gen(function*() {
          const { accept, transports, url } = yield* serving()
          const connection = yield* dialing({ url })
          const next = yield* listening(connection)
          const { socket } = yield* accept
          socket.close(code)
          assert.deepStrictEqual(yield* next, new WebSocketDialer.ConnectionClosed({ code: reported, reason: "" }))
          yield* eventually(() => transports.size === 0)
          yield* connection.terminate
          const failure = yield* Effect.flip(connection.write(["late"]))
          assert.strictEqual(failure._tag, "ConnectionClosed")
        }))
    }

    test("is closed with a close frame, and ends with the peer's", () =>
      Effect.gen(function*() {
        const { accept, url } = yield* serving()
        const connection = yield* dialing({ url })
        const next = yield* listening(connection)
        const { socket } = yield* accept
        const closed = yield* Deferred.make<readonly [number, string]>()
        socket.on("close", (code, reason) => Deferred.unsafeDone(closed, Exit.succeed([code, reason.toString()])))
        yield* connection.close(4001, "bye")
        assert.deepStrictEqual(yield* Deferred.await(closed), [4001, "bye"])
        assert.strictEqual(((yield* next) as WebSocketDialer.ConnectionClosed).code, 4001)
      }))

    test("W4: is lost when the transport breaks", () =>
      Effect.gen(function*() {
        const { accept, transports, url } = yield* serving()
        const connection = yield* dialing({ url })
        const next = yield* listening(connection)
        yield* accept
        for (const transport of transports) transport.resetAndDestroy()
        const end = yield* next
        assert.deepInclude(end as object, { _tag: "ConnectionLost", reason: "Reset" })
        assert.strictEqual((yield* Effect.flip(connection.write(["late"])))._tag, "ConnectionLost")
      }))

    test("W7: lasts no longer than its scope", () =>
      Effect.gen(function*() {
        const { accept, transports, url } = yield* serving()
        const next = yield* Effect.scoped(Effect.flatMap(dialing({ url }), listening))
        yield* accept
        assert.strictEqual(((yield* next) as WebSocketDialer.ConnectionLost)._tag, "ConnectionLost")
        yield* eventually(() => transports.size === 0)
      }))

    test("to an unreachable server is a DialError", () =>
      Effect.gen(function*() {
        const { url } = yield* Effect.scoped(serving())
        const error = yield* Effect.flip(dialing({ url }))
        assert.deepInclude(error as object, { _tag: "DialError", reason: "Transport", url })
      }))

    test("that fails shows no credentials and no query", () =>
      Effect.gen(function*() {
        for (const scheme of ["ftp", "ws"]) {
          const error = yield* Effect.flip(dialing({ url: `${scheme}://user:secret@127.0.0.1:1/path?token=secret` }))
          assert.strictEqual(error.url, `${scheme}://127.0.0.1:1/path`)
          assert.notInclude(error.message, "secret")
        }
        const invalid = yield* Effect.flip(dialing({ url: "ws://user:secret@no host/?token=secret" }))
        assert.strictEqual(invalid.reason, "InvalidRequest")
        assert.notInclude(inspect(invalid), "secret")
      }))

    test("to an invalid URL is a DialError", () =>
      Effect.gen(function*() {
        for (const url of ["nonsense", "ftp://localhost", "ws://localhost/#fragment"]) {
          const error = yield* Effect.flip(dialing({ url }))
          assert.deepInclude(error as object, {
            _tag: "DialError",
            reason: "InvalidRequest",
            url: url.replace(/#.*/, "")
          })
        }
      }))

    test("that is abandoned while it opens leaves no connection", () =>
      Effect.gen(function*() {
        const { transports, url } = yield* serving((socket) => {
          socket.resume()
          socket.on("end", () => socket.destroy())
          return true
        })
        const dialed = yield* Effect.fork(dialing({ url }))
        yield* eventually(() => transports.size === 1)
        yield* Fiber.interrupt(dialed)
        yield* eventually(() => transports.size === 0)
      }))
  })
}

describe("a connection of Node", () => {
  for (const code of [1000, 1008, 4401, undefined]) {
    it.scopedLive(
      `W4: ends with a close frame (${code ?? "without a code"}) of a peer that leaves TCP open`,
      () =>
        Effect.gen(function*() {
          const { accept, url } = yield* halfOpen
          const connection = yield* Effect.provide(dialing({ url }), NodeWebSocketDialer.layer())
          const next = yield* listening(connection)
          const peer = yield* accept
          peer.write(Uint8Array.from([0x81, 0x01, 0x61, ...closeFrame(code), 0x81, 0x01, 0x62]))
          assert.strictEqual(yield* next, "a")
          assert.deepStrictEqual(
            yield* Effect.timeout(next, "10 seconds"),
            new WebSocketDialer.ConnectionClosed({ code: code ?? 1005, reason: "" })
          )
          assert.strictEqual((yield* Effect.flip(connection.write(["late"])))._tag, "ConnectionClosed")
          // The transport ends a second later: from then on a write to it is answered by a reset.
          yield* eventually(() => {
            peer.write("x")
            return peer.destroyed
          })
        }),
      { concurrent: true }
    )
  }

  it.scopedLive("W4: ends with the peer's answer to its own close frame, though the peer leaves TCP open", () =>
    Effect.gen(function*() {
      const { accept, url } = yield* halfOpen
      const connection = yield* Effect.provide(dialing({ url }), NodeWebSocketDialer.layer())
      const next = yield* listening(connection)
      const peer = yield* accept
      yield* connection.close(4000, "mine")
      peer.write(Uint8Array.from(closeFrame(4001, "theirs")))
      assert.deepStrictEqual(
        yield* Effect.timeout(next, "10 seconds"),
        new WebSocketDialer.ConnectionClosed({ code: 4001, reason: "theirs" })
      )
    }))

  it.scopedLive("W4: answers the peer's close frame, though it is terminated in the same moment", () =>
    Effect.gen(function*() {
      const { accept, url } = yield* serving()
      const connection = yield* Effect.provide(dialing({ url }), NodeWebSocketDialer.layer())
      yield* connection.listen({
        onMessage: () => {},
        onControl: () => {},
        onEnd: () => Effect.runSync(connection.terminate)
      })
      const { socket } = yield* accept
      const closed = yield* Deferred.make<number>()
      socket.on("close", (code) => Deferred.unsafeDone(closed, Exit.succeed(code)))
      socket.close(4401)
      assert.strictEqual(yield* Deferred.await(closed), 4401)
    }))

  const dial = (request: WebSocketDialer.DialRequest, options?: NodeWebSocketDialer.Options) =>
    Effect.provide(dialing(request), NodeWebSocketDialer.layer(options))

  it.scopedLive("reports the answer of a refused upgrade", () =>
    Effect.gen(function*() {
      const { transports, url } = yield* serving((socket) => {
        socket.end("HTTP/1.1 401 Unauthorized\r\nretry-after: 7\r\ncontent-length: 2\r\n\r\nno")
        return true
      })
      const error = yield* Effect.flip(dial({ url }))
      assert.deepStrictEqual([error.reason, error.status, error.headers?.["retry-after"]], ["Refused", 401, "7"])
      assert.strictEqual(error.message, `${url} refused the upgrade with 401`)
      yield* eventually(() => transports.size === 0)
    }))

  it.scopedLive.each([0, -1, 1.5, NaN, Infinity])(
    "refuses a maxPayload of %s, and connects to nothing",
    (maxPayload) =>
      Effect.gen(function*() {
        const { transports, url } = yield* serving()
        const error = yield* Effect.flip(dial({ url, maxPayload }))
        assert.include(String(error.cause), `maxPayload: must be a whole number of at least 1, got ${maxPayload}`)
        assert.strictEqual(transports.size, 0)
      })
  )

  it.scopedLive("sends the headers of its request", () =>
    Effect.gen(function*() {
      const { accept, url } = yield* serving()
      yield* dial({ url, headers: { authorization: "Bearer x" } })
      assert.strictEqual((yield* accept).request.headers.authorization, "Bearer x")
    }))

  it.scopedLive("pings, and reports pings and pongs", () =>
    Effect.gen(function*() {
      const { accept, url } = yield* serving()
      const connection = yield* dial({ url })
      const next = yield* listening(connection)
      const { socket } = yield* accept
      yield* Option.getOrThrow(connection.ping)
      assert.strictEqual(yield* next, "control")
      socket.ping()
      assert.strictEqual(yield* next, "control")
    }))

  const broken: Record<string, readonly [bytes: ReadonlyArray<number>, end: string]> = {
    "invalid UTF-8": [[0x81, 0x02, 0xc3, 0x28], "InvalidData"],
    "a frame with a reserved bit": [[0xc1, 0x01, 0x61], "InvalidData"],
    "an unknown opcode": [[0x83, 0x00], "InvalidData"],
    "a message that is too long": [[0x82, 0x7f, 0, 0, 0, 0, 0x06, 0x40, 0, 0], "InvalidData"]
  }
  for (const [what, [bytes, reason]] of Object.entries(broken)) {
    it.scopedLive(`is lost for ${what}`, () =>
      Effect.gen(function*() {
        const { accept, transports, url } = yield* serving()
        const next = yield* Effect.flatMap(dial({ url }), listening)
        yield* accept
        for (const transport of transports) transport.write(Uint8Array.from(bytes))
        assert.deepInclude((yield* next) as object, { _tag: "ConnectionLost", reason })
      }))
  }

  it.scopedLive("is lost for a frame that is cut off", () =>
    Effect.gen(function*() {
      const { accept, transports, url } = yield* serving()
      const next = yield* Effect.flatMap(dial({ url }), listening)
      yield* accept
      for (const transport of transports) transport.end(Uint8Array.from([0x81, 0x05, 0x61]))
      assert.deepInclude((yield* next) as object, { _tag: "ConnectionLost", reason: "Reset" })
    }))

  it.scopedLive("waits with a write for a peer that does not read, and can be interrupted", () =>
    Effect.gen(function*() {
      const { accept, url } = yield* serving()
      const connection = yield* dial({ url })
      const { socket } = yield* accept
      socket.pause()
      const large = new Uint8Array(1024 * 1024)
      const writing = yield* Effect.fork(connection.write(Array.from({ length: 32 }, () => large)))
      yield* Effect.sleep("50 millis")
      assert.isTrue(Option.isNone(yield* Fiber.poll(writing)))
      const second = yield* Effect.fork(connection.write(["behind"]))
      yield* Fiber.interrupt(second)
      yield* connection.terminate
      assert.strictEqual((yield* Effect.flip(Fiber.join(writing)))._tag, "ConnectionLost")
    }))

  it.scopedLive("makes the peer wait if it is paused", () =>
    Effect.gen(function*() {
      const { accept, url } = yield* serving()
      const connection = yield* dial({ url })
      const next = yield* listening(connection)
      const { pause, resume } = Option.getOrThrow(connection.backpressure)
      const { socket } = yield* accept
      yield* pause
      const large = new Uint8Array(1024 * 1024)
      for (let n = 0; n < 32; n++) socket.send(large)
      yield* Effect.sleep("50 millis")
      assert.isAbove(socket.bufferedAmount, 0)
      yield* resume
      for (let n = 0; n < 32; n++) assert.lengthOf((yield* next) as Uint8Array, large.length)
    }))

  it.scopedLive("sends messages that are written together in few packets", () =>
    Effect.gen(function*() {
      const { accept, transports, url } = yield* serving()
      const connection = yield* dial({ url })
      const { socket } = yield* accept
      let packets = 0
      for (const transport of transports) transport.on("data", () => packets++)
      const received = nextMessage(socket)
      yield* Effect.fork(connection.write(Array.from({ length: 200 }, (_, n) => `${n}`)))
      yield* received
      yield* Effect.sleep("20 millis")
      assert.isBelow(packets, 20)
    }))
})

/** A platform's socket that the test controls. */
class ManualSocket extends EventTarget {
  static current: ManualSocket
  readyState = 1
  bufferedAmount = 0
  readonly protocol = ""
  constructor() {
    super()
    ManualSocket.current = this
    queueMicrotask(() => this.dispatchEvent(new Event("open")))
  }
  send(): void {
    // As browsers do.
    if (this.readyState > 1) this.bufferedAmount++
  }
  close(): void {
    this.readyState = Math.max(this.readyState, 2)
  }
  closed(code: number): void {
    this.readyState = 3
    this.dispatchEvent(Object.assign(new Event("close"), { code, reason: "" }))
  }
}

describe("a connection of the platform", () => {
  const opened = Effect.gen(function*() {
    const connection = yield* Effect.provide(dialing({ url: "ws://manual" }), globalOf(ManualSocket))
    return { connection, next: yield* listening(connection), socket: ManualSocket.current }
  })

  for (const what of ["write", "check"] as const) {
    it.scoped(`W4: that closes without an end is given up three seconds after a ${what} has seen it`, () =>
      Effect.gen(function*() {
        const { connection, next, socket } = yield* opened
        const look = () => Effect.fork(Effect.exit(what === "write" ? connection.write(["x"]) : connection.check!))
        yield* Effect.flatMap(look(), Fiber.join)
        socket.readyState = 2
        yield* TestClock.adjust("1 minute")
        const looking = yield* look()
        const end = yield* Effect.fork(next)
        yield* TestClock.adjust("2999 millis")
        assert.isTrue(Option.isNone(yield* Fiber.poll(end)))
        yield* TestClock.adjust("1 millis")
        assert.deepInclude((yield* Fiber.join(end)) as object, { _tag: "ConnectionLost", reason: "Reset" })
        assert.strictEqual(Exit.isFailure(yield* Fiber.join(looking)), what === "write")
      }))

    it.scoped(`W4: reports the code if the end comes in time after a ${what}`, () =>
      Effect.gen(function*() {
        const { connection, next, socket } = yield* opened
        socket.readyState = 2
        yield* Effect.fork(Effect.exit(what === "write" ? connection.write(["x"]) : connection.check!))
        yield* TestClock.adjust("2 seconds")
        socket.closed(4401)
        assert.deepStrictEqual(yield* next, new WebSocketDialer.ConnectionClosed({ code: 4401, reason: "" }))
      }))
  }

  it.scoped("W4: a close by this side waits for the peer for any time", () =>
    Effect.gen(function*() {
      const { connection, next, socket } = yield* opened
      yield* connection.close(1000)
      yield* connection.check!
      yield* TestClock.adjust("1 minute")
      socket.closed(1000)
      assert.strictEqual(((yield* next) as WebSocketDialer.ConnectionClosed)._tag, "ConnectionClosed")
    }))

  it.scopedLive("W4: of undici ends after the peer's close frame, even if the peer leaves TCP open", () =>
    Effect.gen(function*() {
      const { accept, url } = yield* halfOpen
      const connection = yield* Effect.provide(dialing({ url }), globalOf(Undici.WebSocket))
      const next = yield* listening(connection)
      const peer = yield* accept
      peer.write(Uint8Array.from(closeFrame(1008)))
      yield* Effect.sleep("100 millis")
      yield* Effect.exit(connection.write(["x"]))
      assert.deepInclude((yield* next) as object, { _tag: "ConnectionLost", reason: "Reset" })
    }))

  it.scopedLive("is not dialed with headers that it could not send", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(dialing({ url: "ws://127.0.0.1:1", headers: { authorization: "secret" } }))
      assert.strictEqual(error.reason, "InvalidRequest")
      assert.notInclude(JSON.stringify(error), "secret")
    }).pipe(Effect.provide(global)))
})

describe("layerTest", () => {
  it.scoped("lets the test play the server", () =>
    Effect.gen(function*() {
      const { dial } = yield* WebSocketDialer.WebSocketDialer
      const { attempt } = yield* WebSocketDialer.TestServer

      const refused = yield* Effect.fork(Effect.flip(dial({ url: "ws://test", headers: { a: "1" } })))
      const first = yield* attempt
      assert.deepStrictEqual(first.request, { url: "ws://test", headers: { a: "1" } })
      yield* first.refuse(503, { "retry-after": "1" })
      const error = yield* Fiber.join(refused)
      assert.deepStrictEqual([error.reason, error.status, error.headers?.["retry-after"]], ["Refused", 503, "1"])

      const failing = yield* Effect.fork(Effect.flip(dial({ url: "ws://test" })))
      yield* Effect.flatMap(attempt, ({ fail }) => fail("down"))
      assert.strictEqual((yield* Fiber.join(failing)).reason, "Transport")

      const dialed = yield* Effect.fork(dial({ url: "ws://test" }))
      const peer = yield* Effect.flatMap(attempt, ({ open }) => open({ protocol: "p" }))
      const connection = yield* Fiber.join(dialed)
      yield* peer.send("early")
      const next = yield* listening(connection)
      yield* peer.ping
      yield* Option.getOrThrow(connection.ping)
      assert.deepStrictEqual([connection.protocol, yield* next, yield* next, yield* next], [
        "p",
        "early",
        "control",
        "control"
      ])
      yield* connection.write(["a", "b"])
      assert.deepStrictEqual([yield* peer.receive, yield* peer.receive], ["a", "b"])
      yield* peer.stall
      const writing = yield* Effect.fork(Effect.flip(connection.write(["c"])))
      yield* Effect.repeatN(Effect.yieldNow(), 10)
      assert.isTrue(Option.isNone(yield* Fiber.poll(writing)))
      yield* peer.close(1012)
      assert.deepStrictEqual(
        yield* Fiber.join(writing),
        new WebSocketDialer.ConnectionClosed({ code: 1012, reason: "" })
      )
      assert.deepStrictEqual(yield* next, yield* peer.ended)
    }).pipe(Effect.provide(WebSocketDialer.layerTest)))

  it.scoped("hands out only dials that are still wanted, in their order", () =>
    Effect.gen(function*() {
      const { dial } = yield* WebSocketDialer.WebSocketDialer
      const { attempt } = yield* WebSocketDialer.TestServer
      const dialing = (name: string) => Effect.zipLeft(Effect.fork(dial({ url: `ws://${name}` })), Effect.yieldNow())
      const interrupted = yield* dialing("interrupted")
      yield* Effect.fork(Effect.timeout(dial({ url: "ws://timed-out" }), "1 second"))
      yield* Effect.yieldNow()
      yield* dialing("first")
      yield* dialing("second")
      yield* Fiber.interrupt(interrupted)
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* attempt).request.url, "ws://first")
      assert.strictEqual((yield* attempt).request.url, "ws://second")
    }).pipe(Effect.provide(WebSocketDialer.layerTest)))

  it.scoped("gives a peer that has ended if the dial was given up, or has been answered", () =>
    Effect.gen(function*() {
      const { dial } = yield* WebSocketDialer.WebSocketDialer
      const { attempt } = yield* WebSocketDialer.TestServer
      const dialing = yield* Effect.fork(dial({ url: "ws://test" }))
      const { open } = yield* attempt
      yield* Fiber.interrupt(dialing)
      const late = yield* open()
      assert.strictEqual((yield* late.ended)._tag, "ConnectionLost")

      const answering = yield* Effect.fork(dial({ url: "ws://test" }))
      const other = yield* attempt
      const peer = yield* other.open()
      const second = yield* other.open()
      assert.strictEqual((yield* second.ended)._tag, "ConnectionLost")
      const connection = yield* Fiber.join(answering)
      yield* connection.write(["a"])
      assert.strictEqual(yield* peer.receive, "a")

      const meanwhile = yield* Effect.fork(dial({ url: "ws://test" }))
      const answered = yield* Effect.flatMap(attempt, ({ open }) => open())
      yield* Fiber.interrupt(meanwhile)
      assert.strictEqual((yield* answered.ended)._tag, "ConnectionLost")
    }).pipe(Effect.provide(WebSocketDialer.layerTest)))

  it.scoped("ends a connection with its scope", () =>
    Effect.gen(function*() {
      const { dial } = yield* WebSocketDialer.WebSocketDialer
      const { attempt } = yield* WebSocketDialer.TestServer
      const dialed = yield* Effect.fork(Effect.scoped(Effect.zipRight(dial({ url: "ws://test" }), Effect.never)))
      const peer = yield* Effect.flatMap(attempt, ({ open }) => open())
      yield* Effect.repeatN(Effect.yieldNow(), 10)
      yield* Fiber.interrupt(dialed)
      assert.strictEqual((yield* peer.ended)._tag, "ConnectionLost")
    }).pipe(Effect.provide(WebSocketDialer.layerTest)))
})

describe("the URL in an error", () => {
  it.each(["ws://u:canary@host/a?b#c", "ws:u:canary@host/a", "ws:/u:canary@host/a", "ws:\\\\u:canary@host/a"])(
    "of %s has no credentials",
    (url) => assert.strictEqual(shown(url), "ws://host/a")
  )

  it.each([
    "wss://feed.example.com:undefined/stream?user=me@corp.com&token=canary",
    "wss://host:99999/a#me@canary"
  ])("shows no query of a URL that cannot be parsed: %s", (url) => assert.notInclude(shown(url), "canary"))

  it.each(["/", "?", "#", "/?#@", "[", " /", "\\"])(
    "shows no password that makes a URL which cannot be parsed, with a %s in it",
    (part) => {
      for (const scheme of ["wss:", "WSS:", "ws:", ""]) {
        const text = shown(`${scheme}//user:can${part}ary@host.example/a?b#c`)
        assert.notMatch(text, /can|ary|user|b\b/)
      }
    }
  )
})
