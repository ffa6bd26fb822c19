/**
 * An authorization server on the loopback that answers its token endpoint as a test says, with any unusual answer that
 * real servers give.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type Received, type Reply, serve, type TestServer } from "./httpServer.js"

export interface Asked {
  readonly path: string
  readonly form: URLSearchParams
  readonly received: Received
}

export interface AuthorizationServer extends TestServer {
  /** The requests to all endpoints but discovery. */
  readonly asked: Array<Asked>
  readonly asksOf: (grantType: string) => ReadonlyArray<Asked>
  readonly discoveries: () => number
}

export const json = (body: unknown, status = 200, headers: Record<string, string> = {}): Reply => ({
  status,
  headers: { "content-type": "application/json", ...headers },
  body: JSON.stringify(body)
})

export const authorizationServer = (
  answer: (asked: Asked) => Reply | Effect.Effect<Reply>,
  more: {
    readonly metadata?: Record<string, unknown>
    readonly discovery?: (url: string, path: string) => Reply | Effect.Effect<Reply>
  } = {}
): Effect.Effect<AuthorizationServer, never, Scope.Scope> =>
  Effect.gen(function*() {
    const asked: Array<Asked> = []
    let discoveries = 0
    const server: TestServer = yield* serve((received) => {
      const path = received.path.split("?")[0]!
      if (path.includes("/.well-known/")) {
        discoveries++
        if (more.discovery !== undefined) return more.discovery(server.url, path)
        return path.includes("openid-configuration")
          ? json(metadataOf(server.url, more.metadata))
          : json({}, 404)
      }
      const one = { path, form: new URLSearchParams(received.body.toString()), received }
      asked.push(one)
      return answer(one)
    })
    return {
      ...server,
      asked,
      asksOf: (grantType) => asked.filter(({ form }) => form.get("grant_type") === grantType),
      discoveries: () => discoveries
    }
  })

export const metadataOf = (url: string, more: Record<string, unknown> = {}) => ({
  issuer: url,
  token_endpoint: `${url}/token`,
  authorization_endpoint: `${url}/authorize`,
  device_authorization_endpoint: `${url}/device`,
  pushed_authorization_request_endpoint: `${url}/par`,
  revocation_endpoint: `${url}/revoke`,
  response_types_supported: ["code"],
  ...more
})
