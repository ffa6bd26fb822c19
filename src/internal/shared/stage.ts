/**
 * How far the session's own renewal has come, as the work that waits for other processes sees it.
 */
import * as Effect from "effect/Effect"
import type { RenewalWork } from "../session/chain.js"
import type { Inside } from "../session/inside.js"
import * as Renewal from "../session/renewal.js"

export interface Stage {
  /** Something is in flight while it is `trying`. At its timeout a renewal that is `pausing` is cut. */
  readonly set: (stage: "pausing" | "trying") => void
  /** The renewal has timed out: no further try is begun. */
  readonly isLate: () => boolean
  /** Whether its outcome would become current. */
  readonly isAwaited: () => boolean
}

/** The stage of the session's renewal that the current fiber is part of. */
export const of = <A, E>(session: Pick<Inside<A, E>, "isAwaited">): Effect.Effect<Stage> =>
  Effect.withFiberRuntime((fiber) => {
    const work = Renewal.workOf(fiber) as RenewalWork<unknown, unknown> | undefined
    return Effect.succeed({
      isAwaited: () => work !== undefined && session.isAwaited(work),
      set: (stage) => {
        if (work !== undefined) work.stage = stage
      },
      isLate: () => work?.renewal.hasFailed === true
    })
  })
