/**
 * Proofs that the sender of a token holds a key (DPoP, RFC 9449), and the nonces that servers require in proofs.
 *
 * A server may change its nonce after a few requests. If many requests are sent together, such a server refuses most of
 * them each time, because by the time one arrives, the others have used up its nonce. So after the refusal of a nonce
 * that was still new, requests to that origin take turns, until enough of them have been accepted. A server that
 * changes its nonce every few minutes only costs a repeated request, and no turns.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Oauth from "oauth4webapi"
import { monotonic } from "../monotonic.js"
import { Waiters } from "../waiters.js"

export interface Dpop {
  readonly keyPair: Oauth.CryptoKeyPair
  readonly origins: Map<string, Origin>
}

interface Origin {
  nonce: string | undefined
  /** When the nonce arrived, in milliseconds of the monotonic clock. */
  since: number
  /**
   * The number of the request whose answer had the nonce. Requests are numbered when they are sent; answers to earlier
   * requests have older nonces.
   */
  from: number
  sent: number
  /** How many more requests take turns. */
  turns: number
  /** The request whose turn it is. */
  turn: object | undefined
  readonly whenFree: Waiters
}

/**
 * Large enough that a server whose nonces last for only a few requests does not immediately get many requests at the
 * same time again.
 */
const turnsAfterRefusal = 100

/** In milliseconds. If a nonce is refused later than this, it was not used up by simultaneous requests. */
const youth = 10_000

/**
 * If a request has no answer after this time, the next request is sent, too, so that a hanging request blocks no other.
 */
const longestTurn = Duration.seconds(1)

export const make = (keyPair: Oauth.CryptoKeyPair): Dpop => ({ keyPair, origins: new Map() })

const originOf = ({ origins }: Dpop, { origin }: URL): Origin => {
  let found = origins.get(origin)
  if (found === undefined) {
    found = {
      nonce: undefined,
      since: -Infinity,
      from: 0,
      sent: 0,
      turns: 0,
      turn: undefined,
      whenFree: new Waiters()
    }
    origins.set(origin, found)
  }
  return found
}

/** The library's maker of proofs, with this module's clock and nonce. */
export const handle = (dpop: Dpop, url: URL, now: number): Oauth.DPoPHandle =>
  Oauth.DPoP({}, dpop.keyPair, {
    [Oauth.modifyAssertion]: (_, payload) => {
      const { nonce } = originOf(dpop, url)
      payload["iat"] = Math.floor(now / 1000)
      if (nonce !== undefined) payload["nonce"] = nonce
    }
  })

/** A proof for a request with this access token. */
export const proof = (dpop: Dpop, method: string, url: URL, accessToken: string): Effect.Effect<string> =>
  Effect.flatMap(Clock.currentTimeMillis, (now) =>
    Effect.promise(async () => {
      let made = ""
      await Oauth.protectedResourceRequest(accessToken, method, url, undefined, undefined, {
        DPoP: handle(dpop, url, now),
        [Oauth.allowInsecureRequests]: true,
        // Nothing is sent: only the proof is needed.
        [Oauth.customFetch]: (_, { headers }) => {
          made = headers["dpop"]!
          return Promise.resolve(new Response())
        }
      })
      return made
    }))

/**
 * Sends a request, and remembers the nonce of its answer. `resign` makes a new proof, with the newest nonce, for a
 * request that has waited.
 */
export const sending = <Q, A, E, R>(dpop: Dpop, url: URL, request: Q, { nonceOf, resign, send }: {
  readonly send: (request: Q) => Effect.Effect<A, E, R>
  readonly resign: (request: Q) => Effect.Effect<Q>
  readonly nonceOf: (answer: A) => { readonly nonce: string | undefined; readonly isRefused: boolean }
}): Effect.Effect<A, E, R> => {
  const origin = originOf(dpop, url)
  const once = (request: Q): Effect.Effect<A, E, R> =>
    Effect.clockWith((clock) => {
      const had = origin.since
      const number = ++origin.sent
      return Effect.tap(send(request), (answer) =>
        Effect.sync(() => {
          const { isRefused, nonce } = nonceOf(answer)
          const now = monotonic(clock)
          if (nonce !== undefined) learn(origin, nonce, number, now)
          if (isRefused && now - had < youth) origin.turns = turnsAfterRefusal
          else if (!isRefused && origin.turns > 0) origin.turns--
        }))
    })
  return Effect.suspend(() =>
    origin.turns === 0 ? once(request) : inTurn(origin, Effect.flatMap(resign(request), once))
  )
}

const learn = (origin: Origin, nonce: string, number: number, now: number): void => {
  if (number < origin.from) return
  if (nonce !== origin.nonce) origin.since = now
  origin.nonce = nonce
  origin.from = number
}

/** Remembers the nonce of an answer about which nothing else is known. */
export const noted = (dpop: Dpop, url: URL, nonce: string | undefined): void => {
  const origin = originOf(dpop, url)
  if (nonce !== undefined) learn(origin, nonce, origin.sent, -Infinity)
}

const inTurn = <A, E, R>(origin: Origin, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.zipRight(
    Waiters.until(() => origin.turn === undefined ? Exit.void : undefined, origin.whenFree),
    Effect.acquireUseRelease(
      Effect.sync(() => origin.turn === undefined ? (origin.turn = {}) : undefined),
      (turn) =>
        turn === undefined
          ? inTurn(origin, effect)
          : Effect.acquireUseRelease(
            Effect.fork(Effect.interruptible(Effect.delay(Effect.sync(() => pass(origin, turn)), longestTurn))),
            () => effect,
            Fiber.interruptFork
          ),
      (turn) => Effect.sync(() => pass(origin, turn))
    )
  )

/** Ends the turn, unless it has already ended. */
const pass = (origin: Origin, turn: object | undefined): void => {
  if (turn === undefined || origin.turn !== turn) return
  origin.turn = undefined
  origin.whenFree.notify()
}
