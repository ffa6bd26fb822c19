/** The clients that a session is put on, and what their requests came to. */
import * as FetchHttpClient from "@effect/platform/FetchHttpClient"
import type * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientError from "@effect/platform/HttpClientError"
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import { assert } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import { inspect } from "node:util"

export const clients: ReadonlyArray<readonly [name: string, layer: Layer.Layer<HttpClient.HttpClient>]> = [
  ["fetch", FetchHttpClient.layer],
  ["undici", NodeHttpClient.layerUndici],
  [
    "node:http",
    Layer.provide(NodeHttpClient.layerWithoutAgent, NodeHttpClient.makeAgentLayer({ keepAlive: true }))
  ]
]

export const many = <A, E, R>(count: number, effect: Effect.Effect<A, E, R>) =>
  Effect.all(Array.from({ length: count }, () => Effect.exit(effect)), { concurrency: "unbounded" })

export const times = <A>(count: number, value: A): Array<A> => Array.from({ length: count }, () => value)

export const failureOf = <A, E>(exit: Exit.Exit<A, E>): E => {
  assert.isTrue(Exit.isFailure(exit), "succeeded")
  return Option.getOrThrowWith(
    Cause.failureOption((exit as Exit.Failure<A, E>).cause),
    () => new Error(`no typed failure: ${String(exit)}`)
  )
}

/** The failure, which must be of this class. */
export const failedWith = <T>(
  exit: Exit.Exit<unknown, unknown>,
  errorClass: abstract new (...args: Array<never>) => T
): T => {
  const error = failureOf(exit)
  assert.isTrue(error instanceof errorClass, String(error))
  return error as T
}

/** The request never got an answer: not a failure of the session. */
export const assertTransport = (exit: Exit.Exit<unknown, unknown>) => {
  const error = failedWith(exit, HttpClientError.RequestError)
  assert.strictEqual(error.reason, "Transport")
  assert.isTrue(Cause.isCause(error.cause) === false && error.cause instanceof Error)
}

/** Everything that printing an error may bring to light. */
export const printsOf = (error: unknown): string => {
  const cause = Cause.fail(error)
  return [
    String(error),
    inspect(error, { depth: Infinity, showHidden: false }),
    JSON.stringify(error),
    Cause.pretty(cause),
    Cause.pretty(cause, { renderErrorCause: true }),
    inspect(cause, { depth: Infinity }),
    JSON.stringify(Exit.fail(error)),
    error instanceof Error ? `${error.name} ${error.message} ${error.stack}` : ""
  ].join("\n")
}
