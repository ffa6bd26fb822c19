/**
 * A `KeyValueStore` in a directory, with atomic writes, for `PersistedSession` and other code that keeps secrets.
 *
 * **What it guarantees.** A value is written to a temporary file, flushed to the disk and renamed into place: if the
 * process or the machine dies, the file has the old value or the new one, never half of one. Files have mode 0600, and
 * a directory that this module makes has mode 0700. Keys that differ in any way, case included, are different files on
 * every file system.
 *
 * **What it does not.** The store locks nothing: of two writes at the same time the later rename wins. `modify` reads
 * and then writes, so it can overwrite another process's change.
 *
 * @since 0.1.0
 */

import * as PlatformError from "@effect/platform/Error"
import * as KeyValueStore from "@effect/platform/KeyValueStore"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import { createHash, randomBytes } from "node:crypto"
import { mkdir, open, readdir, readFile, rename, rm, stat } from "node:fs/promises"
import { join } from "node:path"
import * as Check from "../internal/check.js"
import type { InvalidOptions } from "../InvalidOptions.js"

/**
 * Keeps each value in a file of the given directory, which is made if it is missing.
 *
 * @example
 * ```ts
 * import * as NodeKeyValueStore from "effect-holdfast/node/NodeKeyValueStore"
 * import * as PersistedSession from "effect-holdfast/PersistedSession"
 * import * as Effect from "effect/Effect"
 * import * as Schema from "effect/Schema"
 *
 * declare const signIn: Effect.Effect<string>
 *
 * const session = PersistedSession.make({ key: "api", schema: Schema.String, acquire: signIn }).pipe(
 *   Effect.provide(NodeKeyValueStore.layerFileSystem("/var/lib/example"))
 * )
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layerFileSystem = (
  directory: string
): Layer.Layer<KeyValueStore.KeyValueStore, PlatformError.PlatformError | InvalidOptions> =>
  Layer.effect(
    KeyValueStore.KeyValueStore,
    Effect.gen(function*() {
      yield* Check.validated(() => Check.name("directory", directory))
      yield* attempt("layerFileSystem", directory, async () => {
        await mkdir(directory, { recursive: true, mode: 0o700 })
        await removeRemains(directory)
      })
      return inDirectory(directory)
    })
  )

const inDirectory = (directory: string): KeyValueStore.KeyValueStore => {
  const read = (key: string): Effect.Effect<Option.Option<Buffer>, PlatformError.PlatformError> =>
    attempt("get", key, () => readFile(join(directory, fileOf(key)))).pipe(
      Effect.asSome,
      Effect.catchIf(isNotFound, () => Effect.succeed(Option.none<Buffer>()))
    )
  return KeyValueStore.make({
    get: (key) => Effect.map(read(key), Option.map((bytes) => bytes.toString("utf8"))),
    getUint8Array: (key) => Effect.map(read(key), Option.map((bytes) => Uint8Array.from(bytes))),
    set: (key, value) =>
      Effect.uninterruptible(attempt("set", key, () => write(directory, fileOf(key), checkedValue(value)))),
    remove: (key) =>
      Effect.uninterruptible(attempt("remove", key, async () => {
        await rm(join(directory, fileOf(key)), { force: true })
        await flush(directory)
      })),
    clear: attempt("clear", directory, async () => {
      for (const file of await valuesIn(directory)) await rm(join(directory, file), { force: true })
      await flush(directory)
    }),
    size: attempt("size", directory, async () => (await valuesIn(directory)).length)
  })
}

// -----------------------------------------------------------------------------
// files
// -----------------------------------------------------------------------------

const write = async (directory: string, file: string, value: string | Uint8Array): Promise<void> => {
  const temporary = join(directory, `${file.slice(0, longestName)}.${randomBytes(9).toString("hex")}${unfinished}`)
  try {
    const handle = await open(temporary, "wx", 0o600)
    try {
      await handle.writeFile(value)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(temporary, join(directory, file))
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
  await flush(directory)
}

/** The rename reaches the disk when the directory is flushed. Windows cannot open a directory for that. */
const flush = async (directory: string): Promise<void> => {
  if (process.platform === "win32") return
  const handle = await open(directory, "r")
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

const unfinished = ".tmp"

/** The directory may have files of others. */
const isUnfinished = /\.[0-9a-f]{18}\.tmp$/

/**
 * Removes temporary files of processes that died. A write that is still running in another process has a newer file.
 */
const removeRemains = async (directory: string): Promise<void> => {
  for (const file of await readdir(directory)) {
    if (!isUnfinished.test(file)) continue
    const path = join(directory, file)
    const found = await stat(path).catch(() => undefined)
    if (found?.isFile() && Date.now() - found.mtimeMs > 3_600_000) await rm(path, { force: true })
  }
}

const valuesIn = async (directory: string): Promise<ReadonlyArray<string>> =>
  (await readdir(directory)).filter((file) => file.endsWith(finished))

const finished = ".value"

/** File systems allow 255 bytes; a temporary file's name is longer than that of the value's file. */
const longestName = 180

/** A caller without types may give anything. The error does not show the value, which may be a secret. */
const checkedValue = (value: string | Uint8Array): string | Uint8Array => {
  if (typeof value === "string" || value instanceof Uint8Array) return value
  throw badArgument("value", value, "must be text or a Uint8Array")
}

/** A name of characters that every file system keeps as they are; `%` and `~` escape all others. */
const fileOf = (key: string): string => {
  if (typeof key !== "string") throw badArgument("key", key, "must be text")
  // UTF-8 has no form for half a surrogate pair, and JSON has one.
  const text = JSON.stringify(key).slice(1, -1)
  const name = [...Buffer.from(text, "utf8")].map((byte) => {
    const character = String.fromCharCode(byte)
    return /[a-z0-9_-]/.test(character) ? character : `%${byte.toString(16).padStart(2, "0")}`
  }).join("")
  const short = name.length <= longestName
    ? name
    : `${name.slice(0, 100)}~${createHash("sha256").update(text).digest("hex")}`
  return short + finished
}

// -----------------------------------------------------------------------------
// errors
// -----------------------------------------------------------------------------

const badArgument = (argument: string, value: unknown, reason: string) =>
  new PlatformError.BadArgument({
    module: "KeyValueStore",
    method: argument,
    description: Check.wrongKind(argument, value, reason).message
  })

const attempt = <A>(
  method: string,
  key: string,
  run: () => Promise<A>
): Effect.Effect<A, PlatformError.PlatformError> =>
  Effect.tryPromise({
    try: run,
    catch: (cause) => {
      if (cause instanceof PlatformError.BadArgument) return cause
      const code = (cause as NodeJS.ErrnoException).code
      return new PlatformError.SystemError({
        reason: reasons.get(code) ?? "Unknown",
        module: "KeyValueStore",
        method,
        pathOrDescriptor: key,
        ...(code === undefined ? {} : { description: code }),
        cause
      })
    }
  })

const reasons = new Map<string | undefined, PlatformError.SystemErrorReason>([
  ["ENOENT", "NotFound"],
  ["EACCES", "PermissionDenied"],
  ["EPERM", "PermissionDenied"],
  ["EROFS", "PermissionDenied"],
  ["EBUSY", "Busy"],
  ["EISDIR", "BadResource"],
  ["ENOTDIR", "BadResource"]
])

const isNotFound = (error: PlatformError.PlatformError): boolean =>
  error._tag === "SystemError" && error.reason === "NotFound"
