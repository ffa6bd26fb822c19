/**
 * Writes a value that was obtained into the row. Until then the process keeps the value: the token that was presented
 * for it is spent.
 */
import * as Effect from "effect/Effect"
import type { Row } from "../../SessionStore.js"
import { adoptRow, ended, unavailable } from "./adopting.js"
import type { Pending } from "./memory.js"
import { type Parts, Trouble } from "./parts.js"
import * as Protocol from "./protocol.js"
import { found, type Time, write } from "./rows.js"
import { waitForNews } from "./waiting.js"

/**
 * `Own`: the value is committed. `Adopted`: another process's value is current. `Taken`: another fiber has settled the
 * value.
 */
export type Settled<A> = { readonly _tag: "Own"; readonly value: A } | { readonly _tag: "Adopted" | "Taken" }

/**
 * Commits the value. If another process has renewed or signed in again meanwhile, its value is adopted; if another
 * process has ended the session, this fails with `Ended`.
 */
export const settle = <A, E>(
  parts: Parts<A, E>,
  pending: Pending<A>,
  isOutOfPatience: () => boolean
): Effect.Effect<Settled<A>, Trouble> =>
  Effect.suspend(() => {
    const { memory, monotonic, rows } = parts
    if (memory.pending !== pending) return Effect.succeed(taken)
    const { encoded, goodUntil } = pending
    const { heard } = memory
    return rows.change<typeof taken | Exclude<Protocol.Settlement, { readonly _tag: "Commit" }>>(({ now, row }) => {
      if (memory.pending !== pending) return found(taken)
      const lifetime = goodUntil === Infinity ? null : Math.max(0, goodUntil - monotonic())
      const settlement: Protocol.Settlement = Protocol.settle(row, pending.taken, { value: encoded, lifetime }, now)
      return settlement._tag === "Commit" ? write(settlement.row) : found(settlement)
    }).pipe(
      Effect.mapError(unavailable),
      Effect.flatMap((change): Effect.Effect<Settled<A>, Trouble> => {
        const { time } = change
        if (change._tag === "Written") return committed(parts, pending, change.row, time)
        const settlement = change.found
        switch (settlement._tag) {
          case "Taken":
            return Effect.succeed(taken)
          case "Committed":
            return committed(parts, pending, settlement.row, time)
          case "Busy":
            return isOutOfPatience()
              ? Effect.fail(new Trouble({ reason: "Contended", detail: "another process has taken over the lease" }))
              : Effect.zipRight(
                waitForNews(parts, heard, Math.min(settlement.left, 500)),
                settle(parts, pending, isOutOfPatience)
              )
          case "Superseded":
            return superseded(parts, pending, settlement.row, time)
          case "Ended":
            return settlement.row.dead
              ? endedMeanwhile(parts, pending, settlement.row, time)
              : supersededBySignIn(parts, pending, settlement.row, time)
        }
      }),
      Effect.onError(() => Effect.sync(() => parts.settleLater()))
    )
  })

const taken = { _tag: "Taken" } as const

const committed = <A, E>(parts: Parts<A, E>, pending: Pending<A>, row: Row, time: Time): Effect.Effect<Settled<A>> =>
  Effect.suspend((): Effect.Effect<Settled<A>> => {
    const { memory, report } = parts
    if (memory.pending !== pending) return Effect.succeed(taken)
    memory.pending = undefined
    memory.remember(row, time, { is: pending.value })
    memory.undelivered = { is: pending.value }
    return Effect.as(report("renewed"), { _tag: "Own", value: pending.value })
  })

/** Adopts the value of another process's later sign-in, and revokes the own value. */
const supersededBySignIn = <A, E>(
  parts: Parts<A, E>,
  pending: Pending<A>,
  row: Row,
  time: Time
): Effect.Effect<Settled<A>, Trouble> =>
  superseded(
    parts,
    pending,
    row,
    time,
    Effect.suspend(() => parts.session().finish(parts.onEnd(pending.value)))
  )

/**
 * Adopts the other process's value. The own value is not revoked (see `Protocol.Settlement`), unless `afterwards` does
 * it, which runs if the own value was pending until then.
 */
const superseded = <A, E>(
  parts: Parts<A, E>,
  pending: Pending<A>,
  row: Row,
  time: Time,
  afterwards: Effect.Effect<void> = Effect.void
): Effect.Effect<Settled<A>, Trouble> => {
  const { memory } = parts
  let isReplaced = false
  const adopted = adoptRow(parts, row, time, () => {
    isReplaced = memory.pending === pending
    if (isReplaced) memory.pending = undefined
    return isReplaced
  })
  // If the adopted value has expired by now, the next caller renews it.
  return Effect.map(
    Effect.ensuring(adopted, Effect.suspend(() => isReplaced ? afterwards : Effect.void)),
    (outcome) => outcome === "current" ? { _tag: "Adopted" } : taken
  )
}

const endedMeanwhile = <A, E>(
  parts: Parts<A, E>,
  pending: Pending<A>,
  row: Row,
  time: Time
): Effect.Effect<Settled<A>, Trouble> =>
  Effect.suspend((): Effect.Effect<Settled<A>, Trouble> => {
    const { memory, onEnd, session } = parts
    if (memory.pending !== pending) return Effect.succeed(taken)
    memory.pending = undefined
    memory.remember(row, time, undefined)
    session().forget()
    return Effect.zipRight(session().finish(onEnd(pending.value)), Effect.fail(ended(parts)))
  })
