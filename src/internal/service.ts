/**
 * The layer of a service that this library makes, for tags of `Context.Tag` and of `Effect.Service` alike.
 */
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"

/**
 * For a `Context.Tag` the service is the result of `make`; for an `Effect.Service` it is an instance made of that
 * result.
 */
export const layer = <Id, Made, E, R>(
  tag: Context.Tag<Id, any>,
  make: Effect.Effect<Made, E, R>
): Layer.Layer<Id, E, Exclude<R, Scope.Scope>> =>
  Layer.scoped(tag, isServiceClass<Made>(tag) ? Effect.map(make, (made) => new tag(made)) : make)

/**
 * Whether the tag is the class of an `Effect.Service`. Such a class gives its instances the tag's key as their `_tag`,
 * and it is found above the tag: the first instance that is made of an object with its own prototype takes the tag's
 * prototype out of the chain.
 */
const isServiceClass = <Made>(tag: object): tag is new(made: Made) => unknown => {
  for (let above: unknown = tag; typeof above === "function"; above = Object.getPrototypeOf(above)) {
    if (above.prototype?._tag !== undefined && above.prototype._tag === (tag as { readonly key?: string }).key) {
      return true
    }
  }
  return false
}
