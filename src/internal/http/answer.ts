/** Responses that show the caller's own request, and whose body can be read again. */
import * as HttpClientError from "@effect/platform/HttpClientError"
import type * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import * as HttpIncomingMessage from "@effect/platform/HttpIncomingMessage"
import * as UrlParams from "@effect/platform/UrlParams"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Inspectable from "effect/Inspectable"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"

type Request = HttpClientRequest.HttpClientRequest
type Response = HttpClientResponse.HttpClientResponse
type BodyEffect<A> = Effect.Effect<A, HttpClientError.ResponseError>

/** Enough for a page of error text. Reading a longer body costs more than a new connection. */
export const longestBody = 64 * 1024

/** Why a body could not be read to its end. */
export type BodyFailure = HttpClientError.ResponseError | "too long"

/** The outcome of reading a body. */
export type Body = Exit.Exit<Uint8Array, BodyFailure>

/** A copy of a response with changes. Without a subclass, only its request differs. */
export class Wrapped extends Inspectable.Class implements Response {
  readonly original: Response
  readonly request: Request

  constructor(original: Response, request: Request = original.request) {
    super()
    this.original = original
    this.request = request
  }

  /** Every accessor of the body goes through this method, unless a subclass overrides it. */
  protected reading<A>(body: BodyEffect<A>): BodyEffect<A> {
    // The error of a body shows the request, too.
    return this.request === this.original.request
      ? body
      : Effect.mapError(body, (error) => errorAnswering(this.request, this.original, error))
  }

  get [HttpIncomingMessage.TypeId](): HttpIncomingMessage.TypeId {
    return HttpIncomingMessage.TypeId
  }
  get [HttpClientResponse.TypeId](): HttpClientResponse.TypeId {
    return HttpClientResponse.TypeId
  }
  get status() {
    return this.original.status
  }
  get headers() {
    return this.original.headers
  }
  get cookies() {
    return this.original.cookies
  }
  get remoteAddress() {
    return this.original.remoteAddress
  }
  get text(): BodyEffect<string> {
    return this.reading(this.original.text)
  }
  get json(): BodyEffect<unknown> {
    return this.reading(this.original.json)
  }
  get urlParamsBody(): BodyEffect<UrlParams.UrlParams> {
    return this.reading(this.original.urlParamsBody)
  }
  get arrayBuffer(): BodyEffect<ArrayBuffer> {
    return this.reading(this.original.arrayBuffer)
  }
  get formData(): BodyEffect<FormData> {
    return this.reading(this.original.formData)
  }
  get stream(): Stream.Stream<Uint8Array, HttpClientError.ResponseError> {
    return this.request === this.original.request
      ? this.original.stream
      : Stream.mapError(this.original.stream, (error) => errorAnswering(this.request, this.original, error))
  }
  /** Platform's own `toJSON` begins to read the body, which then could not be read by others. */
  toJSON(): object {
    const headers = Inspectable.redact(this.headers)
    return { _id: "@effect/platform/HttpClientResponse", request: this.request.toJSON(), status: this.status, headers }
  }
}

/**
 * The response as an answer to the caller's request. The request that was sent carries the session's value, and
 * printing a response, or an error that contains one, prints its request with all headers.
 */
export const answering = (request: Request, response: Response): Response => new Wrapped(response, request)

/** The error that a client made of a response, as an answer to the caller's request. */
export const errorAnswering = (
  request: Request,
  response: Response,
  { cause, description, reason }: HttpClientError.ResponseError
): HttpClientError.ResponseError =>
  new HttpClientError.ResponseError({
    request,
    response: answering(request, response),
    reason,
    cause,
    ...(description === undefined ? {} : { description })
  })

/** What a client has failed with, as an answer to the caller's request. */
export const failureAnswering = <E>(request: Request, error: E): E => {
  if (!HttpClientError.isHttpClientError(error) || error.request === request) return error
  const { cause, description } = error
  const own = error._tag === "ResponseError"
    ? errorAnswering(request, error.response, error)
    : new HttpClientError.RequestError({
      request,
      reason: error.reason,
      cause,
      ...(description === undefined ? {} : { description })
    })
  return own as typeof error
}

/** Whether an error is the one that a status filter beneath the session makes of a response. */
export const isFiltered = (error: unknown): error is HttpClientError.ResponseError =>
  HttpClientError.isHttpClientError(error) && error._tag === "ResponseError" && error.reason === "StatusCode"

/**
 * The body, if a client beneath has read it as text (to log it, say). Platform has kept the text then, under one of
 * these names, and the body cannot be read in another way any more.
 */
export const textReadBeneath = (response: Response): BodyEffect<Uint8Array> | undefined => {
  const { original, textBody, textEffect } = response as {
    readonly original?: Response
    readonly textBody?: unknown
    readonly textEffect?: unknown
  }
  if (textBody === undefined && textEffect === undefined) {
    return original === undefined ? undefined : textReadBeneath(original)
  }
  return Effect.map(response.text, (text) => new TextEncoder().encode(text))
}

/** A response whose body is bytes that can be read again and again, in every way. */
abstract class Rereadable extends Wrapped {
  protected abstract readonly bytes: BodyEffect<Uint8Array>

  protected failure(description: string, cause?: unknown): BodyEffect<never> {
    return new HttpClientError.ResponseError({
      request: this.request,
      response: this,
      reason: "Decode",
      description,
      cause
    })
  }

  protected outcome(body: Body): BodyEffect<Uint8Array> {
    return Exit.isSuccess(body) ? Effect.succeed(body.value) : this.failure(reasonOf(body), Cause.squash(body.cause))
  }

  private parsed<A, B>(body: BodyEffect<A>, parse: (body: A) => B | Promise<B>): BodyEffect<B> {
    return Effect.flatMap(body, (body) =>
      Effect.catchAll(
        Effect.tryPromise({ try: async () => parse(body), catch: (cause) => cause }),
        (cause) => this.failure("the body could not be decoded", cause)
      ))
  }

  override get text() {
    return Effect.map(this.bytes, (bytes) => new TextDecoder().decode(bytes))
  }
  override get json(): BodyEffect<unknown> {
    return this.parsed(this.text, (text) => text === "" ? null : JSON.parse(text))
  }
  override get urlParamsBody() {
    return Effect.map(this.text, (text) => UrlParams.fromInput(new URLSearchParams(text)))
  }
  override get arrayBuffer() {
    return Effect.map(this.bytes, (bytes) => bytes.slice().buffer as ArrayBuffer)
  }
  override get formData() {
    const type = this.headers["content-type"]
    const init = type === undefined ? {} : { headers: { "content-type": type } }
    return this.parsed(this.arrayBuffer, (buffer) => new globalThis.Response(buffer, init).formData())
  }
  override get stream() {
    return Stream.unwrap(Effect.map(this.bytes, (bytes) => bytes.length === 0 ? Stream.empty : Stream.make(bytes)))
  }
}

/**
 * Keeps the body once it has been read, because reading the client's own response again is impossible, or hangs. A
 * stream is not kept, since it may be endless.
 */
export class Judged extends Rereadable {
  private read: BodyEffect<Uint8Array> | undefined

  /** The body as far as it has been read; `undefined` if reading has not begun. */
  get begun(): BodyEffect<Uint8Array> | undefined {
    return this.read
  }

  protected override get bytes(): BodyEffect<Uint8Array> {
    return Effect.suspend(() =>
      this.read ??= this.kept(textReadBeneath(this.original) ?? Effect.map(this.original.arrayBuffer, bytesOf))
    )
  }

  /** An interrupted read has cut the body. Later readers get a failure instead of the interruption. */
  private kept(body: BodyEffect<Uint8Array>): BodyEffect<Uint8Array> {
    return Effect.catchAllCause(
      Effect.runSync(Effect.cached(body)),
      (cause) => Cause.isInterruptedOnly(cause) ? this.failure("the body was cut") : Effect.failCause(cause)
    )
  }

  /** Keeps the bytes that the effect reads from the original's body. */
  keeping(body: Effect.Effect<Uint8Array, BodyFailure>): Effect.Effect<Uint8Array, BodyFailure> {
    return Effect.suspend(() => {
      if (this.read !== undefined) return this.read
      this.read = this.failure("the body is being read")
      return Effect.onExit(body, (body) =>
        Effect.sync(() => {
          this.read = this.outcome(body)
        }))
    })
  }

  override get stream() {
    return Stream.suspend(() => {
      if (this.read !== undefined) return super.stream
      this.read = this.failure("the body has been read as a stream")
      return this.original.stream
    })
  }
}

/** The response for a callback that may read it. */
export const judged = (response: Response): Response => new Judged(response)

/** The response for a reader after a callback that may have read it. */
export const afterCallback = (seen: Response, original: Response): Response =>
  seen instanceof Judged && seen.begun !== undefined ? seen : original

/** A response whose body was read, or cut, before the caller got it. */
class Read extends Rereadable {
  protected readonly bytes: BodyEffect<Uint8Array>

  constructor(original: Response, request: Request, body: Body) {
    super(original, request)
    this.bytes = this.outcome(body)
  }
}

const reasonOf = (body: Exit.Failure<Uint8Array, BodyFailure>): string =>
  Option.match(Cause.failureOption(body.cause), {
    onNone: () => `the body was cut: it took longer than a second`,
    onSome: (error) =>
      error === "too long"
        ? `the body was cut: it is longer than ${longestBody} bytes`
        : error.description ?? "the body could not be read"
  })

/** The response with the bytes that were read, as an answer to the caller's request. */
export const withBody = (request: Request, response: Response, body: Body): Response =>
  new Read(response, request, body)

/**
 * Copies the bytes: although the types say `ArrayBuffer`, Node's client gives a `Buffer`, which is part of a larger
 * one.
 */
export const bytesOf = (buffer: ArrayBuffer): Uint8Array => new Uint8Array(buffer)
