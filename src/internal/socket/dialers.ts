/**
 * The parts that dialers share.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Connection, DialError } from "../../WebSocketDialer.js"

/** A URL as it may be shown: without credentials and query, which often hold a token. */
export const shown = (url: string | URL): string => String(url).replace(/[?#].*$/s, "").replace(/\/\/[^/]*@/, "//")

/** A connection lasts no longer than the scope. A dial that is interrupted as it succeeds gives its connection up. */
export const terminatedWithScope = (
  dialing: Effect.Effect<Connection, DialError>
): Effect.Effect<Connection, DialError, Scope.Scope> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.tap(restore(dialing), ({ terminate }) => Effect.addFinalizer(() => terminate))
  )
