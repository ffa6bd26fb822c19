/** `examples/protocols/nats.ts` with a server of NATS that is killed, and on connections that are cut. */
import { assert, describe, it } from "@effect/vitest"
import { NodeWebSocketDialer } from "effect-holdfast/node"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as Nats from "../../examples/protocols/nats.js"
import { broker } from "../support/brokers.js"
import { amount } from "../support/form.js"
import { quiet } from "../support/quiet.js"
import { relay } from "../support/relay.js"
import { natsServer } from "../support/tools.js"
import { eventually, impatient } from "../support/webSocketServer.js"

const kills = amount({ quick: 4, full: 20 })
const perKill = 50

const server = broker(natsServer ?? "", (port, folder) => `
listen: "127.0.0.1:-1"
websocket { listen: "127.0.0.1:${port}", no_tls: true }
jetstream { store_dir: "${folder}/jetstream" }
authorization { token: secret }
`)

const connect = (url: string) => Effect.tap(Nats.connect(url, "secret"), ({ socket }) => impatient(socket))

describe.skipIf(natsServer === undefined)("NATS", () => {
  it.scopedLive("JetStream stores every message once, in order, while connections and the server die", () =>
    Effect.gen(function*() {
      const { restart, url } = yield* server
      const way = yield* relay(url)
      const client = yield* connect(way.url)
      yield* Effect.forkScoped(Stream.runDrain(client.messages))
      yield* client.request("$JS.API.STREAM.CREATE.ORDERS", JSON.stringify({ name: "ORDERS", subjects: ["orders.*"] }))

      let published = 0
      const publishing = yield* Effect.fork(Effect.forEach(
        Array.from({ length: perKill * kills }, (_, n) => n),
        (n) => Effect.tap(client.publish("orders.new", `order ${n} €`), () => Effect.sync(() => published++)),
        { concurrency: 50 }
      ))
      for (let kill = 0; kill < kills; kill++) {
        yield* eventually(() => published >= kill * perKill + perKill / 2)
        if (kill % 4 === 3) yield* restart
        else way.set("down")
        way.set("up")
      }
      const places = yield* Fiber.join(publishing)

      assert.deepStrictEqual(places, places.map((_, n) => n + 1))
      // A client of its own, because a request of the other one may be lost with the connection that was cut last.
      const reader = yield* connect(url)
      yield* Effect.forkScoped(Stream.runDrain(reader.messages))
      for (const place of places) {
        const answer = yield* reader.request("$JS.API.STREAM.MSG.GET.ORDERS", JSON.stringify({ seq: place }))
        const { message } = JSON.parse(answer) as { readonly message: { readonly data: string } }
        assert.strictEqual(Buffer.from(message.data, "base64").toString(), `order ${place - 1} €`)
      }
    }).pipe(Effect.provide(Layer.merge(NodeWebSocketDialer.layer(), quiet))))

  it.scopedLive("a subscription continues after each cut, without repeats and in order", () =>
    Effect.gen(function*() {
      const { url } = yield* server
      const way = yield* relay(url)
      const reader = yield* connect(way.url)
      const writer = yield* connect(url)
      const heard: Array<number> = []
      yield* Effect.forkScoped(
        Stream.runForEach(
          reader.messages,
          ({ op, payload }) => Effect.sync(() => op === "MSG" && heard.push(Number(payload)))
        )
      )
      yield* reader.subscribe("prices.*")
      let sent = 0
      const price = Effect.suspend(() => {
        const payload = String(sent++)
        return writer.socket.send({ line: `PUB prices.gold ${payload.length}`, payload })
      })
      yield* Effect.forkScoped(Effect.forever(Effect.zipRight(price, Effect.sleep("1 millis"))))
      for (let kill = 0; kill < kills; kill++) {
        const before = heard.length
        yield* eventually(() => heard.length > before + 10)
        way.set("down")
        const after = heard.length
        way.set("up")
        yield* eventually(() => heard.length > after)
      }
      assert.deepStrictEqual(heard, [...new Set(heard)].sort((a, b) => a - b))
    }).pipe(Effect.provide(Layer.merge(NodeWebSocketDialer.layer(), quiet))))

  it.scopedLive("a message that no stream takes fails, and so does a login that the server refuses", () =>
    Effect.gen(function*() {
      const { url } = yield* server
      const client = yield* connect(url)
      const refused = yield* Effect.flip(client.publish("nowhere", "hello"))
      assert.include(refused.message, "503")

      const { socket } = yield* Nats.connect(url, "guessed")
      assert.include(yield* Effect.flip(socket.awaitOpen), { _tag: "SocketFailed" })
    }).pipe(Effect.provide(Layer.merge(NodeWebSocketDialer.layer(), quiet))))
})
