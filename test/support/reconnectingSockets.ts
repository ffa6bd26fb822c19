/**
 * A server that is the test, on the test's clock, and what a socket tells.
 */
import { assert, it } from "@effect/vitest"
import * as Backoff from "effect-holdfast/Backoff"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"

/** Lets every fiber that can run do so. */
export const settle = Effect.repeatN(Effect.yieldNow(), 200)

export const pass = (millis: number) => Effect.zipRight(TestClock.adjust(millis), settle)

export const test = (
  name: string,
  effect: () => Effect.Effect<
    unknown,
    unknown,
    Scope.Scope | WebSocketDialer.WebSocketDialer | WebSocketDialer.TestServer
  >
) => it.scoped(name, () => Effect.provide(effect(), WebSocketDialer.layerTest))

export const heard = (peer: WebSocketDialer.Peer) =>
  Effect.gen(function*() {
    const got: Array<WebSocketDialer.Message> = []
    yield* Effect.forkScoped(Effect.forever(Effect.map(peer.receive, (message) => got.push(message))))
    // Where a test leaves something unacknowledged, its end is not to wait for that.
    yield* Effect.addFinalizer(() => peer.reset)
    return { ...peer, got }
  })

/** Every dial, and when it came. Who asks for one that has not come fails at once. */
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

export const failureOf = <A, E>(exit: Exit.Exit<A, E>): E => {
  assert.isTrue(Exit.isFailure(exit), "succeeded")
  return Option.getOrThrowWith(
    Cause.failureOption((exit as Exit.Failure<A, E>).cause),
    () => new Error(`no typed failure: ${String(exit)}`)
  )
}

export const isDone = <A, E>(fiber: Fiber.Fiber<A, E>) => Effect.map(Fiber.poll(fiber), Option.isSome)

export const dial = { url: "ws://test" }
/** 1, 2, 4, 8, 16, 30, 30, … seconds. */
export const steady = Backoff.exponential({ initial: "1 seconds", jitter: "none" })

/** A socket of texts whose first connection is open, and everything that it tells. */
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
