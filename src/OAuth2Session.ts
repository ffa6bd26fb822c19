/**
 * Ready-made sign-in by OAuth 2: a `Session` of tokens, with all commonly used grants, based on `oauth4webapi`.
 *
 * **What it guarantees.** However many callers find their token refused, there is one grant request, and a refresh
 * token that was spent or refused is not presented again. A rotated refresh token is written down (`persist`) before
 * any caller gets the access token. `SignInRequired` means that a person or a new credential is needed, and is never
 * used for trouble of a server or the network. An answer with a token is not rejected because of something unimportant,
 * such as a member that is null, a number as a string, or a wrong content type. Issuer, token type and id_token are
 * checked, `state`, `nonce` and `iss` before a code is used. Tokens come from the token endpoint itself: redirects are
 * not followed. No error, log, span or metric contains a token, an assertion, a secret, a body or a request.
 *
 * **What it does not.** A refresh token whose answer was lost stays spent: the request is repeated immediately, since
 * servers accept a repeat only within some seconds, if at all. The signature of an id_token that came from the token
 * endpoint over TLS is not checked (OpenID Connect Core section 3.1.3.7, rule 6). With `persist`, only one process may
 * use the key, unless the store is a `SessionStore`, which a fleet shares.
 *
 * @since 0.1.0
 */

import * as HttpClient from "@effect/platform/HttpClient"
import type * as HttpClientError from "@effect/platform/HttpClientError"
import type * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import type * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import type * as KeyValueStore from "@effect/platform/KeyValueStore"
import type * as Config from "effect/Config"
import type * as ConfigError from "effect/ConfigError"
import type * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Predicate from "effect/Predicate"
import type * as Redacted from "effect/Redacted"
import type * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Oauth from "oauth4webapi"
import * as Check from "./internal/check.js"
import * as Carrying from "./internal/oauth2/carrying.js"
import * as Configured from "./internal/oauth2/configured.js"
import * as Dpop from "./internal/oauth2/dpop.js"
import type { DiscoveryFailed, OAuth2Error, SignInRequired } from "./internal/oauth2/errors.js"
import * as Machine from "./internal/oauth2/machine.js"
import * as Settings from "./internal/oauth2/settings.js"
import * as Service from "./internal/service.js"
import * as Codec from "./internal/shared/codec.js"
import { InvalidOptions } from "./InvalidOptions.js"
import * as PersistedSession from "./PersistedSession.js"
import * as Session from "./Session.js"
import * as SessionHttpClient from "./SessionHttpClient.js"
import type * as SessionStore from "./SessionStore.js"
import * as SharedSession from "./SharedSession.js"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * Tokens as an authorization server has issued them. `expiresAt` is in epoch milliseconds: the lifetime that the server
 * stated, counted from the request; without it the tokens do not expire by time. `claims` are those of the last
 * validated id_token.
 *
 * @since 0.1.0
 * @category models
 */
export interface Tokens {
  readonly accessToken: Redacted.Redacted<string>
  readonly tokenType: "Bearer" | "DPoP"
  readonly refreshToken?: Redacted.Redacted<string> | undefined
  readonly idToken?: Redacted.Redacted<string> | undefined
  readonly scope: ReadonlySet<string>
  readonly expiresAt?: number | undefined
  readonly claims?: { readonly [claim: string]: unknown } | undefined
}

/**
 * Types that belong to `Tokens`.
 *
 * @since 0.1.0
 * @category models
 */
export declare namespace Tokens {
  /** @since 0.1.0 */
  export interface Encoded {
    readonly accessToken: string
    readonly tokenType: "Bearer" | "DPoP"
    readonly refreshToken?: string | undefined
    readonly idToken?: string | undefined
    readonly scope: ReadonlyArray<string>
    readonly expiresAt?: number | undefined
    readonly claims?: { readonly [claim: string]: unknown } | undefined
  }
}

/**
 * The schema of `Tokens`. Its encoded form is not encrypted.
 *
 * @since 0.1.0
 * @category models
 */
export const Tokens: Schema.Schema<Tokens, Tokens.Encoded> = Schema.Struct({
  accessToken: Schema.Redacted(Schema.NonEmptyString),
  tokenType: Schema.Literal("Bearer", "DPoP"),
  refreshToken: Schema.optional(Schema.Redacted(Schema.NonEmptyString)),
  idToken: Schema.optional(Schema.Redacted(Schema.NonEmptyString)),
  scope: Schema.ReadonlySet(Schema.String),
  expiresAt: Schema.optional(Schema.Number),
  claims: Schema.optional(Schema.Record({ key: Schema.String, value: Schema.Unknown }))
})

/**
 * The metadata of an authorization server (RFC 8414), for a server without discovery.
 *
 * @since 0.1.0
 * @category models
 */
export type AuthorizationServer = Oauth.AuthorizationServer

/**
 * How the client authenticates: `none`, `secretBasic`, `secretPost`, `privateKeyJwt` or `mutualTls`.
 *
 * @since 0.1.0
 * @category models
 */
export type ClientAuth =
  | { readonly _tag: "None" }
  | { readonly _tag: "SecretBasic"; readonly secret: Redacted.Redacted<string> }
  | { readonly _tag: "SecretPost"; readonly secret: Redacted.Redacted<string> }
  | ClientAuth.PrivateKeyJwt
  | { readonly _tag: "MutualTls" }

/**
 * The keys with which a client may sign.
 *
 * @since 0.1.0
 * @category models
 */
export declare namespace ClientAuth {
  /**
   * `audience` is the audience of the assertion, by default the issuer; some servers require their token endpoint.
   * `header` adds fields to its header (`x5t#S256` for Entra).
   *
   * @since 0.1.0
   */
  export interface PrivateKeyJwt extends SigningKey {
    readonly _tag: "PrivateKeyJwt"
  }
  /** @since 0.1.0 */
  export interface SigningKey {
    readonly key: CryptoKey
    readonly kid?: string | undefined
    readonly audience?: string | undefined
    readonly header?: { readonly [name: string]: string } | undefined
  }
}

/**
 * How the first tokens are obtained: `clientCredentials`, `refreshToken`, `deviceCode`, `authorizationCode`,
 * `jwtBearer` or `tokenExchange`.
 *
 * @since 0.1.0
 * @category models
 */
export type Grant =
  | { readonly _tag: "ClientCredentials" }
  | { readonly _tag: "RefreshToken"; readonly refreshToken: Redacted.Redacted<string> }
  | { readonly _tag: "DeviceCode"; readonly onPrompt: (prompt: DevicePrompt) => Effect.Effect<void> }
  | Grant.AuthorizationCode
  | { readonly _tag: "JwtBearer"; readonly assertion: Effect.Effect<Redacted.Redacted<string>, GrantError> }
  | Grant.TokenExchange

/**
 * The grants that have options of their own.
 *
 * @since 0.1.0
 * @category models
 */
export declare namespace Grant {
  /** @since 0.1.0 */
  export interface AuthorizationCode {
    readonly _tag: "AuthorizationCode"
    readonly receiver: Effect.Effect<CodeReceiver, GrantError, Scope.Scope>
    readonly parameters?: { readonly [name: string]: string } | undefined
    readonly pushed?: boolean | undefined
  }
  /** @since 0.1.0 */
  export interface TokenExchange extends TokenExchangeOptions {
    readonly _tag: "TokenExchange"
  }
}

/**
 * The code and the address that a device shows to its user. `expiresAt` is in epoch milliseconds.
 *
 * @since 0.1.0
 * @category models
 */
export interface DevicePrompt {
  readonly userCode: string
  readonly verificationUri: string
  /** The address that includes the code, for a QR code say. */
  readonly verificationUriComplete?: string | undefined
  readonly expiresAt: number
}

/**
 * Sends a browser to the authorization server, and gives the URL with which it came back to `redirectUri`. The right
 * URL is recognised by its `state`.
 *
 * @since 0.1.0
 * @category models
 */
export interface CodeReceiver {
  readonly redirectUri: string
  readonly onAuthorize: (url: URL, state: string) => Effect.Effect<URL | string, GrantError>
}

/**
 * RFC 8693.
 *
 * @since 0.1.0
 * @category models
 */
export interface TokenExchangeOptions {
  /** Gives the token to exchange. Runs for each exchange. */
  readonly subjectToken: Effect.Effect<Redacted.Redacted<string>, GrantError>
  /** `urn:ietf:params:oauth:token-type:access_token`, say. */
  readonly subjectTokenType: string
  readonly actorToken?: Effect.Effect<Redacted.Redacted<string>, GrantError> | undefined
  readonly actorTokenType?: string | undefined
  readonly requestedTokenType?: string | undefined
}

/**
 * Keeps the tokens of one process over restarts, in the `KeyValueStore` of the context. See `PersistedSession`.
 *
 * @since 0.1.0
 * @category models
 */
export interface Persist extends PersistedSession.StoreOptions {
  readonly store?: undefined
}

/**
 * Keeps the tokens of a fleet of processes, in which one process renews for all, in the `SessionStore` of the context.
 * See `SharedSession`.
 *
 * @since 0.1.0
 * @category models
 */
export interface PersistShared extends PersistedSession.StoreOptions {
  readonly store: typeof SessionStore.SessionStore
  /** As in `SharedSession`. Default: 8 seconds. */
  readonly lease?: Duration.DurationInput | undefined
}

/**
 * How a session signs in.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /**
   * The authorization server: its issuer, or its metadata. For an issuer the metadata is discovered when it is first
   * needed (OpenID Connect first, RFC 8414 after a 404) and kept for a day; failures are not kept.
   */
  readonly issuer: string | URL | AuthorizationServer
  readonly clientId: string
  /** Default: `none`, a public client. */
  readonly clientAuth?: ClientAuth | undefined
  readonly grant: Grant
  /**
   * A list, or a string with spaces. The session asks for the scope when it signs in, and renewals keep what the server
   * has granted. A `refreshToken` from elsewhere is presented with the scope each time, since it may have a wider one.
   */
  readonly scope?: string | ReadonlyArray<string> | undefined
  /** The resource servers that the tokens are for (RFC 8707). */
  readonly resource?: string | ReadonlyArray<string> | undefined
  /** The same, for servers with a parameter `audience` instead (Auth0). */
  readonly audience?: string | undefined
  /** Further parameters of each request for a token. */
  readonly parameters?: { readonly [name: string]: string } | undefined
  /**
   * Binds the tokens to a key (DPoP, RFC 9449): `true` for a key that lives as long as the session. The processes of a
   * fleet need a common key pair. A public client with `persist` needs a key pair that outlives the process, since its
   * refresh token is bound to the key, too: there `true` is an `InvalidOptions`. Default: none.
   */
  readonly dpop?: true | CryptoKeyPair | undefined
  /**
   * Keeps the tokens over restarts; `{ store: SessionStore.SessionStore, key }` also shares them with other processes.
   * Default: the tokens are lost with the process.
   */
  readonly persist?: Persist | PersistShared | undefined
  /** Allows issuers and endpoints with http, for the loopback and tests. Default: false. */
  readonly allowInsecureRequests?: boolean | undefined
  /**
   * Whether an error means that the presented credential is dead. Default: `invalid_grant`. GitHub uses
   * `bad_refresh_token`.
   */
  readonly fatal?: ((error: OAuth2Error) => boolean) | undefined
  /**
   * The tokens count as expired this much earlier, so that no token expires while a request is on its way; at most half
   * their lifetime. Default: 10 seconds.
   */
  readonly expiryLeeway?: Duration.DurationInput | undefined
  /**
   * How far the server's clock may be from this process's clock when the times of an id_token are checked: at a
   * sign-in, since a renewal has spent its refresh token. Default: 30 seconds.
   */
  readonly clockTolerance?: Duration.DurationInput | undefined
  /** As in `Session`; 0 means never ahead. Default: 1 minute. */
  readonly refreshAhead?: Duration.DurationInput | undefined
  /**
   * The bound of one renewal, as in `Session`. A person has until their code expires, or 10 minutes if the server
   * states no time. Default: 30 seconds.
   */
  readonly timeout?: Duration.DurationInput | undefined
  /** As in `Session`. Default: the same as `timeout`, and 0 with `clientCredentials`, which spends nothing. */
  readonly lateness?: Duration.DurationInput | undefined
  /**
   * Retries inside one refresh. An error that `fatal` accepts, an answer with `Retry-After`, and a sign-in for which a
   * person was asked are never retried. Default: a network error or a 5xx is retried three times, within about a
   * second, since servers accept a repeated token only for a few seconds.
   */
  readonly retry?: Schedule.Schedule<unknown, SignInError | StoreError> | undefined
  /** As in `Session`. If a `Retry-After` is longer, it counts instead. */
  readonly cooldown?: Session.Options<Tokens, SignInError | StoreError>["cooldown"]
  /** As in `Session`. */
  readonly budget?: Session.Options<Tokens>["budget"]
  /** The session's name in spans, metrics and errors. Default: `"session"`. */
  readonly name?: string | undefined
}

// -----------------------------------------------------------------------------
// errors
// -----------------------------------------------------------------------------

export {
  /**
   * The authorization server's metadata could not be obtained.
   *
   * @since 0.1.0
   * @category errors
   */
  DiscoveryFailed,
  /**
   * A request to the authorization server brought no tokens.
   *
   * @since 0.1.0
   * @category errors
   */
  OAuth2Error,
  /**
   * A person or a new credential is needed.
   *
   * @since 0.1.0
   * @category errors
   */
  SignInRequired
} from "./internal/oauth2/errors.js"

/**
 * The errors of a sign-in or a renewal.
 *
 * @since 0.1.0
 * @category errors
 */
export type SignInError = OAuth2Error | DiscoveryFailed | SignInRequired

/**
 * The further errors of a session whose tokens are stored: the first with `Persist`, the second with `PersistShared`.
 *
 * @since 0.1.0
 * @category errors
 */
export type StoreError = PersistedSession.PersistenceError | SharedSession.SharedSessionError

/**
 * The errors that the callbacks of a grant may have.
 *
 * @since 0.1.0
 * @category errors
 */
export type GrantError = OAuth2Error | SignInRequired

// -----------------------------------------------------------------------------
// client authentication
// -----------------------------------------------------------------------------

/**
 * A public client, which has no secret.
 *
 * @since 0.1.0
 * @category models
 */
export const none: ClientAuth = { _tag: "None" }

/**
 * A certificate on the connection (RFC 8705). The `HttpClient` must present it (with `NodeTicketCache.layerDispatcher`,
 * say). The server's endpoint aliases for mutual TLS are used.
 *
 * @since 0.1.0
 * @category models
 */
export const mutualTls: ClientAuth = { _tag: "MutualTls" }

/**
 * A secret in the `authorization` header (RFC 6749 section 2.3.1).
 *
 * @example
 * ```ts
 * import { OAuth2Session } from "effect-holdfast/oauth2"
 * import * as Config from "effect/Config"
 *
 * const clientAuth = Config.map(Config.redacted("CLIENT_SECRET"), OAuth2Session.secretBasic)
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const secretBasic = (secret: Redacted.Redacted<string>): ClientAuth => ({ _tag: "SecretBasic", secret })

/**
 * A secret in the body.
 *
 * @example
 * ```ts
 * import { OAuth2Session } from "effect-holdfast/oauth2"
 * import * as Config from "effect/Config"
 *
 * const clientAuth = Config.map(Config.redacted("CLIENT_SECRET"), OAuth2Session.secretPost)
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const secretPost = (secret: Redacted.Redacted<string>): ClientAuth => ({ _tag: "SecretPost", secret })

/**
 * An assertion signed with the client's private key (RFC 7523). A new one is made for each request.
 *
 * @example
 * ```ts
 * import { OAuth2Session } from "effect-holdfast/oauth2"
 *
 * declare const key: CryptoKey
 *
 * const clientAuth = OAuth2Session.privateKeyJwt({ key, kid: "2026-11" })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const privateKeyJwt = (key: CryptoKey | ClientAuth.SigningKey): ClientAuth => ({
  _tag: "PrivateKeyJwt",
  ...(Predicate.hasProperty(key, "key") ? key : { key })
})

// -----------------------------------------------------------------------------
// grants
// -----------------------------------------------------------------------------

/**
 * The client signs in as itself (RFC 6749 section 4.4).
 *
 * @since 0.1.0
 * @category models
 */
export const clientCredentials: Grant = { _tag: "ClientCredentials" }

/**
 * A refresh token from elsewhere. Once it has been spent or refused it is not presented again.
 *
 * @example
 * ```ts
 * import { OAuth2Session } from "effect-holdfast/oauth2"
 * import * as Config from "effect/Config"
 *
 * const grant = Config.map(Config.redacted("REFRESH_TOKEN"), OAuth2Session.refreshToken)
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const refreshToken = (refreshToken: Redacted.Redacted<string>): Grant => ({ _tag: "RefreshToken", refreshToken })

/**
 * The user enters a code on another device (RFC 8628). `onPrompt` shows it, and may take as long as the sign-in does:
 * it is interrupted when the sign-in has ended.
 *
 * @example
 * ```ts
 * import { OAuth2Session } from "effect-holdfast/oauth2"
 * import * as Console from "effect/Console"
 *
 * const grant = OAuth2Session.deviceCode(({ userCode, verificationUri }) =>
 *   Console.log(`Open ${verificationUri} and enter ${userCode}`)
 * )
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const deviceCode = (onPrompt: (prompt: DevicePrompt) => Effect.Effect<void>): Grant => ({
  _tag: "DeviceCode",
  onPrompt
})

/**
 * The user signs in with a browser (RFC 6749 section 4.1, PKCE). A receiver that must be opened first, such as
 * `NodeLoopbackRedirect.make`, is an effect; it is closed when the code has come. `parameters` are added to the
 * authorization request. The request is `pushed` to the server beforehand (RFC 9126) if the server requires it or the
 * option says so.
 *
 * @example
 * ```ts
 * import { NodeLoopbackRedirect } from "effect-holdfast/node"
 * import { OAuth2Session } from "effect-holdfast/oauth2"
 *
 * const grant = OAuth2Session.authorizationCode(NodeLoopbackRedirect.make(), { parameters: { prompt: "consent" } })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const authorizationCode = (
  receiver: CodeReceiver & AuthorizationOptions | Effect.Effect<CodeReceiver, GrantError, Scope.Scope>,
  options?: AuthorizationOptions
): Grant =>
  Effect.isEffect(receiver)
    ? { _tag: "AuthorizationCode", ...options, receiver }
    : {
      _tag: "AuthorizationCode",
      parameters: options?.parameters ?? receiver?.parameters,
      pushed: options?.pushed ?? receiver?.pushed,
      // `make` refuses any other value.
      receiver: isReceiver(receiver) ? Effect.succeed(receiver) : receiver as never
    }

const isReceiver = (value: unknown): boolean =>
  Predicate.hasProperty(value, "redirectUri") && Predicate.isString(value.redirectUri) &&
  Predicate.hasProperty(value, "onAuthorize") && Predicate.isFunction(value.onAuthorize)

/**
 * Further options of the authorization code grant.
 *
 * @since 0.1.0
 * @category models
 */
export interface AuthorizationOptions {
  /** Further parameters of the authorization request, such as `prompt` or `access_type`. */
  readonly parameters?: { readonly [name: string]: string } | undefined
  /** Default: if the server requires it. */
  readonly pushed?: boolean | undefined
}

/**
 * An assertion that another party has signed (RFC 7523). The effect runs for each request.
 *
 * @example
 * ```ts
 * import { OAuth2Session } from "effect-holdfast/oauth2"
 * import type * as Effect from "effect/Effect"
 * import type * as Redacted from "effect/Redacted"
 *
 * declare const assertion: Effect.Effect<Redacted.Redacted<string>>
 *
 * const grant = OAuth2Session.jwtBearer(assertion)
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const jwtBearer = (assertion: Effect.Effect<Redacted.Redacted<string>, GrantError>): Grant => ({
  _tag: "JwtBearer",
  assertion
})

/**
 * Exchanges one token for another (RFC 8693).
 *
 * @example
 * ```ts
 * import { OAuth2Session } from "effect-holdfast/oauth2"
 * import type * as Effect from "effect/Effect"
 * import type * as Redacted from "effect/Redacted"
 *
 * declare const subjectToken: Effect.Effect<Redacted.Redacted<string>>
 *
 * const grant = OAuth2Session.tokenExchange({
 *   subjectToken,
 *   subjectTokenType: "urn:ietf:params:oauth:token-type:access_token"
 * })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const tokenExchange = (options: TokenExchangeOptions): Grant => ({ _tag: "TokenExchange", ...options })

// -----------------------------------------------------------------------------
// constructors
// -----------------------------------------------------------------------------

/**
 * Makes a session of tokens. It sends no request until the first `current`. Its requests go through the `HttpClient` of
 * the context, which must not carry the session itself.
 *
 * The tokens are renewed with the refresh token. If there is no refresh token, or if it is dead, the session signs in
 * again, if the grant allows that. `end` first forgets the persisted tokens and then revokes them (RFC 7009), for at
 * most 5 seconds.
 *
 * Closing the scope interrupts a renewal in flight and does not sign out. If the server had spent the refresh token by
 * then, the next run presents it once more.
 *
 * @example
 * ```ts
 * import { OAuth2Session } from "effect-holdfast/oauth2"
 * import * as Config from "effect/Config"
 * import * as Effect from "effect/Effect"
 *
 * const program = Effect.gen(function*() {
 *   const session = yield* OAuth2Session.make({
 *     issuer: "https://login.example.com",
 *     clientId: "orders",
 *     clientAuth: OAuth2Session.secretBasic(yield* Config.redacted("CLIENT_SECRET")),
 *     grant: OAuth2Session.clientCredentials,
 *     scope: "orders:read"
 *   })
 *   const client = yield* OAuth2Session.client(session, { origins: ["https://api.example.com"] })
 *   return yield* client.get("https://api.example.com/orders")
 * })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make: {
  (
    options: Options & { readonly persist: PersistShared }
  ): Effect.Effect<
    Session.Session<Tokens, SignInError | SharedSession.SharedSessionError>,
    InvalidOptions,
    HttpClient.HttpClient | SessionStore.SessionStore | Scope.Scope
  >
  (
    options: Options & { readonly persist?: undefined }
  ): Effect.Effect<Session.Session<Tokens, SignInError>, InvalidOptions, HttpClient.HttpClient | Scope.Scope>
  (
    options: Options & { readonly persist?: Persist | undefined }
  ): Effect.Effect<
    Session.Session<Tokens, SignInError | PersistedSession.PersistenceError>,
    InvalidOptions | PersistedSession.PersistenceError,
    HttpClient.HttpClient | KeyValueStore.KeyValueStore | Scope.Scope
  >
} = (options: Options): Effect.Effect<any, any, any> => sessionOf(options)

/** A session whose tokens are kept where the options say. Its type in `make` depends on these options. */
const sessionOf = (options: Options): Effect.Effect<
  Session.Session<Tokens, any>,
  InvalidOptions | PersistedSession.PersistenceError,
  HttpClient.HttpClient | KeyValueStore.KeyValueStore | SessionStore.SessionStore | Scope.Scope
> =>
  Effect.gen(function*() {
    const settings = yield* Check.validated(() => Settings.read(options))
    const keyPair = options.dpop === true
      ? yield* Effect.promise(() => Oauth.generateKeyPair("ES256"))
      : options.dpop
    const dpop = keyPair === undefined ? undefined : Dpop.make(keyPair)
    const sessionOptions = Machine.make(options, settings, yield* HttpClient.HttpClient, dpop)
    const { persist } = options
    const session: Session.Session<Tokens, any> = persist === undefined
      ? yield* Session.make(sessionOptions)
      : persist.store === undefined
      ? yield* PersistedSession.make({ ...sessionOptions, ...persist, schema: Tokens })
      : yield* SharedSession.make({ ...sessionOptions, ...persist, schema: dpop === undefined ? unbound : bound(dpop) })
    if (dpop !== undefined) Carrying.remember(session, dpop)
    return session
  })

/** The schema of tokens for a store, without the option `dpop`: tokens that another process has bound are refused. */
const unbound: Schema.Schema<Tokens, Tokens.Encoded> = Tokens.pipe(
  Schema.filter(({ tokenType }) => tokenType === "Bearer", {
    [Codec.RefusalId]: "is bound to a key (DPoP): give all processes that share it the same key pair as `dpop`"
  })
)

/**
 * The schema of tokens that are bound to a key, for a store: tokens that another process has written are bound when
 * they are decoded.
 */
const bound = (dpop: Dpop.Dpop): Schema.Schema<Tokens, Tokens.Encoded> =>
  Schema.transform(Tokens, Schema.declare((_: unknown): _ is Tokens => true), {
    strict: true,
    decode: (tokens) => {
      Carrying.bind(tokens, dpop)
      return tokens
    },
    encode: (tokens) => tokens
  })

/**
 * An `HttpClient` that carries the session's tokens to `origins` only, with a DPoP proof if the tokens are bound to a
 * key. A request that the API refuses is sent again after one refresh for all callers; a request that is refused for
 * its nonce is sent again with the new nonce. Responses and errors show the caller's own request, without the token.
 *
 * @example
 * ```ts
 * import { OAuth2Session } from "effect-holdfast/oauth2"
 * import type * as Session from "effect-holdfast/Session"
 *
 * declare const session: Session.Session<OAuth2Session.Tokens, OAuth2Session.SignInError>
 *
 * const client = OAuth2Session.client(session, { origins: ["https://api.example.com"] })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const client = <E>(
  session: Session.Session<Tokens, E>,
  options: ClientOptions
): Effect.Effect<
  HttpClient.HttpClient.With<
    | HttpClientError.HttpClientError
    | E
    | Session.SessionError
    | SessionHttpClient.SessionRejected
    | SessionHttpClient.NotReplayable
  >,
  InvalidOptions,
  HttpClient.HttpClient
> =>
  Effect.gen(function*() {
    yield* Check.validated(() => checkOrigins(options.origins))
    const beneath = yield* HttpClient.HttpClient
    const dpop = Carrying.dpopOf(session)
    const carrying = SessionHttpClient.withSession(
      dpop === undefined ? beneath : Carrying.proving(beneath, dpop),
      session,
      { ...options, attach, rejected: dpop === undefined ? options.rejected : Carrying.judging(options.rejected) }
    )
    return Carrying.answeringOwn(carrying)
  })

/**
 * `SessionHttpClient`'s options without `attach`, and with `origins`.
 *
 * @since 0.1.0
 * @category models
 */
export interface ClientOptions extends Omit<SessionHttpClient.Options<Tokens>, "attach" | "origins"> {
  readonly origins: ReadonlyArray<string> | ((url: URL) => boolean)
}

const checkOrigins = (origins: ClientOptions["origins"]): void => {
  if (typeof origins === "function") return
  if (!Array.isArray(origins) || origins.length === 0) {
    throw new InvalidOptions({ option: "origins", value: origins, reason: "must name the origins for the tokens" })
  }
  for (const origin of origins) {
    if (typeof origin === "string" && URL.canParse(origin) && /^https?:$/.test(new URL(origin).protocol)) continue
    const value = typeof origin === "string" && !origin.includes("@") ? origin : "<redacted>"
    throw new InvalidOptions({ option: "origins", value, reason: "must be http or https origins" })
  }
}

/**
 * Puts the tokens on a request, for `SessionHttpClient.makeKeyed` and `SessionHttpClient.layer`: a bearer token, or a
 * bound token with its proof. With DPoP, pass `rejected`, too.
 *
 * @example
 * ```ts
 * import { OAuth2Session } from "effect-holdfast/oauth2"
 * import type * as Session from "effect-holdfast/Session"
 * import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
 * import * as Context from "effect/Context"
 *
 * class ApiSession extends Context.Tag("ApiSession")<
 *   ApiSession,
 *   Session.Session<OAuth2Session.Tokens, OAuth2Session.SignInError>
 * >() {}
 *
 * const ApiClient = SessionHttpClient.layer(ApiSession, {
 *   attach: OAuth2Session.attach,
 *   rejected: OAuth2Session.rejected,
 *   origins: ["https://api.example.com"]
 * })
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const attach = (
  request: HttpClientRequest.HttpClientRequest,
  tokens: Tokens
): HttpClientRequest.HttpClientRequest | Effect.Effect<HttpClientRequest.HttpClientRequest> =>
  tokens.tokenType === "Bearer"
    ? SessionHttpClient.bearer(request, tokens.accessToken)
    : Carrying.attachBound(request, tokens)

/**
 * Whether a response refuses the tokens: status 401, or `"again"` if it asks for another nonce in the proof (RFC 9449
 * section 9).
 *
 * @example
 * ```ts
 * import { OAuth2Session } from "effect-holdfast/oauth2"
 * import type * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
 *
 * const options: SessionHttpClient.Options<OAuth2Session.Tokens> = {
 *   attach: OAuth2Session.attach,
 *   rejected: OAuth2Session.rejected
 * }
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const rejected = (response: HttpClientResponse.HttpClientResponse): boolean | "again" =>
  Carrying.rejected(response)

// -----------------------------------------------------------------------------
// layers
// -----------------------------------------------------------------------------

/**
 * `make` as the layer of a tag (`Context.Tag` or `Effect.Service`).
 *
 * @example
 * ```ts
 * import { OAuth2Session } from "effect-holdfast/oauth2"
 * import type * as Session from "effect-holdfast/Session"
 * import * as Context from "effect/Context"
 *
 * class ApiSession extends Context.Tag("ApiSession")<
 *   ApiSession,
 *   Session.Session<OAuth2Session.Tokens, OAuth2Session.SignInError>
 * >() {}
 *
 * declare const key: CryptoKey
 *
 * const ApiSessionLayer = OAuth2Session.layer(ApiSession, {
 *   issuer: "https://login.example.com",
 *   clientId: "orders",
 *   clientAuth: OAuth2Session.privateKeyJwt(key),
 *   grant: OAuth2Session.clientCredentials
 * })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: {
  <Id, S>(
    tag: SessionTag<Id, S, SignInError | SharedSession.SharedSessionError>,
    options: Options & { readonly persist: PersistShared }
  ): Layer.Layer<Id, InvalidOptions, HttpClient.HttpClient | SessionStore.SessionStore>
  <Id, S>(
    tag: SessionTag<Id, S, SignInError>,
    options: Options & { readonly persist?: undefined }
  ): Layer.Layer<Id, InvalidOptions, HttpClient.HttpClient>
  <Id, S>(
    tag: SessionTag<Id, S, SignInError | PersistedSession.PersistenceError>,
    options: Options & { readonly persist?: Persist | undefined }
  ): Layer.Layer<
    Id,
    InvalidOptions | PersistedSession.PersistenceError,
    HttpClient.HttpClient | KeyValueStore.KeyValueStore
  >
} = (tag: Context.Tag<any, any>, options: Options): Layer.Layer<any, any, any> => Service.layer(tag, sessionOf(options))

/**
 * `layer`, in which each option may be a `Config`, or all options together. The error for a missing or wrong value has
 * its name.
 *
 * @example
 * ```ts
 * import { OAuth2Session } from "effect-holdfast/oauth2"
 * import type * as Session from "effect-holdfast/Session"
 * import * as Config from "effect/Config"
 * import * as Context from "effect/Context"
 *
 * class ApiSession extends Context.Tag("ApiSession")<
 *   ApiSession,
 *   Session.Session<OAuth2Session.Tokens, OAuth2Session.SignInError>
 * >() {}
 *
 * const ApiSessionLayer = OAuth2Session.layerConfig(ApiSession, {
 *   issuer: Config.string("OAUTH_ISSUER"),
 *   clientId: Config.string("OAUTH_CLIENT_ID"),
 *   clientAuth: Config.map(Config.redacted("OAUTH_CLIENT_SECRET"), OAuth2Session.secretBasic),
 *   grant: OAuth2Session.clientCredentials
 * })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig: {
  <Id, S>(
    tag: SessionTag<Id, S, SignInError | SharedSession.SharedSessionError>,
    config: Configurable<Options & { readonly persist: PersistShared }>
  ): Layer.Layer<Id, ConfigError.ConfigError | InvalidOptions, HttpClient.HttpClient | SessionStore.SessionStore>
  <Id, S>(
    tag: SessionTag<Id, S, SignInError>,
    config: Configurable<Options & { readonly persist?: undefined }>
  ): Layer.Layer<Id, ConfigError.ConfigError | InvalidOptions, HttpClient.HttpClient>
  <Id, S>(
    tag: SessionTag<Id, S, SignInError | PersistedSession.PersistenceError>,
    config: Configurable<Options & { readonly persist?: Persist | undefined }>
  ): Layer.Layer<
    Id,
    ConfigError.ConfigError | InvalidOptions | PersistedSession.PersistenceError,
    HttpClient.HttpClient | KeyValueStore.KeyValueStore
  >
} = (tag: Context.Tag<any, any>, config: Configurable<Options>): Layer.Layer<any, any, any> =>
  Service.layer(tag, Effect.flatMap(Configured.unwrap(config), sessionOf))

/**
 * Options, each of which may be a `Config`, or all options as one `Config`.
 *
 * @since 0.1.0
 * @category models
 */
export type Configurable<A> =
  | Config.Config<A>
  | { readonly [K in keyof A]: A[K] | Config.Config.Wrap<A[K]> | Configurable.Fields<NonNullable<A[K]>> }

/**
 * Types that belong to `Configurable`.
 *
 * @since 0.1.0
 * @category models
 */
export declare namespace Configurable {
  /** @since 0.1.0 */
  export type Fields<A> = { readonly [K in keyof A]: A[K] | Config.Config.Wrap<A[K]> }
}

/**
 * A tag (`Context.Tag` or `Effect.Service`) whose service is such a session.
 *
 * @since 0.1.0
 * @category models
 */
export type SessionTag<Id, S, E> =
  & Context.Tag<Id, S>
  & ([Session.Session<Tokens, E>] extends [S] ? unknown : new(session: Session.Session<Tokens, E>) => unknown)
