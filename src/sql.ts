/**
 * A `SessionStore` in a table of PostgreSQL, MySQL, MariaDB or SQLite.
 *
 * @since 0.1.0
 */

/** @since 0.1.0 */

export * as SqlSessionStore from "./sql/SqlSessionStore.js"
