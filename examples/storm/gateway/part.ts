/**
 * The part `gateway` of the storm: clients of a chat service's gateway, which closes and resets connections, sends
 * clients away, falls silent, and forgets sessions.
 *
 * ```
 * clients → proxy → gateway
 * ```
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { randomBytes } from "node:crypto"
import { chance } from "../chance.js"
import type { Counterparties, Counterparty, CounterpartyLost } from "../counterparty.js"
import type { Options } from "../options.js"
import type { Part } from "../part.js"
import type { Proxy } from "../proxy.js"
import type { Clients } from "./clients.js"
import * as Ledger from "./ledger.js"
import type { Fault, Gateway } from "./server.js"

const names = ["dan", "eve", "fay"]
const faults: ReadonlyArray<Fault> = ["close", "reset", "send away", "forget", "fall silent"]

/** In milliseconds. */
const heartbeat = 300

/** The clients' backoff begins at 50 ms: a client that is refused all the time tries some eight times a second. */
const limit = 20

export const make = (
  { seconds, seed }: Options,
  counterparties: Counterparties,
  proxy: Counterparty<Proxy>
): Effect.Effect<Part, CounterpartyLost, Scope.Scope> =>
  Effect.gen(function*() {
    const gateway = yield* counterparties.fork<Gateway>("gateway", new URL("./server.ts", import.meta.url))
    const clients = yield* counterparties.fork<Clients>("gateway's clients", new URL("./clients.ts", import.meta.url))
    const token = randomBytes(16).toString("hex")
    const port = yield* gateway.ask("listen", { token, heartbeat, logins: limit })
    const route = yield* proxy.ask("openRoute", { name: "gateway", port, faults: "anywhere", seed })
    const url = `ws://127.0.0.1:${route}`
    yield* gateway.ask("publish", url)
    yield* clients.ask("enter", { urls: names.map((client) => `${url}/?client=${client}`), token })

    const luck = chance(seed, "gateway's weather")
    const struck: Record<string, number> = {}

    /** Applies a fault to a connected client: tries until there is one, at most some seconds. */
    const strike = (fault: Fault) =>
      Effect.suspend(() => gateway.ask("strike", { client: names[Math.floor(luck.between(0, names.length))]!, fault }))
        .pipe(
          Effect.delay("20 millis"),
          Effect.repeat({ until: (struck) => struck, times: 500 }),
          Effect.map((wasThere) => struck[fault] = (struck[fault] ?? 0) + (wasThere ? 1 : 0))
        )

    const isHeard = Effect.map(
      Effect.all([gateway.ask("report"), clients.ask("report")]),
      ([{ sessions }, heard]) =>
        sessions.every(({ id, isForgotten, published }) => isForgotten || heard.sessions[id]?.highest === published)
    )

    return {
      counters: Effect.map(gateway.ask("report"), ({ invalid, resumed }) => ({ "sessions resumed": resumed, invalid })),

      run: Effect.gen(function*() {
        const endsAt = (yield* Clock.currentTimeMillis) + seconds * 1000
        const usual = Math.min(400, (seconds * 1000) / (2 * faults.length))
        // Each fault comes at least once, in an order that the seed determines.
        let coming: Array<Fault> = [...faults]
        for (let came = 0; came < faults.length || (yield* Clock.currentTimeMillis) < endsAt; came++) {
          yield* Effect.sleep(luck.between(0.5, 1.5) * usual)
          if (coming.length === 0) coming = [...faults]
          yield* strike(coming.splice(Math.floor(luck.between(0, coming.length)), 1)[0]!)
        }
        yield* gateway.ask("calm")
        // The proxy continues with its faults.
        yield* Effect.repeat(Effect.delay(isHeard, "20 millis"), { until: (is) => is, times: 500 })
      }),

      section: Effect.gen(function*() {
        const tally = yield* clients.ask("report")
        yield* clients.ask("leave")
        return Ledger.section({ tally, gateway: yield* gateway.ask("report"), limit, faults: struck })
      })
    }
  })
