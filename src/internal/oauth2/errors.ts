/** The errors of `OAuth2Session`, in a file that does not load `oauth4webapi`. */
import * as Data from "effect/Data"
import type * as Duration from "effect/Duration"

/**
 * A request to the authorization server brought no tokens. `error` is the server's own code (RFC 6749 section 5.2), or
 * `unreachable` (the network), `server_error`, `temporarily_unavailable` or `invalid_response`. A wrong secret is
 * `invalid_client`, and a person who says no is `access_denied`. The error holds no body, no request and no token.
 *
 * @since 0.1.0
 * @category errors
 */
export class OAuth2Error extends Data.TaggedError("OAuth2Error")<{
  readonly error: string
  readonly description?: string | undefined
  readonly status?: number | undefined
  /** How long the server asks clients to wait. */
  readonly retryAfter?: Duration.Duration | undefined
}> {
  override get message(): string {
    const answered = this.status === undefined ? this.error : `${this.error} (status ${this.status})`
    return this.description === undefined ? answered : `${answered}: ${this.description}`
  }
}

/**
 * The authorization server's metadata could not be obtained.
 *
 * @since 0.1.0
 * @category errors
 */
export class DiscoveryFailed extends Data.TaggedError("DiscoveryFailed")<{
  readonly issuer: string
  readonly reason: "Unreachable" | "UnexpectedStatus" | "InvalidMetadata" | "IssuerMismatch"
  readonly status?: number | undefined
  readonly retryAfter?: Duration.Duration | undefined
}> {
  override get message(): string {
    return `the metadata of ${this.issuer}: ${this.reason}${this.status === undefined ? "" : ` (${this.status})`}`
  }
}

/**
 * A person or a new credential is needed: the authorization server no longer accepts any credential of the session.
 * Trouble of a server or of the network never leads to this error.
 *
 * @since 0.1.0
 * @category errors
 */
export class SignInRequired extends Data.TaggedError("SignInRequired")<{ readonly cause?: OAuth2Error | undefined }> {
  override get message(): string {
    return this.cause === undefined ? "a sign-in is required" : `a sign-in is required: ${this.cause.message}`
  }
}
