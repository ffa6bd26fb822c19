/** `examples/protocols/exchange-feed.ts` with an exchange that leaves changes out, on connections that are cut. */
import { assert, describe, it } from "@effect/vitest"
import * as Backoff from "effect-holdfast/Backoff"
import { NodeWebSocketDialer } from "effect-holdfast/node"
import * as Effect from "effect/Effect"
import * as HashMap from "effect/HashMap"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import type { AddressInfo } from "node:net"
import { type WebSocket, WebSocketServer } from "ws"
import { type Book, books } from "../../examples/protocols/exchange-feed.js"
import { amount } from "../support/form.js"
import { quiet } from "../support/quiet.js"
import { relay } from "../support/relay.js"
import { eventually } from "../support/webSocketServer.js"

const kills = amount({ quick: 3, full: 20 })
const perKill = 30

const quick = Backoff.exponential({ initial: "5 millis", max: "20 millis" })

/** Changes a level every millisecond. Of twenty changes it sends nineteen. */
const exchange = Effect.gen(function*() {
  const levels = new Map<number, number>()
  /** The whole book after each change, as text. */
  const history = [""]
  const subscribed = new Set<WebSocket>()
  const counts = { snapshots: 0, left: 0 }
  const change = () => {
    const seq = history.length
    const [price, quantity] = [seq * 7 % 20, seq * 13 % 5]
    if (quantity === 0) levels.delete(price)
    else levels.set(price, quantity)
    history.push(text(levels))
    if (seq % 20 === 0) counts.left++
    else {for (const socket of subscribed) {
        socket.send(JSON.stringify({ type: "change", seq, levels: [[price, quantity]] }))
      }}
  }
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1" })
  yield* Effect.async<void>((resume) => void server.on("listening", () => resume(Effect.void)))
  server.on("connection", (socket) => {
    socket.on("close", () => subscribed.delete(socket))
    socket.on("message", (data) => {
      const { request, type } = JSON.parse(String(data))
      if (type === "subscribe") subscribed.add(socket)
      if (type !== "snapshot") return
      counts.snapshots++
      socket.send(JSON.stringify({ type, request, seq: history.length - 1, levels: [...levels] }))
    })
  })
  yield* Effect.forkScoped(Effect.forever(Effect.zipRight(Effect.sync(change), Effect.sleep("1 millis"))))
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      for (const client of server.clients) client.terminate()
      server.close()
    })
  )
  return { url: `ws://127.0.0.1:${(server.address() as AddressInfo).port}`, history, counts }
})

const text = (levels: Iterable<readonly [number, number]>): string =>
  JSON.stringify([...levels].sort(([one], [other]) => one - other))

describe("an exchange's feed", () => {
  it.scopedLive("every book equals the exchange's at its number, over gaps and connections that are cut", () =>
    Effect.gen(function*() {
      const { counts, history, url } = yield* exchange
      const way = yield* relay(url)
      const seen: Array<Book> = []
      yield* Effect.forkScoped(
        Stream.runForEach(books(way.url, "gold", { backoff: quick }), (book) => Effect.sync(() => seen.push(book)))
      )
      for (let kill = 0; kill < kills; kill++) {
        const before = seen.length
        yield* eventually(() => seen.length >= before + perKill)
        way.set("down")
        way.set("up")
      }
      const before = seen.length
      yield* eventually(() => seen.length >= before + perKill)
      for (const { levels, seq } of seen) assert.strictEqual(text(HashMap.entries(levels)), history[seq])
      const numbers = seen.map(({ seq }) => seq)
      assert.deepStrictEqual(numbers, [...numbers].sort((one, other) => one - other))
      assert.isAbove(counts.snapshots, kills)
    }).pipe(Effect.provide(Layer.merge(NodeWebSocketDialer.layer(), quiet))))
})
