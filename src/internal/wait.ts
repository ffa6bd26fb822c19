import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"

/**
 * Waits for a callback, and removes its registration if the fiber is interrupted, at any operation.
 *
 * `Effect.async` registers in one operation and installs its cleanup in a later one. A fiber that is interrupted
 * between the two stays registered for ever: a queue would give it an item, which would be lost.
 */
export const wait = <A, E = never>(
  register: (resume: (exit: Exit.Exit<A, E>) => void) => (() => void) | undefined
): Effect.Effect<A, E> =>
  Effect.suspend(() => {
    let giveUp: (() => void) | undefined
    return Effect.onInterrupt(
      Effect.async<A, E>((resume) => {
        giveUp = register(resume)
      }),
      () => Effect.sync(() => giveUp?.())
    )
  })
