/**
 * The application that the storm is about: it saves orders with an API that asks for a bearer token. What it does with
 * the accounts of that API is in `../balances/client.ts`.
 *
 * ```
 * Orders           saves an order, come what may
 *   Api            asks until it is answered
 *     ApiSession   the tokens, one set for all who ask
 *       SignIn     where tokens come from
 *         Servers, HttpClient
 * ```
 */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as Undici from "@effect/platform-node/Undici"
import * as Cookies from "@effect/platform/Cookies"
import * as HttpClient from "@effect/platform/HttpClient"
import type * as HttpClientError from "@effect/platform/HttpClientError"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import * as Backoff from "effect-holdfast/Backoff"
import type { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as Session from "effect-holdfast/Session"
import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as FiberRef from "effect/FiberRef"
import * as Layer from "effect/Layer"
import type * as ParseResult from "effect/ParseResult"
import * as Redacted from "effect/Redacted"
import * as Ref from "effect/Ref"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import { createHash, randomBytes } from "node:crypto"

export class Servers extends Context.Tag("storm/Servers")<Servers, {
  readonly api: string
  /** The same over TLS. */
  readonly secureApi: string
  readonly authorization: string
}>() {}

// --- orders ------------------------------------------------------------------

export class Order extends Schema.Class<Order>("Order")({
  id: Schema.String,
  items: Schema.Array(Schema.String)
}) {}

export class Orders extends Context.Tag("storm/Orders")<Orders, {
  readonly save: (order: Order) => Effect.Effect<Order, ApiError>
}>() {
  static readonly layer: Layer.Layer<Orders, never, Api> = Layer.effect(
    Orders,
    Effect.gen(function*() {
      const api = yield* Api
      return {
        save: (order) =>
          api.ask(
            HttpClientRequest.put(`/orders/${order.id}`).pipe(HttpClientRequest.bodyUnsafeJson(order)),
            (response) =>
              Effect.flatMap(HttpClientResponse.filterStatusOk(response), HttpClientResponse.schemaBodyJson(Order))
          )
      }
    })
  )
}

// --- the API -----------------------------------------------------------------

const patience = "3 seconds"

/** Handshakes are what the machine can carry least of. */
const requestsForSecureOne = 5

/** As often as it was tried, the API could not be reached or was cut off. */
export class ApiUnreachable extends Data.TaggedError("ApiUnreachable")<{ readonly cause: unknown }> {}

/** The API answered something that this application does not understand. */
export class ApiNotUnderstood extends Data.TaggedError("ApiNotUnderstood")<{ readonly cause: unknown }> {}

/** The session failed: its user would have to look after it. */
export class NotSignedIn extends Data.TaggedError("NotSignedIn")<{
  readonly cause:
    | SignInError
    | Session.SessionError
    | SessionHttpClient.SessionRejected
    | SessionHttpClient.NotReplayable
}> {}

export type ApiError = ApiUnreachable | ApiNotUnderstood | NotSignedIn

export const reasonOf = (error: ApiError): string => error._tag === "NotSignedIn" ? error.cause._tag : error._tag

/**
 * By the reasons for which requests failed: each is what becomes of a request if the machine is too slow. A request is
 * refused again and again (`SessionRejected`) if each token has expired by the time that the API looks at it.
 */
export const areOnlySlow = (failed: Readonly<Record<string, number>>): boolean =>
  Object.keys(failed).every((reason) => ["ApiUnreachable", "RefreshTimeout", "SessionRejected"].includes(reason))

export class Api extends Context.Tag("storm/Api")<Api, {
  /**
   * `request` is to be idempotent: what may or may not have arrived is sent again. `onSent` runs each time that it is,
   * which may be long after it was asked for: a session that is renewed is waited for.
   */
  readonly ask: <A>(
    request: HttpClientRequest.HttpClientRequest,
    read: (
      response: HttpClientResponse.HttpClientResponse
    ) => Effect.Effect<A, HttpClientError.ResponseError | ParseResult.ParseError>,
    onSent?: Effect.Effect<unknown>
  ) => Effect.Effect<A, ApiError>
}>() {
  static readonly layer: Layer.Layer<Api, never, ApiSession | HttpClient.HttpClient | Servers> = Layer.effect(
    Api,
    Effect.gen(function*() {
      const { api, secureApi } = yield* Servers
      const client = SessionHttpClient.withSession(
        // So long for one attempt. To wait until the session is renewed is not part of it, and has a limit of its own.
        (yield* HttpClient.HttpClient).pipe(
          HttpClient.transformResponse(Effect.timeout(patience)),
          HttpClient.tapRequest(() => Effect.flatten(FiberRef.get(whenSent)))
        ),
        yield* ApiSession,
        {
          attach: (request, tokens) => SessionHttpClient.bearer(request, tokens.access),
          // The new token may itself be revoked while the repeated request is on its way, and in a storm is. Four
          // dead tokens for one request would be no accident.
          maxRefreshes: 3
        }
      )

      const untilItArrives = Backoff.exponential({ initial: "20 millis", max: "500 millis" }).pipe(
        Schedule.intersect(Schedule.recurs(30)),
        Schedule.whileInput((error: ApiError) => error._tag === "ApiUnreachable")
      )

      // What is sent again goes where it went before: the other address would hide what is wrong with this one.
      let asked = 0
      const nextAddress = Effect.sync(() => asked++ % requestsForSecureOne === 0 ? secureApi : api)

      return {
        ask: (request, read, onSent = Effect.void) =>
          Effect.flatMap(nextAddress, (address) =>
            client.execute(HttpClientRequest.prependUrl(request, address)).pipe(
              Effect.flatMap((response) => Effect.timeout(read(response), patience)),
              Effect.mapError((error): ApiError => {
                switch (error._tag) {
                  case "RequestError":
                  case "TimeoutException":
                    return new ApiUnreachable({ cause: error })
                  case "ResponseError":
                    return error.response.status < 400 || error.response.status >= 500
                      ? new ApiUnreachable({ cause: error })
                      : new ApiNotUnderstood({ cause: error })
                  case "ParseError":
                    return new ApiNotUnderstood({ cause: error })
                  default:
                    return new NotSignedIn({ cause: error })
                }
              }),
              Effect.retry(untilItArrives),
              Effect.locally(whenSent, onSent)
            ))
      }
    })
  )
}

/** The client is one for all requests; what is to happen when one is sent is the request's own. */
const whenSent = FiberRef.unsafeMake<Effect.Effect<unknown>>(Effect.void)

/** Connections are for sharing: a crowd that opens one each is slower than one that queues, and harder on the API. */
export const layerHttpClient: Layer.Layer<HttpClient.HttpClient> = NodeHttpClient.layerUndiciWithoutDispatcher.pipe(
  Layer.provide(Layer.scoped(
    NodeHttpClient.Dispatcher,
    Effect.acquireRelease(
      Effect.sync(() => new Undici.Agent({ connections: 100 })),
      (agent) => Effect.promise(() => agent.destroy())
    )
  ))
)

// --- the session -------------------------------------------------------------

export class ApiSession extends Context.Tag("storm/ApiSession")<ApiSession, Session.Session<Tokens, SignInError>>() {
  static readonly layer: Layer.Layer<ApiSession, InvalidOptions, SignIn> = Layer.scoped(
    ApiSession,
    Effect.gen(function*() {
      const { renew, signIn } = yield* SignIn
      return yield* Session.make({
        name: "api",
        acquire: signIn,
        renew,
        fatal: (error) => error._tag === "GrantRefused",
        // No `refreshAhead`, which one would else want: a token that is replaced before its time did not have to
        // be, and the storm counts that only those which died are replaced.
        expiresAt: (tokens) => tokens.expiresAt,
        // A connection that fails is taken for a request that did not arrive, as by the storm's proxy it does not.
        // Where that is wrong the refresh token is spent, the retry costs the grant, and `fatal` leads to a new
        // sign-in.
        retry: Backoff.exponential({ initial: "50 millis", max: "500 millis" }).pipe(
          Schedule.whileInput((error: SignInError) => error._tag === "AuthorizationUnreachable")
        ),
        timeout: "10 seconds",
        // The storm kills two tokens in a second at worst. Three times as many would be a loop.
        budget: { refreshes: 30, within: "5 seconds" }
      })
    })
  )
}

// --- signing in --------------------------------------------------------------

export interface Tokens {
  readonly access: Redacted.Redacted<string>
  readonly refresh: Redacted.Redacted<string>
  readonly expiresAt: number
}

/** The authorization server could not be reached, or was not well. */
export class AuthorizationUnreachable
  extends Data.TaggedError("AuthorizationUnreachable")<{ readonly cause: unknown }>
{}

/** `invalid_grant`, RFC 6749 section 5.2: what was presented is expired, revoked or spent. */
export class GrantRefused extends Data.TaggedError("GrantRefused") {}

/** The authorization server answered something that this application does not understand. */
export class AuthorizationNotUnderstood
  extends Data.TaggedError("AuthorizationNotUnderstood")<{ readonly cause: unknown }>
{}

export type SignInError = AuthorizationUnreachable | GrantRefused | AuthorizationNotUnderstood

/** The authorization code flow with PKCE (RFC 7636), as fits an application that cannot keep a secret. */
export class SignIn extends Context.Tag("storm/SignIn")<SignIn, {
  readonly signIn: Effect.Effect<Tokens, SignInError>
  readonly renew: (tokens: Tokens) => Effect.Effect<Tokens, SignInError>
}>() {
  static readonly layer: Layer.Layer<SignIn, never, HttpClient.HttpClient | Servers> = Layer.effect(
    SignIn,
    Effect.gen(function*() {
      const { authorization } = yield* Servers
      // Without the session: a renewal whose requests carry it would wait for itself.
      const client = yield* HttpClient.HttpClient

      const tokensFor = (grant: Readonly<Record<string, string>>) =>
        HttpClientRequest.post(`${authorization}/token`).pipe(
          HttpClientRequest.bodyUrlParams({ client_id: clientId, ...grant }),
          client.execute,
          Effect.flatMap((response) => response.status === 400 ? refusal(response) : tokensFrom(response)),
          Effect.mapError(toSignInError)
        )

      return {
        signIn: Effect.gen(function*() {
          const verifier = randomBytes(32).toString("base64url")
          const code = yield* Effect.mapError(authorizationCode(client, authorization, verifier), toSignInError)
          return yield* tokensFor({
            grant_type: "authorization_code",
            code,
            redirect_uri: redirectUri,
            code_verifier: verifier
          })
        }),
        renew: (tokens) => tokensFor({ grant_type: "refresh_token", refresh_token: Redacted.value(tokens.refresh) })
      }
    })
  )
}

const clientId = "storm"

/** A loopback address (RFC 8252 section 7.3). Nothing listens there: the code is taken from the redirect itself. */
const redirectUri = "http://127.0.0.1/signed-in"

/** What the browser of the user does: it follows the redirects, with its cookies, until one leads back here. */
const authorizationCode = Effect.fnUntraced(function*(client: HttpClient.HttpClient, server: string, verifier: string) {
  const browser = HttpClient.withCookiesRef(client, yield* Ref.make(Cookies.empty))
  const state = randomBytes(16).toString("base64url")
  let next = new URL(`${server}/auth`)
  next.search = new URLSearchParams({
    client_id: clientId,
    response_type: "code",
    redirect_uri: redirectUri,
    scope: "offline_access",
    prompt: "consent",
    state,
    code_challenge: createHash("sha256").update(verifier).digest("base64url"),
    code_challenge_method: "S256"
  }).toString()

  for (let redirects = 0; redirects < 10; redirects++) {
    const response = yield* browser.get(next)
    yield* response.text
    if (response.status >= 500) return yield* new AuthorizationUnreachable({ cause: response.status })
    const location = response.headers["location"]
    if (location === undefined) break
    next = new URL(location, next)
    if (next.href.startsWith(redirectUri)) {
      const code = next.searchParams.get("code")
      if (code === null || next.searchParams.get("state") !== state) break
      return code
    }
  }
  return yield* new AuthorizationNotUnderstood({ cause: `no code came from ${next.pathname}` })
})

const TokenResponse = Schema.Struct({
  access_token: Schema.Redacted(Schema.NonEmptyString),
  refresh_token: Schema.Redacted(Schema.NonEmptyString),
  expires_in: Schema.Positive
})

const tokensFrom = Effect.fnUntraced(function*(response: HttpClientResponse.HttpClientResponse) {
  const { access_token, expires_in, refresh_token } = yield* HttpClientResponse.filterStatusOk(response).pipe(
    Effect.flatMap(HttpClientResponse.schemaBodyJson(TokenResponse))
  )
  const expiresAt = (yield* Clock.currentTimeMillis) + expires_in * 1000
  return { access: access_token, refresh: refresh_token, expiresAt }
})

/** RFC 6749 section 5.2. */
const ErrorResponse = Schema.Struct({ error: Schema.String })

const refusal = (response: HttpClientResponse.HttpClientResponse) =>
  Effect.flatMap(
    HttpClientResponse.schemaBodyJson(ErrorResponse)(response),
    ({ error }) =>
      Effect.fail(error === "invalid_grant" ? new GrantRefused() : new AuthorizationNotUnderstood({ cause: error }))
  )

const toSignInError = (
  error: SignInError | HttpClientError.HttpClientError | ParseResult.ParseError
): SignInError => {
  switch (error._tag) {
    case "RequestError":
      return new AuthorizationUnreachable({ cause: error })
    case "ResponseError":
      // An answer that was cut off may have been the new tokens. To ask again with the old ones would be to present
      // them twice.
      return error.response.status >= 500
        ? new AuthorizationUnreachable({ cause: error })
        : new AuthorizationNotUnderstood({ cause: error })
    case "ParseError":
      return new AuthorizationNotUnderstood({ cause: error })
    default:
      return error
  }
}
