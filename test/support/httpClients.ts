/** The clients that carry a session in tests, and helpers for their responses. */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as Undici from "@effect/platform-node/Undici"
import * as FetchHttpClient from "@effect/platform/FetchHttpClient"
import type * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientError from "@effect/platform/HttpClientError"
import type * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import { assert } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import { inspect } from "node:util"
import { failureOf, many } from "./exits.js"
import { eventually } from "./httpServer.js"

export { failureOf, many }

export const clients: ReadonlyArray<readonly [name: string, layer: Layer.Layer<HttpClient.HttpClient>]> = [
  ["fetch", FetchHttpClient.layer],
  ["undici", NodeHttpClient.layerUndici],
  [
    "node:http",
    Layer.provide(NodeHttpClient.layerWithoutAgent, NodeHttpClient.makeAgentLayer({ keepAlive: true }))
  ]
]

const agentOfOne = Effect.acquireRelease(
  Effect.sync(() => new Undici.Agent({ connections: 1, pipelining: 1 })),
  (agent) => Effect.promise(() => agent.destroy())
)

/** The same clients with one connection each, which requests wait for. */
export const poolsOfOne: typeof clients = [
  [
    "fetch",
    Layer.provide(
      FetchHttpClient.layer,
      Layer.scoped(
        FetchHttpClient.Fetch,
        Effect.map(
          agentOfOne,
          (dispatcher) => (url, init) => Undici.fetch(url as URL, { ...init as object, dispatcher }) as never
        )
      )
    )
  ],
  [
    "undici",
    Layer.provide(NodeHttpClient.layerUndiciWithoutDispatcher, Layer.scoped(NodeHttpClient.Dispatcher, agentOfOne))
  ],
  [
    "node:http",
    Layer.provide(NodeHttpClient.layerWithoutAgent, NodeHttpClient.makeAgentLayer({ keepAlive: true, maxSockets: 1 }))
  ]
]

export const times = <A>(count: number, value: A): Array<A> => Array.from({ length: count }, () => value)

/** The failure, which must be of this class. */
export const failedWith = <T>(
  exit: Exit.Exit<unknown, unknown>,
  errorClass: abstract new(...args: Array<never>) => T
): T => {
  const error = failureOf(exit)
  assert.isTrue(error instanceof errorClass, String(error))
  return error as T
}

/** Runs the effect while the test's clock advances by a tenth of a second in each turn of the event loop. */
export const whileTimePasses = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.gen(function*() {
    const fiber = yield* Effect.fork(effect)
    yield* eventually(Effect.zipRight(TestClock.adjust("100 millis"), Effect.map(Fiber.poll(fiber), Option.isSome)))
    return yield* Fiber.join(fiber)
  })

/** The request got no answer, which is not a failure of the session. */
export const assertTransport = (exit: Exit.Exit<unknown, unknown>) => {
  const error = failedWith(exit, HttpClientError.RequestError)
  assert.strictEqual(error.reason, "Transport")
  assert.isTrue(Cause.isCause(error.cause) === false && error.cause instanceof Error)
}

/** The ways to read a response's body. */
export const readings = (response: HttpClientResponse.HttpClientResponse) => ({
  text: response.text,
  json: Effect.map(response.json, (json) => JSON.stringify(json)),
  arrayBuffer: Effect.map(response.arrayBuffer, (buffer) => new TextDecoder().decode(buffer)),
  stream: Stream.mkString(Stream.decodeText(response.stream))
})

export const textOf = <E, R>(response: Effect.Effect<HttpClientResponse.HttpClientResponse, E, R>) =>
  Effect.flatMap(response, (response) => response.text)

/** The status of each response, or the exit of a request that has none. */
export const statusesOf = (exits: ReadonlyArray<Exit.Exit<HttpClientResponse.HttpClientResponse, unknown>>) =>
  exits.map((exit) => Exit.isSuccess(exit) ? exit.value.status : String(exit))

/** Everything that may be shown when an error is printed. */
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
