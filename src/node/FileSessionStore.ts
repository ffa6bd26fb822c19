/**
 * A `SessionStore` in a directory: for the processes of one host, with nothing to install.
 *
 * **The idea.** Each session has a folder, and each row is a file of its own, which is never changed. The file's name
 * is the revision of the row *before* it. So the write that follows revision 7 is `link(2)` of a finished file to the
 * name `7`, and the kernel lets only one such link succeed. The store locks nothing, so a killed process leaves no lock
 * behind.
 *
 * **What it guarantees.** A row is on the disk (`fsync`) before `compareAndSet` answers. Files have mode 0600, folders
 * 0700. On Linux, setting the host's clock changes neither leases nor cooldowns: the store uses the host's monotonic
 * clock, and a file in the directory says what to add to it.
 *
 * **What it does not.** On other systems the store uses the host's clock. The store is for one host: a network file
 * system does not report the changes of other hosts, and not every network file system links atomically. Rows are
 * written in clear text unless `SharedSession` is given keys.
 *
 * @since 0.1.0
 */

import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import { createHash } from "node:crypto"
import { readdirSync, statSync, watch } from "node:fs"
import * as Fs from "node:fs/promises"
import { basename, dirname, join, resolve } from "node:path"
import * as Check from "../internal/check.js"
import { InvalidOptions } from "../InvalidOptions.js"
import * as SessionStore from "../SessionStore.js"
import { existing, linkOnce, makeFolder, synced } from "./internal/files.js"
import * as HostClock from "./internal/hostClock.js"

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
      const now = yield* attempt("open", async () => {
        await makeFolder(directory)
        return HostClock.open(directory, () => latestRevision(directory))
      })
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
          attempt("read", async () => ({ row: Option.fromNullable(await readRow(folderOf(key))), now: await now() })),
        compareAndSet: (key, revision, row) =>
          attempt("compareAndSet", () => compareAndSet(folderOf(key), revision, row)),
        notices
      })
    })
  )

const validate = (options: Options): Options => {
  const { directory } = Check.object("options", options)
  // The process may change its working directory.
  if (typeof directory === "string" && directory !== "") return { directory: resolve(directory) }
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

/** The names of the sessions' folders. A directory may also have others: the root of a file system has `lost+found`. */
const isFolder = /^[0-9a-f]{32}$/

/** No row was written later than this, since a revision is not less than the time of its write. */
const latestRevision = async (directory: string): Promise<number> => {
  let latest = 0
  for (const entry of await Fs.readdir(directory, { withFileTypes: true })) {
    if (!entry.isDirectory() || !isFolder.test(entry.name)) continue
    // A row that cannot be read must not keep the others from being read.
    const row = await readRow(join(directory, entry.name)).catch(() => undefined)
    latest = Math.max(latest, row?.revision ?? 0)
  }
  return latest
}

/**
 * The revision in a row's text, which must be higher than the revision before it; `undefined` if the file was changed
 * by hand. The caller then uses the time of that change as the revision: with a smaller number the row would look older
 * than the row that processes remember, and they would overwrite it.
 */
const revisionIn = (text: string, before: number): number | undefined => {
  try {
    const { revision } = JSON.parse(text) as { readonly revision: unknown }
    return Number.isSafeInteger(revision) && (revision as number) > before ? revision as number : undefined
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
  // The folder may be new.
  if (revision === undefined) await synced(dirname(folder))
  if (SessionStore.isNews(row)) {
    // A watch of the parent directory only sees changes of the folder's own attributes.
    const now = new Date()
    await existing(Fs.utimes(folder, now, now))
    await removeOld(folder)
  }
  return true
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

// --- notices -----------------------------------------------------------------

/**
 * The names of folders that have changed. If the watch fails, or its directory was removed or replaced, the watch is
 * set up again; all folders may then have changed.
 */
const changedFolders = (directory: string): Stream.Stream<string> => {
  let isAgain = false
  return Stream.asyncPush<string, unknown>((emit) =>
    Effect.acquireRelease(
      Effect.try(() => {
        const path = resolve(directory)
        const { ino } = statSync(path)
        const isReplaced = () => statSync(path, { throwIfNoEntry: false })?.ino !== ino
        const watcher = watch(path, { persistent: false }, (event, name) => {
          // The watch of a directory that was removed says so once, by the directory's own name, and is silent from
          // then on. A directory that was made in its place may have the same inode.
          if (event === "rename" && (name === basename(path) || isReplaced())) emit.fail("the directory was removed")
          else if (name !== null) emit.single(name)
        }).on("error", (error) => emit.fail(error))
        if (isAgain) { for (const name of readdirSync(directory)) emit.single(name) }
        isAgain = true
        return watcher
      }),
      (watcher) => Effect.sync(() => watcher.close())
    ), { bufferSize: 256, strategy: "sliding" }).pipe(
      Stream.retry(Schedule.spaced("1 second")),
      Stream.orDie
    )
}
