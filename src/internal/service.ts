/**
 * The layer of a service that this library makes, for tags of `Context.Tag` and of `Effect.Service` alike.
 */
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"

/** The service of a `Context.Tag` is what `make` makes; that of an `Effect.Service` is an instance made of it. */
export const layer = <Id, Made, E, R>(
  tag: Context.Tag<Id, any>,
  make: Effect.Effect<Made, E, R>
): Layer.Layer<Id, E, Exclude<R, Scope.Scope>> =>
  Layer.scoped(tag, isServiceClass<Made>(tag) ? Effect.map(make, (made) => new tag(made)) : make)

/**
 * An `Effect.Service` gives its instances the tag's key as their `_tag`. The class that does so is above the tag: the
 * first instance that is made of an object with a prototype of its own takes the tag's prototype out of that chain.
 */
const isServiceClass = <Made>(tag: object): tag is new(made: Made) => unknown => {
  for (let above: unknown = tag; typeof above === "function"; above = Object.getPrototypeOf(above)) {
    if (above.prototype?._tag !== undefined && above.prototype._tag === (tag as { readonly key?: string }).key) {
      return true
    }
  }
  return false
}
