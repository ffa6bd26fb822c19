/**
 * A `SessionStore` in Redis.
 *
 * @since 0.1.0
 */

/** @since 0.1.0 */

export * as RedisSessionStore from "./redis/RedisSessionStore.js"
