/** The guarantees of a reconnecting socket about closing. */
import type * as WebSocketDialerModule from "effect-holdfast/WebSocketDialer"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as assert from "node:assert/strict"
import {
  areAnswered,
  base,
  dropped,
  eventsOf,
  ignored,
  inWorld,
  isOver,
  type Modules,
  narrow,
  reading,
  received,
  sending,
  settled,
  type Sockets,
  statesOf,
  streamsAreOver,
  together,
  waiters,
  type World
} from "./world.js"

type Body = (
  world: World
) => Effect.Effect<Sockets, unknown, Scope.Scope | WebSocketDialerModule.WebSocketDialer>

/** Scenarios that hold even if a timer fires at any moment, as on a slow machine. */
export const slow: ReadonlyArray<string> = [
  "closing completes, and is final: while dialing",
  "closing completes, and is final: while opening",
  "closing completes, and is final: while open",
  "closing completes, and is final: while waiting"
]

export const closing = (modules: Modules) => {
  const { ReconnectingSocket } = modules

  /** A socket that is closed at some moment, while fibers of all kinds wait, has closed within its grace period. */
  const closing = (body: Body, options?: { readonly most?: number }) =>
    inWorld(modules, (world) =>
      Effect.gen(function*() {
        const socket = yield* body(world)
        const began = yield* Clock.currentTimeMillis
        yield* socket.close()
        assert.ok((yield* Clock.currentTimeMillis) - began <= 2_000, "the closing took longer than its grace")
        yield* isOver(world, socket)
      }), options)

  /** A socket that is closed at some moment ends its streams, for current readers and for later ones. */
  const ending = (body: Body) =>
    inWorld(modules, (world) =>
      Effect.gen(function*() {
        const socket = yield* body(world)
        yield* socket.close()
        yield* streamsAreOver(socket)
      }))

  return {
    "resources that `onOpen` has acquired are released once each when the scope closes": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const acquired: Array<number> = []
          const released: Array<number> = []
          const scope = yield* Scope.make()
          yield* Scope.extend(
            ReconnectingSocket.make({
              ...base,
              onOpen: () =>
                Effect.acquireRelease(
                  Effect.sync(() => acquired.push(acquired.length)),
                  (count) => Effect.zipRight(Effect.yieldNow(), Effect.sync(() => released.push(count - 1)))
                )
            }),
            scope
          )
          const first = yield* Effect.flatMap(world.attempt, (attempt) => world.open(attempt))
          yield* world.serve()
          yield* Effect.fork(first.peer.reset)
          yield* Effect.yieldNow()
          yield* Scope.close(scope, Exit.void)
          assert.deepEqual([...released].sort(), acquired)
        })
    ),

    "closing completes, and is final: while dialing": closing((world) =>
      Effect.gen(function*() {
        const socket = world.watch(yield* ReconnectingSocket.make({ ...base, outbox: narrow }))
        const waiting = yield* waiters(socket)
        const attempt = yield* world.attempt
        yield* Effect.fork(Effect.zipRight(Effect.yieldNow(), world.open(attempt)))
        yield* together([socket.close(), socket.close(4000, "bye")])
        yield* areAnswered(waiting)
        return socket
      })
    ),

    "closing completes, and is final: while opening": closing((world) =>
      Effect.gen(function*() {
        const opening = yield* Deferred.make<void>()
        const socket = world.watch(
          yield* ReconnectingSocket.make({
            ...base,
            outbox: narrow,
            onOpen: ({ receive, send }) => Effect.all([Deferred.succeed(opening, undefined), send("login"), receive])
          })
        )
        yield* world.serve(({ peer }) => peer.send("welcome"))
        const waiting = yield* waiters(socket)
        yield* Deferred.await(opening)
        yield* socket.close()
        yield* areAnswered(waiting)
        return socket
      })
    ),

    "closing completes, and is final: while open": closing((world) =>
      Effect.gen(function*() {
        const socket = world.watch(yield* ReconnectingSocket.make({ ...base, outbox: narrow }))
        yield* world.serve()
        yield* socket.awaitOpen
        const waiting = yield* waiters(socket)
        yield* Effect.yieldNow()
        yield* socket.close()
        yield* areAnswered(waiting)
        return socket
      })
    ),

    "closing completes, and is final: while waiting": closing((world) =>
      Effect.gen(function*() {
        const socket = world.watch(yield* ReconnectingSocket.make({ ...base, outbox: narrow }))
        const attempt = yield* world.attempt
        const waiting = yield* waiters(socket)
        yield* attempt.fail()
        yield* reading(socket.stateChanges, ({ _tag }) => _tag === "Waiting")
        yield* socket.close()
        yield* areAnswered(waiting)
        return socket
      })
    ),

    "closing completes, and is final: from `onOpen`, and from a reader of `messages`": closing((world) =>
      Effect.gen(function*() {
        const made = yield* Deferred.make<Sockets>()
        const socket: Sockets = world.watch(
          yield* ReconnectingSocket.make({
            ...base,
            outbox: narrow,
            onOpen: ({ send }) =>
              Effect.all([send("login"), Effect.flatMap(Deferred.await(made), (socket) => socket.close())])
          })
        )
        yield* world.serve(ignored, ({ peer }) => peer.send("hello"))
        yield* Deferred.succeed(made, socket)
        yield* Stream.runForEach(socket.messages, () => socket.close())
        return socket
      })
    ),

    "closing completes, and is final: together with a reset": closing((world) =>
      Effect.gen(function*() {
        const socket = world.watch(yield* ReconnectingSocket.make({ ...base, outbox: narrow }))
        const { peer } = yield* world.open(yield* world.attempt)
        yield* socket.awaitOpen
        const waiting = yield* waiters(socket)
        yield* together([peer.reset, socket.close()])
        yield* areAnswered(waiting)
        return socket
      })
    ),

    "closing completes, and is final: together with a reconnect": closing((world) =>
      Effect.gen(function*() {
        const socket = world.watch(yield* ReconnectingSocket.make({ ...base, outbox: narrow }))
        yield* world.serve()
        yield* socket.awaitOpen
        const waiting = yield* waiters(socket)
        yield* together([
          socket.reconnect({ backoff: false }),
          Effect.zipRight(Effect.yieldNow(), socket.close()),
          socket.reconnect({ backoff: false })
        ])
        yield* areAnswered(waiting)
        return socket
      })
    ),

    "closing completes, and is final: together with a replacement": closing((world) =>
      Effect.gen(function*() {
        const socket = world.watch(
          yield* ReconnectingSocket.make({
            ...base,
            renewAfter: "1 minute",
            outbox: narrow,
            onOpen: ({ send }) => send("login")
          })
        )
        const first = yield* world.open(yield* world.attempt)
        yield* socket.awaitOpen
        const next = yield* world.attempt
        const waiting = yield* waiters(socket)
        yield* together([
          Effect.asVoid(world.open(next)),
          Effect.zipRight(Effect.yieldNow(), socket.close())
        ])
        yield* areAnswered(waiting)
        yield* settled
        assert.ok(first.received.length > 0)
        return socket
      }), { most: 2 }),

    "closing ends the streams: while dialing": ending((world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make(base)
        const attempt = yield* world.attempt
        yield* together([Effect.asVoid(world.open(attempt)), socket.close()])
        return socket
      })
    ),

    "closing ends the streams: while open": ending((world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make(base)
        const { peer } = yield* world.open(yield* world.attempt)
        yield* socket.awaitOpen
        yield* together([peer.reset, socket.close()])
        return socket
      })
    ),

    "closing ends streams that are being read": inWorld(modules, (world) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make(base)
        const heard: Array<unknown> = []
        const messages = yield* Effect.fork(reading(socket.messages, (message) => void heard.push(message)))
        const events = yield* eventsOf(socket)
        const states = yield* statesOf(socket)
        const { peer } = yield* world.open(yield* world.attempt)
        yield* peer.send("hello")
        yield* socket.awaitOpen
        yield* together([peer.reset, socket.close()])
        for (const fiber of [messages, events.fiber, states.fiber]) yield* Fiber.join(fiber)
        assert.deepEqual(heard, ["hello"])
        assert.deepEqual([events, states].map(({ values }) => values.at(-1)!._tag), ["Closed", "Closed"])
      })),

    "closing delivers accepted messages, also while the connection is replaced": inWorld(
      modules,
      (world) =>
        Effect.gen(function*() {
          const socket = yield* ReconnectingSocket.make({ ...base, renewAfter: "1 minute" })
          const seen = yield* eventsOf(socket)
          yield* world.serve(ignored, ({ number }) =>
            number === 0
              ? Effect.void
              : Effect.zipRight(sending(socket, ["a1", "a2", "a3"]), socket.close()).pipe(Effect.orDie))
          yield* Fiber.join(seen.fiber)
          yield* settled
          assert.deepEqual([received(world), dropped(seen)], [["a1", "a2", "a3"], []])
          yield* isOver(world, socket)
        }),
      { most: 2 }
    )
  }
}
