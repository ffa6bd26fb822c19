/**
 * What a TLS session says of itself, read from the form that OpenSSL gives it (`SSL_SESSION`, DER) and Node hands out.
 *
 * Node 24 puts the name that the session was verified for in front: "\0nodejs:tls:session:1\0", its length in two
 * bytes, the name. Node 20 does not.
 */

export interface TlsSession {
  /** 0x0303 is TLS 1.2, 0x0304 is TLS 1.3. */
  readonly version: number
  /** Seconds since the epoch. */
  readonly issuedAt: number
  /** The client's own default, in seconds: OpenSSL's, which knows nothing of the server. */
  readonly timeout: number | undefined
  /** What the server said, in seconds. It is left out where it would be 0. */
  readonly lifetimeHint: number | undefined
  /** The server's own certificate, DER. */
  readonly certificate: Uint8Array | undefined
}

/** `undefined`: no session, or none that can be read. */
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
    // The second number is the version; what is tagged holds one value.
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
 * The ticket as the server sent it. `undefined`: no session that can be read, or one that its server knows by an id.
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
    // Four bytes tell the length of all that fits in memory; the indefinite form (0x80) is not DER.
    const bytes = length & 0x7f
    if (bytes === 0 || bytes > 4 || start + bytes > limit) return undefined
    length = 0
    for (let i = 0; i < bytes; i++) length = length * 256 + blob[start++]!
  }
  return start + length > limit ? undefined : { tag, start, end: start + length }
}

const numberOf = (blob: Uint8Array, field: Field | undefined): number | undefined => {
  // A negative one is none of these; more than seven bytes are no time.
  if (field === undefined || field.tag !== INTEGER || field.end === field.start || blob[field.start]! > 0x7f) {
    return undefined
  }
  let value = 0
  for (let i = field.start; i < field.end; i++) value = value * 256 + blob[i]!
  return Number.isSafeInteger(value) ? value : undefined
}
