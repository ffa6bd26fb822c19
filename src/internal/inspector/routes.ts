/** The routes of an Inspector: a page without data, and the data for authorized requests. */
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import type { RouterOptions, Snapshot } from "../../Inspector.js"
import { socketOf } from "../boundary/nodeServer.js"
import * as Access from "./access.js"
import { page } from "./page.js"

/** How often an open page gets a snapshot. A page that changes more often is hard to read. */
const interval = "500 millis"

const common = {
  "cache-control": "no-store",
  "cross-origin-resource-policy": "same-origin",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff"
}

const text = (status: number, body: string, headers: Record<string, string> = {}) =>
  HttpServerResponse.text(body, { status, headers: { ...common, ...headers } })

export const make = <R>(
  options: RouterOptions,
  snapshot: (from?: number) => Effect.Effect<Snapshot, never, R>
): HttpRouter.HttpRouter<never, R> => {
  const access = Access.make(options)
  const allowed = (
    needsToken: boolean,
    answer: Effect.Effect<HttpServerResponse.HttpServerResponse, never, R | HttpServerRequest.HttpServerRequest>
  ): Effect.Effect<HttpServerResponse.HttpServerResponse, never, R | HttpServerRequest.HttpServerRequest> =>
    Effect.flatMap(HttpServerRequest.HttpServerRequest, ({ headers }) => {
      if (!Access.isFromHost(access, headers)) return Effect.succeed(text(403, "this host or origin is not allowed\n"))
      if (needsToken && !Access.hasToken(access, headers)) {
        return Effect.succeed(text(401, "a token is needed\n", { "www-authenticate": "Bearer" }))
      }
      return answer
    })
  return HttpRouter.empty.pipe(
    HttpRouter.get("/", allowed(false, Effect.sync(served))),
    HttpRouter.get("/snapshot", allowed(true, Effect.map(snapshot(), asJson))),
    HttpRouter.get(
      "/events",
      allowed(
        true,
        Effect.zipWith(Effect.context<R>(), HttpServerRequest.HttpServerRequest, (context, request) => {
          const lines = Stream.provideContext(Stream.interruptWhen(following(snapshot), gone(request)), context)
          return HttpServerResponse.stream(lines, { contentType: "text/event-stream", headers: common })
        })
      )
    )
  )
}

/** The page runs only its own script and style, whose nonce is new for each answer. */
const served = (): HttpServerResponse.HttpServerResponse => {
  const nonce = globalThis.crypto.randomUUID()
  return HttpServerResponse.text(page(nonce), {
    contentType: "text/html; charset=utf-8",
    headers: {
      ...common,
      "content-security-policy": [
        "default-src 'none'",
        `script-src 'nonce-${nonce}'`,
        `style-src 'nonce-${nonce}'`,
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'"
      ].join("; ")
    }
  })
}

const asJson = (snapshot: Snapshot): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.text(JSON.stringify(snapshot), { contentType: "application/json", headers: common })

/** Waits until the client has gone. Node does not say so of a response that waits behind others of its connection. */
const gone = (request: HttpServerRequest.HttpServerRequest): Effect.Effect<void> =>
  Effect.async((resume) => {
    const socket = socketOf(request)
    if (socket?.closed) return resume(Effect.void)
    socket?.once("close", () => resume(Effect.void))
  })

/** A snapshot now and after each interval, with the new events, as server-sent events. */
const following = <R>(
  snapshot: (from?: number) => Effect.Effect<Snapshot, never, R>
): Stream.Stream<Uint8Array, never, R> =>
  Stream.suspend(() => {
    let from = 0
    const encoder = new TextEncoder()
    const next = Effect.map(Effect.suspend(() => snapshot(from)), (taken) => {
      from = (taken.events.at(-1)?.number ?? from - 1) + 1
      return encoder.encode(`data: ${JSON.stringify(taken)}\n\n`)
    })
    return Stream.repeatEffectWithSchedule(next, Schedule.spaced(interval))
  })
