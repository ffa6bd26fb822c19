/**
 * The rules of a socket: which close codes and statuses are fatal, which failures refuse the session, how long to wait
 * before the next dial, and what a close frame may contain. Pure.
 */
import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import type { CloseInfo } from "../../ReconnectingSocket.js"
import { ConnectionClosed, type ConnectionFailure, ConnectionLost, DialError } from "../../WebSocketDialer.js"
import { longestTimer } from "../check.js"
import { byteLength } from "./codec.js"

/**
 * The fatal close codes (RFC 6455 section 7.4.1): the next connection would end in the same way. After any other code
 * the next connection may succeed. 4401 is not fatal: it refuses the session, see `isRejected`. The doc of `retryable`
 * in ReconnectingSocket.ts lists these codes for users, and test/support/reconnectingSockets.ts for the tests.
 */
const fatalCodes = new Set([1002, 1003, 1007, 1008, 1009, 1010])
const fatalStatuses = new Set([400, 403, 404, 405, 410, 426])

/** The default of `retryable`. */
export const isRetryable = (failure: ConnectionFailure, hasSession: boolean): boolean => {
  switch (failure._tag) {
    case "ConnectionClosed":
      return !fatalCodes.has(failure.code)
    case "ConnectionLost":
      return true
    case "DialError":
      return failure.reason !== "InvalidRequest"
        && !fatalStatuses.has(failure.status ?? 0)
        && (failure.status !== 401 || hasSession)
        && !Predicate.isTagged(failure.cause, "SessionClosed")
  }
}

/** The cause of a loss by a message over the limit, if the socket itself enforces the limit. */
export class MessageTooLong
  extends Data.TaggedError("MessageTooLong")<{ readonly bytes: number; readonly limit: number }>
{
  override get message(): string {
    return `a message of ${this.bytes} bytes, of ${this.limit} at most`
  }
}

/** Whether a message over the limit has ended the connection. The code in the cause comes from `ws`. */
export const isTooLong = (failure: ConnectionFailure): boolean =>
  failure._tag === "ConnectionLost" && failure.reason === "InvalidData"
  && (failure.cause instanceof MessageTooLong
    || Predicate.hasProperty(failure.cause, "code") && failure.cause.code === "WS_ERR_UNSUPPORTED_MESSAGE_LENGTH")

/** The default of `session.rejected`. */
export const isRejected = (failure: ConnectionFailure): boolean =>
  failure._tag === "DialError" ? failure.status === 401 : failure._tag === "ConnectionClosed" && failure.code === 4401

const longestRetryAfter = Duration.minutes(5)

/**
 * Milliseconds to wait: the schedule's delay, or the one that the server asked for if it is longer, up to the longest
 * timer.
 */
export const delayAfter = (scheduled: number, retryAfter: Option.Option<Duration.Duration>): number => {
  const least = Option.match(retryAfter, {
    onNone: () => 0,
    onSome: (asked) => Duration.toMillis(Duration.min(asked, longestRetryAfter))
  })
  return Math.min(Math.max(scheduled, least), Duration.toMillis(longestTimer))
}

/** The close frame's content for a socket that fails with this failure. */
export const closeInfoOf = (failure: ConnectionFailure): CloseInfo => ({
  code: failure._tag === "ConnectionClosed" ? failure.code : 1006,
  reason: failure.message,
  failure: Option.some(failure)
})

/** The label of the failure in metrics. */
export const labelOf = (failure: ConnectionFailure): string =>
  failure._tag === "ConnectionClosed" ? String(failure.code) : failure.reason

/** The failure of a connection that this error ends. */
export const lossOf = (error: unknown): ConnectionFailure =>
  error instanceof ConnectionLost || error instanceof ConnectionClosed || error instanceof DialError
    ? error
    : new ConnectionLost({ reason: "Reset", cause: error })

/** The code if it may be sent, otherwise 1000. RFC 6455 section 7.4: 1004, 1005, 1006 and 1015 are never sent. */
export const sendableCode = (code: number): number =>
  Number.isInteger(code)
    && (code >= 1000 && code <= 1014 && code !== 1004 && code !== 1005 && code !== 1006 || code >= 3000 && code <= 4999)
    ? code
    : 1000

/**
 * The part of the reason that fits, or none if the reason is not text. RFC 6455 section 5.5: a close frame has at most
 * 125 bytes, two of them for the code.
 */
export const sendableReason = (reason: string): string => {
  if (typeof reason !== "string") return ""
  let short = reason.slice(0, 123)
  while (byteLength(short) > 123) short = short.slice(0, -1)
  // Cutting may leave half of a surrogate pair.
  return short.replace(/[\uD800-\uDBFF]$/, "")
}
