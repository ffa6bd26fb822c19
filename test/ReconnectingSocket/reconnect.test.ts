import { assert, describe, it } from "@effect/vitest"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Session from "effect-holdfast/Session"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Schedule from "effect/Schedule"
import {
  acknowledge,
  connected,
  dial,
  dialing,
  ofTag,
  onWires,
  pass,
  settle,
  steady,
  tagsOf,
  test,
  Wire
} from "../support/reconnectingSockets.js"

describe("reconnect", () => {
  test("while the socket dials abandons the dial, and dials now", () =>
    Effect.gen(function*() {
      const { events, server, socket } = yield* dialing(ReconnectingSocket.make({ dial, backoff: steady }))
      const hanging = yield* server.next
      yield* socket.reconnect({ backoff: false })
      const fresh = yield* server.next
      yield* hanging.open()
      yield* settle
      assert.strictEqual((yield* socket.state)._tag, "Dialing")
      yield* fresh.open()
      yield* settle
      assert.strictEqual((yield* socket.state)._tag, "Open")
      assert.lengthOf(ofTag(events, "Lost"), 0)
      assert.deepStrictEqual(server.times, [0, 0])
    }))

  test("while a connection opens drops it, and dials now", () =>
    Effect.gen(function*() {
      let n = 0
      const { events, peer, server, socket } = yield* connected(
        ReconnectingSocket.make({ dial, backoff: steady, onOpen: () => n++ === 0 ? Effect.never : Effect.void })
      )
      assert.strictEqual((yield* socket.state)._tag, "Opening")
      yield* socket.reconnect({ backoff: false })
      yield* server.open
      yield* peer.ended
      assert.strictEqual((yield* socket.state)._tag, "Open")
      assert.deepStrictEqual(server.times, [0, 0])
      assert.lengthOf(ofTag(events, "Lost"), 1)
    }))

  test("while a connection is open drops it, and dials now, once for all callers", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* connected(ReconnectingSocket.make({ dial, backoff: steady }))
      yield* Effect.all([
        socket.reconnect({ backoff: false }),
        socket.reconnect({ backoff: false }),
        socket.reconnect({ backoff: false })
      ], { concurrency: "unbounded" })
      yield* server.open
      yield* peer.ended
      yield* pass(60_000)
      assert.deepStrictEqual(server.times, [0, 0])
      assert.deepStrictEqual(ofTag(events, "Lost").map(({ failure }) => failure._tag), ["ConnectionLost"])
      assert.strictEqual((yield* socket.state)._tag, "Open")
    }))

  describe("from an open connection", () => {
    const wires = () => [new Wire(), new Wire()] as const

    for (
      const { expected, how, openFor } of [
        { how: "dials now, once", openFor: 60_000, expected: ["Opened", "Lost", "Dialing", "Opened"] },
        {
          how: "W15: waits for the backoff if it was not stable",
          openFor: 1_000,
          expected: ["Opened", "Lost", "Waiting"]
        }
      ]
    ) {
      it.scoped(`that is called again while that connection is released: ${how}`, () =>
        Effect.gen(function*() {
          const former = new Wire({ released: Effect.sleep("1 second") })
          const { events, socket } = yield* onWires([former, new Wire()], { backoff: steady, heartbeat: false })
          yield* pass(openFor)
          yield* socket.reconnect()
          yield* settle
          yield* socket.reconnect()
          yield* pass(1_000)
          assert.deepStrictEqual<ReadonlyArray<string>>(tagsOf(events), expected)
        }))
    }

    it.scoped("leaves what is sent while that connection is closed to the next one", () =>
      Effect.gen(function*() {
        const [former, next] = wires()
        Object.assign(former.connection, { close: () => Effect.sleep("1 second") })
        const { events, socket } = yield* onWires<string, string>([former, next], { heartbeat: false })
        yield* settle
        yield* socket.reconnect({ backoff: false, code: 4000 })
        yield* settle
        yield* socket.send("a")
        yield* pass(1_000)
        assert.deepStrictEqual([former.taken, next.taken, ofTag(events, "Dropped")], [[], ["a"], []])
      }))

    it.scoped("that is closed with `close` meanwhile still sends what it holds", () =>
      Effect.gen(function*() {
        const [former, next] = wires()
        const { socket } = yield* onWires<string, string>([former, next], {
          heartbeat: false,
          renewAfter: "5 seconds",
          acknowledge: { ...acknowledge, id: (message) => message === "b" ? undefined : Number(message) }
        })
        yield* pass(4_000)
        yield* socket.send("1")
        // The replacement waits for the acknowledgement.
        yield* pass(1_000)
        yield* socket.send("b")
        const closing = yield* Effect.fork(Effect.zipRight(socket.reconnect(), socket.close()))
        yield* settle
        former.say("ack 1")
        yield* settle
        yield* Fiber.join(closing)
        assert.deepStrictEqual([former.taken, next.taken], [["1", "b"], []])
      }))

    it.scoped("W15: while its replacement waits to take over drops no message that was not handed over", () =>
      Effect.gen(function*() {
        const all = [...wires(), new Wire()]
        const { events, socket } = yield* onWires<string, string>(all, {
          heartbeat: false,
          renewAfter: "5 seconds",
          acknowledge: { ...acknowledge, id: (message) => message === "b" ? undefined : message }
        })
        yield* pass(4_000)
        yield* socket.send("a")
        // The replacement waits for the acknowledgement.
        yield* pass(1_000)
        all[0]!.isHeld = true
        yield* socket.send("b")
        yield* socket.reconnect({ backoff: false })
        yield* settle
        assert.deepStrictEqual([all.map(({ taken }) => taken), ofTag(events, "Dropped")], [[["a"], [], ["a", "b"]], []])
      }))

    it.scoped("W11: that is closed with 4401 in the same step: the next dial has a fresh value", () =>
      Effect.gen(function*() {
        const [former, next] = wires()
        const urls: Array<string> = []
        const dialer = WebSocketDialer.WebSocketDialer.of({
          dial: ({ url }) => Effect.sync(() => (urls.push(String(url)) === 1 ? former : next).connection)
        })
        let tokens = 0
        const token = Effect.sync(() => `token${++tokens}`)
        const session = yield* Session.make({ acquire: token, renew: () => token })
        const socket = yield* Effect.provideService(
          ReconnectingSocket.make({
            dial,
            backoff: steady,
            heartbeat: false,
            session: { session, attach: (request, token) => ({ ...request, url: `ws://test/${token}` }) }
          }),
          WebSocketDialer.WebSocketDialer,
          dialer
        )
        yield* settle
        former.over(new WebSocketDialer.ConnectionClosed({ code: 4401, reason: "expired" }))
        yield* socket.reconnect({ backoff: false })
        yield* settle
        assert.deepStrictEqual(urls, ["ws://test/token1", "ws://test/token2"])
        // A second refusal waits for the backoff.
        next.over(new WebSocketDialer.ConnectionClosed({ code: 4401, reason: "expired" }))
        yield* settle
        assert.deepStrictEqual([urls.length, (yield* socket.state)._tag], [2, "Waiting"])
      }))
  })

  test("while the socket waits dials now", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* dialing(ReconnectingSocket.make({ dial, backoff: steady }))
      yield* server.refuse(503, { "retry-after": "300" })
      yield* pass(10)
      yield* socket.reconnect({ backoff: false })
      yield* server.open
      assert.deepStrictEqual(server.times, [0, 10])
      yield* pass(300_000)
      assert.lengthOf(server.times, 2)
    }))

  test("when the socket is closed does nothing", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* connected(ReconnectingSocket.make({ dial }))
      yield* socket.close()
      yield* socket.reconnect({ backoff: false })
      yield* pass(60_000)
      assert.lengthOf(server.times, 1)
      assert.strictEqual((yield* socket.state)._tag, "Closed")
    }))

  test("W15: of a server that asks for one at every open comes at the schedule's pace", () =>
    Effect.gen(function*() {
      const { events, server, socket } = yield* dialing(ReconnectingSocket.make({ dial, backoff: steady }))
      for (const delay of [1000, 2000, 4000]) {
        yield* server.open
        yield* socket.reconnect()
        yield* pass(delay - 1)
        assert.strictEqual((yield* socket.state)._tag, "Waiting")
        yield* pass(1)
      }
      yield* server.open
      assert.deepStrictEqual(server.times, [0, 1000, 3000, 7000])
      assert.lengthOf(ofTag(events, "Lost"), 3)
    }))

  test("W15: is immediate from a stable connection, unless the delay is asked for", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* connected(ReconnectingSocket.make({ dial, backoff: steady, heartbeat: false }))
      yield* pass(30_000)
      yield* socket.reconnect()
      yield* server.open
      yield* pass(30_000)
      yield* socket.reconnect({ backoff: true })
      yield* pass(1000)
      yield* server.open
      assert.deepStrictEqual(server.times, [0, 30_000, 61_000])
    }))

  test("W15: is immediate during a wait, unless the delay is asked for: then the wait goes on", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* dialing(ReconnectingSocket.make({ dial, backoff: steady }))
      yield* server.refuse(503)
      yield* pass(500)
      yield* socket.reconnect()
      yield* server.refuse(503)
      yield* pass(500)
      yield* socket.reconnect({ backoff: true })
      yield* pass(1499)
      assert.deepStrictEqual(server.times, [0, 500])
      yield* pass(1)
      yield* server.open
      yield* pass(60_000)
      assert.deepStrictEqual(server.times, [0, 500, 2500])
    }))

  test("W15: abandons a dial that hangs immediately, and dials after the delay", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* dialing(ReconnectingSocket.make({ dial, backoff: steady }))
      yield* server.next
      yield* socket.reconnect()
      yield* settle
      assert.deepInclude((yield* socket.state) as object, { _tag: "Waiting", attempt: 1 })
      yield* pass(1000)
      yield* server.open
      assert.deepStrictEqual(server.times, [0, 1000])
    }))

  test("W15: ends the socket if the schedule has ended, without asking `retryable`", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: Schedule.recurs(1),
        retryable: () => false
      }))
      yield* socket.reconnect({ backoff: true })
      yield* pass(1)
      yield* server.open
      yield* socket.reconnect({ backoff: true })
      yield* settle
      assert.strictEqual((yield* Effect.flip(socket.awaitOpen))._tag, "SocketFailed")
    }))

  for (
    const [options, end] of [
      [{ code: 4000, reason: "again" }, new WebSocketDialer.ConnectionClosed({ code: 4000, reason: "again" })],
      [{ code: 1006 }, new WebSocketDialer.ConnectionClosed({ code: 1000, reason: "" })],
      [{}, new WebSocketDialer.ConnectionLost({ reason: "Reset", cause: "terminated" })]
    ] as const
  ) {
    test(`W15: sends ${"code" in options ? `a close frame (${options.code})` : "no close frame"}`, () =>
      Effect.gen(function*() {
        const { events, peer, server, socket } = yield* connected(ReconnectingSocket.make({ dial }))
        yield* socket.reconnect({ ...options, backoff: false })
        yield* server.open
        assert.deepStrictEqual(yield* peer.ended, end)
        assert.lengthOf(ofTag(events, "Lost"), 1)
      }))
  }

  for (const options of [null, 5, { code: "4000" }, { code: 4000, reason: 5 }, { code: 4000, reason: null }]) {
    test(`goes on with options that make no sense (${JSON.stringify(options)})`, () =>
      Effect.gen(function*() {
        const { peer, server, socket } = yield* connected(ReconnectingSocket.make({ dial, stableAfter: 0 }))
        yield* socket.reconnect(options as never)
        yield* server.open
        yield* peer.ended
        assert.strictEqual((yield* socket.state)._tag, "Open")
      }))
  }

  test("W15: goes on even if the peer does not answer the close frame", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(ReconnectingSocket.make({ dial }))
      yield* peer.stall
      yield* socket.reconnect({ backoff: false, code: 4000 })
      yield* server.open
      assert.strictEqual((yield* peer.ended)._tag, "ConnectionLost")
    }))

  test("W15: uses the options of the last call", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* connected(ReconnectingSocket.make({ dial, backoff: steady }))
      yield* Effect.all([socket.reconnect({ backoff: false }), socket.reconnect({ backoff: true })])
      yield* settle
      assert.lengthOf(server.times, 1)
      yield* pass(1000)
      yield* server.open
    }))

  test("loses no message that is to be acknowledged", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* connected(ReconnectingSocket.make({ dial, acknowledge }))
      yield* socket.send("0")
      yield* settle
      yield* socket.reconnect({ backoff: false })
      yield* socket.send("1")
      assert.deepStrictEqual((yield* server.open).got, ["0", "1"])
    }))
})
