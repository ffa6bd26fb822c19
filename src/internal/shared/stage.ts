/** The stage of the session's own renewal, for the work that waits for other processes. */
import * as Effect from "effect/Effect"
import type { RenewalWork } from "../session/chain.js"
import type { Inside } from "../session/inside.js"
import * as Renewal from "../session/renewal.js"

export interface Stage {
  /** While the stage is `trying`, a request is in flight. At its timeout a renewal that is `pausing` is interrupted. */
  readonly set: (stage: "pausing" | "trying") => void
  /** Called with the error of a try that another one follows. */
  readonly failed: (error: unknown) => void
  /** Whether the renewal has timed out, so that no further try may begin. */
  readonly isLate: () => boolean
  /** Whether the renewal's outcome would become current. */
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
      failed: (error) => {
        if (work !== undefined) work.lastError = error
      },
      isLate: () => work?.renewal.hasFailed === true
    })
  })
