/**
 * Validation of options, in one place so that every `make` refuses the same nonsense with the same words.
 * The functions throw `InvalidOptions`; `validated` is where an effectful `make` turns that into a failure.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { InvalidOptions } from "../InvalidOptions.js"

/**
 * The longest time a timer can be set for: 2³¹−1 ms, about 24.8 days. JavaScript's timers overflow
 * beyond it, and Effect's `Clock` then never wakes.
 */
export const longestTimer = Duration.millis(2 ** 31 - 1)

/** Runs a validation, its `InvalidOptions` as a typed failure. */
export const validated = <A>(validate: () => A): Effect.Effect<A, InvalidOptions> =>
  Effect.try({
    try: validate,
    catch: (error) => {
      if (error instanceof InvalidOptions) return error
      throw error
    }
  })

/** The bounds of a duration: `min` and `max` are inclusive, and `min` is 1 ms unless zero is sensible. */
interface DurationBounds {
  readonly min: Duration.DurationInput
  readonly max?: Duration.Duration
}

/** Decodes a duration; refuses NaN, negatives and unreadable text, which `Duration.decode` takes for zero. */
export const duration = (
  option: string,
  value: Duration.DurationInput,
  { max = longestTimer, min }: DurationBounds
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

/** A whole number of at least `min`. */
export const count = (option: string, value: number, min: number): number => {
  if (!Number.isSafeInteger(value) || value < min) {
    throw new InvalidOptions({ option, value, reason: `must be a whole number of at least ${min}` })
  }
  return value
}
