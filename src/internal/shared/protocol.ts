/**
 * How a fleet of processes shares one session: functions from a row of the store to the next row. This file knows no
 * database, fiber or clock. A store holds one row for each session and replaces it only by compare-and-set: a write
 * names the `revision` that it read, and fails if the row has another one by then.
 *
 * A refresh has these steps: read → `look` → `take` the lease → `mayPresent`? → present the value upstream, and
 * `extend` the lease meanwhile → `settle` the result by `commit`; or `fail`.
 *
 * **These rules hold**, whatever processes crash, pause or lose answers (`test/SharedSession/protocol.test.ts` searches
 * all orders of these steps):
 *
 * - Two processes present the same value at the same time only if the first was suspended for longer than its lease.
 * - A value that may have been presented before is presented again only as `uncertain`.
 * - A commit replaces only the version that its holder read.
 * - After `end` no earlier value becomes current again.
 *
 * Each number that orders rows (`revision`, `version`, `fence`) is the greater of its predecessor plus one and the
 * store's clock in milliseconds. So it does not fall when the row is deleted.
 */
import type { Row } from "../../SessionStore.js"

/** A process's memory of the row: the last version that it adopted, committed or ended. */
export interface Known {
  readonly version: number
  readonly origin: number
  readonly value: string | null
  /** How long the value is still valid, counted by the process's own monotonic clock; `null` if it never expires. */
  readonly lifetime: number | null
}

/** The memory of a process that has never seen the row. */
export const nothing: Known = { version: 0, origin: 0, value: null, lifetime: null }

/** A lease as its holder remembers it. */
export interface Taken {
  readonly holder: string
  /** The version and origin that the row had when the lease was taken. */
  readonly version: number
  readonly origin: number
  /** Whether there was no value to present. */
  readonly isSignIn: boolean
}

/** The longest lease that a session may have, in milliseconds. */
export const longestLease = 300_000

/** A row in which nothing has happened yet. */
export const blank: Row = {
  revision: 0,
  version: 0,
  origin: 0,
  value: null,
  lifetime: null,
  committedAt: 0,
  committedBy: null,
  fence: 0,
  holder: null,
  leaseUntil: 0,
  intent: false,
  uncertain: false,
  coolUntil: 0,
  failures: 0,
  error: null,
  dead: false
}

const after = (previous: number, now: number): number => Math.max(previous + 1, now)

/**
 * Whether a process holds the lease. A lease that would last longer than any lease can does not count: the store's
 * clock must have been set back since, and the lease could last for hours.
 */
const isHeld = ({ holder, leaseUntil }: Row, now: number): boolean =>
  holder !== null && leaseUntil > now && leaseUntil - now <= longestLease

const free = { holder: null, leaseUntil: 0, uncertain: false } as const

// --- looking -----------------------------------------------------------------

/**
 * The meaning of a row that a process has read.
 *
 * - `Newer`: another process has renewed, signed in or ended: adopt it.
 * - `Behind`: the row is missing, or older than what the process holds: `restore` it.
 * - `Cooling`: the last refresh failed, and its failure answers for `left` milliseconds more.
 * - `Busy`: another process holds the lease, for at most `left` milliseconds more.
 * - `Free`: the lease can be taken.
 */
export type Finding =
  | { readonly _tag: "Newer"; readonly row: Row }
  | { readonly _tag: "Behind" }
  | { readonly _tag: "Cooling"; readonly left: number }
  | { readonly _tag: "Busy"; readonly left: number }
  | { readonly _tag: "Free" }

/** A value that was changed by hand under the same version counts as newer. */
export const look = (row: Row | undefined, known: Known, now: number): Finding => {
  if (row === undefined || row.version < known.version) {
    return known.version === 0 ? { _tag: "Free" } : { _tag: "Behind" }
  }
  if (row.version > known.version || row.value !== known.value) return { _tag: "Newer", row }
  if (isHeld(row, now)) return { _tag: "Busy", left: row.leaseUntil - now }
  return row.coolUntil > now ? { _tag: "Cooling", left: row.coolUntil - now } : { _tag: "Free" }
}

/** The memory of a process once it has adopted the row. */
export const adopt = (row: Row, now: number): Known => ({
  version: row.version,
  origin: row.origin,
  value: row.value,
  lifetime: row.lifetime === null ? null : Math.max(0, row.lifetime - Math.max(0, now - row.committedAt))
})

/**
 * The row, restored from a process's memory. If the stored row was lost, an intent may have been lost with it, so the
 * value counts as presented. A session that was ended stays ended.
 */
export const restore = (row: Row | undefined, known: Known, now: number): Row => ({
  ...blank,
  revision: after(row?.revision ?? 0, now),
  version: known.version,
  origin: known.origin,
  value: known.value,
  lifetime: known.lifetime,
  committedAt: now,
  fence: row?.fence ?? 0,
  intent: known.value !== null,
  dead: known.value === null
})

// --- the lease ---------------------------------------------------------------

/** The intent is written together with the lease, before the value is presented. */
export const take = (
  row: Row | undefined,
  { holder, lease, now }: { readonly holder: string; readonly lease: number; readonly now: number }
): Row => {
  const base = row ?? blank
  return {
    ...base,
    revision: after(base.revision, now),
    fence: after(base.fence, now),
    holder,
    leaseUntil: now + lease,
    uncertain: base.intent,
    intent: base.value !== null
  }
}

/** The same lease, extended; `undefined` if another process holds it by now. */
export const extend = (
  row: Row | undefined,
  { holder, lease, now }: { readonly holder: string; readonly lease: number; readonly now: number }
): Row | undefined =>
  row?.holder === holder ? { ...row, revision: after(row.revision, now), leaseUntil: now + lease } : undefined

/**
 * Whether the lease still runs, counted from before it was asked for, on the holder's own monotonic clock. Checked
 * immediately before the value is presented: a process that was suspended since then may no longer present it.
 */
export const mayPresent = (
  { askedAt, lease }: { readonly askedAt: number; readonly lease: number },
  monotonicNow: number
): boolean => monotonicNow < askedAt + lease

/**
 * Whether the next presentation is uncertain after a failed one. A failure proves that the value is unspent only if no
 * earlier presentation was uncertain: the earlier one may have spent it.
 */
export const afterFailure = (wasUncertain: boolean, isUnspent: boolean): boolean => wasUncertain || !isUnspent

// --- the result --------------------------------------------------------------

/** A value that the upstream gave. */
export interface Obtained {
  readonly value: string
  readonly lifetime: number | null
}

/** Replaces the version that the holder read. Only the lease's holder commits, and only that version. */
export const commit = (row: Row, taken: Taken, { lifetime, value }: Obtained, now: number): Row | undefined => {
  if (row.holder !== taken.holder || row.version !== taken.version) return undefined
  const version = after(row.version, now)
  return {
    ...row,
    ...free,
    revision: after(row.revision, now),
    version,
    origin: taken.isSignIn ? version : taken.origin,
    value,
    lifetime,
    committedAt: now,
    committedBy: taken.holder,
    intent: false,
    coolUntil: 0,
    failures: 0,
    error: null,
    dead: false
  }
}

/**
 * The next step of a holder with the value that it has obtained.
 *
 * - `Commit`: write this row.
 * - `Committed`: the value was written already, but the store's answer was lost.
 * - `Busy`: the lease has passed to another process, which may be presenting the value. The holder waits for its
 *   result.
 * - `Superseded`: another process has renewed meanwhile. Its value is adopted. The own value is not revoked: some
 *   servers would then revoke the other value, too, which descends from the same sign-in.
 * - `Ended`: the session was ended meanwhile. The value is revoked.
 */
export type Settlement =
  | { readonly _tag: "Commit"; readonly row: Row }
  | { readonly _tag: "Committed"; readonly row: Row }
  | { readonly _tag: "Busy"; readonly left: number }
  | { readonly _tag: "Superseded"; readonly row: Row }
  | { readonly _tag: "Ended"; readonly row: Row }

export const settle = (row: Row | undefined, taken: Taken, obtained: Obtained, now: number): Settlement => {
  // The row was lost, or replaced by an older one. The value was obtained from a later row, so it is written.
  if (row === undefined || row.version < taken.version) {
    const base = { ...(row ?? blank), version: taken.version, origin: taken.origin }
    return { _tag: "Commit", row: commit({ ...base, holder: taken.holder }, taken, obtained, now)! }
  }
  if (row.committedBy === taken.holder && row.version > taken.version) return { _tag: "Committed", row }
  if (row.version > taken.version) {
    const isSameSignIn = !row.dead && (row.origin === taken.origin || taken.isSignIn)
    return { _tag: isSameSignIn ? "Superseded" : "Ended", row }
  }
  if (row.holder !== taken.holder && isHeld(row, now)) return { _tag: "Busy", left: row.leaseUntil - now }
  // The lease ran out, and no process holds it now. This process takes it again, and commits in the same write.
  const own = row.holder === taken.holder ? row : take(row, { holder: taken.holder, lease: 0, now })
  return { _tag: "Commit", row: commit(own, taken, obtained, now)! }
}

/** How a refresh failed. */
export interface Failure {
  /** Whether the next presentation is uncertain. */
  readonly uncertain: boolean
  /** Whether the credential itself is dead, so that the next caller signs in. */
  readonly isFatal: boolean
  readonly error: string
  readonly cooldown: number
}

/**
 * Gives the lease back, and starts a cooldown for all processes; `undefined` if another process holds the lease by now.
 */
export const fail = (row: Row | undefined, holder: string, failure: Failure, now: number): Row | undefined => {
  if (row?.holder !== holder) return undefined
  const failed = { ...row, ...free, revision: after(row.revision, now) }
  return failure.isFatal && row.value !== null ? { ...tombstone(failed, now), error: failure.error } : {
    ...failed,
    intent: row.value !== null && failure.uncertain,
    // A row is JSON, which has no infinity.
    coolUntil: Math.min(now + failure.cooldown, Number.MAX_SAFE_INTEGER),
    failures: row.failures + 1,
    error: failure.error
  }
}

/** Ends the row's value. The row stays, as a sign for other processes that the values they remember are over. */
export const end = (row: Row | undefined, known: Known, now: number): Row => {
  const base = row ?? blank
  return tombstone(
    { ...base, revision: after(base.revision, now), version: Math.max(base.version, known.version) },
    now
  )
}

const tombstone = (row: Row, now: number): Row => {
  const version = after(row.version, now)
  return {
    ...row,
    ...free,
    version,
    origin: version,
    value: null,
    lifetime: null,
    committedAt: now,
    committedBy: null,
    intent: false,
    coolUntil: 0,
    failures: 0,
    error: null,
    dead: true
  }
}

/** Whether the row was ended by signing out. If the credential was refused, the row has its error. */
export const isEnd = (row: Row): boolean => row.dead && row.error === null

/**
 * Whether other processes must be notified of a row that was written. A lease that is taken or extended needs no
 * notice.
 */
export const isNews = (row: Row): boolean => row.holder === null
