/**
 * The identity of a TLS connection: who the client says it is, and which server it accepts. Identities are compared by
 * a digest of all options that decide about them. The `SecureContext` that is made of the options is kept with the
 * digest, since making one costs more than the rest of a resumed handshake.
 */
import { createHash, type Hash } from "node:crypto"
import Tls from "node:tls"

export interface TlsIdentity {
  readonly digest: string
  readonly rejectUnauthorized: boolean
  /** Throws Node's own error if the options make no sense. */
  readonly context: () => Tls.SecureContext
}

/** The options from which a `SecureContext` is made. */
const ofContext = [
  "ca",
  "cert",
  "key",
  "pfx",
  "passphrase",
  "crl",
  "allowPartialTrustChain",
  "certificateCompression",
  "clientCertEngine",
  "privateKeyEngine",
  "privateKeyIdentifier",
  "secureContext",
  "ciphers",
  "sigalgs",
  "ecdhCurve",
  "dhparam",
  "minVersion",
  "maxVersion",
  "secureProtocol",
  "secureOptions",
  "honorCipherOrder",
  "sessionIdContext",
  "ticketKeys",
  "sessionTimeout"
]

/** The other options that decide about the identity. */
const ofConnection = ["checkServerIdentity", "pskCallback", "minDHSize", "requestOCSP"]

/**
 * More identities than a client has at a time. The bound matters if the options of each connection have new objects.
 */
const capacity = 32

interface Known {
  readonly values: ReadonlyArray<unknown>
  readonly contextDigest: string
  readonly identity: TlsIdentity
}

export class TlsIdentities {
  /** The most recently used identity comes first. */
  private readonly known: Array<Known> = []

  of(options: Tls.ConnectionOptions): TlsIdentity {
    const values = [...defaults(options)]
    addValues(values, options, ofContext)
    const contextLength = values.length
    values.push(rejects(options))
    addValues(values, options, ofConnection)
    const at = this.known.findIndex((known) => areSame(known.values, values))
    if (at === 0) return this.known[0]!.identity
    const found = at < 0 ? this.make(options, values.slice(0, contextLength), values) : this.known.splice(at, 1)[0]!
    this.known.unshift(found)
    if (this.known.length > capacity) this.known.pop()
    return found.identity
  }

  private make(
    options: Tls.ConnectionOptions,
    forContext: ReadonlyArray<unknown>,
    values: ReadonlyArray<unknown>
  ): Known {
    const contextDigest = digestOf(forContext)
    // Different objects with the same content make the same context.
    const alike = this.known.find((known) => known.contextDigest === contextDigest)
    const context = alike?.identity.context ?? contextOf(options)
    return {
      values,
      contextDigest,
      identity: { digest: digestOf(values), rejectUnauthorized: rejects(options), context }
    }
  }
}

const areSame = (some: ReadonlyArray<unknown>, others: ReadonlyArray<unknown>): boolean => {
  for (let i = 0; i < some.length; i++) {
    if (some[i] !== others[i]) return false
  }
  return some.length === others.length
}

/** Makes the context immediately: the options may have changed by the time a connection needs it. */
const contextOf = (options: Tls.ConnectionOptions): TlsIdentity["context"] => {
  try {
    const context = options.secureContext ?? Tls.createSecureContext(options)
    return () => context
  } catch (thrown) {
    return () => {
      throw thrown
    }
  }
}

/** The values of options. The items of an array are among them, so that a changed array is not taken for the same. */
const addValues = (values: Array<unknown>, options: object, names: ReadonlyArray<string>): void => {
  for (const name of names) {
    const value = (options as Record<string, unknown>)[name]
    if (Array.isArray(value)) values.push(ARRAY, value.length, ...(value as Array<unknown>))
    else values.push(value)
  }
}

const ARRAY: unknown = Symbol("array")

/** Node's defaults for missing options: a program can change these defaults. */
const defaults = ({ ca, secureContext }: Tls.ConnectionOptions): ReadonlyArray<unknown> => [
  ca || secureContext ? undefined : defaultCAs(),
  Tls.DEFAULT_CIPHERS,
  Tls.DEFAULT_ECDH_CURVE,
  Tls.DEFAULT_MIN_VERSION,
  Tls.DEFAULT_MAX_VERSION
]

/** Whether a server without a valid certificate is refused. */
const rejects = (options: Tls.ConnectionOptions): boolean =>
  // Like Node: an explicit `undefined` overrides the environment variable.
  Object.hasOwn(options, "rejectUnauthorized")
    ? options.rejectUnauthorized !== false
    : process.env["NODE_TLS_REJECT_UNAUTHORIZED"] !== "0"

/** A number that differs for each list of default CAs. Since Node 24.5 a program can set another list. */
const defaultCAs = (): number | undefined =>
  "setDefaultCACertificates" in Tls && "getCACertificates" in Tls
    ? referenceOf((Tls.getCACertificates as (type: string) => object)("default"))
    : undefined

const digestOf = (values: ReadonlyArray<unknown>): string => {
  const hash = createHash("sha256")
  for (const value of values) add(hash, value)
  return hash.digest("base64url")
}

/**
 * Adds a value by its content: text, bytes, arrays and plain objects. Other objects and functions are added by
 * reference. Each part begins with its kind and length, so that two parts cannot be taken for one.
 */
const add = (hash: Hash, value: unknown): void => {
  if (typeof value === "string") hash.update(`s${Buffer.byteLength(value)}:${value}`)
  else if (ArrayBuffer.isView(value)) {
    hash.update(`b${value.byteLength}:`).update(value as NodeJS.ArrayBufferView)
  } else if (Array.isArray(value)) {
    hash.update(`a${value.length}:`)
    for (const item of value) add(hash, item)
  } else if (isRecord(value)) {
    const entries = Object.entries(value)
    hash.update(`o${entries.length}:`)
    for (const [name, item] of entries) {
      add(hash, name)
      add(hash, item)
    }
  } else if ((typeof value === "object" && value !== null) || typeof value === "function") {
    hash.update(`r${referenceOf(value)}:`)
  } else hash.update(`v${String(value)}:`)
}

const isRecord = (value: unknown): value is object =>
  typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype

const references = new WeakMap<object, number>()
let nextReference = 0

const referenceOf = (value: object): number => {
  const known = references.get(value)
  if (known !== undefined) return known
  references.set(value, nextReference)
  return nextReference++
}
