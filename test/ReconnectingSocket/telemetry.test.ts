/** The logs, metrics and spans of a socket. */
import { assert, describe, it } from "@effect/vitest"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as HashMap from "effect/HashMap"
import * as Logger from "effect/Logger"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Tracer from "effect/Tracer"
import {
  acknowledge,
  dial,
  dialing,
  onWires,
  opened,
  pass,
  serving,
  settle,
  steady,
  test,
  Wire
} from "../support/reconnectingSockets.js"

/** The sockets of each test have their own name, since metrics belong to the process. */
let names = 0
const newName = () => `telemetry ${names++}`

/** The value of a metric, with these labels; undefined if it was never touched. */
const valueOf = (name: string, labels: Readonly<Record<string, string>>): number | undefined => {
  for (const { metricKey, metricState } of Metric.unsafeSnapshot()) {
    if (metricKey.name !== `holdfast_socket_${name}` || metricKey.tags.length !== Object.keys(labels).length) continue
    if (!metricKey.tags.every(({ key, value }) => labels[key] === value)) continue
    const state = metricState as { readonly count?: number; readonly value?: number }
    return Number(state.count ?? state.value)
  }
  return undefined
}

const gaugesOf = (socket: string) => ({
  messages: valueOf("outbox_messages", { socket }) ?? 0,
  unacknowledged: valueOf("unacknowledged", { socket }) ?? 0,
  oldest: valueOf("outbox_oldest_timestamp_seconds", { socket }) ?? 0
})

const statesOf = (socket: string) =>
  Object.fromEntries(
    ["Dialing", "Opening", "Open", "Waiting", "Closed"].flatMap((state) => {
      const sockets = valueOf("state", { socket, state }) ?? 0
      return sockets === 0 ? [] : [[state, sockets]]
    })
  )

const none = { messages: 0, unacknowledged: 0, oldest: 0 }

/** The log lines of an effect: level, message, and the socket. */
const logging = <A, E, R>(effect: (lines: Array<ReadonlyArray<unknown>>) => Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const lines: Array<ReadonlyArray<unknown>> = []
    const logger = Logger.make(({ annotations, logLevel, message }) => {
      lines.push([logLevel.label, String(message), Option.getOrUndefined(HashMap.get(annotations, "socket"))])
    })
    return Effect.provide(effect(lines), Logger.add(logger))
  })

describe("logs", () => {
  test("W19: say at Info that it opens, is lost and is closed, with its name", () =>
    logging((lines) =>
      Effect.gen(function*() {
        const { peer, server, socket } = yield* opened({ name: "feed" })
        yield* peer.close(1012, "restart")
        yield* pass(1_000)
        yield* server.open
        yield* socket.close(4000, "done")
        assert.deepStrictEqual(lines, [
          ["INFO", "the socket is open", "feed"],
          ["INFO", "the connection was closed with 1012: restart", "feed"],
          ["INFO", "the socket is open", "feed"],
          ["INFO", "the socket is closed with 4000", "feed"]
        ])
      })
    ))

  test("W19: warn when it fails, and when a callback throws, and show no secret of the URL", () =>
    logging((lines) =>
      Effect.gen(function*() {
        const { server } = yield* dialing(ReconnectingSocket.make({
          dial: { url: "ws://user:secret@host.example/path?token=secret" },
          retryable: () => {
            throw new Error("secret")
          }
        }))
        yield* server.refuse(403)
        assert.deepStrictEqual(lines, [
          ["WARN", "the callback `retryable` of the socket has thrown", "host.example"],
          ["WARN", "the socket has failed: ws://host.example/path refused the upgrade with 403", "host.example"]
        ])
      })
    ))

  test("warn of a subscription that was left out, by its error's tag; it is counted", () =>
    logging((lines) =>
      Effect.gen(function*() {
        const name = newName()
        const { peer, server, socket } = yield* opened({ name })
        let isRefused = false
        const confirmed = () => isRefused ? Option.some(Either.left({ _tag: "Denied" })) : Option.some(Either.void)
        yield* Effect.forkScoped(socket.subscribe({ open: "+", confirmed }))
        yield* settle
        yield* peer.send("yes")
        yield* settle
        isRefused = true
        yield* peer.reset
        yield* pass(1_000)
        const next = yield* server.open
        yield* next.send("no")
        yield* settle
        assert.deepInclude(lines, ["WARN", "a subscription was left out: Denied", name])
        assert.strictEqual(valueOf("subscriptions_failed_total", { socket: name }), 1)
      })
    ))

  test("have no line break and no control character of a peer", () =>
    logging((lines) =>
      Effect.gen(function*() {
        const { peer } = yield* opened()
        yield* peer.close(4000, "bye\ntimestamp=2026 level=ERROR \u001b[31m\u0085\u2028")
        yield* settle
        const [, text] = lines.find(([, text]) => String(text).includes("4000"))!
        assert.include(text as string, "bye\\u000atimestamp=2026 level=ERROR \\u001b[31m\\u0085\\u2028")
      })
    ))

  test("W8: a logger that throws does not disturb the socket", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* opened()
      yield* socket.send("a")
      yield* settle
      assert.deepStrictEqual([peer.got, (yield* socket.state)._tag], [["a"], "Open"])
    }).pipe(Effect.provide(Logger.add(Logger.make(() => {
      throw new Error("a logger's fault")
    })))))
})

describe("spans and errors", () => {
  test("W19: each dial is a span with the socket's name and the attempt; errors have the name too", () =>
    Effect.gen(function*() {
      const spans: Array<readonly [string, unknown, string]> = []
      const tracer = Tracer.make({
        context: (f) => f(),
        span: (name, parent, context, links, startTime, kind) => {
          const attributes = new Map<string, unknown>()
          return {
            _tag: "Span",
            name,
            spanId: `${spans.length}`,
            traceId: "1",
            parent,
            context,
            links,
            kind,
            sampled: true,
            status: { _tag: "Started", startTime },
            attributes,
            attribute: (key, value) => void attributes.set(key, value),
            event: () => {},
            addLinks: () => {},
            end: (_, exit) => void spans.push([name, Object.fromEntries(attributes), exit._tag])
          }
        }
      })
      const make = ReconnectingSocket.make({
        dial: { url: "ws://user:secret@host.example/path?token=secret" },
        backoff: steady
      })
      const { server, socket } = yield* dialing(Effect.withTracer(make, tracer))
      yield* server.refuse(500)
      yield* pass(1_000)
      yield* server.refuse(403)
      assert.deepStrictEqual(spans, [
        ["ReconnectingSocket.dial", { socket: "host.example", attempt: 0 }, "Failure"],
        ["ReconnectingSocket.dial", { socket: "host.example", attempt: 1 }, "Failure"]
      ])
      const failed = yield* Effect.flip(socket.awaitOpen)
      assert.deepInclude(failed, { _tag: "SocketFailed", socket: "host.example" })
      assert.deepInclude(yield* Effect.flip(socket.send("late")), { _tag: "SocketClosed", socket: "host.example" })
      assert.notInclude(failed.message, "secret")
    }))
})

describe("counters", () => {
  test("W19: count dials by outcome, losses by reason, and callbacks that throw", () =>
    Effect.gen(function*() {
      const socket = newName()
      const { server } = yield* dialing(ReconnectingSocket.make({
        name: socket,
        dial,
        backoff: steady,
        openTimeout: "3 seconds",
        codec: {
          encode: String,
          decode: () => {
            throw new Error("odd")
          }
        }
      }))
      yield* server.refuse(503)
      yield* pass(1_000)
      yield* Effect.flatMap(server.next, ({ fail }) => fail())
      yield* pass(2_000)
      yield* server.next
      yield* pass(3_000)
      yield* pass(4_000)
      const peer = yield* server.open
      yield* peer.send("a")
      yield* peer.close(1012)
      yield* pass(8_000)
      yield* Effect.flatMap(server.open, ({ reset }) => reset)
      yield* settle
      const outcomes = ["refused", "transport", "timeout", "success", "invalid", "interrupted"]
      assert.deepStrictEqual(outcomes.map((outcome) => valueOf("dials_total", { socket, outcome })), [
        1,
        1,
        1,
        2,
        undefined,
        undefined
      ])
      assert.strictEqual(valueOf("lost_total", { socket, reason: "1012" }), 1)
      assert.strictEqual(valueOf("lost_total", { socket, reason: "Reset" }), 1)
      assert.strictEqual(valueOf("opened_total", { socket }), 2)
      assert.strictEqual(valueOf("rejected_total", { socket, callback: "decode" }), 1)
    }))

  test("W19: count an abandoned dial as interrupted", () =>
    Effect.gen(function*() {
      const name = newName()
      const { server, socket } = yield* dialing(ReconnectingSocket.make({ name, dial }))
      yield* server.next
      yield* socket.close()
      assert.strictEqual(valueOf("dials_total", { socket: name, outcome: "interrupted" }), 1)
    }))

  for (
    const [what, heartbeat] of [
      ["protocol pings", {}],
      ["your own, where `isPong` is known", { ping: "ping", isPong: (message: unknown) => message === "pong" }]
    ] as const
  ) {
    it.scoped(`W19: the histogram has the round trips of ${what}`, () => {
      const wire = new Wire()
      return Effect.gen(function*() {
        const name = newName()
        yield* onWires([wire], { name, heartbeat })
        yield* pass(15_000)
        wire.say("something else")
        yield* pass(250)
        if ("ping" in heartbeat) wire.say("pong")
        else wire.listener!.onControl("Pong")
        // No ping has asked for this pong.
        wire.say("pong")
        wire.listener!.onControl("Pong")
        const trips = [...Metric.unsafeSnapshot()].find(({ metricKey: { name: metric, tags } }) =>
          metric === "holdfast_socket_round_trip_seconds" && tags.some(({ value }) => value === name)
        )!.metricState as { readonly count?: number; readonly sum?: number }
        assert.deepStrictEqual([trips.count, trips.sum], [1, 0.25])
      })
    })
  }
})

describe("gauges", () => {
  test("W19: are sums over the sockets of one name, and a closed socket no longer counts", () =>
    Effect.gen(function*() {
      const name = newName()
      const server = yield* serving
      const make = ReconnectingSocket.make({ name, dial, acknowledge, heartbeat: false, backoff: steady })
      const scope = yield* Scope.make()
      const first = yield* Scope.extend(make, scope)
      const second = yield* make
      assert.deepStrictEqual(statesOf(name), { Dialing: 2 })
      const peer = yield* server.open
      assert.deepStrictEqual(statesOf(name), { Dialing: 1, Open: 1 })
      yield* pass(1_000)
      const accepted = (yield* Clock.currentTimeMillis) / 1000
      for (const message of ["1", "2", "3"]) yield* first.send(message)
      yield* pass(1_000)
      for (const message of ["4", "5"]) yield* second.send(message)
      yield* settle
      assert.deepStrictEqual(gaugesOf(name), { messages: 5, unacknowledged: 3, oldest: accepted })
      yield* peer.send("ack 2")
      yield* settle
      assert.deepStrictEqual(gaugesOf(name), { messages: 3, unacknowledged: 1, oldest: accepted })
      yield* peer.send("ack 3")
      yield* settle
      assert.deepStrictEqual(gaugesOf(name), { messages: 2, unacknowledged: 0, oldest: accepted + 1 })
      yield* first.send("6")
      yield* settle
      yield* peer.reset
      yield* settle
      assert.deepStrictEqual(gaugesOf(name), { messages: 3, unacknowledged: 1, oldest: accepted + 1 })
      assert.deepStrictEqual(statesOf(name), { Dialing: 1, Waiting: 1 })
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(gaugesOf(name), { messages: 2, unacknowledged: 0, oldest: accepted + 1 })
      assert.deepStrictEqual(statesOf(name), { Dialing: 1 })
      yield* second.close()
      assert.deepStrictEqual([gaugesOf(name), statesOf(name)], [none, {}])
    }))

  test("W19: stay correct when messages are removed, expire, or make room", () =>
    Effect.gen(function*() {
      const name = newName()
      const { socket } = yield* dialing(ReconnectingSocket.make({
        name,
        dial,
        openTimeout: "1 minute",
        outbox: { capacity: 2, overflow: "dropOldest", timeToLive: "5 seconds" }
      }))
      const taken = yield* Effect.fork(socket.deliver("taken back"))
      yield* settle
      assert.strictEqual(gaugesOf(name).messages, 1)
      yield* Effect.flatMap(Effect.sync(() => taken), (fiber) => fiber.interruptAsFork(fiber.id()))
      yield* settle
      assert.deepStrictEqual(gaugesOf(name), none)
      for (const message of ["1", "2", "3"]) yield* socket.send(message)
      assert.strictEqual(gaugesOf(name).messages, 2)
      yield* pass(6_000)
      assert.deepStrictEqual(gaugesOf(name), none)
      assert.strictEqual(valueOf("messages_dropped_total", { socket: name, reason: "Expired" }), 2)
    }))

  test("W19: are named by the first URL's host if there is no name, as soon as it is known", () =>
    Effect.gen(function*() {
      const host = `host${names++}.example`
      let path = 0
      const { server, socket } = yield* dialing(ReconnectingSocket.make({
        dial: Effect.sync(() => ({ url: `ws://${path === 0 ? host : "other.example"}/${path++}` })),
        backoff: steady
      }))
      yield* socket.send("a")
      assert.deepStrictEqual([statesOf(host), gaugesOf(host).messages], [{ Dialing: 1 }, 1])
      yield* server.refuse(503)
      yield* pass(1_000)
      yield* server.open
      assert.deepStrictEqual([statesOf(host), gaugesOf(host)], [{ Open: 1 }, none])
      assert.deepStrictEqual(statesOf("other.example"), {})
      yield* socket.close()
      assert.deepStrictEqual(statesOf(host), {})
    }))

  it.effect("W19: a dial that fails before there is a URL is counted as unknown", () =>
    Effect.scoped(Effect.gen(function*() {
      const before = valueOf("dials_total", { socket: "unknown", outcome: "transport" }) ?? 0
      yield* ReconnectingSocket.make({ dial: Effect.fail("no address") })
      yield* settle
      assert.strictEqual(valueOf("dials_total", { socket: "unknown", outcome: "transport" }), before + 1)
    })).pipe(Effect.provide(WebSocketDialer.layerTest)))
})
