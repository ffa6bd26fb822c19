import { assert, describe } from "@effect/vitest"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Effect from "effect/Effect"
import {
  acknowledge,
  connected,
  dial,
  dialing,
  ofTag,
  pass,
  settle,
  steady,
  test
} from "../support/reconnectingSockets.js"

describe("reconnect", () => {
  test("while it dials gives the dial up, and dials now", () =>
    Effect.gen(function*() {
      const { events, server, socket } = yield* dialing(ReconnectingSocket.make({ dial, backoff: steady }))
      const hanging = yield* server.next
      yield* socket.reconnect
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

  test("while it opens drops the connection, and dials now", () =>
    Effect.gen(function*() {
      let n = 0
      const { events, peer, server, socket } = yield* connected(
        ReconnectingSocket.make({ dial, backoff: steady, onOpen: () => n++ === 0 ? Effect.never : Effect.void })
      )
      assert.strictEqual((yield* socket.state)._tag, "Opening")
      yield* socket.reconnect
      yield* server.open
      yield* peer.ended
      assert.strictEqual((yield* socket.state)._tag, "Open")
      assert.deepStrictEqual(server.times, [0, 0])
      assert.lengthOf(ofTag(events, "Lost"), 1)
    }))

  test("while it is open drops the connection, and dials now, once for all callers", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* connected(ReconnectingSocket.make({ dial, backoff: steady }))
      yield* Effect.all([socket.reconnect, socket.reconnect, socket.reconnect], { concurrency: "unbounded" })
      yield* server.open
      yield* peer.ended
      yield* pass(60_000)
      assert.deepStrictEqual(server.times, [0, 0])
      assert.deepStrictEqual(ofTag(events, "Lost").map(({ failure }) => failure._tag), ["ConnectionLost"])
      assert.strictEqual((yield* socket.state)._tag, "Open")
    }))

  test("while it waits dials now", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* dialing(ReconnectingSocket.make({ dial, backoff: steady }))
      yield* server.refuse(503, { "retry-after": "300" })
      yield* pass(10)
      yield* socket.reconnect
      yield* server.open
      assert.deepStrictEqual(server.times, [0, 10])
      yield* pass(300_000)
      assert.lengthOf(server.times, 2)
    }))

  test("when it is closed does nothing", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* connected(ReconnectingSocket.make({ dial }))
      yield* socket.close()
      yield* socket.reconnect
      yield* pass(60_000)
      assert.lengthOf(server.times, 1)
      assert.strictEqual((yield* socket.state)._tag, "Closed")
    }))

  test("loses nothing that is acknowledged", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* connected(ReconnectingSocket.make({ dial, acknowledge }))
      yield* socket.send("0")
      yield* settle
      yield* socket.reconnect
      yield* socket.send("1")
      assert.deepStrictEqual((yield* server.open).got, ["0", "1"])
    }))
})
