/**
 * A browser-like session with one server: identity headers, cookies and TLS options that are replaced together,
 * and proved by a probe before any request is sent with them.
 *
 * **What it guarantees.** Identity, cookies and TLS options change together or not at all: a generation is complete
 * (identity, an empty cookie jar, a probe that the server accepted) before any caller gets it, and a probe that fails
 * leaves the previous generation unchanged. A late response writes into the cookies of the generation that the request
 * was sent with, never into those of its successor. Cookies are sent only where RFC 6265 and the public suffix list
 * allow it, and their number is bounded. Only the home origin (the probe's) can refuse a generation, and only a request
 * that carried its identity: the answer of another site after a redirect never causes a refresh. On a redirect to
 * another origin all headers of the identity and all credentials of the request (`authorization`, `cookie`, and headers
 * whose names contain token, key, secret, signature and the like) are left out, and they stay out even if a later
 * redirect leads back.
 *
 * **What it does not.** The session imitates no browser fingerprints and answers no captcha: the application defines
 * its identity (`identity`) and how to answer a challenge (`challenge`). The probe and the answers to a challenge
 * follow no redirects: for them a 3xx is a success. Over `fetch` the session replaces the whole
 * `FetchHttpClient.RequestInit` that was given to fetch's layer: provide the init to the requests themselves, then it
 * is kept (except its `redirect`). An init that the client itself provides (by `HttpClient.transformResponse`, say)
 * must have `redirect: "manual"`: otherwise `fetch` follows redirects by itself, and the session refuses the answer.
 *
 * **One session for each origin.** A session belongs to one server. Requests that the application itself sends to other
 * servers with this client carry its identity headers, too, but their answers never count as refusals. For many servers
 * put the sessions in a `SessionMap` keyed by origin; then one origin's failure never reaches another:
 *
 * ```ts
 * import { HttpSession, Session, SessionMap } from "effect-holdfast"
 * import * as Headers from "@effect/platform/Headers"
 * import * as Effect from "effect/Effect"
 *
 * const identity = Effect.succeed({ headers: Headers.fromInput({ "user-agent": "example/1.0" }) })
 *
 * const program = Effect.gen(function*() {
 *   const perOrigin = yield* SessionMap.make({
 *     lookup: (origin: string) => ({ acquire: HttpSession.make({ identity, probe: origin }) })
 *   })
 *   // The body is read inside, because the session is held no longer than that.
 *   const textOf = (url: URL) =>
 *     SessionMap.get(perOrigin, url.origin).pipe(
 *       Effect.flatMap(Session.use(({ client }) => Effect.flatMap(client.get(url), ({ text }) => text))),
 *       Effect.scoped
 *     )
 *   return yield* textOf(new URL("https://shop.example.com/orders"))
 * })
 * ```
 *
 * @since 0.1.0
 */

import * as Headers from "@effect/platform/Headers"
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientError from "@effect/platform/HttpClientError"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import type * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import * as Data from "effect/Data"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { identity } from "effect/Function"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import type * as Scope from "effect/Scope"
import type * as Types from "effect/Types"
import * as Check from "./internal/check.js"
import { answering, failureAnswering, isFiltered, judged } from "./internal/http/answer.js"
import { checkHeaders } from "./internal/http/attached.js"
import * as CookieJar from "./internal/http/cookies.js"
import { abandon, discardBody, readBeforehand } from "./internal/http/discard.js"
import { inScopeOf } from "./internal/http/hold.js"
import * as Redirect from "./internal/http/redirect.js"
import { isReplayable } from "./internal/http/replayable.js"
import { Sender, withoutFollowing } from "./internal/http/send.js"
import { InvalidOptions } from "./InvalidOptions.js"
import * as Session from "./Session.js"
import * as SessionHttpClient from "./SessionHttpClient.js"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * The identity of a session: the headers of every request, and the TLS options of its connections.
 *
 * `tls` needs a client that can open its own connections (`NodeHttpSession` in `effect-holdfast/node`); with any
 * other it is ignored and a warning is logged.
 *
 * @since 0.1.0
 * @category models
 */
export interface Identity {
  readonly headers: Headers.Headers
  readonly tls?: TlsOptions | undefined
}

/**
 * The TLS options that an identity may have.
 *
 * @since 0.1.0
 * @category models
 */
export interface TlsOptions {
  /** OpenSSL cipher list. */
  readonly ciphers?: string | undefined
  readonly minVersion?: "TLSv1" | "TLSv1.1" | "TLSv1.2" | "TLSv1.3" | undefined
}

/**
 * The value of a generation.
 *
 * @since 0.1.0
 * @category models
 */
export interface State {
  readonly identity: Identity
  /** The `Cookie` header that a request to this URL would carry now. */
  readonly cookies: (url: string | URL) => Effect.Effect<Option.Option<string>>
  /**
   * Sends a request with this generation; the headers of its identity are added for the home origin.
   *
   * @internal
   */
  readonly send: (
    request: HttpClientRequest.HttpClientRequest,
    isHome: boolean
  ) => Effect.Effect<HttpClientResponse.HttpClientResponse, HttpClientError.HttpClientError>
}

/**
 * The errors of a session over HTTP, besides the application's own.
 *
 * @since 0.1.0
 * @category errors
 */
export type HttpSessionError = HttpClientError.HttpClientError | ProbeFailed

/**
 * A session and the client that carries it.
 *
 * @since 0.1.0
 * @category models
 */
export interface HttpSession<E = never> {
  /** Sends requests with the session; follows redirects, refreshes when it is rejected. */
  readonly client: HttpClient.HttpClient.With<
    | HttpSessionError
    | E
    | Session.SessionError
    | SessionHttpClient.SessionRejected
    | SessionHttpClient.NotReplayable
  >
  readonly session: Session.Session<State, HttpSessionError | E>
}

/**
 * Options of a session: its identity, the probe that proves it, and which responses refuse it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<E = never, R = never, E2 = never, R2 = never>
  extends
    Pick<Session.Options<State, HttpSessionError | E | E2>, "timeout" | "retry" | "cooldown" | "budget" | "name">,
    SessionHttpClient.RefusalOptions
{
  /** Gives the identity of the next generation. Runs once for each generation. */
  readonly identity: Effect.Effect<Identity, E, R>
  /**
   * The request that proves a new identity. It is sent with that identity and an empty cookie jar, and its redirects
   * are not followed. A status of 2xx or 3xx proves the generation; any other status fails the refresh with
   * `ProbeFailed`.
   */
  readonly probe: HttpClientRequest.HttpClientRequest | string
  /**
   * Answers a challenge (a form, a code) with which the server met the probe; `None` if the response is no challenge.
   * The response to that answer is judged like the probe's. `send` carries the candidate's identity, cookies and TLS
   * options, follows no redirects and can never cause a refresh. `challenge` must read what it needs of the response
   * before it calls `send`, which reads the rest for at most a second and 64 KiB and then cuts it.
   */
  readonly challenge?:
    | ((
      response: HttpClientResponse.HttpClientResponse,
      send: (
        request: HttpClientRequest.HttpClientRequest
      ) => Effect.Effect<HttpClientResponse.HttpClientResponse, HttpClientError.HttpClientError>
    ) => Option.Option<Effect.Effect<HttpClientResponse.HttpClientResponse, E2, R2>>)
    | undefined
  /** An age limit for a generation. Default: 1 hour. */
  readonly maxAge?: Duration.DurationInput | undefined
  /**
   * Whether a response (the last one, if redirects were followed) refuses the session. Called only for answers of the
   * home origin (the probe's) to a request that carried the identity. Default: 401 and 403.
   */
  readonly rejected?: SessionHttpClient.RefusalOptions["rejected"]
  /** How many redirects of one request are followed. Default: 10. */
  readonly maxRedirects?: number | undefined
  /**
   * How many cookies a generation keeps in all (default: 3,000) and of one domain (default: 50), and how many bytes one
   * cookie may have, with its name, value and attributes (default: 4,096); the numbers are those of RFC 6265 section
   * 6.1. A longer cookie is not kept. If there are too many, expired cookies are removed first, then the least recently
   * used.
   */
  readonly cookieLimits?:
    | {
      readonly total?: number | undefined
      readonly perDomain?: number | undefined
      readonly bytes?: number | undefined
    }
    | undefined
}

// -----------------------------------------------------------------------------
// errors
// -----------------------------------------------------------------------------

/**
 * The server did not accept the new generation: the probe, or the answer to its challenge, had this `status`. The body
 * of `response` has been read already, so that it holds no connection. A body that was longer than 64 KiB, or took
 * longer than a second, was cut: reading it gives a `ResponseError`.
 *
 * @since 0.1.0
 * @category errors
 */
export class ProbeFailed extends Data.TaggedError("ProbeFailed")<{
  readonly status: number
  readonly response: HttpClientResponse.HttpClientResponse
}> {
  override get message(): string {
    return `the probe was answered with ${this.status}`
  }
}

// -----------------------------------------------------------------------------
// constructors
// -----------------------------------------------------------------------------

/**
 * Makes a session and the client that carries it, over the `HttpClient` of the context.
 *
 * @example
 * ```ts
 * import * as HttpSession from "effect-holdfast/HttpSession"
 * import * as Headers from "@effect/platform/Headers"
 * import * as Effect from "effect/Effect"
 *
 * const program = Effect.gen(function*() {
 *   const { client } = yield* HttpSession.make({
 *     identity: Effect.succeed({ headers: Headers.fromInput({ "user-agent": "example/1.0" }) }),
 *     probe: "https://shop.example.com/"
 *   })
 *   return yield* client.get("https://shop.example.com/orders")
 * })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <E = never, R = never, E2 = never, R2 = never>(
  options: Options<E, R, E2, R2>
): Effect.Effect<HttpSession<E | E2>, InvalidOptions, HttpClient.HttpClient | Types.NoInfer<R | R2> | Scope.Scope> =>
  Effect.flatMap(HttpClient.HttpClient, (client) =>
    makeWith(options, (tls) =>
      tls === undefined
        ? Effect.succeed(client)
        : Effect.as(
          Effect.logWarning("the identity's TLS options are ignored: this HttpClient cannot change its connections'"),
          client
        )))

/**
 * Makes a session in which each generation has its own client, and so its own connections. `connect` makes the client
 * in the generation's scope, which closes when the generation has been superseded and its last response has been read.
 *
 * `bodiesHold: false` closes the scope without waiting for the bodies of responses, so that responses need not hold the
 * generation. Use it for connections that, when they are closed, stay open until the last body has been read, like
 * those of an undici `Agent`. Default: true.
 *
 * @example
 * ```ts
 * import * as HttpSession from "effect-holdfast/HttpSession"
 * import type * as HttpClient from "@effect/platform/HttpClient"
 * import * as Headers from "@effect/platform/Headers"
 * import * as Effect from "effect/Effect"
 * import type * as Scope from "effect/Scope"
 *
 * declare const openPool: (ciphers: string | undefined) => Effect.Effect<HttpClient.HttpClient, never, Scope.Scope>
 *
 * const session = HttpSession.makeWith({
 *   identity: Effect.succeed({ headers: Headers.empty, tls: { ciphers: "TLS_AES_256_GCM_SHA384" } }),
 *   probe: "https://shop.example.com/"
 * }, (tls) => openPool(tls?.ciphers))
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeWith = <E = never, R = never, E2 = never, R2 = never, E3 = never, R3 = never>(
  options: Options<E, R, E2 | E3, R2>,
  connect: (tls: TlsOptions | undefined) => Effect.Effect<HttpClient.HttpClient, E3, R3>,
  { bodiesHold = true }: { readonly bodiesHold?: boolean | undefined } = {}
): Effect.Effect<HttpSession<E | E2 | E3>, InvalidOptions, Types.NoInfer<R | R2 | R3> | Scope.Scope> =>
  Effect.gen(function*() {
    const { cookieLimits, home, maxRedirects, probe } = yield* Check.validated(() => {
      Check.object("options", options)
      Check.effect("identity", options.identity)
      Check.functions(options, ["challenge", "rejected", "replay"])
      if (options.cookieLimits !== undefined) Check.object("cookieLimits", options.cookieLimits)
      return {
        ...validProbe(options.probe),
        maxRedirects: Check.count("maxRedirects", options.maxRedirects ?? 10, 0),
        cookieLimits: {
          total: Check.count("cookieLimits.total", options.cookieLimits?.total ?? 3_000, 1),
          perDomain: Check.count("cookieLimits.perDomain", options.cookieLimits?.perDomain ?? 50, 1),
          bytes: Check.count("cookieLimits.bytes", options.cookieLimits?.bytes ?? 4_096, 1)
        }
      }
    })
    const { rejected = isRefusal } = options
    const acquire = provenState(options, probe, connect, cookieLimits)
    const { budget, cooldown, name, retry, timeout } = options
    const maxAge = options.maxAge ?? "1 hour"
    const session = yield* Session.make({ acquire, maxAge, budget, cooldown, name, retry, timeout })
    const sender = new Sender<State, HttpClientError.HttpClientError, SendError, never>({
      ...options,
      rejected,
      bodiesHold,
      execute: (request, state, isHome) => state.send(request, isHome),
      start: (request) =>
        Either.map(Redirect.urlOf(request), (url) => ({ request, url, isHome: true, redirectsLeft: maxRedirects })),
      isJudge: (url) => url.origin === home,
      onUnfollowed: (why, { request }, response) => {
        if (why === "read once") return new SessionHttpClient.NotReplayable({ request, response })
        const description = `more than ${maxRedirects} redirects`
        return maxRedirects === 0
          ? undefined
          : new HttpClientError.ResponseError({ request, response, reason: "StatusCode", description })
      },
      clientError: identity,
      lastingRefusal: ({ response }, refreshes) => new SessionHttpClient.SessionRejected({ response, refreshes }),
      notReplayable: (request, { response }) => new SessionHttpClient.NotReplayable({ request, response })
    })
    const held = { session }
    return {
      session,
      client: HttpClient.makeWith(
        (request) => Effect.flatMap(request, (request) => sender.send(request, held)),
        Effect.succeed<HttpClientRequest.HttpClientRequest>
      )
    }
  })

type SendError = HttpClientError.HttpClientError | SessionHttpClient.SessionRejected | SessionHttpClient.NotReplayable

const isRefusal = ({ status }: HttpClientResponse.HttpClientResponse): boolean => status === 401 || status === 403

const isStringOrRequest = (given: unknown): boolean =>
  typeof given === "string" || Predicate.hasProperty(given, HttpClientRequest.TypeId)

const validProbe = (given: HttpClientRequest.HttpClientRequest | string) => {
  Check.kind("probe", given, isStringOrRequest, "must be an absolute http or https URL, or a request")
  const probe = typeof given === "string" ? HttpClientRequest.get(given) : given
  if (!isReplayable(probe)) {
    // The probe is sent for each generation.
    throw new InvalidOptions({
      option: "probe",
      value: `<${probe.body._tag}>`,
      reason: "its body can be read only once"
    })
  }
  const url = Redirect.urlOf(probe)
  if (Either.isRight(url)) return { probe, home: url.right.origin }
  const value = Redirect.withoutSecrets(probe.url)
  throw new InvalidOptions({ option: "probe", value, reason: "must be an absolute http or https URL" })
}

// -----------------------------------------------------------------------------
// one generation
// -----------------------------------------------------------------------------

/** A new state, which the probe has proved. */
const provenState = <E, R, E2, R2, E3, R3>(
  { challenge, identity: nextIdentity }: Pick<Options<E, R, E2 | E3, R2>, "challenge" | "identity">,
  probe: HttpClientRequest.HttpClientRequest,
  connect: (tls: TlsOptions | undefined) => Effect.Effect<HttpClient.HttpClient, E3, R3>,
  cookieLimits: CookieJar.Limits
) =>
  Effect.gen(function*() {
    const identity = yield* nextIdentity
    yield* checkHeaders("identity", identity.headers, probe)
    const candidate = stateOf(identity, yield* connect(identity.tls), CookieJar.make(cookieLimits))
    const send = (request: HttpClientRequest.HttpClientRequest) =>
      Effect.catchIf(candidate.send(request, true), isFiltered, ({ response }) => Effect.succeed(response))
    const probed = judged(yield* send(probe))
    // The probe's body may hold the connection for which the answer to its challenge, or the next refresh, waits.
    const sendAfter = (request: HttpClientRequest.HttpClientRequest) =>
      Effect.zipRight(discardBody(probed), send(request))
    const response = yield* Effect.onError(
      Effect.suspend(() =>
        Option.getOrElse(challenge?.(probed, sendAfter) ?? Option.none(), () => Effect.succeed(probed))
      ),
      () => abandon(probed)
    )
    if (response !== probed) yield* discardBody(probed)
    if (response.status < 200 || response.status >= 400) {
      return yield* new ProbeFailed({ status: response.status, response: yield* readBeforehand(response) })
    }
    yield* discardBody(response)
    return candidate
  })

const stateOf = (identity: Identity, client: HttpClient.HttpClient, jar: CookieJar.CookieJar): State => {
  const execute = withoutFollowing(client.execute)
  const hidden = Object.keys(identity.headers).filter((name) => !describesClient.test(name))
  const send: State["send"] = (request, isHome) =>
    Effect.flatMap(
      Redirect.urlOf(request),
      ({ href }) =>
        Effect.flatMap(jar.header(href), (cookies) =>
          execute(dressed(request, isHome ? identity.headers : Headers.empty, cookies)).pipe(
            Effect.matchEffect({
              onSuccess: (response) =>
                Effect.as(jar.store(href, response), answering(request, response)),
              onFailure: (error) =>
                Effect.zipRight(
                  isFiltered(error) ? jar.store(href, error.response) : Effect.void,
                  Effect.fail(failureAnswering(request, error))
                )
            })
          ))
    )
  return {
    identity,
    cookies: (url) => Effect.map(jar.header(String(url)), Option.fromNullable),
    send: hidden.length === 0 ?
      send :
      (request, isHome) =>
        Effect.locallyWith(send(request, isHome), Headers.currentRedactedNames, (others) => [...others, ...hidden])
  }
}

/** Headers of an identity that spans show: they say which browser this is. The others may prove who it is. */
const describesClient = /^(user-agent|accept(-.*)?|sec-ch-.*)$/

const dressed = (
  request: HttpClientRequest.HttpClientRequest,
  identity: Headers.Headers,
  cookies: string | undefined
): HttpClientRequest.HttpClientRequest => {
  const headers = Headers.merge(identity, request.headers)
  const all = [headers["cookie"], cookies].filter((cookie) => cookie !== undefined)
  const sent = HttpClientRequest.make(request.method)(request.url, {
    urlParams: request.urlParams,
    hash: Option.getOrUndefined(request.hash),
    body: request.body
  }).pipe(
    // The headers are set last, because a body sets its own content type, and the caller may have set another.
    HttpClientRequest.setHeaders(all.length === 0 ? headers : Headers.set(headers, "cookie", all.join("; ")))
  )
  return inScopeOf(request, sent)
}
