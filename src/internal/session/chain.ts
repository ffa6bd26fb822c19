/**
 * A session's generations, each linked to its successor, and the only function that starts a renewal: `successor`.
 *
 * ```
 *             successor                  succeed
 *   Resting ────────────▶ Renewing ──────────────────▶ Resting; the next link is the head
 *                          │    ▲
 *                     fail ▼    │ successor, when the cooldown is over
 *                         Cooling
 * ```
 *
 * Each function is one step: no other fiber runs between reading the chain and changing it. So two fibers can never
 * both begin a renewal, and no lock is needed.
 */
import type * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as Option from "effect/Option"
import type { Generation, SessionStatus } from "../../Session.js"
import { Latest } from "../latest.js"
import type { Budget } from "./budget.js"
import type { Cooldown } from "./cooldown.js"
import * as Renewal from "./renewal.js"
import type { Resources } from "./resources.js"
import type { Telemetry } from "./telemetry.js"

/** A link of the chain: a generation, or the start of a chain before anything was acquired. */
export interface Link<A, E> {
  /** `undefined` at the start of a chain. */
  readonly generation: Generation<A> | undefined
  /** `undefined` if the generation acquired no resources: at the start of a chain, and for `initial`. */
  readonly resources: Resources | undefined
  /** From this moment on `current` starts a renewal in the background. */
  readonly refreshAt: number
  /** Written by `Chain` alone. */
  phase: Phase<A, E>
  /**
   * Whether a caller has been given the value, or whether it expired before that. If it expired, its renewal counts
   * against the budget.
   */
  arrival: "unserved" | "served" | "expired"
  /** Set after a fatal failure, and never unset: the value is no longer served or presented. */
  isDead: boolean
  /** Whether `end` has detached the link. If so, a value that its work still brings is revoked. */
  isEnded: boolean
  /**
   * The value that the upstream has given for the next link. Unset when the value becomes current, and while `Resting`.
   */
  candidate: Candidate<A> | undefined
}

/** A link that has a generation. */
export interface GenerationLink<A, E> extends Link<A, E> {
  readonly generation: Generation<A>
}

/**
 * A link's progress towards its successor.
 *
 * `successor` is the cached effect that yields the successor. The first caller who asks makes this effect, and all
 * callers who ask while it is cached run the same one.
 *
 * - `Resting`: no caller has asked, or the successor is current. No work goes on.
 * - `Renewing`: `successor` waits for `renewal`, which is forked into the session's scope. If `isRefused`, a caller has
 *   given the generation to `refresh`, so it is not served meanwhile.
 * - `Cooling`: the last renewal failed. `successor` is its failure, cached until `until` on the monotonic clock. The
 *   work of that renewal, or of an earlier one, may go on as `late`, and the next renewal waits for the end of that
 *   work.
 */
export type Phase<A, E> =
  | { readonly _tag: "Resting" }
  | {
    readonly _tag: "Renewing"
    readonly renewal: SharedRenewal<A, E>
    readonly successor: Effect.Effect<GenerationLink<A, E>, E>
    isRefused: boolean
  }
  | {
    readonly _tag: "Cooling"
    readonly successor: Exit.Exit<never, E>
    readonly since: number
    readonly until: number
    readonly late: RenewalWork<A, E> | undefined
  }

/** A value that is not yet current. If `onRenewed` fails, the next renewal continues from this value. */
export interface Candidate<A> {
  readonly value: A
  readonly acquiredAt: number
  readonly resources: Resources
  /** The number of the value's generation. Set when `onRenewed` is first called with it. */
  number?: number
}

/** A renewal that all callers of a link share. */
export interface SharedRenewal<A, E> extends Renewal.Renewal<GenerationLink<A, E>, E> {
  readonly since: number
  /** The time of the same moment on the monotonic clock. */
  readonly begunAt: number
  /** The work that will answer: the renewal's own, or late work of an earlier renewal that this renewal waits for. */
  work: RenewalWork<A, E> | undefined
  /** The fiber that fails the renewal after `timeout`, and interrupts its work after `lateness`. */
  timer: Fiber.RuntimeFiber<void> | undefined
  /** Set before the waiters are answered. From then on the renewal's own work is late, and begins no further try. */
  hasFailed: boolean
}

/**
 * The work that asks the upstream for a successor. However late this work is, no other work is begun for the same link
 * meanwhile.
 */
export interface RenewalWork<A, E> extends Renewal.Work {
  /** The renewal that began the work. */
  readonly renewal: SharedRenewal<A, E>
  /** Whether the budget counts it. */
  readonly isCounted: boolean
  fiber: Fiber.RuntimeFiber<void> | undefined
  /** While the stage is `trying`, a request is in flight; while it is `pausing`, before a try, none is. */
  stage: "unstarted" | "pausing" | "trying"
  /** The error of the last try, if there is another try after it. */
  lastError: unknown
  /** Whether the renewal has failed by its timeout while the answer was still awaited. */
  isLate: boolean
}

export interface Times {
  /** Wall time in epoch milliseconds. */
  readonly now: () => number
  /** Whole milliseconds of a clock that is never set, for durations that must not depend on the time of day. */
  readonly monotonic: () => number
}

/** The errors that callers get instead of a successor. The session's public module makes them. */
export interface Failures<E> {
  readonly closed: Exit.Exit<never, E>
  readonly ended: Exit.Exit<never, E>
  readonly reentrant: Exit.Exit<never, E>
  readonly timedOut: (lastError: unknown) => E
  readonly interrupted: () => E
  readonly overBudget: (arrivedExpired: boolean) => E
}

export interface Settings<E> {
  readonly times: Times
  readonly generations: { readonly mark: object }
  readonly budget: Budget
  readonly cooldown: Pick<Cooldown, "reset">
  readonly failures: Failures<E>
  readonly telemetry: Pick<Telemetry, "adopted" | "moved">
}

const resting = { _tag: "Resting" } as const

export const makeLink = <A, E, G extends Generation<A> | undefined>(
  generation: G,
  fields: Partial<Pick<Link<A, E>, "resources" | "refreshAt" | "arrival">> = {}
): Link<A, E> & { readonly generation: G } => ({
  generation,
  resources: undefined,
  refreshAt: Infinity,
  arrival: "unserved",
  ...fields,
  phase: resting,
  isDead: false,
  isEnded: false,
  candidate: undefined
})

/** The running work of a link, in time or late. */
export const workFor = <A, E>({ phase }: Link<A, E>): RenewalWork<A, E> | undefined => {
  const work = phase._tag === "Renewing" ? phase.renewal.work : phase._tag === "Cooling" ? phase.late : undefined
  return work?.isOver === true ? undefined : work
}

export const stopTimer = <A, E>({ timer }: SharedRenewal<A, E>): void => timer?.unsafeInterruptAsFork(FiberId.none)

export class Chain<A, E> {
  /** Publishes the generations that become current. */
  readonly published = new Latest<Generation<A>>()
  private readonly settings: Settings<E>
  /** The last link. `undefined` once the session has closed. */
  private last: Link<A, E> | undefined
  private readonly counts = { refreshes: 0, failures: 0, consecutive: 0 }

  constructor(settings: Settings<E>, head: Link<A, E>) {
    this.settings = settings
    this.last = head
    settings.telemetry.moved(head)
  }

  // --- looking ---------------------------------------------------------------

  get head(): Link<A, E> | undefined {
    return this.last
  }

  /** Whether the link is no longer the head. */
  isDetached(link: Link<A, E>): boolean {
    return this.last !== link
  }

  /** Whether the generation has been superseded, and no caller holds its resources. */
  isUnheld(link: Link<A, E>): boolean {
    return this.last !== undefined && this.isDetached(link) && link.resources?.isUnheld !== false
  }

  isExpired({ expiresAt }: Generation<A>): boolean {
    return expiresAt !== Infinity && expiresAt <= this.settings.times.now()
  }

  isServable(link: Link<A, E>): link is GenerationLink<A, E> {
    return link.generation !== undefined && !link.isDead && !this.isExpired(link.generation)
  }

  /** The fast path: the head, if its generation can be served and needs no refresh. */
  ready(): GenerationLink<A, E> | undefined {
    const head = this.last
    return head !== undefined && head.phase._tag !== "Renewing" && this.isServable(head) &&
        (head.refreshAt === Infinity || this.settings.times.now() < head.refreshAt)
      ? head
      : undefined
  }

  // --- asking ----------------------------------------------------------------

  /**
   * The only way to a successor: the cached effect that yields it, or a new one unless a failure forbids that. `asker`
   * is the work that the asking fiber is part of; `fork` forks a new renewal into the session's scope.
   */
  successor(
    link: Link<A, E>,
    isRefused: boolean,
    asker: Renewal.Work | undefined,
    fork: (link: Link<A, E>, renewal: SharedRenewal<A, E>, isRefused: boolean) => void
  ): Effect.Effect<GenerationLink<A, E>, E> {
    const failure = link.phase._tag === "Renewing" ? undefined : this.failureInstead(link, isRefused)
    if (failure !== undefined) return failure
    if (asker?.session === this.settings.generations.mark) return this.settings.failures.reentrant
    if (link.phase._tag === "Renewing") {
      link.phase.isRefused ||= isRefused
      return link.phase.successor
    }
    const renewal: SharedRenewal<A, E> = {
      ...Renewal.make(),
      since: this.settings.times.now(),
      begunAt: this.settings.times.monotonic(),
      work: workFor(link),
      timer: undefined,
      hasFailed: false
    }
    const successor = Renewal.join(renewal, this.settings.failures.reentrant)
    link.phase = { _tag: "Renewing", renewal, successor, isRefused }
    fork(link, renewal, isRefused)
    return successor
  }

  private failureInstead(link: Link<A, E>, isRefused: boolean): Exit.Exit<never, E> | undefined {
    const { phase } = link
    if (phase._tag === "Cooling" && this.settings.times.monotonic() < phase.until) return phase.successor
    // A renewal that waits for late work does not ask the upstream yet, so the budget does not matter.
    const error = workFor(link) === undefined ? this.overBudget(link, isRefused) : undefined
    return error === undefined ? undefined : Exit.fail(error)
  }

  /** The error of a renewal that the budget does not allow to ask the upstream now. */
  overBudget({ arrival }: Link<A, E>, isRefused: boolean): E | undefined {
    const { budget, failures, times } = this.settings
    const arrivedExpired = arrival === "expired"
    const counts = isRefused || arrivedExpired
    return counts && budget.isSpent(times.monotonic()) ? failures.overBudget(arrivedExpired) : undefined
  }

  /** Whether a caller can be given the generation. Records that the generation has been served or has expired. */
  arrived(link: GenerationLink<A, E>): boolean {
    if (!this.isServable(link)) {
      this.noteExpired(link)
      return false
    }
    link.arrival = "served"
    return true
  }

  /**
   * Records that the value expired before any caller had it. An age of 1 ms is ignored, since it may be only a tick of
   * the clock.
   */
  private noteExpired(link: GenerationLink<A, E>): void {
    const { budget, times } = this.settings
    const { acquiredAt, expiresAt } = link.generation
    if (link.arrival !== "unserved" || (acquiredAt < expiresAt && times.now() < acquiredAt + 2)) return
    link.arrival = "expired"
    budget.count(times.monotonic())
  }

  // --- moving ----------------------------------------------------------------

  /** Makes the successor current, in time or late. Gives how many callers waited for it. */
  succeed(link: Link<A, E>, next: GenerationLink<A, E>): number {
    const { phase } = link
    link.candidate = undefined
    link.phase = resting
    this.settings.cooldown.reset()
    this.counts.refreshes++
    this.counts.consecutive = 0
    this.become(next)
    if (this.isExpired(next.generation)) this.noteExpired(next)
    else this.published.offer(next.generation)
    return phase._tag === "Renewing" ? Renewal.answer(phase.renewal, Exit.succeed(next)) : 0
  }

  /**
   * Answers the waiters with the failure, and caches it for `cooldown` milliseconds. Gives how many waited; `undefined`
   * if the waiters have been answered otherwise meanwhile.
   */
  fail(
    link: Link<A, E>,
    renewal: SharedRenewal<A, E>,
    failure: Exit.Exit<never, E>,
    cooldown: number
  ): number | undefined {
    if (this.isDetached(link) || link.phase._tag !== "Renewing" || link.phase.renewal !== renewal) return undefined
    const { monotonic, now } = this.settings.times
    const until = monotonic() + cooldown
    link.phase = { _tag: "Cooling", successor: failure, since: now(), until, late: renewal.work }
    this.counts.failures++
    this.counts.consecutive++
    return Renewal.answer(renewal, failure)
  }

  /** Ends a cooldown. */
  wake(): void {
    const head = this.last
    if (head?.phase._tag === "Cooling") head.phase = { ...head.phase, until: this.settings.times.monotonic() }
  }

  /** Called after a fatal failure: neither the link's value nor a candidate is presented again. */
  markDead(link: Link<A, E>): void {
    link.isDead = true
    link.candidate = undefined
    if (this.isDetached(link)) return
    this.published.clear()
    this.settings.telemetry.moved(link)
  }

  /**
   * Called when the value was given up elsewhere. A renewal in flight goes on and keeps what it has obtained, but does
   * not fall back to the value. If there is no renewal, a new chain begins. Gives the link that is no longer the head,
   * if there is one.
   */
  giveUp(): Link<A, E> | undefined {
    if (this.last?.phase._tag !== "Renewing") return this.startAgain()
    this.last.isDead = true
    this.published.clear()
    this.settings.telemetry.moved(this.last)
    return undefined
  }

  /**
   * Signs out: begins a new chain. A value that the former head's work still brings is revoked. Gives the former head;
   * `undefined` if the session has closed.
   */
  end(): Link<A, E> | undefined {
    const link = this.startAgain()
    if (link !== undefined) link.isEnded = true
    return link
  }

  private startAgain(): Link<A, E> | undefined {
    const link = this.last
    if (link === undefined) return undefined
    this.published.clear()
    this.replace(link, makeLink<A, E, undefined>(undefined), this.settings.failures.ended)
    return link
  }

  /** Replaces the head by a generation from outside. Gives the former head; `undefined` if the session has closed. */
  adopt(next: GenerationLink<A, E>): Link<A, E> | undefined {
    const link = this.last
    if (link === undefined) return undefined
    const { phase } = link
    const work = phase._tag === "Renewing" ? phase.renewal.work : undefined
    if (work?.renewal.hasFailed === false && work.isCounted) this.settings.budget.giveBack()
    this.replace(link, next, Exit.succeed(next))
    this.settings.telemetry.adopted()
    if (!this.isExpired(next.generation)) this.published.offer(next.generation)
    return link
  }

  /** Detaches a renewal in flight: its work goes on, but no longer changes this chain. */
  private replace(link: Link<A, E>, next: Link<A, E>, answer: Exit.Exit<GenerationLink<A, E>, E>): void {
    this.become(next)
    this.settings.cooldown.reset()
    this.counts.consecutive = 0
    if (link.phase._tag === "Renewing") Renewal.answer(link.phase.renewal, answer)
  }

  private become(next: Link<A, E> | undefined): void {
    this.last = next
    this.settings.telemetry.moved(next)
  }

  close(): void {
    const link = this.last
    this.become(undefined)
    if (link?.phase._tag === "Renewing") Renewal.answer(link.phase.renewal, this.settings.failures.closed)
    this.published.end()
  }

  // --- reporting -------------------------------------------------------------

  /** The generation that a reader of the changes is given first. */
  first(): Option.Option<Generation<A>> {
    return this.last === undefined || this.last.isDead ? Option.none() : Option.fromNullable(this.last.generation)
  }

  status(): SessionStatus {
    const { consecutive, failures, refreshes } = this.counts
    const head = this.last
    if (head === undefined) return { _tag: "Closed", refreshes, failures }
    const { generation, phase } = head
    const serving = this.isServable(head) && !(phase._tag === "Renewing" && phase.isRefused)
    switch (phase._tag) {
      case "Renewing": {
        const { since, waiters } = phase.renewal
        return { _tag: "Refreshing", since, waiters: waiters.size, serving, refreshes, failures }
      }
      case "Cooling": {
        const { monotonic, now } = this.settings.times
        const retryAt = now() + phase.until - monotonic()
        return { _tag: "Failing", consecutive, since: phase.since, retryAt, serving, refreshes, failures }
      }
      case "Resting": {
        if (generation === undefined) return { _tag: "Idle", refreshes, failures }
        const { acquiredAt, expiresAt, number } = generation
        return { _tag: "Active", generation: number, acquiredAt, expiresAt, refreshes, failures }
      }
    }
  }
}
