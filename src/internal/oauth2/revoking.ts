/** Revocation, RFC 7009: the refresh token first, since most servers revoke its access tokens with it. */
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import type * as OAuth2Session from "../../OAuth2Session.js"
import { refusalFrom } from "./answer.js"
import type { Authority } from "./authority.js"
import type * as Endpoint from "./endpoint.js"

/** Never fails, and may be interrupted: signing out does not wait for a server that does not answer. */
export const revoke = (
  party: Endpoint.Party,
  authority: Authority,
  { accessToken, refreshToken }: OAuth2Session.Tokens,
  name: string
): Effect.Effect<void> =>
  Effect.gen(function*() {
    const server = yield* authority
    if (
      server.revocation_endpoint === undefined && server.mtls_endpoint_aliases?.revocation_endpoint === undefined
    ) return
    const tokens = [["refresh_token", refreshToken], ["access_token", accessToken]] as const
    for (const [kind, token] of tokens) {
      if (token === undefined) continue
      const outcome = yield* Effect.either(party.requests.revocation(party, server, Redacted.value(token), kind))
      const failure = outcome._tag === "Left" ? outcome.left : refusalFrom(outcome.right.answer)
      if (failure !== undefined) yield* Effect.logDebug(`${name}: the ${kind} was not revoked: ${failure.error}`)
    }
  }).pipe(
    Effect.catchAll(({ reason }) => Effect.logDebug(`${name}: nothing was revoked: discovery failed (${reason})`))
  )
