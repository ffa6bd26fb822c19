/**
 * Checks what a session of any kind is given to run. A caller without types may give a promise, or nothing, in place of
 * an effect, which would be a defect at the first refresh.
 */
import * as Schedule from "effect/Schedule"
import * as Check from "../check.js"

interface Callbacks {
  readonly acquire: unknown
  readonly renew?: unknown
  readonly onRenewed?: unknown
  readonly onEnd?: unknown
  readonly fatal?: unknown
  readonly expiresAt?: unknown
  readonly retry?: unknown
}

/** Throws `InvalidOptions`. */
export const checkCallbacks = (options: Callbacks): void => {
  Check.object("options", options)
  Check.effect("acquire", options.acquire)
  Check.functions(options, ["renew", "onRenewed", "onEnd", "fatal", "expiresAt"])
  if (options.retry !== undefined) Check.kind("retry", options.retry, Schedule.isSchedule, "must be a Schedule")
}
