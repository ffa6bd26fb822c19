/**
 * Clients that connect over TLS besides the crowd, with tickets of the same cache. Guests only open a connection.
 * Strangers must not get in, whatever tickets there are: some use another name for the API, some trust an unrelated
 * authority.
 */
import * as HttpClient from "@effect/platform/HttpClient"
import { NodeTicketCache } from "effect-holdfast/node"
import type * as TicketCache from "effect-holdfast/TicketCache"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import type { ConnectionOptions, TLSSocket } from "node:tls"
import { chance } from "../chance.js"
import type { Options } from "../options.js"
import { takeTurns } from "../turns.js"
import { type Certificates, serverName } from "./certificates.js"
import * as Client from "./client.js"

/** By their outcome. `lost`: the network did not let them through in any attempt. */
export interface Visits {
  readonly letIn: number
  readonly refused: number
  readonly lost: number
  readonly waiting: number
}

export interface Visitors {
  /** One guest, which has disconnected when this ends. Gives whether a ticket is left. */
  readonly guest: Effect.Effect<boolean>
  /** Ends when the storm is over and each visitor has an answer, or when `patience` milliseconds more have passed. */
  readonly strangers: (patience: number) => Effect.Effect<void>
  readonly tally: Effect.Effect<{ readonly guests: Visits; readonly strangers: Visits }>
}

/**
 * Whether a ticket comes. It comes with the response, but not after a resumption: Node's servers give no new one then.
 */
const ticketFrom = (socket: TLSSocket): Effect.Effect<boolean> =>
  Effect.async<boolean>((resume) => {
    socket.once("session", () => resume(Effect.succeed(true))).resume()
    if (socket.isSessionReused()) resume(Effect.succeed(false))
  }).pipe(
    Effect.timeoutTo({ duration: "1 second", onSuccess: (came) => came, onTimeout: () => false })
  )

const anotherName = `not-${serverName}`

export const make = (
  { seconds, seed }: Options,
  { authority, otherAuthority }: Certificates,
  { cache, onFailed, port }: {
    readonly cache: TicketCache.TicketCache
    readonly port: number
    /** The number of guests. */
    readonly onFailed: (error: NodeTicketCache.TlsError) => void
  }
): Visitors => {
  const luck = chance(seed, "visitors")
  const guests = { letIn: 0, refused: 0, lost: 0, waiting: 0 }
  const strangers = { letIn: 0, refused: 0, lost: 0, waiting: 0 }

  const connect = (tls: ConnectionOptions) => NodeTicketCache.connect({ cache, host: serverName, port, tls })

  const get = (name: string, tls: ConnectionOptions) =>
    Effect.flatMap(HttpClient.HttpClient, (client) => client.get(`https://${name}:${port}/balances`)).pipe(
      Effect.provide(Client.layerHttpClient(cache, tls))
    )

  /** Connects again until the network lets the visitor through. */
  const visit = (visits: typeof guests, attempt: Effect.Effect<unknown, unknown>) =>
    Effect.gen(function*() {
      visits.waiting++
      const end = yield* attempt.pipe(
        Effect.as("letIn" as const),
        Effect.catchIf((error) => Client.tlsErrorOf(error)?.reason === "Identity", () =>
          Effect.succeed("refused" as const)),
        Effect.timeout("3 seconds"),
        Effect.retry(Schedule.intersect(Schedule.spaced("20 millis"), Schedule.recurs(30))),
        Effect.orElseSucceed(() =>
          "lost" as const
        )
      )
      visits[end]++
      visits.waiting--
    })

  const guest = Effect.suspend(() => {
    let leavesTicket = false
    const attempt = connect(Client.trusting(authority)).pipe(
      Effect.tapError((error) => Effect.sync(() => onFailed(error))),
      Effect.flatMap(ticketFrom),
      Effect.map((came) => {
        leavesTicket = came
      })
    )
    return Effect.map(visit(guests, Effect.scoped(attempt)), () => leavesTicket)
  })

  return {
    guest,
    strangers: Effect.fnUntraced(function*(patience) {
      const endsAt = (yield* Clock.currentTimeMillis) + seconds * 1000
      const trusting = Client.trusting(authority)
      const misled = Client.trusting(otherAuthority)
      const stranger = (attempt: Effect.Effect<unknown, unknown>) => visit(strangers, attempt)
      const onHeelsOfGuest = (attempt: Effect.Effect<unknown, unknown>) =>
        Effect.zipRight(Effect.repeat(guest, { until: (leavesTicket) => leavesTicket, times: 5 }), stranger(attempt))
      yield* Effect.forEach([
        onHeelsOfGuest(Effect.scoped(connect({ ...trusting, servername: anotherName }))),
        onHeelsOfGuest(Effect.scoped(connect(misled))),
        stranger(get(anotherName, trusting)),
        stranger(get(serverName, misled))
      ], (turn) =>
        takeTurns(
          endsAt,
          { first: luck.between(0, 200) * seconds, next: () => luck.between(100, 300) * seconds },
          () => turn
        ), { concurrency: "unbounded", discard: true }).pipe(
          Effect.timeoutOption(seconds * 1000 + patience)
        )
    }),
    tally: Effect.sync(() => ({ guests, strangers }))
  }
}
