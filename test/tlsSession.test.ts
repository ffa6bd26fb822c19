import { assert, describe, it } from "@effect/vitest"
import { NodeTicketCache } from "effect-holdfast/node"
import * as Option from "effect/Option"
import * as fc from "fast-check"
import { execFileSync } from "node:child_process"
import { constants, X509Certificate } from "node:crypto"
import { once } from "node:events"
import type { AddressInfo } from "node:net"
import * as Tls from "node:tls"
import { serverCertificate } from "../examples/certificates.js"
import { readTlsSession } from "../src/internal/tlsSession.js"
import { openssl } from "./support/tools.js"

// -----------------------------------------------------------------------------
// DER
// -----------------------------------------------------------------------------

type Bytes = ReadonlyArray<number>

/** Big-endian, and as few bytes as possible. */
const bytesOf = (n: bigint): Bytes => n < 256n ? [Number(n)] : [...bytesOf(n >> 8n), Number(n & 255n)]

const der = (tag: number, content: Bytes, { isLong = content.length > 127 } = {}): Bytes => {
  const length = bytesOf(BigInt(content.length))
  return [tag, ...isLong ? [0x80 | length.length, ...length] : length, ...content]
}

const integer = (n: number | bigint): Bytes => {
  const bytes = bytesOf(BigInt(n))
  // A number whose highest bit is set would be negative.
  return der(0x02, bytes[0]! > 0x7f ? [0, ...bytes] : bytes)
}

const tagged = (number: number, content: Bytes): Bytes => der(0xa0 + number, content)

const TLS_1_2 = 0x0303
const TLS_1_3 = 0x0304

interface Said {
  readonly version?: number
  readonly issuedAt?: number | bigint
  readonly timeout?: number | bigint
  readonly hint?: number | bigint
  readonly certificate?: Bytes
}

const fieldsOf = (
  { certificate, hint, issuedAt = 1_700_000_000, timeout, version = TLS_1_3 }: Said
): ReadonlyArray<Bytes> => [
  integer(1),
  integer(version),
  der(0x04, [0x13, 0x02]),
  der(0x04, Array.from({ length: 32 }, (_, i) => i)),
  der(0x04, Array.from({ length: 48 }, (_, i) => 255 - i)),
  tagged(1, integer(issuedAt)),
  ...timeout === undefined ? [] : [tagged(2, integer(timeout))],
  ...certificate === undefined ? [] : [tagged(3, certificate)],
  tagged(4, der(0x04, [])),
  tagged(5, integer(0)),
  tagged(6, der(0x04, [...Buffer.from("localhost")])),
  ...hint === undefined ? [] : [tagged(9, integer(hint))],
  tagged(10, der(0x04, Array.from({ length: 200 }, (_, i) => i))),
  tagged(14, integer(0xffff_ffff)),
  tagged(16, integer(1))
]

const sessionOf = (said: Said): Uint8Array => Uint8Array.from(der(0x30, fieldsOf(said).flat()))

/** As Node 24 gives it. */
const node24 = (session: Uint8Array, name: string): Uint8Array => {
  const prefix = Buffer.from("\0nodejs:tls:session:1\0", "latin1")
  return Uint8Array.from([...prefix, name.length >> 8, name.length & 255, ...Buffer.from(name), ...session])
}

const lifetimeOf = (session: Uint8Array) => Option.getOrUndefined(NodeTicketCache.lifetime(session))

const sevenDays = 604_800_000

/** The properties of the result for any bytes. */
const isSane = (blob: Uint8Array): void => {
  const { issuedAt, lifetimeHint, timeout, version } = readTlsSession(blob) ?? {}
  const areNumbers = [version, issuedAt, timeout, lifetimeHint].every((n) =>
    n === undefined || Number.isSafeInteger(n) && n >= 0
  )
  const lifetime = lifetimeOf(blob)
  const millis = lifetime === undefined ? 1 : lifetime.expiresAt - lifetime.issuedAt
  const isTime = lifetime === undefined || Number.isSafeInteger(lifetime.issuedAt) && lifetime.issuedAt >= 0
  // An assertion costs more than all that was read.
  if (!areNumbers || !isTime || !(millis > 0 && millis <= sevenDays)) {
    assert.fail(
      JSON.stringify({ version, issuedAt, timeout, lifetimeHint, lifetime, blob: Buffer.from(blob).toString("hex") })
    )
  }
}

// -----------------------------------------------------------------------------
// sessions of Node's own making
// -----------------------------------------------------------------------------

const { ca, cert, key } = await serverCertificate()

interface SessionOptions {
  readonly sessionTimeout: number
  readonly hasTickets?: boolean
}

/** Without what Node 24 puts in front. */
const realSession = async (version: Tls.SecureVersion, options: SessionOptions): Promise<Buffer> => {
  const session = await givenSession(version, options)
  return session[0] === 0 ? session.subarray(node24(new Uint8Array(0), "localhost").length) : session
}

/** As Node gives it. */
const givenSession = async (
  version: Tls.SecureVersion,
  { hasTickets = true, sessionTimeout }: SessionOptions
): Promise<Buffer> => {
  const server = Tls.createServer({
    cert,
    key,
    minVersion: version,
    maxVersion: version,
    sessionTimeout,
    secureOptions: hasTickets ? 0 : constants.SSL_OP_NO_TICKET
  }, (socket) => socket.end("hello").on("error", () => {}))
  // Without tickets a session is in a cache of the server's.
  server.on("newSession", (_id, _session, callback) => callback())
  server.listen(0, "127.0.0.1")
  await once(server, "listening")
  const socket = Tls.connect({
    host: "127.0.0.1",
    port: (server.address() as AddressInfo).port,
    ca,
    servername: "localhost"
  })
  try {
    socket.resume()
    const [session] = await once(socket, "session")
    return session as Buffer
  } finally {
    socket.destroy()
    server.close()
  }
}

describe("C2: a session that Node gives", () => {
  const versions = [["TLSv1.2", TLS_1_2], ["TLSv1.3", TLS_1_3]] as const

  for (const [name, version] of versions) {
    it(`of ${name} is valid for as long as its server said, from its creation`, async () => {
      const before = Math.floor(Date.now() / 1_000)
      const session = await givenSession(name, { sessionTimeout: 1_234 })
      const after = Math.floor(Date.now() / 1_000)
      const { certificate, issuedAt, lifetimeHint, timeout, version: read } = readTlsSession(session)!
      assert.deepStrictEqual({ lifetimeHint, version: read }, { lifetimeHint: 1_234, version })
      // OpenSSL asks a clock that is coarser.
      assert.isTrue(issuedAt >= before - 1 && issuedAt <= after, `${before}, ${issuedAt}, ${after}`)
      assert.deepStrictEqual(lifetimeOf(session), { issuedAt: issuedAt * 1_000, expiresAt: (issuedAt + 1_234) * 1_000 })
      assert.notStrictEqual(timeout, 1_234, "is the client's own")
      assert.deepStrictEqual(Buffer.from(certificate!), new X509Certificate(cert).raw)
    })

    it(`of ${name} is valid for seven days if its server said more`, async () => {
      const { expiresAt, issuedAt } = lifetimeOf(await realSession(name, { sessionTimeout: 1_000_000 }))!
      assert.strictEqual(expiresAt - issuedAt, sevenDays)
    })

    it.runIf(openssl)(`of ${name} is read in the same way by openssl`, async () => {
      const session = await realSession(name, { sessionTimeout: 4_321 })
      const read = (...words: ReadonlyArray<string>) =>
        execFileSync(openssl!, ["sess_id", "-inform", "DER", ...words], { input: session, stdio: "pipe" })
      const text = read("-noout", "-text").toString()
      const said = (what: RegExp) => Number(what.exec(text)?.[1])
      const { certificate, issuedAt, lifetimeHint, timeout } = readTlsSession(session)!
      assert.deepStrictEqual({ issuedAt, lifetimeHint, timeout }, {
        issuedAt: said(/Start Time: (\d+)/),
        lifetimeHint: said(/lifetime hint: (\d+)/),
        timeout: said(/Timeout *: (\d+)/)
      })
      assert.deepStrictEqual(Buffer.from(certificate!), new X509Certificate(read("-cert", "-outform", "PEM")).raw)
    })

    it(`of ${name} is read in the same way in the form of Node 24, whatever the name in it`, async () => {
      const session = await realSession(name, { sessionTimeout: 1_234 })
      const read = readTlsSession(session)!
      for (
        const hostname of [
          "localhost",
          "",
          "0",
          "\0",
          "n".repeat(127),
          "n".repeat(253),
          "n".repeat(300),
          "n".repeat(65_535)
        ]
      ) {
        const prefixed = node24(session, hostname)
        assert.deepStrictEqual(readTlsSession(prefixed), read)
        assert.deepStrictEqual(lifetimeOf(prefixed), lifetimeOf(session))
      }
    })

    it(`of ${name} that is cut short anywhere is rejected, in either form`, async () => {
      const session = await realSession(name, { sessionTimeout: 1_234 })
      for (const whole of [session, node24(session, "localhost")]) {
        assert.isDefined(readTlsSession(whole))
        for (let length = 0; length < whole.length; length++) {
          const cut = whole.subarray(0, length)
          assert.isUndefined(readTlsSession(cut))
          assert.isUndefined(lifetimeOf(cut))
        }
      }
    })

    it(`of ${name} with any bit changed is read or rejected, and never valid for more than seven days`, async () => {
      const session = await realSession(name, { sessionTimeout: 1_234 })
      for (const whole of [session, node24(session, "localhost")]) {
        const changed = Uint8Array.from(whole)
        for (let at = 0; at < changed.length; at++) {
          for (let bit = 0; bit < 8; bit++) {
            changed[at] = whole[at]! ^ 1 << bit
            isSane(changed)
          }
          changed[at] = whole[at]!
        }
      }
    })
  }

  it("of TLSv1.2, without a ticket and so without a hint, is valid for as long as OpenSSL keeps it", async () => {
    const session = await realSession("TLSv1.2", { sessionTimeout: 1_234, hasTickets: false })
    const { issuedAt, lifetimeHint, timeout } = readTlsSession(session)!
    assert.deepStrictEqual({ lifetimeHint, timeout }, { lifetimeHint: undefined, timeout: 7_200 })
    assert.deepStrictEqual(lifetimeOf(session), { issuedAt: issuedAt * 1_000, expiresAt: (issuedAt + 7_200) * 1_000 })
  })

  it("is read inside a larger buffer, without copying its certificate", async () => {
    const session = await realSession("TLSv1.3", { sessionTimeout: 1_234 })
    const larger = new Uint8Array(session.length + 100).fill(0x30)
    larger.set(session, 50)
    const inside = larger.subarray(50, 50 + session.length)
    assert.deepStrictEqual(readTlsSession(inside), readTlsSession(session))
    assert.strictEqual(readTlsSession(inside)!.certificate!.buffer, larger.buffer)
  })
})

describe("C2: the lifetime of a session", () => {
  const at = 1_700_000_000
  const lifetimes: ReadonlyArray<readonly [what: string, said: Said, seconds: number | undefined]> = [
    ["is the server's hint", { hint: 300, timeout: 7_200 }, 300],
    ["is the server's hint with TLS 1.2 too", { version: TLS_1_2, hint: 300, timeout: 7_200 }, 300],
    ["is a hint of one second", { hint: 1 }, 1],
    ["is seven days, if the hint is", { hint: 604_800 }, 604_800],
    ["is seven days, if the hint is a second more", { hint: 604_801 }, 604_800],
    ["is seven days, if the hint is the greatest", { hint: 2 ** 32 - 1 }, 604_800],
    ["is seven days, if the hint is greater than there are", { hint: 2n ** 50n }, 604_800],
    ["is none, if the hint is 0", { hint: 0, timeout: 7_200 }, undefined],
    ["is none, if the hint is 0 with TLS 1.2", { version: TLS_1_2, hint: 0, timeout: 7_200 }, undefined],
    ["is none with TLS 1.3 without a hint, whatever the client's own default", { timeout: 7_200 }, undefined],
    ["is the client's default with TLS 1.2 without a hint", { version: TLS_1_2, timeout: 7_200 }, 7_200],
    ["is the client's default before TLS 1.2", { version: 0x0301, timeout: 7_200 }, 7_200],
    ["is seven days, if the client's default is more", { version: TLS_1_2, timeout: 700_000 }, 604_800],
    ["is none with TLS 1.2 without either", { version: TLS_1_2 }, undefined],
    ["is none with TLS 1.2 and a default of 0", { version: TLS_1_2, timeout: 0 }, undefined]
  ]
  for (const [what, said, seconds] of lifetimes) {
    it(what, () => {
      const expected = seconds === undefined ? undefined : { issuedAt: at * 1_000, expiresAt: (at + seconds) * 1_000 }
      const session = sessionOf({ ...said, issuedAt: at })
      assert.deepStrictEqual(lifetimeOf(session), expected)
      assert.deepStrictEqual(lifetimeOf(node24(session, "api.test")), expected)
    })
  }

  it("may begin in years beyond 32 bits, up to the last year of a Date", () => {
    // 2038, 2106, and far beyond.
    for (const issuedAt of [2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 40, 8.64e12]) {
      assert.deepStrictEqual(lifetimeOf(sessionOf({ issuedAt, hint: 2 ** 32 - 1 })), {
        issuedAt: issuedAt * 1_000,
        expiresAt: (issuedAt + 604_800) * 1_000
      })
    }
    assert.isDefined(lifetimeOf(sessionOf({ issuedAt: 0, hint: 1 })))
  })

  it("is undefined if its time is invalid", () => {
    for (const issuedAt of [8.64e12 + 1, 2n ** 53n - 1n, 2n ** 53n, 2n ** 63n, 2n ** 64n, 2n ** 800n]) {
      assert.isUndefined(lifetimeOf(sessionOf({ issuedAt, hint: 300 })), String(issuedAt))
    }
  })
})

describe("the reader of sessions", () => {
  const said = { issuedAt: 1_700_000_000, timeout: 7_200, hint: 300, certificate: der(0x30, [1, 2, 3]) }
  const expected = {
    version: TLS_1_3,
    issuedAt: 1_700_000_000,
    timeout: 7_200,
    lifetimeHint: 300,
    certificate: Uint8Array.from(said.certificate)
  }

  it("reads lengths of one byte to four", () => {
    assert.deepStrictEqual(readTlsSession(sessionOf(said)), expected)
    for (const size of [127, 128, 255, 256, 65_535, 65_536, 100_000]) {
      const certificate = der(0x30, Array.from({ length: size }, (_, i) => i & 255))
      const read = readTlsSession(sessionOf({ ...said, certificate }))
      assert.deepStrictEqual(read, { ...expected, certificate: Uint8Array.from(certificate) })
    }
  })

  it("reads the longest length in the short form, and an empty field at the end in the long one", () => {
    const fields = fieldsOf({ hint: 60 })
    const sane = { ...readTlsSession(sessionOf({ hint: 60 }))! }
    const certificate = Array.from({ length: 127 }, (_, i) => i)
    const read = readTlsSession(Uint8Array.from(der(0x30, [...fields.flat(), ...tagged(3, certificate)])))!
    assert.deepStrictEqual([...read.certificate!], certificate)
    const empty = der(0xa7, [], { isLong: true })
    assert.deepStrictEqual({ ...readTlsSession(Uint8Array.from(der(0x30, [...fields.flat(), ...empty]))) }, sane)
  })

  it("reads lengths in the long form, even if the short one would be enough", () => {
    for (const zeros of [0, 1, 2, 3]) {
      const long = (
        tag: number,
        content: Bytes
      ): Bytes => [
        tag,
        0x80 | zeros + (content.length > 255 ? 2 : 1),
        ...Array<number>(zeros).fill(0),
        ...bytesOf(BigInt(content.length)),
        ...content
      ]
      const fields = [
        ...fieldsOf(said).slice(0, 2).flat(),
        ...long(0xa1, long(0x02, [1, 2, 3])),
        ...long(0xa9, long(0x02, [9]))
      ]
      const { issuedAt, lifetimeHint } = readTlsSession(Uint8Array.from(long(0x30, fields)))!
      assert.deepStrictEqual({ issuedAt, lifetimeHint }, { issuedAt: 0x010203, lifetimeHint: 9 })
    }
  })

  it("rejects data that is not DER, or not a session", () => {
    const fields = fieldsOf(said).flat()
    const whole = [...sessionOf(said)]
    /** A blob that would be a session without these bytes at its end. */
    const endingIn = (...end: Bytes) => der(0x30, [...fields, ...end])
    const none: ReadonlyArray<readonly [what: string, blob: Bytes]> = [
      ["nothing", []],
      ["one byte", [0x30]],
      ["an empty sequence", [0x30, 0]],
      ["a set", der(0x31, fields)],
      ["the fields alone", fields],
      ["an indefinite length", [0x30, 0x80, ...fields, 0, 0]],
      ["a length of five bytes", [0x30, 0x85, 0, 0, 0, ...bytesOf(BigInt(fields.length)), ...fields]],
      ["a length of 127 bytes", [0x30, 0xff, ...fields]],
      ["a length beyond its end", [0x30, 0x84, 0xff, 0xff, 0xff, 0xff, ...fields]],
      ["another prefix", [...Buffer.from("\0nodejs:tls:session:2\0", "latin1"), 0, 0, ...whole]],
      ["a prefix alone", [...Buffer.from("\0nodejs:tls:session:1\0", "latin1")]],
      ["a prefix with a name beyond its end", [
        ...Buffer.from("\0nodejs:tls:session:1\0", "latin1"),
        0xff,
        0xff,
        ...whole
      ]],
      ["a field beyond its end", endingIn(0xaa, 9, 2, 1, 1)],
      ["a field beyond the end of the sequence, where there is more", [...endingIn(0xaa, 3), 2, 1, 1]],
      ["a field without a length", endingIn(0xaa)],
      ["a field without its length's bytes", endingIn(0xaa, 0x82)],
      ["a field without all of its length's bytes", endingIn(0xaa, 0x82, 0)],
      ["a field of an indefinite length", endingIn(0xaa, 0x80)],
      [
        "a field of nearly 4 GiB, which would be less than nothing in 32 bits",
        endingIn(0xaa, 0x84, 0xff, 0xff, 0xff, 0xff, 0)
      ],
      ["no version", der(0x30, [...integer(1), ...der(0x04, [3, 4]), ...tagged(1, integer(9))])],
      ["no time", der(0x30, [...integer(1), ...integer(TLS_1_3), ...tagged(9, integer(300))])],
      ["a time that is text", der(0x30, [...integer(1), ...integer(TLS_1_3), ...tagged(1, der(0x0c, [9]))])],
      ["a time that is negative", der(0x30, [...integer(1), ...integer(TLS_1_3), ...tagged(1, der(0x02, [0x80]))])],
      ["a time that is empty", der(0x30, [...integer(1), ...integer(TLS_1_3), ...tagged(1, der(0x02, []))])],
      ["a tag for the time, and no time", der(0x30, [...integer(1), ...integer(TLS_1_3), ...tagged(1, [])])],
      [
        "a time longer than its tag",
        der(0x30, [...integer(1), ...integer(TLS_1_3), 0xa1, 3, 2, 4, 9, ...tagged(2, integer(9))])
      ]
    ]
    assert.isDefined(readTlsSession(Uint8Array.from(endingIn())))
    for (const [what, blob] of none) {
      assert.isUndefined(readTlsSession(Uint8Array.from(blob)), what)
      assert.isUndefined(lifetimeOf(Uint8Array.from(blob)), what)
    }
  })

  it("ignores a hint that is negative or too large", () => {
    const withHint = (hint: Bytes) => Uint8Array.from(der(0x30, [...fieldsOf({}).flat(), ...tagged(9, hint)]))
    for (
      const hint of [
        der(0x02, [0xff]),
        der(0x02, [0x80, 0, 0]),
        integer(2n ** 53n),
        integer(2n ** 900n),
        der(0x04, [9]),
        []
      ]
    ) {
      const session = withHint(hint)
      assert.isUndefined(readTlsSession(session)!.lifetimeHint)
      assert.isUndefined(lifetimeOf(session))
    }
    assert.strictEqual(readTlsSession(withHint(integer(2n ** 53n - 1n)))!.lifetimeHint, 2 ** 53 - 1)
  })

  it("skips unknown fields", () => {
    const fields = [...fieldsOf(said), tagged(17, der(0x04, [1, 2])), tagged(30, []), der(0x05, [])]
    assert.deepStrictEqual(readTlsSession(Uint8Array.from(der(0x30, fields.flat()))), expected)
  })

  it("is not confused if any byte is changed to any other", () => {
    for (
      const whole of [sessionOf(said), sessionOf({ ...said, version: TLS_1_2 }), node24(sessionOf(said), "api.test")]
    ) {
      const changed = Uint8Array.from(whole)
      for (let at = 0; at < changed.length; at++) {
        for (let byte = 0; byte < 256; byte++) {
          changed[at] = byte
          isSane(changed)
        }
        changed[at] = whole[at]!
      }
    }
  })

  it("is not confused by random bytes, nor by random numbers in a session's form", () => {
    const random = fc.uint8Array({ maxLength: 300, size: "max" })
    fc.assert(fc.property(random, isSane), { numRuns: 5_000 })
    fc.assert(fc.property(random, (content) => isSane(Uint8Array.from(der(0x30, [...content])))), { numRuns: 5_000 })
    const number = fc.oneof(fc.bigInt({ min: 0n, max: 2n ** 33n }), fc.bigInt({ min: 0n, max: 2n ** 70n }))
    const numbers = fc.record({
      version: fc.constantFrom(0, 0x0301, TLS_1_2, TLS_1_3, 0x0305, 0xfefd),
      issuedAt: number,
      timeout: fc.option(number, { nil: undefined }),
      hint: fc.option(number, { nil: undefined })
    })
    fc.assert(
      fc.property(numbers, ({ hint, issuedAt, timeout, version }) => {
        const session = sessionOf({
          version,
          issuedAt,
          ...hint !== undefined && { hint },
          ...timeout !== undefined && { timeout }
        })
        isSane(session)
        if (issuedAt > 8_640_000_000_000n) return
        const { certificate, ...read } = readTlsSession(session)!
        const known = (n: bigint | undefined) => n === undefined || n > 2n ** 53n - 1n ? undefined : Number(n)
        assert.deepStrictEqual(
          { certificate, ...read },
          {
            certificate: undefined,
            version,
            issuedAt: Number(issuedAt),
            timeout: known(timeout),
            lifetimeHint: known(hint)
          }
        )
      }),
      { numRuns: 5_000 }
    )
  })
})
