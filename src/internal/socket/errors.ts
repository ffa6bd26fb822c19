/**
 * The errors of `ReconnectingSocket`.
 */
import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import { InvalidOptions } from "../../InvalidOptions.js"
import type { CloseInfo } from "../../ReconnectingSocket.js"
import type { ConnectionFailure } from "../../WebSocketDialer.js"

/**
 * The outbox has no room for the message: it is full, or the message alone is longer than its `bytes`.
 *
 * @since 0.1.0
 * @category errors
 */
export class OutboxFull extends Data.TaggedError("OutboxFull")<{ readonly bytes: number }> {
  override get message(): string {
    return `the outbox has no room for a message of ${this.bytes} bytes`
  }
}

/**
 * The socket was closed, or has failed; `info` says which. `socket` is its name.
 *
 * @since 0.1.0
 * @category errors
 */
export class SocketClosed extends Data.TaggedError("SocketClosed")<{
  readonly socket: string
  readonly info: CloseInfo
}> {
  override get message(): string {
    return Option.match(this.info.failure, {
      onNone: () => `the socket ${this.socket} is closed`,
      onSome: (failure) => `the socket ${this.socket} has failed: ${failure.message}`
    })
  }
}

/**
 * The socket has failed: its last failure was fatal (not `retryable`), or the backoff had ended. `socket` is its name.
 *
 * @since 0.1.0
 * @category errors
 */
export class SocketFailed extends Data.TaggedError("SocketFailed")<{
  readonly socket: string
  readonly failure: ConnectionFailure
}> {
  override get message(): string {
    return `the socket ${this.socket} has failed: ${this.failure.message}`
  }
}

/**
 * A message could not be encoded: `encode` or `acknowledge.id` threw, or gave neither text nor bytes. Nothing was sent.
 * `request` and `subscribe` also fail with this error if their options are not valid: then `cause` is the
 * `InvalidOptions`.
 *
 * @since 0.1.0
 * @category errors
 */
export class EncodeError extends Data.TaggedError("EncodeError")<{ readonly cause: unknown }> {
  override get message(): string {
    return this.cause instanceof InvalidOptions
      ? `the message was not sent: ${this.cause.message}`
      : "the message cannot be encoded"
  }
}

/**
 * The message outlived the outbox's `timeToLive` and was not sent.
 *
 * @since 0.1.0
 * @category errors
 */
export class MessageExpired extends Data.TaggedError("MessageExpired")<{}> {
  override get message(): string {
    return "the message has waited longer than its time to live"
  }
}

/**
 * No reply has come in time. The request may still have arrived, unless it was queued: then it has been removed from
 * the queue. A reply that comes later goes to `messages`. `subscribe` also fails with this error if the effect that
 * makes its `open` message takes longer than `openTimeout`.
 *
 * @since 0.1.0
 * @category errors
 */
export class RequestTimeout extends Data.TaggedError("RequestTimeout")<{ readonly timeout: Duration.Duration }> {
  override get message(): string {
    return `no reply within ${Duration.format(this.timeout)}`
  }
}

/**
 * The connection was lost after it had been handed the message, which may or may not have arrived. With `acknowledge`,
 * this happens only to a message without an identifier.
 *
 * @since 0.1.0
 * @category errors
 */
export class MessageLost extends Data.TaggedError("MessageLost")<{}> {
  override get message(): string {
    return "the connection was lost while it had the message"
  }
}

/**
 * The message itself seems to cause the losses (`maxResends`): too many connections were lost while it was the only
 * message that was sent. `resends` is how often the message was sent again after it had become suspect.
 *
 * @since 0.1.0
 * @category errors
 */
export class MessageUndeliverable extends Data.TaggedError("MessageUndeliverable")<{ readonly resends: number }> {
  override get message(): string {
    return `the message cannot be delivered: it was sent again ${this.resends} times, each time the connection was lost`
  }
}

/** The error of a socket that was closed or has failed. */
export const endError = (socket: string, info: CloseInfo): SocketClosed | SocketFailed =>
  Option.match(info.failure, {
    onNone: () => new SocketClosed({ socket, info }),
    onSome: (failure) => new SocketFailed({ socket, failure })
  })
