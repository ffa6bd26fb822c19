/** A WebSocket server that the test controls, on the test's clock, and a record of a socket's events. */
import { it } from "@effect/vitest"
import * as Backoff from "effect-holdfast/Backoff"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import type { TestOptions } from "vitest"
import { failureOf } from "./exits.js"
import { settle } from "./settle.js"

export { failureOf, settle }

export const pass = (millis: number) => Effect.zipRight(TestClock.adjust(millis), settle)

export const test = (
  name: string,
  effect: () => Effect.Effect<
    unknown,
    unknown,
    Scope.Scope | WebSocketDialer.WebSocketDialer | WebSocketDialer.TestServer
  >,
  options: TestOptions = {}
) => it.scoped(name, () => Effect.provide(effect(), WebSocketDialer.layerTest), options)

export const heard = (peer: WebSocketDialer.Peer) =>
  Effect.gen(function*() {
    const got: Array<WebSocketDialer.Message> = []
    yield* Effect.forkScoped(Effect.forever(Effect.map(peer.receive, (message) => got.push(message))))
    // The end of a test must not wait for unacknowledged messages.
    yield* Effect.addFinalizer(() => peer.reset)
    return { ...peer, got }
  })

/** Every dial, with its time. Waiting for a dial that has not come fails immediately. */
export const serving = Effect.gen(function*() {
  const server = yield* WebSocketDialer.TestServer
  const unanswered: Array<WebSocketDialer.Attempt> = []
  const times: Array<number> = []
  yield* Effect.forkScoped(Effect.forever(Effect.gen(function*() {
    unanswered.push(yield* server.attempt)
    times.push(yield* Clock.currentTimeMillis)
  })))
  const next = Effect.map(settle, () => {
    const attempt = unanswered.shift()
    if (attempt === undefined) throw new Error("nobody dials")
    return attempt
  })
  return {
    times,
    unanswered,
    next,
    open: Effect.tap(Effect.flatMap(next, ({ open }) => Effect.flatMap(open(), heard)), settle),
    refuse: (status: number, headers?: Record<string, string>) =>
      Effect.zipRight(Effect.flatMap(next, ({ refuse }) => refuse(status, headers)), settle)
  }
})

export const recorded = <A, E>(stream: Stream.Stream<A, E>) =>
  Effect.gen(function*() {
    const all: Array<A> = []
    const fiber = yield* Effect.forkScoped(Stream.runForEach(stream, (a) => Effect.sync(() => all.push(a))))
    yield* settle
    return { all, fiber }
  })

export const tagsOf = (all: ReadonlyArray<{ readonly _tag: string }>) => all.map(({ _tag }) => _tag)

export const ofTag = <A extends { readonly _tag: string }, Tag extends A["_tag"]>(all: ReadonlyArray<A>, tag: Tag) =>
  all.filter((one): one is Extract<A, { readonly _tag: Tag }> => one._tag === tag)

export const isDone = <A, E>(fiber: Fiber.Fiber<A, E>) => Effect.map(Fiber.poll(fiber), Option.isSome)

export const dial = { url: "ws://test" }
/** 1, 2, 4, 8, 16, 30, 30, … seconds. */
export const steady = Backoff.exponential({ initial: "1 seconds", jitter: "none" })

/** The close codes after which a socket gives up by default, not read from `src`, so that a change there is noticed. */
export const fatalCodes: ReadonlyArray<number> = [1002, 1003, 1007, 1008, 1009, 1010]

/** Examples of other codes that a server may send: the socket connects again. */
export const retryableCodes: ReadonlyArray<number> = [1000, 1001, 1011, 1012, 1013, 1014, 3000, 4000, 4401, 4999]

export type Message = WebSocketDialer.Message

/** A socket whose first connection is open. */
export const connected = <Out, In, E, R>(
  making: Effect.Effect<ReconnectingSocket.ReconnectingSocket<Out, In>, E, R>
) =>
  Effect.gen(function*() {
    const server = yield* serving
    const socket = yield* making
    const events = yield* recorded(socket.events)
    const peer = yield* server.open
    return { server, socket, events: events.all, peer }
  })

/** A socket whose first dial has not been answered. */
export const dialing = <Out, In, E, R>(
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

/** Keeps written messages until the test takes them, and can stop reading. */
export class Wire {
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

  /** What the end of the connection's scope waits for. */
  readonly released: Effect.Effect<void>

  constructor(
    can: {
      readonly ping?: boolean
      readonly pause?: boolean
      readonly isHeld?: boolean
      readonly released?: Effect.Effect<void>
    } = {}
  ) {
    this.isHeld = can.isHeld ?? false
    this.released = can.released ?? Effect.void
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

  /** Takes the kept messages. */
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

/** Each dial gets the next of these connections. */
export const wired = (...wires: ReadonlyArray<Wire>) => {
  const left = [...wires]
  return Layer.succeed(WebSocketDialer.WebSocketDialer, {
    dial: () =>
      Effect.suspend(() => {
        const wire = left.shift()
        return wire === undefined
          ? Effect.never
          : Effect.acquireRelease(
            Effect.succeed(wire.connection),
            ({ terminate }) => Effect.zipRight(wire.released, terminate)
          )
      })
  })
}

export const onWires = <Out = Message, In = Message, E = never, R = never, E2 = never, R2 = never>(
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
export const openTimers = Effect.acquireRelease(
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

export const lost = (reason: WebSocketDialer.ConnectionLost["reason"]) => new WebSocketDialer.ConnectionLost({ reason })

/** `ack 3` acknowledges all messages up to and including 3. */
export const acknowledge = {
  id: (message: Message) => Number(message),
  acknowledged: (message: Message) =>
    String(message).startsWith("ack ") ? Option.some(Number(String(message).slice(4))) : Option.none()
}

/** A socket of texts whose first connection is open, and all its messages and events. */
export const opened = (
  options: Partial<ReconnectingSocket.Options<string, string, never, never, unknown, never>> = {}
) =>
  Effect.gen(function*() {
    const server = yield* serving
    const socket = yield* ReconnectingSocket.make<string, string, never, never, unknown, never>({
      dial,
      backoff: steady,
      heartbeat: false,
      codec: { encode: (message) => message, decode: String },
      ...options
    })
    const events = yield* recorded(socket.events)
    const peer = yield* server.open
    return { server, socket, peer, events: events.all }
  })

/** Why the connections were lost so far. */
export const lossesOf = (events: ReadonlyArray<ReconnectingSocket.SocketEvent>): ReadonlyArray<string> =>
  ofTag(events, "Lost").map(({ failure }) => failure._tag === "ConnectionLost" ? failure.reason : failure._tag)
