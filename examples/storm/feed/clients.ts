/**
 * The clients of the feed, in their own process, so that the load of the callers does not change their heartbeats and
 * waits.
 */
import { NodeWebSocketDialer } from "effect-holdfast/node"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as Random from "effect/Random"
import * as Scope from "effect/Scope"
import { monitorEventLoopDelay } from "node:perf_hooks"
import { answerWith } from "../answering.js"
import { ApiSession, layerHttpClient, Servers } from "../session/client.js"
import * as View from "../view.js"
import * as Crowd from "./crowd.js"

export interface Settings {
  readonly seed: number
  /** The feed's address for each of them. */
  readonly urls: Readonly<Record<string, string>>
  readonly authorization: string
  /** The authorization server's issuer. */
  readonly issuer: string
}

const lateness = monitorEventLoopDelay({ resolution: 10 })

const layer = ({ authorization, issuer }: Settings) =>
  ApiSession.layer.pipe(
    // The feed has no HTTP requests.
    Layer.provide(Layer.succeed(Servers, { api: "", secureApi: "", authorization, issuer })),
    Layer.provide(layerHttpClient),
    Layer.merge(NodeWebSocketDialer.layer()),
    Layer.provideMerge(Logger.replace(Logger.defaultLogger, Logger.withConsoleError(Logger.stringLogger))),
    Layer.provideMerge(View.layer("the feed's clients")),
    // There are many clients, and a session warns of each refresh that fails. The ledger judges these failures.
    Layer.provideMerge(Logger.minimumLogLevel(LogLevel.Error))
  )

const enter = async (settings: Settings) => {
  const runtime = ManagedRuntime.make(layer(settings))
  const scope = Effect.runSync(Scope.make())
  lateness.enable()
  const crowd = await Crowd.make(settings.seed, settings.urls, 5000).pipe(
    Scope.extend(scope),
    Effect.withRandom(Random.make(settings.seed)),
    runtime.runPromise
  )
  return {
    crowd,
    leave: async () => {
      await runtime.runPromise(Scope.close(scope, Exit.void))
      await runtime.dispose()
    }
  }
}

let present: Awaited<ReturnType<typeof enter>>

const questions = answerWith({
  /** Answers when they are connected, or after five seconds. */
  enter: async (settings: Settings): Promise<void> => {
    present = await enter(settings)
  },
  /** Stops all sending. Answers with the subscriptions of each client. */
  calm: (patience: number) => Effect.runPromise(present.crowd.calm(patience)),
  leave: (): Promise<void> => present.leave(),
  /** `late`: the longest delay of this process, in milliseconds. */
  report: async () => ({
    ...await Effect.runPromise(present.crowd.tally),
    late: Math.round(lateness.max / 1e6)
  })
})

export type Clients = typeof questions
