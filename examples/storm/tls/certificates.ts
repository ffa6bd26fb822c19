/** The API's certificate, its authority, and an unrelated authority. */
import * as Effect from "effect/Effect"
import { authority, serverCertificate } from "../../certificates.js"

/** The only name of the certificate. It contains no address, so a client must use the name. */
export const serverName = "api.storm.test"

/** In PEM. */
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
