/** The place of the fleet's shared session. The storm chooses it, and each member opens it. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { randomBytes } from "node:crypto"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

export type Settings =
  | { readonly kind: "files"; readonly directory: string }
  | { readonly kind: "PostgreSQL"; readonly url: string; readonly table: string }
  | { readonly kind: "Redis"; readonly url: string; readonly prefix: string }

/** The database that the environment names, or else a directory that is removed with the scope. */
export const make: Effect.Effect<Settings, never, Scope.Scope> = Effect.suspend(() => {
  const { DATABASE_URL: postgres, REDIS_URL: redis } = process.env
  const name = `holdfast_storm_${randomBytes(8).toString("hex")}`
  if (postgres) return Effect.succeed<Settings>({ kind: "PostgreSQL", url: postgres, table: name })
  if (redis) return Effect.succeed<Settings>({ kind: "Redis", url: redis, prefix: `${name}:` })
  return Effect.acquireRelease(
    Effect.sync((): Settings => ({ kind: "files", directory: mkdtempSync(join(tmpdir(), "storm-")) })),
    (settings) => Effect.sync(() => "directory" in settings && rmSync(settings.directory, { recursive: true }))
  )
})
