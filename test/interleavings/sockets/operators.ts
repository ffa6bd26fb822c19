/** The gauges of a reconnecting socket, and a login that ends its connection. */
import { Interleavings } from "effect-holdfast/testing"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import * as assert from "node:assert/strict"
import {
  acknowledge,
  base,
  countOf,
  deduplicated,
  eventsOf,
  hasSucceeded,
  inWorld,
  isOver,
  type Modules,
  received,
  sending,
  settled,
  type Sockets,
  together
} from "./world.js"

/** The name of all sockets here. All runs share its gauges, so a socket that leaves a value behind is noticed. */
const name = "explored"

const gauges = (): Readonly<Record<string, number>> =>
  Object.fromEntries(
    Metric.unsafeSnapshot().flatMap(({ metricKey, metricState }) => {
      const tags = metricKey.tags.map(({ key, value }) => [key, value] as const)
      const value = Number((metricState as { readonly value?: number }).value ?? 0)
      if (!tags.some(([key, value]) => key === "socket" && value === name) || value === 0) return []
      const [, state] = tags.find(([key]) => key === "state") ?? []
      const what = metricKey.name.replace("holdfast_socket_", "")
      return ["state", "outbox_messages", "unacknowledged"].includes(what) ? [[state ?? what, value] as const] : []
    })
  )

const differences = (before: Readonly<Record<string, number>>): Readonly<Record<string, number>> => {
  const now = gauges()
  return Object.fromEntries(
    [...new Set([...Object.keys(before), ...Object.keys(now)])]
      .map((key) => [key, (now[key] ?? 0) - (before[key] ?? 0)] as const)
      .filter(([, difference]) => difference !== 0)
  )
}

/** Scenarios that mark a fiber for interruption. */
export const operators = (modules: Modules) => {
  const { ReconnectingSocket } = modules
  return {
    "the gauges show the messages that the socket holds, and nothing after it has closed": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const before = gauges()
          const socket = yield* ReconnectingSocket.make({
            ...base,
            name,
            acknowledge: { ...acknowledge, cumulative: false },
            outbox: { capacity: 3, overflow: "suspend" }
          })
          // The server never acknowledges the victim's message, which is removed or stays in the outbox.
          yield* world.serve(({ number, peer, received }, message) =>
            number === 0 && received.length === 2
              ? peer.reset
              : message === "v"
              ? Effect.void
              : peer.send(`ack ${message}`)
          )
          const victim = yield* Effect.fork(Interleavings.victim(socket.deliver("v")))
          const senders = yield* together([sending(socket, ["a1", "a2"]), sending(socket, ["b1"])])
          for (const exit of senders) hasSucceeded(exit)
          yield* Effect.sleep("3 seconds")
          yield* socket.awaitOpen
          yield* settled
          const isHeld = received(world).includes("v")
          const held = isHeld ? { outbox_messages: 1 } : {}
          assert.deepEqual(differences(before), { ...held, ...isHeld ? { unacknowledged: 1 } : {}, Open: 1 })
          yield* world.wires.at(-1)!.peer.reset
          yield* settled
          assert.equal((yield* socket.state)._tag, "Waiting")
          const { unacknowledged: _, ...waiting } = differences(before)
          assert.deepEqual(waiting, { ...held, Waiting: 1 })
          yield* socket.close()
          assert.deepEqual(differences(before), {})
          yield* Fiber.interrupt(victim)
        })
    ),

    "a socket whose scope closes at any moment leaves no value in a gauge": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const before = gauges()
          yield* world.serve()
          const life = Effect.scoped(Effect.gen(function*() {
            const socket: Sockets = yield* ReconnectingSocket.make({ ...base, name })
            yield* sending(socket, ["a1", "a2"])
            yield* socket.flush
          }))
          yield* Effect.flatMap(Effect.fork(Interleavings.victim(life)), Fiber.await)
          yield* Effect.sleep("1 minute")
          assert.deepEqual(differences(before), {})
        })
    ),

    "a login that ends its connection causes a new dial, no lost or repeated message, and no OnOpenFailed": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({
            ...base,
            onOpen: ({ end, find, send }) =>
              Effect.gen(function*() {
                yield* send("login")
                const answer = yield* find((message) =>
                  message === "welcome" || message === "elsewhere" ? Option.some(message) : Option.none()
                )
                if (answer === "elsewhere") return yield* end({ backoff: false, code: 4000 })
              })
          })
          const events = yield* eventsOf(socket)
          yield* world.serve(({ number, peer }, message) =>
            message === "login" ? peer.send(number < 2 ? "elsewhere" : "welcome") : Effect.void
          )
          const victim = yield* Effect.fork(Interleavings.victim(socket.send("v")))
          const senders = yield* together([sending(socket, ["a1", "a2"]), sending(socket, ["b1", "b2"])])
          for (const exit of senders) hasSucceeded(exit)
          const isSent = Exit.isSuccess(yield* Fiber.await(victim))
          yield* socket.flush
          yield* settled
          assert.deepEqual(world.wires.map(({ received }) => received[0]), ["login", "login", "login"])
          const messages = received(world).filter((message) => message !== "login")
          assert.deepEqual(messages, deduplicated(messages))
          assert.deepEqual(messages.filter((message) => message !== "v").toSorted(), ["a1", "a2", "b1", "b2"])
          if (isSent) assert.ok(messages.includes("v"))
          yield* socket.close()
          yield* isOver(world, socket, events)
          assert.equal(countOf(events, "Lost"), 2)
          const failures = events.values.flatMap((event) => event._tag === "Lost" ? [event.failure] : [])
          assert.ok(
            failures.every((failure) => failure._tag !== "ConnectionLost" || failure.reason !== "OnOpenFailed")
          )
        })
    )
  }
}
