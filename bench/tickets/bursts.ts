import { interleaved } from "../interleave.js"
import { inTime } from "./inTime.js"
import type { Contender, Pool } from "./pools.js"
import type { Report, Server } from "./server.js"

/**
 * The results of each contender's bursts on the wire, in order. The first burst finds no ticket, and is left out. The
 * server closes every connection, so each request of the next burst opens one.
 */
export const measureBursts = async (
  contenders: ReadonlyArray<Contender>,
  { relayPort, report }: Server,
  ca: string,
  width: number,
  bursts: number
): Promise<ReadonlyMap<Contender, ReadonlyArray<Report>>> => {
  const url = `https://localhost:${relayPort}/`
  const pools: Array<Pool> = []
  for (const { open } of contenders) pools.push(await open(ca, width))
  const tasks = pools.map(({ burst }, index) => async () => {
    const { name } = contenders[index]!
    await inTime(`a burst of ${name}`, burst(url, width))
    const found = await report()
    if (found.connections !== width) {
      throw new Error(`${name} opened ${found.connections} connections for ${width} requests`)
    }
    return found
  })
  const reports = await interleaved(1 + bursts, tasks, { collect: false })
  await Promise.all(pools.map(({ close }) => close()))
  return new Map(contenders.map((contender, index) => [contender, reports[index]!.slice(1)]))
}
