/**
 * Runs one renewal, forked into the session's scope: its work, its timer, and the chain's next state at its end.
 */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
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
  readonly telemetry: Pick<Telemetry, "refreshed">
}

export class Refreshing<A, E, R> {
  private readonly settings: Settings<A, E, R>

  constructor(settings: Settings<A, E, R>) {
    this.settings = settings
  }

  /** Forks a renewal: its timer, and its work unless late work has to be waited for. */
  readonly fork = (link: Link<A, E>, renewal: SharedRenewal<A, E>, isRefused: boolean): void => {
    renewal.timer = this.settings.fork(this.timer(link, renewal), { immediate: false })
    // Two renewals beside each other would present the same token.
    if (renewal.work === undefined) this.forkWork(link, renewal, isRefused)
  }

  private forkWork(link: Link<A, E>, renewal: SharedRenewal<A, E>, isRefused: boolean): void {
    const { budget, fork, generations, name, obtaining, times } = this.settings
    const work: RenewalWork<A, E> = {
      ...Renewal.makeWork(generations.mark),
      renewal,
      isCounted: isRefused,
      fiber: undefined,
      stage: "unstarted"
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

  /** Moves the chain according to the work's outcome, in the step after its end. */
  private afterWork(
    link: Link<A, E>,
    work: RenewalWork<A, E>,
    exit: Exit.Exit<GenerationLink<A, E>, E>
  ): Effect.Effect<void, never, R> {
    const { chain, ending, failures, name, telemetry, times } = this.settings
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
        const told = telemetry.refreshed(outcome, waiters, times.monotonic() - renewal.begunAt)
        return Effect.zipRight(told, ending.releaseUnheld(link))
      }
      if (!renewal.hasFailed) {
        const { cause } = exit
        return this.fail(
          link,
          renewal,
          Cause.isInterruptedOnly(cause) ? Cause.fail(failures.interrupted()) : withoutSpan(cause)
        )
      }
      // Until its outcome is told, the timer is telling the waiters that their time is over.
      if (renewal.outcome !== undefined) stopTimer(renewal)
      const turn = this.takeTurn(link)
      return Effect.zipRight(Effect.logDebug(`${name}: a late refresh failed`), turn)
    })
  }

  /** The renewal that has waited for late work, if there is one, begins its own. */
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
    return this.tell(link, renewal, cause)
  }

  /** Tells the waiters, when the schedule has said for how long the failure is to answer. */
  private tell(link: Link<A, E>, renewal: SharedRenewal<A, E>, cause: Cause.Cause<E>): Effect.Effect<void> {
    const { chain, cooldown, telemetry, times } = this.settings
    return Effect.suspend(() =>
      chain.isDetached(link) ? Effect.void : Effect.flatMap(
        Effect.interruptible(cooldown.next(cause, times.monotonic())),
        (millis) => {
          const waiters = chain.fail(link, renewal, Exit.failCause(cause), millis)
          return waiters === undefined
            ? Effect.void
            : telemetry.refreshed(cause, waiters, times.monotonic() - renewal.begunAt)
        }
      )
    )
  }

  /** Gives the renewal its time. Work that is in flight then goes on, late, until its own time is over. */
  private timer(link: Link<A, E>, renewal: SharedRenewal<A, E>): Effect.Effect<void> {
    const { failures, lateness, timeout } = this.settings
    return Effect.interruptible(Effect.gen(this, function*() {
      yield* Effect.sleep(timeout)
      for (let person = personOf(renewal); person !== undefined; person = personOf(renewal)) {
        yield* Deferred.await(person)
        yield* Effect.sleep(timeout)
      }
      if (renewal.hasFailed) return
      renewal.hasFailed = true
      const own = renewal.work?.renewal === renewal ? renewal.work : undefined
      if (own !== undefined && (own.stage !== "trying" || lateness === 0)) cut(own)
      yield* this.tell(link, renewal, Cause.fail(failures.timedOut()))
      if (own === undefined || own.isOver) return
      yield* sleep(lateness)
      // If the process has stood still meanwhile, its timers run first. A few turns of the event loop let in an answer
      // that already lies in the socket's buffer.
      yield* Effect.repeatN(Effect.sleep(0), 9)
      cut(own)
    }))
  }
}

/** The person that the renewal's own work is waiting for: the time that they take does not count. */
const personOf = <A, E>(renewal: SharedRenewal<A, E>): Deferred.Deferred<void> | undefined =>
  renewal.work?.renewal === renewal ? renewal.work.person : undefined

const cut = <A, E>({ fiber, isOver, stage }: RenewalWork<A, E>): void => {
  // A fiber that is interrupted before its first operation runs none, and nobody would learn of its end. Work that has
  // not started sees for itself that it comes too late.
  if (!isOver && stage !== "unstarted") fiber?.unsafeInterruptAsFork(FiberId.none)
}

/** A span wraps each error that is raised in it in a proxy. The waiters get the error itself. */
const withoutSpan = <E>(cause: Cause.Cause<E>): Cause.Cause<E> =>
  Cause.match(cause, {
    onEmpty: Cause.empty as Cause.Cause<E>,
    onFail: (error) => Cause.fail(Cause.originalError(error)),
    onDie: (defect) => Cause.die(Cause.originalError(defect)),
    onInterrupt: Cause.interrupt,
    onSequential: Cause.sequential,
    onParallel: Cause.parallel
  })
