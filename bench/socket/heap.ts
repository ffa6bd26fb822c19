import { setTimeout as sleep } from "node:timers/promises"
import { interleaved } from "../interleave.js"
import type { Client, Contender } from "./contender.js"
import { startServer } from "./server.js"

/** Heap bytes of a client that is open and idle, one list for each contender, round by round. */
export const measureHeap = async (
  contenders: ReadonlyArray<Contender>,
  clients: number,
  rounds: number
): Promise<ReadonlyArray<ReadonlyArray<number>>> => {
  const server = await startServer()
  const url = `ws://127.0.0.1:${server.port}/echo`
  const tasks = contenders.map((contender) => () => bytesEach(contender, url, clients))
  // The first round also loads and compiles. If there is only one round, it is not repeated.
  const warmUp = rounds > 1 ? 1 : 0
  const bytes = await interleaved(warmUp + rounds, tasks, { collect: false })
  await server.kill()
  return bytes.map((rounds) => rounds.slice(warmUp))
}

const bytesEach = async ({ open }: Contender, url: string, count: number): Promise<number> => {
  const before = await heapUsed()
  const clients: Array<Client> = []
  while (clients.length < count) {
    const batch = Array.from({ length: Math.min(50, count - clients.length) }, () => open(url, () => {}))
    clients.push(...await Promise.all(batch))
  }
  const after = await heapUsed()
  await Promise.all(clients.map(({ close }) => close()))
  // Some clients report their end before they are closed.
  await sleep(100)
  return (after - before) / count
}

/** The heap after complete garbage collection: closing and finalizers need several turns of the event loop. */
const heapUsed = async (): Promise<number> => {
  let used = Infinity
  for (let turn = 0; turn < 20; turn++) {
    await sleep(20)
    globalThis.gc?.()
    const before = used
    used = process.memoryUsage().heapUsed
    if (before - used < 10_000) break
  }
  return used
}
