/** The supplier's HTTP API, with a token from its authorization server on each request. */
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import { OAuth2Session } from "effect-holdfast/oauth2"
import * as Config from "effect/Config"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"

/** The supplier has not accepted the order. `reason` is for the client of this service, `cause` for its operator. */
export class SupplierError extends Data.TaggedError("SupplierError")<{
  readonly reason: "Refused" | "Unavailable"
  readonly cause: unknown
}> {
  override get message(): string {
    return `the supplier has not taken the order: ${this.reason}`
  }
}

export class Supplier extends Effect.Service<Supplier>()("example/Supplier", {
  scoped: Effect.gen(function*() {
    const url = yield* Config.string("SUPPLIER_URL")
    const session = yield* OAuth2Session.make({
      name: "supplier",
      issuer: yield* Config.string("OAUTH_ISSUER"),
      clientId: yield* Config.string("OAUTH_CLIENT_ID"),
      clientAuth: OAuth2Session.secretBasic(yield* Config.redacted("OAUTH_CLIENT_SECRET")),
      allowInsecureRequests: yield* Config.withDefault(Config.boolean("OAUTH_INSECURE"), false),
      grant: OAuth2Session.clientCredentials
    })
    const client = yield* OAuth2Session.client(session, { origins: [url] })

    const order = (item: string): Effect.Effect<void, SupplierError> =>
      HttpClientRequest.post(`${url}/orders`).pipe(
        HttpClientRequest.bodyUnsafeJson({ item }),
        HttpClient.filterStatusOk(client).execute,
        Effect.catchTags({
          ResponseError: (cause) => new SupplierError({ reason: "Refused", cause }),
          SessionRejected: (cause) => new SupplierError({ reason: "Refused", cause })
        }),
        Effect.catchAll((cause) =>
          cause._tag === "SupplierError" ? cause : new SupplierError({ reason: "Unavailable", cause })
        ),
        Effect.asVoid
      )

    return { order, status: Effect.map(session.status, ({ _tag }) => _tag) }
  })
}) {}
