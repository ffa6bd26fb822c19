/**
 * Reads options of which some are `Config`s. (Effect's own `Config.unwrap` requires every option to be a `Config`,
 * recurses into plain strings without end, and throws for functions and `Redacted`s.)
 */
import * as Config from "effect/Config"
import type { Configurable } from "../../OAuth2Session.js"

/** The options, once all `Config`s among them are read. `Configurable` has the same fields as the options. */
export const unwrap = <A>(wrapped: Configurable<A>): Config.Config<A> => read(wrapped) as Config.Config<A>

const read = (wrapped: unknown): Config.Config<unknown> => {
  if (Config.isConfig(wrapped)) return wrapped
  if (Array.isArray(wrapped)) return Config.all(wrapped.map(read))
  if (!isPlain(wrapped)) return Config.succeed(wrapped)
  const entries = Object.entries(wrapped).map(([name, value]) => [name, read(value)] as const)
  return Config.all(Object.fromEntries(entries))
}

const isPlain = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype
