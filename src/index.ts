/**
 * Sessions, sockets and shared state that hold on while everything they talk to misbehaves.
 *
 * @since 0.1.0
 */

/** @since 0.1.0 */

export * as Backoff from "./Backoff.js"
/** @since 0.1.0 */
export * as DefectBoundary from "./DefectBoundary.js"
/** @since 0.1.0 */
export * as HttpSession from "./HttpSession.js"
/** @since 0.1.0 */
export * as Inspector from "./Inspector.js"
/** @since 0.1.0 */
export { InvalidOptions } from "./InvalidOptions.js"
/** @since 0.1.0 */
export * as PersistedSession from "./PersistedSession.js"
/** @since 0.1.0 */
export * as ReconnectingSocket from "./ReconnectingSocket.js"
/** @since 0.1.0 */
export * as Session from "./Session.js"
/** @since 0.1.0 */
export * as SessionHttpClient from "./SessionHttpClient.js"
/** @since 0.1.0 */
export * as SessionMap from "./SessionMap.js"
/** @since 0.1.0 */
export * as SessionStore from "./SessionStore.js"
/** @since 0.1.0 */
export * as SharedSession from "./SharedSession.js"
/** @since 0.1.0 */
export * as TicketCache from "./TicketCache.js"
/** @since 0.1.0 */
export * as TransactionalRef from "./TransactionalRef.js"
/** @since 0.1.0 */
export * as WebSocketDialer from "./WebSocketDialer.js"
