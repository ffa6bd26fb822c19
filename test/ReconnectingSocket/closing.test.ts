import { assert, describe, it } from "@effect/vitest"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import { anotherFinalizer, interruptedDuring } from "../support/finalizers.js"
import {
  acknowledge,
  connected,
  dial,
  dialing,
  failureOf,
  isDone,
  type Message,
  ofTag,
  onWires,
  openTimers,
  pass,
  recorded,
  serving,
  settle,
  steady,
  test,
  Wire
} from "../support/reconnectingSockets.js"

describe("close", () => {
  test("W13: is not held up by an effect in the backoff that cannot be interrupted", () =>
    Effect.gen(function*() {
      const gate = yield* Deferred.make<void>()
      const { server, socket } = yield* dialing(ReconnectingSocket.make({
        dial,
        backoff: Schedule.tapInput(
          Schedule.spaced("1 hour"),
          () => Effect.uninterruptible(Deferred.await(gate))
        )
      }))
      yield* server.refuse(503)
      yield* settle
      yield* socket.close()
      assert.strictEqual((yield* socket.state)._tag, "Closed")
      yield* Deferred.succeed(gate, undefined)
    }))

  test("writes the queued messages, sends the close frame, and ends everything", () =>
    Effect.gen(function*() {
      const { events, peer, socket } = yield* connected(ReconnectingSocket.make({ dial }))
      const messages = yield* recorded(socket.messages)
      const states = yield* recorded(socket.stateChanges)
      for (let n = 0; n < 1000; n++) yield* socket.send(`${n}`)
      yield* socket.close(4000, "bye")
      assert.deepStrictEqual(yield* peer.ended, new WebSocketDialer.ConnectionClosed({ code: 4000, reason: "bye" }))
      yield* Effect.repeatN(settle, 10)
      assert.lengthOf(peer.got, 1000)
      const info = { code: 4000, reason: "bye", failure: Option.none() }
      assert.deepStrictEqual(yield* socket.state, { _tag: "Closed", info })
      assert.deepStrictEqual(events.at(-1), { _tag: "Closed", info })
      assert.deepStrictEqual(states.all.at(-1), { _tag: "Closed", info })
      for (const fiber of [messages.fiber, states.fiber]) assert.isTrue(Exit.isSuccess(yield* Fiber.await(fiber)))
      const late = yield* Effect.flip(socket.send("late"))
      assert.deepStrictEqual(late, new ReconnectingSocket.SocketClosed({ socket: "test", info }))
      assert.strictEqual((yield* Effect.flip(socket.deliver("late")))._tag, "SocketClosed")
      assert.strictEqual((yield* Effect.flip(socket.flush))._tag, "SocketClosed")
      assert.strictEqual((yield* Effect.flip(socket.awaitOpen))._tag, "SocketClosed")
      assert.strictEqual((yield* Effect.flip(Effect.scoped(socket.subscribe({ open: "+" }))))._tag, "SocketClosed")
      assert.lengthOf(ofTag(events, "Lost"), 0)
    }))

  for (
    const [code, sent] of [
      [undefined, 1000],
      [1001, 1001],
      [4999, 4999],
      [1004, 1000],
      [1005, 1000],
      [1006, 1000],
      [1015, 1000],
      [999, 1000],
      [2000, 1000],
      [5000, 1000],
      [NaN, 1000],
      [-1, 1000],
      [1000.5, 1000],
      [1006.5, 1000]
    ] as const
  ) {
    test(`with ${code} sends ${sent}`, () =>
      Effect.gen(function*() {
        const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial }))
        yield* socket.close(code)
        assert.deepStrictEqual(yield* peer.ended, new WebSocketDialer.ConnectionClosed({ code: sent, reason: "" }))
      }))
  }

  test("cuts a reason that is too long, not within a character", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial }))
      yield* socket.close(1000, `${"x".repeat(120)}😀`)
      const { reason } = (yield* peer.ended) as WebSocketDialer.ConnectionClosed
      assert.strictEqual(reason, "x".repeat(120))
    }))

  for (const reason of [5, null, {}]) {
    test(`without a reason if it is not text (${JSON.stringify(reason)})`, () =>
      Effect.gen(function*() {
        const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial }))
        yield* socket.close(4000, reason as never)
        assert.deepStrictEqual(yield* peer.ended, new WebSocketDialer.ConnectionClosed({ code: 4000, reason: "" }))
      }))
  }

  for (const state of ["Dialing", "Waiting", "Opening"] as const) {
    test(`while it is ${state} is done immediately, and nothing is dialed again`, () =>
      Effect.gen(function*() {
        const { events, server, socket } = yield* dialing(
          ReconnectingSocket.make({ dial, backoff: steady, onOpen: () => Effect.never })
        )
        const attempt = yield* server.next
        if (state === "Waiting") yield* attempt.refuse(503)
        const peer = state === "Opening" ? yield* attempt.open() : undefined
        yield* settle
        assert.strictEqual((yield* socket.state)._tag, state)
        const delivering = yield* Effect.fork(socket.deliver("queued"))
        yield* settle
        yield* socket.close(4000)
        assert.strictEqual((yield* socket.state)._tag, "Closed")
        assert.strictEqual(failureOf(yield* Fiber.await(delivering))._tag, "SocketClosed")
        yield* settle
        assert.deepStrictEqual(ofTag(events, "Dropped"), [{ _tag: "Dropped", message: "queued", reason: "Closed" }])
        if (peer !== undefined) {
          assert.deepInclude((yield* peer.ended) as object, { _tag: "ConnectionClosed", code: 4000 })
        }
        yield* pass(3_600_000)
        assert.lengthOf(server.times, 1)
      }))
  }

  test("may be called several times, and completes for all callers at the same time", () =>
    Effect.gen(function*() {
      const { events, peer, socket } = yield* connected(ReconnectingSocket.make({ dial }))
      yield* Effect.all([socket.close(4000), socket.close(4001), socket.close()], { concurrency: "unbounded" })
      yield* socket.close()
      assert.deepInclude((yield* peer.ended) as object, { code: 4000 })
      yield* settle
      assert.lengthOf(ofTag(events, "Closed"), 1)
    }))

  test("W13: takes at most two seconds if the peer reads nothing, and drops the remaining messages with events", () =>
    Effect.gen(function*() {
      const { events, peer, socket } = yield* connected(ReconnectingSocket.make({ dial }))
      yield* peer.stall
      const delivering = yield* Effect.fork(socket.deliver("in its hands"))
      yield* settle
      yield* socket.send("queued")
      const closing = yield* Effect.fork(socket.close())
      yield* pass(1_999)
      assert.isFalse(yield* isDone(closing))
      yield* pass(1)
      assert.isTrue(yield* isDone(closing))
      assert.isTrue(Exit.isFailure(yield* Fiber.await(delivering)))
      assert.sameDeepMembers(ofTag(events, "Dropped").map(({ message }) => message), ["in its hands", "queued"])
      assert.deepInclude((yield* peer.ended) as object, { _tag: "ConnectionLost" })
    }))

  test("W13: has the same bound if the peer does not answer the close frame", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial }))
      yield* peer.stall
      const closing = yield* Effect.fork(socket.close())
      yield* pass(1_999)
      assert.isFalse(yield* isDone(closing))
      yield* pass(1)
      assert.isTrue(yield* isDone(closing))
    }))

  it.scoped("W13: spends one bound in all, on draining and on the peer's answer", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], {})
      yield* settle
      yield* socket.send("a")
      yield* settle
      const closing = yield* Effect.fork(socket.close(4000, "bye"))
      yield* pass(1_500)
      assert.isUndefined(wire.closed)
      wire.take()
      yield* settle
      assert.deepStrictEqual(wire.closed, [4000, "bye"])
      yield* pass(499)
      assert.isFalse(yield* isDone(closing))
      yield* pass(1)
      assert.isTrue(yield* isDone(closing))
      assert.isTrue(wire.isTerminated)
    })
  })

  test("W13: waits for acknowledgements, within the bound", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial, acknowledge }))
      const delivering = yield* Effect.fork(socket.deliver("0"))
      yield* settle
      const closing = yield* Effect.fork(socket.close())
      yield* pass(1_000)
      assert.isFalse(yield* isDone(closing))
      yield* peer.send("ack 0")
      yield* Fiber.join(delivering)
      yield* Fiber.join(closing)
      assert.deepInclude((yield* peer.ended) as object, { code: 1000 })
    }))

  it.scoped("W13: is not delayed by messages that are not taken: the peer's close frame is read", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], { inbox: { capacity: 1 } })
      yield* settle
      wire.say("not taken")
      yield* settle
      assert.isTrue(wire.isPaused)
      yield* socket.close()
      assert.isFalse(wire.isPaused)
      assert.deepStrictEqual([...yield* Stream.runCollect(socket.messages)], ["not taken"])
    })
  })

  test("delivers the messages that have already arrived before `messages` ends", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial }))
      yield* peer.send("a")
      yield* socket.close()
      assert.deepStrictEqual([...yield* Stream.runCollect(socket.messages)], ["a"])
    }))

  test("W13: within onOpen does not wait for itself", () =>
    Effect.gen(function*() {
      let close: Effect.Effect<void> = Effect.void
      const after: Array<string> = []
      const server = yield* serving
      const socket = yield* ReconnectingSocket.make({
        dial,
        onOpen: () => Effect.map(Effect.suspend(() => close), () => after.push("goes on"))
      })
      close = socket.close(4000)
      const peer = yield* server.open
      yield* settle
      assert.strictEqual((yield* socket.state)._tag, "Closed")
      assert.deepInclude((yield* peer.ended) as object, { code: 4000 })
    }))

  for (const where of ["messages", "events", "stateChanges"] as const) {
    test(`W13: within a handler of ${where} is done`, () =>
      Effect.gen(function*() {
        const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial, backoff: steady }))
        const stream = socket[where] as Stream.Stream<unknown, ReconnectingSocket.SocketFailed>
        const handler = yield* Effect.fork(
          Stream.runForEach(Stream.drop(stream, where === "stateChanges" ? 1 : 0), () => socket.close())
        )
        yield* settle
        if (where === "messages") yield* peer.send("stop")
        else yield* socket.reconnect({ backoff: false })
        yield* Fiber.join(handler)
        assert.strictEqual((yield* socket.state)._tag, "Closed")
      }))
  }

  test("W13: continues when it is interrupted", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial, acknowledge }))
      yield* socket.send("0")
      const closing = yield* Effect.fork(socket.close())
      yield* settle
      yield* Fiber.interrupt(closing)
      assert.strictEqual((yield* Effect.flip(socket.send("1")))._tag, "SocketClosed")
      yield* peer.send("ack 0")
      yield* settle
      assert.strictEqual((yield* socket.state)._tag, "Closed")
    }))

  test("ends the senders that wait for room", () =>
    Effect.gen(function*() {
      const { socket } = yield* dialing(ReconnectingSocket.make({ dial, outbox: { capacity: 1, overflow: "suspend" } }))
      yield* socket.send("a")
      const waiting = yield* Effect.fork(socket.send("b"))
      const delivering = yield* Effect.fork(socket.deliver("c"))
      yield* settle
      yield* socket.close()
      for (const fiber of [waiting, delivering]) {
        assert.strictEqual(failureOf(yield* Fiber.await(fiber))._tag, "SocketClosed")
      }
    }))

  test("W13: does not dial again if the peer ends the connection meanwhile", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(ReconnectingSocket.make({ dial, acknowledge, backoff: steady }))
      yield* socket.send("0")
      const closing = yield* Effect.fork(socket.close())
      yield* settle
      yield* peer.reset
      yield* Fiber.join(closing)
      yield* pass(60_000)
      assert.lengthOf(server.times, 1)
    }))

  test("W13: immediately after a loss causes no dial", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(ReconnectingSocket.make({ dial, backoff: Schedule.forever }))
      yield* peer.reset
      yield* socket.close()
      yield* pass(60_000)
      assert.strictEqual((yield* socket.state)._tag, "Closed")
      assert.lengthOf(server.times, 1)
    }))

  test("W13: does not wait for a schedule", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(
        ReconnectingSocket.make({ dial, backoff: Schedule.mapEffect(Schedule.forever, () => Effect.never) })
      )
      yield* peer.reset
      yield* settle
      const closing = yield* Effect.fork(socket.close())
      yield* settle
      assert.isTrue(yield* isDone(closing))
      assert.lengthOf(server.times, 1)
    }))

  it.scoped("W13: waits no longer than its bound for a transport whose close does not end", () => {
    const wire = new Wire()
    Object.assign(wire.connection, { close: () => Effect.never })
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], {})
      yield* settle
      const closing = yield* Effect.fork(socket.close())
      yield* pass(1_999)
      assert.isFalse(yield* isDone(closing))
      yield* pass(1)
      assert.isTrue(yield* isDone(closing))
      assert.isTrue(wire.isTerminated)
    })
  })
})

describe("the scope", () => {
  test("W7: that closes closes the connection with 1000, and ends all streams", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const { peer, server, socket } = yield* connected(
        Scope.extend(ReconnectingSocket.make({ dial, backoff: steady }), scope)
      )
      const streams = yield* Effect.forEach([socket.messages, socket.events, socket.stateChanges] as const, (stream) =>
        Effect.fork(Effect.exit(Stream.runDrain(stream as Stream.Stream<unknown, unknown>))))
      yield* settle
      yield* socket.send("last")
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(yield* peer.ended, new WebSocketDialer.ConnectionClosed({ code: 1000, reason: "" }))
      yield* settle
      assert.deepStrictEqual(peer.got, ["last"])
      for (const stream of streams) {
        assert.isTrue(Exit.isSuccess(yield* Fiber.join(stream)))
      }
      assert.strictEqual((yield* Effect.flip(socket.send("late")))._tag, "SocketClosed")
      yield* pass(3_600_000)
      assert.lengthOf(server.times, 1)
    }))

  for (const state of ["Dialing", "Waiting", "Opening", "Open"] as const) {
    test(`W7: that closes while it is ${state} leaves no fiber`, () =>
      Effect.gen(function*() {
        const scope = yield* Scope.make()
        const server = yield* serving
        const before = yield* Effect.map(TestClock.sleeps(), (sleeps) => [...sleeps].length)
        const supervised = yield* Effect.flatMap(
          Scope.extend(
            ReconnectingSocket.make({
              dial,
              backoff: steady,
              renewAfter: "1 hours",
              outbox: { timeToLive: "1 minutes" },
              onOpen: () => state === "Opening" ? Effect.never : Effect.void
            }),
            scope
          ),
          (socket) => Effect.as(settle, socket)
        )
        const attempt = yield* server.next
        if (state === "Waiting") yield* attempt.refuse(503)
        if (state === "Opening" || state === "Open") yield* attempt.open()
        yield* settle
        assert.strictEqual((yield* supervised.state)._tag, state)
        yield* Scope.close(scope, Exit.void)
        yield* settle
        assert.strictEqual((yield* supervised.state)._tag, "Closed")
        yield* pass(3_600_000 * 24)
        assert.lengthOf(server.times, 1)
        const after = yield* Effect.map(TestClock.sleeps(), (sleeps) => [...sleeps].length)
        assert.isAtMost(after, before)
      }))
  }

  test("W7: that closes is not delayed by a peer that does not answer, even if the clock stands still", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const { peer, socket } = yield* connected(Scope.extend(ReconnectingSocket.make({ dial }), scope))
      yield* peer.stall
      yield* Scope.close(scope, Exit.void)
      assert.deepInclude((yield* peer.ended) as object, { _tag: "ConnectionLost" })
      assert.strictEqual((yield* socket.state)._tag, "Closed")
    }))

  for (const how of ["answers", "takes nothing"]) {
    test(`W7: that closes leaves no timer, where the peer ${how}`, () =>
      Effect.gen(function*() {
        const scope = yield* Scope.make()
        const { peer } = yield* connected(Scope.extend(ReconnectingSocket.make({ dial }), scope))
        if (how === "takes nothing") yield* peer.stall
        const timers = yield* openTimers
        yield* Scope.close(scope, Exit.void)
        assert.deepStrictEqual(timers.open(), [])
      }))
  }

  for (
    const [where, how] of [["onOpen", "open"], ["dial", "open"], ["onOpen", "opening"], ["dial", "dialing"]] as const
  ) {
    test(
      `W18: a finalizer of ${where} that never ends delays neither the scope nor the next connection (${how})`,
      () =>
        Effect.gen(function*() {
          const scope = yield* Scope.make()
          let begun = 0
          const acquired = Effect.addFinalizer(() => Effect.zipRight(Effect.sync(() => begun++), Effect.never))
          const server = yield* serving
          const socket = yield* Scope.extend(
            ReconnectingSocket.make({
              backoff: steady,
              dial: where === "dial" ? Effect.as(acquired, dial) : dial,
              onOpen: () =>
                Effect.zipRight(
                  where === "onOpen" ? acquired : Effect.void,
                  how === "opening" ? Effect.never : Effect.void
                )
            }),
            scope
          )
          const first = yield* server.open
          yield* first.reset
          yield* pass(1000)
          if (how === "dialing") yield* server.next
          else yield* server.open
          assert.strictEqual(begun, 1)
          const began = performance.now()
          yield* Scope.close(scope, Exit.void)
          assert.isBelow(performance.now() - began, 20_000)
          assert.strictEqual(begun, 2)
          assert.strictEqual((yield* socket.state)._tag, "Closed")
        }),
      { concurrent: true }
    )
  }

  test("W18: waits within its bound for finalizers that end, and ignores a finalizer that dies", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const released: Array<string> = []
      const release = (name: string) =>
        Effect.promise(() => new Promise<void>((resolve) => setTimeout(resolve, 20))).pipe(
          Effect.zipRight(Effect.sync(() => released.push(name)))
        )
      const { peer } = yield* connected(Scope.extend(
        ReconnectingSocket.make({
          dial: Effect.as(Effect.addFinalizer(() => release("dial")), dial),
          onOpen: () =>
            Effect.zipRight(
              Effect.addFinalizer(() => release("onOpen")),
              Effect.addFinalizer(() => Effect.die("a finalizer that dies"))
            )
        }),
        scope
      ))
      const timers = yield* openTimers
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(released, ["onOpen", "dial"])
      assert.deepStrictEqual(timers.open(), [])
      assert.strictEqual((yield* peer.ended)._tag, "ConnectionClosed")
    }))

  for (const where of ["dial", "onOpen", "open of a subscription"] as const) {
    test(`W18: waits within its bound for an effect that is given up while it acquires: ${where}`, () =>
      Effect.gen(function*() {
        const scope = yield* Scope.make()
        const released: Array<string> = []
        const acquired = Effect.acquireRelease(
          Effect.promise(() => new Promise<void>((resolve) => setTimeout(resolve, 20))),
          () => Effect.sync(() => released.push(where))
        )
        const server = yield* serving
        const socket = yield* Scope.extend(
          ReconnectingSocket.make({
            dial: where === "dial" ? Effect.as(acquired, dial) : dial,
            onOpen: () => where === "onOpen" ? acquired : Effect.void
          }),
          scope
        )
        if (where !== "dial") yield* server.open
        if (where === "open of a subscription") {
          yield* Effect.fork(Effect.scoped(socket.subscribe({ open: Effect.as(Effect.scoped(acquired), "+") })))
        }
        yield* settle
        assert.deepStrictEqual(released, [])
        yield* Scope.close(scope, Exit.void)
        assert.deepStrictEqual(released, [where])
      }))
  }

  test("W7: keeps an interruption that comes while it waits for the socket to close", () =>
    Effect.gen(function*() {
      const exit = yield* interruptedDuring((finalizer) =>
        Effect.scoped(Effect.gen(function*() {
          const server = yield* serving
          yield* ReconnectingSocket.make({ dial, onOpen: () => Effect.addFinalizer(() => finalizer) })
          yield* server.open
          yield* anotherFinalizer
        }))
      )
      assert.isTrue(Exit.isInterrupted(exit))
    }))

  test("W7: of a layer keeps a socket open", () =>
    Effect.gen(function*() {
      class Feed extends Context.Tag("Feed")<Feed, ReconnectingSocket.ReconnectingSocket<Message, Message>>() {
        static readonly layer = Layer.scoped(Feed, ReconnectingSocket.make({ dial, backoff: steady }))
      }
      const server = yield* serving
      const running = yield* Effect.fork(
        Effect.flatMap(Feed, (feed) => Effect.zipRight(feed.send("from a layer"), Effect.sleep("1 minutes"))).pipe(
          Effect.provide(Feed.layer)
        )
      )
      const peer = yield* server.open
      yield* peer.reset
      yield* pass(1000)
      const second = yield* server.open
      assert.deepStrictEqual([peer.got, second.got], [["from a layer"], []])
      yield* pass(60_000)
      yield* Fiber.join(running)
      assert.deepStrictEqual(yield* second.ended, new WebSocketDialer.ConnectionClosed({ code: 1000, reason: "" }))
    }))
})
