/** `examples/protocols/mqtt.ts` with brokers of others, on connections that are cut. */
import { assert, describe, it } from "@effect/vitest"
import { Aedes, type PublishPacket } from "aedes"
import { NodeWebSocketDialer } from "effect-holdfast/node"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { createWebSocketStream, WebSocketServer } from "ws"
import * as Mqtt from "../../examples/protocols/mqtt.js"
import { broker } from "../support/brokers.js"
import { amount } from "../support/form.js"
import { quiet } from "../support/quiet.js"
import { relay } from "../support/relay.js"
import { mosquitto } from "../support/tools.js"
import { eventually, impatient } from "../support/webSocketServer.js"

const kills = amount({ quick: 3, full: 20 })
const perKill = 30

const connect = (url: string, clientId: string) =>
  Effect.tap(Mqtt.connect(url, clientId), ({ socket }) => impatient(socket))

const mosquittoServer = Effect.map(
  // mosquitto does not start with a listener for WebSockets alone.
  broker(mosquitto ?? "", (port, folder) => `
listener ${port} 127.0.0.1
protocol websockets
listener 0 ${folder}/socket
user root
allow_anonymous true
max_queued_messages 0
`),
  ({ url }) => url
)

const aedesServer = Effect.fnUntraced(function*(onPublish: (packet: PublishPacket) => void = () => {}) {
  const aedes = yield* Effect.acquireRelease(
    Effect.promise(() => Aedes.createBroker()),
    (aedes) => Effect.async<void>((resume) => aedes.close(() => resume(Effect.void)))
  )
  aedes.authorizePublish = (_, packet, done) => {
    onPublish(packet)
    done(null)
  }
  const http = createServer()
  const upgrades = new WebSocketServer({ server: http, handleProtocols: () => "mqtt" })
  upgrades.on("connection", (socket, request) => {
    const stream = createWebSocketStream(socket)
    stream.on("error", () => {})
    aedes.handle(stream, request)
  })
  yield* Effect.acquireRelease(
    Effect.async<void>((resume) => void http.listen(0, "127.0.0.1", () => resume(Effect.void))),
    () =>
      Effect.sync(() => {
        for (const client of upgrades.clients) client.terminate()
        http.close()
      })
  )
  return `ws://127.0.0.1:${(http.address() as AddressInfo).port}`
})

/** Cuts the way each time the count has grown by `perKill`. */
const cutting = (way: { readonly set: (weather: "up" | "down") => void }, count: () => number) =>
  Effect.forEach(Array.from({ length: kills }, (_, kill) => kill), (kill) =>
    Effect.zipRight(
      eventually(() => count() >= kill * perKill + perKill / 2),
      Effect.sync(() => {
        way.set("down")
        way.set("up")
      })
    ))

const numbers = Array.from({ length: perKill * kills }, (_, n) => n)

interface Tested {
  readonly server: Effect.Effect<string, never, Scope.Scope>
  readonly isThere: boolean
  /** Whether the broker sends a subscriber kept messages before new ones, and marks each message that it repeats. */
  readonly isStrict: boolean
}

const suite = (name: string, { isStrict, isThere, server }: Tested) =>
  describe.skipIf(!isThere)(name, () => {
    it.scopedLive("every message that a client publishes over connections that are cut arrives, in order", () =>
      Effect.gen(function*() {
        const url = yield* server
        const way = yield* relay(url)
        const writer = yield* connect(way.url, "writer")
        const reader = yield* connect(url, "reader")
        const heard: Array<number> = []
        // Without a connection `subscribe` does not wait for one.
        yield* reader.socket.awaitOpen
        yield* reader.subscribe("orders/#")
        yield* Effect.forkScoped(reader.handle(({ payload }) => Effect.sync(() => heard.push(Number(payload)))))
        let published = 0
        const publishing = yield* Effect.fork(Effect.forEach(
          numbers,
          (n) => Effect.tap(writer.publish("orders/new", String(n)), () => Effect.sync(() => published++)),
          { concurrency: 20 }
        ))
        yield* cutting(way, () => published)
        yield* Fiber.join(publishing)
        yield* eventually(() => new Set(heard).size === numbers.length)
        assert.deepStrictEqual([...new Set(heard)], numbers)
        // Only what was in flight at a cut may come twice.
        assert.isAtMost(heard.length, numbers.length + kills * 20)
      }).pipe(Effect.provide(Layer.merge(NodeWebSocketDialer.layer(), quiet))))

    it.scopedLive("a subscriber whose connections are cut misses no message, and repeats are marked", () =>
      Effect.gen(function*() {
        const url = yield* server
        const way = yield* relay(url)
        const writer = yield* connect(url, "writer")
        const reader = yield* connect(way.url, "reader")
        const heard: Array<number> = []
        const unmarked: Array<number> = []
        // Without a connection `subscribe` does not wait for one.
        yield* reader.socket.awaitOpen
        yield* reader.subscribe("orders/#")
        yield* Effect.forkScoped(reader.handle(({ dup, payload }) =>
          Effect.sync(() => {
            const n = Number(payload)
            if (!dup && heard.includes(n)) unmarked.push(n)
            heard.push(n)
          })
        ))
        yield* Effect.forkScoped(
          Effect.forEach(
            numbers,
            (n) => Effect.zipRight(writer.publish("orders/new", String(n)), Effect.sleep("1 millis"))
          )
        )
        yield* cutting(way, () => heard.length)
        yield* eventually(() => new Set(heard).size === numbers.length)
        if (!isStrict) return
        assert.deepStrictEqual([...new Set(heard)], numbers)
        assert.deepStrictEqual(unmarked, [])
      }).pipe(Effect.provide(Layer.merge(NodeWebSocketDialer.layer(), quiet))))
  })

suite("MQTT, with mosquitto", { server: mosquittoServer, isThere: mosquitto !== undefined, isStrict: true })
describe("MQTT", () => {
  it.scopedLive("a message that is published again is marked", () =>
    Effect.gen(function*() {
      const came: Array<{ readonly n: number; readonly dup: boolean }> = []
      const way = yield* relay(yield* aedesServer(({ dup, payload }) => came.push({ n: Number(payload), dup })))
      const writer = yield* connect(way.url, "writer")
      const publishing = yield* Effect.fork(
        Effect.forEach(numbers, (n) => writer.publish("orders/new", String(n)), { concurrency: 20 })
      )
      yield* cutting(way, () => came.length)
      yield* Fiber.join(publishing)
      const repeats = came.filter(({ n }, at) => came.findIndex((first) => first.n === n) < at)
      assert.isTrue(repeats.every(({ dup }) => dup))
      // A message that was in flight on a cut connection is marked, too, although it has not come before.
      assert.isAtMost(came.filter(({ dup }) => dup).length, kills * 20)
      assert.isAtLeast(came.filter(({ dup }) => dup).length, 1)
    }).pipe(Effect.provide(Layer.merge(NodeWebSocketDialer.layer(), quiet))))
})

suite("MQTT, with aedes", { server: aedesServer(), isThere: true, isStrict: false })
