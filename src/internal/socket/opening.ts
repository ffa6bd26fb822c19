/**
 * Makes a dialed connection ready: the user's own login, then the subscriptions. Nothing from the outbox is sent
 * before.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Scope from "effect/Scope"
import { type ConnectionFailure, ConnectionLost } from "../../WebSocketDialer.js"
import { first, within } from "../first.js"
import type { LiveConnection } from "./connection.js"
import type { Subscriptions } from "./subscriptions.js"
import type { Wiring } from "./wiring.js"

/** Ends when the connection is ready. Fails when it is not within `openTimeout`, or was lost. */
export const ready = <Out, In>(
  wiring: Wiring<Out, In, any>,
  subscriptions: Subscriptions<Out>,
  live: LiveConnection<In>,
  userScope: Scope.Scope
): Effect.Effect<void, ConnectionFailure, any> => {
  const opened = within(
    Effect.zipRight(loggedIn(wiring, live, userScope), subscriptions.sendAll(live)),
    wiring.settings.openTimeout,
    () => onOpenFailed(new Cause.TimeoutException())
  )
  return Effect.mapError(
    first(opened, Effect.flatMap(live.untilLost, Effect.fail)),
    // A login that fails on a lost connection fails because of that loss, whatever it made of it.
    (failure) => live.failure ?? failure
  )
}

const onOpenFailed = (cause: unknown) => new ConnectionLost({ reason: "OnOpenFailed", cause })

const loggedIn = <Out, In>(
  { encode, options: { onOpen } }: Wiring<Out, In, any>,
  live: LiveConnection<In>,
  userScope: Scope.Scope
): Effect.Effect<void, ConnectionLost, any> => {
  if (onOpen === undefined) return Effect.void
  const early = live.inbox
  const connection = {
    send: (message: Out) =>
      Effect.suspend((): Effect.Effect<void, ConnectionFailure> =>
        Either.match(encode(message), {
          onLeft: onOpenFailed,
          onRight: (data) => live.sendAll([data])
        })
      ),
    receive: Effect.catchAll(early.takeOne, () => Effect.suspend(() => Effect.fail(live.failure!)))
  }
  return Effect.suspend(() => onOpen(connection)).pipe(
    Scope.extend(userScope),
    Effect.sandbox,
    Effect.mapError((cause) => onOpenFailed(Cause.squash(cause))),
    Effect.disconnect,
    Effect.ensuring(Effect.sync(() => live.isLoggingIn = false))
  )
}
