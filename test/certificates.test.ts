import { assert, describe, it } from "@effect/vitest"
import { X509Certificate } from "node:crypto"
import { once } from "node:events"
import type { AddressInfo } from "node:net"
import * as Tls from "node:tls"
import { authority, type Certificate, clientCertificate, serverCertificate } from "../examples/certificates.js"

const parsed = ({ cert }: Certificate) => new X509Certificate(cert)

/** The judgement of each side about the other's certificate. */
const handshake = async (server: Tls.TlsOptions, client: Tls.ConnectionOptions) => {
  const listener = Tls.createServer({ requestCert: true, rejectUnauthorized: false, ...server })
  await once(listener.listen(0, "127.0.0.1"), "listening")
  const accepted = once(listener, "secureConnection")
  const { port } = listener.address() as AddressInfo
  const socket = Tls.connect({ host: "127.0.0.1", port, servername: "localhost", rejectUnauthorized: false, ...client })
  const [served] = await accepted as [Tls.TLSSocket]
  const of = (side: Tls.TLSSocket) => side.authorized ? "trusted" : String(side.authorizationError)
  const seen = { server: of(socket), client: of(served) }
  socket.destroy()
  served.destroy()
  listener.close()
  return seen
}

describe("certificates", () => {
  it("are for the requested names and addresses", async () => {
    const certificate = parsed(await serverCertificate({ names: ["a.test", "127.0.0.1", "::1"] }))
    assert.strictEqual(certificate.checkHost("a.test"), "a.test")
    assert.strictEqual(certificate.checkIP("127.0.0.1"), "127.0.0.1")
    assert.strictEqual(certificate.checkIP("::1"), "::1")
    assert.isUndefined(certificate.checkHost("b.test"))
    assert.strictEqual(parsed(await clientCertificate("alice, or = bob")).subject, "CN=alice\\, or = bob")
  })

  it("are valid for the requested time, also if they have already expired", async () => {
    const validity = async (seconds?: number) => {
      const { validFrom, validTo } = parsed(await serverCertificate(seconds === undefined ? {} : { seconds }))
      return [Date.parse(validFrom), Date.parse(validTo)].map((time) => (time - Date.now()) / 1000)
    }
    const day = 24 * 60 * 60
    for (const [seconds, expected] of [[undefined, [-day, day]], [60, [-day, 60]], [-60, [-day - 60, -60]]] as const) {
      const found = await validity(seconds)
      for (const side of [0, 1] as const) assert.approximately(found[side]!, expected[side], 300)
    }
  })

  it.each(["P-256", "RSA-2048"] as const)("are trusted by clients that trust the authority (%s)", async (keys) => {
    const root = await authority("root", { keys })
    const intermediate = await authority("intermediate", { issuer: root, keys })
    const server = await serverCertificate({ issuer: intermediate, keys })
    const client = await clientCertificate("alice", { issuer: root })
    assert.strictEqual(parsed(server).publicKey.asymmetricKeyType, keys === "P-256" ? "ec" : "rsa")
    assert.deepStrictEqual([server.ca, intermediate.ca, root.ca], [intermediate.cert, root.cert, root.cert])

    const shown = { key: server.key, cert: server.cert + intermediate.cert, ca: root.cert }
    const trusted = await handshake(shown, { ca: root.cert, key: client.key, cert: client.cert })
    assert.deepStrictEqual(trusted, { server: "trusted", client: "trusted" })

    const other = await authority("root")
    const stranger = await clientCertificate("alice", { issuer: other })
    const untrusted = await handshake(shown, { ca: other.cert, key: stranger.key, cert: stranger.cert })
    assert.deepStrictEqual(untrusted, {
      server: "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
      // The client sends the authority that it trusts, too.
      client: "SELF_SIGNED_CERT_IN_CHAIN"
    })
  })

  it("share one authority by default", async () => {
    const [one, two] = [await serverCertificate(), await clientCertificate("alice")]
    assert.strictEqual(one.ca, two.ca)
    assert.strictEqual((await handshake(one, { ca: two.ca })).server, "trusted")
    const expired = await serverCertificate({ seconds: -1 })
    assert.strictEqual((await handshake(expired, { ca: one.ca })).server, "CERT_HAS_EXPIRED")
  })

  it("do not accept a server's certificate as an authority's or a client's", async () => {
    const server = await serverCertificate()
    assert.isFalse(parsed(server).ca)
    assert.strictEqual((await handshake(server, server)).client, "INVALID_PURPOSE")
  })
})
