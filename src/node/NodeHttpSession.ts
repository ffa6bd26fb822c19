/**
 * `HttpSession` on Node: each generation has connections of its own, with its own TLS options.
 *
 * A new generation never uses a connection of the previous generation. So if a new identity has other ciphers or
 * another minimum version of TLS, these apply from its first probe on. Each connection of the previous generation ends
 * when its last response has been read to the end.
 *
 * @since 0.1.0
 */

import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as Undici from "@effect/platform-node/Undici"
import type * as HttpClient from "@effect/platform/HttpClient"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type * as Types from "effect/Types"
import * as HttpSession from "../HttpSession.js"
import type { InvalidOptions } from "../InvalidOptions.js"

/**
 * Makes a session over undici. `agent` has options for the connections of every generation: timeouts, pool sizes,
 * `connect` with a CA or a client certificate. An identity's own TLS options override those of `connect`. If `connect`
 * is a function, it is used as it is, and does not see the identity's TLS options.
 *
 * @example
 * ```ts
 * import { NodeHttpSession } from "effect-holdfast/node"
 * import * as Headers from "@effect/platform/Headers"
 * import * as Effect from "effect/Effect"
 *
 * const session = NodeHttpSession.make({
 *   identity: Effect.succeed({
 *     headers: Headers.fromInput({ "user-agent": "example/1.0" }),
 *     tls: { minVersion: "TLSv1.3" }
 *   }),
 *   probe: "https://shop.example.com/"
 * })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <E = never, R = never, E2 = never, R2 = never>(
  options: HttpSession.Options<E, R, E2, R2> & { readonly agent?: Undici.Agent.Options | undefined }
): Effect.Effect<HttpSession.HttpSession<E | E2>, InvalidOptions, Types.NoInfer<R | R2> | Scope.Scope> =>
  // A closed agent ends its idle connections immediately, and each busy connection at the end of its response's body.
  Effect.flatMap(agents(options?.agent), (connect) => HttpSession.makeWith(options, connect, { bodiesHold: false }))

/**
 * The agent of a replaced generation is told to close, and closes once its requests are answered. No fiber waits for
 * that: the fiber that closes the generation's scope may be the one that has to read the last body. When the session's
 * scope closes, every pool that is still open is destroyed. This function remembers the pools, since an agent that was
 * told to close forgets them.
 */
const agents = (options: Undici.Agent.Options = {}) =>
  Effect.gen(function*() {
    const pools = new Set<Undici.Dispatcher>()
    yield* Effect.addFinalizer(() => Effect.promise(() => Promise.all([...pools].map((pool) => pool.destroy()))))
    const factory: Undici.Agent.Options["factory"] = (origin, poolOptions) => {
      for (const pool of pools) {
        if ("destroyed" in pool && pool.destroyed === true) pools.delete(pool)
      }
      const pool = options.factory?.(origin, poolOptions) ?? new Undici.Pool(origin, poolOptions)
      pools.add(pool)
      return pool
    }
    return (tls: HttpSession.TlsOptions | undefined): Effect.Effect<HttpClient.HttpClient, never, Scope.Scope> =>
      Effect.map(
        Effect.acquireRelease(
          Effect.sync(() => {
            const connect = typeof options.connect === "function" ? options.connect : { ...options.connect, ...tls }
            return new Undici.Agent({ ...options, connect, factory })
          }),
          (agent) => Effect.sync(() => void agent.close())
        ),
        NodeHttpClient.makeUndici
      )
  })
