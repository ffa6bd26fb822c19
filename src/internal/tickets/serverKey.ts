/**
 * Compares server keys by content. Hosts and names are compared without regard to case; a host with a slash is the path
 * of a Unix socket, and keeps its case.
 */
import type { ServerKey } from "../../TicketCache.js"

/** Copies a key, because it is kept after the call, and the caller may change its object later. */
export const copyOf = (key: ServerKey): ServerKey => ({
  ...key,
  ...typeof key.alpn === "object" && { alpn: [...key.alpn] }
})

/**
 * Whether the keys are written in the same way. This is faster than `idOf`. `false` proves nothing: the same host may
 * be written in upper or lower case.
 */
export const isSpelledAlike = (a: ServerKey, b: ServerKey): boolean =>
  a.host === b.host && a.port === b.port && a.servername === b.servername && a.identity === b.identity &&
  a.partition === b.partition && (a.alpn === b.alpn || areSame(a.alpn, b.alpn))

const areSame = (a: ServerKey["alpn"], b: ServerKey["alpn"]): boolean =>
  typeof a === "object" && typeof b === "object" && a.length === b.length && a.every((name, i) => name === b[i])

/**
 * Text that is equal for equal keys. Each part is preceded by its length, so that two parts cannot be taken for one.
 */
export const idOf = ({ alpn, host, identity, partition, port, servername }: ServerKey): string =>
  part(host.includes("/") ? host : host.toLowerCase()) + part(String(port)) + part(servername?.toLowerCase()) +
  part(identity) + part(partition) +
  (typeof alpn === "object" ? alpn.map(part).join("") : alpn === undefined ? "" : part(alpn))

const part = (text: string | undefined): string => text === undefined ? "-" : `${text.length}:${text}`
