/**
 * The authorization code flow, RFC 6749 section 4.1, with PKCE (RFC 7636) and, if the options ask for it, a pushed
 * authorization request (RFC 9126).
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Predicate from "effect/Predicate"
import * as Oauth from "oauth4webapi"
import { requestUriFrom, withoutSecrets } from "./answer.js"
import * as Endpoint from "./endpoint.js"
import { OAuth2Error } from "./errors.js"
import { isSameIssuer } from "./issuer.js"

/** An authorization request whose URL the browser opens, and what must be kept until the browser comes back. */
export interface Begun {
  readonly url: URL
  readonly state: string
  readonly nonce: string | undefined
  readonly verifier: string
}

export const begin = (
  party: Endpoint.Party,
  server: Oauth.AuthorizationServer,
  { isPushed, parameters, redirectUri }: {
    readonly parameters: URLSearchParams
    readonly redirectUri: string
    readonly isPushed: boolean
  }
): Effect.Effect<Begun, OAuth2Error> =>
  Effect.gen(function*() {
    const { authorization_endpoint } = server
    if (authorization_endpoint === undefined || !URL.canParse(authorization_endpoint)) {
      const description = "the server's metadata has no authorization_endpoint"
      return yield* new OAuth2Error({ error: "invalid_response", description })
    }
    const url = new URL(authorization_endpoint)
    // The URL goes to the program that opens browsers, which may do anything with another scheme.
    if (url.protocol !== "https:" && !(url.protocol === "http:" && party.allowsInsecure)) {
      const description = "the server's authorization_endpoint is not https"
      return yield* new OAuth2Error({ error: "invalid_response", description })
    }
    const verifier = Oauth.generateRandomCodeVerifier()
    const state = Oauth.generateRandomState()
    const isOpenId = parameters.get("scope")?.split(" ").includes("openid") === true
    const nonce = isOpenId ? Oauth.generateRandomNonce() : undefined
    const challenge = yield* Effect.promise(() => Oauth.calculatePKCECodeChallenge(verifier))
    const all = new URLSearchParams(parameters)
    all.set("response_type", "code")
    all.set("client_id", party.clientId)
    all.set("redirect_uri", redirectUri)
    all.set("state", state)
    all.set("code_challenge", challenge)
    all.set("code_challenge_method", "S256")
    if (nonce !== undefined) all.set("nonce", nonce)
    if (isPushed || server.require_pushed_authorization_requests === true) {
      const { answer } = yield* Endpoint.pushedAuthorization(party, server, all)
      const requestUri = requestUriFrom(answer)
      if (requestUri instanceof OAuth2Error) return yield* requestUri
      url.searchParams.set("client_id", party.clientId)
      url.searchParams.set("request_uri", requestUri)
    } else {
      for (const name of new Set(all.keys())) url.searchParams.delete(name)
      for (const [name, value] of all) url.searchParams.append(name, value)
    }
    return { url, state, nonce, verifier }
  })

/** Exchanges the code, if it was sent for this request and by this server (RFC 9207). */
export const exchange = (
  party: Endpoint.Party,
  server: Oauth.AuthorizationServer,
  { state, verifier }: Begun,
  redirectUri: string,
  cameBack: URL | string,
  tokenParameters: URLSearchParams
): Effect.Effect<Endpoint.Sent, OAuth2Error> =>
  Effect.gen(function*() {
    // The URL of a request that a server has received is relative.
    const url = yield* Either.try({ try: () => new URL(cameBack, redirectUri), catch: () => refused("is no URL") })
    const found = url.searchParams.get("iss")
    const own = found !== null && server.issuer.includes("{") && isSameIssuer(found, server.issuer)
      ? { ...server, issuer: found }
      : server
    const validated = yield* Effect.try({
      try: () => Oauth.validateAuthResponse(own, { client_id: party.clientId }, url.searchParams, state),
      // The library's own error contains the whole answer.
      catch: (error) =>
        error instanceof Oauth.AuthorizationResponseError ? refusalOf(error) : refused(
          Predicate.isError(error) && "code" in error ? `is refused: ${error.message}` : "cannot be read"
        )
    })
    const code = validated.get("code")
    if (code === null || code === "") return yield* refused("has no code")
    const parameters = new URLSearchParams(tokenParameters)
    parameters.set("code", code)
    parameters.set("code_verifier", verifier)
    parameters.set("redirect_uri", redirectUri)
    return yield* party.requests.token(party, server, "authorization_code", parameters)
  })

const refused = (what: string): OAuth2Error =>
  new OAuth2Error({ error: "invalid_response", description: `the address that came back ${what}` })

const refusalOf = ({ error, error_description }: Oauth.AuthorizationResponseError): OAuth2Error =>
  /^[\x20-\x7e]{1,100}$/.test(error)
    ? new OAuth2Error({
      error,
      ...(error_description === undefined ? {} : { description: withoutSecrets(error_description, []) })
    })
    : refused("has an error that cannot be read")
