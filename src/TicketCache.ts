/**
 * A cache of TLS session tickets that gives each ticket out at most once.
 *
 * A client that offers a ticket resumes a session: the handshake then needs no certificate and costs less. But an
 * observer of the network sees the ticket, so offering it twice shows that two connections belong together, and some
 * clients let two connections race for the same ticket. RFC 8446, C.4: a client should not use a ticket more than once.
 * A usual cache (`get`, `set`) gives the same ticket to every caller.
 *
 * **What it guarantees.** `take` removes what it returns: no ticket is returned twice, whatever the interleaving. A
 * ticket is returned only for the same key for which it was put, and never after it has expired. The numbers of
 * servers, tickets and bytes are bounded. Tickets are secrets: this module never prints one, and tickets that are
 * dropped, evicted, or left when the scope closes are overwritten with zeros.
 *
 * **What it does not.** The cache opens no connections (`NodeTicketCache` does), and cannot know for whom a ticket was
 * issued: the key must contain everything on which the identity of client and server depends. A ticket that has been
 * taken belongs to its taker.
 *
 * @since 0.1.0
 */

import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as DefaultServices from "effect/DefaultServices"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { dual } from "effect/Function"
import type * as Inspectable from "effect/Inspectable"
import type * as Option from "effect/Option"
import { type Pipeable, pipeArguments } from "effect/Pipeable"
import * as Predicate from "effect/Predicate"
import type * as Scope from "effect/Scope"
import * as Check from "./internal/check.js"
import { registryIn } from "./internal/registry.js"
import { storeOf, TicketStore } from "./internal/tickets/store.js"
import type { InvalidOptions } from "./InvalidOptions.js"

/**
 * Marks the caches of this module.
 *
 * @since 0.1.0
 * @category symbols
 */
export const TypeId: unique symbol = Symbol.for("effect-holdfast/TicketCache")

/**
 * Marks the caches of this module.
 *
 * @since 0.1.0
 * @category symbols
 */
export type TypeId = typeof TypeId

/**
 * Tickets by server; see the module's description. Printing a cache shows only counts.
 *
 * @since 0.1.0
 * @category models
 */
export interface TicketCache extends Pipeable, Inspectable.Inspectable {
  readonly [TypeId]: TypeId
}

/**
 * A ticket resumes one session. A ticket that `take` returns is printed without its session; a ticket that you make
 * yourself is printed like any object.
 *
 * @since 0.1.0
 * @category models
 */
export interface Ticket {
  /** The TLS library's serialized session: the ticket, the secret that belongs to it, the server's certificate. */
  readonly session: Uint8Array
  /** Epoch milliseconds. From then on the server does not accept the ticket. */
  readonly expiresAt: number
  /** Epoch milliseconds. */
  readonly issuedAt: number
}

/**
 * The server that issued a ticket, and the client that may use it. Keys are compared by content. Host names are
 * compared without regard to case; a host with a slash is the path of a Unix socket, which is compared exactly.
 *
 * @since 0.1.0
 * @category models
 */
export interface ServerKey {
  readonly host: string
  readonly port: number
  /** The name that the certificate must have, if it is not the host. */
  readonly servername?: string | undefined
  /** The protocols that are offered, in their order. */
  readonly alpn?: string | ReadonlyArray<string> | undefined
  /**
   * A digest of all TLS options that decide about the identity: client certificate, CAs, how the server's name is
   * checked, and whether it is checked. On a resumed connection neither end shows a certificate; each takes the other
   * for the peer of the connection on which the ticket was issued.
   */
  readonly identity?: string | undefined
  /** Separates users or tenants whose connections must not be linked. */
  readonly partition?: string | undefined
}

/**
 * The content of a cache, and the outcomes of its tickets so far.
 *
 * @since 0.1.0
 * @category models
 */
export interface Stats {
  readonly servers: number
  readonly tickets: number
  readonly bytes: number
  /** Tickets that `take` has returned. */
  readonly offered: number
  /** Offered tickets that resumed a session, as reported to the cache. */
  readonly resumed: number
  /** Offered tickets that were refused. */
  readonly refused: number
  /** Tickets that expired before they were taken. */
  readonly expired: number
  /** Tickets that made room for others, were dropped with a refused one, were cleared, or could not be kept. */
  readonly dropped: number
}

/**
 * The bounds of a cache.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /**
   * The cache's name in metrics (label `cache`) and in an Inspector. Default: none; the metrics then count it together
   * with all other caches without a name.
   */
  readonly name?: string | undefined
  /**
   * For how many servers tickets are kept. Beyond this number, the least recently used server loses all its tickets.
   * Default: 256.
   */
  readonly servers?: number | undefined
  /**
   * How many tickets are kept for one server; beyond this number, the oldest is dropped. Keep as many as connections
   * are opened at the same time: with 8, a burst of 50 resumes 8. Default: 64.
   */
  readonly ticketsPerServer?: number | undefined
  /**
   * The longest time that a ticket is kept, whatever its server says. Default and maximum: 7 days (RFC 8446, 4.6.1).
   */
  readonly maxLifetime?: Duration.DurationInput | undefined
  /** The size of all tickets together, in bytes. Default: 32 MiB; a ticket usually has 1 to 4 KiB. */
  readonly maxBytes?: number | undefined
}

/**
 * Makes a cache. When the scope closes, the cache drops its tickets, and from then on it keeps none.
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
    Check.validated(() => {
      Check.object("options", options)
      return {
        name: options.name === undefined ? undefined : Check.name("name", options.name),
        servers: Check.count("servers", options.servers ?? 256, 1),
        ticketsPerServer: Check.count("ticketsPerServer", options.ticketsPerServer ?? 64, 1),
        maxLifetime: Check.millis("maxLifetime", options.maxLifetime ?? "7 days", {
          min: "1 millis",
          max: Duration.days(7)
        }),
        maxBytes: Check.count("maxBytes", options.maxBytes ?? 32 * 1024 * 1024, 1)
      }
    }),
    ({ name, ...limits }) =>
      Effect.acquireRelease(
        Effect.withFiberRuntime<Cache>((fiber) => Exit.succeed(new Cache(limits, name, registryIn(fiber)))),
        (cache) => Effect.sync(() => cache.close())
      )
  )

/**
 * Whether a value is a `TicketCache`.
 *
 * @since 0.1.0
 * @category guards
 */
export const isTicketCache = (u: unknown): u is TicketCache => Predicate.hasProperty(u, TypeId)

class Cache extends TicketStore implements TicketCache {
  readonly [TypeId]: TypeId = TypeId

  pipe() {
    return pipeArguments(this, arguments)
  }
}

/** Runs a step of the store with the current time. */
const now = <A>(f: (now: number) => A): Effect.Effect<A> =>
  Effect.withFiberRuntime((fiber) => {
    const clock = Context.get(fiber.getFiberRef(DefaultServices.currentServices), Clock.Clock)
    return Effect.succeed(f(clock.unsafeCurrentTimeMillis()))
  })

/**
 * Takes the newest ticket of a server. From then on it belongs to the caller, whether it is used or not. A connector
 * should take a ticket only when the server has been reached, so that an unreachable server costs no ticket, and should
 * then report the result to the cache: `resumed` or `reject`.
 *
 * @example
 * ```ts
 * import * as TicketCache from "effect-holdfast/TicketCache"
 * import * as Effect from "effect/Effect"
 * import * as Option from "effect/Option"
 *
 * declare const cache: TicketCache.TicketCache
 * // Whether the server resumed the session.
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
} = dual(2, (self: TicketCache, key: ServerKey) => now((at) => storeOf(self).take(key, at)))

/**
 * Keeps a copy of a ticket. A ticket that has expired, that has no session or no times, or whose session is longer than
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
} = dual(3, (self: TicketCache, key: ServerKey, ticket: Ticket) => now((at) => storeOf(self).put(key, ticket, at)))

/**
 * Reports that a ticket was offered and refused. The cache also drops older tickets that were made with the same key,
 * because a server that has lost or changed the key refuses them all. Newer tickets stay, and so do tickets of other
 * keys: behind a load balancer whose backends share no keys, one backend's refusal proves nothing about the others'
 * tickets. A key is recognised by the first 16 bytes of its tickets (RFC 5077, section 4); if all tickets of the server
 * begin differently, they name no key, and all older tickets are dropped.
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
} = dual(3, (self: TicketCache, key: ServerKey, ticket: Ticket) => Effect.sync(() => storeOf(self).reject(key, ticket)))

/**
 * Reports that a ticket has resumed a session. This is only counted.
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
export const resumed = (self: TicketCache): Effect.Effect<void> => Effect.sync(() => storeOf(self).count("resumed"))

/**
 * Reports that a resumed connection has ended without a new ticket. Logged once for each server, at Info: since tickets
 * are used only once, each connection without a new ticket means that a later connection cannot resume.
 *
 * @example
 * ```ts
 * import * as TicketCache from "effect-holdfast/TicketCache"
 *
 * declare const cache: TicketCache.TicketCache
 *
 * const logged = TicketCache.unreplenished(cache, { host: "api.example.com", port: 443 })
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
    storeOf(self).noteUnreplenished(key)
      ? Effect.logInfo(
        `${key.host}:${key.port} gives no new TLS ticket to a connection that was resumed: ` +
          "some later connections will not be resumed"
      )
      : Effect.void
  ))

/**
 * Drops the tickets of the servers whose keys `filter` accepts; without `filter`, all tickets.
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
  (self: TicketCache, filter: (key: ServerKey) => boolean = () => true) =>
    Effect.sync(() => storeOf(self).clear(filter))
)

/**
 * The number of tickets that can be taken now.
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
export const size = (self: TicketCache): Effect.Effect<number> => now((at) => storeOf(self).stats(at).tickets)

/**
 * The numbers of the cache's contents, and the outcomes of its former tickets.
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
export const stats = (self: TicketCache): Effect.Effect<Stats> => now((at) => storeOf(self).stats(at))
