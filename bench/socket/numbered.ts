/** Numbered messages to a server that first writes each one down: how many are lost, and what this costs. */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import type { Client, Contender } from "./contender.js"
import { startProxy } from "./proxy.js"
import { type Server, startServer } from "./server.js"

export interface Losses {
  readonly lost: number
  /** Messages that first arrived after one with a higher number. */
  readonly reordered: number
  /** Messages that arrived again. */
  readonly repeated: number
}

interface Setting {
  readonly server: Server
  readonly client: Client
  /** All messages that the server has taken, in this order. */
  readonly taken: () => Promise<ReadonlyArray<number>>
}

/** The server is killed `kills` times while about one message a millisecond is sent. */
export const measureLosses = (contender: Contender, delay: number, sends: number, kills: number): Promise<Losses> =>
  withServer(contender, delay, 0, () => {}, async ({ client, server, taken }) => {
    const between = sends / kills
    let killAt = between / 2
    let restarted = Promise.resolve()
    for (let sent = 1; sent <= sends; sent++) {
      client.send(String(sent))
      if (sent === killAt) {
        // The server is killed only when a client is connected.
        await restarted
        await server.connected()
        restarted = server.kill().then(server.start)
        killAt += between
      }
      // Sends that a busy machine has delayed are not made up for, since that would be a burst.
      await sleep(1)
    }
    await restarted
    await server.connected()
    return lossesOf(await settled(taken, sends), sends)
  })

/** Waits until all are there, or no more come. */
const settled = async (taken: Setting["taken"], sends: number): Promise<ReadonlyArray<number>> => {
  let ids = await taken()
  for (let quiet = 0; quiet < 8 && new Set(ids).size < sends; quiet++) {
    await sleep(100)
    const more = await taken()
    if (more.length > ids.length) quiet = 0
    ids = more
  }
  return ids
}

const lossesOf = (ids: ReadonlyArray<number>, sends: number): Losses => {
  const seen = new Set<number>()
  let highest = 0
  let reordered = 0
  for (const id of ids) {
    if (seen.has(id)) continue
    seen.add(id)
    if (id < highest) reordered++
    highest = Math.max(highest, id)
  }
  return { lost: sends - seen.size, reordered, repeated: ids.length - seen.size }
}

/** Messages per second, from the first send until the server is known to have all; 0 if that takes too long. */
export const measurePour = (
  contender: Contender,
  delay: number,
  total: number,
  rounds: number
): Promise<ReadonlyArray<number>> => {
  let hear = (_: string) => {}
  return withServer(contender, delay, total, (message) => hear(message), async ({ client }) => {
    const rates: Array<number> = []
    // The first round does not count: it compiles.
    for (let round = 0; round <= rounds; round++) {
      const messages = Array.from({ length: total }, (_, index) => String(round * total + index + 1))
      const hasAll = new Promise<boolean>((resolve) => {
        hear = (message) => message === messages.at(-1) && resolve(true)
      })
      const start = performance.now()
      const known = client.pour(messages)?.then(() => true) ?? hasAll
      const isDone = await Promise.race([known, sleep(10_000, false, { ref: false })])
      if (!isDone) return [0]
      rates.push(total * 1_000 / (performance.now() - start))
    }
    return rates.slice(1)
  })
}

const withServer = async <A>(
  { isAcknowledged, open }: Contender,
  delay: number,
  every: number,
  heard: (message: string) => void,
  use: (setting: Setting) => Promise<A>
): Promise<A> => {
  const folder = await mkdtemp(join(tmpdir(), "holdfast-bench-"))
  const log = join(folder, "taken")
  await writeFile(log, "")
  const server = await startServer(log)
  const proxy = delay === 0 ? undefined : await startProxy(server.port, delay)
  const port = proxy?.port ?? server.port
  const path = isAcknowledged ? "acknowledged" : "numbered"
  const client = await open(`ws://127.0.0.1:${port}/${path}?every=${every}`, heard)
  const taken = async () => (await readFile(log, "utf8")).split("\n").filter(Boolean).map(Number)
  const result = await use({ server, client, taken })
  await client.close()
  await proxy?.close()
  await server.kill()
  await rm(folder, { recursive: true })
  return result
}
