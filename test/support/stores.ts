/** The stores that a fleet of processes can share, by settings that can be handed to a process. */
import * as MysqlClient from "@effect/sql-mysql2/MysqlClient"
import * as PgClient from "@effect/sql-pg/PgClient"
import * as FileSessionStore from "effect-holdfast/node/FileSessionStore"
import { RedisSessionStore } from "effect-holdfast/redis"
import type * as SessionStore from "effect-holdfast/SessionStore"
import { SqlSessionStore } from "effect-holdfast/sql"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"

export type StoreSettings =
  | { readonly kind: "file"; readonly directory: string }
  | { readonly kind: "postgres" | "mysql"; readonly url: string; readonly table: string }
  | { readonly kind: "redis"; readonly url: string; readonly prefix: string }

export const storeLayer = (settings: StoreSettings): Layer.Layer<SessionStore.SessionStore, unknown> => {
  switch (settings.kind) {
    case "file":
      return FileSessionStore.layer(settings)
    case "postgres":
      return Layer.provide(SqlSessionStore.layer(settings), PgClient.layer({ url: Redacted.make(settings.url) }))
    case "mysql":
      return Layer.provide(SqlSessionStore.layer(settings), MysqlClient.layer({ url: Redacted.make(settings.url) }))
    case "redis":
      return RedisSessionStore.layer(settings)
  }
}
