/**
 * The part `fleet` of the storm: several processes run the client of the part `session` and share one session. Of two
 * processes that are about to renew it, one is killed, and one is suspended for longer than its lease; another one
 * takes over. The part has its own servers, since the other servers' records are about the callers.
 *
 * ```
 * members → proxy → authorization server, API
 *    └── store
 * ```
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { randomBytes } from "node:crypto"
import { chance } from "../chance.js"
import type { Counterparties, Counterparty, CounterpartyLost } from "../counterparty.js"
import { longestWait, type Options } from "../options.js"
import type { Part } from "../part.js"
import type { Proxy } from "../proxy.js"
import type { AuthorizationServer } from "../session/authorization-server.js"
import type { ResourceApi } from "../session/resource-api.js"
import type { Certificates } from "../tls/certificates.js"
import * as Ledger from "./ledger.js"
import type { Member } from "./member.js"
import * as Place from "./place.js"

/** The callers in each member: few, since the parts share the machine. */
const callers = 5

/**
 * In milliseconds: longer than a busy machine may make a member wait. A server with reuse detection and without leeway
 * ends the grant if a living member loses its lease to another one.
 */
const lease = 2000

export const make = (
  { processes, seconds, seed }: Options,
  counterparties: Counterparties,
  proxy: Counterparty<Proxy>,
  certificates: Certificates
): Effect.Effect<Part, CounterpartyLost, Scope.Scope> =>
  Effect.gen(function*() {
    const scope = yield* Effect.scope
    const place = yield* Place.make
    const authorization = yield* counterparties.fork<AuthorizationServer>(
      "fleet's authorization server",
      new URL("../session/authorization-server.ts", import.meta.url)
    )
    const api = yield* counterparties.fork<ResourceApi>(
      "fleet's API",
      new URL("../session/resource-api.ts", import.meta.url)
    )
    const introspectionSecret = randomBytes(16).toString("hex")
    // Some tokens expire, most are revoked before.
    const { forApi, forClients } = yield* authorization.ask("listen", { introspectionSecret, lifetime: 4 })
    const { plain } = yield* api.ask("listen", {
      authorizationPort: forApi,
      introspectionSecret,
      seed,
      tls: certificates.api
    })
    const openRoute = (name: string, port: number, faults: "anywhere" | "before forwarding") =>
      Effect.map(proxy.ask("openRoute", { name, port, faults, seed }), (route) => `http://127.0.0.1:${route}`)
    const apiAddress = yield* openRoute("fleet's API", plain, "anywhere")

    const enter = (name: string) =>
      Effect.gen(function*() {
        const life = yield* Scope.fork(scope, scope.strategy)
        const process = yield* Scope.extend(
          counterparties.fork<Member>(name, new URL("./member.ts", import.meta.url)),
          life
        )
        yield* process.ask("enter", {
          seed,
          name,
          callers,
          place,
          lease,
          api: apiAddress,
          // Each member has its own route, by which the proxy recognises it.
          authorization: yield* openRoute(name, forClients, "before forwarding"),
          issuer: `http://127.0.0.1:${forClients}`
        })
        // SIGKILL: the member cannot clean up.
        return { name, process, kill: Scope.close(life, Exit.void) }
      })
    const names = Array.from({ length: processes }, (_, number) => `member ${number + 1}`)
    let members = yield* Effect.forEach(names, enter, { concurrency: "unbounded" })

    const luck = chance(seed, "fleet")
    let revocations = 0
    const strikes: Array<Ledger.Strike> = []
    const reports = Effect.suspend(() =>
      Effect.forEach(members, ({ process }) => process.ask("report"), { concurrency: "unbounded" })
    )
    const revoke = Effect.suspend(() => {
      revocations++
      return authorization.ask("revoke", luck.pick({ grant: 0.25 }) ?? "tokens")
    })
    const untilIssued = (before: number) =>
      Effect.repeat(Effect.delay(authorization.ask("report"), "20 millis"), {
        until: ({ issued }) => issued > before,
        times: 750
      })
    /** If tokens die faster than the machine can serve all waiting callers, no client can keep a promise. */
    const untilServed = Effect.flatMap(reports, (before) =>
      Effect.repeat(Effect.delay(reports, "50 millis"), {
        until: (now) => now.every(({ served }, member) => served >= before[member]!.served + callers),
        times: 300
      }))

    /** Revokes the tokens, and kills or pauses the member that comes to renew: the proxy holds its request back. */
    const strike = (fault: Ledger.Strike["fault"]) =>
      Effect.gen(function*() {
        yield* proxy.ask("lieInWait", members.map(({ name }) => name))
        yield* revoke
        const route = yield* proxy.ask("caught")
        const { issued } = yield* authorization.ask("report")
        const holder = members.find(({ name }) => name === route)
        if (holder !== undefined) {
          const since = yield* Clock.currentTimeMillis
          if (fault === "killed") {
            members = members.filter((member) => member !== holder)
            yield* holder.kill
          } else {
            yield* holder.process.signal("SIGSTOP")
          }
          yield* untilIssued(issued)
          strikes.push({ fault, millis: (yield* Clock.currentTimeMillis) - since })
        }
        yield* proxy.ask("letGo")
        if (holder === undefined || fault === "killed") return
        yield* holder.process.signal("SIGCONT")
        yield* holder.process.ask("forgive")
      })

    return {
      counters: Effect.map(authorization.ask("report"), ({ issued }) => ({
        "fleet's renewals": Math.max(0, issued - 1)
      })),

      run: Effect.gen(function*() {
        const begun = yield* Clock.currentTimeMillis
        const millis = seconds * 1000
        const coming: Array<Ledger.Strike["fault"]> = ["killed", "paused"]
        const isOver = Effect.map(Clock.currentTimeMillis, (now) => coming.length === 0 && now >= begun + millis)
        while (!(yield* isOver)) {
          yield* Effect.sleep(Math.min(luck.between(800, 2500), millis / 4))
          const part = ((yield* Clock.currentTimeMillis) - begun) / millis
          // One in the second quarter of the storm, and one in its second half.
          const isDue = coming.length > 0 && part >= (coming.length === 2 ? 1 / 4 : 1 / 2)
          yield* isDue ? strike(coming.shift()!) : revoke
          yield* untilServed
        }
        yield* Effect.forEach(members, ({ process }) => process.ask("calm"), { concurrency: "unbounded" })
      }),

      section: Effect.gen(function*() {
        const tallies = yield* reports
        yield* Effect.forEach(members, ({ process }) => process.ask("leave"), { concurrency: "unbounded" })
        const open = yield* Effect.forEach(["fleet's API", ...names], (route) => proxy.ask("drained", route))
        yield* members[0]!.process.ask("removeStore", place)
        return Ledger.section({
          processes,
          store: place.kind,
          tallies,
          tokens: yield* authorization.ask("report"),
          revocations,
          strikes,
          lease,
          patience: longestWait({ callers: processes * callers }),
          openConnections: open.reduce((sum, count) => sum + count, 0)
        })
      })
    }
  })
