/**
 * The part `tickets` of the storm: the same API and callers, over TLS 1.3. The API closes its connections often, so
 * that there are many handshakes, and changes its ticket keys in the middle of the storm.
 *
 * ```
 * clients → wiretap → proxy → resource API
 * ```
 */
import type * as HttpClient from "@effect/platform/HttpClient"
import type { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as TicketCache from "effect-holdfast/TicketCache"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { chance } from "../chance.js"
import type { Counterparties, Counterparty, CounterpartyLost } from "../counterparty.js"
import { longestWait, type Options } from "../options.js"
import type { Part } from "../part.js"
import type { Proxy } from "../proxy.js"
import type { Servers } from "../session/servers.js"
import * as Certificates from "./certificates.js"
import * as Client from "./client.js"
import * as Failures from "./failures.js"
import * as Ledger from "./ledger.js"
import * as Visitors from "./visitors.js"
import type { Wiretap } from "./wiretap.js"

/** Its `run` is the work besides that of the crowd. */
export interface Tickets extends Part {
  /** The address of the API for the crowd. */
  readonly address: string
  readonly layerHttpClient: Layer.Layer<HttpClient.HttpClient, InvalidOptions>
}

export const make = (
  options: Options,
  counterparties: Counterparties,
  proxy: Counterparty<Proxy>,
  { api, apiPorts, certificates }: Servers
): Effect.Effect<Tickets, CounterpartyLost | InvalidOptions, Scope.Scope> =>
  Effect.gen(function*() {
    const { seconds, seed } = options
    const wiretap = yield* counterparties.fork<Wiretap>("wiretap", new URL("./wiretap.ts", import.meta.url))
    const route = yield* proxy.ask("openRoute", {
      name: "api over TLS",
      port: apiPorts.secure,
      faults: "anywhere",
      seed
    })
    const port = yield* wiretap.ask("listen", { port: route, seed })

    const cache = yield* TicketCache.make({ ticketsPerServer: 100 })
    const { failures, note } = Failures.make()
    const visitors = Visitors.make(options, certificates, { cache, port, onFailed: note })
    let rotations = 0

    const rotate = Effect.gen(function*() {
      // A client that reconnects with a ticket.
      yield* visitors.guest
      yield* api.ask("changeTicketKeys")
      rotations++
      yield* visitors.guest
    })

    const rotateMidway = Effect.delay(
      // Usually once. A rotation shows nothing if there were no tickets of the old keys left.
      Effect.repeat(Effect.zipRight(rotate, wiretap.ask("report")), {
        until: ({ notTaken }) => notTaken > 0,
        times: 20
      }),
      chance(seed, "ticket keys").between(400, 600) * seconds
    )

    return {
      address: `https://${Certificates.serverName}:${port}`,
      layerHttpClient: Client.layerWatched(note).pipe(
        Layer.provide(Client.layerHttpClient(cache, Client.trusting(certificates.authority)))
      ),
      run: Effect.all([visitors.strangers(longestWait(options)), rotateMidway], {
        concurrency: "unbounded",
        discard: true
      }),
      counters: Effect.map(TicketCache.stats(cache), ({ offered, resumed }) => ({ tickets: offered, resumed })),
      section: Effect.gen(function*() {
        const openConnections = yield* wiretap.ask("drained")
        return Ledger.section({
          openConnections,
          wire: yield* wiretap.ask("report"),
          server: (yield* api.ask("report")).handshakes,
          cache: yield* TicketCache.stats(cache),
          rotations,
          failures,
          ...yield* visitors.tally
        })
      })
    }
  })
