/**
 * Reads the answers of an authorization server, from their status, headers and whole body. Pure.
 *
 * Real servers send errors with status 200, numbers as strings, lists of scopes, members that are null or empty, forms
 * instead of JSON. An answer that brings a token has usually spent the credential that was presented, so an answer is
 * rejected only if an important member is wrong.
 */
import type * as Duration from "effect/Duration"
import * as Predicate from "effect/Predicate"
import { OAuth2Error } from "./errors.js"

/** A whole answer. `secrets` are the secrets of the request: no description may repeat them. */
export interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | undefined>>
  readonly text: string
  readonly retryAfter: Duration.Duration | undefined
  readonly secrets: ReadonlyArray<string>
}

/** A token answer (RFC 6749 section 5.1). Members that are null, empty or useless are left out. */
export interface TokenAnswer {
  readonly accessToken: string
  readonly tokenType: string | undefined
  readonly expiresIn: number | undefined
  readonly refreshToken: string | undefined
  readonly scope: ReadonlyArray<string> | undefined
  readonly idToken: string | undefined
}

type Body = Readonly<Record<string, unknown>>

export const tokensFrom = (answer: Answer): TokenAnswer | OAuth2Error => {
  const body = bodyOf(answer)
  const accessToken = text(body?.["access_token"])
  if (body === undefined || accessToken === undefined || !isSuccess(answer)) return failureFrom(answer, body)
  return {
    accessToken,
    tokenType: text(body["token_type"])?.toLowerCase(),
    expiresIn: seconds(body["expires_in"]),
    refreshToken: text(body["refresh_token"]),
    scope: scopesOf(body["scope"]),
    idToken: text(body["id_token"])
  }
}

/** RFC 8628 section 3.2, and the forms that older servers send. Times are in seconds. */
export interface DeviceAnswer {
  readonly deviceCode: string
  readonly userCode: string
  readonly verificationUri: string
  readonly verificationUriComplete: string | undefined
  readonly expiresIn: number | undefined
  readonly interval: number | undefined
}

export const deviceCodeFrom = (answer: Answer): DeviceAnswer | OAuth2Error => {
  const body = bodyOf(answer)
  const deviceCode = text(body?.["device_code"])
  const userCode = text(body?.["user_code"])
  const verificationUri = text(body?.["verification_uri"]) ?? text(body?.["verification_url"])
  if (body === undefined || !isSuccess(answer) || deviceCode === undefined || userCode === undefined) {
    return failureFrom(answer, body)
  }
  if (verificationUri === undefined) return invalid(answer, "the answer has no verification_uri")
  return {
    deviceCode,
    userCode,
    verificationUri,
    verificationUriComplete: text(body["verification_uri_complete"]) ?? text(body["verification_url_complete"]),
    expiresIn: seconds(body["expires_in"]),
    interval: seconds(body["interval"])
  }
}

/** RFC 9126 section 2.2. */
export const requestUriFrom = (answer: Answer): string | OAuth2Error => {
  const body = bodyOf(answer)
  return (isSuccess(answer) ? text(body?.["request_uri"]) : undefined) ?? failureFrom(answer, body)
}

/** The failure, if the answer is one, for a request whose success has no content (RFC 7009 section 2.2). */
export const refusalFrom = (answer: Answer): OAuth2Error | undefined => {
  const body = bodyOf(answer)
  return isSuccess(answer) && text(body?.["error"]) === undefined ? undefined : failureFrom(answer, body)
}

/** The members of the metadata, or undefined if it is no JSON object. */
export const metadataFrom = (answer: Answer): Body | undefined => jsonOf(answer.text)

// -----------------------------------------------------------------------------
// failures
// -----------------------------------------------------------------------------

const failureFrom = (answer: Answer, body: Body | undefined): OAuth2Error => {
  const { retryAfter, secrets, status } = answer
  const code = text(body?.["error"]) ?? challengeOf(answer)
  if (
    code !== undefined && isCode(code) && (standardCodes.has(code) || !secrets.some((secret) => code.includes(secret)))
  ) {
    const description = text(body?.["error_description"])
    return new OAuth2Error({
      error: code,
      status,
      ...(description === undefined ? {} : { description: withoutSecrets(description, secrets) }),
      ...(retryAfter === undefined ? {} : { retryAfter })
    })
  }
  if (status === 429 || status === 503) return troubled("temporarily_unavailable", answer)
  if (status >= 500) return troubled("server_error", answer)
  if (status >= 300 && status < 400) return invalid(answer, "the answer is a redirect, which is not followed")
  if (body === undefined) return invalid(answer, "the answer is no JSON object")
  return invalid(answer, "the answer has neither what was asked for nor an error")
}

const troubled = (error: string, { retryAfter, status }: Answer): OAuth2Error =>
  new OAuth2Error({ error, status, ...(retryAfter === undefined ? {} : { retryAfter }) })

const invalid = ({ status }: Answer, description: string): OAuth2Error =>
  new OAuth2Error({ error: "invalid_response", status, description })

/**
 * The codes of RFC 6749, 6750, 7009, 8628, 8707 and 9449. They say nothing of a secret, even if one is part of them
 * (`client`, in a test).
 */
const standardCodes = new Set([
  "access_denied",
  "authorization_pending",
  "expired_token",
  "insufficient_scope",
  "invalid_client",
  "invalid_dpop_proof",
  "invalid_grant",
  "invalid_request",
  "invalid_scope",
  "invalid_target",
  "invalid_token",
  "server_error",
  "slow_down",
  "temporarily_unavailable",
  "unauthorized_client",
  "unsupported_grant_type",
  "unsupported_token_type",
  "use_dpop_nonce"
])

/** RFC 6749 section 5.2 allows these characters; no server has a longer code. */
const isCode = (text: string): boolean => /^[\x20-\x21\x23-\x5b\x5d-\x7e]{1,100}$/.test(text)

/** Removes the secrets, since a server may repeat parts of the request in a description. */
export const withoutSecrets = (description: string, secrets: ReadonlyArray<string>): string => {
  let clean = description
  for (const secret of secrets) {
    if (secret !== "") clean = clean.replaceAll(secret, "<redacted>")
  }
  // Other text that looks like a token is removed, too: a long run without a space.
  return clean.replace(/[\w+/=.~-]{60,}/g, "<redacted>").replace(/[\p{C}\p{Zl}\p{Zp}]+/gu, " ").slice(0, 500)
}

/** The `error` of a challenge in `WWW-Authenticate`, RFC 6750 section 3. */
const challengeOf = ({ headers }: Answer): string | undefined =>
  /\berror\s*=\s*(?:"([^"]*)"|([\w-]+))/i.exec(headers["www-authenticate"] ?? "")?.slice(1).find(
    Predicate.isNotUndefined
  )

/** Whether a resource server asks for another DPoP nonce, RFC 9449 section 9. */
export const asksForNonce = (headers: Readonly<Record<string, string | undefined>>): boolean =>
  /(^|[\s,])dpop\b.*\berror\s*=\s*"?use_dpop_nonce\b/i.test(headers["www-authenticate"] ?? "")

// -----------------------------------------------------------------------------
// members
// -----------------------------------------------------------------------------

const isSuccess = ({ status }: Answer): boolean => status >= 200 && status < 300

/** The content type is not asked, since servers send forms as text and JSON as HTML. */
const bodyOf = ({ text }: Answer): Body | undefined => jsonOf(text) ?? formOf(text)

const jsonOf = (text: string): Body | undefined => {
  try {
    const parsed: unknown = JSON.parse(text.replace(/^\ufeff/, ""))
    return Predicate.isRecord(parsed) ? parsed : undefined
  } catch {
    return undefined
  }
}

/** A form's text has no space, bracket or quote, so that a page with a link in it is not taken for a form. */
const formOf = (text: string): Body | undefined =>
  /^[\w.~%+-]+=[^\s<>"'{}]*$/.test(text.trim()) ? Object.fromEntries(new URLSearchParams(text.trim())) : undefined

/** No member means anything by the space around it. */
const text = (member: unknown): string | undefined =>
  typeof member === "string" && member.trim() !== "" ? member.trim() : undefined

/** A server that sends a number as large as this means "never". */
const mostSeconds = 8_640_000_000_000

const seconds = (member: unknown): number | undefined => {
  const number = typeof member === "string" && member.trim() !== "" ? Number(member) : member
  return typeof number === "number" && number >= 0 && number <= mostSeconds ? number : undefined
}

/** GitHub separates scopes by commas. */
const scopesOf = (member: unknown): ReadonlyArray<string> | undefined => {
  const list = Array.isArray(member)
    ? member.filter(Predicate.isString).flatMap((entry) => entry.split(/\s+/))
    : typeof member === "string"
    ? member.split(/\s/.test(member.trim()) ? /\s+/ : /,/)
    : []
  const scopes = list.map((scope) => scope.trim()).filter((scope) => scope !== "")
  return scopes.length === 0 ? undefined : scopes
}
