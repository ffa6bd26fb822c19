/** Checks the options of a socket, and adds their defaults. */
import type { Options } from "../../ReconnectingSocket.js"
import { count, millis, object, oneOf } from "../check.js"
import { codingOf } from "./codec.js"
import { heartbeatSettingsOf } from "./heartbeatSettings.js"
import type { Rate } from "./pace.js"

export type AnyOptions<Out, In> = Options<Out, In, any, any, any, any, any, any>

/** Numbers are milliseconds, bytes or messages. */
export type Settings<Out, In> = ReturnType<typeof settingsOf<Out, In>>

export const mebi = 1024 * 1024

/** Throws `InvalidOptions`. */
export const settingsOf = <Out, In>(options: AnyOptions<Out, In>) => {
  const { acknowledge, inbox = {}, outbox = {}, renewAfter } = object("options", options)
  const coding = codingOf<Out, In>(options.codec)
  const capacity = count("outbox.capacity", outbox.capacity ?? 1024, 1)
  return {
    coding,
    stableAfter: millis("stableAfter", options.stableAfter ?? "30 seconds", { min: 0 }),
    openTimeout: millis("openTimeout", options.openTimeout ?? "10 seconds", atLeastOne),
    writeTimeout: millis("writeTimeout", options.writeTimeout ?? "10 seconds", atLeastOne),
    renewAfter: renewAfter === undefined ? undefined : millis("renewAfter", renewAfter, atLeastOne),
    timeToLive: outbox.timeToLive === undefined
      ? Infinity
      : millis("outbox.timeToLive", outbox.timeToLive, atLeastOne),
    window: count("outbox.window", outbox.window ?? mebi, 1),
    heartbeat: heartbeatSettingsOf(options.heartbeat, coding),
    rate: rateOf(options),
    inboxCapacity: count("inbox.capacity", inbox.capacity ?? 1024, 1),
    maxPayload: options.maxPayload === undefined ? undefined : count("maxPayload", options.maxPayload, 1),
    limits: {
      capacity,
      bytes: count("outbox.bytes", outbox.bytes ?? 16 * mebi, 1),
      overflow: oneOf("outbox.overflow", outbox.overflow ?? "fail", ["fail", "suspend", "dropOldest", "dropNewest"]),
      keeps: acknowledge !== undefined,
      isCumulative: acknowledge?.cumulative ?? true,
      inFlight: count("acknowledge.window", acknowledge?.window ?? capacity, 1),
      maxResends: acknowledge?.maxResends === undefined
        ? Infinity
        : count("acknowledge.maxResends", acknowledge.maxResends, 0)
    }
  }
}

const atLeastOne = { min: "1 millis" } as const

const rateOf = ({ subscriptions }: AnyOptions<any, any>): Rate | undefined => {
  const { rate } = object("subscriptions", subscriptions ?? {})
  if (rate === undefined) return undefined
  const { interval, limit } = object("subscriptions.rate", rate)
  return {
    limit: count("subscriptions.rate.limit", limit, 1),
    interval: millis("subscriptions.rate.interval", interval, atLeastOne)
  }
}
