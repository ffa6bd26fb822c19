/**
 * The heartbeat of a connection: after `interval` of silence the peer is asked for a sign of life, and after `timeout`
 * more without one the connection ends.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import { ConnectionLost, type Message } from "../../WebSocketDialer.js"
import { within } from "../first.js"
import type { LiveConnection } from "./connection.js"
import type { Wiring } from "./wiring.js"

export interface HeartbeatSettings {
  /** Milliseconds. */
  readonly interval: number
  /** Milliseconds. */
  readonly timeout: number
  /** Asks instead of a protocol ping. */
  readonly ping: Message | undefined
}

/** Beats for as long as the scope lasts, which is the connection's. Does nothing where there is no way to ask. */
export const heartbeat = (
  live: LiveConnection<any>,
  settings: HeartbeatSettings,
  wiring: Wiring<any, any, any>,
  scope: Scope.Scope
): Effect.Effect<void> => {
  const { interval, timeout } = settings
  const ask = asking(live, settings.ping, wiring.settings.writeTimeout, scope)
  if (ask === undefined) return Effect.void
  /** When the peer was asked, and how often it had been heard of then. */
  let asked: { readonly signs: number; readonly at: number } | undefined
  const beat: Effect.Effect<void> = Effect.suspend(() => {
    const now = wiring.clock.unsafeCurrentTimeMillis()
    // A clock that is set back must not make the heartbeat wait for longer.
    live.lastHeard = Math.min(live.lastHeard, now)
    if (asked !== undefined && asked.at > now) asked = { signs: asked.signs, at: now }
    const silent = now - live.lastHeard
    if (asked?.signs !== live.signs) asked = undefined
    // While nothing is read, nothing can be heard.
    if (live.isPaused) return next(interval)
    if (asked !== undefined) {
      if (now < asked.at + timeout) return next(Math.min(asked.at + timeout - now, interval))
      return Effect.sync(() => live.fail(new ConnectionLost({ reason: "HeartbeatTimeout" })))
    }
    if (silent < interval) return next(interval - silent)
    asked = { signs: live.signs, at: now }
    return Effect.zipRight(ask, next(Math.min(timeout, interval)))
  })
  // The rest of a time may be shorter than a clock can tell: the heartbeat would sleep it in no time, again and again.
  const next = (millis: number) => Effect.zipRight(Effect.sleep(Math.max(1, millis)), beat)
  return beat
}

/** Asks with the user's own message, or with a ping where the platform has any. */
const asking = (
  live: LiveConnection<any>,
  ping: Message | undefined,
  writeTimeout: number,
  scope: Scope.Scope
): Effect.Effect<unknown> | undefined => {
  if (ping !== undefined) return Effect.sync(() => live.send(ping))
  if (Option.isNone(live.connection.ping)) return undefined
  const pinged = within(
    live.connection.ping.value,
    writeTimeout,
    () => new ConnectionLost({ reason: "WriteTimeout" })
  )
  return live.writing.withPermits(1)(pinged).pipe(
    Effect.catchAll((failure) => Effect.sync(() => live.fail(failure))),
    Effect.forkIn(scope)
  )
}
