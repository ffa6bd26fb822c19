import * as FetchHttpClient from "@effect/platform/FetchHttpClient"
import * as Session from "effect-holdfast/Session"
import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
import * as Effect from "effect/Effect"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"

// A server that has revoked "token 0". It only accepts "token 1".
const server = createServer(({ headers }, response) => {
  response.statusCode = headers.authorization === "Bearer token 1" ? 200 : 401
  response.end()
})

let refreshes = 0
const program = Effect.gen(function*() {
  yield* Effect.async<void>((resume) => void server.listen(0, "127.0.0.1", () => resume(Effect.void)))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const session = yield* Session.make({
    acquire: Effect.succeed("token 0"),
    renew: () => Effect.delay(Effect.sync(() => `token ${++refreshes}`), "50 millis")
  })
  const client = yield* SessionHttpClient.make(session, { attach: SessionHttpClient.bearer, origins: [url] })
  // Two hundred callers meet the revoked token at the same time.
  const answers = yield* Effect.all(Effect.replicate(client.get(url), 200), { concurrency: "unbounded" })
  console.log(`${answers.filter(({ status }) => status === 200).length} served, ${refreshes} refresh`)
}).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer))

Effect.runPromise(program).finally(() => server.close())
