/** socket.io 4 (and engine.io 4 beneath it) over a WebSocket: events both ways, in a session that the server keeps. */
import { ReconnectingSocket } from "effect-holdfast"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"

/** The engine's packets are 0 open, 2 ping, 3 pong; those of socket.io 40 connect, 42 event, 43 answer, 44 refusal. */
interface Packet {
  readonly type: string
  readonly id?: number | undefined
  readonly data?: any
}

const encode = ({ data, id, type }: Packet) => `${type}${id ?? ""}${data === undefined ? "" : JSON.stringify(data)}`

const decode = (frame: string | Uint8Array): Packet => {
  const [, type = "", id = "", data = ""] = /^(4\d|\d)(\d*)(.*)$/s.exec(String(frame)) ?? []
  return { type, id: id === "" ? undefined : Number(id), data: data === "" ? undefined : JSON.parse(data) }
}

export class Refused extends Data.TaggedError("Refused")<{ readonly message: string }> {}

export const connect = (url: string, credentials: Readonly<Record<string, unknown>> = {}) =>
  Effect.gen(function*() {
    const answers = new Map<number, ReadonlyArray<any>>()
    let events = 0
    let session: { readonly pid?: string; readonly offset?: string } = {}
    const socket = yield* ReconnectingSocket.make({
      dial: { url: new URL("/socket.io/?EIO=4&transport=websocket", url) },
      codec: {
        encode,
        decode: (frame) => {
          // A decoded event will reach the reader. In a session that can be resumed, an event ends with its offset.
          const { data, id, type } = decode(frame)
          if (type === "40" && data.pid !== session.pid) session = { pid: data.pid }
          const isNumbered = session.pid !== undefined && type === "42" && id === undefined
          if (isNumbered && typeof data.at(-1) === "string") session = { ...session, offset: data.at(-1) }
          return { data, id, type }
        }
      },
      heartbeat: { answer: ({ type }) => type === "2" ? Option.some({ type: "3" }) : Option.none() },
      onOpen: Effect.fnUntraced(function*({ find, heartbeat, receive, send }) {
        const { data } = yield* receive
        yield* heartbeat({ interval: data.pingInterval, timeout: data.pingTimeout, ping: false })
        yield* send({ type: "40", data: { ...credentials, ...session } })
        // Events that a resumed session has missed come before the answer.
        const isAnswer = ({ type }: Packet) => type === "40" || type === "44"
        const answer = yield* find(Option.liftPredicate(isAnswer))
        if (answer.type === "44") return yield* new Refused(answer.data)
      }),
      acknowledge: {
        id: ({ id, type }) => type === "42" ? id : undefined,
        acknowledged: ({ data, id, type }) => {
          if (type === "43") answers.set(id!, data)
          return type === "43" ? Option.some(id!) : Option.none()
        },
        cumulative: false
      }
    })
    /** Gives what the server's handler answers. An event may reach the handler again after a loss. */
    const emit = (event: string, ...data: ReadonlyArray<unknown>) =>
      Effect.suspend(() => {
        const id = events++
        return Effect.map(socket.deliver({ type: "42", id, data: [event, ...data] }), () => {
          const answer = answers.get(id)!
          answers.delete(id)
          return answer
        })
      })
    const received = Stream.filterMap(socket.messages, ({ data, type }) =>
      type === "42" ? Option.some(data as readonly [event: string, ...data: ReadonlyArray<any>]) : Option.none())
    return { emit, received, socket }
  })
