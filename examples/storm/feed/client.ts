/**
 * The application: a socket that is open, or reconnecting. It receives the topics to which it subscribes, and sends
 * messages that must not be lost.
 */
import * as Backoff from "effect-holdfast/Backoff"
import type { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import type * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import { ApiSession } from "../session/client.js"
import * as Messages from "./messages.js"

/** In milliseconds. The times are short, since a storm lasts seconds. */
export const timing = {
  heartbeat: { interval: 300, timeout: 300 },
  backoff: { initial: 20, factor: 2, max: 400 },
  stableAfter: 300,
  openTimeout: 2000
}

export type FeedSocket = ReconnectingSocket.ReconnectingSocket<Messages.FromClient, Messages.FromServer>

export const connect = (
  url: string,
  onAcknowledged: (number: number) => void
): Effect.Effect<FeedSocket, InvalidOptions, ApiSession | Scope.Scope | WebSocketDialer.WebSocketDialer> =>
  Effect.flatMap(ApiSession, (session) =>
    ReconnectingSocket.make({
      dial: { url },
      session: {
        session,
        attach: (request, tokens) => ({
          ...request,
          headers: { authorization: `Bearer ${Redacted.value(tokens.accessToken)}` }
        })
      },
      codec: ReconnectingSocket.json({ in: Messages.FromServer, out: Messages.FromClient }),
      backoff: Backoff.exponential(timing.backoff),
      stableAfter: timing.stableAfter,
      openTimeout: timing.openTimeout,
      heartbeat: timing.heartbeat,
      outbox: { overflow: "suspend" },
      acknowledge: {
        // So few that other messages wait behind them during a stall. If the connection is lost then, the server can
        // see whether the unacknowledged messages come before those that waited.
        window: 4,
        id: (message) => "number" in message ? message.number : 0,
        acknowledged: (message) => {
          if (!("acknowledged" in message)) return Option.none()
          onAcknowledged(message.acknowledged)
          return Option.some(message.acknowledged)
        }
      }
    }))
