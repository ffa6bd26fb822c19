import { NodeWebSocketDialer } from "effect-holdfast/node"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { type Client, type Contender, everything, redialMillis, Window } from "./contender.js"

type Message = string | Uint8Array

const dialer = NodeWebSocketDialer.layer()

// The numbers of the losses are the messages themselves.
const acknowledge = {
  id: (message: Message) => Number(message),
  acknowledged: (message: Message) => Option.some(Number(message))
}

interface Kind {
  readonly isAcknowledged?: true
  readonly isRead?: false
  readonly heartbeat?: false
}

const opening = (kind: Kind = {}): Contender["open"] => (url, heard) =>
  Effect.runPromise(Effect.gen(function*() {
    const scope = yield* Scope.make()
    const socket = yield* ReconnectingSocket.make({
      dial: { url },
      backoff: Schedule.spaced(redialMillis),
      heartbeat: kind.heartbeat,
      outbox: {
        overflow: "suspend" as const,
        // Room for messages whose acknowledgements are still on their way.
        ...kind.isAcknowledged === true && { capacity: 65_536 }
      },
      ...kind.isAcknowledged === true && { acknowledge }
    }).pipe(Scope.extend(scope), Effect.provide(dialer), Logger.withMinimumLogLevel(LogLevel.Warning))
    yield* socket.awaitOpen

    const hear = (messages: Iterable<Message>) =>
      Effect.sync(() => {
        for (const message of messages) heard(message as string)
      })
    let take: (messages: Iterable<Message>) => Effect.Effect<unknown, unknown> = hear
    // One reader for as long as the socket lives: it ends when the socket is closed.
    if (kind.isRead !== false) {
      yield* Effect.forkDaemon(Stream.runForEachChunk(socket.messages, (messages) => take(messages)))
    }

    return {
      send: (message) => void Effect.runFork(socket.send(message)),
      pour: (messages) => {
        const sent = Effect.forEach(messages, (message) => socket.send(message), { discard: true })
        // A written message may not have been taken by the server; an acknowledged one has.
        if (kind.isAcknowledged === true) return Effect.runPromise(Effect.zipRight(sent, socket.flush))
        return void Effect.runFork(sent)
      },
      close: () => Effect.runPromise(Scope.close(scope, Exit.void)),
      echo: (message, total, window, onEcho) =>
        Effect.runPromise(Effect.async<void, unknown>((resume) => {
          const echoes = new Window(message, total, window, onEcho)
          // One fiber sends, in a loop, one at a time.
          const send = (times: number) =>
            Effect.suspend(() => {
              let left = times
              return Effect.whileLoop({
                while: () => left > 0,
                body: () => socket.send(message),
                step: () => {
                  left--
                }
              })
            })
          take = (messages) => {
            let refill = 0
            for (const echo of messages) if (echoes.took(echo)) refill++
            if (echoes.isOver) {
              take = hear
              resume(Effect.void)
            }
            return send(refill)
          }
          Effect.runFork(send(echoes.first))
        }))
    } satisfies Client
  }))

export const holdfast: ReadonlyArray<Contender> = [
  { name: "Holdfast", parts: [...everything, "pour"], open: opening() },
  { name: "Holdfast, nobody reads", parts: ["heap"], open: opening({ isRead: false }) },
  { name: "the same, no heartbeat", parts: ["heap"], open: opening({ isRead: false, heartbeat: false }) },
  {
    name: "Holdfast, acknowledged",
    parts: ["losses", "pour"],
    isAcknowledged: true,
    open: opening({ isAcknowledged: true })
  }
]
