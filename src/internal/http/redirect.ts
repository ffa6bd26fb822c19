/**
 * Redirects, RFC 9110 section 15.4: the next request that a response asks for, and which headers must not be sent to
 * another origin.
 */
import * as FetchHttpClient from "@effect/platform/FetchHttpClient"
import * as Headers from "@effect/platform/Headers"
import * as HttpClientError from "@effect/platform/HttpClientError"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import type * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import * as UrlParams from "@effect/platform/UrlParams"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import { inScopeOf } from "./hold.js"
import { isReplayable } from "./replayable.js"

type Request = HttpClientRequest.HttpClientRequest

/** A single request among those that are sent for a caller's request. */
export interface Hop {
  readonly request: Request
  /** The URL that the request goes to; `undefined` if nothing depends on it. */
  readonly url: URL | undefined
  /** Whether all origins so far may have the session's credentials. Once false, it stays false. */
  readonly isHome: boolean
  readonly redirectsLeft: number
}

/**
 * The hop that the response redirects to, or why there is none: the response is no redirect (`"answer"`), the last
 * redirect has been followed (`"limit"`), the body would have to be sent again but can be read only once (`"read
 * once"`), or the `Location` is not an http or https URL (`"no url"`).
 */
export const next = (
  hop: Hop,
  response: HttpClientResponse.HttpClientResponse,
  isHome: (url: URL, from: URL) => boolean
): Hop | "answer" | "limit" | "read once" | "no url" => {
  if (hop.url === undefined || !redirectStatuses.has(response.status)) return "answer"
  const { location } = response.headers
  if (location === undefined) return "answer"
  if (hop.redirectsLeft === 0) return "limit"
  const request = redirected(hop.request, response.status)
  if (!isReplayable(request)) return "read once"
  const target = targetOf(location, hop.url)
  if (target === undefined) return "no url"
  return {
    request: inScopeOf(
      hop.request,
      movedTo(target, target.origin === hop.url.origin ? request : withoutCredentials(request))
    ),
    url: target,
    isHome: hop.isHome && isHome(target, hop.url),
    redirectsLeft: hop.redirectsLeft - 1
  }
}

const redirectStatuses = new Set([301, 302, 303, 307, 308])

/** 303 asks for a GET. So do 301 and 302 after a POST, in every browser. 307 and 308 keep method and body. */
const redirected = (request: Request, status: number): Request => {
  const becomesGet = status === 303 ? request.method !== "HEAD" : status < 303 && request.method === "POST"
  return becomesGet
    ? HttpClientRequest.get(request.url, { headers: Headers.remove(request.headers, /^content-/) })
    : request
}

/**
 * The user and password of a URL are the caller's own: they are kept for the same origin, and a server cannot set
 * others. `fetch` refuses a URL with credentials, and shows them in its error; `node:http` sends them.
 */
const targetOf = (location: string, from: URL): URL | undefined => {
  const reference = utf8Of(location)
  if (!URL.canParse(reference, from)) return undefined
  const target = new URL(reference, from)
  if (!isHttp(target)) return undefined
  const isSame = target.origin === from.origin
  target.username = isSame ? from.username : ""
  target.password = isSame ? from.password : ""
  return target
}

/** Clients decode a header's bytes as Latin-1. Servers that do not encode a `Location` usually write UTF-8. */
const utf8Of = (header: string): string => {
  if (!/^[\0-\xff]*[\x80-\xff][\0-\xff]*$/.test(header)) return header
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(header, (char) => char.charCodeAt(0)))
  } catch {
    return header
  }
}

/**
 * The same request for another URL, which is kept unchanged: `setUrl` would encode its parameters again, and break a
 * signature.
 */
const movedTo = (url: URL, request: Request): Request => {
  url.hash = ""
  return HttpClientRequest.make(request.method)(url.href, { body: request.body }).pipe(
    HttpClientRequest.setHeaders(request.headers)
  )
}

// -----------------------------------------------------------------------------
// what another origin does not get
// -----------------------------------------------------------------------------

/** The request for another origin: without headers that prove who sends it, and without the previous host's name. */
const withoutCredentials = (request: Request): Request =>
  HttpClientRequest.make(request.method)(request.url, { body: request.body }).pipe(
    HttpClientRequest.setHeaders(Headers.remove(request.headers, [credential, "host"]))
  )

/**
 * Names of headers that prove who sends a request, both standard headers and those of particular services:
 * `authorization`, `cookie`, `x-api-key`, `accesskey`, `ocp-apim-subscription-key`, `x-csrf-token`,
 * `x-amz-security-token`, `x-hub-signature`, `dpop`, `cb-access-passphrase`, `cb-access-sign`, `x-hmac-sha256`,
 * `x-firebase-appcheck`, `sid`. (An `idempotency-key` proves nothing.)
 */
const credential = new RegExp(
  "^(?!(x-)?idempotency-key$).*" +
    "(auth(?!or\\b)|cookie|token|secret|bearer|csrf|xsrf|credential|pass(w|phrase|code)|signature|session|dpop|jwt|" +
    "hmac|appcheck|\\botp\\b|\\bsig(n|ned)?\\b|(\\b|php)s(ess)?id\\b|-cert$|" +
    "(\\b|_)key(\\b|_)|(api|access|private|subscription|account|app|client|master|secret|service)-?key)"
)

// -----------------------------------------------------------------------------
// URLs and clients
// -----------------------------------------------------------------------------

export const isHttp = (url: URL): boolean => url.protocol === "http:" || url.protocol === "https:"

/** A URL for an error: without its credentials, and without query and fragment, which may be secret. */
export const withoutSecrets = (url: string): string =>
  url.includes("@") ? "a URL with credentials" : url.replace(/[?#].*$/s, "")

export const urlOf = (request: Request): Either.Either<URL, HttpClientError.RequestError> =>
  UrlParams.makeUrl(request.url, request.urlParams, request.hash).pipe(
    Either.filterOrLeft(isHttp, () => new TypeError("neither http nor https")),
    Either.mapLeft((cause) => new HttpClientError.RequestError({ request, reason: "InvalidUrl", cause }))
  )

/** The private part of platform's responses in which the client's own response is, also beneath a scope. */
interface Parts {
  readonly original?: Parts
  readonly source?: { readonly headers?: unknown; readonly redirected?: unknown }
}

/** The client's own response: the `Response` of `fetch`, or the one of undici or node:http. */
export const sourceOf = (response: HttpClientResponse.HttpClientResponse): Parts["source"] => {
  const { original, source } = response as Parts
  return source ?? original?.source
}

/** Whether `fetch` has followed a redirect by itself. */
export const isFollowed = (response: HttpClientResponse.HttpClientResponse): boolean =>
  sourceOf(response)?.redirected === true

interface Globals {
  readonly process?: { readonly type?: string; readonly versions?: { readonly node?: string } }
}

/**
 * Whether `fetch` is a browser's, which hides redirects from scripts. A `document` alone proves nothing: tests and
 * server rendering create one in Node. Electron's windows have Node's `process` and a browser's `fetch`.
 */
export const isBrowser = (): boolean => {
  const { process } = globalThis as Globals
  const isNode = process?.versions?.node !== undefined && process.type !== "renderer" && process.type !== "worker"
  return !isNode && ("document" in globalThis || "WorkerGlobalScope" in globalThis)
}

/**
 * By default `fetch` follows redirects by itself and hides the cookies that are set on the way. A browser keeps these
 * cookies; there, a redirect response that is not followed cannot be read.
 */
export const withRedirectsShown = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  isBrowser() ?
    effect :
    Effect.mapInputContext(effect, (context: Context.Context<R>) =>
      Context.add(context, FetchHttpClient.RequestInit, {
        ...Option.getOrUndefined(Context.getOption(context, FetchHttpClient.RequestInit)),
        redirect: "manual"
      }))
