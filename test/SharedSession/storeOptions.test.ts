import * as SqlClient from "@effect/sql/SqlClient"
import { assert, describe, it } from "@effect/vitest"
import { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as FileSessionStore from "effect-holdfast/node/FileSessionStore"
import { RedisSessionStore } from "effect-holdfast/redis"
import * as SessionStore from "effect-holdfast/SessionStore"
import { SqlSessionStore } from "effect-holdfast/sql"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"

/** Is not asked: options are checked first. */
const client = Layer.succeed(SqlClient.SqlClient, undefined as never)

// A caller without types may give anything.
const stores = {
  SqlSessionStore: (options: any) => Layer.provide(SqlSessionStore.layer(options), client),
  RedisSessionStore: (options: any) => RedisSessionStore.layer(options),
  FileSessionStore: (options: any) => FileSessionStore.layer(options)
}

const failureOf = (layer: Layer.Layer<SessionStore.SessionStore, InvalidOptions | SessionStore.StoreError>) =>
  Effect.flip(Effect.scoped(Layer.build(layer)))

const url = "redis://127.0.0.1:6379"

describe("a store's options that make no sense", () => {
  it.each<[keyof typeof stores, option: string, value: unknown, options: unknown]>([
    ["SqlSessionStore", "connections", 0, { connections: 0 }],
    ["SqlSessionStore", "connections", -1, { connections: -1 }],
    ["SqlSessionStore", "connections", 1.5, { connections: 1.5 }],
    ["SqlSessionStore", "connections", NaN, { connections: NaN }],
    ["SqlSessionStore", "connections", "10", { connections: "10" }],
    ["SqlSessionStore", "connections", null, { connections: null }],
    ["SqlSessionStore", "table", "", { table: "" }],
    ["SqlSessionStore", "table", "a b", { table: "a b" }],
    ["SqlSessionStore", "table", "1st", { table: "1st" }],
    ["SqlSessionStore", "table", "t".repeat(64), { table: "t".repeat(64) }],
    ["SqlSessionStore", "table", 7, { table: 7 }],
    ["SqlSessionStore", "options", null, null],
    ["RedisSessionStore", "replicas", -1, { url, replicas: -1 }],
    ["RedisSessionStore", "replicas", 0.5, { url, replicas: 0.5 }],
    ["RedisSessionStore", "replicas", "1", { url, replicas: "1" }],
    ["RedisSessionStore", "prefix", 7, { url, prefix: 7 }],
    ["RedisSessionStore", "url", "<redacted>", { url: "http://user:secret@host" }],
    ["RedisSessionStore", "url", "<redacted>", { url: Redacted.make("secret") }],
    ["RedisSessionStore", "url", "<redacted>", {}],
    ["RedisSessionStore", "connect", "<string>", { connect: "redis://:secret@host" }],
    ["RedisSessionStore", "connect", undefined, { connect: undefined }],
    ["RedisSessionStore", "options", "<string>", "redis://:secret@host"],
    ["FileSessionStore", "directory", "", { directory: "" }],
    ["FileSessionStore", "directory", undefined, {}],
    ["FileSessionStore", "directory", 7, { directory: 7 }],
    ["FileSessionStore", "options", "<string>", "/var/lib/sessions"]
  ])("are InvalidOptions: %s, %s: %s", (store, option, value, options) =>
    Effect.gen(function*() {
      const error = yield* failureOf(stores[store](options))
      assert.instanceOf(error, InvalidOptions)
      assert.deepInclude(error, { option, value })
      assert.include(error.message, option)
      assert.notInclude(error.message, "secret")
    }).pipe(Effect.runPromise))

  it.effect("are InvalidOptions, not a defect, also if the client of Redis cannot be made", () =>
    Effect.gen(function*() {
      const connect = () => {
        throw new Error("secret")
      }
      const error = yield* failureOf(RedisSessionStore.layer({ connect }))
      assert.instanceOf(error, SessionStore.StoreError)
      assert.deepInclude(error, { operation: "open", store: "Redis", cause: "Error" })
    }))
})
