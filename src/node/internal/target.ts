/**
 * The target of one connection: the options for Node, and the tickets that the connection may take and put. The
 * socket's event listeners call the store's synchronous functions directly, without running an effect.
 */
import * as Option from "effect/Option"
import * as Net from "node:net"
import * as Tls from "node:tls"
import { storeOf } from "../../internal/tickets/store.js"
import { lifetimeOf } from "../../internal/tlsSession.js"
import type { ServerKey, Ticket, TicketCache } from "../../TicketCache.js"
import { type CheckServerIdentity, isAccepted } from "./certificates.js"
import type { Tickets } from "./handshake.js"
import { protocolsOf } from "./ticketAgent.js"
import { TlsIdentities, type TlsIdentity } from "./tlsIdentities.js"

export interface Settings {
  readonly cache: TicketCache
  readonly partition: string | undefined
  /** Milliseconds. */
  readonly connectTimeout: number
  /** Epoch milliseconds. */
  readonly now: () => number
  readonly onUnreplenished: (key: ServerKey) => void
}

export interface Target {
  readonly options: Tls.ConnectionOptions
  readonly tickets: Tickets
  /** Whether the cache has a ticket for this connection now. */
  readonly hasTicket: () => boolean
}

/** Throws Node's own errors for invalid TLS options. */
export const targetOf = (
  settings: Settings,
  given: Tls.ConnectionOptions,
  identity: TlsIdentity = identityOf(settings.cache, given)
): Target => {
  refuseEarly(given)
  const host = given.host ?? "localhost"
  const servername = given.servername ?? (Net.isIP(host) === 0 ? host : undefined)
  const checkServerIdentity = unthrowing(given.checkServerIdentity ?? Tls.checkServerIdentity)
  const options = {
    ...given,
    ...defined({ servername, lookup: unthrowingLookup(given.lookup) }),
    checkServerIdentity,
    rejectUnauthorized: identity.rejectUnauthorized,
    secureContext: identity.context()
  }
  // A session in the options is dropped: only tickets of the cache are offered.
  delete options.session
  const key: ServerKey = {
    ...addressOf(given),
    ...defined({ servername, partition: settings.partition }),
    alpn: protocolsOf(given),
    identity: identity.digest
  }
  const store = storeOf(settings.cache)
  return {
    options,
    hasTicket: () => store.has(key, settings.now()),
    tickets: ticketsOf(
      settings,
      key,
      ({ session }) => isAccepted(session, servername || host, checkServerIdentity, settings.now())
    )
  }
}

/** Options that Node uses only when TCP has connected: its errors for them would then end the process. */
const refuseEarly = ({ servername, timeout }: Tls.ConnectionOptions): void => {
  if (timeout) new Net.Socket().setTimeout(timeout).destroy()
  if (servername !== undefined && servername !== null && typeof servername !== "string") {
    throw Object.assign(new TypeError("servername must be text"), { code: "ERR_INVALID_ARG_TYPE" })
  }
}

/** The tickets of one connection, which takes at most one. */
const ticketsOf = (
  { cache, now, onUnreplenished }: Settings,
  key: ServerKey,
  mayBeOffered: (ticket: Ticket) => boolean
): Tickets => {
  const store = storeOf(cache)
  let taken: Ticket | undefined
  return {
    take: () => {
      const ticket = Option.getOrUndefined(store.take(key, now()))
      if (ticket === undefined) return undefined
      if (!mayBeOffered(ticket)) {
        ticket.session.fill(0)
        return undefined
      }
      taken = ticket
      const { buffer, byteLength, byteOffset } = ticket.session
      return Buffer.from(buffer, byteOffset, byteLength)
    },
    resumed: () => store.count("resumed"),
    refused: () => store.reject(key, taken!),
    put: (session) => {
      const times = lifetimeOf(session)
      if (times !== undefined) store.put(key, { session, ...times }, now())
    },
    unreplenished: () => onUnreplenished(key)
  }
}

/** The identities of a cache are forgotten with the cache. */
const identities = new WeakMap<TicketCache, TlsIdentities>()

export const identityOf = (cache: TicketCache, options: Tls.ConnectionOptions): TlsIdentity => {
  const known = identities.get(cache) ?? new TlsIdentities()
  identities.set(cache, known)
  return known.of(options)
}

export const addressOf = ({ host, path, port }: Tls.ConnectionOptions) => ({
  host: path ? `unix:${path}` : host ?? "localhost",
  // `node:https` accepts a port as text, too.
  port: Number(port ?? 0)
})

export type Address = ReturnType<typeof addressOf>

/** The options without those that are `undefined`: Node does not always treat them like missing options. */
export const defined = <A extends object>(options: A): { [K in keyof A]: Exclude<A[K], undefined> } =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as never

/** Catches what the check throws: Node calls the check at a place where a throw would end the process. */
const unthrowing = (check: CheckServerIdentity): CheckServerIdentity => (hostname, certificate) => {
  try {
    return check(hostname, certificate)
  } catch (thrown) {
    return errorOf(thrown)
  }
}

/**
 * Passes an error that `lookup` throws to the callback: Node would throw it out of the call that opens the connection,
 * as if an option were invalid.
 */
const unthrowingLookup = (lookup: Tls.ConnectionOptions["lookup"]): typeof lookup =>
  // If the value is not a function, Node refuses it.
  typeof lookup !== "function" ? lookup : (hostname, options, callback) => {
    try {
      lookup(hostname, options, callback)
    } catch (thrown) {
      process.nextTick(callback, errorOf(thrown), "")
    }
  }

const errorOf = (thrown: unknown): Error => thrown instanceof Error ? thrown : new Error(String(thrown))
