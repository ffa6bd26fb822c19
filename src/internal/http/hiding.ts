/** Hides headers from spans: platform's span shows all headers of a request except those it knows to be secret. */
import * as Headers from "@effect/platform/Headers"
import type * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as Effect from "effect/Effect"

type Request = HttpClientRequest.HttpClientRequest

/** The headers that platform hides by itself. Most sessions only add one of these, which costs nothing more. */
const known = new Set(["authorization", "cookie", "set-cookie", "x-api-key"])

/**
 * Sends the request that `attach` has made from the caller's request. Spans show none of the headers that `attach` has
 * set.
 */
export const hidingAttached = <A, E, R>(
  own: Request,
  attached: Request,
  send: (request: Request) => Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> => {
  const sent = send(attached)
  const names = namesSet(own.headers, attached.headers)
  return names === undefined
    ? sent
    : Effect.locallyWith(sent, Headers.currentRedactedNames, (others) => [...others, ...names])
}

/** Called for each request, so it makes no closure and usually no list. */
const namesSet = (own: Headers.Headers, attached: Headers.Headers): ReadonlyArray<string> | undefined => {
  let names: Array<string> | undefined
  for (const name in attached) {
    if (attached[name] !== own[name] && !known.has(name)) (names ??= []).push(name)
  }
  return names
}
