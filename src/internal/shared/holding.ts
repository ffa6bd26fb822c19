/**
 * Holds the lease: presents the value, extends the lease meanwhile, and writes a failure into the row for all
 * processes.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import type { Row } from "../../SessionStore.js"
import { unavailable, unreadable } from "./adopting.js"
import type { Pending } from "./memory.js"
import { type Parts, Trouble } from "./parts.js"
import * as Protocol from "./protocol.js"
import { found, write } from "./rows.js"
import type { Stage } from "./stage.js"

/** The lease has passed to another process before the value was presented. */
export const lost = { _tag: "Lost" } as const

export class Holding<A, E> {
  private readonly parts: Parts<A, E>
  private readonly taken: Protocol.Taken
  private readonly stage: Stage
  /** When the current lease was requested, on the monotonic clock. */
  private askedAt: number
  private isUncertain: boolean
  private readonly failures: number
  /**
   * The epoch in which the refresh began: an `end` since then has detached the refresh, even while the lease was being
   * taken.
   */
  private readonly epoch: number

  constructor(
    parts: Parts<A, E>,
    { askedAt, epoch, row, stage, taken }: {
      readonly row: Row
      readonly taken: Protocol.Taken
      readonly askedAt: number
      readonly epoch: number
      readonly stage: Stage
    }
  ) {
    this.parts = parts
    this.taken = taken
    this.stage = stage
    this.askedAt = askedAt
    this.isUncertain = row.uncertain
    this.failures = row.failures
    this.epoch = epoch
  }

  /**
   * Obtains a value, and keeps it in the step in which it arrives: the token that was presented for it is spent.
   * `undefined` if the lease was lost, and nothing was presented. The lease is extended until the value is encoded, or
   * the failure is written: a schema may take its time.
   */
  readonly obtain: Effect.Effect<Pending<A> | undefined, E | Trouble> = Effect.uninterruptibleMask((restore) =>
    this.whileExtending(Effect.flatMap(Effect.exit(restore(this.tries)), (exit) => {
      // An interruption may come between the value's arrival and the end of the effect.
      const kept = this.arrived === undefined ? undefined : this.keep(this.arrived)
      if (Exit.isSuccess(exit)) return kept ?? Effect.succeed(undefined)
      return Effect.zipRight(kept ?? this.giveBack(exit.cause), Effect.failCause(exit.cause))
    }))
  )

  private arrived: { readonly value: A; readonly goodUntil: number } | undefined

  // --- presenting ------------------------------------------------------------

  private readonly tries: Effect.Effect<A | typeof lost, E | Trouble> = Effect.suspend(() => {
    const next = this.parts.makeRetry()
    const again: Effect.Effect<A | typeof lost, E | Trouble> = Effect.suspend(() => this.present).pipe(
      Effect.catchAll((error) => {
        if (error instanceof Trouble || this.parts.isFatal(error)) return Effect.fail(error)
        if (this.stage.isLate()) return Effect.fail(error)
        return Effect.flatMap(next(error), (delay) => {
          if (delay === undefined) return Effect.fail(error)
          this.stage.set("pausing")
          this.stage.failed(Cause.originalError(error))
          return Effect.zipRight(
            Effect.sleep(delay),
            Effect.suspend(() => this.stage.isLate() ? Effect.fail(error) : again)
          )
        })
      })
    )
    return again
  })

  /** Presents the value once. The same step checks the lease, and that `end` has not been called. */
  private readonly present: Effect.Effect<A | typeof lost, E | Trouble> = Effect.suspend(() => {
    const { acquire, isUnspent, lease, lifetimeOf, memory, monotonic, renew } = this.parts
    if (memory.epoch !== this.epoch) return Effect.interrupt
    if (!Protocol.mayPresent({ askedAt: this.askedAt, lease }, monotonic())) {
      return Effect.flatMap(
        Effect.mapError(this.extend, unavailable),
        (isExtended) => isExtended ? this.present : Effect.succeed(lost)
      )
    }
    this.stage.set("trying")
    const { value } = memory
    const uncertain = this.isUncertain
    // The presentation is uncertain until its outcome is known.
    this.isUncertain = true
    const isSignIn = value === undefined || this.taken.isSignIn
    return Effect.suspend(() => isSignIn ? acquire : renew(value.is, { uncertain })).pipe(
      Effect.map((value) => {
        const lifetime = lifetimeOf(value)
        this.arrived = { value, goodUntil: lifetime === Infinity ? Infinity : monotonic() + lifetime }
        return value
      }),
      Effect.tapError((error) =>
        Effect.sync(() => {
          this.isUncertain = Protocol.afterFailure(uncertain, isUnspent(error))
        })
      )
    )
  })

  private keep(
    { goodUntil, value }: { readonly value: A; readonly goodUntil: number }
  ): Effect.Effect<Pending<A>, Trouble> {
    const { codec, memory, onEnd, session } = this.parts
    const { taken } = this
    // `end` in this process has detached the renewal. The row is marked as ended already, or will be.
    const isEnded = () => memory.epoch !== this.epoch
    const revoked = Effect.suspend(() => Effect.zipRight(session().finish(onEnd(value)), Effect.interrupt))
    if (isEnded()) return revoked
    return codec.encode(value).pipe(
      // Encrypting takes a while, and `end` may be called meanwhile.
      Effect.flatMap((encoded) =>
        isEnded() ? revoked : Effect.succeed(memory.pending = { value, encoded, taken, goodUntil })
      ),
      Effect.catchAll((refusal) => this.discard(value, unreadable(refusal)))
    )
  }

  /**
   * Gives up a value that cannot be written, and revokes it. The token that was presented for it is spent: the row's
   * value is ended, so that no process presents it again.
   */
  private discard(value: A, error: Trouble): Effect.Effect<never, Trouble> {
    const { memory, onEnd, session } = this.parts
    return this.giveBackSpent(error).pipe(
      Effect.zipRight(Effect.suspend(() => {
        if (memory.epoch === this.epoch) session().forget()
        return session().finish(onEnd(value))
      })),
      Effect.zipRight(Effect.fail(error))
    )
  }

  // --- the lease -------------------------------------------------------------

  private whileExtending<B, E2>(effect: Effect.Effect<B, E2>): Effect.Effect<B, E2> {
    const third = this.parts.lease / 3
    // If the store does not answer, the next extension is tried after a third of the lease. The commit shows whether
    // the lease was lost.
    const extending = Effect.forever(Effect.zipRight(Effect.sleep(third), Effect.ignore(this.extend)))
    return Effect.acquireUseRelease(
      Effect.forkDaemon(Effect.interruptible(extending)),
      () => effect,
      (fiber) => Fiber.interruptFork(fiber)
    )
  }

  private readonly extend = Effect.suspend(() => {
    const { lease, monotonic, rows } = this.parts
    const askedAt = monotonic()
    return Effect.map(
      rows.change(({ now, row }) => {
        const extended = Protocol.extend(row, { holder: this.taken.holder, lease, now })
        return extended === undefined ? found(lost) : write(extended)
      }),
      (change) => {
        if (change._tag === "Found") return false
        this.askedAt = askedAt
        return true
      }
    )
  })

  // --- failing ---------------------------------------------------------------

  /** Gives the lease back with the failure in the row. */
  private giveBack(cause: Cause.Cause<E | Trouble>): Effect.Effect<void> {
    const { cooldownOf, isFatal, setCooldown } = this.parts
    const error = Option.getOrUndefined(Cause.failureOption(cause))
    const isOwn = error !== undefined && !(error instanceof Trouble)
    return Effect.gen(this, function*() {
      // If this process closes, the other processes need not wait.
      const isFailure = isOwn || Cause.isDie(cause) || this.stage.isLate()
      const cooldown = isFailure ? yield* cooldownOf(this.failures + 1, cause as Cause.Cause<E>) : 0
      if (isOwn) setCooldown(cooldown)
      yield* this.writeFailure({ isFatal: isOwn && isFatal(error), error: tagOf(error), cooldown })
    })
  }

  /** Gives the lease back, and ends the row's value. */
  private giveBackSpent(error: Trouble): Effect.Effect<void> {
    const { cooldownOf, setCooldown } = this.parts
    return Effect.gen(this, function*() {
      const cooldown = yield* cooldownOf(this.failures + 1, Cause.fail(error) as Cause.Cause<any>)
      setCooldown(cooldown)
      yield* this.writeFailure({ isFatal: true, error: error.reason, cooldown })
    })
  }

  /** If the store does not answer, the lease runs out by itself. */
  private writeFailure(failed: Omit<Protocol.Failure, "uncertain">): Effect.Effect<void> {
    const { memory, name, report, rows } = this.parts
    return Effect.gen(this, function*() {
      const failure: Protocol.Failure = { ...failed, uncertain: this.isUncertain }
      // If the epoch has changed, this process remembers a later sign-in, which this failure does not concern.
      if (failure.isFatal && memory.epoch === this.epoch) memory.refuse()
      const change = yield* rows.change(({ now, row }) => {
        const failed = Protocol.fail(row, this.taken.holder, failure, now)
        return failed === undefined ? found(lost) : write(failed)
      })
      if (change._tag === "Written") memory.failedRevision = change.row.revision
      if (change._tag === "Written" && change.row.dead && memory.epoch === this.epoch) {
        memory.remember(change.row, change.time, undefined)
      }
      yield* report("gave up")
    }).pipe(
      Effect.catchAll(({ detail }) => Effect.logWarning(`${name}: the failure could not be written: ${detail}`))
    )
  }
}

/** The error's tag, which contains no secret. */
const tagOf = (error: unknown): string =>
  typeof error === "object" && error !== null && "_tag" in error && typeof error._tag === "string"
    ? error._tag
    : "Failure"
