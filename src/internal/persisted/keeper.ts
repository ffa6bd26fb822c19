/**
 * Keeps one session's value in a store: one operation at a time. A write is never interrupted, and a value that a later
 * sign-in has written is never removed.
 */
import type * as PlatformError from "@effect/platform/Error"
import type * as KeyValueStore from "@effect/platform/KeyValueStore"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import { isJson } from "./json.js"
import type { Sealing } from "./sealing.js"

/** Why a value could not be read or written. The description contains no part of the value. */
export class Trouble extends Data.TaggedError("Trouble")<{
  readonly reason: "Unreadable" | "Store"
  readonly description: string
}> {}

export interface Loaded<out A> {
  readonly value: A
  readonly acquiredAt: number
  /** Whether the value was written with an older key, so that it must be written again. */
  readonly isOutdated: boolean
}

export interface Keeper<in out A, out R> {
  /** Must run before the other effects. */
  readonly load: Effect.Effect<Option.Option<Loaded<A>>, Trouble, R>
  readonly write: (value: A, acquiredAt: number) => Effect.Effect<void, Trouble, R>
  /** Counts a sign-in, and gives its number. */
  readonly beginSignIn: Effect.Effect<number>
  /** Called when a sign-in has brought a value, or a renewal has brought the successor of a value. */
  readonly obtained: (value: A, by: { readonly signIn: number } | { readonly successorOf: A }) => Effect.Effect<void>
  /**
   * Removes the stored value if it comes from the same sign-in as `value`. The wait for a running operation is
   * uninterruptible; the removal itself may be interrupted.
   */
  readonly forget: (value: A) => Effect.Effect<void, Trouble>
  /** Removes the stored value if it was written before this sign-in. */
  readonly forgetBefore: (signIn: number) => Effect.Effect<void, Trouble>
}

/** A value and the sign-in that brought it or the first of its predecessors. */
interface Entry<A> {
  readonly value: A
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
  /**
   * The values that the store may hold: several if a write has failed, since a failed write may have reached the store.
   */
  let entries: ReadonlyArray<Entry<A>> = []
  /** The most recent values, the newest first. */
  let known: ReadonlyArray<Entry<A>> = []

  const learn = (entry: Entry<A>): void => {
    known = [entry, ...known].slice(0, mostKnown)
  }
  const entryOf = (value: A): Entry<A> =>
    known.find((entry) => Object.is(entry.value, value)) ?? { value, signIn: signIns }

  // The wait is uninterruptible too: an interrupted waiter of Effect's semaphore may keep its permit.
  const alone = <B, E, R>(effect: Effect.Effect<B, E, R>): Effect.Effect<B, E, R> =>
    Effect.uninterruptible(turn.withPermits(1)(effect))

  const removeIf = (isOurs: () => boolean): Effect.Effect<void, Trouble> =>
    alone(Effect.suspend(() => {
      if (!isOurs()) return Effect.void
      const removed = Effect.suspend(() => store.remove(key))
      return Effect.map(
        called("removed", Effect.catchIf(Effect.interruptible(removed), isNotFound, () => Effect.void)),
        () => {
          entries = []
        }
      )
    }))

  return {
    load: Effect.gen(function*() {
      const found = yield* called("read", Effect.suspend(() => store.get(key)))
      if (Option.isNone(found)) return Option.none()
      const { isOutdated, text } = yield* Effect.mapError(sealing.open(key, found.value), unreadable)
      const payload = yield* payloadOf(text)
      if (payload.key !== key) return yield* unreadable("was written under another key of the store")
      const value = yield* fitted(() => decode(payload.value), "does not", "cannot be read")
      const entry = entryOf(value)
      learn(entry)
      entries = [entry]
      return Option.some({ value, acquiredAt: payload.acquiredAt, isOutdated })
    }),
    write: (value, acquiredAt) =>
      alone(Effect.gen(function*() {
        const encoded = yield* fitted(() => encode(value), "would not", "cannot be written")
        if (!isJson(encoded)) return yield* unreadable("cannot be written: its encoded side is not JSON")
        const sealed = yield* sealing.seal(key, JSON.stringify({ key, acquiredAt, value: encoded }))
        const entry = entryOf(value)
        entries = [...entries, entry]
        yield* called("written", Effect.suspend(() => store.set(key, sealed)))
        entries = [entry]
      })),
    beginSignIn: Effect.sync(() => ++signIns),
    obtained: (value, by) =>
      Effect.sync(() => learn({ value, signIn: "signIn" in by ? by.signIn : entryOf(by.successorOf).signIn })),
    forget: (value) =>
      Effect.suspend(() => {
        const { signIn } = entryOf(value)
        // A write may have replaced the value by a successor, or may be about to.
        return removeIf(() => entries.some((entry) => entry.signIn === signIn))
      }),
    forgetBefore: (signIn) => removeIf(() => entries.length > 0 && entries.every((entry) => entry.signIn < signIn))
  }
}

/**
 * The bound on the values that a session may still hold or write: the current one, the values that its renewal has
 * obtained (several if `onRenewed` has failed after the write), and those of renewals that `end` has detached.
 */
const mostKnown = 16

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

/** Runs a schema. Its own error shows the value. */
const fitted = <B, R>(run: () => Effect.Effect<B, unknown, R>, not: string, cannot: string) =>
  Effect.suspend(run).pipe(
    Effect.mapError(() => unreadable(`${not} fit the schema`)),
    Effect.catchAllDefect(() => unreadable(`${cannot}: its schema has thrown`))
  )

const unreadable = (description: string) => new Trouble({ reason: "Unreadable", description })

/** A call of the store. Its error may show the value that was to be written: only the error's name is kept. */
const called = <B>(done: string, call: Effect.Effect<B, PlatformError.PlatformError>): Effect.Effect<B, Trouble> => {
  const trouble = (why: string) => new Trouble({ reason: "Store", description: `could not be ${done}: ${why}` })
  return call.pipe(
    Effect.mapError((error) => trouble(error._tag === "SystemError" ? error.reason : error._tag)),
    Effect.catchAllDefect(() => trouble("the store has thrown"))
  )
}

const isNotFound = (error: PlatformError.PlatformError): boolean =>
  error._tag === "SystemError" && error.reason === "NotFound"
