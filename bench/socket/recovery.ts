import { setTimeout as sleep } from "node:timers/promises"
import type { Client, Contender } from "./contender.js"
import { now, startServer } from "./server.js"

/**
 * Milliseconds from the server's listening again to the first echo, one list for each contender, round by round. All
 * have lost the same server at the same time, and are waited for no longer than five seconds. Who keeps nothing while
 * it is down is helped by a message every 2 ms.
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
    // At another moment of the contenders' wait each time.
    await sleep(300 + round % 10 * 11)
    await server.start()
    const deadline = now() + 5_000
    const isMissing = (_: Client, index: number) => heardAt[index] === undefined
    while (clients.some(isMissing) && now() < deadline) {
      for (const { send } of clients.filter(isMissing)) send(present)
      await sleep(2)
    }
    contenders.forEach((_, index) => millis[index]!.push((heardAt[index] ?? deadline) - server.listeningSince()))
    // What is still under way is not to meet the next round.
    await sleep(200)
  }
  await Promise.all(clients.map(({ close }) => close()))
  await server.kill()
  return millis
}
