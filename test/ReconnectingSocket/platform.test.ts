import * as Socket from "@effect/platform/Socket"
import { assert, describe, it } from "@effect/vitest"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import {
  dial,
  dialing,
  failureOf,
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

describe("as a platform's socket", () => {
  const platform = (options?: Partial<ReconnectingSocket.Options<Message, Message>>) =>
    Effect.map(
      dialing(ReconnectingSocket.make<Message, Message>({ dial, backoff: steady, ...options })),
      ({ socket, ...rest }) => ({ ...rest, self: socket, socket: ReconnectingSocket.toSocket(socket) })
    )

  const runs = (socket: Socket.Socket) =>
    Effect.gen(function*() {
      const got: Array<Message> = []
      const fiber = yield* Effect.forkScoped(socket.runRaw((message) => {
        got.push(message)
      }))
      yield* settle
      return { got, fiber }
    })

  for (const how of ["reset", 1000, 1001, 4000] as const) {
    test(`W12: a run ends with its connection's loss (${how}), and the next is on the next connection`, () =>
      Effect.gen(function*() {
        const { server, socket } = yield* platform()
        const first = yield* runs(socket)
        const peer = yield* server.open
        yield* peer.send("a")
        yield* settle
        yield* how === "reset" ? peer.reset : peer.close(how, "why")
        yield* settle
        const error = failureOf(yield* Fiber.await(first.fiber)) as Socket.SocketError
        assert.deepInclude(
          error as object,
          how === "reset" ? { reason: "Read" } : { reason: "Close", code: how, closeReason: "why" }
        )
        const second = yield* runs(socket)
        yield* pass(1000)
        yield* Effect.flatMap(server.open, ({ send }) => send("b"))
        yield* settle
        assert.deepStrictEqual([first.got, second.got], [["a"], ["b"]])
      }))
  }

  it.scoped("W12: made while a connection opens, it gives each run the messages of that run's connection", () => {
    const wires = [new Wire({ pause: false }), new Wire({ pause: false })] as const
    return Effect.gen(function*() {
      const former = new Wire()
      const { socket } = yield* onWires([former, ...wires], { backoff: steady })
      const isOk = (message: Message) => message === "ok" ? Option.some(Either.void) : Option.none()
      yield* Effect.forkScoped(socket.subscribe({ open: "+", confirmed: isOk }))
      yield* settle
      former.say("ok")
      former.reset()
      yield* pass(1000)
      assert.strictEqual((yield* socket.state)._tag, "Opening")
      wires[0].say("a")
      const made = ReconnectingSocket.toSocket(socket)
      const first = yield* runs(made)
      wires[0].say("b")
      wires[0].say("ok")
      yield* settle
      wires[0].reset()
      yield* settle
      assert.isTrue(yield* isDone(first.fiber))
      const second = yield* runs(made)
      yield* pass(2000)
      wires[1].say("c")
      wires[1].say("ok")
      yield* settle
      assert.deepStrictEqual([first.got, second.got], [["a", "b"], ["c"]])
    })
  })

  it.scoped("W3: the code of a `CloseEvent` says nothing of the server, also if a replacement opens and fails", () => {
    const wires = [new Wire(), new Wire()] as const
    return Effect.gen(function*() {
      let logins = 0
      const { events, socket } = yield* onWires<Message, Message>(wires, {
        renewAfter: "5 seconds",
        backoff: steady,
        onOpen: () => logins++ === 0 ? Effect.void : Effect.never
      })
      const made = ReconnectingSocket.toSocket(socket)
      yield* runs(made)
      yield* pass(5_000)
      const write = yield* made.writer
      yield* write(new Socket.CloseEvent(1008, "mine"))
      yield* settle
      wires[1].reset()
      yield* settle
      assert.strictEqual((yield* socket.state)._tag, "Waiting")
      assert.deepStrictEqual(ofTag(events, "Lost").map(({ failure }) => failure._tag), [
        "ConnectionLost",
        "ConnectionLost"
      ])
    })
  })

  for (const how of ["reset", "close"] as const) {
    test(`W3: runs that are repeated leave the delay after each loss (${how}) to the backoff`, () =>
      Effect.gen(function*() {
        const { server, socket } = yield* platform()
        yield* Effect.forkScoped(Effect.forever(Effect.ignore(socket.runRaw(() => {}))))
        for (const delay of [1000, 2000, 4000]) {
          const peer = yield* server.open
          yield* how === "reset" ? peer.reset : peer.close(1001, "")
          const { length } = server.times
          yield* pass(delay - 1)
          assert.lengthOf(server.times, length)
          yield* pass(1)
          assert.lengthOf(server.times, length + 1)
        }
      }))
  }

  test("W12: a run gets no ping of the login that the heartbeat has answered", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform({
        heartbeat: { answer: (message) => message === "ping" ? Option.some("pong") : Option.none() },
        onOpen: ({ find }) =>
          Effect.ignore(find((message) => Option.liftPredicate(message, (one) => one === "welcome")))
      })
      const { got } = yield* runs(socket)
      const peer = yield* server.open
      for (const message of ["ping", "data", "ping", "welcome", "ping", "more"]) yield* peer.send(message)
      yield* settle
      assert.deepStrictEqual(got, ["data", "more"])
    }))

  it.scoped("W12: a run is not stopped by a login's answered pings that had filled the inbox", () =>
    Effect.gen(function*() {
      const wire = new Wire()
      const { socket } = yield* onWires([wire], {
        inbox: { capacity: 2 },
        heartbeat: { answer: (message) => message === "ping" ? Option.some("pong") : Option.none() },
        onOpen: () => Effect.sleep("1 second")
      })
      const { got } = yield* runs(ReconnectingSocket.toSocket(socket))
      for (const message of ["ping", "ping", "early"]) wire.say(message)
      yield* settle
      assert.isTrue(wire.isPaused)
      yield* pass(1_000)
      assert.isFalse(wire.isPaused)
      wire.say("data")
      yield* settle
      assert.deepStrictEqual(got, ["early", "data"])
    }))

  test("W12: a run gets the messages that arrived before it began", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform()
      yield* Effect.flatMap(server.open, ({ send }) => send("early"))
      const { got } = yield* runs(socket)
      assert.deepStrictEqual(got, ["early"])
    }))

  test("W12: run gives bytes, and onOpen ends before the first of them", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform()
      const log: Array<unknown> = []
      yield* Effect.forkScoped(socket.run((bytes) => {
        log.push(bytes)
      }, { onOpen: Effect.sync(() => log.push("open")) }))
      const peer = yield* server.open
      yield* peer.send("a")
      yield* peer.send(Uint8Array.of(1))
      yield* settle
      assert.deepStrictEqual(log, ["open", new TextEncoder().encode("a"), Uint8Array.of(1)])
    }))

  test("W12: handlers are started in order, and a waiting handler does not block the others", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform()
      const log: Array<string> = []
      yield* Effect.forkScoped(socket.runRaw((message) => {
        log.push(`+${message}`)
        return Effect.zipRight(
          Effect.sleep(message === "slow" ? "1 seconds" : 0),
          Effect.sync(() => log.push(`-${message}`))
        )
      }))
      const peer = yield* server.open
      for (const message of ["slow", "fast"]) yield* peer.send(message)
      yield* pass(500)
      assert.deepStrictEqual(log, ["+slow", "+fast", "-fast"])
      yield* pass(500)
      assert.deepStrictEqual(log, ["+slow", "+fast", "-fast", "-slow"])
    }))

  test("W12: no more than 1,024 handlers run at a time", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform()
      const gate = yield* Deferred.make<void>()
      let begun = 0
      let done = 0
      yield* Effect.forkScoped(socket.runRaw(() =>
        Effect.suspend(() => {
          begun++
          return Effect.map(Deferred.await(gate), () => done++)
        })
      ))
      const peer = yield* server.open
      for (let half = 0; half < 2; half++) {
        for (let i = 0; i < 750; i++) yield* peer.send("message")
        yield* settle
      }
      assert.strictEqual(begun, 1024)
      yield* Deferred.succeed(gate, undefined)
      yield* settle
      assert.strictEqual(done, 1500)
    }))

  for (
    const [how, handler, isDefect] of [
      ["fails", () => Effect.fail("no"), false],
      ["dies", () => Effect.die("no"), true],
      ["throws", () => {
        throw new Error("no")
      }, true]
    ] as const
  ) {
    test(`W12: a handler that ${how} ends the run with that exit, and ends its connection`, () =>
      Effect.gen(function*() {
        const { server, socket } = yield* platform()
        const fiber = yield* Effect.fork(socket.runRaw(handler as () => Effect.Effect<never, string>))
        const peer = yield* server.open
        yield* peer.send("a")
        const exit = yield* Fiber.await(fiber)
        assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause) === isDefect)
        yield* peer.ended
        yield* runs(socket)
        yield* server.open
      }))
  }

  test("W12: a write waits for the first run, then belongs to the connection of the last one", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform()
      const write = yield* socket.writer
      const writing = yield* Effect.fork(Effect.forEach(["a", "b"], write))
      const peer = yield* server.open
      assert.isFalse(yield* isDone(writing))
      const first = yield* runs(socket)
      yield* Fiber.join(writing)
      yield* settle
      assert.deepStrictEqual(peer.got, ["a", "b"])
      yield* peer.reset
      yield* Fiber.await(first.fiber)
      // The next one is not known yet, and then not attached yet.
      const early = yield* Effect.fork(write("c"))
      yield* pass(1000)
      const second = yield* server.open
      const later = yield* Effect.fork(write("d"))
      yield* settle
      assert.deepStrictEqual(second.got, [])
      yield* runs(socket)
      yield* Fiber.join(Fiber.zip(early, later))
      yield* write("e")
      yield* settle
      assert.deepStrictEqual(second.got, ["c", "d", "e"])
    }))

  test("W12: a write on a connection that is lost, whose run has not ended yet, is dropped and succeeds", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform()
      const write = yield* socket.writer
      const gate = yield* Deferred.make<void>()
      const fiber = yield* Effect.fork(Effect.exit(socket.runRaw(() => Effect.uninterruptible(Deferred.await(gate)))))
      const peer = yield* server.open
      yield* peer.send("message")
      yield* settle
      yield* peer.reset
      yield* settle
      yield* write("into the void")
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(fiber)
      yield* pass(1000)
      const second = yield* server.open
      yield* runs(socket)
      yield* settle
      assert.deepStrictEqual([peer.got, second.got], [[], []])
    }))

  test("W12: a write that waits can be interrupted, and is ended by close", () =>
    Effect.gen(function*() {
      const { self, socket } = yield* platform()
      const write = yield* socket.writer
      const first = yield* Effect.fork(write("a"))
      const second = yield* Effect.fork(write("b"))
      yield* settle
      yield* Fiber.interrupt(first)
      yield* self.close()
      yield* Fiber.join(second)
      yield* write("late")
    }))

  test("W12: a write to a peer that reads nothing waits no longer than the connection lasts", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform()
      const write = yield* socket.writer
      const { fiber } = yield* runs(socket)
      const peer = yield* server.open
      yield* peer.stall
      const writing = yield* Effect.fork(write("a"))
      yield* pass(10_000)
      yield* Fiber.join(writing)
      assert.deepInclude(failureOf(yield* Fiber.await(fiber)) as object, { reason: "Read" })
    }))

  test("W12: a run ends with its connection even if 1,024 handlers are still running", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform()
      let begun = 0
      const fiber = yield* Effect.fork(socket.runRaw(() => Effect.suspend(() => (begun++, Effect.never))))
      const peer = yield* server.open
      for (let i = 0; i < 1000; i++) yield* peer.send("message")
      yield* settle
      for (let i = 0; i < 500; i++) yield* peer.send("message")
      yield* peer.close(4000, "why")
      yield* settle
      assert.deepInclude(failureOf(yield* Fiber.await(fiber)) as object, { reason: "Close", code: 4000 })
      assert.strictEqual(begun, 1500)
    }))

  test("W12: a run ends with its connection even if its `onOpen` does not end", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform()
      const fiber = yield* Effect.fork(socket.runRaw(() => {}, { onOpen: Effect.never }))
      yield* Effect.flatMap(server.open, ({ close }) => Effect.zipRight(settle, close(4000, "why")))
      yield* settle
      assert.deepInclude(failureOf(yield* Fiber.await(fiber)) as object, { reason: "Close", code: 4000 })
    }))

  for (const code of [4000, 1008, 1009, 4401]) {
    test(`W12: a CloseEvent with ${code} closes that connection, not the socket, and the run ends with it`, () =>
      Effect.gen(function*() {
        const { self, server, socket } = yield* platform()
        const write = yield* socket.writer
        const { fiber } = yield* runs(socket)
        const peer = yield* server.open
        yield* write(new Socket.CloseEvent(code, "bye"))
        assert.deepStrictEqual(yield* peer.ended, new WebSocketDialer.ConnectionClosed({ code, reason: "bye" }))
        yield* peer.close(code, "bye")
        assert.deepInclude(failureOf(yield* Fiber.await(fiber)) as object, { reason: "Close", code })
        yield* pass(1000)
        yield* server.open
        assert.strictEqual((yield* self.state)._tag, "Open")
      }))
  }

  test("W12: after close a run succeeds, and so does a run in progress", () =>
    Effect.gen(function*() {
      const { self, server, socket } = yield* platform()
      const { fiber } = yield* runs(socket)
      yield* server.open
      yield* self.close()
      yield* Fiber.join(fiber)
      yield* socket.runRaw(() => {})
    }))

  test("W12: a failed socket fails its runs, with a reason that is not transient, and its writes", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform()
      const write = yield* socket.writer
      const { fiber } = yield* runs(socket)
      const writing = yield* Effect.fork(write("a"))
      yield* server.refuse(403)
      assert.deepInclude(failureOf(yield* Fiber.await(fiber)) as object, { reason: "Read" })
      assert.deepInclude((yield* Effect.flip(socket.runRaw(() => {}))) as object, { reason: "Read" })
      for (const failure of [failureOf(yield* Fiber.await(writing)), yield* Effect.flip(write("b"))]) {
        assert.deepInclude(failure as object, { reason: "Write" })
        assert.strictEqual(((failure as Socket.SocketError).cause as { readonly _tag: string })._tag, "SocketFailed")
      }
    }))

  test("W12: a run on a connection whose loss is final ends with that loss", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform()
      const { fiber } = yield* runs(socket)
      const peer = yield* server.open
      yield* peer.close(1008, "why")
      assert.deepInclude(failureOf(yield* Fiber.await(fiber)) as object, { reason: "Close", code: 1008 })
    }))

  test("W12: a second run at the same time fails, and the first goes on", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform()
      const { got } = yield* runs(socket)
      const peer = yield* server.open
      assert.deepInclude((yield* Effect.flip(socket.runRaw(() => {}))) as object, { reason: "Open" })
      yield* peer.send("a")
      yield* settle
      assert.deepStrictEqual(got, ["a"])
    }))

  test("W12: a run that is interrupted ends its connection; the next run has another one", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform()
      const { fiber } = yield* runs(socket)
      const peer = yield* server.open
      yield* Fiber.interrupt(fiber)
      yield* peer.ended
      const second = yield* runs(socket)
      yield* Effect.flatMap(server.open, ({ send }) => send("a"))
      yield* settle
      assert.deepStrictEqual(second.got, ["a"])
    }))

  test("W12: a run that is retried is on one connection after another", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform()
      const got: Array<Message> = []
      yield* Effect.forkScoped(Effect.retry(
        socket.runRaw((message) => {
          got.push(message)
        }),
        Schedule.forever
      ))
      for (const [n, delay] of [1000, 2000, 4000].entries()) {
        const peer = yield* server.open
        yield* peer.send(`${n}`)
        yield* settle
        yield* peer.reset
        yield* pass(delay)
      }
      assert.deepStrictEqual(got, ["0", "1", "2"])
    }))

  test("W12: a run stays on its connection when that is replaced", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform({ renewAfter: "10 seconds" })
      const write = yield* socket.writer
      const { fiber, got } = yield* runs(socket)
      const peer = yield* server.open
      yield* pass(10_000)
      yield* server.open
      yield* settle
      // Whether it renews or not, either the run has ended, or it is on a connection that lives.
      if (yield* isDone(fiber)) return
      yield* write("a")
      yield* peer.send("b")
      yield* settle
      assert.deepStrictEqual([peer.got, got], [["a"], ["b"]])
    }))

  test("W12: messages read and written go through the codec", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform({
        codec: { encode: (message) => `<${message}>`, decode: (message) => String(message).slice(1, -1) }
      })
      const write = yield* socket.writer
      const { got } = yield* runs(socket)
      const peer = yield* server.open
      yield* write("a")
      yield* peer.send("<b>")
      yield* settle
      assert.deepStrictEqual([peer.got, got], [["<a>"], ["b"]])
    }))

  test("W12: a run that is interrupted on a replaced connection leaves its replacement open", () =>
    Effect.gen(function*() {
      const { events, self, server, socket } = yield* platform({ renewAfter: "10 seconds" })
      const { fiber } = yield* runs(socket)
      const peer = yield* server.open
      yield* peer.stall
      yield* pass(10_000)
      const second = yield* server.open
      assert.isFalse(yield* isDone(fiber))
      yield* Fiber.interrupt(fiber)
      yield* settle
      assert.strictEqual((yield* self.state)._tag, "Open")
      assert.lengthOf(ofTag(events, "Lost"), 0)
      const next = yield* runs(socket)
      yield* second.send("a")
      yield* settle
      assert.deepStrictEqual(next.got, ["a"])
    }))

  test("W12: runs of two platform sockets both end with the connection", () =>
    Effect.gen(function*() {
      const { self, server, socket } = yield* platform()
      const first = yield* runs(socket)
      const second = yield* runs(ReconnectingSocket.toSocket(self))
      const peer = yield* server.open
      yield* settle
      yield* peer.reset
      yield* settle
      for (const { fiber } of [first, second]) {
        assert.isTrue(yield* isDone(fiber))
        assert.deepInclude(failureOf(yield* Fiber.await(fiber)) as object, { reason: "Read" })
      }
    }))
})
