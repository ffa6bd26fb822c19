/**
 * The tickets' part of the storm, to which the session's is host: the same API, for the same crowd, over TLS 1.3. It
 * closes its connections often, so that there are many handshakes, and in the midst of the storm it changes the keys
 * of its tickets.
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
import type { Section } from "../ledger.js"
import type { Options } from "../options.js"
import type { Proxy } from "../proxy.js"
import type { ResourceApi } from "../session/resource-api.js"
import * as Certificates from "./certificates.js"
import * as Client from "./client.js"
import * as Failures from "./failures.js"
import * as Ledger from "./ledger.js"
import * as Visitors from "./visitors.js"
import type { Wiretap } from "./wiretap.js"

export interface Tickets {
  /** Where the crowd finds the API. */
  readonly address: string
  readonly layerHttpClient: Layer.Layer<HttpClient.HttpClient, InvalidOptions>
  /** What happens besides what the crowd does. */
  readonly run: (patience: number) => Effect.Effect<void, CounterpartyLost>
  readonly counters: Effect.Effect<Readonly<Record<string, number>>>
  /** To be asked for when all clients are closed. */
  readonly section: Effect.Effect<Section, CounterpartyLost>
}

export interface Settings {
  readonly options: Options
  readonly certificates: Certificates.Certificates
  readonly proxy: Counterparty<Proxy>
  readonly wiretap: Counterparty<Wiretap>
  readonly api: Counterparty<ResourceApi>
  /** Of the API, over TLS. */
  readonly port: number
}

export const forkWiretap = (counterparties: Counterparties): Effect.Effect<Counterparty<Wiretap>, never, Scope.Scope> =>
  counterparties.fork<Wiretap>("wiretap", new URL("./wiretap.ts", import.meta.url))

export const make = (
  { api, certificates, options, port: apiPort, proxy, wiretap }: Settings
): Effect.Effect<Tickets, CounterpartyLost | InvalidOptions, Scope.Scope> =>
  Effect.gen(function*() {
    const { seconds, seed } = options
    const route = yield* proxy.ask("openRoute", { name: "api over TLS", port: apiPort, faults: "anywhere", seed })
    const port = yield* wiretap.ask("listen", { port: route, seed })

    const cache = yield* TicketCache.make({ ticketsPerServer: 100 })
    const { failures, note } = Failures.make()
    const visitors = Visitors.make(options, certificates, { cache, port, onFailed: note })
    let rotations = 0

    const rotate = Effect.gen(function*() {
      // Who has a ticket, and comes back with it.
      yield* visitors.guest
      yield* api.ask("changeTicketKeys")
      rotations++
      yield* visitors.guest
    })

    const rotateMidway = Effect.delay(
      // As a rule once. It shows nothing if the old keys had no tickets left.
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
      run: (patience) =>
        Effect.all([visitors.strangers(patience), rotateMidway], { concurrency: "unbounded", discard: true }),
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
