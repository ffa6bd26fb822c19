/**
 * What one generation acquired, and whether that is anything at all: a generation that has nothing to release need
 * not be held while it is used, which saves half of what a use costs.
 */
import * as Effect from "effect/Effect"
import * as ExecutionStrategy from "effect/ExecutionStrategy"
import * as Scope from "effect/Scope"

export interface Resources {
  readonly scope: Scope.CloseableScope
  /** The same scope, for `acquire` and `renew`. */
  readonly watched: Scope.Scope
  /** To be called when they have succeeded. */
  readonly seal: () => void
  /** Whether there is something to release, and who uses it is to be counted. */
  readonly isUsed: () => boolean
  /** Something came only after `seal`, when uses went uncounted: it is kept until the session closes. */
  readonly isPinned: () => boolean
}

export const make = (parent: Scope.Scope): Effect.Effect<Resources> =>
  Effect.map(Scope.fork(parent, ExecutionStrategy.sequential), (scope) => {
    let sealed = false
    let pinned = false
    // Finalizers come through `addFinalizer`, children through `fork`, and `Effect.forkIn` writes the fiber's finalizer
    // into the `state`. Should one of the three be renamed, all is counted.
    type Method = (_: unknown) => unknown
    const inside: { readonly addFinalizer?: Method; readonly fork?: Method; readonly state?: object } = scope as object
    const { addFinalizer, fork } = inside
    let used = addFinalizer === undefined || fork === undefined || inside.state === undefined
    const note = () => {
      if (sealed && !used) pinned = true
      used = true
    }
    const use = (method: Method | undefined) => (argument: unknown) => {
      note()
      return method!.call(scope, argument)
    }
    const watched = (): Scope.Scope =>
      Object.create(scope, {
        addFinalizer: { value: use(addFinalizer) },
        fork: { value: use(fork) },
        state: {
          get: () => {
            note()
            return inside.state
          }
        }
      })
    return {
      scope,
      watched: used ? scope : watched(),
      seal: () => {
        sealed = true
      },
      isUsed: () => used,
      isPinned: () => pinned
    }
  })
