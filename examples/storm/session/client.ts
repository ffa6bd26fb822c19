/**
 * The application of the storm: it saves orders with an API that requires a bearer token. `../balances/client.ts` is
 * its client for the accounts of that API.
 *
 * ```
 * Orders           saves an order, whatever happens
 *   Api            asks until it is answered
 *     ApiSession   the tokens, one set for all who ask
 *       Servers, HttpClient
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
import { OAuth2Session } from "effect-holdfast/oauth2"
import type * as Session from "effect-holdfast/Session"
import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
import * as SessionStore from "effect-holdfast/SessionStore"
import type * as SharedSession from "effect-holdfast/SharedSession"
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as FiberRef from "effect/FiberRef"
import * as Layer from "effect/Layer"
import type * as ParseResult from "effect/ParseResult"
import * as Ref from "effect/Ref"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"

export class Servers extends Context.Tag("storm/Servers")<Servers, {
  readonly api: string
  /** The same address over TLS. */
  readonly secureApi: string
  readonly authorization: string
  /** The authorization server's issuer, which is not the address that leads through the proxy. */
  readonly issuer: string
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

/** This many plain requests for each one over TLS, since handshakes cost the machine most. */
const requestsForSecureOne = 5

/** In all attempts the API could not be reached or the connection was cut. */
export class ApiUnreachable extends Data.TaggedError("ApiUnreachable")<{ readonly cause: unknown }> {}

/** The API gave an answer that this application does not understand. */
export class ApiNotUnderstood extends Data.TaggedError("ApiNotUnderstood")<{ readonly cause: unknown }> {}

/** The session failed: a person would have to intervene. */
export class NotSignedIn extends Data.TaggedError("NotSignedIn")<{
  readonly cause:
    | OAuth2Session.SignInError
    | SharedSession.SharedSessionError
    | Session.SessionError
    | SessionHttpClient.SessionRejected
    | SessionHttpClient.NotReplayable
}> {}

export type ApiError = ApiUnreachable | ApiNotUnderstood | NotSignedIn

export const reasonOf = (error: ApiError): string => error._tag === "NotSignedIn" ? error.cause._tag : error._tag

/**
 * By the reasons for which requests failed. Each reason is a possible result of a machine that is too slow. A request
 * is refused again and again (`SessionRejected`) if each token has expired when the API checks it.
 */
export const areOnlySlow = (failed: Readonly<Record<string, number>>): boolean =>
  Object.keys(failed).every((reason) => ["ApiUnreachable", "RefreshTimeout", "SessionRejected"].includes(reason))

export class Api extends Context.Tag("storm/Api")<Api, {
  /**
   * `request` must be idempotent: it is sent again if it may or may not have arrived. `onSent` runs at each send, which
   * may be long after the call, since a renewal of the session is awaited.
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
        // The time limit of one attempt. Waiting for a renewal of the session is not part of it, and has its own limit.
        (yield* HttpClient.HttpClient).pipe(
          HttpClient.transformResponse(Effect.timeout(patience)),
          HttpClient.tapRequest(() => Effect.flatten(FiberRef.get(whenSent)))
        ),
        yield* ApiSession,
        {
          attach: OAuth2Session.attach,
          // The new token may itself be revoked while the repeated request is in flight, and in a storm this happens.
          // Four dead tokens for one request would be no accident.
          maxRefreshes: 3
        }
      )

      const untilItArrives = Backoff.exponential({ initial: "20 millis", max: "500 millis" }).pipe(
        Schedule.intersect(Schedule.recurs(30)),
        Schedule.whileInput((error: ApiError) => error._tag === "ApiUnreachable")
      )

      // A repeated request goes to the same address as before: the other address would hide a fault of this one.
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

/** There is one client for all requests. Each request has its own callback, which runs when it is sent. */
const whenSent = FiberRef.unsafeMake<Effect.Effect<unknown>>(Effect.void)

/** Connections are shared: one connection for each caller would be slower than a queue, and harder on the API. */
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

const settings = Effect.gen(function*() {
  const { authorization, issuer } = yield* Servers
  // The plain client, without the session: a renewal whose requests carried the session would wait for itself. A
  // token's lifetime is counted from the time of its request, which the server's records include.
  const client = HttpClient.mapRequest(
    yield* HttpClient.HttpClient,
    (request) => HttpClientRequest.setHeader(request, sentAt, String(Date.now()))
  )
  const options = {
    name: "api",
    // The metadata would name the server's own address, but requests must pass through the storm's proxy.
    issuer: {
      issuer,
      authorization_endpoint: `${authorization}/auth`,
      token_endpoint: `${authorization}/token`
    },
    allowInsecureRequests: true,
    clientId: "storm",
    scope: "offline_access",
    grant: OAuth2Session.authorizationCode({
      redirectUri,
      onAuthorize: (url) => Effect.retry(browse(client, url), whileUnreachable),
      parameters: { prompt: "consent" }
    }),
    // No token is renewed ahead of its expiry, since the storm counts whether only dead tokens are replaced.
    refreshAhead: 0,
    expiryLeeway: 0,
    // A failed connection counts as a request that did not arrive, since the storm's proxy does not let it arrive. If
    // it did arrive, the refresh token is spent, the retry ends the grant, and a new sign-in follows.
    retry: whileUnreachable,
    timeout: "10 seconds",
    // The storm kills at most two tokens a second. Three times as many would be a loop.
    budget: { refreshes: 30, within: "5 seconds" }
  } satisfies OAuth2Session.Options
  return { client, options }
})

/** In a single process it never fails with a `SharedSessionError`. */
export class ApiSession extends Context.Tag("storm/ApiSession")<
  ApiSession,
  Session.Session<OAuth2Session.Tokens, OAuth2Session.SignInError | SharedSession.SharedSessionError>
>() {
  static readonly layer: Layer.Layer<ApiSession, InvalidOptions, HttpClient.HttpClient | Servers> = Layer.scoped(
    ApiSession,
    Effect.flatMap(
      settings,
      ({ client, options }) => Effect.provideService(OAuth2Session.make(options), HttpClient.HttpClient, client)
    )
  )

  /** The same for the processes of a fleet that share this key and this lease. */
  static readonly layerShared = (
    key: string,
    lease: number
  ): Layer.Layer<ApiSession, InvalidOptions, HttpClient.HttpClient | Servers | SessionStore.SessionStore> =>
    Layer.scoped(
      ApiSession,
      Effect.flatMap(settings, ({ client, options }) =>
        Effect.provideService(
          OAuth2Session.make({ ...options, persist: { store: SessionStore.SessionStore, key, lease } }),
          HttpClient.HttpClient,
          client
        ))
    )
}

/** The header in which the storm's authorization server reads the time of the token request. */
const sentAt = "x-sent-at"

const whileUnreachable = Backoff.exponential({ initial: "50 millis", max: "500 millis" }).pipe(
  Schedule.whileInput((error: { readonly _tag: string; readonly error?: string }) =>
    error._tag === "OAuth2Error" && (error.error === "unreachable" || error.error === "server_error")
  )
)

// --- signing in --------------------------------------------------------------

/** A loopback address (RFC 8252 section 7.3). No server listens there: the code is taken from the redirect itself. */
const redirectUri = "http://127.0.0.1/signed-in"

/** The user's browser: it follows the redirects, with its cookies, until one leads back here. */
const browse = Effect.fnUntraced(
  function*(client: HttpClient.HttpClient, start: URL) {
    const browser = HttpClient.withCookiesRef(client, yield* Ref.make(Cookies.empty))
    let next = start
    for (let redirects = 0; redirects < 10; redirects++) {
      const response = yield* browser.get(next)
      yield* response.text
      if (response.status >= 500) return yield* new OAuth2Session.OAuth2Error({ error: "unreachable" })
      const location = response.headers["location"]
      if (location === undefined) break
      next = new URL(location, next)
      if (next.href.startsWith(redirectUri)) return next
    }
    const description = `no redirect came from ${next.pathname}`
    return yield* new OAuth2Session.OAuth2Error({ error: "invalid_response", description })
  },
  Effect.mapError((error) =>
    error._tag === "OAuth2Error" ? error : new OAuth2Session.OAuth2Error({ error: "unreachable" })
  )
)
