/**
 * A gateway: it sends a hello, requires heartbeats, keeps a session for each client, numbers the events of a session,
 * and replays them to a client that resumes. It runs in its own process, and its faults come when it is asked for them.
 */
import { once } from "node:events"
import type { AddressInfo } from "node:net"
import { type WebSocket, WebSocketServer } from "ws"
import { op } from "../../protocols/gateway.js"
import { answerWith } from "../answering.js"

export interface Settings {
  readonly token: string
  /** In milliseconds. */
  readonly heartbeat: number
  /** How many logins a client may try within a second. */
  readonly logins: number
}

export type Fault = "close" | "reset" | "send away" | "forget" | "fall silent"

const millisPerEvent = 20

/** In milliseconds: by then a living client has answered. */
const patience = 5000

interface Session {
  readonly id: string
  readonly client: string
  readonly events: Array<string>
  socket: WebSocket | undefined
  /** The next login is answered as if the session did not exist. */
  isForgotten: boolean
}

const sessions: Array<Session> = []

/** The times of each client's logins, in milliseconds. */
const logins = new Map<string, Array<number>>()

const counts = { identified: 0, resumed: 0, invalid: 0, tooMany: 0, heartbeats: 0, asked: 0, unanswered: 0 }

let address = ""
let isCalm = false

const currentOf = (client: string): Session | undefined => sessions.findLast((session) => session.client === client)

const send = (socket: WebSocket | undefined, payload: unknown): void => {
  if (socket !== undefined && isThere(socket)) socket.send(JSON.stringify(payload))
}

/** Sockets to which nothing is sent any more, although neither side has closed them. */
const silent = new WeakSet<WebSocket>()

const isThere = (socket: WebSocket): boolean => socket.readyState === socket.OPEN && !silent.has(socket)

const dispatch = (session: Session, t: string, d: unknown): void => {
  const event = { op: op.event, s: session.events.length + 1, t, d }
  session.events.push(JSON.stringify(event))
  send(session.socket, event)
}

const logIn = (socket: WebSocket, client: string, payload: { readonly op: number; readonly d: any }): void => {
  if (payload.op === op.identify) {
    counts.identified++
    const session = { id: `${client} ${sessions.length}`, client, events: [], socket, isForgotten: false }
    sessions.push(session)
    return dispatch(session, "READY", { session_id: session.id, resume_gateway_url: `${address}/?client=${client}` })
  }
  const session = sessions.find(({ id, isForgotten }) => id === payload.d.session_id && !isForgotten)
  if (session === undefined) {
    counts.invalid++
    return send(socket, { op: op.invalidSession, d: false })
  }
  counts.resumed++
  session.socket?.terminate()
  session.socket = socket
  for (const event of session.events.slice(payload.d.seq)) socket.send(event)
  send(socket, { op: op.event, t: "RESUMED", d: { session_id: session.id } })
}

const serve = (socket: WebSocket, client: string, { heartbeat, logins: limit, token }: Settings): void => {
  socket.on("error", () => {})
  socket.on("close", () => {
    for (const session of sessions) if (session.socket === socket) session.socket = undefined
  })
  let heartbeats = 0
  const ask = setInterval(() => {
    counts.asked++
    const before = heartbeats
    send(socket, { op: op.heartbeat })
    setTimeout(() => {
      if (!isThere(socket) || heartbeats > before) return
      counts.unanswered++
      socket.close(4009)
    }, patience)
  }, 10 * heartbeat)
  socket.on("close", () => clearInterval(ask))
  socket.on("message", (data) => {
    const payload = JSON.parse(String(data))
    if (payload.op === op.heartbeat) {
      heartbeats++
      counts.heartbeats++
      return send(socket, { op: op.ack })
    }
    const times = [...logins.get(client) ?? [], performance.now()]
    logins.set(client, times)
    if (mostWithinASecond(times.slice(-limit - 1)) > limit) {
      counts.tooMany++
      return socket.close(4008)
    }
    if (payload.d.token !== token) return socket.close(4004)
    return logIn(socket, client, payload)
  })
  send(socket, { op: op.hello, d: { heartbeat_interval: heartbeat } })
}

const mostWithinASecond = (times: ReadonlyArray<number>): number =>
  Math.max(0, ...times.map((time, at) => at + 1 - times.findIndex((other) => other > time - 1000)))

const strike = ({ client, fault }: { readonly client: string; readonly fault: Fault }): boolean => {
  const session = currentOf(client)
  const socket = session?.socket
  if (session === undefined || socket === undefined || !isThere(socket)) return false
  switch (fault) {
    case "close":
      socket.close(4000)
      break
    case "reset":
      socket.terminate()
      break
    case "send away":
      send(socket, { op: op.reconnect })
      break
    case "fall silent":
      silent.add(socket)
      break
    case "forget":
      session.isForgotten = true
      socket.terminate()
  }
  return true
}

const questions = answerWith({
  /** Gives the port. */
  listen: async (settings: Settings): Promise<number> => {
    const server = new WebSocketServer({ port: 0, host: "127.0.0.1" })
    server.on("connection", (socket, request) => {
      serve(socket, new URL(request.url!, "http://gateway").searchParams.get("client")!, settings)
    })
    await once(server, "listening")
    setInterval(() => {
      for (const client of isCalm ? [] : logins.keys()) {
        const session = currentOf(client)
        if (session !== undefined && !session.isForgotten) dispatch(session, "MESSAGE", { of: session.id })
      }
    }, millisPerEvent)
    return (server.address() as AddressInfo).port
  },
  /** The address for clients. */
  publish: (url: string): void => {
    address = url
  },
  /** Applies a fault to the client's open connections, and says whether there were any. */
  strike,
  /** From now on there are no new events. */
  calm: (): void => {
    isCalm = true
  },
  /** `mostLogins`: of one client within a second. */
  report: () => ({
    ...counts,
    mostLogins: Math.max(0, ...[...logins.values()].map(mostWithinASecond)),
    sessions: sessions.map(({ client, events, id, isForgotten }) => ({
      id,
      client,
      published: events.length,
      isForgotten: isForgotten || currentOf(client)!.id !== id
    }))
  })
})

export type Gateway = typeof questions
