/**
 * Certificates for TLS on this machine: authorities, and the certificates that they sign for servers and clients. No
 * other program is needed, and nothing is written to a file.
 */
// oxlint-disable-next-line no-unassigned-import -- `@peculiar/x509` throws without it, and does not bring it.
import "reflect-metadata"
import * as X509 from "@peculiar/x509"
import { isIP } from "node:net"

/** Keys and certificates in PEM. */
export interface Certificate {
  /** The private key. */
  readonly key: string
  readonly cert: string
  /** The issuer's certificate: the same as `cert` for a self-signed authority. */
  readonly ca: string
}

export interface Authority extends Certificate {
  readonly signingKey: CryptoKey
}

export type KeyAlgorithm = "P-256" | "RSA-2048"

export interface Options {
  /** The authority that signs the certificate: by default one that is the same for the whole process. */
  readonly issuer?: Authority
  /** `"P-256"` by default. Making an RSA key takes a hundred times as long. */
  readonly keys?: KeyAlgorithm
  /** For how long from now on the certificate is valid. Negative: it expired so long ago. A day by default. */
  readonly seconds?: number
}

export interface ServerOptions extends Options {
  /** Host names and IP addresses. `["localhost", "127.0.0.1"]` by default. */
  readonly names?: ReadonlyArray<string>
}

/** An authority without an `issuer` signs itself. */
export const authority = async (name: string, options: Options = {}): Promise<Authority> => {
  const { certificate, keys } = await sign(name, options, [
    new X509.BasicConstraintsExtension(true, undefined, true),
    new X509.KeyUsagesExtension(X509.KeyUsageFlags.keyCertSign | X509.KeyUsageFlags.cRLSign, true)
  ])
  return { ...certificate, signingKey: keys.privateKey }
}

export const serverCertificate = (options: ServerOptions = {}): Promise<Certificate> => {
  const { names = ["localhost", "127.0.0.1"] } = options
  return leaf(names[0]!, options, [
    new X509.KeyUsagesExtension(X509.KeyUsageFlags.digitalSignature | X509.KeyUsageFlags.keyEncipherment, true),
    new X509.ExtendedKeyUsageExtension([X509.ExtendedKeyUsage.serverAuth]),
    new X509.SubjectAlternativeNameExtension(
      names.map((name) => ({ type: isIP(name) === 0 ? "dns" : "ip", value: name }) as const)
    )
  ])
}

export const clientCertificate = (commonName: string, options: Options = {}): Promise<Certificate> =>
  leaf(commonName, options, [
    new X509.KeyUsagesExtension(X509.KeyUsageFlags.digitalSignature, true),
    new X509.ExtendedKeyUsageExtension([X509.ExtendedKeyUsage.clientAuth])
  ])

// -----------------------------------------------------------------------------
// signing
// -----------------------------------------------------------------------------

const algorithms = {
  "P-256": { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" },
  "RSA-2048": {
    name: "RSASSA-PKCS1-v1_5",
    modulusLength: 2048,
    publicExponent: Uint8Array.of(1, 0, 1),
    hash: "SHA-256"
  }
}

let shared: Promise<Authority> | undefined

const leaf = async (
  commonName: string,
  options: Options,
  extensions: ReadonlyArray<X509.Extension>
): Promise<Certificate> => {
  const issuer = options.issuer ?? await (shared ??= authority("holdfast"))
  const isNoAuthority = new X509.BasicConstraintsExtension(false, undefined, true)
  const { certificate } = await sign(commonName, { ...options, issuer }, [isNoAuthority, ...extensions])
  return certificate
}

const secondsPerDay = 24 * 60 * 60

const sign = async (
  commonName: string,
  { issuer, keys: algorithm = "P-256", seconds = secondsPerDay }: Options,
  extensions: ReadonlyArray<X509.Extension>
): Promise<{ readonly certificate: Certificate; readonly keys: CryptoKeyPair }> => {
  const keys = await crypto.subtle.generateKey(algorithms[algorithm], true, ["sign", "verify"])
  const subject = [{ CN: [commonName] }]
  const by = issuer && new X509.X509Certificate(issuer.cert)
  const signingKey = issuer?.signingKey ?? keys.privateKey
  const notAfter = Date.now() + seconds * 1000
  const certificate = await X509.X509CertificateGenerator.create({
    subject,
    issuer: by?.subjectName ?? subject,
    publicKey: keys.publicKey,
    signingKey,
    // An ECDSA key does not say which hash it signs.
    signingAlgorithm: { ...signingKey.algorithm, hash: "SHA-256" },
    notBefore: new Date(Math.min(notAfter, Date.now()) - secondsPerDay * 1000),
    notAfter: new Date(notAfter),
    extensions: [
      ...extensions,
      await X509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      await X509.AuthorityKeyIdentifierExtension.create(by?.publicKey ?? keys.publicKey)
    ]
  })
  const cert = pem(certificate.rawData, X509.PemConverter.CertificateTag)
  const key = pem(await crypto.subtle.exportKey("pkcs8", keys.privateKey), X509.PemConverter.PrivateKeyTag)
  return { certificate: { key, cert, ca: issuer?.cert ?? cert }, keys }
}

const pem = (der: ArrayBuffer, tag: string): string =>
  `${X509.PemConverter.encode(der, tag)}
`
