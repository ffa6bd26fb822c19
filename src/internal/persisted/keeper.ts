/**
 * Keeps one session's value in a store: one operation at a time, none of them interrupted, and nothing removed that a
 * later sign-in has written.
 */
import type * as PlatformError from "@effect/platform/Error"
import type * as KeyValueStore from "@effect/platform/KeyValueStore"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import type { Sealing } from "./sealing.js"

/** What has gone wrong. The description holds nothing of the value. */
export class Trouble extends Data.TaggedError("Trouble")<{
  readonly reason: "Unreadable" | "Store"
  readonly description: string
}> {}

export interface Loaded<out A> {
  readonly value: A
  readonly acquiredAt: number
  /** Written with an older key, and to be written anew. */
  readonly isOutdated: boolean
}

export interface Keeper<in out A, out R> {
  readonly load: Effect.Effect<Option.Option<Loaded<A>>, Trouble, R>
  readonly write: (value: A, acquiredAt: number) => Effect.Effect<void, Trouble, R>
  /** Counts a sign-in, from whose beginning on what is written belongs to it. */
  readonly beginSignIn: Effect.Effect<number>
  /** Removes what was written of the sign-in that this value belongs to. */
  readonly forget: (value: A) => Effect.Effect<void, Trouble>
  /** Removes what was written before this sign-in. */
  readonly forgetBefore: (signIn: number) => Effect.Effect<void, Trouble>
}

/** A value that the store may hold. */
interface Entry<A> {
  readonly value: A
  /** How many sign-ins had begun when it was written: a renewal's value belongs to the last of them. */
  readonly signIn: number
}

export const make = <A, I, R>(
  store: KeyValueStore.KeyValueStore,
  key: string,
  schema: Schema.Schema<A, I, R>,
  sealing: Sealing
): Keeper<A, R> => {
  const decode = Schema.decodeUnknown(schema)
  const encode = Schema.encode(schema)
  const turn = Effect.unsafeMakeSemaphore(1)
  let signIns = 0
  /** More than one where a write has failed: nobody knows whether it reached the store. */
  let entries: ReadonlyArray<Entry<A>> = []

  // The wait is uninterruptible too: an interrupted waiter of Effect's semaphore may keep its permit.
  const alone = <B, E, R>(effect: Effect.Effect<B, E, R>): Effect.Effect<B, E, R> =>
    Effect.uninterruptible(turn.withPermits(1)(effect))

  const removeIf = (isOurs: () => boolean): Effect.Effect<void, Trouble> =>
    alone(Effect.suspend(() => {
      if (!isOurs()) return Effect.void
      const removed = Effect.catchIf(store.remove(key), isNotFound, () => Effect.void)
      return Effect.mapBoth(removed, {
        onFailure: troubleWith("removed"),
        onSuccess: () => {
          entries = []
        }
      })
    }))

  return {
    load: alone(Effect.gen(function*() {
      const found = yield* Effect.mapError(store.get(key), troubleWith("read"))
      if (Option.isNone(found)) return Option.none()
      const { isOutdated, text } = yield* Effect.mapError(sealing.open(key, found.value), unreadable)
      const payload = yield* payloadOf(text)
      if (payload.key !== key) return yield* unreadable("was written under another key of the store")
      // A schema's own error shows the value.
      const value = yield* Effect.mapError(decode(payload.value), () => unreadable("does not fit the schema"))
      entries = [{ value, signIn: signIns }]
      return Option.some({ value, acquiredAt: payload.acquiredAt, isOutdated })
    })),
    write: (value, acquiredAt) =>
      alone(Effect.gen(function*() {
        const encoded = yield* Effect.mapError(encode(value), () => unreadable("would not fit the schema"))
        const sealed = yield* sealing.seal(key, JSON.stringify({ key, acquiredAt, value: encoded }))
        const entry = { value, signIn: signIns }
        entries = [...entries, entry]
        yield* Effect.mapError(store.set(key, sealed), troubleWith("written"))
        entries = [entry]
      })),
    beginSignIn: Effect.sync(() => ++signIns),
    forget: (value) =>
      Effect.suspend(() => {
        const isValue = (entry: Entry<A>) => Object.is(entry.value, value)
        // A write under way may put a successor of the same sign-in in its place.
        const known = entries.find(isValue)
        return removeIf(() => entries.some((entry) => isValue(entry) || entry.signIn === known?.signIn))
      }),
    forgetBefore: (signIn) => removeIf(() => entries.length > 0 && entries.every((entry) => entry.signIn < signIn))
  }
}

const payloadOf = (text: string) => {
  const parsed = Either.try((): unknown => JSON.parse(text))
  const payload = Either.isRight(parsed) ? parsed.right : undefined
  return Predicate.hasProperty(payload, "value") &&
      Predicate.hasProperty(payload, "key") &&
      Predicate.hasProperty(payload, "acquiredAt") &&
      typeof payload.acquiredAt === "number"
    ? Effect.succeed({ key: payload.key, acquiredAt: payload.acquiredAt, value: payload.value })
    : Effect.fail(unreadable("is not what a session writes"))
}

const unreadable = (description: string) => new Trouble({ reason: "Unreadable", description })

/** The store's error may show what was to be written: it is named, not kept. */
const troubleWith = (done: string) => (error: PlatformError.PlatformError): Trouble =>
  new Trouble({
    reason: "Store",
    description: `could not be ${done}: ${error._tag === "SystemError" ? error.reason : error._tag}`
  })

const isNotFound = (error: PlatformError.PlatformError): boolean =>
  error._tag === "SystemError" && error.reason === "NotFound"
