import { type ChildProcess, fork } from "node:child_process"
import { once } from "node:events"
import { setTimeout as sleep } from "node:timers/promises"
import { fileURLToPath } from "node:url"

/** A process that listens on one port, can be killed, and is started again on the same port. */
export interface Server {
  readonly port: number
  /** When it began to listen, by `now`. */
  readonly listeningSince: () => number
  /** Waits, with a limit, until a client has connected since the server last began to listen. */
  readonly connected: () => Promise<void>
  /** SIGKILL: data that it has not read is lost. */
  readonly kill: () => Promise<void>
  readonly start: () => Promise<void>
}

/** Milliseconds that mean the same in another process. */
export const now = (): number => performance.timeOrigin + performance.now()

interface Started {
  readonly child: ChildProcess
  readonly port: number
  readonly at: number
  readonly connected: Promise<void>
}

const start = (port: number, log: string | undefined): Promise<Started> =>
  new Promise((resolve, reject) => {
    // Without the loader and the flags of this process it starts faster.
    const child = fork(fileURLToPath(new URL("server.mjs", import.meta.url)), [
      String(port),
      ...log === undefined ? [] : [log]
    ], {
      execArgv: []
    })
    let isConnected = () => {}
    const connected = new Promise<void>((resolve) => {
      isConnected = resolve
    })
    child.once("exit", () => reject(new Error("the server does not listen")))
    child.on("message", (message: { event: "listening"; port: number; at: number } | { event: "connected" }) => {
      if (message.event === "connected") isConnected()
      else resolve({ child, port: message.port, at: message.at, connected })
    })
  })

export const startServer = async (log?: string): Promise<Server> => {
  let started = await start(0, log)
  const { port } = started
  return {
    port,
    listeningSince: () => started.at,
    connected: () => Promise.race([started.connected, sleep(5_000, undefined, { ref: false })]),
    kill: async () => {
      const { child } = started
      if (child.exitCode !== null || child.signalCode !== null) return
      const exit = once(child, "exit")
      child.kill("SIGKILL")
      await exit
    },
    start: async () => {
      started = await start(port, log)
    }
  }
}
