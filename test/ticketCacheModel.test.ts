import { assert, describe, it } from "@effect/vitest"
import * as TicketCache from "effect-holdfast/TicketCache"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as fc from "fast-check"
import { amount } from "./support/form.js"

type Command =
  | {
    readonly kind: "put"
    readonly host: string
    readonly size: number
    /** When the ticket was issued, and how much later it expires: `ago` may be negative, for a clock that is ahead. */
    readonly ago: number
    readonly lifetime: number
  }
  | { readonly kind: "take"; readonly host: string }
  /** A ticket that was taken: the object itself, or one like it. */
  | { readonly kind: "reject"; readonly nth: number; readonly isItself: boolean }
  | { readonly kind: "clear"; readonly hosts: ReadonlyArray<string> }
  | { readonly kind: "wait"; readonly millis: number }
  | { readonly kind: "look" }
  | { readonly kind: "close" }

interface Limits {
  readonly servers: number
  readonly ticketsPerServer: number
  readonly maxLifetime: number
  readonly maxBytes: number
}

const hosts = ["a", "b", "c", "d"]

const commandFor = (host: fc.Arbitrary<string>): fc.Arbitrary<Command> =>
  fc.oneof(
    {
      weight: 40,
      arbitrary: fc.record({
        kind: fc.constant("put" as const),
        host,
        size: fc.integer({ min: 0, max: 5 }),
        ago: fc.integer({ min: -3, max: 6 }),
        lifetime: fc.oneof(fc.integer({ min: -1, max: 12 }), fc.constantFrom(NaN, Infinity))
      })
    },
    { weight: 30, arbitrary: fc.record({ kind: fc.constant("take" as const), host }) },
    {
      weight: 10,
      arbitrary: fc.record({ kind: fc.constant("reject" as const), nth: fc.nat(20), isItself: fc.boolean() })
    },
    { weight: 4, arbitrary: fc.record({ kind: fc.constant("clear" as const), hosts: fc.subarray(hosts) }) },
    {
      weight: 20,
      arbitrary: fc.record({ kind: fc.constant("wait" as const), millis: fc.integer({ min: 1, max: 4 }) })
    },
    { weight: 10, arbitrary: fc.constant({ kind: "look" as const }) },
    { weight: 1, arbitrary: fc.constant({ kind: "close" as const }) }
  )

const limits: fc.Arbitrary<Limits> = fc.record({
  servers: fc.integer({ min: 1, max: 4 }),
  ticketsPerServer: fc.integer({ min: 1, max: 4 }),
  maxLifetime: fc.integer({ min: 1, max: 10 }),
  maxBytes: fc.integer({ min: 1, max: 15 })
})

interface Known {
  /** In the order in which they were put. */
  readonly id: number
  readonly host: string
  readonly size: number
  readonly issuedAt: number
  readonly expiresAt: number
  /** When the cache lets it go. */
  readonly until: number
}

/** The model: a list of tickets, and a list of servers in the order of their use, without regard to speed. */
class Model {
  tickets: ReadonlyArray<Known> = []
  /** Last: used last. */
  used: ReadonlyArray<string> = []
  isClosed = false
  readonly counts = { offered: 0, resumed: 0, refused: 0, expired: 0, dropped: 0 }
  readonly limits: Limits

  constructor(limits: Limits) {
    this.limits = limits
  }

  put(one: Known, now: number): void {
    const isTicket = one.size > 0 && one.size <= this.limits.maxBytes && one.until > now
    if (this.isClosed || !isTicket) return void this.counts.dropped++
    this.lose("expired", ({ host, until }) => host === one.host && until <= now)
    this.tickets = [...this.tickets, one]
    this.use(one.host)
    const siblings = this.of(one.host)
    if (siblings.length > this.limits.ticketsPerServer) this.lose("dropped", (other) => other === siblings[0])
    while (this.servers.length > this.limits.servers) this.lose("dropped", ({ host }) => host === this.servers[0])
    while (this.bytes > this.limits.maxBytes) {
      const oldest = this.of(this.servers[0]!)[0]
      this.lose("dropped", (other) => other === oldest)
    }
  }

  take(host: string, now: number): Known | undefined {
    if (this.servers.includes(host)) this.use(host)
    for (const newest of this.of(host).toReversed()) {
      if (newest.until <= now) {
        this.lose("expired", (other) => other === newest)
        continue
      }
      this.tickets = this.tickets.filter((other) => other !== newest)
      this.counts.offered++
      return newest
    }
    return undefined
  }

  reject(refused: Known, isItself: boolean): void {
    this.counts.refused++
    this.lose("dropped", ({ host, id, issuedAt }) =>
      host === refused.host &&
      (issuedAt < refused.issuedAt || (issuedAt === refused.issuedAt && (!isItself || id < refused.id))))
  }

  stats(now: number): TicketCache.Stats {
    this.lose("expired", ({ until }) => until <= now)
    return { servers: this.servers.length, tickets: this.tickets.length, bytes: this.bytes, ...this.counts }
  }

  lose(as: "expired" | "dropped", which: (one: Known) => boolean): void {
    const left = this.tickets.filter((one) => !which(one))
    this.counts[as] += this.tickets.length - left.length
    this.tickets = left
  }

  private use(host: string): void {
    this.used = [...this.used.filter((other) => other !== host), host]
  }

  /** Servers that have tickets. */
  private get servers(): ReadonlyArray<string> {
    return this.used.filter((host) => this.tickets.some((one) => one.host === host))
  }

  private get bytes(): number {
    return this.tickets.reduce((sum, { size }) => sum + size, 0)
  }

  /** Oldest first. */
  private of(host: string): ReadonlyArray<Known> {
    return this.tickets.filter((one) => one.host === host).sort((a, b) => a.issuedAt - b.issuedAt || a.id - b.id)
  }
}

const keyOf = (host: string): TicketCache.ServerKey => ({ host, port: 443 })

/** Its first bytes are its number. */
const sessionOf = ({ id, size }: Known): Uint8Array =>
  Uint8Array.from([id & 255, id >> 8, 0, 0, 0], (byte) => byte).subarray(0, size)

const run = (limits: Limits, program: ReadonlyArray<Command>): void => {
  let now = 100
  const clock: Clock.Clock = Object.assign(Clock.make(), { unsafeCurrentTimeMillis: () => now })
  const model = new Model(limits)
  const out: Array<{ readonly known: Known; readonly ticket: TicketCache.Ticket }> = []

  const step = (cache: TicketCache.TicketCache, command: Command, id: number): Effect.Effect<void> => {
    switch (command.kind) {
      case "put": {
        const { host, lifetime, size } = command
        const issuedAt = now - command.ago
        const expiresAt = issuedAt + lifetime
        const until = Math.min(expiresAt, issuedAt + limits.maxLifetime, now + limits.maxLifetime)
        const known = { id, host, size, issuedAt, expiresAt: Math.min(expiresAt, issuedAt + limits.maxLifetime), until }
        model.put(known, now)
        return TicketCache.put(cache, keyOf(host), { session: sessionOf(known), issuedAt, expiresAt })
      }
      case "take": {
        const known = model.take(command.host, now)
        return Effect.map(TicketCache.take(cache, keyOf(command.host)), (taken) => {
          const ticket = Option.getOrUndefined(taken)
          assert.deepStrictEqual(
            ticket && { session: ticket.session, issuedAt: ticket.issuedAt, expiresAt: ticket.expiresAt },
            known && { session: sessionOf(known), issuedAt: known.issuedAt, expiresAt: known.expiresAt }
          )
          if (known !== undefined && ticket !== undefined) out.push({ known, ticket })
        })
      }
      case "reject": {
        if (out.length === 0) return Effect.void
        const { known, ticket } = out[command.nth % out.length]!
        model.reject(known, command.isItself)
        const { expiresAt, issuedAt, session } = ticket
        return TicketCache.reject(
          cache,
          keyOf(known.host),
          command.isItself ? ticket : { expiresAt, issuedAt, session }
        )
      }
      case "clear":
        model.lose("dropped", ({ host }) => command.hosts.includes(host))
        return TicketCache.clear(cache, ({ host }) => command.hosts.includes(host))
      case "wait":
        now += command.millis
        return Effect.void
      case "look": {
        const expected = model.stats(now)
        return Effect.map(TicketCache.stats(cache), (stats) => assert.deepStrictEqual(stats, expected))
      }
      case "close":
        return Effect.void
    }
  }

  const until = program.findIndex(({ kind }) => kind === "close")
  const [before, after] = until === -1 ? [program, []] : [program.slice(0, until), program.slice(until)]
  const steps = (cache: TicketCache.TicketCache, commands: ReadonlyArray<Command>, from: number) =>
    Effect.forEach(commands, (command, index) => step(cache, command, from + index), { discard: true })

  Effect.runSync(Effect.withClock(
    Effect.gen(function*() {
      const cache = yield* Effect.scoped(Effect.tap(TicketCache.make(limits), (cache) => steps(cache, before, 0)))
      model.isClosed = true
      model.lose("dropped", () => true)
      yield* steps(cache, [...after, { kind: "look" }], before.length)
      for (const { known, ticket } of out) assert.deepStrictEqual(ticket.session, sessionOf(known))
    }),
    clock
  ))
}

describe("C1, C2: random programs of puts, takes, refusals, clearings and time", () => {
  it("do the same as a list of tickets", () => {
    fc.assert(
      fc.property(limits, fc.array(commandFor(fc.constantFrom(...hosts)), { maxLength: 60, size: "max" }), run),
      { numRuns: amount({ quick: 1_000, full: 16_000 }) }
    )
  })

  it("of one server are taken newest first, each once", () => {
    fc.assert(
      fc.property(limits, fc.array(commandFor(fc.constant("a")), { maxLength: 40, size: "max" }), run),
      { numRuns: amount({ quick: 500, full: 8_000 }) }
    )
  })
})
