import { assert, describe, expectTypeOf, it, vi } from "@effect/vitest"
import { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as TicketCache from "effect-holdfast/TicketCache"
import * as Cause from "effect/Cause"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { pipe } from "effect/Function"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"
import * as Scope from "effect/Scope"
import * as TestClock from "effect/TestClock"
import { strict } from "node:assert"
import { format, inspect } from "node:util"
import { sumOf } from "./support/metrics.js"

const key: TicketCache.ServerKey = { host: "api.test", port: 443 }
const other: TicketCache.ServerKey = { host: "other.test", port: 443 }

const keyWith = (fields: Partial<TicketCache.ServerKey>): TicketCache.ServerKey => ({ ...key, ...fields })

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)

/** A ticket that is recognised by its content. */
const ticket = (
  session: string,
  { expiresAt = 3_600_000, issuedAt = 0 }: Partial<Omit<TicketCache.Ticket, "session">> = {}
): TicketCache.Ticket => ({ session: bytes(session), issuedAt, expiresAt })

const ofLength = (length: number): TicketCache.Ticket => ({ ...ticket(""), session: new Uint8Array(length).fill(1) })

const textOf = ({ session }: TicketCache.Ticket): string => new TextDecoder().decode(session)

const taken = (cache: TicketCache.TicketCache, from = key) =>
  Effect.map(TicketCache.take(cache, from), Option.getOrThrow)

/** All tickets of a server, in the order in which they are taken. */
const drained = (cache: TicketCache.TicketCache, from = key) =>
  Effect.gen(function*() {
    const names: Array<string> = []
    for (
      let next = yield* TicketCache.take(cache, from);
      Option.isSome(next);
      next = yield* TicketCache.take(cache, from)
    ) {
      assert.isBelow(names.push(textOf(next.value)), 100, "they come without end")
    }
    return names
  })

const putAll = (cache: TicketCache.TicketCache, tickets: ReadonlyArray<TicketCache.Ticket>, from = key) =>
  Effect.forEach(tickets, (one) => TicketCache.put(cache, from, one), { discard: true })

const nothing = { servers: 0, tickets: 0, bytes: 0, offered: 0, resumed: 0, refused: 0, expired: 0, dropped: 0 }

describe("C1: a ticket", () => {
  it.scoped("is taken once", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      assert.isTrue(Option.isNone(yield* TicketCache.take(cache, key)))
      yield* TicketCache.put(cache, key, ticket("a", { issuedAt: 1, expiresAt: 5_000 }))
      const { expiresAt, issuedAt, session } = yield* taken(cache)
      assert.deepStrictEqual({ expiresAt, issuedAt, session }, ticket("a", { issuedAt: 1, expiresAt: 5_000 }))
      assert.isTrue(Option.isNone(yield* TicketCache.take(cache, key)))
    }))

  it.scoped("that was issued last is taken first, whenever it was put", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      yield* putAll(cache, [3, 1, 5, 4, 2].map((issuedAt) => ticket(`${issuedAt}`, { issuedAt })))
      assert.deepStrictEqual(yield* drained(cache), ["5", "4", "3", "2", "1"])
    }))

  it.scoped("that was put last is taken first among tickets that were issued at the same time", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      yield* putAll(cache, ["a", "b", "c"].map((name) => ticket(name)))
      yield* putAll(cache, [ticket("older", { issuedAt: -1 }), ticket("younger", { issuedAt: 1 }), ticket("d")])
      assert.deepStrictEqual(yield* drained(cache), ["younger", "d", "c", "b", "a", "older"])
    }))

  it.scoped("is a copy: later changes of the given bytes do not affect it", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const memory = bytes("--secret--")
      yield* TicketCache.put(cache, key, { ...ticket(""), session: memory.subarray(2, 8) })
      memory.fill(0)
      const { session } = yield* taken(cache)
      assert.deepStrictEqual(session, bytes("secret"))
      // Its buffer contains nothing else.
      assert.strictEqual(session.buffer.byteLength, 6)
    }))

  it.scoped("that is put twice counts twice", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const one = ticket("a")
      yield* putAll(cache, [one, one])
      const [first, second] = [yield* taken(cache), yield* taken(cache)]
      first.session.fill(0)
      assert.strictEqual(textOf(second), "a")
    }))

  it.scoped("can be taken and put in pipes", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      yield* pipe(cache, TicketCache.put(key, ticket("a", { issuedAt: 1 })))
      yield* cache.pipe(TicketCache.put(key, ticket("b", { issuedAt: 2 })))
      assert.strictEqual(yield* TicketCache.size(cache), 2)
      const first = Option.getOrThrow(yield* pipe(cache, TicketCache.take(key)))
      assert.strictEqual(textOf(first), "b")
      yield* pipe(cache, TicketCache.reject(key, first))
      assert.strictEqual(yield* TicketCache.size(cache), 0)
    }))

  it.scoped("of one cache is not in another", () =>
    Effect.gen(function*() {
      const [one, another] = [yield* TicketCache.make(), yield* TicketCache.make()]
      yield* TicketCache.put(one, key, ticket("a"))
      assert.deepStrictEqual(yield* drained(another), [])
      assert.deepStrictEqual(yield* drained(one), ["a"])
    }))

  it("is taken, put and refused by operations that cannot fail", () => {
    const make = TicketCache.make()
    expectTypeOf(make).toEqualTypeOf<Effect.Effect<TicketCache.TicketCache, InvalidOptions, Scope.Scope>>()
    const take = TicketCache.take(key)
    expectTypeOf(take).returns.toEqualTypeOf<Effect.Effect<Option.Option<TicketCache.Ticket>>>()
    const put = TicketCache.put(key, ticket("a"))
    expectTypeOf(put).returns.toEqualTypeOf<Effect.Effect<void>>()
    const clear = TicketCache.clear()
    expectTypeOf(clear).returns.toEqualTypeOf<Effect.Effect<void>>()
  })

  it.scoped("is kept in a value that `isTicketCache` accepts", () =>
    Effect.gen(function*() {
      assert.isTrue(TicketCache.isTicketCache(yield* TicketCache.make()))
      for (const u of [undefined, null, {}, new Map(), "cache"]) assert.isFalse(TicketCache.isTicketCache(u))
    }))
})

describe("a server whose last ticket is taken", () => {
  it.scoped("is forgotten, and is known again with the next ticket", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      for (const name of ["a", "b"]) {
        yield* TicketCache.put(cache, key, ticket(name))
        const { servers, tickets } = yield* TicketCache.stats(cache)
        assert.deepStrictEqual([servers, tickets], [1, 1])
        assert.strictEqual(textOf(yield* taken(cache, key)), name)
        assert.strictEqual((yield* TicketCache.stats(cache)).servers, 0)
      }
      yield* TicketCache.put(cache, key, ticket("c"))
      yield* TicketCache.clear(cache)
      yield* TicketCache.put(cache, key, ticket("d"))
      yield* TicketCache.clear(cache)
      assert.isTrue(Option.isNone(yield* TicketCache.take(cache, key)))
    }))
})

describe("C4: a server's key", () => {
  const full: TicketCache.ServerKey = {
    host: "api.test",
    port: 443,
    servername: "name.test",
    alpn: ["h2", "http/1.1"],
    identity: "i",
    partition: "p"
  }

  const alike: ReadonlyArray<readonly [what: string, TicketCache.ServerKey, TicketCache.ServerKey]> = [
    ["another object", full, {
      partition: "p",
      identity: "i",
      alpn: ["h2", "http/1.1"],
      servername: "name.test",
      port: 443,
      host: "api.test"
    }],
    ["names of hosts in capitals", full, { ...full, host: "API.Test", servername: "NAME.test" }],
    ["one protocol, as text", { ...key, alpn: ["h2"] }, { ...key, alpn: "h2" }],
    ["what is undefined", key, {
      ...key,
      servername: undefined,
      alpn: undefined,
      identity: undefined,
      partition: undefined
    }]
  ]
  for (const [what, one, another] of alike) {
    it.scoped(`is compared by content: ${what}`, () =>
      Effect.gen(function*() {
        const cache = yield* TicketCache.make()
        yield* TicketCache.put(cache, one, ticket("a"))
        yield* TicketCache.put(cache, another, ticket("b"))
        assert.strictEqual((yield* TicketCache.stats(cache)).servers, 1)
        assert.strictEqual(textOf(yield* taken(cache, one)), "b")
        assert.strictEqual(textOf(yield* taken(cache, another)), "a")
      }))
  }

  it.scoped("separates tickets by each of its fields, even if fields exchange their values", () =>
    Effect.gen(function*() {
      const keys: ReadonlyArray<TicketCache.ServerKey> = [
        key,
        { ...key, host: "api.tes" },
        { ...key, host: "" },
        { ...key, port: 444 },
        { ...key, port: 44 },
        ...["x", "", "null", "undefined", "X", "api.test"].flatMap((text) => [
          keyWith({ identity: text }),
          keyWith({ partition: text })
        ]),
        ...["x", "", "null", "api.test"].map((servername) => keyWith({ servername })),
        ...["x", "", "h2", "h2,http/1.1", "[\"h2\"]"].map((alpn) => keyWith({ alpn })),
        { ...key, alpn: ["h2", "http/1.1"] },
        { ...key, alpn: ["http/1.1", "h2"] },
        { ...key, alpn: ["h2", "h2"] },
        { ...key, alpn: ["H2"] },
        { ...key, alpn: ["h3"] },
        { ...key, alpn: ["h3", "h2"] },
        { ...key, servername: "x", identity: "x" },
        { ...key, servername: "x", partition: "x" },
        { ...key, identity: "x", partition: "x" },
        { ...key, identity: "x\",\"y" },
        { ...key, identity: "x", partition: "y" },
        full,
        { ...full, host: "other.test" },
        { ...full, port: 1 },
        { ...full, servername: "other.test" },
        { ...full, servername: undefined },
        { ...full, alpn: "h2" },
        { ...full, alpn: undefined },
        { ...full, identity: "j" },
        { ...full, identity: undefined },
        { ...full, partition: "q" },
        { ...full, partition: undefined },
        // Written one after the other, their parts are the same text, except for the end of the port.
        { ...key, port: 443, servername: "localhost", identity: `${"a".repeat(27)}-` },
        { ...key, port: 44, servername: `localhost28:${"a".repeat(27)}` }
      ]
      const cache = yield* TicketCache.make()
      for (const [index, one] of keys.entries()) yield* TicketCache.put(cache, one, ticket(`${index}`))
      assert.strictEqual((yield* TicketCache.stats(cache)).servers, keys.length)
      for (const [index, one] of keys.entries()) assert.deepStrictEqual(yield* drained(cache, one), [`${index}`])
      // Also compared with the key that was used last.
      for (const one of keys) {
        yield* TicketCache.put(cache, one, ticket("a"))
        yield* TicketCache.put(cache, one, ticket("b"))
        for (const another of keys) {
          if (another === one) continue
          assert.isTrue(Option.isNone(yield* TicketCache.take(cache, another)), JSON.stringify([one, another]))
          yield* TicketCache.take(cache, one)
          yield* TicketCache.put(cache, one, ticket("c"))
        }
        yield* drained(cache, one)
      }
    }))

  it.scoped("is used as it was when the ticket was put, even if the object was changed later", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const alpn = ["h2"]
      const changing = { host: "api.test", port: 443, partition: "p", alpn }
      const before = { ...changing, alpn: ["h2"] }
      yield* TicketCache.put(cache, changing, ticket("a"))
      changing.partition = "q"
      alpn[0] = "http/1.1"
      const seen: Array<TicketCache.ServerKey> = []
      yield* TicketCache.clear(cache, (one) => seen.push(one) === 0)
      assert.deepStrictEqual(seen, [before])
      assert.deepStrictEqual(yield* drained(cache, changing), [])
      assert.deepStrictEqual(yield* drained(cache, before), ["a"])
    }))
})

describe("C2: a ticket that expires", () => {
  it.scoped("can be taken until the last millisecond before, and not from then on", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      yield* putAll(cache, [ticket("a", { expiresAt: 1_000 }), ticket("b", { expiresAt: 1_000 })])
      yield* TestClock.setTime(999)
      assert.strictEqual(textOf(yield* taken(cache)), "b")
      yield* TestClock.setTime(1_000)
      assert.isTrue(Option.isNone(yield* TicketCache.take(cache, key)))
      assert.deepStrictEqual(yield* TicketCache.stats(cache), { ...nothing, offered: 1, expired: 1 })
    }))

  it.scoped("does not count in the size", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      yield* putAll(cache, [ticket("aaa", { expiresAt: 1_000 }), ticket("bb")])
      yield* putAll(cache, [ticket("c", { expiresAt: 1_000 })], other)
      yield* TestClock.setTime(999)
      assert.strictEqual(yield* TicketCache.size(cache), 3)
      assert.deepStrictEqual(yield* TicketCache.stats(cache), { ...nothing, servers: 2, tickets: 3, bytes: 6 })
      yield* TestClock.setTime(1_000)
      assert.strictEqual(yield* TicketCache.size(cache), 1)
      assert.deepStrictEqual(yield* TicketCache.stats(cache), {
        ...nothing,
        servers: 1,
        tickets: 1,
        bytes: 2,
        expired: 2
      })
    }))

  it.scoped("does not hide an older one that is still valid", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      yield* putAll(cache, [
        ticket("lives", { issuedAt: 1 }),
        ticket("expires", { issuedAt: 2, expiresAt: 10 }),
        ticket("expires too", { issuedAt: 3, expiresAt: 10 })
      ])
      yield* TestClock.setTime(10)
      assert.strictEqual(textOf(yield* taken(cache)), "lives")
      assert.deepStrictEqual(yield* TicketCache.stats(cache), { ...nothing, offered: 1, expired: 2 })
    }))

  it.scoped("takes no room from later tickets", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make({ ticketsPerServer: 2, maxBytes: 2 })
      yield* putAll(cache, [ticket("a", { issuedAt: 1 }), ticket("b", { issuedAt: 2, expiresAt: 10 })])
      yield* TestClock.setTime(10)
      yield* TicketCache.put(cache, key, ticket("c", { issuedAt: 3 }))
      assert.deepStrictEqual(yield* drained(cache), ["c", "a"])
      assert.deepStrictEqual(yield* TicketCache.stats(cache), { ...nothing, offered: 2, expired: 1 })
    }))

  it.scoped("that has already expired when it is put is dropped", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      yield* TestClock.setTime(1_000)
      yield* putAll(cache, [
        ticket("a", { expiresAt: 999 }),
        ticket("b", { expiresAt: 1_000 }),
        ticket("c", { expiresAt: 1_001 })
      ])
      assert.deepStrictEqual(yield* TicketCache.stats(cache), {
        ...nothing,
        servers: 1,
        tickets: 1,
        bytes: 1,
        dropped: 2
      })
      assert.deepStrictEqual(yield* drained(cache), ["c"])
    }))

  const lifetimes: ReadonlyArray<readonly [maxLifetime: Duration.DurationInput | undefined, millis: number]> = [
    [undefined, 604_800_000],
    ["7 days", 604_800_000],
    ["10 seconds", 10_000],
    ["1 millis", 1]
  ]
  for (const [maxLifetime, millis] of lifetimes) {
    describe(`with a maxLifetime of ${String(maxLifetime ?? "seven days, as by default")}`, () => {
      const make = TicketCache.make({ maxLifetime })

      it.scoped("expires by then, whatever its server says, and has that expiry", () =>
        Effect.gen(function*() {
          const cache = yield* make
          yield* putAll(cache, [Infinity, millis * 2, millis].map((expiresAt) => ticket("a", { expiresAt })))
          yield* TestClock.setTime(millis - 1)
          assert.strictEqual((yield* taken(cache)).expiresAt, millis)
          assert.strictEqual((yield* taken(cache)).expiresAt, millis)
          yield* TestClock.setTime(millis)
          assert.isTrue(Option.isNone(yield* TicketCache.take(cache, key)))
        }))

      it.scoped("is counted from when it was issued, not from when it was put", () =>
        Effect.gen(function*() {
          const cache = yield* make
          yield* TestClock.setTime(millis - 1)
          yield* TicketCache.put(cache, key, ticket("a", { expiresAt: millis * 10 }))
          assert.strictEqual(yield* TicketCache.size(cache), 1)
          yield* TestClock.setTime(millis)
          assert.strictEqual(yield* TicketCache.size(cache), 0)
          yield* TicketCache.put(cache, key, ticket("b", { expiresAt: millis * 10 }))
          assert.deepStrictEqual(yield* TicketCache.stats(cache), { ...nothing, expired: 1, dropped: 1 })
        }))

      it.scoped("is counted from when it was put, if its issuer's clock is ahead", () =>
        Effect.gen(function*() {
          const cache = yield* make
          yield* TestClock.setTime(5_000)
          const ahead = 5_000 + 10 * millis
          const one = ticket("a", { issuedAt: ahead, expiresAt: ahead + millis })
          yield* putAll(cache, [one, one])
          yield* TestClock.setTime(5_000 + millis - 1)
          const { expiresAt, issuedAt } = yield* taken(cache)
          assert.deepStrictEqual({ expiresAt, issuedAt }, { expiresAt: ahead + millis, issuedAt: ahead })
          yield* TestClock.setTime(5_000 + millis)
          assert.isTrue(Option.isNone(yield* TicketCache.take(cache, key)))
        }))
    })
  }
})

describe("C2: a value that cannot be a ticket", () => {
  const garbage: ReadonlyArray<readonly [what: string, TicketCache.Ticket]> = [
    ["no session", ticket("")],
    ["more than 64 KiB", ofLength(65_537)],
    ["no time of expiry", ticket("a", { expiresAt: NaN })],
    ["no time of issue", ticket("a", { issuedAt: NaN })],
    ["an expiry long ago", ticket("a", { expiresAt: -Infinity })],
    ["an issue long ago", ticket("a", { issuedAt: -Infinity, expiresAt: Infinity })],
    ["an issue that never comes", ticket("a", { issuedAt: Infinity, expiresAt: Infinity })]
  ]
  for (const [what, one] of garbage) {
    it.scoped(`is dropped and counted, without further effect: ${what}`, () =>
      Effect.gen(function*() {
        const cache = yield* TicketCache.make({ servers: 1, ticketsPerServer: 1 })
        yield* TicketCache.put(cache, key, ticket("good"))
        yield* TicketCache.put(cache, key, one)
        yield* TicketCache.put(cache, other, one)
        assert.deepStrictEqual(yield* TicketCache.stats(cache), {
          ...nothing,
          servers: 1,
          tickets: 1,
          bytes: 4,
          dropped: 2
        })
        assert.deepStrictEqual(yield* drained(cache), ["good"])
        assert.deepStrictEqual(yield* drained(cache, other), [])
      }))
  }
})

describe("C2: a full cache", () => {
  const a = { host: "a", port: 1 }
  const b = { host: "b", port: 1 }
  const c = { host: "c", port: 1 }

  it.scoped("drops the least recently used server, with all its tickets", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make({ servers: 2 })
      yield* putAll(cache, [ticket("1"), ticket("2")], a)
      yield* putAll(cache, [ticket("3")], b)
      yield* putAll(cache, [ticket("4")], c)
      assert.deepStrictEqual(yield* TicketCache.stats(cache), {
        ...nothing,
        servers: 2,
        tickets: 2,
        bytes: 2,
        dropped: 2
      })
      assert.deepStrictEqual(yield* Effect.forEach([a, b, c], (from) => drained(cache, from)), [[], ["3"], ["4"]])
    }))

  const uses: ReadonlyArray<readonly [how: string, (cache: TicketCache.TicketCache) => Effect.Effect<unknown>]> = [
    ["put for", (cache) => TicketCache.put(cache, a, ticket("5"))],
    ["taken from", (cache) => TicketCache.take(cache, a)]
  ]
  for (const [how, use] of uses) {
    it.scoped(`keeps the server that was ${how} since`, () =>
      Effect.gen(function*() {
        const cache = yield* TicketCache.make({ servers: 2 })
        yield* putAll(cache, [ticket("1"), ticket("2")], a)
        yield* putAll(cache, [ticket("3")], b)
        yield* use(cache)
        yield* putAll(cache, [ticket("4")], c)
        assert.deepStrictEqual(yield* drained(cache, b), [])
        assert.include(yield* drained(cache, a), "1")
      }))
  }

  it.scoped("does not count reading as use", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make({ servers: 2 })
      yield* putAll(cache, [ticket("1")], a)
      yield* putAll(cache, [ticket("2")], b)
      yield* TicketCache.stats(cache)
      yield* TicketCache.size(cache)
      yield* TicketCache.clear(cache, () => false)
      yield* TicketCache.take(cache, c)
      yield* TicketCache.put(cache, a, ticket(""))
      yield* putAll(cache, [ticket("3")], c)
      assert.deepStrictEqual(yield* Effect.forEach([a, b, c], (from) => drained(cache, from)), [[], ["2"], ["3"]])
    }))

  it.scoped("has room again when a server's last ticket was taken", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make({ servers: 2 })
      yield* putAll(cache, [ticket("1")], a)
      yield* putAll(cache, [ticket("2")], b)
      yield* taken(cache, b)
      yield* putAll(cache, [ticket("3")], c)
      assert.deepStrictEqual(yield* Effect.forEach([a, b, c], (from) => drained(cache, from)), [["1"], [], ["3"]])
    }))

  it.scoped("drops a server's oldest ticket for a newer one", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make({ ticketsPerServer: 2 })
      yield* putAll(cache, [2, 1, 3].map((issuedAt) => ticket(`${issuedAt}`, { issuedAt })))
      yield* putAll(cache, [ticket("other's")], other)
      assert.deepStrictEqual(yield* TicketCache.stats(cache), {
        ...nothing,
        servers: 2,
        tickets: 3,
        bytes: 9,
        dropped: 1
      })
      assert.deepStrictEqual(yield* drained(cache), ["3", "2"])
    }))

  it.scoped("drops the new ticket itself, if it is the oldest", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make({ ticketsPerServer: 2 })
      yield* putAll(cache, [2, 3, 1].map((issuedAt) => ticket(`${issuedAt}`, { issuedAt })))
      assert.deepStrictEqual(yield* drained(cache), ["3", "2"])
    }))

  it.scoped("drops the oldest tickets of the least recently used server until the rest is small enough", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make({ maxBytes: 10 })
      yield* putAll(cache, [
        ticket("aa", { issuedAt: 1 }),
        ticket("AA", { issuedAt: 2 }),
        ticket("@@", { issuedAt: 3 })
      ], a)
      yield* putAll(cache, [ticket("bbbb")], b)
      assert.deepStrictEqual(yield* TicketCache.stats(cache), { ...nothing, servers: 2, tickets: 4, bytes: 10 })
      yield* putAll(cache, [ticket("ccc")], c)
      assert.deepStrictEqual(yield* TicketCache.stats(cache), {
        ...nothing,
        servers: 3,
        tickets: 3,
        bytes: 9,
        dropped: 2
      })
      yield* putAll(cache, [ticket("CCCCCCC")], c)
      assert.deepStrictEqual(yield* TicketCache.stats(cache), {
        ...nothing,
        servers: 1,
        tickets: 2,
        bytes: 10,
        dropped: 4
      })
      assert.deepStrictEqual(yield* drained(cache, c), ["CCCCCCC", "ccc"])
      assert.strictEqual((yield* TicketCache.stats(cache)).bytes, 0)
    }))

  it.scoped("drops the oldest tickets of the same server if there is no other", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make({ maxBytes: 3 })
      yield* putAll(cache, [ticket("a", { issuedAt: 1 }), ticket("b", { issuedAt: 2 }), ticket("cc", { issuedAt: 3 })])
      assert.deepStrictEqual(yield* drained(cache), ["cc", "b"])
    }))

  it.scoped("refuses a ticket that would not fit even alone, and keeps its tickets", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make({ maxBytes: 3 })
      yield* putAll(cache, [ticket("abc"), ticket("abcd")])
      assert.deepStrictEqual(yield* TicketCache.stats(cache), {
        ...nothing,
        servers: 1,
        tickets: 1,
        bytes: 3,
        dropped: 1
      })
    }))

  it.scoped("is by default full with 256 servers, 64 tickets of each, and 32 MiB", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      for (let port = 0; port < 257; port++) yield* TicketCache.put(cache, { host: "a", port }, ticket("a"))
      const afterServers = yield* TicketCache.stats(cache)
      assert.deepStrictEqual([afterServers.servers, afterServers.dropped], [256, 1])
      assert.deepStrictEqual(yield* drained(cache, { host: "a", port: 0 }), [])
      yield* TicketCache.clear(cache)

      yield* putAll(cache, Array.from({ length: 65 }, (_, index) => ticket(`${index}`)))
      const sixtyFour = yield* drained(cache)
      assert.deepStrictEqual([sixtyFour.length, sixtyFour[0], sixtyFour[63]], [64, "64", "1"])

      const longest = ofLength(65_536)
      for (let port = 0; port < 256; port++) yield* putAll(cache, [longest, longest], { host: "a", port })
      const mebi = 1024 * 1024
      const before = yield* TicketCache.stats(cache)
      assert.deepStrictEqual([before.tickets, before.bytes], [512, 32 * mebi])
      yield* TicketCache.put(cache, { host: "a", port: 255 }, ticket("a"))
      const after = yield* TicketCache.stats(cache)
      assert.deepStrictEqual([after.tickets, after.bytes], [512, 32 * mebi - 65_536 + 1])
    }))
})

describe("C3: a refused ticket", () => {
  it.scoped("drops older tickets of its server; newer ones stay, and so do other servers' tickets", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      yield* putAll(cache, [1, 2, 3].map((issuedAt) => ticket(`${issuedAt}`, { issuedAt })))
      const apart = [other, { ...key, port: 444 }, { ...key, partition: "p" }, { ...key, identity: "i" }]
      yield* Effect.forEach(apart, (from) => TicketCache.put(cache, from, ticket("apart", { issuedAt: 1 })))
      const refused = yield* taken(cache)
      // Tickets that arrive before the server has answered.
      yield* putAll(cache, [4, 5, 0].map((issuedAt) => ticket(`${issuedAt}`, { issuedAt })))
      yield* TicketCache.reject(cache, key, refused)
      assert.deepStrictEqual(yield* TicketCache.stats(cache), {
        ...nothing,
        servers: 5,
        tickets: 6,
        bytes: 22,
        offered: 1,
        refused: 1,
        dropped: 3
      })
      assert.deepStrictEqual(yield* drained(cache), ["5", "4"])
      for (const from of apart) assert.deepStrictEqual(yield* drained(cache, from), ["apart"])
    }))

  it.scoped("keeps tickets that were put after it but issued at the same time", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      yield* putAll(cache, [ticket("a"), ticket("b"), ticket("c")])
      const refused = yield* taken(cache)
      yield* TicketCache.put(cache, key, ticket("d"))
      yield* TicketCache.reject(cache, key, refused)
      assert.deepStrictEqual(yield* drained(cache), ["d"])
    }))

  it.scoped("is recognised even if it has been overwritten", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      yield* putAll(cache, [ticket("a"), ticket("b")])
      const refused = yield* taken(cache)
      yield* TicketCache.put(cache, key, ticket("c"))
      refused.session.fill(0)
      yield* TicketCache.reject(cache, { ...key, host: "API.TEST" }, refused)
      assert.deepStrictEqual(yield* drained(cache), ["c"])
    }))

  it.scoped("that is another object is compared by its times: all issued at the same time may be older", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      yield* putAll(cache, [1, 2, 2, 3].map((issuedAt) => ticket(`${issuedAt}`, { issuedAt })))
      yield* TicketCache.reject(cache, key, ticket("2", { issuedAt: 2 }))
      assert.deepStrictEqual(yield* drained(cache), ["3"])
      assert.deepStrictEqual(yield* TicketCache.stats(cache), { ...nothing, offered: 1, refused: 1, dropped: 3 })
    }))

  it.scoped("is the only one that counts among other taken tickets", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      yield* putAll(cache, [1, 2, 3, 4].map((issuedAt) => ticket(`${issuedAt}`, { issuedAt })))
      yield* taken(cache)
      const refused = yield* taken(cache)
      yield* putAll(cache, [ticket("4 again", { issuedAt: 4 })])
      yield* TicketCache.reject(cache, key, refused)
      assert.deepStrictEqual(yield* drained(cache), ["4 again"])
    }))

  it.scoped("of a server without other tickets is counted", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      yield* TicketCache.put(cache, key, ticket("a"))
      const refused = yield* taken(cache)
      yield* TicketCache.reject(cache, key, refused)
      yield* TicketCache.reject(cache, other, refused)
      assert.deepStrictEqual(yield* TicketCache.stats(cache), { ...nothing, offered: 1, refused: 2 })
    }))
})

describe("C10: a refused ticket that names its key", () => {
  /** The beginning of an OpenSSL ticket: 16 bytes that name the key. */
  const by = (name: string, rest: string) => ticket(name.repeat(16) + rest)

  it.scoped("drops only older tickets that begin with the same 16 bytes", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      yield* putAll(cache, [by("a", "1"), by("b", "1"), by("a", "2"), by("b", "2"), by("a", "3")])
      const newest = yield* taken(cache)
      const refused = yield* taken(cache)
      // Spent, and unreadable by now.
      refused.session.fill(0)
      yield* putAll(cache, [by("b", "3")])
      yield* TicketCache.reject(cache, key, refused)
      assert.deepStrictEqual(
        yield* drained(cache),
        [by("b", "3"), by("a", "2"), by("a", "1")].map(({ session }) => Buffer.from(session).toString())
      )
      assert.strictEqual(Buffer.from(newest.session).toString(), `${"a".repeat(16)}3`)
    }))

  it.scoped("drops no others, if it is the only one of its key", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      yield* putAll(cache, [by("a", "1"), by("a", "2"), by("b", "1")])
      yield* TicketCache.reject(cache, key, yield* taken(cache))
      assert.strictEqual(yield* TicketCache.size(cache), 2)
    }))

  it.scoped("drops all older ones, if each begins differently: such tickets name no key", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      yield* putAll(cache, [..."abcd"].map((name) => by(name, "1")))
      const refused = yield* taken(cache)
      yield* putAll(cache, [by("e", "1")])
      yield* TicketCache.reject(cache, key, refused)
      assert.strictEqual(yield* TicketCache.size(cache), 1)
    }))
})

describe("clearing", () => {
  const filled = Effect.tap(
    TicketCache.make(),
    (cache) =>
      Effect.forEach(
        ["p", "q", undefined],
        (partition) => putAll(cache, [ticket("1"), ticket("2")], { ...key, partition })
      )
  )

  const all = (cache: TicketCache.TicketCache): Effect.Effect<void> => TicketCache.clear(cache)
  const ways: ReadonlyArray<readonly [how: string, (cache: TicketCache.TicketCache) => Effect.Effect<void>]> = [
    ["data first", all],
    ["data last", (cache) => cache.pipe(TicketCache.clear())],
    ["with a filter that says yes, data first", (cache) => TicketCache.clear(cache, () => true)],
    ["with a filter that says yes, data last", (cache) => pipe(cache, TicketCache.clear(() => true))]
  ]
  for (const [how, clear] of ways) {
    it.scoped(`drops all, ${how}`, () =>
      Effect.gen(function*() {
        const cache = yield* filled
        yield* clear(cache)
        assert.deepStrictEqual(yield* TicketCache.stats(cache), { ...nothing, dropped: 6 })
        yield* TicketCache.put(cache, key, ticket("new"))
        assert.deepStrictEqual(yield* drained(cache), ["new"])
      }))
  }

  const filter = ({ partition }: TicketCache.ServerKey) => partition === "p"
  for (
    const [how, clear] of [
      ["data first", (cache: TicketCache.TicketCache) => TicketCache.clear(cache, filter)],
      ["data last", TicketCache.clear(filter)]
    ] as const
  ) {
    it.scoped(`drops the tickets that the filter accepts, ${how}`, () =>
      Effect.gen(function*() {
        const cache = yield* filled
        yield* clear(cache)
        const left = yield* Effect.forEach(["p", "q", undefined], (partition) => drained(cache, { ...key, partition }))
        assert.deepStrictEqual(left, [[], ["2", "1"], ["2", "1"]])
        assert.deepStrictEqual(yield* TicketCache.stats(cache), { ...nothing, offered: 4, dropped: 2 })
      }))
  }

  it.scoped("calls the filter once for each server, with the key that was put", () =>
    Effect.gen(function*() {
      const cache = yield* filled
      const seen: Array<TicketCache.ServerKey> = []
      yield* TicketCache.clear(cache, (one) => seen.push(one) === 0)
      assert.deepStrictEqual(seen, ["p", "q", undefined].map((partition) => keyWith({ partition })))
    }))

  it.scoped("with a filter that throws is a defect, and the cache still works", () =>
    Effect.gen(function*() {
      const cache = yield* filled
      const exit = yield* Effect.exit(TicketCache.clear(cache, ({ partition }) => {
        if (partition === "q") throw new Error("no")
        return true
      }))
      assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
      assert.deepStrictEqual(yield* TicketCache.stats(cache), {
        ...nothing,
        servers: 2,
        tickets: 4,
        bytes: 4,
        dropped: 2
      })
      assert.deepStrictEqual(yield* drained(cache), ["2", "1"])
    }))

  it.scoped("with a filter that uses the cache itself calls it once for each server, and counts correctly", () =>
    Effect.gen(function*() {
      const cache = yield* filled
      const run = Runtime.runSync(yield* Effect.runtime())
      const seen: Array<string | undefined> = []
      yield* TicketCache.clear(cache, (one) => {
        seen.push(one.partition)
        assert.isAtMost(seen.length, 3)
        run(TicketCache.take(cache, one))
        run(TicketCache.put(cache, one, ticket("new")))
        return one.partition === "p"
      })
      assert.deepStrictEqual(seen, ["p", "q", undefined])
      assert.deepStrictEqual(yield* TicketCache.stats(cache), {
        ...nothing,
        servers: 2,
        tickets: 4,
        bytes: 8,
        offered: 3,
        dropped: 2
      })
      for (const partition of ["q", undefined]) {
        assert.deepStrictEqual(yield* drained(cache, { ...key, partition }), ["new", "1"])
      }
    }))
})

describe("C5: a ticket's bytes", () => {
  /** Gives all arrays of bytes that are made while it runs: all copies of a cache. */
  const copiesOf = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    Effect.suspend(() => {
      const copies: Array<Uint8Array> = []
      vi.stubGlobal(
        "Uint8Array",
        new Proxy(Uint8Array, {
          construct: (target, args, newTarget) => {
            const made = Reflect.construct(target, args, newTarget)
            copies.push(made)
            return made
          }
        })
      )
      return Effect.ensuring(Effect.as(effect, copies), Effect.sync(() => vi.unstubAllGlobals()))
    })

  const isZero = (session: Uint8Array) => session.every((byte) => byte === 0)

  /** Puts tickets that were issued at 1, 2, 3, … with these sessions, and gives which are zero after the action. */
  const zeroed = (
    names: ReadonlyArray<string>,
    options: TicketCache.Options,
    use: (cache: TicketCache.TicketCache) => Effect.Effect<unknown>
  ) =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make(options)
      const given = names.map((name, index) => ticket(name, { issuedAt: index + 1, expiresAt: 1_000 }))
      const copies = yield* copiesOf(putAll(cache, given))
      assert.strictEqual(copies.length, names.length, "one copy of each")
      yield* use(cache)
      // Never the caller's own bytes.
      assert.deepStrictEqual(given.map(textOf), names)
      return names.filter((_, index) => isZero(copies[index]!))
    })

  it.scoped("are zero once it was dropped for a newer one", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* zeroed(["a", "b", "c"], { ticketsPerServer: 2 }, () => Effect.void), ["a"])
      assert.deepStrictEqual(yield* zeroed(["a", "b", "c"], { maxBytes: 1 }, () => Effect.void), ["a", "b"])
    }))

  it.scoped("are zero once its server was dropped for another", () =>
    Effect.gen(function*() {
      const use = (cache: TicketCache.TicketCache) => TicketCache.put(cache, other, ticket("x"))
      assert.deepStrictEqual(yield* zeroed(["a", "b"], { servers: 1 }, use), ["a", "b"])
      assert.deepStrictEqual(yield* zeroed(["a", "b"], { servers: 2 }, use), [])
    }))

  it.scoped("are zero once it was cleared", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* zeroed(["a", "b"], {}, (cache) => TicketCache.clear(cache)), ["a", "b"])
      assert.deepStrictEqual(yield* zeroed(["a", "b"], {}, (cache) => TicketCache.clear(cache, () => false)), [])
    }))

  const findings: ReadonlyArray<readonly [who: string, (cache: TicketCache.TicketCache) => Effect.Effect<unknown>]> = [
    ["who takes", (cache) => TicketCache.take(cache, key)],
    ["who puts", (cache) => TicketCache.put(cache, key, ticket("new", { issuedAt: 900 }))],
    ["who counts", TicketCache.size]
  ]
  for (const [who, find] of findings) {
    it.scoped(`are zero once it is found to have expired by ${who}`, () =>
      Effect.gen(function*() {
        yield* TestClock.setTime(0)
        const late = (cache: TicketCache.TicketCache) => Effect.zipRight(TestClock.setTime(1_000), find(cache))
        assert.deepStrictEqual(yield* zeroed(["a", "b"], {}, late), ["a", "b"])
      }))
  }

  it.scoped("are zero once a newer one was refused; the refused ticket's own bytes belong to its taker", () =>
    Effect.gen(function*() {
      const zero = yield* zeroed(["a", "b", "c", "d"], {}, (cache) =>
        Effect.gen(function*() {
          yield* taken(cache)
          yield* TicketCache.reject(cache, key, yield* taken(cache))
        }))
      assert.deepStrictEqual(zero, ["a", "b"])
    }))

  it.effect("are zero once the scope has closed, except for tickets that were taken", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const out: Array<TicketCache.Ticket> = []
      const zero = yield* Scope.extend(
        zeroed(["a", "b", "c"], {}, (cache) =>
          Effect.gen(function*() {
            out.push(yield* taken(cache))
            yield* Scope.close(scope, Exit.void)
          })),
        scope
      )
      assert.deepStrictEqual(zero, ["a", "b"])
      assert.deepStrictEqual(out.map(textOf), ["c"])
    }))

  it.effect("that was taken belong to the taker, whatever happens to the cache", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const cache = yield* Scope.extend(TicketCache.make({ ticketsPerServer: 3 }), scope)
      yield* putAll(cache, ["a", "b", "c"].map((name) => ticket(name)))
      const out = [yield* taken(cache), yield* taken(cache), yield* taken(cache)]
      yield* TicketCache.reject(cache, key, out[0]!)
      yield* putAll(cache, ["d", "e", "f", "g"].map((name) => ticket(name)))
      yield* TestClock.adjust("10 days")
      yield* TicketCache.stats(cache)
      yield* TicketCache.clear(cache)
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(out.map(textOf), ["c", "b", "a"])
    }))
})

describe("C5: a cache whose scope has closed", () => {
  it.effect("has no tickets, and keeps none", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const cache = yield* Scope.extend(TicketCache.make(), scope)
      yield* putAll(cache, [ticket("a"), ticket("b"), ticket("c")])
      yield* TicketCache.put(cache, other, ticket("d"))
      const refused = yield* taken(cache)
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(yield* TicketCache.stats(cache), { ...nothing, offered: 1, dropped: 3 })
      yield* TicketCache.put(cache, key, ticket("e"))
      assert.isTrue(Option.isNone(yield* TicketCache.take(cache, key)))
      assert.strictEqual(yield* TicketCache.size(cache), 0)
      // Late calls, from connections that were made before.
      yield* TicketCache.reject(cache, key, refused)
      yield* TicketCache.resumed(cache)
      yield* TicketCache.unreplenished(cache, key)
      yield* TicketCache.clear(cache)
      assert.deepStrictEqual(yield* TicketCache.stats(cache), {
        ...nothing,
        offered: 1,
        resumed: 1,
        refused: 1,
        dropped: 4
      })
    }))
})

describe("the options", () => {
  it.scoped.each([null, 5, "64"])(
    "that are no object, from a caller without types, are refused: %s",
    (options) =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(TicketCache.make(options as unknown as TicketCache.Options))
        assert.instanceOf(error, InvalidOptions)
        assert.strictEqual(error.option, "options")
      })
  )

  const counts = [0, -1, 1.5, NaN, Infinity, -Infinity, 2 ** 53, "64"]
  const nonsense: ReadonlyArray<readonly [option: string, values: ReadonlyArray<unknown>]> = [
    ["servers", counts],
    ["ticketsPerServer", counts],
    ["maxBytes", counts],
    ["maxLifetime", [0, -1, NaN, Infinity, 604_800_001, "8 days", "0 millis", "soon", "-1 days", 1n]]
  ]
  for (const [option, values] of nonsense) {
    for (const value of values) {
      it.scoped(`are refused: ${option} ${inspect(value)}`, () =>
        Effect.gen(function*() {
          const error = yield* Effect.flip(TicketCache.make({ [option]: value }))
          assert.instanceOf(error, InvalidOptions)
          assert.deepStrictEqual([error._tag, error.option, error.value], ["InvalidOptions", option, value])
          assert.match(error.message, new RegExp(`^${option}: must be `))
        }))
    }
  }

  it.scoped("that are undefined have the defaults, and the smallest values are enough for one ticket", () =>
    Effect.gen(function*() {
      const undefinedOnes = {
        servers: undefined,
        ticketsPerServer: undefined,
        maxLifetime: undefined,
        maxBytes: undefined
      }
      for (const options of [undefinedOnes, { servers: 1, ticketsPerServer: 1, maxLifetime: 1, maxBytes: 1 }]) {
        const cache = yield* TicketCache.make(options)
        yield* TicketCache.put(cache, key, ticket("a"))
        assert.deepStrictEqual(yield* drained(cache), ["a"])
      }
      yield* TicketCache.make({ maxLifetime: 604_800_000, maxBytes: Number.MAX_SAFE_INTEGER })
    }))
})

describe("C6: metrics for an operator", () => {
  const counters = Effect.sync(() =>
    Object.fromEntries(
      (["offered", "resumed", "refused", "expired", "dropped"] as const).map((name) => [
        name,
        sumOf(`holdfast_tickets_${name}_total`, {})
      ])
    )
  )

  it.scoped("the outcome of each ticket is counted, for one cache and for all", () =>
    Effect.gen(function*() {
      const before = yield* counters
      const cache = yield* TicketCache.make({ ticketsPerServer: 4 })
      yield* putAll(cache, [1, 2, 3, 4, 5].map((issuedAt) => ticket("a", { issuedAt })))
      yield* taken(cache)
      yield* TicketCache.resumed(cache)
      yield* TicketCache.reject(cache, key, ticket("a", { issuedAt: 3 }))
      yield* taken(cache)
      yield* TicketCache.resumed(cache)
      yield* taken(cache).pipe(Effect.exit)
      yield* TicketCache.put(cache, other, ticket("b", { expiresAt: 1_000 }))
      yield* TicketCache.put(cache, other, ticket("c"))
      yield* TestClock.setTime(1_000)
      const { bytes, servers, tickets, ...counts } = yield* TicketCache.stats(cache)
      assert.deepStrictEqual({ bytes, servers, tickets }, { bytes: 1, servers: 1, tickets: 1 })
      assert.deepStrictEqual(counts, { offered: 2, resumed: 2, refused: 1, expired: 1, dropped: 3 })
      const after = yield* counters
      assert.deepStrictEqual(
        Object.fromEntries(Object.entries(after).map(([name, count]) => [name, count - before[name]!])),
        counts
      )
    }))

  const logged = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    Effect.suspend(() => {
      const lines: Array<string> = []
      const logger = Logger.make(({ logLevel, message }) => void lines.push(`${logLevel.label} ${String(message)}`))
      return Effect.as(Effect.provide(effect, Logger.replace(Logger.defaultLogger, logger)), lines)
    })

  it.scoped("a server that gives no new tickets is logged once, at Info", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make()
      const lines = yield* logged(Effect.gen(function*() {
        yield* TicketCache.unreplenished(cache, key)
        yield* cache.pipe(TicketCache.unreplenished(key))
        yield* TicketCache.unreplenished(cache, { ...key, host: "API.test" })
        yield* TicketCache.unreplenished(cache, {
          ...key,
          servername: "s",
          alpn: "h2",
          identity: "i",
          partition: "user-7"
        })
        yield* TicketCache.unreplenished(cache, { ...key, port: 8443 })
        yield* pipe(cache, TicketCache.unreplenished(other))
        yield* TicketCache.unreplenished(cache, other)
      }))
      assert.lengthOf(lines, 3)
      for (const [index, server] of ["api.test:443", "api.test:8443", "other.test:443"].entries()) {
        assert.isTrue(lines[index]!.startsWith(`INFO ${server} `), lines[index])
      }
    }))

  it.scoped("each cache logs it, without saying which user or tenant has met it", () =>
    Effect.gen(function*() {
      const lines = yield* logged(
        Effect.forEach(
          [yield* TicketCache.make(), yield* TicketCache.make()],
          (cache) => TicketCache.unreplenished(cache, { ...key, identity: "a-digest", partition: "user-7" })
        )
      )
      assert.lengthOf(lines, 2)
      assert.notMatch(lines.join(), /user-7|a-digest/)
    }))

  it.scoped("no more servers are remembered as logged than tickets are kept for", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make({ servers: 2 })
      const linesFor = (...ports: ReadonlyArray<number>) =>
        Effect.map(
          logged(Effect.forEach(ports, (port) => TicketCache.unreplenished(cache, { host: "a", port }))),
          (lines) => lines.length
        )
      assert.strictEqual(yield* linesFor(1, 2, 1, 2), 2)
      assert.strictEqual(yield* linesFor(3), 1)
      assert.strictEqual(yield* linesFor(3, 1), 1)
    }))

  it.scoped("nothing else is logged", () =>
    Effect.gen(function*() {
      const cache = yield* TicketCache.make({ servers: 1, ticketsPerServer: 1 })
      const lines = yield* logged(Effect.gen(function*() {
        yield* putAll(cache, [ticket("a"), ticket("b"), ticket("")])
        yield* TicketCache.put(cache, other, ticket("c"))
        yield* TicketCache.reject(cache, other, yield* taken(cache, other))
        yield* TicketCache.resumed(cache)
        yield* TicketCache.clear(cache)
      }))
      assert.deepStrictEqual(lines, [])
    }))
})

describe("C5: the secrets of a ticket", () => {
  const secret = Uint8Array.of(0xde, 0xad, 0xbe, 0xef, 0xde, 0xad, 0xbe, 0xef)
  const signs = /222\W+(\d\W+)?173|de ?ad ?be|3q2\+|\xde\xad/i

  const withSecrets = Effect.gen(function*() {
    const cache = yield* TicketCache.make()
    const one = { ...ticket(""), session: secret }
    yield* putAll(cache, [one, one])
    return { cache, ticket: yield* taken(cache) }
  })

  it("are recognised by these signs when they are printed", () => {
    const buffer = Buffer.from(secret)
    for (
      const text of [
        JSON.stringify(secret),
        JSON.stringify([...secret]),
        inspect(secret),
        inspect(buffer),
        String(secret)
      ]
    ) {
      assert.match(text, signs)
    }
    for (const encoding of ["hex", "base64", "latin1"] as const) assert.match(buffer.toString(encoding), signs)
  })

  it.scoped("appear in no form of printing it or the cache", () =>
    Effect.gen(function*() {
      const both = yield* withSecrets
      for (const secretive of [both.cache, both.ticket, both, [both.ticket], new Map([["x", both.ticket]])]) {
        for (
          const text of [
            JSON.stringify(secretive),
            JSON.stringify(secretive, undefined, 2),
            inspect(secretive),
            inspect(secretive, { depth: null, showHidden: true, colors: true }),
            inspect({ a: { b: { c: { d: secretive } } } }, { depth: Infinity }),
            inspect(secretive, { depth: null, showHidden: true, customInspect: false }),
            format("%s %o %O %j", secretive, secretive, secretive, secretive),
            String(secretive),
            `${inspect(Option.some(secretive), { depth: null })} ${inspect(Exit.fail(secretive), { depth: null })}`
          ]
        ) {
          assert.notMatch(text, signs)
        }
      }
      assert.include(String(both.ticket), "<redacted>")
      assert.include(inspect(both.cache), "tickets: 1")
    }))

  it.scoped("are not copied with its own properties", () =>
    Effect.gen(function*() {
      const { cache, ticket } = yield* withSecrets
      for (const secretive of [ticket, cache]) {
        assert.notMatch(
          inspect([{ ...secretive }, Object.entries(secretive), structuredClone({ ...ticket })], { depth: null }),
          signs
        )
        // `prettyErrors` gives an error the properties of what failed.
        assert.notMatch(inspect(Cause.prettyErrors(Cause.fail(secretive)), { depth: null }), signs)
        assert.notMatch(inspect(Cause.prettyErrors(Cause.die(secretive)), { depth: null }), signs)
        // The messages of failed assertions.
        for (const other of [1, {}, []]) {
          strict.throws(() => strict.deepEqual(secretive, other), (error: Error) => {
            assert.notMatch(inspect(error, { depth: null }) + error.message, signs)
            return true
          })
        }
      }
    }))

  it.scoped("are hidden, but its times and the cache's counts are shown", () =>
    Effect.gen(function*() {
      const { cache, ticket } = yield* withSecrets
      assert.deepStrictEqual(JSON.parse(JSON.stringify(ticket)), {
        _id: "effect-holdfast/TicketCache/Ticket",
        session: "<redacted>",
        expiresAt: 3_600_000,
        issuedAt: 0
      })
      assert.deepStrictEqual(JSON.parse(JSON.stringify(cache)), {
        _id: "effect-holdfast/TicketCache",
        ...nothing,
        servers: 1,
        tickets: 1,
        bytes: 8,
        offered: 1
      })
    }))

  it.scoped("are in no cause, and no error that an effect throws", () =>
    Effect.gen(function*() {
      const { cache, ticket } = yield* withSecrets
      for (const secretive of [ticket, cache, { _tag: "Refused", message: "no", ticket, cache }]) {
        for (
          const cause of [
            Cause.fail(secretive),
            Cause.die(secretive),
            Cause.parallel(Cause.fail(secretive), Cause.die(ticket))
          ]
        ) {
          assert.notMatch(Cause.pretty(cause, { renderErrorCause: true }), signs)
          assert.notMatch(String(cause) + JSON.stringify(cause) + inspect(cause, { depth: null }), signs)
          const thrown = yield* Effect.promise(() =>
            Effect.runPromise(Effect.failCause(cause)).catch((error: unknown) => error)
          )
          assert.notMatch(`${String(thrown)} ${inspect(thrown, { depth: null, showHidden: true })}`, signs)
        }
      }
    }))

  const loggers: ReadonlyArray<readonly [name: string, Logger.Logger<unknown, unknown>]> = [
    ["string", Logger.stringLogger],
    ["logfmt", Logger.logfmtLogger],
    ["JSON", Logger.jsonLogger],
    ["structured", Logger.structuredLogger]
  ]
  for (const [name, logger] of loggers) {
    it.scoped(`are in no line of the ${name} logger`, () =>
      Effect.gen(function*() {
        const { cache, ticket } = yield* withSecrets
        const lines: Array<string> = []
        const noting = Logger.map(logger, (line) =>
          void lines.push(typeof line === "string" ? line : inspect(line, { depth: null })))
        yield* Effect.logInfo("tickets", ticket, cache, { ticket }, Cause.fail(ticket)).pipe(
          Effect.annotateLogs({ ticket, cache }),
          Effect.provide(Logger.replace(Logger.defaultLogger, noting))
        )
        assert.lengthOf(lines, 1)
        assert.include(lines[0], "<redacted>")
        assert.notMatch(lines[0]!, signs)
      }))
  }
})
