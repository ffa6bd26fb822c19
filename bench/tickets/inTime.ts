import { setTimeout as sleep } from "node:timers/promises"

/** Without a limit, a lost message would block for ever. */
export const inTime = <A>(what: string, promise: Promise<A>): Promise<A> => {
  const over = new AbortController()
  const tooLate = sleep(20_000, undefined, { signal: over.signal }).then(() =>
    Promise.reject(new Error(`${what} takes too long`))
  )
  return Promise.race([promise, tooLate]).finally(() => over.abort())
}
