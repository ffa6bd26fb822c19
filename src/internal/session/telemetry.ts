/**
 * The logs and metrics of a session, and its row in an Inspector.
 *
 * Handing out a value is not measured, and telemetry needs no fiber and no timer: the metrics are updated when a
 * refresh has ended, and when another generation becomes current.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as LogLevel from "effect/LogLevel"
import * as Metric from "effect/Metric"
import * as MetricBoundaries from "effect/MetricBoundaries"
import * as MetricLabel from "effect/MetricLabel"
import * as Option from "effect/Option"
import type { Refresh, SessionRow } from "../../Inspector.js"
import type { SessionStatus } from "../../Session.js"
import { nameOf } from "../nameOf.js"
import type { Registered, Registry } from "../registry.js"
import type { Link } from "./chain.js"

/** The outcome of a refresh: success in time, success after the timeout, or the failure. */
export type Outcome = "success" | "late" | Cause.Cause<unknown>

const refreshes = Metric.counter("holdfast_session_refreshes_total", {
  description: "Refreshes by outcome",
  incremental: true
})

const waitersOfLast = Metric.gauge("holdfast_session_waiters", {
  description: "Callers that waited for the last refresh"
})

const durations = Metric.histogram(
  "holdfast_session_refresh_duration_seconds",
  MetricBoundaries.exponential({ start: 0.005, factor: 2, count: 14 }),
  "How long refreshes took, by outcome"
)

const expiry = Metric.gauge("holdfast_session_expiry_timestamp_seconds", {
  description: "When the first value expires; 0 if none does"
})

/** How many refreshes a row in an Inspector shows. */
const lastLimit = 8

/** When the current values of all sessions of one name expire. */
class Expiries {
  private readonly labels: ReadonlyArray<MetricLabel.MetricLabel>
  private readonly times = new Map<object, number>()
  private first = 0

  constructor(name: string) {
    this.labels = [MetricLabel.make("session", name)]
  }

  get isEmpty(): boolean {
    return this.times.size === 0
  }

  /** `at`: epoch milliseconds; `undefined`: never. */
  set(session: object, at: number | undefined): void {
    const before = this.times.get(session)
    if (at === undefined) this.times.delete(session)
    else this.times.set(session, at)
    // All sessions are searched only if the earliest expiry has gone.
    if (before === this.first) this.show([...this.times.values()].reduce((a, b) => Math.min(a, b), Infinity))
    else if (at !== undefined && (this.first === 0 || at < this.first)) this.show(at)
  }

  private show(first: number): void {
    this.first = first === Infinity ? 0 : first
    expiry.unsafeUpdate(this.first / 1000, this.labels)
  }
}

const expiriesByName = new Map<string, Expiries>()

export interface Settings {
  readonly name: string
  /** The label of a failed refresh. */
  readonly labelOf: (cause: Cause.Cause<unknown>) => string
  /** Runs an effect on a fiber of the session's own. */
  readonly fork: (effect: Effect.Effect<void>) => unknown
}

export class Telemetry {
  private readonly settings: Settings
  private registered: Registered | undefined
  private readonly outcomes: Record<string, number> = {}
  /** The latest refresh comes first. Empty without an Inspector. */
  private readonly last: Array<Refresh> = []
  private isOverBudget = false
  private expiresAt: number | undefined

  constructor(settings: Settings) {
    this.settings = settings
  }

  /** Adds the session to an Inspector. */
  register(registry: Registry, chain: Shown): void {
    const { name } = this.settings
    this.registered = registry.add({
      kind: "sessions",
      name: () => name,
      read: () => rowOf(chain, this.outcomes, this.last),
      counts: () => ({ refreshes: this.outcomes })
    })
  }

  /** Called when the session has closed. */
  leave(): void {
    this.registered?.leave()
  }

  /**
   * Called when a refresh has ended, with its duration and the number of callers that waited for it. A timeout is no
   * warning while the answer `isAwaited`: if none comes, `lateFailed` warns.
   */
  refreshed(outcome: Outcome, waiters: number, millis: number, isAwaited = false): Effect.Effect<void> {
    const { labelOf, name } = this.settings
    const label = typeof outcome === "string" ? outcome : labelOf(outcome)
    const reason = typeof outcome === "string" ? undefined : reasonOf(outcome)
    const hasFailed = reason !== undefined
    if (!hasFailed) this.isOverBudget = false
    const session = MetricLabel.make("session", name)
    const labels = [session, MetricLabel.make("outcome", label)]
    return Effect.all([
      Metric.increment(Metric.taggedWithLabels(refreshes, labels)),
      Metric.set(Metric.taggedWithLabels(waitersOfLast, [session]), waiters),
      Metric.update(Metric.taggedWithLabels(durations, labels), millis / 1000),
      Effect.sync(() => this.show(label, reason, waiters, millis)),
      this.log(
        hasFailed && !isAwaited ? LogLevel.Warning : LogLevel.Debug,
        `refresh ended in ${label}${hasFailed ? ` (${reason})` : ""} after ${millis} ms, ${waiters} waited for it`
      )
    ], { discard: true })
  }

  /** Called when the answer that was awaited after a timeout has been a failure, or has not come. */
  lateFailed(cause: Cause.Cause<unknown>): Effect.Effect<void> {
    return this.log(
      LogLevel.Warning,
      Cause.isInterruptedOnly(cause)
        ? "refresh ended in timeout, and no answer came late either"
        : `refresh ended in timeout, and then in failure (${reasonOf(cause)})`
    )
  }

  private show(outcome: string, reason: string | undefined, waiters: number, millis: number): void {
    if (this.registered === undefined) return
    this.outcomes[outcome] = (this.outcomes[outcome] ?? 0) + 1
    if (this.last.unshift({ at: this.registered.now(), outcome, millis, waiters, reason }) > lastLimit) this.last.pop()
    this.registered.note("Refreshed", reason === undefined ? outcome : `${outcome}: ${reason}`, millis)
  }

  /**
   * Called when another link has become the head of the chain, or its value has been given up; with `undefined` when
   * the session has closed.
   */
  moved(head: Head | undefined): void {
    const at = head === undefined || head.isDead ? Infinity : head.generation?.expiresAt ?? Infinity
    const expiresAt = at === Infinity ? undefined : at
    if (expiresAt === this.expiresAt) return
    this.expiresAt = expiresAt
    const { name } = this.settings
    const expiries = expiriesByName.get(name) ?? new Expiries(name)
    expiries.set(this, expiresAt)
    if (expiries.isEmpty) expiriesByName.delete(name)
    else expiriesByName.set(name, expiries)
  }

  /** Runs when `end` has given the value up. */
  get ended(): Effect.Effect<void> {
    return this.record(LogLevel.Info, "Ended", "was ended")
  }

  /** Called when a value from outside has become current. */
  adopted(): void {
    this.registered?.note("Adopted")
  }

  /** Runs when a failure has shown that the credential is dead. */
  get died(): Effect.Effect<void> {
    return this.record(LogLevel.Warning, "GaveUp", "gives its credential up: it was refused for good")
  }

  /** Called when a caller is refused because the budget is spent. Logged once, until a refresh succeeds. */
  overBudget(): void {
    if (this.isOverBudget) return
    this.isOverBudget = true
    this.settings.fork(
      this.record(LogLevel.Warning, "OverBudget", "gives up for now: its budget of refreshes is spent")
    )
  }

  private record(level: LogLevel.LogLevel, event: string, message: string): Effect.Effect<void> {
    return Effect.zipRight(Effect.sync(() => this.registered?.note(event)), this.log(level, message))
  }

  /** A logger that throws must not keep the session from its work. */
  private log(level: LogLevel.LogLevel, message: string): Effect.Effect<void> {
    const { name } = this.settings
    const logged = Effect.annotateLogs(Effect.logWithLevel(level, `${name}: ${message}`), "session", name)
    return Effect.catchAllDefect(logged, () => Effect.void)
  }
}

type Head = Pick<Link<unknown, unknown>, "generation" | "isDead">

/** The part of the chain that a row shows. */
interface Shown {
  readonly head: Head | undefined
  readonly status: () => SessionStatus
}

const rowOf = (
  chain: Shown,
  outcomes: Readonly<Record<string, number>>,
  last: ReadonlyArray<Refresh>
): Omit<SessionRow, "id" | "name"> => {
  const status = chain.status()
  const generation = chain.head?.isDead === false ? chain.head.generation : undefined
  const expiresAt = generation?.expiresAt ?? Infinity
  return {
    state: status._tag,
    generation: generation?.number ?? null,
    acquiredAt: generation?.acquiredAt ?? null,
    expiresAt: expiresAt === Infinity ? null : expiresAt,
    serving: "serving" in status ? status.serving : status._tag === "Active",
    waiters: status._tag === "Refreshing" ? status.waiters : 0,
    since: "since" in status ? status.since : null,
    retryAt: status._tag === "Failing" ? status.retryAt : null,
    refreshes: { ...outcomes },
    last: [...last]
  }
}

/**
 * The name of what went wrong, never its message, since messages quote requests and answers. An error's `error` or
 * `reason` is added to its tag if it looks like a code, such as `invalid_grant`. A timeout also names its last failure.
 */
export const reasonOf = (cause: Cause.Cause<unknown>): string =>
  Option.match(Cause.failureOption(cause), {
    onNone: () => Cause.isInterruptedOnly(cause) ? "interrupted" : nameOf(Cause.squash(cause)),
    onSome: reasonOfError
  })

const reasonOfError = (error: unknown): string => {
  const name = nameOf(error)
  const { cause, error: code, reason } = Object(error) as Readonly<Record<string, unknown>>
  if (name === "RefreshTimeout" && cause !== undefined) return `${name} after ${reasonOfError(cause)}`
  return isCode(code) ? `${name}, ${code}` : isCode(reason) ? `${name}, ${reason}` : name
}

const isCode = (value: unknown): value is string => typeof value === "string" && /^[A-Za-z_]{1,40}$/.test(value)
