import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"

/**
 * Waits for a callback, and gives up its registration when the fiber is interrupted, at whatever operation.
 *
 * `Effect.async` registers in one operation and installs what it is to do on interruption in a later one. A fiber that
 * is interrupted between the two stays registered for ever: in a queue, it is handed an item, which is then lost.
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
