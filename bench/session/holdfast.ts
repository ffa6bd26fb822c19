import * as FetchHttpClient from "@effect/platform/FetchHttpClient"
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import * as Session from "effect-holdfast/Session"
import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as Scope from "effect/Scope"
import { type Client, type Contender, type Loop, stormOf } from "./contender.js"
import { type Server, url } from "./server.js"

/** Effect's own fetch client, with the server for its `fetch`. */
export const effectClient = (server: Server) =>
  Layer.provideMerge(FetchHttpClient.layer, Layer.succeed(FetchHttpClient.Fetch, server.fetch))

const carrying = (session: Session.Session<string>) =>
  SessionHttpClient.make(session, { attach: SessionHttpClient.bearer })

const connect = async (server: Server): Promise<Client> => {
  const runtime = ManagedRuntime.make(effectClient(server))
  const scope = Effect.runSync(Scope.make())
  const session = await runtime.runPromise(Scope.extend(
    Session.make({ acquire: Effect.promise(server.refresh), initial: server.first }),
    scope
  ))
  const client = await runtime.runPromise(carrying(session))
  const send = Effect.match(client.get(url), { onFailure: () => 0, onSuccess: ({ status }) => status })
  await runtime.runPromise(send)
  return {
    storm: stormOf(() => runtime.runPromise(send)),
    close: async () => {
      await runtime.runPromise(Scope.close(scope, Exit.void))
      await runtime.dispose()
    }
  }
}

/** The session alone, around `fetch`: what it costs apart from Effect's client. */
export const holdfastOverFetch: Contender = {
  name: "Holdfast, bare fetch",
  connect: async (server) => {
    const scope = Effect.runSync(Scope.make())
    const session = await Effect.runPromise(Scope.extend(
      Session.make({ acquire: Effect.promise(server.refresh), initial: server.first }),
      scope
    ))
    const send = Session.use(session, (token) =>
      Effect.flatMap(
        Effect.promise(() => server.fetch(url, { headers: { authorization: `Bearer ${token}` } })),
        (response) =>
          response.status === 401
            ? Effect.zipRight(Effect.promise(() => response.text()), Effect.fail("refused"))
            : Effect.succeed(response.status)
      ), { rejected: () => true })
    const status = Effect.match(send, { onFailure: () => 0, onSuccess: (status) => status })
    await Effect.runPromise(status)
    return {
      storm: stormOf(() => Effect.runPromise(status)),
      close: () => Effect.runPromise(Scope.close(scope, Exit.void))
    }
  }
}

// One response for all requests: only the client is measured, and `fetch` would cost much more than it.
const ok = new Response(null, { status: 200 })

const inMemory = HttpClient.makeWith<never, never, never, never>(
  Effect.map((request) => HttpClientResponse.fromWeb(request, ok)),
  Effect.succeed
)

const loop = <E>(client: HttpClient.HttpClient.With<E>): Loop => (requests) => {
  let sent = 0
  return Effect.runPromise(Effect.whileLoop({
    while: () => sent < requests,
    body: () => client.get(url),
    step: () => {
      sent++
    }
  }))
}

// Never closed: it has nothing to release.
const session = Effect.runSync(Scope.extend(
  Session.make({ acquire: Effect.never, initial: "token-0" }),
  Effect.runSync(Scope.make())
))

export const holdfast: Contender = {
  name: "Holdfast",
  connect,
  happyPath: [
    { name: "Effect HttpClient", send: loop(inMemory) },
    {
      name: "Effect HttpClient, static bearer",
      send: loop(HttpClient.mapRequest(inMemory, HttpClientRequest.bearerToken("token-0")))
    },
    {
      name: "Effect HttpClient, Holdfast",
      send: loop(SessionHttpClient.withSession(inMemory, session, { attach: SessionHttpClient.bearer }))
    }
  ]
}
