import { NodeTicketCache } from "effect-holdfast/node"
import { TlsIdentities } from "effect-holdfast/node/internal/tlsIdentities"
import * as TicketCache from "effect-holdfast/TicketCache"
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import type { ConnectionOptions } from "node:tls"
import { interleaved, paired, type Summary } from "../interleave.js"

export interface Operation {
  readonly name: string
  /** Microseconds of CPU, without the cost of the surrounding loop. */
  readonly micros: Summary
}

interface Task {
  readonly name: string
  readonly run: () => Promise<number>
}

/** As many tickets as a cache keeps of one server. */
const batch = 64

export const measureCosts = async (
  { key, ticket }: { readonly key: TicketCache.ServerKey; readonly ticket: TicketCache.Ticket },
  ca: string,
  rounds: number,
  slice: number
): Promise<ReadonlyArray<Operation>> => {
  const cache = Effect.runSync(
    Scope.extend(TicketCache.make({ ticketsPerServer: batch }), Effect.runSync(Scope.make()))
  )
  const put = () => TicketCache.put(cache, key, ticket)
  const take = () => TicketCache.take(cache, key)
  const clear = TicketCache.clear(cache)
  const sessions = new Map<string, Uint8Array>()
  const inFibers = [
    inFiber("nothing", slice, Effect.void, () => Effect.void),
    inFiber("put", slice, clear, put),
    inFiber("put, which drops the oldest", slice, repeated(put), put),
    inFiber("take", slice, repeated(put), take),
    inFiber("take, where there is none", slice, clear, take),
    inFiber("a Map's set", slice, Effect.void, () =>
      Effect.sync(() => {
        sessions.set(`${key.host}:${key.port}`, ticket.session)
      })),
    inFiber("a Map's get", slice, Effect.void, () => Effect.sync(() => sessions.get(`${key.host}:${key.port}`)))
  ]

  const session = Buffer.from(ticket.session)
  const identities = new TlsIdentities()
  const options: ConnectionOptions = { ca, host: key.host, port: key.port, ALPNProtocols: ["http/1.1"] }
  // More than are kept.
  const copies = Array.from({ length: 100 }, () => Buffer.from(ca))
  let next = 0
  const inLoops = [
    inLoop("nothing", slice, () => session),
    inLoop("lifetime", slice, () => NodeTicketCache.lifetime(session)),
    inLoop("identity, of options seen before", slice, () => identities.of({ ...options })),
    inLoop("identity, of the same content in other objects", slice, () => {
      next = (next + 1) % copies.length
      return identities.of({ ...options, ca: copies[next]! })
    })
  ]

  return [...await measured(inFibers, rounds), ...await measured(inLoops, rounds)]
}

/** The first is the empty loop. */
const measured = async (tasks: ReadonlyArray<Task>, rounds: number): Promise<ReadonlyArray<Operation>> => {
  const runs = tasks.map(({ run }) => run)
  // Code that is not yet compiled is compiled in rounds that do not count.
  await interleaved(4, runs, { collect: false })
  const micros = await interleaved(rounds, runs, { collect: false })
  return tasks.slice(1).map(({ name }, index) => ({
    name,
    micros: paired(micros[index + 1]!, micros[0]!, (own, loop) => own - loop)
  }))
}

/** About one in a microsecond. */
const timesIn = (slice: number) => Math.ceil(slice * 500 / batch) * batch

/** Each run makes new objects, in one fiber, in batches with an untimed preparation before each. */
const inFiber = (
  name: string,
  slice: number,
  before: Effect.Effect<unknown>,
  make: () => Effect.Effect<unknown>
): Task => ({
  name,
  run: () =>
    Effect.runPromise(Effect.gen(function*() {
      const times = timesIn(slice)
      let micros = 0
      for (let done = 0; done < times; done += batch) {
        yield* before
        const start = process.cpuUsage()
        yield* repeated(make)
        micros += microsSince(start)
      }
      return micros / times
    }))
})

const repeated = (make: () => Effect.Effect<unknown>) =>
  Effect.suspend(() => {
    let done = 0
    return Effect.whileLoop({
      while: () => done < batch,
      body: make,
      step: () => {
        done++
      }
    })
  })

const microsSince = (start: NodeJS.CpuUsage): number => {
  const { system, user } = process.cpuUsage(start)
  return user + system
}

let last: unknown

const inLoop = (name: string, slice: number, f: () => unknown): Task => ({
  name,
  run: async () => {
    const times = timesIn(slice)
    const start = process.cpuUsage()
    for (let i = 0; i < times; i++) last = f()
    const micros = microsSince(start)
    if (last === undefined) throw new Error(`${name} gave nothing`)
    return micros / times
  }
})
