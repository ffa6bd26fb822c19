import { assert, describe } from "@effect/vitest"
import * as Backoff from "effect-holdfast/Backoff"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Schedule from "effect/Schedule"
import {
  dial,
  dialing,
  failureOf,
  isDone,
  ofTag,
  pass,
  recorded,
  steady,
  test
} from "../support/reconnectingSockets.js"

describe("the backoff", () => {
  test("W3: gives the delay before each attempt: 0 is the first dial, the k-th delay comes before attempt k", () =>
    Effect.gen(function*() {
      const { events, server } = yield* dialing(ReconnectingSocket.make({
        dial,
        backoff: Backoff.exponential({ initial: "1 seconds", max: "5 seconds", jitter: "none" })
      }))
      for (const delay of [1000, 2000, 4000, 5000, 5000]) {
        yield* server.refuse(503)
        yield* pass(delay - 1)
        assert.lengthOf(server.unanswered, 0)
        yield* pass(1)
        assert.lengthOf(server.unanswered, 1)
      }
      assert.deepStrictEqual(server.times, [0, 1000, 3000, 7000, 12_000, 17_000])
      assert.deepStrictEqual(ofTag(events, "Waiting").map(({ attempt }) => attempt), [1, 2, 3, 4, 5])
      assert.deepStrictEqual(ofTag(events, "Dialing").map(({ attempt }) => attempt).slice(-5), [1, 2, 3, 4, 5])
      assert.deepStrictEqual(ofTag(events, "Waiting").map(({ until }) => until), server.times.slice(1))
    }))

  test("W3: continues after connections that were not stable", () =>
    Effect.gen(function*() {
      const { server } = yield* dialing(ReconnectingSocket.make({ dial, backoff: steady }))
      for (const delay of [1000, 2000, 4000]) {
        const peer = yield* server.open
        yield* pass(29_999)
        yield* peer.reset
        yield* pass(delay - 1)
        assert.lengthOf(server.unanswered, 0)
        yield* pass(1)
        assert.lengthOf(server.unanswered, 1)
      }
    }))

  test("W3: starts again after a connection that was stable", () =>
    Effect.gen(function*() {
      const { events, server } = yield* dialing(
        ReconnectingSocket.make({ dial, backoff: steady, stableAfter: "1 minutes" })
      )
      yield* server.refuse(503)
      yield* pass(1000)
      yield* server.refuse(503)
      yield* pass(2000)
      const peer = yield* server.open
      yield* pass(60_000)
      yield* peer.reset
      yield* pass(999)
      assert.lengthOf(server.unanswered, 0)
      yield* pass(1)
      assert.lengthOf(server.unanswered, 1)
      yield* server.refuse(503)
      yield* pass(2000)
      assert.lengthOf(server.unanswered, 1)
      assert.deepStrictEqual(ofTag(events, "Waiting").map(({ attempt }) => attempt), [1, 2, 1, 2])
    }))

  test("W3: counts the time for which a connection was open, not the outage before it", () =>
    Effect.gen(function*() {
      const { server } = yield* dialing(ReconnectingSocket.make({ dial, backoff: steady }))
      for (const delay of [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]) {
        yield* server.refuse(503)
        yield* pass(delay)
      }
      const peer = yield* server.open
      yield* peer.reset
      yield* pass(29_999)
      assert.lengthOf(server.unanswered, 0)
      yield* pass(1)
      assert.lengthOf(server.unanswered, 1)
    }))

  test("W13: that ends closes the socket", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* dialing(
        ReconnectingSocket.make({ dial, backoff: Schedule.fromDelays("1 seconds", "3 seconds") })
      )
      const messages = yield* recorded(socket.messages)
      for (const delay of [1000, 3000]) {
        yield* server.refuse(503)
        assert.isFalse(yield* isDone(messages.fiber))
        yield* pass(delay)
      }
      yield* server.refuse(502)
      const failure = failureOf(yield* Fiber.await(messages.fiber))
      assert.strictEqual(failure._tag, "SocketFailed")
      assert.deepInclude(failure.failure as object, { _tag: "DialError", status: 502 })
      assert.strictEqual((yield* socket.state)._tag, "Closed")
    }))

  test("W3: waits as long as a refusing server asks for", () =>
    Effect.gen(function*() {
      const { events, server } = yield* dialing(ReconnectingSocket.make({ dial, backoff: steady }))
      yield* server.refuse(503, { "Retry-After": "120" })
      yield* pass(119_999)
      assert.lengthOf(server.unanswered, 0)
      yield* pass(1)
      // Shorter than the delay: the delay goes.
      yield* server.refuse(429, { "retry-after": "1" })
      yield* pass(1999)
      assert.lengthOf(server.unanswered, 0)
      yield* pass(1)
      assert.lengthOf(server.unanswered, 1)
      assert.deepStrictEqual(ofTag(events, "Waiting").map(({ until }) => until), [120_000, 122_000])
    }))

  test("W13: waits at most five minutes for a server that asks for more", () =>
    Effect.gen(function*() {
      const { server } = yield* dialing(ReconnectingSocket.make({ dial, backoff: steady }))
      yield* server.refuse(503, { "retry-after": "86400" })
      yield* pass(299_999)
      assert.lengthOf(server.unanswered, 0)
      yield* pass(1)
      assert.lengthOf(server.unanswered, 1)
    }))

  test("W3: comes after a dial that takes too long, too", () =>
    Effect.gen(function*() {
      const { events, server } = yield* dialing(
        ReconnectingSocket.make({ dial, backoff: steady, openTimeout: "3 seconds" })
      )
      yield* server.next
      yield* pass(3000)
      assert.deepInclude(ofTag(events, "Waiting")[0]!.failure as object, { _tag: "DialError", reason: "Timeout" })
      yield* pass(999)
      assert.lengthOf(server.unanswered, 0)
      yield* pass(1)
      assert.lengthOf(server.unanswered, 1)
    }))

  test("W3: dials one attempt after the other where a schedule has no delays, and lets other fibers run", () =>
    Effect.gen(function*() {
      const { server } = yield* dialing(ReconnectingSocket.make({ dial, backoff: Schedule.recurs(5) }))
      for (let n = 0; n < 6; n++) yield* server.refuse(503)
      yield* pass(10_000)
      assert.lengthOf(server.times, 6)
    }))
})
