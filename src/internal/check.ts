/**
 * Checks of options. Each check returns the value in the form that its caller needs, or throws `InvalidOptions`, which
 * `validated` turns into a typed failure.
 *
 * The error message shows the given value, so these checks must not be used for credentials.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import { InvalidOptions } from "../InvalidOptions.js"

/**
 * The longest time a timer can be set for: 2³¹−1 ms, about 24.8 days. JavaScript's timers overflow beyond it, and
 * Effect's `Clock` then never wakes.
 */
export const longestTimer = Duration.millis(2 ** 31 - 1)

/** Runs checks. Any other error than `InvalidOptions` is a defect. */
export const validated = <A>(check: () => A): Effect.Effect<A, InvalidOptions> =>
  Effect.try({
    try: check,
    catch: (error) => {
      if (error instanceof InvalidOptions) return error
      throw error
    }
  })

interface Bounds {
  readonly min: Duration.DurationInput
  /** Default: the longest time of a timer. */
  readonly max?: Duration.Duration
}

/**
 * A duration between `min` and `max`, both included. Refuses NaN and negative numbers, which `Duration.decode` takes
 * for zero, and text that is not a duration.
 */
export const duration = (
  option: string,
  value: Duration.DurationInput,
  { max = longestTimer, min }: Bounds
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

/** The same in milliseconds. */
export const millis = (option: string, value: Duration.DurationInput, bounds: Bounds): number =>
  Duration.toMillis(duration(option, value, bounds))

/** A whole number between `min` and `max`, both included. */
export const count = (option: string, value: number, min: number, max = Number.MAX_SAFE_INTEGER): number => {
  if (!Number.isSafeInteger(value) || value < min) {
    throw new InvalidOptions({ option, value, reason: `must be a whole number of at least ${min}` })
  }
  if (value > max) throw new InvalidOptions({ option, value, reason: `must be at most ${max}` })
  return value
}

/** Text that is not empty. */
export const name = (option: string, value: string): string => {
  if (typeof value === "string" && value !== "") return value
  throw new InvalidOptions({ option, value, reason: "must be a name that is not empty" })
}

/** Checks that the value is among the names that the option knows. */
export const oneOf = <A extends string>(option: string, value: A, names: ReadonlyArray<A>): A => {
  if (names.includes(value)) return value
  const quoted = names.map((name) => `"${name}"`)
  throw new InvalidOptions({
    option,
    value,
    reason: `must be ${quoted.slice(0, -1).join(", ")} or ${quoted[quoted.length - 1]}`
  })
}

/** Checks that the options are an object, since a caller without types may give anything. */
export const object = <A>(option: string, value: A): A => kind(option, value, Predicate.isRecord, "must be an object")

/** Checks that the value is an effect: a caller without types may give a promise, or the value itself. */
export const effect = (option: string, value: unknown): void => {
  kind(option, value, Effect.isEffect, "must be an Effect")
}

/** Checks that each of these options is a function or left out. `path` is what the error puts before the name. */
export const functions = <Name extends string>(
  options: { readonly [name in Name]?: unknown },
  names: ReadonlyArray<Name>,
  path = ""
): void => {
  for (const name of names) {
    if (options[name] !== undefined) kind(path + name, options[name], Predicate.isFunction, "must be a function")
  }
}

/** Checks that the value is of the kind that `is` knows. */
export const kind = <A>(option: string, value: A, is: (value: unknown) => boolean, reason: string): A => {
  if (is(value)) return value
  throw wrongKind(option, value, reason)
}

/**
 * The error for a value of the wrong kind, or for a wrong answer of a function. It shows only the kind of the value,
 * since the value may be a credential.
 */
export const wrongKind = (option: string, value: unknown, reason: string): InvalidOptions => {
  const shown = Predicate.isNullable(value) ? value : `<${Array.isArray(value) ? "array" : typeof value}>`
  return new InvalidOptions({ option, value: shown, reason })
}
