/** What `internal/http` leans on in `@effect/platform` that its types do not promise. */
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { globalValue } from "effect/GlobalValue"
import { clients } from "../support/httpClients.js"
import { serve } from "../support/httpServer.js"

it.scopedLive.each(clients)(
  "a response has a controller that aborts its request, over %s (else every refusal is read as a stream)",
  ([, layer]) =>
    Effect.gen(function*() {
      const server = yield* serve(() => ({ body: "ok" }))
      const response = yield* HttpClient.get(server.url)
      assert.instanceOf((response as { controller?: unknown }).controller, AbortController)
    }).pipe(Effect.provide(layer))
)

it.scopedLive.each(clients.slice(0, 2))(
  "a response has its client's own body within, over %s (else a burst of refusals takes a tenth longer)",
  ([, layer]) =>
    Effect.gen(function*() {
      const server = yield* serve(() => ({ body: "ok" }))
      const { original } = (yield* HttpClient.get(server.url)) as { original?: { source?: any } }
      const body = typeof original?.source?.arrayBuffer === "function" ? original.source : original?.source?.body
      const buffer = yield* Effect.promise((): Promise<ArrayBuffer> => body.arrayBuffer())
      assert.strictEqual(new TextDecoder().decode(buffer), "ok")
    }).pipe(Effect.provide(layer))
)

it.scopedLive.each(clients)(
  "`withScope` says which request it aborts, over %s (else a hold outlives its scope until it is collected)",
  ([, layer]) =>
    Effect.gen(function*() {
      const server = yield* serve(() => ({ body: "ok" }))
      const client = HttpClient.withScope(yield* HttpClient.HttpClient)
      const request = HttpClientRequest.get(server.url)
      yield* client.execute(request)
      const requests = globalValue("@effect/platform/HttpClient/scopedRequests", () =>
        new WeakMap<object, AbortController>())
      assert.instanceOf(requests.get(request), AbortController)
    }).pipe(Effect.provide(layer))
)
