import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import type { InvalidOptions } from "effect-holdfast/InvalidOptions"
import * as ReconnectingSocket from "effect-holdfast/ReconnectingSocket"
import type * as Session from "effect-holdfast/Session"
import type * as WebSocketDialer from "effect-holdfast/WebSocketDialer"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import { acknowledge, dial, type Message, serving, settle, test } from "../support/reconnectingSockets.js"

describe("invalid options", () => {
  const refused = (
    option: string,
    value: unknown,
    options: Omit<ReconnectingSocket.Options<any, any, any, any, any, any, any, any>, "dial">
  ) =>
    test(`are refused: ${option} of ${Object.is(value, -0) ? "-0" : String(value)}`, () =>
      Effect.gen(function*() {
        const server = yield* serving
        const error = yield* Effect.flip(
          ReconnectingSocket.make({ dial, ...options } as ReconnectingSocket.Options<Message, Message>)
        )
        assert.deepInclude(error as object, { _tag: "InvalidOptions", option, value })
        yield* settle
        assert.lengthOf(server.times, 0)
      }))

  for (const value of [-1, NaN, "nonsense" as never, Infinity]) {
    refused("stableAfter", value, { stableAfter: value })
    refused("openTimeout", value, { openTimeout: value })
    refused("writeTimeout", value, { writeTimeout: value })
    refused("renewAfter", value, { renewAfter: value })
    refused("outbox.timeToLive", value, { outbox: { timeToLive: value } })
    refused("heartbeat.interval", value, { heartbeat: { interval: value } })
    refused("heartbeat.timeout", value, { heartbeat: { timeout: value } })
  }
  for (const option of ["openTimeout", "writeTimeout", "renewAfter"] as const) refused(option, 0, { [option]: 0 })
  refused("heartbeat.interval", 0, { heartbeat: { interval: 0 } })
  refused("heartbeat.timeout", 0, { heartbeat: { timeout: 0 } })
  for (const value of [0, -1, 1.5, NaN, Infinity, "1" as never]) {
    refused("outbox.capacity", value, { outbox: { capacity: value } })
    refused("outbox.bytes", value, { outbox: { bytes: value } })
    refused("outbox.window", value, { outbox: { window: value } })
    refused("inbox.capacity", value, { inbox: { capacity: value } })
    refused("maxPayload", value, { maxPayload: value })
    refused("acknowledge.window", value, { acknowledge: { ...acknowledge, window: value } })
  }
  for (const value of ["", 5 as never]) refused("name", value, { name: value })
  refused("outbox.overflow", "never", { outbox: { overflow: "never" as never } })
  refused("heartbeat.ping", 1, { heartbeat: { ping: 1 as never } })
  refused("heartbeat.always", true, { heartbeat: { always: true, ping: false } })
  refused("subscriptions.rate.limit", 0, { subscriptions: { rate: { limit: 0, interval: 1 } } })
  refused("subscriptions.rate.interval", 0, { subscriptions: { rate: { limit: 1, interval: 0 } } })
  refused("heartbeat.ping", "x", {
    heartbeat: { ping: "x" },
    codec: {
      encode: () => {
        throw new Error("no")
      },
      decode: (message: Message) => message
    }
  })

  const attach = (request: WebSocketDialer.DialRequest) => request
  for (
    const [option, options] of [
      ["dial", { dial: 5 }],
      ["dial", { dial: "ws://test" }],
      ["onOpen", { onOpen: 5 }],
      ["retryable", { retryable: {} }],
      ["backoff", { backoff: 5 }],
      ["outbox", { outbox: 5 }],
      ["outbox", { outbox: null }],
      ["inbox", { inbox: null }],
      ["session", { session: 5 }],
      ["session.session", { session: { attach } }],
      ["session.attach", { session: { session: {} } }],
      ["session.rejected", { session: { session: {}, attach, rejected: 5 } }],
      ["acknowledge", { acknowledge: 5 }],
      ["acknowledge.id", { acknowledge: { ...acknowledge, id: undefined } }],
      ["acknowledge.acknowledged", { acknowledge: { ...acknowledge, acknowledged: "x" } }],
      ["acknowledge.cumulative", { acknowledge: { ...acknowledge, cumulative: "false" } }],
      ["acknowledge.resent", { acknowledge: { ...acknowledge, resent: 5 } }],
      ["heartbeat", { heartbeat: true }],
      ["heartbeat.isPong", { heartbeat: { isPong: "pong" } }],
      ["heartbeat.answer", { heartbeat: { answer: {} } }],
      ["subscriptions", { subscriptions: 5 }],
      ["subscriptions.combine", { subscriptions: { combine: [] } }]
    ] as const
  ) {
    test(`are refused: a value of the wrong kind, of which only the kind is shown (${JSON.stringify(options)})`, () =>
      Effect.gen(function*() {
        const server = yield* serving
        const error = yield* Effect.flip(ReconnectingSocket.make(Object.assign({ dial }, options) as never))
        assert.deepInclude(error as object, { _tag: "InvalidOptions", option })
        assert.match(String((error as InvalidOptions).value), /^(<\w+>|null|undefined)$/)
        yield* settle
        assert.lengthOf(server.times, 0)
      }))
  }

  for (const [options, value] of [[undefined], [null, null], [1, "<number>"], ["ws://test", "<string>"]]) {
    test(`are refused: ${String(options)}`, () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(ReconnectingSocket.make(options as never))
        assert.deepInclude(error as object, { _tag: "InvalidOptions", option: "options", value })
      }))
  }

  test("do not include options that only look odd", () =>
    ReconnectingSocket.make({
      dial,
      stableAfter: 0,
      heartbeat: { interval: 1, timeout: 1 },
      outbox: { capacity: 1, bytes: 1, window: 1, timeToLive: 1, overflow: undefined },
      inbox: { capacity: 1 },
      codec: undefined,
      session: undefined,
      backoff: undefined,
      acknowledge: undefined,
      onOpen: undefined,
      retryable: undefined,
      renewAfter: undefined
    }))
})

describe("types", () => {
  it("without a codec are text and bytes", () => {
    expectTypeOf(ReconnectingSocket.make({ dial })).toEqualTypeOf<
      Effect.Effect<
        ReconnectingSocket.ReconnectingSocket<Message, Message>,
        InvalidOptions,
        WebSocketDialer.WebSocketDialer | Scope.Scope
      >
    >()
  })

  it("with a codec are the codec's, also for callbacks", () => {
    const making = ReconnectingSocket.make({
      dial,
      codec: ReconnectingSocket.json({
        in: Schema.Struct({ at: Schema.Date }),
        out: Schema.Struct({ price: Schema.NumberFromString })
      }),
      heartbeat: { ping: { price: 1 }, isPong: (message) => message.at.getTime() === 0 },
      acknowledge: { id: (message) => message.price, acknowledged: (message) => Option.some(message.at.getTime()) },
      onOpen: ({ receive, send }) => Effect.zipRight(send({ price: 1 }), Effect.map(receive, ({ at }) => at.getTime()))
    })
    expectTypeOf(making).toExtend<
      Effect.Effect<
        ReconnectingSocket.ReconnectingSocket<{ readonly price: number }, { readonly at: Date }>,
        InvalidOptions,
        WebSocketDialer.WebSocketDialer | Scope.Scope
      >
    >()
    const socket = undefined as unknown as Effect.Effect.Success<typeof making>
    expectTypeOf<typeof socket.messages>().toEqualTypeOf<
      Stream.Stream<{ readonly at: Date }, ReconnectingSocket.SocketFailed>
    >()
    // @ts-expect-error: not what the codec encodes
    void (() => socket.send("text"))
    // @ts-expect-error: not the raw codec
    void (() => ReconnectingSocket.toSocket(socket))
  })

  it("of an own codec are inferred from its functions", () => {
    const making = ReconnectingSocket.make({
      dial,
      codec: { encode: (n: number) => `${n}`, decode: (message) => new Date(String(message)) },
      heartbeat: { ping: 1, isPong: (message) => message.getTime() === 0 }
    })
    expectTypeOf<Effect.Effect.Success<typeof making>>().toEqualTypeOf<
      ReconnectingSocket.ReconnectingSocket<number, Date>
    >()
  })

  it("require what dial and onOpen need, and nothing more", () => {
    class Address extends Context.Tag("Address")<Address, string>() {}
    class Login extends Context.Tag("Login")<Login, string>() {}
    const making = ReconnectingSocket.make({
      dial: Effect.map(Address, (url) => ({ url })),
      onOpen: ({ send }) => Effect.flatMap(Login, send)
    })
    expectTypeOf<Effect.Effect.Context<typeof making>>().toEqualTypeOf<
      WebSocketDialer.WebSocketDialer | Scope.Scope | Address | Login
    >()
    expectTypeOf<Effect.Effect.Error<typeof making>>().toEqualTypeOf<InvalidOptions>()
  })

  it("of a session are the types that attach takes", () => {
    const session = undefined as unknown as Session.Session<string, "no">
    void (() =>
      ReconnectingSocket.make({
        dial,
        session: {
          session,
          attach: (request, token) => ({ ...request, headers: { authorization: token.toUpperCase() } })
        }
      }))
    // @ts-expect-error: the session gives text
    void (() => ReconnectingSocket.make({ dial, session: { session, attach: (request, _: number) => request } }))
  })

  it("of a socket vary as they should", () => {
    expectTypeOf<ReconnectingSocket.ReconnectingSocket<Message, "a">>().toExtend<
      ReconnectingSocket.ReconnectingSocket<string, string>
    >()
  })
})
