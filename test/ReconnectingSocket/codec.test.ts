/**
 * Codecs: one frame that holds none, one or many messages, and decoders with a state of their own.
 */
import { assert, describe, it } from "@effect/vitest"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import {
  dial,
  failureOf,
  lossesOf,
  ofTag,
  opened,
  pass,
  recorded,
  serving,
  settle,
  test
} from "../support/reconnectingSockets.js"

const linesOf = (frame: WebSocketDialer.Message) => String(frame).split("\n").filter((line) => line !== "")

const lines: ReconnectingSocket.BatchCodec<string, string> = { encode: (line) => line, decodeMany: linesOf }

/** Keeps half a line for the next frame. */
const parser = (): ReconnectingSocket.BatchCodec<string, string> => {
  let rest = ""
  return {
    encode: (line) => line,
    decodeMany: function*(frame) {
      const parts = (rest + String(frame)).split("\n")
      rest = parts.pop()!
      for (const part of parts) {
        if (part === "bad") throw new Error("a bad line")
        yield part
      }
    }
  }
}

const listening = (options: Parameters<typeof opened>[0]) =>
  Effect.gen(function*() {
    const one = yield* opened(options)
    const messages = yield* recorded(one.socket.messages)
    return { ...one, messages: messages.all }
  })

describe("codec.decodeMany", () => {
  test("W14: a frame holds none, one or many messages", () =>
    Effect.gen(function*() {
      const { events, messages, peer } = yield* listening({ codec: lines })
      for (const frame of ["", "a", "b\nc\nd", "\n"]) yield* peer.send(frame)
      yield* settle
      assert.deepStrictEqual(messages, ["a", "b", "c", "d"])
      assert.deepStrictEqual(ofTag(events, "Rejected"), [])
    }))

  test("W14: acknowledgements and pongs are taken out of a frame, and its other messages go to `messages`", () =>
    Effect.gen(function*() {
      const { messages, peer, socket } = yield* listening({
        codec: lines,
        heartbeat: { ping: "ping", isPong: (line) => line === "pong" },
        acknowledge: {
          id: (line) => line,
          acknowledged: (line) => line.startsWith("ack ") ? Option.some(line.slice(4)) : Option.none()
        }
      })
      const delivering = yield* Effect.fork(Effect.forEach(["1", "2"], socket.deliver, { concurrency: 2 }))
      yield* settle
      yield* peer.send("before\nack 1\nbetween\npong\nack 2\nafter")
      yield* settle
      yield* Fiber.join(delivering)
      assert.deepStrictEqual(messages, ["before", "between", "after"])
    }))

  test("W8: messages that `decodeMany` gave before it threw are kept, and the connection goes on", () =>
    Effect.gen(function*() {
      const { events, messages, peer } = yield* listening({ codec: parser() })
      yield* peer.send("a\nb\nbad\nc\n")
      yield* peer.send("d\n")
      yield* settle
      assert.deepStrictEqual(messages.slice(0, 2), ["a", "b"])
      assert.strictEqual(messages.at(-1), "d")
      assert.deepStrictEqual(ofTag(events, "Rejected").map(({ callback, message }) => [callback, message]), [
        ["decode", "a\nb\nbad\nc\n"]
      ])
      assert.deepStrictEqual(lossesOf(events), [])
    }))

  test("W8: a `decodeMany` that gives nothing to iterate over is a typed event", () =>
    Effect.gen(function*() {
      const { events, messages, peer } = yield* listening({ codec: { ...lines, decodeMany: () => 1 as never } })
      yield* peer.send("a")
      yield* settle
      assert.deepStrictEqual(messages, [])
      assert.deepStrictEqual(ofTag(events, "Rejected").map(({ callback }) => callback), ["decode"])
    }))

  it.scoped("an inbox that has room takes a whole frame, also if the connection cannot be paused", () =>
    Effect.gen(function*() {
      const server = yield* serving
      const dialer = yield* WebSocketDialer.WebSocketDialer
      const noPause = Layer.succeed(WebSocketDialer.WebSocketDialer, {
        dial: (request) =>
          Effect.map(dialer.dial(request), (connection) => ({ ...connection, backpressure: Option.none() }))
      })
      const socket = yield* Effect.provide(
        ReconnectingSocket.make<string, string>({ dial, codec: lines, heartbeat: false, inbox: { capacity: 2 } }),
        noPause
      )
      const events = yield* recorded(socket.events)
      const peer = yield* server.open
      yield* peer.send("a\nb\nc\nd")
      yield* settle
      assert.deepStrictEqual(lossesOf(events.all), [])
      yield* peer.send("e")
      yield* settle
      assert.deepStrictEqual(lossesOf(events.all), ["InboxOverflow"])
      const messages = yield* recorded(socket.messages)
      assert.deepStrictEqual(messages.all, ["a", "b", "c", "d"])
    }).pipe(Effect.provide(WebSocketDialer.layerTest)))
})

describe("codec as a function", () => {
  test("W8: is called once by `make` and once for each connection, which drops an incomplete message at its end", () =>
    Effect.gen(function*() {
      let calls = 0
      const { messages, peer, server } = yield* listening({
        codec: () => {
          calls++
          return parser()
        }
      })
      assert.strictEqual(calls, 2)
      yield* peer.send("a\nhal")
      yield* peer.send("f\nlost")
      yield* settle
      yield* peer.reset
      yield* pass(1_000)
      const next = yield* server.open
      yield* next.send("b\n")
      yield* settle
      assert.deepStrictEqual(messages, ["a", "half", "b"])
      assert.strictEqual(calls, 3)
    }))

  test("messages that are accepted while there is no connection are sent as `make`'s codec has encoded them", () =>
    Effect.gen(function*() {
      let calls = 0
      const server = yield* serving
      const socket = yield* ReconnectingSocket.make<string, string>({
        dial,
        heartbeat: false,
        codec: () => {
          const n = calls++
          return { encode: (message) => `${n} ${message}`, decode: String }
        }
      })
      yield* socket.send("a")
      const peer = yield* server.open
      yield* socket.send("b")
      yield* settle
      assert.deepStrictEqual(peer.got, ["0 a", "0 b"])
    }))

  test("W4: a stateful decoder that throws ends the connection with InvalidData, after what it gave", () =>
    Effect.gen(function*() {
      const { events, messages, peer, server } = yield* listening({ codec: parser })
      yield* peer.send("a\nb\nbad\nc\n")
      yield* settle
      assert.deepStrictEqual(messages, ["a", "b"])
      assert.deepStrictEqual(ofTag(events, "Rejected").map(({ callback }) => callback), ["decode"])
      assert.deepStrictEqual(lossesOf(events), ["InvalidData"])
      yield* pass(1_000)
      const next = yield* server.open
      yield* next.send("d\n")
      yield* settle
      assert.deepStrictEqual(messages, ["a", "b", "d"])
    }))

  test("W8: a stateful `decode` that throws ends the connection too", () =>
    Effect.gen(function*() {
      const { events, peer } = yield* listening({
        codec: () => ({
          encode: (message) => message,
          decode: () => {
            throw new Error("no message")
          }
        })
      })
      yield* peer.send("a")
      yield* settle
      assert.deepStrictEqual(lossesOf(events), ["InvalidData"])
    }))

  test("W8: a codec that cannot be made for a connection ends that one alone", () =>
    Effect.gen(function*() {
      let calls = 0
      const { events, messages, server } = yield* listening({
        codec: () => {
          if (calls++ === 1) throw new Error("no parser")
          return parser()
        }
      })
      assert.deepStrictEqual(lossesOf(events), ["InvalidData"])
      assert.deepStrictEqual(ofTag(events, "Rejected").map(({ callback }) => callback), ["codec"])
      yield* pass(1_000)
      const next = yield* server.open
      yield* next.send("a\n")
      yield* settle
      assert.deepStrictEqual(messages, ["a"])
    }))

  test("a replacement has its own decoder, besides that of the connection it replaces", () =>
    Effect.gen(function*() {
      const { messages, peer, server } = yield* listening({ codec: parser, renewAfter: "10 seconds" })
      yield* peer.send("ol")
      yield* pass(10_000)
      const next = yield* Effect.flatMap(server.next, ({ open }) => open())
      yield* next.send("ne")
      yield* peer.send("d\n")
      yield* settle
      yield* next.send("w\n")
      yield* settle
      assert.deepStrictEqual(messages, ["old", "new"])
    }))
})

describe("an invalid codec", () => {
  const make = (codec: unknown): Effect.Effect<unknown, unknown, WebSocketDialer.WebSocketDialer | Scope.Scope> =>
    ReconnectingSocket.make({ dial, codec: codec as ReconnectingSocket.Codec<string, string> })
  const rows: ReadonlyArray<readonly [name: string, codec: unknown]> = [
    ["an object without functions", {}],
    ["one that cannot decode", { encode: String }],
    ["a function that gives none", () => undefined],
    ["a function that throws", () => {
      throw new Error("no codec")
    }]
  ]
  for (const [name, codec] of rows) {
    test(`W8: ${name} is refused by a typed error`, () =>
      Effect.gen(function*() {
        const refused = failureOf(yield* Effect.exit(make(codec))) as { _tag: string; option: string }
        assert.deepStrictEqual([refused._tag, refused.option], ["InvalidOptions", "codec"])
      }))
  }
})

describe("json", () => {
  it("says where a message does not fit its schema, and shows nothing of it", () => {
    const codec = ReconnectingSocket.json({
      in: Schema.Unknown,
      out: Schema.Struct({ password: Schema.String.pipe(Schema.minLength(99)) })
    })
    const thrown = Either.flip(Either.try({
      try: () => codec.encode({ password: "canary" }),
      catch: String
    }))
    assert.deepStrictEqual(thrown, Either.right("Error: the message does not fit the schema at password"))
  })
})
