/** The application's client for the API over TLS: it trusts one authority, and uses each ticket for one connection. */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as HttpClient from "@effect/platform/HttpClient"
import type { InvalidOptions } from "effect-holdfast/InvalidOptions"
import { NodeTicketCache } from "effect-holdfast/node"
import type * as TicketCache from "effect-holdfast/TicketCache"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { LookupFunction } from "node:net"
import type { ConnectionOptions } from "node:tls"

/** Every name resolves to this machine. */
const lookup: LookupFunction = (_name, { all }, found) =>
  all === true ? found(null, [{ address: "127.0.0.1", family: 4 }]) : found(null, "127.0.0.1", 4)

export const trusting = (authority: string): ConnectionOptions => ({ ca: authority, lookup })

/** As many connections as without TLS. Plain `http` is unchanged. */
export const layerHttpClient = (
  cache: TicketCache.TicketCache,
  tls: ConnectionOptions
): Layer.Layer<HttpClient.HttpClient, InvalidOptions> =>
  NodeHttpClient.layerUndiciWithoutDispatcher.pipe(
    Layer.provide(NodeTicketCache.layerDispatcher({ cache, tls, undici: { connections: 100 } }))
  )

/** Reports each connection that could not be opened. */
export const layerWatched = (
  onFailed: (error: NodeTicketCache.TlsError) => void
): Layer.Layer<HttpClient.HttpClient, never, HttpClient.HttpClient> =>
  Layer.effect(
    HttpClient.HttpClient,
    Effect.map(
      HttpClient.HttpClient,
      HttpClient.tapError((error) =>
        Effect.sync(() => {
          const failure = tlsErrorOf(error)
          if (failure !== undefined) onFailed(failure)
        })
      )
    )
  )

/** The cause of `HttpClient`'s `RequestError`. */
export const tlsErrorOf = (error: unknown): NodeTicketCache.TlsError | undefined => {
  if (error instanceof NodeTicketCache.TlsError) return error
  return error instanceof Error && error.cause instanceof NodeTicketCache.TlsError ? error.cause : undefined
}
