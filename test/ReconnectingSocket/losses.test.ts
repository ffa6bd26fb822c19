import { assert, describe, it } from "@effect/vitest"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import { withWriteNow } from "../../src/internal/socket/writeNow.js"
import {
  connected,
  dial,
  dialing,
  failureOf,
  fatalCodes,
  ofTag,
  onWires,
  pass,
  recorded,
  retryableCodes,
  settle,
  steady,
  tagsOf,
  test,
  Wire
} from "../support/reconnectingSockets.js"

describe("the loss of a connection", () => {
  const lost = new WebSocketDialer.ConnectionLost({ reason: "Reset", cause: "of this test" })

  const isOneLost = (
    what: string,
    faultyOf: (connection: WebSocketDialer.Connection) => Partial<WebSocketDialer.Connection>,
    cause: (
      socket: ReconnectingSocket.ReconnectingSocket<WebSocketDialer.Message, WebSocketDialer.Message>
    ) => Effect.Effect<unknown, unknown>
  ) =>
    it.scoped(`W4, W9: by ${what} is one Lost, even if the transport reports no end, and nothing else is lost`, () => {
      const first = new Wire()
      Object.assign(first, { connection: { ...first.connection, ...faultyOf(first.connection) } })
      const wires = [first, new Wire()]
      return Effect.gen(function*() {
        const { events, socket } = yield* onWires(wires, { backoff: steady })
        yield* settle
        yield* cause(socket)
        yield* settle
        assert.deepStrictEqual(ofTag(events, "Lost").map(({ failure }) => failure), [lost])
        yield* socket.send("b")
        yield* pass(1000)
        assert.deepStrictEqual(wires[1]!.taken, ["b"])
      })
    })

  const fail = () => Effect.fail(lost)
  const die = () => Effect.die(lost)
  const throws = (): never => {
    throw lost
  }
  const writes: Record<string, (connection: WebSocketDialer.Connection) => WebSocketDialer.Connection["write"]> = {
    "a write that fails": () => fail,
    "a write that dies": () => die,
    "a write that throws": () => throws,
    "a write without a fiber that throws": ({ write }) => withWriteNow(write, throws)
  }
  for (const [what, write] of Object.entries(writes)) {
    isOneLost(
      what,
      (connection) => ({ write: write(connection) }),
      (socket) => Effect.map(Effect.flip(socket.deliver("a")), (error) => assert.strictEqual(error._tag, "MessageLost"))
    )
  }
  const pings: Record<string, Effect.Effect<void, WebSocketDialer.ConnectionLost>> = {
    "a ping that fails": fail(),
    "a ping that dies": die()
  }
  for (const [what, ping] of Object.entries(pings)) {
    isOneLost(what, () => ({ ping: Option.some(ping) }), () => pass(15_000))
  }

  for (const code of [...retryableCodes, 1005]) {
    test(`W4: by a close frame with ${code} is one Lost, and the socket dials once more`, () =>
      Effect.gen(function*() {
        const { events, peer, server, socket } = yield* connected(ReconnectingSocket.make({ dial, backoff: steady }))
        yield* peer.close(code, "why")
        yield* settle
        const failure = new WebSocketDialer.ConnectionClosed({ code, reason: "why" })
        assert.deepStrictEqual(ofTag(events, "Lost"), [{ _tag: "Lost", failure }])
        assert.deepInclude((yield* socket.state) as object, { _tag: "Waiting", attempt: 1, failure, until: 1000 })
        yield* pass(1000)
        yield* server.open
        yield* pass(60_000)
        assert.lengthOf(ofTag(events, "Lost"), 1)
        assert.deepStrictEqual(server.times, [0, 1000])
      }))
  }

  const losses: Record<
    Exclude<WebSocketDialer.ConnectionLost["reason"], never>,
    readonly [after: number, how: (peer: WebSocketDialer.Peer) => Effect.Effect<unknown>]
  > = {
    Reset: [0, (peer) => peer.reset],
    HeartbeatTimeout: [25_000, (peer) => peer.stall],
    WriteTimeout: [10_000, (peer) => peer.stall],
    InvalidData: [0, (peer) => peer.send("12345678901")],
    InboxOverflow: [0, (peer) => Effect.zipRight(peer.send("1"), Effect.zipRight(peer.send("2"), peer.send("3")))],
    OnOpenFailed: [0, (peer) => peer.send("fail")]
  }
  for (const [reason, [after, how]] of Object.entries(losses)) {
    test(`W4: by ${reason} is one Lost and one next attempt`, () =>
      Effect.gen(function*() {
        let opens = 0
        const { events, peer, server, socket } = yield* connected(ReconnectingSocket.make({
          dial,
          backoff: steady,
          maxPayload: 10,
          inbox: { capacity: 2 },
          onOpen: ({ receive }) =>
            reason === "OnOpenFailed" && opens++ === 0 ? Effect.flatMap(receive, Effect.fail) : Effect.void
        }))
        yield* how(peer)
        if (reason === "WriteTimeout") yield* socket.send("lost")
        yield* pass(after)
        assert.deepStrictEqual(
          ofTag(events, "Lost").map(({ failure }) => (failure as WebSocketDialer.ConnectionLost).reason),
          [reason]
        )
        assert.strictEqual((yield* peer.ended)._tag, "ConnectionLost")
        yield* pass(1000)
        yield* server.open
        yield* pass(60_000)
        assert.lengthOf(ofTag(events, "Lost"), 1)
        assert.deepStrictEqual(server.times, [0, after + 1000])
      }))
  }

  test("W4: is published once when several causes come together", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* connected(ReconnectingSocket.make({ dial, backoff: steady }))
      yield* socket.send("a")
      yield* peer.close(1001)
      yield* peer.reset
      yield* peer.close(1000)
      yield* pass(1000)
      assert.lengthOf(ofTag(events, "Lost"), 1)
      assert.lengthOf(server.times, 2)
    }))

  test("W4: ends the reading: no message is read after a close frame", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(ReconnectingSocket.make({ dial, backoff: steady }))
      const messages = yield* recorded(socket.messages)
      yield* peer.send("before")
      yield* peer.close(1000)
      yield* peer.send("after")
      yield* pass(1000)
      yield* Effect.flatMap(server.open, ({ send }) => send("next"))
      yield* settle
      assert.deepStrictEqual(messages.all, ["before", "next"])
    }))
})

describe("a failure that is not retryable", () => {
  const given = (status?: number, code?: number) =>
    Effect.gen(function*() {
      const { events, server, socket } = yield* dialing(
        ReconnectingSocket.make({ dial, backoff: steady, outbox: { overflow: "suspend", capacity: 1 } })
      )
      const messages = yield* recorded(socket.messages)
      const delivering = yield* Effect.fork(socket.deliver("queued"))
      const waiting = yield* Effect.fork(socket.send("waits"))
      const flushing = yield* Effect.fork(socket.flush)
      const opening = yield* Effect.fork(socket.awaitOpen)
      yield* settle
      if (status !== undefined) yield* server.refuse(status, { "retry-after": "1" })
      if (code !== undefined) yield* Effect.flatMap(server.open, ({ close }) => close(code, "no"))
      yield* pass(3_600_000)
      return { delivering, events, flushing, messages, opening, server, socket, waiting }
    })

  for (const status of [400, 401, 403, 404, 405, 410, 426]) {
    test(`W6: an upgrade refused with ${status}: messages fails, and so does everything else that waits`, () =>
      Effect.gen(function*() {
        const { delivering, events, flushing, messages, opening, server, socket, waiting } = yield* given(status)
        const failed = failureOf(yield* Fiber.await(messages.fiber))
        assert.deepInclude(failed.failure as object, { _tag: "DialError", reason: "Refused", status })
        for (const fiber of [delivering, waiting, flushing]) {
          const closed = failureOf(yield* Fiber.await(fiber)) as ReconnectingSocket.SocketClosed
          assert.strictEqual(closed._tag, "SocketClosed")
          assert.deepStrictEqual(closed.info.failure, Option.some(failed.failure))
        }
        assert.strictEqual(failureOf(yield* Fiber.await(opening))._tag, "SocketFailed")
        const closed = yield* Effect.flip(socket.send("late"))
        assert.strictEqual(closed._tag, "SocketClosed")
        assert.deepStrictEqual((closed as ReconnectingSocket.SocketClosed).info.failure, Option.some(failed.failure))
        assert.strictEqual((yield* Effect.flip(socket.deliver("late")))._tag, "SocketClosed")
        assert.strictEqual((yield* Effect.flip(socket.flush))._tag, "SocketClosed")
        assert.strictEqual((yield* Effect.flip(socket.awaitOpen))._tag, "SocketFailed")
        assert.strictEqual((yield* Effect.flip(Effect.scoped(socket.subscribe({ open: "late" }))))._tag, "SocketClosed")
        assert.strictEqual((yield* socket.state)._tag, "Closed")
        assert.lengthOf(ofTag(events, "Closed"), 1)
        assert.lengthOf(server.times, 1)
      }))
  }

  for (const code of fatalCodes) {
    test(`W6: a close with ${code}`, () =>
      Effect.gen(function*() {
        const { events, messages, server, socket } = yield* given(undefined, code)
        const failed = failureOf(yield* Fiber.await(messages.fiber))
        assert.deepStrictEqual(failed.failure, new WebSocketDialer.ConnectionClosed({ code, reason: "no" }))
        const { info } = (yield* Effect.flip(socket.send("late"))) as ReconnectingSocket.SocketClosed
        assert.strictEqual(info.code, code)
        assert.deepStrictEqual(tagsOf(events).slice(-2), ["Lost", "Closed"])
        assert.lengthOf(server.times, 1)
      }))
  }

  for (const status of [402, 406, 408, 409, 418, 421, 425, 429, 500, 502, 503, 504]) {
    test(`W6: an upgrade refused with ${status} is retryable`, () =>
      Effect.gen(function*() {
        const { server, socket } = yield* dialing(ReconnectingSocket.make({ dial, backoff: steady }))
        yield* server.refuse(status)
        assert.strictEqual((yield* socket.state)._tag, "Waiting")
        yield* pass(1000)
        assert.lengthOf(server.unanswered, 1)
      }))
  }

  test("W6: a server that cannot be reached is retryable", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* dialing(ReconnectingSocket.make({ dial, backoff: steady }))
      yield* Effect.flatMap(server.next, ({ fail }) => fail("ECONNREFUSED"))
      yield* settle
      assert.strictEqual((yield* socket.state)._tag, "Waiting")
    }))

  test("W6: a request that can never be dialed", () =>
    Effect.gen(function*() {
      const { socket } = yield* dialing(
        ReconnectingSocket.make({ dial: { url: "ftp://nonsense" }, backoff: steady }).pipe(
          Effect.provideService(WebSocketDialer.WebSocketDialer, {
            dial: ({ url }) => new WebSocketDialer.DialError({ reason: "InvalidRequest", url: String(url) })
          })
        )
      )
      assert.strictEqual((yield* Effect.flip(socket.awaitOpen))._tag, "SocketFailed")
    }))

  test("W3: a `dial` that is a function is given the attempt, and why the previous one ended", () =>
    Effect.gen(function*() {
      const { server } = yield* dialing(ReconnectingSocket.make({
        dial: ({ attempt, previous }) =>
          Effect.succeed({
            url: Option.match(previous, {
              onNone: () => `ws://first/${attempt}`,
              onSome: (failure) =>
                failure._tag === "DialError" ? failure.headers!["location"]! : `ws://${failure._tag}/${attempt}`
            })
          }),
        retryable: () => true,
        backoff: steady
      }))
      yield* server.refuse(307, { location: "ws://second" })
      yield* pass(1000)
      const second = yield* server.next
      assert.strictEqual(second.request.url, "ws://second")
      yield* Effect.flatMap(second.open(), ({ reset }) => Effect.zipRight(settle, reset))
      yield* pass(2000)
      assert.strictEqual((yield* server.next).request.url, "ws://ConnectionLost/2")
    }))

  test("W3: a `dial` that is a tag is an effect", () => {
    class Address extends Context.Tag("Address")<Address, { readonly url: string }>() {}
    return Effect.gen(function*() {
      const { server } = yield* dialing(ReconnectingSocket.make({ dial: Address, backoff: steady }))
      assert.strictEqual((yield* server.next).request.url, "ws://tagged")
    }).pipe(Effect.provideService(Address, { url: "ws://tagged" }))
  })

  test("W6: `retryable` is given the default's decision", () =>
    Effect.gen(function*() {
      const defaults: Array<boolean> = []
      const { server } = yield* dialing(ReconnectingSocket.make({
        dial,
        backoff: steady,
        retryable: (_, byDefault) => {
          defaults.push(byDefault)
          return true
        }
      }))
      yield* server.refuse(503)
      yield* pass(1000)
      yield* server.refuse(403)
      yield* pass(2000)
      yield* server.open
      assert.deepStrictEqual(defaults, [true, false])
    }))

  const tooLong = (peer: WebSocketDialer.Peer) => Effect.zipRight(peer.send("x".repeat(11)), settle)

  test("W17: the third message in a row over the limit is final", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(
        ReconnectingSocket.make({ dial, backoff: steady, maxPayload: 10 })
      )
      yield* tooLong(peer)
      yield* pass(1000)
      yield* Effect.flatMap(server.open, tooLong)
      yield* pass(2000)
      // A refused dial is no connection, so the count of losses in a row goes on.
      yield* server.refuse(503)
      yield* pass(4000)
      yield* Effect.flatMap(server.open, tooLong)
      const failed = yield* Effect.flip(socket.awaitOpen)
      assert.deepInclude((failed as ReconnectingSocket.SocketFailed).failure as object, { reason: "InvalidData" })
      assert.lengthOf(server.times, 4)
    }))

  test("W17: a message over the limit counts also if a replacement was being opened, and was then refused", () =>
    Effect.gen(function*() {
      let { peer, server, socket } = yield* connected(
        ReconnectingSocket.make({ dial, backoff: steady, heartbeat: false, maxPayload: 10, renewAfter: "10 seconds" })
      )
      for (let row = 1;; row++) {
        yield* pass(10_000)
        const attempt = yield* server.next
        yield* tooLong(peer)
        yield* attempt.refuse(503)
        yield* settle
        assert.strictEqual((yield* socket.state)._tag, row === 3 ? "Closed" : "Waiting")
        if (row === 3) break
        yield* pass(4_000)
        peer = yield* server.open
      }
    }))

  for (
    const [what, between] of [
      ["another loss", (peer: WebSocketDialer.Peer) => Effect.zipRight(peer.reset, settle)],
      ["a stable connection", (peer: WebSocketDialer.Peer) => Effect.zipRight(pass(30_000), tooLong(peer))]
    ] as const
  ) {
    test(`W17: ${what} ends the row`, () =>
      Effect.gen(function*() {
        const { peer, server, socket } = yield* connected(
          ReconnectingSocket.make({ dial, backoff: steady, heartbeat: false, maxPayload: 10 })
        )
        // The third delay is four seconds, and a dial may take ten.
        const next = Effect.zipRight(pass(8000), server.open)
        yield* tooLong(peer)
        yield* Effect.flatMap(next, tooLong)
        yield* Effect.flatMap(next, between)
        yield* Effect.flatMap(next, tooLong)
        assert.strictEqual((yield* socket.state)._tag, "Waiting")
      }))
  }

  test("W17: other invalid data does not count", () =>
    Effect.gen(function*() {
      const wires = Array.from({ length: 5 }, () => new Wire())
      const { socket } = yield* onWires(wires, { backoff: steady, heartbeat: false })
      for (const wire of wires.slice(0, 4)) {
        wire.over(new WebSocketDialer.ConnectionLost({ reason: "InvalidData", cause: { code: "WS_ERR_INVALID_UTF8" } }))
        yield* pass(30_000)
      }
      assert.strictEqual((yield* socket.state)._tag, "Open")
    }))

  test("W6: `retryable` decides, about every kind of failure", () =>
    Effect.gen(function*() {
      const asked: Array<string> = []
      const { server, socket } = yield* dialing(ReconnectingSocket.make({
        dial,
        backoff: steady,
        retryable: (failure) => {
          asked.push(failure._tag)
          return !(failure._tag === "ConnectionLost")
        }
      }))
      yield* server.refuse(403)
      yield* pass(1000)
      yield* Effect.flatMap(server.open, ({ close }) => close(1008))
      yield* pass(2000)
      yield* Effect.flatMap(server.open, ({ reset }) => reset)
      yield* settle
      assert.deepStrictEqual(asked, ["DialError", "ConnectionClosed", "ConnectionLost"])
      assert.strictEqual((yield* socket.state)._tag, "Closed")
    }))
})
