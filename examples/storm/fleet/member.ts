/** One process of the fleet: the client of the API, over a store that all members share. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as Metric from "effect/Metric"
import { monitorEventLoopDelay } from "node:perf_hooks"
import { setTimeout as sleep } from "node:timers/promises"
import { answerWith } from "../answering.js"
import { chance } from "../chance.js"
import { Api, ApiSession, layerHttpClient, Order, Orders, reasonOf, Servers } from "../session/client.js"
import * as View from "../view.js"
import type * as Place from "./place.js"
import * as Store from "./store.js"

export interface Settings {
  readonly seed: number
  readonly name: string
  readonly callers: number
  readonly place: Place.Settings
  /** In milliseconds. */
  readonly lease: number
  readonly api: string
  readonly authorization: string
  /** The authorization server's issuer. */
  readonly issuer: string
}

const layer = ({ api, authorization, issuer, lease, name, place }: Settings) =>
  Orders.layer.pipe(
    Layer.provide(Api.layer),
    Layer.provideMerge(ApiSession.layerShared(Store.key, lease)),
    Layer.provide(Layer.succeed(Servers, { api, secureApi: api, authorization, issuer })),
    Layer.provide(layerHttpClient),
    Layer.provide(Layer.orDie(Store.layer(place))),
    Layer.provide(View.layer(name)),
    Layer.provideMerge(Logger.replace(Logger.defaultLogger, Logger.withConsoleError(Logger.stringLogger))),
    // A session warns of each refresh that fails, and in a storm many fail. The ledger judges these failures.
    Layer.provideMerge(Logger.minimumLogLevel(LogLevel.Error))
  )

const lateness = monitorEventLoopDelay({ resolution: 10 })
const failed: Record<string, number> = {}
let [served, waiting, slowest, isOver] = [0, 0, 0, false]

const save = (order: Order) =>
  Effect.gen(function*() {
    const since = yield* Clock.currentTimeMillis
    waiting++
    yield* Effect.match(Effect.flatMap(Orders, ({ save }) => save(order)), {
      onFailure: (error) => {
        const why = reasonOf(error)
        failed[why] = (failed[why] ?? 0) + 1
      },
      onSuccess: () => served++
    })
    waiting--
    slowest = Math.max(slowest, (yield* Clock.currentTimeMillis) - since)
  })

/** Repeats until the members stop asking. */
const call = ({ name, seed }: Settings, caller: number) => {
  const luck = chance(seed, `${name}, ${caller}`)
  let turns = 0
  const turn = Effect.suspend(() => save(new Order({ id: `${name}-${caller}-${turns++}`, items: [] })))
  return Effect.repeat(
    Effect.suspend(() => Effect.delay(turn, luck.between(300, 900))),
    { until: () => isOver }
  )
}

let runtime: ManagedRuntime.ManagedRuntime<ApiSession | Orders, unknown> | undefined
let calls: Promise<unknown> = Promise.resolve()

/** The actions of this process in its fleet: renewals, adoptions, takeovers. */
const events = Effect.map(Metric.snapshot, (pairs) => {
  const count = (event: string) => {
    for (const { metricKey, metricState } of pairs) {
      const isEvent = [...metricKey.tags].some(({ key, value }) => key === "event" && value === event)
      if (metricKey.name === "holdfast_shared_session_events_total" && isEvent && "count" in metricState) {
        return Number(metricState.count)
      }
    }
    return 0
  }
  return { renewed: count("renewed"), adopted: count("adopted"), tookOver: count("took over") }
})

const questions = answerWith({
  /** Answers when the member is signed in. */
  enter: async (settings: Settings): Promise<void> => {
    runtime = ManagedRuntime.make(layer(settings))
    await runtime.runPromise(Effect.flatMap(ApiSession, ({ current }) => current))
    lateness.enable()
    calls = runtime.runPromise(
      Effect.all(Array.from({ length: settings.callers }, (_, caller) => call(settings, caller)), {
        concurrency: "unbounded",
        discard: true
      })
    )
  },
  /** Stops all new requests. Answers when all earlier requests are answered. */
  calm: async (): Promise<void> => {
    isOver = true
    await calls
  },
  leave: (): Promise<void> => runtime!.dispose(),
  removeStore: (place: Place.Settings): Promise<void> => Effect.runPromise(Effect.ignore(Store.remove(place))),
  /**
   * Forgets the delay that was caused by suspending this process. Such a delay is recorded soon after the process
   * continues.
   */
  forgive: async (): Promise<void> => {
    await sleep(100)
    lateness.reset()
  },
  /** `late`: the longest delay of this process, in milliseconds. */
  report: () => ({
    served,
    failed,
    waiting,
    slowest,
    late: Math.round(lateness.max / 1e6),
    ...Effect.runSync(events)
  })
})

export type Member = typeof questions
