/** `examples/protocols/gateway.ts` with a gateway that cuts, sends away and forgets. */
import { assert, describe, it } from "@effect/vitest"
import { NodeWebSocketDialer } from "effect-holdfast/node"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import type { AddressInfo } from "node:net"
import { type WebSocket, WebSocketServer } from "ws"
import { connect, op } from "../../examples/protocols/gateway.js"
import { amount } from "../support/form.js"
import { quiet } from "../support/quiet.js"
import { eventually, impatient } from "../support/webSocketServer.js"

const rounds = amount({ quick: 1, full: 5 })
const perKill = 20

interface Session {
  readonly id: string
  /** The events that were sent, the first with the number 1. */
  readonly events: Array<string>
  socket: WebSocket | undefined
}

/** Keeps every event of a session until the session is forgotten, and replays those after the number of a resume. */
const gateway = Effect.gen(function*() {
  const sessions: Array<Session> = []
  const counts = { identified: 0, resumed: 0, heartbeats: 0 }
  let forgotten = 0
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1" })
  yield* Effect.async<void>((resume) => void server.on("listening", () => resume(Effect.void)))
  const url = `ws://127.0.0.1:${(server.address() as AddressInfo).port}`
  const send = ({ events, socket }: Session, s = events.length) => socket?.send(events[s - 1]!)
  const dispatch = (session: Session, t: string, d: unknown) => {
    session.events.push(JSON.stringify({ op: op.event, s: session.events.length + 1, t, d }))
    send(session)
  }
  const identify = (socket: WebSocket) => {
    counts.identified++
    const session: Session = { id: `session ${sessions.length}`, events: [], socket }
    sessions.push(session)
    dispatch(session, "READY", { session_id: session.id, resume_gateway_url: `${url}/resume` })
  }
  const resume = (socket: WebSocket, id: string, seq: number) => {
    const session = sessions.slice(forgotten).find((session) => session.id === id)
    if (session === undefined) return socket.send(JSON.stringify({ op: op.invalidSession, d: false }))
    counts.resumed++
    session.socket?.terminate()
    session.socket = socket
    for (let s = seq + 1; s <= session.events.length; s++) send(session, s)
    socket.send(JSON.stringify({ op: op.event, t: "RESUMED", s: null }))
  }
  server.on("connection", (socket) => {
    let heard = Date.now()
    const watch = setInterval(() => Date.now() - heard > 10_000 && socket.close(4009), 1_000)
    socket.on("close", () => {
      clearInterval(watch)
      for (const session of sessions) if (session.socket === socket) session.socket = undefined
    })
    socket.on("message", (data) => {
      const payload = JSON.parse(String(data))
      if (payload.op === op.heartbeat) {
        heard = Date.now()
        counts.heartbeats++
        socket.send(JSON.stringify({ op: op.ack }))
      } else if (payload.d.token !== "secret") socket.close(4004, "authentication failed")
      else if (payload.op === op.identify) identify(socket)
      else resume(socket, payload.d.session_id, payload.d.seq)
    })
    socket.send(JSON.stringify({ op: op.hello, d: { heartbeat_interval: 2_000 } }))
  })
  yield* Effect.forkScoped(Effect.forever(Effect.zipRight(
    Effect.sync(() => {
      const session = sessions.slice(forgotten).at(-1)
      if (session !== undefined) dispatch(session, "MESSAGE", { of: session.id })
    }),
    Effect.sleep("1 millis")
  )))
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      for (const client of server.clients) client.terminate()
      server.close()
    })
  )
  const current = () => sessions.at(-1)!
  return {
    url,
    counts,
    sessions,
    /** Each way in which a connection ends. */
    ends: [
      () => current().socket?.terminate(),
      () => current().socket?.close(4000, "try again"),
      () => current().socket?.send(JSON.stringify({ op: op.reconnect })),
      () => {
        forgotten = sessions.length
        current().socket?.send(JSON.stringify({ op: op.heartbeat }))
        current().socket?.terminate()
      }
    ]
  }
})

describe("a gateway", () => {
  it.scopedLive("each event of a session comes once, in order, however the connections end", () =>
    Effect.gen(function*() {
      const { counts, ends, sessions, url } = yield* gateway
      const client = yield* connect(url, Redacted.make("secret"))
      yield* impatient(client.socket)
      const heard: Array<{ readonly of: string; readonly s: number }> = []
      yield* Effect.forkScoped(Stream.runForEach(client.events, ({ d, s, t }) =>
        Effect.sync(() => {
          if (t !== "RESUMED") heard.push({ of: t === "READY" ? d.session_id : d.of, s: s! })
        })))
      for (let round = 0; round < rounds; round++) {
        for (const end of ends) {
          const before = heard.length
          yield* eventually(() => heard.length >= before + perKill)
          end()
        }
      }
      const before = heard.length
      yield* eventually(() =>
        sessions.length === rounds + 1 && heard.length > before + perKill && counts.heartbeats > 0
      )

      for (const { events, id } of sessions) {
        const ofIt = heard.filter(({ of }) => of === id).map(({ s }) => s)
        assert.isAtMost(ofIt.length, events.length)
        assert.deepStrictEqual(ofIt, ofIt.map((_, at) => at + 1))
      }
      const order = heard.map(({ of }) => Number(of.split(" ")[1]))
      assert.deepStrictEqual(order, order.toSorted((one, other) => one - other))
      assert.strictEqual(counts.identified, rounds + 1)
      assert.strictEqual(counts.resumed, 3 * rounds)
    }).pipe(Effect.provide(Layer.merge(NodeWebSocketDialer.layer(), quiet))))

  it.scopedLive("a token that is refused ends it", () =>
    Effect.gen(function*() {
      const { url } = yield* gateway
      const { socket } = yield* connect(url, Redacted.make("guessed"))
      const failure = yield* Effect.flip(socket.awaitOpen)
      assert.include(failure.message, "4004")
    }).pipe(Effect.provide(Layer.merge(NodeWebSocketDialer.layer(), quiet))))
})
