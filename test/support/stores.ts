/** The stores that a fleet of processes can share, by settings that can be handed to a process. */
import * as MysqlClient from "@effect/sql-mysql2/MysqlClient"
import * as PgClient from "@effect/sql-pg/PgClient"
import type * as SqlClient from "@effect/sql/SqlClient"
import * as FileSessionStore from "effect-holdfast/node/FileSessionStore"
import { RedisSessionStore } from "effect-holdfast/redis"
import type * as SessionStore from "effect-holdfast/SessionStore"
import { SqlSessionStore } from "effect-holdfast/sql"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"

export type StoreSettings =
  | { readonly kind: "file"; readonly directory: string }
  | { readonly kind: "sqlite"; readonly filename: string }
  | { readonly kind: "postgres" | "mysql"; readonly url: string; readonly table: string }
  | { readonly kind: "redis"; readonly url: string; readonly prefix: string }

export const storeLayer = (settings: StoreSettings): Layer.Layer<SessionStore.SessionStore, unknown> => {
  switch (settings.kind) {
    case "file":
      return FileSessionStore.layer(settings)
    case "redis":
      return RedisSessionStore.layer(settings)
    default:
      return Layer.provide(
        SqlSessionStore.layer("table" in settings ? { table: settings.table } : {}),
        sqlLayer(settings)
      )
  }
}

/** The database itself, to change the table without the store. */
export const sqlLayer = (
  settings: Exclude<StoreSettings, { readonly kind: "file" | "redis" }>
): Layer.Layer<SqlClient.SqlClient, unknown> => {
  switch (settings.kind) {
    case "sqlite":
      return sqliteLayer(settings)
    case "postgres":
      return PgClient.layer({ url: Redacted.make(settings.url) })
    case "mysql":
      return MysqlClient.layer({ url: Redacted.make(settings.url) })
  }
}

/** SQLite's client compiles a part of itself if no compiled part can be downloaded, so it may be missing. */
interface SqliteModule {
  readonly layer: (config: { readonly filename: string }) => Layer.Layer<SqlClient.SqlClient>
}

// A name that the compiler does not resolve.
const sqliteModule = async (): Promise<SqliteModule> => {
  const name = "@effect/sql-sqlite-node/SqliteClient"
  return await import(/* @vite-ignore */ name) as SqliteModule
}

const sqliteLayer = (config: { readonly filename: string }): Layer.Layer<SqlClient.SqlClient> =>
  Layer.unwrapEffect(Effect.map(Effect.promise(sqliteModule), ({ layer }) => layer(config)))

const lookForSqlite = async (): Promise<boolean> => {
  try {
    const { layer } = await sqliteModule()
    await Effect.runPromise(Effect.scoped(Layer.build(layer({ filename: ":memory:" }))))
    return true
  } catch {
    process.stdout.write(
      " skipped, SQLite's client is missing: npm install --no-save @effect/sql-sqlite-node@0.53.0 better-sqlite3@12\n"
    )
    return false
  }
}

let looked: Promise<boolean> | undefined

/** Whether SQLite's client works here. A line says how to install it if not. */
export const hasSqlite = (): Promise<boolean> => looked ??= lookForSqlite()
