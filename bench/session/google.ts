import { gaxios, OAuth2Client } from "google-auth-library"
import { type Contender, loopOf, stormOf } from "./contender.js"
import { url } from "./server.js"

const tokenUrl = "https://auth.example.com/token"

const makeClient = (token: string, fetch: typeof globalThis.fetch) => {
  const client = new OAuth2Client({
    clientId: "bench",
    endpoints: { oauth2TokenUrl: tokenUrl },
    // Without this option it refreshes on a 401 only if the token has no known expiry. After a refresh the token has
    // one.
    forceRefreshOnFailure: true,
    transporterOptions: { fetchImplementation: fetch }
  })
  client.setCredentials({ access_token: token, refresh_token: "refresh" })
  return client
}

export const google: Contender = {
  name: "google-auth-library",
  connect: async (server) => {
    const client = makeClient(server.first, async (input, init) =>
      String(input) === tokenUrl
        ? Response.json({ access_token: await server.refresh(), expires_in: 3600 })
        : server.fetch(input, init))
    const request = async () => (await client.request({ url })).status
    await request()
    return { storm: stormOf(request) }
  },
  happyPath: [
    { name: "gaxios", send: loopOf(() => bare.request({ url })) },
    { name: "gaxios, google-auth-library", send: loopOf(() => authorized.request({ url })) }
  ]
}

const answered: typeof globalThis.fetch = async () => new Response(null, { status: 200 })
const bare = new gaxios.Gaxios({ fetchImplementation: answered })
const authorized = makeClient("token-0", answered)
