/** Decides which failures are tried again, and how long a session waits after a failure. */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Schedule from "effect/Schedule"
import * as Backoff from "../../Backoff.js"
import type * as OAuth2Session from "../../OAuth2Session.js"
import type * as Session from "../../Session.js"
import { scheduleOf } from "../session/cooldown.js"
import { DiscoveryFailed, OAuth2Error } from "./errors.js"

export type Failure = OAuth2Session.SignInError | OAuth2Session.StoreError

export type Retry = Schedule.Schedule<unknown, Failure>

export type CooldownSchedule = Schedule.Schedule<unknown, Cause.Cause<Failure | Session.SessionError>>

/** A failure is not retried if the server says when to come back: the session's cooldown waits instead. */
export const retryOf = (own: OAuth2Session.Options["retry"]): Retry =>
  Schedule.whileInput(own ?? usual, (error: Failure) => retryAfterOf(error) === undefined)

/** Servers that accept a refresh token twice do so only within a few seconds. */
const usual = Backoff.exponential({ initial: "100 millis", max: "1 second" }).pipe(
  Schedule.intersect(Schedule.recurs(3)),
  Schedule.whileInput((error: Failure) => mayPass(error))
)

/** Whether the failure comes from the network, the server or the store, and is not a refusal. */
export const mayPass = (error: Failure): boolean => {
  switch (error._tag) {
    case "OAuth2Error":
      return error.error === "unreachable" || ((error.status ?? 0) >= 500 && isTrouble(error))
    case "DiscoveryFailed":
      return error.reason === "Unreachable" || (error.status ?? 0) >= 500
    case "PersistenceError":
      return error.reason === "Store"
    case "SignInRequired":
    case "SharedSessionError":
      return false
  }
}

const isTrouble = ({ error }: OAuth2Error): boolean => error === "server_error" || error === "temporarily_unavailable"

const retryAfterOf = (error: unknown): Duration.Duration | undefined =>
  error instanceof OAuth2Error || error instanceof DiscoveryFailed ? error.retryAfter : undefined

/** The session's own cooldown, or what the server asks for if that is longer. Throws `InvalidOptions`. */
export const withRetryAfter = (own: OAuth2Session.Options["cooldown"]): CooldownSchedule => {
  const asked = Schedule.identity<Cause.Cause<Failure | Session.SessionError>>().pipe(
    Schedule.addDelay((cause) => {
      const failure = Cause.failureOption(cause)
      return (failure._tag === "Some" ? retryAfterOf(failure.value) : undefined) ?? Duration.zero
    })
  )
  return Schedule.intersect(scheduleOf(own), asked)
}
