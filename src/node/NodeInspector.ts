/**
 * Serves the page of an `Inspector` on the loopback: the shortest way to look into a process on Node.
 *
 * **What it guarantees.** The server listens on the loopback unless it is told otherwise, and then only with a token.
 * Its requests are in no trace of the application's. When the scope closes, nothing of it remains: pages that are open
 * are cut off, and connect again to the next process that listens there.
 *
 * **What it does not.** It speaks no TLS: beyond the loopback the token and the data go over the network in clear,
 * unless a proxy that does speak TLS stands before it. Without a token, every program of this machine may look.
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
import type { AddressInfo } from "node:net"
import * as Inspector from "../Inspector.js"
import * as Check from "../internal/check.js"
import { InvalidOptions } from "../InvalidOptions.js"

/**
 * Where the page is served, and who may see its data (`token` and `hosts`, as for `Inspector.router`).
 *
 * @since 0.1.0
 * @category models
 */
export interface Options extends Inspector.RouterOptions {
  /** Default: 0, a port that is free. The address is logged at Info. */
  readonly port?: number | undefined
  /** The address to listen on. Default: `127.0.0.1`. One that is not of the loopback needs a token, and `hosts`. */
  readonly host?: string | undefined
}

/**
 * An `Inspector` of everything that is made beneath this layer, and the server of its page. An application that already
 * has an HTTP server may mount `Inspector.router` there instead.
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
 * Serves the page of the `Inspector` at hand until the scope closes, and gives its address.
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
    // A page that is open is read for ever, and the server's end would wait for it.
    yield* Effect.addFinalizer(() => Effect.sync(() => node.closeAllConnections()))
    yield* Effect.locally(server.serve(app), HttpMiddleware.currentTracerDisabledWhen, () => true)
    const { address, family, port: actual } = node.address() as AddressInfo
    return { url: `http://${family === "IPv6" ? `[${address}]` : address}:${actual}/` }
  })

const validate = ({ host = "127.0.0.1", port = 0, ...access }: Options) => {
  if (access.token === undefined && !/^(localhost|127(\.\d{1,3}){3}|::1)$/.test(host)) {
    throw new InvalidOptions({ option: "host", value: host, reason: "must be of the loopback unless there is a token" })
  }
  return { host, port: Check.count("port", port, 0, 65_535), router: Inspector.router(access) }
}
