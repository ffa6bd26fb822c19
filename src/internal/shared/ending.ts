/** Signs out for the whole fleet: the row is marked as ended, and its value is revoked. */
import * as Effect from "effect/Effect"
import type { Row } from "../../SessionStore.js"
import { unavailable } from "./adopting.js"
import type { OwedEnd } from "./memory.js"
import type { Parts, Trouble } from "./parts.js"
import * as Protocol from "./protocol.js"
import { found, type Unavailable, write } from "./rows.js"

/**
 * The values that this process knew when `end` was called, and the `end` that has not been written into the row yet.
 */
export interface Ended<out A> {
  readonly owed: OwedEnd
  readonly values: ReadonlyArray<A>
}

/**
 * Forgets, in one step, what this process remembers. Until the row is marked as ended, too, no refresh reads the row.
 */
export const begin = <A, E>({ memory }: Parts<A, E>): Ended<A> => {
  const { pending, value } = memory
  const { origin, version } = memory.known()
  const owed = { version, origin, holder: pending?.taken.holder ?? memory.owedEnd?.holder }
  memory.epoch++
  memory.owedEnd = owed
  memory.pending = undefined
  memory.forget()
  return { owed, values: [...value === undefined ? [] : [value.is], ...pending === undefined ? [] : [pending.value]] }
}

/**
 * Replaces the row, and revokes the row's value and a value that was obtained but not committed. If that takes longer
 * than one call may, the values that this process knows are revoked, and the row is replaced when the store is back.
 */
export const end = <A, E>(parts: Parts<A, E>, { owed, values }: Ended<A>): Effect.Effect<void> =>
  Effect.suspend(() => {
    const { name, onEnd, report, rows } = parts
    return rows.withinDeadline(replace(parts, owed, undefined)).pipe(
      Effect.catchAll(({ detail }) => {
        parts.settleLater()
        return Effect.as(Effect.logWarning(`${name}: its end could not be written yet: ${detail}`), undefined)
      }),
      // Together, since each of them may have to wait for the same server.
      Effect.flatMap((replaced) =>
        Effect.all([revokeRow(parts, replaced), ...values.map((value) => onEnd(value))], {
          concurrency: "unbounded",
          discard: true
        })
      ),
      Effect.zipRight(report("ended"))
    )
  })

/** Writes an `end` that has not reached the store yet. */
export const writeOwedEnd = <A, E>(parts: Parts<A, E>): Effect.Effect<void, Trouble> =>
  Effect.suspend(() => {
    const { memory, session } = parts
    const owed = memory.owedEnd
    if (owed === undefined) return Effect.void
    return replace(parts, owed, owed.version === 0 ? undefined : owed.origin).pipe(
      Effect.mapError(unavailable),
      Effect.flatMap((replaced) => session().finish(revokeRow(parts, replaced)))
    )
  })

/**
 * Ends the row, and gives the replaced row if this process did not know its value. A row of a later sign-in stays: the
 * row is only replaced if it has the `origin` of the sign-in that is to be ended, or of the first row that is read if
 * that is unknown.
 */
const replace = <A, E>(
  { memory, rows }: Parts<A, E>,
  owed: OwedEnd,
  origin: number | undefined
): Effect.Effect<Row | undefined, Unavailable> =>
  Effect.suspend(() => {
    const { holder, version } = owed
    let replaced: Row | undefined
    let ending = origin
    const isOwn = (row: Row) => holder !== undefined && row.committedBy === holder
    const isOver = (row: Row | undefined): boolean => {
      // A refresh that started meanwhile has written the end before it read the row.
      if (memory.owedEnd !== owed) return true
      if (row === undefined) return version === 0
      ending ??= row.origin
      const isEnded = row.dead && row.holder === null && row.version > version
      return isEnded || (row.version > version && row.origin !== ending && !isOwn(row))
    }
    return Effect.map(
      rows.change(({ now, row }) => {
        replaced = row
        return isOver(row) ? found(row) : write(Protocol.end(row, { ...Protocol.nothing, ...owed }, now))
      }),
      (change) => {
        // Another fiber of this process may have found the end in the row before the answer came.
        if (memory.owedEnd === owed) {
          memory.owedEnd = undefined
          if (change._tag === "Written") memory.remember(change.row, change.time, undefined)
          else if (change.found?.dead) memory.remember(change.found, change.time, undefined)
        }
        const isNews = change._tag === "Written" && replaced !== undefined && replaced.version > version
        return isNews && !isOwn(replaced!) ? replaced : undefined
      }
    )
  })

const revokeRow = <A, E>({ codec, name, onEnd }: Parts<A, E>, row: Row | undefined): Effect.Effect<void> =>
  typeof row?.value !== "string" ? Effect.void : codec.decode(row.value).pipe(
    Effect.flatMap(onEnd),
    Effect.catchAll(({ detail }) => Effect.logWarning(`${name}: not revoked: the stored value ${detail}`))
  )
