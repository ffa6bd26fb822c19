/**
 * The part `feed` of the storm: clients of a WebSocket feed. The feed is killed, closed, cut off, stalled and left
 * half-open, and its tokens die. All clients share one session, which has its own authorization server, since the other
 * server's records are about the callers.
 *
 * ```
 * clients → gate → proxy → feed server → authorization server
 * ```
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import { randomBytes } from "node:crypto"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { Counterparties, Counterparty, CounterpartyLost } from "../counterparty.js"
import type { Options } from "../options.js"
import type { Part } from "../part.js"
import type { Proxy } from "../proxy.js"
import type { AuthorizationServer } from "../session/authorization-server.js"
import { timing } from "./client.js"
import type { Clients } from "./clients.js"
import { subscriptionCount, type Topics } from "./crowd.js"
import type { Gate } from "./gate.js"
import * as Journal from "./journal.js"
import * as Ledger from "./ledger.js"
import type { FeedServer } from "./server.js"
import * as Weather from "./weather.js"

const names = ["ada", "bob", "cyd"]

/**
 * In milliseconds: the time for messages that are not yet acknowledged at the end of the storm. The proxy continues
 * with its faults.
 */
const patience = 10_000

export const make = (
  options: Options,
  counterparties: Counterparties,
  proxy: Counterparty<Proxy>
): Effect.Effect<Part, CounterpartyLost, Scope.Scope> =>
  Effect.gen(function*() {
    const scope = yield* Effect.scope
    const { seconds, seed } = options
    const journal = yield* temporaryFile
    const gate = yield* counterparties.fork<Gate>("gate", new URL("./gate.ts", import.meta.url))
    const clients = yield* counterparties.fork<Clients>("feed's clients", new URL("./clients.ts", import.meta.url))
    const authorization = yield* counterparties.fork<AuthorizationServer>(
      "feed's authorization server",
      new URL("../session/authorization-server.ts", import.meta.url)
    )
    const introspectionSecret = randomBytes(16).toString("hex")
    // Some tokens expire, most are revoked before.
    const { forApi, forClients } = yield* authorization.ask("listen", { introspectionSecret, lifetime: 3 })

    const prepare = Effect.gen(function*() {
      const life = yield* Scope.fork(scope, scope.strategy)
      const server = yield* counterparties.fork<FeedServer>("feed server", new URL("./server.ts", import.meta.url))
        .pipe(
          Scope.extend(life)
        )
      // SIGKILL: the server cannot clean up.
      return { server, kill: Scope.close(life, Exit.void) }
    })
    // There is always one server in reserve: starting a process takes as long as several other faults.
    let reserve = yield* prepare

    const start = Effect.gen(function*() {
      const { kill, server } = reserve
      reserve = yield* prepare
      const port = yield* server.ask("listen", {
        authorizationPort: forApi,
        introspectionSecret,
        journal,
        subscriptions: subscriptionCount
      })
      yield* gate.ask("leadTo", yield* proxy.ask("openRoute", { name: `feed ${port}`, port, faults: "anywhere", seed }))
      return { server, kill }
    })
    let running = yield* start

    const urls = yield* Effect.forEach(names, (client) =>
      Effect.map(gate.ask("open", client), (port) =>
        [client, `ws://127.0.0.1:${port}/?client=${client}`] as const))
    const authorizationRoute = yield* proxy.ask("openRoute", {
      name: "feed's authorization",
      port: forClients,
      faults: "before forwarding",
      seed
    })

    yield* clients.ask("enter", {
      seed,
      urls: Object.fromEntries(urls),
      authorization: `http://127.0.0.1:${authorizationRoute}`,
      issuer: `http://127.0.0.1:${forClients}`
    })

    let wellSubscribedAtLast = 0
    const weather = Weather.make(seed, seconds)
    let kills = 0
    let revocations = 0

    /** Any connected client: waits until there is one, at most some seconds. */
    const untilStruck = (strike: Effect.Effect<boolean, CounterpartyLost>) =>
      Effect.repeat(strike, {
        until: (struck) =>
          struck,
        schedule: Schedule.spaced("20 millis"),
        times: 250
      })

    const strikeClient = (strike: (client: string) => Effect.Effect<boolean, CounterpartyLost>) =>
      untilStruck(Effect.suspend(() => strike(names[Math.floor(weather.luck.between(0, names.length))]!)))

    const strike = (calamity: Weather.Calamity): Effect.Effect<unknown, CounterpartyLost> => {
      const { luck } = weather
      switch (calamity.kind) {
        case "close":
          return strikeClient((client) => running.server.ask("close", { client, code: calamity.code }))
        case "overload": {
          const millis = luck.between(100, 300)
          return untilStruck(Effect.suspend(() => running.server.ask("overload", millis)))
        }
        case "reset":
        case "half-open": {
          const { kind } = calamity
          return strikeClient((client) => gate.ask("strike", { client, fault: { kind } }))
        }
        case "short stall":
        case "long stall": {
          // The stall ends before a client notices it, or after the client has ended the connection.
          const millis = calamity.kind === "short stall" ? luck.between(50, 250) : luck.between(800, 1600)
          return strikeClient((client) => gate.ask("strike", { client, fault: { kind: "stall", millis } }))
        }
        case "revoke":
          revocations++
          return authorization.ask("revoke", luck.pick({ grant: 0.25 }) ?? "tokens")
        case "kill":
          kills++
          return Effect.gen(function*() {
            yield* running.kill
            yield* Effect.sleep(luck.between(0, 200))
            running = yield* start
          })
      }
    }

    // Every fault is completed and none is left out: in a short storm the last one comes when the earlier ones are
    // over.
    const stormUntil = Effect.fnUntraced(function*(endsAt: number) {
      while (!weather.wasComplete() || (yield* Clock.currentTimeMillis) < endsAt) {
        yield* Effect.sleep(weather.pause())
        yield* strike(weather.next())
      }
    })

    const wellSubscribed = (topics: Topics) =>
      Effect.map(
        running.server.ask("subscriptions"),
        (subscribed) =>
          names.filter((client) => String(subscribed[client]) === String([...topics[client] ?? []].sort())).length
      )

    return {
      counters: Effect.gen(function*() {
        const { acknowledged, events, said } = yield* clients.ask("report")
        return {
          said: sum(Object.values(said)),
          acknowledged: sum(Object.values(acknowledged)),
          opened: sum(events.map(({ opened }) => opened)),
          kills
        }
      }),

      run: Effect.gen(function*() {
        const endsAt = (yield* Clock.currentTimeMillis) + seconds * 1000
        yield* gate.ask("judge", true)
        yield* stormUntil(endsAt)
        const topics = yield* clients.ask("calm", patience)
        yield* Effect.repeat(Effect.delay(gate.ask("report"), "20 millis"), {
          until: ({ halfOpen, noticed }) => noticed === halfOpen,
          times: 250
        })
        // The proxy still cuts connections: a client that was just cut off has no subscriptions.
        wellSubscribedAtLast = yield* Effect.repeat(Effect.delay(wellSubscribed(topics), "20 millis"), {
          until: (count) => count === names.length,
          times: 250
        })
        yield* gate.ask("judge", false)
        yield* clients.ask("leave")
      }),

      section: Effect.gen(function*() {
        return Ledger.section({
          openConnections: yield* gate.ask("drained"),
          gate: yield* gate.ask("report"),
          tally: yield* clients.ask("report"),
          tokens: yield* authorization.ask("report"),
          journal: Journal.read(journal),
          revocations,
          kills,
          clients: names.length,
          wellSubscribed: wellSubscribedAtLast,
          patience: timing.heartbeat.interval + timing.heartbeat.timeout
        })
      })
    }
  })

const temporaryFile: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "storm-"))),
  (directory) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
).pipe(
  Effect.map((directory) => join(directory, "feed.journal")),
  Effect.tap((path) => Effect.sync(() => writeFileSync(path, "")))
)

const sum = (numbers: ReadonlyArray<number>): number => numbers.reduce((total, number) => total + number, 0)
