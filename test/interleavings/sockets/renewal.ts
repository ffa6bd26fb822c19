/** The guarantees of a reconnecting socket while it replaces its connection. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as assert from "node:assert/strict"
import {
  acknowledge,
  acknowledging,
  base,
  countOf,
  deduplicated,
  eventsOf,
  hasSucceeded,
  ignored,
  inWorld,
  isIncreasing,
  isOver,
  type Modules,
  of,
  received,
  sending,
  settled,
  together
} from "./world.js"

export const renewal = (modules: Modules) => {
  const { ReconnectingSocket } = modules
  return {
    "a replacement loses no message, and sends the login and the subscriptions first": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({
            ...base,
            renewAfter: "1 minute",
            onOpen: ({ send }) => send("login")
          })
          yield* socket.subscribe({ open: "subscribe" })
          const moving = yield* Deferred.make<void>()
          yield* world.serve(ignored, ({ number }) => number === 1 ? Deferred.succeed(moving, undefined) : Effect.void)
          yield* socket.awaitOpen
          yield* sending(socket, ["a1", "a2"])
          yield* Deferred.await(moving)
          yield* sending(socket, ["a3", "a4"])
          yield* socket.flush
          yield* settled
          assert.deepEqual(received(world).filter((message) => message.startsWith("a")), ["a1", "a2", "a3", "a4"])
          assert.deepEqual(world.wires[1]!.received.slice(0, 2), ["login", "subscribe"])
          yield* socket.close()
          yield* isOver(world, socket)
        }),
      { most: 2 }
    ),

    "a replacement keeps the new login if the server allows only one, and loses no message": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({
            ...base,
            renewAfter: "1 minute",
            acknowledge,
            onOpen: ({ receive, send }) => Effect.zipRight(send("login"), receive)
          })
          const seen = yield* eventsOf(socket)
          const moved = yield* Deferred.make<void>()
          yield* world.serve((wire, message) => {
            if (message !== "login") return acknowledging(wire, message)
            if (wire.number === 0) return wire.peer.send("welcome")
            return Effect.all([
              Effect.fork(world.wires[0]!.peer.close(4000)),
              Effect.yieldNow(),
              wire.peer.send("welcome"),
              Deferred.succeed(moved, undefined)
            ])
          })
          yield* socket.awaitOpen
          yield* sending(socket, ["a1", "a2"])
          yield* Deferred.await(moved)
          yield* sending(socket, ["a3", "a4"])
          yield* socket.flush
          yield* settled
          assert.equal(world.dials(), 2)
          assert.ok(countOf(seen, "Lost") <= 1)
          const got = deduplicated(received(world)).filter((message) => message.startsWith("a"))
          assert.deepEqual(got, ["a1", "a2", "a3", "a4"])
          yield* socket.close()
          yield* isOver(world, socket)
        }),
      { most: 2 }
    ),

    "a replacement is not a loss, and drops no message": inWorld(modules, (world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make({ ...base, renewAfter: "1 minute" })
        const seen = yield* eventsOf(socket)
        const moving = yield* Deferred.make<void>()
        yield* world.serve(ignored, ({ number }) => number === 1 ? Deferred.succeed(moving, undefined) : Effect.void)
        yield* Deferred.await(moving)
        yield* sending(socket, ["a1", "a2"])
        yield* socket.flush
        yield* settled
        assert.deepEqual(received(world), ["a1", "a2"])
        yield* socket.close()
        yield* Fiber.join(seen.fiber)
        assert.deepEqual([countOf(seen, "Lost"), countOf(seen, "Dropped"), countOf(seen, "Opened")], [0, 0, 2])
      }), { most: 2 }),

    "a replacement while senders send loses no message that is to be acknowledged": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({ ...base, renewAfter: "1 minute", acknowledge })
          const seen = yield* eventsOf(socket)
          const moved = yield* Deferred.make<void>()
          yield* world.serve(
            acknowledging,
            ({ number }) => number === 1 ? Deferred.succeed(moved, undefined) : Effect.void
          )
          yield* Deferred.await(moved)
          const senders = yield* together([
            sending(socket, ["a1", "a2"]),
            Effect.zipRight(socket.deliver("b1"), socket.deliver("b2"))
          ])
          for (const exit of senders) hasSucceeded(exit)
          yield* socket.flush
          yield* socket.close()
          yield* settled
          const all = deduplicated(received(world))
          for (const sender of ["a", "b"]) assert.ok(isIncreasing(of(sender, all)), String(all))
          assert.deepEqual(all.toSorted(), ["a1", "a2", "b1", "b2"])
          assert.deepEqual([countOf(seen, "Lost"), countOf(seen, "Dropped")], [0, 0])
        }),
      { most: 2 }
    ),

    "a replacement whose connections break is given up or a loss, and the socket goes on": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({ ...base, renewAfter: "1 minute", acknowledge })
          const seen = yield* eventsOf(socket)
          const renewing = yield* Deferred.make<void>()
          yield* world.serve(acknowledging, ({ number, peer }) =>
            number === 0
              ? Effect.forkDaemon(Effect.zipRight(Deferred.await(renewing), peer.reset))
              : number === 1
              ? Effect.zipRight(
                Deferred.succeed(renewing, undefined),
                Effect.forkDaemon(Effect.zipRight(Effect.yieldNow(), peer.reset))
              )
              : Effect.void)
          yield* Deferred.await(renewing)
          hasSucceeded(yield* Effect.exit(Effect.forEach(["a1", "a2"], (message) => socket.deliver(message))))
          yield* socket.close()
          yield* isOver(world, socket, seen)
          assert.deepEqual(deduplicated(received(world)), ["a1", "a2"])
          assert.ok(countOf(seen, "Lost") <= 2)
        }),
      { most: 2 }
    ),

    "a replacement that fails as its connection is lost is followed by another connection": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({
            ...base,
            renewAfter: "1 minute",
            onOpen: ({ receive, send }) => Effect.zipRight(send("login"), receive)
          })
          const seen = yield* eventsOf(socket)
          yield* world.serve((wire) =>
            wire.number === 1
              ? Effect.zipRight(Effect.fork(world.wires[0]!.peer.reset), Effect.fork(wire.peer.reset))
              : wire.peer.send("welcome")
          )
          yield* Effect.sleep("62 seconds")
          assert.deepEqual([(yield* socket.state)._tag, world.dials(), countOf(seen, "Opened")], ["Open", 3, 2])
          yield* socket.close()
          yield* isOver(world, socket, seen)
        }),
      { most: 2 }
    ),

    "a subscription that ends during a replacement is not left open": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({ ...base, renewAfter: "1 minute" })
          const moving = yield* Deferred.make<void>()
          yield* world.serve(ignored, ({ number, peer }) =>
            number === 0
              ? Effect.void
              : Effect.zipRight(Deferred.succeed(moving, undefined), number === 1 ? peer.reset : Effect.void))
          yield* Deferred.await(moving)
          yield* sending(socket, ["a1"])
          yield* Effect.scoped(Effect.zipRight(socket.subscribe({ open: "open", close: "close" }), Effect.yieldNow()))
          yield* socket.send("a2")
          yield* socket.flush
          yield* settled
          for (const { number, received } of world.wires) {
            const subscription = String(received.filter((message) => !message.startsWith("a")))
            // A connection that was replaced has been closed as a whole.
            const isReplaced = number < world.wires.length - 1
            assert.ok(["", "open,close", ...isReplaced ? ["open"] : []].includes(subscription), String(received))
          }
          yield* socket.close()
        }),
      { most: 2 }
    )
  }
}
