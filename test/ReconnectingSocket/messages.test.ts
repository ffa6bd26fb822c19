import { assert, describe, it } from "@effect/vitest"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import {
  acknowledge,
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

describe("messages that come in", () => {
  test("W1: reach a late consumer in order, across connections", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(ReconnectingSocket.make({ dial, backoff: steady }))
      yield* peer.send("a")
      yield* peer.send(Uint8Array.of(1))
      yield* peer.reset
      yield* pass(1000)
      const second = yield* server.open
      yield* second.send("b")
      yield* settle
      assert.deepStrictEqual([...yield* Stream.runCollect(Stream.take(socket.messages, 3))], [
        "a",
        Uint8Array.of(1),
        "b"
      ])
    }))

  it.scoped("and are not read pause the connection, and none is lost", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires([wire], { inbox: { capacity: 3 } })
      yield* settle
      for (let n = 0; n < 3; n++) wire.say(`${n}`)
      yield* settle
      assert.isTrue(wire.isPaused)
      // Messages that were already on their way.
      wire.say("3")
      assert.deepStrictEqual(
        [...yield* Stream.runCollect(Stream.take(socket.messages, 4))],
        ["0", "1", "2", "3"]
      )
      yield* settle
      assert.isFalse(wire.isPaused)
      assert.strictEqual(wire.pauses, 1)
      assert.lengthOf(ofTag(events, "Lost"), 0)
    })
  })

  it.scoped("also pause the connection while it opens, and when it becomes open", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      const cue = yield* Deferred.make<void>()
      const { socket } = yield* onWires([wire], { inbox: { capacity: 3 }, onOpen: () => Deferred.await(cue) })
      yield* settle
      for (let n = 0; n < 3; n++) wire.say(`${n}`)
      yield* settle
      assert.isTrue(wire.isPaused)
      yield* Deferred.succeed(cue, undefined)
      yield* settle
      assert.isTrue(wire.isPaused)
      yield* Stream.runDrain(Stream.take(socket.messages, 3))
      yield* settle
      assert.isFalse(wire.isPaused)
    })
  })

  it.scoped("pause the next connection too, while messages of the last one are not read", () => {
    const wires = [new Wire(), new Wire()]
    return Effect.gen(function*() {
      const { socket } = yield* onWires(wires, { inbox: { capacity: 2 }, backoff: steady })
      yield* settle
      wires[0]!.say("0")
      wires[0]!.say("1")
      yield* settle
      wires[0]!.reset()
      yield* pass(1000)
      assert.isTrue(wires[1]!.isPaused)
      yield* Stream.runDrain(Stream.take(socket.messages, 2))
      yield* settle
      assert.isFalse(wires[1]!.isPaused)
    })
  })

  it.scoped("pause the connection at 16 MiB", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      yield* onWires([wire], {})
      yield* settle
      for (let n = 0; n < 15; n++) wire.say(new Uint8Array(1024 * 1024))
      yield* settle
      assert.isFalse(wire.isPaused)
      wire.say(new Uint8Array(1024 * 1024))
      yield* settle
      assert.isTrue(wire.isPaused)
    })
  })

  it.scoped("pause the connection even if they are empty and an answer is awaited", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], {})
      yield* settle
      yield* Effect.fork(socket.request("ask", { reply: () => Option.none() }))
      yield* settle
      let said = 0
      for (; said < 1_000_000 && !wire.isPaused; said += 1000) {
        for (let n = 0; n < 1000; n++) wire.say("")
        yield* settle
      }
      assert.isTrue(said > 1024 && said < 1_000_000)
    })
  })

  it.scoped("W13: acknowledge, and count as signs of life, even if the messages are not read", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], { inbox: { capacity: 2 }, acknowledge })
      yield* settle
      const delivering = yield* Effect.fork(socket.deliver("0"))
      yield* settle
      wire.say("news")
      wire.say("ack 0")
      yield* Fiber.join(delivering)
      assert.isFalse(wire.isPaused)
    })
  })

  test("faster than they are read end a connection that cannot be paused; earlier ones are delivered", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* connected(
        ReconnectingSocket.make({ dial, backoff: steady, inbox: { capacity: 2 }, acknowledge })
      )
      for (const message of ["0", "1", "ack 7", "2", "3"]) yield* peer.send(message)
      yield* settle
      assert.deepStrictEqual(ofTag(events, "Lost").map(({ failure }) => failure), [lost("InboxOverflow")])
      yield* pass(1000)
      const second = yield* server.open
      const messages = yield* recorded(socket.messages)
      yield* second.send("4")
      yield* settle
      assert.deepStrictEqual(messages.all, ["0", "1", "4"])
    }))

  for (
    const [name, message, longer] of [["text", "äääää", "äääääa"], [
      "bytes",
      new Uint8Array(10),
      new Uint8Array(11)
    ]] as const
  ) {
    test(`are at most so long (${name})`, () =>
      Effect.gen(function*() {
        const { events, peer, server, socket } = yield* connected(
          ReconnectingSocket.make({ dial, backoff: steady, maxPayload: 10 })
        )
        const messages = yield* recorded(socket.messages)
        yield* peer.send(message)
        yield* peer.send(longer)
        yield* settle
        assert.deepStrictEqual(messages.all, [message])
        assert.deepInclude(ofTag(events, "Lost")[0]!.failure as object, { reason: "InvalidData" })
        yield* pass(1000)
        assert.strictEqual((yield* server.next).request.maxPayload, 10)
      }))
  }

  test("go to one consumer at a time, one after the other", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial }))
      const first = yield* recorded(socket.messages)
      assert.isTrue(Exit.isFailure(yield* Effect.exit(Stream.runDrain(socket.messages))))
      yield* peer.send("a")
      yield* settle
      yield* Fiber.interrupt(first.fiber)
      yield* peer.send("b")
      const second = yield* recorded(socket.messages)
      assert.deepStrictEqual([first.all, second.all], [["a"], ["b"]])
    }))

  it.scoped("come in chunks that `Stream.runFold` can go through, however many they are", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      const count = 40_000
      const { socket } = yield* onWires([wire], { inbox: { capacity: 2 * count } })
      yield* settle
      for (let n = 1; n <= count; n++) wire.say(String(n))
      const taken = Stream.take(socket.messages, count)
      const inOrder = yield* Stream.runFold(
        taken,
        0,
        (before, message) => message === String(before + 1) ? before + 1 : -1
      )
      assert.strictEqual(inOrder, count)
    })
  })

  it.scoped("while the connection opens go to `messages` afterwards, however many they are", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      const count = 200_000
      const cue = yield* Deferred.make<void>()
      const { socket } = yield* onWires([wire], { inbox: { capacity: 2 * count }, onOpen: () => Deferred.await(cue) })
      yield* settle
      for (let n = 0; n < count; n++) wire.say("x")
      yield* Deferred.succeed(cue, undefined)
      yield* settle
      assert.strictEqual((yield* socket.state)._tag, "Open")
      assert.strictEqual(yield* Stream.runCount(Stream.take(socket.messages, count)), count)
    })
  })
})
