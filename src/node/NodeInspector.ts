/**
 * Serves the page of an `Inspector` on the loopback: the simplest way to look into a process on Node.
 *
 * **What it guarantees.** The server listens on the loopback unless `host` says otherwise, and other addresses need a
 * token. The server's requests appear in no trace of the application. When the scope closes, the server is gone: open
 * pages are disconnected, and connect again to the next process that listens on the same address.
 *
 * **What it does not.** The server has no TLS: beyond the loopback the token and the data go over the network in clear
 * text, unless a proxy in front of the server adds TLS. Without a token, every program on this machine can read the
 * data.
 *
 * @since 0.1.0
 */

import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as HttpMiddleware from "@effect/platform/HttpMiddleware"
import * as HttpRouter from "@effect/platform/HttpRouter"
import type { ServeError } from "@effect/platform/HttpServerError"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { createServer } from "node:http"
import type { AddressInfo, Socket } from "node:net"
import * as Inspector from "../Inspector.js"
import * as Check from "../internal/check.js"
import * as Access from "../internal/inspector/access.js"
import { InvalidOptions } from "../InvalidOptions.js"

/**
 * Where the page is served, and who may see its data (`token` and `hosts`, as for `Inspector.router`).
 *
 * @since 0.1.0
 * @category models
 */
export interface Options extends Inspector.RouterOptions {
  /** Default: 0, which picks a free port. The address is logged at Info. */
  readonly port?: number | undefined
  /** The address to listen on. Default: `127.0.0.1`. An address outside the loopback needs a token, and `hosts`. */
  readonly host?: string | undefined
}

/**
 * An `Inspector` of everything that is made with this layer provided, and the server of its page. An application that
 * already has an HTTP server may mount `Inspector.router` there instead.
 *
 * @example
 * ```ts
 * import * as NodeInspector from "effect-holdfast/node/NodeInspector"
 * import * as Effect from "effect/Effect"
 *
 * declare const service: Effect.Effect<void>
 *
 * const inspected = Effect.provide(service, NodeInspector.layer({ port: 4680 }))
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (
  options: Options = {}
): Layer.Layer<Inspector.Inspector, InvalidOptions | ServeError> =>
  Layer.provideMerge(
    Layer.scopedDiscard(
      Effect.tap(serve(options), ({ url }) => Effect.logInfo(`the inspector is at ${url}`))
    ),
    Inspector.layer
  )

/**
 * Serves the page of the `Inspector` in the context until the scope closes, and gives the page's address.
 *
 * @example
 * ```ts
 * import * as NodeInspector from "effect-holdfast/node/NodeInspector"
 * import * as Effect from "effect/Effect"
 *
 * const shown = Effect.flatMap(NodeInspector.serve(), ({ url }) => Effect.log(`look at ${url}`))
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const serve = (
  options: Options = {}
): Effect.Effect<{ readonly url: string }, InvalidOptions | ServeError, Inspector.Inspector | Scope.Scope> =>
  Effect.gen(function*() {
    const { host, port, router } = yield* Check.validated(() => validate(options))
    const node = createServer()
    const server = yield* NodeHttpServer.make(() => node, { host, port })
    const app = yield* HttpRouter.toHttpApp(router)
    // The response to an open page never ends, and closing the server would wait for it. (`closeAllConnections` leaves
    // a connection whose client has asked for an upgrade.)
    const sockets = new Set<Socket>()
    node.on("connection", (socket) => {
      // Node removes its own listener if a client asks for an upgrade. Without one, a reset would end the process.
      socket.on("error", () => {})
      sockets.add(socket)
      socket.once("close", () => sockets.delete(socket))
    })
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        for (const socket of sockets) socket.destroy()
      })
    )
    yield* Effect.locally(server.serve(app), HttpMiddleware.currentTracerDisabledWhen, () => true)
    const { address, family, port: actual } = node.address() as AddressInfo
    return { url: `http://${family === "IPv6" ? `[${address}]` : address}:${actual}/` }
  })

const validate = (options: Options) => {
  const { host: given = "127.0.0.1", port = 0, ...access } = Check.object("options", options)
  // Node takes an IPv6 address without the brackets of a URL.
  const host = Check.name("host", given).replace(/^\[(.*)\]$/, "$1")
  if (access.token === undefined && !Access.isLoopback(host)) {
    throw new InvalidOptions({ option: "host", value: host, reason: "must be a loopback address if there is no token" })
  }
  if (access.hosts === undefined && !Access.isLoopback(host)) {
    throw new InvalidOptions({ option: "hosts", value: undefined, reason: "must be given if `host` is not a loopback" })
  }
  // The address of the page's own URL, which may be another one of the loopback, such as 127.0.0.2.
  const hosts = access.hosts ?? [...Access.loopback, ...Access.isLoopback(host) && host !== "::1" ? [host] : []]
  return { host, port: Check.count("port", port, 0, 65_535), router: Inspector.router({ ...access, hosts }) }
}
