/**
 * The example of one socket for a fleet: runners over a PostgreSQL of the test's own, and a feed that checks fences.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type ChildProcess, fork } from "node:child_process"
import { once } from "node:events"
import type { AddressInfo } from "node:net"
import { type WebSocket, WebSocketServer } from "ws"
import { form } from "./support/form.js"
import { ownPostgres } from "./support/ownServers.js"
import { bundled } from "./support/programs.js"
import { postgresServer } from "./support/tools.js"
import { freePort } from "./support/webSocketServer.js"

/** Accepts the client with the highest fence, and closes the previous client. */
const feed = Effect.gen(function*() {
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1" })
  const logins: Array<{ readonly fence: number; readonly process: number }> = []
  let current: WebSocket | undefined
  server.on("connection", (socket) => {
    socket.once("message", (data: Buffer) => {
      const login = JSON.parse(data.toString()) as typeof logins[number]
      if (login.fence < (logins.at(-1)?.fence ?? 0)) return socket.close(1008, "a later fence is known")
      current?.close(1008, "a later fence is known")
      current = socket
      logins.push(login)
      socket.send(JSON.stringify({ welcome: login.fence }))
    })
    socket.on("error", () => {})
  })
  yield* Effect.acquireRelease(
    Effect.promise(() => once(server, "listening")),
    () =>
      Effect.sync(() => {
        server.clients.forEach((socket) => socket.terminate())
        server.close()
      })
  )
  /** Waits until a process other than this one holds the socket. */
  const holder = (notThis?: ChildProcess) =>
    Effect.repeat(Effect.delay(Effect.sync(() => logins.at(-1)?.process), "20 millis"), {
      until: (process) => process !== undefined && process !== notThis?.pid
    })
  return { url: `ws://127.0.0.1:${(server.address() as AddressInfo).port}`, logins, holder }
})

const isRunning = ({ exitCode, signalCode }: ChildProcess): boolean => exitCode === null && signalCode === null

const gone = (child: ChildProcess, signal: NodeJS.Signals) =>
  Effect.promise(async () => {
    if (!isRunning(child)) return
    const exit = once(child, "exit")
    child.kill(signal)
    await exit
  })

const runner = (
  environment: { readonly DATABASE_URL: string; readonly FEED_URL: string }
): Effect.Effect<ChildProcess, never, Scope.Scope> =>
  Effect.gen(function*() {
    const script = yield* Effect.promise(() => bundled(new URL("../examples/cluster-socket.ts", import.meta.url)))
    const RUNNER_PORT = String(yield* Effect.promise(freePort))
    return yield* Effect.acquireRelease(
      Effect.sync(() =>
        fork(script, [], { execArgv: [], stdio: "ignore", env: { ...process.env, ...environment, RUNNER_PORT } })
      ),
      (child) => gone(child, "SIGKILL")
    )
  })

describe.skipIf(form === "quick" || postgresServer === undefined)("one socket for a cluster", () => {
  it.live(
    "is taken over from a runner that is killed, one that is stopped properly, and one that is suspended",
    () =>
      Effect.scoped(Effect.gen(function*() {
        const { settings } = yield* ownPostgres
        const { holder, logins, url } = yield* feed
        const environment = { DATABASE_URL: (settings as { readonly url: string }).url, FEED_URL: url }
        const runners: Array<ChildProcess> = []
        const join = Effect.gen(function*() {
          runners.push(yield* runner(environment))
          // A runner has to have its place in the cluster before it can take over, and the socket may move to it.
          yield* Effect.sleep("8 seconds")
        })
        const gaps: Array<string> = []
        const takenOver = (signal: NodeJS.Signals) =>
          Effect.gen(function*() {
            const pid = yield* holder()
            const holding = runners.find((runner) => runner.pid === pid)!
            const since = performance.now()
            holding.kill(signal)
            yield* holder(holding)
            gaps.push(`${signal} ${((performance.now() - since) / 1000).toFixed(1)} s`)
            return holding
          })
        yield* join
        for (const signal of ["SIGKILL", "SIGTERM", "SIGSTOP"] as const) {
          yield* join
          const former = yield* takenOver(signal)
          former.kill("SIGCONT")
        }
        yield* Effect.sleep("5 seconds")
        // A process that was suspended logs in again only with a new fence.
        const fences = logins.map(({ fence }) => fence)
        assert.deepStrictEqual(fences, [...new Set(fences)].sort((a, b) => a - b))
        process.stdout.write(` one socket for a fleet, until the next login: ${gaps.join(", ")}\n`)
      })),
    300_000
  )
})
