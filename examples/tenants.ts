/**
 * One client for many tenants. Each has a token of its own, made when its first request comes; a tenant whose
 * credentials are refused does not affect the others.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as FetchHttpClient from "@effect/platform/FetchHttpClient"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServer from "@effect/platform/HttpServer"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
import * as SessionMap from "effect-holdfast/SessionMap"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import { createServer } from "node:http"

class SignInRefused extends Data.TaggedError("SignInRefused")<{ readonly tenant: string }> {}

/** Each tenant has its own path, and only its own token opens it. */
const api = Effect.gen(function*() {
  const server = yield* NodeHttpServer.make(() => createServer(), { port: 0, host: "127.0.0.1" })
  yield* server.serve(HttpRouter.empty.pipe(
    HttpRouter.get(
      "/:tenant/orders",
      Effect.gen(function*() {
        const { headers } = yield* HttpServerRequest.HttpServerRequest
        const { tenant } = yield* HttpRouter.params
        if (headers["authorization"] !== `Bearer token-of-${tenant}`) return HttpServerResponse.empty({ status: 401 })
        return HttpServerResponse.text(`the orders of ${tenant}`)
      })
    )
  ))
  return HttpServer.formatAddress(server.address)
})

const program = Effect.gen(function*() {
  const url = yield* api
  const signIns: Array<string> = []
  const sessions = yield* SessionMap.make({
    lookup: (tenant: string) => ({
      acquire: Effect.suspend(() => {
        signIns.push(tenant)
        return tenant === "initech" ? new SignInRefused({ tenant }) : Effect.succeed(`token-of-${tenant}`)
      })
    }),
    capacity: 1_000
  })
  const client = yield* SessionHttpClient.makeKeyed(sessions, {
    key: (request) => new URL(request.url).pathname.split("/")[1]!,
    attach: SessionHttpClient.bearer,
    origins: [url]
  })
  const orders = (tenant: string) =>
    client.get(`${url}/${tenant}/orders`).pipe(
      Effect.flatMap((response) => response.text),
      Effect.catchTag("SignInRefused", (error) => Effect.succeed(`${error.tenant} cannot sign in`))
    )
  const tenants = ["acme", "globex", "initech"]
  const answers = yield* Effect.forEach([...tenants, ...tenants, ...tenants], orders, { concurrency: "unbounded" })
  for (const answer of new Set(answers)) console.log(answer)
  console.log(`${answers.length} requests, ${signIns.length} sign-ins`)
}).pipe(
  Effect.scoped,
  Effect.provide(FetchHttpClient.layer),
  // The session logs its failed sign-in at Warning.
  Effect.provide(Logger.remove(Logger.defaultLogger))
)

await Effect.runPromise(program)
