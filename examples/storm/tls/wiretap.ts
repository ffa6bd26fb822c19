/**
 * An observer of the network. It is next to the clients of the API over TLS: it forwards all data to the proxy, cuts
 * some connections in the middle of their handshake, and records the tickets that it has seen. It runs in its own
 * process.
 */
import { createHash } from "node:crypto"
import { once } from "node:events"
import { type AddressInfo, createServer, Socket } from "node:net"
import { pipeline } from "node:stream/promises"
import { setTimeout as sleep } from "node:timers/promises"
import { answerWith } from "../answering.js"
import { chance } from "../chance.js"
import { answerOf, ticketsOffered } from "./hello.js"

export interface Settings {
  readonly seed: number
  /** The target port of the connections, on the loopback interface. */
  readonly port: number
}

const counts = {
  connections: 0,
  offered: 0,
  /** How many of the offered tickets had been offered before. */
  offeredTwice: 0,
  /** Accepted by the server; the client may not have learned it. */
  taken: 0,
  notTaken: 0,
  /** Connections that ended in the middle of their handshake, and others that the network has cut, at any moment. */
  cut: 0,
  cutElsewhere: 0
}

/** Digests, which are enough to distinguish tickets. */
const seen = new Set<string>()

const open = new Set<Socket>()

const onOffered = (ticket: Buffer): void => {
  const digest = createHash("sha256").update(ticket).digest("base64")
  counts.offered++
  if (seen.has(digest)) counts.offeredTwice++
  seen.add(digest)
}

/**
 * Where the handshake is cut: in the client's hello; in the server's answer; or in the client's last message, after
 * which the client considers the handshake complete, and the server does not.
 */
type Cut = "hello" | "answer" | "end"

const pass = (client: Socket, port: number, cut: Cut | undefined): void => {
  const server = new Socket({ allowHalfOpen: true })
  let isOffering = false

  const hearClient = (bytes: Buffer): boolean => {
    const tickets = ticketsOffered(bytes)
    tickets?.forEach(onOffered)
    if (tickets === undefined) return false
    isOffering = tickets.length > 0
    // Not earlier, so that a connection's offer is recorded before the network's faults reach it.
    server.connect(port, "127.0.0.1")
    return true
  }
  const hearServer = (bytes: Buffer): boolean => {
    const answer = answerOf(bytes)
    if (answer === "resumes") counts.taken++
    if (answer === "starts over" && isOffering) counts.notTaken++
    return answer !== undefined
  }

  const close = () => {
    client.destroy()
    server.destroy()
  }
  const reset = (by: "cut" | "cutElsewhere") => {
    if (client.destroyed) return
    counts[by]++
    client.resetAndDestroy()
    // If the client has disconnected meanwhile, `close` does not come.
    open.delete(client)
    server.destroy()
  }
  counts.connections++
  open.add(client)
  client.on("error", () => {})
  client.once("close", () => {
    open.delete(client)
    close()
  })
  // Without a hello there is no answer.
  client.once("end", () => {
    if (server.pending && !server.connecting) close()
  })
  // A pipeline that ends early has an error, too, which is not the network's.
  server.on("error", (error: NodeJS.ErrnoException) => error.syscall === undefined ? close() : reset("cutElsewhere"))
  server.once("close", close)

  const cutBy = (flight: number, of: Cut) => cut === of ? { flight, reset: () => reset("cut") } : undefined
  pipeline(client, (chunks) => overhear(chunks, hearClient, cutBy(0, "hello") ?? cutBy(1, "end")), server).catch(close)
  pipeline(server, (chunks) => overhear(chunks, hearServer, cutBy(0, "answer")), client).catch(close)
}

/** Holds the beginning back until `hear` has parsed it. One flight may be cut: half of it is forwarded. */
const overhear = async function*(
  chunks: AsyncIterable<Buffer>,
  hear: (beginning: Buffer) => boolean,
  cut: { readonly flight: number; readonly reset: () => void } | undefined
): AsyncIterable<Buffer> {
  let flight = 0
  let held = Buffer.alloc(0)
  for await (const chunk of chunks) {
    held = Buffer.concat([held, chunk])
    if (flight === 0 && !hear(held)) continue
    if (flight === cut?.flight) {
      yield held.subarray(0, held.length / 2)
      // A reset overtakes what has not been read yet.
      await sleep(5)
      return cut.reset()
    }
    yield held
    held = Buffer.alloc(0)
    flight++
  }
  if (held.length > 0) yield held
}

const questions = answerWith({
  /** Gives the port. */
  listen: async ({ port, seed }: Settings): Promise<number> => {
    const luck = chance(seed, "wiretap")
    const server = createServer(
      { allowHalfOpen: true },
      (client) => pass(client, port, luck.pick({ hello: 0.03, answer: 0.03, end: 0.03 }))
    )
    await once(server.listen(0, "127.0.0.1"), "listening")
    return (server.address() as AddressInfo).port
  },
  /** Answers when the clients have no connection any more, or after five seconds with the number of connections. */
  drained: async (): Promise<number> => {
    for (let waited = 0; waited < 5000 && open.size > 0; waited += 20) await sleep(20)
    return open.size
  },
  report: () => counts
})

export type Wiretap = typeof questions
