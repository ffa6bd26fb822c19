import { authority, type KeyAlgorithm, serverCertificate } from "../../examples/certificates.js"

/** Certificates for `localhost`, in PEM. As usual on the Web, the server shows two certificates. */
export interface Certificates {
  /** The authorities that the client trusts. */
  readonly root: string
  /** The certificates that the server shows: its own, and that of the authority that has signed it. */
  readonly own: string
  readonly intermediate: string
  readonly key: string
}

export const makeCertificates = async (keys: KeyAlgorithm): Promise<Certificates> => {
  const root = await authority("root", { keys })
  const intermediate = await authority("intermediate", { keys, issuer: root })
  const { cert, key } = await serverCertificate({ keys, issuer: intermediate })
  return { root: root.cert, own: cert, intermediate: intermediate.cert, key }
}
