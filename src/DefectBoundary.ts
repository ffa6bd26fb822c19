/**
 * A boundary around the handlers of an HTTP server: after a defect it isolates the request, or terminates the server
 * in good order.
 *
 * **The problem.** A server that recovers from everything that its handlers throw goes on with state that a throw has
 * left half changed, and nobody notices. (Effect's own server answers a defect with an empty 500, and logs it at Info
 * or not at all.) A server that exits immediately takes all other requests with it.
 *
 * **What it guarantees.** A defect becomes a 500 with an incident id (`application/problem+json`, RFC 9457), which
 * tells the client nothing about the defect, and one log at Error with that id, which tells the operator everything.
 * The connection and all other handlers go on. With a policy that terminates, the server stops accepting connections,
 * lets the requests in flight finish within a grace period, closes, and fails with `DefectLimitExceeded`, so that the
 * process ends and its supervisor starts a new one. WebSocket clients immediately get the close code 1001 (RFC 6455
 * section 7.4.1, "going away").
 *
 * **What it does not.** The boundary repairs no state: use `TransactionalRef` for that. Not everything that is thrown
 * is a defect: typed failures, interruptions, clients that go away, and values that a handler throws in order to answer
 * (an `HttpServerResponse`, or an error that has a response of its own) are not defects. Neither is a multipart body
 * that cannot be read; its answer is a 400 or a 413 (a 500, if `isolate` is a middleware). The boundary cannot change
 * what the platform does with a finished response: if Node refuses to send its status or a header, the client gets an
 * empty answer, or none. The boundary sees a fiber that a handler forks in the request's scope (`Effect.forkScoped`,
 * `Effect.forkIn`). It does not see a finalizer of that scope, which runs after the response has been sent, nor a fiber
 * that outlives the request (`Effect.forkDaemon`, a scope of your own): Effect does not report the defects of these.
 * Errors thrown outside Effect reach `process`. A handler that blocks the event loop for ever can only be ended by the
 * operating system.
 *
 * @since 0.1.0
 */

import type * as HttpApi from "@effect/platform/HttpApi"
import * as HttpApiBuilder from "@effect/platform/HttpApiBuilder"
import * as HttpApp from "@effect/platform/HttpApp"
import type * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServer from "@effect/platform/HttpServer"
import type * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { isolated } from "./internal/boundary/isolation.js"
import { type Connections, watchConnections } from "./internal/boundary/nodeServer.js"
import { limitsOf } from "./internal/boundary/policy.js"
import { afterGrace, inFiberOfItsOwn, Requests } from "./internal/boundary/requests.js"
import { validated } from "./internal/check.js"
import type { InvalidOptions } from "./InvalidOptions.js"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * With `isolate` the server goes on after any number of defects. With `terminate` the first defect ends it; with
 * `terminateAfter` the given number of defects within the given time does, as with a supervisor in OTP. With these two,
 * a client that knows how to provoke a defect can end the server.
 *
 * @since 0.1.0
 * @category models
 */
export type Policy = "isolate" | "terminate" | {
  readonly terminateAfter: { readonly defects: number; readonly within: Duration.DurationInput }
}

/**
 * Options of a boundary: what happens after a defect, and how long requests in flight may then go on.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /**
   * Default: `"isolate"`. `defects` is from 1 to 10,000, because the time of each defect is remembered for as long as
   * the defect counts.
   */
  readonly policy?: Policy | undefined
  /**
   * The grace period: how long requests in flight may go on when the server ends. Then their connections are closed.
   * Default: 5 seconds, less than the time after which supervisors kill a process (Docker 10 seconds, Kubernetes 30).
   */
  readonly grace?: Duration.DurationInput | undefined
}

/**
 * Options of a boundary around an `HttpApi`.
 *
 * @since 0.1.0
 * @category models
 */
export interface HttpApiOptions<out R = never> extends Options {
  /** A middleware, as in `HttpApiBuilder.serve`. Default: none. */
  readonly middleware?: ((app: HttpApp.Default) => HttpApp.Default<never, R>) | undefined
}

/**
 * A boundary around one application, or several that share a policy.
 *
 * @since 0.1.0
 * @category models
 */
export interface DefectBoundary {
  /** Must be applied to the app itself: a middleware of `HttpServer.serve` comes after the platform has answered. */
  readonly apply: <E, R>(app: HttpApp.Default<E, R>) => HttpApp.Default<E, R>
  /**
   * Waits until there have been too many defects, puts the server out of service, waits for the requests in flight for
   * at most the grace period, and fails. The application must run this effect beside the server. Otherwise the boundary
   * then refuses requests, but the server is not closed.
   */
  readonly terminated: Effect.Effect<never, DefectLimitExceeded>
  /**
   * Puts the server out of service, whether there were defects or not, and waits for the requests in flight for at most
   * the grace period. If you start the server yourself, run this before its scope is closed, so that an interruption
   * ends the server in the same order as a termination does. (`serve` and the layers do so.)
   */
  readonly drained: Effect.Effect<void>
}

// -----------------------------------------------------------------------------
// errors
// -----------------------------------------------------------------------------

/**
 * There were too many defects for the policy. `incident` is that of the last defect; the log has its cause. `within` is
 * infinite for the policy `"terminate"`.
 *
 * @since 0.1.0
 * @category errors
 */
export class DefectLimitExceeded extends Data.TaggedError("DefectLimitExceeded")<{
  readonly defects: number
  readonly within: Duration.Duration
  readonly incident: string
}> {
  override get message(): string {
    const within = Duration.isFinite(this.within) ? ` within ${Duration.format(this.within)}` : ""
    return `the server ends after ${this.defects} ${this.defects === 1 ? "defect" : "defects"}${within}; ` +
      `the last is incident ${this.incident}`
  }
}

// -----------------------------------------------------------------------------
// constructors
// -----------------------------------------------------------------------------

/**
 * Makes a boundary for a server that you start yourself; `serve` is the short way.
 *
 * @example
 * ```ts
 * import * as DefectBoundary from "effect-holdfast/DefectBoundary"
 * import * as HttpApp from "@effect/platform/HttpApp"
 * import * as HttpServer from "@effect/platform/HttpServer"
 * import * as Effect from "effect/Effect"
 *
 * declare const orders: HttpApp.Default
 *
 * const program = Effect.scoped(Effect.gen(function*() {
 *   const boundary = yield* DefectBoundary.make({ policy: { terminateAfter: { defects: 5, within: "1 minute" } } })
 *   yield* HttpServer.serveEffect(boundary.apply(orders))
 *   return yield* Effect.onInterrupt(boundary.terminated, () => boundary.drained)
 * }))
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options?: Options): Effect.Effect<DefectBoundary, InvalidOptions> =>
  Effect.map(makeWith(options), ({ apply, drained, terminated }) => ({ apply, drained, terminated }))

interface Parts extends DefectBoundary {
  /** The part of `apply` that may be applied to one app several times: it isolates defects and counts them. */
  readonly isolate: DefectBoundary["apply"]
}

const makeWith = (options: Options = {}, connections?: Connections): Effect.Effect<Parts, InvalidOptions> =>
  Effect.gen(function*() {
    const limits = yield* validated(() => limitsOf(options))
    const exceeded = yield* Deferred.make<never, DefectLimitExceeded>()
    const requests = new Requests(limits, connections, (incident) => {
      const { defects, within } = limits
      Deferred.unsafeDone(exceeded, Exit.fail(new DefectLimitExceeded({ defects, within, incident })))
    })
    const onDefect = (incident: string, now: number): void => requests.onDefect(incident, now)
    const isolate: Parts["isolate"] = (app) => isolated(app, onDefect)
    return {
      isolate,
      apply: (app) =>
        Effect.ensuring(requests.tracked(isolate(app)), HttpApp.appendPreResponseHandler(requests.closing)),
      // An interruption meanwhile, by a signal say, neither shortens the draining nor hides why the server ends.
      terminated: Effect.uninterruptibleMask((restore) =>
        Effect.catchAll(restore(Deferred.await(exceeded)), (error) => Effect.zipRight(requests.drained, error))
      ),
      drained: requests.drained
    }
  })

// -----------------------------------------------------------------------------
// isolating
// -----------------------------------------------------------------------------

/**
 * The app with its defects isolated. Each defect becomes a 500 with an incident id, is logged once at Error with its
 * cause, and counted (`holdfast_defect_boundary_defects_total`). If the stream of a response dies after the head of the
 * response has been sent, the defect is logged and counted, and the response is cut off. A response that Node cannot
 * send, such as one with a header that contains `€`, is a defect, too.
 *
 * Apply `isolate` to the app itself. As a middleware of `HttpServer.serve` or `HttpApiBuilder.serve` it comes after the
 * platform has answered. It still gives that answer an incident, but until the answer has been sent it cannot
 * distinguish a defect from an unhandled failure: both get the same body. The log distinguishes them, and only the
 * defect is counted. For an `HttpApi` use `layerHttpApi`: an API whose schema of errors fits a defect sends the defect
 * to the client, before any middleware of `HttpApiBuilder.serve` has seen it.
 *
 * @example
 * ```ts
 * import * as DefectBoundary from "effect-holdfast/DefectBoundary"
 * import * as HttpRouter from "@effect/platform/HttpRouter"
 * import * as HttpServer from "@effect/platform/HttpServer"
 * import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
 *
 * const app = HttpRouter.empty.pipe(
 *   HttpRouter.get("/", HttpServerResponse.text("hello")),
 *   DefectBoundary.isolate
 * )
 *
 * const server = HttpServer.serve(app)
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const isolate = <E, R>(app: HttpApp.Default<E, R>): HttpApp.Default<E, R> => isolated(app, () => {})

// -----------------------------------------------------------------------------
// serving
// -----------------------------------------------------------------------------

/**
 * Serves the app behind a boundary until too many defects terminate it. Then it stops accepting connections, answers
 * the requests in flight with `connection: close`, sends WebSocket clients the close code 1001 and interrupts their
 * handlers, waits for all these for at most the grace period, closes, and fails with `DefectLimitExceeded`, so that
 * `runMain` exits with 1 after the application's finalizers, even if a signal comes meanwhile. If `serve` is
 * interrupted before that, by a signal say, it ends in the same way, but without the failure. It never waits longer for
 * a handler that hangs.
 *
 * @example
 * ```ts
 * import * as DefectBoundary from "effect-holdfast/DefectBoundary"
 * import * as HttpApp from "@effect/platform/HttpApp"
 * import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
 * import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
 * import * as Effect from "effect/Effect"
 * import { createServer } from "node:http"
 *
 * declare const orders: HttpApp.Default
 *
 * DefectBoundary.serve(orders, { policy: "terminate" }).pipe(
 *   Effect.provide(NodeHttpServer.layer(() => createServer(), { port: 3000 })),
 *   NodeRuntime.runMain
 * )
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const serve = <E, R>(
  app: HttpApp.Default<E, R>,
  options?: Options
): Effect.Effect<
  never,
  DefectLimitExceeded | InvalidOptions,
  HttpServer.HttpServer | Exclude<R, HttpServerRequest.HttpServerRequest | Scope.Scope>
> => Effect.scoped(Effect.flatten(served(() => Effect.succeed(app), options)))

/**
 * Serves until the scope closes, which drains and closes the server. The value is an effect that waits for the
 * termination.
 */
const served = <E, R, R2 = never>(
  appOf: (boundary: Parts) => Effect.Effect<HttpApp.Default<E, R>, never, R2>,
  options?: Options
): Effect.Effect<
  Effect.Effect<never, DefectLimitExceeded>,
  InvalidOptions,
  HttpServer.HttpServer | Scope.Scope | R2 | Exclude<R, HttpServerRequest.HttpServerRequest | Scope.Scope>
> =>
  Effect.gen(function*() {
    const { address } = yield* HttpServer.HttpServer
    const connections = yield* Effect.acquireRelease(
      Effect.sync(() => watchConnections(address)),
      ({ stop }) => Effect.sync(stop)
    )
    const boundary = yield* makeWith(options, connections)
    const { apply, drained, terminated } = boundary
    const scope = yield* Effect.acquireRelease(Scope.make(), (scope, exit) =>
      // When the platform closes its scope, it waits for handlers of upgraded connections, for ever if they hang.
      Effect.flatMap(
        Effect.zipRight(drained, Effect.forkDaemon(Scope.close(scope, exit))),
        (closing) => inFiberOfItsOwn(Effect.timeoutOption(Fiber.await(closing), afterGrace))
      ))
    yield* Scope.extend(HttpServer.serveEffect(apply(yield* appOf(boundary))), scope)
    return terminated
  }) as Effect.Effect<
    Effect.Effect<never, DefectLimitExceeded>,
    InvalidOptions,
    HttpServer.HttpServer | Scope.Scope | R2 | Exclude<R, HttpServerRequest.HttpServerRequest | Scope.Scope>
  >

/**
 * Waits for the termination of a server that `layer` or `layerHttpApi` has started: the service fails with
 * `DefectLimitExceeded` when that server has been closed, and never ends otherwise. If several servers are in one
 * context, it has only the last one's termination; use `launch`, or a separate scope, for each.
 *
 * @since 0.1.0
 * @category models
 */
export class Termination extends Context.Tag("effect-holdfast/DefectBoundary/Termination")<
  Termination,
  Effect.Effect<never, DefectLimitExceeded>
>() {}

/**
 * `serve` as a layer: built immediately, like that of `HttpServer.serve`. Closing its scope drains the server and
 * closes it. With a policy that terminates, let the application wait for `Termination` (or use `launch`): a layer that
 * has been built cannot end the application. An application that does not wait goes on without a server, and only a log
 * at Error says so.
 *
 * @example
 * ```ts
 * import * as DefectBoundary from "effect-holdfast/DefectBoundary"
 * import type * as HttpApp from "@effect/platform/HttpApp"
 * import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
 * import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 * import { createServer } from "node:http"
 *
 * declare const orders: HttpApp.Default
 *
 * const server = DefectBoundary.layer(orders, { policy: "terminate" }).pipe(
 *   Layer.provide(NodeHttpServer.layer(() => createServer(), { port: 3000 }))
 * )
 *
 * Effect.flatten(DefectBoundary.Termination).pipe(
 *   Effect.provide(server),
 *   NodeRuntime.runMain
 * )
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = <E, R>(
  app: HttpApp.Default<E, R>,
  options?: Options
): Layer.Layer<
  Termination,
  InvalidOptions,
  HttpServer.HttpServer | Exclude<R, HttpServerRequest.HttpServerRequest | Scope.Scope>
> => Layer.scoped(Termination, watched(served(() => Effect.succeed(app), options)))

/** Logs the termination, since the application may not wait for it. */
const watched = <E, R>(
  served: Effect.Effect<Effect.Effect<never, DefectLimitExceeded>, E, R>
): Effect.Effect<Effect.Effect<never, DefectLimitExceeded>, E, R | Scope.Scope> =>
  Effect.tap(served, (terminated) =>
    // A layer is built uninterruptibly.
    Effect.forkScoped(Effect.interruptible(Effect.catchAll(terminated, (error) => Effect.logError(error.message)))))

/**
 * `serve` as a layer for `Layer.launch`. Building the layer lasts for as long as it serves, and fails when the server
 * terminates. A layer that needs this layer would wait for ever.
 *
 * @example
 * ```ts
 * import * as DefectBoundary from "effect-holdfast/DefectBoundary"
 * import type * as HttpApp from "@effect/platform/HttpApp"
 * import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
 * import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
 * import * as Layer from "effect/Layer"
 * import { createServer } from "node:http"
 *
 * declare const orders: HttpApp.Default
 *
 * DefectBoundary.launch(orders, { policy: "terminate" }).pipe(
 *   Layer.provide(NodeHttpServer.layer(() => createServer(), { port: 3000 })),
 *   Layer.launch,
 *   NodeRuntime.runMain
 * )
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const launch = <E, R>(
  app: HttpApp.Default<E, R>,
  options?: Options
): Layer.Layer<
  never,
  DefectLimitExceeded | InvalidOptions,
  HttpServer.HttpServer | Exclude<R, HttpServerRequest.HttpServerRequest | Scope.Scope>
> => Layer.effectDiscard(Effect.interruptible(serve(app, options)))

/**
 * `layer` for an `HttpApi`, in place of `HttpApiBuilder.serve()`: each defect of its handlers gets an incident. (As a
 * middleware of that function, `isolate` comes after the platform's answer. It can add the incident, but before the
 * answer has been sent it can neither distinguish a defect from an unhandled failure, nor count the defect for the
 * policy.) Give a middleware as `options.middleware`. It runs inside the boundary: a middleware that logs causes, like
 * `HttpMiddleware.logger`, logs a defect a second time.
 *
 * Like `layer`, this one cannot end the application: with a policy that terminates, use `launchHttpApi`, or wait for
 * `Termination`.
 *
 * @example
 * ```ts
 * import * as DefectBoundary from "effect-holdfast/DefectBoundary"
 * import type * as HttpApi from "@effect/platform/HttpApi"
 * import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
 * import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
 * import * as Layer from "effect/Layer"
 * import { createServer } from "node:http"
 *
 * declare const ordersApi: Layer.Layer<HttpApi.Api>
 *
 * DefectBoundary.layerHttpApi().pipe(
 *   Layer.provide(ordersApi),
 *   Layer.provide(NodeHttpServer.layer(() => createServer(), { port: 3000 })),
 *   Layer.launch,
 *   NodeRuntime.runMain
 * )
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layerHttpApi = <R = never>(
  options?: HttpApiOptions<R>
): Layer.Layer<
  Termination,
  InvalidOptions,
  | HttpServer.HttpServer
  | HttpRouter.HttpRouter.DefaultServices
  | HttpApi.Api
  | Exclude<R, HttpServerRequest.HttpServerRequest | Scope.Scope>
> =>
  Layer.scoped(
    Termination,
    watched(served<never, unknown, HttpApiBuilder.Router | HttpApiBuilder.Middleware | HttpApi.Api>((boundary) =>
      Effect.gen(function*() {
        const middlewares = yield* HttpApiBuilder.Middleware
        // The API encodes each failure of its handlers, even a defect, if its schema of errors fits. So one boundary is
        // inside the API, around the middlewares that have been added, and a second one is around everything.
        yield* middlewares.add(boundary.isolate)
        const app = yield* HttpApiBuilder.httpApp
        return options?.middleware === undefined ? app : options.middleware(app as HttpApp.Default)
      }), options))
  ).pipe(
    Layer.provide([HttpApiBuilder.Router.Live, HttpApiBuilder.Middleware.layer])
  ) as Layer.Layer<any, InvalidOptions, any>

/**
 * `layerHttpApi` for `Layer.launch`. Building the layer lasts for as long as it serves, and fails when the server
 * terminates.
 *
 * @example
 * ```ts
 * import * as DefectBoundary from "effect-holdfast/DefectBoundary"
 * import type * as HttpApi from "@effect/platform/HttpApi"
 * import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
 * import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
 * import * as Layer from "effect/Layer"
 * import { createServer } from "node:http"
 *
 * declare const ordersApi: Layer.Layer<HttpApi.Api>
 *
 * DefectBoundary.launchHttpApi({ policy: "terminate" }).pipe(
 *   Layer.provide(ordersApi),
 *   Layer.provide(NodeHttpServer.layer(() => createServer(), { port: 3000 })),
 *   Layer.launch,
 *   NodeRuntime.runMain
 * )
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const launchHttpApi = <R = never>(
  options?: HttpApiOptions<R>
): Layer.Layer<
  never,
  DefectLimitExceeded | InvalidOptions,
  | HttpServer.HttpServer
  | HttpRouter.HttpRouter.DefaultServices
  | HttpApi.Api
  | Exclude<R, HttpServerRequest.HttpServerRequest | Scope.Scope>
> =>
  Layer.provide(
    Layer.effectDiscard(Effect.interruptible(Effect.flatten(Termination))),
    layerHttpApi(options)
  )
