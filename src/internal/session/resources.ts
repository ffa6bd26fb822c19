/**
 * The resources that one generation acquired, and the number of its holders. If there is nothing to release, holders
 * are not counted, which saves half of a use's cost.
 */
import * as Effect from "effect/Effect"
import * as ExecutionStrategy from "effect/ExecutionStrategy"
import * as Scope from "effect/Scope"

export class Resources {
  readonly scope: Scope.CloseableScope
  /** The same scope, for `acquire` and `renew`. */
  readonly watched: Scope.Scope
  /** How many calls, scopes and response bodies hold the generation. */
  holders = 0
  private hasAny: boolean
  private isSealed = false
  private hasLateOnes = false

  constructor(scope: Scope.CloseableScope) {
    this.scope = scope
    // Finalizers come through `addFinalizer`, children through `fork`, and `Effect.forkIn` writes the fiber's finalizer
    // into the `state`. If a later version of Effect renames one of the three, every generation counts as one that has
    // acquired something.
    type Method = (_: unknown) => unknown
    const inside: { readonly addFinalizer?: Method; readonly fork?: Method; readonly state?: object } = scope as object
    const { addFinalizer, fork } = inside
    const noted = (method: Method | undefined) => (argument: unknown) => {
      this.note()
      return method!.call(scope, argument)
    }
    const getState = () => {
      this.note()
      return inside.state
    }
    this.hasAny = addFinalizer === undefined || fork === undefined || inside.state === undefined
    this.watched = this.hasAny
      ? scope
      : Object.create(scope, {
        addFinalizer: { value: noted(addFinalizer) },
        fork: { value: noted(fork) },
        state: { get: getState }
      })
  }

  /** Must be called when `acquire` or `renew` has succeeded. */
  seal(): void {
    this.isSealed = true
  }

  /** Whether there is something to release, so that the holders of the generation must be counted. */
  get isUsed(): boolean {
    return this.hasAny
  }

  /**
   * Whether everything can be released. Resources that were added after `seal`, while holders were not counted, stay
   * until the session closes.
   */
  get isUnheld(): boolean {
    return this.holders === 0 && !this.hasLateOnes
  }

  private note(): void {
    if (this.isSealed && !this.hasAny) this.hasLateOnes = true
    this.hasAny = true
  }
}

export const make = (parent: Scope.Scope): Effect.Effect<Resources> =>
  Effect.map(Scope.fork(parent, ExecutionStrategy.sequential), (scope) => new Resources(scope))
