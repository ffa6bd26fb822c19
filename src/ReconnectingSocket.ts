/**
 * A WebSocket that comes back: one channel of messages over one connection after another.
 *
 * A reconnecting WebSocket is shared state that many fibers use while it breaks. Most of them lose what they had
 * queued, let messages overtake the login, wait for ever for a peer that is gone, or come back all at once. Here one
 * fiber owns the connection, one writer drains the outbox in batches under a `Semaphore(1)`, and nobody holds anything
 * across a dial, a handshake, a backoff or a callback of yours.
 *
 * ```text
 *            ┌───────── Waiting ◄────────┐
 *            ▼                           │ lost, refused
 *         Dialing ──► Opening ──► Open ──┤
 *                                        ▼ closed, or not to be tried again
 *                                      Closed
 * ```
 *
 * **What it guarantees.** Messages leave in the order in which they were accepted, across any number of connections.
 * Open means ready: `onOpen` and all subscriptions are done before the first message leaves. Every loss is one `Lost`
 * event and, if it is `retryable`, one next attempt, after the backoff's next delay. The outbox is bounded, and so is
 * what one connection has of it in its hands.
 *
 * **What it does not.** Without `acknowledge` a message is delivered at most once: what is in a connection's hands
 * when that is lost may or may not have arrived, and is not sent again (a `Dropped` event tells). With `acknowledge`
 * it is delivered at least once, and the server is to ignore what it has had before. What a server sends while there
 * is no connection is the server's to send again.
 *
 * @since 0.1.0
 */

import * as Socket from "@effect/platform/Socket"
import * as Cause from "effect/Cause"
import * as Channel from "effect/Channel"
import type * as Chunk from "effect/Chunk"
import type * as Clock from "effect/Clock"
import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as ExecutionStrategy from "effect/ExecutionStrategy"
import * as Exit from "effect/Exit"
import type * as FiberRefs from "effect/FiberRefs"
import * as FiberSet from "effect/FiberSet"
import * as Metric from "effect/Metric"
import * as MetricLabel from "effect/MetricLabel"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Random from "effect/Random"
import * as Runtime from "effect/Runtime"
import type * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type * as Types from "effect/Types"
import * as Backoff from "./Backoff.js"
import { count, duration, longestTimer, validated } from "./internal/check.js"
import * as Delays from "./internal/delays.js"
import { first, within } from "./internal/first.js"
import { Inbox } from "./internal/inbox.js"
import { Latest } from "./internal/latest.js"
import { LiveConnection } from "./internal/liveConnection.js"
import { byteLength, type Entry, type Offered, Outbox, type Outcome } from "./internal/outbox.js"
import { wait } from "./internal/wait.js"
import { Waiters } from "./internal/waiters.js"
import { InvalidOptions } from "./InvalidOptions.js"
import type { Generation, Session } from "./Session.js"
import {
  type Connection,
  ConnectionClosed,
  type ConnectionFailure,
  ConnectionLost,
  DialError,
  type DialRequest,
  type Message,
  shown,
  WebSocketDialer
} from "./WebSocketDialer.js"

/**
 * @since 0.1.0
 * @category symbols
 */
export const TypeId: unique symbol = Symbol.for("effect-holdfast/ReconnectingSocket")

/**
 * @since 0.1.0
 * @category symbols
 */
export type TypeId = typeof TypeId

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * A WebSocket that comes back; see the module's description.
 *
 * - `send`: accepts a message; it leaves in its turn. While the outbox is full it does what `overflow` says.
 * - `deliver`: succeeds when the message has been written, with `acknowledge` when it has been acknowledged.
 *   Interrupted before a connection has it in its hands, it takes the message back.
 * - `flush`: everything that has been accepted so far has been written (or acknowledged), or given up.
 * - `messages`: what comes in, in order, across connections; for one consumer at a time, best one for as long as the
 *   socket lives: it takes all that is there at once, as streams do, and when it stops early (`Stream.take`,
 *   interruption) what it had taken and not used is gone. Who takes nothing makes the peer wait, and its
 *   acknowledgements with it: drain what you do not need. Ends with `close`.
 * - `subscribe`: sends `open` now and after each reconnect, before the outbox; closing the scope sends `close`.
 * - `state`, `stateChanges` (the present one first), `events`: what it is doing. Of what a reader of the streams has
 *   not read, the last 1,024 are kept.
 * - `awaitOpen`: waits until it is ready.
 * - `reconnect`: drops the connection and dials now; also out of a wait, and out of a dial that hangs.
 * - `close`: where there is a connection, drains the outbox, sends the close frame and awaits the peer's, all within 2
 *   seconds; never dials again. What was not delivered by then is dropped, with an event each. It can be called
 *   anywhere and be interrupted: the closing goes on. Codes that nobody may send become 1000; of the reason, 123 bytes
 *   are sent (RFC 6455 section 5.5).
 *
 * @since 0.1.0
 * @category models
 */
export interface ReconnectingSocket<in Out, out In> {
  readonly [TypeId]: TypeId
  readonly send: (message: Out) => Effect.Effect<void, OutboxFull | SocketClosed | EncodeError>
  readonly deliver: (
    message: Out
  ) => Effect.Effect<void, OutboxFull | SocketClosed | EncodeError | MessageExpired | MessageLost>
  readonly flush: Effect.Effect<void, SocketClosed>
  readonly messages: Stream.Stream<In, SocketFailed>
  readonly subscribe: (
    subscription: { readonly open: Out; readonly close?: Out | undefined }
  ) => Effect.Effect<void, SocketClosed | EncodeError, Scope.Scope>
  readonly state: Effect.Effect<ConnectionState>
  readonly stateChanges: Stream.Stream<ConnectionState>
  readonly events: Stream.Stream<SocketEvent>
  readonly awaitOpen: Effect.Effect<void, SocketClosed | SocketFailed>
  readonly reconnect: Effect.Effect<void>
  readonly close: (code?: number, reason?: string) => Effect.Effect<void>
}

/**
 * What a socket is doing. `attempt` counts the delays that have been waited since the backoff began anew: 0 is the
 * first dial. Times are epoch milliseconds of the `Clock`.
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
 * How a socket came to its end: `code` and `reason` of `close`, or the failure after which it was not to try again.
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
 * What happened.
 *
 * - `Lost`: a connection that had been dialed has ended; once for each.
 * - `Waiting`: the next attempt comes after `delay`.
 * - `Resubscribed`: so many subscriptions were sent again.
 * - `Dropped`: a message was given up. `Overflow`: it made room, or found none. `Lost`: a connection had it in its
 *   hands when that was lost, it may have arrived. `Closed`: the socket was closed.
 * - `Expired`: a message outlived `timeToLive` in the outbox.
 * - `Rejected`: a callback of the options threw, and what it was to decide went as if it were not there; for
 *   `decode`, the message was left out; a `backoff` has ended.
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
  | { readonly _tag: "Dropped"; readonly message: unknown; readonly reason: "Overflow" | "Lost" | "Closed" }
  | { readonly _tag: "Expired"; readonly message: unknown }
  | {
    readonly _tag: "Rejected"
    readonly callback: "decode" | "isPong" | "acknowledged" | "rejected" | "retryable" | "backoff"
    /** As it came in. */
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
 * How a socket dials, opens, sends and comes back.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<Out, In, E = never, R = never, E2 = never, R2 = never, A = never, E3 = never> {
  /** What to dial. An effect is run afresh for each attempt; its failure is a failed attempt like any other. */
  readonly dial: DialRequest | Effect.Effect<DialRequest, E, R>
  /**
   * The session that a dial carries. A failure that is `rejected` (default: an upgrade refused with 401, a close with
   * 4401) refreshes the generation that was refused, once for all who share the session, and dials at once. Should
   * the fresh value be refused too before a connection was stable, the backoff goes on.
   */
  readonly session?: {
    readonly session: Session<A, E3>
    readonly attach: (request: DialRequest, value: A) => DialRequest
    readonly rejected?: ((failure: ConnectionFailure) => boolean) | undefined
  } | undefined
  /** Default: text and bytes as they are. */
  readonly codec?: Codec<Out, In> | undefined
  /**
   * The delays between attempts; when it ends, so does the socket, with `SocketFailed`. A `Retry-After` on a refused
   * upgrade is waited out, up to five minutes. Default: `Backoff.exponential()`.
   */
  readonly backoff?: Schedule.Schedule<unknown, ConnectionFailure> | undefined
  /**
   * How long a connection must have been open before the backoff begins anew. Default: 30 seconds, longer than a
   * server that accepts and then fails takes.
   */
  readonly stableAfter?: Duration.DurationInput | undefined
  /** The bound of the dial, and of `onOpen` with the subscriptions. Default: 10 seconds each. */
  readonly openTimeout?: Duration.DurationInput | undefined
  /**
   * Whether to try again. Default: all but what can never succeed: upgrades refused with 400, 403, 404, 405, 410, 426
   * (401 without a session), closes with 1002, 1003, 1007, 1008, 1009, 1010 (RFC 6455 section 7.4), a request that
   * cannot be dialed, and a session that is closed.
   */
  readonly retryable?: ((failure: ConnectionFailure) => boolean) | undefined
  /**
   * After `interval` of silence the peer is asked for a sign of life, after `timeout` more it is held for dead; any
   * frame is one, a message when it is complete. Default: a protocol ping after 15 seconds, below what proxies grant an
   * idle connection, and 10 more. Where the platform has no pings (browsers) give a `ping` message; without one nothing
   * is asked. What `isPong` knows is not told by `messages`.
   */
  readonly heartbeat?:
    | {
      readonly interval?: Duration.DurationInput | undefined
      readonly timeout?: Duration.DurationInput | undefined
      readonly ping?: NoInfer<Out> | undefined
      readonly isPong?: ((message: In) => boolean) | undefined
    }
    | false
    | undefined
  /**
   * Logs in, say: runs after every open, before subscriptions and the outbox. What it does not `receive` is left for
   * `messages`. Its failure ends the connection, and is retried on the next one. Its `Scope` is the connection's.
   */
  readonly onOpen?:
    | ((connection: {
      readonly send: (message: Out) => Effect.Effect<void, ConnectionFailure>
      readonly receive: Effect.Effect<In, ConnectionFailure>
    }) => Effect.Effect<unknown, E2, R2>)
    | undefined
  /**
   * What is accepted and not yet delivered: at most `capacity` messages (default 1,024) of `bytes` together (default
   * 16 MiB); of a full one, `overflow` says what comes of the next message: `"fail"` (default) fails with
   * `OutboxFull`, `"suspend"` waits for room, the others drop it or the oldest that no connection has had in its
   * hands. After `timeToLive` (default: none) a message that no connection has had in its hands is given up. `window`
   * is how many bytes a connection has in its hands at most (default 1 MiB; a longer message goes alone).
   */
  readonly outbox?: {
    readonly capacity?: number | undefined
    readonly bytes?: number | undefined
    readonly overflow?: "fail" | "suspend" | "dropOldest" | "dropNewest" | undefined
    readonly timeToLive?: Duration.DurationInput | undefined
    readonly window?: number | undefined
  } | undefined
  /**
   * What has come in and was not taken: at `capacity` messages (default 1,024) or 16 MiB the connection is paused;
   * while something is to be acknowledged, at 16 MiB only, lest the acknowledgement be kept out. Where that is
   * impossible (browsers), it ends with `InboxOverflow` and the socket reconnects.
   */
  readonly inbox?: { readonly capacity?: number | undefined } | undefined
  /** After which a write, of up to a `window`, that is not done ends the connection. Default: 10 seconds. */
  readonly writeTimeout?: Duration.DurationInput | undefined
  /**
   * Moves over to a new connection after this time, begun up to a tenth earlier, at random: for servers that cut
   * connections at a known age. The next one is opened and made ready while the present one serves; what that was
   * writing is written; nothing is lost. Messages that come in may repeat for as long as both are open. A renewal that
   * fails is logged, and tried again with the backoff. Default: never.
   */
  readonly renewAfter?: Duration.DurationInput | undefined
  /**
   * Keeps messages until the server has acknowledged them, and sends them again, in order, on the next connection.
   * `id` is what a message is acknowledged by, unique among those that are not yet; `acknowledged` finds one in a
   * message that comes in: everything up to and with it has arrived. Such a message is not told by `messages`.
   * `window` is how many may be unacknowledged in a connection's hands (default: the outbox's capacity). Whoever takes
   * `messages` may wait for an acknowledgement only if less than 16 MiB can come before it.
   */
  readonly acknowledge?: {
    readonly id: (message: Out) => unknown
    readonly acknowledged: (message: In) => Option.Option<unknown>
    readonly window?: number | undefined
  } | undefined
  /** The longest message that is taken, in bytes; a longer one ends the connection. Default: 16 MiB. */
  readonly maxPayload?: number | undefined
}

// -----------------------------------------------------------------------------
// errors
// -----------------------------------------------------------------------------

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
 * The socket was closed, or had to give up; `info` says which.
 *
 * @since 0.1.0
 * @category errors
 */
export class SocketClosed extends Data.TaggedError("SocketClosed")<{ readonly info: CloseInfo }> {
  override get message(): string {
    return Option.match(this.info.failure, {
      onNone: () => "the socket is closed",
      onSome: (failure) => `the socket has given up: ${failure.message}`
    })
  }
}

/**
 * The socket gave up: the failure was not `retryable`, or the backoff had ended.
 *
 * @since 0.1.0
 * @category errors
 */
export class SocketFailed extends Data.TaggedError("SocketFailed")<{ readonly failure: ConnectionFailure }> {
  override get message(): string {
    return `the socket has given up: ${this.failure.message}`
  }
}

/**
 * A message could not be encoded: `encode` or `acknowledge.id` threw, or gave what is neither text nor bytes. Nothing
 * was sent.
 *
 * @since 0.1.0
 * @category errors
 */
export class EncodeError extends Data.TaggedError("EncodeError")<{ readonly cause: unknown }> {
  override get message(): string {
    return "the message cannot be encoded"
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
    return "the message has waited longer than it was to live"
  }
}

/**
 * A connection had the message in its hands when it was lost: it may or may not have arrived. Never with `acknowledge`.
 *
 * @since 0.1.0
 * @category errors
 */
export class MessageLost extends Data.TaggedError("MessageLost")<{}> {
  override get message(): string {
    return "the connection was lost while it had the message"
  }
}

// -----------------------------------------------------------------------------
// settings
// -----------------------------------------------------------------------------

const settingsOf = <Out, In>(options: Options<Out, In, any, any, any, any, any, any>) => {
  if (!Predicate.isRecord(options)) {
    throw new InvalidOptions({ option: "options", value: options, reason: "must be an object" })
  }
  const millis = (option: string, value: Duration.DurationInput) =>
    Duration.toMillis(duration(option, value, { min: "1 millis" }))
  const { acknowledge, heartbeat = {}, outbox = {} } = options
  const overflow = outbox.overflow ?? "fail"
  if (!["fail", "suspend", "dropOldest", "dropNewest"].includes(overflow)) {
    const reason = "must be \"fail\", \"suspend\", \"dropOldest\" or \"dropNewest\""
    throw new InvalidOptions({ option: "outbox.overflow", value: overflow, reason })
  }
  const capacity = count("outbox.capacity", outbox.capacity ?? 1024, 1)
  return {
    stableAfter: Duration.toMillis(duration("stableAfter", options.stableAfter ?? "30 seconds", { min: 0 })),
    openTimeout: millis("openTimeout", options.openTimeout ?? "10 seconds"),
    writeTimeout: millis("writeTimeout", options.writeTimeout ?? "10 seconds"),
    renewAfter: options.renewAfter === undefined ? undefined : millis("renewAfter", options.renewAfter),
    timeToLive: outbox.timeToLive === undefined ? Infinity : millis("outbox.timeToLive", outbox.timeToLive),
    window: count("outbox.window", outbox.window ?? mebi, 1),
    heartbeat: heartbeat === false ? undefined : {
      interval: millis("heartbeat.interval", heartbeat.interval ?? "15 seconds"),
      timeout: millis("heartbeat.timeout", heartbeat.timeout ?? "10 seconds")
    },
    inboxCapacity: count("inbox.capacity", options.inbox?.capacity ?? 1024, 1),
    maxPayload: count("maxPayload", options.maxPayload ?? 16 * mebi, 1),
    limits: {
      capacity,
      bytes: count("outbox.bytes", outbox.bytes ?? 16 * mebi, 1),
      overflow,
      keeps: acknowledge !== undefined,
      inFlight: count("acknowledge.window", acknowledge?.window ?? capacity, 1)
    }
  }
}

const mebi = 1024 * 1024

type Settings = ReturnType<typeof settingsOf>

/** RFC 6455 section 7.4.1. 1001, 1005 and 1006 are losses that the next connection may heal. */
const fatalCodes = new Set([1002, 1003, 1007, 1008, 1009, 1010])
const fatalStatuses = new Set([400, 403, 404, 405, 410, 426])

const isRejected = (failure: ConnectionFailure): boolean =>
  failure._tag === "DialError" ? failure.status === 401 : failure._tag === "ConnectionClosed" && failure.code === 4401

const isRetryable = (failure: ConnectionFailure, hasSession: boolean): boolean => {
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

const raw: Codec<any, any> = { encode: (message) => message, decode: (message) => message }

const twoConsumers = "the messages of a socket are for one consumer at a time"
const defaultBackoff = Backoff.exponential()
const closeGrace = 2000
const longestRetryAfter = Duration.minutes(5)

// -----------------------------------------------------------------------------
// the machine
// -----------------------------------------------------------------------------

type Live<In> = LiveConnection<Inbox<In, Option.Option<SocketFailed>>>

/** One attempt, and the connection that comes of it. */
interface Line<In> {
  readonly scope: Scope.CloseableScope
  /** Of what the user's own effects acquire: nobody waits for its release. */
  readonly userScope: Scope.CloseableScope
  live: Live<In> | undefined
  /** What the session gave for it. */
  generation: Generation<any> | undefined
}

type State<In> =
  | { readonly _tag: "Dialing"; readonly attempt: number }
  | { readonly _tag: "Opening"; readonly live: Live<In> }
  | { readonly _tag: "Open"; readonly live: Live<In>; readonly since: number }
  | {
    readonly _tag: "Waiting"
    readonly until: number
    readonly failure: ConnectionFailure
    readonly attempt: number
  }
  | { readonly _tag: "Closed"; readonly info: CloseInfo }

/** What the owner of the connection is told to do. */
type Command =
  | { readonly _tag: "Reconnect" }
  | { readonly _tag: "MoveOver" }
  | { readonly _tag: "Close"; readonly code: number; readonly reason: string }

interface Subscription {
  readonly open: Message
  readonly close: Message | undefined
}

const openedCounter = Metric.counter("holdfast_socket_opened_total", {
  description: "Connections of reconnecting sockets that became ready",
  incremental: true
})

const lostCounter = Metric.counter("holdfast_socket_lost_total", {
  description: "Connections of reconnecting sockets that were lost, by reason",
  incremental: true
})

const droppedCounter = Metric.counter("holdfast_socket_messages_dropped_total", {
  description: "Messages that reconnecting sockets gave up, by reason",
  incremental: true
})

class SocketImpl<Out, In, R> implements ReconnectingSocket<Out, In> {
  readonly [TypeId]: TypeId = TypeId
  private readonly options: Options<Out, In, any, any, any, any, any, any>
  private readonly settings: Settings
  private readonly codec: Codec<Out, In>
  private readonly dialer: WebSocketDialer["Type"]
  private readonly scope: Scope.Scope
  private readonly runtime: Runtime.Runtime<R>
  private readonly clock: Clock.Clock
  private readonly delays: Delays.Delays<ConnectionFailure>
  private readonly ping: Message | undefined

  private phase: State<In> = { _tag: "Dialing", attempt: 0 }
  private command: Command | undefined
  /** Those that were moved away from. */
  private readonly leaving = new Set<Line<In>>()
  /** Made ready to be moved over to. */
  private next: Line<In> | undefined
  /** Notified when `command` is set. */
  readonly whenCommanded = new Waiters()
  /** Notified when `phase` changes. */
  readonly whenMoved = new Waiters()

  private readonly outbox: Outbox<Out>
  /** The connection that drains the outbox. */
  private drain: Live<In> | undefined
  private readonly inbox: Inbox<In, Option.Option<SocketFailed>>
  private readonly lives = new Set<Live<In>>()
  private readonly subscriptions = new Set<Subscription>()
  private readonly states = new Latest<ConnectionState>(1024)
  private readonly told = new Latest<SocketEvent>(1024)
  private isConsumed = false
  /** Each connection's messages go to whoever runs `toSocket` on it. */
  private isPlatformSocket = false

  /** The session's generation that was refused. */
  private refused: Generation<any> | undefined
  /** A refusal has been answered with a fresh value, and no connection has been stable since. */
  private hasRefreshed = false

  constructor(
    options: Options<Out, In, any, any, any, any, any, any>,
    settings: Settings,
    ping: Message | undefined,
    dialer: WebSocketDialer["Type"],
    scope: Scope.Scope,
    runtime: Runtime.Runtime<R>,
    clock: Clock.Clock
  ) {
    this.options = options
    this.settings = settings
    this.codec = options.codec ?? raw
    this.ping = ping
    this.dialer = dialer
    this.scope = scope
    this.runtime = runtime
    this.clock = clock
    this.delays = Delays.make(options.backoff ?? defaultBackoff)
    this.inbox = this.newInbox()
    this.outbox = new Outbox(settings.limits, (entry, outcome) => this.gaveUp(entry, outcome))
    this.outbox.onWork = () => this.drain?.wakeWriter()
  }

  /** The one place where the state changes. */
  private move(next: State<In>): void {
    const { phase } = this
    if (phase._tag === "Closed") return
    if (phase._tag === "Dialing" && next._tag === "Dialing" && phase.attempt === next.attempt) return
    this.phase = next
    this.states.offer(stateOf(next))
    this.whenMoved.notify()
  }

  private tell(event: SocketEvent): void {
    this.told.offer(event)
  }

  private order(command: Command): void {
    if (this.command?._tag === "Close" || command._tag === "MoveOver" && this.command !== undefined) return
    this.command = command
    this.whenCommanded.notify()
  }

  private now(): number {
    return this.clock.unsafeCurrentTimeMillis()
  }

  private closing(): { readonly code: number; readonly reason: string } | undefined {
    if (this.command?._tag !== "Close") return undefined
    const { code, reason } = this.command
    return { code, reason }
  }

  get isClosing(): boolean {
    return this.closing() !== undefined || this.phase._tag === "Closed"
  }

  // ---------------------------------------------------------------------------
  // the fiber that owns the connection
  // ---------------------------------------------------------------------------

  get own(): Effect.Effect<void, never, R> {
    return Effect.gen(this, function*() {
      let refs: FiberRefs.FiberRefs | undefined
      for (let attempt = 0;;) {
        // A scope's finalizers, and fibers that are joined, leave entries on this fiber's stacks: without end,
        // otherwise.
        yield* Effect.updateFiberRefs((_, present) => (refs ??= present))
        const closed = this.closing()
        if (closed !== undefined) return yield* this.conclude({ ...closed, failure: Option.none() })
        this.move({ _tag: "Dialing", attempt })
        this.tell({ _tag: "Dialing", attempt })
        let line = yield* this.newLine
        const opened = yield* Effect.either(this.open(line, this.commanded))
        let failure = Either.isLeft(opened) ? opened.left : undefined
        let openFor = -1
        if (Either.isRight(opened)) {
          this.becomeOpen(line)
          const since = this.now()
          line = yield* this.stay(line)
          openFor = this.now() - since
          failure = line.live?.failure
        }

        const closing = this.closing()
        if (closing !== undefined) {
          const { code, reason } = closing
          const isOpen = this.phase._tag === "Open"
          yield* this.leave(line, code, reason, isOpen ? Effect.ignore(this.flush) : Effect.void)
          yield* this.dropNext
          return yield* this.conclude({ ...closing, failure: Option.none() })
        }
        const isOrdered = this.command !== undefined
        this.command = undefined
        if (isOrdered) failure ??= new ConnectionLost({ reason: "Reset", cause: "reconnect" })
        yield* this.drop(line)
        yield* this.dropNext
        // What came before it was ready, and the login has not taken.
        const unread = line.live?.inbox
        if (unread !== undefined && unread !== this.inbox && !this.isPlatformSocket && !this.inbox.isFull) {
          this.inbox.pushAll(unread)
        }
        if (line.live !== undefined) this.lost(failure!)
        if (openFor >= this.settings.stableAfter) {
          this.delays.reset()
          this.hasRefreshed = false
          attempt = 0
        }
        if (isOrdered || this.isToRefresh(failure!, line)) continue

        const delay = this.isRetryable(failure!)
          ? yield* first(this.delayAfter(this.delays, failure!), Effect.as(this.commanded, Option.some(0)))
          : Option.none()
        if (Option.isNone(delay)) return yield* this.conclude(infoOf(failure!))
        attempt++
        const until = this.now() + delay.value
        this.move({ _tag: "Waiting", until, failure: failure!, attempt })
        this.tell({ _tag: "Waiting", delay: Duration.millis(delay.value), until, failure: failure!, attempt })
        yield* first(Effect.sleep(delay.value), this.commanded)
        if (this.closing() === undefined) this.command = undefined
      }
    }).pipe(
      Effect.onExit((exit) => {
        if (Exit.isSuccess(exit) || Exit.isInterrupted(exit)) {
          return Effect.sync(() => this.finish({ code: 1000, reason: "", failure: Option.none() }))
        }
        // Only a fault of ours, or of a transport, comes here.
        this.finish(infoOf(new ConnectionLost({ reason: "Reset", cause: Cause.squash(exit.cause) })))
        return Effect.logError("a reconnecting socket has died", exit.cause)
      })
    )
  }

  private lost(failure: ConnectionFailure): void {
    this.tell({ _tag: "Lost", failure })
    lostCounter.unsafeUpdate(1, [MetricLabel.make("reason", labelOf(failure))])
  }

  /** A command is there. */
  private get commanded(): Effect.Effect<void> {
    return Waiters.until(() => this.command === undefined ? undefined : Exit.void, this.whenCommanded)
  }

  private get newLine(): Effect.Effect<Line<In>> {
    return Effect.suspend(() =>
      Effect.zipWith(
        Scope.fork(this.scope, ExecutionStrategy.sequential),
        Scope.fork(this.scope, ExecutionStrategy.sequential),
        (scope, userScope): Line<In> => ({ scope, userScope, live: undefined, generation: undefined })
      )
    )
  }

  // ---------------------------------------------------------------------------
  // opening
  // ---------------------------------------------------------------------------

  /**
   * Dials, and makes the connection ready: what is on it then is its user's own login, and the subscriptions.
   * Fails with `undefined` when it is called off.
   */
  private open(line: Line<In>, off?: Effect.Effect<void>): Effect.Effect<void, ConnectionFailure | undefined, R> {
    const unlessOff = <A, E>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | undefined, R> =>
      off === undefined ? effect : first(effect, Effect.zipRight(off, Effect.fail(undefined)))
    return Effect.flatMap(unlessOff(this.dialed(line)), (connection) => {
      const early = this.newInbox()
      const live: Live<In> = new LiveConnection(connection, early, this.now())
      line.live = live
      this.lives.add(live)
      live.onOver(() => early.over(Exit.fail(Option.none())))
      if (off !== undefined) this.move({ _tag: "Opening", live })
      const ready = within(
        Effect.zipRight(this.greeted(line, live, early), this.subscribed(live)),
        this.settings.openTimeout,
        () => new ConnectionLost({ reason: "OnOpenFailed", cause: new Cause.TimeoutException() })
      )
      const readyOrOver = Effect.mapError(
        first(ready, Effect.flatMap(live.ended, Effect.fail)),
        // What the login made of a lost connection is not why it failed.
        (failure) => live.failure ?? failure
      )
      return connection.listen({
        onMessage: (message) => this.hear(live, message),
        onControl: () => live.heard(this.now()),
        onEnd: (failure) => live.over(failure)
      }).pipe(
        // Not within a race, whose fiber would be kept with its child.
        Effect.zipRight(Effect.forkIn(this.writer(live, line.scope), line.scope)),
        Effect.zipRight(unlessOff(readyOrOver))
      )
    })
  }

  private dialed(line: Line<In>): Effect.Effect<Connection, DialError, R> {
    let url = ""
    const { dial, session } = this.options
    const request = Effect.isEffect(dial) ? dial : Effect.succeed(dial)
    const attached = session === undefined ?
      request :
      Effect.flatMap(request, (request) =>
        Effect.map(
          this.refused === undefined ? session.session.current : session.session.refresh(this.refused),
          (generation) => {
            this.refused = undefined
            line.generation = generation
            return session.attach(request, generation.value)
          }
        ))
    return Scope.extend(attached, line.userScope).pipe(
      // A dial is waited for until it is given up, so that there are never two.
      Effect.disconnect,
      Effect.flatMap((request) => {
        if (this.isClosing) return Effect.interrupt
        url = shown(request.url)
        const { maxPayload } = this.options
        return Scope.extend(
          this.dialer.dial(maxPayload === undefined ? request : { ...request, maxPayload }),
          line.scope
        )
      }),
      Effect.sandbox,
      Effect.mapError((cause) => {
        const failure = Cause.squash(cause)
        return failure instanceof DialError ? failure : new DialError({ reason: "Transport", url, cause: failure })
      }),
      (dialing) => within(dialing, this.settings.openTimeout, () => new DialError({ reason: "Timeout", url }))
    ) as Effect.Effect<Connection, DialError, R>
  }

  private greeted(line: Line<In>, live: Live<In>, early: Live<In>["inbox"]): Effect.Effect<void, ConnectionLost, R> {
    const { onOpen } = this.options
    if (onOpen === undefined) return Effect.void
    const failed = (cause: unknown) => new ConnectionLost({ reason: "OnOpenFailed", cause })
    const connection = {
      send: (message: Out) =>
        Effect.suspend((): Effect.Effect<void, ConnectionFailure> =>
          Either.match(this.encoded(message), {
            onLeft: (error) => failed(error),
            onRight: (data) => live.sendAll([data])
          })
        ),
      receive: Effect.catchAll(early.takeOne, () => Effect.suspend(() => Effect.fail(live.failure!)))
    }
    return Effect.suspend(() => onOpen(connection)).pipe(
      Scope.extend(line.userScope),
      Effect.sandbox,
      Effect.mapError((cause) => failed(Cause.squash(cause))),
      Effect.disconnect
    )
  }

  private subscribed(live: Live<In>): Effect.Effect<void, ConnectionFailure> {
    return Effect.suspend(() => {
      const all = [...this.subscriptions]
      for (const subscription of all) live.subscribed.add(subscription)
      return live.sendAll(all.map(({ open }) => open))
    })
  }

  /** One step, so that no subscription and no message comes between. */
  private becomeOpen({ live }: Line<In>): void {
    if (live === undefined) return
    // Those that have come meanwhile.
    for (const subscription of this.subscriptions) {
      if (live.subscribed.has(subscription)) continue
      live.subscribed.add(subscription)
      live.send(subscription.open)
    }
    if (!this.isPlatformSocket) this.takeInto(live)
    this.drain = live
    this.move({ _tag: "Open", live, since: this.now() })
    this.tell({ _tag: "Opened", protocol: live.connection.protocol })
    if (this.subscriptions.size > 0) this.tell({ _tag: "Resubscribed", subscriptions: this.subscriptions.size })
    openedCounter.unsafeUpdate(1, [])
    live.wakeWriter()
  }

  /** What has come in so far, and will, is for all. */
  private takeInto(live: Live<In>): void {
    this.inbox.pushAll(live.inbox)
    live.inbox = this.inbox
    if (this.inbox.isFull) this.pause(live)
    else this.resume(live)
  }

  // ---------------------------------------------------------------------------
  // being open
  // ---------------------------------------------------------------------------

  /** Until the connection ends, or is to; gives the one that it has moved over to by then. */
  private stay(line: Line<In>): Effect.Effect<Line<In>, never, R> {
    const { heartbeat, renewAfter } = this.settings
    return Effect.gen(this, function*() {
      let present = line
      if (heartbeat !== undefined) yield* Effect.forkIn(this.heartbeat(present, heartbeat), present.scope)
      let isFresh = true
      for (;;) {
        if (renewAfter !== undefined) yield* Effect.forkIn(this.renewal(renewAfter, isFresh), present.scope)
        yield* this.over(present.live!)
        const { next } = this
        if (this.command?._tag !== "MoveOver" || next === undefined) return present
        this.command = undefined
        this.next = undefined
        isFresh = yield* this.moveOver(present, next)
        if (isFresh) {
          present = next
          if (heartbeat !== undefined) yield* Effect.forkIn(this.heartbeat(present, heartbeat), present.scope)
        } else {
          yield* this.drop(next)
        }
      }
    })
  }

  /** The connection has ended, or there is a command. */
  private over(live: Live<In>): Effect.Effect<void> {
    const isOver = () => live.failure !== undefined || this.command !== undefined
    return Waiters.until(() => isOver() ? Exit.void : undefined, live.whenOver, this.whenCommanded)
  }

  /** Everything that goes to one connection goes through here, one write at a time. */
  private writer(live: Live<In>, scope: Scope.Scope): Effect.Effect<void> {
    const hasMore = () => this.drain === live && live.failure === undefined && this.outbox.hasWork
    const write = live.writing.withPermits(1)(Effect.acquireUseRelease(
      Effect.sync(() => {
        const own = live.takeOwn()
        this.outbox.expire(this.now())
        const entries = hasMore() ? this.outbox.take(this.settings.window) : []
        if (this.outbox.isAwaiting && !live.inbox.isFullOfBytes) this.resume(live)
        live.writingSince = this.now()
        return { own, entries }
      }),
      ({ entries, own }) => {
        if (live.failure !== undefined) return live.failure
        if (own.length === 0 && entries.length === 0) return Effect.void
        const written = live.connection.write([...own, ...entries].map(({ data }) => data))
        if (live.isWriteWatched) return written
        live.isWriteWatched = true
        return Effect.zipRight(Effect.forkIn(this.watchWrites(live), scope), written)
      },
      ({ entries, own }, exit) =>
        Effect.sync(() => {
          live.wrote()
          this.outbox.settle(entries, Exit.isSuccess(exit))
          if (Exit.isSuccess(exit)) { for (const { onWritten } of own) onWritten?.() }
        })
    ))
    return Effect.zipRight(live.work(hasMore), write).pipe(
      (round) => Effect.whileLoop({ while: () => true, body: () => round, step: () => {} }),
      Effect.catchAllCause((cause) => Effect.sync(() => live.over(lossOf(Cause.squash(cause)))))
    )
  }

  /** One fiber for many writes, which costs them nothing; it goes when there is none. */
  private watchWrites(live: Live<In>): Effect.Effect<void> {
    const { writeTimeout } = this.settings
    return Effect.gen(this, function*() {
      let since = live.writingSince
      while (since !== undefined) {
        yield* Effect.sleep(Math.min(since + writeTimeout - this.now(), writeTimeout))
        if (live.writingSince === since) return live.over(new ConnectionLost({ reason: "WriteTimeout" }))
        since = live.writingSince
      }
      live.isWriteWatched = false
    })
  }

  /** The peer is asked after `interval` of silence, and held for dead after `timeout` more. */
  private heartbeat(
    { live, scope }: Line<In>,
    { interval, timeout }: { readonly interval: number; readonly timeout: number }
  ): Effect.Effect<void> {
    if (live === undefined) return Effect.void
    const ask = this.ask(live, scope)
    if (ask === undefined) return Effect.void
    let asked: { readonly signs: number; readonly at: number } | undefined
    const beat: Effect.Effect<void> = Effect.suspend(() => {
      const now = this.now()
      // A clock that is set back must not make it wait for longer.
      live.lastHeard = Math.min(live.lastHeard, now)
      if (asked !== undefined && asked.at > now) asked = { signs: asked.signs, at: now }
      const silent = now - live.lastHeard
      if (asked?.signs !== live.signs) asked = undefined
      // While nothing is read, nothing can be heard.
      if (live.isPaused) return next(interval)
      if (asked !== undefined) {
        if (now < asked.at + timeout) return next(Math.min(asked.at + timeout - now, interval))
        return Effect.sync(() => live.over(new ConnectionLost({ reason: "HeartbeatTimeout" })))
      }
      if (silent < interval) return next(interval - silent)
      asked = { signs: live.signs, at: now }
      return Effect.zipRight(ask, next(Math.min(timeout, interval)))
    })
    // What is left may be less than a clock can tell, and would be slept through in no time, again and again.
    const next = (millis: number) => Effect.zipRight(Effect.sleep(Math.max(1, millis)), beat)
    return beat
  }

  private ask(live: Live<In>, scope: Scope.Scope): Effect.Effect<unknown> | undefined {
    const message = this.ping
    if (message !== undefined) return Effect.sync(() => live.send(message))
    if (Option.isNone(live.connection.ping)) return undefined
    const written = within(
      live.connection.ping.value,
      this.settings.writeTimeout,
      () => new ConnectionLost({ reason: "WriteTimeout" })
    )
    return live.writing.withPermits(1)(written).pipe(
      Effect.catchAll((failure) => Effect.sync(() => live.over(failure))),
      Effect.forkIn(scope)
    )
  }

  // ---------------------------------------------------------------------------
  // moving over
  // ---------------------------------------------------------------------------

  /** Makes the next connection ready, and has the owner move over to it. */
  private renewal(renewAfter: number, isFresh: boolean): Effect.Effect<void, never, R> {
    const delays = Delays.make(this.options.backoff ?? defaultBackoff)
    return Effect.gen(this, function*() {
      if (isFresh) {
        const early = yield* Random.nextRange(0.9, 1)
        do yield* Effect.sleep(renewAfter * early)
        while (
          // One that nobody reads out is enough.
          this.leaving.size > 0
        )
      } else {
        // One was ready, and has ended before it was moved over to.
        const delay = yield* this.delayAfter(delays, new ConnectionLost({ reason: "Reset" }))
        yield* Effect.sleep(Option.getOrElse(delay, () => renewAfter))
      }
      for (;;) {
        const opened = yield* this.openNext
        if (Option.isNone(opened)) return
        const failure = opened.value
        const delay = this.isRetryable(failure) ? yield* this.delayAfter(delays, failure) : Option.none()
        // The present one serves until it is cut.
        if (Option.isNone(delay)) return
        yield* Effect.sleep(delay.value)
      }
    })
  }

  private get openNext(): Effect.Effect<Option.Option<ConnectionFailure>, never, R> {
    return Effect.uninterruptibleMask((restore) =>
      Effect.gen(this, function*() {
        const line = yield* this.newLine
        const opened = yield* Effect.exit(restore(this.open(line)))
        if (Exit.isSuccess(opened)) {
          this.next = line
          this.order({ _tag: "MoveOver" })
          return Option.none()
        }
        yield* this.drop(line)
        const failure = lossOf(Cause.squash(opened.cause))
        if (!Exit.isInterrupted(opened)) yield* Effect.logWarning("a socket could not move over", failure)
        if (this.isRejected(failure, line)) this.refused = line.generation
        return Option.some(failure)
      })
    )
  }

  /** Whether it has: unless the other has ended meanwhile, or there is a command. */
  private moveOver(line: Line<In>, to: Line<In>): Effect.Effect<boolean> {
    return Effect.gen(this, function*() {
      const live = line.live!
      this.drain = undefined
      yield* first(live.idle, this.over(live))
      if (this.settings.limits.keeps) {
        yield* within(first(this.outbox.handedGone, this.over(live)), closeGrace, () => Effect.void)
      }
      this.drain = live
      if (to.live?.failure !== undefined || this.command !== undefined) {
        live.wakeWriter()
        return false
      }
      if (live.failure !== undefined) {
        yield* this.drop(line)
        this.lost(live.failure)
        this.becomeOpen(to)
        return true
      }
      this.outbox.letGo(live)
      this.becomeOpen(to)
      this.leaving.add(line)
      yield* this.leave(line, 1000, "", Effect.void).pipe(
        Effect.ensuring(Effect.sync(() => this.leaving.delete(line))),
        Effect.forkIn(this.scope)
      )
      return true
    })
  }

  // ---------------------------------------------------------------------------
  // leaving
  // ---------------------------------------------------------------------------

  /** Closes the connection as it is done, within the grace. */
  private leave(line: Line<In>, code: number, reason: string, before: Effect.Effect<unknown>): Effect.Effect<void> {
    const { live } = line
    if (live === undefined) return this.drop(line)
    this.resume(live)
    let isSent = false
    const closed = Effect.suspend(() => {
      if (isSent) return Effect.void
      isSent = true
      return Effect.catchAllCause(live.connection.close(code, reason), () => Effect.void)
    })
    // What has come in is read out, if its socket goes on.
    const grace: Effect.Effect<void> = Effect.suspend(() =>
      Effect.zipRight(Effect.sleep(closeGrace), Effect.suspend(() => live.isPaused ? grace : Effect.void))
    )
    const politely = first(Effect.zipRight(before, Effect.zipRight(closed, live.ended)), live.ended)
    return first(politely, grace).pipe(
      // There may be no time left to wait for it.
      Effect.zipRight(first(closed, Effect.yieldNow())),
      Effect.zipRight(this.drop(line))
    )
  }

  private get dropNext(): Effect.Effect<void> {
    return Effect.suspend(() => {
      const { next } = this
      this.next = undefined
      if (this.command?._tag === "MoveOver") this.command = undefined
      return next === undefined ? Effect.void : this.drop(next)
    })
  }

  /** Ends it at once, and all that belongs to it. */
  private drop({ live, scope, userScope }: Line<In>): Effect.Effect<void> {
    return Effect.zipRight(
      Scope.close(scope, Exit.void),
      Effect.suspend(() => {
        if (live !== undefined) {
          live.over(new ConnectionLost({ reason: "Reset", cause: "dropped" }))
          this.lives.delete(live)
          if (this.drain === live) {
            this.drain = undefined
            this.outbox.letGo(live)
          }
        }
        return Effect.forkIn(Scope.close(userScope, Exit.void), this.scope)
      })
    )
  }

  private conclude(info: CloseInfo): Effect.Effect<void> {
    return Effect.zipRight(
      Effect.forEach([...this.leaving], (line) => this.drop(line), { discard: true }),
      Effect.sync(() => this.finish(info))
    )
  }

  private finish(info: CloseInfo): void {
    if (this.phase._tag === "Closed") return
    this.move({ _tag: "Closed", info })
    this.outbox.close()
    this.tell({ _tag: "Closed", info })
    this.inbox.over(Exit.fail(Option.map(info.failure, (failure) => new SocketFailed({ failure }))))
    this.states.end()
    this.told.end()
  }

  // ---------------------------------------------------------------------------
  // what comes in
  // ---------------------------------------------------------------------------

  private hear(live: Live<In>, data: Message): void {
    if (live.failure !== undefined) return
    live.heard(this.now())
    const bytes = data.length > this.settings.maxPayload / 3 ? byteLength(data) : data.length
    if (bytes > this.settings.maxPayload) {
      const cause = `a message of ${bytes} bytes`
      return live.over(new ConnectionLost({ reason: "InvalidData", cause }))
    }
    const { acknowledge, heartbeat } = this.options
    const decoded = this.guarded("decode", () => Option.some(this.codec.decode(data)), Option.none<In>(), data)
    if (Option.isNone(decoded)) return
    const message = decoded.value
    if (acknowledge !== undefined) {
      const id = this.guarded(
        "acknowledged",
        () => Option.map(acknowledge.acknowledged(message), (id) => id),
        Option.none(),
        data
      )
      if (Option.isSome(id)) return this.outbox.acknowledge(id.value)
    }
    if (heartbeat && heartbeat.isPong !== undefined) {
      const { isPong } = heartbeat
      if (this.guarded("isPong", () => isPong(message), false, data)) return
    }
    if (live.inbox.isFull && (this.isClosing || Option.isNone(live.connection.backpressure))) {
      // Closing has no time for who does not take them.
      if (this.isClosing) return
      return live.over(new ConnectionLost({ reason: "InboxOverflow" }))
    }
    live.inbox.push(message, bytes)
    // Who takes them may wait for an acknowledgement that comes behind them.
    if (live.inbox.isFull && (!this.outbox.isAwaiting || live.inbox.isFullOfBytes)) this.pause(live)
  }

  private pause(live: Live<In>): void {
    if (live.isPaused || this.isClosing || Option.isNone(live.connection.backpressure)) return
    live.isPaused = true
    Runtime.runFork(this.runtime)(live.connection.backpressure.value.pause)
  }

  private resume(live: Live<In>): void {
    if (!live.isPaused || Option.isNone(live.connection.backpressure)) return
    live.isPaused = false
    live.heard(this.now())
    Runtime.runFork(this.runtime)(live.connection.backpressure.value.resume)
  }

  private newInbox(): Inbox<In, Option.Option<SocketFailed>> {
    return new Inbox(this.settings.inboxCapacity, 16 * mebi, () => {
      for (const live of this.lives) this.resume(live)
    })
  }

  /** What a callback of the user decides, or what goes if it throws. */
  private guarded<A>(
    callback: Extract<SocketEvent, { readonly _tag: "Rejected" }>["callback"],
    decide: () => A,
    otherwise: A,
    message?: Message
  ): A {
    try {
      return decide()
    } catch (cause) {
      this.tell({ _tag: "Rejected", callback, message, cause })
      return otherwise
    }
  }

  // ---------------------------------------------------------------------------
  // what a failure means
  // ---------------------------------------------------------------------------

  private isRejected(failure: ConnectionFailure, { generation }: Line<In>): boolean {
    const { session } = this.options
    if (session === undefined || generation === undefined) return false
    return this.guarded("rejected", () => (session.rejected ?? isRejected)(failure), isRejected(failure))
  }

  /** Whether the failure is answered by a fresh value of the session, at once. */
  private isToRefresh(failure: ConnectionFailure, line: Line<In>): boolean {
    if (!this.isRejected(failure, line)) return false
    this.refused = line.generation
    const isFirst = !this.hasRefreshed
    this.hasRefreshed = true
    return isFirst
  }

  /** Milliseconds; none if the schedule has ended, or dies. */
  private delayAfter(
    delays: Delays.Delays<ConnectionFailure>,
    failure: ConnectionFailure
  ): Effect.Effect<Option.Option<number>> {
    return Effect.gen(this, function*() {
      const next = yield* Effect.catchAllCause(delays.next(failure, this.now()), (cause) => {
        this.tell({ _tag: "Rejected", callback: "backoff", cause: Cause.squash(cause) })
        return Effect.succeed(Option.none<number>())
      })
      const headers = failure._tag === "DialError" ? failure.headers : undefined
      const asked = headers === undefined ? Option.none() : yield* Backoff.retryAfter(headers)
      const least = Option.match(asked, {
        onNone: () => 0,
        onSome: (asked) => Duration.toMillis(Duration.min(asked, longestRetryAfter))
      })
      return Option.map(next, (next) => Math.min(Math.max(next, least), Duration.toMillis(longestTimer)))
    })
  }

  private isRetryable(failure: ConnectionFailure): boolean {
    const byDefault = isRetryable(failure, this.options.session !== undefined)
    return this.guarded("retryable", () => this.options.retryable?.(failure) ?? byDefault, byDefault)
  }

  // ---------------------------------------------------------------------------
  // what its users see
  // ---------------------------------------------------------------------------

  readonly send = (message: Out): Effect.Effect<void, OutboxFull | SocketClosed | EncodeError> =>
    Effect.suspend((): Effect.Effect<void, OutboxFull | SocketClosed | EncodeError> => {
      const encoded = this.entryOf(message)
      if (Either.isLeft(encoded)) return encoded
      const entry = encoded.right
      if (!this.outbox.wouldWait(entry)) return this.refusal(this.outbox.offer(entry), entry) ?? Effect.void
      return wait((resume) => {
        entry.onAccepted = (outcome) => resume(outcome === "Accepted" ? Exit.void : Exit.fail(this.closed))
        const refusal = this.refusal(this.outbox.offer(entry), entry)
        if (refusal !== undefined) resume(Exit.fail(refusal))
        return () => this.outbox.takeBack(entry)
      })
    })

  readonly deliver = (
    message: Out
  ): Effect.Effect<void, OutboxFull | SocketClosed | EncodeError | MessageExpired | MessageLost> =>
    Effect.suspend((): Effect.Effect<void, OutboxFull | SocketClosed | EncodeError | MessageExpired | MessageLost> => {
      const encoded = this.entryOf(message)
      if (Either.isLeft(encoded)) return encoded
      const entry = encoded.right
      return wait((resume) => {
        entry.onDone = (outcome) => {
          switch (outcome) {
            case "Done":
            case "TakenBack":
              return resume(Exit.void)
            case "Expired":
              return resume(Exit.fail(new MessageExpired()))
            case "Overflow":
              return resume(Exit.fail(new OutboxFull({ bytes: entry.bytes })))
            case "Lost":
              return resume(Exit.fail(new MessageLost()))
            case "Closed":
              return resume(Exit.fail(this.closed))
          }
        }
        const refusal = this.refusal(this.outbox.offer(entry), entry)
        if (refusal !== undefined) resume(Exit.fail(refusal))
        return () => this.outbox.takeBack(entry)
      })
    })

  private refusal(offered: Offered, { bytes }: Entry<Out>): OutboxFull | SocketClosed | undefined {
    return offered === "Full" ? new OutboxFull({ bytes }) : offered === "Closed" ? this.closed : undefined
  }

  get flush(): Effect.Effect<void, SocketClosed> {
    return Effect.flatMap(this.outbox.flushed, (outcome) => outcome === "Done" ? Effect.void : this.closed)
  }

  /** As a channel, a third lighter than the same of streams. */
  get messages(): Stream.Stream<In, SocketFailed> {
    type Read<E> = Channel.Channel<Chunk.Chunk<In>, unknown, E, unknown, unknown, unknown>
    const all: Read<Option.Option<SocketFailed>> = Channel.flatMap(
      Channel.fromEffect(Effect.suspend(() => this.inbox.takeAll)),
      (messages) => Channel.flatMap(Channel.write(messages), () => all)
    )
    const untilEnd: Read<SocketFailed> = Channel.catchAll(
      all,
      (end) => Option.match(end, { onNone: () => Channel.void, onSome: Channel.fail })
    )
    return Stream.fromChannel(Channel.suspend(() => {
      let isConsumer = false
      const claimed = Channel.suspend((): Read<SocketFailed> => {
        if (this.isConsumed) return Channel.failCause(Cause.die(new Cause.RuntimeException(twoConsumers)))
        isConsumer = this.isConsumed = true
        return untilEnd
      })
      return Channel.ensuring(
        claimed,
        Effect.sync(() => {
          if (isConsumer) this.isConsumed = false
        })
      )
    }))
  }

  readonly subscribe = (
    { close, open }: { readonly open: Out; readonly close?: Out | undefined }
  ): Effect.Effect<void, SocketClosed | EncodeError, Scope.Scope> =>
    Effect.suspend((): Effect.Effect<void, SocketClosed | EncodeError, Scope.Scope> => {
      if (this.isClosing) return this.closed
      const opening = this.encoded(open)
      if (Either.isLeft(opening)) return opening
      const closing = close === undefined ? Either.right(undefined) : this.encoded(close)
      if (Either.isLeft(closing)) return closing
      const subscription: Subscription = { open: opening.right, close: closing.right }
      return Effect.acquireRelease(
        Effect.sync(() => this.begin(subscription)),
        () => Effect.sync(() => this.end(subscription))
      )
    })

  private begin(subscription: Subscription): void {
    this.subscriptions.add(subscription)
    if (this.phase._tag !== "Open" || this.phase.live.failure !== undefined) return
    this.phase.live.subscribed.add(subscription)
    this.sendOn(this.phase.live, subscription.open)
  }

  private end(subscription: Subscription): void {
    this.subscriptions.delete(subscription)
    for (const live of this.lives) {
      if (live.subscribed.delete(subscription) && subscription.close !== undefined) {
        this.sendOn(live, subscription.close)
      }
    }
  }

  /** In its place among the messages, where those go that way; but on that connection or not at all. */
  private sendOn(live: Live<In>, data: Message): void {
    if (live.failure !== undefined) return
    if (this.phase._tag === "Open" && this.phase.live === live) {
      this.outbox.offer(entryFor(undefined as Out, data, { only: live }))
    } else live.send(data)
  }

  get state(): Effect.Effect<ConnectionState> {
    return Effect.sync(() => stateOf(this.phase))
  }

  get stateChanges(): Stream.Stream<ConnectionState> {
    return this.states.changes(() => Option.some(stateOf(this.phase)))
  }

  get events(): Stream.Stream<SocketEvent> {
    return this.told.changes(Option.none)
  }

  get awaitOpen(): Effect.Effect<void, SocketClosed | SocketFailed> {
    return Effect.asVoid(this.opened(undefined))
  }

  /** Another connection than this that is open. */
  opened(than: Live<In> | undefined): Effect.Effect<Live<In>, SocketClosed | SocketFailed> {
    return Waiters.until((): Exit.Exit<Live<In>, SocketClosed | SocketFailed> | undefined => {
      const { phase } = this
      if (phase._tag === "Open" && phase.live !== than) return Exit.succeed(phase.live)
      if (phase._tag !== "Closed") return undefined
      return Exit.fail(Option.match(phase.info.failure, {
        onNone: () => new SocketClosed({ info: phase.info }),
        onSome: (failure) => new SocketFailed({ failure })
      }))
    }, this.whenMoved)
  }

  get reconnect(): Effect.Effect<void> {
    return Effect.sync(() => this.order({ _tag: "Reconnect" }))
  }

  readonly close = (code = 1000, reason = ""): Effect.Effect<void> =>
    Effect.suspend(() => {
      this.order({ _tag: "Close", code: sendable(code), reason: cut(reason) })
      this.outbox.refuse()
      return this.finished
    })

  private get finished(): Effect.Effect<void> {
    return Waiters.until(() => this.phase._tag === "Closed" ? Exit.void : undefined, this.whenMoved)
  }

  /** The scope closes. A clock that stands still does not keep it. */
  get closeWithScope(): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.order({ _tag: "Close", code: 1000, reason: "" })
      this.outbox.refuse()
      return wait<void>((resume) => {
        const timer = setTimeout(() => resume(Exit.void), closeGrace)
        const stop = () => {
          clearTimeout(timer)
          resume(Exit.void)
        }
        Waiters.watch(() => this.phase._tag === "Closed" ? true : undefined, stop, this.whenMoved)
        return stop
      })
    })
  }

  // ---------------------------------------------------------------------------
  // messages
  // ---------------------------------------------------------------------------

  private get closed(): SocketClosed {
    return new SocketClosed({
      info: this.phase._tag === "Closed"
        ? this.phase.info
        : { code: 1000, reason: "", ...this.closing(), failure: Option.none() }
    })
  }

  encoded(message: Out): Either.Either<Message, EncodeError> {
    return encodeWith(this.codec, message)
  }

  private entryOf(message: Out): Either.Either<Entry<Out>, EncodeError | SocketClosed> {
    if (this.isClosing) return Either.left(this.closed)
    const data = this.encoded(message)
    if (Either.isLeft(data)) return Either.left(data.left)
    const { timeToLive } = this.settings
    const { acknowledge } = this.options
    try {
      return Either.right(entryFor(message, data.right, {
        id: acknowledge?.id(message),
        expiresAt: timeToLive === Infinity ? Infinity : this.now() + timeToLive
      }))
    } catch (cause) {
      return Either.left(new EncodeError({ cause }))
    }
  }

  private gaveUp({ message }: Entry<Out>, outcome: Outcome): void {
    switch (outcome) {
      case "Expired":
        this.tell({ _tag: "Expired", message })
        break
      case "Overflow":
      case "Lost":
      case "Closed":
        this.tell({ _tag: "Dropped", message, reason: outcome })
        break
      default:
        return
    }
    droppedCounter.unsafeUpdate(1, [MetricLabel.make("reason", outcome)])
  }

  /** Gives up what has outlived its time while there was no connection to notice. */
  get expiring(): Effect.Effect<void> {
    return Effect.suspend(() => {
      const now = this.now()
      this.outbox.expire(now)
      return Effect.sleep(Math.max(1, (this.outbox.nextExpiry ?? now + this.settings.timeToLive) - now))
    }).pipe(
      Effect.forever
    )
  }

  // ---------------------------------------------------------------------------
  // as a platform's socket
  // ---------------------------------------------------------------------------

  /** Ends this connection, and no other. */
  giveUp(live: Live<In>): void {
    if (this.phase._tag === "Open" && this.phase.live === live) this.order({ _tag: "Reconnect" })
  }

  /** From now on each connection keeps what comes in on it. */
  keepApart(): void {
    if (this.isPlatformSocket) return
    this.isPlatformSocket = true
    if (this.phase._tag !== "Open") return
    const { live } = this.phase
    const own = this.newInbox()
    own.pushAll(this.inbox)
    live.inbox = own
    live.onOver(() => own.over(Exit.fail(Option.none())))
  }
}

const entryFor = <Out>(
  message: Out,
  data: Message,
  options: { readonly id?: unknown; readonly expiresAt?: number; readonly only?: object }
): Entry<Out> => ({
  message,
  data,
  bytes: byteLength(data),
  id: options.id,
  expiresAt: options.expiresAt ?? Infinity,
  only: options.only,
  onAccepted: undefined,
  onDone: undefined,
  place: 0,
  isHanded: false
})

const stateOf = (state: State<any>): ConnectionState => {
  switch (state._tag) {
    case "Opening":
      return { _tag: "Opening" }
    case "Open":
      return { _tag: "Open", since: state.since }
    default:
      return state
  }
}

const infoOf = (failure: ConnectionFailure): CloseInfo => ({
  code: failure._tag === "ConnectionClosed" ? failure.code : 1006,
  reason: failure.message,
  failure: Option.some(failure)
})

const labelOf = (failure: ConnectionFailure): string =>
  failure._tag === "ConnectionClosed" ? String(failure.code) : failure.reason

const lossOf = (error: unknown): ConnectionFailure =>
  error instanceof ConnectionLost || error instanceof ConnectionClosed || error instanceof DialError
    ? error
    : new ConnectionLost({ reason: "Reset", cause: error })

const encodeWith = <Out>(codec: Codec<Out, any>, message: Out): Either.Either<Message, EncodeError> => {
  try {
    const data: unknown = codec.encode(message)
    if (typeof data === "string" || data instanceof Uint8Array) return Either.right(data)
    return Either.left(new EncodeError({ cause: new TypeError(`encoded as ${typeof data}, neither text nor bytes`) }))
  } catch (cause) {
    return Either.left(new EncodeError({ cause }))
  }
}

/** RFC 6455 section 7.4: 1004, 1005, 1006 and 1015 are never sent. */
const sendable = (code: number): number =>
  Number.isInteger(code)
    && (code >= 1000 && code <= 1014 && code !== 1004 && code !== 1005 && code !== 1006 || code >= 3000 && code <= 4999)
    ? code
    : 1000

/** RFC 6455 section 5.5: a close frame carries 125 bytes, two of them the code. */
const cut = (reason: string): string => {
  let short = reason.slice(0, 123)
  while (byteLength(short) > 123) short = short.slice(0, -1)
  // Half a character is none.
  return short.replace(/[\uD800-\uDBFF]$/, "")
}

// -----------------------------------------------------------------------------
// constructors
// -----------------------------------------------------------------------------

/**
 * Makes a socket and starts to dial. It is closed with its scope, as `close` does.
 *
 * @example
 * ```ts
 * import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
 * import * as Context from "effect/Context"
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
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
 *   static readonly layer = Layer.scoped(
 *     Feed,
 *     ReconnectingSocket.make({
 *       dial: { url: "wss://feed.example.com" },
 *       codec: ReconnectingSocket.json({ in: Quote, out: Request })
 *     })
 *   )
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
    const ping = yield* validated(() => pingOf(options))
    const dialer = yield* WebSocketDialer
    // It closes after the socket has closed politely; what is forked from the outer one would go before.
    const scope = yield* Effect.acquireRelease(Scope.make(), Scope.close)
    const runtime = yield* Effect.runtime<R | R2>()
    const clock = yield* Effect.clock
    const socket = new SocketImpl<Out, In, R | R2>(options, settings, ping, dialer, scope, runtime, clock)
    // A layer is built uninterruptibly.
    yield* Effect.forkIn(Effect.interruptible(socket.own), scope)
    if (settings.timeToLive < Infinity) yield* Effect.forkIn(Effect.interruptible(socket.expiring), scope)
    yield* Effect.addFinalizer(() => socket.closeWithScope)
    return socket
  })

const pingOf = <Out>(
  { codec = raw, heartbeat }: Options<Out, any, any, any, any, any, any, any>
): Message | undefined => {
  if (!heartbeat || heartbeat.ping === undefined) return undefined
  return Either.getOrThrowWith(
    encodeWith(codec, heartbeat.ping),
    ({ cause }) =>
      new InvalidOptions({
        option: "heartbeat.ping",
        value: heartbeat.ping,
        reason: `cannot be encoded (${String(cause)})`
      })
  )
}

/**
 * Messages as JSON text, checked by schemas on both sides. What does not decode is a `Rejected` event with the
 * message as it came in; the socket goes on.
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
  const encode = Schema.encodeSync(schemas.out)
  const decode = Schema.decodeUnknownSync(schemas.in)
  const text = new TextDecoder("utf-8", { fatal: true })
  return {
    encode: (message) => JSON.stringify(encode(message)),
    decode: (message) => decode(JSON.parse(typeof message === "string" ? message : text.decode(message)))
  }
}

// -----------------------------------------------------------------------------
// combinators
// -----------------------------------------------------------------------------

/**
 * The socket as `@effect/platform` knows one, for what builds on that: `RpcClient.makeProtocolSocket`, say.
 *
 * `run` and `runRaw` attach to the next connection that is ready (the first to the present one) and fail when that is
 * lost, whatever its code, so that who retries them is on the connection after it. Handlers are started in order, and
 * run side by side, up to 1,024 of them, so that one that waits does not keep the others. A run that ends otherwise,
 * its handler's failure or its interruption, gives its connection up. Runs follow one another; a second one at the same
 * time fails. After `close` they succeed.
 *
 * A write waits for the first run to be attached; then it belongs to the connection of the last run. On one that is
 * lost it is dropped, and succeeds: the run's failure tells. A `CloseEvent` closes that connection, not the socket.
 * The outbox is not used, so neither is `acknowledge`; do not take `messages` as well.
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
  const socket = self as SocketImpl<Message, Message, never>
  socket.keepApart()
  let attached: Live<Message> | undefined
  let isRunning = false
  const whenAttached = new Waiters()

  const attach = Effect.map(Effect.suspend(() => socket.opened(attached)), (live) => {
    attached = live
    whenAttached.notify()
    return live
  })

  const runRaw: Socket.Socket["runRaw"] = <_, E, R>(
    handler: (message: Message) => Effect.Effect<_, E, R> | void,
    options?: { readonly onOpen?: Effect.Effect<void> | undefined }
  ) => {
    const handled = (live: Live<Message>): Effect.Effect<void, Socket.SocketError | E, R> =>
      Effect.scopedWith((scope) =>
        Effect.gen(function*() {
          const handlers = yield* Scope.extend(FiberSet.make<unknown, E>(), scope)
          const run = yield* FiberSet.runtime(handlers)<R>()
          // Its only taker is this fiber.
          const room = Effect.unsafeMakeSemaphore(mostHandlers)
          const done = room.release(1)
          const handleAll: Effect.Effect<void, Socket.SocketError> = Effect.matchEffect(live.inbox.takeAll, {
            onFailure: (): Effect.Effect<void, Socket.SocketError> =>
              live.failure === undefined || socket.isClosing ? Effect.void : platformError(live.failure),
            onSuccess: (messages) =>
              Effect.zipRight(
                Effect.forEach(messages, (message) =>
                  Effect.suspend(() => {
                    const effect = handler(message)
                    if (!Effect.isEffect(effect)) return Effect.void
                    return Effect.map(room.take(1), () => run(Effect.ensuring(effect, done)))
                  }), { discard: true }),
                Effect.suspend(() => handleAll)
              )
          })
          if (options?.onOpen !== undefined) yield* options.onOpen
          return yield* first(handleAll, FiberSet.join(handlers))
        })
      ).pipe(
        Effect.onExit(() => Effect.sync(() => socket.giveUp(live)))
      )
    const attachedRun = Effect.matchEffect(attach, {
      onFailure: (error) =>
        error._tag === "SocketClosed"
          ? Effect.void
          : new Socket.SocketGenericError({ reason: "Open", cause: error }),
      onSuccess: handled
    })
    return Effect.acquireUseRelease(
      Effect.suspend(() => {
        if (isRunning) return new Socket.SocketGenericError({ reason: "Open", cause: "it is run already" })
        isRunning = true
        return Effect.void
      }),
      () => attachedRun,
      () =>
        Effect.sync(() => {
          isRunning = false
        })
    )
  }

  /** The connection that a write goes to; none if the socket is closed before a run is attached. */
  const attachment = Waiters.until(
    () => attached !== undefined || socket.isClosing ? Exit.succeed(attached) : undefined,
    whenAttached,
    socket.whenMoved,
    socket.whenCommanded
  )

  const write = (chunk: Message | Socket.CloseEvent): Effect.Effect<void, Socket.SocketError> =>
    Effect.flatMap(attachment, (live): Effect.Effect<void, Socket.SocketError> => {
      if (live === undefined) return Effect.void
      return Socket.isCloseEvent(chunk)
        ? live.connection.close(sendable(chunk.code), cut(chunk.reason ?? ""))
        : Either.match(socket.encoded(chunk), {
          onLeft: (cause) => new Socket.SocketGenericError({ reason: "Write", cause }),
          onRight: (data) => Effect.ignore(live.sendAll([data]))
        })
    })

  const encoder = new TextEncoder()
  return Socket.Socket.of({
    [Socket.TypeId]: Socket.TypeId,
    run: (handler, options) =>
      runRaw((message) => handler(typeof message === "string" ? encoder.encode(message) : message), options),
    runRaw,
    writer: Effect.succeed(write)
  })
}

const mostHandlers = 1024

const platformError = (failure: ConnectionFailure): Socket.SocketError =>
  failure._tag === "ConnectionClosed"
    ? new Socket.SocketCloseError({ reason: "Close", code: failure.code, closeReason: failure.reason })
    : new Socket.SocketGenericError({ reason: "Read", cause: failure })

// -----------------------------------------------------------------------------
// guards
// -----------------------------------------------------------------------------

/**
 * @since 0.1.0
 * @category guards
 */
export const isReconnectingSocket = (u: unknown): u is ReconnectingSocket<never, unknown> =>
  Predicate.hasProperty(u, TypeId)
