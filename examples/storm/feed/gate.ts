/**
 * The last stretch of the network before the feed's clients. Where the proxy strikes at random, this one does when it
 * is told to, and it keeps the time: how long a client that hears nothing holds on to its connection. A process of its
 * own.
 */
import { once } from "node:events"
import { type AddressInfo, connect, createServer, type Socket } from "node:net"
import { monitorEventLoopDelay } from "node:perf_hooks"
import { answerWith } from "../answering.js"

export type Fault =
  | { readonly kind: "reset" }
  /** No data passes, either way, until the given milliseconds have passed. */
  | { readonly kind: "stall"; readonly millis: number }
  /** No data passes any more, either way, and neither side notices, not even the other side's end. */
  | { readonly kind: "half-open" }

const counts = {
  connections: 0,
  resets: 0,
  stalls: 0,
  halfOpen: 0,
  /** Half-open ones that their clients have given up. */
  noticed: 0,
  /**
   * In milliseconds, from the last data that a client got on a connection to the next data, or until it gave the
   * connection up.
   */
  longestSilence: 0,
  longestSilenceHalfOpen: 0
}

const lateness = monitorEventLoopDelay({ resolution: 10 })

/** Where the connections lead; the feed server's port while there is one. */
let destination = 0

let isJudging = false

const open = new Set<Connection>()

class Connection {
  private readonly name: string
  private readonly client: Socket
  private readonly server: Socket
  private state: "flowing" | "stalled" | "half-open" = "flowing"
  private held: Array<() => void> = []
  /** Undefined until the first answer: before that the connection is not open. */
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
    // Read, whatever the state: else its end would not be seen.
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

  /** One that is not open yet, or is struck already, cannot be. */
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
  /** Answers with a port for this client. */
  open: async (client: string): Promise<number> => {
    const server = createServer({ allowHalfOpen: false }, (socket) => {
      counts.connections++
      open.add(new Connection(client, socket))
    })
    await once(server.listen(0, "127.0.0.1"), "listening")
    return (server.address() as AddressInfo).port
  },
  /** Where connections that are opened from now on lead. */
  leadTo: (port: number): void => {
    destination = port
  },
  /** Strikes what the client has open, and tells whether there was anything. */
  strike: ({ client, fault }: { readonly client: string; readonly fault: Fault }): boolean => {
    const struck = [...open].filter((connection) => connection.canBeStruck(client))
    for (const connection of struck) connection.strike(fault)
    return struck.length > 0
  },
  /**
   * Whether silence counts. It does not while the clients are leaving: a client that closes waits for the answer, and
   * does not check for silence.
   */
  judge: (is: boolean): void => {
    isJudging = is
    if (is) lateness.enable()
    else lateness.disable()
  },
  /** Answers when the clients hold no connection any more, or after five seconds with how many they do. */
  drained: async (): Promise<number> => {
    for (let waited = 0; waited < 5000 && open.size > 0; waited += 20) {
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    return open.size
  },
  /** `late`: in milliseconds, by how much this process was late at worst. */
  report: () => ({ ...counts, late: Math.round(lateness.max / 1e6) })
})

export type Gate = typeof questions
