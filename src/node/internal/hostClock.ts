/**
 * The time for all processes of a host. Setting the host's clock does not change it: it is the host's monotonic clock,
 * which counts from the start of the host. A file in the directory says what is to be added, so that all processes show
 * the same time. The first process after a start of the host writes that file.
 */
import * as Fs from "node:fs/promises"
import { join } from "node:path"
import { existing, linkOnce } from "./files.js"

/**
 * Gives the effect that reads the clock, in milliseconds. `least` gives the time that the first process after a start
 * must at least set, since the host's clock may be wrong when the host starts.
 *
 * The file is read each time: if the directory was deleted, a process that started afterwards may have written another
 * one. If the file is missing, it is written again as it was.
 *
 * Systems that do not tell one start of the host from another (all but Linux) use the host's clock instead.
 */
export const open = async (directory: string, least: () => Promise<number>): Promise<() => Promise<number>> => {
  const name = await clockName()
  if (name === undefined) return async () => Date.now()
  const path = join(directory, name)
  const written = async (added: number): Promise<number> => {
    await linkOnce(directory, path, String(added))
    return await addedIn(path) ?? added
  }
  let added = await addedIn(path)
  if (added === undefined) {
    const time = Math.max(Date.now(), await least())
    added = await written(Math.round(time - monotonic()))
    await removeOthers(directory, name)
  }
  let last = added
  return async () => {
    last = await addedIn(path) ?? await written(last)
    return Math.round(last + monotonic())
  }
}

/** The number in the file; `undefined` if there is no file. */
const addedIn = async (path: string): Promise<number | undefined> => {
  const text = await existing(Fs.readFile(path, "utf8"))
  if (text === undefined) return undefined
  if (!/^-?\d{1,16}$/.test(text)) throw new Error(`${path} is not a number of milliseconds: delete it`)
  return Number(text)
}

/** The processes of one host read the same number. */
const monotonic = (): number => Number(process.hrtime.bigint() / 1000n) / 1000

const prefix = "clock-"

/** Processes whose monotonic clocks agree get the same name; `undefined` if the system does not tell. */
const clockName = async (): Promise<string | undefined> => {
  const boot = await Fs.readFile("/proc/sys/kernel/random/boot_id", "utf8").catch(() => undefined)
  if (boot === undefined) return undefined
  // In a time namespace of its own a process has another monotonic clock.
  const space = await Fs.readlink("/proc/self/ns/time").catch(() => "")
  return `${prefix}${boot.trim()}${space.replace(/\D+/, "-").replace(/\D$/, "")}`
}

/** Removes the files of earlier starts. */
const removeOthers = async (directory: string, name: string): Promise<void> => {
  const boot = name.slice(0, `${prefix}00000000-0000-0000-0000-000000000000`.length)
  for (const other of await Fs.readdir(directory)) {
    if (other.startsWith(prefix) && !other.startsWith(boot)) await Fs.rm(join(directory, other), { force: true })
  }
}
