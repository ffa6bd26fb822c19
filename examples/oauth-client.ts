/**
 * An OAuth 2 client with a single-use refresh token. Its access token is revoked; a hundred requests are refused, the
 * refresh token is used once, and all hundred are served.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as FetchHttpClient from "@effect/platform/FetchHttpClient"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServer from "@effect/platform/HttpServer"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import { OAuth2Session } from "effect-holdfast/oauth2"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { createServer } from "node:http"

const RefreshRequest = HttpServerRequest.schemaBodyUrlParams(Schema.Struct({
  grant_type: Schema.Literal("refresh_token"),
  client_id: Schema.Literal("orders"),
  refresh_token: Schema.String
}))

/** The authorization server and the API. A refresh token that comes twice revokes everything. */
const providers = Effect.gen(function*() {
  const state = { generation: 0, isRevoked: false, grants: 0 }
  const server = yield* NodeHttpServer.make(() => createServer(), { port: 0, host: "127.0.0.1" })
  const url = HttpServer.formatAddress(server.address)
  const metadata = { issuer: url, token_endpoint: `${url}/token` }
  yield* server.serve(HttpRouter.empty.pipe(
    HttpRouter.get("/.well-known/openid-configuration", HttpServerResponse.json(metadata)),
    HttpRouter.post(
      "/token",
      Effect.flatMap(RefreshRequest, ({ refresh_token }) => {
        if (refresh_token !== `refresh ${state.generation}`) state.isRevoked = true
        if (state.isRevoked) return HttpServerResponse.json({ error: "invalid_grant" }, { status: 400 })
        state.generation++
        state.grants++
        return HttpServerResponse.json({
          access_token: `access-${state.generation}`,
          refresh_token: `refresh ${state.generation}`,
          token_type: "Bearer",
          expires_in: 3600
        })
      })
    ),
    HttpRouter.get(
      "/orders",
      Effect.map(
        HttpServerRequest.HttpServerRequest,
        ({ headers }) =>
          !state.isRevoked && headers["authorization"] === `Bearer access-${state.generation}` && state.generation > 1
            ? HttpServerResponse.text("an order")
            : HttpServerResponse.empty({ status: 401 })
      )
    )
  ))
  return { url, state }
})

const program = Effect.gen(function*() {
  const { state, url } = yield* providers
  const session = yield* OAuth2Session.make({
    issuer: url,
    // Only for this server on the loopback.
    allowInsecureRequests: true,
    clientId: "orders",
    grant: OAuth2Session.refreshToken(Redacted.make("refresh 0"))
  })
  const client = yield* OAuth2Session.client(session, { origins: [url] })
  const orders = Effect.flatMap(client.get(`${url}/orders`), (response) => response.text)
  // The API has revoked the first access token already, and accepts the second.
  const answers = yield* Effect.all(Effect.replicate(orders, 100), { concurrency: "unbounded" })
  console.log(`${answers.length} served, ${state.grants} grants: the first token, and one refresh for all`)
}).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer))

await Effect.runPromise(program)
