import { assert } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"

/** The typed failure of an effect that was expected to have one. */
export const failureOf = <A, E>(exit: Exit.Exit<A, E>): E => {
  if (Exit.isSuccess(exit)) assert.fail(`succeeded: ${String(exit)}`)
  return Option.getOrElse(Cause.failureOption(exit.cause), () => assert.fail(`no typed failure: ${String(exit)}`))
}

/** Runs the effect on the given number of fibers together, and gives their exits. */
export const many = <A, E, R>(count: number, effect: Effect.Effect<A, E, R>) =>
  Effect.all(Array.from({ length: count }, () => Effect.exit(effect)), { concurrency: "unbounded" })
