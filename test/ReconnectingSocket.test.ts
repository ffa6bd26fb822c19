import * as Socket from "@effect/platform/Socket"
import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import * as Backoff from "effect-holdfast/Backoff"
import type { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Session from "effect-holdfast/Session"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import {
  dial,
  failureOf,
  heard,
  isDone,
  ofTag,
  pass,
  recorded,
  serving,
  settle,
  steady,
  tagsOf,
  test
} from "./support/reconnectingSockets.js"

type Message = WebSocketDialer.Message

// -----------------------------------------------------------------------------
// sockets
// -----------------------------------------------------------------------------

/** A socket whose first connection is open. */
const connected = <Out, In, E, R>(
  making: Effect.Effect<ReconnectingSocket.ReconnectingSocket<Out, In>, E, R>
) =>
  Effect.gen(function*() {
    const server = yield* serving
    const socket = yield* making
    const events = yield* recorded(socket.events)
    const peer = yield* server.open
    return { server, socket, events: events.all, peer }
  })

/** One whose first dial nobody has answered. */
const dialing = <Out, In, E, R>(
  making: Effect.Effect<ReconnectingSocket.ReconnectingSocket<Out, In>, E, R>
) =>
  Effect.gen(function*() {
    const server = yield* serving
    const socket = yield* making
    const events = yield* recorded(socket.events)
    return { server, socket, events: events.all }
  })

// -----------------------------------------------------------------------------
// a connection that can be held
// -----------------------------------------------------------------------------

/** Keeps what is written in its hands until the test takes it, and can stop reading. */
class Wire {
  readonly connection: WebSocketDialer.Connection
  readonly taken: Array<Message> = []
  readonly batches: Array<ReadonlyArray<Message>> = []
  isHeld = false
  isPaused = false
  pauses = 0
  pings = 0
  inHands = 0
  most = 0
  closed: readonly [code: number | undefined, reason: string | undefined] | undefined
  isTerminated = false
  end: WebSocketDialer.ConnectionClosed | WebSocketDialer.ConnectionLost | undefined
  listener: WebSocketDialer.Listener | undefined
  private readonly onTake = new Set<() => void>()

  constructor(can: { readonly ping?: boolean; readonly pause?: boolean; readonly isHeld?: boolean } = {}) {
    this.isHeld = can.isHeld ?? false
    this.connection = {
      protocol: "",
      listen: (listener) =>
        Effect.sync(() => {
          this.listener = listener
        }),
      write: (messages) =>
        Effect.async<void, WebSocketDialer.ConnectionFailure>((resume) => {
          const bytes = messages.reduce((sum, { length }) => sum + length, 0)
          this.batches.push(messages)
          this.inHands += bytes
          this.most = Math.max(this.most, this.inHands)
          const take = () => {
            if (this.end !== undefined) return resume(Effect.fail(this.end))
            this.inHands -= bytes
            this.taken.push(...messages)
            resume(Effect.void)
          }
          if (this.isHeld) this.onTake.add(take)
          else take()
        }),
      ping: can.ping === false ? Option.none() : Option.some(Effect.sync(() => {
        this.pings++
      })),
      backpressure: can.pause === false ? Option.none() : Option.some({
        pause: Effect.sync(() => {
          this.isPaused = true
          this.pauses++
        }),
        resume: Effect.sync(() => {
          this.isPaused = false
        })
      }),
      close: (code, reason) =>
        Effect.sync(() => {
          this.closed = [code, reason]
          if (!this.isHeld) {
            this.over(new WebSocketDialer.ConnectionClosed({ code: code ?? 1005, reason: reason ?? "" }))
          }
        }),
      terminate: Effect.sync(() => {
        this.isTerminated = true
        this.over(new WebSocketDialer.ConnectionLost({ reason: "Reset", cause: "terminated" }))
      })
    }
  }

  /** Takes what is in its hands. */
  take(): void {
    const all = [...this.onTake]
    this.onTake.clear()
    for (const take of all) take()
  }

  say(message: Message): void {
    if (this.end === undefined) this.listener!.onMessage(message)
  }

  control(): void {
    if (this.end === undefined) this.listener!.onControl()
  }

  over(end: WebSocketDialer.ConnectionClosed | WebSocketDialer.ConnectionLost): void {
    if (this.end !== undefined) return
    this.end = end
    this.take()
    this.listener?.onEnd(end)
  }

  reset(): void {
    this.over(new WebSocketDialer.ConnectionLost({ reason: "Reset" }))
  }
}

/** Each dial takes the next of these. */
const wired = (...wires: ReadonlyArray<Wire>) => {
  const left = [...wires]
  return Layer.succeed(WebSocketDialer.WebSocketDialer, {
    dial: () =>
      Effect.suspend(() => {
        const wire = left.shift()
        return wire === undefined
          ? Effect.never
          : Effect.acquireRelease(Effect.succeed(wire.connection), ({ terminate }) => terminate)
      })
  })
}

const onWires = <Out = Message, In = Message, E = never, R = never, E2 = never, R2 = never>(
  wires: ReadonlyArray<Wire>,
  options: Omit<ReconnectingSocket.Options<Out, In, E, R, E2, R2>, "dial">
) =>
  Effect.gen(function*() {
    const socket = yield* ReconnectingSocket.make<Out, In, E, R, E2, R2>(
      { dial, ...options } as ReconnectingSocket.Options<Out, In, E, R, E2, R2>
    )
    const events = yield* recorded(socket.events)
    yield* Effect.addFinalizer(() => Effect.sync(() => wires.forEach((wire) => wire.reset())))
    return { socket, events: events.all }
  }).pipe(Effect.provide(wired(...wires)))

/** The delays of the timers that are set while the scope is open and have neither fired nor been cleared. */
const openTimers = Effect.acquireRelease(
  Effect.sync(() => {
    const { clearTimeout, setTimeout } = globalThis
    const delays = new Map<unknown, number>()
    globalThis.setTimeout = Object.assign(
      (callback: (...args: Array<unknown>) => void, delay = 0, ...args: Array<unknown>) => {
        const timer = setTimeout(() => {
          delays.delete(timer)
          callback(...args)
        }, delay)
        delays.set(timer, delay)
        return timer
      },
      setTimeout
    )
    globalThis.clearTimeout = (timer) => {
      delays.delete(timer)
      clearTimeout(timer)
    }
    return {
      open: () => [...delays.values()].filter((delay) => delay > 0),
      restore: () => Object.assign(globalThis, { clearTimeout, setTimeout })
    }
  }),
  ({ restore }) => Effect.sync(restore)
)

const lost = (reason: WebSocketDialer.ConnectionLost["reason"]) => new WebSocketDialer.ConnectionLost({ reason })

// -----------------------------------------------------------------------------

describe("messages that are sent", () => {
  test("leave in the order in which they were accepted, before and after the first open", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* dialing(ReconnectingSocket.make({ dial, backoff: steady }))
      yield* socket.send("0")
      yield* socket.send("1")
      const peer = yield* server.open
      yield* socket.send("2")
      yield* socket.send(Uint8Array.of(3))
      yield* settle
      assert.deepStrictEqual(peer.got, ["0", "1", "2", Uint8Array.of(3)])
    }))

  test("keep their order across reconnects, whoever sends while nobody listens", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(
        ReconnectingSocket.make({ dial, backoff: steady, stableAfter: 0 })
      )
      const got: Array<Message> = []
      let last = peer
      let n = 0
      for (let round = 0; round < 20; round++) {
        yield* socket.send(`${n++}`)
        yield* settle
        got.push(...last.got)
        yield* last.reset
        yield* socket.send(`${n++}`)
        yield* pass(500)
        yield* socket.send(`${n++}`)
        yield* pass(500)
        last = yield* server.open
      }
      yield* settle
      got.push(...last.got)
      assert.deepStrictEqual(got, Array.from({ length: n }, (_, n) => `${n}`))
    }))

  it.scoped("are not handed to the next connection before the write on the last one has failed", () => {
    const wires = [new Wire({ isHeld: true }), new Wire()]
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires(wires, { backoff: steady })
      for (const message of ["a", "b"]) yield* socket.send(message)
      yield* settle
      yield* socket.send("c")
      yield* pass(9_999)
      assert.deepStrictEqual(wires[1]!.batches, [])
      yield* pass(1)
      yield* pass(1_000)
      assert.deepStrictEqual(ofTag(events, "Dropped").map(({ message }) => message), ["a", "b"])
      assert.deepStrictEqual(wires[1]!.taken, ["c"])
    })
  })

  it.scoped("are written one write at a time, in batches", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], {})
      yield* settle
      yield* socket.send("a")
      yield* settle
      yield* socket.send("b")
      yield* socket.send("c")
      yield* settle
      assert.deepStrictEqual(wire.batches, [["a"]])
      wire.take()
      yield* settle
      assert.deepStrictEqual(wire.batches, [["a"], ["b", "c"]])
    })
  })
})

describe("the backoff", () => {
  test("gives the delay before each attempt: 0 is the first dial, the k-th delay comes before attempt k", () =>
    Effect.gen(function*() {
      const { events, server } = yield* dialing(ReconnectingSocket.make({
        dial,
        backoff: Backoff.exponential({ initial: "1 seconds", max: "5 seconds", jitter: "none" })
      }))
      for (const delay of [1000, 2000, 4000, 5000, 5000]) {
        yield* server.refuse(503)
        yield* pass(delay - 1)
        assert.lengthOf(server.unanswered, 0)
        yield* pass(1)
        assert.lengthOf(server.unanswered, 1)
      }
      assert.deepStrictEqual(server.times, [0, 1000, 3000, 7000, 12_000, 17_000])
      assert.deepStrictEqual(ofTag(events, "Waiting").map(({ attempt }) => attempt), [1, 2, 3, 4, 5])
      assert.deepStrictEqual(ofTag(events, "Dialing").map(({ attempt }) => attempt).slice(-5), [1, 2, 3, 4, 5])
      assert.deepStrictEqual(ofTag(events, "Waiting").map(({ until }) => until), server.times.slice(1))
    }))

  test("goes on over connections that were not stable", () =>
    Effect.gen(function*() {
      const { server } = yield* dialing(ReconnectingSocket.make({ dial, backoff: steady }))
      for (const delay of [1000, 2000, 4000]) {
        const peer = yield* server.open
        yield* pass(29_999)
        yield* peer.reset
        yield* pass(delay - 1)
        assert.lengthOf(server.unanswered, 0)
        yield* pass(1)
        assert.lengthOf(server.unanswered, 1)
      }
    }))

  test("begins anew after a connection that was", () =>
    Effect.gen(function*() {
      const { events, server } = yield* dialing(
        ReconnectingSocket.make({ dial, backoff: steady, stableAfter: "1 minutes" })
      )
      yield* server.refuse(503)
      yield* pass(1000)
      yield* server.refuse(503)
      yield* pass(2000)
      const peer = yield* server.open
      yield* pass(60_000)
      yield* peer.reset
      yield* pass(999)
      assert.lengthOf(server.unanswered, 0)
      yield* pass(1)
      assert.lengthOf(server.unanswered, 1)
      yield* server.refuse(503)
      yield* pass(2000)
      assert.lengthOf(server.unanswered, 1)
      assert.deepStrictEqual(ofTag(events, "Waiting").map(({ attempt }) => attempt), [1, 2, 1, 2])
    }))

  test("counts what a connection was open, not the outage before it", () =>
    Effect.gen(function*() {
      const { server } = yield* dialing(ReconnectingSocket.make({ dial, backoff: steady }))
      for (const delay of [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]) {
        yield* server.refuse(503)
        yield* pass(delay)
      }
      const peer = yield* server.open
      yield* peer.reset
      yield* pass(29_999)
      assert.lengthOf(server.unanswered, 0)
      yield* pass(1)
      assert.lengthOf(server.unanswered, 1)
    }))

  test("that ends is the end of the socket", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* dialing(
        ReconnectingSocket.make({ dial, backoff: Schedule.fromDelays("1 seconds", "3 seconds") })
      )
      const messages = yield* recorded(socket.messages)
      for (const delay of [1000, 3000]) {
        yield* server.refuse(503)
        assert.isFalse(yield* isDone(messages.fiber))
        yield* pass(delay)
      }
      yield* server.refuse(502)
      const failure = failureOf(yield* Fiber.await(messages.fiber))
      assert.strictEqual(failure._tag, "SocketFailed")
      assert.deepInclude(failure.failure as object, { _tag: "DialError", status: 502 })
      assert.strictEqual((yield* socket.state)._tag, "Closed")
    }))

  test("waits as long as a refusing server asks for", () =>
    Effect.gen(function*() {
      const { events, server } = yield* dialing(ReconnectingSocket.make({ dial, backoff: steady }))
      yield* server.refuse(503, { "Retry-After": "120" })
      yield* pass(119_999)
      assert.lengthOf(server.unanswered, 0)
      yield* pass(1)
      // Shorter than the delay: the delay goes.
      yield* server.refuse(429, { "retry-after": "1" })
      yield* pass(1999)
      assert.lengthOf(server.unanswered, 0)
      yield* pass(1)
      assert.lengthOf(server.unanswered, 1)
      assert.deepStrictEqual(ofTag(events, "Waiting").map(({ until }) => until), [120_000, 122_000])
    }))

  test("waits no longer than five minutes for it", () =>
    Effect.gen(function*() {
      const { server } = yield* dialing(ReconnectingSocket.make({ dial, backoff: steady }))
      yield* server.refuse(503, { "retry-after": "86400" })
      yield* pass(299_999)
      assert.lengthOf(server.unanswered, 0)
      yield* pass(1)
      assert.lengthOf(server.unanswered, 1)
    }))

  test("holds for a dial that takes too long, too", () =>
    Effect.gen(function*() {
      const { events, server } = yield* dialing(
        ReconnectingSocket.make({ dial, backoff: steady, openTimeout: "3 seconds" })
      )
      yield* server.next
      yield* pass(3000)
      assert.deepInclude(ofTag(events, "Waiting")[0]!.failure as object, { _tag: "DialError", reason: "Timeout" })
      yield* pass(999)
      assert.lengthOf(server.unanswered, 0)
      yield* pass(1)
      assert.lengthOf(server.unanswered, 1)
    }))

  test("makes an instant schedule dial one attempt after the other, and lets others run", () =>
    Effect.gen(function*() {
      const { server } = yield* dialing(ReconnectingSocket.make({ dial, backoff: Schedule.recurs(5) }))
      for (let n = 0; n < 6; n++) yield* server.refuse(503)
      yield* pass(10_000)
      assert.lengthOf(server.times, 6)
    }))
})

describe("what is dialed", () => {
  test("is asked for afresh for each attempt", () =>
    Effect.gen(function*() {
      let n = 0
      const { server } = yield* dialing(ReconnectingSocket.make({
        dial: Effect.sync(() => ({ url: `ws://test/${n++}` })),
        backoff: steady
      }))
      assert.strictEqual((yield* server.next).request.url, "ws://test/0")
      yield* pass(10_000)
      yield* pass(1000)
      assert.strictEqual((yield* server.next).request.url, "ws://test/1")
    }))

  const bad: Record<string, Effect.Effect<WebSocketDialer.DialRequest, string>> = {
    "fails": Effect.fail("no address"),
    "dies": Effect.die(new Error("no address")),
    "hangs": Effect.never,
    "hangs, and cannot be interrupted": Effect.uninterruptible(Effect.never)
  }
  for (const [how, effect] of Object.entries(bad)) {
    test(`is a failed attempt where the effect ${how}`, () =>
      Effect.gen(function*() {
        let n = 0
        const { events, server, socket } = yield* dialing(ReconnectingSocket.make({
          dial: Effect.suspend(() => n++ === 0 ? effect : Effect.succeed(dial)),
          backoff: steady
        }))
        yield* pass(how.startsWith("hangs") ? 10_000 : 0)
        assert.strictEqual((yield* socket.state)._tag, "Waiting")
        assert.lengthOf(ofTag(events, "Lost"), 0)
        yield* pass(1000)
        yield* server.open
        assert.strictEqual((yield* socket.state)._tag, "Open")
      }))
  }

  test("may need services and a scope, which is the connection's", () =>
    Effect.gen(function*() {
      class Address extends Context.Tag("Address")<Address, string>() {}
      const released: Array<string> = []
      const { peer, server } = yield* connected(
        ReconnectingSocket.make({
          dial: Effect.flatMap(Address, (url) =>
            Effect.as(Effect.addFinalizer(() => Effect.sync(() => released.push(url))), { url })),
          backoff: steady
        }).pipe(Effect.provideService(Address, "ws://elsewhere"))
      )
      assert.deepStrictEqual(released, [])
      yield* peer.reset
      yield* pass(1000)
      assert.deepStrictEqual(released, ["ws://elsewhere"])
      assert.strictEqual((yield* server.next).request.url, "ws://elsewhere")
    }))
})

describe("a loss", () => {
  for (const code of [1000, 1001, 1005, 1011, 1012, 1013, 1014, 3000, 4000, 4401, 4999]) {
    test(`by a close frame with ${code} is one Lost and one next attempt`, () =>
      Effect.gen(function*() {
        const { events, peer, server, socket } = yield* connected(ReconnectingSocket.make({ dial, backoff: steady }))
        yield* peer.close(code, "why")
        yield* settle
        const failure = new WebSocketDialer.ConnectionClosed({ code, reason: "why" })
        assert.deepStrictEqual(ofTag(events, "Lost"), [{ _tag: "Lost", failure }])
        assert.deepInclude((yield* socket.state) as object, { _tag: "Waiting", attempt: 1, failure, until: 1000 })
        yield* pass(1000)
        yield* server.open
        yield* pass(60_000)
        assert.lengthOf(ofTag(events, "Lost"), 1)
        assert.deepStrictEqual(server.times, [0, 1000])
      }))
  }

  const losses: Record<
    Exclude<WebSocketDialer.ConnectionLost["reason"], never>,
    readonly [after: number, how: (peer: WebSocketDialer.Peer) => Effect.Effect<unknown>]
  > = {
    Reset: [0, (peer) => peer.reset],
    HeartbeatTimeout: [25_000, (peer) => peer.stall],
    WriteTimeout: [10_000, (peer) => peer.stall],
    InvalidData: [0, (peer) => peer.send("12345678901")],
    InboxOverflow: [0, (peer) => Effect.zipRight(peer.send("1"), Effect.zipRight(peer.send("2"), peer.send("3")))],
    OnOpenFailed: [0, (peer) => peer.send("fail")]
  }
  for (const [reason, [after, how]] of Object.entries(losses)) {
    test(`by ${reason} is one Lost and one next attempt`, () =>
      Effect.gen(function*() {
        let opens = 0
        const { events, peer, server, socket } = yield* connected(ReconnectingSocket.make({
          dial,
          backoff: steady,
          maxPayload: 10,
          inbox: { capacity: 2 },
          onOpen: ({ receive }) =>
            reason === "OnOpenFailed" && opens++ === 0 ? Effect.flatMap(receive, Effect.fail) : Effect.void
        }))
        yield* how(peer)
        if (reason === "WriteTimeout") yield* socket.send("lost")
        yield* pass(after)
        assert.deepStrictEqual(
          ofTag(events, "Lost").map(({ failure }) => (failure as WebSocketDialer.ConnectionLost).reason),
          [reason]
        )
        assert.strictEqual((yield* peer.ended)._tag, "ConnectionLost")
        yield* pass(1000)
        yield* server.open
        yield* pass(60_000)
        assert.lengthOf(ofTag(events, "Lost"), 1)
        assert.deepStrictEqual(server.times, [0, after + 1000])
      }))
  }

  test("is told once when several causes come together", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* connected(ReconnectingSocket.make({ dial, backoff: steady }))
      yield* socket.send("a")
      yield* peer.close(1001)
      yield* peer.reset
      yield* peer.close(1000)
      yield* pass(1000)
      assert.lengthOf(ofTag(events, "Lost"), 1)
      assert.lengthOf(server.times, 2)
    }))

  test("is the end of what is read: nothing comes after a close frame", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(ReconnectingSocket.make({ dial, backoff: steady }))
      const messages = yield* recorded(socket.messages)
      yield* peer.send("before")
      yield* peer.close(1000)
      yield* peer.send("after")
      yield* pass(1000)
      yield* Effect.flatMap(server.open, ({ send }) => send("next"))
      yield* settle
      assert.deepStrictEqual(messages.all, ["before", "next"])
    }))
})

describe("what is not to be tried again", () => {
  const given = (status?: number, code?: number) =>
    Effect.gen(function*() {
      const { events, server, socket } = yield* dialing(
        ReconnectingSocket.make({ dial, backoff: steady, outbox: { overflow: "suspend", capacity: 1 } })
      )
      const messages = yield* recorded(socket.messages)
      const delivering = yield* Effect.fork(socket.deliver("queued"))
      const waiting = yield* Effect.fork(socket.send("waits"))
      const flushing = yield* Effect.fork(socket.flush)
      const opening = yield* Effect.fork(socket.awaitOpen)
      yield* settle
      if (status !== undefined) yield* server.refuse(status, { "retry-after": "1" })
      if (code !== undefined) yield* Effect.flatMap(server.open, ({ close }) => close(code, "no"))
      yield* pass(3_600_000)
      return { delivering, events, flushing, messages, opening, server, socket, waiting }
    })

  for (const status of [400, 401, 403, 404, 405, 410, 426]) {
    test(`an upgrade refused with ${status}: messages fails, and everybody else is told`, () =>
      Effect.gen(function*() {
        const { delivering, events, flushing, messages, opening, server, socket, waiting } = yield* given(status)
        const failed = failureOf(yield* Fiber.await(messages.fiber))
        assert.deepInclude(failed.failure as object, { _tag: "DialError", reason: "Refused", status })
        for (const fiber of [delivering, waiting, flushing]) {
          const closed = failureOf(yield* Fiber.await(fiber)) as ReconnectingSocket.SocketClosed
          assert.strictEqual(closed._tag, "SocketClosed")
          assert.deepStrictEqual(closed.info.failure, Option.some(failed.failure))
        }
        assert.strictEqual(failureOf(yield* Fiber.await(opening))._tag, "SocketFailed")
        const closed = yield* Effect.flip(socket.send("late"))
        assert.strictEqual(closed._tag, "SocketClosed")
        assert.deepStrictEqual((closed as ReconnectingSocket.SocketClosed).info.failure, Option.some(failed.failure))
        assert.strictEqual((yield* Effect.flip(socket.deliver("late")))._tag, "SocketClosed")
        assert.strictEqual((yield* Effect.flip(socket.flush))._tag, "SocketClosed")
        assert.strictEqual((yield* Effect.flip(socket.awaitOpen))._tag, "SocketFailed")
        assert.strictEqual((yield* Effect.flip(Effect.scoped(socket.subscribe({ open: "late" }))))._tag, "SocketClosed")
        assert.strictEqual((yield* socket.state)._tag, "Closed")
        assert.lengthOf(ofTag(events, "Closed"), 1)
        assert.lengthOf(server.times, 1)
      }))
  }

  for (const code of [1002, 1003, 1007, 1008, 1009, 1010]) {
    test(`a close with ${code}`, () =>
      Effect.gen(function*() {
        const { events, messages, server, socket } = yield* given(undefined, code)
        const failed = failureOf(yield* Fiber.await(messages.fiber))
        assert.deepStrictEqual(failed.failure, new WebSocketDialer.ConnectionClosed({ code, reason: "no" }))
        const { info } = (yield* Effect.flip(socket.send("late"))) as ReconnectingSocket.SocketClosed
        assert.strictEqual(info.code, code)
        assert.deepStrictEqual(tagsOf(events).slice(-2), ["Lost", "Closed"])
        assert.lengthOf(server.times, 1)
      }))
  }

  for (const status of [402, 406, 408, 409, 418, 421, 425, 429, 500, 502, 503, 504]) {
    test(`not so an upgrade refused with ${status}`, () =>
      Effect.gen(function*() {
        const { server, socket } = yield* dialing(ReconnectingSocket.make({ dial, backoff: steady }))
        yield* server.refuse(status)
        assert.strictEqual((yield* socket.state)._tag, "Waiting")
        yield* pass(1000)
        assert.lengthOf(server.unanswered, 1)
      }))
  }

  test("nor a server that cannot be reached", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* dialing(ReconnectingSocket.make({ dial, backoff: steady }))
      yield* Effect.flatMap(server.next, ({ fail }) => fail("ECONNREFUSED"))
      yield* settle
      assert.strictEqual((yield* socket.state)._tag, "Waiting")
    }))

  test("a request that can never be dialed", () =>
    Effect.gen(function*() {
      const { socket } = yield* dialing(
        ReconnectingSocket.make({ dial: { url: "ftp://nonsense" }, backoff: steady }).pipe(
          Effect.provideService(WebSocketDialer.WebSocketDialer, {
            dial: ({ url }) => new WebSocketDialer.DialError({ reason: "InvalidRequest", url: String(url) })
          })
        )
      )
      assert.strictEqual((yield* Effect.flip(socket.awaitOpen))._tag, "SocketFailed")
    }))

  test("is for `retryable` to say, of every kind of failure", () =>
    Effect.gen(function*() {
      const asked: Array<string> = []
      const { server, socket } = yield* dialing(ReconnectingSocket.make({
        dial,
        backoff: steady,
        retryable: (failure) => {
          asked.push(failure._tag)
          return !(failure._tag === "ConnectionLost")
        }
      }))
      yield* server.refuse(403)
      yield* pass(1000)
      yield* Effect.flatMap(server.open, ({ close }) => close(1008))
      yield* pass(2000)
      yield* Effect.flatMap(server.open, ({ reset }) => reset)
      yield* settle
      assert.deepStrictEqual(asked, ["DialError", "ConnectionClosed", "ConnectionLost"])
      assert.strictEqual((yield* socket.state)._tag, "Closed")
    }))
})

describe("onOpen", () => {
  const failing: Record<string, Effect.Effect<void, string>> = {
    "fails": Effect.fail("no"),
    "dies": Effect.die("no"),
    "hangs": Effect.never,
    "hangs, and cannot be interrupted": Effect.uninterruptible(Effect.never),
    "interrupts itself": Effect.interrupt
  }
  for (const [how, effect] of Object.entries(failing)) {
    test(`that ${how} is tried again on the next connection, with the backoff's next delay`, () =>
      Effect.gen(function*() {
        let n = 0
        const { events, server, socket } = yield* dialing(ReconnectingSocket.make({
          dial,
          backoff: steady,
          onOpen: () => n++ < 3 ? effect : Effect.void
        }))
        yield* socket.send("queued")
        for (const delay of [1000, 2000, 4000]) {
          const peer = yield* server.open
          if (how.startsWith("hangs")) {
            yield* pass(9_999)
            assert.strictEqual((yield* socket.state)._tag, "Opening")
            yield* pass(1)
          }
          assert.strictEqual((yield* socket.state)._tag, "Waiting")
          assert.deepStrictEqual(peer.got, [])
          yield* peer.ended
          yield* pass(delay - 1)
          assert.lengthOf(server.unanswered, 0)
          yield* pass(1)
        }
        const peer = yield* server.open
        assert.deepStrictEqual(peer.got, ["queued"])
        const failures = ofTag(events, "Lost").map(({ failure }) => failure as WebSocketDialer.ConnectionLost)
        assert.deepStrictEqual(failures.map(({ reason }) => reason), ["OnOpenFailed", "OnOpenFailed", "OnOpenFailed"])
        if (how === "fails" || how === "dies") assert.strictEqual(failures[0]!.cause, "no")
        assert.strictEqual(n, 4)
      }))
  }

  test("has the open timeout, and so has the dial before it, each its own", () =>
    Effect.gen(function*() {
      let takes = 2_999
      const { events, server, socket } = yield* dialing(ReconnectingSocket.make({
        dial,
        backoff: steady,
        openTimeout: "3 seconds",
        onOpen: () => Effect.sleep(takes)
      }))
      yield* pass(2_999)
      const peer = yield* server.open
      yield* pass(2_998)
      assert.strictEqual((yield* socket.state)._tag, "Opening")
      yield* pass(1)
      assert.strictEqual((yield* socket.state)._tag, "Open")
      assert.deepStrictEqual(ofTag(events, "Lost"), [])

      takes = Infinity
      yield* peer.reset
      yield* pass(1000)
      const second = yield* server.open
      yield* pass(2_999)
      assert.strictEqual((yield* socket.state)._tag, "Opening")
      yield* pass(1)
      assert.strictEqual((yield* socket.state)._tag, "Waiting")
      yield* second.ended
      const { failure } = ofTag(events, "Lost")[1]!
      assert.isTrue(failure._tag === "ConnectionLost" && Cause.isTimeoutException(failure.cause))

      yield* pass(2000)
      yield* pass(2_999)
      assert.strictEqual((yield* socket.state)._tag, "Dialing")
      yield* pass(1)
      assert.deepInclude(yield* socket.state, {
        _tag: "Waiting",
        failure: new WebSocketDialer.DialError({ reason: "Timeout", url: "ws://test" })
      })
    }))

  test("shares the open timeout with the subscriptions, for a peer that takes nothing", () =>
    Effect.gen(function*() {
      const { events, server, socket } = yield* dialing(ReconnectingSocket.make({
        dial,
        backoff: steady,
        openTimeout: "3 seconds",
        writeTimeout: "1 minute",
        onOpen: () => Effect.sleep("2 seconds")
      }))
      yield* socket.subscribe({ open: "gold" })
      const peer = yield* server.open
      yield* peer.stall
      yield* pass(2_999)
      assert.strictEqual((yield* socket.state)._tag, "Opening")
      yield* pass(1)
      assert.deepInclude(ofTag(events, "Lost")[0]!.failure as object, {
        _tag: "ConnectionLost",
        reason: "OnOpenFailed"
      })
    }))

  test("that throws is a failure like any other", () =>
    Effect.gen(function*() {
      const { events } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: steady,
        onOpen: () => {
          throw new Error("no")
        }
      }))
      assert.deepInclude(ofTag(events, "Lost")[0]!.failure as object, {
        _tag: "ConnectionLost",
        reason: "OnOpenFailed"
      })
    }))

  test("is done, and so are the subscriptions, before anything else leaves, on each connection", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* dialing(ReconnectingSocket.make({
        dial,
        backoff: steady,
        onOpen: ({ receive, send }) =>
          Effect.gen(function*() {
            yield* send("login")
            assert.strictEqual(yield* receive, "ok")
            yield* Effect.sleep("6 seconds")
            yield* send("ready")
          })
      }))
      yield* socket.send("first")
      yield* socket.subscribe({ open: "+gold" })
      for (let round = 0; round < 3; round++) {
        const peer = yield* server.open
        assert.strictEqual((yield* socket.state)._tag, "Opening")
        yield* socket.send(`while opening ${round}`)
        yield* peer.send("ok")
        yield* pass(5_000)
        assert.deepStrictEqual(peer.got, ["login"])
        yield* pass(1_000)
        assert.deepStrictEqual(peer.got.slice(0, 3), ["login", "ready", "+gold"])
        assert.deepStrictEqual(peer.got.slice(3), [...round === 0 ? ["first"] : [], `while opening ${round}`])
        yield* peer.reset
        yield* pass(1000 * 2 ** round)
      }
    }))

  test("leaves what it does not receive to `messages`, in order", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        onOpen: ({ receive }) => Effect.zipRight(receive, Effect.sleep("1 seconds"))
      }))
      const messages = yield* recorded(socket.messages)
      for (const message of ["welcome", "a", "b"]) yield* peer.send(message)
      yield* pass(500)
      assert.deepStrictEqual(messages.all, [])
      yield* pass(500)
      yield* peer.send("c")
      yield* settle
      assert.deepStrictEqual(messages.all, ["a", "b", "c"])
    }))

  test("that fails leaves what it has not received to `messages`, in its place", () =>
    Effect.gen(function*() {
      let n = 0
      const { peer, server, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: steady,
        onOpen: () => n++ === 0 ? Effect.zipRight(Effect.sleep("1 seconds"), Effect.fail("no")) : Effect.void
      }))
      const messages = yield* recorded(socket.messages)
      yield* peer.send("a")
      yield* pass(1000)
      yield* pass(1000)
      yield* Effect.flatMap(server.open, ({ send }) => send("b"))
      yield* settle
      assert.deepStrictEqual(messages.all, ["a", "b"])
    }))

  test("is told when its connection is lost, and that is why it failed", () =>
    Effect.gen(function*() {
      const told: Array<unknown> = []
      const { events, peer, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: steady,
        onOpen: ({ receive, send }) =>
          Effect.gen(function*() {
            told.push((yield* Effect.flip(receive))._tag)
            told.push((yield* Effect.flip(send("late")))._tag)
          }).pipe(Effect.uninterruptible)
      }))
      yield* peer.close(4000)
      yield* settle
      assert.deepStrictEqual(told, ["ConnectionClosed", "ConnectionClosed"])
      assert.deepStrictEqual(ofTag(events, "Lost").map(({ failure }) => failure._tag), ["ConnectionClosed"])
      assert.strictEqual((yield* socket.state)._tag, "Waiting")
    }))

  test("that fails because its connection was lost is told as that loss", () =>
    Effect.gen(function*() {
      const { events, peer } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: steady,
        onOpen: ({ receive }) => Effect.mapError(receive, () => "no welcome")
      }))
      yield* peer.close(4000)
      yield* settle
      assert.deepStrictEqual(
        ofTag(events, "Lost").map(({ failure }) => failure),
        [new WebSocketDialer.ConnectionClosed({ code: 4000, reason: "" })]
      )
    }))

  test("cannot send what does not encode", () =>
    Effect.gen(function*() {
      const { events, peer } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: steady,
        codec: { encode: (n: number) => n as never, decode: () => 0 },
        onOpen: ({ send }) => send(1)
      }))
      assert.deepStrictEqual(peer.got, [])
      assert.deepInclude(ofTag(events, "Lost")[0]!.failure as object, { reason: "OnOpenFailed" })
    }))

  test("has a scope that is the connection's; who does not release does not keep the next one", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const cue = yield* Deferred.make<void>()
      let n = 0
      const { peer, server } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: steady,
        onOpen: () =>
          Effect.suspend(() => {
            const own = n++
            return Effect.acquireRelease(
              Effect.sync(() => log.push(`+${own}`)),
              () =>
                Effect.zipRight(Effect.sync(() => log.push(`-${own}`)), own === 0 ? Deferred.await(cue) : Effect.void)
            )
          })
      }))
      yield* pass(1000)
      assert.deepStrictEqual(log, ["+0"])
      yield* peer.reset
      yield* pass(1000)
      yield* server.open
      assert.deepStrictEqual(log, ["+0", "-0", "+1"])
      // The test's own scope waits for it.
      yield* Deferred.succeed(cue, undefined)
    }))
})

describe("a subscription", () => {
  test("is sent now and after each reconnect, and closed with its scope", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* connected(ReconnectingSocket.make({ dial, backoff: steady }))
      const scope = yield* Scope.make()
      yield* Scope.extend(socket.subscribe({ open: "+gold", close: "-gold" }), scope)
      yield* socket.subscribe({ open: "+silver" })
      yield* settle
      assert.deepStrictEqual(peer.got, ["+gold", "+silver"])
      yield* peer.reset
      yield* socket.send("message")
      yield* pass(1000)
      const second = yield* server.open
      assert.deepStrictEqual(second.got, ["+gold", "+silver", "message"])
      assert.deepStrictEqual(ofTag(events, "Resubscribed").at(-1), { _tag: "Resubscribed", subscriptions: 2 })
      yield* Scope.close(scope, Exit.void)
      yield* settle
      assert.deepStrictEqual(second.got, ["+gold", "+silver", "message", "-gold"])
      yield* second.reset
      yield* pass(2000)
      assert.deepStrictEqual((yield* server.open).got, ["+silver"])
    }))

  test("keeps its place among the messages", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial }))
      yield* socket.send("before")
      yield* Effect.scoped(Effect.zipRight(socket.subscribe({ open: "+gold", close: "-gold" }), socket.send("within")))
      yield* socket.send("after")
      yield* settle
      assert.deepStrictEqual(peer.got, ["before", "+gold", "within", "-gold", "after"])
    }))

  test("while there is no connection returns at once, and is sent with the next", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* dialing(ReconnectingSocket.make({ dial, backoff: steady }))
      yield* socket.subscribe({ open: "while dialing" })
      yield* server.refuse(503)
      yield* socket.subscribe({ open: "while waiting" })
      yield* Effect.scoped(socket.subscribe({ open: "over before", close: "not sent" }))
      yield* pass(1000)
      const peer = yield* server.open
      assert.deepStrictEqual(peer.got, ["while dialing", "while waiting"])
    }))

  test("while a connection opens is sent on it, once, before the outbox", () =>
    Effect.gen(function*() {
      const cue = yield* Deferred.make<void>()
      const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial, onOpen: () => Deferred.await(cue) }))
      yield* socket.send("message")
      yield* socket.subscribe({ open: "+gold" })
      yield* Effect.scoped(socket.subscribe({ open: "+over", close: "-over" }))
      yield* settle
      assert.deepStrictEqual(peer.got, [])
      yield* Deferred.succeed(cue, undefined)
      yield* settle
      assert.deepStrictEqual(peer.got, ["+gold", "message"])
    }))

  it.scoped("that comes while the others are written is sent too, before the outbox", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], { onOpen: () => Effect.sleep("1 seconds") })
      yield* socket.subscribe({ open: "+first" })
      yield* socket.send("message")
      yield* pass(1000)
      assert.deepStrictEqual(wire.batches, [["+first"]])
      yield* socket.subscribe({ open: "+second" })
      wire.isHeld = false
      wire.take()
      yield* settle
      assert.deepStrictEqual(wire.taken, ["+first", "+second", "message"])
    })
  })

  it.scoped("that ends while it is written is closed on that connection", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], { onOpen: () => Effect.sleep("1 seconds") })
      const scope = yield* Scope.make()
      yield* Scope.extend(socket.subscribe({ open: "+first", close: "-first" }), scope)
      yield* pass(1000)
      assert.deepStrictEqual(wire.batches, [["+first"]])
      yield* Scope.close(scope, Exit.void)
      wire.isHeld = false
      wire.take()
      yield* settle
      assert.deepStrictEqual(wire.taken, ["+first", "-first"])
    })
  })

  test("that does not encode fails, and is not kept", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        codec: { encode: (n: number) => n > 0 ? `${n}` : n as never, decode: (message) => message }
      }))
      assert.strictEqual((yield* Effect.flip(socket.subscribe({ open: -1 })))._tag, "EncodeError")
      assert.strictEqual((yield* Effect.flip(socket.subscribe({ open: 1, close: -1 })))._tag, "EncodeError")
      yield* settle
      assert.deepStrictEqual(peer.got, [])
    }))

  test("takes no room in the outbox", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial, outbox: { capacity: 1 } }))
      yield* socket.send("a")
      yield* socket.subscribe({ open: "+1" })
      yield* socket.subscribe({ open: "+2" })
      yield* settle
      assert.deepStrictEqual(peer.got, ["a", "+1", "+2"])
    }))

  test("that comes as a lost connection's delay is asked for is sent once on the next", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: Schedule.mapEffect(Schedule.spaced("1 seconds"), () => Effect.sleep("1 seconds"))
      }))
      yield* peer.reset
      yield* settle
      yield* socket.subscribe({ open: "+gold" })
      yield* pass(1000)
      yield* pass(1000)
      assert.deepStrictEqual((yield* server.open).got, ["+gold"])
    }))
})

describe("the outbox", () => {
  test("is drained by the connection that is open, never by one that has ended", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* connected(ReconnectingSocket.make({ dial, backoff: steady }))
      // Before any other fiber has noticed.
      yield* peer.reset
      const delivering = yield* Effect.fork(socket.deliver("a"))
      yield* settle
      assert.isFalse(yield* isDone(delivering))
      yield* pass(1000)
      assert.deepStrictEqual((yield* server.open).got, ["a"])
      yield* Fiber.join(delivering)
      assert.lengthOf(ofTag(events, "Dropped"), 0)
    }))

  const down = (outbox: ReconnectingSocket.Options<Message, Message>["outbox"]) =>
    dialing(ReconnectingSocket.make({ dial, backoff: steady, outbox }))

  test("holds so many messages, and refuses the next", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* down({ capacity: 2 })
      yield* socket.send("a")
      yield* socket.send("b")
      for (const refused of [socket.send("ccc"), socket.deliver("ccc")]) {
        const error = yield* Effect.flip(refused)
        assert.deepInclude(error as object, { _tag: "OutboxFull", bytes: 3 })
      }
      const peer = yield* server.open
      yield* socket.send("d")
      yield* settle
      assert.deepStrictEqual(peer.got, ["a", "b", "d"])
    }))

  test("holds 1,024 messages by default", () =>
    Effect.gen(function*() {
      const { socket } = yield* down({})
      for (let n = 0; n < 1024; n++) yield* socket.send(`${n}`)
      assert.strictEqual((yield* Effect.flip(socket.send("1024")))._tag, "OutboxFull")
    }))

  test("holds so many bytes, as they go over the wire", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* down({ bytes: 10 })
      yield* socket.send("äöü")
      yield* socket.send(new Uint8Array(4))
      assert.strictEqual((yield* Effect.flip(socket.send("x")))._tag, "OutboxFull")
      const peer = yield* server.open
      assert.lengthOf(peer.got, 2)
      yield* socket.send("0123456789")
    }))

  test("holds 16 MiB by default", () =>
    Effect.gen(function*() {
      const { socket } = yield* down({})
      yield* socket.send(new Uint8Array(16 * 1024 * 1024))
      assert.deepInclude((yield* Effect.flip(socket.send("x"))) as object, { _tag: "OutboxFull", bytes: 1 })
    }))

  for (const overflow of ["fail", "suspend", "dropOldest", "dropNewest"] as const) {
    test(`that is to "${overflow}" takes no message that is longer than all its bytes, and keeps the others`, () =>
      Effect.gen(function*() {
        const { events, server, socket } = yield* down({ bytes: 10, overflow })
        yield* socket.send("a")
        assert.strictEqual((yield* Effect.flip(socket.send("0123456789x")))._tag, "OutboxFull")
        assert.strictEqual((yield* Effect.flip(socket.deliver("0123456789x")))._tag, "OutboxFull")
        assert.lengthOf(ofTag(events, "Dropped"), 0)
        assert.deepStrictEqual((yield* server.open).got, ["a"])
      }))
  }

  test("that is to \"suspend\" makes senders wait, in order, until there is room", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* down({ capacity: 2, overflow: "suspend" })
      yield* socket.send("a")
      yield* socket.send("b")
      const third = yield* Effect.fork(socket.send("c"))
      yield* settle
      const fourth = yield* Effect.fork(socket.deliver("d"))
      yield* pass(1000)
      assert.isFalse((yield* isDone(third)) || (yield* isDone(fourth)))
      const peer = yield* server.open
      yield* Fiber.join(third)
      yield* Fiber.join(fourth)
      assert.deepStrictEqual(peer.got, ["a", "b", "c", "d"])
    }))

  it.scoped("that is to \"suspend\" lets nobody overtake who waits for more room", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], { outbox: { bytes: 10, overflow: "suspend", window: 1 } })
      yield* socket.send("12345678")
      yield* settle
      const long = yield* Effect.fork(socket.send("abcdefgh"))
      yield* settle
      const short = yield* Effect.fork(socket.send("x"))
      yield* settle
      assert.isFalse(yield* isDone(short))
      wire.isHeld = false
      wire.take()
      yield* settle
      assert.isTrue((yield* isDone(long)) && (yield* isDone(short)))
      assert.deepStrictEqual(wire.taken, ["12345678", "abcdefgh", "x"])
    })
  })

  test("that is to \"dropOldest\" makes room, with an event each", () =>
    Effect.gen(function*() {
      const { events, server, socket } = yield* down({ capacity: 3, bytes: 10, overflow: "dropOldest" })
      const first = yield* Effect.fork(socket.deliver("1"))
      yield* settle
      for (const message of ["2", "3", "4", "123456789"]) yield* socket.send(message)
      yield* settle
      assert.strictEqual(failureOf(yield* Fiber.await(first))._tag, "OutboxFull")
      assert.deepStrictEqual(
        ofTag(events, "Dropped"),
        ["1", "2", "3"].map((message) => ({ _tag: "Dropped", message, reason: "Overflow" } as const))
      )
      assert.deepStrictEqual((yield* server.open).got, ["4", "123456789"])
    }))

  it.scoped("that is to \"dropOldest\" drops nothing that a connection has in its hands", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], { outbox: { capacity: 2, overflow: "dropOldest" } })
      yield* settle
      yield* socket.send("a")
      yield* settle
      yield* socket.send("b")
      yield* socket.send("c")
      wire.isHeld = false
      wire.take()
      yield* settle
      assert.deepStrictEqual(wire.taken, ["a", "c"])
    })
  })

  it.scoped("that is to \"dropOldest\" drops nothing where that does not make room enough", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires([wire], { outbox: { bytes: 100, window: 60, overflow: "dropOldest" } })
      const messages = ["a".repeat(60), "b".repeat(10), "c".repeat(10)]
      for (const message of messages) {
        yield* settle
        yield* socket.send(message)
      }
      assert.strictEqual((yield* Effect.flip(socket.send("d".repeat(50))))._tag, "OutboxFull")
      wire.isHeld = false
      wire.take()
      yield* settle
      assert.deepStrictEqual(wire.taken, messages)
      assert.lengthOf(ofTag(events, "Dropped"), 0)
    })
  })

  test("that is to \"dropNewest\" drops what comes, with an event; who awaits its delivery is told", () =>
    Effect.gen(function*() {
      const { events, server, socket } = yield* down({ capacity: 1, overflow: "dropNewest" })
      yield* socket.send("a")
      yield* socket.send("b")
      assert.strictEqual((yield* Effect.flip(socket.deliver("c")))._tag, "OutboxFull")
      yield* settle
      assert.deepStrictEqual(
        ofTag(events, "Dropped"),
        ["b", "c"].map((message) => ({ _tag: "Dropped", message, reason: "Overflow" } as const))
      )
      assert.deepStrictEqual((yield* server.open).got, ["a"])
    }))

  test("gives a message up when its time to live is over, to the millisecond", () =>
    Effect.gen(function*() {
      const { events, server, socket } = yield* down({ timeToLive: "1 seconds" })
      yield* pass(300)
      const delivering = yield* Effect.fork(socket.deliver("a"))
      yield* pass(999)
      yield* socket.send("b")
      assert.isFalse(yield* isDone(delivering))
      assert.lengthOf(ofTag(events, "Expired"), 0)
      yield* pass(1)
      assert.strictEqual(failureOf(yield* Fiber.await(delivering))._tag, "MessageExpired")
      assert.deepStrictEqual(ofTag(events, "Expired"), [{ _tag: "Expired", message: "a" }])
      yield* pass(998)
      assert.lengthOf(ofTag(events, "Expired"), 1)
      yield* pass(1)
      assert.deepStrictEqual(ofTag(events, "Expired").map(({ message }) => message), ["a", "b"])
      yield* socket.send("c")
      assert.deepStrictEqual((yield* server.open).got, ["c"])
    }))

  test("has room again for what has expired", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* down({ capacity: 1, overflow: "suspend", timeToLive: "1 seconds" })
      yield* socket.send("a")
      const waiting = yield* Effect.fork(socket.send("b"))
      yield* pass(500)
      assert.isFalse(yield* isDone(waiting))
      const delivering = yield* Effect.fork(socket.deliver("c"))
      yield* pass(500)
      // What waits for room grows old as well.
      assert.isTrue(yield* isDone(waiting))
      yield* pass(499)
      assert.isFalse(yield* isDone(delivering))
      yield* pass(1)
      assert.strictEqual(failureOf(yield* Fiber.await(delivering))._tag, "MessageExpired")
      assert.deepStrictEqual((yield* server.open).got, [])
    }))

  test("does not wait for the clock to see that a message is too old", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* down({ timeToLive: "1 seconds" })
      yield* socket.send("old")
      const attempt = yield* server.next
      yield* TestClock.adjust("1 seconds")
      const peer = yield* Effect.flatMap(attempt.open(), heard)
      yield* socket.send("new")
      yield* settle
      assert.deepStrictEqual(peer.got, ["new"])
    }))

  it.scoped("never gives up what a connection has in its hands", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires([wire], { outbox: { timeToLive: "1 seconds" } })
      yield* settle
      yield* socket.send("a")
      yield* pass(5_000)
      wire.take()
      yield* settle
      assert.deepStrictEqual(wire.taken, ["a"])
      assert.lengthOf(ofTag(events, "Expired"), 0)
    })
  })

  it.scoped("never puts more than the window into a connection's hands", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], { outbox: { window: 10 } })
      yield* settle
      const lengths = [4, 6, 1, 9, 1, 25, 3, 3, 3, 3]
      for (const length of lengths) yield* socket.send("x".repeat(length))
      for (let n = 0; n < lengths.length; n++) {
        yield* settle
        assert.isAtMost(wire.inHands, wire.batches.at(-1)!.length === 1 ? 25 : 10)
        wire.take()
      }
      yield* settle
      assert.deepStrictEqual(wire.taken.map(({ length }) => length), lengths)
      assert.deepStrictEqual(
        wire.batches.map((batch) => batch.map(({ length }) => length)).filter(({ length }) => length > 0),
        [[4, 6], [1, 9], [1], [25], [3, 3, 3], [3]]
      )
    })
  })

  it.scoped("puts a mebibyte into them by default, of ten that are queued", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], {})
      for (let n = 0; n < 160; n++) yield* socket.send("x".repeat(64 * 1024))
      yield* settle
      wire.take()
      yield* settle
      assert.strictEqual(wire.most, 1024 * 1024)
    })
  })

  for (const overflow of ["fail", "suspend"] as const) {
    test(`takes a message back when its deliverer is interrupted ("${overflow}")`, () =>
      Effect.gen(function*() {
        const { events, server, socket } = yield* down({ capacity: 1, overflow })
        const delivering = yield* Effect.fork(socket.deliver("back"))
        yield* settle
        yield* Fiber.interrupt(delivering)
        yield* socket.send("a")
        assert.deepStrictEqual((yield* server.open).got, ["a"])
        assert.lengthOf(ofTag(events, "Dropped"), 0)
      }))
  }

  test("takes a message back when a sender that waits for room is interrupted, and lets the next one in", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* down({ bytes: 10, overflow: "suspend" })
      yield* socket.send("12345678")
      const long = yield* Effect.fork(socket.send("too long for now"))
      const waiting = yield* Effect.fork(socket.send("abcdefgh"))
      yield* settle
      const short = yield* Effect.fork(socket.send("x"))
      yield* settle
      assert.isTrue(yield* isDone(long))
      assert.isFalse(yield* isDone(short))
      yield* Fiber.interrupt(waiting)
      yield* settle
      assert.isTrue(yield* isDone(short), "nobody who waits before it is left")
      assert.deepStrictEqual((yield* server.open).got, ["12345678", "x"])
    }))

  it.scoped("does not tear a write that has begun when its deliverer is interrupted", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], {})
      yield* settle
      const delivering = yield* Effect.fork(socket.deliver("a"))
      yield* settle
      yield* Fiber.interrupt(delivering)
      yield* socket.send("b")
      wire.isHeld = false
      wire.take()
      yield* settle
      assert.deepStrictEqual(wire.taken, ["a", "b"])
    })
  })
})

describe("deliver", () => {
  it.scoped("succeeds when the message has been written, not before", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], {})
      yield* settle
      const delivering = yield* Effect.fork(socket.deliver("a"))
      yield* settle
      assert.isFalse(yield* isDone(delivering))
      wire.take()
      yield* settle
      assert.isTrue(Exit.isSuccess(yield* Fiber.await(delivering)))
    })
  })

  it.scoped("fails with MessageLost when the connection was lost while it had it, and nothing is sent again", () => {
    const wires = [new Wire({ isHeld: true }), new Wire()]
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires(wires, { backoff: steady })
      yield* settle
      const first = yield* Effect.fork(socket.deliver("a"))
      yield* settle
      const second = yield* Effect.fork(socket.deliver("b"))
      yield* settle
      wires[0]!.reset()
      yield* pass(1000)
      assert.strictEqual(failureOf(yield* Fiber.await(first))._tag, "MessageLost")
      yield* Fiber.join(second)
      assert.deepStrictEqual(wires[1]!.taken, ["b"])
      assert.deepStrictEqual(ofTag(events, "Dropped"), [{ _tag: "Dropped", message: "a", reason: "Lost" }])
    })
  })
})

describe("flush", () => {
  test("of nothing succeeds at once, whatever the state", () =>
    Effect.gen(function*() {
      const { socket } = yield* dialing(ReconnectingSocket.make({ dial }))
      yield* socket.flush
    }))

  it.scoped("waits for what has been accepted so far, and for nothing that comes later", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], { outbox: { window: 1 } })
      yield* settle
      yield* socket.send("a")
      yield* socket.send("b")
      const flushing = yield* Effect.fork(socket.flush)
      yield* settle
      yield* socket.send("c")
      yield* settle
      wire.take()
      yield* settle
      assert.isFalse(yield* isDone(flushing))
      wire.take()
      yield* settle
      assert.isTrue(yield* isDone(flushing))
      assert.deepStrictEqual(wire.taken, ["a", "b"])
    })
  })

  it.scoped("does not wait for what was given up", () => {
    const wires = [new Wire({ isHeld: true }), new Wire({ isHeld: true })]
    return Effect.gen(function*() {
      const { socket } = yield* onWires(wires, { backoff: steady, outbox: { timeToLive: "30 seconds" } })
      yield* settle
      yield* socket.send("lost")
      yield* settle
      const back = yield* Effect.fork(socket.deliver("taken back"))
      yield* socket.send("expires")
      const flushing = yield* Effect.fork(socket.flush)
      yield* settle
      wires[0]!.reset()
      yield* settle
      yield* Fiber.interrupt(back)
      assert.isFalse(yield* isDone(flushing))
      const second = yield* Effect.fork(socket.flush)
      yield* Fiber.interrupt(second)
      yield* pass(999)
      wires[1]!.isHeld = false
      yield* pass(1)
      assert.isTrue(yield* isDone(flushing))
    })
  })
})

// -----------------------------------------------------------------------------
// at least once
// -----------------------------------------------------------------------------

/** `ack 3`: everything up to and with 3. */
const acknowledge = {
  id: (message: Message) => Number(message),
  acknowledged: (message: Message) =>
    String(message).startsWith("ack ") ? Option.some(Number(String(message).slice(4))) : Option.none()
}

describe("with acknowledgements", () => {
  const sent = (from: number, to: number) => Array.from({ length: to - from }, (_, n) => `${from + n}`)

  test("many messages are in flight; deliver and flush wait for theirs", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial, acknowledge }))
      const messages = yield* recorded(socket.messages)
      for (const n of sent(0, 5)) yield* socket.send(n)
      const delivering = yield* Effect.fork(socket.deliver("5"))
      yield* settle
      const flushing = yield* Effect.fork(socket.flush)
      yield* settle
      yield* socket.send("6")
      yield* settle
      assert.deepStrictEqual(peer.got, sent(0, 7))
      yield* peer.send("ack 4")
      yield* settle
      assert.isFalse((yield* isDone(delivering)) || (yield* isDone(flushing)))
      yield* peer.send("ack 5")
      yield* settle
      assert.isTrue((yield* isDone(delivering)) && (yield* isDone(flushing)))
      assert.deepStrictEqual(messages.all, [])
    }))

  for (const when of ["before its connection is lost", "while there is no connection"]) {
    test(`a message is kept though its deliverer is interrupted ${when}: it may have arrived`, () =>
      Effect.gen(function*() {
        const { events, peer, server, socket } = yield* connected(
          ReconnectingSocket.make({ dial, acknowledge, backoff: steady })
        )
        yield* socket.send("0")
        const delivering = yield* Effect.fork(socket.deliver("1"))
        yield* settle
        yield* socket.send("2")
        yield* settle
        assert.deepStrictEqual(peer.got, sent(0, 3))
        if (when === "while there is no connection") yield* Effect.zipRight(peer.reset, settle)
        yield* Fiber.interrupt(delivering)
        const flushing = yield* Effect.fork(socket.flush)
        if (when !== "while there is no connection") yield* Effect.zipRight(peer.reset, settle)
        yield* pass(1000)
        const next = yield* server.open
        assert.deepStrictEqual(next.got, sent(0, 3))
        yield* next.send("ack 1")
        yield* settle
        assert.isFalse(yield* isDone(flushing))
        yield* next.send("ack 2")
        yield* Fiber.join(flushing)
        assert.lengthOf(ofTag(events, "Dropped"), 0)
      }))
  }

  test("no more than the window is in flight", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(
        ReconnectingSocket.make({ dial, acknowledge: { ...acknowledge, window: 3 } })
      )
      for (const n of sent(0, 10)) yield* socket.send(n)
      yield* settle
      assert.deepStrictEqual(peer.got, sent(0, 3))
      yield* peer.send("ack 1")
      yield* settle
      assert.deepStrictEqual(peer.got, sent(0, 5))
    }))

  test("a message takes room until it is acknowledged", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial, acknowledge, outbox: { capacity: 2 } }))
      yield* socket.send("0")
      yield* socket.send("1")
      yield* settle
      assert.strictEqual((yield* Effect.flip(socket.send("2")))._tag, "OutboxFull")
      yield* peer.send("ack 0")
      yield* socket.send("2")
    }))

  test("those that are unknown, repeated or early are ignored", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* connected(
        ReconnectingSocket.make({ dial, backoff: steady, acknowledge: { ...acknowledge, window: 2 } })
      )
      for (const n of sent(0, 4)) yield* socket.send(n)
      yield* settle
      // 3 has never been sent.
      for (const id of [99, -1, NaN, 3]) yield* peer.send(`ack ${id}`)
      yield* peer.send("ack 0")
      yield* peer.send("ack 0")
      yield* settle
      assert.deepStrictEqual(peer.got, sent(0, 3))
      yield* peer.reset
      yield* pass(1000)
      const second = yield* server.open
      assert.deepStrictEqual(second.got, sent(1, 3))
      yield* second.send("ack 2")
      yield* second.send("ack 1")
      yield* settle
      assert.deepStrictEqual(second.got, sent(1, 4))
      assert.lengthOf(ofTag(events, "Dropped"), 0)
    }))

  test("what is not is sent again, in order, before what is new", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* connected(
        ReconnectingSocket.make({ dial, backoff: steady, acknowledge })
      )
      for (const n of sent(0, 6)) yield* socket.send(n)
      yield* settle
      yield* peer.send("ack 2")
      yield* peer.reset
      for (const n of sent(6, 8)) yield* socket.send(n)
      yield* pass(1000)
      const second = yield* server.open
      assert.deepStrictEqual(second.got, sent(3, 8))
      assert.lengthOf(ofTag(events, "Dropped"), 0)
    }))

  test("one that comes on the next connection, before the messages do, is heeded", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: steady,
        acknowledge,
        onOpen: ({ send }) => Effect.zipRight(send("-1"), Effect.sleep("1 seconds"))
      }))
      yield* pass(1000)
      for (const n of sent(0, 6)) yield* socket.send(n)
      yield* settle
      yield* peer.reset
      yield* pass(1000)
      const second = yield* server.open
      yield* second.send("ack 3")
      yield* pass(1000)
      assert.deepStrictEqual(second.got, ["-1", ...sent(4, 6)])
    }))

  test("an own subscription is not acknowledged, and not kept", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(
        ReconnectingSocket.make({ dial, backoff: steady, acknowledge: { ...acknowledge, window: 1 } })
      )
      yield* socket.subscribe({ open: "+gold" })
      yield* settle
      yield* socket.send("0")
      yield* settle
      assert.deepStrictEqual(peer.got, ["+gold", "0"])
      yield* peer.reset
      yield* pass(1000)
      assert.deepStrictEqual((yield* server.open).got, ["+gold", "0"])
    }))

  test("a message that has been sent does not expire, one that has not does", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: steady,
        acknowledge: { ...acknowledge, window: 1 },
        outbox: { timeToLive: "5 seconds" }
      }))
      yield* socket.send("0")
      yield* socket.send("1")
      yield* settle
      yield* pass(5_000)
      assert.deepStrictEqual(ofTag(events, "Expired").map(({ message }) => message), ["1"])
      yield* peer.reset
      yield* pass(1000)
      assert.deepStrictEqual((yield* server.open).got, ["0"])
    }))

  test("identifiers may be any values that are equal", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        codec: { encode: (n: number) => `${n}`, decode: (message) => message },
        acknowledge: {
          id: (n: number) => Option.some(n),
          acknowledged: (message: Message) => Option.some(Option.some(Number(message)))
        }
      }))
      const delivering = yield* Effect.fork(socket.deliver(7))
      yield* settle
      yield* peer.send("7")
      yield* Fiber.join(delivering)
    }))

  test("of 2,000 messages, sent while the connection is cut again and again, every one arrives, once and in order, where repeats are ignored", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: Schedule.spaced("10 millis"),
        acknowledge: { ...acknowledge, window: 64 },
        outbox: { capacity: 256, overflow: "suspend" }
      }))
      const sending = yield* Effect.fork(Effect.forEach(sent(0, 2000), (n) => socket.send(n), { discard: true }))
      const had: Array<Message> = []
      let last = peer
      let seed = 1
      // A generator of its own, so that every run has the same story.
      const random = (below: number) => {
        seed = (seed * 48_271) % 2_147_483_647
        return seed % below
      }
      const heed = (got: Array<Message>) => {
        for (const message of got.splice(0, 1 + random(20))) if (Number(message) === had.length) had.push(message)
      }
      for (let step = 0; had.length < 2000 && step < 5000; step++) {
        yield* settle
        heed(last.got)
        if (random(3) > 0) yield* last.send(`ack ${had.length - 1}`)
        if (random(8) === 0) {
          yield* last.reset
          yield* pass(10)
          last = yield* server.open
        }
      }
      assert.deepStrictEqual(had, sent(0, 2000))
      assert.isAtLeast(server.times.length, 20)
      yield* Fiber.join(sending)
    }))

  test("of 5,000 queued for a server that dies on its first read, none is lost", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* dialing(ReconnectingSocket.make({
        dial,
        backoff: steady,
        acknowledge,
        outbox: { capacity: 5000 }
      }))
      for (const n of sent(0, 5000)) yield* socket.send(n)
      const { open } = yield* server.next
      const first = yield* open()
      assert.strictEqual(yield* first.receive, "0")
      yield* first.reset
      yield* pass(1000)
      const second = yield* server.open
      yield* Effect.repeatN(settle, 30)
      assert.deepStrictEqual(second.got, sent(0, 5000))
    }))

  for (const how of ["deliver", "send"] as const) {
    it.scoped(`a consumer of messages may ${how} one for each, whose acknowledgement comes behind more than the inbox holds`, () => {
      const wire = new Wire()
      return Effect.gen(function*() {
        const { socket } = yield* onWires([wire], {
          acknowledge,
          inbox: { capacity: 5 },
          outbox: { capacity: how === "send" ? 2 : 1024, overflow: "suspend" }
        })
        yield* settle
        let done = 0
        yield* Effect.forkScoped(
          Stream.runForEach(socket.messages, () => Effect.map(socket[how](`${done}`), () => done++))
        )
        const jobs = sent(0, 30)
        for (let turn = 0, acknowledged = 0; turn < 100; turn++) {
          if (!wire.isPaused) {
            if (jobs.length > 0) wire.say(`job ${jobs.shift()}`)
            else if (acknowledged < wire.taken.length) wire.say(`ack ${acknowledged++}`)
          }
          if (turn % 3 === 0 || jobs.length === 0) yield* settle
        }
        yield* settle
        assert.strictEqual(done, 30)
        assert.deepStrictEqual(wire.taken, sent(0, 30))
      })
    })
  }

  test("a subscription does not wait behind a window that is full", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(
        ReconnectingSocket.make({ dial, acknowledge: { ...acknowledge, window: 1 } })
      )
      yield* socket.send("0")
      yield* socket.send("1")
      yield* settle
      yield* Effect.scoped(socket.subscribe({ open: "+gold", close: "-gold" }))
      yield* settle
      assert.deepStrictEqual(peer.got, ["0", "+gold", "-gold"])
      yield* peer.send("ack 0")
      yield* settle
      assert.deepStrictEqual(peer.got, ["0", "+gold", "-gold", "1"])
    }))
})

// -----------------------------------------------------------------------------

describe("the heartbeat", () => {
  test("lets a peer that answers live, however silent it is otherwise", () =>
    Effect.gen(function*() {
      const { events, server, socket } = yield* connected(ReconnectingSocket.make({ dial }))
      yield* pass(600_000)
      assert.strictEqual((yield* socket.state)._tag, "Open")
      assert.deepStrictEqual(ofTag(events, "Lost"), [])
      assert.lengthOf(server.times, 1)
    }))

  it.scoped("pings after 15 seconds of silence, and gives up 10 more later", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      const { events } = yield* onWires([wire], { backoff: steady })
      yield* pass(14_999)
      assert.strictEqual(wire.pings, 0)
      yield* pass(1)
      assert.strictEqual(wire.pings, 1)
      yield* pass(9_999)
      assert.lengthOf(ofTag(events, "Lost"), 0)
      yield* pass(1)
      assert.deepInclude(ofTag(events, "Lost")[0]!.failure as object, { reason: "HeartbeatTimeout" })
      assert.isTrue(wire.isTerminated)
    })
  })

  it.scoped("beats on a clock of fractions, where what is left can be less than a nanosecond", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      // 15,000 later it is, to a double, 15,000 less 2e-12 later.
      yield* TestClock.adjust(1385.634)
      yield* onWires([wire], { backoff: steady })
      yield* pass(14_999)
      assert.strictEqual(wire.pings, 0)
      yield* pass(2)
      assert.strictEqual(wire.pings, 1)
    })
  })

  for (const sign of ["a message", "a control frame", "what does not decode"] as const) {
    it.scoped(`takes ${sign} for a sign of life, before and after it has asked`, () => {
      const wire = new Wire()
      return Effect.gen(function*() {
        const { events } = yield* onWires([wire], {
          heartbeat: { interval: "4 seconds", timeout: "2 seconds" },
          codec: {
            encode: (message: string) => message,
            decode: (message) => {
              if (message === "bad") throw new Error("bad")
              return message
            }
          }
        })
        const live = () => sign === "a control frame" ? wire.control() : wire.say(sign === "a message" ? "x" : "bad")
        yield* pass(3_999)
        live()
        yield* pass(3_999)
        assert.strictEqual(wire.pings, 0)
        yield* pass(1)
        assert.strictEqual(wire.pings, 1)
        yield* pass(1_999)
        live()
        yield* pass(3_999)
        assert.deepStrictEqual([wire.pings, ofTag(events, "Lost").length], [1, 0])
        yield* pass(1)
        assert.strictEqual(wire.pings, 2)
        yield* pass(2_000)
        assert.lengthOf(ofTag(events, "Lost"), 1)
      })
    })
  }

  test("asks with a message of yours, and keeps its answer from `messages`", () =>
    Effect.gen(function*() {
      const { events, peer, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: steady,
        heartbeat: {
          interval: "5 seconds",
          timeout: "1 seconds",
          ping: "ping",
          isPong: (message) => message === "pong"
        }
      }))
      const messages = yield* recorded(socket.messages)
      yield* pass(4_999)
      assert.deepStrictEqual(peer.got, [])
      yield* pass(1)
      assert.deepStrictEqual(peer.got, ["ping"])
      yield* pass(999)
      yield* peer.send("pong")
      yield* peer.send("news")
      yield* pass(5_000)
      assert.deepStrictEqual(peer.got, ["ping", "ping"])
      yield* pass(999)
      assert.lengthOf(ofTag(events, "Lost"), 0)
      yield* pass(1)
      assert.deepInclude(ofTag(events, "Lost")[0]!.failure as object, { reason: "HeartbeatTimeout" })
      assert.deepStrictEqual(messages.all, ["news"])
    }))

  test("asks anew on each connection, for as long as it lasts", () =>
    Effect.gen(function*() {
      const { peer, server } = yield* connected(ReconnectingSocket.make({
        dial,
        backoff: steady,
        heartbeat: { interval: "5 seconds", timeout: "1 seconds", ping: "ping" }
      }))
      yield* pass(3_000)
      yield* peer.reset
      yield* pass(1_000)
      const second = yield* server.open
      yield* pass(4_999)
      assert.deepStrictEqual(second.got, [])
      yield* pass(1)
      assert.deepStrictEqual(second.got, ["ping"])
      assert.deepStrictEqual(peer.got, [])
    }))

  it.scoped("does not count while reading is paused, nor what it was silent then", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires([wire], { inbox: { capacity: 2 } })
      yield* settle
      yield* pass(14_000)
      wire.say("1")
      wire.say("2")
      yield* settle
      assert.isTrue(wire.isPaused)
      yield* pass(3_600_000)
      assert.deepStrictEqual([wire.pings, ofTag(events, "Lost").length], [0, 0])
      yield* Stream.runDrain(Stream.take(socket.messages, 2))
      yield* settle
      assert.isFalse(wire.isPaused)
      yield* pass(14_999)
      assert.strictEqual(wire.pings, 0)
      yield* pass(1)
      assert.strictEqual(wire.pings, 1)
      yield* pass(10_000)
      assert.lengthOf(ofTag(events, "Lost"), 1)
    })
  })

  it.scoped("has its deadline stopped by a pause that comes after the ping", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires([wire], { inbox: { capacity: 1 } })
      yield* pass(15_000)
      yield* pass(5_000)
      wire.say("1")
      yield* pass(3_600_000)
      assert.lengthOf(ofTag(events, "Lost"), 0)
      yield* Stream.runDrain(Stream.take(socket.messages, 1))
      yield* pass(24_999)
      assert.lengthOf(ofTag(events, "Lost"), 0)
      yield* pass(1)
      assert.lengthOf(ofTag(events, "Lost"), 1)
    })
  })

  for (
    const [name, can, heartbeat] of [["the platform has no ping", { ping: false }, undefined], [
      "it is off",
      {},
      false
    ]] as const
  ) {
    it.scoped(`asks nothing where ${name}`, () => {
      const wire = new Wire(can)
      return Effect.gen(function*() {
        const { events, socket } = yield* onWires([wire], { heartbeat })
        yield* pass(3_600_000)
        assert.strictEqual((yield* socket.state)._tag, "Open")
        assert.deepStrictEqual([wire.pings, wire.taken.length, ofTag(events, "Lost").length], [0, 0, 0])
      })
    })
  }

  it.scoped("asks with your message where the platform has no ping", () => {
    const wire = new Wire({ ping: false })
    return Effect.gen(function*() {
      yield* onWires([wire], { heartbeat: { ping: "ping" } })
      yield* pass(15_000)
      assert.deepStrictEqual(wire.taken, ["ping"])
    })
  })

  it.scoped("is not held up by a write that hangs", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires([wire], { backoff: steady, writeTimeout: "10 minutes" })
      yield* settle
      yield* socket.send("stuck")
      yield* pass(25_000)
      assert.deepInclude(ofTag(events, "Lost")[0]!.failure as object, { reason: "HeartbeatTimeout" })
    })
  })

  for (const when of ["before", "after"]) {
    it.scoped(`is not kept waiting by a clock that is set back, ${when} it has asked`, () => {
      const wire = new Wire()
      return Effect.gen(function*() {
        const clock = yield* Effect.clock
        let back = 0
        const now = () => clock.unsafeCurrentTimeMillis() - back
        const { events } = yield* Effect.withClock(onWires([wire], { backoff: steady }), {
          [Clock.ClockTypeId]: Clock.ClockTypeId,
          unsafeCurrentTimeMillis: now,
          unsafeCurrentTimeNanos: () => clock.unsafeCurrentTimeNanos(),
          currentTimeMillis: Effect.sync(now),
          currentTimeNanos: clock.currentTimeNanos,
          sleep: (duration) => clock.sleep(duration)
        })
        yield* settle
        yield* pass(when === "before" ? 14_000 : 16_000)
        back = 3_600_000
        for (let second = 0; second < 30; second++) yield* pass(1_000)
        assert.deepStrictEqual(ofTag(events, "Lost").map(({ failure }) => failure), [lost("HeartbeatTimeout")])
      })
    })
  }
})

describe("a write that is not done", () => {
  it.scoped("ends the connection after the write timeout, to the millisecond", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires([wire], { backoff: steady, writeTimeout: "5 seconds" })
      yield* pass(1_000)
      yield* socket.send("a")
      yield* pass(3_000)
      wire.take()
      yield* settle
      yield* pass(1_000)
      yield* socket.send("b")
      yield* pass(4_999)
      assert.lengthOf(ofTag(events, "Lost"), 0)
      yield* pass(1)
      assert.deepInclude(ofTag(events, "Lost")[0]!.failure as object, { reason: "WriteTimeout" })
      assert.isTrue(wire.isTerminated)
    })
  })

  it.scoped("is each write, not many that follow one another", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires([wire], {
        heartbeat: false,
        writeTimeout: "5 seconds",
        outbox: { window: 1 }
      })
      yield* settle
      for (let n = 0; n < 20; n++) yield* socket.send(`${n}`)
      for (let n = 0; n < 20; n++) {
        yield* pass(4_000)
        wire.take()
        yield* settle
      }
      assert.lengthOf(ofTag(events, "Lost"), 0)
      assert.lengthOf(wire.taken, 20)
    })
  })

  it.scoped("is told so for what the login writes, and for a ping message", () => {
    const wires = [new Wire({ isHeld: true }), new Wire({ isHeld: true })]
    return Effect.gen(function*() {
      let opens = 0
      const { events } = yield* onWires(wires, {
        backoff: steady,
        writeTimeout: "3 seconds",
        heartbeat: { interval: "4 seconds", ping: "ping" },
        onOpen: ({ send }) => opens++ === 0 ? send("login") : Effect.void
      })
      yield* pass(3_000)
      assert.deepInclude(ofTag(events, "Lost")[0]!.failure as object, { reason: "WriteTimeout" })
      yield* pass(1_000)
      yield* pass(7_000)
      assert.deepInclude(ofTag(events, "Lost")[1]!.failure as object, { reason: "WriteTimeout" })
    })
  })

  it.scoped("is told so for a platform's ping, too, of a peer that still talks", () => {
    const wire = new Wire()
    Object.assign(wire.connection, { ping: Option.some(Effect.never) })
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires([wire], { backoff: steady, writeTimeout: "5 seconds" })
      yield* pass(15_000)
      yield* socket.send("a")
      yield* pass(4_999)
      wire.say("news")
      assert.lengthOf(ofTag(events, "Lost"), 0)
      yield* pass(1)
      assert.deepStrictEqual(ofTag(events, "Lost").map(({ failure }) => failure), [lost("WriteTimeout")])
    })
  })
})

describe("what comes in", () => {
  test("is told in order, across connections, to a consumer that comes late", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(ReconnectingSocket.make({ dial, backoff: steady }))
      yield* peer.send("a")
      yield* peer.send(Uint8Array.of(1))
      yield* peer.reset
      yield* pass(1000)
      const second = yield* server.open
      yield* second.send("b")
      yield* settle
      assert.deepStrictEqual([...yield* Stream.runCollect(Stream.take(socket.messages, 3))], [
        "a",
        Uint8Array.of(1),
        "b"
      ])
    }))

  it.scoped("and is not taken pauses the connection, and nothing is lost", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires([wire], { inbox: { capacity: 3 } })
      yield* settle
      for (let n = 0; n < 3; n++) wire.say(`${n}`)
      yield* settle
      assert.isTrue(wire.isPaused)
      // What was on its way.
      wire.say("3")
      assert.deepStrictEqual(
        [...yield* Stream.runCollect(Stream.take(socket.messages, 4))],
        ["0", "1", "2", "3"]
      )
      yield* settle
      assert.isFalse(wire.isPaused)
      assert.strictEqual(wire.pauses, 1)
      assert.lengthOf(ofTag(events, "Lost"), 0)
    })
  })

  it.scoped("pauses while the connection opens as well, and when it is handed over", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      const cue = yield* Deferred.make<void>()
      const { socket } = yield* onWires([wire], { inbox: { capacity: 3 }, onOpen: () => Deferred.await(cue) })
      yield* settle
      for (let n = 0; n < 3; n++) wire.say(`${n}`)
      yield* settle
      assert.isTrue(wire.isPaused)
      yield* Deferred.succeed(cue, undefined)
      yield* settle
      assert.isTrue(wire.isPaused)
      yield* Stream.runDrain(Stream.take(socket.messages, 3))
      yield* settle
      assert.isFalse(wire.isPaused)
    })
  })

  it.scoped("pauses the next connection too, while what the last one brought is not taken", () => {
    const wires = [new Wire(), new Wire()]
    return Effect.gen(function*() {
      const { socket } = yield* onWires(wires, { inbox: { capacity: 2 }, backoff: steady })
      yield* settle
      wires[0]!.say("0")
      wires[0]!.say("1")
      yield* settle
      wires[0]!.reset()
      yield* pass(1000)
      assert.isTrue(wires[1]!.isPaused)
      yield* Stream.runDrain(Stream.take(socket.messages, 2))
      yield* settle
      assert.isFalse(wires[1]!.isPaused)
    })
  })

  it.scoped("pauses at 16 MiB", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      yield* onWires([wire], {})
      yield* settle
      for (let n = 0; n < 15; n++) wire.say(new Uint8Array(1024 * 1024))
      yield* settle
      assert.isFalse(wire.isPaused)
      wire.say(new Uint8Array(1024 * 1024))
      yield* settle
      assert.isTrue(wire.isPaused)
    })
  })

  it.scoped("acknowledges, and lets live, where nobody takes the messages", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], { inbox: { capacity: 2 }, acknowledge })
      yield* settle
      const delivering = yield* Effect.fork(socket.deliver("0"))
      yield* settle
      wire.say("news")
      wire.say("ack 0")
      yield* Fiber.join(delivering)
      assert.isFalse(wire.isPaused)
    })
  })

  test("faster than it is taken ends a connection that cannot be paused; what was in is told", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* connected(
        ReconnectingSocket.make({ dial, backoff: steady, inbox: { capacity: 2 }, acknowledge })
      )
      for (const message of ["0", "1", "ack 7", "2", "3"]) yield* peer.send(message)
      yield* settle
      assert.deepStrictEqual(ofTag(events, "Lost").map(({ failure }) => failure), [lost("InboxOverflow")])
      yield* pass(1000)
      const second = yield* server.open
      const messages = yield* recorded(socket.messages)
      yield* second.send("4")
      yield* settle
      assert.deepStrictEqual(messages.all, ["0", "1", "4"])
    }))

  for (
    const [name, message, longer] of [["text", "äääää", "äääääa"], [
      "bytes",
      new Uint8Array(10),
      new Uint8Array(11)
    ]] as const
  ) {
    test(`is at most so long (${name})`, () =>
      Effect.gen(function*() {
        const { events, peer, server, socket } = yield* connected(
          ReconnectingSocket.make({ dial, backoff: steady, maxPayload: 10 })
        )
        const messages = yield* recorded(socket.messages)
        yield* peer.send(message)
        yield* peer.send(longer)
        yield* settle
        assert.deepStrictEqual(messages.all, [message])
        assert.deepInclude(ofTag(events, "Lost")[0]!.failure as object, { reason: "InvalidData" })
        yield* pass(1000)
        assert.strictEqual((yield* server.next).request.maxPayload, 10)
      }))
  }

  test("is for one consumer at a time, one after the other", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial }))
      const first = yield* recorded(socket.messages)
      assert.isTrue(Exit.isFailure(yield* Effect.exit(Stream.runDrain(socket.messages))))
      yield* peer.send("a")
      yield* settle
      yield* Fiber.interrupt(first.fiber)
      yield* peer.send("b")
      const second = yield* recorded(socket.messages)
      assert.deepStrictEqual([first.all, second.all], [["a"], ["b"]])
    }))

  it.scoped("while the connection opens is handed over, however much it is", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      const count = 200_000
      const cue = yield* Deferred.make<void>()
      const { socket } = yield* onWires([wire], { inbox: { capacity: 2 * count }, onOpen: () => Deferred.await(cue) })
      yield* settle
      for (let n = 0; n < count; n++) wire.say("x")
      yield* Deferred.succeed(cue, undefined)
      yield* settle
      assert.strictEqual((yield* socket.state)._tag, "Open")
      assert.strictEqual(yield* Stream.runCount(Stream.take(socket.messages, count)), count)
    })
  })
})

describe("a codec", () => {
  const numbers = {
    encode: (n: number) => {
      if (n === 13) throw new Error("unlucky")
      return n < 0 ? undefined as never : `${n}`
    },
    decode: (message: Message) => {
      if (Number.isNaN(Number(message))) throw new Error("no number")
      return Number(message)
    }
  }

  for (const [n, what] of [[13, "throws"], [-1, "gives what is neither text nor bytes"]] as const) {
    test(`whose encode ${what} fails the send; nothing is sent, and the socket goes on`, () =>
      Effect.gen(function*() {
        const { events, peer, socket } = yield* connected(ReconnectingSocket.make({ dial, codec: numbers }))
        yield* socket.send(1)
        const error = yield* Effect.flip(socket.send(n))
        assert.strictEqual(error._tag, "EncodeError")
        assert.instanceOf((error as ReconnectingSocket.EncodeError).cause, Error)
        assert.strictEqual((yield* Effect.flip(socket.deliver(n)))._tag, "EncodeError")
        yield* socket.send(2)
        yield* settle
        assert.deepStrictEqual(peer.got, ["1", "2"])
        assert.lengthOf(ofTag(events, "Lost"), 0)
      }))
  }

  test("whose decode throws leaves the message out, with an event that has it as it came", () =>
    Effect.gen(function*() {
      const { events, peer, socket } = yield* connected(ReconnectingSocket.make({ dial, codec: numbers }))
      const messages = yield* recorded(socket.messages)
      for (const message of ["1", "x", "2"]) yield* peer.send(message)
      yield* settle
      assert.deepStrictEqual(messages.all, [1, 2])
      const [rejected] = ofTag(events, "Rejected")
      assert.deepInclude(rejected as object, { callback: "decode", message: "x" })
      assert.instanceOf(rejected!.cause, Error)
      assert.strictEqual((yield* socket.state)._tag, "Open")
    }))

  test("whose decode throws throws for the login's answer as well, and the next one is received", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        codec: numbers,
        onOpen: ({ receive }) => Effect.map(receive, (n) => assert.strictEqual(n, 7))
      }))
      yield* peer.send("hello")
      yield* peer.send("7")
      yield* settle
      assert.strictEqual((yield* socket.state)._tag, "Open")
    }))

  const schemas = {
    in: Schema.Struct({ at: Schema.Date }),
    out: Schema.Struct({ price: Schema.NumberFromString.pipe(Schema.positive()) })
  }

  test("of JSON goes through schemas, both ways", () =>
    Effect.gen(function*() {
      const { events, peer, socket } = yield* connected(
        ReconnectingSocket.make({ dial, codec: ReconnectingSocket.json(schemas) })
      )
      const messages = yield* recorded(socket.messages)
      yield* socket.send({ price: 5 })
      assert.strictEqual((yield* Effect.flip(socket.send({ price: -5 })))._tag, "EncodeError")
      yield* settle
      assert.deepStrictEqual(peer.got, [`{"price":"5"}`])
      const bad = ["{", `{"at":"never"}`, "null", Uint8Array.of(0xff)]
      for (
        const message of [
          `{"at":"2020-01-01T00:00:00.000Z"}`,
          ...bad,
          new TextEncoder().encode(`{"at":"2021-01-01T00:00:00.000Z"}`)
        ]
      ) {
        yield* peer.send(message)
      }
      yield* settle
      assert.deepStrictEqual(messages.all, [{ at: new Date("2020-01-01") }, { at: new Date("2021-01-01") }])
      assert.deepStrictEqual(ofTag(events, "Rejected").map(({ message }) => message), bad)
    }))

  test("of JSON refuses what JSON cannot say", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({
        dial,
        codec: ReconnectingSocket.json({ in: Schema.Unknown, out: Schema.Unknown })
      }))
      const cyclic: Record<string, unknown> = {}
      cyclic["self"] = cyclic
      for (const message of [undefined, () => 1, 1n, cyclic]) {
        assert.strictEqual((yield* Effect.flip(socket.send(message)))._tag, "EncodeError")
      }
      yield* settle
      assert.deepStrictEqual(peer.got, [])
    }))
})

describe("a callback that throws is an event, and the socket goes on:", () => {
  const thrown = new Error("thrown")
  const throwing = (): never => {
    throw thrown
  }

  test("isPong", () =>
    Effect.gen(function*() {
      const { events, peer, socket } = yield* connected(
        ReconnectingSocket.make({ dial, heartbeat: { isPong: throwing } })
      )
      const messages = yield* recorded(socket.messages)
      yield* peer.send("a")
      yield* settle
      assert.deepStrictEqual(ofTag(events, "Rejected"), [{
        _tag: "Rejected",
        callback: "isPong",
        message: "a",
        cause: thrown
      }])
      assert.deepStrictEqual(messages.all, ["a"])
    }))

  test("acknowledged", () =>
    Effect.gen(function*() {
      const { events, peer, socket } = yield* connected(
        ReconnectingSocket.make({ dial, acknowledge: { id: (message: Message) => message, acknowledged: throwing } })
      )
      const messages = yield* recorded(socket.messages)
      yield* peer.send("a")
      yield* settle
      assert.deepStrictEqual(ofTag(events, "Rejected"), [{
        _tag: "Rejected",
        callback: "acknowledged",
        message: "a",
        cause: thrown
      }])
      assert.deepStrictEqual(messages.all, ["a"])
    }))

  test("acknowledged, when it gives no Option", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(
        ReconnectingSocket.make({
          dial,
          acknowledge: { id: (message: Message) => message, acknowledged: () => undefined as never }
        })
      )
      const messages = yield* recorded(socket.messages)
      yield* peer.send("a")
      yield* peer.send("b")
      yield* settle
      assert.deepStrictEqual(messages.all, ["a", "b"])
    }))

  test("acknowledge.id, which fails the send", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(
        ReconnectingSocket.make({ dial, acknowledge: { id: throwing, acknowledged: () => Option.none() } })
      )
      assert.strictEqual((yield* Effect.flip(socket.send("a")))._tag, "EncodeError")
      yield* settle
      assert.deepStrictEqual(peer.got, [])
    }))

  test("retryable, and the default goes", () =>
    Effect.gen(function*() {
      const { events, server, socket } = yield* dialing(
        ReconnectingSocket.make({ dial, backoff: steady, retryable: throwing })
      )
      yield* server.refuse(503)
      assert.strictEqual((yield* socket.state)._tag, "Waiting")
      yield* pass(1000)
      yield* server.refuse(403)
      assert.strictEqual((yield* socket.state)._tag, "Closed")
      assert.deepStrictEqual(
        ofTag(events, "Rejected").map(({ callback, cause }) => [callback, cause]),
        [["retryable", thrown], ["retryable", thrown]]
      )
    }))

  test("rejected, and the default goes", () =>
    Effect.gen(function*() {
      const session = yield* Session.make({ acquire: Effect.succeed("token"), renew: () => Effect.succeed("fresh") })
      const { events, server, socket } = yield* dialing(ReconnectingSocket.make({
        dial,
        backoff: steady,
        session: { session, attach: (request) => request, rejected: throwing }
      }))
      yield* server.refuse(503)
      assert.strictEqual((yield* socket.state)._tag, "Waiting")
      assert.deepStrictEqual(ofTag(events, "Rejected").map(({ callback }) => callback), ["rejected"])
      yield* pass(1000)
      yield* server.refuse(401)
      yield* server.open
      assert.strictEqual((yield* socket.state)._tag, "Open")
    }))

  test("attach, which is a failed attempt", () =>
    Effect.gen(function*() {
      const session = yield* Session.make({ acquire: Effect.succeed("token") })
      let n = 0
      const { events, server, socket } = yield* dialing(ReconnectingSocket.make({
        dial,
        backoff: steady,
        session: { session, attach: (request) => n++ === 0 ? throwing() : request }
      }))
      assert.deepInclude(ofTag(events, "Waiting")[0]!.failure as object, {
        _tag: "DialError",
        reason: "Transport",
        cause: thrown
      })
      yield* pass(1000)
      yield* server.open
      assert.strictEqual((yield* socket.state)._tag, "Open")
    }))

  for (
    const [how, schedule] of [
      ["dies", Schedule.mapEffect(steady, () => Effect.die(thrown))],
      ["throws", Schedule.map(steady, throwing)]
    ] as const
  ) {
    test(`but a schedule that ${how} has ended`, () =>
      Effect.gen(function*() {
        const { server, socket } = yield* dialing(ReconnectingSocket.make({ dial, backoff: schedule }))
        yield* server.refuse(503)
        const error = yield* Effect.flip(socket.awaitOpen)
        assert.strictEqual(error._tag, "SocketFailed")
        assert.deepInclude((error as ReconnectingSocket.SocketFailed).failure as object, { status: 503 })
      }))
  }

  test("backoff, which has ended with that", () =>
    Effect.gen(function*() {
      const { events, peer, socket } = yield* connected(
        ReconnectingSocket.make({ dial, backoff: Schedule.mapEffect(steady, () => Effect.die(thrown)) })
      )
      yield* peer.reset
      yield* settle
      assert.deepStrictEqual(ofTag(events, "Rejected").map(({ callback, cause }) => [callback, cause]), [[
        "backoff",
        thrown
      ]])
      assert.strictEqual((yield* socket.state)._tag, "Closed")
    }))
})

// -----------------------------------------------------------------------------

describe("a session", () => {
  const signed = (renew: (n: number) => Effect.Effect<string, string> = (n) => Effect.succeed(`v${n}`)) => {
    let calls = 0
    const attach = (request: WebSocketDialer.DialRequest, token: string) => ({
      ...request,
      headers: { authorization: token }
    })
    return Effect.map(
      Session.make({
        acquire: Effect.succeed("v0"),
        renew: () => Effect.suspend(() => renew(++calls))
      }),
      (session) => ({ session, attach, calls: () => calls })
    )
  }
  const tokenOf = ({ request }: WebSocketDialer.Attempt) => (request.headers as Record<string, string>)["authorization"]

  const refusals: Record<string, (attempt: WebSocketDialer.Attempt) => Effect.Effect<void>> = {
    "an upgrade refused with 401": ({ refuse }) => refuse(401),
    "a close with 4401": ({ open }) => Effect.flatMap(open(), ({ close }) => Effect.zipRight(settle, close(4401)))
  }
  for (const [what, refuse] of Object.entries(refusals)) {
    test(`is refreshed once after ${what}, for a hundred sockets and two hundred callers, and all dial at once`, () =>
      Effect.gen(function*() {
        const { attach, calls, session } = yield* signed((n) => Effect.delay(Effect.succeed(`v${n}`), "20 millis"))
        const server = yield* serving
        const sockets = yield* Effect.forEach(
          Array.from({ length: 100 }),
          () => ReconnectingSocket.make({ dial, backoff: steady, session: { session, attach } })
        )
        const stale = yield* session.current
        const first = yield* Effect.forEach(sockets, () => server.next)
        assert.deepStrictEqual(new Set(first.map(tokenOf)), new Set(["v0"]))
        yield* Effect.forEach(first, (attempt) => refuse(attempt), { concurrency: "unbounded" })
        const callers = yield* Effect.fork(
          Effect.all(Array.from({ length: 200 }, () => session.refresh(stale)), { concurrency: "unbounded" })
        )
        yield* pass(20)
        const second = yield* Effect.forEach(sockets, () => server.next)
        assert.deepStrictEqual(new Set(second.map(tokenOf)), new Set(["v1"]))
        assert.deepStrictEqual(new Set((yield* Fiber.join(callers)).map(({ value }) => value)), new Set(["v1"]))
        assert.strictEqual(calls(), 1)
        assert.strictEqual(server.times.at(-1), 20)
      }))

    test(`whose fresh value is refused too (${what}) backs off, and is refreshed again`, () =>
      Effect.gen(function*() {
        const { attach, calls, session } = yield* signed()
        const { server } = yield* dialing(
          ReconnectingSocket.make({ dial, backoff: steady, session: { session, attach } })
        )
        const tokens: Array<string | undefined> = []
        for (const delay of [0, 1000, 2000, 4000]) {
          const attempt = yield* server.next
          tokens.push(tokenOf(attempt))
          yield* refuse(attempt)
          yield* settle
          if (delay > 0) {
            yield* pass(delay - 1)
            assert.lengthOf(server.unanswered, 0)
            yield* pass(1)
          }
        }
        tokens.push(tokenOf(yield* server.next))
        assert.deepStrictEqual(tokens, ["v0", "v1", "v2", "v3", "v4"])
        assert.strictEqual(calls(), 4)
        assert.deepStrictEqual(server.times, [0, 0, 1000, 3000, 7000])
      }))
  }

  test("is refreshed at once again after a connection that was stable", () =>
    Effect.gen(function*() {
      const { attach, session } = yield* signed()
      const { server } = yield* dialing(
        ReconnectingSocket.make({ dial, backoff: steady, session: { session, attach } })
      )
      yield* server.refuse(401)
      const peer = yield* server.open
      yield* pass(30_000)
      yield* peer.close(4401)
      assert.strictEqual(tokenOf(yield* server.next), "v2")
      assert.deepStrictEqual(server.times, [0, 0, 30_000])
    }))

  test("that another has refreshed already is not refreshed again", () =>
    Effect.gen(function*() {
      const { attach, calls, session } = yield* signed()
      const { peer, server } = yield* connected(
        ReconnectingSocket.make({ dial, backoff: steady, session: { session, attach } })
      )
      yield* session.refresh(yield* session.current)
      yield* peer.close(4401)
      assert.strictEqual(tokenOf(yield* server.next), "v1")
      assert.strictEqual(calls(), 1)
    }))

  test("is asked for its present value by each dial", () =>
    Effect.gen(function*() {
      const { attach, session } = yield* signed()
      const { peer, server } = yield* connected(
        ReconnectingSocket.make({ dial, backoff: steady, session: { session, attach } })
      )
      yield* session.refresh(yield* session.current)
      yield* peer.reset
      yield* pass(1000)
      assert.strictEqual(tokenOf(yield* server.next), "v1")
    }))

  test("whose refresh fails is a failed attempt, and is asked again after the delay", () =>
    Effect.gen(function*() {
      const { attach, session } = yield* signed((n) => n === 1 ? Effect.fail("not now") : Effect.succeed(`v${n}`))
      const { events, server } = yield* dialing(
        ReconnectingSocket.make({ dial, backoff: steady, session: { session, attach } })
      )
      yield* server.refuse(401)
      assert.lengthOf(server.unanswered, 0)
      assert.deepInclude(ofTag(events, "Waiting")[0]!.failure as object, { _tag: "DialError", cause: "not now" })
      yield* pass(1000)
      assert.strictEqual(tokenOf(yield* server.next), "v2")
    }))

  test("that is closed makes the socket give up", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const { attach, session } = yield* Scope.extend(signed(), scope)
      const { peer, server, socket } = yield* connected(
        ReconnectingSocket.make({ dial, backoff: steady, session: { session, attach } })
      )
      yield* Scope.close(scope, Exit.void)
      yield* settle
      assert.strictEqual((yield* socket.state)._tag, "Open")
      yield* peer.reset
      yield* pass(1000)
      const error = yield* Effect.flip(socket.awaitOpen)
      assert.strictEqual(error._tag, "SocketFailed")
      assert.deepInclude((error as ReconnectingSocket.SocketFailed).failure.cause as object, { _tag: "SessionClosed" })
      yield* pass(3_600_000)
      assert.lengthOf(server.times, 1)
    }))

  test("is refreshed for what you say is a rejection, and for nothing else", () =>
    Effect.gen(function*() {
      const { attach, session } = yield* signed()
      const { server } = yield* dialing(ReconnectingSocket.make({
        dial,
        backoff: steady,
        session: {
          session,
          attach,
          rejected: (failure) => failure._tag === "ConnectionClosed" && failure.code === 4003
        }
      }))
      yield* server.refuse(401)
      yield* pass(1000)
      const attempt = yield* server.next
      assert.strictEqual(tokenOf(attempt), "v0")
      yield* Effect.flatMap(attempt.open(), ({ close }) => Effect.zipRight(settle, close(4003)))
      assert.strictEqual(tokenOf(yield* server.next), "v1")
    }))

  test("has its value attached to what an effect gives, afresh for each attempt", () =>
    Effect.gen(function*() {
      const { attach, session } = yield* signed()
      let n = 0
      const { server } = yield* dialing(ReconnectingSocket.make({
        dial: Effect.sync(() => ({ url: `ws://test/${n++}` })),
        backoff: steady,
        session: { session, attach }
      }))
      yield* server.refuse(401)
      const { request } = yield* server.next
      assert.deepInclude(request as object, { url: "ws://test/1", headers: { authorization: "v1" } })
    }))
})

describe("reconnect", () => {
  test("while it dials gives the dial up, and dials now", () =>
    Effect.gen(function*() {
      const { events, server, socket } = yield* dialing(ReconnectingSocket.make({ dial, backoff: steady }))
      const hanging = yield* server.next
      yield* socket.reconnect
      const fresh = yield* server.next
      yield* hanging.open()
      yield* settle
      assert.strictEqual((yield* socket.state)._tag, "Dialing")
      yield* fresh.open()
      yield* settle
      assert.strictEqual((yield* socket.state)._tag, "Open")
      assert.lengthOf(ofTag(events, "Lost"), 0)
      assert.deepStrictEqual(server.times, [0, 0])
    }))

  test("while it opens drops the connection, and dials now", () =>
    Effect.gen(function*() {
      let n = 0
      const { events, peer, server, socket } = yield* connected(
        ReconnectingSocket.make({ dial, backoff: steady, onOpen: () => n++ === 0 ? Effect.never : Effect.void })
      )
      assert.strictEqual((yield* socket.state)._tag, "Opening")
      yield* socket.reconnect
      yield* server.open
      yield* peer.ended
      assert.strictEqual((yield* socket.state)._tag, "Open")
      assert.deepStrictEqual(server.times, [0, 0])
      assert.lengthOf(ofTag(events, "Lost"), 1)
    }))

  test("while it is open drops the connection, and dials now, once for all who ask", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* connected(ReconnectingSocket.make({ dial, backoff: steady }))
      yield* Effect.all([socket.reconnect, socket.reconnect, socket.reconnect], { concurrency: "unbounded" })
      yield* server.open
      yield* peer.ended
      yield* pass(60_000)
      assert.deepStrictEqual(server.times, [0, 0])
      assert.deepStrictEqual(ofTag(events, "Lost").map(({ failure }) => failure._tag), ["ConnectionLost"])
      assert.strictEqual((yield* socket.state)._tag, "Open")
    }))

  test("while it waits dials now", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* dialing(ReconnectingSocket.make({ dial, backoff: steady }))
      yield* server.refuse(503, { "retry-after": "300" })
      yield* pass(10)
      yield* socket.reconnect
      yield* server.open
      assert.deepStrictEqual(server.times, [0, 10])
      yield* pass(300_000)
      assert.lengthOf(server.times, 2)
    }))

  test("when it is closed does nothing", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* connected(ReconnectingSocket.make({ dial }))
      yield* socket.close()
      yield* socket.reconnect
      yield* pass(60_000)
      assert.lengthOf(server.times, 1)
      assert.strictEqual((yield* socket.state)._tag, "Closed")
    }))

  test("loses nothing that is acknowledged", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* connected(ReconnectingSocket.make({ dial, acknowledge }))
      yield* socket.send("0")
      yield* settle
      yield* socket.reconnect
      yield* socket.send("1")
      assert.deepStrictEqual((yield* server.open).got, ["0", "1"])
    }))
})

describe("close", () => {
  test("writes what is queued, sends the close frame, and ends everything", () =>
    Effect.gen(function*() {
      const { events, peer, socket } = yield* connected(ReconnectingSocket.make({ dial }))
      const messages = yield* recorded(socket.messages)
      const states = yield* recorded(socket.stateChanges)
      for (let n = 0; n < 1000; n++) yield* socket.send(`${n}`)
      yield* socket.close(4000, "bye")
      assert.deepStrictEqual(yield* peer.ended, new WebSocketDialer.ConnectionClosed({ code: 4000, reason: "bye" }))
      yield* Effect.repeatN(settle, 10)
      assert.lengthOf(peer.got, 1000)
      const info = { code: 4000, reason: "bye", failure: Option.none() }
      assert.deepStrictEqual(yield* socket.state, { _tag: "Closed", info })
      assert.deepStrictEqual(events.at(-1), { _tag: "Closed", info })
      assert.deepStrictEqual(states.all.at(-1), { _tag: "Closed", info })
      for (const fiber of [messages.fiber, states.fiber]) assert.isTrue(Exit.isSuccess(yield* Fiber.await(fiber)))
      assert.deepStrictEqual(yield* Effect.flip(socket.send("late")), new ReconnectingSocket.SocketClosed({ info }))
      assert.strictEqual((yield* Effect.flip(socket.deliver("late")))._tag, "SocketClosed")
      assert.strictEqual((yield* Effect.flip(socket.flush))._tag, "SocketClosed")
      assert.strictEqual((yield* Effect.flip(socket.awaitOpen))._tag, "SocketClosed")
      assert.strictEqual((yield* Effect.flip(Effect.scoped(socket.subscribe({ open: "+" }))))._tag, "SocketClosed")
      assert.lengthOf(ofTag(events, "Lost"), 0)
    }))

  for (
    const [code, sent] of [
      [undefined, 1000],
      [1001, 1001],
      [4999, 4999],
      [1004, 1000],
      [1005, 1000],
      [1006, 1000],
      [1015, 1000],
      [999, 1000],
      [2000, 1000],
      [5000, 1000],
      [NaN, 1000],
      [-1, 1000],
      [1000.5, 1000],
      [1006.5, 1000]
    ] as const
  ) {
    test(`with ${code} sends ${sent}`, () =>
      Effect.gen(function*() {
        const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial }))
        yield* socket.close(code)
        assert.deepStrictEqual(yield* peer.ended, new WebSocketDialer.ConnectionClosed({ code: sent, reason: "" }))
      }))
  }

  test("cuts a reason that is too long, not within a character", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial }))
      yield* socket.close(1000, `${"x".repeat(120)}😀`)
      const { reason } = (yield* peer.ended) as WebSocketDialer.ConnectionClosed
      assert.strictEqual(reason, "x".repeat(120))
    }))

  for (const state of ["Dialing", "Waiting", "Opening"] as const) {
    test(`while it is ${state} is done at once, and nothing is dialed again`, () =>
      Effect.gen(function*() {
        const { events, server, socket } = yield* dialing(
          ReconnectingSocket.make({ dial, backoff: steady, onOpen: () => Effect.never })
        )
        const attempt = yield* server.next
        if (state === "Waiting") yield* attempt.refuse(503)
        const peer = state === "Opening" ? yield* attempt.open() : undefined
        yield* settle
        assert.strictEqual((yield* socket.state)._tag, state)
        const delivering = yield* Effect.fork(socket.deliver("queued"))
        yield* settle
        yield* socket.close(4000)
        assert.strictEqual((yield* socket.state)._tag, "Closed")
        assert.strictEqual(failureOf(yield* Fiber.await(delivering))._tag, "SocketClosed")
        yield* settle
        assert.deepStrictEqual(ofTag(events, "Dropped"), [{ _tag: "Dropped", message: "queued", reason: "Closed" }])
        if (peer !== undefined) {
          assert.deepInclude((yield* peer.ended) as object, { _tag: "ConnectionClosed", code: 4000 })
        }
        yield* pass(3_600_000)
        assert.lengthOf(server.times, 1)
      }))
  }

  test("may be called again and by many, and is done for all at the same time", () =>
    Effect.gen(function*() {
      const { events, peer, socket } = yield* connected(ReconnectingSocket.make({ dial }))
      yield* Effect.all([socket.close(4000), socket.close(4001), socket.close()], { concurrency: "unbounded" })
      yield* socket.close()
      assert.deepInclude((yield* peer.ended) as object, { code: 4000 })
      yield* settle
      assert.lengthOf(ofTag(events, "Closed"), 1)
    }))

  test("has one bound of two seconds where the peer takes nothing, and drops what is left with an event each", () =>
    Effect.gen(function*() {
      const { events, peer, socket } = yield* connected(ReconnectingSocket.make({ dial }))
      yield* peer.stall
      const delivering = yield* Effect.fork(socket.deliver("in its hands"))
      yield* settle
      yield* socket.send("queued")
      const closing = yield* Effect.fork(socket.close())
      yield* pass(1_999)
      assert.isFalse(yield* isDone(closing))
      yield* pass(1)
      assert.isTrue(yield* isDone(closing))
      assert.isTrue(Exit.isFailure(yield* Fiber.await(delivering)))
      assert.sameDeepMembers(ofTag(events, "Dropped").map(({ message }) => message), ["in its hands", "queued"])
      assert.deepInclude((yield* peer.ended) as object, { _tag: "ConnectionLost" })
    }))

  test("has the same bound where the peer does not answer the close frame", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial }))
      yield* peer.stall
      const closing = yield* Effect.fork(socket.close())
      yield* pass(1_999)
      assert.isFalse(yield* isDone(closing))
      yield* pass(1)
      assert.isTrue(yield* isDone(closing))
    }))

  it.scoped("spends one bound in all, on draining and on the peer's answer", () => {
    const wire = new Wire({ isHeld: true })
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], {})
      yield* settle
      yield* socket.send("a")
      yield* settle
      const closing = yield* Effect.fork(socket.close(4000, "bye"))
      yield* pass(1_500)
      assert.isUndefined(wire.closed)
      wire.take()
      yield* settle
      assert.deepStrictEqual(wire.closed, [4000, "bye"])
      yield* pass(499)
      assert.isFalse(yield* isDone(closing))
      yield* pass(1)
      assert.isTrue(yield* isDone(closing))
      assert.isTrue(wire.isTerminated)
    })
  })

  test("waits for acknowledgements, within the bound", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial, acknowledge }))
      const delivering = yield* Effect.fork(socket.deliver("0"))
      yield* settle
      const closing = yield* Effect.fork(socket.close())
      yield* pass(1_000)
      assert.isFalse(yield* isDone(closing))
      yield* peer.send("ack 0")
      yield* Fiber.join(delivering)
      yield* Fiber.join(closing)
      assert.deepInclude((yield* peer.ended) as object, { code: 1000 })
    }))

  it.scoped("is not kept by messages that nobody takes: the peer's close frame is read", () => {
    const wire = new Wire()
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], { inbox: { capacity: 1 } })
      yield* settle
      wire.say("not taken")
      yield* settle
      assert.isTrue(wire.isPaused)
      yield* socket.close()
      assert.isFalse(wire.isPaused)
      assert.deepStrictEqual([...yield* Stream.runCollect(socket.messages)], ["not taken"])
    })
  })

  test("tells what has come in before `messages` ends", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial }))
      yield* peer.send("a")
      yield* socket.close()
      assert.deepStrictEqual([...yield* Stream.runCollect(socket.messages)], ["a"])
    }))

  test("within onOpen does not wait for itself", () =>
    Effect.gen(function*() {
      let close: Effect.Effect<void> = Effect.void
      const after: Array<string> = []
      const server = yield* serving
      const socket = yield* ReconnectingSocket.make({
        dial,
        onOpen: () => Effect.map(Effect.suspend(() => close), () => after.push("goes on"))
      })
      close = socket.close(4000)
      const peer = yield* server.open
      yield* settle
      assert.strictEqual((yield* socket.state)._tag, "Closed")
      assert.deepInclude((yield* peer.ended) as object, { code: 4000 })
    }))

  for (const where of ["messages", "events", "stateChanges"] as const) {
    test(`within a handler of ${where} is done`, () =>
      Effect.gen(function*() {
        const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial, backoff: steady }))
        const stream = socket[where] as Stream.Stream<unknown, ReconnectingSocket.SocketFailed>
        const handler = yield* Effect.fork(
          Stream.runForEach(Stream.drop(stream, where === "stateChanges" ? 1 : 0), () => socket.close())
        )
        yield* settle
        if (where === "messages") yield* peer.send("stop")
        else yield* socket.reconnect
        yield* Fiber.join(handler)
        assert.strictEqual((yield* socket.state)._tag, "Closed")
      }))
  }

  test("that is interrupted goes on", () =>
    Effect.gen(function*() {
      const { peer, socket } = yield* connected(ReconnectingSocket.make({ dial, acknowledge }))
      yield* socket.send("0")
      const closing = yield* Effect.fork(socket.close())
      yield* settle
      yield* Fiber.interrupt(closing)
      assert.strictEqual((yield* Effect.flip(socket.send("1")))._tag, "SocketClosed")
      yield* peer.send("ack 0")
      yield* settle
      assert.strictEqual((yield* socket.state)._tag, "Closed")
    }))

  test("lets go who waits for room", () =>
    Effect.gen(function*() {
      const { socket } = yield* dialing(ReconnectingSocket.make({ dial, outbox: { capacity: 1, overflow: "suspend" } }))
      yield* socket.send("a")
      const waiting = yield* Effect.fork(socket.send("b"))
      const delivering = yield* Effect.fork(socket.deliver("c"))
      yield* settle
      yield* socket.close()
      for (const fiber of [waiting, delivering]) {
        assert.strictEqual(failureOf(yield* Fiber.await(fiber))._tag, "SocketClosed")
      }
    }))

  test("does not dial again where the peer ends the connection meanwhile", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(ReconnectingSocket.make({ dial, acknowledge, backoff: steady }))
      yield* socket.send("0")
      const closing = yield* Effect.fork(socket.close())
      yield* settle
      yield* peer.reset
      yield* Fiber.join(closing)
      yield* pass(60_000)
      assert.lengthOf(server.times, 1)
    }))

  test("that follows a loss in the same moment leaves nothing dialed", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(ReconnectingSocket.make({ dial, backoff: Schedule.forever }))
      yield* peer.reset
      yield* socket.close()
      yield* pass(60_000)
      assert.strictEqual((yield* socket.state)._tag, "Closed")
      assert.lengthOf(server.times, 1)
    }))

  test("does not wait for a schedule", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(
        ReconnectingSocket.make({ dial, backoff: Schedule.mapEffect(Schedule.forever, () => Effect.never) })
      )
      yield* peer.reset
      yield* settle
      const closing = yield* Effect.fork(socket.close())
      yield* settle
      assert.isTrue(yield* isDone(closing))
      assert.lengthOf(server.times, 1)
    }))

  it.scoped("waits for a transport whose close is not done no longer than its bound", () => {
    const wire = new Wire()
    Object.assign(wire.connection, { close: () => Effect.never })
    return Effect.gen(function*() {
      const { socket } = yield* onWires([wire], {})
      yield* settle
      const closing = yield* Effect.fork(socket.close())
      yield* pass(1_999)
      assert.isFalse(yield* isDone(closing))
      yield* pass(1)
      assert.isTrue(yield* isDone(closing))
      assert.isTrue(wire.isTerminated)
    })
  })
})

describe("the scope", () => {
  test("that closes closes the connection with 1000, and ends all streams", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const { peer, server, socket } = yield* connected(
        Scope.extend(ReconnectingSocket.make({ dial, backoff: steady }), scope)
      )
      const streams = yield* Effect.forEach([socket.messages, socket.events, socket.stateChanges] as const, (stream) =>
        Effect.fork(Effect.exit(Stream.runDrain(stream as Stream.Stream<unknown, unknown>))))
      yield* settle
      yield* socket.send("last")
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(yield* peer.ended, new WebSocketDialer.ConnectionClosed({ code: 1000, reason: "" }))
      yield* settle
      assert.deepStrictEqual(peer.got, ["last"])
      for (const stream of streams) {
        assert.isTrue(Exit.isSuccess(yield* Fiber.join(stream)))
      }
      assert.strictEqual((yield* Effect.flip(socket.send("late")))._tag, "SocketClosed")
      yield* pass(3_600_000)
      assert.lengthOf(server.times, 1)
    }))

  for (const state of ["Dialing", "Waiting", "Opening", "Open"] as const) {
    test(`that closes while it is ${state} leaves no fiber`, () =>
      Effect.gen(function*() {
        const scope = yield* Scope.make()
        const server = yield* serving
        const before = yield* Effect.map(TestClock.sleeps(), (sleeps) => [...sleeps].length)
        const supervised = yield* Effect.flatMap(
          Scope.extend(
            ReconnectingSocket.make({
              dial,
              backoff: steady,
              renewAfter: "1 hours",
              outbox: { timeToLive: "1 minutes" },
              onOpen: () => state === "Opening" ? Effect.never : Effect.void
            }),
            scope
          ),
          (socket) => Effect.as(settle, socket)
        )
        const attempt = yield* server.next
        if (state === "Waiting") yield* attempt.refuse(503)
        if (state === "Opening" || state === "Open") yield* attempt.open()
        yield* settle
        assert.strictEqual((yield* supervised.state)._tag, state)
        yield* Scope.close(scope, Exit.void)
        yield* settle
        assert.strictEqual((yield* supervised.state)._tag, "Closed")
        yield* pass(3_600_000 * 24)
        assert.lengthOf(server.times, 1)
        const after = yield* Effect.map(TestClock.sleeps(), (sleeps) => [...sleeps].length)
        assert.isAtMost(after, before)
      }))
  }

  test("that closes is not kept for ever by a peer that does not answer, even where the clock stands still", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const { peer, socket } = yield* connected(Scope.extend(ReconnectingSocket.make({ dial }), scope))
      yield* peer.stall
      yield* Scope.close(scope, Exit.void)
      assert.deepInclude((yield* peer.ended) as object, { _tag: "ConnectionLost" })
      assert.strictEqual((yield* socket.state)._tag, "Closed")
    }))

  for (const how of ["answers", "takes nothing"]) {
    test(`that closes leaves no timer, where the peer ${how}`, () =>
      Effect.gen(function*() {
        const scope = yield* Scope.make()
        const { peer } = yield* connected(Scope.extend(ReconnectingSocket.make({ dial }), scope))
        if (how === "takes nothing") yield* peer.stall
        const timers = yield* openTimers
        yield* Scope.close(scope, Exit.void)
        assert.deepStrictEqual(timers.open(), [])
      }))
  }

  test("of a layer holds a socket", () =>
    Effect.gen(function*() {
      class Feed extends Context.Tag("Feed")<Feed, ReconnectingSocket.ReconnectingSocket<Message, Message>>() {
        static readonly layer = Layer.scoped(Feed, ReconnectingSocket.make({ dial, backoff: steady }))
      }
      const server = yield* serving
      const running = yield* Effect.fork(
        Effect.flatMap(Feed, (feed) => Effect.zipRight(feed.send("from a layer"), Effect.sleep("1 minutes"))).pipe(
          Effect.provide(Feed.layer)
        )
      )
      const peer = yield* server.open
      yield* peer.reset
      yield* pass(1000)
      const second = yield* server.open
      assert.deepStrictEqual([peer.got, second.got], [["from a layer"], []])
      yield* pass(60_000)
      yield* Fiber.join(running)
      assert.deepStrictEqual(yield* second.ended, new WebSocketDialer.ConnectionClosed({ code: 1000, reason: "" }))
    }))
})

// -----------------------------------------------------------------------------

describe("a renewal", () => {
  const renewing = { dial, backoff: steady, renewAfter: "10 seconds" } as const

  /** To where it has begun for sure. */
  const begin = pass(10_000)

  test("begins in the last tenth of its time", () =>
    Effect.gen(function*() {
      const { server } = yield* connected(ReconnectingSocket.make({ ...renewing, renewAfter: "100 seconds" }))
      yield* pass(89_999)
      assert.lengthOf(server.times, 1)
      yield* pass(10_001)
      assert.isAtLeast(server.times.length, 2)
      assert.isTrue(server.times[1]! >= 90_000 && server.times[1]! <= 100_000)
    }))

  test("moves over once the next connection is ready: no Lost, and the old one is closed with 1000", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* connected(ReconnectingSocket.make({
        ...renewing,
        onOpen: ({ receive, send }) => Effect.zipRight(send("login"), receive)
      }))
      const messages = yield* recorded(socket.messages)
      yield* peer.send("ok")
      yield* socket.subscribe({ open: "+gold" })
      yield* socket.send("0")
      yield* begin
      yield* socket.send("while it is dialed")
      yield* settle
      const second = yield* server.open
      yield* socket.send("while it opens")
      yield* settle
      assert.deepStrictEqual(peer.got, ["login", "+gold", "0", "while it is dialed", "while it opens"])
      assert.deepStrictEqual(second.got, ["login"])
      assert.strictEqual((yield* socket.state)._tag, "Open")
      yield* peer.send("from the old one")
      yield* second.send("ok")
      yield* settle
      assert.deepStrictEqual(yield* peer.ended, new WebSocketDialer.ConnectionClosed({ code: 1000, reason: "" }))
      yield* second.send("from the new one")
      yield* socket.send("1")
      yield* settle
      assert.deepStrictEqual(second.got, ["login", "+gold", "1"])
      assert.deepStrictEqual(messages.all, ["from the old one", "from the new one"])
      assert.deepStrictEqual(ofTag(events, "Lost"), [])
      assert.lengthOf(ofTag(events, "Opened"), 2)
    }))

  test("comes again and again", () =>
    Effect.gen(function*() {
      const { events, server } = yield* connected(ReconnectingSocket.make(renewing))
      for (let n = 0; n < 5; n++) {
        yield* begin
        yield* server.open
      }
      assert.lengthOf(server.times, 6)
      assert.lengthOf(ofTag(events, "Lost"), 0)
      assert.lengthOf(ofTag(events, "Opened"), 6)
    }))

  test("neither loses nor repeats what is acknowledged meanwhile", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(ReconnectingSocket.make({ ...renewing, acknowledge }))
      yield* begin
      const delivering = yield* Effect.fork(socket.deliver("0"))
      yield* settle
      const second = yield* server.open
      yield* socket.send("1")
      yield* settle
      assert.deepStrictEqual(second.got, [])
      yield* peer.send("ack 0")
      yield* Fiber.join(delivering)
      yield* settle
      assert.deepStrictEqual([peer.got, second.got], [["0"], ["1"]])
    }))

  test("sends again, before what is new, what was not acknowledged in time", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* connected(ReconnectingSocket.make({ ...renewing, acknowledge }))
      yield* begin
      yield* socket.send("0")
      yield* settle
      const second = yield* server.open
      yield* socket.send("1")
      yield* pass(2_000)
      assert.deepStrictEqual([peer.got, second.got], [["0"], ["0", "1"]])
      assert.lengthOf(ofTag(events, "Dropped"), 0)
      yield* second.send("ack 1")
      yield* socket.flush
    }))

  it.scoped("waits for the write that has begun", () => {
    const wires = [new Wire({ isHeld: true }), new Wire()]
    return Effect.gen(function*() {
      const { socket } = yield* onWires(wires, { renewAfter: "5 seconds", writeTimeout: "1 minutes" })
      yield* pass(4_000)
      const delivering = yield* Effect.fork(socket.deliver("0"))
      yield* settle
      yield* socket.send("1")
      yield* pass(1_000)
      yield* pass(2_000)
      assert.deepStrictEqual(wires[1]!.taken, [])
      wires[0]!.isHeld = false
      wires[0]!.take()
      yield* Fiber.join(delivering)
      yield* settle
      assert.deepStrictEqual([wires[0]!.taken, wires[1]!.taken], [["0"], ["1"]])
    })
  })

  test("has a subscription that comes or goes meanwhile on the next connection, or not", () =>
    Effect.gen(function*() {
      const { peer, server, socket } = yield* connected(
        ReconnectingSocket.make({ ...renewing, onOpen: ({ receive }) => receive })
      )
      yield* peer.send("ok")
      const scope = yield* Scope.make()
      yield* Scope.extend(socket.subscribe({ open: "+1", close: "-1" }), scope)
      yield* begin
      const second = yield* server.open
      yield* socket.subscribe({ open: "+2", close: "-2" })
      yield* Scope.close(scope, Exit.void)
      yield* settle
      assert.deepStrictEqual(peer.got, ["+1", "+2", "-1"])
      yield* second.send("ok")
      yield* settle
      assert.deepStrictEqual(second.got, ["+2"])
    }))

  const failing: Record<string, (attempt: WebSocketDialer.Attempt) => Effect.Effect<unknown>> = {
    "is refused": ({ refuse }) => refuse(503),
    "is refused for good": ({ refuse }) => refuse(403),
    "is lost while it opens": ({ open }) => Effect.flatMap(open(), ({ reset }) => Effect.zipRight(settle, reset))
  }
  for (const [how, fail] of Object.entries(failing)) {
    test(`whose connection ${how} keeps the present one`, () =>
      Effect.gen(function*() {
        let opens = 0
        const { events, peer, server, socket } = yield* connected(
          ReconnectingSocket.make({
            ...renewing,
            onOpen: () => opens++ === 0 ? Effect.void : Effect.sleep("1 seconds")
          })
        )
        yield* begin
        yield* Effect.flatMap(server.next, fail)
        yield* settle
        assert.strictEqual((yield* socket.state)._tag, "Open")
        yield* socket.send("0")
        yield* settle
        assert.deepStrictEqual(peer.got, ["0"])
        assert.lengthOf(ofTag(events, "Lost"), 0)
        yield* pass(1000)
        assert.lengthOf(server.unanswered, how === "is refused for good" ? 0 : 1)
        if (how === "is refused for good") return
        const next = yield* server.open
        yield* pass(1000)
        yield* socket.send("1")
        yield* settle
        assert.deepStrictEqual(next.got, ["1"])
        assert.strictEqual((yield* peer.ended)._tag, "ConnectionClosed")
      }))
  }

  test("whose present connection is lost meanwhile leaves one that is dialed", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* connected(ReconnectingSocket.make(renewing))
      yield* begin
      const given = yield* server.next
      yield* peer.reset
      yield* settle
      yield* given.open()
      yield* pass(1000)
      const next = yield* server.open
      yield* socket.send("0")
      yield* settle
      assert.deepStrictEqual(next.got, ["0"])
      assert.lengthOf(ofTag(events, "Lost"), 1)
      yield* pass(8_000)
      assert.lengthOf(server.times, 3)
    }))

  test("that is under way when the socket is closed leaves no connection", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* connected(ReconnectingSocket.make({ ...renewing, acknowledge }))
      yield* begin
      yield* socket.send("0")
      yield* settle
      const second = yield* server.open
      const closing = yield* Effect.fork(socket.close())
      yield* settle
      yield* pass(2_000)
      yield* Fiber.join(closing)
      yield* second.ended
      yield* pass(200_000)
      assert.lengthOf(server.times, 2)
    }))

  test("carries the session's present value, and a refused one is refreshed for the next try", () =>
    Effect.gen(function*() {
      let calls = 0
      const session = yield* Session.make({
        acquire: Effect.succeed("v0"),
        renew: () => Effect.sync(() => `v${++calls}`)
      })
      const attach = (request: WebSocketDialer.DialRequest, token: string) => ({
        ...request,
        headers: { authorization: token }
      })
      const { events, server } = yield* connected(
        ReconnectingSocket.make({ ...renewing, session: { session, attach } })
      )
      yield* begin
      yield* server.refuse(401)
      yield* pass(1000)
      const { open, request } = yield* server.next
      assert.deepStrictEqual(request.headers, { authorization: "v1" })
      yield* open()
      yield* settle
      assert.lengthOf(ofTag(events, "Lost"), 0)
      assert.strictEqual(calls, 1)
    }))

  test("is watched by the heartbeat as well", () =>
    Effect.gen(function*() {
      const { events, server } = yield* connected(ReconnectingSocket.make(renewing))
      yield* begin
      const second = yield* server.open
      yield* second.stall
      yield* pass(25_000)
      assert.deepInclude(ofTag(events, "Lost")[0]!.failure as object, { reason: "HeartbeatTimeout" })
    }))

  it.scoped("ends the old connection that does not answer its close frame after two seconds", () => {
    const wires = [new Wire(), new Wire()]
    return Effect.gen(function*() {
      yield* onWires(wires, { renewAfter: "5 seconds", heartbeat: false })
      yield* pass(4_000)
      wires[0]!.isHeld = true
      yield* pass(1_000)
      assert.deepStrictEqual(wires[0]!.closed?.[0], 1000)
      assert.isFalse(wires[0]!.isTerminated)
      yield* pass(2_000)
      assert.isTrue(wires[0]!.isTerminated)
      assert.isFalse(wires[1]!.isTerminated)
    })
  })

  it.scoped("that nobody reads out ends with its socket", () => {
    const wires = [new Wire(), new Wire()]
    return Effect.gen(function*() {
      const { socket } = yield* onWires(wires, { renewAfter: "5 seconds", heartbeat: false, inbox: { capacity: 2 } })
      yield* pass(4_000)
      wires[0]!.isHeld = true
      for (const message of ["0", "1"]) wires[0]!.say(message)
      yield* pass(1_000)
      for (const message of ["2", "3"]) wires[0]!.say(message)
      yield* settle
      const closing = yield* Effect.fork(socket.close())
      yield* pass(2_000)
      assert.isTrue(yield* isDone(closing))
      assert.isDefined(wires[0]!.end)
      assert.isDefined(wires[1]!.end)
    })
  })

  it.scoped("that nobody reads out is the only one", () => {
    const wires = Array.from({ length: 30 }, () => new Wire())
    return Effect.gen(function*() {
      yield* onWires(wires, { renewAfter: "1 minute", inbox: { capacity: 2 } })
      yield* settle
      for (let minute = 0; minute < 20; minute++) {
        // Each peer has more to say, and answers a close frame only when it is read.
        for (const wire of wires) {
          wire.isHeld = true
          if (!wire.isPaused && wire.end === undefined && wire.listener !== undefined) wire.say("more")
        }
        yield* pass(60_000)
      }
      assert.isAtMost(wires.filter(({ end, listener }) => listener !== undefined && end === undefined).length, 2)
    })
  })

  it.scoped("reads the old connection out first, however slow the reader is", () => {
    const wires = [new Wire(), new Wire()]
    return Effect.gen(function*() {
      const { events, socket } = yield* onWires(wires, {
        renewAfter: "5 seconds",
        heartbeat: false,
        inbox: { capacity: 2 }
      })
      yield* pass(4_000)
      wires[0]!.isHeld = true
      for (const message of ["0", "1"]) wires[0]!.say(message)
      yield* pass(1_000)
      assert.deepStrictEqual(wires[0]!.closed?.[0], 1000)
      for (const message of ["2", "3"]) wires[0]!.say(message)
      yield* settle
      assert.isTrue(wires[0]!.isPaused)
      yield* pass(4_000)
      assert.isFalse(wires[0]!.isTerminated)
      const messages = yield* recorded(socket.messages)
      assert.isFalse(wires[0]!.isPaused)
      wires[0]!.say("4")
      yield* settle
      assert.deepStrictEqual(messages.all, ["0", "1", "2", "3", "4"])
      yield* pass(2_000)
      assert.isTrue(wires[0]!.isTerminated)
      assert.lengthOf(ofTag(events, "Lost"), 0)
    })
  })

  test("whose connection ends as it is ready is tried again after the backoff's delay", () =>
    Effect.gen(function*() {
      const { events, server, socket } = yield* connected(
        ReconnectingSocket.make({ ...renewing, heartbeat: false, renewAfter: "100 seconds", acknowledge })
      )
      yield* socket.send("0")
      yield* pass(89_000)
      while (server.unanswered.length === 0) yield* pass(1_000)
      yield* Effect.flatMap(server.open, ({ reset }) => reset)
      yield* pass(2_000)
      yield* pass(1_000)
      assert.lengthOf(server.unanswered, 1)
      assert.lengthOf(ofTag(events, "Lost"), 0)
    }))

  test("whose connection is ready is moved over to at once where the present one is cut", () =>
    Effect.gen(function*() {
      const { events, peer, server, socket } = yield* connected(ReconnectingSocket.make({ ...renewing, acknowledge }))
      yield* socket.send("0")
      yield* begin
      const second = yield* server.open
      yield* socket.send("1")
      yield* peer.close(1001)
      yield* settle
      assert.deepStrictEqual([peer.got, second.got], [["0"], ["0", "1"]])
      assert.deepStrictEqual(tagsOf(events).slice(-2), ["Lost", "Opened"])
      assert.lengthOf(server.times, 2)
    }))
})

describe("what it is doing", () => {
  test("is told by state, stateChanges and events, in order", () =>
    Effect.gen(function*() {
      const { events, server, socket } = yield* dialing(
        ReconnectingSocket.make({ dial, backoff: steady, onOpen: () => Effect.sleep("1 seconds") })
      )
      const states = yield* recorded(socket.stateChanges)
      yield* server.refuse(503)
      yield* pass(1000)
      const { open } = yield* server.next
      const peer = yield* open({ protocol: "v2" })
      yield* pass(1000)
      yield* pass(500)
      yield* peer.reset
      yield* settle
      yield* socket.close(4000, "bye")
      yield* settle
      const refused = ofTag(states.all, "Waiting")[0]!.failure
      const info = { code: 4000, reason: "bye", failure: Option.none() }
      assert.deepStrictEqual(states.all, [
        { _tag: "Dialing", attempt: 0 },
        { _tag: "Waiting", until: 1000, failure: refused, attempt: 1 },
        { _tag: "Dialing", attempt: 1 },
        { _tag: "Opening" },
        { _tag: "Open", since: 2000 },
        { _tag: "Waiting", until: 4500, failure: lost("Reset"), attempt: 2 },
        { _tag: "Closed", info }
      ])
      assert.deepStrictEqual(tagsOf(events).slice(-6), ["Waiting", "Dialing", "Opened", "Lost", "Waiting", "Closed"])
      assert.deepStrictEqual(ofTag(events, "Opened"), [{ _tag: "Opened", protocol: "v2" }])
    }))

  test("is told to each reader, from the present state on; one that comes after the end is told the end", () =>
    Effect.gen(function*() {
      const { socket } = yield* connected(ReconnectingSocket.make({ dial }))
      const readers = [yield* recorded(socket.stateChanges), yield* recorded(socket.stateChanges)]
      yield* socket.close()
      const late = yield* recorded(socket.stateChanges)
      yield* settle
      for (const { all, fiber } of readers) {
        assert.deepStrictEqual(tagsOf(all), ["Open", "Closed"])
        yield* Fiber.join(fiber)
      }
      assert.deepStrictEqual(tagsOf(late.all), ["Closed"])
      yield* Fiber.join(late.fiber)
      yield* Stream.runDrain(socket.events)
    }))

  test("is awaited by awaitOpen, over as many attempts as it takes", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* dialing(
        ReconnectingSocket.make({ dial, backoff: steady, onOpen: () => Effect.sleep("1 seconds") })
      )
      const waiting = yield* Effect.fork(Effect.all([socket.awaitOpen, socket.awaitOpen], { concurrency: "unbounded" }))
      const other = yield* Effect.fork(socket.awaitOpen)
      yield* server.refuse(503)
      yield* pass(1000)
      yield* Fiber.interrupt(other)
      const peer = yield* server.open
      yield* pass(999)
      assert.isFalse(yield* isDone(waiting))
      yield* pass(1)
      yield* Fiber.join(waiting)
      yield* socket.awaitOpen
      yield* peer.reset
      yield* settle
      const again = yield* Effect.fork(socket.awaitOpen)
      yield* settle
      assert.isFalse(yield* isDone(again))
    }))

  test("is a ReconnectingSocket's to tell", () =>
    Effect.gen(function*() {
      const socket = yield* ReconnectingSocket.make({ dial })
      assert.isTrue(ReconnectingSocket.isReconnectingSocket(socket))
      assert.isFalse(ReconnectingSocket.isReconnectingSocket({}))
    }))
})

// -----------------------------------------------------------------------------

describe("as a platform's socket", () => {
  const platform = (options?: Partial<ReconnectingSocket.Options<Message, Message>>) =>
    Effect.map(
      dialing(ReconnectingSocket.make<Message, Message>({ dial, backoff: steady, ...options })),
      ({ socket, ...rest }) => ({ ...rest, self: socket, socket: ReconnectingSocket.toSocket(socket) })
    )

  const runs = (socket: Socket.Socket) =>
    Effect.gen(function*() {
      const got: Array<Message> = []
      const fiber = yield* Effect.forkScoped(socket.runRaw((message) => {
        got.push(message)
      }))
      yield* settle
      return { got, fiber }
    })

  for (const how of ["reset", 1000, 1001, 4000] as const) {
    test(`a run ends with its connection's loss (${how}), and the next is on the next connection`, () =>
      Effect.gen(function*() {
        const { server, socket } = yield* platform()
        const first = yield* runs(socket)
        const peer = yield* server.open
        yield* peer.send("a")
        yield* settle
        yield* how === "reset" ? peer.reset : peer.close(how, "why")
        yield* settle
        const error = failureOf(yield* Fiber.await(first.fiber)) as Socket.SocketError
        assert.deepInclude(
          error as object,
          how === "reset" ? { reason: "Read" } : { reason: "Close", code: how, closeReason: "why" }
        )
        const second = yield* runs(socket)
        yield* pass(1000)
        yield* Effect.flatMap(server.open, ({ send }) => send("b"))
        yield* settle
        assert.deepStrictEqual([first.got, second.got], [["a"], ["b"]])
      }))
  }

  test("what comes before the run is told to it", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform()
      yield* Effect.flatMap(server.open, ({ send }) => send("early"))
      const { got } = yield* runs(socket)
      assert.deepStrictEqual(got, ["early"])
    }))

  test("run gives bytes, and onOpen is done before them", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform()
      const log: Array<unknown> = []
      yield* Effect.forkScoped(socket.run((bytes) => {
        log.push(bytes)
      }, { onOpen: Effect.sync(() => log.push("open")) }))
      const peer = yield* server.open
      yield* peer.send("a")
      yield* peer.send(Uint8Array.of(1))
      yield* settle
      assert.deepStrictEqual(log, ["open", new TextEncoder().encode("a"), Uint8Array.of(1)])
    }))

  test("handlers are started in order, and one that waits does not keep the others", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform()
      const log: Array<string> = []
      yield* Effect.forkScoped(socket.runRaw((message) => {
        log.push(`+${message}`)
        return Effect.zipRight(
          Effect.sleep(message === "slow" ? "1 seconds" : 0),
          Effect.sync(() => log.push(`-${message}`))
        )
      }))
      const peer = yield* server.open
      for (const message of ["slow", "fast"]) yield* peer.send(message)
      yield* pass(500)
      assert.deepStrictEqual(log, ["+slow", "+fast", "-fast"])
      yield* pass(500)
      assert.deepStrictEqual(log, ["+slow", "+fast", "-fast", "-slow"])
    }))

  test("no more than 1,024 handlers run at a time", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform()
      const gate = yield* Deferred.make<void>()
      let begun = 0
      let done = 0
      yield* Effect.forkScoped(socket.runRaw(() =>
        Effect.suspend(() => {
          begun++
          return Effect.map(Deferred.await(gate), () => done++)
        })
      ))
      const peer = yield* server.open
      for (let half = 0; half < 2; half++) {
        for (let i = 0; i < 750; i++) yield* peer.send("message")
        yield* settle
      }
      assert.strictEqual(begun, 1024)
      yield* Deferred.succeed(gate, undefined)
      yield* settle
      assert.strictEqual(done, 1500)
    }))

  for (
    const [how, handler, isDefect] of [
      ["fails", () => Effect.fail("no"), false],
      ["dies", () => Effect.die("no"), true],
      ["throws", () => {
        throw new Error("no")
      }, true]
    ] as const
  ) {
    test(`a handler that ${how} ends the run with that, and gives its connection up`, () =>
      Effect.gen(function*() {
        const { server, socket } = yield* platform()
        const fiber = yield* Effect.fork(socket.runRaw(handler as () => Effect.Effect<never, string>))
        const peer = yield* server.open
        yield* peer.send("a")
        const exit = yield* Fiber.await(fiber)
        assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause) === isDefect)
        yield* peer.ended
        yield* runs(socket)
        yield* server.open
      }))
  }

  test("a write waits for the first run, then belongs to the connection of the last one", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform()
      const write = yield* socket.writer
      const writing = yield* Effect.fork(Effect.forEach(["a", "b"], write))
      const peer = yield* server.open
      assert.isFalse(yield* isDone(writing))
      const first = yield* runs(socket)
      yield* Fiber.join(writing)
      yield* settle
      assert.deepStrictEqual(peer.got, ["a", "b"])
      yield* peer.reset
      yield* Fiber.await(first.fiber)
      // The run's failure tells; nobody waits, nothing dies, nothing is kept.
      yield* write("into the void")
      yield* pass(1000)
      const second = yield* server.open
      yield* write("not this one yet")
      yield* settle
      assert.deepStrictEqual(second.got, [])
      yield* runs(socket)
      yield* write("c")
      yield* settle
      assert.deepStrictEqual(second.got, ["c"])
    }))

  test("a write that waits can be interrupted, and is let go by close", () =>
    Effect.gen(function*() {
      const { self, socket } = yield* platform()
      const write = yield* socket.writer
      const first = yield* Effect.fork(write("a"))
      const second = yield* Effect.fork(write("b"))
      yield* settle
      yield* Fiber.interrupt(first)
      yield* self.close()
      yield* Fiber.join(second)
      yield* write("late")
    }))

  test("a write does not wait for a peer that takes nothing longer than the connection lasts", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform()
      const write = yield* socket.writer
      const { fiber } = yield* runs(socket)
      const peer = yield* server.open
      yield* peer.stall
      const writing = yield* Effect.fork(write("a"))
      yield* pass(10_000)
      yield* Fiber.join(writing)
      assert.deepInclude(failureOf(yield* Fiber.await(fiber)) as object, { reason: "Read" })
    }))

  test("a CloseEvent closes that connection, and the run ends with it", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform()
      const write = yield* socket.writer
      const { fiber } = yield* runs(socket)
      const peer = yield* server.open
      yield* write(new Socket.CloseEvent(4000, "bye"))
      assert.deepStrictEqual(yield* peer.ended, new WebSocketDialer.ConnectionClosed({ code: 4000, reason: "bye" }))
      assert.deepInclude(failureOf(yield* Fiber.await(fiber)) as object, { reason: "Close", code: 4000 })
      yield* pass(1000)
      yield* server.open
    }))

  test("after close a run succeeds, and so does the one that was running", () =>
    Effect.gen(function*() {
      const { self, server, socket } = yield* platform()
      const { fiber } = yield* runs(socket)
      yield* server.open
      yield* self.close()
      yield* Fiber.join(fiber)
      yield* socket.runRaw(() => {})
    }))

  test("a socket that gave up fails its runs", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform()
      const { fiber } = yield* runs(socket)
      yield* server.refuse(403)
      assert.deepInclude(failureOf(yield* Fiber.await(fiber)) as object, { reason: "Open" })
      assert.deepInclude((yield* Effect.flip(socket.runRaw(() => {}))) as object, { reason: "Open" })
    }))

  test("a second run at the same time fails, and the first goes on", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform()
      const { got } = yield* runs(socket)
      const peer = yield* server.open
      assert.deepInclude((yield* Effect.flip(socket.runRaw(() => {}))) as object, { reason: "Open" })
      yield* peer.send("a")
      yield* settle
      assert.deepStrictEqual(got, ["a"])
    }))

  test("a run that is interrupted gives its connection up; the next is on another", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform()
      const { fiber } = yield* runs(socket)
      const peer = yield* server.open
      yield* Fiber.interrupt(fiber)
      yield* peer.ended
      const second = yield* runs(socket)
      yield* Effect.flatMap(server.open, ({ send }) => send("a"))
      yield* settle
      assert.deepStrictEqual(second.got, ["a"])
    }))

  test("a run that is retried is on one connection after another", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform()
      const got: Array<Message> = []
      yield* Effect.forkScoped(Effect.retry(
        socket.runRaw((message) => {
          got.push(message)
        }),
        Schedule.forever
      ))
      for (const [n, delay] of [1000, 2000, 4000].entries()) {
        const peer = yield* server.open
        yield* peer.send(`${n}`)
        yield* settle
        yield* peer.reset
        yield* pass(delay)
      }
      assert.deepStrictEqual(got, ["0", "1", "2"])
    }))

  test("does not move over to a renewed connection behind its run's back", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform({ renewAfter: "10 seconds" })
      const write = yield* socket.writer
      const { fiber, got } = yield* runs(socket)
      const peer = yield* server.open
      yield* pass(10_000)
      yield* server.open
      yield* settle
      // Whether it renews or not, either the run has ended, or it is on a connection that lives.
      if (yield* isDone(fiber)) return
      yield* write("a")
      yield* peer.send("b")
      yield* settle
      assert.deepStrictEqual([peer.got, got], [["a"], ["b"]])
    }))

  test("what is read and written goes through the codec", () =>
    Effect.gen(function*() {
      const { server, socket } = yield* platform({
        codec: { encode: (message) => `<${message}>`, decode: (message) => String(message).slice(1, -1) }
      })
      const write = yield* socket.writer
      const { got } = yield* runs(socket)
      const peer = yield* server.open
      yield* write("a")
      yield* peer.send("<b>")
      yield* settle
      assert.deepStrictEqual([peer.got, got], [["<a>"], ["b"]])
    }))

  test("a run that is interrupted on the connection that was moved away from leaves the new one", () =>
    Effect.gen(function*() {
      const { events, self, server, socket } = yield* platform({ renewAfter: "10 seconds" })
      const { fiber } = yield* runs(socket)
      const peer = yield* server.open
      yield* peer.stall
      yield* pass(10_000)
      const second = yield* server.open
      assert.isFalse(yield* isDone(fiber))
      yield* Fiber.interrupt(fiber)
      yield* settle
      assert.strictEqual((yield* self.state)._tag, "Open")
      assert.lengthOf(ofTag(events, "Lost"), 0)
      const next = yield* runs(socket)
      yield* second.send("a")
      yield* settle
      assert.deepStrictEqual(next.got, ["a"])
    }))

  test("runs of two of them both end with the connection", () =>
    Effect.gen(function*() {
      const { self, server, socket } = yield* platform()
      const first = yield* runs(socket)
      const second = yield* runs(ReconnectingSocket.toSocket(self))
      const peer = yield* server.open
      yield* settle
      yield* peer.reset
      yield* settle
      for (const { fiber } of [first, second]) {
        assert.isTrue(yield* isDone(fiber))
        assert.deepInclude(failureOf(yield* Fiber.await(fiber)) as object, { reason: "Read" })
      }
    }))
})

// -----------------------------------------------------------------------------

describe("options that make no sense", () => {
  const refused = (
    option: string,
    value: unknown,
    options: Omit<ReconnectingSocket.Options<any, any, any, any, any, any, any, any>, "dial">
  ) =>
    test(`are refused: ${option} of ${Object.is(value, -0) ? "-0" : String(value)}`, () =>
      Effect.gen(function*() {
        const server = yield* serving
        const error = yield* Effect.flip(
          ReconnectingSocket.make({ dial, ...options } as ReconnectingSocket.Options<Message, Message>)
        )
        assert.deepInclude(error as object, { _tag: "InvalidOptions", option, value })
        yield* settle
        assert.lengthOf(server.times, 0)
      }))

  for (const value of [-1, NaN, "nonsense" as never, Infinity]) {
    refused("stableAfter", value, { stableAfter: value })
    refused("openTimeout", value, { openTimeout: value })
    refused("writeTimeout", value, { writeTimeout: value })
    refused("renewAfter", value, { renewAfter: value })
    refused("outbox.timeToLive", value, { outbox: { timeToLive: value } })
    refused("heartbeat.interval", value, { heartbeat: { interval: value } })
    refused("heartbeat.timeout", value, { heartbeat: { timeout: value } })
  }
  for (const option of ["openTimeout", "writeTimeout", "renewAfter"] as const) refused(option, 0, { [option]: 0 })
  refused("heartbeat.interval", 0, { heartbeat: { interval: 0 } })
  refused("heartbeat.timeout", 0, { heartbeat: { timeout: 0 } })
  for (const value of [0, -1, 1.5, NaN, Infinity, "1" as never]) {
    refused("outbox.capacity", value, { outbox: { capacity: value } })
    refused("outbox.bytes", value, { outbox: { bytes: value } })
    refused("outbox.window", value, { outbox: { window: value } })
    refused("inbox.capacity", value, { inbox: { capacity: value } })
    refused("maxPayload", value, { maxPayload: value })
    refused("acknowledge.window", value, { acknowledge: { ...acknowledge, window: value } })
  }
  refused("outbox.overflow", "never", { outbox: { overflow: "never" as never } })
  refused("heartbeat.ping", 1, { heartbeat: { ping: 1 as never } })
  refused("heartbeat.ping", "x", {
    heartbeat: { ping: "x" },
    codec: {
      encode: () => {
        throw new Error("no")
      },
      decode: (message: Message) => message
    }
  })

  for (const options of [undefined, null, 1, "ws://test"]) {
    test(`are refused: ${String(options)}`, () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(ReconnectingSocket.make(options as never))
        assert.deepInclude(error as object, { _tag: "InvalidOptions", option: "options", value: options })
      }))
  }

  test("are not those that only look odd", () =>
    ReconnectingSocket.make({
      dial,
      stableAfter: 0,
      heartbeat: { interval: 1, timeout: 1 },
      outbox: { capacity: 1, bytes: 1, window: 1, timeToLive: 1, overflow: undefined },
      inbox: { capacity: 1 },
      codec: undefined,
      session: undefined,
      backoff: undefined,
      acknowledge: undefined,
      onOpen: undefined,
      retryable: undefined,
      renewAfter: undefined
    }))
})

describe("types", () => {
  it("without a codec are text and bytes", () => {
    expectTypeOf(ReconnectingSocket.make({ dial })).toEqualTypeOf<
      Effect.Effect<
        ReconnectingSocket.ReconnectingSocket<Message, Message>,
        InvalidOptions,
        WebSocketDialer.WebSocketDialer | Scope.Scope
      >
    >()
  })

  it("with a codec are the codec's, also for callbacks", () => {
    const making = ReconnectingSocket.make({
      dial,
      codec: ReconnectingSocket.json({
        in: Schema.Struct({ at: Schema.Date }),
        out: Schema.Struct({ price: Schema.NumberFromString })
      }),
      heartbeat: { ping: { price: 1 }, isPong: (message) => message.at.getTime() === 0 },
      acknowledge: { id: (message) => message.price, acknowledged: (message) => Option.some(message.at.getTime()) },
      onOpen: ({ receive, send }) => Effect.zipRight(send({ price: 1 }), Effect.map(receive, ({ at }) => at.getTime()))
    })
    expectTypeOf(making).toExtend<
      Effect.Effect<
        ReconnectingSocket.ReconnectingSocket<{ readonly price: number }, { readonly at: Date }>,
        InvalidOptions,
        WebSocketDialer.WebSocketDialer | Scope.Scope
      >
    >()
    const socket = undefined as unknown as Effect.Effect.Success<typeof making>
    expectTypeOf<typeof socket.messages>().toEqualTypeOf<
      Stream.Stream<{ readonly at: Date }, ReconnectingSocket.SocketFailed>
    >()
    // @ts-expect-error: not what the codec encodes
    void (() => socket.send("text"))
    // @ts-expect-error: not the raw codec
    void (() => ReconnectingSocket.toSocket(socket))
  })

  it("of an own codec are inferred from its functions", () => {
    const making = ReconnectingSocket.make({
      dial,
      codec: { encode: (n: number) => `${n}`, decode: (message) => new Date(String(message)) },
      heartbeat: { ping: 1, isPong: (message) => message.getTime() === 0 }
    })
    expectTypeOf<Effect.Effect.Success<typeof making>>().toEqualTypeOf<
      ReconnectingSocket.ReconnectingSocket<number, Date>
    >()
  })

  it("ask for what dial and onOpen need, and nothing more", () => {
    class Address extends Context.Tag("Address")<Address, string>() {}
    class Login extends Context.Tag("Login")<Login, string>() {}
    const making = ReconnectingSocket.make({
      dial: Effect.map(Address, (url) => ({ url })),
      onOpen: ({ send }) => Effect.flatMap(Login, send)
    })
    expectTypeOf<Effect.Effect.Context<typeof making>>().toEqualTypeOf<
      WebSocketDialer.WebSocketDialer | Scope.Scope | Address | Login
    >()
    expectTypeOf<Effect.Effect.Error<typeof making>>().toEqualTypeOf<InvalidOptions>()
  })

  it("of a session are those that attach takes", () => {
    const session = undefined as unknown as Session.Session<string, "no">
    void (() =>
      ReconnectingSocket.make({
        dial,
        session: {
          session,
          attach: (request, token) => ({ ...request, headers: { authorization: token.toUpperCase() } })
        }
      }))
    // @ts-expect-error: the session gives text
    void (() => ReconnectingSocket.make({ dial, session: { session, attach: (request, _: number) => request } }))
  })

  it("of a socket vary as they should", () => {
    expectTypeOf<ReconnectingSocket.ReconnectingSocket<Message, "a">>().toExtend<
      ReconnectingSocket.ReconnectingSocket<string, string>
    >()
  })
})
