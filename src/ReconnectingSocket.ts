/**
 * A WebSocket that reconnects: one channel of messages over a series of connections.
 *
 * A reconnecting WebSocket is shared state that many fibers use while it breaks. Many implementations lose queued
 * messages, let messages overtake the login, wait for ever for a peer that is gone, or reconnect all at the same time.
 * Here one fiber owns the connection, and no lock is held during a dial, a handshake, a backoff or your callbacks.
 *
 * ```text
 *            ┌───────── Waiting ◄────────┐
 *            ▼                           │ lost, refused
 *         Dialing ──► Opening ──► Open ──┤
 *                                        ▼ closed, or not to be tried again
 *                                      Closed
 * ```
 *
 * **Design card.** Writes: one at a time, as under a `Semaphore(1)`. A message for an idle connection is written in its
 * sender's own step, and messages that are sent during a write are written together after it. Reconnects: after the
 * delays of `Schedule.exponential`, capped and jittered (`Backoff`). State: a tagged union that only one pure function
 * changes. Where Effect's primitives are not enough: a fiber that takes the permit of a `Semaphore(1)` cannot write in
 * the sender's step, so the permit is a field, the current write. `Schedule.driver` would sleep by itself, so the
 * schedule is only asked for its delays. This lets `reconnect` and `close` end a wait, and lets the state show `until`
 * when it lasts.
 *
 * **What it guarantees.** Messages leave in the order in which they were accepted, across any number of connections.
 * Open means ready: `onOpen` and all subscriptions are done before the first message leaves. Every loss is one `Lost`
 * event and, if it is `retryable`, one next attempt, after the backoff's next delay. The outbox is bounded, and so is
 * the part of it that has been handed to a connection.
 *
 * **What it does not guarantee.** Without `acknowledge` a message is delivered at most once: a message that was handed
 * to a connection which is then lost may or may not have arrived, and is not sent again (a `Dropped` event says so).
 * With `acknowledge` a message is delivered at least once, and the server has to ignore repeats. A message that the
 * server sends while there is no connection is lost unless the server sends it again.
 *
 * @since 0.1.0
 */

import type * as Socket from "@effect/platform/Socket"
import type * as Arr from "effect/Array"
import type * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import type * as Layer from "effect/Layer"
import type * as Option from "effect/Option"
import * as ParseResult from "effect/ParseResult"
import * as Predicate from "effect/Predicate"
import type * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import type * as Types from "effect/Types"
import { validated } from "./internal/check.js"
import { addFinalizer, closeScope } from "./internal/closeScope.js"
import * as Service from "./internal/service.js"
import {
  EncodeError,
  endError,
  type MessageExpired,
  type MessageLost,
  type MessageUndeliverable,
  type OutboxFull,
  type RequestTimeout,
  type SocketClosed,
  type SocketFailed
} from "./internal/socket/errors.js"
import { OwnedSocket } from "./internal/socket/ownedSocket.js"
import { Owner } from "./internal/socket/owner.js"
import * as Platform from "./internal/socket/platform.js"
import { settingsOf } from "./internal/socket/settings.js"
import type { InvalidOptions } from "./InvalidOptions.js"
import type { Session } from "./Session.js"
import { type ConnectionFailure, type DialRequest, type Message, WebSocketDialer } from "./WebSocketDialer.js"

/**
 * Marks the sockets of this module.
 *
 * @since 0.1.0
 * @category symbols
 */
export const TypeId: unique symbol = Symbol.for("effect-holdfast/ReconnectingSocket")

/**
 * Marks the sockets of this module.
 *
 * @since 0.1.0
 * @category symbols
 */
export type TypeId = typeof TypeId

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * A WebSocket that reconnects; see the module's description.
 *
 * - `send`: accepts a message, which is sent in order. If the outbox is full, `overflow` decides.
 * - `deliver`: succeeds when the message has been written, with `acknowledge` when it has been acknowledged. If it is
 *   interrupted before the message is handed to a connection, the message is removed from the queue.
 * - `request`: sends a message in order, at most once, and gives what `reply` makes of the answering message, which
 *   does not go to `messages`. A message answers only one request: the oldest one sent on its connection for which
 *   `reply` accepts it. Acknowledgements and pongs are not replies. Fails with `RequestTimeout`; with `MessageLost` if
 *   the connection is lost after the request was handed to it (a request that is still queued is sent on the next one);
 *   with `MessageExpired` if the request outlives the outbox's `timeToLive`. With `acknowledge`, give requests no
 *   identifier: a request with an identifier is sent again until it is acknowledged, like every such message, while it
 *   awaits its reply. A replaced connection (`renewAfter`) is kept for its replies, for at most two seconds.
 * - `flush`: succeeds when each message accepted so far has been written (or acknowledged), or dropped.
 * - `messages`: the incoming messages, in order, across connections. They are for one consumer at a time, best for one
 *   that lives as long as the socket: like all streams it takes all available messages together, and if the consumer
 *   stops early (`Stream.take`, interruption), messages that were taken but not used are lost. If no consumer takes
 *   messages, reading stops when the inbox is full. While an acknowledgement or a reply is awaited, it stops only at
 *   16 MiB, so that the consumer itself may wait for one, and so that requests are answered even without a consumer.
 *   Then no acknowledgement can arrive: drain messages that you do not need. Ends with `close`.
 * - `received`: use this instead of `messages` to get each message with the number of its connection, and an `Opened`
 *   where a new connection begins: for state that must be rebuilt for each connection, such as an order book made of a
 *   snapshot and changes. With `renewAfter`, messages of the previous connection may come after the next one's
 *   `Opened`: use the number.
 * - `subscribe`: sends `open` now and after each reconnect, before the outbox; closing the scope sends `close`. While
 *   there is no connection it returns immediately.
 * - `state`, `stateChanges` (the current state first) and `events` show what the socket is doing. For each reader of
 *   the streams the last 1,024 unread values are kept.
 * - `awaitOpen`: waits until the socket is ready.
 * - `reconnect`: drops the connection, or gives up the dial, and dials again: immediately if the socket is waiting or
 *   the connection was stable, otherwise after the backoff's next delay, so that a server that asks for a reconnect
 *   each time is not flooded. `ReconnectOptions` can change this. If there are several orders at the same time, the
 *   last one counts.
 * - `close`: if there is a connection, drains the outbox, sends the close frame and awaits the peer's, all within 2
 *   seconds. The socket never dials again. Each message that was not delivered by then is dropped, with an event.
 *   `close` can be called anywhere, and the closing goes on if `close` is interrupted. A code that must not be sent
 *   becomes 1000; at most 123 bytes of the reason are sent (RFC 6455 section 5.5).
 *
 * @since 0.1.0
 * @category models
 */
export interface ReconnectingSocket<in Out, out In> {
  readonly [TypeId]: TypeId
  readonly send: (message: Out) => Effect.Effect<void, OutboxFull | SocketClosed | EncodeError>
  readonly deliver: (
    message: Out
  ) => Effect.Effect<
    void,
    OutboxFull | SocketClosed | EncodeError | MessageExpired | MessageLost | MessageUndeliverable
  >
  readonly request: <B>(
    message: Out,
    options: RequestOptions<In, B>
  ) => Effect.Effect<B, OutboxFull | SocketClosed | EncodeError | RequestTimeout | MessageLost | MessageExpired>
  readonly flush: Effect.Effect<void, SocketClosed>
  readonly messages: Stream.Stream<In, SocketFailed>
  readonly received: Stream.Stream<Received<In>, SocketFailed>
  readonly subscribe: <E = never>(
    subscription: SubscriptionOptions<Out, In, E>
  ) => Effect.Effect<void, E | RequestTimeout | SocketClosed | EncodeError, Scope.Scope>
  readonly state: Effect.Effect<ConnectionState>
  readonly stateChanges: Stream.Stream<ConnectionState>
  readonly events: Stream.Stream<SocketEvent>
  readonly awaitOpen: Effect.Effect<void, SocketClosed | SocketFailed>
  readonly reconnect: (options?: ReconnectOptions) => Effect.Effect<void>
  readonly close: (code?: number, reason?: string) => Effect.Effect<void>
}

/**
 * An element of `received`: `Opened` comes before the messages of each connection. Connections are numbered from 0, in
 * the order of their messages. A connection that ended before it was ready is included if it left messages that
 * `onOpen` had not received, or if it could not be paused (in browsers) and its login was over.
 *
 * @since 0.1.0
 * @category models
 */
export type Received<In> =
  | { readonly _tag: "Opened"; readonly connection: number }
  | { readonly _tag: "Message"; readonly connection: number; readonly message: In }

/**
 * How a request is answered. `reply` gives the reply that a message contains, or none if the message is not a reply to
 * this request. `timeout` (default: 10 seconds) is counted from the call, and includes the time in the outbox. If
 * these options are not valid, `request` fails with `EncodeError`, whose `cause` is the `InvalidOptions`.
 *
 * @since 0.1.0
 * @category models
 */
export interface RequestOptions<in In, out B> {
  readonly reply: (message: In) => Option.Option<B>
  readonly timeout?: Duration.DurationInput | undefined
}

/**
 * A subscription, sent on each connection.
 *
 * - `open` is sent on each connection. An effect makes a new message for each connection: with a signature, say, or
 *   with the number of the last message that was received. The effect's time limit is the socket's `openTimeout`. (If
 *   the message itself is an effect, such as an `Option`, give it as `Effect.succeed`.)
 * - `close` is sent when the subscription ends, if `open` was sent on that connection and not refused.
 * - `key`: equal keys (`Equal.equals`) are one subscription on the wire, which ends with its last user. Until then the
 *   first one's options are used, and all its users share its confirmation.
 * - `confirmed` recognizes the peer's answer, a confirmation or a refusal, which does not go to `messages`. A message
 *   answers the oldest request or subscription that accepts it. If there is no connection, or it is lost meanwhile,
 *   `subscribe` succeeds, and the answer is awaited on the next connection, before that counts as open. If a
 *   connection is replaced meanwhile (`renewAfter`), `subscribe` waits for the answer on the next one.
 * - `timeout` (default: 10 seconds) is how long the answer may take, from when `open` was sent.
 *
 * If these options are not valid, `subscribe` fails with `EncodeError`, whose `cause` is the `InvalidOptions`.
 *
 * If the answer is a refusal or does not come, or if `open` fails, the `subscribe` that waits fails, too. If this
 * happens later, on a new connection, there is an event `SubscriptionFailed`: the subscription is left out on that
 * connection, which stays open, and is tried again on the next one, or by the next `subscribe` of its key.
 *
 * @since 0.1.0
 * @category models
 */
export interface SubscriptionOptions<out Out, in In, out E = never> {
  readonly open: Out | Effect.Effect<Out, E>
  readonly close?: Out | undefined
  readonly key?: unknown
  readonly confirmed?: ((message: In) => Option.Option<Either.Either<void, E>>) | undefined
  readonly timeout?: Duration.DurationInput | undefined
}

/**
 * How to reconnect.
 *
 * - `backoff`: `true` waits for the backoff's next delay first (a current wait goes on), `false` dials immediately. By
 *   default a socket dials immediately if it is waiting or if the connection was stable, otherwise after the delay. If
 *   the schedule has ended, the socket fails.
 * - `code`, `reason`: sends a close frame without waiting for its answer. A code that must not be sent becomes 1000.
 *   Without a code no close frame is sent, so that the peer keeps a session that can be resumed (browsers always send
 *   one).
 *
 * @since 0.1.0
 * @category models
 */
export interface ReconnectOptions {
  readonly backoff?: boolean | undefined
  readonly code?: number | undefined
  readonly reason?: string | undefined
}

/**
 * The state of a socket. `attempt` counts the delays since the backoff last started: 0 is the first dial. Times are
 * epoch milliseconds of the `Clock`.
 *
 * @since 0.1.0
 * @category models
 */
export type ConnectionState =
  | { readonly _tag: "Dialing"; readonly attempt: number }
  | { readonly _tag: "Opening" }
  | { readonly _tag: "Open"; readonly since: number }
  | {
    readonly _tag: "Waiting"
    readonly until: number
    readonly failure: ConnectionFailure
    readonly attempt: number
  }
  | { readonly _tag: "Closed"; readonly info: CloseInfo }

/**
 * How a socket ended: `code` and `reason` of `close`, or the socket's failure.
 *
 * @since 0.1.0
 * @category models
 */
export interface CloseInfo {
  readonly code: number
  readonly reason: string
  readonly failure: Option.Option<ConnectionFailure>
}

/**
 * An event of a socket.
 *
 * - `Lost`: a dialed connection has ended. There is one `Lost` for each connection, except for one that was replaced
 *   (`renewAfter`) or closed by `close`.
 * - `Waiting`: the next attempt comes after `delay`.
 * - `Resubscribed`: the number of subscriptions that a new connection has; after `Opened`, if there are any.
 * - `SubscriptionFailed`: a subscription was left out on a new connection, since it was refused, its `open` failed, or
 *   its confirmation did not come. `key` is that of the subscription, if it has one.
 * - `Dropped`: a message was dropped. `Overflow`: it made room for another message, or found no room. `Lost`: the
 *   connection was lost after it had been handed the message, which may have arrived. `Undeliverable`: connections were
 *   lost with the message more often than `maxResends` allows. `Closed`: the socket was closed.
 * - `Expired`: a message outlived `timeToLive` in the outbox.
 * - `Rejected`: a callback of the options threw. The socket goes on as if the callback were missing; if `decode` or
 *   `decodeMany` threw (`"decode"`), the rest of the frame is left out; a `backoff` that throws has ended. If the
 *   decoder of a connection could not be made (`"codec"`), or has a state and threw, the connection ends.
 *
 * @since 0.1.0
 * @category models
 */
export type SocketEvent =
  | { readonly _tag: "Dialing"; readonly attempt: number }
  | { readonly _tag: "Opened"; readonly protocol: string }
  | { readonly _tag: "Lost"; readonly failure: ConnectionFailure }
  | {
    readonly _tag: "Waiting"
    readonly delay: Duration.Duration
    readonly until: number
    readonly failure: ConnectionFailure
    readonly attempt: number
  }
  | { readonly _tag: "Resubscribed"; readonly subscriptions: number }
  | { readonly _tag: "SubscriptionFailed"; readonly key: unknown; readonly error: unknown }
  | {
    readonly _tag: "Dropped"
    readonly message: unknown
    readonly reason: "Overflow" | "Lost" | "Undeliverable" | "Closed"
  }
  | { readonly _tag: "Expired"; readonly message: unknown }
  | {
    readonly _tag: "Rejected"
    readonly callback:
      | "codec"
      | "decode"
      | "ping"
      | "isPong"
      | "answer"
      | "acknowledged"
      | "resent"
      | "reply"
      | "confirmed"
      | "combine"
      | "rejected"
      | "retryable"
      | "backoff"
    /** The incoming message, as it was received. */
    readonly message?: Message | undefined
    readonly cause: unknown
  }
  | { readonly _tag: "Closed"; readonly info: CloseInfo }

/**
 * How messages are written and read. Either function may throw.
 *
 * @since 0.1.0
 * @category models
 */
export interface Codec<in Out, out In> {
  readonly encode: (message: Out) => Message
  readonly decode: (message: Message) => In
}

/**
 * How messages are written, and how frames with none, one or many messages are read: for a line-based protocol, say,
 * with several lines, or half a line, in one frame. `decodeMany` gives the messages of one frame; the iterable is read
 * to its end before its first message is handled. Either function may throw.
 *
 * @example
 * ```ts
 * import type * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
 *
 * // For `codec`: one for each connection, because half a line is kept for the next frame.
 * const lines = (): ReconnectingSocket.BatchCodec<string, string> => {
 *   let rest = ""
 *   return {
 *     encode: (line) => `${line}\r\n`,
 *     decodeMany: (frame) => {
 *       const lines = (rest + String(frame)).split("\r\n")
 *       rest = lines.pop() ?? ""
 *       return lines
 *     }
 *   }
 * }
 * ```
 *
 * @since 0.1.0
 * @category models
 */
export interface BatchCodec<in Out, out In> {
  readonly encode: (message: Out) => Message
  readonly decodeMany: (data: Message) => Iterable<In>
}

/**
 * How the socket notices that its peer is gone: after `interval` (default: 15 seconds) of silence it pings the peer,
 * and after `timeout` (default: 10 seconds) more of silence the connection ends. Any frame is a sign of life; a message
 * counts when it is complete. While the connection is paused because the inbox is full, silence does not count.
 *
 * - `ping` is sent instead of a protocol ping; a function makes the message each time, with the last sequence number,
 *   say. If the platform has no pings (browsers) and there is no such message, there is no heartbeat. `false` sends no
 *   ping, and silence of `interval` and `timeout` together ends the connection, for servers that ping by themselves.
 * - `always` (default: `false`) pings every `interval`, even if messages arrive: for servers that must hear from their
 *   clients. Then, if there is an `isPong`, only a pong is an answer.
 * - `isPong` recognizes the answer to `ping`, which does not go to `messages`.
 * - `answer` recognizes the peer's own ping, if that is a message, and gives the answer. The answer is sent
 *   immediately, without the outbox and the window of `acknowledge`, and the ping does not go to `messages`. A ping
 *   behind messages for which the inbox has no room is read, and answered, when there is room. (Protocol pings are
 *   answered by the platform.)
 *
 * If one of the callbacks throws, there is a `Rejected` event, and the message goes to `messages`. If `ping` throws, a
 * protocol ping is sent instead.
 *
 * @since 0.1.0
 * @category models
 */
export interface HeartbeatOptions<Out, in In> {
  readonly interval?: Duration.DurationInput | undefined
  readonly timeout?: Duration.DurationInput | undefined
  readonly ping?: Out | (() => Out) | false | undefined
  readonly always?: boolean | undefined
  readonly isPong?: ((message: In) => boolean) | undefined
  readonly answer?: ((message: In) => Option.Option<Out>) | undefined
}

/**
 * The attempt of a dial, or of a login. `attempt` counts the delays since the backoff last started: 0 is the first
 * dial. `previous` is why the connection before this one was lost, or why the attempt before this one failed. A
 * replacement (`renewAfter`) has attempt 0 and no `previous`.
 *
 * @since 0.1.0
 * @category models
 */
export interface DialContext {
  readonly attempt: number
  readonly previous: Option.Option<ConnectionFailure>
}

/**
 * The connection that `onOpen` makes ready.
 *
 * - `send`: sends a message, before subscriptions and the outbox; succeeds when it is written.
 * - `receive`: waits for the next message, which may be one that the heartbeat or an acknowledgement has handled. Use
 *   `find` to wait for a certain message.
 * - `find`: waits for the first message for which `f` gives a value, and gives that value. The messages before it are
 *   left for `messages`, before the messages that have not been received yet: for a login whose answer comes after
 *   other messages, such as events that a resumed session replays. None of them is missing from `messages` if the
 *   connection is lost meanwhile, unless 16 MiB are waiting there already.
 * - `unread`: puts a message back for `messages`, like `find` with the messages that it skips. `receive` and `find` do
 *   not give it again. Such messages do not count towards the inbox's capacity, only towards its 16 MiB.
 * - `attempt`, `previous`: the attempt that led to this connection.
 * - `heartbeat`: gives this connection another heartbeat from now on, or none, for example if the peer's first message
 *   asks for it. Options that are left out are taken from the socket's own `heartbeat`.
 * - `end`: gives the connection up, as `reconnect` with these options does, and never returns: `onOpen` is interrupted,
 *   and there is no `OnOpenFailed`. For a peer that asks for another connection during the login. If the connection is
 *   a replacement (`renewAfter`), only the replacement ends: the current connection stays in use, and the next
 *   replacement comes after the delay.
 *
 * @since 0.1.0
 * @category models
 */
export interface OpeningConnection<in out Out, in out In> extends DialContext {
  readonly send: (message: Out) => Effect.Effect<void, ConnectionFailure>
  readonly receive: Effect.Effect<In, ConnectionFailure>
  readonly find: <B>(f: (message: In) => Option.Option<B>) => Effect.Effect<B, ConnectionFailure>
  readonly unread: (message: In) => Effect.Effect<void>
  readonly heartbeat: (options: HeartbeatOptions<Out, In> | false) => Effect.Effect<void, InvalidOptions>
  readonly end: (options?: ReconnectOptions) => Effect.Effect<never>
}

/**
 * How a socket dials, opens, sends and reconnects.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<Out, In, E = never, R = never, E2 = never, R2 = never, A = never, E3 = never> {
  /** The socket's name in metrics, logs, spans and errors. Default: the host of the first URL that is dialed. */
  readonly name?: string | undefined
  /**
   * The request to dial. An effect runs for each attempt; its failure is a failed attempt like any other. A function
   * gets the number of the attempt, and why the one before it ended: to choose one of several endpoints, or to follow
   * the `Location` of a redirect that refused the upgrade.
   */
  readonly dial:
    | DialRequest
    | Effect.Effect<DialRequest, E, R>
    | ((context: DialContext) => Effect.Effect<DialRequest, E, R>)
  /**
   * The session whose value each dial carries. A failure that is `rejected` (default: an upgrade refused with 401, a
   * close with 4401) refreshes the generation that was refused, once for all that share the session, and the socket
   * dials immediately. If the fresh value is refused too before a connection was stable, the backoff goes on.
   */
  readonly session?: {
    readonly session: Session<A, E3>
    readonly attach: (request: DialRequest, value: A) => DialRequest
    readonly rejected?: ((failure: ConnectionFailure) => boolean) | undefined
  } | undefined
  /**
   * How messages are written and read. Default: text and bytes as they are.
   *
   * A codec with state, such as a parser that keeps half a message for the next frame, must be given as a function that
   * makes a codec. The function is called once by `make`, for `encode` (messages are encoded when they are accepted,
   * for whichever connection they will leave on, so that `encode` must not depend on the connection), and once for each
   * connection, to decode what comes in on it. When such a decoder throws, the connection ends with `InvalidData`,
   * since its state can no longer be trusted. When any other codec throws, the frame is left out and the connection
   * goes on. In both cases there is a `Rejected` event, and the messages that `decodeMany` gave before it threw are
   * kept. If the function itself throws for a connection, that connection ends with `InvalidData`.
   */
  readonly codec?:
    | Codec<Out, In>
    | BatchCodec<Out, In>
    | (() => Codec<Out, In> | BatchCodec<Out, In>)
    | undefined
  /**
   * The delays between attempts. When the schedule ends, the socket fails with `SocketFailed`. A `Retry-After` on a
   * refused upgrade is respected, up to five minutes. Default: `Backoff.exponential()`.
   */
  readonly backoff?: Schedule.Schedule<unknown, ConnectionFailure> | undefined
  /**
   * How long a connection must have been open before the backoff starts again. Default: 30 seconds. Most servers that
   * accept a connection and then fail do so earlier.
   */
  readonly stableAfter?: Duration.DurationInput | undefined
  /**
   * How long the dial may take, and how long `onOpen` and the writing of the subscriptions may take together. Default:
   * 10 seconds each.
   */
  readonly openTimeout?: Duration.DurationInput | undefined
  /**
   * Whether to try again after this failure. If not, the failure is fatal: the socket fails with it. By default the
   * failures are fatal that would only repeat:
   * - an upgrade refused with 400, 403, 404, 405, 410, 426, or with 401 without a session;
   * - a close with 1002, 1003, 1007, 1008, 1009 or 1010 (RFC 6455 section 7.4.1);
   * - a request that cannot be dialed, or a session that is closed;
   * - the third message in a row over `maxPayload` without a stable connection in between.
   *
   * `byDefault` is the default's answer.
   *
   * `retryable` is not called after an order (`close`, `reconnect`), nor for the first refusal since a stable
   * connection that `session.rejected` accepts. A replacement (`renewAfter`) whose failure is fatal does not end the
   * socket: the current connection stays in use until it is lost.
   */
  readonly retryable?: ((failure: ConnectionFailure, byDefault: boolean) => boolean) | undefined
  /**
   * How the socket notices that its peer is gone, and how the peer's own pings are answered. Runs from the dial on.
   * Default: a protocol ping after 15 seconds of silence, which is less than proxies grant an idle connection, and 10
   * more.
   */
  readonly heartbeat?: HeartbeatOptions<NoInfer<Out>, In> | false | undefined
  /**
   * Runs on every new connection, before the subscriptions and the outbox: to log in, say. Messages that it does not
   * `receive` go to `messages`. `receive` also gives acknowledgements, pongs and confirmations, which never go to
   * `messages`. If `onOpen` fails, the connection ends with `OnOpenFailed`, whose `cause` is the error, and `onOpen`
   * runs again on the next connection, unless `retryable` says that this failure is fatal. The `Scope` of `onOpen` is
   * the connection's.
   */
  readonly onOpen?: ((connection: OpeningConnection<Out, In>) => Effect.Effect<unknown, E2, R2>) | undefined
  /**
   * The messages that are accepted and not yet delivered: at most `capacity` messages (default 1,024) of `bytes`
   * together (default 16 MiB). If it is full, `overflow` decides about the next message: `"fail"` (default) fails with
   * `OutboxFull`, `"suspend"` waits for room, `"dropNewest"` drops that message, and `"dropOldest"` drops the oldest
   * messages that have never been handed to a connection. After `timeToLive` (default: none) a message that has never
   * been handed to a connection is dropped. `window` is how many bytes are handed to a connection at most (default 1
   * MiB; a longer message is sent alone).
   */
  readonly outbox?: {
    readonly capacity?: number | undefined
    readonly bytes?: number | undefined
    readonly overflow?: "fail" | "suspend" | "dropOldest" | "dropNewest" | undefined
    readonly timeToLive?: Duration.DurationInput | undefined
    readonly window?: number | undefined
  } | undefined
  /**
   * The incoming messages that have not been taken. At `capacity` messages (default 1,024) or 16 MiB the connection is
   * paused; while an acknowledgement or a reply is awaited, only at 16 MiB, so that it can arrive. A connection that
   * cannot be paused (browsers) ends with `InboxOverflow` instead, and the socket reconnects.
   */
  readonly inbox?: { readonly capacity?: number | undefined } | undefined
  /**
   * How long a write, of up to a `window`, may take before the connection ends. Default: 10 seconds. If the peer sends
   * nothing meanwhile, the heartbeat ends the connection after its `interval` and `timeout`, however long this is.
   */
  readonly writeTimeout?: Duration.DurationInput | undefined
  /**
   * Replaces a connection by a new one at this age (up to a tenth earlier, at random): for servers that cut connections
   * at a known age. The replacement is dialed and made ready while the current connection is in use, and the current
   * write is finished; no message is lost. Incoming messages may repeat while both are open. A replacement that fails
   * is logged, and tried again with the backoff. If the current connection is lost while the replacement opens (which
   * may be the reason, if a server allows one login only), the socket waits for the replacement; if this one fails, the
   * failures of both decide what follows. Default: never.
   */
  readonly renewAfter?: Duration.DurationInput | undefined
  /**
   * Keeps messages until the server has acknowledged them, and sends them again, in order, on the next connection.
   *
   * - `id` gives the identifier by which the server acknowledges a message, unique among the unacknowledged messages:
   *   if two of them have the same, an acknowledgement is for the later one. Few identifiers (MQTT has 65,535) can be
   *   used in turn, since no more messages than the outbox's `capacity` are unacknowledged. `undefined` means that the
   *   server acknowledges no such message: an answer to its own ping, say. Such a message is sent at most once, as
   *   without `acknowledge`. It takes no place in the window, and a full window does not block it, since the server may
   *   need it before it acknowledges anything: it can be sent before older messages that wait for the window.
   * - `acknowledged` finds the identifiers that a message acknowledges. A message that acknowledges something does not
   *   go to `messages`; with `Option.none()` or an empty array it does. (Wrap an identifier that is itself an array in
   *   `Option.some`.) Unknown and repeated identifiers are ignored.
   * - `cumulative` (default `true`): an acknowledgement is for its message and all earlier ones. `false`: for its
   *   message alone, so that the server may acknowledge in any order (MQTT's PUBACK, AMQP without `multiple`).
   * - `resent` makes the message for sending it again, for the `times`-th time: marked as a repeat (MQTT's DUP), or
   *   with a new stamp or signature. The new message keeps the place and the identifier of the original. If `resent`
   *   throws, or the message cannot be encoded, there is a `Rejected` event, and the original message is sent. Default:
   *   the same message again.
   * - `maxResends` (default: none) is how often a message that seems to cause the losses is sent again. When a
   *   connection that was handed messages is lost without having acknowledged any, the oldest unacknowledged message
   *   becomes suspect. From then on it is sent alone until it is acknowledged, so that it is not blamed for another
   *   message, and each loss meanwhile counts. After `maxResends` the message is dropped: there is a `Dropped` event
   *   with `"Undeliverable"`, and `deliver` fails with `MessageUndeliverable`. A server that is down for long can use
   *   up the number, too, but only if it accepts connections before it fails: choose a number that outlasts its
   *   restart.
   * - `window` is how many unacknowledged messages may be handed to a connection (default: the outbox's capacity).
   *
   * The consumer of `messages` may wait for an acknowledgement only if less than 16 MiB can come before it.
   */
  readonly acknowledge?: {
    readonly id: (message: Out) => unknown
    readonly acknowledged: (message: In) => Option.Option<unknown> | ReadonlyArray<unknown>
    readonly cumulative?: boolean | undefined
    readonly resent?: ((message: Out, times: number) => NoInfer<Out>) | undefined
    readonly maxResends?: number | undefined
    readonly window?: number | undefined
  } | undefined
  /**
   * How subscriptions are sent.
   *
   * - `rate`: no more than `limit` messages (`open` and `close`) are sent for subscriptions in any `interval`, over all
   *   connections: for servers that cut clients that send too much. The other messages wait for their turn, which does
   *   not count towards `openTimeout`. Servers count messages when they arrive, so leave a margin. Default: none.
   * - `combine` turns the `open`s of two or more subscriptions that are sent together on a new connection into as few
   *   messages as the protocol allows. If it throws, there is a `Rejected` event, and each is sent alone.
   */
  readonly subscriptions?: {
    readonly rate?: { readonly limit: number; readonly interval: Duration.DurationInput } | undefined
    readonly combine?:
      | ((opens: Arr.NonEmptyReadonlyArray<NoInfer<Out>>) => Arr.NonEmptyReadonlyArray<NoInfer<Out>>)
      | undefined
  } | undefined
  /** The longest incoming message, in bytes; a longer one ends the connection. Default: the dialer's 16 MiB. */
  readonly maxPayload?: number | undefined
}

// -----------------------------------------------------------------------------
// errors
// -----------------------------------------------------------------------------

export {
  /**
   * A message could not be encoded, or the options of `request` or `subscribe` are not valid: then `cause` is the
   * `InvalidOptions`. Nothing was sent.
   *
   * @since 0.1.0
   * @category errors
   */
  EncodeError,
  /**
   * The message outlived the outbox's `timeToLive` and was not sent.
   *
   * @since 0.1.0
   * @category errors
   */
  MessageExpired,
  /**
   * The connection was lost after it had been handed the message, which may or may not have arrived.
   *
   * @since 0.1.0
   * @category errors
   */
  MessageLost,
  /**
   * The message itself seems to cause the losses (`maxResends`).
   *
   * @since 0.1.0
   * @category errors
   */
  MessageUndeliverable,
  /**
   * The outbox has no room for the message: it is full, or the message alone is longer than its `bytes`.
   *
   * @since 0.1.0
   * @category errors
   */
  OutboxFull,
  /**
   * No reply has come in time, or the effect that makes a subscription's message has taken longer than `openTimeout`.
   *
   * @since 0.1.0
   * @category errors
   */
  RequestTimeout,
  /**
   * The socket was closed, or has failed; `info` says which.
   *
   * @since 0.1.0
   * @category errors
   */
  SocketClosed,
  /**
   * The socket has failed: its last failure was fatal (not `retryable`), or the backoff had ended.
   *
   * @since 0.1.0
   * @category errors
   */
  SocketFailed
} from "./internal/socket/errors.js"

// -----------------------------------------------------------------------------
// constructors
// -----------------------------------------------------------------------------

/**
 * Makes a socket and starts to dial. The socket is closed with its scope, as `close` does. Within the same 2 seconds
 * the scope also waits until everything that `dial`, `onOpen` and a subscription's `open` have acquired is released,
 * even if the socket interrupted them. An effect or a finalizer that takes longer goes on in the background.
 *
 * @example
 * ```ts
 * import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
 * import * as Context from "effect/Context"
 * import * as Effect from "effect/Effect"
 * import * as Schema from "effect/Schema"
 * import * as Stream from "effect/Stream"
 *
 * const Request = Schema.Struct({ subscribe: Schema.String })
 * const Quote = Schema.Struct({ topic: Schema.String, price: Schema.Number })
 *
 * class Feed extends Context.Tag("Feed")<
 *   Feed,
 *   ReconnectingSocket.ReconnectingSocket<typeof Request.Type, typeof Quote.Type>
 * >() {
 *   static readonly layer = ReconnectingSocket.layer(Feed, {
 *     dial: { url: "wss://feed.example.com" },
 *     codec: ReconnectingSocket.json({ in: Quote, out: Request })
 *   })
 * }
 *
 * const program = Effect.scoped(Effect.gen(function*() {
 *   const feed = yield* Feed
 *   yield* feed.subscribe({ open: { subscribe: "gold" } })
 *   yield* Stream.runForEach(feed.messages, ({ price, topic }) => Effect.log(topic, price))
 * }))
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <Out = Message, In = Message, E = never, R = never, E2 = never, R2 = never, A = never, E3 = never>(
  options: Options<Out, In, E, R, E2, R2, A, E3>
): Effect.Effect<ReconnectingSocket<Out, In>, InvalidOptions, WebSocketDialer | Scope.Scope | Types.NoInfer<R | R2>> =>
  Effect.gen(function*() {
    const settings = yield* validated(() => settingsOf(options))
    const dialer = yield* WebSocketDialer
    // This scope closes after the socket has closed with its close frame; a scope forked from the outer one would close
    // before.
    const scope = yield* Scope.make()
    yield* addFinalizer((exit) => closeScope(scope, exit))
    const runtime = yield* Effect.runtime<R | R2>()
    const clock = yield* Effect.clock
    // The constructor registers the socket with the gauges and an Inspector. From there on an interruption waits until
    // the end of the socket is registered with the scope.
    return yield* Effect.uninterruptible(Effect.gen(function*() {
      const owner = new Owner<Out, In, R | R2>({
        options,
        settings,
        encode: (message) => Either.mapLeft(settings.coding.encode(message), (cause) => new EncodeError({ cause })),
        dialer,
        scope,
        runtime,
        clock
      })
      // A layer is built uninterruptibly, and its fibers would be uninterruptible too.
      yield* Effect.forkIn(Effect.interruptible(owner.run), scope)
      if (settings.timeToLive < Infinity) yield* Effect.forkIn(Effect.interruptible(owner.expiring), scope)
      yield* addFinalizer(() => owner.closeWithScope)
      return new OwnedSocket(owner)
    }))
  })

/**
 * Messages as JSON text, checked by schemas on both sides. A message that cannot be decoded leads to a `Rejected` event
 * with the received message; the socket goes on.
 *
 * @example
 * ```ts
 * import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
 * import * as Schema from "effect/Schema"
 *
 * const codec = ReconnectingSocket.json({
 *   in: Schema.Struct({ at: Schema.Date }),
 *   out: Schema.Struct({ subscribe: Schema.String })
 * })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const json = <In, InEncoded, Out, OutEncoded>(schemas: {
  readonly in: Schema.Schema<In, InEncoded>
  readonly out: Schema.Schema<Out, OutEncoded>
}): Codec<Out, In> => {
  const encode = Schema.encodeEither(schemas.out)
  const decode = Schema.decodeUnknownSync(schemas.in)
  const text = new TextDecoder("utf-8", { fatal: true })
  return {
    encode: (message) => JSON.stringify(Either.getOrThrowWith(encode(message), misfit)),
    decode: (message) => decode(JSON.parse(typeof message === "string" ? message : text.decode(message)))
  }
}

/** Says where a message does not fit its schema. The schema's own error shows the message, which may hold a secret. */
const misfit = ({ issue }: ParseResult.ParseError): Error => {
  const paths = ParseResult.ArrayFormatter.formatIssueSync(issue)
    .map(({ path }) => path.map(String).join(".") || "its root")
  return new Error(`the message does not fit the schema at ${paths.join(", ")}`)
}

// -----------------------------------------------------------------------------
// layers
// -----------------------------------------------------------------------------

/**
 * `make` as the layer of a tag (`Context.Tag` or `Effect.Service`). The types of the messages come from the tag; a
 * `codec` is required unless they are the types of a socket without a codec.
 *
 * @example
 * ```ts
 * import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
 * import * as Context from "effect/Context"
 *
 * class Feed extends Context.Tag("Feed")<Feed, ReconnectingSocket.ReconnectingSocket<string, string | Uint8Array>>() {}
 *
 * const FeedLayer = ReconnectingSocket.layer(Feed, { dial: { url: "wss://feed.example.com" } })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = <Id, S extends ReconnectingSocket<any, any>, R = never, R2 = never, A = never>(
  tag: Context.Tag<Id, S>,
  options: Options<OutOf<S>, InOf<S>, any, R, any, R2, A, any> & CodecOf<S>
): Layer.Layer<Id, InvalidOptions, Exclude<WebSocketDialer | Types.NoInfer<R | R2>, Scope.Scope>> =>
  Service.layer(tag, make(options))

type OutOf<S> = S extends ReconnectingSocket<infer Out, any> ? Out : never
type InOf<S> = S extends ReconnectingSocket<any, infer In> ? In : never
type CodecOf<S> = [OutOf<S>, Message] extends [Message, InOf<S>] ? unknown : { readonly codec: object }

// -----------------------------------------------------------------------------
// combinators
// -----------------------------------------------------------------------------

/**
 * The socket as a `Socket` of `@effect/platform`, for code that needs one: `RpcClient.makeProtocolSocket`, say.
 *
 * `run` and `runRaw` attach to the next ready connection (the first run to the current one) and fail when it is lost,
 * whatever its code, so that a retried run uses the connection after it. If the socket has failed, they fail with the
 * reason `Read`, which `RpcClient` does not take for transient: its calls end, even with `retryTransientErrors`.
 * The first handler is started when `onOpen` has ended: do not wait in `onOpen` for a message. Handlers are started in
 * order, and up to 1,024 of them run at the same time, so that a handler that waits does not block the others. A run
 * that ends in another way, by a handler's failure or its interruption, gives its connection up. There is one run at a
 * time; a second run at the same time fails. After `close` runs succeed.
 *
 * A write goes to the connection of the current run; if there is none, it waits for the next run. If the connection is
 * lost, the write is dropped and succeeds: the run's failure reports the loss. It fails if the socket has failed, and
 * is dropped after `close`. A `CloseEvent` closes that connection, not the socket, whatever its code. With `renewAfter`
 * a run ends with each replaced connection, and the calls in flight end with it. The outbox is not used, so neither
 * is `acknowledge`; do not take `messages` as well.
 *
 * Two limits of `RpcClient` remain, with any socket. After a loss it fails each call until it has run the socket again,
 * which it does at least half a second later: give it a short `retrySchedule`, since this socket itself waits before it
 * dials again, and retry the calls that may be made twice. And with `retryTransientErrors`, when its own pings stay
 * unanswered for ten seconds, it never answers the calls in flight. If the heartbeat's `interval` and `timeout`
 * together are less than ten seconds, the heartbeat notices the loss first, and the calls fail.
 *
 * @example
 * ```ts
 * import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
 * import { Socket } from "@effect/platform/Socket"
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 *
 * const socket = Layer.scoped(
 *   Socket,
 *   Effect.map(
 *     ReconnectingSocket.make({ dial: { url: "wss://rpc.example.com" } }),
 *     ReconnectingSocket.toSocket
 *   )
 * )
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const toSocket = (self: ReconnectingSocket<Message, Message>): Socket.Socket => {
  const socket = self as OwnedSocket<Message, Message>
  const { owner } = socket
  return Platform.make({
    owner,
    encode: (message) => socket.encoded(message),
    failed: (info) => endError(owner.wiring.telemetry.socket, info)
  })
}

// -----------------------------------------------------------------------------
// guards
// -----------------------------------------------------------------------------

/**
 * Whether a value is a `ReconnectingSocket`.
 *
 * @since 0.1.0
 * @category guards
 */
export const isReconnectingSocket = (u: unknown): u is ReconnectingSocket<never, unknown> =>
  Predicate.hasProperty(u, TypeId)
