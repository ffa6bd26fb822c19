/** The guarantees of a reconnecting socket about interrupted callers. */
import { Interleavings } from "effect-holdfast/testing"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as assert from "node:assert/strict"
import { sumOf } from "../../support/metrics.js"
import {
  acknowledge,
  acknowledging,
  base,
  deduplicated,
  dropped,
  eventsOf,
  hasSucceeded,
  inWorld,
  isOnce,
  isOver,
  type Modules,
  narrow,
  of,
  ownerOf,
  received,
  resettingAfter,
  sending,
  settled,
  type Sockets,
  together,
  type World
} from "./world.js"

/** Scenarios that mark a fiber for interruption. */
export const interruptions = (modules: Modules) => {
  const { ReconnectingSocket } = modules
  return {
    "an interrupted sender that waits for room has removed its message, or has sent it": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({ ...base, outbox: { capacity: 1, overflow: "suspend" } })
          yield* socket.send("a1")
          const victim = yield* Effect.fork(Interleavings.victim(socket.send("v")))
          const behind = yield* Effect.fork(socket.send("a2"))
          yield* Effect.yieldNow()
          yield* world.serve()
          const exit = yield* Fiber.await(victim)
          yield* Fiber.join(behind)
          yield* socket.flush
          yield* settled
          const all = received(world)
          assert.deepEqual(all.filter((message) => message !== "v"), ["a1", "a2"])
          if (Exit.isSuccess(exit)) assert.ok(all.includes("v"))
          assert.ok(isOnce(all))
          yield* roomFor(socket, world, 1)
          yield* socket.close()
        })
    ),

    "an interrupted sender has sent a prefix of its messages, each of them completely": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({ ...base, outbox: narrow })
          yield* world.serve()
          yield* socket.awaitOpen
          const victim = yield* Effect.fork(Interleavings.victim(sending(socket, ["v1", "v2", "v3"])))
          const other = yield* Effect.fork(sending(socket, ["a1", "a2"]))
          const exit = yield* Fiber.await(victim)
          yield* Fiber.join(other)
          yield* socket.flush
          yield* settled
          const all = received(world)
          assert.ok(isOnce(all))
          assert.deepEqual(of("a", all), ["a1", "a2"])
          const own = ["v1", "v2", "v3"]
          assert.deepEqual(of("v", all), own.slice(0, of("v", all).length))
          if (Exit.isSuccess(exit)) assert.deepEqual(of("v", all), own)
          yield* roomFor(socket, world, 2)
          yield* socket.close()
        })
    ),

    "an interrupted delivery has removed its message, or has sent it": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({ ...base, acknowledge, outbox: narrow })
          yield* socket.send("a1")
          const victim = yield* Effect.fork(Interleavings.victim(socket.deliver("v")))
          const behind = yield* Effect.fork(socket.deliver("a2"))
          yield* Effect.yieldNow()
          yield* world.serve(resettingAfter([2], acknowledging))
          const exit = yield* Fiber.await(victim)
          yield* Fiber.join(behind)
          yield* socket.flush
          yield* settled
          const all = deduplicated(received(world))
          assert.deepEqual(all.filter((message) => message !== "v"), ["a1", "a2"], String(all))
          if (Exit.isSuccess(exit)) assert.ok(all.includes("v"))
          yield* roomFor(socket, world, 2)
          yield* socket.close()
        })
    ),

    "an interrupted subscription is dropped, or kept until its scope closes": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make(base)
          yield* world.serve()
          const subscribing = Effect.scoped(
            Effect.zipRight(socket.subscribe({ open: "open", close: "close" }), Effect.yieldNow())
          )
          const victims = [
            yield* Effect.fork(Interleavings.victim(subscribing)),
            yield* Effect.fork(Effect.zipRight(socket.awaitOpen, Interleavings.victim(subscribing)))
          ]
          for (const victim of victims) yield* Fiber.await(victim)
          yield* socket.awaitOpen
          yield* settled
          const [wire] = world.wires
          const sequences = ["", "open,close", "open,close,open,close", "open,open,close,close"]
          assert.ok(sequences.includes(String(wire!.received)), String(wire!.received))
          // The subscription is not repeated on the next connection.
          yield* wire!.peer.reset
          yield* Effect.sleep("1 second")
          yield* socket.awaitOpen
          yield* settled
          assert.deepEqual(world.wires[1]!.received, [])
          yield* socket.close()
        })
    ),

    "an interrupted close completes if it has begun": inWorld(modules, (world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make(base)
        const seen = yield* eventsOf(socket)
        yield* world.serve()
        yield* socket.awaitOpen
        yield* sending(socket, ["a1", "a2"])
        const victim = yield* Effect.fork(Interleavings.victim(socket.close(4000, "bye")))
        const exit = yield* Fiber.await(victim)
        yield* Effect.sleep("3 seconds")
        const state = yield* socket.state
        if (Exit.isSuccess(exit)) assert.equal(state._tag, "Closed")
        // The victim was interrupted before its close had begun.
        if (state._tag !== "Closed") {
          assert.equal(state._tag, "Open")
          yield* socket.send("a3")
          yield* socket.close(4000, "bye")
        }
        yield* isOver(world, socket, seen)
        assert.deepEqual(received(world).slice(0, 2), ["a1", "a2"])
        assert.deepEqual(dropped(seen), [])
        const end = yield* world.wires[0]!.peer.ended
        assert.ok(end._tag === "ConnectionClosed" && end.code === 4000)
      })),

    "a socket whose `make` is interrupted leaves no value in a gauge": inWorld(
      modules,
      () =>
        Effect.gen(function*() {
          const name = "made and interrupted"
          // Metrics belong to the process.
          const before = sumOf("holdfast_socket_state", { socket: name })
          const making = Effect.scoped(ReconnectingSocket.make({ ...base, name }))
          yield* Fiber.await(yield* Effect.fork(Interleavings.victim(making)))
          assert.equal(sumOf("holdfast_socket_state", { socket: name }), before)
        })
    ),

    "an interrupted `awaitOpen` or `flush` leaves no waiter behind": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make(base)
          // The socket's own fiber also waits, for commands.
          yield* settled
          const before = watchersOf(socket)
          yield* socket.send("a1")
          const victims = yield* Effect.forEach(
            [socket.awaitOpen, socket.flush],
            (waiting) => Effect.fork(Interleavings.victim(waiting))
          )
          yield* Effect.yieldNow()
          yield* world.serve()
          for (const victim of victims) yield* Fiber.await(victim)
          yield* socket.awaitOpen
          yield* socket.flush
          yield* settled
          assert.deepEqual([received(world), watchersOf(socket)], [["a1"], before])
          yield* socket.close()
        })
    )
  }

  /** Checks that the outbox has as much room as in the beginning, and no more. */
  function roomFor(socket: Sockets, world: World, capacity: number) {
    return Effect.gen(function*() {
      // A stalled connection takes no messages out.
      yield* world.wires.at(-1)!.peer.stall
      const fitting = Array.from({ length: capacity }, (_, index) => socket.send(`r${index}`))
      for (const exit of yield* together(fitting)) hasSucceeded(exit)
      const waiting = yield* Effect.fork(socket.send("r"))
      yield* settled
      assert.equal(waiting.unsafePoll(), null)
      yield* Fiber.interrupt(waiting)
    })
  }
}

/** The numbers of waiters inside the socket. */
const watchersOf = (socket: unknown): ReadonlyArray<number> => {
  const { whenMoved, wiring: { orders, outbox } } = ownerOf(socket)
  return [whenMoved.size, orders.whenOrdered.size, outbox.whenGone.size]
}
