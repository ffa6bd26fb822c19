/**
 * The tickets of a cache, by server. Every method is one synchronous step, so that no two takers can get the same
 * ticket. The caller passes the current time.
 */
import * as Inspectable from "effect/Inspectable"
import * as Metric from "effect/Metric"
import * as MetricLabel from "effect/MetricLabel"
import * as Option from "effect/Option"
import type { Options, ServerKey, Stats, Ticket, TicketCache } from "../../TicketCache.js"
import type { Registered, Registry } from "../registry.js"
import { copyOf, idOf, isSpelledAlike } from "./serverKey.js"
import { StoredTicket } from "./storedTicket.js"

/** More than the longest ticket (RFC 8446: 2^16 - 1 bytes) needs with its certificate in practice. */
const longestSession = 64 * 1024

interface Entry {
  readonly ticket: StoredTicket
  /** By the cache's own clock, even if the clock of the ticket's issuer is ahead. */
  readonly expiresAt: number
}

interface Server {
  readonly id: string
  readonly key: ServerKey
  /** Oldest first. Never empty, except within a step. */
  readonly entries: Array<Entry>
}

type Limits = { readonly [K in keyof Required<Omit<Options, "name">>]: number }

type Count = "offered" | "resumed" | "refused" | "expired" | "dropped"

const counter = (name: Count, description: string) =>
  Metric.counter(`holdfast_tickets_${name}_total`, { description, incremental: true })

const noCounts: { readonly [K in Count]: number } = { offered: 0, resumed: 0, refused: 0, expired: 0, dropped: 0 }

const counters: { readonly [K in Count]: Metric.Metric.Counter<number> } = {
  offered: counter("offered", "TLS tickets that were taken, each for one connection"),
  resumed: counter("resumed", "TLS tickets that resumed a session"),
  refused: counter("refused", "TLS tickets that their server refused"),
  expired: counter("expired", "TLS tickets that were not taken in time"),
  dropped: counter("dropped", "TLS tickets that were dropped before they were taken")
}

/** `TicketCache.make` makes every cache, and each of them is a store. */
export const storeOf = (cache: TicketCache): TicketStore => cache as TicketCache & TicketStore

export class TicketStore extends Inspectable.Class {
  private readonly limits: Limits
  /** A cache without a name has no metric series of its own, since there may be any number of such caches. */
  private readonly labels: ReadonlyArray<MetricLabel.MetricLabel>
  private readonly registered: Registered | undefined
  /** The least recently used server comes first. */
  readonly #servers = new Map<string, Server>()
  /** The most recently used server. */
  #last: Server | undefined
  /** Servers that gave no new ticket to a resumed connection, which was logged. */
  private readonly unreplenished = new Set<string>()
  private readonly name: string
  private readonly counts = { ...noCounts }
  private tickets = 0
  private bytes = 0
  private isClosed = false
  /** A connection may outlive its cache's scope. What it counts then belongs to the sums over gone caches. */
  private hasLeft = false

  constructor(limits: Limits, name: string | undefined, registry: Registry | undefined) {
    super()
    this.limits = limits
    this.labels = name === undefined ? [] : [MetricLabel.make("cache", name)]
    this.name = name ?? "tickets"
    this.registered = registry?.add({
      kind: "tickets",
      name: () => this.name,
      read: (now) => this.stats(now),
      counts: () => this.counts
    })
  }

  /** Removes the newest ticket that has not expired, and returns it. */
  take(key: ServerKey, now: number): Option.Option<Ticket> {
    const server = this.find(key)
    if (server === undefined) return Option.none()
    this.touch(server)
    while (server.entries.length > 0) {
      const newest = server.entries.length - 1
      const { expiresAt, ticket } = server.entries[newest]!
      if (now >= expiresAt) {
        this.discard(server, newest, "expired")
        continue
      }
      this.remove(server, newest)
      this.count("offered")
      return Option.some(ticket)
    }
    return Option.none()
  }

  /**
   * Whether `take` would return a ticket now: for a connector that must prepare for a refusal before it takes a ticket.
   */
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
      // If a value is not a time, `until` is NaN.
      Number.isFinite(issuedAt) && now < until
    if (this.isClosed || !isUsable) return this.count("dropped")
    const server = this.find(key) ?? { id: idOf(key), key: copyOf(key), entries: [] }
    this.expire(server, now)
    const entry = {
      ticket: new StoredTicket({ session, issuedAt, expiresAt: Math.min(expiresAt, issuedAt + maxLifetime) }),
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

  /**
   * Drops the tickets that were made with the same key as the refused one: a server that no longer has the key refuses
   * them all.
   */
  reject(key: ServerKey, refused: Ticket): void {
    this.count("refused")
    const server = this.find(key)
    if (server === undefined) return
    const place = StoredTicket.placeOf(refused)
    const name = StoredTicket.keyNameOf(refused)
    const names = [name, ...server.entries.map(({ ticket }) => StoredTicket.keyNameOf(ticket))]
    // If all tickets begin differently, their beginning is not a key's name: a server may encode its tickets in any
    // way.
    const areNamed = name !== undefined && new Set(names).size < names.length
    this.drop(
      server,
      ({ ticket }) =>
        (ticket.issuedAt === refused.issuedAt
          ? StoredTicket.placeOf(ticket) < place
          : ticket.issuedAt < refused.issuedAt) &&
        (!areNamed || StoredTicket.keyNameOf(ticket) === name)
    )
  }

  clear(filter: (key: ServerKey) => boolean): void {
    // Iterates over a copy, because a filter that uses the cache changes the order of its servers.
    for (const server of Array.from(this.#servers.values())) {
      if (filter(server.key)) this.drop(server, () => true)
    }
  }

  close(): void {
    this.isClosed = true
    this.clear(() => true)
    this.registered?.leave()
    this.hasLeft = true
  }

  count(name: Count): void {
    this.counts[name]++
    counters[name].unsafeUpdate(1, this.labels)
    if (this.hasLeft) this.registered?.addToGone(this.name, { ...noCounts, [name]: 1 })
    if (name === "refused") this.registered?.note("Refused")
  }

  /** Records that the server gave no new ticket to a resumed connection. Gives `false` if that was recorded before. */
  noteUnreplenished({ host, port }: ServerKey): boolean {
    const server = `${host.toLowerCase()}:${port}`
    if (this.unreplenished.has(server)) return false
    this.unreplenished.add(server)
    const [oldest] = this.unreplenished
    if (this.unreplenished.size > this.limits.servers) this.unreplenished.delete(oldest!)
    return true
  }

  stats(now: number): Stats {
    for (const server of this.#servers.values()) this.expire(server, now)
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

  private find(key: ServerKey): Server | undefined {
    return this.#last !== undefined && isSpelledAlike(this.#last.key, key) ? this.#last : this.#servers.get(idOf(key))
  }

  private touch(server: Server): void {
    if (this.#last === server) return
    this.#last = server
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
    if (this.#last === server) this.#last = undefined
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

  private expire(server: Server, now: number): void {
    for (let i = server.entries.length; i-- > 0;) {
      if (now >= server.entries[i]!.expiresAt) this.discard(server, i, "expired")
    }
  }
}
