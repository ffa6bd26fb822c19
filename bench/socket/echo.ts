import { setTimeout as sleep } from "node:timers/promises"
import { interleaved } from "../interleave.js"
import type { Client, Contender } from "./contender.js"
import { startServer } from "./server.js"

export interface Load {
  readonly path: "echo" | "cork"
  readonly bytes: number
  readonly total: number
}

export interface Rate {
  readonly perSecond: number
  /** The CPU time of this process; the server is another process. */
  readonly cpuMicros: number
}

export interface RoundTrip {
  readonly p50: number
  readonly p99: number
}

/** How many messages are in flight. */
const window = 1_000

/** One list for each contender, round by round. */
export const measureRates = (
  contenders: ReadonlyArray<Contender>,
  load: Load,
  rounds: number
): Promise<ReadonlyArray<ReadonlyArray<Rate>>> =>
  withClients(contenders, load.path, (clients) => measured(rounds, clients.map((client) => () => rate(client, load))))

const rate = async ({ echo }: Client, { bytes, total }: Load): Promise<Rate> => {
  const message = "x".repeat(bytes)
  const cpu = process.cpuUsage()
  const start = performance.now()
  await inTime(echo(message, total, window))
  const millis = performance.now() - start
  const { system, user } = process.cpuUsage(cpu)
  return { perSecond: total * 1_000 / millis, cpuMicros: (user + system) / total }
}

/** One message in flight: microseconds from one echo to the next. */
export const measureRoundTrips = (
  contenders: ReadonlyArray<Contender>,
  trips: number,
  rounds: number
): Promise<ReadonlyArray<ReadonlyArray<RoundTrip>>> =>
  withClients(
    contenders,
    "echo",
    (clients) => measured(rounds, clients.map((client) => () => roundTrip(client, trips)))
  )

const roundTrip = async ({ echo }: Client, trips: number): Promise<RoundTrip> => {
  const micros: Array<number> = []
  let last = performance.now()
  await inTime(echo("x".repeat(64), trips, 1, () => {
    const now = performance.now()
    micros.push((now - last) * 1_000)
    last = now
  }))
  micros.sort((a, b) => a - b)
  return { p50: micros[Math.floor(trips * 0.5)]!, p99: micros[Math.floor(trips * 0.99)]! }
}

/** Without a limit, a lost echo would block for ever. */
const inTime = (echoed: Promise<void>): Promise<void> => {
  const tooLate = sleep(30_000, undefined, { ref: false }).then(() => Promise.reject(new Error("echoes are missing")))
  return Promise.race([echoed, tooLate])
}

/** The connections stay open from round to round, since opening is not measured. */
const withClients = async <A>(
  contenders: ReadonlyArray<Contender>,
  path: Load["path"],
  use: (clients: ReadonlyArray<Client>) => Promise<A>
): Promise<A> => {
  const server = await startServer()
  const url = `ws://127.0.0.1:${server.port}/${path}`
  const clients = await Promise.all(contenders.map(({ open }) => open(url, () => {})))
  const result = await use(clients)
  await Promise.all(clients.map(({ close }) => close()))
  await server.kill()
  return result
}

const measured = async <A>(rounds: number, tasks: ReadonlyArray<() => Promise<A>>) => {
  // Code that is not yet compiled is compiled in rounds that do not count.
  await interleaved(2, tasks, { collect: false })
  return interleaved(rounds, tasks)
}
