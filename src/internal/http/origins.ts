/** Decides to which origins a session's value may be sent: the origins that are "home". */
import type * as HttpClientError from "@effect/platform/HttpClientError"
import * as Either from "effect/Either"
import * as Predicate from "effect/Predicate"
import { InvalidOptions } from "../../InvalidOptions.js"
import type { Options } from "../../SessionHttpClient.js"
import * as Check from "../check.js"
import { cannotEncode, noUrl } from "./errors.js"
import * as Redirect from "./redirect.js"
import { either, type Settings } from "./send.js"

/** The rules for `Sender`: which origins get the value, and which redirects are followed. */
export const places = <E1>(
  { followRedirects, origins }: Pick<Options<never>, "followRedirects" | "origins">,
  clientError: (error: HttpClientError.RequestError) => E1
): Pick<Settings<never, never, E1, never>, "isHome" | "start"> & {
  readonly isAllowed?: ((url: URL) => boolean) | undefined
} => {
  if (origins === undefined && (followRedirects === undefined || Redirect.isBrowser())) return {}
  const valid = either(() => ({
    allowed: origins === undefined || typeof origins === "function"
      ? undefined
      : new Set(listed(origins).map(originOf)),
    redirectsLeft: Redirect.isBrowser() ? 0 : Check.count("followRedirects", followRedirects ?? 0, 0)
  }))
  if (Either.isLeft(valid)) return { start: () => Either.left(valid.left) }
  const { allowed, redirectsLeft } = valid.right
  const isAllowed = typeof origins === "function"
    // A copy, which the function may change: a redirect is followed from the URL itself.
    ? (url: URL) => Check.kind("origins", origins(new URL(url)), Predicate.isBoolean, "must answer true or false")
    : allowed !== undefined
    ? (url: URL) => allowed.has(url.origin)
    : undefined
  const followed = followRedirects !== undefined
  return {
    start: (request) => {
      // Parsing a URL costs more than everything else here.
      if (!followed && allowed !== undefined && beginsWithOne(request.url, allowed)) {
        return Either.right({ request, url: undefined, isHome: true, redirectsLeft: 0 })
      }
      if (!URL.canParse(request.url)) {
        const description = "the request has no absolute URL: add the base around the session, not beneath it"
        return Either.left(clientError(noUrl(request, description)))
      }
      const read = Redirect.urlOf(request)
      if (Either.isLeft(read)) return Either.left(clientError(read.left))
      const url = read.right
      try {
        const isHome = isAllowed === undefined || isAllowed(url)
        return Either.right({ request, url: followed ? url : undefined, isHome, redirectsLeft })
      } catch (cause) {
        return Either.left(clientError(cannotEncode(request, "origins", cause)))
      }
    },
    isHome: isAllowed,
    isAllowed
  }
}

const beginsWithOne = (url: string, origins: ReadonlySet<string>): boolean => {
  for (const origin of origins) {
    if (url.startsWith(origin) && (url.length === origin.length || "/?#".includes(url[origin.length]!))) return true
  }
  return false
}

/** Without types a single origin or a `Set` is an easy mistake, which must not send the value everywhere. */
const listed = (origins: ReadonlyArray<string>): ReadonlyArray<string> =>
  Check.kind("origins", origins, Array.isArray, "must be an array or a function")

const originOf = (entry: string): string => {
  Check.kind("origins", entry, Predicate.isString, "must be http or https origins")
  const url = URL.canParse(entry) ? new URL(entry) : undefined
  if (url !== undefined && Redirect.isHttp(url)) return url.origin
  throw new InvalidOptions({
    option: "origins",
    value: Redirect.withoutSecrets(entry),
    reason: "must be http or https origins"
  })
}
