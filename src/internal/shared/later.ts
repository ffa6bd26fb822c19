/**
 * Writes of values and ends that wait until the store is back.
 */
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as Backoff from "../../Backoff.js"
import { discharge } from "./ending.js"
import type { Parts } from "./parts.js"
import { settle } from "./settling.js"

/**
 * Brings what could not be written, when the store is back: an `end` that the row does not know of, and a value that
 * was obtained. Meanwhile refreshes try the same.
 */
export const settleLater = <A, E>(parts: Parts<A, E>): void => {
  const { deliver, fork, memory, session } = parts
  const isDone = () => memory.pending === undefined && memory.owedEnd === undefined
  if (memory.isSettling || isDone()) return
  memory.isSettling = true
  // In one step: a write that comes later finds nobody settling, and begins anew.
  const isOver = () => {
    if (isDone()) memory.isSettling = false
    return !memory.isSettling
  }
  const attempt = Effect.suspend(() => {
    const { owedEnd, pending } = memory
    if (memory.active > 0) return Effect.void
    if (owedEnd !== undefined) return Effect.exit(discharge(parts))
    if (pending === undefined) return Effect.void
    return Effect.exit(Effect.zipRight(settle(parts, pending, () => true), Effect.zipRight(session().wake, deliver)))
  })
  fork(
    Effect.repeat(attempt, { until: isOver, schedule: untilTheStoreIsBack }).pipe(
      Effect.delay("200 millis"),
      Effect.asVoid
    )
  )
}

const untilTheStoreIsBack = Schedule.map(
  Backoff.exponential({ initial: "200 millis", max: "5 seconds" }),
  () => undefined
)
