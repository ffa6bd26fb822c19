import type { PlatformError } from "@effect/platform/Error"
import * as KeyValueStore from "@effect/platform/KeyValueStore"
import { assert, describe, it } from "@effect/vitest"
import { NodeKeyValueStore } from "effect-holdfast/node"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { amount } from "./support/form.js"
import { bundled } from "./support/programs.js"

const directory = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "holdfast-"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
)

const storeIn = (path: string) =>
  Effect.provide(Effect.map(KeyValueStore.KeyValueStore, (store) => store), NodeKeyValueStore.layerFileSystem(path))

describe("a store in a directory", () => {
  it.scoped("keeps text and bytes, and removes them", () =>
    Effect.gen(function*() {
      const store = yield* storeIn(yield* directory)
      assert.isTrue(Option.isNone(yield* store.get("token")))
      yield* store.set("token", "geheim ☃")
      assert.strictEqual(Option.getOrNull(yield* store.get("token")), "geheim ☃")
      yield* store.set("bytes", Uint8Array.of(0, 255, 128))
      assert.deepStrictEqual(Option.getOrNull(yield* store.getUint8Array("bytes")), Uint8Array.of(0, 255, 128))
      assert.strictEqual(yield* store.size, 2)
      yield* store.remove("token")
      yield* store.remove("token")
      assert.isTrue(Option.isNone(yield* store.get("token")))
      yield* store.clear
      assert.strictEqual(yield* store.size, 0)
    }))

  it.scoped("separates keys that differ in any way, and no key leaves the directory", () =>
    Effect.gen(function*() {
      const path = yield* directory
      const store = yield* storeIn(join(path, "inner"))
      const keys = ["a", "A", "%41", "..", ".", "", "../outside", "a/b", "a\\b", "\0", "ä", "x".repeat(300)]
      keys.push("x".repeat(301), "con", "a.", "a ", "🔑".repeat(80), "\ud800", "\udc00", "\ufffd", "\\ud800", "\"")
      for (const key of keys) yield* store.set(key, JSON.stringify(key))
      for (const key of keys) assert.strictEqual(Option.getOrNull(yield* store.get(key)), JSON.stringify(key))
      assert.strictEqual(yield* store.size, keys.length)
      assert.deepStrictEqual(readdirSync(path), ["inner"])
      const files = readdirSync(join(path, "inner"))
      assert.strictEqual(new Set(files.map((file) => file.toLowerCase())).size, keys.length)
      for (const file of files) assert.match(file, /^[a-z0-9_.~%-]{1,255}$/)
    }))

  it.scoped.skipIf(process.platform === "win32")(
    "is readable only by its owner, also files from before",
    () =>
      Effect.gen(function*() {
        const path = join(yield* directory, "made")
        const store = yield* storeIn(path)
        assert.strictEqual(statSync(path).mode & 0o777, 0o700)
        yield* store.set("token", "one")
        const file = join(path, readdirSync(path)[0]!)
        assert.strictEqual(statSync(file).mode & 0o777, 0o600)
        chmodSync(file, 0o644)
        yield* store.set("token", "two")
        assert.strictEqual(statSync(file).mode & 0o777, 0o600)
      })
  )

  it.scoped("reports the system's refusals by a typed error, without the value", () =>
    Effect.gen(function*() {
      const path = join(yield* directory, "store")
      const store = yield* storeIn(path)
      rmSync(path, { recursive: true })
      writeFileSync(path, "a file stands where the directory was")
      for (const failing of [store.get("token"), store.set("token", "canary"), store.remove("token"), store.size]) {
        const error = yield* Effect.flip(failing as Effect.Effect<unknown, { readonly _tag: string }>)
        assert.strictEqual(error._tag, "SystemError")
        assert.notInclude(String(error), "canary")
      }
      assert.strictEqual((yield* Effect.flip(storeIn(path)))._tag, "SystemError")
    }))

  it.effect("refuses a directory that is not a name", () =>
    Effect.gen(function*() {
      for (const directory of [null, undefined, 5, ""]) {
        const error = yield* Effect.flip(storeIn(directory as never))
        assert.deepInclude(error, { _tag: "InvalidOptions", option: "directory", value: directory })
      }
    }))

  it.scoped("removes unfinished files of dead processes, and keeps those that may still be written", () =>
    Effect.gen(function*() {
      const path = yield* directory
      const unfinished = `0123456789abcdef01.tmp`
      writeFileSync(join(path, `old.value.${unfinished}`), "half")
      utimesSync(join(path, `old.value.${unfinished}`), 1, 1)
      writeFileSync(join(path, `new.value.${unfinished}`), "half")
      const store = yield* storeIn(path)
      assert.deepStrictEqual(readdirSync(path), [`new.value.${unfinished}`])
      assert.strictEqual(yield* store.size, 0)
    }))

  it.scoped("leaves files and directories of others alone, whatever their names", () =>
    Effect.gen(function*() {
      const path = yield* directory
      writeFileSync(join(path, "report-draft.tmp"), "a file of others")
      mkdirSync(join(path, `cache.0123456789abcdef01.tmp`))
      for (const name of readdirSync(path)) utimesSync(join(path, name), 1, 1)
      const store = yield* storeIn(path)
      assert.strictEqual(yield* store.size, 0)
      assert.lengthOf(readdirSync(path), 2)
    }))

  it.scoped("refuses a key that is no text, and a value that is neither text nor bytes, and shows neither", () =>
    Effect.gen(function*() {
      const store = yield* storeIn(yield* directory)
      const refused: ReadonlyArray<[Effect.Effect<unknown, PlatformError>, string]> = [
        [store.set(123 as never, "a"), "key"],
        [store.get(123 as never), "key"],
        [store.remove(undefined as never), "key"],
        [store.set("a", ["canary"] as never), "value"],
        [store.set("a", undefined as never), "value"]
      ]
      for (const [effect, argument] of refused) {
        const error = yield* Effect.flip(effect)
        assert.strictEqual(error._tag, "BadArgument")
        assert.include(error.message, argument)
        assert.notInclude(error.message, "canary")
      }
      assert.strictEqual(yield* store.size, 0)
    }))

  it("holds the old value or the new one, never half, whenever the writer is killed", async () => {
    const path = mkdtempSync(join(tmpdir(), "holdfast-"))
    const program = await bundled(new URL("./support/keyValueWriter.ts", import.meta.url))
    const seen = new Set<string>()
    try {
      for (let kills = 0; kills < amount({ quick: 8, full: 100 }); kills++) {
        const writer = spawn(process.execPath, [program, path, "token"], { stdio: ["ignore", "pipe", "inherit"] })
        await once(writer.stdout, "data")
        await new Promise((resolve) => setTimeout(resolve, Math.random() * 20))
        writer.kill("SIGKILL")
        await once(writer, "exit")
        const found = await Effect.runPromise(Effect.flatMap(storeIn(path), (store) => store.get("token")))
        const value = Option.getOrThrow(found)
        assert.strictEqual(value.length, 300_000)
        assert.strictEqual(value, value[0]!.repeat(300_000))
        seen.add(value[0]!)
      }
      assert.isAbove(seen.size, 1)
    } finally {
      rmSync(path, { recursive: true, force: true })
    }
  })
})
