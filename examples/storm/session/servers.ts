/**
 * The servers of the parts `session`, `balances` and `tickets`: an authorization server that rotates refresh tokens,
 * and an API that asks it about access tokens.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { randomBytes } from "node:crypto"
import type { Counterparties, Counterparty, CounterpartyLost } from "../counterparty.js"
import type { Options } from "../options.js"
import * as Certificates from "../tls/certificates.js"
import type { AuthorizationServer } from "./authorization-server.js"
import type { ResourceApi } from "./resource-api.js"

export interface Servers {
  readonly authorization: Counterparty<AuthorizationServer>
  readonly authorizationPort: number
  readonly api: Counterparty<ResourceApi>
  readonly apiPorts: { readonly plain: number; readonly secure: number }
  readonly certificates: Certificates.Certificates
}

export const make = (
  { callers, seed }: Options,
  counterparties: Counterparties
): Effect.Effect<Servers, CounterpartyLost, Scope.Scope> =>
  Effect.gen(function*() {
    const authorization = yield* counterparties.fork<AuthorizationServer>(
      "authorization server",
      new URL("./authorization-server.ts", import.meta.url)
    )
    const api = yield* counterparties.fork<ResourceApi>("resource API", new URL("./resource-api.ts", import.meta.url))
    const certificates = yield* Certificates.make
    const introspectionSecret = randomBytes(16).toString("hex")
    const { forApi, forClients } = yield* authorization.ask("listen", {
      introspectionSecret,
      // Long enough for all waiting callers to use a token, even on a busy machine.
      lifetime: Math.max(2, Math.ceil(callers / 100))
    })
    const apiPorts = yield* api.ask("listen", {
      authorizationPort: forApi,
      introspectionSecret,
      seed,
      tls: certificates.api
    })
    return { authorization, authorizationPort: forClients, api, apiPorts, certificates }
  })
