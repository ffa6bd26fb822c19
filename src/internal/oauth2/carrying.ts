/** How requests to an API carry tokens, and how responses and errors hide the tokens. */
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import type * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Redacted from "effect/Redacted"
import type * as OAuth2Session from "../../OAuth2Session.js"
import type * as Session from "../../Session.js"
import type * as SessionHttpClient from "../../SessionHttpClient.js"
import { answering, failureAnswering } from "../http/answer.js"
import { inScopeOf } from "../http/hold.js"
import { urlOf } from "../http/redirect.js"
import { asksForNonce } from "./answer.js"
import * as Dpop from "./dpop.js"

type Request = HttpClientRequest.HttpClientRequest
type Response = HttpClientResponse.HttpClientResponse
type Tokens = OAuth2Session.Tokens

// -----------------------------------------------------------------------------
// the keys of sessions, tokens and requests
// -----------------------------------------------------------------------------

const ofSessions = new WeakMap<object, Dpop.Dpop>()
const ofTokens = new WeakMap<Tokens, Dpop.Dpop>()
/** Keys by the caller's request, for responses that show it: those that hold the session until their body ends. */
const ofRequests = new WeakMap<Request, Dpop.Dpop>()
/**
 * Keys by the head of a proof, for all other responses, which show the sent request. All proofs of one key have the
 * same head.
 */
const ofHeads = new Map<string, WeakRef<Dpop.Dpop>>()

export const remember = (session: Session.Session<Tokens, any>, dpop: Dpop.Dpop): void => {
  ofSessions.set(session, dpop)
}

export const dpopOf = (session: Session.Session<Tokens, any>): Dpop.Dpop | undefined => ofSessions.get(session)

export const bind = (tokens: Tokens, dpop: Dpop.Dpop): void => {
  ofTokens.set(tokens, dpop)
}

// -----------------------------------------------------------------------------
// proofs
// -----------------------------------------------------------------------------

/** RFC 9449 section 7.1. */
export const attachBound = (request: Request, tokens: Tokens): Effect.Effect<Request> =>
  Effect.suspend(() => {
    const dpop = ofTokens.get(tokens)
    if (dpop === undefined) return Effect.dieMessage("these tokens are bound to a key, and came from no session")
    const accessToken = Redacted.value(tokens.accessToken)
    return Effect.map(signed(dpop, request, accessToken), (signed) => {
      const attached = HttpClientRequest.setHeader(signed, "authorization", `${scheme}${accessToken}`)
      ofRequests.set(request, dpop)
      noteHead(attached, dpop)
      return attached
    })
  })

const headOf = ({ headers }: Request): string | undefined => headers["dpop"]?.split(".", 1)[0]

const noteHead = (request: Request, dpop: Dpop.Dpop): void => {
  const head = headOf(request)
  if (head === undefined || ofHeads.get(head)?.deref() === dpop) return
  for (const [other, held] of ofHeads) if (held.deref() === undefined) ofHeads.delete(other)
  ofHeads.set(head, new WeakRef(dpop))
}

const scheme = "DPoP "

const signed = (dpop: Dpop.Dpop, request: Request, accessToken: string): Effect.Effect<Request> =>
  Effect.flatMap(Effect.orDie(urlOf(request)), (url) =>
    Effect.map(
      Dpop.proof(dpop, request.method, url, accessToken),
      (proof) => HttpClientRequest.setHeader(request, "dpop", proof)
    ))

/** The client beneath a session whose tokens are bound: it remembers nonces, and makes requests take turns. */
export const proving = <E, R>(
  client: HttpClient.HttpClient.With<E, R>,
  dpop: Dpop.Dpop
): HttpClient.HttpClient.With<E, R> =>
  HttpClient.makeWith(
    (request) =>
      Effect.flatMap(request, (request): Effect.Effect<Response, E, R> => {
        const authorization = request.headers["authorization"]
        const url = urlOf(request)
        if (authorization?.startsWith(scheme) !== true || Either.isLeft(url)) return client.execute(request)
        return Dpop.sending(dpop, url.right, request, {
          send: (request) => client.execute(request),
          resign: (request) =>
            Effect.map(
              signed(dpop, request, authorization.slice(scheme.length)),
              (signed) => inScopeOf(request, signed)
            ),
          nonceOf: ({ headers, status }) => ({
            nonce: headers["dpop-nonce"],
            isRefused: status === 401 && asksForNonce(headers)
          })
        })
      }),
    Effect.succeed<Request>
  )

type Rejected = SessionHttpClient.Options<Tokens>["rejected"]

/** By now, the client beneath has remembered the nonce. */
export const judging = (own: Rejected): Rejected => (response) =>
  response.status === 401 && asksForNonce(response.headers)
    ? "again"
    : own === undefined
    ? response.status === 401
    : own(response)

export const rejected = (response: Response): boolean | "again" => {
  if (response.status !== 401) return false
  if (!asksForNonce(response.headers)) return true
  const dpop = ofRequests.get(response.request) ?? ofHeads.get(headOf(response.request) ?? "")?.deref()
  const url = urlOf(response.request)
  if (dpop !== undefined && Either.isRight(url)) Dpop.noted(dpop, url.right, response.headers["dpop-nonce"])
  return "again"
}

// -----------------------------------------------------------------------------
// answers
// -----------------------------------------------------------------------------

/** Makes responses and errors show the caller's own request: printing the sent request would show the token. */
export const answeringOwn = <E, R>(
  client: HttpClient.HttpClient.With<E, R>
): HttpClient.HttpClient.With<E, R> =>
  HttpClient.makeWith(
    (request) =>
      Effect.flatMap(request, (request) =>
        Effect.mapBoth(client.execute(request), {
          onSuccess: (response) => response.request === request ? response : answering(request, response),
          onFailure: (error) => failureAnswering(request, error)
        })),
    Effect.succeed<Request>
  )
