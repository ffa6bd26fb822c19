/** Hides headers from spans: platform's span shows all headers of a request except those it knows to be secret. */
import * as Headers from "@effect/platform/Headers"
import type * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as Effect from "effect/Effect"

type Request = HttpClientRequest.HttpClientRequest

/** Platform's own. Most sessions add one of these alone, and pay nothing for the others. */
const known = new Set(["authorization", "cookie", "set-cookie", "x-api-key"])

/** Sends what `attach` has made of a caller's request. Spans show none of the headers that it has set. */
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

/** Asked for each request, so without a closure and, mostly, without a list. */
const namesSet = (own: Headers.Headers, attached: Headers.Headers): ReadonlyArray<string> | undefined => {
  let names: Array<string> | undefined
  for (const name in attached) {
    if (attached[name] !== own[name] && !known.has(name)) (names ??= []).push(name)
  }
  return names
}
