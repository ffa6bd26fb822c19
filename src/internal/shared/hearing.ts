/**
 * Receives notices of what other processes have written. A notice is only a hint: the row itself says what has changed.
 */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { waitAtMost } from "../first.js"
import { adoptRow, unavailable } from "./adopting.js"
import type { Parts } from "./parts.js"
import * as Protocol from "./protocol.js"
import { deadline } from "./rows.js"

/** Listens for notices of the session's row, for as long as the scope is open. */
export const hear = <A, E>(
  parts: Parts<A, E>,
  key: string,
  notices: Stream.Stream<string>
): Effect.Effect<void, never, Scope.Scope> => listen(notices, key, listenerOf(parts))

const listenerOf = <A, E>(parts: Parts<A, E>): () => void => {
  const { fork, memory, news } = parts
  let isLooking = false
  let isNews = false
  const looks: Effect.Effect<void> = Effect.suspend(() => {
    isLooking = isNews
    isNews = false
    return isLooking ? Effect.zipRight(look(parts), looks) : Effect.void
  })
  return () => {
    memory.heard++
    news.notify()
    // A process that has never used the session does not read the row now, and a running refresh reads it by itself.
    if (memory.active > 0 || memory.version === 0) return
    isNews = true
    if (isLooking) return
    isLooking = true
    fork(looks)
  }
}

const look = <A, E>(parts: Parts<A, E>): Effect.Effect<void> =>
  Effect.suspend(() => {
    const { memory, rows } = parts
    const { epoch } = memory
    const isStillWanted = () => memory.active === 0 && memory.epoch === epoch && memory.owedEnd === undefined
    if (!isStillWanted()) return Effect.void
    return Effect.flatMap(Effect.mapError(rows.read, unavailable), ({ row, ...time }) => {
      const finding = Protocol.look(row, memory.known(), time.now)
      return finding._tag === "Newer" && isStillWanted()
        ? Effect.asVoid(adoptRow(parts, finding.row, time, isStillWanted))
        : Effect.void
    })
  }).pipe(
    // The next caller gets the failure, so it is only logged here.
    Effect.catchAll((trouble) => Effect.logDebug(`${parts.name}: a notice was of no use: ${trouble.detail}`))
  )

// --- one subscription for all sessions of a store ----------------------------

/** If each of a thousand sessions read all notices, one notice for each would be read a million times. */
interface Subscription {
  /** The listeners for each key. */
  readonly listeners: Map<string, Set<() => void>>
  fiber: Fiber.RuntimeFiber<void> | undefined
}

const subscriptions = new WeakMap<Stream.Stream<string>, Subscription>()

const listen = (
  notices: Stream.Stream<string>,
  key: string,
  listener: () => void
): Effect.Effect<void, never, Scope.Scope> =>
  Effect.asVoid(Effect.acquireRelease(
    Effect.suspend(() => {
      const found = subscriptions.get(notices)
      const subscription: Subscription = found ?? { listeners: new Map(), fiber: undefined }
      const { listeners } = subscription
      listeners.set(key, (listeners.get(key) ?? new Set()).add(listener))
      if (found !== undefined) return Effect.succeed(subscription)
      subscriptions.set(notices, subscription)
      return Effect.map(Effect.forkDaemon(Effect.interruptible(pass(notices, listeners))), (fiber) => {
        subscription.fiber = fiber
        return subscription
      })
    }),
    (subscription) =>
      Effect.suspend(() => {
        const { fiber, listeners } = subscription
        const ofKey = listeners.get(key)
        ofKey?.delete(listener)
        if (ofKey?.size === 0) listeners.delete(key)
        if (listeners.size > 0) return Effect.void
        // Later listeners make a new subscription.
        if (subscriptions.get(notices) === subscription) subscriptions.delete(notices)
        if (fiber === undefined) return Effect.void
        // A database whose network is silent does not answer to the end of the subscription.
        return Effect.zipRight(Fiber.interruptFork(fiber), waitAtMost(Fiber.await(fiber), deadline))
      })
  ))

const pass = (notices: Stream.Stream<string>, listeners: Subscription["listeners"]): Effect.Effect<void> =>
  Stream.runForEach(notices, (key) =>
    Effect.sync(() => {
      for (const listener of listeners.get(key) ?? []) listener()
    })).pipe(
      Effect.catchAllDefect((defect) => Effect.logWarning("a session store gives no more notices", defect))
    )
