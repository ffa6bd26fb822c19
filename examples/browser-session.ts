/**
 * A site that blocks a visitor now and then: every page is a 403 until the visitor comes with another identity and
 * solves a puzzle. The session changes identity, cookies and connections together, and no caller sees a half-changed
 * session.
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
import { createServer } from "node:http"

const Request = HttpServerRequest.HttpServerRequest

/** The site. A pass is valid for the browser that solved the puzzle, until that browser is blocked. */
const site = Effect.gen(function*() {
  const blocked = new Set<string>()
  const mixed: Array<string> = []
  const server = yield* NodeHttpServer.make(() => createServer(), { port: 0, host: "127.0.0.1" })
  const passOf = (agent: string) => Buffer.from(agent).toString("base64url")
  yield* server.serve(HttpRouter.empty.pipe(
    HttpRouter.get(
      "/page",
      Effect.map(Request, ({ cookies, headers }) => {
        const agent = headers["user-agent"] ?? ""
        const isOwn = cookies["pass"] === passOf(agent)
        if (cookies["pass"] !== undefined && !isOwn) mixed.push(agent)
        return isOwn && !blocked.has(agent)
          ? HttpServerResponse.text("a page")
          : HttpServerResponse.unsafeJson({ puzzle: [6, 7] }, { status: 403 })
      })
    ),
    HttpRouter.post(
      "/solve",
      Effect.gen(function*() {
        const { headers, text } = yield* Request
        const agent = headers["user-agent"] ?? ""
        if ((yield* text) !== "42" || blocked.has(agent)) return HttpServerResponse.empty({ status: 403 })
        return yield* HttpServerResponse.setCookie(HttpServerResponse.empty({ status: 204 }), "pass", passOf(agent))
      })
    )
  ))
  return { url: HttpServer.formatAddress(server.address), block: (agent: string) => blocked.add(agent), mixed }
})

const program = Effect.gen(function*() {
  const { block, mixed, url } = yield* site
  let identities = 0
  const { client, session } = yield* HttpSession.make({
    identity: Effect.sync(() => ({ headers: Headers.fromInput({ "user-agent": `reader/${++identities}` }) })),
    probe: `${url}/page`,
    challenge: (response, send) =>
      response.status !== 403 ? Option.none() : Option.some(Effect.gen(function*() {
        const { puzzle } = (yield* response.json) as { readonly puzzle: readonly [number, number] }
        const answer = String(puzzle[0] * puzzle[1])
        return yield* send(HttpClientRequest.post(`${url}/solve`).pipe(HttpClientRequest.bodyText(answer)))
      }))
  })
  const page = Effect.flatMap(client.get(`${url}/page`), (response) => response.text)
  for (let round = 0; round < 3; round++) {
    const pages = yield* Effect.all(Effect.replicate(page, 30), { concurrency: "unbounded" })
    const { value } = yield* session.current
    const agent = value.identity.headers["user-agent"]!
    console.log(`${pages.length} pages as ${agent}`)
    block(agent)
  }
  console.log(`${mixed.length} requests with another identity's cookies`)
}).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer))

await Effect.runPromise(program)
