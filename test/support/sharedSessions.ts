/** `SharedSession` in place of `Session`, so that the same scenarios run with both. */
import * as Session from "effect-holdfast/Session"
import * as SessionStore from "effect-holdfast/SessionStore"
import * as SharedSession from "effect-holdfast/SharedSession"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"

type AnyOptions = Session.Options<any, any, any, any, any, any, any, any>

/** A session with its own store. A value that is given as `initial` is in the store. */
const make = ({ initial, ...options }: AnyOptions) =>
  Effect.gen(function*() {
    const store = Layer.succeed(
      SessionStore.SessionStore,
      yield* Effect.provide(SessionStore.SessionStore, SessionStore.layerMemory)
    )
    const shared = {
      ...options,
      key: "session",
      schema: Schema.Any,
      renew: options.renew ?? (() => options.acquire)
    }
    if (initial !== undefined) {
      yield* Effect.scoped(
        Effect.provide(
          Effect.flatMap(
            SharedSession.make({ ...shared, acquire: Effect.succeed(initial), onRenewed: undefined }),
            ({ current }) => current
          ),
          store
        )
      )
    }
    const session = yield* Effect.provide(SharedSession.make(shared as never), store)
    if (initial !== undefined) yield* Effect.ignore(session.current)
    return session
  })

export const overSharedSessions: typeof Session = { ...Session, make: make as never }
