import * as MysqlClient from "@effect/sql-mysql2/MysqlClient"
import * as SqlClient from "@effect/sql/SqlClient"
import { assert, describe, it } from "@effect/vitest"
import { RedisSessionStore } from "effect-holdfast/redis"
import * as SessionStore from "effect-holdfast/SessionStore"
import { SqlSessionStore } from "effect-holdfast/sql"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import { Redis } from "ioredis"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll } from "vitest"
import { databases } from "../support/databases.js"
import { fleetProcess } from "../support/fleet.js"
import { form } from "../support/form.js"
import { ownMariadbIn } from "../support/ownServers.js"
import { hasSqlite, sqlLayer, storeLayer, type StoreSettings } from "../support/stores.js"
import { mariadbServer } from "../support/tools.js"
import { row, sharedContract } from "./storeContract.js"

let places = 0
const place = () => `holdfast_test_${process.pid}_${Date.now()}_${places++}`

const root = mkdtempSync(join(tmpdir(), "holdfast-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

describe.skipIf(form === "quick")("F2, F5: a store in a database", async () => {
  const { mysql, postgres, redis } = form === "quick"
    ? { mysql: undefined, postgres: undefined, redis: undefined }
    : await databases()
  const sqlite = form !== "quick" && await hasSqlite()
  const opened = (settings: StoreSettings) =>
    Effect.map(Layer.build(storeLayer(settings)), Context.get(SessionStore.SessionStore))

  describe.skipIf(postgres === undefined)("PostgreSQL", () => {
    sharedContract(() => ({ kind: "postgres", url: postgres!, table: place() }), { hasNotices: true })

    it.scopedLive("can use a table that exists, if it may not make tables", () =>
      Effect.gen(function*() {
        const table = place()
        const user = place()
        const owned = yield* opened({ kind: "postgres", url: postgres!, table })
        const sql = Context.get(
          yield* Layer.build(sqlLayer({ kind: "postgres", url: postgres!, table })),
          SqlClient.SqlClient
        )
        yield* sql`CREATE ROLE ${sql(user)} LOGIN PASSWORD 'secret'`
        yield* Effect.addFinalizer(() =>
          Effect.ignore(sql`DROP OWNED BY ${sql(user)}`.pipe(Effect.zipRight(sql`DROP ROLE ${sql(user)}`)))
        )
        yield* sql`GRANT SELECT, INSERT, UPDATE ON ${sql(table)} TO ${sql(user)}`
        const url = new URL(postgres!)
        url.username = user
        url.password = "secret"
        const { compareAndSet } = yield* opened({ kind: "postgres", url: url.href, table })
        assert.isTrue(yield* compareAndSet("k", undefined, row))
        assert.isTrue(Option.isSome((yield* owned.read("k")).row))
        const error = yield* Effect.flip(opened({ kind: "postgres", url: url.href, table: place() }))
        assert.deepInclude(error, { _tag: "StoreError", operation: "open" })
        assert.include(String((error as SessionStore.StoreError).cause), "42501")
      }))

    it.scopedLive("fails for a table without a unique `id`, and for one with other columns", () =>
      Effect.gen(function*() {
        const table = place()
        const sql = Context.get(
          yield* Layer.build(sqlLayer({ kind: "postgres", url: postgres!, table })),
          SqlClient.SqlClient
        )
        yield* sql`CREATE TABLE ${sql(table)} (id TEXT, revision BIGINT, content TEXT)`
        const { compareAndSet } = yield* opened({ kind: "postgres", url: postgres!, table })
        assert.strictEqual((yield* Effect.flip(compareAndSet("k", undefined, row)))._tag, "StoreError")
        const other = place()
        yield* sql`CREATE TABLE ${sql(other)} (key TEXT)`
        assert.deepInclude(yield* Effect.flip(opened({ kind: "postgres", url: postgres!, table: other })), {
          _tag: "StoreError",
          operation: "open"
        })
      }))

    it.scopedLive("refuses a key that is too long, before anything is asked of a server", () =>
      Effect.gen(function*() {
        const { compareAndSet, read } = yield* opened({ kind: "postgres", url: postgres!, table: place() })
        for (const call of [read("k".repeat(2049)), compareAndSet("k".repeat(2049), undefined, row)]) {
          assert.include(yield* Effect.flip(call as Effect.Effect<unknown, SessionStore.StoreError>), {
            _tag: "StoreError",
            cause: "the key has more than 2048 bytes"
          })
        }
      }))

    it.scopedLive("lets one of many writers win, and fails for none, if transactions are serializable by default", () =>
      Effect.gen(function*() {
        const url = new URL(postgres!)
        url.searchParams.set("options", "-c default_transaction_isolation=serializable")
        const { compareAndSet } = yield* opened({ kind: "postgres", url: url.href, table: place() })
        yield* compareAndSet("many", undefined, row)
        for (let { revision } = row; revision < row.revision + 20; revision++) {
          const next = { ...row, revision: revision + 1 }
          const won = yield* Effect.replicateEffect(compareAndSet("many", revision, next), 10, { concurrency: 10 })
          assert.strictEqual(won.filter((isWon) => isWon).length, 1)
        }
      }))
  })

  describe.skipIf(mysql === undefined)("MariaDB", () => {
    sharedContract(() => ({ kind: "mysql", url: mysql!, table: place() }), { hasNotices: false })

    it.scopedLive("tells keys apart that differ only in spaces at their ends, and refuses a key that is too long", () =>
      Effect.gen(function*() {
        const { compareAndSet, read } = yield* opened({ kind: "mysql", url: mysql!, table: place() })
        assert.isTrue(yield* compareAndSet("k", undefined, row))
        assert.isTrue(yield* compareAndSet("k ", undefined, row))
        const longest = "ä".repeat(1024)
        assert.isTrue(yield* compareAndSet(longest, undefined, row))
        assert.isTrue(Option.isSome((yield* read(longest)).row))
        const error = yield* Effect.flip(compareAndSet(`${longest}k`, undefined, row))
        assert.include(error, { _tag: "StoreError", cause: "the key has more than 2048 bytes" })
      }))

    it.scopedLive("uses a table that exists only if its `id` is unique by itself and as a whole", () =>
      Effect.gen(function*() {
        const context = yield* Layer.build(sqlLayer({ kind: "mysql", url: mysql!, table: place() }))
        const sql = Context.get(context, SqlClient.SqlClient)
        const openedWith = (keys: string) => {
          const table = place()
          const columns = `id VARBINARY(2048) NOT NULL, revision BIGINT NOT NULL, content LONGTEXT NOT NULL`
          const made = sql`CREATE TABLE ${sql(table)} (${sql.literal(`${columns}${keys}`)})`
          return Effect.zipRight(made, opened({ kind: "mysql", url: mysql!, table }))
        }
        for (const keys of ["", ", UNIQUE (id, revision)", ", UNIQUE (id(8))", ", UNIQUE (revision)", ", INDEX (id)"]) {
          assert.include(yield* Effect.flip(openedWith(keys)), {
            _tag: "StoreError",
            operation: "open",
            cause: "the table has no unique key of `id` alone"
          }, keys)
        }
        for (const keys of [", PRIMARY KEY (id)", ", UNIQUE (id)"]) {
          const { compareAndSet } = yield* openedWith(keys)
          assert.isTrue(yield* compareAndSet("k", undefined, row))
          assert.isFalse(yield* compareAndSet("k", undefined, row))
        }
      }))
  })

  describe.skipIf(mariadbServer === undefined)("MariaDB in a time zone with summer time", () => {
    it.scopedLive("F2: has a clock that does not jump when summer time begins or ends", () =>
      Effect.gen(function*() {
        const { settings } = yield* ownMariadbIn("CET-1CEST,M3.5.0,M10.5.0/3")
        const { url } = settings as { readonly url: string }
        // The store's connection is the only one, and its time can be set.
        const client = yield* Layer.build(MysqlClient.layer({ url: Redacted.make(url), maxConnections: 1 }))
        const sql = Context.get(client, SqlClient.SqlClient)
        const { read } = yield* Effect.map(
          Layer.build(Layer.provide(SqlSessionStore.layer(), Layer.succeedContext(client))),
          Context.get(SessionStore.SessionStore)
        )
        const quarter = 900
        for (const changes of ["2026-03-29T01:00:00Z", "2026-10-25T01:00:00Z"]) {
          for (let step = -8; step <= 8; step++) {
            const time = Date.parse(changes) / 1000 + step * quarter + 0.5
            yield* sql`SET timestamp = ${time}`
            assert.strictEqual((yield* read("nobody's")).now, time * 1000)
          }
        }
      }))
  })

  describe.skipIf(!sqlite)("SQLite", () => {
    const file = (): StoreSettings => ({ kind: "sqlite", filename: join(root, `${place()}.db`) })
    sharedContract(file, { hasNotices: false })

    it.live("waits for a locked file without stopping the event loop", () =>
      Effect.scoped(Effect.gen(function*() {
        const store = file()
        const { compareAndSet, read } = yield* Effect.map(
          Layer.build(storeLayer(store)),
          Context.get(SessionStore.SessionStore)
        )
        yield* compareAndSet("k", undefined, row)
        const locker = yield* fleetProcess({ store, key: "k" })
        yield* locker.ask("lock")
        const next = { ...row, revision: row.revision + 1 }
        const writing = yield* Effect.fork(compareAndSet("k", row.revision, next))
        // SQLite itself would wait for five seconds, during which no timer could fire.
        let longest = 0
        for (let turn = 0; turn < 25; turn++) {
          const since = performance.now()
          yield* Effect.sleep("20 millis")
          longest = Math.max(longest, performance.now() - since)
        }
        assert.isBelow(longest, 4000)
        assert.strictEqual(writing.unsafePoll(), null)
        // Readers do not wait for the lock.
        assert.deepStrictEqual(Option.getOrThrow((yield* read("k")).row), row)
        yield* locker.ask("unlock")
        assert.isTrue(yield* Fiber.join(writing))
      })))
  })
  describe.skipIf(redis === undefined)(
    "Redis",
    () => {
      sharedContract(() => ({ kind: "redis", url: redis!, prefix: `${place()}:` }), { hasNotices: true })

      it.scopedLive("knows a write of its own if the client gives numbers as text", () =>
        Effect.gen(function*() {
          const connect = () => new Redis(redis!, { stringNumbers: true, lazyConnect: true })
          const layer = RedisSessionStore.layer({ connect, prefix: `${place()}:` })
          const { compareAndSet } = Context.get(yield* Layer.build(layer), SessionStore.SessionStore)
          assert.isTrue(yield* compareAndSet("k", undefined, row))
          assert.isFalse(yield* compareAndSet("k", undefined, row))
        }))
    }
  )
})
