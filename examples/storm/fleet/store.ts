/**
 * The store that the members of the fleet share: a directory, or the database that the environment names. In a database
 * the storm has its own table or keys, and removes them at its end.
 */
import * as PgClient from "@effect/sql-pg/PgClient"
import * as SqlClient from "@effect/sql/SqlClient"
import * as FileSessionStore from "effect-holdfast/node/FileSessionStore"
import { RedisSessionStore } from "effect-holdfast/redis"
import type * as SessionStore from "effect-holdfast/SessionStore"
import { SqlSessionStore } from "effect-holdfast/sql"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import { Redis } from "ioredis"
import type { Settings } from "./place.js"

/** The name of the session in the store. */
export const key = "api"

export const layer = (settings: Settings): Layer.Layer<SessionStore.SessionStore, unknown> => {
  switch (settings.kind) {
    case "files":
      return FileSessionStore.layer(settings)
    case "PostgreSQL":
      return Layer.provide(SqlSessionStore.layer(settings), database(settings.url))
    case "Redis":
      return RedisSessionStore.layer(settings)
  }
}

/** Removes the storm's data from a database. */
export const remove = (settings: Settings): Effect.Effect<void, unknown> => {
  switch (settings.kind) {
    case "files":
      return Effect.void
    case "PostgreSQL":
      return Effect.asVoid(
        Effect.flatMap(SqlClient.SqlClient, (sql) => sql`DROP TABLE IF EXISTS ${sql(settings.table)}`)
      )
        .pipe(Effect.provide(database(settings.url)))
    case "Redis":
      return Effect.promise(async () => {
        const redis = new Redis(settings.url)
        await redis.del(settings.prefix + key)
        redis.disconnect()
      })
  }
}

const database = (url: string) => PgClient.layer({ url: Redacted.make(url) })
