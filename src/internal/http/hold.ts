/**
 * Holds a session or a generation for a response until its body has ended.
 */
import type * as HttpClientError from "@effect/platform/HttpClientError"
import type * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import type * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import * as Effect from "effect/Effect"
import { globalValue } from "effect/GlobalValue"
import * as Stream from "effect/Stream"
import { Wrapped } from "./answer.js"

type Request = HttpClientRequest.HttpClientRequest
type Response = HttpClientResponse.HttpClientResponse

/** A response that ends its hold when its body has ended, however the body was read. */
class Held extends Wrapped {
  private readonly release: Effect.Effect<void>

  constructor(original: Response, release: Effect.Effect<void>) {
    super(original)
    this.release = release
  }

  protected override reading<A>(
    body: Effect.Effect<A, HttpClientError.ResponseError>
  ): Effect.Effect<A, HttpClientError.ResponseError> {
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

/**
 * Ends the hold of a response that was garbage-collected before its body was read: platform aborts its request, too.
 */
const unread = globalValue(
  Symbol.for("effect-holdfast/internal/http/unread"),
  () => new FinalizationRegistry<Effect.Effect<void>>((release) => void Effect.runFork(release))
)

/**
 * A private map of platform: the requests that `HttpClient.withScope` aborts at their scope's end, with their abort
 * controllers.
 */
const scopedRequests = globalValue(
  "@effect/platform/HttpClient/scopedRequests",
  () => new WeakMap<Request, AbortController>()
)

/** Makes a request that is sent instead of another one belong to the same scope. */
export const inScopeOf = (request: Request, sent: Request): Request => {
  const controller = scopedRequests.get(request)
  if (controller !== undefined) scopedRequests.set(sent, controller)
  return sent
}

/**
 * A response that holds what `retain` holds. The hold ends when the body has been read, cut or failed, when the scope
 * of the request has closed, or when the response has been garbage-collected unread. The hold does not refer to the
 * response. A response without a body holds nothing.
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

// These functions are outside `holding`, because a closure that is made there would keep the response from being
// collected.
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
