/** Makes tokens from an answer: checks them, and completes them from the previous tokens. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import type * as Oauth from "oauth4webapi"
import type * as OAuth2Session from "../../OAuth2Session.js"
import { OAuth2Error } from "./errors.js"
import * as IdToken from "./idToken.js"
import type { Issued } from "./signIn.js"

export interface Rules {
  readonly clientId: string
  readonly clockTolerance: Duration.Duration
  /** The scope that was requested: an answer without a scope grants all of it (RFC 6749 section 5.1). */
  readonly scope: ReadonlyArray<string>
  readonly usesDpop: boolean
  /** Whether this is a token exchange, which may bring a token that is not an access token (RFC 8693 section 2.2.1). */
  readonly isExchange: boolean
}

/** If a renewal's answer does not mention the refresh token, the scope or the person, the previous ones are kept. */
export const tokens = (
  { answer, nonce, sentAt }: Issued,
  server: Oauth.AuthorizationServer,
  rules: Rules,
  former: OAuth2Session.Tokens | undefined
): Effect.Effect<OAuth2Session.Tokens, OAuth2Error> =>
  Effect.gen(function*() {
    const { accessToken, expiresIn, idToken, refreshToken, scope } = answer
    const tokenType = yield* typeOf(answer.tokenType, rules)
    if (!/^[\x20-\x7e\x80-\xff]+$/.test(accessToken)) {
      return yield* invalid("the access_token has characters that no header can carry")
    }
    const claims = idToken === undefined ? former?.claims : yield* IdToken.claimsOf(idToken, {
      server,
      clientId: rules.clientId,
      // The refresh token is spent: if a clock is wrong, its successor must be kept nevertheless.
      tolerance: former === undefined ? rules.clockTolerance : anyTime,
      nonce,
      former: former?.claims
    })
    return {
      accessToken: Redacted.make(accessToken),
      tokenType,
      refreshToken: refreshToken === undefined ? former?.refreshToken : Redacted.make(refreshToken),
      idToken: idToken === undefined ? former?.idToken : Redacted.make(idToken),
      scope: scope === undefined ? former?.scope ?? new Set(rules.scope) : new Set(scope),
      expiresAt: expiresIn === undefined ? undefined : dateOf(sentAt + expiresIn * 1000),
      claims
    }
  })

/** The time in epoch milliseconds; `undefined`, for never, if no `Date` can hold it. */
const dateOf = (millis: number): number | undefined => millis <= 8.64e15 ? millis : undefined

/** In seconds, the longest that can be counted. */
const anyTime = Duration.seconds(Number.MAX_SAFE_INTEGER / 1000)

const typeOf = (
  type: string | undefined,
  { isExchange, usesDpop }: Rules
): Effect.Effect<"Bearer" | "DPoP", OAuth2Error> => {
  const wanted = usesDpop ? "DPoP" : "Bearer"
  if (type === undefined || type === wanted.toLowerCase() || (type === "n_a" && isExchange)) {
    return Effect.succeed(wanted)
  }
  const description = usesDpop && type === "bearer"
    ? "the server issued a token that is not bound to the key"
    : `the server issued a token of a type that is not ${wanted}`
  return invalid(description)
}

const invalid = (description: string): OAuth2Error => new OAuth2Error({ error: "invalid_response", description })
