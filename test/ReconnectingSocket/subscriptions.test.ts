import { assert, describe, it } from "@effect/vitest"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import {
  connected,
  dial,
  dialing,
  ofTag,
  onWires,
  pass,
  settle,
  steady,
  test,
  Wire
} from "../support/reconnectingSockets.js"

describe("a subscription", () => {
  test("W9a: is sent now and after each reconnect, and closed with its scope", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* connected(ReconnectingSocket.make({ dial, backoff: steady }))
      const scope = yield* Scope.make()
      yield* Scope.extend(socket.subscribe({ open: "+gold", close: "-gold" }), scope)
      yield* socket.subscribe({ open: "+silver" })
      yield* settle
      assert.deepStrictEqual(peer.got, ["+gold", "+silver"])
      yield* peer.reset
      yield* socket.send("message")
      yield* pass(1000)
      const second = yield* server.open
      assert.deepStrictEqual(second.got, ["+gold", "+silver", "message"])
      assert.deepStrictEqual(ofTag(events, "Resubscribed").at(-1), { _tag: "Resubscribed", subscriptions: 2 })
      yield* Scope.close(scope, Exit.void)
      yield* settle
      assert.deepStrictEqual(second.got, ["+gold", "+silver", "message", "-gold"])
      yield* second.reset
      yield* pass(2000)
      assert.deepStrictEqual((yield* server.open).got, ["+silver"])
    }))

  test("W1: keeps its place among the messages", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial }))
      yield* socket.send("before")
      yield* Effect.scoped(Effect.zipRight(socket.subscribe({ open: "+gold", close: "-gold" }), socket.send("within")))
      yield* socket.send("after")
      yield* settle
      assert.deepStrictEqual(peer.got, ["before", "+gold", "within", "-gold", "after"])
    }))

  for (const isLost of [false, true]) {
    const when = isLost ? "and that connection is being released" : "and that connection still opens"
    it.scoped(`W13: whose refusal was told by an event, ${when}: another user of its key returns immediately`, () =>
      Effect.gen(function*() {
        const released = isLost ? Effect.sleep("1 second") : Effect.void
        const wires = [new Wire(), new Wire({ released })] as const
        const { events, socket } = yield* onWires<string, string>(wires, { backoff: steady, heartbeat: false })
        yield* settle
        const subscribe = (key: string) =>
          socket.subscribe({
            open: key,
            key,
            confirmed: (message) =>
              message === `yes ${key}`
                ? Option.some(Either.void)
                : message === `no ${key}`
                ? Option.some(Either.left(message))
                : Option.none()
          })
        for (const key of ["gold", "silver"]) {
          const subscribing = yield* Effect.fork(Effect.scoped(Effect.zipRight(subscribe(key), Effect.never)))
          yield* settle
          wires[0].say(`yes ${key}`)
          yield* settle
          assert.isNull(subscribing.unsafePoll())
        }
        wires[0].reset()
        yield* pass(1000)
        wires[1].say("no gold")
        if (isLost) wires[1].reset()
        yield* settle
        assert.strictEqual((yield* socket.state)._tag, "Opening")
        assert.lengthOf(ofTag(events, "SubscriptionFailed"), 1)
        const other = yield* Effect.fork(Effect.exit(subscribe("gold")))
        yield* settle
        assert.deepStrictEqual(other.unsafePoll(), Exit.succeed(Exit.void))
        yield* pass(1000)
      }))
  }

  test("W13: while there is no connection returns immediately, and is sent with the next one", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* dialing(ReconnectingSocket.make({ dial, backoff: steady }))
      yield* socket.subscribe({ open: "while dialing" })
      yield* server.refuse(503)
      yield* socket.subscribe({ open: "while waiting" })
      yield* Effect.scoped(socket.subscribe({ open: "over before", close: "not sent" }))
      yield* pass(1000)
      const peer = yield* server.open
      assert.deepStrictEqual(peer.got, ["while dialing", "while waiting"])
    }))

  test("W9a: while a connection opens is sent on it, once, before the outbox", () =>
    Effect.gen(function*() {
      const cue = yield* Deferred.make<void>()
      const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial, onOpen: () => Deferred.await(cue) }))
      yield* socket.send("message")
      yield* socket.subscribe({ open: "+gold" })
      yield* Effect.scoped(socket.subscribe({ open: "+over", close: "-over" }))
      yield* settle
      assert.deepStrictEqual(peer.got, [])
      yield* Deferred.succeed(cue, undefined)
      yield* settle
      assert.deepStrictEqual(peer.got, ["+gold", "message"])
    }))

  it.scoped("W9a: that is made while others are written is sent too, before the outbox", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], { onOpen: () => Effect.sleep("1 seconds") })
      yield* socket.subscribe({ open: "+first" })
      yield* socket.send("message")
      yield* pass(1000)
      assert.deepStrictEqual(wire.batches, [["+first"]])
      yield* socket.subscribe({ open: "+second" })
      wire.isHeld = false
      wire.take()
      yield* settle
      assert.deepStrictEqual(wire.taken, ["+first", "+second", "message"])
    })
  })

  it.scoped("W9a: that ends while it is written is closed on that connection", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], { onOpen: () => Effect.sleep("1 seconds") })
      const scope = yield* Scope.make()
      yield* Scope.extend(socket.subscribe({ open: "+first", close: "-first" }), scope)
      yield* pass(1000)
      assert.deepStrictEqual(wire.batches, [["+first"]])
      yield* Scope.close(scope, Exit.void)
      wire.isHeld = false
      wire.take()
      yield* settle
      assert.deepStrictEqual(wire.taken, ["+first", "-first"])
    })
  })

  test("W8: that cannot be encoded fails, and is not kept", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        codec: { encode: (n: number) => n > 0 ? `${n}` : n as never, decode: (message) => message }
      }))
      assert.strictEqual((yield* Effect.flip(socket.subscribe({ open: -1 })))._tag, "EncodeError")
      assert.strictEqual((yield* Effect.flip(socket.subscribe({ open: 1, close: -1 })))._tag, "EncodeError")
      yield* settle
      assert.deepStrictEqual(peer.got, [])
    }))

  test("takes no room in the outbox", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial, outbox: { capacity: 1 } }))
      yield* socket.send("a")
      yield* socket.subscribe({ open: "+1" })
      yield* socket.subscribe({ open: "+2" })
      yield* settle
      assert.deepStrictEqual(peer.got, ["a", "+1", "+2"])
    }))

  test("W9a: that is made while the delay after a loss is computed is sent once on the next connection", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: Schedule.mapEffect(Schedule.spaced("1 seconds"), () => Effect.sleep("1 seconds"))
      }))
      yield* peer.reset
      yield* settle
      yield* socket.subscribe({ open: "+gold" })
      yield* pass(1000)
      yield* pass(1000)
      assert.deepStrictEqual((yield* server.open).got, ["+gold"])
    }))
})
