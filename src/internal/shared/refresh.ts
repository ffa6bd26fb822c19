/**
 * Runs one refresh of the fleet: reads the row, then adopts a newer value, waits, or takes the lease and presents.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type { Row } from "../../SessionStore.js"
import { adoptRow, ended, unavailable } from "./adopting.js"
import { writeOwedEnd } from "./ending.js"
import { Holding } from "./holding.js"
import { type Parts, Trouble } from "./parts.js"
import * as Protocol from "./protocol.js"
import { pauseAfter, type Time } from "./rows.js"
import * as Settling from "./settling.js"
import * as Stage from "./stage.js"
import { waitForNews } from "./waiting.js"

/**
 * Gives a value that this process has obtained and committed. If another process has done so instead, that value
 * becomes current, and this effect ends by interruption, since it has no value of its own.
 */
export const refresh = <A, E>(parts: Parts<A, E>): Effect.Effect<A, E | Trouble> =>
  Effect.flatMap(Stage.of(parts.session()), (stage) => {
    const { memory, setCooldown } = parts
    // `end` was called before the first step of this effect.
    if (!stage.isAwaited()) return Effect.interrupt
    stage.set("pausing")
    setCooldown(undefined)
    return Effect.acquireUseRelease(
      Effect.sync(() => memory.active++),
      () => new Refresh(parts, stage).run,
      () => Effect.sync(() => memory.active--)
    )
  })

/** The next step of a refresh that has read the row. */
type Next<A> = Settling.Settled<A> | { readonly _tag: "Again" }

const again = { _tag: "Again" } as const

class Refresh<A, E> {
  private readonly parts: Parts<A, E>
  private readonly stage: Stage.Stage
  private readonly begun: number
  private readonly epoch: number
  private waits = 0
  /** The leases that other processes have taken first, in a row. */
  private lost = 0
  private heard = 0

  constructor(parts: Parts<A, E>, stage: Stage.Stage) {
    this.parts = parts
    this.stage = stage
    this.begun = parts.monotonic()
    this.epoch = parts.memory.epoch
  }

  readonly run: Effect.Effect<A, E | Trouble> = Effect.suspend(() => {
    const { memory } = this.parts
    if (memory.owedEnd !== undefined) return Effect.zipRight(writeOwedEnd(this.parts), this.run)
    if (memory.undelivered !== undefined) return Effect.succeed(memory.undelivered.is)
    const next = memory.pending === undefined
      ? this.look
      : Settling.settle(this.parts, memory.pending, this.isOutOfPatience)
    return Effect.flatMap(next, (next) => {
      if (next._tag === "Own") return Effect.succeed(next.value)
      return next._tag === "Adopted" ? Effect.interrupt : this.run
    })
  })

  private readonly isOutOfPatience = (): boolean =>
    this.stage.isLate() || this.parts.monotonic() - this.begun >= this.parts.patience

  /**
   * Whether this refresh is still attached: neither `end` in this process nor a value that a notice brought has
   * detached it.
   */
  private readonly isStillWanted = (): boolean => this.parts.memory.epoch === this.epoch && this.stage.isAwaited()

  private readonly look: Effect.Effect<Next<A>, E | Trouble> = Effect.suspend(() => {
    const { memory, rows } = this.parts
    if (!this.isStillWanted()) return Effect.interrupt
    this.heard = memory.heard
    return Effect.flatMap(
      Effect.mapError(rows.read, unavailable),
      ({ row, ...time }): Effect.Effect<Next<A>, E | Trouble> => {
        const { now } = time
        const finding = Protocol.look(row, memory.known(), now)
        switch (finding._tag) {
          case "Newer":
            return this.adopt(finding.row, time)
          case "Cooling": {
            if (!memory.isWoken && row!.revision !== memory.failedRevision) return this.coolingDown(finding.left, row!)
            return this.take(row, row, time)
          }
          case "Busy":
            return this.wait(finding.left)
          case "Behind":
            return this.take(row, Protocol.restore(row, memory.known(), now), time)
          case "Free":
            return this.take(row, row, time)
        }
      }
    )
  })

  private adopt(row: Row, time: Time): Effect.Effect<Next<A>, Trouble> {
    return Effect.flatMap(
      adoptRow(this.parts, row, time, this.isStillWanted),
      (outcome): Effect.Effect<Next<A>, Trouble> => {
        switch (outcome) {
          case "current":
            return Effect.succeed({ _tag: "Adopted" })
          case "late":
            return Effect.interrupt
          case "expired":
            return Effect.succeed(again)
          case "gone":
            return Protocol.isEnd(row) && this.waits > 0 ? Effect.fail(ended(this.parts)) : Effect.succeed(again)
        }
      }
    )
  }

  private coolingDown(left: number, { error }: Row): Effect.Effect<never, Trouble> {
    this.parts.setCooldown(left)
    const detail = `another process has failed to refresh it${error === null ? "" : ` (${error})`}`
    return new Trouble({ reason: "CoolingDown", detail, retryAfter: Duration.millis(left) })
  }

  /** Waits for a notice, but not longer than the lease lasts: a store may send no notices, or lose some. */
  private wait(left: number): Effect.Effect<Next<A>, Trouble> {
    if (this.isOutOfPatience()) return Effect.fail(contended)
    this.lost = 0
    const longest = Math.min(left, 50 * 2 ** Math.min(this.waits++, 5))
    return Effect.as(waitForNews(this.parts, this.heard, longest), again)
  }

  private take(
    read: Row | undefined,
    base: Row | undefined,
    { askedAt, now }: Time
  ): Effect.Effect<Next<A>, E | Trouble> {
    const { lease, memory, report, rows } = this.parts
    if (this.isOutOfPatience()) return Effect.fail(this.waits === 0 ? tooSlow : contended)
    const holder = crypto.randomUUID()
    const row = Protocol.take(base, { holder, lease, now })
    return Effect.flatMap(
      Effect.mapError(rows.write(read, row), unavailable),
      (isTaken): Effect.Effect<Next<A>, E | Trouble> => {
        if (!isTaken) return Effect.as(Effect.mapError(pauseAfter(++this.lost), unavailable), again)
        memory.isWoken = false
        const { origin, value, version } = row
        const taken = { holder, version, origin, isSignIn: value === null || memory.value === undefined }
        const { epoch, parts, stage } = this
        const obtained = new Holding(parts, { row, taken, askedAt, epoch, stage }).obtain
        return Effect.zipRight(
          row.uncertain ? report("took over") : Effect.void,
          Effect.flatMap(obtained, (pending): Effect.Effect<Next<A>, Trouble> =>
            pending === undefined
              ? Effect.succeed(again)
              : Settling.settle(parts, pending, this.isOutOfPatience))
        )
      }
    )
  }
}

const contended = new Trouble({ reason: "Contended", detail: "other processes held the lease all the time" })

const tooSlow = new Trouble({ reason: "StoreUnavailable", detail: "the store answers too slowly" })
