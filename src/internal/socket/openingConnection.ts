/** The connection that a login works with: the argument of `onOpen`. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import type { HeartbeatOptions, OpeningConnection, ReconnectOptions } from "../../ReconnectingSocket.js"
import { type ConnectionFailure, ConnectionLost } from "../../WebSocketDialer.js"
import { object, validated } from "../check.js"
import type { LiveConnection } from "./connection.js"
import { heartbeatSettingsOf } from "./heartbeatSettings.js"
import type { Line } from "./lines.js"
import type { Wiring } from "./wiring.js"

export const onOpenFailed = (cause: unknown): ConnectionLost => new ConnectionLost({ reason: "OnOpenFailed", cause })

/** `live` is the line's connection; `end` gives it up. */
export const openingConnection = <Out, In>(
  { encode, options, settings }: Wiring<Out, In, any>,
  { context }: Line<In>,
  live: LiveConnection<In>,
  end: (options: ReconnectOptions) => Effect.Effect<void>
): OpeningConnection<Out, In> => {
  const early = live.inbox
  const lost = Effect.suspend(() => Effect.fail(live.failure!))
  return {
    ...context,
    send: (message) =>
      Effect.suspend((): Effect.Effect<void, ConnectionFailure> =>
        Either.match(encode(message), {
          onLeft: onOpenFailed,
          onRight: (data) => live.sendAll([data])
        })
      ),
    receive: Effect.catchAll(early.takeOne, () => lost),
    find: (f) => Effect.catchAll(early.takeFirst(f), () => lost),
    unread: (message) =>
      Effect.sync(() => {
        if (live.inbox === early) early.putBack(message, 0)
        // The login is over, so incoming messages already go to `messages`.
        else live.inbox.push(message, 0, live.number)
      }),
    heartbeat: (changed) =>
      Effect.flatMap(
        validated(() =>
          heartbeatSettingsOf(
            changed === false ? false : merged(options.heartbeat, object("heartbeat", changed)),
            settings.coding
          )
        ),
        (settings) => live.heartbeat!.change(settings)
      ),
    end: (options) => Effect.zipRight(end(options ?? {}), Effect.never)
  }
}

/** The heartbeat that a login asks for. Options that it leaves out are taken from the socket. */
const merged = <Out, In>(
  given: HeartbeatOptions<Out, In> | false | undefined,
  changed: HeartbeatOptions<Out, In>
): HeartbeatOptions<Out, In> => ({
  ...given,
  ...Object.fromEntries(Object.entries(changed).filter(([, value]) => value !== undefined))
})
