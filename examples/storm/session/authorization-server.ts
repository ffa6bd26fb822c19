/**
 * An OAuth 2 authorization server with rotating refresh tokens and reuse detection: presenting a refresh token twice
 * ends the whole grant. It keeps the records by which the session is judged. It runs in its own process.
 */
import { generateKeyPairSync, randomBytes } from "node:crypto"
import { once } from "node:events"
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http"
import Provider, { type AccessToken, type Adapter, type AdapterPayload, type KoaContextWithOIDC } from "oidc-provider"
import { answerWith } from "../answering.js"

export interface Settings {
  /** The secret with which the resource API introspects tokens. */
  readonly introspectionSecret: string
  /**
   * How long an access token lasts, in seconds. The server counts in whole seconds, so a token may last up to one
   * second less.
   */
  readonly lifetime: number
}

export interface Ports {
  readonly forClients: number
  readonly forApi: number
}

/** The only account. */
const accountId = "ada"

// --- the books ---------------------------------------------------------------

const counts = {
  /** The number of access tokens, of all grants. */
  issued: 0,
  signIns: 0,
  /** Tokens that were revoked or expired when their successor was issued. */
  revoked: 0,
  expired: 0,
  /** Successors of a token that was still valid, and sign-ins while the grant was. */
  needless: 0,
  needlessSignIns: 0,
  /** Refresh tokens that were presented more than once, whatever the answer. */
  presentedTwice: 0,
  /** The provider's own count of reuse, after which it has revoked the grant. */
  reuseDetections: 0,
  grantsRevoked: 0,
  errors: 0
}

/** The access token that was issued last. */
let latest:
  | { readonly id: string; readonly grantId: string; expiresAt: number; isRevoked: boolean }
  | undefined

type Latest = NonNullable<typeof latest>

const isAlive = ({ expiresAt, grantId, id }: Latest): boolean =>
  store.has(keyOf("AccessToken", id)) && hasGrant(grantId) && Date.now() < expiresAt

const hasGrant = (grantId: string): boolean => store.has(keyOf("Grant", grantId))

const onIssued = (token: AccessToken): void => {
  const isSignIn = token.gty === "authorization_code"
  counts.issued++
  if (isSignIn) counts.signIns++
  if (latest !== undefined) {
    counts[isAlive(latest) ? "needless" : latest.isRevoked ? "revoked" : "expired"]++
    if (isSignIn && hasGrant(latest.grantId)) counts.needlessSignIns++
  }
  const id = token.jti
  const grantId = token.grantId!
  latest = {
    id,
    grantId,
    // The token object itself does not know when it expires.
    expiresAt: store.get(keyOf("AccessToken", id))!.exp! * 1000,
    // The grant may have been revoked while the token was made.
    isRevoked: !hasGrant(grantId)
  }
}

const presented = new Set<unknown>()

const onPresented = (context: KoaContextWithOIDC): void => {
  const { grant_type: grant, refresh_token: token } = context.oidc.params ?? {}
  if (grant !== "refresh_token") return
  if (presented.has(token)) counts.presentedTwice++
  presented.add(token)
}

/**
 * A client counts a token's lifetime from its request, which on a busy machine may be long before the token is issued.
 * The header is set when the request is sent, and not by the session that is judged: a session that counts from an
 * earlier time renews a token that is still valid by these records.
 */
const onGranted = (context: KoaContextWithOIDC, lifetime: number): void => {
  const asked = Number(context.get("x-sent-at"))
  // The answer to an earlier, abandoned request does not concern a token that was issued later.
  if (latest === undefined || context.oidc.entities.AccessToken?.jti !== latest.id) return
  if (asked > 0) latest.expiresAt = Math.min(latest.expiresAt, asked + lifetime * 1000)
}

// --- the store ---------------------------------------------------------------

const store = new Map<string, AdapterPayload>()

const keyOf = (model: string, id: string): string => `${model}:${id}`

const storeOf = (model: string): Adapter => {
  const findBy = async (field: "uid" | "userCode", value: string) => {
    for (const [key, payload] of store) {
      if (key.startsWith(`${model}:`) && payload[field] === value) return payload
    }
    return undefined
  }
  return {
    upsert: async (id, payload) => void store.set(keyOf(model, id), payload),
    find: async (id) => store.get(keyOf(model, id)),
    findByUid: (uid) => findBy("uid", uid),
    findByUserCode: (userCode) => findBy("userCode", userCode),
    consume: async (id) => {
      const payload = store.get(keyOf(model, id))
      if (payload !== undefined) payload["consumed"] = Math.floor(Date.now() / 1000)
    },
    destroy: async (id) => void store.delete(keyOf(model, id)),
    revokeByGrantId: async (grantId) =>
      remove((key, payload) => key.startsWith(`${model}:`) && payload.grantId === grantId)
  }
}

/** In one step: the store gets no other call meanwhile. */
const remove = (isDoomed: (key: string, payload: AdapterPayload) => boolean): void => {
  for (const [key, payload] of store) {
    if (isDoomed(key, payload)) store.delete(key)
  }
}

// --- the server --------------------------------------------------------------

const listen = async ({ introspectionSecret, lifetime }: Settings): Promise<Ports> => {
  const forClients = createServer()
  // One request for each connection: the proxy knows only connections, so that its faults then concern single requests.
  forClients.maxRequestsPerSocket = 1
  const forApi = createServer()
  const ports = { forClients: await portOf(forClients), forApi: await portOf(forApi) }

  const provider = new Provider(`http://127.0.0.1:${ports.forClients}`, {
    adapter: storeOf,
    clients: [
      {
        client_id: "storm",
        application_type: "native",
        token_endpoint_auth_method: "none",
        grant_types: ["authorization_code", "refresh_token"],
        redirect_uris: ["http://127.0.0.1/signed-in"]
      },
      {
        client_id: "api",
        client_secret: introspectionSecret,
        grant_types: [],
        response_types: [],
        redirect_uris: []
      }
    ],
    scopes: ["offline_access"],
    // For ID tokens, which are not used; without a key the provider warns that it has generated one.
    jwks: { keys: [generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ format: "jwk" })] },
    rotateRefreshToken: true,
    ttl: {
      AccessToken: lifetime,
      AuthorizationCode: 60,
      Grant: 3600,
      Interaction: 60,
      RefreshToken: 3600,
      Session: 60
    },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
    cookies: { keys: [randomBytes(16).toString("hex")] },
    features: {
      devInteractions: { enabled: false },
      introspection: { enabled: true, allowedPolicy: (_, client) => client.clientId === "api" }
    }
  })
  provider.on("access_token.saved", onIssued)
  provider.on("grant.success", (context) => {
    onPresented(context)
    onGranted(context, lifetime)
  })
  provider.on("grant.error", onPresented)
  provider.on("grant.revoked", () => counts.reuseDetections++)
  provider.on("server_error", (_, error) => {
    counts.errors++
    console.error(error)
  })

  const answer = provider.callback()
  forApi.on("request", answer)
  forClients.on("request", (request, response) =>
    request.url?.startsWith("/interaction/")
      ? letIn(provider, request, response).catch((error: unknown) => {
        counts.errors++
        response.writeHead(500).end(String(error))
      })
      : answer(request, response))
  return ports
}

const portOf = async (server: Server): Promise<number> => {
  await once(server.listen(0, "127.0.0.1"), "listening")
  return (server.address() as { readonly port: number }).port
}

/** The page on which the account would sign in and consent. It does both immediately. */
const letIn = async (provider: Provider, request: IncomingMessage, response: ServerResponse): Promise<void> => {
  const { params } = await provider.interactionDetails(request, response)
  const grant = new provider.Grant({ accountId, clientId: String(params["client_id"]) })
  grant.addOIDCScope(String(params["scope"]))
  await provider.interactionFinished(request, response, {
    login: { accountId },
    consent: { grantId: await grant.save() }
  })
}

const questions = answerWith({
  listen,
  /** Revokes all access tokens, or also their grant. */
  revoke: (what: "tokens" | "grant"): void => {
    if (latest === undefined) return
    const { grantId } = latest
    if (isAlive(latest)) latest.isRevoked = true
    if (what === "grant" && hasGrant(grantId)) counts.grantsRevoked++
    remove((key, payload) =>
      key.startsWith("AccessToken:") ||
      what === "grant" && (payload.grantId === grantId || key === keyOf("Grant", grantId))
    )
  },
  report: () => counts
})

export type AuthorizationServer = typeof questions
