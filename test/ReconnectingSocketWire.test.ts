/** The socket over real connections to servers that die, stall, refuse and lie. */
import { assert, describe, it } from "@effect/vitest"
import * as Backoff from "effect-holdfast/Backoff"
import { NodeWebSocketDialer } from "effect-holdfast/node"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Session from "effect-holdfast/Session"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Chunk from "effect/Chunk"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Http from "node:http"
import * as Net from "node:net"
import { Duplex } from "node:stream"
import { WebSocket } from "ws"
import { serverCertificate } from "../examples/certificates.js"
import { amount, form } from "./support/form.js"
import { closeFrame, halfOpen, serving as loopbackServer } from "./support/loopbackWebSockets.js"
import { quiet } from "./support/quiet.js"
import { fatalCodes, retryableCodes } from "./support/reconnectingSockets.js"
import { eventually, hop, mebi, memory, print, resources, seeing, serverProcess } from "./support/webSocketServer.js"

type Message = WebSocketDialer.Message

const quick = Backoff.exponential({ initial: "5 millis", max: "50 millis" })

/** How many times longer a busy machine may take than an idle one. */
const busy = 10

const test = <E>(
  what: string,
  effect: () => Effect.Effect<unknown, E, Scope.Scope | WebSocketDialer.WebSocketDialer>,
  dialer = NodeWebSocketDialer.layer()
) => it.scopedLive(what, () => Effect.provide(effect(), Layer.merge(dialer, quiet)))

const socketTo = (
  url: string,
  options: Omit<ReconnectingSocket.Options<Message, Message>, "dial"> = {}
) => ReconnectingSocket.make<Message, Message>({ dial: { url }, backoff: quick, heartbeat: false, ...options })

const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.timed(effect), ([took, value]) => [Duration.toMillis(took), value] as const)

const numbered = (count: number) => Array.from({ length: count }, (_, n) => n)

/** The echo of one more message: the socket works. */
const answers = (socket: ReconnectingSocket.ReconnectingSocket<Message, Message>) =>
  Effect.gen(function*() {
    yield* socket.send("are you there?")
    const first = yield* Stream.runHead(socket.messages)
    assert.deepStrictEqual(first, Option.some<Message>("are you there?"))
  })

describe("a server that is killed", () => {
  const kills = amount({ quick: 4, full: 20 })
  const perRound = 500
  const count = kills * perRound

  test("W9: while messages are sent, many times: none overtakes or repeats, and losses are events", () =>
    Effect.gen(function*() {
      const server = yield* serverProcess()
      const socket = yield* socketTo(server.url("/log?id=plain"), { outbox: { overflow: "suspend" } })
      const seen = yield* seeing(socket)
      const outcomes = new Map<number, "written" | "lost">()
      let next = 0
      const deliver = (n: number, filler: string) =>
        Effect.map(Effect.either(socket.deliver(`${n}:${filler}`)), (outcome) => {
          if (Either.isRight(outcome)) outcomes.set(n, "written")
          else if (outcome.left._tag === "MessageLost") outcomes.set(n, "lost")
        })
      const some = (many: number, filler: string) => {
        const numbers = numbered(many).map((n) => next + n)
        next += many
        return Effect.fork(
          Effect.forEach(numbers, (n) => deliver(n, filler), { concurrency: "unbounded", discard: true })
        )
      }
      const unmoved = Effect.gen(function*() {
        for (let before = -1; before !== outcomes.size;) {
          before = outcomes.size
          yield* Effect.sleep("20 millis")
        }
      })

      for (let kill = 0; kill < kills; kill++) {
        yield* socket.awaitOpen
        const before = server.received("plain").length
        const one = yield* some(perRound / 2, "")
        let other: Fiber.RuntimeFiber<void> | undefined
        yield* eventually(() => server.received("plain").length > before)
        if (kill % 2 === 0) {
          yield* eventually(() => server.received("plain").length > before + perRound * 0.2)
          server.unsafeKill()
        } else {
          // More than the system buffers for a peer that does not read, so that the server dies during a write.
          server.unsafeStop()
          other = yield* some(perRound / 2, "x".repeat(64 * 1024))
          yield* unmoved
          server.unsafeKill()
        }
        other ??= yield* some(perRound / 2, "")
        yield* server.gone
        yield* server.start()
        yield* Fiber.join(one)
        yield* Fiber.join(other)
      }
      yield* socket.close()

      const received = server.received("plain").map(Number)
      assert.isTrue(received.every((n, place) => place === 0 || n > received[place - 1]!), "in order, none twice")
      const arrived = new Set(received)
      const dropped = new Set(
        seen.of("Dropped").map(({ message, reason }) => {
          assert.strictEqual(reason, "Lost")
          return Number(String(message).split(":")[0])
        })
      )
      assert.strictEqual(outcomes.size, count)
      const withOutcome = (outcome: string) => [...outcomes].filter(([, is]) => is === outcome).map(([n]) => n)
      assert.deepStrictEqual([...dropped].sort((a, b) => a - b), withOutcome("lost").sort((a, b) => a - b))
      const missing = numbered(count).filter((n) => !arrived.has(n))
      for (const n of missing) assert.isTrue(dropped.has(n) || outcomes.get(n) === "written")
      assert.strictEqual(seen.of("Opened").length, kills + 1)
      assert.strictEqual(seen.of("Lost").length, kills)
      print(
        `killed ${kills} times in ${count} sends: ${arrived.size} arrived, ${missing.length} did not`
          + ` (${missing.filter((n) => dropped.has(n)).length} reported as dropped, the others had been written)`
      )
      assert.isAbove(dropped.size, 0)
    }))

  const acknowledge = {
    id: (message: Message) => message,
    acknowledged: (message: Message) =>
      typeof message === "string" && message.startsWith("ack:") ? Option.some(message.slice(4)) : Option.none()
  }

  /** The messages of a server that ignores repeats. */
  const unrepeated = (received: ReadonlyArray<string>) => {
    const kept: Array<number> = []
    for (const line of received) if (Number(line) > (kept.at(-1) ?? -1)) kept.push(Number(line))
    return kept
  }

  test("W9: while messages are sent, many times: it has received each acknowledged message, in order", () =>
    Effect.gen(function*() {
      const server = yield* serverProcess()
      const socket = yield* socketTo(server.url("/log?id=kept&acknowledge"), {
        acknowledge,
        outbox: { overflow: "suspend", capacity: 400 }
      })
      const seen = yield* seeing(socket)
      const sending = yield* Effect.fork(Effect.forEach(numbered(count), (n) => socket.send(`${n}`), { discard: true }))
      for (let kill = 0; kill < kills; kill++) {
        yield* seen.nth("Opened", kill + 1)
        yield* eventually(() => Number(server.received("kept").at(-1) ?? -1) > (kill + 0.5) * perRound)
        server.unsafeKill()
        yield* server.gone
        yield* server.start()
      }
      yield* Fiber.join(sending)
      yield* socket.flush
      const received = server.received("kept")
      assert.deepStrictEqual(unrepeated(received), numbered(count))
      assert.deepStrictEqual(seen.of("Dropped"), [])
      assert.strictEqual(seen.of("Lost").length, kills)
      print(`killed ${kills} times in ${count} acknowledged sends: ${received.length - count} repeats, none missing`)
    }))

  test("W9: while it reads the first of 5,000 queued messages loses none, with `acknowledge`", () =>
    Effect.gen(function*() {
      const server = yield* serverProcess({ isStarted: false })
      const socket = yield* socketTo(server.url("/log?id=queued&acknowledge"), {
        acknowledge,
        outbox: { capacity: 5000 }
      })
      const seen = yield* seeing(socket)
      yield* Effect.forEach(numbered(5000), (n) => socket.send(`${n}`), { discard: true })
      assert.strictEqual((yield* Effect.flip(socket.send("one too many")))._tag, "OutboxFull")
      yield* server.start({ isToDie: true })
      yield* server.gone
      assert.deepStrictEqual(server.received("queued"), [])
      yield* server.start()
      yield* socket.flush
      assert.deepStrictEqual(unrepeated(server.received("queued")), numbered(5000))
      assert.deepStrictEqual(seen.of("Dropped"), [])
    }))
})

describe("a peer that does not read", () => {
  const message = "x".repeat(64 * 1024)

  test("W4: loses its connection after the write timeout, and the outbox stays within its capacity", () =>
    Effect.gen(function*() {
      const server = yield* serverProcess()
      const writeTimeout = 500
      const before = yield* memory
      const socket = yield* socketTo(server.url("/deaf"), {
        writeTimeout,
        outbox: { capacity: 128, overflow: "suspend" }
      })
      const seen = yield* seeing(socket)
      yield* socket.awaitOpen
      const accepted = [Date.now()]
      // A string is shared, however often it is sent: the test counts what is kept besides.
      yield* Effect.forkScoped(Effect.forever(Effect.tap(socket.send(message), () => {
        accepted.push(Date.now())
      })))
      const { at, event } = yield* seen.nth("Lost", 1)
      assert.deepInclude(event.failure, { _tag: "ConnectionLost", reason: "WriteTimeout" })
      const took = Math.max(...accepted.filter((time) => time <= at).map((time, n) => time - (accepted[n - 1] ?? time)))
      assert.isBelow(took, busy * writeTimeout)
      yield* seen.nth("Lost", 3)
      const after = yield* memory
      print(
        `a peer that does not read: WriteTimeout after ${took} ms in which it took nothing (bound ${writeTimeout}),`
          + ` ${((after - before) / mebi).toFixed(1)} MiB after three of them`
      )
      assert.isBelow(after - before, 32 * mebi)
    }))

  test("W13: does not delay `close` for more than 2 seconds", () =>
    Effect.gen(function*() {
      const server = yield* serverProcess()
      const socket = yield* socketTo(server.url("/deaf"), {
        writeTimeout: "1 minute",
        outbox: { capacity: 1024, overflow: "fail", bytes: 64 * mebi }
      })
      const seen = yield* seeing(socket)
      yield* socket.awaitOpen
      yield* Effect.forEach(numbered(400), () => socket.send(message), { discard: true })
      const [took] = yield* timed(socket.close())
      print(`closing one whose peer does not read: ${took.toFixed(0)} ms`)
      assert.isBelow(took, busy * 2000)
      assert.isAbove(seen.of("Dropped").length, 0)
    }))
})

describe("a connection that drops all data", { concurrent: true }, () => {
  test("W4: is noticed after the heartbeat's interval and timeout, and replaced", () =>
    Effect.gen(function*() {
      const server = yield* serverProcess()
      const way = yield* hop(server.port)
      const [interval, timeout] = [300, 200]
      const socket = yield* socketTo(way.url("/echo"), { heartbeat: { interval, timeout } })
      const seen = yield* seeing(socket)
      const since = Date.now()
      yield* answers(socket)
      yield* way.swallow
      yield* socket.send("into the void")
      const { at, event } = yield* seen.nth("Lost", 1)
      assert.deepInclude(event.failure, { _tag: "ConnectionLost", reason: "HeartbeatTimeout" })
      print(`half-open: noticed after ${at - since} ms (interval ${interval} + timeout ${timeout})`)
      assert.isAtLeast(at - since, interval + timeout - 50)
      assert.isBelow(at - since, busy * (interval + timeout))
      yield* seen.nth("Opened", 2)
      yield* answers(socket)
    }))

  test("W4: that answers the heartbeat is kept, however long it is silent otherwise", () =>
    Effect.gen(function*() {
      const server = yield* serverProcess()
      const socket = yield* socketTo(server.url("/echo"), { heartbeat: { interval: 20, timeout: 2000 } })
      const seen = yield* seeing(socket)
      yield* socket.awaitOpen
      // Longer than the time limit for an answer.
      yield* Effect.sleep("2500 millis")
      assert.deepStrictEqual(seen.of("Lost"), [])
    }))

  test("W4: that is being dialed is given up after the open timeout", () =>
    Effect.gen(function*() {
      const server = yield* serverProcess()
      const openTimeout = 200
      const since = Date.now()
      const socket = yield* socketTo(server.url("/silent?id=silent&bad=1"), { openTimeout })
      const seen = yield* seeing(socket)
      const { at, event } = yield* seen.nth("Waiting", 1)
      assert.deepInclude(event.failure, { _tag: "DialError", reason: "Timeout" })
      assert.isBelow(at - since, busy * openTimeout)
      yield* socket.awaitOpen
      yield* answers(socket)
    }))
})

describe("a reader that does not take messages", () => {
  test("makes the server wait, and costs no memory; afterwards it gets all messages, in order", () =>
    Effect.gen(function*() {
      const server = yield* serverProcess()
      const [count, bytes] = [50_000, 1000]
      const before = yield* memory
      const socket = yield* socketTo(server.url(`/flood?count=${count}&bytes=${bytes}`), {
        inbox: { capacity: 100 },
        heartbeat: { interval: 50, timeout: 2000 }
      })
      const seen = yield* seeing(socket)
      let stopped = yield* server.report
      for (let again = -1; again !== stopped.flooded || again === 0;) {
        again = stopped.flooded
        yield* Effect.sleep("200 millis")
        stopped = yield* server.report
      }
      // Longer than the time limit for an answer.
      yield* Effect.sleep("2500 millis")
      const after = yield* memory
      print(
        "a reader that takes nothing: " +
          `the server stopped after ${stopped.flooded} of ${count} messages of ${bytes} bytes,`
          + ` ${((after - before) / mebi).toFixed(1)} MiB more here`
      )
      assert.isBelow(stopped.flooded, count / 2)
      assert.isBelow(after - before, 8 * mebi)

      const taken = yield* Stream.runCollect(Stream.take(socket.messages, count))
      const numbers = Chunk.toReadonlyArray(taken).map((message) => Number(String(message).split(":")[0]))
      assert.deepStrictEqual(numbers, numbered(count))
      // The pause does not count against the peer.
      assert.deepStrictEqual(seen.of("Lost"), [])
    }))
})

describe("a frame that no server should send", () => {
  const kinds: Readonly<Record<string, WebSocketDialer.ConnectionLost["reason"]>> = {
    truncated: "Reset",
    truncatedHead: "Reset",
    cut: "Reset",
    ended: "Reset",
    invalidText: "InvalidData",
    reservedOpcode: "InvalidData",
    masked: "InvalidData",
    reservedBits: "InvalidData",
    fragmentedPing: "InvalidData",
    strayContinuation: "InvalidData",
    invalidCloseCode: "InvalidData"
  }

  test("W4: ends the connection once, is not given out as a message, and the socket reconnects", () =>
    Effect.gen(function*() {
      const server = yield* serverProcess()
      for (const [kind, reason] of Object.entries(kinds)) {
        yield* Effect.scoped(Effect.gen(function*() {
          const socket = yield* socketTo(server.url(`/wrong?id=${kind}&bad=2&kind=${kind}`))
          const seen = yield* seeing(socket)
          yield* seen.nth("Opened", 3)
          yield* answers(socket)
          const lost = seen.of("Lost").map(({ failure }) =>
            failure._tag === "ConnectionLost" ? failure.reason : failure
          )
          assert.deepStrictEqual(lost, [reason, reason], kind)
        }))
      }
    }))

  for (const kind of ["huge", "hugeInPieces"]) {
    test(`W4: if far longer than \`maxPayload\` (${kind}), ends the connection without using that much memory`, () =>
      Effect.gen(function*() {
        const server = yield* serverProcess()
        const before = yield* memory
        let peak = 0
        yield* Effect.forkScoped(Effect.forever(Effect.zipRight(
          Effect.sleep("1 millis"),
          Effect.sync(() => {
            const { arrayBuffers, heapUsed } = process.memoryUsage()
            peak = Math.max(peak, heapUsed + arrayBuffers)
          })
        )))
        const socket = yield* socketTo(server.url(`/wrong?id=${kind}&bad=2&kind=${kind}`))
        const seen = yield* seeing(socket)
        yield* seen.nth("Opened", 3)
        for (const { failure } of seen.of("Lost")) {
          assert.deepInclude(failure, { _tag: "ConnectionLost", reason: "InvalidData" })
        }
        yield* answers(socket)
        print(`100 MiB sent (${kind}) twice: ${((peak - before) / mebi).toFixed(1)} MiB at the most, maxPayload 16 MiB`)
        assert.isBelow(peak - before, 80 * mebi)
      }))
  }
})

describe("a server that refuses the upgrade", () => {
  const fatal = [400, 401, 403, 404, 405, 410, 426]

  test("W6: is dialed again, except after fatal statuses", () =>
    Effect.gen(function*() {
      const server = yield* serverProcess()
      // The quick form uses every tenth of the statuses that are not fatal.
      const statuses = numbered(400).map((n) => n + 200).filter((status) =>
        form !== "quick" || status % 10 === 0 || fatal.includes(status)
      )
      const gaveUp = yield* Effect.filter(statuses, (status) =>
        Effect.scoped(Effect.gen(function*() {
          const socket = yield* socketTo(server.url(`/refuse?id=${status}&bad=2&status=${status}`))
          const seen = yield* seeing(socket)
          const opened = yield* Effect.either(socket.awaitOpen)
          if (Either.isRight(opened)) {
            for (const { failure } of seen.of("Waiting")) {
              assert.deepInclude(failure, { _tag: "DialError", reason: "Refused", status })
            }
            assert.strictEqual(seen.of("Waiting").length, 2)
            // There was never a connection.
            assert.deepStrictEqual(seen.of("Lost"), [])
            return false
          }
          const { left } = opened
          assert.strictEqual(left._tag, "SocketFailed")
          if (left._tag === "SocketFailed") assert.deepInclude(left.failure, { _tag: "DialError", status })
          assert.deepInclude(yield* Effect.flip(Stream.runDrain(socket.messages)), { _tag: "SocketFailed" })
          assert.strictEqual((yield* Effect.flip(socket.send("?")))._tag, "SocketClosed")
          return true
        })), { concurrency: 20 })
      assert.deepStrictEqual(gaveUp, fatal)
      assert.strictEqual((yield* server.report).upgrades, (statuses.length - fatal.length) * 3 + fatal.length)
    }))

  test("W3: and sends a Retry-After is not dialed before that", () =>
    Effect.gen(function*() {
      const server = yield* serverProcess()
      const socket = yield* socketTo(server.url("/refuse?id=later&bad=1&status=503&retryAfter=1"))
      yield* socket.awaitOpen
      const [first, second] = (yield* server.report).arrivals
      assert.isAtLeast(second! - first!, 990)
      assert.isBelow(second! - first!, busy * 1000)
    }))
})

describe("a close", () => {
  const fatal = new Set<number | undefined>(fatalCodes)
  const sendable = [...fatalCodes, ...retryableCodes]

  test("W6: by the server is one loss, and the socket reconnects, except after fatal codes", () =>
    Effect.gen(function*() {
      const server = yield* serverProcess()
      for (const code of [undefined, ...sendable]) {
        yield* Effect.scoped(Effect.gen(function*() {
          const asked = code === undefined ? "" : `&code=${code}&reason=why`
          const socket = yield* socketTo(server.url(`/close?id=${code}&bad=1${asked}`))
          const seen = yield* seeing(socket)
          const { event } = yield* seen.nth("Lost", 1)
          assert.deepInclude(event.failure, {
            _tag: "ConnectionClosed",
            code: code ?? 1005,
            reason: code === undefined ? "" : "why"
          })
          if (fatal.has(code)) {
            assert.strictEqual((yield* Effect.flip(Stream.runDrain(socket.messages)))._tag, "SocketFailed")
          } else {
            yield* seen.nth("Opened", 2)
            yield* answers(socket)
          }
          assert.strictEqual(seen.of("Lost").length, 1)
        }))
      }
    }))

  test("W4, W6, W11: by a server that leaves TCP open is reported immediately, with its code", () =>
    Effect.gen(function*() {
      for (const [code, state, renewed] of [[4401, "Open", 1], [1008, "Closed", 0]] as const) {
        const { accept, url } = yield* halfOpen
        let renewals = 0
        const session = yield* Session.make({
          acquire: Effect.succeed("old"),
          renew: () => Effect.sync(() => `new ${++renewals}`)
        })
        const socket = yield* ReconnectingSocket.make({
          dial: { url },
          session: { session, attach: (request) => request },
          heartbeat: false
        })
        const seen = yield* seeing(socket)
        const peer = yield* accept
        yield* socket.awaitOpen
        peer.write(Uint8Array.from(closeFrame(code)))
        const { event } = yield* Effect.timeout(seen.nth("Lost", 1), "10 seconds")
        assert.deepStrictEqual(event.failure, new WebSocketDialer.ConnectionClosed({ code, reason: "" }))
        yield* state === "Open" ? seen.nth("Opened", 2) : seen.nth("Closed", 1)
        assert.deepStrictEqual([(yield* socket.state)._tag, renewals], [state, renewed])
      }
    }))

  for (
    const [where, options, request] of [
      ["of the dialer", { maxPayload: 32 * mebi }, {}],
      ["of the request", { maxPayload: 1000 }, { maxPayload: 32 * mebi }]
    ] as const
  ) {
    test(
      `W17: for a message of more than 16 MiB does not happen if the limit ${where} is higher`,
      () =>
        Effect.gen(function*() {
          const { accept, url } = yield* loopbackServer()
          const socket = yield* ReconnectingSocket.make({ dial: { url, ...request }, heartbeat: false })
          const { socket: peer } = yield* accept
          peer.send(new Uint8Array(17 * mebi))
          assert.lengthOf(Option.getOrThrow(yield* Stream.runHead(socket.messages)) as Uint8Array, 17 * mebi)
        }),
      NodeWebSocketDialer.layer(options)
    )
  }

  test(
    "W17: for a message over the dialer's limit is fatal the third time",
    () =>
      Effect.gen(function*() {
        const { accept, dials, url } = yield* loopbackServer()
        const socket = yield* socketTo(url)
        yield* Effect.forkScoped(Effect.forever(Effect.map(accept, ({ socket }) => socket.send("x".repeat(2000)))))
        const failed = yield* Effect.timeout(Effect.flip(Stream.runDrain(socket.messages)), "30 seconds")
        assert.deepInclude(failed as object, { _tag: "SocketFailed" })
        assert.strictEqual(dials(), 3)
      }),
    NodeWebSocketDialer.layer({ maxPayload: 1000 })
  )

  test("W13: by this side sends its code and reason and awaits the server's; invalid codes become 1000", () =>
    Effect.gen(function*() {
      const server = yield* serverProcess()
      const codes = [...sendable, 0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 70_000, NaN]
      for (const code of codes) {
        const socket = yield* socketTo(server.url("/echo"))
        yield* socket.awaitOpen
        const [took] = yield* timed(socket.close(code, "é".repeat(100)))
        assert.isBelow(took, busy * 1000, String(code))
      }
      // The server notices the end of the last connection a little later.
      const { closed } = yield* Effect.repeat(server.report, { until: ({ open }) => open === 0 })
      assert.deepStrictEqual(
        closed,
        codes.map((code) => ({ code: sendable.includes(code) ? code : 1000, reason: "é".repeat(61) }))
      )
    }))

  /** Like a browser's: a page may send no other codes. The one of `ws` sends them all. */
  class Restricted extends WebSocket {
    override close(code?: number, reason?: string | Buffer) {
      if (code !== undefined && code !== 1000 && !(code >= 3000 && code <= 4999)) {
        throw new DOMException("invalid code", "InvalidAccessError")
      }
      super.close(code, reason)
    }
  }

  const restricted = Layer.unwrapScoped(Effect.as(
    Effect.acquireRelease(
      Effect.sync(() => {
        const before = globalThis.WebSocket
        Object.assign(globalThis, { WebSocket: Restricted })
        return before
      }),
      (before) => Effect.sync(() => Object.assign(globalThis, { WebSocket: before }))
    ),
    WebSocketDialer.layerGlobal
  ))

  test(
    "by this side sends 1000 if the platform refuses the code",
    () =>
      Effect.gen(function*() {
        const server = yield* serverProcess()
        const codes = [1001, 1011, 4001]
        for (const code of codes) {
          const socket = yield* socketTo(server.url("/echo"))
          yield* socket.awaitOpen
          yield* socket.close(code, "bye")
          const info = { code, reason: "bye", failure: Option.none() }
          assert.deepStrictEqual(yield* socket.state, { _tag: "Closed", info })
        }
        assert.deepStrictEqual(
          (yield* Effect.repeat(server.report, { until: ({ open }) => open === 0 })).closed,
          codes.map((code) => ({ code: code === 4001 ? code : 1000, reason: "bye" }))
        )
      }),
    restricted
  )
})

const tls = await serverCertificate()

describe("dialing", () => {
  test(
    "works over TLS with a server whose CA is given",
    () =>
      Effect.gen(function*() {
        const server = yield* serverProcess({ tls })
        const socket = yield* socketTo(server.url("/echo"))
        const seen = yield* seeing(socket)
        yield* answers(socket)
        yield* server.kill
        yield* server.start()
        yield* seen.nth("Opened", 2)
        yield* answers(socket)
      }),
    NodeWebSocketDialer.layer({ tls: { ca: tls.ca } })
  )

  test("keeps failing if the CA is unknown", () =>
    Effect.gen(function*() {
      const server = yield* serverProcess({ tls })
      const socket = yield* socketTo(server.url("/echo"))
      const seen = yield* seeing(socket)
      const { event } = yield* seen.nth("Waiting", 3)
      assert.deepInclude(event.failure, { _tag: "DialError", reason: "Transport" })
      assert.deepStrictEqual(seen.of("Opened"), [])
    }))

  let connected = 0
  class Counting extends Http.Agent {
    override createConnection(...args: Parameters<Http.Agent["createConnection"]>) {
      connected++
      return super.createConnection(...args)
    }
  }

  test(
    "goes through an agent each time",
    () =>
      Effect.gen(function*() {
        const server = yield* serverProcess()
        const socket = yield* socketTo(server.url("/close?id=agent&bad=4&code=1001"))
        const seen = yield* seeing(socket)
        yield* seen.nth("Opened", 5)
        yield* answers(socket)
        assert.strictEqual(connected, 5)
      }),
    NodeWebSocketDialer.layer({ agent: new Counting({ keepAlive: true }) })
  )

  /** A connection that is no socket, as through a multiplexer: what is written leaves a moment later. */
  class Tunnel extends Duplex {
    private readonly socket: Net.Socket
    constructor(port: number) {
      super()
      this.socket = Net.connect(port, "127.0.0.1")
      this.socket.on("data", (data) => this.push(data))
      this.socket.on("end", () => this.push(null))
      this.socket.on("error", (error) => this.destroy(error))
      this.socket.on("close", () => this.destroy())
    }
    override _write(chunk: Buffer, _encoding: string, done: () => void) {
      setTimeout(() => this.socket.write(chunk, () => done()), 5)
    }
    override _read() {}
    override _final(done: () => void) {
      this.socket.end()
      done()
    }
    override _destroy(error: Error | null, done: (error: Error | null) => void) {
      this.socket.destroy()
      done(error)
    }
  }

  class Tunneling extends Http.Agent {
    override createConnection({ port }: Http.ClientRequestArgs) {
      return new Tunnel(Number(port)) as Duplex as Net.Socket
    }
  }

  test(
    "W4: goes through an agent whose connections are no sockets, and reconnects after a close",
    () =>
      Effect.gen(function*() {
        const server = yield* serverProcess()
        const socket = yield* socketTo(server.url("/close?id=tunnel&bad=4&code=1001"))
        const seen = yield* seeing(socket)
        yield* seen.nth("Opened", 5)
        yield* answers(socket)
      }),
    NodeWebSocketDialer.layer({ agent: new Tunneling() })
  )

  test(
    "uses compression if both sides want it",
    () =>
      Effect.gen(function*() {
        const server = yield* serverProcess()
        const socket = yield* socketTo(server.url("/compressed"))
        const sent = numbered(50).map((n) => `${n}:${"x".repeat(n * 1000)}`)
        yield* Effect.forEach(sent, socket.send, { discard: true })
        const back = yield* Stream.runCollect(Stream.take(socket.messages, sent.length))
        assert.deepStrictEqual(Chunk.toReadonlyArray(back), sent)
        assert.match((yield* server.report).extensions[0]!, /permessage-deflate/)
      }),
    NodeWebSocketDialer.layer({ perMessageDeflate: true })
  )
})

describe("many clients of a server that restarts", () => {
  test("W3: reconnect spread over the whole first delay", () =>
    Effect.gen(function*() {
      const clients = amount({ quick: 100, full: 1000 })
      const server = yield* serverProcess()
      const initial = 2000
      const waits: Array<number> = []
      // All clients draw from one seeded sequence, so in any order together they have the same draws.
      yield* Effect.withRandom(Random.make("many clients"))(Effect.forEach(numbered(clients), () =>
        Effect.gen(function*() {
          const socket = yield* socketTo(server.url("/echo"), { backoff: Backoff.exponential({ initial }) })
          yield* Effect.forkScoped(Stream.runForEach(socket.events, (event) =>
            Effect.sync(() => {
              if (event._tag === "Waiting" && event.attempt === 1) waits.push(Duration.toMillis(event.delay))
            })))
          yield* socket.awaitOpen
        }), { concurrency: 50 }))
      assert.strictEqual((yield* server.report).open, clients)
      server.unsafeKill()
      yield* server.gone
      const restarted = Date.now()
      yield* server.start()
      yield* eventually(() =>
        waits.length === clients
      )
      let report = yield* server.report
      while (report.open < clients) {
        yield* Effect.sleep("50 millis")
        report = yield* server.report
      }
      const distance = kolmogorovSmirnov(waits.map((wait) => wait / initial))
      const arrived = report.arrivals.map((at) => at - restarted)
      const busiest = Math.max(
        ...numbered(60).map((bin) => arrived.filter((at) => Math.floor(at / 100) === bin).length)
      )
      print(
        `${clients} clients: delays ${distance.toFixed(4)} from uniform (bound ${bound(clients).toFixed(4)}), all back`
          + ` ${Math.max(...arrived)} ms after, ${busiest} in the busiest 100 ms (${clients / initial * 100} if even)`
      )
      assert.isBelow(distance, bound(clients))
    }))

  /** The largest distance of the sample from the uniform distribution on [0, 1]. */
  const kolmogorovSmirnov = (sample: ReadonlyArray<number>): number => {
    const n = sample.length
    return Math.max(
      ...[...sample].sort((a, b) => a - b).map((x, place) =>
        Math.max(Math.abs(x - place / n), Math.abs(x - (place + 1) / n))
      )
    )
  }

  /** Dvoretzky, Kiefer, Wolfowitz, Massart: a uniform sample has a larger distance with a probability below 1e-6. */
  const bound = (n: number): number => Math.sqrt(Math.log(2 / 1e-6) / (2 * n))
})

describe("reconnecting and closing", () => {
  /** The real one, except that a wait of 0 is no wait. */
  const hurried = (clock: Clock.Clock): Clock.Clock => ({
    [Clock.ClockTypeId]: Clock.ClockTypeId,
    unsafeCurrentTimeMillis: () => clock.unsafeCurrentTimeMillis(),
    unsafeCurrentTimeNanos: () => clock.unsafeCurrentTimeNanos(),
    currentTimeMillis: clock.currentTimeMillis,
    currentTimeNanos: clock.currentTimeNanos,
    sleep: (duration) => Duration.toMillis(duration) === 0 ? Effect.yieldNow() : clock.sleep(duration)
  })

  /** A connection that gives one message and ends, in one of several ways. */
  const ending = (dials: number): WebSocketDialer.Connection => ({
    protocol: "",
    listen: (listener) =>
      Effect.sync(() => {
        setImmediate(() => {
          listener.onMessage("hello")
          listener.onEnd(
            dials % 2 === 0
              ? new WebSocketDialer.ConnectionClosed({ code: 1001, reason: "" })
              : new WebSocketDialer.ConnectionLost({ reason: "Reset" })
          )
        })
      }),
    write: () => Effect.void,
    ping: Option.some(Effect.void),
    backpressure: Option.none(),
    close: () => Effect.void,
    terminate: Effect.void
  })

  it.scopedLive("W7: thousands of times leaves no listener, timer or fiber", () =>
    Effect.gen(function*() {
      const cycles = amount({ quick: 600, full: 20_000 })
      let dials = 0
      let scopes = 0
      const dialer = WebSocketDialer.WebSocketDialer.of({
        dial: () =>
          Effect.acquireRelease(
            Effect.sync(() => {
              scopes++
              return ending(dials++)
            }),
            () => Effect.sync(() => scopes--)
          )
      })
      const socket = yield* ReconnectingSocket.make({
        dial: { url: "ws://double" },
        backoff: Schedule.spaced(0),
        stableAfter: 0,
        onOpen: ({ send }) => Effect.zipRight(Effect.addFinalizer(() => Effect.void), send("login"))
      }).pipe(Effect.provideService(WebSocketDialer.WebSocketDialer, dialer), Effect.provide(quiet))
      yield* Effect.scoped(socket.subscribe({ open: "open", close: "close" }))
      yield* socket.subscribe({ open: "open" })
      const messages = yield* Effect.forkScoped(Stream.runDrain(socket.messages))
      const events = yield* Effect.forkScoped(Stream.runDrain(socket.events))
      const until = (count: number) => eventually(() => dials >= count)
      const measured = Effect.zip(memory, Effect.sync(resources))

      yield* until(cycles / 10)
      const [before, had] = yield* measured
      const since = Date.now()
      const from = dials
      yield* until(cycles)
      const [after, has] = yield* measured
      print(
        `${dials - from} cycles: ${((Date.now() - since) * 1000 / (dials - from)).toFixed(0)} µs each,`
          + ` ${((after - before) / 1024).toFixed(0)} KiB more, ${JSON.stringify(has)} before ${JSON.stringify(had)}`
      )
      assert.isBelow(after - before, 3 * mebi)
      assert.isAtMost(has["Timeout"] ?? 0, (had["Timeout"] ?? 0) + 8)
      assert.isAtMost(scopes, 2)
      yield* socket.close()
      yield* Fiber.join(messages)
      yield* Fiber.join(events)
      assert.strictEqual(scopes, 0)
    }).pipe((effect) => Effect.flatMap(Effect.clock, (clock) => Effect.withClock(effect, hurried(clock)))))

  test("W7: hundreds of times over real connections leaves none either, here and in the server", () =>
    Effect.gen(function*() {
      const server = yield* serverProcess()
      const before = resources()
      const cycles = amount({ quick: 100, full: 400 })
      let dials = 0
      yield* Effect.scoped(Effect.gen(function*() {
        const socket = yield* ReconnectingSocket.make<Message, Message>({
          dial: Effect.sync(() => ({
            url: server.url(dials++ >= cycles ? "/echo" : dials % 2 === 0 ? "/reset" : "/close?bad=1000&code=1001")
          })),
          backoff: Schedule.spaced(1)
        })
        // Failures hold their stacks, so they are counted and not kept.
        const counts = { Opened: 0, Lost: 0 }
        yield* Effect.forkScoped(Stream.runForEach(socket.events, ({ _tag }) =>
          Effect.sync(() => {
            if (_tag === "Opened" || _tag === "Lost") counts[_tag]++
          })))
        yield* eventually(() => counts.Opened >= cycles / 4)
        const early = yield* memory
        yield* eventually(() => counts.Opened === cycles + 1)
        yield* answers(socket)
        const growth = (yield* memory) - early
        print(`${cycles} real connections: ${(growth / 1024).toFixed(0)} KiB more`)
        assert.isBelow(growth, 4 * mebi)
        assert.strictEqual(counts.Lost, cycles)
        yield* Effect.repeat(server.report, { until: ({ open }) => open === 1 })
      }))
      yield* eventually(() => {
        const now = resources()
        return Object.entries(now).every(([kind, count]) => count <= (before[kind] ?? 0) + (kind === "Timeout" ? 1 : 0))
      }).pipe(
        Effect.timeout("30 seconds"),
        Effect.orElse(() => {
          assert.deepStrictEqual(resources(), before)
          return Effect.void
        })
      )
      // The server notices the end of the last one a little later.
      yield* Effect.repeat(server.report, { until: ({ open }) => open === 0 })
    }))
})
