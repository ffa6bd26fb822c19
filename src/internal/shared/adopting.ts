/** Takes over what another process has written: its value, or the news that the value is gone. */
import * as Effect from "effect/Effect"
import type { Row } from "../../SessionStore.js"
import type { Unreadable } from "./codec.js"
import { type Parts, Trouble } from "./parts.js"
import type { Time } from "./rows.js"

/**
 * Remembers the row, and makes its value the session's current one if it is still valid. Gives `"current"` if it is
 * valid, `"expired"` if the value can only be renewed, `"gone"` if the row has no value (the session has then forgotten
 * its own), and `"late"` if this process has meanwhile gone on without the row.
 */
export const adoptRow = <A, E>(
  parts: Parts<A, E>,
  row: Row,
  time: Time,
  isStillWanted: () => boolean
): Effect.Effect<"current" | "expired" | "gone" | "late", Trouble> =>
  Effect.flatMap(valueIn(parts, row), (value) => {
    const { memory, monotonic, report, session } = parts
    if (!isStillWanted()) return Effect.succeed("late" as const)
    memory.remember(row, time, value)
    if (value === undefined) {
      // In the same step, since this process may sign in again immediately afterwards.
      session().forget()
      return Effect.succeed("gone" as const)
    }
    const { left, version } = memory
    if (left <= 0) return Effect.succeed("expired" as const)
    const read = monotonic()
    const age = Math.max(0, time.now - row.committedAt) + read - time.askedAt
    const wall = parts.now()
    const outside = { value: value.is, acquiredAt: wall - age, expiresAt: wall + left }
    const isUnchanged = () => memory.version === version && memory.value === value && monotonic() - read < left
    return session().adopt(outside, isUnchanged).pipe(
      Effect.zipRight(report("adopted")),
      Effect.as("current" as const)
    )
  })

/** The decoded value. Unreadable text is a failure, or counts as no value, as the session's options say. */
const valueIn = <A, E>(
  { codec, name, signsInIfUnreadable }: Parts<A, E>,
  { value }: Row
): Effect.Effect<{ readonly is: A } | undefined, Trouble> =>
  value === null ? Effect.succeed(undefined) : codec.decode(value).pipe(
    Effect.map((is) => ({ is })),
    Effect.catchAll(({ detail }) =>
      signsInIfUnreadable
        ? Effect.as(Effect.logWarning(`${name}: the stored value ${detail}; signing in again`), undefined)
        : Effect.fail(unreadable({ detail }))
    )
  )

export const unreadable = ({ detail }: Pick<Unreadable, "detail">): Trouble =>
  new Trouble({ reason: "Unreadable", detail: `the stored value ${detail}` })

export const unavailable = ({ detail }: { readonly detail: string }): Trouble =>
  new Trouble({ reason: "StoreUnavailable", detail })

/** The failure for a session that another process has signed out of. The next caller may sign in immediately. */
export const ended = <A, E>({ setCooldown }: Parts<A, E>): Trouble => {
  setCooldown(0)
  return new Trouble({ reason: "Ended", detail: "another process has ended it" })
}
