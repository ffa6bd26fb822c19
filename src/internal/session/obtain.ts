/**
 * Asks the application on behalf of one renewal: for a value by `acquire` or `renew`, and to write it down by
 * `onRenewed`.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import type * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import type * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import type { Generation } from "../../Session.js"
import { closeScope } from "../closeScope.js"
import { Waiters } from "../waiters.js"
import type { Chain, Failures, GenerationLink, Link, RenewalWork, Times } from "./chain.js"
import { makeLink } from "./chain.js"
import type { Ending } from "./ending.js"
import type { Generations } from "./generations.js"
import * as Resources from "./resources.js"
import type { Telemetry } from "./telemetry.js"

/**
 * The session's options, and the parts of the session that obtaining a value needs. Errors are the application's own,
 * not the proxies that a span makes of them.
 */
export interface Settings<A, E, R> {
  readonly chain: Chain<A, E>
  readonly generations: Generations<A>
  readonly times: Times
  readonly acquire: Effect.Effect<A, E, R>
  readonly renew: ((current: A) => Effect.Effect<A, E, R>) | undefined
  readonly onRenewed: ((generation: Generation<A>) => Effect.Effect<void, E, R>) | undefined
  readonly expiryOf: (value: A) => Either.Either<number, E>
  readonly isFatal: (error: unknown) => boolean
  readonly retry: Schedule.Schedule<unknown, E> | undefined
  /** The session's scope, in which the resources of generations are released at the latest. */
  readonly scope: Scope.Scope
  readonly ending: Ending<A, E, R>
  readonly failures: Failures<E>
  readonly telemetry: Pick<Telemetry, "died">
}

export class Obtaining<A, E, R> {
  private readonly settings: Settings<A, E, R>
  private isWriting = false
  private readonly whenWritten = new Waiters()

  constructor(settings: Settings<A, E, R>) {
    this.settings = settings
  }

  /** Obtains the next link. Its value has been written down, and no caller has been given it yet. */
  next(link: Link<A, E>, work: RenewalWork<A, E>): Effect.Effect<GenerationLink<A, E>, E, R> {
    const { chain, expiryOf, failures, generations, onRenewed } = this.settings
    return Effect.gen(this, function*() {
      if (link.candidate === undefined || !generations.isFresh(link.candidate.value, link.candidate.acquiredAt)) {
        yield* this.obtain(link, work)
      }
      // The value of a renewal that `end` has detached must not be written down.
      if (chain.isDetached(link)) return yield* failures.ended
      const candidate = link.candidate!
      const { acquiredAt, resources, value } = candidate
      const lifetime = generations.lifetime(acquiredAt, yield* expiryOf(value))
      candidate.number ??= generations.nextNumber()
      const generation = generations.make(candidate.number, value, lifetime)
      if (onRenewed !== undefined) {
        yield* this.trying(work, this.writeDown(link, onRenewed(generation)), () => false)
      }
      return makeLink(generation, { resources, refreshAt: yield* generations.refreshAtOf(lifetime) })
    })
  }

  /**
   * Obtains a candidate by `renew` from the last value; by `acquire` if there is no last value or it turns out to be
   * dead.
   */
  private obtain(link: Link<A, E>, work: RenewalWork<A, E>): Effect.Effect<void, E, R> {
    const { acquire, isFatal, renew } = this.settings
    const acquiring = this.trying(work, this.candidateFrom(link, acquire), isFatal)
    // A value that is kept after a fatal failure came from the `acquire` that followed the failure.
    const last = link.candidate ?? (link.isDead ? undefined : link.generation)
    if (last === undefined) return acquiring
    if (renew === undefined) {
      return Effect.tapError(acquiring, (error) => isFatal(error) ? this.markDead(link) : Effect.void)
    }
    return this.trying(work, this.candidateFrom(link, Effect.suspend(() => renew(last.value))), isFatal).pipe(
      Effect.catchIf(isFatal, (error) =>
        Effect.zipRight(
          this.markDead(link),
          Effect.suspend(() => work.renewal.hasFailed ? Effect.fail(error) : acquiring)
        ))
    )
  }

  private markDead(link: Link<A, E>): Effect.Effect<void> {
    return Effect.suspend(() => {
      const { candidate } = link
      const { chain, ending, telemetry } = this.settings
      const isNews = !link.isDead && (link.generation ?? candidate) !== undefined
      chain.markDead(link)
      return Effect.zipRight(
        isNews ? telemetry.died : Effect.void,
        candidate === undefined ? Effect.void : Effect.uninterruptible(ending.release(candidate.resources))
      )
    })
  }

  /**
   * The value is kept on the link in the step in which the effect succeeds: no interruption after that can lose it.
   * (An uninterruptible effect that is interrupted has not succeeded for Effect, which drops its value.)
   */
  private candidateFrom(link: Link<A, E>, effect: Effect.Effect<A, E, R>): Effect.Effect<void, E, R> {
    const { ending, scope, times } = this.settings
    return Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(Resources.make(scope), (resources) => {
        const former = link.candidate
        const kept = Effect.map(effect, (value) => {
          resources.seal()
          link.candidate = { value, acquiredAt: times.now(), resources }
        })
        return Effect.onExit(restore(Scope.extend(kept, resources.watched)), (exit) => {
          if (link.candidate?.resources !== resources) return closeScope(resources.scope, exit)
          return former === undefined ? Effect.void : ending.release(former.resources)
        })
      })
    )
  }

  /**
   * Runs a write of `onRenewed`. A write that `end` has detached goes on, since half a write would be worse. The next
   * write waits for its end, so that the older value cannot overwrite the newer one.
   */
  private writeDown(link: Link<A, E>, write: Effect.Effect<void, E, R>): Effect.Effect<void, E, R> {
    return Effect.zipRight(
      Waiters.until(() => this.isWriting ? undefined : Exit.void, this.whenWritten),
      Effect.acquireUseRelease(
        // Several renewals may have waited for the write. `end` has detached all of them but one, and only that one
        // writes.
        Effect.sync(() => !this.settings.chain.isDetached(link) && (this.isWriting = true)),
        (isOwn) => isOwn ? write : Effect.void,
        (isOwn) =>
          Effect.sync(() => {
            if (!isOwn) return
            this.isWriting = false
            this.whenWritten.notify()
          })
      )
    )
  }

  /** Tries, and tries again as `retry` says, but not once the renewal has failed. */
  private trying<B>(
    work: RenewalWork<A, E>,
    effect: Effect.Effect<B, E, R>,
    isFinal: (error: unknown) => boolean
  ): Effect.Effect<B, E, R> {
    const once = Effect.suspend(() => {
      work.stage = "trying"
      return effect
    })
    if (this.settings.retry === undefined) return once
    return Effect.retry(once, {
      schedule: this.settings.retry,
      while: (error) => {
        if (isFinal(error) || work.renewal.hasFailed) return false
        work.stage = "pausing"
        work.lastError = Cause.originalError(error)
        return true
      }
    })
  }
}
