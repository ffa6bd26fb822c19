import * as HttpClient from "@effect/platform/HttpClient"
import * as KeyValueStore from "@effect/platform/KeyValueStore"
import { OAuth2Session } from "effect-holdfast/oauth2"
import * as PersistedSession from "effect-holdfast/PersistedSession"
import { describe, it } from "effect-holdfast/testing/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Redacted from "effect/Redacted"
import type { Answer } from "../../src/internal/oauth2/answer.js"
import type { Requests } from "../../src/internal/oauth2/endpoint.js"
import * as Machine from "../../src/internal/oauth2/machine.js"
import * as Settings from "../../src/internal/oauth2/settings.js"
import { bySize } from "../support/bySize.js"
import { memory } from "../support/keyValueMemory.js"

/** An authorization server with rotation and reuse detection: presenting a token twice ends the grant. */
const authorizationServer = () => {
  const state = {
    live: "",
    presented: new Set<string>(),
    twice: 0,
    signIns: 0,
    issued: 0,
    asked: 0,
    revoked: [] as Array<string>
  }
  const answer = (grantType: string, parameters: URLSearchParams): Partial<Answer> => {
    const token = parameters.get("refresh_token")
    // Each fourth request is refused before the server looks at it.
    if (++state.asked % 4 === 3) return { status: 503, retryAfter: Duration.zero }
    if (grantType === "refresh_token") {
      if (state.presented.has(token!)) state.twice++
      state.presented.add(token!)
      if (token !== state.live) return { status: 400, text: `{"error":"invalid_grant"}` }
    } else state.signIns++
    state.live = `refresh-${++state.issued}`
    return { text: JSON.stringify({ access_token: `access-${state.issued}`, refresh_token: state.live, scope: "a" }) }
  }
  const whole = (some: Partial<Answer>) => ({
    sentAt: 0,
    answer: { status: 200, headers: {}, text: "{}", retryAfter: undefined, secrets: [], ...some }
  })
  const requests: Requests = {
    token: (_, __, grantType, parameters) =>
      Effect.zipRight(
        Effect.yieldNow(),
        Effect.zipLeft(Effect.sync(() => whole(answer(grantType, parameters))), Effect.yieldNow())
      ),
    revocation: (_, __, revoked) => Effect.as(Effect.sync(() => state.revoked.push(revoked)), whole({}))
  }
  return { state, requests }
}

/** Callers refuse their tokens, the grant is revoked, one write of three fails, and a caller signs out meanwhile. */
const scenario = (callers: number) =>
  Effect.gen(function*() {
    const { requests, state } = authorizationServer()
    const disk = memory()
    let writes = 0
    disk.state.during = Effect.suspend(() => {
      disk.state.broken = writes++ % 3 === 1
      return Effect.yieldNow()
    })
    const options: OAuth2Session.Options = {
      issuer: {
        issuer: "https://login.test",
        token_endpoint: "https://login.test/token",
        revocation_endpoint: "https://login.test/revoke"
      },
      clientId: "app",
      grant: OAuth2Session.clientCredentials,
      cooldown: 0
    }
    const client = HttpClient.make(() => Effect.dieMessage("everything goes by the requests above"))
    const session = yield* PersistedSession.make({
      ...Machine.make(options, Settings.read(options), client, undefined, requests),
      key: "app",
      schema: OAuth2Session.Tokens
    }).pipe(Effect.provideService(KeyValueStore.KeyValueStore, disk.store))

    const caller = Effect.ignore(Effect.flatMap(session.current, session.refresh))
    const calling = yield* Effect.forkAll(Array.from({ length: callers }, () => caller))
    const revoking = yield* Effect.fork(Effect.sync(() => {
      state.live = ""
    }))
    const ending = yield* Effect.fork(Effect.zipRight(Effect.yieldNow(), session.end))
    yield* Fiber.join(calling)
    yield* Fiber.join(revoking)
    yield* Fiber.join(ending)
    disk.state.during = Effect.sync(() => {
      disk.state.broken = false
    })
    disk.state.broken = false
    const { value } = yield* Effect.retry(session.current, { times: 5 })
    const text = disk.values.get("app") ?? ""
    const access = Redacted.value(value.accessToken)
    if (state.twice > 0) return yield* Effect.dieMessage("a refresh token was presented twice")
    if (!text.includes(`"${access}"`)) return yield* Effect.dieMessage(`${access} is not what is stored: ${text}`)
    yield* session.end
    if (disk.values.size > 0) return yield* Effect.dieMessage("something is stored after `end`")
    if (!state.revoked.includes(access)) return yield* Effect.dieMessage("the last token was not revoked")
  }).pipe(Effect.scoped)

describe("an OAuth 2 session, under every interleaving", async () => {
  const effect = scenario(3)
  it.interleavings(
    "presents no refresh token twice, stores the token that it serves, and stores nothing after `end`",
    effect,
    await bySize(effect)
  )
  it.interleavings("does the same for fifty callers", scenario(50), {
    strategy: ["random", "pct"],
    seeds: 5,
    timeout: 120_000
  })
})
