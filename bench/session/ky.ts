import ky, { type KyInstance } from "ky"
import { type Contender, loopOf, stormOf } from "./contender.js"
import { url } from "./server.js"

/** The setup of ky's README: `beforeRequest` puts the token on, `afterResponse` refreshes it and asks for a retry. */
const withRefresh = (fetch: typeof globalThis.fetch, first: string, refresh: () => Promise<string>): KyInstance => {
  let current = first
  return ky.create({
    fetch,
    // The default of 10 s would be too short for the last stragglers.
    timeout: false,
    hooks: {
      beforeRequest: [
        (request, _options, { retryCount }) => {
          if (retryCount === 0) request.headers.set("Authorization", `Bearer ${current}`)
        }
      ],
      afterResponse: [
        async (request, _options, response, { retryCount }) => {
          if (response.status !== 401 || retryCount > 0) return
          current = await refresh()
          const headers = new Headers(request.headers)
          headers.set("Authorization", `Bearer ${current}`)
          // Without `delay: 0` a retry waits 300 ms.
          return ky.retry({ request: new Request(request, { headers }), delay: 0 })
        }
      ]
    }
  })
}

const shared = (refresh: () => Promise<string>): () => Promise<string> => {
  let refreshing: Promise<string> | undefined
  return () =>
    refreshing ??= refresh().finally(() => {
      refreshing = undefined
    })
}

const contender = (name: string, refreshOf: (refresh: () => Promise<string>) => () => Promise<string>): Contender => ({
  name,
  connect: async (server) => {
    const client = withRefresh(server.fetch, server.first, refreshOf(server.refresh))
    const request = async () => (await client.get(url)).status
    await request()
    return { storm: stormOf(request) }
  }
})

export const kyShared: Contender = {
  ...contender("ky, shared promise", shared),
  happyPath: [
    { name: "ky", send: loopOf(() => bare.get(url)) },
    { name: "ky, refreshing hooks", send: loopOf(() => hooked.get(url)) }
  ]
}

export const kyNaive = contender("ky, as in its README", (refresh) => refresh)

const answered: typeof globalThis.fetch = async () => new Response(null, { status: 200 })
const bare = ky.create({ fetch: answered, timeout: false })
const hooked = withRefresh(answered, "token-0", () => Promise.reject(new Error("not to be refreshed")))
