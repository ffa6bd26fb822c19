/** Runs one renewal in the session's scope: its work, its timer, and the chain's next state when the work has ended. */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import { sleep } from "../sleep.js"
import type { Budget } from "./budget.js"
import {
  type Chain,
  type Failures,
  type GenerationLink,
  type Link,
  type RenewalWork,
  type SharedRenewal,
  stopTimer,
  type Times
} from "./chain.js"
import type { Cooldown } from "./cooldown.js"
import type { Ending } from "./ending.js"
import type { Generations } from "./generations.js"
import type { Obtaining } from "./obtain.js"
import * as Renewal from "./renewal.js"
import type { Telemetry } from "./telemetry.js"

/** Runs an effect on a fiber of its own, in the session's scope. */
export type Fork<R> = <B>(
  effect: Effect.Effect<B, never, R>,
  options?: { readonly immediate: boolean }
) => Fiber.RuntimeFiber<B>

export interface Settings<A, E, R> {
  readonly name: string
  readonly generations: Generations<A>
  readonly chain: Chain<A, E>
  readonly obtaining: Obtaining<A, E, R>
  readonly budget: Budget
  readonly cooldown: Cooldown
  readonly times: Times
  readonly timeout: Duration.Duration
  /** In milliseconds. */
  readonly lateness: number
  readonly fork: Fork<R>
  readonly failures: Failures<E>
  readonly ending: Ending<A, E, R>
  readonly telemetry: Pick<Telemetry, "lateFailed" | "refreshed">
}

export class Refreshing<A, E, R> {
  private readonly settings: Settings<A, E, R>

  constructor(settings: Settings<A, E, R>) {
    this.settings = settings
  }

  /** Forks a renewal: its timer, and its work unless it must first wait for late work. */
  readonly fork = (link: Link<A, E>, renewal: SharedRenewal<A, E>, isRefused: boolean): void => {
    renewal.timer = this.settings.fork(this.timer(link, renewal), { immediate: false })
    // Two renewals at the same time would present the same token.
    if (renewal.work === undefined) this.forkWork(link, renewal, isRefused)
  }

  private forkWork(link: Link<A, E>, renewal: SharedRenewal<A, E>, isRefused: boolean): void {
    const { budget, fork, generations, name, obtaining, times } = this.settings
    const work: RenewalWork<A, E> = {
      ...Renewal.makeWork(generations.mark),
      renewal,
      isCounted: isRefused,
      fiber: undefined,
      stage: "unstarted",
      lastError: undefined,
      isLate: false
    }
    renewal.work = work
    if (isRefused) budget.count(times.monotonic())
    work.fiber = fork(
      Effect.suspend(() => {
        work.stage = "pausing"
        return renewal.hasFailed ? Effect.interrupt : obtaining.next(link, work)
      }).pipe(
        Effect.withSpan("Session.refresh", { attributes: { session: name } }),
        Renewal.within(work),
        Effect.interruptible,
        Effect.exit,
        Effect.flatMap((exit) => this.afterWork(link, work, exit)),
        Effect.uninterruptible
      ),
      { immediate: false }
    )
  }

  /** Changes the chain according to the work's outcome, in the step after the work's end. */
  private afterWork(
    link: Link<A, E>,
    work: RenewalWork<A, E>,
    exit: Exit.Exit<GenerationLink<A, E>, E>
  ): Effect.Effect<void, never, R> {
    const { chain, ending, failures, telemetry, times } = this.settings
    return Effect.suspend(() => {
      const { renewal } = work
      work.isOver = true
      if (chain.isDetached(link)) {
        stopTimer(renewal)
        return ending.discard(link)
      }
      if (Exit.isSuccess(exit)) {
        stopTimer(renewal)
        if (link.phase._tag === "Renewing") stopTimer(link.phase.renewal)
        const waiters = chain.succeed(link, exit.value)
        const outcome = renewal.hasFailed ? "late" : "success"
        const reported = telemetry.refreshed(outcome, waiters, times.monotonic() - renewal.begunAt)
        return Effect.zipRight(reported, ending.releaseUnheld(link))
      }
      if (!renewal.hasFailed) {
        const { cause } = exit
        return this.fail(
          link,
          renewal,
          Cause.isInterruptedOnly(cause) ? Cause.fail(failures.interrupted()) : withoutSpan(cause)
        )
      }
      // While the renewal has no outcome, the timer is still answering the waiters, and must not be stopped.
      if (renewal.outcome !== undefined) stopTimer(renewal)
      const turn = this.takeTurn(link)
      return work.isLate ? Effect.zipRight(telemetry.lateFailed(exit.cause), turn) : turn
    })
  }

  /** If a renewal has waited for this late work, it now begins its own work. */
  private takeTurn(link: Link<A, E>): Effect.Effect<void> {
    const { phase } = link
    if (phase._tag !== "Renewing" || phase.renewal.hasFailed) return Effect.void
    const error = this.settings.chain.overBudget(link, phase.isRefused)
    if (error !== undefined) return this.fail(link, phase.renewal, Cause.fail(error))
    this.forkWork(link, phase.renewal, phase.isRefused)
    return Effect.void
  }

  private fail(link: Link<A, E>, renewal: SharedRenewal<A, E>, cause: Cause.Cause<E>): Effect.Effect<void> {
    stopTimer(renewal)
    renewal.hasFailed = true
    return this.failWaiters(link, renewal, cause)
  }

  /** Asks the cooldown for how long the failure is to answer, and then answers the waiters. */
  private failWaiters(link: Link<A, E>, renewal: SharedRenewal<A, E>, cause: Cause.Cause<E>): Effect.Effect<void> {
    const { chain, cooldown, telemetry, times } = this.settings
    return Effect.suspend(() =>
      chain.isDetached(link) ? Effect.void : Effect.flatMap(
        cooldown.next(cause, times.monotonic()),
        (millis) => {
          const waiters = chain.fail(link, renewal, Exit.failCause(cause), millis)
          return waiters === undefined
            ? Effect.void
            : telemetry.refreshed(cause, waiters, times.monotonic() - renewal.begunAt, renewal.work?.isLate)
        }
      )
    )
  }

  /**
   * Fails the renewal when its `timeout` is over. Work that is in flight then goes on, late, until `lateness` is over,
   * too.
   */
  private timer(link: Link<A, E>, renewal: SharedRenewal<A, E>): Effect.Effect<void> {
    const { failures, lateness, timeout, times } = this.settings
    return Effect.interruptible(Effect.gen(this, function*() {
      const millis = Duration.toMillis(timeout)
      for (let left = millis; left > 0; left = answeredAt(renewal) + millis - times.monotonic()) {
        yield* Effect.sleep(left)
        const person = personOf(renewal)
        if (person !== undefined) yield* Deferred.await(person)
      }
      if (renewal.hasFailed) return
      renewal.hasFailed = true
      const own = renewal.work?.renewal === renewal ? renewal.work : undefined
      if (own !== undefined) {
        if (own.stage !== "trying" || lateness === 0) cut(own)
        else own.isLate = !own.isOver
      }
      yield* this.failWaiters(link, renewal, Cause.fail(failures.timedOut(own?.lastError)))
      if (own === undefined || own.isOver) return
      yield* sleep(lateness)
      // If the process was suspended meanwhile, its timers run first. A few turns of the event loop let an answer in
      // that is already in the socket's buffer.
      yield* Effect.repeatN(Effect.sleep(0), 9)
      cut(own)
    }))
  }
}

/** The person that the renewal's own work is waiting for; the time that this person takes does not count. */
const personOf = <A, E>(renewal: SharedRenewal<A, E>): Deferred.Deferred<void> | undefined =>
  renewal.work?.renewal === renewal ? renewal.work.person : undefined

/** When the last person answered for whom the renewal's own work has waited. */
const answeredAt = <A, E>(renewal: SharedRenewal<A, E>): number =>
  renewal.work?.renewal === renewal ? renewal.work.answeredAt : -Infinity

const cut = <A, E>({ fiber, isOver, stage }: RenewalWork<A, E>): void => {
  // A fiber that is interrupted before its first operation never runs, so its end would go unnoticed. Work that has not
  // started notices by itself that it is too late.
  if (!isOver && stage !== "unstarted") fiber?.unsafeInterruptAsFork(FiberId.none)
}

/** Removes the proxies in which a span wraps errors: the waiters get the errors themselves. */
const withoutSpan = <E>(cause: Cause.Cause<E>): Cause.Cause<E> =>
  Cause.match(cause, {
    onEmpty: Cause.empty as Cause.Cause<E>,
    onFail: (error) => Cause.fail(Cause.originalError(error)),
    onDie: (defect) => Cause.die(Cause.originalError(defect)),
    onInterrupt: Cause.interrupt,
    onSequential: Cause.sequential,
    onParallel: Cause.parallel
  })
