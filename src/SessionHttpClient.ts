/**
 * An `HttpClient` that carries a `Session`: it attaches the session's value to each request, and when the server
 * rejects it, refreshes the session once for all and sends the request again.
 *
 * **What it guarantees.** Never more than `1 + maxRefreshes` sends of one request, whatever the server does; a
 * `rejected` that says `"again"` adds at most ten, and each send may follow `followRedirects` redirects. A
 * request that is sent again is built anew from what the caller gave: no header, cookie or URL of the rejected
 * generation survives in it. A body that can be read only once is never sent again empty. Requests that come
 * while a rejected generation is being renewed wait for its successor.
 *
 * The body of a refusal is read beside the refresh and cut after a second or 64 KiB, so that a refresh which needs the
 * same connection gets it, also from a pool of one. What was read of a response that the caller is given can be read
 * again in every way; a body that was cut is a `ResponseError`. A status filter beneath the session
 * (`HttpClient.filterStatusOk`) hides no refusal from it.
 *
 * **What it does not.** It does not retry transport errors, and it does not make a request idempotent: a server
 * that acts on a request and answers 401 afterwards will see it twice. Without `origins` the value goes wherever a
 * request goes; and what follows redirects beneath the session (the wrapped client, a browser's `fetch`) takes it along
 * unseen.
 *
 * **What travels in a browser.** There a redirect that is not followed cannot be read, so the browser follows. To
 * another origin its `fetch` leaves out `authorization`, and takes along every other header that `attach` has set
 * (if the other origin's CORS answer allows it) and its own cookies by their own rules.
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
import { identity } from "effect/Function"
import * as Layer from "effect/Layer"
import type * as Redacted from "effect/Redacted"
import { errorAnswering } from "./internal/http/answer.js"
import { cannotEncode } from "./internal/http/errors.js"
import { hidingAttached } from "./internal/http/hiding.js"
import { inScopeOf } from "./internal/http/hold.js"
import { places } from "./internal/http/origins.js"
import * as Redirect from "./internal/http/redirect.js"
import { type Refused, Sender } from "./internal/http/send.js"
import * as Inside from "./internal/session/inside.js"
import { InvalidOptions } from "./InvalidOptions.js"
import * as Session from "./Session.js"
import type * as SessionMap from "./SessionMap.js"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * How a client carries a session's value.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<in A> extends RefusalOptions {
  /**
   * Puts the session's value on a request. A function that throws is a `RequestError` with reason `"Encode"`. A secret
   * belongs in a header: the wrapped client's spans and errors show the URL.
   */
  readonly attach: (
    request: HttpClientRequest.HttpClientRequest,
    value: A
  ) => HttpClientRequest.HttpClientRequest | Effect.Effect<HttpClientRequest.HttpClientRequest>
  /**
   * The origins to which the value may go, and whose refusals count: a list such as `["https://api.example.com"]`
   * (compared by `URL.origin`, so a path counts for nothing), or a function of the URL. Every other request passes
   * untouched, and nothing is acquired for it. A request without an absolute URL is a `RequestError` with reason
   * `"InvalidUrl"`: add the base around the session, because beneath it nobody can tell where the request goes. An
   * entry that is no http or https origin is `InvalidOptions` at the first request. Default: the value goes wherever a
   * request goes.
   */
  readonly origins?: ReadonlyArray<string> | ((url: URL) => boolean) | undefined
  /**
   * How many redirects of one request are followed here, over undici, node:http and Node's `fetch`. Redirects that are
   * followed beneath the session take its value along unseen. Here, at an origin that `origins` does not name (without
   * `origins`, at any other than the first), what `attach` changed and the caller's own credentials are left out; none
   * comes back on the way home, and no answer after that is a refusal. A redirect beyond the number, or one that needs
   * a body which can be read only once, is the answer; `rejected` sees only answers. In a browser, which hides
   * redirects from scripts, the option is without effect: the browser follows, and takes along every header but
   * `authorization`. A request without an absolute URL is then a `RequestError` with reason `"InvalidUrl"`, as with
   * `origins`. Over `fetch` the option replaces the whole `FetchHttpClient.RequestInit` that was given to fetch's
   * layer: provide the init to the requests themselves, where it is kept (all but its `redirect`). Default: redirects
   * are the wrapped client's own affair.
   */
  readonly followRedirects?: number | undefined
}

/**
 * Options: what a refusal is, and what the client does about it.
 *
 * @since 0.1.0
 * @category models
 */
export interface RefusalOptions {
  /**
   * Whether a response says that the value was refused. May read the body: the caller can read it again in every way,
   * unless it was read as a `stream`; then it is a `ResponseError`. One that throws is a `ResponseError` with reason
   * `"Decode"`. Default: status 401.
   *
   * `"again"` says that the value is good and the request has to be made anew with it, say with the nonce that the
   * response brought (RFC 9449 section 9): `attach` runs anew with the same value, and the request is sent once more.
   * Nothing is refreshed for it. After ten times the response is the answer; a body that can be read only once is
   * `NotReplayable`.
   */
  readonly rejected?:
    | ((
      response: HttpClientResponse.HttpClientResponse
    ) => boolean | "again" | Effect.Effect<boolean | "again">)
    | undefined
  /** How often one request may refresh the session and be sent again. Default: 1. */
  readonly maxRefreshes?: number | undefined
  /**
   * Whether a request can be sent a second time. Default: every body but an Effect `Stream` and a `Raw` one
   * that can be read only once (a Node `Readable`, a web `ReadableStream`, an iterator).
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
    const { method } = this.response.request
    const refreshed = this.refreshes === 1 ? "1 refresh" : `${this.refreshes} refreshes`
    return `${method} was refused with ${this.response.status} after ${refreshed}`
  }
}

/**
 * The request would have to be sent again, and its body cannot be read a second time. After a refusal the session has
 * been refreshed. After an `"again"`, and after a 307 or 308 that an `HttpSession` was to follow, nothing has been
 * refreshed. Send a new request. `request`, of the error and of its `response`, is the caller's own, without the
 * session's value.
 *
 * @since 0.1.0
 * @category errors
 */
export class NotReplayable extends Data.TaggedError("NotReplayable")<{
  readonly request: HttpClientRequest.HttpClientRequest
  readonly response: HttpClientResponse.HttpClientResponse
}> {
  override get message(): string {
    return `${this.request.method} was refused with ${this.response.status}, and its body can be read only once`
  }
}

// -----------------------------------------------------------------------------
// constructors
// -----------------------------------------------------------------------------

/**
 * Puts a session on a client. Spans and trace headers remain the wrapped client's: one span for each attempt, which
 * shows none of the headers that `attach` sets.
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
 * A client that carries a session for each key: `key` tells a request's tenant or origin. The session is held while
 * the request is under way and then by its response: until the body has been read, cut or failed, the scope of
 * `HttpClient.withScope` has closed, or the response has been collected unread. So neither `capacity` nor
 * `idleTimeToLive` cuts a download short. (A response that is kept and never read holds its session for as long; one
 * without a body holds nothing.) A `key` that throws is a `RequestError` with reason `"Encode"`.
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
 * The plain `HttpClient` service with a session on it, for libraries that ask for that and nothing else. `tag` is any
 * tag whose service is a session, of `Context.Tag` or of `Effect.Service`.
 *
 * A failure of the session becomes a `RequestError` with the failure as its `cause`. Its reason is `"Encode"` if asking
 * again cannot heal it (an error that `fatal` knows, `SessionClosed`, `SessionEnded`, `ReentrantRefresh`,
 * `RefreshBudgetExceeded`, `InvalidOptions`), else `"Transport"`, which `HttpClient.retryTransient` retries. A refusal
 * that lasts, or that cannot be answered because the body can be read only once, is the server's response (beneath
 * `HttpClient.filterStatusOk`, that filter's error). `retryTransient` retries it only if `rejected` calls 408, 429 or
 * 5xx a refusal.
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
      const sender = new Sender<any, HttpClientError.HttpClientError, FromClient, never>({
        ...options,
        ...places(options, clientError),
        execute: attaching(client, options),
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
// what a client is made of
// -----------------------------------------------------------------------------

const senderOf = <E0, R, A>(client: HttpClient.HttpClient.With<E0, R>, options: Options<A>) => {
  type E1 = E0 | HttpClientError.HttpClientError | SessionRejected | NotReplayable
  return new Sender<A, E0 | HttpClientError.HttpClientError, E1, R>({
    ...options,
    ...places<E1>(options, identity),
    execute: attaching(client, options),
    clientError: identity,
    lastingRefusal: ({ response }, refreshes) => new SessionRejected({ response, refreshes }),
    notReplayable: (request, { response }) => new NotReplayable({ request, response })
  })
}

const attaching = <E0, R, A>(
  client: HttpClient.HttpClient.With<E0, R>,
  { attach, followRedirects }: Options<A>
) => {
  const execute: (
    request: HttpClientRequest.HttpClientRequest
  ) => Effect.Effect<HttpClientResponse.HttpClientResponse, E0, R> = followRedirects === undefined
    ? client.execute
    : (request) => Redirect.withRedirectsShown(client.execute(request))
  return (
    request: HttpClientRequest.HttpClientRequest,
    value: A,
    isHome: boolean
  ): Effect.Effect<HttpClientResponse.HttpClientResponse, E0 | HttpClientError.RequestError, R> => {
    if (!isHome) return execute(request)
    try {
      const attached = attach(request, value)
      return "headers" in attached ? hidingAttached(request, inScopeOf(request, attached), execute) : Effect.flatMap(
        Effect.catchAllDefect(attached, (cause) => Effect.fail(cannotEncode(request, "attach", cause))),
        (attached) => hidingAttached(request, inScopeOf(request, attached), execute)
      )
    } catch (cause) {
      return Effect.fail(cannotEncode(request, "attach", cause))
    }
  }
}

/** Tells what the wrapped client failed with from what the session's own requests failed with. */
class FromClient {
  readonly error: HttpClientError.HttpClientError
  constructor(error: HttpClientError.HttpClientError) {
    this.error = error
  }
}

/** Whether asking again may come to something else. */
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
