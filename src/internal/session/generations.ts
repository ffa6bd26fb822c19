/**
 * Makes a session's generations: their numbers, their mark, and when they expire.
 */
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Predicate from "effect/Predicate"
import * as Random from "effect/Random"
import { InvalidOptions } from "../../InvalidOptions.js"
import type { Generation, GenerationTypeId } from "../../Session.js"
import * as Check from "../check.js"
import type { Times } from "./chain.js"

const markKey: GenerationTypeId = Symbol.for("effect-holdfast/Session/Generation") as GenerationTypeId

/**
 * In milliseconds. An expiry further back than this must have been given in seconds: no upstream gives a value that
 * old.
 */
const tenYears = 10 * 365 * 86_400_000

export interface Settings<A> {
  readonly times: Times
  readonly expiresAt: ((value: A) => DateTime.Utc | number | undefined) | undefined
  readonly maxAge: number
  readonly refreshAhead: number | undefined
}

type Lifetime = Pick<Generation<unknown>, "acquiredAt" | "expiresAt">

export class Generations<A> {
  /** Identifies the generations and the work of this session. */
  readonly mark: object = {}
  private readonly settings: Settings<A>
  private next = 0

  constructor(settings: Settings<A>) {
    this.settings = settings
  }

  /** No number is given twice, because `refresh` recognises a generation by its number. */
  nextNumber(): number {
    return this.next++
  }

  make(number: number, value: A, lifetime: Lifetime): Generation<A> {
    return { [markKey]: this.mark, number, value, ...lifetime }
  }

  /** A value's lifetime: its own expiry, or `maxAge` if that is shorter. */
  lifetime(acquiredAt: number, expiresAt: number): Lifetime {
    return { acquiredAt, expiresAt: Math.min(expiresAt, acquiredAt + this.settings.maxAge) }
  }

  isOwn(generation: Generation<A>): boolean {
    // A caller without types may give anything.
    return generation?.[markKey] === this.mark
  }

  isFresh(value: A, acquiredAt: number): boolean {
    return Either.match(this.expiryOf(value), {
      onLeft: () => false,
      onRight: (expiresAt) => this.settings.times.now() < this.lifetime(acquiredAt, expiresAt).expiresAt
    })
  }

  /** The time at which a value expires, according to the option `expiresAt`. */
  readonly expiryOf = (value: A): Either.Either<number, InvalidOptions> => {
    const { expiresAt, times } = this.settings
    if (expiresAt === undefined) return Either.right(Infinity)
    const invalid = (got: unknown, reason: string) =>
      Either.left(new InvalidOptions({ option: "expiresAt", value: got, reason }))
    let at: DateTime.Utc | number | undefined
    try {
      at = expiresAt(value)
    } catch (error) {
      return invalid(nameOfThrown(error), "must not throw")
    }
    const millis = at === undefined ? Infinity : DateTime.isDateTime(at) ? DateTime.toEpochMillis(at) : at
    const notTime = "must be epoch milliseconds or a DateTime"
    if (typeof millis !== "number") return Either.left(Check.wrongKind("expiresAt", millis, notTime))
    if (Number.isNaN(millis)) return invalid(millis, notTime)
    return typeof at === "number" && millis > 0 && millis < times.now() - tenYears
      ? invalid(millis, "must be epoch milliseconds, and looks like seconds (multiply by 1000)")
      : Either.right(millis)
  }

  /**
   * When `current` may start a renewal in the background: in the window before the expiry, but not in the first half of
   * the lifetime.
   */
  refreshAtOf({ acquiredAt, expiresAt }: Lifetime): Effect.Effect<number> {
    const { refreshAhead } = this.settings
    if (refreshAhead === undefined || expiresAt === Infinity) return Effect.succeed(Infinity)
    const window = Math.min(refreshAhead, (expiresAt - acquiredAt) / 2)
    return Effect.map(Random.next, (random) => expiresAt - window * (1 - random / 10))
  }
}

export const nameOfThrown = (thrown: unknown): string => Predicate.isError(thrown) ? thrown.name : typeof thrown
