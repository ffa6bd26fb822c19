/**
 * Hearing of what other processes have written. A notice is a hint: the row says what it is about.
 */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { adoptRow, unavailable } from "./adopting.js"
import type { Parts } from "./parts.js"
import * as Protocol from "./protocol.js"

/** Runs for as long as the session. */
export const hear = <A, E>(parts: Parts<A, E>, key: string, notices: Stream.Stream<string>): Effect.Effect<void> =>
  Stream.runForEach(Stream.filter(notices, (changed) => changed === key), () =>
    Effect.suspend(() => {
      const { memory, news } = parts
      memory.heard++
      news.notify()
      // A process that has never asked asks nothing now, and a refresh looks for itself.
      return memory.active > 0 || memory.version === 0 ? Effect.void : look(parts)
    })).pipe(
      Effect.catchAllDefect((defect) => Effect.logWarning(`${parts.name}: no more notices`, defect))
    )

const look = <A, E>(parts: Parts<A, E>): Effect.Effect<void> => {
  const { memory, rows } = parts
  const { epoch } = memory
  const isStillWanted = () => memory.active === 0 && memory.epoch === epoch && memory.owedEnd === undefined
  return Effect.flatMap(Effect.mapError(rows.read, unavailable), ({ row, ...time }) => {
    const finding = Protocol.look(row, memory.known(), time.now)
    return finding._tag === "Newer" && isStillWanted()
      ? Effect.asVoid(adoptRow(parts, finding.row, time, isStillWanted))
      : Effect.void
  }).pipe(
    // The next caller who asks hears of it.
    Effect.catchAll((trouble) => Effect.logDebug(`${parts.name}: a notice was of no use: ${trouble.detail}`))
  )
}
