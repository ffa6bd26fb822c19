/** Stores that go away, lose writes, and are written to by hand. */
import * as SqlClient from "@effect/sql/SqlClient"
import { assert, describe, it } from "@effect/vitest"
import { RedisSessionStore } from "effect-holdfast/redis"
import * as SessionStore from "effect-holdfast/SessionStore"
import * as SharedSession from "effect-holdfast/SharedSession"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import { Redis } from "ioredis"
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { type AddressInfo, createServer, type Server as TcpServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll } from "vitest"
import { databases } from "../support/databases.js"
import { failureOf } from "../support/exits.js"
import { amount, form } from "../support/form.js"
import { ownMariadb, ownPostgres, ownRedis, type OwnServer } from "../support/ownServers.js"
import { relay } from "../support/relay.js"
import { hasSqlite, sqlLayer, storeLayer, type StoreSettings } from "../support/stores.js"
import { type Refused, Token, tokenServer } from "../support/tokenServer.js"
import { mariadbServer, postgresServer, redisServer } from "../support/tools.js"
import { type FleetSession, nameOf } from "./fleet.js"

const root = mkdtempSync(join(tmpdir(), "holdfast-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

let places = 0
const place = () => `holdfast_test_${process.pid}_${Date.now()}_${places++}`

type Server = ReturnType<typeof tokenServer>

/** One more process, with connections of its own. */
const joined = (
  settings: StoreSettings,
  server: Server,
  key = "api"
): Effect.Effect<FleetSession, unknown, Scope.Scope> =>
  Effect.flatMap(Layer.build(storeLayer(settings)), (store) => Effect.provide(sessionOf(server, key), store))

const sessionOf = (
  server: Server,
  key: string,
  options: { readonly timeout?: Duration.DurationInput; readonly lease?: Duration.DurationInput } = {}
) =>
  SharedSession.make<Token, typeof Token.Encoded, Refused, never, Refused>({
    key,
    schema: Token,
    acquire: server.acquire,
    renew: server.renew,
    onEnd: server.onEnd,
    fatal: ({ why }) => why === "invalid_grant",
    // The test decides when a failure is tried again.
    cooldown: 0,
    budget: { refreshes: 1000, within: "1 minute" },
    ...options
  })

const renewed = (session: FleetSession) =>
  Effect.map(Effect.flatMap(session.current, (stale) => session.refresh(stale)), nameOf)

const reasonOf = <A, E>(effect: Effect.Effect<A, E>) =>
  Effect.map(Effect.exit(effect), (exit) => {
    const error = failureOf(exit) as { readonly _tag: string; readonly reason?: string }
    return error.reason ?? error._tag
  })

/**
 * A client that lost its connection takes a while to make another one, and so does one that is overloaded. A disk that
 * is busy with something else may take longer than a call's deadline.
 */
const untilConnected = <A, E>(effect: Effect.Effect<A, E>) =>
  Effect.retry(effect, Schedule.intersect(Schedule.spaced("100 millis"), Schedule.recurs(300)))

// --- by hand -----------------------------------------------------------------

/** Changes of the session's row that bypass all processes. */
const byHand = (settings: StoreSettings) => {
  const onRow = (what: "remove" | "garble") =>
    Effect.gen(function*() {
      switch (settings.kind) {
        case "file": {
          const [folder] = readdirSync(settings.directory)
          const path = join(settings.directory, folder!)
          if (what === "remove") return rmSync(path, { recursive: true })
          return writeFileSync(join(path, readdirSync(path).sort().at(-1)!), "nonsense")
        }
        case "redis": {
          const redis = new Redis(settings.url)
          yield* Effect.promise<unknown>(() =>
            what === "remove"
              ? redis.del(`${settings.prefix}api`)
              : redis.hset(`${settings.prefix}api`, "content", "nonsense")
          )
          return redis.disconnect()
        }
        default: {
          const table = "table" in settings ? settings.table : "holdfast_sessions"
          yield* Effect.provide(
            Effect.flatMap(SqlClient.SqlClient, (sql) =>
              what === "remove"
                ? sql`DELETE FROM ${sql(table)} WHERE id = 'api'`
                : sql`UPDATE ${sql(table)} SET content = 'nonsense' WHERE id = 'api'`),
            sqlLayer(settings)
          )
        }
      }
    })
  return { remove: onRow("remove"), garble: onRow("garble") }
}

const rowOf = (settings: StoreSettings) =>
  Effect.provide(
    Effect.flatMap(SessionStore.SessionStore, ({ read }) => Effect.map(read("api"), ({ row }) => row)),
    storeLayer(settings)
  )

const touched = (settings: () => StoreSettings): void => {
  it.live("F3: a row that is deleted by hand is restored by the next renewal, as uncertain", () =>
    Effect.scoped(Effect.gen(function*() {
      const [store, server] = [settings(), tokenServer()]
      const [one, two] = [yield* joined(store, server), yield* joined(store, server)]
      assert.deepStrictEqual([nameOf(yield* one.current), nameOf(yield* two.current)], ["0.0", "0.0"])
      const stale = yield* two.current
      yield* byHand(store).remove
      assert.strictEqual(yield* renewed(one), "0.1")
      assert.strictEqual(nameOf(yield* two.refresh(stale)), "0.1")
      assert.deepStrictEqual([server.state.uncertain, server.state.reused], [[true], 0])
    })))

  it.live("F7: a row that is changed by hand is Unreadable to all, and stays as it is", () =>
    Effect.scoped(Effect.gen(function*() {
      const [store, server] = [settings(), tokenServer()]
      const [one, two] = [yield* joined(store, server), yield* joined(store, server)]
      yield* one.current
      yield* byHand(store).garble
      const before = yield* rowOf(store)
      assert.strictEqual(yield* reasonOf(renewed(one)), "Unreadable")
      assert.strictEqual(yield* reasonOf(two.current), "Unreadable")
      assert.deepStrictEqual(yield* rowOf(store), before)
      assert.deepStrictEqual(server.state.calls, ["sign in"])
    })))

  const sessions = amount({ quick: 30, full: 1000 })
  it.live(`F5, F9: ${sessions} sessions of a process that expire together are all renewed, once each`, () =>
    Effect.scoped(Effect.gen(function*() {
      const store = settings()
      const server = tokenServer({ lifetime: 6_000_000 })
      const [process, other] = [yield* Layer.build(storeLayer(store)), yield* Layer.build(storeLayer(store))]
      const keys = Array.from({ length: sessions }, (_, i) => `session ${i}`)
      const sessionsOf = (keys: ReadonlyArray<string>, store: typeof process) =>
        Effect.forEach(keys, (key) =>
          // Long enough for a busy machine to serve all sessions, and to extend each lease in time.
          Effect.provide(sessionOf(server, key, { timeout: "5 minutes", lease: "1 minute" }), store))
      const all = [yield* sessionsOf(keys, process), yield* sessionsOf(keys.slice(0, 20), other)]
      const unbounded = { concurrency: "unbounded" } as const
      const current = yield* Effect.forEach(
        all.flat(),
        (session) => Effect.map(untilConnected(session.current), (generation) => ({ session, generation })),
        unbounded
      )
      assert.strictEqual(server.state.calls.length, sessions)
      const names = yield* Effect.forEach(
        current,
        ({ generation, session }) => Effect.map(untilConnected(session.refresh(generation)), nameOf),
        unbounded
      )
      assert.strictEqual(server.state.calls.length, 2 * sessions)
      assert.deepStrictEqual([server.state.reused, new Set(names).size], [0, sessions])
    })))
}

// --- on the network ----------------------------------------------------------

const unreachable = (
  url: string,
  settings: (url: string) => Exclude<StoreSettings, { readonly kind: "file" | "sqlite" }>
): void => {
  const through = Effect.gen(function*() {
    const way = yield* relay(url)
    const store = settings(url)
    const server = tokenServer()
    const session = yield* joined({ ...store, url: way.url }, server)
    assert.strictEqual(nameOf(yield* session.current), "0.0")
    return { way, server, session, store }
  })

  for (const weather of ["down", "silent"] as const) {
    it.live(`F5: with a store whose network is ${weather} valid values are served, and renewed when it is back`, () =>
      Effect.scoped(Effect.gen(function*() {
        const { server, session, way } = yield* through
        way.set(weather)
        const since = performance.now()
        assert.strictEqual(yield* reasonOf(renewed(session)), "StoreUnavailable")
        assert.isBelow(performance.now() - since, 30_000)
        assert.strictEqual(nameOf(yield* session.current), "0.0")
        assert.deepStrictEqual(server.state.calls, ["sign in"])
        way.set("up")
        assert.strictEqual(yield* untilConnected(renewed(session)), "0.1")
        assert.deepStrictEqual([server.state.reused, server.state.calls.length], [0, 2])
      })))
  }

  it.live("F5: a store that goes away while a token is obtained gets the token when it is back", () =>
    Effect.scoped(Effect.gen(function*() {
      const { server, session, store, way } = yield* through
      const other = yield* joined(store, server)
      const stale = yield* other.current
      server.next(Effect.sync(() => way.set("down")))
      assert.strictEqual(yield* reasonOf(renewed(session)), "StoreUnavailable")
      way.set("up")
      const row = Effect.map(rowOf(store), Option.getOrThrow)
      yield* Effect.repeat(Effect.delay(row, "50 millis"), { until: ({ holder }) => holder === null })
      assert.strictEqual(nameOf(yield* other.refresh(stale)), "0.1")
      assert.deepStrictEqual(server.state.calls, ["sign in", "renew 0.0"])
    })))

  it.live("F5: a slow store only makes renewals slow", () =>
    Effect.scoped(Effect.gen(function*() {
      const { server, session, way } = yield* through
      way.set(100)
      assert.strictEqual(yield* renewed(session), "0.1")
      assert.deepStrictEqual([server.state.uncertain, server.state.reused], [[false], 0])
    })))

  it.live("F10: an `end` while the store is down is immediate here, and follows elsewhere", () =>
    Effect.scoped(Effect.gen(function*() {
      const { server, session, store, way } = yield* through
      const other = yield* joined(store, server)
      const stale = yield* other.current
      way.set("down")
      yield* session.end
      assert.deepStrictEqual(server.state.revoked, ["0.0"])
      way.set("up")
      const row = Effect.map(rowOf(store), Option.getOrThrow)
      yield* Effect.repeat(Effect.delay(row, "50 millis"), { until: ({ dead }) => dead })
      assert.strictEqual(nameOf(yield* other.refresh(stale)), "1.0")
      assert.strictEqual(nameOf(yield* untilConnected(session.current)), "1.0")
      assert.deepStrictEqual(server.state.calls, ["sign in", "sign in"])
    })))
}

// --- restarts ----------------------------------------------------------------

/** Sessions of two processes with one server, renewed in turn while that is stopped and started again. */
const restarted = (name: string, own: Effect.Effect<OwnServer, never, Scope.Scope>): void => {
  describe(`a ${name} that is restarted`, () => {
    for (const how of ["stop", "kill"] as const) {
      it.live(`F4, F5: (${how}) in the middle of renewals, has lost nothing`, () =>
        Effect.scoped(Effect.gen(function*() {
          const database = yield* own
          const server = tokenServer({ takes: 20 })
          const [one, two] = [yield* joined(database.settings, server), yield* joined(database.settings, server)]
          // A process of its own, to which no token is refused.
          const idle = yield* joined(database.settings, server)
          for (const { current } of [one, two, idle]) yield* current
          let isOver = false
          let renewals = 0
          const renewing = yield* Effect.fork(Effect.repeat(
            Effect.suspend(() => Effect.map(untilConnected(renewed(renewals % 2 === 0 ? one : two)), () => renewals++)),
            { until: () => isOver }
          ))
          const reaches = (count: number) =>
            Effect.repeat(Effect.sleep("20 millis"), {
              until: () => renewals >= count || renewing.unsafePoll() !== null
            })
          for (let restart = 1; restart <= 2; restart++) {
            const before = renewals
            yield* reaches(before + 4)
            yield* database[how]
            yield* Effect.sleep("300 millis")
            assert.strictEqual((yield* idle.current).value.family, 0, "a good token is served without it")
            yield* database.start
            yield* reaches(renewals + 4)
          }
          isOver = true
          yield* Fiber.join(renewing)
          assert.isAtLeast(renewals, 12)
          // Each token was presented once, and every renewal continued from the one before.
          const tokens = server.state.calls.slice(1)
          assert.deepStrictEqual(tokens, tokens.map((_, i) => `renew 0.${i}`))
          assert.deepStrictEqual([server.state.reused, server.state.calls[0]], [0, "sign in"])
          // MariaDB sends no notices, and one notice is enough for a slow subscription.
          if (database.settings.kind === "mysql" || how === "stop") return
          // A subscription that was cut is renewed after a while.
          const before = yield* idle.current
          yield* Effect.repeat(
            Effect.zipRight(untilConnected(renewed(one)), Effect.delay(idle.current, "1 second")),
            { until: ({ number }) => number > before.number, times: 90 }
          )
          assert.isAbove((yield* idle.current).number, before.number)
        })))
    }
  })
}

describe("a store in a directory", () => {
  const settings = (): StoreSettings => ({ kind: "file", directory: join(root, place()) })
  touched(settings)

  it.live("F5: its folder may be deleted with all its files", () =>
    Effect.scoped(Effect.gen(function*() {
      const [store, server] = [settings() as { readonly kind: "file"; readonly directory: string }, tokenServer()]
      const [one, two] = [yield* joined(store, server), yield* joined(store, server)]
      yield* one.current
      const stale = yield* two.current
      rmSync(store.directory, { recursive: true })
      assert.strictEqual(yield* renewed(one), "0.1")
      assert.strictEqual(nameOf(yield* two.refresh(stale)), "0.1")
      assert.deepStrictEqual([server.state.uncertain, server.state.reused], [[true], 0])
    })))
})

describe.skipIf(form === "quick")("a store in a database", async () => {
  const { mysql, postgres, redis } = form === "quick"
    ? { mysql: undefined, postgres: undefined, redis: undefined }
    : await databases()
  const sqlite = form !== "quick" && await hasSqlite()

  describe.skipIf(!sqlite)("SQLite", () => touched(() => ({ kind: "sqlite", filename: join(root, `${place()}.db`) })))

  const networked = {
    PostgreSQL: [postgres, (url: string) => ({ kind: "postgres", url, table: place() }) as const],
    MariaDB: [mysql, (url: string) => ({ kind: "mysql", url, table: place() }) as const],
    Redis: [redis, (url: string) => ({ kind: "redis", url, prefix: `${place()}:` }) as const]
  } as const
  for (const [name, [url, settings]] of Object.entries(networked)) {
    describe.skipIf(url === undefined)(name, () => {
      touched(() => settings(url!))
      unreachable(url!, settings)
    })
  }

  describe.skipIf(postgresServer === undefined)("", () => restarted("PostgreSQL", ownPostgres))
  describe.skipIf(mariadbServer === undefined)("", () => restarted("MariaDB", ownMariadb))

  it.live("F5: a Redis that accepts connections and says nothing does not hold up the start for long", () =>
    Effect.scoped(Effect.gen(function*() {
      const silent = yield* Effect.acquireRelease(
        Effect.async<TcpServer>((resume) => {
          const server = createServer().listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
        }),
        (server) => Effect.sync(() => server.close())
      )
      silent.on("connection", (socket) => socket.on("error", () => {}))
      const url = `redis://127.0.0.1:${(silent.address() as AddressInfo).port}`
      const store = yield* Layer.build(RedisSessionStore.layer({ url }))
      const failed = yield* Effect.flip(
        Effect.provide(sessionOf(tokenServer(), "api"), store).pipe(
          Effect.flatMap((session) => session.current)
        )
      )
      assert.deepInclude(failed, { reason: "StoreUnavailable" })
    })))

  describe.skipIf(redisServer === undefined)("a Redis that is restarted", () => {
    it.live("F4: with an append-only file that is synced always, has lost nothing", () =>
      Effect.scoped(Effect.gen(function*() {
        const redis = yield* ownRedis("--appendonly", "yes", "--appendfsync", "always")
        const server = tokenServer()
        const [one, two] = [yield* joined(redis.settings, server), yield* joined(redis.settings, server)]
        yield* one.current
        const stale = yield* two.current
        assert.strictEqual(yield* renewed(one), "0.1")
        yield* Effect.zipRight(redis.kill, redis.start)
        assert.isTrue(existsSync(redis.directory))
        assert.strictEqual(nameOf(yield* untilConnected(two.refresh(stale))), "0.1")
        assert.strictEqual(yield* untilConnected(renewed(two)), "0.2")
        assert.deepStrictEqual([server.state.uncertain, server.state.reused], [[false, false], 0])
      })))

    it.live("F3, F4: without one, is given the row again by a process that remembers it, as uncertain", () =>
      Effect.scoped(Effect.gen(function*() {
        const redis = yield* ownRedis()
        const server = tokenServer()
        const [one, two] = [yield* joined(redis.settings, server), yield* joined(redis.settings, server)]
        yield* one.current
        const stale = yield* two.current
        yield* Effect.zipRight(redis.kill, redis.start)
        assert.strictEqual(yield* untilConnected(renewed(one)), "0.1")
        assert.strictEqual(nameOf(yield* untilConnected(two.refresh(stale))), "0.1")
        assert.deepStrictEqual([server.state.uncertain, server.state.reused], [[true], 0])
        // And notices come again.
        const before = yield* two.current
        assert.strictEqual(yield* untilConnected(renewed(one)), "0.2")
        yield* Effect.repeat(Effect.delay(two.current, "20 millis"), { until: ({ number }) => number > before.number })
      })))
  })
})
