import { assert, describe, it } from "@effect/vitest"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import {
  acknowledge,
  connected,
  dial,
  dialing,
  isDone,
  type Message,
  ofTag,
  onWires,
  pass,
  recorded,
  settle,
  steady,
  test,
  Wire
} from "../support/reconnectingSockets.js"

describe("with acknowledgements", () => {
  const sent = (from: number, to: number) => Array.from({ length: to - from }, (_, n) => `${from + n}`)

  test("W9: many messages are in flight; deliver and flush wait for their acknowledgements", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial, acknowledge }))
      const messages = yield* recorded(socket.messages)
      for (const n of sent(0, 5)) yield* socket.send(n)
      const delivering = yield* Effect.fork(socket.deliver("5"))
      yield* settle
      const flushing = yield* Effect.fork(socket.flush)
      yield* settle
      yield* socket.send("6")
      yield* settle
      assert.deepStrictEqual(peer.got, sent(0, 7))
      yield* peer.send("ack 4")
      yield* settle
      assert.isFalse((yield* isDone(delivering)) || (yield* isDone(flushing)))
      yield* peer.send("ack 5")
      yield* settle
      assert.isTrue((yield* isDone(delivering)) && (yield* isDone(flushing)))
      assert.deepStrictEqual(messages.all, [])
    }))

  for (const when of ["before its connection is lost", "while there is no connection"]) {
    test(`W9: a message is kept though its deliverer is interrupted ${when}: it may have arrived`, () =>
      Effect.gen(function*() {
        const { events, peer, server, socket } = yield* connected(
          ReconnectingSocket.make({ dial, acknowledge, backoff: steady })
        )
        yield* socket.send("0")
        const delivering = yield* Effect.fork(socket.deliver("1"))
        yield* settle
        yield* socket.send("2")
        yield* settle
        assert.deepStrictEqual(peer.got, sent(0, 3))
        if (when === "while there is no connection") yield* Effect.zipRight(peer.reset, settle)
        yield* Fiber.interrupt(delivering)
        const flushing = yield* Effect.fork(socket.flush)
        if (when !== "while there is no connection") yield* Effect.zipRight(peer.reset, settle)
        yield* pass(1000)
        const next = yield* server.open
        assert.deepStrictEqual(next.got, sent(0, 3))
        yield* next.send("ack 1")
        yield* settle
        assert.isFalse(yield* isDone(flushing))
        yield* next.send("ack 2")
        yield* Fiber.join(flushing)
        assert.lengthOf(ofTag(events, "Dropped"), 0)
      }))
  }

  test("W9: no more than the window is in flight", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(
        ReconnectingSocket.make({ dial, acknowledge: { ...acknowledge, window: 3 } })
      )
      for (const n of sent(0, 10)) yield* socket.send(n)
      yield* settle
      assert.deepStrictEqual(peer.got, sent(0, 3))
      yield* peer.send("ack 1")
      yield* settle
      assert.deepStrictEqual(peer.got, sent(0, 5))
    }))

  test("W9: a message takes room until it is acknowledged", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial, acknowledge, outbox: { capacity: 2 } }))
      yield* socket.send("0")
      yield* socket.send("1")
      yield* settle
      assert.strictEqual((yield* Effect.flip(socket.send("2")))._tag, "OutboxFull")
      yield* peer.send("ack 0")
      yield* socket.send("2")
    }))

  test("W13: acknowledgements that are unknown, repeated or early are ignored", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* connected(
        ReconnectingSocket.make({ dial, backoff: steady, acknowledge: { ...acknowledge, window: 2 } })
      )
      for (const n of sent(0, 4)) yield* socket.send(n)
      yield* settle
      // 3 has never been sent.
      for (const id of [99, -1, NaN, 3]) yield* peer.send(`ack ${id}`)
      yield* peer.send("ack 0")
      yield* peer.send("ack 0")
      yield* settle
      assert.deepStrictEqual(peer.got, sent(0, 3))
      yield* peer.reset
      yield* pass(1000)
      const second = yield* server.open
      assert.deepStrictEqual(second.got, sent(1, 3))
      yield* second.send("ack 2")
      yield* second.send("ack 1")
      yield* settle
      assert.deepStrictEqual(second.got, sent(1, 4))
      assert.lengthOf(ofTag(events, "Dropped"), 0)
    }))

  test("W9: unacknowledged messages are sent again, in order, before new ones", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* connected(
        ReconnectingSocket.make({ dial, backoff: steady, acknowledge })
      )
      for (const n of sent(0, 6)) yield* socket.send(n)
      yield* settle
      yield* peer.send("ack 2")
      yield* peer.reset
      for (const n of sent(6, 8)) yield* socket.send(n)
      yield* pass(1000)
      const second = yield* server.open
      assert.deepStrictEqual(second.got, sent(3, 8))
      assert.lengthOf(ofTag(events, "Dropped"), 0)
    }))

  test("W9: an acknowledgement that comes on the next connection, before the messages are sent again, counts", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: steady,
        acknowledge,
        onOpen: ({ send }) => Effect.zipRight(send("-1"), Effect.sleep("1 seconds"))
      }))
      yield* pass(1000)
      for (const n of sent(0, 6)) yield* socket.send(n)
      yield* settle
      yield* peer.reset
      yield* pass(1000)
      const second = yield* server.open
      yield* second.send("ack 3")
      yield* pass(1000)
      assert.deepStrictEqual(second.got, ["-1", ...sent(4, 6)])
    }))

  test("W9: a subscription is not acknowledged, and not kept", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(
        ReconnectingSocket.make({ dial, backoff: steady, acknowledge: { ...acknowledge, window: 1 } })
      )
      yield* socket.subscribe({ open: "+gold" })
      yield* settle
      yield* socket.send("0")
      yield* settle
      assert.deepStrictEqual(peer.got, ["+gold", "0"])
      yield* peer.reset
      yield* pass(1000)
      assert.deepStrictEqual((yield* server.open).got, ["+gold", "0"])
    }))

  test("W9: a message that has been sent does not expire, one that has not does", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: steady,
        acknowledge: { ...acknowledge, window: 1 },
        outbox: { timeToLive: "5 seconds" }
      }))
      yield* socket.send("0")
      yield* socket.send("1")
      yield* settle
      yield* pass(5_000)
      assert.deepStrictEqual(ofTag(events, "Expired").map(({ message }) => message), ["1"])
      yield* peer.reset
      yield* pass(1000)
      assert.deepStrictEqual((yield* server.open).got, ["0"])
    }))

  test("W9: identifiers may be any values that are equal", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        codec: { encode: (n: number) => `${n}`, decode: (message) => message },
        acknowledge: {
          id: (n: number) => Option.some(n),
          acknowledged: (message: Message) => Option.some(Option.some(Number(message)))
        }
      }))
      const delivering = yield* Effect.fork(socket.deliver(7))
      yield* settle
      yield* peer.send("7")
      yield* Fiber.join(delivering)
    }))

  test("W9: 2,000 messages all arrive, in order, though the connection is cut again and again", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: Schedule.spaced("10 millis"),
        acknowledge: { ...acknowledge, window: 64 },
        outbox: { capacity: 256, overflow: "suspend" }
      }))
      const sending = yield* Effect.fork(Effect.forEach(sent(0, 2000), (n) => socket.send(n), { discard: true }))
      const had: Array<Message> = []
      let last = peer
      let seed = 1
      // A generator of its own, so that every run has the same story.
      const random = (below: number) => {
        seed = (seed * 48_271) % 2_147_483_647
        return seed % below
      }
      const heed = (got: Array<Message>) => {
        for (const message of got.splice(0, 1 + random(20))) if (Number(message) === had.length) had.push(message)
      }
      for (let step = 0; had.length < 2000 && step < 5000; step++) {
        yield* settle
        heed(last.got)
        if (random(3) > 0) yield* last.send(`ack ${had.length - 1}`)
        if (random(8) === 0) {
          yield* last.reset
          yield* pass(10)
          last = yield* server.open
        }
      }
      assert.deepStrictEqual(had, sent(0, 2000))
      assert.isAtLeast(server.times.length, 20)
      yield* Fiber.join(sending)
    }))

  test("W9: of 5,000 queued for a server that dies on its first read, none is lost", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* dialing(ReconnectingSocket.make({
        dial,
        backoff: steady,
        acknowledge,
        outbox: { capacity: 5000 }
      }))
      for (const n of sent(0, 5000)) yield* socket.send(n)
      const { open } = yield* server.next
      const first = yield* open()
      assert.strictEqual(yield* first.receive, "0")
      yield* first.reset
      yield* pass(1000)
      const second = yield* server.open
      yield* Effect.repeatN(settle, 30)
      assert.deepStrictEqual(second.got, sent(0, 5000))
    }))

  for (const how of ["deliver", "send"] as const) {
    it.scoped(`W13: a consumer may ${how} one for each message, acknowledged behind more than the inbox holds`, () => {
      const wire = new Wire()
      return Effect.gen(function*() {
        const { socket } = yield* onWires([wire], {
          acknowledge,
          inbox: { capacity: 5 },
          outbox: { capacity: how === "send" ? 2 : 1024, overflow: "suspend" }
        })
        yield* settle
        let done = 0
        yield* Effect.forkScoped(
          Stream.runForEach(socket.messages, () => Effect.map(socket[how](`${done}`), () => done++))
        )
        const jobs = sent(0, 30)
        for (let turn = 0, acknowledged = 0; turn < 100; turn++) {
          if (!wire.isPaused) {
            if (jobs.length > 0) wire.say(`job ${jobs.shift()}`)
            else if (acknowledged < wire.taken.length) wire.say(`ack ${acknowledged++}`)
          }
          if (turn % 3 === 0 || jobs.length === 0) yield* settle
        }
        yield* settle
        assert.strictEqual(done, 30)
        assert.deepStrictEqual(wire.taken, sent(0, 30))
      })
    })
  }

  test("W9: a subscription does not wait behind a window that is full", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(
        ReconnectingSocket.make({ dial, acknowledge: { ...acknowledge, window: 1 } })
      )
      yield* socket.send("0")
      yield* socket.send("1")
      yield* settle
      yield* Effect.scoped(socket.subscribe({ open: "+gold", close: "-gold" }))
      yield* settle
      assert.deepStrictEqual(peer.got, ["0", "+gold", "-gold"])
      yield* peer.send("ack 0")
      yield* settle
      assert.deepStrictEqual(peer.got, ["0", "+gold", "-gold", "1"])
    }))
})
