/** The accounts as the application uses them: it pays and reads the balances, by the session of all callers. */
import * as HttpClientError from "@effect/platform/HttpClientError"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { Api, type ApiError } from "../session/client.js"
import type { Transfer } from "./transfer.js"

export type Answer =
  | { readonly _tag: "Done" | "Overdrawn" | "Failed" }
  /** `incident`: if the answer has an incident, and no other detail. */
  | { readonly _tag: "Died"; readonly incident: string | undefined }

export class Accounts extends Context.Tag("storm/Accounts")<Accounts, {
  /** Pays. The transfer is sent again until it is answered, and done once; `onSent` runs at each send. */
  readonly pay: (transfer: Transfer, onSent: Effect.Effect<unknown>) => Effect.Effect<Answer, ApiError>
  /** In cents. */
  readonly balances: Effect.Effect<ReadonlyArray<number>, ApiError>
}>() {
  static readonly layer: Layer.Layer<Accounts, never, Api> = Layer.effect(
    Accounts,
    Effect.map(Api, (api) => ({
      pay: (transfer, onSent) =>
        api.ask(
          HttpClientRequest.put(`/transfers/${transfer.id}`).pipe(HttpClientRequest.bodyUnsafeJson(transfer)),
          HttpClientResponse.matchStatus({
            204: () => Effect.succeed<Answer>({ _tag: "Done" }),
            409: () => Effect.succeed<Answer>({ _tag: "Overdrawn" }),
            422: () => Effect.succeed<Answer>({ _tag: "Failed" }),
            500: (response) => Effect.map(incidentOf(response), (incident): Answer => ({ _tag: "Died", incident })),
            orElse: (response) =>
              new HttpClientError.ResponseError({ request: response.request, response, reason: "StatusCode" })
          }),
          onSent
        ),
      balances: api.ask(
        HttpClientRequest.get("/balances"),
        (response) =>
          Effect.flatMap(HttpClientResponse.filterStatusOk(response), HttpClientResponse.schemaBodyJson(Balances))
      )
    }))
  )
}

const Balances = Schema.Array(Schema.Int)

const incidentOf = (response: HttpClientResponse.HttpClientResponse) =>
  HttpClientResponse.schemaBodyJson(Problem, { onExcessProperty: "error" })(response).pipe(
    Effect.map(({ incident }) => incident),
    Effect.catchTag("ParseError", () => Effect.succeed(undefined))
  )

/** RFC 9457: the only fields that a client may get about a defect. */
const Problem = Schema.Struct({
  type: Schema.Literal("about:blank"),
  title: Schema.Literal("Internal Server Error"),
  status: Schema.Literal(500),
  instance: Schema.String,
  incident: Schema.UUID
}).pipe(
  Schema.filter(({ incident, instance }) => instance === `urn:uuid:${incident}`)
)
