import * as PlatformError from "@effect/platform/Error"
import * as KeyValueStore from "@effect/platform/KeyValueStore"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"

/** A store whose content is visible, and that fails or waits when the test says so. */
export const memory = () => {
  const values = new Map<string, string>()
  const state = {
    values,
    broken: false,
    during: Effect.void as Effect.Effect<void>,
    writes: 0,
    removals: 0
  }
  const attempt = <A>(method: string, run: () => A) =>
    Effect.suspend(() => {
      if (!state.broken) return Effect.sync(run)
      return new PlatformError.SystemError({ reason: "Busy", module: "KeyValueStore", method, description: "canary" })
    })
  const store = KeyValueStore.makeStringOnly({
    get: (key) => attempt("get", () => Option.fromNullable(values.get(key))),
    set: (key, value) =>
      Effect.zipRight(
        Effect.suspend(() => state.during),
        attempt("set", () => {
          state.writes++
          values.set(key, value)
        })
      ),
    remove: (key) =>
      attempt("remove", () => {
        state.removals++
        values.delete(key)
      }),
    clear: Effect.sync(() => values.clear()),
    size: Effect.sync(() => values.size)
  })
  return { ...state, state, store }
}

export type Memory = ReturnType<typeof memory>
