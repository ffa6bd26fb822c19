import { assert, describe, it } from "@effect/vitest"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/TestClock"
import {
  connected,
  dial,
  dialing,
  failureOf,
  heard,
  isDone,
  type Message,
  ofTag,
  onWires,
  pass,
  settle,
  steady,
  test,
  Wire
} from "../support/reconnectingSockets.js"
import { settableTimeOfDay } from "../support/sessions.js"

describe("messages that are sent", () => {
  test("W1: leave in the order in which they were accepted, before and after the first open", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* dialing(ReconnectingSocket.make({ dial, backoff: steady }))
      yield* socket.send("0")
      yield* socket.send("1")
      const peer = yield* server.open
      yield* socket.send("2")
      yield* socket.send(Uint8Array.of(3))
      yield* settle
      assert.deepStrictEqual(peer.got, ["0", "1", "2", Uint8Array.of(3)])
    }))

  test("W1: keep their order across reconnects, even if they are sent while there is no connection", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(
        ReconnectingSocket.make({ dial, backoff: steady, stableAfter: 0 })
      )
      const got: Array<Message> = []
      let last = peer
      let n = 0
      for (let round = 0; round < 20; round++) {
        yield* socket.send(`${n++}`)
        yield* settle
        got.push(...last.got)
        yield* last.reset
        yield* socket.send(`${n++}`)
        yield* pass(500)
        yield* socket.send(`${n++}`)
        yield* pass(500)
        last = yield* server.open
      }
      yield* settle
      got.push(...last.got)
      assert.deepStrictEqual(got, Array.from({ length: n }, (_, n) => `${n}`))
    }))

  it.scoped("W1: are not handed to the next connection before the write on the last one has failed", () => {
    const wires = [new Wire({ isHeld: true }), new Wire()]
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires(wires, { backoff: steady })
      yield* settle
      yield* socket.send("a")
      yield* socket.send("b")
      yield* pass(9_999)
      assert.deepStrictEqual(wires[1]!.batches, [])
      yield* pass(1)
      yield* pass(1_000)
      assert.deepStrictEqual(ofTag(events, "Dropped").map(({ message }) => message), ["a"])
      assert.deepStrictEqual(wires[1]!.taken, ["b"])
    })
  })

  it.scoped("W10: are written in the sender's own step if nothing else is being written or waits", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], {})
      yield* settle
      const written = yield* Effect.map(socket.send("a"), () => wire.batches.length)
      assert.strictEqual(written, 1)
      yield* socket.send("b")
      yield* socket.send("c")
      assert.deepStrictEqual(wire.batches, [["a"]])
      assert.strictEqual(wire.inHands, 1)
      wire.take()
      yield* settle
      assert.deepStrictEqual(wire.batches, [["a"], ["b", "c"]])
    })
  })

  it.scoped("W1: are written one write at a time, in batches", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], {})
      yield* settle
      yield* socket.send("a")
      yield* settle
      yield* socket.send("b")
      yield* socket.send("c")
      yield* settle
      assert.deepStrictEqual(wire.batches, [["a"]])
      wire.take()
      yield* settle
      assert.deepStrictEqual(wire.batches, [["a"], ["b", "c"]])
    })
  })
})

describe("the outbox", () => {
  test("W1: drains to the connection that is open, never to one that has ended", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* connected(ReconnectingSocket.make({ dial, backoff: steady }))
      // Before any other fiber has noticed it.
      yield* peer.reset
      const delivering = yield* Effect.fork(socket.deliver("a"))
      yield* settle
      assert.isFalse(yield* isDone(delivering))
      yield* pass(1000)
      assert.deepStrictEqual((yield* server.open).got, ["a"])
      yield* Fiber.join(delivering)
      assert.lengthOf(ofTag(events, "Dropped"), 0)
    }))

  const down = (outbox: ReconnectingSocket.Options<Message, Message>["outbox"]) =>
    dialing(ReconnectingSocket.make({ dial, backoff: steady, outbox }))

  test("holds `capacity` messages, and refuses the next", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* down({ capacity: 2 })
      yield* socket.send("a")
      yield* socket.send("b")
      for (const refused of [socket.send("ccc"), socket.deliver("ccc")]) {
        const error = yield* Effect.flip(refused)
        assert.deepInclude(error as object, { _tag: "OutboxFull", bytes: 3 })
      }
      const peer = yield* server.open
      yield* socket.send("d")
      yield* settle
      assert.deepStrictEqual(peer.got, ["a", "b", "d"])
    }))

  test("holds 1,024 messages by default", () =>
    Effect.gen(function*() {
      const { socket } = yield* down({})
      for (let n = 0; n < 1024; n++) yield* socket.send(`${n}`)
      assert.strictEqual((yield* Effect.flip(socket.send("1024")))._tag, "OutboxFull")
    }))

  test("holds `bytes` bytes, counted as they are sent", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* down({ bytes: 10 })
      yield* socket.send("äöü")
      yield* socket.send(new Uint8Array(4))
      assert.strictEqual((yield* Effect.flip(socket.send("x")))._tag, "OutboxFull")
      const peer = yield* server.open
      assert.lengthOf(peer.got, 2)
      yield* socket.send("0123456789")
    }))

  test("holds 16 MiB by default", () =>
    Effect.gen(function*() {
      const { socket } = yield* down({})
      yield* socket.send(new Uint8Array(16 * 1024 * 1024))
      assert.deepInclude((yield* Effect.flip(socket.send("x"))) as object, { _tag: "OutboxFull", bytes: 1 })
    }))

  for (const overflow of ["fail", "suspend", "dropOldest", "dropNewest"] as const) {
    test(`that is to "${overflow}" takes no message that is longer than all its bytes, and keeps the others`, () =>
      Effect.gen(function*() {
        const { events, server, socket } = yield* down({ bytes: 10, overflow })
        yield* socket.send("a")
        assert.strictEqual((yield* Effect.flip(socket.send("0123456789x")))._tag, "OutboxFull")
        assert.strictEqual((yield* Effect.flip(socket.deliver("0123456789x")))._tag, "OutboxFull")
        assert.lengthOf(ofTag(events, "Dropped"), 0)
        assert.deepStrictEqual((yield* server.open).got, ["a"])
      }))
  }

  test("W1: that is to \"suspend\" makes senders wait, in order, until there is room", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* down({ capacity: 2, overflow: "suspend" })
      yield* socket.send("a")
      yield* socket.send("b")
      const third = yield* Effect.fork(socket.send("c"))
      yield* settle
      const fourth = yield* Effect.fork(socket.deliver("d"))
      yield* pass(1000)
      assert.isFalse((yield* isDone(third)) || (yield* isDone(fourth)))
      const peer = yield* server.open
      yield* Fiber.join(third)
      yield* Fiber.join(fourth)
      assert.deepStrictEqual(peer.got, ["a", "b", "c", "d"])
    }))

  it.scoped("W1: that is to \"suspend\" lets no sender overtake one that waits for more room", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], { outbox: { bytes: 10, overflow: "suspend", window: 1 } })
      yield* socket.send("12345678")
      yield* settle
      const long = yield* Effect.fork(socket.send("abcdefgh"))
      yield* settle
      const short = yield* Effect.fork(socket.send("x"))
      yield* settle
      assert.isFalse(yield* isDone(short))
      wire.isHeld = false
      wire.take()
      yield* settle
      assert.isTrue((yield* isDone(long)) && (yield* isDone(short)))
      assert.deepStrictEqual(wire.taken, ["12345678", "abcdefgh", "x"])
    })
  })

  test("that is to \"dropOldest\" makes room, with an event each", () =>
    Effect.gen(function*() {
      const { events, server, socket } = yield* down({ capacity: 3, bytes: 10, overflow: "dropOldest" })
      const first = yield* Effect.fork(socket.deliver("1"))
      yield* settle
      for (const message of ["2", "3", "4", "123456789"]) yield* socket.send(message)
      yield* settle
      assert.strictEqual(failureOf(yield* Fiber.await(first))._tag, "OutboxFull")
      assert.deepStrictEqual(
        ofTag(events, "Dropped"),
        ["1", "2", "3"].map((message) => ({ _tag: "Dropped", message, reason: "Overflow" } as const))
      )
      assert.deepStrictEqual((yield* server.open).got, ["4", "123456789"])
    }))

  it.scoped("that is to \"dropOldest\" drops nothing that was handed to a connection", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], { outbox: { capacity: 2, overflow: "dropOldest" } })
      yield* settle
      yield* socket.send("a")
      yield* settle
      yield* socket.send("b")
      yield* socket.send("c")
      wire.isHeld = false
      wire.take()
      yield* settle
      assert.deepStrictEqual(wire.taken, ["a", "c"])
    })
  })

  it.scoped("that is to \"dropOldest\" drops nothing if that would not make room enough", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires([wire], { outbox: { bytes: 100, window: 60, overflow: "dropOldest" } })
      const messages = ["a".repeat(60), "b".repeat(10), "c".repeat(10)]
      for (const message of messages) {
        yield* settle
        yield* socket.send(message)
      }
      assert.strictEqual((yield* Effect.flip(socket.send("d".repeat(50))))._tag, "OutboxFull")
      wire.isHeld = false
      wire.take()
      yield* settle
      assert.deepStrictEqual(wire.taken, messages)
      assert.lengthOf(ofTag(events, "Dropped"), 0)
    })
  })

  test("that is to \"dropNewest\" drops the new message, with an event, and fails its deliverer", () =>
    Effect.gen(function*() {
      const { events, server, socket } = yield* down({ capacity: 1, overflow: "dropNewest" })
      yield* socket.send("a")
      yield* socket.send("b")
      assert.strictEqual((yield* Effect.flip(socket.deliver("c")))._tag, "OutboxFull")
      yield* settle
      assert.deepStrictEqual(
        ofTag(events, "Dropped"),
        ["b", "c"].map((message) => ({ _tag: "Dropped", message, reason: "Overflow" } as const))
      )
      assert.deepStrictEqual((yield* server.open).got, ["a"])
    }))

  test("drops a message when its time to live is over, to the millisecond", () =>
    Effect.gen(function*() {
      const { events, server, socket } = yield* down({ timeToLive: "1 seconds" })
      yield* pass(300)
      const delivering = yield* Effect.fork(socket.deliver("a"))
      yield* pass(999)
      yield* socket.send("b")
      assert.isFalse(yield* isDone(delivering))
      assert.lengthOf(ofTag(events, "Expired"), 0)
      yield* pass(1)
      assert.strictEqual(failureOf(yield* Fiber.await(delivering))._tag, "MessageExpired")
      assert.deepStrictEqual(ofTag(events, "Expired"), [{ _tag: "Expired", message: "a" }])
      yield* pass(998)
      assert.lengthOf(ofTag(events, "Expired"), 1)
      yield* pass(1)
      assert.deepStrictEqual(ofTag(events, "Expired").map(({ message }) => message), ["a", "b"])
      yield* socket.send("c")
      assert.deepStrictEqual((yield* server.open).got, ["c"])
    }))

  test("has room again when a message has expired", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* down({ capacity: 1, overflow: "suspend", timeToLive: "1 seconds" })
      yield* socket.send("a")
      const waiting = yield* Effect.fork(socket.send("b"))
      yield* pass(500)
      assert.isFalse(yield* isDone(waiting))
      const delivering = yield* Effect.fork(socket.deliver("c"))
      yield* pass(500)
      // The age of messages that wait for room counts, too.
      assert.isTrue(yield* isDone(waiting))
      yield* pass(499)
      assert.isFalse(yield* isDone(delivering))
      yield* pass(1)
      assert.strictEqual(failureOf(yield* Fiber.await(delivering))._tag, "MessageExpired")
      assert.deepStrictEqual((yield* server.open).got, [])
    }))

  test("does not wait for a timer to notice that a message is too old", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* down({ timeToLive: "1 seconds" })
      yield* socket.send("old")
      const attempt = yield* server.next
      yield* TestClock.adjust("1 seconds")
      const peer = yield* Effect.flatMap(attempt.open(), heard)
      yield* socket.send("new")
      yield* settle
      assert.deepStrictEqual(peer.got, ["new"])
    }))

  test("drops messages in time although the clock is set back or forward by an hour", () =>
    Effect.gen(function*() {
      const { timeOfDay, withTimeOfDay } = yield* settableTimeOfDay
      for (const offset of [-3_600_000, 3_600_000]) {
        timeOfDay.offset = 0
        const { events, socket } = yield* withTimeOfDay(down({ timeToLive: "1 seconds" }))
        yield* withTimeOfDay(socket.send("before"))
        timeOfDay.offset = offset
        yield* pass(100)
        yield* withTimeOfDay(socket.send("after"))
        assert.lengthOf(ofTag(events, "Expired"), 0)
        yield* pass(900)
        assert.deepStrictEqual(ofTag(events, "Expired").map(({ message }) => message), ["before"])
        yield* pass(100)
        assert.deepStrictEqual(ofTag(events, "Expired").map(({ message }) => message), ["before", "after"])
      }
    }))

  it.scoped("never drops a message that was handed to a connection", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires([wire], { outbox: { timeToLive: "1 seconds" } })
      yield* settle
      yield* socket.send("a")
      yield* pass(5_000)
      wire.take()
      yield* settle
      assert.deepStrictEqual(wire.taken, ["a"])
      assert.lengthOf(ofTag(events, "Expired"), 0)
    })
  })

  it.scoped("W9: never hands a connection more than the window", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], { outbox: { window: 10 } })
      yield* settle
      const lengths = [4, 6, 1, 9, 1, 25, 3, 3, 3, 3]
      for (const length of lengths) yield* socket.send("x".repeat(length))
      for (let n = 0; n < lengths.length; n++) {
        yield* settle
        assert.isAtMost(wire.inHands, wire.batches.at(-1)!.length === 1 ? 25 : 10)
        wire.take()
      }
      yield* settle
      assert.deepStrictEqual(wire.taken.map(({ length }) => length), lengths)
      assert.deepStrictEqual(
        wire.batches.map((batch) => batch.map(({ length }) => length)).filter(({ length }) => length > 0),
        [[4], [6, 1], [9, 1], [25], [3, 3, 3], [3]]
      )
    })
  })

  it.scoped("W9: hands a connection one mebibyte by default, of ten that are queued", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], {})
      for (let n = 0; n < 160; n++) yield* socket.send("x".repeat(64 * 1024))
      yield* settle
      wire.take()
      yield* settle
      assert.strictEqual(wire.most, 1024 * 1024)
    })
  })

  for (const overflow of ["fail", "suspend"] as const) {
    test(`W7: removes a message when its deliverer is interrupted ("${overflow}")`, () =>
      Effect.gen(function*() {
        const { events, server, socket } = yield* down({ capacity: 1, overflow })
        const delivering = yield* Effect.fork(socket.deliver("back"))
        yield* settle
        yield* Fiber.interrupt(delivering)
        yield* socket.send("a")
        assert.deepStrictEqual((yield* server.open).got, ["a"])
        assert.lengthOf(ofTag(events, "Dropped"), 0)
      }))
  }

  test("W7: removes a message when its sender is interrupted while it waits for room, and accepts the next one", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* down({ bytes: 10, overflow: "suspend" })
      yield* socket.send("12345678")
      const long = yield* Effect.fork(socket.send("too long for now"))
      const waiting = yield* Effect.fork(socket.send("abcdefgh"))
      yield* settle
      const short = yield* Effect.fork(socket.send("x"))
      yield* settle
      assert.isTrue(yield* isDone(long))
      assert.isFalse(yield* isDone(short))
      yield* Fiber.interrupt(waiting)
      yield* settle
      assert.isTrue(yield* isDone(short), "no waiting message is left before it")
      assert.deepStrictEqual((yield* server.open).got, ["12345678", "x"])
    }))

  it.scoped("W7: does not tear a write that has begun when its deliverer is interrupted", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], {})
      yield* settle
      const delivering = yield* Effect.fork(socket.deliver("a"))
      yield* settle
      yield* Fiber.interrupt(delivering)
      yield* socket.send("b")
      wire.isHeld = false
      wire.take()
      yield* settle
      assert.deepStrictEqual(wire.taken, ["a", "b"])
    })
  })
})

describe("deliver", () => {
  it.scoped("succeeds when the message has been written, not before", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], {})
      yield* settle
      const delivering = yield* Effect.fork(socket.deliver("a"))
      yield* settle
      assert.isFalse(yield* isDone(delivering))
      wire.take()
      yield* settle
      assert.isTrue(Exit.isSuccess(yield* Fiber.await(delivering)))
    })
  })

  it.scoped("W9: fails with MessageLost when its connection was lost, and does not send the message again", () => {
    const wires = [new Wire({ isHeld: true }), new Wire()]
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires(wires, { backoff: steady })
      yield* settle
      const first = yield* Effect.fork(socket.deliver("a"))
      yield* settle
      const second = yield* Effect.fork(socket.deliver("b"))
      yield* settle
      wires[0]!.reset()
      yield* pass(1000)
      assert.strictEqual(failureOf(yield* Fiber.await(first))._tag, "MessageLost")
      yield* Fiber.join(second)
      assert.deepStrictEqual(wires[1]!.taken, ["b"])
      assert.deepStrictEqual(ofTag(events, "Dropped"), [{ _tag: "Dropped", message: "a", reason: "Lost" }])
    })
  })
})

describe("flush", () => {
  test("of an empty outbox succeeds immediately, whatever the state", () =>
    Effect.gen(function*() {
      const { socket } = yield* dialing(ReconnectingSocket.make({ dial }))
      yield* socket.flush
    }))

  it.scoped("waits for the messages accepted so far, and for none that comes later", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], { outbox: { window: 1 } })
      yield* settle
      yield* socket.send("a")
      yield* socket.send("b")
      const flushing = yield* Effect.fork(socket.flush)
      yield* settle
      yield* socket.send("c")
      yield* settle
      wire.take()
      yield* settle
      assert.isFalse(yield* isDone(flushing))
      wire.take()
      yield* settle
      assert.isTrue(yield* isDone(flushing))
      assert.deepStrictEqual(wire.taken, ["a", "b"])
    })
  })

  it.scoped("does not wait for messages that were dropped", () => {
    const wires = [new Wire({ isHeld: true }), new Wire({ isHeld: true })]
    return Effect.gen(function*() {
      const { socket } = yield* onWires(wires, { backoff: steady, outbox: { timeToLive: "30 seconds" } })
      yield* settle
      yield* socket.send("lost")
      yield* settle
      const back = yield* Effect.fork(socket.deliver("taken back"))
      yield* socket.send("expires")
      const flushing = yield* Effect.fork(socket.flush)
      yield* settle
      wires[0]!.reset()
      yield* settle
      yield* Fiber.interrupt(back)
      assert.isFalse(yield* isDone(flushing))
      const second = yield* Effect.fork(socket.flush)
      yield* Fiber.interrupt(second)
      yield* pass(999)
      wires[1]!.isHeld = false
      yield* pass(1)
      assert.isTrue(yield* isDone(flushing))
    })
  })
})
