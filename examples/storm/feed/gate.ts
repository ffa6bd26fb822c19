/**
 * The part of the network next to the feed's clients. While the proxy's faults are random, this gate's faults come when
 * it is asked for them, and it measures how long a client keeps a connection on which it receives nothing. It runs in
 * its own process.
 */
import { once } from "node:events"
import { type AddressInfo, connect, createServer, type Socket } from "node:net"
import { monitorEventLoopDelay } from "node:perf_hooks"
import { answerWith } from "../answering.js"

export type Fault =
  | { readonly kind: "reset" }
  /** Stops all data in both directions for the given milliseconds. */
  | { readonly kind: "stall"; readonly millis: number }
  /** Stops all data in both directions, and neither side notices, not even the other side's end. */
  | { readonly kind: "half-open" }

const counts = {
  connections: 0,
  resets: 0,
  stalls: 0,
  halfOpen: 0,
  /** Half-open connections that their clients have ended. */
  noticed: 0,
  /**
   * In milliseconds, from the last data that a client received on a connection until the next data, or until the client
   * ended the connection.
   */
  longestSilence: 0,
  longestSilenceHalfOpen: 0
}

const lateness = monitorEventLoopDelay({ resolution: 10 })

/** The target port of the connections: the feed server's, while it runs. */
let destination = 0

let isJudging = false

const open = new Set<Connection>()

class Connection {
  private readonly name: string
  private readonly client: Socket
  private readonly server: Socket
  private state: "flowing" | "stalled" | "half-open" = "flowing"
  private held: Array<() => void> = []
  /** Undefined until the first answer: until then the connection is not open. */
  private heardAt: number | undefined

  constructor(name: string, client: Socket) {
    this.name = name
    this.client = client
    this.server = connect({ port: destination, host: "127.0.0.1" })
    let failed = false
    this.server.on("data", (chunk) =>
      this.pass(() => {
        this.notice()
        this.heardAt = performance.now()
        client.write(chunk)
      }))
    this.server.on("error", () => {
      failed = true
    })
    this.server.on("close", () => this.pass(() => failed ? client.resetAndDestroy() : client.end()))
    // The data is read in every state: otherwise the end would not be noticed.
    client.on("data", (chunk) => this.pass(() => this.server.write(chunk)))
    client.on("error", () => {})
    client.on("close", () => {
      this.notice()
      if (this.state === "half-open") counts.noticed++
      this.held = []
      this.server.destroy()
      open.delete(this)
    })
  }

  /** A connection that is not open yet, or already has a fault, cannot be chosen. */
  canBeStruck(client: string): boolean {
    return this.name === client && this.heardAt !== undefined && this.state === "flowing" && !this.client.destroyed
  }

  strike(fault: Fault): void {
    switch (fault.kind) {
      case "reset":
        counts.resets++
        this.client.resetAndDestroy()
        break
      case "stall":
        counts.stalls++
        this.state = "stalled"
        setTimeout(() => this.flow(), fault.millis)
        break
      case "half-open":
        counts.halfOpen++
        this.state = "half-open"
        this.held = []
    }
  }

  private pass(action: () => void): void {
    if (this.state === "flowing") action()
    else if (this.state === "stalled") this.held.push(action)
  }

  private flow(): void {
    if (this.state !== "stalled") return
    this.state = "flowing"
    for (const action of this.held.splice(0)) action()
  }

  private notice(): void {
    if (this.heardAt === undefined || !isJudging) return
    const silence = Math.round(performance.now() - this.heardAt)
    counts.longestSilence = Math.max(counts.longestSilence, silence)
    if (this.state === "half-open") counts.longestSilenceHalfOpen = Math.max(counts.longestSilenceHalfOpen, silence)
  }
}

const questions = answerWith({
  /** Gives a port for this client. */
  open: async (client: string): Promise<number> => {
    const server = createServer({ allowHalfOpen: false }, (socket) => {
      counts.connections++
      open.add(new Connection(client, socket))
    })
    await once(server.listen(0, "127.0.0.1"), "listening")
    return (server.address() as AddressInfo).port
  },
  /** The target port of new connections. */
  leadTo: (port: number): void => {
    destination = port
  },
  /** Applies a fault to the client's open connections, and says whether there were any. */
  strike: ({ client, fault }: { readonly client: string; readonly fault: Fault }): boolean => {
    const struck = [...open].filter((connection) => connection.canBeStruck(client))
    for (const connection of struck) connection.strike(fault)
    return struck.length > 0
  },
  /**
   * Whether silence counts. It does not count while the clients are closing: a client that closes waits for the answer,
   * and does not check for silence.
   */
  judge: (is: boolean): void => {
    isJudging = is
    if (is) lateness.enable()
    else lateness.disable()
  },
  /** Answers when the clients have no connection any more, or after five seconds with the number of connections. */
  drained: async (): Promise<number> => {
    for (let waited = 0; waited < 5000 && open.size > 0; waited += 20) {
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    return open.size
  },
  /** `late`: the longest delay of this process, in milliseconds. */
  report: () => ({ ...counts, late: Math.round(lateness.max / 1e6) })
})

export type Gate = typeof questions
