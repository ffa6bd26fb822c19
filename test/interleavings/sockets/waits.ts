/** The callers of a reconnecting socket while the socket waits for something else. */
import * as Session from "effect-holdfast/Session"
import { Interleavings } from "effect-holdfast/testing"
import type * as WebSocketDialerModule from "effect-holdfast/WebSocketDialer"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as assert from "node:assert/strict"
import {
  base,
  hasSucceeded,
  inWorld,
  type Modules,
  of,
  reading,
  received,
  sending,
  settled,
  type Sockets,
  together,
  type World
} from "./world.js"

interface Place {
  readonly world: World
  /** For an effect that the socket runs: ends when the callers are done. */
  readonly pause: Effect.Effect<void>
  /** Waits until the socket runs `pause`. */
  readonly paused: Effect.Effect<void>
}

/** Makes a socket and brings it to the place where it waits; `goOn` ends that wait, unless `pause` does. */
type Body = (place: Place) => Effect.Effect<
  { readonly socket: Sockets; readonly goOn?: Effect.Effect<unknown> },
  unknown,
  Scope.Scope | WebSocketDialerModule.WebSocketDialer
>

export const waits = (modules: Modules) => {
  const { ReconnectingSocket } = modules

  /**
   * While the socket waits, no caller waits: messages are accepted before any time has passed, and are sent in order
   * when there is a connection. One caller may be interrupted anywhere.
   */
  const delaysNoCaller = (body: Body) =>
    inWorld(modules, (world) =>
      Effect.gen(function*() {
        const [reached, done] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
        const pause = Effect.zipRight(Deferred.succeed(reached, undefined), Deferred.await(done))
        const { goOn = Effect.void, socket } = yield* body({ world, pause, paused: Deferred.await(reached) })
        const began = yield* Clock.currentTimeMillis
        const delivering = yield* Effect.fork(Interleavings.victim(Effect.exit(socket.deliver("v"))))
        const calls = yield* together<unknown, unknown>([
          sending(socket, ["a1", "a2"]),
          sending(socket, ["b1", "b2"]),
          Effect.scoped(socket.subscribe({ open: "+", close: "-" })),
          socket.state
        ])
        for (const exit of calls) hasSucceeded(exit)
        assert.equal(yield* Clock.currentTimeMillis, began, "a caller has waited")
        yield* Deferred.succeed(done, undefined)
        yield* goOn
        yield* socket.flush
        yield* settled
        const messages = received(world)
        assert.deepEqual([of("a", messages), of("b", messages)], [["a1", "a2"], ["b1", "b2"]])
        yield* delivering.await
      }))

  return {
    "no caller waits for the effect that gives the request": delaysNoCaller(({ pause, paused, world }) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make({ ...base, dial: Effect.as(pause, base.dial) })
        yield* world.serve()
        yield* paused
        return { socket }
      })
    ),

    "no caller waits for the session's sign-in": delaysNoCaller(({ pause, paused, world }) =>
      Effect.gen(function*() {
        const session = yield* Session.make({ acquire: Effect.as(pause, "token") })
        const socket = yield* ReconnectingSocket.make({
          ...base,
          session: { session, attach: (request) => request }
        })
        yield* world.serve()
        yield* paused
        return { socket }
      })
    ),

    "no caller waits for a dial and its handshake": delaysNoCaller(({ world }) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make(base)
        const attempt = yield* world.attempt
        return { socket, goOn: world.open(attempt) }
      })
    ),

    "no caller waits for `onOpen`": delaysNoCaller(({ pause, paused, world }) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make({ ...base, onOpen: () => pause })
        yield* world.serve()
        yield* paused
        return { socket }
      })
    ),

    "no caller waits for a backoff": delaysNoCaller(({ world }) =>
      Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make(base)
        const attempt = yield* world.attempt
        yield* world.serve()
        yield* attempt.fail()
        yield* reading(socket.stateChanges, ({ _tag }) => _tag === "Waiting")
        return { socket }
      })
    )
  }
}
