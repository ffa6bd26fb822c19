/**
 * Receives an authorization code for a command-line program (RFC 8252 section 7.3): a server on the loopback, on a port
 * that the system chooses, for as long as one sign-in takes.
 *
 * **What it guarantees.** The server listens on the loopback alone. It accepts one answer: the first request to its
 * path that has the `state` of this sign-in. Every other request (a page that guesses the port, another host name that
 * resolves to this address) gets an error and changes nothing. The browser shows a page that says that the window may
 * be closed; the page contains nothing of the request. When the sign-in has ended, the server no longer listens.
 *
 * @since 0.1.0
 */

import * as Console from "effect/Console"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { networkInterfaces } from "node:os"
import * as Check from "../internal/check.js"
import { OAuth2Error } from "../internal/oauth2/errors.js"
import { InvalidOptions } from "../InvalidOptions.js"
import type * as OAuth2Session from "../OAuth2Session.js"

/**
 * Opens a receiver for `OAuth2Session.authorizationCode`. Throws `InvalidOptions` if an option makes no sense.
 *
 * - `open`: sends the user's browser to the address. The effect may last as long as the browser does: two seconds after
 *   the browser has come back it is interrupted. Default: prints the address, to standard error, since the program's
 *   output may be another program's input.
 * - `path`: the path of the redirect; default `/`. Authorization servers compare it with what is registered.
 * - `host`: `127.0.0.1` (the default), `[::1]`, or `localhost` for a server that knows no other (Entra ignores the port
 *   of `localhost` alone). A browser may take either address for `localhost`, so the receiver listens on both.
 * - `port`: default: any free port. RFC 8252 requires servers to accept every port; a server that does not needs a
 *   fixed port.
 *
 * @example
 * ```ts
 * import { NodeLoopbackRedirect } from "effect-holdfast/node"
 * import { OAuth2Session } from "effect-holdfast/oauth2"
 *
 * const session = OAuth2Session.make({
 *   issuer: "https://login.example.com",
 *   clientId: "cli",
 *   scope: "openid offline_access",
 *   grant: OAuth2Session.authorizationCode(NodeLoopbackRedirect.make({ path: "/callback" }))
 * })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: {
  readonly open?: ((url: URL) => Effect.Effect<void>) | undefined
  readonly path?: string | undefined
  readonly host?: "127.0.0.1" | "[::1]" | "localhost" | undefined
  readonly port?: number | undefined
} = {}): Effect.Effect<OAuth2Session.CodeReceiver, OAuth2Session.OAuth2Error, Scope.Scope> => {
  Check.object("options", options)
  Check.functions(options, ["open"])
  const { host = "127.0.0.1", open = printed, port = 0 } = options
  Check.oneOf("host", host, ["127.0.0.1", "[::1]", "localhost"])
  Check.count("port", port, 0, 65_535)
  const path = pathOf(options.path ?? "/")
  return Effect.gen(function*() {
    const waiting = new Map<string, Deferred.Deferred<URL>>()
    const listener = (address: string, port: number) => {
      const server = createServer((request, response) => receive(request, response, path, host, waiting))
      return Effect.acquireRelease(listening(server, address, port), () => closed(server))
    }
    const actual = yield* listener(host === "localhost" ? "127.0.0.1" : host, port)
    // If another program listened on the IPv6 address, the browser could send the code there.
    if (host === "localhost" && hasIpv6()) yield* listener("[::1]", actual)
    return {
      redirectUri: `http://${host}:${actual}${path}`,
      onAuthorize: (url, state) =>
        Effect.gen(function*() {
          const cameBack = yield* Deferred.make<URL>()
          waiting.set(state, cameBack)
          return yield* Effect.acquireUseRelease(
            // A fiber of its own: the end of a child that goes on in spite of an interruption would be awaited.
            Effect.forkDaemon(Effect.interruptible(Effect.suspend(() => open(url)))),
            (opening) =>
              Effect.raceFirst(Deferred.await(cameBack), Effect.zipRight(Fiber.join(opening), Effect.never)).pipe(
                Effect.zipLeft(Effect.timeoutOption(Fiber.await(opening), patience))
              ),
            Fiber.interruptFork
          )
        })
    }
  })
}

/** Many commands that open a browser end only when the browser is closed. The sign-in does not wait for that. */
const patience = Duration.seconds(2)

/** The path in the form in which a browser sends it. */
const pathOf = (path: string): string => {
  if (typeof path === "string" && /^\/[^?#]*$/.test(path)) return new URL(`http://127.0.0.1${path}`).pathname
  throw new InvalidOptions({
    option: "path",
    value: path,
    reason: "must begin with a slash, without query or fragment"
  })
}

const printed = (url: URL) => Console.error(`Open this address to sign in:\n${url.href}`)

const hasIpv6 = (): boolean =>
  Object.values(networkInterfaces()).some((addresses) => addresses?.some(({ address }) => address === "::1"))

/** Gives the port on which the server listens. */
const listening = (server: Server, host: string, port: number): Effect.Effect<number, OAuth2Error> =>
  Effect.async((resume) => {
    server.once("error", (error: NodeJS.ErrnoException) =>
      resume(
        new OAuth2Error({
          error: "invalid_request",
          description: `nothing can listen on ${host}:${port} for the redirect (${error.code ?? error.name})`
        })
      ))
    server.listen(
      { host: host.replace(/[[\]]/g, ""), port },
      () => resume(Effect.succeed((server.address() as AddressInfo).port))
    )
  })

const closed = (server: Server): Effect.Effect<void> =>
  Effect.async((resume) => {
    server.close(() => resume(Effect.void))
    // The page has been sent, and its response closes its connection. Other open connections are no longer needed.
    server.closeIdleConnections()
    setTimeout(() => server.closeAllConnections(), 200).unref()
  })

const receive = (
  request: IncomingMessage,
  response: ServerResponse,
  path: string,
  host: string,
  waiting: Map<string, Deferred.Deferred<URL>>
): void => {
  const target = `http://${host}:${request.socket.localPort}${request.url}`
  const url = URL.canParse(target) ? new URL(target) : undefined
  // A page of another site may know the port, and could reach this server by another host name. A browser leaves the
  // port 80 out, as a URL does.
  if (url === undefined || request.headers.host !== url.host) return answer(response, 400, "This is no answer.")
  if (url.pathname !== path) return answer(response, 404, "There is nothing here.")
  if (request.method !== "GET") return answer(response, 405, "This is no answer.")
  const cameBack = waiting.get(url.searchParams.get("state") ?? "")
  if (cameBack === undefined) return answer(response, 400, "This is no answer to a sign-in that is under way.")
  waiting.clear()
  response.on("finish", () => Deferred.unsafeDone(cameBack, Effect.succeed(url)))
  response.on("close", () => Deferred.unsafeDone(cameBack, Effect.succeed(url)))
  const isRefused = url.searchParams.has("error")
  answer(
    response,
    200,
    `${isRefused ? "You are not signed in." : "The program has received your sign-in."} You may close this window.`
  )
}

const answer = (response: ServerResponse, status: number, text: string): void => {
  response.writeHead(status, {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": "default-src 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    connection: "close"
  })
  response.end(`<!doctype html><html lang="en"><title>Sign-in</title><p>${text}</p></html>\n`)
}
