import { assert, describe } from "@effect/vitest"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import {
  connected,
  dial,
  dialing,
  isDone,
  lost,
  ofTag,
  pass,
  recorded,
  settle,
  steady,
  tagsOf,
  test
} from "../support/reconnectingSockets.js"

describe("the state of the socket", () => {
  test("is published by state, stateChanges and events, in order", () =>
    Effect.gen(function*() {
      const { events, server, socket } = yield* dialing(
        ReconnectingSocket.make({ dial, backoff: steady, onOpen: () => Effect.sleep("1 seconds") })
      )
      const states = yield* recorded(socket.stateChanges)
      yield* server.refuse(503)
      yield* pass(1000)
      const { open } = yield* server.next
      const peer = yield* open({ protocol: "v2" })
      yield* pass(1000)
      yield* pass(500)
      yield* peer.reset
      yield* settle
      yield* socket.close(4000, "bye")
      yield* settle
      const refused = ofTag(states.all, "Waiting")[0]!.failure
      const info = { code: 4000, reason: "bye", failure: Option.none() }
      assert.deepStrictEqual(states.all, [
        { _tag: "Dialing", attempt: 0 },
        { _tag: "Waiting", until: 1000, failure: refused, attempt: 1 },
        { _tag: "Dialing", attempt: 1 },
        { _tag: "Opening" },
        { _tag: "Open", since: 2000 },
        { _tag: "Waiting", until: 4500, failure: lost("Reset"), attempt: 2 },
        { _tag: "Closed", info }
      ])
      assert.deepStrictEqual(tagsOf(events).slice(-6), ["Waiting", "Dialing", "Opened", "Lost", "Waiting", "Closed"])
      assert.deepStrictEqual(ofTag(events, "Opened"), [{ _tag: "Opened", protocol: "v2" }])
    }))

  test("reaches each reader, from the current state on; a reader after the end gets the end", () =>
    Effect.gen(function*() {
      const { socket } = yield* connected(ReconnectingSocket.make({ dial }))
      const readers = [yield* recorded(socket.stateChanges), yield* recorded(socket.stateChanges)]
      yield* socket.close()
      const late = yield* recorded(socket.stateChanges)
      yield* settle
      for (const { all, fiber } of readers) {
        assert.deepStrictEqual(tagsOf(all), ["Open", "Closed"])
        yield* Fiber.join(fiber)
      }
      assert.deepStrictEqual(tagsOf(late.all), ["Closed"])
      yield* Fiber.join(late.fiber)
      yield* Stream.runDrain(socket.events)
    }))

  test("`Open` is awaited by awaitOpen, over any number of attempts", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* dialing(
        ReconnectingSocket.make({ dial, backoff: steady, onOpen: () => Effect.sleep("1 seconds") })
      )
      const waiting = yield* Effect.fork(Effect.all([socket.awaitOpen, socket.awaitOpen], { concurrency: "unbounded" }))
      const other = yield* Effect.fork(socket.awaitOpen)
      yield* server.refuse(503)
      yield* pass(1000)
      yield* Fiber.interrupt(other)
      const peer = yield* server.open
      yield* pass(999)
      assert.isFalse(yield* isDone(waiting))
      yield* pass(1)
      yield* Fiber.join(waiting)
      yield* socket.awaitOpen
      yield* peer.reset
      yield* settle
      const again = yield* Effect.fork(socket.awaitOpen)
      yield* settle
      assert.isFalse(yield* isDone(again))
    }))

  test("belongs to a value that isReconnectingSocket recognizes", () =>
    Effect.gen(function*() {
      const socket = yield* ReconnectingSocket.make({ dial })
      assert.isTrue(ReconnectingSocket.isReconnectingSocket(socket))
      assert.isFalse(ReconnectingSocket.isReconnectingSocket({}))
    }))
})
