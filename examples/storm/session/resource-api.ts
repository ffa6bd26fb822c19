/**
 * A resource API, with and without TLS: it saves orders, and keeps accounts. It introspects the token of each request
 * at the authorization server, and refuses expired and revoked tokens. It runs in its own process.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as HttpMiddleware from "@effect/platform/HttpMiddleware"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as DefectBoundary from "effect-holdfast/DefectBoundary"
import * as Effect from "effect/Effect"
import * as HashMap from "effect/HashMap"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import { randomBytes } from "node:crypto"
import { createServer, type Server } from "node:http"
import { createServer as createSecureServer } from "node:https"
import type { TLSSocket } from "node:tls"
import { answerWith } from "../answering.js"
import * as Bank from "../balances/bank.js"
import * as Bookkeeping from "../balances/bookkeeping.js"
import * as Balances from "../balances/routes.js"
import { type Chance, chance } from "../chance.js"

export interface Settings {
  readonly authorizationPort: number
  readonly introspectionSecret: string
  readonly seed: number
  /** In PEM. */
  readonly tls: { readonly key: string; readonly cert: string }
}

export interface Ports {
  readonly plain: number
  readonly secure: number
}

/** `handshakes`: only completed ones. */
const counts = { served: 0, refused: 0, errors: 0, handshakes: { full: 0, resumed: 0 } }

// --- tokens ------------------------------------------------------------------

type IsActive = (token: string) => Promise<boolean>

const introspection = ({ authorizationPort, introspectionSecret }: Settings): IsActive => {
  const ask = async (token: string): Promise<boolean> => {
    const response = await fetch(`http://127.0.0.1:${authorizationPort}/token/introspection`, {
      method: "POST",
      headers: { authorization: `Basic ${Buffer.from(`api:${introspectionSecret}`).toString("base64")}` },
      body: new URLSearchParams({ token, token_type_hint: "access_token" }),
      signal: AbortSignal.timeout(5000)
    })
    if (!response.ok) throw new Error(`the authorization server answered ${response.status}`)
    return (await response.json() as { readonly active: boolean }).active
  }

  // Requests that come while their token is being introspected share the answer, which is not kept after that.
  const asking = new Map<string, Promise<boolean>>()
  return (token) => {
    const asked = asking.get(token)
    if (asked !== undefined) return asked
    const answer = ask(token).finally(() => asking.delete(token))
    asking.set(token, answer)
    return answer
  }
}

const authorized = (isActive: IsActive, luck: Chance) =>
  HttpMiddleware.make((route) =>
    Effect.gen(function*() {
      const request = yield* HttpServerRequest.HttpServerRequest
      const token = /^Bearer (.+)$/.exec(request.headers["authorization"] ?? "")?.[1]
      // There is work before the check, so there are always some requests in flight whose token is revoked meanwhile.
      yield* Effect.sleep(luck.between(20, 200))
      if (token === undefined || !(yield* Effect.tryPromise(() => isActive(token)))) {
        counts.refused++
        return HttpServerResponse.empty({ status: 401 }).pipe(
          HttpServerResponse.setHeader("www-authenticate", "Bearer error=\"invalid_token\"")
        )
      }
      return yield* route
    })
  )

// --- orders ------------------------------------------------------------------

/** Saving an order means sending it back. */
const orders = HttpRouter.empty.pipe(
  HttpRouter.put(
    "/orders/:id",
    Effect.flatMap(HttpServerRequest.HttpServerRequest, ({ text }) => text).pipe(
      Effect.map((order) => {
        counts.served++
        return HttpServerResponse.text(order, { contentType: "application/json" })
      })
    )
  )
)

// --- accounts ----------------------------------------------------------------

const bank = Effect.runSync(Bank.make)

const defects = { answered: 0, logged: [] as Array<string> }

/** The ledger checks that each defect was logged. Any other log is unexpected. */
const logger = Logger.make((log) =>
  Option.match(HashMap.get(log.annotations, "incident"), {
    onSome: (incident) => defects.logged.push(String(incident)),
    onNone: () => console.error(Logger.stringLogger.log(log))
  })
)

// --- the server --------------------------------------------------------------

const secureServer = createSecureServer()
// After two requests on a connection there is another handshake.
secureServer.maxRequestsPerSocket = 2
secureServer.on("secureConnection", (socket: TLSSocket) => {
  counts.handshakes[socket.isSessionReused() ? "resumed" : "full"]++
})

const listen = (settings: Settings): Promise<Ports> =>
  Effect.gen(function*() {
    const app = HttpRouter.concat(orders, Balances.make(bank, Bookkeeping.make(settings.seed))).pipe(
      HttpRouter.use(authorized(introspection(settings), chance(settings.seed, "api"))),
      DefectBoundary.isolate,
      Effect.tap(({ status }) => {
        if (status === 500) defects.answered++
      }),
      Effect.catchAll((error) => {
        // A client that disconnected in the middle of its request is not an error of the API, and gets no answer.
        if (error._tag !== "RequestError") counts.errors++
        return HttpServerResponse.text(String(error), { status: 503 })
      })
    )
    secureServer.setSecureContext({ ...settings.tls, minVersion: "TLSv1.3" })
    const serve = Effect.fnUntraced(function*(create: () => Server) {
      const server = yield* NodeHttpServer.make(create, { port: 0, host: "127.0.0.1" })
      yield* server.serve(app)
      return (server.address as { readonly port: number }).port
    })
    return { plain: yield* serve(createServer), secure: yield* serve(() => secureServer) }
  }).pipe(
    // For as long as the process lives, since it is killed.
    Effect.provideService(Scope.Scope, Effect.runSync(Scope.make())),
    Effect.provide(Logger.replace(Logger.defaultLogger, logger)),
    Effect.runPromise
  )

const questions = answerWith({
  listen,
  /** The ticket keys. Earlier tickets are worthless from then on. */
  changeTicketKeys: (): void => secureServer.setTicketKeys(randomBytes(48)),
  report: () => counts,
  /** The state of the accounts when no transfer holds a lock any more, or after five seconds. */
  accounts: () =>
    Effect.runPromise(Effect.all({
      locks: Effect.repeat(Effect.delay(bank.locks, "20 millis"), {
        until: ({ held, waiting }) => held + waiting === 0,
        times: 250
      }),
      balances: bank.balances,
      committed: bank.committed,
      undone: bank.undone,
      defects: Effect.succeed(defects)
    }))
})

export type ResourceApi = typeof questions
