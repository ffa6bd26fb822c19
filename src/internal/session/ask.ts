/**
 * Answers callers: gives each caller the current generation, or the one after theirs, and holds it while they use it.
 */
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import type { Generation } from "../../Session.js"
import { addFinalizer } from "../closeScope.js"
import type { Chain, Failures, GenerationLink, Link } from "./chain.js"
import type { Ending } from "./ending.js"
import type { Generations } from "./generations.js"
import type { Inside, Wanted } from "./inside.js"
import type { Refreshing } from "./refresh.js"
import * as Renewal from "./renewal.js"

export interface Settings<A, E, R> {
  readonly chain: Chain<A, E>
  readonly generations: Generations<A>
  readonly failures: Failures<E>
  readonly refreshing: Refreshing<A, E, R>
  readonly ending: Ending<A, E, R>
}

type AnyFiber = Fiber.RuntimeFiber<unknown, unknown>
type Restore = <B, E, R>(effect: Effect.Effect<B, E, R>) => Effect.Effect<B, E, R>

export class Asking<A, E, R> {
  private readonly settings: Settings<A, E, R>

  constructor(settings: Settings<A, E, R>) {
    this.settings = settings
  }

  /** The link of the current generation. If that generation may not be served, waits for its successor. */
  readonly current: Effect.Effect<GenerationLink<A, E>, E> = Effect.withFiberRuntime((fiber) => {
    const { chain, failures } = this.settings
    const ready = chain.ready()
    if (ready !== undefined) return Effect.succeed(ready)
    const head = chain.head
    if (head === undefined) return failures.closed
    if (!chain.isServable(head) || (head.phase._tag === "Renewing" && head.phase.isRefused)) {
      return this.successor(head, fiber, false)
    }
    // The renewal runs in the background: this caller is served the current generation.
    return this.cached(head, fiber, false) === failures.reentrant ? failures.reentrant : Effect.succeed(head)
  })

  /** The link after the one whose generation was refused. */
  after(stale: Generation<A>): Effect.Effect<GenerationLink<A, E>, E> {
    const { chain, failures, generations } = this.settings
    return Effect.withFiberRuntime((fiber) => {
      const head = chain.head
      if (head === undefined) return failures.closed
      const isStraggler = !generations.isOwn(stale) || stale.number !== head.generation?.number
      return isStraggler ? this.current : this.successor(head, fiber, true)
    })
  }

  private successor(link: Link<A, E>, fiber: AnyFiber, isRefused: boolean): Effect.Effect<GenerationLink<A, E>, E> {
    return Effect.flatMap(
      this.cached(link, fiber, isRefused),
      (next) => this.settings.chain.arrived(next) ? Effect.succeed(next) : this.current
    )
  }

  private cached(link: Link<A, E>, fiber: AnyFiber, isRefused: boolean): Effect.Effect<GenerationLink<A, E>, E> {
    return this.settings.chain.successor(link, isRefused, Renewal.workOf(fiber), this.settings.refreshing.fork)
  }

  // --- holding ---------------------------------------------------------------

  private held(
    restore: Restore,
    wanted: Effect.Effect<GenerationLink<A, E>, E>
  ): Effect.Effect<GenerationLink<A, E>, E> {
    const { chain } = this.settings
    return Effect.flatMap(restore(wanted), (link) => {
      // A waiter that wakes late may find that its generation has been released or has expired.
      if (chain.isUnheld(link) || !chain.isServable(link)) return this.held(restore, this.current)
      if (link.resources !== undefined) link.resources.holders++
      return Effect.succeed(link)
    })
  }

  private letGo(link: Link<A, E>): Effect.Effect<void> {
    if (link.resources !== undefined) link.resources.holders--
    return this.settings.ending.releaseUnheld(link)
  }

  readonly hold: Inside<A, E>["hold"] = (wanted, f, onFailure) =>
    Effect.suspend(() => {
      const ready = wanted === "current" ? this.settings.chain.ready() : undefined
      if (ready !== undefined && ready.resources?.isUsed !== true) {
        const { generation } = ready
        return Effect.catchAllCause(f(generation), (cause) => onFailure(cause, generation))
      }
      return Effect.uninterruptibleMask((restore) =>
        Effect.flatMap(this.held(restore, this.wanted(wanted)), (link) => {
          const { generation, resources } = link
          const retain = resources?.isUsed !== true ? undefined : () => {
            resources.holders++
            return Effect.suspend(() => this.letGo(link))
          }
          return Effect.matchCauseEffect(restore(Effect.suspend(() => f(generation, retain))), {
            onFailure: (cause) => Effect.zipRight(this.letGo(link), restore(onFailure(cause, generation))),
            onSuccess: (value) => Effect.as(this.letGo(link), value)
          })
        })
      )
    })

  private wanted(wanted: Wanted<A>): Effect.Effect<GenerationLink<A, E>, E> {
    return wanted === "current" ? this.current : this.after(wanted.after)
  }

  readonly scoped: Effect.Effect<Generation<A>, E, Scope.Scope> = Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(
      this.held(restore, this.current),
      (link) => Effect.as(addFinalizer(() => Effect.suspend(() => this.letGo(link))), link.generation)
    )
  )
}
