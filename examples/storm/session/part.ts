/**
 * The first part of the storm: very many callers share one session with an API. The authorization server rotates
 * refresh tokens; access tokens expire within seconds, and are all revoked at random moments, at times with the
 * whole grant.
 */
import type { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { randomBytes } from "node:crypto"
import { Accounts } from "../balances/client.js"
import * as Balances from "../balances/crowd.js"
import * as BalancesLedger from "../balances/ledger.js"
import { chance } from "../chance.js"
import type { Counterparties, Counterparty, CounterpartyLost } from "../counterparty.js"
import type { Section } from "../ledger.js"
import type { Options } from "../options.js"
import type { Part } from "../part.js"
import type { Proxy, Route } from "../proxy.js"
import * as Certificates from "../tls/certificates.js"
import * as Tickets from "../tls/tickets.js"
import type { AuthorizationServer } from "./authorization-server.js"
import { Api, ApiSession, areOnlySlow, Orders, Servers, SignIn } from "./client.js"
import * as Crowd from "./crowd.js"
import type { ResourceApi } from "./resource-api.js"
import * as Stragglers from "./stragglers.js"

/**
 * In milliseconds: what one renewal may take, which is more than an outage, a stall and an attempt given up together;
 * and for each caller what a busy machine needs to serve it, for after an outage they all come at once.
 */
const longestWait = ({ callers }: Options): number => 10_000 + 10 * callers

export const make = (
  options: Options,
  counterparties: Counterparties,
  proxy: Counterparty<Proxy>
): Effect.Effect<Part, CounterpartyLost | InvalidOptions, Scope.Scope> =>
  Effect.gen(function*() {
    const server = yield* counterparties.fork<AuthorizationServer>(
      "authorization server",
      new URL("./authorization-server.ts", import.meta.url)
    )
    const api = yield* counterparties.fork<ResourceApi>("resource API", new URL("./resource-api.ts", import.meta.url))
    const wiretap = yield* Tickets.forkWiretap(counterparties)
    const certificates = yield* Certificates.make

    const introspectionSecret = randomBytes(16).toString("hex")
    const { forApi, forClients } = yield* server.ask("listen", {
      introspectionSecret,
      // So that a token lasts until all who wait for one have used it, also on a machine that is busy.
      lifetime: Math.max(2, Math.ceil(options.callers / 100))
    })
    const apiPorts = yield* api.ask("listen", {
      authorizationPort: forApi,
      introspectionSecret,
      seed: options.seed,
      tls: certificates.api
    })
    const tickets = yield* Tickets.make({ api, certificates, options, port: apiPorts.secure, proxy, wiretap })

    const through = (route: Omit<Route, "seed">) =>
      Effect.map(proxy.ask("openRoute", { ...route, seed: options.seed }), (port) => `http://127.0.0.1:${port}`)
    const servers = Layer.succeed(Servers, {
      api: yield* through({ name: "api", port: apiPorts.plain, faults: "anywhere" }),
      secureApi: tickets.address,
      authorization: yield* through({ name: "authorization", port: forClients, faults: "before forwarding" })
    })

    const client = Layer.merge(Orders.layer, Accounts.layer).pipe(
      Layer.provide(Api.layer),
      Layer.provideMerge(ApiSession.layer),
      Layer.provide(SignIn.layer),
      Layer.provide(servers),
      Layer.provide(tickets.layerHttpClient)
    )

    const balances = Balances.make(options)
    const crowd = Crowd.make(options, balances)
    const stragglers = Stragglers.make(options)
    const luck = chance(options.seed, "revocations")
    let revocations = 0

    const revokeAfter = (orders: number) =>
      Effect.gen(function*() {
        const before = yield* crowd.tally
        yield* Effect.sleep(luck.between(800, 2500))
        yield* Effect.repeat(Effect.delay(crowd.tally, "10 millis"), {
          until: (now) => now.served >= before.served + orders
        })
        yield* server.ask("revoke", luck.pick({ grant: 0.25 }) ?? "tokens")
        revocations++
      })

    // One takes the crowd as it finds it, also in the midst of a renewal. The next comes when there were as many orders
    // as callers: where tokens die faster than the machine can serve all who wait for one, no client holds a promise.
    const revokeAgainAndAgain = Effect.forever(Effect.zipRight(revokeAfter(0), revokeAfter(options.callers)))

    const useTheClient = Effect.gen(function*() {
      const session = yield* ApiSession
      const patience = longestWait(options)
      yield* Effect.raceFirst(
        Effect.all([crowd.run(patience), stragglers.run(patience), balances.watch(patience), tickets.run(patience)], {
          concurrency: "unbounded",
          discard: true
        }),
        revokeAgainAndAgain
      )
      // Somebody may have left in the midst of a renewal. What it brings is to be counted.
      yield* Effect.ignore(Effect.timeout(session.current, "10 seconds"))
      return { session, received: (yield* session.status).refreshes }
    }).pipe(Effect.provide(client))

    return {
      counters: Effect.gen(function*() {
        const { failed, served, waiting } = yield* crowd.tally
        const { known } = yield* balances.tally
        const { issued, signIns } = yield* server.ask("report")
        return {
          served,
          waiting,
          failed: sum(failed),
          revoked: revocations,
          renewed: Math.max(0, issued - 1),
          "signed in": signIns,
          transfers: known.Done.length,
          died: known.Died.length,
          "failed midway": known.Failed.length,
          aborted: known.Left.length,
          ...yield* tickets.counters
        }
      }),

      run: Effect.gen(function*() {
        const { received, session } = yield* useTheClient
        const { _tag: status } = yield* session.status
        const openConnections = sum(
          yield* Effect.all({
            api: proxy.ask("drained", "api"),
            authorization: proxy.ask("drained", "authorization")
          })
        )
        const tally = yield* crowd.tally
        const late = yield* stragglers.tally
        const tokens = yield* server.ask("report")
        const answers = yield* api.ask("report")
        const failures = Object.entries(tally.failed).map(([why, count]) => ` (${why} ${count})`).join("")
        const onlyTimeWasMissing = areOnlySlow(tally.failed)
        // What a renewal brings that was given up counts as lost, and the next one presents the same token.
        const wasGivenUp = (tally.failed["RefreshTimeout"] ?? 0) > 0
        const died = tokens.revoked + tokens.expired
        const renewals = tokens.issued - 1

        const ofSession: Section = {
          part: "session",
          entries: [
            {
              promise: "every order is saved",
              held: tally.served > 0 && failures === "" && tally.waiting === 0,
              onlyTimeWasMissing,
              happened: `${tally.served} saved, ${sum(tally.failed)} failed${failures}, ${tally.waiting} unanswered, ` +
                `${tally.abandoned} abandoned by their callers`
            },
            {
              promise: "nobody sees a false error",
              held: tally.falselyBlamed === 0,
              onlyTimeWasMissing,
              happened: `${tally.falselyBlamed} of ${options.callers} callers; ${answers.refused} requests were refused`
            },
            {
              promise: "a dead token is renewed once",
              held: renewals === died && tokens.needless === 0,
              happened: `${died} died (${tokens.revoked} of ${revocations} revocations, ${tokens.expired} of age), ` +
                `${renewals} renewals, ${tokens.needless} needless`
            },
            {
              promise: "nor again for a straggler",
              held: late.cameBack > 0 && late.givenOld === 0 && tokens.needless === 0,
              onlyTimeWasMissing: late.givenOld === 0 && tokens.needless === 0,
              happened: `${late.cameBack} came back with a replaced token, after ${late.shortest} ms or more; ` +
                `${late.givenOld} were given an old one, ${tokens.needless} needless renewals`
            },
            {
              promise: "no renewal is lost",
              held: received === tokens.issued,
              onlyTimeWasMissing: wasGivenUp,
              happened: `${tokens.issued} tokens issued, ${received} received`
            },
            {
              promise: "no refresh token is used twice",
              held: tokens.presentedTwice === 0 && tokens.reuseDetections === 0,
              onlyTimeWasMissing: wasGivenUp,
              happened: `${tokens.presentedTwice} presented twice, ${tokens.reuseDetections} reuse detections`
            },
            {
              promise: "it signs in only when it must",
              held: tokens.signIns <= 1 + tokens.grantsRevoked && tokens.needlessSignIns === 0,
              onlyTimeWasMissing: wasGivenUp,
              happened: `${tokens.signIns} sign-ins, ${tokens.grantsRevoked} grants revoked`
            },
            {
              promise: "nobody waits long",
              held: tally.slowest <= longestWait(options),
              onlyTimeWasMissing: true,
              happened: `${tally.slowest} ms at the longest, of ${longestWait(options)}`
            },
            {
              promise: "the client is closed",
              held: status === "Closed" && openConnections === 0,
              onlyTimeWasMissing: status === "Closed",
              happened: `the session is ${status}, ${openConnections} connections are open`
            }
          ],
          counts: { ...tally, stragglers: late, tokens, answers, revocations, received }
        }
        return [
          ofSession,
          BalancesLedger.section(yield* balances.tally, yield* api.ask("accounts")),
          yield* tickets.section
        ]
      })
    }
  })

const sum = (counts: Readonly<Record<string, number>>): number =>
  Object.values(counts).reduce((total, count) => total + count, 0)
