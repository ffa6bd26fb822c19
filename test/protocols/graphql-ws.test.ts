/** `examples/protocols/graphql-ws.ts` with the server of `graphql-ws`, on connections that are cut. */
import { assert, describe, it } from "@effect/vitest"
import { NodeWebSocketDialer } from "effect-holdfast/node"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
// Vite would take another build of it than Node, which loads the server.
import { useServer } from "graphql-ws/use/ws"
import { buildSchema } from "graphql/index.js"
import { EventEmitter, on } from "node:events"
import type { AddressInfo } from "node:net"
import { WebSocketServer } from "ws"
import * as GraphQL from "../../examples/protocols/graphql-ws.js"
import { amount } from "../support/form.js"
import { quiet } from "../support/quiet.js"
import { relay } from "../support/relay.js"
import { eventually, impatient } from "../support/webSocketServer.js"

const kills = amount({ quick: 4, full: 20 })
const perKill = 30

const schema = buildSchema(`
  type Tick { n: Int! }
  type Query { double(n: Int!): Int! }
  type Subscription { ticks(since: Int!): Tick! }
`)

/** Ticks are numbered from 1; a subscription gives those after `since`, also those of the past. */
const server = Effect.gen(function*() {
  const news = new EventEmitter().setMaxListeners(0)
  let ticks = 0
  const roots = {
    query: { double: ({ n }: { readonly n: number }) => 2 * n },
    subscription: {
      ticks: async function*({ since }: { readonly since: number }) {
        const later = on(news, "tick")
        for (let n = since;;) {
          while (n < ticks) yield { ticks: { n: ++n } }
          await later.next()
        }
      }
    }
  }
  const upgrades = new WebSocketServer({ port: 0, host: "127.0.0.1" })
  yield* Effect.async<void>((resume) => void upgrades.on("listening", () => resume(Effect.void)))
  const running = useServer({ schema, roots }, upgrades)
  yield* Effect.addFinalizer(() => Effect.promise(async () => running.dispose()))
  yield* Effect.forkScoped(Effect.forever(Effect.zipRight(
    Effect.sync(() => {
      ticks++
      news.emit("tick")
    }),
    Effect.sleep("1 millis")
  )))
  return `ws://127.0.0.1:${(upgrades.address() as AddressInfo).port}`
})

describe("graphql-ws", () => {
  it.scopedLive("a subscription continues after each cut: each event comes once, in order", () =>
    Effect.gen(function*() {
      const way = yield* relay(yield* server)
      const client = yield* GraphQL.connect(way.url)
      yield* impatient(client.socket)
      const heard: Array<number> = []
      const last = () => heard.at(-1) ?? 0
      const ticks = client.subscription(
        "subscription($since: Int!) { ticks(since: $since) { n } }",
        () => ({ since: last() })
      )
      yield* Effect.forkScoped(Stream.runForEach(ticks, (data) =>
        Effect.sync(() => {
          const { n } = (data as { readonly ticks: { readonly n: number } }).ticks
          if (n > last()) heard.push(n)
        })))
      for (let kill = 0; kill < kills; kill++) {
        const before = heard.length
        yield* eventually(() => heard.length > before + perKill)
        way.set("down")
        way.set("up")
      }
      const before = heard.length
      yield* eventually(() => heard.length > before)
      assert.deepStrictEqual(heard, heard.map((_, at) => at + 1))
    }).pipe(Effect.provide(Layer.merge(NodeWebSocketDialer.layer(), quiet))))

  it.scopedLive("a query is answered during a subscription, and a refused query fails", () =>
    Effect.gen(function*() {
      const client = yield* GraphQL.connect(yield* server)
      yield* Effect.forkScoped(Stream.runDrain(
        client.subscription("subscription { ticks(since: 0) { n } }", () => ({}))
      ))
      const answers = yield* Effect.forEach(
        [1, 2, 3],
        (n) => client.query("query($n: Int!) { double(n: $n) }", { n }),
        {
          concurrency: "unbounded"
        }
      )
      assert.deepStrictEqual(answers, [{ double: 2 }, { double: 4 }, { double: 6 }])
      const refused = yield* Effect.flip(client.query("query { triple }"))
      assert.strictEqual(refused._tag, "GraphQLError")
    }).pipe(Effect.provide(Layer.merge(NodeWebSocketDialer.layer(), quiet))))
})
