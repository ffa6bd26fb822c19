/**
 * A site with a login form and cookies. The session signs in by the form when the site asks for it, and again when the
 * site has forgotten the visit: once, however many requests find this out.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as FetchHttpClient from "@effect/platform/FetchHttpClient"
import * as Headers from "@effect/platform/Headers"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServer from "@effect/platform/HttpServer"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as HttpSession from "effect-holdfast/HttpSession"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { createServer } from "node:http"

const Form = HttpServerRequest.schemaBodyUrlParams(Schema.Struct({ user: Schema.String, password: Schema.String }))

/** The site. A visit is a number in a cookie. */
const site = Effect.gen(function*() {
  const visits = new Set<string>()
  let logins = 0
  const server = yield* NodeHttpServer.make(() => createServer(), { port: 0, host: "127.0.0.1" })
  yield* server.serve(HttpRouter.empty.pipe(
    HttpRouter.get(
      "/account",
      Effect.map(HttpServerRequest.HttpServerRequest, ({ cookies }) =>
        visits.has(cookies["visit"] ?? "")
          ? HttpServerResponse.text("three parcels are on their way")
          : HttpServerResponse.html("<form action=/login method=post>…</form>").pipe(HttpServerResponse.setStatus(401)))
    ),
    HttpRouter.post(
      "/login",
      Effect.flatMap(Form, ({ password, user }) => {
        if (user !== "ada" || password !== "difference") return HttpServerResponse.empty({ status: 403 })
        const visit = `${++logins}`
        visits.add(visit)
        return HttpServerResponse.setCookie(HttpServerResponse.empty({ status: 204 }), "visit", visit, {
          httpOnly: true
        })
      })
    )
  ))
  return { url: HttpServer.formatAddress(server.address), forgetVisits: () => visits.clear(), logins: () => logins }
})

const program = Effect.gen(function*() {
  const { forgetVisits, logins, url } = yield* site
  const password = Redacted.make("difference")
  const { client } = yield* HttpSession.make({
    identity: Effect.succeed({ headers: Headers.fromInput({ "user-agent": "parcels/1.0" }) }),
    probe: `${url}/account`,
    challenge: (response, send) =>
      response.status !== 401
        ? Option.none()
        : Option.some(send(
          HttpClientRequest.post(`${url}/login`).pipe(
            HttpClientRequest.bodyUrlParams({ user: "ada", password: Redacted.value(password) })
          )
        ))
  })
  const account = Effect.flatMap(client.get(`${url}/account`), (response) => response.text)
  console.log(yield* account)
  forgetVisits()
  const answers = yield* Effect.all(Effect.replicate(account, 50), { concurrency: "unbounded" })
  console.log(`${answers.length} more, ${logins()} logins in all`)
}).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer))

await Effect.runPromise(program)
