/** Checks the options of a socket, and adds their defaults. */
import * as Predicate from "effect/Predicate"
import * as Schedule from "effect/Schedule"
import type { Options } from "../../ReconnectingSocket.js"
import { count, functions, kind, millis, name, object, oneOf } from "../check.js"
import { codingOf } from "./codec.js"
import { heartbeatSettingsOf } from "./heartbeatSettings.js"
import type { Rate } from "./pace.js"

export type AnyOptions<Out, In> = Options<Out, In, any, any, any, any, any, any>

/** Numbers are milliseconds, bytes or messages. */
export type Settings<Out, In> = ReturnType<typeof settingsOf<Out, In>>

export const mebi = 1024 * 1024

/** Throws `InvalidOptions`. */
export const settingsOf = <Out, In>(options: AnyOptions<Out, In>) => {
  const { acknowledge, inbox = {}, outbox = {}, renewAfter } = checked(options)
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

/** Checks the kinds of the options. A caller without types would otherwise learn of a mistake at the first dial. */
const checked = <Out, In>(options: AnyOptions<Out, In>): AnyOptions<Out, In> => {
  const { acknowledge, backoff, dial, inbox, outbox, session, subscriptions } = object("options", options)
  kind("dial", dial, isRecordOrFunction, "must be a request, or an effect or a function that gives one")
  functions(options, ["onOpen", "retryable"])
  if (options.name !== undefined) name("name", options.name)
  if (backoff !== undefined) kind("backoff", backoff, Schedule.isSchedule, "must be a Schedule")
  if (inbox !== undefined) object("inbox", inbox)
  if (outbox !== undefined) object("outbox", outbox)
  if (session !== undefined) {
    object("session.session", object("session", session).session)
    kind("session.attach", session.attach, Predicate.isFunction, "must be a function")
    functions(session, ["rejected"], "session.")
  }
  if (acknowledge !== undefined) {
    const { acknowledged, cumulative = true, id } = object("acknowledge", acknowledge)
    kind("acknowledge.id", id, Predicate.isFunction, "must be a function")
    kind("acknowledge.acknowledged", acknowledged, Predicate.isFunction, "must be a function")
    kind("acknowledge.cumulative", cumulative, Predicate.isBoolean, "must be true or false")
    functions(acknowledge, ["resent"], "acknowledge.")
  }
  if (subscriptions !== undefined) functions(object("subscriptions", subscriptions), ["combine"], "subscriptions.")
  return options
}

const isRecordOrFunction = Predicate.or(Predicate.isRecord, Predicate.isFunction)

const rateOf = ({ subscriptions }: AnyOptions<any, any>): Rate | undefined => {
  if (subscriptions?.rate === undefined) return undefined
  const { interval, limit } = object("subscriptions.rate", subscriptions.rate)
  return {
    limit: count("subscriptions.rate.limit", limit, 1),
    interval: millis("subscriptions.rate.interval", interval, atLeastOne)
  }
}
