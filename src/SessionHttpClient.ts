/**
 * An `HttpClient` that carries a `Session`: it attaches the session's value to each request. When the server refuses
 * the value, it refreshes the session once for all callers, and sends the request again.
 *
 * **What it guarantees.** One request is never sent more than `1 + maxRefreshes` times, whatever the server does; a
 * `rejected` that gives `"again"` adds at most ten, and each send may follow `followRedirects` redirects. A request
 * that is sent again is built again from the caller's request: it contains no header, cookie or URL of the refused
 * generation. A body that can be read only once is never sent again empty. Requests that come while a refused
 * generation is being renewed wait for its successor.
 *
 * The body of a refusal is read during the refresh and cut after a second or 64 KiB, so that a refresh which needs the
 * same connection gets it, even from a pool with one connection. If the caller is given that response, its body can be
 * read again in every way; a body that was cut gives a `ResponseError`. A status filter beneath the session
 * (`HttpClient.filterStatusOk`) hides no refusal from it.
 *
 * An error shows the caller's request, without the session's value.
 *
 * **What it does not.** A served response is the wrapped client's own: to print it, or an error of reading its body,
 * shows the request that was sent, with the value. The client does not retry transport errors, and it does not make a
 * request idempotent: a server that acts on a request and answers 401 afterwards will see it twice. Without `origins`
 * the value is sent wherever a request goes. If redirects are followed beneath the session (by the wrapped client, or a
 * browser's `fetch`), the value is sent along without the session's knowledge.
 *
 * **What travels in a browser.** There a redirect that is not followed cannot be read, so the browser follows it. To
 * another origin its `fetch` leaves out `authorization`, but sends every other header that `attach` has set (if the
 * other origin's CORS answer allows it) and its own cookies by their own rules.
 *
 * @since 0.1.0
 */

import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientError from "@effect/platform/HttpClientError"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import type * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import type * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { identity } from "effect/Function"
import * as Layer from "effect/Layer"
import type * as Redacted from "effect/Redacted"
import { errorAnswering } from "./internal/http/answer.js"
import { sendAttached } from "./internal/http/attached.js"
import { cannotEncode } from "./internal/http/errors.js"
import { inScopeOf } from "./internal/http/hold.js"
import { places } from "./internal/http/origins.js"
import * as Redirect from "./internal/http/redirect.js"
import { type Refused, Sender, withoutFollowing } from "./internal/http/send.js"
import * as Inside from "./internal/session/inside.js"
import { InvalidOptions } from "./InvalidOptions.js"
import * as Session from "./Session.js"
import type * as SessionMap from "./SessionMap.js"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * How a client carries a session's value, and where to.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<in A> extends RefusalOptions {
  /**
   * Puts the session's value on a request. If it throws, or gives the request a URL that `origins` does not allow, the
   * request fails with a `RequestError` with reason `"Encode"`. Put a secret into a header: the wrapped client's spans
   * and errors show the URL.
   */
  readonly attach: (
    request: HttpClientRequest.HttpClientRequest,
    value: A
  ) => HttpClientRequest.HttpClientRequest | Effect.Effect<HttpClientRequest.HttpClientRequest>
  /**
   * The origins to which the value may be sent, and whose refusals count: a list such as `["https://api.example.com"]`
   * (compared by `URL.origin`, so a path is ignored), or a function of the URL. Every other request passes unchanged,
   * and nothing is acquired for it. A request without an absolute URL fails with a `RequestError` with reason
   * `"InvalidUrl"`: add the base URL around the session, because the session must see where the request goes. An entry
   * that is not an http or https origin is an `InvalidOptions` at the first request. Default: the value is sent
   * wherever a request goes.
   */
  readonly origins?: ReadonlyArray<string> | ((url: URL) => boolean) | undefined
  /**
   * How many redirects of one request this client follows, over undici, node:http and Node's `fetch`. (Redirects that
   * are followed beneath the session send its value along without its knowledge.) For an origin that `origins` does not
   * name (without `origins`, for any other than the first), the changes of `attach` and the caller's own credentials
   * are left out. They stay out even if a later redirect leads back, and no answer after that is a refusal. A redirect
   * beyond the limit, or one that needs a body which can be read only once, is the answer; `rejected` is only called
   * for answers. In a browser, which hides redirects from scripts, the option has no effect: the browser follows them,
   * and sends every header except `authorization`. A request without an absolute URL then fails with a `RequestError`
   * with reason `"InvalidUrl"`, as with `origins`. Over `fetch` the option replaces the whole
   * `FetchHttpClient.RequestInit` that was given to fetch's layer: provide the init to the requests themselves, then it
   * is kept (except its `redirect`). Do not provide one to the wrapped client (by `HttpClient.transformResponse`, say):
   * `fetch` then follows redirects by itself, and the session refuses the answer. Default: only the wrapped client
   * decides about redirects.
   */
  readonly followRedirects?: number | undefined
}

/**
 * Options: which responses are refusals, and what the client does after a refusal.
 *
 * @since 0.1.0
 * @category models
 */
export interface RefusalOptions {
  /**
   * Whether a response refuses the value. May read the body: the caller can read it again in every way, unless it was
   * read as a `stream`; then reading gives a `ResponseError`. If `rejected` throws, the request fails with a
   * `ResponseError` with reason `"Decode"`. Default: status 401.
   *
   * `"again"` means that the value is valid, but the request must be made again, for example with the nonce that the
   * response contains (RFC 9449 section 9): `attach` runs again with the same value, and the request is sent once more,
   * without a refresh. After ten times the response is the answer. If the body can be read only once, the request fails
   * with `NotReplayable`.
   */
  readonly rejected?:
    | ((
      response: HttpClientResponse.HttpClientResponse
    ) => boolean | "again" | Effect.Effect<boolean | "again">)
    | undefined
  /** How often one request may refresh the session and be sent again. Default: 1. */
  readonly maxRefreshes?: number | undefined
  /**
   * Whether a request can be sent a second time. Default: every body except an Effect `Stream` and a `Raw` body that
   * can be read only once (a Node `Readable`, a web `ReadableStream`, an iterator).
   */
  readonly replay?: ((request: HttpClientRequest.HttpClientRequest) => boolean) | undefined
}

// -----------------------------------------------------------------------------
// errors
// -----------------------------------------------------------------------------

/**
 * The server still refused the request after `refreshes` refreshes. The last `response` can be read; its `request`
 * is the caller's own, without the session's value.
 *
 * @since 0.1.0
 * @category errors
 */
export class SessionRejected extends Data.TaggedError("SessionRejected")<{
  readonly response: HttpClientResponse.HttpClientResponse
  readonly refreshes: number
}> {
  override get message(): string {
    const { request, status } = this.response
    const refreshed = this.refreshes === 1 ? "1 refresh" : `${this.refreshes} refreshes`
    return `${nameOf(request)} was refused with ${status} after ${refreshed}`
  }
}

/** The request's method and origin. Its path and query may hold secrets. */
const nameOf = ({ method, url }: HttpClientRequest.HttpClientRequest): string =>
  URL.canParse(url) ? `${method} ${new URL(url).origin}` : method

/**
 * The request would have to be sent again, but its body cannot be read a second time. After a refusal the session has
 * been refreshed. After an `"again"`, and after a 307 or 308 that an `HttpSession` had to follow, it has not. Send a
 * new request. `request`, of the error and of its `response`, is the caller's own, without the session's value.
 *
 * @since 0.1.0
 * @category errors
 */
export class NotReplayable extends Data.TaggedError("NotReplayable")<{
  readonly request: HttpClientRequest.HttpClientRequest
  readonly response: HttpClientResponse.HttpClientResponse
}> {
  override get message(): string {
    return `${nameOf(this.request)} was refused with ${this.response.status}, and its body can be read only once`
  }
}

// -----------------------------------------------------------------------------
// constructors
// -----------------------------------------------------------------------------

/**
 * Puts a session on a client. Spans and trace headers come from the wrapped client: one span for each attempt, without
 * the headers that `attach` sets.
 *
 * @example
 * ```ts
 * import * as Session from "effect-holdfast/Session"
 * import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
 * import * as HttpClient from "@effect/platform/HttpClient"
 * import * as Effect from "effect/Effect"
 *
 * declare const session: Session.Session<string, "SignInFailed">
 *
 * const program = Effect.gen(function*() {
 *   const client = SessionHttpClient.withSession(yield* HttpClient.HttpClient, session, {
 *     attach: SessionHttpClient.bearer,
 *     origins: ["https://api.example.com"]
 *   })
 *   return yield* client.get("https://api.example.com/orders")
 * })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const withSession = <E0, R, A, E>(
  client: HttpClient.HttpClient.With<E0, R>,
  session: Session.Session<A, E>,
  options: Options<A>
): HttpClient.HttpClient.With<
  E0 | HttpClientError.HttpClientError | E | Session.SessionError | SessionRejected | NotReplayable,
  R
> => {
  const sender = senderOf(client, options)
  const held = { session }
  return HttpClient.makeWith(
    (request) => Effect.flatMap(request, (request) => sender.send(request, held)),
    Effect.succeed<HttpClientRequest.HttpClientRequest>
  )
}

/**
 * Puts a session on the `HttpClient` of the context.
 *
 * @example
 * ```ts
 * import * as Session from "effect-holdfast/Session"
 * import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
 * import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
 *
 * declare const session: Session.Session<{ readonly key: string }>
 *
 * const client = SessionHttpClient.make(session, {
 *   attach: (request, { key }) => HttpClientRequest.setHeader(request, "x-api-key", key),
 *   origins: ["https://api.example.com"],
 *   followRedirects: 5
 * })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <A, E>(
  session: Session.Session<A, E>,
  options: Options<A>
): Effect.Effect<
  HttpClient.HttpClient.With<
    HttpClientError.HttpClientError | E | Session.SessionError | SessionRejected | NotReplayable
  >,
  never,
  HttpClient.HttpClient
> => Effect.map(HttpClient.HttpClient, (client) => withSession(client, session, options))

/**
 * A client that carries a session for each key: `key` gives a request's tenant or origin. The session is held during
 * the request and then by its response: until the body has been read, cut or failed, the scope of
 * `HttpClient.withScope` has closed, or the response has been garbage-collected unread. So neither `capacity` nor
 * `idleTimeToLive` cuts a download short. (A response that is kept but never read holds its session as long as it is
 * kept; a response without a body holds nothing.) If `key` throws, the request fails with a `RequestError` with reason
 * `"Encode"`.
 *
 * @example
 * ```ts
 * import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
 * import type * as SessionMap from "effect-holdfast/SessionMap"
 *
 * declare const perOrigin: SessionMap.SessionMap<string, string>
 *
 * const client = SessionHttpClient.makeKeyed(perOrigin, {
 *   key: (request) => new URL(request.url).origin,
 *   attach: SessionHttpClient.bearer
 * })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeKeyed = <K, A, E, E0>(
  sessions: SessionMap.SessionMap<K, A, E, E0>,
  options: Options<A> & { readonly key: (request: HttpClientRequest.HttpClientRequest) => K }
): Effect.Effect<
  HttpClient.HttpClient.With<
    | HttpClientError.HttpClientError
    | E
    | E0
    | Session.SessionError
    | SessionMap.SessionMapFull
    | SessionRejected
    | NotReplayable
  >,
  never,
  HttpClient.HttpClient
> =>
  Effect.map(HttpClient.HttpClient, (client) => {
    const sender = senderOf(client, options)
    return HttpClient.makeWith(
      (request) =>
        Effect.flatMap(request, (request) =>
          Effect.scoped(sender.send(
            request,
            Effect.flatMap(
              Effect.try({ try: () => options.key(request), catch: (cause) => cannotEncode(request, "key", cause) }),
              (key) => Inside.ofMap(sessions).held(key)
            )
          ))),
      Effect.succeed<HttpClientRequest.HttpClientRequest>
    )
  })

/**
 * An `attach` that sends the session's value as a bearer token, RFC 6750 section 2.1.
 *
 * @example
 * ```ts
 * import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
 * import type * as Redacted from "effect/Redacted"
 *
 * interface Tokens { readonly access: Redacted.Redacted<string> }
 *
 * const options: SessionHttpClient.Options<Tokens> = {
 *   attach: (request, tokens) => SessionHttpClient.bearer(request, tokens.access)
 * }
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const bearer = (
  request: HttpClientRequest.HttpClientRequest,
  token: Redacted.Redacted<string> | string
): HttpClientRequest.HttpClientRequest => HttpClientRequest.bearerToken(request, token)

// -----------------------------------------------------------------------------
// layers
// -----------------------------------------------------------------------------

/**
 * The plain `HttpClient` service with a session on it, for libraries that require this service. `tag` is any tag
 * (`Context.Tag` or `Effect.Service`) whose service is a session.
 *
 * A failure of the session becomes a `RequestError` with the failure as its `cause`. Its reason is `"Encode"` if a
 * retry cannot help (an error that `fatal` accepts, `SessionClosed`, `SessionEnded`, `ReentrantRefresh`,
 * `RefreshBudgetExceeded`, `InvalidOptions`), otherwise `"Transport"`, which `HttpClient.retryTransient` retries. A
 * refusal that remains, or after which the body cannot be sent again, is given as the server's response (beneath
 * `HttpClient.filterStatusOk`, as that filter's error). `retryTransient` retries it only if `rejected` takes 408, 429
 * or 5xx for a refusal.
 *
 * @example
 * ```ts
 * import * as Session from "effect-holdfast/Session"
 * import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
 * import * as Context from "effect/Context"
 *
 * class ApiSession extends Context.Tag("ApiSession")<ApiSession, Session.Session<string>>() {}
 *
 * const ApiClient = SessionHttpClient.layer(ApiSession, { attach: SessionHttpClient.bearer })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = <I, S extends Session.Session<any, any>>(
  tag: Context.Tag<I, S>,
  options: Options<S extends Session.Session<infer A, any> ? A : never>
): Layer.Layer<HttpClient.HttpClient, never, I | HttpClient.HttpClient> =>
  Layer.effect(
    HttpClient.HttpClient,
    Effect.gen(function*() {
      const client = yield* HttpClient.HttpClient
      const session: Session.Session<any, unknown> = yield* tag
      const held = { session }
      const clientError = (error: HttpClientError.HttpClientError) => new FromClient(error)
      const asResponse = (request: HttpClientRequest.HttpClientRequest | undefined, { error, response }: Refused) =>
        error === undefined
          ? Effect.succeed(response)
          : Effect.fail(clientError(errorAnswering(request ?? response.request, response, error)))
      const placed = places(options, clientError)
      const sender = new Sender<any, HttpClientError.HttpClientError, FromClient, never>({
        ...options,
        ...placed,
        execute: attaching(client, options, placed.isAllowed),
        clientError,
        lastingRefusal: (refused) => asResponse(undefined, refused),
        notReplayable: asResponse
      })
      return HttpClient.makeWith(
        (request) =>
          Effect.flatMap(request, (request) =>
            Effect.catchAll(sender.send(request, held), (error) =>
              error instanceof FromClient
                ? Effect.fail(error.error)
                : new HttpClientError.RequestError({
                  request,
                  reason: mayPass(session, error) ? "Transport" : "Encode",
                  cause: error
                }))),
        Effect.succeed<HttpClientRequest.HttpClientRequest>
      )
    })
  )

// -----------------------------------------------------------------------------
// the parts of a client
// -----------------------------------------------------------------------------

const senderOf = <E0, R, A>(client: HttpClient.HttpClient.With<E0, R>, options: Options<A>) => {
  type E1 = E0 | HttpClientError.HttpClientError | SessionRejected | NotReplayable
  const placed = places<E1>(options, identity)
  return new Sender<A, E0 | HttpClientError.HttpClientError, E1, R>({
    ...options,
    ...placed,
    execute: attaching(client, options, placed.isAllowed),
    clientError: identity,
    lastingRefusal: ({ response }, refreshes) => new SessionRejected({ response, refreshes }),
    notReplayable: (request, { response }) => new NotReplayable({ request, response })
  })
}

const attaching = <E0, R, A>(
  client: HttpClient.HttpClient.With<E0, R>,
  { attach, followRedirects }: Options<A>,
  isAllowed: ((url: URL) => boolean) | undefined
) => {
  const execute: (
    request: HttpClientRequest.HttpClientRequest
  ) => Effect.Effect<HttpClientResponse.HttpClientResponse, E0 | HttpClientError.ResponseError, R> =
    followRedirects === undefined ? client.execute : withoutFollowing(client.execute)
  const send = (
    own: HttpClientRequest.HttpClientRequest,
    attached: HttpClientRequest.HttpClientRequest,
    onMoved: (url: URL) => void
  ) => {
    if (attached.url !== own.url) {
      const url = Either.getOrUndefined(Redirect.urlOf(attached))
      const refusal = isAllowed && movedAway(own, url, isAllowed)
      if (refusal !== undefined) return Effect.fail(refusal)
      if (url !== undefined && url.origin !== originOf(own)) onMoved(withoutUser(url))
    }
    return sendAttached(own, inScopeOf(own, attached), execute)
  }
  return (
    request: HttpClientRequest.HttpClientRequest,
    value: A,
    isHome: boolean,
    onMoved: (url: URL) => void
  ): Effect.Effect<HttpClientResponse.HttpClientResponse, E0 | HttpClientError.HttpClientError, R> => {
    if (!isHome) return execute(request)
    try {
      const attached = attach(request, value)
      return "headers" in attached ? send(request, attached, onMoved) : Effect.flatMap(
        Effect.catchAllDefect(attached, (cause) => Effect.fail(cannotEncode(request, "attach", cause))),
        (attached) => send(request, attached, onMoved)
      )
    } catch (cause) {
      return Effect.fail(cannotEncode(request, "attach", cause))
    }
  }
}

const originOf = (request: HttpClientRequest.HttpClientRequest): string | undefined =>
  Either.getOrUndefined(Either.map(Redirect.urlOf(request), ({ origin }) => origin))

/** `attach` may put the value into the user and password of a URL, which a redirect of that origin would keep. */
const withoutUser = (url: URL): URL => {
  const bare = new URL(url)
  bare.username = bare.password = ""
  return bare
}

/** Why a request that `attach` has given another URL must not be sent there. */
const movedAway = (
  own: HttpClientRequest.HttpClientRequest,
  url: URL | undefined,
  isAllowed: (url: URL) => boolean
): HttpClientError.RequestError | undefined => {
  try {
    if (url !== undefined && isAllowed(url)) return undefined
  } catch (cause) {
    return cannotEncode(own, "origins", cause)
  }
  const value = url?.origin ?? "no URL"
  const reason = "must not give the request a URL that `origins` does not allow"
  return cannotEncode(own, "attach", new InvalidOptions({ option: "attach", value, reason }))
}

/** Marks errors of the wrapped client, to distinguish them from errors of the session's own requests. */
class FromClient {
  readonly error: HttpClientError.HttpClientError
  constructor(error: HttpClientError.HttpClientError) {
    this.error = error
  }
}

/** Whether another attempt may have another result. */
const mayPass = (session: Session.Session<any, unknown>, error: unknown): boolean => {
  if (error instanceof Session.RefreshTimeout || error instanceof Session.RefreshInterrupted) return true
  if (hopeless.some((known) => error instanceof known)) return false
  try {
    return !Inside.of(session).isFatal(error)
  } catch {
    return true
  }
}

const hopeless = [
  Session.SessionClosed,
  Session.SessionEnded,
  Session.ReentrantRefresh,
  Session.RefreshBudgetExceeded,
  InvalidOptions
]
