/**
 * Disposes of the body of an unwanted response: reads it to its end or cuts it, so that its connection is free for
 * another request.
 */
import type * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import type * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as Runtime from "effect/Runtime"
import * as Stream from "effect/Stream"
import {
  type Body,
  type BodyFailure,
  bytesOf,
  Judged,
  longestBody,
  textReadBeneath,
  withBody,
  Wrapped
} from "./answer.js"

type Response = HttpClientResponse.HttpClientResponse

/**
 * Reads the body while `f` runs, for at most a second and 64 KiB, then cuts it: a connection whose response was not
 * read to its end cannot be used again, and `f` may be waiting for this connection. `read` waits for the end of the
 * reading. If `f` ends earlier, the body is cut at that time.
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
 * The reading fiber runs immediately, up to its first wait. A fiber that is only scheduled could be interrupted before
 * its first step, and then nothing would cut the body or release what it holds.
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

/** Cuts a body that is not read any further. */
export const abandon = (response: Response): Effect.Effect<void> =>
  Effect.map(startReading(response), (start) => cut(start()))

/** Like `whileRead`, for a response that no caller is given: `read` gives no body. */
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

/** The private parts of platform's responses from `fetch` and undici. */
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
 * Reads and cuts a short body through the client's own promise. Doing this with a fiber would make a burst of refusals
 * a tenth slower. A response of another kind is read by a fiber.
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

/**
 * Starts to read, and runs the effect. Reading that is still going on is cut at the effect's end, or after a second.
 */
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
 * Cuts readings that take too long. A single fiber watches all readings, and exists only while there are any.
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
export const discardBody = (response: Response): Effect.Effect<void> =>
  Effect.asVoid(whileRead(response, (read) => read))

const readToEnd = (response: Response): Effect.Effect<Uint8Array, BodyFailure> => {
  if (response instanceof Judged) return response.keeping(readToEnd(response.original))
  const text = textReadBeneath(response)
  if (text !== undefined) return text
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

/** Whether interrupting the read aborts the request. With `HttpClient.withScope`, only the end of the scope does. */
const isAbortable = (response: Response): boolean =>
  response instanceof Wrapped ? isAbortable(response.original) : "controller" in response

/** `fetch` has no stream for a response without a body. */
const isEmptyBody = (error: BodyFailure) => error !== "too long" && error.reason === "EmptyBody"

const joined = (chunks: ReadonlyArray<Uint8Array>, length: number): Uint8Array => {
  const all = new Uint8Array(length)
  let offset = 0
  for (const chunk of chunks) {
    all.set(chunk, offset)
    offset += chunk.length
  }
  return all
}

/** Reads the body to its end, or cuts it, and gives the response with what was read. */
export const readBeforehand = (response: Response): Effect.Effect<Response> =>
  whileRead(response, (read) => Effect.map(read, (body) => withBody(response.request, response, body)))
