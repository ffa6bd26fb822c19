import { assert, describe } from "@effect/vitest"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import type * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import { connected, dial, dialing, ofTag, pass, steady, test } from "../support/reconnectingSockets.js"

describe("the dial request", () => {
  test("is made again for each attempt", () =>
    Effect.gen(function*() {
      let n = 0
      const { server } = yield* dialing(ReconnectingSocket.make({
        dial: Effect.sync(() => ({ url: `ws://test/${n++}` })),
        backoff: steady
      }))
      assert.strictEqual((yield* server.next).request.url, "ws://test/0")
      yield* pass(10_000)
      yield* pass(1000)
      assert.strictEqual((yield* server.next).request.url, "ws://test/1")
    }))

  const bad: Record<string, Effect.Effect<WebSocketDialer.DialRequest, string>> = {
    "fails": Effect.fail("no address"),
    "dies": Effect.die(new Error("no address")),
    "hangs": Effect.never,
    "hangs, and cannot be interrupted": Effect.uninterruptible(Effect.never)
  }
  for (const [how, effect] of Object.entries(bad)) {
    test(`is a failed attempt if the effect ${how}`, () =>
      Effect.gen(function*() {
        let n = 0
        const { events, server, socket } = yield* dialing(ReconnectingSocket.make({
          dial: Effect.suspend((): typeof effect => n++ === 0 ? effect : Effect.succeed(dial)),
          backoff: steady
        }))
        yield* pass(how.startsWith("hangs") ? 10_000 : 0)
        assert.strictEqual((yield* socket.state)._tag, "Waiting")
        assert.lengthOf(ofTag(events, "Lost"), 0)
        yield* pass(1000)
        yield* server.open
        assert.strictEqual((yield* socket.state)._tag, "Open")
      }))
  }

  for (const maxPayload of [0, -1, 1.5, NaN, Infinity]) {
    test(`W17: fails the socket if its maxPayload is ${maxPayload}, and the error says so`, () =>
      Effect.gen(function*() {
        const { socket } = yield* dialing(ReconnectingSocket.make({ dial: { ...dial, maxPayload }, backoff: steady }))
        const { failure } = yield* Effect.flip(socket.awaitOpen) as Effect.Effect<ReconnectingSocket.SocketFailed>
        assert.deepInclude(failure, { _tag: "DialError", reason: "InvalidRequest" })
        assert.include(failure.message, `maxPayload: must be a whole number of at least 1, got ${maxPayload}`)
      }))
  }

  test("may need services, and a scope, which is the connection's", () =>
    Effect.gen(function*() {
      class Address extends Context.Tag("Address")<Address, string>() {}
      const released: Array<string> = []
      const { peer, server } = yield* connected(
        ReconnectingSocket.make({
          dial: Effect.flatMap(Address, (url) =>
            Effect.as(Effect.addFinalizer(() => Effect.sync(() => released.push(url))), { url })),
          backoff: steady
        }).pipe(Effect.provideService(Address, "ws://elsewhere"))
      )
      assert.deepStrictEqual(released, [])
      yield* peer.reset
      yield* pass(1000)
      assert.deepStrictEqual(released, ["ws://elsewhere"])
      assert.strictEqual((yield* server.next).request.url, "ws://elsewhere")
    }))
})
