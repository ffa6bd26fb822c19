/** When a server stops serving: the states of a boundary, and what moves them. */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import type { Options, Policy } from "../../DefectBoundary.js"
import { InvalidOptions } from "../../InvalidOptions.js"
import { count, duration, functions } from "../check.js"

export interface Limits {
  /** This number of defects within the time `within` ends the server. */
  readonly defects: number
  readonly within: Duration.Duration
  readonly grace: Duration.Duration
}

/** Not the wall clock: setting that clock must neither forget defects nor change the grace period. */
export const monotonicMillis: Effect.Effect<number> = Effect.map(
  Clock.currentTimeNanos,
  (nanos) => Number(nanos) / 1e6
)

/** All times are in milliseconds of the monotonic clock. */
export type State =
  /** The times of the defects that still count. */
  | { readonly _tag: "Serving"; readonly recent: ReadonlyArray<number> }
  /** Requests in flight may go on until the time `until`. */
  | { readonly _tag: "Draining"; readonly until: number }

export const serving: State = { _tag: "Serving", recent: [] }

export const afterDefect = (state: State, now: number, limits: Limits): State => {
  if (state._tag === "Draining") return state
  const recent = [...state.recent.filter((at) => now - at < Duration.toMillis(limits.within)), now]
  return recent.length < limits.defects ? { _tag: "Serving", recent } : draining(state, now, limits)
}

/** The grace period begins when the state first becomes `Draining`; further calls do not change it. */
export const draining = (state: State, now: number, { grace }: Limits): State & { readonly _tag: "Draining" } =>
  state._tag === "Draining" ? state : { _tag: "Draining", until: now + Duration.toMillis(grace) }

// -----------------------------------------------------------------------------
// options
// -----------------------------------------------------------------------------

export const limitsOf = (options: Options): Limits => {
  const given: unknown = options
  if (!Predicate.isRecord(given)) {
    throw new InvalidOptions({ option: "options", value: given, reason: "must be an object" })
  }
  // Only `layerHttpApi` has it.
  functions(options as { readonly middleware?: unknown }, ["middleware"])
  const { grace = "5 seconds", policy = "isolate" } = options
  return { grace: duration("grace", grace, { min: 0 }), ...limitOf(policy) }
}

const limitOf = (policy: Policy): Pick<Limits, "defects" | "within"> => {
  // No defect has to be remembered.
  if (policy === "isolate") return { defects: Infinity, within: Duration.zero }
  if (policy === "terminate") return { defects: 1, within: Duration.infinity }
  const after = (policy as Partial<Exclude<Policy, string>> | null)?.terminateAfter
  if (typeof after !== "object" || after === null) {
    throw new InvalidOptions({
      option: "policy",
      value: policy,
      reason: "must be \"isolate\", \"terminate\" or { terminateAfter: { defects, within } }"
    })
  }
  return {
    defects: count("policy.terminateAfter.defects", after.defects, 1, 10_000),
    within: duration("policy.terminateAfter.within", after.within, { min: 1, max: Duration.infinity })
  }
}
