/**
 * `oidc-provider` in its own process: an authorization server with rotation, reuse detection, the device flow, DPoP
 * with nonces, `private_key_jwt`, pushed requests and revocation. Its only account consents to everything.
 */
import { generateKeyPairSync, type JsonWebKey, randomBytes } from "node:crypto"
import { createServer, type IncomingMessage, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import Provider from "oidc-provider"

/** The test's questions to the server, and their answers. */
export type Question =
  | { readonly ask: "start"; readonly jwk: JsonWebKey }
  | { readonly ask: "approve"; readonly userCode: string }
  | { readonly ask: "report" }

export interface Report {
  readonly grants: ReadonlyArray<string>
  readonly errors: ReadonlyArray<string>
  readonly revoked: number
}

const report = { grants: [] as Array<string>, errors: [] as Array<string>, revoked: 0 }
let provider: Provider | undefined

const start = (jwk: JsonWebKey): Promise<string> =>
  new Promise((resolve) => {
    const server = createServer((request, response) => {
      if (request.url?.startsWith("/interaction/")) return void letIn(request, response)
      return void answer(request, response)
    })
    let answer: (request: IncomingMessage, response: ServerResponse) => unknown = () => {}
    server.listen(0, "127.0.0.1", () => {
      const issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
      provider = make(issuer, jwk)
      answer = provider.callback()
      resolve(issuer)
    })
  })

const make = (issuer: string, jwk: JsonWebKey): Provider => {
  const made = new Provider(issuer, {
    clients: [
      {
        client_id: "service",
        client_secret: "canary-service-secret",
        token_endpoint_auth_method: "client_secret_basic",
        grant_types: ["client_credentials"],
        response_types: [],
        redirect_uris: []
      },
      {
        client_id: "signer",
        token_endpoint_auth_method: "private_key_jwt",
        grant_types: ["client_credentials"],
        response_types: [],
        redirect_uris: [],
        jwks: { keys: [{ ...jwk, kid: "k1", use: "sig", alg: "ES256" } as never] }
      },
      {
        client_id: "cli",
        application_type: "native",
        token_endpoint_auth_method: "none",
        grant_types: ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
        redirect_uris: ["http://127.0.0.1/callback"]
      }
    ],
    scopes: ["openid", "offline_access", "read"],
    jwks: { keys: [generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ format: "jwk" })] },
    rotateRefreshToken: true,
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
    cookies: { keys: [randomBytes(16).toString("hex")] },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      deviceFlow: { enabled: true },
      revocation: { enabled: true },
      pushedAuthorizationRequests: { enabled: true },
      dPoP: { enabled: true, nonceSecret: randomBytes(32), requireNonce: () => true }
    }
  })
  made.on("grant.success", (context) => report.grants.push(String(context.oidc.params?.["grant_type"])))
  made.on("grant.error", (_, error) => report.errors.push(error.error ?? error.message))
  made.on("grant.revoked", () => report.revoked++)
  made.on("server_error", (_, error) => report.errors.push(error.message))
  return made
}

const accountId = "ada"

const granted = async (clientId: string, scope: string): Promise<string> => {
  const grant = new provider!.Grant({ accountId, clientId })
  grant.addOIDCScope(scope)
  return grant.save()
}

const letIn = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
  const { params } = await provider!.interactionDetails(request, response)
  const grantId = await granted(String(params["client_id"]), String(params["scope"]))
  await provider!.interactionFinished(request, response, { login: { accountId }, consent: { grantId } })
}

const approve = async (userCode: string): Promise<boolean> => {
  const code = await provider!.DeviceCode.findByUserCode(userCode.replaceAll("-", ""), { ignoreExpiration: true })
  if (code === undefined) return false
  const scope = String(code.params?.["scope"])
  Object.assign(code, {
    accountId,
    scope,
    grantId: await granted(code.clientId!, scope),
    authTime: 1,
    acr: "0",
    amr: []
  })
  await code.save()
  return true
}

process.on("message", (question: Question) => {
  const answered = question.ask === "start"
    ? start(question.jwk)
    : question.ask === "approve"
    ? approve(question.userCode)
    : Promise.resolve(report)
  answered.then((answer) => process.send!({ answer }), (error: unknown) => process.send!({ error: String(error) }))
})
process.on("disconnect", () => process.exit())
