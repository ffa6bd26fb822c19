/**
 * Effect's own socket, over `ws`. By default it takes a reset for a normal end and never dials again. Here every close
 * is an error, and errors are retried.
 */
import * as Socket from "@effect/platform/Socket"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { identity } from "effect/Function"
import * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import { WebSocket } from "ws"
import { type Client, type Contender, everything, redialMillis, Window } from "./contender.js"

const make = (url: string) =>
  Effect.provideService(
    Socket.makeWebSocket(url, { closeCodeIsError: () => true }),
    Socket.WebSocketConstructor,
    (url, protocols) => new WebSocket(url, protocols) as unknown as globalThis.WebSocket
  )

const again = Effect.retry({ schedule: Schedule.spaced(redialMillis) })

/** A handler that gives an Effect for each message. */
const openHandler = (url: string, heard: (message: string) => void): Promise<Client> =>
  Effect.runPromise(Effect.gen(function*() {
    const socket = yield* make(url)
    // The acquired value is a function: there is nothing to release.
    const write = yield* Effect.scoped(socket.writer)
    let take: (message: string | Uint8Array) => Effect.Effect<void, Socket.SocketError> | void
    const hear = (message: string | Uint8Array) => heard(message as string)
    take = hear
    const opened = yield* Deferred.make<void>()
    const fiber = yield* Effect.forkDaemon(
      again(socket.runRaw((message) => take(message), { onOpen: Effect.asVoid(Deferred.succeed(opened, undefined)) }))
    )
    yield* Deferred.await(opened)
    return {
      send: (message) => void Effect.runFork(write(message)),
      pour: (messages) => void Effect.runFork(Effect.forEach(messages, write, { discard: true })),
      close: () => Effect.runPromise(Fiber.interrupt(fiber)).then(() => {}),
      echo: (message, total, window, onEcho) =>
        Effect.runPromise(Effect.async<void, Socket.SocketError>((resume) => {
          const echoes = new Window(message, total, window, onEcho)
          take = (echo) => {
            const more = echoes.took(echo)
            if (echoes.isOver) {
              take = hear
              resume(Effect.void)
            }
            return more ? write(message) : undefined
          }
          Effect.runFork(Effect.repeatN(write(message), echoes.first - 1))
        }))
    }
  }))

/** The socket's channel turns a stream of outgoing messages into a stream of incoming ones. It cannot be retried. */
const openStream = (url: string, heard: (message: string) => void): Promise<Client> =>
  Effect.runPromise(Effect.gen(function*() {
    const socket = yield* make(url)
    const outgoing = yield* Queue.unbounded<string>()
    const hear = (messages: Iterable<string | Uint8Array>) =>
      Effect.sync(() => {
        for (const message of messages) heard(message as string)
      })
    let take: (messages: Iterable<string | Uint8Array>) => Effect.Effect<unknown> = hear
    const fiber = yield* Effect.forkDaemon(
      Stream.fromQueue(outgoing).pipe(
        Stream.pipeThroughChannel(Socket.toChannelMap(socket, identity<string | Uint8Array>)),
        Stream.runForEachChunk((messages) => take(messages))
      )
    )
    return {
      send: (message) => outgoing.unsafeOffer(message),
      pour: (messages) => messages.forEach((message) => outgoing.unsafeOffer(message)),
      close: () => Effect.runPromise(Fiber.interrupt(fiber)).then(() => {}),
      echo: (message, total, window, onEcho) =>
        Effect.runPromise(Effect.async<void>((resume) => {
          const echoes = new Window(message, total, window, onEcho)
          take = (messages) => {
            const refill: Array<string> = []
            for (const echo of messages) if (echoes.took(echo)) refill.push(message)
            if (echoes.isOver) {
              take = hear
              resume(Effect.void)
            }
            return Queue.offerAll(outgoing, refill)
          }
          Effect.runFork(Queue.offerAll(outgoing, Array.from({ length: echoes.first }, () => message)))
        }))
    }
  }))

export const platformHandler: Contender = {
  name: "Effect Socket, handler",
  parts: everything,
  open: openHandler
}

export const platformStream: Contender = {
  name: "Effect Socket, stream",
  parts: ["echo"],
  open: openStream
}
