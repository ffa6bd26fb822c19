/**
 * The one error for nonsense in options: which option, what was given, and why it was refused.
 *
 * @since 0.1.0
 */

import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Inspectable from "effect/Inspectable"
import * as Option from "effect/Option"

/**
 * An option that makes no sense (a negative duration, a factor below one, an expiry that is not a time).
 * Every `make` of this library validates its options once and fails with this before anything has started.
 *
 * `value` is what was given. It is never a credential: only times, counts and callbacks are validated.
 *
 * @since 0.1.0
 * @category errors
 */
export class InvalidOptions extends Data.TaggedError("InvalidOptions")<{
  readonly option: string
  readonly value: unknown
  readonly reason: string
}> {
  override get message(): string {
    return `${this.option}: ${this.reason}, got ${Inspectable.toStringUnknown(this.value, 0)}`
  }
}

/**
 * The longest time a timer can be set for: 2³¹−1 ms, about 24.8 days. JavaScript's timers overflow beyond it, and
 * Effect's `Clock` then never wakes.
 *
 * @internal
 */
export const longestTimer = Duration.millis(2 ** 31 - 1)

/**
 * Runs a validation, its `InvalidOptions` as a typed failure.
 *
 * @internal
 */
export const validated = <A>(validate: () => A): Effect.Effect<A, InvalidOptions> =>
  Effect.try({
    try: validate,
    catch: (error) => {
      if (error instanceof InvalidOptions) return error
      throw error
    }
  })

/**
 * A duration between `min` and `max`, both included. Refuses NaN and negatives, which `Duration.decode` takes for
 * zero, and text that it cannot read.
 *
 * @internal
 */
export const duration = (
  option: string,
  value: Duration.DurationInput,
  { max = longestTimer, min }: { readonly min: Duration.DurationInput; readonly max?: Duration.Duration }
): Duration.Duration => {
  const decoded = isNonsense(value) ? Option.none() : Duration.decodeUnknown(value)
  if (Option.isNone(decoded)) {
    throw new InvalidOptions({ option, value, reason: "must be a duration that is not negative" })
  }
  if (Duration.lessThan(decoded.value, min)) {
    throw new InvalidOptions({ option, value, reason: `must be at least ${Duration.format(min)}` })
  }
  if (Duration.greaterThan(decoded.value, max)) {
    throw new InvalidOptions({ option, value, reason: `must be at most ${Duration.format(max)}` })
  }
  return decoded.value
}

const isNonsense = (value: unknown): boolean =>
  typeof value === "number"
    ? !(value >= 0)
    : typeof value === "string"
    ? value.trim().startsWith("-")
    : Array.isArray(value)
    ? value.some((part) => !(part >= 0))
    : typeof value === "bigint"
    ? value < 0n
    : false

/**
 * A whole number between `min` and `max`, both included.
 *
 * @internal
 */
export const count = (option: string, value: number, min: number, max = Number.MAX_SAFE_INTEGER): number => {
  if (!Number.isSafeInteger(value) || value < min) {
    throw new InvalidOptions({ option, value, reason: `must be a whole number of at least ${min}` })
  }
  if (value > max) throw new InvalidOptions({ option, value, reason: `must be at most ${max}` })
  return value
}
