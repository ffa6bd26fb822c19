/**
 * The readable part of a TLS 1.3 handshake (RFC 8446, section 4.1): the tickets in the client's hello, and whether the
 * server's hello accepts one. The rest is encrypted. A hello is assumed to be in one record, as it is with OpenSSL
 * unless it is longer than 16 KiB.
 */

/** The tickets as they are sent. `undefined`: the hello is not complete yet. */
export const ticketsOffered = (fromClient: Buffer): ReadonlyArray<Buffer> | undefined => {
  const record = firstRecord(fromClient)
  if (record === undefined) return undefined
  if (!isHello(record, 1)) return []
  const hello = new Reader(record, untilSession)
  hello.vector(1)
  hello.vector(2) // cipher suites
  hello.vector(1) // compression
  const offered = preSharedKeyIn(hello)
  if (offered === undefined) return []

  const tickets: Array<Buffer> = []
  const identities = new Reader(new Reader(offered).vector(2))
  while (!identities.isDone) {
    tickets.push(identities.vector(2))
    identities.number(4) // how old it is
  }
  return tickets
}

/** `refuses`: there will be no session. `undefined`: the hello is not complete yet. */
export const answerOf = (fromServer: Buffer): "resumes" | "starts over" | "refuses" | undefined => {
  const record = firstRecord(fromServer)
  if (record === undefined) return undefined
  if (!isHello(record, 2)) return "refuses"
  const hello = new Reader(record, untilSession)
  hello.vector(1)
  hello.number(3) // cipher suite, compression
  return preSharedKeyIn(hello) === undefined ? "starts over" : "resumes"
}

const handshake = 22

/** Its header has the kind, a version, and the length. */
const firstRecord = (bytes: Buffer): Buffer | undefined => {
  if (bytes.length < 5) return undefined
  const end = 5 + bytes.readUInt16BE(3)
  if (bytes.length < end) return undefined
  return bytes[0] === handshake ? bytes.subarray(5, end) : Buffer.alloc(0)
}

const isHello = (record: Buffer, kind: 1 | 2): boolean => record[0] === kind && record.length > untilSession

/** The header of the message, a version, and the random bytes. */
const untilSession = 4 + 2 + 32

const preSharedKeyIn = (hello: Reader): Buffer | undefined => {
  if (hello.isDone) return undefined
  const extensions = new Reader(hello.vector(2))
  while (!extensions.isDone) {
    const kind = extensions.number(2)
    const content = extensions.vector(2)
    if (kind === 41) return content
  }
  return undefined
}

class Reader {
  private readonly bytes: Buffer
  private at: number

  constructor(bytes: Buffer, at = 0) {
    this.bytes = bytes
    this.at = at
  }

  get isDone(): boolean {
    return this.at >= this.bytes.length
  }

  number(width: number): number {
    const number = this.bytes.readUIntBE(this.at, width)
    this.at += width
    return number
  }

  /** Data with its length, of this many bytes, before it. */
  vector(width: number): Buffer {
    const length = this.number(width)
    this.at += length
    return this.bytes.subarray(this.at - length, this.at)
  }
}
