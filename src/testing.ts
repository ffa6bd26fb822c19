/**
 * What proves concurrent Effect programs, ours and yours.
 *
 * @since 0.2.0
 */

/** @since 0.2.0 */
export * as Interleavings from "./testing/Interleavings.js"
