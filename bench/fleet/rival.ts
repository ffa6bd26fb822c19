/**
 * A process of a fleet without Holdfast, started by `fleetProcess`: the token is shared by all processes, and a process
 * that is refused renews it. With a Redis, it does so under a lock by `SET NX PX`, as in common recipes: the process
 * that gets the lock first looks for a newer token, renews, writes, and deletes the lock if it is still its own.
 */
import { Redis } from "ioredis"
import { randomUUID } from "node:crypto"
import type { Settings } from "../../test/support/fleetChild.js"

interface Token {
  readonly access: string
  readonly refresh: string
}

const { key, lease, store, upstream } = JSON.parse(process.argv[2]!) as Settings
const lockMillis = lease ?? 8000

const shared = store.kind === "redis" ? { redis: new Redis(store.url), name: `${store.prefix}${key}` } : undefined

let token: Token = { access: "0.0", refresh: "0.0" }
let stopsHolding = false

const isServed = async ({ access }: Token): Promise<boolean> => {
  const response = await fetch(`${upstream}/api`, { headers: { authorization: `Bearer ${access}` } })
  await response.arrayBuffer()
  return response.ok
}

const present = async ({ refresh }: Token): Promise<Token> => {
  const body = new URLSearchParams({ grant_type: "refresh_token", refresh_token: refresh })
  const response = await fetch(`${upstream}/token`, { method: "POST", body })
  if (!response.ok) throw new Error("logged out")
  return await response.json() as Token
}

const unlock = `if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) end return 0`

const renewLocked = async (stale: Token): Promise<Token> => {
  const { name, redis } = shared!
  for (;;) {
    const written = await redis.get(name)
    const latest = written === null ? stale : JSON.parse(written) as Token
    if (latest.access !== stale.access) return latest
    const holder = randomUUID()
    if (await redis.set(`${name}:lock`, holder, "PX", lockMillis, "NX") !== "OK") {
      await new Promise((resolve) => setTimeout(resolve, 50 + 50 * Math.random()))
      continue
    }
    try {
      const again = await redis.get(name)
      if (again !== null && (JSON.parse(again) as Token).access !== stale.access) return JSON.parse(again) as Token
      if (stopsHolding) {
        stopsHolding = false
        await new Promise<void>((resolve) => process.send!({ reached: "taken" }, () => resolve()))
        process.kill(process.pid, "SIGSTOP")
      }
      const renewed = await present(latest)
      await redis.set(name, JSON.stringify(renewed))
      return renewed
    } finally {
      await redis.eval(unlock, 1, `${name}:lock`, holder)
    }
  }
}

let renewing: Promise<Token> | undefined

/** All callers of the process share one renewal. */
const renew = (stale: Token): Promise<Token> =>
  renewing ??= (shared === undefined ? present(stale) : renewLocked(stale))
    .then((renewed) => token = renewed)
    .finally(() => renewing = undefined)

const questions = {
  /** How many of the callers have a token that the API accepts. */
  refused: async (callers: number): Promise<number> => {
    const stale = token
    if (await isServed(stale)) return callers
    const renewed = await Promise.all(Array.from({ length: callers }, () => renew(stale).catch(() => undefined)))
    return renewed[0] !== undefined && await isServed(renewed[0]) ? callers : 0
  },
  halt: (): void => {
    stopsHolding = true
  }
}

interface Question {
  readonly id: number
  readonly name: keyof typeof questions
  readonly input: ReadonlyArray<never>
}

process.on("message", ({ id, input, name }: Question) => {
  Promise.resolve(questions[name](...(input as unknown as [number]))).then(
    (value) => process.send!({ id, value }),
    (error: unknown) => process.send!({ id, defect: String(error) })
  )
})
process.on("disconnect", () => process.exit())
