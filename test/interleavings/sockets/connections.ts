/** The guarantees of a reconnecting socket about its connections: how many there are, and when each begins and ends. */
import * as Socket from "@effect/platform/Socket"
import type * as WebSocketDialerModule from "effect-holdfast/WebSocketDialer"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as assert from "node:assert/strict"
import {
  base,
  countOf,
  dropped,
  eventsOf,
  firstOf,
  hasSucceeded,
  ignored,
  inWorld,
  isIncreasing,
  isOnce,
  isOver,
  type Modules,
  ownerOf,
  reading,
  received,
  resettingAfter,
  sending,
  settled,
  type Sockets,
  statesOf,
  together,
  type Wire,
  type World
} from "./world.js"

export const connections = (modules: Modules) => {
  const { ReconnectingSocket, WebSocketDialer } = modules

  /** A socket that logs in, and whose first connection the server ends as `lose` says. */
  const losing = (
    lose: {
      readonly answer?: (peer: WebSocketDialerModule.Peer, message: string) => Effect.Effect<unknown> | undefined
      readonly onOpen?: (peer: WebSocketDialerModule.Peer) => Effect.Effect<unknown>
    },
    body: (socket: Sockets, world: World) => Effect.Effect<unknown, unknown>
  ) =>
    inWorld(modules, (world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make({
          ...base,
          onOpen: ({ receive, send }) => Effect.zipRight(send("login"), receive)
        })
        yield* body(socket, {
          ...world,
          serve: () =>
            world.serve(
              ({ number, peer }, message) =>
                (number === 0 ? lose.answer?.(peer, message) : undefined)
                  ?? (message === "login" ? peer.send("welcome") : Effect.void),
              ({ number, peer }) => number === 0 ? lose.onOpen?.(peer) ?? Effect.void : Effect.void
            )
        })
      }))

  /** There is one loss for each connection, and one dial more than there are losses and failed dials. */
  const isLostOnce = (socket: Sockets, world: World) =>
    Effect.gen(function*() {
      const seen = yield* eventsOf(socket)
      yield* world.serve()
      yield* socket.send("a1")
      yield* Effect.sleep("3 seconds")
      yield* socket.awaitOpen
      yield* socket.close()
      yield* isOver(world, socket, seen)
      assert.deepEqual(
        [countOf(seen, "Lost"), countOf(seen, "Waiting"), countOf(seen, "Closed")],
        // The last connection was closed.
        [world.dialed() - 1, world.dials() - 1, 1]
      )
    })

  /** In the end there is one connection, and each message was received once and in order. */
  const comesToRest = (world: World, socket: Sockets) =>
    Effect.gen(function*() {
      yield* Effect.sleep("2 seconds")
      yield* socket.awaitOpen
      yield* socket.flush
      yield* settled
      assert.equal(world.live(), 1)
      yield* socket.close()
      yield* isOver(world, socket)
      assert.ok(isOnce(received(world)) && isIncreasing(received(world)), String(received(world)))
    })

  /** The waits between the dials, while connections end and dials fail. */
  const outage = (
    backoff: Schedule.Schedule<unknown>,
    expected: ReadonlyArray<number>,
    body: (server: {
      readonly open: Effect.Effect<Wire>
      readonly fail: Effect.Effect<unknown>
      /** Ends a connection now. */
      readonly ended: (end: Effect.Effect<void>) => Effect.Effect<unknown>
    }) => Effect.Effect<unknown>
  ) =>
    inWorld(modules, (world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make({ ...base, backoff, stableAfter: "30 seconds" })
        const waits: Array<number> = []
        let endedAt = 0
        const dialed = Effect.zipLeft(
          world.attempt,
          Effect.map(Clock.currentTimeMillis, (now) => waits.push(now - endedAt))
        )
        const ended = (end: Effect.Effect<void>) =>
          Effect.zipRight(end, Effect.map(Clock.currentTimeMillis, (now) => endedAt = now))
        yield* body({
          open: Effect.zipLeft(
            Effect.flatMap(dialed, (attempt) => world.open(attempt)),
            Effect.orDie(socket.awaitOpen)
          ),
          fail: Effect.flatMap(dialed, (attempt) => ended(attempt.fail())),
          ended
        })
        yield* dialed
        yield* socket.close()
        assert.deepEqual(waits.slice(1), expected)
      }))

  const resetAndClosed = {
    onOpen: ({ close, reset }: WebSocketDialerModule.Peer) => together([reset, close(1000)])
  }

  return {
    "there is one connection at a time, even if several callers reconnect while it breaks": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make(base)
          yield* world.serve(resettingAfter([1]))
          yield* socket.awaitOpen
          for (
            const exit of yield* together([
              socket.reconnect({ backoff: false }),
              sending(socket, ["a1", "a2"]),
              socket.reconnect({ backoff: false })
            ])
          ) {
            hasSucceeded(exit)
          }
          yield* comesToRest(world, socket)
        })
    ),

    "there is one connection at a time, even if a caller reconnects just as the backoff ends": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make(base)
          yield* world.serve(ignored, (wire) => wire.number === 0 ? wire.peer.close(1001) : Effect.void)
          for (
            const exit of yield* together([
              sending(socket, ["a1", "a2"]),
              Effect.zipRight(Effect.sleep("1 second"), socket.reconnect({ backoff: false }))
            ])
          ) {
            hasSucceeded(exit)
          }
          yield* comesToRest(world, socket)
        })
    ),

    "a connection that is reset and closed together causes one loss and one new attempt": losing(
      resetAndClosed,
      isLostOnce
    ),

    "a connection that is closed during its login causes one loss and one new attempt": losing(
      { answer: ({ close }) => close(1011) },
      isLostOnce
    ),

    "a connection that breaks during a write causes one loss and one new attempt": losing(
      { answer: ({ reset }, message) => message === "login" ? undefined : reset },
      isLostOnce
    ),

    "the states follow each other as the state diagram allows, each once": losing(
      resetAndClosed,
      (socket, world) =>
        Effect.gen(function*() {
          const states = yield* statesOf(socket)
          yield* world.serve()
          yield* Effect.sleep("3 seconds")
          yield* socket.awaitOpen
          yield* socket.close()
          yield* isOver(world, socket, states)
          const follows: Record<string, ReadonlyArray<string>> = {
            Dialing: ["Opening", "Waiting", "Closed"],
            Opening: ["Open", "Waiting", "Closed"],
            Open: ["Waiting", "Closed"],
            Waiting: ["Dialing", "Closed"],
            Closed: []
          }
          const tags = states.values.map(({ _tag }) => _tag)
          tags.forEach((tag, index) => {
            if (index > 0) assert.ok(follows[tags[index - 1]!]!.includes(tag), String(tags))
          })
          assert.equal(tags.at(-1), "Closed")
          assert.equal(tags.filter((tag) => tag === "Opening").length, world.dialed())
        })
    ),

    "a socket that fails answers all waiting callers with the failure": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({ ...base, outbox: { capacity: 1, overflow: "suspend" } })
          const seen = yield* eventsOf(socket)
          yield* socket.send("a1")
          const closed = yield* Effect.forEach(
            [socket.send("a2"), socket.deliver("a3"), socket.flush],
            (one) => Effect.fork(one)
          )
          const failed = yield* Effect.forEach([socket.awaitOpen, reading(socket.messages)], (one) => Effect.fork(one))
          yield* settled
          const attempt = yield* world.attempt
          yield* attempt.refuse(403)
          for (const fiber of closed) {
            const end = yield* Effect.either(Fiber.join<void, { readonly _tag: string }>(fiber))
            assert.ok(Either.isLeft(end) && end.left._tag === "SocketClosed")
            const { info } = end.left as InstanceType<typeof ReconnectingSocket.SocketClosed>
            assert.ok(Option.isSome(info.failure), "the failure is missing")
          }
          for (const fiber of failed) {
            const end = yield* Effect.either(Fiber.join<void, { readonly _tag: string }>(fiber))
            assert.ok(Either.isLeft(end) && end.left._tag === "SocketFailed")
          }
          yield* Fiber.join(seen.fiber)
          assert.deepEqual([dropped(seen), world.dials(), world.live()], [["a1"], 1, 0])
        })
    ),

    "`reconnect` takes effect immediately, during a dial and during a login": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const opening = yield* Deferred.make<void>()
          const socket = yield* ReconnectingSocket.make({
            ...base,
            backoff: Schedule.spaced("1 hour"),
            onOpen: ({ receive, send }) => Effect.all([Deferred.succeed(opening, undefined), send("login"), receive])
          })
          // The first dial hangs.
          yield* world.attempt
          yield* socket.reconnect({ backoff: false })
          // The server never answers the login on the second connection.
          yield* world.open(yield* world.attempt)
          yield* Deferred.await(opening)
          yield* socket.reconnect({ backoff: false })
          yield* world.open(yield* world.attempt, ({ peer }) => peer.send("welcome"))
          yield* socket.awaitOpen
          yield* settled
          // An abandoned dial may still be ending while the next dial runs.
          assert.equal(world.live(), 1)
          assert.ok((yield* Clock.currentTimeMillis) <= 1_000)
          yield* socket.close()
          yield* isOver(world, socket)
        }),
      { most: 2 }
    ),

    "`reconnect`, called again as it ends a wait, causes no other wait": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({ ...base, backoff: Schedule.spaced("10 seconds") })
          const owner = ownerOf(socket)
          yield* Effect.flatMap(world.attempt, ({ refuse }) => refuse(503))
          yield* settled
          yield* world.serve(ignored)
          // The state is looked at in the step of the order: an order that comes while the socket dials is another one.
          const again = Effect.sync(() => owner.state._tag === "Waiting" ? owner.reconnect({}) : undefined)
          yield* Effect.repeatN(Effect.zipRight(again, Effect.yieldNow()), 10)
          yield* Effect.sleep("1 second")
          assert.deepEqual([(yield* socket.state)._tag, world.dials()], ["Open", 2])
          yield* socket.close()
        })
    ),

    "`reconnect` takes effect immediately, even if the connection breaks meanwhile": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({ ...base, backoff: Schedule.spaced("1 hour") })
          const first = yield* world.open(yield* world.attempt)
          yield* socket.awaitOpen
          yield* together([socket.reconnect({ backoff: false }), first.peer.reset])
          const second = yield* Effect.race(
            world.attempt,
            // The reset was seen first, and `reconnect` found that the connection had ended.
            Effect.zipRight(
              Effect.sleep("1 second"),
              Effect.zipRight(socket.reconnect({ backoff: false }), Effect.never)
            )
          )
          yield* world.open(second)
          yield* socket.awaitOpen
          yield* settled
          assert.equal(world.live(), 1)
          assert.ok((yield* Clock.currentTimeMillis) <= 2_000)
          yield* socket.close()
          yield* isOver(world, socket)
        }),
      { most: 2 }
    ),

    "the reader stops at the end of a connection, whatever the transport reports later": Effect.gen(function*() {
      // A transport that still calls its listener after its end.
      const listeners: Array<WebSocketDialerModule.Listener> = []
      const { ConnectionClosed, WebSocketDialer } = modules.WebSocketDialer
      const connection: WebSocketDialerModule.Connection = {
        protocol: "",
        listen: (listener) => Effect.sync(() => listeners.push(listener)),
        write: () => Effect.void,
        ping: Option.none(),
        backpressure: Option.none(),
        close: (code = 1000, reason = "") =>
          Effect.sync(() => listeners.at(-1)!.onEnd(new ConnectionClosed({ code, reason }))),
        terminate: Effect.void
      }
      const socket = yield* ReconnectingSocket.make(base).pipe(
        Effect.provideService(WebSocketDialer, { dial: () => Effect.succeed(connection) })
      )
      const seen = yield* eventsOf(socket)
      yield* socket.awaitOpen
      listeners[0]!.onMessage("1")
      listeners[0]!.onEnd(new ConnectionClosed({ code: 1000, reason: "" }))
      listeners[0]!.onMessage("2")
      yield* Effect.yieldNow()
      listeners[0]!.onMessage("3")
      listeners[0]!.onEnd(new ConnectionClosed({ code: 1001, reason: "" }))
      yield* Effect.sleep("1 second")
      yield* socket.awaitOpen
      listeners[1]!.onMessage("4")
      assert.deepEqual(yield* firstOf(socket.messages, 2), ["1", "4"])
      yield* socket.close()
      yield* Fiber.join(seen.fiber)
      assert.deepEqual([countOf(seen, "Lost"), listeners.length], [1, 2])
    }).pipe(Effect.scoped),

    "the backoff continues during an outage, and starts again after a stable connection": outage(
      Schedule.exponential("1 second", 10),
      [1_000, 10_000, 1_000],
      ({ ended, fail, open }) =>
        Effect.gen(function*() {
          yield* fail
          // A connection that opens and breaks is part of the outage.
          const flapping = yield* open
          yield* ended(flapping.peer.reset)
          const stable = yield* open
          yield* Effect.sleep("30 seconds")
          yield* ended(stable.peer.reset)
        })
    ),

    "the backoff is never longer than the longest timer": outage(
      Schedule.exponential("1 second", 10_000_000),
      [1_000, 2 ** 31 - 1, 2 ** 31 - 1],
      ({ fail }) => Effect.zipRight(fail, Effect.zipRight(fail, fail))
    ),

    "toSocket: a run ends with its connection, the next run has the next connection, and no write hangs": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const self = yield* ReconnectingSocket.make(base)
          const socket = ReconnectingSocket.toSocket(self)
          yield* world.serve(resettingAfter([2]), ({ number, peer }) => peer.send(`hello ${number}`))
          const heard: Array<string> = []
          const running = yield* Effect.fork(
            Effect.retry(socket.runRaw((message) => void heard.push(String(message))), {
              while: (error) => error.reason !== "Open"
            })
          )
          const writing = Effect.flatMap(socket.writer, (write) =>
            Effect.forEach(["a1", "a2", "a3"], (message) => Effect.zipRight(Effect.yieldNow(), write(message))))
          hasSucceeded(yield* Effect.exit(Effect.scoped(writing)))
          yield* Effect.sleep("3 seconds")
          yield* self.awaitOpen
          yield* settled
          yield* self.close()
          hasSucceeded(yield* Fiber.await(running))
          yield* isOver(world, self)
          // A connection that is reset before its greeting brings no message.
          assert.ok(isOnce(heard) && isIncreasing(heard), String(heard))
          assert.equal(heard.at(-1), `hello ${world.wires.length - 1}`)
          assert.ok(isOnce(received(world)) && isIncreasing(received(world)), String(received(world)))
        })
    ),

    "a network that comes back just as the backoff ends causes one dial": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const { dial } = yield* WebSocketDialer.WebSocketDialer
          let wakes = 0
          const wake = Effect.suspend(() => wakes++ === 0 ? Effect.sleep("1 second") : Effect.never)
          const self = yield* Effect.provideService(
            ReconnectingSocket.make(base),
            WebSocketDialer.WebSocketDialer,
            { dial, wake, ready: Effect.yieldNow() }
          )
          yield* Effect.flatMap(world.attempt, ({ fail }) => fail())
          yield* world.serve()
          yield* self.awaitOpen
          yield* Effect.sleep("5 seconds")
          assert.equal(world.dials(), 2)
          yield* self.close()
          yield* isOver(world, self)
        })
    ),

    "toSocket: a write after the end of a run goes to the next run's connection": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const self = yield* ReconnectingSocket.make(base)
          const socket = ReconnectingSocket.toSocket(self)
          yield* world.serve()
          const first = yield* Effect.fork(Effect.exit(socket.runRaw(() => {})))
          yield* self.awaitOpen
          yield* settled
          yield* Effect.fork(world.wires[0]!.peer.reset)
          yield* Fiber.join(first)
          const writing = yield* Effect.fork(Effect.scoped(Effect.flatMap(socket.writer, (write) => write("a"))))
          const second = yield* Effect.fork(socket.runRaw(() => {}))
          hasSucceeded(yield* Fiber.await(writing))
          yield* settled
          assert.deepEqual(world.wires.map(({ received }) => received), [[], ["a"]])
          yield* self.close()
          hasSucceeded(yield* Fiber.await(second))
          yield* isOver(world, self)
        })
    ),

    "toSocket: if the socket fails, runs and writes end, and no run ends with a transient reason": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const self = yield* ReconnectingSocket.make(base)
          const socket = ReconnectingSocket.toSocket(self)
          const run = yield* Effect.fork(Effect.flip(socket.runRaw(() => {})))
          const writing = yield* Effect.fork(
            Effect.scoped(Effect.flatMap(socket.writer, (write) =>
              Effect.forEach(["a1", "a2"], (message) =>
                Effect.either(write(message)))))
          )
          yield* Effect.flatMap(world.attempt, ({ fail }) =>
            fail())
          yield* Effect.flatMap(world.attempt, ({ refuse }) => refuse(403))
          assert.equal((yield* Fiber.join(run)).reason, "Read")
          assert.equal((yield* Effect.flip(socket.runRaw(() => {}))).reason, "Read")
          for (const written of yield* Fiber.join(writing)) {
            assert.ok(Either.isLeft(written) && written.left.reason === "Write")
          }
        })
    ),

    "toSocket: if the socket is closed at any time, runs and writes end": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const self = yield* ReconnectingSocket.make(base)
          const socket = ReconnectingSocket.toSocket(self)
          const run = yield* Effect.fork(socket.runRaw(() => Effect.yieldNow()))
          const writing = yield* Effect.fork(
            Effect.scoped(Effect.flatMap(socket.writer, (write) =>
              Effect.all([write("a1"), write("a2"), write(new Socket.CloseEvent(1000)), write("a3")])))
          )
          yield* Effect.fork(Effect.flatMap(world.attempt, (attempt) =>
            world.open(attempt)))
          yield* Effect.yieldNow()
          yield* self.close()
          const end = yield* Effect.either(Fiber.join(run))
          if (Either.isLeft(end)) assert.equal(end.left.reason, "Close")
          hasSucceeded(yield* Fiber.await(writing))
          yield* isOver(world, self)
        })
    )
  }
}
