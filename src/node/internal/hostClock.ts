/**
 * The time for all processes of a host. Setting the host's clock does not change it: it is the host's monotonic clock,
 * which counts from the start of the host. A file in the directory says what is to be added, so that all processes show
 * the same time. The first process after a start of the host writes that file.
 */
import * as Fs from "node:fs/promises"
import { join } from "node:path"
import { existing, linkOnce } from "./files.js"

/**
 * Gives a function that reads the clock, in milliseconds. `least` gives the time that the first process after a start
 * must at least set, since the host's clock may be wrong when the host starts.
 *
 * Systems that do not tell one start of the host from another (all but Linux) use the host's clock instead.
 */
export const open = async (directory: string, least: () => Promise<number>): Promise<() => number> => {
  const name = await clockName()
  if (name === undefined) return Date.now
  const path = join(directory, name)
  let text = await existing(Fs.readFile(path, "utf8"))
  if (text === undefined) {
    const time = Math.max(Date.now(), await least())
    await linkOnce(directory, path, String(Math.round(time - monotonic())))
    text = await Fs.readFile(path, "utf8")
    await removeOthers(directory, name)
  }
  if (!/^-?\d+$/.test(text)) throw new Error(`${path} is not a number of milliseconds: delete it`)
  const added = Number(text)
  return () => Math.round(added + monotonic())
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
