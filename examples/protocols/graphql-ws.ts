/** GraphQL over a WebSocket, by the protocol of `graphql-ws`: queries, and subscriptions that go on where they were. */
import { ReconnectingSocket } from "effect-holdfast"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"

type Variables = Readonly<Record<string, unknown>>

const Variables = Schema.Record({ key: Schema.String, value: Schema.Unknown })
const Operation = Schema.Struct({ query: Schema.String, variables: Variables })
const Out = Schema.Union(
  Schema.Struct({ type: Schema.Literal("connection_init"), payload: Variables }),
  Schema.Struct({ type: Schema.Literal("ping", "pong") }),
  Schema.Struct({ type: Schema.Literal("subscribe"), id: Schema.String, payload: Operation }),
  Schema.Struct({ type: Schema.Literal("complete"), id: Schema.String })
)
const Result = Schema.Struct({ data: Schema.optional(Schema.Unknown), errors: Schema.optional(Schema.Unknown) })
const In = Schema.Union(
  Schema.Struct({ type: Schema.Literal("connection_ack", "ping", "pong") }),
  Schema.Struct({ type: Schema.Literal("next"), id: Schema.String, payload: Result }),
  Schema.Struct({ type: Schema.Literal("error"), id: Schema.String, payload: Schema.Unknown }),
  Schema.Struct({ type: Schema.Literal("complete"), id: Schema.String })
)

export class GraphQLError extends Data.TaggedError("GraphQLError")<{ readonly errors: unknown }> {}

export const connect = (url: string, parameters: Variables = {}) =>
  Effect.gen(function*() {
    let operations = 0
    const socket = yield* ReconnectingSocket.make({
      dial: { url, protocols: ["graphql-transport-ws"] },
      codec: ReconnectingSocket.json({ in: In, out: Out }),
      heartbeat: {
        ping: { type: "ping" },
        isPong: ({ type }) => type === "pong",
        answer: ({ type }) => type === "ping" ? Option.some({ type: "pong" as const }) : Option.none()
      },
      onOpen: Effect.fnUntraced(function*({ receive, send }) {
        yield* send({ type: "connection_init", payload: parameters })
        yield* Effect.repeat(receive, { until: ({ type }) => type === "connection_ack" })
      })
    })
    /** The message's content for the operation; none if the message belongs to another operation. */
    const result = (id: string) => (message: typeof In.Type) => {
      if (!("id" in message) || message.id !== id || message.type === "complete") return Option.none()
      const { data, errors } = message.type === "next"
        ? message.payload as typeof Result.Type
        : { data: undefined, errors: message.payload }
      return Option.some(errors === undefined ? Effect.succeed(data) : new GraphQLError({ errors }))
    }
    /** A query or a mutation. Fails with `MessageLost` if the connection is lost that it was sent on. */
    const query = (query: string, variables: Variables = {}) =>
      Effect.suspend(() => {
        const id = String(++operations)
        return Effect.flatten(
          socket.request({ type: "subscribe", id, payload: { query, variables } }, { reply: result(id) })
        )
      })
    /** The variables are made for each connection: with the last event's number the subscription goes on from there. */
    const subscription = (query: string, variables: () => Variables) =>
      Stream.unwrapScoped(Effect.gen(function*() {
        const id = String(++operations)
        yield* socket.subscribe({
          open: Effect.sync(() => ({ type: "subscribe" as const, id, payload: { query, variables: variables() } })),
          close: { type: "complete", id }
        })
        return Stream.mapEffect(Stream.filterMap(socket.messages, result(id)), (result) => result)
      }))
    return { query, subscription, socket }
  })
