/**
 * Reads a serialized TLS session, in the form that OpenSSL writes (`SSL_SESSION`, DER) and Node gives out.
 *
 * Node 24 adds a prefix with the host name that the session was verified for: "\0nodejs:tls:session:1\0", the name's
 * length in two bytes, the name. Node 20 does not.
 */

export interface TlsSession {
  /** 0x0303 is TLS 1.2, 0x0304 is TLS 1.3. */
  readonly version: number
  /** Seconds since the epoch. */
  readonly issuedAt: number
  /** The client's own default in seconds: OpenSSL's, which does not depend on the server. */
  readonly timeout: number | undefined
  /** The lifetime that the server suggests, in seconds. OpenSSL leaves a hint of 0 out. */
  readonly lifetimeHint: number | undefined
  /** The server's own certificate, DER. */
  readonly certificate: Uint8Array | undefined
}

/** `undefined` if the blob is not a session, or cannot be read. */
export const readTlsSession = (blob: Uint8Array): TlsSession | undefined => {
  const whole = read(blob, offsetOf(blob), blob.length)
  if (whole === undefined || whole.tag !== SEQUENCE) return undefined
  let version: number | undefined
  let issuedAt: number | undefined
  let timeout: number | undefined
  let lifetimeHint: number | undefined
  let certificate: Uint8Array | undefined
  let place = 0
  for (let at = whole.start; at < whole.end; place++) {
    const field = read(blob, at, whole.end)
    if (field === undefined) return undefined
    at = field.end
    // The second number is the version; a tagged field contains one value.
    if (place === 1) version = numberOf(blob, field)
    else if (field.tag === EXPLICIT + 1) issuedAt = numberOf(blob, read(blob, field.start, field.end))
    else if (field.tag === EXPLICIT + 2) timeout = numberOf(blob, read(blob, field.start, field.end))
    else if (field.tag === EXPLICIT + 3) certificate = blob.subarray(field.start, field.end)
    else if (field.tag === EXPLICIT + 9) lifetimeHint = numberOf(blob, read(blob, field.start, field.end))
  }
  return version === undefined || issuedAt === undefined
    ? undefined
    : { version, issuedAt, timeout, lifetimeHint, certificate }
}

/**
 * The ticket that the server sent. `undefined` if the blob cannot be read, or if the session has an id instead of a
 * ticket.
 */
export const readTlsTicket = (blob: Uint8Array): Uint8Array | undefined => {
  const whole = read(blob, offsetOf(blob), blob.length)
  if (whole === undefined || whole.tag !== SEQUENCE) return undefined
  for (let at = whole.start; at < whole.end;) {
    const field = read(blob, at, whole.end)
    if (field === undefined) return undefined
    if (field.tag === EXPLICIT + 10) {
      const ticket = read(blob, field.start, field.end)
      return ticket && blob.subarray(ticket.start, ticket.end)
    }
    at = field.end
  }
  return undefined
}

/**
 * When a session was issued, and when its server stops accepting it: epoch milliseconds. The server's hint decides.
 * Some TLS 1.2 servers send none (RFC 5077, 3.3); their sessions then live as long as OpenSSL's default. `undefined` if
 * the server wants the session to be discarded, or the blob is not a session.
 */
export const lifetimeOf = (blob: Uint8Array): { readonly issuedAt: number; readonly expiresAt: number } | undefined => {
  const session = readTlsSession(blob)
  if (session === undefined || session.issuedAt > latest) return undefined
  const seconds = session.lifetimeHint ?? (session.version < TLS_1_3 ? session.timeout : undefined) ?? 0
  return seconds === 0 ? undefined : {
    issuedAt: session.issuedAt * 1_000,
    expiresAt: (session.issuedAt + Math.min(seconds, sevenDays)) * 1_000
  }
}

const TLS_1_3 = 0x0304
/** RFC 8446, 4.6.1: no ticket lives longer. */
const sevenDays = 604_800
/** The latest time of a `Date`, in seconds. */
const latest = 8.64e12

const SEQUENCE = 0x30
const INTEGER = 0x02
const EXPLICIT = 0xa0

const prefix = Uint8Array.from("\0nodejs:tls:session:1\0", (char) => char.charCodeAt(0))

const offsetOf = (blob: Uint8Array): number =>
  prefix.every((byte, i) => blob[i] === byte)
    ? prefix.length + 2 + (blob[prefix.length]! << 8 | blob[prefix.length + 1]!)
    : 0

interface Field {
  readonly tag: number
  readonly start: number
  readonly end: number
}

/** The field that begins at `at` and ends before `limit`. */
const read = (blob: Uint8Array, at: number, limit: number): Field | undefined => {
  if (at + 2 > limit) return undefined
  const tag = blob[at]!
  let length = blob[at + 1]!
  let start = at + 2
  if (length > 0x7f) {
    // Four bytes are enough for the length of anything that fits in memory; the indefinite form (0x80) is not DER.
    const bytes = length & 0x7f
    if (bytes === 0 || bytes > 4 || start + bytes > limit) return undefined
    length = 0
    for (let i = 0; i < bytes; i++) length = length * 256 + blob[start++]!
  }
  return start + length > limit ? undefined : { tag, start, end: start + length }
}

const numberOf = (blob: Uint8Array, field: Field | undefined): number | undefined => {
  // None of these fields is negative, and no time has more than seven bytes.
  if (field === undefined || field.tag !== INTEGER || field.end === field.start || blob[field.start]! > 0x7f) {
    return undefined
  }
  let value = 0
  for (let i = field.start; i < field.end; i++) value = value * 256 + blob[i]!
  return Number.isSafeInteger(value) ? value : undefined
}
