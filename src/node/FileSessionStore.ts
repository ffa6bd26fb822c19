/**
 * A `SessionStore` in a directory: for the processes of one host, with nothing to install.
 *
 * **The idea.** Each session has a folder, and each row is a file of its own, which is never changed. The file's name
 * is the revision of the row *before* it. So the write that follows revision 7 is `link(2)` of a finished file to the
 * name `7`, and the kernel lets only one such link succeed. The store locks nothing, so a killed process leaves no lock
 * behind.
 *
 * **What it guarantees.** A row is on the disk (`fsync`) before `compareAndSet` answers. Files have mode 0600, folders
 * 0700.
 *
 * **What it does not.** The store is for one host: a network file system does not report the changes of other hosts,
 * and not every network file system links atomically. Rows are written in clear text unless `SharedSession` is given
 * keys.
 *
 * @since 0.1.0
 */

import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import { createHash, randomUUID } from "node:crypto"
import { watch } from "node:fs"
import * as Fs from "node:fs/promises"
import { join } from "node:path"
import * as Check from "../internal/check.js"
import { InvalidOptions } from "../InvalidOptions.js"
import * as SessionStore from "../SessionStore.js"

/**
 * Where the store keeps its files.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** The directory is made if it is missing, and should hold nothing else. */
  readonly directory: string
}

/**
 * A store in a directory. All processes of this host that are given the same directory share it.
 *
 * The name of a session's folder is the first 32 hexadecimal digits of the SHA-256 of the session's key. The current
 * row is the file with the highest number. Deleting the folder deletes the session.
 *
 * @example
 * ```ts
 * import * as FileSessionStore from "effect-holdfast/node/FileSessionStore"
 *
 * const store = FileSessionStore.layer({ directory: "/var/lib/example/sessions" })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (
  options: Options
): Layer.Layer<SessionStore.SessionStore, InvalidOptions | SessionStore.StoreError> =>
  Layer.scoped(
    SessionStore.SessionStore,
    Effect.gen(function*() {
      const { directory } = yield* Check.validated(() => validate(options))
      yield* attempt("open", () => makeFolder(directory))
      /**
       * The keys that were asked for, by the name of their folder. A notice names a folder; folders of other keys are
       * ignored.
       */
      const keys = new Map<string, string>()
      const folderOf = (key: string): string => {
        const name = createHash("sha256").update(key).digest("hex").slice(0, 32)
        keys.set(name, key)
        return join(directory, name)
      }
      // All sessions of the process share one watch.
      const notices = yield* Stream.share(
        Stream.filterMap(changedFolders(directory), (name) => Option.fromNullable(keys.get(name))),
        { capacity: 256, strategy: "sliding" }
      )
      return SessionStore.SessionStore.of({
        read: (key) =>
          Effect.zipWith(
            attempt("read", () => readRow(folderOf(key))),
            Clock.currentTimeMillis,
            (row, now) => ({ row: Option.fromNullable(row), now })
          ),
        compareAndSet: (key, revision, row) =>
          attempt("compareAndSet", () => compareAndSet(folderOf(key), revision, row)),
        notices
      })
    })
  )

const validate = (options: Options): Options => {
  const { directory } = Check.object("options", options)
  if (typeof directory === "string" && directory !== "") return { directory }
  throw new InvalidOptions({ option: "directory", value: directory, reason: "must be a path" })
}

const attempt = <A>(operation: SessionStore.StoreError["operation"], run: () => Promise<A>) =>
  Effect.tryPromise({
    try: run,
    catch: (cause) => new SessionStore.StoreError({ operation, store: "the directory", cause })
  })

// --- rows --------------------------------------------------------------------

/** How many older files of a session are kept, and for how long: a process that links late must find its name taken. */
const kept = { files: 16, millis: 60_000 }

const makeFolder = (folder: string): Promise<unknown> => Fs.mkdir(folder, { recursive: true, mode: 0o700 })

/** The numbers in the names of the folder's rows, in order. */
const numbersIn = async (folder: string): Promise<ReadonlyArray<number>> =>
  (await existing(Fs.readdir(folder)) ?? []).filter((name) => /^\d{16}$/.test(name)).map(Number).sort((a, b) => a - b)

const pathOf = (folder: string, number: number): string => join(folder, String(number).padStart(16, "0"))

const readRow = async (folder: string): Promise<SessionStore.Row | undefined> => {
  for (;;) {
    const number = (await numbersIn(folder)).at(-1)
    if (number === undefined) return undefined
    const path = pathOf(folder, number)
    const text = await existing(Fs.readFile(path, "utf8"))
    const stats = await existing(Fs.stat(path))
    // If this file has been deleted meanwhile, there is a later row.
    if (text !== undefined && stats !== undefined) {
      return SessionStore.decode(revisionIn(text, number) ?? Math.max(number + 1, Math.ceil(stats.mtimeMs)), text)
    }
  }
}

/**
 * The revision in a row's text, which must be higher than the revision before it; `undefined` if the file was changed
 * by hand. The caller then uses the time of that change as the revision: with a smaller number the row would look older
 * than the row that processes remember, and they would overwrite it.
 */
const revisionIn = (text: string, before: number): number | undefined => {
  try {
    const { revision } = JSON.parse(text) as { readonly revision: unknown }
    return typeof revision === "number" && revision > before ? revision : undefined
  } catch {
    return undefined
  }
}

const compareAndSet = async (
  folder: string,
  revision: number | undefined,
  row: SessionStore.Row
): Promise<boolean> => {
  const since = performance.now()
  if ((await readRow(folder))?.revision !== revision) return false
  const number = revision ?? 0
  if (!await linkOnce(folder, pathOf(folder, number), SessionStore.encode(row))) return false
  // If this process was suspended after it read the folder, another process may meanwhile have taken the name, and its
  // file may have been deleted again. If there are later rows, this process cannot know whether they follow this write
  // or the other process's write.
  if (performance.now() - since > kept.millis && (await numbersIn(folder)).at(-1) !== number) {
    throw new Error("the process was suspended while it wrote")
  }
  await synced(folder)
  if (SessionStore.isNews(row)) {
    // A watch of the parent directory only sees changes of the folder's own attributes.
    const now = new Date()
    await existing(Fs.utimes(folder, now, now))
    await removeOld(folder)
  }
  return true
}

/** Writes a file and gives it its name in one step, unless the name is taken. */
const linkOnce = async (folder: string, path: string, text: string): Promise<boolean> => {
  const draft = join(folder, `.${randomUUID()}`)
  try {
    await makeFolder(folder)
    const file = await Fs.open(draft, "wx", 0o600)
    try {
      await file.writeFile(text)
      await file.sync()
    } finally {
      await file.close()
    }
    await Fs.link(draft, path)
    return true
  } catch (error) {
    if (codeOf(error) === "EEXIST") return false
    throw error
  } finally {
    await Fs.rm(draft, { force: true })
  }
}

/** Flushes the folder's entries to the disk. Systems that cannot flush a folder skip this step. */
const synced = async (folder: string): Promise<void> => {
  const file = await Fs.open(folder, "r").catch(() => undefined)
  await file?.sync().catch(() => {})
  await file?.close()
}

/** Removes old rows, and unfinished files of processes that were killed. */
const removeOld = async (folder: string): Promise<void> => {
  const names = (await existing(Fs.readdir(folder)) ?? []).sort()
  const rows = names.filter((name) => !name.startsWith("."))
  const past = [...rows.slice(0, -kept.files), ...names.filter((name) => name.startsWith("."))]
  for (const name of past) {
    const found = await existing(Fs.stat(join(folder, name)))
    if (found !== undefined && found.mtimeMs < Date.now() - kept.millis) {
      await Fs.rm(join(folder, name), { force: true })
    }
  }
}

const codeOf = (error: unknown): unknown => (error as { readonly code?: unknown }).code

/** The promise's result, or `undefined` if the file does not exist. */
const existing = <A>(promise: Promise<A>): Promise<A | undefined> =>
  promise.catch((error: unknown) => {
    if (codeOf(error) === "ENOENT") return undefined
    throw error
  })

// --- notices -----------------------------------------------------------------

/**
 * The names of folders that have changed. If the watch fails (because its directory was removed, say), it is set up
 * again.
 */
const changedFolders = (directory: string): Stream.Stream<string> =>
  Stream.asyncPush<string, unknown>((emit) =>
    Effect.acquireRelease(
      Effect.try(() =>
        watch(directory, { persistent: false }, (_, name) => {
          if (name !== null) emit.single(name)
        }).on("error", (error) => emit.fail(error))
      ),
      (watcher) => Effect.sync(() => watcher.close())
    ), { bufferSize: 256, strategy: "sliding" }).pipe(
      Stream.retry(Schedule.spaced("1 second")),
      Stream.orDie
    )
