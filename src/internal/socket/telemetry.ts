/**
 * Logs, counters and gauges of a socket for its operator. A gauge is the sum over all sockets of one name.
 *
 * A socket counts in each gauge from when it gets its name until it is closed. A metric is updated in the same step as
 * the value that it measures: telemetry needs no fiber and no timer.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as LogLevel from "effect/LogLevel"
import * as Metric from "effect/Metric"
import * as MetricBoundaries from "effect/MetricBoundaries"
import * as MetricLabel from "effect/MetricLabel"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"
import type { ConnectionState, SocketEvent } from "../../ReconnectingSocket.js"
import type { DialError } from "../../WebSocketDialer.js"
import { nameOf } from "../nameOf.js"
import { CurrentRegistry } from "../registry.js"
import { shown } from "./dialers.js"
import { Inspected } from "./inspected.js"
import { labelOf } from "./policy.js"

const counter = (name: string, description: string) =>
  Metric.counter(`holdfast_socket_${name}_total`, { description, incremental: true })

const gauge = (name: string, description: string) => Metric.gauge(`holdfast_socket_${name}`, { description })

const dials = counter("dials", "Dials of reconnecting sockets, by outcome")
const opened = counter("opened", "Connections of reconnecting sockets that became ready")
const lost = counter("lost", "Connections of reconnecting sockets that were lost, by reason")
const subscriptionsFailed = counter(
  "subscriptions_failed",
  "Subscriptions of reconnecting sockets that were left out on a new connection"
)
const rejected = counter("rejected", "Callbacks of reconnecting sockets that threw, by callback")
const dropped = counter("messages_dropped", "Messages that reconnecting sockets gave up, by reason")
const states = gauge("state", "Reconnecting sockets, by state")
const outboxMessages = gauge("outbox_messages", "Messages accepted and not yet delivered")
const unacknowledged = gauge("unacknowledged", "Messages sent and not yet acknowledged")
const oldestMessage = gauge(
  "outbox_oldest_timestamp_seconds",
  "When the oldest message that is not yet delivered was accepted; 0 if there is none"
)
const roundTrips = Metric.histogram(
  "holdfast_socket_round_trip_seconds",
  MetricBoundaries.exponential({ start: 0.001, factor: 2, count: 15 }),
  "How long answers to pings took"
)

/** The sockets of one name, kept while there is at least one. */
class Named {
  readonly labels: ReadonlyArray<MetricLabel.MetricLabel>
  /** With one more label, by its key and value. Effect finds a metric quickly by an array that it has seen before. */
  private readonly labelled = new Map<string, ReadonlyArray<MetricLabel.MetricLabel>>()
  sockets = 0
  /** For each socket with messages: when its oldest message was accepted. */
  readonly oldest = new Map<object, number>()
  private shownOldest = 0

  constructor(name: string) {
    this.labels = [MetricLabel.make("socket", name)]
  }

  labelsWith(key: string, value: string): ReadonlyArray<MetricLabel.MetricLabel> {
    const id = `${key} ${value}`
    const known = this.labelled.get(id)
    if (known !== undefined) return known
    const labels = [...this.labels, MetricLabel.make(key, value)]
    this.labelled.set(id, labels)
    return labels
  }

  setOldest(socket: object, at: number): void {
    const before = this.oldest.get(socket)
    if (at === 0) this.oldest.delete(socket)
    else this.oldest.set(socket, at)
    // All sockets are searched only if the oldest message of all has gone.
    if (before === this.shownOldest) this.showOldest(this.oldest.size === 0 ? 0 : Math.min(...this.oldest.values()))
    else if (at !== 0 && (this.shownOldest === 0 || at < this.shownOldest)) this.showOldest(at)
  }

  private showOldest(at: number): void {
    this.shownOldest = at
    oldestMessage.unsafeUpdate(at / 1000, this.labels)
  }
}

const byName = new Map<string, Named>()

/** The content of an outbox for the gauges. */
export interface Held {
  readonly messages: number
  readonly unacknowledged: number
  /** Epoch milliseconds; 0 if there is no message. */
  readonly oldest: number
}

const nothing: Held = { messages: 0, unacknowledged: 0, oldest: 0 }

export class Telemetry implements Held {
  private readonly runtime: Runtime.Runtime<never>
  /** Undefined before the first URL is known, if the user gives no name. */
  private name: string | undefined
  private named: Named | undefined
  private isClosed = false
  /** This socket's share of the gauges once it is named. */
  private state: ConnectionState["_tag"] | undefined
  messages = 0
  unacknowledged = 0
  /** Epoch milliseconds; 0 if there is no message. */
  oldest = 0
  private readonly inspected: Inspected | undefined

  constructor(runtime: Runtime.Runtime<never>, name: string | undefined) {
    this.runtime = runtime
    const registry = Context.get(runtime.context, CurrentRegistry)
    this.inspected = registry && new Inspected(registry, () => this.name ?? "unknown", () => this)
    if (name !== undefined) this.join(name)
  }

  // ---------------------------------------------------------------------------
  // the name
  // ---------------------------------------------------------------------------

  /** The socket's name in metrics, logs, spans and errors. */
  get socket(): string {
    return this.name ?? "unknown"
  }

  /** Called when a URL is about to be dialed. A socket without a name is named by the host of its first URL. */
  dialing(url: string | URL): void {
    if (this.name !== undefined || this.isClosed) return
    try {
      this.join(new URL(url).host)
    } catch {
      this.join(shown(url))
    }
  }

  private join(name: string): void {
    this.inspected?.named(this.socket)
    this.name = name
    const named = byName.get(name) ?? new Named(name)
    byName.set(name, named)
    named.sockets++
    this.named = named
    const { messages, oldest, state, unacknowledged } = this
    this.state = undefined
    this.messages = this.unacknowledged = this.oldest = 0
    if (state !== undefined) this.showState(state)
    this.show({ messages, unacknowledged, oldest })
  }

  /** Removes the socket's share from the gauges. */
  close(): void {
    if (this.isClosed) return
    this.showState(undefined)
    this.show(nothing)
    this.inspected?.leave()
    this.isClosed = true
    const { name, named } = this
    if (named !== undefined && --named.sockets === 0) byName.delete(name!)
    this.named = undefined
  }

  // ---------------------------------------------------------------------------
  // gauges
  // ---------------------------------------------------------------------------

  showState(state: ConnectionState["_tag"] | undefined): void {
    if (this.isClosed || state === this.state) return
    if (state !== undefined) this.inspected?.showState(state)
    if (this.named !== undefined) {
      for (const [tag, difference] of [[this.state, -1], [state, 1]] as const) {
        if (tag !== undefined) states.unsafeModify(difference, this.named.labelsWith("state", tag))
      }
    }
    this.state = state
  }

  show(held: Held): void {
    const { named } = this
    if (named !== undefined) {
      const { labels } = named
      if (held.messages !== this.messages) outboxMessages.unsafeModify(held.messages - this.messages, labels)
      if (held.unacknowledged !== this.unacknowledged) {
        unacknowledged.unsafeModify(held.unacknowledged - this.unacknowledged, labels)
      }
      if (held.oldest !== this.oldest) named.setOldest(this, held.oldest)
    }
    this.messages = held.messages
    this.unacknowledged = held.unacknowledged
    this.oldest = held.oldest
  }

  // ---------------------------------------------------------------------------
  // counters and logs
  // ---------------------------------------------------------------------------

  dialed(exit: Exit.Exit<unknown, DialError>): void {
    const failure = Exit.isSuccess(exit) ? undefined : Option.getOrUndefined(Exit.causeOption(exit))
    const outcome = failure === undefined
      ? "success"
      : failure._tag === "Fail"
      ? outcomes[failure.error.reason]
      : "interrupted"
    dials.unsafeUpdate(1, this.labelsWith("outcome", outcome))
    this.inspected?.dialed(outcome)
  }

  roundTrip(seconds: number): void {
    roundTrips.unsafeUpdate(seconds, this.named?.labels ?? [])
    this.inspected?.answered(seconds)
  }

  note(event: SocketEvent): void {
    this.inspected?.note(event)
    switch (event._tag) {
      case "Opened":
        opened.unsafeUpdate(1, this.labels)
        return this.log(LogLevel.Info, "the socket is open")
      case "Lost":
        lost.unsafeUpdate(1, this.labelsWith("reason", labelOf(event.failure)))
        return this.log(LogLevel.Info, event.failure.message)
      case "Rejected":
        rejected.unsafeUpdate(1, this.labelsWith("callback", event.callback))
        return this.log(LogLevel.Warning, `the callback \`${event.callback}\` of the socket has thrown`)
      case "SubscriptionFailed":
        subscriptionsFailed.unsafeUpdate(1, this.labels)
        return this.log(LogLevel.Warning, `a subscription was left out: ${nameOf(event.error)}`)
      case "Dropped":
        return dropped.unsafeUpdate(1, this.labelsWith("reason", event.reason))
      case "Expired":
        return dropped.unsafeUpdate(1, this.labelsWith("reason", event._tag))
      case "Closed":
        return Option.match(event.info.failure, {
          onNone: () => this.log(LogLevel.Info, `the socket is closed with ${event.info.code}`),
          onSome: (failure) => this.log(LogLevel.Warning, `the socket has failed: ${failure.message}`)
        })
    }
  }

  /** Before it is named, and after it is closed, a socket shares no labels with others. */
  private get labels(): ReadonlyArray<MetricLabel.MetricLabel> {
    return this.named?.labels ?? [MetricLabel.make("socket", this.socket)]
  }

  private labelsWith(key: string, value: string): ReadonlyArray<MetricLabel.MetricLabel> {
    return this.named?.labelsWith(key, value) ?? [...this.labels, MetricLabel.make(key, value)]
  }

  /** Logs in this step. An error that a logger throws is not caught. */
  private log(level: LogLevel.LogLevel, message: string): void {
    const logged = Effect.annotateLogs(Effect.logWithLevel(level, oneLine(message)), "socket", this.socket)
    Runtime.runSyncExit(this.runtime)(logged)
  }
}

/** A peer's text, such as the reason of a close, must neither begin a line of the log nor control a terminal. */
const oneLine = (text: string): string =>
  text.replace(/[\p{Cc}\u2028\u2029]/gu, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`)

const outcomes = { Refused: "refused", Timeout: "timeout", Transport: "transport", InvalidRequest: "invalid" } as const
