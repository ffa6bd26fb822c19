/**
 * The cookies of one generation: RFC 6265's domain, path, `Secure` and expiry, and the public suffix list, by
 * tough-cookie.
 *
 * The library (and its list, 150 KB) is loaded when a server first sets a cookie. In a browser that never
 * happens: there `Set-Cookie` is hidden from scripts and the browser keeps the cookies itself.
 */
import * as HttpCookies from "@effect/platform/Cookies"
import type * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type * as Tough from "tough-cookie"

export interface CookieJar {
  /** The `Cookie` header for a request to this URL, `undefined` if no cookie is for it. */
  readonly header: (url: string) => Effect.Effect<string | undefined>
  /** Keeps what a response from this URL sets, except what it may not set. */
  readonly store: (url: string, response: HttpClientResponse.HttpClientResponse) => Effect.Effect<void>
}

const latestDate = 8.64e15

export const make = (): CookieJar => {
  let jar: Tough.CookieJar | undefined
  return {
    header: (url) =>
      Effect.suspend(() => {
        if (jar === undefined || !URL.canParse(url)) return Effect.succeed(undefined)
        const { store } = jar
        const matching = jar.getCookiesSync(url, { expire: false, sort: true })
        return Effect.map(Clock.currentTimeMillis, (now) => {
          const cookies = matching.filter((cookie) => {
            if (!(cookie.expires instanceof Date) || cookie.expires.getTime() > now) return true
            void store.removeCookie(cookie.domain!, cookie.path!, cookie.key)
            return false
          })
          return cookies.length === 0 ? undefined : cookies.map((cookie) => cookie.cookieString()).join("; ")
        })
      }),
    store: (url, response) => {
      const lines = setCookieLines(response)
      if (lines.length === 0) return Effect.void
      return Effect.flatMap(Effect.promise(() => import("tough-cookie")), (tough) =>
        Effect.map(Clock.currentTimeMillis, (now) => {
          jar ??= new tough.CookieJar()
          for (const line of lines) {
            const cookie = tough.Cookie.parse(line)
            if (cookie === undefined) continue
            // RFC 6265 5.2.2 counts Max-Age from now; tough-cookie counts it from the last access, by its own clock.
            if (typeof cookie.maxAge === "number") {
              cookie.expires = new Date(cookie.maxAge <= 0 ? 0 : Math.min(latestDate, now + cookie.maxAge * 1000))
              cookie.maxAge = null
            }
            jar.setCookieSync(cookie, url, { ignoreError: true })
          }
        }))
    }
  }
}

/**
 * The response's `Set-Cookie` lines. The parsed `cookies` have one for each name, whatever its path, and `headers`
 * has them all joined by commas (which dates and values have as well), or, from fetch, only the last: the longer
 * one wins.
 */
const setCookieLines = (response: HttpClientResponse.HttpClientResponse): ReadonlyArray<string> => {
  const { cookies } = response.cookies
  const lines: Array<string> = []
  for (const part of response.headers["set-cookie"]?.split(/, (?=[^\s;,=]+=)/) ?? []) {
    const last = lines.length - 1
    if (last >= 0 && isOneLine(cookies, lines[last]!, part)) lines[last] += `, ${part}`
    else lines.push(part)
  }
  return lines.length >= Object.keys(cookies).length ? lines : HttpCookies.toSetCookieHeaders(response.cookies)
}

/** Whether a comma stands within a line: what follows is no cookie's name, or is known to belong to a value. */
const isOneLine = (cookies: HttpCookies.Cookies["cookies"], line: string, part: string): boolean => {
  const [name, value] = pairOf(line)
  const [nextName, nextValue] = pairOf(part)
  return !(nextName in cookies) || cookies[name]?.valueEncoded.startsWith(`${value}, ${nextName}=${nextValue}`) === true
}

const pairOf = (line: string): readonly [name: string, value: string] => {
  const [pair] = line.split(";", 1)
  const equals = pair!.indexOf("=")
  return [pair!.slice(0, equals), pair!.slice(equals + 1)]
}
