/** The options of the `Session` that an `OAuth2Session` is: how it signs in, renews, gives up and signs out. */
import type * as HttpClient from "@effect/platform/HttpClient"
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as MetricLabel from "effect/MetricLabel"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import * as Backoff from "../../Backoff.js"
import type * as OAuth2Session from "../../OAuth2Session.js"
import type * as PersistedSession from "../../PersistedSession.js"
import type * as Session from "../../Session.js"
import * as Patience from "../persisted/patience.js"
import * as Authority from "./authority.js"
import * as Carrying from "./carrying.js"
import type { Dpop } from "./dpop.js"
import * as Endpoint from "./endpoint.js"
import { DiscoveryFailed, OAuth2Error, SignInRequired } from "./errors.js"
import * as Issue from "./issue.js"
import * as Revoking from "./revoking.js"
import type { Settings } from "./settings.js"
import * as SignIn from "./signIn.js"

type Tokens = OAuth2Session.Tokens
type SignInError = OAuth2Session.SignInError
type PersistenceError = PersistedSession.PersistenceError

/** Written so that one value fits both kinds of session. */
export interface SessionOptions extends
  Pick<
    Session.Options<Tokens, SignInError, never, SignInError>,
    "acquire" | "renew" | "fatal" | "expiresAt" | "onEnd" | "refreshAhead" | "timeout" | "lateness" | "budget" | "name"
  >
{
  readonly retry: Schedule.Schedule<unknown, SignInError | PersistenceError>
  readonly cooldown: Schedule.Schedule<
    unknown,
    Cause.Cause<SignInError | PersistenceError | Session.SessionError>
  >
}

const requestCounter = Metric.counter("holdfast_oauth2_grants_total", {
  description: "Grants asked for, by their kind and outcome: success, refused, unreachable or failed",
  incremental: true
})

export const make = (
  options: OAuth2Session.Options,
  settings: Settings,
  client: HttpClient.HttpClient,
  dpop: Dpop | undefined,
  requests: Endpoint.Requests = Endpoint
): SessionOptions => {
  const { grant, name = "session" } = options
  const { isInteractive, issuer, wanted } = settings
  const party: Endpoint.Party = {
    client,
    clientId: options.clientId,
    authentication: settings.authentication,
    usesMtlsAliases: settings.usesMtlsAliases,
    allowsInsecure: options.allowInsecureRequests === true,
    dpop,
    secrets: settings.secrets,
    requests
  }
  const authority: Authority.Authority = issuer instanceof URL ? Authority.make(party, issuer) : Effect.succeed(issuer)
  const rules: Issue.Rules = {
    clientId: options.clientId,
    clockTolerance: settings.clockTolerance,
    scope: wanted.scope,
    usesDpop: dpop !== undefined,
    isExchange: grant._tag === "TokenExchange"
  }
  const isDead = (error: SignInError): error is OAuth2Error =>
    error instanceof OAuth2Error &&
    (options.fatal === undefined ? error.error === "invalid_grant" : options.fatal(error))

  // A span wraps an error in a proxy. What is remembered of an error is remembered of the error itself.
  /** Refusals of a refresh token, to be told from the refusal of a sign-in, which has nothing left to fall back on. */
  const refusals = new WeakSet<SignInError>()
  /** Failures of sign-ins that a person has been asked for. */
  const personal = new WeakSet<SignInError>()
  const lifetimes = new WeakMap<Tokens, number>()
  const configured = grant._tag === "RefreshToken" ? Redacted.value(grant.refreshToken) : undefined
  /** Why the configured refresh token is not presented again. */
  let spent: { readonly cause: OAuth2Error | undefined } | undefined
  /** The refusal of a sign-in that stood for a renewal: `acquire` would present the same again. */
  let refusedAlready: SignInRequired | undefined

  const retry = Schedule.whileInput(
    options.retry ?? usualRetry,
    (error: SignInError | PersistenceError) => retryAfterOf(error) === undefined
  )

  const observed = <E extends SignInError>(
    kind: string,
    obtained: Effect.Effect<Tokens, E>
  ): Effect.Effect<Tokens, E> =>
    obtained.pipe(
      Effect.withSpan("OAuth2Session.grant", { attributes: { session: name, grant: kind } }),
      Effect.tapBoth({
        onFailure: (error) => count(name, kind, outcomeOf(error)),
        onSuccess: () => count(name, kind, "success")
      })
    )

  const issue = (issued: SignIn.Issued, server: OAuth2Session.AuthorizationServer, former: Tokens | undefined) =>
    Effect.tap(Issue.tokens(issued, server, rules, former), (tokens) =>
      Effect.sync(() => {
        if (issued.answer.expiresIn !== undefined) lifetimes.set(tokens, issued.answer.expiresIn * 1000)
        if (configured !== undefined && tokens.refreshToken !== undefined && !isConfigured(tokens)) {
          spent ??= { cause: undefined }
        }
      }))

  const isConfigured = ({ refreshToken }: Tokens): boolean =>
    refreshToken !== undefined && Redacted.value(refreshToken) === configured

  const signIn: Effect.Effect<Tokens, SignInError> = Effect.suspend(() => {
    if (spent !== undefined) return new SignInRequired({ cause: spent.cause })
    let isPersonal = false
    const obtained = Effect.flatMap(authority, (server) =>
      Effect.flatMap(
        SignIn.signIn(party, server, wanted, grant, retry, () => {
          isPersonal = true
        }),
        (issued) => issue(issued, server, configured === undefined ? undefined : withConfigured(grant))
      ))
    return Effect.mapError(observed(kindOf(grant), obtained), (failure) => {
      const error = Cause.originalError(failure)
      if (isPersonal) personal.add(error)
      if (isInteractive || !isDead(error)) return error
      if (configured !== undefined) spent = { cause: error }
      return new SignInRequired({ cause: error })
    })
  })

  const refresh = (current: Tokens, refreshToken: Redacted.Redacted<string>): Effect.Effect<Tokens, SignInError> =>
    observed(
      "refresh_token",
      Effect.flatMap(
        authority,
        (server) =>
          Effect.flatMap(
            SignIn.refresh(party, server, wanted, refreshToken),
            (issued) => issue(issued, server, current)
          )
      )
    ).pipe(
      Effect.tapError((failure) =>
        Effect.sync(() => {
          const error = Cause.originalError(failure)
          if (!isDead(error)) return
          refusals.add(error)
          if (isConfigured(current)) spent = { cause: error }
        })
      )
    )

  return {
    acquire: Effect.suspend(() => {
      const refused = refusedAlready
      refusedAlready = undefined
      return refused ?? signIn
    }),
    renew: (current) =>
      current.refreshToken !== undefined
        ? refresh(current, current.refreshToken)
        : Effect.tapError(signIn, (error) =>
          Effect.sync(() => {
            if (error instanceof SignInRequired) refusedAlready = Cause.originalError(error)
          })),
    fatal: (error) => error instanceof SignInRequired || refusals.has(error),
    expiresAt: (tokens) => {
      // Every value comes by here before anyone is given it, one from a store too.
      if (dpop !== undefined) Carrying.bind(tokens, dpop)
      if (tokens.expiresAt === undefined) return undefined
      return tokens.expiresAt - Math.min(settings.expiryLeeway, (lifetimes.get(tokens) ?? Infinity) / 2)
    },
    onEnd: (tokens) =>
      Effect.suspend(() => {
        if (configured !== undefined && isConfigured(tokens)) spent = { cause: undefined }
        const limit = options.persist === undefined ? signOutLimit : Duration.subtract(signOutLimit, Patience.limit)
        // `onEnd` runs uninterruptible, and a timeout would wait for what it cuts.
        const revoked = Effect.interruptible(Revoking.revoke(party, authority, tokens, name))
        return Effect.asVoid(Effect.timeoutOption(revoked, limit))
      }),
    refreshAhead: isZero(options.refreshAhead) ? undefined : options.refreshAhead ?? "1 minute",
    timeout: options.timeout,
    lateness: options.lateness,
    budget: options.budget,
    name,
    retry: Schedule.whileInput(retry, (error) => !personal.has(error as SignInError)),
    cooldown: cooldownOf(options.cooldown)
  }
}

const isZero = (duration: Duration.DurationInput | undefined): boolean =>
  Option.exists(Duration.decodeUnknown(duration), Duration.isZero)

/** Signing out does not wait for a server that is away, nor for a store. */
const signOutLimit = Duration.seconds(5)

const kindOf = ({ _tag }: OAuth2Session.Grant): string =>
  _tag.replace(/(?<=.)[A-Z]/g, (letter) => `_${letter}`).toLowerCase()

/** Tokens before the first answer: a server that does not rotate leaves the configured refresh token as it is. */
const withConfigured = (grant: OAuth2Session.Grant): Tokens | undefined =>
  grant._tag !== "RefreshToken" ? undefined : {
    accessToken: Redacted.make(""),
    tokenType: "Bearer",
    refreshToken: grant.refreshToken,
    scope: new Set()
  }

// -----------------------------------------------------------------------------
// trying again
// -----------------------------------------------------------------------------

/** Servers that forgive a refresh token that is presented twice do so for seconds. */
const usualRetry = Backoff.exponential({ initial: "100 millis", max: "1 second" }).pipe(
  Schedule.intersect(Schedule.recurs(3)),
  Schedule.whileInput((error: SignInError | PersistenceError) => mayPass(error))
)

const mayPass = (error: SignInError | PersistenceError): boolean => {
  switch (error._tag) {
    case "OAuth2Error":
      return error.error === "unreachable" || ((error.status ?? 0) >= 500 && isTrouble(error))
    case "DiscoveryFailed":
      return error.reason === "Unreachable" || (error.status ?? 0) >= 500
    case "PersistenceError":
      return error.reason === "Store"
    case "SignInRequired":
      return false
  }
}

const isTrouble = ({ error }: OAuth2Error): boolean => error === "server_error" || error === "temporarily_unavailable"

const retryAfterOf = (error: unknown): Duration.Duration | undefined =>
  error instanceof OAuth2Error || error instanceof DiscoveryFailed ? error.retryAfter : undefined

/** The session's own cooldown, or what the server asks for if that is longer. */
const cooldownOf = (own: OAuth2Session.Options["cooldown"]): SessionOptions["cooldown"] => {
  const base: SessionOptions["cooldown"] = own === undefined
    ? Backoff.exponential({ initial: "1 second", max: "30 seconds", jitter: "none" })
    : Schedule.isSchedule(own)
    ? own as SessionOptions["cooldown"]
    : Schedule.spaced(own)
  const asked = Schedule.identity<Cause.Cause<SignInError | PersistenceError | Session.SessionError>>().pipe(
    Schedule.addDelay((cause) => {
      const failure = Cause.failureOption(cause)
      return (failure._tag === "Some" ? retryAfterOf(failure.value) : undefined) ?? Duration.zero
    })
  )
  return Schedule.intersect(base, asked)
}

// -----------------------------------------------------------------------------
// counting
// -----------------------------------------------------------------------------

const outcomeOf = (error: SignInError): string =>
  error._tag === "SignInRequired" || (error._tag === "OAuth2Error" && error.error === "invalid_grant")
    ? "refused"
    : error._tag === "DiscoveryFailed" || mayPass(error)
    ? "unreachable"
    : "failed"

const count = (session: string, grant: string, outcome: string): Effect.Effect<void> =>
  Metric.increment(Metric.taggedWithLabels(requestCounter, [
    MetricLabel.make("session", session),
    MetricLabel.make("grant", grant),
    MetricLabel.make("outcome", outcome)
  ]))
