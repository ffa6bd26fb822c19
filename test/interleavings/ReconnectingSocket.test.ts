import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import { Interleavings } from "effect-holdfast/testing"
import { assert, describe, it } from "effect-holdfast/testing/vitest"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import { first, firstOr } from "../../src/internal/first.js"
import { type InboxEnd, LiveConnection } from "../../src/internal/socket/connection.js"
import { Inbox } from "../../src/internal/socket/inbox.js"
import { type Limits, Outbox, type OutboxCallbacks, queuedMessage } from "../../src/internal/socket/outbox.js"
import type { Wiring } from "../../src/internal/socket/wiring.js"
import { Writer } from "../../src/internal/socket/writer.js"
import { wait } from "../../src/internal/wait.js"
import { Waiters } from "../../src/internal/waiters.js"
import { canaries, type CanaryName } from "../support/canaries.js"
import { canariesOf, canary } from "../support/canary.js"
import { everySchedule } from "../support/everySchedule.js"
import { amount } from "../support/form.js"
import { quiet } from "../support/quiet.js"
import { scenarios } from "./sockets/scenarios.js"
import type { Modules } from "./sockets/world.js"

/** One fiber runs a platform's socket while another writes to that socket, and the connection opens meanwhile. */
const writingAsItAttaches = ({ ReconnectingSocket, WebSocketDialer }: Modules) =>
  Effect.gen(function*() {
    const server = yield* WebSocketDialer.TestServer
    const self = yield* ReconnectingSocket.make<WebSocketDialer.Message, WebSocketDialer.Message>({
      dial: { url: "ws://test" },
      heartbeat: false,
      backoff: Schedule.spaced("1 second")
    })
    const socket = ReconnectingSocket.toSocket(self)
    const opening = yield* Effect.fork(Effect.flatMap(server.attempt, ({ open }) => open()))
    const running = yield* Effect.fork(socket.runRaw(() => {}))
    yield* Effect.flatMap(socket.writer, (write) => write("hello"))
    const peer = yield* Fiber.join(opening)
    assert.strictEqual(yield* peer.receive, "hello")
    yield* Fiber.interrupt(running)
  }).pipe(
    Effect.scoped,
    Effect.provide(Layer.merge(WebSocketDialer.layerTest, quiet))
  )

describe("a platform's socket, made by `toSocket`", () => {
  it.interleavings(
    "sends a write that waits for a connection while one opens",
    writingAsItAttaches({ ReconnectingSocket, WebSocketDialer }),
    { strategy: ["sweep", "pct"], seeds: 20, limit: amount({ quick: 100, full: 200 }), timeout: 120_000 }
  )
})

const withFault = async (name: CanaryName): Promise<Modules> => ({
  ReconnectingSocket: await import(/* @vite-ignore */ `../../src/ReconnectingSocket.ts?canary=${name}`),
  WebSocketDialer: await import(/* @vite-ignore */ `../../src/WebSocketDialer.ts?canary=${name}`)
})

describe("a reconnecting socket with a known fault is caught", () => {
  const canaryOf = canariesOf(async (name, scenario: keyof ReturnType<typeof scenarios>) =>
    scenarios(await withFault(name))[scenario]
  )

  canaryOf("two-writers", "writes and pings do not overlap, and a peer that answers is not lost", { within: 100 })
  canaryOf("direct-overtakes", "messages that are sent during a write follow it in the order in which they were sent", {
    within: 100
  })
  canaryOf(
    "requeued-at-the-tail",
    "acknowledged messages arrive in order and none is lost, even if connections break",
    { within: 100 }
  )
  canaryOf(
    "kept-though-lost",
    "messages of several senders arrive at most once, in each sender's order, even if connections break",
    { within: 100 }
  )
  const backoff = "the backoff continues during an outage, and starts again after a stable connection"
  // A sleep of that length never ends.
  canaryOf("overflowing-backoff", "the backoff is never longer than the longest timer", {
    within: 1,
    reason: "Deadlock"
  })
  canaryOf("restarted-backoff", backoff, { within: 1 })
  canaryOf("unreset-backoff", backoff, { within: 1 })
  canary(
    canaries["missed-attachment"].fault,
    async () => writingAsItAttaches(await withFault("missed-attachment")),
    { within: 1_000, limit: 1_000, reason: "Deadlock" }
  )
  canaryOf(
    "cumulative-though-by-id",
    "messages are acknowledged one by one, in any order, and none is lost, even if connections break",
    { within: 100 }
  )
  canaryOf(
    "border-behind-early-messages",
    "`Opened` comes before the messages of each connection, however early they arrive",
    { within: 100 }
  )
  canaryOf("late-fork", "a confirmation that was due on a lost connection fails no subscription on the next one", {
    strategy: "pct",
    within: 1_000
  })
  canaryOf(
    "late-claim",
    "a replacement that fails as its connection is lost is followed by another connection",
    { strategy: "sweep", within: 2_000 }
  )
  canaryOf("late-share", "a socket whose `make` is interrupted leaves no value in a gauge", {
    strategy: "interrupt",
    within: 1_000
  })
  canaryOf("deaf-to-the-end", "the reader stops at the end of a connection, whatever the transport reports later", {
    within: 1
  })
})

describe("`first`, of two effects", () => {
  const scope = Effect.gen(function*() {
    const racing = yield* Effect.fork(first(wait<never>(() => undefined), wait<never>(() => undefined)))
    yield* Effect.fork(Fiber.interrupt(racing))
    assert.isTrue(Exit.isInterrupted(yield* Fiber.await(racing)))
  })
  everySchedule("ends, whenever its fiber is interrupted", scope, { preemptions: 1 })

  const condition = Effect.gen(function*() {
    const changed = new Waiters()
    let isChanged = false
    let running = 0
    const effect = Effect.acquireUseRelease(
      Effect.sync(() => running++),
      () => Effect.as(Effect.yieldNow(), "effect"),
      () => Effect.sync(() => running--)
    )
    const racing = yield* Effect.fork(
      firstOr(effect, () => isChanged ? Exit.succeed("condition") : undefined, changed)
    )
    yield* Effect.fork(Effect.sync(() => {
      isChanged = true
      changed.notify()
    }))
    const interrupting = yield* Effect.fork(Fiber.interrupt(racing))
    const exit = yield* Fiber.await(racing)
    assert.isTrue(Exit.isInterrupted(exit) || Exit.isSuccess(exit) && ["effect", "condition"].includes(exit.value))
    assert.deepStrictEqual([running, changed.size], [0, 0])
    yield* Fiber.join(interrupting)
  })
  everySchedule("of an effect and a condition leaves neither a fiber nor a waiter", condition, { preemptions: 1 })
})

/** A connection whose writes take a step and are recorded. */
const connected = () => {
  const written: Array<string> = []
  let listener: WebSocketDialer.Listener | undefined
  let end: WebSocketDialer.ConnectionClosed | WebSocketDialer.ConnectionLost | undefined
  const over = (failure: NonNullable<typeof end>) =>
    Effect.sync(() => {
      if (end !== undefined) return
      end = failure
      listener?.onEnd(failure)
    })
  const connection: WebSocketDialer.Connection = {
    protocol: "",
    listen: (given) => Effect.sync(() => listener = given),
    write: (messages) =>
      Effect.suspend(() => {
        if (end !== undefined) return Effect.fail(end)
        written.push(...messages.map(String))
        return Effect.yieldNow()
      }),
    ping: Option.none(),
    backpressure: Option.none(),
    close: (code = 1005, reason = "") => over(new WebSocketDialer.ConnectionClosed({ code, reason })),
    terminate: over(new WebSocketDialer.ConnectionLost({ reason: "Reset" }))
  }
  return { connection, written }
}

/** A connection with a writer that takes one message of the outbox at a time. */
const liveOver = (connection: WebSocketDialer.Connection, outbox: Outbox<string>) =>
  Effect.gen(function*() {
    const runtime = yield* Effect.runtime<Scope.Scope>()
    const inbox = new Inbox<any, InboxEnd>(1, 1, () => {})
    const live = new LiveConnection(connection, inbox, 0, Runtime.runFork(runtime))
    const wiring = { clock: yield* Effect.clock, outbox, settings: { window: 1, writeTimeout: 1_000 } }
    const writer = new Writer(live, wiring as unknown as Wiring<any, any, any>, yield* Effect.scope)
    // The fiber that watches the time limit would make too many schedules.
    Object.assign(writer, { isWatched: true })
    yield* connection.listen({ onMessage: () => {}, onControl: () => {}, onEnd: (failure) => live.fail(failure) })
    yield* writer.start
    return live
  })

const limits: Limits = {
  capacity: 1,
  bytes: 100,
  overflow: "suspend",
  keeps: false,
  isCumulative: true,
  inFlight: 1,
  maxResends: Infinity
}

const callbacks: OutboxCallbacks<string> = {
  now: () => 0,
  onChanged: () => {},
  onUndelivered: () => {},
  resent: () => undefined
}

describe("an outbox, in every order of its senders and its writer", () => {
  const queuedOf = (message: string) => queuedMessage(message, message)

  /** Senders wait for room; the writer takes one message at a time. */
  const scope = (mark: <A>(effect: Effect.Effect<A>) => Effect.Effect<A>) =>
    Effect.gen(function*() {
      const left: Array<string> = []
      const outbox = new Outbox<string>(limits, { ...callbacks, onUndelivered: ({ message }) => left.push(message) })
      const { connection, written } = connected()
      const live = yield* liveOver(connection, outbox)
      outbox.drainTo(live)
      const send = (message: string) =>
        Effect.suspend(() => {
          const queued = queuedOf(message)
          if (!outbox.wouldWait(queued)) return Effect.sync(() => outbox.offer(queued))
          return wait((resume) => {
            queued.onAccepted = () => resume(Exit.void)
            outbox.offer(queued)
            return () => outbox.takeBack(queued)
          })
        })
      assert.strictEqual(outbox.offer(queuedOf("a")), "Accepted")
      const b = yield* Effect.fork(mark(send("b")))
      const c = yield* Effect.fork(send("c"))
      const exit = yield* Fiber.await(b)
      yield* Fiber.join(c)
      yield* outbox.flushed
      assert.strictEqual(new Set(written).size, written.length)
      assert.includeMembers(written, ["a", "c"])
      if (Exit.isSuccess(exit)) {
        assert.include(written, "b")
      }
      assert.deepStrictEqual(
        left.filter((message) => written.includes(message)),
        []
      )
      // There is room again.
      assert.strictEqual(outbox.offer(queuedOf("d")), "Accepted")
      assert.isTrue(outbox.wouldWait(queuedOf("e")))
    }).pipe(Effect.scoped)

  everySchedule("each message is sent once, and its room is free again", scope((effect) => effect), { preemptions: 0 })
  everySchedule(
    "each other message is sent once, even if one sender is interrupted anywhere",
    scope(Interleavings.victim),
    {
      strategy: "interrupt",
      preemptions: 0
    }
  )
})

describe("messages for one connection only, in every order of senders, writer and end", () => {
  everySchedule(
    "are written or refused, and no sender waits for ever",
    Effect.gen(function*() {
      const { connection, written } = connected()
      const live = yield* liveOver(connection, new Outbox(limits, callbacks))
      const sending = yield* Effect.fork(live.sendAll(["a", "b"]))
      const ending = yield* Effect.fork(connection.terminate)
      const exit = yield* Fiber.await(sending)
      yield* Fiber.join(ending)
      if (Exit.isSuccess(exit)) assert.deepStrictEqual(written, ["a", "b"])
      assert.include(["", "a", "a,b"], String(written))
    }).pipe(Effect.scoped),
    { preemptions: 1 }
  )
})

describe("a socket, in many orders of few fibers", () => {
  const serving = (
    body: (
      socket: ReconnectingSocket.ReconnectingSocket<WebSocketDialer.Message, WebSocketDialer.Message>,
      first: ReturnType<typeof connected>
    ) => Effect.Effect<unknown, unknown>
  ) =>
    Effect.scoped(Effect.gen(function*() {
      const first = connected()
      let dials = 0
      const socket = yield* ReconnectingSocket.make({
        dial: { url: "ws://test" },
        heartbeat: false,
        backoff: Schedule.spaced("1 second")
      }).pipe(
        Effect.provideService(WebSocketDialer.WebSocketDialer, {
          dial: () => Effect.sync(() => dials++ === 0 ? first.connection : connected().connection)
        }),
        Effect.provide(quiet)
      )
      yield* body(socket, first)
    }))

  it.interleavings(
    "a subscription made while the connection opens is sent once, before later messages",
    serving((socket, { written }) =>
      Effect.gen(function*() {
        const subscribing = Effect.zipRight(socket.subscribe({ open: "open" }), socket.send("a"))
        yield* Fiber.join(yield* Effect.fork(Effect.scoped(Effect.zipRight(subscribing, Effect.sleep("1 millis")))))
        assert.deepStrictEqual(written, ["open", "a"])
        yield* socket.close()
      })
    ),
    { strategy: ["exhaustive", "random"], seeds: 50, limit: 100, timeout: 120_000 }
  )
  it.interleavings(
    "a close completes, even if the connection ends meanwhile",
    serving((socket, { connection }) =>
      Effect.gen(function*() {
        const closing = yield* Effect.fork(socket.close())
        yield* connection.terminate
        yield* Fiber.join(closing)
        assert.strictEqual((yield* socket.state)._tag, "Closed")
      })
    ),
    { strategy: ["exhaustive", "random"], seeds: 50, limit: 100, timeout: 120_000 }
  )
})
