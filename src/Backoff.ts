/**
 * How long to wait before trying again.
 *
 * Clients that retry at fixed or synchronised times turn one outage into a second one, and an exponential backoff
 * without a cap soon waits for ever. `exponential` is Effect's own schedule with two additions: no delay is longer than
 * `max`, and the jitter is applied after the cap, so that clients which have all reached the cap still retry at
 * different times.
 *
 * @since 0.1.0
 */

import type * as Headers from "@effect/platform/Headers"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import * as Check from "./internal/check.js"
import { InvalidOptions } from "./InvalidOptions.js"

/**
 * A capped exponential backoff that never ends by itself: `initial`, `initial · factor`, … up to `max`.
 * The schedule's output is the delay it chose.
 *
 * - `initial`: the first delay; default 500 ms, about the time a load balancer needs to notice a dead server.
 * - `factor`: by how much each delay grows; default 2.
 * - `max`: the longest delay, jitter included; default 30 seconds, at most 2³¹−1 ms.
 * - `jitter`: `"full"` (the default) draws each delay uniformly from `[0, delay]` after the cap, with `Random`;
 *   `"none"` takes it as it is.
 *
 * **Throws** `InvalidOptions` (this is not an `Effect`) for an `initial` that is zero, negative, NaN or above `max`, a
 * `factor` below 1, infinite or NaN, and a `max` that is longer than a timer can be.
 *
 * @example
 * ```ts
 * import * as Backoff from "effect-holdfast/Backoff"
 * import * as Effect from "effect/Effect"
 * import * as Schedule from "effect/Schedule"
 *
 * declare const connect: Effect.Effect<string, Error>
 *
 * const connected = connect.pipe(
 *   Effect.retry(Backoff.exponential({ max: "10 seconds" }).pipe(Schedule.intersect(Schedule.recurs(8))))
 * )
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const exponential = (options: {
  readonly initial?: Duration.DurationInput | undefined
  readonly factor?: number | undefined
  readonly max?: Duration.DurationInput | undefined
  readonly jitter?: "full" | "none" | undefined
} = {}): Schedule.Schedule<Duration.Duration, unknown> => {
  Check.object("options", options)
  const max = Check.duration("max", options.max ?? "30 seconds", { min: "1 nanos" })
  const initial = Check.duration("initial", options.initial ?? "500 millis", { min: "1 nanos", max })
  const factor = options.factor ?? 2
  if (!(factor >= 1 && factor < Infinity)) {
    throw new InvalidOptions({ option: "factor", value: factor, reason: "must be a number of at least 1" })
  }
  const jitter = Check.oneOf("jitter", options.jitter ?? "full", ["full", "none"])
  // A union takes the shorter of its two delays. This is the cap, even when the exponential is Infinity.
  const capped = Schedule.exponential(initial, factor).pipe(Schedule.union(Schedule.spaced(max)))
  const spread = jitter === "none"
    ? capped
    : Schedule.modifyDelayEffect(capped, (_, delay) => Effect.map(Random.next, (r) => Duration.times(delay, r)))
  return Schedule.delays(spread)
}

/**
 * How long a server asks clients to wait: the `Retry-After` header, RFC 9110 section 10.2.3, as delta-seconds or as an
 * HTTP-date in any of its three forms (section 5.6.7). A date is compared with the `Date` header of the same response,
 * so that a wrong clock on either side does no harm; without that header, with `Clock`.
 *
 * A fraction of a second, which the RFC does not allow but some servers send, is rounded up. A date in the past is
 * zero. A missing or malformed header is `None`. A wait longer than the longest timer (2³¹−1 ms, about 24.8 days) is
 * cut to that; use `Duration.min` for a shorter limit.
 *
 * @example
 * ```ts
 * import * as Backoff from "effect-holdfast/Backoff"
 * import type { HttpClientResponse } from "@effect/platform/HttpClientResponse"
 * import * as Duration from "effect/Duration"
 * import * as Effect from "effect/Effect"
 * import * as Option from "effect/Option"
 *
 * const waitAsAsked = (response: HttpClientResponse) =>
 *   Backoff.retryAfter(response.headers).pipe(
 *     Effect.map(Option.getOrElse(() => Duration.seconds(1))),
 *     Effect.flatMap(Effect.sleep)
 *   )
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const retryAfter = (headers: Headers.Headers): Effect.Effect<Option.Option<Duration.Duration>> =>
  Effect.map(Clock.currentTimeMillis, (now) =>
    Option.flatMap(Option.fromNullable(headers["retry-after"]), (value) => {
      const text = value.trim()
      const sentAt = parseHttpDate(headers["date"]?.trim() ?? "", now)
      const millis = /^\d+(\.\d+)?$/.test(text)
        ? Math.ceil(Number(text)) * 1000
        : parseHttpDate(text, now) - (Number.isNaN(sentAt) ? now : sentAt)
      return Number.isNaN(millis)
        ? Option.none()
        : Option.some(Duration.min(Duration.millis(Math.max(0, millis)), Check.longestTimer))
    }))

const months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
const imfFixdate =
  /^[A-Z][a-z]{2}, (?<day>\d{2}) (?<month>[A-Z][a-z]{2}) (?<year>\d{4}) (?<time>\d{2}:\d{2}:\d{2}) GMT$/
const rfc850Date =
  /^[A-Z][a-z]{5,8}, (?<day>\d{2})-(?<month>[A-Z][a-z]{2})-(?<year>\d{2}) (?<time>\d{2}:\d{2}:\d{2}) GMT$/
const asctimeDate = /^[A-Z][a-z]{2} (?<month>[A-Z][a-z]{2}) (?<day>[ \d]\d) (?<time>\d{2}:\d{2}:\d{2}) (?<year>\d{4})$/

/**
 * Epoch milliseconds; NaN if the text is not an HTTP-date. (`Date.parse` reads asctime as local time, and accepts many
 * other forms.)
 */
const parseHttpDate = (text: string, now: number): number => {
  const parts = (imfFixdate.exec(text) ?? rfc850Date.exec(text) ?? asctimeDate.exec(text))?.groups as
    | { readonly day: string; readonly month: string; readonly year: string; readonly time: string }
    | undefined
  if (parts === undefined) return NaN
  const month = String(months.indexOf(parts.month) + 1).padStart(2, "0")
  const day = parts.day.trim().padStart(2, "0")
  // Section 5.6.7 allows the second 60, a leap second. `Date.parse` refuses it, and takes 31 February for 3 March.
  const isLeap = parts.time.endsWith(":60")
  const time = isLeap ? `${parts.time.slice(0, -2)}59` : parts.time
  const at = (year: number) => {
    const millis = Date.parse(`${year}-${month}-${day}T${time}Z`)
    return new Date(millis).getUTCDate() === Number(day) ? millis + (isLeap ? 1000 : 0) : NaN
  }
  if (parts.year.length === 4) return at(Number(parts.year))
  // Section 5.6.7: a two-digit year that seems more than 50 years ahead is the year in the past with the same digits.
  const thisYear = new Date(now).getUTCFullYear()
  const year = thisYear - (thisYear % 100) + Number(parts.year)
  return at(year > thisYear + 50 ? year - 100 : year)
}
