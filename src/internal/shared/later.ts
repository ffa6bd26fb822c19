/** Writes values and ends that could not be written, when the store is back. */
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as Backoff from "../../Backoff.js"
import { writeOwedEnd } from "./ending.js"
import type { Parts } from "./parts.js"
import { settle } from "./settling.js"

/**
 * Writes, when the store is back, what could not be written: an `end`, or a value that was obtained. Refreshes try the
 * same meanwhile.
 */
export const settleLater = <A, E>(parts: Parts<A, E>): void => {
  const { deliver, fork, memory, session } = parts
  const isDone = () => memory.pending === undefined && memory.owedEnd === undefined
  if (memory.isSettling || isDone()) return
  memory.isSettling = true
  // The check and the reset are one step, so that a later write finds that no fiber is settling, and starts a new one.
  const isOver = () => {
    if (isDone()) memory.isSettling = false
    return !memory.isSettling
  }
  const attempt = Effect.suspend(() => {
    const { owedEnd, pending } = memory
    if (memory.active > 0) return Effect.void
    if (owedEnd !== undefined) return Effect.exit(writeOwedEnd(parts))
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

/**
 * Tries once more, when the session closes: the token that was presented for a value that was obtained is spent, and
 * another process would present it again.
 */
export const settleFinally = <A, E>(parts: Parts<A, E>): Effect.Effect<void> =>
  Effect.suspend(() => {
    const { memory, rows } = parts
    const { owedEnd, pending } = memory
    const calls = owedEnd !== undefined
      ? writeOwedEnd(parts)
      : pending === undefined
      ? Effect.void
      : settle(parts, pending, () => true)
    // A read and a write, each of which may take as long as a call may.
    return Effect.ignore(rows.withinDeadline<unknown, unknown>(calls, 2))
  })

const untilTheStoreIsBack = Schedule.map(
  Backoff.exponential({ initial: "200 millis", max: "5 seconds" }),
  () => undefined
)
