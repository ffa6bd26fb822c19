/**
 * A resource API. It asks the authorization server about the token of each request, and refuses those that are
 * expired or revoked. A process of its own.
 */
import { once } from "node:events"
import { createServer, type IncomingMessage, type ServerResponse } from "node:http"
import { text } from "node:stream/consumers"
import { setTimeout as sleep } from "node:timers/promises"
import { answerWith } from "../answering.js"
import { chance } from "../chance.js"

export interface Settings {
  readonly authorizationPort: number
  readonly introspectionSecret: string
  readonly seed: number
}

const counts = { served: 0, refused: 0, errors: 0 }

const listen = async ({ authorizationPort, introspectionSecret, seed }: Settings): Promise<number> => {
  const luck = chance(seed, "api")
  const ask = async (token: string): Promise<boolean> => {
    const response = await fetch(`http://127.0.0.1:${authorizationPort}/token/introspection`, {
      method: "POST",
      headers: { authorization: `Basic ${Buffer.from(`api:${introspectionSecret}`).toString("base64")}` },
      body: new URLSearchParams({ token, token_type_hint: "access_token" }),
      signal: AbortSignal.timeout(5000)
    })
    if (!response.ok) throw new Error(`the authorization server answered ${response.status}`)
    return (await response.json() as { readonly active: boolean }).active
  }

  // Requests that come while their token is being asked about share the answer. It is not kept after that.
  const asking = new Map<string, Promise<boolean>>()
  const isActive = (token: string): Promise<boolean> => {
    const asked = asking.get(token)
    if (asked !== undefined) return asked
    const answer = ask(token).finally(() => asking.delete(token))
    asking.set(token, answer)
    return answer
  }

  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const token = /^Bearer (.+)$/.exec(request.headers.authorization ?? "")?.[1]
    const body = await text(request)
    // There is work before it. So there are always some on their way with a token that is revoked meanwhile.
    await sleep(luck.between(20, 200))
    if (token === undefined || !await isActive(token)) {
      counts.refused++
      response.writeHead(401, { "www-authenticate": `Bearer error="invalid_token"` }).end()
      return
    }
    counts.served++
    response.writeHead(200, { "content-type": "application/json" }).end(body)
  }

  const server = createServer((request, response) => {
    answer(request, response).catch((error: unknown) => {
      // A client that went away in the middle is no error of the API's.
      if (request.destroyed && !request.complete) return
      counts.errors++
      response.writeHead(503).end(String(error))
    })
  })
  server.listen(0, "127.0.0.1")
  await once(server, "listening")
  return (server.address() as { readonly port: number }).port
}

const questions = answerWith({
  /** Answers with the port. */
  listen,
  report: () => counts
})

export type ResourceApi = typeof questions
