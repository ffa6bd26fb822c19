import { assert, describe, it } from "@effect/vitest"
import * as SessionStore from "effect-holdfast/SessionStore"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll } from "vitest"
import { databases } from "../support/databases.js"
import { fleetProcess } from "../support/fleet.js"
import { form } from "../support/form.js"
import { hasSqlite, storeLayer, type StoreSettings } from "../support/stores.js"
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
  describe.skipIf(postgres === undefined)(
    "PostgreSQL",
    () => sharedContract(() => ({ kind: "postgres", url: postgres!, table: place() }), { hasNotices: true })
  )
  describe.skipIf(mysql === undefined)(
    "MariaDB",
    () => sharedContract(() => ({ kind: "mysql", url: mysql!, table: place() }), { hasNotices: false })
  )
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
        // SQLite itself would wait for five seconds, and let no timer strike.
        let longest = 0
        for (let turn = 0; turn < 25; turn++) {
          const since = performance.now()
          yield* Effect.sleep("20 millis")
          longest = Math.max(longest, performance.now() - since)
        }
        assert.isBelow(longest, 4000)
        assert.strictEqual(writing.unsafePoll(), null)
        // Readers wait for nobody.
        assert.deepStrictEqual(Option.getOrThrow((yield* read("k")).row), row)
        yield* locker.ask("unlock")
        assert.isTrue(yield* Fiber.join(writing))
      })))
  })
  describe.skipIf(redis === undefined)(
    "Redis",
    () => sharedContract(() => ({ kind: "redis", url: redis!, prefix: `${place()}:` }), { hasNotices: true })
  )
})
