/** The guarantees of a reconnecting socket about its messages and subscriptions. */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as assert from "node:assert/strict"
import {
  acknowledge,
  acknowledging,
  areAnswered,
  base,
  countOf,
  deduplicated,
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
  narrow,
  of,
  openAfterEach,
  received,
  resettingAfter,
  sending,
  settled,
  together,
  waiters
} from "./world.js"

export const messages = (modules: Modules) => {
  const { ReconnectingSocket } = modules
  return {
    "messages of several senders arrive at most once, in each sender's order, even if connections break": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make(base)
          const seen = yield* eventsOf(socket)
          yield* world.serve(resettingAfter([1, 2]))
          const senders = yield* together([sending(socket, ["a1", "a2", "a3"]), sending(socket, ["b1", "b2"])])
          for (const exit of senders) hasSucceeded(exit)
          yield* socket.flush
          yield* settled
          yield* socket.close()
          yield* Fiber.join(seen.fiber)
          const all = received(world)
          assert.ok(isOnce(all), String(all))
          for (const sender of ["a", "b"]) assert.ok(isIncreasing(of(sender, all)), String(all))
          assert.deepEqual(deduplicated([...all, ...dropped(seen)]).toSorted(), ["a1", "a2", "a3", "b1", "b2"])
        })
    ),

    "messages that are sent during a write follow it in the order in which they were sent": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make(base)
          yield* world.serve()
          yield* socket.awaitOpen
          const send = (...all: ReadonlyArray<string>) => Effect.forEach(all, socket.send, { discard: true })
          for (const exit of yield* together([send("a1", "a2", "a3"), send("b1", "b2")])) hasSucceeded(exit)
          yield* socket.flush
          yield* settled
          const all = received(world)
          for (const sender of ["a", "b"]) assert.ok(isIncreasing(of(sender, all)), String(all))
          assert.deepEqual(all.toSorted(), ["a1", "a2", "a3", "b1", "b2"])
          yield* socket.close()
        })
    ),

    "acknowledged messages arrive in order and none is lost, even if connections break": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({ ...base, acknowledge: { ...acknowledge, window: 3 } })
          yield* world.serve(resettingAfter([2, 3], acknowledging))
          const senders = yield* together([
            sending(socket, ["a1", "a2"]),
            sending(socket, ["b1", "b2"]),
            Effect.zipRight(socket.deliver("c1"), socket.deliver("c2"))
          ])
          for (const exit of senders) hasSucceeded(exit)
          yield* socket.flush
          yield* socket.close()
          yield* settled
          const all = received(world)
          for (const sender of ["a", "b", "c"]) assert.ok(isIncreasing(of(sender, deduplicated(all))), String(all))
          assert.deepEqual(deduplicated(all).toSorted(), ["a1", "a2", "b1", "b2", "c1", "c2"])
          // Repeats keep their order: each connection continues after the last acknowledged message.
          const order = deduplicated(all)
          for (const wire of world.wires) {
            const places = wire.received.map((message) => order.indexOf(message))
            places.forEach((place, index) => assert.ok(index === 0 || place === places[index - 1]! + 1, String(all)))
          }
        })
    ),

    "with acknowledgements no message is reported as dropped, even if a connection breaks": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({ ...base, acknowledge })
          const seen = yield* eventsOf(socket)
          yield* world.serve(resettingAfter([1], acknowledging))
          const senders = yield* together([sending(socket, ["a1", "a2"]), socket.deliver("b1")])
          for (const exit of senders) hasSucceeded(exit)
          yield* socket.flush
          yield* socket.close()
          yield* Fiber.join(seen.fiber)
          assert.deepEqual(deduplicated(received(world)).toSorted(), ["a1", "a2", "b1"])
          assert.deepEqual(dropped(seen), [])
        })
    ),

    "a message that is accepted after a connection has ended is not lost with that connection": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make(base)
          const first = yield* world.open(yield* world.attempt)
          yield* socket.awaitOpen
          yield* first.peer.reset
          const delivering = yield* Effect.fork(socket.deliver("a1"))
          yield* socket.send("a2")
          const second = yield* world.open(yield* world.attempt)
          yield* Fiber.join(delivering)
          yield* socket.flush
          yield* settled
          assert.deepEqual(second.received.toSorted(), ["a1", "a2"])
          yield* socket.close()
        })
    ),

    "on each connection the login and the subscriptions come before any message": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({
            ...base,
            onOpen: ({ receive, send }) => Effect.all([send("login"), receive, send("login 2")])
          })
          const delivering = yield* Effect.fork(
            Effect.forEach(["a1", "a2", "a3"], (message) => Effect.exit(socket.deliver(message)))
          )
          yield* socket.subscribe({ open: "early" })
          yield* Effect.forkScoped(Effect.zipRight(Effect.yieldNow(), socket.subscribe({ open: "late" })))
          yield* world.serve((wire, message) =>
            message === "login" ? wire.peer.send("welcome") : message === "a1" ? wire.peer.reset : Effect.void
          )
          yield* Fiber.join(delivering)
          yield* settled
          for (const { number, received } of world.wires) {
            const all = String(received)
            if (number === 0 && received.length < 3) continue
            assert.deepEqual(received.slice(0, 3), ["login", "login 2", "early"], all)
            assert.ok(isIncreasing(of("a", received).filter((message) => message !== "early")), all)
            if (number > 0) assert.equal(received[3], "late", all)
            assert.equal(received.filter((message) => message === "late").length <= 1, true, all)
          }
          yield* socket.close()
        })
    ),

    "a subscription is closed only on a connection on which it is open, and is not left open": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make(base)
          yield* world.serve((wire, message) => message === "a1" ? wire.peer.reset : Effect.void)
          const subscribing = Effect.scoped(
            Effect.zipRight(socket.subscribe({ open: "open", close: "close" }), Effect.yieldNow())
          )
          for (
            const exit of yield* together<void, unknown>([subscribing, sending(socket, ["a1", "a2"]), subscribing])
          ) {
            hasSucceeded(exit)
          }
          yield* Effect.sleep("2 seconds")
          yield* socket.awaitOpen
          yield* settled
          for (const { received } of world.wires) {
            assert.ok(openAfterEach(received).every((open) => open >= 0), String(received))
          }
          const last = world.wires.at(-1)!.received
          assert.equal(openAfterEach(last).at(-1) ?? 0, 0, String(last))
          yield* socket.close()
        })
    ),

    "incoming messages are read once, in order, across connections": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make(base)
          yield* world.serve(ignored, ({ number, peer }) =>
            Effect.orDie(socket.awaitOpen).pipe(
              Effect.zipRight(Effect.forEach(["1", "2"], (message) => peer.send(`${number}${message}`))),
              Effect.zipRight(number === 0 ? peer.reset : number === 1 ? peer.close(1000) : Effect.void)
            ))
          assert.deepEqual(yield* firstOf(socket.messages, 6), ["01", "02", "11", "12", "21", "22"])
          yield* socket.close()
        })
    ),

    "messages that a peer sends before it closes are read, however soon it closes": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make(base)
          yield* world.serve(
            ignored,
            ({ number, peer }) =>
              number === 0 ? Effect.zipRight(peer.send("busy"), peer.close(1013)) : peer.send("hello")
          )
          assert.deepEqual(yield* firstOf(socket.messages, 2), ["busy", "hello"])
          yield* socket.close()
        })
    ),

    "all waiting callers are answered, even if connections break": inWorld(modules, (world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make({ ...base, outbox: narrow })
        yield* world.serve(resettingAfter([1, 1]))
        const waiting = yield* waiters(socket)
        yield* areAnswered(waiting.slice(0, -1))
        yield* socket.awaitOpen
        yield* socket.close()
        yield* areAnswered(waiting)
        yield* isOver(world, socket)
      })),

    "writes and pings do not overlap, and a peer that answers is not lost": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({
            ...base,
            heartbeat: { interval: "1 second", timeout: "1 second" }
          })
          yield* world.serve()
          // The pings are sent at full seconds, while messages are being written.
          yield* Effect.sleep("990 millis")
          yield* together([
            sending(socket, ["a1", "a2"]),
            Effect.zipRight(Effect.sleep("1 second"), sending(socket, ["a3"]))
          ])
          yield* Effect.sleep("2 seconds")
          yield* socket.close()
          yield* isOver(world, socket)
          // No connection was lost.
          assert.deepEqual(world.wires.map((wire) => wire.received), [["a1", "a2", "a3"]])
        }),
      { step: Effect.sleep("20 millis") }
    ),

    "a connection with a silent peer is lost, and the next connection takes its messages": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({
            ...base,
            acknowledge,
            heartbeat: { interval: "1 second", timeout: "1 second" }
          })
          const seen = yield* eventsOf(socket)
          yield* world.serve(acknowledging, ({ number, peer }) => number === 0 ? peer.stall : Effect.void)
          yield* together([
            sending(socket, ["a1"]),
            Effect.zipRight(Effect.sleep("2 seconds"), sending(socket, ["a2"]))
          ])
          yield* socket.flush
          yield* socket.close()
          yield* isOver(world, socket, seen)
          assert.deepEqual(deduplicated(received(world)), ["a1", "a2"])
          assert.equal(countOf(seen, "Lost"), 1)
        })
    )
  }
}
