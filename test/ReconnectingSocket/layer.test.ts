import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import type { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import { type Message, WebSocketDialer } from "effect-holdfast/WebSocketDialer"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"

type Raw = ReconnectingSocket.ReconnectingSocket<Message, Message>

class ByTag extends Context.Tag("test/ByTag")<ByTag, Raw>() {}

class ByService extends Effect.Service<ByService>()("test/ByService", {
  scoped: ReconnectingSocket.make({ dial: { url: "ws://its.own" } })
}) {
  get stateName() {
    return Effect.map(this.state, ({ _tag }) => _tag)
  }
}

class Numbers extends Context.Tag("test/Numbers")<
  Numbers,
  ReconnectingSocket.ReconnectingSocket<number, number>
>() {}

const numbers = ReconnectingSocket.json({ in: Schema.Number, out: Schema.Number })

/** Opens nothing. */
const dialer = { dial: () => Effect.never }

describe("the layer of a socket", () => {
  it.effect("is that of a `Context.Tag`, closed with its scope", () =>
    Effect.gen(function*() {
      const layer = ReconnectingSocket.layer(ByTag, { dial: { url: "ws://feed" } })
      const using = Effect.flatMap(ByTag, (socket) => Effect.map(socket.state, ({ _tag }) => ({ socket, _tag })))
      const { _tag, socket } = yield* Effect.provide(using, layer)
      assert.strictEqual(_tag, "Dialing")
      assert.strictEqual((yield* socket.state)._tag, "Closed")
    }).pipe(Effect.provideService(WebSocketDialer, dialer)))

  it.effect("is that of an `Effect.Service`, whose instances the services are", () =>
    Effect.gen(function*() {
      const named = (layer: Layer.Layer<ByService, InvalidOptions, WebSocketDialer>) =>
        Effect.gen(function*() {
          const socket = yield* ByService
          assert.instanceOf(socket, ByService)
          yield* socket.send("queued")
          return yield* socket.stateName
        }).pipe(Effect.provide(layer))
      assert.strictEqual(yield* named(ReconnectingSocket.layer(ByService, { dial: { url: "ws://feed" } })), "Dialing")
      assert.strictEqual(yield* named(ByService.Default), "Dialing")
    }).pipe(Effect.provideService(WebSocketDialer, dialer)))

  it("takes the types of the messages from the tag", () => {
    const layer = ReconnectingSocket.layer(Numbers, {
      dial: Effect.succeed({ url: "ws://feed" }),
      codec: numbers,
      acknowledge: {
        id: (message) => {
          expectTypeOf(message).toEqualTypeOf<number>()
          return message
        },
        acknowledged: () => []
      }
    })
    expectTypeOf(layer).toEqualTypeOf<Layer.Layer<Numbers, InvalidOptions, WebSocketDialer>>()
    const compiles = () => {
      // @ts-expect-error a socket without a codec has text and bytes
      ReconnectingSocket.layer(Numbers, { dial: { url: "ws://feed" } })
      // @ts-expect-error the tag's messages are text and bytes
      ReconnectingSocket.layer(ByTag, { dial: { url: "ws://feed" }, codec: numbers })
    }
    assert.isFunction(compiles)
  })
})
