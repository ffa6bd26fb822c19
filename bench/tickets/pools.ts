/** Clients that open many connections at the same time, each with its own way to keep tickets. */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as Undici from "@effect/platform-node/Undici"
import { NodeTicketCache } from "effect-holdfast/node"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Scope from "effect/Scope"
import { once } from "node:events"
import * as Https from "node:https"

export interface Pool {
  /** As many requests at once, each on a connection of its own, which the server closes. */
  readonly burst: (url: string, requests: number) => Promise<void>
  readonly close: () => Promise<void>
}

export interface Contender {
  readonly name: string
  /** Trusts `ca`, and opens up to `width` connections at once. */
  readonly open: (ca: string, width: number) => Promise<Pool>
}

const overUndici = (dispatcher: Undici.Dispatcher): Pool["burst"] => async (url, requests) => {
  await Promise.all(Array.from({ length: requests }, async () => {
    const { body, statusCode } = await Undici.request(url, { dispatcher })
    await body.text()
    expect(statusCode)
  }))
}

const overHttps = (agent: Https.Agent): Pool["burst"] => async (url, requests) => {
  await Promise.all(Array.from({ length: requests }, async () => {
    const [response] = await once(Https.get(url, { agent }), "response")
    response.resume()
    await once(response, "close")
    expect(response.statusCode)
  }))
}

const expect = (status: number) => {
  if (status !== 200) throw new Error(`answered with ${status}`)
}

const scoped = async <A, E>(
  acquire: Effect.Effect<A, E, Scope.Scope>,
  burst: (acquired: A) => Pool["burst"]
): Promise<Pool> => {
  const scope = Effect.runSync(Scope.make())
  // The warning that a server gives no new tickets is not logged: the table shows it.
  const acquired = await Effect.runPromise(Scope.extend(Logger.withMinimumLogLevel(acquire, LogLevel.None), scope))
  return { burst: burst(acquired), close: () => Effect.runPromise(Scope.close(scope, Exit.void)) }
}

const dispatcherOf = (options: Parameters<typeof NodeTicketCache.layerDispatcher>[0]) =>
  Effect.map(Layer.build(NodeTicketCache.layerDispatcher(options)), Context.get(NodeHttpClient.Dispatcher))

export const holdfast: Contender = {
  name: "Holdfast, dispatcher",
  open: (ca, width) => scoped(dispatcherOf({ tls: { ca }, undici: { connections: width } }), overUndici)
}

export const holdfastAgent: Contender = {
  name: "Holdfast, https agent",
  open: (ca, width) => scoped(NodeTicketCache.agent({ ca, maxSockets: width }), overHttps)
}

/** undici forgets a server's tickets with the last connection to it, since they belong to its pool. */
export const undici: Contender = {
  name: "undici's Agent",
  open: async (ca, width) => {
    const agent = new Undici.Agent({ connections: width, connect: { ca } })
    return { burst: overUndici(agent), close: () => agent.destroy() }
  }
}

export const undiciConnector: Contender = {
  name: "undici's Agent, with one connector of undici's",
  open: async (ca, width) => {
    const agent = new Undici.Agent({ connections: width, connect: Undici.buildConnector({ ca }) })
    return { burst: overUndici(agent), close: () => agent.destroy() }
  }
}

export const httpsAgent: Contender = {
  name: "https.Agent",
  open: async (ca, width) => {
    const agent = new Https.Agent({ ca, maxSockets: width })
    return { burst: overHttps(agent), close: async () => agent.destroy() }
  }
}

export const contenders = [holdfast, holdfastAgent, undici, undiciConnector, httpsAgent]
