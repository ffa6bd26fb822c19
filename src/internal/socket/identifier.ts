/**
 * The identifiers by which a server acknowledges messages: the values that the user's `id` and `acknowledged` give. A
 * value's own hash and equality may throw. The hash is computed once, before the outbox takes the message or the
 * acknowledgement, and an error of the equality is thrown afterwards. So neither can interrupt a step of the outbox.
 */
import * as Equal from "effect/Equal"
import * as Hash from "effect/Hash"
import * as Predicate from "effect/Predicate"

/** Equal keys for equal identifiers. Throws what the identifier's hash throws. */
export const keyOf = (id: unknown): unknown => Predicate.isObject(id) ? new Key(id, Hash.hash(id)) : id

/** Throws the error that the key's identifier threw when it was compared. */
export const throwUnlessCompared = (key: unknown): void => {
  if (key instanceof Key && key.thrown !== undefined) throw key.thrown.cause
}

class Key implements Equal.Equal {
  thrown: { readonly cause: unknown } | undefined
  private readonly id: object
  private readonly hash: number

  constructor(id: object, hash: number) {
    this.id = id
    this.hash = hash
  }

  [Hash.symbol](): number {
    return this.hash
  }

  [Equal.symbol](that: Equal.Equal): boolean {
    try {
      return that instanceof Key && Equal.equals(this.id, that.id)
    } catch (cause) {
      // An identifier that cannot be compared is equal to no other.
      this.thrown = { cause }
      return false
    }
  }
}
