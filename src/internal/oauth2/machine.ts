/** The options of the `Session` beneath an `OAuth2Session`: how it signs in, renews, gives up and signs out. */
import type * as HttpClient from "@effect/platform/HttpClient"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import type * as OAuth2Session from "../../OAuth2Session.js"
import type * as Session from "../../Session.js"
import * as Patience from "../persisted/patience.js"
import * as Authority from "./authority.js"
import * as Carrying from "./carrying.js"
import type { Dpop } from "./dpop.js"
import * as Endpoint from "./endpoint.js"
import { Grants } from "./grants.js"
import * as Retries from "./retries.js"
import * as Revoking from "./revoking.js"
import type { Settings } from "./settings.js"

type Tokens = OAuth2Session.Tokens
type SignInError = OAuth2Session.SignInError

/** The options in a type that fits all kinds of sessions. */
export interface SessionOptions extends
  Pick<
    Session.Options<Tokens, SignInError, never, SignInError>,
    "acquire" | "fatal" | "expiresAt" | "onEnd" | "refreshAhead" | "timeout" | "lateness" | "budget" | "name"
  >
{
  readonly renew: (current: Tokens) => Effect.Effect<Tokens, SignInError>
  readonly retry: Retries.Retry
  readonly cooldown: Retries.CooldownSchedule
}

export const make = (
  options: OAuth2Session.Options,
  settings: Settings,
  client: HttpClient.HttpClient,
  dpop: Dpop | undefined,
  requests: Endpoint.Requests = Endpoint
): SessionOptions => {
  const { clientId, name = "session" } = options
  const party: Endpoint.Party = {
    client,
    clientId,
    authentication: settings.authentication,
    usesMtlsAliases: settings.usesMtlsAliases,
    allowsInsecure: options.allowInsecureRequests === true,
    dpop,
    secrets: settings.secrets,
    requests
  }
  const authority = authorityOf(party, settings)
  const retry = Retries.retryOf(options.retry)
  const grants = grantsOf(options, settings, { name, party, authority, retry, usesDpop: dpop !== undefined })
  return {
    acquire: grants.acquire,
    renew: (current) => grants.renew(current),
    fatal: (error) => grants.isFatal(error),
    expiresAt: (tokens) => {
      // This function sees every value before a caller is given it, also values from a store.
      if (dpop !== undefined) Carrying.bind(tokens, dpop)
      // A store may hold tokens from a time when the option `dpop` was set. Without their key they cannot be used.
      else if (tokens.tokenType === "DPoP") return 0
      if (tokens.expiresAt === undefined) return undefined
      return tokens.expiresAt - Math.min(settings.expiryLeeway, (grants.lifetimeOf(tokens) ?? Infinity) / 2)
    },
    onEnd: (tokens) =>
      Effect.suspend(() => {
        grants.signOut(tokens)
        const limit = options.persist === undefined ? signOutLimit : Duration.subtract(signOutLimit, Patience.limit)
        // `onEnd` runs uninterruptible, and then a timeout would wait for the effect that it limits.
        const revoked = Effect.interruptible(Revoking.revoke(party, authority, grants.latest(tokens), name))
        return Effect.asVoid(Effect.timeoutOption(revoked, limit))
      }),
    refreshAhead: isZero(options.refreshAhead) ? undefined : options.refreshAhead ?? "1 minute",
    timeout: options.timeout,
    // A late answer is awaited because it may have the only refresh token. A client that signs in as itself has spent
    // nothing, so it asks again instead.
    lateness: options.lateness ?? (options.grant._tag === "ClientCredentials" ? 0 : undefined),
    budget: options.budget,
    name,
    retry: Schedule.whileInput(retry, (error) => !grants.isPersonal(error as SignInError)),
    cooldown: settings.cooldown
  }
}

const authorityOf = (party: Endpoint.Party, { issuer }: Settings): Authority.Authority =>
  issuer instanceof URL ? Authority.make(party, issuer) : Effect.succeed(issuer)

const grantsOf = (
  { clientId, fatal, grant }: OAuth2Session.Options,
  { clockTolerance, isInteractive, wanted }: Settings,
  { usesDpop, ...own }: {
    readonly name: string
    readonly party: Endpoint.Party
    readonly authority: Authority.Authority
    readonly retry: Retries.Retry
    readonly usesDpop: boolean
  }
): Grants =>
  new Grants({
    ...own,
    grant,
    wanted,
    isInteractive,
    fatal,
    rules: { clientId, clockTolerance, scope: wanted.scope, usesDpop, isExchange: grant._tag === "TokenExchange" }
  })

const isZero = (duration: Duration.DurationInput | undefined): boolean =>
  Option.exists(Duration.decodeUnknown(duration), Duration.isZero)

/** The longest time that signing out waits for the server or a store. */
const signOutLimit = Duration.seconds(5)
