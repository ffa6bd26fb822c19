/** How each grant obtains its first tokens. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import type * as Schedule from "effect/Schedule"
import type * as Oauth from "oauth4webapi"
import type * as OAuth2Session from "../../OAuth2Session.js"
import { unhurried } from "../session/renewal.js"
import { type TokenAnswer, tokensFrom } from "./answer.js"
import * as Code from "./code.js"
import * as Device from "./device.js"
import type * as Endpoint from "./endpoint.js"
import { OAuth2Error, SignInRequired } from "./errors.js"

export interface Issued {
  readonly answer: TokenAnswer
  readonly sentAt: number
  /** The nonce that the id_token must have. */
  readonly nonce?: string | undefined
}

/** The parameters of every request that asks for a token. */
export interface Wanted {
  readonly scope: ReadonlyArray<string>
  readonly resource: ReadonlyArray<string>
  readonly audience: string | undefined
  readonly parameters: Readonly<Record<string, string>>
}

/** How long to wait for a person if the server set no time limit for the code. */
const patience = Duration.minutes(10)

/** The parameters of a first request: it asks for the scope, which renewals keep. */
const asking = ({ audience, parameters, resource, scope }: Wanted): URLSearchParams => {
  const asked = keeping({ parameters, resource })
  if (scope.length > 0) asked.set("scope", scope.join(" "))
  if (audience !== undefined) asked.set("audience", audience)
  return asked
}

/** The parameters of a request that keeps the scope of an earlier one. */
const keeping = ({ parameters, resource }: Pick<Wanted, "parameters" | "resource">): URLSearchParams => {
  const asked = new URLSearchParams(parameters)
  for (const one of resource) asked.append("resource", one)
  return asked
}

/** The parameters of a renewal. A refresh token from elsewhere may have a wider scope than the options ask for. */
export const renewing = (wanted: Wanted, { _tag }: OAuth2Session.Grant): URLSearchParams =>
  _tag === "RefreshToken" ? asking(wanted) : keeping(wanted)

export const issued = (sent: Endpoint.Sent): Effect.Effect<Issued, OAuth2Error> => {
  const answer = tokensFrom(sent.answer)
  return answer instanceof OAuth2Error ? Effect.fail(answer) : Effect.succeed({ answer, sentAt: sent.sentAt })
}

export const refresh = (
  party: Endpoint.Party,
  server: Oauth.AuthorizationServer,
  parameters: URLSearchParams,
  refreshToken: Redacted.Redacted<string>
): Effect.Effect<Issued, OAuth2Error> => {
  parameters.set("refresh_token", Redacted.value(refreshToken))
  return Effect.flatMap(party.requests.token(party, server, "refresh_token", parameters), issued)
}

/** `onPerson` is called when a person is about to be asked: from then on the sign-in is not retried automatically. */
export const signIn = (
  party: Endpoint.Party,
  server: Oauth.AuthorizationServer,
  wanted: Wanted,
  grant: Exclude<OAuth2Session.Grant, { readonly _tag: "RefreshToken" }>,
  retry: Schedule.Schedule<unknown, OAuth2Session.SignInError>,
  onPerson: () => void
): Effect.Effect<Issued, OAuth2Error | SignInRequired> => {
  const token = (grantType: string, parameters: URLSearchParams) =>
    Effect.flatMap(party.requests.token(party, server, grantType, parameters), issued)
  switch (grant._tag) {
    case "ClientCredentials":
      return token("client_credentials", asking(wanted))
    case "JwtBearer":
      return Effect.flatMap(grant.assertion, (assertion) => {
        const parameters = asking(wanted)
        parameters.set("assertion", Redacted.value(assertion))
        return token("urn:ietf:params:oauth:grant-type:jwt-bearer", parameters)
      })
    case "TokenExchange":
      return Effect.flatMap(
        exchanged(wanted, grant),
        (parameters) => token("urn:ietf:params:oauth:grant-type:token-exchange", parameters)
      )
    case "DeviceCode":
      return Effect.map(
        Device.signIn(
          party,
          server,
          asking(wanted),
          keeping(wanted),
          (prompt) =>
            Effect.suspend(() => {
              onPerson()
              return grant.onPrompt(prompt)
            })
        ),
        ({ sentAt, tokens }) => ({ answer: tokens, sentAt })
      )
    case "AuthorizationCode":
      return authorizationCode(party, server, wanted, grant, retry, onPerson)
  }
}

const authorizationCode = (
  party: Endpoint.Party,
  server: Oauth.AuthorizationServer,
  wanted: Wanted,
  grant: OAuth2Session.Grant.AuthorizationCode,
  retry: Schedule.Schedule<unknown, OAuth2Session.SignInError>,
  onPerson: () => void
): Effect.Effect<Issued, OAuth2Error | SignInRequired> =>
  Effect.scoped(Effect.gen(function*() {
    const { onAuthorize, redirectUri } = yield* grant.receiver
    const parameters = asking({ ...wanted, parameters: {} })
    for (const [name, value] of Object.entries(grant.parameters ?? {})) parameters.set(name, value)
    const begun = yield* Code.begin(party, server, { parameters, redirectUri, isPushed: grant.pushed === true })
    onPerson()
    const cameBack = yield* unhurried(onAuthorize(begun.url, begun.state)).pipe(
      Effect.timeoutOption(patience),
      Effect.flatMap(Option.match({ onNone: () => new SignInRequired({}), onSome: Effect.succeed }))
    )
    // If the network has failed, the code is presented again, and the person is not asked again.
    const exchanged = Effect.flatMap(
      Code.exchange(party, server, begun, redirectUri, cameBack, keeping(wanted)),
      issued
    )
    return { ...(yield* Effect.retry(exchanged, retry)), nonce: begun.nonce }
  }))

const exchanged = (
  wanted: Wanted,
  { actorToken, actorTokenType, requestedTokenType, subjectToken, subjectTokenType }: OAuth2Session.Grant.TokenExchange
) =>
  Effect.gen(function*() {
    const parameters = asking(wanted)
    parameters.set("subject_token", Redacted.value(yield* subjectToken))
    parameters.set("subject_token_type", subjectTokenType)
    if (actorToken !== undefined) parameters.set("actor_token", Redacted.value(yield* actorToken))
    if (actorTokenType !== undefined) parameters.set("actor_token_type", actorTokenType)
    if (requestedTokenType !== undefined) parameters.set("requested_token_type", requestedTokenType)
    return parameters
  })
