import { assert, describe } from "@effect/vitest"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import {
  connected,
  dial,
  dialing,
  ofTag,
  pass,
  recorded,
  settle,
  steady,
  test
} from "../support/reconnectingSockets.js"

describe("onOpen", () => {
  const failing: Record<string, Effect.Effect<void, string>> = {
    "fails": Effect.fail("no"),
    "dies": Effect.die("no"),
    "hangs": Effect.never,
    "hangs, and cannot be interrupted": Effect.uninterruptible(Effect.never),
    "interrupts itself": Effect.interrupt
  }
  for (const [how, effect] of Object.entries(failing)) {
    test(`W5: that ${how} is tried again on the next connection, with the backoff's next delay`, () =>
      Effect.gen(function*() {
        let n = 0
        const { events, server, socket } = yield* dialing(ReconnectingSocket.make({
          dial,
          backoff: steady,
          onOpen: () => n++ < 3 ? effect : Effect.void
        }))
        yield* socket.send("queued")
        for (const delay of [1000, 2000, 4000]) {
          const peer = yield* server.open
          if (how.startsWith("hangs")) {
            yield* pass(9_999)
            assert.strictEqual((yield* socket.state)._tag, "Opening")
            yield* pass(1)
          }
          assert.strictEqual((yield* socket.state)._tag, "Waiting")
          assert.deepStrictEqual(peer.got, [])
          yield* peer.ended
          yield* pass(delay - 1)
          assert.lengthOf(server.unanswered, 0)
          yield* pass(1)
        }
        const peer = yield* server.open
        assert.deepStrictEqual(peer.got, ["queued"])
        const failures = ofTag(events, "Lost").map(({ failure }) => failure as WebSocketDialer.ConnectionLost)
        assert.deepStrictEqual(failures.map(({ reason }) => reason), ["OnOpenFailed", "OnOpenFailed", "OnOpenFailed"])
        if (how === "fails" || how === "dies") assert.strictEqual(failures[0]!.cause, "no")
        assert.strictEqual(n, 4)
      }))
  }

  test("W5: has the open timeout, and so has the dial before it", () =>
    Effect.gen(function*() {
      let takes = 2_999
      const { events, server, socket } = yield* dialing(ReconnectingSocket.make({
        dial,
        backoff: steady,
        openTimeout: "3 seconds",
        onOpen: () => Effect.sleep(takes)
      }))
      yield* pass(2_999)
      const peer = yield* server.open
      yield* pass(2_998)
      assert.strictEqual((yield* socket.state)._tag, "Opening")
      yield* pass(1)
      assert.strictEqual((yield* socket.state)._tag, "Open")
      assert.deepStrictEqual(ofTag(events, "Lost"), [])

      takes = Infinity
      yield* peer.reset
      yield* pass(1000)
      const second = yield* server.open
      yield* pass(2_999)
      assert.strictEqual((yield* socket.state)._tag, "Opening")
      yield* pass(1)
      assert.strictEqual((yield* socket.state)._tag, "Waiting")
      yield* second.ended
      const { failure } = ofTag(events, "Lost")[1]!
      assert.isTrue(failure._tag === "ConnectionLost" && Cause.isTimeoutException(failure.cause))

      yield* pass(2000)
      yield* pass(2_999)
      assert.strictEqual((yield* socket.state)._tag, "Dialing")
      yield* pass(1)
      assert.deepInclude(yield* socket.state, {
        _tag: "Waiting",
        failure: new WebSocketDialer.DialError({ reason: "Timeout", url: "ws://test" })
      })
    }))

  test("W5: shares the open timeout with the subscriptions, for a peer that reads nothing", () =>
    Effect.gen(function*() {
      const { events, server, socket } = yield* dialing(ReconnectingSocket.make({
        dial,
        backoff: steady,
        openTimeout: "3 seconds",
        writeTimeout: "1 minute",
        onOpen: () => Effect.sleep("2 seconds")
      }))
      yield* socket.subscribe({ open: "gold" })
      const peer = yield* server.open
      yield* peer.stall
      yield* pass(2_999)
      assert.strictEqual((yield* socket.state)._tag, "Opening")
      yield* pass(1)
      assert.deepInclude(ofTag(events, "Lost")[0]!.failure as object, {
        _tag: "ConnectionLost",
        reason: "OnOpenFailed"
      })
    }))

  test("W5: that throws is a failure like any other", () =>
    Effect.gen(function*() {
      const { events } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: steady,
        onOpen: () => {
          throw new Error("no")
        }
      }))
      assert.deepInclude(ofTag(events, "Lost")[0]!.failure as object, {
        _tag: "ConnectionLost",
        reason: "OnOpenFailed"
      })
    }))

  test("W9a: is done, and so are the subscriptions, before anything else is sent, on each connection", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* dialing(ReconnectingSocket.make({
        dial,
        backoff: steady,
        onOpen: ({ receive, send }) =>
          Effect.gen(function*() {
            yield* send("login")
            assert.strictEqual(yield* receive, "ok")
            yield* Effect.sleep("6 seconds")
            yield* send("ready")
          })
      }))
      yield* socket.send("first")
      yield* socket.subscribe({ open: "+gold" })
      for (let round = 0; round < 3; round++) {
        const peer = yield* server.open
        assert.strictEqual((yield* socket.state)._tag, "Opening")
        yield* socket.send(`while opening ${round}`)
        yield* peer.send("ok")
        yield* pass(5_000)
        assert.deepStrictEqual(peer.got, ["login"])
        yield* pass(1_000)
        assert.deepStrictEqual(peer.got.slice(0, 3), ["login", "ready", "+gold"])
        assert.deepStrictEqual(peer.got.slice(3), [...round === 0 ? ["first"] : [], `while opening ${round}`])
        yield* peer.reset
        yield* pass(1000 * 2 ** round)
      }
    }))

  test("leaves messages that it does not receive to `messages`, in order", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        onOpen: ({ receive }) => Effect.zipRight(receive, Effect.sleep("1 seconds"))
      }))
      const messages = yield* recorded(socket.messages)
      for (const message of ["welcome", "a", "b"]) yield* peer.send(message)
      yield* pass(500)
      assert.deepStrictEqual(messages.all, [])
      yield* pass(500)
      yield* peer.send("c")
      yield* settle
      assert.deepStrictEqual(messages.all, ["a", "b", "c"])
    }))

  test("that fails leaves messages that it has not received to `messages`, in their place", () =>
    Effect.gen(function*() {
      let n = 0
      const { peer, server, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: steady,
        onOpen: () => n++ === 0 ? Effect.zipRight(Effect.sleep("1 seconds"), Effect.fail("no")) : Effect.void
      }))
      const messages = yield* recorded(socket.messages)
      yield* peer.send("a")
      yield* pass(1000)
      yield* pass(1000)
      yield* Effect.flatMap(server.open, ({ send }) => send("b"))
      yield* settle
      assert.deepStrictEqual(messages.all, ["a", "b"])
    }))

  test("W5: gets the loss of its connection as the failure of receive and send", () =>
    Effect.gen(function*() {
      const tags: Array<unknown> = []
      const { events, peer, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: steady,
        onOpen: ({ receive, send }) =>
          Effect.gen(function*() {
            tags.push((yield* Effect.flip(receive))._tag)
            tags.push((yield* Effect.flip(send("late")))._tag)
          }).pipe(Effect.uninterruptible)
      }))
      yield* peer.close(4000)
      yield* settle
      assert.deepStrictEqual(tags, ["ConnectionClosed", "ConnectionClosed"])
      assert.deepStrictEqual(ofTag(events, "Lost").map(({ failure }) => failure._tag), ["ConnectionClosed"])
      assert.strictEqual((yield* socket.state)._tag, "Waiting")
    }))

  test("W5: that fails on a lost connection is published as that loss", () =>
    Effect.gen(function*() {
      const { events, peer } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: steady,
        onOpen: ({ receive }) => Effect.mapError(receive, () => "no welcome")
      }))
      yield* peer.close(4000)
      yield* settle
      assert.deepStrictEqual(
        ofTag(events, "Lost").map(({ failure }) => failure),
        [new WebSocketDialer.ConnectionClosed({ code: 4000, reason: "" })]
      )
    }))

  test("W8: fails if it sends a message that cannot be encoded", () =>
    Effect.gen(function*() {
      const { events, peer } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: steady,
        codec: { encode: (n: number) => n as never, decode: () => 0 },
        onOpen: ({ send }) => send(1)
      }))
      assert.deepStrictEqual(peer.got, [])
      assert.deepInclude(ofTag(events, "Lost")[0]!.failure as object, { reason: "OnOpenFailed" })
    }))

  test("W5: has the connection's scope; a release that hangs does not delay the next connection", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const cue = yield* Deferred.make<void>()
      let n = 0
      const { peer, server } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: steady,
        onOpen: () =>
          Effect.suspend(() => {
            const own = n++
            return Effect.acquireRelease(
              Effect.sync(() => log.push(`+${own}`)),
              () =>
                Effect.zipRight(Effect.sync(() => log.push(`-${own}`)), own === 0 ? Deferred.await(cue) : Effect.void)
            )
          })
      }))
      yield* pass(1000)
      assert.deepStrictEqual(log, ["+0"])
      yield* peer.reset
      yield* pass(1000)
      yield* server.open
      assert.deepStrictEqual(log, ["+0", "-0", "+1"])
      // The test's own scope waits for it.
      yield* Deferred.succeed(cue, undefined)
    }))
})
