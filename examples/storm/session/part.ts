/**
 * The part `session` of the storm: many callers share one session with an API. The authorization server rotates refresh
 * tokens; access tokens expire within seconds, and all of them are revoked at random moments, sometimes together with
 * the grant.
 */
import type { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { Accounts } from "../balances/client.js"
import type { Balances } from "../balances/part.js"
import { chance } from "../chance.js"
import type { Counterparty, CounterpartyLost } from "../counterparty.js"
import { longestWait, type Options } from "../options.js"
import type { Part } from "../part.js"
import type { Proxy, Route } from "../proxy.js"
import type { Tickets } from "../tls/part.js"
import { Api, ApiSession, areOnlySlow, Orders, Servers as Addresses } from "./client.js"
import * as Crowd from "./crowd.js"
import type { Servers } from "./servers.js"
import * as Stragglers from "./stragglers.js"

type Client = Accounts | ApiSession | Orders

export interface SessionPart extends Part<Client> {
  /** The client that all callers of the API share. At its end it waits for a renewal in flight. */
  readonly layerClient: Layer.Layer<Client, InvalidOptions>
}

export const make = (
  options: Options,
  proxy: Counterparty<Proxy>,
  servers: Servers,
  { balances, tickets }: { readonly balances: Balances; readonly tickets: Tickets }
): Effect.Effect<SessionPart, CounterpartyLost> =>
  Effect.gen(function*() {
    const { api, apiPorts, authorization: server, authorizationPort } = servers
    const through = (route: Omit<Route, "seed">) =>
      Effect.map(proxy.ask("openRoute", { ...route, seed: options.seed }), (port) => `http://127.0.0.1:${port}`)
    const addresses = Layer.succeed(Addresses, {
      api: yield* through({ name: "api", port: apiPorts.plain, faults: "anywhere" }),
      secureApi: tickets.address,
      authorization: yield* through({ name: "authorization", port: authorizationPort, faults: "before forwarding" }),
      issuer: `http://127.0.0.1:${authorizationPort}`
    })

    let session: Effect.Effect.Success<typeof ApiSession> | undefined
    // A caller may have aborted in the middle of a renewal, whose value must be counted.
    const settled = Layer.scopedDiscard(Effect.gen(function*() {
      const made = session = yield* ApiSession
      yield* Effect.addFinalizer(() => Effect.ignore(Effect.interruptible(Effect.timeout(made.current, "10 seconds"))))
    }))
    const layerClient = Layer.mergeAll(Orders.layer, Accounts.layer, settled).pipe(
      Layer.provide(Api.layer),
      Layer.provideMerge(ApiSession.layer),
      Layer.provide(addresses),
      Layer.provide(tickets.layerHttpClient)
    )

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

    // The first revocation may come at any moment, also in the middle of a renewal. The next comes after as many orders
    // as there are callers: if tokens die faster than the machine can serve all waiting callers, no client can keep a
    // promise.
    const revokeAgainAndAgain = Effect.forever(Effect.zipRight(revokeAfter(0), revokeAfter(options.callers)))

    return {
      layerClient,

      counters: Effect.gen(function*() {
        const { failed, served, waiting } = yield* crowd.tally
        const { issued, signIns } = yield* server.ask("report")
        return {
          served,
          waiting,
          failed: sum(failed),
          revoked: revocations,
          renewed: Math.max(0, issued - 1),
          "signed in": signIns
        }
      }),

      run: Effect.raceFirst(
        Effect.all([crowd.run(longestWait(options)), stragglers.run(longestWait(options))], {
          concurrency: "unbounded",
          discard: true
        }),
        revokeAgainAndAgain
      ),

      section: Effect.gen(function*() {
        const { _tag: status, refreshes: received } = yield* session!.status
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
        // The value of an abandoned renewal counts as lost, and the next renewal presents the same token.
        const wasGivenUp = (tally.failed["RefreshTimeout"] ?? 0) > 0
        const died = tokens.revoked + tokens.expired
        const renewals = tokens.issued - 1

        return {
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
              promise: "no caller gets a false error",
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
              promise: "stragglers cause no renewal",
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
              promise: "no sign-in is needless",
              held: tokens.signIns <= 1 + tokens.grantsRevoked && tokens.needlessSignIns === 0,
              onlyTimeWasMissing: wasGivenUp,
              happened: `${tokens.signIns} sign-ins, ${tokens.grantsRevoked} grants revoked`
            },
            {
              promise: "no caller waits long",
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
      })
    }
  })

const sum = (counts: Readonly<Record<string, number>>): number =>
  Object.values(counts).reduce((total, count) => total + count, 0)
