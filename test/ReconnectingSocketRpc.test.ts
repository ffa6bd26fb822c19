/** `@effect/rpc` over the socket, against a server in another process that is killed. */
import * as Socket from "@effect/platform/Socket"
import * as RpcClient from "@effect/rpc/RpcClient"
import * as RpcSerialization from "@effect/rpc/RpcSerialization"
import { assert, describe, it } from "@effect/vitest"
import * as Backoff from "effect-holdfast/Backoff"
import { NodeWebSocketDialer } from "effect-holdfast/node"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import type * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { TestOptions } from "vitest"
import { amount } from "./support/form.js"
import { serving as loopbackServer } from "./support/loopbackWebSockets.js"
import { quiet } from "./support/quiet.js"
import { eventually, print, resources, serverProcess } from "./support/webSocketServer.js"
import { Rpcs } from "./support/webSocketServerRpcs.js"

const serving = serverProcess({ program: new URL("./support/webSocketServerRpcChild.ts", import.meta.url) })

/** A client, and the socket that it is over. */
const clientOf = (
  url: string,
  { heartbeat, retryTransientErrors = false }: {
    readonly heartbeat?: ReconnectingSocket.Options<WebSocketDialer.Message, WebSocketDialer.Message>["heartbeat"]
    readonly retryTransientErrors?: boolean
  } = {}
) =>
  Effect.gen(function*() {
    const socket = yield* ReconnectingSocket.make({
      dial: { url },
      backoff: Backoff.exponential({ initial: "5 millis", max: "50 millis" }),
      heartbeat
    })
    const retrySchedule = Schedule.spaced("1 millis")
    const protocol = RpcClient.layerProtocolSocket({ retrySchedule, retryTransientErrors }).pipe(
      Layer.provide(Layer.succeed(Socket.Socket, ReconnectingSocket.toSocket(socket))),
      Layer.provide(RpcSerialization.layerJson)
    )
    const context = yield* Layer.build(protocol)
    const client = yield* RpcClient.make(Rpcs).pipe(
      Effect.provideService(RpcClient.Protocol, Context.get(context, RpcClient.Protocol))
    )
    return { client, socket }
  })

const test = <E>(
  what: string,
  effect: () => Effect.Effect<unknown, E, Scope.Scope | ReconnectingSocketDialer>,
  options: TestOptions = {}
) => it.scopedLive(what, () => Effect.provide(effect(), Layer.merge(NodeWebSocketDialer.layer(), quiet)), options)

type ReconnectingSocketDialer = Layer.Layer.Success<ReturnType<typeof NodeWebSocketDialer.layer>>

type Client = Effect.Effect.Success<ReturnType<typeof clientOf>>["client"]

/** Fails a test that hangs. */
const within = <A, E, R>(effect: Effect.Effect<A, E, R>, limit: Duration.DurationInput = "1 minute") =>
  Effect.timeoutFail(effect, { duration: limit, onTimeout: () => "it hangs" as const })

const again = <A, E>(call: Effect.Effect<A, E>) => within(Effect.retry(call, Schedule.spaced("5 millis")))

const hangingAre = (client: Client, count: number) =>
  within(
    Effect.repeat(client.Hanging(), { until: (hanging) => hanging === count, schedule: Schedule.spaced("5 millis") })
  )

describe("RPC over a socket that reconnects", () => {
  test("W12: makes a thousand calls at the same time, and gets the server's own failures", () =>
    Effect.gen(function*() {
      const server = yield* serving
      const { client } = yield* clientOf(server.url("/rpc"))
      const numbers = Array.from({ length: 1000 }, (_, n) => n)
      const doubled = yield* within(
        Effect.forEach(numbers, (number) => client.Double({ number }), { concurrency: "unbounded" })
      )
      assert.deepStrictEqual(doubled, numbers.map((number) => number * 2))
      assert.deepInclude(yield* Effect.flip(client.Double({ number: -1 })), { _tag: "Refused", number: -1 })
    }))

  test("W12: sends calls that come before the first connection as soon as it is open", () =>
    Effect.gen(function*() {
      const server = yield* serving
      yield* server.kill
      const { client } = yield* clientOf(server.url("/rpc"))
      const calling = yield* Effect.fork(client.Double({ number: 1 }))
      yield* server.start()
      assert.strictEqual(yield* within(Fiber.join(calling)), 2)
    }))

  for (const retryTransientErrors of [false, true]) {
    for (const how of ["is killed", "falls silent"] as const) {
      const title = `retryTransientErrors ${retryTransientErrors}: fails the calls in flight when the server ${how}`
      test(`W12: ${title}, and answers those after its restart`, () =>
        Effect.gen(function*() {
          const server = yield* serving
          const heartbeat = how === "is killed" ? undefined : { interval: "200 millis", timeout: "2 seconds" } as const
          const { client } = yield* clientOf(server.url("/rpc"), { heartbeat, retryTransientErrors })
          const times = amount({ quick: 1, full: 5 })
          let failed = 0
          let whileAway = 0
          for (let time = 0; time < times; time++) {
            const calls = yield* Effect.forEach(
              Array.from({ length: 50 }),
              () => Effect.fork(Effect.flip(client.Hang()))
            )
            yield* hangingAre(client, calls.length)
            if (how === "is killed") server.unsafeKill()
            else server.unsafeStop()
            for (const { _tag } of yield* within(Effect.forEach(calls, Fiber.join))) {
              assert.strictEqual(_tag, "RpcClientError")
              failed++
            }
            yield* server.kill
            // Later calls may succeed or fail, but they end.
            const early = yield* Effect.fork(
              Effect.forEach(Array.from({ length: 50 }), (_, number) => Effect.either(client.Double({ number })), {
                concurrency: "unbounded"
              })
            )
            yield* server.start()
            for (const outcome of yield* within(Fiber.join(early))) {
              if (Either.isLeft(outcome)) assert.strictEqual(outcome.left._tag, "RpcClientError")
              whileAway++
            }
            assert.strictEqual(yield* again(client.Double({ number: time })), time * 2)
          }
          print(
            `RPC: ${times} times the server ${how}, ${failed} calls in flight failed typed, ` +
              `${whileAway} ended that came while it was away`
          )
        }), { concurrent: true })
    }

    test(`W12: retryTransientErrors ${retryTransientErrors}: every call over a socket that has failed fails`, () =>
      Effect.gen(function*() {
        const refusing = yield* loopbackServer((socket) => {
          socket.end("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
          return true
        })
        const { client, socket } = yield* clientOf(refusing.url, { retryTransientErrors })
        const call = Effect.exit(client.Double({ number: 1 }))
        const early = yield* Effect.forEach(Array.from({ length: 20 }), () => Effect.fork(call))
        yield* within(Effect.flip(socket.awaitOpen))
        const exits = [...yield* within(Effect.forEach(early, Fiber.join)), yield* within(call), yield* within(call)]
        for (const exit of exits) assert.isTrue(Exit.isFailure(exit))
        assert.strictEqual((yield* within(Effect.flip(client.Double({ number: 1 }))))._tag, "RpcClientError")
      }))
  }

  test("W12: streams no faster than its consumer", () =>
    Effect.gen(function*() {
      const server = yield* serving
      const { client } = yield* clientOf(server.url("/rpc"))
      // An RPC client that has no room for one answer reads no other.
      const { client: other } = yield* clientOf(server.url("/rpc"))
      const upTo = 5000
      const taken: Array<number> = []
      const permits = yield* Queue.unbounded<void>()
      const reading = yield* Effect.fork(Stream.runForEach(client.Numbers({ upTo }), (number) =>
        Effect.zipRight(
          Queue.take(permits),
          Effect.sync(() => taken.push(number))
        )))
      yield* Queue.offerAll(permits, Array.from({ length: 10 }))
      yield* within(eventually(() => taken.length === 10))
      // The server has stopped making values if it makes none while as many calls as this are answered.
      let made = -1
      for (let now = yield* other.Made(); now !== made; now = yield* other.Made()) {
        made = now
        yield* Effect.forEach(Array.from({ length: 100 }), (_, number) => other.Double({ number }))
      }
      print(`RPC: of a stream of ${upTo} of which 10 were taken, the server made ${made}`)
      assert.isBelow(made, 200)
      yield* Queue.offerAll(permits, Array.from({ length: upTo }))
      yield* within(Fiber.join(reading), "2 minutes")
      assert.deepStrictEqual(taken, Array.from({ length: upTo }, (_, n) => n))
    }))

  test("W12: fails a stream whose server is killed, and starts a new stream after the restart", () =>
    Effect.gen(function*() {
      const server = yield* serving
      const { client } = yield* clientOf(server.url("/rpc"))
      const taken: Array<number> = []
      const reading = yield* Effect.fork(
        Effect.flip(Stream.runForEach(client.Numbers({ upTo: 1e9 }), (number) =>
          Effect.sync(() => {
            taken.push(number)
          })))
      )
      yield* within(eventually(() => taken.length > 100))
      server.unsafeKill()
      const failure = yield* within(Fiber.join(reading))
      assert.strictEqual(failure._tag, "RpcClientError")
      assert.deepStrictEqual(taken, taken.map((_, n) => n))
      yield* server.gone
      yield* server.start()
      const numbers = yield* again(Stream.runCollect(client.Numbers({ upTo: 3 })))
      assert.deepStrictEqual([...numbers], [0, 1, 2])
    }))

  test("W12: leaves nothing behind when the client's scope closes, on both sides", () =>
    Effect.gen(function*() {
      const server = yield* serving
      const other = yield* clientOf(server.url("/rpc"))
      yield* other.client.Made()
      const before = resources()
      const scope = yield* Scope.make()
      const { client, socket } = yield* Scope.extend(clientOf(server.url("/rpc")), scope)
      const calls = yield* Effect.forEach(Array.from({ length: 20 }), () => Effect.fork(Effect.exit(client.Hang())))
      yield* hangingAre(client, calls.length)
      yield* within(Scope.close(scope, Exit.void))
      assert.deepInclude(yield* socket.state, { _tag: "Closed" })
      for (const exit of yield* within(Effect.forEach(calls, Fiber.join))) assert.isTrue(Exit.isFailure(exit))
      yield* hangingAre(other.client, 0)
      yield* within(eventually(() =>
        Object.entries(resources()).every(([kind, count]) => kind === "Timeout" || count <= (before[kind] ?? 0))
      ))
    }))
})
