/** The gateway of a chat service: hello, a heartbeat at the server's pace, identify or resume, invalid session. */
import { ReconnectingSocket } from "effect-holdfast"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"

/** `s` numbers the events of a session, and `t` names them. */
type Payload = { readonly op: number; readonly d?: any; readonly s?: number | null; readonly t?: string | null }

export const op = {
  event: 0,
  heartbeat: 1,
  identify: 2,
  resume: 6,
  reconnect: 7,
  invalidSession: 9,
  hello: 10,
  ack: 11
}

/** A bad token, and other refusals that would only repeat. */
const fatalCodes = new Set([4004, 4010, 4011, 4012, 4013, 4014])

type Pace = Pick<ReconnectingSocket.Options<Payload, Payload>, "backoff" | "stableAfter">

export const connect = (url: string, token: Redacted.Redacted<string>, pace: Pace = {}) =>
  Effect.gen(function*() {
    let session: { readonly id: string; readonly url: string } | undefined
    let seq: number | null = null
    const heartbeat = (): Payload => ({ op: op.heartbeat, d: seq })
    const login = (): Payload =>
      session === undefined
        ? { op: op.identify, d: { token: Redacted.value(token), intents: 513, properties: { os: process.platform } } }
        : { op: op.resume, d: { token: Redacted.value(token), session_id: session.id, seq } }
    const socket = yield* ReconnectingSocket.make({
      ...pace,
      dial: Effect.sync(() => ({ url: session?.url ?? url })),
      codec: {
        encode: (payload: Payload) => JSON.stringify(payload),
        // A decoded event will reach the reader, however slow it is, so a session is resumed from here.
        decode: (frame) => {
          const payload: Payload = JSON.parse(String(frame))
          if (payload.t === "READY") session = { id: payload.d.session_id, url: payload.d.resume_gateway_url }
          seq = payload.s ?? seq
          return payload
        }
      },
      retryable: (failure, byDefault) =>
        failure._tag === "ConnectionClosed" ? !fatalCodes.has(failure.code) : byDefault,
      onOpen: Effect.fnUntraced(function*(connection: ReconnectingSocket.OpeningConnection<Payload, Payload>) {
        const hello = yield* connection.find(Option.liftPredicate((payload) => payload.op === op.hello))
        yield* connection.heartbeat({
          interval: hello.d.heartbeat_interval,
          timeout: hello.d.heartbeat_interval,
          always: true,
          ping: heartbeat,
          isPong: (payload) => payload.op === op.ack,
          answer: (payload) => payload.op === op.heartbeat ? Option.some(heartbeat()) : Option.none()
        })
        yield* connection.send(login())
        // A resumed session replays its events first.
        const isAnswer = ({ op: code, t }: Payload) =>
          t === "READY" || t === "RESUMED" || code === op.invalidSession || code === op.reconnect
        const answer = yield* connection.find(Option.liftPredicate(isAnswer))
        if (answer.op === op.reconnect) return yield* connection.end()
        if (answer.op === op.event) return yield* connection.unread(answer)
        if (answer.d === false) session = undefined
        return yield* connection.end({ backoff: true })
      })
    })
    /** Every event of a session once, in order. Events between an invalid session and the next one are lost. */
    const events = Stream.filterEffect(socket.messages, (payload) =>
      payload.op === op.reconnect || payload.op === op.invalidSession
        ? Effect.as(socket.reconnect(), false)
        : Effect.succeed(payload.op === op.event))
    return { events, socket }
  })
