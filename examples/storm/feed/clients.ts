/**
 * The clients of the feed, in a process of their own: so that the load of the callers does not change their heartbeats
 * and waits.
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
  /** Where each of them finds the feed. */
  readonly urls: Readonly<Record<string, string>>
  readonly authorization: string
  /** What the authorization server calls itself. */
  readonly issuer: string
}

const lateness = monitorEventLoopDelay({ resolution: 10 })

const layer = ({ authorization, issuer }: Settings) =>
  ApiSession.layer.pipe(
    // The feed is not asked over HTTP.
    Layer.provide(Layer.succeed(Servers, { api: "", secureApi: "", authorization, issuer })),
    Layer.provide(layerHttpClient),
    Layer.merge(NodeWebSocketDialer.layer()),
    Layer.provideMerge(Logger.replace(Logger.defaultLogger, Logger.withConsoleError(Logger.stringLogger))),
    Layer.provideMerge(View.layer("the feed's clients")),
    // Thousands of clients come and go, and a session warns of each refresh that fails. The ledger judges them.
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
  /** After that no client sends any more. Answers with the subscriptions of each client. */
  calm: (patience: number) => Effect.runPromise(present.crowd.calm(patience)),
  leave: (): Promise<void> => present.leave(),
  /** `late`: in milliseconds, by how much this process was late at worst. */
  report: async () => ({
    ...await Effect.runPromise(present.crowd.tally),
    late: Math.round(lateness.max / 1e6)
  })
})

export type Clients = typeof questions
