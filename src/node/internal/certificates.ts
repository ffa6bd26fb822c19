/**
 * Checks the certificate that belongs to a ticket. A resumed handshake shows no certificate (and Node 20 does not call
 * `checkServerIdentity` for it), so the certificate is checked before the ticket is offered.
 */
import { X509Certificate } from "node:crypto"
import type { ConnectionOptions, DetailedPeerCertificate } from "node:tls"
import { readTlsSession } from "../../internal/tlsSession.js"

export type CheckServerIdentity = NonNullable<ConnectionOptions["checkServerIdentity"]>

/**
 * Whether the certificate would be accepted now. If not, the connection makes a full handshake, which reports the
 * reason.
 */
export const isAccepted = (
  session: Uint8Array,
  hostname: string,
  checkServerIdentity: CheckServerIdentity,
  now: number
): boolean => {
  const der = readTlsSession(session)?.certificate
  if (der === undefined) return false
  try {
    const certificate = readCertificate(der)
    return now <= Date.parse(certificate.valid_to) && !checkServerIdentity(hostname, certificate)
  } catch {
    return false
  }
}

/** The most recently parsed certificates: parsing one costs more than all other work for a ticket. */
const certificates = new Map<string, DetailedPeerCertificate>()

const capacity = 64

const readCertificate = (der: Uint8Array): DetailedPeerCertificate => {
  const id = Buffer.from(der).toString("latin1")
  const known = certificates.get(id)
  if (known !== undefined) return known
  const read = new X509Certificate(der)
  // For a key that cannot be read, this throws; without it the next call would end the process (Node 24).
  void read.publicKey
  const certificate = read.toLegacyObject() as DetailedPeerCertificate
  // The session has no other certificate of the chain. A certificate that is its own issuer ends a chain.
  certificate.issuerCertificate ??= certificate
  certificates.set(id, certificate)
  const [oldest] = certificates.keys()
  if (certificates.size > capacity) certificates.delete(oldest!)
  return certificate
}
