/**
 * The feed server's memory across kills. An entry is in the file before any client gets its answer. The file survives
 * the process but not the machine, which would need a sync of each entry.
 */
import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from "node:fs"

export type Entry =
  | readonly ["accepted" | "repeated", client: string, number: number]
  /** `ready`: all subscriptions of the client came before its first message. */
  | readonly ["spoke", client: string, ready: boolean]
  | readonly ["opened", client: string]
  | readonly ["refused", status: number]
  | readonly ["closed", code: number]

export const read = (path: string): ReadonlyArray<Entry> =>
  whole(readFileSync(path, "utf8")).split("\n").slice(0, -1).map((line) => JSON.parse(line) as Entry)

export const append = (path: string): (entry: Entry) => void => {
  repair(path)
  const file = openSync(path, "a")
  return (entry) => void writeSync(file, `${JSON.stringify(entry)}\n`)
}

/** Without an incomplete line of a killed writer. No client got an answer for it. */
const whole = (text: string): string => text.slice(0, text.lastIndexOf("\n") + 1)

const repair = (path: string): void => {
  const file = openSync(path, "a+")
  ftruncateSync(file, Buffer.byteLength(whole(readFileSync(file, "utf8"))))
  closeSync(file)
}
