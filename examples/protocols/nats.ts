/** NATS over a WebSocket: publishing to JetStream, which stores each message once; requests and subscriptions. */
import { ReconnectingSocket } from "effect-holdfast"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { randomUUID } from "node:crypto"

/** A line, and its payload if it has one. JetStream confirms that it has stored a message with a `number`. */
type Out = { readonly line: string; readonly payload?: string; readonly number?: string }
/** Of `MSG subject sid [reply] size`, `HMSG subject sid [reply] sizeOfHeaders size`, and lines without payload. */
type In = { readonly op: string; readonly subject: string; readonly headers: string; readonly payload: string }

export class Refused extends Data.TaggedError("Refused")<{ readonly message: string }> {}

/** A message may end anywhere in a frame: the parser of each connection keeps what is left. */
const codec = (): ReconnectingSocket.BatchCodec<Out, In> => {
  let rest = Buffer.alloc(0)
  return {
    encode: ({ line, payload }) => Buffer.from(payload === undefined ? `${line}\r\n` : `${line}\r\n${payload}\r\n`),
    decodeMany: function*(frame) {
      rest = Buffer.concat([rest, Buffer.from(frame as Uint8Array)])
      for (let end = rest.indexOf("\r\n"); end >= 0; end = rest.indexOf("\r\n")) {
        const [op = "", subject = "", ...words] = rest.toString("utf8", 0, end).split(" ")
        const headers = op.endsWith("MSG") ? end + 2 : end
        const body = headers + (op === "HMSG" ? Number(words.at(-2)) : 0)
        const done = headers + (op.endsWith("MSG") ? Number(words.at(-1)) : 0)
        if (rest.length < done + 2) return
        yield { op, subject, headers: `${rest.subarray(headers, body)}`, payload: `${rest.subarray(body, done)}` }
        rest = rest.subarray(done + 2)
      }
    }
  }
}

export const connect = (url: string, token?: string) =>
  Effect.gen(function*() {
    const inbox = `_INBOX.${randomUUID()}`
    // A login that NATS refuses is closed with 1008, after which the socket fails.
    const login = { verbose: false, headers: true, no_responders: true, auth_token: token }
    const answers = new Map<string, In>()
    let numbers = 0
    const socket = yield* ReconnectingSocket.make({
      dial: { url },
      codec,
      heartbeat: { answer: ({ op }) => op === "PING" ? Option.some({ line: "PONG" }) : Option.none() },
      onOpen: Effect.fnUntraced(function*({ receive, send }) {
        yield* send({ line: `CONNECT ${JSON.stringify(login)}\r\nPING` })
        yield* Effect.repeat(receive, { until: ({ op }) => op === "PONG" })
        yield* send({ line: `SUB ${inbox}.> inbox` })
      }),
      acknowledge: {
        id: ({ number }) => number,
        acknowledged: (message) => {
          const [, number] = message.subject.split(`${inbox}.stored.`)
          if (number !== undefined) answers.set(number, message)
          return Option.fromNullable(number)
        },
        cumulative: false
      }
    })
    /** Gives the message's place in its stream. JetStream recognises a repeated message by its identifier. */
    const publish = Effect.fnUntraced(function*(subject: string, text: string) {
      const number = `${++numbers}`
      const headers = `NATS/1.0\r\nNats-Msg-Id: ${inbox}.${number}\r\n\r\n`
      const size = headers.length + Buffer.byteLength(text)
      const line = `HPUB ${subject} ${inbox}.stored.${number} ${headers.length} ${size}`
      yield* socket.deliver({ line, payload: headers + text, number })
      const answer = answers.get(number)!
      answers.delete(number)
      const { error, seq } = answer.headers === "" ? JSON.parse(answer.payload) : { error: answer.headers }
      return error === undefined ? seq as number : yield* new Refused({ message: JSON.stringify(error) })
    })
    const request = (subject: string, payload = "", reply = `${inbox}.reply.${++numbers}`) =>
      socket.request({ line: `PUB ${subject} ${reply} ${Buffer.byteLength(payload)}`, payload }, {
        reply: (message) => message.subject === reply ? Option.some(message.payload) : Option.none()
      })
    const subscribe = (subject: string, sid = `${++numbers}`) =>
      socket.subscribe({ open: { line: `SUB ${subject} ${sid}` }, close: { line: `UNSUB ${sid}` } })
    return { publish, request, subscribe, messages: socket.messages, socket }
  })
