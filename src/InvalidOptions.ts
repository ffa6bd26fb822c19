/**
 * The error for invalid options: which option, the given value, and why it was refused.
 *
 * @since 0.1.0
 */

import * as Data from "effect/Data"
import * as Inspectable from "effect/Inspectable"

/**
 * An invalid option (a negative duration, a factor below one, an expiry that is not a time). Every `make` of this
 * library validates its options once, and fails with this error before anything has started.
 *
 * `value` is the given value, and never a credential: in place of one it is `<redacted>`, and in place of what may be
 * one, because it is of the wrong kind, the kind (`<string>`).
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
