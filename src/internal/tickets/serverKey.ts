/**
 * Compares server keys by content. Hosts and names are compared without regard to case; a host with a slash is the path
 * of a Unix socket, and keeps its case.
 */
import type { ServerKey } from "../../TicketCache.js"

/** A key is kept beyond the call that gave it, and its giver may go on to change it. */
export const copyOf = (key: ServerKey): ServerKey => ({
  ...key,
  ...typeof key.alpn === "object" && { alpn: [...key.alpn] }
})

/**
 * Whether the keys are spelled alike, which is told in less time than `idOf` takes. `false` says nothing: the same host
 * may be written in upper or lower case.
 */
export const isSpelledAlike = (a: ServerKey, b: ServerKey): boolean =>
  a.host === b.host && a.port === b.port && a.servername === b.servername && a.identity === b.identity &&
  a.partition === b.partition && (a.alpn === b.alpn || areSame(a.alpn, b.alpn))

const areSame = (a: ServerKey["alpn"], b: ServerKey["alpn"]): boolean =>
  typeof a === "object" && typeof b === "object" && a.length === b.length && a.every((name, i) => name === b[i])

/** Equal for equal keys. Each part stands with its length, so that none runs into the next. */
export const idOf = ({ alpn, host, identity, partition, port, servername }: ServerKey): string =>
  part(host.includes("/") ? host : host.toLowerCase()) + part(String(port)) + part(servername?.toLowerCase()) +
  part(identity) + part(partition) +
  (typeof alpn === "object" ? alpn.map(part).join("") : alpn === undefined ? "" : part(alpn))

const part = (text: string | undefined): string => text === undefined ? "-" : `${text.length}:${text}`
