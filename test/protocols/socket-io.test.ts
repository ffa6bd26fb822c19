/** `examples/protocols/socket-io.ts` with the server of socket.io, on connections that are cut. */
import { assert, describe, it } from "@effect/vitest"
import { NodeWebSocketDialer } from "effect-holdfast/node"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { Server } from "socket.io"
import * as SocketIo from "../../examples/protocols/socket-io.js"
import { amount } from "../support/form.js"
import { quiet } from "../support/quiet.js"
import { relay } from "../support/relay.js"
import { eventually, impatient } from "../support/webSocketServer.js"

const kills = amount({ quick: 4, full: 20 })
const perKill = 30

const server = Effect.gen(function*() {
  const http = createServer()
  const io = new Server(http, { connectionStateRecovery: {}, pingInterval: 100, pingTimeout: 20_000 })
  yield* Effect.async<void>((resume) => void http.listen(0, "127.0.0.1", () => resume(Effect.void)))
  yield* Effect.addFinalizer(() => Effect.promise(() => io.close()))
  io.use((socket, next) => next(socket.handshake.auth["name"] === "nobody" ? new Error("go away") : undefined))
  const got: Array<number> = []
  let resumed = 0
  io.on("connection", (socket) => {
    if (socket.recovered) resumed++
    socket.on("order", (n: number, answer: (n: number) => void) => {
      got.push(n)
      answer(2 * n)
    })
  })
  return { io, got, resumed: () => resumed, url: `ws://127.0.0.1:${(http.address() as AddressInfo).port}` }
})

describe("socket.io", () => {
  it.scopedLive("over connections that are cut every event comes once, in order, both ways", () =>
    Effect.gen(function*() {
      const { got, io, resumed, url } = yield* server
      const way = yield* relay(url)
      const client = yield* SocketIo.connect(way.url)
      yield* impatient(client.socket)
      yield* client.socket.awaitOpen
      const heard: Array<number> = []
      yield* Effect.forkScoped(Stream.runForEach(client.received, ([, n]) => Effect.sync(() => heard.push(n))))
      let sent = 0
      yield* Effect.forkScoped(Effect.forever(
        Effect.zipRight(Effect.sync(() => io.emit("tick", sent++)), Effect.sleep("1 millis"))
      ))
      let answered = 0
      const emitting = yield* Effect.fork(Effect.forEach(
        Array.from({ length: perKill * kills }, (_, n) => n),
        (n) => Effect.tap(client.emit("order", n), () => Effect.sync(() => answered++)),
        { concurrency: 20 }
      ))
      for (let kill = 0; kill < kills; kill++) {
        // A way that is cut while the client is still dialing would cost no connection.
        yield* eventually(() => resumed() === kill && answered >= kill * perKill + perKill / 2)
        way.set("down")
        way.set("up")
      }
      const answers = yield* Fiber.join(emitting)
      assert.deepStrictEqual(answers, answers.map((_, n) => [2 * n]))
      // The handler sees an order again if its answer was lost, and leaves it out by its number.
      assert.deepStrictEqual([...new Set(got)], answers.map((_, n) => n))
      yield* eventually(() => resumed() >= kills)
      const last = sent
      yield* eventually(() => heard.length >= last)
      assert.deepStrictEqual(heard, heard.map((_, n) => n))
      assert.strictEqual(resumed(), kills)
    }).pipe(Effect.provide(Layer.merge(NodeWebSocketDialer.layer(), quiet))))

  it.scopedLive("the server's pings are answered, and a login that is refused says why", () =>
    Effect.gen(function*() {
      const { io, url } = yield* server
      const client = yield* SocketIo.connect(url)
      yield* client.socket.awaitOpen
      let pongs = 0
      for (const socket of io.sockets.sockets.values()) {
        socket.conn.on("packet", ({ type }) => {
          if (type === "pong") pongs++
        })
      }
      yield* eventually(() => pongs > 2)

      const { socket } = yield* SocketIo.connect(url, { name: "nobody" })
      const lost = yield* Stream.runHead(Stream.filterMap(socket.events, (event) =>
        event._tag === "Lost" && event.failure._tag === "ConnectionLost"
          ? Option.some(event.failure.cause)
          : Option.none()))
      assert.include(Option.getOrThrow(lost), { _tag: "Refused", message: "go away" })
    }).pipe(Effect.provide(Layer.merge(NodeWebSocketDialer.layer(), quiet))))
})
