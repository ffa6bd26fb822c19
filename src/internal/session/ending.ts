/**
 * Gives values up: `end` revokes a value by `onEnd`, and a generation's resources are released when no caller holds it.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import { closeScope, untilClosed } from "../closeScope.js"
import { type Chain, type Link, stopTimer, workFor } from "./chain.js"
import type { Generations } from "./generations.js"
import type { Fork } from "./refresh.js"
import * as Renewal from "./renewal.js"
import type { Resources } from "./resources.js"
import type { Telemetry } from "./telemetry.js"

export interface Settings<A, E, R> {
  readonly name: string
  readonly generations: Generations<A>
  readonly chain: Chain<A, E>
  readonly fork: Fork<R>
  readonly onEnd: ((value: A) => Effect.Effect<void, never, R>) | undefined
  readonly telemetry: Pick<Telemetry, "ended">
}

export class Ending<A, E, R> {
  private readonly settings: Settings<A, E, R>

  constructor(settings: Settings<A, E, R>) {
    this.settings = settings
  }

  /** Signs out: the value is forgotten and revoked. */
  readonly end: Effect.Effect<void> = Effect.suspend(() => this.begin())

  /** The first step of `end`, in which the revocation begins; the effect that it gives waits for the rest. */
  readonly begin = (): Effect.Effect<void> => {
    const { chain, telemetry } = this.settings
    const link = chain.end()
    if (link === undefined) return Effect.void
    const isNews = link.generation !== undefined || link.phase._tag === "Renewing"
    stopIdleTimer(link)
    const retired = this.retiring(link)
    return isNews ? Effect.zipRight(telemetry.ended, retired) : retired
  }

  /** Gives up everything that a former head holds. Its renewal goes on, and its outcome is discarded. */
  retire(link: Link<A, E> | undefined): Effect.Effect<void> {
    if (link === undefined) return Effect.void
    stopIdleTimer(link)
    return Effect.suspend(() => this.retiring(link))
  }

  /** Begins, in this step, to give up what the former head holds. The effect that this gives waits. */
  private retiring(link: Link<A, E>): Effect.Effect<void> {
    const { generation, isDead, isEnded } = link
    return this.finishing((work) =>
      (isEnded && generation !== undefined && !isDead ? this.revoke(generation.value, work) : Effect.void).pipe(
        Effect.ensuring(workFor(link) === undefined ? this.discardAs(work, link) : Effect.void),
        Effect.ensuring(this.releaseUnheld(link))
      )
    )
  }

  /** Gives up the value that a detached renewal has obtained. */
  readonly discard = (link: Link<A, E>): Effect.Effect<void, never, R> =>
    Effect.suspend(() => {
      const work = this.newWork()
      return Effect.ensuring(
        this.discardAs(work, link),
        Effect.sync(() => {
          work.isOver = true
        })
      )
    })

  private discardAs(work: Renewal.Work, link: Link<A, E>): Effect.Effect<void, never, R> {
    return Effect.suspend(() => {
      const { candidate } = link
      if (candidate === undefined || this.settings.chain.head === undefined) return Effect.void
      link.candidate = undefined
      return Effect.ensuring(
        link.isEnded ? this.revoke(candidate.value, work) : Effect.void,
        this.release(candidate.resources)
      )
    })
  }

  readonly release = ({ scope }: Resources): Effect.Effect<void> =>
    Effect.catchAllCause(
      closeScope(scope, Exit.void),
      (cause) => Effect.logError(`${this.settings.name}: a superseded generation could not be released`, cause)
    )

  /**
   * Releases what the generation acquired, if it has been superseded and no caller holds it. A caller whose fiber
   * belongs to the generation's scope does not wait for the release, because the release waits for the end of that
   * fiber.
   */
  readonly releaseUnheld = (link: Link<A, E>): Effect.Effect<void> =>
    Effect.suspend(() => {
      const { resources } = link
      if (resources === undefined || !this.settings.chain.isUnheld(link)) return Effect.void
      return Effect.asVoid(untilClosed(() => this.settings.fork(Effect.uninterruptible(this.release(resources)))))
    })

  private revoke(value: A, work: Renewal.Work): Effect.Effect<void, never, R> {
    const { onEnd } = this.settings
    return onEnd === undefined ? Effect.void : Renewal.within(work)(Effect.suspend(() => onEnd(value)))
  }

  /** Runs the effect to its end, as part of the session's own work, like `onEnd`. */
  readonly finishAsWork = (effect: Effect.Effect<void, never, R>): Effect.Effect<void> =>
    Effect.suspend(() => this.finishing((work) => Renewal.within(work)(effect)))

  /**
   * Begins to run the effect, to its end, on a fiber of the session's own. The effect that this gives waits. Closing
   * the session's scope interrupts that fiber, which still completes its work, and does not interrupt the caller.
   *
   * Effects within the given work are the session's own: one that asked the session, or waited for a renewal that waits
   * for this end, would fail instead of waiting for itself.
   */
  private finishing(effect: (work: Renewal.Work) => Effect.Effect<void, never, R>): Effect.Effect<void> {
    const work = this.newWork()
    const ending = Renewal.make<void, never>()
    ending.work = work
    this.settings.fork(Effect.uninterruptible(effect(work))).addObserver((exit) => {
      work.isOver = true
      const defects = Exit.isSuccess(exit) ? Option.none() : Cause.keepDefects(exit.cause)
      Renewal.answer(ending, Option.isNone(defects) ? Exit.void : Exit.failCause(defects.value))
    })
    return Renewal.join(ending, Exit.void)
  }

  private newWork(): Renewal.Work {
    return Renewal.makeWork(this.settings.generations.mark)
  }
}

/** A renewal without work of its own no longer needs its timer: its waiters have been answered. */
const stopIdleTimer = <A, E>({ phase }: Link<A, E>): void => {
  if (phase._tag === "Renewing" && phase.renewal.work?.renewal !== phase.renewal) stopTimer(phase.renewal)
}
