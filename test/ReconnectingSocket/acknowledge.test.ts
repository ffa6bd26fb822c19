/**
 * Acknowledgements of existing protocols: for some messages only, in any order, with marked repeats, and for messages
 * that make the server end the connection.
 */
import { assert, describe } from "@effect/vitest"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import type * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Effect from "effect/Effect"
import * as Equal from "effect/Equal"
import * as Fiber from "effect/Fiber"
import * as Hash from "effect/Hash"
import * as Option from "effect/Option"
import {
  dial,
  failureOf,
  isDone,
  lossesOf,
  ofTag,
  opened,
  pass,
  recorded,
  settle,
  test
} from "../support/reconnectingSockets.js"

/** Numbers have an identifier, and other messages have none. */
const byNumber = {
  id: (message: string) => /^\d+/.exec(message)?.[0],
  acknowledged: (message: string) => message.startsWith("ack ") ? message.slice(4).split(",") : []
}

const droppedOf = (events: ReadonlyArray<ReconnectingSocket.SocketEvent>) =>
  ofTag(events, "Dropped").map(({ message, reason }) => `${String(message)}: ${reason}`)

const rejectedOf = (events: ReadonlyArray<ReconnectingSocket.SocketEvent>) =>
  ofTag(events, "Rejected").map(({ callback }) => callback)

const sendAll = (
  socket: ReconnectingSocket.ReconnectingSocket<string, string>,
  ...messages: ReadonlyArray<string>
) => Effect.forEach(messages, socket.send, { discard: true })

describe("acknowledge.id that gives undefined", () => {
  test("W9: such a message overtakes a full window, takes no place in it, and is delivered when it is written", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened({ acknowledge: { ...byNumber, window: 1 } })
      yield* sendAll(socket, "1", "2")
      yield* settle
      yield* Effect.all([socket.deliver("pong"), socket.deliver("pong")])
      yield* settle
      assert.deepStrictEqual(peer.got, ["1", "pong", "pong"])
      const flushing = yield* Effect.fork(socket.flush)
      yield* settle
      assert.isFalse(yield* isDone(flushing))
      yield* peer.send("ack 1")
      yield* settle
      assert.deepStrictEqual(peer.got, ["1", "pong", "pong", "2"])
      assert.isFalse(yield* isDone(flushing))
      yield* peer.send("ack 2")
      yield* Fiber.join(flushing)
    }))

  test("W9: it is sent at most once: on a loss it is dropped, and `deliver` fails with MessageLost", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* opened({ acknowledge: byNumber })
      yield* socket.send("1")
      yield* socket.send("written")
      yield* settle
      yield* peer.stall
      const delivering = yield* Effect.fork(Effect.exit(socket.deliver("pong")))
      yield* settle
      yield* socket.send("2")
      yield* settle
      yield* socket.send("queued")
      yield* peer.reset
      yield* settle
      assert.strictEqual(failureOf(yield* Fiber.join(delivering))._tag, "MessageLost")
      assert.deepStrictEqual(droppedOf(events), ["pong: Lost"])
      yield* pass(1_000)
      const next = yield* server.open
      assert.deepStrictEqual(next.got, ["1", "2", "queued"])
    }))

  test("W9: an acknowledgement of a later message does not count for one without an identifier", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* opened({ acknowledge: byNumber })
      yield* sendAll(socket, "1", "2")
      yield* settle
      yield* peer.reset
      yield* settle
      yield* socket.send("queued")
      yield* pass(1_000)
      const next = yield* Effect.flatMap(server.next, ({ open }) => open())
      // Acknowledged before anything is sent on this connection.
      yield* next.send("ack 2")
      yield* settle
      assert.strictEqual(yield* next.receive, "queued")
    }))

  test("W1: without a full window messages leave in the order in which they were accepted", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* opened({ acknowledge: byNumber })
      yield* peer.reset
      yield* settle
      yield* sendAll(socket, "1", "a", "2", "b", "3")
      yield* pass(1_000)
      assert.deepStrictEqual((yield* server.open).got, ["1", "a", "2", "b", "3"])
    }))

  test("outbox: it counts there like any other, and has its time to live", () =>
    Effect.gen(function*() {
      const { events, peer, socket } = yield* opened({
        acknowledge: byNumber,
        outbox: { capacity: 2, timeToLive: "500 millis" }
      })
      yield* peer.reset
      yield* settle
      yield* sendAll(socket, "a", "b")
      assert.strictEqual(failureOf(yield* Effect.exit(socket.send("c")))._tag, "OutboxFull")
      yield* pass(600)
      assert.deepStrictEqual(ofTag(events, "Expired").map(({ message }) => message), ["a", "b"])
    }))

  test("W7: an interrupted delivery takes it back while it is queued", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* opened({ acknowledge: byNumber })
      yield* peer.reset
      yield* settle
      const delivering = yield* Effect.fork(socket.deliver("pong"))
      yield* settle
      yield* Fiber.interrupt(delivering)
      yield* socket.send("1")
      yield* pass(1_000)
      assert.deepStrictEqual((yield* server.open).got, ["1"])
    }))
})

describe("acknowledge.acknowledged that gives an array", () => {
  test("W9: all its identifiers are acknowledged, an empty array acknowledges nothing", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened({ acknowledge: { ...byNumber, cumulative: false } })
      const messages = yield* recorded(socket.messages)
      const delivering = yield* Effect.fork(Effect.forEach(["1", "2", "3"], socket.deliver, { concurrency: 3 }))
      yield* settle
      yield* peer.send("news")
      yield* peer.send("ack 3,1,unknown,1")
      yield* settle
      assert.isFalse(yield* isDone(delivering))
      yield* peer.send("ack 2")
      yield* Fiber.join(delivering)
      assert.deepStrictEqual(messages.all, ["news"])
    }))

  test("W8: neither an array nor an Option is a typed event, and the message goes to `messages`", () =>
    Effect.gen(function*() {
      const { events, peer, socket } = yield* opened({ acknowledge: { ...byNumber, acknowledged: () => "1" as never } })
      const messages = yield* recorded(socket.messages)
      yield* socket.send("1")
      yield* peer.send("news")
      yield* settle
      assert.deepStrictEqual(rejectedOf(events), ["acknowledged"])
      assert.deepStrictEqual(messages.all, ["news"])
    }))
})

describe("acknowledge.cumulative", () => {
  test("W13: an acknowledgement of a message that has not been sent yet is ignored", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened({ acknowledge: { ...byNumber, window: 1 } })
      yield* sendAll(socket, "1", "2")
      yield* settle
      yield* peer.send("ack 2")
      yield* settle
      assert.deepStrictEqual(peer.got, ["1"])
      yield* peer.send("ack 1")
      yield* settle
      assert.deepStrictEqual(peer.got, ["1", "2"])
    }))

  test("W9: by default it is for its message and all earlier ones", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* opened({ acknowledge: byNumber })
      yield* sendAll(socket, "1", "2", "3")
      yield* settle
      yield* peer.send("ack 2")
      yield* settle
      yield* peer.reset
      yield* pass(1_000)
      assert.deepStrictEqual((yield* server.open).got, ["3"])
    }))

  test("W9: false: it is for its message alone, in any order; other messages are sent again in their order", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* opened({ acknowledge: { ...byNumber, cumulative: false } })
      yield* sendAll(socket, "1", "2", "3", "4")
      yield* settle
      yield* peer.send("ack 4")
      yield* peer.send("ack 2")
      yield* peer.send("ack 2")
      yield* settle
      yield* peer.reset
      yield* pass(1_000)
      const next = yield* server.open
      assert.deepStrictEqual(next.got, ["1", "3"])
      const flushing = yield* Effect.fork(socket.flush)
      yield* next.send("ack 3")
      yield* settle
      assert.isFalse(yield* isDone(flushing))
      yield* next.send("ack 1")
      yield* Fiber.join(flushing)
    }))

  test("W9: false: each acknowledgement makes room for one in the window", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened({ acknowledge: { ...byNumber, cumulative: false, window: 2 } })
      yield* sendAll(socket, "1", "2", "3", "4")
      yield* settle
      assert.deepStrictEqual(peer.got, ["1", "2"])
      yield* peer.send("ack 2")
      yield* settle
      assert.deepStrictEqual(peer.got, ["1", "2", "3"])
      yield* peer.send("ack 3")
      yield* settle
      assert.deepStrictEqual(peer.got, ["1", "2", "3", "4"])
    }))
})

describe("acknowledge.resent", () => {
  const marking = { ...byNumber, resent: (message: string, times: number) => `${message} again ${times}` }

  test("W9: marks each repeat, made from the original message, in its place and with its identifier", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* opened({ acknowledge: marking })
      yield* sendAll(socket, "1", "2")
      yield* settle
      assert.deepStrictEqual(peer.got, ["1", "2"])
      yield* peer.reset
      yield* settle
      yield* socket.send("3")
      yield* pass(1_000)
      const second = yield* server.open
      assert.deepStrictEqual(second.got, ["1 again 1", "2 again 1", "3"])
      yield* second.reset
      yield* pass(2_000)
      const third = yield* server.open
      assert.deepStrictEqual(third.got, ["1 again 2", "2 again 2", "3 again 1"])
      yield* third.send("ack 3")
      yield* socket.flush
    }))

  const faults: ReadonlyArray<readonly [name: string, resent: () => string]> = [
    ["throws", () => {
      throw new Error("no mark")
    }],
    ["gives a message that cannot be encoded", () => 1 as never]
  ]
  for (const [name, resent] of faults) {
    test(`W8: a function that ${name} is a typed event, and the message is sent unmarked`, () =>
      Effect.gen(function*() {
        const { events, peer, server, socket } = yield* opened({ acknowledge: { ...byNumber, resent } })
        yield* socket.send("1")
        yield* settle
        yield* peer.reset
        yield* pass(1_000)
        assert.deepStrictEqual((yield* server.open).got, ["1"])
        assert.deepStrictEqual(rejectedOf(events), ["resent"])
      }))
  }
})

describe("acknowledge.maxResends", () => {
  /** Opens the next connection, and loses it once it has received what it is sent. */
  const losing = (server: Effect.Effect.Success<ReturnType<typeof opened>>["server"]) =>
    Effect.gen(function*() {
      yield* settle
      while (server.unanswered.length === 0) yield* pass(1_000)
      const peer = yield* server.open
      yield* peer.reset
      yield* settle
      return peer.got
    })

  test("W9: a suspect is sent alone, and dropped after `maxResends`", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* opened({ acknowledge: { ...byNumber, maxResends: 2 } })
      const delivering = yield* Effect.fork(Effect.exit(socket.deliver("1")))
      yield* settle
      yield* sendAll(socket, "2", "3")
      yield* settle
      assert.deepStrictEqual(peer.got, ["1", "2", "3"])
      yield* peer.reset
      assert.deepStrictEqual([yield* losing(server), yield* losing(server)], [["1"], ["1"]])
      const failure = failureOf(yield* Fiber.join(delivering))
      assert.deepStrictEqual(failure, new ReconnectingSocket.MessageUndeliverable({ resends: 2 }))
      assert.deepStrictEqual(droppedOf(events), ["1: Undeliverable"])
      yield* pass(8_000)
      const last = yield* server.open
      assert.deepStrictEqual(last.got, ["2", "3"])
      yield* last.send("ack 3")
      yield* socket.flush
    }))

  test("W9: after the suspect is acknowledged the other messages follow, and its losses do not count for them", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* opened({ acknowledge: { ...byNumber, maxResends: 1 } })
      yield* sendAll(socket, "1", "2", "3")
      yield* settle
      yield* peer.reset
      yield* pass(1_000)
      const second = yield* server.open
      assert.deepStrictEqual(second.got, ["1"])
      yield* second.send("ack 1")
      yield* settle
      assert.deepStrictEqual(second.got, ["1", "2", "3"])
      // Has acknowledged something.
      yield* second.reset
      yield* pass(2_000)
      const third = yield* server.open
      assert.deepStrictEqual(third.got, ["2", "3"])
      yield* third.reset
      assert.deepStrictEqual(yield* losing(server), ["2"])
      assert.deepStrictEqual(droppedOf(events), ["2: Undeliverable"])
    }))

  test("W9: a fatal message after harmless ones is found", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* opened({ acknowledge: { ...byNumber, maxResends: 0 } })
      yield* sendAll(socket, "1", "2", "3")
      yield* settle
      yield* peer.send("ack 1")
      yield* settle
      yield* peer.reset
      assert.deepStrictEqual(yield* losing(server), ["2", "3"])
      assert.deepStrictEqual(droppedOf(events), ["2: Undeliverable"])
    }))

  test("W9: a connection that this side ends, or on which nothing was sent, makes no message suspect", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* opened({ acknowledge: { ...byNumber, maxResends: 0 } })
      yield* peer.reset
      yield* settle
      yield* sendAll(socket, "1", "2")
      yield* pass(1_000)
      assert.deepStrictEqual((yield* server.open).got, ["1", "2"])
      yield* socket.reconnect({ backoff: false })
      yield* settle
      const next = yield* server.open
      assert.deepStrictEqual(next.got, ["1", "2"])
      assert.deepStrictEqual(droppedOf(events), [])
      const closing = yield* Effect.fork(socket.close())
      yield* pass(2_000)
      yield* Fiber.join(closing)
      assert.deepStrictEqual(droppedOf(events), ["1: Closed", "2: Closed"])
    }))

  test("W9: a message without an identifier is sent while there is a suspect", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* opened({ acknowledge: { ...byNumber, maxResends: 5 } })
      yield* sendAll(socket, "1", "2")
      yield* settle
      yield* peer.reset
      yield* pass(1_000)
      const next = yield* server.open
      yield* socket.deliver("pong")
      yield* settle
      assert.deepStrictEqual(next.got, ["1", "pong"])
    }))

  test("W9: without `maxResends` all unacknowledged messages are sent again each time", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* opened({ acknowledge: byNumber })
      yield* sendAll(socket, "1", "2")
      yield* settle
      yield* peer.reset
      for (let n = 0; n < 5; n++) assert.deepStrictEqual(yield* losing(server), ["1", "2"])
    }))

  test("InvalidOptions names an invalid number", () =>
    Effect.gen(function*() {
      const making = ReconnectingSocket.make<string, string>({ dial, acknowledge: { ...byNumber, maxResends: -1 } })
      const failure = failureOf(yield* Effect.exit(making))
      assert.deepStrictEqual([failure.option, failure.value], ["acknowledge.maxResends", -1])
    }))
})

describe("an unusual identifier", () => {
  const noHash = {
    [Hash.symbol]: (): number => {
      throw new Error("no hash")
    },
    [Equal.symbol]: () => false
  }
  const incomparable = () => ({
    [Hash.symbol]: () => 7,
    [Equal.symbol]: (): boolean => {
      throw new Error("not to be compared")
    }
  })
  const odd = (id: () => unknown) => ({
    id: (message: string) => message.startsWith("odd") ? id() : message,
    acknowledged: (message: string) =>
      message.startsWith("odd") ? [id()] : message.startsWith("ack ") ? Option.some(message.slice(4)) : Option.none()
  })

  test("W18: a message whose identifier has no hash is not accepted: EncodeError", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened({ acknowledge: odd(() => noHash) })
      for (const sending of [socket.send("odd"), socket.deliver("odd")]) {
        assert.strictEqual(failureOf(yield* Effect.exit(sending))._tag, "EncodeError")
      }
      const delivering = yield* Effect.fork(socket.deliver("1"))
      yield* settle
      assert.deepStrictEqual(peer.got, ["1"])
      yield* peer.send("ack 1")
      yield* Fiber.join(delivering)
    }))

  test("W18: an acknowledgement whose identifier has no hash is a typed event, and goes to `messages`", () =>
    Effect.gen(function*() {
      const { events, peer, socket } = yield* opened({ acknowledge: odd(() => noHash) })
      const messages = yield* recorded(socket.messages)
      const delivering = yield* Effect.fork(socket.deliver("1"))
      yield* settle
      yield* peer.send("odd")
      yield* peer.send("ack 1")
      yield* Fiber.join(delivering)
      assert.deepStrictEqual(rejectedOf(events), ["acknowledged"])
      assert.deepStrictEqual(messages.all, ["odd"])
      assert.deepStrictEqual(lossesOf(events), [])
    }))

  test("W18: an identifier that cannot be compared is a typed event, and leaves the outbox whole", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* opened({ acknowledge: odd(incomparable) })
      yield* sendAll(socket, "odd 1", "odd 2", "3")
      yield* settle
      assert.deepStrictEqual(peer.got, ["odd 1", "odd 2", "3"])
      yield* peer.send("odd")
      yield* settle
      assert.deepStrictEqual(rejectedOf(events), ["acknowledged"])
      yield* peer.reset
      yield* pass(1_000)
      const next = yield* server.open
      assert.deepStrictEqual(next.got, ["odd 1", "odd 2", "3"])
      yield* next.send("ack 3")
      yield* socket.flush
    }))

  test("W9: equal identifiers are the same, even if they are different objects", () =>
    Effect.gen(function*() {
      const at = (n: number): WebSocketDialer.Message | Date => new Date(n)
      const { peer, socket } = yield* opened({
        acknowledge: { id: (message) => at(Number(message)), acknowledged: (message) => [at(Number(message))] }
      })
      const delivering = yield* Effect.fork(socket.deliver("1"))
      yield* settle
      yield* peer.send("1")
      yield* Fiber.join(delivering)
    }))
})
