import { assert, describe, it } from "@effect/vitest"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import {
  connected,
  dial,
  lost,
  ofTag,
  onWires,
  pass,
  recorded,
  settle,
  steady,
  test,
  Wire
} from "../support/reconnectingSockets.js"

describe("the heartbeat", () => {
  test("W4: keeps a connection whose peer answers, however silent it is otherwise", () =>
    Effect.gen(function*() {
      const { events, server, socket } = yield* connected(ReconnectingSocket.make({ dial }))
      yield* pass(600_000)
      assert.strictEqual((yield* socket.state)._tag, "Open")
      assert.deepStrictEqual(ofTag(events, "Lost"), [])
      assert.lengthOf(server.times, 1)
    }))

  it.scoped("W4: pings after 15 seconds of silence, and gives up 10 more later", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      const { events } = yield* onWires([wire], { backoff: steady })
      yield* pass(14_999)
      assert.strictEqual(wire.pings, 0)
      yield* pass(1)
      assert.strictEqual(wire.pings, 1)
      yield* pass(9_999)
      assert.lengthOf(ofTag(events, "Lost"), 0)
      yield* pass(1)
      assert.deepInclude(ofTag(events, "Lost")[0]!.failure as object, { reason: "HeartbeatTimeout" })
      assert.isTrue(wire.isTerminated)
    })
  })

  it.scoped("W4: beats on a clock of fractions, where the rest of a wait can be less than a nanosecond", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      // 15,000 later it is, to a double, 15,000 less 2e-12 later.
      yield* TestClock.adjust(1385.634)
      yield* onWires([wire], { backoff: steady })
      yield* pass(14_999)
      assert.strictEqual(wire.pings, 0)
      yield* pass(2)
      assert.strictEqual(wire.pings, 1)
    })
  })

  for (const sign of ["a message", "a control frame", "what does not decode"] as const) {
    it.scoped(`W4: takes ${sign} for a sign of life, before and after it has asked`, () => {
      const wire = new Wire()
      return Effect.gen(function*() {
        const { events } = yield* onWires([wire], {
          heartbeat: { interval: "4 seconds", timeout: "2 seconds" },
          codec: {
            encode: (message: string) => message,
            decode: (message) => {
              if (message === "bad") throw new Error("bad")
              return message
            }
          }
        })
        const live = () => sign === "a control frame" ? wire.control() : wire.say(sign === "a message" ? "x" : "bad")
        yield* pass(3_999)
        live()
        yield* pass(3_999)
        assert.strictEqual(wire.pings, 0)
        yield* pass(1)
        assert.strictEqual(wire.pings, 1)
        yield* pass(1_999)
        live()
        yield* pass(3_999)
        assert.deepStrictEqual([wire.pings, ofTag(events, "Lost").length], [1, 0])
        yield* pass(1)
        assert.strictEqual(wire.pings, 2)
        yield* pass(2_000)
        assert.lengthOf(ofTag(events, "Lost"), 1)
      })
    })
  }

  test("asks with a message of yours, and keeps its answer from `messages`", () =>
    Effect.gen(function*() {
      const { events, peer, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: steady,
        heartbeat: {
          interval: "5 seconds",
          timeout: "1 seconds",
          ping: "ping",
          isPong: (message) => message === "pong"
        }
      }))
      const messages = yield* recorded(socket.messages)
      yield* pass(4_999)
      assert.deepStrictEqual(peer.got, [])
      yield* pass(1)
      assert.deepStrictEqual(peer.got, ["ping"])
      yield* pass(999)
      yield* peer.send("pong")
      yield* peer.send("news")
      yield* pass(5_000)
      assert.deepStrictEqual(peer.got, ["ping", "ping"])
      yield* pass(999)
      assert.lengthOf(ofTag(events, "Lost"), 0)
      yield* pass(1)
      assert.deepInclude(ofTag(events, "Lost")[0]!.failure as object, { reason: "HeartbeatTimeout" })
      assert.deepStrictEqual(messages.all, ["news"])
    }))

  test("W4: asks anew on each connection, for as long as it lasts", () =>
    Effect.gen(function*() {
      const { peer, server } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: steady,
        heartbeat: { interval: "5 seconds", timeout: "1 seconds", ping: "ping" }
      }))
      yield* pass(3_000)
      yield* peer.reset
      yield* pass(1_000)
      const second = yield* server.open
      yield* pass(4_999)
      assert.deepStrictEqual(second.got, [])
      yield* pass(1)
      assert.deepStrictEqual(second.got, ["ping"])
      assert.deepStrictEqual(peer.got, [])
    }))

  it.scoped("W13: counts no silence while reading is paused", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires([wire], { inbox: { capacity: 2 } })
      yield* settle
      yield* pass(14_000)
      wire.say("1")
      wire.say("2")
      yield* settle
      assert.isTrue(wire.isPaused)
      yield* pass(3_600_000)
      assert.deepStrictEqual([wire.pings, ofTag(events, "Lost").length], [0, 0])
      yield* Stream.runDrain(Stream.take(socket.messages, 2))
      yield* settle
      assert.isFalse(wire.isPaused)
      yield* pass(14_999)
      assert.strictEqual(wire.pings, 0)
      yield* pass(1)
      assert.strictEqual(wire.pings, 1)
      yield* pass(10_000)
      assert.lengthOf(ofTag(events, "Lost"), 1)
    })
  })

  it.scoped("W13: has its deadline stopped by a pause that comes after the ping", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires([wire], { inbox: { capacity: 1 } })
      yield* pass(15_000)
      yield* pass(5_000)
      wire.say("1")
      yield* pass(3_600_000)
      assert.lengthOf(ofTag(events, "Lost"), 0)
      yield* Stream.runDrain(Stream.take(socket.messages, 1))
      yield* pass(24_999)
      assert.lengthOf(ofTag(events, "Lost"), 0)
      yield* pass(1)
      assert.lengthOf(ofTag(events, "Lost"), 1)
    })
  })

  for (
    const [name, can, heartbeat] of [["the platform has no ping", { ping: false }, undefined], [
      "it is off",
      {},
      false
    ]] as const
  ) {
    it.scoped(`does not ask where ${name}`, () => {
      const wire = new Wire(can)
      return Effect.gen(function*() {
        const { events, socket } = yield* onWires([wire], { heartbeat })
        yield* pass(3_600_000)
        assert.strictEqual((yield* socket.state)._tag, "Open")
        assert.deepStrictEqual([wire.pings, wire.taken.length, ofTag(events, "Lost").length], [0, 0, 0])
      })
    })
  }

  it.scoped("asks with your message where the platform has no ping", () => {
    const wire = new Wire({ ping: false })
    return Effect.gen(function*() {
      yield* onWires([wire], { heartbeat: { ping: "ping" } })
      yield* pass(15_000)
      assert.deepStrictEqual(wire.taken, ["ping"])
    })
  })

  it.scoped("W4: is not held up by a write that hangs", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires([wire], { backoff: steady, writeTimeout: "10 minutes" })
      yield* settle
      yield* socket.send("stuck")
      yield* pass(25_000)
      assert.deepInclude(ofTag(events, "Lost")[0]!.failure as object, { reason: "HeartbeatTimeout" })
    })
  })

  for (const when of ["before", "after"]) {
    it.scoped(`W4: is not kept waiting by a clock that is set back, ${when} it has asked`, () => {
      const wire = new Wire()
      return Effect.gen(function*() {
        const clock = yield* Effect.clock
        let back = 0
        const now = () => clock.unsafeCurrentTimeMillis() - back
        const { events } = yield* Effect.withClock(onWires([wire], { backoff: steady }), {
          [Clock.ClockTypeId]: Clock.ClockTypeId,
          unsafeCurrentTimeMillis: now,
          unsafeCurrentTimeNanos: () => clock.unsafeCurrentTimeNanos(),
          currentTimeMillis: Effect.sync(now),
          currentTimeNanos: clock.currentTimeNanos,
          sleep: (duration) => clock.sleep(duration)
        })
        yield* settle
        yield* pass(when === "before" ? 14_000 : 16_000)
        back = 3_600_000
        for (let second = 0; second < 30; second++) yield* pass(1_000)
        assert.deepStrictEqual(ofTag(events, "Lost").map(({ failure }) => failure), [lost("HeartbeatTimeout")])
      })
    })
  }
})
