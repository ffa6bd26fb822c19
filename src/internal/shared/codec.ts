/** The form of a value in the row: JSON by its schema, with the session's key beside it, and sealed. */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import type * as ParseResult from "effect/ParseResult"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import { isJson } from "../persisted/json.js"
import type { Sealing } from "../persisted/sealing.js"
import type { UserEffects } from "../userEffects.js"

/** The description contains no part of the value. */
export class Unreadable extends Data.TaggedError("Unreadable")<{ readonly detail: string }> {}

export interface Codec<in out A> {
  /** Gives text that `decode` can read, or fails. */
  readonly encode: (value: A) => Effect.Effect<string, Unreadable>
  readonly decode: (text: string) => Effect.Effect<A, Unreadable>
}

/** How long a schema may take to encode or decode a value, in milliseconds. */
const longestStep = 5000

export const make = <A, I, R>(
  key: string,
  schema: Schema.Schema<A, I, R>,
  sealing: Sealing,
  calls: UserEffects
): Effect.Effect<Codec<A>, never, R> =>
  Effect.map(Effect.context<R>(), (context): Codec<A> => {
    const encode = Schema.encode(schema)
    const decode = Schema.decodeUnknown(schema)
    const encoded = (value: A) =>
      Effect.suspend(() => encode(value)).pipe(
        // A schema's own error shows the value.
        Effect.mapError(() => new Unreadable({ detail: "would not fit the schema" })),
        Effect.filterOrFail(isJson, () => new Unreadable({ detail: "would not be JSON" })),
        Effect.map((encoded) => JSON.stringify({ key, value: encoded })),
        Effect.tap((text) =>
          Effect.mapError(
            Effect.suspend(() => decode((JSON.parse(text) as { readonly value: unknown }).value)),
            () => new Unreadable({ detail: "could not be read again by its schema" })
          )
        ),
        Effect.catchAllDefect(() => new Unreadable({ detail: "cannot be written: its schema has thrown" })),
        Effect.provide(context)
      )
    const decoded = (value: unknown) =>
      Effect.suspend(() => decode(value)).pipe(
        Effect.mapError(({ issue }) => new Unreadable({ detail: refusalOf(issue) })),
        Effect.catchAllDefect(() => new Unreadable({ detail: "cannot be read: its schema has thrown" })),
        Effect.provide(context)
      )
    return {
      encode: (value) =>
        Effect.flatMap(
          calls.within(encoded(value), longestStep, () => new Unreadable({ detail: `cannot be written: ${tooSlow}` })),
          (text) => sealing.seal(key, text)
        ),
      decode: (text) =>
        sealing.open(key, text).pipe(
          Effect.mapError((detail) => new Unreadable({ detail })),
          Effect.flatMap(({ text }) => payloadOf(key, text)),
          Effect.flatMap((value) =>
            calls.within(decoded(value), longestStep, () => new Unreadable({ detail: `cannot be read: ${tooSlow}` }))
          )
        )
    }
  })

const tooSlow = `its schema has not answered within ${longestStep} ms`

/**
 * Annotates a filter around a schema: why the filter refuses a value, in words that show nothing of the value. A schema
 * may show the value in its other messages.
 */
export const RefusalId = Symbol.for("effect-holdfast/RefusalId")

const refusalOf = (issue: ParseResult.ParseIssue): string => {
  const refusal = issue._tag === "Refinement" ? issue.ast.annotations[RefusalId] : undefined
  return typeof refusal === "string" ? refusal : "does not fit the schema"
}

const payloadOf = (key: string, text: string): Effect.Effect<unknown, Unreadable> => {
  const parsed = Either.getOrUndefined(Either.try((): unknown => JSON.parse(text)))
  if (!Predicate.hasProperty(parsed, "value") || !Predicate.hasProperty(parsed, "key")) {
    return Effect.fail(new Unreadable({ detail: "is not what a shared session writes" }))
  }
  return parsed.key === key
    ? Effect.succeed(parsed.value)
    : Effect.fail(new Unreadable({ detail: "was written under another key" }))
}
