import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import { assert, describe, it } from "@effect/vitest"
import { NodeTicketCache } from "effect-holdfast/node"
import { OAuth2Session } from "effect-holdfast/oauth2"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import { createHash } from "node:crypto"
import * as Https from "node:https"
import type { AddressInfo } from "node:net"
import type { TLSSocket } from "node:tls"
import { authority, type Certificate, clientCertificate, serverCertificate } from "../../examples/certificates.js"

/** RFC 8705 section 3.1: SHA-256 of the certificate in DER. */
const thumbprintOf = (der: Uint8Array): string => createHash("sha256").update(der).digest("base64url")

const derOf = ({ cert }: Certificate): Buffer => Buffer.from(cert.replace(/-----[^-]+-----|\s/g, ""), "base64")

/**
 * An authorization server and an API in one. The token endpoint for certificates knows one client by its thumbprint and
 * issues tokens that are bound to that; the API accepts a token only from the client that it is bound to.
 */
const server = (own: Certificate, known: string) =>
  Effect.gen(function*() {
    const state = { grants: 0, refused: 0, served: 0, resumed: 0, connections: 0, url: "" }
    const bound = new Map<string, string>()
    const listening = Https.createServer(
      { key: own.key, cert: own.cert, ca: own.ca, requestCert: true, rejectUnauthorized: false },
      (request, response) => {
        const socket = request.socket as TLSSocket
        const raw: Buffer | undefined = socket.getPeerCertificate().raw
        const thumbprint = raw === undefined || !socket.authorized ? undefined : thumbprintOf(raw)
        let body = ""
        request.on("data", (chunk: Buffer) => {
          body += chunk.toString()
        }).on("end", () => {
          const reply = (status: number, answer: unknown) => {
            // The next request comes over a connection of its own.
            response.writeHead(status, { "content-type": "application/json", connection: "close" })
            response.end(JSON.stringify(answer))
          }
          if (request.url === "/.well-known/openid-configuration") {
            return reply(200, {
              issuer: state.url,
              token_endpoint: `${state.url}/without-certificate`,
              mtls_endpoint_aliases: { token_endpoint: `${state.url}/token` }
            })
          }
          if (request.url === "/token") {
            const isKnown = thumbprint === known && new URLSearchParams(body).get("client_id") === "app"
            if (!isKnown) {
              state.refused++
              return reply(401, { error: "invalid_client" })
            }
            const token = `access-${++state.grants}`
            bound.set(token, thumbprint)
            return reply(200, { access_token: token, token_type: "Bearer", expires_in: 3600 })
          }
          const token = request.headers.authorization?.slice("Bearer ".length)
          const isBound = token !== undefined && thumbprint !== undefined && bound.get(token) === thumbprint
          state.served += isBound ? 1 : 0
          reply(isBound ? 200 : 401, {})
        })
      }
    )
    listening.on("secureConnection", (socket) => {
      state.connections++
      state.resumed += socket.isSessionReused() ? 1 : 0
    })
    yield* Effect.acquireRelease(
      Effect.async<void>((resume) => void listening.listen(0, "127.0.0.1", () => resume(Effect.void))),
      () =>
        Effect.async<void>((resume) => {
          listening.close(() => resume(Effect.void))
          listening.closeAllConnections()
        })
    )
    state.url = `https://127.0.0.1:${(listening.address() as AddressInfo).port}`
    return state
  })

/** The client's side, with the client's certificate on each connection. */
const clientOf = (ca: string, certificate: Certificate | undefined) =>
  Layer.provide(
    NodeHttpClient.layerUndiciWithoutDispatcher,
    NodeTicketCache.layerDispatcher({
      tls: { ca, ...(certificate === undefined ? {} : { key: certificate.key, cert: certificate.cert }) }
    })
  )

const session = (url: string) =>
  OAuth2Session.make({
    issuer: url,
    clientId: "app",
    clientAuth: OAuth2Session.mutualTls,
    grant: OAuth2Session.clientCredentials
  })

describe("a client that authenticates by its certificate", () => {
  it.scopedLive("gets tokens that no other client can use, over resumed connections too", () =>
    Effect.gen(function*() {
      const issuer = yield* Effect.promise(() => authority("test"))
      const [own, certificate, stranger] = yield* Effect.promise(() =>
        Promise.all([
          serverCertificate({ issuer }),
          clientCertificate("app", { issuer }),
          clientCertificate("app", { issuer })
        ])
      )
      const at = yield* server(own, thumbprintOf(derOf(certificate)))
      const signedIn = Effect.gen(function*() {
        const signing = yield* session(at.url)
        const client = yield* OAuth2Session.client(signing, { origins: [at.url] })
        const first = yield* signing.current
        for (let i = 0; i < 3; i++) assert.strictEqual((yield* client.get(`${at.url}/api`)).status, 200)
        const next = yield* signing.refresh(first)
        assert.strictEqual((yield* client.get(`${at.url}/api`)).status, 200)
        assert.strictEqual(next.value.tokenType, "Bearer")
        return Redacted.value(next.value.accessToken)
      })
      const token = yield* Effect.provide(signedIn, clientOf(own.ca, certificate))
      assert.strictEqual(token, "access-2")
      assert.deepInclude(at, { grants: 2, refused: 0, served: 4 })
      assert.isAbove(at.resumed, 0, "with a ticket, and known all the same")

      for (const other of [stranger, undefined]) {
        const error = yield* Effect.provide(
          Effect.flip(Effect.flatMap(session(at.url), ({ current }) => current)),
          clientOf(own.ca, other)
        )
        assert.deepInclude(error, { _tag: "OAuth2Error", error: "invalid_client", status: 401 })
      }
      assert.deepInclude(at, { grants: 2, refused: 2, served: 4 })
    }))
})
