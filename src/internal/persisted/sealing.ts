/**
 * The form of a value in a store: text that shows whether it is complete, encrypted (AES-256-GCM) if keys are given.
 *
 * ```
 * holdfast1.clear.<CRC-32>.<text>
 * holdfast1.sealed.<key id>.<nonce>.<text, encrypted, with its tag>
 * ```
 *
 * The context (the session's key) is associated data of the encryption, so that a value which was written under one
 * name cannot be read under another. Without encryption the reader compares the name that is part of the text.
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Encoding from "effect/Encoding"
import * as Redacted from "effect/Redacted"
import { InvalidOptions } from "../../InvalidOptions.js"

/** 32 bytes, or their base64. */
export type Key = Redacted.Redacted<Uint8Array> | Redacted.Redacted<string>

export interface Opened {
  readonly text: string
  /** Whether the text was written with an older key than the one that encrypts now. */
  readonly isOutdated: boolean
}

export interface Sealing {
  readonly seal: (context: string, text: string) => Effect.Effect<string>
  /** Fails with the reason why the text cannot be read. The reason contains no part of the text. */
  readonly open: (context: string, sealed: string) => Effect.Effect<Opened, string>
}

interface ImportedKey {
  readonly id: string
  readonly key: CryptoKey
}

const version = "holdfast1"

/** The keys of `encryptWith`, checked: the first one encrypts, all decrypt. Throws `InvalidOptions`. */
export const keysOf = (encryptWith: Key | ReadonlyArray<Key> | undefined): ReadonlyArray<Uint8Array<ArrayBuffer>> => {
  if (encryptWith === undefined) return []
  const keys = Redacted.isRedacted(encryptWith) ? [encryptWith] : encryptWith as ReadonlyArray<Key>
  if (!Array.isArray(keys) || keys.length === 0) throw invalid("must be a key or a list of keys")
  return keys.map((key) => {
    if (!Redacted.isRedacted(key)) throw invalid("must be Redacted")
    const value = Redacted.value(key as Redacted.Redacted<unknown>)
    const bytes = typeof value === "string" ? fromBase64(value.trim()) : value
    if (!(bytes instanceof Uint8Array) || bytes.length !== 32) throw invalid("must be 32 bytes or their base64")
    return Uint8Array.from(bytes)
  })
}

const invalid = (reason: string) => new InvalidOptions({ option: "encryptWith", value: "<redacted>", reason })

const fromBase64 = (text: string): Uint8Array | undefined =>
  Either.getOrUndefined(
    /[-_]/.test(text) ? Encoding.decodeBase64Url(text.replace(/=+$/, "")) : Encoding.decodeBase64(padded(text))
  )

const padded = (text: string): string => text + "=".repeat((4 - text.length % 4) % 4)

export const make = (keys: ReadonlyArray<Uint8Array<ArrayBuffer>>): Effect.Effect<Sealing> =>
  keys.length === 0 ? Effect.succeed(inClear) : Effect.map(Effect.forEach(keys, imported), encrypted)

const imported = (bytes: Uint8Array<ArrayBuffer>): Effect.Effect<ImportedKey> =>
  Effect.promise(async () => ({
    id: Encoding.encodeBase64Url(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).slice(0, 6)),
    key: await crypto.subtle.importKey("raw", bytes, "AES-GCM", false, ["encrypt", "decrypt"])
  }))

// -----------------------------------------------------------------------------
// in clear
// -----------------------------------------------------------------------------

const inClear: Sealing = {
  seal: (_, text) => Effect.succeed(`${version}.clear.${checksum(text)}.${text}`),
  open: (_, sealed) => {
    const [first, form, sum] = sealed.split(".", 3)
    if (first !== version) return Effect.fail("is not what a session writes")
    if (form === "sealed") return Effect.fail("is encrypted, and no key is given")
    const text = sealed.slice(`${version}.clear.${sum}.`.length)
    return form === "clear" && sum === checksum(text)
      ? Effect.succeed({ text, isOutdated: false })
      : Effect.fail("was cut short or changed")
  }
}

const checksum = (text: string): string => {
  let crc = ~0
  for (const byte of encoder.encode(text)) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (0xedb88320 & -(crc & 1))
  }
  return (~crc >>> 0).toString(16).padStart(8, "0")
}

// -----------------------------------------------------------------------------
// encrypted
// -----------------------------------------------------------------------------

const encrypted = (keys: ReadonlyArray<ImportedKey>): Sealing => ({
  seal: (context, text) =>
    Effect.promise(async () => {
      const { id, key } = keys[0]!
      const nonce = crypto.getRandomValues(new Uint8Array(12))
      const sealed = await crypto.subtle.encrypt(algorithm(nonce, context), key, encoder.encode(text))
      return [version, "sealed", id, Encoding.encodeBase64Url(nonce), Encoding.encodeBase64Url(new Uint8Array(sealed))]
        .join(".")
    }),
  open: (context, sealed) => {
    const parts = sealed.split(".")
    const [first, form, id, nonce, body] = parts
    if (first !== version) return Effect.fail("is not what a session writes")
    if (form === "clear") return Effect.fail("is not encrypted, though a key is given")
    const fields = form === "sealed" && parts.length === 5 ? [bytesOf(nonce!), bytesOf(body!)] : []
    const [iv, bytes] = fields
    if (iv?.length !== 12 || bytes === undefined) return Effect.fail("was cut short or changed")
    const found = keys.find((key) => key.id === id)
    if (found === undefined) return Effect.fail("was encrypted with a key that is not given")
    return Effect.tryPromise({
      try: async () => ({
        text: decoder.decode(await crypto.subtle.decrypt(algorithm(iv, context), found.key, bytes)),
        isOutdated: found !== keys[0]
      }),
      catch: () => "was changed, or written under another key of the store"
    })
  }
})

const algorithm = (iv: Uint8Array<ArrayBuffer>, context: string): AesGcmParams => ({
  name: "AES-GCM",
  iv,
  additionalData: encoder.encode(`${version}\0${context}`)
})

const bytesOf = (text: string): Uint8Array<ArrayBuffer> | undefined =>
  Either.match(Encoding.decodeBase64Url(text), { onLeft: () => undefined, onRight: (bytes) => Uint8Array.from(bytes) })

const encoder = new TextEncoder()
const decoder = new TextDecoder("utf-8", { fatal: true })
