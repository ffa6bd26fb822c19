/**
 * The network: a TCP proxy between the clients and every server, which resets, stalls and delays connections. It runs
 * in its own process, started by `counterparty.ts`.
 */
import { once } from "node:events"
import { type AddressInfo, connect, createServer, type Socket } from "node:net"
import { pipeline } from "node:stream/promises"
import { setTimeout as sleep } from "node:timers/promises"
import { answerWith } from "./answering.js"
import { type Chance, chance } from "./chance.js"

export interface Route {
  readonly name: string
  readonly seed: number
  /** The target port of the connections, on the loopback interface. */
  readonly port: number
  /**
   * `anywhere`: faults come at any moment, also in the middle of an answer.
   *
   * `before forwarding`: faults come before a connection reaches the server, and never later. This is for a token
   * endpoint. If its answer to a refresh is lost, the refresh token is spent and no client knows its successor, and no
   * client can repair that: a lost answer looks like a lost request, and repeating the request is what reuse detection
   * punishes. A storm with such faults would count the network's faults as the client's.
   */
  readonly faults: "anywhere" | "before forwarding"
}

const counts = { connections: 0, resets: 0, stalls: 0, delays: 0, outages: 0 }

/** How many connections the clients of each route hold. */
const held = new Map<string, number>()

/** The connections that an outage cuts. */
const exposed = new Set<Socket>()

let isOut = false

/** The routes whose next connection is held back. */
let snare: ReadonlySet<string> = new Set()

/** A connection that is held back. None of its client's data is forwarded. */
let caught: { readonly route: string; readonly client: Socket } | undefined

const openRoute = async ({ faults, name, port, seed }: Route): Promise<number> => {
  const luck = chance(seed, name)
  const server = createServer({ allowHalfOpen: true }, (client) => {
    counts.connections++
    held.set(name, heldBy(name) + 1)
    exposed.add(client)
    client.once("close", () => {
      held.set(name, heldBy(name) - 1)
      exposed.delete(client)
    })
    // A socket that has failed is closed next, and the other half of the connection with it.
    client.on("error", () => {})
    if (isOut) return reset(client)
    if (faults === "anywhere") forward(client, port, (chunks) => harass(chunks, client, luck))
    else if (snare.has(name)) capture(name, client)
    else void admit(client, port, luck)
  })
  await once(server.listen(0, "127.0.0.1"), "listening")
  return (server.address() as AddressInfo).port
}

const heldBy = (route: string): number => held.get(route) ?? 0

const caughtBy = (): string | undefined => caught?.route

const capture = (route: string, client: Socket): void => {
  snare = new Set()
  caught = { route, client }
  // An outage would end the connection for its client.
  exposed.delete(client)
}

/** The faults come first. A connection that is forwarded then passes unharmed. */
const admit = async (client: Socket, port: number, luck: Chance): Promise<void> => {
  const fault = luck.pick({ reset: 0.08, stall: 0.04, delay: 0.2 })
  if (fault === "delay") await pause("delays", luck.between(5, 150))
  if (fault === "stall") await pause("stalls", luck.between(300, 1500))
  if (fault === "reset" || fault === "stall") return reset(client)
  if (client.destroyed) return
  exposed.delete(client)
  forward(client, port, (chunks) => chunks)
}

/** Each chunk, in both directions, may meet a random fault. */
const harass = async function*(chunks: AsyncIterable<Buffer>, client: Socket, luck: Chance): AsyncIterable<Buffer> {
  for await (const chunk of chunks) {
    const fault = luck.pick({ reset: 0.002, cut: 0.002, stall: 0.002, delay: 0.05 })
    if (fault === "delay") await pause("delays", luck.between(5, 100))
    if (fault === "stall") await pause("stalls", luck.between(300, 4000))
    if (fault === "cut") {
      yield chunk.subarray(0, chunk.length / 2)
      // A reset overtakes what has not been read yet.
      await sleep(5)
    }
    if (fault === "cut" || fault === "reset") return reset(client)
    yield chunk
  }
}

type Passage = (chunks: AsyncIterable<Buffer>) => AsyncIterable<Buffer>

const forward = (client: Socket, port: number, through: Passage): void => {
  const server = connect({ port, host: "127.0.0.1", allowHalfOpen: true })
  const close = () => {
    client.destroy()
    server.destroy()
  }
  server.on("error", () => {})
  server.once("close", close)
  client.once("close", close)
  pipeline(client, through, server).catch(close)
  pipeline(server, through, client).catch(close)
}

const reset = (socket: Socket): void => {
  if (socket.destroyed) return
  counts.resets++
  socket.resetAndDestroy()
}

const pause = async (kind: "stalls" | "delays", millis: number): Promise<void> => {
  counts[kind]++
  await sleep(millis)
}

const questions = answerWith({
  /** Gives the port on which the route begins. */
  openRoute,
  /** Cuts all connections that may be cut, and accepts no new one for this time. */
  goOut: async (millis: number): Promise<void> => {
    counts.outages++
    isOut = true
    exposed.forEach(reset)
    await sleep(millis)
    isOut = false
  },
  /** Holds back the next connection on one of these routes, which must be among those with faults before forwarding. */
  lieInWait: (routes: ReadonlyArray<string>): void => {
    snare = new Set(routes)
  },
  /** The route of the connection that is held back, or `undefined` if none comes within ten seconds. */
  caught: async (): Promise<string | undefined> => {
    for (let waited = 0; waited < 10_000 && caughtBy() === undefined; waited += 5) await sleep(5)
    snare = new Set()
    return caughtBy()
  },
  /** Resets the connection that is held back. */
  letGo: (): void => {
    if (caught !== undefined) reset(caught.client)
    caught = undefined
  },
  /**
   * Answers when the clients have no connection of the route any more, or after five seconds with the number of
   * connections: the end of a connection is noticed when it is read from, which may be after a stall.
   */
  drained: async (route: string): Promise<number> => {
    for (let waited = 0; waited < 5000 && heldBy(route) > 0; waited += 20) await sleep(20)
    return heldBy(route)
  },
  report: () => counts
})

export type Proxy = typeof questions
