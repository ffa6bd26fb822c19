/**
 * An authorization server that rotates refresh tokens and detects their reuse, and the API that its access tokens are
 * for: over HTTP on the loopback, for clients in other processes.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type Reply, serve } from "./httpServer.js"

export interface RotatingServer {
  readonly url: string
  readonly state: {
    /** The requests to the token endpoint, in order: `sign in`, `renew 0.1`, `revoke 0.1`. */
    readonly calls: Array<string>
    /** The clients' reports about each renewal. */
    readonly uncertain: Array<boolean>
    /** Refresh tokens that were presented again, which revoked all tokens of their sign-in. */
    reused: number
    /** Requests to the API. */
    served: number
    refused: number
  }
  /** From now on the API refuses every access token that was issued. */
  readonly revoke: Effect.Effect<void>
  /** The next answers of the token endpoint, given before any token is spent. */
  readonly next: (...answers: ReadonlyArray<Effect.Effect<Reply | undefined>>) => void
}

interface Family {
  latest: number
  /** The first access token that the API accepts. */
  validFrom: number
  isRevoked: boolean
  /** When the last refresh token but one was spent. */
  spentAt: number
}

const json = (body: unknown, status = 200): Reply => ({
  status,
  headers: { "content-type": "application/json" },
  body: JSON.stringify(body)
})

/** `leeway`: the time in milliseconds during which a spent refresh token still gives its successor. */
export const rotatingServer = (
  { leeway = 0 }: { readonly leeway?: number } = {}
): Effect.Effect<RotatingServer, never, Scope.Scope> =>
  Effect.gen(function*() {
    const families: Array<Family> = []
    const answers: Array<Effect.Effect<Reply | undefined>> = []
    const state: RotatingServer["state"] = { calls: [], uncertain: [], reused: 0, served: 0, refused: 0 }

    const tokens = (family: number): Reply => {
      const { latest } = families[family]!
      return json({ access: `${family}.${latest}`, refresh: `${family}.${latest}` })
    }

    const renew = (token: string): Reply => {
      const [index, number] = token.split(".").map(Number) as [number, number]
      const family = families[index]!
      if (family.isRevoked) return json({ error: "invalid_grant" }, 400)
      if (number === family.latest) {
        family.latest++
        family.spentAt = Date.now()
        return tokens(index)
      }
      if (number === family.latest - 1 && Date.now() - family.spentAt < leeway) return tokens(index)
      state.reused++
      family.isRevoked = true
      return json({ error: "invalid_grant" }, 400)
    }

    const grant = (form: URLSearchParams): Reply => {
      if (form.get("grant_type") === "refresh_token") return renew(form.get("refresh_token")!)
      return tokens(families.push({ latest: 0, validFrom: 0, isRevoked: false, spentAt: 0 }) - 1)
    }

    const answer = (path: string, form: URLSearchParams): Reply | Effect.Effect<Reply> => {
      const token = form.get("refresh_token")
      if (path === "/revoke") {
        state.calls.push(`revoke ${token}`)
        families[Number(token!.split(".")[0])]!.isRevoked = true
        return json({})
      }
      state.calls.push(token === null ? "sign in" : `renew ${token}`)
      if (token !== null) state.uncertain.push(form.get("uncertain") === "true")
      return Effect.map(answers.shift() ?? Effect.succeed(undefined), (given) => given ?? grant(form))
    }

    const { url } = yield* serve(({ body, headers, path }) => {
      if (path !== "/api") return answer(path, new URLSearchParams(body.toString()))
      const [family, number] = (headers.authorization ?? "").slice("Bearer ".length).split(".").map(Number)
      const found = families[family!]
      const isGood = found !== undefined && !found.isRevoked && number! >= found.validFrom
      state[isGood ? "served" : "refused"]++
      return isGood ? { body: "served" } : { status: 401 }
    })

    return {
      url,
      state,
      revoke: Effect.sync(() => {
        for (const family of families) family.validFrom = family.latest + 1
      }),
      next: (...given) => answers.push(...given)
    }
  })
