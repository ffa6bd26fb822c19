import { assert, describe } from "@effect/vitest"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Session from "effect-holdfast/Session"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import {
  connected,
  dial,
  dialing,
  type Message,
  ofTag,
  pass,
  recorded,
  settle,
  steady,
  test
} from "../support/reconnectingSockets.js"

describe("a codec", () => {
  const numbers = {
    encode: (n: number) => {
      if (n === 13) throw new Error("unlucky")
      return n < 0 ? undefined as never : `${n}`
    },
    decode: (message: Message) => {
      if (Number.isNaN(Number(message))) throw new Error("no number")
      return Number(message)
    }
  }

  for (const [n, what] of [[13, "throws"], [-1, "gives what is neither text nor bytes"]] as const) {
    test(`W8: whose encode ${what} fails the send; nothing is sent, and the socket goes on`, () =>
      Effect.gen(function*() {
        const { events, peer, socket } = yield* connected(ReconnectingSocket.make({ dial, codec: numbers }))
        yield* socket.send(1)
        const error = yield* Effect.flip(socket.send(n))
        assert.strictEqual(error._tag, "EncodeError")
        assert.instanceOf((error as ReconnectingSocket.EncodeError).cause, Error)
        assert.strictEqual((yield* Effect.flip(socket.deliver(n)))._tag, "EncodeError")
        yield* socket.send(2)
        yield* settle
        assert.deepStrictEqual(peer.got, ["1", "2"])
        assert.lengthOf(ofTag(events, "Lost"), 0)
      }))
  }

  test("W8: whose decode throws drops the message, with an event that has the original data", () =>
    Effect.gen(function*() {
      const { events, peer, socket } = yield* connected(ReconnectingSocket.make({ dial, codec: numbers }))
      const messages = yield* recorded(socket.messages)
      for (const message of ["1", "x", "2"]) yield* peer.send(message)
      yield* settle
      assert.deepStrictEqual(messages.all, [1, 2])
      const [rejected] = ofTag(events, "Rejected")
      assert.deepInclude(rejected as object, { callback: "decode", message: "x" })
      assert.instanceOf(rejected!.cause, Error)
      assert.strictEqual((yield* socket.state)._tag, "Open")
    }))

  test("W8: whose decode throws on the login's answer drops it, and the login receives the next message", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        codec: numbers,
        onOpen: ({ receive }) => Effect.map(receive, (n) => assert.strictEqual(n, 7))
      }))
      yield* peer.send("hello")
      yield* peer.send("7")
      yield* settle
      assert.strictEqual((yield* socket.state)._tag, "Open")
    }))

  const schemas = {
    in: Schema.Struct({ at: Schema.Date }),
    out: Schema.Struct({ price: Schema.NumberFromString.pipe(Schema.positive()) })
  }

  test("of JSON goes through schemas, both ways", () =>
    Effect.gen(function*() {
      const { events, peer, socket } = yield* connected(
        ReconnectingSocket.make({ dial, codec: ReconnectingSocket.json(schemas) })
      )
      const messages = yield* recorded(socket.messages)
      yield* socket.send({ price: 5 })
      assert.strictEqual((yield* Effect.flip(socket.send({ price: -5 })))._tag, "EncodeError")
      yield* settle
      assert.deepStrictEqual(peer.got, [`{"price":"5"}`])
      const bad = ["{", `{"at":"never"}`, "null", Uint8Array.of(0xff)]
      for (
        const message of [
          `{"at":"2020-01-01T00:00:00.000Z"}`,
          ...bad,
          new TextEncoder().encode(`{"at":"2021-01-01T00:00:00.000Z"}`)
        ]
      ) {
        yield* peer.send(message)
      }
      yield* settle
      assert.deepStrictEqual(messages.all, [{ at: new Date("2020-01-01") }, { at: new Date("2021-01-01") }])
      assert.deepStrictEqual(ofTag(events, "Rejected").map(({ message }) => message), bad)
    }))

  test("of JSON refuses values that JSON cannot express", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        codec: ReconnectingSocket.json({ in: Schema.Unknown, out: Schema.Unknown })
      }))
      const cyclic: Record<string, unknown> = {}
      cyclic["self"] = cyclic
      for (const message of [undefined, () => 1, 1n, cyclic]) {
        assert.strictEqual((yield* Effect.flip(socket.send(message)))._tag, "EncodeError")
      }
      yield* settle
      assert.deepStrictEqual(peer.got, [])
    }))
})

describe("a callback that throws is an event, and the socket goes on:", () => {
  const thrown = new Error("thrown")
  const throwing = (): never => {
    throw thrown
  }

  test("W8: isPong", () =>
    Effect.gen(function*() {
      const { events, peer, socket } = yield* connected(
        ReconnectingSocket.make({ dial, heartbeat: { isPong: throwing } })
      )
      const messages = yield* recorded(socket.messages)
      yield* peer.send("a")
      yield* settle
      assert.deepStrictEqual(ofTag(events, "Rejected"), [{
        _tag: "Rejected",
        callback: "isPong",
        message: "a",
        cause: thrown
      }])
      assert.deepStrictEqual(messages.all, ["a"])
    }))

  test("W8: acknowledged", () =>
    Effect.gen(function*() {
      const { events, peer, socket } = yield* connected(
        ReconnectingSocket.make({ dial, acknowledge: { id: (message: Message) => message, acknowledged: throwing } })
      )
      const messages = yield* recorded(socket.messages)
      yield* peer.send("a")
      yield* settle
      assert.deepStrictEqual(ofTag(events, "Rejected"), [{
        _tag: "Rejected",
        callback: "acknowledged",
        message: "a",
        cause: thrown
      }])
      assert.deepStrictEqual(messages.all, ["a"])
    }))

  test("W8: acknowledged, if it gives no Option", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(
        ReconnectingSocket.make({
          dial,
          acknowledge: { id: (message: Message) => message, acknowledged: () => undefined as never }
        })
      )
      const messages = yield* recorded(socket.messages)
      yield* peer.send("a")
      yield* peer.send("b")
      yield* settle
      assert.deepStrictEqual(messages.all, ["a", "b"])
    }))

  test("W8: acknowledge.id, which fails the send", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(
        ReconnectingSocket.make({ dial, acknowledge: { id: throwing, acknowledged: () => Option.none() } })
      )
      assert.strictEqual((yield* Effect.flip(socket.send("a")))._tag, "EncodeError")
      yield* settle
      assert.deepStrictEqual(peer.got, [])
    }))

  test("W8: retryable, and the default decides", () =>
    Effect.gen(function*() {
      const { events, server, socket } = yield* dialing(
        ReconnectingSocket.make({ dial, backoff: steady, retryable: throwing })
      )
      yield* server.refuse(503)
      assert.strictEqual((yield* socket.state)._tag, "Waiting")
      yield* pass(1000)
      yield* server.refuse(403)
      assert.strictEqual((yield* socket.state)._tag, "Closed")
      assert.deepStrictEqual(
        ofTag(events, "Rejected").map(({ callback, cause }) => [callback, cause]),
        [["retryable", thrown], ["retryable", thrown]]
      )
    }))

  test("W8: rejected, and the default decides", () =>
    Effect.gen(function*() {
      const session = yield* Session.make({ acquire: Effect.succeed("token"), renew: () => Effect.succeed("fresh") })
      const { events, server, socket } = yield* dialing(ReconnectingSocket.make({
        dial,
        backoff: steady,
        session: { session, attach: (request) => request, rejected: throwing }
      }))
      yield* server.refuse(503)
      assert.strictEqual((yield* socket.state)._tag, "Waiting")
      assert.deepStrictEqual(ofTag(events, "Rejected").map(({ callback }) => callback), ["rejected"])
      yield* pass(1000)
      yield* server.refuse(401)
      yield* server.open
      assert.strictEqual((yield* socket.state)._tag, "Open")
    }))

  test("W8: attach, which is a failed attempt", () =>
    Effect.gen(function*() {
      const session = yield* Session.make({ acquire: Effect.succeed("token") })
      let n = 0
      const { events, server, socket } = yield* dialing(ReconnectingSocket.make({
        dial,
        backoff: steady,
        session: { session, attach: (request) => n++ === 0 ? throwing() : request }
      }))
      assert.deepInclude(ofTag(events, "Waiting")[0]!.failure as object, {
        _tag: "DialError",
        reason: "Transport",
        cause: thrown
      })
      yield* pass(1000)
      yield* server.open
      assert.strictEqual((yield* socket.state)._tag, "Open")
    }))

  for (
    const [how, schedule] of [
      ["dies", Schedule.mapEffect(steady, () => Effect.die(thrown))],
      ["throws", Schedule.map(steady, throwing)]
    ] as const
  ) {
    test(`W8: except a schedule: one that ${how} counts as ended`, () =>
      Effect.gen(function*() {
        const { server, socket } = yield* dialing(ReconnectingSocket.make({ dial, backoff: schedule }))
        yield* server.refuse(503)
        const error = yield* Effect.flip(socket.awaitOpen)
        assert.strictEqual(error._tag, "SocketFailed")
        assert.deepInclude((error as ReconnectingSocket.SocketFailed).failure as object, { status: 503 })
      }))
  }

  test("W8: backoff, which counts as ended", () =>
    Effect.gen(function*() {
      const { events, peer, socket } = yield* connected(
        ReconnectingSocket.make({ dial, backoff: Schedule.mapEffect(steady, () => Effect.die(thrown)) })
      )
      yield* peer.reset
      yield* settle
      assert.deepStrictEqual(ofTag(events, "Rejected").map(({ callback, cause }) => [callback, cause]), [[
        "backoff",
        thrown
      ]])
      assert.strictEqual((yield* socket.state)._tag, "Closed")
    }))
})
