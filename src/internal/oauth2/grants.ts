/**
 * Requests tokens: by the grant, which signs in, and by a refresh token. Remembers which credentials were refused or
 * spent, so that none of these is presented again.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Equal from "effect/Equal"
import type * as FiberId from "effect/FiberId"
import * as Metric from "effect/Metric"
import * as MetricLabel from "effect/MetricLabel"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import type * as OAuth2Session from "../../OAuth2Session.js"
import type { Authority } from "./authority.js"
import type * as Endpoint from "./endpoint.js"
import { type DiscoveryFailed, OAuth2Error, SignInRequired } from "./errors.js"
import * as Issue from "./issue.js"
import * as Retries from "./retries.js"
import * as SignIn from "./signIn.js"

type Tokens = OAuth2Session.Tokens
type SignInError = OAuth2Session.SignInError

export interface Settings {
  /** The session's name, for spans and metrics. */
  readonly name: string
  readonly party: Endpoint.Party
  readonly authority: Authority
  readonly grant: OAuth2Session.Grant
  readonly wanted: SignIn.Wanted
  readonly rules: Issue.Rules
  /** Whether a person signs in. */
  readonly isInteractive: boolean
  readonly retry: Retries.Retry
  /** Replaces the rule that `invalid_grant` refuses a credential for good. */
  readonly fatal: OAuth2Session.Options["fatal"]
}

/** A span wraps errors in proxies, so the sets below contain the original errors. */
export class Grants {
  private readonly settings: Settings
  /** Tokens before the first answer, if the options have a refresh token. */
  private readonly configured: Tokens | undefined
  /** Refusals of a refresh token. (The refusal of a sign-in is `SignInRequired`: nothing is left to fall back on.) */
  private readonly refusals = new WeakSet<SignInError>()
  /** Failures of sign-ins that a person was asked for. */
  private readonly personal = new WeakSet<SignInError>()
  private readonly lifetimes = new WeakMap<Tokens, number>()
  /**
   * The refresh token that a renewal has brought, by the tokens that were renewed. If the rest of the answer is not
   * accepted (the times of an id_token may not fit a wrong clock), the next renewal presents this refresh token.
   */
  private readonly successors = new WeakMap<Tokens, Redacted.Redacted<string>>()
  /** Why the configured refresh token is not presented again. */
  private spent: { readonly cause: OAuth2Error | undefined } | undefined
  /**
   * The refusal of a sign-in that was made as a renewal. The same refresh then goes on with `acquire`, on the same
   * fiber, which would present the same credential again. A later refresh does present it, since the credential may
   * have changed by then.
   */
  private refusedAlready: { readonly error: SignInRequired; readonly by: FiberId.FiberId } | undefined

  constructor(settings: Settings) {
    this.settings = settings
    this.configured = configuredTokens(settings.grant, settings.wanted)
  }

  readonly acquire: Effect.Effect<Tokens, SignInError> = Effect.fiberIdWith((by) => {
    const refused = this.refusedAlready
    this.refusedAlready = undefined
    return refused !== undefined && Equal.equals(refused.by, by) ? refused.error : this.signIn
  })

  renew(current: Tokens): Effect.Effect<Tokens, SignInError> {
    return current.refreshToken !== undefined
      ? this.refresh(current)
      : Effect.tapError(this.signIn, (error) =>
        Effect.fiberIdWith((by) => {
          if (error instanceof SignInRequired) this.refusedAlready = { error: Cause.originalError(error), by }
          return Effect.void
        }))
  }

  /** Whether the presented credential was refused for good. */
  isFatal(error: SignInError): boolean {
    return error instanceof SignInRequired || this.refusals.has(error)
  }

  /** Whether a person was asked: then a retry does not ask them again. */
  isPersonal(error: SignInError): boolean {
    return this.personal.has(error)
  }

  /** The tokens' lifetime in milliseconds as the server stated it, if they come from this process. */
  lifetimeOf(tokens: Tokens): number | undefined {
    return this.lifetimes.get(tokens)
  }

  /** The tokens, with the refresh token that is not yet spent. */
  latest(tokens: Tokens): Tokens {
    const refreshToken = this.successors.get(tokens)
    return refreshToken === undefined ? tokens : { ...tokens, refreshToken }
  }

  /** Called when the session signs out of these tokens. */
  signOut(tokens: Tokens): void {
    if (this.isConfigured(tokens)) this.spent = { cause: undefined }
  }

  private readonly signIn: Effect.Effect<Tokens, SignInError> = Effect.suspend(() => {
    const { authority, grant, isInteractive, party, retry, wanted } = this.settings
    if (this.spent !== undefined) return new SignInRequired({ cause: this.spent.cause })
    // A code that was refused is not presented again, whatever the options' schedule says.
    const retryOfCode = Schedule.whileInput(retry, (error: Retries.Failure) => !this.isDead(error))
    let isPersonal = false
    const onPerson = () => {
      isPersonal = true
    }
    const obtained = grant._tag === "RefreshToken" ? this.exchange(this.configured!) : Effect.flatMap(
      authority,
      (server) =>
        Effect.flatMap(
          SignIn.signIn(party, server, wanted, grant, retryOfCode, onPerson),
          (issued) => this.issue(issued, server, undefined)
        )
    )
    return Effect.mapError(this.observed(kindOf(grant), obtained), (failure) => {
      const error = Cause.originalError(failure)
      if (isPersonal) this.personal.add(error)
      if (isInteractive || !this.isDead(error)) return error
      if (this.configured !== undefined) this.spent = { cause: error }
      return new SignInRequired({ cause: error })
    })
  })

  private refresh(current: Tokens): Effect.Effect<Tokens, SignInError> {
    return Effect.tapError(this.observed("refresh_token", this.exchange(current)), (failure) =>
      Effect.sync(() => {
        const error = Cause.originalError(failure)
        if (!this.isDead(error)) return
        this.refusals.add(error)
        if (this.isConfigured(current)) this.spent = { cause: error }
      }))
  }

  /** Presents the refresh token. */
  private exchange(current: Tokens): Effect.Effect<Tokens, OAuth2Error | DiscoveryFailed> {
    const { authority, grant, party, wanted } = this.settings
    return Effect.gen(this, function*() {
      const server = yield* authority
      const former = this.latest(current)
      const issued = yield* SignIn.refresh(party, server, SignIn.renewing(wanted, grant), former.refreshToken!)
      const { refreshToken } = issued.answer
      if (refreshToken !== undefined) this.successors.set(current, Redacted.make(refreshToken))
      return yield* this.issue(issued, server, former)
    })
  }

  private issue(issued: SignIn.Issued, server: OAuth2Session.AuthorizationServer, former: Tokens | undefined) {
    return Effect.tap(Issue.tokens(issued, server, this.settings.rules, former), (tokens) =>
      Effect.sync(() => {
        if (issued.answer.expiresIn !== undefined) this.lifetimes.set(tokens, issued.answer.expiresIn * 1000)
        const isRotated = this.configured !== undefined && tokens.refreshToken !== undefined &&
          !this.isConfigured(tokens)
        if (isRotated) this.spent ??= { cause: undefined }
      }))
  }

  private observed<E extends SignInError>(kind: string, obtained: Effect.Effect<Tokens, E>): Effect.Effect<Tokens, E> {
    const { name } = this.settings
    return obtained.pipe(
      Effect.withSpan("OAuth2Session.grant", { attributes: { session: name, grant: kind } }),
      Effect.tapBoth({
        onFailure: (error) => count(name, kind, outcomeOf(error)),
        onSuccess: () => count(name, kind, "success")
      })
    )
  }

  private isDead(error: Retries.Failure): error is OAuth2Error {
    const { fatal } = this.settings
    return error instanceof OAuth2Error && (fatal === undefined ? error.error === "invalid_grant" : fatal(error))
  }

  private isConfigured({ refreshToken }: Tokens): boolean {
    return refreshToken !== undefined && this.configured !== undefined &&
      Redacted.value(refreshToken) === Redacted.value(this.configured.refreshToken!)
  }
}

/** With a server that does not rotate refresh tokens, the configured refresh token stays valid. */
const configuredTokens = (grant: OAuth2Session.Grant, { scope }: SignIn.Wanted): Tokens | undefined =>
  grant._tag !== "RefreshToken" ? undefined : {
    accessToken: Redacted.make(""),
    tokenType: "Bearer",
    refreshToken: grant.refreshToken,
    scope: new Set(scope)
  }

const kindOf = ({ _tag }: OAuth2Session.Grant): string =>
  _tag.replace(/(?<=.)[A-Z]/g, (letter) => `_${letter}`).toLowerCase()

// -----------------------------------------------------------------------------
// counting
// -----------------------------------------------------------------------------

const requestCounter = Metric.counter("holdfast_oauth2_grants_total", {
  description: "Grants asked for, by their kind and outcome: success, refused, unreachable or failed",
  incremental: true
})

const outcomeOf = (error: SignInError): string =>
  error._tag === "SignInRequired" || (error._tag === "OAuth2Error" && error.error === "invalid_grant")
    ? "refused"
    : error._tag === "DiscoveryFailed" || Retries.mayPass(error)
    ? "unreachable"
    : "failed"

const count = (session: string, grant: string, outcome: string): Effect.Effect<void> =>
  Metric.increment(Metric.taggedWithLabels(requestCounter, [
    MetricLabel.make("session", session),
    MetricLabel.make("grant", grant),
    MetricLabel.make("outcome", outcome)
  ]))
