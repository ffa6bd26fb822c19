/**
 * Tools that prove concurrent Effect programs, ours and yours.
 *
 * @since 0.1.0
 */

/** @since 0.1.0 */

export * as Interleavings from "./testing/Interleavings.js"
