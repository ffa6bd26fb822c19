/**
 * `received`: the messages with the border between one connection and the next.
 */
import { assert, describe } from "@effect/vitest"
import type * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import { failureOf, isDone, opened, pass, recorded, settle, test } from "../support/reconnectingSockets.js"

/** `0:` is the border before the messages of connection 0, `0:a` its message `a`. */
const shown = (all: ReadonlyArray<ReconnectingSocket.Received<string>>) =>
  all.map((one) => `${one.connection}:${one._tag === "Opened" ? "" : one.message}`)

const nextOf = (server: Effect.Effect.Success<ReturnType<typeof opened>>["server"]) =>
  Effect.gen(function*() {
    yield* settle
    while (server.unanswered.length === 0) yield* pass(1_000)
    return yield* server.open
  })

describe("received", () => {
  test("W14: the messages of each connection come after its border, with its number", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* opened()
      const received = yield* recorded(socket.received)
      assert.deepStrictEqual(shown(received.all), ["0:"])
      for (const message of ["a", "b"]) yield* peer.send(message)
      yield* settle
      yield* peer.reset
      const second = yield* nextOf(server)
      yield* second.send("c")
      yield* settle
      yield* second.close(1001)
      yield* nextOf(server)
      assert.deepStrictEqual(shown(received.all), ["0:", "0:a", "0:b", "1:", "1:c", "2:"])
    }))

  test("W14: a slow reader reads the border in its place", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* opened()
      for (const message of ["a", "b"]) yield* peer.send(message)
      yield* peer.reset
      const second = yield* nextOf(server)
      yield* second.send("c")
      yield* settle
      assert.deepStrictEqual(shown((yield* recorded(socket.received)).all), ["0:", "0:a", "0:b", "1:", "1:c"])
    }))

  test("W14: a message that the login did not receive comes after the border, unless the socket has used it", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened({
        heartbeat: { ping: "ping", isPong: (message) => message === "pong" },
        onOpen: ({ receive }) => Effect.zipRight(receive, Effect.sleep("1 seconds"))
      })
      const received = yield* recorded(socket.received)
      for (const message of ["welcome", "pong", "a", "b"]) yield* peer.send(message)
      yield* settle
      assert.deepStrictEqual(shown(received.all), [])
      yield* pass(1_000)
      yield* peer.send("c")
      yield* settle
      assert.deepStrictEqual(shown(received.all), ["0:", "0:a", "0:b", "0:c"])
    }))

  test("W14: a connection that was never ready has a border if it brought messages, otherwise no number", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* opened({
        onOpen: ({ receive }) =>
          Effect.flatMap(receive, (message) => message === "welcome" ? Effect.void : Effect.fail("no login"))
      })
      const received = yield* recorded(socket.received)
      yield* peer.send("no")
      const second = yield* nextOf(server)
      for (const message of ["no", "left"]) yield* second.send(message)
      const third = yield* nextOf(server)
      for (const message of ["welcome", "a"]) yield* third.send(message)
      yield* settle
      assert.deepStrictEqual(shown(received.all), ["0:", "0:left", "1:", "1:a"])
    }))

  test("W15: with `renewAfter` messages of the previous connection keep its number after the next border", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* opened({ renewAfter: "10 seconds" })
      const received = yield* recorded(socket.received)
      // Keeps the previous connection until it is answered.
      yield* pass(8_900)
      const asking = yield* Effect.fork(Effect.exit(socket.request("ask", { reply: () => Option.none() })))
      yield* peer.send("a")
      yield* pass(1_100)
      const next = yield* server.open
      yield* next.send("b")
      yield* peer.send("c")
      yield* next.send("d")
      yield* settle
      assert.deepStrictEqual(shown(received.all), ["0:", "0:a", "1:", "1:b", "0:c", "1:d"])
      yield* Fiber.interrupt(asking)
    }))

  test("W14: a border does not count in the inbox, and many borders take little memory", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* opened({ inbox: { capacity: 2 } })
      yield* peer.send("a")
      yield* peer.reset
      for (let n = 1; n <= 5; n++) yield* (yield* nextOf(server)).reset
      const last = yield* nextOf(server)
      yield* last.send("b")
      yield* settle
      const received = yield* recorded(socket.received)
      // No connection was lost because of its inbox, and every message has its number.
      assert.deepStrictEqual(shown(received.all), ["0:", "0:a", "6:", "6:b"])
    }))

  test("`messages` skips the borders, and is not woken by one", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* opened()
      const messages = yield* recorded(Stream.chunks(socket.messages))
      yield* peer.reset
      const second = yield* nextOf(server)
      assert.deepStrictEqual(messages.all, [])
      yield* second.send("a")
      yield* settle
      assert.deepStrictEqual(messages.all.map(Chunk.toReadonlyArray), [["a"]])
    }))

  test("it ends with `close`, after the remaining messages", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened()
      yield* peer.send("a")
      yield* settle
      yield* socket.close()
      const received = yield* recorded(socket.received)
      assert.deepStrictEqual(shown(received.all), ["0:", "0:a"])
      assert.isTrue(yield* isDone(received.fiber))
      assert.isTrue(Exit.isSuccess(yield* Fiber.await(received.fiber)))
    }))

  test("W6: it fails with SocketFailed when the socket fails", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened()
      const reading = yield* Effect.fork(Effect.exit(Stream.runDrain(socket.received)))
      yield* peer.close(1008)
      yield* settle
      assert.strictEqual(failureOf(yield* Fiber.join(reading))._tag, "SocketFailed")
    }))

  test("W7: interrupted while it waits it has taken no message; it is a consumer like `messages`", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened()
      const first = yield* recorded(socket.received)
      const both = yield* Effect.exit(Stream.runDrain(socket.messages))
      assert.isTrue(Exit.isFailure(both) && both.cause._tag === "Die")
      yield* Fiber.interrupt(first.fiber)
      yield* peer.send("a")
      yield* settle
      assert.deepStrictEqual(shown(first.all), ["0:"])
      assert.deepStrictEqual(shown((yield* recorded(socket.received)).all), ["0:a"])
    }))
})
