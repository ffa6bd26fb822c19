/** Requests and their replies, and messages that the socket itself uses. */
import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import type * as Effect_ from "effect/Effect"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import {
  dial,
  failureOf,
  heard,
  isDone,
  lossesOf,
  ofTag,
  opened,
  pass,
  recorded,
  serving,
  settle,
  test
} from "../support/reconnectingSockets.js"

type Sockets = ReconnectingSocket.ReconnectingSocket<string, string>

/** The reply to `ask n` is `reply n …`. */
const ask = (socket: Sockets, n: number | string, timeout?: Duration.DurationInput) =>
  socket.request(`ask ${n}`, {
    reply: (message) =>
      message.startsWith(`reply ${n}`) ? Option.some(message.slice(`reply ${n} `.length)) : Option.none(),
    timeout
  })

const asked = (socket: Sockets, n: number | string, timeout?: Duration.DurationInput) =>
  Effect.tap(Effect.fork(Effect.exit(ask(socket, n, timeout))), () => settle)

const failedWith = <A, E extends { readonly _tag: string }>(
  fiber: Fiber.RuntimeFiber<Effect_.Effect.Success<ReturnType<typeof Effect.exit<A, E, never>>>>
) => Effect.map(Fiber.join(fiber), (exit) => failureOf(exit)._tag)

const acknowledge = {
  id: (message: string) => /^\d+$/.test(message) ? message : undefined,
  acknowledged: (message: string) => message.startsWith("ack ") ? Option.some(message.slice(4)) : Option.none()
}

describe("request", () => {
  test("W14: gives the reply that `reply` accepts, which does not go to `messages`; other messages do", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened()
      const messages = yield* recorded(socket.messages)
      const asking = yield* Effect.fork(ask(socket, 1))
      yield* settle
      assert.deepStrictEqual(peer.got, ["ask 1"])
      for (const message of ["news", "reply 2 b", "reply 1 a", "reply 1 again"]) yield* peer.send(message)
      assert.strictEqual(yield* Fiber.join(asking), "a")
      yield* settle
      assert.deepStrictEqual(messages.all, ["news", "reply 2 b", "reply 1 again"])
    }))

  test("W14: a message answers the oldest request that accepts it, and only that one", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened()
      const any = (name: string) => socket.request(name, { reply: (message) => Option.some(`${name}: ${message}`) })
      const first = yield* Effect.fork(any("first"))
      yield* settle
      const second = yield* Effect.fork(any("second"))
      yield* settle
      yield* peer.send("a")
      yield* settle
      assert.strictEqual(yield* Fiber.join(first), "first: a")
      assert.isFalse(yield* isDone(second))
      yield* peer.send("b")
      assert.strictEqual(yield* Fiber.join(second), "second: b")
    }))

  test("W14: a message that comes before the request has been sent is no reply to it", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened({
        onOpen: ({ receive }) => Effect.repeat(receive, { until: (message) => message === "welcome" })
      })
      const messages = yield* recorded(socket.messages)
      const asking = yield* Effect.fork(socket.request("ask", { reply: Option.some }))
      yield* settle
      yield* peer.send("welcome")
      yield* peer.send("early")
      yield* settle
      yield* peer.send("reply")
      assert.strictEqual(yield* Fiber.join(asking), "reply")
      assert.deepStrictEqual(messages.all, ["early"])
    }))

  test("W14: acknowledgements and pongs are no replies, whatever `reply` accepts", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened({
        acknowledge,
        heartbeat: { ping: "ping", isPong: (message) => message === "pong" }
      })
      yield* socket.send("1")
      const asking = yield* Effect.fork(socket.request("ask", { reply: Option.some }))
      yield* settle
      for (const message of ["ack 1", "pong", "reply"]) yield* peer.send(message)
      assert.strictEqual(yield* Fiber.join(asking), "reply")
      yield* socket.flush
    }))

  test("W14: several replies in one frame, with a message between them", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened({
        codec: { encode: (message) => message, decodeMany: (frame) => String(frame).split("\n") }
      })
      const messages = yield* recorded(socket.messages)
      const asking = yield* Effect.fork(Effect.forEach([1, 2], (n) => ask(socket, n), { concurrency: 2 }))
      yield* settle
      yield* peer.send("reply 2 b\nnews\nreply 1 a")
      assert.deepStrictEqual(yield* Fiber.join(asking), ["a", "b"])
      assert.deepStrictEqual(messages.all, ["news"])
    }))

  test("RequestTimeout after ten seconds from the call by default; a late reply goes to `messages`", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened()
      const messages = yield* recorded(socket.messages)
      const began = yield* Clock.currentTimeMillis
      const asking = yield* Effect.fork(Effect.exit(ask(socket, 1)))
      yield* pass(9_999)
      assert.isFalse(yield* isDone(asking))
      yield* pass(1)
      const failure = failureOf(yield* Fiber.join(asking))
      assert.deepStrictEqual(failure, new ReconnectingSocket.RequestTimeout({ timeout: Duration.seconds(10) }))
      assert.include(failure.message, "10s")
      assert.strictEqual((yield* Clock.currentTimeMillis) - began, 10_000)
      yield* peer.send("reply 1 late")
      yield* settle
      assert.deepStrictEqual(messages.all, ["reply 1 late"])
    }))

  test("RequestTimeout of a queued request removes it: it is not sent later", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* opened()
      yield* peer.reset
      yield* settle
      const asking = yield* asked(socket, 1, "500 millis")
      yield* pass(500)
      assert.strictEqual(yield* failedWith(asking), "RequestTimeout")
      yield* pass(500)
      assert.deepStrictEqual((yield* server.open).got, [])
    }))

  test("MessageLost when the request's connection is lost, written or not; a queued request is kept", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* opened()
      const written = yield* asked(socket, "written")
      yield* peer.stall
      const inHands = yield* asked(socket, "in hands")
      const queued = yield* asked(socket, "queued")
      yield* peer.reset
      yield* settle
      assert.deepStrictEqual([yield* failedWith(written), yield* failedWith(inHands)], ["MessageLost", "MessageLost"])
      assert.deepStrictEqual(ofTag(events, "Dropped").map(({ message }) => message), ["ask in hands"])
      assert.isFalse(yield* isDone(queued))
      yield* pass(1_000)
      const next = yield* server.open
      assert.deepStrictEqual(next.got, ["ask queued"])
      yield* next.send("reply queued a")
      assert.deepStrictEqual(yield* Effect.flatten(Fiber.join(queued)), "a")
    }))

  test("MessageLost after `reconnect`, SocketClosed when the socket is closed", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* opened()
      const first = yield* asked(socket, 1)
      yield* socket.reconnect({ backoff: false })
      assert.strictEqual(yield* failedWith(first), "MessageLost")
      yield* settle
      yield* server.open
      const second = yield* asked(socket, 2)
      yield* socket.close()
      assert.strictEqual(yield* failedWith(second), "SocketClosed")
      assert.strictEqual(failureOf(yield* Effect.exit(ask(socket, 3)))._tag, "SocketClosed")
    }))

  test("MessageExpired, OutboxFull and EncodeError as for `deliver`", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened({
        outbox: { capacity: 1, timeToLive: "1 seconds" },
        codec: {
          encode: (message) => {
            if (message === "ask odd") throw new Error("odd")
            return message
          },
          decode: String
        },
        backoff: undefined
      })
      yield* peer.stall
      yield* socket.send("a")
      yield* settle
      yield* socket.reconnect({ backoff: false })
      yield* settle
      const expiring = yield* asked(socket, 1)
      assert.strictEqual(failureOf(yield* Effect.exit(ask(socket, 2)))._tag, "OutboxFull")
      assert.strictEqual(failureOf(yield* Effect.exit(ask(socket, "odd")))._tag, "EncodeError")
      yield* pass(1_000)
      assert.strictEqual(yield* failedWith(expiring), "MessageExpired")
    }))

  test("W8: a `reply` that throws, or gives no Option, is a typed event; the next request is asked", () =>
    Effect.gen(function*() {
      const { events, peer, socket } = yield* opened()
      const messages = yield* recorded(socket.messages)
      const odd = yield* Effect.fork(Effect.exit(socket.request("a", {
        reply: () => {
          throw new Error("odd")
        }
      })))
      const none = yield* Effect.fork(Effect.exit(socket.request("b", { reply: () => "c" as never })))
      const good = yield* asked(socket, 1)
      yield* peer.send("reply 1 a")
      yield* settle
      assert.isTrue(yield* isDone(good))
      assert.deepStrictEqual(ofTag(events, "Rejected").map(({ callback, message }) => [callback, message]), [
        ["reply", "reply 1 a"],
        ["reply", "reply 1 a"]
      ])
      assert.deepStrictEqual(messages.all, [])
      yield* pass(10_000)
      assert.deepStrictEqual([yield* failedWith(odd), yield* failedWith(none)], ["RequestTimeout", "RequestTimeout"])
      assert.deepStrictEqual(lossesOf(events), [])
    }))

  test("W7: an interrupted request is removed while it is queued; later its reply goes to `messages`", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* opened()
      const messages = yield* recorded(socket.messages)
      const sent = yield* asked(socket, 1)
      yield* Fiber.interrupt(sent)
      yield* peer.send("reply 1 a")
      yield* settle
      assert.deepStrictEqual(messages.all, ["reply 1 a"])
      yield* peer.reset
      yield* settle
      const queued = yield* asked(socket, 2)
      yield* Fiber.interrupt(queued)
      yield* pass(1_000)
      assert.deepStrictEqual((yield* server.open).got, [])
    }))

  test("W9: a request with an identifier is sent again until it is acknowledged, and still awaits its reply", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* opened({
        acknowledge: { ...acknowledge, id: (message: string) => message.slice(4) }
      })
      const asking = yield* asked(socket, 1)
      yield* peer.reset
      yield* pass(1_000)
      const second = yield* server.open
      assert.deepStrictEqual(second.got, ["ask 1"])
      yield* second.send("reply 1 a")
      assert.strictEqual(yield* Effect.flatten(Fiber.join(asking)), "a")
      const other = yield* asked(socket, 2)
      yield* second.send("ack 2")
      yield* settle
      yield* second.reset
      assert.strictEqual(yield* failedWith(other), "MessageLost")
    }))

  test("W15: a connection that is replaced is kept until its requests are answered", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* opened({ renewAfter: "10 seconds" })
      yield* pass(8_900)
      const asking = yield* asked(socket, 1)
      yield* pass(1_100)
      const next = yield* server.open
      const other = yield* asked(socket, 2)
      assert.deepStrictEqual([peer.got, next.got], [["ask 1"], ["ask 2"]])
      yield* pass(500)
      yield* peer.send("reply 1 a")
      yield* next.send("reply 2 b")
      assert.deepStrictEqual(
        [yield* Effect.flatten(Fiber.join(asking)), yield* Effect.flatten(Fiber.join(other))],
        ["a", "b"]
      )
      yield* settle
      assert.strictEqual((yield* peer.ended)._tag, "ConnectionClosed")
      assert.deepStrictEqual(lossesOf(events), [])
    }))

  test("W15: a connection that is replaced is not kept for longer than two seconds", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* opened({ renewAfter: "10 seconds" })
      yield* pass(8_900)
      const asking = yield* asked(socket, 1, "1 minute")
      yield* pass(1_100)
      yield* server.open
      assert.isFalse(yield* isDone(asking))
      yield* pass(2_000)
      assert.strictEqual(yield* failedWith(asking), "MessageLost")
      assert.strictEqual((yield* peer.ended)._tag, "ConnectionClosed")
    }))

  for (
    const [option, options] of [["options", null], ["options", 5], ["reply", {}], ["reply", { reply: 5 }]] as const
  ) {
    test(`W8: options of the wrong kind (${JSON.stringify(options)}) are a typed failure, and nothing is sent`, () =>
      Effect.gen(function*() {
        const { peer, socket } = yield* opened()
        const error = yield* Effect.flip(socket.request("1", options as never))
        assert.deepInclude(error, { _tag: "EncodeError" })
        assert.deepInclude((error as ReconnectingSocket.EncodeError).cause, { _tag: "InvalidOptions", option })
        yield* settle
        assert.deepStrictEqual(peer.got, [])
      }))
  }

  for (const timeout of [-1, NaN, "-1 seconds", "soon", "", {}, [1], true, Symbol("soon")]) {
    test(`W8: a timeout that is no duration (${String(timeout)}) is a typed failure, and nothing is sent`, () =>
      Effect.gen(function*() {
        const { peer, socket } = yield* opened()
        const error = failureOf(yield* Effect.exit(ask(socket, 1, timeout as never)))
        assert.instanceOf(error, ReconnectingSocket.EncodeError)
        assert.instanceOf(error.cause, InvalidOptions)
        assert.deepInclude(error.cause, { option: "timeout", value: timeout })
        assert.strictEqual(error.message, `the message was not sent: ${error.cause.message}`)
        yield* settle
        assert.deepStrictEqual(peer.got, [])
      }))
  }

  test("waits for ever if the timeout is infinite", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened()
      const asking = yield* asked(socket, 1, Infinity)
      yield* pass(3_000_000_000)
      yield* peer.send("reply 1 late")
      assert.deepStrictEqual(yield* Fiber.join(asking), Exit.succeed("late"))
    }))

  it("has the type of the reply, and names each failure", () => {
    const request = (socket: Sockets) => socket.request("a", { reply: () => Option.some(1) })
    expectTypeOf(request).returns.toEqualTypeOf<
      Effect_.Effect<
        number,
        | ReconnectingSocket.OutboxFull
        | ReconnectingSocket.SocketClosed
        | ReconnectingSocket.EncodeError
        | ReconnectingSocket.RequestTimeout
        | ReconnectingSocket.MessageLost
        | ReconnectingSocket.MessageExpired
      >
    >()
  })
})

describe("a full inbox", () => {
  /** A dialer whose connections say whether they are paused. */
  const pausable = Effect.gen(function*() {
    const dialer = yield* WebSocketDialer.WebSocketDialer
    const state = { isPaused: false }
    const backpressure = Option.some({
      pause: Effect.sync(() => {
        state.isPaused = true
      }),
      resume: Effect.sync(() => {
        state.isPaused = false
      })
    })
    const layer = Layer.succeed(WebSocketDialer.WebSocketDialer, {
      dial: (request) => Effect.map(dialer.dial(request), (connection) => ({ ...connection, backpressure }))
    })
    return { layer, state }
  })

  const make = (options?: Partial<ReconnectingSocket.Options<string, string>>) =>
    ReconnectingSocket.make<string, string>({
      dial,
      heartbeat: false,
      codec: { encode: (message) => message, decode: String },
      inbox: { capacity: 2 },
      ...options
    })

  test("W14: does not block a reply: while one is awaited the connection pauses only at 16 MiB", () =>
    Effect.gen(function*() {
      const { layer, state } = yield* pausable
      const server = yield* serving
      const socket = yield* Effect.provide(make(), layer)
      const peer = yield* server.open
      for (const message of ["a", "b", "c"]) yield* peer.send(message)
      yield* settle
      assert.isTrue(state.isPaused)
      const asking = yield* asked(socket, 1)
      assert.isFalse(state.isPaused)
      for (const message of ["d", "e"]) yield* peer.send(message)
      assert.isFalse(state.isPaused)
      yield* peer.send("reply 1 yes")
      assert.strictEqual(yield* Effect.flatten(Fiber.join(asking)), "yes")
      yield* peer.send("f")
      yield* settle
      assert.isTrue(state.isPaused)
      const second = yield* asked(socket, 2)
      yield* peer.send("x".repeat(15 * 1024 * 1024))
      yield* settle
      assert.isFalse(state.isPaused)
      yield* peer.send("y".repeat(2 * 1024 * 1024))
      yield* settle
      assert.isTrue(state.isPaused)
      yield* Fiber.interrupt(second)
    }))

  test("W14: a handler of `messages` that waits for a reply gets it, after more than the inbox holds", () =>
    Effect.gen(function*() {
      const { layer } = yield* pausable
      const server = yield* serving
      const socket = yield* Effect.provide(make(), layer)
      const peer = yield* server.open
      const answers: Array<string> = []
      yield* Effect.forkScoped(
        Stream.runForEach(socket.messages, (message) =>
          message === "go"
            ? Effect.map(ask(socket, 1), (answer) => answers.push(answer))
            : Effect.void)
      )
      for (const message of ["go", "a", "b", "c", "d"]) yield* peer.send(message)
      yield* settle
      yield* peer.send("reply 1 yes")
      yield* settle
      assert.deepStrictEqual(answers, ["yes"])
    }))

  test("W14: a connection that cannot be paused does not end while a reply is awaited", () =>
    Effect.gen(function*() {
      const server = yield* serving
      const socket = yield* make()
      const events = yield* recorded(socket.events)
      const peer = yield* server.open
      const asking = yield* asked(socket, 1)
      for (const message of ["a", "b", "c", "reply 1 yes"]) yield* peer.send(message)
      assert.strictEqual(yield* Effect.flatten(Fiber.join(asking)), "yes")
      assert.deepStrictEqual(lossesOf(events.all), [])
      yield* peer.send("d")
      yield* settle
      assert.deepStrictEqual(lossesOf(events.all), ["InboxOverflow"])
    }))
})

describe("messages that the socket itself uses while the connection opens", () => {
  test("W14: `receive` gives acknowledgements and pongs, in order, and they have their effect", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const { peer, server, socket } = yield* opened({
        acknowledge,
        heartbeat: { ping: "ping", isPong: (message) => message === "pong" },
        onOpen: ({ receive }) =>
          Effect.repeat(Effect.tap(receive, (message) => seen.push(message)), { until: (message) => message === "end" })
      })
      yield* socket.send("1")
      yield* peer.send("end")
      yield* settle
      yield* peer.reset
      yield* pass(1_000)
      const next = yield* Effect.flatMap(Effect.flatMap(server.next, ({ open }) => open()), heard)
      for (const message of ["a", "pong", "ack 1", "end"]) yield* next.send(message)
      yield* settle
      assert.deepStrictEqual(seen, ["end", "a", "pong", "ack 1", "end"])
      // It was acknowledged before it could be sent again.
      assert.deepStrictEqual(next.got, [])
      yield* socket.flush
    }))

  test("W14: those that the login has not received are not left for `messages`, other messages are", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened({
        acknowledge,
        heartbeat: { ping: "ping", isPong: (message) => message === "pong" },
        onOpen: ({ receive }) => Effect.zipRight(Effect.sleep("1 seconds"), receive)
      })
      const messages = yield* recorded(socket.messages)
      for (const message of ["pong", "a", "ack 1", "pong", "b"]) yield* peer.send(message)
      yield* pass(1_000)
      yield* peer.send("pong")
      yield* peer.send("c")
      yield* settle
      assert.deepStrictEqual(messages.all, ["a", "b", "c"])
    }))

  for (
    const [name, fails] of [
      ["fails", Effect.fail("no login")],
      ["dies", Effect.die("no login")],
      ["is interrupted", Effect.interrupt]
    ] as const
  ) {
    test(`W14: they are not left for \`messages\` either if the login ${name}`, () =>
      Effect.gen(function*() {
        const { peer, server, socket } = yield* opened({
          heartbeat: { ping: "ping", isPong: (message) => message === "pong" },
          onOpen: () => Effect.zipRight(Effect.sleep("1 seconds"), fails)
        })
        const messages = yield* recorded(socket.messages)
        for (const message of ["pong", "a", "pong"]) yield* peer.send(message)
        yield* pass(1_000)
        assert.deepStrictEqual(messages.all, ["a"])
        assert.deepStrictEqual(server.unanswered, [])
      }))
  }

  test("W14: without `onOpen` nothing is kept for it", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened({ heartbeat: { ping: "ping", isPong: (message) => message === "pong" } })
      const messages = yield* recorded(socket.messages)
      for (const message of ["pong", "a"]) yield* peer.send(message)
      yield* settle
      assert.deepStrictEqual(messages.all, ["a"])
    }))
})
