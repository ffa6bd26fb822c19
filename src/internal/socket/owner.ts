/**
 * The owner of a reconnecting socket: the one fiber that opens, keeps and replaces its connection.
 *
 * `run` goes round by round. A round dials a connection, makes it ready, stays while it is open, and returns how it
 * ended. A `switch` on that decides what follows:
 *
 *   Closing   `close` was called                the socket is closed
 *   Ordered   `reconnect` was called            the next round, immediately
 *   Paced     `reconnect` was called            the next round, after the backoff's delay
 *   Refused   the dial failed                   the next round, immediately with a fresh value of the session, else
 *   Lost      a dialed connection has ended     after the backoff's delay; the socket fails if there is none
 *
 * **Design card.** The state is a union that only the pure `next` moves (phase.ts). There is one write at a time, as
 * under a `Semaphore(1)` (writer.ts). Reconnects wait as `Schedule.exponential` says, capped (Backoff, retries.ts).
 * Nothing is held across a dial, a login, a backoff or a user's callback.
 *
 * Where Effect's primitives are not enough: waits use `Waiters`, which check and register in one step, so that no order
 * is missed between the two. Races use `first`, since the races of Effect 3.22 can hang if they are interrupted while
 * they start.
 */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"
import type { CloseInfo, ConnectionState, ReconnectOptions } from "../../ReconnectingSocket.js"
import { type Connection, type ConnectionFailure, ConnectionLost, type Message } from "../../WebSocketDialer.js"
import { first, within } from "../first.js"
import { monotonic } from "../monotonic.js"
import { UserEffects } from "../userEffects.js"
import { wait } from "../wait.js"
import { Waiters } from "../waiters.js"
import { type InboxEnd, LiveConnection } from "./connection.js"
import { Dialing } from "./dialing.js"
import { Events } from "./events.js"
import { Heartbeat } from "./heartbeat.js"
import { Inbox } from "./inbox.js"
import { closeGrace, type Line, Lines } from "./lines.js"
import { ready } from "./opening.js"
import { Orders } from "./orders.js"
import { Outbox, type Outcome, type QueuedMessage } from "./outbox.js"
import { move, type Phase, type PhaseEvent, stateOf } from "./phase.js"
import * as Policy from "./policy.js"
import { Reader } from "./reader.js"
import { type Failed, Replacements } from "./replacement.js"
import { Retries } from "./retries.js"
import { mebi } from "./settings.js"
import { type Subscription, Subscriptions } from "./subscriptions.js"
import { Telemetry } from "./telemetry.js"
import type { Given, Wiring } from "./wiring.js"
import { Writer } from "./writer.js"

/** How a round ended. The connection, if there was one, has ended too, and its `Lost` event is published. */
type RoundEnd<In> =
  | { readonly _tag: "Closing" }
  | { readonly _tag: "Ordered" }
  | { readonly _tag: "Paced"; readonly failure: ConnectionFailure }
  /** `all` has the line that has failed, after the one before it that was lost while this one opened, if any. */
  | { readonly _tag: "Refused" | "Lost"; readonly failure: ConnectionFailure; readonly all: ReadonlyArray<Failed<In>> }

/** The last line of a round, and why it is over. Without a failure an order has ended it. */
interface Ended<in out In> {
  readonly line: Line<In>
  readonly failure: ConnectionFailure | undefined
  /** How many milliseconds the socket was open; negative if it was not. */
  readonly openFor: number
  /** The connection that was lost while this line was being opened as its replacement. */
  readonly before?: Failed<In>
}

export class Owner<Out, In, R> {
  readonly wiring: Wiring<Out, In, R>
  /** The messages from connections that were ready. */
  readonly inbox: Inbox<In, InboxEnd>
  /** Notified when the phase changes. */
  readonly whenMoved = new Waiters()

  private readonly subscriptions: Subscriptions<Out, In>
  private readonly lines: Lines<In>
  private readonly dialing: Dialing<R>
  private readonly retries: Retries
  private readonly replacements: Replacements<In, R>
  private readonly reader: Reader<Out, In>

  /** Changed only by `move`: on the owner's fiber, or on the fiber of the replacement that the owner waits for. */
  private phase: Phase<LiveConnection<In>> = { _tag: "Dialing", attempt: 0 }
  /** How many delays there have been since the backoff last started. */
  private attempt = 0
  /** Why the last attempt, or the last connection, ended. */
  private previous: Option.Option<ConnectionFailure> = Option.none()
  /** Whether each connection keeps its messages for the run that is attached to it (platform.ts). */
  private isPlatformSocket = false
  /** The number of the next connection whose messages users get. */
  private numbers = 0

  constructor(given: Given<Out, In, R>) {
    const { clock, dialer, encode, options, runtime, scope, settings } = given
    const telemetry = new Telemetry(runtime, options.name)
    telemetry.showState(this.phase._tag)
    // Written without a spread, because each spread object has its own hidden class of half a kilobyte.
    const wiring = this.wiring = {
      options,
      settings,
      encode,
      dialer,
      scope,
      runtime,
      clock,
      orders: new Orders(),
      events: new Events(telemetry),
      telemetry,
      userEffects: new UserEffects(),
      outbox: new Outbox<Out>(settings.limits, {
        now: () => this.now(),
        onChanged: (held) => telemetry.show(held),
        onUndelivered: (message, outcome) => this.gaveUp(message, outcome),
        resent: (message, times) => this.resent(message, times)
      })
    }
    this.inbox = this.newInbox()
    this.subscriptions = new Subscriptions(wiring)
    const lines = this.lines = new Lines(wiring)
    const dialing = this.dialing = new Dialing(wiring)
    const retries = this.retries = new Retries(wiring)
    const open = (line: Line<In>) => this.open(line)
    const discard = (line: Line<In>) => this.discard(line)
    this.replacements = new Replacements({ wiring, lines, dialing, retries, open, discard })
    this.reader = new Reader(wiring)
  }

  // ---------------------------------------------------------------------------
  // rounds
  // ---------------------------------------------------------------------------

  get run(): Effect.Effect<void, never, R> {
    return Effect.gen(this, function*() {
      for (;;) {
        const ended = yield* this.round
        switch (ended._tag) {
          case "Closing":
            return yield* this.conclude({ ...this.wiring.orders.closing!, failure: Option.none() })
          case "Ordered":
            break
          case "Paced":
            if (yield* this.waitAfter(ended.failure)) break
            return yield* this.conclude(Policy.closeInfoOf(ended.failure))
          case "Refused":
          case "Lost": {
            const answer = this.answerTo(ended.all)
            if (answer === "refresh" || answer === "retry" && (yield* this.waitAfter(ended.failure))) break
            return yield* this.conclude(Policy.closeInfoOf(typeof answer === "object" ? answer : ended.failure))
          }
        }
      }
    }).pipe(
      Effect.onExit((exit) => {
        if (Exit.isSuccess(exit) || Exit.isInterrupted(exit)) {
          return Effect.sync(() => this.becomeClosed({ code: 1000, reason: "", failure: Option.none() }))
        }
        // Only a fault of this library or of a transport can lead here.
        this.becomeClosed(Policy.closeInfoOf(new ConnectionLost({ reason: "Reset", cause: Cause.squash(exit.cause) })))
        return Effect.logError("a reconnecting socket has died", exit.cause)
      }),
      Effect.ensuring(this.lines.releaseAll)
    )
  }

  private get round(): Effect.Effect<RoundEnd<In>, never, R> {
    return Effect.suspend(() => {
      const { events, orders } = this.wiring
      if (orders.closing !== undefined) return Effect.succeed<RoundEnd<In>>({ _tag: "Closing" })
      orders.answerByDial()
      this.move({ _tag: "Dial", attempt: this.attempt })
      events.publish({ _tag: "Dialing", attempt: this.attempt })
      return Effect.flatMap(
        this.lines.make({ attempt: this.attempt, previous: this.previous }),
        (line) =>
          Effect.matchEffect(this.open(line, true), {
            onFailure: (failure) => this.endRound({ line, failure, openFor: -1 }),
            onSuccess: () => this.beOpen(line)
          })
      )
    })
  }

  private beOpen(opened: Line<In>): Effect.Effect<RoundEnd<In>, never, R> {
    this.becomeOpen(opened)
    return Effect.flatMap(this.stay(opened), (ended) => this.endRound(ended))
  }

  private endRound({ before, failure, line, openFor }: Ended<In>): Effect.Effect<RoundEnd<In>> {
    return Effect.gen(this, function*() {
      const { orders, outbox } = this.wiring
      const { closing } = orders
      if (closing !== undefined) {
        const isOpen = this.phase._tag === "Open"
        if (isOpen) outbox.drainTo(line.live!)
        const replacement = yield* Effect.forkIn(
          this.replacements.close(closing.code, closing.reason),
          this.wiring.scope
        )
        yield* this.lines.close(
          line,
          closing.code,
          closing.reason,
          isOpen ? Effect.asVoid(outbox.flushed) : Effect.void
        )
        yield* Fiber.await(replacement)
        return { _tag: "Closing" as const }
      }
      const order = orders.takeReconnect()
      // Messages that come while this connection is being closed wait for the next one.
      if (order !== undefined) outbox.stopDraining()
      if (order?.code !== undefined) yield* this.lines.sendClose(line, order.code, order.reason)
      yield* this.discard(line)
      yield* this.replacements.drop
      const own = told(line.live, failure)
      const reason = own ?? new ConnectionLost({ reason: "Reset", cause: "reconnect" })
      this.previous = Option.some(reason)
      this.publishLoss(line, reason)
      const isStable = this.noteOpenFor(openFor)
      const all = [...before === undefined ? [] : [before], ...own === undefined ? [] : [{ line, failure: own }]]
      if (order !== undefined) {
        for (const { failure, line } of all) this.dialing.isToRefresh(failure, line)
        // An order that came while the connection was closed and released is one with the order that ended it.
        const { backoff } = orders.takeReconnect() ?? order
        const isPaced = backoff ?? !isStable
        return isPaced ? { _tag: "Paced" as const, failure: reason } : { _tag: "Ordered" as const }
      }
      for (const { failure } of all) this.retries.note(failure)
      return { _tag: line.live === undefined ? "Refused" as const : "Lost" as const, failure: reason, all }
    })
  }

  /** Gives the failure if it is final. Of several failures the first that is not just retried decides. */
  private answerTo(all: ReadonlyArray<Failed<In>>): "refresh" | "retry" | ConnectionFailure {
    for (const { failure, line } of all) {
      if (this.dialing.isToRefresh(failure, line)) return "refresh"
      if (!this.retries.isRetryable(failure)) return failure
    }
    return "retry"
  }

  /** If the socket was open for long enough, the next failure is again the first one. Gives whether it was. */
  private noteOpenFor(millis: number): boolean {
    const isStable = millis >= this.wiring.settings.stableAfter
    if (isStable) {
      this.retries.reset()
      this.dialing.reset()
      this.attempt = 0
    }
    return isStable
  }

  private publishLoss({ live }: Line<In>, failure: ConnectionFailure): void {
    if (live === undefined || live.isLossPublished) return
    live.isLossPublished = true
    this.wiring.events.publish({ _tag: "Lost", failure })
  }

  /** Waits for the backoff's next delay, or for an order. Gives false if there will be no next round. */
  private waitAfter(failure: ConnectionFailure): Effect.Effect<boolean> {
    return Effect.gen(this, function*() {
      const { orders } = this.wiring
      const delay = yield* orders.orToGoOn(this.retries.delayAfter(failure), immediately)
      if (Option.isNone(delay)) return false
      const attempt = ++this.attempt
      const until = this.now() + delay.value
      this.move({ _tag: "Wait", until, failure, attempt })
      this.wiring.events.publish({ _tag: "Waiting", delay: Duration.millis(delay.value), until, failure, attempt })
      const { wake } = this.wiring.dialer
      const waited = wake === undefined ? Effect.sleep(delay.value) : first(Effect.sleep(delay.value), woken(wake))
      yield* orders.orToGoOn(waited, Exit.void)
      orders.takeReconnect()
      return true
    })
  }

  /** The only place where the phase changes. */
  private move(event: PhaseEvent<LiveConnection<In>>): void {
    const moved = move(this.phase, event)
    if (moved === this.phase) return
    this.phase = moved
    this.wiring.events.publishState(stateOf(moved))
    this.whenMoved.notify()
  }

  now(): number {
    return this.wiring.clock.unsafeCurrentTimeMillis()
  }

  // ---------------------------------------------------------------------------
  // opening
  // ---------------------------------------------------------------------------

  /**
   * Dials, and makes the connection ready: until then only the user's login and the subscriptions are sent on it. Fails
   * with `undefined` if an order calls it off. A replacement cannot be called off.
   */
  private open(line: Line<In>, canBeCalledOff = false): Effect.Effect<void, ConnectionFailure | undefined, R> {
    const unlessOff = <A, E>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | undefined, R> =>
      canBeCalledOff ? this.wiring.orders.orOrdered(effect, calledOff) : effect
    const { ready: isReady, wake } = this.wiring.dialer
    const dialed = isReady === undefined
      ? this.dialing.dial(line)
      : Effect.zipRight(Effect.catchAllCause(isReady, () => Effect.void), this.dialing.dial(line))
    return Effect.flatMap(unlessOff(dialed), (connection) => {
      const live = this.connected(line, connection)
      // A replacement's dial changes no state, unless the connection that it was to replace is gone.
      if (this.phase._tag === "Dialing") this.move({ _tag: "Dialed", connection: live })
      return connection.listen({
        onMessage: (message) => this.reader.hear(live, message),
        onControl: (frame) => {
          live.heard(this.now())
          if (frame === "Pong") live.heartbeat?.hearPong(true)
        },
        onEnd: (failure) => live.fail(failure)
      }).pipe(
        Effect.zipRight(new Writer(live, this.wiring, line.scope).start),
        Effect.zipRight(live.heartbeat!.start),
        Effect.zipRight(
          wake === undefined
            ? Effect.void
            : Effect.forkIn(Effect.forever(Effect.zipRight(woken(wake), live.heartbeat!.askNow)), line.scope)
        ),
        Effect.zipRight(unlessOff(
          ready(this.wiring, this.subscriptions, line, live, {
            end: (options) => this.giveUpLine(line, live, options),
            // A connection that cannot be paused must not wait for its subscriptions with a full inbox.
            onLoggedIn: () => {
              if (!live.canPause && !this.isPlatformSocket && this.isOpening(live)) this.takeMessagesOf(live)
            }
          })
        ))
      )
    })
  }

  /** The login's `end`. If the connection is not the current one but a replacement, say, only this connection ends. */
  private giveUpLine(line: Line<In>, live: LiveConnection<In>, options: ReconnectOptions): Effect.Effect<void> {
    return Effect.suspend(() => {
      const { phase } = this
      if ((phase._tag === "Opening" || phase._tag === "Open") && phase.connection === live) {
        this.reconnect(options)
        return Effect.void
      }
      const closed = options.code === undefined ? Effect.void : this.lines.sendClose(line, options.code, options.reason)
      return Effect.zipRight(
        closed,
        Effect.sync(() => live.fail(new ConnectionLost({ reason: "Reset", cause: "given up by onOpen" })))
      )
    })
  }

  private connected(line: Line<In>, connection: Connection): LiveConnection<In> {
    const early = this.newInbox()
    const live = new LiveConnection(connection, early, this.now(), Runtime.runFork(this.wiring.runtime))
    live.scope = line.scope
    live.heartbeat = new Heartbeat(live, this.wiring, line.scope)
    live.maxPayload = line.maxPayload
    live.isLoggingIn = this.wiring.options.onOpen !== undefined
    live.onceLost(() => early.end(Exit.fail(Option.none())))
    this.lines.connect(line, live)
    this.reader.attach(live)
    return live
  }

  /** All of this is one step, so that no subscription and no message comes in between. */
  private becomeOpen({ live }: Line<In>): void {
    if (live === undefined) return
    this.subscriptions.showMissing(live)
    this.takeMessagesOf(live)
    this.move({ _tag: "Ready", connection: live, since: this.now() })
    this.wiring.events.publish({ _tag: "Opened", protocol: live.connection.protocol })
    const subscriptions = this.subscriptions.countOn(live)
    if (subscriptions > 0) this.wiring.events.publish({ _tag: "Resubscribed", subscriptions })
    this.wiring.outbox.drainTo(live)
  }

  private isOpening(live: LiveConnection<In>): boolean {
    return this.phase._tag === "Opening" && this.phase.connection === live
  }

  /** From now on this connection's messages go to `messages`, and so do those that its login did not receive. */
  private takeMessagesOf(live: LiveConnection<In>): void {
    if (this.isPlatformSocket) live.inbox.dropServed()
    else if (live.inbox !== this.inbox) {
      this.giveUnreadOf(live)
      live.inbox = this.inbox
    }
    if (!live.inbox.isFull) live.resume(this.now())
    else if (!this.wiring.orders.isClosing) live.pause()
  }

  /**
   * Drops the connection. If it never became ready, the messages that its login did not receive still go to `messages`,
   * even beyond the inbox's capacity: the login of the next connection may ask for the messages after them.
   */
  private discard(line: Line<In>): Effect.Effect<void> {
    return Effect.zipRight(
      this.lines.drop(line),
      Effect.sync(() => {
        const { live } = line
        if (live === undefined || live.inbox === this.inbox || this.isPlatformSocket) return
        if (live.inbox.hasUnread && !this.inbox.isFullOfBytes && !this.wiring.orders.isClosing) this.giveUnreadOf(live)
      })
    )
  }

  /** Adds a border to the inbox, and after it the messages that came in before the connection was ready. */
  private giveUnreadOf(live: LiveConnection<In>): void {
    live.number = this.numbers++
    this.inbox.pushBorder(live.number)
    this.inbox.pushAll(live.inbox, live.number)
  }

  private newInbox(): Inbox<In, InboxEnd> {
    return new Inbox(this.wiring.settings.inboxCapacity, 16 * mebi, () => {
      for (const live of this.lines.connections) live.resume(this.now())
    })
  }

  // ---------------------------------------------------------------------------
  // being open
  // ---------------------------------------------------------------------------

  /** Ends when the connection, or the last one that has taken its place, is over. */
  private stay(opened: Line<In>): Effect.Effect<Ended<In>, never, R> {
    const { clock, orders, settings: { renewAfter } } = this.wiring
    return Effect.gen(this, function*() {
      let line = opened
      let since = monotonic(clock)
      let isFirst = true
      for (;;) {
        const live = line.live!
        // A replacement that is ready is left if an order has come, or the connection was lost, before it took over.
        const stopRenewing = renewAfter === undefined || this.replacements.ready !== undefined
          ? Effect.void
          : Fiber.interrupt(yield* Effect.forkIn(this.replacements.make(renewAfter, isFirst), this.wiring.scope))
        yield* this.untilReplaceable(live)
        const { ready } = this.replacements
        if (live.failure === undefined && ready !== undefined && !orders.isOrdered) {
          isFirst = yield* this.replace(line, ready)
          if (isFirst) line = ready
          continue
        }
        const openFor = monotonic(clock) - since
        if (live.failure === undefined) {
          yield* stopRenewing
          return { line, failure: undefined, openFor }
        }
        const next = yield* this.insteadOf({ line, failure: told(live, live.failure) }, openFor)
        yield* stopRenewing
        if (Either.isLeft(next)) return next.left
        this.noteOpenFor(openFor)
        line = next.right
        since = monotonic(clock)
        isFirst = true
      }
    })
  }

  /**
   * Called when the connection is lost. Its replacement takes over if it is ready, and is waited for if it is being
   * opened: it may be the reason for the loss, since some servers allow only one login. Gives the line that is open
   * now, or the one that is over.
   */
  private insteadOf(lost: Failed<In>, openFor: number): Effect.Effect<Either.Either<Line<In>, Ended<In>>> {
    const { replacements, wiring: { orders } } = this
    return Effect.gen(this, function*() {
      yield* this.lines.drop(lost.line)
      const { opening } = replacements
      if (orders.isOrdered || opening === undefined && replacements.ready === undefined) {
        return Either.left({ ...lost, openFor })
      }
      this.publishLoss(lost.line, lost.failure)
      if (opening !== undefined) {
        this.move({ _tag: "Dial", attempt: 0 })
        if (opening.live !== undefined) this.move({ _tag: "Dialed", connection: opening.live })
        yield* replacements.untilOpened()
      }
      const failed = replacements.takeFailed()
      if (failed !== undefined) return Either.left({ ...failed, openFor, before: lost })
      const ordered = replacements.takeOpening()
      if (ordered !== undefined) {
        return Either.left({ line: ordered, failure: ordered.live?.failure, openFor, before: lost })
      }
      const ready = replacements.ready!
      const { failure } = ready.live!
      if (failure === undefined && !orders.isOrdered) {
        replacements.ready = undefined
        this.becomeOpen(ready)
        return Either.right(ready)
      }
      // A replacement that was never waited for was never the connection.
      if (opening === undefined) {
        if (failure !== undefined) this.dialing.noteRejection(failure, ready)
        return Either.left({ ...lost, openFor })
      }
      replacements.ready = undefined
      return Either.left({ line: ready, failure, openFor, before: lost })
    })
  }

  private untilReplaceable(live: LiveConnection<In>): Effect.Effect<void> {
    const { replacements, wiring: { orders } } = this
    const isOver = () => live.failure !== undefined || orders.isOrdered || replacements.ready !== undefined
    return Waiters.until(
      () => isOver() ? Exit.void : undefined,
      live.whenLost,
      orders.whenOrdered,
      replacements.whenChanged
    )
  }

  // ---------------------------------------------------------------------------
  // replacing
  // ---------------------------------------------------------------------------

  /** Replaces the connection, unless one of the two is lost or an order has come. Gives whether it was replaced. */
  private replace(line: Line<In>, replacement: Line<In>): Effect.Effect<boolean> {
    const { orders, outbox, settings } = this.wiring
    const live = line.live!
    const next = replacement.live!
    const isOff = () => live.failure !== undefined || next.failure !== undefined || orders.isOrdered
    const off = Waiters.until(() => isOff() ? Exit.void : undefined, live.whenLost, next.whenLost, orders.whenOrdered)
    return Effect.gen(this, function*() {
      outbox.stopDraining()
      yield* first(live.idle, off)
      if (settings.limits.keeps) yield* within(first(outbox.handedGone, off), closeGrace, () => Effect.void)
      if (isOff()) {
        if (!orders.isOrdered) outbox.drainTo(live)
        if (next.failure === undefined) return false
        this.replacements.ready = undefined
        this.dialing.noteRejection(next.failure, replacement)
        yield* this.discard(replacement)
        return false
      }
      this.replacements.ready = undefined
      outbox.release(live, false)
      this.becomeOpen(replacement)
      this.subscriptions.replaced(live)
      yield* this.replacements.retire(line)
      return true
    })
  }

  // ---------------------------------------------------------------------------
  // the end
  // ---------------------------------------------------------------------------

  private conclude(info: CloseInfo): Effect.Effect<void> {
    return Effect.zipRight(
      this.replacements.dropReplaced,
      Effect.sync(() => this.becomeClosed(info))
    )
  }

  private becomeClosed(info: CloseInfo): void {
    if (this.phase._tag === "Closed") return
    this.move({ _tag: "Close", info })
    this.wiring.orders.end()
    this.wiring.outbox.close()
    this.wiring.events.publish({ _tag: "Closed", info })
    this.inbox.end(Exit.fail(info.failure))
    this.wiring.events.end()
    this.wiring.telemetry.close()
  }

  // ---------------------------------------------------------------------------
  // for the socket's users
  // ---------------------------------------------------------------------------

  get state(): ConnectionState {
    return stateOf(this.phase)
  }

  /** How the socket was closed, or is being closed. */
  get closeInfo(): CloseInfo {
    if (this.phase._tag === "Closed") return this.phase.info
    return { code: 1000, reason: "", ...this.wiring.orders.closing, failure: Option.none() }
  }

  /** Waits until a connection other than this one is open. Fails when the socket is closed. */
  untilOpen(than?: LiveConnection<In>): Effect.Effect<LiveConnection<In>, CloseInfo> {
    return Waiters.until((): Exit.Exit<LiveConnection<In>, CloseInfo> | undefined => {
      const { phase } = this
      if (phase._tag === "Closed") return Exit.fail(phase.info)
      return phase._tag === "Open" && phase.connection !== than ? Exit.succeed(phase.connection) : undefined
    }, this.whenMoved)
  }

  get untilClosed(): Effect.Effect<void> {
    return Waiters.until(() => this.phase._tag === "Closed" ? Exit.void : undefined, this.whenMoved)
  }

  /** Orders the closing, which goes on even if no fiber waits for it. */
  close(code: number, reason: string): void {
    this.wiring.orders.close(code, reason)
    this.wiring.outbox.refuse()
  }

  reconnect(options: ReconnectOptions): void {
    this.wiring.orders.reconnect(options)
  }

  /** Closes the socket at the end of its scope. Neither a stopped clock nor a finalizer of the user can block this. */
  get closeWithScope(): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.close(1000, "")
      return wait<void>((resume) => {
        const timer = setTimeout(() => resume(Exit.void), closeGrace)
        const stop = () => {
          clearTimeout(timer)
          resume(Exit.void)
        }
        const isOver = () => this.phase._tag === "Closed" && this.lines.isReleased
        Waiters.watch(() => isOver() ? true : undefined, stop, this.whenMoved, this.wiring.userEffects.whenIdle)
        return stop
      })
    })
  }

  /** Adds a user of the subscription, or of an existing one with the same key. Throws what the key throws. */
  join(subscription: Subscription<Out, In>): Subscription<Out, In> {
    return this.subscriptions.join(subscription)
  }

  /**
   * Waits until the subscription is settled on the open connection, if there is one. If the connection is replaced
   * meanwhile, this waits for the next one instead. If it is being replaced, or was lost, a refusal on the next
   * connection counts, too. After this, the user calls `hold`.
   */
  show(subscription: Subscription<Out, In>): Effect.Effect<void, unknown> {
    return Effect.suspend(() => {
      const open = this.openConnection
      return Effect.flatMap(this.subscriptions.show(subscription, open), () => this.shown(subscription, open))
    })
  }

  /** Called when the subscription is settled on the connection `former`, or that one is lost or replaced. */
  private shown(
    subscription: Subscription<Out, In>,
    former: LiveConnection<In> | undefined
  ): Effect.Effect<void, unknown> {
    return Effect.suspend(() => {
      const { openConnection: open } = this
      const refusal = this.refusalOf(subscription)
      if (refusal !== undefined) return refusal
      if (former?.isReplaced !== true || open === undefined) return Effect.void
      return Effect.flatMap(this.subscriptions.settledOn(subscription, open), () => this.shown(subscription, open))
    })
  }

  /**
   * From now on a user of the subscription learns of its failures by events. Fails if the subscription has failed just
   * now: each failure is told by one of the two.
   */
  hold(subscription: Subscription<Out, In>): Effect.Effect<void, unknown> {
    return Effect.suspend(() => {
      const refusal = this.refusalOf(subscription)
      if (refusal === undefined) subscription.holders++
      return refusal ?? Effect.void
    })
  }

  /**
   * How the subscription has failed on a connection that is open or being opened. On the first connection after a loss,
   * a failure counts only if no other user of the subscription has learnt of it.
   */
  private refusalOf(subscription: Subscription<Out, In>): Exit.Exit<void, unknown> | undefined {
    const { phase, replacements: { opening, ready } } = this
    const connecting = phase._tag === "Opening" && subscription.holders === 0 ? phase.connection : undefined
    for (const live of [this.openConnection, connecting, ready?.live, opening?.live]) {
      const outcome = live?.shown?.get(subscription)?.outcome
      if (outcome !== undefined && Exit.isFailure(outcome)) return outcome
    }
    return undefined
  }

  leave(subscription: Subscription<Out, In>): void {
    this.subscriptions.leave(subscription, this.lines.connections)
  }

  private get openConnection(): LiveConnection<In> | undefined {
    const { phase } = this
    return phase._tag === "Open" && phase.connection.failure === undefined ? phase.connection : undefined
  }

  /** Drops messages that expire while there is no connection whose writer would notice it. */
  get expiring(): Effect.Effect<void> {
    const { clock, outbox, settings } = this.wiring
    return Effect.forever(Effect.suspend(() => {
      const now = monotonic(clock)
      outbox.expire(now)
      const next = outbox.nextExpiry ?? now + settings.timeToLive
      return Effect.sleep(Math.max(1, Math.ceil(next - now)))
    }))
  }

  private gaveUp({ message }: QueuedMessage<Out>, outcome: Outcome): void {
    switch (outcome) {
      case "Expired":
        return this.wiring.events.publish({ _tag: "Expired", message })
      case "Overflow":
      case "Lost":
      case "Undeliverable":
      case "Closed":
        return this.wiring.events.publish({ _tag: "Dropped", message, reason: outcome })
    }
  }

  /** Makes the frame for sending the message again, if the user wants a different one. */
  private resent(message: Out, times: number): Message | undefined {
    const { events, options: { acknowledge }, settings: { coding } } = this.wiring
    const resent = acknowledge?.resent
    if (resent === undefined) return undefined
    return events.decided("resent", () => {
      const encoded = coding.encode(resent(message, times))
      if (Either.isLeft(encoded)) throw encoded.left
      return encoded.right
    }, undefined)
  }

  // ---------------------------------------------------------------------------
  // for platform.ts
  // ---------------------------------------------------------------------------

  /** From now on each connection keeps its own incoming messages. */
  keepApart(): void {
    if (this.isPlatformSocket) return
    this.isPlatformSocket = true
    if (this.phase._tag !== "Open" && this.phase._tag !== "Opening") return
    const { connection } = this.phase
    if (connection.inbox !== this.inbox) return
    const inbox = this.newInbox()
    inbox.pushAll(this.inbox, connection.number)
    connection.inbox = inbox
    connection.onceLost(() => inbox.end(Exit.fail(Option.none())))
  }

  /** Reconnects if this connection is the open one. A connection that is lost is left to the backoff. */
  giveUp(live: LiveConnection<In>): void {
    if (this.openConnection === live) this.reconnect({ backoff: false })
  }
}

const calledOff = Exit.fail(undefined)

/** The code of a close that a `CloseEvent` has ordered says nothing about the server. */
const told = <Failure extends ConnectionFailure | undefined>(
  live: LiveConnection<any> | undefined,
  failure: Failure
): Failure | ConnectionLost =>
  live?.isClosedHere === true ? new ConnectionLost({ reason: "Reset", cause: "closed by a CloseEvent" }) : failure

/** No delay. */
const immediately = Exit.succeed(Option.some(0))

/** Waits for the dialer's `wake`; for ever if `wake` dies. */
const woken = (wake: Effect.Effect<void>): Effect.Effect<void> => Effect.catchAllCause(wake, () => Effect.never)
