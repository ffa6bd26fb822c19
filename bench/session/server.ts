import { setTimeout as sleep } from "node:timers/promises"

/** The server's address. Nothing listens there: the server is in this process. */
export const url = "https://api.example.com/orders"

export interface Server {
  /** The token that is valid until `expire`. */
  readonly first: string
  readonly counts: { refreshes: number; refused: number }
  /** Takes 20 ms, and gives a token that stays valid. */
  readonly refresh: () => Promise<string>
  /** The status that a request with this `authorization` gets. */
  readonly answer: (authorization: string | null | undefined) => Promise<number>
  /** `answer`, as a `fetch`. */
  readonly fetch: typeof globalThis.fetch
  /**
   * From now on `first` is refused, but the first `callers` refusals are held back. Resolves when all of them are held.
   */
  readonly expire: (callers: number) => Promise<void>
  /** Sends the held refusals, evenly over this time. Later refusals are sent immediately. */
  readonly release: (millis: number) => void
}

/** An API and its token endpoint. Each contender has its own. */
export const makeServer = (): Server => {
  const first = "token-0"
  const good = new Set([`Bearer ${first}`])
  const counts = { refreshes: 0, refused: 0 }
  let held: Array<() => void> | undefined
  let isFull = () => {}
  let room = 0

  const answer = (authorization: string | null | undefined) =>
    new Promise<number>((resolve) => {
      if (good.has(authorization ?? "")) return void setImmediate(resolve, 200)
      counts.refused++
      if (held === undefined) return void setImmediate(resolve, 401)
      held.push(() => resolve(401))
      if (held.length === room) isFull()
    })

  return {
    first,
    counts,
    answer,
    refresh: async () => {
      const token = `token-${++counts.refreshes}`
      await sleep(20)
      good.add(`Bearer ${token}`)
      return token
    },
    fetch: async (input, init) => respond(await answer(authorizationOf(input, init))),
    // Without this a client that sends slowly would refresh before it has sent all requests, which is not the intended
    // storm.
    expire: (callers) => {
      good.delete(`Bearer ${first}`)
      held = []
      room = callers
      return new Promise((resolve) => {
        isFull = resolve
      })
    },
    release: (millis) => {
      const refusals = held ?? []
      held = undefined
      const start = performance.now()
      let sent = 0
      const send = () => {
        const share = millis === 0 ? 1 : (performance.now() - start) / millis
        const due = Math.min(refusals.length, Math.ceil(share * refusals.length))
        while (sent < due) refusals[sent++]!()
        if (sent < refusals.length) setTimeout(send, 1)
      }
      send()
    }
  }
}

const authorizationOf = (input: unknown, init: RequestInit | undefined): string | null | undefined => {
  const headers = input instanceof Request ? input.headers : init?.headers
  return headers instanceof Headers
    ? headers.get("authorization")
    : (headers as Record<string, string> | undefined)?.["authorization"]
}

/** A refusal has a body, like real ones: a client that leaves it unread loses the connection. */
const respond = (status: number): Response =>
  status === 200
    ? new Response(null, { status })
    : new Response(refusal, {
      status,
      headers: { "content-type": "application/json", "content-length": `${refusal.length}` }
    })

const refusal = `{"error":"invalid_token"}`
