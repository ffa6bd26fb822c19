/**
 * Requests to an authorization server. `oauth4webapi` builds them, client authentication and proofs included. The
 * application's `HttpClient` sends them, on the fiber that needs the answer. This file reads the whole answer.
 */
import * as Headers from "@effect/platform/Headers"
import type * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientError from "@effect/platform/HttpClientError"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import type * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Stream from "effect/Stream"
import * as Oauth from "oauth4webapi"
import * as Backoff from "../../Backoff.js"
import { isFollowed, withRedirectsShown } from "../http/redirect.js"
import { type Answer, asksForNonce } from "./answer.js"
import * as Dpop from "./dpop.js"
import { OAuth2Error } from "./errors.js"

/** The client and the server, as far as they are known when a request is built. */
export interface Party {
  readonly client: HttpClient.HttpClient
  readonly clientId: string
  /** Makes a new authentication for each request, since an assertion is valid only once. */
  readonly authentication: (now: number) => Oauth.ClientAuth
  readonly usesMtlsAliases: boolean
  readonly allowsInsecure: boolean
  readonly dpop: Dpop.Dpop | undefined
  /** Texts that no description of an error may repeat. */
  readonly secrets: ReadonlyArray<string>
  readonly requests: Requests
}

/**
 * The requests of a sign-in, replaceable by tests. (Signatures are promises, which the schedule explorer cannot
 * follow.)
 */
export interface Requests {
  readonly token: typeof token
  readonly revocation: typeof revocation
}

interface Built {
  readonly url: URL
  readonly method: "GET" | "POST"
  readonly headers: Readonly<Record<string, string>>
  readonly body: URLSearchParams | undefined
}

export interface Sent {
  readonly answer: Answer
  /** Epoch milliseconds just before the request was sent. */
  readonly sentAt: number
}

type Server = Oauth.AuthorizationServer
type Parameters = URLSearchParams

/** Lets the library build a request, and catches it before the library sends it. */
const built = (
  run: (options: {
    readonly [Oauth.customFetch]: (
      url: string,
      options: Pick<
        Oauth.CustomFetchOptions<"GET" | "POST", URLSearchParams | undefined>,
        "body" | "headers" | "method"
      >
    ) => Promise<Response>
    readonly [Oauth.allowInsecureRequests]: boolean
  }) => Promise<unknown>,
  allowsInsecure: boolean
): Effect.Effect<Built, OAuth2Error> =>
  Effect.tryPromise({
    try: async () => {
      let taken: Built | undefined
      await run({
        [Oauth.allowInsecureRequests]: allowsInsecure,
        [Oauth.customFetch]: (url, { body, headers, method }) => {
          taken = { url: new URL(url), method, headers, body }
          return Promise.resolve(new Response())
        }
      })
      return taken!
    },
    // The library's messages only name the member that is missing or wrong; its causes contain more.
    catch: (error) =>
      new OAuth2Error({
        error: "invalid_response",
        description: Predicate.hasProperty(error, "code") && Predicate.isError(error)
          ? `no request can be made: ${error.message}`
          : "no request can be made"
      })
  })

const clientOf = ({ clientId, usesMtlsAliases }: Party): Oauth.Client => ({
  client_id: clientId,
  use_mtls_endpoint_aliases: usesMtlsAliases
})

// -----------------------------------------------------------------------------
// the requests
// -----------------------------------------------------------------------------

/** Sends a request to the token endpoint, and sends it again if the server asks for another nonce in its proof. */
export const token = (
  party: Party,
  server: Server,
  grantType: string,
  parameters: Parameters
): Effect.Effect<Sent, OAuth2Error> =>
  withNonce(party, (options, now) =>
    Oauth.genericTokenEndpointRequest(
      server,
      clientOf(party),
      party.authentication(now),
      grantType,
      parameters,
      options(server.token_endpoint)
    ), parameters)

export const deviceAuthorization = (
  party: Party,
  server: Server,
  parameters: Parameters
): Effect.Effect<Sent, OAuth2Error> =>
  Effect.flatMap(Clock.currentTimeMillis, (now) =>
    Effect.flatMap(
      built((options) =>
        Oauth.deviceAuthorizationRequest(
          server,
          clientOf(party),
          party.authentication(now),
          parameters,
          options as never
        ), party.allowsInsecure),
      (request) => send(party, request, [])
    ))

export const pushedAuthorization = (
  party: Party,
  server: Server,
  parameters: Parameters
): Effect.Effect<Sent, OAuth2Error> =>
  withNonce(party, (options, now) =>
    Oauth.pushedAuthorizationRequest(
      server,
      clientOf(party),
      party.authentication(now),
      parameters,
      options(server.pushed_authorization_request_endpoint)
    ), parameters)

export const revocation = (
  party: Party,
  server: Server,
  revoked: string,
  kind: "access_token" | "refresh_token"
): Effect.Effect<Sent, OAuth2Error> =>
  Effect.flatMap(Clock.currentTimeMillis, (now) =>
    Effect.flatMap(
      built((options) =>
        Oauth.revocationRequest(server, clientOf(party), party.authentication(now), revoked, {
          ...options as {},
          additionalParameters: { token_type_hint: kind }
        }), party.allowsInsecure),
      (request) => send(party, request, [revoked])
    ))

/** The metadata of a server. */
export const metadata = (party: Party, url: URL): Effect.Effect<Sent, OAuth2Error> =>
  send(party, { url, method: "GET", headers: { accept: "application/json" }, body: undefined }, [])

/** A server may change its nonce with each answer. After this many refused nonces, the request fails. */
const mostNonces = 3

const withNonce = (
  party: Party,
  build: (options: (endpoint: string | undefined) => any, now: number) => Promise<unknown>,
  parameters: Parameters
): Effect.Effect<Sent, OAuth2Error> => {
  const { dpop } = party
  const attempt = (nonces: number): Effect.Effect<Sent, OAuth2Error> =>
    Effect.flatMap(Clock.currentTimeMillis, (now) =>
      built((options) =>
        build((endpoint) => ({
          ...options,
          ...(dpop === undefined || endpoint === undefined || !URL.canParse(endpoint)
            ? {}
            : { DPoP: Dpop.handle(dpop, new URL(endpoint), now) })
        }), now), party.allowsInsecure)).pipe(
        Effect.flatMap((request) =>
          Effect.flatMap(send(party, request, secretsOf(parameters)), (sent) => {
            const nonce = sent.answer.headers["dpop-nonce"]
            if (dpop === undefined || nonce === undefined) return Effect.succeed(sent)
            Dpop.noted(dpop, request.url, nonce)
            return nonces > 0 && wantsNonce(sent.answer) ? attempt(nonces - 1) : Effect.succeed(sent)
          })
        )
      )
  return attempt(mostNonces)
}

/** RFC 9449 section 8. */
const wantsNonce = ({ headers, status, text }: Answer): boolean =>
  status >= 400 && status < 500 && (text.includes("use_dpop_nonce") || asksForNonce(headers))

const secretsOf = (parameters: Parameters): ReadonlyArray<string> =>
  secretNames.flatMap((name) => parameters.getAll(name))

const secretNames = [
  "refresh_token",
  "assertion",
  "code",
  "code_verifier",
  "device_code",
  "subject_token",
  "actor_token"
]

// -----------------------------------------------------------------------------
// sending
// -----------------------------------------------------------------------------

const send = (party: Party, request: Built, secrets: ReadonlyArray<string>): Effect.Effect<Sent, OAuth2Error> =>
  Effect.flatMap(
    Clock.currentTimeMillis,
    (sentAt) =>
      Effect.map(
        received(party, request, [...party.secrets, ...sensible(secrets), ...provenBy(request)]),
        (answer) => ({ answer, sentAt })
      )
  )

/** The parts of a request that authenticate the client: made from its secret, or with its key. */
const provenBy = ({ body, headers }: Built): ReadonlyArray<string> =>
  [headers["authorization"]?.split(" ")[1], headers["dpop"], body?.get("client_assertion")].filter(Predicate.isString)

/** Spans show only these headers, since a server may repeat parts of the request in any other. */
const redactedHeaders = /^(?!(?:content-type|content-length|date|retry-after)$)/

const received = (party: Party, { body, headers, method, url }: Built, secrets: ReadonlyArray<string>) => {
  const bare = HttpClientRequest.make(method)(url.href).pipe(HttpClientRequest.setHeaders(headers))
  const request = body === undefined
    ? bare
    : HttpClientRequest.bodyText(bare, body.toString(), "application/x-www-form-urlencoded;charset=UTF-8")
  return Effect.scoped(
    withRedirectsShown(party.client.execute(request)).pipe(
      Effect.catchAll((error) =>
        error._tag === "ResponseError" && error.reason === "StatusCode"
          ? Effect.succeed(error.response)
          : Effect.fail(unreachable(error))
      ),
      Effect.filterOrFail(
        (response) => isFrom(url, response),
        ({ status }) =>
          new OAuth2Error({ error: "invalid_response", status, description: "the answer came from another address" })
      ),
      Effect.flatMap((response) =>
        Effect.all({
          text: textOf(response),
          retryAfter: Effect.map(Backoff.retryAfter(response.headers), Option.getOrUndefined)
        }).pipe(
          Effect.map(({ retryAfter, text }): Answer => ({
            status: response.status,
            headers: response.headers,
            text,
            retryAfter: response.status === 429 || response.status >= 500 ? retryAfter : undefined,
            secrets: secrets.flatMap(writingsOf)
          }))
        )
      )
    )
  ).pipe(Effect.locallyWith(Headers.currentRedactedNames, (names) => [...names, redactedHeaders]))
}

/** Short values (`code`, `S256`) are left out: they are words that a description may contain. */
const sensible = (secrets: ReadonlyArray<string>): ReadonlyArray<string> =>
  secrets.filter((secret) => secret.length > 7)

/** The forms in which a secret appears in forms, URLs and JSON. */
const writingsOf = (secret: string): ReadonlyArray<string> => {
  const others = [
    encodeURIComponent(secret),
    new URLSearchParams({ "": secret }).toString().slice(1),
    JSON.stringify(secret).slice(1, -1)
  ]
  return [...new Set([secret, ...others])]
}

/** The client's error shows the request, headers and body, so only its reason is kept. */
const unreachable = (error: HttpClientError.HttpClientError): OAuth2Error =>
  new OAuth2Error({
    error: "unreachable",
    description: error._tag === "RequestError"
      ? `the request could not be sent (${error.reason})`
      : `the answer could not be read (${error.reason})`
  })

/**
 * Whether the answer comes from this address. A client that follows redirects by itself gives the answer of another
 * address.
 */
const isFrom = (url: URL, response: HttpClientResponse.HttpClientResponse): boolean => {
  if (isFollowed(response)) return false
  const found = Either.try(() => new URL(response.request.url))
  return Either.isRight(found) && found.right.origin === url.origin && found.right.pathname === url.pathname
}

/** No server's answer about a token is this long: an endless answer is cut here. */
const mostBytes = 1_048_576

const textOf = (response: HttpClientResponse.HttpClientResponse): Effect.Effect<string, OAuth2Error> =>
  Stream.runFoldEffect(response.stream, { chunks: [] as Array<Uint8Array>, size: 0 }, (body, chunk) => {
    body.chunks.push(chunk)
    body.size += chunk.length
    return body.size <= mostBytes ? Effect.succeed(body) : Effect.fail(
      new OAuth2Error({ error: "invalid_response", status: response.status, description: "the answer is too long" })
    )
  }).pipe(
    Effect.map(({ chunks, size }) => {
      const bytes = new Uint8Array(size)
      let offset = 0
      for (const chunk of chunks) {
        bytes.set(chunk, offset)
        offset += chunk.length
      }
      return new TextDecoder().decode(bytes)
    }),
    Effect.catchAll((error) =>
      error instanceof OAuth2Error
        ? Effect.fail(error)
        : isEmpty(error)
        ? Effect.succeed("")
        : Effect.fail(unreachable(error))
    )
  )

/** The error that platform raises for a response without a body. */
const isEmpty = (error: HttpClientError.HttpClientError): boolean =>
  HttpClientError.isHttpClientError(error) && error._tag === "ResponseError" && error.reason === "EmptyBody"
