/**
 * A context with a `Scope` that is made when something first asks for it.
 *
 * Most bodies of transactions never use their scope, and making and closing one costs a third of the transaction. A
 * stand-in for the scope does not work, because `Effect.forkScoped` reads the inner state of the scope. So the scope
 * here is a real one, but it is only made when it is first looked up in the context.
 */
import * as Context from "effect/Context"
import * as Scope from "effect/Scope"

/** The owner makes the scope when it is first asked for, and gives the same one from then on. */
export interface ScopeOwner {
  readonly scope: () => Scope.Scope
}

export const withLazyScope = <R>(context: Context.Context<R>, owner: ScopeOwner): Context.Context<R | Scope.Scope> =>
  Context.unsafeMake(new Services(context.unsafeMap, owner) as unknown as Map<string, unknown>)

/** The part of a `Map` that Effect's contexts use. A context never changes its map: to add a service, it copies it. */
class Services implements ReadonlyMap<string, unknown> {
  private readonly others: ReadonlyMap<string, unknown>
  private readonly owner: ScopeOwner

  constructor(others: ReadonlyMap<string, unknown>, owner: ScopeOwner) {
    this.others = others
    this.owner = owner
  }

  get(key: string): unknown {
    return key === Scope.Scope.key ? this.owner.scope() : this.others.get(key)
  }

  has(key: string): boolean {
    return key === Scope.Scope.key || this.others.has(key)
  }

  get size(): number {
    return this.all().size
  }

  entries(): MapIterator<[string, unknown]> {
    return this.all().entries()
  }

  keys(): MapIterator<string> {
    return this.all().keys()
  }

  values(): MapIterator<unknown> {
    return this.all().values()
  }

  forEach(f: (value: unknown, key: string, map: ReadonlyMap<string, unknown>) => void): void {
    this.all().forEach(f)
  }

  [Symbol.iterator](): MapIterator<[string, unknown]> {
    return this.entries()
  }

  private all(): Map<string, unknown> {
    return new Map(this.others).set(Scope.Scope.key, this.owner.scope())
  }
}
