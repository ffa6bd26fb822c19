/** Rows as JSON. Every store keeps this text, together with the revision that its conditional write compares. */
import type { Row } from "../../SessionStore.js"
import { blank } from "./protocol.js"

export const encode = (row: Row): string => JSON.stringify(row)

/**
 * Text that is not a row becomes a row with an unreadable value, which no schema and no key can read. So its reader
 * learns that the row is unreadable, and replaces it if the options allow that. The row's version is not lower than the
 * last committed one: otherwise a process would take the row for older than its own memory, and overwrite it.
 */
export const decode = (revision: number, text: string): Row => {
  const found = parsed(text)
  return found === undefined ? { ...unreadable, revision, version: revision, value: `unreadable ${text}` } : {
    ...found,
    revision
  }
}

/** The lost value may have been presented, so it counts as presented. */
const unreadable: Row = { ...blank, intent: true }

const isNumber = (value: unknown): boolean => typeof value === "number" && Number.isFinite(value)
const isText = (value: unknown): boolean => typeof value === "string"
const isFlag = (value: unknown): boolean => typeof value === "boolean"
const orNull = (is: (value: unknown) => boolean) => (value: unknown): boolean => value === null || is(value)

const fields: Readonly<Record<keyof Row, (value: unknown) => boolean>> = {
  revision: isNumber,
  version: isNumber,
  origin: isNumber,
  value: orNull(isText),
  lifetime: orNull(isNumber),
  committedAt: isNumber,
  committedBy: orNull(isText),
  fence: isNumber,
  holder: orNull(isText),
  leaseUntil: isNumber,
  intent: isFlag,
  uncertain: isFlag,
  coolUntil: isNumber,
  failures: isNumber,
  error: orNull(isText),
  dead: isFlag
}

const parsed = (text: string): Row | undefined => {
  let found: unknown
  try {
    found = JSON.parse(text)
  } catch {
    return undefined
  }
  if (typeof found !== "object" || found === null) return undefined
  const of = found as Readonly<Record<string, unknown>>
  for (const [name, is] of Object.entries(fields)) {
    // A row that was written by hand may have no `origin`: then its value counts as a sign-in.
    if (!is(of[name]) && !(name === "origin" && of[name] === undefined)) return undefined
  }
  return { ...(found as Row), origin: (of["origin"] ?? of["version"]) as number }
}
