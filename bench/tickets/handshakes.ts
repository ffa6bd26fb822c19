import { NodeTicketCache } from "effect-holdfast/node"
import * as TicketCache from "effect-holdfast/TicketCache"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import { once } from "node:events"
import * as Tls from "node:tls"
import { interleaved } from "../interleave.js"
import { inTime } from "./inTime.js"
import type { Report, Server } from "./server.js"

/** The costs of one handshake, averaged over a slice. */
export interface Cost {
  /** Of this process, until the connection is closed: the server is another. */
  readonly cpuMicros: number
  /** From the call until the client is done with the handshake. */
  readonly micros: number
}

export interface Found {
  /** Round by round. */
  readonly costs: ReadonlyArray<Cost>
  /** Until the connection is closed. This includes tickets, but no data. */
  readonly up: number
  readonly down: number
}

/** One way of making a connection. */
export interface Contender {
  readonly name: string
  readonly isResumed: boolean
  /** Connects the given number of times, and gives the total time of the handshakes in milliseconds. */
  readonly prepare: (port: number, ca: string, handshakes: number) => Promise<(handshakes: number) => Promise<number>>
}

// -----------------------------------------------------------------------------
// node:tls
// -----------------------------------------------------------------------------

const opened = async (options: Tls.ConnectionOptions, isResumed: boolean): Promise<number> => {
  const start = performance.now()
  const socket = Tls.connect(options)
  await once(socket, "secureConnect")
  const millis = performance.now() - start
  check(socket, isResumed)
  await ended(socket)
  return millis
}

const check = (socket: Tls.TLSSocket, isResumed: boolean) => {
  if (socket.isSessionReused() !== isResumed) throw new Error(isResumed ? "not resumed" : "resumed")
}

/** The server ends it. */
const ended = async (socket: Tls.TLSSocket): Promise<void> => {
  socket.resume()
  await once(socket, "close")
}

const bare = (name: string, isResumed: boolean, sharesContext: boolean): Contender => ({
  name,
  isResumed,
  prepare: async (port, ca) => {
    const options: Tls.ConnectionOptions = {
      host: "localhost",
      port,
      servername: "localhost",
      ...sharesContext ? { secureContext: Tls.createSecureContext({ ca }) } : { ca }
    }
    const session = isResumed ? await sessionOf(options) : undefined
    return async (handshakes) => {
      let millis = 0
      for (let i = 0; i < handshakes; i++) {
        millis += await opened(session === undefined ? options : { ...options, session }, isResumed)
      }
      return millis
    }
  }
})

const sessionOf = async (options: Tls.ConnectionOptions): Promise<Buffer> => {
  const socket = Tls.connect(options)
  const [[session]] = await Promise.all([once(socket, "session"), ended(socket)])
  return session
}

export const bareFull = bare("tls.connect, full", false, false)
export const bareResumed = bare("tls.connect, resumed", true, false)
export const bareSharedFull = bare("tls.connect, shared context, full", false, true)
export const bareSharedResumed = bare("tls.connect, shared context, resumed", true, true)

// -----------------------------------------------------------------------------
// Holdfast
// -----------------------------------------------------------------------------

const connection = (cache: TicketCache.TicketCache, port: number, ca: string, isResumed: boolean) =>
  Effect.scoped(Effect.gen(function*() {
    const start = performance.now()
    const socket = yield* NodeTicketCache.connect({ cache, host: "localhost", port, ca })
    const millis = performance.now() - start
    check(socket, isResumed)
    yield* Effect.promise(() => ended(socket))
    return millis
  }))

/** In one fiber. */
const connections = (one: Effect.Effect<number, NodeTicketCache.TlsError>) => (handshakes: number): Promise<number> =>
  Effect.runPromise(Effect.gen(function*() {
    let millis = 0
    for (let i = 0; i < handshakes; i++) millis += yield* one
    return millis
  }))

/** Its scope is never closed: the cache lives until it is garbage-collected. */
const newCache = (ticketsPerServer: number): TicketCache.TicketCache =>
  Effect.runSync(Scope.extend(TicketCache.make({ ticketsPerServer }), Effect.runSync(Scope.make())))

export const holdfastFull: Contender = {
  name: "Holdfast, full",
  isResumed: false,
  prepare: async (port, ca) => {
    const cache = newCache(64)
    const one = connection(cache, port, ca, false)
    return connections(Effect.zipLeft(one, TicketCache.clear(cache)))
  }
}

export const holdfastResumed: Contender = {
  name: "Holdfast, resumed",
  isResumed: true,
  prepare: async (port, ca, handshakes) => {
    const { key, ticket } = await anyTicket(port, ca)
    const cache = newCache(handshakes)
    // One ticket is used many times: only the handshake is measured, and Node's server gives resumed connections no new
    // ticket.
    for (let i = 0; i < handshakes; i++) Effect.runSync(TicketCache.put(cache, key, ticket))
    return connections(connection(cache, port, ca, true))
  }
}

/** The key of the only server in the cache. */
const keyOf = (cache: TicketCache.TicketCache): TicketCache.ServerKey => {
  const keys: Array<TicketCache.ServerKey> = []
  Effect.runSync(TicketCache.clear(cache, (key) => {
    keys.push(key)
    return false
  }))
  return keys[0]!
}

/** A ticket of a real handshake, and the key of its server. */
export const anyTicket = async (port: number, ca: string) => {
  const cache = newCache(2)
  await Effect.runPromise(connection(cache, port, ca, false))
  const key = keyOf(cache)
  return { key, ticket: Option.getOrThrow(Effect.runSync(TicketCache.take(cache, key))) }
}

export const contenders = [
  bareFull,
  bareSharedFull,
  holdfastFull,
  bareResumed,
  bareSharedResumed,
  holdfastResumed
]

// -----------------------------------------------------------------------------
// measuring
// -----------------------------------------------------------------------------

/** A collection between two slices drops what is compiled for objects of which none is alive then. */
const keepCompiled = { collect: false }

export const measureHandshakes = async (
  { port, relayPort, report }: Server,
  ca: string,
  { handshakes, rounds, warmUp }: { readonly handshakes: number; readonly rounds: number; readonly warmUp: number }
): Promise<ReadonlyMap<Contender, Found>> => {
  const tasks = contenders.map(({ name, prepare }) => async (): Promise<Cost> => {
    const connect = await inTime(name, prepare(port, ca, handshakes))
    const cpu = process.cpuUsage()
    const millis = await inTime(name, connect(handshakes))
    const { system, user } = process.cpuUsage(cpu)
    return { cpuMicros: (user + system) / handshakes, micros: millis * 1_000 / handshakes }
  })
  // Code that is not yet compiled is compiled in rounds that do not count.
  await interleaved(warmUp, tasks, keepCompiled)
  const costs = await interleaved(rounds, tasks, keepCompiled)
  const reports: Array<Report> = []
  for (const { name, prepare } of contenders) {
    const connect = await inTime(name, prepare(relayPort, ca, 1))
    // The preparation does not belong to the handshake.
    await report()
    await inTime(name, connect(1))
    reports.push(await report())
  }
  return new Map(contenders.map((contender, index) => {
    const { down, up } = reports[index]!
    return [contender, { costs: costs[index]!, up, down }]
  }))
}
