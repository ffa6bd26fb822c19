import { fork, spawnSync } from "node:child_process"
import { once } from "node:events"
import { fileURLToPath } from "node:url"
import type { Certificates } from "./certificates.js"

export const hasOpenssl = spawnSync("openssl", ["version"]).status === 0

export interface Setting {
  readonly kind: "http" | "silent" | "openssl"
  readonly certificates: Certificates
  readonly version?: "TLSv1.2" | "TLSv1.3"
}

export interface Server {
  readonly port: number
  /** The port of the relay, whose connections are in the report. */
  readonly relayPort: number
  /** The report of the relay's connections since the last report. Waits until they are closed. */
  readonly report: () => Promise<Report>
}

export interface Report {
  readonly connections: number
  readonly resumed: number
  /** Tickets that were offered, and how many of these had been offered before, by any client. */
  readonly offered: number
  readonly repeated: number
  /** Bytes from the client, and to it. */
  readonly up: number
  readonly down: number
}

export interface Servers {
  /** In the order of the settings. */
  readonly all: ReadonlyArray<Server>
  readonly stop: () => Promise<void>
}

export const startServers = async (settings: ReadonlyArray<Setting>): Promise<Servers> => {
  const given = settings.map(({ certificates, ...rest }) => ({ ...certificates, ...rest }))
  // Without the loader and the flags of this process it starts faster.
  const child = fork(fileURLToPath(new URL("server.mjs", import.meta.url)), [JSON.stringify(given)], { execArgv: [] })
  const gone = once(child, "exit")
  const answer = async (): Promise<unknown> => {
    const [message] = await Promise.race([
      once(child, "message"),
      gone.then(() => Promise.reject(new Error("the servers have ended")))
    ])
    return message
  }
  const ports = await answer() as ReadonlyArray<{ readonly port: number; readonly relayPort: number }>
  return {
    all: ports.map(({ port, relayPort }, index) => ({
      port,
      relayPort,
      report: async () => {
        const answered = answer()
        child.send(index)
        return await answered as Report
      }
    })),
    stop: async () => {
      if (child.connected) child.disconnect()
      await gone
    }
  }
}
