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
    // Every finalizer and every child comes through one of these two. Should they be renamed, all is counted.
    const { addFinalizer, fork } = scope as unknown as Record<"addFinalizer" | "fork", ((_: unknown) => unknown) | undefined>
    let used = addFinalizer === undefined || fork === undefined
    const use = (method: ((_: unknown) => unknown) | undefined) => (argument: unknown) => {
      if (sealed && !used) pinned = true
      used = true
      return method!.call(scope, argument)
    }
    return {
      scope,
      watched: used ? scope : Object.assign(Object.create(scope), { addFinalizer: use(addFinalizer), fork: use(fork) }),
      seal: () => {
        sealed = true
      },
      isUsed: () => used,
      isPinned: () => pinned
    }
  })
