import type { AccessToken } from "@azure/core-auth"
import {
  bearerTokenAuthenticationPolicy,
  createHttpHeaders,
  createPipelineFromOptions,
  createPipelineRequest,
  type HttpClient
} from "@azure/core-rest-pipeline"
import { type Contender, loopOf, stormOf } from "./contender.js"
import { url } from "./server.js"

/** The policy answers this challenge by itself: it gets a new token from the credential and sends again. */
const challenge = createHttpHeaders({
  "WWW-Authenticate": `Bearer error="insufficient_claims", claims="${btoa(`{"access_token":{}}`)}"`
})
const noHeaders = createHttpHeaders()

const pipelineWith = (getToken: () => Promise<string>) => {
  const pipeline = createPipelineFromOptions({})
  pipeline.addPolicy(
    bearerTokenAuthenticationPolicy({
      scopes: "https://api.example.com/.default",
      credential: {
        getToken: async (): Promise<AccessToken> => ({
          token: await getToken(),
          expiresOnTimestamp: Date.now() + 3_600_000
        })
      }
    }),
    { phase: "Sign" }
  )
  return pipeline
}

export const azure: Contender = {
  name: "Azure core-rest-pipeline",
  connect: async (server) => {
    let isSignedIn = false
    const pipeline = pipelineWith(async () => {
      if (isSignedIn) return server.refresh()
      isSignedIn = true
      return server.first
    })
    const transport: HttpClient = {
      sendRequest: async (request) => {
        const status = await server.answer(request.headers.get("Authorization"))
        return { request, status, headers: status === 401 ? challenge : noHeaders }
      }
    }
    const request = async () => (await pipeline.sendRequest(transport, createPipelineRequest({ url }))).status
    await request()
    return { storm: stormOf(request) }
  },
  happyPath: [
    { name: "Azure pipeline", send: loopOf(() => bare.sendRequest(answered, createPipelineRequest({ url }))) },
    {
      name: "Azure pipeline, bearer policy",
      send: loopOf(() => bearing.sendRequest(answered, createPipelineRequest({ url })))
    }
  ]
}

const answered: HttpClient = { sendRequest: async (request) => ({ request, status: 200, headers: noHeaders }) }
const bare = createPipelineFromOptions({})
const bearing = pipelineWith(async () => "token-0")
