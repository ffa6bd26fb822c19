/**
 * Good code written by hand: plain promises, and a refresh only if the refused generation is still the current one. It
 * has no interruption, timeout, cooldown or budget.
 */
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as Effect from "effect/Effect"
import * as ManagedRuntime from "effect/ManagedRuntime"
import { type Contender, loopOf, stormOf } from "./contender.js"
import { effectClient } from "./holdfast.js"
import { url } from "./server.js"

interface Generation {
  readonly token: string
}

const makeSession = (first: string, refresh: () => Promise<string>) => {
  let current: Generation = { token: first }
  let renewal: Promise<Generation> | undefined

  const after = (stale: Generation): Promise<Generation> | Generation => {
    if (current !== stale) return current
    return renewal ??= refresh().then((token) => current = { token }).finally(() => {
      renewal = undefined
    })
  }

  return async (send: (token: string) => Promise<Reply>): Promise<number> => {
    const generation = renewal === undefined ? current : await renewal
    const reply = await send(generation.token)
    if (reply.status !== 401) return reply.status
    await reply.drain()
    return (await send((await after(generation)).token)).status
  }
}

interface Reply {
  readonly status: number
  readonly drain: () => Promise<unknown>
}

/** Over `fetch` itself, without a client. */
export const plainPromises: Contender = {
  name: "plain promises, bare fetch",
  connect: async (server) => {
    const session = makeSession(server.first, server.refresh)
    const request = () => session((token) => send(server.fetch, token))
    await request()
    return { storm: stormOf(request) }
  },
  happyPath: [
    { name: "fetch", send: loopOf(() => answered(url)) },
    {
      name: "fetch, plain promises",
      send: (requests) => {
        const session = makeSession("token-0", () => Promise.reject(new Error("not to be refreshed")))
        return loopOf(() => session((token) => send(answered, token)))(requests)
      }
    }
  ]
}

const send = async (fetch: typeof globalThis.fetch, token: string): Promise<Reply> => {
  const response = await fetch(url, { headers: { authorization: `Bearer ${token}` } })
  return { status: response.status, drain: () => response.text() }
}

const ok = new Response(null, { status: 200 })
const answered: typeof globalThis.fetch = async () => ok

/** Over the same Effect client as Holdfast, so that the client's own cost makes no difference. */
export const plainPromisesOverEffect: Contender = {
  name: "plain promises, Effect client",
  connect: async (server) => {
    const runtime = ManagedRuntime.make(effectClient(server))
    const client = await runtime.runPromise(HttpClient.HttpClient)
    const session = makeSession(server.first, server.refresh)
    const request = () =>
      session(async (token): Promise<Reply> => {
        const response = await runtime.runPromise(
          client.execute(HttpClientRequest.bearerToken(HttpClientRequest.get(url), token))
        )
        return { status: response.status, drain: () => runtime.runPromise(Effect.ignore(response.text)) }
      })
    await request()
    return { storm: stormOf(request), close: () => runtime.dispose() }
  }
}
