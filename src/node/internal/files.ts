/** Files for a store: they appear whole and once, and are on the disk when the write answers. */
import { randomUUID } from "node:crypto"
import * as Fs from "node:fs/promises"
import { join } from "node:path"

export const makeFolder = (folder: string): Promise<unknown> => Fs.mkdir(folder, { recursive: true, mode: 0o700 })

/** Writes a file and gives it its name in one step, unless the name is taken. Gives whether the file has the name. */
export const linkOnce = async (folder: string, path: string, text: string): Promise<boolean> => {
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
export const synced = async (folder: string): Promise<void> => {
  const file = await Fs.open(folder, "r").catch(() => undefined)
  await file?.sync().catch(() => {})
  await file?.close()
}

/** The promise's result, or `undefined` if the file does not exist. */
export const existing = <A>(promise: Promise<A>): Promise<A | undefined> =>
  promise.catch((error: unknown) => {
    if (codeOf(error) === "ENOENT") return undefined
    throw error
  })

const codeOf = (error: unknown): unknown => (error as { readonly code?: unknown }).code
