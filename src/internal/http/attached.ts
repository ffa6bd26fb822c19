/**
 * Headers that a session sets. One that cannot be sent is refused here, because clients differ: fetch fails with an
 * error that shows the value, and Node's client throws.
 */
import * as Headers from "@effect/platform/Headers"
import type * as HttpClientError from "@effect/platform/HttpClientError"
import type * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as Effect from "effect/Effect"
import { InvalidOptions } from "../../InvalidOptions.js"
import { cannotEncode } from "./errors.js"

type Request = HttpClientRequest.HttpClientRequest

/** The headers that platform hides by itself. Most sessions only add one of these, which costs nothing more. */
const known = new Set(["authorization", "cookie", "set-cookie", "x-api-key"])

/**
 * Sends the request that `attach` has made from the caller's request. Spans show none of the headers that `attach` has
 * set: platform's span shows all headers of a request except those it knows to be secret.
 */
export const sendAttached = <A, E, R>(
  own: Request,
  attached: Request,
  send: (request: Request) => Effect.Effect<A, E, R>
): Effect.Effect<A, E | HttpClientError.RequestError, R> => {
  // A loop without a closure, and usually without a list, since it runs for each request.
  let names: Array<string> | undefined
  for (const name in attached.headers) {
    const value = attached.headers[name]!
    if (value === own.headers[name]) continue
    const wrong = unsendable(name, value)
    if (wrong !== undefined) return Effect.fail(refused(own, "attach", name, wrong))
    if (!known.has(name)) (names ??= []).push(name)
  }
  const sent = send(attached)
  return names === undefined
    ? sent
    : Effect.locallyWith(sent, Headers.currentRedactedNames, (others) => [...others, ...names])
}

/** Checks headers that an option has given for all requests. The error has the request that would have been sent. */
export const checkHeaders = (
  option: string,
  headers: Headers.Headers,
  request: Request
): Effect.Effect<void, HttpClientError.RequestError> => {
  for (const [name, value] of Object.entries(headers)) {
    const wrong = unsendable(name, value)
    if (wrong !== undefined) return Effect.fail(refused(request, option, name, wrong))
  }
  return Effect.void
}

/** Why a header cannot be sent (RFC 9110, sections 5.1 and 5.5). */
const unsendable = (name: string, value: string): string | undefined =>
  !isName.test(name)
    ? "its name has a character that is not allowed"
    : !isValue.test(value)
    ? "its value, which is not shown, has a character that is not allowed, such as a line break"
    : undefined

const isName = /^[!#$%&'*+.^_`|~\w-]+$/

const isValue = /^[\t\x20-\x7e\x80-\xff]*$/

const refused = (request: Request, option: string, value: string, wrong: string) =>
  cannotEncode(
    request,
    option,
    new InvalidOptions({ option, value, reason: `has set a header that cannot be sent: ${wrong}` })
  )
