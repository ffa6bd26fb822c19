/**
 * A `SessionStore` in a directory: for the processes of one host, with nothing to install.
 *
 * **The idea.** A session has a folder, and each row in it is a file of its own, which is never changed. The file's
 * name is the revision of the row *before* it. So the write that follows revision 7 is `link(2)` of a finished file to
 * the name `7`, which the kernel lets succeed once. Nothing is locked, so a killed process leaves nothing behind that
 * others would wait for.
 *
 * **What it guarantees.** A row is on the disk (`fsync`) before `compareAndSet` answers. Files have mode 0600, folders
 * 0700.
 *
 * **What it does not.** It is for one host: a network file system gives no notices, and not all of them link
 * atomically. Rows are in clear unless `SharedSession` is given keys.
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
 * Where the store lies.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** The directory is made if it is missing, and should hold nothing else. */
  readonly directory: string
}

/**
 * A store in a directory, which every process of this host that is given the same one shares.
 *
 * A session's folder is called by the first 32 hexadecimal digits of its key's SHA-256. The row is the file with the
 * highest number; to delete the folder is to forget the session.
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
      /** The keys that were asked for, by their folders. A notice names a folder, and concerns no other key. */
      const keys = new Map<string, string>()
      const folderOf = (key: string): string => {
        const name = createHash("sha256").update(key).digest("hex").slice(0, 32)
        keys.set(name, key)
        return join(directory, name)
      }
      // One watch for all sessions of the process.
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

const validate = ({ directory }: Options): Options => {
  if (typeof directory === "string" && directory !== "") return { directory }
  throw new InvalidOptions({ option: "directory", value: directory, reason: "must be a path" })
}

const attempt = <A>(operation: SessionStore.StoreError["operation"], run: () => Promise<A>) =>
  Effect.tryPromise({
    try: run,
    catch: (cause) => new SessionStore.StoreError({ operation, store: "the directory", cause })
  })

// --- rows --------------------------------------------------------------------

/** How many former files of a session are kept, and how long: a process that links late must find its name taken. */
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
    // A later row is there if this one has gone meanwhile.
    if (text !== undefined && stats !== undefined) {
      return SessionStore.decode(revisionIn(text, number) ?? Math.max(number + 1, Math.ceil(stats.mtimeMs)), text)
    }
  }
}

/**
 * The revision in a row's text, which is higher than the one before it; `undefined` if the file was changed by hand.
 * Then the time of that change stands for the revision: a smaller number would make the row older than the one that
 * processes remember, and they would write over it.
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
  // If this process has stood still since it looked, its name may have been taken, and given back, meanwhile. Whether
  // the write counts can't be told from here if there are later rows: they may follow on it, or on the other one.
  if (performance.now() - since > kept.millis && (await numbersIn(folder)).at(-1) !== number) {
    throw new Error("the process stood still while it wrote")
  }
  await synced(folder)
  if (SessionStore.isNews(row)) {
    // The attributes of a folder are what a watch of its parent sees.
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

/** Writes the folder's entries to the disk. Systems that cannot do this to a folder go without. */
const synced = async (folder: string): Promise<void> => {
  const file = await Fs.open(folder, "r").catch(() => undefined)
  await file?.sync().catch(() => {})
  await file?.close()
}

/** Rows that are long past, and drafts of processes that were killed. */
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

/** `undefined` for what is not there. */
const existing = <A>(promise: Promise<A>): Promise<A | undefined> =>
  promise.catch((error: unknown) => {
    if (codeOf(error) === "ENOENT") return undefined
    throw error
  })

// --- notices -----------------------------------------------------------------

/** The names of folders that have changed. A watch that breaks (its directory was removed, say) is set up again. */
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
