import { NodeWebSocketDialer } from "effect-holdfast/node"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Schedule from "effect/Schedule"
import { WebSocket } from "ws"
import { interleaved } from "../interleave.js"
import { startServer } from "./server.js"

/** Milliseconds that both wait after a refusal. */
const pause = 2

/** CPU microseconds of a dial that is refused with 503, round by round: of a bare `ws` that waits as long, and ours. */
export const measureRefusals = async (
  dials: number,
  rounds: number
): Promise<readonly [bare: ReadonlyArray<number>, ours: ReadonlyArray<number>]> => {
  const server = await startServer()
  const url = `ws://127.0.0.1:${server.port}/refuse`
  const each = (dialing: (url: string, dials: number) => Promise<void>) => async () => {
    const before = process.cpuUsage()
    await dialing(url, dials)
    const { system, user } = process.cpuUsage(before)
    return (system + user) / dials
  }
  // The first round also loads and compiles.
  const [own, other] = await interleaved(1 + rounds, [each(holdfast), each(bare)], { collect: false })
  await server.kill()
  return [other!.slice(1), own!.slice(1)]
}

const bare = (url: string, dials: number): Promise<void> =>
  new Promise((resolve) => {
    let left = dials
    const dial = () => {
      const socket = new WebSocket(url)
      socket.on("error", () => {})
      socket.on("close", () => {
        if (--left === 0) resolve()
        else setTimeout(dial, pause)
      })
    }
    dial()
  })

const holdfast = (url: string, dials: number): Promise<void> =>
  Effect.gen(function*() {
    const done = yield* Deferred.make<void>()
    let left = dials
    yield* ReconnectingSocket.make({
      dial: Effect.suspend(() => Effect.as(left-- === 0 ? Deferred.succeed(done, undefined) : Effect.void, { url })),
      backoff: Schedule.spaced(pause)
    })
    yield* Deferred.await(done)
  }).pipe(
    Effect.scoped,
    Effect.provide(NodeWebSocketDialer.layer()),
    Logger.withMinimumLogLevel(LogLevel.Warning),
    Effect.runPromise
  )
