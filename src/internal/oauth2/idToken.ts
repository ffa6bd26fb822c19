/**
 * Reads an id_token (OpenID Connect Core section 3.1.3.7). The token came directly from the token endpoint over TLS, so
 * its signature need not be checked (rule 6 there); issuer, audience, nonce and, at a sign-in, the times are checked.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Encoding from "effect/Encoding"
import * as Predicate from "effect/Predicate"
import * as Oauth from "oauth4webapi"
import { OAuth2Error } from "./errors.js"
import { ofTenant } from "./issuer.js"

export type Claims = Readonly<Record<string, unknown>>

export interface Expected {
  readonly server: Oauth.AuthorizationServer
  readonly clientId: string
  readonly tolerance: Duration.Duration
  /** The nonce of the authorization request. */
  readonly nonce: string | undefined
  /** The claims of the previous id_token: a renewal must name the same person. */
  readonly former: Claims | undefined
}

export const claimsOf = (idToken: string, expected: Expected): Effect.Effect<Claims, OAuth2Error> =>
  Effect.flatMap(Clock.currentTimeMillis, (now) =>
    Effect.tryPromise({
      try: () => validated(idToken, expected, now),
      catch: (error) => invalid(Predicate.isError(error) && "code" in error ? error.message : "cannot be read")
    })).pipe(
      Effect.filterOrFail(
        (claims) => isSamePerson(expected.former, claims),
        () => invalid("names another issuer or subject than the one before")
      ),
      Effect.map(storable)
    )

/** A store cannot keep a number that is too large for JSON, nor a member `__proto__`. */
const storable = (claims: Claims): Claims =>
  JSON.parse(JSON.stringify(claims), (name, value) => name === "__proto__" ? undefined : value)

/** The library's messages name a claim and never its value. */
const invalid = (what: string): OAuth2Error =>
  new OAuth2Error({ error: "invalid_response", description: `the id_token is not accepted: ${what}` })

const validated = async (
  idToken: string,
  { clientId, nonce, server, tolerance }: Expected,
  now: number
): Promise<Claims> => {
  const client: Oauth.Client = {
    client_id: clientId,
    [Oauth.clockSkew]: Math.round((now - Date.now()) / 1000),
    [Oauth.clockTolerance]: Math.round(Duration.toSeconds(tolerance))
  }
  const own: Oauth.AuthorizationServer = {
    ...server,
    issuer: ofTenant(server.issuer, claimOf(idToken, "tid")),
    id_token_signing_alg_values_supported: server.id_token_signing_alg_values_supported ?? asymmetric
  }
  // answer.ts has already read the rest of the answer, and is more tolerant than the library.
  const response = Response.json({ access_token: "-", token_type: "bearer", id_token: idToken })
  const read = nonce === undefined
    ? await Oauth.processGenericTokenEndpointResponse(own, client, response)
    : await Oauth.processAuthorizationCodeResponse(own, client, response, {
      expectedNonce: nonce,
      requireIdToken: true
    })
  return Oauth.getValidatedIdTokenClaims(read)!
}

const asymmetric = ["RS256", "PS256", "ES256", "Ed25519", "EdDSA", "RS384", "PS384", "ES384", "RS512", "PS512", "ES512"]

/** A claim of an unchecked token. */
const claimOf = (jwt: string, claim: string): unknown =>
  Either.getOrUndefined(Either.flatMap(
    Encoding.decodeBase64UrlString(jwt.split(".")[1] ?? ""),
    (text) => Either.try(() => (JSON.parse(text) as Record<string, unknown>)[claim])
  ))

/** OpenID Connect Core section 12.2. */
const isSamePerson = (former: Claims | undefined, claims: Claims): boolean =>
  former === undefined || (former["iss"] === claims["iss"] && former["sub"] === claims["sub"])
