/**
 * The parts that dialers share.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Connection, DialError } from "../../WebSocketDialer.js"

/** A URL in a form that may be shown: without credentials, query and fragment, which often contain a token. */
export const shown = (url: string | URL): string => {
  const text = String(url)
  // `ws:user:password@host` has credentials, too.
  const isParsed = text.includes("@") && URL.canParse(text)
  const [visible] = (isParsed ? new URL(text).href : text).split(/[?#]/, 1)
  if (isParsed || !text.includes("@")) return visible!.replace(/\/\/[^/]*@/, "//")
  // In a URL that nobody can parse, a password with a slash, a `?` or a `#` cannot be told from a path or a query.
  const scheme = /^(?:[a-z][\w+.-]*:)?[\\/]{2,}|^[a-z][\w+.-]*:/i.exec(text)
  return scheme === null ? visible! : `${scheme[0]}…`
}

/** A platform's error about a URL may quote it. Gives its text with the URL as shown, if the URL hides anything. */
export const shownCause = (cause: unknown, url: string): unknown =>
  shown(url) === url ? cause : String(cause).replaceAll(url, shown(url))

/** Ends a connection with the scope. If a dial is interrupted while it succeeds, its connection is ended, too. */
export const terminatedWithScope = (
  dialing: Effect.Effect<Connection, DialError>
): Effect.Effect<Connection, DialError, Scope.Scope> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.tap(restore(dialing), ({ terminate }) => Effect.addFinalizer(() => terminate))
  )
