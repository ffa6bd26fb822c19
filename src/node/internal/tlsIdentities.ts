/**
 * Who a TLS connection says it is, and whom it takes the server for: a digest of every option that this depends on,
 * and the `SecureContext` made of them, which costs more than the rest of a resumed handshake when it is made anew.
 */
import { createHash, type Hash } from "node:crypto"
import Tls from "node:tls"

export interface TlsIdentity {
  readonly digest: string
  readonly rejectUnauthorized: boolean
  /** Throws what Node throws, for options that make no sense. */
  readonly context: () => Tls.SecureContext
}

/** What a `SecureContext` is made of. */
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

const ofConnection = ["checkServerIdentity", "pskCallback", "minDHSize", "requestOCSP"]

/** More than a client has at once; what is made for each connection anew is not to pile up. */
const capacity = 32

interface Known {
  readonly values: ReadonlyArray<unknown>
  readonly contextDigest: string
  readonly identity: TlsIdentity
}

export class TlsIdentities {
  /** Used last first. */
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
    // The same content in other objects makes the same context.
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

/** Made immediately: the options may have changed by the time that a connection needs the context. */
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

/** An array is told by what is in it, too: one that has changed is another. */
const addValues = (values: Array<unknown>, options: object, names: ReadonlyArray<string>): void => {
  for (const name of names) {
    const value = (options as Record<string, unknown>)[name]
    if (Array.isArray(value)) values.push(ARRAY, value.length, ...(value as Array<unknown>))
    else values.push(value)
  }
}

const ARRAY: unknown = Symbol("array")

/** What stands in for an option that is not given, and can change. */
const defaults = ({ ca, secureContext }: Tls.ConnectionOptions): ReadonlyArray<unknown> => [
  ca || secureContext ? undefined : defaultCAs(),
  Tls.DEFAULT_CIPHERS,
  Tls.DEFAULT_ECDH_CURVE,
  Tls.DEFAULT_MIN_VERSION,
  Tls.DEFAULT_MAX_VERSION
]

/** Whether a server is refused that cannot say who it is. */
const rejects = (options: Tls.ConnectionOptions): boolean =>
  // As Node has it: `undefined`, where it is given, is not the variable's business.
  Object.hasOwn(options, "rejectUnauthorized")
    ? options.rejectUnauthorized !== false
    : process.env["NODE_TLS_REJECT_UNAUTHORIZED"] !== "0"

/** They can be set since Node 24.5; it is another list then. */
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
 * By content where there is content, else by reference. Each part says its kind and length, so that none runs into
 * another.
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
