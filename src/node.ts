/**
 * The modules that need Node.
 *
 * @since 0.1.0
 */

/** @since 0.1.0 */

export * as FileSessionStore from "./node/FileSessionStore.js"
/** @since 0.1.0 */
export * as NodeHttpSession from "./node/NodeHttpSession.js"
/** @since 0.1.0 */
export * as NodeInspector from "./node/NodeInspector.js"
/** @since 0.1.0 */
export * as NodeKeyValueStore from "./node/NodeKeyValueStore.js"
/** @since 0.1.0 */
export * as NodeLoopbackRedirect from "./node/NodeLoopbackRedirect.js"
/** @since 0.1.0 */
export * as NodeTicketCache from "./node/NodeTicketCache.js"
/** @since 0.1.0 */
export * as NodeWebSocketDialer from "./node/NodeWebSocketDialer.js"
