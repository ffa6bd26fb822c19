/** Known faults of other reconnecting sockets, each as a test of what must hold here. */
import { assert, describe, it } from "@effect/vitest"
import * as Backoff from "effect-holdfast/Backoff"
import { NodeWebSocketDialer } from "effect-holdfast/node"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Session from "effect-holdfast/Session"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import type { Socket } from "node:net"
import { eventually, serving } from "./support/loopbackWebSockets.js"
import { quiet } from "./support/quiet.js"
import {
  dial,
  failureOf,
  heard,
  isDone,
  ofTag,
  pass,
  recorded,
  serving as dialed,
  settle,
  steady,
  test
} from "./support/reconnectingSockets.js"

type Message = WebSocketDialer.Message

// -----------------------------------------------------------------------------
// a server that is the test
// -----------------------------------------------------------------------------

const numbered = (count: number, from = 0) => Array.from({ length: count }, (_, n) => `${from + n}`)

/** `ack 3` acknowledges all messages up to and including 3. */
const acknowledge = {
  id: (message: Message) => Number(message),
  acknowledged: (message: Message) =>
    String(message).startsWith("ack ") ? Option.some(Number(String(message).slice(4))) : Option.none()
}

// -----------------------------------------------------------------------------
// a server on the loopback
// -----------------------------------------------------------------------------

const live = (
  name: string,
  effect: () => Effect.Effect<unknown, unknown, Scope.Scope | WebSocketDialer.WebSocketDialer>
) => it.scopedLive(name, () => Effect.provide(effect(), Layer.merge(NodeWebSocketDialer.layer(), quiet)))

/** How long the effect takes, in milliseconds. */
const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.timed(effect), ([duration]) => Duration.toMillis(duration))

const quick = Backoff.exponential({ initial: "5 millis", max: "20 millis" })

// -----------------------------------------------------------------------------

describe("the queue", () => {
  test("of ten thousand messages is sent before any time has passed", () =>
    Effect.gen(function*() {
      const server = yield* dialed
      const socket = yield* ReconnectingSocket.make({ dial, outbox: { capacity: 10_000 } })
      for (const message of numbered(10_000)) yield* socket.send(message)
      const peer = yield* server.open
      yield* Effect.repeatN(settle, 60)
      assert.deepStrictEqual(peer.got, numbered(10_000))
      assert.strictEqual(yield* Clock.currentTimeMillis, 0)
    }))

  test("W1: is not overtaken by messages that are sent while it drains, and keeps its order after a loss", () =>
    Effect.gen(function*() {
      const server = yield* dialed
      const socket = yield* ReconnectingSocket.make({ dial, backoff: steady, acknowledge, outbox: { window: 8 } })
      for (const message of numbered(100)) yield* socket.send(message)
      const { open } = yield* server.next
      const first = yield* Effect.flatMap(open(), heard)
      for (const message of numbered(50, 100)) {
        yield* socket.send(message)
        yield* Effect.yieldNow()
      }
      yield* first.reset
      for (const message of numbered(50, 150)) yield* socket.send(message)
      yield* settle
      assert.deepStrictEqual(first.got, numbered(first.got.length))
      yield* pass(1000)
      const second = yield* server.open
      yield* settle
      assert.deepStrictEqual(second.got, numbered(200))
    }))

  test("takes messages before the first open by default", () =>
    Effect.gen(function*() {
      const server = yield* dialed
      const socket = yield* ReconnectingSocket.make({ dial })
      yield* socket.send("before the first open")
      assert.deepStrictEqual((yield* server.open).got, ["before the first open"])
    }))

  test("that is full drops nothing silently, and neither does a loss or the end", () =>
    Effect.gen(function*() {
      const server = yield* dialed
      const socket = yield* ReconnectingSocket.make({
        dial,
        backoff: steady,
        outbox: { capacity: 2, overflow: "dropOldest" }
      })
      const events = yield* recorded(socket.events)
      for (const message of ["a", "b", "c"]) yield* socket.send(message)
      const peer = yield* server.open
      yield* peer.stall
      yield* socket.send("d")
      yield* settle
      yield* peer.reset
      yield* settle
      yield* socket.send("e")
      yield* socket.close()
      yield* settle
      assert.deepStrictEqual(
        ofTag(events.all, "Dropped").map(({ message, reason }) => [message, reason]),
        [["a", "Overflow"], ["d", "Lost"], ["e", "Closed"]]
      )
      assert.deepStrictEqual(peer.got, ["b", "c"])
    }))

  test("W7: sends nothing stale: a message has a time to live, and its sender can be interrupted", () =>
    Effect.gen(function*() {
      const server = yield* dialed
      const socket = yield* ReconnectingSocket.make({ dial, backoff: steady, outbox: { timeToLive: "5 seconds" } })
      const stale = yield* Effect.fork(socket.deliver("stale"))
      const back = yield* Effect.fork(Effect.timeoutOption(socket.deliver("taken back"), "3 seconds"))
      yield* server.next
      yield* pass(3_000)
      yield* socket.send("fresh")
      yield* pass(4_999)
      assert.isTrue(Option.isNone(yield* Fiber.join(back)))
      assert.strictEqual(failureOf(yield* Fiber.await(stale))._tag, "MessageExpired")
      yield* socket.reconnect({ backoff: false })
      const peer = yield* server.open
      assert.deepStrictEqual(peer.got, ["fresh"])
    }))

  live(
    "is not written into a connection and forgotten: of 5,000 none is lost if the server dies at its first read",
    () =>
      Effect.gen(function*() {
        const server = yield* serving()
        const socket = yield* ReconnectingSocket.make({
          dial: { url: server.url },
          backoff: quick,
          acknowledge,
          outbox: { capacity: 5_000 }
        })
        for (const message of numbered(5_000)) yield* socket.send(message)
        const first = yield* server.accept
        first.socket.once("message", () => first.socket.terminate())
        const second = yield* server.accept
        yield* eventually(() => second.got.length >= 5_000)
        assert.deepStrictEqual(second.got, numbered(5_000))
        second.socket.send("ack 4999")
        yield* socket.flush
      })
  )

  live(
    "loses at most the window without acknowledgements, reports the losses, and keeps the rest in order",
    () =>
      Effect.gen(function*() {
        const server = yield* serving()
        const lost: Array<unknown> = []
        const socket = yield* ReconnectingSocket.make({
          dial: { url: server.url },
          backoff: quick,
          outbox: { capacity: 5_000, window: 4_000 }
        })
        yield* Effect.forkScoped(Stream.runForEach(socket.events, (event) =>
          Effect.sync(() =>
            event._tag === "Dropped" && lost.push(event.message)
          )))
        const padded = numbered(5_000).map((n) =>
          n.padEnd(1_000, " ")
        )
        yield* socket.awaitOpen
        const first = yield* server.accept
        first.socket.pause()
        for (const message of padded) {
          yield* socket.send(message)
        }
        yield* Effect.sleep("20 millis")
        first.socket.terminate()
        const second = yield* server.accept
        yield* eventually(() => second.got.at(-1) === padded.at(-1))
        assert.isAtMost(lost.length, 4)
        const start = padded.length - second.got.length
        assert.deepStrictEqual(second.got, padded.slice(start))
      })
  )
})

describe("a close frame", () => {
  for (const code of [1000, 1001] as const) {
    live(`of the server with ${code} is noticed, and answered by a new connection`, () =>
      Effect.gen(function*() {
        const server = yield* serving()
        const socket = yield* ReconnectingSocket.make({ dial: { url: server.url }, backoff: quick })
        const first = yield* server.accept
        first.socket.close(code)
        const second = yield* server.accept
        yield* socket.deliver("after")
        yield* eventually(() => second.got.length === 1)
        assert.deepStrictEqual(first.got, [])
      }))
  }

  live(
    "W6: of the server with 1008 is noticed: from then on nothing is sent",
    () =>
      Effect.gen(function*() {
        const server = yield* serving()
        const socket = yield* ReconnectingSocket.make({ dial: { url: server.url }, backoff: quick })
        const { socket: peer } = yield* server.accept
        peer.close(1008, "policy")
        const error = failureOf(yield* Effect.exit(Stream.runDrain(socket.messages)))
        assert.deepStrictEqual(error.failure, new WebSocketDialer.ConnectionClosed({ code: 1008, reason: "policy" }))
        assert.strictEqual((yield* Effect.flip(socket.send("late")))._tag, "SocketClosed")
        yield* eventually(() => server.transports.size === 0)
        assert.strictEqual(server.dials(), 1)
      })
  )

  test("W4: with 1000 that arrives when the network is back is a loss like any other", () =>
    Effect.gen(function*() {
      const server = yield* dialed
      const socket = yield* ReconnectingSocket.make({ dial, backoff: steady })
      const events = yield* recorded(socket.events)
      yield* Effect.flatMap(server.open, ({ reset }) => reset)
      yield* pass(1000)
      yield* Effect.flatMap(server.open, ({ close }) => close(1000))
      yield* pass(2000)
      yield* server.open
      assert.strictEqual((yield* socket.state)._tag, "Open")
      assert.lengthOf(ofTag(events.all, "Lost"), 2)
    }))

  test("W4: of this side is the last event", () =>
    Effect.gen(function*() {
      const server = yield* dialed
      const socket = yield* ReconnectingSocket.make({ dial })
      const events = yield* recorded(socket.events)
      yield* server.open
      yield* socket.close(4000, "done")
      yield* Fiber.join(events.fiber)
      assert.deepStrictEqual(events.all.at(-1), {
        _tag: "Closed",
        info: { code: 4000, reason: "done", failure: Option.none() }
      })
    }))
})

describe("writers", () => {
  live("W1: in hundreds, with pings and subscriptions in between, break no frame", () =>
    Effect.gen(function*() {
      const server = yield* serving()
      const socket = yield* ReconnectingSocket.make({
        dial: { url: server.url },
        backoff: quick,
        heartbeat: { interval: "1 millis", timeout: "3 seconds" },
        outbox: { capacity: 10_000, overflow: "suspend" }
      })
      const { got, socket: peer } = yield* server.accept
      yield* socket.awaitOpen
      let pings = 0
      peer.on("ping", () => pings++)
      const text = (n: number) => `${n}:${"x".repeat((n * 37) % 3000)}`
      yield* Effect.forEach(
        Array.from({ length: 200 }, (_, writer) => writer),
        (writer) =>
          Effect.forEach(Array.from({ length: 20 }, (_, n) => writer * 20 + n), (n): Effect.Effect<void, unknown> =>
            n % 50 === 0
              ? Effect.scoped(socket.subscribe({ open: text(n), close: "-" }))
              : Effect.zipRight(Effect.yieldNow(), n % 2 === 0 ? socket.send(text(n)) : socket.deliver(text(n))), {
            discard: true
          }),
        { concurrency: "unbounded", discard: true }
      )
      yield* socket.flush
      yield* eventually(() =>
        got.length >= 4_080
      )
      const places = new Map(got.map((message, place) => [message, place]))
      let last = -1
      for (let n = 0; n < 4000; n++) {
        const place = places.get(text(n))
        assert.isDefined(place, `${n} is missing or torn`)
        if (n % 20 === 0) {
          last = -1
        }
        assert.isAbove(place!, last, "of one writer, in order")
        last = place!
      }
      yield* eventually(() =>
        pings > 0
      )
      assert.strictEqual(server.dials(), 1)
    }))

  test("W9a: are not sent before a slow onOpen has ended", () =>
    Effect.gen(function*() {
      const server = yield* dialed
      const socket = yield* ReconnectingSocket.make({
        dial,
        onOpen: ({ send }) => Effect.zipRight(Effect.sleep("5 seconds"), send("login"))
      })
      yield* socket.send("queued")
      const peer = yield* server.open
      yield* socket.send("live")
      yield* pass(4_999)
      assert.deepStrictEqual(peer.got, [])
      yield* pass(1)
      assert.deepStrictEqual(peer.got, ["login", "queued", "live"])
    }))

  live("W9a: that were queued reach the server after the login, on each connection", () =>
    Effect.gen(function*() {
      const server = yield* serving()
      const socket = yield* ReconnectingSocket.make({
        dial: { url: server.url },
        backoff: quick,
        onOpen: ({ receive, send }) => Effect.zipRight(send("login"), receive)
      })
      for (let round = 0; round < 5; round++) {
        const { got, socket: peer } = yield* server.accept
        yield* socket.send(`${round}`)
        yield* eventually(() => got.length === 1)
        yield* Effect.sleep("5 millis")
        assert.deepStrictEqual(got, ["login"])
        peer.send("ok")
        yield* eventually(() => got.length === 2)
        assert.deepStrictEqual(got, ["login", `${round}`])
        peer.terminate()
      }
    }))

  test("W8: never send an empty frame for a message that cannot be encoded", () =>
    Effect.gen(function*() {
      const server = yield* dialed
      const socket = yield* ReconnectingSocket.make({
        dial,
        codec: ReconnectingSocket.json({ in: Schema.Unknown, out: Schema.Unknown })
      })
      const peer = yield* server.open
      for (const bad of [() => 1, 1n, undefined, Symbol("x")]) {
        assert.strictEqual((yield* Effect.flip(socket.send(bad)))._tag, "EncodeError")
      }
      yield* socket.send("good")
      yield* settle
      assert.deepStrictEqual(peer.got, [`"good"`])
    }))
})

describe("a peer that reads nothing", () => {
  live(
    "W13: blocks neither reading the state nor `close` within its bound",
    () =>
      Effect.gen(function*() {
        const server = yield* serving()
        const socket = yield* ReconnectingSocket.make({
          dial: { url: server.url },
          backoff: quick,
          outbox: { bytes: 64 * 1024 * 1024 }
        })
        const { socket: peer } = yield* server.accept
        yield* socket.awaitOpen
        peer.pause()
        const large = new Uint8Array(1024 * 1024)
        for (let n = 0; n < 32; n++) yield* socket.send(large)
        yield* Effect.sleep("50 millis")
        assert.strictEqual((yield* socket.state)._tag, "Open")
        // The peer has two seconds, and a write has ten.
        const took = yield* timed(socket.close())
        assert.isBelow(took, 20_000)
        // A server that does not read does not notice the end either.
        peer.resume()
        yield* eventually(() => server.transports.size === 0)
      })
  )

  live(
    "is found within the heartbeat's interval and timeout, though its transport looks open",
    () =>
      Effect.gen(function*() {
        const server = yield* serving()
        const socket = yield* ReconnectingSocket.make({
          dial: { url: server.url },
          backoff: quick,
          heartbeat: { interval: "100 millis", timeout: "100 millis" }
        })
        const { socket: peer } = yield* server.accept
        yield* socket.awaitOpen
        const lost = yield* Effect.fork(Stream.runHead(Stream.filter(socket.events, ({ _tag }) => _tag === "Lost")))
        peer.pause()
        const took = yield* timed(Fiber.join(lost))
        // By default that is after 25 seconds.
        assert.isBelow(took, 20_000)
        yield* server.accept
      })
  )

  test("W4: is found after a sleep, whatever the platform reports about the connection", () =>
    Effect.gen(function*() {
      const server = yield* dialed
      const socket = yield* ReconnectingSocket.make({ dial, backoff: steady })
      const events = yield* recorded(socket.events)
      const peer = yield* server.open
      yield* pass(1_000)
      yield* peer.stall
      // The machine was suspended: no timer fired in time.
      yield* pass(600_000)
      assert.deepInclude(ofTag(events.all, "Lost")[0]!.failure as object, { reason: "HeartbeatTimeout" })
    }))
})

describe("close", () => {
  live("W13: within the handler of a message does not wait for itself", () =>
    Effect.gen(function*() {
      const server = yield* serving()
      const socket = yield* ReconnectingSocket.make({ dial: { url: server.url } })
      const { socket: peer } = yield* server.accept
      peer.send("stop")
      yield* Stream.runForEach(socket.messages, () => socket.close(4000))
      yield* eventually(() => server.transports.size === 0)
    }))

  test("W13: does not wait for the backoff's delay", () =>
    Effect.gen(function*() {
      const server = yield* dialed
      const socket = yield* ReconnectingSocket.make({ dial, backoff: Schedule.spaced("1 hours") })
      yield* server.refuse(503)
      assert.strictEqual((yield* socket.state)._tag, "Waiting")
      yield* socket.close()
      assert.strictEqual(yield* Clock.currentTimeMillis, 0)
    }))

  live("W7: during a dial leaves no connection behind", () =>
    Effect.gen(function*() {
      const held: Array<Socket> = []
      const server = yield* serving((socket) => {
        held.push(socket)
        socket.resume()
        socket.on("end", () => socket.destroy())
        socket.on("error", () => {})
        return true
      })
      const socket = yield* ReconnectingSocket.make({ dial: { url: server.url } })
      yield* eventually(() => held.length === 1)
      // By default an attempt to connect has ten seconds.
      assert.isBelow(yield* timed(socket.close()), 8_000)
      yield* eventually(() => server.transports.size === 0)
    }))

  test("W7: during a dial that has just succeeded leaves no connection behind", () =>
    Effect.gen(function*() {
      const server = yield* dialed
      const socket = yield* ReconnectingSocket.make({ dial })
      const { open } = yield* server.next
      const peer = yield* open()
      yield* socket.close()
      yield* peer.ended
      assert.strictEqual((yield* socket.state)._tag, "Closed")
    }))

  test("W7: is final: the socket never reconnects", () =>
    Effect.gen(function*() {
      const server = yield* dialed
      const socket = yield* ReconnectingSocket.make({ dial, backoff: steady, renewAfter: "1 minutes" })
      const peer = yield* server.open
      yield* Effect.all([socket.close(), peer.reset, socket.reconnect({ backoff: false }), peer.close(1001)], {
        concurrency: "unbounded"
      })
      yield* socket.reconnect({ backoff: false })
      yield* pass(86_400_000)
      assert.lengthOf(server.times, 1)
      assert.strictEqual((yield* socket.state)._tag, "Closed")
    }))
})

describe("attempts", () => {
  test("W5: after a failed login come one at a time, with the backoff in between", () =>
    Effect.gen(function*() {
      const server = yield* dialed
      let logins = 0
      let most = 0
      yield* ReconnectingSocket.make({
        dial,
        backoff: Schedule.spaced("1 seconds"),
        onOpen: () =>
          Effect.acquireUseRelease(
            Effect.sync(() => {
              most = Math.max(most, ++logins)
            }),
            () => Effect.fail("no"),
            () => Effect.sync(() => logins--)
          )
      })
      for (let n = 0; n < 6; n++) {
        yield* server.open
        assert.lengthOf(server.unanswered, 0)
        yield* pass(1_000)
      }
      assert.deepStrictEqual(server.times, [0, 1000, 2000, 3000, 4000, 5000, 6000])
      assert.strictEqual(most, 1)
    }))

  test("W4: happen once for each loss, however many causes and callers there are", () =>
    Effect.gen(function*() {
      const server = yield* dialed
      const socket = yield* ReconnectingSocket.make({ dial, backoff: steady })
      const peer = yield* server.open
      yield* Effect.all(
        [
          socket.reconnect({ backoff: false }),
          peer.reset,
          socket.reconnect({ backoff: false }),
          peer.close(1006),
          socket.send("x"),
          socket.reconnect({ backoff: false })
        ],
        { concurrency: "unbounded" }
      )
      yield* settle
      assert.lengthOf(server.times, 2)
      yield* server.open
      yield* pass(60_000)
      assert.lengthOf(server.times, 2)
    }))

  test("W3: also have a delay before the first of them", () =>
    Effect.gen(function*() {
      const server = yield* dialed
      yield* ReconnectingSocket.make({ dial, backoff: steady })
      yield* Effect.flatMap(server.open, ({ reset }) => reset)
      yield* pass(999)
      assert.lengthOf(server.times, 1)
      yield* pass(1)
      assert.lengthOf(server.times, 2)
    }))

  test("W3: have delays that are never rounded to zero and grow with each attempt", () =>
    Effect.gen(function*() {
      const server = yield* dialed
      const socket = yield* ReconnectingSocket.make({
        dial,
        backoff: Backoff.exponential({ initial: "1 millis", factor: 1.5, jitter: "none" })
      })
      const events = yield* recorded(socket.events)
      for (let n = 0; n < 12; n++) {
        yield* server.refuse(503)
        yield* pass(100)
      }
      const delays = ofTag(events.all, "Waiting").map(({ delay }) => Duration.toMillis(delay))
      assert.lengthOf(delays, 12)
      for (const [n, delay] of delays.entries()) {
        assert.isAbove(delay, 0)
        if (n > 0) assert.isAtLeast(delay, delays[n - 1]!)
      }
      assert.isAtLeast(delays.at(-1)!, 80)
    }))

  test("W3: have delays that neither overflow nor exceed the cap after two hundred failures", () =>
    Effect.gen(function*() {
      const waits: Array<number> = []
      const socket = yield* ReconnectingSocket.make({
        dial,
        backoff: Backoff.exponential({ initial: "1 millis", max: "50 millis", jitter: "none" })
      }).pipe(
        Effect.provideService(WebSocketDialer.WebSocketDialer, {
          dial: () =>
            Effect.flatMap(Clock.currentTimeMillis, (now) => {
              waits.push(now)
              return new WebSocketDialer.DialError({ reason: "Transport", url: "" })
            })
        })
      )
      yield* TestClock.adjust(50 * 200)
      const deltas = waits.slice(1).map((time, n) => time - waits[n]!)
      assert.isAbove(deltas.length, 190)
      assert.deepStrictEqual(new Set(deltas.slice(6)), new Set([50]))
      yield* socket.close()
    }))

  test("W3: of a hundred clients that have all reached the cap are spread", () =>
    Effect.gen(function*() {
      const server = yield* dialed
      const sockets = yield* Effect.forEach(Array.from({ length: 100 }), () =>
        ReconnectingSocket.make({ dial, backoff: Backoff.exponential({ initial: "1 seconds", max: "1 seconds" }) }))
      for (const _ of sockets) {
        yield* server.refuse(503)
      }
      yield* TestClock.adjust("1 seconds")
      yield* settle
      const times = server.times.slice(100)
      assert.lengthOf(times, 100)
      assert.isAtLeast(new Set(times).size, 80)
      assert.isAtMost(
        times.filter((time) =>
          time > 900
        ).length,
        40
      )
      assert.isAtLeast(times.filter((time) => time < 500).length, 25)
    }))

  live(
    "end with an upgrade that is refused with 401, if there is no session to refresh",
    () =>
      Effect.gen(function*() {
        const server = yield* serving((socket) => {
          socket.end("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
          return true
        })
        const socket = yield* ReconnectingSocket.make({ dial: { url: server.url }, backoff: quick })
        const error = yield* Effect.flip(socket.awaitOpen)
        assert.deepInclude((error as ReconnectingSocket.SocketFailed).failure as object, {
          reason: "Refused",
          status: 401
        })
        yield* Effect.sleep("100 millis")
        assert.strictEqual(server.dials(), 1)
      })
  )

  test("W13: with a value that is always refused do not go on for ever without a delay", () =>
    Effect.gen(function*() {
      const server = yield* dialed
      let refreshes = 0
      const session = yield* Session.make({ acquire: Effect.succeed(0), renew: () => Effect.sync(() => ++refreshes) })
      yield* ReconnectingSocket.make({ dial, backoff: steady, session: { session, attach: (request) => request } })
      for (let n = 0; n < 2; n++) yield* server.refuse(401)
      assert.lengthOf(server.unanswered, 0)
      for (const delay of [1_000, 2_000, 4_000]) {
        yield* pass(delay)
        yield* server.refuse(401)
      }
      assert.deepStrictEqual(server.times, [0, 0, 1_000, 3_000, 7_000])
    }))

  test("W3: go on after the effect that gives the address has failed", () =>
    Effect.gen(function*() {
      const server = yield* dialed
      let asked = 0
      const socket = yield* ReconnectingSocket.make({
        dial: Effect.suspend(() => asked++ < 3 ? Effect.fail("no address") : Effect.succeed(dial)),
        backoff: Schedule.spaced("1 seconds")
      })
      yield* pass(3_000)
      yield* server.open
      assert.strictEqual((yield* socket.state)._tag, "Open")
      assert.strictEqual(asked, 4)
    }))

  test("W13: can be requested as long as the schedule gives any; afterwards every caller gets an error", () =>
    Effect.gen(function*() {
      const server = yield* dialed
      const socket = yield* ReconnectingSocket.make({
        dial,
        backoff: Schedule.recurs(1).pipe(Schedule.addDelay(() => "1 hours"))
      })
      yield* server.refuse(503)
      yield* socket.reconnect({ backoff: false })
      yield* server.refuse(503)
      assert.strictEqual((yield* socket.state)._tag, "Closed")
      yield* socket.reconnect({ backoff: false })
      assert.strictEqual((yield* Effect.flip(socket.awaitOpen))._tag, "SocketFailed")
      assert.strictEqual((yield* Effect.flip(socket.send("x")))._tag, "SocketClosed")
      assert.strictEqual(failureOf(yield* Effect.exit(Stream.runDrain(socket.messages)))._tag, "SocketFailed")
    }))
})

describe("a heartbeat", () => {
  test("W4: whose timeout is shorter or longer than its interval keeps healthy peers", () =>
    Effect.gen(function*() {
      const server = yield* dialed
      for (
        const [interval, timeout] of [["4 seconds", "100 millis"], ["200 millis", "4 seconds"], [
          "1 seconds",
          "1 seconds"
        ]] as const
      ) {
        const socket = yield* ReconnectingSocket.make({ dial, heartbeat: { interval, timeout } })
        const events = yield* recorded(socket.events)
        yield* server.open
        yield* pass(8_500)
        assert.lengthOf(ofTag(events.all, "Lost"), 0)
        yield* socket.close()
      }
    }))

  live("W4: pings without being configured", () =>
    Effect.gen(function*() {
      const server = yield* serving()
      yield* ReconnectingSocket.make({ dial: { url: server.url }, heartbeat: { interval: "20 millis" } })
      const { socket } = yield* server.accept
      let pings = 0
      socket.on("ping", () => pings++)
      yield* eventually(() => pings >= 3)
      assert.strictEqual(server.dials(), 1)
    }))
})

describe("events", () => {
  test("go to each reader from the start of its reading, whatever other readers do", () =>
    Effect.gen(function*() {
      const server = yield* dialed
      const socket = yield* ReconnectingSocket.make({ dial, backoff: Schedule.spaced("1 seconds") })
      const steadfast = yield* recorded(socket.events)
      // Begins and ends with each event.
      yield* Effect.forkScoped(Effect.forever(Stream.runDrain(Stream.take(socket.events, 1))))
      for (let n = 0; n < 20; n++) {
        yield* Effect.flatMap(server.open, ({ reset }) => reset)
        yield* pass(1_000)
      }
      for (const tag of ["Opened", "Lost", "Waiting"] as const) assert.lengthOf(ofTag(steadfast.all, tag), 20)
    }))

  test("for a slow reader do not make the socket wait", () =>
    Effect.gen(function*() {
      const server = yield* dialed
      const socket = yield* ReconnectingSocket.make({ dial, backoff: Schedule.spaced("1 seconds") })
      yield* Effect.forkScoped(Stream.runForEach(socket.events, () => Effect.never))
      yield* Effect.forkScoped(Stream.runForEach(socket.stateChanges, () => Effect.die("a reader's own fault")))
      for (let n = 0; n < 5; n++) {
        yield* Effect.flatMap(server.open, ({ reset }) => reset)
        yield* pass(1_000)
      }
      yield* server.open
      assert.strictEqual((yield* socket.state)._tag, "Open")
    }))

  live("also have the reason why reading failed", () =>
    Effect.gen(function*() {
      const server = yield* serving()
      const socket = yield* ReconnectingSocket.make({ dial: { url: server.url }, backoff: Schedule.spaced("1 hours") })
      const waiting = Effect.map(socket.state, (state) => state._tag === "Waiting" ? state.failure : undefined)
      const failure = Effect.repeat(waiting, {
        until: (failure) => failure !== undefined,
        schedule: Schedule.spaced("2 millis")
      }).pipe(
        Effect.timeout("30 seconds"),
        Effect.zipRight(waiting)
      )
      yield* server.accept
      for (const transport of server.transports) transport.write(Uint8Array.of(0xc1, 0x01, 0x61))
      assert.deepInclude((yield* failure) as object, { _tag: "ConnectionLost", reason: "InvalidData" })
      yield* socket.reconnect({ backoff: false })
      yield* server.accept
      for (const transport of server.transports) transport.resetAndDestroy()
      yield* Effect.sleep("10 millis")
      assert.deepInclude((yield* failure) as object, { _tag: "ConnectionLost", reason: "Reset" })
    }))
})

describe("a connection that was renewed", () => {
  for (const how of ["reset", "close", "stall"] as const) {
    test(`W4: has a heartbeat like the first one (${how})`, () =>
      Effect.gen(function*() {
        const server = yield* dialed
        const socket = yield* ReconnectingSocket.make({ dial, backoff: steady, renewAfter: "40 seconds" })
        const events = yield* recorded(socket.events)
        yield* server.open
        yield* pass(40_000)
        const renewed = yield* server.open
        yield* how === "reset" ? renewed.reset : how === "close" ? renewed.close(1000) : renewed.stall
        yield* pass(how === "stall" ? 25_000 : 0)
        assert.lengthOf(ofTag(events.all, "Lost"), 1)
        yield* pass(1_000)
        const third = yield* server.open
        yield* socket.send("x")
        yield* settle
        assert.deepStrictEqual(third.got, ["x"])
      }))
  }

  test("is not lost together with the previous one", () =>
    Effect.gen(function*() {
      const server = yield* dialed
      const socket = yield* ReconnectingSocket.make({ dial, backoff: steady, renewAfter: "40 seconds" })
      const events = yield* recorded(socket.events)
      const first = yield* server.open
      yield* pass(40_000)
      const renewed = yield* server.open
      yield* first.reset
      yield* socket.send("x")
      yield* pass(10_000)
      assert.deepStrictEqual(renewed.got, ["x"])
      assert.lengthOf(ofTag(events.all, "Lost"), 0)
      assert.isFalse(yield* isDone(yield* Effect.fork(renewed.ended)))
    }))
})
