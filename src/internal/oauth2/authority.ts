/**
 * The metadata of an authorization server: requested when it is first needed, and kept for a day. Failures are not
 * kept.
 */
import * as Effect from "effect/Effect"
import type * as Oauth from "oauth4webapi"
import { monotonic } from "../monotonic.js"
import { metadataFrom } from "./answer.js"
import * as Endpoint from "./endpoint.js"
import { DiscoveryFailed, type OAuth2Error } from "./errors.js"
import { isSameIssuer, placeOf } from "./issuer.js"

export type Authority = Effect.Effect<Oauth.AuthorizationServer, DiscoveryFailed>

const day = 86_400_000

export const make = (party: Endpoint.Party, issuer: URL): Authority => {
  const place = placeOf(issuer)
  let known: { readonly server: Oauth.AuthorizationServer; readonly until: number } | undefined
  return Effect.gen(function*() {
    const now = monotonic(yield* Effect.clock)
    if (known !== undefined && now < known.until) return known.server
    const former = known
    // If discovery fails, an earlier answer is used, even if it is older than a day.
    const server = yield* former === undefined
      ? discovered(party, place.urls, place.issuer)
      : Effect.catchAll(discovered(party, place.urls, place.issuer), () => Effect.succeed(former.server))
    if (server !== former?.server) known = { server, until: now + day }
    return server
  })
}

const discovered = (
  party: Endpoint.Party,
  [url, ...others]: ReadonlyArray<URL>,
  issuer: string
): Effect.Effect<Oauth.AuthorizationServer, DiscoveryFailed> =>
  Effect.mapError(Endpoint.metadata(party, url!), (failure) => undiscovered(issuer, failure)).pipe(
    Effect.flatMap(({ answer }): Effect.Effect<Oauth.AuthorizationServer, DiscoveryFailed> => {
      const { retryAfter, status } = answer
      if (status === 404 && others.length > 0) return discovered(party, others, issuer)
      if (status !== 200) return new DiscoveryFailed({ issuer, reason: "UnexpectedStatus", status, retryAfter })
      const metadata = metadataFrom(answer)
      if (typeof metadata?.["issuer"] !== "string" || !isUrl(metadata["token_endpoint"])) {
        return new DiscoveryFailed({ issuer, reason: "InvalidMetadata", status })
      }
      return isSameIssuer(issuer, metadata["issuer"])
        ? Effect.succeed(metadata as Oauth.AuthorizationServer)
        : new DiscoveryFailed({ issuer, reason: "IssuerMismatch", status })
    })
  )

const isUrl = (value: unknown): boolean => typeof value === "string" && URL.canParse(value)

const undiscovered = (issuer: string, { error, status }: OAuth2Error): DiscoveryFailed =>
  new DiscoveryFailed({ issuer, reason: error === "unreachable" ? "Unreachable" : "InvalidMetadata", status })
