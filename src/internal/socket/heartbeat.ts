/**
 * The heartbeat of a connection: whether the peer is still there.
 *
 * After `interval` of silence the heartbeat pings the peer; with `always` it pings after every `interval`, even if
 * messages arrive. If no answer comes within `timeout`, the connection ends. Any frame is an answer, except with
 * `always` and `isPong`: then only a pong is.
 */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import { ConnectionLost, type Message } from "../../WebSocketDialer.js"
import { first } from "../first.js"
import type { LiveConnection } from "./connection.js"
import type { HeartbeatSettings } from "./heartbeatSettings.js"
import type { Wiring } from "./wiring.js"

/** The largest number of waiting answers to the peer's pings. If the peer does not read them, the connection ends. */
const mostUnsent = 1024

export class Heartbeat<In> {
  private readonly live: LiveConnection<In>
  private readonly wiring: Wiring<any, In, any>
  /** The connection's scope. */
  private readonly scope: Scope.Scope
  private settings: HeartbeatSettings<In> | undefined
  private fiber: Fiber.RuntimeFiber<void> | undefined
  /** When the peer was pinged, and how many frames had come in by then; undefined once it has answered. */
  private asked: { readonly signs: number; readonly at: number } | undefined
  /** When the peer was last pinged, or the heartbeat began. */
  private lastAsked = 0
  /** When the oldest unanswered ping was sent, in nanoseconds. */
  private pinged: { readonly at: bigint; readonly isProtocol: boolean } | undefined

  constructor(live: LiveConnection<In>, wiring: Wiring<any, In, any>, scope: Scope.Scope) {
    this.live = live
    this.wiring = wiring
    this.scope = scope
    this.settings = wiring.settings.heartbeat
  }

  /** Starts the heartbeat, which goes on as long as the connection lasts. */
  get start(): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.asked = undefined
      this.lastAsked = this.now()
      return this.beat
    })
  }

  /** Pings the peer now, whatever the interval, and then goes on with the heartbeat. */
  get askNow(): Effect.Effect<void> {
    return Effect.uninterruptible(Effect.suspend(() => {
      const { fiber, settings } = this
      if (fiber === undefined || settings === undefined) return Effect.void
      this.fiber = undefined
      return Fiber.interruptFork(fiber).pipe(
        Effect.zipRight(this.ask(settings, this.now())),
        Effect.zipRight(this.beat)
      )
    }))
  }

  private get beat(): Effect.Effect<void> {
    const work = this.settings === undefined ? undefined : this.workOf(this.settings)
    if (work === undefined) return Effect.void
    return Effect.map(Effect.forkIn(Effect.interruptible(work), this.scope), (fiber) => {
      this.fiber = fiber
    })
  }

  /** Uses other settings from now on. */
  change(settings: HeartbeatSettings<In> | undefined): Effect.Effect<void> {
    return Effect.suspend(() => {
      const { fiber } = this
      this.fiber = undefined
      this.settings = settings
      return Effect.zipRight(fiber === undefined ? Effect.void : Fiber.interruptFork(fiber), this.start)
    })
  }

  // ---------------------------------------------------------------------------
  // what comes in
  // ---------------------------------------------------------------------------

  /** Whether the message was the peer's answer to this heartbeat, or its own ping, which is answered. */
  takes(message: In, data: Message): boolean {
    return this.takesPong(message, data) || this.takesPing(message, data)
  }

  private takesPong(message: In, data: Message): boolean {
    const isPong = this.settings?.isPong
    if (isPong === undefined) return false
    if (!this.wiring.events.decided("isPong", () => isPong(message), false, data)) return false
    this.hearPong(false)
    return true
  }

  private takesPing(message: In, data: Message): boolean {
    const answer = this.settings?.answer
    if (answer === undefined) return false
    const answered = this.wiring.events.decided("answer", () => answer(message), Option.none(), data)
    if (Option.isNone(answered)) return false
    if (this.live.unsent < mostUnsent) this.live.send(answered.value)
    else this.live.fail(new ConnectionLost({ reason: "WriteTimeout", cause: "the peer takes no answers to its pings" }))
    return true
  }

  /** Called when the peer has answered, by a protocol pong or by a message. */
  hearPong(isProtocol: boolean): void {
    const { pinged } = this
    this.asked = undefined
    if (pinged?.isProtocol !== isProtocol) return
    this.pinged = undefined
    this.wiring.telemetry.roundTrip(Number(this.wiring.clock.unsafeCurrentTimeNanos() - pinged.at) / 1e9)
  }

  /** Called when reading was paused: no answer could arrive, so none is missing. */
  excuse(): void {
    this.asked = undefined
  }

  // ---------------------------------------------------------------------------
  // beating
  // ---------------------------------------------------------------------------

  /**
   * Whether silence shows that the peer is gone. Without a ping it does not, unless the peer must send something by
   * itself.
   */
  private canTell({ ping }: HeartbeatSettings<In>): boolean {
    return ping !== undefined || Option.isSome(this.live.connection.ping)
  }

  private workOf(settings: HeartbeatSettings<In>): Effect.Effect<void> | undefined {
    const { check } = this.live.connection
    const beating = this.canTell(settings) ? this.beating(settings) : undefined
    if (check === undefined) return beating
    const checking = Effect.forever(Effect.delay(check, settings.interval))
    return beating === undefined ? checking : first(beating, checking)
  }

  private beating(settings: HeartbeatSettings<In>): Effect.Effect<void> {
    const beat: Effect.Effect<void> = Effect.suspend(() => {
      const now = this.now()
      this.noteAnswers(settings, now)
      const lost = this.untilLost(settings, now)
      if (lost <= 0) return Effect.sync(() => this.live.fail(new ConnectionLost({ reason: "HeartbeatTimeout" })))
      const due = this.untilDue(settings, now)
      if (due > 0) return next(Math.min(lost, due))
      return Effect.flatMap(this.ask(settings, now), () => next(this.untilLost(settings, now)))
    })
    // The rest may be less than a millisecond, and a sleep of 0 would be repeated again and again.
    const next = (millis: number) => Effect.zipRight(Effect.sleep(Math.max(1, millis)), beat)
    return beat
  }

  /** Checks whether the peer has answered meanwhile. */
  private noteAnswers({ always, isPong }: HeartbeatSettings<In>, now: number): void {
    const { live } = this
    // If the clock is set back, the heartbeat must not wait longer.
    live.lastHeard = Math.min(live.lastHeard, now)
    this.lastAsked = Math.min(this.lastAsked, now)
    if (this.asked === undefined) return
    const isAnyAnswer = !always || isPong === undefined
    if (isAnyAnswer && this.asked.signs !== live.signs) this.asked = undefined
    else if (this.asked.at > now) this.asked = { signs: this.asked.signs, at: now }
  }

  /** Milliseconds until the connection is lost if no frame comes in. */
  private untilLost({ interval, ping, timeout }: HeartbeatSettings<In>, now: number): number {
    if (this.live.isPaused) return interval
    if (ping === false) return this.live.lastHeard + interval + timeout - now
    return this.asked === undefined ? interval : Math.min(this.asked.at + timeout - now, interval)
  }

  /** Milliseconds until the next ping is due. */
  private untilDue({ always, interval, ping }: HeartbeatSettings<In>, now: number): number {
    if (always) return this.lastAsked + interval - now
    if (ping === false || this.asked !== undefined || this.live.isPaused) return Infinity
    return this.live.lastHeard + interval - now
  }

  private ask({ ping }: HeartbeatSettings<In>, now: number): Effect.Effect<void> {
    const { connection, signs } = this.live
    this.lastAsked = now
    const message = ping && this.wiring.events.decided("ping", ping, undefined)
    const hasMessage = message !== undefined && message !== false
    if (!hasMessage && Option.isNone(connection.ping)) return Effect.void
    if (this.asked === undefined) {
      this.asked = { signs, at: now }
      this.pinged = { at: this.wiring.clock.unsafeCurrentTimeNanos(), isProtocol: !hasMessage }
    }
    if (hasMessage) return Effect.sync(() => this.live.send(message))
    return Effect.sync(() => this.live.ping())
  }

  private now(): number {
    return this.wiring.clock.unsafeCurrentTimeMillis()
  }
}
