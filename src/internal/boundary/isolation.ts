/**
 * Isolates the defects of one request: each defect gets an incident, and is logged, counted and answered, wherever it
 * occurs (in the app, in a fiber that the app forks, in the stream of its response).
 */
import * as HttpApp from "@effect/platform/HttpApp"
import * as HttpBody from "@effect/platform/HttpBody"
import * as HttpServerError from "@effect/platform/HttpServerError"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerRespondable from "@effect/platform/HttpServerRespondable"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Runtime from "effect/Runtime"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Tracer from "effect/Tracer"
import { ScopeWatch } from "../scopeWatch.js"
import { clientFault, type Defect, defectsOf, respondableIn } from "./defects.js"
import { responseOf, socketOf, throwUnlessSendable } from "./nodeServer.js"
import { monotonicMillis } from "./policy.js"
import { problem } from "./problem.js"

type Request = HttpServerRequest.HttpServerRequest
type Response = HttpServerResponse.HttpServerResponse
type Respondable = HttpServerRespondable.Respondable

/** Called once for each incident. The time is in milliseconds of the monotonic clock. */
export type OnDefect = (incident: string, nowMillis: number) => void

export const isolated = <E, R>(app: HttpApp.Default<E, R>, onDefect: OnDefect): HttpApp.Default<E, R> =>
  Effect.withFiberRuntime((fiber) => {
    const request = Context.unsafeGet(fiber.currentContext, HttpServerRequest.HttpServerRequest)
    const scope = Context.getOption(fiber.currentContext as Context.Context<Scope.Scope>, Scope.Scope)
    const span = Context.getOption(fiber.currentContext as Context.Context<Tracer.ParentSpan>, Tracer.ParentSpan)
    return new Isolation(request, onDefect, span).around(app, scope)
  })

class Isolation {
  private readonly request: Request
  private readonly onDefect: OnDefect
  /** The incidents that were counted for this policy, by this isolation or by another one around the same request. */
  private readonly counted: Set<string>
  /** The request's own span, if there is a tracer. */
  private readonly span: Option.Option<Tracer.AnySpan>
  /** Errors with which the stream of a response has failed. The platform turns them into defects. */
  private readonly streamErrors = new Set<unknown>()
  /** The incident of the platform's own answer, if that came before the cause: see `answeredByPlatform`. */
  private early: string | undefined
  /** The response of the error that has ended the app, and the cause. */
  private responding:
    | { readonly response: Effect.Effect<Response, unknown>; readonly cause: Cause.Cause<unknown> }
    | undefined
  /** Whether the app is running. */
  private isInside = true

  constructor(request: Request, onDefect: OnDefect, span: Option.Option<Tracer.AnySpan>) {
    this.request = request
    this.onDefect = onDefect
    this.span = span
    this.counted = countedBy(onDefect, request)
  }

  around<E, R>(app: HttpApp.Default<E, R>, scope: Option.Option<Scope.Scope>): HttpApp.Default<E, R> {
    return Effect.zipRight(this.handleResponses, this.watchingFibers(app, scope)).pipe(
      Effect.map((response) => this.watchingStream(response)),
      (answered) => this.answering(answered),
      Effect.ensuring(this.handleLaterResponses)
    )
  }

  // ---------------------------------------------------------------------------
  // the places at which defects are seen
  // ---------------------------------------------------------------------------

  private answering<E, R>(self: Effect.Effect<Response, E, R>): Effect.Effect<Response, E, R> {
    return Effect.catchAllCause(self, (cause) => {
      if (this.defectsIn(cause).length > 0) return Effect.map(this.report(cause, "handler"), incidentResponse)
      const respondable = respondableIn(cause)
      if (respondable !== undefined && this.early === undefined) return this.respondedBy(respondable, cause)
      const fault = clientFault(cause)
      const answer = fault === undefined ? Effect.failCause(cause) : Effect.succeed(fault)
      return this.early === undefined ? answer : Effect.zipRight(
        this.logged(this.early, "an error of a request handler that nothing has answered", cause),
        answer
      )
    })
  }

  /**
   * For an error that has a response of its own, the platform sends an empty 500 if that cannot be made, and says
   * nothing about it; if making it throws, it sends nothing.
   */
  private respondedBy<E>(respondable: Respondable, cause: Cause.Cause<E>): Effect.Effect<Response, E> {
    try {
      this.responding = { response: respondable[HttpServerRespondable.symbol](), cause }
    } catch (why) {
      return this.notMade(cause, why)
    }
    return Effect.failCause(cause)
  }

  private notMade(cause: Cause.Cause<unknown>, why: unknown): Effect.Effect<Response> {
    return Effect.map(this.report(Cause.sequential(cause, Cause.die(why)), "handler"), incidentResponse)
  }

  /** The response that the platform sends, or an incident in place of a response that it could not make. */
  private sentByPlatform(given: Response): Effect.Effect<Response> {
    if (given !== platformError || this.responding === undefined) return Effect.succeed(given)
    const { cause, response } = this.responding
    return Effect.catchAllCause(response, (why) => this.notMade(cause, Cause.squash(why)))
  }

  private checkSendable(response: Response): void {
    try {
      throwUnlessSendable(this.request, response)
    } catch (defect) {
      const body = response.body._tag === "Raw" ? response.body.body : undefined
      // A file would stay open.
      if (Predicate.hasProperty(body, "destroy") && Predicate.isFunction(body.destroy)) body.destroy()
      throw defect
    }
  }

  /** Fibers that the app forks in the request's scope. */
  private watchingFibers<E, R>(
    app: HttpApp.Default<E, R>,
    scope: Option.Option<Scope.Scope>
  ): HttpApp.Default<E, R> {
    if (Option.isNone(scope)) return app
    const watch = new ScopeWatch((exit, fiber) => {
      if (Exit.isFailure(exit) && this.defectsIn(exit.cause).length > 0) {
        runLike(fiber, this.report(exit.cause, "fiber"))
      }
    })
    return watch.supervise(app, scope.value)
  }

  private watchingStream(response: Response): Response {
    const { body } = response
    if (body._tag !== "Stream") return response
    const onFailure = (cause: Cause.Cause<unknown>): Effect.Effect<void> => {
      for (const error of Cause.failures(cause)) this.streamErrors.add(Cause.originalError(error))
      return this.defectsIn(cause).length === 0
        ? Effect.void
        // Without this, the platform would end the response as if it were complete. Node destroys the connection when
        // the responses before this one have been sent.
        : Effect.map(
          this.report(cause, "stream"),
          () => (responseOf(this.request) ?? socketOf(this.request))?.destroy()
        )
    }
    return HttpServerResponse.setBody(
      response,
      HttpBody.stream(withFailures(body.stream, onFailure), body.contentType, body.contentLength)
    )
  }

  /** Runs before the handlers of other middlewares, which replace the response by another object. */
  private readonly handleResponses = FiberRef.update(
    HttpApp.currentPreResponseHandlers,
    (handlers) =>
      Option.some(Option.match(handlers, {
        onNone: (): HttpApp.PreResponseHandler => (_, response) => Effect.sync(() => this.answeredByPlatform(response)),
        onSome: (next): HttpApp.PreResponseHandler => (request, response) =>
          Effect.suspend(() => next(request, this.answeredByPlatform(response)))
      }))
  )

  /**
   * If the boundary is around an app that is already served, like a middleware, it sees a cause only after the platform
   * has sent an empty 500. Before that, the platform calls the handlers of responses, and its own 500 is always the
   * same object. So this handler gives that answer its incident, and the cause is reported when the boundary sees it.
   */
  private answeredByPlatform(response: Response): Response {
    if (!this.isInside) return response
    if (response !== platformError) {
      this.checkSendable(response)
      return this.watchingStream(response)
    }
    this.early = newIncident()
    return incidentResponse(this.early)
  }

  /** The handlers of responses that the app has added run when the app has ended. */
  private readonly handleLaterResponses = Effect.suspend(() => {
    this.isInside = false
    return FiberRef.update(
      HttpApp.currentPreResponseHandlers,
      Option.map((handler): HttpApp.PreResponseHandler => (request, given) =>
        this.answering(Effect.flatMap(this.sentByPlatform(given), (given) =>
          Effect.map(
            Effect.suspend(() => handler(request, given)),
            (response) => {
              this.checkSendable(response)
              return response.body === given.body ? response : this.watchingStream(response)
            }
          )))
      )
    )
  })

  // ---------------------------------------------------------------------------
  // incidents
  // ---------------------------------------------------------------------------

  private defectsIn(cause: Cause.Cause<unknown>): ReadonlyArray<Defect> {
    return defectsOf(cause).filter(({ defect }) => !this.streamErrors.has(defect))
  }

  /** Records the incident in this step; the returned effect reports it. */
  private report(cause: Cause.Cause<unknown>, place: Place): Effect.Effect<string> {
    const defects = this.defectsIn(cause).map((defect) => identityOf(defect, place))
    const incidents = incidentsOf(this.request)
    const known = defects.map((defect) => incidents.get(defect)).find((incident) => incident !== undefined)
    const incident = known ?? this.early ?? newIncident()
    for (const defect of defects) incidents.set(defect, incident)
    const isCounted = this.counted.has(incident)
    this.counted.add(incident)
    const reported = Effect.zipRight(
      Metric.increment(Metric.tagged(defectCounter, "place", place)),
      this.logged(incident, `a defect in ${places[place]}`, cause)
    )
    return monotonicMillis.pipe(
      Effect.map((now) => isCounted ? undefined : this.onDefect(incident, now)),
      Effect.zipRight(known === undefined ? reported : Effect.void),
      Effect.as(incident)
    )
  }

  private logged(incident: string, message: string, cause: Cause.Cause<unknown>): Effect.Effect<void> {
    if (Option.isSome(this.span) && this.span.value._tag === "Span") this.span.value.attribute("incident", incident)
    return Effect.logError(message, cause).pipe(
      Effect.annotateLogs({ incident, "http.method": this.request.method, "http.url": pathOf(this.request) }),
      // A logger may be broken too.
      Effect.catchAllCause(() => Effect.void)
    )
  }
}

/** `Stream.tapErrorCause` that also sees what the stream's own finalizers raise. */
const withFailures = <A, E>(
  stream: Stream.Stream<A, E>,
  onFailure: (cause: Cause.Cause<unknown>) => Effect.Effect<void>
): Stream.Stream<A, E> =>
  Stream.unwrapScoped(Effect.gen(function*() {
    const scope = yield* Scope.make()
    yield* Effect.addFinalizer((exit) => Effect.tapErrorCause(Scope.close(scope, exit), (cause) => onFailure(cause)))
    return Stream.fromPull(
      Scope.extend(Stream.toPull(Stream.tapErrorCause(stream, (cause) => onFailure(cause))), scope)
    )
  }))

/**
 * The key by which a defect is recognised when it is seen again. Two defects may be the same text, so a primitive is
 * recognised by its part of the cause; in a stream, which makes the cause anew, by itself.
 */
const identityOf = ({ defect, part }: Defect, place: Place): unknown =>
  Predicate.isObject(defect) || place === "stream" ? defect : part

/**
 * The incidents of a request, by their defect: the same defect can be seen in a fiber and again where that fiber is
 * joined, and by each of several boundaries around one app.
 */
const incidentsOf = (request: Request): Map<unknown, string> => {
  const source = request.source as object
  const known = allIncidents.get(source)
  if (known !== undefined) return known
  const incidents = new Map<unknown, string>()
  allIncidents.set(source, incidents)
  return incidents
}

const allIncidents = new WeakMap<object, Map<unknown, string>>()

/** The incidents of a request that were counted for one policy: there may be several isolations around one app. */
const countedBy = (onDefect: OnDefect, { source }: Request): Set<string> => {
  const requests = allCounted.get(onDefect) ?? new WeakMap<object, Set<string>>()
  allCounted.set(onDefect, requests)
  const counted = requests.get(source as object) ?? new Set<string>()
  requests.set(source as object, counted)
  return counted
}

const allCounted = new WeakMap<OnDefect, WeakMap<object, Set<string>>>()

/** Not taken from `Random`: an application that seeds `Random` would have the same incidents in each run. */
const newIncident = (): string => crypto.randomUUID()

const incidentResponse = (incident: string): Response =>
  problem(500, "Internal Server Error", { instance: `urn:uuid:${incident}`, incident })

/**
 * The platform's answer to a cause without a response of its own, recognised by identity: an app's own 500 is another
 * object.
 */
const platformError = HttpServerError.exitResponse(Exit.die(undefined))

const places = {
  handler: "a request handler",
  fiber: "a fiber that a request handler has forked",
  stream: "the stream of a response"
}

type Place = keyof typeof places

const defectCounter = Metric.counter("holdfast_defect_boundary_defects_total", {
  description: "Defects of request handlers, by the place at which they were seen",
  incremental: true
})

/** The path without the query, which may contain secrets. */
const pathOf = ({ url }: Request): string => url.split("?", 1)[0]!

/** Runs an effect with the loggers and services of a fiber that has ended. */
const runLike = (fiber: Fiber.RuntimeFiber<unknown, unknown>, effect: Effect.Effect<unknown>): void => {
  const runtime = Runtime.make({
    context: fiber.currentContext,
    fiberRefs: fiber.getFiberRefs(),
    runtimeFlags: Runtime.defaultRuntimeFlags
  })
  Runtime.runFork(runtime)(effect)
}
