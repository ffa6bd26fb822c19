/**
 * The subscriptions of a socket, and the state of each subscription on each connection.
 *
 * To show a subscription on a connection means to make its `open` message and send it there (in its turn if there is a
 * pace, see pace.ts), and to await the peer's answer if the subscription has a `confirmed`. Each `Shown` is settled
 * once, by success or failure. Users who wait get this outcome. Users who no longer wait learn of a failure by an
 * event.
 */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as MutableHashMap from "effect/MutableHashMap"
import * as Option from "effect/Option"
import type { ConnectionFailure, Message } from "../../WebSocketDialer.js"
import { within } from "../first.js"
import { forkIn } from "../fork.js"
import { Waiters } from "../waiters.js"
import type { LiveConnection } from "./connection.js"
import { RequestTimeout } from "./errors.js"
import { keyOf, throwUnlessCompared } from "./identifier.js"
import { queuedMessage } from "./outbox.js"
import { Pace, type Turn } from "./pace.js"
import type { Wiring } from "./wiring.js"

/** A subscription, shared by all users of one key. */
export interface Subscription<in out Out, in In> {
  /** The message with its frame, or an effect that makes a new message for each connection. */
  readonly open: { readonly message: Out; readonly data: Message } | Effect.Effect<Out, unknown>
  readonly close: Message | undefined
  readonly key: unknown
  readonly confirmed: ((message: In) => Option.Option<Either.Either<void, unknown>>) | undefined
  /** The time limit of the confirmation. */
  readonly timeout: { readonly millis: number; readonly error: unknown }
  /** How many users there are, including users that still wait until the subscription is settled. */
  users: number
  /** How many users no longer wait. */
  holders: number
}

/** The state of a subscription on one connection. */
class Shown<In> {
  readonly live: LiveConnection<In>
  isSent = false
  isWritten = false
  /** Whether the peer has refused the subscription, so that there is nothing to close. */
  isRefused = false
  /** Whether the last user has left. */
  isEnded = false
  outcome: Exit.Exit<void, unknown> | undefined
  /** Notified when the `open` message has been written, and when the subscription is settled. */
  readonly whenSettled = new Waiters()
  /** Stops awaiting the confirmation. */
  giveUp: (() => void) | undefined

  constructor(live: LiveConnection<In>) {
    this.live = live
  }
}

export class Subscriptions<Out, In> {
  private readonly wiring: Wiring<Out, In, any>
  /** All subscriptions, in the order in which they are sent on each new connection. */
  private readonly all = new Set<Subscription<Out, In>>()
  private byKey: MutableHashMap.MutableHashMap<unknown, Subscription<Out, In>> | undefined
  private readonly pace: Pace | undefined

  constructor(wiring: Wiring<Out, In, any>) {
    this.wiring = wiring
    const { rate } = wiring.settings
    this.pace = rate && new Pace(
      rate,
      () => wiring.clock.unsafeCurrentTimeMillis(),
      (effect) => forkIn(wiring.runtime, wiring.scope, effect)
    )
  }

  // ---------------------------------------------------------------------------
  // users
  // ---------------------------------------------------------------------------

  /** Adds a user of this subscription, or of an existing one with the same key. Throws what the key throws. */
  join(made: Subscription<Out, In>): Subscription<Out, In> {
    const subscription = this.withKey(made) ?? made
    subscription.users++
    this.all.add(subscription)
    return subscription
  }

  private withKey(made: Subscription<Out, In>): Subscription<Out, In> | undefined {
    if (made.key === undefined) return undefined
    const key = keyOf(made.key)
    const byKey = this.byKey ??= MutableHashMap.empty()
    const known = Option.getOrUndefined(MutableHashMap.get(byKey, key))
    throwUnlessCompared(key)
    if (known !== undefined && known.users > 0) return known
    MutableHashMap.set(byKey, key, made)
    return undefined
  }

  /** Removes a user. When the last user leaves, the subscription is closed on each connection on which it was sent. */
  leave(subscription: Subscription<Out, In>, connections: Iterable<LiveConnection<In>>): void {
    if (--subscription.users > 0) return
    this.all.delete(subscription)
    this.forgetKey(subscription)
    for (const live of connections) {
      const shown = live.shown?.get(subscription)
      if (shown === undefined) continue
      live.shown?.delete(subscription)
      shown.isEnded = true
      this.settle(subscription, shown, Exit.void)
      if (shown.isSent && !shown.isRefused && subscription.close !== undefined && live.failure === undefined) {
        this.sendClose(live, subscription.close)
      }
    }
  }

  /** A key that throws stays, and is replaced by the next subscription with an equal one. */
  private forgetKey({ key }: Subscription<Out, In>): void {
    if (this.byKey === undefined || key === undefined) return
    try {
      MutableHashMap.remove(this.byKey, keyOf(key))
    } catch {
      // The subscription must be closed nevertheless.
    }
  }

  /**
   * Shows the subscription on the open connection, unless that was done already, and waits until it is settled if it
   * can fail. If the connection is lost or replaced meanwhile, this ends: the next one shows the subscription anyway.
   */
  show(subscription: Subscription<Out, In>, open: LiveConnection<In> | undefined): Effect.Effect<void, unknown> {
    if (open === undefined) return Effect.void
    const known = open.shown?.get(subscription)
    // A subscription that has failed on this connection is tried again.
    const shown = known === undefined || known.outcome !== undefined && Exit.isFailure(known.outcome)
      ? this.start(subscription, open)
      : known
    if (shown.outcome !== undefined) return shown.outcome
    return this.settled(subscription, shown)
  }

  /** Waits until the subscription is settled on a connection on which it is shown already. */
  settledOn(subscription: Subscription<Out, In>, live: LiveConnection<In>): Effect.Effect<void, unknown> {
    const shown = live.shown?.get(subscription)
    return shown === undefined ? Effect.void : this.settled(subscription, shown)
  }

  private settled({ confirmed, open }: Subscription<Out, In>, shown: Shown<In>): Effect.Effect<void, unknown> {
    const { live } = shown
    if (!Effect.isEffect(open) && confirmed === undefined) return Effect.void
    return Waiters.until(
      () => shown.outcome ?? (live.failure === undefined && !live.isReplaced ? undefined : Exit.void),
      shown.whenSettled,
      live.whenLost
    )
  }

  // ---------------------------------------------------------------------------
  // a connection that opens
  // ---------------------------------------------------------------------------

  /** How many subscriptions there are on the connection, without those that have failed. */
  countOn(live: LiveConnection<In>): number {
    let count = 0
    for (const { outcome } of live.shown?.values() ?? []) if (outcome !== undefined && Exit.isSuccess(outcome)) count++
    return count
  }

  /**
   * Shows all subscriptions that are not on the connection yet. Waits until they are written, and confirmed if they
   * have a `confirmed`. `written` limits the time for the writing.
   */
  showAll<E>(
    live: LiveConnection<In>,
    written: (writing: Effect.Effect<void>) => Effect.Effect<void, E>
  ): Effect.Effect<void, E | ConnectionFailure> {
    return Effect.suspend(() => {
      const missing = [...this.all].filter((subscription) => live.shown?.has(subscription) !== true)
      if (missing.length === 0) return Effect.void
      const { combine } = this.wiring.options.subscriptions ?? {}
      const started = missing.map((subscription) => [subscription, this.shownOn(subscription, live)] as const)
      const each = Effect.forEach(started, ([subscription, shown]) => this.showing(subscription, shown), {
        discard: true
      })
      const isPlain = this.pace === undefined && missing.every(({ open }) => !Effect.isEffect(open))
      const sent = combine !== undefined && missing.length > 1
        ? this.combined(started, live)
        : isPlain
        ? Effect.sync(() => {
          for (const [subscription, shown] of started) {
            if (shown.isEnded) continue
            this.hand(subscription, shown, (subscription.open as { readonly data: Message }).data, undefined)
          }
        })
        : each
      const all = (is: (shown: Shown<In>) => boolean) =>
        Effect.forEach(started, ([, shown]) =>
          Waiters.until(
            () => is(shown) || live.failure !== undefined ? Exit.void : undefined,
            shown.whenSettled,
            live.whenLost
          ), { discard: true })
      return sent.pipe(
        Effect.zipRight(written(all(({ isSent, isWritten }) => isWritten || !isSent))),
        Effect.zipRight(all(({ outcome }) => outcome !== undefined)),
        Effect.zipRight(Effect.suspend(() => live.failure ?? this.showAll(live, written)))
      )
    })
  }

  /** Shows subscriptions that were added at the last moment, in the step in which the connection becomes open. */
  showMissing(live: LiveConnection<In>): void {
    for (const subscription of this.all) {
      if (live.shown?.has(subscription) !== true) this.start(subscription, live)
    }
  }

  /**
   * Called when another connection has replaced this one. What was not sent on this one is sent there only, and what
   * was not answered here counts as it is answered there.
   */
  replaced(live: LiveConnection<In>): void {
    live.isReplaced = true
    for (const { whenSettled } of live.shown?.values() ?? []) whenSettled.notify()
  }

  /** Shows several subscriptions with as few messages as the user's `combine` makes of them. */
  private combined(
    started: ReadonlyArray<readonly [Subscription<Out, In>, Shown<In>]>,
    live: LiveConnection<In>
  ): Effect.Effect<void> {
    return Effect.gen(this, function*() {
      const made: Array<readonly [Subscription<Out, In>, Shown<In>, Out, Message]> = []
      for (const [subscription, shown] of started) {
        const opened = yield* this.opened(subscription)
        if (Exit.isSuccess(opened)) made.push([subscription, shown, opened.value.message, opened.value.data])
        else this.settle(subscription, shown, opened)
      }
      const left = made.filter(([, { isEnded }]) => !isEnded)
      const combined = left.length < 2 ? undefined : this.combinedOf(left.map(([, , message]) => message))
      if (combined === undefined) {
        for (const [subscription, shown, , data] of left) {
          yield* this.inTurn(live, (turn) => !shown.isEnded && this.hand(subscription, shown, data, turn))
        }
        return
      }
      // Which message opens which subscription is not known: an answer may come from the first message on, and its time
      // runs from the last.
      for (const [at, data] of combined.entries()) {
        yield* this.inTurn(live, (turn) => {
          if (at === 0) { for (const [subscription, shown] of left) this.awaitAnswer(subscription, shown) }
          if (at < combined.length - 1) return this.send(live, data, turn)
          for (const [subscription, shown] of left) {
            this.limitAnswer(subscription, shown)
            if (!shown.isEnded) this.sent(subscription, shown)
          }
          return this.send(live, data, turn, {
            onWritten: () => {
              for (const [, shown] of left) written(shown)
            }
          })
        })
      }
      // The combined messages may contain subscriptions that ended before they were sent: these are closed.
      for (const [{ close }, { isEnded, isRefused, isSent }] of left) {
        if (isEnded && !isSent && !isRefused && close !== undefined) this.sendClose(live, close)
      }
    })
  }

  /** Undefined if the user's function throws, or if its result cannot be sent. */
  private combinedOf(opens: ReadonlyArray<Out>): ReadonlyArray<Message> | undefined {
    const { encode, events, options: { subscriptions } } = this.wiring
    return events.decided("combine", () => {
      const messages = subscriptions!.combine!(opens as [Out, ...Array<Out>])
      if (messages.length === 0) throw new TypeError("combined to nothing")
      return messages.map((message) => Either.getOrThrowWith(encode(message), (cause) => cause))
    }, undefined)
  }

  // ---------------------------------------------------------------------------
  // one subscription on one connection
  // ---------------------------------------------------------------------------

  private shownOn(subscription: Subscription<Out, In>, live: LiveConnection<In>): Shown<In> {
    const shown = new Shown(live)
    ;(live.shown ??= new Map()).set(subscription, shown)
    return shown
  }

  /** Sends the subscription in this step if possible, otherwise in a fiber of the connection. */
  private start(subscription: Subscription<Out, In>, live: LiveConnection<In>): Shown<In> {
    const shown = this.shownOn(subscription, live)
    const { open } = subscription
    const turn = Effect.isEffect(open) ? undefined : this.pace?.tryTake()
    if (!Effect.isEffect(open) && (this.pace === undefined || turn !== undefined)) {
      this.hand(subscription, shown, open.data, turn)
      return shown
    }
    this.fork(live, this.showing(subscription, shown))
    return shown
  }

  private showing(subscription: Subscription<Out, In>, shown: Shown<In>): Effect.Effect<void> {
    const { live } = shown
    const isOver = () => shown.isEnded || live.isReplaced || live.failure !== undefined
    return this.inTurn(
      live,
      (turn) =>
        isOver() ? Effect.succeed(false) : Effect.map(this.opened(subscription), (opened) => {
          if (isOver()) return false
          if (Exit.isSuccess(opened)) return this.hand(subscription, shown, opened.value.data, turn)
          this.settle(subscription, shown, opened)
          return false
        })
    )
  }

  /** Takes a turn, if there is a pace. `use` gives whether it has used the turn. */
  private inTurn(
    live: LiveConnection<In>,
    use: (turn: Turn | undefined) => boolean | Effect.Effect<boolean>
  ): Effect.Effect<void> {
    const used = (turn: Turn | undefined) =>
      Effect.suspend(() => {
        const isUsed = use(turn)
        return typeof isUsed === "boolean" ? Effect.succeed(isUsed) : isUsed
      })
    const { pace } = this
    if (pace === undefined) return Effect.asVoid(used(undefined))
    return Effect.suspend(() => {
      let turn: Turn | undefined
      let isUsed = false
      return Effect.ensuring(
        Effect.suspend(() => {
          if (live.failure !== undefined) return Effect.void
          turn = pace.ask()
          return Effect.flatMap(pace.until(turn), () =>
            Effect.map(used(turn), (is) => {
              isUsed = is
            }))
        }),
        Effect.sync(() => {
          if (turn !== undefined && !isUsed) pace.end(turn, false)
        })
      )
    })
  }

  /** Makes the message that opens the subscription on one connection. */
  private opened(
    { open }: Subscription<Out, In>
  ): Effect.Effect<Exit.Exit<{ readonly message: Out; readonly data: Message }, unknown>> {
    if (!Effect.isEffect(open)) return Effect.succeed(Exit.succeed(open))
    const { encode, settings: { openTimeout }, userEffects } = this.wiring
    return within(
      userEffects.run(open),
      openTimeout,
      () => new RequestTimeout({ timeout: Duration.millis(openTimeout) })
    ).pipe(
      Effect.flatMap((message) => Effect.map(encode(message), (data) => ({ message, data }))),
      Effect.exit
    )
  }

  private hand(
    subscription: Subscription<Out, In>,
    shown: Shown<In>,
    data: Message,
    turn: Turn | undefined
  ): true {
    this.sent(subscription, shown)
    return this.send(shown.live, data, turn, {
      // Not before: the message may wait behind a request, whose answer comes first.
      onHanded: () => {
        this.awaitAnswer(subscription, shown)
        this.limitAnswer(subscription, shown)
      },
      onWritten: () => written(shown),
      onDropped: () => {
        shown.isSent = false
        this.settle(subscription, shown, Exit.void)
      }
    })
  }

  private sent(subscription: Subscription<Out, In>, shown: Shown<In>): void {
    shown.isSent = true
    if (subscription.confirmed === undefined) this.settle(subscription, shown, Exit.void)
  }

  /** From now on the peer may answer. */
  private awaitAnswer(subscription: Subscription<Out, In>, shown: Shown<In>): void {
    const { confirmed } = subscription
    const { events } = this.wiring
    if (confirmed === undefined || shown.outcome !== undefined) return
    shown.giveUp = shown.live.awaiting.add((message, data) => {
      const answer = events.decided("confirmed", () => checked(confirmed(message)), Option.none(), data)
      if (Option.isNone(answer)) return false
      shown.isRefused = Either.isLeft(answer.value)
      this.settle(subscription, shown, Either.isLeft(answer.value) ? Exit.fail(answer.value.left) : Exit.void)
      return true
    })
  }

  /** From now on the time for the answer runs. */
  private limitAnswer(subscription: Subscription<Out, In>, shown: Shown<In>): void {
    const { confirmed, timeout } = subscription
    if (confirmed === undefined || shown.outcome !== undefined) return
    const giveUpAnswer = shown.giveUp
    const late = Effect.sync(() => this.settle(subscription, shown, Exit.fail(timeout.error)))
    const timer = this.fork(shown.live, Effect.zipRight(Effect.sleep(timeout.millis), late))
    shown.giveUp = () => {
      giveUpAnswer?.()
      timer.unsafeInterruptAsFork(FiberId.none)
    }
  }

  private settle(subscription: Subscription<Out, In>, shown: Shown<In>, outcome: Exit.Exit<void, unknown>): void {
    if (shown.outcome !== undefined) return
    shown.outcome = outcome
    shown.giveUp?.()
    if (Exit.isFailure(outcome) && subscription.holders > 0 && !shown.live.isReplaced) {
      const error = Cause.squash(outcome.cause)
      this.wiring.events.publish({ _tag: "SubscriptionFailed", key: subscription.key, error })
    }
    shown.whenSettled.notify()
  }

  private sendClose(live: LiveConnection<In>, data: Message): void {
    const { pace } = this
    const turn = pace?.tryTake()
    if (pace === undefined || turn !== undefined) this.send(live, data, turn)
    else this.fork(live, this.inTurn(live, (turn) => this.send(live, data, turn)))
  }

  /**
   * Queues the message behind earlier messages, for this connection only: it is dropped if the connection is lost or
   * replaced meanwhile. While a connection opens, or after it was replaced, the message is sent directly.
   */
  private send(
    live: LiveConnection<In>,
    data: Message,
    turn: Turn | undefined,
    { onDropped, onHanded, onWritten }: {
      /** Called before the message is written. */
      readonly onHanded?: () => void
      readonly onWritten?: () => void
      readonly onDropped?: () => void
    } = {}
  ): true {
    const { outbox } = this.wiring
    const endTurn = (isUsed: boolean) => {
      if (turn !== undefined) this.pace?.end(turn, isUsed)
    }
    if (outbox.isFor(live)) {
      const queued = queuedMessage(undefined as Out, data, { only: live })
      queued.onHanded = onHanded
      queued.onDone = (outcome) => {
        // A message that was handed to a lost connection may have arrived.
        endTurn(queued.times > 0)
        if (outcome === "Done") onWritten?.()
        else onDropped?.()
      }
      outbox.offer(queued)
    } else {
      onHanded?.()
      const forget = turn && live.onceLost(() => endTurn(true))
      live.send(data, () => {
        forget?.()
        endTurn(true)
        onWritten?.()
      })
    }
    return true
  }

  private fork(live: LiveConnection<In>, effect: Effect.Effect<void>): Fiber.RuntimeFiber<void> {
    return forkIn(this.wiring.runtime, live.scope!, effect)
  }
}

const written = (shown: Shown<any>): void => {
  shown.isWritten = true
  shown.whenSettled.notify()
}

const checked = <E>(
  answer: Option.Option<Either.Either<void, E>>
): Option.Option<Either.Either<void, E>> => {
  if (Option.isOption(answer) && (Option.isNone(answer) || Either.isEither(answer.value))) return answer
  throw new TypeError("confirmed by neither none nor some Either")
}

export type { Shown }
