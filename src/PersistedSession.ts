/**
 * A session that survives a restart of its process: its value is kept in a `KeyValueStore` of `@effect/platform`.
 *
 * **What it guarantees.** A value is written before any caller gets it, together with the time at which it was
 * acquired, so that `maxAge` counts over restarts. `end` removes the value from the store before `onEnd` revokes it,
 * and a value that `fatal` declares dead is removed, too. `end` waits at most two seconds for the removal: then it goes
 * on, with a warning, and the value is removed when the store answers. Text that cannot be read (cut short, changed, of
 * another schema, under another name, encrypted with another key, not encrypted although a key is given) is never taken
 * for a value, and a store that fails is never taken for an empty one. No write is interrupted; closing the session
 * waits at most two seconds for it. No error or log contains any part of the value.
 *
 * **What it does not.** Only one process may use a key. Two processes with the same key each renew by themselves, and a
 * token that can be spent only once is then spent twice. A process that dies between the upstream's answer and the end
 * of the write loses the new value. Without `encryptWith` the value is stored in clear text.
 *
 * @since 0.1.0
 */

import * as KeyValueStore from "@effect/platform/KeyValueStore"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type * as Types from "effect/Types"
import * as Check from "./internal/check.js"
import * as Keeper from "./internal/persisted/keeper.js"
import * as Patience from "./internal/persisted/patience.js"
import * as Sealing from "./internal/persisted/sealing.js"
import * as Service from "./internal/service.js"
import { checkCallbacks } from "./internal/session/callbacks.js"
import type { InvalidOptions } from "./InvalidOptions.js"
import * as Session from "./Session.js"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * A key for AES-256: 32 random bytes, or their base64 (`openssl rand -base64 32`).
 *
 * @since 0.1.0
 * @category models
 */
export type Key = Redacted.Redacted<Uint8Array> | Redacted.Redacted<string>

/**
 * Options of the store that keeps a session's value.
 *
 * @since 0.1.0
 * @category models
 */
export interface StoreOptions {
  /** The name of the value in the store. Each session needs its own. */
  readonly key: string
  /**
   * Encrypts the value (AES-256-GCM). If several keys are given, the first encrypts, and all decrypt; a value that was
   * written with an older key is written again when it is read. Default: the value is written in clear text.
   */
  readonly encryptWith?: Key | ReadonlyArray<Key> | undefined
  /**
   * If the stored value cannot be read, `"fail"` (the default) fails with a `PersistenceError`; `"signIn"` logs a
   * warning and goes on as if there were no value.
   */
  readonly onUnreadable?: "fail" | "signIn" | undefined
}

/**
 * A session's options, without `initial`, which comes from the store.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<
  A,
  I,
  E = never,
  R = never,
  E2 = never,
  R2 = never,
  E3 = never,
  R3 = never,
  R4 = never,
  R5 = never
> extends Omit<Session.Options<A, E, R, E2, R2, E3, R3, R4>, "initial" | "retry" | "cooldown">, StoreOptions {
  /** How the value is written: its encoded side must be JSON. */
  readonly schema: Schema.Schema<A, I, R5>
  /** As in `Session`; the failure of a write is among its inputs. */
  readonly retry?: Session.Options<A, E, R, E2, R2, E3 | PersistenceError, R3, R4>["retry"]
  /** As in `Session`; the failure of a write is among its inputs. */
  readonly cooldown?: Session.Options<A, E, R, E2, R2, E3 | PersistenceError, R3, R4>["cooldown"]
}

// -----------------------------------------------------------------------------
// errors
// -----------------------------------------------------------------------------

/**
 * The value of a session could not be read (`Unreadable`), or the store itself failed (`Store`).
 *
 * @since 0.1.0
 * @category errors
 */
export class PersistenceError extends Data.TaggedError("PersistenceError")<{
  readonly key: string
  readonly reason: "Unreadable" | "Store"
  readonly description: string
}> {
  override get message(): string {
    return `the value of "${this.key}" ${this.description}`
  }
}

// -----------------------------------------------------------------------------
// constructors
// -----------------------------------------------------------------------------

/**
 * Makes a session whose value outlives the process. It is read when the session is made; if there is none, the first
 * `current` acquires it.
 *
 * @example
 * ```ts
 * import * as PersistedSession from "effect-holdfast/PersistedSession"
 * import * as Config from "effect/Config"
 * import * as Effect from "effect/Effect"
 * import * as Schema from "effect/Schema"
 *
 * const Token = Schema.Struct({
 *   access: Schema.Redacted(Schema.String),
 *   refresh: Schema.Redacted(Schema.String),
 *   expiresAt: Schema.Number
 * })
 * declare const signIn: Effect.Effect<typeof Token.Type, "SignInFailed">
 * declare const exchange: (token: typeof Token.Type) => Effect.Effect<typeof Token.Type, "SignInFailed">
 *
 * const session = Effect.gen(function*() {
 *   return yield* PersistedSession.make({
 *     key: "api",
 *     schema: Token,
 *     encryptWith: yield* Config.redacted("SESSION_KEY"),
 *     acquire: signIn,
 *     renew: exchange,
 *     expiresAt: (token) => token.expiresAt
 *   })
 * })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <A, I, E = never, R = never, E2 = E, R2 = never, E3 = never, R3 = never, R4 = never, R5 = never>(
  options: Options<A, I, E, R, E2, R2, E3, R3, R4, R5>
): Effect.Effect<
  Session.Session<A, E | E2 | E3 | PersistenceError>,
  InvalidOptions | PersistenceError,
  Types.NoInfer<R | R2 | R3 | R4 | R5> | KeyValueStore.KeyValueStore | Scope.Scope
> =>
  Effect.gen(function*() {
    const { keys, maxAge } = yield* Check.validated(() => validate(options))
    const { key, name = "session", renew } = options
    const store = yield* KeyValueStore.KeyValueStore
    const scope = yield* Effect.scope
    const keeper = Keeper.make(store, key, options.schema, yield* Sealing.make(keys))

    const errorOf = ({ description, reason }: Keeper.Trouble) => new PersistenceError({ key, reason, description })
    const write = (value: A, acquiredAt: number) =>
      Patience.uninterrupted(Effect.mapError(keeper.write(value, acquiredAt), errorOf))
    /** The session goes on: a failure of the store is only logged. */
    const despite = (done: string) => (effect: Effect.Effect<void, PersistenceError | Keeper.Trouble, R5>) =>
      Effect.catchAll(effect, (error) => Effect.logWarning(`${name}: ${done}: the stored value ${error.description}`))
    const forgotten = (removal: Effect.Effect<void, Keeper.Trouble>) =>
      Patience.within(
        scope,
        despite("not forgotten")(removal),
        Effect.logWarning(`${name}: not forgotten yet: the store takes more than ${Duration.format(Patience.limit)}`)
      )

    const loaded = yield* keeper.load.pipe(
      Effect.catchIf(
        (trouble) => trouble.reason === "Unreadable" && options.onUnreadable === "signIn",
        ({ description }) => Effect.as(Effect.logWarning(`${name}: the stored value ${description}`), Option.none())
      ),
      Effect.mapError(errorOf)
    )
    const initial = Option.getOrUndefined(loaded)
    if (initial?.isOutdated) {
      yield* despite("not encrypted again")(write(initial.value, initial.acquiredAt))
    }

    const isFatal = (error: E | E2): boolean =>
      options.fatal !== undefined && options.fatal(Cause.originalError(error) as E | E2)
    const acquire = Effect.flatMap(keeper.beginSignIn, (signIn) =>
      Effect.tapBoth(options.acquire, {
        onFailure: (error) =>
          renew === undefined && isFatal(error) ? forgotten(keeper.forgetBefore(signIn)) : Effect.void,
        onSuccess: (value) => keeper.obtained(value, { signIn })
      }))

    const now = yield* Clock.currentTimeMillis
    let isLoading = initial !== undefined
    const session = yield* Session.make<A, E, R | R5, E2, R2 | R5, E3 | PersistenceError, R3 | R5, R4 | R5>({
      ...options,
      acquire,
      initial: initial?.value,
      renew: renew && ((current) =>
        Effect.tapBoth(renew(current), {
          onFailure: (error) => isFatal(error) ? forgotten(keeper.forget(current)) : Effect.void,
          onSuccess: (value) => keeper.obtained(value, { successorOf: current })
        })),
      onRenewed: (generation) => {
        const written = write(generation.value, generation.acquiredAt)
        return options.onRenewed === undefined ? written : Effect.zipRight(written, options.onRenewed(generation))
      },
      onEnd: (value) => {
        const removed = forgotten(keeper.forget(value))
        return options.onEnd === undefined ? removed : Effect.zipRight(removed, options.onEnd(value))
      },
      // The session counts the age of its first value from now, but the store has the true time.
      expiresAt: (value) => {
        const expiresAt = options.expiresAt?.(value)
        return isLoading ? expiryOfStored(expiresAt, initial!.acquiredAt + (maxAge ?? Infinity), now) : expiresAt
      }
    })
    isLoading = false
    return session
  })

/**
 * The session refuses a number that is years in the past, since it looks like seconds. The expiry of a stored value was
 * already checked when the value was acquired, and may be that old only because a clock was wrong.
 */
const expiryOfStored = (expiresAt: DateTime.Utc | number | undefined, agedAt: number, now: number) => {
  const at = expiresAt === undefined ? agedAt : Math.min(agedAt, millisOf(expiresAt))
  return at > 0 && at < now ? DateTime.unsafeMake(at) : at
}

const millisOf = (at: DateTime.Utc | number): number => DateTime.isDateTime(at) ? DateTime.toEpochMillis(at) : at

const validate = (options: Options<any, any, any, any, any, any, any, any, any, any>) => {
  checkCallbacks(options)
  const { encryptWith, key, maxAge, onUnreadable, schema } = options
  Check.name("key", key)
  Check.kind("schema", schema, Schema.isSchema, "must be a Schema")
  if (onUnreadable !== undefined) Check.oneOf("onUnreadable", onUnreadable, ["fail", "signIn"])
  return {
    keys: Sealing.keysOf(encryptWith),
    maxAge: maxAge === undefined
      ? undefined
      : Duration.toMillis(Check.duration("maxAge", maxAge, { min: "1 millis", max: Duration.infinity }))
  }
}

// -----------------------------------------------------------------------------
// layers
// -----------------------------------------------------------------------------

/**
 * `make` as the layer of a tag (`Context.Tag` or `Effect.Service`). The types of the value and of the errors come from
 * the tag.
 *
 * @example
 * ```ts
 * import { NodeKeyValueStore } from "effect-holdfast/node"
 * import * as PersistedSession from "effect-holdfast/PersistedSession"
 * import type * as Session from "effect-holdfast/Session"
 * import * as Context from "effect/Context"
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 * import * as Schema from "effect/Schema"
 *
 * declare const signIn: Effect.Effect<string, "SignInFailed">
 *
 * class ApiSession extends Context.Tag("ApiSession")<
 *   ApiSession,
 *   Session.Session<string, "SignInFailed" | PersistedSession.PersistenceError>
 * >() {
 *   static readonly layer = PersistedSession.layer(this, { key: "api", schema: Schema.String, acquire: signIn }).pipe(
 *     Layer.provide(NodeKeyValueStore.layerFileSystem("/var/lib/example"))
 *   )
 * }
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = <
  Id,
  S extends Session.Session<any, any>,
  I,
  R = never,
  R2 = never,
  R3 = never,
  R4 = never,
  R5 = never
>(
  tag:
    & Context.Tag<Id, S>
    & (PersistenceError extends Session.ErrorOf<S> ? unknown
      : { readonly "the tag's session cannot fail with PersistenceError": never }),
  options: Options<Session.ValueOf<S>, I, Session.ErrorOf<S>, R, Session.ErrorOf<S>, R2, Session.ErrorOf<S>, R3, R4, R5>
): Layer.Layer<
  Id,
  InvalidOptions | PersistenceError,
  Exclude<Types.NoInfer<R | R2 | R3 | R4 | R5> | KeyValueStore.KeyValueStore, Scope.Scope>
> => Service.layer(tag, make(options))
