/** The users of the feed. Each has three subscriptions, which it changes, and sends one message after another. */
import type { InvalidOptions } from "effect-holdfast/InvalidOptions"
import type { WebSocketDialer } from "effect-holdfast/WebSocketDialer"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { type Chance, chance } from "../chance.js"
import type { ApiSession } from "../session/client.js"
import { connect, type FeedSocket } from "./client.js"
import { Events, type Verdict } from "./events.js"
import { Hearing } from "./hearing.js"
import { topicCount } from "./messages.js"

export const subscriptionCount = 3

export interface Tally {
  /** By client: how many messages it has sent, numbered from 1. */
  readonly said: Readonly<Record<string, number>>
  /** By client: the highest acknowledged number. */
  readonly acknowledged: Readonly<Record<string, number>>
  /** The clients that learned, before they closed, that all their messages were acknowledged. */
  readonly flushed: number
  /** Why sockets failed before they were closed. */
  readonly gaveUp: ReadonlyArray<string>
  readonly swaps: number
  readonly heard: number
  readonly outOfOrder: number
  readonly missing: number
  readonly events: ReadonlyArray<Verdict>
}

/** By client. */
export type Topics = Readonly<Record<string, ReadonlyArray<string>>>

export interface Crowd {
  /**
   * Stops all sending, and waits until everything is acknowledged, or for the given milliseconds. Answers with the
   * subscriptions of each client.
   */
  readonly calm: (patience: number) => Effect.Effect<Topics>
  readonly tally: Effect.Effect<Tally>
}

/** Ends when all clients are connected, or `patience` milliseconds later. They close with the scope. */
export const make = (
  seed: number,
  urls: Readonly<Record<string, string>>,
  patience: number
): Effect.Effect<Crowd, InvalidOptions, ApiSession | Scope.Scope | WebSocketDialer> =>
  Effect.gen(function*() {
    const said: Record<string, number> = {}
    const acknowledged: Record<string, number> = {}
    const topics: Record<string, ReadonlyArray<string>> = {}
    const gaveUp: Array<string> = []
    const hearings: Array<Hearing> = []
    const watched: Array<Events> = []
    let flushed = 0
    let swaps = 0
    let isCalm = false

    const giveUp = (error: { readonly _tag: string }) =>
      Effect.sync(() => {
        gaveUp.push(error._tag)
      })

    const untilCalm = (pause: () => number, turn: Effect.Effect<void>) =>
      Effect.repeat(Effect.zipRight(Effect.suspend(() => Effect.sleep(pause())), turn), { until: () => isCalm })

    const watch = (socket: FeedSocket) => {
      const events = new Events()
      watched.push(events)
      return Stream.runForEach(
        socket.events,
        (event) => Effect.map(Clock.currentTimeMillis, (now) => events.see(event, now))
      )
    }

    const listen = (socket: FeedSocket) => {
      const hearing = new Hearing()
      hearings.push(hearing)
      return Stream.runForEach(socket.messages, (message) => Effect.sync(() => hearing.hear(message))).pipe(
        Effect.catchAll(giveUp)
      )
    }

    const subscribe = Effect.fnUntraced(function*(socket: FeedSocket, topic: string, parent: Scope.Scope) {
      const scope = yield* Scope.fork(parent, parent.strategy)
      yield* socket.subscribe({ open: { subscribe: topic }, close: { unsubscribe: topic } }).pipe(
        Scope.extend(scope),
        Effect.catchAll(giveUp)
      )
      return { topic, scope }
    })

    const keepSubscribed = Effect.fnUntraced(function*(client: string, socket: FeedSocket, luck: Chance) {
      const scope = yield* Effect.scope
      const present = yield* Effect.forEach(
        Array.from({ length: subscriptionCount }, (_, topic) => `topic ${topic}`),
        (topic) => subscribe(socket, topic, scope)
      )
      const names = () => present.map(({ topic }) => topic)
      topics[client] = names()
      const swap = Effect.gen(function*() {
        const others = Array.from({ length: topicCount }, (_, topic) => `topic ${topic}`)
          .filter((topic) => !names().includes(topic))
        const place = Math.floor(luck.between(0, subscriptionCount))
        const left = present[place]!
        // The new subscription first, so that there are never fewer than three.
        present[place] = yield* subscribe(socket, others[Math.floor(luck.between(0, others.length))]!, scope)
        yield* Scope.close(left.scope, Exit.void)
        topics[client] = names()
        swaps++
      })
      return yield* Effect.forkScoped(untilCalm(() => luck.between(100, 500), swap))
    })

    const speak = (client: string, socket: FeedSocket, luck: Chance) => {
      const say = Effect.suspend(() => {
        const number = (said[client] ?? 0) + 1
        return Effect.matchEffect(socket.send({ number, text: `${client} says ${number}` }), {
          onFailure: giveUp,
          onSuccess: () =>
            Effect.sync(() => {
              said[client] = number
            })
        })
      })
      return untilCalm(
        () => luck.between(50, 150),
        Effect.suspend(() => Effect.replicateEffect(say, Math.floor(luck.between(1, 8)), { discard: true }))
      )
    }

    const flush = (socket: FeedSocket) =>
      Effect.matchEffect(socket.flush, {
        onFailure: giveUp,
        onSuccess: () =>
          Effect.sync(() => {
            flushed++
          })
      })

    const using = yield* Effect.forEach(Object.entries(urls), ([client, url]) =>
      Effect.gen(function*() {
        const luck = chance(seed, client)
        const socket = yield* connect(url, (number) => {
          acknowledged[client] = Math.max(acknowledged[client] ?? 0, number)
        })
        yield* Effect.forkScoped(watch(socket))
        yield* Effect.forkScoped(listen(socket))
        const swapping = yield* keepSubscribed(client, socket, luck)
        const speaking = yield* Effect.forkScoped(speak(client, socket, luck))
        return {
          opened: Effect.catchAll(socket.awaitOpen, giveUp),
          flushed: Effect.zipRight(Fiber.join(Fiber.zip(speaking, swapping)), flush(socket))
        }
      }))
    yield* Effect.timeoutOption(Effect.all(using.map(({ opened }) => opened), { concurrency: "unbounded" }), patience)

    return {
      calm: (patience) =>
        Effect.suspend(() => {
          isCalm = true
          return Effect.all(using.map(({ flushed }) => flushed), { concurrency: "unbounded", discard: true })
        }).pipe(
          Effect.timeoutOption(patience),
          Effect.as(topics)
        ),
      tally: Effect.sync(() => ({
        said,
        acknowledged,
        flushed,
        gaveUp,
        swaps,
        heard: total(hearings.map(({ heard }) => heard)),
        outOfOrder: total(hearings.map(({ outOfOrder }) => outOfOrder)),
        missing: total(hearings.map(({ missing }) => missing)),
        events: watched.map(({ verdict }) => verdict)
      }))
    }
  })

const total = (numbers: ReadonlyArray<number>): number => numbers.reduce((sum, number) => sum + number, 0)
