/**
 * Sign-in by OAuth 2. This entry point needs `oauth4webapi`.
 *
 * @since 0.1.0
 */

/** @since 0.1.0 */

export * as OAuth2Session from "./OAuth2Session.js"
