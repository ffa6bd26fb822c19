/** The API's certificate, the authority that has signed it, and another authority, which has nothing to do with it. */
import * as Effect from "effect/Effect"
import { authority, serverCertificate } from "../../certificates.js"

/** The only name that the certificate is for. It has no address, so a client must use the name. */
export const serverName = "api.storm.test"

/** All of it in PEM. */
export interface Certificates {
  readonly api: { readonly key: string; readonly cert: string }
  readonly authority: string
  readonly otherAuthority: string
}

export const make: Effect.Effect<Certificates> = Effect.promise(async () => {
  const [{ ca, cert, key }, other] = await Promise.all([
    serverCertificate({ names: [serverName] }),
    authority("other")
  ])
  return { api: { key, cert }, authority: ca, otherAuthority: other.cert }
})
