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
 * and what supervises it starts another. WebSocket clients are told immediately, with the close code 1001 (RFC 6455
 * section 7.4.1, "going away").
 *
 * **What it does not.** The boundary repairs no state: that is what `TransactionalRef` is for. Typed failures,
 * interruptions, clients that go away, and what a handler throws in order to answer (an `HttpServerResponse`, or an
 * error that has a response of its own) are no defects; neither is a multipart body that cannot be read, which is a 400
 * or a 413 (a 500, if `isolate` is a middleware). The boundary has no say in what the platform does with a finished
 * response: a status or a header that Node refuses to send ends without an answer, or with an empty one. Fibers that
 * outlive the request (`Effect.forkDaemon`, a scope of one's own) are not seen: Effect tells nobody of their defects.
 * Errors thrown outside Effect reach `process`.
 * A fiber that a handler forks in the request's scope (`Effect.forkScoped`, `Effect.forkIn`) is seen; a finalizer of
 * that scope, which runs when the response is out, is not. Only the operating system can end a handler that never lets
 * the event loop go.
 *
 * @since 0.1.0
 */

import type * as HttpApi from "@effect/platform/HttpApi"
import * as HttpApiBuilder from "@effect/platform/HttpApiBuilder"
import * as HttpApp from "@effect/platform/HttpApp"
import * as HttpBody from "@effect/platform/HttpBody"
import type * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServer from "@effect/platform/HttpServer"
import * as HttpServerError from "@effect/platform/HttpServerError"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerRespondable from "@effect/platform/HttpServerRespondable"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import type * as Multipart from "@effect/platform/Multipart"
import * as Socket from "@effect/platform/Socket"
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
import { ended, serverOf, socketOf, stopAccepting, watchConnections } from "./internal/boundary/nodeServer.js"
import type { Connections, NodeServer } from "./internal/boundary/nodeServer.js"
import { count, duration, validated } from "./internal/check.js"
import { ScopeWatch } from "./internal/scopeWatch.js"
import { isUnwinding } from "./internal/transaction/unwinding.js"
import { InvalidOptions } from "./InvalidOptions.js"

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
   * default 5 seconds: less than what supervisors wait until they kill (Docker 10 seconds, Kubernetes 30).
   */
  readonly grace?: Duration.DurationInput | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface HttpApiOptions<out R = never> extends Options {
  /** A middleware, as `HttpApiBuilder.serve` takes one. Default: none. */
  readonly middleware?: ((app: HttpApp.Default) => HttpApp.Default<never, R>) | undefined
}

/**
 * A boundary around one application, or several that share a policy.
 *
 * @since 0.1.0
 * @category models
 */
export interface DefectBoundary {
  /** To be applied to the app itself: a middleware of `HttpServer.serve` comes after the platform has answered. */
  readonly apply: <E, R>(app: HttpApp.Default<E, R>) => HttpApp.Default<E, R>
  /**
   * Waits until there have been too many defects, puts the server out of service, waits for the requests in flight
   * for as long as the grace lasts, and fails. It is to be waited for beside the server: without that, the boundary
   * refuses requests from then on, but nothing is closed.
   */
  readonly terminated: Effect.Effect<never, DefectLimitExceeded>
  /**
   * Puts the server out of service, whether there were defects or not, and waits for the requests in flight for as long
   * as the grace lasts. For a server that one starts oneself: to be run before the server's scope is closed, so that an
   * interruption ends it in the same order as a termination. (`serve` and the layers do so.)
   */
  readonly drained: Effect.Effect<void>
}

// -----------------------------------------------------------------------------
// isolating
// -----------------------------------------------------------------------------

/**
 * The app with its defects isolated: each becomes a 500 with an incident id, is logged once at Error with its cause,
 * and counted (`holdfast_defect_boundary_defects_total`). A defect in a response's stream, when the head of the
 * response is out already, is logged and counted, and the response cut off.
 *
 * The place for `isolate` is the app itself. As a middleware of `HttpServer.serve` or `HttpApiBuilder.serve` it comes
 * after the platform has answered; it still gives that answer its incident, but cannot tell a defect from an error that
 * nothing has answered until the answer is out: both have the same body there, only the defect is counted, and each is
 * logged as what it is. For an `HttpApi` use `layerHttpApi`: an API whose schema of errors fits a defect sends it to
 * the client, before any middleware of `HttpApiBuilder.serve` has seen it.
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
  onDefect: (incident: string, nowMillis: number) => void
): HttpApp.Default<E, R> =>
  Effect.withFiberRuntime((fiber) => {
    const request = Context.unsafeGet(fiber.currentContext, HttpServerRequest.HttpServerRequest)
    // Incidents that this boundary has counted.
    const counted = new Set<string>()
    // Errors with which the stream of a response has failed. The platform makes defects of them.
    const streamErrors = new Set<unknown>()
    // Set when the platform has answered before this boundary has seen the cause: see `answeringEarly`.
    let early: string | undefined
    let isInside = true

    const defectsIn = (cause: Cause.Cause<unknown>): ReadonlyArray<unknown> =>
      defectsOf(cause).filter((defect) => !streamErrors.has(defect))

    const logged = (incident: string, message: string, cause: Cause.Cause<unknown>): Effect.Effect<void> =>
      Effect.logError(message, cause).pipe(
        Effect.zipRight(Effect.annotateCurrentSpan({ incident })),
        Effect.annotateLogs({ incident, "http.method": request.method, "http.url": pathOf(request) }),
        // A logger may be broken too.
        Effect.catchAllCause(() => Effect.void)
      )

    // The incident is noted in this step, and reported by the effect.
    const report = (cause: Cause.Cause<unknown>, place: Place): Effect.Effect<string> => {
      const defects = defectsIn(cause)
      const incidents = incidentsOf(request)
      const known = defects.map((defect) => incidents.get(defect)).find((incident) => incident !== undefined)
      const incident = known ?? early ?? newIncident()
      for (const defect of defects) incidents.set(defect, incident)
      const isCounted = counted.has(incident)
      counted.add(incident)
      return monotonicMillis.pipe(
        Effect.map((now) => isCounted ? undefined : onDefect(incident, now)),
        Effect.zipRight(
          known !== undefined ? Effect.void : Effect.zipRight(
            Metric.increment(Metric.tagged(defectCounter, "place", place)),
            logged(incident, `a defect in ${places[place]}`, cause)
          )
        ),
        Effect.as(incident)
      )
    }

    const watch = new ScopeWatch((exit, fiber) => {
      if (Exit.isFailure(exit) && defectsIn(exit.cause).length > 0) {
        runLike(fiber, report(exit.cause, "fiber"))
      }
    })
    const watchingStream = (response: HttpServerResponse.HttpServerResponse): HttpServerResponse.HttpServerResponse => {
      const { body } = response
      if (body._tag !== "Stream") return response
      const stream = Stream.tapErrorCause(body.stream, (cause) => {
        for (const error of Cause.failures(cause)) streamErrors.add(Cause.originalError(error))
        return defectsIn(cause).length === 0
          ? Effect.void
          // The platform would end the response as if it were whole.
          : Effect.map(report(cause, "stream"), () => socketOf(request)?.destroy())
      })
      return HttpServerResponse.setBody(response, HttpBody.stream(stream, body.contentType, body.contentLength))
    }
    const answering = <E, R>(self: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>) =>
      Effect.catchAllCause(self, (cause) => {
        if (defectsIn(cause).length > 0) return Effect.map(report(cause, "handler"), incidentResponse)
        const answer = clientFault(cause) ?? Effect.failCause(cause)
        return early === undefined
          ? answer
          : Effect.zipRight(logged(early, "an error of a request handler that nothing has answered", cause), answer)
      })
    // Around an app that is served already, as a middleware is, the boundary sees a cause only after the platform has
    // sent an empty 500 for it. The platform asks the handlers of responses before that, and its own 500 is always the
    // same object; so the answer has its incident, and the cause is reported when it is there. This handler comes
    // before those of other middlewares, which make other objects of the response.
    const answeringEarly = (response: HttpServerResponse.HttpServerResponse): HttpServerResponse.HttpServerResponse => {
      if (!isInside) return response
      if (response !== platformError) return watchingStream(response)
      early = newIncident()
      return incidentResponse(early)
    }
    const scope = Context.getOption(fiber.currentContext as Context.Context<Scope.Scope>, Scope.Scope)
    return Effect.zipRight(
      FiberRef.update(HttpApp.currentPreResponseHandlers, (handlers) =>
        Option.some(Option.match(handlers, {
          onNone: (): HttpApp.PreResponseHandler => (_, response) => Effect.succeed(answeringEarly(response)),
          onSome: (next): HttpApp.PreResponseHandler => (request, response) => next(request, answeringEarly(response))
        }))),
      Option.isSome(scope) ? watch.supervise(app, scope.value) : app
    ).pipe(
      Effect.map(watchingStream),
      answering,
      // The handlers of responses that the app has added run outside the app.
      Effect.ensuring(Effect.suspend(() => {
        isInside = false
        return FiberRef.update(
          HttpApp.currentPreResponseHandlers,
          Option.map((handler): HttpApp.PreResponseHandler => (request, given) =>
            answering(Effect.map(
              Effect.suspend(() => handler(request, given)),
              (response) => response.body === given.body ? response : watchingStream(response)
            ))
          )
        )
      }))
    )
  })

/**
 * The incidents of a request, by their defect: the same defect can come to light in a fiber and again where that fiber
 * is joined, and in each of several boundaries around one app.
 */
const incidentsOf = (request: HttpServerRequest.HttpServerRequest): Map<unknown, string> => {
  const source = request.source as object
  const known = allIncidents.get(source)
  if (known !== undefined) return known
  const incidents = new Map<unknown, string>()
  allIncidents.set(source, incidents)
  return incidents
}

const allIncidents = new WeakMap<object, Map<unknown, string>>()

/** The platform's answer to a cause that has no response of its own, known by identity: an app's own 500 is another. */
const platformError = HttpServerError.exitResponse(Exit.die(undefined))

/** Not from `Random`: an application that seeds it would number the incidents of each run alike. */
const newIncident = (): string => crypto.randomUUID()

const incidentResponse = (incident: string): HttpServerResponse.HttpServerResponse =>
  problem(500, "Internal Server Error", { instance: `urn:uuid:${incident}`, incident })

/** A wall clock that is set back or forward must neither forget defects nor stretch the grace. */
const monotonicMillis: Effect.Effect<number> = Effect.map(Clock.currentTimeNanos, (nanos) => Number(nanos) / 1e6)

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

/**
 * Some defects are none of the handler's: a defect with a response of its own is how a handler answers, some are the
 * client's fault, and some only unwind the body of a transaction that a deadlock has ended.
 */
const defectsOf = (cause: Cause.Cause<unknown>): ReadonlyArray<unknown> =>
  // A span puts a proxy around each error that is raised in it.
  Array.from(Cause.defects(cause), Cause.originalError).filter((defect) =>
    !HttpServerResponse.isServerResponse(defect) && !HttpServerRespondable.isRespondable(defect) &&
    statusOf(defect) === undefined && !isUnwinding(defect)
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
  /** When the defects came that still count, in milliseconds of the monotonic clock. */
  | { readonly _tag: "Serving"; readonly recent: ReadonlyArray<number> }
  /** Requests in flight may go on until then, in milliseconds of the monotonic clock. */
  | { readonly _tag: "Draining"; readonly until: number }

/** A request whose response is not out yet, or whose connection has been upgraded and is still open. */
interface InFlight {
  readonly request: HttpServerRequest.HttpServerRequest
  readonly handler: Fiber.RuntimeFiber<unknown, unknown>
  /** The sockets to which the handler has upgraded the connection. A handler may ask for an upgrade more than once. */
  readonly webSockets: Array<Socket.Socket>
  /** Called when the response is out. */
  onOver: () => void
}

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
  /** `apply` without what is done once for a request: what the policy counts. */
  readonly isolate: DefectBoundary["apply"]
}

const makeWith = (options: Options = {}, connections?: Connections): Effect.Effect<Parts, InvalidOptions> =>
  Effect.gen(function*() {
    const { defects, grace, within } = yield* validated(() => limitsOf(options))
    const exceeded = yield* Deferred.make<never, DefectLimitExceeded>()
    const emptied = yield* Deferred.make<void>()
    const inFlight = new Set<InFlight>()
    /** Whose upgraded connection is open, also if the handler has ended and another fiber uses it. */
    const upgraded = new Set<InFlight>()
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

    /** Returns how long the draining may still last, however often it is asked for. */
    const drain = (now: number): number => {
      if (state._tag === "Serving") state = { _tag: "Draining", until: now + Duration.toMillis(grace) }
      noteEmpty()
      return Math.max(0, state.until - now)
    }

    const noteEmpty = (): void => {
      if (state._tag === "Draining" && inFlight.size === 0) Deferred.unsafeDone(emptied, Exit.void)
    }

    const drained = inFiberOfItsOwn(Effect.gen(function*() {
      const millis = drain(yield* monotonicMillis)
      if (connections !== undefined) {
        yield* Effect.timeoutOption(connections.knock, knocking)
        const server = connections.server()
        if (server !== undefined) servers.add(server)
      }
      for (const server of servers) stopAccepting(server)
      const entries = new Set([...inFlight, ...upgraded])
      const upgradedSockets = new Set(Array.from(upgraded, ({ request }) => socketOf(request)))
      const sockets = new Set(Array.from(entries, ({ request }) => socketOf(request)).filter(isPresent))
      const dismissedAndOver = (entry: InFlight) => Effect.zipRight(dismissed(entry), over(entry))
      const finished = Effect.forEach(entries, dismissedAndOver, together).pipe(
        // A response may take longer to reach the client than it took to be handed over. The answer to a close frame
        // takes a round trip.
        Effect.zipRight(
          Effect.forEach(
            sockets,
            (socket) =>
              Effect.timeoutOption(ended(socket), upgradedSockets.has(socket) ? closeAnswer : Duration.infinity),
            together
          )
        )
      )
      yield* Effect.timeoutOption(finished, millis)
      for (const socket of [...sockets, ...connections?.open ?? []]) socket.destroy()
      for (const server of servers) server.closeAllConnections()
      // Handlers that can be interrupted are, and finalize what they have.
      yield* Effect.timeoutOption(Deferred.await(emptied), afterGrace)
    }))

    /** The response is out, or the client has gone. */
    const over = (entry: InFlight): Effect.Effect<void> =>
      Effect.async((resume) => {
        const socket = socketOf(entry.request)
        if (!inFlight.has(entry) || socket?.closed) return resume(Effect.void)
        entry.onOver = () => resume(Effect.void)
        socket?.once("close", entry.onOver)
      })

    /** A request is in flight until its response is out: its scope is closed only then. */
    const tracked = <E, R>(app: HttpApp.Default<E, R>): HttpApp.Default<E, R> =>
      Effect.withFiberRuntime((handler) => {
        if (state._tag === "Draining") return Effect.succeed(refusal)
        const request = Context.unsafeGet(handler.currentContext, HttpServerRequest.HttpServerRequest)
        const scope = Context.unsafeGet(handler.currentContext as Context.Context<Scope.Scope>, Scope.Scope)
        const server = serverOf(socketOf(request))
        if (server !== undefined) servers.add(server)
        const entry: InFlight = { request, handler, webSockets: [], onOver: () => {} }
        inFlight.add(entry)
        const forget = Effect.sync(() => {
          inFlight.delete(entry)
          entry.onOver()
          noteEmpty()
        })
        const onUpgrade = (webSocket: Socket.Socket): boolean => {
          const socket = socketOf(request)
          if (entry.webSockets.push(webSocket) === 1 && socket !== undefined && !socket.closed) {
            upgraded.add(entry)
            socket.once("close", () => upgraded.delete(entry))
          }
          return state._tag === "Serving"
        }
        return Effect.zipRight(
          Scope.addFinalizer(scope, forget),
          request.headers["upgrade"] === undefined
            ? app
            : Effect.provideService(app, HttpServerRequest.HttpServerRequest, noting(request, onUpgrade))
        )
      })

    // As a handler of all responses, since the platform answers typed failures outside the app.
    const closing: HttpApp.PreResponseHandler = (_, response) =>
      Effect.succeed(
        state._tag === "Draining" ? HttpServerResponse.setHeader(response, "connection", "close") : response
      )

    return {
      apply: (app) => Effect.ensuring(tracked(bounded(app, onDefect)), HttpApp.appendPreResponseHandler(closing)),
      // An interruption on the way, a signal's say, neither shortens the draining nor hides why the server ends.
      terminated: Effect.uninterruptibleMask((restore) =>
        Effect.catchAll(restore(Deferred.await(exceeded)), (error) => Effect.zipRight(drained, error))
      ),
      drained,
      isolate: (app) => bounded(app, onDefect)
    }
  })

const isPresent = <A>(a: A | undefined): a is A => a !== undefined

/** How long a WebSocket client has to answer the close frame. */
const closeAnswer = "1 second"

const together = { concurrency: "unbounded", discard: true } as const

/** For how long a server that has not been seen to accept anything is waited for. */
const knocking = "1 second"

/** The request, which tells of its upgrade; false: the handler is interrupted instead. */
const noting = (
  request: HttpServerRequest.HttpServerRequest,
  onUpgrade: (webSocket: Socket.Socket) => boolean
): HttpServerRequest.HttpServerRequest => {
  const modify: HttpServerRequest.HttpServerRequest["modify"] = (options) => noting(request.modify(options), onUpgrade)
  const upgrade = Effect.tap(request.upgrade, (webSocket) => onUpgrade(webSocket) ? Effect.void : Effect.interrupt)
  // Its target is another object, which lets a frozen request be stood for; its methods run on the request itself,
  // whose private fields no proxy has.
  return new Proxy(Object.create(Object.getPrototypeOf(request) as object) as HttpServerRequest.HttpServerRequest, {
    get: (_, key) => {
      if (key === "upgrade") return upgrade
      if (key === "modify") return modify
      const value: unknown = Reflect.get(request, key)
      return typeof value === "function" ? value.bind(request) as unknown : value
    },
    set: (_, key, value) => Reflect.set(request, key, value),
    has: (_, key) => Reflect.has(request, key)
  })
}

/**
 * Tells the client of a WebSocket that the server goes away, and interrupts the handler. In this order: a handler that
 * ends first closes the connection without a code.
 */
const dismissed = ({ handler, webSockets }: InFlight): Effect.Effect<void> =>
  webSockets.length === 0
    ? Effect.void
    : Effect.forEach(webSockets, ({ writer }) => Effect.flatMap(writer, (write) => write(goingAway)), together).pipe(
      Effect.scoped,
      // A socket that is not run (yet) cannot be written to.
      Effect.timeoutOption(farewell),
      Effect.ignore,
      Effect.zipRight(Fiber.interruptFork(handler))
    )

/** RFC 6455 section 7.4.1. */
const goingAway = new Socket.CloseEvent(1001, "the server is shutting down")

/** A close frame is handed over immediately, if at all. */
const farewell = "100 millis"

const refusal = problem(503, "Service Unavailable")

/** A fourth of the second that a termination may take beyond the grace. The application's finalizers have the rest. */
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
 * Serves the app behind a boundary, and ends only by termination. Then it stops accepting, answers what is in flight
 * with `connection: close`, tells WebSocket clients 1001 and interrupts their handlers, waits for all that for as long
 * as the grace lasts, closes, and fails with `DefectLimitExceeded`, so that `runMain` exits with 1 after the
 * application's finalizers: also if a signal comes meanwhile. Interrupted before that, as by a signal, it does the
 * same, but for the failure: nobody waits for a handler that hangs.
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

/** Serves in the scope, which drains and closes the server when it is closed. Gives what waits for termination. */
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
      // The platform waits there for handlers of upgraded connections, for ever if they hang.
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

/** Nothing can be timed in a fiber that has been interrupted. */
const inFiberOfItsOwn = <A>(effect: Effect.Effect<A>): Effect.Effect<A> =>
  Effect.flatMap(Effect.forkDaemon(Effect.interruptible(effect)), Fiber.join)

/**
 * Waits for the termination of a server that `layer` or `layerHttpApi` has started: its value fails with
 * `DefectLimitExceeded` when that server has been closed, and never ends otherwise. Of several servers in one context
 * the last one's is heard; use `launch`, or a scope, for each.
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
 * closes it. With a policy that terminates, the application waits for `Termination` (or uses `launch`): a layer that
 * has been built can end nobody, so that an application which does not wait goes on without a server, and has only
 * the log at Error to tell.
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

/** Has a termination logged that the application may not wait for. */
const watched = <E, R>(
  served: Effect.Effect<Effect.Effect<never, DefectLimitExceeded>, E, R>
): Effect.Effect<Effect.Effect<never, DefectLimitExceeded>, E, R | Scope.Scope> =>
  Effect.tap(served, (terminated) =>
    // A layer is built uninterruptibly.
    Effect.forkScoped(Effect.interruptible(Effect.catchAll(terminated, (error) => Effect.logError(error.message)))))

/**
 * `serve` as a layer for `Layer.launch`: it is built for as long as it serves, and fails when the server terminates. A
 * layer that needs this one would wait for ever.
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
 * `layer` for an `HttpApi`, in place of `HttpApiBuilder.serve()`: each defect of its handlers has its incident. (As
 * that function's middleware, `isolate` comes after the platform's answer; it can add the incident, but neither tell a
 * defect from an error that nothing has answered before the answer is out, nor count it among those that terminate.)
 * A middleware is given as `options.middleware`, and stands inside the boundary: one that logs causes, as
 * `HttpMiddleware.logger` does, logs a defect a second time.
 *
 * As `layer`, this one cannot end the application: with a policy that terminates, use `launchHttpApi`, or wait for
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
        // The API encodes whatever its handlers fail with, a defect too, if its schema of errors fits. So the boundary
        // stands within that, around the middlewares that have been added, and once more around all.
        yield* middlewares.add(boundary.isolate)
        const app = yield* HttpApiBuilder.httpApp
        return options?.middleware === undefined ? app : options.middleware(app as HttpApp.Default)
      }), options))
  ).pipe(
    Layer.provide([HttpApiBuilder.Router.Live, HttpApiBuilder.Middleware.layer])
  ) as Layer.Layer<any, InvalidOptions, any>

/**
 * `layerHttpApi` for `Layer.launch`: it is built for as long as it serves, and fails when the server terminates.
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
