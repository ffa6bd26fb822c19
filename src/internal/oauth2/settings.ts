/** Checks the options once. Throws `InvalidOptions`, which never contains a secret. */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import * as Oauth from "oauth4webapi"
import { InvalidOptions } from "../../InvalidOptions.js"
import type * as OAuth2Session from "../../OAuth2Session.js"
import * as Check from "../check.js"
import { type CooldownSchedule, withRetryAfter } from "./retries.js"
import type { Wanted } from "./signIn.js"

export interface Settings {
  /** An issuer to discover, or metadata that is already known. */
  readonly issuer: URL | Oauth.AuthorizationServer
  readonly authentication: (now: number) => Oauth.ClientAuth
  readonly secrets: ReadonlyArray<string>
  readonly usesMtlsAliases: boolean
  readonly wanted: Wanted
  readonly expiryLeeway: number
  readonly clockTolerance: Duration.Duration
  readonly isInteractive: boolean
  readonly cooldown: CooldownSchedule
}

export const read = (options: OAuth2Session.Options): Settings => {
  Check.object("options", options)
  const { clientAuth = { _tag: "None" }, clientId, grant } = options
  text("clientId", clientId)
  Check.kind("clientAuth", clientAuth, Predicate.isRecord, "must be one of OAuth2Session's client authentications")
  checkGrant(grant)
  checkPersist(options)
  checkDpop(options)
  parameters("parameters", options.parameters)
  optional("audience", options.audience, Predicate.isString, "must be a string")
  optional("allowInsecureRequests", options.allowInsecureRequests, Predicate.isBoolean, "must be a boolean")
  optional("fatal", options.fatal, Predicate.isFunction, "must be a function")
  optional("retry", options.retry, Schedule.isSchedule, "must be a Schedule")
  // 0 is "never ahead" here, so that `Session` does not see it.
  Check.duration("refreshAhead", options.refreshAhead ?? 0, { min: 0, max: Duration.infinity })
  const authentication = authenticationOf(clientAuth)
  return {
    issuer: issuerOf(options),
    authentication,
    secrets: "secret" in clientAuth ? [Redacted.value(clientAuth.secret)] : [],
    usesMtlsAliases: clientAuth._tag === "MutualTls",
    wanted: {
      scope: list("scope", options.scope).flatMap((scope) => scope.split(/\s+/)).filter((scope) => scope !== ""),
      resource: list("resource", options.resource),
      audience: options.audience,
      parameters: options.parameters ?? {}
    },
    expiryLeeway: Duration.toMillis(Check.duration("expiryLeeway", options.expiryLeeway ?? "10 seconds", { min: 0 })),
    clockTolerance: Check.duration("clockTolerance", options.clockTolerance ?? "30 seconds", { min: 0 }),
    isInteractive: grant._tag === "DeviceCode" || grant._tag === "AuthorizationCode",
    cooldown: withRetryAfter(options.cooldown)
  }
}

const invalid = (option: string, value: unknown, reason: string) => new InvalidOptions({ option, value, reason })

const redacted = "<redacted>"

/** Text that is not a URL may still contain a password. */
const shown = (url: unknown): unknown => typeof url === "string" && url.includes("@") ? redacted : url

const text = (option: string, value: unknown): void => {
  if (typeof value !== "string" || value === "") throw invalid(option, value, "must be a string that is not empty")
}

const secret = (option: string, value: unknown): void => {
  const held = Redacted.isRedacted(value) ? Redacted.value(value) : undefined
  if (typeof held !== "string" || held.trim() === "") {
    throw invalid(option, redacted, "must be a Redacted string that is not blank")
  }
}

const optional = (option: string, value: unknown, is: (value: unknown) => boolean, reason: string): void => {
  if (value !== undefined) Check.kind(option, value, is, reason)
}

const parameters = (option: string, value: unknown): void =>
  optional(option, value, isParameters, "must be an object of strings")

const isParameters = (value: unknown): boolean =>
  Predicate.isRecord(value) && Object.values(value).every(Predicate.isString)

const list = (option: string, value: string | ReadonlyArray<string> | undefined): ReadonlyArray<string> => {
  const entries = value === undefined ? [] : typeof value === "string" ? [value] : value
  if (!Array.isArray(entries) || !entries.every(Predicate.isString)) {
    throw invalid(option, value, "must be a string or a list of strings")
  }
  return entries
}

const issuerOf = ({ allowInsecureRequests, issuer }: OAuth2Session.Options): URL | Oauth.AuthorizationServer => {
  const isUrl = typeof issuer === "string" || issuer instanceof URL
  const name = isUrl ? String(issuer) : issuer?.issuer
  if (typeof name !== "string" || !URL.canParse(name)) throw invalid("issuer", shown(name), "must be an absolute URL")
  const url = new URL(name)
  if (url.username !== "" || url.password !== "") {
    throw invalid("issuer", `${url.origin}${url.pathname}`, "must not hold a user or a password")
  }
  if (url.protocol !== "https:" && !(url.protocol === "http:" && allowInsecureRequests === true)) {
    throw invalid("issuer", shown(name), "must be https, or http with `allowInsecureRequests`")
  }
  return isUrl ? url : issuer
}

const checkGrant = (grant: OAuth2Session.Grant): void => {
  Check.kind("grant", grant, Predicate.isRecord, "must be one of OAuth2Session's grants")
  switch (grant._tag) {
    case "ClientCredentials":
      return
    case "RefreshToken":
      return secret("grant", grant.refreshToken)
    case "DeviceCode":
      Check.kind("grant.onPrompt", grant.onPrompt, Predicate.isFunction, "must be a function")
      return
    case "AuthorizationCode":
      Check.kind("grant.receiver", grant.receiver, Effect.isEffect, "must have `redirectUri` and `onAuthorize`")
      parameters("grant.parameters", grant.parameters)
      return optional("grant.pushed", grant.pushed, Predicate.isBoolean, "must be a boolean")
    case "JwtBearer":
      Check.effect("grant.assertion", grant.assertion)
      return
    case "TokenExchange":
      Check.effect("grant.subjectToken", grant.subjectToken)
      text("grant.subjectTokenType", grant.subjectTokenType)
      optional("grant.actorToken", grant.actorToken, Effect.isEffect, "must be an Effect")
      optional("grant.actorTokenType", grant.actorTokenType, Predicate.isString, "must be a string")
      return optional("grant.requestedTokenType", grant.requestedTokenType, Predicate.isString, "must be a string")
    default:
      throw invalid("grant", undefined, "must be one of OAuth2Session's grants")
  }
}

const checkPersist = ({ persist }: OAuth2Session.Options): void => {
  if (persist === undefined) return
  Check.object("persist", persist)
  optional("persist.store", persist.store, Context.isTag, "must be the tag `SessionStore.SessionStore`")
}

const checkDpop = ({ clientAuth, dpop, persist }: OAuth2Session.Options): void => {
  if (dpop === undefined) return
  if (dpop === true && persist?.store !== undefined) {
    throw invalid("dpop", true, "must be a key pair: all processes that share the tokens need the key")
  }
  if (dpop !== true) {
    try {
      Oauth.DPoP({}, dpop)
    } catch {
      throw invalid("dpop", redacted, "must be `true` or a key pair whose private key signs")
    }
  } else if (persist !== undefined && (clientAuth === undefined || clientAuth._tag === "None")) {
    const reason = "must be a key pair that outlives the process: with `persist` and a public client " +
      "the refresh token is bound to the key (RFC 9449 section 5)"
    throw invalid("dpop", true, reason)
  }
}

const authenticationOf = (auth: OAuth2Session.ClientAuth): (now: number) => Oauth.ClientAuth => {
  switch (auth._tag) {
    case "None":
      return () => Oauth.None()
    case "MutualTls":
      return () => Oauth.TlsClientAuth()
    case "SecretBasic":
      secret("clientAuth", auth.secret)
      return () => Oauth.ClientSecretBasic(Redacted.value(auth.secret))
    case "SecretPost":
      secret("clientAuth", auth.secret)
      return () => Oauth.ClientSecretPost(Redacted.value(auth.secret))
    case "PrivateKeyJwt":
      return assertion(auth)
    default:
      throw invalid("clientAuth", undefined, "must be one of OAuth2Session's client authentications")
  }
}

const assertion = ({ audience, header, key, kid }: OAuth2Session.ClientAuth.PrivateKeyJwt) => {
  const signedWith: Oauth.PrivateKey = kid === undefined ? { key } : { key, kid }
  const made = (now: number): Oauth.ClientAuth =>
    Oauth.PrivateKeyJwt(signedWith, {
      [Oauth.modifyAssertion]: (head, payload) => {
        Object.assign(head, header)
        payload["iat"] = payload["nbf"] = Math.floor(now / 1000)
        payload["exp"] = Math.floor(now / 1000) + 60
        if (audience !== undefined) payload["aud"] = audience
      }
    })
  try {
    made(0)
    if (!key.usages.includes("sign")) throw new TypeError("cannot sign")
  } catch {
    throw invalid("clientAuth", redacted, "must be a private CryptoKey that signs")
  }
  return made
}
