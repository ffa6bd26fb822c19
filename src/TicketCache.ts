/**
 * TLS session tickets, each handed out at most once.
 *
 * A client that offers a ticket resumes a session: the handshake that follows carries no certificate and costs less.
 * But whoever watches the wire sees the ticket, so that one which is offered twice ties two connections together,
 * and two connections that read one ticket at once have raced on it in more than one client. RFC 8446, C.4: a client
 * should not use a ticket more than once. Caches of the usual kind (`get`, `set`) give one ticket to everybody.
 *
 * **What it guarantees.** `take` removes what it returns: no ticket is returned twice, whatever the interleaving. A
 * ticket is returned only for the very key that it was put for, and never once it has expired. The cache is bounded
 * in servers, in tickets and in bytes. Tickets are secrets: nothing here prints one, and those that are dropped,
 * evicted, or left when the scope closes are overwritten with zeros.
 *
 * **What it does not.** The cache opens no connection (`NodeTicketCache` does), and cannot know for whom a ticket was
 * issued: the key must hold whatever the identity of client and server depends on. A ticket that has been taken is the
 * taker's.
 *
 * @since 0.1.0
 */

import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as DefaultServices from "effect/DefaultServices"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import * as Inspectable from "effect/Inspectable"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import { type Pipeable, pipeArguments } from "effect/Pipeable"
import * as Predicate from "effect/Predicate"
import type * as Scope from "effect/Scope"
import * as Check from "./internal/check.js"
import { readTlsTicket } from "./internal/tlsSession.js"
import type { InvalidOptions } from "./InvalidOptions.js"

/**
 * @since 0.1.0
 * @category symbols
 */
export const TypeId: unique symbol = Symbol.for("effect-holdfast/TicketCache")

/**
 * @since 0.1.0
 * @category symbols
 */
export type TypeId = typeof TypeId

/**
 * Tickets by server; see the module's description. Printing it shows counts, and no ticket.
 *
 * @since 0.1.0
 * @category models
 */
export interface TicketCache extends Pipeable, Inspectable.Inspectable {
  readonly [TypeId]: TypeId
}

/**
 * What resumes one session. One that `take` returns prints without its session; one that you make yourself prints as
 * any object does.
 *
 * @since 0.1.0
 * @category models
 */
export interface Ticket {
  /** What the TLS library serialized: the ticket, the secret that belongs to it, the server's certificate. */
  readonly session: Uint8Array
  /** Epoch milliseconds. From then on the server will not take it. */
  readonly expiresAt: number
  /** Epoch milliseconds. */
  readonly issuedAt: number
}

/**
 * Whom a ticket is from, and who is to use it. Keys are compared by content; the names of hosts
 * without regard to case, but not a path (of a Unix socket), which has a slash.
 *
 * @since 0.1.0
 * @category models
 */
export interface ServerKey {
  readonly host: string
  readonly port: number
  /** The name that the certificate is asked for, where it is not the host. */
  readonly servername?: string | undefined
  /** The protocols that are offered, in their order. */
  readonly alpn?: string | ReadonlyArray<string> | undefined
  /**
   * A digest of every TLS option that means identity: client certificate, CAs, how the server's name is checked, and
   * whether at all. A resumed connection is not asked for a certificate, and the server takes the client for whom it
   * was before.
   */
  readonly identity?: string | undefined
  /** Keeps apart what must not be linked: users, tenants. */
  readonly partition?: string | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Stats {
  readonly servers: number
  readonly tickets: number
  readonly bytes: number
  /** Tickets that `take` has returned. */
  readonly offered: number
  /** Of these, how many resumed a session, as far as the cache was told. */
  readonly resumed: number
  /** Of these, how many were refused. */
  readonly refused: number
  /** Tickets that nobody took in time. */
  readonly expired: number
  /** Tickets that made room for others, went with a refused one, were cleared, or could not be kept. */
  readonly dropped: number
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** Servers that tickets are kept for; beyond it, those of the server go that was used longest ago. Default: 256. */
  readonly servers?: number | undefined
  /**
   * Tickets that are kept for one server; beyond it, the oldest goes. Keep as many as connections are opened at once:
   * with 8, a burst of 50 resumes 8. Default: 64.
   */
  readonly ticketsPerServer?: number | undefined
  /** The longest a ticket is kept, whatever its server says. Default, and at most: 7 days (RFC 8446, 4.6.1). */
  readonly maxLifetime?: Duration.DurationInput | undefined
  /** The size of all tickets together, in bytes. Default: 32 MiB, where 1 to 4 KiB a ticket are usual. */
  readonly maxBytes?: number | undefined
}

/** More than the longest ticket (RFC 8446: 2^16 - 1 bytes) has ever been seen to need with its certificate. */
const longestSession = 64 * 1024

interface Entry {
  readonly ticket: TicketImpl
  /** As the cache sees it, also where the ticket's clock is ahead of the cache's. */
  readonly expiresAt: number
}

interface Server {
  readonly id: string
  readonly key: ServerKey
  /** Oldest first. */
  readonly entries: Array<Entry>
}

let nextPlace = 0

class TicketImpl extends Inspectable.Class implements Ticket {
  declare readonly session: Uint8Array
  readonly expiresAt: number
  readonly issuedAt: number
  readonly #session: Uint8Array
  readonly #place = nextPlace++
  readonly #keyName: string | undefined

  /** Tells which came first of those that were issued in one second. What no cache has returned comes last. */
  static placeOf(ticket: Ticket): number {
    return #place in ticket ? ticket.#place : Infinity
  }

  /** Known before the session is overwritten with zeros, as that of a spent ticket is. */
  static keyNameOf(ticket: Ticket): string | undefined {
    return #keyName in ticket ? ticket.#keyName : keyNameOf(ticket.session)
  }

  // Not a property of its own: whoever copies or prints those of an unknown value copies or prints no secret. Still one
  // that is there for those who compare.
  static {
    Object.defineProperty(this.prototype, "session", {
      enumerable: true,
      get(this: TicketImpl) {
        return this.#session
      }
    })
  }

  constructor({ expiresAt, issuedAt, session }: Ticket) {
    super()
    this.#session = new Uint8Array(session)
    this.#keyName = keyNameOf(this.#session)
    this.expiresAt = expiresAt
    this.issuedAt = issuedAt
  }

  toJSON() {
    return {
      _id: "effect-holdfast/TicketCache/Ticket",
      session: "<redacted>",
      expiresAt: this.expiresAt,
      issuedAt: this.issuedAt
    }
  }
}

/**
 * Names the key that the server made the ticket with: the ticket's first 16 bytes, if the server follows RFC 5077
 * (section 4) as OpenSSL does. The name is no secret: every offer shows it.
 */
const keyNameOf = (session: Uint8Array): string | undefined => {
  const ticket = readTlsTicket(session) ?? session
  return ticket.length < 16 ? undefined : String.fromCharCode(...ticket.subarray(0, 16))
}

type Count = "offered" | "resumed" | "refused" | "expired" | "dropped"

const counter = (name: Count, description: string) =>
  Metric.counter(`holdfast_tickets_${name}_total`, { description, incremental: true })

const counters: { readonly [K in Count]: Metric.Metric.Counter<number> } = {
  offered: counter("offered", "TLS tickets that were taken, each for one connection"),
  resumed: counter("resumed", "TLS tickets that resumed a session"),
  refused: counter("refused", "TLS tickets that their server refused"),
  expired: counter("expired", "TLS tickets that nobody took in time"),
  dropped: counter("dropped", "TLS tickets that were dropped before anyone took them")
}

class TicketCacheImpl extends Inspectable.Class implements TicketCache {
  readonly [TypeId]: TypeId = TypeId
  private readonly limits: { readonly [K in keyof Required<Options>]: number }
  /** Used longest ago first. None is empty. */
  readonly #servers = new Map<string, Server>()
  /** The one that was used last. */
  private last: Server | undefined
  /** Servers that were said not to replenish. */
  private readonly sparing = new Set<string>()
  private readonly counts = { offered: 0, resumed: 0, refused: 0, expired: 0, dropped: 0 }
  private tickets = 0
  private bytes = 0
  private isClosed = false

  constructor(limits: { readonly [K in keyof Required<Options>]: number }) {
    super()
    this.limits = limits
  }

  // --- what is done, each in one step ---------------------------------------

  take(key: ServerKey, now: number): Option.Option<Ticket> {
    const server = this.find(key)
    if (server === undefined) return Option.none()
    this.touch(server)
    while (server.entries.length > 0) {
      const entry = server.entries[server.entries.length - 1]!
      if (now >= entry.expiresAt) {
        this.discard(server, server.entries.length - 1, "expired")
        continue
      }
      this.remove(server, server.entries.length - 1)
      this.count("offered")
      return Option.some(entry.ticket)
    }
    return Option.none()
  }

  has(key: ServerKey, now: number): boolean {
    for (let server = this.find(key); server !== undefined; server = this.find(key)) {
      const newest = server.entries.length - 1
      if (now < server.entries[newest]!.expiresAt) return true
      this.discard(server, newest, "expired")
    }
    return false
  }

  put(key: ServerKey, ticket: Ticket, now: number): void {
    const { maxBytes, maxLifetime, servers, ticketsPerServer } = this.limits
    const { expiresAt, issuedAt, session } = ticket
    const until = Math.min(expiresAt, issuedAt + maxLifetime, now + maxLifetime)
    const isUsable = session instanceof Uint8Array && session.length > 0 &&
      session.length <= Math.min(longestSession, maxBytes) &&
      // What is not a time makes `until` NaN.
      Number.isFinite(issuedAt) && now < until
    if (this.isClosed || !isUsable) return this.count("dropped")
    const server = this.find(key) ?? { id: idOf(key), key: copyOf(key), entries: [] }
    for (let i = server.entries.length; i-- > 0;) {
      if (now >= server.entries[i]!.expiresAt) this.discard(server, i, "expired")
    }
    const entry = {
      ticket: new TicketImpl({ session, issuedAt, expiresAt: Math.min(expiresAt, issuedAt + maxLifetime) }),
      expiresAt: until
    }
    let at = server.entries.length
    while (at > 0 && server.entries[at - 1]!.ticket.issuedAt > issuedAt) at--
    server.entries.splice(at, 0, entry)
    this.tickets++
    this.bytes += session.length
    this.touch(server)
    if (server.entries.length > ticketsPerServer) this.discard(server, 0, "dropped")
    while (this.#servers.size > servers) this.drop(this.longestUnused(), () => true)
    while (this.bytes > maxBytes) this.discard(this.longestUnused(), 0, "dropped")
  }

  /** A server that has forgotten a key has forgotten it for every ticket that was made with that key. */
  reject(key: ServerKey, refused: Ticket): void {
    this.count("refused")
    const server = this.find(key)
    if (server === undefined) return
    const place = TicketImpl.placeOf(refused)
    const name = TicketImpl.keyNameOf(refused)
    const names = [name, ...server.entries.map(({ ticket }) => TicketImpl.keyNameOf(ticket))]
    // Tickets that all begin differently name no key: a server may encode its tickets as it likes.
    const areNamed = name !== undefined && new Set(names).size < names.length
    this.drop(
      server,
      ({ ticket }) =>
        (ticket.issuedAt === refused.issuedAt
          ? TicketImpl.placeOf(ticket) < place
          : ticket.issuedAt < refused.issuedAt) &&
        (!areNamed || TicketImpl.keyNameOf(ticket) === name)
    )
  }

  clear(filter: (key: ServerKey) => boolean): void {
    // A filter that uses the cache moves its servers.
    for (const server of Array.from(this.#servers.values())) {
      if (filter(server.key)) this.drop(server, () => true)
    }
  }

  close(): void {
    this.isClosed = true
    this.clear(() => true)
  }

  count(name: Count): void {
    this.counts[name]++
    counters[name].unsafeUpdate(1, [])
  }

  /** Whether it is said for the first time. */
  isSparing({ host, port }: ServerKey): boolean {
    const server = `${host.toLowerCase()}:${port}`
    if (this.sparing.has(server)) return false
    this.sparing.add(server)
    const [oldest] = this.sparing
    if (this.sparing.size > this.limits.servers) this.sparing.delete(oldest!)
    return true
  }

  stats(now: number): Stats {
    for (const server of this.#servers.values()) {
      for (let i = server.entries.length; i-- > 0;) {
        if (now >= server.entries[i]!.expiresAt) this.discard(server, i, "expired")
      }
    }
    return { servers: this.#servers.size, tickets: this.tickets, bytes: this.bytes, ...this.counts }
  }

  toJSON() {
    return {
      _id: "effect-holdfast/TicketCache",
      servers: this.#servers.size,
      tickets: this.tickets,
      bytes: this.bytes,
      ...this.counts
    }
  }

  pipe() {
    return pipeArguments(this, arguments)
  }

  // --- how -------------------------------------------------------------------

  /** Mostly it is the one that was used last, which is told in less time than its id takes to make. */
  private find(key: ServerKey): Server | undefined {
    return this.last !== undefined && isSame(this.last.key, key) ? this.last : this.#servers.get(idOf(key))
  }

  /** It is the one that was used last. */
  private touch(server: Server): void {
    if (this.last === server) return
    this.last = server
    this.#servers.delete(server.id)
    this.#servers.set(server.id, server)
  }

  private longestUnused(): Server {
    return this.#servers.values().next().value!
  }

  private remove(server: Server, at: number): void {
    const [{ ticket }] = server.entries.splice(at, 1) as [Entry]
    this.tickets--
    this.bytes -= ticket.session.length
    if (server.entries.length > 0) return
    this.#servers.delete(server.id)
    if (this.last === server) this.last = undefined
  }

  private discard(server: Server, at: number, as: "expired" | "dropped"): void {
    const { session } = server.entries[at]!.ticket
    this.remove(server, at)
    session.fill(0)
    this.count(as)
  }

  private drop(server: Server, which: (entry: Entry) => boolean): void {
    for (let i = server.entries.length; i-- > 0;) {
      if (which(server.entries[i]!)) this.discard(server, i, "dropped")
    }
  }
}

const copyOf = (key: ServerKey): ServerKey => ({
  ...key,
  ...typeof key.alpn === "object" && { alpn: [...key.alpn] }
})

/** Where it says no they may still be the same: a host is written in one case or another. */
const isSame = (a: ServerKey, b: ServerKey): boolean =>
  a.host === b.host && a.port === b.port && a.servername === b.servername && a.identity === b.identity &&
  a.partition === b.partition && (a.alpn === b.alpn || areSame(a.alpn, b.alpn))

const areSame = (a: ServerKey["alpn"], b: ServerKey["alpn"]): boolean =>
  typeof a === "object" && typeof b === "object" && a.length === b.length && a.every((name, i) => name === b[i])

/** Each part with its length, so that none runs into the next. */
const idOf = ({ alpn, host, identity, partition, port, servername }: ServerKey): string =>
  // A path is no name.
  part(host.includes("/") ? host : host.toLowerCase()) + part(String(port)) + part(servername?.toLowerCase()) +
  part(identity) + part(partition) +
  (typeof alpn === "object" ? alpn.map(part).join("") : alpn === undefined ? "" : part(alpn))

const part = (text: string | undefined): string => text === undefined ? "-" : `${text.length}:${text}`

/**
 * Makes a cache, for as long as the scope is open; then it forgets its tickets, and keeps none that are put.
 *
 * @example
 * ```ts
 * import * as TicketCache from "effect-holdfast/TicketCache"
 *
 * const cache = TicketCache.make({ servers: 16, ticketsPerServer: 128 })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: Options = {}): Effect.Effect<TicketCache, InvalidOptions, Scope.Scope> =>
  Effect.flatMap(
    Check.validated(() => ({
      servers: Check.count("servers", options.servers ?? 256, 1),
      ticketsPerServer: Check.count("ticketsPerServer", options.ticketsPerServer ?? 64, 1),
      maxLifetime: Check.millis("maxLifetime", options.maxLifetime ?? "7 days", {
        min: "1 millis",
        max: Duration.days(7)
      }),
      maxBytes: Check.count("maxBytes", options.maxBytes ?? 32 * 1024 * 1024, 1)
    })),
    (limits) =>
      Effect.acquireRelease(
        Effect.sync(() => new TicketCacheImpl(limits)),
        (cache) => Effect.sync(() => cache.close())
      )
  )

/**
 * @since 0.1.0
 * @category guards
 */
export const isTicketCache = (u: unknown): u is TicketCache => Predicate.hasProperty(u, TypeId)

const implOf = (cache: TicketCache): TicketCacheImpl => cache as TicketCacheImpl

/** In one step, with the time. */
const now = <A>(f: (now: number) => A): Effect.Effect<A> =>
  Effect.withFiberRuntime((fiber) => {
    const clock = Context.get(fiber.getFiberRef(DefaultServices.currentServices), Clock.Clock)
    return Effect.succeed(f(clock.unsafeCurrentTimeMillis()))
  })

/**
 * The newest ticket of a server, which is the caller's from then on, whether it is used or not. Whoever opens
 * connections takes one only when the server has been reached, so that one that cannot be reached costs none, and
 * says what became of it: `resumed` or `reject`.
 *
 * @example
 * ```ts
 * import * as TicketCache from "effect-holdfast/TicketCache"
 * import * as Effect from "effect/Effect"
 * import * as Option from "effect/Option"
 *
 * declare const cache: TicketCache.TicketCache
 * // Whether the server took it.
 * declare const handshake: (session: Uint8Array | undefined) => Effect.Effect<boolean>
 *
 * const key = { host: "api.example.com", port: 443 }
 *
 * const opened = Effect.gen(function*() {
 *   const ticket = yield* TicketCache.take(cache, key)
 *   if (Option.isNone(ticket)) return yield* handshake(undefined)
 *   const isResumed = yield* handshake(ticket.value.session)
 *   yield* isResumed ? TicketCache.resumed(cache) : TicketCache.reject(cache, key, ticket.value)
 *   return isResumed
 * })
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const take: {
  (key: ServerKey): (self: TicketCache) => Effect.Effect<Option.Option<Ticket>>
  (self: TicketCache, key: ServerKey): Effect.Effect<Option.Option<Ticket>>
} = dual(2, (self: TicketCache, key: ServerKey) => now((at) => implOf(self).take(key, at)))

/**
 * Whether `take` would return a ticket now: for a connector that must prepare for a refusal before it can take one.
 *
 * @internal
 */
export const has = (self: TicketCache, key: ServerKey): Effect.Effect<boolean> => now((at) => implOf(self).has(key, at))

/**
 * Keeps a copy of a ticket. One that has expired, that has no session or no times, or whose session is longer than
 * 64 KiB, is dropped and counted as such.
 *
 * @example
 * ```ts
 * import * as TicketCache from "effect-holdfast/TicketCache"
 *
 * declare const cache: TicketCache.TicketCache
 * declare const session: Uint8Array
 *
 * const kept = TicketCache.put(cache, { host: "api.example.com", port: 443 }, {
 *   session,
 *   issuedAt: Date.now(),
 *   expiresAt: Date.now() + 7_200_000
 * })
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const put: {
  (key: ServerKey, ticket: Ticket): (self: TicketCache) => Effect.Effect<void>
  (self: TicketCache, key: ServerKey, ticket: Ticket): Effect.Effect<void>
} = dual(3, (self: TicketCache, key: ServerKey, ticket: Ticket) => now((at) => implOf(self).put(key, ticket, at)))

/**
 * A ticket was offered and refused. The cache drops its older siblings too, because a server refuses them all once it
 * has lost or changed the key that made them. Younger tickets stay, and so do tickets of other keys: behind a balancer
 * whose backends share no keys, one backend's refusal says nothing of the others' tickets. A key is told by the first
 * 16 bytes of its tickets (RFC 5077, section 4); if every ticket of the server begins differently, its tickets name no
 * key, and all older ones are dropped.
 *
 * @example
 * ```ts
 * import * as TicketCache from "effect-holdfast/TicketCache"
 *
 * declare const cache: TicketCache.TicketCache
 * declare const ticket: TicketCache.Ticket
 *
 * const refused = TicketCache.reject(cache, { host: "api.example.com", port: 443 }, ticket)
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const reject: {
  (key: ServerKey, ticket: Ticket): (self: TicketCache) => Effect.Effect<void>
  (self: TicketCache, key: ServerKey, ticket: Ticket): Effect.Effect<void>
} = dual(3, (self: TicketCache, key: ServerKey, ticket: Ticket) => Effect.sync(() => implOf(self).reject(key, ticket)))

/**
 * A ticket that was taken has resumed a session. Only counted.
 *
 * @example
 * ```ts
 * import * as TicketCache from "effect-holdfast/TicketCache"
 *
 * declare const cache: TicketCache.TicketCache
 *
 * const counted = TicketCache.resumed(cache)
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const resumed = (self: TicketCache): Effect.Effect<void> => Effect.sync(() => implOf(self).count("resumed"))

/**
 * A connection that was resumed has ended without a new ticket. Logged once for each server, at Info: with tickets
 * that are used once, every connection that the server replenishes nothing for costs a later one its resumption.
 *
 * @example
 * ```ts
 * import * as TicketCache from "effect-holdfast/TicketCache"
 *
 * declare const cache: TicketCache.TicketCache
 *
 * const told = TicketCache.unreplenished(cache, { host: "api.example.com", port: 443 })
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const unreplenished: {
  (key: ServerKey): (self: TicketCache) => Effect.Effect<void>
  (self: TicketCache, key: ServerKey): Effect.Effect<void>
} = dual(2, (self: TicketCache, key: ServerKey) =>
  Effect.suspend(() =>
    implOf(self).isSparing(key)
      ? Effect.logInfo(
        `${key.host}:${key.port} gives no new TLS ticket to a connection that was resumed: some of those to come will not be`
      )
      : Effect.void
  ))

/**
 * Drops the tickets of the servers that `filter` says, or of all.
 *
 * @example
 * ```ts
 * import * as TicketCache from "effect-holdfast/TicketCache"
 *
 * declare const cache: TicketCache.TicketCache
 *
 * const signedOut = TicketCache.clear(cache, ({ partition }) => partition === "user-7")
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const clear: {
  (filter?: (key: ServerKey) => boolean): (self: TicketCache) => Effect.Effect<void>
  (self: TicketCache, filter?: (key: ServerKey) => boolean): Effect.Effect<void>
} = dual(
  (args) => isTicketCache(args[0]),
  (self: TicketCache, filter: (key: ServerKey) => boolean = () => true) => Effect.sync(() => implOf(self).clear(filter))
)

/**
 * How many tickets there are that could be taken.
 *
 * @example
 * ```ts
 * import * as TicketCache from "effect-holdfast/TicketCache"
 *
 * declare const cache: TicketCache.TicketCache
 *
 * const size = TicketCache.size(cache)
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const size = (self: TicketCache): Effect.Effect<number> => now((at) => implOf(self).stats(at).tickets)

/**
 * What the cache holds, and what became of the tickets that it held.
 *
 * @example
 * ```ts
 * import * as TicketCache from "effect-holdfast/TicketCache"
 * import * as Effect from "effect/Effect"
 *
 * declare const cache: TicketCache.TicketCache
 *
 * const rate = Effect.map(TicketCache.stats(cache), ({ offered, resumed }) => resumed / offered)
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const stats = (self: TicketCache): Effect.Effect<Stats> => now((at) => implOf(self).stats(at))
