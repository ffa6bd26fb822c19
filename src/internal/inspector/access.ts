/**
 * Access to an Inspector. Host and Origin are checked because every page in a browser on this machine can reach the
 * loopback: a page whose own host name resolves to 127.0.0.1 would have the Inspector's origin.
 */
import * as Redacted from "effect/Redacted"
import type { RouterOptions } from "../../Inspector.js"
import { InvalidOptions } from "../../InvalidOptions.js"
import { object } from "../check.js"

export interface Access {
  readonly hosts: ReadonlySet<string>
  readonly token: Uint8Array | undefined
}

export const loopback: ReadonlyArray<string> = ["localhost", "127.0.0.1", "[::1]"]

/** Whether a host's name, or its address (with or without the brackets of a URL), is one of the loopback. */
export const isLoopback = (host: string): boolean => /^(localhost|127(\.\d{1,3}){3}|::1|\[::1\])$/i.test(host)

/** Throws `InvalidOptions`. */
export const make = (options: RouterOptions): Access => {
  const { hosts = loopback, token } = object("options", options)
  const invalidHosts = (reason: string) => new InvalidOptions({ option: "hosts", value: hosts, reason })
  if (!Array.isArray(hosts) || hosts.length === 0) throw invalidHosts("must name at least one host")
  for (const host of hosts) {
    if (typeof host !== "string" || hostOf(`http://${host}`) !== host.toLowerCase()) {
      throw invalidHosts("must be names of hosts, without scheme, port or path")
    }
  }
  if (token === undefined && !hosts.every(isLoopback)) {
    throw invalidHosts("must be names of the loopback unless there is a token")
  }
  return {
    hosts: new Set(hosts.map((host) => host.toLowerCase())),
    token: token === undefined ? undefined : new TextEncoder().encode(checked(token))
  }
}

const checked = (token: Redacted.Redacted<string>): string => {
  const invalid = (reason: string) => new InvalidOptions({ option: "token", value: "<redacted>", reason })
  if (!Redacted.isRedacted(token)) throw invalid("must be Redacted")
  const value: unknown = Redacted.value(token)
  if (typeof value === "string" && /^[\x21-\x7e]+$/.test(value)) return value
  throw invalid("must be text of visible ASCII characters, without spaces, that is not empty")
}

interface Headers {
  readonly [name: string]: string | undefined
}

/** Whether a request names an allowed host, and does not come from a page of another host. */
export const isFromHost = ({ hosts }: Access, headers: Headers): boolean => {
  const { origin } = headers
  // HTTP/2 has `:authority` instead.
  const host = headers["host"] ?? headers[":authority"]
  return host !== undefined && hosts.has(hostOf(`http://${host}`) ?? "") &&
    (origin === undefined || hosts.has(hostOf(origin) ?? ""))
}

/** Whether a request has the token. The comparison's time depends only on the length of the true token. */
export const hasToken = ({ token }: Access, { authorization = "" }: Headers): boolean => {
  if (token === undefined) return true
  const isBearer = /^bearer /i.test(authorization)
  const given = new TextEncoder().encode(isBearer ? authorization.slice("bearer ".length) : "")
  let difference = given.length ^ token.length
  for (let i = 0; i < token.length; i++) difference |= token[i]! ^ (given[i] ?? 0)
  return difference === 0
}

/** The host of a URL that consists only of scheme, host and port, in lower case; an IPv6 address in brackets. */
const hostOf = (url: string): string | undefined => {
  const [, host] = /^https?:\/\/([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::\d{1,5})?$/i.exec(url) ?? []
  return host?.toLowerCase()
}
