import { setTimeout as sleep } from "node:timers/promises"
import type { Client, Contender } from "./contender.js"
import { now, startServer } from "./server.js"

/**
 * Milliseconds from when the server listens again until the first echo, one list for each contender, round by round.
 * All contenders lose the same server at the same time, and have at most five seconds. For contenders that queue
 * nothing, a message is sent every 2 ms.
 */
export const measureRecovery = async (
  contenders: ReadonlyArray<Contender>,
  rounds: number
): Promise<ReadonlyArray<ReadonlyArray<number>>> => {
  const server = await startServer()
  const url = `ws://127.0.0.1:${server.port}/echo`
  let present = ""
  let heardAt: Array<number | undefined> = []
  const clients: Array<Client> = await Promise.all(
    contenders.map(({ open }, index) =>
      open(url, (message) => {
        if (message === present) heardAt[index] ??= now()
      })
    )
  )
  const millis = contenders.map((): Array<number> => [])
  for (let round = 0; round < rounds; round++) {
    present = `probe ${round}`
    heardAt = []
    await server.kill()
    // Each time at another moment of the contenders' wait.
    await sleep(300 + round % 10 * 11)
    await server.start()
    const deadline = now() + 5_000
    const isMissing = (_: Client, index: number) => heardAt[index] === undefined
    while (clients.some(isMissing) && now() < deadline) {
      for (const { send } of clients.filter(isMissing)) send(present)
      await sleep(2)
    }
    contenders.forEach((_, index) => millis[index]!.push((heardAt[index] ?? deadline) - server.listeningSince()))
    // Messages that are still on their way must not reach the next round.
    await sleep(200)
  }
  await Promise.all(clients.map(({ close }) => close()))
  await server.kill()
  return millis
}
