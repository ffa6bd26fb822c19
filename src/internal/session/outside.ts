/** Links for values that an earlier run, or another process of a fleet, has obtained. */
import * as Effect from "effect/Effect"
import type { Generation } from "../../Session.js"
import { type GenerationLink, makeLink } from "./chain.js"
import type { Generations } from "./generations.js"

/** A value from outside. Times are epoch milliseconds of this process; the session's `maxAge` limits both. */
export interface Outside<out A> extends Pick<Generation<A>, "value" | "acquiredAt" | "expiresAt"> {}

/**
 * Gives a function that makes the link of a value from outside. Call the function in the step in which the link becomes
 * the head, so that no renewal takes a number in between. A value that has expired does not count against the budget.
 */
export const linkMaker = <A, E>(
  { acquiredAt, expiresAt, value }: Outside<A>,
  generations: Generations<A>
): Effect.Effect<() => GenerationLink<A, E>> => {
  const lifetime = generations.lifetime(acquiredAt, expiresAt)
  return Effect.map(
    generations.refreshAtOf(lifetime),
    (refreshAt) => () =>
      makeLink(generations.make(generations.nextNumber(), value, lifetime), { refreshAt, arrival: "served" })
  )
}
