/**
 * The cookies of one generation: RFC 6265's domain, path, `Secure` and expiry, and the public suffix list, by
 * tough-cookie. This file adds RFC 6265's bounds, which tough-cookie does not have.
 *
 * The library (and its list, 150 KB) is loaded when a server first sets a cookie. In a browser that never
 * happens: there `Set-Cookie` is hidden from scripts and the browser keeps the cookies itself.
 */
import * as HttpCookies from "@effect/platform/Cookies"
import type * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import type * as Tough from "tough-cookie"
import { sourceOf } from "./redirect.js"

export interface CookieJar {
  /** The `Cookie` header for a request to this URL; `undefined` if no cookie matches. */
  readonly header: (url: string) => Effect.Effect<string | undefined>
  /** Keeps the cookies that a response from this URL sets, except those that it may not set. */
  readonly store: (url: string, response: HttpClientResponse.HttpClientResponse) => Effect.Effect<void>
}

export interface Limits {
  readonly total: number
  readonly perDomain: number
  /** The longest cookie: its name, value and attributes. */
  readonly bytes: number
}

const latestDate = 8.64e15

export const make = (limits: Limits): CookieJar => {
  let library: typeof Tough | undefined
  let jar: Tough.CookieJar | undefined
  const use = new Uses()

  /**
   * tough-cookie throws for a host that is a public suffix, such as `test` in a network of containers. Such a host only
   * gets the cookies that it has set itself.
   */
  const matching = (url: string): ReadonlyArray<Tough.Cookie> => {
    try {
      return jar!.getCookiesSync(url, { expire: false, sort: true })
    } catch {
      const { cookieCompare, pathMatch } = library!
      const { hostname, pathname, protocol } = new URL(url)
      return [...use.ofDomain(hostname).values()]
        .filter(({ path, secure }) => pathMatch(pathname, path!) && (!secure || protocol === "https:"))
        .sort(cookieCompare)
    }
  }

  const remove = (cookie: Tough.Cookie): void => {
    use.delete(cookie)
    void jar!.store.removeCookie(cookie.domain!, cookie.path!, cookie.key)
  }

  /** RFC 6265 section 5.3: expired cookies are removed first, then cookies of a domain that has too many, then any. */
  const evict = (domain: string, now: number): void => {
    const isOver = () => use.ofDomain(domain).size > limits.perDomain || use.all.size > limits.total
    if (!isOver()) return
    for (const cookie of use.all.values()) {
      if (hasExpired(cookie, now)) remove(cookie)
    }
    while (use.ofDomain(domain).size > limits.perDomain) remove(first(use.ofDomain(domain)))
    while (use.all.size > limits.total) remove(first(use.all))
  }

  return {
    header: (url) =>
      Effect.suspend(() => {
        if (jar === undefined || !URL.canParse(url)) return Effect.succeed(undefined)
        const found = matching(url)
        return Effect.map(Clock.currentTimeMillis, (now) => {
          const cookies = found.filter((cookie) => {
            const isGood = !hasExpired(cookie, now)
            if (isGood) use.set(cookie)
            else remove(cookie)
            return isGood
          })
          return cookies.length === 0 ? undefined : cookies.map((cookie) => cookie.cookieString()).join("; ")
        })
      }),
    store: (url, response) => {
      const lines = setCookieLines(response)
      if (lines.length === 0) return Effect.void
      return Effect.flatMap(
        Effect.promise(() => import("tough-cookie")),
        (tough) =>
          Effect.map(Clock.currentTimeMillis, (now) => {
            library = tough
            jar ??= new tough.CookieJar()
            for (const line of lines) {
              const parsed = bytesIn(line) > limits.bytes ? undefined : tough.Cookie.parse(line)
              if (parsed === undefined) continue
              // RFC 6265 5.2.2 counts Max-Age from now; tough-cookie counts it from the last access, by its own clock.
              if (typeof parsed.maxAge === "number") {
                parsed.expires = new Date(parsed.maxAge <= 0 ? 0 : Math.min(latestDate, now + parsed.maxAge * 1000))
                parsed.maxAge = null
              }
              const cookie = jar.setCookieSync(parsed, url, { ignoreError: true })
              if (!cookie) continue
              use.set(cookie)
              if (hasExpired(cookie, now)) remove(cookie)
              else evict(cookie.domain!, now)
            }
          })
      )
    }
  }
}

/** All cookies, and the cookies of each domain, least recently used first. */
class Uses {
  readonly all = new Map<string, Tough.Cookie>()
  private readonly domains = new Map<string, Map<string, Tough.Cookie>>()

  ofDomain(domain: string): ReadonlyMap<string, Tough.Cookie> {
    return this.domains.get(domain) ?? new Map()
  }
  set(cookie: Tough.Cookie): void {
    this.delete(cookie)
    const domain = this.domains.get(cookie.domain!) ?? new Map<string, Tough.Cookie>()
    this.domains.set(cookie.domain!, domain.set(idOf(cookie), cookie))
    this.all.set(idOf(cookie), cookie)
  }
  delete(cookie: Tough.Cookie): void {
    this.all.delete(idOf(cookie))
    const domain = this.domains.get(cookie.domain!)
    domain?.delete(idOf(cookie))
    if (domain?.size === 0) this.domains.delete(cookie.domain!)
  }
}

const idOf = ({ domain, key, path }: Tough.Cookie): string => JSON.stringify([domain, path, key])

const first = (cookies: ReadonlyMap<string, Tough.Cookie>): Tough.Cookie => cookies.values().next().value!

const hasExpired = ({ expires }: Tough.Cookie, now: number): boolean =>
  expires instanceof Date && expires.getTime() <= now

/** In a header, each character is one byte. */
const bytesIn = (line: string): number => line.length

/**
 * The response's `Set-Cookie` lines: those of the client's own response, if it can be reached. The parsed `cookies`
 * contain only one cookie for each name, whatever its path. `headers` has all lines joined by commas (which also occur
 * in dates and values), or, with `fetch`, only the last line. For each name the longer line is used.
 */
const setCookieLines = (response: HttpClientResponse.HttpClientResponse): ReadonlyArray<string> => {
  const own = ownLines(response)
  if (own !== undefined) return own
  const { cookies } = response.cookies
  const lines: Array<string> = []
  for (const part of response.headers["set-cookie"]?.split(/, (?=[^\s;,=]+=)/) ?? []) {
    const last = lines.length - 1
    if (last >= 0 && isOneLine(cookies, lines[last]!, part)) lines[last] += `, ${part}`
    else lines.push(part)
  }
  return lines.length >= Object.keys(cookies).length ? lines : HttpCookies.toSetCookieHeaders(response.cookies)
}

/** The lines as `fetch` (`Headers.getSetCookie`), undici and node:http (an array) give them. */
const ownLines = (response: HttpClientResponse.HttpClientResponse): ReadonlyArray<string> | undefined => {
  const headers = sourceOf(response)?.headers
  if (typeof Headers === "function" && headers instanceof Headers) return headers.getSetCookie()
  const lines = Predicate.hasProperty(headers, "set-cookie") ? headers["set-cookie"] : undefined
  return Array.isArray(lines) ? lines : undefined
}

/** Whether a comma is inside a line: the text after it is not a cookie's name, or is known to belong to a value. */
const isOneLine = (cookies: HttpCookies.Cookies["cookies"], line: string, part: string): boolean => {
  const [name, value] = pairOf(line)
  const [nextName, nextValue] = pairOf(part)
  // A server may name a cookie like a property that every object has.
  if (!Object.hasOwn(cookies, nextName)) return true
  return Object.hasOwn(cookies, name) && cookies[name]!.valueEncoded.startsWith(`${value}, ${nextName}=${nextValue}`)
}

const pairOf = (line: string): readonly [name: string, value: string] => {
  const [pair] = line.split(";", 1)
  const equals = pair!.indexOf("=")
  return [pair!.slice(0, equals), pair!.slice(equals + 1)]
}
