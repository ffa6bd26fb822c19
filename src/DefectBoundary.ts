/**
 * What an HTTP server does after a handler's defect: isolate it, or terminate in good order.
 *
 * **The problem.** A server that recovers whatever its handlers throw goes on with state that the throw has left half
 * changed, and nobody is told. (Effect's own server answers a defect with an empty 500, logged at Info or not at all.)
 * A server that exits at once takes all other requests with it.
 *
 * **What it guarantees.** A defect becomes a 500 with an incident id (`application/problem+json`, RFC 9457), which
 * tells the client nothing of what went wrong, and one log at Error with that id, which tells the operator all of it.
 * The connection and all other handlers go on. With a policy that terminates, the server stops accepting, lets the
 * requests in flight finish within a grace, closes, and fails with `DefectLimitExceeded`, so that the process ends
 * and what supervises it starts another.
 *
 * **What it does not.** It repairs no state: that is what `TransactionalRef` is for. Typed failures, interruptions,
 * clients that go away, and what a handler throws in order to answer (an `HttpServerResponse`, or an error that has
 * a response of its own) are no defects; neither is a multipart body that cannot be read, which is a 400 or a 413. It
 * does not hold what the platform does with a finished response: a status or a header that Node refuses to send ends
 * without an answer, or with an empty one. It does not see into fibers that outlive the request (`Effect.forkDaemon`,
 * a scope of one's own): of their defects Effect tells nobody. What is thrown outside Effect reaches `process`. A fiber
 * that a handler forks in the request's scope (`Effect.forkScoped`, `Effect.forkIn`) is seen; a finalizer of that
 * scope, which runs when the response is out, is not. A handler that never lets the event loop go can be ended by
 * nobody but the operating system.
 *
 * @since 0.1.0
 */
import * as HttpApp from "@effect/platform/HttpApp"
import * as HttpBody from "@effect/platform/HttpBody"
import * as HttpServer from "@effect/platform/HttpServer"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerRespondable from "@effect/platform/HttpServerRespondable"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import type * as Multipart from "@effect/platform/Multipart"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Runtime from "effect/Runtime"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { ScopeWatch } from "./internal/scopeWatch.js"
import { count, duration, InvalidOptions, validated } from "./InvalidOptions.js"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * `isolate` goes on after any number of defects. `terminate` ends with the first; `terminateAfter` when there have
 * been so many within so long, as a supervisor in OTP would. With these two, a client that knows how to provoke a
 * defect can end the server.
 *
 * @since 0.1.0
 * @category models
 */
export type Policy = "isolate" | "terminate" | {
  readonly terminateAfter: { readonly defects: number; readonly within: Duration.DurationInput }
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** By default `"isolate"`. `defects` is from 1 to 10,000, each of which is remembered for as long as it counts. */
  readonly policy?: Policy | undefined
  /**
   * How long requests in flight may go on once the server is to terminate. Then their connections are closed. By
   * default 5 seconds: half of what orchestrators wait until they kill, rounded down.
   */
  readonly grace?: Duration.DurationInput | undefined
}

/**
 * A boundary around one application, or several that share a policy.
 *
 * @since 0.1.0
 * @category models
 */
export interface DefectBoundary {
  /** To be applied to the app itself: a middleware of `HttpServer.serve` comes too late, the empty 500 is out. */
  readonly apply: <E, R>(app: HttpApp.Default<E, R>) => HttpApp.Default<E, R>
  /**
   * Waits until there have been too many defects, puts the server out of service, waits for the requests in flight
   * for as long as the grace lasts, and fails. It is to be waited for beside the server: without that, the boundary
   * refuses requests from then on, but nothing is closed.
   */
  readonly terminated: Effect.Effect<never, DefectLimitExceeded>
}

// -----------------------------------------------------------------------------
// isolating
// -----------------------------------------------------------------------------

/**
 * The app with its defects isolated: each becomes a 500 with an incident id, is logged once at Error with its cause,
 * and counted (`holdfast_defect_boundary_defects_total`). A defect in a response's stream, when the head of the
 * response is out already, is logged and counted, and the response cut off.
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
export const isolate = <E, R>(app: HttpApp.Default<E, R>): HttpApp.Default<E, R> => bounded(app, () => {})

const bounded = <E, R>(
  app: HttpApp.Default<E, R>,
  onDefect: (incident: string, now: number) => void
): HttpApp.Default<E, R> =>
  Effect.withFiberRuntime((fiber) => {
    const request = Context.unsafeGet(fiber.currentContext, HttpServerRequest.HttpServerRequest)
    // The same defect can come to light in a fiber and again where that is joined.
    const incidents = new Map<unknown, string>()

    // Noted at once, reported by the effect.
    const report = (cause: Cause.Cause<unknown>, place: Place): Effect.Effect<string> => {
      const defects = defectsOf(cause)
      const known = defects.map((defect) => incidents.get(defect)).find((incident) => incident !== undefined)
      if (known !== undefined) return Effect.succeed(known)
      // Not from `Random`: an application that seeds it would number the incidents of each run alike.
      const incident = crypto.randomUUID()
      for (const defect of defects) incidents.set(defect, incident)
      return Clock.currentTimeMillis.pipe(
        Effect.map((now) => onDefect(incident, now)),
        Effect.zipRight(Metric.increment(Metric.tagged(defectCounter, "place", place))),
        Effect.zipRight(Effect.logError(`a defect in ${places[place]}`, cause)),
        Effect.zipRight(Effect.annotateCurrentSpan({ incident })),
        Effect.annotateLogs({ incident, "http.method": request.method, "http.url": pathOf(request) }),
        // A logger may be broken too.
        Effect.catchAllCause(() => Effect.void),
        Effect.as(incident)
      )
    }

    const watch = new ScopeWatch((exit, fiber) => {
      if (Exit.isFailure(exit) && defectsOf(exit.cause).length > 0) {
        runLike(fiber, report(exit.cause, "fiber"))
      }
    })
    const answering = <E, R>(self: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>) =>
      Effect.catchAllCause(self, (cause) => {
        if (defectsOf(cause).length === 0) return clientFault(cause) ?? Effect.failCause(cause)
        return Effect.map(report(cause, "handler"), (incident) =>
          problem(500, "Internal Server Error", { instance: `urn:uuid:${incident}`, incident }))
      })

    const scope = Context.getOption(fiber.currentContext as Context.Context<Scope.Scope>, Scope.Scope)
    return (Option.isSome(scope) ? watch.supervise(app, scope.value) : app).pipe(
      Effect.map((response) =>
        reportingStream(response, (cause) =>
          // The platform would end the response as if it were whole.
          Effect.map(report(cause, "stream"), () => socketOf(request)?.destroy()))
      ),
      answering,
      // What the app has left to be done with each response is done outside it.
      Effect.ensuring(FiberRef.update(
        HttpApp.currentPreResponseHandlers,
        Option.map((handler): HttpApp.PreResponseHandler => (request, response) =>
          answering(Effect.suspend(() => handler(request, response))))
      ))
    )
  })

const places = {
  handler: "a request handler",
  fiber: "a fiber that a request handler has forked",
  stream: "the stream of a response"
}

type Place = keyof typeof places

const defectCounter = Metric.counter("holdfast_defect_boundary_defects_total", {
  description: "Defects of request handlers, by the place where they came to light",
  incremental: true
})

/** Those that have a response of their own are how a handler answers; others are the client's fault. */
const defectsOf = (cause: Cause.Cause<unknown>): ReadonlyArray<unknown> =>
  // A span puts a proxy around each error that is raised in it.
  Array.from(Cause.defects(cause), Cause.originalError).filter((defect) =>
    !HttpServerResponse.isServerResponse(defect) && !HttpServerRespondable.isRespondable(defect) &&
    statusOf(defect) === undefined
  )

/**
 * A multipart body that cannot be read is the client's fault. `HttpApi` makes a defect of it; and what the parser says
 * when nobody listens becomes one of Node's. Were these defects, any client could end the server.
 */
const statusOf = (defect: unknown): 400 | 413 | undefined => {
  if (Predicate.isTagged(defect, "MultipartError")) {
    const { cause, reason } = defect as unknown as Multipart.MultipartError
    return statuses[reason] ?? statusOfParser(cause)
  }
  const isUnheard = Predicate.hasProperty(defect, "code") && defect.code === "ERR_UNHANDLED_ERROR"
  return isUnheard && Predicate.hasProperty(defect, "context") ? statusOfParser(defect.context) : undefined
}

const statusOfParser = (error: unknown): 400 | 413 | undefined =>
  Predicate.hasProperty(error, "_tag") ? statuses[String(error._tag)] : undefined

const statuses: Readonly<Record<string, 400 | 413>> = {
  Parse: 400,
  BodyTooLarge: 413,
  FieldTooLarge: 413,
  FileTooLarge: 413,
  TooManyParts: 413,
  // The parser's own.
  InvalidBoundary: 400,
  BadHeaders: 400,
  InvalidDisposition: 400,
  EndNotReached: 400,
  ReachedLimit: 413
}

const clientFault = (
  cause: Cause.Cause<unknown>
): Effect.Effect<HttpServerResponse.HttpServerResponse> | undefined => {
  const status = Array.from(Cause.defects(cause), statusOf).find((status) => status !== undefined)
  return status && Effect.succeed(problem(status, status === 400 ? "Bad Request" : "Content Too Large"))
}

/** A query may hold secrets. */
const pathOf = ({ url }: HttpServerRequest.HttpServerRequest): string => url.split("?", 1)[0]!

/** RFC 9457. With `about:blank` the title is the status's own phrase. */
const problem = (status: number, title: string, members: Readonly<Record<string, string>> = {}) =>
  HttpServerResponse.text(JSON.stringify({ type: "about:blank", title, status, ...members }), {
    status,
    contentType: "application/problem+json"
  })

const reportingStream = (
  response: HttpServerResponse.HttpServerResponse,
  report: (cause: Cause.Cause<unknown>) => Effect.Effect<unknown>
): HttpServerResponse.HttpServerResponse => {
  const { body } = response
  if (body._tag !== "Stream") return response
  const stream = Stream.tapErrorCause(body.stream, (cause) =>
    defectsOf(cause).length === 0 ? Effect.void : report(cause))
  return HttpServerResponse.setBody(response, HttpBody.stream(stream, body.contentType, body.contentLength))
}

/** With the loggers and services of a fiber that has ended. */
const runLike = (fiber: Fiber.RuntimeFiber<unknown, unknown>, effect: Effect.Effect<unknown>): void => {
  const runtime = Runtime.make({
    context: fiber.currentContext,
    fiberRefs: fiber.getFiberRefs(),
    runtimeFlags: Runtime.defaultRuntimeFlags
  })
  Runtime.runFork(runtime)(effect)
}

// -----------------------------------------------------------------------------
// terminating
// -----------------------------------------------------------------------------

/**
 * There have been as many defects as the policy allows. `incident` is the last one's; the log has its cause.
 * `within` is infinite for the policy `"terminate"`.
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

type State =
  | { readonly _tag: "Serving"; readonly recent: ReadonlyArray<number> }
  /** Until then, in epoch milliseconds, the requests in flight may go on. */
  | { readonly _tag: "Draining"; readonly until: number }

/**
 * Makes a boundary for a server that one starts oneself; `serve` is the short way.
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
 *   return yield* boundary.terminated
 * }))
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options?: Options): Effect.Effect<DefectBoundary, InvalidOptions> =>
  Effect.map(makeDraining(options), ({ apply, terminated }) => ({ apply, terminated }))

/** With what puts the server out of service whether there were defects or not. */
const makeDraining = (
  options: Options = {}
): Effect.Effect<DefectBoundary & { readonly drained: Effect.Effect<void> }, InvalidOptions> =>
  Effect.gen(function*() {
    const { defects, grace, within } = yield* validated(() => limitsOf(options))
    const exceeded = yield* Deferred.make<never, DefectLimitExceeded>()
    const emptied = yield* Deferred.make<void>()
    const inFlight = new Set<HttpServerRequest.HttpServerRequest>()
    const servers = new Set<NodeServer>()
    let state: State = { _tag: "Serving", recent: [] }

    const onDefect = (incident: string, now: number): void => {
      if (state._tag === "Draining") return
      const recent = [...state.recent.filter((at) => now - at < Duration.toMillis(within)), now]
      if (recent.length < defects) {
        state = { _tag: "Serving", recent }
      } else {
        drain(now)
        Deferred.unsafeDone(exceeded, Exit.fail(new DefectLimitExceeded({ defects, within, incident })))
      }
    }

    /** Gives how long it may still last, however often it is asked for. */
    const drain = (now: number): number => {
      if (state._tag === "Serving") state = { _tag: "Draining", until: now + Duration.toMillis(grace) }
      noteEmpty()
      return Math.max(0, state.until - now)
    }

    const noteEmpty = (): void => {
      if (state._tag === "Draining" && inFlight.size === 0) Deferred.unsafeDone(emptied, Exit.void)
    }

    const drained = Effect.gen(function*() {
      const millis = drain(yield* Clock.currentTimeMillis)
      const sockets = Array.from(inFlight, socketOf).filter((socket) => socket !== undefined)
      for (const server of servers) stopAccepting(server)
      // A response may take longer to reach the client than it took to be handed over.
      const finished = Effect.zipRight(
        Deferred.await(emptied),
        Effect.forEach(sockets, ended, { concurrency: "unbounded", discard: true })
      )
      yield* Effect.timeoutOption(finished, millis)
      for (const socket of sockets) socket.destroy()
      for (const server of servers) server.closeAllConnections()
      // Handlers that can be interrupted are, and finalize what they have.
      yield* Effect.timeoutOption(Deferred.await(emptied), afterGrace)
    })

    /** A request is in flight until its response is out: its scope is closed only then. */
    const tracked = <E, R>(app: HttpApp.Default<E, R>): HttpApp.Default<E, R> =>
      Effect.withFiberRuntime((fiber) => {
        if (state._tag === "Draining") return Effect.succeed(refusal)
        const request = Context.unsafeGet(fiber.currentContext, HttpServerRequest.HttpServerRequest)
        const scope = Context.unsafeGet(fiber.currentContext as Context.Context<Scope.Scope>, Scope.Scope)
        const server = serverOf(request)
        if (server !== undefined) servers.add(server)
        inFlight.add(request)
        const forget = Effect.sync(() => {
          inFlight.delete(request)
          noteEmpty()
        })
        return Effect.zipRight(Scope.addFinalizer(scope, forget), app)
      })

    // As a handler of all responses, since the platform answers typed failures outside the app.
    const closing: HttpApp.PreResponseHandler = (_, response) =>
      Effect.succeed(
        state._tag === "Draining" ? HttpServerResponse.setHeader(response, "connection", "close") : response
      )

    return {
      apply: (app) => Effect.ensuring(tracked(bounded(app, onDefect)), HttpApp.appendPreResponseHandler(closing)),
      terminated: Effect.catchAll(Deferred.await(exceeded), (error) => Effect.zipRight(drained, error)),
      drained
    }
  })

const refusal = problem(503, "Service Unavailable")

/** A fourth of the second that a termination may take beyond the grace: the rest is for the application's finalizers. */
const afterGrace = "250 millis"

const limitsOf = (options: Options) => {
  const given: unknown = options
  if (!Predicate.isRecord(given)) {
    throw new InvalidOptions({ option: "options", value: given, reason: "must be an object" })
  }
  const { grace = "5 seconds", policy = "isolate" } = options
  return { grace: duration("grace", grace, { min: 0 }), ...limitOf(policy) }
}

const limitOf = (policy: Policy): { readonly defects: number; readonly within: Duration.Duration } => {
  // None is remembered.
  if (policy === "isolate") return { defects: Infinity, within: Duration.zero }
  if (policy === "terminate") return { defects: 1, within: Duration.infinity }
  const after = (policy as Partial<Exclude<Policy, string>> | null)?.terminateAfter
  if (typeof after !== "object" || after === null) {
    throw new InvalidOptions({
      option: "policy",
      value: policy,
      reason: "must be \"isolate\", \"terminate\" or { terminateAfter: { defects, within } }"
    })
  }
  return {
    defects: count("policy.terminateAfter.defects", after.defects, 1, 10_000),
    within: duration("policy.terminateAfter.within", after.within, { min: 1, max: Duration.infinity })
  }
}

// -----------------------------------------------------------------------------
// serving
// -----------------------------------------------------------------------------

/**
 * Serves the app behind a boundary, and never ends but by termination. Then it stops accepting, answers what is in
 * flight with `connection: close`, waits for that as long as the grace lasts, closes, and fails with
 * `DefectLimitExceeded`, so that `runMain` exits with 1 after the application's finalizers. Interrupted, as by a
 * signal, it does the same, but for the failure: nobody waits for a handler that hangs. A server is known from its
 * first request on. Before that, a client that has connected and asked nothing can hold up the platform's own closing.
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
> =>
  Effect.flatMap(makeDraining(options), ({ apply, drained, terminated }) =>
    Effect.acquireUseRelease(
      Scope.make(),
      (scope) =>
        Effect.zipRight(
          Scope.extend(HttpServer.serveEffect(apply(app)), scope),
          Effect.onInterrupt(terminated, () => inFiberOfItsOwn(drained))
        ),
      // The platform waits there for handlers of upgraded connections, for ever if they hang.
      (scope, exit) =>
        Effect.flatMap(Effect.forkDaemon(Scope.close(scope, exit)), (closing) =>
          inFiberOfItsOwn(Effect.timeoutOption(Fiber.await(closing), afterGrace)))
    )) as Effect.Effect<
      never,
      DefectLimitExceeded | InvalidOptions,
      HttpServer.HttpServer | Exclude<R, HttpServerRequest.HttpServerRequest | Scope.Scope>
    >

/** Nothing can be timed in a fiber that has been interrupted. */
const inFiberOfItsOwn = <A>(effect: Effect.Effect<A>): Effect.Effect<A> =>
  Effect.flatMap(Effect.forkDaemon(Effect.interruptible(effect)), Fiber.join)

/**
 * `serve` as a layer, for `Layer.launch`: it is built for as long as it serves, and fails when it terminates. A layer
 * that needs this one would wait for ever.
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
 * DefectBoundary.layer(orders, { policy: "terminate" }).pipe(
 *   Layer.provide(NodeHttpServer.layer(() => createServer(), { port: 3000 })),
 *   Layer.launch,
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
  never,
  DefectLimitExceeded | InvalidOptions,
  HttpServer.HttpServer | Exclude<R, HttpServerRequest.HttpServerRequest | Scope.Scope>
> => Layer.effectDiscard(Effect.interruptible(serve(app, options)))

// -----------------------------------------------------------------------------
// the server behind a request
// -----------------------------------------------------------------------------

/**
 * What the platform's `HttpServer` cannot be asked for, and Node's servers can: to accept no more, and to let go of
 * connections whose requests or clients hang. Other servers are drained by their requests alone.
 */
interface NodeServer {
  readonly close: () => void
  closeIdleConnections: () => void
  readonly closeAllConnections: () => void
}

interface NodeSocket {
  readonly server?: Partial<NodeServer>
  readonly closed: boolean
  readonly once: (event: "close", listener: () => void) => void
  readonly end: () => void
  readonly destroy: () => void
}

const socketOf = ({ source }: HttpServerRequest.HttpServerRequest): NodeSocket | undefined =>
  (source as { readonly socket?: NodeSocket }).socket

const serverOf = (request: HttpServerRequest.HttpServerRequest): NodeServer | undefined => {
  const server = socketOf(request)?.server
  return typeof server?.close === "function" && typeof server.closeAllConnections === "function"
    ? (server as NodeServer)
    : undefined
}

/** `close` would also close what it takes for idle: connections whose response is handed over and on its way (Node 20). */
const stopAccepting = (server: NodeServer): void => {
  const { closeIdleConnections } = server
  server.closeIdleConnections = () => {}
  server.close()
  server.closeIdleConnections = closeIdleConnections
}

/** Ends it behind what is on its way, and waits for the client to do the same. */
const ended = (socket: NodeSocket): Effect.Effect<void> =>
  Effect.async((resume) => {
    if (socket.closed) return resume(Effect.void)
    socket.once("close", () => resume(Effect.void))
    socket.end()
  })
