/**
 * The socket that users have. Its owner (owner.ts) manages the connection and reports what happened; this file makes
 * the errors.
 */
import * as Cause from "effect/Cause"
import * as Channel from "effect/Channel"
import * as Chunk from "effect/Chunk"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type {
  ConnectionState,
  Received,
  ReconnectingSocket,
  ReconnectOptions,
  RequestOptions,
  SocketEvent,
  SubscriptionOptions,
  TypeId as PublicTypeId
} from "../../ReconnectingSocket.js"
import type { ConnectionFailure, Message } from "../../WebSocketDialer.js"
import { duration, functions, kind, object } from "../check.js"
import { within } from "../first.js"
import { monotonic } from "../monotonic.js"
import { wait } from "../wait.js"
import {
  EncodeError,
  endError,
  MessageExpired,
  MessageLost,
  MessageUndeliverable,
  OutboxFull,
  RequestTimeout,
  SocketClosed,
  SocketFailed
} from "./errors.js"
import { type Offered, type QueuedMessage, queuedMessage } from "./outbox.js"
import type { Owner } from "./owner.js"
import { type NoReply, request } from "./request.js"
import type { Subscription } from "./subscriptions.js"

const TypeId: PublicTypeId = Symbol.for("effect-holdfast/ReconnectingSocket") as PublicTypeId

type Undelivered = OutboxFull | SocketClosed | EncodeError | MessageExpired | MessageLost | MessageUndeliverable

type Unanswered = OutboxFull | SocketClosed | EncodeError | RequestTimeout | MessageLost | MessageExpired

/** Effect's `Stream.runFold` goes through a chunk by recursion, and overflows the stack at about 10,000 elements. */
const maxChunk = 4096

const twoConsumers = "the messages of a socket are for one consumer at a time"

export class OwnedSocket<Out, In> implements ReconnectingSocket<Out, In> {
  readonly [TypeId]: PublicTypeId = TypeId
  readonly owner: Owner<Out, In, any>
  private isConsumed = false

  constructor(owner: Owner<Out, In, any>) {
    this.owner = owner
  }

  // ---------------------------------------------------------------------------
  // out
  // ---------------------------------------------------------------------------

  readonly send = (message: Out): Effect.Effect<void, OutboxFull | SocketClosed | EncodeError> =>
    Effect.suspend((): Effect.Effect<void, OutboxFull | SocketClosed | EncodeError> => {
      const { outbox } = this.owner.wiring
      const encoded = this.queuedMessage(message)
      if (Either.isLeft(encoded)) return encoded
      const queued = encoded.right
      if (!outbox.wouldWait(queued)) return this.refusal(outbox.offer(queued), queued) ?? Effect.void
      return wait((resume) => {
        queued.onAccepted = (outcome) => resume(outcome === "Accepted" ? Exit.void : Exit.fail(this.closed))
        const refusal = this.refusal(outbox.offer(queued), queued)
        if (refusal !== undefined) resume(Exit.fail(refusal))
        return () => outbox.takeBack(queued)
      })
    })

  readonly deliver = (message: Out): Effect.Effect<void, Undelivered> =>
    Effect.suspend((): Effect.Effect<void, Undelivered> => {
      const { outbox } = this.owner.wiring
      const encoded = this.queuedMessage(message)
      if (Either.isLeft(encoded)) return encoded
      const queued = encoded.right
      return wait((resume) => {
        queued.onDone = (outcome) => {
          if (outcome === "Done" || outcome === "TakenBack") return resume(Exit.void)
          if (outcome === "Undeliverable") {
            return resume(Exit.fail(new MessageUndeliverable({ resends: queued.losses - 1 })))
          }
          resume(Exit.fail(this.undelivered(outcome, queued)))
        }
        const refusal = this.refusal(outbox.offer(queued), queued)
        if (refusal !== undefined) resume(Exit.fail(refusal))
        return () => outbox.takeBack(queued)
      })
    })

  readonly request = <B>(message: Out, options: RequestOptions<In, B>): Effect.Effect<B, Unanswered> =>
    Effect.suspend((): Effect.Effect<B, Unanswered> => {
      const encoded = this.queuedMessage(message)
      if (Either.isLeft(encoded)) return Effect.fail(encoded.left)
      const queued = encoded.right
      const checked = timeLimit(options, () => kind("reply", options.reply, Predicate.isFunction, "must be a function"))
      if (Either.isLeft(checked)) return Effect.fail(checked.left)
      const limit = checked.right
      const replied = Effect.mapError(
        request(this.owner.wiring, queued, options.reply),
        (why) => this.undelivered(why, queued)
      )
      return within(replied, Duration.toMillis(limit), () => new RequestTimeout({ timeout: limit }))
    })

  private undelivered(
    why: NoReply,
    { bytes }: QueuedMessage<Out>
  ): OutboxFull | SocketClosed | MessageExpired | MessageLost {
    switch (why) {
      case "Full":
      case "Overflow":
        return new OutboxFull({ bytes })
      case "Expired":
        return new MessageExpired()
      case "Closed":
        return this.closed
      case "Lost":
      case "Undeliverable":
      case "TakenBack":
        return new MessageLost()
    }
  }

  private queuedMessage(message: Out): Either.Either<QueuedMessage<Out>, EncodeError | SocketClosed> {
    if (this.owner.wiring.orders.isClosing) return Either.left(this.closed)
    const data = this.encoded(message)
    if (Either.isLeft(data)) return Either.left(data.left)
    const { options, settings: { timeToLive } } = this.owner.wiring
    try {
      return Either.right(queuedMessage(message, data.right, {
        id: options.acknowledge?.id(message),
        expiresAt: timeToLive === Infinity ? Infinity : monotonic(this.owner.wiring.clock) + timeToLive
      }))
    } catch (cause) {
      return Either.left(new EncodeError({ cause }))
    }
  }

  encoded(message: Out): Either.Either<Message, EncodeError> {
    return Either.mapLeft(this.owner.wiring.settings.coding.encode(message), (cause) => new EncodeError({ cause }))
  }

  private refusal(offered: Offered, { bytes }: QueuedMessage<Out>): OutboxFull | SocketClosed | undefined {
    return offered === "Full" ? new OutboxFull({ bytes }) : offered === "Closed" ? this.closed : undefined
  }

  private get closed(): SocketClosed {
    return new SocketClosed({ socket: this.owner.wiring.telemetry.socket, info: this.owner.closeInfo })
  }

  get flush(): Effect.Effect<void, SocketClosed> {
    return Effect.flatMap(this.owner.wiring.outbox.flushed, (outcome) => outcome === "Done" ? Effect.void : this.closed)
  }

  readonly subscribe = <E = never>(
    given: SubscriptionOptions<Out, In, E>
  ): Effect.Effect<void, E | RequestTimeout | SocketClosed | EncodeError, Scope.Scope> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.suspend((): Effect.Effect<void, any, Scope.Scope> => {
        if (this.owner.wiring.orders.isClosing) return this.closed
        const joined = this.joined(given)
        if (Either.isLeft(joined)) return joined
        const subscription = joined.right
        const left = Effect.sync(() => this.owner.leave(subscription))
        const held = Effect.zipRight(restore(this.shown(subscription)), this.owner.hold(subscription))
        return Effect.onError(held, () => left).pipe(
          Effect.zipRight(Effect.addFinalizer(() => Effect.zipRight(Effect.sync(() => subscription.holders--), left)))
        )
      })
    )

  /** Becomes a user of the given subscription, or of an existing one with the same key. */
  private joined(given: SubscriptionOptions<Out, In, any>): Either.Either<Subscription<Out, In>, EncodeError> {
    return Either.gen(this, function*() {
      const limit = yield* timeLimit(given, () => functions(given, ["confirmed"]))
      const { close, confirmed, key, open } = given
      const opening = Effect.isEffect(open)
        ? open as Effect.Effect<Out, unknown>
        : { message: open, data: yield* this.encoded(open) }
      const closing = close === undefined ? undefined : yield* this.encoded(close)
      return yield* Either.try({
        try: () =>
          this.owner.join({
            open: opening,
            close: closing,
            key,
            confirmed,
            timeout: { millis: Duration.toMillis(limit), error: new RequestTimeout({ timeout: limit }) },
            users: 0,
            holders: 0
          }),
        catch: (cause) => new EncodeError({ cause })
      })
    })
  }

  private shown(subscription: Subscription<Out, In>): Effect.Effect<void, unknown> {
    return Effect.zipRight(
      this.owner.show(subscription),
      Effect.suspend(() => this.owner.wiring.orders.isClosing ? this.closed : Effect.void)
    )
  }

  // ---------------------------------------------------------------------------
  // in
  // ---------------------------------------------------------------------------

  get messages(): Stream.Stream<In, SocketFailed> {
    return this.consumed(Effect.suspend(() => this.owner.inbox.takeAll))
  }

  get received(): Stream.Stream<Received<In>, SocketFailed> {
    return this.consumed(Effect.suspend(() => this.owner.inbox.takeAllReceived))
  }

  /** Written as a channel, which costs a third less than the same made of streams. */
  private consumed<A>(
    takeAll: Effect.Effect<Chunk.Chunk<A>, Option.Option<ConnectionFailure>>
  ): Stream.Stream<A, SocketFailed> {
    type Read<E> = Channel.Channel<Chunk.Chunk<A>, unknown, E, unknown, unknown, unknown>
    const all: Read<Option.Option<ConnectionFailure>> = Channel.flatMap(
      Channel.fromEffect(takeAll),
      (taken) =>
        Channel.flatMap(
          taken.length <= maxChunk ? Channel.write(taken) : Channel.writeChunk(Chunk.chunksOf(taken, maxChunk)),
          () => all
        )
    )
    const untilEnd: Read<SocketFailed> = Channel.catchAll(
      all,
      (end) =>
        Option.match(end, {
          onNone: () => Channel.void,
          onSome: (failure) => Channel.fail(new SocketFailed({ socket: this.owner.wiring.telemetry.socket, failure }))
        })
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

  // ---------------------------------------------------------------------------
  // what it is doing, and orders
  // ---------------------------------------------------------------------------

  get state(): Effect.Effect<ConnectionState> {
    return Effect.sync(() => this.owner.state)
  }

  get stateChanges(): Stream.Stream<ConnectionState> {
    return this.owner.wiring.events.stateChanges(() => this.owner.state)
  }

  get events(): Stream.Stream<SocketEvent> {
    return this.owner.wiring.events.stream
  }

  get awaitOpen(): Effect.Effect<void, SocketClosed | SocketFailed> {
    return Effect.matchEffect(this.owner.untilOpen(), {
      onFailure: (info) => Effect.fail(endError(this.owner.wiring.telemetry.socket, info)),
      onSuccess: () => Effect.void
    })
  }

  readonly reconnect = (options?: ReconnectOptions): Effect.Effect<void> =>
    Effect.sync(() => this.owner.reconnect(options ?? {}))

  readonly close = (code = 1000, reason = ""): Effect.Effect<void> =>
    Effect.suspend(() => {
      this.owner.close(code, reason)
      return this.owner.untilClosed
    })
}

/**
 * How long an answer may take; `check` checks the other options. A caller without types may give anything.
 * `EncodeError` is the failure for a faulty call of which nothing was sent.
 */
const timeLimit = (
  options: { readonly timeout?: Duration.DurationInput | undefined },
  check: () => void
): Either.Either<Duration.Duration, EncodeError> =>
  Either.try({
    try: () => {
      const { timeout = "10 seconds" } = object("options", options)
      check()
      return duration("timeout", timeout, { min: 0, max: Duration.infinity })
    },
    catch: (cause) => new EncodeError({ cause })
  })
