/**
 * The device flow, RFC 8628: the user enters a code elsewhere while the device asks, as often as the server allows.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Oauth from "oauth4webapi"
import { first } from "../first.js"
import { monotonic } from "../monotonic.js"
import { unhurried } from "../session/renewal.js"
import { type DeviceAnswer, deviceCodeFrom, type TokenAnswer, tokensFrom } from "./answer.js"
import * as Endpoint from "./endpoint.js"
import { OAuth2Error } from "./errors.js"

export interface Prompt {
  readonly userCode: string
  readonly verificationUri: string
  readonly verificationUriComplete?: string | undefined
  readonly expiresAt: number
}

const grantType = "urn:ietf:params:oauth:grant-type:device_code"

/** RFC 8628 section 3.2: the interval if the server states none. */
const usualInterval = 5_000

/** RFC 8628 section 3.5: each `slow_down` adds this to the interval. */
const slowDown = 5_000

/** The shortest interval, even if the server allows polling without a pause. */
const shortestInterval = 1_000

/** The lifetime of a code if the server does not state one. */
const usualLifetime = 600_000

/** The time limit of one poll. An unanswered poll says nothing about the person, and the next poll asks again. */
const patience = Duration.seconds(30)

export const signIn = (
  party: Endpoint.Party,
  server: Oauth.AuthorizationServer,
  parameters: URLSearchParams,
  tokenParameters: URLSearchParams,
  onPrompt: (prompt: Prompt) => Effect.Effect<void>
): Effect.Effect<{ readonly tokens: TokenAnswer; readonly sentAt: number }, OAuth2Error> =>
  Effect.gen(function*() {
    // A device whose clock is set while the user enters the code must go on.
    const clock = yield* Effect.clock
    const begunAt = monotonic(clock)
    const { answer, sentAt } = yield* within(patience, Endpoint.deviceAuthorization(party, server, parameters))
    const device = deviceCodeFrom(answer)
    if (device instanceof OAuth2Error) return yield* device
    const lifetime = device.expiresIn === undefined ? usualLifetime : device.expiresIn * 1000
    const left = () => begunAt + lifetime - monotonic(clock)
    const prompt: Prompt = {
      userCode: device.userCode,
      verificationUri: device.verificationUri,
      verificationUriComplete: device.verificationUriComplete,
      expiresAt: sentAt + lifetime
    }
    // A prompt may stay open while the server is polled; it is interrupted afterwards.
    const prompted = Effect.zipRight(Effect.suspend(() => onPrompt(prompt)), Effect.never)
    // The sign-in does not wait until an interrupted prompt has ended.
    return yield* unhurried(first(poll(party, server, tokenParameters, device, left), Effect.disconnect(prompted)))
  })

const poll = Effect.fnUntraced(function*(
  party: Endpoint.Party,
  server: Oauth.AuthorizationServer,
  tokenParameters: URLSearchParams,
  { deviceCode, interval }: DeviceAnswer,
  timeLeft: () => number
) {
  let pause = interval === undefined ? usualInterval : Math.max(shortestInterval, interval * 1000)
  let asked = 0
  while (true) {
    const left = timeLeft()
    const wait = Math.max(pause, asked)
    if (left <= wait) {
      yield* Effect.sleep(Math.max(0, left))
      return yield* new OAuth2Error({ error: "expired_token", description: "nobody entered the code in time" })
    }
    yield* Effect.sleep(wait)
    const parameters = new URLSearchParams(tokenParameters)
    parameters.set("device_code", deviceCode)
    const attempt = yield* within(patience, party.requests.token(party, server, grantType, parameters)).pipe(
      Effect.map(({ answer, sentAt }) => ({ tokens: tokensFrom(answer), sentAt })),
      Effect.catchAll((failure) => Effect.succeed({ tokens: failure, sentAt: 0 }))
    )
    const { sentAt, tokens } = attempt
    if (!(tokens instanceof OAuth2Error)) return { tokens, sentAt }
    asked = tokens.retryAfter === undefined ? 0 : Duration.toMillis(tokens.retryAfter)
    if (tokens.error === "slow_down") pause += slowDown
    // Section 3.5: poll less often if the server cannot be reached.
    else if (isTrouble(tokens)) pause = Math.min(pause * 2, 60_000)
    else if (tokens.error !== "authorization_pending") return yield* tokens
  }
})

const isTrouble = ({ error, status }: OAuth2Error): boolean =>
  error === "unreachable" || error === "temporarily_unavailable" || (error === "server_error" && status !== 400)

const within = (limit: Duration.Duration, sent: Effect.Effect<Endpoint.Sent, OAuth2Error>) =>
  Effect.timeoutFail(sent, {
    duration: limit,
    onTimeout: () => new OAuth2Error({ error: "unreachable", description: "the server did not answer in time" })
  })
