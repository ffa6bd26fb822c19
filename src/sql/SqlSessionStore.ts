/**
 * A `SessionStore` in a table of PostgreSQL, MySQL, MariaDB or SQLite, through the `SqlClient` of `@effect/sql`.
 *
 * **What it guarantees.** A write is one statement outside the caller's transaction, and no lock is held between two
 * statements. The store uses the database's clock. PostgreSQL notifies other processes of a change (`NOTIFY`). With the
 * other databases, a process that waits reads the row again and again, and an idle process learns of a renewal when it
 * next needs the session.
 *
 * **What it does not.** The store does not work on a replica, which lags behind: the client must be connected to the
 * primary.
 *
 * **SQLite** is for the processes of one host, and needs a client that only the store uses, in WAL mode: the store
 * turns off the connection's waiting for locks (`busy_timeout`), which would block the whole process, and retries by
 * itself. The clock is the host's.
 *
 * @since 0.1.0
 */

import * as SqlClient from "@effect/sql/SqlClient"
import * as SqlError from "@effect/sql/SqlError"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import * as Check from "../internal/check.js"
import { InvalidOptions } from "../InvalidOptions.js"
import * as SessionStore from "../SessionStore.js"

/**
 * Where the rows are kept.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /**
   * The table's name: letters, digits and underscores. The table is made if it does not exist. One that exists needs
   * the columns `id`, `revision` and `content`, and a unique key of `id` alone. Default: `holdfast_sessions`.
   */
  readonly table?: string | undefined
  /**
   * How many of the client's connections the sessions of this process use at a time; further calls wait for their turn.
   * Give no more than the client's pool has. Default: 10, the default size of the pools of PostgreSQL's and MySQL's
   * clients.
   */
  readonly connections?: number | undefined
}

/**
 * A store in a table of the `SqlClient`'s database.
 *
 * @example
 * ```ts
 * import { SqlSessionStore } from "effect-holdfast/sql"
 * import type * as SqlClient from "@effect/sql/SqlClient"
 * import * as Layer from "effect/Layer"
 *
 * declare const database: Layer.Layer<SqlClient.SqlClient>
 *
 * const store = SqlSessionStore.layer({ table: "sessions" }).pipe(Layer.provide(database))
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (
  options: Options = {}
): Layer.Layer<SessionStore.SessionStore, InvalidOptions | SessionStore.StoreError, SqlClient.SqlClient> =>
  Layer.scoped(
    SessionStore.SessionStore,
    Effect.gen(function*() {
      const { concurrency, table } = yield* Check.validated(() => validate(options))
      const sql = yield* SqlClient.SqlClient
      const { begin, create, hasUniqueId, insert, isWritten, now, update } = dialectOf(sql, table)
      const name = sql(table)
      // A table that exists will do, even if the application may not make tables.
      const looked = Effect.either(sql`SELECT id, revision, content FROM ${name} WHERE 1 = 0`)
      const found = Effect.flatMap(
        Effect.either(Effect.zipRight(begin, create)),
        (made) =>
          Effect.flatMap(looked, (looked) => Either.isRight(looked) ? looked : Either.flatMap(made, () => looked))
      )
      // If several processes make the table at the same time, some of their statements fail.
      yield* attempt(
        "open",
        Effect.retry(
          found,
          Schedule.jittered(Schedule.spaced("50 millis")).pipe(Schedule.intersect(Schedule.recurs(20)))
        )
      )
      if (!(yield* attempt("open", hasUniqueId))) yield* attempt("open", notUnique)
      return SessionStore.SessionStore.of({
        read: (key) =>
          attempt(
            "read",
            isTooLong(key) ? tooLong : sql<{ revision: unknown; content: string | null; now: unknown }>`
              SELECT t.revision AS revision, t.content AS content, ${now} AS now
              FROM (SELECT 1 AS one) AS o LEFT JOIN ${name} AS t ON t.id = ${key}`
          ).pipe(
            Effect.map(([found]) => ({
              row: typeof found!.content === "string"
                ? Option.some(SessionStore.decode(Number(found!.revision), found!.content))
                : Option.none(),
              now: Number(found!.now)
            }))
          ),
        compareAndSet: (key, revision, row) => {
          const content = SessionStore.encode(row)
          const isNews = SessionStore.isNews(row)
          const statement = isTooLong(key)
            ? tooLong
            : revision === undefined
            ? insert(key, row.revision, content, isNews)
            : update(key, revision, row.revision, content, isNews)
          return Effect.map(attempt("compareAndSet", statement), isWritten)
        },
        notices: yield* Stream.share(noticesOf(sql, table), { capacity: 256, strategy: "sliding" }),
        concurrency
      })
    })
  )

const validate = (options: Options) => {
  const { connections = 10, table = "holdfast_sessions" } = Check.object("options", options)
  if (typeof table !== "string" || !/^[A-Za-z_][A-Za-z0-9_]{0,62}$/.test(table)) {
    throw new InvalidOptions({
      option: "table",
      value: table,
      reason: "must be at most 63 letters, digits and underscores, and must not begin with a digit"
    })
  }
  return { table, concurrency: Check.count("connections", connections, 1) }
}

/** Runs a statement outside any transaction of the caller. */
const attempt = <A>(
  operation: SessionStore.StoreError["operation"],
  statement: Effect.Effect<A, SqlError.SqlError>
): Effect.Effect<A, SessionStore.StoreError> =>
  statement.pipe(
    Effect.retry({ while: isLocked, schedule: untilUnlocked }),
    Effect.mapInputContext((context: Context.Context<never>) =>
      Context.omit(SqlClient.TransactionConnection)(context as never) as Context.Context<never>
    ),
    // The error's own cause may hold the statement's values, which are secrets. Its code is none.
    Effect.mapError((error) => {
      const code = codeOf(error)
      const cause = code === undefined ? error.message : `${error.message} (${code})`
      return new SessionStore.StoreError({ operation, store: "the database", cause })
    })
  )

/**
 * SQLite locks its file against a statement for as long as another process writes. The other databases refuse a
 * statement because of a simultaneous one if transactions are serializable by default (40001), and to end a deadlock.
 */
const isLocked = (error: SqlError.SqlError): boolean =>
  /^(SQLITE_(BUSY|LOCKED)|40001|40P01|ER_LOCK_DEADLOCK|ER_CHECKREAD)/.test(codeOf(error) ?? "")

const codeOf = ({ cause }: SqlError.SqlError): string | undefined =>
  Predicate.hasProperty(cause, "code") && typeof cause.code === "string" ? cause.code : undefined

/** Retries for somewhat longer than a shared session waits for an answer. */
const untilUnlocked = Schedule.jittered(Schedule.spaced("10 millis")).pipe(
  Schedule.intersect(Schedule.recurs(300)),
  Schedule.map(() => undefined)
)

const dialectOf = (sql: SqlClient.SqlClient, table: string) => {
  const name = sql(table)
  const returning = {
    begin: Effect.void as Effect.Effect<unknown>,
    // `ON CONFLICT (id)` itself fails without a unique `id`.
    hasUniqueId: Effect.succeed(true) as Effect.Effect<boolean, SqlError.SqlError>,
    isWritten: (rows: unknown): boolean => (rows as ReadonlyArray<unknown>).length > 0,
    create:
      sql`CREATE TABLE IF NOT EXISTS ${name} (id TEXT PRIMARY KEY, revision BIGINT NOT NULL, content TEXT NOT NULL)`
  }
  return sql.onDialectOrElse({
    pg: () => ({
      ...returning,
      now: sql.literal("(extract(epoch FROM clock_timestamp()) * 1000)::bigint"),
      insert: (key: string, revision: number, content: string, isNews: boolean): Statement =>
        sql`WITH written AS (INSERT INTO ${name} (id, revision, content) VALUES (${key}, ${revision}, ${content})
              ON CONFLICT (id) DO NOTHING RETURNING id)
            SELECT CASE WHEN ${isNews} THEN pg_notify(${table}, id) END FROM written`,
      update: (key: string, before: number, revision: number, content: string, isNews: boolean): Statement =>
        sql`WITH written AS (UPDATE ${name} SET revision = ${revision}, content = ${content}
              WHERE id = ${key} AND revision = ${before} RETURNING id)
            SELECT CASE WHEN ${isNews} THEN pg_notify(${table}, id) END FROM written`
    }),
    mysql: () => ({
      begin: Effect.void as Effect.Effect<unknown>,
      create: sql`CREATE TABLE IF NOT EXISTS ${name} (
        id VARBINARY(${sql.literal(String(longestId))}) PRIMARY KEY,
        revision BIGINT NOT NULL, content LONGTEXT CHARACTER SET utf8mb4 NOT NULL)`,
      // `INSERT IGNORE` lets every writer win without a unique `id`.
      hasUniqueId: Effect.map(
        sql`SELECT 1 AS found FROM information_schema.statistics
            WHERE table_schema = DATABASE() AND table_name = ${table} AND non_unique = 0
            GROUP BY index_name
            HAVING COUNT(*) = 1 AND MAX(column_name) = 'id' AND MAX(sub_part) IS NULL`,
        (keys) => keys.length > 0
      ),
      isWritten: (result: unknown): boolean => (result as { readonly affectedRows: number }).affectedRows > 0,
      // In a time zone with summer time, `NOW()` shows one hour of the year twice.
      now: sql.literal("TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000"),
      insert: (key: string, revision: number, content: string): Statement =>
        sql`INSERT IGNORE INTO ${name} (id, revision, content) VALUES (${key}, ${revision}, ${content})`.raw,
      update: (key: string, before: number, revision: number, content: string): Statement =>
        sql`UPDATE ${name} SET revision = ${revision}, content = ${content}
            WHERE id = ${key} AND revision = ${before}`.raw
    }),
    orElse: () => ({
      ...returning,
      begin: Effect.ignore(sql`PRAGMA busy_timeout = 0`),
      now: sql.literal("CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"),
      insert: (key: string, revision: number, content: string): Statement =>
        sql`INSERT INTO ${name} (id, revision, content) VALUES (${key}, ${revision}, ${content})
            ON CONFLICT (id) DO NOTHING RETURNING id`,
      update: (key: string, before: number, revision: number, content: string): Statement =>
        sql`UPDATE ${name} SET revision = ${revision}, content = ${content}
            WHERE id = ${key} AND revision = ${before} RETURNING id`
    })
  })
}

/**
 * In bytes: a key of MySQL's indexes has no more than 3072 (and `IGNORE` would cut a longer one short), one of
 * PostgreSQL's no more than 2704.
 */
const longestId = 2048

const isTooLong = (key: string): boolean => new TextEncoder().encode(key).length > longestId

const tooLong = new SqlError.SqlError({ cause: undefined, message: `the key has more than ${longestId} bytes` })

const notUnique = new SqlError.SqlError({ cause: undefined, message: "the table has no unique key of `id` alone" })

type Statement = Effect.Effect<unknown, SqlError.SqlError>

/**
 * Notices come from PostgreSQL's `LISTEN` only. The client does not report that the server has restarted, so the
 * subscription is renewed from time to time.
 */
const noticesOf = (sql: SqlClient.SqlClient, table: string): Stream.Stream<string> => {
  if (!("listen" in sql)) return Stream.never
  const { listen } = sql as { readonly listen: (channel: string) => Stream.Stream<string, SqlError.SqlError> }
  return Stream.suspend(() => listen(table)).pipe(
    Stream.interruptAfter("1 minute"),
    Stream.repeat(Schedule.forever),
    Stream.retry(Schedule.spaced("1 second")),
    Stream.orDie
  )
}
