/**
 * An `HttpClient` that carries a `Session`: it attaches the session's value to each request, and when the server
 * rejects it, refreshes the session once for all and sends the request again.
 *
 * **What it guarantees.** Never more than `1 + maxRefreshes` sends of one request, whatever the server does. A
 * request that is sent again is built anew from what the caller gave: no header, cookie or URL of the rejected
 * generation survives in it. A body that can be read only once is never sent again empty. Requests that come
 * while a rejected generation is being renewed wait for its successor.
 *
 * **What it does not.** It does not retry transport errors, and it does not make a request idempotent: a server
 * that acts on a request and answers 401 afterwards will see it twice.
 *
 * @since 0.1.0
 */
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientError from "@effect/platform/HttpClientError"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import type * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as Inspectable from "effect/Inspectable"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import type * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import { count, validated } from "./InvalidOptions.js"
import * as Session from "./Session.js"
import * as SessionMap from "./SessionMap.js"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * How a client carries a session's value.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<in A> extends RefusalOptions {
  /**
   * Puts the session's value on a request. One that throws is a `RequestError` with reason `"Encode"`. A secret
   * belongs in a header: the wrapped client's spans and errors show the URL.
   */
  readonly attach: (
    request: HttpClientRequest.HttpClientRequest,
    value: A
  ) => HttpClientRequest.HttpClientRequest | Effect.Effect<HttpClientRequest.HttpClientRequest>
}

/**
 * What a refusal is, and what is done about it.
 *
 * @since 0.1.0
 * @category models
 */
export interface RefusalOptions {
  /**
   * Whether a response says that the value was refused. May read the body (`text` and `json` can be read again
   * by the caller, a `stream` cannot). One that throws is a `ResponseError` with reason `"Decode"`. Default:
   * status 401.
   */
  readonly rejected?: ((response: HttpClientResponse.HttpClientResponse) => boolean | Effect.Effect<boolean>) | undefined
  /** How often one request may refresh the session and be sent again. Default: 1. */
  readonly maxRefreshes?: number | undefined
  /**
   * Whether a request can be sent a second time. Default: every body but an Effect `Stream` and a `Raw` one
   * that can be read only once (a Node `Readable`, a web `ReadableStream`, an iterator).
   */
  readonly replay?: ((request: HttpClientRequest.HttpClientRequest) => boolean) | undefined
}

// -----------------------------------------------------------------------------
// errors
// -----------------------------------------------------------------------------

/**
 * The server still refused the request after `refreshes` refreshes. The last `response` can be read; its `request`
 * is the caller's own, without the session's value.
 *
 * @since 0.1.0
 * @category errors
 */
export class SessionRejected extends Data.TaggedError("SessionRejected")<{
  readonly response: HttpClientResponse.HttpClientResponse
  readonly refreshes: number
}> {
  override get message(): string {
    return `${this.response.request.method} was refused with ${this.response.status} after ${this.refreshes} refreshes`
  }
}

/**
 * The server refused the request, and its body cannot be read a second time. The session has been refreshed;
 * send a new request. `request`, of the error and of its `response`, is the caller's own, without the session's value.
 *
 * @since 0.1.0
 * @category errors
 */
export class NotReplayable extends Data.TaggedError("NotReplayable")<{
  readonly request: HttpClientRequest.HttpClientRequest
  readonly response: HttpClientResponse.HttpClientResponse
}> {
  override get message(): string {
    return `${this.request.method} was refused with ${this.response.status}, and its body can be read only once`
  }
}

// -----------------------------------------------------------------------------
// constructors
// -----------------------------------------------------------------------------

/**
 * Puts a session on a client. Spans and trace headers remain the wrapped client's: one span for each attempt.
 *
 * @example
 * ```ts
 * import * as Session from "effect-holdfast/Session"
 * import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
 * import * as HttpClient from "@effect/platform/HttpClient"
 * import * as Effect from "effect/Effect"
 *
 * declare const session: Session.Session<string, "SignInFailed">
 *
 * const program = Effect.gen(function*() {
 *   const client = SessionHttpClient.withSession(yield* HttpClient.HttpClient, session, {
 *     attach: SessionHttpClient.bearer
 *   })
 *   return yield* client.get("https://api.example.com/orders")
 * })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const withSession = <E0, R, A, E>(
  client: HttpClient.HttpClient.With<E0, R>,
  session: Session.Session<A, E>,
  options: Options<A>
): HttpClient.HttpClient.With<
  E0 | HttpClientError.HttpClientError | E | Session.SessionError | SessionRejected | NotReplayable,
  R
> => {
  const send = sendWith(attaching(client, options.attach), options)
  return HttpClient.makeWith(
    (request) => Effect.flatMap(request, (request) => send(session, request)),
    Effect.succeed<HttpClientRequest.HttpClientRequest>
  )
}

/**
 * Puts a session on the `HttpClient` of the context.
 *
 * @example
 * ```ts
 * import * as Session from "effect-holdfast/Session"
 * import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
 * import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
 *
 * declare const session: Session.Session<{ readonly key: string }>
 *
 * const client = SessionHttpClient.make(session, {
 *   attach: (request, { key }) => HttpClientRequest.setHeader(request, "x-api-key", key)
 * })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <A, E>(
  session: Session.Session<A, E>,
  options: Options<A>
): Effect.Effect<
  HttpClient.HttpClient.With<
    HttpClientError.HttpClientError | E | Session.SessionError | SessionRejected | NotReplayable
  >,
  never,
  HttpClient.HttpClient
> => Effect.map(HttpClient.HttpClient, (client) => withSession(client, session, options))

/**
 * A client that carries a session for each key: `key` tells a request's tenant or origin. The session is held
 * while the request is under way. A `key` that throws is a `RequestError` with reason `"Encode"`.
 *
 * @example
 * ```ts
 * import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
 * import type * as SessionMap from "effect-holdfast/SessionMap"
 *
 * declare const perOrigin: SessionMap.SessionMap<string, string>
 *
 * const client = SessionHttpClient.makeKeyed(perOrigin, {
 *   key: (request) => new URL(request.url).origin,
 *   attach: SessionHttpClient.bearer
 * })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeKeyed = <K, A, E>(
  sessions: SessionMap.SessionMap<K, A, E>,
  options: Options<A> & { readonly key: (request: HttpClientRequest.HttpClientRequest) => K }
): Effect.Effect<
  HttpClient.HttpClient.With<
    | HttpClientError.HttpClientError
    | E
    | Session.SessionError
    | SessionMap.SessionMapFull
    | SessionRejected
    | NotReplayable
  >,
  never,
  HttpClient.HttpClient
> =>
  Effect.map(HttpClient.HttpClient, (client) => {
    const send = sendWith(attaching(client, options.attach), options)
    return HttpClient.makeWith(
      (request) =>
        Effect.flatMap(request, (request) =>
          Effect.try({ try: () => options.key(request), catch: (cause) => cannotEncode(request, "key", cause) }).pipe(
            Effect.flatMap((key) => SessionMap.get(sessions, key)),
            Effect.flatMap((session) => send(session, request)),
            Effect.scoped
          )),
      Effect.succeed<HttpClientRequest.HttpClientRequest>
    )
  })

/**
 * An `attach` that sends the session's value as a bearer token, RFC 6750 section 2.1.
 *
 * @example
 * ```ts
 * import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
 * import type * as Redacted from "effect/Redacted"
 *
 * interface Tokens { readonly access: Redacted.Redacted<string> }
 *
 * const options: SessionHttpClient.Options<Tokens> = {
 *   attach: (request, tokens) => SessionHttpClient.bearer(request, tokens.access)
 * }
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const bearer = (
  request: HttpClientRequest.HttpClientRequest,
  token: Redacted.Redacted<string> | string
): HttpClientRequest.HttpClientRequest => HttpClientRequest.bearerToken(request, token)

// -----------------------------------------------------------------------------
// layers
// -----------------------------------------------------------------------------

/**
 * The plain `HttpClient` service with a session on it, for libraries that ask for that and nothing else. A failure
 * of the session becomes a `RequestError` with reason `"Transport"` and the failure as its `cause`; a refusal
 * that lasts, or that cannot be answered because the body can be read only once, is the server's response.
 *
 * @example
 * ```ts
 * import * as Session from "effect-holdfast/Session"
 * import * as SessionHttpClient from "effect-holdfast/SessionHttpClient"
 * import * as Context from "effect/Context"
 *
 * class ApiSession extends Context.Tag("ApiSession")<ApiSession, Session.Session<string>>() {}
 *
 * const ApiClient = SessionHttpClient.layer(ApiSession, { attach: SessionHttpClient.bearer })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = <I, A, E>(
  tag: Context.Tag<I, Session.Session<A, E>>,
  options: Options<A>
): Layer.Layer<HttpClient.HttpClient, never, I | HttpClient.HttpClient> =>
  Layer.effect(
    HttpClient.HttpClient,
    Effect.gen(function*() {
      const inner = yield* HttpClient.HttpClient
      const session = yield* tag
      // What the wrapped client fails with is told from what the session's own requests failed with.
      const client = HttpClient.transform(inner, (effect) => Effect.mapError(effect, (error) => new FromClient(error)))
      const send = sendWith(attaching(client, options.attach), options)
      return HttpClient.makeWith(
        (request) =>
          Effect.flatMap(request, (request) =>
            Effect.catchAll(send(session, request), (error) =>
              error instanceof FromClient
                ? Effect.fail(error.error)
                : error instanceof SessionRejected || error instanceof NotReplayable
                ? Effect.succeed(error.response)
                : HttpClientError.isHttpClientError(error) && error.request === request
                ? Effect.fail(error)
                : new HttpClientError.RequestError({ request, reason: "Transport", cause: error }))),
        Effect.succeed<HttpClientRequest.HttpClientRequest>
      )
    })
  )

class FromClient {
  readonly error: HttpClientError.HttpClientError
  constructor(error: HttpClientError.HttpClientError) {
    this.error = error
  }
}

// -----------------------------------------------------------------------------
// sending
// -----------------------------------------------------------------------------

/** A refusal. It never leaves this module. */
class Refused extends Data.TaggedClass("Refused")<{ readonly response: HttpClientResponse.HttpClientResponse }> {}

type SendError<E0, E> =
  | E0
  | HttpClientError.HttpClientError
  | E
  | Session.SessionError
  | SessionRejected
  | NotReplayable

/**
 * Executes requests with a session's value. `execute` puts the value on a request and sends it once.
 *
 * @internal
 */
export const sendWith = <A, E0, R>(
  execute: (
    request: HttpClientRequest.HttpClientRequest,
    value: A
  ) => Effect.Effect<HttpClientResponse.HttpClientResponse, E0, R>,
  options: RefusalOptions
) => {
  const { maxRefreshes = 1, rejected = isUnauthorized, replay = isReplayable } = options
  type Request = HttpClientRequest.HttpClientRequest
  type Response = HttpClientResponse.HttpClientResponse

  const sendOnce = (request: Request, value: A): Effect.Effect<Response, SendError<E0, never> | Refused, R> =>
    Effect.flatMap(execute(request, value), (response) => {
      let verdict: ReturnType<typeof rejected>
      try {
        verdict = rejected(response)
      } catch (cause) {
        return cannotDecode(request, response, cause)
      }
      if (verdict === false) return Effect.succeed(response)
      if (verdict === true) return Effect.fail(new Refused({ response }))
      return Effect.flatMap(
        Effect.catchAllDefect(verdict, (cause) => cannotDecode(request, response, cause)),
        (isRejected) => isRejected ? Effect.fail(new Refused({ response })) : Effect.succeed(response)
      )
    })

  const recover = <E>(
    session: Session.Session<A, E>,
    request: Request,
    refreshes: number,
    cause: Cause.Cause<SendError<E0, never> | Refused>,
    generation: Session.Generation<A>
  ): Effect.Effect<Response, SendError<E0, E>, R> => {
    const failure = Option.getOrUndefined(Cause.failureOption(cause))
    if (!(failure instanceof Refused)) return Effect.failCause(cause as Cause.Cause<SendError<E0, never>>)
    const { response } = failure
    if (refreshes === maxRefreshes) return new SessionRejected({ response: answering(request, response), refreshes })
    let canReplay: boolean
    try {
      canReplay = replay(request)
    } catch (cause) {
      return cannotEncode(request, "replay", cause)
    }
    return canReplay
      // The body is read while the session is refreshed.
      ? whileDrained(response, (drained) =>
        Session.hold(
          session,
          { after: generation },
          ({ value }) => Effect.zipRight(drained, sendOnce(request, value)),
          (cause, generation) => recover(session, request, refreshes + 1, cause, generation)
        ))
      : Effect.zipRight(
        session.refresh(generation),
        new NotReplayable({ request, response: answering(request, response) })
      )
  }

  return <E>(session: Session.Session<A, E>, request: Request): Effect.Effect<Response, SendError<E0, E>, R> => {
    const sent = Session.hold(
      session,
      "current",
      ({ value }) => sendOnce(request, value),
      (cause, generation) => recover(session, request, 0, cause, generation)
    )
    return options.maxRefreshes === undefined
      ? sent
      : Effect.zipRight(validated(() => count("maxRefreshes", maxRefreshes, 0)), sent)
  }
}

const attaching = <E0, R, A>(client: HttpClient.HttpClient.With<E0, R>, attach: Options<A>["attach"]) =>
(
  request: HttpClientRequest.HttpClientRequest,
  value: A
): Effect.Effect<HttpClientResponse.HttpClientResponse, E0 | HttpClientError.RequestError, R> => {
  try {
    const attached = attach(request, value)
    return "headers" in attached
      ? client.execute(attached)
      : Effect.flatMap(
        Effect.catchAllDefect(attached, (cause) => cannotEncode(request, "attach", cause)),
        client.execute
      )
  } catch (cause) {
    return cannotEncode(request, "attach", cause)
  }
}

const isUnauthorized = (response: HttpClientResponse.HttpClientResponse): boolean => response.status === 401

/** @internal */
export const isReplayable = ({ body }: HttpClientRequest.HttpClientRequest): boolean =>
  body._tag === "Raw" ? !isReadOnce(body.body) : body._tag !== "Stream"

const isReadOnce = (body: unknown): boolean =>
  Predicate.isObject(body) &&
  ("pipe" in body || "getReader" in body || "next" in body || Symbol.asyncIterator in body)

const cannotEncode = (request: HttpClientRequest.HttpClientRequest, option: string, cause: unknown) =>
  new HttpClientError.RequestError({ request, reason: "Encode", description: `\`${option}\` threw`, cause })

const cannotDecode = (
  request: HttpClientRequest.HttpClientRequest,
  response: HttpClientResponse.HttpClientResponse,
  cause: unknown
) =>
  new HttpClientError.ResponseError({
    request,
    response: answering(request, response),
    reason: "Decode",
    description: "`rejected` threw",
    cause
  })

/**
 * The response as an answer to what the caller asked. The request that was sent carries the session's value, and
 * whoever prints a response, or an error that holds one, prints its request, headers and all.
 *
 * @internal
 */
export const answering = (
  request: HttpClientRequest.HttpClientRequest,
  response: HttpClientResponse.HttpClientResponse
): HttpClientResponse.HttpClientResponse => {
  const toJSON = () => ({ ...response.toJSON() as object, request: request.toJSON() })
  return Object.create(response, {
    request: { value: request },
    toJSON: { value: toJSON },
    toString: { value: () => Inspectable.format(toJSON()) },
    [Inspectable.NodeInspectSymbol]: { value: toJSON }
  })
}

/**
 * A connection whose response was not read to its end cannot be used again. What is longer than a page of error
 * text, or slower than a second, costs more to read than a new connection, and is cut off.
 *
 * @internal
 */
export const drain = (response: HttpClientResponse.HttpClientResponse): Effect.Effect<void> =>
  whileDrained(response, (drained) => drained)

/** Reads the body while `f` runs. `drained` waits for that, for a second at most. */
const whileDrained = <A, E, R>(
  response: HttpClientResponse.HttpClientResponse,
  f: (drained: Effect.Effect<void>) => Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  Effect.flatMap(Effect.fork(Effect.interruptible(readToEnd(response))), (reading) => {
    const deadline = Effect.interruptible(Effect.zipRight(Effect.sleep("1 second"), Fiber.interrupt(reading)))
    const drained = Effect.suspend(() =>
      reading.unsafePoll() !== null ? Effect.void : Effect.flatMap(Effect.fork(deadline), (deadline) =>
        Effect.zipRight(Fiber.await(reading), abandon(deadline)))
    )
    return Effect.onExit(f(drained), () => abandon(reading))
  })

const abandon = (fiber: Fiber.RuntimeFiber<unknown>): Effect.Effect<void> =>
  Effect.sync(() => {
    if (fiber.unsafePoll() === null) fiber.unsafeInterruptAsFork(FiberId.none)
  })

const longestBody = 64 * 1024

/** As far as the bound. A short body is read at once: an Effect stream costs a hundred times as much. */
const readToEnd = (response: HttpClientResponse.HttpClientResponse): Effect.Effect<void> =>
  (Number(response.headers["content-length"]) <= longestBody && response.headers["content-encoding"] === undefined
    ? Effect.asVoid(response.arrayBuffer)
    : Stream.runForEachWhile(
      Stream.mapAccum(response.stream, 0, (read, chunk) => [read + chunk.length, read + chunk.length]),
      (read) => Effect.succeed(read < longestBody)
    )).pipe(
      // Asking for the stream of a body that `rejected` has read is a defect on fetch.
      Effect.catchAllCause(() => Effect.void)
    )
