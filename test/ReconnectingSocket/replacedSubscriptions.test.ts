import { assert, describe, it } from "@effect/vitest"
import type { ReconnectingSocket } from "effect-holdfast/ReconnectingSocket"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import {
  acknowledge,
  isDone,
  type Message,
  ofTag,
  onWires,
  opened,
  pass,
  settle,
  tagsOf,
  test,
  Wire
} from "../support/reconnectingSockets.js"

const confirmed = (message: Message) => message === "gold" ? Option.some(Either.void) : Option.none()

describe("a subscription of a connection that is replaced", () => {
  const renewing = { renewAfter: "10 seconds" } as const

  /** Keeps the connection for two more seconds after it has been replaced. */
  const awaitReply = (socket: ReconnectingSocket<string, unknown>) =>
    Effect.forkScoped(Effect.ignore(socket.request("ask", { reply: () => Option.none(), timeout: "1 hours" })))

  test("W15: whose effect gives its message after that is opened on the next connection only", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* opened({ ...renewing, openTimeout: "1 hours" })
      const late = yield* Deferred.make<string>()
      let opens = 0
      const subscribing = yield* Effect.forkScoped(socket.subscribe({
        open: Effect.suspend(() => opens++ === 0 ? Deferred.await(late) : Effect.succeed("+gold of the second")),
        close: "-gold"
      }))
      yield* awaitReply(socket)
      yield* pass(10_000)
      const second = yield* server.open
      assert.isTrue(yield* isDone(subscribing))
      yield* Deferred.succeed(late, "+gold of the first")
      yield* settle
      assert.deepStrictEqual([peer.got, second.got], [["ask"], ["+gold of the second"]])
    }))

  test("W15: that waits for its turn is opened on the next connection only", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* opened({
        ...renewing,
        acknowledge: { ...acknowledge, id: (message) => message === "ask" ? undefined : Number(message) },
        subscriptions: { rate: { limit: 1, interval: "11500 millis" } }
      })
      const first = yield* Scope.make()
      yield* Scope.extend(socket.subscribe({ open: "+gold" }), first)
      yield* Scope.close(first, Exit.void)
      yield* pass(10_000)
      yield* awaitReply(socket)
      yield* socket.send("0")
      yield* settle
      const second = yield* server.open
      // The current connection is kept until it has acknowledged, so this one is for both.
      yield* socket.subscribe({ open: "+tin" })
      yield* settle
      yield* peer.send("ack 0")
      yield* pass(1_000)
      yield* pass(20_000)
      assert.deepStrictEqual([peer.got, second.got], [["+gold", "0", "ask"], ["+tin"]])
    }))

  test("W15: that is left is closed on that connection, and never on the next one", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* opened({
        ...renewing,
        subscriptions: { rate: { limit: 1, interval: "11 seconds" } }
      })
      const scope = yield* Scope.make()
      yield* Scope.extend(socket.subscribe({ open: "+gold", close: "-gold" }), scope)
      yield* awaitReply(socket)
      yield* Scope.close(scope, Exit.void)
      yield* pass(10_000)
      const second = yield* server.open
      yield* pass(1_000)
      assert.deepStrictEqual([peer.got, second.got], [["+gold", "ask", "-gold"], []])
      assert.deepStrictEqual(tagsOf(ofTag(events, "Lost")), [])
    }))

  test("W14: that is not answered there, but on the next connection, is confirmed, and stays", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* opened(renewing)
      yield* awaitReply(socket)
      yield* pass(8_900)
      const scope = yield* Scope.make()
      const subscribing = yield* Effect.forkScoped(
        Scope.extend(socket.subscribe({ open: "+gold", close: "-gold", confirmed, timeout: "1200 millis" }), scope)
      )
      yield* pass(1_100)
      const second = yield* server.open
      yield* second.send("gold")
      yield* settle
      assert.isTrue(yield* isDone(subscribing))
      yield* pass(1_900)
      yield* Fiber.join(subscribing)
      assert.deepStrictEqual([peer.got, second.got], [["ask", "+gold"], ["+gold"]])
      assert.deepStrictEqual(ofTag(events, "SubscriptionFailed"), [])
    }))

  for (const how of ["fails", "dies"] as const) {
    test(`W14: whose effect ${how} on the next connection ends with that, if it was not opened before`, () =>
      Effect.gen(function*() {
        const { peer, server, socket } = yield* opened({ ...renewing, acknowledge, openTimeout: "1 hours" })
        yield* socket.send("0")
        yield* pass(10_000)
        yield* server.open
        let opens = 0
        const refusal = yield* Deferred.make<never, string>()
        const subscribing = yield* Effect.forkScoped(Effect.scoped(
          socket.subscribe({ open: Effect.suspend(() => opens++ === 0 ? Effect.never : Deferred.await(refusal)) })
        ))
        yield* settle
        yield* peer.send("ack 0")
        yield* settle
        assert.isFalse(yield* isDone(subscribing))
        yield* how === "fails" ? Deferred.fail(refusal, "refused") : Deferred.die(refusal, "refused")
        const exit = yield* Fiber.await(subscribing)
        assert.deepStrictEqual(exit, how === "fails" ? Exit.fail("refused") : Exit.die("refused"))
      }))
  }

  describe("while the current connection still waits for acknowledgements", () => {
    const waiting = Effect.gen(function*() {
      const { events, peer, server, socket } = yield* opened({ ...renewing, acknowledge })
      yield* pass(10_000)
      yield* socket.send("0")
      yield* settle
      const second = yield* server.open
      const scope = yield* Scope.make()
      const subscribing = yield* Effect.forkScoped(
        Scope.extend(socket.subscribe({ open: "+gold", close: "-gold", confirmed, timeout: "1 hours" }), scope)
      )
      yield* settle
      assert.deepStrictEqual(peer.got, ["0"])
      return { events, peer, second, server, socket, subscribing, scope }
    })

    test("W15: is opened on the next connection, whose answer its `subscribe` waits for", () =>
      Effect.gen(function*() {
        const { peer, scope, second, subscribing } = yield* waiting
        yield* pass(2_000)
        assert.deepStrictEqual([peer.got, second.got], [["0"], ["+gold", "0"]])
        assert.isFalse(yield* isDone(subscribing))
        yield* second.send("gold")
        yield* settle
        assert.isTrue(yield* isDone(subscribing))
        yield* Scope.close(scope, Exit.void)
        yield* settle
        assert.deepStrictEqual([peer.got, second.got], [["0"], ["+gold", "0", "-gold"]])
      }))

    test("W15: is closed on the next connection if its `subscribe` is interrupted while it waits for that answer", () =>
      Effect.gen(function*() {
        const { peer, second, subscribing } = yield* waiting
        yield* pass(2_000)
        yield* Fiber.interrupt(subscribing)
        yield* settle
        assert.deepStrictEqual([peer.got, second.got], [["0"], ["+gold", "0", "-gold"]])
      }))

    test("W15: is opened on the current one if the next one is lost before it has taken over", () =>
      Effect.gen(function*() {
        const { events, peer, second, subscribing } = yield* waiting
        yield* second.reset
        yield* pass(2_000)
        assert.deepStrictEqual([peer.got, second.got], [["0", "+gold"], []])
        assert.isFalse(yield* isDone(subscribing))
        yield* peer.send("gold")
        yield* Fiber.join(subscribing)
        assert.deepStrictEqual(ofTag(events, "Lost"), [])
      }))

    it.scoped("W14: does not hold the reader of `messages`, although its inbox is full", () => {
      const wires = [new Wire(), new Wire()]
      return Effect.gen(function*() {
        const { socket } = yield* onWires<string, string>(wires, {
          renewAfter: "5 seconds",
          acknowledge,
          inbox: { capacity: 2 }
        })
        yield* pass(4_000)
        yield* socket.send("0")
        yield* pass(1_000)
        wires[0]!.isHeld = true
        for (const message of ["a", "b"]) wires[0]!.say(message)
        const read: Array<Message> = []
        yield* Effect.forkScoped(Effect.zipRight(
          socket.subscribe({ open: "+gold", confirmed, timeout: "1 hours" }),
          Stream.runForEach(socket.messages, (message) => Effect.sync(() => read.push(message)))
        ))
        yield* pass(2_000)
        // The replaced connection does not answer its close frame, and has more to say than the inbox takes.
        wires[1]!.say("ack 0")
        wires[1]!.say("gold")
        for (const message of ["c", "d"]) wires[0]!.say(message)
        yield* pass(2_000)
        assert.deepStrictEqual(read, ["a", "b", "c", "d"])
        assert.deepStrictEqual([wires[0]!.taken, wires[1]!.taken], [["0"], ["+gold", "0"]])
      })
    })
  })
})
