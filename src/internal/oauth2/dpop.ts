/**
 * Proofs that the sender of a token holds a key (DPoP, RFC 9449), and the nonces that servers ask for in them.
 *
 * A server that changes its nonce after few requests refuses a crowd of requests that were sent together again and
 * again: by the time that one arrives, the others have used its nonce up. From the first refusal of a nonce on,
 * requests to that origin take turns, until enough of them have been accepted.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Oauth from "oauth4webapi"
import { Waiters } from "../waiters.js"

export interface Dpop {
  readonly keyPair: Oauth.CryptoKeyPair
  readonly origins: Map<string, Origin>
}

interface Origin {
  nonce: string | undefined
  /** The request that brought the nonce, counted when it was sent. Answers to earlier requests bring older nonces. */
  from: number
  sent: number
  /** How many more requests take turns. */
  turns: number
  isBusy: boolean
  readonly whenFree: Waiters
}

/** Enough that a server whose nonces last for some requests only is not met by a crowd immediately again. */
const turnsAfterRefusal = 100

export const make = (keyPair: Oauth.CryptoKeyPair): Dpop => ({ keyPair, origins: new Map() })

const originOf = ({ origins }: Dpop, { origin }: URL): Origin => {
  let found = origins.get(origin)
  if (found === undefined) {
    found = { nonce: undefined, from: 0, sent: 0, turns: 0, isBusy: false, whenFree: new Waiters() }
    origins.set(origin, found)
  }
  return found
}

/** The library's maker of proofs, with the clock and the nonce of ours. */
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
        // Only the proof is wanted.
        [Oauth.customFetch]: (_, { headers }) => {
          made = headers["dpop"]!
          return Promise.resolve(new Response())
        }
      })
      return made
    }))

/** Sends, and learns the nonce of the answer. `resign` gives a request that has waited a proof of the newest nonce. */
export const sending = <Q, A, E, R>(dpop: Dpop, url: URL, request: Q, { nonceOf, resign, send }: {
  readonly send: (request: Q) => Effect.Effect<A, E, R>
  readonly resign: (request: Q) => Effect.Effect<Q>
  readonly nonceOf: (answer: A) => { readonly nonce: string | undefined; readonly isRefused: boolean }
}): Effect.Effect<A, E, R> => {
  const origin = originOf(dpop, url)
  const once = (request: Q): Effect.Effect<A, E, R> =>
    Effect.suspend(() => {
      const had = origin.nonce
      const number = ++origin.sent
      return Effect.tap(send(request), (answer) =>
        Effect.sync(() => {
          const { isRefused, nonce } = nonceOf(answer)
          if (nonce !== undefined) learn(origin, nonce, number)
          if (isRefused && had !== undefined) origin.turns = turnsAfterRefusal
          else if (!isRefused && origin.turns > 0) origin.turns--
        }))
    })
  return Effect.suspend(() =>
    origin.turns === 0 ? once(request) : inTurn(origin, Effect.flatMap(resign(request), once))
  )
}

const learn = (origin: Origin, nonce: string, number: number): void => {
  if (number < origin.from) return
  origin.nonce = nonce
  origin.from = number
}

/** Learns the nonce of an answer of which nothing else is known. */
export const noted = (dpop: Dpop, url: URL, nonce: string | undefined): void => {
  const origin = originOf(dpop, url)
  if (nonce !== undefined) learn(origin, nonce, origin.sent)
}

const inTurn = <A, E, R>(origin: Origin, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.zipRight(
    Waiters.until(() => origin.isBusy ? undefined : Exit.void, origin.whenFree),
    Effect.acquireUseRelease(
      Effect.sync(() => !origin.isBusy && (origin.isBusy = true)),
      (isOwn) => isOwn ? effect : inTurn(origin, effect),
      (isOwn) =>
        Effect.sync(() => {
          if (!isOwn) return
          origin.isBusy = false
          origin.whenFree.notify()
        })
    )
  )
