/** Makes a dialed connection ready: the user's own login, then the subscriptions. The outbox waits until then. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import type { ReconnectOptions } from "../../ReconnectingSocket.js"
import type { ConnectionFailure, ConnectionLost } from "../../WebSocketDialer.js"
import { first, within } from "../first.js"
import { monotonic } from "../monotonic.js"
import type { LiveConnection } from "./connection.js"
import type { Line } from "./lines.js"
import { onOpenFailed, openingConnection } from "./openingConnection.js"
import type { Subscriptions } from "./subscriptions.js"
import type { Wiring } from "./wiring.js"

/**
 * Ends when the line's connection is ready. Fails if it is not ready within `openTimeout`, or is lost. The pace of
 * subscriptions, and the answers to them, have their own time limits.
 */
export const ready = <Out, In>(
  wiring: Wiring<Out, In, any>,
  subscriptions: Subscriptions<Out, In>,
  line: Line<In>,
  live: LiveConnection<In>,
  { end, onLoggedIn }: {
    readonly end: (options: ReconnectOptions) => Effect.Effect<void>
    /** Called when the login is over, before the subscriptions. */
    readonly onLoggedIn: () => void
  }
): Effect.Effect<void, ConnectionFailure, any> => {
  const { clock, settings: { openTimeout } } = wiring
  const late = () => onOpenFailed(new Cause.TimeoutException())
  const opened = Effect.suspend(() => {
    const began = monotonic(clock)
    const written = (writing: Effect.Effect<void>) => Effect.suspend(() => within(writing, openTimeout - spent, late))
    let spent = 0
    return within(loggedIn(wiring, line, live, end), openTimeout, late).pipe(
      Effect.zipRight(Effect.suspend(() => {
        spent = Math.min(monotonic(clock) - began, openTimeout)
        onLoggedIn()
        return subscriptions.showAll(live, written)
      }))
    )
  })
  return Effect.mapError(
    first(opened, Effect.flatMap(live.untilLost, Effect.fail)),
    // If the connection is lost, the loss is the failure, whatever error the login made of it.
    (failure) => live.failure ?? failure
  )
}

const loggedIn = <Out, In>(
  wiring: Wiring<Out, In, any>,
  line: Line<In>,
  live: LiveConnection<In>,
  end: (options: ReconnectOptions) => Effect.Effect<void>
): Effect.Effect<void, ConnectionLost, any> => {
  const { onOpen } = wiring.options
  if (onOpen === undefined) return Effect.void
  const connection = openingConnection(wiring, line, live, end)
  return Effect.suspend(() => onOpen(connection)).pipe(
    Scope.extend(line.userScope),
    Effect.sandbox,
    Effect.mapError((cause) => onOpenFailed(Cause.squash(cause))),
    (login) => wiring.userEffects.run(login),
    Effect.ensuring(Effect.sync(() => live.isLoggingIn = false))
  )
}
