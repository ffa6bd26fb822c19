/**
 * The end of a response: its body is read or cut so that the connection is free for the next request, it answers
 * the request that the caller made, and what it needs is held until its body has ended.
 */
import * as HttpClientError from "@effect/platform/HttpClientError"
import type * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import * as HttpIncomingMessage from "@effect/platform/HttpIncomingMessage"
import * as UrlParams from "@effect/platform/UrlParams"
import * as Cause from "effect/Cause"
import type * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import { globalValue } from "effect/GlobalValue"
import * as Inspectable from "effect/Inspectable"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Runtime from "effect/Runtime"
import * as Stream from "effect/Stream"

type Request = HttpClientRequest.HttpClientRequest
type Response = HttpClientResponse.HttpClientResponse
type BodyEffect<A> = Effect.Effect<A, HttpClientError.ResponseError>

/** Whether a request's body is the same when it is read a second time. */
export const isReplayable = ({ body }: Request): boolean =>
  body._tag === "Raw" ? !isReadOnce(body.body) : body._tag !== "Stream"

const isReadOnce = (body: unknown): boolean =>
  Predicate.isObject(body) &&
  ("pipe" in body || "getReader" in body || "next" in body || Symbol.asyncIterator in body)

// -----------------------------------------------------------------------------
// responses around responses
// -----------------------------------------------------------------------------

/** Another response with something changed; as it stands, it only answers another request. */
class Wrapped extends Inspectable.Class implements Response {
  readonly original: Response
  readonly request: Request

  constructor(original: Response, request: Request = original.request) {
    super()
    this.original = original
    this.request = request
  }

  /** Every accessor of the body but those that a subclass defines anew goes through here. */
  protected reading<A>(body: BodyEffect<A>): BodyEffect<A> {
    return body
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
    return this.original.stream
  }
  toJSON(): object {
    try {
      return { ...this.original.toJSON() as object, request: this.request.toJSON() }
    } catch {
      // Node's client asks the socket for its address, and there is no socket when the body has ended.
      return this.head
    }
  }
  protected get head(): object {
    const headers = Inspectable.redact(this.headers)
    return { _id: "@effect/platform/HttpClientResponse", request: this.request.toJSON(), status: this.status, headers }
  }
}

/**
 * The response as an answer to what the caller asked. The request that was sent carries the session's value, and
 * printing a response, or an error that holds one, prints its request, headers and all.
 */
export const answering = (request: Request, response: Response): Response => new Wrapped(response, request)

/** The error that a client made of a response, as an answer to what the caller asked. */
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

/** Tells the error that a status filter beneath the session makes of a response. */
export const isFiltered = (error: unknown): error is HttpClientError.ResponseError =>
  HttpClientError.isHttpClientError(error) && error._tag === "ResponseError" && error.reason === "StatusCode"

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

  /** Platform's own begins to read the body, which then cannot be read from here. */
  override toJSON(): object {
    return this.head
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
 * Keeps what is read of its body, because to read the client's own response again is impossible, or hangs. A stream is
 * not kept, so that an endless one can be begun.
 */
class Judged extends Rereadable {
  private read: BodyEffect<Uint8Array> | undefined

  /** The part of the body that has been read; `undefined` if nobody has begun. */
  get begun(): BodyEffect<Uint8Array> | undefined {
    return this.read
  }

  protected override get bytes(): BodyEffect<Uint8Array> {
    return Effect.suspend(() => this.read ??= this.kept(this.original.arrayBuffer))
  }

  /** An interrupted read has cut the body, and interrupts no later reader. */
  private kept(body: BodyEffect<ArrayBuffer>): BodyEffect<Uint8Array> {
    return Effect.catchAllCause(
      Effect.runSync(Effect.cached(Effect.map(body, bytesOf))),
      (cause) => Cause.isInterruptedOnly(cause) ? this.failure("the body was cut") : Effect.failCause(cause)
    )
  }

  /** Keeps what the effect reads of the original's body. */
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

/** The response for a reader that comes after a callback which may have read it. */
export const afterCallback = (seen: Response, original: Response): Response =>
  seen instanceof Judged && seen.begun !== undefined ? seen : original

// -----------------------------------------------------------------------------
// reading a body that nobody wants
// -----------------------------------------------------------------------------

/** A page of error text. What is longer costs more to read than a new connection. */
const longestBody = 64 * 1024

type BodyFailure = HttpClientError.ResponseError | "too long"

type Body = Exit.Exit<Uint8Array, BodyFailure>

/**
 * Reads the body while `f` runs, for a second and 64 KiB at most, then cuts it: a connection whose response was not
 * read to its end cannot be used again, and may be the one that `f` waits for. `read` waits for that end. When `f` ends
 * earlier, the body is cut then.
 */
export const whileRead = <A, E, R>(
  response: Response,
  f: (read: Effect.Effect<Body>) => Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  Effect.flatMap(startReading(response), (start) =>
    whileReading(start, (fiber) =>
      f(Effect.suspend(() => {
        const body = fiber.unsafePoll()
        return body === null ? Fiber.await(fiber) : Effect.succeed(body)
      }))))

/**
 * The fiber that reads runs immediately, up to its first wait. One that only waits for its turn could be interrupted
 * before its first step, and then nothing would cut the body or end what the body holds.
 */
const startReading = (response: Response) =>
  Effect.map(Effect.runtime<never>(), (runtime) => (): BodyReading<Fiber.RuntimeFiber<Uint8Array, BodyFailure>> => {
    const fiber = Runtime.runFork(runtime)(Effect.interruptible(readToEnd(response)))
    return {
      source: fiber,
      isDone: () => fiber.unsafePoll() !== null,
      cut: () => fiber.unsafeInterruptAsFork(FiberId.none)
    }
  })

/** Cuts a body of which nothing more is wanted. */
export const abandon = (response: Response): Effect.Effect<void> =>
  Effect.map(startReading(response), (start) => cut(start()))

/** The same for a body that nobody is to be given. */
export const whileDiscarded = <A, E, R>(
  response: Response,
  f: (read: Effect.Effect<unknown>) => Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> => {
  const discarding = promised(response)
  if (discarding === undefined) return whileRead(response, f)
  const { controller, read } = discarding
  const start = () => {
    let isDone = false
    let wake: (() => void) | undefined
    const done = () => {
      isDone = true
      wake?.()
    }
    read().then(done, done)
    const ended = Effect.suspend(() =>
      isDone ? Effect.void : Effect.async<void>((resume) => {
        wake = () => resume(Effect.void)
      })
    )
    return { source: ended, isDone: () => isDone, cut: () => controller.abort() }
  }
  return whileReading(start, f)
}

/** The parts of platform's responses from `fetch` and undici that its types hide. */
interface Parts {
  readonly controller?: AbortController
  readonly original?: {
    readonly source?: {
      readonly arrayBuffer?: () => Promise<unknown>
      readonly body?: { readonly arrayBuffer?: () => Promise<unknown> }
    }
  }
}

/**
 * How a short body is read by the client's own promise, and cut. A fiber that does the same costs a burst of refusals a
 * tenth of its time. A response of another shape is read by a fiber.
 */
const promised = (response: Response) => {
  if (response instanceof Wrapped || !isShort(response)) return undefined
  const { controller, original } = response as Parts
  const source = original?.source
  const reader = typeof source?.arrayBuffer === "function" ? source : source?.body
  return controller instanceof AbortController && typeof reader?.arrayBuffer === "function"
    ? { controller, read: () => reader.arrayBuffer!() }
    : undefined
}

/** A body that is being read. */
interface Reading {
  readonly isDone: () => boolean
  readonly cut: () => void
}

interface BodyReading<out S> extends Reading {
  readonly source: S
}

/** Starts to read, runs the effect, and cuts what is still being read at its end or after a second. */
const whileReading = <S, A, E, R>(
  start: () => BodyReading<S>,
  f: (source: S) => Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(deadlines, (deadlines) => {
      const reading = start()
      return Effect.onExit(
        Effect.zipRight(deadlines.add(reading), restore(Effect.suspend(() => f(reading.source)))),
        () => deadlines.delete(reading)
      )
    })
  )

/**
 * Cuts what is still being read after its time. One fiber sees to all readings, and is there only while there are any.
 */
class Deadlines {
  private readonly clock: Clock.Clock
  /** When each reading is to be cut, in nanoseconds; the earliest first. */
  private readonly due = new Map<Reading, bigint>()
  private watcher: Fiber.RuntimeFiber<void> | undefined

  constructor(clock: Clock.Clock) {
    this.clock = clock
  }

  add(reading: Reading): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.due.set(reading, this.clock.unsafeCurrentTimeNanos() + nanosToRead)
      if (this.watcher !== undefined) return Effect.void
      return Effect.map(Effect.forkDaemon(Effect.interruptible(this.watch)), (watcher) => {
        this.watcher = watcher
      })
    })
  }

  delete(reading: Reading): Effect.Effect<void> {
    return Effect.sync(() => {
      cut(reading)
      this.due.delete(reading)
      if (this.due.size > 0) return
      this.watcher?.unsafeInterruptAsFork(FiberId.none)
      this.watcher = undefined
    })
  }

  private readonly watch: Effect.Effect<void> = Effect.suspend(() => {
    for (const [reading, due] of this.due) {
      const left = due - this.clock.unsafeCurrentTimeNanos()
      if (left > 0n) return Effect.zipRight(this.clock.sleep(Duration.nanos(left)), this.watch)
      cut(reading)
      this.due.delete(reading)
    }
    this.watcher = undefined
    return Effect.void
  })
}

const nanosToRead = 1_000_000_000n

const deadlinesOf = new WeakMap<Clock.Clock, Deadlines>()

const deadlines: Effect.Effect<Deadlines> = Effect.clockWith((clock) => {
  const found = deadlinesOf.get(clock)
  if (found !== undefined) return Effect.succeed(found)
  const made = new Deadlines(clock)
  deadlinesOf.set(clock, made)
  return Effect.succeed(made)
})

const cut = (reading: Reading): void => {
  if (!reading.isDone()) reading.cut()
}

/** Reads the body to its end, or cuts it. */
export const discard = (response: Response): Effect.Effect<void> => Effect.asVoid(whileRead(response, (read) => read))

const readToEnd = (response: Response): Effect.Effect<Uint8Array, BodyFailure> => {
  if (response instanceof Judged) return response.keeping(readToEnd(response.original))
  // An Effect stream costs a hundred times as much, and is needed unless interrupting the read frees the connection.
  if (isShort(response) && isAbortable(response)) return Effect.map(response.arrayBuffer, bytesOf)
  const chunks: Array<Uint8Array> = []
  let length = 0
  return Effect.suspend(() =>
    Stream.runForEachWhile(response.stream, (chunk) =>
      Effect.sync(() => {
        chunks.push(chunk)
        length += chunk.length
        return length <= longestBody
      }))
  ).pipe(
    Effect.flatMap(() =>
      length <= longestBody ? Effect.succeed(joined(chunks, length)) : Effect.fail("too long" as const)
    ),
    Effect.catchIf(isEmptyBody, () => Effect.succeed(new Uint8Array(0)))
  )
}

const isShort = ({ headers }: Response): boolean =>
  Number(headers["content-length"]) <= longestBody && headers["content-encoding"] === undefined

/** `HttpClient.withScope` gives out responses that only their scope's end aborts. */
const isAbortable = (response: Response): boolean =>
  response instanceof Wrapped ? isAbortable(response.original) : "controller" in response

/** `fetch` has no stream for a response without a body. */
const isEmptyBody = (error: BodyFailure) => error !== "too long" && error.reason === "EmptyBody"

/** What Node's client calls an `ArrayBuffer` is a `Buffer`, a part of a larger one: it is copied. */
const bytesOf = (buffer: ArrayBuffer): Uint8Array => new Uint8Array(buffer)

const joined = (chunks: ReadonlyArray<Uint8Array>, length: number): Uint8Array => {
  const all = new Uint8Array(length)
  let offset = 0
  for (const chunk of chunks) {
    all.set(chunk, offset)
    offset += chunk.length
  }
  return all
}

/** A response whose body was read, or cut, before its caller got it. */
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

/** The response with what was read of it, as an answer to what the caller asked. */
export const withBody = (request: Request, response: Response, body: Body): Response =>
  new Read(response, request, body)

/** Reads the body to its end, or cuts it, and gives the response with what was read. */
export const readBeforehand = (response: Response): Effect.Effect<Response> =>
  whileRead(response, (read) => Effect.map(read, (body) => withBody(response.request, response, body)))

// -----------------------------------------------------------------------------
// holding what a response needs
// -----------------------------------------------------------------------------

/** Ends a hold when its body has ended, however it was read. */
class Held extends Wrapped {
  private readonly release: Effect.Effect<void>

  constructor(original: Response, release: Effect.Effect<void>) {
    super(original)
    this.release = release
  }

  protected override reading<A>(body: BodyEffect<A>): BodyEffect<A> {
    return Effect.suspend(() => {
      unread.unregister(this)
      return Effect.ensuring(body, this.release)
    })
  }
  override get stream() {
    return Stream.suspend(() => {
      unread.unregister(this)
      return Stream.ensuring(this.original.stream, this.release)
    })
  }
}

/** A response that was collected before anybody began to read it: platform aborts its request, too. */
const unread = globalValue(
  Symbol.for("effect-holdfast/internal/http/unread"),
  () => new FinalizationRegistry<Effect.Effect<void>>((release) => void Effect.runFork(release))
)

/** Platform's own: which requests `HttpClient.withScope` aborts at their scope's end, and by what. */
const scopedRequests = globalValue(
  "@effect/platform/HttpClient/scopedRequests",
  () => new WeakMap<Request, AbortController>()
)

/** What is sent instead of a request belongs to the same scope. */
export const inScopeOf = (request: Request, sent: Request): Request => {
  const controller = scopedRequests.get(request)
  if (controller !== undefined) scopedRequests.set(sent, controller)
  return sent
}

/**
 * The response, which holds what `retain` holds until its body has been read, cut or failed, the scope of its request
 * has closed, or it has been collected unread. The hold does not refer to it. A response without a body holds nothing.
 */
export const holding = (
  request: Request,
  response: Response,
  retain: (() => Effect.Effect<void>) | undefined
): Response => {
  if (retain === undefined || isBodiless(response)) return response
  const release = once(retain())
  const held = new Held(response, release)
  unread.register(held, release, held)
  const controller = scopedRequests.get(request) ?? scopedRequests.get(response.request)
  if (controller !== undefined) onAbort(controller.signal, release)
  return held
}

const isBodiless = ({ headers, request, status }: Response): boolean =>
  request.method === "HEAD" || status === 204 || status === 205 || status === 304 || headers["content-length"] === "0"

// Functions of their own, because a closure that is made beside the response would keep it from being collected.
const once = (release: Effect.Effect<void>): Effect.Effect<void> => {
  let isReleased = false
  return Effect.suspend(() => {
    if (isReleased) return Effect.void
    isReleased = true
    return release
  })
}

const onAbort = (signal: AbortSignal, release: Effect.Effect<void>): void => {
  if (signal.aborted) return void Effect.runFork(release)
  signal.addEventListener("abort", () => void Effect.runFork(release), { once: true })
}
